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
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True  # the directory of the programs belongs to the role: nothing else may appear in it

import files  # noqa: E402
import gates  # noqa: E402
import mnist_data  # noqa: E402
import processes  # noqa: E402
import reuse  # noqa: E402
import settings as settings_module  # noqa: E402
import verdict as verdict_module  # noqa: E402

PROGRAMS = os.path.dirname(os.path.abspath(__file__))
PCI_DEVICES = "/sys/bus/pci/devices"
KEPT_RUNS = 10
#: Seconds for drawing the digits and for asking an interpreter what is installed.
DRAW_TIMEOUT, ASK_TIMEOUT = 600, 60

Job = collections.namedtuple("Job", "environment framework target")


class Refused(Exception):
    """Another validation is running."""


class Interrupted(BaseException):
    """A signal asks us to stop."""


class Validation:
    """One validation of this host.

    :param settings: checked settings
    :param allow_plain_http: let mirrors be http:// (tests only)
    """

    def __init__(self, settings, allow_plain_http=False):
        self.settings, self.allow_plain_http = settings, allow_plain_http
        self.directory = os.path.join(settings["base_dir"], "validation")
        self.verdict_path = os.path.join(self.directory, "verdict.json")
        self.run_id = files.new_run_id()
        self.run_directory = os.path.join(self.directory, "runs", self.run_id)
        self.scratch = None
        self.user = None
        with open(os.path.join(PROGRAMS, "thresholds.json"), encoding="utf-8") as stream:
            self.table = files.json.load(stream)
        self.started = time.monotonic()
        self.document = {
            "schema_version": verdict_module.SCHEMA_VERSION,
            "tool": verdict_module.TOOL,
            "run_id": self.run_id,
            "started": files.now(),
            "finished": None,
            "duration_s": None,
            "host": describe_host(settings["host"]),
            "profile": settings["profile"],
            "simulated": settings["simulated"],
            "gpu_validated": False,
            "run_as": None,
            "expected": {"environments": {row["name"]: row["frameworks"] for row in settings["environments"]}},
            "observed": {"environments": {}},
            "dataset": None,
            "checks": [],
            "results": [],
            "gpu_use_proof": None,
            "self_test": None,
            "log_directory": self.run_directory,
            "fingerprint": None,
            "fingerprint_parts": {},
            "verdict": None,
        }

    # -- the order of things -------------------------------------------------------------------------------------

    def run(self, dry_run=False):
        """Validate, or reuse the earlier verdict.

        :param dry_run: only tell what would be done
        :returns: the answer for standard output
        """
        self.user = self._find_user()
        parts = reuse.parts(
            self.settings, files.programs_sha256(PROGRAMS), self.document["host"]["boot_id"], self._ask_interpreter
        )
        previous = self._previous()
        why = reuse.why_not(previous, parts, self.settings)
        if why is None:
            return {"reused": True, "reason": "nothing it rests on has changed", "document": previous}
        if dry_run:
            return {"reused": False, "reason": why, "would_run": [job.target for job in self._jobs()], "document": None}
        self.document.update(fingerprint_parts=parts, fingerprint=files.sha256_json(parts))
        self._write_unfinished("UNFINISHED", "the validation has not finished, or it was killed")
        try:
            self._prepare_directories()
            self._validate()
        except Interrupted as signal_name:
            self._write_unfinished("INTERRUPTED", "the validation was stopped by %s" % signal_name)
        except Exception as error:
            self._keep_traceback()
            message = "the validator itself failed (%s: %s); details: %s/internal-error.log"
            self._write_unfinished("INTERNAL", message % (type(error).__name__, error, self.run_directory))
        finally:
            if self.scratch:
                shutil.rmtree(self.scratch, ignore_errors=True)
        return {"reused": False, "reason": why, "document": self.document}

    def _validate(self):
        checks = self.document["checks"]
        required = [("validator.self_test", "validator"), ("host.gpu_evidence", "host")]
        checks.append(self._self_test())
        checks.append(gpu_evidence(self.settings["profile"], PCI_DEVICES))
        for row in self.settings["missing_environments"]:
            checks.append(
                gates.check(
                    "environment.available", gates.text(row["name"]), "WARN", row["reason"], "NOT_AVAILABLE", False
                )
            )
        jobs = self._jobs()
        for job in jobs:
            required += [("mnist.train", job.target), ("mnist.device", job.target)]
        if jobs:
            required.append(("data.available", "mnist"))
            self._run_jobs(jobs, checks)
        self._finish(checks, required if jobs or not self._nothing_asked() else None)

    def _run_jobs(self, jobs, checks):
        try:
            dataset = mnist_data.Finder(self.settings, self.table["datasets"], self._draw, self.allow_plain_http).find()
        except mnist_data.DataError as error:
            self.document["dataset"] = {"name": None, "origin": None, "tried": error.tried}
            checks.append(gates.check("data.available", "mnist", "UNKNOWN", str(error), error.reason_code))
            for job in jobs:
                for identity in ("mnist.train", "mnist.device"):
                    checks.append(
                        gates.check(identity, job.target, "UNKNOWN", "not run: there is no data set", "NO_DATA")
                    )
                self._add_result(job, None, None, "UNKNOWN", str(error))
            return
        title = self.table["datasets"][dataset.name]["title"]
        self.document["dataset"] = {
            "name": dataset.name,
            "title": title,
            "origin": dataset.origin,
            "tried": dataset.tried,
        }
        self.document["dataset"]["sha256"] = self.table["datasets"][dataset.name]["files"]
        checks.append(
            gates.check("data.available", "mnist", "PASS", "%s (%s): %s" % (dataset.name, title, dataset.origin))
        )
        for job in jobs:
            self._run_job(job, dataset, checks)
        if self.settings["profile"] == "gpu":
            checks.append(self._gpu_proof(checks))

    def _run_job(self, job, dataset, checks):
        """Run one job and judge it."""
        name = "%s-%s" % (job.environment["name"], job.framework)
        log = os.path.join(self.run_directory, name + ".log")
        result_path = os.path.join(self.scratch, name + ".json")
        command = [job.environment["python"], "-s", "-B", os.path.join(PROGRAMS, "jobs", "mnist_%s.py" % job.framework)]
        command += ["--data", dataset.directory, "--device", self.settings["profile"], "--result", result_path]
        command += ["--epochs", str(self.settings["job_epochs"]), "--batch-size", str(self.settings["job_batch_size"])]
        command += ["--seed", str(self.settings["job_seed"])]
        command += ["--mixed-precision"] if self.settings["job_mixed_precision"] else []
        outcome = self._start(command, log, self.settings["job_timeout"], job)
        result, problem = None, ""
        try:
            result = files.read_foreign_json(result_path)
        except ValueError as error:
            problem = str(error)
        judged = gates.judge_job(
            job.target, self.settings["profile"], outcome, result, problem, dataset.name, self.table, log
        )
        judged += self._judge_version(job, result)
        checks += judged
        worst = max(judged, key=lambda row: verdict_module.SEVERITY.index(verdict_module.severity(row)))
        note = "" if worst["status"] == "PASS" else worst["message"]
        self._add_result(job, result, outcome, worst["status"], note, dataset.name)
        self._event(
            {
                "event": "job",
                "target": job.target,
                "status": worst["status"],
                "state": outcome.state,
                "code": outcome.code,
            }
        )

    def _finish(self, checks, required):
        """Compose and write the verdict. ``required`` is None when there was nothing to validate."""
        if required is None:
            words = {"status": "SKIP", "label": "SKIP (no environment to validate)", "action": "none", "caps": []}
            self.document["verdict"] = dict(words, summary="no environment was given, so nothing was proven")
        else:
            required = required if any(pair[0] == "mnist.train" for pair in required) else []
            composed, missing = verdict_module.compose(
                checks, required, self.settings["profile"], self.settings["simulated"]
            )
            self.document["verdict"] = dict(composed, fingerprint=self.document["fingerprint"])
            self.document["self_test"]["required_checks_missing"] = ["%s %s" % pair for pair in missing]
        self.document.update(finished=files.now(), duration_s=round(time.monotonic() - self.started, 1))
        self._event({"event": "verdict", "status": self.document["verdict"]["status"]})
        try:
            self._write(self.document)
        except OSError as error:
            message = "the verdict cannot be written to %s: %s" % (self.verdict_path, error.strerror)
            self.document = verdict_module.unfinished(self.document, "UNWRITABLE", message)

    # -- single checks -------------------------------------------------------------------------------------------

    def _self_test(self):
        answers = gates.self_test(self.table)
        nothing, _ = verdict_module.compose([], [("mnist.train", "self-test")], "cpu", False)
        answers["missing_check_unknown"] = nothing["status"] == "UNKNOWN"
        self.document["self_test"] = answers
        bad = sorted(name for name, good in answers.items() if good is not True)
        if bad:
            return gates.check(
                "validator.self_test", "validator", "FAIL", "gates do not hold: %s" % ", ".join(bad), "SELF_TEST"
            )
        return gates.check("validator.self_test", "validator", "PASS", "corrupted results are refused")

    def _judge_version(self, job, result):
        """Compare the version that ran with the planned one, where a version was planned exactly."""
        planned, ran = job.environment["frameworks"][job.framework], (result or {}).get("version")
        if job.environment["origin"] != "managed" or not isinstance(planned, str) or not planned or not ran:
            return []
        matches = str(ran).split("+")[0] == planned.split("+")[0]
        message = "%s %s ran, %s is planned" % (job.framework, gates.text(ran, 40), planned)
        status, reason_code = ("PASS", "OK") if matches else ("FAIL", "VERSION")
        return [gates.check("environment.version", job.target, status, message, reason_code)]

    def _gpu_proof(self, checks):
        """Report the proofs of GPU use at hand: two of the five there should be, too few for a plain PASS."""
        signals = []
        for row in checks:
            if row["id"] == "mnist.device":
                signals.append({"name": "result_device", "target": row["target"], "ok": row["status"] == "PASS"})
                peak = row["measured"].get("allocator_peak_bytes")
                signals.append(
                    {"name": "allocator_peak", "target": row["target"], "bytes": peak, "ok": row["status"] == "PASS"}
                )
        self.document["gpu_use_proof"] = {
            "quorum_needed": 3,
            "quorum_reached": False,
            "signals": signals,
            "negative_control": None,
        }
        message = "GPU use is shown by the frameworks alone (device of the results, memory taken): no independent proof"
        return gates.check("gpu.proof", "host", "WARN", message, "NO_QUORUM", False)

    # -- doing things --------------------------------------------------------------------------------------------

    def _jobs(self):
        """Return the jobs in the order they run: one for each framework of each environment."""
        return [
            Job(row, framework, "%s/%s" % (row["name"], framework))
            for row in self.settings["environments"]
            for framework in settings_module.FRAMEWORKS
            if framework in row["frameworks"]
        ]

    def _nothing_asked(self):
        return not self.settings["environments"] and not self.settings["missing_environments"]

    def _draw(self):
        """Draw the digits with the first environment whose interpreter can; see mnist_data.Finder."""
        problem = "no environment to draw them with"
        for row in self.settings["environments"]:
            directory = tempfile.mkdtemp(prefix="digits-", dir=self.scratch)
            self._give_away(directory)
            command = [
                row["python"],
                "-s",
                "-B",
                os.path.join(PROGRAMS, "jobs", "generate_digits.py"),
                "--out",
                directory,
            ]
            log = os.path.join(self.run_directory, "generate_digits.log")
            outcome = self._start(command, log, DRAW_TIMEOUT)
            if outcome.state == "finished" and outcome.code == 0:
                return directory, ""
            last = ([line for line in outcome.tail.splitlines() if line.strip()] or [outcome.state])[-1]
            problem = "the digits cannot be drawn: %s" % gates.text(last)
        return None, problem

    def _start(self, command, log, timeout, job=None):
        """Run a program of ours under an environment's interpreter, as the unprivileged user."""
        environment = self._clean_environment(command[0], job)
        return processes.run(command, environment, self.scratch, log, timeout, self.user)

    def _clean_environment(self, python, job):
        """Return the environment variables of a job: only what it needs, and nowhere to write but its own directory."""
        cores = min(4, os.cpu_count() or 1)  # the network is small: more threads would only wait for each other
        answer = {
            "PATH": os.pathsep.join([os.path.dirname(python), "/usr/local/bin", "/usr/bin", "/bin"]),
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(cores),
            "TF_CPP_MIN_LOG_LEVEL": "1",
            # Take GPU memory as needed instead of all of it: others may be computing there.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        for name in (
            "HOME",
            "TMPDIR",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "KERAS_HOME",
            "MPLCONFIGDIR",
            "CUDA_CACHE_PATH",
        ):
            answer[name] = self.scratch
        if self.settings["profile"] == "cpu":
            answer.update(JAX_PLATFORMS="cpu", CUDA_VISIBLE_DEVICES="")
        else:
            answer.update(JAX_PLATFORMS="cuda")
        if job is not None and job.framework == "keras":
            answer["KERAS_BACKEND"] = job.environment["keras_backend"] or default_keras_backend(
                job.environment["frameworks"]
            )
        return answer

    def _ask_interpreter(self, python):
        """Return the output of reuse.LIST_DISTRIBUTIONS under an interpreter, or an empty string."""
        with tempfile.TemporaryDirectory(prefix="gpulab-ask-") as directory:
            log = os.path.join(directory, "log")
            environment = {
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "PYTHONNOUSERSITE": "1",
                "HOME": "/nonexistent",
            }
            outcome = processes.run(
                [python, "-s", "-B", "-c", reuse.LIST_DISTRIBUTIONS], environment, "/", log, ASK_TIMEOUT, self.user
            )
            return outcome.tail if outcome.state == "finished" and outcome.code == 0 else ""

    def _find_user(self):
        """Return whom the jobs run as: the unprivileged user when we are root and it exists, else None: ourselves."""
        name = self.settings["user"]
        if os.geteuid() == 0 and name:
            try:
                user = processes.User(name)
                self.document["run_as"] = name
                return user
            except KeyError:
                pass
        self.document["run_as"] = "uid %d" % os.geteuid()
        return None

    def _prepare_directories(self):
        os.makedirs(self.run_directory, mode=0o755)
        runs = os.path.dirname(self.run_directory)
        for old in sorted(os.listdir(runs))[:-KEPT_RUNS]:
            shutil.rmtree(os.path.join(runs, old), ignore_errors=True)
        self.scratch = tempfile.mkdtemp(prefix="gpulab-validation-")
        self._give_away(self.scratch)
        self._event({"event": "started", "fingerprint": self.document["fingerprint"]})

    def _give_away(self, path):
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid)

    # -- writing -------------------------------------------------------------------------------------------------

    def _previous(self):
        try:
            return files.read_foreign_json(self.verdict_path)
        except ValueError:
            return None

    def _write(self, document):
        files.write_atomically(self.verdict_path, files.to_json(document, indent=1).encode("utf-8") + b"\n")

    def _write_unfinished(self, reason_code, message):
        """Put UNKNOWN in place of whatever verdict is there. Where even that is impossible the old one is removed."""
        self.document = verdict_module.unfinished(self.document, reason_code, message)
        try:
            self._write(self.document)
        except OSError as error:
            files.remove(self.verdict_path)
            message = "%s; and %s cannot be written: %s" % (message, self.verdict_path, error.strerror or error)
            self.document = verdict_module.unfinished(self.document, "UNWRITABLE", message)

    def _add_result(self, job, result, outcome, status, note, dataset=None):
        """Add one row for the table that a person reads, and what was observed."""
        result = result or {}
        accuracy = result.get("accuracy")

        def word(key):
            return gates.text(result[key], 80) if result.get(key) is not None else None

        backend = job.environment["keras_backend"] or default_keras_backend(job.environment["frameworks"])
        self.document["results"].append(
            {
                "environment": job.environment["name"],
                "framework": job.framework,
                "version": word("version"),
                "python": word("python"),
                "keras_backend": (word("keras_backend") or backend) if job.framework == "keras" else None,
                "device": word("device"),
                "device_name": word("device_name"),
                "dataset": dataset,
                "accuracy": round(accuracy, 4) if gates.is_number(accuracy) else None,
                "seconds": round(outcome.seconds, 1) if outcome else None,
                "batch_size": result.get("batch_size") if gates.is_number(result.get("batch_size")) else None,
                "status": status,
                "note": gates.text(note, 400),
            }
        )
        observed = self.document["observed"]["environments"].setdefault(job.environment["name"], {})
        observed[job.framework] = word("version")

    def _event(self, event):
        """Add a line to the run's event log; a log that cannot be written does not change the verdict."""
        try:
            with open(os.path.join(self.run_directory, "events.ndjson"), "a", encoding="utf-8") as stream:
                stream.write(files.to_json(dict({"time": files.now()}, **event)) + "\n")
        except OSError:
            pass

    def _keep_traceback(self):
        try:
            with open(os.path.join(self.run_directory, "internal-error.log"), "w", encoding="utf-8") as stream:
                traceback.print_exc(file=stream)
        except OSError:
            pass


