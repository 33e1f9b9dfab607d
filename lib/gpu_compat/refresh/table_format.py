# SPDX-License-Identifier: Apache-2.0
"""Editing a data file row by row, so that a diff shows the rows that changed and nothing else.

The text is never written anew from its data: comments, order and layout of every other row stay byte for byte. What
comes out is read again and compared with what was meant before anybody sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from packaging.version import Version

from gpu_compat.tables import KEYS, Row, row_key

#: No line is longer; lines that are filled piece by piece end a little earlier.
WIDTH = 158
FILL = 151
_BARE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class FormatError(Exception):
    """A data file does not have the form that rows can be edited in."""


@dataclass(frozen=True)
class Edit:
    """One row to add, to replace, or (row None) to take out.

    Attributes:
        table: its name within the file: ``releases``.
        key: what identifies the row, as :func:`gpu_compat.tables.row_key` gives it.
    """

    table: str
    key: tuple[str, ...]
    row: Row | None


def _by(field: str) -> Callable[[Row], tuple[Any, ...]]:
    return lambda row: (Version(str(row[field])),)


#: By what the rows of a table are sorted, highest first; a table that is missing here takes new rows at its end.
ORDER: Mapping[str, Callable[[Row], tuple[Any, ...]]] = {
    "cuda.toolkits": _by("version"),
    "cudnn.releases": lambda row: (int(row["cuda_major"]), Version(row["version"])),
    "pytorch.releases": _by("version"),
    "pytorch.wheels": lambda row: (Version(row["release"]), row["tag"]),
    "pytorch.companions": _by("torch"),
    "tensorflow.releases": _by("version"),
    "jax.releases": _by("version"),
    "jax.glibc": _by("first"),
    "keras.releases": _by("version"),
}


def edit_file(file: str, text: str, edits: Sequence[Edit], as_of: str) -> str:
    """Return the text of data file ``file`` with the edits made and its date set. Raises FormatError."""
    if not edits:
        return text
    before = parse(file, text)
    meant = _meant(file, before, edits, as_of)
    lines = text.splitlines(keepends=True)
    for edit in edits:
        lines = _edit_row(file, lines, edit)
    result, dates = re.subn(r"(?m)^as_of:.*$", f'as_of: "{as_of}"', "".join(lines), count=1)
    if not dates or parse(file, result) != meant:
        raise FormatError(f"{file}.yml: its layout is not the usual one, rows cannot be edited without touching others")
    return result


def parse(file: str, text: str) -> dict[str, Any]:
    """Return the content of a data file; raises FormatError where it is no data file or two rows are the same row."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise FormatError(f"{file}.yml: no valid YAML: {error}") from error
    tables = [name.partition(".")[2] for name in KEYS if name.startswith(f"{file}.")]
    missing = [name for name in ("as_of", *tables) if not isinstance(content, dict) or name not in content]
    if missing:
        raise FormatError(f"{file}.yml: lacks {', '.join(missing)}")
    for table in tables:
        seen: set[tuple[str, ...]] = set()
        for row in content[table]:
            key = row_key(f"{file}.{table}", row)
            if key in seen:
                raise FormatError(f"{file}.yml: {table} has two rows for {' '.join(key)}")
            seen.add(key)
    return dict(content)


def _meant(file: str, content: Mapping[str, Any], edits: Sequence[Edit], as_of: str) -> dict[str, Any]:
    """Return what the data are to be after the edits."""
    result = {**content, "as_of": as_of}
    for edit in edits:
        name = f"{file}.{edit.table}"
        rows = list(result[edit.table])
        at = next((at for at, row in enumerate(rows) if row_key(name, row) == edit.key), None)
        if edit.row is None:
            if at is None:
                raise FormatError(f"{file}.yml: {edit.table} has no row {' '.join(edit.key)} to take out")
            del rows[at]
        elif at is None:
            rows.insert(position(name, rows, edit.row), edit.row)
        else:
            rows[at] = edit.row
        result[edit.table] = rows
    return result


