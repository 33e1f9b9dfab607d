# SPDX-License-Identifier: Apache-2.0
"""How long the compatibility engine takes: absolute figures, and ratios measured in the same run.

    PYTHONPATH=lib python benchmarks/engine.py

Every part runs in a process of its own, so that neither its time nor its peak memory holds anything of the others.
The exit status is 0 whatever was measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SITUATIONS = ROOT / "tests" / "data" / "situations.yml"
#: The example of the documentation, and what every Python that plans has to import first.
SIMPLE = "gtx-1080-ti-ubuntu2404"
IMPORTS = "import yaml, packaging.version, resolvelib"
#: A GPU without a row of its own: it is found by name among the devices of all chips.
BY_CHIP = "RTX 4070 Ti SUPER"
COLD_RUNS, WARM_RUNS, MEASURED_AGAIN = 7, 50, 4
MOST_SECONDS = 2.0
FLEET, FEW, DISTINCT = 10_000, 100, 60
COLD_BUDGET, WARM_BUDGET, FLEET_BUDGET, MEMORY_BUDGET = 0.6, 0.030, 3.0, 300.0
#: Hosts are planned in the time of their situations: a hundred times the hosts may cost this many times as much.
GROWTH_BUDGET = 5.0

Question = Mapping[str, Any]


def main() -> None:
    """Measure one part, or all of them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", choices=["warm", "fleet"], help=argparse.SUPPRESS)
    parser.add_argument("--hosts", type=int, default=FLEET, help=argparse.SUPPRESS)
    parser.add_argument("--distinct", type=int, default=DISTINCT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part == "warm":
        print(json.dumps(warm()))
    elif arguments.part == "fleet":
        print(json.dumps(fleet(arguments.hosts, arguments.distinct)))
    else:
        report()


# --- one part, in a process of its own ---------------------------------------------------------------------------


def questions() -> dict[str, Question]:
    """Return the situations of the tests: host and request of each."""
    from gpu_compat.questions import load, with_default_environments

    found: Mapping[str, Any] = load(str(SITUATIONS))["situations"]
    return {
        name: {"host": row.get("host"), "request": with_default_environments(row.get("request"))}
        for name, row in found.items()
    }


def distinct_questions() -> list[Question]:
    """Return the questions that the fleet takes for different, in the order of the file."""
    from gpu_compat.fleet import host_key
    from gpu_compat.hosts import read_host

    found = {(repr(row["request"]), host_key(read_host(row["host"]))): row for row in questions().values()}
    return list(found.values())


def warm() -> dict[str, Any]:
    """Measure the library call in a process that has answered every question before."""
    from gpu_compat import plan, read_host

    asked = {name: (row["request"], row["host"], read_host(row["host"])) for name, row in questions().items()}
    first = {name: _median(partial(plan, ask[0], ask[2]), 7) for name, ask in asked.items()}
    # A pause of the machine makes any of them look hard, so those that look hardest are measured once more.
    hard = sorted(first, key=lambda name: first[name], reverse=True)[:MEASURED_AGAIN]
    figures = {}
    for name in dict.fromkeys((SIMPLE, *hard)):
        request, said, host = asked[name]
        figures[name] = {
            "plan": _median(partial(plan, request, host), WARM_RUNS),
            "read": _median(partial(read_host, said), WARM_RUNS),
        }
    hardest = max(hard, key=lambda name: figures[name]["plan"])
    by_chip = _median(partial(read_host, {"gpus": [BY_CHIP]}), WARM_RUNS)
    return {
        "situations": len(first),
        "hardest": hardest,
        "of_all": sorted(first.values()),
        "figures": {name: figures[name] for name in (SIMPLE, hardest)},
        "by_chip": by_chip,
    }


def fleet(hosts: int, distinct: int) -> dict[str, Any]:
    """Read and plan hosts that have a request and a host object each, as an inventory gives them."""
    begun = time.perf_counter()
    from gpu_compat.fleet import plan_fleet
    from gpu_compat.hosts import read_host
    from gpu_compat.tables import shipped

    shipped()
    loaded = time.perf_counter()
    known = distinct_questions()[:distinct]
    given = {f"gpu{index:05}": copy.deepcopy(known[index % len(known)]) for index in range(hosts)}
    start = time.perf_counter()
    wishes = {name: (row["request"], read_host(row["host"])) for name, row in given.items()}
    read = time.perf_counter()
    answers = plan_fleet(wishes)
    planned = time.perf_counter()
    return {
        "load": loaded - begun,
        "read": read - start,
        "plan": planned - read,
        "megabytes": _peak_megabytes(),
        "situations": len({id(answer) for answer in answers.values()}),
        "planned": sum(answer["status"] == "planned" for answer in answers.values()),
    }


def _median(call: Callable[[], object], runs: int) -> float:
    """Return the median of some runs, or of as many as fit into the time that a figure may take."""
    times: list[float] = []
    while len(times) < runs and sum(times) < MOST_SECONDS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


# --- the table ---------------------------------------------------------------------------------------------------


def report() -> None:
    """Measure everything and print a line for each figure."""
    start = time.perf_counter()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}\n")
    with tempfile.TemporaryDirectory() as scratch:
        # Compiled modules are kept, as they are on a control node, but not in the working tree.
        leave_out = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
        environment = {name: value for name, value in os.environ.items() if name not in leave_out}
        environment["PYTHONPYCACHEPREFIX"] = scratch
        _cold(Path(scratch), environment)
        _warm(environment)
        _fleet(environment)
    print(f"\nmeasured in {time.perf_counter() - start:.0f} s")


