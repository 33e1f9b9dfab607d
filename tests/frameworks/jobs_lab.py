# SPDX-License-Identifier: Apache-2.0
"""Runs the validator's jobs in the real frameworks on the processor, on a small data set that is easy to learn."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).resolve().parents[2] / "roles" / "validation" / "files" / "gpulab_validation"
JOBS = PROGRAMS / "jobs"
sys.path.insert(0, str(PROGRAMS))
sys.dont_write_bytecode = True  # the role ships that directory

from processes import Outcome  # noqa: E402

TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())
#: Seconds; importing a framework takes most of it.
TIMEOUT = 240


def make_data(directory: Path, train: int = 4096, test: int = 512) -> Path:
    """Write four IDX files: noise, and for each class a bright stripe in rows of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    source = random.Random(1)
    for part, count in (("train", train), ("t10k", test)):
        labels, images = bytearray(), bytearray()
        for _ in range(count):
            label = source.randrange(10)
            labels.append(label)
            image = bytearray(byte >> 1 for byte in source.randbytes(784))
            at = 28 * (4 + 2 * label)
            image[at : at + 56] = bytes(128 + (byte >> 1) for byte in source.randbytes(56))
            images += image
        for name, header, content in (
            (f"{part}-images-idx3-ubyte", [0x803, count, 28, 28], images),
            (f"{part}-labels-idx1-ubyte", [0x801, count], labels),
        ):
            head = b"".join(number.to_bytes(4, "big") for number in header)
            (directory / name).write_bytes(head + content)
    return directory


def run(
    python: Path, program: str, directory: Path, *arguments: Any, patch: str = "", **variables: str
) -> tuple[Outcome, Any]:
    """Run a program as the validator does.

    :param patch: Python text that runs first in every process, with the directory of the jobs to import from
    :returns: how it ended, and what it wrote to --result
    """
    result = directory / "result.json"
    result.unlink(missing_ok=True)
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(directory), "TMPDIR": str(directory), "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu",
        **variables,
    }  # fmt: skip
    if patch:
        place = directory / "patch"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(f"import sys\nsys.path.insert(0, {str(JOBS)!r})\n{patch}")
        environment["PYTHONPATH"] = str(place)
    command = [str(python), "-s", "-B", str(JOBS / program), *map(str, arguments), "--result", str(result)]
    started = time.monotonic()
    log = directory / "log"
    with log.open("w") as stream:
        done = subprocess.run(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=directory,
            timeout=TIMEOUT,
            check=False,
        )
    outcome = Outcome("finished", done.returncode, time.monotonic() - started, log.read_text(errors="replace")[-4000:])
    return outcome, json.loads(result.read_text()) if result.exists() else None


def clean(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("PYTHON")}


def run_text(python: Path, directory: Path, text: str, **variables: str) -> str:
    """Run Python text beside the jobs; return what it printed."""
    environment = {
        **clean(dict(os.environ)),
        "PYTHONPATH": str(JOBS),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    environment.update(TMPDIR=str(directory), TF_CPP_MIN_LOG_LEVEL="2", **variables)
    done = subprocess.run(
        [str(python), "-s", "-B", "-c", text], capture_output=True, text=True, env=environment, cwd=directory,
        timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
