#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run the project's tests stage by stage, quick ones first. Called by ./test, which sets up what this needs.

Ends with `N passed, N failed, N skipped`: the tests that pytest counted, plus one for every other stage.
Exit status 0 if nothing failed, 1 otherwise, 2 for a usage error. With CI=true, leaving out the container
tests because this machine cannot run them is a failure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from project_tree import ROOT, project_files
from testbed import Bed, Unavailable, apt_install

LAST_LINES = 60  # of a failed stage's output
PLAIN = {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", "TERM": "dumb"}  # no escape codes in captured output


#: What a stage prints while another one runs goes into the file ``log`` of its thread: two at once could not be read.
LANE = threading.local()


@dataclass
class Outcome:
    """What a stage found: how many tests passed and failed, and why each skipped one was skipped."""

    passed: int = 0
    failed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    output: str = ""


@dataclass(frozen=True)
class Stage:
    """One step of the test run."""

    name: str
    purpose: str
    run: Callable[[], Outcome]
    needs_engine: bool = False
    beside: str = ""  # a longer stage that mostly waits; while it runs, there is time for this one


# --- kinds of stages ------------------------------------------------------------------------------


def command(*words: str | Path) -> Outcome:
    """Run one command, quietly; its exit status is the result."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=os.environ | PLAIN,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Outcome(passed=1) if done.returncode == 0 else Outcome(failed=1, output=done.stdout)


def each(commands: Iterable[tuple[str | Path, ...]]) -> Outcome:
    """Run several commands as one stage, all of them even when one fails."""
    results = [command(*words) for words in commands]
    output = "\n".join(result.output for result in results if result.failed)
    return Outcome(failed=1, output=output) if output else Outcome(passed=1)


def pytest(*words: str, environment: dict[str, str] | None = None) -> Outcome:
    """Run pytest with its output on the terminal and count what its report says."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", f"--junit-xml={report}", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=getattr(LANE, "log", None),
            env=os.environ | (environment or {}),
            check=False,
        )
        outcome = read_report(report) if report.exists() else Outcome()
    if done.returncode != 0 and not outcome.failed:
        # It ended before, or beside, the tests: an error while collecting, no test at all, a signal.
        return Outcome(outcome.passed, 1, outcome.skipped, f"pytest ended with status {done.returncode}")
    return outcome


def read_report(report: Path) -> Outcome:
    """Count the tests of a JUnit report."""
    outcome = Outcome()
    for case in ET.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            outcome.skipped.append((case.get("name", "?"), skipped.get("message", "no reason given")))
        elif case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        else:
            outcome.passed += 1
    return outcome


# --- the stages -----------------------------------------------------------------------------------


def playbooks() -> list[Path]:
    """Return every playbook that a person may start."""
    found = project_files()
    return [
        path for path in found if str(path) == "site.yml" or (str(path.parent), path.suffix) == ("playbooks", ".yml")
    ]


def shell_scripts() -> list[Path]:
    """Return the project's shell scripts, named *.sh or not."""
    named = {Path("provision"), Path("test"), Path(".ci/run")}
    return [path for path in project_files() if path.suffix == ".sh" or path in named]


def syntax() -> Outcome:
    """Check that Ansible can read every playbook with every inventory the project ships."""
    inventories = sorted(path for path in (ROOT / "inventories").iterdir() if path.is_dir())
    return each(("ansible-playbook", "--syntax-check", "-i", inventory, *playbooks()) for inventory in inventories)


