# SPDX-License-Identifier: Apache-2.0
"""Filters that the roles cuda_toolkit and cudnn share: how packages are asked for and kept, and how things are said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ansible.utils.vars import transform_to_native_types


def at_version(planned: Iterable[Mapping[str, Any]], joint: str) -> list[str]:
    """Return what to ask a package manager for; ``joint`` is before the version, ``=`` for apt, ``-`` for dnf."""
    return [
        f"{name}{joint}{row['package_version']}" if row.get("package_version") else name
        for row in planned
        for name in row.get("packages") or ()
    ]


def locks(packages: Mapping[str, Mapping[str, Any]] | None, patterns: Sequence[str]) -> list[str]:
    """Return the installed packages that patterns name, each with its version, as dnf locks them.

    The parts of a toolkit have versions of their own, so a version of the toolkit would lock them out.
    """
    return [
        f"{name}-{row['version']}.*"
        for name, row in sorted((packages or {}).items())
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def manifest(planned: str, own: str) -> str:
    """Return the address of a manifest, with the lab's own base address or directory in the place of NVIDIA's."""
    return f"{own.rstrip('/')}/{planned.rsplit('/', 1)[-1]}" if own else planned


def archive_text(row: Mapping[str, Any]) -> str:
    """Name an archive as a person reads it: ``cuda_nvcc 13.0.88, 36 MB``."""
    return f"{row['component']} {row['version']}, {size_text(row['size'])}"


def size_text(size: int) -> str:
    """Say a size as download pages do."""
    if size >= 10**9:
        return f"{size / 10**9:.1f} GB"
    return f"{max(1, round(size / 10**6))} MB"


def probe_lines(checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what was proven, a line for each check."""
    return [
        (f"{row['subject']}: " if row.get("subject") else "")
        + row["what"]
        + (f" ({row['detail']})" if row.get("detail") else "")
        for row in checks
    ]


def _on_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter see plain values, without Ansible's tags."""
    return lambda *args: function(*(transform_to_native_types(value, redact=False) for value in args))


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the names used in templates."""
        return {
            "cuda_at_version": _on_plain(at_version),
            "cuda_locks": _on_plain(locks),
            "cuda_manifest": _on_plain(manifest),
            "cuda_archive_text": _on_plain(archive_text),
            "cuda_size_text": _on_plain(size_text),
            "cuda_probe_lines": _on_plain(probe_lines),
        }
