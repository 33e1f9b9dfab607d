#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prove that a host's GPUs and environments work, tier by tier, and write the verdict.

    python3 validate.py --config config.json

Tiers 0 to 2 only look (preflight, identity, health) and are looked at in every run. Tiers 3 to 6 compute (numerics, the
MNIST job, performance, diagnostics); an earlier PASS or WARN of theirs holds until something it rests on changes.

Standard library only, Python 3.8 or newer. The verdict file reads UNKNOWN from the first moment that something is
computed to the last, so whatever ends this program early leaves UNKNOWN behind. One JSON line goes to standard output.

Exit status: 0 PASS or WARN, 1 FAIL, 2 UNKNOWN (could not be assessed), 3 wrong settings, 4 refused (another validation
is running, or somebody works on the GPUs), 77 nothing to validate.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import signal
import sys
import time
import traceback
import types

sys.dont_write_bytecode = True  # the directory of the programs belongs to the role: nothing else may appear in it

import data_parallel
import diagnostics
import facts as facts_module
import files
import gates
import gpu_proof
import health
import host
import identity
import kernel_log
import lock
import looks
import mnist_jobs
import numerics
import observe
import performance
import preflight
import processes
import reuse
import runner as runner_module
import settings as settings_module
import textfile
import verdict as verdict_module

PROGRAMS = os.path.dirname(os.path.abspath(__file__))
LAST_TIER = len(verdict_module.TIERS) - 1

#: A GPU as jobs see it; a MIG instance is one, with the address of its parent. ``memory`` in bytes.
Device = collections.namedtuple("Device", "index uuid bdf name product memory")


class Interrupted(BaseException):
    """A signal asks us to stop."""


class Busy(Exception):
    """Somebody works on the GPUs; the message names who."""


