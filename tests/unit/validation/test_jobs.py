# SPDX-License-Identifier: Apache-2.0
"""What the jobs share, without a framework: halving of the batch size, errors as sentences, the result file."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import validate

JOBS = Path(validate.__file__).parent / "jobs"


def load(name: str) -> ModuleType:
    """Load a module below jobs/, beside which it finds the others."""
    spec = importlib.util.spec_from_file_location(f"gpulab_{name}", JOBS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(JOBS))
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load("job")


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    return load("proof")


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


def test_a_result_tells_which_process_it_is_from(
    job: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, result = run(job, monkeypatch, tmp_path, trainer(32, MemoryError()))
    started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert result["proof"] == {"pid": os.getpid(), "pid_start": started}


# -- the proofs that a job collects: reading what profilers write ------------------------------------------------------


def field(number: int, value: int | bytes | str) -> bytes:
    """Return one field in the encoding of protocol buffers."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def plane(name: str, lines: dict[str, list[int]], names: dict[int, str]) -> bytes:
    content = field(1, 3) + field(2, name)
    for line, events in lines.items():
        content += field(3, field(1, 14) + field(2, line) + b"".join(field(4, field(1, event)) for event in events))
    for number, event_name in names.items():
        content += field(4, field(1, number) + field(2, field(1, number) + field(2, event_name)))
    return field(1, content)


NAMES = {1: "void gemm<float, 128>", 300: "MemcpyH2D", 301: "Memset", 2: "loop_multiply_fusion"}


def test_kernels_of_a_profile_are_found_on_the_streams_of_gpus(proof: ModuleType) -> None:
    gpu = plane("/device:GPU:0", {"Stream #14(Compute)": [1, 2, 1, 300], "Stream #15(MemcpyH2D)": [300, 301]}, NAMES)
    derived = plane("/device:GPU:1", {"XLA Ops": [1]}, NAMES)
    processor = plane("/host:CPU", {"Stream #1": [1]}, NAMES)
    content = processor + gpu + derived + field(4, "a host")
    assert sorted(proof.kernels_of_xspace(content)) == [NAMES[2], NAMES[1], NAMES[1]]
    assert proof.kernels_of_xspace(processor) == []


def test_what_a_profiler_says_of_its_failure_becomes_the_reason(proof: ModuleType, tmp_path: Path) -> None:
    def record(directory: str) -> Any:
        Path(directory, "vm.xplane.pb").write_bytes(field(2, "CUPTI could not be loaded"))
        return proof.kernels_of_xspaces(directory)

    answer = proof.kernels("a profiler", record)
    assert (answer["available"], answer["count"]) == (False, 0)
    assert "CUPTI could not be loaded" in answer["why"]


@pytest.mark.parametrize("content", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\xff" * 40, b"<html>not a profile</html>"])
def test_a_damaged_profile_is_an_error_and_no_kernels(proof: ModuleType, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|truncated"):
        proof.message(content)


def test_kernels_of_pytorchs_trace_leave_copies_out(proof: ModuleType, tmp_path: Path) -> None:
    events = [
        {"cat": "kernel", "name": "void gemm<float, 128>", "args": {"device": 0}},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD"}, {"cat": "gpu_memset", "name": "Memset"},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel"}, {"name": "process_name"}, None,
    ]  # fmt: skip
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    assert proof.kernels_of_chrome_trace(str(path)) == ["void gemm<float, 128>"]


def test_an_enormous_profile_is_not_read(proof: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "TRACE_BYTES", 10)
    path = tmp_path / "trace.json"
    path.write_text('{"traceEvents": []}')
    with pytest.raises(ValueError, match="too many to read"):
        proof.kernels_of_chrome_trace(str(path))


def test_a_failing_profiler_never_fails_the_job_and_leaves_nothing(
    proof: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def record(directory: str) -> Any:
        Path(directory, "rest").write_text("rest")
        raise RuntimeError("CUPTI_ERROR_NOT_INITIALIZED\nmore")

    answer = proof.kernels("a profiler", record)
    assert answer["why"] == "RuntimeError: CUPTI_ERROR_NOT_INITIALIZED"
    assert (answer["available"], list(tmp_path.iterdir())) == (False, [])
    assert proof.device_time("CUDA events", lambda: 1 / 0)["why"] == "ZeroDivisionError: division by zero"


def test_kernels_are_counted_and_only_a_few_are_named(proof: ModuleType) -> None:
    answer = proof.kernels("a profiler", lambda _: [f"kernel {index % 7}" for index in range(70)])
    assert (answer["available"], answer["count"], len(answer["names"])) == (True, 70, 5)


def test_a_process_of_any_name_tells_its_start(proof: ModuleType, tmp_path: Path) -> None:
    fields = " ".join(str(number) for number in range(3, 53))
    (tmp_path / "stat").write_text(f"4711 (a) 1 (b) c) {fields}\n")
    assert proof.start_time(str(tmp_path / "stat")) == 22
    assert proof.start_time(str(tmp_path / "missing")) is None


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
