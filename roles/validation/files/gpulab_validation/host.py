# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about this host, without a driver."""

from __future__ import annotations

import hashlib
import os
import platform
import socket

import gates

PCI_DEVICES = "/sys/bus/pci/devices"
NVIDIA_MODULE = "/sys/module/nvidia/version"


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


def gpu_evidence(profile, pci_devices):
    """Compare the profile with what the PCI bus shows; return the check host.gpu_evidence."""
    found = nvidia_gpus(pci_devices)
    if found is None:
        words = "the PCI bus cannot be read, so nothing is known about GPUs (%s)" % pci_devices
        return gates.check("host.gpu_evidence", "host", "UNKNOWN", words, "PCI_UNREADABLE", tier=0)

    def answer(status, message, reason_code="OK"):
        measured = {"nvidia_gpus": found}
        return gates.check("host.gpu_evidence", "host", status, message, reason_code, tier=0, measured=measured)

    if profile == "cpu" and found:
        message = "an NVIDIA GPU is there (%s), but the profile is cpu: it was not used and nothing is claimed about it"
        return answer("WARN", message % ", ".join(found), "GPU_PRESENT")
    if profile == "gpu" and not found:
        return answer("FAIL", "the profile is gpu, but the PCI bus shows no NVIDIA GPU", "NO_GPU")
    return answer("PASS", "%d NVIDIA GPUs on the PCI bus, profile %s" % (len(found), profile))


def nvidia_gpus(pci_devices):
    """List the PCI addresses of NVIDIA's display controllers (class 03), or return None where they cannot be read.

    A host whose kernel knows of no PCI bus has none: /sys/bus is there and lacks it.
    """
    bus = os.path.dirname(pci_devices)
    if os.path.isdir(os.path.dirname(bus)) and not os.path.isdir(bus):
        return []
    try:
        addresses = sorted(os.listdir(pci_devices))
    except OSError:
        return None
    found = []
    for address in addresses:
        vendor, kind = (_text(os.path.join(pci_devices, address, name)) for name in ("vendor", "class"))
        if not vendor or not kind:
            return None
        if vendor == "0x10de" and kind.startswith("0x03"):
            found.append(address)
    return found


def hardware():
    """Return what must be the same for an earlier verdict to hold: NVIDIA's GPUs and the loaded driver."""
    return [nvidia_gpus(PCI_DEVICES), _text(NVIDIA_MODULE)]


def _text(path):
    """Return the stripped text of a small file, or an empty string when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""
