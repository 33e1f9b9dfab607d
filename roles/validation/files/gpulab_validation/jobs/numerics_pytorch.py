# SPDX-License-Identifier: Apache-2.0
"""The numerics program in PyTorch: its own products and its own automatic differentiation, on one device."""

from __future__ import annotations

import os
import sys

import numerics
from mnist_pytorch import find_device


class PyTorch:
    """PyTorch on one device, as numerics.run wants it."""

    def __init__(self, options):
        # Without it cuBLAS may answer differently each time.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        import job
        import torch

        self.torch, self.device = torch, find_device(torch, options.device)
        on_gpu = self.device.type == "cuda"
        torch.use_deterministic_algorithms(True)
        # Sums of 16-bit products are kept in 32 bits.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.formats = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        self.version, self.compute_capability, self.uuid = torch.__version__, None, None
        self.device_name = job.cpu_name()
        if on_gpu:
            facts = torch.cuda.get_device_properties(self.device)
            self.device_name, self.compute_capability = facts.name, "%d.%d" % (facts.major, facts.minor)
            self.uuid = str(getattr(facts, "uuid", "")) or None

    def compute(self, given, precision, scale):
        torch, stored_as = self.torch, self.formats[numerics.STORED_AS[precision]]
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        x, w, b = (torch.tensor(given[name]).to(self.device, stored_as).requires_grad_() for name in ("X", "W", "b"))
        target = torch.tensor(given["T"]).to(self.device)
        z = torch.matmul(x, w) + b
        z.retain_grad()
        h = torch.tanh(z)
        loss = ((h.float() - target) ** 2).mean()
        (loss * scale).backward()
        return {"z": z, "h": h, "loss": loss, "g": z.grad, "dW": w.grad, "db": b.grad, "dX": x.grad}

    def fetch(self, tensor):
        stored_as, place = str(tensor.dtype).replace("torch.", ""), str(tensor.device)
        tensor = tensor.detach().contiguous()
        if stored_as == "bfloat16":
            return tensor.view(self.torch.int16).cpu().numpy().view("uint16"), stored_as, place
        return tensor.cpu().numpy(), stored_as, place

    def put_words(self, words):
        return self.torch.tensor(words).to(self.device)

    def fill(self, words, salt):
        return words + salt

    def mismatches(self, chunk, words, salt):
        return int((chunk != words + salt).sum())

    def read_words(self, chunk, start, count):
        return chunk[start : start + count].cpu().numpy()


if __name__ == "__main__":
    sys.exit(numerics.run("pytorch", PyTorch))
