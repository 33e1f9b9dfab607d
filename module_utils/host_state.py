# SPDX-License-Identifier: Apache-2.0
"""What this project wrote down about a host, and the small facts around it: files, space, reboot, simulation."""

from __future__ import annotations

import hashlib
import json
import os
import stat

from ansible.module_utils.environment_store import free_bytes
from ansible.module_utils.host_files import ABSENT

STATE = "var/lib/gpulab/driver.json"
#: What a test replaces to fabricate hardware.
_HARDWARE = ("/sys/bus/pci/devices", "/sys/module", "/proc/driver", "/proc/sys/kernel/osrelease")
_LARGEST = 64 * 1024 * 1024


def state(files):
    """Return what the driver's role noted, None where it noted nothing or the note cannot be read."""
    text = files.text(STATE, "state")
    if text is None:
        return None
    try:
        content = json.loads(text)
    except ValueError as error:
        files.unknown["state"] = f"/{STATE} is not JSON: {error}"
        return None
    if isinstance(content, dict):
        return content
    files.unknown["state"] = f"/{STATE} holds no mapping"
    return None


def managed(files, noted):
    """Return the SHA-256 of every file that was noted as this project's, None where it is missing."""
    found = {}
    for path in (noted or {}).get("files") or ():
        found[path] = _sha256(files, str(path))
    return found


def _sha256(files, path):
    place = path.lstrip("/")
    try:
        status = os.stat(files.path(place))
    except OSError as error:
        if error.errno not in ABSENT:
            files.unknown[f"managed.{path}"] = f"{path}: {error.strerror}"
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
        files.unknown[f"managed.{path}"] = "it is no plain file of a readable size"
        return None
    content = files.data(place, f"managed.{path}")
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
