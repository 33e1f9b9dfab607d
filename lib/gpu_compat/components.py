# SPDX-License-Identifier: Apache-2.0
"""The components of a toolkit in NVIDIA's archives: which there are, and what people call them."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_compat.tables import Row, Tables
from gpu_compat.versions import at_least, numbers, series_of


def rows_for(version: str, machine: str, tables: Tables) -> list[Row]:
    """Return the components that a release has for a machine."""
    series = series_of(version)
    return [
        row
        for row in tables.rows("cuda.components")
        if at_least(series, row.get("from", "0"))
        and (row.get("to") is None or numbers(series) <= numbers(row["to"]))
        and machine in row.get("arches", (machine,))
    ]


def components_for(wish: str | Sequence[str], version: str, machine: str, tables: Tables) -> list[str]:
    """Return the names in NVIDIA's list of archives, sorted; what is needed to compile comes along with the compiler.

    Args:
        wish: auto, or names, short ones too ("nvcc", "cublas"); those that the release lacks are left out.
    """
    rows = rows_for(version, machine, tables)
    if isinstance(wish, str):
        return sorted({row["name"] for row in rows if not row.get("optional")})
    found = {name for part in wish if (name := resolved(part, rows))}
    if "cuda_nvcc" in found:
        found |= {row["name"] for row in rows if row.get("needed")}
    return sorted(found)


def missing(wish: str | Sequence[str], version: str, machine: str, tables: Tables) -> list[str]:
    """Return the names of a wish that a release has no component for."""
    if isinstance(wish, str):
        return []
    rows = rows_for(version, machine, tables)
    return [part for part in wish if resolved(part, rows) is None]


def resolved(part: str, rows: Sequence[Row]) -> str | None:
    """Return the whole name of a component; "cublas" is libcublas, and the headers of CCCL have two names."""
    names = {row["name"] for row in rows}
    bare = part.removeprefix("cuda_").removeprefix("lib")
    return next((name for name in (part, f"cuda_{bare}", f"lib{bare}", bare) if name in names), None)
