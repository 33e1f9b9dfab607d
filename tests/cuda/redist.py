# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's tree of archives (redistrib_<version>.json and what it names), made here of NVIDIA's own files.

Compiler, headers and libraries are real: of the wheels on the package index, and, for 12.4, whose wheels have no nvcc,
of Debian's package. So nvcc really compiles and cuDNN really says its version. What is not as NVIDIA has it:
- archives hold fewer libraries: of libnvvm what nvcc needs, of cuDNN what linking and cudnnGetVersion() need, and, for
  ops, cnn and adv, stand-ins that only say their version;
- libcudart_static.a of 12.4 is that of 12.9, the first whose wheel has it, and libcudadevrt.a is empty;
- bin/crt of 13.0.0 is that of 13.0.2, because the wheel lacks it;
- lib/stubs/libcuda.so is an empty linker script;
- components that compile nothing (`standins` below) hold one small file.
Archives are made once and kept below .ansible; their names carry the checksum of what they are made of.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import struct
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from project_tree import ROOT
from real_files import Package, Wanted, Wheel, package_files, wheel_files
from standins import sha256
from testbed import SETTINGS

CACHE = SETTINGS / "cuda"
PLATFORM = "linux-x86_64"
#: As in NVIDIA's archives, everything belongs to whoever built it.
BUILDER = {"uid": 4660, "gid": 4660, "uname": "builder", "gname": "builder", "mtime": 1_700_000_000}

NVCC_13_0_0 = Wheel("nvidia-cuda-nvcc==13.0.48", "12f743f60d14d43e5f878c81807ce1f5668c754e3a61efb87d02d0c5b66d139e")
NVVM_13_0_0 = Wheel("nvidia-nvvm==13.0.48", "7525a759d8311fe4b18fc4e7c71f3cabf90391feb7743c9cd92c76a23e39f531")
CRT_13_0_0 = Wheel("nvidia-cuda-crt==13.0.48", "1d26e3aa170f9d4b153d7a57e06d576bfcca6db5f7389b72eb46aff41b844741")
CUDART_13_0_0 = Wheel(
    "nvidia-cuda-runtime==13.0.48", "e9eccb08c3a5268b1dec71fa42ad832a36518c2a26e6bfbf82c8780118d09a70"
)
CCCL_13_0_0 = Wheel("nvidia-cuda-cccl==13.0.50", "8b9c2e9c9c303ae0d15f81730c463590f553851b51e5c1a69fa79cc6408f8f65")
NVCC_13_0_2 = Wheel("nvidia-cuda-nvcc==13.0.88", "2f429d8464ce06dc6125e9c7484ccb36b348e9c8cbdf8e782b4c011f10e7f397")
NVVM_13_0_2 = Wheel("nvidia-nvvm==13.0.88", "5faab277dc014500098dd1b41d904afadc29c5f94f4e2a62157e26138a645ac2")
CRT_13_0_2 = Wheel("nvidia-cuda-crt==13.0.88", "689d1847121911088437dfce899d26daccdb29f0e46d21e04de5ba3a2f1871bb")
CUDART_13_0_2 = Wheel(
    "nvidia-cuda-runtime==13.0.96", "34c7a65651597fd8a376b049b69bb26db399a9ea443a7a142ccd34f5a10f79c4"
)
CCCL_13_0_2 = Wheel("nvidia-cuda-cccl==13.0.85", "7a0a2577268c4080833dbb7d7cde0949261e9b6eadac014a8409be1b885c9725")
# Without the programs: those are Debian's.
NVCC_12_4 = Wheel("nvidia-cuda-nvcc-cu12==12.4.131", "c13090352160a910c8176c7dab7a1bb8189f6a21b362384aefa647a63d3621ef")
CUDART_12_4 = Wheel(
    "nvidia-cuda-runtime-cu12==12.4.127", "79837cf3bf2c07ab2418c3322cbc1bbd4f78611cfaf3af897a49923144de5239"
)
CUDART_12_9 = Wheel(
    "nvidia-cuda-runtime-cu12==12.9.79", "f3d62dcf8f26b3f336f9d435f67fb7aac618b5f3bec4e236571897db1b69fa57"
)
CCCL_12_4 = Wheel(
    "nvidia-cuda-cccl-cu12==12.4.127.post1", "42b078844ed66a1edbb49202c3d03cf406839df63196e97184f1d39d578136e2"
)
CUDNN_CU12 = Wheel("nvidia-cudnn-cu12==9.13.0.50", "33141a7897381b0cd88f4e1fdeb073058f8838d4e88473c7e0090a2f793451ff")
CUDNN_CU13 = Wheel("nvidia-cudnn-cu13==9.13.0.50", "86e65f84ef39a132a4571671077138e84ac86f557c8874f09eafc87640167dd3")
DEBIAN_TOOLKIT = Package("nvidia-cuda-toolkit", "trixie", "non-free")

