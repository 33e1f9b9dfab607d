# SPDX-License-Identifier: Apache-2.0
"""From checks to a verdict. UNKNOWN is never PASS, and a check that should be there and is not is UNKNOWN."""

from __future__ import annotations

import gates

SCHEMA_VERSION = "2.0"
TOOL = {"name": "gpulab-validation", "version": "0.2.0", "git": None}
#: Least to most severe.
SEVERITY = ("PASS", "WARN", "UNKNOWN", "FAIL")
ACTIONS = ("none", "restart_app", "reset_gpu", "reboot", "isolate", "rma")
EXIT_CODES = {"PASS": 0, "WARN": 0, "FAIL": 1, "UNKNOWN": 2, "SKIP": 77}
#: The tiers in their order, quick ones first.
TIERS = ("preflight", "identity", "health", "numerics", "job", "performance", "diagnostics")
#: Reason codes of what was not computed at all: it says nothing about a GPU.
NOT_RUN = ("BLOCKED", "NOT_PROVEN", "NOT_REQUESTED")
#: The first tier that computes something: what lies before it only looks, and is looked at in every run.
FIRST_COSTLY = 3


def compose(checks, required, profile, simulated):
    """Compute the verdict.

    :param checks: the checks that were made; what ``required`` names and is missing is appended to them
    :param required: triples (check id, target, tier) that the profile demands
    :param profile: cpu or gpu
    :param simulated: whether the host is a simulated one
    :returns: the verdict's part ``verdict``, and the pairs (check id, target) that were missing
    """
    present = {(row["id"], row["target"]) for row in checks}
    missing = [row for row in required if tuple(row[:2]) not in present]
    for identity, target, tier in missing:
        checks.append(gates.check(identity, target, "UNKNOWN", "this check was not made", "MISSING", tier=tier))
    if not required:
        checks.append(gates.check("validation.jobs", "host", "UNKNOWN", "no environment was validated", "MISSING"))
    status = worst_status(checks)
    actions = [row["action"] for row in checks if row["status"] == "FAIL" and row["action"] in ACTIONS]
    worst = [row for row in checks if severity(row) == status and status != "PASS"]
    return {
        "status": status,
        "label": label(status, profile, simulated),
        "action": max(actions, key=ACTIONS.index) if actions else "none",
        "caps": sorted(
            {row["reason_code"] for row in checks if row["tier"] >= FIRST_COSTLY and row["status"] == "WARN"}
        ),
        "summary": summary(checks, worst),
    }, [tuple(row[:2]) for row in missing]


def severity(row):
    """Return how a check counts: a required one that was skipped, or a word nobody knows, counts as UNKNOWN."""
    if row["status"] == "SKIP":
        return "UNKNOWN" if row["required"] else "PASS"
    return row["status"] if row["status"] in SEVERITY else "UNKNOWN"


def worst_status(checks):
    """Return the most severe status of some checks; nothing at all is UNKNOWN."""
    return max((severity(row) for row in checks), key=SEVERITY.index, default="UNKNOWN")


def tiers(checks, budgets, seconds, earlier, now):
    """Return the verdict's part ``tiers``: how each tier ended.

    :param budgets: section ``budgets`` of the table: seconds by name of the tier
    :param seconds: by number of the tier, how long it took in this run; None for one that was not run
    :param earlier: part ``tiers`` of the document whose costly checks were taken over; None when this run made them all
    :param now: the time, as RFC 3339 writes it
    """
    answer = {}
    for number, name in enumerate(TIERS):
        rows = [row for row in checks if row["tier"] == number]
        asked = [row for row in rows if row["status"] != "SKIP" or row["required"]]
        answer[str(number)] = {
            "name": name,
            "status": worst_status(asked) if asked else "SKIP",
            "checks": len(rows),
            "duration_s": seconds.get(number),
            "budget_s": budgets.get(name),
            "reused": earlier is not None and number >= FIRST_COSTLY and bool(rows),
            "finished": now if rows else None,
        }
        if answer[str(number)]["reused"]:
            answer[str(number)]["finished"] = (earlier.get(str(number)) or {}).get("finished")
    return answer


def label(status, profile, simulated):
    """Return the verdict as it is shown to people. What was not proven is said beside the word."""
    words = status
    if status in ("PASS", "WARN") and profile == "cpu":
        words += " (cpu profile - no GPU claim)"
    return words + (" [simulated]" if simulated else "")


def summary(checks, worst):
    """Say in one line what was proven, or what is wrong."""
    ran = [row for row in checks if row["tier"] >= FIRST_COSTLY and row["reason_code"] not in NOT_RUN]
    parts = []
    devices = {row["target"].rpartition("@")[2] for row in ran if row["id"].startswith("num.fwd_bwd")}
    if devices:
        bad = {
            row["target"].rpartition("@")[2]
            for row in ran
            if row["id"].startswith(("num.", "mem."))
            # A GPU that has no other to be compared with has computed correctly for all that is known.
            and severity(row) in (("FAIL",) if row["id"] == "num.cross_gpu" else ("FAIL", "UNKNOWN"))
        }
        kind = "processors" if devices == {"cpu"} else "GPUs"
        parts.append("%d of %d %s computed correctly" % (len(devices - bad), len(devices), kind))
    trained = [row for row in ran if row["id"] == "mnist.train"]
    good = sum(1 for row in trained if row["status"] in ("PASS", "WARN"))
    if trained:
        drawn = any(row["id"] == "data.available" and row["message"].startswith("generated") for row in ran)
        what = "training jobs on generated digits (not MNIST) went" if drawn else "MNIST jobs trained"
        parts.append("%d of %d %s as they should" % (good, len(trained), what))
    if not parts:
        parts.append("nothing was computed")
    reasons = ["%s: %s" % (row["target"], row["message"]) for row in worst]
    more = " (and %d more)" % (len(reasons) - 3) if len(reasons) > 3 else ""
    return gates.text("; ".join([*parts, *reasons[:3]]) + more, 1200)


def nothing_to_validate():
    """Return the verdict of a host for which no environment was given."""
    words = "no environment was given, so nothing was proven"
    return {"status": "SKIP", "label": "SKIP (nothing to validate)", "action": "none", "caps": [], "summary": words}


def unfinished(document, reason_code, message):
    """Return a document whose verdict is UNKNOWN: before the work, and when it could not be done."""
    verdict = {"status": "UNKNOWN", "label": label("UNKNOWN", document["profile"], document["simulated"])}
    verdict.update(action="none", caps=[], reason_code=reason_code, summary=gates.text(message, 1200))
    return dict(document, verdict=verdict, gpu_validated=False)
