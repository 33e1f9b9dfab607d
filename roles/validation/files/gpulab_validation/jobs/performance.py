# SPDX-License-Identifier: Apache-2.0
"""What the performance programs of all frameworks share: what is measured, how time is taken, the result file.

Such a program measures how fast ONE device multiplies matrices, copies its own memory and talks to the host's memory;
with ``--part all_reduce`` how fast all devices together add up a buffer. It writes numbers and judges nothing.

Every program can be run by hand::

    python performance_pytorch.py --device cpu

Exit status: 0 it ran to its end, 1 it could not (the result file says why, in a sentence).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import math
import os
import platform
import statistics
import sys
import time
import traceback

import job

MIB = 2**20
#: Rows and columns of the square matrices. 8192 keeps every GPU of today busy for milliseconds at a time.
MATMUL_SIZE = {"gpu": 8192, "cpu": 1024}
#: Bytes of the buffers. On a GPU several times its cache.
BANDWIDTH_BYTES = {"gpu": 1024 * MIB, "cpu": 128 * MIB}
COPY_BYTES = 256 * MIB
ALL_REDUCE_BYTES = {"gpu": 1024 * MIB, "cpu": 16 * MIB}
#: Seconds that one of the repeats takes at least, so that starting a kernel does not count.
REPEAT_SECONDS = {"gpu": 0.25, "cpu": 0.15}
#: Copies between host and GPU go on this long, so that whoever samples the bus meanwhile sees it at work.
COPY_SECONDS = 0.3
#: Rounds of one repeat of all_reduce: all processes must stop at the same one.
ROUNDS = 10
#: Tensor cores that know a format came with this compute capability.
SINCE = {"tf32": (8, 0), "bf16": (8, 0), "fp16": (5, 3)}
REPEATS = 5


class NotMeasured(Exception):
    """This figure cannot be had here; the message says why."""


class Meter:
    """Takes times and keeps figures.

    :param options: the program's arguments
    :param synchronize: function that waits until the device has done everything it was asked for
    """

    def __init__(self, options, synchronize):
        self.options, self.synchronize = options, synchronize
        self.figures, self.not_measured = [], {}

    def measure(self, metric, unit, work, amount, seconds=None, **more):
        """Run ``work`` again and again; keep ``options.repeats`` rates.

        :param metric: its name, matmul_fp32 say
        :param unit: TFLOP/s or GB/s
        :param work: function that asks the device for one piece of work
        :param amount: floating-point operations or bytes of one piece
        :param seconds: that a repeat takes at least
        :param more: goes into the figure: size, method, mode
        """
        seconds = seconds or REPEAT_SECONDS[self.options.device]
        scale = 1e12 if unit == "TFLOP/s" else 1e9
        self._time(work, 1)  # the first one compiles, allocates and picks an algorithm
        count = max(1, min(10000, math.ceil(seconds / max(self._time(work, 2) / 2, 1e-7))))
        runs = [amount * count / self._time(work, count) / scale for _ in range(self.options.repeats)]
        self.keep(metric, unit, runs, **more)

    def keep(self, metric, unit, runs, **more):
        """Keep a figure that was measured elsewhere."""
        self.figures.append(dict({"metric": metric, "unit": unit, "runs": runs}, **more))
        print(f"{metric}: {statistics.median(runs):.4g} {unit}", flush=True)

    def attempt(self, metric, function):
        """Measure one figure; what cannot be measured is written down, and the others are measured all the same."""
        try:
            function()
            return
        except NotMeasured as reason:
            self.not_measured[metric] = str(reason)
        except Exception as error:  # one figure less is better than none at all, and the reason is kept
            traceback.print_exc()
            self.not_measured[metric] = f"{type(error).__name__}: {job.first_line(error)}"
        # What came to nothing in the end is no figure, however far it came.
        self.figures = [figure for figure in self.figures if figure["metric"] != metric]

    def _time(self, work, count):
        self.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            work()
        self.synchronize()
        return time.perf_counter() - started


def knows(capability, precision):
    """Tell whether a GPU of this compute capability, ``(major, minor)``, has the format."""
    return precision == "fp32" or tuple(capability) >= SINCE[precision]


def precisions(options, capability):
    """Return the formats to multiply in: on a processor fp32 alone, on a GPU what its tensor cores know."""
    if options.device == "cpu":
        return ["fp32"]
    return [name for name in ("fp32", "tf32", "bf16", "fp16") if knows(capability, name)]


def timed_rounds(work, synchronize, rounds=ROUNDS):
    """Return the seconds of one piece of work, from a fixed number of them."""
    synchronize()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    synchronize()
    return (time.perf_counter() - started) / rounds


def matmul_amount(size):
    """Return the floating-point operations of one product of square matrices."""
    return 2.0 * size**3


def bus_bandwidth_bytes(size, devices):
    """Return the bytes that each device must send at least to add up ``size`` bytes over all of them."""
    return 2.0 * (devices - 1) / devices * size


def fitting(wanted, free, share=0.25):
    """Return a number of bytes that fits: halved until it is at most ``share`` of what is free (None: not known)."""
    while free is not None and wanted > max(free, 0) * share and wanted > 16 * MIB:
        wanted //= 2
    return wanted


@contextlib.contextmanager
def turn(path):
    """Wait for our turn on the bus: programs of other GPUs measure at the same time and would share it."""
    if not path:
        yield
        return
    with open(path, "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


def arguments(given=None):
    """Return the program's arguments, from the command line."""
    parser = argparse.ArgumentParser(description="Measure how fast a device is.")
    parser.add_argument(
        "--device", required=True, choices=["cpu", "gpu"], help="where to compute; nothing else is used"
    )
    parser.add_argument(
        "--part", choices=["device", "all_reduce"], default="device", help="one device, or all together"
    )
    parser.add_argument("--devices", type=int, default=2, help="all_reduce: how many devices there should be")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--turn", help="file to lock while the bus is measured")
    parser.add_argument("--result", help="JSON file to write")
    options = parser.parse_args(given)
    if options.repeats < 1 or options.devices < 1:
        parser.error("--repeats and --devices must be at least 1")
    return options


def run(framework, device, all_reduce):
    """Run a program from its arguments to its result file.

    :param framework: pytorch, jax or tensorflow
    :param device: function ``(options) -> (meter, answer)`` that measures one device; the answer has version, device,
        device_name, uuid and compute_capability
    :param all_reduce: function ``(options) -> (meter, answer)`` that measures all devices together
    :returns: the exit status
    """
    options = arguments()
    result = {"framework": framework, "part": options.part, "python": platform.python_version(), "pid": os.getpid()}
    try:
        meter, answer = (all_reduce if options.part == "all_reduce" else device)(options)
        result.update(answer, figures=meter.figures, not_measured=meter.not_measured)
    except job.JobError as error:
        result["error"] = {"reason_code": error.reason_code, "message": str(error)}
    except ImportError as error:
        traceback.print_exc()
        result["error"] = {"reason_code": "FRAMEWORK_MISSING", "message": f"{framework} cannot be used: {error}"}
    except Exception as error:  # whatever a framework raises becomes a sentence; the traceback is for the log
        traceback.print_exc()
        reason = "OUT_OF_MEMORY" if job.is_out_of_memory(error) else "JOB_ERROR"
        result["error"] = {"reason_code": reason, "message": f"{type(error).__name__}: {job.first_line(error)}"}
    if options.result:
        job.write_result(options.result, result)
    if "error" in result:
        print(f"{framework}: {result['error']['message']}", file=sys.stderr)
    return 1 if "error" in result else 0
