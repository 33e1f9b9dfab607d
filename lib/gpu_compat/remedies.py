# SPDX-License-Identifier: Apache-2.0
"""Remedies: what could be wished for instead, each tried before it is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpu_compat.answer import keras_backend
from gpu_compat.conflicts import Conflict
from gpu_compat.problem import Problem
from gpu_compat.solver import Solution, possible, solve
from gpu_compat.wheels import Build

#: States the problem of the same host with another request, None where that cannot be.
Trial = Callable[[Mapping[str, Any]], Problem | None]
Change = dict[str, Any]
#: How the members of environments begin, before the number.
_ENVIRONMENT = "request.environments["


def remedies(
    found: Sequence[tuple[Conflict, frozenset[str]]],
    request: Mapping[str, Any],
    problem: Problem,
    trial: Trial,
    gpu: bool,
) -> list[Change]:
    """Return changes of wishes, each of which ends one of the conflicts; with a single conflict, each makes a plan.

    Args:
        found: conflicts with the members they rest on.
        request: the request as read.
        problem: the problem, without a solution.
        trial: states the problem of another request.
        gpu: whether GPUs are used.
    """
    every = frozenset(member for _, members in found for member in members)
    changes: dict[str, Change] = {}
    for conflict, members in found:
        others = every - members if len(found) > 1 else frozenset[str]()
        proposed = [*_values(problem, members, every, request), *_larger(conflict, members, request, trial, gpu)]
        for change in proposed:
            other = trial(changed(request, change["change"]))
            if other is not None and possible(other, others):
                changes.setdefault(str(change["change"]), change)
    return list(changes.values())


def _values(
    problem: Problem, members: frozenset[str], every: frozenset[str], request: Mapping[str, Any]
) -> list[Change]:
    """Return other values of single wishes, from a solution without each of them."""
    found = []
    for member in sorted(member for member in members if member.startswith("request.")):
        relaxed = f"{member}#version" if ".frameworks." in member else member
        solution = solve(problem, every - members | {relaxed})
        change = _change(member, solution, request) if solution else None
        if change:
            found.append(change)
    return found


def _larger(
    conflict: Conflict, members: frozenset[str], request: Mapping[str, Any], trial: Trial, gpu: bool
) -> list[Change]:
    """Return changes beyond single values: another toolkit, one environment in two, a host without its GPUs."""
    changes = [
        _other_toolkit(member, request, trial)
        for member in sorted(members)
        if member.startswith("request.cuda_toolkits[")
    ]
    of_environments = sorted(member for member in members if member.startswith(_ENVIRONMENT))
    places = list(dict.fromkeys(int(member.removeprefix(_ENVIRONMENT).partition("]")[0]) for member in of_environments))
    if len(places) == 1 and len(request["environments"]) > 1:
        name = request["environments"][places[0]]["name"]
        says = f"the rest of the request; environment {name} is left out until it is possible"
        changes.append({"change": {f"{_ENVIRONMENT}{places[0]}].optional": True}, "gives": says})
    if conflict["id"] == "environment_pins":
        place = places[0]
        split = split_environment(request["environments"][place])
        if len(split) > 1:
            names = " and ".join(wish["name"] for wish in split)
            changes.append(
                {
                    "change": {f"request.environments[{place}]": [_short(wish) for wish in split]},
                    "gives": f"{names}, each with the newest that fits",
                }
            )
    if gpu and any(member.startswith("host.gpus") for member in members):
        says = "builds for the processor; the verdict makes no claim about the GPUs"
        changes.append({"change": {"request.profile": "cpu"}, "gives": says})
    return changes


def _other_toolkit(member: str, request: Mapping[str, Any], trial: Trial) -> Change:
    """Return the toolkit that would be chosen, had none been asked for by name."""
    index = int(member.partition("[")[2].rstrip("]"))
    wishes = ["auto" if place == index else wish for place, wish in enumerate(request["cuda_toolkits"])]
    other = trial({**request, "cuda_toolkits": wishes})
    toolkit = ((solve(other) if other else None) or {}).get(f"toolkit[{index}]")
    if toolkit is None:
        return {"change": {"request.cuda_toolkits": []}, "gives": "no CUDA toolkit; the wheels bring their own runtime"}
    return {"change": {member: toolkit.version}, "gives": f"CUDA toolkit {toolkit.version}"}


def _change(member: str, solution: Solution, request: Mapping[str, Any]) -> Change | None:
    """Return what to write instead of a wish, from a solution without it."""
    if member in ("request.driver", "request.kernel_module", "request.driver_source") and "driver" not in solution:
        return None
    if member == "request.driver":
        driver = solution["driver"]
        return {
            "change": {member: f"{driver.version}"},
            "gives": f"driver {driver.version}, {driver.module or 'installed'} kernel module",
        }
    if member == "request.kernel_module":
        return {
            "change": {member: solution["driver"].module},
            "gives": f"driver {solution['driver'].version} with the {solution['driver'].module} kernel module",
        }
    if member == "request.driver_source":
        return {
            "change": {member: solution["driver"].origin},
            "gives": f"driver {solution['driver'].version} from {solution['driver'].origin}",
        }
    if member == "request.cudnn":
        versions = sorted({value.version for name, value in solution.items() if name.startswith("cudnn[") and value})
        return (
            {"change": {member: versions[-1]}, "gives": f"cuDNN {', '.join(versions)}"}
            if versions
            else {"change": {member: "none"}, "gives": "no system cuDNN; wheels bring their own"}
        )
    if member.startswith(_ENVIRONMENT):
        return _environment_change(member, solution, request)
    return None


def _environment_change(member: str, solution: Solution, request: Mapping[str, Any]) -> dict[str, Any] | None:
    place, _, name = member.removeprefix(_ENVIRONMENT).partition("].")
    if name == "python":
        version = solution[f"env[{place}].python"]
        return {"change": {member: version}, "gives": f"Python {version}"}
    build: Build = solution[f"env[{place}].{name.removeprefix('frameworks.')}"]
    wish = request["environments"][int(place)]["frameworks"][build.framework]
    unchanged = wish["version"] in ("newest", "any", f"=={build.version}") and not wish["cuda"]
    if unchanged:
        return None  # it was never the version: without the framework itself it would be possible
    value: Any = f"=={build.version}"
    if wish["cuda"]:
        value = {"version": value, "cuda": _cuda_wish(build)}
    built = f", {build.wheel}" if build.wheel else ""
    return {
        "change": {member: value},
        "gives": f"{build.framework} {build.version}{built}, Python {solution[f'env[{place}].python']}",
    }


def _cuda_wish(build: Build) -> str:
    """Return what to write of CUDA for a build."""
    if build.framework == "pytorch" or not build.bundled:
        return build.wheel
    return build.cuda_major or "cpu"


def changed(request: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request, as read, with an alternative written into it: ``{"request.driver": "580"}``."""
    result: dict[str, Any] = dict(request)
    for path, value in change.items():
        key, _, rest = path.removeprefix("request.").partition("[")
        if not rest:
            result[key] = value
            continue
        index, _, inner = rest.partition("]")
        place, entries = int(index), list(result[key])
        before = entries[place]
        if isinstance(value, list):
            entries[place : place + 1] = [
                {
                    **before,
                    **row,
                    "keras_backend": "auto",
                    "frameworks": {name: _wish(want) for name, want in row["frameworks"].items()},
                }
                for row in value
            ]
        elif not inner:
            entries[place] = value
        elif inner.startswith(".frameworks."):
            frameworks = {**before["frameworks"], inner.removeprefix(".frameworks."): _wish(value)}
            entries[place] = {**before, "frameworks": frameworks}
        else:
            entries[place] = {**before, inner.removeprefix("."): value}
        result[key] = entries
    return result


def _wish(value: Any) -> dict[str, Any]:
    """Return what is wanted of a framework as a request has it once it is read."""
    return dict(value) if isinstance(value, Mapping) else {"version": value, "cuda": None}


def split_environment(wish: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split an environment into one for each framework; Keras goes with what it computes on."""
    carriers = [name for name in wish["frameworks"] if name != "keras"]
    taken = {"tensorflow": "tf", "pytorch": "torch", "jax": "jax"}
    backend = keras_backend(wish)
    split = []
    for name in carriers:
        frameworks = {name: wish["frameworks"][name]}
        keeps = "keras" in wish["frameworks"] and backend == {"pytorch": "torch"}.get(name, name)
        if keeps:
            frameworks["keras"] = wish["frameworks"]["keras"]
        split.append(
            {
                **wish,
                "name": f"{wish['name']}-{taken[name]}",
                "frameworks": frameworks,
                "keras_backend": backend if keeps else "auto",
            }
        )
    return split


def _short(wish: Mapping[str, Any]) -> dict[str, Any]:
    """Return an environment as a person would write it."""
    frameworks = {
        name: want["version"] if not want["cuda"] else dict(want) for name, want in wish["frameworks"].items()
    }
    return {"name": wish["name"], "frameworks": frameworks}
