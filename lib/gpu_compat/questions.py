# SPDX-License-Identifier: Apache-2.0
"""What the command line is given: a file or standard input with ``host`` and ``request``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gpu_compat import plain_yaml
from gpu_compat.errors import CompatError, Mistake
from gpu_compat.hosts import Host, read_host
from gpu_compat.request import read_request
from gpu_compat.schema import kind, nearest
from gpu_compat.tables import Tables

#: What is planned where no environment is named.
DEFAULT_ENVIRONMENTS: list[dict[str, Any]] = [{"name": "torch", "frameworks": {"pytorch": "newest"}}]


def load(place: str) -> Any:
    """Read YAML or JSON from a file, or from standard input for ``-``.

    Raises:
        CompatError: it cannot be read; the message names file, line and column.
    """
    shown = "standard input" if place == "-" else place
    try:
        content = _standard_input() if place == "-" else Path(place).read_bytes()
        content.decode("utf-8")
        return plain_yaml.load(content)
    except OSError as error:
        raise CompatError([Mistake(shown, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise CompatError([Mistake(shown, "is not text in UTF-8")]) from error
    except plain_yaml.UnreadableError as error:
        raise CompatError([Mistake(f"{shown}{error.place}", str(error))]) from error


def _standard_input() -> bytes:
    """Return standard input as it comes, so that what is no UTF-8 is seen as such."""
    if sys.stdin is None:
        raise CompatError([Mistake("standard input", "is closed")])
    raw = getattr(sys.stdin, "buffer", None)
    return raw.read() if raw else sys.stdin.read().encode("utf-8")


def question(content: Any, tables: Tables) -> tuple[Any, Host]:
    """Return the request and the host that a file asks about, both checked.

    Raises:
        CompatError: with every mistake in either.
    """
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise CompatError([Mistake("", f"must be a mapping with the keys host and request, but is {kind(content)}")])
    mistakes = [
        Mistake(str(key), f"unknown key; {nearest(str(key), ['host', 'request'])}")
        for key in content
        if key not in ("host", "request")
    ]
    host = None
    request = with_default_environments(content.get("request"))
    try:
        host = read_host(content.get("host"), tables)
    except CompatError as error:
        mistakes += error.mistakes
    try:
        read_request(request)
    except CompatError as error:
        mistakes += [Mistake(f"request.{mistake.path}".rstrip("."), mistake.message) for mistake in error.mistakes]
    if mistakes or host is None:
        raise CompatError(mistakes)
    return request, host


def with_default_environments(request: Any) -> Any:
    """Fill in the environment of the newest PyTorch where none is named."""
    if request is None:
        request = {}
    if isinstance(request, Mapping) and request.get("environments") is None:
        return {**request, "environments": DEFAULT_ENVIRONMENTS}
    return request


def change(content: Any, settings: Sequence[str]) -> Any:
    """Return a question with some values set: ``request.environments[0].frameworks.pytorch=>=2.15``.

    Raises:
        CompatError: a path leads nowhere.
    """
    if content is not None and not isinstance(content, Mapping):
        return content  # no question, which is said where it is read
    if settings:
        # What is not written has a value all the same, and can be named.
        request = with_default_environments((content or {}).get("request"))
        content = {
            **(content or {}),
            "request": {"cuda_toolkits": ["auto"], **request} if isinstance(request, Mapping) else request,
        }
    for setting in settings:
        path, separator, text = setting.partition("=")
        if not separator:
            raise CompatError([Mistake("--want", f"'{setting}' must be PATH=VALUE, as request.driver=595")])
        content = _set(content, _steps(path), _value(text), path)
    return content


def _value(text: str) -> Any:
    """Read a value as it is written behind ``=``: versions need no quotes here, and lists and mappings are YAML's."""
    if text[:1] not in "[{":
        return {"true": True, "false": False, "null": None}.get(text, text)
    try:
        plain_yaml.refuse_what_is_not_plain(text.encode())
        return _plain(yaml.load(text, Loader=yaml.BaseLoader))
    except yaml.YAMLError as error:
        raise CompatError([Mistake("--want", f"'{text}' cannot be read as YAML")]) from error


def _plain(value: Any) -> Any:
    """Turn the words true, false and null back into what they mean; everything else is text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {"true": True, "false": False, "null": None}.get(value, value)


def _steps(path: str) -> list[str | int]:
    whole = path if path.split(".")[0] in ("host", "request") else f"request.{path}"
    return [int(index) if index else word for word, index in re.findall(r"([^.\[\]]+)|\[(\d{1,4})\]", whole)]


def _set(content: Any, steps: Sequence[str | int], value: Any, path: str) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        if not isinstance(content, Sequence) or isinstance(content, str) or step > len(content):
            raise CompatError([Mistake(path, f"there is no entry [{step}]")])
        grown = [*content, None] if step == len(content) else list(content)
        grown[step] = _set(grown[step], rest, value, path)
        return grown
    if content is not None and not isinstance(content, Mapping):
        raise CompatError([Mistake(path, f"'{step}' cannot be set in {kind(content)}")])
    return {**(content or {}), step: _set((content or {}).get(step), rest, value, path)}
