# SPDX-License-Identifier: Apache-2.0
"""The hosts of inventories/lab, as containers that pose as them: each gets the driver of its plan, and then costs
nothing. Their GPUs are made of files, so what is proven is packaging and decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fabricated_hosts as f
import pytest
import yaml
from ansible_runs import recap
from driver_runs import PLAYBOOKS, facts_of, steps_said, steps_taken, variables_of
from posing_hosts import PosingHost, play
from project_tree import ROOT

#: Host -> the system that it poses as, and its hardware as the inventory declares it.
SYSTEMS = {
    "gpu01": "ubuntu2204",
    "gpu02": "debian12",
    "gpu03": "ubuntu2404",
    "gpu04": "rhel9",
    "gpu05": "ubuntu2204",
    "gpu06": "ubuntu2404",
    "login": "debian12",
}
#: What the plan must come to; a test of the engine says why.
DRIVERS = {
    "gpu01": ("580.178.04", "proprietary", "nvidia_repo"),
    "gpu02": ("580.178.04", "proprietary", "nvidia_repo"),
    "gpu03": ("580.178.04", "open", "distro"),
    "gpu04": ("595.91.07", "open", "nvidia_repo"),
    "gpu05": ("580.126.09", "open", "nvidia_repo"),
    "gpu06": ("595.91.07", "open", "nvidia_repo"),
}


def two_rtx_3090(root: Path) -> None:
    """Two cards in a workstation."""
    f.plain(root)
    for bus in ("0000:01:00.0", "0000:02:00.1"):
        f.pci_function(root, bus, f.NVIDIA, "0x2204", "0x030000", subsystem="10de:1467", link=f.GEN4)


def one(device: str) -> Any:
    """Return a function that makes a server with one card without a display."""

    def make(root: Path) -> None:
        f.plain(root)
        f.pci_function(root, "0000:3b:00.0", f.NVIDIA, device, "0x030200", link=f.GEN4)

    return make


HARDWARE = {
    "gpu01": f.gtx_1080_ti,
    "gpu02": one("0x1db4"),
    "gpu03": two_rtx_3090,
    "gpu04": one("0x20f1"),
    "gpu05": lambda root: f.h100_hgx(root, None),  # nothing is loaded yet
    "gpu06": f.rtx_5090,
    "login": None,
}


@pytest.fixture(scope="module")
def lab(hosts: Any) -> dict[str, PosingHost]:
    """All hosts, started."""
    return {
        name: hosts.start(
            name,
            system,
            hardware=HARDWARE[name],
            nouveau=name in ("gpu01", "gpu06"),
            secure_boot=True if name == "gpu03" else None,
        )
        for name, system in SYSTEMS.items()
    }


@pytest.fixture(scope="module")
def variables(server: Any, repositories: Any) -> dict[str, dict[str, Any]]:
    """The inventory's own requests, with packages from the stand-in and without environments."""
    published = {system: repositories.publish(system, server.root) for system in set(SYSTEMS.values())}
    return {
        name: variables_of(server, published[system], request=request(name), nvidia_driver_reboot_allowed=True)
        for name, system in SYSTEMS.items()
    }


def request(name: str) -> dict[str, Any]:
    """Return what the driver of a host depends on in the lab's inventory."""
    directory = ROOT / "inventories" / "lab" / "group_vars"
    groups = {"gpu01": "gtx_1080_ti", "gpu06": "rtx_5090", "login": "cpu_only"}
    stack = yaml.safe_load((directory / f"{groups.get(name, 'all')}.yml").read_text())["gpu_stack"]
    # What the inventory declares as installed on gpu05 is asked for by name here, because nothing is installed yet.
    driver = {"driver": "580.126.09"} if name == "gpu05" else {}
    return {**stack, **driver, "cuda_toolkits": [], "cudnn": "none", "environments": []}


@pytest.fixture(scope="module")
def said(lab: dict[str, PosingHost], variables: Any) -> dict[str, list[str]]:
    """The steps that --check names on the fresh hosts."""
    before = {name: host.must("dpkg -l 2>/dev/null | wc -l; find /etc -type f | wc -l") for name, host in lab.items()}
    checked = play(PLAYBOOKS / "provision.yml", lab, "--check", variables=variables)
    assert checked.status == 0, checked.output
    after = {name: host.must("dpkg -l 2>/dev/null | wc -l; find /etc -type f | wc -l") for name, host in lab.items()}
    assert before == after
    return {name: steps_said(checked.output, name) for name in lab}


