# SPDX-License-Identifier: Apache-2.0
"""The schema of every table in ``data/``, for the rows that this project ships and for those that a lab lays over them.

Strict, as :mod:`gpu_compat.schema` is: a row with an unknown field, a number where a version is wanted or no source is
a mistake. What is right in a row by itself is decided here; what holds between rows is :mod:`gpu_compat.check`'s.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from gpu_compat.errors import Mistake
from gpu_compat.schema import Reader, boolean, kind, list_of, mapping, one_of, text
from gpu_compat.tables import ARCHES
from gpu_compat.versions import is_specifier, is_version, numbers

MODULES = ("open", "proprietary")
FAMILIES = ("debian", "rhel", "other")
#: Frameworks by the name that tables use.
FRAMEWORKS = ("tensorflow", "keras", "pytorch", "jax")
#: What a name in ``packages`` may leave open; filled in when the host and the driver are known.
PLACEHOLDERS = (
    "branch",
    "version",
    "major",
    "cuda",
    "open",
    "suffix",
    "flavour",
    "kernel",
    "release",
    "machine",
    "system",
    "directory",
)

# Digits are bounded so that no text takes long to read or turns into a number too long to print.
_VERSION = r"[0-9]{1,8}(\.[0-9]{1,8}){0,5}"
_PLACEHOLDER = rf"\{{({'|'.join(PLACEHOLDERS)})\}}"


def map_of(key: Reader, value: Reader, meaning: str) -> Reader:
    """Read a mapping whose keys are data as well: ``{"8.0": "450"}``."""

    def read(content: Any, path: str, mistakes: list[Mistake]) -> Any:
        if not isinstance(content, Mapping):
            mistakes.append(Mistake(path, f"must be a mapping of {meaning}, but is {kind(content)}"))
            return {}
        return {
            key(name, f"{path}.{name}", mistakes): value(item, f"{path}.{name}", mistakes)
            for name, item in content.items()
        }

    return read


def nullable(reader: Reader) -> Reader:
    """Read ``null`` as well, where the file says that it means "not known" or "none"."""

    def read(value: Any, path: str, mistakes: list[Mistake]) -> Any:
        return None if value is None else reader(value, path, mistakes)

    return read


def capability_range(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read ``[lowest, highest]`` compute capability."""
    return _range(CAPABILITY, value, path, mistakes)


