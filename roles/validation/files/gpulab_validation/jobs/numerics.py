# SPDX-License-Identifier: Apache-2.0
"""What the numerics programs of all frameworks share: inputs, what is computed, the memory test, the files.

A program computes one layer forward and backward on one device and writes every tensor down::

    z = X W + b    h = tanh(z)    L = mean((h - T)^2)    g = dL/dz    dW    db    dX

It compares nothing: compare_numerics.py does, in a process of its own that loads no framework. By hand::

    python numerics_pytorch.py --device cpu --out DIR
    python compare_numerics.py DIR

Exit status: 0 the program ran to its end, 1 it could not (the result file says why, in a sentence).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
import time
import traceback

import job

SEED = 20
#: Rows of X, columns of X, columns of W. The second fills no tile of a matrix unit to its edge.
SHAPES = {"cpu": ((512, 4096, 256), (509, 4093, 253)), "gpu": ((512, 4096, 512), (509, 4093, 509))}
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
#: Half the distance from 1 to the next number of the format that products are computed in.
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
#: The format of X, W, b, z, h and the gradients. The loss is always computed in float32.
STORED_AS = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
TENSORS = ("z", "h", "loss", "g", "dW", "db", "dX")
#: Those that a matrix product makes.
PRODUCTS = ("z", "dW", "dX")
#: Gradients of a mean are too small for float16: there the loss is multiplied by this.
LOSS_SCALES = {"fp32": 1.0, "tf32": 1.0, "bf16": 1.0, "fp16": job.LOSS_SCALE}
#: File of a device's answers, beside its tensors.
MANIFEST = "manifest.json"

#: An odd number, so that no two addresses share a word: word i holds i times this, in 64 bits.
PATTERN_FACTOR = 0x9E3779B97F4A7C15
CHUNK_WORDS = {"cpu": 1 << 21, "gpu": 1 << 24}
SAMPLE_WORDS = 512


def unit_of(tensor, precision):
    """Return the unit roundoff of a tensor: TF32 is a format for products alone, the rest stays in float32."""
    return UNIT_ROUNDOFF["fp32" if precision == "tf32" and tensor not in PRODUCTS else precision]


def inputs(shape):
    """Return X, W, b and T of a shape as float32 arrays, the same everywhere."""
    import numpy as np

    rows, columns, outputs = shape
    random = np.random.RandomState(SEED + rows)
    arrays = {
        "X": random.standard_normal((rows, columns)),
        "W": random.standard_normal((columns, outputs)) / columns**0.5,
        "b": random.standard_normal(outputs) * 0.1,
        "T": random.standard_normal((rows, outputs)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def shapes_of_tensors(shape):
    """Return the shape that each tensor must have."""
    rows, columns, outputs = shape
    table = dict.fromkeys(("z", "h", "g"), (rows, outputs))
    table.update(loss=(), dW=(columns, outputs), db=(outputs,), dX=(rows, columns))
    return table


def file_name(shape, precision, tensor):
    """Return the name of a tensor's file."""
    return "%s-%dx%dx%d-%s.npy" % ((precision, *shape, tensor))


def digest(array):
    """Return a short digest of an array's bits."""
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()


def arguments():
    """Return the program's arguments, from the command line."""
    parser = argparse.ArgumentParser(description="Compute one layer forward and backward and write the tensors.")
    parser.add_argument("--device", required=True, choices=["cpu", "gpu"], help="where to compute, and nowhere else")
    parser.add_argument("--out", required=True, help="directory for the tensors; made when it is missing")
    parser.add_argument("--precisions", default="fp32,bf16,fp16", help="comma-separated: %s" % ", ".join(PRECISIONS))
    parser.add_argument("--repeats", type=int, default=2, help="how often each is computed")
    parser.add_argument("--memory-bytes", type=int, default=0, help="test this much memory; 0 for none")
    parser.add_argument("--result", help="JSON file to write as well")
    options = parser.parse_args()
    options.precisions = [word for word in options.precisions.split(",") if word]
    for word in options.precisions:
        if word not in PRECISIONS:
            parser.error("%s is no precision" % word)
    return options


def run(framework, connect):
    """Run a program from its arguments to its files.

    :param framework: the framework's key: tensorflow, pytorch or jax
    :param connect: function ``connect(options)`` that returns the framework on its device, an object with

        - ``version``, ``device_name``, ``compute_capability`` and ``uuid`` (None where the framework tells none),
        - ``compute(inputs, precision, scale)``, which returns all tensors, still on the device; gradients are those
          of the loss times ``scale``, ``loss`` is without it,
        - ``fetch(tensor)``, which returns the bits as a NumPy array (bfloat16 as uint16), the name of the format and
          the name of the device on which the tensor lay,
        - ``put_words(array)``, ``fill(words, salt)``, ``mismatches(chunk, words, salt)`` and
          ``read_words(chunk, start, count)`` for the memory test, on 64-bit integers: a chunk is words plus salt.
    :returns: the exit status
    """
    options = arguments()
    result = {"framework": framework, "python": platform.python_version(), "pid": os.getpid(), "runs": []}
    try:
        os.makedirs(options.out, exist_ok=True)
        device = connect(options)
        for name in ("version", "device_name", "compute_capability", "uuid"):
            result[name] = getattr(device, name)
        result["runs"], result["result_devices"] = compute_all(device, options)
        if options.memory_bytes:
            result["memory"] = guarded(lambda: test_memory(device, options), {})
    except Exception as error:  # whatever a framework raises becomes a sentence; the traceback is for the log
        result["error"] = sentence(framework, error)
    for path in (os.path.join(options.out, MANIFEST), options.result):
        if path and os.path.isdir(os.path.dirname(path) or "."):
            job.write_result(path, result)
    if "error" in result:
        print("%s: %s" % (framework, result["error"]["message"]), file=sys.stderr)
    return 1 if "error" in result else 0


