# SPDX-License-Identifier: Apache-2.0
"""What taking the driver, or CUDA toolkits and cuDNN, off a host comes to, so that the host is as it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_compat.driver_packages import family_patterns, in_family
from gpu_compat.hosts import host_from_facts, next_boot_kernel
from gpu_compat.installed import origin_of_package, packages_of, record
from gpu_compat.tables import Tables, shipped

#: The roles whose work is taken back, by the product that they set up.
CUDA_ROLES = {"cuda": "cuda_toolkit", "cudnn": "cudnn"}


def removal(facts: Mapping[str, Any], tables: Tables | None = None) -> dict[str, Any]:
    """Say what is to be removed from a host.

    Args:
        facts: what the module ``gpu_facts`` returned.
        tables: the tables, the shipped ones if not given.

    Returns:
        ``packages``: those of the driver's family that are installed; ``runfile``: a runfile's driver is to be
        uninstalled; ``files``: files of this project that are there, but for those that toolkits or cuDNN need as well;
        ``replaced``: files of others that were set aside, with the names they have now; ``kernels``: those whose
        initramfs may hold what is removed, that of the next boot first; ``key``: a machine owner key stays enrolled;
        ``steps``: a sentence for each thing that is done; ``text``: all of it for people.
    """
    tables = tables or shipped()
    host = host_from_facts(facts, tables)
    driver, state = facts.get("driver") or {}, facts.get("state") or {}
    patterns = family_patterns(host, tables)
    packages = sorted(name for name in driver.get("packages") or {} if in_family(name, patterns))
    runfile = driver.get("source") == "runfile"
    shared = _needed_by_others(facts, "driver")
    files = sorted(
        path for path, checksum in (facts.get("managed") or {}).items() if checksum is not None and path not in shared
    )
    needed = shared & set(state.get("files") or ())
    replaced = {name: place for name, place in dict(state.get("replaced") or {}).items() if not needed}
    steps = [f"remove {len(packages)} packages: {', '.join(packages)}"] if packages else []
    steps += [f"uninstall driver {driver.get('installed_version')}, which a runfile installed"] if runfile else []
    steps += [f"remove the files of this project: {', '.join(files)}"] if files else []
    steps += [f"put back what was set aside: {', '.join(sorted(replaced))}"] if replaced else []
    steps += ["forget what was written down"] if state and not steps else []
    return {
        "packages": packages,
        "runfile": runfile,
        "files": files,
        "replaced": replaced,
        "kernels": [kernel for kernel in dict.fromkeys((next_boot_kernel(facts), facts.get("kernel"))) if kernel],
        "key": (facts.get("machine_owner_key") or {}).get("enrolled") is True,
        "steps": steps,
        "text": "\n".join(steps) if steps else "there is no NVIDIA driver to remove",
    }


def removal_cuda(facts: Mapping[str, Any], product: str | None = None) -> dict[str, Any]:
    """Say what is to be removed of the CUDA toolkits and the cuDNN that this project set up; others' stay.

    Args:
        facts: what the module ``gpu_facts`` returned.
        product: ``cuda`` or ``cudnn``; both where it is not given.

    Returns:
        ``packages``: those that came with them and are still there, ``held`` those of them that are kept at their
        version; ``archives``: directories of what was unpacked; ``links``: those that lead there, and others that were
        noted; ``runfiles``: directories of toolkits from a runfile; ``files``: files of this project that nothing else
        of it needs; ``replaced``: files of others that were set aside; ``default`` and ``default_previous``: the link
        of the default toolkit and where it led before (None: it was not there); ``records``: what is forgotten;
        ``steps`` and ``text`` for people.
    """
    products = [product] if product else list(CUDA_ROLES)
    roles = [CUDA_ROLES[name] for name in products]
    noted = {role: record(facts, role) for role in roles}
    installed = packages_of(facts)
    added = {name for row in noted.values() for name in row.get("added") or ()}
    # Compilers and whatever else came along go only where nothing else needs them: the package manager knows that.
    packages = sorted(name for name in added if (origin_of_package(name) if installed is None else name in installed))
    store = [row for row in facts.get("toolkit_store") or () if row.get("product") in products]
    archives = sorted(str(row["path"]) for row in store)
    default: Mapping[str, Any] = noted.get("cuda_toolkit", {}).get("default") or {}
    links = {str(link) for row in store for link in row.get("links") or ()}
    links |= {path for role in roles for path, target in _now(facts, role, "links").items() if target is not None}
    links -= {default["path"]} if default else set()
    shared = _needed_by_others(facts, *roles)
    files = {path for role in roles for path, checksum in _now(facts, role, "found").items() if checksum is not None}
    replaced = {name: place for row in noted.values() for name, place in (row.get("replaced") or {}).items()}
    runfiles = sorted(
        row["path"]
        for row in (noted.get("cuda_toolkit", {}).get("toolkits") or {}).values()
        if row.get("source") == "runfile"
    )
    found = {
        "packages": packages,
        "held": [name for name in packages if ((installed or {}).get(name) or {}).get("held")],
        "archives": archives,
        "links": sorted(links),
        "runfiles": runfiles,
        "files": sorted(files - shared),
        "replaced": {} if shared & files else replaced,
        "default": default.get("path"),
        "default_previous": default.get("previous"),
        "records": [role for role in roles if noted[role]],
    }
    steps = _cuda_steps(found)
    what = {"cuda": "CUDA toolkit", "cudnn": "cuDNN", None: "CUDA toolkit and no cuDNN"}[product]
    nothing = f"there is no {what} of this project to remove"
    return {**found, "steps": steps, "text": "\n".join(steps) if steps else nothing}


def _cuda_steps(found: Mapping[str, Any]) -> list[str]:
    said = {
        "packages": f"remove {len(found['packages'])} packages: {', '.join(found['packages'])}",
        "runfiles": f"uninstall what a runfile installed in {', '.join(found['runfiles'])}",
        "links": f"remove {len(found['links'])} links: {', '.join(found['links'][:5])}"
        + (f" and {len(found['links']) - 5} more" if len(found["links"]) > 5 else ""),
        "archives": f"remove what was unpacked: {', '.join(found['archives'])}",
        "files": f"remove the files of this project: {', '.join(found['files'])}",
        "replaced": f"put back what was set aside: {', '.join(sorted(found['replaced']))}",
    }
    steps = [text for key, text in said.items() if found[key]]
    if found["default"]:
        previous = found["default_previous"]
        steps.append(f"let {found['default']} lead to {previous} again" if previous else f"remove {found['default']}")
    return steps or (["forget what was written down"] if found["records"] else [])


def _now(facts: Mapping[str, Any], role: str, key: str) -> Mapping[str, Any]:
    """Return what facts say of the files or the links that a role noted."""
    return ((facts.get("records") or {}).get(role) or {}).get(key) or {}


def _needed_by_others(facts: Mapping[str, Any], *roles: str) -> set[str]:
    """Return the files that other parts of this project wrote as well, such as the repository with its key."""
    needed = set() if "driver" in roles else set((facts.get("state") or {}).get("files") or ())
    for role in CUDA_ROLES.values():
        if role not in roles:
            needed.update(record(facts, role).get("files") or ())
    return needed
