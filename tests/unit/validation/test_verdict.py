# SPDX-License-Identifier: Apache-2.0
"""From checks to a verdict."""

from __future__ import annotations

import itertools
from typing import Any

import gates
import pytest
import verdict

REQUIRED = [("mnist.train", "tf/keras", 4)]


def compose(*statuses: str, required: list[tuple[str, str, int]] | None = None, **options: Any) -> dict[str, Any]:
    checks = [gates.check("mnist.train", "tf/keras", status, "words") for status in statuses]
    options = {"profile": "cpu", "simulated": False, **options}
    composed: dict[str, Any] = verdict.compose(checks, REQUIRED if required is None else required, **options)[0]
    return composed


@pytest.mark.parametrize("statuses", list(itertools.permutations(["PASS", "WARN", "UNKNOWN", "FAIL"])))
def test_the_worst_wins_in_any_order(statuses: tuple[str, ...]) -> None:
    order = ["PASS", "WARN", "UNKNOWN", "FAIL"]
    for count in range(1, 5):
        worst = max(statuses[:count], key=order.index)
        assert compose(*statuses[:count])["status"] == worst


def test_a_check_that_was_not_made_is_unknown() -> None:
    checks = [gates.check("mnist.train", "tf/keras", "PASS", "words")]
    composed, missing = verdict.compose(checks, [*REQUIRED, ("mnist.device", "tf/keras", 4)], "cpu", False)
    assert composed["status"] == "UNKNOWN"
    assert missing == [("mnist.device", "tf/keras")]
    assert checks[-1]["reason_code"] == "MISSING"


def test_a_check_of_another_target_does_not_count() -> None:
    assert compose("PASS", required=[("mnist.train", "torch/pytorch", 4)])["status"] == "UNKNOWN"


def test_nothing_required_is_nothing_proven() -> None:
    assert compose("PASS", required=[])["status"] == "UNKNOWN"


@pytest.mark.parametrize("status", ["SKIP", "pass", "OK", "", "N/A"])
def test_skipped_and_unknown_words_are_never_a_pass(status: str) -> None:
    assert compose(status)["status"] == "UNKNOWN"


def test_an_optional_check_may_be_skipped() -> None:
    checks = [gates.check(*REQUIRED[0][:2], "PASS", ""), gates.check("perf", "gpu0", "SKIP", "", required=False)]
    assert verdict.compose(checks, REQUIRED, "cpu", False)[0]["status"] == "PASS"


@pytest.mark.parametrize(
    ("status", "profile", "simulated", "label"),
    [
        ("PASS", "cpu", False, "PASS (cpu profile - no GPU claim)"),
        ("WARN", "cpu", False, "WARN (cpu profile - no GPU claim)"),
        ("FAIL", "cpu", False, "FAIL"),
        ("UNKNOWN", "gpu", False, "UNKNOWN"),
        ("PASS", "cpu", True, "PASS (cpu profile - no GPU claim) [simulated]"),
        ("FAIL", "gpu", True, "FAIL [simulated]"),
    ],
)
def test_labels(status: str, profile: str, simulated: bool, label: str) -> None:
    assert verdict.label(status, profile, simulated) == label
    assert compose(status, profile=profile, simulated=simulated)["label"] == label


def test_the_gravest_action_of_failed_checks() -> None:
    checks = [gates.check("a", "x", "FAIL", "", action=action) for action in ("reset_gpu", "reboot", "none")]
    checks.append(gates.check("b", "x", "WARN", "", action="rma"))
    assert verdict.compose(checks, [("a", "x", 0)], "gpu", False)[0]["action"] == "reboot"


def test_the_summary_names_what_is_wrong() -> None:
    assert "tf/keras: words" in compose("FAIL")["summary"]
    assert compose("PASS")["summary"] == "1 of 1 MNIST jobs trained as they should"
