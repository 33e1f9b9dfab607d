# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a framework that computes with NumPy and can be told to compute wrongly; used by benchmarks, too.

It rounds as TF32, bfloat16 and float16 do and adds up in float32. What it shows is what the gates decide about such
numbers, never how a GPU behaves.
"""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

PROGRAMS = Path(__file__).resolve().parents[3] / "roles" / "validation" / "files" / "gpulab_validation"
sys.dont_write_bytecode = True  # the role ships that directory
SMALL = ((48, 256, 40), (45, 253, 37))

Array = Any
Spoil = Callable[[str, Array], Array]


@contextmanager
def directory_of_jobs() -> Iterator[None]:
    """Let imports find the modules of the jobs; the validator has one called numerics as well."""
    names = ("numerics", "job", "compare_numerics")
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(PROGRAMS / "jobs"))
    try:
        yield
    finally:
        sys.path.remove(str(PROGRAMS / "jobs"))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(kept)


def load_jobs() -> SimpleNamespace:
    """Return fresh copies of the jobs' modules numerics and compare_numerics, as ``shared`` and ``compare``."""
    with directory_of_jobs():
        return SimpleNamespace(
            shared=importlib.import_module("numerics"), compare=importlib.import_module("compare_numerics")
        )


def rounded(array: Array, bits: int) -> Array:
    """Round float32 to a mantissa of some bits, to nearest, ties away from zero; NaN and infinities stay."""
    shift = np.uint32(23 - bits)
    raw = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    near = ((raw + np.uint32(1 << (22 - bits))) >> shift) << shift
    return np.where(np.isfinite(array), near.view(np.float32), array).astype(np.float32)


def same(_: str, array: Array) -> Array:
    return array


