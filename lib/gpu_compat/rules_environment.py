# SPDX-License-Identifier: Apache-2.0
"""Rules on one environment: its Python, its frameworks together, and the cuDNN that they will load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_compat.gpus import Gpu
from gpu_compat.hosts import Host
from gpu_compat.pairs import pairs_of
from gpu_compat.problem import Problem, Rule
from gpu_compat.rules_host import DRIVER, cudnn_for_gpu, cudnn_reach
from gpu_compat.tables import Row, Tables
from gpu_compat.toolkits import Cudnn, capability_range, cudnns, offers_cuda
from gpu_compat.versions import at_least, begins_with, matches, minor, numbers, span
from gpu_compat.wheels import CPU, Build, builds, label, native_driver

#: The order in which they are decided: what leaves least choice first.
ORDER = ("tensorflow", "jax", "pytorch", "keras")
_WHEEL_RULES = {
    "pytorch": "gpu_arch_vs_torch_wheel",
    "tensorflow": "gpu_arch_vs_tensorflow_wheel",
    "jax": "gpu_arch_vs_jax_wheel",
}
_NEWEST_PYTHON = 15
_OLDEST_PYTHON = 7


@dataclass(frozen=True)
class Place:
    """Where an environment stands: its number and wish, and what its packages in the problem are called."""

    index: int
    wish: Mapping[str, Any]

    def package(self, name: str) -> str:
        """Return the name of a package of this environment."""
        return f"env[{self.index}].{name}"

    def member(self, name: str) -> str:
        """Return the path of a wish of this environment."""
        return f"request.environments[{self.index}].{name}"

    def frameworks(self) -> list[str]:
        """Return its frameworks in the order in which they are decided."""
        return [name for name in ORDER if name in self.wish["frameworks"]]

    def packages(self) -> list[str]:
        """Return every package that it may have."""
        return [self.package(name) for name in ("python", *ORDER, "cuda", "cudnn")]


class Environment:
    """Adds one environment to a problem."""

    def __init__(
        self, problem: Problem, place: Place, host: Host, request: Mapping[str, Any], gpu: bool, tables: Tables
    ) -> None:
        self.problem, self.place, self.host, self.request, self.gpu, self.tables = (
            problem,
            place,
            host,
            request,
            gpu,
            tables,
        )
        #: On a GPU these will load a cuDNN that they leave open, or share one that is pinned.
        self.floating = gpu and any(name in place.wish["frameworks"] for name in ("tensorflow", "jax"))

    def add(self) -> None:
        """Add its packages and rules. A host's own Pythons are decided before releases, others after."""
        own = self.host.pythons is not None and bool(self.host.pythons)
        if own:
            self._add_python()
        for name in self.place.frameworks():
            self._add_framework(name)
        if self.gpu:
            self.problem.add(self.place.package("cuda"), ["13", "12", "11", "10", None])
        if self.floating:
            self._add_cudnn()
        if not own:
            self._add_python()

    # --- Python ------------------------------------------------------------------------------------------------

    def _add_python(self) -> None:
        wish, package = self.place.wish["python"], self.place.package("python")
        self.problem.add(package, self._pythons())
        if wish != "auto":
            self.problem.rule(
                package,
                "unknown_release",
                lambda version: version == wish,
                self.place.member("python"),
                text=f"Python {wish} is asked for",
            )
        if not self.host.may_install_python and self.host.pythons is not None:
            has = [interpreter.version for interpreter in self.host.pythons]
            self.problem.rule(
                package,
                "python_not_available",
                lambda version: version in has,
                "host.python",
                text=f"the host has Python {', '.join(has)}",
            )

    def _pythons(self) -> list[str]:
        """Return Python versions: what the environment was built with, the host's own, the system's, then the newest.

        Of the host's own those come first for which the newest releases have wheels: a system's old Python beside a
        newer one would hold everything back.
        """
        every = [f"3.{second}" for second in range(_NEWEST_PYTHON, _OLDEST_PYTHON - 1, -1)]
        before = dict(self.host.built_with).get(self.place.wish["name"])
        # conda brings its own interpreter, so the host's do not count there.
        own = [interpreter.version for interpreter in self.host.pythons or () if self.place.wish["manager"] != "conda"]
        own.sort(key=lambda version: not self._newest_has(version))
        usual = [self.host.system["python"]] if self.host.system and self.host.pythons is None else []
        first = [version for version in (before, *own) if version and (version in own)]
        return list(dict.fromkeys([*first, *[version for version in usual if version in every], *every]))

    def _newest_has(self, python: str) -> bool:
        """Tell whether the newest release of each framework that is wished for has wheels for a Python."""
        for name in self.place.frameworks():
            wish = self.place.wish["frameworks"][name]
            newest = next((build for build in builds(name, self.tables) if _is_wanted(build, wish)), None)
            if newest and python not in (newest.on(self.host.machine) or newest.on("x86_64")):
                return False
        return True

    # --- frameworks --------------------------------------------------------------------------------------------

    def _add_framework(self, name: str) -> None:
        package, member = self.place.package(name), self.place.member(f"frameworks.{name}")
        wish, shown = self.place.wish["frameworks"][name], label(name, self.tables)
        choices = [build for build in builds(name, self.tables) if not build.on_request or wish["cuda"] == "system"]
        self.problem.add(package, choices, self._laws, wanted_by=member)
        asked = f"{shown} {'' if wish['version'] in ('newest', 'any') else wish['version']}".strip() + (
            " with the host's CUDA" if wish["cuda"] == "system" else f" for {wish['cuda']}" if wish["cuda"] else ""
        )
        named = f"{asked} is asked for (environment {self.place.wish['name']})"
        if not self.gpu:
            wish = {**wish, "cuda": None}  # the profile says so and warns
        if not any(_is_wanted(build, wish) for build in builds(name, self.tables)):
            newest, oldest = builds(name, self.tables)[0], builds(name, self.tables)[-1]
            named += f"; the tables of {self.tables.as_of} know {shown} {oldest.version} to {newest.version}"
        self.problem.rule(
            package, "unknown_release", lambda build: _is_wanted(build, wish), member, f"{member}#version", text=named
        )
        self._built_for(name, package, wish)
        self.problem.rule(
            package,
            "arch_vs_wheel",
            lambda build: (
                bool(build.on(self.host.machine)) and (not build.sm or build.kernels(self.host.machine) is not None)
            ),
            "host.arch",
            text=f"the host is {self.host.machine}, for which {self._on_machine(name)}",
            source=f"tables {name}: package index and release notes",
        )
        libc = self.host.libc
        if libc:
            self.problem.rule(
                package,
                "glibc_vs_wheel",
                lambda build: at_least(libc, build.glibc),
                "host.os" if not self.host.glibc else "host.glibc",
                text=lambda: self._glibc(name, libc),
                source=f"package index: platform tags of {shown}'s wheels",
            )
        if self.gpu:
            for index, gpu in enumerate(self.host.gpus or ()):
                self._for_gpu(name, package, gpu, f"host.gpus[{index}]")

    def _built_for(self, name: str, package: str, wish: Mapping[str, Any]) -> None:
        """A host with GPUs gets CUDA builds, one without gets builds for the processor, whatever CUDA is asked for."""
        if name == "keras":
            return
        if not self.gpu:
            self.problem.rule(package, "no_gpu", lambda build: build.cuda is None)
        elif wish["cuda"] != CPU:
            has = "the host has GPUs to be used"
            self.problem.rule(package, "no_gpu", lambda build: build.cuda is not None, "host.gpus", text=has)
            self._with_system_cuda(package)

    def _with_system_cuda(self, package: str) -> None:
        """A build without CUDA of its own needs the toolkit and the cuDNN of its making on the host."""
        toolkits = ", ".join(self.request["cuda_toolkits"]) or "none"
        self.problem.rule(
            package,
            "toolkit_vs_framework",
            lambda build: build.bundled or self._toolkit_for(build) is not None,
            "request.cuda_toolkits",
            text=f"CUDA toolkits asked for: {toolkits}, and the release needs one that fits its making on the host, "
            "as the default (the first)",
        )
        system = self.host.system
        if system and self.request["cuda_source"] == "nvidia_repo":
            self.problem.rule(
                package,
                "os_vs_cuda",
                lambda build: build.bundled or offers_cuda(system, self.host.machine, str(build.cuda)),
                "host.os",
                text=f"NVIDIA's repository for {system['id']} has no toolkit of its making",
                source=self.tables.source("systems", system),
            )
        if self.request["cudnn"] == "none":
            self.problem.rule(
                package,
                "toolkit_vs_framework",
                lambda build: build.bundled,
                "request.cudnn",
                text="cudnn: none is asked for, and the release needs cuDNN on the host",
            )

    def _toolkit_for(self, build: Build) -> int | None:
        """Return the number of the toolkit asked for that could be the one that a build finds: the default, the first.

        Since they come with a CUDA of their own, releases are made for all of a major from their series on.
        """
        cuda = str(build.cuda)
        for index, wish in enumerate(self.request["cuda_toolkits"][:1]):
            same = begins_with(wish, str(build.cuda_major)) if build.on_request and wish != "auto" else False
            if wish == "auto" or same or begins_with(cuda, wish) or begins_with(wish, cuda):
                return index
        return None

    def _for_gpu(self, name: str, package: str, gpu: Gpu, member: str) -> None:
        if name == "keras":
            return
        machine, cuda = self.host.machine, self.place.wish["frameworks"][name]["cuda"]
        self.problem.rule(
            package,
            _WHEEL_RULES[name],
            lambda build: build.runs_on(gpu, "x86_64"),
            member,
            text=lambda: reach(name, gpu, "x86_64", cuda, self.tables),
            source=lambda: _reach_source(name, gpu, self.tables),
        )
        if machine != "x86_64":
            # Wheels for other machines hold code for fewer GPUs.
            self.problem.rule(
                package,
                "arch_vs_wheel",
                lambda build: build.runs_on(gpu, machine) or not build.runs_on(gpu, "x86_64"),
                member,
                "host.arch",
                text=lambda: f"on {machine}, {reach(name, gpu, machine, cuda, self.tables)}",
                source=lambda: _reach_source(name, gpu, self.tables),
            )
        if name == "pytorch":
            pinned = {cudnn.version: cudnn for cudnn in cudnns(self.tables)}
            self.problem.rule(
                package,
                "gpu_arch_vs_cudnn",
                lambda build: _bundled_serves(build, pinned, gpu, self.tables),
                member,
                text=lambda: f"{cudnn_reach(gpu, self.tables)}, and these wheels bring another",
                source="table cudnn.ranges: NVIDIA cuDNN support matrices",
            )

    # --- laws: what a build asks of the rest -------------------------------------------------------------------

    def _laws(self, build: Build) -> Sequence[Rule]:
        shown, laws = label(build.framework, self.tables), []
        # Where there is no wheel for the machine, that is the reason, and the Python is judged as elsewhere.
        pythons = tuple(build.on(self.host.machine) or build.on("x86_64"))
        if pythons:
            text = f"{shown} {build.version} has wheels for Python {span(list(pythons))}"
            laws.append(
                self._law(
                    "python",
                    "python_vs_framework",
                    pythons,
                    lambda version: version in pythons,
                    text=text,
                    source=build.source,
                )
            )
        if build.cuda is not None and self.gpu:
            laws += self._cuda_laws(build, shown)
        laws += self._keras_laws(build)
        for other in self.place.frameworks():
            if other != build.framework:
                laws += self._pair_laws(build, other)
        return laws

    def _law(
        self,
        name: str,
        rule_id: str,
        key: object,
        accepts: Callable[[Any], bool],
        *members: str,
        text: str = "",
        source: str = "",
    ) -> Rule:
        return self.problem.law(self.place.package(name), rule_id, key, accepts, *members, text=text, source=source)

    def _cuda_laws(self, build: Build, shown: str) -> list[Rule]:
        major, floor = build.cuda_major, str(build.driver_min)
        laws = [
            self.problem.law(
                DRIVER,
                "driver_vs_cuda",
                (floor, major),
                lambda driver: driver.runs(floor, major),
                text=f"{shown} built for CUDA {major}.x needs driver {floor} or newer",
                source="NVIDIA CUDA Compatibility, 'Minor Version Compatibility' table",
            ),
            self._law(
                "cuda",
                "environment_pins",
                major,
                lambda chosen: chosen == major,
                text=f"one environment holds one CUDA major, and {shown} {build.version} "
                f"({build.wheel}) is for {major}",
                source="files of the nvidia-* wheels of two CUDA majors overwrite each other (table pairs.collisions)",
            ),
        ]
        for index, gpu in enumerate(self.host.gpus or ()):
            if not build.has_kernels(gpu, self.host.machine) and build.framework != "jax":
                laws.append(self._portable(build, gpu, f"host.gpus[{index}]", shown))
        if self.floating:
            laws.append(self._cudnn_law(build, shown))
        if not build.bundled:
            laws += self._system_laws(build, shown)
        return laws

    def _portable(self, build: Build, gpu: Gpu, member: str, shown: str) -> Rule:
        """Portable code is compiled by the driver, which must know all of the CUDA that made it."""
        floor = native_driver(str(build.cuda), self.tables)
        return self.problem.law(
            DRIVER,
            "driver_vs_cuda",
            ("portable", floor),
            lambda driver: at_least(driver.version, floor),
            member,
            text=f"{shown} {build.version} has only portable code for {gpu.name}, which needs driver {floor} or newer",
            source=self.tables.source("cuda", self.tables.rule("cuda", "minor_limit")),
        )

    def _cudnn_law(self, build: Build, shown: str) -> Rule:
        major, wanted = build.cuda_major, build.cudnn
        if (
            not build.bundled
            or wanted is None
            or (build.framework == "pytorch" and wanted not in _versions(self.tables))
        ):
            return self._law(
                "cudnn",
                "environment_pins",
                "none",
                lambda chosen: chosen is None,
                text=f"{shown} {build.version} "
                + ("brings a cuDNN of its own" if build.bundled else "uses the cuDNN of the host"),
            )
        spec = f"=={wanted}" if wanted[:1].isdigit() else wanted
        return self._law(
            "cudnn",
            "environment_pins",
            (major, spec),
            lambda chosen: chosen is not None and chosen.cuda_major == major and matches(chosen.version, spec),
            text=f"{shown} {build.version} asks for nvidia-cudnn-cu{major}{spec}",
            source=build.source,
        )

    def _system_laws(self, build: Build, shown: str) -> list[Rule]:
        """A build without CUDA of its own needs the toolkit and the cuDNN of its making on the host."""
        index = self._toolkit_for(build)
        if index is None or self.request["cudnn"] == "none":
            return []  # ruled out from the start
        cuda, major = str(build.cuda), str(build.cuda_major)
        least = f" or newer of CUDA {major}" if build.on_request else ""
        text = f"{shown} {build.version} uses the host's CUDA: it needs {cuda}{least}, and cuDNN {build.cudnn} or newer"

        def fits(toolkit: Any) -> bool:
            if not build.on_request:
                return begins_with(toolkit.version, cuda)
            return bool(toolkit.major == major and at_least(toolkit.version, cuda))

        return [
            self.problem.law(
                f"toolkit[{index}]",
                "toolkit_vs_framework",
                (build.cuda, build.on_request),
                lambda toolkit: toolkit is not None and fits(toolkit),
                text=text,
                source=build.source,
            ),
            self.problem.law(
                f"cudnn[{index}]",
                "toolkit_vs_framework",
                build.cudnn,
                lambda cudnn: (
                    cudnn is not None
                    and begins_with(cudnn.version, str(build.cudnn).split(".")[0])
                    and at_least(cudnn.version, str(build.cudnn))
                ),
                text=text,
                source=build.source,
            ),
        ]

    def _keras_laws(self, build: Build) -> list[Rule]:
        """Keras and what it computes on must know each other."""
        if "keras" not in self.place.wish["frameworks"]:
            return []
        if build.framework == "tensorflow" and build.keras:
            wanted = build.keras
            text = f"TensorFlow {build.version} asks for keras{wanted}"
            return [
                self._law(
                    "keras",
                    "keras_vs_backend",
                    wanted,
                    lambda keras: matches(keras.version, wanted),
                    text=text,
                    source=build.source,
                )
            ]
        if build.framework != "keras":
            return []
        row = next((row for row in self.tables.rows("keras.backends") if _in_range(build.version, row)), None)
        return [self._backend_law(build, name, row) for name in self.place.frameworks() if name != "keras"]

    def _backend_law(self, build: Build, name: str, row: Row | None) -> Rule:
        """A release of Keras computes on certain releases of a framework."""
        shown = label(name, self.tables)
        wanted = (row or {}).get("backends", {}).get(name)
        if wanted is None:
            never = f"Keras {build.version} does not compute on {shown}"
            return self._law(
                name, "keras_vs_backend", (None, name), lambda other: False, text=never, source=build.source
            )
        text = f"Keras {build.version} computes on {shown} {wanted}"
        if wanted == "same":
            wanted = f"=={'.'.join(map(str, minor(build.version)))}.*"
            text = f"Keras {build.version} belongs to TensorFlow {wanted[2:]}"
        source = self.tables.source("keras", row) if row else build.source
        return self._law(
            name,
            "keras_vs_backend",
            (wanted, name),
            lambda other: matches(other.version, wanted),
            text=text,
            source=source,
        )

    def _pair_laws(self, build: Build, other: str) -> list[Rule]:
        """What the pins in the wheels' metadata say of two frameworks in one environment."""
        return [
            self._law(
                other,
                "environment_pins",
                (pair.key, build.framework),
                pair.accepts,
                *(("host.gpus", "host.arch") if pair.x86_only else ("host.gpus",) if self.gpu else ()),
                text=pair.text,
                source=pair.source,
            )
            for pair in pairs_of(build, other, self.host.machine, self.tables)
        ]

    # --- cuDNN -------------------------------------------------------------------------------------------------

    def _add_cudnn(self) -> None:
        package, machine = self.place.package("cudnn"), self.host.machine
        floating = [name for name in self.place.frameworks() if name in ("tensorflow", "jax")]
        wanted_by = self.place.member(f"frameworks.{floating[0]}") if len(floating) == 1 else ""
        self.problem.add(package, [*cudnns(self.tables), None], wanted_by=wanted_by)
        self.problem.rule(
            package,
            "arch_vs_wheel",
            lambda cudnn: cudnn is None or machine in cudnn.row["arches"],
            "host.arch",
            text=f"the host is {machine}, for which not every cuDNN has wheels",
            source="table cudnn.releases",
        )
        for index, gpu in enumerate(self.host.gpus or ()):
            cudnn_for_gpu(self.problem, package, gpu, f"host.gpus[{index}]", self.tables)

    # --- sentences ---------------------------------------------------------------------------------------------

    def _on_machine(self, name: str) -> str:
        shown = label(name, self.tables)
        with_cuda = [
            build
            for build in builds(name, self.tables)
            if build.cuda and build.on(self.host.machine) and build.kernels(self.host.machine)
        ]
        if not self.gpu:
            return f"not every release of {shown} has wheels"
        if not with_cuda:
            return f"the wheels of {shown} hold no CUDA"
        return (
            f"the tables know CUDA builds of {shown} from {with_cuda[-1].version} ({with_cuda[-1].wheel}) to "
            f"{with_cuda[0].version} ({with_cuda[0].wheel})"
        )

    def _glibc(self, name: str, libc: str) -> str:
        fits = [build for build in builds(name, self.tables) if at_least(libc, build.glibc)]
        whose = "the host's C library" if self.host.glibc else f"the C library of {self.host.os_name}"
        shown = label(name, self.tables)
        return f"{whose} is glibc {libc}; " + (
            f"wheels of {shown} newer than {fits[0].version} need a newer one"
            if fits
            else f"every wheel of {shown} needs a newer one"
        )


