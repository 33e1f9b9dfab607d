# SPDX-License-Identifier: Apache-2.0
"""Builds of the frameworks: one release of one framework for the processor or for one CUDA, as the tables know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from gpu_compat.gpus import Gpu
from gpu_compat.tables import ARCHES, Row, Tables
from gpu_compat.versions import at_least, begins_with, covers, matches, minor, numbers

PYTORCH_INDEX = "https://download.pytorch.org/whl"
CPU = "cpu"
#: Keras releases state only the first Python; the last one that any framework beside it has wheels for.
_PYTHONS = tuple(f"3.{second}" for second in range(6, 16))


@dataclass(frozen=True, eq=False)
class Build:
    """One build.

    Attributes:
        framework: pytorch, tensorflow, jax or keras.
        version: the release.
        wheel: which build: "cpu", PyTorch's tag ("cu126"), JAX's plugin ("cuda12"), TensorFlow's "and-cuda" or "system"
            (CUDA and cuDNN of the host); empty for Keras, which holds no machine code.
        cuda: CUDA that it was built for, None for the processor.
        sm: compute capabilities that it holds machine code for; None: not known.
        ptx: compute capability that it holds portable code for.
        cudnn: the release that it brings, or a specifier where it leaves that open.
        python: Pythons that it has wheels for, by machine.
        glibc: the oldest C library.
        driver_min: the oldest driver.
        status: "", legacy, experimental or unseen.
        default: the package index gives this one for the plain name, on x86_64.
        default_aarch64: the same on aarch64.
        keras: for TensorFlow, the Keras that it wants.
        on_request: taken only where it is asked for: it could have CUDA with it, and is to use the host's.
        source: where all this comes from.
    """

    framework: str
    version: str
    wheel: str
    cuda: str | None
    python: Mapping[str, Sequence[str]]
    glibc: str
    source: str
    sm: tuple[str, ...] | None = ()
    sm_aarch64: tuple[str, ...] | None = None
    ptx: str | None = None
    ptx_fails: tuple[str, ...] = ()
    cudnn: str | None = None
    driver_min: str | None = None
    status: str = ""
    default: bool = False
    default_aarch64: bool = False
    keras: str | None = None
    documented_min: str | None = None
    on_request: bool = False

    @cached_property
    def cuda_major(self) -> str | None:
        """The major version of CUDA."""
        return self.cuda.split(".")[0] if self.cuda else None

    @property
    def bundled(self) -> bool:
        """Whether CUDA and cuDNN come along."""
        return self.wheel != "system"

    def kernels(self, machine: str) -> tuple[str, ...] | None:
        """Return the compute capabilities that it holds machine code for on a machine, None where that is not known."""
        return self.sm if machine == "x86_64" or self.framework == "jax" else self.sm_aarch64

    def runs_on(self, gpu: Gpu, machine: str) -> bool:
        """Tell whether it holds code that the GPU runs."""
        return self.cuda is None or self.has_kernels(gpu, machine) or self.compiles_for(gpu, machine)

    def has_kernels(self, gpu: Gpu, machine: str) -> bool:
        """Tell whether it holds machine code for the GPU."""
        kernels = self.kernels(machine)
        return kernels is not None and covers(kernels, gpu.capability)

    def compiles_for(self, gpu: Gpu, machine: str) -> bool:
        """Tell whether the driver can compile its portable code for the GPU."""
        if self.ptx is None or self.kernels(machine) is None or gpu.capability in self.ptx_fails:
            return False
        return numbers(gpu.capability) >= numbers(self.ptx)

    def on(self, machine: str) -> Sequence[str]:
        """Return the Pythons it has wheels for on a machine."""
        return self.python.get(machine, ())

    def index(self) -> str | None:
        """Return the address of the index that has it, None for the configured package index."""
        return f"{PYTORCH_INDEX}/{self.wheel}" if self.framework == "pytorch" else None

    def requirement(self, machine: str, tables: Tables) -> str:
        """Return what pip is asked for, without a version: ``torch``, ``jax[cuda13]``, ``tensorflow-cpu``."""
        row = framework(self.framework, tables)
        if self.wheel == CPU:
            return str(row["cpu_package"].get(machine, row["package"]))
        if self.framework == "jax":
            return f"jax[{self.wheel}]"
        return "tensorflow[and-cuda]" if self.wheel == "and-cuda" else str(row["package"])


def framework(name: str, tables: Tables) -> Row:
    """Return what a framework and its packages are called."""
    return next(row for row in tables.rows("environments.frameworks") if row["name"] == name)


def label(name: str, tables: Tables) -> str:
    """Return a framework's name as its makers write it."""
    return str(framework(name, tables)["label"])


@cache
def builds(name: str, tables: Tables) -> Sequence[Build]:
    """Return every build of a framework, the most wanted first: the newest release, its default build before others."""
    found = {"pytorch": _pytorch, "tensorflow": _tensorflow, "jax": _jax, "keras": _keras}[name](tables)
    return sorted(found, key=_preference)


def _preference(build: Build) -> tuple[object, ...]:
    worse = {"": 0, "legacy": 1, "experimental": 2, "unseen": 3}[build.status]
    release = tuple(-part for part in _padded(build.version))
    return (release, not build.default, worse, build.wheel == CPU, tuple(-part for part in numbers(build.cuda or "0")))


