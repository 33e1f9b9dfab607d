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

from gpu_compat import answer, conflicts, toolkit_plan
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
from gpu_compat.versions import newer

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
        add_toolkits(problem, self.host, self.request, self.profile.gpu, self.tables)
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
        chosen = toolkit_plan.chosen_toolkits(solution, self.request)
        toolkits = toolkit_plan.toolkit_entries(
            [toolkit for _, toolkit in chosen], self.request, self.host, self.profile.gpu, self.tables
        )
        cudnns = toolkit_plan.chosen_cudnn(solution)
        whole: dict[str, Any] = {
            "profile": self.profile.name,
            "driver": answer.driver_entry(driver, self.host, self.tables) if driver else None,
            "cuda_toolkits": toolkits,
            "cudnn": toolkit_plan.cudnn_entries(cudnns, toolkits, self.request, self.host, self.tables),
            "cuda_compat_package": driver.compat["package"] if driver and driver.compat else None,
            "fabric_manager": answer.fabric_entry(driver, self.host, self.tables) if driver else None,
            "secure_boot": answer.secure_boot_entry(driver, self.host, self.tables) if driver else None,
            "environments": [],
            "unavailable_environments": unavailable,
        }
        if driver:
            self._explain_driver(problem, solution, whole)
        self._explain_toolkits(problem, solution, dict(zip([index for index, _ in chosen], toolkits, strict=True)))
        for name in [name for name in solution if name.startswith("cudnn[") and solution[name]]:
            self._reason(name, solution[name].version, *why(problem, solution, name, self.tables))
        for entry in whole["cudnn"]:
            self.warnings += toolkit_plan.cudnn_warnings(entry)
        without = sorted({row["major"] for row in toolkits} - {row["cuda_major"] for row in whole["cudnn"]})
        if without and self.request["cudnn"] == "auto":
            majors = " and ".join(map(str, without))
            self.warnings.append(
                f"no cuDNN of the tables fits CUDA {majors} and what is on the host; none is installed"
            )
        if driver:
            self._explain_beside(whole)
        self._warn_of_what_has_no_effect(bool(driver), toolkits)
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

    def _explain_driver(self, problem: Problem, solution: Solution, whole: Mapping[str, Any]) -> None:
        driver = solution[DRIVER]
        self.warnings += answer.driver_warnings(driver, self.host, self.tables)
        self._reason("driver", driver.version, *why(problem, solution, DRIVER, self.tables))

    def _explain_toolkits(self, problem: Problem, solution: Solution, entries: Mapping[int, Mapping[str, Any]]) -> None:
        driver = solution.get(DRIVER)
        for index, wish in enumerate(self.request["cuda_toolkits"]):
            if f"toolkit[{index}]" not in solution:
                continue
            toolkit = solution[f"toolkit[{index}]"]
            because, source = why(problem, solution, f"toolkit[{index}]", self.tables)
            because = because.removeprefix("nothing fits; ")
            self._reason(f"cuda_toolkits[{index}]", toolkit.version if toolkit else "none", because, source)
            if toolkit is None:
                self.warnings.append(
                    f"no CUDA toolkit fits ({because}); none is installed, the wheels bring their own runtime"
                )
            elif driver and wish != "auto" and not driver.compat and newer(toolkit.series, driver.native_cuda()):
                self.warnings.append(
                    f"CUDA toolkit {toolkit.version} is newer than driver {driver.version} knows "
                    f"({driver.native_cuda()}): what it compiles to "
                    "portable code (PTX) does not run; compile for the GPU's own capability"
                )
            if index in entries:
                words = toolkit_plan.source_words(toolkit, self.request, self.host, self.tables)
                source = self.tables.source("systems", self.host.system) if self.host.system else "the request itself"
                self._reason(f"cuda_toolkits[{index}].source", toolkit.source, words, source)
                self._explain_compiler(index, entries[index])
                self.warnings += toolkit_plan.toolkit_warnings(toolkit, entries[index], self.host, self.tables)

    def _explain_compiler(self, index: int, entry: Mapping[str, Any]) -> None:
        compiler = entry["host_compiler"]
        if compiler:
            choice = f"gcc {compiler['major']}"
            self._reason(
                f"cuda_toolkits[{index}].host_compiler", choice, f"{choice}: {compiler['why']}", "table cuda.toolkits"
            )

    def _explain_beside(self, whole: Mapping[str, Any]) -> None:
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

    def _warn_of_what_has_no_effect(self, gpu: bool, toolkits: Sequence[Mapping[str, Any]]) -> None:
        """Say which wishes a plan leaves out, so that nobody waits for them."""
        request = self.request
        if not gpu and request["driver"] not in ("auto", "keep", "none"):
            self.warnings.append(f"driver: {request['driver']} has no effect without a GPU")
        why = "without a CUDA toolkit beside it"
        named = {key: request[key] for key in ("cuda_source", "cuda_components", "cudnn", "cudnn_source")}
        wanted = {key: value for key, value in named.items() if value != "auto" and (key, value) != ("cudnn", "none")}
        if not toolkits:
            self.warnings += [f"{key}: {_written(value)} has no effect {why}" for key, value in wanted.items()]
            return
        if request["cudnn"] == "none" and "cudnn_source" in wanted:
            self.warnings.append(f"cudnn_source: {request['cudnn_source']} has no effect with cudnn: none")
        whole = [row["version"] for row in toolkits if row["source"] not in ("redist", "existing")]
        if whole and "cuda_components" in wanted:
            self.warnings.append(
                f"cuda_components chooses parts of archives; CUDA {', '.join(whole)} comes whole from its source"
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


def _written(value: Any) -> str:
    """Return a wish as it is written in the inventory."""
    return value if isinstance(value, str) else f"[{', '.join(value)}]"


def _old(tables: Tables, today: date) -> list[str]:
    age = (today - date.fromisoformat(tables.as_of)).days
    if age <= OLD_AFTER:
        return []
    return [
        f"the tables are of {tables.as_of}, {age} days old: newer drivers and releases are not "
        "known; python -m gpu_compat update refreshes them"
    ]
