# SPDX-License-Identifier: Apache-2.0
"""Free space: what a change needs of it, and where a host lacks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_compat.tables import Tables, shipped

MIB = 1 << 20


def lacking_space(free: Mapping[str, Any] | None, purpose: str, tables: Tables | None = None) -> list[str]:
    """Name the directories that have less free space than a change needs.

    Args:
        free: free bytes by directory, as in the facts; where they are not known, nothing is said.
        purpose: ``for`` in the table ``packages.space``: driver, next_kernel, toolkit_packages or toolkit_runfile.
        tables: the tables, the shipped ones if not given.
    """
    return [
        f"{row['path']} has {value // MIB} MiB free, and {row['mib']} MiB are needed for {row['what']}"
        for row in (tables or shipped()).rows("packages.space")
        if row["for"] == purpose
        and (value := (free or {}).get(row["path"])) is not None
        and value < int(row["mib"]) * MIB
    ]
