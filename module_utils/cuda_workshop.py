# SPDX-License-Identifier: Apache-2.0
"""A private place to build and run small programs in, with bounds on all of them and nothing left afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

from ansible.module_utils.cuda_store import MIB, Failed

#: What a compilation needs; far more than it ever took.
_SPACE = 64 * MIB
_LARGEST_FILE = 1024 * MIB
_OUTPUT = 64 * 1024
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def place(candidates):
    """Return the first directory in which programs can be built and run."""
    reasons = []
    for directory in candidates:
        if not directory or not os.path.isdir(directory):
            continue
        status = os.statvfs(directory)
        if not os.access(directory, os.W_OK | os.X_OK) or status.f_flag & os.ST_RDONLY:
            reasons.append(f"{directory} cannot be written to")
        elif status.f_flag & os.ST_NOEXEC:
            reasons.append(f"{directory} is mounted noexec")
        elif status.f_bavail * status.f_frsize < _SPACE:
            reasons.append(f"{directory} has less than {_SPACE // MIB} MiB free")
        else:
            return directory
    raise Failed(
        "no directory for temporary files serves to build and run a small program: {}. Set TMPDIR in the environment "
        "of this task to a directory that does".format("; ".join(reasons) or "there is none")
    )


class Workshop:
    """A private directory and what runs in it. A context manager: at its end nothing is left."""

    def __init__(self, candidates, timeout):
        self.timeout = timeout
        self.parent = place(candidates)
        self.directory = None
        self.group = None

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="gpulab-cuda-", dir=self.parent)
        # A lost connection or a stopped play ends us; then the children and the directory go too.
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._stop)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def _stop(number, _):
        raise SystemExit(128 + number)

    def write(self, name, text):
        """Write a file into the private directory and return its path."""
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def run(self, words, first_in_path="", extra=None):
        """Run a command in a clean environment; return ``(whether it succeeded, its output or the reason)``."""
        environment = dict(
            PATH=f"{first_in_path}:{_SYSTEM_PATH}" if first_in_path else _SYSTEM_PATH,
            HOME=self.directory,
            TMPDIR=self.directory,
            LC_ALL="C",
            CUDA_CACHE_DISABLE="1",
        )
        environment.update(extra or {})
        with tempfile.TemporaryFile(dir=self.directory) as sink:
            try:
                process = subprocess.Popen(
                    words,
                    cwd=self.directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_bound,
                )
            except PermissionError as error:
                return False, (
                    f"{error.filename or words[0]} must not be run here ({error.strerror}); if the host forbids "
                    f"programs in {self.parent}, set TMPDIR in the environment of this task to another directory"
                )
            except OSError as error:
                return False, f"{error.filename or words[0]}: {error.strerror}"
            self.group = process.pid
            try:
                status = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                return False, f"it was stopped after {self.timeout} s"
            finally:
                self._kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the driver is left behind
                    process.wait(5)
            size = sink.seek(0, os.SEEK_END)
            sink.seek(max(0, size - _OUTPUT))
            output = sink.read().decode("utf-8", "replace")
        if status < 0:
            return False, f"it was ended by {_signal(-status)}. {last_words(output)}".strip()
        return status == 0, output

    def ask(self, python, program, *arguments, extra=None):
        """Run one of our Python programs; return ``(its answer or None, the reason)``. No bytecode is left behind."""
        done, output = self.run([python, "-I", "-B", "-c", program, *arguments], extra=extra)
        lines = [line for line in output.splitlines() if line.startswith("GPULAB ")]
        if done and lines:
            return json.loads(lines[-1][len("GPULAB ") :]), None
        return None, last_words(output) or "it gave no answer"

    def own(self, program, *arguments):
        """The same with the Python that runs this module."""
        return self.ask(sys.executable, program, *arguments)

    def _kill(self):
        """End what is left of the last command, helpers included."""
        if self.group is not None:
            with contextlib.suppress(OSError):
                os.killpg(self.group, signal.SIGKILL)
            self.group = None


def _bound():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = _LARGEST_FILE if hard == resource.RLIM_INFINITY else min(hard, _LARGEST_FILE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


def _signal(number):
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def last_words(output):
    """Return the end of what a tool printed, on one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        lines = lines[-1:]  # the error itself; where it arose says nothing to its reader
    return " ".join(lines[-8:])[-600:]