def open_capability_range(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read a range whose lowest compute capability may be unknown."""
    return _range(nullable(CAPABILITY), value, path, mistakes)


def _range(lowest: Reader, value: Any, path: str, mistakes: list[Mistake]) -> Any:
    expected = 'a list of the lowest and the highest compute capability, as ["7.5", "12.0"]'
    if not isinstance(value, list) or len(value) != 2:
        count = f"a list of {len(value)}" if isinstance(value, list) else kind(value)
        mistakes.append(Mistake(path, f"must be {expected}, but is {count}"))
        return value
    before = len(mistakes)
    low, high = lowest(value[0], f"{path}[0]", mistakes), CAPABILITY(value[1], f"{path}[1]", mistakes)
    if len(mistakes) == before and low is not None and numbers(low) > numbers(high):
        mistakes.append(Mistake(path, f"the lowest comes first, but {low} is higher than {high}"))
    return [low, high]


def date(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read a day of the calendar. YAML turns one without quotes into something that is no string."""
    before = len(mistakes)
    _DATE(value, path, mistakes)
    if len(mistakes) == before:
        try:
            datetime.date.fromisoformat(value)
        except ValueError:
            mistakes.append(Mistake(path, f"'{value}' is no day of the calendar"))
    return value


def release(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read the version of a wheel, such as ``2.15.0.post1``."""
    before = len(mistakes)
    _RELEASE(value, path, mistakes)
    if len(mistakes) == before and not is_version(value):
        mistakes.append(Mistake(path, f"'{value}' is not the version of a release, such as \"2.15.0\""))
    return value


def specifier(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read a version specifier such as ``<10.0,>=9.1``."""
    before = len(mistakes)
    _SPECIFIER(value, path, mistakes)
    if len(mistakes) == before and not is_specifier(value):
        mistakes.append(Mistake(path, f"'{value}' is not a version specifier, such as \">=2.5,<3\""))
    return value


def same_or_specifier(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read a specifier, or ``same``: the release with the same minor version."""
    return value if value == "same" else specifier(value, path, mistakes)


def requirement(package: str) -> Reader:
    """Read what is asked of one package (a pattern): its name and a specifier, ``tensorflow==2.20.0``."""
    pattern = text(rf"({package})[<>=!~].{{1,80}}", 'a name and a specifier, as "triton==3.7.1"')

    def read(value: Any, path: str, mistakes: list[Mistake]) -> Any:
        before = len(mistakes)
        pattern(value, path, mistakes)
        if len(mistakes) == before:
            specifier(split_requirement(value)[1], path, mistakes)
        return value

    return read


def split_requirement(value: str) -> tuple[str, str]:
    """Split ``tensorflow==2.20.0`` into the name and the specifier."""
    name = re.split(r"[<>=!~]", value, maxsplit=1)[0]
    return name, value[len(name) :]


# Words and numbers.
SENTENCE = text(r"(?s)\S(.*\S)?", "text that is not empty")
CAPABILITY = text(r"[0-9]{1,3}\.[0-9]{1,2}", 'a compute capability in quotes, as "8.6"')
VERSION = text(_VERSION, 'a version in quotes, as "580.82.07"')
SERIES = text(r"[0-9]{1,4}\.[0-9]{1,4}", 'major and minor version in quotes, as "12.8"')
KERNEL = text(
    r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4}-[0-9]{1,4})?", 'a version of Linux in quotes, as "6.12" or "6.1.0-53"'
)
MAJOR = text(r"[0-9]{1,4}", 'a major version in quotes, as "12"')
BRANCH = text(r"[0-9]{3,4}", 'a driver branch in quotes, as "580"')
PYTHON = text(r"3\.[0-9]{1,3}", 'a version of Python in quotes, as "3.12"')
TAG = text(r"cu[0-9]{2,4}", 'the tag of a CUDA build, as "cu128"')
SLUG = text(r"[a-z0-9]+([-_.][a-z0-9]+)*", "a short name of small letters, digits and '-'")
WORD = text(r"[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*", "a name without spaces")
SYSTEM = text(r"[a-z]+([-_.][a-z0-9]+)*", "an ID of os-release, as debian")
PCI = text(r"10de:[0-9a-f]{4}", 'the PCI id of an NVIDIA device, as "10de:2330"')
DEVICE = text(r"[0-9a-f]{4}", 'the PCI device number in quotes, four digits of 0-9a-f, as "2330"')
MONTH = text(r"[0-9]{4}(-(0[1-9]|1[0-2]))?", 'a year or a month in quotes, as "2028-06"')
PACKAGE = text(
    rf"([A-Za-z0-9.+_:-]|{_PLACEHOLDER})+", f"the name of a package; known in braces: {', '.join(PLACEHOLDERS)}"
)
PATTERN = text(r"[A-Za-z0-9.+_*?-]+", "the name of a package or a shell pattern")
VERSION_PATTERN = text(rf"([A-Za-z0-9.+~*?-]|{_PLACEHOLDER})+", 'a shell pattern of versions, as "{version}-*"')
ADDRESS = text(rf"https://([A-Za-z0-9./_-]|{_PLACEHOLDER})+/", 'an address that begins with https:// and ends with "/"')
FINGERPRINT = text(r"[0-9A-F]{40}", "the whole fingerprint of an OpenPGP key, 40 of 0-9A-F without spaces")
KEY_FILE = text(r"[0-9A-Za-z]+\.pub", 'the name of a file with a key, as "3bf863cc.pub"')
ENDING = text(r"\.[a-z0-9]+", 'the end of a file\'s name, as ".sha256sum"')
PREFIX = text(r"[a-z0-9][a-z0-9.-]*", "the first letters of a package's name")
COMPONENT = text(r"[a-z][a-z0-9_]*", "the name of a component in NVIDIA's list of archives, as cuda_nvcc")
PATH = text(r"/[A-Za-z0-9./_+-]+", "an absolute path")
FILE_END = text(r"[A-Za-z0-9._-]+", "the end of a file's name")
RUNFILE = text(r"cuda_[0-9][0-9a-z._]*", "the name of NVIDIA's runfile, as cuda_13.0.0_580.65.06_linux.run")
_DATE = text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", 'a date in quotes, as "2026-11-23"')
_RELEASE = text(r"[0-9][0-9A-Za-z.+]{0,39}", 'the version of a release in quotes, as "2.15.0"')
_SPECIFIER = text(r"[<>=!~][<>=!~,. 0-9A-Za-z*+]{0,80}", 'a version specifier, as ">=2.5,<3"')


def several(item: Reader, hint: str, *, empty_allowed: bool = False) -> Reader:
    """Read a list of such items."""
    return list_of(item, empty_allowed=empty_allowed, hint=hint)


SOURCES = several(SENTENCE, 'say where the row comes from, as [pci-ids] or ["test of our lab, 2026-11-23"]')
_MODULES = several(one_of(*MODULES), "name the kernel modules, as [open, proprietary]")
_CAPABILITIES = several(CAPABILITY, 'name compute capabilities, as ["8.0", "9.0"]')
_ARCHES = several(one_of(*ARCHES), f"name machines, as [{', '.join(ARCHES)}]")
_PACKAGES = several(PACKAGE, "name packages")
_RELEASES = several(release, 'name releases, as ["2.15.0"]', empty_allowed=True)
_PYTHONS = map_of(
    one_of(*ARCHES),
    several(PYTHON, 'name Pythons, as ["3.12"], or [] for none', empty_allowed=True),
    "machines to Pythons",
)
_NOTED = {"note": SENTENCE, "source": SOURCES}
_OF_FAMILY: dict[str, Reader] = {"family": one_of(*FAMILIES)}
_OF_ORIGIN: dict[str, Reader] = {"origin": one_of("nvidia_repo", "distro", "runfile")}
_HOLD = several(
    text(rf"([A-Za-z0-9.+_*?-]|{_PLACEHOLDER})+", "the name of a package or a shell pattern"),
    'name packages or patterns, as ["libcudnn9-*"]',
)
_SYSTEM_NAMES = several(SYSTEM, "name values of ID in os-release, as [debian]")


def row(required: Mapping[str, Reader], optional: Mapping[str, Reader] | None = None) -> Reader:
    """Read one row; every row names its source and may hold a note."""
    return mapping({**required, **(optional or {}), **_NOTED}, required=(*required, "source"))


_NOTE = mapping(_NOTED, required=("note", "source"))
_RULE = row({"id": SLUG, "rule": SENTENCE})

#: The reader of a row, by ``file.table``.
ROWS: Mapping[str, Reader] = {
    "gpus.architectures": row(
        {
            "name": SENTENCE,
            "compute_capabilities": _CAPABILITIES,
            "cuda_first": map_of(CAPABILITY, SERIES, "compute capabilities to CUDA versions"),
            "modules": _MODULES,
        },
        {
            "jetson": _CAPABILITIES,
            "cuda_last": SERIES,
            "driver_first": map_of(CAPABILITY, VERSION, "compute capabilities to driver versions"),
            "driver_last": BRANCH,
        },
    ),
    "gpus.products": row(
        {
            "name": SENTENCE,
            "pci": several(PCI, 'name PCI ids, as ["10de:2330"]'),
            "architecture": SENTENCE,
            "compute_capability": CAPABILITY,
            "class": one_of("datacenter", "workstation", "geforce", "titan"),
        },
        {
            "aliases": several(SENTENCE, "name what it is called otherwise"),
            "forward_compatibility": boolean,
            "driver_first": map_of(BRANCH, VERSION, "driver branches to driver versions"),
            "modules": _MODULES,
            "fabric": several(one_of("nvlsm", "nvidia-imex"), "name what the fabric needs, as [nvlsm]"),
        },
    ),
    "gpus.nvswitches": row({"name": SENTENCE, "pci": PCI, "means": SENTENCE}),
    "gpu_chips.chips": row(
        {
            "chip": text(r"[A-Z]{2}[0-9]{2,3}[A-Z]?", "the name of a chip, as GA102"),
            "architecture": SENTENCE,
            "compute_capability": CAPABILITY,
            "devices": map_of(DEVICE, SENTENCE, "PCI device numbers to names"),
        }
    ),
    "drivers.branches": row(
        {
            "branch": BRANCH,
            "latest": VERSION,
            "status": one_of("lts", "production", "new_feature", "ended", "legacy"),
            "cuda": SERIES,
        },
        {"end_of_life": MONTH, "proprietary": nullable(capability_range), "open": nullable(capability_range)},
    ),
    "drivers.kernel_limits": row({"driver": VERSION}, {"packaging": WORD, "builds": KERNEL, "fails": KERNEL}),
    "drivers.rules": row({"id": SLUG, "rule": SENTENCE}, {"kernel": SERIES}),
    "cuda.toolkits": row(
        {"version": VERSION, "driver": VERSION, "capabilities": capability_range},
        {"driver_min": VERSION, "gcc_max": MAJOR, "clang_max": MAJOR, "runfile": RUNFILE},
    ),
    "cuda.rules": _RULE,
    "cuda.components": row(
        {"name": COMPONENT},
        {"from": SERIES, "to": SERIES, "arches": _ARCHES, "needed": boolean, "optional": boolean},
    ),
    "cuda.distribution": row(
        {
            "system": SLUG,
            "version": VERSION,
            "package": PACKAGE,
            "path": PATH,
            "components": several(SLUG, "name components, as [non-free]"),
        },
        {
            "cudnn": mapping(
                {"version": VERSION, "cuda_major": MAJOR, "package": PACKAGE},
                required=("version", "cuda_major", "package"),
            )
        },
    ),
    "cuda.forward_compatibility": row(
        {
            "package": PACKAGE,
            "cuda": SERIES,
            "branches": several(BRANCH, 'name driver branches, as ["535"]'),
            "capability_min": CAPABILITY,
        }
    ),
    "cudnn.ranges": row(
        {
            "first": VERSION,
            "last": VERSION,
            "cuda_majors": several(MAJOR, 'name CUDA majors, as ["12", "13"]'),
            "capabilities": open_capability_range,
        }
    ),
    "cudnn.releases": row(
        {"package": SLUG, "version": release, "cuda_major": MAJOR, "date": date, "arches": _ARCHES},
        {"capability_min": nullable(CAPABILITY), "yanked": boolean},
    ),
    "pytorch.releases": row(
        {
            "version": release,
            "date": date,
            "python": _PYTHONS,
            "glibc": SERIES,
            "default_cuda": VERSION,
            "aarch64_default": one_of("cuda", "cpu"),
            "tags": several(TAG, "name the CUDA builds, as [cu126, cu128]"),
        },
        {"cudnn": requirement(r"nvidia-cudnn-cu[0-9]{2}"), "triton": requirement("triton"), "yanked": boolean},
    ),
    "pytorch.wheels": row(
        {"release": SERIES, "tag": TAG, "cuda": SERIES},
        {
            "cudnn": VERSION,
            "sm": nullable(_CAPABILITIES),
            "ptx": nullable(CAPABILITY),
            "sm_aarch64": nullable(_CAPABILITIES),
            "status": one_of("legacy", "experimental", "unseen"),
        },
    ),
    "pytorch.companions": row({"torch": release, "torchvision": release, "torchaudio": release}),
    "pytorch.notes": _NOTE,
    "tensorflow.releases": row(
        {
            "version": release,
            "date": date,
            "python": _PYTHONS,
            "glibc": SERIES,
            "cuda": SERIES,
            "built_with_cudnn": SERIES,
            "driver_min": VERSION,
            "sm": nullable(_CAPABILITIES),
        },
        {
            "ptx": nullable(CAPABILITY),
            "cudnn": specifier,
            "bundled": boolean,
            "keras": specifier,
            "yanked": boolean,
            "unusable": SENTENCE,
        },
    ),
    "tensorflow.ptx_fails": mapping(
        {"capabilities": _CAPABILITIES, **_NOTED}, required=("capabilities", "note", "source")
    ),
    "tensorflow.notes": _NOTE,
    "jax.releases": row(
        {
            "version": release,
            "date": date,
            "python": several(PYTHON, 'name Pythons, as ["3.12"]'),
            "plugins": several(one_of("cuda12", "cuda13"), "name CUDA builds, as [cuda13, cuda12]"),
        },
        {
            "sm_cuda12": _CAPABILITIES,
            "ptx_cuda12": CAPABILITY,
            "cudnn_cuda12": specifier,
            "sm_cuda13": _CAPABILITIES,
            "ptx_cuda13": CAPABILITY,
            "cudnn_cuda13": specifier,
            "yanked": boolean,
        },
    ),
    "jax.plugins": row(
        {
            "plugin": one_of("cuda12", "cuda13"),
            "cuda_major": MAJOR,
            "driver_min": VERSION,
            "documented_min": CAPABILITY,
            "glibc": SERIES,
        }
    ),
    "jax.glibc": row({"first": release, "glibc": SERIES}),
    "jax.notes": _NOTE,
    "keras.releases": row({"version": release, "date": date, "requires_python": specifier}, {"yanked": boolean}),
    "keras.backends": row(
        {
            "first": release,
            "backends": map_of(one_of("tensorflow", "jax", "pytorch"), same_or_specifier, "frameworks to specifiers"),
        },
        {"last": release},
    ),
    "keras.notes": _NOTE,
    "pairs.pairs": row(
        {
            "first": requirement("|".join(FRAMEWORKS)),
            "build": one_of("and-cuda", "cuda12", "cuda13"),
            "second": one_of("pytorch", "jax"),
            "second_build": one_of("default", "cuda12", "cuda13"),
        },
        {
            "works": _RELEASES,
            "overwrite": _RELEASES,
            "pins": map_of(SENTENCE, _RELEASES, "clashing pins to releases"),
        },
    ),
    "pairs.collisions": row({"files": SENTENCE, "packages": _PACKAGES, "effect": SENTENCE}),
    "systems.systems": row(
        {
            "id": SLUG,
            "names": several(SYSTEM, "name values of ID in os-release, as [debian]"),
            "version": VERSION,
            "family": one_of(*FAMILIES),
            "kernel": SERIES,
            "gcc": VERSION,
            "glibc": SERIES,
            "python": PYTHON,
            "repository_arches": _ARCHES,
            "cuda_first": SERIES,
        },
        {
            "cuda_last": SERIES,
            "kernel_hwe": SERIES,
            "driver_guide": boolean,
            "module_streams": boolean,
            "compilers": several(
                mapping({"major": MAJOR, "packages": _PACKAGES, "cxx": PATH}, required=("major", "packages", "cxx")),
                'name compilers, as [{major: "13", packages: [gcc-13, g++-13], cxx: /usr/bin/g++-13}]',
            ),
            "distribution_drivers": several(
                mapping(
                    {
                        "branch": BRANCH,
                        "version": VERSION,
                        "modules": _MODULES,
                        "signed": boolean,
                        "suffix": SLUG,
                        "package_source": SENTENCE,
                    },
                    required=("branch", "modules"),
                ),
                'name drivers, as [{branch: "580", modules: [open]}]',
                empty_allowed=True,
            ),
        },
    ),
    "packages.driver": row(
        {
            "family": one_of(*FAMILIES),
            "origin": one_of("nvidia_repo", "distro"),
            "packages": _PACKAGES,
        },
        {
            "module": one_of(*MODULES),
            "from": BRANCH,
            "streams": boolean,
            "stream": PACKAGE,
            "names": several(SYSTEM, "name values of ID in os-release, as [debian]"),
            "signed": boolean,
            "suffix": boolean,
        },
    ),
    "packages.kernel_modules": row(_OF_FAMILY | _OF_ORIGIN | {"packages": _PACKAGES}, {"names": _SYSTEM_NAMES}),
    "packages.kernel_hold": row(_OF_FAMILY | {"packages": _PACKAGES}, {"names": _SYSTEM_NAMES}),
    "packages.package_version": row({"pattern": VERSION_PATTERN}, {"exact": boolean}),
    "packages.hold": row(
        _OF_FAMILY | {"patterns": several(PATTERN, 'name packages or patterns, as ["libnvidia-ml*"]')},
        {"beside": several(PATTERN, "name packages or patterns")},
    ),
    "packages.headers": row(_OF_FAMILY | {"packages": _PACKAGES}, {"kernels": PATTERN}),
    "packages.build": row(_OF_FAMILY | {"packages": _PACKAGES}, _OF_ORIGIN),
    "packages.repositories": row(
        {
            **_OF_ORIGIN,
            "systems": several(SLUG, "name systems, as [ubuntu2404]"),
            "kind": one_of("apt", "dnf"),
        },
        {
            "key": KEY_FILE,
            "fingerprints": several(FINGERPRINT, "name whole fingerprints, or [] for none known", empty_allowed=True),
            "components": several(SLUG, "name components, as [non-free]"),
            "requires": several(SLUG, "name other repositories, as [epel]"),
        },
    ),
    "packages.repository_urls": row(
        {"url": ADDRESS, "directories": map_of(one_of(*ARCHES), WORD, "machines to directories")}
    ),
    "packages.runfile": row({"file": PACKAGE, "url": ADDRESS, "sums": ENDING}),
    "packages.licenses": row({"module": one_of(*MODULES), "license": SENTENCE}),
    "packages.persistence": row(
        _OF_FAMILY | _OF_ORIGIN | {"packages": _PACKAGES}, {"names": _SYSTEM_NAMES, "to": BRANCH}
    ),
    "packages.dcgm": row({"cuda": MAJOR, "packages": _PACKAGES}),
    "packages.container_toolkit": row({"packages": _PACKAGES}),
    "packages.fabric_manager": row(
        {"package": PACKAGE},
        {"family": one_of(*FAMILIES), "origin": one_of("nvidia_repo", "distro"), "from": BRANCH},
    ),
    "packages.fabric_extra": row({"component": one_of("nvlsm", "nvidia-imex"), "package": PACKAGE}, {"to": BRANCH}),
    "packages.cuda_toolkit": row({"origin": one_of("nvidia_repo", "distro"), "package": PACKAGE, "hold": _HOLD}),
    "packages.cudnn": row(
        {"family": one_of(*FAMILIES), "packages": _PACKAGES, "version": VERSION_PATTERN, "hold": _HOLD},
        {"from_version": MAJOR},
    ),
    "packages.redist": row(
        {
            "product": one_of("cuda", "cudnn"),
            "url": ADDRESS,
            "first": SERIES,
            "platforms": map_of(one_of(*ARCHES), WORD, "machines to platforms"),
        }
    ),
    "packages.cuda_runfile": row(
        {
            "url": ADDRESS,
            "sums_url": ADDRESS,
            "sums": FILE_END,
            "endings": map_of(one_of(*ARCHES), FILE_END, "machines to the ends of names"),
        }
    ),
    "packages.compilers": row(_OF_FAMILY | {"packages": _PACKAGES}),
    "packages.space": row(
        {
            "for": one_of("driver", "next_kernel", "toolkit_packages", "toolkit_runfile"),
            "path": text(r"/[a-z]*", "a directory"),
            "mib": text(r"[1-9][0-9]{0,6}", 'a number of MiB, in quotes: "1024"'),
            "what": SENTENCE,
        }
    ),
    "packages.secure_boot": _RULE,
    "environments.frameworks": row(
        {
            "name": one_of(*FRAMEWORKS),
            "label": SENTENCE,
            "import": WORD,
            "package": PACKAGE,
            "cpu_package": map_of(one_of(*ARCHES), PACKAGE, "machines to packages"),
        },
        {"companions": _PACKAGES},
    ),
    "environments.extras": row({"name": SLUG, "packages": _PACKAGES}, {"with_pytorch": _PACKAGES}),
    "environments.cuda_packages": row({"prefix": PREFIX}),
}


def tables_of(file: str) -> dict[str, Reader]:
    """Return the readers of the tables of one file, by the name of the table."""
    return {
        name.partition(".")[2]: several(reader, "write rows, as [{...}], or [] for none", empty_allowed=True)
        for name, reader in ROWS.items()
        if name.partition(".")[0] == file
    }


def shipped_file(file: str) -> Reader:
    """Return the reader of one file of ``data/``: its date, its sources and all of its tables."""
    fields = {"as_of": date, "sources": map_of(SLUG, SENTENCE, "short names to sources"), **tables_of(file)}
    return mapping(fields, required=tuple(fields))


def overlay() -> Reader:
    """Return the reader of a lab's overlay: some rows of some tables of some files."""
    files = dict.fromkeys(name.partition(".")[0] for name in ROWS)
    return mapping({file: mapping(tables_of(file)) for file in files})
