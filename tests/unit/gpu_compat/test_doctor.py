# SPDX-License-Identifier: Apache-2.0
"""The doctor: every fault is found, with one action, and a host that is as planned has none."""

from __future__ import annotations

from typing import Any

import pytest
from driver_facts import A100, H100, NVSWITCH, RTX_3090, V100, bare_host, changed, made, plan_of
from gpu_compat import change, doctor_text, examine
from gpu_compat.doctor import SEVERITIES
from hypothesis import given, settings
from test_driver_change import KERNEL, NEXT, OLD, converged, hosts

#: A value to change on a host that is as planned => findings by id, each with words of what it says.
FAULTS: dict[str, tuple[tuple[Any, ...], dict[str, str]]] = {
    "three that differ": (
        ("driver", {"loaded_version": OLD, "mismatch": f"module {OLD} is loaded, the library is 595.91.07."}),
        {"driver_mismatch": f"module {OLD} is loaded"},
    ),
    "not loaded": (("driver", "loaded_version", None), {"driver_not_loaded": "is not loaded"}),
    "held back": (
        ("driver", {"installed_version": OLD, "loaded_version": OLD}),
        {"driver_held_back": f"driver {OLD} is installed, and 3 packages are held there; 595.91.07 is planned"},
    ),
    "newer": (
        ("driver", {"installed_version": "610.1.1", "loaded_version": "610.1.1"}),
        {"driver_newer": "driver 610.1.1 is installed; 595.91.07 is planned"},
    ),
    "other source and flavour": (
        ("driver", {"source": "runfile", "installed_module": "proprietary"}),
        {"driver_differs": "installed from a runfile and its proprietary kernel module is installed"},
    ),
    "not held": (("driver", "held", []), {"not_held": "an upgrade may replace part of the driver; not held: "}),
    "module missing": (
        ("driver", "modules", NEXT, ...),
        {"module_missing": f"there is no module for Linux {NEXT}, which boots next"},
    ),
    "headers missing": (
        ("kernels", 0, "headers", False),
        {"headers_missing": f"linux-headers-{NEXT}"},
    ),
    "nouveau is back": (("nouveau", "loaded", True), {"nouveau_loaded": "nouveau is loaded"}),
    "nouveau may come back": (("nouveau", "blacklisted", False), {"nouveau_back": "at the next boot"}),
    "nouveau in the initramfs": (("nouveau", "in_initramfs", True), {"nouveau_back": "in the initramfs"}),
    "key out of date": (
        ("state", "fingerprints", ["A" * 40]),
        {"repository_key": "is out of date; EB693B3035CD5710E231E123A4B469963BF863CC signs it now"},
    ),
    "repository file": (
        ("managed", "/etc/apt/sources.list.d/gpulab-nvidia.sources", None),
        {"repository_changed": "/etc/apt/sources.list.d/gpulab-nvidia.sources is gone"},
    ),
    "other file": (("managed", "/etc/modprobe.d/gpulab-nvidia.conf", "x"), {"file_changed": "was changed by hand"}),
    "half-configured": (("package_manager", "broken", ["vim"]), {"packages_broken": "half-configured: vim"}),
    "locked": (
        ("package_manager", "lock", {"pid": 7, "command": "apt-get", "age_s": 1900}),
        {"lock_held": "apt-get (pid 7) holds the package manager's lock for 31 minutes"},
    ),
    "reboot": (
        ("reboot", {"required": True, "packages": ["linux-image-generic"]}),
        {"reboot_pending": "the system waits for a reboot for linux-image-generic"},
    ),
    "daemon": (("units", "nvidia-persistenced", "active", False), {"persistenced_stopped": "is not running"}),
    "passed through": (
        ("gpus", 0, "driver", "vfio-pci"),
        {"gpu_bound_elsewhere": "the GPU at 0000:01:00.0 is bound to vfio-pci"},
    ),
    "/boot full": (("disk", "/boot", 30 * 2**20), {"boot_full": "/boot has 30 MiB free"}),
    "narrow": (
        ("gpus", 0, "link", {"width": "8", "width_max": "16"}),
        {"link_narrow": "the GPU at 0000:01:00.0 has 8 of 16 PCIe lanes"},
    ),
    "not applied": (("state", "digest", "x"), {"not_applied": "settings: plan or settings have changed"}),
}


