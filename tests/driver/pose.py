#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The part of a posing host that runs on it: what a kernel would do with the hardware that is fabricated.

    pose boot               at each boot: choose the kernel, lay fabricated files over the kernel's own, load modules
    pose load [-r] MODULE   as modprobe would: nvidia and nouveau only

Everything lies in /opt/posed: TREE (sys, proc as in tests/fabricated_hosts.py) and what settings.json says.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

PLACE = Path("/opt/posed")
TREE = PLACE / "tree"
OVER = ("sys/bus/pci/devices", "sys/module", "sys/firmware", "proc/driver")
OVER_FILES = ("proc/sys/kernel/osrelease", "proc/sys/kernel/random/boot_id", "proc/cmdline", "proc/modules")
SECURE_BOOT = TREE / "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
ENROLLED = TREE / "sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23"
SIGNED = b"~Module signature appended~\n"
DEBIAN = ("nvidia-current.ko", "nvidia-current-open.ko")  # what Debian's packages call the module
FAMILY = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm")


def write(path: Path, text: str) -> None:
    """Write a file in place, so that what is mounted of it changes, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.write(text)


def said(module: Path) -> dict[str, str]:
    """Return what a module says of itself."""
    found = re.findall(rb"(?<![a-z])(version|license|vermagic)=([^\0]+)(?=\0)", module.read_bytes())
    return {name.decode(): value.decode() for name, value in found}


def version_key(release: str) -> list[int]:
    """Return a key to sort releases of the kernel by."""
    return [int(part) for part in re.findall(r"\d+", release)]


def next_kernel() -> str:
    """Return the kernel that the boot loader takes: the one it was told, else the newest."""
    chosen = PLACE / "boot-into"
    if chosen.exists():
        return chosen.read_text().strip()
    images = [path.name[len("vmlinuz-") :] for path in Path("/boot").glob("vmlinuz-*")]
    return max(images, key=version_key) if images else os.uname().release


def running() -> str:
    """Return the kernel that the host poses as running."""
    return (TREE / "proc/sys/kernel/osrelease").read_text().strip()


def mounted() -> set[str]:
    """Return the places that something is mounted on; what docker hides the firmware with does not count."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {line[1] for line in lines if line[:3] != ["tmpfs", "/sys/firmware", "tmpfs"]}


def blacklisted(name: str) -> bool:
    """Tell whether modprobe's settings keep a module from being loaded by itself."""
    pattern = re.compile(rf"^\s*(blacklist\s+{name}\s*$|install\s+{name}\s+/bin/(false|true))", re.MULTILINE)
    places = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
    return any(pattern.search(file.read_text()) for place in places for file in Path(place).glob("*.conf"))


def gpus() -> list[Path]:
    """Return NVIDIA's display functions on the bus."""
    found = []
    for device in sorted((TREE / "sys/bus/pci/devices").glob("*")):
        if (device / "vendor").read_text().strip() == "0x10de" and (device / "class").read_text().startswith("0x03"):
            found.append(device)
    return found


