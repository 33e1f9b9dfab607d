# SPDX-License-Identifier: Apache-2.0
"""The real frameworks on the processor: one environment under .testbed/frameworks for every test here."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".testbed" / "frameworks"
REQUIREMENTS = ROOT / "requirements" / "frameworks.txt"
MODULES = {"pytorch": "torch", "tensorflow": "tensorflow", "jax": "jax", "keras": "keras"}
#: Seconds for pip: the packages are about 1 GB where there are CPU builds.
INSTALL_TIMEOUT, ASK_TIMEOUT = 1800, 300

# Tests import the validator's modules, too. The role ships their directory, so nothing may be written into it.
sys.path.append(str(ROOT / "roles" / "validation" / "files" / "gpulab_validation"))
sys.dont_write_bytecode = True


@pytest.fixture(scope="session")
def framework_python() -> Callable[[str], Path]:
    """Return the interpreter that has a framework; where it cannot be had, the test is skipped with the reason.

    Names are pytorch, tensorflow, jax and keras. The environment is made at the first call and kept.
    """
    answers: dict[str, str] = {}

    def python_of(name: str) -> Path:
        if name not in answers:
            answers[name] = make_environment() or missing(name)
        if answers[name]:
            pytest.skip(answers[name])
        return PLACE / "bin" / "python"

    return python_of


def make_environment() -> str:
    """Make the environment unless it is there and of today; return why it cannot be made, or an empty string."""
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    stamp = PLACE / "made-from"
    with locked(PLACE.with_suffix(".lock")):
        if stamp.is_file() and stamp.read_text() == wanted and (PLACE / "bin" / "python").exists():
            return ""
        shutil.rmtree(PLACE, ignore_errors=True)
        pip = [str(PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(PLACE)], [*pip, "-r", str(REQUIREMENTS)]):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, stdin=subprocess.DEVNULL,
                    check=False, env=clean_variables(),
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                return f"the frameworks cannot be installed: {error}"
            if done.returncode != 0:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
                return f"the frameworks cannot be installed: {lines[0].strip()}"
        stamp.write_text(wanted)
    return ""


def missing(name: str) -> str:
    """Return why a framework cannot be used, or an empty string."""
    command = [str(PLACE / "bin" / "python"), "-c", f"import {MODULES[name]}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_TIMEOUT, check=False, env=clean_variables()
        )
    except subprocess.TimeoutExpired as error:
        return f"{name} cannot be used: {error}"
    return "" if done.returncode == 0 else f"{name} cannot be used: {done.stderr.strip().splitlines()[-1]}"


def clean_variables() -> dict[str, str]:
    """Return our environment without what would point another interpreter to our modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file: several test processes may want the environment at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
