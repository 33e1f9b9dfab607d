# SPDX-License-Identifier: Apache-2.0
"""Training on several GPUs together: when it is demanded, and what is judged. The results are invented."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import data_parallel
import pytest
from processes import Outcome

TABLE = json.loads((Path(data_parallel.__file__).parent / "thresholds.json").read_text())
Device = namedtuple("Device", "index uuid bdf name product memory")
FINISHED = Outcome("finished", 0, 12.3, "")
RIGHT = {"w1": 1e-7, "b1": 1e-7, "w2": 2e-7, "b2": 1e-7}
GOOD: dict[str, Any] = {
    "version": "2.13.0", "replicas": 2, "devices": ["cuda:0", "cuda:1"], "backend": "nccl", "gradients": RIGHT,
    "single_device": RIGHT, "replicas_spread": 0.0, "loss_curve": [2.0, 1.2, 0.9], "accuracy": 0.7,
}  # fmt: skip


def gpus(*names: str) -> list[Any]:
    return [Device(i, f"GPU-{i}", f"0000:{i:02x}:00.0", name, name, 1) for i, name in enumerate(names)]


def context(devices: list[Any], profile: str = "gpu", **changes: Any) -> Any:
    environments = [
        {"name": "torch", "frameworks": {"pytorch": "2.13.0"}},
        {"name": "tf", "frameworks": {"tensorflow": "2.21.0", "keras": "3.14.0"}},
    ]
    settings = {"data_parallel": True, "job_seed": 7, **changes}
    return SimpleNamespace(
        settings=settings, table=TABLE, profile=profile, devices=devices, environments=environments, runner=None
    )


def judge(outcome: Outcome = FINISHED, problem: str = "", framework: str = "pytorch", result: Any = GOOD) -> Any:
    return data_parallel.judge("torch/pytorch", framework, "gpu", 2, outcome, result, problem, TABLE, "torch.log")


def statuses(**changes: Any) -> list[str]:
    return [row["status"] for row in judge(result={**GOOD, **changes})]


def test_it_is_demanded_of_every_framework_where_there_are_two_gpus() -> None:
    rows = data_parallel.required(context(gpus("H100", "H100")))
    targets = ["torch/pytorch", "tf/tensorflow"]  # Keras trains as its backend does
    assert rows == [(name, target) for target in targets for name in ("dp.gradients", "dp.train")]


@pytest.mark.parametrize(
    ("c", "reason_code", "words"),
    [
        (context(gpus("H100")), "NOT_APPLICABLE", "there are 1 GPUs"),
        (context([]), "NOT_APPLICABLE", "there are 0 GPUs"),
        (context(gpus("H100", "L40S")), "NOT_APPLICABLE", "no two of them of one model"),
        (context([], "cpu"), "NOT_APPLICABLE", "the processor alone is used"),
        (context(gpus("H100", "H100"), data_parallel=False), "NOT_REQUESTED", "validation_data_parallel is false"),
        (
            context([row._replace(uuid=f"MIG-{row.index}") for row in gpus("H100", "H100")]),
            "NOT_APPLICABLE",
            "one MIG instance",
        ),
    ],
    ids=["one", "none", "two models", "cpu", "not requested", "MIG"],
)
def test_it_is_skipped_with_the_reason_where_it_cannot_be(c: Any, reason_code: str, words: str) -> None:
    assert data_parallel.required(c) == []
    checks, section = data_parallel.run(c, "/nowhere")
    assert [(row["id"], row["status"], row["required"]) for row in checks] == [
        ("dp.gradients", "SKIP", False),
        ("dp.train", "SKIP", False),
    ]
    assert {row["reason_code"] for row in checks} == {reason_code}
    assert words in checks[0]["message"]
    assert section == {"rows": []}


def test_the_largest_group_of_one_model_trains() -> None:
    chosen = data_parallel.devices(context(gpus("L40S", "H100", "H100", "L40S", "H100")))
    assert [device.uuid for device in chosen] == ["GPU-1", "GPU-2", "GPU-4"]


class PretendedRunner:
    """Keeps what it was asked to start, and answers with one result for all."""

    run_directory = "/logs"

    def __init__(self, result: Any) -> None:
        self.answer, self.started = result, []  # type: ignore[var-annotated]

    def start(self, environment: Any, program: str, arguments: Any, log: str, timeout: float, devices: Any) -> Outcome:
        self.started.append((environment["name"], program, [str(word) for word in arguments], timeout, devices))
        return FINISHED

    def result_path(self, name: str) -> str:
        return f"/scratch/{name}"

    def result(self, _: str) -> tuple[Any, str]:
        return self.answer, ""

    def progress(self, _: str) -> None:
        pass

    def event(self, *_: Any, **__: Any) -> None:
        pass


def test_each_framework_runs_once_on_all_gpus() -> None:
    c = context(gpus("H100", "H100"))
    c.runner = PretendedRunner(GOOD)
    checks, section = data_parallel.run(c, "/data")
    assert [(name, program) for name, program, *_ in c.runner.started] == [
        ("torch", "data_parallel_pytorch.py"),
        ("tf", "data_parallel_tensorflow.py"),
    ]
    _, _, arguments, timeout, devices = c.runner.started[0]
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert (options["--device"], options["--devices"], options["--data"]) == ("gpu", "2", "/data")
    assert int(options["--timeout"]) < timeout
    assert [device.uuid for device in devices] == ["GPU-0", "GPU-1"]
    assert [row["status"] for row in checks] == ["PASS"] * 4
    assert {(row["id"], row["target"]) for row in checks} == set(data_parallel.required(c))
    assert [row["status"] for row in section["rows"]] == ["PASS", "PASS"]
    assert section["rows"][0]["gradients"] == RIGHT
    assert section["rows"][0]["gradients_worst"] == 2e-7
    json.dumps(section)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.1e-5, -1e-7, None, "1e-7", True], ids=str)
@pytest.mark.parametrize("against", ["gradients", "single_device"])
@pytest.mark.parametrize("name", ["w1", "b2"])
def test_wrong_gradients_fail(against: str, name: str, value: Any) -> None:
    row = judge(result={**GOOD, against: {**RIGHT, name: value}})[0]
    assert (row["status"], row["reason_code"]) == ("FAIL", "WRONG_GRADIENT")
    assert name in row["message"]


@pytest.mark.parametrize("gradients", [None, {}, [], {"w1": 1e-7}], ids=str)
def test_missing_gradients_fail(gradients: Any) -> None:
    assert statuses(gradients=gradients)[0] == "FAIL"


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ["cuda:0", "cuda:0"]}, {"devices": ["cuda:0"]}, {"devices": ["cuda:0", "cpu"]}, {"devices": None},
        {"devices": ["cpu:0", "cpu:1"]}, {"replicas": 1}, {"devices": ["cuda:0", "cuda:1", "cuda:2"]},
    ],
    ids=str,
)  # fmt: skip
def test_fewer_devices_than_asked_for_fail(changes: dict[str, Any]) -> None:
    assert judge(result={**GOOD, **changes})[0]["reason_code"] == "WRONG_DEVICE"


def test_gradients_exchanged_on_the_processor_fail() -> None:
    assert judge(result={**GOOD, "backend": "gloo"})[0]["reason_code"] == "WRONG_BACKEND"


@pytest.mark.parametrize("spread", [0.01, float("nan"), None, -1.0], ids=str)
def test_replicas_that_drift_apart_fail(spread: Any) -> None:
    assert judge(result={**GOOD, "replicas_spread": spread})[0]["reason_code"] == "REPLICAS_DIFFER"


@pytest.mark.parametrize(
    "losses",
    [[2.0, 2.0], [2.0, 1.5], [0.5, 2.0], [2.0], [], None, [2.0, float("nan")], [0.0, 0.0], ["2", "1"]],
    ids=str,
)
def test_a_loss_that_does_not_fall_fails(losses: Any) -> None:
    assert statuses(loss_curve=losses) == ["PASS", "FAIL"]


def test_what_the_job_itself_says_is_told() -> None:
    error = {"error": {"reason_code": "TOO_FEW_DEVICES", "message": "PyTorch finds 1 devices"}}
    rows = judge(Outcome("finished", 1, 3.0, ""), result=error)
    assert {(row["status"], row["reason_code"], row["message"]) for row in rows} == {
        ("FAIL", "TOO_FEW_DEVICES", "PyTorch finds 1 devices")
    }


@pytest.mark.parametrize(
    ("outcome", "problem", "status", "reason_code"),
    [
        (Outcome("timeout", None, 300.0, ""), "", "FAIL", "TIMEOUT"),
        (Outcome("abandoned", None, 320.0, ""), "", "FAIL", "TIMEOUT"),
        (Outcome("not_started", None, 0.0, "cannot be started"), "", "FAIL", "TOOL_MISSING"),
        (Outcome("finished", -9, 3.0, ""), "", "FAIL", "CRASHED"),
        (Outcome("finished", 0, 3.0, ""), "is not JSON", "UNKNOWN", "PARSE"),
        (Outcome("finished", 0, 3.0, ""), "", "UNKNOWN", "NO_RESULT"),
    ],
)
def test_jobs_without_a_result_never_pass(outcome: Outcome, problem: str, status: str, reason_code: str) -> None:
    rows = judge(outcome, problem, result=None)
    assert [(row["status"], row["reason_code"]) for row in rows] == [(status, reason_code)] * 2
    assert {row["action"] for row in rows} == {"reboot" if outcome.state == "abandoned" else "none"}


def test_the_gates_test_themselves_and_notice_broken_ones() -> None:
    assert set(data_parallel.self_test(TABLE).values()) == {True}

    def lets_all_pass(*_: Any) -> Any:
        return [{"status": "PASS"}, {"status": "PASS"}]

    assert list(data_parallel.self_test(TABLE, judge=lets_all_pass).values()).count(False) == 5
