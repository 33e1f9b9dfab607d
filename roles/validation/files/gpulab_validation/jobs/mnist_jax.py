# SPDX-License-Identifier: Apache-2.0
"""The MNIST job in JAX alone: the network, its loss and Adam are written out; one epoch is one compiled scan."""

from __future__ import annotations

import os
import sys

import job
import proof


def find_device(jax, wanted):
    """Return the device to compute on. The platform is named alone, so JAX raises instead of taking another one."""
    try:
        return jax.devices()[0]
    except (RuntimeError, AssertionError) as error:
        if wanted == "cpu":
            raise
        raise job.JobError(
            "NO_GPU",
            f"JAX {jax.__version__} finds no usable GPU: its CUDA plugin is not installed, no driver is loaded, or no "
            f"GPU is visible to this user ({type(error).__name__}: {job.first_line(error)})",
        ) from error


def train(options, data):
    os.environ["JAX_PLATFORMS"] = "cuda" if options.device == "gpu" else "cpu"
    import jax
    import jax.numpy as jnp

    device = find_device(jax, options.device)
    on_gpu = device.platform != "cpu"
    # Half precision is float16 on a GPU (all of them have it) and bfloat16 on a processor.
    half = jnp.float16 if on_gpu else jnp.bfloat16
    scale = job.LOSS_SCALE if options.mixed_precision and on_gpu else 1.0

    def forward(weights, images):
        w1, b1, w2, b2 = weights
        inputs = images.astype(jnp.float32) / 255
        if options.mixed_precision:
            inputs, w1, b1, w2, b2 = (array.astype(half) for array in (inputs, w1, b1, w2, b2))
        hidden = jax.nn.relu(inputs @ w1 + b1)
        return (hidden @ w2 + b2).astype(jnp.float32)

    def cross_entropy(weights, images, labels):
        log_probabilities = jax.nn.log_softmax(forward(weights, images))
        loss = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()
        return loss * scale, loss

    def adam(weights, gradients, state):
        step, first, second = state
        step = step + 1
        first = [job.BETA_1 * m + (1 - job.BETA_1) * g for m, g in zip(first, gradients)]
        second = [job.BETA_2 * v + (1 - job.BETA_2) * g * g for v, g in zip(second, gradients)]
        rate = job.LEARNING_RATE * jnp.sqrt(1 - job.BETA_2**step) / (1 - job.BETA_1**step)
        weights = [w - rate * m / (jnp.sqrt(v) + job.EPSILON) for w, m, v in zip(weights, first, second)]
        return weights, (step, first, second)

    @jax.jit
    def train_epoch(weights, state, images, labels, order):
        def train_step(carry, rows):
            weights, state = carry
            gradients, loss = jax.grad(cross_entropy, has_aux=True)(weights, images[rows], labels[rows])
            gradients = [gradient / scale for gradient in gradients]
            return adam(weights, gradients, state), loss

        (weights, state), losses = jax.lax.scan(train_step, (weights, state), order)
        return weights, state, losses.mean()

    def put(array):
        return jax.device_put(array, device)

    train_images, train_labels = put(data.train_images), put(data.train_labels.astype("int32"))
    weights = [put(array) for array in job.initial_weights(options)]
    state = (put(jnp.float32(0)), [jnp.zeros_like(w) for w in weights], [jnp.zeros_like(w) for w in weights])
    loss_curve = []
    for epoch, order in enumerate(job.epoch_orders(len(data.train_images), options)):
        weights, state, loss = train_epoch(weights, state, train_images, train_labels, put(order.astype("int32")))
        loss_curve.append(float(loss))
        job.say(epoch, loss_curve[-1])

    logits = jax.jit(forward)(weights, put(data.test_images))
    correct = logits.argmax(axis=1) == put(data.test_labels.astype("int32"))
    used = sorted({f"{d.platform}:{d.id}" for array in [logits, correct, *weights] for d in array.devices()})
    answer = {
        "version": jax.__version__,
        "accuracy": float(correct.mean()),
        "loss_curve": loss_curve,
        "device": ", ".join(sorted(f"{d.platform}:{d.id}" for d in logits.devices())),
        "device_name": device.device_kind if on_gpu else job.cpu_name(),
        "result_devices": used,
        "allocator_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use") if on_gpu else None,
        "model_bytes": sum(w.nbytes for w in weights),
    }

    def train_steps():
        rows = put(order[: proof.STEPS].astype("int32"))
        return float(train_epoch(weights, state, train_images, train_labels, rows)[2])

    if options.proof:
        answer["proof"] = proof.of_jax(jax, train_steps)
    return answer


if __name__ == "__main__":
    sys.exit(job.run("jax", train))
