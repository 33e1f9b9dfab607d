# SPDX-License-Identifier: Apache-2.0
"""From checks to a verdict. UNKNOWN is never PASS, and a check that should be there and is not is UNKNOWN."""

from __future__ import annotations

import gates

SCHEMA_VERSION = "1.0"
TOOL = {"name": "gpulab-validation", "version": "0.1.0", "git": None}
#: Least to most severe.
SEVERITY = ("PASS", "WARN", "UNKNOWN", "FAIL")
ACTIONS = ("none", "restart_app", "reset_gpu", "reboot", "isolate", "rma")
EXIT_CODES = {"PASS": 0, "WARN": 0, "FAIL": 1, "UNKNOWN": 2, "SKIP": 77}


def compose(checks, required, profile, simulated):
    """Compute the verdict.

    :param checks: the checks that were made; what ``required`` names and is missing is appended to them
    :param required: pairs (check id, target) that the profile demands
    :param profile: cpu or gpu
    :param simulated: whether the host is a simulated one
    :returns: the verdict's part ``verdict``, and the pairs that were missing
    """
    present = {(row["id"], row["target"]) for row in checks}
    missing = [pair for pair in required if pair not in present]
    for identity, target in missing:
        checks.append(gates.check(identity, target, "UNKNOWN", "this check was not made", "MISSING"))
    if not required:
        checks.append(gates.check("validation.jobs", "host", "UNKNOWN", "no environment was validated", "MISSING"))
    status = max((severity(row) for row in checks), key=SEVERITY.index)
    actions = [row["action"] for row in checks if row["status"] == "FAIL" and row["action"] in ACTIONS]
    worst = [row for row in checks if severity(row) == status and status != "PASS"]
    return {
        "status": status,
        "label": label(status, profile, simulated),
        "action": max(actions, key=ACTIONS.index) if actions else "none",
        "caps": sorted({row["reason_code"] for row in checks if row["id"] == "gpu.proof" and row["status"] != "PASS"}),
        "summary": summary(checks, worst),
    }, missing


def severity(row):
    """Return how a check counts: a required one that was skipped, or a word nobody knows, counts as UNKNOWN."""
    if row["status"] == "SKIP":
        return "UNKNOWN" if row["required"] else "PASS"
    return row["status"] if row["status"] in SEVERITY else "UNKNOWN"


def label(status, profile, simulated):
    """Return the verdict as it is shown to people. What was not proven is said beside the word."""
    words = status
    if status in ("PASS", "WARN") and profile == "cpu":
        words += " (cpu profile - no GPU claim)"
    elif status in ("PASS", "WARN"):
        words += " (gpu profile - GPU use as reported by the frameworks)"
    return words + (" [simulated]" if simulated else "")


def summary(checks, worst):
    """Say in one line what was proven, or what is wrong."""
    trained = [row for row in checks if row["id"] == "mnist.train"]
    good = sum(1 for row in trained if row["status"] in ("PASS", "WARN"))
    line = "%d of %d MNIST jobs trained as they should" % (good, len(trained))
    reasons = ["%s: %s" % (row["target"], row["message"]) for row in worst]
    more = " (and %d more)" % (len(reasons) - 3) if len(reasons) > 3 else ""
    return gates.text("; ".join([line, *reasons[:3]]) + more, 1200)


def nothing_to_validate():
    """Return the verdict of a host for which no environment was given."""
    words = "no environment was given, so nothing was proven"
    return {"status": "SKIP", "label": "SKIP (nothing to validate)", "action": "none", "caps": [], "summary": words}


def unfinished(document, reason_code, message):
    """Return a document whose verdict is UNKNOWN: before the work, and when it could not be done."""
    verdict = {"status": "UNKNOWN", "label": label("UNKNOWN", document["profile"], document["simulated"])}
    verdict.update(action="none", caps=[], reason_code=reason_code, summary=gates.text(message, 1200))
    return dict(document, verdict=verdict)
