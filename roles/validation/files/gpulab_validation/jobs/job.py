# SPDX-License-Identifier: Apache-2.0
"""What the MNIST jobs of all frameworks share: arguments, data, halving of the batch size, the result file.

A job is a plain program: it gets a data set and a device, trains the same small network as the others (784 inputs,
32 ReLU units, softmax over 10 digits, Adam, sparse categorical cross-entropy), measures the accuracy on the test
images and writes one JSON file. It never decides whether that is good enough: the validator does.

Every job can be run by hand::

    python mnist_pytorch.py --data DIR --device cpu

Exit status: 0 the job ran to its end, 1 it could not (the result file says why, in a sentence).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import sys
import time
import traceback

import proof

IMAGE_PIXELS = 28 * 28
HIDDEN_UNITS = 32
CLASSES = 10
#: Adam as its authors published it; every framework uses the same numbers.
LEARNING_RATE, BETA_1, BETA_2, EPSILON = 0.001, 0.9, 0.999, 1e-7
#: Half-precision gradients underflow without it: the loss is multiplied by this, the gradients are divided by it.
LOSS_SCALE = 1024.0


class JobError(Exception):
    """The job cannot run; the message is for a person, ``reason_code`` for programs."""

    def __init__(self, reason_code, message):
        super().__init__(message)
        self.reason_code = reason_code


class Data:
    """The data set as NumPy arrays: images as bytes of 784 pixels each, labels as integers from 0 to 9."""

    def __init__(self, directory):
        self.train_images = read_idx(directory, "train-images-idx3-ubyte", 3).reshape(-1, IMAGE_PIXELS)
        self.train_labels = read_idx(directory, "train-labels-idx1-ubyte", 1)
        self.test_images = read_idx(directory, "t10k-images-idx3-ubyte", 3).reshape(-1, IMAGE_PIXELS)
        self.test_labels = read_idx(directory, "t10k-labels-idx1-ubyte", 1)


def read_idx(directory, name, dimensions):
    """Read one file of the IDX format, compressed or not.

    :returns: an array of unsigned bytes with as many dimensions as asked for
    :raises JobError: when the file is missing or is not such a file
    """
    import numpy as np

    path = os.path.join(directory, name)
    try:
        if os.path.exists(path):
            with open(path, "rb") as stream:
                content = stream.read()
        else:
            with gzip.open(path + ".gz") as stream:
                content = stream.read()
    except (OSError, EOFError) as error:
        raise JobError("DATA", f"cannot read {path}[.gz]: {error}") from error
    header = np.frombuffer(content[: 4 + 4 * dimensions], dtype=">u4")
    if len(header) != 1 + dimensions or header[0] != 0x800 + dimensions:
        raise JobError("DATA", f"{path} is not an IDX file of {dimensions} dimensions")
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(header[1:])


def arguments():
    """Return the job's arguments, from the command line."""
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--data", required=True, help="directory with the four IDX files")
    parser.add_argument(
        "--device", required=True, choices=["cpu", "gpu"], help="where to compute; nothing else is used"
    )
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--mixed-precision", action="store_true", help="compute in 16 bits, keep weights in 32")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--result", help="JSON file to write")
    parser.add_argument(
        "--proof", action="store_true", help="look for proofs of GPU use on the processor, too (there are none)"
    )
    options = parser.parse_args()
    options.proof = options.proof or options.device == "gpu"
    return options


