# SPDX-License-Identifier: Apache-2.0
"""The same question for many hosts at once, answered once for hosts that are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from gpu_compat.conflicts import entry
from gpu_compat.errors import CompatError
from gpu_compat.hosts import Host, read_host
from gpu_compat.plan import plan
from gpu_compat.render import name_hosts
from gpu_compat.request import read_request
from gpu_compat.tables import Tables, shipped
from gpu_compat.versions import numbers

#: Where each value was written: path in the request -> "file:line". May be empty.
Origins = Mapping[str, str]
Answer = dict[str, Any]


def plan_fleet(
    wishes: Mapping[str, tuple[Any, Host]],
    *,
    uniform: bool = False,
    tables: Tables | None = None,
    today: date | None = None,
    driver_as_it_is: bool = False,
) -> dict[str, Answer]:
    """Plan many hosts; the cost grows with the situations that differ, not with the hosts.

    Args:
        wishes: host name -> request and host.
        uniform: one driver branch for all hosts with GPUs, beside what each request says of the driver. Nothing
            where nothing installs a driver.
        tables, today, driver_as_it_is: as for :func:`gpu_compat.plan`.

    Returns:
        host name -> answer, as :func:`gpu_compat.plan` gives it. Hosts in one situation share one answer: do not
        change it.

    Raises:
        CompatError: a request cannot be read.
    """
    tables, today = tables or shipped(), today or date.today()
    situations: dict[str, tuple[Any, Host]] = {}
    of_host: dict[str, str] = {}
    keys: dict[int, str] = {}
    for name, (request, host) in wishes.items():
        # Requests mostly come from one group and are the same object, so writing them out once is enough.
        written = keys.get(id(request)) or keys.setdefault(id(request), repr(request))
        key = f"{written}\n{host_key(host)}"
        situations.setdefault(key, (request, host))
        of_host[name] = key

    def answers(branch: str | None = None) -> dict[str, Answer]:
        return {
            key: plan(request, host, tables, today, driver_as_it_is, branch)
            for key, (request, host) in situations.items()
        }

    found = answers()
    if uniform and not driver_as_it_is:
        hosts: dict[str, list[str]] = {}
        for name, key in of_host.items():
            hosts.setdefault(key, []).append(name)
        found = _one_branch(found, answers, hosts, tables)
    return {name: found[key] for name, key in of_host.items()}


def nothing_known(reason: str, tables: Tables) -> Answer:
    """Return the answer for a host that nobody could ask and that nobody has described."""
    message = f"nothing is known of this host: {reason}, and its inventory declares no gpu_host"
    found = [entry("host_unknown", message, ["host"], "the inventory")]
    nothing: Answer = {"plan": None, "reasons": [], "conflicts": found, "alternatives": [], "warnings": []}
    return {"status": "conflict", "data_as_of": tables.as_of, **nothing}


def host_key(host: Host) -> str:
    """Return what tells situations apart: equal keys get equal plans."""
    gpus = None if host.gpus is None else [(gpu.name, gpu.capability, gpu.unknown) for gpu in host.gpus]
    system = host.system["id"] if host.system else host.os_name
    return repr((system, gpus, replace(host, system=None, gpus=None, warnings=())))


def _one_branch(
    first: dict[str, Answer], answers: Any, hosts: Mapping[str, list[str]], tables: Tables
) -> dict[str, Answer]:
    """Find the newest branch that every host can have; where there is none, say so at each host."""
    drivers = [answer["plan"]["driver"] for answer in first.values() if answer["plan"]]
    branches = {driver["branch"] for driver in drivers if driver}
    if len(branches) < 2:
        return first
    # A host that cannot have the newest stands for all: no branch above the lowest will do, and rarely one below it.
    rows = sorted(tables.rows("drivers.branches"), key=lambda row: numbers(row["branch"]), reverse=True)
    lowest = min(branches, key=numbers)
    for row in rows:
        if numbers(row["branch"]) > numbers(lowest):
            continue
        trial: dict[str, Answer] = answers(row["branch"])
        if all(trial[key]["status"] == "planned" for key, answer in first.items() if answer["status"] == "planned"):
            return trial
    wanting: dict[str, list[str]] = {}
    for key, answer in first.items():
        if answer["plan"] and answer["plan"]["driver"]:
            wanting.setdefault(answer["plan"]["driver"]["branch"], []).extend(hosts[key])
    told = [f"{branch} ({name_hosts(wanting[branch])})" for branch in sorted(wanting, key=numbers)]
    message = (
        "one driver branch is asked for on all hosts, but they would have "
        f"{', '.join(told)}, and no branch fits all of them"
    )
    conflict = entry(
        "mixed_gpus_no_common_driver", message, ["host.gpus", "gpulab_uniform_driver"], "table drivers.branches"
    )
    return {
        key: {**answer, "status": "conflict", "plan": None, "conflicts": [*answer["conflicts"], conflict]}
        for key, answer in first.items()
    }


def check_requests(requests: Mapping[str, Any], origins: Mapping[str, Origins] | None = None) -> list[str]:
    """Check the request of every host before any host is touched.

    Args:
        requests: host name -> ``gpu_stack`` as plain data, or ``None`` where the host has none.
        origins: host name -> where its values were written, when that is known.

    Returns:
        One line per mistake, empty when every request can be read.
    """
    return _check(requests, origins or {}, _mistakes)


def check_declarations(
    declared: Mapping[str, Any], origins: Mapping[str, Origins] | None = None, tables: Tables | None = None
) -> list[str]:
    """Check what the inventory declares of hosts, ``gpu_host``; as :func:`check_requests` does requests."""

    def judge(host: Any) -> list[tuple[str, str]]:
        try:
            read_host(host, tables)
        except CompatError as error:
            return [(f"gpu_{mistake.path}", mistake.message) for mistake in error.mistakes]
        return []

    return _check(declared, origins or {}, judge)


def check_switches(values: Mapping[str, Any]) -> list[str]:
    """Check variables that are true or false, by name; words count, as on a command line everything is a word."""
    words = ("true", "false", "yes", "no", "on", "off", "1", "0")
    return [
        f"{name}: must be true or false, but is '{value}'"
        for name, value in values.items()
        if value is not None and str(value).lower() not in words
    ]


def _check(
    values: Mapping[str, Any], origins: Mapping[str, Origins], judge: Callable[[Any], list[tuple[str, str]]]
) -> list[str]:
    """Judge the value of every host; a mistake that several inherit from one group is told once, and names them."""
    hosts_by_line: dict[str, list[str]] = {}
    judged: dict[str, list[tuple[str, str]]] = {}
    for host, value in values.items():
        key = repr(value)
        if key not in judged:
            judged[key] = judge(value)
        for path, message in judged[key]:
            where = _origin(path, origins.get(host, {}))
            line = f"{path}: {message}" + (f"  [{where}]" if where else "")
            hosts_by_line.setdefault(line, []).append(host)
    return [f"{name_hosts(hosts)}: {line}" for line, hosts in hosts_by_line.items()]


def refusals(answers: Mapping[str, Answer]) -> list[str]:
    """Return one line for each conflict, with the hosts that have it named."""
    hosts_by_line: dict[str, list[str]] = {}
    for host, answer in answers.items():
        for conflict in answer["conflicts"]:
            hosts_by_line.setdefault(f"{conflict['message']} [{conflict['id']}]", []).append(host)
    return [f"{name_hosts(hosts)}: {line}" for line, hosts in hosts_by_line.items()]


def _mistakes(request: Any) -> list[tuple[str, str]]:
    if request is None:
        return [("gpu_stack", "is not set for this host; see inventories/local/group_vars/all.yml for an example")]
    try:
        read_request(request)
    except CompatError as error:
        return [(f"gpu_stack.{m.path}" if m.path else "gpu_stack", m.message) for m in error.mistakes]
    return []


def _origin(path: str, origins: Origins) -> str:
    """Find where ``path``, or the nearest thing around it, was written."""
    while path:
        if path in origins:
            return origins[path]
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return ""
