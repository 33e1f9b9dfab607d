# SPDX-License-Identifier: Apache-2.0
"""What an interpreter runs that pretends to compute on the GPUs of a pretended driver.

NumPy stands in for the framework: tensors are really computed, on small shapes, and really compared. A job is put into
the driver's list of processes while it runs, so that whoever watches the driver finds it there. Speeds and accuracies
are invented. Nothing of it says anything about a GPU.

What it does is told by the JSON file that ``simulated_host.Host`` writes beside the interpreter:

    driver   directory of the pretended driver (nvml.description)
    runs     directory of the validator's runs, where its watch writes what it sees
    figures  {UUID: {metric: [unit, value]}}, and "all" for what all GPUs do together
    spoil    {UUID: name of a way to compute wrongly, see numerics_lab.INJECTIONS}
    load     {UUID: {key of the driver's description: value while the GPU works}}
    listed   own (the job's own process), foreign (a process of another namespace) or none
    kernels  whether the framework's profiler finds kernels
    control  refuse, or train: what a job does that sees no GPU
    result   what a job's result says instead of the usual
    body     Python that a job runs while it is in the driver's list; it may change ``result``
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a GPU tells while it works, if nothing else is said.
AT_WORK = {"reasons": "0x4", "utilization": "97,40", "temperature": "52", "power_mw": "640000"}
#: A process that no process here can see, as those of another PID namespace are.
FOREIGN_PID = 4194303
#: Seconds to stay in the driver's list at most, when nobody looks.
MOST = 8.0
MIB = 1 << 20


class Driver:
    """The pretended driver, changed while others read it."""

    def __init__(self, directory: str) -> None:
        self.path = Path(directory) / "nvml.description"

    def lines(self) -> dict[str, str]:
        rows = self.path.read_text(errors="surrogateescape").splitlines()
        return dict(row.split("=", 1) for row in rows if "=" in row)

    def place(self, uuid: str) -> str:
        """Return the beginning of the keys of a GPU, or of an instance of one."""
        return next(key for key, value in self.lines().items() if value == uuid).removesuffix("uuid")

    def gpu(self, uuid: str, key: str) -> str:
        """Return what the GPU says that an UUID, also an instance's, belongs to."""
        value = self.lines().get(".".join(self.place(uuid).split(".")[:2]) + "." + key, "")
        return re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code.group(1), 16)), value)

    def change(self, changes: dict[str, str | None]) -> dict[str, str | None]:
        """Change some lines in one step; return those that were there before. None removes a line."""
        with open(self.path.with_name("lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lines = self.lines()
            before = {key: lines.get(key) for key in changes}
            lines.update({key: value for key, value in changes.items() if value is not None})
            text = "".join(f"{key}={value}\n" for key, value in lines.items() if changes.get(key, "") is not None)
            temporary = self.path.with_name(f"nvml.description.{os.getpid()}")
            temporary.write_text(text, errors="surrogateescape")
            temporary.replace(self.path)
            return before


class Pretender:
    """One pretended process.

    :param config: see above
    :param arguments: of the interpreter
    """

    def __init__(self, config: dict[str, Any], arguments: list[str]) -> None:
        self.config, self.arguments = config, arguments
        self.program = os.path.basename(next(word for word in arguments if word.endswith(".py")))
        self.driver = Driver(config["driver"])
        self.uuids = [uuid for uuid in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if uuid]

    def option(self, name: str, default: str | None = None) -> str:
        if name not in self.arguments and default is not None:
            return default
        return self.arguments[self.arguments.index(name) + 1]

    def answer(self, result: dict[str, Any], code: int = 0) -> int:
        Path(self.option("--result")).write_text(json.dumps(result))
        return code

    def run(self) -> int:
        with open(os.path.join(self.config["driver"], "started"), "a") as stream:
            stream.write(self.program + "\n")
        if self.program.startswith("numerics_"):
            return self.numerics()
        if self.program == "compare_numerics.py":
            return compare(self.arguments)
        if not self.uuids and self.config["control"] == "refuse":
            words = "this framework finds no usable GPU"
            return self.answer({"error": {"reason_code": "NO_GPU", "message": words}}, 1)
        if self.program.startswith("performance_"):
            return self.performance()
        if self.program.startswith("data_parallel_"):
            return self.data_parallel()
        return self.train()

    # -- being seen ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Be in the driver's list, with the GPUs at work, until the watch has looked."""
        changes: dict[str, str | None] = {}
        for uuid in self.uuids:
            own = self.driver.place(uuid)
            whole = ".".join(own.split(".")[:2]) + "."
            fastest = {key: self.driver.gpu(uuid, key + "_max") for key in ("pcie_gen", "pcie_width")}
            rows = {**AT_WORK, **{key: value for key, value in fastest.items() if value}}
            rows.update(self.config["load"].get(uuid, {}))
            changes.update({whole + key: value for key, value in rows.items()})
            pid = {"own": os.getpid(), "foreign": FOREIGN_PID}.get(self.config["listed"])
            if pid:
                changes[own + "processes"] = f"{pid}:{'?' if pid == FOREIGN_PID else 512 * MIB}"
        before = self.driver.change(changes)
        try:
            yield
            self.wait_for_a_look()
        finally:
            self.driver.change(before)

    def samples(self) -> int | None:
        """Return how often the latest watch has looked so far; None where there is none."""
        watches = sorted(Path(self.config["runs"]).glob("*/watch-*.json"), key=lambda path: path.stat().st_mtime)
        try:
            return int(json.loads(watches[-1].read_text())["samples"])
        except (IndexError, ValueError, OSError):
            return None

    def wait_for_a_look(self) -> None:
        """Wait until the watch has written down a look that began after the GPUs were put to work."""
        first, end = self.samples(), time.monotonic() + MOST
        while self.uuids and first is not None and (self.samples() or 0) <= first and time.monotonic() < end:
            time.sleep(0.05)

    # -- what programs do ----------------------------------------------------------------------------------------------

    def numerics(self) -> int:
        from numerics_lab import INJECTIONS, StandIn, load_jobs, run_standin, same

        jobs, (uuid,) = small_jobs(load_jobs()), self.uuids
        spoil = INJECTIONS[self.config["spoil"][uuid]][0] if uuid in self.config["spoil"] else same
        standin = StandIn(jobs.shared, spoil=spoil, capability=self.driver.gpu(uuid, "compute_capability"))
        standin.uuid = uuid if uuid.startswith("GPU-") else None
        standin.device_name = self.driver.gpu(uuid, "name")  # type: ignore[misc]
        return run_standin(
            jobs.shared, standin, Path(self.option("--out")), Path(self.option("--result")),
            precisions=self.option("--precisions").split(","), repeats=int(self.option("--repeats")),
            memory_bytes=int(self.option("--memory-bytes")),
        )  # fmt: skip

    def performance(self) -> int:
        together = self.option("--part", "") == "all_reduce"
        figures = self.config["figures"]["all" if together else self.uuids[0]]
        rows = [
            {"metric": metric, "unit": unit, "runs": [value, value * 0.99, value * 1.01], "method": "pinned", "size": 1}
            for metric, (unit, value) in figures.items()
        ]
        name = self.driver.gpu(self.uuids[0], "name")
        with contextlib.nullcontext() if together else self.working():
            pass
        return self.answer({"figures": rows, "not_measured": {}, "device_name": name, "compute_capability": None})

    def data_parallel(self) -> int:
        apart = dict.fromkeys(("w1", "b1", "w2", "b2"), 2e-7)
        devices = [f"cuda:{number}" for number in range(len(self.uuids))]
        result = {
            "version": "1.0", "replicas": len(devices), "devices": devices, "backend": "nccl", "gradients": apart,
            "single_device": apart, "replicas_spread": 0.0, "loss_curve": [2.3, 1.4, 0.9], "accuracy": 0.9,
        }  # fmt: skip
        return self.answer(result)

    def train(self) -> int:
        place = "cuda:0" if self.uuids else "cpu:0"
        start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        kernels = {"available": True, "why": "", "count": 64, "names": ["a_pretended_kernel"], "source": "a profiler"}
        if not self.config["kernels"]:
            kernels = {"available": False, "why": "the profiler finds no CUPTI", "count": 0, "names": []}
        result: dict[str, Any] = {
            "framework": self.program[len("mnist_") : -len(".py")], "version": "1.0", "python": "3.11.2",
            "accuracy": 0.97, "loss_curve": [0.4, 0.1], "epochs": int(self.option("--epochs")), "notes": [],
            "batch_size": int(self.option("--batch-size")), "device": place, "result_devices": [place],
            "device_name": self.driver.gpu(self.uuids[0], "name") if self.uuids else "a pretended processor",
            "model_bytes": 101800, "allocator_peak_bytes": 5 * MIB if self.uuids else None,
            "proof": {
                "pid": os.getpid(), "pid_start": start, "steps": 8, "kernels": kernels,
                "device_time": {"available": True, "milliseconds": 2.0, "wall_milliseconds": 3.0, "source": "events"},
            },
        }  # fmt: skip
        result.update(self.config["result"])
        with self.working():
            known = {"result": result, "option": self.option, "config": self.config, "driver": self.driver}
            exec(self.config["body"], {**known, "os": os, "sys": sys, "time": time, "signal": signal})
        return self.answer(result)


def small_jobs(jobs: Any) -> Any:
    """Let the jobs' modules compute small shapes on a GPU, too."""
    from numerics_lab import SMALL

    jobs.shared.SHAPES["gpu"] = SMALL
    return jobs


def compare(arguments: list[str]) -> int:
    """Run the real comparison."""
    from numerics_lab import load_jobs

    jobs = small_jobs(load_jobs())
    position = next(number for number, word in enumerate(arguments) if word.endswith(".py"))
    sys.argv = arguments[position:]
    return int(jobs.compare.main())


def main(config: str) -> int:
    """Pretend; return the exit status."""
    arguments = sys.argv[1:]
    if "-c" in arguments:  # asked what is installed
        print("packages as on the first day")
        return 0
    return Pretender(json.loads(Path(config).read_text()), arguments).run()
