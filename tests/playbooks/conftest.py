# SPDX-License-Identifier: Apache-2.0
"""Playbooks on this machine, in a scratch directory, with stand-in packages: offline, and real but for the packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_runs import SETTINGS, recap
from standins import make_package

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """How a playbook run ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        """Return the number of changed tasks that the recap counts."""
        return recap(self.output, "localhost")["changed"]

    def succeeded(self) -> Run:
        """Fail with the whole output unless the run succeeded."""
        assert self.code == 0, self.output
        return self

    def failed_with(self, *words: str) -> Run:
        """Fail unless the run failed, with these words and without a traceback."""
        assert self.code != 0, self.output
        assert "Traceback" not in self.output
        flat = " ".join(self.output.split())
        for word in words:
            assert word in flat, self.output
        return self


@dataclass
class Machine:
    """This machine as a host, with everything of the project below a scratch directory."""

    base: Path
    wheels: Path

    def command(self, request: dict[str, Any], options: Sequence[str], variables: dict[str, Any]) -> list[str]:
        """Return the command line that provisions this machine for a request."""
        settings = {
            "gpu_stack": {"profile": "cpu", **request},
            "gpulab_scope": "user",
            "gpulab_user_base_dir": str(self.base),
            "python_environment_free_mib": 1,
            "dl_frameworks_wheel_dir": str(self.wheels),
            **variables,
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        playbook = str(ROOT / "playbooks" / "provision.yml")
        inventory = str(ROOT / "inventories" / "local")
        return [str(program), "-i", inventory, "-e", json.dumps(settings), *options, playbook]

    def provision(self, request: dict[str, Any], *options: str, **variables: Any) -> Run:
        """Provision this machine and return how it went."""
        return self.run(self.command(request, options, variables))

    def run(self, command: Sequence[str]) -> Run:
        """Run a command, under a closed umask as careful admins have it, and return how it went."""
        done = subprocess.run(
            command,
            env=self.environment() | {"PWD": str(self.base.parent)},  # as a shell says where it is
            cwd=self.base.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
            umask=0o077,
        )
        return Run(done.returncode, done.stdout)

    def kill_when(self, appears: str, request: dict[str, Any], **variables: Any) -> None:
        """Start provisioning and kill every process of it as soon as a path matching ``appears`` is there."""
        run = subprocess.Popen(
            self.command(request, (), variables),
            env=self.environment(),
            cwd=self.base.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not list(self.base.glob(appears)):
            assert time.monotonic() < deadline, f"{appears} never appeared"
            assert run.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()

    def environment(self) -> dict[str, str]:
        """Return a plain environment without the settings of this machine's pip."""
        plain = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return plain | SETTINGS | {"LC_ALL": "C.UTF-8"}

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of the current generation of an environment."""
        return dict(json.loads((self.base / "envs" / name / "environment.json").read_text()))

    def generations(self, name: str) -> list[str]:
        """Return the names of an environment's generations, oldest first."""
        return sorted(path.name for path in (self.base / "generations").glob(f"{name}-*"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return this machine with stand-ins of what the tests install."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    make_package(wheels, "numpy", "2.4.0")
    make_package(wheels, "jax", "0.7.1", ["numpy"])
    make_package(wheels, "jax", "0.7.2", ["numpy"])
    make_package(wheels, "torch", "2.13.0+cpu")
    return Machine(tmp_path / "base", wheels)
