# SPDX-License-Identifier: Apache-2.0
"""Which GPUs of a lab are slower than their like?

GPUs of one product are compared with each other, figure by figure: never with another product, another framework or a
simulated host. The rules stand in the validator's table, under performance.outliers:

- more than 10 % below the group's median is a WARN;
- that and a modified z-score (Iglewicz and Hoaglin) below -3.5 is a FAIL, and so is more than 20 % below the median;
- fewer than five GPUs are compared with the best of them, and that is a WARN at most;
- a GPU that is alone of its kind cannot be compared: it is judged by its product's figures on its host alone.

The z-score alone would call one healthy lab in ten to twenty suspect, see benchmarks/outlier_rules.py.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).resolve().parents[2] / "roles/validation/files/gpulab_validation/thresholds.json"
#: What makes the modified z-score comparable with an ordinary one; with the mean deviation where the median's is zero.
MEDIAN_FACTOR, MEAN_FACTOR = 0.6745, 1.253314
#: GPUs are compared when these are the same.
ALIKE = ("product", "metric", "framework", "unit", "method", "devices", "simulated")
#: Worst first.
ORDER = ("FAIL", "UNKNOWN", "WARN", "PASS", "SKIP")

Finding = dict[str, Any]


class Rules(NamedTuple):
    """The rules' numbers: shares of the yardstick, the z-score, and how many figures and repeats there must be."""

    repeats: int
    warn_below: float
    fail_below: float
    z: float
    least: int


class Judgement(NamedTuple):
    """What the rules say of one figure: ``below`` is the share it is below the yardstick (negative: above)."""

    status: str
    below: float | None
    z: float | None
    rule: str


@functools.lru_cache(maxsize=1)
def rules() -> Rules:
    """Read the rules from the validator's table.

    :raises OSError: when the table is not where the repository has it
    """
    row = json.loads(TABLE.read_text(encoding="utf-8"))["performance"]["outliers"]
    return Rules(*(row[name] for name in Rules._fields))


def judge(values: Sequence[float], table: Rules | None = None) -> list[Judgement]:
    """Judge the figures of one group; all of them must be numbers above zero.

    :returns: one judgement for each figure, in the same order
    """
    table = table or rules()
    if len(values) < 2:
        return [Judgement("SKIP", None, None, "alone") for _ in values]
    if len(values) < table.least:
        best = max(values)
        belows = [1 - value / best for value in values]
        return [
            Judgement("PASS" if below <= table.warn_below else "WARN", below, None, "small_group") for below in belows
        ]
    median = statistics.median(values)
    return [_judge_one(value, median, z, table) for value, z in zip(values, z_scores(values), strict=True)]


def _judge_one(value: float, median: float, z: float, table: Rules) -> Judgement:
    below = 1 - value / median
    # Written so that NaN is not a PASS.
    if below <= table.warn_below:
        status = "PASS"
    elif below > table.fail_below or z < -table.z:
        status = "FAIL"
    else:
        status = "WARN"
    return Judgement(status, below, z, "median")


def z_scores(values: Sequence[float]) -> list[float]:
    """Return the modified z-score of each value.

    Where more than half of them are equal the median deviation is zero: then the mean deviation takes its place, and
    where all are equal every score is zero.
    """
    median = statistics.median(values)
    deviations = [abs(value - median) for value in values]
    scale = statistics.median(deviations) / MEDIAN_FACTOR or statistics.fmean(deviations) * MEAN_FACTOR
    return [(value - median) / scale if scale else 0.0 for value in values]


