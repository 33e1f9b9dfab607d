# SPDX-License-Identifier: Apache-2.0
"""A laboratory in the profile gpu: a host with pretended GPUs, a pretended driver, and a kernel's log that is written.

The validator runs as a process and is the real one, its probes, its watch and NVIDIA's binding included. What it finds
is made up, and it has to say so: every verdict here is simulated, and none says that a GPU was validated.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvml import standin
from observations import h100_facts
from validation_lab import PROGRAMS, Lab

HERE = Path(__file__).resolve().parent
PRODUCTS = json.loads((PROGRAMS / "products.json").read_text())["products"]
#: Marketing name -> name of the product, number of the device.
MODELS = {
    "NVIDIA H100 80GB HBM3": ("H100 SXM5 80GB", "0x2330"),
    "NVIDIA GeForce RTX 4090": ("GeForce RTX 4090", "0x2684"),
}
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
EARLIER_BOOT = "11111111-2222-3333-4444-555555555555"
UNITS = {"memory_bandwidth": "GB/s", "host_to_device": "GB/s", "device_to_host": "GB/s"}
#: What a figure of each kind is worth on a GPU that is well.
SHARES = {"peak": 0.8, "measured": 1.0, "minimum": 1.1}

INTERPRETER = """#!{python}
import sys
sys.dont_write_bytecode = True
if "-c" in sys.argv:  # what is installed is asked
    exec(sys.argv[-1])
    sys.exit()
sys.path[:0] = {paths!r}
import pretended_gpu
sys.exit(pretended_gpu.main({config!r}))
"""
JOURNALCTL = """#!/bin/sh
lines() {{
    case "$*" in
        *--boot*) grep -F "$(cat {boot})" {journal} ;;
        *) cat {journal} ;;
    esac
}}
case "$*" in
    *--lines=1\\ *) lines "$@" | tail -n 1 ;;
    *--grep*) lines "$@" | grep NVRM ;;
    *) lines "$@" ;;
esac
"""


class Host(Lab):
    """A host with pretended GPUs, and everything that its validation needs.

    :param directory: everything lies below it
    :param gpus: descriptions, see ``standin``
    """

    def __init__(self, directory: Path, *gpus: standin.Description) -> None:
        super().__init__(directory)
        found = importlib.util.find_spec("pynvml")
        if found is None or found.origin is None:
            pytest.skip("NVIDIA's binding (nvidia-ml-py) is not installed")
        try:
            library = standin.build()
        except standin.NoCompiler as error:
            pytest.skip(f"no pretended driver: {error}")
        (self.programs / "vendor").mkdir(exist_ok=True)
        shutil.copy(found.origin, self.programs / "vendor" / "pynvml.py")
        self.gpus = [dict(gpu, pcie_gen="1") for gpu in gpus or (standin.h100(0), standin.h100(1))]  # for they idle
        self.driver = standin.StandIn(directory / "driver", standin.host(*self.gpus), library)
        self.variables = dict(self.driver.environment)
        self.limits(slow=10, most=20)
        self.config: dict[str, Any] = {
            "driver": str(self.driver.directory), "runs": str(self.base / "validation" / "runs"), "spoil": {},
            "load": {}, "listed": "own", "kernels": True, "control": "refuse", "result": {}, "body": "",
            "figures": {**{uuid: figures(name) for uuid, name in self.devices()}, "all": {"all_reduce": ["GB/s", 300]}},
        }  # fmt: skip
        self.journal = self.driver.directory / "journal"
        self.rows = 0
        self.boot(BOOT)
        self.log("Linux version 6.8.0")
        self.write_facts(**facts_of(self.gpus))
        self.pretend()

    def devices(self) -> list[tuple[str, str]]:
        """Return UUID and name of everything that jobs can compute on."""
        found = []
        for gpu in self.gpus:
            instances = [key.removesuffix("uuid") for key in gpu if key.startswith("mig.") and key.endswith(".uuid")]
            rows = [(gpu[key + "uuid"], gpu["name"]) for key in instances]
            found += rows or [(gpu["uuid"], gpu["name"])]
        return found

    def limits(self, **seconds: float) -> None:
        """Change how long nvidia-smi and NVML may take."""
        self.table["identity"]["smi_seconds"].update(seconds)
        self.table["numerics"]["memory"]["share_of_free"] = 1.2e-5  # about 1 MiB
        (self.programs / "thresholds.json").write_text(json.dumps(self.table))

    def describe(self, change: Callable[[standin.Description], Any] | None = None, **changes: Any) -> None:
        """Make the driver's description another one: what it says of all, or of its GPUs; nvidia-smi follows."""
        description = standin.host(*[dict(gpu) for gpu in self.gpus], **changes)
        if change is not None:
            change(description)
        self.driver.write(description)
        self.driver.smi()

    # -- the kernel's log ----------------------------------------------------------------------------------------------

    def boot(self, boot_id: str) -> None:
        """Let the journal be one of this boot."""
        path = self.driver.directory / "boot"
        path.write_text(boot_id.replace("-", ""))
        program = self.driver.directory / "journalctl"
        program.write_text(JOURNALCTL.format(boot=path, journal=self.journal))
        program.chmod(0o755)

    def log(self, *messages: str, boot: str = BOOT) -> None:
        """Let the kernel say something."""
        with open(self.journal, "a") as stream:
            for message in messages:
                self.rows += 1
                stream.write(row_of_journal(message, self.rows, boot))

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def pretend(self, **changes: Any) -> None:
        """Make the jobs behave otherwise, see pretended_gpu.py."""
        self.config.update(changes)
        (self.directory / "pretended.json").write_text(json.dumps(self.config))

    def interpreter(self, name: str = "torch", body: str = "") -> str:
        path = self.directory / "envs" / name / "bin" / "python"
        path.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(HERE), str(HERE.parents[1])]
        config = str(self.directory / "pretended.json")
        text = INTERPRETER.format(python=sys.executable, paths=paths, config=config)
        if not path.exists() or path.read_text() != text:  # another time of the file would be another environment
            path.write_text(text)
            path.chmod(0o755)
        return str(path)

    def started(self) -> list[str]:
        """Return the programs that interpreters were started with, and forget them."""
        path = self.driver.directory / "started"
        names = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return names

    def settings(self, **changes: Any) -> dict[str, Any]:
        expected = {
            "driver": {"version": standin.DRIVER["driver_version"], "kernel_module": "open", "source": "nvidia_repo"},
            "gpus": planned(self.gpus),
            **changes.pop("expected", {}),
        }
        return super().settings(**{"profile": "gpu", "expected": expected, **changes})


