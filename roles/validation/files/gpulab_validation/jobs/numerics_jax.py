# SPDX-License-Identifier: Apache-2.0
"""The numerics program in JAX: its own products and its own automatic differentiation, compiled, on one device."""

from __future__ import annotations

import os
import sys

import numerics
from mnist_jax import find_device

#: The same kernels in every process: none chosen by which was fastest, none that adds up in the order of arrival.
XLA_FLAGS = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
PRODUCTS = {"fp32": "highest", "tf32": "tensorfloat32", "bf16": "default", "fp16": "default"}


class Jax:
    """JAX on one device, as numerics.run wants it."""

    def __init__(self, options):
        os.environ["JAX_PLATFORMS"] = "cuda" if options.device == "gpu" else "cpu"
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), XLA_FLAGS]).strip()
        # Otherwise three quarters of the memory are all that it may take.
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")
        import jax
        import jax.numpy as jnp
        import job

        self.jax, self.device = jax, find_device(jax, options.device)
        jax.config.update("jax_enable_x64", True)  # for the memory test; everything else names its format
        on_gpu = self.device.platform != "cpu"
        self.version, self.uuid = jax.__version__, None
        self.device_name = self.device.device_kind if on_gpu else job.cpu_name()
        self.compute_capability = getattr(self.device, "compute_capability", None) if on_gpu else None

        def loss_of(x, w, b, shift, target, scale):
            z = jnp.matmul(x, w) + b + shift  # the shift is zero; its gradient is that of z
            h = jnp.tanh(z)
            loss = jnp.mean((h.astype(jnp.float32) - target) ** 2)
            return loss * scale, (z, h, loss)

        self.gradients = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1, 2, 3), has_aux=True))
        self.add = jax.jit(lambda words, salt: words + salt)
        self.count = jax.jit(lambda chunk, words, salt: jnp.sum(chunk != words + salt))

    def compute(self, given, precision, scale):
        put, stored_as = self.jax.device_put, self.jax.numpy.dtype(numerics.STORED_AS[precision])
        x, w, b = (put(given[name], self.device).astype(stored_as) for name in ("X", "W", "b"))
        target = put(given["T"], self.device)
        shift = self.jax.numpy.zeros_like(target, dtype=stored_as)
        with self.jax.default_matmul_precision(PRODUCTS[precision]):
            answer = self.gradients(x, w, b, shift, target, self.jax.numpy.float32(scale))
        (_, (z, h, loss)), (d_x, d_w, d_b, g) = answer
        return {"z": z, "h": h, "loss": loss, "g": g, "dW": d_w, "db": d_b, "dX": d_x}

    def fetch(self, tensor):
        import numpy as np

        array, stored_as = np.asarray(tensor), tensor.dtype.name
        place = ",".join(sorted("%s:%d" % (device.platform, device.id) for device in tensor.devices()))
        return array.view(np.uint16) if stored_as == "bfloat16" else array, stored_as, place

    def put_words(self, words):
        return self.jax.device_put(words, self.device)

    def fill(self, words, salt):
        return self.add(words, self.jax.numpy.int64(salt)).block_until_ready()

    def mismatches(self, chunk, words, salt):
        return int(self.count(chunk, words, self.jax.numpy.int64(salt)))

    def read_words(self, chunk, start, count):
        import numpy as np

        return np.asarray(chunk[start : start + count])


if __name__ == "__main__":
    sys.exit(numerics.run("jax", Jax))
