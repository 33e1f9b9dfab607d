# SPDX-License-Identifier: Apache-2.0
"""What the wheels of a release say: Pythons, machines, C library, and what their METADATA asks for."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from email.message import Message

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.version import Version

from gpu_compat.refresh.package_index import Wheel
from gpu_compat.tables import ARCHES

#: The C library of the names that manylinux tags had before they were numbered.
_OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class Release:
    """The wheels of one release.

    Attributes:
        yanked: every wheel of it is.
        linux: there is a wheel that installs on Linux.
        wheels: those that a resolver may take; where all are yanked, all.
    """

    def __init__(self, version: Version, wheels: Iterable[Wheel], newest_python: int) -> None:
        given = list(wheels)
        self.version = version
        self.yanked = all(wheel.yanked for wheel in given)
        self.wheels = [wheel for wheel in given if not wheel.yanked or self.yanked]
        self.linux = any(_arch(tag) for wheel in given for tag in wheel.tags)
        self.date = min((wheel.date for wheel in self.wheels if wheel.date), default="")
        self._newest_python = newest_python

    def pythons(self, arch: str) -> list[str]:
        """Return the Pythons with a wheel for Linux on ``arch``, oldest first; free-threaded ones do not count."""
        minors: set[int] = set()
        for tag in self._tags(arch):
            minors |= _minors(tag, self._newest_python)
        return [f"3.{minor}" for minor in sorted(minors)]

    def arches(self) -> list[str]:
        """Return the machines with a wheel for Linux, in alphabetical order."""
        return sorted(arch for arch in ARCHES if any(True for _ in self._tags(arch)))

    def glibc(self) -> str:
        """Return the C library that serves every wheel for Linux; empty where no tag names one.

        The highest of all counts: an old tag on one machine's wheel (manylinux1) promises less than the binary needs.
        """
        needs = [min(found) for wheel in self.wheels if (found := [v for tag in wheel.tags if (v := _glibc(tag))])]
        return "{}.{}".format(*max(needs)) if needs else ""

    def requires_python(self) -> str:
        return next((wheel.requires_python for wheel in self.wheels if wheel.requires_python), "")

    def wheel(self, arch: str) -> Wheel | None:
        """Return the wheel whose METADATA stands for ``arch``: the newest build for the newest Python."""
        fitting = [wheel for wheel in self.wheels if any(_arch(tag) in (arch, "any") for tag in wheel.tags)]
        usual = [wheel for wheel in fitting if any(_minors(tag, self._newest_python) for tag in wheel.tags)]
        return max(usual or fitting, key=lambda wheel: (wheel.build, _newest(wheel.tags), wheel.filename), default=None)

    def _tags(self, arch: str) -> Iterable[Tag]:
        return (tag for wheel in self.wheels for tag in wheel.tags if _arch(tag) == arch)


def releases(wheels: Iterable[Wheel]) -> dict[Version, Release]:
    """Sort wheels into releases; builds with a local version (``2.9.0+cu130``) are another index's business."""
    found: dict[Version, list[Wheel]] = defaultdict(list)
    for wheel in wheels:
        if wheel.version.local is None:
            found[wheel.version].append(wheel)
    newest = max((_newest(wheel.tags) for files in found.values() for wheel in files), default=0)
    return {version: Release(version, files, newest) for version, files in found.items()}


def _newest(tags: Iterable[Tag]) -> int:
    """Return the newest Python that tags name: 15 for cp315."""
    return max((_minor(tag.interpreter) for tag in tags), default=0)


def _minor(interpreter: str) -> int:
    match = re.fullmatch(r"cp3(\d+)", interpreter)
    return int(match[1]) if match else 0


def _minors(tag: Tag, newest: int) -> set[int]:
    """Return the Pythons that a tag serves: one, or for ``cp312-abi3`` that one and all newer ones."""
    minor = _minor(tag.interpreter)
    if not minor or tag.abi.endswith("t"):
        return set()
    return set(range(minor, max(minor, newest) + 1)) if tag.abi == "abi3" else {minor}


def _arch(tag: Tag) -> str:
    """Return the machine of a tag for Linux, ``any`` for one that fits every machine, else nothing."""
    if tag.platform == "any":
        return "any"
    if not tag.platform.startswith(("manylinux", "linux")):
        return ""
    return next((arch for arch in ARCHES if tag.platform.endswith(f"_{arch}")), "")


def _glibc(tag: Tag) -> tuple[int, int] | None:
    if _arch(tag) in ("", "any"):
        return None
    match = re.match(r"manylinux_(\d+)_(\d+)_", tag.platform)
    return (int(match[1]), int(match[2])) if match else _OLD_MANYLINUX.get(tag.platform.partition("_")[0])


def requirements(metadata: Message, arch: str, python: str, extra: str = "") -> dict[str, Requirement]:
    """Return what METADATA asks for on Linux on ``arch`` with ``extra``, by name; unreadable lines are left out.

    It is read as by ``python``, not by the Python that runs this.
    """
    environment = {
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": arch,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_version": python,
        "python_full_version": f"{python}.0",
        "extra": extra,
    }
    found: dict[str, Requirement] = {}
    for line in metadata.get_all("Requires-Dist") or ():
        try:
            wanted = Requirement(str(line))
        except InvalidRequirement:
            continue
        if wanted.marker is None or wanted.marker.evaluate(environment):
            found.setdefault(wanted.name.lower().replace("_", "-"), wanted)
    return found


def exact(wanted: Requirement | None) -> str:
    """Return the version that a requirement pins; empty where it pins none."""
    specifiers = wanted.specifier if wanted else ()
    return next((one.version for one in specifiers if one.operator == "==" and "*" not in one.version), "")


def lowest(wanted: Requirement | None) -> str:
    """Return the version that a requirement begins with: the pinned one, or that of ``>=``."""
    floors = [one.version for one in wanted.specifier if one.operator in (">=", "~=")] if wanted else []
    return exact(wanted) or (floors[0] if floors else "")


def series(version: str) -> str:
    """Return major and minor of a version: ``12.8`` for 12.8.90."""
    return ".".join(version.split(".")[:2])


def first_of(found: Mapping[str, Requirement], pattern: str) -> Requirement | None:
    """Return the requirement whose name fits ``pattern`` as a whole."""
    return next((wanted for name, wanted in found.items() if re.fullmatch(pattern, name)), None)
