# SPDX-License-Identifier: Apache-2.0
"""What a driver is called in package managers: its packages, where they come from, and what must be there before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from gpu_compat.drivers import Driver, kernel_flavour
from gpu_compat.hosts import Host
from gpu_compat.tables import Row, Tables
from gpu_compat.versions import at_least, numbers

Plan = dict[str, Any]
_NEVER = ("nvidia-container-", "libnvidia-container", "nvidia-docker", "nvidia-cuda-", "nvidia-cudnn")


def entry(driver: Driver, host: Host, tables: Tables) -> Plan:
    """Return all of ``plan.driver`` that is about packages, files and where they come from."""
    ours = driver.origin != "preinstalled"
    packages, stream = driver_packages(driver, host, tables)
    by_manager = bool(packages)
    # What is installed and cannot be read stays unsaid.
    module = driver.module if ours or host.kernel_module else None
    return {
        "packages": packages,
        "module_stream": stream,
        "package_version": _package_version(driver, tables) if by_manager else None,
        "exact": driver.exact or not ours,
        "kernel_packages": _kernel_packages(driver, host, tables) if driver.signed else {},
        "headers": _headers(driver, host, tables),
        "build_packages": _build_packages(driver, host, tables),
        "repository": repository(driver.origin, host, tables) if by_manager else None,
        "runfile": runfile(driver, host, tables) if driver.origin == "runfile" else None,
        "licenses": {"nvidia": license_of(module, tables)} if module else {},
        "hold": family_patterns(host, tables, held=True) if driver.origin != "runfile" else [],
        "hold_kernel": _kernel_hold(driver, host, tables) if driver.signed else [],
        "family": family_patterns(host, tables) if ours else [],
        "extras": _extras(driver, host, tables) if ours else {},
    }


def driver_packages(driver: Driver, host: Host, tables: Tables) -> tuple[list[str], str | None]:
    """Return the packages to install, and the dnf module stream that they come in."""
    system = host.system
    if system is None or driver.origin not in ("nvidia_repo", "distro"):
        return [], None
    filled = _filled(driver, host)
    for row in tables.rows("packages.driver"):
        if (
            _fits(row, driver, host)
            and row.get("module") in (None, driver.module)
            and row.get("signed") in (None, driver.signed)
            and (not row.get("streams") or system.get("module_streams"))
            and bool(row.get("suffix")) == bool(driver.suffix)
        ):
            stream = row["stream"].format(**filled) if row.get("stream") else None
            return list(_fill_flavours(row["packages"], filled, host)), stream
    return [], None


def _fits(row: Row, driver: Driver, host: Host) -> bool:
    """Tell whether a row is for the family, the system, the source and the branch; what a row leaves out fits all."""
    system = host.system or {}
    return (
        row.get("family") in (None, system.get("family"))
        and row.get("origin") in (None, driver.origin)
        and (row.get("names") is None or bool(set(row["names"]) & set(system.get("names", ()))))
        and (row.get("from") is None or numbers(driver.branch) >= numbers(row["from"]))
        and (row.get("to") is None or numbers(driver.branch) <= numbers(row["to"]))
    )


def _first(table: str, driver: Driver, host: Host, tables: Tables) -> Row | None:
    return next((row for row in tables.rows(f"packages.{table}") if _fits(row, driver, host)), None)


def _filled(driver: Driver, host: Host) -> dict[str, str]:
    """Return what names in the tables leave open."""
    return {
        "branch": driver.branch,
        "version": driver.version,
        "open": "-open" if driver.module == "open" else "",
        "suffix": driver.suffix or "",
        "machine": host.machine,
        "flavour": "{flavour}",
        "kernel": "{kernel}",
        "release": "{release}",
    }


def _fill_flavours(names: Iterable[str], filled: Mapping[str, str], host: Host) -> Iterator[str]:
    """Fill in names; one that is made for a flavour of the kernel is there for each flavour that the host boots."""
    flavours = list(dict.fromkeys(kernel_flavour(host, kernel) or "generic" for kernel in host.kernels or (None,)))
    for name in names:
        if "{flavour}" in name:
            yield from (name.format(**{**filled, "flavour": flavour}) for flavour in flavours)
        else:
            yield name.format(**filled)


def _for_each_kernel(names: Iterable[str], filled: Mapping[str, str], kernel: str) -> list[str]:
    return [name.format(**{**filled, "kernel": kernel, "release": kernel.partition("+")[0]}) for name in names]


def _package_version(driver: Driver, tables: Tables) -> str:
    rows = tables.rows("packages.package_version")
    pattern = next(row["pattern"] for row in rows if row.get("exact", driver.exact) == driver.exact)
    return str(pattern).format(branch=driver.branch, version=driver.version)


def _kernel_packages(driver: Driver, host: Host, tables: Tables) -> dict[str, list[str]]:
    row = _first("kernel_modules", driver, host, tables)
    filled = _filled(driver, host)
    return {kernel: _for_each_kernel(row["packages"], filled, kernel) for kernel in host.kernels} if row else {}


def _headers(driver: Driver, host: Host, tables: Tables) -> dict[str, list[str]]:
    if not driver.built_here() or host.system is None:
        return {}
    found = {}
    for kernel in host.kernels:
        for row in tables.rows("packages.headers"):
            if row["family"] == host.system["family"] and fnmatchcase(kernel, row.get("kernels", "*")):
                found[kernel] = _for_each_kernel(row["packages"], {}, kernel)
                break
    return found


def _build_packages(driver: Driver, host: Host, tables: Tables) -> list[str]:
    row = _first("build", driver, host, tables) if driver.built_here() and host.system else None
    return list(row["packages"]) if row else []


def _kernel_hold(driver: Driver, host: Host, tables: Tables) -> list[str]:
    row = _first("kernel_hold", driver, host, tables)
    return list(_fill_flavours(row["packages"], _filled(driver, host), host)) if row else []


def repository(origin: str, host: Host, tables: Tables) -> Plan | None:
    """Return where packages of NVIDIA's come from, None where the tables name no such place."""
    system = host.system
    if system is None:
        return None
    for row in tables.rows("packages.repositories"):
        if row["origin"] == origin and system["id"] in row["systems"]:
            url = _repository_url(system, host, tables) if row.get("key") else None
            return {
                "id": system["id"],
                "kind": row["kind"],
                "url": url,
                "key_url": f"{url}{row['key']}" if url else None,
                "fingerprints": list(row.get("fingerprints", ())),
                "components": list(row.get("components", ())),
                "requires": list(row.get("requires", ())),
            }
    return None


