# SPDX-License-Identifier: Apache-2.0
"""Facts of hosts as gpu_facts returns them, made small: a bare host, and one that is exactly as a plan wants it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from gpu_compat import host_from_facts, plan
from gpu_compat.driver_change import driver_digest, wanted_units
from situations import TODAY

OS = {
    "ubuntu2404": {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04", "family": "debian"},
    "ubuntu2204": {"id": "ubuntu", "version": "22.04", "name": "Ubuntu 22.04", "family": "debian"},
    "debian12": {"id": "debian", "version": "12", "name": "Debian 12", "family": "debian"},
    "rhel9": {"id": "rocky", "version": "9.5", "name": "Rocky Linux 9.5", "family": "rhel"},
    "rhel10": {"id": "rocky", "version": "10.0", "name": "Rocky Linux 10.0", "family": "rhel"},
}
KERNELS = {
    "ubuntu2404": ("6.8.0-48-generic", "6.8.0-45-generic"),
    "ubuntu2204": ("5.15.0-120-generic", "5.15.0-100-generic"),
    "debian12": ("6.1.0-28-amd64", "6.1.0-25-amd64"),
    "rhel9": ("5.14.0-503.15.1.el9_5.x86_64", "5.14.0-503.el9.x86_64"),
    "rhel10": ("6.12.0-55.9.1.el10_0.x86_64", "6.12.0-55.el10.x86_64"),
}
RTX_3090, RTX_5090, V100, A100, H100 = "0x2204", "0x2b85", "0x1db4", "0x20b0", "0x2330"
NVSWITCH = {"bus": "0000:05:00.0", "vendor": "0x10de", "device": "0x22a3"}


def bare_host(system: str = "ubuntu2404", gpu: str = RTX_3090, **more: Any) -> dict[str, Any]:
    """A host with a GPU and no driver; the next boot takes a newer kernel than the one that runs."""
    newer, running = KERNELS[system]
    facts: dict[str, Any] = {
        "schema": 2,
        "os": dict(OS[system]),
        "arch": "x86_64",
        "kernel": running,
        "glibc": "2.36",
        "container": None,
        "kernels": [
            {"release": newer, "running": False, "next_boot": True, "headers": True, "image": True},
            {"release": running, "running": True, "next_boot": False, "headers": True, "image": True},
        ],
        "secure_boot": False,
        "machine_owner_key": {"enrolled": False, "pending": False, "certificate": None},
        "gpus": [{"bus": "0000:01:00.0", "vendor": "0x10de", "device": gpu, "driver": None, "product": "GPU"}],
        "other_gpus": [],
        "nvswitches": [],
        "nouveau": {"loaded": False, "blacklisted": False, "in_initramfs": False},
        "driver": {
            "loaded_version": None,
            "module": None,
            "reason": "the kernel module nvidia is not loaded",
            "library_version": None,
            "installed_version": None,
            "installed_module": None,
            "source": None,
            "packages": {},
            "held": [],
            "broken": [],
            "modules": {},
            "dkms": [],
            "mismatch": None,
        },
        "package_manager": {
            "kind": "dnf" if system.startswith("rhel") else "apt",
            "broken": [],
            "lock": None,
            "unattended_upgrades": False,
            "our_blacklist": False,
        },
        "busy": {"processes": [], "complete": True, "reason": None},
        "units": {},
        "reboot": {"required": False, "packages": []},
        "disk": {"/boot": 10**9},
        "managed": {},
        "state": None,
        "pythons": [{"path": "/usr/bin/python3", "minor": "3.12", "usable": True, "venv": True}],
        "environments": {},
        "unknown": {},
    }
    return {**facts, **more}


def plan_of(facts: Mapping[str, Any], **wishes: Any) -> dict[str, Any]:
    """Plan the driver of a host and nothing else."""
    request = {"environments": [], "cuda_toolkits": [], "cudnn": "none", **wishes}
    answer = plan(request, host_from_facts(facts), today=TODAY)
    assert answer["status"] == "planned", answer["conflicts"]
    return dict(answer["plan"])


def made(
    facts: Mapping[str, Any], planned: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a bare host is when a plan has been carried out on it to the end."""
    driver, fabric = planned["driver"], planned["fabric_manager"]
    version = driver["version"]
    names = [*driver["packages"], *(name for names in driver["kernel_packages"].values() for name in names)]
    names += [*([planned["cuda_compat_package"]] if planned["cuda_compat_package"] else [])]
    names += [fabric["package"], *fabric["extra_packages"]] if fabric else []
    packages = dict.fromkeys(names, f"{version}-1") | {"libnvidia-ml1": f"{version}-1"}
    signs = (planned["secure_boot"] or {}).get("method") == "machine_owner_key"
    kernels = [row["release"] for row in facts["kernels"]]
    module = {
        "path": "/lib/modules/x/nvidia.ko",
        "name": "nvidia",
        "version": version,
        "license": driver["licenses"]["nvidia"],
        "signer": "gpulab" if signs or driver["signed"] else None,
    }
    found = {
        "loaded_version": version,
        "module": driver["kernel_module"],
        "reason": None,
        "library_version": version,
        "installed_version": version,
        "installed_module": driver["kernel_module"],
        "source": driver["source"],
        "packages": {} if driver["source"] == "runfile" else packages,
        "held": [] if driver["source"] == "runfile" else sorted(packages),
        "modules": {kernel: dict(module) for kernel in kernels},
    }
    return copy.deepcopy(
        {
            **facts,
            "driver": {**facts["driver"], **found},
            "nouveau": {"loaded": False, "blacklisted": True, "in_initramfs": False},
            "machine_owner_key": {"enrolled": True, "pending": False, "certificate": "/var/lib/gpulab/key.der"}
            if signs
            else facts["machine_owner_key"],
            "units": {name: {"enabled": True, "active": True} for name in wanted_units(planned, settings or {})},
            "managed": {"/etc/modprobe.d/gpulab-nvidia.conf": "aa"},
            "state": {
                "version": version,
                "source": driver["source"],
                "digest": driver_digest(planned, settings),
                "files": {"/etc/modprobe.d/gpulab-nvidia.conf": "aa"},
            },
        }
    )


def changed(facts: Mapping[str, Any], *path_and_value: Any) -> dict[str, Any]:
    """Return facts with one value changed: ``changed(facts, "driver", "held", [])``. ``...`` takes a key away."""
    *above, last, value = path_and_value
    whole = copy.deepcopy(dict(facts))
    place: Any = whole
    for step in above:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return whole
