# SPDX-License-Identifier: Apache-2.0
"""``plan.cuda_toolkits`` and ``plan.cudnn``: what roles need to install them, and to keep and to remove them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_compat.compilers import host_compiler
from gpu_compat.components import components_for
from gpu_compat.driver_packages import repository
from gpu_compat.hosts import Host
from gpu_compat.solver import Solution
from gpu_compat.tables import Row, Tables
from gpu_compat.toolkits import Cudnn, Toolkit, distribution, has_repository, redist_row
from gpu_compat.versions import at_least, newer, numbers

Plan = dict[str, Any]
#: Where system-wide toolkits are linked, and with them the default.
PREFIX = "/usr/local"
#: What a toolkit is compiled for where there is no GPU to ask, if it can.
USUAL_ARCHITECTURE = "7.5"


def chosen_toolkits(solution: Solution, request: Mapping[str, Any]) -> list[tuple[int, Toolkit]]:
    """Return each toolkit of a solution once, with the number of the first wish for it."""
    found: list[tuple[int, Toolkit]] = []
    for index in range(len(request["cuda_toolkits"])):
        toolkit = solution.get(f"toolkit[{index}]")
        if toolkit is not None and all(known.version != toolkit.version for _, known in found):
            found.append((index, toolkit))
    return found


def toolkit_entries(
    toolkits: Iterable[Toolkit], request: Mapping[str, Any], host: Host, gpu: bool, tables: Tables
) -> list[Plan]:
    """Return the toolkits; the first asked for is the default."""
    entries: list[Plan] = []
    for toolkit in toolkits:
        entries.append(_toolkit_entry(toolkit, not entries, request, host, gpu, tables))
    return entries


def _toolkit_entry(
    toolkit: Toolkit, default: bool, request: Mapping[str, Any], host: Host, gpu: bool, tables: Tables
) -> Plan:
    source = toolkit.source
    names = next((row for row in tables.rows("packages.cuda_toolkit") if row["origin"] == source), None)
    filled = {"cuda": toolkit.series.replace(".", "-")}
    redist = _redist(toolkit, request, host, tables) if source == "redist" else None
    return {
        "version": toolkit.version,
        "series": toolkit.series,
        "major": int(toolkit.major),
        "default": default,
        "source": source,
        "path": _path(toolkit, host, tables),
        "packages": [names["package"].format(**filled)] if names else [],
        # A distribution's archive decides which release it is.
        "package_version": f"{toolkit.version}-*" if source == "nvidia_repo" else None,
        "repository": _repository(source, host, tables),
        "runfile": _runfile(toolkit, host, tables) if source == "runfile" else None,
        "redist": redist,
        "hold": [name.format(**filled) for name in names["hold"]] if names else [],
        "gcc_max": toolkit.row.get("gcc_max"),
        "clang_max": toolkit.row.get("clang_max"),
        "host_compiler": host_compiler(toolkit, host, tables)[0],
        "architectures": _architectures(toolkit, host, gpu),
        "digest": _digest(source, toolkit.version, redist["components"] if redist else []),
    }


def prefix(host: Host) -> str:
    """Return where toolkits are linked."""
    return PREFIX if host.scope == "system" else host.base_dir


def _path(toolkit: Toolkit, host: Host, tables: Tables) -> str:
    if toolkit.path is not None:
        return toolkit.path
    if toolkit.source == "distro":
        return str((distribution(host, tables) or {})["path"])
    return f"{prefix(host)}/cuda-{toolkit.series}"


def _repository(source: str, host: Host, tables: Tables) -> Plan | None:
    """Return where packages come from; what only a driver needs beside is left out."""
    if source == "nvidia_repo":
        found = repository(source, host, tables)
        return {**found, "components": [], "requires": []} if found else None
    row = distribution(host, tables) if source == "distro" else None
    if row is None or host.system is None:
        return None
    kind = "dnf" if host.system["family"] == "rhel" else "apt"
    nothing: Plan = {"url": None, "key_url": None, "fingerprints": [], "requires": []}
    return {"id": host.system["id"], "kind": kind, "components": list(row["components"]), **nothing}


def _runfile(toolkit: Toolkit, host: Host, tables: Tables) -> Plan:
    row = tables.rows("packages.cuda_runfile")[0]
    file = toolkit.row["runfile"].removesuffix(row["endings"]["x86_64"]) + row["endings"][host.machine]
    filled = {"version": toolkit.version}
    return {
        "file": file,
        "url": row["url"].format(**filled) + file,
        "md5_url": row["sums_url"].format(**filled) + row["sums"],
    }


def _redist(toolkit: Toolkit, request: Mapping[str, Any], host: Host, tables: Tables) -> Plan:
    row = redist_row("cuda", tables)
    return {
        "manifest_url": f"{row['url']}redistrib_{toolkit.version}.json",
        "platform": row["platforms"][host.machine],
        "components": components_for(request["cuda_components"], toolkit.version, host.machine, tables),
    }


def _architectures(toolkit: Toolkit, host: Host, gpu: bool) -> list[str]:
    """Return what a toolkit is tried with: the host's GPUs, else a usual one that it compiles for."""
    lowest, highest = toolkit.row["capabilities"]

    def fits(capability: str) -> bool:
        return numbers(lowest) <= numbers(capability) <= numbers(highest)

    found = {card.capability for card in host.gpus or () if not card.unknown} if gpu else set()
    if not found:
        return [min(max(lowest, USUAL_ARCHITECTURE, key=numbers), highest, key=numbers)]
    return sorted((capability for capability in found if fits(capability)), key=numbers)


