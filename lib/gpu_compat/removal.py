# SPDX-License-Identifier: Apache-2.0
"""What taking the driver off a host comes to, so that the host is as it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_compat.driver_packages import family_patterns, in_family
from gpu_compat.hosts import host_from_facts, next_boot_kernel
from gpu_compat.tables import Tables, shipped


def removal(facts: Mapping[str, Any], tables: Tables | None = None) -> dict[str, Any]:
    """Say what is to be removed from a host.

    Args:
        facts: what the module ``gpu_facts`` returned.
        tables: the tables, the shipped ones if not given.

    Returns:
        ``packages``: those of the driver's family that are installed; ``runfile``: a runfile's driver is to be
        uninstalled; ``files``: files of this project that are there; ``replaced``: files of others that were set aside,
        with the names they have now; ``kernels``: those whose initramfs may hold what is removed, that of the next boot
        first; ``key``: a machine owner key stays enrolled; ``steps``: a sentence for each thing that is done; ``text``:
        all of it for people.
    """
    tables = tables or shipped()
    host = host_from_facts(facts, tables)
    driver, state = facts.get("driver") or {}, facts.get("state") or {}
    patterns = family_patterns(host, tables)
    packages = sorted(name for name in driver.get("packages") or {} if in_family(name, patterns))
    runfile = driver.get("source") == "runfile"
    files = sorted(path for path, checksum in (facts.get("managed") or {}).items() if checksum is not None)
    replaced = dict(state.get("replaced") or {})
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
