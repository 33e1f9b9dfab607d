# SPDX-License-Identifier: Apache-2.0
"""Hosts: what the engine wants to know of one, read from a declaration or from the facts of the module
``gpu_facts``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_compat.errors import CompatError, Mistake
from gpu_compat.gpus import Gpu, UnknownGpuError, identify
from gpu_compat.installed import Compilers, kept_compilers, kept_cudnn, kept_toolkits
from gpu_compat.schema import boolean, kind, list_of, mapping, nearest, one_of, quote_it, text
from gpu_compat.tables import ARCHES, Row, Tables, shipped
from gpu_compat.versions import numbers

_HOW_TO_NAME_A_GPU = 'must be a product ("RTX 3090"), a PCI id ("10de:2204") or {compute_capability: "8.6"}'
_ALIASES = {
    "rocky": "rhel",
    "almalinux": "rhel",
    "alma": "rhel",
    "centos": "rhel",
    "ol": "rhel",
    "oracle": "rhel",
    "redhat": "rhel",
}


@dataclass(frozen=True)
class Interpreter:
    """A Python of a host: its minor version ("3.12"), where it is, and whether it has its venv module."""

    version: str
    path: str | None = None
    venv: bool = True


@dataclass(frozen=True)
class Host:
    """What a host is. None means not known, and what is not known forbids nothing.

    Attributes:
        system: the row of ``systems.systems``.
        os_name: the system as the user or the host calls it.
        gpus: None where it is not known whether there are any.
        pythons: interpreters it has; None: any may be installed.
        may_install_python: interpreters may be added to those it has.
        built_with: the Python that an environment of this project was built with, by its name.
        problem: why ``gpus`` is None.
        next_boot_kernel: the kernel that the boot loader takes next.
        container: the kind of container that the host is, so that its kernel is another's: "docker", "wsl".
        driver: what is installed, in a container what is loaded.
        driver_source: where that came from: nvidia_repo, distro or runfile.
        loaded: the driver that is loaded, with its flavour in ``loaded_module``.
        driver_stays: nobody who logs in may become root, so no driver can be installed.
        declared: taken from the inventory, the host itself has not been asked.
        scope: "system", or "user": everything lies below ``base_dir``, and nothing needs root.
        base_dir: where this project keeps its files.
        toolkits: CUDA toolkits on disk: series and source, of somebody's own version and path as well.
        cudnn: the CUDA majors that a system-wide cuDNN is there for, with its source.
        compilers: None where they are not known.
    """

    system: Row | None = None
    os_name: str = ""
    arch: str | None = None
    kernel: str | None = None
    glibc: str | None = None
    gpus: tuple[Gpu, ...] | None = ()
    pythons: tuple[Interpreter, ...] | None = None
    may_install_python: bool = True
    driver: str | None = None
    kernel_module: str | None = None
    secure_boot: bool | None = None
    nvswitch: bool = False
    built_with: tuple[tuple[str, str], ...] = ()
    other_gpus: tuple[str, ...] = ()
    problem: str = ""
    next_boot_kernel: str | None = None
    container: str | None = None
    driver_source: str | None = None
    loaded: str | None = None
    loaded_module: str | None = None
    driver_stays: bool = False
    declared: bool = False
    scope: str = "system"
    base_dir: str = "/opt/gpulab"
    toolkits: tuple[tuple[str, str, str | None, str | None], ...] = ()
    cudnn: tuple[tuple[str, str], ...] = ()
    compilers: Compilers | None = None
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def machine(self) -> str:
        """The machine, x86_64 where nothing else is known."""
        return self.arch or ARCHES[0]

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernels that a module must exist for: the one of the next boot, and the running one."""
        return tuple(dict.fromkeys(kernel for kernel in (self.next_boot_kernel, self.kernel) if kernel))

    def container_words(self) -> str:
        """Say that the host is a container, and of which kind."""
        kind_of = "WSL" if self.container == "wsl" else f"a container ({self.container})"
        return f"the host is {kind_of}"

    @property
    def libc(self) -> str | None:
        """The version of the C library: the host's own, else its system's."""
        return self.glibc or (self.system["glibc"] if self.system else None)


