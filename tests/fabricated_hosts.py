# SPDX-License-Identifier: Apache-2.0
"""Hosts that are made of files: what the kernel, the boot loader, packages and NVIDIA's driver leave on a disk.

A tree is read by ``gpu_facts`` with ``root: TREE``. In a container the same tree can be laid over the kernel's own
files (:data:`MOUNTS`), so that the host has the hardware for everybody who asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

NVIDIA = "0x10de"
#: What is mounted over the files of a container, relative to the tree and to the container's root.
MOUNTS = ("sys/bus/pci/devices", "sys/module", "proc/driver", "proc/sys/kernel/osrelease")
#: A link to the bus: speed, width, and what both could be.
Link = tuple[str, int, str, int]
GEN3: Link = ("8.0 GT/s PCIe", 16, "8.0 GT/s PCIe", 16)
GEN4: Link = ("16.0 GT/s PCIe", 16, "16.0 GT/s PCIe", 16)
GEN5: Link = ("32.0 GT/s PCIe", 16, "32.0 GT/s PCIe", 16)
OPEN, PROPRIETARY = "Dual MIT/GPL", "NVIDIA"
SYSTEMS = {
    "debian12": ("6.1.0-25-amd64", 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n'),
    "ubuntu2404": (
        "6.8.0-45-generic",
        'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n',
    ),
    "rocky9": (
        "5.14.0-503.11.1.el9_5.x86_64",
        'PRETTY_NAME="Rocky Linux 9.5"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.5"\n',
    ),
}


def write(root: Path, path: str, content: str | bytes = "") -> Path:
    """Write one file of the tree, and the directories that it lies in."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def link(root: Path, path: str, target: str) -> None:
    """Make one symbolic link of the tree."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


def plain(root: Path, system: str = "ubuntu2404") -> str:
    """Make a host without a GPU, with one kernel that runs and boots next; return its release."""
    release, os_release = SYSTEMS[system]
    write(root, "etc/os-release", os_release)
    write(root, "etc/passwd", "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada:/home/ada:/bin/bash\n")
    write(root, "proc/sys/kernel/osrelease", f"{release}\n")
    write(root, "proc/sys/kernel/random/boot_id", "7a1f6f6e-9f54-4a6c-8c43-0d2f7d2a3b11\n")
    write(root, "proc/uptime", "5000.25 19000.00\n")
    write(root, "proc/cmdline", f"BOOT_IMAGE=/boot/vmlinuz-{release} root=/dev/sda1 ro quiet\n")
    write(root, "proc/locks")
    (root / "sys/bus/pci/devices").mkdir(parents=True)
    (root / "sys/module").mkdir(parents=True)
    (root / "proc/driver").mkdir(parents=True)
    (root / "sys/fs/cgroup/system.slice").mkdir(parents=True)
    for directory in ("tmp", "var/lib", "usr/bin", "boot"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    if system == "rocky9":
        write(root, "boot/grub2/grubenv", f"# GRUB Environment Block\nsaved_entry=0123abcd-{release}\n{'#' * 900}")
    else:
        write(root, "etc/default/grub", 'GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
        package(root, "dpkg", "1.22.6ubuntu6.1")
    kernel(root, release)
    # The display chip of a server's management controller is no GPU.
    pci_function(root, "0000:02:00.0", "0x1a03", "0x2000", "0x030000", driver="ast")
    return release


def kernel(root: Path, release: str, *, headers: bool = True, image: bool = True) -> None:
    """Install a kernel, as packages of the distribution do."""
    red_hat = "el" in release
    write(root, f"lib/modules/{release}/modules.dep")
    (root / f"lib/modules/{release}/kernel").mkdir()
    if image:
        write(root, f"boot/vmlinuz-{release}")
        write(root, f"boot/initramfs-{release}.img" if red_hat else f"boot/initrd.img-{release}", "an initramfs")
    if image and red_hat:
        text = f"title Rocky Linux ({release})\nversion {release}\nlinux /vmlinuz-{release}\n"
        write(root, f"boot/loader/entries/0123abcd-{release}.conf", text)
    if headers:
        place = f"usr/src/kernels/{release}" if red_hat else f"usr/src/linux-headers-{release}"
        write(root, f"{place}/Makefile")
        link(root, f"lib/modules/{release}/build", f"/{place}")


def pci_function(
    root: Path,
    bus: str,
    vendor: str,
    device: str,
    class_: str,
    *,
    subsystem: str | None = None,
    driver: str | None = None,
    link: Link | None = None,
) -> None:
    """Put a function on the PCI bus. ``subsystem`` is written ``10de:1467``."""
    place = f"sys/bus/pci/devices/{bus}"
    files = {"vendor": vendor, "device": device, "class": class_}
    if subsystem:
        files["subsystem_vendor"], files["subsystem_device"] = (f"0x{part}" for part in subsystem.split(":"))
    if link:
        names = ("current_link_speed", "current_link_width", "max_link_speed", "max_link_width")
        files.update(zip(names, map(str, link), strict=True))
    for name, value in files.items():
        write(root, f"{place}/{name}", f"{value}\n")
    write(root, f"{place}/modalias", f"pci:v{vendor[2:]:0>8}d{device[2:]:0>8}\n")
    if driver:
        (root / place / "driver").symlink_to(f"../../../../bus/pci/drivers/{driver}")


def loaded_driver(root: Path, version: str, licence: str = OPEN) -> None:
    """Load NVIDIA's kernel module."""
    flavour = "NVIDIA UNIX Open Kernel Module for x86_64" if licence == OPEN else "NVIDIA UNIX x86_64 Kernel Module"
    write(root, "sys/module/nvidia/version", f"{version}\n")
    write(root, "sys/module/nvidia/refcnt", "0\n")
    write(root, "proc/driver/nvidia/version", f"NVRM version: {flavour}  {version}  Release Build\n")


