# SPDX-License-Identifier: Apache-2.0
"""How fast a device is under TensorFlow."""

from __future__ import annotations

import sys

import job
import mnist_tensorflow
import performance


def measure_device(options):
    import tensorflow as tf

    device = mnist_tensorflow.find_device(tf, options.device)
    on_gpu = device == "/GPU:0"
    details = {}
    if on_gpu:
        details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    capability = tuple(details.get("compute_capability") or (0, 0))
    last = []

    def synchronize():
        # Reading one number of the last result waits for it, and what was asked for before it is done before it.
        for tensor in last:
            tf.reshape(tensor, [-1])[0].numpy()

    meter = performance.Meter(options, synchronize)
    types = {"fp32": tf.float32, "tf32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}

    def ask(function, *values):
        last[:] = [function(*values)]

    def matmul(precision):
        size = performance.MATMUL_SIZE[options.device]
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
        left, right = (tf.cast(tf.random.stateless_normal([size, size], [7, key]), types[precision]) for key in (1, 2))
        amount = performance.matmul_amount(size)
        meter.measure(
            f"matmul_{precision}", "TFLOP/s", lambda: ask(tf.matmul, left, right), amount, size=size, mode=precision
        )
        if not bool(tf.reduce_all(tf.math.is_finite(tf.cast(last[0], tf.float32)))):
            raise performance.NotMeasured("the product holds NaN or infinity")

    def memory_bandwidth():
        # Several results are asked for before the first one is there; TensorFlow does not tell what is free.
        size = performance.BANDWIDTH_BYTES[options.device] // 4
        source = tf.ones([size // 4])
        meter.measure("memory_bandwidth", "GB/s", lambda: ask(tf.add, source, 1.0), 2 * size, size=size, method="add")

    def host_copy(metric, source_device, target_device):
        size = performance.COPY_BYTES
        with tf.device(source_device):
            source = tf.ones([size // 4])

        def copy():
            with tf.device(target_device):
                last[:] = [tf.identity(source)]

        with performance.turn(options.turn):
            meter.measure(
                metric, "GB/s", copy, size, seconds=performance.COPY_SECONDS, size=size, method="pageable"
            )  # fmt: skip

    with tf.device(device):
        for name in performance.precisions(options, capability):
            meter.attempt(f"matmul_{name}", lambda name=name: matmul(name))
        last.clear()
        meter.attempt("memory_bandwidth", memory_bandwidth)
    last.clear()
    if on_gpu:
        meter.attempt("host_to_device", lambda: host_copy("host_to_device", "/CPU:0", device))
        meter.attempt("device_to_host", lambda: host_copy("device_to_host", device, "/CPU:0"))
    return meter, {
        "version": tf.__version__,
        "device": device,
        "device_name": mnist_tensorflow.device_name(tf, device),
        "uuid": None,
        "compute_capability": "%d.%d" % capability[:2] if on_gpu else None,
    }


def measure_all_reduce(options):
    import tensorflow as tf

    device = mnist_tensorflow.find_device(tf, options.device)
    kind = "CPU" if options.device == "cpu" else "GPU"
    if kind == "CPU":  # as many devices as were asked for, on one processor
        halves = [tf.config.LogicalDeviceConfiguration()] * options.devices
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], halves)
    found = len(tf.config.list_logical_devices(kind))
    if found < options.devices:
        raise job.JobError("NO_GPU", f"TensorFlow sees {found} GPUs, {options.devices} were asked for")
    names = [f"/{kind}:{number}" for number in range(options.devices)]
    nccl = tf.distribute.NcclAllReduce() if kind == "GPU" else tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(names, cross_device_ops=nccl)
    size = performance.ALL_REDUCE_BYTES[options.device] // (1 if kind == "CPU" else 4)

    def own(context):
        return tf.fill([size // 4], tf.cast(context.replica_id_in_sync_group + 1, tf.float32))

    values = strategy.experimental_distribute_values_from_function(own)

    @tf.function
    def add_up(values):
        return strategy.run(
            lambda x: tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, x), args=(values,)
        )

    last = [add_up(values)]
    first = float(strategy.experimental_local_results(last[0])[0][0])
    if first != options.devices * (options.devices + 1) / 2:
        raise job.JobError("WRONG_RESULT", f"all_reduce gave {first}, a wrong sum")

    def work():
        last[:] = [add_up(values)]

    def synchronize():
        for tensor in strategy.experimental_local_results(last[0]):
            tensor[0].numpy()

    meter = performance.Meter(options, synchronize)
    amount = performance.bus_bandwidth_bytes(size, options.devices)
    method = "nccl" if kind == "GPU" else "one device"
    meter.measure("all_reduce", "GB/s", work, amount, size=size, method=method, devices=options.devices)
    name = mnist_tensorflow.device_name(tf, device)
    return meter, {"version": tf.__version__, "device": "all", "device_name": name, "devices": options.devices}


if __name__ == "__main__":
    sys.exit(performance.run("tensorflow", measure_device, measure_all_reduce))