def _digest(source: str, version: str, parts: Sequence[str]) -> str:
    """Digest what something is made of; where it lies does not count."""
    content = {"source": source, "version": version, "components": list(parts)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# --- cuDNN -------------------------------------------------------------------------------------------------------


def chosen_cudnn(solution: Solution) -> dict[str, Cudnn]:
    """Return the cuDNN of a solution by CUDA major."""
    found: dict[str, Cudnn] = {}
    for name, cudnn in solution.items():
        if name.startswith("cudnn[") and isinstance(cudnn, Cudnn):
            found.setdefault(cudnn.cuda_major, cudnn)
    return found


def cudnn_entries(
    cudnns: Mapping[str, Cudnn], toolkits: Sequence[Plan], request: Mapping[str, Any], host: Host, tables: Tables
) -> list[Plan]:
    """Return the system's cuDNN for each major of CUDA.

    Args:
        cudnns: by CUDA major.
        toolkits: the planned toolkits.
    """
    entries = []
    for major, cudnn in cudnns.items():
        beside = [row for row in toolkits if row["major"] == int(major)]
        source = request["cudnn_source"]
        if source == "auto":
            source = _cudnn_source(major, beside, len(cudnns) > 1, host, tables)
        entries.append(_cudnn_entry(cudnn, source, beside, host, tables))
    return entries


def _cudnn_source(major: str, beside: Sequence[Plan], several: bool, host: Host, tables: Tables) -> str:
    """Return where a cuDNN comes from: from where it is installed, but packages are for one major at a time."""
    if host.scope == "user" or several:
        return "redist"
    installed = [source for known, source in host.cudnn if known == major and source != "distro"]
    if "redist" in installed:
        return "redist"
    packaged = host.system is None or has_repository(host.system, tables)
    if packaged and (installed or any(row["source"] == "nvidia_repo" for row in beside)):
        return "nvidia_repo"
    return "redist"


def _cudnn_entry(cudnn: Cudnn, source: str, beside: Sequence[Plan], host: Host, tables: Tables) -> Plan:
    row = _cudnn_row(cudnn, host, tables) if source == "nvidia_repo" else None
    filled = {"major": cudnn.cuda_major, "version": cudnn.version}
    redist = _cudnn_redist(cudnn, host, tables) if source == "redist" else None
    packages = [name.format(**filled) for name in row["packages"]] if row else []
    hold = list(row["hold"]) if row else []
    if source == "distro":
        packages = [(distribution(host, tables) or {})["cudnn"]["package"]]
        hold = list(packages)
    return {
        "version": cudnn.version,
        "cuda_major": int(cudnn.cuda_major),
        "source": source,
        "packages": packages,
        "package_version": row["version"].format(**filled) if row else None,
        "repository": _repository(source, host, tables),
        "hold": hold,
        "redist": redist,
        "toolkits": [row["path"] for row in beside if takes_links(row, host)] if redist else [],
        "digest": _digest(source, cudnn.version, [f"cuda{cudnn.cuda_major}"]),
    }


def takes_links(toolkit: Mapping[str, Any], host: Host) -> bool:
    """Tell whether links to a cuDNN may lie in a toolkit: not among the files of the system, and not where nobody may
    write."""
    inside = str(toolkit["path"]).startswith(f"{host.base_dir}/")
    return toolkit["source"] != "distro" and (host.scope == "system" or inside)


def _cudnn_row(cudnn: Cudnn, host: Host, tables: Tables) -> Row | None:
    family = host.system["family"] if host.system else None
    for row in tables.rows("packages.cudnn"):
        if row["family"] == family and (
            row.get("from_version") is None or at_least(cudnn.version, row["from_version"])
        ):
            return row
    return None


def _cudnn_redist(cudnn: Cudnn, host: Host, tables: Tables) -> Plan:
    row = redist_row("cudnn", tables)
    label = ".".join(map(str, numbers(cudnn.version)[:3]))
    return {
        "manifest_url": f"{row['url']}redistrib_{label}.json",
        "platform": row["platforms"][host.machine],
        "component": "cudnn",
        "variant": f"cuda{cudnn.cuda_major}",
    }


# --- warnings ----------------------------------------------------------------------------------------------------


def toolkit_warnings(toolkit: Toolkit, entry: Mapping[str, Any], host: Host, tables: Tables) -> list[str]:
    """Say what an admin should know of a toolkit."""
    found = [text] if (text := host_compiler(toolkit, host, tables)[1]) else []
    system = host.system or {}
    last = system.get("cuda_last")
    if entry["source"] == "redist" and host.scope == "system" and last and newer(toolkit.series, last):
        found.append(
            f"NVIDIA has no packages of CUDA {toolkit.series} for {system['id']}, the last are of {last}: its archives "
            "are taken, and whether they work there shows only when they are tried"
        )
    others = [row for row in host.toolkits if row[1] == "other" and row[3] == entry["path"]]
    if others and entry["source"] != "existing":
        found.append(
            f"{_called(others[0])} in {entry['path']} is not this project's, and CUDA {toolkit.version} from "
            f"{toolkit.source} would be there; "
            + ("cuda_source: existing takes it as it is, or move it away" if others[0][2] else "move it away before")
        )
    return found


def _called(found: tuple[str, str, str | None, str | None]) -> str:
    series, _, version, _ = found
    return f"CUDA {version}" if version else f"CUDA {series}, which does not say its release or lacks nvcc,"


def source_words(toolkit: Toolkit, request: Mapping[str, Any], host: Host, tables: Tables) -> str:
    """Say why a toolkit comes from where it comes from."""
    source, series = toolkit.source, toolkit.series
    if source == "existing":
        return f"CUDA {toolkit.version} is in {toolkit.path} already; it stays as it is"
    if request["cuda_source"] != "auto":
        return f"cuda_source: {source} is asked for"
    if (series, source) in {(known, kind) for known, kind, *_ in host.toolkits} and host.scope == "system":
        return f"CUDA {series} is installed from there"
    system = host.system["id"] if host.system else host.os_name or "the system"
    if source == "nvidia_repo":
        return f"NVIDIA's repository for {system} has it"
    if host.scope == "user":
        return "archives need no root"
    return f"archives, because NVIDIA's repository for {system} does not have CUDA {series}"


def cudnn_warnings(entry: Mapping[str, Any]) -> list[str]:
    """Say what an admin should know of a cuDNN."""
    if entry["source"] == "distro":
        return [
            f"{' '.join(entry['packages'])} holds no cuDNN: it downloads it from NVIDIA by itself while it is installed"
        ]
    if entry["source"] == "redist" and not entry["toolkits"]:
        return [
            f"cuDNN {entry['version']} is linked into no toolkit, for those of CUDA {entry['cuda_major']} lie where "
            "nothing may be added; programs must name its directory"
        ]
    return []
