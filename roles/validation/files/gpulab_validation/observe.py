# SPDX-License-Identifier: Apache-2.0
"""What the driver says of itself and of every GPU: asked in two ways at once, in processes that may hang, bounded.

NVML is asked by probes/nvml.py, and nvidia-smi, which people trust, at the same time. Nothing here judges. What could
not be read is null, and ``why`` has the driver's word for it.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
import time

import files
import gates
import processes
import smi_xml

#: Words of ``why`` that say a GPU does not have a thing, or this driver cannot tell it. All others: it was unreadable.
NOT_APPLICABLE = frozenset(["NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NOT_APPLICABLE_MIG", "ABSENT"])
#: Seconds to wait after TERM and after KILL: who only reads has nothing to clean up.
GRACE = 0.6
#: Where nvidia-smi may lie that is on nobody's PATH: in Windows' Linux.
MORE_PLACES = ("/usr/bin", "/usr/local/bin", "/usr/lib/wsl/lib")
RESULT_LIMIT = 16 << 20
TEXT_LIMIT = 300


def observe(runner):
    """Ask NVML and nvidia-smi at the same time.

    :returns: ``simulated`` (a stand-in answered), ``nvml``, ``smi`` (None: there is no nvidia-smi)
    """
    timeout = runner.table["identity"]["smi_seconds"]["most"]
    calls = [functools.partial(_nvml, runner, timeout), functools.partial(_smi, runner, timeout)]
    nvml, smi = runner.together(calls)
    simulated = bool(nvml.pop("simulated")) or bool(smi and smi["simulated"])
    return {"simulated": simulated, "nvml": nvml, "smi": smi}


def why(gpu, path):
    """Return the driver's word for why something of a GPU is null.

    :param gpu: a row of an observation
    :param path: the dotted path of what is null: "ecc.volatile.uncorrected"
    :returns: a word; None where nothing was noted, which is no excuse
    """
    reasons = gpu.get("why") or {}
    parts = path.split(".")
    places = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((reasons[place] for place in [*places, "handle"] if place in reasons), None)


def _nvml(runner, timeout):
    """Return what NVML says."""
    out, stuck = (os.path.join(runner.run_directory, name) for name in ("nvml.json", "nvml.stuck"))
    for path in (out, stuck):
        files.remove(path)
    outcome = runner.probe("nvml.py", ["--out", out, "--stuck", stuck], "nvml.log", timeout)
    document = _read_json(out)
    answer = {
        "error": None, "outcome": _outcome(outcome), "seconds": round(outcome.seconds, 2), "driver_version": None,
        "nvml_version": None, "cuda_driver_version": None, "library": None, "count": None, "gpus": [],
        "simulated": False,
    }  # fmt: skip
    answer.update({key: document[key] for key in answer if document and key in document})
    answer["tail"] = gates.last_line(outcome.tail) if outcome.tail.strip() else ""
    answer["stuck"] = _stuck(stuck) if answer["outcome"] != "finished" else None
    if answer["outcome"] == "finished" and not (document and document.get("complete") is True):
        words = "the process that asks NVML ended well and left no whole answer"
        answer["error"] = {"code": None, "name": "PARSE", "message": words}
    return answer


def _smi(runner, timeout):
    """Return what nvidia-smi says, or None where there is none."""
    variables = runner.probe_variables()
    places = os.pathsep.join([variables["PATH"], *MORE_PLACES])
    program = shutil.which("nvidia-smi", path=places)
    if program is None:
        return None
    log = os.path.join(runner.run_directory, "nvidia-smi.xml")
    files.remove(log)  # a file is appended to, and two answers are no answer
    variables.update(LC_ALL="C", LANG="C")
    outcome = processes.run([program, "-q", "-x"], variables, "/", log, timeout, grace=GRACE)
    crashed = outcome.state == "finished" and outcome.code < 0
    answer = {
        "outcome": "crashed" if crashed else outcome.state,
        "seconds": round(outcome.seconds, 2),
        "code": outcome.code,
        "path": program,
    }
    output = _read_bytes(log)
    answer.update(smi_xml.parse(b"" if output is None else output))
    if output is None:
        answer["problem"] = "what nvidia-smi printed cannot be read"
    if outcome.state != "finished":
        words = {"timeout": "did not end within %d s", "abandoned": "did not end within %d s and survived SIGKILL"}
        answer["problem"] = "nvidia-smi %s" % (
            words[outcome.state] % timeout if outcome.state in words else gates.text(outcome.tail)
        )
    elif crashed:
        answer["problem"] = "nvidia-smi was ended by signal %d" % -outcome.code
    elif outcome.code != 0:
        answer["problem"] = "nvidia-smi ended with status %d: %s" % (outcome.code, gates.last_line(outcome.tail))
    return answer


def _outcome(outcome):
    """Return how a probe ended in one word."""
    return "crashed" if outcome.state == "finished" and outcome.code != 0 else outcome.state


def _stuck(path):
    """Return the call that a probe did not come back from, or None."""
    words = gates.text((_read_bytes(path) or b"").decode("utf-8", "replace"))
    return words or None


def _read_bytes(path):
    try:
        with open(path, "rb") as stream:
            return stream.read(RESULT_LIMIT + 1)
    except OSError:
        return None


def _read_json(path):
    """Return the object in a probe's file with every text made harmless, or None."""
    try:
        document = json.loads(_read_bytes(path) or b"")
    except (ValueError, RecursionError):
        return None
    return _harmless(document) if isinstance(document, dict) else None


