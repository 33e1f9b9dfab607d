# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and the system's cuDNN: which there are, and what they go with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from gpu_compat.gpus import Gpu
from gpu_compat.hosts import Host
from gpu_compat.tables import Row, Tables
from gpu_compat.versions import at_least, begins_with, numbers, series_of

#: Where a toolkit may come from; the first four without being asked for.
SOURCES = ("existing", "nvidia_repo", "redist", "distro", "runfile")
#: Sources that need no root.
ROOTLESS = ("existing", "redist")


@dataclass(frozen=True, eq=False)
class Toolkit:
    """A CUDA toolkit: its version, the row of ``cuda.toolkits``, and where it comes from.

    Attributes:
        source: one of ``SOURCES``.
        path: of one that is there already and stays as it is.
    """

    version: str
    row: Row
    source: str = "nvidia_repo"
    path: str | None = None

    @cached_property
    def major(self) -> str:
        """The major version."""
        return self.version.split(".")[0]

    @cached_property
    def series(self) -> str:
        """The series that its packages are named after, "12.9"."""
        return series_of(self.version)

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
def serving(capability: str, tables: Tables) -> Sequence[str]:
    """Return the cuDNN releases that have code for a compute capability, newest first."""
    return [cudnn.version for cudnn in cudnns(tables) if _serves(cudnn, capability, tables)]


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


# --- where they come from ----------------------------------------------------------------------------------------


def toolkit_choices(wish: str, host: Host, request: Mapping[str, Any], tables: Tables) -> list[Toolkit]:
    """Return each release once with its source, and what is on the host already; the most wanted first.

    Left alone, a release that NVIDIA offers for the system comes before one from an archive, and of a series somebody's
    toolkit that is there before any other. Where a series was installed for this project, somebody's is not preferred:
    ours would become somebody's own by it, and the next plan would choose again.
    """
    asked = request["cuda_source"]
    found = _existing(host, tables) if asked in ("auto", "existing") else []
    if asked == "distro":
        found += _of_distribution(host, tables)
    there = {toolkit.version for toolkit in found}
    installed = {series for series, source, _, _ in host.toolkits if source != "other"}
    for toolkit in toolkits(tables):
        source = asked if asked != "auto" else _source(toolkit, host, tables)
        if source != "distro" or toolkit.version not in there:
            found.append(Toolkit(toolkit.version, toolkit.row, source))

    def preference(toolkit: Toolkit) -> tuple[object, ...]:
        beside = wish == "auto" and toolkit.path is None and not is_offered(toolkit.version, host)
        series = tuple(-part for part in numbers(toolkit.series))
        preferred = toolkit.path is not None and toolkit.series not in installed
        return beside, series, not preferred, tuple(-part for part in numbers(toolkit.version))

    return sorted(found, key=preference)


def _existing(host: Host, tables: Tables) -> list[Toolkit]:
    """Return somebody's toolkits; of a series that the tables do not know nothing can be said."""
    found = []
    for series, source, version, path in host.toolkits:
        rows = [toolkit.row for toolkit in toolkits(tables) if toolkit.series == series]
        if source == "other" and version and rows:
            same = next((row for row in rows if row["version"] == version), rows[0])
            found.append(Toolkit(version, same, "existing", path))
    return found


def _of_distribution(host: Host, tables: Tables) -> list[Toolkit]:
    row = distribution(host, tables)
    of_series = [toolkit.row for toolkit in toolkits(tables) if row and toolkit.series == series_of(row["version"])]
    if row is None or not of_series:
        return []
    same = next((known for known in of_series if known["version"] == row["version"]), of_series[0])
    return [Toolkit(row["version"], same, "distro")]


def _source(toolkit: Toolkit, host: Host, tables: Tables) -> str:
    """Return where a release comes from where nobody asks: from where its series is installed, NVIDIA's repository,
    else an archive."""
    if host.scope == "user":
        return "redist"
    installed = [source for series, source, _, _ in host.toolkits if series == toolkit.series and source != "other"]
    for source in (*installed, "nvidia_repo"):
        if is_available(Toolkit(toolkit.version, toolkit.row, source), host, tables):
            return source
    return "redist"


def is_available(toolkit: Toolkit, host: Host, tables: Tables) -> bool:
    """Tell whether a release can be had from its source."""
    if toolkit.source == "existing":
        return toolkit.path is not None
    if toolkit.source == "nvidia_repo":
        known = host.system is None or has_repository(host.system, tables)
        return known and is_offered(toolkit.version, host)
    if toolkit.source == "redist":
        row = redist_row("cuda", tables)
        return at_least(toolkit.version, row["first"]) and host.machine in row["platforms"]
    if toolkit.source == "runfile":
        return bool(toolkit.row.get("runfile"))
    own = distribution(host, tables)
    return own is not None and bool(own["version"] == toolkit.version)


def is_offered(version: str, host: Host) -> bool:
    """Tell whether NVIDIA's repository for a host has a release; nothing speaks against one that is not known."""
    return not host.os_name if host.system is None else offers_cuda(host.system, host.machine, version)


def offers_cuda(system: Row, machine: str, version: str) -> bool:
    """Tell whether NVIDIA's repository for a system has a CUDA series."""
    last = system.get("cuda_last")
    newest = last is None or numbers(version)[:2] <= numbers(last)
    return machine in system["repository_arches"] and at_least(version, system["cuda_first"]) and newest


def has_repository(system: Row, tables: Tables) -> bool:
    """Tell whether the tables know how NVIDIA's repository for a system is set up."""
    rows = tables.rows("packages.repositories")
    return any(row["origin"] == "nvidia_repo" and system["id"] in row["systems"] for row in rows)


def distribution(host: Host, tables: Tables) -> Row | None:
    """Return what a host's distribution has of CUDA."""
    name = host.system["id"] if host.system else None
    return next((row for row in tables.rows("cuda.distribution") if row["system"] == name), None)


def redist_row(product: str, tables: Tables) -> Row:
    """Return where NVIDIA's archives of a product lie."""
    return next(row for row in tables.rows("packages.redist") if row["product"] == product)


def cudnn_choices(host: Host, request: Mapping[str, Any], tables: Tables) -> list[Cudnn]:
    """Return every cuDNN that the source asked for could have."""
    if request["cudnn_source"] == "distro":
        row = (distribution(host, tables) or {}).get("cudnn")
        if not row:
            return []
        lowest, _ = capability_range(row["version"], tables)
        return [Cudnn(row["version"], row["cuda_major"], {**row, "capability_min": lowest, "source": ["distribution"]})]
    if request["cudnn_source"] == "redist":
        first = redist_row("cudnn", tables)["first"]
        return [cudnn for cudnn in cudnns(tables) if at_least(cudnn.version, first)]
    return list(cudnns(tables))
