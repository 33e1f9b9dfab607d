# SPDX-License-Identifier: Apache-2.0
"""Tier 3 with the real frameworks, on the processor: right as they are, and refused once they compute wrongly."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numerics
import pytest
import settings
from runner import Runner

PROGRAMS = Path(numerics.__file__).parent
FRAMEWORKS = ["pytorch", "tensorflow", "jax"]
TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())

#: Python imports it at its start; it spoils what the framework's product returns, or what flows back into it.
SITECUSTOMIZE = """
import os, sys
import numpy as np

kind, framework = os.environ["SPOIL"].split(":")

def factors(shape):
    answer = np.ones(shape, dtype="float32")
    if kind == "tile":
        answer[16:32, 16:32] = 0
    elif kind == "scale":
        answer *= 1.003
    elif kind == "nan":
        answer[7, 5] = np.nan
    elif kind == "element":
        answer[9, np.arange(32)] = 1 + np.float32(2) ** -9
    elif kind == "restless":
        answer[np.random.default_rng().integers(shape[0], size=1000), :] = 1 + 2.0 ** -20
    return answer

if framework == "pytorch":
    import torch
    product = torch.matmul
    def spoiled(a, b):
        y = product(a, b)
        if kind == "backward":
            half = torch.ones(y.shape); half[:, :8] = -1
            y.register_hook(lambda gradient: gradient * half.to(gradient.dtype))
            return y
        return y * torch.tensor(factors(tuple(y.shape))).to(y.dtype)
    torch.matmul = spoiled
elif framework == "tensorflow":
    import tensorflow as tf
    product = tf.matmul
    def spoiled(a, b):
        y = product(a, b)
        if kind == "backward":
            half = np.ones(y.shape, dtype="float32"); half[:, :8] = -1
            @tf.custom_gradient
            def turn(x):
                return tf.identity(x), lambda gradient: gradient * tf.cast(half, gradient.dtype)
            return turn(y)
        return y * tf.cast(factors(tuple(y.shape)), y.dtype)
    tf.matmul = spoiled
else:
    import jax, jax.numpy as jnp
    product = jnp.matmul
    def spoiled(a, b):
        y = product(a, b)
        if kind == "backward":
            half = np.ones(y.shape, dtype="float32"); half[:, :8] = -1
            @jax.custom_vjp
            def turn(x):
                return x
            turn.defvjp(lambda x: (x, None), lambda _, gradient: (gradient * jnp.asarray(half, gradient.dtype),))
            return turn(y)
        return y * jnp.asarray(factors(y.shape), dtype=y.dtype)
    jnp.matmul = spoiled
"""


def programs(base: Path, python: Path, framework: str) -> SimpleNamespace:
    """Return a run of the validator's tier 3 with one framework."""
    given = {
        "base_dir": str(base),
        "environments": [{"name": "lab", "python": str(python), "frameworks": {framework: ""}}],
    }
    checked = settings.check(given)
    runner = Runner(checked, TABLE, str(PROGRAMS), str(base), "RUN")
    runner.prepare()
    return SimpleNamespace(
        settings=checked,
        table=TABLE,
        profile="cpu",
        environments=checked["environments"],
        devices=[],
        observation=None,
        expected={},
        runner=runner,
    )


@pytest.fixture
def run_tier(tmp_path: Path, framework_python: Callable[[str], Path]) -> Iterator[Callable[[str], Any]]:
    made = []

    def run(framework: str) -> Any:
        c = programs(tmp_path, framework_python(framework), framework)
        made.append(c.runner)
        return numerics.run(c)

    yield run
    for runner in made:
        runner.clean()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_computes_right_on_the_processor(framework: str, run_tier: Callable[[str], Any]) -> None:
    started = time.monotonic()
    checks, section = run_tier(framework)
    found = {row["id"].removeprefix("num.fwd_bwd."): row for row in checks}
    messages = {name: row["message"] for name, row in found.items()}
    for name in ("fp32", "bf16", "fp16", "num.repeat", "mem.pattern"):
        assert found[name]["status"] == "PASS", messages
    assert found["tf32"]["status"] == "SKIP"
    assert {name: found[name]["measured"]["mode"] for name in ("fp32", "bf16", "fp16")} == {
        "fp32": "fp32", "bf16": "bf16", "fp16": "fp16",
    }  # fmt: skip
    assert len(section["rows"]) == 6
    assert section["memory"][0]["bytes"] >= 240 << 20
    assert time.monotonic() - started < 90


