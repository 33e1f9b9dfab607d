# SPDX-License-Identifier: Apache-2.0
"""What this project wrote down about a host, and the small facts around it: files, space, reboot, simulation."""

from __future__ import annotations

import hashlib
import os
import stat

from ansible.module_utils.environment_store import free_bytes
from ansible.module_utils.host_files import ABSENT

#: Where roles note what they did in system scope.
NOTES = "var/lib/gpulab"
STATE = f"{NOTES}/driver.json"
#: What a test replaces to fabricate hardware.
_HARDWARE = ("/sys/bus/pci/devices", "/sys/module", "/proc/driver", "/proc/sys/kernel/osrelease")
_LARGEST = 64 * 1024 * 1024
_LARGEST_NOTE = 16 * 1024 * 1024


def state(files):
    """Return what the driver's role noted, None where it noted nothing or the note cannot be read."""
    return files.mapping(STATE, "state", _LARGEST_NOTE)


def managed(files, noted):
    """Return the SHA-256 of every file that was noted as this project's, None where it is missing."""
    return {path: _sha256(files, path, f"managed.{path}") for path in _noted_paths(noted, "files")}


def records(files, base_dir, scope):
    """Return what the roles for CUDA and cuDNN noted, and what is there of the files and links that they named."""
    place = NOTES if scope == "system" else base_dir.strip("/")
    found = {}
    for role in ("cuda_toolkit", "cudnn"):
        key = f"records.{role}"
        noted = files.mapping(f"{place}/{role}.json", key, _LARGEST_NOTE)
        found[role] = dict(
            noted=noted,
            found={path: _sha256(files, path, f"{key}.{path}") for path in _noted_paths(noted, "files")},
            links={path: files.link(path.lstrip("/")) for path in _noted_paths(noted, "links")},
        )
    return found


def _noted_paths(noted, key):
    named = (noted or {}).get(key)
    return list(named) if isinstance(named, dict) else []


def _sha256(files, path, key):
    place = path.lstrip("/")
    try:
        status = os.stat(files.path(place))
    except (OSError, ValueError) as error:  # ValueError: no path can hold a NUL
        if getattr(error, "errno", None) not in ABSENT:
            files.unknown[key] = f"{path}: {getattr(error, 'strerror', None) or error}"
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
        files.unknown[key] = "it is no plain file of a readable size"
        return None
    content = files.data(place, key)
    return None if content is None else hashlib.sha256(content).hexdigest()


def simulated(files):
    """Tell whether the hardware is fabricated: another root, or something mounted over what the kernel says of it."""
    if files.root != "/":
        return True
    for line in (files.text("proc/self/mounts") or "").splitlines():
        words = line.split()
        if len(words) < 3 or words[2] in ("sysfs", "proc") or words[1] in ("/", "/proc", "/sys"):
            continue
        place = words[1]
        # NVIDIA's container runtime lays a tmpfs over the driver's own directory to hide parameters.
        if place == "/proc/driver/nvidia" and words[2] == "tmpfs":
            continue
        if any(
            place == hardware or place.startswith(hardware + "/") or hardware.startswith(place + "/")
            for hardware in _HARDWARE
        ):
            return True
    return False


def reboot(files):
    """Tell whether the distribution asks for a reboot, and for the sake of which packages."""
    required = any(files.exists(f"{place}/reboot-required") for place in ("run", "var/run"))
    packages = (files.text("run/reboot-required.pkgs") or files.text("var/run/reboot-required.pkgs") or "").split()
    return dict(required=required, packages=sorted(set(packages)))


def uptime(files):
    """Return for how many seconds the host has run."""
    try:
        return int(float(files.needed("proc/uptime").split()[0]))
    except (AttributeError, IndexError, ValueError):
        return None


def disk(files, own):
    """Return free bytes by path: where this project writes, and where packages and kernels go."""
    found = {path: free_bytes(path) for path in own}
    found.update({path: free_bytes(files.path(path[1:]) or "/") for path in ("/", "/boot", "/usr", "/var")})
    return found
