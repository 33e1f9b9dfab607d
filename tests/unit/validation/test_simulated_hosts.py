# SPDX-License-Identifier: Apache-2.0
"""The validator from end to end on hosts with pretended GPUs: what is well, and what each fault makes of the verdict.

Everything here is simulated. It proves how the validator decides, never how a GPU behaves.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nvml import standin
from simulated_host import BOOT, EARLIER_BOOT, Host, facts_of, planned
from validation_lab import status_of

FIRST, SECOND = standin.uuid(0), standin.uuid(1)
BDF = [standin.h100(index)["bdf"] for index in range(3)]
TIERS = ("preflight", "identity", "health", "numerics", "job", "performance")
#: Seconds that a look may take beside the time limits of what it asks, on a machine that has other work.
OVERHEAD = 4


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture(scope="module")
def proven_once(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with two GPUs that was validated and passed."""
    host = Host(tmp_path_factory.mktemp("proven"))
    code, reply = host.validate()
    assert code == 0, reply["document"]["verdict"]
    return host


@pytest.fixture
def proven(proven_once: Host) -> Iterator[Host]:
    """That host; whatever a test makes of it is put right again."""
    host = proven_once
    state = host.base / "validation"
    changed = (state / "verdict.json", state / "known.json", host.journal, host.programs / "thresholds.json")
    kept = {path: path.read_bytes() for path in changed}
    facts, config, rows = dict(host.facts), dict(host.config), host.rows
    limits = dict(host.table["identity"]["smi_seconds"])
    host.started()
    yield host
    for path, content in kept.items():
        path.write_bytes(content)
    host.write_facts(**facts)
    host.pretend(**config)
    host.rows = rows
    host.table["identity"]["smi_seconds"].update(limits)
    host.boot(BOOT)
    host.describe()


