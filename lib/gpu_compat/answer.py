# SPDX-License-Identifier: Apache-2.0
"""The plan as roles and people read it, from a solution of the problem."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_compat import driver_packages
from gpu_compat.drivers import LIVING, Driver, builds_for, is_known
from gpu_compat.hosts import Host
from gpu_compat.problem import Candidate, Problem
from gpu_compat.request import KERAS_BACKENDS
from gpu_compat.rules_environment import Place
from gpu_compat.solver import Solution
from gpu_compat.tables import Row, Tables
from gpu_compat.toolkits import Cudnn
from gpu_compat.versions import at_least, matches, numbers
from gpu_compat.wheels import Build, framework

Plan = dict[str, Any]


def driver_entry(driver: Driver, host: Host, tables: Tables) -> Plan:
    """Return what roles need to install a driver, and to keep and to remove it."""
    return {
        "version": driver.version,
        "branch": driver.branch,
        # What is installed and cannot be read stays unsaid.
        "kernel_module": driver.module if driver.origin != "preinstalled" or host.kernel_module else None,
        "source": driver.origin,
        "signed": driver.signed,
        "cuda": driver.native_cuda(),
        **driver_packages.entry(driver, host, tables),
    }


def fabric_entry(driver: Driver, host: Host, tables: Tables) -> Plan | None:
    """Return the fabric manager where GPUs are joined by NVSwitch; its version is the driver's, exactly."""
    parts = [gpu.fabric for gpu in host.gpus or () if gpu.fabric is not None]
    if not host.nvswitch and not parts:
        return None
    family = host.system["family"] if host.system else None

    def fits(row: Row) -> bool:
        return (
            row.get("family") in (None, family)
            and row.get("origin") in (None, driver.origin)
            and (row.get("from") is None or numbers(driver.branch) >= numbers(row["from"]))
            and (row.get("to") is None or numbers(driver.branch) <= numbers(row["to"]))
        )

    package = next(row for row in tables.rows("packages.fabric_manager") if fits(row))["package"]
    components = dict.fromkeys(component for found in parts for component in found)
    extra = [
        next(row for row in tables.rows("packages.fabric_extra") if row["component"] == name and fits(row))["package"]
        for name in components
    ]
    return {
        "package": package.format(branch=driver.branch),
        "version": driver.version,
        "extra_packages": [name.format(branch=driver.branch) for name in extra],
    }


def secure_boot_entry(driver: Driver, host: Host, tables: Tables) -> Plan | None:
    """Return how the module gets a signature where Secure Boot is on."""
    if not host.secure_boot or driver.origin == "preinstalled":
        return None
    method = "signed_modules" if driver.signed else "machine_owner_key"
    rule = tables.rule("packages", method)
    return {
        "method": method,
        "console_confirmation": not driver.signed,
        "because": rule["rule"],
        "source": tables.source("packages", rule),
    }


# --- environments ------------------------------------------------------------------------------------------------


def existing_entry(wish: Mapping[str, Any], tables: Tables) -> Plan:
    """Return an environment that is not ours: it is validated and never changed."""
    return {
        **_common(wish, tables),
        "frameworks": {name: {"version": "any"} for name in wish["frameworks"]},
        "digest": "",
    }


def _common(wish: Mapping[str, Any], tables: Tables) -> Plan:
    return {
        "name": wish["name"],
        "optional": wish["optional"],
        "existing": wish["existing"],
        "keras_backend": keras_backend(wish),
        "imports": [framework(name, tables)["import"] for name in wish["frameworks"]],
    }


def keras_backend(wish: Mapping[str, Any]) -> str | None:
    """Return the framework that Keras computes on here, None where there is no Keras."""
    if "keras" not in wish["frameworks"]:
        return None
    if wish["keras_backend"] != "auto":
        return str(wish["keras_backend"])
    return next(backend for name, backend in KERAS_BACKENDS.items() if name in wish["frameworks"])


