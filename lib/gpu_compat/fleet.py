# SPDX-License-Identifier: Apache-2.0
"""The same question for many hosts at once, answered once for hosts that are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_compat.errors import CompatError
from gpu_compat.request import read_request

#: Where each value was written: path in the request -> "file:line". May be empty.
Origins = Mapping[str, str]


def check_requests(requests: Mapping[str, Any], origins: Mapping[str, Origins] | None = None) -> list[str]:
    """Check the request of every host before any host is touched.

    A mistake that several hosts inherit from one group is reported once, with those hosts named.

    Args:
        requests: host name -> ``gpu_stack`` as plain data, or ``None`` where the host has none.
        origins: host name -> where its values were written, when that is known.

    Returns:
        One line per mistake, empty when every request can be read.
    """
    hosts_by_line: dict[str, list[str]] = {}
    answers: dict[str, list[tuple[str, str]]] = {}
    for host, request in requests.items():
        key = repr(request)
        if key not in answers:
            answers[key] = _mistakes(request)
        for path, message in answers[key]:
            where = _origin(path, (origins or {}).get(host, {}))
            line = f"{path}: {message}" + (f"  [{where}]" if where else "")
            hosts_by_line.setdefault(line, []).append(host)
    return [f"{name_hosts(hosts)}: {line}" for line, hosts in hosts_by_line.items()]


def name_hosts(hosts: Sequence[str], most: int = 5) -> str:
    """Name a few hosts and count the rest: ``gpu01, gpu02 and 38 more``."""
    shown = ", ".join(hosts[:most])
    rest = len(hosts) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


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
