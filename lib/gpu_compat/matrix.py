# SPDX-License-Identifier: Apache-2.0
"""What a GPU can run: the engine's own answers for each compute capability, as text or as docs/compatibility.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from gpu_compat.gpus import Gpu, first_toolkit, identify, last_toolkit
from gpu_compat.hosts import Host
from gpu_compat.plan import plan
from gpu_compat.tables import Tables
from gpu_compat.versions import numbers

HEADINGS = (
    "Capability",
    "Architecture",
    "GPUs, for example",
    "Driver",
    "Module",
    "CUDA toolkits",
    "cuDNN",
    "PyTorch",
    "TensorFlow",
    "JAX",
)
_EXAMPLES = 3


def rows(tables: Tables, named: Sequence[str] = ()) -> list[Sequence[str]]:
    """Return a row for each compute capability, newest first, or for each of the GPUs named."""
    if named:
        return [_row(identify(name, tables), [name], tables) for name in named]
    found = []
    for architecture in tables.rows("gpus.architectures"):
        for capability in architecture["compute_capabilities"]:
            examples = [row["name"] for row in tables.rows("gpus.products") if row["compute_capability"] == capability]
            if examples and capability not in (architecture.get("jetson") or ()):
                found.append(_row(identify({"compute_capability": capability}, tables), examples[:_EXAMPLES], tables))
    return sorted(found, key=lambda row: numbers(row[0]), reverse=True)


def _row(gpu: Gpu, examples: Sequence[str], tables: Tables) -> Sequence[str]:
    if not gpu.capability or gpu.unknown:
        return ("-", "-", ", ".join(examples), gpu.unknown or gpu.vendor, *["-"] * 6)
    host = Host(gpus=(gpu,), declared=True)
    driver = _plan(host, {}, tables)
    last = last_toolkit(gpu)
    return (
        gpu.capability,
        str(gpu.arch["name"]),
        ", ".join(examples),
        f"{driver['driver']['version']}" if driver else "none",
        " or ".join(gpu.modules),
        f"{first_toolkit(gpu)} to {last}" if last else f"{first_toolkit(gpu)} and newer",
        driver["cudnn"][0]["version"] if driver and driver["cudnn"] else "none",
        *[_framework(host, name, tables) for name in ("pytorch", "tensorflow", "jax")],
    )


def _plan(host: Host, environment: Mapping[str, Any], tables: Tables) -> Any:
    request = {
        "profile": "gpu",
        "environments": [{"name": "e", "optional": True, "frameworks": {"pytorch": "newest"}, **environment}],
    }
    return plan(request, host, tables, date.min)["plan"]


def _framework(host: Host, name: str, tables: Tables) -> str:
    planned = _plan(host, {"frameworks": {name: "newest"}}, tables)
    if not planned or not planned["environments"]:
        return "none"
    environment = planned["environments"][0]
    build = environment["frameworks"][name]
    return f"{build['version']} ({build['wheel']}, Python {environment['python']})"


def text(found: Sequence[Sequence[str]]) -> str:
    """Return rows as a table for a terminal."""
    widths = [max(len(row[column]) for row in [HEADINGS, *found]) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [HEADINGS, *found]
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown(found: Sequence[Sequence[str]], tables: Tables) -> str:
    """Return rows as the page docs/compatibility.md."""
    return "\n".join(
        [
            "# What runs on which GPU",
            "",
            f"Made from the tables of {tables.as_of} by `python -m gpu_compat matrix "
            "--markdown`; do not edit by hand. Each cell is what the",
            "engine plans for a host with this GPU and nothing else asked for, on any system: "
            "the newest that every rule allows. A host's",
            "system, kernel and Python narrow it further; `python -m gpu_compat plan` says how, "
            "and from which source each rule is.",
            "",
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "---|" * len(HEADINGS),
            *("| " + " | ".join(row) + " |" for row in found),
            "",
        ]
    )
