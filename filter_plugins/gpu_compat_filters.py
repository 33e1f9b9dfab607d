# SPDX-License-Identifier: Apache-2.0
"""Filters of the compatibility engine: a thin shim, all thinking is in lib/gpu_compat."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
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

try:  # Ansible remembers where each value was written; private so far, so it may be missing.
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover - depends on the version of Ansible
    Origin = None


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
            raise AnsibleFilterError(f"gpu_stack cannot be used:\n{error}") from error

    return call


def validate(request: Any) -> dict[str, Any]:
    """See gpu_compat_validate.yml."""
    return gpu_compat.read_request(_native(request))


def check(hosts: Any, hostvars: Any) -> list[str]:
    """See gpu_compat_check.yml."""
    raw = {str(host): hostvars[host].get("gpu_stack") for host in hosts}
    return gpu_compat.check_requests(_native(raw), {host: _origins(value) for host, value in raw.items()})


def plan(request: Any, facts: Any) -> dict[str, Any]:
    """See gpu_compat_plan.yml."""
    return gpu_compat.plan(_native(request), _native(facts))


def change(planned: Any, facts: Any, rebuild: Any = ()) -> dict[str, Any]:
    """See gpu_compat_change.yml."""
    return gpu_compat.change(_native(planned), _native(facts), _native(rebuild))


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
            "gpu_compat_change": _explained(change),
            "gpu_compat_provided": _explained(provided),
            "become_password_given": become_password_given,
        }