def _is_wanted(build: Build, wish: Mapping[str, Any]) -> bool:
    if build.on_request and wish["cuda"] != "system":
        return False
    if wish["version"] not in ("newest", "any") and not matches(build.version, wish["version"]):
        return False
    cuda = wish["cuda"]
    if cuda is None or build.framework == "keras":
        return True
    if cuda == CPU:
        return build.cuda is None
    if cuda == "system":
        return not build.bundled
    if cuda.startswith("cu"):
        # JAX and TensorFlow name no tags: cu128 means their build for CUDA 12.
        return build.wheel == cuda or (build.framework != "pytorch" and build.cuda_major == cuda[2:4])
    return bool(build.cuda_major == cuda)


def _in_range(version: str, row: Mapping[str, Any]) -> bool:
    last = row.get("last")
    return numbers(row["first"]) <= numbers(version) and (last is None or numbers(version) <= numbers(last))


def _versions(tables: Tables) -> frozenset[str]:
    return frozenset(cudnn.version for cudnn in cudnns(tables))


def _bundled_serves(build: Build, pinned: Mapping[str, Cudnn], gpu: Gpu, tables: Tables) -> bool:
    """Tell whether the cuDNN inside a wheel serves a GPU; where nobody verified that (8.6 to 8.8 on Kepler), the
    wheel's own kernels count."""
    if build.cudnn is None or not build.cudnn[:1].isdigit():
        return True
    cudnn = pinned.get(build.cudnn)
    if cudnn:
        return cudnn.row.get("capability_min") is None or cudnn.serves(gpu, tables)
    # Of older ones the tables have the ranges alone.
    _, highest = capability_range(build.cudnn, tables)
    return highest is None or numbers(gpu.capability) <= numbers(highest)


