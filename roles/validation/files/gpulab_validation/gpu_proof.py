# SPDX-License-Identifier: Apache-2.0
"""Judge whether a job really used a GPU, and whether it refuses to run without one. Pure: facts in, checks out.

A framework's word alone is not believed: three of five signals must agree, and one of them must come from the driver's
side. The control is the same job with no GPU to see. It must fail at once; a job that trains then would train on the
processor whenever a GPU is missing, and nobody would notice.
"""

from __future__ import annotations

import gates
import processes

#: Where each signal comes from.
SIDES = {
    "result_device": "framework",
    "allocator_peak": "framework",
    "device_time": "framework",
    "driver_process": "driver",
    "kernel_records": "driver",
}
#: Time on a GPU may exceed the wall clock's by this: two clocks, read one after the other.
CLOCK_SHARE, CLOCK_MILLISECONDS = 1.05, 1.0


def required(c):
    """Return the checks (id, target) that the profile demands: the control always, the proof on a GPU."""
    names = ["mnist.control"] + (["gpu.proof"] if c.profile == "gpu" else [])
    return [
        (name, "%s/%s" % (row["name"], framework))
        for row in c.environments
        for framework in row["frameworks"]
        for name in names
    ]


# -- the proof -------------------------------------------------------------------------------------------------------


def judge(target, result, watch, expected_uuids, table, evidence=()):
    """Judge the signals of one job.

    :param target: "environment/framework"
    :param result: the job's result, or None
    :param watch: what observe.Watch saw of the driver meanwhile, or None
    :param expected_uuids: UUIDs of the GPUs that the job could see
    :param table: the content of thresholds.json
    :param evidence: paths of logs
    :returns: the check gpu.proof, and the document's entry for this target
    """
    needed, driver_needed = (table["job"][key]["value"] for key in ("quorum", "driver_signals_needed"))
    rows = signals(target, result, watch, expected_uuids)
    good = [row["name"] for row in rows if row["ok"]]
    from_driver = [name for name in good if SIDES[name] == "driver"]
    reached = len(good) >= needed and len(from_driver) >= driver_needed
    elsewhere = seen_elsewhere(result, watch, expected_uuids)
    simulated = bool(_of(watch, "simulated"))
    proof = {"reached": reached and not elsewhere, "needed": needed, "simulated": simulated, "signals": rows}
    more = {
        "measured": {"signals": len(good), "driver_signals": len(from_driver)},
        "threshold": {"signals": needed, "driver_signals": driver_needed},
        "threshold_source": "thresholds.json: %s" % table["job"]["quorum"]["source"],
        "evidence": list(evidence),
    }

    def answer(status, reason_code, message):
        return gates.check("gpu.proof", target, status, message, reason_code, **more), proof

    marked = " (the driver is a stand-in: simulated)" if simulated else ""
    if elsewhere:
        words = "the driver saw the job on %s alone, not on %s%s"
        pair = (", ".join(elsewhere), ", ".join(map(gates.text, expected_uuids)) or "any GPU it may use")
        return answer("FAIL", "WRONG_GPU", words % (*pair, marked))
    if not isinstance(result, dict) or result.get("error"):
        return answer("UNKNOWN", "NO_RESULT", "not assessed: the job has no result")
    if reached:
        return answer("PASS", "OK", "%d of %d signals: %s%s" % (len(good), len(rows), ", ".join(good), marked))
    reasons = "; ".join("%s: %s" % (row["name"], row["detail"]) for row in rows if not row["ok"])
    if len(good) >= needed:
        words = "only the framework says that a GPU was used, nothing on the driver's side does: %s"
        return answer("UNKNOWN", "NO_DRIVER_SIGNAL", words % reasons)
    words = "%d of %d signals that a GPU was used, %d are needed: %s"
    return answer("UNKNOWN", "NO_QUORUM", words % (len(good), len(rows), needed, reasons))


def signals(target, result, watch, expected_uuids):
    """Return the five signals of one job, each with ``name``, ``side``, ``ok`` and a ``detail`` for a person."""
    result = result if isinstance(result, dict) else {}
    proof = result.get("proof") if isinstance(result.get("proof"), dict) else {}
    found = {
        "result_device": result_device(target, result),
        "allocator_peak": allocator_peak(result),
        "device_time": device_time(proof.get("device_time")),
        "driver_process": driver_process(proof, watch, expected_uuids),
        "kernel_records": kernel_records(proof.get("kernels")),
    }
    return [
        {"name": name, "side": SIDES[name], "ok": ok, "detail": gates.text(detail, 300)}
        for name, (ok, detail) in found.items()
    ]


def result_device(target, result):
    """The results lie on a GPU, as read from the result tensors themselves."""
    devices = result.get("result_devices")
    devices = devices if isinstance(devices, list) else []
    good = bool(devices) and all(gates.device_kind(device) == "gpu" for device in devices)
    return good, "results on %s" % (", ".join(map(gates.text, devices)) or "no device")