def planned(gpus: list[standin.Description]) -> list[dict[str, Any]]:
    """Return the GPUs that a plan was made for."""
    rows = []
    for gpu in gpus:
        product, device = MODELS.get(gpu["name"], (None, "0x2330"))
        capability = gpu["compute_capability"]
        row = {"bus": gpu["bdf"], "vendor": "0x10de", "device": device, "product": product}
        rows.append({**row, "compute_capability": capability})
    return rows


def facts_of(gpus: list[standin.Description]) -> dict[str, Any]:
    """Return the facts of a host with these GPUs; what is made up is told by the driver alone."""
    facts = h100_facts()
    link = facts["gpus"][0]["link"]
    rows = [
        {"bus": row["bus"], "vendor": row["vendor"], "device": row["device"], "driver": "nvidia", "link": dict(link)}
        for row in planned(gpus)
    ]
    switched = any(not str(gpu["fabric"]).startswith("!") for gpu in gpus)
    system = {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)", "family": "debian"}
    changes = {"gpus": rows, "boot_id": BOOT, "simulated": False, "os": system}
    return {**facts, **changes, "nvswitches": facts["nvswitches"] if switched else []}


def figures(name: str) -> dict[str, list[Any]]:
    """Return what a GPU of this name measures when it is well; of an unknown one, something."""
    product = PRODUCTS.get(MODELS.get(name, ("",))[0], {})
    metrics = ("matmul_fp32", "matmul_tf32", "matmul_bf16", "matmul_fp16", *UNITS)
    answer = {}
    for metric in metrics:
        known = product.get(metric, {"value": 20.0, "kind": "measured"})
        answer[metric] = [UNITS.get(metric, "TFLOP/s"), known["value"] * SHARES[known["kind"]]]
    return answer


def row_of_journal(message: str, number: int, boot: str = BOOT) -> str:
    """Return a line of the journal as JSON."""
    boot = boot.replace("-", "")
    row = {
        "MESSAGE": message, "_BOOT_ID": boot, "_TRANSPORT": "kernel", "__CURSOR": f"s=x;i={number:x};b={boot}",
        "__MONOTONIC_TIMESTAMP": str(1000 + number), "__REALTIME_TIMESTAMP": str(1795540000000000 + number * 1000000),
    }  # fmt: skip
    return json.dumps(row) + "\n"
