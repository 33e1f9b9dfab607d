# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and the system's cuDNN: which there are, and what they go with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from gpu_compat.gpus import Gpu
from gpu_compat.tables import Row, Tables
from gpu_compat.versions import begins_with, numbers


@dataclass(frozen=True, eq=False)
class Toolkit:
    """A CUDA toolkit: its version and the row of ``cuda.toolkits``."""

    version: str
    row: Row

    @cached_property
    def major(self) -> str:
        """The major version."""
        return self.version.split(".")[0]

    @cached_property
    def series(self) -> str:
        """The series that its packages are named after, "12.9"."""
        return ".".join(self.version.split(".")[:2])

    @cached_property
    def driver_min(self) -> str:
        """The oldest driver for its programs."""
        return str(self.row.get("driver_min") or self.row["driver"])


@dataclass(frozen=True, eq=False)
class Cudnn:
    """A cuDNN release for one CUDA major; the row of ``cudnn.releases``."""

    version: str
    cuda_major: str
    row: Row

    def serves(self, gpu: Gpu, tables: Tables) -> bool:
        """Tell whether it has code for a GPU."""
        return _serves(self, gpu.capability, tables)


@cache
def _serves(cudnn: Cudnn, capability: str, tables: Tables) -> bool:
    lowest, highest = capability_range(cudnn.version, tables)
    # 8.6 to 8.8 on Kepler was never verified, so it is not chosen.
    floor = cudnn.row.get("capability_min") or lowest or "5.0"
    return numbers(floor) <= numbers(capability) and (highest is None or numbers(capability) <= numbers(highest))


@cache
def toolkits(tables: Tables) -> Sequence[Toolkit]:
    """Return every toolkit, newest first."""
    rows = sorted(tables.rows("cuda.toolkits"), key=lambda row: numbers(row["version"]), reverse=True)
    return [Toolkit(row["version"], row) for row in rows]


@cache
def cudnns(tables: Tables) -> Sequence[Cudnn]:
    """Return every cuDNN that was not withdrawn, newest first."""
    rows = [row for row in tables.rows("cudnn.releases") if not row.get("yanked")]
    rows.sort(key=lambda row: (numbers(row["version"]), row["cuda_major"]), reverse=True)
    return [Cudnn(row["version"], row["cuda_major"], row) for row in rows]


@cache
def capability_range(version: str, tables: Tables) -> tuple[str | None, str | None]:
    """Return the lowest and the highest compute capability that a cuDNN series serves; None: not known."""
    for row in tables.rows("cudnn.ranges"):
        last = row["last"]
        if numbers(row["first"]) <= numbers(version) and (
            numbers(version) <= numbers(last) or begins_with(version, last)
        ):
            lowest, highest = row["capabilities"]
            return lowest, highest
    return None, None


def is_series(wish: str, version: str) -> bool:
    """Tell whether a toolkit is the one asked for: "12.8" is the newest 12.8.x, "12.8.1" that one, "12" any 12.x."""
    return begins_with(version, wish)
