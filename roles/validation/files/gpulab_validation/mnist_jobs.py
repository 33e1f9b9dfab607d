# SPDX-License-Identifier: Apache-2.0
"""The MNIST job in every framework of every environment, with the proofs that it ran where it claims, and the control.

The control is the same job with no GPU to see: it has to fail at once. One that trains then would train on the
processor whenever a GPU is missing, and nobody would notice.
"""

from __future__ import annotations

import collections
import contextlib
import os

import data_parallel
import gates
import gpu_proof
import mnist_data
import observe
import settings as settings_module
import verdict as verdict_module

#: Seconds for drawing the digits.
DRAW_TIMEOUT = 600

Job = collections.namedtuple("Job", "environment framework target")


def jobs(environments):
    """Return a Job for every framework of every environment."""
    return [
        Job(row, framework, "%s/%s" % (row["name"], framework))
        for row in environments
        for framework in settings_module.FRAMEWORKS
        if framework in row["frameworks"]
    ]


def required(c):
    """Return the checks (id, target) that the profile demands of this tier."""
    answer = [("data.available", "mnist")]
    for job in jobs(c.environments):
        answer += [(name, job.target) for name in ("mnist.train", "mnist.device")]
    return answer + gpu_proof.required(c) + data_parallel.required(c)


def run(c, allow_plain_http=False):
    """Find the data set, run every job on it, and the control; return the checks and the document's parts.

    :param allow_plain_http: let mirrors be http:// (for tests)
    """
    return _Run(c, allow_plain_http).run()


