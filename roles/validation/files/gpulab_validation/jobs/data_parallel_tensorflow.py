# SPDX-License-Identifier: Apache-2.0
"""The data-parallel job in TensorFlow: MirroredStrategy over all devices; gradients are summed by its own means."""

from __future__ import annotations

import sys

import data_parallel
import job
import mnist_tensorflow


def find_devices(tf, options):
    """Return the names of the devices to use; on a processor they are logical ones, made here."""
    if options.device == "cpu":
        processor = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration() for _ in range(options.devices)]
        tf.config.set_logical_device_configuration(processor, logical)
    mnist_tensorflow.find_device(tf, options.device)
    kind = options.device.upper()
    found = len(tf.config.list_logical_devices(kind))
    if found < options.devices:
        raise data_parallel.too_few(found, options, "TensorFlow")
    return [f"/{kind}:{index}" for index in range(options.devices)]


def device_of(tensor):
    """Return where a tensor really lies; ``device`` alone would tell where it was asked for."""
    return mnist_tensorflow.short(getattr(tensor, "backing_device", None) or tensor.device)


def train(options):
    import tensorflow as tf

    names = find_devices(tf, options)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # 32 bits all through
    strategy = tf.distribute.MirroredStrategy(names)
    batches = data_parallel.Batches(options, len(names))
    first = job.initial_weights(options)
    with strategy.scope():
        weights = [tf.Variable(array) for array in first]

    def loss_and_gradients(weights, images, labels):
        w1, b1, w2, b2 = weights
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits = tf.matmul(tf.tanh(tf.matmul(images, w1) + b1), w2) + b2
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return loss, tape.gradient(loss, weights)

    def on_replica(images, labels):
        loss, gradients = loss_and_gradients([tf.convert_to_tensor(w) for w in weights], images, labels)
        # Each replica gives its share of the mean; the sum over all of them is what a single device would compute.
        return loss / len(names), [gradient / len(names) for gradient in gradients]

    def gradients_of(images, labels):
        loss, gradients = strategy.run(on_replica, args=(images, labels))
        summed = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, list(zip(gradients, weights)))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, loss, axis=None), summed

    @tf.function
    def first_gradients(images, labels):
        # Handed through the replicas once more, because a function returns only values that belong to them.
        return strategy.run(lambda *gradients: gradients, args=tuple(gradients_of(images, labels)[1]))

    @tf.function
    def train_step(images, labels):
        loss, gradients = gradients_of(images, labels)
        for weight, gradient in zip(weights, gradients):
            strategy.extended.update(weight, descend, args=(gradient,))
        return loss

    def descend(weight, gradient):
        weight.assign_sub(data_parallel.LEARNING_RATE * gradient)

    def put(step):
        parts = [batches.part(step, replica) for replica in range(len(names))]
        return tuple(
            strategy.experimental_distribute_values_from_function(
                lambda context, kind=kind: tf.constant(parts[context.replica_id_in_sync_group][kind])
            )
            for kind in (0, 1)
        )

    per_replica = [strategy.experimental_local_results(gradient) for gradient in first_gradients(*put(0))]
    replicas = [[values[index].numpy() for values in per_replica] for index in range(len(names))]
    used = sorted({device_of(value) for values in per_replica for value in values})
    _, reference = data_parallel.reference_gradients(first, *batches.whole(0))
    with tf.device(names[0]):
        images, labels = (tf.constant(array) for array in batches.whole(0))
        _, alone = loss_and_gradients([tf.constant(array) for array in first], images, labels)
    single = [gradient.numpy() for gradient in alone]

    losses = [float(train_step(*put(step))) for step in range(options.steps)]
    values = [strategy.experimental_local_results(weight) for weight in weights]
    finals = [[copies[index].numpy() for copies in values] for index in range(len(names))]
    return {
        "version": tf.__version__,
        "device_name": mnist_tensorflow.device_name(tf, names[0]),
        "devices": used,
        "replicas": strategy.num_replicas_in_sync,
        "backend": "mirrored",
        "gradients": data_parallel.worst([data_parallel.differences(arrays, reference) for arrays in replicas]),
        "single_device": data_parallel.worst([data_parallel.differences(arrays, single) for arrays in replicas]),
        "replicas_spread": data_parallel.spread(finals),
        "loss_curve": data_parallel.blocks(losses),
        "accuracy": data_parallel.accuracy(finals[0], batches),
    }


if __name__ == "__main__":
    sys.exit(data_parallel.run("tensorflow", train))