def _harmless(value):
    if isinstance(value, dict):
        return {gates.text(key): _harmless(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_harmless(part) for part in value]
    return gates.text(value, TEXT_LIMIT) if isinstance(value, str) else value


class Watch:
    """Looks at the GPUs about twice a second while something runs; a context manager.

    :param runner: the Runner
    :param timeout: seconds after which it stops by itself
    """

    #: Seconds to wait for the first look, and for the end: a driver that hangs must not hold up the job as well.
    FIRST, LAST = 10, 5
    _number = 0
    _lock = threading.Lock()

    def __init__(self, runner, timeout=7200):
        self._runner, self._timeout = runner, timeout
        with Watch._lock:
            Watch._number += 1
            self._name = "watch-%d" % Watch._number
        self._out, self._stop = (
            os.path.join(runner.run_directory, self._name + ending) for ending in (".json", ".stop")
        )
        self._thread, self._outcome, self._problem = None, None, ""

    def __enter__(self):
        if self._runner.profile != "gpu":
            self._problem = "nothing was watched: the profile is %s" % gates.text(self._runner.profile)
            return self
        for path in (self._out, self._stop):
            files.remove(path)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        end = time.monotonic() + self.FIRST
        while self._thread.is_alive() and not os.path.exists(self._out) and time.monotonic() < end:
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        if self._thread is None:
            return
        try:
            with open(self._stop, "wb"):
                pass
        except OSError as error:
            self._problem = "the watch cannot be told to stop: %s" % error.strerror
        self._thread.join(self.LAST)
        if self._thread.is_alive():
            self._problem = self._problem or "the watch did not stop: a call into the driver hangs"

    def _run(self):
        arguments = ["--out", self._out, "--stop", self._stop]
        self._outcome = self._runner.probe("watch.py", arguments, self._name + ".log", self._timeout)

    def result(self):
        """Return what was seen; after the block."""
        answer = {
            "simulated": False, "problem": "", "samples": 0, "processes": [], "accounting": [], "gpus": [],
        }  # fmt: skip
        document = _read_json(self._out) if self._thread is not None else None
        answer.update({key: document[key] for key in answer if document and key in document})
        problem = self._problem
        if self._outcome is not None and not problem:
            word = _outcome(self._outcome)
            if word != "finished":
                problem = "the watch ended early (%s): %s" % (word, gates.last_line(self._outcome.tail))
        if document is None and not problem:
            problem = "the watch left no result"
        answer["problem"] = problem or answer["problem"]
        if not answer["samples"] and not answer["problem"]:
            answer["problem"] = "the watch saw nothing"
        return answer
