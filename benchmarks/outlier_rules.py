# SPDX-License-Identifier: Apache-2.0
"""How often the rules for slow GPUs cry wolf, and how often they miss one: simulated labs, no GPU.

    PYTHONPATH=lib python benchmarks/outlier_rules.py

Every lab is a group of GPUs of one product whose figures scatter normally around 100. "Any flag" is a WARN or FAIL on
any GPU; detection counts slow GPUs that were flagged, or called FAIL. The other rules are there to be compared with.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Sequence

from gpu_report import outliers

Rule = Callable[[Sequence[float]], list[str]]
LABS, SEED = 4000, 7
SIZES = (3, 4, 5, 8, 16, 64)
SCATTER = (0.01, 0.03)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labs", type=int, default=LABS, help="simulated labs for each figure (%(default)s)")
    labs = parser.parse_args().labs
    print("Share of healthy labs with a false alarm\n")
    print("| GPUs | scatter | ours: any flag | ours: FAIL | z alone | 10 % alone | 1 sd and 10 % of the mean |")
    print("|---|---|---|---|---|---|---|")
    for scatter in SCATTER:
        for size in SIZES:
            shares = [false_alarms(size, scatter, labs, ours), false_alarms(size, scatter, labs, ours, {"FAIL"})]
            shares += [false_alarms(size, scatter, labs, rule) for rule in (z_alone, share_alone, mean_rule)]
            print("| %d | %g %% | %s |" % (size, 100 * scatter, " | ".join("%.4f" % share for share in shares)))
    print("\nShare of slow GPUs that were found\n")
    print("| GPUs | slow | by | scatter | ours: flagged | ours: FAIL | 1 sd and 10 % of the mean |")
    print("|---|---|---|---|---|---|---|")
    for scatter in SCATTER:
        for size, slow, by in ((4, 1, 0.15), (5, 1, 0.15), (16, 1, 0.15), (5, 2, 0.15), (16, 1, 0.25), (64, 3, 0.15)):
            shares = [found(size, slow, by, scatter, labs, rule, which) for rule, which in (
                (ours, {"WARN", "FAIL"}), (ours, {"FAIL"}), (mean_rule, {"WARN", "FAIL"})
            )]  # fmt: skip
            told = " | ".join("%.3f" % share for share in shares)
            print("| %d | %d | %d %% | %g %% | %s |" % (size, slow, 100 * by, 100 * scatter, told))


def false_alarms(
    size: int, scatter: float, labs: int, rule: Rule, which: frozenset[str] | set[str] = frozenset({"WARN", "FAIL"})
) -> float:
    """Return the share of healthy labs in which a rule flags anything."""
    source = random.Random(SEED)
    flagged = (which & set(rule(lab(source, size, scatter))) for _ in range(labs))
    return sum(1 for statuses in flagged if statuses) / labs


def found(size: int, slow: int, by: float, scatter: float, labs: int, rule: Rule, which: set[str]) -> float:
    """Return the share of slow GPUs that a rule finds, when ``slow`` of ``size`` are slower by the share ``by``."""
    source = random.Random(SEED)
    count = 0
    for _ in range(labs):
        values = lab(source, size, scatter)
        values = [value * (1 - by if index < slow else 1) for index, value in enumerate(values)]
        count += sum(status in which for status in rule(values)[:slow])
    return count / (labs * slow)


def lab(source: random.Random, size: int, scatter: float) -> list[float]:
    """Return the figures of a healthy lab."""
    return [max(1.0, source.gauss(100, 100 * scatter)) for _ in range(size)]


def ours(values: Sequence[float]) -> list[str]:
    """The rules of the report."""
    return [judgement.status for judgement in outliers.judge(values)]


def z_alone(values: Sequence[float]) -> list[str]:
    """The modified z-score alone, on the slow side."""
    return ["FAIL" if z < -3.5 else "PASS" for z in outliers.z_scores(values)]


def share_alone(values: Sequence[float]) -> list[str]:
    """More than 10 % below the median, whatever the group's size."""
    median = statistics.median(values)
    return ["FAIL" if value < 0.9 * median else "PASS" for value in values]


def mean_rule(values: Sequence[float]) -> list[str]:
    """More than one standard deviation and more than 10 % below the mean."""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    return ["FAIL" if value < mean - deviation and value < 0.9 * mean else "PASS" for value in values]


if __name__ == "__main__":
    main()