def rows_of(document: dict[str, Any], *statuses: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the checks with these statuses, by id and target."""
    return {(row["id"], row["target"]): row for row in document["checks"] if row["status"] in statuses}


def codes_of(document: dict[str, Any], *statuses: str) -> set[str]:
    """Return id and reason code of the checks with these statuses."""
    return {f"{row['id']} {row['reason_code']}" for row in rows_of(document, *statuses).values()}


def of_gpu(document: dict[str, Any], uuid: str, prefix: str) -> set[str]:
    """Return the statuses of one GPU's checks whose ids begin so."""
    rows = [row for row in document["checks"] if row["target"].endswith(uuid) and row["id"].startswith(prefix)]
    assert rows
    return {row["status"] for row in rows}


def verdict_of(code: int, document: dict[str, Any]) -> tuple[int, str, str]:
    """Return exit status, status and action, having seen that nothing simulated is sold as more."""
    verdict = document["verdict"]
    assert document["simulated"] is True
    assert document["gpu_validated"] is False
    assert verdict["label"].endswith("[simulated]")
    return code, verdict["status"], verdict["action"]


# -- hosts that are well ---------------------------------------------------------------------------------------------


def test_a_host_that_is_well_passes_and_its_proof_is_used_again(host: Host) -> None:
    code, reply = host.validate()
    document = reply["document"]
    assert verdict_of(code, document) == (0, "PASS", "none"), document["verdict"]["summary"]
    assert document["verdict"]["label"] == "PASS [simulated]"
    assert document["verdict"]["summary"].startswith("2 of 2 GPUs computed correctly")
    tiers = document["tiers"].values()
    assert {tier["name"]: tier["status"] for tier in tiers} == dict.fromkeys(TIERS, "PASS") | {"diagnostics": "SKIP"}
    proof = document["gpu_use_proof"]["targets"]["torch/pytorch"]
    assert (proof["reached"], proof["simulated"]) == (True, True)
    assert {row["name"]: row["ok"] for row in proof["signals"]}["driver_process"] is True
    assert document["gpu_use_proof"]["negative_control"] == {"torch/pytorch": "rejected"}
    assert document["self_test"]["required_checks_missing"] == []
    assert set(status_of(document, "num.cross_gpu").values()) == {"PASS"}
    assert document["data_parallel"]["rows"][0]["replicas"] == 2
    assert {row["simulated"] for row in document["performance"]["rows"]} == {True}
    assert len(document["numerics"]["rows"]) == 2 * 4 * 2  # GPUs, precisions, shapes
    known = json.loads((host.base / "validation" / "known.json").read_text())
    assert [gpu["uuid"] for gpu in known["gpus"]] == [FIRST, SECOND]
    assert document == host.verdict()
    host.started()

    code, again = host.validate()
    assert (code, again["reused"], host.started()) == (0, True, [])
    assert again["document"]["run_id"] == document["run_id"]
    assert verdict_of(code, again["document"]) == (0, "PASS", "none")
    assert {number for number, tier in again["document"]["tiers"].items() if tier["reused"]} == {"3", "4", "5"}


def test_a_card_for_games_passes_as_far_as_it_can_be_asked(tmp_path: Path) -> None:
    host = Host(tmp_path, standin.consumer(0, persistence="1"))
    code, reply = host.validate()
    document = reply["document"]
    assert verdict_of(code, document) == (0, "PASS", "none"), document["verdict"]["summary"]
    skipped = {row["id"] for row in rows_of(document, "SKIP").values()}
    assert {"ecc.uncorrected", "ecc.corrected", "row_remap", "nvlink", "fabricmanager", "num.cross_gpu"} <= skipped
    assert all(row["message"] and not row["required"] for row in rows_of(document, "SKIP").values())
    assert status_of(document, "dp.train") == {"host": "SKIP"}


def test_a_gpu_nobody_has_figures_of_is_a_warning_and_no_plain_pass(tmp_path: Path) -> None:
    host = Host(tmp_path, standin.h100(0, name="NVIDIA Something New"))
    code, reply = host.validate()
    assert verdict_of(code, reply["document"]) == (0, "WARN", "none"), reply["document"]["verdict"]["summary"]
    assert reply["document"]["verdict"]["caps"] == ["PERF_BASELINE_NONE"]
    assert "perf_baseline: none" in reply["document"]["verdict"]["summary"]


def test_instances_of_a_divided_gpu_are_devices_of_their_own(tmp_path: Path) -> None:
    host = Host(tmp_path, *standin.mig()["gpus"])
    code, reply = host.validate()
    document = reply["document"]
    assert verdict_of(code, document) == (0, "PASS", "none"), document["verdict"]["summary"]
    targets = {target.rpartition("@")[2] for target in status_of(document, "num.fwd_bwd.fp32")}
    assert targets == {uuid for uuid, _ in host.devices()}
    assert len(targets) == 3
    skipped = rows_of(document, "SKIP")
    assert "MIG" in skipped["row_remap", FIRST]["message"]
    assert ("perf.all_reduce", "torch/pytorch@all") in skipped
    assert ("dp.train", "host") in skipped
    # The job ran on the first instance, and that is where the driver saw it.
    signals = {row["name"]: row for row in document["gpu_use_proof"]["targets"]["torch/pytorch"]["signals"]}
    assert "MIG-00000000" in signals["driver_process"]["detail"]


def test_a_share_of_a_gpu_in_a_virtual_machine_says_what_could_not_be_asked(tmp_path: Path) -> None:
    host = Host(tmp_path, *standin.vgpu()["gpus"])
    code, reply = host.validate()
    document = reply["document"]
    assert verdict_of(code, document) == (0, "PASS", "none"), document["verdict"]["summary"]
    skipped = {row["id"] for row in rows_of(document, "SKIP").values()}
    assert {"row_remap", "pcie.max", "perf.pcie_link", "recovery_action"} <= skipped


def test_two_models_in_one_host_are_each_judged_by_their_own_figures(tmp_path: Path) -> None:
    host = Host(tmp_path, standin.h100(0, fabric="!3"), standin.consumer(1, persistence="1"))
    code, reply = host.validate()
    document = reply["document"]
    assert verdict_of(code, document) == (0, "PASS", "none"), document["verdict"]["summary"]
    products = {row["target"].rpartition("@")[2]: row["product"] for row in document["performance"]["rows"]}
    assert (products[FIRST], products[SECOND]) == ("H100 SXM5 80GB", "GeForce RTX 4090")
    assert set(status_of(document, "num.cross_gpu").values()) == {"SKIP"}
    assert set(status_of(document, "perf.gemm").values()) == {"PASS"}


# -- a driver that does not answer (F1, F2) --------------------------------------------------------------------------


def hanging_call(host: Host) -> None:
    """The driver's library hangs when it is asked about the second GPU; nvidia-smi does not ask that."""
    host.describe(lambda description: description["gpus"][1].update(ecc="hang"))


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (lambda host: host.driver.smi(seconds=3600), {"smi.bounded TIMEOUT"}),
        (lambda host: host.describe(init="hang"), {"smi.bounded TIMEOUT", "drv.answers TIMEOUT"}),
        (hanging_call, {"drv.answers TIMEOUT"}),
    ],
    ids=["nvidia-smi", "driver", "one_gpu"],
)
def test_a_driver_that_hangs_is_a_failure_in_time(proven: Host, fault: Callable[[Host], None], codes: set[str]) -> None:
    proven.limits(slow=1.2, most=2)
    fault(proven)
    started = time.monotonic()
    code, reply = proven.validate("--always")
    assert time.monotonic() - started < 2 + 2 + OVERHEAD
    document = reply["document"]
    # A library that hangs at once did not even say that it is a stand-in.
    assert (code, document["verdict"]["status"], document["verdict"]["action"]) == (1, "FAIL", "reboot")
    assert document["gpu_validated"] is False
    assert codes <= codes_of(document, "FAIL")
    assert "validator.self_test SELF_TEST" not in codes_of(document, "FAIL")
    assert proven.started() == []
    assert "hangs" in document["verdict"]["summary"]


