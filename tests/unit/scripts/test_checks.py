# SPDX-License-Identifier: Apache-2.0
"""The checks of the project itself: each must see the fault it is there for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import check_locks
import check_specs
import house_rules
import pytest

OPTION = {"description": "What it is for.", "type": "int", "default": 1}


@pytest.mark.parametrize(
    ("defaults", "options", "said"),
    [
        ({"x": 1}, {"x": OPTION}, None),
        ({"x": "{{ y }}"}, {"x": {"description": "Computed."}}, None),
        ({}, {"x": {"description": "No meaningful default.", "required": True}}, None),
        ({"x": 1}, {}, "has a default, but is not in the specs"),
        ({}, {"x": OPTION}, "defaults say nothing, specs say 1"),
        ({"x": 2}, {"x": OPTION}, "defaults say 2, specs say 1"),
        ({"x": True}, {"x": OPTION}, "defaults say True, specs say 1"),
        ({"x": "1"}, {"x": OPTION}, "defaults say '1', specs say 1"),
        ({"x": 1}, {"x": {"description": "d"}}, "specs say nothing"),
        ({"x": "{{ y }}"}, {"x": {"description": "d", "default": "{{ z }}"}}, "specs say '{{ z }}'"),
        ({"x": 1}, {"x": OPTION | {"required": True}}, "is required by the specs, but has a default"),
        ({"x": 1}, {"x": {"default": 1}}, "has no description"),
    ],
)
def test_specs_and_defaults_must_agree(defaults: dict[str, Any], options: dict[str, Any], said: str | None) -> None:
    found = check_specs.differences(defaults, options)
    assert found == [] if said is None else any(said in line for line in found)


def test_a_role_without_specs_is_seen(tmp_path: Path) -> None:
    assert "no entry point" in check_specs.check_role(tmp_path)[0]


GOOD = "one==1.5 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (GOOD, None),
        (GOOD + "# a comment\n", None),
        ("two==1 \\\n    --hash=sha256:aa\n", "one is not locked"),
        (GOOD.replace("1.5", "3.0"), "one is locked at 3.0, which is not"),
        ("one==1.5\n", "one==1.5 has no hash"),
        ("one==1.5\n" + GOOD.replace("one", "two"), "one==1.5 has no hash"),
        ("--index-url https://index.example/simple\n" + GOOD, "names a package index"),
        (GOOD.replace("==1.5", " @ file:///tmp/one.whl"), "names a package index or a directory"),
    ],
)
def test_a_lock_must_say_what_was_asked_for(lock: str, said: str | None) -> None:
    found = check_locks.faults(["one>=1,<2"], lock)
    assert found == [] if said is None else any(said in line for line in found)


def test_names_are_compared_as_the_index_does() -> None:
    assert check_locks.locked("Some.Name==2 \\\n")["some-name"] == "2"


RULES = {"packages.example": "names a registry", "/srv/build": "names a path of this machine"}
CLEAN = f"# {house_rules.SPDX}\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", CLEAN + "x = 1\n", None),
        ("a.py", CLEAN + "see other.packages.example.org and my/srv/build\n", None),
        ("README.md", "no licence line is needed here\n", None),
        ("README.md", "pip install -i https://packages.example/simple\n", "README.md:1: names a registry"),
        ("a.sh", CLEAN + "cd /srv/build\n", "a.sh:2: names a path"),
        ("a.yml", "x: 1\n", "a.yml:1: lacks the line"),
        ("a.yml", CLEAN + "- ignore_errors: true\n", "ignore_errors hides failures"),
        ("a.yml", CLEAN + "  when: ansible_os_family == 'Debian'\n", "an injected fact"),
        ("a.yml", CLEAN + "  when: ansible_facts['os_family'] == 'Debian'\n", None),
        ("a.yml", CLEAN + "    {{ lines | join('\\n') }}\n", "stays two characters"),
        ("a.yml", CLEAN + "    msg: \"{{ lines | join('\\n') }}\"\n", None),
    ],
)
def test_house_rules_see_their_faults(name: str, text: str, said: str | None) -> None:
    found = list(house_rules.faults(Path(name), text, RULES))
    assert found == [] if said is None else any(said in line for line in found)
