# SPDX-License-Identifier: Apache-2.0
"""What a job collects beside its result, so that the validator can tell that a GPU did the work.

A few training steps are repeated after the training, once under the framework's profiler and, in PyTorch, once between
two CUDA events. The measured accuracy is that of before. Whatever goes wrong here becomes a reason in the proof: it
never fails the job.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
import time
import warnings

#: Training steps that are repeated for a proof.
STEPS = 8
#: Kernels that a proof names.
NAMED = 5
#: Files of profilers beyond this size are not read: a few steps of a small network need a few MB at most.
TRACE_BYTES = 256 * 1024 * 1024


def of_process():
    """Return what tells this process from any other: its number and its start, in clock ticks since boot."""
    return {"pid": os.getpid(), "pid_start": start_time()}


def start_time(path="/proc/self/stat"):
    """Return when a process started, in clock ticks since boot; None where /proc does not say."""
    try:
        with open(path, "rb") as stream:
            # The second field is the name in parentheses, and it may hold anything.
            return int(stream.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def of_torch(torch, steps):
    """Collect the proofs of PyTorch on its first GPU.

    :param steps: function without arguments that does STEPS training steps there and reads a result, so that it waits
        for the GPU
    :returns: the proof's parts ``steps``, ``kernels`` and ``device_time``
    """

    def record(directory):
        path = os.path.join(directory, "trace.json")
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as profiler:
            steps()
        profiler.export_chrome_trace(path)
        return kernels_of_chrome_trace(path)

    def measure():
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started = time.monotonic()
        before.record()
        steps()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after), 1000 * (time.monotonic() - started)

    return {
        "steps": STEPS,
        "kernels": kernels("torch.profiler", record),
        "device_time": device_time("CUDA events", measure),
    }


def of_tensorflow(tf, steps):
    """Collect the proofs of TensorFlow; see of_torch."""

    def record(directory):
        tf.profiler.experimental.start(directory)
        try:
            steps()
        finally:
            tf.profiler.experimental.stop()
        return kernels_of_xspaces(directory)

    return {
        "steps": STEPS,
        "kernels": kernels("TensorFlow's profiler", record),
        "device_time": not_available("TensorFlow measures no time on the GPU by itself"),
    }


def of_jax(jax, steps):
    """Collect the proofs of JAX; see of_torch."""

    def record(directory):
        jax.profiler.start_trace(directory)
        try:
            steps()
        finally:
            jax.profiler.stop_trace()
        return kernels_of_xspaces(directory)

    return {
        "steps": STEPS,
        "kernels": kernels("JAX's profiler", record),
        "device_time": not_available("JAX measures no time on the GPU by itself"),
    }


def kernels(source, record):
    """Return the proof's part ``kernels``.

    :param record: function ``record(directory) -> names`` that profiles some steps and returns the name of every
        kernel that ran on a GPU; the directory is empty and is removed afterwards
    """
    answer = {"available": False, "why": "", "count": 0, "names": [], "source": source}
    directory = None
    try:
        directory = tempfile.mkdtemp(prefix="profile-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the profiler's own notes on what it cannot record
            names = record(directory)
    except Exception as error:
        return dict(answer, why=sentence(error))
    finally:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)
    return dict(answer, available=True, count=len(names), names=sorted({name[:100] for name in names})[:NAMED])


def device_time(source, measure):
    """Return the proof's part ``device_time``.

    :param measure: function ``measure() -> (milliseconds on the GPU, milliseconds on the wall clock)``
    """
    answer = {"available": False, "why": "", "milliseconds": None, "wall_milliseconds": None, "source": source}
    try:
        milliseconds, wall_milliseconds = measure()
    except Exception as error:
        return dict(answer, why=sentence(error))
    return dict(answer, available=True, milliseconds=milliseconds, wall_milliseconds=wall_milliseconds)


def not_available(why):
    """Return the part ``device_time`` of a framework that has none."""
    return {"available": False, "why": why, "milliseconds": None, "wall_milliseconds": None, "source": None}


def sentence(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no message'])[0][:200]}"


# -- reading what the profilers write --------------------------------------------------------------------------------


def is_copy(name):
    """Tell whether a record on a GPU is a copy or a fill, by the driver's names: those need no kernel."""
    return name.lower().startswith(("memcpy", "memset"))


def read(path):
    """:raises ValueError: when a file is larger than anything expected here"""
    if not os.path.getsize(path) <= TRACE_BYTES:
        raise ValueError(f"the profile has {os.path.getsize(path)} bytes, too many to read")
    with open(path, "rb") as stream:
        return stream.read()


def kernels_of_chrome_trace(path):
    """Return the names of the kernels in a trace as PyTorch writes it: a JSON file of events with a category."""
    events = json.loads(read(path).decode("utf-8", "replace")).get("traceEvents", [])
    return [str(event.get("name")) for event in events if isinstance(event, dict) and event.get("cat") == "kernel"]


def kernels_of_xspaces(directory):
    """Return the names of the kernels in the profiles below a directory, as TensorFlow and JAX write them.

    :raises ValueError: when there is no profile, it is damaged, or the profiler says in it that it failed
    """
    paths = glob.glob(os.path.join(directory, "**", "*.xplane.pb"), recursive=True)
    if not paths:
        raise ValueError("the profiler wrote no profile")
    return [name for path in sorted(paths) for name in kernels_of_xspace(read(path))]


def kernels_of_xspace(content):
    """Return the names of the kernels in one profile, a message XSpace in the encoding of protocol buffers.

    XSpace: planes 1, errors 2. XPlane: name 2, lines 3, event metadata 4 (a map: key 1, value 2). XLine: name 2,
    events 4. XEvent: metadata id 1. XEventMetadata: name 2. A GPU is a plane "/device:GPU:0", its lines are streams.
    """
    space = message(content)
    names = []
    for plane in map(message, space.get(1, [])):
        if not text_of(plane, 2).startswith("/device:GPU:"):
            continue
        entries = [message(entry) for entry in plane.get(4, [])]
        metadata = {entry.get(1, [0])[-1]: text_of(message(entry.get(2, [b""])[-1]), 2) for entry in entries}
        for line in map(message, plane.get(3, [])):
            if text_of(line, 2).startswith("Stream #"):
                found = [metadata.get(message(event).get(1, [0])[-1], "") for event in line.get(4, [])]
                names += [name for name in found if name and not is_copy(name)]
    if not names and space.get(2):
        raise ValueError(f"the profiler says: {text_of(space, 2)}")
    return names


def message(content):
    """Return the fields of a message in the encoding of protocol buffers: lists of numbers and of bytes, by number.

    :raises ValueError: when it is no such message
    """
    fields, at = {}, 0
    while at < len(content):
        tag, at = varint(content, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(content, at)
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind)
            if size is None:
                size, at = varint(content, at)
            value, at = content[at : at + size], at + size
            if at > len(content):
                raise ValueError("the profile is truncated")
        else:
            raise ValueError("the profile is damaged")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def varint(content, at):
    """Return a number of variable length and where the next field begins."""
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("the profile is truncated")
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def text_of(fields, number):
    value = fields.get(number, [b""])[-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