class Validation:
    """One validation of this host.

    :param settings: checked settings, see settings.py
    :param allow_plain_http: let mirrors be http:// (for tests)
    :param root: a directory that stands for ``/`` where facts are read (for tests)
    :param last_tier: the last tier to run
    """

    def __init__(self, settings, allow_plain_http=False, root="/", last_tier=LAST_TIER):
        self.settings, self.allow_plain_http, self.root, self.last_tier = settings, allow_plain_http, root, last_tier
        self.directory = os.path.join(settings["base_dir"], "validation")
        self.verdict_path = os.path.join(self.directory, "verdict.json")
        self.known_path = os.path.join(self.directory, "known.json")
        self.run_id = files.new_run_id()
        self.user = find_user(settings["user"])
        self.table, self.products = read_table("thresholds.json"), read_table("products.json")
        self.runner = runner_module.Runner(settings, self.table, PROGRAMS, self.directory, self.run_id, self.user)
        self.started = time.monotonic()
        self.seconds = {}  # by tier
        self.document = {
            "schema_version": verdict_module.SCHEMA_VERSION,
            "tool": verdict_module.TOOL,
            "run_id": self.run_id,
            "started": files.now(),
            "finished": None,
            "checked": None,
            "duration_s": None,
            "host": host.describe(settings["host"]),
            "profile": settings["profile"],
            "simulated": settings["simulated"],
            "gpu_validated": False,
            "run_as": self.user.name if self.user else "uid %d" % os.geteuid(),
            "expected": dict(
                settings["expected"], environments={row["name"]: row["frameworks"] for row in settings["environments"]}
            ),
            "observed": {"environments": {}},
            "dataset": None,
            "results": [],
            "checks": [],
            "tiers": {},
            "numerics": None,
            "performance": None,
            "gpu_use_proof": None,
            "data_parallel": None,
            "diagnostics": None,
            "self_test": None,
            "log_directory": self.runner.run_directory,
            "fingerprint": None,
            "fingerprint_parts": {},
            "log_position": None,
            "verdict": None,
        }

    # -- the order of things -------------------------------------------------------------------------------------

    def run(self, dry_run=False):
        """Look at the host, and compute or use the earlier proof again.

        :param dry_run: only tell what would be done
        :returns: the answer for standard output
        :raises Busy: when something would be computed and somebody works on the GPUs
        """
        why = ""
        try:
            previous = self._previous()
            if dry_run:
                self.runner.prepare_for_looking()
            else:
                self.runner.prepare(keep=(previous or {}).get("log_directory"))
            c = self._look(previous)
            parts = reuse.parts(
                self.settings, files.programs_sha256(PROGRAMS), c, self.runner.look_into, self._ask_interpreter
            )
            only_looking = self.last_tier < verdict_module.FIRST_COSTLY
            why = reuse.why_not(previous, parts, self.settings, only_looking)
            if dry_run:
                return self._would_run(previous, why)
            self.document.update(fingerprint_parts=parts, fingerprint=files.sha256_json(parts))
            if why is None:
                self._only_looked()
                self._carry(previous)
                self._judge(c, previous)
                if self.document["verdict"]["status"] in ("PASS", "WARN"):
                    self.runner.forget()
                return {"reused": True, "reason": "nothing it rests on has changed", "document": self.document}
            if only_looking:
                self._only_looked()
                self._not_run(c, "NOT_PROVEN", "not proven since: %s" % why)
            else:
                self._compute(c)
            self._judge(c)
        except Interrupted as signal_name:
            self._write_unfinished("INTERRUPTED", "the validation was stopped by %s" % signal_name)
        except Busy:
            self._refuse(c, previous, parts)
            raise
        except runner_module.NoAnswer as error:
            self._write_unfinished("NO_ANSWER", str(error))
        except Exception as error:
            if dry_run:
                raise
            self._keep_traceback()
            words = "the validator itself failed (%s: %s); details are in %s/internal-error.log"
            self._write_unfinished("INTERNAL", words % (type(error).__name__, error, self.runner.run_directory))
        finally:
            self.runner.clean()
        return {"reused": False, "reason": why, "document": self.document}

    def _ask_interpreter(self, python):
        return self.runner.ask(python, reuse.LIST_DISTRIBUTIONS)

    def _look(self, previous):
        """Make the checks of the tiers that only look; return the context of all checks."""
        settings, checks = self.settings, self.document["checks"]
        on_gpu = settings["profile"] == "gpu"
        self.seconds[0] = time.monotonic()
        facts = facts_module.collect(settings, self.root)
        c = types.SimpleNamespace(
            settings=settings, table=self.table, products=self.products, profile=settings["profile"], facts=facts,
            expected=dict(
                dict.fromkeys(settings_module.EXPECTED), **settings["expected"],
                accept_hardware=settings["accept_hardware"],
            ),
            observation=None, kernel_log=None, known=self._known(), previous=previous,
            environments=settings["environments"], devices=[], runner=self.runner,
        )  # fmt: skip
        self.log_position = log_position(previous, facts["boot_id"]) if on_gpu else None
        self.document["log_position"] = kernel_log.position() if on_gpu else None
        checks.append(self._self_test())
        checks += missing_environments(settings)
        checks += preflight.checks(c)
        self.seconds[0] = took(self.seconds[0])
        self.seconds[1] = time.monotonic()
        c.observation = observe.observe(self.runner) if on_gpu else None
        c.devices = devices(c)
        simulated = settings["simulated"] or facts["simulated"] or bool((c.observation or {}).get("simulated"))
        self.document["simulated"] = simulated
        self.document["observed"] = observed(c)
        checks += identity.checks(c)
        if on_gpu:
            # What only the driver can tell: who works on the GPUs and, in WSL, which there are.
            again = (preflight.judge_evidence, preflight.judge_inventory, preflight.judge_busy)
            self._replace([*(judge(c) for judge in again), judge_devices(c)])
        self.seconds[1] = took(self.seconds[1])
        self.seconds[2] = time.monotonic()
        c.kernel_log = kernel_log.read(facts["boot_id"], self.log_position) if on_gpu else None
        checks += health.checks(c)
        self.seconds[2] = took(self.seconds[2])
        return c

    def _refuse(self, c, previous, parts):
        """Somebody works on the GPUs, so nothing is computed; what was seen is written all the same.

        A proof that still holds but for its age stands; one that does not must not go on speaking for the host.
        """
        why = reuse.why_not(previous, parts, self.settings, only_looking=True)
        self._only_looked()
        if why is None:
            self._carry(previous)
            self._judge(c, previous)
        else:
            self._not_run(c, "NOT_PROVEN", "not proven since: %s" % why)
            self._judge(c)

    def _compute(self, c):
        """Run the tiers that compute, one after the other, unless the host is not fit for it.

        :raises Busy: when somebody works on the GPUs: what is computed now would disturb it, and be disturbed by it
        """
        failed = [row for row in self.document["checks"] if row["status"] == "FAIL"]
        bad = [row for row in failed if row["id"] != "gpu.busy"]
        if c.profile == "gpu" and not c.devices:
            bad = bad or [row for row in self.document["checks"] if row["id"] == "gpu.devices"]
        blocked = bool(bad) and c.profile == "gpu"
        busy = [row for row in failed if row["id"] == "gpu.busy"]
        if busy and not blocked:
            raise Busy(busy[0]["message"])
        self._write_unfinished("UNFINISHED", "the validation has not finished, or it was killed")
        if blocked:
            self._only_looked()
            # A driver that hangs would take every job with it; the verdict is FAIL whatever they would say.
            self._not_run(c, "BLOCKED", "not run: %s" % bad[0]["message"])
            return
        for number, (tier, _) in COSTLY.items():
            if number > self.last_tier:
                words = "not run: only tiers up to %d were asked for" % self.last_tier
                self._not_run(c, "NOT_REQUESTED", words, number)
                continue
            if number == 4 and not c.environments:
                continue
            started = time.monotonic()
            self.runner.event("tier", number=number, name=verdict_module.TIERS[number])
            checks = tier(self, c)
            for row in checks:
                row["tier"] = number
            self.document["checks"] += checks
            self.seconds[number] = took(started)
        if c.profile == "gpu":
            self._look_again(c)

    def _look_again(self, c):
        """Judge driver and health once more: some faults show under load alone."""
        c.kernel_log = kernel_log.read(c.facts["boot_id"], self.log_position)
        c.observation = observe.observe(self.runner)
        self.document["observed"].update(gpus=observed(c)["gpus"])
        # A GPU that has just worked is warm, and may still be slowed down for it; tier 5 has judged that.
        self._replace(identity.checks(c) + [row for row in health.checks(c) if row["id"] != "thermal"])

    def _numerics(self, c):
        self.runner.progress("comparing arithmetic with NumPy's in 64 bits")
        checks, self.document["numerics"] = numerics.run(c)
        return checks

    def _job(self, c):
        checks, parts = mnist_jobs.run(c, self.allow_plain_http)
        self.document["observed"]["environments"] = parts.pop("observed")
        self.document.update(parts)
        return checks

    def _performance(self, c):
        self.runner.progress("measuring products and bandwidths")
        checks, self.document["performance"] = performance.run(c)
        return checks

    def _diagnostics(self, c):
        checks, self.document["diagnostics"] = diagnostics.run(c)
        return checks

    def _only_looked(self):
        """Somebody's work on the GPUs speaks against computing, not against a host that was only looked at."""
        for row in self.document["checks"]:
            if row["id"] == "gpu.busy" and row["status"] == "FAIL":
                words = "no hindrance, for nothing was computed: %s" % row["message"]
                row.update(status="PASS", reason_code="OK", message=words)

    def _judge(self, c, previous=None):
        """Compose the verdict of all checks and write it.

        :param previous: the document whose costly checks were taken over, None when there is none
        """
        checks = self.document["checks"]
        nothing = not c.environments and not self.settings["missing_environments"]
        if nothing and c.profile == "cpu":
            self._finish(verdict_module.nothing_to_validate())
            return
        if not c.environments and c.profile == "gpu":
            words = "no environment was given: the GPUs were looked at, and nothing was computed"
            checks.append(gates.check("validation.jobs", "host", "WARN", words, "NOTHING_COMPUTED", required=False))
        required = [("validator.self_test", "validator", 0)] if c.environments or c.profile == "gpu" else []
        if required:
            for number, tier in enumerate((preflight, identity, health)):
                required += [(*pair, number) for pair in tier.required(c)]
            for number, (_, wanted) in COSTLY.items():
                if self._is_wanted(number, c):
                    required += [(*pair, number) for pair in wanted(c)]
        verdict, missing = verdict_module.compose(checks, required, c.profile, self.document["simulated"])
        self.document["self_test"]["required_checks_missing"] = ["%s %s" % pair for pair in missing]
        earlier = previous.get("tiers") or {} if previous is not None else None
        self.document["tiers"] = verdict_module.tiers(checks, self.table["budgets"], self.seconds, earlier, files.now())
        self.document["gpu_validated"] = self._gpu_validated(c, verdict)
        self._remember(c, verdict)
        self._finish(verdict, previous is not None)

    def _is_wanted(self, number, c):
        if number == 5:
            return self.settings["performance"] and bool(c.environments)
        if number == 6:
            return bool(self.settings["diagnostics"])
        return bool(c.environments)

    def _gpu_validated(self, c, verdict):
        """Tell whether real GPUs computed right and the jobs were proven to run there, in this boot."""
        tiers = self.document["tiers"]
        computed = all(tiers[str(number)]["status"] in ("PASS", "WARN") for number in (3, 4))
        proven = [row["status"] for row in self.document["checks"] if row["id"] == "gpu.proof"]
        good = verdict["status"] in ("PASS", "WARN") and computed and bool(proven) and set(proven) == {"PASS"}
        return c.profile == "gpu" and not self.document["simulated"] and good

    def _not_run(self, c, reason_code, words, only=None):
        """Add an UNKNOWN for every check of the costly tiers that the profile demands."""
        for number, (_, required) in COSTLY.items():
            if only in (None, number) and self._is_wanted(number, c):
                for identity_of_check, target in required(c):
                    self.document["checks"].append(
                        gates.check(identity_of_check, target, "UNKNOWN", words, reason_code, tier=number)
                    )

    def _replace(self, checks):
        """Put newer checks in the place of those with the same id and target."""
        newer = {(row["id"], row["target"]) for row in checks}
        kept = [row for row in self.document["checks"] if (row["id"], row["target"]) not in newer]
        self.document["checks"][:] = kept + checks

    def _carry(self, previous):
        """Take over from an earlier document what its costly tiers found."""
        costly = [row for row in previous["checks"] if row["tier"] >= verdict_module.FIRST_COSTLY]
        self.document["checks"] += costly
        for key in ("run_id", "started", "finished", "duration_s", "log_directory", *CARRIED):
            self.document[key] = previous.get(key)
        self.document["observed"]["environments"] = (previous.get("observed") or {}).get("environments", {})
        for number in range(verdict_module.FIRST_COSTLY, len(verdict_module.TIERS)):
            tier = (previous.get("tiers") or {}).get(str(number)) or {}
            self.seconds[number] = tier.get("duration_s")

    def _would_run(self, previous, why):
        if why is None:
            return {"reused": True, "reason": "nothing it rests on has changed", "document": previous}
        targets = [job.target for job in mnist_jobs.jobs(self.settings["environments"])]
        return {"reused": False, "reason": why, "would_run": targets, "document": None}

    # -- single checks -------------------------------------------------------------------------------------------

    def _self_test(self):
        """Feed the gates what they must refuse. Runs every time: a validator that cannot say no proves nothing."""
        answers = {}
        for module in SELF_TESTED:
            answers.update(module.self_test(self.table))
        nothing, _ = verdict_module.compose([], [("mnist.train", "self-test", 4)], "cpu", False)
        answers["missing_check_unknown"] = nothing["status"] == "UNKNOWN"
        self.document["self_test"] = answers
        bad = sorted(name for name, good in answers.items() if good is not True)
        if bad:
            words = "the gates do not hold: %s" % ", ".join(bad)
            return gates.check("validator.self_test", "validator", "FAIL", words, "SELF_TEST", tier=0)
        return gates.check("validator.self_test", "validator", "PASS", "corrupted results are refused", tier=0)

    # -- what is remembered ----------------------------------------------------------------------------------------

    def _previous(self):
        try:
            return files.read_foreign_json(self.verdict_path, files.DOCUMENT_LIMIT)
        except ValueError:
            return None

    def _known(self):
        try:
            return files.read_foreign_json(self.known_path)
        except ValueError:
            return None

    def _remember(self, c, verdict):
        """Note which GPUs are here once the host was judged good: the next run compares with them."""
        gpus = identity.inventory(c) if c.profile == "gpu" and verdict["status"] in ("PASS", "WARN") else []
        if not gpus or any(row["reason_code"] == "HARDWARE_CHANGED" for row in self.document["checks"]):
            return
        if {"gpus": gpus} != c.known:
            files.write_atomically(self.known_path, files.to_json({"gpus": gpus}, indent=1).encode("utf-8") + b"\n")

    # -- the verdict and its file --------------------------------------------------------------------------------

    def _finish(self, verdict, reused=False):
        self.document["verdict"] = dict(verdict, fingerprint=self.document["fingerprint"])
        self.document["checked"] = files.now()
        if not reused:
            self.document.update(finished=files.now(), duration_s=took(self.started))
        self.runner.event("verdict", status=verdict["status"])
        try:
            self._write()
        except OSError as error:  # the UNKNOWN from the beginning stays
            words = "the verdict cannot be written to %s: %s" % (self.verdict_path, error.strerror or error)
            if reused:  # nothing was written yet, and an old verdict must not speak for this run
                files.remove(self.verdict_path)
            self.document = verdict_module.unfinished(self.document, "UNWRITABLE", words)

    def _write_textfile(self):
        """Write the metrics; where that is impossible it is said, and the verdict is no worse for it."""
        path = os.path.join(self.settings["textfile_dir"], textfile.NAME)
        try:
            textfile.write(path, self.document)
        except OSError as error:
            words = "%s cannot be written: %s" % (path, error.strerror or error)
            self.runner.event("textfile", problem=words)
            print(words, file=sys.stderr)

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
        if self.settings["textfile_dir"]:
            self._write_textfile()

    def _keep_traceback(self):
        try:
            with open(os.path.join(self.runner.run_directory, "internal-error.log"), "w", encoding="utf-8") as stream:
                traceback.print_exc(file=stream)
        except OSError:
            pass


