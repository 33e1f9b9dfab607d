# SPDX-License-Identifier: Apache-2.0
"""Filters of the compatibility engine: a thin shim, all thinking is in lib/gpu_compat."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ansible.context import CLIARGS
from ansible.errors import AnsibleFilterError
from ansible.utils.vars import transform_to_native_types

try:
    import gpu_compat
except ImportError:  # not installed as a package: take it from the checkout that this file belongs to
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))
    import gpu_compat

from gpu_compat import fleet, render
from gpu_compat.hosts import Host, host_from_facts, read_host
from gpu_compat.tables import Tables, with_overlay

try:  # Ansible remembers where each value was written; private so far, so it may be missing.
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover - depends on the version of Ansible
    Origin = None


#: The roles that are set up with variables of their own.
SETTING_ROLES = ("nvidia_driver", "cuda_toolkit", "cudnn")
#: Variables of a run that are true or false.
SWITCHES = ("gpulab_uniform_driver", "gpulab_go_on_without_unplannable", "plan_ask_hosts")


def _native(value: Any) -> Any:
    """Turn Ansible's tagged and lazy values into plain ones, once, at the edge."""
    return transform_to_native_types(value, redact=False)


def _origins(value: Any, path: str = "gpu_stack") -> dict[str, str]:
    """Map each path in ``value`` to the file and line where it was written, as far as Ansible knows."""
    found: dict[str, str] = {}
    if Origin is None:
        return found
    origin = Origin.get_tag(value)
    if origin is not None and origin.path:
        found[path] = f"{origin.path}:{origin.line_num}" if origin.line_num else str(origin.path)
    if isinstance(value, Mapping):
        for key, item in value.items():
            found.update({f"{path}.{key}": where for where in [_origins(key, "k").get("k", "")] if where})
            found.update(_origins(item, f"{path}.{key}"))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            found.update(_origins(item, f"{path}[{index}]"))
    return found


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the library's error into one that Ansible prints without a traceback."""

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gpu_compat.CompatError as error:
            raise AnsibleFilterError(f"the inventory cannot be used:\n{error}") from error

    return call


def validate(request: Any) -> dict[str, Any]:
    """See gpu_compat_validate.yml."""
    return gpu_compat.read_request(_native(request))


def check(hosts: Any, hostvars: Any) -> list[str]:
    """See gpu_compat_check.yml."""
    raw = {str(host): hostvars[host].get("gpu_stack") for host in hosts}
    found = gpu_compat.check_requests(_native(raw), {host: _origins(value) for host, value in raw.items()})
    # What holds for a whole run is that of the first host, in whose name all are planned.
    first = next((hostvars[host] for host in hosts), {})
    found += fleet.check_switches(_native({name: first.get(name) for name in SWITCHES}))
    overlay = first.get("gpulab_compat_overlay")
    try:
        tables = _tables(overlay)
    except gpu_compat.CompatError as error:
        return [*found, *map(str, error.mistakes)]
    declared = {host: hostvars[host].get("gpu_host") for host in raw}
    declared = {host: value for host, value in declared.items() if value is not None}
    origins = {host: _origins(value, "gpu_host") for host, value in declared.items()}
    return [*found, *fleet.check_declarations(_native(declared), origins, tables)]


def plan(
    request: Any,
    facts: Any,
    overlay: Any = None,
    driver_as_it_is: bool = False,
    container_is_host: bool = False,
) -> dict[str, Any]:
    """See gpu_compat_plan.yml."""
    tables = _tables(overlay)
    host = host_from_facts(_native(facts), tables, container_is_host=container_is_host)
    return gpu_compat.plan(_native(request), host, tables, driver_as_it_is=driver_as_it_is)


def plan_fleet(
    hosts: Any,
    hostvars: Any,
    unanswered: Any = None,
    overlay: Any = None,
    uniform: bool = False,
    driver_as_it_is: bool = False,
    container_is_host: bool | None = None,
) -> dict[str, Any]:
    """See gpu_compat_fleet.yml."""
    tables = _tables(overlay)
    wishes: dict[str, tuple[Any, Host]] = {}
    unknown: dict[str, str] = {}
    known: dict[str, str] = {}
    for name in map(str, hosts):
        variables = hostvars[name]
        facts = (variables.get("ansible_facts") or {}).get("gpu_facts")
        declared = variables.get("gpu_host")
        if facts:
            known[name] = "asked"
            own_kernel = _owns_kernel(variables) if container_is_host is None else container_is_host
            host = host_from_facts(_native(facts), tables, container_is_host=own_kernel)
            wishes[name] = (_native(variables.get("gpu_stack")), host)
        elif declared is not None:
            known[name] = "declared"
            wishes[name] = (_native(variables.get("gpu_stack")), _declared(name, declared, tables))
        else:
            unknown[name] = str((unanswered or {}).get(name) or "the host has not been asked")
    answers = fleet.plan_fleet(wishes, uniform=uniform, tables=tables, driver_as_it_is=driver_as_it_is)
    found: dict[str, Any] = {}
    for name in map(str, hosts):
        answer = answers[name] if name in answers else fleet.nothing_known(unknown[name], tables)
        found[name] = {**answer, "facts": known.get(name, "none")}
        if known.get(name) == "declared" and (unanswered or {}).get(name):
            found[name]["warnings"] = [f"the host could not be asked: {unanswered[name]}", *answer["warnings"]]
    return found


def _owns_kernel(variables: Any) -> bool:
    """Tell whether a host's inventory says that the kernel module is its own business, container or not."""
    return str(variables.get("nvidia_driver_manage_kernel_module", "")).lower() in ("true", "yes")