def broken(path_and_value: tuple[Any, ...], facts: dict[str, Any]) -> dict[str, Any]:
    *path, value = path_and_value
    if len(path) == 1 and isinstance(value, dict):
        value = {**facts[path[0]], **value}
    return changed(facts, *path, value)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_nothing_beside_it(name: str) -> None:
    path_and_value, expected = FAULTS[name]
    facts, planned = converged()
    facts = broken(path_and_value, facts)
    found = examine(planned, facts, change(planned, facts))
    assert [row["id"] for row in found] == list(expected)
    for row in found:
        assert expected[row["id"]] in row["what"]


@pytest.mark.parametrize(("gpu", "system"), [(RTX_3090, "ubuntu2404"), (V100, "debian12"), (A100, "rhel9")])
def test_a_host_as_planned_has_no_findings(gpu: str, system: str) -> None:
    facts, planned = converged(system, gpu)
    assert examine(planned, facts, change(planned, facts)) == []


def test_a_bare_host_is_told_that_it_has_no_driver() -> None:
    facts = bare_host()
    found = examine(plan_of(facts), facts, change(plan_of(facts), facts))
    assert [row["id"] for row in found] == ["driver_missing", "nouveau_back"]
    assert found[0]["command"] == "./provision --limit HOST"


def test_what_differs_only_until_the_reboot_asks_for_the_reboot() -> None:
    facts, planned = converged()
    facts["driver"] |= {"loaded_version": OLD, "mismatch": "the three differ"}
    assert examine(planned, facts)[0]["command"] == "reboot"
    facts["driver"]["broken"] = ["nvidia-open"]
    mismatch = next(row for row in examine(planned, facts) if row["id"] == "driver_mismatch")
    assert mismatch["command"] == "./provision --limit HOST"


def test_a_module_is_built_by_dkms_unless_it_comes_signed_or_its_headers_are_missing() -> None:
    facts, planned = converged()
    del facts["driver"]["modules"][NEXT]
    assert examine(planned, facts)[0]["command"] == f"dkms autoinstall -k {NEXT}"
    facts["kernels"][0]["headers"] = False
    assert {row["id"]: row["command"] for row in examine(planned, facts)} == {
        "module_missing": "./provision --limit HOST",
        "headers_missing": f"apt-get install linux-headers-{NEXT}",
    }
    signed = made(bare_host(secure_boot=True), plan_of(bare_host(secure_boot=True)))
    del signed["driver"]["modules"][KERNEL]
    assert examine(plan_of(signed), signed)[0]["command"] == "./provision --limit HOST"


def test_a_key_that_waits_at_the_console_is_told_instead_of_the_module_that_is_not_loaded() -> None:
    bare = bare_host("debian12", secure_boot=True)
    facts = made(bare, plan_of(bare))
    facts["machine_owner_key"] |= {"enrolled": False, "pending": True}
    facts["driver"]["loaded_version"] = None
    found = examine(plan_of(facts), facts)
    assert [row["id"] for row in found] == ["key_pending"]
    facts["machine_owner_key"]["pending"] = False
    assert [row["id"] for row in examine(plan_of(facts), facts)] == ["key_not_enrolled"]


def test_a_fabric_manager_of_another_version_and_one_that_stands_are_errors() -> None:
    bare = bare_host(gpu=H100, nvswitches=[NVSWITCH])
    facts = made(bare, plan_of(bare))
    facts["driver"]["packages"]["nvidia-fabricmanager"] = "580.1.1-1"
    facts["units"]["nvidia-fabricmanager"]["active"] = False
    found = examine(plan_of(facts), facts)
    assert [(row["id"], row["severity"]) for row in found] == [
        ("fabric_manager_version", "error"),
        ("fabricmanager_stopped", "error"),
    ]


