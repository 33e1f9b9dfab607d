# SPDX-License-Identifier: Apache-2.0
"""The drawn digits: the same everywhere, and not too easy. Needs NumPy, which the project itself does not."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import validate

JOBS = Path(validate.__file__).parent / "jobs"


def python_with_numpy() -> str | None:
    """Return an interpreter that has NumPy: the one named by GPULAB_TEST_NUMPY_PYTHON, or our own."""
    named = os.environ.get("GPULAB_TEST_NUMPY_PYTHON")
    if named:
        return named
    return sys.executable if importlib.util.find_spec("numpy") else None


needs_numpy = pytest.mark.skipif(
    python_with_numpy() is None, reason="no interpreter with NumPy (name one in GPULAB_TEST_NUMPY_PYTHON)"
)


@needs_numpy
def test_the_digits_are_those_of_the_table(tmp_path: Path) -> None:
    command = [str(python_with_numpy()), "-B", str(JOBS / "generate_digits.py"), "--out", str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    table = json.loads((JOBS.parent / "thresholds.json").read_text())["datasets"]["generated"]["files"]
    drawn = {
        path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in tmp_path.iterdir()
    }
    assert drawn == table
    assert json.loads(printed) == {name: entry["sha256"] for name, entry in table.items()}
    labels = (tmp_path / "t10k-labels-idx1-ubyte").read_bytes()[8:]
    assert sorted(set(labels)) == list(range(10))
    assert min(labels.count(digit) for digit in range(10)) > 900


def test_only_operations_that_are_the_same_everywhere() -> None:
    """Sums, products of matrices and library functions depend on the processor or the C library; so does `**`."""
    allowed = {"arange", "array", "concatenate", "full", "floor", "maximum", "minimum", "sqrt"}
    allowed |= {"float64", "int64", "uint8", "random"}
    tree = ast.parse((JOBS / "generate_digits.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np"
    }
    assert used <= allowed
    methods = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not methods & {"sum", "mean", "dot", "std", "prod", "cumsum", "normal", "randn", "uniform", "randint"}
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Pow, ast.MatMult))]