def _reach_source(name: str, gpu: Gpu, tables: Tables) -> str:
    """Return the source of the newest build that runs on a GPU, else of the newest there is."""
    every = [build for build in builds(name, tables) if build.cuda]
    return next((build.source for build in every if build.runs_on(gpu, "x86_64")), every[0].source)


def reach(name: str, gpu: Gpu, machine: str, cuda: str | None, tables: Tables) -> str:
    """Say which builds of a framework run on a GPU, for those of one CUDA where one is asked for."""
    shown = label(name, tables)
    every = [
        build for build in builds(name, tables) if build.cuda and _is_wanted(build, {"version": "any", "cuda": cuda})
    ]
    fits = [build for build in every if build.runs_on(gpu, machine)]
    of = f" for {cuda}" if cuda else ""
    if not fits:
        return f"{gpu.called()}: no wheel of {shown}{of} holds code for it"
    newest, oldest = fits[0], fits[-1]
    first = next((build for build in every), newest)
    if newest.version == first.version:
        return (
            f"{gpu.called()}: wheels of {shown}{of} hold code for it from {oldest.version} "
            f"({oldest.wheel}) on, but not every build does"
        )
    return (
        f"{gpu.called()}: the last wheel of {shown}{of} with code for it is {newest.version} "
        f"({newest.wheel}), the first {oldest.version} ({oldest.wheel})"
    )
