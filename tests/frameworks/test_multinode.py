# SPDX-License-Identifier: Apache-2.0
"""Training over several hosts: two hosts that are this machine, through Ansible and torchrun, on the processor."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_lab import JOBS, PROGRAMS, clean

ROOT = PROGRAMS.parents[3]
Pythons = Callable[[str], Path]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def digits(framework_python: Pythons, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn digits, once for all hosts."""
    directory = tmp_path_factory.mktemp("digits")
    command = [str(framework_python("pytorch")), "-s", "-B", str(JOBS / "generate_digits.py"), "--out", str(directory)]
    subprocess.run(command, check=True, timeout=300, env=clean(dict(os.environ)), capture_output=True)
    return directory


class Hosts:
    """Two hosts, each with a base directory of its own."""

    def __init__(self, directory: Path, python: Path, digits: Path) -> None:
        self.directory, self.python = directory, python
        for name in ("one", "two"):
            cache = directory / name / "cache" / "mnist"
            cache.mkdir(parents=True)
            shutil.copytree(digits, cache / "generated")

    def play(self, *more: str, hosts: tuple[str, ...] = ("one", "two"), **variables: Any) -> tuple[int, str]:
        """Run the role's entry on the hosts; return Ansible's exit status and what it said."""
        play = {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {
                    "ansible.builtin.include_role": {"name": "validation", "tasks_from": "multinode"},
                    "vars": {
                        "validation_base_dir": f"{self.directory}/{{{{ inventory_hostname }}}}",
                        "validation_user": "",
                        "validation_scope": "user",
                        "validation_environments": [
                            {"name": "torch", "python": str(self.python), "frameworks": {"pytorch": "2.13.0"}}
                        ],
                        "validation_multinode_address": "127.0.0.1",
                        "validation_multinode_port": free_port(),
                        "validation_multinode_interface": "lo",
                        "validation_multinode_timeout": 120,
                        **variables,
                    },
                }
            ],
        }
        playbook = self.directory / "play.yml"
        playbook.write_text(json.dumps([play]))
        inventory = self.directory / "inventory.yml"
        rows = {name: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable} for name in hosts}
        inventory.write_text(json.dumps({"all": {"hosts": rows}}))
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(playbook), *more]
        environment = {**clean(dict(os.environ)), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment["ANSIBLE_ROLES_PATH"] = str(ROOT / "roles")
        environment["ANSIBLE_ASYNC_DIR"] = str(self.directory / "async")
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300, check=False
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def hosts(framework_python: Pythons, digits: Path, tmp_path: Path) -> Hosts:
    return Hosts(tmp_path, framework_python("pytorch"), digits)


def test_two_hosts_train_together_even_one_fork_at_a_time(hosts: Hosts) -> None:
    code, said = hosts.play("--forks", "1")
    assert code == 0, said
    assert "gradients on 2 devices equal those of one" in said
    assert "2 replicas on 0:" in said


def test_a_host_that_does_not_reach_the_first_one_says_so(hosts: Hosts) -> None:
    ports = "{{ %d + (1 if inventory_hostname == 'two' else 0) }}" % free_port()
    code, said = hosts.play(validation_multinode_timeout=15, validation_multinode_port=ports)
    assert code == 2
    assert "two: " in said
    assert "does not reach 127.0.0.1" in said
    assert "not all 2 hosts met" in said


def test_one_host_alone_is_refused(hosts: Hosts) -> None:
    code, said = hosts.play(hosts=("one",))
    assert code == 2
    assert "needs more than one" in said


def test_a_host_without_pytorch_names_the_cause(hosts: Hosts, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    which = f"'{python}' if inventory_hostname == 'two' else '{hosts.python}'"
    environments = "{{ [{'name': 'torch', 'python': %s, 'frameworks': {'pytorch': '2.13.0'}}] }}" % which
    code, said = hosts.play(validation_environments=environments, validation_multinode_timeout=15)
    assert code == 2
    assert "two: pytorch cannot be used: No module named" in said
