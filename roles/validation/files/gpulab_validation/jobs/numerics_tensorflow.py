# SPDX-License-Identifier: Apache-2.0
"""The numerics program in TensorFlow: its own products and its own automatic differentiation, on one device."""

from __future__ import annotations

import sys

import numerics
from mnist_tensorflow import device_name, find_device, short


class TensorFlow:
    """TensorFlow on one device, as numerics.run wants it."""

    def __init__(self, options):
        import tensorflow as tf

        self.tf, self.device = tf, find_device(tf, options.device)
        tf.config.experimental.enable_op_determinism()
        self.version, self.device_name = tf.__version__, device_name(tf, self.device)
        self.compute_capability, self.uuid = None, None
        if options.device == "gpu":
            details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
            self.compute_capability = ".".join(map(str, details["compute_capability"]))

    def compute(self, given, precision, scale):
        tf = self.tf
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
        with tf.device(self.device):
            stored_as = numerics.STORED_AS[precision]
            x, w, b = (tf.cast(tf.constant(given[name]), stored_as) for name in ("X", "W", "b"))
            target = tf.constant(given["T"])
            with tf.GradientTape() as tape:
                tape.watch([x, w, b])
                z = tf.matmul(x, w) + b
                h = tf.tanh(z)
                loss = tf.reduce_mean(tf.square(tf.cast(h, tf.float32) - target))
                scaled = loss * scale
            gradients = tape.gradient(scaled, [z, w, b, x])
        return dict(zip(("g", "dW", "db", "dX"), gradients), z=z, h=h, loss=loss)

    def fetch(self, tensor):
        array = tensor.numpy()
        stored_as = tensor.dtype.name
        return array.view("uint16") if stored_as == "bfloat16" else array, stored_as, short(tensor.device)

    def put_words(self, words):
        with self.tf.device(self.device):
            # A constant may share NumPy's memory: the sum is the device's own.
            return self.tf.constant(words) + self.tf.constant(0, self.tf.int64)

    def fill(self, words, salt):
        with self.tf.device(self.device):
            return words + self.tf.constant(salt, self.tf.int64)

    def mismatches(self, chunk, words, salt):
        tf = self.tf
        with tf.device(self.device):
            # Not every sum of integers exists on a GPU; a float's is above zero whenever one word differs.
            differ = tf.not_equal(chunk, words + tf.constant(salt, tf.int64))
            return int(tf.reduce_sum(tf.cast(differ, tf.float32)))

    def read_words(self, chunk, start, count):
        with self.tf.device(self.device):
            return chunk[start : start + count].numpy()


if __name__ == "__main__":
    sys.exit(numerics.run("tensorflow", TensorFlow))
