# SPDX-License-Identifier: Apache-2.0
"""Services of the driver, as systemd's files and control groups tell of them; systemctl is not run."""

from __future__ import annotations

import os

NAMES = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-imex", "nvidia-dcgm", "nvlsm")
_PLACES = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_GROUPS = ("sys/fs/cgroup", "sys/fs/cgroup/systemd", "sys/fs/cgroup/unified")


def units(files):
    """Return ``{name: {enabled, active}}`` of those that exist."""
    wanted = _wanted(files)
    found = {}
    for name in NAMES:
        unit = f"{name}.service"
        place = next(
            (place for place in _PLACES if files.exists(f"{place}/{unit}") or files.link(f"{place}/{unit}")), None
        )
        if place is not None:
            masked = files.link(f"{place}/{unit}") == os.devnull
            found[name] = dict(enabled=unit in wanted and not masked, active=_active(files, unit))
    return found


def _wanted(files):
    """Return the units that another one starts."""
    found = set()
    for place in _PLACES:
        for pattern in ("*.wants", "*.requires"):
            for directory in files.names(place, pattern):
                found.update(files.names(f"{place}/{directory}", "nv*.service"))
    return found


def _active(files, unit):
    """Tell whether a service has processes; None where systemd's control groups are not there to see."""
    slices = [f"{group}/system.slice" for group in _GROUPS if files.is_dir(f"{group}/system.slice")]
    if not slices:
        files.unknown[f"units.{unit[:-8]}.active"] = "systemd's control groups are not below /sys/fs/cgroup"
        return None
    for place in slices:
        # In version 2 of control groups the processes may be one level down; then this file tells.
        events = files.text(f"{place}/{unit}/cgroup.events") or ""
        if "populated 1" in events or files.text(f"{place}/{unit}/cgroup.procs"):
            return True
    return False
