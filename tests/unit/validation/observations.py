# SPDX-License-Identifier: Apache-2.0
"""What driver, kernel's log and bus would tell of a host, made up: for the judging checks of tiers 0 to 2.

Everything here is simulated. It proves how the checks decide, never how a GPU behaves.
"""

from __future__ import annotations

import collections
import copy
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricated_hosts
import gates

MIB = 1 << 20
TABLE = json.loads((Path(gates.__file__).parent / "thresholds.json").read_text())
VERSION = "580.126.09"
BUSES = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
PRODUCT = "H100 SXM5 80GB"
PRODUCTS = {
    "products": {
        PRODUCT: {"pcie": {"gen": 5, "width": 16, "source": "a test"}, "nvlink": {"links": 18, "source": "a test"}},
        "A100 PCIe 80GB": {"pcie": {"gen": 4, "width": 16}, "nvlink": {"links": 12, "bridge": True}},
        "GeForce RTX 4090": {"pcie": {"gen": 4, "width": 16}},
    }
}
ROOMY = dict.fromkeys(("/opt/gpulab", "/tmp", "/", "/boot", "/usr", "/var"), 1 << 40)
Device = collections.namedtuple("Device", "index uuid bdf name product memory")


def facts_of(root: Path, fabricate: Callable[[Path], Any], **changes: Any) -> dict[str, Any]:
    """Return the facts of a fabricated host, with room on its disks."""
    from ansible.module_utils.host_all import Host

    fabricate(root)
    privilege = {"uid": 0, "user": "root", "home": "/root", "root": True, "how": "a test"}
    params = {"root": str(root), "scope": "system", "base_dir": "/opt/gpulab", "user_base_dir": "/opt/gpulab"}
    facts: dict[str, Any] = Host({**params, "privilege": privilege}).facts()
    return {**facts, "disk": dict(ROOMY), **changes}


def h100_facts() -> dict[str, Any]:
    """Return what the facts say of a server with eight H100 that is well; quicker than to fabricate its tree."""
    release = fabricated_hosts.SYSTEMS["ubuntu2404"][0]
    link = {"speed": "2.5 GT/s PCIe", "width": 16, "speed_max": "32.0 GT/s PCIe", "width_max": 16}
    row = {"vendor": "0x10de", "device": "0x2330", "driver": "nvidia", "link": link}
    module = {"version": VERSION, "license": "Dual MIT/GPL", "signer": None, "path": "/lib/modules/nvidia.ko"}
    packages = {"nvidia-open": f"{VERSION}-1ubuntu1", "libnvidia-compute": f"{VERSION}-1ubuntu1"}
    packages["nvidia-fabricmanager"] = f"{VERSION}-1"
    return {
        "schema": 2,
        "simulated": True,
        "container": None,
        "kernel": release,
        "kernels": [{"release": release, "running": True, "next_boot": True, "headers": True, "image": True}],
        "boot_id": "boot-1",
        "base_dir": "/opt/gpulab",
        "reboot": {"required": False, "packages": []},
        "gpus": [{"bus": f"0000:{bus}:00.0", **row} for bus in BUSES],
        "other_gpus": [],
        "nvswitches": [{"bus": f"0000:0{n}:00.0", "vendor": "0x10de", "device": "0x22a3"} for n in range(5, 9)],
        "secure_boot": False,
        "machine_owner_key": {"certificate": None, "enrolled": False, "pending": False},
        "nouveau": {"loaded": False, "blacklisted": True, "in_initramfs": False, "initramfs": None},
        "driver": {
            "loaded_version": VERSION,
            "module": "open",
            "reason": None,
            "library_version": VERSION,
            "installed_version": VERSION,
            "source": "nvidia_repo",
            "packages": packages,
            "held": sorted(packages),
            "broken": [],
            "modules": {release: module},
            "dkms": [{"module": "nvidia", "version": VERSION, "kernel": release, "state": "installed"}],
            "mismatch": None,
        },
        "package_manager": {
            "kind": "apt",
            "broken": [],
            "lock": None,
            "unattended_upgrades": True,
            "our_blacklist": True,
        },
        "busy": {"processes": [], "complete": True, "reason": None},
        "units": {
            "nvidia-persistenced": {"enabled": True, "active": True},
            "nvidia-fabricmanager": {"enabled": True, "active": True},
        },
        "cuda": [],
        "toolkit_store": [],
        "disk": dict(ROOMY),
        "state": {"version": VERSION, "source": "nvidia_repo"},
        "unknown": {},
    }