def test_unattended_upgrades_are_told_where_nothing_holds_the_family() -> None:
    facts, planned = converged()
    facts["package_manager"] |= {"unattended_upgrades": True}
    assert "unattended_upgrades" not in [row["id"] for row in examine(planned, facts)]
    facts["driver"]["held"] = []
    assert "unattended_upgrades" in [row["id"] for row in examine(planned, facts)]


def test_a_lock_of_a_moment_is_no_fault() -> None:
    facts, planned = converged()
    for age in ({}, {"age_s": 5}):
        facts["package_manager"]["lock"] = {"pid": 7, "command": "apt-get", **age}
        assert [row["severity"] for row in examine(planned, facts)] == ["info"]


def test_a_container_is_only_looked_at() -> None:
    facts = bare_host(container="docker", nouveau={"loaded": True, "blacklisted": False, "in_initramfs": None})
    facts["driver"] |= {"loaded_version": OLD, "module": "open"}
    assert examine(plan_of(facts), facts, {"driver": None}) == []


def test_a_host_without_a_plan_is_still_looked_at() -> None:
    facts = bare_host(disk={"/boot": 1})
    facts["package_manager"]["broken"] = ["vim"]
    assert [row["id"] for row in examine(None, facts, None)] == ["packages_broken", "boot_full"]


def test_why_a_host_cannot_be_planned_is_a_finding() -> None:
    (found,) = examine(None, {}, conflicts=[{"id": "no_driver", "message": "no driver is loaded"}])
    assert (found["id"], found["severity"]) == ("cannot_plan", "error")
    assert found["what"] == "the host cannot be planned: no driver is loaded"


def test_a_change_that_is_not_given_is_computed() -> None:
    facts, planned = converged()
    facts["state"]["digest"] = "x"
    assert examine(planned, facts) == examine(planned, facts, change(planned, facts))
    assert [row["id"] for row in examine(planned, facts)] == ["not_applied"]


def test_what_is_right_is_no_finding() -> None:
    facts, planned = converged()
    facts["gpus"][0] |= {"driver": "nvidia", "link": {"width": "16", "width_max": "16"}}
    facts["state"]["fingerprints"] = planned["driver"]["repository"]["fingerprints"]
    assert examine(planned, facts) == []
    facts["nouveau"]["loaded"], facts["gpus"][0]["driver"] = True, "nouveau"
    assert [row["id"] for row in examine(planned, facts)] == ["nouveau_loaded"]


def test_the_text_names_hosts_and_commands_and_how_many_are_well() -> None:
    facts, planned = converged()
    ill = examine(planned, changed(facts, "nouveau", "blacklisted", False))
    text = doctor_text({"gpu01": ill, "gpu02": []})
    assert text.splitlines() == [
        "gpu01:",
        "  warning: nothing keeps nouveau from being loaded at the next boot [nouveau_back]",
        "      Provision the host; a run repairs this.",
        "      ./provision --limit gpu01",
        "",
        "1 of 2 hosts without findings",
    ]
    assert doctor_text({"gpu02": []}) == "1 of 1 host without findings"


@given(hosts())
@settings(max_examples=150, deadline=None)
def test_findings_are_sorted_worst_first_and_each_has_one_action(
    drawn: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    facts, planned = drawn
    found = examine(planned, facts, change(planned, facts))
    assert examine(planned, facts, change(planned, facts)) == found
    assert [SEVERITIES.index(row["severity"]) for row in found] == sorted(
        SEVERITIES.index(row["severity"]) for row in found
    )
    for row in found:
        assert set(row) == {"id", "severity", "what", "action", "command"}
        assert row["what"].strip()
        assert row["action"].strip()
        assert not row["action"].endswith("."), "the text ends the sentence"
    if change(planned, facts)["driver"]:
        assert found, "a host that is not as planned is never called well"
