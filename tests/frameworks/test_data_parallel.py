# SPDX-License-Identifier: Apache-2.0
"""The data-parallel jobs in the real frameworks, on two logical devices or two processes of the processor."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_lab import JOBS, TABLE, make_data, run

import data_parallel  # isort: skip

FRAMEWORKS = ["pytorch", "tensorflow", "jax"]
Pythons = Callable[[str], Path]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def start(
    python: Path, framework: str, directory: Path, data: Path, *more: Any, devices: int = 2, **changes: str
) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Run a job; return its outcome, its result and the checks."""
    arguments = ["--data", data, "--device", "cpu", "--devices", devices, "--steps", 60, *more]
    outcome, result = run(python, f"data_parallel_{framework}.py", directory, *arguments, **changes)
    checks = data_parallel.judge("e/f", framework, "cpu", devices, outcome, result, "", TABLE, "log")
    return outcome, result, checks


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("devices", [2, 3])
def test_gradients_of_several_devices_equal_those_of_one(
    devices: int, framework: str, framework_python: Pythons, data: Path, tmp_path: Path
) -> None:
    outcome, result, checks = start(framework_python(framework), framework, tmp_path, data, devices=devices)
    assert [row["status"] for row in checks] == ["PASS", "PASS"], (checks, outcome.tail)
    assert result["replicas"] == len(result["devices"]) == devices
    assert result["replicas_spread"] == 0
    assert result["accuracy"] > 0.8


#: Every replica is given the share of the first one, though the step is judged as a whole: a share is missing.
SAME_SHARE = """
import data_parallel
part, whole = data_parallel.Batches.part, data_parallel.Batches.whole
data_parallel.Batches.part = lambda self, step, replica: part(self, step, 0)
"""
#: The gradients of the replicas are not averaged.
NOT_AVERAGED = {
    "pytorch": """
import builtins
real = builtins.__import__
def patched(name, *rest, **more):
    module = real(name, *rest, **more)
    torch = sys.modules.get("torch")
    if name == "torch" and hasattr(getattr(torch, "nn", None), "parallel"):
        torch.nn.parallel.DistributedDataParallel = lambda network, **_: network
    return module
builtins.__import__ = patched
""",
    "tensorflow": """
import tensorflow as tf
from tensorflow.python.distribute import mirrored_strategy
def not_reduced(self, reduce_op, pairs, options=None):
    return [value for value, _ in pairs]
mirrored_strategy.MirroredExtended._batch_reduce_to = not_reduced
""",
}


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_a_missing_share_of_the_batch_is_found(
    framework: str, framework_python: Pythons, data: Path, tmp_path: Path
) -> None:
    _, _, checks = start(framework_python(framework), framework, tmp_path, data, patch=SAME_SHARE)
    assert (checks[0]["status"], checks[0]["reason_code"]) == ("FAIL", "WRONG_GRADIENT")


@pytest.mark.parametrize("framework", NOT_AVERAGED)
def test_gradients_that_are_not_averaged_are_found(
    framework: str, framework_python: Pythons, data: Path, tmp_path: Path
) -> None:
    outcome, _, checks = start(framework_python(framework), framework, tmp_path, data, patch=NOT_AVERAGED[framework])
    assert (checks[0]["status"], checks[0]["reason_code"]) == ("FAIL", "WRONG_GRADIENT"), (checks, outcome.tail)


def test_a_sum_that_loses_a_device_is_found_in_jax(framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    """JAX averages by itself; here the second device's images are lost on the way to it."""
    patch = """
import data_parallel, builtins
whole = data_parallel.Batches.whole
calls = []
def half(self, step):
    images, labels = whole(self, step)
    calls.append(step)
    if len(calls) == 1:  # what the devices get; the reference is computed from the second call's
        images = images.copy()
        images[len(images) // 2:] = 0
    return images, labels
data_parallel.Batches.whole = half
"""
    _, _, checks = start(framework_python("jax"), "jax", tmp_path, data, patch=patch)
    assert (checks[0]["status"], checks[0]["reason_code"]) == ("FAIL", "WRONG_GRADIENT")


def test_a_process_that_dies_is_told_at_once(framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    patch = """
import os, data_parallel
part = data_parallel.Batches.part
def deadly(self, step, replica):
    if step == 5 and os.environ.get("RANK") == "1":
        os.kill(os.getpid(), 9)
    return part(self, step, replica)
data_parallel.Batches.part = deadly
"""
    started = time.monotonic()
    _, result, checks = start(framework_python("pytorch"), "pytorch", tmp_path, data, patch=patch)
    assert time.monotonic() - started < 60
    assert result["error"]["reason_code"] in ("CRASHED", "JOB_ERROR")
    assert [row["status"] for row in checks] == ["FAIL", "FAIL"]


def test_a_process_that_waits_in_vain_gives_up(framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    patch = """
import os, time, data_parallel
part = data_parallel.Batches.part
def sleepy(self, step, replica):
    if step == 5 and os.environ.get("RANK") == "1":
        time.sleep(600)
    return part(self, step, replica)
data_parallel.Batches.part = sleepy
"""
    started = time.monotonic()
    _, result, checks = start(framework_python("pytorch"), "pytorch", tmp_path, data, "--timeout", 5, patch=patch)
    assert time.monotonic() - started < 60
    assert result["error"]["message"]
    assert [row["status"] for row in checks] == ["FAIL", "FAIL"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_a_gpu_it_says_so(framework: str, framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    outcome, result, checks = start(
        framework_python(framework), framework, tmp_path, data, "--device", "gpu", JAX_PLATFORMS="cuda"
    )
    assert outcome.code == 1
    assert result["error"]["reason_code"] == "NO_GPU", outcome.tail
    assert {row["reason_code"] for row in checks} == {"NO_GPU"}


def test_torchrun_can_start_the_processes_instead(framework_python: Pythons, data: Path, tmp_path: Path) -> None:
    python = framework_python("pytorch")
    result = tmp_path / "result.json"
    command = [
        str(python), "-s", "-B", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(JOBS / "data_parallel_pytorch.py"), "--data", str(data), "--device", "cpu", "--steps", "20",
        "--result", str(result),
    ]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # torchrun hands no option on
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(result.read_text())
    assert (answer["replicas"], answer["backend"], answer["framework"]) == (2, "gloo", "pytorch")
    assert len(answer["hosts"]) == 1