#: nvcc.profile of 12.4: Debian's says Debian's paths.
PROFILE_12_4 = """\
TOP              = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/$(_NVVM_BRANCH_)/libdevice
LD_LIBRARY_PATH += $(TOP)/lib:
PATH            += $(TOP)/$(_NVVM_BRANCH_)/bin:$(_HERE_):
INCLUDES        +=  "-I$(TOP)/$(_TARGET_DIR_)/include" $(_SPACE_)
LIBRARIES        =+ $(_SPACE_) "-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)/stubs" \
"-L$(TOP)/$(_TARGET_DIR_)/lib$(_TARGET_SIZE_)"
CUDAFE_FLAGS    +=
PTXAS_FLAGS     +=
"""
#: What only wheels have.
NOT_IN_ARCHIVES = ("__init__.py", "/.metadata/")
STUB = {"lib/stubs/libcuda.so": b"/* stand-in of the stub of libcuda */\n"}
LICENSE = {"LICENSE": b"Stand-in of the tests; the files are NVIDIA's, under NVIDIA's license.\n"}


@dataclass(frozen=True)
class Places:
    """Which files of a wheel or package are taken, and to which paths of the archive: prefixes, the first that fits."""

    prefixes: Mapping[str, str]
    leave: Sequence[str] = ()

    def of(self, path: str) -> str | None:
        """Return the place of a file, None where it is left out."""
        for source, target in self.prefixes.items():
            if path.startswith(source) and not any(word in path for word in (*self.leave, *NOT_IN_ARCHIVES)):
                return target + path.removeprefix(source)
        return None


def read_files(source: Wheel | Package, wanted: Wanted) -> dict[str, bytes]:
    """Return the wanted files of a wheel or package."""
    return wheel_files(source, wanted) if isinstance(source, Wheel) else package_files(source, wanted)


@dataclass(frozen=True)
class Archive:
    """One archive: where its files come from, files of its own, and libraries by their full version.

    `libraries` are `{"lib/libcudart.so.13": "13.0.96"}`: the file gets that version, and the links that lead to it.
    """

    component: str
    version: str
    sources: tuple[tuple[Wheel | Package, Places], ...] = ()
    extra: Mapping[str, bytes] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""

    @property
    def name(self) -> str:
        """The name of the archive's file, without what follows."""
        variant = f"_{self.variant}" if self.variant else ""
        return f"{self.component}-{PLATFORM}-{self.version}{variant}-archive"

    def files(self) -> dict[str, bytes]:
        """Return what it holds; it is fetched now."""
        found: dict[str, bytes] = {**LICENSE, **self.extra}
        for source, places in self.sources:
            for path, data in read_files(source, lambda path, places=places: places.of(path) is not None).items():
                found[str(places.of(path))] = data
        for path, version in self.libraries.items():
            found[f"{path.partition('.so')[0]}.so.{version}"] = found.pop(path)
        return found

    def links(self) -> dict[str, str]:
        """Return its symbolic links."""
        found = {}
        for path, version in self.libraries.items():
            directory, _, file = path.rpartition("/")
            bare = f"{file.partition('.so')[0]}.so"
            found[f"{directory}/{bare}"] = file
            found[path] = f"{bare}.{version}"
        return found


def toolkit_13(nvcc: Wheel, nvvm: Wheel, crt: Wheel, cudart: Wheel, cccl: Wheel) -> list[Archive]:
    """Return the archives of a release of CUDA 13."""
    top = "nvidia/cu13/"
    own = Places({top: ""})
    # The wheel of 13.0.0 has cicc beside nvcc; the archives never had.
    cicc, header = {f"{top}bin/cicc": "nvvm/bin/cicc"}, {f"{top}include/nvvm.h": "nvvm/include/nvvm.h"}
    nvvm_places = Places({f"{top}nvvm/": "nvvm/", **cicc, **header})

    def number(wheel: Wheel) -> str:
        return wheel.requirement.partition("==")[2]

    runtime = {"lib/libcudart.so.13": number(cudart)}
    return [
        Archive("cuda_nvcc", number(nvcc), ((nvcc, own), (NVCC_13_0_2, Places({f"{top}bin/crt/": "bin/crt/"})))),
        Archive("libnvvm", number(nvvm), ((nvvm, nvvm_places),)),
        Archive("cuda_crt", number(crt), ((crt, own),)),
        Archive("cuda_cudart", number(cudart), ((cudart, own),), STUB, runtime),
        Archive("cuda_cccl", number(cccl), ((cccl, own),)),
    ]


