# SPDX-License-Identifier: Apache-2.0
"""The MNIST job in TensorFlow alone: the network, its loss and Adam are written out; one epoch is one tf.function."""

from __future__ import annotations

import sys

import job
import proof


def find_device(tf, wanted):
    """Return the device to compute on.

    Two things keep TensorFlow from quietly taking the processor instead: soft placement is off, and every operation
    below stands under an explicit device. Either one alone is not enough.
    """
    tf.config.set_soft_device_placement(False)
    if wanted == "cpu":
        return "/CPU:0"
    if not tf.test.is_built_with_cuda():
        raise job.JobError(
            "NO_GPU", f"this TensorFlow ({tf.__version__}) is built without CUDA, so it cannot use a GPU"
        )
    if not tf.config.list_physical_devices("GPU"):
        raise job.JobError(
            "NO_GPU",
            f"TensorFlow {tf.__version__} finds no usable GPU: no driver is loaded, CUDA libraries that it needs are "
            "missing, or no GPU is visible to this user (its own messages are in the log)",
        )
    return "/GPU:0"


def device_name(tf, device):
    """Return the name of the GPU or processor behind ``device``."""
    if device == "/CPU:0":
        return job.cpu_name()
    return tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])["device_name"]


def train(options, data):
    import tensorflow as tf

    device = find_device(tf, options.device)
    on_gpu = device == "/GPU:0"
    if on_gpu:
        tf.config.experimental.reset_memory_stats("GPU:0")
    # Half precision is float16 on a GPU (all of them have it) and bfloat16 on a processor.
    half = tf.float16 if on_gpu else tf.bfloat16
    scale = job.LOSS_SCALE if options.mixed_precision and on_gpu else 1.0

    def forward(weights, images):
        w1, b1, w2, b2 = weights
        if options.mixed_precision:
            images, w1, b1, w2, b2 = (tf.cast(tensor, half) for tensor in (images, w1, b1, w2, b2))
        hidden = tf.nn.relu(tf.matmul(images, w1) + b1)
        return tf.cast(tf.matmul(hidden, w2) + b2, tf.float32)

    with tf.device(device):
        # Float images and 64-bit labels, because not every integer operation exists on a GPU.
        train_images = tf.constant(data.train_images.astype("float32") / 255)
        train_labels = tf.constant(data.train_labels.astype("int64"))
        test_images = tf.constant(data.test_images.astype("float32") / 255)
        test_labels = tf.constant(data.test_labels.astype("int64"))
        weights = [tf.Variable(array) for array in job.initial_weights(options)]
        first_moments = [tf.Variable(tf.zeros_like(w)) for w in weights]
        second_moments = [tf.Variable(tf.zeros_like(w)) for w in weights]
        steps_done = tf.Variable(0.0)

    def adam(gradients):
        steps_done.assign_add(1.0)
        rate = job.LEARNING_RATE * tf.sqrt(1 - job.BETA_2**steps_done) / (1 - job.BETA_1**steps_done)
        for w, m, v, g in zip(weights, first_moments, second_moments, gradients):
            m.assign(job.BETA_1 * m + (1 - job.BETA_1) * g)
            v.assign(job.BETA_2 * v + (1 - job.BETA_2) * g * g)
            w.assign_sub(rate * m / (tf.sqrt(v) + job.EPSILON))

    @tf.function
    def train_epoch(order):
        with tf.device(device):
            total = tf.constant(0.0)
            for rows in order:
                images, labels = tf.gather(train_images, rows), tf.gather(train_labels, rows)
                with tf.GradientTape() as tape:
                    # Softmax and sparse categorical cross-entropy in one numerically stable operation.
                    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, forward(weights, images))
                    loss = tf.reduce_mean(losses)
                    scaled = loss * scale
                adam([gradient / scale for gradient in tape.gradient(scaled, weights)])
                total += loss
            return total / float(order.shape[0])

    @tf.function
    def answer():
        with tf.device(device):
            logits = forward(weights, test_images)
            correct = tf.cast(tf.equal(tf.argmax(logits, axis=1), test_labels), tf.float32)
            return logits, tf.reduce_mean(correct)

    def train_steps(order):
        """Train one step for each row of ``order``; return the mean of the losses."""
        with tf.device(device):
            return float(train_epoch(tf.constant(order.astype("int64"))))

    loss_curve = []
    for epoch, order in enumerate(job.epoch_orders(len(data.train_images), options)):
        loss_curve.append(train_steps(order))
        job.say(epoch, loss_curve[-1])

    logits, accuracy = answer()
    result = {
        "version": tf.__version__,
        "accuracy": float(accuracy),
        "loss_curve": loss_curve,
        "device": short(logits.device),
        "device_name": device_name(tf, device),
        "result_devices": sorted({short(tensor.device) for tensor in [logits, accuracy, *weights]}),
        "allocator_peak_bytes": tf.config.experimental.get_memory_info("GPU:0")["peak"] if on_gpu else None,
        "model_bytes": sum(array.nbytes for array in job.initial_weights(options)),
    }
    if options.proof:
        result["proof"] = proof.of_tensorflow(tf, lambda: train_steps(order[: proof.STEPS]))
    return result


def short(device):
    """Shorten ``/job:localhost/replica:0/task:0/device:GPU:0`` to ``GPU:0``."""
    return device.rsplit("device:", 1)[-1]


if __name__ == "__main__":
    sys.exit(job.run("tensorflow", train))