def read_host(value: Any, tables: Tables | None = None) -> Host:
    """Read a declared host strictly.

    Args:
        value: plain data with the keys os, arch, kernel, next_boot_kernel, glibc, gpus, python, driver, kernel_module,
            secure_boot, nvswitch; all optional.

    Raises:
        CompatError: with every mistake found, paths beginning with ``host``.
    """
    tables = tables or shipped()
    mistakes: list[Mistake] = []
    read = _HOST({} if value is None else value, "host", mistakes)
    system, os_name = _system(read.get("os"), tables, mistakes)
    gpus = [_gpu(said, f"host.gpus[{index}]", tables, mistakes) for index, said in enumerate(read.get("gpus") or ())]
    if mistakes:
        raise CompatError(mistakes)
    pythons = read.get("python")
    return Host(
        system=system,
        os_name=os_name,
        arch=read.get("arch"),
        kernel=read.get("kernel"),
        next_boot_kernel=read.get("next_boot_kernel"),
        glibc=read.get("glibc"),
        gpus=tuple(gpu for gpu in gpus if gpu),
        pythons=None if pythons is None else tuple(Interpreter(version) for version in pythons),
        may_install_python=pythons is None,
        driver=read.get("driver"),
        kernel_module=read.get("kernel_module"),
        loaded=read.get("driver"),
        loaded_module=read.get("kernel_module"),
        secure_boot=read.get("secure_boot"),
        nvswitch=bool(read.get("nvswitch")),
        declared=True,
        warnings=() if read.get("gpus") is not None else ("host.gpus is not given: planned as a host without a GPU",),
    )


def host_from_facts(facts: Mapping[str, Any], tables: Tables | None = None, *, container_is_host: bool = False) -> Host:
    """Turn the facts of the module ``gpu_facts`` into a host. Nothing in them is a mistake of the user's.

    Args:
        facts: of any schema; what is missing is not known.
        tables: the tables, the shipped ones if not given.
        container_is_host: a container stands for a machine, so the kernel module is its own business.
    """
    tables = tables or shipped()
    system_facts = facts.get("os") or {}
    system = find_system(system_facts.get("id") or "", system_facts.get("version") or "", tables)
    gpus = facts.get("gpus")
    driver = facts.get("driver") or {}
    container = None if container_is_host else facts.get("container")
    loaded, loaded_module = driver.get("loaded_version"), driver.get("module")
    installed, module = driver.get("installed_version") or loaded, driver.get("installed_module")
    if container:
        installed, module = loaded, loaded_module
    elif installed == loaded:
        module = module or loaded_module
    pythons = [row for row in facts.get("pythons") or () if row.get("usable")]
    switches = {row["pci"] for row in tables.rows("gpus.nvswitches")}
    return Host(
        system=system,
        os_name=system_facts.get("name") or "",
        arch=facts.get("arch"),
        kernel=facts.get("kernel"),
        glibc=facts.get("glibc"),
        gpus=None
        if gpus is None
        else tuple(identify(f"{_hex(gpu['vendor'])}:{_hex(gpu['device'])}", tables) for gpu in gpus),
        pythons=tuple(Interpreter(row["minor"], row.get("path"), bool(row.get("venv", True))) for row in pythons),
        driver=installed,
        kernel_module=module,
        next_boot_kernel=next_boot_kernel(facts),
        container=container,
        driver_source=driver.get("source"),
        loaded=loaded,
        loaded_module=loaded_module,
        driver_stays=facts.get("scope") == "user",
        scope="user" if facts.get("scope") == "user" else "system",
        base_dir=str(facts.get("base_dir") or "/opt/gpulab"),
        toolkits=kept_toolkits(facts),
        cudnn=kept_cudnn(facts),
        compilers=kept_compilers(facts),
        secure_boot=facts.get("secure_boot"),
        nvswitch=any(
            f"{_hex(row['vendor'])}:{_hex(row['device'])}" in switches for row in facts.get("nvswitches") or ()
        ),
        built_with=tuple(
            (name, row["python"]) for name, row in (facts.get("environments") or {}).items() if row.get("python")
        ),
        other_gpus=tuple(gpu["name"] for gpu in facts.get("other_gpus") or ()),
        problem=(facts.get("unknown") or {}).get("gpus", "no reason given") if gpus is None else "",
    )


def next_boot_kernel(facts: Mapping[str, Any]) -> str | None:
    """Return the kernel that the boot loader takes next, None where that is not known."""
    rows = facts.get("kernels") or ()
    return next((row["release"] for row in rows if row.get("next_boot") and row["release"][:1].isdigit()), None)


def find_system(name: str, version: str, tables: Tables) -> Row | None:
    """Find the row of a system by ID and VERSION_ID of os-release, as ``("ubuntu", "24.04")`` or ``("rocky",
    "9.5")``."""
    for row in tables.rows("systems.systems"):
        wanted = row["version"]
        if name.lower() in row["names"] and (version == wanted or version.startswith(f"{wanted}.")):
            return row
    return None


def _hex(number: str | None) -> str:
    """Return four hexadecimal digits; what could not be read is a device that nobody knows."""
    return (number or "").removeprefix("0x").rjust(4, "0").lower()


def _gpu(said: Any, path: str, tables: Tables, mistakes: list[Mistake]) -> Gpu | None:
    if not isinstance(said, (str, Mapping)) or not said or (isinstance(said, str) and not said.strip()):
        return None  # a mistake that is in the list already
    if isinstance(said, Mapping) and not isinstance(said.get("compute_capability"), str):
        return None
    try:
        return identify(said, tables)
    except UnknownGpuError as error:
        mistakes.append(Mistake(path, str(error)))
    except ValueError:
        pass  # a compute capability that is in the list already
    return None