def test_a_tool_that_cannot_be_killed_is_left_behind_in_time(proven: Host) -> None:
    proven.limits(slow=1.2, most=2)
    proven.driver.smi(unkillable=9)
    started = time.monotonic()
    code, reply = proven.validate("--always")
    took = time.monotonic() - started
    document = reply["document"]
    if "free" in (Path(document["log_directory"]) / "nvidia-smi.xml").read_text():
        pytest.skip("this system does not let a process trace another one")
    assert took < 2 + 2 + OVERHEAD
    assert verdict_of(code, document) == (1, "FAIL", "reboot")
    assert "cannot be killed" in document["verdict"]["summary"]
    assert proven.started() == []


def test_a_slow_answer_is_a_warning(host: Host) -> None:
    host.limits(slow=1.1, most=20)
    host.driver.smi(seconds=1.3)
    code, reply = host.validate(performance=False, data_parallel=False)
    assert verdict_of(code, reply["document"]) == (0, "WARN", "none"), reply["document"]["verdict"]["summary"]
    assert codes_of(reply["document"], "WARN") == {"smi.bounded SLOW"}
    assert host.validate("--strict", performance=False, data_parallel=False)[0] == 1


# -- faults that stop everything before a job runs (F3, F4, F6, F7, F18, F19, F25, F26, F28) ------------------------


def driver_with(host: Host, **changes: Any) -> None:
    host.write_facts(driver={**host.facts["driver"], **changes})


def mismatch(host: Host) -> None:
    words = "the loaded module is 580.126.09, the library is 580.142.01"
    driver_with(host, library_version="580.142.01", installed_version="580.142.01", mismatch=words, modules={})
    host.describe(init="!18")


def says(word: str) -> Callable[[Host], None]:
    """Let nvidia-smi say a word where the temperature of a GPU should be, and end with 0."""

    def fault(host: Host) -> None:
        output = standin.xml(host.driver.description)
        host.driver.smi(output=output.replace(b"28 C", word.encode(), 1))

    return fault


def prints(output: bytes) -> Callable[[Host], None]:
    return lambda host: host.driver.smi(output=output)


def second(**changes: str) -> Callable[[Host], None]:
    """Let the driver say something else of the second GPU."""
    return lambda host: host.describe(lambda description: description["gpus"][1].update(changes))


def one_gpu_is_gone(host: Host) -> None:
    host.write_facts(gpus=host.facts["gpus"][:1])
    host.describe(lambda description: description["gpus"].pop())


def one_gpu_is_new(host: Host) -> None:
    host.write_facts(gpus=facts_of([*host.gpus, standin.h100(2)])["gpus"])
    host.describe(lambda description: description["gpus"].append(standin.h100(2)))


def no_gpu(host: Host) -> None:
    host.write_facts(gpus=[])
    host.describe(lambda description: description["gpus"].clear())


def no_driver(host: Host) -> None:
    nothing = {"loaded_version": None, "library_version": None, "installed_version": None, "module": None}
    driver_with(host, **nothing, packages={}, held=[], modules={}, dkms=[])
    (host.driver.directory / standin.LIBRARY).rename(host.driver.directory / "hidden")
    (host.driver.directory / "nvidia-smi").unlink()


def no_headers(host: Host) -> None:
    kernels = [{**row, "headers": False} for row in host.facts["kernels"]]
    driver_with(host, loaded_version=None, modules={})
    host.write_facts(kernels=kernels)
    host.describe(init="!9")


def build_error(host: Host) -> None:
    """A new kernel boots next, and DKMS could not build the module for it."""
    running = host.facts["kernels"][0]
    new = {"release": "6.8.0-99-generic", "running": False, "next_boot": True, "headers": True, "image": True}
    host.write_facts(kernels=[{**running, "next_boot": False}, new])
    built = [*host.facts["driver"]["dkms"], {"module": "nvidia", "kernel": new["release"], "state": "added"}]
    driver_with(host, dkms=built)


def unsigned(host: Host) -> None:
    host.write_facts(secure_boot=True)


def nouveau(**changes: Any) -> Callable[[Host], None]:
    return lambda host: host.write_facts(nouveau={**host.facts["nouveau"], **changes})


