#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prove that a host's environments work: train the MNIST job in each, judge the results, write the verdict.

    python3 validate.py --config config.json

Standard library only, Python 3.8 or newer. The verdict file reads UNKNOWN from the first moment to the last, so
whatever ends this program early leaves UNKNOWN behind. One JSON line goes to standard output.

Exit status: 0 PASS or WARN, 1 FAIL, 2 UNKNOWN (could not be assessed), 3 wrong settings, 4 refused (another validation
is running), 77 nothing to validate.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True  # the directory of the programs belongs to the role: nothing else may appear in it

import files
import gates
import host
import lock
import mnist_data
import processes
import reuse
import settings as settings_module
import verdict as verdict_module

PROGRAMS = os.path.dirname(os.path.abspath(__file__))
KEPT_RUNS = 10
SCRATCH_PREFIX = "gpulab-validation-"
#: Seconds for drawing the digits and for asking an interpreter what is installed.
DRAW_TIMEOUT, ASK_TIMEOUT = 600, 60

Job = collections.namedtuple("Job", "environment framework target")


class Interrupted(BaseException):
    """A signal asks us to stop."""


class Validation:
    """One validation of this host.

    :param settings: checked settings, see settings.py
    :param allow_plain_http: let mirrors be http:// (for tests)
    """

    def __init__(self, settings, allow_plain_http=False):
        self.settings, self.allow_plain_http = settings, allow_plain_http
        self.directory = os.path.join(settings["base_dir"], "validation")
        self.verdict_path = os.path.join(self.directory, "verdict.json")
        self.run_id = files.new_run_id()
        self.run_directory = os.path.join(self.directory, "runs", self.run_id)
        self.scratch, self.scratch_record = None, os.path.join(self.directory, "scratch")
        self.drawings = []
        self.user = find_user(settings["user"])
        self.started = time.monotonic()
        with open(os.path.join(PROGRAMS, "thresholds.json"), encoding="utf-8") as stream:
            self.table = json.load(stream)
        self.jobs = [
            Job(row, framework, "%s/%s" % (row["name"], framework))
            for row in settings["environments"]
            for framework in settings_module.FRAMEWORKS
            if framework in row["frameworks"]
        ]
        self.document = {
            "schema_version": verdict_module.SCHEMA_VERSION,
            "tool": verdict_module.TOOL,
            "run_id": self.run_id,
            "started": files.now(),
            "finished": None,
            "duration_s": None,
            "host": host.describe(settings["host"]),
            "profile": settings["profile"],
            "simulated": settings["simulated"],
            "gpu_validated": False,
            "run_as": self.user.name if self.user else "uid %d" % os.geteuid(),
            "expected": {"environments": {row["name"]: row["frameworks"] for row in settings["environments"]}},
            "observed": {"environments": {}},
            "dataset": None,
            "results": [],
            "checks": [],
            "gpu_use_proof": None,
            "self_test": None,
            "log_directory": self.run_directory,
            "fingerprint": None,
            "fingerprint_parts": {},
            "verdict": None,
        }

    # -- the order of things -------------------------------------------------------------------------------------

    def run(self, dry_run=False):
        """Validate, or use the earlier verdict again.

        :param dry_run: only tell what would be done
        :returns: the answer for standard output
        """
        boot_id = self.document["host"]["boot_id"]
        parts = reuse.parts(self.settings, files.programs_sha256(PROGRAMS), boot_id, self._ask_interpreter)
        previous = self._previous()
        why = reuse.why_not(previous, parts, self.settings)
        if why is None:
            return {"reused": True, "reason": "nothing it rests on has changed", "document": previous}
        if dry_run:
            targets = [job.target for job in self.jobs]
            return {"reused": False, "reason": why, "would_run": targets, "document": None}
        self.document.update(fingerprint_parts=parts, fingerprint=files.sha256_json(parts))
        self._write_unfinished("UNFINISHED", "the validation has not finished, or it was killed")
        try:
            self._prepare_directories()
            self._validate()
        except Interrupted as signal_name:
            self._write_unfinished("INTERRUPTED", "the validation was stopped by %s" % signal_name)
        except Exception as error:
            self._keep_traceback()
            words = "the validator itself failed (%s: %s); details are in %s/internal-error.log"
            self._write_unfinished("INTERNAL", words % (type(error).__name__, error, self.run_directory))
        finally:
            for directory in self.drawings:
                shutil.rmtree(directory, ignore_errors=True)
            if self.scratch:
                shutil.rmtree(self.scratch, ignore_errors=True)
                files.remove(self.scratch_record)
        return {"reused": False, "reason": why, "document": self.document}

    def _validate(self):
        """Make all checks and compose the verdict from them."""
        checks = self.document["checks"]
        checks.append(self._self_test())
        checks.append(host.gpu_evidence(self.settings["profile"], host.PCI_DEVICES))
        for row in self.settings["missing_environments"]:
            name, reason = gates.text(row["name"]), row["reason"]
            checks.append(gates.check("environment.available", name, "WARN", reason, "NOT_AVAILABLE", required=False))
        if self.jobs:
            checks += self._run_jobs()
        if not self.jobs and not self.settings["missing_environments"]:
            self._finish(verdict_module.nothing_to_validate())
            return
        required = []
        if self.jobs:
            required = [
                ("validator.self_test", "validator"),
                ("host.gpu_evidence", "host"),
                ("data.available", "mnist"),
            ]
            required += [(name, job.target) for job in self.jobs for name in ("mnist.train", "mnist.device")]
        verdict, missing = verdict_module.compose(
            checks, required, self.settings["profile"], self.settings["simulated"]
        )
        self.document["self_test"]["required_checks_missing"] = ["%s %s" % pair for pair in missing]
        self._finish(verdict)

    def _run_jobs(self):
        """Find the data set and run every job on it; return the checks."""
        find = mnist_data.Finder(self.settings, self.table["datasets"], self._draw, self.allow_plain_http).find
        try:
            dataset = find()
        except mnist_data.DataError as error:
            self.document["dataset"] = {"name": None, "title": None, "origin": None, "tried": error.tried}
            checks = [gates.check("data.available", "mnist", "UNKNOWN", str(error), error.reason_code)]
            for job in self.jobs:
                for name in ("mnist.train", "mnist.device"):
                    checks.append(gates.check(name, job.target, "UNKNOWN", "not run: there is no data set", "NO_DATA"))
                self._add_result(job, "UNKNOWN", str(error))
            return checks
        row = self.table["datasets"][dataset.name]
        sums = {name: entry["sha256"] for name, entry in row["files"].items()}
        self.document["dataset"] = dict(dataset._asdict(), title=row["title"], sha256=sums)
        del self.document["dataset"]["directory"]
        words = "%s (%s): %s" % (dataset.name, row["title"], dataset.origin)
        checks = [gates.check("data.available", "mnist", "PASS", words)]
        for job in self.jobs:
            checks += self._run_job(job, dataset)
        if self.settings["profile"] == "gpu":
            checks.append(self._gpu_proof(checks))
        return checks

    def _run_job(self, job, dataset):
        """Run one job and judge it; return the checks."""
        name = "%s-%s" % (job.environment["name"], job.framework)
        log = os.path.join(self.run_directory, name + ".log")
        result_path = os.path.join(self.scratch, name + ".json")
        arguments = ["--data", dataset.directory, "--device", self.settings["profile"], "--result", result_path]
        for option in ("epochs", "batch_size", "seed"):
            arguments += ["--" + option.replace("_", "-"), str(self.settings["job_" + option])]
        arguments += ["--mixed-precision"] if self.settings["job_mixed_precision"] else []
        program = "mnist_%s.py" % job.framework
        backend = keras_backend(job) if job.framework == "keras" else None
        outcome = self._start(job.environment, program, arguments, log, self.settings["job_timeout"], backend)
        result, problem = None, ""
        try:
            result = files.read_foreign_json(result_path)
        except ValueError as error:
            problem = str(error)
        profile = self.settings["profile"]
        checks = gates.judge_job(job.target, profile, outcome, result, problem, dataset.name, self.table, log)
        checks += judge_version(job, result)
        worst = max(checks, key=lambda row: verdict_module.SEVERITY.index(verdict_module.severity(row)))
        note = "" if worst["status"] == "PASS" else worst["message"]
        self._add_result(job, worst["status"], note, result, outcome, dataset.name)
        self._event("job", target=job.target, status=worst["status"], state=outcome.state, code=outcome.code)
        return checks

    # -- single checks -------------------------------------------------------------------------------------------

    def _self_test(self):
        """Feed the gates what they must refuse. Runs every time: a validator that cannot say no proves nothing."""
        answers = gates.self_test(self.table)
        nothing, _ = verdict_module.compose([], [("mnist.train", "self-test")], "cpu", False)
        answers["missing_check_unknown"] = nothing["status"] == "UNKNOWN"
        self.document["self_test"] = answers
        bad = sorted(name for name, good in answers.items() if good is not True)
        if bad:
            words = "the gates do not hold: %s" % ", ".join(bad)
            return gates.check("validator.self_test", "validator", "FAIL", words, "SELF_TEST")
        return gates.check("validator.self_test", "validator", "PASS", "corrupted results are refused")

    def _gpu_proof(self, checks):
        """Report the proofs of GPU use at hand: two of the five there should be, too few for a plain PASS."""
        signals = []
        for row in checks:
            if row["id"] == "mnist.device":
                good, peak = row["status"] == "PASS", row["measured"].get("allocator_peak_bytes")
                signals.append({"name": "result_device", "target": row["target"], "ok": good})
                signals.append({"name": "allocator_peak", "target": row["target"], "bytes": peak, "ok": good})
        proof = {"quorum_needed": 3, "quorum_reached": False, "signals": signals, "negative_control": None}
        self.document["gpu_use_proof"] = proof
        words = "GPU use is shown by the frameworks alone (device of the results, memory taken): no independent proof"
        return gates.check("gpu.proof", "host", "WARN", words, "NO_QUORUM", required=False)

    # -- running programs under an environment's interpreter -----------------------------------------------------

    def _draw(self):
        """Draw the digits with the first environment that can; see mnist_data.Finder."""
        problem = "no environment to draw them with"
        for row in self.settings["environments"]:
            # Not below the scratch directory: that is the jobs' user's, who could put a link in its place meanwhile.
            directory = tempfile.mkdtemp(prefix=SCRATCH_PREFIX)
            self.drawings.append(directory)
            self._give_away(directory)
            log = os.path.join(self.run_directory, "generate_digits.log")
            outcome = self._start(row, "generate_digits.py", ["--out", directory], log, DRAW_TIMEOUT)
            if outcome.state == "finished" and outcome.code == 0:
                return directory, ""
            problem = "the digits cannot be drawn in environment %s: %s" % (row["name"], gates.last_line(outcome.tail))
        return None, problem

    def _start(self, environment, program, arguments, log, timeout, backend=None):
        """Run one of the programs below jobs/ as the unprivileged user; return its Outcome."""
        python = environment["python"]
        command = [python, "-s", "-B", os.path.join(PROGRAMS, "jobs", program), *arguments]
        return processes.run(command, self._variables(python, backend), self.scratch, log, timeout, self.user)

    def _variables(self, python, backend):
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
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "KERAS_HOME", "MPLCONFIGDIR"):
            answer[name] = self.scratch
        if self.settings["profile"] == "cpu":
            answer.update(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
        if backend:
            answer["KERAS_BACKEND"] = backend
        return answer

    def _ask_interpreter(self, python):
        """Return the output of reuse.LIST_DISTRIBUTIONS under an interpreter, or an empty string."""
        variables = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONNOUSERSITE": "1", "HOME": "/nonexistent"}
        command = [python, "-s", "-B", "-c", reuse.LIST_DISTRIBUTIONS]
        with tempfile.TemporaryDirectory(prefix="gpulab-ask-") as directory:
            log = os.path.join(directory, "log")
            outcome = processes.run(command, variables, "/", log, ASK_TIMEOUT, self.user)
        return outcome.tail if outcome.state == "finished" and outcome.code == 0 else ""

    def _prepare_directories(self):
        os.makedirs(self.run_directory, mode=0o755)
        runs = os.path.dirname(self.run_directory)
        for old in sorted(os.listdir(runs))[:-KEPT_RUNS]:
            shutil.rmtree(os.path.join(runs, old), ignore_errors=True)
        self._remove_scratch_of_a_killed_run()
        self.scratch = tempfile.mkdtemp(prefix=SCRATCH_PREFIX)
        files.write_atomically(self.scratch_record, self.scratch.encode())
        self._give_away(self.scratch)
        self._event("started", fingerprint=self.document["fingerprint"])

    def _remove_scratch_of_a_killed_run(self):
        """We hold the lock, so a directory that is still recorded belongs to a run that was killed."""
        try:
            with open(self.scratch_record, encoding="utf-8") as stream:
                path = stream.read()
        except OSError:
            return
        if os.path.basename(path).startswith(SCRATCH_PREFIX):
            shutil.rmtree(path, ignore_errors=True)

    def _give_away(self, path):
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid)

    # -- the verdict and its file --------------------------------------------------------------------------------

    def _previous(self):
        try:
            return files.read_foreign_json(self.verdict_path)
        except ValueError:
            return None

    def _finish(self, verdict):
        self.document["verdict"] = dict(verdict, fingerprint=self.document["fingerprint"])
        self.document.update(finished=files.now(), duration_s=round(time.monotonic() - self.started, 1))
        self._event("verdict", status=verdict["status"])
        try:
            self._write()
        except OSError as error:  # the UNKNOWN from the beginning stays
            words = "the verdict cannot be written to %s: %s" % (self.verdict_path, error.strerror or error)
            self.document = verdict_module.unfinished(self.document, "UNWRITABLE", words)

    def _write_unfinished(self, reason_code, message):
        """Put UNKNOWN in place of whatever verdict is there. Where even that is impossible the old one is removed."""
        self.document = verdict_module.unfinished(self.document, reason_code, message)
        try:
            self._write()
        except OSError as error:
            files.remove(self.verdict_path)
            words = "%s; %s cannot be written: %s" % (message, self.verdict_path, error.strerror or error)
            self.document = verdict_module.unfinished(self.document, "UNWRITABLE", words)

    def _write(self):
        files.write_atomically(self.verdict_path, files.to_json(self.document, indent=1).encode("utf-8") + b"\n")

    def _add_result(self, job, status, note, result=None, outcome=None, dataset=None):
        """Add one row for the table that a person reads, and what was observed."""
        result = result or {}

        def word(key):
            return gates.text(result[key], 80) if result.get(key) is not None else None

        def number(key, digits=None):
            return round(result[key], digits) if gates.is_number(result.get(key)) else None

        row = {
            "environment": job.environment["name"],
            "framework": job.framework,
            "version": word("version"),
            "python": word("python"),
            "keras_backend": (word("keras_backend") or keras_backend(job)) if job.framework == "keras" else None,
            "device": word("device"),
            "device_name": word("device_name"),
            "dataset": dataset,
            "accuracy": number("accuracy", 4),
            "seconds": round(outcome.seconds, 1) if outcome else None,
            "batch_size": number("batch_size"),
            "status": status,
            "note": gates.text(note, 400),
        }
        self.document["results"].append(row)
        observed = self.document["observed"]["environments"].setdefault(row["environment"], {})
        observed[job.framework] = row["version"]

    def _event(self, event, **more):
        """Add a line to the run's event log; a log that cannot be written does not change the verdict."""
        try:
            with open(os.path.join(self.run_directory, "events.ndjson"), "a", encoding="utf-8") as stream:
                stream.write(files.to_json(dict({"time": files.now(), "event": event}, **more)) + "\n")
        except OSError:
            pass

    def _keep_traceback(self):
        try:
            with open(os.path.join(self.run_directory, "internal-error.log"), "w", encoding="utf-8") as stream:
                traceback.print_exc(file=stream)
        except OSError:
            pass