def default_keras_backend(frameworks):
    """Return the backend of an environment that does not name one."""
    for framework, backend in (("tensorflow", "tensorflow"), ("pytorch", "torch"), ("jax", "jax")):
        if framework in frameworks:
            return backend
    return "tensorflow"


def gpu_evidence(profile, pci_devices):
    """Compare the profile with what the PCI bus shows, which needs no driver."""
    found = []
    try:
        for address in sorted(os.listdir(pci_devices)) if os.path.isdir(pci_devices) else []:
            device = [read_text(os.path.join(pci_devices, address, name)) for name in ("vendor", "class")]
            if device[0] == "0x10de" and device[1].startswith("0x03"):
                found.append(address)
    except OSError as error:
        return gates.check(
            "host.gpu_evidence", "host", "WARN", "%s: %s" % (pci_devices, error.strerror), "UNREADABLE", tier=0
        )
    more = {"measured": {"nvidia_gpus": found}, "tier": 0}
    if profile == "cpu" and found:
        message = "an NVIDIA GPU is there (%s), but the profile is cpu: it was not used and nothing is claimed about it"
        return gates.check("host.gpu_evidence", "host", "WARN", message % ", ".join(found), "GPU_PRESENT", **more)
    if profile == "gpu" and not found:
        return gates.check(
            "host.gpu_evidence", "host", "FAIL", "profile gpu, but the PCI bus shows no NVIDIA GPU", "NO_GPU", **more
        )
    return gates.check(
        "host.gpu_evidence", "host", "PASS", "%d NVIDIA GPUs on the PCI bus, profile %s" % (len(found), profile), **more
    )


