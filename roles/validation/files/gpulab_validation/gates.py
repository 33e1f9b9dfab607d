# SPDX-License-Identifier: Apache-2.0
"""Judge what the jobs measured. Pure functions: facts in, checks out.

Every gate is written as ``not (value >= limit)``, because any comparison with NaN is false.
"""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
TABLE = "thresholds.json"


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


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
        message = (
            "the job did not end within its time limit and survived SIGKILL (it hangs in the kernel, often in a driver)"
        )
        return "FAIL", "TIMEOUT", message, "reboot"
    if outcome.state == "timeout":
        return (
            "FAIL",
            "TIMEOUT",
            "the job did not end within its time limit (validation_job_timeout) and was stopped",
            "none",
        )
    error = result.get("error") if result else None
    if isinstance(error, dict):
        return "FAIL", text(error.get("reason_code"), 40), text(error.get("message"), 500), "none"
    if outcome.code is not None and outcome.code < 0:
        hint = {
            -9: " (often the kernel, when memory runs out)",
            -4: " (the processor lacks an instruction that this build uses)",
        }
        return (
            "FAIL",
            "CRASHED",
            "the job was ended by signal %d%s" % (-outcome.code, hint.get(outcome.code, "")),
            "none",
        )
    if problem:
        return "UNKNOWN", "PARSE", "the job's result %s" % problem, "none"
    if result is None or outcome.code != 0:
        last = ([line for line in outcome.tail.splitlines() if line.strip()] or ["no output"])[-1]
        return (
            "UNKNOWN",
            "NO_RESULT",
            "the job ended with status %s and left no result: %s" % (outcome.code, text(last)),
            "none",
        )
    return None


def judge_training(target, result, dataset, table, common=None):
    """Judge accuracy and loss against the table."""
    accuracy, losses, epochs = result.get("accuracy"), result.get("loss_curve"), result.get("epochs")
    minimum = table["datasets"][dataset]["accuracy_min"]
    curve = losses if isinstance(losses, list) and losses and all(is_number(loss) for loss in losses) else []
    measured = {"accuracy": accuracy, "loss_curve": curve, "batch_size": result.get("batch_size"), "epochs": epochs}
    more = dict(common or {})
    more.update(measured=measured, threshold={"accuracy_min": minimum})
    more["threshold_source"] = "%s: %s" % (TABLE, table["datasets"][dataset]["accuracy_source"])
    notes = [text(note) for note in result.get("notes") or []]

    def answer(status, message, reason_code="OK"):
        return check("mnist.train", target, status, "; ".join([message, *notes]), reason_code, **more)

    if not is_number(accuracy) or not (0 <= accuracy <= 1) or not curve:
        return answer("FAIL", "accuracy is %s and the losses are %s" % (text(accuracy), text(losses)), "NOT_A_NUMBER")
    if not (curve[-1] >= 0) or (len(curve) > 1 and not (curve[-1] < curve[0])):
        return answer("FAIL", "the loss did not fall: %g, then %g" % (curve[0], curve[-1]), "LOSS")
    if not is_number(epochs) or not (epochs >= table["epochs"]):
        message = "accuracy %.4f after %s epochs is not judged: the table holds for %d epochs" % (
            accuracy,
            epochs,
            table["epochs"],
        )
        return answer("WARN", message, "NOT_JUDGED")
    if not (accuracy >= minimum):
        if not (result.get("batch_size", 0) <= table["batch_size"]):
            message = "accuracy %.4f with batch size %s is not judged: the table holds for up to %d"
            return answer("WARN", message % (accuracy, result.get("batch_size"), table["batch_size"]), "NOT_JUDGED")
        return answer(
            "FAIL", "accuracy %.4f is below %.2f, the minimum on %s" % (accuracy, minimum, dataset), "ACCURACY"
        )
    # Halving the batch size is the job's to do and the person's to know: they asked for another one.
    return answer("WARN" if notes else "PASS", "accuracy %.4f on %s" % (accuracy, dataset), "NOTES" if notes else "OK")


def judge_device(target, result, profile, common=None):
    """Judge where the results were, read from the tensors by the job."""
    devices = result.get("result_devices")
    devices = [text(device) for device in devices] if isinstance(devices, list) else []
    peak, model = result.get("allocator_peak_bytes"), result.get("model_bytes")
    more = dict(common or {})
    more["measured"] = {"result_devices": devices, "allocator_peak_bytes": peak, "model_bytes": model}
    more["threshold"] = {"device": profile}

    def answer(status, message, reason_code="OK"):
        return check("mnist.device", target, status, message, reason_code, **more)

    kinds = {device_kind(device) for device in devices} | {device_kind(result.get("device"))}
    if not devices or kinds != {profile}:
        return answer(
            "FAIL",
            "%s was asked for, the results lie on %s" % (profile, ", ".join(devices) or "no device"),
            "WRONG_DEVICE",
        )
    if profile == "gpu" and not (is_number(peak) and is_number(model) and peak > model):
        message = "the framework's own account of GPU memory (%s bytes) does not show a network of %s bytes" % (
            peak,
            model,
        )
        return answer("FAIL", message, "WRONG_DEVICE")
    return answer("PASS", "results lie on %s" % ", ".join(devices))


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
