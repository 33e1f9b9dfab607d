# SPDX-License-Identifier: Apache-2.0
"""Why a choice was made: what stood against everything that would have been preferred."""

from __future__ import annotations

from typing import Any

from gpu_compat.drivers import LIVING, SUPPORTED, Driver
from gpu_compat.problem import Candidate, Problem, Rule
from gpu_compat.solver import Solution
from gpu_compat.tables import Tables
from gpu_compat.toolkits import Cudnn, Toolkit
from gpu_compat.wheels import Build, label

#: Reasons beyond these are not told.
MOST = 3


def why(problem: Problem, solution: Solution, package: str, tables: Tables) -> tuple[str, str]:
    """Return one sentence on a choice, and the sources of the rules that led to it."""
    chosen = next(candidate for candidate in problem.candidates[package] if candidate.value is solution[package])
    rules: dict[str, Rule] = {}
    for candidate in problem.candidates[package][: chosen.index]:
        rule = _against(problem, solution, candidate)
        # That there are GPUs goes without saying.
        if rule and rule.says() and rule.members != {"host.gpus"}:
            rules.setdefault(rule.says(), rule)
    told = list(rules.values())[:MOST]
    sources = dict.fromkeys(rule.origin() for rule in told if rule.source)
    return "; ".join([_first_words(solution[package], tables), *(rule.says() for rule in told)]), "; ".join(
        sources
    ) or _own_source(solution[package], tables)


def _against(problem: Problem, solution: Solution, candidate: Candidate) -> Rule | None:
    """Return the rule that stood against a candidate, the rest of the solution being as it is."""
    bit = 1 << candidate.index
    for rule in problem.rules:
        if rule.package == candidate.package and rule.id and not problem.mask(rule) & bit:
            return rule
    for law in candidate.requires():
        if law.package in solution and not law.accepts(solution[law.package]):
            return law
    for package, value in solution.items():
        if package != candidate.package:
            held = next(one for one in problem.candidates[package] if one.value is value)
            for law in held.requires():
                if law.package == candidate.package and not problem.mask(law) & bit:
                    return law
    return None


def _first_words(value: Any, tables: Tables) -> str:
    """Say what is chosen."""
    if isinstance(value, Driver):
        return _driver_words(value)
    if isinstance(value, Toolkit):
        return f"CUDA {value.version} is the newest that fits"
    if isinstance(value, Cudnn):
        return f"cuDNN {value.version} for CUDA {value.cuda_major} is the newest that fits"
    if isinstance(value, Build):
        built = f" for {'the processor' if value.cuda is None else f'CUDA {value.cuda}'}" if value.wheel else ""
        return f"{label(value.framework, tables)} {value.version}{built} is the newest that fits"
    if isinstance(value, str):
        return f"Python {value} fits all that is in the environment"
    return "nothing fits"


def _driver_words(driver: Driver) -> str:
    status = {
        "lts": "long-term support",
        "production": "production",
        "new_feature": "new features",
        "ended": "ended",
        "legacy": "legacy",
    }[driver.row["status"]]
    until = (
        f" until {driver.row['end_of_life']}"
        if driver.row.get("end_of_life") and driver.row["status"] in SUPPORTED
        else ""
    )
    if driver.origin == "preinstalled":
        return f"driver {driver.version} is installed and stays"
    stays = (
        "is installed, its branch is supported, and everything fits it"
        if driver.installed and driver.row["status"] in LIVING
        else "is the best that fits"
    )
    return f"driver {driver.version} (branch {driver.branch}, {status}{until}) {stays}"


def _own_source(value: Any, tables: Tables) -> str:
    if isinstance(value, Driver):
        return tables.source("drivers", value.row) if "source" in value.row else ""
    if isinstance(value, Toolkit):
        return tables.source("cuda", value.row)
    if isinstance(value, Cudnn):
        return tables.source("cudnn", value.row)
    return (
        value.source
        if isinstance(value, Build)
        else "order of preference: the host's own, then the system's, then the newest"
    )