#: The tiers that compute: number -> (what runs it, what it demands).
COSTLY = {
    3: (Validation._numerics, numerics.required),
    4: (Validation._job, mnist_jobs.required),
    5: (Validation._performance, performance.required),
    6: (Validation._diagnostics, diagnostics.required),
}
SELF_TESTED = (gates, preflight, identity, health, numerics, gpu_proof, data_parallel, performance, diagnostics)
#: Parts of the document that costly tiers fill.
CARRIED = ("dataset", "results", "numerics", "performance", "gpu_use_proof", "data_parallel", "diagnostics")


def read_table(name):
    with open(os.path.join(PROGRAMS, name), encoding="utf-8") as stream:
        return json.load(stream)


def log_position(previous, boot_id):
    """Return from where on the kernel's messages are news: where the last run of this boot began, else now.

    After a run that told of a fault it is now as well: that fault is known, and asks for new proof.
    """
    same_boot = looks.part(previous, "host", "boot_id") == boot_id
    told = any(row.get("id") == "xid" and row.get("status") == "FAIL" for row in looks.rows(previous, "checks") or ())
    earlier = looks.part(previous, "log_position") if same_boot and not told else None
    return earlier if isinstance(earlier, dict) and earlier else kernel_log.position()


def took(started):
    return round(time.monotonic() - started, 1)