def allocator_peak(result):
    """The framework took more memory on the GPU than the network has."""
    peak, model = result.get("allocator_peak_bytes"), result.get("model_bytes")
    good = gates.is_number(peak) and gates.is_number(model) and model > 0 and peak > model
    return good, "%s bytes taken for a network of %s bytes" % (gates.text(peak), gates.text(model))


def device_time(part):
    """Steps took time by the GPU's own clock, and not more than passed on the wall."""
    if not _of(part, "available"):
        return False, "not available: %s" % gates.text(_of(part, "why") or "the job does not say")
    spent, passed = _of(part, "milliseconds"), _of(part, "wall_milliseconds")
    if not (gates.is_number(spent) and gates.is_number(passed) and spent > 0):
        return False, "%s ms on the GPU" % gates.text(spent)
    if not (spent <= passed * CLOCK_SHARE + CLOCK_MILLISECONDS):
        return False, "%.3f ms on the GPU, but only %.3f ms passed" % (spent, passed)
    return True, "%.3f of %.3f ms on the GPU (%s)" % (spent, passed, gates.text(_of(part, "source"), 60))


def kernel_records(part):
    """The driver's tracing reported kernels that ran on the GPU."""
    if not _of(part, "available"):
        return False, "not available: %s" % gates.text(_of(part, "why") or "the job does not say")
    count, names = _of(part, "count"), _of(part, "names")
    names = [gates.text(name, 60) for name in names] if isinstance(names, list) else []
    source = gates.text(_of(part, "source"), 60)
    if not gates.is_number(count) or not (count >= 1) or not names:
        return False, "%s recorded no kernel" % source
    return True, "%d kernels (%s), among them %s" % (count, source, ", ".join(names[:2]))


def driver_process(proof, watch, expected_uuids):
    """The driver listed or accounted this very process, by number and start, on a GPU that it may use."""
    pid, start = proof.get("pid"), proof.get("pid_start")
    if not (gates.is_number(pid) and gates.is_number(start)):
        return False, "the job does not say which process it was"
    if not isinstance(watch, dict):
        return False, "not available: the driver was not watched"
    mine, others = [], 0
    for how, row in _processes(watch):
        if row.get("pid") == pid and row.get("start") == start and row.get("uuid") in expected_uuids:
            mine.append("%s on %s" % (how, gates.text(row["uuid"])))
        elif row.get("pid") == pid:
            others += 1
    if mine:
        return True, "process %d is %s" % (pid, " and ".join(sorted(set(mine))))
    if others:
        return False, "process number %d is known, but with another start or on another GPU" % pid
    problem = gates.text(watch.get("problem") or "")
    return False, "process %d was not listed%s" % (pid, " (%s)" % problem if problem else "")


def seen_elsewhere(result, watch, expected_uuids):
    """Return the GPUs on which the driver saw this very process, when it is none of those that it may use.

    Where only instances of MIG are known, a whole GPU may be theirs: nothing is said then.
    """
    proof = _of(result, "proof")
    pid, start = _of(proof, "pid"), _of(proof, "pid_start")
    if not (gates.is_number(pid) and gates.is_number(start)):
        return []
    uuids = {row.get("uuid") for _, row in _processes(watch) if (row.get("pid"), row.get("start")) == (pid, start)}
    uuids.discard(None)
    if expected_uuids and all(uuid.startswith("MIG-") for uuid in expected_uuids):
        return []
    return sorted(map(gates.text, uuids)) if uuids and not uuids & set(expected_uuids) else []


def _processes(watch):
    """Yield what the driver said of processes, with a word for how."""
    for key, how in (("processes", "listed"), ("accounting", "accounted")):
        rows = _of(watch, key)
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                yield how, row


def _of(mapping, key):
    return mapping.get(key) if isinstance(mapping, dict) else None


# -- the control -----------------------------------------------------------------------------------------------------


