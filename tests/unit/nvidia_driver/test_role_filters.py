# SPDX-License-Identifier: Apache-2.0
"""What the role nvidia_driver says and reads, without any host."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def filters(filters_of_role: Callable[[str], ModuleType]) -> ModuleType:
    return filters_of_role("nvidia_driver")


DRIVER = {"version": "580.126.09", "licenses": {"nvidia": "Dual MIT/GPL"}}


def module_of(version: str, licence: str = "Dual MIT/GPL") -> dict[str, Any]:
    return {"path": "/lib/modules/6.1/updates/dkms/nvidia.ko", "version": version, "license": licence, "signer": None}


def test_a_step_names_what_it_is_about(filters: ModuleType) -> None:
    change = {"remove": ["cuda-drivers"], "remove_runfile": True, "headers": ["linux-headers-6.1"], "kernels": ["6.1"]}
    said = filters.step_text({"step": "packages", "why": "the flavour changes"}, change)
    assert said == "packages: the flavour changes (removes cuda-drivers, removes what a runfile installed)"
    assert filters.step_text({"step": "hold", "why": "it is not held"}, change) == "hold: it is not held"


def test_work_is_named_with_its_owner(filters: ModuleType) -> None:
    row = {"pid": 7, "user": "maria", "command": "python train.py", "age_s": 7500, "devices": ["/dev/nvidia0"]}
    assert filters.work_text([row]).strip() == (
        "python train.py (pid 7, user maria, for 2 h 5 min) has /dev/nvidia0 open"
    )


def test_the_newest_version_that_all_packages_have_is_taken(filters: ModuleType) -> None:
    lines = [
        "nvidia-driver | 535.309.01-0+deb12u1 | http://mirror.lab bookworm-security/non-free amd64 Packages",
        "nvidia-driver | 535.261.03-1 | http://mirror.lab bookworm/non-free amd64 Packages",
        "nvidia-open-kernel-dkms | 1:535.261.03-1 | http://mirror.lab bookworm/contrib amd64 Packages",
        "linux-modules-nvidia-535-generic | 6.8.0-45.45 | http://mirror.lab noble amd64 Packages",
    ]
    assert filters.common_version(lines, "535") == "535.261.03-*"
    assert filters.common_version(lines[:1] + lines[2:], "535") == ""
    assert filters.common_version([], "535") == ""


def test_what_is_there_already_is_asked_for_by_version(filters: ModuleType) -> None:
    version = {"version": "580.126.09", "branch": "580", "package_version": "580.126.09-*"}
    planned = {**version, "exact": True, "hold": ["*nvidia-*"]}
    fabric_manager = "nvidia-fabricmanager=580.126.09*"
    names = ["nvidia-driver-pinning-580.126.09", "nvidia-open", "linux-modules-nvidia-x", fabric_manager]
    there = {
        "nvidia-open": "580.178.04-1",
        "libnvidia-cfg1": "3:580.178.04-1.el9",
        "nvidia-driver-pinning-580.178.04": "580.178.04-1",
        "nvidia-fabricmanager": "580.178.04-1",
        "nvidia-settings": "510.47.03-0ubuntu1",
        "nvidia-gone": "580.178.04-1",
    }
    assert filters.at_version(names, planned, there, ["nvidia-gone"], "=") == [
        "nvidia-driver-pinning-580.126.09",
        "nvidia-open=580.126.09-*",
        "linux-modules-nvidia-x",
        fabric_manager,
        "libnvidia-cfg1=580.126.09-*",
    ]
    assert filters.at_version(names, {**planned, "exact": False}, there, [], "=") == names


def test_what_is_outside_of_the_family_is_not_removed(filters: ModuleType) -> None:
    simulation = ["Inst nvidia-open (580)", "Remv nvidia-driver [535]", "Remv libcuda1:i386 [535]", "Remv gdm3 [43]"]
    assert filters.touched(simulation, ["nvidia-*"]) == ["gdm3"]


def test_a_module_that_is_not_as_planned_is_said(filters: ModuleType) -> None:
    modules = {"6.2": module_of("580.95.05")}
    said = filters.module_text(modules, DRIVER, ["6.2", "6.4"], {})
    assert "580.95.05" in said
    assert "for Linux 6.4 there is no module nvidia" in said


def test_the_installers_errors_are_read_from_its_log(filters: ModuleType) -> None:
    lines = [
        "-> Building",
        "ERROR: An NVIDIA kernel module 'nvidia-uvm' appears to be loaded.",
        "ERROR: Installation has failed.",
    ]
    assert "appears to be loaded. Installation has failed." in filters.installer_text(lines, {})


LGI = """
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   0  MIG 3g.40gb          9        1          0:4     |
|   0  MIG 3g.40gb          9        2          4:4     |
+-------------------------------------------------------+
""".splitlines()


def test_gpus_that_are_divided_as_declared_are_left_alone(filters: ModuleType) -> None:
    modes = ["00000000:17:00.0, Enabled, Enabled", "00000000:65:00.0, [N/A], [N/A]"]
    assert filters.mig_changes({"all": ["3g.40gb", "3g.40gb"]}, modes, LGI) == []


def test_another_division_takes_the_old_instances_off_first(filters: ModuleType) -> None:
    modes = ["00000000:17:00.0, Enabled, Enabled"]
    assert filters.mig_changes({"0000:17:00.0": ["1g.10gb"]}, modes, LGI) == [
        ["mig", "-dci", "-i", "0"],
        ["mig", "-dgi", "-i", "0"],
        ["mig", "-i", "0", "-cgi", "1g.10gb", "-C"],
    ]


def test_mig_is_switched_on_before_it_is_divided_and_off_after(filters: ModuleType) -> None:
    off = ["00000000:17:00.0, Disabled, Disabled"]
    assert filters.mig_changes({"all": ["7g.80gb"]}, off, []) == [
        ["-i", "0", "-mig", "1"],
        ["mig", "-i", "0", "-cgi", "7g.80gb", "-C"],
    ]
    on = ["00000000:17:00.0, Enabled, Enabled"]
    assert filters.mig_changes({"all": []}, on, LGI)[-1] == ["-i", "0", "-mig", "0"]
    assert filters.mig_pending("00000000:17:00.0, Disabled, Enabled")
