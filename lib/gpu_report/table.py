# SPDX-License-Identifier: Apache-2.0
"""Verdicts as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_report.plain import TIERS, framework, mapping, mappings, number, status, text, troubles

_JOBS = ("HOST", "ENVIRONMENT", "FRAMEWORK", "PYTHON", "DEVICE", "DATA SET", "ACCURACY", "SECONDS", "VERDICT")
#: Of one host: a broken one can have hundreds, and all of them are in its JSON and on the page.
_MOST_NOTES = 12


def table(documents: Mapping[str, Any], reasons: Mapping[str, str] | None = None) -> str:
    """Return the verdicts of some hosts as a table of jobs, a table of tiers, and a line for each thing that is wrong.

    Args:
        documents: host name -> verdict document; an empty one, or None, for a host without a verdict.
        reasons: host name -> why it has none.
    """
    jobs: list[Sequence[str]] = [_JOBS]
    notes: list[str] = []
    for host, document in documents.items():
        document = mapping(document)
        if not document:
            jobs.append((text(host), *["-"] * 7, "UNKNOWN (no verdict)"))
            notes.append(f"{text(host)}: UNKNOWN - {text((reasons or {}).get(host), 600) or 'there is no verdict'}")
            continue
        results = mappings(document.get("results"))
        jobs += [_job(host, result) for result in results]
        label = _cell(mapping(document.get("verdict")).get("label") or "UNKNOWN")
        count = f"{len(results)} job{'' if len(results) == 1 else 's'}"
        jobs.append((text(host), "all", count, "", "", "", "", "", label))
        notes += _notes(text(host), document)
    parts = ["\n".join(_columns(jobs)), "\n".join(_tiers(documents)), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def _job(host: str, result: Mapping[str, Any]) -> Sequence[str]:
    """Return one job as a row; what is not known is a dash, never an empty success."""
    name = f"{framework(result.get('framework')) or '-'} {text(result.get('version'))}".strip()
    if result.get("framework") == "keras" and result.get("keras_backend"):
        name += f" on {framework(result['keras_backend'])}"
    accuracy, seconds = number(result.get("accuracy")), number(result.get("seconds"))
    return (
        _cell(host),
        _cell(result.get("environment")),
        name,
        _cell(result.get("python")),
        _cell(result.get("device")),
        _cell(result.get("dataset")),
        "-" if accuracy is None else f"{accuracy:.4f}",
        "-" if seconds is None else f"{seconds:.0f}",
        status(result.get("status")),
    )


def _tiers(documents: Mapping[str, Any]) -> list[str]:
    """Return the lines that show how each tier of each host ended; none where no document has tiers."""
    rows: list[Sequence[str]] = [("HOST", *(f"T{number} {name.upper()}" for number, name in enumerate(TIERS)))]
    known = {host: mapping(mapping(document).get("tiers")) for host, document in documents.items()}
    for host, tiers in known.items():
        rows.append((_cell(host), *(_tier(tiers.get(str(number))) for number in range(len(TIERS)))))
    return _columns(rows) if any(known.values()) else []


def _tier(tier: Any) -> str:
    word = status(mapping(tier).get("status")) if tier else "-"
    return "-" if word == "SKIP" else word


def _notes(host: str, document: Mapping[str, Any]) -> list[str]:
    """Return one line for each check of a host that did not pass, the worst first."""
    lines: list[str] = []
    if document.get("reused"):
        lines.append(
            f"{host}: proven at {_cell(document.get('finished'))}; nothing that it rests on has changed since then"
        )
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for word, check in troubles(mappings(document.get("checks"))):
        key = (word, *(text(check.get(part), 100) for part in ("id", "reason_code", "action")))
        groups.setdefault(key, []).append(check)
    for members in groups.values():
        more = f" (and {len(members) - 1} more of the kind)" if len(members) > 1 else ""
        lines.append(f"{host}: {_line(members[0])}{more}")
    more_lines = len(lines) - _MOST_NOTES
    if more_lines <= 0:
        return lines
    return [*lines[:_MOST_NOTES], f"{host}: and {more_lines} more kinds of trouble; its JSON has them all"]


def _line(check: Mapping[str, Any]) -> str:
    """Return a check that did not pass as one line."""
    said = check.get("message") or check.get("reason_code")
    words = [text(word, 600) for word in (check.get("status"), check.get("id"), check.get("target"), said)]
    action = text(check.get("action"))
    return " ".join(word for word in words if word) + (f" [{action}]" if action not in ("", "none") else "")


def _cell(value: Any) -> str:
    return text(value, 80) or "-"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the first of them the headings, as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
