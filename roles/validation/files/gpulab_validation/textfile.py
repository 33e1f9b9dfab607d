# SPDX-License-Identifier: Apache-2.0
"""The verdict as metrics for Prometheus: a file for the textfile collector of node_exporter.

A collector refuses a whole file for one series that is there twice, so each is written once. A figure that is missing
or is no number has no series: none is better than a wrong one.
"""

from __future__ import annotations

import calendar
import os
import re
import tempfile
import time

import files
import gates
import verdict as verdict_module

NAME = "gpulab.prom"
STATUSES = (*verdict_module.SEVERITY, "SKIP")
#: Checks that did not pass are listed one by one; more than these are a broken host in any case.
CHECKS_LIMIT = 200
LABEL_LIMIT = 120

HELP = {
    "info": "What the verdict is about; always 1.",
    "status": "The verdict: 1 for the status it has, 0 for the others.",
    "gpu_validated": "Whether GPUs were proven to compute; 0 in the cpu profile.",
    "simulated": "Whether the host is simulated; nothing is said about a machine then.",
    "boot_info": "The boot that the verdict is about; one of another boot says nothing.",
    "checked_timestamp_seconds": "When the host was last looked at; 0 while one computes, and after it was killed.",
    "finished_timestamp_seconds": "When the proof was made that the verdict rests on; 0 as above.",
    "duration_seconds": "How long the validation took.",
    "tier_status": "The tiers: 1 for the status that each has, 0 for the others.",
    "tier_duration_seconds": "How long each tier took.",
    "tier_finished_timestamp_seconds": "When the checks of each tier were made.",
    "tier_reused": "Whether a tier's checks are those of an earlier run.",
    "checks": "Number of checks by status.",
    "check_not_passed": "A check that is not PASS or SKIP; always 1.",
    "gpu_info": "What each GPU is; always 1.",
    "gpu_status": "The worst status of a GPU's own checks: 1 for it, 0 for the others.",
    "accuracy": "Test accuracy of the MNIST job.",
    "performance": "Median of the measured throughput, in the unit that the label names.",
    "performance_ratio": "The same as a share of the figure it is compared with.",
}


def write(path, document):
    """Write the metrics of a document, completely or not at all.

    The directory may belong to the collector's user: a file of a name that could be guessed, and be a link, is never
    opened there.

    :raises OSError: when the file cannot be written
    """
    descriptor, temporary = tempfile.mkstemp(suffix=".part", prefix=".gpulab.", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, 0o644)
            stream.write(render(document).encode("utf-8"))
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        files.remove(temporary)
        raise


def render(document):
    """Return the metrics of a document in Prometheus' text format."""
    metrics = Metrics()
    verdict, host = part(document, "verdict"), part(document, "host")
    driver = part(part(document, "observed"), "driver")
    metrics.add(
        "info", 1, host=host.get("name"), profile=document.get("profile"), label=verdict.get("label"),
        action=verdict.get("action"), version=part(document, "tool").get("version"), run_id=document.get("run_id"),
        kernel=host.get("kernel"), driver=driver.get("module"),
    )  # fmt: skip
    metrics.add("boot_info", 1, boot_id=host.get("boot_id"))
    metrics.states("status", verdict.get("status"))
    for name in ("gpu_validated", "simulated"):
        metrics.add(name, int(document.get(name) is True))
    for name in ("checked", "finished"):
        metrics.add(name + "_timestamp_seconds", seconds_of(document.get(name)) or 0)
    metrics.add("duration_seconds", document.get("duration_s"))
    add_tiers(metrics, part(document, "tiers"))
    checks = rows(document, "checks")
    add_checks(metrics, checks)
    add_gpus(metrics, rows(part(document, "observed"), "gpus"), checks)
    for row in rows(document, "results"):
        where = {key: row.get(key) for key in ("environment", "framework", "dataset")}
        metrics.add("accuracy", row.get("accuracy"), **where)
    for row in rows(part(document, "performance"), "rows"):
        where = {key: row.get(key) for key in ("target", "product", "metric", "unit")}
        metrics.add("performance", row.get("median"), **where)
        metrics.add("performance_ratio", row.get("ratio"), **where)
    return metrics.text()


