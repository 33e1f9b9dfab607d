#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check that each role's defaults/main.yml and meta/argument_specs.yml say the same: keys and values.

For every role:
- a variable with a default is an option of the entry point `main`, with that same default, not `required`;
- an option with a default has it in defaults/main.yml, too;
- a default that is computed by a template may be left out of the specs, and otherwise reads the same;
- every option says what it is for.

Usage: check_specs.py [ROLES_DIRECTORY]. Prints one line per difference; exit status 0 none, 1 some.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parent.parent / "roles"
MISSING = object()


def differences(defaults: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Return what defaults and the options of the specs disagree on, one sentence each, sorted."""
    found = [f"{name}: has a default, but is not in the specs" for name in defaults.keys() - options.keys()]
    for name, option in options.items():
        found += [f"{name}: {what}" for what in disagreements(defaults.get(name, MISSING), option)]
    return sorted(found)


def disagreements(default: Any, option: dict[str, Any]) -> list[str]:
    """Return what is wrong with one option, given its default in defaults/main.yml (or MISSING)."""
    stated = option.get("default", MISSING)
    found = []
    if not option.get("description"):
        found.append("has no description in the specs")
    if option.get("required") and default is not MISSING:
        found.append("is required by the specs, but has a default")
    computed = isinstance(default, str) and "{{" in default
    if not same(default, stated) and not (computed and stated is MISSING):
        found.append(f"defaults say {shown(default)}, specs say {shown(stated)}")
    return found


def same(default: Any, stated: Any) -> bool:
    """Compare values strictly: YAML's 1, true and "1" are three different things."""
    return type(default) is type(stated) and bool(default == stated)


def shown(value: Any) -> str:
    """Return a value as a person should read it."""
    return "nothing" if value is MISSING else repr(value)


def read(path: Path) -> dict[str, Any]:
    """Return a YAML file's dictionary; an absent or empty file is an empty one."""
    return (yaml.safe_load(path.read_text()) if path.exists() else None) or {}


def check_role(role: Path) -> list[str]:
    """Return the differences of one role, each with the role's name."""
    specs = read(role / "meta" / "argument_specs.yml").get("argument_specs", {})
    if "main" not in specs:
        return [f"{role.name}: meta/argument_specs.yml has no entry point `main`"]
    found = differences(read(role / "defaults" / "main.yml"), specs["main"].get("options", {}))
    return [f"{role.name}: {difference}" for difference in found]


def main() -> int:
    """Run from the command line; see the module's text."""
    roles = Path(sys.argv[1]) if len(sys.argv) > 1 else ROLES
    found = [line for role in sorted(roles.iterdir()) if role.is_dir() for line in check_role(role)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
