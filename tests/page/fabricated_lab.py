# SPDX-License-Identifier: Apache-2.0
"""A lab that does not exist: verdict documents and plans for tests of the report, all of them marked as simulated.

    python tests/page/fabricated_lab.py DIRECTORY [HOSTS]

Figures are made up around what such GPUs reach; they say nothing of any GPU.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

from gpu_report import store

Document = dict[str, Any]

#: What a host could call its things to do harm to a page, a terminal or an XML file.
HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1> \"'`&amp;\n\x00\x1b[31m‮evil‬ ${7*7}"
)


@dataclass(frozen=True)
class Kind:
    """One kind of host."""

    prefix: str
    product: str
    capability: str
    count: int
    os: str
    kernel: str
    memory_gib: int
    #: matmul fp32, tf32, bf16, fp16 (TFLOP/s), memory, host to device, device to host (GB/s); null: not possible
    figures: tuple[float | None, ...]
    references: tuple[float | None, ...]


_NO = (None,) * 7
KINDS = (
    Kind(
        "pascal",
        "GeForce GTX 1080 Ti",
        "6.1",
        1,
        "Ubuntu 22.04.5 LTS",
        "5.15.0-100-generic",
        11,
        (10.1, None, None, None, 402.0, 11.9, 12.6),
        _NO,
    ),
    Kind(
        "volta",
        "Tesla V100 PCIe 16GB",
        "7.0",
        1,
        "Debian GNU/Linux 12 (bookworm)",
        "6.1.0-25-amd64",
        16,
        (12.9, None, None, 86.0, 785.0, 12.0, 12.9),
        _NO,
    ),
    Kind(
        "desk",
        "GeForce RTX 3090",
        "8.6",
        2,
        "Ubuntu 24.04.1 LTS",
        "6.8.0-45-generic",
        24,
        (24.5, 34.1, 68.0, 68.5, 842.0, 24.3, 25.6),
        _NO,
    ),
    Kind(
        "ampere",
        "A100 PCIe 40GB",
        "8.0",
        4,
        "Rocky Linux 9.4 (Blue Onyx)",
        "5.14.0-503.el9.x86_64",
        40,
        (17.9, 118.0, 241.0, 243.0, 1370.0, 23.4, 24.8),
        (19.5, 156.0, 312.0, 312.0, 1555.0, 21.0, 21.0),
    ),
    Kind(
        "hopper",
        "H100 SXM5 80GB",
        "9.0",
        8,
        "Ubuntu 22.04.5 LTS",
        "5.15.0-100-generic",
        80,
        (51.2, 402.0, 712.0, 705.0, 2980.0, 53.1, 54.4),
        (67.0, 494.7, 989.4, 989.4, 3352.0, 48.0, 48.0),
    ),
    Kind(
        "blackwell",
        "GeForce RTX 5090",
        "12.0",
        1,
        "Ubuntu 24.04.1 LTS",
        "6.8.0-45-generic",
        32,
        (78.0, 105.0, 209.0, 210.0, 1605.0, 52.0, 53.5),
        _NO,
    ),
    Kind(
        "login",
        "",
        "",
        0,
        "Debian GNU/Linux 12 (bookworm)",
        "6.1.0-25-amd64",
        0,
        (0.21, None, None, None, 18.4, None, None),
        _NO,
    ),
)
METRICS = (
    "matmul_fp32",
    "matmul_tf32",
    "matmul_bf16",
    "matmul_fp16",
    "memory_bandwidth",
    "host_to_device",
    "device_to_host",
)
TIERS = ("preflight", "identity", "health", "numerics", "job", "performance", "diagnostics")
BUDGETS = (5, 60, 30, 60, 600, 120, 3600)
#: environment -> framework, version, Keras' backend
ENVIRONMENTS = {
    "torch": ("pytorch", "2.13.0", None),
    "tf": ("tensorflow", "2.21.0", None),
    "jax": ("jax", "0.10.2", None),
    "teaching": ("keras", "3.15.1", "torch"),
}
LIMITS = {"fp32": 1e-5, "tf32": 3e-3, "bf16": 2e-2, "fp16": 3e-3}
USUAL = {"fp32": 4e-7, "tf32": 2.9e-4, "bf16": 2.9e-3, "fp16": 3.6e-4}
SOURCE = "thresholds.json: relative error against float64, with head-room"


def check(
    identity: str, target: str, tier: int, status: str = "PASS", message: str = "as expected", **more: Any
) -> Document:
    row: Document = {"id": identity, "tier": tier, "required": status != "SKIP", "target": target, "status": status}
    row |= {"reason_code": "OK" if status == "PASS" else "NOT_APPLICABLE", "message": message, "measured": {}}
    row |= {"threshold": {}, "threshold_source": None, "evidence": [], "duration_s": None, "action": "none"}
    return row | more


def gpus_of(kind: Kind, draw: random.Random) -> list[Document]:
    return [
        {
            "bdf": f"0000:{0x17 + 9 * index:02x}:00.0",
            "uuid": f"GPU-{draw.randrange(16**8):08x}-5ba0-4a11-9d1e-{draw.randrange(16**12):012x}",
            "name": f"NVIDIA {kind.product}",
            "product": kind.product,
            "vbios": "96.00.74.00.01",
            "memory": {"total": kind.memory_gib * 2**30},
            "compute_capability": kind.capability,
        }
        for index in range(kind.count)
    ]


def fabricate(name: str, kind: Kind, seed: int) -> Document:
    """Return the document of a host on which everything is well."""
    draw = random.Random(seed)
    gpu, gpus = kind.count > 0, gpus_of(kind, draw)
    devices = [row["uuid"] for row in gpus] or ["cpu"]
    minute = seed % 50
    document: Document = {
        "schema_version": "2.0",
        "tool": {"name": "gpulab-validation", "version": "0.2.0", "git": None},
        "run_id": f"01SIMULATED{seed:08d}",
        "started": f"2026-11-20T09:{minute:02d}:05Z",
        "finished": f"2026-11-20T09:{minute + 2:02d}:41Z",
        "checked": f"2026-11-20T09:{minute + 2:02d}:41Z",
        "duration_s": 156.2,
        "host": {
            "name": name,
            "boot_id": f"{draw.randrange(16**8):08x}",
            "kernel": kind.kernel,
            "machine_id_hash": f"{seed:012x}",
        },
        "profile": "gpu" if gpu else "cpu",
        "simulated": True,
        "gpu_validated": False,
        "run_as": "gpulab-validation",
        "expected": {
            "driver": {"version": "580.126.09", "kernel_module": "open", "source": "nvidia_repo"} if gpu else None,
            "gpus": [
                {"bus": row["bdf"], "product": kind.product, "compute_capability": kind.capability} for row in gpus
            ],
            "declared_gpus": None,
            "cuda_toolkits": ["13.0.3"] if gpu else [],
            "accept_hardware": False,
            "environments": {key: {word: version} for key, (word, version, _) in ENVIRONMENTS.items()},
        },
        "observed": {
            "environments": {key: {word: version} for key, (word, version, _) in ENVIRONMENTS.items()},
            "driver": {"module": "580.126.09", "library": "580.126.09", "package": "580.126.09-1", "flavour": "open"}
            if gpu
            else None,
            "cuda_driver_version": 13000 if gpu else None,
            "gpus": gpus,
            "os": kind.os,
            "kernel": kind.kernel,
        },
        "dataset": {"name": "mnist", "title": "MNIST, the original four files", "origin": "mirror"},
        "results": [],
        "checks": [],
        "numerics": {"rows": []},
        "performance": {"rows": []},
        "gpu_use_proof": {"quorum_needed": 3, "targets": {}, "negative_control": {}},
        "data_parallel": {"rows": []},
        "diagnostics": None,
        "self_test": {"nan_accuracy_rejected": True, "cpu_tensor_rejected": True, "corrupted_tensor_rejected": True},
        "log_directory": f"/var/lib/gpulab/validation/runs/01SIMULATED{seed:08d}",
        "fingerprint": f"{draw.randrange(16**16):016x}",
        "fingerprint_parts": {},
    }
    checks = document["checks"]
    checks += [check(key, "host", 0) for key in ("pci.inventory", "os.disk", "os.pkgmgr", "os.pending_reboot")]
    if gpu:
        checks += [check(key, "host", 0) for key in ("os.kernel_headers", "os.nouveau", "os.secureboot")]
        checks += [
            check(key, "host", 1)
            for key in ("drv.loaded", "drv.match", "smi.bounded", "smi.sane", "smi.agrees", "drv.hold", "cuda.toolkit")
        ]
        checks += [check("xid", "host", 2, message="no Xid since this boot")]
        for row in gpus:
            target = row["uuid"]
            checks += [check("gpu.busy", target, 0), check("gpu.uuid", target, 1)]
            for key in (
                "ecc.uncorrected",
                "ecc.corrected",
                "row_remap",
                "recovery_action",
                "pcie.max",
                "thermal",
                "persistence",
            ):
                skipped = kind.product.startswith("GeForce") and key.startswith(("ecc", "row"))
                words = "not applicable: this card has no ECC memory" if skipped else "as expected"
                checks.append(check(key, target, 2, "SKIP" if skipped else "PASS", words))
            joined = kind.count == 8
            checks.append(
                check(
                    "nvlink",
                    target,
                    2,
                    "PASS" if joined else "SKIP",
                    "18 of 18 links active" if joined else "not applicable: no NVLink",
                )
            )
    _numerics(document, kind, devices, draw)
    _jobs(document, kind, draw)
    _throughput(document, kind, devices, draw)
    return settle(document)


def _numerics(document: Document, kind: Kind, devices: list[str], draw: random.Random) -> None:
    modes = [mode for mode, value in zip(("fp32", "tf32", "bf16", "fp16"), kind.figures, strict=False) if value]
    for environment, (word, _, _) in ENVIRONMENTS.items():
        for device in devices:
            target = f"{environment}/{word}@{device}"
            for mode in modes:
                error = USUAL[mode] * draw.uniform(0.8, 1.3)
                units = draw.uniform(1.2, 5.0) if mode == "fp32" else draw.uniform(0.1, 0.7)
                limits = {"rel_f": LIMITS[mode], "elementwise_u": 16 if mode == "fp32" else 2}
                more = {
                    "measured": {"rel_f": error, "elementwise_u": units},
                    "threshold": limits,
                    "threshold_source": SOURCE,
                }
                document["checks"].append(
                    check(f"num.fwd_bwd.{mode}", target, 3, message=f"{mode}: all tensors within their limits", **more)
                )
                tensors = {
                    name: {"rel_f": error * draw.uniform(0.5, 1), "elementwise_u": units * draw.uniform(0.5, 1)}
                    for name in ("z", "h", "dW", "db", "dX")
                }
                document["numerics"]["rows"].append(
                    {
                        "environment": environment,
                        "framework": word,
                        "target": target,
                        "precision": mode,
                        "shape": [512, 4096, 1024],
                        "mode": mode,
                        "worst": {"rel_f": error, "elementwise_u": units},
                        "tensors": tensors,
                    }
                )
            document["checks"].append(check("num.repeat", target, 3, message="twice the same, bit for bit"))
            document["checks"].append(check("mem.pattern", target, 3, message="every address holds its pattern"))
    if kind.count > 1:
        document["checks"] += [
            check("num.cross_gpu", f"{key}/{row[0]}", 3, message="equal GPUs, equal bits")
            for key, row in ENVIRONMENTS.items()
        ]


def _jobs(document: Document, kind: Kind, draw: random.Random) -> None:
    gpu = kind.count > 0
    for environment, (word, version, backend) in ENVIRONMENTS.items():
        start, curve = draw.uniform(0.42, 0.5), []
        for epoch in range(10):
            curve.append(round(start * 0.78**epoch * draw.uniform(0.97, 1.03) + 0.09, 4))
        accuracy = round(draw.uniform(0.9635, 0.9705), 4)
        document["results"].append(
            {
                "environment": environment,
                "framework": word,
                "version": version,
                "python": "3.11.9",
                "keras_backend": backend,
                "device": "cuda:0" if gpu else "cpu:0",
                "device_name": f"NVIDIA {kind.product}" if gpu else "AMD EPYC 7543P",
                "dataset": "mnist",
                "accuracy": accuracy,
                "seconds": round(draw.uniform(14, 40), 1),
                "batch_size": 32,
                "status": "PASS",
                "note": "",
                "loss_curve": curve,
            }
        )
        target = f"{environment}/{word}"
        checks = document["checks"]
        checks.append(
            check(
                "mnist.train",
                target,
                4,
                message=f"accuracy {accuracy:.4f} on mnist",
                measured={"accuracy": accuracy},
                threshold={"accuracy_min": 0.95},
                threshold_source="thresholds.json: measured 0.965 to 0.970",
            )
        )
        checks.append(check("mnist.device", target, 4, message="the results lie on the device that was asked for"))
        checks.append(check("mnist.control", target, 4, message="without a GPU the same job is refused"))
        document["gpu_use_proof"]["negative_control"][target] = "rejected"
        if gpu:
            signals = [
                {"name": "result_device", "side": "framework", "ok": True, "detail": "cuda:0"},
                {"name": "allocator_peak", "side": "framework", "ok": True, "detail": "3.4 MB for a network of 0.1 MB"},
                {
                    "name": "driver_process",
                    "side": "driver",
                    "ok": True,
                    "detail": "pid 4711 with its start time on the expected GPU",
                },
                {"name": "kernel_records", "side": "driver", "ok": draw.random() < 0.9, "detail": "184 kernels"},
                {
                    "name": "device_time",
                    "side": "framework",
                    "ok": word == "pytorch",
                    "detail": "2.1 ms" if word == "pytorch" else "not available",
                },
            ]
            document["gpu_use_proof"]["targets"][target] = {"reached": True, "signals": signals}
            checks.append(check("gpu.proof", target, 4, message=f"{sum(row['ok'] for row in signals)} of 5 signals"))
    if kind.count > 1:
        checks += [
            check(key, "torch/pytorch", 4, message="equal to one device") for key in ("dp.gradients", "dp.train")
        ]


def _throughput(document: Document, kind: Kind, devices: list[str], draw: random.Random) -> None:
    for device in devices:
        target = f"torch/pytorch@{device}"
        for metric, usual, reference in zip(METRICS, kind.figures, kind.references, strict=True):
            if usual is None:
                continue
            value = usual * draw.gauss(1, 0.007)
            document["performance"]["rows"].append(
                {
                    "environment": "torch",
                    "framework": "pytorch",
                    "target": target,
                    "product": kind.product or None,
                    "metric": metric,
                    "unit": "TFLOP/s" if metric.startswith("matmul") else "GB/s",
                    "method": {"m": None, "c": "copy"}.get(metric[0] if "bandwidth" not in metric else "c", "pinned"),
                    "median": round(value, 3),
                    "runs": [round(value * factor, 3) for factor in (0.995, 1.0, 1.004)],
                    "reference": reference,
                    "ratio": round(value / reference, 3) if reference else None,
                    "source": "data sheet" if reference else None,
                }
            )
        checks = document["checks"]
        checks.append(check("perf.measured", target, 5))
        if kind.count:
            if any(kind.references):
                checks += [check(key, target, 5) for key in ("perf.gemm", "perf.membw", "perf.pcie")]
            checks += [check(key, target, 5) for key in ("perf.pcie_link", "perf.throttle")]


def _drawn_digits(document: Document) -> None:
    """Let a host have trained on digits that were drawn there, as one without a network does."""
    title = "digits drawn by jobs/generate_digits.py; not MNIST"
    document["dataset"] = {"name": "generated", "title": title, "origin": "drawn on the host"}
    for row in document["results"]:
        row["dataset"] = "generated"


# --- what goes wrong --------------------------------------------------------------------------------------------------


def settle(document: Document) -> Document:
    """Compute tiers and verdict from the checks, as the validator does."""
    order = ("PASS", "WARN", "UNKNOWN", "FAIL")

    def worst(rows: list[Document]) -> str:
        return max((row["status"] for row in rows if row["status"] != "SKIP"), key=order.index, default="SKIP")

    document["tiers"] = {
        str(number): {
            "name": name,
            "status": worst([row for row in document["checks"] if row["tier"] == number]),
            "duration_s": round(BUDGETS[number] * 0.4, 1) if number < 6 else None,
            "budget_s": BUDGETS[number],
            "reused": number in (3, 4) and bool(document["results"]) and int(document["run_id"][-1]) % 3 == 0,
            "finished": document["finished"],
        }
        for number, name in enumerate(TIERS)
    }
    status = worst(document["checks"])
    bad = [row for row in document["checks"] if row["status"] == status] if status != "PASS" else []
    actions = ("none", "restart_app", "reset_gpu", "reboot", "isolate", "rma")
    action = max((row["action"] for row in bad if status == "FAIL"), key=actions.index, default="none")
    summary = f"{bad[0]['id']}: {bad[0]['message']}" if bad else "all checks passed"
    suffix = "simulated host" if document["profile"] == "gpu" else "cpu profile - no GPU claim"
    document["verdict"] = {
        "status": status,
        "label": f"{status} ({suffix})",
        "action": action,
        "caps": [],
        "summary": summary,
    }
    return document


def spoil(
    document: Document, identity: str, status: str, message: str, reason: str, action: str = "none", which: int = 0
) -> None:
    """Change one check of a document; a later tier than the failed one is not reached unless it only costs time."""
    row = [row for row in document["checks"] if row["id"] == identity][which]
    row.update(
        status=status,
        message=message,
        reason_code=reason,
        action=action,
        evidence=[f"runs/{document['run_id']}/{identity}.log"],
    )


def _stop_after(document: Document, tier: int) -> None:
    """What lies behind a failed tier was not made, which is unknown and not a success."""
    for row in document["checks"]:
        if row["tier"] > tier:
            row.update(
                status="UNKNOWN", reason_code="NOT_REACHED", message=f"not made: tier {tier} failed", measured={}
            )
    document["results"], document["numerics"]["rows"], document["performance"]["rows"] = [], [], []
    document["gpu_use_proof"]["targets"] = {}


def _driver_mismatch(document: Document) -> None:
    words = "the kernel module is 580.95.05, the library is 580.126.09: reboot, so that the new module is loaded"
    spoil(document, "drv.match", "FAIL", words, "LIB_RM_VERSION_MISMATCH", "reboot")
    document["observed"]["driver"]["module"] = "580.95.05"
    _stop_after(document, 1)


def _fell_off(document: Document) -> None:
    spoil(
        document,
        "xid",
        "FAIL",
        "Xid 79 on 0000:17:00.0: the GPU has fallen off the bus; power the host off and on",
        "XID_79",
        "isolate",
    )
    _stop_after(document, 2)


def _row_remap(document: Document) -> None:
    spoil(
        document, "row_remap", "FAIL", "a row of the memory waits to be replaced: reset the GPU", "PENDING", "reset_gpu"
    )


def _wrong_arithmetic(document: Document) -> None:
    device = document["observed"]["gpus"][-1]["uuid"]
    for row in document["checks"]:
        if row["id"] == "num.fwd_bwd.fp32" and row["target"].endswith(device):
            words = "dW is wrong: 31 elements in one 32-wide group; the GPU computes wrong, take it out"
            row.update(
                status="FAIL",
                reason_code="NUMERICS",
                action="rma",
                message=words,
                measured={"rel_f": 3.1e-3, "elementwise_u": 51200.0},
            )
    for row in document["numerics"]["rows"]:
        if row["precision"] == "fp32" and row["target"].endswith(device):
            row["worst"] = {"rel_f": 3.1e-3, "elementwise_u": 51200.0}


def _no_learning(document: Document) -> None:
    document["results"][2].update(
        accuracy=0.1135,
        status="FAIL",
        loss_curve=[2.301, 2.302, 2.301, 2.303, 2.301, 2.302, 2.302, 2.301, 2.302, 2.301],
        note="the loss did not fall",
    )
    spoil(document, "mnist.train", "FAIL", "the loss did not fall: 2.301 to 2.301", "LOSS", which=2)


def _unparsable(document: Document) -> None:
    spoil(document, "smi.sane", "UNKNOWN", "nvidia-smi answered with ERR! for fb_memory_usage.used", "PARSE")


def _no_baseline(document: Document) -> None:
    for device in document["observed"]["gpus"]:
        words = f"no figures are known for {device['product']}: throughput is measured, not judged"
        row = check("perf.baseline", f"torch/pytorch@{device['uuid']}", 5, "WARN", words)
        document["checks"].append(row | {"reason_code": "PERF_BASELINE_NONE"})


def _pending_reboot(document: Document) -> None:
    spoil(
        document,
        "os.pending_reboot",
        "WARN",
        "the system asks for a reboot: linux-image-generic",
        "PENDING_REBOOT",
        "reboot",
    )


def slow(document: Document, share: float, which: int = -1) -> None:
    """Make one GPU of a host slower by a share."""
    device = document["observed"]["gpus"][which]["uuid"]
    for row in document["performance"]["rows"]:
        if row["target"].endswith(device):
            row["median"] = round(row["median"] * (1 - share), 3)
            row["runs"] = [round(value * (1 - share), 3) for value in row["runs"]]


def hostile(document: Document) -> None:
    """Put hostile text into everything that comes from a host."""
    document["observed"]["os"] = HOSTILE
    document["host"]["kernel"] = HOSTILE
    for row in document["results"]:
        row.update(device_name=HOSTILE, note=HOSTILE, version=HOSTILE)
    for row in document["observed"]["gpus"]:
        row.update(name=HOSTILE, vbios=HOSTILE, product=HOSTILE)
    for row in document["performance"]["rows"]:
        row["product"] = HOSTILE
    row = document["checks"][0]
    row.update(status="WARN", message=HOSTILE, reason_code=HOSTILE, target=HOSTILE, action=HOSTILE, evidence=[HOSTILE])
    row.update(measured={HOSTILE: 1.0}, threshold={HOSTILE: HOSTILE}, threshold_source=HOSTILE)


FAULTS: tuple[tuple[str, Callable[[Document], None]], ...] = (
    ("desk", _driver_mismatch),
    ("hopper", _wrong_arithmetic),
    ("ampere", _row_remap),
    ("pascal", _no_baseline),
    ("volta", _pending_reboot),
    ("blackwell", _no_baseline),
    ("volta", _no_learning),
    ("desk", _fell_off),
    ("ampere", _unparsable),
)
UNREACHABLE = "Failed to connect to the host via ssh: connect to host {name} port 22: No route to host"


def reasons(document: Document) -> list[Document]:
    count, product = (
        len(document["observed"]["gpus"]),
        (document["expected"]["gpus"] or [{"product": ""}])[0]["product"],
    )
    if not count:
        return [
            {
                "about": "profile",
                "choice": "cpu",
                "because": "profile: auto, and there is no NVIDIA GPU on the bus",
                "source": "PCI",
            }
        ]
    return [
        {
            "about": "profile",
            "choice": "gpu",
            "because": f"profile: auto, and there are {count} NVIDIA GPU(s): {product}",
            "source": "PCI",
        },
        {
            "about": "driver",
            "choice": "580.126.09",
            "because": "branch 580 has long-term support until 2028-06, and everything fits it",
            "source": "NVIDIA Data Center Drivers",
        },
        {
            "about": "cuda_toolkits[0]",
            "choice": "13.0.3",
            "because": "CUDA 13.0.3 is the newest that fits the driver",
            "source": "CUDA runfiles",
        },
        {
            "about": "environments.torch.pytorch",
            "choice": "2.13.0 (cu130)",
            "because": "the newest release with code for every GPU of the host",
            "source": "torch/cuda/__init__.py",
        },
        {
            "about": "environments.jax.jax",
            "choice": "0.10.2 (cuda13)",
            "because": "the newest that Python 3.11 has wheels for",
            "source": "package index",
        },
    ]


def plan_of(name: str, document: Document, why: str = "") -> Document:
    gpu = document["profile"] == "gpu"
    environments = [
        {"name": key, "python": "3.11", "manager": "uv", "frameworks": {word: {"version": version}}}
        for key, (word, version, _) in ENVIRONMENTS.items()
    ]
    plan = {
        "profile": document["profile"],
        "driver": document["expected"]["driver"] and document["expected"]["driver"] | {"branch": "580"},
        "cuda_toolkits": [
            {"version": "13.0.3", "source": "nvidia_repo", "path": "/usr/local/cuda-13.0", "default": True}
        ]
        if gpu
        else [],
        "cudnn": [{"version": "9.28.1.4", "source": "nvidia_repo", "cuda_major": 13}] if gpu else [],
        "environments": environments,
    }
    return {
        "schema_version": "1",
        "host": name,
        "status": "planned",
        "plan": plan,
        "reasons": reasons(document),
        "warnings": [],
        "conflicts": [],
        "change": None,
        "os": document["observed"]["os"],
        "kernel": document["observed"]["kernel"],
        "gpus": [
            {"bus": row["bus"], "product": row["product"], "compute_capability": row["compute_capability"]}
            for row in document["expected"]["gpus"]
        ],
        "simulated": True,
        "no_verdict": why,
    }


def _earlier(document: Document, index: int) -> Document:
    """Return the document of the run before: some hosts had another driver, framework, kernel or card."""
    before = copy.deepcopy(document)
    before["run_id"] = document["run_id"].replace("01SIMULATED", "00SIMULATED")
    before["started"], before["finished"] = "2026-11-13T09:00:05Z", "2026-11-13T09:02:41Z"
    if index % 3 == 0 and before["observed"]["driver"]:
        before["observed"]["driver"].update(module="580.95.05", library="580.95.05", package="580.95.05-1")
    if index % 4 == 1:
        before["observed"]["environments"]["torch"]["pytorch"] = "2.12.1"
    if index % 7 == 4 and before["observed"]["gpus"]:
        before["observed"]["gpus"][0]["uuid"] = "GPU-0ld0ca4d-0000-4a11-9d1e-000000000000"
    if index % 5 == 2:
        before["host"]["kernel"] = before["observed"]["kernel"] = "5.15.0-91-generic"
    for row in before["checks"]:
        if row["status"] in ("FAIL", "UNKNOWN"):
            row.update(status="PASS", reason_code="OK", message="as expected", action="none")
    return settle(before)


def make(
    directory: Path, count: int, *, simulated: bool = True, with_hostile: bool = True, faults: bool = True
) -> list[str]:
    """Write a lab of ``count`` hosts into a directory of results; return the hosts' names.

    A lab of one host is a healthy one. ``simulated=False`` is for tests of what a real lab would be shown as: it is a
    lie, and nothing made with it may be shown to anybody.
    """
    kinds = [KINDS[(5 * index + index // 7) % len(KINDS)] for index in range(count)] if count > 1 else [KINDS[4]]
    numbers: dict[str, int] = {}
    entries: dict[str, store.Entry] = {}
    left = list(FAULTS) if faults and count > 1 else []
    for index, kind in enumerate(kinds):
        numbers[kind.prefix] = numbers.get(kind.prefix, 0) + 1
        name = f"{kind.prefix}{numbers[kind.prefix]:02d}"
        document = fabricate(name, kind, index)
        if index % 4 == 3:
            document["checked"] = "2026-11-23T03:31:17Z"
        if kind.prefix == "login" and numbers["login"] == 2:
            _drawn_digits(document)
        if not simulated:
            document["simulated"], document["gpu_validated"] = False, kind.count > 0
        previous = _earlier(document, index) if index % 2 == 0 else None
        fault = next((row for row in left if row[0] == kind.prefix), None)
        if fault and index > 2:
            left.remove(fault)
            fault[1](document)
        elif faults and count > 8 and kind.prefix == "hopper" and numbers["hopper"] in (3, 9):
            slow(document, 0.24 if numbers["hopper"] == 3 else 0.13)
        if faults and count > 8 and index == 13 and with_hostile:
            hostile(document)
        settle(document)
        why = ""
        if faults and count > 8 and index % 23 == 17:
            why = UNREACHABLE.format(name=name)
        elif faults and count > 8 and index == 19:
            why = "it cannot be planned: JAX 0.10 has no wheels for Python 3.9, which is asked for"
        if previous:
            store.save(directory, {name: store.Entry(settle(previous))})
        entries[name] = store.Entry(None if why else document, plan_of(name, document, why))
    store.save(directory, entries)
    return list(entries)


if __name__ == "__main__":
    made = make(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)
    print(json.dumps(store.make(Path(sys.argv[1]))), len(made), "hosts")
