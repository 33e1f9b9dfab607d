# SPDX-License-Identifier: Apache-2.0
"""docs/faults.md: every fault has its row, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "faults.md").read_text()
CELLS = [re.split(r" *\| *", line)[1:-1] for line in PAGE.splitlines() if line.startswith("| F")]
ROWS = {row[0]: row for row in CELLS}
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))
OPEN = "not covered yet"


def test_every_fault_has_one_row_in_order() -> None:
    assert list(ROWS) == [f"F{number}" for number in range(1, 31)]
    assert len(CELLS) == len(ROWS)
    assert {len(row) for row in ROWS.values()} == {4}


@pytest.mark.parametrize("fault", ROWS)
def test_a_fault_names_a_test_or_says_that_there_is_none(fault: str) -> None:
    proof = ROWS[fault][3]
    assert "::test_" in proof or OPEN in proof
    assert not re.search(r"`[\w/]+\.py`", proof)  # a file alone is no proof


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_named_test_exists(path: str) -> None:
    tree = ast.parse((ROOT / "tests" / path).read_text())
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {name for named_path, name in NAMED if named_path == path} <= there
