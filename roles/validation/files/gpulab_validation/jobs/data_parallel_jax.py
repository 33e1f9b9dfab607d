# SPDX-License-Identifier: Apache-2.0
"""The data-parallel job in JAX: one program over all devices; the batch is sharded, the weights are replicated."""

from __future__ import annotations

import os
import sys

import data_parallel
import job
import mnist_jax


def train(options):
    os.environ["JAX_PLATFORMS"] = "cuda" if options.device == "gpu" else "cpu"
    if options.device == "cpu":
        # Several devices on one processor, each with threads of its own.
        flag = f"--xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    # 32 bits all through: by default a GPU may compute with fewer.
    jax.config.update("jax_default_matmul_precision", "highest")
    mnist_jax.find_device(jax, options.device)
    devices = jax.local_devices()[: options.devices]
    if len(devices) != options.devices:
        raise data_parallel.too_few(len(devices), options, "JAX")
    mesh = Mesh(np.array(devices), ("replica",))
    shared_out, everywhere = NamedSharding(mesh, PartitionSpec("replica")), NamedSharding(mesh, PartitionSpec())

    def cross_entropy(weights, images, labels):
        w1, b1, w2, b2 = weights
        log_probabilities = jax.nn.log_softmax(jnp.tanh(images @ w1 + b1) @ w2 + b2)
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()

    # Gradients that lie everywhere must be averaged over the shares of the batch: that is the step to be proven.
    gradients_of = jax.jit(jax.value_and_grad(cross_entropy), out_shardings=everywhere)

    @jax.jit
    def update(weights, gradients):
        return [w - data_parallel.LEARNING_RATE * g for w, g in zip(weights, gradients)]

    batches = data_parallel.Batches(options, options.devices)
    first = job.initial_weights(options)
    weights = [jax.device_put(array, everywhere) for array in first]

    def put(step, sharding):
        images, labels = batches.whole(step)
        return jax.device_put(images, sharding), jax.device_put(labels.astype("int32"), sharding)

    def of_replica(arrays, index):
        shards = [{shard.device: shard.data for shard in array.addressable_shards} for array in arrays]
        return [np.asarray(shard[devices[index]]) for shard in shards]

    _, gradients = gradients_of(weights, *put(0, shared_out))
    replicas = [of_replica(gradients, index) for index in range(len(devices))]
    _, reference = data_parallel.reference_gradients(first, *batches.whole(0))
    alone = jax.jit(jax.grad(cross_entropy))(
        [jax.device_put(array, devices[0]) for array in first], *put(0, devices[0])
    )
    single = [np.asarray(gradient) for gradient in alone]
    used = sorted({f"{shard.device.platform}:{shard.device.id}" for g in gradients for shard in g.addressable_shards})

    losses = []
    for step in range(options.steps):
        loss, gradients = gradients_of(weights, *put(step, shared_out))
        weights = update(weights, gradients)
        losses.append(float(loss))
    finals = [of_replica(weights, index) for index in range(len(devices))]
    return {
        "version": jax.__version__,
        "device_name": devices[0].device_kind if options.device == "gpu" else job.cpu_name(),
        "devices": used,
        "replicas": len(devices),
        "backend": "xla",
        "gradients": data_parallel.worst([data_parallel.differences(arrays, reference) for arrays in replicas]),
        "single_device": data_parallel.worst([data_parallel.differences(arrays, single) for arrays in replicas]),
        "replicas_spread": data_parallel.spread(finals),
        "loss_curve": data_parallel.blocks(losses),
        "accuracy": data_parallel.accuracy(finals[0], batches),
    }


if __name__ == "__main__":
    sys.exit(data_parallel.run("jax", train))
