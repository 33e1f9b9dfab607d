# SPDX-License-Identifier: Apache-2.0
"""Compare what the numerics programs wrote with NumPy's float64. Loads no framework, and judges nothing.

    python compare_numerics.py [--result FILE] [--remove] DIRECTORY...

Each directory is one device's. Every tensor is measured twice: its distance from the reference as a whole, and each
element against what the stage before it really gave, in units of the rounding that stage may do. The second names the
broken stage, and sees a single wrong element.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys

import job
import numerics
import numpy as np

#: About as many elements are looked at to tell whether all are wrong a little, or few are wrong.
MEDIAN_OF = 50000


class Unusable(Exception):
    """What a program wrote cannot be compared."""


@functools.lru_cache(maxsize=4)
def reference(shape):
    """Return the inputs of a shape, the tensors that they give in float64, and the sums of products |X||W| + |b|."""
    given = {name: array.astype(np.float64) for name, array in numerics.inputs(shape).items()}
    x, w, target = given["X"], given["W"], given["T"]
    z = x @ w + given["b"]
    h = np.tanh(z)
    g = 2 * (h - target) / h.size * (1 - h * h)
    exact = {"z": z, "h": h, "loss": np.mean((h - target) ** 2), "g": g}
    exact.update(dW=x.T @ g, db=g.sum(axis=0), dX=g @ w.T)
    return given, exact, magnitude(x, w) + np.abs(given["b"])


def magnitude(left, right):
    """Return |left| |right|; float32 is exact enough for a bound."""
    return (np.abs(left).astype(np.float32) @ np.abs(right).astype(np.float32)).astype(np.float64)


def stages(got, given, z_bound):
    """Yield for each tensor what its stage should have made of the tensors before it, and the bound of each element.

    An element may be wrong by the bound times a few units of rounding. Bounds grow with what was added up, so that
    cancellation is no error; a value that was rounded on its way into a function carries that rounding along.
    """
    x, w, target, z, h, g = given["X"], given["W"], given["T"], got["z"], got["h"], got["g"]
    yield "z", x @ w + given["b"], z_bound
    tanh = np.tanh(z)
    yield "h", tanh, np.abs(tanh) + np.abs(z) * (1 - tanh * tanh)
    yield "loss", np.mean((h - target) ** 2), np.mean((np.abs(h) + np.abs(target)) ** 2)
    yield "g", 2 * (h - target) / h.size * (1 - h * h), 2 * (np.abs(h) + np.abs(target)) / h.size * (1 + h * h)
    yield "dW", x.T @ g, magnitude(x.T, g)
    yield "db", g.sum(axis=0), np.abs(g).sum(axis=0)
    yield "dX", g @ w.T, magnitude(g, w.T)


def errors(got, wanted, exact, bound, unit):
    """Measure one tensor.

    :param got: what was computed
    :param wanted: what its stage should have given
    :param exact: what the whole calculation should have given
    :param bound: of each element
    :param unit: unit roundoff
    :returns: ``rel_f``, ``elementwise_u`` of the worst element and of the median, how many elements are not finite,
        and the worst element
    """
    with np.errstate(all="ignore"):
        difference = np.abs(got - wanted)
        distance = np.where(difference == 0, 0.0, difference / (bound * unit))  # NaN is not equal to zero
        worst = np.unravel_index(int(np.argmax(distance)), distance.shape)  # NaN counts as the largest
        return {
            "rel_f": float(np.linalg.norm(got - exact) / np.linalg.norm(exact)),
            "elementwise_u": float(distance[worst]),
            "median_u": float(np.median(distance.ravel()[:: max(1, distance.size // MEDIAN_OF)])),
            "not_finite": int(np.size(got) - np.count_nonzero(np.isfinite(got))),
            "worst": {"index": [int(i) for i in worst], "got": float(got[worst]), "wanted": float(wanted[worst])},
        }


def measure(got, shape, precision):
    """Measure all tensors of one run.

    :param got: tensors in float64, gradients without the scale
    :returns: ``{tensor: errors}``
    """
    given, exact, z_bound = reference(tuple(shape))
    answer = {}
    with np.errstate(all="ignore"):
        for name, wanted, bound in stages(got, given, z_bound):
            tensors = [np.asarray(value, dtype=np.float64) for value in (got[name], wanted, exact[name], bound)]
            answer[name] = errors(*tensors, numerics.unit_of(name, precision))
    return answer


def load(directory, shape, precision, name, stored_as):
    """Read a tensor's bits and its values in float64.

    :raises Unusable: when it is not what the manifest says
    """
    path = os.path.join(directory, numerics.file_name(shape, precision, name))
    try:
        raw = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unusable("the tensor %s cannot be read: %s" % (name, error)) from error
    kind = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "float64": "float64"}.get(stored_as)
    if kind is None or raw.dtype != kind:
        raise Unusable("the tensor %s is called %s and stored as %s" % (name, stored_as, raw.dtype))
    values = (raw.astype(np.uint32) << 16).view(np.float32) if stored_as == "bfloat16" else raw
    return raw, values.astype(np.float64)


def compare_run(directory, run):
    """Measure one run of a manifest; return the entry of the result, and its tensors for the controls."""
    shape, precision = tuple(run["shape"]), run["precision"]
    entry = {"shape": list(shape), "precision": precision}
    if run.get("error"):
        return dict(entry, error=run["error"]), None
    if shape not in [row for rows in numerics.SHAPES.values() for row in rows] or precision not in numerics.PRECISIONS:
        raise Unusable("no program of ours computes %s %s" % (shape, precision))
    wanted_shapes, wrong = numerics.shapes_of_tensors(shape), []
    raw, got = {}, {}
    for name in numerics.TENSORS:
        raw[name], got[name] = load(directory, shape, precision, name, run["formats"][name])
        stored_as = "float32" if name == "loss" else numerics.STORED_AS[precision]
        if got[name].shape != wanted_shapes[name] or run["formats"][name] != stored_as:
            words = "%s is %s %s instead of %s %s"
            is_now = (list(got[name].shape), run["formats"][name], list(wanted_shapes[name]), stored_as)
            wrong.append(words % ((name, *is_now)))
    digests = {name: numerics.digest(array) for name, array in raw.items()}
    entry.update(digests=digests, wrong=wrong, repeats=len(run["digests"]), unequal=unequal(digests, run["digests"]))
    if wrong:
        return entry, None
    for name in ("g", "dW", "db", "dX"):
        got[name] = got[name] / numerics.LOSS_SCALES[precision]
    return dict(entry, tensors=measure_once(got, shape, precision, digests)), got


#: Errors by shape, precision and digests: devices that agree to the bit need measuring once.
MEASURED = {}


def measure_once(got, shape, precision, digests):
    """Measure a run unless its very bits were measured before."""
    key = (shape, precision, tuple(sorted(digests.items())))
    if key not in MEASURED:
        MEASURED[key] = measure(got, shape, precision)
    return MEASURED[key]


def unequal(digests, repeats):
    """Return the names of the tensors that were not the same bits in every repeat."""
    return [name for name in numerics.TENSORS if any(repeat.get(name) != digests[name] for repeat in repeats)]


def controls(got, shape):
    """Measure spoiled copies of a tensor that was really computed: whoever judges must refuse every one of them.

    :returns: ``[{"name", "tensors"}]``
    """
    given, exact, z_bound = reference(tuple(shape))
    z, answer = got["z"], []
    wanted = given["X"] @ given["W"] + given["b"]
    for name, spoil in SPOILERS.items():
        spoiled = z.astype(np.float32)
        spoil(spoiled)
        measured = errors(spoiled.astype(np.float64), wanted, exact["z"], z_bound, numerics.UNIT_ROUNDOFF["fp32"])
        answer.append({"name": name, "tensors": {"z": measured}})
    return answer


def flip(array, row, column, bit):
    """Flip one bit of an element of a float32 matrix."""
    array.view(np.uint32)[row, column] ^= np.uint32(1 << bit)


def _spoil_one_element(array):
    flip(array, *np.unravel_index(int(np.argmax(np.abs(array))), array.shape), 18)


def _spoil_with_nan(array):
    array[7, 11] = np.nan


def _spoil_tile(array):
    array[16:32, 16:32] = 0


def _spoil_all(array):
    array[...] = 0


def _spoil_columns(array):
    array[:, [2, 3]] = array[:, [3, 2]]


SPOILERS = {
    "one_bit": _spoil_one_element,
    "nan": _spoil_with_nan,
    "zero_tile": _spoil_tile,
    "all_zero": _spoil_all,
    "swapped_columns": _spoil_columns,
}


def compare_memory(directory, memory):
    """Compare the samples of the memory test with the words that belong there; return the entry of the result."""
    if not isinstance(memory, dict) or memory.get("error"):
        return memory
    size, wrong, seen = memory["chunk_words"], 0, 0
    for name, inverted in (("memory", False), ("memory-inverted", True)):
        try:
            samples = np.load(os.path.join(directory, name + ".npy"), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Unusable("the samples of the memory test cannot be read: %s" % error) from error
        places = sorted({0, size - numerics.SAMPLE_WORDS})
        if samples.dtype != np.int64 or samples.shape[1:] != (len(places), numerics.SAMPLE_WORDS):
            raise Unusable("the samples of the memory test have the shape %s" % (samples.shape,))
        for number, chunk in enumerate(samples):
            for place, words in zip(places, chunk):
                wanted = numerics.pattern(number * size + place, numerics.SAMPLE_WORDS, inverted)
                wrong, seen = wrong + int((words != wanted).sum()), seen + words.size
    return dict(memory, samples_wrong=wrong, samples=seen)


def compare_device(directory):
    """Measure what one device wrote; return the entry of the result."""
    try:
        with open(os.path.join(directory, numerics.MANIFEST), encoding="utf-8") as stream:
            manifest = json.load(stream)
        entry = {key: value for key, value in manifest.items() if key not in ("runs", "memory")}
        entry.update(runs=[], controls=[])
        for run in manifest["runs"]:
            compared, got = compare_run(directory, run)
            entry["runs"].append(compared)
            if got is not None and not entry["controls"]:
                entry["controls"] = controls(got, run["shape"])
        entry["memory"] = compare_memory(directory, manifest.get("memory"))
    except (Unusable, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = str(error) if isinstance(error, Unusable) else "%s: %s" % (type(error).__name__, error)
        return {"error": {"reason_code": "PARSE", "message": "what the program wrote cannot be compared: " + message}}
    return entry


def main():
    """Compare every directory of the command line and print, or write, what was measured."""
    parser = argparse.ArgumentParser(description="Compare tensors of the numerics programs with NumPy's float64.")
    parser.add_argument("directories", nargs="+", metavar="DIRECTORY")
    parser.add_argument("--result", help="JSON file to write; printed otherwise")
    parser.add_argument("--remove", action="store_true", help="remove each directory once it is compared")
    options = parser.parse_args()
    devices = {}
    for directory in options.directories:
        devices[os.path.basename(os.path.normpath(directory))] = compare_device(directory)
        if options.remove:
            shutil.rmtree(directory, ignore_errors=True)
    result = {"numpy": np.__version__, "devices": devices}
    if options.result:
        job.write_result(options.result, result)
    else:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