def _padded(version: str) -> tuple[int, ...]:
    return (*numbers(version.replace(".post", ".")), 0, 0, 0, 0)[:5]


def series(build: Build) -> str:
    """Return the release series, "2.14" of "2.14.1"."""
    return ".".join(map(str, minor(build.version)))


def _pytorch(tables: Tables) -> list[Build]:
    wheels: dict[str, list[Row]] = {}
    for row in tables.rows("pytorch.wheels"):
        wheels.setdefault(row["release"], []).append(row)
    found = []
    for release in tables.rows("pytorch.releases"):
        if release.get("yanked"):
            continue
        version, python, glibc = release["version"], release["python"], release["glibc"]
        source = tables.source("pytorch", release)
        found.append(Build("pytorch", version, CPU, None, python, glibc, source))
        for row in wheels.get(".".join(map(str, minor(version))), ()):
            if row["tag"] not in release["tags"] or row.get("sm") is None:
                continue  # what it holds is not known, so nobody is given it
            default = begins_with(release["default_cuda"], row["cuda"])
            found.append(
                Build(
                    "pytorch",
                    version,
                    row["tag"],
                    row["cuda"],
                    python,
                    glibc,
                    tables.source("pytorch", row),
                    sm=tuple(row["sm"]),
                    sm_aarch64=tuple(row["sm_aarch64"]) if row.get("sm_aarch64") else None,
                    ptx=row.get("ptx"),
                    cudnn=row.get("cudnn"),
                    driver_min=cuda_driver(row["cuda"], tables),
                    status=row.get("status") or "",
                    default=default,
                    default_aarch64=default and release["aarch64_default"] == "cuda",
                )
            )
    return found


def cuda_driver(cuda: str, tables: Tables) -> str:
    """Return the oldest driver for programs of a CUDA series under minor-version compatibility."""
    rows = [row for row in tables.rows("cuda.toolkits") if begins_with(row["version"], cuda)]
    return str(rows[-1].get("driver_min") or rows[-1]["driver"])


def native_driver(cuda: str, tables: Tables) -> str:
    """Return the oldest driver that knows all of a CUDA series, portable code included."""
    rows = [row for row in tables.rows("cuda.toolkits") if begins_with(row["version"], cuda)]
    return str(rows[-1]["driver"])


def _tensorflow(tables: Tables) -> list[Build]:
    fails = tuple(capability for row in tables.rows("tensorflow.ptx_fails") for capability in row["capabilities"])
    found = []
    for row in tables.rows("tensorflow.releases"):
        if row.get("yanked"):
            continue
        source, glibc = tables.source("tensorflow", row), row["glibc"]
        found.append(
            Build("tensorflow", row["version"], CPU, None, row["python"], glibc, source, keras=row.get("keras"))
        )
        if row.get("sm") is None or row.get("unusable"):
            continue
        bundled = bool(row.get("bundled"))
        for wheel in ("and-cuda", "system") if bundled else ("system",):
            found.append(
                Build(
                    "tensorflow",
                    row["version"],
                    wheel,
                    row["cuda"],
                    # Wheels for aarch64 hold no CUDA.
                    {"x86_64": row["python"]["x86_64"], "aarch64": ()},
                    glibc,
                    source,
                    sm=tuple(row["sm"]),
                    ptx=row.get("ptx"),
                    ptx_fails=fails,
                    cudnn=row["cudnn"] if wheel == "and-cuda" else row["built_with_cudnn"],
                    driver_min=row["driver_min"],
                    keras=row.get("keras"),
                    on_request=bundled and wheel == "system",
                )
            )
    return found


def _jax(tables: Tables) -> list[Build]:
    found = []
    for row in tables.rows("jax.releases"):
        if row.get("yanked"):
            continue
        step = next(step for step in tables.rows("jax.glibc") if at_least(row["version"], step["first"]))
        glibc = step["glibc"]
        pythons: Sequence[str] = row["python"]
        python = dict.fromkeys(ARCHES, pythons)
        source = tables.source("jax", row)
        found.append(Build("jax", row["version"], CPU, None, python, glibc, source))
        for plugin in tables.rows("jax.plugins"):
            name = plugin["plugin"]
            if name not in row["plugins"] or row.get(f"sm_{name}") is None or row.get(f"cudnn_{name}") is None:
                continue  # what it holds or loads is not known, so nobody is given it
            found.append(
                Build(
                    "jax",
                    row["version"],
                    name,
                    plugin["cuda_major"],
                    python,
                    glibc,
                    source,
                    sm=tuple(row[f"sm_{name}"]),
                    ptx=row.get(f"ptx_{name}"),
                    cudnn=row.get(f"cudnn_{name}"),
                    driver_min=plugin["driver_min"],
                    documented_min=plugin["documented_min"],
                )
            )
    return found


def _keras(tables: Tables) -> list[Build]:
    found = []
    for row in tables.rows("keras.releases"):
        if row.get("yanked"):
            continue
        pythons = tuple(version for version in _PYTHONS if matches(f"{version}.0", row["requires_python"]))
        python = dict.fromkeys(ARCHES, pythons)
        found.append(Build("keras", row["version"], "", None, python, "2.17", tables.source("keras", row)))
    return found
