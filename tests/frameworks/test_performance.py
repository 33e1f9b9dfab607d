# SPDX-License-Identifier: Apache-2.0
"""The performance programs of the real frameworks, on the processor: their figures are plausible and can be judged.

How fast a GPU is, nobody learns here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PROGRAMS = Path(__file__).resolve().parents[2] / "roles" / "validation" / "files" / "gpulab_validation"
sys.path.insert(0, str(PROGRAMS))

import performance  # noqa: E402  # it lies with the programs
import processes  # noqa: E402

TABLE = json.loads((PROGRAMS / "thresholds.json").read_text())
PRODUCTS = json.loads((PROGRAMS / "products.json").read_text())
FRAMEWORKS = ["pytorch", "jax", "tensorflow"]
#: Seconds; a quiet machine needs five.
LIMIT = 120

Python = Callable[[str], Path]


def start(python: Path, framework: str, place: Path, *arguments: str, **variables: str) -> tuple[int, Any, str]:
    """Run a program as the validator does; return its exit status, its result and what it printed."""
    path = place / "result.json"
    command = [str(python), "-s", "-B", str(PROGRAMS / "jobs" / f"performance_{framework}.py"), *arguments]
    environment = {
        "PATH": os.defpath, "HOME": str(place), "TMPDIR": str(place), "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "1", **variables,
    }  # fmt: skip
    done = subprocess.run(
        [*command, "--result", str(path)], capture_output=True, text=True, timeout=LIMIT, check=False, env=environment
    )
    return done.returncode, json.loads(path.read_text()), done.stdout + done.stderr


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_processor_is_measured(framework_python: Python, framework: str, tmp_path: Path) -> None:
    code, result, output = start(framework_python(framework), framework, tmp_path, "--device", "cpu")
    assert code == 0, output
    figures, problems = performance.read_figures(result, ("matmul_fp32", "memory_bandwidth"), TABLE)
    assert problems == []
    # From a hundredth of a core to more than any two sockets.
    assert 0.005 < figures["matmul_fp32"]["median"] < 50
    assert 0.2 < figures["memory_bandwidth"]["median"] < 3000
    assert (result["framework"], result["part"], result["not_measured"]) == (framework, "device", {})
    assert result["device"].strip("/").lower().startswith("cpu")
    assert result["device_name"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_devices_add_up_together(framework_python: Python, framework: str, tmp_path: Path) -> None:
    arguments = ("--device", "cpu", "--part", "all_reduce", "--devices", "2", "--repeats", "3")
    code, result, output = start(framework_python(framework), framework, tmp_path, *arguments)
    assert code == 0, output
    figures, problems = performance.read_figures(result, ("all_reduce",), TABLE)
    assert problems == []
    assert 0.01 < figures["all_reduce"]["median"] < 3000
    assert result["devices"] == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("part", ["device", "all_reduce"])
def test_without_a_gpu_nothing_else_is_measured(
    framework_python: Python, framework: str, part: str, tmp_path: Path
) -> None:
    arguments = ("--device", "gpu", "--part", part)
    code, result, output = start(framework_python(framework), framework, tmp_path, *arguments)
    assert code == 1
    assert result["error"]["reason_code"] == "NO_GPU", output
    assert "figures" not in result


#: Put before a framework's own product: a millisecond more for each.
SLOWER = """
import time, torch
multiply = torch.matmul
def slower(*arguments, **options):
    time.sleep(0.02)
    return multiply(*arguments, **options)
torch.matmul = slower
"""
#: A product that is nothing but NaN.
BROKEN = """
import torch
def broken(left, right, out):
    return out.fill_(float("nan"))
torch.matmul = broken
"""


def with_patch(python: Path, place: Path, patch: str) -> Any:
    """Measure under PyTorch with something put in the way of its product."""
    (place / "patches").mkdir()
    (place / "patches" / "sitecustomize.py").write_text(patch)
    arguments = ("--device", "cpu", "--repeats", "3")
    return start(python, "pytorch", place, *arguments, PYTHONPATH=str(place / "patches"))


def test_a_device_that_is_slowed_down_is_measured_slower(framework_python: Python, tmp_path: Path) -> None:
    code, result, output = with_patch(framework_python("pytorch"), tmp_path, SLOWER)
    assert code == 0, output
    slow = performance.read_figures(result, ("matmul_fp32",), TABLE)[0]["matmul_fp32"]["median"]
    assert slow <= 2 * 1024**3 / 0.02 / 1e12


def test_a_product_of_nan_is_told(framework_python: Python, tmp_path: Path) -> None:
    _, result, _ = with_patch(framework_python("pytorch"), tmp_path, BROKEN)
    assert "NaN" in result["not_measured"]["matmul_fp32"]
    assert [figure["metric"] for figure in result["figures"]] == ["memory_bandwidth"]


def test_the_validator_measures_a_processor_from_end_to_end(framework_python: Python, tmp_path: Path) -> None:
    python = framework_python("jax")

    def run(environment: Any, program: str, arguments: list[str], log: str, timeout: float, **_: Any) -> Any:
        variables = {"PATH": os.defpath, "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        command = [str(python), "-s", "-B", str(PROGRAMS / "jobs" / program), *arguments]
        return processes.run(command, variables, str(tmp_path), str(tmp_path / log), timeout)

    runner = SimpleNamespace(
        start=run, progress=print, result_path=lambda name: str(tmp_path / name),
        result=lambda name: (json.loads((tmp_path / name).read_text()), ""),
    )  # fmt: skip
    context = SimpleNamespace(
        settings={"performance": True}, table=TABLE, products=PRODUCTS, profile="cpu", runner=runner, devices=[],
        environments=[{"name": "all", "python": str(python), "frameworks": {"jax": "0"}, "keras_backend": None}],
        observation=None,
    )  # fmt: skip
    (check,), section = performance.run(context)
    assert (check["id"], check["target"], check["status"]) == ("perf.measured", "all/jax@cpu", "PASS")
    assert {row["metric"] for row in section["rows"]} == {"matmul_fp32", "memory_bandwidth"}
    assert {row["reference"] for row in section["rows"]} == {None}
