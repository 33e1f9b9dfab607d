#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tell a scheduler in one line whether this host may take jobs: a Slurm prolog, HealthCheckProgram, or NHC.

    python3 check.py [--live]

prints `OK gpulab: ...` and ends with 0, or `ERROR gpulab: ...` and ends with 1, also for whatever goes wrong here. It
reads the verdict that the last validation wrote: PASS or WARN, of this very boot, young enough and about a real
machine. With --live the quick tiers (0 to 2: they look, and compute nothing) are validated first.

Standard library only, Python 3.8 or newer.
"""

from __future__ import annotations

import argparse
import calendar
import json
import os
import re
import stat
import sys
import time

PROGRAMS = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.path.dirname(PROGRAMS)
BOOT_ID = "/proc/sys/kernel/random/boot_id"
LIVE_TIERS = "0-2"
SIZE_LIMIT = 16 << 20
#: Clocks that are set back by less than this are no reason to refuse a host.
CLOCK_SECONDS = 120
DAY = 86400.0
LINE_LIMIT = 400
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


class Refused(Exception):
    """This host should not take jobs; the message says why, for one line."""


def check(options, now=time.time, sleep=time.sleep):
    """Judge the verdict of this host.

    :param options: what ``parse`` returned
    :returns: words for a host that may take jobs
    :raises Refused: with the reason for one that may not
    """
    started = now()
    if options.live:
        validate(options, started + options.wait, now, sleep)
    document = read(options.verdict)
    while running(document, options.verdict) and now() < started + options.wait:
        sleep(0.2)
        document = read(options.verdict)
    verdict, host = part(document, "verdict"), part(document, "host")
    status, label = verdict.get("status"), verdict.get("label") or verdict.get("status")
    if status not in ("PASS", "WARN") or (options.strict and status != "PASS"):
        action = verdict.get("action")
        todo = "" if action in (None, "none") else " [action: %s]" % action
        raise Refused("%s: %s%s" % (label or "no verdict", verdict.get("summary") or "no reason given", todo))
    if not host.get("boot_id") or host["boot_id"] != boot_id():
        raise Refused("%s, but of an earlier boot: validate this host again" % label)
    if document.get("simulated") is not False and not options.allow_simulated:
        raise Refused("%s, but of a simulated host, which says nothing about a machine" % label)
    if options.require_gpu and document.get("gpu_validated") is not True:
        raise Refused("%s, but no GPU was validated" % label)
    age = check_age(document, options, now())
    if options.live and not (age <= now() - started + 2):  # the verdict has whole seconds
        raise Refused("the validation that was just made left no verdict")
    return "%s, looked at %s ago: %s" % (label, span(age), verdict.get("summary") or "")


def check_age(document, options, now):
    """Return the seconds since this host was looked at.

    :raises Refused: when that, or the computation that the verdict rests on, was too long ago, in the future or never
    """
    looked = seconds_since(document.get("checked") or document.get("finished"), now)
    proven = seconds_since(document.get("finished"), now)
    limits = [("looked at", looked, options.max_age)]
    if options.max_proof_age is not None:
        limits.append(("proven", proven, options.max_proof_age))
    for done, seconds, days in limits:
        if seconds is None:
            raise Refused("the verdict does not say when this host was %s: validate it again" % done)
        if not (-CLOCK_SECONDS <= seconds <= days * DAY):
            when = "in the future, so a clock is wrong" if seconds < 0 else "%s ago" % span(seconds)
            raise Refused("this host was %s %s (allowed are %g days): validate it again" % (done, when, days))
    return max(looked, 0.0)


def validate(options, deadline, now, sleep):
    """Validate the quick tiers, within a time limit that also holds for a process that cannot be killed.

    :param deadline: until when to wait for another validation to end
    :raises Refused: when that cannot be done; what the validation found is in the verdict
    """
    import tempfile

    sys.dont_write_bytecode = True  # the directory of the programs belongs to the role
    sys.path.insert(0, PROGRAMS)
    import processes

    command = [sys.executable, "-B", os.path.join(PROGRAMS, "validate.py")]
    command += ["--config", options.config, "--tiers", LIVE_TIERS]
    variables = {"PATH": os.environ.get("PATH") or os.defpath, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
    with tempfile.TemporaryDirectory(prefix="gpulab-check-") as directory:
        for number in range(1000000):
            log = os.path.join(directory, str(number))
            outcome = processes.run(command, variables, "/", log, options.timeout)
            reason_code, message = error_of(outcome.tail)
            if reason_code != "LOCKED" or now() >= deadline:
                break
            sleep(1)
    if outcome.state != "finished":
        words = {"timeout": "did not end within %g seconds" % options.timeout, "not_started": outcome.tail}
        hangs = "hangs and cannot be killed (often in a driver) [action: reboot]"
        raise Refused("the validation %s" % words.get(outcome.state, hangs))
    # FAIL (1), UNKNOWN (2) and SKIP (77) are in the verdict with their reason. 3 and 4 left none.
    if outcome.code not in (0, 1, 2, 77):
        raise Refused("the validation could not run: %s" % message)


def error_of(output):
    """Return reason code and message of the validator's answer; without an answer, the end of what it printed."""
    for line in reversed(output.splitlines()):
        try:
            error = json.loads(line)["error"]
            return error["reason_code"], error["message"]
        except (ValueError, KeyError, TypeError):
            continue
    return None, output.strip()[-200:] or "it printed nothing"


