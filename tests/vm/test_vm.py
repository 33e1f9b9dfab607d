# SPDX-License-Identifier: Apache-2.0
"""The virtual machines themselves: what the tests of the driver role rely on."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

import pytest
from virtual_machine import IMPATIENT, VirtualMachine

Ansible = Callable[..., "subprocess.CompletedProcess[str]"]


def test_ssh_accepts_this_machine_and_no_other(machine: VirtualMachine) -> None:
    assert machine.ssh("id -un", root=False, check=True).output == "admin\n"
    known = machine.directory / "known_hosts"
    key = known.read_text()
    known.write_text(key[:-8] + "AAAA" + key[-4:])
    refused = machine.ssh("true", root=False)
    assert refused.status == 255
    assert "Host key verification failed" in refused.output


def test_ansible_reboots_the_machine_into_the_kernel_that_grub_is_told(
    machine: VirtualMachine, ansible: Ansible
) -> None:
    newest, older = machine.image.kernels
    assert machine.next_kernel == newest
    machine.boot_once(older)
    assert machine.next_kernel == older
    before = machine.boot_id()
    done = ansible("-b", "-m", "ansible.builtin.reboot", "-a", "reboot_timeout=240")
    assert "rebooted: true" in done.stdout, done.stdout + done.stderr
    assert machine.reboots == 1
    assert machine.boot_id() != before
    assert machine.ssh("uname -r", check=True).output == f"{older}\n"
    assert machine.next_kernel == newest
    machine.next_kernel = older
    assert machine.next_kernel == older


def test_the_machine_shows_a_gpu_beside_its_own_devices_and_nouveau_is_loaded_for_it(
    machine: VirtualMachine, ansible: Ansible
) -> None:
    listed = machine.ssh("lspci -nnk", check=True).output
    assert "[10de:1eb8]" in listed
    assert "Virtio network device" in listed
    assert "nouveau" in machine.ssh("lsmod", check=True).output
    facts = ansible("-m", "gpu_facts")
    assert facts.returncode == 0, facts.stdout + facts.stderr
    assert "bus: 0000:65:00.0" in facts.stdout


def test_a_nouveau_in_the_initramfs_is_loaded_there(machine: VirtualMachine) -> None:
    machine.ssh("touch /etc/test-bed/nouveau-in-initramfs && update-initramfs -u", check=True)
    reboot(machine)
    console = machine.console()
    assert "nouveau: " in console
    assert console.index("nouveau: ") < console.index("EXT4-fs (vda1): mounted"), "loaded too late"


def test_a_nouveau_in_use_cannot_be_unloaded(machine: VirtualMachine) -> None:
    assert machine.ssh("rmmod nouveau").status == 0
    machine.put("options nouveau busy=1\n", "/etc/modprobe.d/busy.conf")
    refused = machine.ssh("modprobe nouveau && rmmod nouveau")
    assert refused.status == 1
    assert "in use" in refused.output


def test_a_cut_connection_breaks_a_task_off_and_the_machine_works_on(machine: VirtualMachine, ansible: Ansible) -> None:
    timer = threading.Timer(8, machine.cut)
    timer.start()
    started = time.monotonic()
    done = ansible("-m", "ansible.builtin.shell", "-a", "sleep 25; touch /tmp/finished", **IMPATIENT)
    timer.join()
    assert "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    assert time.monotonic() - started < 24
    machine.restore()
    pinged = ansible("-m", "ansible.builtin.ping", **IMPATIENT)
    assert "pong" in pinged.stdout, pinged.stdout + pinged.stderr
    deadline = time.monotonic() + 60
    while machine.ssh("test -e /tmp/finished").status != 0:
        assert time.monotonic() < deadline, "what ran when the connection was cut did not go on"


def test_a_hung_up_session_ends_a_task_at_once(machine: VirtualMachine, ansible: Ansible) -> None:
    timer = threading.Timer(8, machine.hang_up)
    timer.start()
    started = time.monotonic()
    done = ansible("-m", "ansible.builtin.command", "-a", "sleep 120")
    timer.join()
    assert "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    assert time.monotonic() - started < 60
    assert machine.reboots == 0


def test_a_machine_that_never_comes_back_is_given_up(machine: VirtualMachine, ansible: Ansible) -> None:
    machine.go_down_at_reboot()
    done = ansible("-b", "-m", "ansible.builtin.reboot", "-a", "reboot_timeout=15 connect_timeout=5")
    assert done.returncode != 0
    assert "Timed out waiting for" in done.stdout, done.stdout + done.stderr
    assert not machine.running
    with pytest.raises(TimeoutError, match="the machine has ended"):
        machine.wait_until_up()


def reboot(machine: VirtualMachine) -> None:
    """Reboot from inside and wait until the machine is back."""
    count = machine.reboots
    machine.ssh("systemctl reboot")
    deadline = time.monotonic() + 120
    while machine.reboots == count:
        assert time.monotonic() < deadline, "the machine does not reboot"
        time.sleep(0.2)
    machine.wait_until_up()