def bind(driver: str | None) -> None:
    """Bind the GPUs to a driver, or to none."""
    for device in gpus():
        (device / "driver").unlink(missing_ok=True)
        if driver:
            (device / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")


def list_modules() -> None:
    """Write the list of loaded modules."""
    names = sorted(path.name for path in (TREE / "sys/module").iterdir())
    write(TREE / "proc/modules", "".join(f"{name} 16384 0 - Live 0x0000000000000000\n" for name in names))


def module_file(name: str) -> Path | None:
    """Return the file of a module for the running kernel, as depmod's order has it: updates and extra first."""
    place = Path("/lib/modules") / running()
    names = {f"{name}.ko", *DEBIAN} if name == "nvidia" else {f"{name}.ko"}
    found = [file for file in place.rglob("nvidia*.ko" if name == "nvidia" else f"{name}.ko") if file.name in names]
    found.sort(key=lambda file: not re.search("/(updates|extra)/", str(file)))
    return found[0] if found else None


def trusted(module: Path) -> bool:
    """Tell whether Secure Boot lets a module in: the distribution's own, or one signed by an enrolled key."""
    data = module.read_bytes()
    if not data.endswith(SIGNED):
        return False
    if "/kernel/" in str(module):
        return True
    certificate = Path("/var/lib/gpulab/machine-owner-key.der")
    return certificate.exists() and ENROLLED.exists() and certificate.read_bytes() in ENROLLED.read_bytes()


def secure_boot() -> bool:
    """Tell whether Secure Boot is on."""
    return SECURE_BOOT.exists() and SECURE_BOOT.read_bytes()[-1:] == b"\1"


def load(name: str) -> str:
    """Load a module; return why it cannot be, empty where it is loaded."""
    modules = TREE / "sys/module"
    if (modules / name).exists():
        return ""
    if name == "nouveau":
        (modules / name).mkdir(parents=True)
        write(modules / name / "refcnt", "0\n")
        bind(name)
        list_modules()
        return ""
    file = module_file(name)
    if file is None:
        return f"FATAL: Module {name} not found in directory /lib/modules/{running()}"
    if (modules / "nouveau").exists():
        return "ERROR: could not insert 'nvidia': No such device"
    if not gpus():
        return "ERROR: could not insert 'nvidia': No such device"
    if secure_boot() and not trusted(file):
        return "ERROR: could not insert 'nvidia': Key was rejected by service"
    what = said(file)
    if what.get("vermagic", "").split(" ")[0] not in ("", running()):
        return "ERROR: could not insert 'nvidia': Exec format error"
    for module in FAMILY:
        (modules / module).mkdir(parents=True, exist_ok=True)
        write(modules / module / "refcnt", "0\n")
    write(modules / "nvidia/version", f"{what['version']}\n")
    flavour = (
        "NVIDIA UNIX x86_64 Kernel Module"
        if what["license"] == "NVIDIA"
        else "NVIDIA UNIX Open Kernel Module for x86_64"
    )
    text = f"NVRM version: {flavour}  {what['version']}  Release Build  (test-bed)\nGCC version:  gcc version 12.2.0\n"
    write(TREE / "proc/driver/nvidia/version", text)
    bind("nvidia")
    for number, _ in enumerate(gpus()):
        Path(f"/dev/nvidia{number}").touch()
    Path("/dev/nvidiactl").touch()
    list_modules()
    return ""


def unload(name: str) -> str:
    """Unload a module; return why it cannot be."""
    modules = TREE / "sys/module"
    family = FAMILY if name == "nvidia" else (name,)
    if (modules / name / "refcnt").exists() and (modules / name / "refcnt").read_text().strip() != "0":
        return f"FATAL: Module {name} is in use."
    for module in family:
        subprocess.run(["rm", "-rf", str(modules / module)], check=True)
    if name == "nvidia":
        subprocess.run(["rm", "-rf", str(TREE / "proc/driver/nvidia")], check=True)
        for device in Path("/dev").glob("nvidia*"):
            device.unlink()
    bind(None)
    list_modules()
    return ""


def boot() -> None:
    """Do what firmware, boot loader and kernel do."""
    settings = json.loads((PLACE / "settings.json").read_text())
    for path in OVER:
        (TREE / path).mkdir(parents=True, exist_ok=True)
    if not (PLACE / "booted-before").exists():
        # The first boot finds what was fabricated; later ones start with nothing loaded.
        (PLACE / "booted-before").touch()
        kernel = settings["kernel"] or next_kernel()
    else:
        kernel = next_kernel()
        for name in ("nouveau", *FAMILY):
            subprocess.run(["rm", "-rf", str(TREE / "sys/module" / name)], check=True)
        subprocess.run(["rm", "-rf", str(TREE / "proc/driver/nvidia")], check=True)
        bind(None)
    write(TREE / "proc/sys/kernel/osrelease", f"{kernel}\n")
    write(TREE / "proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")
    write(TREE / "proc/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-{kernel} root=/dev/sda1 ro quiet {settings['cmdline']}\n")
    # Nothing is loaded by itself where the host begins with a driver that is loaded already.
    if not (TREE / "sys/module/nvidia").exists():
        if module_file("nvidia"):
            load("nvidia")
        elif settings["nouveau"] and not blacklisted("nouveau"):
            load("nouveau")
    list_modules()
    there = mounted()
    for path in (*OVER, *OVER_FILES):
        # A kernel without modules has no list of them, and a host without EFI shows no firmware of it.
        wanted = os.path.exists(f"/{path}") and (path != "sys/firmware" or (TREE / "sys/firmware/efi").exists())
        if wanted and f"/{path}" not in there:
            subprocess.run(["mount", "--bind", str(TREE / path), f"/{path}"], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", f"/{path}"], check=True)


def main(arguments: list[str]) -> int:
    """Do what is asked for."""
    if arguments == ["boot"]:
        boot()
        return 0
    names = [word.replace("-", "_") for word in arguments[1:] if not word.startswith("-")]
    remove = "-r" in arguments or "--remove" in arguments
    for name in names:
        if name not in ("nouveau", *FAMILY):
            continue
        why = unload(name) if remove else load("nvidia" if name in FAMILY else name)
        if why:
            print(f"modprobe: {why}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
