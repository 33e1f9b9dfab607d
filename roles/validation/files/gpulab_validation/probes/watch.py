# SPDX-License-Identifier: Apache-2.0
"""Look at the GPUs again and again while a job runs, and write what was seen as JSON.

Which processes used which GPU, how far the clocks were held back, how fast the link to the bus became. Ends when a file
appears, and leaves a result behind even where it is ended in the middle of a call.

    probes/watch.py --out FILE --stop FILE [--interval SECONDS]
"""

from __future__ import annotations

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import nvml

#: Samples between two writings of the result.
WRITE_EVERY = 2


class Watched:
    """What was seen of one GPU.

    :param library: a nvml.Library
    :param index: NVML's number of the GPU
    """

    def __init__(self, library, index):
        self.library = library
        gpu = self.gpu = nvml.Gpu(library, index)
        self.uuid = gpu.ask("uuid", "nvmlDeviceGetUUID")
        self.readers = [(self.uuid, gpu)]
        mig = gpu.mig()
        for number in range(len(mig["instances"])):
            self.readers.append((mig["instances"][number]["uuid"], self._instance(index, number)))
        self.samples, self.reasons, self.most = 0, {}, {}
        self.gen_max = gpu.ask("pcie.gen_max", "nvmlDeviceGetMaxPcieLinkGeneration")
        self.width_max = gpu.ask("pcie.width_max", "nvmlDeviceGetMaxPcieLinkWidth")
        self.errors_before = self.link_errors()
        self.seen, self.starts = {}, {}
        self.records_before = {(row["pid"], row["started_us"]) for row in self.records() if not row["running"]}

    def _instance(self, index, number):
        """Return a reader of one instance of the GPU, which has a list of processes of its own."""
        reader = nvml.Gpu(self.library, index)
        found = -1
        for place in range(reader.ask("mig", "nvmlDeviceGetMaxMigDeviceCount") or 0):
            handle = reader.ask("mig", "nvmlDeviceGetMigDeviceHandleByIndex", place)
            found += handle is not None
            if found == number:
                reader.handle = handle
                break
        return reader

    def look(self):
        """Take one sample."""
        gpu = self.gpu
        self.samples += 1
        for uuid, reader in self.readers:
            for row in reader.processes() or []:
                self._process(uuid, row)
        for reason in gpu.reasons() or []:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        utilization = gpu.utilization()["gpu"]
        for key, value in (
            ("gen_max_seen", gpu.ask("pcie.gen", "nvmlDeviceGetCurrPcieLinkGeneration")),
            ("width_max_seen", gpu.ask("pcie.width", "nvmlDeviceGetCurrPcieLinkWidth")),
            ("temperature_max", gpu.ask("temperature", "nvmlDeviceGetTemperature", 0)),
            ("power_w_max", gpu.watts("power_w", "nvmlDeviceGetPowerUsage")),
            ("utilization_max", utilization),
        ):
            if value is not None:
                self.most[key] = max(value, self.most.get(key, value))

    def _process(self, uuid, row):
        pid, start = row["pid"], row["start"]
        if start is None:  # ended between two looks, or of another PID namespace: as it was seen before
            start = self.starts.get(pid)
        self.starts[pid] = start
        memory = self.seen.get((uuid, pid, start))
        if row["used_memory"] is not None:
            memory = max(row["used_memory"], memory or 0)
        self.seen[uuid, pid, start] = memory

    def link_errors(self):
        """Return the sum of all errors of all links; None when they cannot be read."""
        counts = [n for link in self.gpu.nvlink() for n in link["errors"].values() if n is not None]
        return sum(counts) if counts else None

    def records(self):
        """List the driver's own accounts of processes: empty where it keeps none."""
        if not self.gpu.flag("accounting_mode", "nvmlDeviceGetAccountingMode"):
            return []
        rows = []
        for pid in self.gpu.ask("accounting", "nvmlDeviceGetAccountingPids") or []:
            stats = self.gpu.ask("accounting", "nvmlDeviceGetAccountingStats", pid)
            if stats is not None:
                rows.append({
                    "uuid": self.uuid, "pid": pid, "max_memory": stats.maxMemoryUsage, "time_ms": stats.time,
                    "gpu_utilization": stats.gpuUtilization, "started_us": stats.startTime,
                    "running": bool(stats.isRunning),
                })  # fmt: skip
        return rows

    def accounting(self):
        """List the accounts that this watch saw made: those that were closed before it began are somebody else's."""
        rows = [row for row in self.records() if (row["pid"], row["started_us"]) not in self.records_before]
        for row in rows:
            if row["running"] and self.starts.get(row["pid"]) is None:
                self.starts[row["pid"]] = nvml.start_ticks(row["pid"])
            # Of an account that is closed the number may be another process's by now: only what was seen counts.
            row["start"] = self.starts.get(row["pid"])
        return rows

    def summary(self):
        """Return what was seen of this GPU."""
        after = self.link_errors()
        before = self.errors_before
        keys = ("gen_max_seen", "width_max_seen", "temperature_max", "power_w_max", "utilization_max")
        row = {"uuid": self.uuid, "samples": self.samples, "gen_max": self.gen_max, "width_max": self.width_max}
        row.update({key: self.most.get(key) for key in keys})
        row.update(reasons=sorted(self.reasons), throttled_samples=self.reasons, lost=self.gpu.lost)
        row["nvlink_errors_delta"] = None if before is None or after is None else after - before
        return row

    def processes(self):
        """List the processes that used this GPU or an instance of it."""
        return [
            {"uuid": uuid, "pid": pid, "start": start, "used_memory_max": memory}
            for (uuid, pid, start), memory in self.seen.items()
        ]


def main():
    """Watch until the file appears; end with 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--stop", required=True)
    parser.add_argument("--interval", type=float, default=0.5)
    arguments = parser.parse_args()
    document = {"simulated": False, "error": None, "problem": "", "samples": 0}
    document.update(processes=[], accounting=[], gpus=[])
    library = nvml.open_library(document)
    if library is None:
        document["problem"] = "NVML cannot be used: %s" % document["error"]["message"]
        nvml.write(arguments.out, document)
        os._exit(0)
    try:
        count = library.call("the driver", "nvmlDeviceGetCount")
    except library.nvml.NVMLError as error:
        document["problem"] = "NVML cannot count the GPUs: %s" % error
        count = 0
    watched = [Watched(library, index) for index in range(count)]
    stopping = False
    while True:
        stopping = os.path.exists(arguments.stop)
        for gpu in watched:
            gpu.look()
        document["samples"] += 1
        if stopping or document["samples"] % WRITE_EVERY == 1:
            document["gpus"] = [gpu.summary() for gpu in watched]
            document["processes"] = [row for gpu in watched for row in gpu.processes()]
            document["accounting"] = [row for gpu in watched for row in gpu.accounting()]
            nvml.write(arguments.out, document)
        if stopping:
            os._exit(0)
        end = time.monotonic() + arguments.interval
        while time.monotonic() < end and not os.path.exists(arguments.stop):
            time.sleep(0.05)


if __name__ == "__main__":
    main()