FAULTS: dict[str, tuple[Callable[[Host], None], int, str, str, set[str], str]] = {
    # name: (fault, exit status, status, action, codes among the checks, words)
    "driver_and_library_of_different_versions": (
        mismatch, 1, "FAIL", "reboot", {"drv.match MISMATCH", "drv.answers NVML_LIB_RM_VERSION_MISMATCH"},
        "different versions"),
    "err_in_the_output": (says("ERR!"), 1, "FAIL", "none", {"smi.sane SUSPICIOUS"}, "ERR!"),
    "unknown_error_in_the_output": (
        says("[Unknown Error]"), 1, "FAIL", "none", {"smi.sane SUSPICIOUS"}, "Unknown Error"),
    "a_gpu_that_wants_a_reset": (
        says("GPU requires reset"), 1, "FAIL", "reset_gpu", {"smi.sane SUSPICIOUS"}, "requires reset"),
    "one_gpu_of_two": (one_gpu_is_gone, 1, "FAIL", "reboot", {"pci.inventory GPU_MISSING"}, "1 of 2 planned GPUs"),
    "three_gpus_of_two": (one_gpu_is_new, 1, "FAIL", "none", {"pci.inventory GPU_ADDED"}, "not planned"),
    "a_gpu_that_fell_off_the_bus": (
        second(handle="!15", error="!15"), 1, "FAIL", "reboot", {"gpu.uuid GPU_LOST"}, "fell off the bus"),
    "gpus_planned_and_none_there": (no_gpu, 1, "FAIL", "reboot", {"host.gpu_evidence NO_GPU"}, "shows no NVIDIA GPU"),
    "gpus_there_and_no_driver": (
        no_driver, 1, "FAIL", "none", {"drv.loaded DRIVER_MISSING", "drv.answers NVML_LIBRARY_NOT_FOUND"},
        "no NVIDIA driver is installed"),
    "no_headers_and_no_module": (no_headers, 1, "FAIL", "none", {"os.kernel_headers HEADERS_MISSING"}, "headers"),
    "a_module_that_was_not_built": (build_error, 1, "FAIL", "none", {"drv.match MODULE_MISSING"}, "make.log"),
    "a_module_that_is_not_signed": (unsigned, 1, "FAIL", "none", {"os.secureboot NOT_SIGNED"}, "not signed"),
    "nouveau_loaded": (nouveau(loaded=True), 1, "FAIL", "reboot", {"os.nouveau NOUVEAU_LOADED"}, "nouveau is loaded"),
    "nouveau_in_the_initramfs": (
        nouveau(in_initramfs=True), 1, "FAIL", "none", {"os.nouveau NOUVEAU_IN_INITRAMFS"}, "initramfs"),
    "uncorrected_errors": (
        second(ecc_volatile="0,2"), 1, "FAIL", "reset_gpu", {"ecc.uncorrected UNCORRECTED"}, "uncorrectable"),
    "a_row_that_waits_to_be_replaced": (
        second(row_remap="0,1,1,0"), 1, "FAIL", "reset_gpu", {"row_remap REMAP_PENDING"}, "next reset"),
    "a_row_that_could_not_be_replaced": (
        second(row_remap="0,1,0,1"), 1, "FAIL", "isolate", {"row_remap REMAP_FAILURE"}, "could not be replaced"),
    "an_nvlink_that_is_down": (
        second(**{"nvlink.7": "0"}), 1, "FAIL", "reset_gpu", {"nvlink NVLINK_INACTIVE"}, "17 of 18 NVLinks"),
    "half_of_the_lanes": (
        second(pcie_width="8", pcie_width_max="8"), 1, "FAIL", "isolate", {"pcie.max LINK_NARROW"}, "8 of 16 PCIe"),
    "a_power_brake_on_an_idle_gpu": (
        second(reasons="0x80"), 1, "FAIL", "isolate", {"thermal SLOWDOWN"}, "power supply brakes it"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_is_not_hidden_by_an_earlier_pass_and_stops_all_that_computes(proven: Host, name: str) -> None:
    fault, *expected, codes, words = FAULTS[name]
    fault(proven)
    try:
        for option in (), ("--always",):
            code, reply = proven.validate(*option)
            document = reply["document"]
            judged = (code, document["verdict"]["status"], document["verdict"]["action"])
            assert judged == tuple(expected), document["verdict"]["summary"]
            assert document["gpu_validated"] is False
            assert codes <= codes_of(document, "FAIL")
            assert words in document["verdict"]["summary"]
            assert proven.started() == []
            assert proven.verdict() == document
        blocked = {row["reason_code"] for row in document["checks"] if row["id"] == "mnist.train"}
        assert blocked == {"BLOCKED"}
        assert document["verdict"]["summary"].startswith("nothing was computed; ")
        assert {row["status"] for row in document["checks"] if row["tier"] >= 3 and row["required"]} == {"UNKNOWN"}
    finally:
        hidden = proven.driver.directory / "hidden"
        if hidden.exists():
            hidden.rename(hidden.with_name(standin.LIBRARY))


@pytest.mark.parametrize(
    ("output", "code"),
    [
        (b"", "smi.sane PARSE"),
        (b"all is well\n", "smi.sane PARSE"),
        (b"<nvidia_smi_log><gpu></gpu>", "smi.sane PARSE"),
        (b"\xff\xfe" * 50, "smi.sane PARSE"),
    ],
    ids=["empty", "rubbish", "truncated", "no_text"],
)
def test_an_answer_that_cannot_be_read_is_unknown(proven: Host, output: bytes, code: str) -> None:
    prints(output)(proven)
    exit_status, reply = proven.validate()
    assert verdict_of(exit_status, reply["document"]) == (2, "UNKNOWN", "none")
    assert code in codes_of(reply["document"], "UNKNOWN")


def test_a_value_that_is_not_available_where_there_must_be_one_is_no_pass(proven: Host) -> None:
    """NVML fails to read what this GPU counts, instead of saying that it counts nothing."""
    second(ecc_volatile="!999")(proven)
    proven.driver.smi(output=standin.xml(standin.host(*proven.gpus)))
    code, reply = proven.validate()
    assert verdict_of(code, reply["document"]) == (2, "UNKNOWN", "none")
    assert of_gpu(reply["document"], SECOND, "ecc.uncorrected") == {"UNKNOWN"}
    assert of_gpu(reply["document"], FIRST, "ecc.uncorrected") == {"PASS"}


# -- other hardware than before (F6) ---------------------------------------------------------------------------------


def test_a_swapped_gpu_must_be_acknowledged(proven: Host) -> None:
    new = "GPU-99999999-0000-4000-8000-000000000099"
    known = proven.base / "validation" / "known.json"
    before = known.read_bytes()
    second(uuid=new)(proven)
    figures = proven.config["figures"]
    proven.pretend(figures={**figures, new: figures[SECOND]})
    code, reply = proven.validate("--tiers", "0-2")
    assert (code, reply["document"]["verdict"]["status"]) == (2, "UNKNOWN")
    assert "GPUs and driver" in reply["reason"]
    assert codes_of(reply["document"], "WARN") == {"gpu.uuid HARDWARE_CHANGED"}
    # What is new is proven, and still a warning, until somebody says that it is meant.
    code, reply = proven.validate(performance=False, data_parallel=False)
    assert verdict_of(code, reply["document"]) == (0, "WARN", "none")
    assert f"is {new} instead of {SECOND}" in reply["document"]["verdict"]["summary"]
    assert known.read_bytes() == before
    code, reply = proven.validate(performance=False, data_parallel=False, accept_hardware=True)
    assert (code, reply["reused"], reply["document"]["verdict"]["status"]) == (0, True, "PASS")
    assert new in known.read_text()


# -- tools that are missing (F8) -------------------------------------------------------------------------------------


def test_without_nvidia_smi_the_host_is_unknown(proven: Host) -> None:
    if any((Path(place) / "nvidia-smi").exists() for place in ("/usr/bin", "/usr/local/bin", "/usr/lib/wsl/lib")):
        pytest.skip("this machine has an nvidia-smi")
    (proven.driver.directory / "nvidia-smi").unlink()
    code, reply = proven.validate()
    assert verdict_of(code, reply["document"]) == (2, "UNKNOWN", "none")
    assert {"smi.bounded TOOL_MISSING", "smi.sane TOOL_MISSING"} <= codes_of(reply["document"], "UNKNOWN")


def test_without_the_binding_the_driver_was_not_asked(proven: Host) -> None:
    binding = proven.programs / "vendor" / "pynvml.py"
    kept = binding.read_bytes()
    binding.unlink()
    try:
        code, reply = proven.validate("--always")
    finally:
        binding.write_bytes(kept)
    assert (code, reply["document"]["verdict"]["status"]) == (2, "UNKNOWN")
    codes = codes_of(reply["document"], "UNKNOWN")
    assert {"drv.answers BINDING_MISSING", "gpu.devices NOT_OBSERVED", "mnist.train BLOCKED"} <= codes
    assert proven.started() == []  # there is nothing that could be handed to a job


def test_a_diagnosis_that_was_asked_for_and_has_no_tool_is_unknown(host: Host) -> None:
    changes = {"performance": False, "data_parallel": False, "diagnostics": ["dcgm"]}
    code, reply = host.validate(**changes)
    assert verdict_of(code, reply["document"]) == (2, "UNKNOWN", "none")
    assert "diag.dcgm TOOL_MISSING" in codes_of(reply["document"], "UNKNOWN")
    assert status_of(reply["document"], "mnist.train") == {"torch/pytorch": "PASS"}


def test_a_planned_toolkit_that_is_missing_is_a_failure(proven: Host) -> None:
    code, reply = proven.validate(expected={"cuda_toolkits": ["12.9.1"]})
    assert verdict_of(code, reply["document"]) == (1, "FAIL", "none")
    assert "cuda.toolkit TOOLKIT_MISSING" in codes_of(reply["document"], "FAIL")


# -- the kernel's log (F5) -------------------------------------------------------------------------------------------

PLACE = f"NVRM: Xid (PCI:{BDF[1][:-2]}):"
FALLEN = f"{PLACE} 79, pid=4711, name=python, GPU has fallen off the bus."
DOUBLE_BIT = f"{PLACE} 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error (DBE)"
NO_ANSWER = f"{PLACE} 119, pid=8, name=nvidia-smi, Timeout after 6s of waiting for RPC response"
USERS = f"{PLACE} 31, pid=99, name=a.out, Ch 00000008, intr 00000000. MMU Fault"


@pytest.mark.parametrize(
    ("message", "action"), [(FALLEN, "reboot"), (DOUBLE_BIT, "reset_gpu"), (NO_ANSWER, "reset_gpu")]
)
def test_a_grave_report_since_the_proof_is_a_failure_and_then_asks_for_new_proof(
    proven: Host, message: str, action: str
) -> None:
    proven.log(message)
    code, reply = proven.validate()
    assert verdict_of(code, reply["document"]) == (1, "FAIL", action)
    assert f"Xid {message[len(PLACE) :].split(',')[0].strip()} " in reply["document"]["verdict"]["summary"]
    # To look once more makes nothing good: the proof is older than the report.
    code, reply = proven.validate("--tiers", "0-2")
    assert verdict_of(code, reply["document"])[:2] == (2, "UNKNOWN")
    assert "Xid" in reply["reason"]


def test_a_grave_report_is_history_once_everything_was_proven_again(proven: Host) -> None:
    proven.log(FALLEN)
    assert proven.validate()[0] == 1
    code, reply = proven.validate()
    assert reply["reused"] is False
    assert verdict_of(code, reply["document"]) == (0, "WARN", "none")
    assert codes_of(reply["document"], "WARN") == {"xid XID_EARLIER"}


def test_what_a_users_program_did_is_a_warning(proven: Host) -> None:
    proven.log(USERS)
    code, reply = proven.validate()
    assert (code, reply["reused"]) == (0, True)
    assert verdict_of(code, reply["document"]) == (0, "WARN", "none")
    assert "by a.out" in reply["document"]["verdict"]["summary"]


def test_reports_of_another_boot_are_told_and_not_judged(proven: Host) -> None:
    rows = proven.journal.read_text()
    proven.journal.write_text("")
    proven.log(FALLEN, boot=EARLIER_BOOT)
    proven.journal.write_text(proven.journal.read_text() + rows)
    code, reply = proven.validate()
    assert verdict_of(code, reply["document"]) == (0, "PASS", "none")
    (row,) = (row for row in reply["document"]["checks"] if row["id"] == "xid")
    assert "1 report of other boots" in row["message"]


def test_a_report_while_a_job_runs_is_a_failure(host: Host) -> None:
    from simulated_host import row_of_journal

    body = f"open({str(host.journal)!r}, 'a').write({row_of_journal(NO_ANSWER, 99)!r})"
    host.pretend(body=body)
    code, reply = host.validate(performance=False, data_parallel=False)
    document = reply["document"]
    assert verdict_of(code, document) == (1, "FAIL", "reset_gpu")
    assert status_of(document, "mnist.train") == {"torch/pytorch": "PASS"}
    assert "while this ran the driver reported Xid 119" in document["verdict"]["summary"]
    host.pretend(body="")
    code, reply = host.validate(performance=False, data_parallel=False)  # never used again as if nothing had been
    assert (code, reply["reused"], reply["document"]["verdict"]["status"]) == (0, False, "WARN")


# -- results that do not hold (F9), and runs that end early (F28) ----------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": "2.0"', "[]", "null", '{"verdict": "PASS"}'])
def test_a_verdict_file_that_is_no_verdict_proves_nothing(proven: Host, content: str) -> None:
    path = proven.base / "validation" / "verdict.json"
    path.write_text(content)
    code, reply = proven.validate("--tiers", "0-2")
    assert verdict_of(code, reply["document"])[:2] == (2, "UNKNOWN")
    assert proven.verdict()["verdict"]["status"] == "UNKNOWN"
    assert proven.started() == []


def test_the_verdict_of_another_boot_proves_nothing(proven: Host) -> None:
    proven.write_facts(boot_id=EARLIER_BOOT)
    proven.boot(EARLIER_BOOT)
    proven.log("Linux version 6.8.0", boot=EARLIER_BOOT)
    code, reply = proven.validate("--tiers", "0-2")
    assert verdict_of(code, reply["document"])[:2] == (2, "UNKNOWN")
    assert reply["reason"] == "changed: boot of the host"
    assert "NOT_PROVEN" in {row["reason_code"] for row in reply["document"]["checks"]}


def test_an_old_verdict_is_not_used_again(proven: Host) -> None:
    path = proven.base / "validation" / "verdict.json"
    path.write_text(json.dumps({**proven.verdict(), "finished": "2020-01-01T00:00:00Z"}))
    reply = proven.validate("--dry-run")[1]
    assert (reply["reused"], reply["would_run"]) == (False, ["torch/pytorch"])
    assert "older than 7 days" in reply["reason"]


@pytest.mark.parametrize(
    "damage",
    ['open(option("--result"), "w").close(); os._exit(0)', 'open(option("--result"), "w").write("{"); os._exit(0)',
     "os._exit(0)"],
    ids=["empty", "truncated", "none"],
)  # fmt: skip
def test_a_job_that_leaves_no_whole_result_is_unknown(host: Host, damage: str) -> None:
    host.pretend(body=damage)
    code, reply = host.validate(performance=False, data_parallel=False)
    assert verdict_of(code, reply["document"]) == (2, "UNKNOWN", "none")
    assert status_of(reply["document"], "gpu.proof") == {"torch/pytorch": "UNKNOWN"}


def test_nothing_of_a_killed_run_is_ever_a_pass(proven: Host) -> None:
    running = proven.directory / "running"
    proven.pretend(body=f"open({str(running)!r}, 'w').close(); time.sleep(60)")
    process = subprocess.Popen(
        proven.command("--always"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=proven.variables
    )
    end = time.monotonic() + 30
    while not running.exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    document = proven.verdict()
    assert (document["verdict"]["status"], document["verdict"]["reason_code"]) == ("UNKNOWN", "UNFINISHED")
    assert document["gpu_validated"] is False
    # The killed job is in the driver's list no more, as with a real driver.
    proven.describe()
    proven.pretend(body="")
    code, reply = proven.validate("--tiers", "0-2")
    assert verdict_of(code, reply["document"])[:2] == (2, "UNKNOWN")
    code, reply = proven.validate(performance=False, data_parallel=False)
    assert (code, reply["reused"], reply["document"]["verdict"]["status"]) == (0, False, "PASS")


# -- GPUs that compute wrongly (F11) and jobs that run elsewhere (F10) -----------------------------------------------


def test_a_gpu_that_computes_wrongly_is_named_and_its_neighbours_stay_right(tmp_path: Path) -> None:
    host = Host(tmp_path, *[standin.h100(index) for index in range(3)])
    host.pretend(spoil={SECOND: "a tile of zeros"})
    code, reply = host.validate(performance=False, data_parallel=False)
    document = reply["document"]
    assert verdict_of(code, document) == (1, "FAIL", "isolate")
    assert document["verdict"]["summary"].startswith("2 of 3 GPUs computed correctly")
    assert SECOND in document["verdict"]["summary"]
    assert {target.rpartition("@")[2] for _, target in rows_of(document, "FAIL")} == {SECOND}
    assert of_gpu(document, SECOND, "num.fwd_bwd.fp32") == {"FAIL"}
    for uuid in (FIRST, standin.uuid(2)):
        assert of_gpu(document, uuid, "num.") == {"PASS"}
    agreement = {target.rpartition("@")[2]: status for target, status in status_of(document, "num.cross_gpu").items()}
    assert agreement == {FIRST: "PASS", SECOND: "FAIL", standin.uuid(2): "PASS"}


def test_one_of_two_gpus_that_computes_wrongly_is_named(host: Host) -> None:
    """Two that disagree have no majority; float64 tells which is wrong, and then the other has no equal left."""
    host.pretend(spoil={SECOND: "one flipped bit"})
    code, reply = host.validate(performance=False, data_parallel=False)
    document = reply["document"]
    assert verdict_of(code, document) == (1, "FAIL", "isolate")
    assert of_gpu(document, SECOND, "num.fwd_bwd.fp32") == {"FAIL"}
    assert of_gpu(document, FIRST, "num.fwd_bwd.") == {"PASS"}
    assert {target.rpartition("@")[2] for _, target in rows_of(document, "FAIL")} == {SECOND}
    assert of_gpu(document, SECOND, "num.cross_gpu") == {"FAIL"}
    assert of_gpu(document, FIRST, "num.cross_gpu") == {"UNKNOWN"}
    assert document["verdict"]["summary"].startswith("1 of 2 GPUs computed correctly")


def test_a_job_that_falls_back_to_the_processor_is_a_failure(host: Host) -> None:
    host.pretend(control="train", result={"device": "cpu:0", "result_devices": ["cpu:0"], "allocator_peak_bytes": None})
    code, reply = host.validate(performance=False, data_parallel=False)
    assert verdict_of(code, reply["document"]) == (1, "FAIL", "none")
    assert {"mnist.device WRONG_DEVICE", "mnist.control NOT_REFUSED"} <= codes_of(reply["document"], "FAIL")
    assert reply["document"]["gpu_use_proof"]["negative_control"] == {"torch/pytorch": "NOT REJECTED"}


# -- somebody works on the GPUs (F12) --------------------------------------------------------------------------------


def busy(host: Host) -> None:
    job = {"pid": 4242, "user": "ada", "command": "python train.py", "age_s": 60}
    host.write_facts(busy={"processes": [job], "complete": True, "reason": None})


def seen_by_the_driver_alone(host: Host) -> None:
    host.describe(lambda description: description["gpus"][0].update(processes="4194303:?"))


@pytest.mark.parametrize("occupy", [busy, seen_by_the_driver_alone])
def test_a_busy_host_is_refused_and_its_proof_stays(proven: Host, occupy: Callable[[Host], None]) -> None:
    occupy(proven)
    before = proven.verdict()
    code, reply = proven.validate("--always")
    assert (code, reply["error"]["reason_code"]) == (4, "BUSY")
    assert "4242" in reply["error"]["message"] or "4194303" in reply["error"]["message"]
    assert proven.started() == []
    after = proven.verdict()
    assert after["verdict"]["status"] == "PASS"
    assert (after["run_id"], after["finished"]) == (before["run_id"], before["finished"])


def test_a_proof_that_holds_no_more_does_not_stay_because_somebody_is_there(proven: Host) -> None:
    busy(proven)
    code, reply = proven.validate(job_seed=8)
    assert (code, reply["error"]["reason_code"]) == (4, "BUSY")
    document = proven.verdict()
    assert (document["verdict"]["status"], document["gpu_validated"]) == ("UNKNOWN", False)
    assert "mnist.train NOT_PROVEN" in codes_of(document, "UNKNOWN")
    assert proven.started() == []


def test_to_look_at_a_busy_host_is_no_failure(proven: Host) -> None:
    busy(proven)
    for options in (), ("--tiers", "0-2"):
        code, reply = proven.validate(*options)
        assert (code, reply["reused"]) == (0, True)
        assert verdict_of(code, reply["document"]) == (0, "PASS", "none")
        (row,) = (row for row in reply["document"]["checks"] if row["id"] == "gpu.busy")
        assert "python train.py" in row["message"]


def test_a_busy_host_with_a_fault_is_told_the_fault(proven: Host) -> None:
    """Nothing would be computed, so nobody is disturbed; an earlier PASS must not stay because somebody is there."""
    busy(proven)
    second(handle="!15", error="!15")(proven)
    code, reply = proven.validate("--always")
    assert verdict_of(code, reply["document"]) == (1, "FAIL", "reboot")
    assert proven.verdict()["verdict"]["status"] == "FAIL"
    assert proven.started() == []


# -- what the driver cannot see (F24) --------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", ["foreign", "none"])
def test_without_a_list_of_processes_the_proof_rests_on_other_signals(host: Host, listed: str) -> None:
    host.pretend(listed=listed)
    code, reply = host.validate(performance=False, data_parallel=False)
    document = reply["document"]
    assert verdict_of(code, document) == (0, "PASS", "none"), document["verdict"]["summary"]
    proof = document["gpu_use_proof"]["targets"]["torch/pytorch"]
    ok = {row["name"]: row["ok"] for row in proof["signals"]}
    assert (proof["reached"], ok["driver_process"], ok["kernel_records"]) == (True, False, True)


def test_the_frameworks_word_alone_is_no_proof(host: Host) -> None:
    host.pretend(listed="foreign", kernels=False)
    code, reply = host.validate(performance=False, data_parallel=False)
    document = reply["document"]
    assert verdict_of(code, document) == (2, "UNKNOWN", "none")
    assert document["gpu_use_proof"]["targets"]["torch/pytorch"]["reached"] is False
    assert codes_of(document, "UNKNOWN") == {"gpu.proof NO_DRIVER_SIGNAL"}


# -- under load (F26) ------------------------------------------------------------------------------------------------


def test_what_shows_under_load_alone_is_judged_there(host: Host) -> None:
    figures = dict(host.config["figures"])
    figures[FIRST] = {**figures[FIRST], "host_to_device": ["GB/s", 3.1], "device_to_host": ["GB/s", 3.1]}
    host.pretend(load={FIRST: {"pcie_gen": "1"}, SECOND: {"reasons": "0x48", "temperature": "91"}}, figures=figures)
    code, reply = host.validate(data_parallel=False)
    document = reply["document"]
    assert verdict_of(code, document) == (1, "FAIL", "isolate")
    failed = {(identity, target.rpartition("@")[2]) for identity, target in rows_of(document, "FAIL")}
    assert failed == {("perf.pcie_link", FIRST), ("perf.pcie", FIRST), ("perf.throttle", SECOND)}
    words = document["verdict"]["summary"]
    assert "generation 1 instead of 5" in words
    assert "slowed down under load" in words


# -- foreign and hostile words (F29, F30) ----------------------------------------------------------------------------


def windows(output: bytes) -> bytes:
    return output.replace(b"\n", b"\r\n")


def coloured(output: bytes) -> bytes:
    return b"\x1b[31m" + output + b"\x1b[0m\n"


def no_utf8(output: bytes) -> bytes:
    return output.replace(b"<product_brand>NVIDIA<", b"<product_brand>NVIDIA\xe9\xff<")


@pytest.mark.parametrize("dress", [windows, coloured, no_utf8], ids=lambda dress: dress.__name__)
def test_how_words_are_dressed_does_not_change_the_verdict(proven: Host, dress: Callable[[bytes], bytes]) -> None:
    proven.driver.smi(output=dress(standin.xml(proven.driver.description)))
    code, reply = proven.validate()
    assert (code, reply["reused"]) == (0, True)
    assert verdict_of(code, reply["document"]) == (0, "PASS", "none"), reply["document"]["verdict"]["summary"]


def test_a_language_with_other_numbers_does_not_change_the_verdict(proven: Host) -> None:
    variables = proven.variables
    proven.variables = {**(variables or {}), "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"}
    try:
        code, reply = proven.validate()
    finally:
        proven.variables = variables
    assert verdict_of(code, reply["document"]) == (0, "PASS", "none"), reply["document"]["verdict"]["summary"]


def test_hostile_names_stay_words(tmp_path: Path) -> None:
    name = 'NVIDIA "H100"\n</script>{{ 1 + 1 }}\u202e'
    host = Host(tmp_path, standin.h100(0, name=name), standin.h100(1, name=name))
    code, reply = host.validate(data_parallel=False)  # more than one line, or one that is no JSON, fails here
    document = reply["document"]
    assert (code, document["verdict"]["status"]) == (0, "WARN"), document["verdict"]["summary"]
    text = (host.base / "validation" / "verdict.json").read_text()
    assert "\u202e" not in text
    assert "\\u202e" not in text
    told = document["observed"]["gpus"][0]["name"]
    assert told.startswith('NVIDIA "H100" </script>')
    assert "\n" not in told


def test_the_plan_that_these_tests_give_is_that_of_their_hosts(host: Host) -> None:
    assert [row["product"] for row in planned(host.gpus)] == ["H100 SXM5 80GB"] * 2
    assert [gpu["bus"] for gpu in host.facts["gpus"]] == BDF[:2]
