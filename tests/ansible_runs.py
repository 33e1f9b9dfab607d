# SPDX-License-Identifier: Apache-2.0
"""Playbooks as a person starts them, with this project's own configuration, and what they say at the end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from project_tree import ROOT
from testbed import Result

SETTINGS = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}


def run_playbook(*words: str, timeout: float, environment: Mapping[str, str] | None = None) -> Result:
    """Run `ansible-playbook` from the checkout, with the program of the Python that runs the tests."""
    started = time.monotonic()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), *words],
        cwd=ROOT,
        env=os.environ | SETTINGS | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )
    return Result(done.returncode, done.stdout, time.monotonic() - started)


def recap(output: str, host: str) -> dict[str, int]:
    """Return the numbers of a host in Ansible's recap."""
    line = re.search(rf"^{host}\s+: (.*)$", output, re.MULTILINE)
    assert line, output
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line[1])}
