# SPDX-License-Identifier: Apache-2.0
"""The gates: what a job measured, and what the verdict makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gates
import pytest
from processes import Outcome

TABLE = json.loads((Path(gates.__file__).parent / "thresholds.json").read_text())
GOOD: dict[str, Any] = {
    "accuracy": 0.967, "loss_curve": [0.4, 0.2, 0.1], "epochs": 10, "batch_size": 32, "notes": [],
    "device": "cpu", "result_devices": ["cpu"], "model_bytes": 101800, "allocator_peak_bytes": None,
}  # fmt: skip
FINISHED = Outcome("finished", 0, 12.3, "")


def training(**changes: Any) -> dict[str, Any]:
    return gates.judge_training("tf/keras", {**GOOD, **changes}, changes.pop("dataset", "mnist"), TABLE)


def test_a_good_result_passes() -> None:
    assert training()["status"] == "PASS"
    assert training(batch_size=16)["status"] == "PASS"


@pytest.mark.parametrize(
    "accuracy", [float("nan"), float("inf"), -0.1, 1.2, None, "0.99", True, [0.99], 0.9499], ids=str
)
def test_accuracies_that_fail(accuracy: Any) -> None:
    assert training(accuracy=accuracy)["status"] == "FAIL"


@pytest.mark.parametrize(
    "losses",
    [[0.4, float("nan")], [float("nan"), 0.1], [0.1, 0.4], [0.4, 0.4], [], None, ["0.4", "0.1"], [0.4, -1]],
    ids=str,
)
def test_losses_that_fail(losses: Any) -> None:
    assert training(loss_curve=losses)["status"] == "FAIL"


def test_fewer_epochs_than_the_table_are_never_a_pass() -> None:
    row = training(epochs=2, loss_curve=[0.4, 0.2])
    assert row["status"] == "WARN"
    assert "not judged" in row["message"]
    assert training(epochs=2, loss_curve=[0.4, 0.2], accuracy=float("nan"))["status"] == "FAIL"
    assert training(epochs=float("nan"))["status"] == "WARN"


def test_a_larger_batch_is_judged_by_what_it_reached() -> None:
    assert training(batch_size=512)["status"] == "PASS"
    assert training(batch_size=512, accuracy=0.93)["status"] == "WARN"


def test_a_halved_batch_is_told() -> None:
    row = training(batch_size=16, notes=["out of memory with batch size 32, tried again with 16"])
    assert row["status"] == "WARN"
    assert "out of memory with batch size 32" in row["message"]


@pytest.mark.parametrize(
    ("profile", "changes", "status"),
    [
        ("cpu", {}, "PASS"),
        ("cpu", {"device": "CPU:0", "result_devices": ["CPU:0"]}, "PASS"),
        ("gpu", {}, "FAIL"),
        ("gpu", {"device": "cuda:0", "result_devices": ["cuda:0"], "allocator_peak_bytes": 50_000_000}, "PASS"),
        ("gpu", {"device": "GPU:0", "result_devices": ["GPU:0", "CPU:0"], "allocator_peak_bytes": 50_000_000}, "FAIL"),
        ("gpu", {"device": "cuda:0", "result_devices": ["cuda:0"], "allocator_peak_bytes": None}, "FAIL"),
        ("gpu", {"device": "cuda:0", "result_devices": ["cuda:0"], "allocator_peak_bytes": 1000}, "FAIL"),
        ("gpu", {"device": "cuda:0", "result_devices": ["cuda:0"], "allocator_peak_bytes": float("nan")}, "FAIL"),
        ("cpu", {"device": "cuda:0", "result_devices": ["cuda:0"]}, "FAIL"),
        ("cpu", {"result_devices": []}, "FAIL"),
        ("cpu", {"result_devices": "cpu"}, "FAIL"),
        ("cpu", {"device": None}, "FAIL"),
        ("cpu", {"device": "cpu or so"}, "FAIL"),
    ],
)
def test_devices(profile: str, changes: dict[str, Any], status: str) -> None:
    assert gates.judge_device("tf/keras", {**GOOD, **changes}, profile)["status"] == status


@pytest.mark.parametrize(
    ("outcome", "result", "problem", "status", "words"),
    [
        (
            Outcome("not_started", None, 0, "/x/python cannot be started: No such file"),
            None,
            "",
            "FAIL",
            "No such file",
        ),
        (Outcome("timeout", None, 60, ""), None, "", "FAIL", "time limit"),
        (Outcome("timeout", None, 60, ""), GOOD, "", "FAIL", "time limit"),
        (Outcome("abandoned", None, 80, ""), None, "", "FAIL", "SIGKILL"),
        (Outcome("finished", -11, 1, ""), None, "", "FAIL", "signal 11"),
        (Outcome("finished", 0, 1, ""), None, "", "UNKNOWN", "left no result"),
        (Outcome("finished", 0, 1, ""), None, "does not hold a JSON object", "UNKNOWN", "JSON"),
        (Outcome("finished", 1, 1, "OSError: No space left on device\n"), None, "", "UNKNOWN", "No space left"),
        (Outcome("finished", 1, 1, ""), GOOD, "", "UNKNOWN", "status 1"),
        (
            Outcome("finished", 1, 1, ""),
            {"error": {"reason_code": "NO_GPU", "message": "no GPU here"}},
            "",
            "FAIL",
            "no GPU",
        ),
    ],
)
def test_jobs_without_a_usable_result(
    outcome: Outcome, result: dict[str, Any] | None, problem: str, status: str, words: str
) -> None:
    rows = gates.judge_job("tf/keras", "cpu", outcome, result, problem, "mnist", TABLE, "log")
    assert {row["id"]: row["status"] for row in rows} == {"mnist.train": status, "mnist.device": status}
    assert words in rows[0]["message"]


def test_only_what_survives_sigkill_calls_for_a_reboot() -> None:
    actions = [
        gates.judge_job("t", "cpu", Outcome(state, None, 1, ""), None, "", "mnist", TABLE, "log")[0]["action"]
        for state in ("timeout", "abandoned")
    ]
    assert actions == ["none", "reboot"]


def test_a_good_job_passes_both_gates() -> None:
    rows = gates.judge_job("tf/keras", "cpu", FINISHED, GOOD, "", "mnist", TABLE, "log")
    assert {row["id"]: row["status"] for row in rows} == {"mnist.train": "PASS", "mnist.device": "PASS"}


def test_the_self_test_holds() -> None:
    assert set(gates.self_test(TABLE).values()) == {True}


def test_the_self_test_finds_a_gate_that_lets_everything_pass() -> None:
    def yes(*_: Any, **__: Any) -> dict[str, str]:
        return {"status": "PASS"}

    answers = gates.self_test(TABLE, judge_training=yes, judge_device=yes)
    assert [name for name, good in answers.items() if good] == ["good_result_accepted"]


def test_the_self_test_finds_a_gate_that_compares_the_wrong_way() -> None:
    def naive(target: str, result: dict[str, Any], dataset: str, table: dict[str, Any]) -> dict[str, str]:
        return {"status": "FAIL" if result["accuracy"] < table["datasets"][dataset]["accuracy_min"] else "PASS"}

    answers = gates.self_test(TABLE, judge_training=naive)
    assert answers["low_accuracy_rejected"]
    assert not answers["nan_accuracy_rejected"]


def test_foreign_text_becomes_one_printable_line() -> None:
    assert gates.text('GPU "A"\n\x1b[31mred\x00\u202e') == 'GPU "A" [31mred'
    assert len(gates.text("x" * 5000)) == 200
