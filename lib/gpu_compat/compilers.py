# SPDX-License-Identifier: Apache-2.0
"""The host compiler of nvcc: the host's own gcc where nvcc accepts it, else an older one beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpu_compat.hosts import Host
from gpu_compat.tables import Row, Tables
from gpu_compat.toolkits import Toolkit
from gpu_compat.versions import numbers


def host_compiler(toolkit: Toolkit, host: Host, tables: Tables) -> tuple[dict[str, Any] | None, str]:
    """Return the compiler that nvcc needs beside the host's own, and what to warn of.

    None stands for: the host's own will do, or, with a warning, there is none that would. ``cxx`` is None for the
    system's own compiler, which nvcc finds by itself.
    """
    if toolkit.source == "distro":
        return None, ""  # its packages bring what their nvcc is made for
    most, known = toolkit.row.get("gcc_max"), host.compilers
    own = known.own if known and (known.own or not known.own_has_cxx) else _own(host)
    lacks_cxx = known is not None and not known.own_has_cxx
    if not lacks_cxx and (most is None or own is None or not _is_newer(own, most)):
        return None, ""
    accepts = f"nvcc of CUDA {toolkit.version} accepts gcc up to {most}"
    fitting = sorted((found for found in _on_host(host) if not _is_newer(found[0], most)), key=_major_first)
    of_system = [row for row in _offered(host) if not _is_newer(row["major"], most)]
    has = f"{host.system['id'] if host.system else 'the host'} has {own or 'none'}"
    if fitting:
        major, cxx = fitting[-1]
        same = next((row for row in of_system if row["major"] == major and row["cxx"] == cxx), None)
        why = f"{accepts}, {has}" if own else f"the host has no gcc of its own; {cxx} is there"
        return {"major": major, "packages": list(same["packages"]) if same else [], "cxx": cxx, "why": why}, ""
    if host.scope == "system" and host.system:
        usual = _own(host)
        if lacks_cxx and (known is None or known.own in (None, usual)) and usual and not _is_newer(usual, most):
            row = next(
                (row for row in tables.rows("packages.compilers") if row["family"] == host.system["family"]), None
            )
            if row:
                why = "nvcc needs a C++ compiler, and the host has none"
                return {"major": usual, "packages": list(row["packages"]), "cxx": None, "why": why}, ""
        if of_system:
            row = max(of_system, key=lambda row: numbers(row["major"]))
            return {**_entry(row), "why": f"{accepts}, {has}"}, ""
    if own is None:
        return None, f"nvcc of CUDA {toolkit.version} needs a C++ compiler, and the host has none; nothing will compile"
    if lacks_cxx and (most is None or not _is_newer(own, most)):
        return (
            None,
            f"nvcc of CUDA {toolkit.version} needs g++ beside gcc {own}, and it is not there; nothing will compile",
        )
    none = "the user who logs in can install none" if host.scope == "user" else "none that old is known for it"
    return None, f"{accepts}; {has}, and {none}: nothing will compile until there is one"


def taking_own_compiler(toolkits: Iterable[Mapping[str, Any]], compilers: Mapping[str, Any] | None) -> list[str]:
    """Return the paths of planned toolkits whose nvcc takes the compiler that shells find first on a host.

    Args:
        toolkits: rows of ``plan.cuda_toolkits``.
        compilers: what the facts say of compilers now; where they say nothing, none is ruled out.
    """
    if compilers is None:
        return [row["path"] for row in toolkits]
    own = compilers.get("default")
    if not own:
        return []
    return [row["path"] for row in toolkits if own["major"] is None or not _is_newer(own["major"], row["gcc_max"])]


def _entry(row: Row) -> dict[str, Any]:
    return {"major": row["major"], "packages": list(row["packages"]), "cxx": row["cxx"]}


def _own(host: Host) -> str | None:
    """Return the major of the gcc that the host's system comes with."""
    return str(numbers(host.system["gcc"])[0]) if host.system else None


def _on_host(host: Host) -> list[tuple[str, str]]:
    return list(host.compilers.gcc) if host.compilers else []


def _offered(host: Host) -> list[Row]:
    return list(host.system.get("compilers") or ()) if host.system else []


def _is_newer(major: str, most: str | None) -> bool:
    return most is not None and numbers(major) > numbers(most)


def _major_first(found: tuple[str, str]) -> tuple[int, ...]:
    return numbers(found[0])
