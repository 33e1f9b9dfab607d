# SPDX-License-Identifier: Apache-2.0
"""The proof of GPU use and the control. The facts are invented: these tests prove decisions, nothing about a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_proof
import pytest
from processes import Outcome

TABLE = json.loads((Path(gpu_proof.__file__).parent / "thresholds.json").read_text())
UUID, OTHER = "GPU-aaaaaaaa-0000", "GPU-bbbbbbbb-0001"
PROCESS = {"uuid": UUID, "pid": 4711, "start": 100}
WATCH: dict[str, Any] = {"simulated": False, "problem": "", "processes": [PROCESS], "accounting": [], "gpus": []}
NOT_WATCHED: dict[str, Any] = {"simulated": False, "problem": "no pynvml", "processes": [], "accounting": []}
KERNELS = {"available": True, "why": "", "count": 64, "names": ["sgemm", "relu"], "source": "torch.profiler"}
TIME = {
    "available": True, "why": "", "milliseconds": 4.0, "wall_milliseconds": 5.0, "source": "CUDA events",
}  # fmt: skip
NO_TIME = {"available": False, "why": "JAX measures no time on the GPU by itself", "milliseconds": None}
PROOF = {"pid": 4711, "pid_start": 100, "steps": 8, "kernels": KERNELS, "device_time": TIME}
RESULT: dict[str, Any] = {
    "result_devices": ["cuda:0"], "device": "cuda:0", "allocator_peak_bytes": 67_000_000, "model_bytes": 101_800,
    "proof": PROOF,
}  # fmt: skip


def judge(watch: Any = WATCH, result: Any = RESULT, expected: list[str] | None = None, **proof: Any) -> Any:
    if isinstance(result, dict) and proof:
        result = {**result, "proof": {**PROOF, **proof}}
    return gpu_proof.judge("torch/pytorch", result, watch, [UUID] if expected is None else expected, TABLE)


def good(rows: list[dict[str, Any]]) -> set[str]:
    return {row["name"] for row in rows if row["ok"]}


def test_five_signals_are_a_pass() -> None:
    check, proof = judge()
    assert (check["id"], check["status"], check["target"], check["tier"]) == ("gpu.proof", "PASS", "torch/pytorch", 4)
    assert proof["reached"] is True
    assert good(proof["signals"]) == set(gpu_proof.SIDES)
    assert {row["name"]: row["side"] for row in proof["signals"]} == gpu_proof.SIDES


def test_three_signals_are_enough_when_one_is_the_drivers() -> None:
    """JAX and TensorFlow have no time of their own on the GPU, and in a container the driver lists no process."""
    check, proof = judge(NOT_WATCHED, device_time=NO_TIME)
    assert good(proof["signals"]) == {"result_device", "allocator_peak", "kernel_records"}
    assert check["status"] == "PASS"


def test_the_frameworks_word_alone_is_not_believed() -> None:
    check, proof = judge(NOT_WATCHED, kernels={**KERNELS, "count": 0, "names": []})
    assert good(proof["signals"]) == {"result_device", "allocator_peak", "device_time"}
    assert (check["status"], check["reason_code"], proof["reached"]) == ("UNKNOWN", "NO_DRIVER_SIGNAL", False)
    assert "no pynvml" in check["message"]


def test_two_signals_are_too_few() -> None:
    check, proof = judge(NOT_WATCHED, device_time=NO_TIME, kernels=None)
    assert (check["status"], check["reason_code"], proof["reached"]) == ("UNKNOWN", "NO_QUORUM", False)
    assert "JAX measures no time on the GPU by itself" in check["message"]


@pytest.mark.parametrize("result", [None, {}, {"error": {"reason_code": "JOB_ERROR"}, **RESULT}, "text", []], ids=str)
def test_a_job_without_a_result_is_not_assessed(result: Any) -> None:
    check, proof = judge(result=result)
    assert check["status"] == "UNKNOWN"
    assert check["reason_code"] in ("NO_RESULT", "NO_QUORUM")
    assert len(proof["signals"]) == 5


@pytest.mark.parametrize("watch", [None, {}, {"processes": None}, {"processes": [None, "text", 7]}, "text"], ids=str)
def test_a_watch_that_saw_nothing_is_no_signal(watch: Any) -> None:
    check, proof = judge(watch)
    assert "driver_process" not in good(proof["signals"])
    assert check["status"] == "PASS"  # by the four others


def test_a_recycled_process_number_is_no_signal() -> None:
    _, proof = judge({**WATCH, "processes": [{**PROCESS, "start": 99}]})
    assert "driver_process" not in good(proof["signals"])
    _, proof = judge({**WATCH, "processes": [{**PROCESS, "start": None}]})
    assert "driver_process" not in good(proof["signals"])


def test_the_drivers_accounting_is_a_signal_too() -> None:
    _, proof = judge({**NOT_WATCHED, "accounting": [PROCESS]})
    assert "driver_process" in good(proof["signals"])


@pytest.mark.parametrize("missing", ["pid", "pid_start"])
def test_a_job_that_hides_its_process_gives_no_signal(missing: str) -> None:
    """None equals None: a start that is missing on both sides must not match."""
    watch = {**WATCH, "processes": [{**PROCESS, missing.replace("pid_", ""): None}]}
    _, proof = judge(watch, **{missing: None})
    assert "driver_process" not in good(proof["signals"])


def test_a_job_on_another_gpu_is_a_failure_whatever_else_it_shows() -> None:
    check, proof = judge({**WATCH, "processes": [{**PROCESS, "uuid": OTHER}]})
    assert (check["status"], check["reason_code"], proof["reached"]) == ("FAIL", "WRONG_GPU", False)
    assert OTHER in check["message"]


def test_a_job_on_its_gpu_and_another_is_not_the_wrong_gpu() -> None:
    check, _ = judge({**WATCH, "processes": [PROCESS, {**PROCESS, "uuid": OTHER}]})
    assert check["status"] == "PASS"


def test_a_mig_instance_is_listed_under_its_gpu() -> None:
    """The driver lists processes of an instance under the whole GPU, so that is no other GPU."""
    check, proof = judge(expected=["MIG-cccccccc", UUID])
    assert check["status"] == "PASS"
    assert "driver_process" in good(proof["signals"])
    check, _ = judge({**WATCH, "processes": [{**PROCESS, "uuid": OTHER}]}, expected=["MIG-cccccccc", UUID])
    assert check["reason_code"] == "WRONG_GPU"
    check, proof = judge(expected=["MIG-cccccccc"])  # the whole GPU is not known: no signal, and no accusation
    assert check["status"] == "PASS"
    assert "driver_process" not in good(proof["signals"])


def test_no_expected_gpu_is_never_a_pass() -> None:
    check, _ = judge(expected=[])
    assert check["status"] == "FAIL"


@pytest.mark.parametrize("devices", [[], None, ["cpu"], ["cuda:0", "cpu"], ["meta"], "cuda:0", [None]], ids=str)
def test_results_elsewhere_are_no_signal(devices: Any) -> None:
    _, proof = judge(result={**RESULT, "result_devices": devices})
    assert "result_device" not in good(proof["signals"])


@pytest.mark.parametrize("peak", [None, 0, 101_800, float("nan"), float("inf"), "67000000", True], ids=str)
def test_too_little_memory_is_no_signal(peak: Any) -> None:
    _, proof = judge(result={**RESULT, "allocator_peak_bytes": peak})
    assert "allocator_peak" not in good(proof["signals"])
    _, proof = judge(result={**RESULT, "model_bytes": 0})
    assert "allocator_peak" not in good(proof["signals"])


@pytest.mark.parametrize("spent", [None, 0.0, -1.0, float("nan"), float("inf"), "4.0", 7.0], ids=str)
def test_a_time_that_cannot_be_is_no_signal(spent: Any) -> None:
    _, proof = judge(device_time={**TIME, "milliseconds": spent})
    assert "device_time" not in good(proof["signals"])


@pytest.mark.parametrize(
    "kernels",
    [
        None, "text", {}, {**KERNELS, "available": False}, {**KERNELS, "count": 0}, {**KERNELS, "count": float("nan")},
        {**KERNELS, "names": []}, {**KERNELS, "names": None}, {**KERNELS, "count": "64"},
    ],
    ids=str,
)  # fmt: skip
def test_no_kernels_are_no_signal(kernels: Any) -> None:
    _, proof = judge(kernels=kernels)
    assert "kernel_records" not in good(proof["signals"])


def test_a_stand_in_is_marked() -> None:
    check, proof = judge({**WATCH, "simulated": True})
    assert proof["simulated"] is True
    assert "simulated" in check["message"]


def test_hostile_names_of_kernels_stay_one_line() -> None:
    _, proof = judge(kernels={**KERNELS, "names": ["a\nb\x1b[31m", "\u202ec"]})
    detail = next(row["detail"] for row in proof["signals"] if row["name"] == "kernel_records")
    assert not set(detail) & set("\n\x1b\u202e")


# -- the control -----------------------------------------------------------------------------------------------------

REFUSED = {"error": {"reason_code": "NO_GPU", "message": "finds no usable GPU"}}


def control(
    result: Any = REFUSED, code: Any = 1, seconds: float = 4.0, state: str = "finished", problem: str = ""
) -> Any:
    outcome = Outcome(state, code, seconds, "the last line")
    return gpu_proof.judge_control("torch/pytorch", outcome, result, problem, TABLE, "control.log")


def test_a_job_that_refuses_without_a_gpu_passes() -> None:
    check = control()
    assert (check["id"], check["status"], check["evidence"]) == ("mnist.control", "PASS", ["control.log"])


def test_a_job_that_trains_on_the_processor_instead_fails() -> None:
    check = control({"accuracy": 0.97, "result_devices": ["cpu"]}, 0)
    assert (check["status"], check["reason_code"]) == ("FAIL", "NOT_REFUSED")
    assert "trained on cpu" in check["message"]
    assert control(None, 0)["status"] == "FAIL"
    assert control(REFUSED, 0)["status"] == "FAIL"


def test_a_job_that_does_not_end_without_a_gpu_fails() -> None:
    assert control(None, None, 80.0, "timeout")["reason_code"] == "TIMEOUT"
    stuck = control(None, None, 80.0, "abandoned")
    assert (stuck["status"], stuck["action"]) == ("FAIL", "reboot")
    assert control(seconds=61.0)["status"] == "FAIL"
    assert control(seconds=float("nan"))["status"] == "FAIL"


@pytest.mark.parametrize("reason", ["FRAMEWORK_MISSING", "DATA", "JOB_ERROR", "", None])
def test_another_reason_proves_nothing(reason: Any) -> None:
    check = control({"error": {"reason_code": reason, "message": "something else"}})
    assert (check["status"], check["reason_code"]) == ("UNKNOWN", "OTHER_ERROR")


def test_a_control_without_a_result_proves_nothing() -> None:
    assert control(None)["status"] == "UNKNOWN"
    assert control(None, -11)["status"] == "UNKNOWN"
    assert control(None, problem="is not JSON")["status"] == "UNKNOWN"
    assert control(None, None, 0.0, "not_started")["reason_code"] == "TOOL_MISSING"


# -- the whole -------------------------------------------------------------------------------------------------------


def test_the_control_is_required_in_both_profiles_and_the_proof_on_a_gpu() -> None:
    c = SimpleNamespace(environments=[{"name": "tf", "frameworks": {"tensorflow": "2", "keras": "3"}}])
    control = [("mnist.control", "tf/tensorflow"), ("mnist.control", "tf/keras")]
    assert gpu_proof.required(SimpleNamespace(**vars(c), profile="cpu")) == control
    both = gpu_proof.required(SimpleNamespace(**vars(c), profile="gpu"))
    assert set(both) == {*control, ("gpu.proof", "tf/tensorflow"), ("gpu.proof", "tf/keras")}


def test_the_documents_part_names_proofs_and_controls() -> None:
    _, proof = judge()
    other = {**control(None), "target": "tf/keras"}
    section = gpu_proof.section({"torch/pytorch": proof, "tf/keras": None}, [control(), other])
    assert section["quorum_needed"] == 3
    assert list(section["targets"]) == ["torch/pytorch"]
    assert section["negative_control"] == {"tf/keras": "unknown", "torch/pytorch": "rejected"}
    assert gpu_proof.section({}, [control({}, 0)])["negative_control"] == {"torch/pytorch": "NOT REJECTED"}
    json.dumps(section)


def test_the_gates_test_themselves_and_notice_broken_ones() -> None:
    assert set(gpu_proof.self_test(TABLE).values()) == {True}

    def believes_all(target: str, *_: Any) -> Any:
        return {"status": "PASS"}, {}

    def lets_all_pass(target: str, *_: Any) -> Any:
        return {"status": "PASS"}

    assert False in gpu_proof.self_test(TABLE, judge=believes_all).values()
    assert False in gpu_proof.self_test(TABLE, judge_control=lets_all_pass).values()