def compute(python: Path, framework: str, out: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one program as the validator does."""
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(out), "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", **variables,
        "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "2",
    }  # fmt: skip
    command = [str(python), "-s", "-B", str(PROGRAMS / "jobs" / f"numerics_{framework}.py"), "--out", str(out / "t")]
    command += ["--result", str(out / "result.json"), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def compare(python: Path, out: Path) -> dict[str, Any]:
    """Run the comparison on what a program wrote."""
    command = [str(python), "-s", "-B", str(PROGRAMS / "jobs" / "compare_numerics.py"), str(out / "t")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)["devices"]["t"]
    return answer


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("kind", "stage", "precisions"),
    [
        ("scale", "z", ["fp32"]),
        ("element", "z", ["fp32"]),
        ("tile", "z", ["fp32", "bf16", "fp16"]),
        ("nan", "z", ["fp32", "bf16", "fp16"]),
        ("backward", "dW", ["fp32", "bf16", "fp16"]),
    ],
)
def test_a_framework_that_computes_wrongly_is_refused(
    tmp_path: Path,
    framework_python: Callable[[str], Path],
    framework: str,
    kind: str,
    stage: str,
    precisions: list[str],
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    python = framework_python(framework)
    arguments = ["--device", "cpu", "--precisions", ",".join(precisions), "--repeats", "1"]
    spoil = {"PYTHONPATH": str(tmp_path), "SPOIL": f"{kind}:{framework}"}
    done = compute(python, framework, tmp_path, *arguments, **spoil)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = compare(python, tmp_path)["runs"]
    for precision in precisions:
        of_precision = [run for run in runs if run["precision"] == precision]
        assert all("tensors" in run for run in of_precision), of_precision
        judged = numerics.judge_precision(precision, of_precision, TABLE["numerics"])
        assert judged["status"] == "FAIL"
        assert f": {stage} " in judged["message"]


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])  # JAX traces a product once
def test_a_framework_that_changes_its_mind_is_refused(
    tmp_path: Path, framework_python: Callable[[str], Path], framework: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    python = framework_python(framework)
    spoil = {"PYTHONPATH": str(tmp_path), "SPOIL": f"restless:{framework}"}
    done = compute(python, framework, tmp_path, "--device", "cpu", "--precisions", "fp32", "--repeats", "2", **spoil)
    assert done.returncode == 0, done.stderr[-2000:]
    row = numerics.judge_repeats(compare(python, tmp_path)["runs"], "cpu")
    assert (row["status"], row["reason_code"]) == ("FAIL", "NOT_REPEATABLE")


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_a_gpu_a_program_that_was_told_to_use_one_fails_fast(
    tmp_path: Path, framework_python: Callable[[str], Path], framework: str
) -> None:
    started = time.monotonic()
    done = compute(framework_python(framework), framework, tmp_path, "--device", "gpu", JAX_PLATFORMS="cuda")
    assert done.returncode == 1
    assert json.loads((tmp_path / "result.json").read_text())["error"]["reason_code"] == "NO_GPU"
    assert time.monotonic() - started < 30
    assert not list(tmp_path.rglob("*.npy"))


def test_the_comparison_loads_no_framework(framework_python: Callable[[str], Path]) -> None:
    text = "import sys, compare_numerics; sys.exit(bool({'torch', 'tensorflow', 'jax'} & set(sys.modules)))"
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROGRAMS / "jobs"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(framework_python("jax")), "-c", text], env=variables, timeout=60, check=False)
    assert done.returncode == 0
