# SPDX-License-Identifier: Apache-2.0
"""The role nvidia_driver on a machine with a real kernel: real modules, real reboots, and connections that break."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_runs import recap, run_playbook
from driver_packages import VERSIONS, Repository
from project_tree import ROOT
from testbed import Result
from virtual_machine import IMPATIENT, VirtualMachine

OLD, NEW = VERSIONS


class Guest:
    """The machine as a host of an inventory."""

    def __init__(self, machine: VirtualMachine, repository: Repository, url: str, directory: Path) -> None:
        self.machine = machine
        key = directory / "key.asc"
        key.write_text(repository.key)
        self.variables = {
            "gpu_stack": {"profile": "gpu", "cuda_toolkits": [], "cudnn": "none", "environments": []},
            "nvidia_driver_repository_url": f"{url}/debian12/x86_64/",
            "nvidia_driver_repository_key": str(key),
            "nvidia_driver_repository_fingerprints": [repository.fingerprint],
            "nvidia_driver_reboot_allowed": True,
            "nvidia_driver_reboot_timeout": 240,
        }

    def provision(self, **variables: Any) -> Result:
        """Provision it as a person would, over SSH and with sudo."""
        settings = json.dumps({**self.variables, **variables})
        inventory = str(self.machine.write_inventory(**IMPATIENT))
        return run_playbook("-i", inventory, "-e", settings, str(ROOT / "playbooks" / "provision.yml"), timeout=900)

    def says(self, command: str) -> str:
        """Return what a command on the machine prints."""
        return str(self.machine.ssh(command, check=True).output)


@pytest.fixture
def guest(machine: VirtualMachine, repository: Repository, repository_url: str, tmp_path: Path) -> Guest:
    """A fresh machine with a GPU that nouveau drives."""
    return Guest(machine, repository, repository_url, tmp_path)


def test_a_driver_is_installed_through_a_reboot_and_costs_nothing_afterwards(guest: Guest) -> None:
    # nouveau is loaded from the initramfs and in use, so nothing but a reboot gets it out of the way.
    guest.machine.ssh("touch /etc/test-bed/nouveau-in-initramfs && update-initramfs -u", check=True)
    guest.machine.ssh("rmmod nouveau", check=True)
    guest.machine.put("options nouveau busy=1\n", "/etc/modprobe.d/busy.conf")
    guest.machine.ssh("modprobe nouveau", check=True)
    kernel = guest.says("uname -r").strip()
    done = guest.provision(gpu_stack={**guest.variables["gpu_stack"], "driver": OLD})
    assert done.status == 0, done.output
    assert guest.machine.reboots == 1
    assert guest.says("cat /sys/module/nvidia/version") == f"{OLD}\n"
    assert guest.says("lsmod").count("nouveau") == 0
    assert f"nvidia/{OLD}, {kernel}" in guest.says("dkms status")
    assert guest.says("systemctl is-active nvidia-persistenced") == "active\n"
    again = guest.provision(gpu_stack={**guest.variables["gpu_stack"], "driver": OLD})
    assert again.status == 0, again.output
    assert recap(again.output, "guest")["changed"] == 0, again.output
    held = guest.says("apt-mark showhold").split()
    assert {"nvidia-open", "nvidia-dkms-open", f"nvidia-driver-pinning-{OLD}"} <= set(held)


def test_a_run_whose_connection_is_cut_in_the_middle_goes_on_when_it_is_back(guest: Guest) -> None:
    cut: list[float] = []

    def cut_and_restore() -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            if guest.machine.ssh("pgrep dpkg >/dev/null && pgrep -f dkms >/dev/null").status == 0:
                guest.machine.cut()
                cut.append(time.monotonic())
                time.sleep(20)
                guest.machine.restore()
                return
            time.sleep(1)

    watcher = threading.Thread(target=cut_and_restore)
    watcher.start()
    # The transaction runs detached on the machine, and asking for it is tried again.
    done = guest.provision()
    watcher.join()
    assert cut, "nothing was installed that could have been interrupted"
    assert done.status == 0, done.output
    assert guest.says("cat /sys/module/nvidia/version") == f"{NEW}\n"
    log = guest.says("cat /var/log/dpkg.log")
    assert len(re.findall(r" install nvidia-dkms-open:", log)) == 1, "installed once, not twice"
    assert guest.says("dpkg --audit") == ""


def test_a_machine_that_never_comes_back_is_said_and_bounded(guest: Guest) -> None:
    guest.machine.put("options nouveau busy=1\n", "/etc/modprobe.d/busy.conf")
    guest.machine.ssh("rmmod nouveau; modprobe nouveau", check=True)
    guest.machine.go_down_at_reboot()
    started = time.monotonic()
    done = guest.provision(nvidia_driver_reboot_timeout=30)
    assert done.status != 0
    assert "has not come back within 30 s" in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert time.monotonic() - started < 600
