# SPDX-License-Identifier: Apache-2.0
"""What observe.py makes of the pretended hosts of standin.py, ready made: for tests of those who judge it.

``test_nvml.py`` compares these with what the stand-ins really give.
"""

from __future__ import annotations

from typing import Any

from nvml.standin import MIB, bdf, uuid

Row = dict[str, Any]


def gpu(index: int = 0, **changes: Any) -> Row:
    """Return a healthy H100 as NVML describes it. A change replaces a whole key; ``why`` is added to what is there."""
    more = changes.pop("why", {})
    row: Row = {
        "index": index,
        "bdf": bdf(index),
        "uuid": uuid(index),
        "name": "NVIDIA H100 80GB HBM3",
        "vbios": "96.00.74.00.01",
        "serial": f"16535230{index:05d}",
        "compute_capability": "9.0",
        "architecture": "hopper",
        "memory": {"total": 81559 * MIB, "used": 4 * MIB, "free": 80955 * MIB, "reserved": 600 * MIB},
        "persistence": True,
        "mig": {"current": False, "pending": False, "instances": []},
        "ecc": {
            "current": True,
            "pending": True,
            "volatile": {"corrected": 0, "uncorrected": 0},
            "aggregate": {"corrected": 0, "uncorrected": 0},
            "sram_aggregate_uncorrected": 0,
            "sram_threshold_exceeded": False,
        },
        "row_remap": {"corrected": 0, "uncorrected": 0, "pending": False, "failure": False},
        "retired_pages": None,
        "recovery_action": "none",
        "pcie": {
            "gen": 5, "gen_max": 5, "width": 16, "width_max": 16, "gen_max_gpu": 5, "width_max_gpu": None, "replays": 0,
        },
        "nvlink": [
            {"link": link, "active": True, "errors": {"crc_flit": 0, "crc_data": 0, "replay": 0, "recovery": 0}}
            for link in range(18)
        ],
        "fabric": {"state": "completed", "status": 0, "health": 0x6955, "health_summary": "healthy"},
        "clocks_event_reasons": ["idle"],
        "temperature": 28,
        "power_w": 69.5,
        "power_limit_w": 700.0,
        "utilization": {"gpu": 0, "memory": 0},
        "processes": [],
        "accounting_mode": False,
        "virtualization": "none",
        "lost": False,
        "problem": None,
        "why": {"retired_pages": "NOT_SUPPORTED", "pcie.width_max_gpu": "NOT_FOUND"},
    }  # fmt: skip
    row.update(changes)
    row["why"] = {**row["why"], **more}
    return row


def smi_gpu(index: int = 0, **changes: Any) -> Row:
    """Return a healthy H100 as nvidia-smi describes it."""
    absent = ("compute_capability", "pcie.width_max_gpu", "nvlink")
    row = gpu(index, compute_capability=None, nvlink=None, why={})
    row.update(index=None, why={"retired_pages": "NOT_SUPPORTED", **dict.fromkeys(absent, "ABSENT")})
    row["fabric"].update(health=None, health_summary=None)
    row.update(changes)
    return row


def lost_gpu(index: int = 0) -> Row:
    """Return a GPU that fell off the bus, as NVML describes it: as nothing."""
    row = gpu(index)
    for key, value in row.items():
        if isinstance(value, dict) and key in ("memory", "utilization", "pcie"):
            row[key] = dict.fromkeys(value)
        elif key not in ("index", "lost", "problem", "why"):
            row[key] = None
    row["mig"] = {"current": None, "pending": None, "instances": []}
    counts = {"corrected": None, "uncorrected": None}
    row["ecc"] = {"current": None, "pending": None, "volatile": counts, "aggregate": dict(counts)}
    row["ecc"].update(sram_aggregate_uncorrected=None, sram_threshold_exceeded=None)
    row.update(nvlink=[], lost=True, problem="the GPU cannot be opened: GPU is lost")
    keys = (
        "handle mig bdf uuid name vbios serial compute_capability architecture memory persistence ecc row_remap"
        " ecc.volatile.corrected ecc.volatile.uncorrected ecc.aggregate.corrected ecc.aggregate.uncorrected"
        " ecc.sram_aggregate_uncorrected ecc.sram_threshold_exceeded retired_pages recovery_action pcie.gen"
        " pcie.gen_max pcie.width pcie.width_max pcie.gen_max_gpu pcie.replays nvlink fabric clocks_event_reasons"
        " temperature power_w power_limit_w utilization processes accounting_mode virtualization"
    )
    row["why"] = {**dict.fromkeys(keys.split(), "GPU_IS_LOST"), "pcie.width_max_gpu": "NOT_FOUND"}
    return row


def nvml(*gpus: Row, **changes: Any) -> Row:
    """Return the part of an observation that NVML gave."""
    return {
        "error": None,
        "outcome": "finished",
        "seconds": 0.1,
        "driver_version": "580.126.09",
        "nvml_version": "13.580.126.09",
        "cuda_driver_version": 13000,
        "library": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "count": len(gpus),
        "gpus": list(gpus),
        "tail": "",
        "stuck": None,
        **changes,
    }


def smi(*gpus: Row, **changes: Any) -> Row:
    """Return the part of an observation that nvidia-smi gave."""
    return {
        "outcome": "finished",
        "seconds": 0.5,
        "code": 0,
        "path": "/usr/bin/nvidia-smi",
        "problem": "",
        "driver_version": "580.126.09",
        "cuda_version": "13.0",
        "declared": len(gpus),
        "suspicious": [],
        "gpus": list(gpus),
        "simulated": True,
        **changes,
    }


def observation(nvml_part: Row, smi_part: Row | None) -> Row:
    """Return an observation, marked as what it is: made up."""
    return {"simulated": True, "nvml": nvml_part, "smi": smi_part}


def h100x8() -> Row:
    """Return what is seen of eight healthy GPUs."""
    return observation(nvml(*map(gpu, range(8))), smi(*map(smi_gpu, range(8))))


def failed(code: int, name: str, message: str) -> Row:
    """Return what is seen where NVML cannot be initialized: 18 LIB_RM_VERSION_MISMATCH, say."""
    error = {"code": code, "name": name, "message": message}
    unknown = dict.fromkeys(("driver_version", "nvml_version", "cuda_driver_version", "count"))
    words = f"nvidia-smi ended with status {code % 256}: Failed to initialize NVML: {message}"
    empty = {"driver_version": None, "cuda_version": None, "declared": None}
    return observation(nvml(error=error, **unknown), smi(code=code % 256, problem=words, **empty))


def watched(*uuids: str, pid: int = 4711, start: int = 123456, **changes: Any) -> Row:
    """Return what observe.Watch says of one process that computed on these GPUs."""
    return {
        "simulated": True,
        "problem": "",
        "samples": 20,
        "processes": [{"uuid": name, "pid": pid, "start": start, "used_memory_max": 600 * MIB} for name in uuids],
        "accounting": [],
        "gpus": [
            {
                "uuid": name, "samples": 20, "gen_max": 5, "width_max": 16, "gen_max_seen": 5, "width_max_seen": 16,
                "temperature_max": 45, "power_w_max": 320.0, "utilization_max": 97, "reasons": [],
                "throttled_samples": {}, "lost": False, "nvlink_errors_delta": 0,
            }
            for name in uuids
        ],
        **changes,
    }  # fmt: skip
