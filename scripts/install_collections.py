#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Provide the collections of requirements.yml: from Galaxy, or out of the `ansible` bundle.

Galaxy is asked first. Where it cannot be reached (many labs, every air-gapped one), the wheel of the
`ansible` bundle is downloaded through pip from whatever package index this machine is configured for,
checked against the hash in requirements/collections.lock, and only the collections needed are unpacked.
Either way the versions are checked against the ranges, and the directory is replaced as a whole.

Usage: install_collections.py DIRECTORY
Prints one line per collection, `collections: NAME VERSION (SOURCE)`. A line `error: ...` says what a
person has to change; any other failure is a subprocess's own output. Exit status 0 done, 1 failed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.yml"
BUNDLE_LOCK = ROOT / "requirements" / "collections.lock"

# Seconds Galaxy gets for one answer, and for everything. A blocked connection must not hold a first run up.
GALAXY_ANSWER = 8
GALAXY_TOTAL = 180


class CollectionError(Exception):
    """Something that a person has to change; the message says what."""


def wanted(requirements: Path = REQUIREMENTS) -> dict[str, SpecifierSet]:
    """Return the collections asked for and the versions allowed, `{"community.docker": <SpecifierSet>}`."""
    entries = yaml.safe_load(requirements.read_text())["collections"]
    return {entry["name"]: version_range(entry.get("version", "*")) for entry in entries}


def version_range(text: str) -> SpecifierSet:
    """Read a version range as Galaxy writes it: `>=1.0,<2`, `*` for any, a bare `1.2.3` for exactly that."""
    if text == "*":
        return SpecifierSet(prereleases=True)
    return SpecifierSet(f"=={text}" if text[0].isdigit() else text)


def from_galaxy(target: Path) -> bool:
    """Install into `target` from the Galaxy servers that Ansible is configured for; False if none answers."""
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(galaxy), "collection", "install", "--requirements-file", str(REQUIREMENTS)]
    command += ["--collections-path", str(target), "--timeout", str(GALAXY_ANSWER)]
    log = target.parent / "galaxy.log"
    # Collections that lie elsewhere already, an earlier set-up's or the user's, must not count as installed.
    with tempfile.TemporaryDirectory() as home, log.open("w") as output:
        places = {"ANSIBLE_HOME": home, "ANSIBLE_COLLECTIONS_PATH": str(target)}
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")} | places
        try:
            subprocess.run(command, stdout=output, stderr=output, env=environment, timeout=GALAXY_TOTAL, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            print(f"Galaxy gives no collections here (see {log}); taking them from the ansible bundle")
            return False
    return True


def from_bundle(target: Path) -> None:
    """Unpack the wanted collections, and those they depend on, out of the bundle's wheel into `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as download:
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
        command += ["--retries", "2", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--requirement", str(BUNDLE_LOCK), "--dest", download]
        subprocess.run(command, check=True)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as bundle:
            unpack(bundle, list(wanted()), target)


def unpack(bundle: zipfile.ZipFile, names: list[str], target: Path) -> None:
    """Unpack the named collections and, transitively, their dependencies."""
    queue, done = list(names), set[str]()
    while queue:
        name = queue.pop()
        if name in done:
            continue
        done.add(name)
        prefix = f"ansible_collections/{name.replace('.', '/')}/"
        members = [member for member in bundle.namelist() if member.startswith(prefix)]
        if not members:
            raise CollectionError(f"the ansible bundle of {BUNDLE_LOCK.name} does not carry {name}")
        bundle.extractall(target, members)
        queue += manifest(target, name).get("dependencies", {})


def manifest(target: Path, name: str) -> dict[str, Any]:
    """Return what the collection `name` under `target` says of itself (`version`, `dependencies`, ...)."""
    path = target / "ansible_collections" / name.replace(".", "/") / "MANIFEST.json"
    information: dict[str, Any] = json.loads(path.read_text())["collection_info"]
    return information


def check(target: Path, source: str) -> list[str]:
    """Return a line per wanted collection; raise CollectionError naming every one outside its range."""
    lines, wrong = [], []
    for name, allowed in wanted().items():
        version = manifest(target, name)["version"]
        lines.append(f"collections: {name} {version} ({source})")
        if version not in allowed:
            wrong.append(f"{name} {version} is not {allowed}")
    if wrong:
        raise CollectionError(f"{source} does not satisfy requirements.yml: {'; '.join(wrong)}")
    return lines


def install(directory: Path) -> None:
    """Make `directory` hold exactly the wanted collections, or leave it as it was."""
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    source = "Galaxy"
    if not from_galaxy(fresh):
        source = "ansible bundle"
        shutil.rmtree(fresh)
        fresh.mkdir()
        from_bundle(fresh)
    lines = check(fresh, source)
    shutil.rmtree(directory, ignore_errors=True)
    fresh.rename(directory)
    print("\n".join(lines))


def main() -> int:
    """Run from the command line; see the module's text."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 1
    try:
        install(Path(sys.argv[1]).resolve())
    except CollectionError as error:
        print(f"error: {error}")
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    except OSError as error:
        print(f"error: {error.strerror}: {error.filename}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
