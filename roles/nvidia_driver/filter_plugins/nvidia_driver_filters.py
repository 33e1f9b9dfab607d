# SPDX-License-Identifier: Apache-2.0
"""Filters of the role nvidia_driver: what its tasks would else say in long templates. No versions are compared here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ansible.utils.vars import transform_to_native_types


def step_text(step: Mapping[str, Any], change: Mapping[str, Any], packages: Sequence[str] = ()) -> str:
    """Say one step of a change, with the names that it is about; ``packages`` are those of the planned driver."""
    names: list[str] = []
    if step["step"] == "headers":
        names = list(change.get("headers") or ())
    elif step["step"] == "packages":
        names = [f"removes {name}" for name in change.get("remove") or ()]
        names += ["removes what a runfile installed"] if change.get("remove_runfile") else []
        names += [f"installs {name}" for name in packages]
    elif step["step"] == "modules":
        names = [f"Linux {name}" for name in change.get("kernels") or ()]
    return f"{step['step']}: {step['why']}" + (f" ({', '.join(names)})" if names else "")


def work_text(processes: Iterable[Mapping[str, Any]]) -> str:
    """Say which processes use the GPUs, one line each."""
    return "\n".join(
        f"  {row['command']} (pid {row['pid']}, user {row['user']}, for {_age(row.get('age_s'))}) has "
        f"{', '.join(row['devices'])} open"
        for row in processes
    )


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    minutes = int(seconds) // 60
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def common_version(lines: Iterable[str], branch: str) -> str:
    """Return the pattern of the newest version of a branch that every package has, empty where there is none.

    Args:
        lines: ``package | version | source`` as ``apt-cache madison`` prints them, the newest of a package first.
        branch: packages without a version of it (those that follow the kernel's) are left out.
    """
    found: dict[str, list[str]] = {}
    for line in lines:
        name, version = [part.strip() for part in line.split("|")][:2]
        upstream = version.rpartition(":")[2].rpartition("-")[0]
        if upstream.startswith(f"{branch}."):
            found.setdefault(name, []).append(upstream)
    first, *others = list(found.values()) or [[]]
    return next((f"{version}-*" for version in first if all(version in other for other in others)), "")


def at_version(
    names: Sequence[str],
    planned: Mapping[str, Any],
    installed: Mapping[str, str] | None,
    removed: Sequence[str],
    joint: str,
) -> list[str]:
    """Return what to ask a package manager for, with versions, so that what is there already moves as well.

    Args:
        names: the packages of the planned driver.
        planned: the plan of the driver; one that is not exact moves within its branch, and gets no versions.
        installed: name -> version of the family's packages before the change.
        removed: those of them that are gone meanwhile.
        joint: what stands between name and version, ``=`` for apt and ``-`` for dnf.
    """
    if not planned["exact"]:
        return list(names)

    def moves(name: str) -> bool:
        # Ready-made modules have their kernel's version, and the packages that pin have it in their name.
        return not name.startswith(("nvidia-driver-pinning-", "linux-")) and any(
            fnmatchcase(name, pattern) for pattern in planned["hold"]
        )

    beside = [
        name
        for name, version in (installed or {}).items()
        if moves(name)
        and name not in removed
        and not any(asked.startswith(f"{name}{joint}") or asked == name for asked in names)
        and re.match(rf"(\d+:)?{planned['branch']}\.", version)
    ]
    # The plan names some with their version already.
    return [
        f"{name}{joint}{planned['package_version']}" if moves(name) and planned["version"] not in name else name
        for name in (*names, *sorted(beside))
    ]


def touched(simulation: Iterable[str], family: Sequence[str]) -> list[str]:
    """Return the packages outside the driver's family that apt would remove, from ``apt-get --simulate``."""
    removed = [line.split()[1] for line in simulation if line.startswith("Remv ")]
    patterns = (*family, *_AROUND)
    return [name for name in removed if not any(fnmatchcase(name.split(":")[0], pattern) for pattern in patterns)]


#: What goes with the driver's family beside what the plan names: alternatives, libraries that only it brings.
_AROUND = ("libcuda*", "libnvcuvid*", "libnvoptix*", "glx-*", "update-glx", "firmware-nvidia*", "cuda-compat*")


def module_text(
    modules: Mapping[str, Any],
    driver: Mapping[str, Any],
    kernels: Sequence[str],
    log: Mapping[str, Any],
    dkms: Sequence[str] = (),
) -> str:
    """Say of each kernel that its module is missing or another one than planned, with the end of the build's log."""
    told = []
    for kernel in kernels:
        found = modules.get(kernel)
        told.append(
            f"for Linux {kernel} the module {found['path']} is of version {found['version']} and licence "
            f"'{found['license']}', and {driver['version']} with '{driver['licenses']['nvidia']}' is planned"
            if found
            else f"for Linux {kernel} there is no module nvidia"
        )
    text = f"driver {driver['version']} is installed, and {'; '.join(told)}."
    if dkms:
        text += f" DKMS says: {' '.join(line.strip() for line in dkms[-3:])}"
    text += str(log.get("end") or "")
    return text + "\nMend the cause (headers and compiler of that kernel) and run again: it goes on from here."


def installer_text(lines: Sequence[str], log: Mapping[str, Any]) -> str:
    """Say why NVIDIA's installer failed, from the end of its log."""
    errors = [line.strip().removeprefix("ERROR:").strip() for line in lines if "ERROR" in line]
    text = f"It says: {' '.join(errors[-2:]) or ' '.join(line.strip() for line in lines[-3:])}"
    return f"{text}{log['end']}\n" if log.get("end") else text


def mig_changes(wanted: Mapping[str, Sequence[str]], modes: Sequence[str], instances: Sequence[str]) -> list[list[str]]:
    """Return the arguments of nvidia-smi that bring the GPUs to the declared instances, in order.

    Args:
        wanted: PCI bus id, or "all" -> profiles; an empty list for MIG off.
        modes: lines ``bus id, current, pending`` of ``--query-gpu``.
        instances: the table of ``nvidia-smi mig -lgi``.
    """
    changes: list[list[str]] = []
    there = _instances(instances)
    for index, line in enumerate(modes):
        bus, current, pending = [part.strip() for part in line.split(",")]
        profiles = wanted.get(bus, wanted.get(bus[-12:].lower(), wanted.get("all")))
        if profiles is None or current.startswith("["):  # a GPU that is not declared, or cannot be divided
            continue
        on = bool(profiles)
        if (current if pending.startswith("[") else pending) != ("Enabled" if on else "Disabled"):
            changes += _undo(index) if there.get(index) else []
            changes.append(["-i", str(index), "-mig", "1" if on else "0"])
            there.pop(index, None)
        if on and sorted(there.get(index, [])) != sorted(profiles):
            changes += _undo(index) if there.get(index) else []
            changes.append(["mig", "-i", str(index), "-cgi", ",".join(profiles), "-C"])
    return changes


def _undo(index: int) -> list[list[str]]:
    return [["mig", "-dci", "-i", str(index)], ["mig", "-dgi", "-i", str(index)]]


def _instances(table: Sequence[str]) -> dict[int, list[str]]:
    """Read GPU index and profile name of each instance: ``|   0  MIG 1g.10gb   19   7   0:1  |``."""
    found: dict[int, list[str]] = {}
    for line in table:
        match = re.match(r"\|\s+(\d+)\s+MIG (\S+)\s", line)
        if match:
            found.setdefault(int(match[1]), []).append(match[2])
    return found


def mig_pending(line: str) -> bool:
    """Tell whether a line ``bus id, current, pending`` waits for a reset or a reboot."""
    _, current, pending = [part.strip() for part in line.split(",")]
    return not pending.startswith("[") and current != pending


def _native(value: Any) -> Any:
    return transform_to_native_types(value, redact=False)


def _on_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter see plain values, without Ansible's tags."""
    return lambda *args: function(*map(_native, args))


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the names used in templates."""
        plain = {
            "step_text": step_text,
            "work_text": work_text,
            "common_version": common_version,
            "at_version": at_version,
            "touched": touched,
            "module_text": module_text,
            "installer_text": installer_text,
            "mig_changes": mig_changes,
            "mig_pending": mig_pending,
        }
        return {f"nvidia_driver_{name}": _on_plain(function) for name, function in plain.items()}