def read(path):
    """Read the verdict.

    :raises Refused: when there is none that can be relied on
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > SIZE_LIMIT:
                raise Refused("%s is not a plain file of reasonable size" % path)
            if status.st_mode & 0o022:
                raise Refused("%s can be written by others than its owner, so it proves nothing" % path)
            document = json.loads(stream.read(SIZE_LIMIT).decode("utf-8", "replace"))
    except FileNotFoundError:
        raise Refused("this host was never validated (there is no %s)" % path) from None
    except OSError as error:
        raise Refused("%s cannot be read: %s" % (path, error.strerror)) from error
    except (ValueError, RecursionError) as error:
        raise Refused("%s is damaged: %s" % (path, error)) from error
    if not isinstance(document, dict):
        raise Refused("%s is damaged: it does not hold a JSON object" % path)
    return document


def running(document, path):
    """Tell whether the verdict is that of a validation that is being made just now."""
    if part(document, "verdict").get("reason_code") != "UNFINISHED":
        return False
    try:
        with open(os.path.join(os.path.dirname(path), "lock"), encoding="utf-8", errors="replace") as stream:
            holder = re.match(r"pid (\d+) ", stream.read(200))
    except OSError:
        return False
    return bool(holder) and os.path.exists("/proc/%s" % holder.group(1))


def boot_id():
    try:
        with open(BOOT_ID, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError as error:
        raise Refused("the boot of this host is not known: %s: %s" % (BOOT_ID, error.strerror)) from error


def part(document, key):
    """Return a dictionary of a document, an empty one where there is none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def seconds_since(moment, now):
    """Return how many seconds ago a moment (RFC 3339, UTC) was, None where it is none."""
    try:
        return now - calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ"))
    except (TypeError, ValueError):
        return None


def span(seconds):
    """Return a length of time in words."""
    for size, word in ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if abs(seconds) >= size:
            return "%.1f %s" % (seconds / size, word)
    return "%d seconds" % seconds


class Parser(argparse.ArgumentParser):
    """Says mistakes in the one line that schedulers read."""

    def error(self, message):
        raise Refused("wrong use: %s" % message)


def parse(arguments):
    parser = Parser(prog="check.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__.strip())
    add = parser.add_argument
    add("--verdict", metavar="FILE", help="the verdict (default: verdict.json above the programs)")
    add("--max-age", type=positive, default=7, metavar="DAYS", help="since the host was looked at (default: 7)")
    add("--max-proof-age", type=positive, metavar="DAYS", help="since something was computed (default: any)")
    add("--wait", type=positive, default=30, metavar="SECONDS", help="for a running validation to end (default: 30)")
    add("--strict", action="store_true", help="refuse WARN")
    add("--require-gpu", action="store_true", help="refuse a host of which no GPU was validated")
    add("--allow-simulated", action="store_true", help="accept a simulated host (for tests)")
    add("--live", action="store_true", help="validate tiers 0 to 2 first; needs the rights of the validation")
    add("--config", metavar="FILE", help="with --live: the settings (default: config.json above the programs)")
    add("--timeout", type=positive, default=150, metavar="SECONDS", help="with --live: its time limit (default: 150)")
    options = parser.parse_args(arguments)
    options.verdict = options.verdict or os.path.join(DIRECTORY, "verdict.json")
    options.config = options.config or os.path.join(DIRECTORY, "config.json")
    return options


def positive(word):
    value = float(word)
    if not (0 <= value <= 1e6):
        raise argparse.ArgumentTypeError("%s is no number from 0 to 1000000" % word)
    return value


def main(arguments=None):
    try:
        word, words, code = "OK", check(parse(arguments)), 0
    except Refused as reason:
        word, words, code = "ERROR", str(reason), 1
    except Exception as error:  # a scheduler must hear ERROR whatever is wrong here
        word, words, code = "ERROR", "the check itself failed: %s: %s" % (type(error).__name__, error), 1
    line = CONTROL.sub(" ", "%s gpulab: %s" % (word, words)).strip()
    line = line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 3] + "..."
    # A scheduler's language may know nothing but ASCII.
    print(line.encode("ascii", "replace").decode("ascii"), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