class StandIn:
    """What numerics.run wants of a framework.

    :param precision_run: computes in this precision whatever was asked for, None for what was asked
    :param spoil: gets the name of each tensor and its values in float32, returns what the device makes of them
    :param words: gets the words of the memory test on their way into memory
    """

    version, device_name = "1.0", "a pretended device"

    def __init__(
        self, shared: ModuleType, spoil: Spoil = same, precision_run: str | None = None, place: str = "cuda:0",
        words: Callable[[Array, int], Array] = lambda array, _: array, counts: bool = True, room: int = 1 << 40,
        capability: str | None = "9.0", uuid: str | None = None,
    ) -> None:  # fmt: skip
        self.shared, self.spoil, self.precision_run, self.place = shared, spoil, precision_run, place
        self.words, self.counts, self.room, self.filled = words, counts, room, 0
        self.compute_capability, self.uuid, self.calls = capability, uuid, 0

    def compute(self, given: dict[str, Array], precision: str, scale: float) -> dict[str, Array]:
        self.calls += 1
        run = self.precision_run or precision

        def store(array: Array) -> Array:
            if run == "bf16":
                return rounded(array, 7)
            with np.errstate(over="ignore"):
                return array.astype(np.float16).astype(np.float32) if run == "fp16" else array.astype(np.float32)

        def product(name: str, left: Array, right: Array) -> Array:
            if run == "tf32":
                left, right = rounded(left, 10), rounded(right, 10)
            return self.spoil(name, store(left) @ store(right))

        x, w, b = (store(given[name]) for name in ("X", "W", "b"))
        z = store(product("z", x, w) + b)
        h = store(self.spoil("h", np.tanh(z)))
        difference = h - given["T"]
        loss = self.spoil("loss", np.mean(difference * difference, dtype=np.float32).reshape(1)).reshape(())
        g = store(np.float32(2 * scale / h.size) * difference)
        g = store(self.spoil("g", g * store(1 - store(h * h))))
        answer = {"z": z, "h": h, "g": g, "dW": store(product("dW", x.T, g))}
        answer["db"] = store(self.spoil("db", g.sum(axis=0, dtype=np.float32).reshape(1, -1)).reshape(-1))
        answer["dX"] = store(product("dX", g, w.T))
        stored_as = self.shared.STORED_AS[run]
        tensors = {name: (array, stored_as) for name, array in answer.items()}
        return {**tensors, "loss": (loss.astype(np.float32), "float32")}

    def fetch(self, tensor: tuple[Array, str]) -> tuple[Array, str, str]:
        array, stored_as = tensor
        if stored_as == "bfloat16":
            raw = (np.ascontiguousarray(array).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            return raw, stored_as, self.place
        return array.astype(stored_as), stored_as, self.place

    def put_words(self, array: Array) -> Array:
        self.filled = 0  # every pass begins with these, and with empty memory
        return array.copy()

    def fill(self, words: Array, salt: int) -> Array:
        self.filled += words.nbytes
        if self.filled > self.room:
            raise MemoryError("out of memory")
        with np.errstate(over="ignore"):
            return self.words(words + np.int64(salt), self.filled)

    def mismatches(self, chunk: Array, words: Array, salt: int) -> int:
        with np.errstate(over="ignore"):
            return int((chunk != words + np.int64(salt)).sum()) if self.counts else 0

    def read_words(self, chunk: Array, start: int, count: int) -> Array:
        return chunk[start : start + count]


# --- ways to compute wrongly --------------------------------------------------------------------------------------


def flip(array: Array, rows: Array, columns: Array, masks: Array) -> Array:
    """Flip bits of elements of a float32 matrix."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    array.view(np.uint32)[rows, columns] ^= np.asarray(masks, dtype=np.uint32)
    return array


def at(*names: str) -> Callable[[Callable[[Array], Array]], Spoil]:
    """Spoil some tensors only."""

    def wrap(spoil: Callable[[Array], Array]) -> Spoil:
        return lambda name, array: spoil(array.copy()) if name in names else array

    return wrap


def put(value: float, rows: Any, columns: Any) -> Callable[[Array], Array]:
    """Put a value into some elements."""

    def spoil(array: Array) -> Array:
        array[rows, columns] = value
        return array

    return spoil


def burst(array: Array, low_bits: int = 23) -> Array:
    """Spoil 32 neighbours in a row, each in several of its low bits."""
    random = np.random.RandomState(5)
    masks = random.randint(1, 1 << low_bits, 32)
    return flip(array, np.full(32, 9), np.arange(32) % array.shape[1], masks)


def without_slice(array: Array) -> Array:
    """Take one term in a hundred out of one element, as a lost slice of the sum does."""
    array[3, 5] *= np.float32(0.99)
    return array


PRODUCTS = ("z", "dW", "dX")
#: Name -> how it is done, and which tensors' sentence says so. All are seen in float32.
INJECTIONS: dict[str, tuple[Spoil, str]] = {
    "a wrong but consistent product": (at(*PRODUCTS)(lambda array: array * np.float32(1.0005)), "z"),
    "noise of 5 % on every product": (
        at(*PRODUCTS)(lambda a: a * (1 + 0.05 * np.random.RandomState(1).standard_normal(a.shape)).astype(np.float32)),
        "z",
    ),
    "a tile of zeros": (at("z")(put(0, slice(16, 32), slice(16, 32))), "z"),
    "half of the outputs zero": (at("z")(put(0, slice(None), slice(0, None, 2))), "z"),
    "one flipped bit": (at("z")(lambda array: flip(array, 4, 4, 1 << 20)), "z"),
    "a burst as wide as a warp": (at("z")(burst), "z"),
    "a transposed operand": (at("z")(lambda a: np.ascontiguousarray(a.T).reshape(a.shape)), "z"),
    "NaN": (at("z")(put(np.nan, 2, 2)), "z"),
    "infinity": (at("h")(put(np.inf, 2, 2)), "h"),
    "all zero": (at(*PRODUCTS)(lambda array: array * 0), "z"),
    "a lost slice of one sum": (at("z")(without_slice), "z"),
    "two columns swapped": (at("z")(lambda a: a[:, [1, 0, *range(2, a.shape[1])]]), "z"),
    "a wrong function": (at("h")(lambda array: array * np.float32(1.0001)), "h"),
    "a wrong loss": (at("loss")(lambda array: array * np.float32(1.001)), "loss"),
    "gradients of the wrong sign": (at("g")(lambda array: -array), "g"),
    "negated columns of the gradient": (at("dW")(lambda a: a * np.where(np.arange(a.shape[1]) < 8, -1, 1)), "dW"),
    "one flipped bit in dW": (at("dW")(lambda array: flip(array, 30, 30, 1 << 22)), "dW"),
    "a bias that learns nothing": (at("db")(lambda array: array * 0), "db"),
    "NaN in the last gradient": (at("dX")(put(np.nan, -1, -1)), "dX"),
    "a tile of zeros in dX": (at("dX")(put(0, slice(0, 16), slice(0, 16))), "dX"),
}


# --- how often it is seen -----------------------------------------------------------------------------------------


class Detection:
    """Single faults in z of float32, many times: what share does each gate see?

    :param jobs: what ``load_jobs`` returned
    :param gates: the pair (as a whole, per element in units of roundoff)
    """

    def __init__(self, jobs: SimpleNamespace, shape: tuple[int, int, int], gates: tuple[float, float]) -> None:
        self.compare, self.gates = jobs.compare, gates
        given, self.exact, self.bound = jobs.compare.reference(shape)
        self.given = {name: array.astype(np.float32) for name, array in given.items()}
        self.z = self.given["X"] @ self.given["W"] + self.given["b"]
        self.random = np.random.RandomState(11)

    def seen(self, spoiled: Array) -> tuple[bool, bool]:
        """Tell whether the gate of the whole, and that of the elements, see a spoiled tensor."""
        z, whole, each = self.exact["z"], *self.gates
        with np.errstate(invalid="ignore"):
            measured = self.compare.errors(spoiled.astype(np.float64), z, z, self.bound, 2.0**-24)
        return not (measured["rel_f"] <= whole), not (measured["elementwise_u"] <= each)

    def rates(self, trials: int, spoil: Callable[[Array], Array]) -> tuple[float, float]:
        """Return the shares of trials that the two gates see."""
        seen = [self.seen(spoil(self.z.copy())) for _ in range(trials)]
        return float(np.mean([pair[0] for pair in seen])), float(np.mean([pair[1] for pair in seen]))

    def healthy(self) -> tuple[bool, bool]:
        return self.seen(self.z)

    def one_bit(self, bit: int, trials: int) -> tuple[float, float]:
        return self.rates(trials, lambda z: flip(z, *self.element(z), 1 << bit))

    def warp(self, low_bits: int, trials: int) -> tuple[float, float]:
        def spoil(z: Array) -> Array:
            row, first = self.random.randint(z.shape[0]), self.random.randint(z.shape[1] - 31)
            masks = [int(self.random.randint(1, 1 << low_bits, dtype=np.int64)) for _ in range(32)]
            return flip(z, np.full(32, row), np.arange(first, first + 32), masks)

        return self.rates(trials, spoil)

    def bit_of_weight(self, bit: int, trials: int) -> tuple[float, float]:
        def spoil(z: Array) -> Array:
            w = self.given["W"]
            row, column = self.element(w)
            z[:, column] = self.given["X"] @ flip(w.copy(), row, column, 1 << bit)[:, column] + self.given["b"][column]
            return z

        return self.rates(trials, spoil)

    def dropped_slice(self, trials: int) -> tuple[float, float]:
        def spoil(z: Array) -> Array:
            row, column = self.element(z)
            first = self.random.randint(self.given["W"].shape[0] - 7)
            terms = slice(first, first + 8)
            z[row, column] -= self.given["X"][row, terms] @ self.given["W"][terms, column]
            return z

        return self.rates(trials, spoil)

    def zero_tile(self, trials: int) -> tuple[float, float]:
        def spoil(z: Array) -> Array:
            row, column = (self.random.randint(size - 15) for size in z.shape)
            z[row : row + 16, column : column + 16] = 0
            return z

        return self.rates(trials, spoil)

    def element(self, array: Array) -> tuple[int, int]:
        return self.random.randint(array.shape[0]), self.random.randint(array.shape[1])


# --- running the stand-in as the validator runs a framework ------------------------------------------------------


def run_standin(shared: ModuleType, standin: StandIn, out: Path, result: Path, **options: Any) -> int:
    """Run numerics.run with the stand-in instead of a framework."""
    given = {
        "device": "gpu", "precisions": list(shared.PRECISIONS), "repeats": 2, "memory_bytes": 1 << 20,
        "out": str(out), "result": str(result), **options,
    }  # fmt: skip
    kept = shared.arguments
    shared.arguments = lambda: Namespace(**given)  # type: ignore[attr-defined]
    try:
        return int(shared.run("pytorch", lambda _: standin))
    finally:
        shared.arguments = kept  # type: ignore[attr-defined]
