# SPDX-License-Identifier: Apache-2.0
"""Tier 0: what is said of a host before its driver is asked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fabricated_hosts as f
import preflight
import pytest
from observations import MIB, TABLE, bare, consumer, context, facts_of, gpu, h100_facts, observation, one


def judged(identity: str, **changes: Any) -> dict[str, Any]:
    """Return one check of the server with eight H100, with these facts instead of its own."""
    return one(preflight.checks(context(facts={**h100_facts(), **changes})), identity)


def test_a_host_that_is_well_passes_everything() -> None:
    c = context()
    checks = preflight.checks(c)
    assert {row["status"] for row in checks} == {"PASS"}, [row for row in checks if row["status"] != "PASS"]
    assert [(row["id"], row["target"]) for row in checks] == preflight.required(c)
    assert {row["tier"] for row in checks} == {0}


def test_the_gates_of_tier_0_behave() -> None:
    assert set(preflight.self_test(TABLE).values()) == {True}


def test_facts_that_say_nothing_are_never_a_pass() -> None:
    c = context()
    c.facts = {}
    checks = preflight.checks(c)
    assert {row["status"] for row in checks} == {"UNKNOWN"}, [row for row in checks if row["status"] != "UNKNOWN"]


@pytest.mark.parametrize("key", sorted(h100_facts()))
@pytest.mark.parametrize("broken", [None, [], {}, "ERR!", 7, float("nan")], ids=repr)
def test_malformed_facts_never_break_the_judging(key: str, broken: Any) -> None:
    c = context()
    c.facts[key] = broken
    checks = preflight.checks(c)
    assert [(row["id"], row["target"]) for row in checks] == preflight.required(c)


# --- the bus ---------------------------------------------------------------------------------------------------------


def test_seven_of_eight_gpus_on_the_bus_are_a_failure() -> None:
    c = context()
    c.facts["gpus"] = c.facts["gpus"][1:]
    row = one(preflight.checks(c), "pci.inventory")
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "GPU_MISSING", "reboot")
    assert "7 of 8" in row["message"]
    assert "0000:1b:00.0 (H100 SXM5 80GB)" in row["message"]


def test_a_ninth_gpu_is_a_failure_until_the_host_is_planned_again() -> None:
    c = context()
    c.facts["gpus"] = [*c.facts["gpus"], {**c.facts["gpus"][0], "bus": "0000:f0:00.0"}]
    row = one(preflight.checks(c), "pci.inventory")
    assert (row["status"], row["reason_code"]) == ("FAIL", "GPU_ADDED")
    c.expected["accept_hardware"] = True
    assert one(preflight.checks(c), "pci.inventory")["status"] == "WARN"


def test_fewer_gpus_than_declared_may_be_acknowledged() -> None:
    changes = {"declared_gpus": ["H100"] * 9, "accept_hardware": True}
    assert one(preflight.checks(context(expected=changes)), "pci.inventory")["status"] == "WARN"


def test_another_model_in_the_same_slot_is_a_failure_until_it_is_acknowledged() -> None:
    c = context()
    c.facts["gpus"][3] = {**c.facts["gpus"][3], "device": "0x2204"}
    row = one(preflight.checks(c), "pci.inventory")
    assert (row["status"], row["reason_code"]) == ("FAIL", "GPU_CHANGED")
    c.settings["accept_hardware"] = True
    assert one(preflight.checks(c), "pci.inventory")["status"] == "WARN"


def test_the_inventory_declares_a_gpu_that_the_bus_does_not_show() -> None:
    for profile in ("cpu", "gpu"):
        c = bare(expected={"declared_gpus": ["H100 SXM5 80GB"]})
        c.profile = profile
        row = one(preflight.checks(c), "pci.inventory")
        assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "GPU_MISSING", "reboot")


def test_what_the_inventory_declares_is_compared_by_number_and_by_name() -> None:
    declared = ["h100  sxm5", "H100 SXM5 80GB", "H100", "10de:2330"] * 2
    assert one(preflight.checks(context(expected={"declared_gpus": declared})), "pci.inventory")["status"] == "PASS"
    row = one(preflight.checks(context(expected={"declared_gpus": ["A100 SXM4 80GB"] * 8})), "pci.inventory")
    assert (row["status"], row["reason_code"]) == ("WARN", "DECLARED_OTHER")
    row = one(preflight.checks(context(expected={"declared_gpus": declared[:7]})), "pci.inventory")
    assert (row["status"], row["reason_code"]) == ("FAIL", "GPU_ADDED")


def wsl(*gpus: dict[str, Any], **expected: Any) -> Any:
    """Return a Linux in Windows, whose bus shows no GPU; without GPUs the driver was not asked yet."""
    facts = {**h100_facts(), "container": "wsl", "gpus": [], "nvswitches": []}
    return context(facts=facts, observation=observation(*gpus) if gpus else None, expected=expected)


def test_in_wsl_the_driver_shows_what_the_bus_does_not() -> None:
    before, after = wsl(), wsl(consumer(0), declared_gpus=["RTX 4090"])
    for name, again in (
        ("host.gpu_evidence", preflight.judge_evidence),
        ("pci.inventory", preflight.judge_inventory),
    ):
        row = one(preflight.checks(before), name)
        assert (row["status"], row["reason_code"]) == ("UNKNOWN", "NOT_OBSERVED")
        row = again(after)
        assert (row["id"], row["target"], row["tier"], row["status"]) == (name, "host", 0, "PASS")
    assert preflight.judge_evidence(after)["measured"] == {"nvidia_gpus": ["0000:1b:00.0"]}
    after.observation["nvml"]["gpus"] = []
    assert (preflight.judge_evidence(after)["status"], preflight.judge_inventory(after)["status"]) == ("FAIL", "FAIL")
    after.observation["nvml"]["gpus"] = None
    assert preflight.judge_evidence(after)["status"] == "UNKNOWN"


def test_in_wsl_the_drivers_gpus_are_compared_with_plan_inventory_and_the_last_good_run() -> None:
    both = wsl(consumer(0), consumer(1), declared_gpus=["RTX 4090"])
    assert preflight.judge_inventory(both)["reason_code"] == "GPU_ADDED"
    plan = [{"bus": f"0000:{bus}:00.0", "device": "0x2684"} for bus in ("1b", "43")]
    assert preflight.judge_inventory(wsl(consumer(0), consumer(1), gpus=plan))["status"] == "PASS"
    assert preflight.judge_inventory(wsl(consumer(0), gpus=plan))["reason_code"] == "GPU_MISSING"
    one_gpu = wsl(consumer(0))
    assert preflight.judge_inventory(one_gpu)["reason_code"] == "NO_INVENTORY"
    one_gpu.known = {"gpus": [{"bdf": "0000:1b:00.0"}, {"bdf": "0000:43:00.0"}]}
    assert preflight.judge_inventory(one_gpu)["reason_code"] == "GPU_MISSING"


def test_outside_wsl_the_driver_is_no_evidence_for_a_bus_that_shows_nothing() -> None:
    c = context()
    c.facts["gpus"] = []
    assert preflight.judge_evidence(c)["reason_code"] == "NO_GPU"
    assert preflight.judge_inventory(c)["status"] == "FAIL"


def test_without_plan_and_inventory_the_last_good_run_is_compared_with() -> None:
    known = {"gpus": [{"bdf": row["bus"], "uuid": "GPU-1", "name": "H100"} for row in h100_facts()["gpus"]]}
    c = context(expected={"gpus": None}, known=known)
    assert one(preflight.checks(c), "pci.inventory")["status"] == "PASS"
    c.facts["gpus"] = c.facts["gpus"][:7]
    assert one(preflight.checks(c), "pci.inventory")["status"] == "FAIL"
    row = one(preflight.checks(context(expected={"gpus": None})), "pci.inventory")
    assert (row["status"], row["reason_code"]) == ("WARN", "NO_INVENTORY")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_bus_that_cannot_be_read_is_unknown(profile: str) -> None:
    facts = {"gpus": None, "unknown": {"gpus": "/sys/bus/pci/devices: Permission denied"}}
    row = one(preflight.checks(bare(facts=facts, expected={"gpus": None})), "host.gpu_evidence")
    assert (row["status"], row["reason_code"]) == ("UNKNOWN", "PCI_UNREADABLE")
    assert "Permission denied" in row["message"]


def test_no_gpu_in_the_profile_gpu_is_a_failure_that_names_what_is_there(tmp_path: Path) -> None:
    c = context(facts=facts_of(tmp_path, f.amd_only))
    row = one(preflight.checks(c), "host.gpu_evidence")
    assert (row["status"], row["reason_code"]) == ("FAIL", "NO_GPU")
    assert "AMD" in row["message"]


def test_a_kernel_without_a_pci_bus_is_evidence_of_no_gpu(tmp_path: Path) -> None:
    c = bare(facts=facts_of(tmp_path, f.no_pci))
    assert one(preflight.checks(c), "host.gpu_evidence")["status"] == "PASS"


# --- the profile cpu -------------------------------------------------------------------------------------------------


def test_in_the_profile_cpu_only_what_matters_there_is_judged() -> None:
    c = bare()
    checks = preflight.checks(c)
    names = ["host.gpu_evidence", "os.disk", "os.pkgmgr", "os.pending_reboot"]
    assert [row["id"] for row in checks] == names
    assert [pair[0] for pair in preflight.required(c)] == names
    assert {row["status"] for row in checks} == {"PASS"}


def test_a_gpu_that_the_profile_cpu_leaves_alone_is_told() -> None:
    row = one(preflight.checks(context(profile="cpu")), "host.gpu_evidence")
    assert (row["status"], row["reason_code"]) == ("WARN", "GPU_PRESENT")
    assert "nothing is claimed about it" in row["message"]


def test_in_the_profile_cpu_the_system_is_no_more_than_a_warning() -> None:
    manager = {"kind": "apt", "broken": ["libc6"], "lock": None}
    c = bare(facts={"disk": {}, "package_manager": manager, "reboot": None})
    rows = {row["id"]: row["status"] for row in preflight.checks(c)}
    assert rows == {
        "host.gpu_evidence": "PASS",
        "os.disk": "WARN",
        "os.pkgmgr": "WARN",
        "os.pending_reboot": "WARN",
    }


# --- the kernel ------------------------------------------------------------------------------------------------------


def test_headers_and_module_missing_for_the_next_kernel_are_a_failure(tmp_path: Path) -> None:
    def host(root: Path) -> None:
        f.h100_hgx(root)
        f.kernel(root, "6.8.0-99-generic", headers=False)

    row = one(preflight.checks(context(facts=facts_of(tmp_path, host))), "os.kernel_headers")
    assert (row["status"], row["reason_code"]) == ("FAIL", "HEADERS_MISSING")
    assert "6.8.0-99-generic" in row["message"]


def test_headers_missing_before_the_driver_is_installed_are_a_failure(tmp_path: Path) -> None:
    def host(root: Path) -> None:
        f.rtx_5090(root)
        release = f.SYSTEMS["ubuntu2404"][0]
        (root / f"usr/src/linux-headers-{release}/Makefile").unlink()

    row = one(preflight.checks(context(facts=facts_of(tmp_path, host))), "os.kernel_headers")
    assert row["status"] == "FAIL"


def test_headers_missing_beside_a_module_that_is_there_are_a_warning() -> None:
    facts = h100_facts()
    facts["kernels"][0]["headers"] = False
    assert judged("os.kernel_headers", **facts)["status"] == "WARN"


def test_headers_are_not_needed_for_a_module_that_comes_ready_made() -> None:
    facts = h100_facts()
    facts["kernels"][0]["headers"] = False
    facts["driver"]["dkms"] = []
    row = judged("os.kernel_headers", **facts)
    assert (row["status"], row["required"]) == ("SKIP", False)


def test_where_the_next_kernel_is_not_known_each_that_can_boot_must_have_headers() -> None:
    other = {"release": "6.8.0-99-generic", "running": False, "next_boot": None, "headers": False, "image": True}
    kernels = [other, {**h100_facts()["kernels"][0], "next_boot": None}]
    assert judged("os.kernel_headers", kernels=kernels)["status"] == "WARN"


def test_a_container_is_not_asked_for_what_belongs_to_its_host() -> None:
    facts = {**h100_facts(), "container": "docker", "kernels": [], "secure_boot": None}
    facts["nouveau"]["blacklisted"] = None
    rows = {row["id"]: row for row in preflight.checks(context(facts=facts))}
    for name in ("os.kernel_headers", "os.nouveau", "os.secureboot"):
        assert (rows[name]["status"], rows[name]["required"]) == ("SKIP", False)
        assert "container" in rows[name]["message"]


def test_nouveau_that_has_the_gpu_is_a_failure(tmp_path: Path) -> None:
    row = one(preflight.checks(context(facts=facts_of(tmp_path, f.gtx_1080_ti))), "os.nouveau")
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "NOUVEAU_LOADED", "reboot")
    assert "rebuild the initramfs" in row["message"]
    facts = {"loaded": True, "blacklisted": True, "in_initramfs": False}
    assert "nothing loads nouveau then" in judged("os.nouveau", nouveau=facts)["message"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"in_initramfs": True}, "FAIL", "NOUVEAU_IN_INITRAMFS"),
        ({"blacklisted": False}, "WARN", "NOUVEAU_BACK"),
        ({"in_initramfs": None}, "WARN", "NOT_READABLE"),
        ({"blacklisted": None}, "WARN", "NOT_READABLE"),
        ({"loaded": None}, "UNKNOWN", "NOT_READABLE"),
    ],
)
def test_nouveau_that_may_come_back(changes: dict[str, Any], status: str, code: str) -> None:
    row = judged("os.nouveau", nouveau={**h100_facts()["nouveau"], **changes})
    assert (row["status"], row["reason_code"]) == (status, code)


def secure(signer: str | None = "DKMS module signing key", loaded: bool = True, **key: Any) -> dict[str, Any]:
    facts = {**h100_facts(), "secure_boot": True}
    release = facts["kernel"]
    facts["driver"]["modules"][release]["signer"] = signer
    facts["driver"]["loaded_version"] = "580.126.09" if loaded else None
    facts["machine_owner_key"].update(key)
    return judged("os.secureboot", **facts)


def test_secure_boot_with_a_module_that_is_signed_and_loaded_passes() -> None:
    assert secure(certificate="/var/lib/key.der", enrolled=True)["status"] == "PASS"


def test_secure_boot_with_a_module_that_is_not_signed_is_a_failure() -> None:
    row = secure(signer=None)
    assert (row["status"], row["reason_code"]) == ("FAIL", "NOT_SIGNED")


def test_secure_boot_with_a_key_that_waits_at_the_console_is_a_failure() -> None:
    row = secure(loaded=False, certificate="/var/lib/key.der", enrolled=False, pending=True)
    assert (row["status"], row["reason_code"], row["action"]) == ("FAIL", "KEY_PENDING", "reboot")
    row = secure(loaded=False, certificate="/var/lib/key.der", enrolled=False, pending=False)
    assert (row["status"], row["reason_code"]) == ("FAIL", "KEY_NOT_ENROLLED")


def test_secure_boot_of_which_nothing_is_known_is_unknown_unless_the_module_is_loaded() -> None:
    facts = h100_facts()
    assert judged("os.secureboot", **{**facts, "secure_boot": None})["status"] == "PASS"
    facts["driver"]["loaded_version"] = None
    assert judged("os.secureboot", **{**facts, "secure_boot": None})["status"] == "UNKNOWN"
    assert secure(loaded=False, certificate=None)["status"] == "UNKNOWN"


def test_secure_boot_with_a_module_that_could_not_be_asked_is_unknown() -> None:
    facts = {**h100_facts(), "secure_boot": True}
    facts["unknown"] = {f"driver.modules.{facts['kernel']}": "modinfo did not read it"}
    row = judged("os.secureboot", **facts)
    assert (row["status"], row["reason_code"]) == ("UNKNOWN", "NOT_READABLE")
    assert "modinfo did not read it" in row["message"]


# --- disk, packages, reboot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/opt/gpulab", "/tmp", "/", "/var", "/boot"])
def test_a_full_disk_is_a_failure(path: str) -> None:
    row = judged("os.disk", disk={**h100_facts()["disk"], path: 20 * MIB})
    assert (row["status"], row["reason_code"]) == ("FAIL", "DISK_FULL")
    assert f"{path} has 20 MiB free" in row["message"]


def test_a_boot_partition_with_room_for_one_initramfs_is_a_warning() -> None:
    row = judged("os.disk", disk={**h100_facts()["disk"], "/boot": 200 * MIB})
    assert (row["status"], row["reason_code"]) == ("WARN", "DISK_LOW")


@pytest.mark.parametrize("value", [None, float("nan"), "1 TB", -1, True], ids=str)
def test_space_that_is_no_number_is_unknown(value: Any) -> None:
    assert judged("os.disk", disk={**h100_facts()["disk"], "/tmp": value})["status"] == "UNKNOWN"


def test_packages_that_are_half_configured_are_a_failure_with_the_command_that_ends_it() -> None:
    row = judged("os.pkgmgr", package_manager={"kind": "apt", "broken": ["nvidia-dkms-open"], "lock": None})
    assert (row["status"], row["reason_code"]) == ("FAIL", "PACKAGES_BROKEN")
    assert "nvidia-dkms-open" in row["message"]
    assert "dpkg --configure -a" in row["message"]
    row = judged("os.pkgmgr", package_manager={"kind": "dnf", "broken": ["kmod-nvidia"], "lock": None})
    assert "dnf check" in row["message"]


def test_who_holds_the_package_managers_lock_is_named() -> None:
    lock = {"pid": 4711, "command": "/usr/bin/unattended-upgrade"}
    row = judged("os.pkgmgr", package_manager={"kind": "apt", "broken": [], "lock": lock})
    assert (row["status"], row["reason_code"]) == ("WARN", "LOCKED")
    assert "/usr/bin/unattended-upgrade (pid 4711)" in row["message"]
    row = judged("os.pkgmgr", package_manager={"kind": "apt", "broken": [], "lock": {**lock, "age_s": 601}})
    assert (row["status"], row["reason_code"]) == ("FAIL", "LOCKED")


def test_packages_that_cannot_be_read_are_unknown_and_no_package_manager_is_not_applicable() -> None:
    assert judged("os.pkgmgr", package_manager={"kind": "apt", "broken": None, "lock": None})["status"] == "UNKNOWN"
    assert judged("os.pkgmgr", package_manager={"kind": None, "broken": None, "lock": None})["status"] == "SKIP"
    assert judged("os.pkgmgr", package_manager=None)["status"] == "UNKNOWN"


def test_a_reboot_that_waits_is_told_with_the_packages_that_want_it() -> None:
    row = judged("os.pending_reboot", reboot={"required": True, "packages": ["linux-base"]})
    assert (row["status"], row["reason_code"]) == ("WARN", "REBOOT_PENDING")
    assert "linux-base" in row["message"]


def test_another_kernel_at_the_next_boot_is_told() -> None:
    running = {**h100_facts()["kernels"][0], "next_boot": False}
    following = {"release": "6.8.0-99-generic", "running": False, "next_boot": True, "headers": True, "image": True}
    assert judged("os.pending_reboot", kernels=[following, running])["status"] == "WARN"


# --- who works on the GPUs -------------------------------------------------------------------------------------------

JOB = {"pid": 4711, "user": "ada", "command": "python train.py", "age_s": 60, "devices": ["/dev/nvidia0"]}
SCREEN = {"pid": 900, "user": "root", "command": "/usr/lib/xorg/Xorg :0", "age_s": 60, "devices": ["/dev/nvidia0"]}


def held(*processes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"processes": list(processes), "complete": True, "reason": None, **changes}


def told(pid: int, kind: str, **changes: Any) -> dict[str, Any]:
    """Return a process as the driver lists it."""
    return {"pid": pid, "start": 1, "used_memory": 1 << 20, "kind": kind, "name": None, **changes}


def holding(*processes: dict[str, Any], listed: Sequence[dict[str, Any]] | None = (), **facts: Any) -> dict[str, Any]:
    """Return gpu.busy of a host where processes hold devices, and the driver lists these on its first GPU."""
    seen = observation(
        *(gpu(n, processes=None if listed is None else list(listed) if n == 0 else []) for n in range(8))
    )
    c = context(facts={**h100_facts(), "busy": held(*processes), **facts}, observation=seen)
    return one(preflight.checks(c), "gpu.busy")


def test_a_users_job_on_a_gpu_refuses_the_run() -> None:
    row = holding(SCREEN, JOB, listed=[told(4711, "compute", name="python")])
    assert (row["status"], row["reason_code"]) == ("FAIL", "BUSY")
    assert "python train.py (pid 4711, ada)" in row["message"]
    assert "Xorg" not in row["message"]


def test_a_job_of_a_fabricated_host_is_seen(tmp_path: Path) -> None:
    def host(root: Path) -> None:
        f.h100_hgx(root)
        f.process(root, 4711, "python", "python train.py", devices=["/dev/nvidia0"])

    c = context(facts=facts_of(tmp_path, host), observation=None)
    assert one(preflight.checks(c), "gpu.busy")["reason_code"] == "BUSY"


def test_a_job_that_only_the_driver_knows_of_refuses_the_run() -> None:
    row = gpu(3, processes=[{"pid": 77, "start": None, "used_memory": 1 << 30, "kind": "compute", "name": None}])
    checks = preflight.checks(context(observation=observation(row)))
    assert one(checks, "gpu.busy")["reason_code"] == "BUSY"


def test_a_screen_is_a_warning_and_no_job() -> None:
    assert judged("gpu.busy", busy=held(SCREEN))["reason_code"] == "DISPLAY"
    row = consumer(0, processes=[{"pid": 900, "start": 1, "used_memory": 1, "kind": "graphics", "name": "Xorg"}])
    assert one(preflight.checks(context(observation=observation(row))), "gpu.busy")["reason_code"] == "DISPLAY"


@pytest.mark.parametrize(
    "command",
    [
        "/usr/libexec/mutter-x11-frames", "/usr/lib/firefox/firefox -contentproc", "/usr/libexec/gsd-xsettings",
        "/usr/libexec/xdg-desktop-portal-gnome", "/opt/google/chrome/chrome --type=gpu-process",
    ],
)  # fmt: skip
def test_what_the_driver_lists_as_graphics_belongs_to_the_screen(command: str) -> None:
    row = holding({**SCREEN, "command": command}, listed=[told(900, "graphics")])
    assert (row["status"], row["reason_code"]) == ("WARN", "DISPLAY")
    assert command.split()[0].rpartition("/")[2] in row["message"]
    # Computing beside it, on whatever GPU, makes it a job.
    row = holding({**SCREEN, "command": command}, listed=[told(900, "graphics"), told(900, "compute")])
    assert (row["status"], row["reason_code"]) == ("FAIL", "BUSY")


@pytest.mark.parametrize("command", ["/usr/libexec/mutter-x11-frames", "kded6", "/usr/libexec/gnome-session-binary"])
def test_the_helpers_of_a_session_are_known_by_name_where_the_driver_lists_nothing(command: str) -> None:
    assert holding({**SCREEN, "command": command}, listed=None)["reason_code"] == "DISPLAY"


def test_a_name_that_the_driver_cut_is_known() -> None:
    row = told(900, "compute", name="gnome-remote-de")
    assert one(preflight.checks(context(observation=observation(gpu(0, processes=[row])))), "gpu.busy")[
        "reason_code"
    ] == ("DISPLAY")


def test_who_holds_a_gpu_and_does_not_compute_as_the_driver_says_is_a_warning() -> None:
    daemon = {**JOB, "pid": 31, "command": "/opt/lab/gpu-watch"}
    row = holding(daemon)
    assert (row["status"], row["reason_code"]) == ("WARN", "HELD")
    assert "/opt/lab/gpu-watch (pid 31, ada)" in row["message"]
    beside = holding(daemon, SCREEN)
    assert (beside["reason_code"], "gpu-watch" in beside["message"]) == ("DISPLAY", True)
    assert holding(daemon, listed=[told(31, "compute")])["reason_code"] == "BUSY"
    assert holding(daemon, JOB, listed=[told(4711, "mps")])["reason_code"] == "BUSY"


def test_a_list_of_the_driver_that_may_have_gaps_excuses_nobody() -> None:
    assert holding(JOB, listed=None)["reason_code"] == "BUSY"
    assert holding(JOB, container="docker")["reason_code"] == "BUSY"
    # A process that we do not see: the driver counts in another namespace.
    assert holding(JOB, listed=[told(5, "graphics", start=None)])["reason_code"] == "BUSY"
    few = context(facts={**h100_facts(), "busy": held(JOB)}, observation=observation(gpu(0)))
    assert one(preflight.checks(few), "gpu.busy")["reason_code"] == "BUSY"  # seven more are on the bus
    unknown = {**JOB, "devices": None}
    assert holding(unknown)["reason_code"] == "BUSY"


def test_in_a_container_numbers_of_processes_are_not_compared() -> None:
    row = holding(JOB, listed=[told(4711, "graphics")], container="docker")
    assert row["reason_code"] == "BUSY"


def test_a_service_that_the_driver_lists_is_no_job_but_what_works_through_it_is() -> None:
    server = told(50, "compute", name="nvidia-cuda-mps")
    assert holding(listed=[server])["reason_code"] == "HELD"
    assert holding(listed=[server, told(51, "mps", name="python")])["reason_code"] == "BUSY"


def test_without_root_the_driver_must_say_that_nobody_computes() -> None:
    facts = {**h100_facts(), "busy": held(complete=False, reason="not root: some processes cannot be seen")}
    assert one(preflight.checks(context(facts=facts)), "gpu.busy")["status"] == "PASS"
    silent = one(preflight.checks(context(facts=facts, observation=observation(gpu(0, processes=None)))), "gpu.busy")
    assert silent["status"] == "UNKNOWN"
    assert "not root" in silent["message"]
    assert one(preflight.checks(context(facts=facts, observation=None)), "gpu.busy")["status"] == "UNKNOWN"
    inside = {**copy.deepcopy(facts), "container": "docker"}
    assert one(preflight.checks(context(facts=inside)), "gpu.busy")["status"] == "UNKNOWN"


def test_what_the_driver_says_of_processes_is_heard_later() -> None:
    c = context(observation=None)
    c.facts["busy"] = held(complete=False)
    assert one(preflight.checks(c), "gpu.busy")["status"] == "UNKNOWN"
    c.observation = observation()
    row = preflight.judge_busy(c)
    assert (row["id"], row["target"], row["status"], row["tier"]) == ("gpu.busy", "host", "PASS", 0)


def test_memory_in_use_without_a_process_is_a_warning() -> None:
    used = {"total": 80 << 30, "used": 16 * MIB, "free": 79 << 30}
    row = one(preflight.checks(context(observation=observation(gpu(0, memory=used)))), "gpu.busy")
    assert (row["status"], row["reason_code"]) == ("WARN", "MEMORY_IN_USE")
    asleep = observation(gpu(0, memory=used, persistence=False))
    assert one(preflight.checks(context(observation=asleep)), "gpu.busy")["status"] == "PASS"
