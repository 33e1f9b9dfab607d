# SPDX-License-Identifier: Apache-2.0
"""Which host this is, and which boot of it."""

from __future__ import annotations

import hashlib
import platform
import socket


def describe(name):
    """Return the verdict's part ``host``.

    :param name: the inventory's name of the host; empty for its own
    """
    machine_id = _text("/etc/machine-id")
    return {
        "name": name or socket.gethostname(),
        "boot_id": _text("/proc/sys/kernel/random/boot_id"),
        "kernel": platform.release(),
        "machine_id_hash": hashlib.sha256(machine_id.encode()).hexdigest() if machine_id else None,
    }


def _text(path):
    """Return the stripped text of a small file, or an empty string when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
