# SPDX-License-Identifier: Apache-2.0
"""Decide whether an earlier verdict still holds: it does when nothing it rests on has changed."""

from __future__ import annotations

import calendar
import glob
import os
import shutil
import time

import files
from verdict import FIRST_COSTLY, SCHEMA_VERSION, worst_status

#: Settings that say what is measured beside the arithmetic and the jobs.
MEASURED = ("data_parallel", "performance", "diagnostics")
#: Programs of others that diagnostics run.
TOOLS = ("dcgmi", "all_reduce_perf")
#: Asks an interpreter what is installed for it, in a stable order.
LIST_DISTRIBUTIONS = """
import hashlib, importlib.metadata as metadata, sys
found = sorted({"%s %s" % (d.metadata["Name"], d.version) for d in metadata.distributions()})
print(hashlib.sha256("\\n".join([sys.version, *found]).encode()).hexdigest())
"""


def parts(settings, programs_sha256, c, look_into, ask_interpreter):
    """Return what a verdict rests on, part by part: ``{what in words: digest}``.

    :param c: the context of the checks, see validate.py
    :param look_into: function ``(python) -> text``: a digest of what lies below that interpreter
    :param ask_interpreter: function ``(python) -> text``: the output of LIST_DISTRIBUTIONS under that interpreter, or
        an empty string when it failed
    """
    answer = {
        "boot of the host": c.facts["boot_id"] or files.new_run_id(),
        "validation programs": programs_sha256,
        "profile": settings["profile"] + (" simulated" if settings["simulated"] else ""),
        "GPUs and driver": files.sha256_json(_hardware(c)),
        "CUDA and cuDNN of the host": files.sha256_json(_libraries(c)),
        "user of the jobs": settings["user"],
        "job parameters": files.sha256_json([settings[key] for key in sorted(settings) if key.startswith("job_")
                                             and key not in ("job_policy", "job_max_age_days", "job_timeout")]),
        "data set": _data(settings),
        "what is measured": files.sha256_json([[settings[key] for key in MEASURED], _tools(settings)]),
        "missing environments": files.sha256_json(sorted(row["name"] for row in settings["missing_environments"])),
    }  # fmt: skip
    for row in settings["environments"]:
        installed = [look_into(row["python"])]
        if row["origin"] != "managed" or not row["digest"]:
            # Nobody vouches for what is in there, so ask; no answer is never taken for no change.
            installed.append(ask_interpreter(row["python"]).strip() or files.new_run_id())
        wanted = [row["python"], row["digest"], row["frameworks"], row["keras_backend"]]
        answer["environment " + row["name"]] = files.sha256_json([wanted, installed])
    return answer


def _hardware(c):
    """Return what must be the same for an earlier verdict to hold: GPUs by their own numbers, and the loaded driver."""
    driver = c.facts["driver"] or {}
    gpus = [[gpu.get(key) for key in ("bus", "vendor", "device")] for gpu in c.facts["gpus"] or ()]
    shown = ((c.observation or {}).get("nvml") or {}).get("gpus") or ()
    settings = [[gpu.get("uuid"), gpu.get("vbios"), (gpu.get("ecc") or {}).get("current")] for gpu in shown]
    loaded = [driver.get(key) for key in ("loaded_version", "module", "library_version")]
    return [gpus, [list(device[1:4]) for device in c.devices], settings, loaded]


def _libraries(c):
    """Return the toolkits and the cuDNN of the host: frameworks may be built against them."""
    toolkits = [[row.get("real"), row.get("version")] for row in c.facts.get("cuda") or ()]
    return [toolkits, [[row.get("path"), row.get("version")] for row in c.facts.get("cudnn") or ()]]


def _tools(settings):
    """Return which tools the diagnostics asked for would use."""
    found = []
    for name in TOOLS if settings["diagnostics"] else ():
        path = shutil.which(name)
        found.append([name, path, os.stat(path).st_mtime_ns if path else None])
    return found


def _data(settings):
    """Digest where data may come from. Not what was found: an air-gapped host does not ask the mirrors every time."""
    given = []
    if settings["mnist_host_dir"]:
        for path in sorted(glob.glob(os.path.join(glob.escape(settings["mnist_host_dir"]), "*-ubyte*"))):
            try:
                status = os.stat(path)
                given.append([path, status.st_size, status.st_mtime_ns])
            except OSError as error:
                given.append([path, error.strerror])
    keys = ("mnist_source", "mnist_dir", "mnist_host_dir", "mnist_mirrors")
    return files.sha256_json([[settings[key] for key in keys], given])


def why_not(previous, current, settings, only_looking=False):
    """Tell in words why an earlier proof cannot be used again, or return None when it can.

    What the tiers that only look found then does not matter: they are looked at again in every run.

    :param previous: the earlier document, or None
    :param current: what ``parts`` returned now
    :param only_looking: nothing would be computed instead; then the proof's age does not matter, for age says when to
        compute again, not that a proof is wrong
    """
    if settings["job_policy"] == "always" and not only_looking:
        return "validation_job_policy is always"
    if previous is None:
        return "there is no earlier verdict"
    verdict = previous.get("verdict")
    if not isinstance(verdict, dict) or verdict.get("reason_code") or previous.get("schema_version") != SCHEMA_VERSION:
        return "the earlier validation did not come to its end, or was made by another version"
    checks = previous.get("checks")
    costly = [row for row in checks if row["tier"] >= FIRST_COSTLY] if isinstance(checks, list) else []
    status = worst_status(costly)
    if status not in ("PASS", "WARN"):
        return "what was computed then ended with %s" % status
    if any(row["id"] == "xid" and row["status"] == "FAIL" for row in checks):
        # Unlike all else that is looked at, a report is news only once: without new proof it would pass as history.
        return "the driver reported a fault after that (Xid)"
    age = _age_days(previous.get("finished"))
    if age is None or not (age >= 0) or not (age <= settings["job_max_age_days"] or only_looking):
        return "the earlier verdict is older than %d days" % settings["job_max_age_days"]
    before = previous.get("fingerprint_parts")
    before = before if isinstance(before, dict) else {}
    changed = sorted(key for key in set(before) | set(current) if before.get(key) != current.get(key))
    return "changed: %s" % ", ".join(changed) if changed else None


def _age_days(finished):
    try:
        return (time.time() - calendar.timegm(time.strptime(finished, "%Y-%m-%dT%H:%M:%SZ"))) / 86400
    except (TypeError, ValueError):
        return None
