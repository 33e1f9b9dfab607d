#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Say where a YAML file of an inventory, or one given with -e @FILE, cannot be read. Called by ./provision.

Ansible 2.19 says what is wrong but neither file nor line, and blames other files. Exit status 0 or 3.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path


def yaml_files(places: list[str]) -> Iterator[Path]:
    """Yield the YAML files among and below the given paths."""
    for place in map(Path, places):
        if place.is_dir():
            yield from sorted(path for path in place.rglob("*") if path.suffix in (".yml", ".yaml") and path.is_file())
        elif place.suffix in (".yml", ".yaml", ".json"):
            yield place


def problem(path: Path) -> str | None:
    """Return what is wrong with a file, with line and column, or None."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        # Composing reads the structure alone, so Ansible's own tags (!vault) are no obstacle.
        for _ in yaml.compose_all(text):
            pass
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"{path}: is not text in UTF-8"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark is None:
            return f"{path}: {error.problem}"
        line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
        return f"{path}:{mark.line + 1}:{mark.column + 1}: {error.problem}\n    {line}\n    {' ' * mark.column}^"
    except yaml.YAMLError as error:
        return f"{path}: {error}"
    return None


def main(places: list[str]) -> int:
    """Print every problem; return the exit status."""
    if importlib.util.find_spec("yaml") is None:  # then Ansible's own words have to do
        return 0
    problems = [found for path in yaml_files(places) if (found := problem(path))]
    for found in problems:
        print(f"provision: {found}", file=sys.stderr)
    if problems:
        print("provision: nothing was done; indent with spaces, and the same number on one level", file=sys.stderr)
    return 3 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
