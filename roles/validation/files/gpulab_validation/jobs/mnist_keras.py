# SPDX-License-Identifier: Apache-2.0
"""The MNIST job in Keras: compile, fit, evaluate, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import contextlib
import os
import sys

import job
import mnist_jax
import mnist_pytorch
import mnist_tensorflow
import proof


class TensorFlow:
    """Keras on TensorFlow.

    ``fit`` feeds itself from tf.data, whose operations exist on the processor alone, so it cannot stand under an
    explicit GPU device with soft placement off. The network and its answers do, and where they really are is read from
    the tensors afterwards.
    """

    def __init__(self, options):
        import tensorflow as tf

        self.tf = tf
        self.device = mnist_tensorflow.find_device(tf, options.device)

    def scope(self):
        return self.tf.device(self.device)

    def name(self):
        return mnist_tensorflow.device_name(self.tf, self.device)

    def device_of(self, tensor):
        return mnist_tensorflow.short(tensor.device)

    def peak_bytes(self):
        return self.tf.config.experimental.get_memory_info("GPU:0")["peak"]

    def proof(self, steps):
        return proof.of_tensorflow(self.tf, steps)


class Torch:
    """Keras on PyTorch."""

    def __init__(self, options):
        import torch

        self.torch = torch
        self.device = mnist_pytorch.find_device(torch, options.device)

    def scope(self):
        import keras

        return keras.device(str(self.device))

    def name(self):
        return self.torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else job.cpu_name()

    def device_of(self, tensor):
        return str(tensor.device)

    def peak_bytes(self):
        return self.torch.cuda.max_memory_allocated(self.device)

    def proof(self, steps):
        return proof.of_torch(self.torch, steps)


class Jax:
    """Keras on JAX."""

    def __init__(self, options):
        os.environ["JAX_PLATFORMS"] = "cuda" if options.device == "gpu" else "cpu"
        import jax

        self.jax = jax
        self.device = mnist_jax.find_device(jax, options.device)

    def scope(self):
        return self.jax.default_device(self.device)

    def name(self):
        return self.device.device_kind if self.device.platform != "cpu" else job.cpu_name()

    def device_of(self, tensor):
        return ", ".join(sorted(f"{d.platform}:{d.id}" for d in tensor.devices()))

    def peak_bytes(self):
        return (self.device.memory_stats() or {}).get("peak_bytes_in_use")

    def proof(self, steps):
        return proof.of_jax(self.jax, steps)


BACKENDS = {"tensorflow": TensorFlow, "torch": Torch, "jax": Jax}


def train(options, data):
    backend_name = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend_name not in BACKENDS:
        raise job.JobError("KERAS_BACKEND", f"KERAS_BACKEND is {backend_name!r}; this job knows {', '.join(BACKENDS)}")
    backend = BACKENDS[backend_name](options)  # before Keras is imported, so that the device is settled first
    import keras

    if not hasattr(keras, "ops"):
        raise job.JobError("KERAS_VERSION", f"Keras {keras.__version__} is older than 3; this job needs Keras 3")
    if keras.backend.backend() != backend_name:
        raise job.JobError(
            "KERAS_BACKEND", f"Keras runs on {keras.backend.backend()} although {backend_name} was asked for"
        )
    keras.utils.set_random_seed(options.seed)
    if options.mixed_precision:
        # float16 on a GPU (all of them have it; Keras scales the loss by itself), bfloat16 on a processor.
        keras.mixed_precision.set_global_policy("mixed_float16" if options.device == "gpu" else "mixed_bfloat16")

    with backend.scope():
        network = keras.Sequential(
            [
                keras.Input((job.IMAGE_PIXELS,)),
                keras.layers.Dense(job.HIDDEN_UNITS, activation="relu"),
                keras.layers.Dense(job.CLASSES, activation="softmax", dtype="float32"),
            ]
        )
    network.compile(
        optimizer=keras.optimizers.Adam(job.LEARNING_RATE, job.BETA_1, job.BETA_2, job.EPSILON),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        # Many small steps at once: the same steps, less waiting between them. The PyTorch backend cannot do it.
        steps_per_execution=1 if backend_name == "torch" else 25,
    )
    train_images, test_images = (images.astype("float32") / 255 for images in (data.train_images, data.test_images))
    train_labels, test_labels = data.train_labels.astype("int32"), data.test_labels.astype("int32")

    def fit(images, labels, epochs, verbose=2):
        # Keras on TensorFlow must not place tf.data on a GPU, see the class; the others compute where they are told.
        with backend.scope() if backend_name != "tensorflow" else contextlib.nullcontext():
            return network.fit(images, labels, options.batch_size, epochs, verbose=verbose, shuffle=True)

    history = fit(train_images, train_labels, options.epochs)
    with backend.scope() if backend_name != "tensorflow" else contextlib.nullcontext():
        _, accuracy = network.evaluate(test_images, test_labels, batch_size=1000, verbose=2)

    with backend.scope():
        answers = network(keras.ops.convert_to_tensor(test_images[:1000]))
    weights = [variable.value for variable in network.trainable_variables]
    answer = {
        "version": keras.__version__,
        "keras_backend": backend_name,
        "accuracy": float(accuracy),
        "loss_curve": [float(loss) for loss in history.history["loss"]],
        "device": backend.device_of(answers),
        "device_name": backend.name(),
        "result_devices": sorted({backend.device_of(tensor) for tensor in [answers, *weights]}),
        "allocator_peak_bytes": backend.peak_bytes() if options.device == "gpu" else None,
        "model_bytes": sum(4 * int(w.shape[0]) * int(w.shape[1] if len(w.shape) > 1 else 1) for w in weights),
    }
    if options.proof:
        count = proof.STEPS * options.batch_size
        answer["proof"] = backend.proof(lambda: fit(train_images[:count], train_labels[:count], 1, verbose=0))
    return answer


if __name__ == "__main__":
    sys.exit(job.run("keras", train))
