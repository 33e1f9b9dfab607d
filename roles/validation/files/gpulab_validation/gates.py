# SPDX-License-Identifier: Apache-2.0
"""Judge what the jobs measured. Pure functions: facts in, checks out.

Every gate is written as ``not (value >= limit)``, because any comparison with NaN is false.
"""

from __future__ import annotations

import re

#: Control characters, line and paragraph separators, characters that change the direction of writing, lone surrogates.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
SIGNAL_HINTS = {
    4: " (the processor lacks an instruction that this build uses)",
    9: " (often by the kernel, when memory runs out)",
}


def check(identity, target, status, message, reason_code="OK", required=True, tier=4, action="none", **more):
    """Return one check as the verdict lists it."""
    row = {"id": identity, "tier": tier, "required": required, "target": target, "status": status}
    row.update({"reason_code": reason_code, "message": text(message, 600), "measured": {}, "threshold": {}})
    row.update({"threshold_source": None, "evidence": [], "duration_s": None, "action": action})
    row.update(more)
    return row


def text(value, limit=200):
    """Return a foreign value as one printable line of limited length."""
    line = CONTROL.sub(" ", str(value)).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_line(output):
    """Return the last line of a program's output that says something."""
    return text(([line for line in output.splitlines() if line.strip()] or ["it printed nothing"])[-1])


def plain(value):
    """Return a foreign value that should be a number: numbers as they are, anything else as text."""
    return value if value is None or is_number(value) else text(value)


