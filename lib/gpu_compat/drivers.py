# SPDX-License-Identifier: Apache-2.0
"""Drivers: which there are, where they come from, and for which kernels their modules build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from gpu_compat.hosts import Host
from gpu_compat.tables import Row, Tables
from gpu_compat.versions import at_least, branch_of, is_specifier, kernel_numbers, matches, numbers

MODULES = ("open", "proprietary")
ORIGINS = ("nvidia_repo", "distro", "runfile")
SUPPORTED = ("lts", "production")
#: Branches that still get fixes.
LIVING = (*SUPPORTED, "new_feature")
#: Flavours of Ubuntu's kernels for which it builds NVIDIA's modules. Source: names of linux-modules-nvidia-* (memory).
_UBUNTU_FLAVOURS = ("generic", "lowlatency", "aws", "azure", "gcp", "oracle", "nvidia")
#: Up to here no report is needed of a branch that the table does not name.
_QUIET_KERNEL = (6, 8)
_RANK = {"lts": 0, "production": 0, "new_feature": 1, "ended": 2, "legacy": 2}


@dataclass(frozen=True, eq=False)
class Driver:
    """One way to drive the GPUs.

    Attributes:
        version: as written.
        row: its branch's row of ``drivers.branches``.
        module: open or proprietary.
        origin: nvidia_repo, distro, runfile, or preinstalled (what is there stays as it is).
        compat: the row of ``cuda.forward_compatibility`` whose package comes along.
        signed: the module comes signed, so Secure Boot takes it.
        suffix: part of the names of packages of a second driver in one archive (tesla-470).
        packaging: id of the system whose patched sources it is built from, None for NVIDIA's.
        installed: the very version that the host has.
        offered: false where the distribution's archive does not have it.
        exact: false where the archive moves within the branch, and nothing says how far a mirror of it has got.
    """

    version: str
    row: Row
    module: str
    origin: str
    compat: Row | None = None
    signed: bool = False
    suffix: str | None = None
    packaging: str | None = None
    installed: bool = False
    offered: bool = True
    exact: bool = True

    @cached_property
    def branch(self) -> str:
        """The branch, "580"."""
        return str(self.row["branch"])

    def runs(self, driver_min: str, cuda_major: str | None) -> bool:
        """Tell whether programs that need ``driver_min`` run, directly or through the cuda-compat package."""
        if at_least(self.version, driver_min):
            return True
        return self.compat is not None and cuda_major == self.compat["cuda"].split(".")[0]

    def native_cuda(self) -> str:
        """The newest CUDA that it knows all of."""
        return str(self.row["cuda"])

    def built_here(self) -> bool:
        """Tell whether the module is built on the host."""
        return self.origin != "preinstalled" and not self.signed


def branch_row(version: str, tables: Tables) -> Row | None:
    """Return the row of a version's branch; a branch that the tables lack but lie around is taken for the one before
    it."""
    rows = tables.rows("drivers.branches")
    wanted = branch_of(version)
    exact = next((row for row in rows if row["branch"] == wanted), None)
    if exact or numbers(wanted) > max(numbers(row["branch"]) for row in rows):
        return exact
    older = [row for row in rows if numbers(row["branch"]) < numbers(wanted)]
    return (
        {**max(older, key=lambda row: numbers(row["branch"])), "branch": wanted, "latest": version, "status": "ended"}
        if older
        else None
    )


def is_known(version: str, tables: Tables) -> bool:
    """Tell whether the tables name a version anywhere, so that it was released."""
    own = (row for system in tables.rows("systems.systems") for row in system.get("distribution_drivers") or ())
    named = (
        *(row["latest"] for row in tables.rows("drivers.branches")),
        *(row["driver"] for row in tables.rows("drivers.kernel_limits")),
        *(row["driver"] for row in tables.rows("cuda.toolkits")),
        *(row.get("version") for row in own),
        *(first for row in tables.rows("gpus.products") for first in (row.get("driver_first") or {}).values()),
    )
    return version in named


def modules_of(row: Row) -> Sequence[str]:
    """Return the flavours of the kernel module that a branch has."""
    return [module for module in MODULES if row.get(module)]


def wanted_versions(wish: str) -> list[str]:
    """Return exact versions that a wish names and that are not the newest of their branch."""
    bare = wish.removeprefix("==")
    return (
        [bare]
        if bare[:1].isdigit() and "." in bare and is_specifier(f"=={bare}") and "," not in bare and "*" not in bare
        else []
    )


def meets(driver: str, wish: str) -> bool:
    """Tell whether a driver version is what ``driver:`` asks for: a branch, an exact version or a specifier."""
    if wish in ("auto", "keep", "none"):
        return True
    if wish[:1].isdigit():
        return branch_of(driver) == wish if "." not in wish else numbers(driver) == numbers(wish)
    return matches(driver, wish)


def choices(host: Host, request: Mapping[str, Any], tables: Tables) -> list[Driver]:
    """Return every driver that could be, the most wanted first. Rules say later which of them fit."""
    found: list[Driver] = []
    named = wanted_versions(request["driver"])
    for row, version in _versions(host, request, tables):
        installed = version == host.driver
        for module in modules_of(row):
            known = Driver(version, row, module, "nvidia_repo", installed=installed)
            distro = replace(_from_distribution(host, known), exact=version in named)
            found += [known, replace(known, origin="runfile"), distro]
    own = branch_row(host.driver, tables) if host.driver else None
    if host.driver and own:
        # Where its flavour is not known, it is one of those that the branch has, and rules say which it can be.
        found += [Driver(host.driver, own, flavour, "preinstalled", installed=True) for flavour in modules_of(own)]
    compatible = [
        replace(driver, compat=compat)
        for compat in tables.rows("cuda.forward_compatibility")
        for driver in found
        if driver.branch in compat["branches"]
    ]
    return sorted(found + compatible, key=lambda driver: _preference(driver, host, tables))


def _versions(host: Host, request: Mapping[str, Any], tables: Tables) -> Iterable[tuple[Row, str]]:
    """Yield each version worth looking at, with its branch: the newest of each branch, what is asked for, what is
    installed."""
    seen: set[str] = set()
    named = wanted_versions(request["driver"])
    for version in [
        *named,
        *([host.driver] if host.driver else ()),
        *(row["latest"] for row in tables.rows("drivers.branches")),
    ]:
        row = branch_row(version, tables)
        if row and version not in seen:
            seen.add(version)
            yield row, version
    system = host.system or {}
    for own in system.get("distribution_drivers") or ():
        version = own.get("version")
        row = branch_row(version, tables) if version else None
        if row and version not in seen:
            seen.add(version)
            yield row, version


def _from_distribution(host: Host, driver: Driver) -> Driver:
    """Return a driver as the distribution's own archive has it, or would have it.

    What was installed from there was in it, whatever version the tables name.
    """
    found = driver.installed and host.driver_source == "distro"
    for own in (host.system or {}).get("distribution_drivers") or ():
        version = own.get("version") or driver.row["latest"]
        same = own["branch"] == driver.row["branch"] and driver.module in own["modules"]
        if same and (found or version == driver.version):
            signed = bool(own.get("signed")) and signed_for(host)
            packaging = None if signed or host.system is None else host.system["id"]
            suffix = own.get("suffix")
            return replace(driver, origin="distro", signed=signed, suffix=suffix, packaging=packaging)
    return replace(driver, origin="distro", offered=found or host.system is None)


def signed_for(host: Host) -> bool:
    """Tell whether a distribution signs modules for every kernel of the host: its own ones, no newer than it has."""
    return all(_signed_for(host, kernel) for kernel in host.kernels)


def _signed_for(host: Host, kernel: str) -> bool:
    if host.system is None:
        return True
    newest = host.system.get("kernel_hwe") or host.system["kernel"]
    return kernel_flavour(host, kernel) is not None and numbers(kernel)[:2] <= numbers(newest)


def kernel_flavour(host: Host, kernel: str | None) -> str | None:
    """Return the flavour that packages of an Ubuntu kernel are named after: "generic", "generic-hwe-22.04", "aws"."""
    if kernel is None or host.system is None:
        return _UBUNTU_FLAVOURS[0]
    last = kernel.rpartition("-")[2]
    if last not in _UBUNTU_FLAVOURS:
        return None
    newer = last == _UBUNTU_FLAVOURS[0] and numbers(kernel)[:2] > numbers(host.system["kernel"])
    return f"{last}-hwe-{host.system['version']}" if newer else last


def _preference(driver: Driver, host: Host, tables: Tables) -> tuple[object, ...]:
    """Order drivers: no compatibility package; what is installed while it is supported, from where it came; supported
    branches, newest first.

    NVIDIA's repository comes before the distribution's archive, and the runfile last: it is not updated with the
    system.
    """
    stays = driver.installed and driver.row["status"] in LIVING
    origin = ORIGINS.index(driver.origin) if driver.origin in ORIGINS else len(ORIGINS)
    flavour = 0 if driver.module == host.kernel_module else 1 + MODULES.index(driver.module)
    return (
        driver.compat is not None,
        not stays,
        stays and host.driver_source is not None and driver.origin != host.driver_source,
        _RANK[driver.row["status"]],
        # A module that is signed already needs nobody at the console.
        bool(host.secure_boot) and driver.built_here(),
        any(builds_for(driver, kernel, tables) is None for kernel in host.kernels),
        tuple(-part for part in numbers(driver.branch)),
        origin,
        # What an archive gave stays: nothing says that it has a newer one.
        not (driver.installed and driver.origin == host.driver_source == "distro"),
        tuple(-part for part in numbers(driver.version)),
        flavour,
    )


def from_nvidia(driver: Driver, system: Row, tables: Tables) -> bool:
    """Tell whether NVIDIA's repository for a system has a driver's branch.

    The driver guide names the systems that get the supported branches. For the others, and for branches that have
    ended, a repository holds the branches of the toolkits that it holds.
    """
    status, native = driver.row["status"], driver.row["cuda"]
    if system.get("driver_guide") and status in LIVING:
        return True
    last = system.get("cuda_last")
    return at_least(native, system["cuda_first"]) and (last is None or numbers(native) <= numbers(last))


def builds_for(driver: Driver, kernel: str | None, tables: Tables) -> bool | None:
    """Tell whether a driver's module builds for a kernel: seen to build or to fail, None where nobody has reported."""
    if kernel is None or not driver.built_here():
        return True
    ended = driver.row["status"] not in LIVING
    return _builds(driver.version, driver.branch, ended, driver.packaging, kernel_numbers(kernel), tables)