def _declared(name: str, declared: Any, tables: Tables) -> Host:
    try:
        return read_host(_native(declared), tables)
    except gpu_compat.CompatError as error:
        raise gpu_compat.CompatError(
            [gpu_compat.Mistake(f"{name}: gpu_{mistake.path}", mistake.message) for mistake in error.mistakes]
        ) from error


def text(answers: Any) -> str:
    """See gpu_compat_text.yml."""
    return render.fleet_text(_native(answers))


def refusals(answers: Any) -> list[str]:
    """See gpu_compat_refusals.yml."""
    return fleet.refusals(_native(answers))


def _tables(overlay: Any) -> Tables:
    """Return the tables with a lab's own rows; equal rows are checked and laid over once in a run."""
    plain = _native(overlay) if overlay else None
    return _overlaid(json.dumps(plain, sort_keys=True, default=str)) if plain else with_overlay(None)


@cache
def _overlaid(text_of_overlay: str) -> Tables:
    from gpu_compat.check import read_overlay  # long, and most labs have no rows of their own

    name = "gpulab_compat_overlay"
    try:
        return with_overlay(read_overlay(json.loads(text_of_overlay), ""))
    except gpu_compat.CompatError as error:
        named = [
            gpu_compat.Mistake(f"{name}.{mistake.path}".rstrip("."), mistake.message) for mistake in error.mistakes
        ]
        raise gpu_compat.CompatError(named) from error


def change(planned: Any, facts: Any, rebuild: Any = (), driver_settings: Any = None) -> dict[str, Any]:
    """See gpu_compat_change.yml."""
    settings = _settings(driver_settings)
    return gpu_compat.change(
        _native(planned), _native(facts), _native(rebuild), settings["nvidia_driver"], settings_by_role=settings
    )


def _settings(variables: Any) -> dict[str, dict[str, Any]]:
    """Choose the variables of each role that differ from its defaults, from all variables of a host.

    So a role that sees its own defaults and a play that does not come to the same.
    """
    chosen: dict[str, dict[str, Any]] = {role: {} for role in SETTING_ROLES}
    for name in sorted(map(str, variables or ())):
        role = next((role for role in SETTING_ROLES if name.startswith(f"{role}_")), None)
        if role is None:
            continue
        value, defaults = _native(variables[name]), _role_defaults(role)
        if name not in defaults or value != defaults[name]:
            chosen[role][name] = value
    return chosen


@cache
def _role_defaults(role: str) -> dict[str, Any]:
    import yaml  # Ansible has loaded it already

    path = Path(__file__).resolve().parent.parent / "roles" / role / "defaults" / "main.yml"
    return dict(yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def doctor(planned: Any, facts: Any, change: Any = None, driver_settings: Any = None) -> list[dict[str, Any]]:
    """See gpu_compat_doctor.yml."""
    plain = _native(planned)
    conflicts: list[Any] = []
    if plain and "status" in plain:
        plain, conflicts = plain["plan"], plain["conflicts"]
    settings = _settings(driver_settings)
    return gpu_compat.examine(
        plain, _native(facts), _native(change), settings["nvidia_driver"], conflicts, settings_by_role=settings
    )


def doctor_text(findings_by_host: Any) -> str:
    """See gpu_compat_doctor_text.yml."""
    return gpu_compat.doctor_text(_native(findings_by_host))


def removal(facts: Any, overlay: Any = None) -> dict[str, Any]:
    """See gpu_compat_removal.yml."""
    return gpu_compat.removal(_native(facts), _tables(overlay))


def removal_cuda(facts: Any, product: str | None = None) -> dict[str, Any]:
    """See gpu_compat_removal_cuda.yml."""
    return gpu_compat.removal_cuda(_native(facts), product or None)


def lacking_space(free: Any, purpose: str) -> list[str]:
    """See gpu_compat_lacking_space.yml."""
    return gpu_compat.lacking_space(_native(free), purpose)


def taking_own_compiler(toolkits: Any, compilers: Any) -> list[str]:
    """See gpu_compat_taking_own_compiler.yml."""
    return gpu_compat.taking_own_compiler(_native(toolkits), _native(compilers))


def provided(planned: Any, facts: Any, unavailable: Any = ()) -> dict[str, Any]:
    """See gpu_compat_provided.yml."""
    return gpu_compat.provided(_native(planned), _native(facts), _native(unavailable))


def become_password_given(host_variables: Any) -> bool:
    """See become_password_given.yml."""
    asked = any(CLIARGS.get(option) for option in ("become_ask_pass", "become_password_file"))
    return asked or any(host_variables.get(name) for name in ("ansible_become_password", "ansible_become_pass"))


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the names used in templates."""
        return {
            "gpu_compat_validate": _explained(validate),
            "gpu_compat_check": _explained(check),
            "gpu_compat_plan": _explained(plan),
            "gpu_compat_fleet": _explained(plan_fleet),
            "gpu_compat_taking_own_compiler": _explained(taking_own_compiler),
            "gpu_compat_text": _explained(text),
            "gpu_compat_refusals": _explained(refusals),
            "gpu_compat_change": _explained(change),
            "gpu_compat_doctor": _explained(doctor),
            "gpu_compat_doctor_text": _explained(doctor_text),
            "gpu_compat_removal": _explained(removal),
            "gpu_compat_removal_cuda": _explained(removal_cuda),
            "gpu_compat_lacking_space": _explained(lacking_space),
            "gpu_compat_provided": _explained(provided),
            "become_password_given": become_password_given,
        }
