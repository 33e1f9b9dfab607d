# SPDX-License-Identifier: Apache-2.0
"""GPUs on the PCI bus, as the kernel lists them; no lspci and no driver is needed."""

from __future__ import annotations

import os

NVIDIA = "0x10de"
#: PCI vendors that make GPUs for computing; a server's display chip (ASPEED, Matrox, QEMU) is none.
OTHER_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}
#: Class 03 is a display controller: 0300 VGA, 0302 3D controller, 0380 other; 0680 is a bridge, and 1200 an
#: accelerator, as which AMD's largest GPUs pass.
_DISPLAY = ("0x03",)
_CLASSES = {NVIDIA: ("0x03", "0x0680"), "0x1002": ("0x03", "0x1200")}
_DEVICES = "sys/bus/pci/devices"


def gpus(files):
    """Return NVIDIA's GPUs, those of other vendors, and NVIDIA's bridges (NVSwitch is one); the first is None where the
    bus cannot be read."""
    if files.is_dir("sys/bus") and not files.is_dir("sys/bus/pci"):
        return [], [], []  # the kernel is there to ask, and it knows of no PCI bus
    try:
        addresses = sorted(os.listdir(files.path(_DEVICES)))
    except OSError as error:
        files.unknown["gpus"] = f"/{_DEVICES}: {error.strerror}"
        return None, [], []
    ours, others, bridges = [], [], []
    for address in addresses:
        vendor = files.needed(f"{_DEVICES}/{address}/vendor")
        if vendor != NVIDIA and vendor not in OTHER_VENDORS:
            continue
        class_code = files.needed(f"{_DEVICES}/{address}/class") or ""
        if not class_code.startswith(_CLASSES.get(vendor, _DISPLAY)):
            continue
        row = dict(bus=address, vendor=vendor, device=files.needed(f"{_DEVICES}/{address}/device"))
        if class_code.startswith("0x0680"):
            bridges.append(row)
        elif vendor == NVIDIA:
            ours.append(dict(row, **_details(files, address, class_code)))
        else:
            others.append(dict(row, name="{} {}".format(OTHER_VENDORS[vendor], row["device"])))
    return ours, others, bridges


def _details(files, address, class_code):
    """Return what else is known of one of NVIDIA's GPUs: its board, its driver and its link to the bus."""
    directory = f"{_DEVICES}/{address}"
    board = [files.text(f"{directory}/subsystem_{part}") for part in ("vendor", "device")]
    driver = files.link(f"{directory}/driver")
    return {
        "subsystem": ":".join(part[2:] if part.startswith("0x") else part for part in board) if all(board) else None,
        "class": class_code,
        "driver": os.path.basename(driver) if driver else None,
        "link": dict(
            speed=files.text(f"{directory}/current_link_speed") or None,
            width=_number(files.text(f"{directory}/current_link_width")),
            speed_max=files.text(f"{directory}/max_link_speed") or None,
            width_max=_number(files.text(f"{directory}/max_link_width")),
        ),
    }


def _number(text):
    return int(text) if text and text.isdecimal() else None