def _repository_url(system: Row, host: Host, tables: Tables) -> str:
    row = tables.rows("packages.repository_urls")[0]
    directory = row["directories"].get(host.machine, host.machine)
    return str(row["url"].format(system=system["id"], directory=directory, machine=host.machine))


def runfile(driver: Driver, host: Host, tables: Tables) -> Plan:
    """Return where NVIDIA's runfile of a driver lies; ``mirrors`` are tried where it is not in the first place."""
    filled = {"version": driver.version, "machine": host.machine, "branch": driver.branch}
    places = []
    for row in tables.rows("packages.runfile"):
        file = row["file"].format(**filled)
        address = row["url"].format(**filled) + file
        places.append({"file": file, "url": address, "sha256_url": address + row["sums"]})
    first, *others = places
    return {**first, "mirrors": [{key: place[key] for key in ("url", "sha256_url")} for place in others]}


def license_of(module: str, tables: Tables) -> str:
    """Return what modinfo shows as the licence of a flavour's kernel module."""
    return next(str(row["license"]) for row in tables.rows("packages.licenses") if row["module"] == module)


def family_patterns(host: Host, tables: Tables, held: bool = False) -> list[str]:
    """Return names and shell patterns of the driver's own packages; with ``held`` those of the driver's version."""
    family = host.system["family"] if host.system else None
    for row in tables.rows("packages.hold"):
        if row["family"] == family:
            return [*row["patterns"], *(() if held else row.get("beside", ()))]
    return []


def in_family(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a package, "libcuda1" or "libcuda1:i386", is one of a family.

    Containers have a toolkit of their own, whatever a pattern says.
    """
    bare = name.partition(":")[0]
    return not bare.startswith(_NEVER) and any(fnmatchcase(bare, pattern) for pattern in patterns)


def _extras(driver: Driver, host: Host, tables: Tables) -> Plan:
    """Return the packages of what may be wished for beside a driver."""
    persistence = _first("persistence", driver, host, tables) if host.system else None
    daemon = persistence["packages"] if persistence else ()
    toolkit = tables.rows("packages.container_toolkit")[0]
    major = driver.native_cuda().split(".")[0]
    left_behind = any(not gpu.unknown and not at_least(gpu.capability, "7.5") for gpu in host.gpus or ())
    majors = [major, *(["12"] if major == "13" and left_behind else [])]
    rows = [row for row in tables.rows("packages.dcgm") if row["cuda"] in majors]
    return {
        "persistence": [name.format(**_filled(driver, host)) for name in daemon],
        "container_toolkit": list(toolkit["packages"]),
        "dcgm": [name for row in rows for name in row["packages"]],
    }
