# SPDX-License-Identifier: Apache-2.0
"""How fast a device is under JAX."""

from __future__ import annotations

import os
import sys

import job
import mnist_jax
import performance


def measure_device(options):
    os.environ["JAX_PLATFORMS"] = "cuda" if options.device == "gpu" else "cpu"
    import jax
    import jax.numpy as jnp

    device = mnist_jax.find_device(jax, options.device)
    on_gpu = device.platform != "cpu"
    capability = tuple(int(part) for part in str(getattr(device, "compute_capability", "0.0")).split(".")[:2])
    # What the device was asked for last. A GPU's results come in the order they were asked for; a processor's need not.
    last = []
    meter = performance.Meter(options, lambda: [array.block_until_ready() for array in last])
    types = {"fp32": jnp.float32, "tf32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}

    def ask(function, *values):
        last[:] = [function(*values)]
        if not on_gpu:
            last[0].block_until_ready()

    def matmul(precision):
        size = performance.MATMUL_SIZE[options.device]
        keys = jax.random.split(jax.random.PRNGKey(7))
        left, right = (
            jax.device_put(jax.random.normal(key, (size, size)).astype(types[precision]), device) for key in keys
        )
        asked = "tensorfloat32" if precision == "tf32" else "highest" if precision == "fp32" else "default"
        multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=asked))
        amount = performance.matmul_amount(size)
        meter.measure(
            f"matmul_{precision}", "TFLOP/s", lambda: ask(multiply, left, right), amount, size=size, mode=precision
        )
        if not bool(jnp.isfinite(last[0].astype(jnp.float32)).all()):
            raise performance.NotMeasured("the product holds NaN or infinity")

    def memory_bandwidth():
        stats = (device.memory_stats() or {}) if on_gpu else {}
        free = stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
        # Several results are asked for before the first one is there, so less than what fits once.
        size = performance.fitting(performance.BANDWIDTH_BYTES[options.device], free, share=0.1)
        source = jax.device_put(jnp.ones(size // 4, jnp.float32), device)
        add = jax.jit(lambda x: x + 1)
        meter.measure("memory_bandwidth", "GB/s", lambda: ask(add, source), 2 * size, size=size, method="add")

    def host_copy(metric, host_to_device):
        size = performance.COPY_BYTES
        there = jax.sharding.SingleDeviceSharding(device, memory_kind="device")
        here = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
        source = jax.device_put(jnp.ones(size // 4, jnp.float32), here if host_to_device else there)
        source.block_until_ready()
        target = there if host_to_device else here
        with performance.turn(options.turn):
            meter.measure(
                metric, "GB/s", lambda: ask(jax.device_put, source, target), size,
                seconds=performance.COPY_SECONDS, size=size, method="pinned",
            )  # fmt: skip

    for name in performance.precisions(options, capability):
        meter.attempt(f"matmul_{name}", lambda name=name: matmul(name))
    last.clear()
    meter.attempt("memory_bandwidth", memory_bandwidth)
    last.clear()
    if on_gpu:
        meter.attempt("host_to_device", lambda: host_copy("host_to_device", True))
        meter.attempt("device_to_host", lambda: host_copy("device_to_host", False))
    return meter, {
        "version": jax.__version__,
        "device": f"{device.platform}:{device.id}",
        "device_name": device.device_kind if on_gpu else job.cpu_name(),
        "uuid": None,
        "compute_capability": "%d.%d" % capability if on_gpu else None,
    }


def measure_all_reduce(options):
    os.environ["JAX_PLATFORMS"] = "cuda" if options.device == "gpu" else "cpu"
    if options.device == "cpu":  # as many devices as were asked for, on one processor
        more = f" --xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + more
    import jax
    import jax.numpy as jnp
    import numpy as np

    mnist_jax.find_device(jax, options.device)
    devices = jax.devices()[: options.devices]
    if len(devices) < options.devices:
        raise job.JobError("NO_GPU", f"JAX sees {len(devices)} GPUs, {options.devices} were asked for")
    size = performance.fitting(performance.ALL_REDUCE_BYTES[options.device], free_bytes(devices), share=0.1)
    mesh = jax.sharding.Mesh(np.array(devices), ("all",))
    row = jax.sharding.PartitionSpec("all")
    everywhere = jax.sharding.NamedSharding(mesh, row)
    values = np.arange(1, options.devices + 1, dtype=np.float32)[:, None]
    small = jax.device_put(values, everywhere)
    buffer = jax.jit(lambda x: jnp.broadcast_to(x, (options.devices, size // 4)), out_shardings=everywhere)(small)
    add_up = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=row, out_specs=row))
    last = [add_up(buffer)]
    found = float(last[0][0, 0])
    if found != options.devices * (options.devices + 1) / 2:
        raise job.JobError("WRONG_RESULT", f"psum gave {found}, a wrong sum")

    def work():
        last[:] = [add_up(buffer)]

    meter = performance.Meter(options, lambda: last[0].block_until_ready())
    amount = performance.bus_bandwidth_bytes(size, options.devices)
    meter.measure("all_reduce", "GB/s", work, amount, size=size, method="psum", devices=options.devices)
    name = devices[0].device_kind if options.device == "gpu" else job.cpu_name()
    return meter, {"version": jax.__version__, "device": "all", "device_name": name, "devices": options.devices}


def free_bytes(devices):
    """Return the least free memory of GPUs, or None where nobody counts it."""
    stats = [device.memory_stats() or {} for device in devices]
    counted = [row["bytes_limit"] - row["bytes_in_use"] for row in stats if "bytes_limit" in row]
    return min(counted) if counted else None


if __name__ == "__main__":
    sys.exit(performance.run("jax", measure_device, measure_all_reduce))