def library(root: Path, version: str, place: str = "usr/lib/x86_64-linux-gnu") -> None:
    """Install the library that programs ask the driver with."""
    write(root, f"{place}/libnvidia-ml.so.{version}", "a library")
    (root / place / "libnvidia-ml.so.1").unlink(missing_ok=True)
    link(root, f"{place}/libnvidia-ml.so.1", f"libnvidia-ml.so.{version}")


def package(
    root: Path, name: str, version: str, status: str = "install ok installed", maintainer: str = "", arch: str = "amd64"
) -> None:
    """Write a package into dpkg's status file."""
    file = root / "var/lib/dpkg/status"
    before = file.read_text() if file.exists() else ""
    fields = f"Package: {name}\nStatus: {status}\nMaintainer: {maintainer or 'A Person <a@b.org>'}\n"
    text = f"{fields}Architecture: {arch}\nVersion: {version}\nDescription: a package\n of more lines\n\n"
    write(root, "var/lib/dpkg/status", before + text)


def elf_module(said: Iterable[tuple[str, str]], *, signed: bool = False) -> bytes:
    """Return a kernel module that holds nothing but what it says of itself."""
    modinfo = b"".join(f"{name}={value}".encode() + b"\0" for name, value in said)
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(modinfo) + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 2, 0, 64, len(modinfo), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, 64 + len(modinfo), len(names), 0, 0, 1, 0)
    tail = b"a signature~Module signature appended~\n" if signed else b""
    return header + modinfo + names + sections + tail


def kernel_module(
    root: Path, release: str, version: str, licence: str = OPEN, place: str = "updates/dkms/nvidia.ko"
) -> Path:
    """Install NVIDIA's kernel module for one kernel."""
    said = [("firmware", "nvidia/gsp.bin"), ("version", version), ("license", licence), ("supported", "external")]
    path = f"lib/modules/{release}/{place}"
    write(root, f"lib/modules/{release}/modules.dep", f"{place}:\n")
    return write(root, path, elf_module(said))


