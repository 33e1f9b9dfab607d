# SPDX-License-Identifier: Apache-2.0
"""What gpu_facts says about environments in every state they can be in."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def make(base: Path, name: str, stamp: str = "20260101T000000Z", *, complete: bool = True, link: bool = True) -> Path:
    """Make a generation with NumPy and a locally built torch in it."""
    prefix = base / "generations" / f"{name}-{stamp}"
    site = prefix / "lib/python3.11/site-packages"
    for package in ("numpy-2.4.0", "torch-2.13.0+cpu", "typing_extensions-4.16.0"):
        (site / f"{package}.dist-info").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/python").symlink_to("/usr/bin/env")
    packages = [
        {"name": "numpy", "version": "2.4"},
        {"name": "torch", "version": "2.13.0+cpu"},
        {"name": "typing-extensions", "version": "4.16.0"},
    ]
    if complete:
        (prefix / "environment.json").write_text(json.dumps({"state": "complete", "digest": "d", "packages": packages}))
    if link:
        (base / "envs").mkdir(exist_ok=True)
        (base / "envs" / name).symlink_to(f"../generations/{prefix.name}")
    return prefix


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path


def state(store: ModuleType, base: Path, name: str = "torch") -> Any:
    found = store.describe(str(base), name)
    return found and found["state"]


def test_nothing_there(store: ModuleType, base: Path) -> None:
    assert store.describe_all(str(base)) == {}
    assert state(store, base) is None


def test_complete_and_intact(store: ModuleType, base: Path) -> None:
    prefix = make(base, "torch")
    found = store.describe_all(str(base))["torch"]
    assert (found["state"], found["drift"], found["extra"], found["digest"]) == ("complete", [], [], "d")
    assert found["generation"] == str(prefix)


def test_interrupted_first_build_is_half_made(store: ModuleType, base: Path) -> None:
    make(base, "torch", complete=False, link=False)
    assert state(store, base) == "half-made"


def test_interrupted_second_build_leaves_the_first_in_force(store: ModuleType, base: Path) -> None:
    make(base, "torch")
    make(base, "torch", "20260102T000000Z", complete=False, link=False)
    assert state(store, base) == "complete"


def test_link_to_a_generation_without_a_manifest_is_half_made(store: ModuleType, base: Path) -> None:
    make(base, "torch", complete=False)
    assert state(store, base) == "half-made"


def test_a_manifest_cut_short_counts_as_none(store: ModuleType, base: Path) -> None:
    prefix = make(base, "torch")
    (prefix / "environment.json").write_text('{"state": "compl')
    assert state(store, base) == "half-made"


def test_what_others_made_is_foreign(store: ModuleType, base: Path) -> None:
    (base / "envs").mkdir()
    (base / "envs/torch").mkdir()
    (base / "envs/jax").symlink_to("/usr")
    assert (state(store, base), state(store, base, "jax")) == ("foreign", "foreign")


def test_names_that_begin_alike_are_kept_apart(store: ModuleType, base: Path) -> None:
    make(base, "torch-old")
    assert state(store, base) is None
    assert state(store, base, "torch-old") == "complete"


def test_drift_is_named_and_additions_are_not_drift(store: ModuleType, base: Path) -> None:
    site = make(base, "torch") / "lib/python3.11/site-packages"
    (site / "numpy-2.4.0.dist-info").rename(site / "numpy-2.3.0.dist-info")
    (site / "typing_extensions-4.16.0.dist-info").rmdir()
    (site / "pandas-3.0.0.dist-info").mkdir()
    (site / "pip-26.0.dist-info").mkdir()
    found = store.describe(str(base), "torch")
    assert found["drift"] == ["numpy is 2.3.0 instead of 2.4", "typing-extensions 4.16.0 is missing"]
    assert found["extra"] == ["pandas"]


def test_a_vanished_interpreter_is_drift(store: ModuleType, base: Path) -> None:
    prefix = make(base, "torch")
    (prefix / "bin/python").unlink()
    (prefix / "bin/python").symlink_to("/usr/bin/python3.99")
    assert "interpreter" in store.describe(str(base), "torch")["drift"][0]