def judge_control(target, outcome, result, problem, table, log):
    """Judge the job that was told to use a GPU and saw none; return the check mnist.control.

    :param outcome: how the process ended (processes.Outcome)
    :param result: the job's result, or None
    :param problem: why the result cannot be read, or an empty string
    :param log: path of the job's log, as evidence
    """
    limit = table["job"]["control_timeout_s"]["value"]
    more = {"evidence": [log], "duration_s": round(outcome.seconds, 1), "threshold": {"seconds": limit}}
    more["measured"] = {"seconds": round(outcome.seconds, 1)}
    more["threshold_source"] = "thresholds.json: %s" % table["job"]["control_timeout_s"]["source"]

    def answer(status, reason_code, message, action="none"):
        return gates.check("mnist.control", target, status, message, reason_code, action=action, **more)

    error = _of(result, "error")
    reason, said = gates.text(_of(error, "reason_code"), 40), gates.text(_of(error, "message"))
    if outcome.state == "not_started":
        return answer("UNKNOWN", "TOOL_MISSING", outcome.tail)
    if outcome.state in ("timeout", "abandoned"):
        words = "with no GPU to see, the job did not fail within %g seconds%s"
        stuck = outcome.state == "abandoned"
        how = ", and it survived SIGKILL" if stuck else ""
        return answer("FAIL", "TIMEOUT", words % (limit, how), "reboot" if stuck else "none")
    if outcome.code == 0 or (isinstance(result, dict) and not isinstance(error, dict)):
        where = ", ".join(map(gates.text, _of(result, "result_devices") or [])) or "an unknown device"
        words = "with no GPU to see, the job trained on %s instead of failing: it does not notice a missing GPU"
        return answer("FAIL", "NOT_REFUSED", words % where)
    if result is None:
        words = problem and "the job's result %s" % problem
        words = words or "the job ended with status %s: %s" % (outcome.code, gates.last_line(outcome.tail))
        return answer("UNKNOWN", "NO_RESULT", "with no GPU to see, %s" % words)
    if reason != "NO_GPU":
        words = "with no GPU to see, the job failed for another reason (%s): %s"
        return answer("UNKNOWN", "OTHER_ERROR", words % (reason, said))
    if not (outcome.seconds <= limit):
        return answer("FAIL", "TIMEOUT", "with no GPU to see, the job failed after %.0f seconds only" % outcome.seconds)
    return answer("PASS", "OK", "refused without a GPU: %s" % said)


CONTROL_WORDS = {"PASS": "rejected", "FAIL": "NOT REJECTED"}


def section(proofs, checks=()):
    """Return the document's part ``gpu_use_proof``.

    :param proofs: what ``judge`` returned, by target; None where there was no GPU to prove
    :param checks: all checks of the jobs; the controls are found among them
    """
    controls = {row["target"]: row for row in checks if row["id"] == "mnist.control"}
    return {
        "quorum_needed": max((proof["needed"] for proof in proofs.values() if proof), default=None),
        "targets": {target: proof for target, proof in proofs.items() if proof is not None},
        "negative_control": {
            target: CONTROL_WORDS.get(row["status"], "unknown") for target, row in sorted(controls.items())
        },
    }


# -- the gates themselves --------------------------------------------------------------------------------------------


def self_test(table, judge=judge, judge_control=judge_control):
    """Feed the gates claims that must be refused, and one that must not.

    :returns: ``{what: True when the gates behaved}``
    """
    uuid, process = "GPU-self-test", {"pid": 4711, "pid_start": 100}
    kernels = {"available": True, "count": 64, "names": ["a_kernel"], "source": "self-test"}
    spent = {"available": True, "milliseconds": 2.0, "wall_milliseconds": 3.0, "source": "self-test"}
    good = {"result_devices": ["cuda:0"], "allocator_peak_bytes": 2000000, "model_bytes": 100000}
    good["proof"] = dict(process, kernels=kernels, device_time=spent)
    seen = {"simulated": False, "problem": "", "processes": [{"uuid": uuid, "pid": 4711, "start": 100}]}

    def status(watch=seen, proof=None, **changes):
        result = dict(good, proof=dict(good["proof"], **(proof or {})), **changes)
        return judge("self-test", result, watch, [uuid], table)[0]["status"]

    def control(result, code=1, seconds=3.0, state="finished"):
        outcome = processes.Outcome(state, code, seconds, "")
        return judge_control("self-test", outcome, result, "", table, "log")["status"]

    def process_of(**changes):
        return dict(seen, processes=[dict(seen["processes"][0], **changes)])

    nothing, no_kernels = {"processes": [], "problem": ""}, {"kernels": dict(kernels, count=0)}
    return {
        "proof_accepted": status() == "PASS",
        "framework_alone_not_believed": status(nothing, no_kernels) == "UNKNOWN",
        "recycled_pid_not_believed": status(process_of(start=99), no_kernels) == "UNKNOWN",
        "other_gpu_rejected": status(process_of(uuid="GPU-other")) == "FAIL",
        "nan_device_time_not_believed": status(
            nothing, {"device_time": dict(spent, milliseconds=float("nan"))}, allocator_peak_bytes=None
        )
        == "UNKNOWN",
        "refusal_accepted": control({"error": {"reason_code": "NO_GPU", "message": "no GPU"}}) == "PASS",
        "silent_fallback_rejected": control({"result_devices": ["cpu"], "accuracy": 0.97}, 0) == "FAIL",
        "slow_refusal_rejected": control(
            {"error": {"reason_code": "NO_GPU"}}, seconds=table["job"]["control_timeout_s"]["value"] + 1
        )
        == "FAIL",
    }
