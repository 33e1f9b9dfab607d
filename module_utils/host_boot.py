# SPDX-License-Identifier: Apache-2.0
"""What decides which kernel modules a host may load: Secure Boot, the machine owner's key, and nouveau."""

from __future__ import annotations

import re

from ansible.module_utils.host_files import Command

_EFI_VARIABLES = "sys/firmware/efi/efivars"
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
CERTIFICATE = "var/lib/gpulab/machine-owner-key.der"
#: Where modprobe looks for settings; a file hides the file of the same name in what comes after.
_MODPROBE_DIRECTORIES = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)


def secure_boot(files):
    """Tell whether Secure Boot is on; False without UEFI, None where the variable cannot be read."""
    if not files.is_dir("sys/firmware/efi"):
        return False
    name = f"{_EFI_VARIABLES}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    content = files.data(name, "secure_boot")
    if content is None:
        files.unknown.setdefault("secure_boot", f"/{name}: No such file or directory")
        return None
    return content[4:5] == b"\x01"  # four bytes of attributes come first


def machine_owner_key(files):
    """Tell whether the firmware trusts this project's certificate, or will ask a person at the next boot to."""
    certificate = files.data(CERTIFICATE, "machine_owner_key")
    if certificate is None and "machine_owner_key" in files.unknown:
        return dict(enrolled=None, pending=None, certificate=None)
    path = "/" + CERTIFICATE if certificate else None
    if not certificate or not files.is_dir("sys/firmware/efi"):
        return dict(enrolled=False, pending=False, certificate=path)
    variables = files.names(_EFI_VARIABLES, key="machine_owner_key")
    if not variables:
        files.unknown.setdefault("machine_owner_key", f"/{_EFI_VARIABLES} is empty: efivarfs is not mounted")
        return dict(enrolled=None, pending=None, certificate=path)
    return dict(
        # A list that is too long for one variable goes on in MokListRT1, MokListRT2.
        enrolled=_is_in(files, certificate, variables, r"MokListRT\d*"),
        pending=_is_in(files, certificate, variables, r"MokNew"),
        certificate=path,
    )


def _is_in(files, certificate, variables, name):
    found = False
    for variable in variables:
        if re.match(rf"{name}-{_SHIM}$", variable):
            content = files.data(f"{_EFI_VARIABLES}/{variable}", "machine_owner_key")
            if content is None:
                return None
            found = found or certificate in content
    return found


# --- nouveau ---------------------------------------------------------------------------------------------------------


def modprobe_lines(files):
    """Return the lines of modprobe's settings that count, each as a list of words."""
    chosen = {}
    for directory in _MODPROBE_DIRECTORIES:
        for name in files.names(directory, "*.conf"):
            chosen.setdefault(name, f"{directory}/{name}")
    lines = []
    for name in sorted(chosen):
        lines += [line.split() for line in (files.text(chosen[name]) or "").splitlines()]
    return [words for words in lines if words and not words[0].startswith("#")]


def nouveau_blacklisted(files, lines):
    """Tell whether modprobe or the kernel's command line keeps nouveau from being loaded by itself."""
    for words in lines:
        if words[:2] == ["blacklist", "nouveau"]:
            return True
        if words[:2] == ["install", "nouveau"] and re.search(r"/(false|true)$", " ".join(words[2:3])):
            return True
    for word in (files.text("proc/cmdline") or "").split():
        name, _, value = word.partition("=")
        named = "nouveau" in value.split(",")
        if named and name in ("modprobe.blacklist", "rd.driver.blacklist", "module_blacklist"):
            return True
    return False


def nouveau_keepers(files):
    """Return the names of modprobe's files that keep nouveau from being loaded: ``{"gpulab-nouveau.conf"}``."""
    names = set()
    for directory in _MODPROBE_DIRECTORIES:
        for name in files.names(directory, "*.conf"):
            if re.search(r"(?m)^\s*blacklist\s+nouveau\s*$", files.text(f"{directory}/{name}") or ""):
                names.add(name)
    return names


class Initramfs:
    """The initial file system of the kernel that boots next: whether nouveau is loaded from it. The module may lie in
    there unused, as Debian's and Ubuntu's tools put it there for any display; what counts is that no file beside it
    keeps it from being loaded. Listing takes seconds, so what this project noted of the same file is taken where there
    is such a note."""

    KEY = "nouveau.in_initramfs"

    def __init__(self, files, release, noted):
        self.files = files
        self.answer = None
        self.command = None
        self.file = _initramfs_of(files, release) if release else None
        if self.file is None:
            files.unknown[self.KEY] = (
                f"the kernel {release} has no initramfs below /boot"
                if release
                else "it is not known which kernel boots next"
            )
        elif _same(noted, self.file):
            self.answer = noted["nouveau"]
        elif not _readable(files, self.file["path"][1:], self.KEY):
            pass  # and the reason is kept
        else:
            lister = next((name for name in _LISTERS if _is_there(files, name)), None)
            if lister is None:
                files.unknown[self.KEY] = "neither lsinitramfs nor lsinitrd is there to list it with"
            else:
                self.command = Command([lister, files.path(self.file["path"][1:])])

    def result(self):
        """Return ``(nouveau is in it, {path, size, mtime_ns, nouveau})``; both may be None."""
        if self.command is not None:
            listing = self.command.output()
            if listing is None:
                self.files.unknown[self.KEY] = f"{self.file['path']} could not be listed"
            else:
                there = re.search(r"/nouveau\.ko(\.\w+)?\s*$", listing, re.MULTILINE) is not None
                kept = {line.rpartition("/")[2].strip() for line in listing.splitlines() if "modprobe.d/" in line}
                self.answer = there and not kept & nouveau_keepers(self.files)
        return self.answer, None if self.file is None else dict(self.file, nouveau=self.answer)


_LISTERS = ("lsinitramfs", "lsinitrd")


def _is_there(files, name):
    return any(files.exists(f"{place}/{name}") for place in ("usr/bin", "usr/sbin", "bin"))


def _initramfs_of(files, release):
    places = [f"boot/initrd.img-{release}", f"boot/initramfs-{release}.img"]
    machine = files.text("etc/machine-id")
    if machine:
        places.append(f"boot/{machine}/{release}/initrd")
    return next(filter(None, map(files.stamp, places)), None)


def _same(noted, stamp):
    return (
        isinstance(noted, dict)
        and isinstance(noted.get("nouveau"), bool)
        and all(noted.get(key) == value for key, value in stamp.items())
    )


def _readable(files, relative, key):
    try:
        with open(files.path(relative), "rb"):
            return True
    except OSError as error:
        files.unknown[key] = f"/{relative}: {error.strerror}"
        return False
