# SPDX-License-Identifier: Apache-2.0
"""The plan: what will be true of a host and why, or the reason why its request cannot be met.

Request and host become a :class:`~gpu_compat.problem.Problem`, the solver answers it, and this module puts the answer
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from gpu_compat import answer, conflicts
from gpu_compat.conflicts import Conflict
from gpu_compat.explain import why
from gpu_compat.hosts import Host
from gpu_compat.problem import Problem
from gpu_compat.profile import decide_profile
from gpu_compat.remedies import remedies
from gpu_compat.request import read_request
from gpu_compat.rules_environment import Environment, Place
from gpu_compat.rules_host import DRIVER, add_driver, add_toolkits
from gpu_compat.solver import Solution, possible, solve
from gpu_compat.tables import Tables, shipped

#: Tables older than this many days give a warning.
OLD_AFTER = 90


def plan(
    request: Any,
    host: Host,
    tables: Tables | None = None,
    today: date | None = None,
    driver_as_it_is: bool = False,
    driver_branch: str | None = None,
) -> dict[str, Any]:
    """Plan one host.

    Args:
        request: a ``gpu_stack``, plain data.
        host: from :func:`gpu_compat.hosts.read_host` or :func:`gpu_compat.hosts.host_from_facts`.
        tables: the tables, the shipped ones if not given.
        today: the day for which the age of the tables is judged.
        driver_as_it_is: nothing will install a driver, so what is loaded must do; the request may still exclude it.
        driver_branch: the branch of all hosts, beside what the request says of this one's driver.

    Returns:
        ``status`` ("planned" or "conflict"), ``data_as_of``, ``plan`` (None on conflict), ``reasons``, ``conflicts``,
        ``alternatives``, ``warnings``. The same input always gives the same output.

    Raises:
        CompatError: the request cannot be read.
    """
    read = read_request(request)
    return Planner(read, host, tables or shipped(), today or date.today(), driver_as_it_is, driver_branch).answer()


class Planner:
    """Plans one host."""

    def __init__(
        self,
        request: Mapping[str, Any],
        host: Host,
        tables: Tables,
        today: date,
        driver_as_it_is: bool = False,
        driver_branch: str | None = None,
    ) -> None:
        # Where nothing installs a driver, or nobody may, only a loaded one counts.
        driver_as_it_is = driver_as_it_is or host.driver_stays
        as_it_is = replace(host, driver=host.loaded, kernel_module=host.loaded_module) if driver_as_it_is else host
        self.request, self.host, self.tables = request, as_it_is, tables
        self.driver_as_it_is, self.driver_branch = driver_as_it_is, driver_branch
        self.reasons: list[dict[str, str]] = []
        self.warnings: list[str] = _old(tables, today)
        if host.declared and host.gpus is not None:
            self.warnings += list(host.warnings)
        self.profile = decide_profile(request, as_it_is, tables, driver_as_it_is)
        self.warnings += self.profile.warnings
        self.places = [Place(index, wish) for index, wish in enumerate(request["environments"]) if not wish["existing"]]

    def answer(self) -> dict[str, Any]:
        """Return the whole answer."""
        self._reason("profile", self.profile.name, self.profile.because, "PCI, or what the inventory declares")
        if self.profile.conflicts:
            return self._answer(None, self.profile.conflicts)
        problem = self.problem(self.places)
        solution = solve(problem)
        unavailable: list[dict[str, str]] = []
        if solution is None:
            required = self._places(optional=False)
            if len(required) < len(self.places):
                problem = self.problem(required)
            if len(required) == len(self.places) or not possible(problem):
                found = self._conflicts(problem, required)
                changes = remedies(found, self.request, problem, self._trial, self.profile.gpu)
                return self._answer(None, [conflict for conflict, _ in found], changes)
            unavailable = self._leave_out()
            problem = self.problem(self.places)
            solution = solve(problem)
            assert solution is not None, "what is kept was seen to be possible"
        return self._answer(self._plan(problem, solution, unavailable), [])

    def _places(self, optional: bool) -> list[Place]:
        """Return the environments that may be left out, or those that may not."""
        return [place for place in self.places if self.request["environments"][place.index]["optional"] == optional]

    def _leave_out(self) -> list[dict[str, str]]:
        """Leave out each optional environment for which the host, what must be, and the optional ones before it have no
        room; return their names and why."""
        kept, left_out = self._places(optional=False), []
        for place in self._places(optional=True):
            problem = self.problem([*kept, place])
            if possible(problem):
                kept.append(place)
            else:
                name = self.request["environments"][place.index]["name"]
                reasons = [conflict["message"] for conflict, _ in self._conflicts(problem, [place])]
                left_out.append({"name": name, "reason": reasons[0] if reasons else "nothing in the tables fits it"})
        self.places = sorted(kept, key=lambda place: place.index)
        return left_out

    def problem(self, places: Sequence[Place]) -> Problem:
        """State the problem of the host with some of its environments."""
        problem = Problem()
        if self.profile.gpu:
            add_driver(problem, self.host, self.request, self.tables)
            if self.driver_as_it_is:
                text = f"driver {self.host.driver} is loaded, and nothing installs another"
                problem.rule(
                    DRIVER,
                    "driver_vs_cuda",
                    lambda driver: driver.version == self.host.driver,
                    "host.driver",
                    text=text,
                )
            if self.driver_branch:
                problem.rule(
                    DRIVER,
                    "mixed_gpus_no_common_driver",
                    lambda driver: driver.branch == self.driver_branch,
                    "gpulab_uniform_driver",
                    text=f"one driver branch is asked for on all hosts, and all can have {self.driver_branch}",
                )
            add_toolkits(problem, self.host, self.request, self.tables)
        for place in places:
            Environment(problem, place, self.host, self.request, self.profile.gpu, self.tables).add()
        return problem

    # --- conflicts ---------------------------------------------------------------------------------------------

    def _conflicts(self, problem: Problem, places: Sequence[Place]) -> list[tuple[Conflict, frozenset[str]]]:
        """Find conflicts of the host first, then of each of some environments on it, with the members they rest on."""
        shared = [name for name in problem.candidates if not name.startswith("env[")]
        host = problem.part(shared)
        found = conflicts.find(host)
        # What stands between the host and its request is not told again with each environment.
        known = [members for _, members in found]
        for place in places:
            found += conflicts.find(problem.part([*shared, *place.packages()]), known)
        # Environments that are possible each by itself can still want different toolkits of one host.
        return found or conflicts.find(problem)

    def _trial(self, request: Mapping[str, Any]) -> Problem | None:
        """State the problem of the same host with another request; None where not even its profile can be decided."""
        other = Planner(request, self.host, self.tables, date.min, self.driver_as_it_is, self.driver_branch)
        return None if other.profile.conflicts else other.problem(other._places(optional=False))

    # --- the plan ----------------------------------------------------------------------------------------------

    def _plan(self, problem: Problem, solution: Solution, unavailable: list[dict[str, str]]) -> dict[str, Any]:
        driver = solution.get(DRIVER)
        whole: dict[str, Any] = {
            "profile": self.profile.name,
            "driver": answer.driver_entry(driver, self.host, self.tables) if driver else None,
            "cuda_toolkits": answer.toolkit_entries(solution, self.request, self.tables) if driver else [],
            "cudnn": answer.cudnn_entries(solution, self.host, self.tables),
            "cuda_compat_package": driver.compat["package"] if driver and driver.compat else None,
            "fabric_manager": answer.fabric_entry(driver, self.host, self.tables) if driver else None,
            "secure_boot": answer.secure_boot_entry(driver, self.host, self.tables) if driver else None,
            "environments": [],
            "unavailable_environments": unavailable,
        }
        if driver:
            self._explain_host(problem, solution, whole)
        self._warn_of_what_has_no_effect(bool(driver))
        planned = {
            place.index: answer.environment_entry(problem, solution, place, self.host, self.tables)
            for place in self.places
        }
        for index, wish in enumerate(self.request["environments"]):
            if wish["existing"]:
                whole["environments"].append(answer.existing_entry(wish, self.tables))
            elif index in planned:
                whole["environments"].append(planned[index])
        for place in self.places:
            self._explain_environment(problem, solution, place)
        return whole

    def _explain_host(self, problem: Problem, solution: Solution, whole: Mapping[str, Any]) -> None:
        driver = solution[DRIVER]
        self.warnings += answer.driver_warnings(driver, self.host, self.tables)
        self._reason("driver", driver.version, *why(problem, solution, DRIVER, self.tables))
        for index, wish in enumerate(self.request["cuda_toolkits"]):
            toolkit = solution[f"toolkit[{index}]"]
            because, source = why(problem, solution, f"toolkit[{index}]", self.tables)
            because = because.removeprefix("nothing fits; ")
            self._reason(f"cuda_toolkits[{index}]", toolkit.version if toolkit else "none", because, source)
            if toolkit is None:
                self.warnings.append(
                    f"no CUDA toolkit fits ({because}); none is installed, the wheels bring their own runtime"
                )
            elif wish != "auto" and not driver.compat and numbers_after(toolkit.series, driver.native_cuda()):
                self.warnings.append(
                    f"CUDA toolkit {toolkit.version} is newer than driver {driver.version} knows "
                    f"({driver.native_cuda()}): what it compiles to "
                    "portable code (PTX) does not run; compile for the GPU's own capability"
                )
            if toolkit is not None:
                self._warn_of_compiler(toolkit)
        for name in [name for name in solution if name.startswith("cudnn[") and solution[name]]:
            self._reason(name, solution[name].version, *why(problem, solution, name, self.tables))
        for key in ("fabric_manager", "secure_boot"):
            if whole[key]:
                because = (
                    whole[key].get("because")
                    or "GPUs are joined by NVSwitch; the fabric manager's version must be the driver's"
                )
                self._reason(
                    key,
                    whole[key].get("package") or whole[key]["method"],
                    because,
                    whole[key].get("source")
                    or self.tables.source("drivers", self.tables.rule("drivers", "fabric_manager_exact")),
                )

    def _warn_of_what_has_no_effect(self, gpu: bool) -> None:
        """Say which wishes a plan leaves out, so that nobody waits for them."""
        request, wanted = self.request, []
        if not gpu:
            wanted += [f"driver: {request['driver']}"] if request["driver"] not in ("auto", "keep", "none") else []
            wanted += (
                [f"cuda_toolkits: {', '.join(row)}"]
                if (row := [v for v in request["cuda_toolkits"] if v != "auto"])
                else []
            )
        if not gpu or not request["cuda_toolkits"]:
            wanted += [f"cudnn: {request['cudnn']}"] if request["cudnn"] not in ("auto", "none") else []
        why = "without a GPU" if not gpu else "without a CUDA toolkit beside it"
        self.warnings += [f"{wish} has no effect {why}" for wish in wanted]

    def _warn_of_compiler(self, toolkit: Any) -> None:
        system, limit = self.host.system, toolkit.row.get("gcc_max")
        if system and limit and int(system["gcc"].split(".")[0]) > int(limit):
            self.warnings.append(
                f"nvcc of CUDA {toolkit.version} accepts gcc up to {limit}; {system['id']} has "
                f"{system['gcc']}, so an older gcc is needed beside it"
            )

    def _explain_environment(self, problem: Problem, solution: Solution, place: Place) -> None:
        name = place.wish["name"]
        if not self.profile.gpu:
            asked = [
                framework for framework, wish in place.wish["frameworks"].items() if wish["cuda"] not in (None, "cpu")
            ]
            self.warnings += [
                f"environment {name}: cuda: {place.wish['frameworks'][framework]['cuda']} of "
                f"{framework} has no effect without a GPU"
                for framework in asked
            ]
        python = solution[place.package("python")]
        self._reason(
            f"environments.{name}.python", python, *why(problem, solution, place.package("python"), self.tables)
        )
        for framework in place.wish["frameworks"]:
            build = solution[place.package(framework)]
            choice = f"{build.version} ({build.wheel})" if build.wheel else build.version
            self._reason(
                f"environments.{name}.{framework}",
                choice,
                *why(problem, solution, place.package(framework), self.tables),
            )
            self.warnings += answer.build_warnings(build, place, self.host, python)
        cudnn = solution.get(place.package("cudnn"))
        if cudnn:
            self._reason(
                f"environments.{name}.cudnn",
                cudnn.version,
                *why(problem, solution, place.package("cudnn"), self.tables),
            )

    def _reason(self, about: str, choice: str, because: str, source: str) -> None:
        self.reasons.append({"about": about, "choice": str(choice), "because": because, "source": source})

    def _answer(
        self, planned: dict[str, Any] | None, found: list[Conflict], changes: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        return {
            "status": "conflict" if found else "planned",
            "data_as_of": self.tables.as_of,
            "plan": planned,
            "reasons": self.reasons,
            "conflicts": found,
            "alternatives": list(changes),
            "warnings": list(dict.fromkeys(self.warnings)),
        }


def numbers_after(version: str, other: str) -> bool:
    """Tell whether a CUDA series is newer than another."""
    return tuple(map(int, version.split("."))) > tuple(map(int, other.split(".")))


def _old(tables: Tables, today: date) -> list[str]:
    age = (today - date.fromisoformat(tables.as_of)).days
    if age <= OLD_AFTER:
        return []
    return [
        f"the tables are of {tables.as_of}, {age} days old: newer drivers and releases are not "
        "known; python -m gpu_compat update refreshes them"
    ]
