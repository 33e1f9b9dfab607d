# SPDX-License-Identifier: Apache-2.0
"""Slow GPUs of a lab are found among their like, and healthy ones are left alone."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from gpu_report import outliers
from hypothesis import given
from hypothesis import strategies as st

RANK = {"PASS": 0, "WARN": 1, "FAIL": 2}
H100 = "H100 SXM5 80GB"
figures = st.lists(st.floats(min_value=1.0, max_value=1000.0), min_size=2, max_size=24)


def row(gpu: str, median: Any, **changes: Any) -> dict[str, Any]:
    """Return a figure as the validator writes it."""
    answer = {
        "environment": "torch", "framework": "pytorch", "target": f"torch/pytorch@{gpu}", "product": H100,
        "metric": "matmul_bf16", "unit": "TFLOP/s", "median": median, "runs": [median] * 3, "devices": 1,
        "method": None, "simulated": False,
    }  # fmt: skip
    return {**answer, **changes}


def document(*rows: Any, **changes: Any) -> dict[str, Any]:
    return {"host": {"name": "inside"}, "simulated": False, "performance": {"rows": list(rows)}, **changes}


def lab(*values: Any, **changes: Any) -> dict[str, Any]:
    """Return one host for each value, with one GPU."""
    return {f"gpu{index:02}": document(row(f"GPU-{index}", value, **changes)) for index, value in enumerate(values)}


def statuses(*values: Any, **changes: Any) -> list[str]:
    found = {finding["host"]: finding["status"] for finding in outliers.find(lab(*values, **changes))}
    return [found[name] for name in sorted(found)]


# --- the rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100, 101, 99, 100, 100.5, 99.5], ["PASS"] * 6),
        ([100, 101, 99, 100, 88], ["PASS"] * 4 + ["FAIL"]),  # 12 % below, far outside of the scatter
        ([100, 112, 90, 106, 91, 97], ["PASS"] * 6),  # 20 % below the highest, 9 % below the median
        ([100, 120, 84, 112, 96, 104], ["PASS", "PASS", "WARN", "PASS", "PASS", "PASS"]),  # within the scatter
        ([100, 130, 81, 140, 79, 130], ["WARN", "PASS", "FAIL", "PASS", "FAIL", "PASS"]),  # more than 20 %
        ([100, 100, 100, 85, 85], ["PASS", "PASS", "PASS", "WARN", "WARN"]),  # nothing to measure the scatter with
        ([100, 100.5, 99.5, 85, 84], ["PASS", "PASS", "PASS", "FAIL", "FAIL"]),  # two of five
        ([100, 100, 50], ["PASS", "PASS", "WARN"]),  # three: a WARN at most
        ([100, 100, 100, 10], ["PASS", "PASS", "PASS", "WARN"]),
        ([100, 89], ["PASS", "WARN"]),
        ([100, 91], ["PASS", "PASS"]),
        ([100], ["SKIP"]),
    ],
)
def test_the_rules(values: list[float], expected: list[str]) -> None:
    assert [judgement.status for judgement in outliers.judge(values)] == expected
    assert statuses(*values) == expected


def test_where_most_are_equal_the_score_is_still_a_number() -> None:
    assert outliers.z_scores([100.0] * 5) == [0.0] * 5
    scores = outliers.z_scores([100.0] * 9 + [85.0])
    assert scores[-1] < -3.5
    assert all(math.isfinite(score) for score in scores)
    assert outliers.judge([100.0] * 9 + [85.0])[-1].status == "FAIL"


@given(figures, st.randoms(use_true_random=False))
def test_the_order_of_the_gpus_does_not_matter(values: list[float], source: random.Random) -> None:
    order = list(range(len(values)))
    source.shuffle(order)
    expected = outliers.judge(values)
    shuffled = outliers.judge([values[index] for index in order])
    assert [judgement.status for judgement in shuffled] == [expected[index].status for index in order]


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=24), st.sampled_from([0.125, 0.5, 2.0, 1024.0]))
def test_the_unit_does_not_matter(values: list[int], factor: float) -> None:
    scaled = outliers.judge([value * factor for value in values])
    assert [row.status for row in scaled] == [row.status for row in outliers.judge(values)]


@given(figures)
def test_what_is_flagged_is_more_than_ten_percent_below(values: list[float]) -> None:
    for judgement in outliers.judge(values):
        assert judgement.below is not None
        assert (judgement.status == "PASS") == (judgement.below <= 0.10)
        assert judgement.status == "FAIL" or len(values) < 5 or judgement.below <= 0.20


@given(st.lists(st.floats(min_value=1.0, max_value=1000.0), min_size=2, max_size=4))
def test_fewer_than_five_are_a_warn_at_most(values: list[float]) -> None:
    assert "FAIL" not in {judgement.status for judgement in outliers.judge(values)}


@given(st.lists(st.floats(min_value=91.0, max_value=100.0), min_size=2, max_size=64))
def test_healthy_gpus_are_left_alone(values: list[float]) -> None:
    assert {judgement.status for judgement in outliers.judge(values)} == {"PASS"}


@given(st.lists(st.floats(min_value=99.0, max_value=101.0), min_size=4, max_size=32), st.floats(0.05, 0.78))
def test_one_gpu_far_below_is_always_found(values: list[float], share: float) -> None:
    assert outliers.judge([*values, 99 * share])[-1].status == "FAIL"


@given(figures, st.integers(0, 23), st.floats(0.1, 0.99))
def test_a_gpu_that_gets_slower_never_gets_better(values: list[float], index: int, factor: float) -> None:
    index %= len(values)
    before = outliers.judge(values)[index]
    slower = [value * factor if place == index else value for place, value in enumerate(values)]
    assert RANK[outliers.judge(slower)[index].status] >= RANK[before.status]


# --- who is compared with whom ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"product": "A100 SXM4 80GB"}, {"metric": "memory_bandwidth"}, {"framework": "jax"}, {"simulated": True},
        {"method": "pageable"}, {"devices": 4},
    ],
)  # fmt: skip
def test_only_alike_figures_are_compared(changes: dict[str, Any]) -> None:
    documents = lab(100, 100, 100, 100, 100)
    documents["other"] = document(row("GPU-x", 10, **changes))
    found = {finding["host"]: finding for finding in outliers.find(documents)}
    assert found.pop("other")["status"] == "SKIP"
    assert {finding["status"] for finding in found.values()} == {"PASS"}


def test_a_simulated_host_is_not_compared_with_a_real_one() -> None:
    documents = lab(100, 100, 100, 100, 100)
    documents["stand-in"] = document(row("GPU-x", 10), simulated=True)
    found = {finding["host"]: finding for finding in outliers.find(documents)}
    assert (found["stand-in"]["status"], found["stand-in"]["simulated"]) == ("SKIP", True)
    assert found["gpu00"]["status"] == "PASS"


def test_gpus_of_one_host_are_compared_with_each_other_too() -> None:
    rows = [row(f"GPU-{index}", value) for index, value in enumerate([100, 101, 99, 100, 100, 100, 100, 70])]
    found = outliers.find({"dgx": document(*rows)})
    assert (found[0]["gpu"], found[0]["status"], found[0]["count"]) == ("GPU-7", "FAIL", 8)
    assert [finding["status"] for finding in found[1:]] == ["PASS"] * 7


def test_processors_and_unknown_products_are_not_compared() -> None:
    documents = {"a": document(row("cpu", 1.0)), "b": document(row("GPU-1", 1.0, product=None))}
    assert outliers.find(documents) == []


# --- what cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "100", float("nan"), float("inf"), 0, -1, True, 10**400])
def test_a_figure_that_is_no_number_is_unknown_and_changes_nothing_for_others(value: Any) -> None:
    documents = lab(100, 100, 100, 100, 88)
    documents["odd"] = document(row("GPU-odd", value))
    found = {finding["host"]: finding for finding in outliers.find(documents)}
    assert (found["odd"]["status"], found["odd"]["value"]) == ("UNKNOWN", None)
    assert found["gpu04"]["status"] == "FAIL"
    assert found["gpu00"]["count"] == 5
    json.dumps(list(found.values()), allow_nan=False)


@pytest.mark.parametrize("runs", [None, [], [100, 100], [100, 100, None], [100, 100, float("nan")], "100"])
def test_a_figure_without_repeats_is_unknown(runs: Any) -> None:
    assert statuses(100, 100, 100, runs=runs) == ["UNKNOWN"] * 3


@pytest.mark.parametrize(
    "odd",
    [None, "text", [], {}, {"performance": None}, {"performance": {"rows": None}}, {"performance": {"rows": [3]}}],
)
def test_a_document_that_is_none_is_left_out(odd: Any) -> None:
    assert [finding["status"] for finding in outliers.find({**lab(100, 100), "odd": odd})] == ["PASS", "PASS"]


def test_documents_without_their_hosts_name_themselves() -> None:
    assert [finding["host"] for finding in outliers.find([document(row("GPU-1", 1)), None])] == ["inside"]


# --- how it is told -----------------------------------------------------------------------------------------------


def test_the_worst_come_first_and_say_what_to_do() -> None:
    found = outliers.find({**lab(100, 100, 100, 100, 100, 60, 70), "odd": document(row("GPU-odd", None))})
    assert [finding["status"] for finding in found] == ["FAIL", "FAIL", "UNKNOWN"] + ["PASS"] * 5
    assert "40% below the median (100) of 7 H100 SXM5 80GB" in found[0]["message"]
    assert "measure again" in found[0]["message"]
    assert outliers.flagged(found) == found[:3]
    assert found[0]["group_median"] == 100


def test_a_lone_gpu_says_so() -> None:
    assert "only one of its kind" in outliers.find(lab(100))[0]["message"]


# --- how often it is wrong ----------------------------------------------------------------------------------------


def share(rule: Any, size: int, scatter: float, slow: int, by: float, labs: int = 1500) -> float:
    """Return the share of labs (of slow GPUs, where there are any) that a rule flags."""
    source, count = random.Random(7), 0
    for _ in range(labs):
        values = [source.gauss(100, 100 * scatter) * (1 - by if index < slow else 1) for index in range(size)]
        hits = [bool(hit) for hit in rule(values)]
        count += sum(hits[:slow]) if slow else any(hits)
    return count / (labs * max(slow, 1))


def flags(values: Sequence[float]) -> list[bool]:
    return [judgement.status != "PASS" for judgement in outliers.judge(values)]


def fails(values: Sequence[float]) -> list[bool]:
    return [judgement.status == "FAIL" for judgement in outliers.judge(values)]


def z_alone(values: Sequence[float]) -> list[bool]:
    return [z < -3.5 for z in outliers.z_scores(values)]


@pytest.mark.parametrize(("size", "alone"), [(3, 0.10), (5, 0.08), (8, 0.05), (64, 0.02)])
def test_healthy_labs_raise_no_alarm_where_the_score_alone_would(size: int, alone: float) -> None:
    assert share(flags, size, 0.01, 0, 0, labs=600) == 0
    assert share(z_alone, size, 0.01, 0, 0, labs=600) > alone


@pytest.mark.parametrize(("size", "flag", "fail"), [(3, 0.06, 0), (5, 0.01, 0.005), (16, 0.015, 0.01)])
def test_at_three_percent_scatter_false_alarms_are_few(size: int, flag: float, fail: float) -> None:
    assert share(flags, size, 0.03, 0, 0) <= flag
    assert share(fails, size, 0.03, 0, 0) <= fail


@pytest.mark.parametrize(
    ("size", "scatter", "slow", "flag", "fail"),
    [(5, 0.01, 1, 0.99, 0.98), (16, 0.01, 1, 0.99, 0.99), (5, 0.01, 2, 0.99, 0.80), (5, 0.03, 1, 0.88, 0.55)],
)
def test_a_gpu_that_is_fifteen_percent_slow_is_found(
    size: int, scatter: float, slow: int, flag: float, fail: float
) -> None:
    assert share(flags, size, scatter, slow, 0.15) >= flag
    assert share(fails, size, scatter, slow, 0.15) >= fail
