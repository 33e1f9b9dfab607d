# SPDX-License-Identifier: Apache-2.0
"""How fast a device is under PyTorch."""

from __future__ import annotations

import json
import os
import sys
import tempfile

import job
import mnist_pytorch
import performance


def measure_device(options):
    import torch

    device = mnist_pytorch.find_device(torch, options.device)
    on_gpu = device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    properties = torch.cuda.get_device_properties(device) if on_gpu else None
    capability = (properties.major, properties.minor) if on_gpu else (0, 0)
    meter = performance.Meter(options, (lambda: torch.cuda.synchronize(device)) if on_gpu else lambda: None)
    types = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

    def matmul(precision):
        size = performance.MATMUL_SIZE[options.device]
        left, right = (torch.randn(size, size, device=device).to(types[precision]) for _ in range(2))
        out = torch.empty_like(left)
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        amount = performance.matmul_amount(size)
        meter.measure(
            f"matmul_{precision}",
            "TFLOP/s",
            lambda: torch.matmul(left, right, out=out),
            amount,
            size=size,
            mode=precision,
        )
        if not torch.isfinite(out.float().sum()).item():
            raise performance.NotMeasured("the product holds NaN or infinity")

    def memory_bandwidth():
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else None
        size = performance.fitting(performance.BANDWIDTH_BYTES[options.device], free)
        source = torch.ones(size, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        meter.measure("memory_bandwidth", "GB/s", lambda: target.copy_(source), 2 * size, size=size, method="copy")

    def host_copy(metric, host_to_device):
        size = performance.COPY_BYTES
        host = torch.ones(size, dtype=torch.uint8, pin_memory=True)
        there = torch.ones(size, dtype=torch.uint8, device=device)
        source, target = (host, there) if host_to_device else (there, host)
        with performance.turn(options.turn):
            meter.measure(
                metric, "GB/s", lambda: target.copy_(source, non_blocking=True), size,
                seconds=performance.COPY_SECONDS, size=size, method="pinned",
            )  # fmt: skip

    for name in performance.precisions(options, capability):
        meter.attempt(f"matmul_{name}", lambda name=name: matmul(name))
        if on_gpu:
            torch.cuda.empty_cache()
    meter.attempt("memory_bandwidth", memory_bandwidth)
    if on_gpu:
        torch.cuda.empty_cache()
        meter.attempt("host_to_device", lambda: host_copy("host_to_device", True))
        meter.attempt("device_to_host", lambda: host_copy("device_to_host", False))
    return meter, {
        "version": torch.__version__,
        "device": str(device),
        "device_name": properties.name if on_gpu else job.cpu_name(),
        "uuid": str(getattr(properties, "uuid", "")) or None if on_gpu else None,
        "compute_capability": "%d.%d" % capability if on_gpu else None,
    }


def add_up(rank, options, meeting, directory):
    """One of the processes that add up a buffer together. The first one keeps the figure, as a file."""
    import torch
    import torch.distributed as distributed

    on_gpu = options.device == "gpu"
    device = torch.device(f"cuda:{rank}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.devices
    )
    size = performance.ALL_REDUCE_BYTES[options.device]
    if on_gpu:
        size = performance.fitting(size, torch.cuda.mem_get_info(device)[0])
    # All must take the same size and stop at the same time: the least of what fits, and a fixed number of rounds.
    least = torch.tensor([size], device=device)
    distributed.all_reduce(least, op=distributed.ReduceOp.MIN)
    size = int(least.item())
    buffer = torch.full((size // 4,), rank + 1.0, device=device)
    distributed.all_reduce(buffer)
    if buffer[0].item() != options.devices * (options.devices + 1) / 2:
        raise job.JobError("WRONG_RESULT", f"all_reduce gave {buffer[0].item()}, a wrong sum")
    buffer.zero_()
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    times = [performance.timed_rounds(lambda: distributed.all_reduce(buffer), wait) for _ in range(options.repeats)]
    if rank == 0:
        job.write_result(os.path.join(directory, "times"), {"size": size, "times": times})
    distributed.destroy_process_group()


def measure_all_reduce(options):
    import torch
    import torch.multiprocessing as multiprocessing

    device = mnist_pytorch.find_device(torch, options.device)
    if device.type == "cuda" and torch.cuda.device_count() < options.devices:
        raise job.JobError("NO_GPU", f"PyTorch sees {torch.cuda.device_count()} GPUs, {options.devices} were asked for")
    with tempfile.TemporaryDirectory(prefix="all-reduce-") as directory:
        meeting = os.path.join(directory, "meeting")
        multiprocessing.spawn(add_up, (options, meeting, directory), nprocs=options.devices)
        with open(os.path.join(directory, "times"), encoding="utf-8") as stream:
            kept = json.load(stream)
    amount = performance.bus_bandwidth_bytes(kept["size"], options.devices)
    meter = performance.Meter(options, lambda: None)
    method = "nccl" if device.type == "cuda" else "gloo"
    rates = [amount / seconds / 1e9 for seconds in kept["times"]]
    meter.keep("all_reduce", "GB/s", rates, size=kept["size"], method=method, devices=options.devices)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else job.cpu_name()
    return meter, {"version": torch.__version__, "device": "all", "device_name": name, "devices": options.devices}


if __name__ == "__main__":
    sys.exit(performance.run("pytorch", measure_device, measure_all_reduce))