def missing_environments(settings):
    """Return a WARN for every optional environment that no source could give."""
    make = functools.partial(gates.check, "environment.available", required=False, tier=0)
    return [
        make(gates.text(row["name"]), "WARN", row["reason"], "NOT_AVAILABLE")
        for row in settings["missing_environments"]
    ]


def devices(c):
    """Return the GPUs that jobs can compute on: those that answer, and the MIG instances of those that are divided."""
    found = []
    for gpu in ((c.observation or {}).get("nvml") or {}).get("gpus") or ():
        if gpu.get("lost") or not gpu.get("uuid"):
            continue
        product, mig = looks.product(c, gpu.get("bdf")), gpu.get("mig") or {}
        rows = (mig.get("instances") or []) if mig.get("current") else [gpu]
        for row in rows:
            memory = row.get("memory")
            memory = memory.get("total") if isinstance(memory, dict) else memory
            found.append(Device(len(found), row["uuid"], gpu["bdf"], row.get("name") or gpu["name"], product, memory))
    return found


def judge_devices(c):
    """Return the check gpu.devices: on every GPU that is ours to judge there is something that jobs can compute on."""
    wanted = [bdf for bdf, _ in identity.targets(c) if bdf]  # none that another driver has, or another container
    usable = {device.bdf for device in c.devices}
    without = [bdf for bdf in wanted if bdf not in usable]
    make = functools.partial(gates.check, "gpu.devices", "host", tier=1)
    error = looks.part(c.observation, "nvml", "error")
    if error and looks.part(error, "code") is None:  # nobody asked the driver: that is no word about a GPU
        return make("UNKNOWN", "the driver could not be asked what there is to compute on", "NOT_OBSERVED")
    if not c.devices or without:
        words = "nothing can compute on %s: the driver does not show it, it is lost, or MIG is on and has no instances"
        return make("FAIL", words % (", ".join(without) or "any GPU"), "NO_DEVICE")
    return make("PASS", "%d devices on %d GPUs" % (len(c.devices), len(wanted)))