def describe_host(name):
    machine_id = read_text("/etc/machine-id")
    return {
        "name": name or socket.gethostname(),
        "boot_id": read_text("/proc/sys/kernel/random/boot_id"),
        "kernel": platform.release(),
        "machine_id_hash": hashlib.sha256(machine_id.encode()).hexdigest() if machine_id else None,
    }


def read_text(path):
    """Return the stripped text of a small file, or an empty string when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


class Lock:
    """Only one validation per host. The kernel drops the lock with the process, however that ends."""

    def __init__(self, directory):
        self.path = os.path.join(directory, "lock")

    def __enter__(self):
        """:raises Refused: when another validation holds it"""
        self.stream = open(self.path, "a+", encoding="utf-8")
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.stream.seek(0)
            holder = gates.text(self.stream.read(200)) or "unknown process"
            self.stream.close()
            raise Refused("another validation is running on this host (%s)" % holder) from None
        self.stream.truncate(0)
        self.stream.write("pid %d since %s" % (os.getpid(), files.now()))
        self.stream.flush()
        return self

    def __exit__(self, *_):
        self.stream.close()


def stop_on(signal_number, _):
    raise Interrupted(signal.Signals(signal_number).name)


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
        return {"error": {"reason_code": "SETTINGS", "message": str(error), "problems": error.problems}}, 3
    if options.always:
        settings["job_policy"] = "always"
    validation = Validation(settings, options.allow_plain_http)
    if options.dry_run:
        reply = validation.run(dry_run=True)
        return dict(reply, exit_code=0), 0
    try:
        os.makedirs(validation.directory, mode=0o755, exist_ok=True)
        with Lock(validation.directory):
            reply = validation.run()
    except Refused as error:
        return {"error": {"reason_code": "LOCKED", "message": str(error)}}, 4
    except OSError as error:
        message = "%s cannot be used: %s" % (validation.directory, error.strerror or error)
        return {"error": {"reason_code": "UNWRITABLE", "message": message}}, 3
    status = reply["document"]["verdict"]["status"]
    code = 1 if options.strict and status == "WARN" else verdict_module.EXIT_CODES.get(status, 2)
    return dict(reply, exit_code=code), code


def main(arguments=None):
    try:
        options = parse(arguments)
    except SystemExit as stop:  # argparse ends with 2, which means UNKNOWN here
        return 3 if stop.code else 0
    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signal_number, stop_on)
    try:
        reply, code = answer(options)
    except Interrupted as signal_name:
        reply, code = {"error": {"reason_code": "INTERRUPTED", "message": "stopped by %s" % signal_name}}, 2
    except Exception as error:
        message = "the validator itself failed: %s: %s" % (type(error).__name__, error)
        reply, code = {"error": {"reason_code": "INTERNAL", "message": message}}, 2
    try:
        print(files.to_json(reply), flush=True)
        if sys.stderr.isatty():
            last = reply.get("error") or reply["document"]["verdict"]
            print("%s: %s" % (last.get("label", "error"), last.get("summary") or last.get("message")), file=sys.stderr)
    except (BrokenPipeError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens any more; the verdict is on disk
    return code


if __name__ == "__main__":
    sys.exit(main())