@lru_cache(maxsize=4096)
def _builds(
    version: str, branch: str, ended: bool, packaging: str | None, linux: tuple[int, ...], tables: Tables
) -> bool | None:
    limits = tables.rows("drivers.kernel_limits")
    same = [row for row in limits if branch_of(row["driver"]) == branch and row.get("packaging") in (None, packaging)]
    rows = [row for row in same if row.get("packaging")] or same
    # An older release fails where a newer one of its branch does, a newer one builds where an older one does.
    for row in rows:
        if row.get("fails") and at_least(row["driver"], version) and linux >= kernel_numbers(row["fails"]):
            return False
    for row in rows:
        if row.get("builds") and at_least(version, row["driver"]) and _within(linux, row["builds"]):
            return True
    if same:
        return None if any(row.get("builds") and not _within(linux, row["builds"]) for row in same) else True
    if ended and _fails_later(branch, linux, limits):
        return False
    return True if linux[:2] <= _QUIET_KERNEL else None


def _within(linux: tuple[int, ...], last: str) -> bool:
    """Tell whether a kernel is no newer than ``last``, as exactly as that is written: all of 6.1 are within 6.1."""
    bound = kernel_numbers(last)
    return linux[: len(bound)] <= bound


def _fails_later(branch: str, linux: tuple[int, ...], limits: Sequence[Row]) -> bool:
    """Tell whether a newer branch fails for a kernel; one that ended before it, and was not reported on, does too."""
    return any(
        not row.get("packaging") and row.get("fails") and linux >= kernel_numbers(row["fails"])
        for row in limits
        if numbers(branch_of(row["driver"])) > numbers(branch)
    )