def molecule() -> Outcome:
    """Run the molecule scenario `default`, naming its actions as they come; its output only on failure."""
    words = ["molecule", "--base-config", ".config/molecule/config.yml", "test", "--scenario-name", "default"]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "testinfra.xml"
        environment = os.environ | PLAIN | bed().molecule_environment() | {"GPULAB_TEST_REPORT": str(report)}
        log, started = [], time.monotonic()
        run = subprocess.Popen(
            words,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for line in run.stdout or ():
            log.append(line)
            action = re.search(r"default > (\w+)\] Executing$", line)
            if action:
                print(f"    {time.monotonic() - started:5.0f} s  {action[1]}", flush=True)
        if run.wait() != 0:
            # What follows the failure is only its cleaning up.
            output, _, _ = "".join(log).partition("An error occurred during the test sequence")
            return Outcome(failed=1, output=output)
        verified = read_report(report) if report.exists() else Outcome(failed=1, output="testinfra left no report")
    return Outcome(verified.passed + 1, verified.failed, verified.skipped, verified.output)


def containers() -> Outcome:
    """Run ./provision as a person does, in fresh containers."""
    return pytest("tests/containers", "--verbose", "--durations=0", "--durations-min=20", environment=engine_report())


def driver() -> Outcome:
    """Run the role nvidia_driver on hosts that pose as those of a lab, and build Debian's real packages."""
    return pytest("tests/driver", "--verbose", "--durations=15", environment=engine_report())


def cuda() -> Outcome:
    """Run the roles cuda_toolkit and cudnn with real compilers and libraries, from a stand-in of NVIDIA's archives."""
    return pytest("tests/cuda", "--verbose", "--durations=15", environment=engine_report())


def unit() -> Outcome:
    """Run the unit tests; those of the driver's library compile a stand-in for it."""
    with_programs({"gcc": ["gcc", "libc6-dev"]})
    return pytest("tests/unit", "--quiet", "--numprocesses=auto")


def with_programs(packages: dict[str, list[str]]) -> None:
    """Install what has programs that are missing, by the program's name; tests that go without them say so and skip."""
    missing = [name for program, names in packages.items() if not shutil.which(program) for name in names]
    if missing:
        try:
            apt_install(missing)
        except Unavailable as reason:
            print(f"    {reason}", flush=True)


def frameworks() -> Outcome:
    """Run the programs of the role validation in real frameworks, on the processor."""
    return pytest("tests/frameworks", "--quiet", "--durations=10")


def page() -> Outcome:
    """Look at the lab's report in a real browser."""
    with_programs({"chromium": ["chromium", "fonts-dejavu-core"], "chromedriver": ["chromium-driver"]})
    return pytest("tests/page", "--quiet", "--durations=5")


def virtual_machine() -> Outcome:
    """Run the role nvidia_driver on a machine with a real kernel, through real reboots."""
    return pytest("tests/vm", "--verbose", "--durations=0", "--durations-min=20")


def engine_report() -> dict[str, str]:
    """Tell the container tests why they cannot run, where they cannot."""
    try:
        bed()
    except Unavailable as reason:
        return {"GPULAB_TEST_UNAVAILABLE": str(reason)}
    return {}


@cache
def bed() -> Bed:
    """Return the test bed, made ready on first use; raises Unavailable with the reason, every time."""
    if isinstance(prepared := prepare_bed(), Unavailable):
        raise prepared
    return prepared


@cache
def prepare_bed() -> Bed | Unavailable:
    """Make the test bed ready, once."""
    try:
        return Bed.prepare()
    except Unavailable as reason:
        return reason


PYTHON = sys.executable
STAGES = [
    Stage("ruff", "Python style and common mistakes", lambda: command("ruff", "check", ".")),
    Stage("yamllint", "YAML style", lambda: command("yamllint", "--strict", ".")),
    Stage("shellcheck", "shell scripts", lambda: command("shellcheck", "-x", *shell_scripts())),
    Stage("house-rules", "what must not stand in the project", lambda: command(PYTHON, "scripts/house_rules.py")),
    Stage("locks", "lock files agree with what they lock", lambda: command(PYTHON, "scripts/check_locks.py")),
    Stage("specs", "role defaults agree with argument_specs", lambda: command(PYTHON, "scripts/check_specs.py")),
    Stage(
        "config",
        "ansible.cfg has no unknown setting",
        lambda: command("ansible-config", "validate", "-t", "all"),
    ),
    Stage("mypy", "types of lib/ and scripts/", lambda: command("mypy", "lib", "scripts")),
    Stage("syntax", "Ansible reads every playbook", syntax),
    Stage("ansible-lint", "profile production", lambda: command("ansible-lint", "--offline")),
    Stage("unit", "units, without any host", unit),
    Stage("playbooks", "environments, with stand-in packages", lambda: pytest("tests/playbooks", "--quiet")),
    Stage("page", "the lab's report in a real browser", page),
    Stage("molecule", "site.yml on a fresh host, twice, then verified", molecule, needs_engine=True),
    Stage("driver", "drivers on hosts that pose as a lab's, and real builds", driver, needs_engine=True),
    Stage("containers", "./provision as a person runs it, and bad input", containers, True, beside="driver"),
    Stage("cuda", "CUDA and cuDNN with real compilers and libraries", cuda, True, beside="driver"),
    Stage("frameworks", "arithmetic and jobs in real frameworks, on the processor", frameworks, beside="driver"),
    Stage("vm", "drivers on a real kernel, with real reboots", virtual_machine, needs_engine=True),
]


# --- running them ---------------------------------------------------------------------------------


def run_stage(stage: Stage, position: str) -> Outcome:
    """Run one stage and announce it, with its time."""
    print(f"[{position}] {stage.name}: {stage.purpose}", flush=True)
    started = time.monotonic()
    try:
        outcome = stage.run()
    except Unavailable as reason:
        outcome = Outcome(skipped=[(stage.name, str(reason))])
    except Exception as error:  # of a thread nobody would hear
        outcome = Outcome(failed=1, output=f"{type(error).__name__}: {error}")
    if log := getattr(LANE, "log", None):
        log.seek(0)
        print(log.read(), flush=True)
    if outcome.output:
        print("\n".join(f"    {line}" for line in outcome.output.splitlines()[-LAST_LINES:]))
    word = "FAILED" if outcome.failed else "skipped" if outcome.skipped and not outcome.passed else "ok"
    print(f"[{position}] {stage.name}: {word}, {time.monotonic() - started:.0f} s\n", flush=True)
    return outcome


def run_stages(stages: list[Stage]) -> list[Outcome]:
    """Run all stages in their order, but those that go beside another one while that runs; return their outcomes."""
    outcomes: dict[str, Outcome] = {}
    chosen = {stage.name for stage in stages}
    place = {stage.name: f"{number}/{len(stages)}" for number, stage in enumerate(stages, start=1)}

    def one(stage: Stage) -> None:
        outcomes[stage.name] = run_stage(stage, place[stage.name])

    def aside(lane: list[Stage]) -> None:
        for stage in lane:
            with tempfile.TemporaryFile("w+", errors="replace") as LANE.log:
                one(stage)

    for stage in stages:
        if stage.beside in chosen:
            continue
        lane = [other for other in stages if other.beside == stage.name]
        thread = threading.Thread(target=aside, args=(lane,))
        if lane:
            prepare_bed_if_used(stages)  # once, before two stages could do it
            thread.start()
        one(stage)
        if lane:
            thread.join()
    return [outcomes[stage.name] for stage in stages]


def in_ci() -> bool:
    """Whether this is a continuous integration run, where missing tests are a failure."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def choose(only: list[str], fast: bool) -> list[Stage]:
    """Return the stages that the command line asks for."""
    if only:
        return [stage for stage in STAGES if stage.name in only]
    return [stage for stage in STAGES if not (fast and stage.needs_engine)]


def summary(stages: list[Stage], outcomes: list[Outcome]) -> int:
    """Print every skip with its reason, what failed, and the closing line; return the exit status."""
    passed = sum(outcome.passed for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    skipped: dict[str, list[str]] = {}
    for name, reason in (skip for outcome in outcomes for skip in outcome.skipped):
        skipped.setdefault(reason, []).append(name)
    for reason, names in skipped.items():
        print(f"skipped: {names[0] if len(names) == 1 else f'{len(names)} tests'}: {reason}")
    for stage, outcome in zip(stages, outcomes, strict=True):
        if outcome.failed:
            print(f"failed: {stage.name}")
    if in_ci() and isinstance(prepare_bed_if_used(stages), Unavailable):
        print("failed: CI=true, and the container tests could not run")
        failed += 1
    print(f"{passed} passed, {failed} failed, {sum(map(len, skipped.values()))} skipped")
    return 1 if failed else 0


def prepare_bed_if_used(stages: list[Stage]) -> Bed | Unavailable | None:
    """Return how preparing the test bed went; None if no stage asked for it."""
    return prepare_bed() if any(stage.needs_engine for stage in stages) else None


def main() -> int:
    """Run from the command line; see the module's text."""
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(prog="./test", description="Set up and run all tests.")
    parser.add_argument("--fast", action="store_true", help="leave out the stages that need containers")
    parser.add_argument("--long", action="store_true", help="also run what takes very long (real builds)")
    parser.add_argument("--only", action="append", default=[], choices=names, metavar="STAGE", help="repeatable")
    parser.add_argument("--list", action="store_true", help="list the stages and stop")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{stage.name:13} {stage.purpose}" for stage in STAGES))
        return 0
    if arguments.long:
        os.environ["GPULAB_TEST_LONG"] = "1"
    started = time.monotonic()
    stages = choose(arguments.only, arguments.fast)
    outcomes = run_stages(stages)
    print(f"all stages: {time.monotonic() - started:.0f} s")
    return summary(stages, outcomes)


if __name__ == "__main__":
    sys.exit(main())