def run(framework, train):
    """Run a job from its arguments to its result file.

    :param framework: the framework's key: tensorflow, keras, pytorch or jax
    :param train: function ``train(options, data) -> dict`` that trains once with ``options.batch_size`` and returns
        accuracy, loss_curve, version, device, device_name, result_devices, allocator_peak_bytes, model_bytes and,
        with ``options.proof``, proof
    :returns: the exit status
    """
    options = arguments()
    result = {
        "framework": framework,
        "python": platform.python_version(),
        "pid": os.getpid(),
        "proof": {},
        "batch_size_asked": options.batch_size,
        "epochs": options.epochs,
        "mixed_precision": options.mixed_precision,
        "seed": options.seed,
    }
    started = time.monotonic()
    try:
        answer, notes = halve_when_out_of_memory(train, options, Data(options.data))
        result.update(answer, batch_size=options.batch_size, notes=notes, train_seconds=time.monotonic() - started)
        result["proof"] = dict(proof.of_process(), **(answer.get("proof") or {}))
        print(
            f"{framework} {result['version']} on {result['device']} ({result['device_name']}): "
            f"test accuracy {result['accuracy']:.4f} after {options.epochs} epochs of batch size {options.batch_size}"
        )
    except JobError as error:
        result["error"] = {"reason_code": error.reason_code, "message": str(error)}
    except ImportError as error:
        traceback.print_exc()
        result["error"] = {"reason_code": "FRAMEWORK_MISSING", "message": f"{framework} cannot be used: {error}"}
    except Exception as error:  # whatever a framework raises becomes a sentence; the traceback is for the log
        traceback.print_exc()
        reason = "OUT_OF_MEMORY" if is_out_of_memory(error) else "JOB_ERROR"
        result["error"] = {"reason_code": reason, "message": f"{type(error).__name__}: {first_line(error)}"}
    if options.result:
        write_result(options.result, result)
    if "error" in result:
        print(f"{framework}: {result['error']['message']}", file=sys.stderr)
    return 1 if "error" in result else 0


def halve_when_out_of_memory(train, options, data):
    """Train; when the device runs out of memory, do it again with half the batch size, down to 1.

    :returns: what ``train`` returned, and sentences that say what was halved
    """
    notes = []
    while True:
        try:
            return train(options, data), notes
        except Exception as error:
            if not is_out_of_memory(error) or options.batch_size == 1:
                raise
            # The traceback holds the tensors that filled the memory: let go of it before the next attempt.
            error.__traceback__ = None
            error.__context__ = None
        smaller = options.batch_size // 2
        notes.append(f"out of memory with batch size {options.batch_size}, tried again with {smaller}")
        print(notes[-1], flush=True)
        options.batch_size = smaller


def is_out_of_memory(error):
    """Tell whether an exception of any framework means that memory ran out (no common class exists)."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "ResourceExhaustedError"):
        return True
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower() or "CUBLAS_STATUS_ALLOC_FAILED" in text


def epoch_orders(count, options):
    """Yield for each epoch an order of the training images, as a table with one row of indices per step.

    The order comes from NumPy, so that all frameworks see the same images in the same order. What does not fill a
    batch is left out of that epoch.
    """
    import numpy as np

    random = np.random.RandomState(options.seed)
    steps = count // options.batch_size
    for _ in range(options.epochs):
        yield random.permutation(count)[: steps * options.batch_size].reshape(steps, options.batch_size)


def initial_weights(options):
    """Return the network's first weights as float32 arrays: ``(w1, b1, w2, b2)``, uniform as Glorot proposed."""
    import numpy as np

    random = np.random.RandomState(options.seed)
    weights = []
    for inputs, outputs in ((IMAGE_PIXELS, HIDDEN_UNITS), (HIDDEN_UNITS, CLASSES)):
        limit = (6.0 / (inputs + outputs)) ** 0.5
        weights.append(random.uniform(-limit, limit, (inputs, outputs)).astype(np.float32))
        weights.append(np.zeros(outputs, dtype=np.float32))
    return weights


def say(epoch, loss):
    """Print the progress of one epoch (counted from 0)."""
    print(f"epoch {epoch + 1}: loss {loss:.4f}", flush=True)


def cpu_name():
    """Return the processor's name as the kernel gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.lower().startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def first_line(error, limit=300):
    """Return the first line of an exception's text that says something, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or ["no message"])[0][:limit]


def write_result(path, result):
    """Write the result so that it is there completely or not at all."""
    temporary = path + ".part"
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(result, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
