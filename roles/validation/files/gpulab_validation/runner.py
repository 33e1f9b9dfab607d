# SPDX-License-Identifier: Apache-2.0
"""Runs the programs of one validation: jobs under an environment's interpreter, probes under our own.

Every process has a time limit, a log of its own and no more variables than it needs. Jobs run as the unprivileged user
and may write below the scratch directory alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading

import files
import processes

KEPT_RUNS = 10
SCRATCH_PREFIX = "gpulab-validation-"
#: Variables that name a place to write.
PLACES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME", "MPLCONFIGDIR")
ASK_TIMEOUT = 60
PROBE_GRACE = 1.0


class NoAnswer(Exception):
    """Something that must be looked at does not answer; the message says what."""


class Runner:
    """What starts processes, and where they write.

    :param settings: checked settings
    :param table: the content of thresholds.json
    :param programs: directory of the programs
    :param directory: the validation's own directory below the base directory
    :param run_id: of this run; its logs lie in ``runs/<run id>``
    :param user: the processes.User of the jobs; None for ourselves
    """

    def __init__(self, settings, table, programs, directory, run_id, user=None):
        self.settings, self.table, self.programs, self.user = settings, table, programs, user
        self.profile = settings["profile"]
        self.run_directory = os.path.join(directory, "runs", run_id)
        self.scratch, self._scratch_record = None, os.path.join(directory, "scratch")
        self._more_scratch = []

    # -- places ----------------------------------------------------------------------------------------------------

    def prepare(self, keep=None):
        """Make the directory of the logs and that of the jobs; remove what earlier runs left.

        :param keep: a directory of logs that is not removed, however old it is
        :raises OSError: when they cannot be made
        """
        os.makedirs(self.run_directory, mode=0o755, exist_ok=True)
        runs = os.path.dirname(self.run_directory)
        for old in sorted(os.listdir(runs))[:-KEPT_RUNS]:
            if os.path.join(runs, old) != keep:
                shutil.rmtree(os.path.join(runs, old), ignore_errors=True)
        self._remove_scratch_of_a_killed_run()
        self.scratch = self._make_directory(self._scratch_record)

    def prepare_for_looking(self):
        """Make a place for logs that is removed again at the end: nothing on the host changes.

        :raises OSError: when it cannot be made
        """
        self.run_directory = tempfile.mkdtemp(prefix=SCRATCH_PREFIX)
        self._more_scratch.append(self.run_directory)

    def directory_for_jobs(self):
        """Make one more directory that jobs may write, outside the scratch directory; removed at the end.

        Not below the scratch directory: that is the jobs' user's, who could put a link in its place meanwhile.
        """
        return self._make_directory()

    def _make_directory(self, record=None):
        """Make a directory for the jobs' user, inside one of our own, so that nobody can put a link in its place.

        :param record: a file to note it in first
        """
        own = tempfile.mkdtemp(prefix=SCRATCH_PREFIX)
        self._more_scratch.append(own)
        if record:
            files.write_atomically(record, own.encode())
        os.chmod(own, 0o755)
        directory = os.path.join(own, "jobs")
        os.mkdir(directory, 0o700)
        if self.user is not None:
            os.chown(directory, self.user.uid, self.user.gid)
        return directory

    def forget(self):
        """Let the logs of this run go with the rest: there is nothing in them that anybody would look for."""
        self._more_scratch.append(self.run_directory)

    def clean(self):
        """Remove everything that jobs could write."""
        for directory in self._more_scratch:
            shutil.rmtree(directory, ignore_errors=True)
        if self.scratch:
            files.remove(self._scratch_record)

    def _remove_scratch_of_a_killed_run(self):
        """We hold the lock, so a directory that is still recorded belongs to a run that was killed."""
        try:
            with open(self._scratch_record, encoding="utf-8") as stream:
                path = stream.read()
        except OSError:
            return
        if os.path.basename(path).startswith(SCRATCH_PREFIX):
            shutil.rmtree(path, ignore_errors=True)

    # -- processes ---------------------------------------------------------------------------------------------------

    def start(self, environment, program, arguments, log, timeout, devices=None, backend=None, variables=None):
        """Run a program below jobs/ under an environment's interpreter, as the jobs' user.

        :param environment: a row of the settings; its ``python`` is the interpreter
        :param arguments: of the program
        :param log: name of a file in the run's directory, or an absolute path
        :param timeout: seconds
        :param devices: the GPUs it may see, each with ``uuid``; None for all of them in the profile gpu and for none
            in the profile cpu; an empty list for none, and then frameworks are still told to take a GPU
        :param backend: what Keras runs on
        :param variables: environment variables to add
        :returns: a processes.Outcome
        """
        python = environment["python"]
        command = [python, "-s", "-B", os.path.join(self.programs, "jobs", program), *map(str, arguments)]
        environment_variables = dict(self._variables(python, devices, backend), **(variables or {}))
        return processes.run(command, environment_variables, self.scratch, self._log(log), timeout, self.user)

    def probe(self, program, arguments, log, timeout, variables=None):
        """Run a program below probes/ under our own interpreter, as ourselves; return its processes.Outcome."""
        command = [sys.executable, "-B", os.path.join(self.programs, "probes", program), *map(str, arguments)]
        environment_variables = dict(self.probe_variables(), **(variables or {}))
        # A probe only reads: it has nothing to put in order when it is told to end.
        return processes.run(command, environment_variables, "/", self._log(log), timeout, grace=PROBE_GRACE)

    def probe_variables(self):
        """Return the environment variables of a probe: where libraries and tools lie, and a language of fixed words."""
        answer = {"PATH": os.environ.get("PATH") or os.defpath, "LANG": "C", "LC_ALL": "C", "HOME": "/nonexistent"}
        # A library in an unusual place is found by the caller's own variables; stand-ins of tests are.
        answer.update({key: os.environ[key] for key in os.environ if key in KEPT_FOR_PROBES})
        return answer

    @staticmethod
    def together(calls):
        """Call functions without arguments at the same time, and return their answers in the same order.

        :raises BaseException: what the first of them raised, once all of them have ended
        """
        answers, errors = [None] * len(calls), []

        def work(index, call):
            try:
                answers[index] = call()
            except BaseException as error:  # handed on below: a thread has nobody to tell
                errors.append(error)

        threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return answers

    def look_into(self, python):
        """Return a digest of what lies below an interpreter.

        :raises NoAnswer: when the path does not answer within its time
        """
        with tempfile.TemporaryDirectory(prefix="gpulab-ask-") as directory:
            log = os.path.join(directory, "log")
            outcome = self.probe("environment.py", [python], log, ASK_TIMEOUT)
        if outcome.state != "finished" or outcome.code != 0:
            words = "%s cannot be looked into (%s): a file system that does not answer, or %s"
            raise NoAnswer(words % (python, outcome.state, outcome.tail[-200:] or "no more is known"))
        return outcome.tail.strip()

    def ask(self, python, program_text):
        """Return what an interpreter prints for a text of Python, or an empty string when it fails."""
        variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONNOUSERSITE": "1", "HOME": "/nonexistent"}
        with tempfile.TemporaryDirectory(prefix="gpulab-ask-") as directory:
            log = os.path.join(directory, "log")
            command = [python, "-s", "-B", "-c", program_text]
            outcome = processes.run(command, variables, "/", log, ASK_TIMEOUT, self.user)
        return outcome.tail if outcome.state == "finished" and outcome.code == 0 else ""

    def _log(self, log):
        return os.path.join(self.run_directory, log)

    def _variables(self, python, devices, backend):
        """Return a job's environment variables: only what it needs, and nowhere to write but its own directory."""
        answer = {
            "PATH": os.pathsep.join([os.path.dirname(python), "/usr/local/bin", "/usr/bin", "/bin"]),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            # The network is small. Two threads are no faster than one, and on a busy machine, where they wait for each
            # other at every step, twenty times slower.
            "OMP_NUM_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "1",
            # Take GPU memory as needed instead of all of it: others may be computing there.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_PLATFORMS": "cuda",
        }
        answer.update(dict.fromkeys(PLACES, self.scratch))
        if devices is None and self.profile == "cpu":
            answer.update(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
        elif devices is not None:
            answer["CUDA_VISIBLE_DEVICES"] = ",".join(device.uuid for device in devices)
        if backend:
            answer["KERAS_BACKEND"] = backend
        return answer

    # -- answers and progress ------------------------------------------------------------------------------------------

    def result_path(self, name):
        """Return the path that a job is told to write its result to."""
        return os.path.join(self.scratch, name)

    def result(self, name):
        """Read a job's result.

        :returns: the result, None where there is none; and what is wrong with it, an empty string where nothing is
        """
        try:
            return files.read_foreign_json(self.result_path(name)), ""
        except ValueError as error:
            return None, str(error)

    def event(self, event, **more):
        """Add a line to the run's event log; a log that cannot be written does not change the verdict."""
        try:
            with open(self._log("events.ndjson"), "a", encoding="utf-8") as stream:
                stream.write(files.to_json(dict({"time": files.now(), "event": event}, **more)) + "\n")
        except OSError:
            pass

    def progress(self, words):
        """Tell a person who watches what is being done now."""
        self.event("progress", text=words)
        if sys.stderr.isatty():
            print(words, file=sys.stderr, flush=True)


#: Variables of the caller that probes keep.
KEPT_FOR_PROBES = ("LD_LIBRARY_PATH", "LD_PRELOAD")