def is_number(value):
    """Tell whether a value is a number to calculate with: not NaN, not infinite, not an integer beyond all floats."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300


def judge_job(target, profile, outcome, result, problem, dataset, table, log):
    """Judge one job.

    :param target: "environment/framework"
    :param profile: cpu or gpu
    :param outcome: how the process ended (processes.Outcome)
    :param result: the job's result, or None
    :param problem: why the result cannot be read, or an empty string
    :param dataset: name of the data set
    :param table: the content of thresholds.json
    :param log: path of the job's log, as evidence
    :returns: the checks mnist.train and mnist.device
    """
    common = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    failure = _failure(outcome, result, problem)
    if failure:
        status, reason_code, message, action = failure
        train = check("mnist.train", target, status, message, reason_code, action=action, **common)
        device = check("mnist.device", target, status, "no result to read a device from", reason_code, **common)
        return [train, device]
    return [
        judge_training(target, result, dataset, table, common),
        judge_device(target, result, profile, common),
    ]


def _failure(outcome, result, problem):
    """Return (status, reason code, message, action) of a job without a usable result, else None."""
    if outcome.state == "not_started":
        return "FAIL", "TOOL_MISSING", outcome.tail, "none"
    if outcome.state == "abandoned":
        message = "did not end within its time limit and survived SIGKILL (it hangs in the kernel, often in a driver)"
        return "FAIL", "TIMEOUT", "the job %s" % message, "reboot"
    if outcome.state == "timeout":
        message = "the job did not end within its time limit (validation_job_timeout) and was stopped"
        return "FAIL", "TIMEOUT", message, "none"
    return told_error(result) or no_answer(outcome, result, problem, "the job")


def told_error(result):
    """Return (status, reason code, message, action) of the error that a program told in its result, else None."""
    error = result.get("error") if isinstance(result, dict) else None
    if isinstance(error, dict):
        return "FAIL", text(error.get("reason_code"), 40), text(error.get("message"), 500), "none"
    return None


def no_answer(outcome, result, problem, who):
    """Return (status, reason code, message, action) of a program that ended without a usable result, else None.

    :param outcome: how it ended, within its time
    :param problem: why its result cannot be read, or an empty string
    :param who: "the job"
    """
    if outcome.code is not None and outcome.code < 0:
        message = "%s was ended by signal %d%s" % (who, -outcome.code, SIGNAL_HINTS.get(-outcome.code, ""))
        return "FAIL", "CRASHED", message, "none"
    if problem:
        return "UNKNOWN", "PARSE", "%s's result %s" % (who, problem), "none"
    if not isinstance(result, dict) or outcome.code != 0:
        message = "%s ended with status %s and left no result: %s" % (who, outcome.code, last_line(outcome.tail))
        return "UNKNOWN", "NO_RESULT", message, "none"
    return None


def judge_training(target, result, dataset, table, common=None):
    """Judge accuracy and losses against the table; return the check mnist.train."""
    accuracy, batch_size, epochs = (result.get(key) for key in ("accuracy", "batch_size", "epochs"))
    minimum, source = (table["datasets"][dataset][key] for key in ("accuracy_min", "accuracy_source"))
    losses = result.get("loss_curve")
    losses = losses if isinstance(losses, list) and all(is_number(loss) for loss in losses) else []
    notes = result.get("notes")
    notes = [text(note) for note in notes] if isinstance(notes, list) else []
    measured = {"accuracy": plain(accuracy), "batch_size": plain(batch_size), "epochs": plain(epochs)}
    more = dict(common or {}, measured=dict(measured, loss_curve=losses[:1000]), threshold={"accuracy_min": minimum})
    more["threshold_source"] = "thresholds.json: %s" % source

    def answer(status, reason_code, message):
        return check("mnist.train", target, status, "; ".join([message, *notes]), reason_code, **more)

    if not is_number(accuracy) or not (0 <= accuracy <= 1):
        return answer("FAIL", "NOT_A_NUMBER", "the accuracy is %s" % text(accuracy))
    if not losses or not (losses[-1] >= 0) or (len(losses) > 1 and not (losses[-1] < losses[0])):
        return answer("FAIL", "LOSS", "the loss did not fall: %s" % text(losses or result.get("loss_curve")))
    if not is_number(epochs) or not (epochs >= table["epochs"]):
        message = "accuracy %.4f after %s epochs is not judged: the table holds for %d"
        return answer("WARN", "NOT_JUDGED", message % (accuracy, text(epochs), table["epochs"]))
    if not (accuracy >= minimum):
        if is_number(batch_size) and batch_size > table["batch_size"]:
            message = "accuracy %.4f with batch size %s is not judged: the table holds for up to %d"
            return answer("WARN", "NOT_JUDGED", message % (accuracy, batch_size, table["batch_size"]))
        return answer(
            "FAIL", "ACCURACY", "accuracy %.4f is below %.2f, the minimum on %s" % (accuracy, minimum, dataset)
        )
    # A halved batch size is a WARN: the job is done, but not with what the person asked for.
    return answer("WARN" if notes else "PASS", "NOTES" if notes else "OK", "accuracy %.4f on %s" % (accuracy, dataset))


def judge_device(target, result, profile, common=None):
    """Judge where the results were, as the job read it from the tensors; return the check mnist.device."""
    devices = result.get("result_devices")
    devices = [text(device) for device in devices] if isinstance(devices, list) else []
    peak, model = result.get("allocator_peak_bytes"), result.get("model_bytes")
    measured = {"result_devices": devices, "allocator_peak_bytes": plain(peak), "model_bytes": plain(model)}
    more = dict(common or {}, measured=measured, threshold={"device": profile})

    def answer(status, reason_code, message):
        return check("mnist.device", target, status, message, reason_code, **more)

    kinds = {device_kind(device) for device in [*devices, result.get("device")]}
    if not devices or kinds != {profile}:
        where = ", ".join(devices) or "no device"
        return answer("FAIL", "WRONG_DEVICE", "%s was asked for, the results lie on %s" % (profile, where))
    if profile == "gpu" and not (is_number(peak) and is_number(model) and peak > model):
        message = "the framework counts %s bytes of GPU memory, too few for a network of %s bytes"
        return answer("FAIL", "WRONG_DEVICE", message % (text(peak), text(model)))
    return answer("PASS", "OK", "the results lie on %s" % ", ".join(devices))


def device_kind(device):
    """Return cpu or gpu for a framework's name of a device, "unknown" for anything else."""
    word = re.match(r"(cpu|gpu|cuda)(:\d+)?$", str(device).lower())
    return "unknown" if not word else "cpu" if word.group(1) == "cpu" else "gpu"


def self_test(table, judge_training=judge_training, judge_device=judge_device):
    """Feed the gates results that must be refused, and one that must not.

    :returns: ``{what: True when the gates behaved}``
    """
    good = {"accuracy": 0.99, "loss_curve": [0.4, 0.1], "epochs": table["epochs"], "batch_size": 32}
    good.update(device="cpu:0", result_devices=["cpu:0"])

    def training(**changes):
        return judge_training("self-test", dict(good, **changes), "mnist", table)["status"]

    def device(profile, **changes):
        return judge_device("self-test", dict(good, **changes), profile)["status"]

    return {
        "good_result_accepted": training() == "PASS" and device("cpu") == "PASS",
        "nan_accuracy_rejected": training(accuracy=float("nan")) == "FAIL",
        "nan_loss_rejected": training(loss_curve=[0.4, float("nan")]) == "FAIL",
        "low_accuracy_rejected": training(accuracy=table["datasets"]["mnist"]["accuracy_min"] - 0.0001) == "FAIL",
        "cpu_tensor_rejected": device("gpu") == "FAIL" and device("gpu", device="cuda:0") == "FAIL",
        "missing_device_rejected": device("cpu", result_devices=[]) == "FAIL",
    }