@pytest.fixture(scope="module")
def provisioned(lab: dict[str, PosingHost], variables: Any, said: Any) -> str:
    """What the real run printed."""
    done = play(PLAYBOOKS / "provision.yml", lab, variables=variables)
    assert done.status == 0, done.output
    return str(done.output)


def test_check_names_the_steps_that_the_real_run_takes(said: dict[str, list[str]], provisioned: str) -> None:
    assert said == {name: steps_taken(provisioned, name) for name in said}
    assert said["login"] == []
    assert all(said[name] for name in DRIVERS)


@pytest.mark.parametrize("name", DRIVERS)
def test_each_host_has_the_driver_of_its_plan(name: str, lab: Any, variables: Any, provisioned: str) -> None:
    facts = facts_of(lab[name], variables[name])
    version, module, source = DRIVERS[name]
    driver = facts["driver"]
    assert facts["simulated"] is True
    assert (driver["loaded_version"], driver["module"]) == (version, module)
    assert (driver["installed_version"], driver["source"], driver["mismatch"]) == (version, source, None)
    assert facts["state"]["version"] == version


@pytest.mark.parametrize("name", ["gpu01", "gpu06"])
def test_nouveau_is_gone(name: str, lab: Any, variables: Any, provisioned: str) -> None:
    nouveau = facts_of(lab[name], variables[name])["nouveau"]
    assert (nouveau["loaded"], nouveau["blacklisted"]) == (False, True)


@pytest.mark.parametrize("name", ["gpu01", "gpu02", "gpu03", "gpu05", "gpu06"])
def test_a_full_upgrade_would_touch_none_of_the_family(name: str, lab: Any, variables: Any, provisioned: str) -> None:
    lab[name].must("apt-get -qq update")
    upgrade = lab[name].must("apt-get --simulate dist-upgrade")
    family = facts_of(lab[name], variables[name])["driver"]["packages"]
    touched = [line.split()[1] for line in upgrade.splitlines() if line.startswith(("Inst ", "Remv "))]
    assert not set(touched) & set(family), upgrade


def test_a_full_upgrade_with_dnf_would_touch_none_of_the_family(lab: Any, provisioned: str) -> None:
    upgrade = lab["gpu04"].run("dnf --assumeno upgrade").output
    assert "nvidia" not in upgrade, upgrade


def test_the_fabric_manager_has_the_drivers_version(lab: Any, provisioned: str) -> None:
    assert lab["gpu05"].must("dpkg-query -W -f '${Version}' nvidia-fabricmanager").startswith("580.126.09-")
    assert lab["gpu05"].run("systemctl is-enabled nvidia-fabricmanager").output.strip() == "enabled"


def test_signed_modules_are_taken_where_secure_boot_is_on(lab: Any, provisioned: str) -> None:
    assert "linux-modules-nvidia-580-server-open-" in lab["gpu03"].must("dpkg -l")
    assert lab["gpu03"].run("dpkg-query -W nvidia-dkms-580-server-open").status != 0


def test_the_second_run_changes_nothing_and_check_says_so(lab: Any, variables: Any, provisioned: str) -> None:
    # The driver that is installed stays, although a newer one of its branch is known.
    settled = json.loads(json.dumps(variables))
    settled["gpu05"]["gpu_stack"]["driver"] = "auto"
    again = play(PLAYBOOKS / "provision.yml", lab, variables=variables)
    assert again.status == 0, again.output
    assert {name: recap(again.output, name)["changed"] for name in lab} == dict.fromkeys(lab, 0), again.output
    checked = play(PLAYBOOKS / "provision.yml", lab, "--check", variables=settled)
    assert checked.status == 0, checked.output
    assert {name: recap(checked.output, name)["changed"] for name in lab} == dict.fromkeys(lab, 0), checked.output
    # A converged host costs facts, plan and comparison, and none of the role's tasks.
    assert "nvidia_driver :" not in again.output


def test_the_doctor_finds_nothing_wrong(lab: Any, variables: Any, provisioned: str) -> None:
    audit = play(PLAYBOOKS / "audit.yml", lab, variables=variables)
    assert audit.status == 0, audit.output
    assert f"{len(lab)} of {len(lab)} hosts without findings" in audit.output, audit.output
