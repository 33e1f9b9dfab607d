# SPDX-License-Identifier: Apache-2.0
"""Strict reading of plain data (dict, list, str, bool, None) against a small declarative schema.

Every mistake is collected; nothing is converted silently. An unknown key names the nearest known one, because a
misspelt key that is ignored is the most expensive mistake an inventory can hold.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpu_compat.errors import Mistake

#: A reader takes a value and its path, adds mistakes to the list and returns the value as the library wants it.
Reader = Callable[[Any, str, list[Mistake]], Any]


def kind(value: object) -> str:
    """Name the type of ``value`` as a writer of YAML would."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true/false"
    for python_type, word in ((int, "number"), (float, "number"), (str, "string"), (Mapping, "mapping")):
        if isinstance(value, python_type):
            return f"a {word}"
    if isinstance(value, Sequence):
        return "a list"
    return f"a {type(value).__name__}"


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or the list of all where none is near."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(known)}"


def mapping(fields: Mapping[str, Reader], *, required: Sequence[str] = ()) -> Reader:
    """Read a mapping with exactly these fields; absent fields stay absent."""

    def read(value: Any, path: str, mistakes: list[Mistake]) -> Any:
        if not isinstance(value, Mapping):
            mistakes.append(Mistake(path, f"must be a mapping of keys to values, but is {kind(value)}"))
            return {}
        result: dict[str, Any] = {}
        for key, item in value.items():
            at = f"{path}.{key}" if path else str(key)
            if key in fields:
                result[key] = fields[key](item, at, mistakes)
            else:
                mistakes.append(Mistake(at, f"unknown key; {nearest(str(key), list(fields))}"))
        for key in required:
            if key not in value:
                mistakes.append(Mistake(path, f"the key '{key}' is missing"))
        return result

    return read


def list_of(item: Reader, *, empty_allowed: bool, hint: str) -> Reader:
    """Read a list. ``hint`` says what to write where the list is empty or is no list."""

    def read(value: Any, path: str, mistakes: list[Mistake]) -> Any:
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            mistakes.append(Mistake(path, f"must be a list, but is {kind(value)}; {hint}"))
            return []
        if not value and not empty_allowed:
            mistakes.append(Mistake(path, f"the list is empty; {hint}"))
        return [item(entry, f"{path}[{index}]", mistakes) for index, entry in enumerate(value)]

    return read


def one_of(*words: str) -> Reader:
    """Read one of these words."""

    def read(value: Any, path: str, mistakes: list[Mistake]) -> Any:
        if not isinstance(value, str):
            mistakes.append(Mistake(path, f"must be one of {', '.join(words)}, but is {kind(value)}"))
        elif value not in words:
            mistakes.append(Mistake(path, f"'{value}' is not known; {nearest(value, words)}"))
        return value

    return read


def boolean(value: Any, path: str, mistakes: list[Mistake]) -> Any:
    """Read ``true`` or ``false``; words in quotes are refused because ``"false"`` is a true string."""
    if not isinstance(value, bool):
        mistakes.append(Mistake(path, f"must be true or false without quotes, but is {kind(value)}"))
    return value


def text(pattern: str, meaning: str) -> Reader:
    """Read a string that matches ``pattern`` as a whole; ``meaning`` tells a person what is expected."""
    compiled = re.compile(pattern)

    def read(value: Any, path: str, mistakes: list[Mistake]) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            mistakes.append(Mistake(path, quote_it(value)))
        elif not isinstance(value, str):
            mistakes.append(Mistake(path, f"must be {meaning}, but is {kind(value)}"))
        elif not compiled.fullmatch(value):
            mistakes.append(Mistake(path, f"'{value}' is not {meaning}"))
        return value

    return read


def quote_it(value: float) -> str:
    """Say why a bare number is refused where a version is wanted (YAML reads 3.10 as 3.1)."""
    either = f'"{value}"' + (f' or "{value}0"' if isinstance(value, float) else "")
    return f"{value} is a number, and YAML drops trailing zeros (3.10 becomes 3.1); put the version in quotes: {either}"
