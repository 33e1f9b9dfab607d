# SPDX-License-Identifier: Apache-2.0
"""What the jobs share, without a framework: halving of the batch size, errors as sentences, the result file."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import validate

JOBS = Path(validate.__file__).parent / "jobs"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpulab_job", JOBS / "job.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ResourceExhaustedError(Exception):
    """Named as TensorFlow names it."""


def trainer(limit: int, error: Exception) -> Any:
    """Return a training that runs out of memory above a batch size."""

    def train(options: argparse.Namespace, _: Any) -> dict[str, Any]:
        if options.batch_size > limit:
            raise error
        return {"accuracy": 0.97, "version": "1.0", "device": "cuda:0", "device_name": "a GPU"}

    return train


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
    ],
)
def test_out_of_memory_halves_the_batch_and_says_so(job: ModuleType, error: Exception) -> None:
    options = argparse.Namespace(batch_size=32)
    _, notes = job.halve_when_out_of_memory(trainer(8, error), options, None)
    assert options.batch_size == 8
    assert notes == [
        "out of memory with batch size 32, tried again with 16",
        "out of memory with batch size 16, tried again with 8",
    ]


def test_out_of_memory_ends_at_one(job: ModuleType) -> None:
    options = argparse.Namespace(batch_size=5)
    with pytest.raises(MemoryError):
        job.halve_when_out_of_memory(trainer(0, MemoryError()), options, None)
    assert options.batch_size == 1


def test_other_errors_are_not_halved_away(job: ModuleType) -> None:
    options = argparse.Namespace(batch_size=32)
    with pytest.raises(ValueError, match="shape"):
        job.halve_when_out_of_memory(trainer(8, ValueError("shape")), options, None)
    assert options.batch_size == 32


def run(job: ModuleType, monkeypatch: pytest.MonkeyPatch, directory: Path, train: Any) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(job, "Data", lambda _: None)
    monkeypatch.setattr(
        sys, "argv", ["job", "--data", "x", "--device", "gpu", "--result", str(directory / "result.json")]
    )
    code = job.run("pytorch", train)
    return code, json.loads((directory / "result.json").read_text())


def test_a_result_says_that_the_batch_was_halved(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = run(job, monkeypatch, tmp_path, trainer(16, MemoryError()))
    assert (code, result["batch_size"], result["batch_size_asked"]) == (0, 16, 32)
    assert result["notes"] == ["out of memory with batch size 32, tried again with 16"]
    printed = capsys.readouterr().out
    assert "test accuracy 0.9700 after 10 epochs of batch size 16" in printed
    assert "tried again with 16" in printed


@pytest.mark.parametrize(
    ("error", "reason_code", "message"),
    [
        (MemoryError("no room"), "OUT_OF_MEMORY", "MemoryError: no room"),
        (
            ModuleNotFoundError("No module named 'torch'"),
            "FRAMEWORK_MISSING",
            "pytorch cannot be used: No module named 'torch'",
        ),
        (
            RuntimeError("\n  no kernel image is available\nfor execution"),
            "JOB_ERROR",
            "RuntimeError: no kernel image is available",
        ),
        (AssertionError(), "JOB_ERROR", "AssertionError: no message"),
    ],
)
def test_errors_become_sentences(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, reason_code: str, message: str
) -> None:
    code, result = run(job, monkeypatch, tmp_path, trainer(0, error))
    assert code == 1
    assert result["error"] == {"reason_code": reason_code, "message": message}


def test_a_missing_gpu_is_said_by_the_job(job: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, result = run(job, monkeypatch, tmp_path, trainer(0, job.JobError("NO_GPU", "no usable GPU")))
    assert (code, result["error"]["reason_code"]) == (1, "NO_GPU")


@pytest.mark.parametrize("name", ["tensorflow", "keras", "pytorch", "jax"])
def test_a_framework_that_is_not_installed(name: str, lab: Any) -> None:
    """The real job under an interpreter without the framework (and here without NumPy, which comes first)."""
    result = lab.directory / "result.json"
    command = [sys.executable, "-E", "-s", "-S", "-B", str(JOBS / f"mnist_{name}.py")]
    command += ["--data", str(lab.given), "--device", "cpu", "--result", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert json.loads(result.read_text())["error"] == {
        "reason_code": "FRAMEWORK_MISSING",
        "message": f"{name} cannot be used: No module named 'numpy'",
    }


def test_programs_keep_to_the_oldest_python_of_the_hosts() -> None:
    sources = sorted(JOBS.parent.rglob("*.py"))
    assert len(sources) > 10
    for path in sources:
        ast.parse(path.read_text(), str(path), feature_version=(3, 8))