def environment_entry(problem: Problem, solution: Solution, place: Place, host: Host, tables: Tables) -> Plan:
    """Return one environment; equal contents have equal digests."""
    chosen = {name: solution[place.package(name)] for name in place.wish["frameworks"]}
    cudnn: Cudnn | None = solution.get(place.package("cudnn"))
    python = solution[place.package("python")]
    machine = host.machine
    entry = {
        **_common(place.wish, tables),
        "manager": place.wish["manager"],
        "python": python,
        "interpreter": _interpreter(python, place, host),
        "cuda_major": next((int(build.cuda_major) for build in chosen.values() if build.cuda_major), None),
        "frameworks": {name: _framework(build, cudnn, host, tables) for name, build in chosen.items()},
        "requirements": [f"{build.requirement(machine, tables)}=={build.version}" for build in chosen.values()],
        "constraints": [f"nvidia-cudnn-cu{cudnn.cuda_major}=={cudnn.version}"]
        if cudnn and _leaves_open(chosen.values())
        else [],
        "packages": [],
        "torch_packages": [],
    }
    _add_packages(entry, place.wish, tables)
    gpu = any(build.cuda for build in chosen.values())
    entry["forbidden"] = [] if gpu else [row["prefix"] for row in tables.rows("environments.cuda_packages")]
    entry["resolve"] = [_range(problem, solution, place, name, host, tables) for name in chosen] + entry["packages"]
    return {**entry, "digest": _digest(entry)}


def _leaves_open(chosen: Any) -> bool:
    return any(build.cuda and build.framework in ("tensorflow", "jax") for build in chosen)


def _framework(build: Build, cudnn: Cudnn | None, host: Host, tables: Tables) -> Plan:
    """Return one framework; keys that do not apply are left out."""
    entry: Plan = {"version": build.version, "package": build.requirement(host.machine, tables).split("[")[0]}
    if build.wheel:
        entry["wheel"] = build.wheel
    if build.cuda:
        loaded = cudnn.version if cudnn else build.cudnn
        entry |= {"cuda": build.cuda, "sm": list(build.kernels(host.machine) or ())}
        entry |= {"cudnn": loaded} if loaded else {}
        entry |= {"ptx": build.ptx} if build.ptx else {}
    if build.index():
        entry |= {
            "index": build.index(),
            "on_package_index": build.default_aarch64 if host.machine == "aarch64" else build.default,
        }
    return entry


def _interpreter(python: str, place: Place, host: Host) -> str | None:
    """Return the path of the host's interpreter, None where there is none of that version that can make the
    environment."""
    if place.wish["manager"] == "conda":
        return None
    for interpreter in host.pythons or ():
        # The manager venv needs a module that some hosts lack.
        if interpreter.version == python and (place.wish["manager"] != "venv" or interpreter.venv):
            return interpreter.path
    return None


def _add_packages(entry: Plan, wish: Mapping[str, Any], tables: Tables) -> None:
    """Add what the frameworks are used with and the packages of each field; PyTorch's own come from where it comes
    from."""
    packages: set[str] = set()
    for name in wish["frameworks"]:
        packages |= set(framework(name, tables).get("companions", ()))
    of_torch: set[str] = set()
    for extra in wish["extras"]:
        row = next(row for row in tables.rows("environments.extras") if row["name"] == extra)
        packages |= set(row["packages"])
        if "pytorch" in wish["frameworks"]:
            of_torch |= set(row.get("with_pytorch") or ())
    entry["packages"] = sorted(packages | of_torch)
    entry["torch_packages"] = ["torch", *sorted(of_torch)] if "pytorch" in wish["frameworks"] else []


def _range(problem: Problem, solution: Solution, place: Place, name: str, host: Host, tables: Tables) -> str:
    """Return what the resolver is given for a framework.

    A source may not carry the newest release yet. So any release down from the chosen one is allowed, in the same
    build, as long as each of them meets every rule beside the rest of the solution.
    """
    package = place.package(name)
    chosen: Build = solution[package]
    low = chosen
    for candidate in _older(problem.candidates[package], chosen):
        if not _stands_in(problem, solution, package, candidate):
            break
        low = candidate.value
    wanted = chosen.requirement(host.machine, tables)
    return f"{wanted}=={chosen.version}" if low is chosen else f"{wanted}>={low.version},<={chosen.version}"


def _older(found: Sequence[Candidate], chosen: Build) -> list[Candidate]:
    """Return the candidates of the same build, from the chosen one down."""
    return [
        candidate
        for candidate in found
        if candidate.value.wheel == chosen.wheel and not matches(candidate.value.version, f">={chosen.version}")
    ]


