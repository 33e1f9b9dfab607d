# SPDX-License-Identifier: Apache-2.0
"""Verdicts as a table for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabricated_lab import HOSTILE, check, hostile
from gpu_report.table import table

Make = Callable[..., dict[str, Any]]
VERDICTS: dict[str, Any] = {
    "gpu01": {
        "results": [
            {"environment": "torch", "framework": "pytorch", "version": "2.13.0", "python": "3.11", "device": "cpu",
             "dataset": "generated", "accuracy": 0.97531, "seconds": 21.4, "status": "PASS"},
            {"environment": "evil\n<b>", "framework": "keras", "keras_backend": "torch", "status": "FAIL"},
        ],
        "checks": [{"id": "mnist.train", "target": "evil/keras", "status": "FAIL", "message": "accuracy nan"}],
        "verdict": {"status": "FAIL", "label": "FAIL (cpu profile - no GPU claim)"},
    },
    "gpu02": {},
}  # fmt: skip


def test_table_shows_every_host_and_never_an_empty_success() -> None:
    lines = table(VERDICTS).splitlines()
    assert any(
        "PyTorch 2.13.0" in line and "0.9753" in line and "21" in line and line.endswith("PASS") for line in lines
    )
    assert any("evil <b>" in line and "Keras" in line and "on PyTorch" in line for line in lines)
    assert any(line.startswith("gpu02") and line.endswith("UNKNOWN (no verdict)") for line in lines)
    assert any("FAIL (cpu profile - no GPU claim)" in line for line in lines)
    assert lines[-2] == "gpu01: FAIL mnist.train evil/keras accuracy nan"


def test_a_host_without_a_verdict_says_why_below_the_table() -> None:
    assert table(VERDICTS).splitlines()[-1] == "gpu02: UNKNOWN - there is no verdict"
    said = table(VERDICTS, {"gpu02": "No route to host\x1b[31m\nand more"}).splitlines()
    assert said[-1] == "gpu02: UNKNOWN - No route to host [31m and more"


def test_table_says_when_a_verdict_was_used_again() -> None:
    verdict = {"reused": True, "started": "2026-01-01T10:00:00Z", "finished": "2026-01-01T10:04:00Z"}
    verdict["verdict"] = {"status": "PASS", "label": "PASS"}
    assert table({"gpu01": verdict}).splitlines()[-1].startswith("gpu01: proven at 2026-01-01T10:04:00Z;")


def test_tiers_have_a_table_of_their_own(document: Make) -> None:
    lines = table({"gpu01": document(), "gpu02": {}}).splitlines()
    heading = next(line for line in lines if line.startswith("HOST") and "T3 NUMERICS" in line)
    row = next(line for line in lines[lines.index(heading) + 1 :] if line.startswith("gpu01"))
    assert row.split() == ["gpu01", *["PASS"] * 6, "-"]
    assert lines[lines.index(row) + 1].split() == ["gpu02", *["-"] * 7]


def test_what_follows_from_a_failed_tier_is_not_said_again(document: Make) -> None:
    checks = [check("drv.match", "host", 1, "FAIL", "reboot", action="reboot", reason_code="X")]
    checks += [check("mnist.train", f"e{index}/pytorch", 4, "UNKNOWN", "not made") for index in range(30)]
    lines = table({"gpu01": document(checks=checks)}).splitlines()
    assert lines[-1] == "gpu01: FAIL drv.match host reboot [reboot]"


def test_many_of_a_kind_are_one_line(document: Make) -> None:
    checks = [
        check("ecc.uncorrected", f"GPU-{index}", 2, "FAIL", f"{index} errors", reason_code="X") for index in range(8)
    ]
    assert table({"gpu01": document(checks=checks)}).splitlines()[-1].endswith("0 errors (and 7 more of the kind)")


def test_hostile_text_is_one_line_without_control_characters(document: Make) -> None:
    made = document()
    hostile(made)
    text = table({HOSTILE: made})
    assert not set(text) & {"\x00", "\x1b", "\u202e", "\r"}


def test_documents_of_the_wrong_shape_are_shown_as_unknown() -> None:
    for value in (None, 1, "PASS", [], {"results": 1, "checks": 2, "tiers": 3, "verdict": 4}, {"tiers": {"0": 5}}):
        assert "UNKNOWN" in table({"gpu01": value})
