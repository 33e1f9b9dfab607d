# SPDX-License-Identifier: Apache-2.0
"""What the data-parallel jobs of all frameworks share: arguments, batches, the reference gradients, the result file.

Every replica holds the whole network and a share of each batch; gradients are averaged over all replicas. The first
step's averaged gradients are compared with those of the whole batch, computed by NumPy in 64 bits and by the framework
on one device. Then a few steps are trained. The hidden layer is tanh instead of ReLU here: a unit that rounding
switches on or off would show as a wrong gradient.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import traceback

import job

NAMES = ("w1", "b1", "w2", "b2")
LEARNING_RATE = 0.1
#: Parts of the training whose mean losses are told.
BLOCKS = 10


def arguments():
    """Return the job's arguments, from the command line."""
    parser = argparse.ArgumentParser(description="Train a small network on several devices at once.")
    parser.add_argument("--data", required=True, help="directory with the four IDX files")
    parser.add_argument("--device", required=True, choices=["cpu", "gpu"], help="nothing else is used")
    parser.add_argument("--devices", type=int, default=2, help="how many, on this host")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-per-device", type=int, default=32)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--timeout", type=int, default=120, help="seconds that replicas wait for each other")
    parser.add_argument("--result", help="JSON file to write")
    return parser.parse_args()


def run(framework, train):
    """Run a data-parallel job from its arguments to its result file.

    :param train: function ``train(options) -> dict`` that returns version, device_name, devices, replicas, backend,
        gradients, single_device, replicas_spread, loss_curve and accuracy
    :returns: the exit status
    """
    options = arguments()
    started = time.monotonic()
    result = {"framework": framework, "python": platform.python_version(), "seed": options.seed}
    result.update(steps=options.steps, batch_per_device=options.batch_per_device)
    try:
        result.update(train(options), seconds=time.monotonic() - started)
    except Exception as error:
        result["error"] = error_of(framework, error)
    if options.result:
        job.write_result(options.result, result)
    if "error" in result:
        print(f"{framework}: {result['error']['message']}", file=sys.stderr)
        return 1
    worst = max(result["gradients"].values())
    print(
        f"{framework} {result['version']} on {', '.join(result['devices'])} ({result['backend']}): gradients differ by "
        f"{worst:.2g}, loss {result['loss_curve'][0]:.4f} to {result['loss_curve'][-1]:.4f}"
    )
    return 0


def error_of(framework, error):
    """Return an exception as a result tells it; the traceback goes to the log."""
    if isinstance(error, job.JobError):
        return {"reason_code": error.reason_code, "message": str(error)}
    traceback.print_exception(type(error), error, error.__traceback__)
    if isinstance(error, ImportError):
        return {"reason_code": "FRAMEWORK_MISSING", "message": f"{framework} cannot be used: {error}"}
    reason = "OUT_OF_MEMORY" if job.is_out_of_memory(error) else "JOB_ERROR"
    return {"reason_code": reason, "message": f"{type(error).__name__}: {job.first_line(error)}"}


def too_few(found, options, framework):
    """Return the error of a framework that finds fewer devices than it shall use."""
    return job.JobError(
        "TOO_FEW_DEVICES",
        f"{framework} finds {found} devices of the kind {options.device}, {options.devices} are needed",
    )


class Batches:
    """The images and labels of all steps, shared out to the replicas in equal parts.

    :ivar images: float32 from 0 to 1, in the order steps, replicas, images, pixels
    :ivar labels: int64, in the order steps, replicas, images
    """

    def __init__(self, options, replicas):
        import numpy as np

        data = job.Data(options.data)
        random = np.random.RandomState(options.seed)
        shape = (options.steps, replicas, options.batch_per_device)
        count = shape[0] * shape[1] * shape[2]
        order = np.concatenate(
            [random.permutation(len(data.train_images)) for _ in range(1 + count // len(data.train_images))]
        )[:count]
        self.order, self.shape, self._data = order.reshape(shape), shape, data
        self.test_images = data.test_images.astype("float32") / 255
        self.test_labels = data.test_labels.astype("int64")

    def part(self, step, replica):
        """Return images and labels of one replica's share of one step."""
        return self._take(self.order[step, replica])

    def whole(self, step):
        """Return images and labels of a whole step."""
        return self._take(self.order[step].reshape(-1))

    def _take(self, rows):
        return self._data.train_images[rows].astype("float32") / 255, self._data.train_labels[rows].astype("int64")


def reference_gradients(weights, images, labels):
    """Return loss and gradients of a batch by NumPy in 64 bits: ``loss, [w1, b1, w2, b2]``."""
    import numpy as np

    w1, b1, w2, b2 = (array.astype("float64") for array in weights)
    inputs = images.astype("float64")
    hidden = np.tanh(inputs @ w1 + b1)
    logits = hidden @ w2 + b2
    logits -= logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    loss = -log_probabilities[rows, labels].mean()
    at_logits = np.exp(log_probabilities)
    at_logits[rows, labels] -= 1
    at_logits /= len(labels)
    at_hidden = (at_logits @ w2.T) * (1 - hidden**2)
    return loss, [inputs.T @ at_hidden, at_hidden.sum(axis=0), hidden.T @ at_logits, at_logits.sum(axis=0)]


def differences(arrays, references):
    """Return by name how far arrays lie from references, in shares of the references' Frobenius norm."""
    return {name: difference(a, b) for name, a, b in zip(NAMES, arrays, references)}


def difference(array, reference):
    """Return the difference of two arrays, as a share of the reference's norm; NaN when the shapes differ."""
    import numpy as np

    array, reference = np.asarray(array, dtype="float64"), np.asarray(reference, dtype="float64")
    if array.shape != reference.shape:
        return float("nan")
    return float(np.linalg.norm(array - reference) / np.linalg.norm(reference))


def worst(rows):
    """Return the largest value for each name; NaN counts as the largest."""
    import numpy as np

    return {name: float(np.max([row[name] for row in rows])) for name in NAMES}


def spread(replicas):
    """Return how far the weights of the replicas lie apart, as a share of the first one's norm.

    :param replicas: for each replica its weights as arrays
    """
    import numpy as np

    flat = [np.concatenate([np.asarray(w, dtype="float64").reshape(-1) for w in weights]) for weights in replicas]
    return float(np.max([np.linalg.norm(other - flat[0]) / np.linalg.norm(flat[0]) for other in flat]))


def blocks(losses):
    """Return the mean losses of BLOCKS equal parts of the training, or of fewer when it was shorter."""
    size = max(1, len(losses) // BLOCKS)
    parts = [losses[at : at + size] for at in range(0, len(losses) - size + 1, size)]
    return [float(sum(part)) / len(part) for part in parts]


def accuracy(weights, batches):
    """Return the share of the test images that a network answers rightly."""
    import numpy as np

    w1, b1, w2, b2 = (np.asarray(array, dtype="float64") for array in weights)
    answers = (np.tanh(batches.test_images @ w1 + b1) @ w2 + b2).argmax(axis=1)
    return float((answers == batches.test_labels).mean())