def add_tiers(metrics, tiers):
    for number, row in sorted(tiers.items(), key=lambda pair: str(pair[0])):
        row = row if isinstance(row, dict) else {}
        where = {"tier": number, "name": row.get("name")}
        metrics.states("tier_status", row.get("status"), **where)
        metrics.add("tier_duration_seconds", row.get("duration_s"), **where)
        metrics.add("tier_finished_timestamp_seconds", seconds_of(row.get("finished")), **where)
        metrics.add("tier_reused", int(row.get("reused") is True), **where)


def add_checks(metrics, checks):
    words = [status_of(row) for row in checks]
    for status in STATUSES:
        metrics.add("checks", words.count(status), status=status)
    bad = [(row, word) for row, word in zip(checks, words) if word not in ("PASS", "SKIP")]
    bad.sort(key=lambda pair: -STATUSES.index(pair[1]))
    for row, word in bad[:CHECKS_LIMIT]:
        where = {key: row.get(key) for key in ("id", "target", "reason_code", "action")}
        metrics.add("check_not_passed", 1, status=word, **where)


def add_gpus(metrics, gpus, checks):
    for gpu in gpus:
        if not gpu.get("uuid"):
            continue
        about = {key: gpu.get(key) for key in ("uuid", "bdf", "name", "product", "vbios", "serial")}
        metrics.add("gpu_info", 1, **about)
        own = [status_of(row) for row in checks if str(row.get("target")).rpartition("@")[2] == gpu["uuid"]]
        own = [word for word in own if word != "SKIP"]
        # A GPU that nothing was asked about is not known to be good.
        worst = max(own, key=STATUSES.index, default="UNKNOWN")
        metrics.states("gpu_status", worst, gpu=gpu["uuid"], bdf=gpu.get("bdf"))


def status_of(row):
    """Return how a check counts: one that is required and was skipped, or has no known status, is UNKNOWN."""
    if row.get("status") == "SKIP" and row.get("required") is False:
        return "SKIP"
    return row["status"] if row.get("status") in verdict_module.SEVERITY else "UNKNOWN"


class Metrics:
    """Series by metric, each once."""

    def __init__(self):
        self._series = {}

    def add(self, metric, value, /, **labels):
        """Add one series. Without a usable value there is none; of two with the same labels the first one stays."""
        if not gates.is_number(value):
            return
        words = ",".join('%s="%s"' % (key, escaped(labels[key])) for key in labels)
        series = self._series.setdefault(metric, {})
        series.setdefault("{%s}" % words if words else "", value)

    def states(self, metric, status, /, **labels):
        """Add one series for each status: 1 for the one that holds. A word that is none counts as UNKNOWN."""
        status = status if status in STATUSES else "UNKNOWN"
        for word in STATUSES:
            self.add(metric, int(word == status), status=word, **labels)

    def text(self):
        lines = []
        for metric, help_text in HELP.items():
            if metric not in self._series:
                continue
            name = "gpulab_validation_" + metric
            lines += ["# HELP %s %s" % (name, help_text), "# TYPE %s gauge" % name]
            lines += ["%s%s %s" % (name, labels, number(value)) for labels, value in self._series[metric].items()]
        return "\n".join(lines) + "\n"


def number(value):
    return repr(value) if isinstance(value, float) else "%d" % value


def escaped(value):
    """Return a value as the inside of a label's quotes."""
    line = gates.text("" if value is None else value, LABEL_LIMIT)
    return line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def seconds_of(moment):
    """Return a moment of RFC 3339 in UTC as seconds since 1970, None where it is none."""
    if not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", str(moment)):
        return None
    try:
        return calendar.timegm(time.strptime(moment, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return None


def part(document, key):
    """Return a dictionary of a document, an empty one where there is none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def rows(document, key):
    """Return the dictionaries of a list in a document."""
    value = document.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
