# SPDX-License-Identifier: Apache-2.0
"""What changed between two runs of a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabricated_lab import settle, slow, spoil
from gpu_report.drift import compare

Make = Callable[..., dict[str, Any]]


def found(old: Any, new: Any) -> dict[str, tuple[str, str, Any]]:
    return {row["what"]: (row["before"], row["after"], row["worse"]) for row in compare(old, new)}


def test_nothing_changed_is_nothing(document: Make) -> None:
    assert compare(document(), document(run_id="B", started="later", finished="later")) == []


def test_without_an_earlier_run_there_is_nothing_to_compare(document: Make) -> None:
    assert compare(None, document()) == compare(document(), None) == compare({}, document()) == []


def test_a_new_driver_and_a_new_framework_are_named(document: Make) -> None:
    new = document()
    new["observed"]["driver"]["module"] = "595.45.04"
    new["observed"]["environments"]["torch"]["pytorch"] = "2.14.1"
    assert found(document(), new) == {
        "driver, kernel module": ("580.126.09", "595.45.04", None),
        "PyTorch in torch": ("2.13.0", "2.14.1", None),
    }


def test_a_swapped_card_and_a_lost_one_are_told_apart(document: Make) -> None:
    new = document()
    first, second = new["observed"]["gpus"]
    first["uuid"] = "GPU-new"
    new["observed"]["gpus"] = [first]
    rows = found(document(), new)
    assert rows[f"GPU {first['bdf']}: another card"][1].endswith("GPU-new")
    assert rows[f"GPU {second['bdf']}"][1:] == ("none", True)


def test_a_worse_verdict_is_worse_and_a_better_one_better(document: Make) -> None:
    bad = document()
    spoil(bad, "row_remap", "FAIL", "pending", "PENDING", "reset_gpu")
    settle(bad)
    assert found(document(), bad) == {"verdict": ("PASS", "FAIL", True), "T2 health": ("PASS", "FAIL", True)}
    assert found(bad, document())["verdict"] == ("FAIL", "PASS", False)


def test_a_slower_gpu_is_one_row_and_noise_is_none(document: Make) -> None:
    noise, slower = document(), document()
    slow(noise, 0.03)
    slow(slower, 0.2)
    assert compare(document(), noise) == []
    ((what, row),) = found(document(), slower).items()
    assert what.startswith("throughput of torch/pytorch@GPU-")
    assert "(-20%, and 6 more figures" in row[1]
    assert row[2] is True


def test_growing_memory_errors_are_worse_and_shrinking_ones_are_not_news(document: Make) -> None:
    old, new = document("ampere"), document("ampere")
    for made, errors in ((old, 3), (new, 90)):
        spoil(made, "ecc.corrected", "PASS", "some", "OK")
        next(row for row in made["checks"] if row["id"] == "ecc.corrected")["measured"] = {"corrected": errors}
    ((what, row),) = found(old, new).items()
    assert what.endswith("corrected memory errors")
    assert row == ("3", "90", True)
    assert compare(new, old) == []


def test_documents_of_the_wrong_shape_are_compared_without_an_error(document: Make) -> None:
    for part in ("observed", "tiers", "performance", "checks", "verdict", "host", "dataset"):
        for value in (None, 1, "x", [1], {"gpus": [1], "rows": [{"median": "x"}], "environments": {"a": 1}}):
            compare(document(), document(**{part: value}))
            compare(document(**{part: value}), document())