def dkms_module(root: Path, module: str, version: str, kernels: Iterable[str], *, arch: str = "x86_64") -> None:
    """Add a module to DKMS, built and installed for some kernels."""
    link(root, f"var/lib/dkms/{module}/{version}/source", f"/usr/src/{module}-{version}")
    for release in kernels:
        write(root, f"var/lib/dkms/{module}/{version}/{release}/{arch}/module/nvidia.ko", "a module")
        link(root, f"var/lib/dkms/{module}/kernel-{release}-{arch}", f"{version}/{release}/{arch}")


def process(
    root: Path,
    pid: int,
    name: str,
    command: str,
    *,
    uid: int = 1000,
    devices: Iterable[str] = (),
    mapped: Iterable[str] = (),
    state: str = "S",
    age_s: int = 100,
) -> None:
    """Run a process that holds files open. The clock of the tree says that the host has run for 5000 seconds."""
    write(root, f"proc/{pid}/comm", f"{name[:15]}\n")
    write(root, f"proc/{pid}/cmdline", command.replace(" ", "\0") + "\0")
    write(root, f"proc/{pid}/status", f"Name:\t{name[:15]}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    zeros = " ".join("0" * 18)
    write(root, f"proc/{pid}/stat", f"{pid} ({name[:15]}) {state} {zeros} {(5000 - age_s) * 100} 0 0\n")
    lines = [f"7f0000000000-7f0000001000 rw-s 00000000 00:05 {number} {path}\n" for number, path in enumerate(mapped)]
    write(root, f"proc/{pid}/maps", "".join(lines))
    (root / f"proc/{pid}/fd").mkdir()
    for number, path in enumerate(("/dev/null", *devices)):
        (root / f"proc/{pid}/fd/{number}").symlink_to(path)


def unit(root: Path, name: str, *, enabled: bool, active: bool) -> None:
    """Install a service."""
    write(root, f"usr/lib/systemd/system/{name}.service", "[Service]\nExecStart=/bin/true\n")
    if enabled:
        place = f"etc/systemd/system/multi-user.target.wants/{name}.service"
        link(root, place, f"/usr/lib/systemd/system/{name}.service")
    if active:
        write(root, f"sys/fs/cgroup/system.slice/{name}.service/cgroup.procs", "812\n")


# --- CUDA ------------------------------------------------------------------------------------------------------------

BASE = "opt/gpulab"
STAMP = "20261123T120000Z"


def toolkit(root: Path, version: str, *, default: bool = False) -> None:
    """Install a CUDA toolkit as NVIDIA's runfile does: no package owns it."""
    place = f"usr/local/cuda-{series(version)}"
    write(root, f"{place}/version.json", '{"cuda": {"name": "CUDA SDK", "version": "%s"}}' % version)
    write(root, f"{place}/bin/nvcc")
    write(root, f"{place}/lib64/stubs/libcuda.so", "a stub")
    if default:
        default_toolkit(root, f"/{place}", alternatives=True)


def series(version: str) -> str:
    """Return 12.9 of 12.9.1."""
    return ".".join(version.split(".")[:2])


def default_toolkit(root: Path, target: str, *, alternatives: bool = False, prefix: str = "usr/local") -> None:
    """Let ``cuda`` lead to a toolkit, by way of update-alternatives where that keeps the link."""
    (root / prefix / "cuda").unlink(missing_ok=True)
    if not alternatives:
        link(root, f"{prefix}/cuda", target)
        return
    link(root, "usr/local/cuda", "/etc/alternatives/cuda")
    (root / "etc/alternatives/cuda").unlink(missing_ok=True)
    link(root, "etc/alternatives/cuda", target)
    choices = sorted(f"/usr/local/{file.name}" for file in (root / "usr/local").glob("cuda-*"))
    text = "".join(f"{choice}\n{100 + number}\n" for number, choice in enumerate(choices))
    write(root, "var/lib/dpkg/alternatives/cuda", f"auto\n/usr/local/cuda\n\n{text}\n")


def packaged_toolkit(root: Path, version: str, *, default: bool = False, held: bool = False) -> None:
    """Install a CUDA toolkit from NVIDIA's repository for Debian or Ubuntu."""
    toolkit(root, version, default=default)
    place, dashed = f"usr/local/cuda-{series(version)}", series(version).replace(".", "-")
    status = "hold ok installed" if held else "install ok installed"
    for name in ("cuda-toolkit", "cuda-nvcc", "cuda-cudart-dev", "libcublas", "libcublas-dev"):
        package(root, f"{name}-{dashed}", f"{version}-1", status, "cudatools <cudatools@nvidia.com>")
    owned_files(root, f"cuda-nvcc-{dashed}", f"/{place}/bin/nvcc")


def owned_files(root: Path, name: str, *paths: str) -> None:
    """Write dpkg's list of the files of a package."""
    write(root, f"var/lib/dpkg/info/{name}.list", "".join(f"{path}\n" for path in ("/.", *paths)))


def distribution_toolkit(root: Path, version: str = "12.0.140") -> None:
    """Install Debian's or Ubuntu's own toolkit, whose parts lie in the directories of the system."""
    write(root, "usr/lib/cuda/version.txt", f"CUDA Version {version}\n")
    write(root, "usr/bin/nvcc")
    package(root, "nvidia-cuda-toolkit", f"{version}~{series(version)}.1-4build4")
    owned_files(root, "nvidia-cuda-toolkit", "/usr/bin/nvcc")


def generation(
    root: Path,
    product: str,
    version: str,
    *,
    cuda_major: int | None = None,
    digest: str = "d1",
    components: dict[str, str] | None = None,
    half_made: bool = False,
    base: str = BASE,
    stamp: str = STAMP,
) -> str:
    """Unpack a toolkit or cuDNN of archives as this project does; return its path. Half-made, it has no manifest."""
    major = cuda_major or int(version.split(".")[0])
    middle = f"-cuda{major}" if product == "cudnn" else ""
    name = f"{product}-{version}{middle}-{stamp}"
    place = f"{base}/toolkits/{name}"
    if product == "cuda":
        write(root, f"{place}/version.json", '{"cuda": {"name": "CUDA SDK", "version": "%s"}}' % version)
        write(root, f"{place}/bin/nvcc")
        write(root, f"{place}/lib/stubs/libcuda.so", "a stub")
        (root / place / "include").mkdir()
    else:
        cudnn_files(root, version, f"{place}/include", f"{place}/lib")
    link(root, f"{place}/lib64", "lib")
    if not half_made:
        made = components or (
            {"cuda_nvcc": version, "cuda_cudart": version} if product == "cuda" else {"cudnn": version}
        )
        manifest = {
            "schema": 1,
            "state": "complete",
            "product": product,
            "version": version,
            "cuda_major": major,
            "components": made,
            "digest": digest,
            "archives": [{"component": part, "file": f"{part}.tar.xz", "sha256": "0" * 64} for part in made],
            "files": {"bin/nvcc": (root / place / "bin/nvcc").stat().st_size} if product == "cuda" else {},
        }
        write(root, f"{place}/archive.json", json.dumps(manifest))
    return f"/{place}"


def store_toolkit(
    root: Path,
    version: str,
    *,
    default: bool = False,
    digest: str = "d1",
    components: dict[str, str] | None = None,
    prefix: str = "usr/local",
    base: str = BASE,
) -> str:
    """Install a toolkit of archives with the link that people use; return the generation's path."""
    path = generation(root, "cuda", version, digest=digest, components=components, base=base)
    link(root, f"{prefix}/cuda-{series(version)}", path)
    if default:
        default_toolkit(root, f"cuda-{series(version)}", prefix=prefix)
    return path


def cudnn_files(root: Path, version: str, include: str, lib: str) -> None:
    """Write cuDNN's header and libraries with their links."""
    major, minor, patch = version.split(".")[:3]
    numbers = zip(("MAJOR", "MINOR", "PATCHLEVEL"), (major, minor, patch), strict=True)
    write(root, f"{include}/cudnn_version.h", "".join(f"#define CUDNN_{part} {number}\n" for part, number in numbers))
    write(root, f"{include}/cudnn.h", '#include "cudnn_version.h"\n')
    for name in ("libcudnn", "libcudnn_ops"):
        write(root, f"{lib}/{name}.so.{major}.{minor}.{patch}", "a library")
        link(root, f"{lib}/{name}.so.{major}", f"{name}.so.{major}.{minor}.{patch}")
        link(root, f"{lib}/{name}.so", f"{name}.so.{major}")


def store_cudnn(root: Path, version: str, cuda_major: int, *toolkits: str, digest: str = "d2", base: str = BASE) -> str:
    """Unpack cuDNN of an archive and link it into toolkits (``/usr/local/cuda-12.9``); return the generation's path."""
    path = generation(root, "cudnn", version, cuda_major=cuda_major, digest=digest, base=base)
    for place in toolkits:
        for directory, target in (("include", "include"), ("lib64", "lib")):
            inside = _inside(root, f"{place[1:]}/{directory}")
            for file in sorted((root / path[1:] / target).iterdir()):
                link(root, f"{inside}/{file.name}", f"{path}/{target}/{file.name}")
    return path


def _inside(root: Path, path: str) -> str:
    """Return where a path lies when the links on its way are followed as the host would: never out of the tree."""
    done = ""
    for part in path.split("/"):
        done = f"{done}/{part}".lstrip("/")
        while (root / done).is_symlink():
            done = os.path.normpath(os.path.join("/", os.path.dirname(done), (root / done).readlink()))[1:]
    return done


def packaged_cudnn(root: Path, version: str, cuda_major: int, *, held: bool = False) -> None:
    """Install cuDNN from NVIDIA's repository for Debian or Ubuntu."""
    multiarch = "x86_64-linux-gnu"
    cudnn_files(root, version, f"usr/include/{multiarch}", f"usr/lib/{multiarch}")
    status = "hold ok installed" if held else "install ok installed"
    short, major = ".".join(version.split(".")[:3]), version.split(".")[0]
    for name, path in (
        (f"libcudnn{major}-cuda-{cuda_major}", f"/usr/lib/{multiarch}/libcudnn.so.{short}"),
        (f"libcudnn{major}-dev-cuda-{cuda_major}", f"/usr/include/{multiarch}/cudnn_version.h"),
    ):
        package(root, name, f"{version}-1", status, "cudatools <cudatools@nvidia.com>")
        owned_files(root, name, path)


def gcc(root: Path, major: str, *, default: bool = False, cxx: bool = True) -> None:
    """Install a compiler as Debian and Ubuntu do: programs by version, and links for the default."""
    for program in ("gcc", "g++") if cxx else ("gcc",):
        write(root, f"usr/bin/x86_64-linux-gnu-{program}-{major}")
        link(root, f"usr/bin/{program}-{major}", f"x86_64-linux-gnu-{program}-{major}")
        if default:
            link(root, f"usr/bin/{program}", f"{program}-{major}")


def red_hats_gcc(root: Path, major: str, *, toolset: bool = False) -> None:
    """Install a compiler as Red Hat does: the system's own, or one beside it."""
    prefix = f"opt/rh/gcc-toolset-{major}/root/usr" if toolset else "usr"
    machine = f"{platform.machine()}-redhat-linux"
    for program in ("gcc", "g++"):
        write(root, f"{prefix}/bin/{program}")
    (root / prefix / f"bin/{machine}-gcc-{major}").hardlink_to(root / prefix / "bin/gcc")
    (root / prefix / f"lib/gcc/{machine}/{major}").mkdir(parents=True)
    write(root, f"{prefix}/libexec/gcc/{machine}/{major}/cc1")


def clang(root: Path, major: str, *, default: bool = False) -> None:
    """Install clang as Debian and Ubuntu do."""
    write(root, f"usr/lib/llvm-{major}/bin/clang")
    link(root, f"usr/lib/llvm-{major}/bin/clang++", "clang")
    link(root, f"usr/bin/clang++-{major}", f"../lib/llvm-{major}/bin/clang++")
    if default:
        link(root, "usr/bin/clang++", f"../lib/llvm-{major}/bin/clang++")


def ld_so_conf(root: Path, name: str, *directories: str) -> None:
    """Put directories into the loader's configuration: ``/etc/ld.so.conf.d/<name>``."""
    write(root, "etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n")
    write(root, f"etc/ld.so.conf.d/{name}", "".join(f"{directory}\n" for directory in directories))


def library_path(root: Path, name: str, *directories: str) -> None:
    """Set LD_LIBRARY_PATH for every login: ``/etc/profile.d/<name>``."""
    before = "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    write(root, f"etc/profile.d/{name}", f"export LD_LIBRARY_PATH={':'.join(directories)}{before}\n")


def record(
    root: Path,
    role: str,
    *,
    files: Iterable[str] = (),
    links: dict[str, str] | None = None,
    place: str = "var/lib/gpulab",
    **more: Any,
) -> dict[str, Any]:
    """Write what the role ``cuda_toolkit`` or ``cudnn`` notes, with the checksums of files as they are now."""
    sums = {path: hashlib.sha256((root / path.lstrip("/")).read_bytes()).hexdigest() for path in files}
    note: dict[str, Any] = {"schema": 1, "digest": "d3", "files": sums, "links": links or {}, **more}
    write(root, f"{place}/{role}.json", json.dumps(note))
    return note


# --- hosts by name ---------------------------------------------------------------------------------------------------


def _gpu(root: Path, bus: str, device: str, class_: str, subsystem: str, bus_link: Link, driver: str | None) -> None:
    pci_function(root, bus, NVIDIA, device, class_, subsystem=subsystem, driver=driver, link=bus_link)


def gtx_1080_ti(root: Path, driver: str | None = "nouveau") -> None:
    """A workstation with one GeForce GTX 1080 Ti and its sound function, driven by nouveau."""
    plain(root)
    slow: Link = ("2.5 GT/s PCIe", 16, "8.0 GT/s PCIe", 16)
    _gpu(root, "0000:01:00.0", "0x1b06", "0x030000", "1458:376a", slow, driver)
    pci_function(root, "0000:01:00.1", NVIDIA, "0x10ef", "0x040300", driver="snd_hda_intel")
    if driver == "nouveau":
        write(root, "sys/module/nouveau/refcnt", "1\n")


def k80(root: Path) -> None:
    """A server with one Tesla K80, a board of two GPUs."""
    plain(root)
    for bus in ("0000:05:00.0", "0000:06:00.0"):
        _gpu(root, bus, "0x102d", "0x030200", "10de:106c", GEN3, None)


def p100_and_a100(root: Path) -> None:
    """A server with a P100 and an A100."""
    plain(root)
    _gpu(root, "0000:3b:00.0", "0x15f8", "0x030200", "10de:118f", GEN3, "nvidia")
    _gpu(root, "0000:af:00.0", "0x20f1", "0x030200", "10de:145f", GEN4, "nvidia")


def h100_hgx(root: Path, version: str | None = "580.126.09") -> None:
    """A server with eight H100 and four NVSwitches, its driver installed and loaded, unless ``version`` is None."""
    release = plain(root)
    for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df"):
        _gpu(root, f"0000:{bus}:00.0", "0x2330", "0x030200", "10de:16c1", GEN5, "nvidia" if version else None)
    for number in range(4):
        pci_function(root, f"0000:0{5 + number}:00.0", NVIDIA, "0x22a3", "0x068000", subsystem="10de:1796")
    for number in range(200):  # such a server has hundreds of other functions
        pci_function(root, f"0000:e0:{number // 8:02x}.{number % 8}", "0x8086", "0x3240", "0x088000")
    if version:
        driver_of_nvidia_repository(root, release, version)
        unit(root, "nvidia-fabricmanager", enabled=True, active=True)
        unit(root, "nvidia-persistenced", enabled=True, active=True)
        loaded_driver(root, version)


def driver_of_nvidia_repository(root: Path, release: str, version: str) -> None:
    """Install the driver as NVIDIA's repository for Ubuntu brings it: open flavour, built by DKMS."""
    for name in ("nvidia-open", "nvidia-driver-open", "nvidia-dkms-open", "libnvidia-compute", "nvidia-kernel-common"):
        package(root, name, f"{version}-1ubuntu1")
    package(root, f"nvidia-driver-pinning-{version}", f"{version}-1ubuntu1")
    library(root, version)
    kernel_module(root, release, version)
    dkms_module(root, "nvidia", version, [release])


def rtx_5090(root: Path) -> None:
    """A workstation with one GeForce RTX 5090 without a driver."""
    plain(root)
    _gpu(root, "0000:01:00.0", "0x2b85", "0x030000", "10de:2057", GEN5, None)
    pci_function(root, "0000:01:00.1", NVIDIA, "0x22e8", "0x040300")


def gb200(root: Path) -> None:
    """A compute tray with four GB200, each in a PCI domain of its own."""
    plain(root)
    for domain in ("0008", "0009", "0018", "0019"):
        _gpu(root, f"{domain}:01:00.0", "0x2941", "0x030200", "10de:2046", GEN5, None)


def amd_only(root: Path) -> None:
    """A server with two AMD GPUs: one passes as a display, the largest as an accelerator."""
    plain(root)
    pci_function(root, "0000:03:00.0", "0x1002", "0x73bf", "0x030000", driver="amdgpu")
    pci_function(root, "0000:05:00.0", "0x1002", "0x74a1", "0x120000", driver="amdgpu")


def no_pci(root: Path) -> None:
    """A small virtual machine whose kernel knows of no PCI bus."""
    plain(root)
    for file in sorted((root / "sys/bus/pci").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    (root / "sys/bus/pci").rmdir()


def virtual_gpu(root: Path) -> None:
    """A virtual machine with a part of a T4: the board says so, the bus has no link to speak of."""
    plain(root)
    pci_function(root, "0000:02:01.0", NVIDIA, "0x1eb8", "0x030000", subsystem="10de:130e")


def secondary_display_function_only(root: Path) -> None:
    """A host whose only GPU is neither VGA nor 3D controller for PCI, but 'another display controller'."""
    plain(root)
    _gpu(root, "0000:01:00.1", "0x1db6", "0x038000", "10de:124a", GEN3, None)


def driver_loaded_without_library(root: Path) -> None:
    """A host whose kernel has the driver and whose programs have no library to reach it with."""
    plain(root)
    _gpu(root, "0000:01:00.0", "0x2204", "0x030000", "1458:4043", GEN4, "nvidia")
    loaded_driver(root, "580.126.09")


def mismatch(root: Path) -> None:
    """A host whose driver was upgraded under the loaded module: 570 runs, 580 is installed."""
    release = plain(root)
    _gpu(root, "0000:01:00.0", "0x2204", "0x030000", "1458:4043", GEN4, "nvidia")
    driver_of_nvidia_repository(root, release, "580.126.09")
    loaded_driver(root, "570.86.15")


HOSTS: dict[str, Callable[[Path], None]] = {
    host.__name__: host
    for host in (
        gtx_1080_ti,
        k80,
        p100_and_a100,
        h100_hgx,
        rtx_5090,
        gb200,
        amd_only,
        no_pci,
        virtual_gpu,
        secondary_display_function_only,
        driver_loaded_without_library,
        mismatch,
    )
}
