# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's kernel module on disk: one for each kernel, where it lies, and what it says of itself."""

from __future__ import annotations

import mmap
import os
import re
import struct

from ansible.module_utils.host_files import Command

#: nvidia.ko, or Debian's nvidia-current.ko, nvidia-current-open.ko, nvidia-tesla-470.ko; never nvidia-uvm.ko.
_NAME = re.compile(r"nvidia(-current|-tesla|-legacy)?(-\d+\w*)?(-open)?\.ko(\.xz|\.gz|\.zst)?$")
#: Below lib/modules/RELEASE, in the order in which depmod lets one win over another.
_PLACES = ("updates", "extra", "weak-updates", "kernel/drivers/video", "kernel/drivers/char/drm")
_SIGNED = b"~Module signature appended~\n"


class KernelModules:
    """The modules of some kernels. Only a compressed or signed file needs modinfo, which then runs beside us; what this
    project noted of the same file is taken where there is such a note."""

    def __init__(self, files, releases, lines, noted):
        self.files = files
        self.rows = {}
        self.asked = {}
        wanted = _wanted_names(lines)
        noted = noted if isinstance(noted, dict) else {}
        for release in releases:
            place = _find(files, release, wanted)
            if place is None:
                continue
            stamp = files.stamp(place)
            row = dict(stamp, name=os.path.basename(place).partition(".ko")[0], version=None, license=None, signer=None)
            self.rows[release] = row
            before = noted.get(release)
            if isinstance(before, dict) and all(before.get(key) == stamp[key] for key in stamp):
                row.update({key: before.get(key) for key in ("version", "license", "signer")})
            elif not self._read(place, row):
                self.asked[release] = Command(["modinfo", files.path(place)])

    def _read(self, place, row):
        """Read an uncompressed module that is not signed; tell whether that was one."""
        if not place.endswith(".ko"):
            return False
        try:
            with open(self.files.path(place), "rb") as stream:
                said, signed = read_module(stream)
        except (OSError, ValueError):
            return False
        row.update(version=said.get("version"), license=said.get("license"))
        return not signed

    def result(self):
        """Return ``{release: {path, size, mtime_ns, name, version, license, signer}}``."""
        for release, command in self.asked.items():
            answer = command.output()
            said = dict(re.findall(r"(?m)^(version|license|signer):[ \t]*(.*?)[ \t]*$", answer or ""))
            self.rows[release].update({key: value for key, value in said.items() if value})
            if answer is None:
                path = self.rows[release]["path"]
                self.files.unknown[f"driver.modules.{release}"] = f"modinfo did not read {path}"
        return self.rows


def _wanted_names(lines):
    """Return the file names that modprobe's settings put in nvidia's place, as Debian's do to have several."""
    found = []
    for words in lines:
        if words[:2] == ["install", "nvidia"] or (words[0] == "alias" and words[1:2] == ["nvidia"]):
            found += [word for word in words[2:] if word.startswith("nvidia-")]
    return found


def _find(files, release, wanted):
    """Return the module that modprobe would load, None where the kernel has none."""
    top = f"lib/modules/{release}"
    places = [*_PLACES]
    places += [f"kernel/{name}" for name in files.names(f"{top}/kernel", "nvidia*")]
    places += files.names(top, "nvidia*")
    found = []
    for place in places:
        found += _below(files, f"{top}/{place}", 3 if place in _PLACES[:3] else 1)
    if len(found) < 2:
        return found[0] if found else None
    listed = set(re.findall(r"(?m)^([^:\s]*nvidia[^:\s]*):", files.text(f"{top}/modules.dep") or ""))
    return min(
        found,
        key=lambda place: (
            os.path.basename(place).partition(".ko")[0] not in wanted,
            place[len(top) + 1 :] not in listed,
            found.index(place),
        ),
    )


def _below(files, place, depth):
    found = []
    for name in files.names(place):
        if _NAME.match(name):
            found.append(f"{place}/{name}")
        elif depth > 0 and "." not in name and files.is_dir(f"{place}/{name}"):
            found += _below(files, f"{place}/{name}", depth - 1)
    return found


def read_module(stream):
    """Return what an ELF file's section ``.modinfo`` says and whether a signature follows the file.

    Raises:
        ValueError: the file is no such module.
    """
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _read_elf(content), content[-len(_SIGNED) :] == _SIGNED


def _read_elf(content):
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    try:
        start = struct.unpack_from("<Q", content, 0x28)[0]
        size, count, names = struct.unpack_from("<HHH", content, 0x3A)
        sections = [struct.unpack_from("<IIQQQQ", content, start + index * size) for index in range(count)]
        table = sections[names]
        for section in sections:
            at = table[4] + section[0]
            if content[at : at + 9] == b".modinfo\0":
                return read_modinfo(content[section[4] : section[4] + section[5]])
    except (struct.error, IndexError) as error:
        raise ValueError("the file is cut short") from error
    raise ValueError("there is no section .modinfo")


def read_modinfo(section):
    """Read the strings of ``.modinfo``: ``name=value``, each ended by a zero byte; the first of a name counts."""
    found = {}
    for entry in section.split(b"\0"):
        name, separator, value = entry.partition(b"=")
        if separator:
            found.setdefault(name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
    return found


def dkms(files):
    """List what DKMS keeps of NVIDIA's modules: added, built or installed, for which kernel."""
    rows = []
    for module in files.names("var/lib/dkms", "nvidia*"):
        place = f"var/lib/dkms/{module}"
        current = {
            files.link(f"{place}/{name}"): name
            for name in files.names(place, "kernel-*")
            if files.link(f"{place}/{name}")
        }
        for version in files.names(place):
            if version.startswith("kernel-") or not files.is_dir(f"{place}/{version}"):
                continue
            built = _built(files, f"{place}/{version}")
            for kernel, arch in built:
                state = "installed" if f"{version}/{kernel}/{arch}" in current else "built"
                rows.append(dict(module=module, version=version, kernel=kernel, state=state))
            if not built and (files.link(f"{place}/{version}/source") or files.exists(f"{place}/{version}/source")):
                rows.append(dict(module=module, version=version, kernel=None, state="added"))
    return rows


def _built(files, place):
    found = []
    for kernel in files.names(place):
        if kernel in ("source", "build"):
            continue
        for arch in files.names(f"{place}/{kernel}"):
            if files.names(f"{place}/{kernel}/{arch}/module", "*.ko*"):
                found.append((kernel, arch))
    return found
