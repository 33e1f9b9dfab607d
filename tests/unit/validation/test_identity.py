# SPDX-License-Identifier: Apache-2.0
"""Tier 1: the driver answers, is one version throughout, and shows the GPUs of before."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricated_hosts as f
import identity
import pytest
from observations import (
    BUSES,
    TABLE,
    VERSION,
    bare,
    consumer,
    context,
    facts_of,
    gpu,
    h100_facts,
    observation,
    one,
    verdicts,
)

Change = Callable[[Any], Any]


def judged(name: str, change: Change = lambda c: None, **changes: Any) -> dict[str, Any]:
    """Return one check of the server with eight H100 after a change of what is known about it."""
    c = context(**changes)
    change(c)
    return one(identity.checks(c), name)


def nvml(**changes: Any) -> Change:
    return lambda c: c.observation["nvml"].update(changes)


def smi(**changes: Any) -> Change:
    return lambda c: c.observation["smi"].update(changes)


def driver(**changes: Any) -> Change:
    return lambda c: c.facts["driver"].update(changes)


def error(code: int | None, name: str, message: str = "") -> Change:
    return nvml(error={"code": code, "name": name, "message": message}, gpus=[], driver_version=None)


def known(**changes: Any) -> dict[str, Any]:
    """Return what was remembered of the eight GPUs, the first of them changed."""
    rows = [{key: gpu(index)[key] for key in ("bdf", "uuid", "name", "vbios")} for index in range(8)]
    rows[0].update(changes)
    return {"gpus": rows}


def test_a_host_that_is_well_passes_everything() -> None:
    c = context(known=known())
    checks = identity.checks(c)
    assert verdicts(checks) == {"cuda.toolkit": "SKIP NOT_REQUESTED"}
    assert [(row["id"], row["target"]) for row in checks] == identity.required(c)
    assert {row["tier"] for row in checks} == {1}


def test_the_gates_of_tier_1_behave() -> None:
    assert set(identity.self_test(TABLE).values()) == {True}


def test_in_the_profile_cpu_nothing_is_asked_of_a_driver() -> None:
    assert identity.checks(bare()) == []
    assert identity.required(bare()) == []


def test_what_nobody_observed_is_never_a_pass() -> None:
    c = context(observation=None)
    c.facts = {"gpus": []}
    checks = identity.checks(c)
    assert set(verdicts(checks)) == {row["id"] for row in checks}
    assert {row["status"] for row in checks} <= {"UNKNOWN", "SKIP"}


@pytest.mark.parametrize("broken", [None, [], {}, "ERR!", 7, float("nan")], ids=repr)
@pytest.mark.parametrize("part", ["nvml", "smi", "nvml.gpus", "smi.gpus", "nvml.gpus.0", "driver", "known"])
def test_malformed_answers_never_break_the_judging(part: str, broken: Any) -> None:
    c = context(known=known(), expected={"cuda_toolkits": ["12.9.1"]})
    first, *rest = part.split(".")
    if first == "driver":
        c.facts["driver"] = broken
    elif first == "known":
        c.known = broken
    elif not rest:
        c.observation[first] = broken
    elif rest == ["gpus"]:
        c.observation[first]["gpus"] = broken
    else:
        c.observation[first]["gpus"][0] = broken
    checks = identity.checks(c)
    assert [(row["id"], row["target"]) for row in checks] == identity.required(c)
    json.dumps(checks)
    if first in ("nvml", "smi"):
        assert one(checks, "smi.agrees")["status"] != "PASS"


@pytest.mark.parametrize("key", sorted(gpu()))
@pytest.mark.parametrize("broken", [None, [], {}, "ERR!", float("nan")], ids=repr)
def test_malformed_values_of_a_gpu_never_break_the_judging(key: str, broken: Any) -> None:
    c = context(known=known())
    c.observation["nvml"]["gpus"][0][key] = broken
    assert [(row["id"], row["target"]) for row in identity.checks(c)] == identity.required(c)


# --- the driver ------------------------------------------------------------------------------------------------------


def test_a_gpu_without_a_driver_is_a_failure(tmp_path: Path) -> None:
    c = context(facts=facts_of(tmp_path, f.rtx_5090), observation=observation())
    error(12, "LIBRARY_NOT_FOUND")(c)
    c.observation["smi"] = None
    checks = identity.checks(c)
    row = one(checks, "drv.loaded")
    assert (row["status"], row["reason_code"]) == ("FAIL", "DRIVER_MISSING")
    row = one(checks, "drv.answers")
    assert (row["status"], row["reason_code"]) == ("FAIL", "NVML_LIBRARY_NOT_FOUND")
    assert one(checks, "smi.bounded")["reason_code"] == "TOOL_MISSING"
    assert "PASS" not in {row["status"] for row in checks}


def test_a_driver_that_is_installed_and_not_loaded_is_a_failure() -> None:
    row = judged("drv.loaded", driver(loaded_version=None, reason="the kernel module nvidia is not loaded"))
    assert (row["status"], row["reason_code"]) == ("FAIL", "DRIVER_NOT_LOADED")
    assert f"driver {VERSION} is not loaded (the kernel module nvidia is not loaded)" in row["message"]


@pytest.mark.parametrize(
    ("change", "code", "action"),
    [
        (error(18, "LIB_RM_VERSION_MISMATCH"), "NVML_LIB_RM_VERSION_MISMATCH", "reboot"),
        (error(9, "DRIVER_NOT_LOADED"), "NVML_DRIVER_NOT_LOADED", "none"),
        (error(15, "GPU_IS_LOST"), "NVML_GPU_IS_LOST", "reboot"),
        (error(16, "RESET_REQUIRED"), "NVML_RESET_REQUIRED", "reset_gpu"),
        (error(999, "UNKNOWN"), "NVML_UNKNOWN", "none"),
        (error(4711, "NEW_WORD", "something new"), "NVML_NEW_WORD", "none"),
        (nvml(outcome="abandoned", stuck="nvmlInit"), "TIMEOUT", "reboot"),
        (nvml(outcome="timeout", gpus=None), "TIMEOUT", "reboot"),
        (nvml(outcome="crashed", gpus=None), "CRASHED", "none"),
        (nvml(gpus=[]), "NO_GPU", "none"),
    ],
)
def test_a_driver_that_does_not_answer_is_a_failure(change: Change, code: str, action: str) -> None:
    row = judged("drv.answers", change)
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", code, action)


def test_a_probe_that_could_not_ask_is_unknown_and_no_word_about_the_driver() -> None:
    assert judged("drv.answers", error(None, "BINDING_MISSING"))["status"] == "UNKNOWN"
    assert judged("drv.answers", nvml(outcome="not_started"))["status"] == "UNKNOWN"


def test_a_driver_upgraded_under_the_loaded_module_wants_a_reboot(tmp_path: Path) -> None:
    c = context(facts=facts_of(tmp_path, f.mismatch))
    error(18, "LIB_RM_VERSION_MISMATCH")(c)
    row = one(identity.checks(c), "drv.match")
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "MISMATCH", "reboot")
    assert "570.86.15" in row["message"]
    assert "580.126.09" in row["message"]


def test_a_mismatch_is_seen_without_asking_the_driver() -> None:
    row = judged("drv.match", driver(loaded_version="570.86.15", mismatch="a sentence"), observation=None)
    assert (row["status"], row["action"]) == ("FAIL", "reboot")


def test_a_mismatch_that_only_nvml_tells_of_wants_a_reboot() -> None:
    row = judged("drv.match", error(18, "LIB_RM_VERSION_MISMATCH"))
    assert (row["status"], row["action"]) == ("FAIL", "reboot")
    assert "NVML says" in row["message"]


def test_a_driver_that_does_not_answer_has_lost_no_gpu() -> None:
    assert judged("gpu.uuid", error(9, "DRIVER_NOT_LOADED"))["status"] == "UNKNOWN"
    assert judged("gpu.uuid", nvml(gpus=[]))["reason_code"] == "GPU_MISSING"


def test_a_mismatch_that_a_reboot_would_not_mend_wants_none() -> None:
    def change(c: Any) -> None:
        c.facts["driver"].update(loaded_version="570.86.15", mismatch="a sentence")
        c.facts["driver"]["modules"][c.facts["kernel"]]["version"] = "570.86.15"

    row = judged("drv.match", change)
    assert (row["status"], row["action"]) == ("FAIL", "none")
    assert "install the driver anew" in row["message"]


def test_packages_of_another_version_than_module_and_library_are_a_failure() -> None:
    assert judged("drv.match", driver(mismatch="the packages are 570.86.15"))["reason_code"] == "MISMATCH"


def test_another_library_that_is_found_first_is_a_failure() -> None:
    assert judged("drv.match", nvml(driver_version="570.86.15"))["reason_code"] == "MISMATCH"


def test_a_loaded_module_without_a_library_is_a_failure(tmp_path: Path) -> None:
    c = context(facts=facts_of(tmp_path, f.driver_loaded_without_library))
    error(12, "LIBRARY_NOT_FOUND")(c)
    assert one(identity.checks(c), "drv.match")["reason_code"] == "LIBRARY_MISSING"


@pytest.mark.parametrize(
    "planned",
    [{"version": "580.95.05"}, {"kernel_module": "proprietary"}, {"version": None}],
    ids=["version", "flavour", "no version"],
)
def test_a_driver_that_is_not_the_planned_one_is_a_failure(planned: dict[str, Any]) -> None:
    plan = {"version": VERSION, "kernel_module": "open", "source": "nvidia_repo", **planned}
    assert judged("drv.match", expected={"driver": plan})["reason_code"] == "NOT_AS_PLANNED"


def test_where_the_archive_decides_the_version_what_was_noted_counts() -> None:
    plan = {"version": "580.95.05", "kernel_module": "open", "source": "distro", "exact": False}
    assert judged("drv.match", expected={"driver": plan})["status"] == "PASS"
    assert judged("drv.match", lambda c: c.facts.update(state=None), expected={"driver": plan})["status"] == "FAIL"


def test_a_driver_that_was_there_before_is_compared_with_itself_alone() -> None:
    plan = {"version": "570.86.15", "kernel_module": None, "source": "preinstalled"}
    for value in (plan, None):
        assert judged("drv.match", expected={"driver": value})["status"] == "PASS"
        assert judged("drv.hold", expected={"driver": value})["status"] == "SKIP"


def test_a_module_of_another_version_for_the_next_kernel_is_told() -> None:
    def change(c: Any) -> None:
        c.facts["kernels"][0]["next_boot"] = False
        c.facts["kernels"].append({"release": "6.9", "running": False, "next_boot": True, "headers": True})
        c.facts["driver"]["modules"]["6.9"] = {"version": "570.86.15"}

    assert judged("drv.match", change)["reason_code"] == "NEXT_BOOT"


def test_a_next_kernel_without_a_module_is_a_failure_that_says_how_far_the_build_came(tmp_path: Path) -> None:
    def host(root: Path) -> None:
        f.h100_hgx(root)
        f.kernel(root, "6.8.0-99-generic")

    facts = facts_of(tmp_path, host)
    row = one(identity.checks(context(facts=facts)), "drv.match")
    assert (row["status"], row["reason_code"]) == ("FAIL", "MODULE_MISSING")
    assert "dkms autoinstall -k 6.8.0-99-generic" in row["message"]
    facts["driver"]["dkms"].append({"module": "nvidia", "kernel": "6.8.0-99-generic", "state": "added"})
    assert "DKMS has it added" in one(identity.checks(context(facts=facts)), "drv.match")["message"]
    facts["container"] = "docker"
    assert one(identity.checks(context(facts=facts)), "drv.match")["status"] == "PASS"


def test_held_packages_stay_held() -> None:
    plan = {"version": VERSION, "kernel_module": "open", "source": "nvidia_repo"}
    by_pattern = {"driver": {**plan, "hold": ["nvidia-open*", "libnvidia-compute*"]}}
    assert judged("drv.hold", expected=by_pattern)["status"] == "PASS"
    row = judged("drv.hold", driver(held=["nvidia-open"]), expected=by_pattern)
    assert (row["status"], row["reason_code"]) == ("FAIL", "NOT_HELD")
    assert "libnvidia-compute" in row["message"]
    assert judged("drv.hold", driver(held=[]), expected={"driver": {**plan, "hold": []}})["status"] == "SKIP"


def test_packages_that_were_held_in_the_last_run_and_are_free_now_are_a_failure_until_mended() -> None:
    c = context()
    first = identity.checks(c)
    c.previous = {"checks": copy.deepcopy(first)}
    c.facts["driver"]["held"] = ["nvidia-open"]
    second = identity.checks(c)
    assert one(second, "drv.hold")["status"] == "FAIL"
    c.previous = {"checks": second}
    assert one(identity.checks(c), "drv.hold")["status"] == "FAIL"


def test_a_driver_that_nothing_keeps_is_a_warning_and_an_unreadable_list_unknown() -> None:
    row = judged("drv.hold", driver(held=[]))
    assert row["status"] == "WARN"
    assert "unattended" not in row["message"]

    def change(c: Any) -> None:
        c.facts["driver"]["held"] = []
        c.facts["package_manager"]["our_blacklist"] = False

    assert "unattended upgrades are on" in judged("drv.hold", change)["message"]
    assert judged("drv.hold", driver(held=None))["status"] == "UNKNOWN"
    assert judged("drv.hold", driver(packages={}))["status"] == "UNKNOWN"


# --- nvidia-smi ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status", "code", "action"),
    [
        ({"seconds": 45.0}, "WARN", "SLOW", "none"),
        ({"seconds": 61.0}, "FAIL", "TIMEOUT", "none"),
        ({"outcome": "timeout", "seconds": 60.0}, "FAIL", "TIMEOUT", "reboot"),
        ({"outcome": "abandoned", "seconds": 62.0}, "FAIL", "TIMEOUT", "reboot"),
        ({"outcome": "not_started"}, "UNKNOWN", "NOT_STARTED", "none"),
        ({"seconds": float("nan")}, "UNKNOWN", "NOT_STARTED", "none"),
        ({"seconds": None}, "UNKNOWN", "NOT_STARTED", "none"),
    ],
)
def test_how_long_nvidia_smi_may_take(change: dict[str, Any], status: str, code: str, action: str) -> None:
    row = judged("smi.bounded", smi(**change))
    assert (row["status"], row["reason_code"], row["action"]) == (status, code, action)


def test_without_nvidia_smi_nothing_of_it_passes() -> None:
    c = context()
    c.observation["smi"] = None
    checks = identity.checks(c)
    for name in ("smi.bounded", "smi.sane", "smi.agrees"):
        row = one(checks, name)
        assert (row["status"], row["required"]) == ("UNKNOWN", True)


@pytest.mark.parametrize(
    ("change", "status", "code", "action"),
    [
        ({"suspicious": ["gpu 0000:1b:00.0: fb_memory_usage.used is ERR!"]}, "FAIL", "SUSPICIOUS", "none"),
        ({"suspicious": ["gpu 0000:1b:00.0: GPU requires reset"]}, "FAIL", "SUSPICIOUS", "reset_gpu"),
        ({"suspicious": ["GPU is lost. Reboot the system"]}, "FAIL", "SUSPICIOUS", "reboot"),
        ({"suspicious": None}, "UNKNOWN", "PARSE", "none"),
        ({"code": 18, "problem": "no XML", "gpus": []}, "FAIL", "SMI_18", "reboot"),
        ({"code": 15, "problem": "no XML", "gpus": []}, "FAIL", "SMI_15", "reboot"),
        ({"code": 255, "problem": "no XML", "gpus": []}, "FAIL", "SMI_255", "none"),
        ({"code": None, "outcome": "timeout", "gpus": []}, "UNKNOWN", "TIMEOUT", "none"),
        ({"problem": "the XML ends early"}, "UNKNOWN", "PARSE", "none"),
        ({"gpus": []}, "UNKNOWN", "PARSE", "none"),
        ({"gpus": None}, "UNKNOWN", "PARSE", "none"),
        ({"driver_version": None}, "UNKNOWN", "PARSE", "none"),
        ({"declared": 9}, "UNKNOWN", "PARSE", "none"),
    ],
)
def test_what_nvidia_smi_may_not_report(change: dict[str, Any], status: str, code: str, action: str) -> None:
    row = judged("smi.sane", smi(**change))
    assert (row["status"], row["reason_code"], row["action"]) == (status, code, action)


def test_nvidia_smi_and_nvml_must_tell_the_same() -> None:
    def other(**changes: Any) -> Change:
        return lambda c: c.observation["smi"]["gpus"][2].update(changes)

    changes = (
        other(uuid="GPU-x"),
        other(uuid=None),
        other(name="NVIDIA A100"),
        other(bdf="0000:f0:00.0"),
        other(vbios="1"),
        smi(driver_version="570.86.15"),
    )
    for change in changes:
        assert judged("smi.agrees", change)["reason_code"] == "DISAGREE"
    assert judged("smi.agrees", other(vbios=None))["status"] == "PASS"

    def neither(c: Any) -> None:
        c.observation["nvml"]["driver_version"] = c.observation["smi"]["driver_version"] = None

    assert judged("smi.agrees", neither)["status"] == "UNKNOWN"
    assert judged("smi.agrees", error(999, "UNKNOWN"))["status"] == "UNKNOWN"


# --- the GPUs --------------------------------------------------------------------------------------------------------


def without(index: int) -> Change:
    def change(c: Any) -> None:
        for source in ("nvml", "smi"):
            del c.observation[source]["gpus"][index]

    return change


def test_a_gpu_of_the_bus_that_the_driver_does_not_show_is_a_failure() -> None:
    row = judged("gpu.uuid", without(2))
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "GPU_MISSING", "reboot")
    assert "7 of 8" in row["message"]
    assert "0000:52:00.0" in row["message"]


def test_a_gpu_that_fell_off_the_bus_is_a_failure() -> None:
    row = judged("gpu.uuid", lambda c: c.observation["nvml"]["gpus"][2].update(lost=True, uuid=None))
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "GPU_LOST", "reboot")
    assert "1 GPU lost" in row["message"]


def test_a_gpu_of_the_last_good_run_that_left_without_a_trace_is_a_failure() -> None:
    def change(c: Any) -> None:  # gone from the bus too, and the host was planned again without it
        without(2)(c)
        del c.facts["gpus"][2]

    row = judged("gpu.uuid", change, known=known())
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "GPU_MISSING", "reboot")
    assert gpu(2)["uuid"] in row["message"]
    row = judged("gpu.uuid", change, known=known(), expected={"accept_hardware": True})
    assert row["status"] == "PASS"
    assert "acknowledged" in row["message"]


@pytest.mark.parametrize(
    "before",
    [{"uuid": "GPU-of-before"}, {"vbios": "96.00.10.00.01"}, {"name": "NVIDIA H100 PCIe"}, {"bdf": "0000:aa:00.0"}],
    ids=["uuid", "vbios", "name", "place"],
)
def test_other_hardware_than_in_the_last_good_run_must_be_acknowledged(before: dict[str, Any]) -> None:
    row = judged("gpu.uuid", known=known(**before))
    assert (row["status"], row["reason_code"]) == ("WARN", "HARDWARE_CHANGED")
    assert judged("gpu.uuid", known=known(**before), expected={"accept_hardware": True})["status"] == "PASS"


def test_a_gpu_more_than_in_the_last_good_run_must_be_acknowledged() -> None:
    before = known()
    del before["gpus"][7]
    assert judged("gpu.uuid", known=before)["reason_code"] == "HARDWARE_CHANGED"


def test_mixed_models_are_grouped_and_told() -> None:
    mixed = observation(*[gpu(index) if index % 2 else consumer(index) for index in range(8)])
    row = judged("gpu.uuid", observation=mixed)
    assert row["status"] == "PASS"
    assert row["measured"]["models"] == {"NVIDIA GeForce RTX 4090": 4, "NVIDIA H100 80GB HBM3": 4}
    assert "4 x NVIDIA GeForce RTX 4090" in row["message"]


def test_one_model_with_two_vbios_is_a_warning() -> None:
    row = judged("gpu.uuid", lambda c: c.observation["nvml"]["gpus"][4].update(vbios="96.00.10.00.01"))
    assert (row["status"], row["reason_code"]) == ("WARN", "MIXED_VBIOS")


@pytest.mark.parametrize("key", ["uuid", "bdf"])
def test_two_gpus_that_are_one_are_a_failure(key: str) -> None:
    def change(c: Any) -> None:
        c.observation["nvml"]["gpus"].append({**gpu(7), "bdf": "0000:f0:00.0", "uuid": "GPU-8", key: gpu(7)[key]})

    assert judged("gpu.uuid", change)["reason_code"] == "DUPLICATE"


@pytest.mark.parametrize("uuid", [None, "", "ERR!", 7], ids=repr)
def test_a_gpu_without_a_uuid_is_unknown(uuid: Any) -> None:
    row = judged("gpu.uuid", lambda c: c.observation["nvml"]["gpus"][0].update(uuid=uuid))
    assert row["status"] == "UNKNOWN"


def test_gpus_that_another_driver_has_are_told_and_not_missed() -> None:
    def change(c: Any) -> None:
        without(7)(c)
        c.facts["gpus"][7]["driver"] = "vfio-pci"

    row = judged("gpu.uuid", change)
    assert (row["status"], row["reason_code"]) == ("WARN", "BOUND_ELSEWHERE")
    assert "vfio-pci" in row["message"]


def test_in_wsl_the_gpus_that_the_driver_shows_are_those_to_judge() -> None:
    facts = {**h100_facts(), "container": "wsl", "gpus": [], "nvswitches": []}
    c = context(facts=facts, observation=observation(consumer(0)))
    assert identity.targets(c) == [("0000:1b:00.0", consumer(0)["uuid"])]
    assert one(identity.checks(c), "gpu.uuid")["status"] == "PASS"
    c.observation = None
    assert identity.targets(c) == [(None, "host")]


def test_a_container_misses_only_what_was_given_to_it() -> None:
    c = context(facts={**h100_facts(), "container": "docker"}, observation=observation(gpu(0)))
    row = one(identity.checks(c), "gpu.uuid")
    assert row["status"] == "PASS"
    assert "1 of 8" in row["message"]
    assert identity.targets(c) == [("0000:1b:00.0", gpu(0)["uuid"])]


def test_every_gpu_of_bus_and_driver_has_a_target() -> None:
    c = context(known=known())
    assert identity.targets(c) == [(f"0000:{bus}:00.0", gpu(index)["uuid"]) for index, bus in enumerate(BUSES)]
    without(2)(c)
    assert identity.targets(c)[2] == ("0000:52:00.0", gpu(2)["uuid"])  # as it was called before
    c.known = None
    assert identity.targets(c)[2] == ("0000:52:00.0", "0000:52:00.0")
    c.facts["gpus"], c.observation = [], None
    assert identity.targets(c) == [(None, "host")]


def test_what_is_remembered_of_a_host_that_is_well() -> None:
    assert identity.inventory(context()) == known()["gpus"]
    assert identity.inventory(context(observation=None)) == []


def test_hostile_names_stay_one_line_of_text() -> None:
    name = 'H100 "\n</script>\u202e\x00'
    c = context(observation=observation(gpu(0, name=name)), known=known(name=name))
    c.facts["gpus"] = c.facts["gpus"][:1]
    c.observation["smi"]["gpus"][0]["name"] = "other"
    for row in identity.checks(c):
        assert not any(character in row["message"] for character in "\n\x00\u202e")


# --- CUDA ------------------------------------------------------------------------------------------------------------


def kit(version: str = "12.9.1", **changes: Any) -> dict[str, Any]:
    return {
        "version": version,
        "path": "/usr/local/cuda-12.9",
        "real": "/opt/gpulab/toolkits/a",
        "nvcc": True,
        **changes,
    }


def toolkit(*kits: dict[str, Any], wanted: Any = "12.9.1", able: Any = 13000, **facts: Any) -> dict[str, Any]:
    def change(c: Any) -> None:
        c.facts.update({"cuda": list(kits), **facts})
        c.observation["nvml"]["cuda_driver_version"] = able

    return judged("cuda.toolkit", change, expected={"cuda_toolkits": [wanted]})


def test_a_planned_toolkit_that_is_there_passes() -> None:
    assert toolkit(kit())["status"] == "PASS"
    assert toolkit(kit(), able=12000)["status"] == "PASS"  # drivers of one major version serve all of its toolkits


def test_toolkits_that_fail() -> None:
    assert toolkit()["reason_code"] == "TOOLKIT_MISSING"
    assert toolkit(kit("12.8.1"))["reason_code"] == "TOOLKIT_MISSING"
    assert toolkit(kit(nvcc=False))["reason_code"] == "TOOLKIT_DAMAGED"
    row = {"path": "/opt/gpulab/toolkits/a", "state": "complete", "damaged": ["lib/libcudart.so.12"]}
    assert toolkit(kit(), toolkit_store=[row])["reason_code"] == "TOOLKIT_DAMAGED"
    assert (
        toolkit(kit(), toolkit_store=[{**row, "state": "half-made", "damaged": []}])["reason_code"] == "TOOLKIT_DAMAGED"
    )
    assert toolkit(kit(), able=11080)["reason_code"] == "DRIVER_TOO_OLD"
    demanding = {"version": "12.9.1", "cuda_driver_min": 13020}
    assert toolkit(kit(), wanted=demanding)["reason_code"] == "DRIVER_TOO_OLD"
    row = toolkit(kit(), cuda=None)
    assert (row["status"], row["reason_code"]) == ("UNKNOWN", "NOT_READABLE")


@pytest.mark.parametrize("able", [None, 0, -1, "13000", True, float("nan")], ids=repr)
def test_a_driver_that_does_not_say_what_it_can_do_is_unknown(able: Any) -> None:
    assert toolkit(kit(), able=able)["status"] == "UNKNOWN"


def test_without_a_planned_toolkit_none_is_missed() -> None:
    row = judged("cuda.toolkit")
    assert (row["status"], row["reason_code"], row["required"]) == ("SKIP", "NOT_REQUESTED", False)
