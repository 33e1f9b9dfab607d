# SPDX-License-Identifier: Apache-2.0
"""The kernels of a host: which runs, which are installed, and which the boot loader will start."""

from __future__ import annotations

import os
import re

from ansible.module_utils.host_files import version_key

_CONTAINER_VARIABLE = re.compile(rb"(?:^|\0)container=([^\0]+)")


def running(files):
    """Return the release of the running kernel."""
    release = files.text("proc/sys/kernel/osrelease", "kernel")
    if not release and files.root == "/":
        release = os.uname().release
    if not release:
        files.unknown.setdefault("kernel", "/proc/sys/kernel/osrelease: No such file or directory")
    return release or None


def container(files, kernel):
    """Name the kind of container that this is, None on a machine of its own. WSL counts: its kernel is Windows' own."""
    said = files.text("run/systemd/container")
    if said:
        return said.split()[0]
    if files.exists(".dockerenv"):
        return "docker"
    if files.exists("run/.containerenv"):
        return "podman"
    try:
        with open(files.path("proc/1/environ"), "rb") as stream:
            environment = stream.read()
    except OSError:  # another user's, as on every machine where this runs without root: no evidence either way
        environment = b""
    found = _CONTAINER_VARIABLE.search(environment)
    if found:
        return found.group(1).decode("utf-8", "replace")
    if b"KUBERNETES_SERVICE_HOST=" in environment:
        return "kubernetes"
    if "microsoft" in (kernel or "").lower():
        return "wsl"
    return None


def kernels(files, kernel):
    """List the kernels, newest first: release, running, next_boot, headers, image."""
    images = _images(files)
    releases = set(images)
    for release in files.names("lib/modules"):
        if any(files.exists(f"lib/modules/{release}/{part}") for part in ("kernel", "modules.dep", "build")):
            releases.add(release)
    if kernel:
        releases.add(kernel)
    chosen = _next_boot(files, sorted(images, key=version_key, reverse=True))
    return [
        dict(
            release=release,
            running=release == kernel,
            next_boot=None if chosen is None else release == chosen,
            headers=_has_headers(files, release),
            image=release in images,
        )
        for release in sorted(releases, key=version_key, reverse=True)
    ]


def next_boot(rows):
    """Return the release that the boot loader will start, None where that is not known."""
    return next((row["release"] for row in rows if row["next_boot"]), None)


def _images(files):
    """Return the releases that have a kernel to start; a rescue kernel is a copy of one, under a name of its own."""
    found = {name[len("vmlinuz-") :] for name in files.names("boot", "vmlinuz-*") if "rescue" not in name}
    found |= {name for name in files.names("lib/modules") if files.exists(f"lib/modules/{name}/vmlinuz")}
    return found


def _has_headers(files, release):
    places = (f"lib/modules/{release}/build", f"usr/src/linux-headers-{release}", f"usr/src/kernels/{release}")
    return any(files.exists(f"{place}/Makefile") for place in places)


# --- the boot loader -------------------------------------------------------------------------------------------------


def _next_boot(files, images):
    """Return the release that starts next, or None with the reason. ``images`` are sorted, newest first."""
    if not images:
        return _not_known(files, "no kernel image is below /boot or /lib/modules")
    entries = files.names("boot/loader/entries", "*.conf", "next_boot_kernel")
    if "next_boot_kernel" in files.unknown:
        return None
    if files.exists("boot/loader/loader.conf") and not files.is_dir("boot/grub2") and not files.is_dir("boot/grub"):
        return _not_known(files, "systemd-boot chooses among its entries when it starts")
    if entries or files.is_dir("boot/grub2"):
        return _by_entries(files, images, entries)
    if files.exists("etc/default/grub") or files.is_dir("boot/grub"):
        return _by_grub_default(files, images)
    return _not_known(files, "no boot loader whose settings can be read is below /boot")


def _not_known(files, why):
    files.unknown.setdefault("next_boot_kernel", why)


def _by_entries(files, images, entries):
    """Boot loader entries, as Red Hat's GRUB reads them: the saved entry, else the newest."""
    environment = _grub_environment(files)
    if environment is None:
        return None
    titles = {}
    for name in entries:
        release = _release_of_entry(files, name)
        if release in images:
            titles[name[: -len(".conf")]] = release
    saved = environment.get("next_entry") or environment.get("saved_entry") or "0"
    if saved in titles:
        return titles[saved]
    return _by_words(files, images, saved)


def _release_of_entry(files, name):
    for line in (files.text(f"boot/loader/entries/{name}", "next_boot_kernel") or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "version":
            return words[1]
        if len(words) > 1 and words[0] == "linux" and "vmlinuz-" in words[1]:
            return words[1].rpartition("vmlinuz-")[2]
    return None


def _by_grub_default(files, images):
    """GRUB_DEFAULT of /etc/default/grub and what is laid over it, as grub-mkconfig reads it."""
    settings = read_settings(files.text("etc/default/grub", "next_boot_kernel") or "")
    for name in files.names("etc/default/grub.d", "*.cfg"):
        settings.update(read_settings(files.text(f"etc/default/grub.d/{name}", "next_boot_kernel") or ""))
    if "next_boot_kernel" in files.unknown:
        return None
    for flavour in reversed(settings.get("GRUB_FLAVOUR_ORDER", "").split()):
        images = sorted(images, key=lambda release: not release.endswith(f"-{flavour}"))
    top = settings.get("GRUB_TOP_LEVEL", "").rpartition("vmlinuz-")[2]
    if top in images:
        images = [top] + [release for release in images if release != top]
    environment = _grub_environment(files)
    if environment is None:
        return None
    said = environment.get("next_entry") or settings.get("GRUB_DEFAULT", "0") or "0"
    if said == "saved":
        said = environment.get("saved_entry") or "0"
    return _by_words(files, images, said)


def _by_words(files, images, said):
    """Return the release that an entry of GRUB's menu means: its first one is the newest kernel."""
    if said == "0":
        return images[0]
    named = [release for release in images if re.search(rf"(?<![\w.]){re.escape(release)}(?![\w.])", said)]
    if named:
        return max(named, key=len)
    return _not_known(files, f"the boot loader starts the entry '{said}', which names no kernel")


def _grub_environment(files):
    """Return what GRUB remembers from one boot to the next; empty without a file, None where it is closed to us."""
    for place in ("boot/grub2/grubenv", "boot/grub/grubenv"):
        content = files.text(place, "next_boot_kernel")
        if content is not None:
            return read_grubenv(content)
        if "next_boot_kernel" in files.unknown:
            return None
    return {}


def read_grubenv(text):
    """Read GRUB's environment block: ``name=value`` lines with escapes, filled up with ``#``."""
    found = {}
    for line in text.split("\n"):
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found[name] = re.sub(r"\\(.)", r"\1", value)
    return found


def read_settings(text):
    """Read ``NAME=value`` lines as a shell would that meets nothing but assignments."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"""\s*(?:export\s+)?([A-Z_a-z][\w]*)=(?:"([^"]*)"|'([^']*)'|([^\s#;]*))""", line)
        if match:
            found[match.group(1)] = next((part for part in match.groups()[1:] if part is not None), "")
    return found