def _stands_in(problem: Problem, solution: Solution, package: str, candidate: Candidate) -> bool:
    """Tell whether a candidate could replace the choice for its package, all else being as it is."""
    if not all(problem.mask(rule) & (1 << candidate.index) for rule in problem.rules if rule.package == package):
        return False
    if not all(law.accepts(solution[law.package]) for law in candidate.requires() if law.package in solution):
        return False
    for other, found in problem.candidates.items():
        if other != package and other.split(".")[0] == package.split(".")[0] and other in solution:
            held = next(one for one in found if one.value is solution[other])
            if not all(law.accepts(candidate.value) for law in held.requires() if law.package == package):
                return False
    return True


def _digest(entry: Plan) -> str:
    """Digest what an environment is made of. Where its Python comes from does not count: once a missing one has been
    provided, the same plan finds it on the host."""
    parts = {key: value for key, value in entry.items() if key not in ("optional", "interpreter")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# --- warnings ----------------------------------------------------------------------------------------------------


def driver_warnings(driver: Driver, host: Host, tables: Tables) -> list[str]:
    """Say what an admin should know of the driver."""
    found = []
    row = driver.row
    if row["status"] not in LIVING:
        ended = f" since {row['end_of_life']}" if row.get("end_of_life") else ""
        why = (
            "it is installed and is to stay"
            if driver.origin == "preinstalled"
            else "it is planned because no newer one fits all of the request"
        )
        found.append(f"driver branch {driver.branch} gets no fixes any more{ended}; {why}")
    if host.driver and driver.version != host.driver:
        found.append(f"driver {host.driver} is installed and would be replaced; driver: keep asks for it to stay")
    known = row["latest"] if row["branch"] == driver.branch else None
    if known and driver.version != known and driver.exact:
        if at_least(known, driver.version):
            found.append(
                f'driver {driver.version} is not the newest of its branch; driver: "{known}" would change to it'
            )
        else:
            found.append(
                f"driver {driver.version} is newer than the tables of {tables.as_of} ({known}); "
                "it is planned as its branch"
            )
    elif (
        not is_known(driver.version, tables)
        and driver.exact
        and driver.origin != "preinstalled"
        and not driver.installed
    ):
        found.append(f"whether a driver {driver.version} was ever released is not in the tables of {tables.as_of}")
    if driver.origin in ("nvidia_repo", "distro") and not driver_packages.driver_packages(driver, host, tables)[0]:
        system = host.os_name or "a system that is not known"
        found.append(f"no names of packages are known for {system}; the plan has the driver's version alone")
    found += [
        f"nobody has reported yet whether driver {driver.version} builds for Linux {kernel}"
        for kernel in host.kernels
        if builds_for(driver, kernel, tables) is None
    ]
    if driver.compat:
        found.append(
            f"{driver.compat['package']} lets driver {driver.version} run CUDA "
            f"{driver.compat['cuda']}: {driver.compat['note']}"
        )
    if driver.origin == "preinstalled" and host.kernel_module is None:
        found.append(f"driver {driver.version} is installed, and the flavour of its kernel module is not known")
    return found


def build_warnings(build: Build, place: Place, host: Host, python: str) -> list[str]:
    """Say what a user of an environment should know of a framework."""
    found = []
    where = f"environment {place.wish['name']}"
    for gpu in host.gpus or ():
        if build.cuda is None or gpu.unknown:
            continue
        if build.documented_min and numbers(gpu.capability) < numbers(build.documented_min):
            found.append(
                f"{where}: JAX promises support from compute capability {build.documented_min} "
                f"on; {gpu.called()} may work"
            )
        if build.framework == "pytorch" and numbers(gpu.capability) < (5, 0):
            found.append(
                f"{where}: nobody has verified that cuDNN {build.cudnn} in this wheel serves "
                f"{gpu.called()}; validate before use"
            )
        if build.framework == "pytorch" and numbers(gpu.capability) < (7, 0):
            found.append(
                f"{where}: torch.compile needs compute capability 7.0 (triton); {gpu.called()} runs eager code only"
            )
    if build.status == "legacy":
        found.append(f"{where}: {build.wheel} is PyTorch's legacy build; it ends with 2.14")
    elif build.status:
        found.append(f"{where}: {build.framework} {build.version} {build.wheel} is {build.status}")
    if (
        host.pythons is not None
        and python not in [interpreter.version for interpreter in host.pythons]
        and place.wish["manager"] != "conda"
    ):
        found.append(f"{where}: Python {python} will be provided; the host does not have it")
    return list(dict.fromkeys(found))
