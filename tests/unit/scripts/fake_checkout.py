# SPDX-License-Identifier: Apache-2.0
"""A small checkout whose packages are made here, so that ./provision itself runs without any network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pip
from project_tree import ROOT
from standins import make_wheel, sha256

# Making a venv takes seconds, nearly all of them for a pip of its own; this Python lends it ours.
QUICK_PYTHON = """\
#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} -m venv --without-pip "$3"
for site in "$3"/lib/python3*/site-packages; do echo {pip} >"$site/pip.pth"; done
"""

# What stands in for Ansible: says how it was called, and ends as it is told to.
ANSIBLE = """\
import os, sys
def main():
    print("ANSIBLE", *sys.argv[1:])
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_HOME", "LC_ALL", "PYTHONPATH"):
        print(name, os.environ.get(name))
    sys.exit(int(os.environ.get("FAKE_STATUS", "0")))
"""

ENTRY_POINTS = "[console_scripts]\nansible-playbook=fake_ansible:main\n"


@dataclass
class Checkout:
    """A copy of ./provision with a package index of its own."""

    path: Path
    wheels: Path
    python: Path

    def start(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ./provision; `environment` is added to an otherwise plain one."""
        return subprocess.run(
            [self.path / "provision", *arguments],
            cwd=cwd or self.path,
            env=self.environment() | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def call(self, function: str, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
        """Call one function of scripts/setup.sh, after the shell commands `before`."""
        script = f'. "$0"; {before}\n{function} "$@"'
        command = ["bash", "-c", script, self.path / "scripts" / "setup.sh", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def environment(self) -> dict[str, str]:
        """Return a plain environment in which pip sees this checkout's wheels and nothing else."""
        plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        return plain | pip | {"GPULAB_PYTHON": str(self.python)}

    def without_environment(self) -> None:
        """Forget that a set-up was ever done."""
        shutil.rmtree(self.path / ".venv", ignore_errors=True)

    def stamp_collections(self) -> None:
        """Pretend that the collections are there: they have tests of their own."""
        directory = self.path / ".ansible" / "collections"
        directory.mkdir(parents=True, exist_ok=True)
        wanted = [self.path / "requirements.yml", self.path / "requirements" / "collections.lock"]
        (directory / ".stamp").write_text(self.call("fingerprint", *map(str, wanted)).stdout)


def make_checkout(base: Path) -> Checkout:
    """Make a checkout below `base` that has not been set up yet."""
    path, wheels = base / "with a space", base / "wheels"
    wheels.mkdir()
    shutil.copytree(ROOT / "scripts", path / "scripts")
    shutil.copytree(ROOT / "requirements", path / "requirements")
    for name in ("provision", "requirements.yml"):
        shutil.copy(ROOT / name, path / name)
    for name in ("inventories/local", "inventories/lab"):
        (path / name).mkdir(parents=True)
    files = {
        "fake_ansible.py": ANSIBLE,
        "ansible_core-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
    }
    wheel = make_wheel(wheels, "ansible_core", "1.0", files)
    lock = f"ansible-core==1.0 \\\n    --hash=sha256:{sha256(wheel)}\n"
    (path / "requirements" / "run.lock").write_text(lock)
    (base / "lent").mkdir()
    (base / "lent" / "pip").symlink_to(Path(pip.__file__).parent)
    python = base / "python3"
    python.write_text(QUICK_PYTHON.format(python=sys.executable, pip=base / "lent"))
    python.chmod(0o755)
    made = Checkout(path, wheels, python)
    made.stamp_collections()
    return made