def observed(c):
    """Return the document's part ``observed``; environments are added by the jobs."""
    driver, nvml = c.facts["driver"] or {}, (c.observation or {}).get("nvml") or {}
    gpus = [
        {
            "bdf": gpu.get("bdf"), "uuid": gpu.get("uuid"), "name": gates.text(gpu.get("name")),
            "product": looks.product(c, gpu.get("bdf")), "vbios": gates.text(gpu.get("vbios")),
            "memory": (gpu.get("memory") or {}).get("total"), "temperature": gpu.get("temperature"),
            "power_w": gpu.get("power_w"), "utilization": (gpu.get("utilization") or {}).get("gpu"),
            "ecc": (gpu.get("ecc") or {}).get("volatile"), "lost": gpu.get("lost"),
        }
        for gpu in nvml.get("gpus") or ()
    ]  # fmt: skip
    return {
        "environments": {},
        "driver": {
            "module": driver.get("loaded_version"), "library": driver.get("library_version"),
            "package": driver.get("installed_version"), "flavour": driver.get("module"),
        },
        "cuda_driver_version": nvml.get("cuda_driver_version"),
        "gpus": gpus,
        "os": (c.facts["os"] or {}).get("name"),
        "kernel": c.facts["kernel"],
    }  # fmt: skip


