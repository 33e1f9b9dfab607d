# SPDX-License-Identifier: Apache-2.0
"""The role nvidia_driver on a machine with a real kernel: real modules, real reboots, and connections that break."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_runs import recap, run_playbook
from driver_packages import VERSIONS, Repository
from project_tree import ROOT
from testbed import Result
from virtual_machine import IMPATIENT, Image, VirtualMachine

NEW = VERSIONS[-1]


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


@pytest.fixture(scope="module")
def guest(
    image: Image,
    booted: tuple[Path, Path],
    repository: Repository,
    repository_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guest]:
    """A machine with a GPU that nouveau drives, loaded from the initramfs and in use, so that nothing but a reboot gets
    it out of the way. The tests follow one another: building a module takes minutes on an emulated processor."""
    disk, memory = booted
    machine = VirtualMachine.start(image, disk=disk, memory_state=memory)
    machine.ssh("touch /etc/test-bed/nouveau-in-initramfs && update-initramfs -u", check=True)
    keep_nouveau(machine)
    yield Guest(machine, repository, repository_url, tmp_path_factory.mktemp("guest"))
    machine.stop()


def keep_nouveau(machine: VirtualMachine) -> None:
    """Load nouveau as if a screen showed something."""
    machine.put("options nouveau busy=1\n", "/etc/modprobe.d/busy.conf")
    machine.ssh("rmmod nouveau; modprobe nouveau", check=True)


@contextmanager
def cut_while_it_builds(machine: VirtualMachine) -> Iterator[list[float]]:
    """Cut the network for 20 s while DKMS builds the module; the list tells when, and is empty where it never built."""
    cut: list[float] = []

    def cut_and_restore() -> None:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            # Not dpkg-query, and not the very shell that asks.
            if machine.ssh("pgrep -x dpkg >/dev/null && pgrep -f '[d]kms' >/dev/null").status == 0:
                machine.cut()
                cut.append(time.monotonic())
                time.sleep(20)
                machine.restore()
                return
            time.sleep(1)

    watcher = threading.Thread(target=cut_and_restore)
    watcher.start()
    yield cut
    watcher.join()


def test_a_driver_is_installed_once_through_a_cut_connection_and_a_reboot(guest: Guest) -> None:
    kernel = guest.says("uname -r").strip()
    with cut_while_it_builds(guest.machine) as cut:
        # The transaction runs detached on the machine, and asking for it is tried again.
        done = guest.provision()
    assert cut, "nothing was installed that could have been interrupted"
    assert done.status == 0, done.output
    assert guest.machine.reboots == 1
    assert guest.says("cat /sys/module/nvidia/version") == f"{NEW}\n"
    assert guest.says("lsmod").count("nouveau") == 0
    assert f"nvidia/{NEW}, {kernel}" in guest.says("dkms status")
    assert guest.says("systemctl is-active nvidia-persistenced") == "active\n"
    log = guest.says("cat /var/log/dpkg.log")
    assert len(re.findall(r" install nvidia-dkms-open:", log)) == 1, "installed once, not twice"
    assert guest.says("dpkg --audit") == ""


def test_afterwards_a_run_costs_nothing_and_an_upgrade_finds_everything_held(guest: Guest) -> None:
    again = guest.provision()
    assert again.status == 0, again.output
    assert recap(again.output, "guest")["changed"] == 0, again.output
    held = guest.says("apt-mark showhold").split()
    assert {"nvidia-open", "nvidia-dkms-open", f"nvidia-driver-pinning-{NEW}"} <= set(held)


def test_a_machine_that_never_comes_back_is_said_and_bounded(guest: Guest) -> None:
    guest.machine.ssh("systemctl stop nvidia-persistenced; rmmod nvidia_uvm; rmmod nvidia", check=True)
    keep_nouveau(guest.machine)
    guest.machine.go_down_at_reboot()
    started = time.monotonic()
    done = guest.provision(nvidia_driver_reboot_timeout=30)
    assert done.status != 0
    assert "has not come back within 30 s" in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert time.monotonic() - started < 600
