# SPDX-License-Identifier: Apache-2.0
"""Filters that turn verdicts into something a person reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.utils.vars import transform_to_native_types

_HEADINGS = (
    "HOST",
    "ENVIRONMENT",
    "FRAMEWORK",
    "PYTHON",
    "DEVICE",
    "DATA SET",
    "ACCURACY",
    "SECONDS",
    "VERDICT",
)
_WORDS = {"tensorflow": "TensorFlow", "keras": "Keras", "pytorch": "PyTorch", "torch": "PyTorch", "jax": "JAX"}


def verdict_table(verdicts: Any) -> str:
    """See verdict_table.yml."""
    verdicts = transform_to_native_types(verdicts, redact=False)
    if not isinstance(verdicts, Mapping):
        raise AnsibleFilterError("verdict_table needs a mapping of host names to verdicts")
    rows: list[Sequence[str]] = [_HEADINGS]
    notes: list[str] = []
    for host, verdict in verdicts.items():
        if not verdict:
            rows.append((host, *["-"] * 7, "UNKNOWN (no verdict)"))
            continue
        results = verdict.get("results", [])
        rows += [_row(host, result) for result in results]
        label = verdict.get("verdict", {}).get("label", "UNKNOWN")
        rows.append((host, "all", f"{len(results)} job{'' if len(results) == 1 else 's'}", "", "", "", "", "", label))
        if verdict.get("reused"):
            notes.append(
                f"{host}: proven at {_plain(verdict.get('started'))}; nothing that it rests on has changed since then"
            )
        notes += [
            f"{host}: {_line(check)}"
            for check in verdict.get("checks", [])
            if check.get("status") not in ("PASS", "SKIP")
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines + (["", *notes] if notes else []))


def _row(host: str, result: Mapping[str, Any]) -> Sequence[str]:
    """Return one job as a row; what is not known is a dash, never an empty success."""
    framework = f"{_word(result.get('framework'))} {result.get('version') or ''}".strip()
    if result.get("framework") == "keras" and result.get("keras_backend"):
        framework += f" on {_word(result['keras_backend'])}"
    accuracy, seconds = result.get("accuracy"), result.get("seconds")
    cells = (
        host,
        result.get("environment"),
        framework,
        result.get("python"),
        result.get("device"),
        result.get("dataset"),
        f"{accuracy:.4f}" if isinstance(accuracy, float) else None,
        f"{seconds:.0f}" if isinstance(seconds, (int, float)) else None,
        result.get("status", "UNKNOWN"),
    )
    return [_plain(cell) for cell in cells]


def _word(name: Any) -> str:
    """Return a framework's or a backend's name as its makers write it."""
    return _WORDS.get(name, str(name or "-"))


def _line(check: Mapping[str, Any]) -> str:
    """Return a check that did not pass as one line."""
    words = [
        check.get("status"),
        check.get("id"),
        check.get("target"),
        check.get("message") or check.get("reason_code"),
    ]
    return " ".join(_plain(word) for word in words if word)


def _plain(value: Any) -> str:
    """Keep what hosts say on one line and free of control characters."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", str(value)) if value not in (None, "") else "-"


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the names used in templates."""
        return {"verdict_table": verdict_table}