def find_user(name):
    """Return whom the jobs run as: the unprivileged user when we are root and it exists, else None: ourselves."""
    if os.geteuid() != 0 or not name:
        return None
    try:
        return processes.User(name)
    except KeyError:
        return None


# -- the command line ------------------------------------------------------------------------------------------------


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="validate.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__.strip()
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="settings: the role's variables as JSON")
    parser.add_argument("--always", action="store_true", help="run the jobs even when an earlier verdict still holds")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run; change nothing")
    parser.add_argument(
        "--tiers",
        default="0-%d" % LAST_TIER,
        metavar="0-N",
        help="stop after tier N; 0-2 only looks, and an earlier proof holds if nothing changed",
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="wait so long for another validation of this host"
    )
    parser.add_argument("--root", default="/", help="a directory that stands for / where facts are read (for tests)")
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
    last_tier = options.tiers.rpartition("-")[2]
    if not last_tier.isdigit() or int(last_tier) > LAST_TIER or options.tiers[:2] not in ("0-", "0"):
        words = "--tiers is %s; write 0-N with N from 0 to %d" % (options.tiers, LAST_TIER)
        return failure("SETTINGS", words), 3
    validation = Validation(settings, options.allow_plain_http, options.root, int(last_tier))
    if options.dry_run:
        return dict(validation.run(dry_run=True), exit_code=0), 0
    try:
        os.makedirs(validation.directory, mode=0o755, exist_ok=True)
        with lock.held(validation.directory, options.wait):
            reply = validation.run()
    except lock.Refused as error:
        return failure("LOCKED", str(error)), 4
    except Busy as error:
        return failure("BUSY", str(error)), 4
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