def find_user(name):
    """Return whom the jobs run as: the unprivileged user when we are root and it exists, else None: ourselves."""
    if os.geteuid() != 0 or not name:
        return None
    try:
        return processes.User(name)
    except KeyError:
        return None


def keras_backend(job):
    """Return what Keras runs on: what its environment says, else the framework beside it."""
    if job.environment["keras_backend"]:
        return job.environment["keras_backend"]
    for framework, backend in (("tensorflow", "tensorflow"), ("pytorch", "torch"), ("jax", "jax")):
        if framework in job.environment["frameworks"]:
            return backend
    return "tensorflow"


def judge_version(job, result):
    """Compare the version that ran with the planned one, in environments of this project; return the checks."""
    planned, ran = job.environment["frameworks"][job.framework], (result or {}).get("version")
    if job.environment["origin"] != "managed" or not isinstance(planned, str) or not planned or not ran:
        return []
    ran = gates.text(ran, 40)
    words = "%s %s ran, %s is planned" % (job.framework, ran, planned)
    if ran.split("+")[0] == planned.split("+")[0]:  # 2.13.0+cpu is 2.13.0
        return [gates.check("environment.version", job.target, "PASS", words)]
    return [gates.check("environment.version", job.target, "FAIL", words, "VERSION")]


# -- the command line ------------------------------------------------------------------------------------------------


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="validate.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__.strip()
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="settings: the role's variables as JSON")
    parser.add_argument("--always", action="store_true", help="run the jobs even when an earlier verdict still holds")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run; change nothing")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when the verdict is WARN")
    parser.add_argument("--allow-plain-http", action="store_true", help="accept http:// mirrors (for tests)")
    return parser.parse_args(arguments)