def _cold(scratch: Path, environment: Mapping[str, str]) -> None:
    print(f"cold start of the command line, one host: best and median of {COLD_RUNS}")
    question = scratch / "question.json"
    code = "import sys; sys.path.insert(0, sys.argv[1]); import engine, json; print(json.dumps(engine.questions()))"
    asked = _run([sys.executable, "-c", code, str(Path(__file__).parent)], environment)
    question.write_text(json.dumps(json.loads(asked)[SIMPLE]))
    commands = {
        "nothing: python -c pass": ["-c", "pass"],
        "floor: its imports alone": ["-c", IMPORTS],
        f"plan --json ({SIMPLE})": ["-m", "gpu_compat", "plan", "--json", str(question)],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(COLD_RUNS + 1):  # in turn, so that a slow moment hits all alike; the first run compiles
        for name, words in commands.items():
            start = time.perf_counter()
            _run([sys.executable, *words], environment)
            if turn:
                times[name].append(time.perf_counter() - start)
    nothing, floor, plan = (statistics.median(found) for found in times.values())
    for name, found in times.items():
        budget = COLD_BUDGET if name.startswith("plan") else None
        best, middle = min(found), statistics.median(found)
        _line(name, f"{best * 1e3:.0f} ms best, {middle * 1e3:.0f} ms median", middle, budget, "s")
    _line("plan : floor, plan : nothing", f"{plan / floor:.1f}, {plan / nothing:.1f}")


def _warm(environment: Mapping[str, str]) -> None:
    found = _part(environment, "--part", "warm")
    print(f"\nlibrary call in a warm process: median of {WARM_RUNS} runs, or of those that fit into {MOST_SECONDS:g} s")
    simple, hardest = found["figures"][SIMPLE], found["figures"][found["hardest"]]
    for name, figures in ((SIMPLE, simple), (found["hardest"], hardest)):
        text = f"{figures['plan'] * 1e3:.1f} ms, and {figures['read'] * 1e3:.2f} ms to read the host"
        _line(f"plan {name}", text, figures["plan"], WARM_BUDGET, "s")
    _line(f"median of all {found['situations']} situations", f"{statistics.median(found['of_all']) * 1e3:.1f} ms")
    # As many hosts as the fleet has may have such a GPU, and all of them are read in the time of the fleet.
    by_chip = found["by_chip"]
    _line(f"read a host with a {BY_CHIP}", f"{by_chip * 1e3:.2f} ms", by_chip * 1e3, FLEET_BUDGET / FLEET * 1e3, "ms")
    _line("hardest : simplest", f"{hardest['plan'] / simple['plan']:.1f}")


def _fleet(environment: Mapping[str, str]) -> None:
    print("\nfleet, request and host of their own for each host, a fresh process each")
    many = _part(environment, "--part", "fleet", "--hosts", str(FLEET))
    few = _part(environment, "--part", "fleet", "--hosts", str(FEW))
    for hosts, found in ((FLEET, many), (FEW, few)):
        text = f"tables {found['load']:.2f} s, reading {found['read']:.2f} s, planning {found['plan']:.2f} s"
        whole = found["load"] + found["read"] + found["plan"]
        name = f"{hosts:,} hosts, {found['situations']} situations"
        _line(name, f"{whole:.2f} s ({text})", whole, FLEET_BUDGET if hosts == FLEET else None, "s")
    peaks = f"{many['megabytes']:.0f} MB, with {FEW} hosts {few['megabytes']:.0f} MB"
    _line("peak memory", peaks, many["megabytes"], MEMORY_BUDGET, "MB")
    ratio = many["plan"] / few["plan"]
    _line(f"planning {FLEET:,} : {FEW} hosts", f"{ratio:.2f}", ratio, GROWTH_BUDGET, "times")
    for distinct in (10, 30, 60):
        found = _part(environment, "--part", "fleet", "--hosts", "1000", "--distinct", str(distinct))
        each = found["plan"] / found["situations"] * 1e3
        text = f"{found['plan'] * 1e3:.0f} ms planning, {each:.1f} ms for each situation"
        _line(f"1,000 hosts, {found['situations']} situations", text)


def _part(environment: Mapping[str, str], *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run([sys.executable, __file__, *words], environment))
    return found


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def _line(name: str, figures: str, value: float = 0.0, budget: float | None = None, unit: str = "") -> None:
    verdict = "" if budget is None else f"  {'within budget' if value <= budget else 'OVER'} ({budget:g} {unit})"
    print(f"  {name:<48}  {figures}{verdict}")


if __name__ == "__main__":
    main()
