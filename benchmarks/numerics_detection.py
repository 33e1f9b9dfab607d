# SPDX-License-Identifier: Apache-2.0
"""Which wrong results the gates of the numerics see: single faults in z of float32, many times, and whole programs.

    .venv-test/bin/python benchmarks/numerics_detection.py [--trials N]

Needs NumPy alone. The exit status is 0 whatever was measured; bounds are tested in tests/unit/validation.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "validation"))
from numerics_lab import INJECTIONS, PROGRAMS, Detection, StandIn, load_jobs, run_standin, same

sys.path.insert(0, str(PROGRAMS))
import numerics  # the validator's: the jobs have one of their own

BITS = (6, 8, 10, 12, 14, 16, 18, 20, 22, 23, 27, 30, 31)


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    table = json.loads((PROGRAMS / "thresholds.json").read_text())["numerics"]
    jobs = load_jobs()
    whole, each = numerics.gate("fp32", "z", table)
    for shape in (jobs.shared.SHAPES["cpu"][0], (128, 784, 128)):
        single_faults(Detection(jobs, shape, (whole, each)), trials)
    programs(jobs, table)


def single_faults(detection: Detection, trials: int) -> None:
    """Print how often each gate sees faults in one tensor."""
    shape = "x".join(str(size) for size in (*detection.given["X"].shape, detection.z.shape[1]))
    print(f"\nz of {shape} in float32, {trials} trials each")
    print(f"{'fault':42} {'whole <= %g' % detection.gates[0]:>14} {'element <= %g u' % detection.gates[1]:>16}")

    def line(name: str, rates: tuple[float, float]) -> None:
        print(f"{name:42} {rates[0]:14.1%} {rates[1]:16.1%}", flush=True)

    line("none", (float(detection.healthy()[0]), float(detection.healthy()[1])))
    for bit in BITS:
        line(f"one element of z, bit {bit}", detection.one_bit(bit, trials))
    for low_bits in (12, 23):
        line(f"32 neighbours, several of {low_bits} low bits", detection.warp(low_bits, trials))
    for bit in (12, 16, 20, 24):
        line(f"one element of W, bit {bit}", detection.bit_of_weight(bit, trials // 4))
    line("8 terms lost from one element", detection.dropped_slice(trials))
    line("a tile of 16 x 16 zeros", detection.zero_tile(trials // 4))


def programs(jobs: SimpleNamespace, table: dict[str, Any]) -> None:
    """Print which precisions refuse a whole program whose framework computes wrongly."""
    print("\nwhole programs with a stand-in for the framework: which precisions refuse it")
    jobs.shared.SHAPES["gpu"] = jobs.shared.SHAPES["cpu"]
    for name in ["none", *INJECTIONS]:
        spoil = INJECTIONS[name][0] if name in INJECTIONS else same
        with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
            run_standin(jobs.shared, StandIn(jobs.shared, spoil), Path(directory), Path(directory) / "result.json")
            entry = jobs.compare.compare_device(directory)
        refused = []
        for precision in numerics.PRECISIONS:
            runs = [run for run in entry["runs"] if run["precision"] == precision]
            if numerics.judge_precision(precision, runs, table)["status"] != "PASS":
                refused.append(precision)
        print(f"{name:42} {', '.join(refused) or 'accepted by all'}", flush=True)


if __name__ == "__main__":
    main()
