# SPDX-License-Identifier: Apache-2.0
"""Rules on what a host gets once: the driver, the CUDA toolkits and the system's cuDNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_compat import drivers
from gpu_compat.components import missing
from gpu_compat.gpus import Gpu, first_toolkit, last_toolkit, toolkit_too_new, toolkit_too_old
from gpu_compat.hosts import Host
from gpu_compat.problem import Problem, Rule
from gpu_compat.schema import nearest
from gpu_compat.tables import Row, Tables
from gpu_compat.toolkits import (
    ROOTLESS,
    Cudnn,
    Toolkit,
    cudnn_choices,
    cudnns,
    distribution,
    is_available,
    is_series,
    offers_cuda,
    redist_row,
    serving,
    toolkit_choices,
    toolkits,
)
from gpu_compat.versions import at_least, branch_of, numbers

DRIVER = "driver"


def add_driver(problem: Problem, host: Host, request: Mapping[str, Any], tables: Tables) -> None:
    """Add the driver and every rule on it."""
    problem.add(DRIVER, drivers.choices(host, request, tables))
    _driver_wishes(problem, host, request, tables)
    for index, gpu in enumerate(host.gpus or ()):
        _driver_for_gpu(problem, gpu, f"host.gpus[{index}]", tables)
    _driver_for_system(problem, host, tables)
    if host.kernel:
        _driver_for_kernel(problem, host.kernel, "host.kernel", "the host runs", request, tables)
    if host.next_boot_kernel and host.next_boot_kernel != host.kernel:
        word = "the next boot takes"
        _driver_for_kernel(problem, host.next_boot_kernel, "host.next_boot_kernel", word, request, tables)


def _driver_wishes(problem: Problem, host: Host, request: Mapping[str, Any], tables: Tables) -> None:
    wish, source, module = request["driver"], request["driver_source"], request["kernel_module"]
    keep = (wish == "keep" or source == "preinstalled") and host.driver is not None
    if host.container and host.driver:
        told = f"{host.container_words()}, whose kernel and driver {host.driver} are those of the machine below it"
        _driver_stays(problem, host, "os_vs_driver", ("host.container",), told)
    if keep:
        asker = "request.driver" if wish == "keep" else "request.driver_source"
        told = f"driver {host.driver} is installed and is to stay"
        _driver_stays(problem, host, "unknown_release", (asker, "host.driver"), told)
    elif not host.container:
        problem.rule(DRIVER, "unknown_release", lambda driver: driver.origin != "preinstalled")
    if wish not in ("auto", "keep", "none"):
        problem.rule(
            DRIVER,
            "unknown_release",
            lambda driver: drivers.meets(driver.version, wish),
            "request.driver",
            text=lambda: f"driver: {wish} is asked for" + _unless_any_meets(wish, tables),
        )
    if source not in ("auto", "preinstalled", "none"):
        problem.rule(
            DRIVER,
            "os_vs_driver",
            lambda driver: driver.origin == source,
            "request.driver_source",
            text=f"driver_source: {source} is asked for",
        )
    if module != "auto":
        lacking = ", which no branch from 615 on has" if module == "proprietary" else ""
        problem.rule(
            DRIVER,
            "module_flavor",
            lambda driver: driver.module == module,
            "request.kernel_module",
            text=f"kernel_module: {module} is asked for{lacking}",
        )


def _driver_stays(problem: Problem, host: Host, rule_id: str, askers: Sequence[str], told: str) -> None:
    """Let nothing but the driver that is there be planned, with the flavour that it has."""
    problem.rule(DRIVER, rule_id, lambda driver: driver.origin == "preinstalled", *askers, text=told)
    if host.kernel_module:
        problem.rule(
            DRIVER,
            "module_flavor",
            lambda driver: driver.origin != "preinstalled" or driver.module == host.kernel_module,
            askers[0],
            "host.kernel_module",
            text=f"its {host.kernel_module} kernel module stays with it",
        )


def _unless_any_meets(wish: str, tables: Tables) -> str:
    """Say which branches there are where a wish names none of them."""
    rows = tables.rows("drivers.branches")
    if any(drivers.meets(row["latest"], wish) for row in rows) or drivers.wanted_versions(wish):
        return ""
    return f"; the tables of {tables.as_of} know the branches {', '.join(row['branch'] for row in rows[-8:])}"


def _driver_for_gpu(problem: Problem, gpu: Gpu, member: str, tables: Tables) -> None:
    last, first = gpu.arch.get("driver_last"), (gpu.arch.get("driver_first") or {}).get(gpu.capability)
    bounds = [f"is not driven by any branch after {last}"] if last else []
    bounds += [f"needs driver {first} or newer"] if first else []
    problem.rule(
        DRIVER,
        "gpu_arch_vs_driver",
        lambda driver: gpu.arch_known_by(driver.version),
        member,
        text=f"{gpu.called()} {' and '.join(bounds)}",
        source=tables.source("gpus", gpu.arch),
    )
    if gpu.driver_first or first:
        told = ", ".join(f"{version} in branch {branch}" for branch, version in gpu.driver_first)
        problem.rule(
            DRIVER,
            "driver_vs_product",
            lambda driver: gpu.known_by(driver.version),
            member,
            text=f"{gpu.name} is known to drivers from {told or first} on",
            source=tables.source("gpus", gpu.arch),
        )
    rule = "pre_turing_proprietary_only" if gpu.modules == ("proprietary",) else "blackwell_open_only"
    problem.rule(
        DRIVER,
        "module_flavor",
        lambda driver: driver.module in gpu.modules,
        member,
        text=f"{gpu.called()} is driven by the {' or the '.join(gpu.modules)} kernel module"
        + (" alone" if len(gpu.modules) == 1 else ""),
        source=str(tables.source("drivers", tables.rule("drivers", rule))),
    )
    if not gpu.forward_compatible:
        problem.rule(
            DRIVER,
            "driver_vs_cuda",
            lambda driver: driver.compat is None,
            member,
            text=f"{gpu.name} is not known as a data center product, so no cuda-compat package helps an older driver",
            source=tables.source("cuda", tables.rule("cuda", "forward")),
        )
    for compat in tables.rows("cuda.forward_compatibility"):
        if numbers(gpu.capability) < numbers(compat["capability_min"]):
            _without_compat(problem, gpu, compat, member, tables)


def _without_compat(problem: Problem, gpu: Gpu, compat: Row, member: str, tables: Tables) -> None:
    problem.rule(
        DRIVER,
        "driver_vs_cuda",
        lambda driver: driver.compat is not compat,
        member,
        text=f"{gpu.called()} is left behind by CUDA {compat['cuda']}, whatever the cuda-compat package",
        source=tables.source("cuda", tables.rule("cuda", "forward_arch")),
    )


def _driver_for_system(problem: Problem, host: Host, tables: Tables) -> None:
    system = host.system
    if system is None and host.os_name:
        problem.rule(
            DRIVER,
            "os_vs_driver",
            lambda driver: driver.origin not in ("nvidia_repo", "distro") and driver.compat is None,
            "host.os",
            text=f"the tables of {tables.as_of} do not know {host.os_name}, so no repository is known for it",
            source="table systems.systems",
        )
    if system is not None:
        problem.rule(
            DRIVER,
            "os_vs_cuda",
            lambda driver: driver.compat is None or offers_cuda(system, host.machine, driver.compat["cuda"]),
            "host.os",
            "host.arch",
            text=f"NVIDIA's repository for {system['id']} on {host.machine} has no such cuda-compat package",
            source=tables.source("systems", system),
        )
        last = f" to CUDA {system['cuda_last']}" if system.get("cuda_last") else ""
        own = (
            ", ".join(row.get("version") or row["branch"] for row in system.get("distribution_drivers") or ()) or "none"
        )
        problem.rule(
            DRIVER,
            "os_vs_driver",
            lambda driver: driver.origin != "nvidia_repo" or drivers.from_nvidia(driver, system, tables),
            "host.os",
            text=f"NVIDIA's repository for {system['id']} has the drivers of CUDA {system['cuda_first']} on{last}",
            source=tables.source("systems", system),
        )
        problem.rule(
            DRIVER,
            "os_vs_driver",
            lambda driver: driver.offered,
            "host.os",
            text=f"{system['id']} has drivers of its own: {own}",
            source=tables.source("systems", system),
        )
        problem.rule(
            DRIVER,
            "os_vs_driver",
            lambda driver: driver.origin != "nvidia_repo" or host.machine in system["repository_arches"],
            "host.os",
            "host.arch",
            text=f"NVIDIA has no repository for {system['id']} on {host.machine}",
            source=tables.source("systems", system),
        )
    if host.secure_boot:
        rule = tables.rule("packages", "unsigned_refused")
        problem.rule(
            DRIVER,
            "secure_boot",
            lambda driver: driver.origin != "runfile",
            "host.secure_boot",
            text=f"Secure Boot is on: {rule['rule']}, and the runfile's module has none",
            source=tables.source("packages", rule),
        )


def _driver_for_kernel(
    problem: Problem, kernel: str, member: str, told: str, request: Mapping[str, Any], tables: Tables
) -> None:
    def limits() -> str:
        wish = request["driver"]
        rows = [
            f"{row['driver']} "
            + (f"fails from {row['fails']} on" if row.get("fails") else f"was seen to build up to {row['builds']}")
            for row in tables.rows("drivers.kernel_limits")
            if not row.get("packaging")
            and row.get("fails")
            and numbers(kernel)[:2] >= numbers(row["fails"])
            and (
                wish in ("auto", "keep")
                or drivers.meets(row["driver"], wish)
                or wish.startswith(branch_of(row["driver"]))
            )
        ]
        return f"{told} Linux {kernel}" + (f"; {'; '.join(rows[-3:])}" if rows else "")

    problem.rule(
        DRIVER,
        "driver_vs_kernel",
        lambda driver: drivers.builds_for(driver, kernel, tables) is not False,
        member,
        text=limits,
        source="table drivers.kernel_limits: reports of builds",
    )
    oldest = tables.rule("drivers", "open_kernel_min")
    problem.rule(
        DRIVER,
        "driver_vs_kernel",
        lambda driver: driver.module != "open" or not driver.built_here() or at_least(kernel, oldest["kernel"]),
        member,
        text=f"{told} Linux {kernel}, and {oldest['rule']}",
        source=tables.source("drivers", oldest),
    )


# --- toolkits and cuDNN ------------------------------------------------------------------------------------------


def add_toolkits(problem: Problem, host: Host, request: Mapping[str, Any], gpu: bool, tables: Tables) -> None:
    """Add each toolkit with the cuDNN beside it. None stands for: there is none; only a wish of auto takes that.

    Without a GPU to compute on, only what is named is there, and no driver and no GPU forbids it.
    """
    wishes = {index: wish for index, wish in enumerate(request["cuda_toolkits"]) if gpu or wish != "auto"}
    for index, wish in wishes.items():
        _add_toolkit(problem, index, wish, host, request, gpu, list(wishes), tables)
    if request["cudnn"] != "none":
        for index in wishes:
            _add_cudnn(problem, index, host, request, gpu, list(wishes), tables)


def _add_toolkit(
    problem: Problem,
    index: int,
    wish: str,
    host: Host,
    request: Mapping[str, Any],
    gpu: bool,
    indices: Sequence[int],
    tables: Tables,
) -> None:
    package, member = f"toolkit[{index}]", f"request.cuda_toolkits[{index}]"
    others = [f"toolkit[{other}]" for other in indices if other != index]
    choices = [*toolkit_choices(wish, host, request, tables), None]
    problem.add(package, choices, lambda toolkit: _toolkit_laws(problem, toolkit, wish, gpu, others, tables))
    if wish != "auto":
        problem.rule(
            package,
            "unknown_release",
            lambda toolkit: toolkit is not None and is_series(wish, toolkit.version),
            member,
            text=lambda: (
                f"CUDA toolkit {wish} is asked for"
                + _unless_known(wish, [row.version for row in toolkits(tables)], tables)
            ),
        )
    for place, found in enumerate(host.gpus or () if gpu else ()):
        _toolkit_for_gpu(problem, package, found, f"host.gpus[{place}]", tables)
    _toolkit_from_source(problem, package, host, request, tables)
    if request["cuda_components"] != "auto":
        _toolkit_with_components(problem, package, host, request["cuda_components"], tables)


def _toolkit_laws(
    problem: Problem, toolkit: Toolkit | None, wish: str, gpu: bool, others: Sequence[str], tables: Tables
) -> Sequence[Rule]:
    if toolkit is None:
        return ()
    floor, major, series = toolkit.driver_min, toolkit.major, toolkit.series
    laws = [
        problem.law(
            other,
            "two_of_one_series",
            (series, toolkit.version),
            lambda chosen: chosen is None or chosen.series != series or chosen.version == toolkit.version,
            text=f"a host has one toolkit of a series at a time, so one release of CUDA {series}",
            source="releases of a series have the same directory",
        )
        for other in others
    ]
    if not gpu:
        return laws
    laws.append(
        problem.law(
            DRIVER,
            "driver_vs_cuda",
            floor,
            lambda driver: driver.runs(floor, major),
            text=f"CUDA {major}.x needs driver {floor} or newer",
            source=tables.source("cuda", toolkit.row),
        )
    )
    if wish == "auto":
        # Left alone, the toolkit is one that the driver knows all of, portable code included.
        laws.append(
            problem.law(
                DRIVER,
                "driver_vs_cuda",
                ("native", toolkit.series),
                lambda driver: at_least(driver.native_cuda(), toolkit.series),
                text="auto takes no toolkit newer than the driver knows by itself; one named in cuda_toolkits may be "
                "newer",
            )
        )
    return laws


def _toolkit_for_gpu(problem: Problem, package: str, gpu: Gpu, member: str, tables: Tables) -> None:
    last = last_toolkit(gpu)
    source = tables.source("gpus", gpu.arch)
    if last:
        problem.rule(
            package,
            "gpu_arch_vs_cuda_max",
            lambda toolkit: toolkit is None or not toolkit_too_new(gpu, toolkit.version),
            member,
            text=f"{gpu.called()}: CUDA {last} is the last toolkit that compiles for it",
            source=source,
        )
    problem.rule(
        package,
        "gpu_arch_vs_cuda_min",
        lambda toolkit: toolkit is None or not toolkit_too_old(gpu, toolkit.version),
        member,
        text=f"{gpu.called()}: CUDA {first_toolkit(gpu)} is the first toolkit that compiles for it",
        source=source,
    )


def _toolkit_from_source(
    problem: Problem, package: str, host: Host, request: Mapping[str, Any], tables: Tables
) -> None:
    """A toolkit must be had from somewhere: from the source that is asked for, or any."""
    source = request["cuda_source"]
    if source == "nvidia_repo":
        _toolkit_in_repository(problem, package, host, tables)
    elif source == "auto" and (host.os_name or host.scope == "user"):
        user, first = host.scope == "user", redist_row("cuda", tables)["first"]
        archives = f"NVIDIA's archives begin with CUDA {first}"
        offers = f"{_repository_words(host, tables)}, and {archives}"
        problem.rule(
            package,
            "source_vs_cuda" if user else "os_vs_cuda",
            lambda toolkit: toolkit is None or is_available(toolkit, host, tables),
            "host.scope" if user else "host.os",
            text=f"without root a toolkit comes from an archive, and {archives}" if user else offers,
            source=_where_from(host, tables),
        )
    elif source != "auto":
        problem.rule(
            package,
            "source_vs_cuda",
            lambda toolkit: toolkit is None or is_available(toolkit, host, tables),
            "request.cuda_source",
            # What a distribution has is of no host whose system is not known, so no fact less would make it possible.
            *(("host.cuda",) if source == "existing" and not host.declared else ()),
            text=f"cuda_source: {source} is asked for, and {_source_words(source, host, tables)}",
            source=_where_from(host, tables),
        )
    if source not in ("auto", *ROOTLESS) and host.scope == "user":
        _needs_root(problem, package, "cuda_source", source)


def _needs_root(problem: Problem, package: str, key: str, source: str) -> None:
    """Refuse a source that changes the system where nobody may become root, whatever else would do."""
    problem.rule(
        package,
        "source_needs_root",
        lambda _: False,
        f"request.{key}",
        "host.scope",
        text=f"{key}: {source} is asked for, which needs root, and the user who logs in may not become root; redist "
        "needs none",
        source="packages and runfiles change the whole system",
    )


def _repository_words(host: Host, tables: Tables) -> str:
    if host.system is None:
        return f"the tables of {tables.as_of} do not know {host.os_name}, so no repository is known for it"
    name, first, last = host.system["id"], host.system["cuda_first"], host.system.get("cuda_last")
    if host.machine not in host.system["repository_arches"]:
        return f"NVIDIA has no repository for {name} on {host.machine}"
    return f"NVIDIA's repository for {name} has CUDA {first} {f'to {last}' if last else 'and newer'}"


def _source_words(source: str, host: Host, tables: Tables) -> str:
    """Say what a source has."""
    if source == "redist":
        return f"NVIDIA's archives begin with CUDA {redist_row('cuda', tables)['first']}"
    if source == "runfile":
        newest = next(toolkit.version for toolkit in toolkits(tables) if toolkit.row.get("runfile"))
        return f"the tables know NVIDIA's runfiles up to CUDA {newest}"
    if source == "existing":
        there = [f"{version} in {path}" for _, kind, version, path in host.toolkits if kind == "other" and version]
        return f"of others the host has {'CUDA ' + ', '.join(there) if there else 'no CUDA toolkit'}"
    row, name = distribution(host, tables), host.system["id"] if host.system else host.os_name or "the system"
    return f"{name} has CUDA {row['version']} of its own" if row else f"no CUDA of {name}'s own is known"


def _where_from(host: Host, tables: Tables) -> str:
    return tables.source("systems", host.system) if host.system else "table systems.systems"


def _toolkit_with_components(problem: Problem, package: str, host: Host, parts: Sequence[str], tables: Tables) -> None:
    """An archive must have the parts that are asked for; a name that no release has is refused for every source."""
    every = [row["name"] for row in tables.rows("cuda.components")]
    nowhere = [
        part
        for part in parts
        if all(part in missing([part], row.version, host.machine, tables) for row in toolkits(tables))
    ]
    hints = "; ".join(f"'{part}' is unknown, {nearest(part, every)}" for part in nowhere)
    problem.rule(
        package,
        "unknown_component",
        lambda toolkit: (
            not nowhere
            and (
                toolkit is None
                or toolkit.source != "redist"
                or not missing(parts, toolkit.version, host.machine, tables)
            )
        ),
        "request.cuda_components",
        text=f"the components {', '.join(parts)} are asked for"
        + (f"; {hints}" if hints else ", and not every CUDA has them"),
        source="table cuda.components: NVIDIA's lists of archives",
    )


def _toolkit_in_repository(problem: Problem, package: str, host: Host, tables: Tables) -> None:
    """NVIDIA's repository must have it for the system and the machine."""
    system = host.system
    if system is None:
        if host.os_name:
            problem.rule(
                package,
                "os_vs_cuda",
                lambda toolkit: toolkit is None,
                "host.os",
                text=_repository_words(host, tables),
                source="table systems.systems",
            )
        return
    first, last = system["cuda_first"], system.get("cuda_last")

    def offered(toolkit: Toolkit | None) -> bool:
        return toolkit is None or (
            at_least(toolkit.version, first) and (last is None or numbers(toolkit.version)[:2] <= numbers(last))
        )

    problem.rule(
        package,
        "os_vs_cuda",
        offered,
        "host.os",
        text=f"NVIDIA's repository for {system['id']} has CUDA {first} {f'to {last}' if last else 'and newer'}",
        source=tables.source("systems", system),
    )
    problem.rule(
        package,
        "os_vs_cuda",
        lambda toolkit: toolkit is None or host.machine in system["repository_arches"],
        "host.os",
        "host.arch",
        text=f"NVIDIA has no repository for {system['id']} on {host.machine}",
        source=tables.source("systems", system),
    )


