# SPDX-License-Identifier: Apache-2.0
"""YAML that people write: plain data, read strictly, with the place of every mistake.

PyYAML trips over some tags, libyaml recurses without a limit, and a key that stands twice silently loses its first
value: all of that is refused in words here.
"""

from __future__ import annotations

from typing import Any

import yaml

#: Deeper than anything this project reads.
DEEPEST = 20
# libyaml is ten times as quick; the packages of some systems lack it.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class UnreadableError(Exception):
    """The text is not plain YAML.

    Attributes:
        place: ``:LINE:COLUMN`` where that is known, else nothing.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


def load(content: bytes) -> Any:
    """Parse YAML; a key that stands twice in a mapping is refused, because the first would silently be lost."""
    try:
        refuse_what_is_not_plain(content)
        loader = LOADER(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_repeated_keys(node, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise UnreadableError(str(error.problem or error.context), place) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UnreadableError(f"cannot be read as YAML ({' '.join(str(error).split())})") from error


def refuse_what_is_not_plain(content: bytes) -> None:
    """Refuse tags, on which PyYAML trips and which nobody needs here, and nesting, which libyaml reads by recursion.

    Raises:
        yaml.MarkedYAMLError: with the place.
    """
    depth = 0
    for event in yaml.parse(content, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if tag is not None or depth > DEEPEST:
            mark: Any = event.start_mark  # of libyaml or of Python, which are alike
            problem = "is nested too deeply" if tag is None else f"the tag '{tag}' is not plain YAML; remove it"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _refuse_repeated_keys(node: yaml.Node, seen: set[int]) -> None:
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(item, seen)
        return
    keys: set[tuple[str, str]] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.tag == "tag:yaml.org,2002:merge":  # a few of them can make a file of any size
                raise yaml.MarkedYAMLError(
                    problem="<< is not read here; write the keys out", problem_mark=key.start_mark
                )
            if (key.tag, key.value) in keys:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            keys.add((key.tag, key.value))
        _refuse_repeated_keys(value, seen)
