# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's driver on a host: what is loaded, what is installed, where it came from, and whether these agree."""

from __future__ import annotations

import fnmatch
import re

from ansible.module_utils.host_files import version_key
from ansible.module_utils.host_packages import of_driver

_LIBRARY = re.compile(r"libnvidia-ml\.so\.(\d+(?:\.\d+)+)$")
#: A version of the driver: 580.126.09, 390.157.
_VERSION = re.compile(r"\d{3,}\.\d+(\.\d+)*$")
#: Packages that carry user space and so tell its version, the most telling first.
_USER_SPACE = (
    r"libcuda1|libnvidia-compute(-.*)?|libnvidia-(tesla-)?.*cuda1|nvidia-driver-cuda-libs",
    r"libnvidia-ml1|nvidia-driver-libs|nvidia-utils(-.*)?|nvidia-driver-cuda",
    r"nvidia-driver(?!-pinning)(-.*)?|nvidia-headless-.*|nvidia-open(-.*)?|cuda-drivers.*",
    r"nvidia-(.*-)?dkms(-.*)?|kmod-nvidia.*|linux-(modules|objects)-nvidia-.*",
)
_OPEN, _PROPRIETARY = "open", "proprietary"
#: How a licence in a module tells its flavour.
_LICENCES = {"Dual MIT/GPL": _OPEN, "NVIDIA": _PROPRIETARY}


def loaded(files):
    """Return version and flavour of the loaded kernel module, or None with the reason."""
    version = files.text("sys/module/nvidia/version")
    told = files.text("proc/driver/nvidia/version") if version else None
    # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  ..."; the other flavour says "x86_64
    # Kernel Module".
    module = None if not told else _OPEN if "Open Kernel Module" in told else _PROPRIETARY
    reason = None if version else "the kernel module nvidia is not loaded"
    return dict(loaded_version=version, module=module, reason=reason)


def installed(files, packages, modules, next_boot, noted, os_id):
    """Return what is installed. ``modules`` are those on disk by kernel, ``noted`` is what this project wrote down."""
    library = library_version(files)
    names = packages.installed() or {}
    of_packages = packages_version(names)
    version = library or of_packages
    return dict(
        library_version=library,
        installed_version=version,
        installed_module=_flavour(modules.get(next_boot) if next_boot else _only(modules), names),
        source=_source(files, packages, names, version, of_packages, noted, os_id),
        packages=packages.installed(),
        held=packages.held(),
        broken=packages.broken(),
    )


def library_version(files):
    """Return the version of the library that programs load: what libnvidia-ml.so.1 leads to, else the newest."""
    places = [f"usr/lib/{name}" for name in files.names("usr/lib", "*-linux-gnu") if not name.startswith("i386")]
    places += ["usr/lib64", "usr/lib/wsl/lib"]
    newest = []
    for place in places:
        target = files.real(f"{place}/libnvidia-ml.so.1")
        found = _LIBRARY.search(target)
        if found and files.exists(target[1:]):
            return found.group(1)
        for directory in [place, *(f"{place}/nvidia/{name}" for name in files.names(f"{place}/nvidia"))]:
            newest += [
                match.group(1) for match in map(_LIBRARY.match, files.names(directory, "libnvidia-ml.so.*")) if match
            ]
    return max(newest, key=version_key) if newest else None


def upstream_version(version):
    """Return a package's version without what its packager added: ``580.126.09-0ubuntu1`` is 580.126.09."""
    return re.sub(r"^\d+:", "", version).rpartition("-")[0] or re.sub(r"^\d+:", "", version)


def packages_version(names):
    """Return the driver's version that the packages carry, None where there is none."""
    for pattern in _USER_SPACE:
        found = [upstream_version(version) for name, version in names.items() if re.fullmatch(pattern, name)]
        found = [version for version in found if _VERSION.match(version)]
        if found:
            return max(found, key=version_key)
    return None


def mismatch(facts):
    """Return one sentence where loaded module, library and packages are not of one version, else None."""
    packaged = packages_version(facts["packages"] or {})
    said = (
        ("the loaded kernel module is", facts["loaded_version"], "no kernel module is loaded"),
        ("the user-space library is", facts["library_version"], "no user-space library is installed"),
        ("the packages are", packaged, "no package of the driver is installed"),
    )
    if len({version for _, version, _ in said if version}) < 2:
        return None
    return ", ".join(f"{words} {version}" if version else without for words, version, without in said)


def _only(modules):
    rows = list(modules.values())
    return rows[0] if len({row["license"] for row in rows}) == 1 else None


def _flavour(module, names):
    """Return the flavour by the licence of the module on disk, else by the names of the packages, else None."""
    if module and module["license"] in _LICENCES:
        return _LICENCES[module["license"]]
    kernel_side = [
        name
        for name in names
        if re.match(r"nvidia-.*(dkms|open)|kmod-nvidia|linux-(modules|objects)-nvidia|nvidia-kernel-source", name)
    ]
    if not kernel_side:
        return None
    return _OPEN if any(re.search(r"-open\b", name) for name in kernel_side) else _PROPRIETARY


def _source(files, packages, names, version, of_packages, noted, os_id):
    """Tell where the driver came from, None where that cannot be known."""
    if version is None:
        return None
    if isinstance(noted, dict) and noted.get("version") == version and _are_there(noted.get("packages"), names):
        return noted.get("source")
    if of_packages is None:
        tools = ("usr/bin/nvidia-uninstall", "usr/bin/nvidia-installer")
        return "runfile" if any(map(files.exists, tools)) else None
    maintainers = [row["maintainer"] for name, row in (packages.rows or {}).items() if of_driver(name)]
    if any("@nvidia.com" in maintainer for maintainer in maintainers):
        return "nvidia_repo"
    if any(re.fullmatch(r"nvidia-driver-pinning-.*|nvidia-open(-\d+)?|cuda-drivers.*", name) for name in names):
        return "nvidia_repo"
    if packages.kind == "dnf" and any(re.fullmatch(r"kmod-nvidia-.*dkms", name) for name in names):
        return "nvidia_repo"
    if any(
        re.fullmatch(r"nvidia-headless-.*-server.*|linux-(modules|objects)-nvidia-.*|.*-\d+-server(-open)?", n)
        for n in names
    ):
        return "distro"
    return _debian_source(files, names) if os_id == "debian" else None


def _debian_source(files, names):
    """Debian and NVIDIA's repository for Debian share names; their revisions tell them apart, but for a plain -1."""
    for name in ("nvidia-kernel-dkms", "nvidia-open-kernel-dkms", "nvidia-driver", "libcuda1"):
        revision = re.search(r"-([^-]+)$", names.get(name, ""))
        if revision and (re.search(r"~deb|\+deb|~bpo", revision.group(1)) or not revision.group(1).startswith("1")):
            return "distro"
        if revision and name == "nvidia-open-kernel-dkms":
            return "distro"  # a name of Debian's own
    lists = files.names("var/lib/apt/lists", "*_Packages*")
    foreign = any("nvidia" in name for name in lists)
    return "distro" if names.get("nvidia-kernel-dkms") and lists and not foreign else None


def _are_there(wanted, names):
    """Tell whether all packages that were noted are installed; a note may carry versions and globs."""
    for entry in wanted if isinstance(wanted, list) else ():
        name = re.split(r"[=<>]", str(entry))[0].strip()
        if name.startswith("@") or not name:
            continue  # a stream of modules is no package
        if not any(
            fnmatch.fnmatchcase(have, name) or f"{have}-{version}".startswith(name) for have, version in names.items()
        ):
            return False
    return True