DEBIAN_NVCC = {
    "usr/lib/nvidia-cuda-toolkit/bin/nvcc": "bin/nvcc",
    "usr/lib/nvidia-cuda-toolkit/bin/crt/": "bin/crt/",
    "usr/lib/nvidia-cuda-toolkit/bin/cicc": "nvvm/bin/cicc",
    "usr/lib/nvidia-cuda-toolkit/libdevice/": "nvvm/libdevice/",
    **{
        f"usr/bin/{name}": f"bin/{name}"
        for name in ("__nvcc_device_query", "bin2c", "cudafe++", "fatbinary", "nvlink", "ptxas")
    },
}
CUDART_LIBRARIES = ("lib/libcudart_static.a", "lib/libculibos.a")
# nvlink takes no device code that is newer than itself; without dynamic parallelism nothing of it is needed.
EMPTY_OBJECT = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)
EMPTY_LIBRARY = b"!<arch>\n" + b"".join(
    b"%-16s%-12d%-6d%-6d%-8o%-10d`\n%s" % (name, 0, 0, 0, 0o644, len(data), data)
    for name, data in ((b"/", bytes(4)), (b"empty.o/", EMPTY_OBJECT))
)
NO_DEVICE_RUNTIME = {"lib/libcudadevrt.a": EMPTY_LIBRARY}
TOOLKITS: dict[str, list[Archive]] = {
    "13.0.0": toolkit_13(NVCC_13_0_0, NVVM_13_0_0, CRT_13_0_0, CUDART_13_0_0, CCCL_13_0_0),
    "13.0.2": toolkit_13(NVCC_13_0_2, NVVM_13_0_2, CRT_13_0_2, CUDART_13_0_2, CCCL_13_0_2),
    "12.4.1": [
        Archive(
            "cuda_nvcc",
            "12.4.131",
            (
                (DEBIAN_TOOLKIT, Places(DEBIAN_NVCC)),
                (NVCC_12_4, Places({"nvidia/cuda_nvcc/": ""}, leave=("/bin/", "/nvvm/lib"))),
            ),
            {"bin/nvcc.profile": PROFILE_12_4.encode()},
        ),
        Archive(
            "cuda_cudart",
            "12.4.127",
            (
                (CUDART_12_4, Places({"nvidia/cuda_runtime/": ""})),
                (CUDART_12_9, Places({f"nvidia/cuda_runtime/{path}": path for path in CUDART_LIBRARIES})),
            ),
            {**STUB, **NO_DEVICE_RUNTIME},
            {"lib/libcudart.so.12": "12.4.127"},
        ),
        Archive("cuda_cccl", "12.4.127", ((CCCL_12_4, Places({"nvidia/cuda_cccl/": ""})),)),
    ],
}
#: The libraries of cuDNN that are real: what cudnnGetVersion() needs, and a program that is linked with -lcudnn.
CUDNN_REAL = ("libcudnn", "libcudnn_graph")
#: Those that would be hundreds of MB. Their stand-ins say that they are of the right version, and nothing else.
CUDNN_PARTS = {"libcudnn_ops": "Ops", "libcudnn_cnn": "Cnn", "libcudnn_adv": "Adv"}
CUDNN_WHEELS = {"9.13.0": {"cuda12": CUDNN_CU12, "cuda13": CUDNN_CU13}}


def cudnn_archive(wheel: Wheel, variant: str, parts: Mapping[str, bytes]) -> Archive:
    """Return cuDNN for one CUDA major; `parts` are the stand-ins by name."""
    version, top = wheel.requirement.partition("==")[2], "nvidia/cudnn"
    real = {f"{top}/lib/{name}.so.9": f"lib/{name}.so.9" for name in CUDNN_REAL}
    names = (*CUDNN_REAL, *CUDNN_PARTS)
    return Archive(
        "cudnn",
        version,
        ((wheel, Places({f"{top}/include/": "include/", **real})),),
        {f"lib/{name}.so.9": data for name, data in parts.items()},
        {f"lib/{name}.so.9": version.rpartition(".")[0] for name in names},
        variant,
    )