def position(name: str, rows: Sequence[Row], row: Row) -> int:
    """Return where a new row goes: before the first row that it is to come before."""
    rank = ORDER.get(name)
    if rank is None:
        return len(rows)
    return next((at for at, other in enumerate(rows) if rank(other) < rank(row)), len(rows))


def _edit_row(file: str, lines: list[str], edit: Edit) -> list[str]:
    """Make one edit in the lines of a file."""
    name = f"{file}.{edit.table}"
    spans = _spans(lines, edit.table)
    rows = [_read_row(lines[first:last], file) for first, last in spans]
    at = next((at for at, row in enumerate(rows) if row_key(name, row) == edit.key), None)
    if at is not None:
        first, last = spans[at]
        kept = [line for line in lines[first:last] if line.lstrip().startswith("#")] if _is_flow(lines[first]) else []
        new = kept + emit(edit.row) if edit.row is not None else []
        return lines[:first] + new + lines[last:]
    if edit.row is None or not spans:
        raise FormatError(f"{file}.yml: {edit.table} has no row {' '.join(edit.key)}, or no rows at all")
    place = position(name, rows, edit.row)
    where = spans[place][0] if place < len(spans) else spans[-1][1]
    return lines[:where] + emit(edit.row) + lines[where:]


def _is_flow(line: str) -> bool:
    return line.startswith("  - {")


def _read_row(lines: Sequence[str], file: str) -> Row:
    try:
        row = yaml.safe_load("".join(lines))[0]
    except (yaml.YAMLError, TypeError, LookupError) as error:
        raise FormatError(f"{file}.yml: cannot read the row that begins with {lines[0].strip()}") from error
    if not isinstance(row, dict):
        raise FormatError(f"{file}.yml: {lines[0].strip()} is no row")
    return row


def _spans(lines: Sequence[str], table: str) -> list[tuple[int, int]]:
    """Return the first and the past-the-last line of every row of a table.

    A row runs over the lines that are indented deeper than its dash; comments between rows belong to none.
    """
    start = next((at for at, line in enumerate(lines) if re.match(rf"{re.escape(table)}:\s*(#.*)?$", line)), None)
    if start is None:
        raise FormatError(f"no line begins the table {table}")
    spans: list[tuple[int, int]] = []
    for at in range(start + 1, len(lines)):
        if re.match(r"[^\s#]", lines[at]):
            break
        if lines[at].startswith("  - "):
            spans.append((at, at + 1))
        elif spans and lines[at].startswith("    ") and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + 1)
    return spans


def emit(row: Row) -> list[str]:
    """Return a row as lines in the style of the data files: flow style, wrapped between its fields."""
    pieces = [f"{key}: {scalar(value)}" for key, value in row.items()]
    pieces = [piece + ("," if at < len(pieces) - 1 else "}") for at, piece in enumerate(pieces)]
    if any(len(piece) + 5 > WIDTH for piece in pieces):
        return _block(row)
    whole = "  - {" + " ".join(pieces)
    if len(whole) <= WIDTH:
        return [whole + "\n"]
    lines = ["  - {" + pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + 1 + len(piece) > FILL:
            lines.append("     " + piece)
        else:
            lines[-1] += " " + piece
    return [line + "\n" for line in lines]


def _block(row: Row) -> list[str]:
    """Return a row in block style: a field per line, and a line per item where a list is too long for one."""
    lines: list[str] = []
    for key, value in row.items():
        start = "  - " if not lines else "    "
        line = f"{start}{key}: {scalar(value)}"
        if len(line) > WIDTH and isinstance(value, Sequence) and not isinstance(value, str):
            lines += [f"{start}{key}:", *(f"      - {scalar(item)}" for item in value)]
        else:
            lines.append(line)
    return [line + "\n" for line in lines]


def scalar(value: Any) -> str:
    """Return a value in flow style: words bare, every other string in double quotes, so that 3.10 stays 3.10."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        bare = _BARE.fullmatch(value) and yaml.safe_load(value) == value
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Sequence):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    return json.dumps(value)