def _unless_known(wish: str, versions: Sequence[str], tables: Tables) -> str:
    """Say what is known where a wish names nothing that is."""
    if any(is_series(wish, version) for version in versions):
        return ""
    near = [version for version in versions if version.split(".")[0] == wish.split(".")[0]][:6] or list(versions[:3])
    return f"; the tables of {tables.as_of} have no such release, near it are {', '.join(near)}"


def _add_cudnn(
    problem: Problem,
    index: int,
    host: Host,
    request: Mapping[str, Any],
    gpu: bool,
    indices: Sequence[int],
    tables: Tables,
) -> None:
    package, toolkit, wish, source = f"cudnn[{index}]", f"toolkit[{index}]", request["cudnn"], request["cudnn_source"]
    others = [f"toolkit[{other}]" for other in indices if other != index] if source == "nvidia_repo" else []
    problem.add(
        package,
        [*cudnn_choices(host, request, tables), None],
        lambda cudnn: _cudnn_laws(problem, cudnn, toolkit, others),
    )
    if wish != "auto":
        problem.rule(
            package,
            "unknown_release",
            lambda cudnn: cudnn is not None and is_series(wish, cudnn.version),
            "request.cudnn",
            text=lambda: (
                f"cuDNN {wish} is asked for" + _unless_known(wish, [row.version for row in cudnns(tables)], tables)
            ),
        )
    if source == "distro" and not (distribution(host, tables) or {}).get("cudnn"):
        name = host.system["id"] if host.system else host.os_name or "the system"
        problem.rule(
            package,
            "source_vs_cuda",
            lambda _: False,
            "request.cudnn_source",
            text=f"cudnn_source: distro is asked for, and no cuDNN of {name}'s own is known",
            source="table cuda.distribution",
        )
    if source != "auto" and request["cuda_toolkits"][index] != "auto":
        # Else nothing at all would be the answer to a source that cannot have it.
        problem.rule(
            package,
            "source_vs_cuda",
            lambda cudnn: cudnn is not None,
            "request.cudnn_source",
            text=f"cudnn_source: {source} is asked for",
        )
    if source in ("nvidia_repo", "distro") and host.scope == "user":
        _needs_root(problem, package, "cudnn_source", source)
    for place, found in enumerate(host.gpus or () if gpu else ()):
        cudnn_for_gpu(problem, package, found, f"host.gpus[{place}]", tables)