def answer(options):
    """Do what the command line asks; return the answer for standard output and the exit status."""
    try:
        settings = settings_module.read(options.config)
    except settings_module.SettingsError as error:
        return failure("SETTINGS", str(error), problems=error.problems), 3
    if options.always:
        settings["job_policy"] = "always"
    validation = Validation(settings, options.allow_plain_http)
    if options.dry_run:
        return dict(validation.run(dry_run=True), exit_code=0), 0
    try:
        os.makedirs(validation.directory, mode=0o755, exist_ok=True)
        with lock.held(validation.directory):
            reply = validation.run()
    except lock.Refused as error:
        return failure("LOCKED", str(error)), 4
    except OSError as error:
        words = "%s cannot be used: %s" % (validation.directory, error.strerror or error)
        return failure("UNWRITABLE", words), 3
    status = reply["document"]["verdict"]["status"]
    code = 1 if options.strict and status == "WARN" else verdict_module.EXIT_CODES.get(status, 2)
    return dict(reply, exit_code=code), code


def failure(reason_code, message, **more):
    """Return the answer for standard output when there is no verdict."""
    return {"error": dict({"reason_code": reason_code, "message": message}, **more)}


def stop_on(signal_number, _):
    raise Interrupted(signal.Signals(signal_number).name)


def main(arguments=None):
    os.umask(0o022)  # the jobs' user has to read what we write
    try:
        options = parse(arguments)
    except SystemExit as stop:  # argparse ends with 2, which means UNKNOWN here
        return 3 if stop.code else 0
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, stop_on)
    try:
        reply, code = answer(options)
    except Interrupted as signal_name:
        reply, code = failure("INTERRUPTED", "the validation was stopped by %s" % signal_name), 2
    except Exception as error:
        words = "the validator itself failed: %s: %s" % (type(error).__name__, error)
        reply, code = failure("INTERNAL", words), 2
    try:
        print(files.to_json(reply), flush=True)
    except OSError:  # nobody listens any more; the verdict is on disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if sys.stderr.isatty():
        print(for_people(reply), file=sys.stderr)
    return code


def for_people(reply):
    """Return the answer as one line for a terminal."""
    if "error" in reply:
        return reply["error"]["message"]
    if not reply["document"]:
        return "would run %s: %s" % (", ".join(reply["would_run"]), reply["reason"])
    return "%(label)s: %(summary)s" % reply["document"]["verdict"]


if __name__ == "__main__":
    sys.exit(main())
