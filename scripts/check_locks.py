#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check, without network, that the lock files still say what pyproject.toml and requirements.yml ask for.

- every direct dependency is locked, at a version its range admits;
- requirements/test.lock holds what requirements/run.lock holds, at the same versions;
- hosts get the same uv as the control node, whichever way they get it;
- every locked file has a hash, and no lock names a package index or a directory.

Exit status 0 all well, 1 with one line per fault (the remedy is `scripts/lock.sh`).
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
RUN, TEST, BUNDLE = (ROOT / "requirements" / f"{name}.lock" for name in ("run", "test", "collections"))
UV_OF_HOSTS = ROOT / "roles" / "python" / "files" / "uv.lock"
UV_DEFAULT = ROOT / "roles" / "dl_frameworks" / "defaults" / "main.yml"


def locked(lock: str) -> dict[str, str]:
    """Return the pinned versions of a lock file's text, `{"jinja2": "3.1.6"}`."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def faults(asked: list[str], lock: str) -> list[str]:
    """Return what is wrong with a lock file's text, given the requirements it was made from."""
    pins, found = locked(lock), []
    for requirement in map(Requirement, asked):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name} is not locked")
        elif version not in requirement.specifier:
            found.append(f"{requirement.name} is locked at {version}, which is not {requirement.specifier}")
    # One entry: the pin and, on continued lines, its hashes.
    for entry in re.findall(r"^[A-Za-z0-9](?:.*\\\n)*.*$", lock, re.MULTILINE):
        if "--hash=sha256:" not in entry:
            found.append(f"{entry.split()[0]} has no hash")
    if re.search(r"https?://|file://|--(index-url|extra-index-url|find-links)| @ ", lock):
        found.append("names a package index or a directory")
    return found


def main() -> int:
    """Run from the command line; see the module's text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    run, tests = project["dependencies"] + extras["report"], extras["test"]
    bundle = [line for line in (BUNDLE.with_suffix(".in")).read_text().splitlines() if not line.startswith("#")]
    found = []
    for path, asked in ((RUN, run), (TEST, run + tests), (BUNDLE, bundle)):
        found += [f"{path.name}: {fault}" for fault in faults(asked, path.read_text())]
    uv = [requirement for requirement in run if requirement.startswith("uv==")]
    found += [f"{UV_OF_HOSTS.name} of the role python: {fault}" for fault in faults(uv, UV_OF_HOSTS.read_text())]
    if f'"{uv[0].removeprefix("uv==")}"' not in UV_DEFAULT.read_text():
        found.append(f"{UV_DEFAULT.relative_to(ROOT)}: dl_frameworks_uv_version is not {uv[0]}")
    run_pins, test_pins = locked(RUN.read_text()), locked(TEST.read_text())
    for name, version in run_pins.items():
        if test_pins.get(name) != version:
            found.append(f"{name}: {RUN.name} says {version}, {TEST.name} says {test_pins.get(name)}")
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