def sentence(framework, error):
    """Return an exception as reason code and sentence."""
    if isinstance(error, job.JobError):
        return {"reason_code": error.reason_code, "message": str(error)}
    traceback.print_exc()
    if isinstance(error, ImportError):
        return {"reason_code": "FRAMEWORK_MISSING", "message": "%s cannot be used: %s" % (framework, error)}
    reason = "OUT_OF_MEMORY" if job.is_out_of_memory(error) else "JOB_ERROR"
    return {"reason_code": reason, "message": "%s: %s" % (type(error).__name__, job.first_line(error))}


def guarded(call, about):
    """Return what ``call`` returns, or an entry with the error: a precision that fails keeps no other from running."""
    try:
        return call()
    except Exception as error:
        return dict(about, error=sentence("", error))


def compute_all(device, options):
    """Compute every shape in every precision; return the entries of the manifest and the devices that were used."""
    runs, used = [], set()
    for shape in SHAPES[options.device]:
        given = inputs(shape)
        for precision in options.precisions:
            about = {"shape": list(shape), "precision": precision}

            def compute(about=about, given=given, precision=precision, shape=shape):
                return compute_one(device, given, shape, precision, options, used, about)

            runs.append(guarded(compute, about))
    return runs, sorted(used)


def compute_one(device, given, shape, precision, options, used, about):
    """Compute one shape in one precision as often as asked; write the first tensors, keep digests of all."""
    import numpy as np

    started = time.monotonic()
    entry = dict(about, formats={}, shapes={}, digests=[])
    for repeat in range(max(1, options.repeats)):
        tensors = device.compute(given, precision, LOSS_SCALES[precision])
        digests = {}
        for name in TENSORS:
            array, stored_as, place = device.fetch(tensors[name])
            array = np.asarray(array, order="C")
            used.add(place)
            digests[name] = digest(array)
            if repeat == 0:
                np.save(os.path.join(options.out, file_name(shape, precision, name)), array, allow_pickle=False)
                entry["formats"][name], entry["shapes"][name] = stored_as, list(array.shape)
        entry["digests"].append(digests)
    entry["seconds"] = round(time.monotonic() - started, 3)
    print("%s %dx%dx%d: %.2f s" % ((precision, *shape, entry["seconds"])), flush=True)
    return entry


def pattern(first, count, inverted=False):
    """Return the words that belong at positions ``first`` to ``first + count``, as signed 64-bit integers."""
    import numpy as np

    words = (np.arange(first, first + count, dtype=np.uint64) * np.uint64(PATTERN_FACTOR)).view(np.int64)
    return ~words if inverted else words


def salt(first, inverted=False):
    """Return what must be added to the words from 0 to get those from ``first``, as a signed 64-bit integer."""
    value = first * PATTERN_FACTOR * (-1 if inverted else 1) % (1 << 64)
    return value - (1 << 64) if value >= 1 << 63 else value


def test_memory(device, options):
    """Fill memory with its own addresses, read all of it back and compare; once more with every bit inverted.

    The device counts the words that differ. Samples of every chunk are written down, for compare_numerics.py.

    :returns: the manifest's entry ``memory``
    """
    import numpy as np

    started = time.monotonic()
    size = min(CHUNK_WORDS[options.device], max(SAMPLE_WORDS, options.memory_bytes // 8))
    wanted = max(1, options.memory_bytes // 8 // size)
    entry = {"wanted_bytes": wanted * size * 8, "bytes": None, "chunk_words": size, "passes": []}
    samples = []
    for inverted in (False, True):
        words = device.put_words(pattern(0, size, inverted))
        chunks = fill_chunks(device, words, size, wanted, inverted)
        tested = len(chunks) * size * 8
        entry["bytes"] = tested if entry["bytes"] is None else min(tested, entry["bytes"])
        wrong = [device.mismatches(chunk, words, salt(n * size, inverted)) for n, chunk in enumerate(chunks)]
        bad = [number for number, count in enumerate(wrong) if count != 0]
        places = sorted({0, size - SAMPLE_WORDS})
        samples.append([[device.read_words(chunk, place, SAMPLE_WORDS) for place in places] for chunk in chunks])
        counts = {"words_wrong": sum(wrong), "chunks": len(chunks), "bad_chunks": bad[:20]}
        entry["passes"].append(dict(counts, inverted=inverted))
        del chunks
        if not inverted:
            # One bit of one word is changed on purpose: the device must count exactly one word.
            changed = pattern(0, size)
            changed[size // 2] ^= 1 << 13
            spoiled = device.fill(device.put_words(changed), 0)
            entry["control_words_wrong"] = device.mismatches(spoiled, words, 0)
            del spoiled
        del words
    for name, read in zip(("memory", "memory-inverted"), samples):
        np.save(os.path.join(options.out, name + ".npy"), np.array(read, dtype=np.int64), allow_pickle=False)
    entry["seconds"] = round(time.monotonic() - started, 3)
    print("memory: %d MiB, %.2f s" % (entry["bytes"] >> 20, entry["seconds"]), flush=True)
    return entry


def fill_chunks(device, words, size, wanted, inverted):
    """Fill chunks until enough are there or memory ends; return them."""
    chunks = []
    while len(chunks) < wanted:
        try:
            chunks.append(device.fill(words, salt(len(chunks) * size, inverted)))
        except Exception as error:
            if not job.is_out_of_memory(error) or len(chunks) < 2:
                raise
            error.__traceback__ = None
            # Room for what the comparison needs.
            del chunks[-max(1, len(chunks) // 20) :]
            break
    return chunks