def standins(version: str) -> list[Archive]:
    """Return archives of the components that a plan may name and that compile nothing."""
    table = yaml.safe_load((ROOT / "lib/gpu_compat/data/cuda.yml").read_text()).get("components", [])
    real = {archive.component for archive in TOOLKITS[version]}
    names = sorted({str(row["name"]) for row in table} - real)
    text = b"stand-in of the tests, it computes nothing\n"
    return [
        Archive(name, version, extra={f"lib/{name}.so.{version}": text, f"include/{name}.h": text}) for name in names
    ]


# --- making them -----------------------------------------------------------------------------------------------------


def mode_of(path: str) -> int:
    """Return the mode of a file: programs and libraries can be run, as in the originals."""
    directory, _, file = path.rpartition("/")
    program = directory in ("bin", "nvvm/bin") and "." not in file
    return 0o755 if program or ".so." in file else 0o644


def packed(top: str, files: Mapping[str, bytes], links: Mapping[str, str]) -> bytes:
    """Return files and links below a top directory as a .tar.xz."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        paths = [*files, *links]
        directories = {""} | {str(parent) for path in paths for parent in Path(path).parents} - {"."}
        for directory in sorted(directories):
            archive.addfile(_member(f"{top}/{directory}".rstrip("/"), type=tarfile.DIRTYPE, mode=0o755))
        for path, data in sorted(files.items()):
            archive.addfile(_member(f"{top}/{path}", size=len(data), mode=mode_of(path)), io.BytesIO(data))
        for path, target in sorted(links.items()):
            archive.addfile(_member(f"{top}/{path}", type=tarfile.SYMTYPE, linkname=target, mode=0o777))
    return lzma.compress(stream.getvalue(), preset=0)


def _member(name: str, **attributes: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for key, value in {**BUILDER, **attributes}.items():
        setattr(member, key, value)
    return member


def made(archive: Archive) -> Path:
    """Return the file of an archive; it is made where the cache does not have it."""
    digest = hashlib.sha256(repr(archive).encode()).hexdigest()[:12]
    file = CACHE / f"{archive.name}.{digest}.tar.xz"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for stale in CACHE.glob(f"{archive.name}.*"):
            stale.unlink()
        data = packed(archive.name, archive.files(), archive.links())
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        part.rename(file)
    return file


def all_made(archives: Iterable[Archive]) -> list[Path]:
    """Make several archives, two at a time: packing them takes the time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(made, archives))


# --- the tree --------------------------------------------------------------------------------------------------------


class Redist:
    """A tree of NVIDIA's archives below a directory that is served: `cuda` and `cudnn` are where manifests lie."""

    cuda, cudnn = "redist/cuda", "redist/cudnn"

    def __init__(self, root: Path, cudnn_parts: Mapping[str, bytes]) -> None:
        self.root = root
        for version in TOOLKITS:
            self._publish(self.cuda, version, [*TOOLKITS[version], *standins(version)])
        for version, wheels in CUDNN_WHEELS.items():
            archives = [cudnn_archive(wheel, variant, cudnn_parts) for variant, wheel in wheels.items()]
            self._publish(self.cudnn, version, archives)

    def _publish(self, base: str, version: str, archives: Sequence[Archive]) -> None:
        """Put the archives of a release in their places, and write its manifest as NVIDIA does."""
        product = base.rpartition("/")[2]
        manifest: dict[str, Any] = {
            "release_date": "2025-10-02",
            "release_label": version,
            "release_product": product,
        }
        for archive, file in zip(archives, all_made(archives), strict=True):
            path = f"{archive.component}/{PLATFORM}/{archive.name}.tar.xz"
            target = self.root / base / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(file, target)
            entry = manifest.setdefault(
                archive.component,
                {
                    "name": f"stand-in of {archive.component}",
                    "license": "CUDA Toolkit",
                    "license_path": f"{archive.component}/LICENSE.txt",
                    "version": archive.version,
                },
            )
            row = {
                "relative_path": path,
                "sha256": sha256(file),
                "md5": hashlib.md5(file.read_bytes()).hexdigest(),
                "size": str(file.stat().st_size),
            }
            if archive.variant:
                entry.setdefault("cuda_variant", []).append(archive.variant.removeprefix("cuda"))
                entry.setdefault(PLATFORM, {})[archive.variant] = row
            else:
                entry[PLATFORM] = row
        (self.root / base / f"redistrib_{version}.json").write_text(json.dumps(manifest, indent=4) + "\n")