def gpu(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what NVML tells of an H100 that is well and idle."""
    errors = {"crc_flit": 0, "crc_data": 0, "replay": 0, "recovery": 0}
    zero = {"corrected": 0, "uncorrected": 0}
    row = {
        "index": index,
        "bdf": f"0000:{BUSES[index]}:00.0",
        "uuid": f"GPU-{index:08x}-0000-0000-0000-000000000000",
        "name": "NVIDIA H100 80GB HBM3",
        "vbios": "96.00.74.00.01",
        "serial": f"16{index}",
        "compute_capability": "9.0",
        "architecture": "hopper",
        "memory": {"total": 85520809984, "used": 4 << 20, "free": 85516615680},
        "persistence": True,
        "mig": {"current": False, "pending": False, "instances": []},
        "ecc": {
            "current": True,
            "pending": True,
            "volatile": dict(zero),
            "aggregate": dict(zero),
            "sram_aggregate_uncorrected": 0,
            "sram_threshold_exceeded": False,
        },
        "row_remap": {"corrected": 0, "uncorrected": 0, "pending": False, "failure": False},
        "retired_pages": None,
        "recovery_action": "none",
        "pcie": {
            "gen": 1,
            "gen_max": 5,
            "width": 16,
            "width_max": 16,
            "gen_max_gpu": 5,
            "width_max_gpu": 16,
            "replays": 0,
        },
        "nvlink": [{"link": link, "active": True, "errors": dict(errors)} for link in range(18)],
        "fabric": {"state": "completed", "status": 0, "health": 0, "health_summary": "healthy"},
        "clocks_event_reasons": ["idle"],
        "temperature": 31,
        "power_w": 71.2,
        "power_limit_w": 700.0,
        "utilization": {"gpu": 0, "memory": 0},
        "processes": [],
        "accounting_mode": True,
        "virtualization": "none",
        "lost": False,
        "problem": None,
        "why": {"retired_pages": "NOT_SUPPORTED"},
    }
    return {**row, **changes}


def consumer(index: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what NVML tells of a GeForce, which has neither ECC nor rows to replace nor NVLink."""
    missing = ("ecc", "row_remap", "retired_pages", "recovery_action", "nvlink", "fabric")
    row = gpu(
        index,
        name="NVIDIA GeForce RTX 4090",
        vbios="95.02.3c.00.01",
        ecc=None,
        row_remap=None,
        recovery_action=None,
        nvlink=[],
        fabric=None,
        why=dict.fromkeys(missing, "NOT_SUPPORTED"),
    )
    row["pcie"].update(gen_max=4, gen_max_gpu=4)
    return {**row, **changes}


def observation(*gpus: dict[str, Any]) -> dict[str, Any]:
    """Return what the driver answers: NVML and nvidia-smi say the same."""
    rows = list(gpus) or [gpu(index) for index in range(8)]
    nvml = {
        "error": None,
        "outcome": "finished",
        "seconds": 0.4,
        "driver_version": VERSION,
        "nvml_version": f"13.{VERSION}",
        "cuda_driver_version": 13000,
        "library": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "gpus": rows,
        "stuck": None,
        "tail": "",
    }
    smi = {
        "outcome": "finished",
        "seconds": 1.2,
        "code": 0,
        "problem": "",
        "driver_version": VERSION,
        "cuda_version": "13.0",
        "suspicious": [],
        "declared": len(rows),
        "gpus": copy.deepcopy(rows),
    }
    return {"simulated": True, "nvml": nvml, "smi": smi}


def log(*entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a kernel's log with these Xids."""
    row: dict[str, Any] = {"source": "journal", "problem": "", "cursor": "s=1", "boot_id": "boot-1"}
    return {**row, "xids": list(entries), **changes}


def xid(number: int, **changes: Any) -> dict[str, Any]:
    """Return a report of the driver that came while this run was under way."""
    row: dict[str, Any] = {"xid": number, "bdf": "0000:1b:00.0", "pid": None, "process": None, "text": ""}
    row.update(this_boot=True, cursor="s=2", time=None, after_start=True)
    return {**row, **changes}


def context(**changes: Any) -> types.SimpleNamespace:
    """Return what the checks are given on a server with eight H100 that is as planned and well."""
    facts = changes.pop("facts", None) or h100_facts()
    planned = [
        {"bus": row["bus"], "vendor": row["vendor"], "device": row["device"], "product": PRODUCT}
        for row in facts["gpus"] or ()
    ]
    expected = {
        "driver": {"version": VERSION, "kernel_module": "open", "source": "nvidia_repo"},
        "gpus": planned,
        "declared_gpus": None,
        "cuda_toolkits": [],
        "accept_hardware": False,
    }
    expected.update(changes.pop("expected", {}))
    values: dict[str, Any] = {
        "settings": {},
        "table": TABLE,
        "products": PRODUCTS,
        "profile": "gpu",
        "facts": facts,
        "expected": expected,
        "observation": observation(),
        "kernel_log": log(),
        "known": None,
        "previous": None,
        "environments": [],
        "devices": [],
        "runner": None,
    }
    return types.SimpleNamespace(**{**values, **changes})


def bare(**changes: Any) -> types.SimpleNamespace:
    """Return a host without a GPU in the profile cpu."""
    facts = {**h100_facts(), "gpus": [], "nvswitches": [], **changes.pop("facts", {})}
    expected = {"driver": None, "gpus": [], **changes.pop("expected", {})}
    return context(facts=facts, expected=expected, profile="cpu", observation=None, kernel_log=None, **changes)


def one(checks: list[dict[str, Any]], identity: str, target: str | None = None) -> dict[str, Any]:
    """Return the one check of that name. A code that names a fault never stands beside PASS."""
    found = [row for row in checks if row["id"] == identity and target in (None, row["target"])]
    assert len(found) == 1, [(row["id"], row["target"]) for row in found]
    row = found[0]
    assert (row["status"] == "PASS") == (row["reason_code"] == "OK"), row
    assert row["action"] == "none" or row["status"] == "FAIL", row
    return row


def verdicts(checks: list[dict[str, Any]]) -> dict[str, str]:
    """Return status and reason code of each check that is no PASS, by name; those of a GPU with its address' end."""
    return {row["id"]: f"{row['status']} {row['reason_code']}" for row in checks if row["status"] != "PASS"}
