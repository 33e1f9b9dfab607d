# SPDX-License-Identifier: Apache-2.0
"""Versions as they are written and as they compare. All arithmetic on versions is here.

``packaging`` compares releases of wheels. Drivers, toolkits, kernels and compute capabilities are dotted numbers that
compare part by part ("570.9" < "570.10"); they are kept as written and turned into tuples to compare.
"""

from __future__ import annotations

import re
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

Numbers = tuple[int, ...]


@lru_cache(maxsize=65536)
def numbers(version: str) -> Numbers:
    """Return the leading dotted numbers: ``"6.8.0-45-generic"`` gives ``(6, 8, 0)``.

    Raises:
        ValueError: the text does not begin with a number.
    """
    found = re.match(r"\d+(\.\d+)*", version)
    if not found:
        raise ValueError(f"'{version}' does not begin with a number")
    return tuple(int(part) for part in found.group().split("."))


def kernel_numbers(release: str) -> Numbers:
    """Return the numbers of a kernel's release, with that of its ABI: ``"6.1.0-56-amd64"`` gives ``(6, 1, 0, 56)``.

    Raises:
        ValueError: the text does not begin with a number.
    """
    found = re.match(r"(?:\d+\.)*\d+-(\d+)(?![.\d])", release)
    return (*numbers(release), *((int(found.group(1)),) if found else ()))


def minor(version: str) -> Numbers:
    """Return the first two numbers: ``"3.12.1"`` gives ``(3, 12)``."""
    return (*numbers(version), 0)[:2]


def begins_with(version: str, prefix: str) -> bool:
    """Tell whether ``version`` is of the series ``prefix``: ``"12.8.1"`` is of ``"12.8"``, not of ``"12"`` +
    ``".80"``."""
    wanted = numbers(prefix)
    return numbers(version)[: len(wanted)] == wanted


def branch_of(driver: str) -> str:
    """Return the branch of a driver version: ``"580.126.09"`` is of branch ``"580"``."""
    return str(numbers(driver)[0])


def bare(package_version: str) -> str:
    """Return what a package is a version of: ``"1:580.126.09-1~deb12u1"`` gives ``"580.126.09"``."""
    return package_version.rpartition(":")[2].partition("-")[0]


def same_version(version: str, other: str) -> bool:
    """Tell whether two driver versions are one, whatever a package manager puts around them."""
    left, right = (re.match(r"\d+(\.\d+)*", bare(text)) for text in (version, other))
    return bool(left and right) and numbers(bare(version)) == numbers(bare(other))


@lru_cache(maxsize=65536)
def at_least(version: str, floor: str) -> bool:
    """Compare part by part; missing parts count as zero, so driver 580.65.06 is at least 580."""
    left, right = numbers(version), numbers(floor)
    length = max(len(left), len(right))
    return left + (0,) * (length - len(left)) >= right + (0,) * (length - len(right))


@lru_cache(maxsize=65536)
def parsed(version: str) -> Version:
    """Return a release as ``packaging`` compares it.

    Raises:
        packaging.version.InvalidVersion: the text is no version.
    """
    return Version(version)


@lru_cache(maxsize=65536)
def specifiers(text: str) -> SpecifierSet:
    """Return a specifier set, ``newest`` and ``any`` being all releases.

    Raises:
        packaging.specifiers.InvalidSpecifier: the text is no specifier.
    """
    return SpecifierSet("" if text in ("newest", "any", "auto") else text)


@lru_cache(maxsize=65536)
def matches(version: str, wanted: str) -> bool:
    """Tell whether a release meets a specifier. A local part (``+cu126``) and a missing ``.0`` do not count."""
    return specifiers(wanted).contains(parsed(version), prereleases=True)


def is_version(text: str) -> bool:
    """Tell whether ``packaging`` can read the text as a version."""
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def is_specifier(text: str) -> bool:
    """Tell whether ``packaging`` can read the text as a specifier set."""
    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


def covers(sm: tuple[str, ...], capability: str) -> bool:
    """Tell whether machine code for one of ``sm`` runs on a compute capability: the same major, not a higher minor.

    Source: NVIDIA CUDA programming model; code for 8.6 runs on 8.9, code for 3.7 does not run on 3.5.
    """
    major, second = numbers(capability)
    return any(numbers(code)[0] == major and numbers(code)[1] <= second for code in sm)


def span(versions: list[str]) -> str:
    """Name a list of versions shortly: ``3.10 to 3.14``, or the only one."""
    ordered = sorted(versions, key=numbers)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def is_dotted(text: str) -> bool:
    """Tell whether a text is numbers with dots between them and nothing else, two at least."""
    return re.fullmatch(r"\d{1,9}(\.\d{1,9})+", text) is not None


def series_of(version: str) -> str:
    """Return the series: ``"12.9.1"`` is of ``"12.9"``."""
    return ".".join(map(str, minor(version)))


def release_of(toolkit: str) -> Numbers | None:
    """Return the first three numbers of a toolkit's version; None where its third is a day (``"11.8.20220929"``)."""
    parts = (*numbers(toolkit), 0)[:3]
    return None if parts[-1] > 9999 else parts


def newer(version: str, other: str) -> bool:
    """Tell whether a dotted version comes after another."""
    return not at_least(other, version)
