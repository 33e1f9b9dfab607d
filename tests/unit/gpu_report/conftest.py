# SPDX-License-Identifier: Apache-2.0
"""A lab that does not exist, and how to take one host of it apart."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "page"))

import fabricated_lab

Document = dict[str, Any]


@pytest.fixture(scope="session")
def small_lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of a lab of 40 hosts; do not change them."""
    directory = tmp_path_factory.mktemp("lab")
    fabricated_lab.make(directory, 40)
    return directory


@pytest.fixture(scope="session")
def _pattern() -> dict[str, Document]:
    kinds = {kind.prefix: kind for kind in fabricated_lab.KINDS}
    return {prefix: fabricated_lab.fabricate(f"{prefix}01", kind, 7) for prefix, kind in kinds.items()}


@pytest.fixture
def document(_pattern: dict[str, Document]) -> Callable[..., Document]:
    """Return the document of a host on which all is well; by default one with two GPUs."""

    def make(prefix: str = "desk", **changes: Any) -> Document:
        return copy.deepcopy(_pattern[prefix]) | changes

    return make