class _Run:
    def __init__(self, c, allow_plain_http):
        self.c, self.runner, self.allow_plain_http = c, c.runner, allow_plain_http
        self.jobs = jobs(c.environments)
        self.parts = {"dataset": None, "results": [], "observed": {}, "gpu_use_proof": None, "data_parallel": None}

    def run(self):
        find = mnist_data.Finder(self.c.settings, self.c.table["datasets"], self._draw, self.allow_plain_http).find
        try:
            dataset = find()
        except mnist_data.DataError as error:
            self.parts["dataset"] = {"name": None, "title": None, "origin": None, "tried": error.tried}
            return self._without_data(error), self.parts
        row = self.c.table["datasets"][dataset.name]
        sums = {name: entry["sha256"] for name, entry in row["files"].items()}
        self.parts["dataset"] = dict(dataset._asdict(), title=row["title"], sha256=sums)
        del self.parts["dataset"]["directory"]
        words = "%s (%s): %s" % (dataset.name, row["title"], dataset.origin)
        checks = [gates.check("data.available", "mnist", "PASS", words)]
        proofs = {}
        for job in self.jobs:
            checks += self._job(job, dataset, proofs)
        for job in self.jobs:
            checks.append(self._control(job, dataset))
        self.parts["gpu_use_proof"] = gpu_proof.section(proofs, checks)
        made, self.parts["data_parallel"] = data_parallel.run(self.c, dataset.directory)
        return checks + made, self.parts

    def _without_data(self, error):
        checks = [gates.check("data.available", "mnist", "UNKNOWN", str(error), error.reason_code)]
        for identity, target in required(self.c):
            if identity != "data.available":
                checks.append(gates.check(identity, target, "UNKNOWN", "not run: there is no data set", "NO_DATA"))
        for job in self.jobs:
            self._add_result(job, "UNKNOWN", str(error))
        return checks

    def _job(self, job, dataset, proofs):
        """Run one job and judge it; return the checks."""
        c, name = self.c, "%s-%s" % (job.environment["name"], job.framework)
        self.runner.progress("training on %s in %s" % (dataset.name, job.target))
        on_gpu = c.profile == "gpu"
        watch = observe.Watch(self.runner) if on_gpu else None
        arguments = self._arguments(dataset, c.profile, name + ".json")
        backend = keras_backend(job) if job.framework == "keras" else None
        devices = c.devices[:1] if on_gpu else None
        program, log = "mnist_%s.py" % job.framework, name + ".log"
        with watch or contextlib.nullcontext():
            outcome = self.runner.start(
                job.environment, program, arguments, log, c.settings["job_timeout"], devices, backend
            )
        result, problem = self.runner.result(name + ".json")
        path = os.path.join(self.runner.run_directory, log)
        checks = gates.judge_job(job.target, c.profile, outcome, result, problem, dataset.name, c.table, path)
        checks += judge_version(job, result)
        if watch is not None:
            check, proofs[job.target] = gpu_proof.judge(
                job.target, result, watch.result(), uuids(c, devices), c.table, [path]
            )
            checks.append(check)
        worst = max(checks, key=lambda row: verdict_module.SEVERITY.index(verdict_module.severity(row)))
        note = "" if worst["status"] == "PASS" else worst["message"]
        self._add_result(job, worst["status"], note, result, outcome, dataset.name)
        self.runner.event("job", target=job.target, status=worst["status"], state=outcome.state, code=outcome.code)
        return checks

    def _control(self, job, dataset):
        """Run a job that must refuse: it is told to use a GPU and sees none. Return the check mnist.control."""
        name = "%s-%s-control" % (job.environment["name"], job.framework)
        arguments = self._arguments(dataset, "gpu", name + ".json")
        backend = keras_backend(job) if job.framework == "keras" else None
        timeout = self.c.table["job"]["control_timeout_s"]["value"]
        program = "mnist_%s.py" % job.framework
        outcome = self.runner.start(job.environment, program, arguments, name + ".log", timeout, [], backend)
        result, problem = self.runner.result(name + ".json")
        log = os.path.join(self.runner.run_directory, name + ".log")
        return gpu_proof.judge_control(job.target, outcome, result, problem, self.c.table, log)

    def _arguments(self, dataset, device, result):
        """Return the command line of a job."""
        settings = self.c.settings
        answer = ["--data", dataset.directory, "--device", device, "--result", self.runner.result_path(result)]
        for option in ("epochs", "batch_size", "seed"):
            answer += ["--" + option.replace("_", "-"), str(settings["job_" + option])]
        return answer + (["--mixed-precision"] if settings["job_mixed_precision"] else [])

    def _draw(self):
        """Draw the digits with the first environment that can; see mnist_data.Finder."""
        problem = "no environment to draw them with"
        for row in self.c.environments:
            directory = self.runner.directory_for_jobs()
            arguments = ["--out", directory]
            outcome = self.runner.start(row, "generate_digits.py", arguments, "generate_digits.log", DRAW_TIMEOUT)
            if outcome.state == "finished" and outcome.code == 0:
                return directory, ""
            problem = "the digits cannot be drawn in environment %s: %s" % (row["name"], gates.last_line(outcome.tail))
        return None, problem

    def _add_result(self, job, status, note, result=None, outcome=None, dataset=None):
        """Add one row for the table that a person reads, and what was observed."""
        result = result or {}

        def word(key):
            return gates.text(result[key], 80) if result.get(key) is not None else None

        def number(key, digits=None):
            return round(result[key], digits) if gates.is_number(result.get(key)) else None

        losses = result.get("loss_curve")
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
            "loss_curve": [x for x in losses if gates.is_number(x)][:1000] if isinstance(losses, list) else [],
        }
        self.parts["results"].append(row)
        observed = self.parts["observed"].setdefault(row["environment"], {})
        observed[job.framework] = row["version"]


def uuids(c, devices):
    """Return the UUIDs under which the driver lists processes on some devices: those of a MIG instance's GPU, too."""
    wanted = {device.uuid for device in devices}
    places = {device.bdf for device in devices}
    gpus = ((c.observation or {}).get("nvml") or {}).get("gpus") or ()
    return sorted(wanted | {gpu["uuid"] for gpu in gpus if gpu.get("bdf") in places and gpu.get("uuid")})


def keras_backend(job):
    """Return what Keras runs on: what its environment says, else the framework beside it."""
    if job.environment["keras_backend"]:
        return job.environment["keras_backend"]
    for backend, framework in settings_module.KERAS_BACKENDS.items():
        if framework in job.environment["frameworks"]:
            return backend
    return "tensorflow"


def judge_version(job, result):
    """Compare the version that ran with the locked one, in environments of this project; return the checks."""
    planned, ran = job.environment["frameworks"][job.framework], (result or {}).get("version")
    if job.environment["origin"] != "managed" or not isinstance(planned, str) or not planned or not ran:
        return []
    ran = gates.text(ran, 40)
    words = "%s %s ran, %s is in the environment's lock" % (job.framework, ran, planned)
    if ran.split("+")[0] == planned.split("+")[0]:  # 2.13.0+cpu is 2.13.0
        return [gates.check("environment.version", job.target, "PASS", words)]
    return [gates.check("environment.version", job.target, "FAIL", words, "VERSION")]
