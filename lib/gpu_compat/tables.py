# SPDX-License-Identifier: Apache-2.0
"""The data files beside this module, read once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

_DATA = Path(__file__).with_name("data")


@cache
def table(name: str) -> Mapping[str, Any]:
    """Return the table ``data/<name>.yml``. Callers must not change it."""
    with open(_DATA / f"{name}.yml", encoding="utf-8") as stream:
        content: Mapping[str, Any] = yaml.safe_load(stream)
    return content


def releases(framework: str) -> list[tuple[str, Version, tuple[int, int], tuple[int, int]]]:
    """Return ``(version, parsed, first Python, last Python)`` of every known release, newest first."""
    rows = table("frameworks")["frameworks"][framework]["releases"]
    return [
        (version, Version(version), minor(row["python"][0]), minor(row["python"][1]))
        for row in rows
        for version in row["versions"]
    ]


def minor(version: str) -> tuple[int, int]:
    """Turn ``"3.12"`` or ``"3.12.1"`` into ``(3, 12)``, which compares as people expect."""
    major, second = version.split(".")[:2]
    return int(major), int(second)