def _system(value: Any, tables: Tables, mistakes: list[Mistake]) -> tuple[Row | None, str]:
    """Return the row of a system and what it was called."""
    if isinstance(value, Mapping):
        name, version = value.get("distribution"), value.get("version")
        if not isinstance(name, str) or not isinstance(version, str):
            return None, ""
        return find_system(_os_release_id(name), version, tables), f"{name} {version}"
    if not isinstance(value, str):
        return None, ""
    found = re.fullmatch(r"([a-z-]+?)-?(\d[\d.]*)", value.lower())
    known = [str(row["id"]) for row in tables.rows("systems.systems")]
    if found:
        name, version = _ALIASES.get(found.group(1), found.group(1)), found.group(2)
        wanted = f"{name}{version.replace('.', '') if name == 'ubuntu' else version.split('.')[0]}"
        for row in tables.rows("systems.systems"):
            if row["id"] == wanted:
                return row, value
    mistakes.append(Mistake("host.os", f"'{value}' is not known; {nearest(value, known)}"))
    return None, value


def _os_release_id(name: str) -> str:
    """Return ID of os-release for a name as Ansible or a person writes it."""
    lowered = name.lower().strip()
    for words, identifier in (
        (("red hat", "redhat", "rhel"), "rhel"),
        (("alma",), "almalinux"),
        (("rocky",), "rocky"),
        (("oracle",), "ol"),
        (("amazon",), "amzn"),
        (("suse linux enterprise", "sles"), "sles"),
        (("azure",), "azurelinux"),
    ):
        if any(word in lowered for word in words):
            return identifier
    return "opensuse-leap" if "opensuse" in lowered else lowered.split(" ")[0]


# --- the declared host, strictly ---------------------------------------------------------------------------------


def _optional(reader: Any) -> Any:
    """Let a key be null, which means: not known."""
    return lambda value, path, mistakes: None if value is None else reader(value, path, mistakes)


def _os(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    if isinstance(value, Mapping):
        fields = {
            "distribution": text(r"\S.*", 'a name such as "Ubuntu"'),
            "version": text(r"\d[\w.]*", 'a version such as "24.04"'),
        }
        return mapping(fields, required=("distribution", "version"))(value, path, mistakes)
    if not isinstance(value, str):
        mistakes.append(
            Mistake(
                path,
                f'must be ubuntu2404, say, or {{distribution: Ubuntu, version: "24.04"}}, but is {kind(value)}',
            )
        )
    return value


def _gpu_said(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    if isinstance(value, Mapping):
        fields = {"compute_capability": text(r"\d{1,2}\.\d", 'a compute capability such as "8.6"')}
        return mapping(fields, required=("compute_capability",))(value, path, mistakes)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        mistakes.append(Mistake(path, quote_it(value)))
    elif not isinstance(value, str) or not value.strip():
        mistakes.append(
            Mistake(
                path,
                f"{_HOW_TO_NAME_A_GPU}, but is {kind(value)}",
            )
        )
    return value


def _pythons(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    one = text(r"3\.[0-9]{1,2}(\.[0-9]{1,5})?", 'a Python version such as "3.12"')
    many: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value]
    if not many:
        mistakes.append(Mistake(path, "the list is empty; write null where any Python may be installed"))
    read = [one(version, f"{path}[{index}]" if many is value else path, mistakes) for index, version in enumerate(many)]
    return [
        ".".join(map(str, numbers(version)[:2]))
        for version in read
        if isinstance(version, str) and version[:1] == "3" and version[1:2] == "." and version[2:3].isdecimal()
    ]


_KERNEL = text(r"[0-9]{1,5}\.[0-9]{1,5}.{0,100}", 'a Linux version such as "6.8.0-45-generic"')
_HOST = mapping(
    {
        "os": _optional(_os),
        "arch": _optional(one_of(*ARCHES)),
        "kernel": _optional(_KERNEL),
        "next_boot_kernel": _optional(_KERNEL),
        "glibc": _optional(text(r"[0-9]{1,5}\.[0-9]{1,5}", 'a version of the GNU C library such as "2.36"')),
        "gpus": _optional(list_of(_gpu_said, empty_allowed=True, hint='write ["RTX 3090"], or [] for none')),
        "python": _optional(_pythons),
        "driver": _optional(
            text(
                r"[0-9]{3,4}(\.[0-9]{1,9}){1,5}",
                'a driver version such as "580.126.09", or null where none is installed',
            )
        ),
        "kernel_module": _optional(one_of("open", "proprietary")),
        "secure_boot": _optional(boolean),
        "nvswitch": _optional(boolean),
    }
)