def _cudnn_laws(problem: Problem, cudnn: Cudnn | None, toolkit: str, others: Sequence[str]) -> Sequence[Rule]:
    if cudnn is None:
        return ()
    major = cudnn.cuda_major
    laws = [
        problem.law(
            toolkit,
            "cudnn_vs_cuda",
            major,
            lambda chosen: chosen is not None and chosen.major == major,
            text=f"cuDNN is built for one major of CUDA, and this one for {major}",
            source="table cudnn.releases",
        )
    ]
    return laws + [
        problem.law(
            other,
            "source_vs_cuda",
            ("one major", major),
            lambda chosen: chosen is None or chosen.major == major,
            "request.cudnn_source",
            text="NVIDIA's packages of cuDNN for two majors of CUDA exclude each other; redist has both",
            source="both packages have the same files",
        )
        for other in others
    ]


def cudnn_for_gpu(problem: Problem, package: str, gpu: Gpu, member: str, tables: Tables) -> None:
    """A cuDNN must serve every GPU; where there is none, there is nothing to serve."""
    problem.rule(
        package,
        "gpu_arch_vs_cudnn",
        lambda cudnn: cudnn is None or cudnn.serves(gpu, tables),
        member,
        text=lambda: cudnn_reach(gpu, tables),
        source="table cudnn.ranges: NVIDIA cuDNN support matrices",
    )


def cudnn_reach(gpu: Gpu, tables: Tables) -> str:
    """Say which cuDNN serves a GPU."""
    served = serving(gpu.capability, tables)
    if not served:
        return f"{gpu.called()} is served by no cuDNN of the tables"
    newest = cudnns(tables)[0].version
    return f"{gpu.called()} is served by cuDNN {served[-1]} " + (
        f"to {served[0]}" if served[0] != newest else "and newer"
    )