def find(documents: Mapping[str, Any] | Iterable[Any], table: Rules | None = None) -> list[Finding]:
    """Judge every figure of every GPU of a lab, the worst first.

    :param documents: the verdict documents, by host or one after the other; what is no document is left out
    :returns: dictionaries with host, target, gpu, product, metric, unit, framework, value, group_median, count,
        below, z, status, rule, message and simulated
    """
    table = table or rules()
    groups: dict[tuple[Any, ...], list[Finding]] = defaultdict(list)
    findings: list[Finding] = []
    for finding, problem in _figures(documents, table):
        findings.append(finding)
        if problem:
            finding.update(status="UNKNOWN", rule="unusable", message=f"{_who(finding)}: {problem}")
        else:
            key = tuple(finding[name] for name in ALIKE)
            groups[key].append(finding)
    for group in groups.values():
        values = [finding["value"] for finding in group]
        yardstick = max(values) if len(values) < table.least else statistics.median(values)
        for finding, judgement in zip(group, judge(values, table), strict=True):
            finding.update(judgement._asdict(), count=len(values), group_median=statistics.median(values))
            finding["message"] = _message(finding, yardstick)
    for finding in findings:
        del finding["method"], finding["devices"]
    return sorted(findings, key=lambda row: (ORDER.index(row["status"]), -(row["below"] or 0), row["host"], row["gpu"]))


def flagged(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that a person should look at."""
    return [finding for finding in findings if finding["status"] in ("FAIL", "UNKNOWN", "WARN")]


def _figures(documents: Mapping[str, Any] | Iterable[Any], table: Rules) -> Iterable[tuple[Finding, str]]:
    """Yield what the documents say of GPUs whose product is known, with what is wrong with it or an empty string."""
    pairs = documents.items() if isinstance(documents, Mapping) else ((None, document) for document in documents)
    for name, document in pairs:
        if not isinstance(document, Mapping):
            continue
        host = name if name is not None else _get(_get(document, "host"), "name")
        for row in _rows(document):
            gpu = str(row.get("target", "")).rpartition("@")[2]
            # All GPUs of a host together are a host's figure; it is compared with other hosts' all the same.
            if not row.get("product") or gpu == "cpu":
                continue
            finding = {
                "host": str(host), "target": str(row.get("target")), "gpu": gpu, "product": str(row["product"]),
                "metric": str(row.get("metric")), "unit": str(row.get("unit")), "framework": str(row.get("framework")),
                "method": str(row.get("method")), "devices": str(row.get("devices")), "value": row.get("median"),
                "group_median": None, "count": 0,
                "below": None, "z": None, "status": "UNKNOWN", "rule": "unusable", "message": "",
                "simulated": bool(document.get("simulated") or row.get("simulated")),
            }  # fmt: skip
            yield finding, _problem(row, finding, table)


def _problem(row: Mapping[str, Any], finding: Finding, table: Rules) -> str:
    """Return what keeps a figure from being compared; such a figure is not kept either: it might be anything."""
    runs = row.get("runs")
    if not _is_positive(finding["value"]):
        finding["value"] = None
        return "the figure is no number"
    if not isinstance(runs, list) or not all(_is_positive(run) for run in runs) or not len(runs) >= table.repeats:
        return f"fewer than {table.repeats} usable repeats"
    return ""


def _message(finding: Finding, yardstick: float) -> str:
    figure = f"{_who(finding)}: {finding['metric']} {finding['value']:.4g} {finding['unit']}"
    if finding["rule"] == "alone":
        return f"{figure}; the only one of its kind, so there is nothing to compare it with"
    against = "the best" if finding["rule"] == "small_group" else "the median"
    below = finding["below"]
    share = f"{abs(below):.0%} {'below' if below > 0 else 'above'}"
    told = f"{figure} is {share} {against} ({yardstick:.4g}) of {finding['count']} {finding['product']}"
    if finding["status"] == "FAIL":
        return f"{told}: measure again, then look for heat, power limit and slot, and take it out of service"
    if finding["status"] == "WARN":
        return f"{told}: measure again"
    return told


def _who(finding: Finding) -> str:
    return f"{finding['host']} {finding['gpu']}"


def _rows(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = _get(document.get("performance"), "rows")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1e300
