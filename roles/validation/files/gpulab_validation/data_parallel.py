# SPDX-License-Identifier: Apache-2.0
"""Train on all GPUs of a host together, in each framework, and judge the gradients of the first step and the losses."""

from __future__ import annotations

import collections
import os

import gates
import processes

FRAMEWORKS = ("pytorch", "tensorflow", "jax")
CHECKS = ("dp.gradients", "dp.train")
#: What must do the work between GPUs. A library for processors there would be right, and slow.
BACKENDS = {"pytorch": {"gpu": "nccl", "cpu": "gloo"}}


def required(c):
    """Return the checks (id, target) that the profile demands: with more than one GPU both, for each framework."""
    if not_done(c)[0]:
        return []
    return [(name, target) for _, _, target in jobs(c.environments) for name in CHECKS]


def jobs(environments):
    """Return (environment, framework, target) for each framework; Keras trains as its backend does."""
    return [
        (row, framework, "%s/%s" % (row["name"], framework))
        for row in environments
        for framework in FRAMEWORKS
        if framework in row["frameworks"]
    ]


def devices(c):
    """Return the GPUs to train on: the largest group of one model, because replicas of a batch share one pace."""
    groups = collections.OrderedDict()
    for device in c.devices:
        groups.setdefault(device.name, []).append(device)
    return max(groups.values(), key=len) if groups else []


def not_done(c):
    """Return why nothing is to be done, as (reason code, sentence); an empty reason code when there is work."""
    if not c.settings["data_parallel"]:
        return "NOT_REQUESTED", "validation_data_parallel is false"
    if c.profile != "gpu":
        return "NOT_APPLICABLE", "the processor alone is used"
    if any(device.uuid.startswith("MIG-") for device in c.devices):
        return "NOT_APPLICABLE", "a process sees one MIG instance at most, and instances do not exchange gradients"
    if len(devices(c)) < 2:
        more = ", no two of them of one model" if len(c.devices) > 1 else ""
        return "NOT_APPLICABLE", "there are %d GPUs%s" % (len(c.devices), more)
    if not jobs(c.environments):
        return "NOT_APPLICABLE", "no environment has PyTorch, TensorFlow or JAX"
    return "", ""


def run(c, dataset_directory):
    """Run and judge the data-parallel jobs.

    :param dataset_directory: directory with the four files of the data set
    :returns: the checks, and the document's part ``data_parallel``
    """
    reason_code, why = not_done(c)
    if reason_code:
        words = "not trained on several GPUs: %s" % why
        return [gates.check(name, "host", "SKIP", words, reason_code, required=False) for name in CHECKS], {"rows": []}
    chosen = devices(c)
    checks, rows = [], []
    for environment, framework, target in jobs(c.environments):
        c.runner.progress("training on %d GPUs together in %s" % (len(chosen), target))
        outcome, result, problem, log = run_job(c, environment, framework, chosen, dataset_directory)
        made = judge(target, framework, c.profile, len(chosen), outcome, result, problem, c.table, log)
        checks += made
        rows.append(row_of(environment, framework, made, outcome, result))
        c.runner.event("data_parallel", target=target, status=rows[-1]["status"], state=outcome.state)
    return checks, {"rows": rows, "devices": [device.uuid for device in chosen]}


def run_job(c, environment, framework, chosen, dataset_directory):
    """Run one job on some GPUs; return its outcome, its result, what is wrong with it, and the path of its log."""
    limits = c.table["job"]["data_parallel"]
    name = "%s-%s-data-parallel" % (environment["name"], framework)
    timeout = limits["timeout_s"]["value"]
    arguments = ["--data", dataset_directory, "--device", c.profile, "--devices", len(chosen)]
    arguments += ["--steps", limits["steps"]["value"], "--batch-per-device", limits["batch_per_device"]["value"]]
    # Replicas give up waiting for each other before the whole job is stopped, so that they can say what happened.
    arguments += ["--seed", c.settings["job_seed"], "--timeout", timeout // 2]
    arguments += ["--result", c.runner.result_path(name + ".json")]
    program = "data_parallel_%s.py" % framework
    outcome = c.runner.start(environment, program, arguments, name + ".log", timeout, chosen)
    result, problem = c.runner.result(name + ".json")
    return outcome, result, problem, os.path.join(c.runner.run_directory, name + ".log")


def row_of(environment, framework, checks, outcome, result):
    """Return one row for the table that a person reads."""
    result = result if isinstance(result, dict) else {}
    worst = max(checks, key=lambda row: ("PASS", "WARN", "UNKNOWN", "FAIL").index(row["status"]))
    gradients = checks[0]["measured"]
    return {
        "environment": environment["name"],
        "framework": framework,
        "version": gates.text(result["version"], 40) if result.get("version") else None,
        "replicas": gates.plain(result.get("replicas")),
        "devices": texts(result.get("devices")),
        "backend": gates.text(result["backend"], 40) if result.get("backend") else None,
        "gradients": {name: gradients[name] for name in ("w1", "b1", "w2", "b2") if name in gradients},
        "gradients_worst": gradients.get("worst"),
        "replicas_spread": gradients.get("replicas_spread"),
        "loss_curve": checks[1]["measured"].get("loss_curve", []),
        "accuracy": gates.plain(result.get("accuracy")),
        "seconds": round(outcome.seconds, 1),
        "status": worst["status"],
        "note": "" if worst["status"] == "PASS" else worst["message"],
    }


def texts(values):
    return [gates.text(value, 80) for value in values][:1024] if isinstance(values, list) else []


# -- judging ---------------------------------------------------------------------------------------------------------


def judge(target, framework, profile, wanted, outcome, result, problem, table, log):
    """Judge one data-parallel job.

    :param profile: cpu or gpu
    :param wanted: how many devices there must be
    :param outcome: how the process ended (processes.Outcome)
    :param result: the job's result, or None
    :param problem: why the result cannot be read, or an empty string
    :returns: the checks dp.gradients and dp.train
    """
    common = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    failure = failure_of(outcome, result, problem, table)
    if failure:
        status, reason_code, message, action = failure
        return [gates.check(name, target, status, message, reason_code, action=action, **common) for name in CHECKS]
    return [
        judge_gradients(target, framework, profile, wanted, result, table, common),
        judge_training(target, result, table, common),
    ]


def failure_of(outcome, result, problem, table):
    """Return (status, reason code, message, action) of a job without a usable result, else None."""
    if outcome.state == "not_started":
        return "FAIL", "TOOL_MISSING", outcome.tail, "none"
    told = gates.told_error(result)
    if told:
        return told
    if outcome.state in ("timeout", "abandoned"):
        words = "training on several GPUs did not end within %g seconds: they may not reach each other (NVLink, PCIe)%s"
        limit, stuck = table["job"]["data_parallel"]["timeout_s"]["value"], outcome.state == "abandoned"
        message = words % (limit, "; it survived SIGKILL" if stuck else "")
        return "FAIL", "TIMEOUT", message, "reboot" if stuck else "none"
    return gates.no_answer(outcome, result, problem, "the job")


def judge_gradients(target, framework, profile, wanted, result, table, common=None):
    """Judge the averaged gradients of the first step, and that each replica was a device of its own."""
    limits = table["job"]["data_parallel"]
    limit, apart = limits["gradients_rel_f"]["value"], limits["replicas_spread"]["value"]
    against = [result.get(key) if isinstance(result.get(key), dict) else {} for key in ("gradients", "single_device")]
    names = ("w1", "b1", "w2", "b2")
    values = [row.get(name) for row in against for name in names]
    used, spread = texts(result.get("devices")), result.get("replicas_spread")
    measured = {name: gates.plain(against[0].get(name)) for name in names if name in against[0]}
    numbers = [value for value in values if gates.is_number(value)]
    measured.update(
        worst=max(numbers) if numbers else None, replicas_spread=gates.plain(spread), devices=len(set(used))
    )
    threshold = {"worst": limit, "replicas_spread": apart, "devices": wanted}
    more = dict(common or {}, measured=measured, threshold=threshold)
    more["threshold_source"] = "thresholds.json: %s" % limits["gradients_rel_f"]["source"]

    def answer(status, reason_code, message):
        return gates.check("dp.gradients", target, status, message, reason_code, **more)

    kinds = {gates.device_kind(device.rpartition("/")[2]) for device in used}
    if kinds != {profile} or len(set(used)) != wanted or result.get("replicas") != wanted:
        words = "%d devices of the kind %s were to share the work, the gradients lie on %s"
        return answer("FAIL", "WRONG_DEVICE", words % (wanted, profile, ", ".join(used) or "no device"))
    backend = BACKENDS.get(framework, {}).get(profile)
    if backend and result.get("backend") != backend:
        words = "gradients were exchanged by %s, not by %s"
        return answer("FAIL", "WRONG_BACKEND", words % (gates.text(result.get("backend")), backend))
    bad = [name for name, value in zip(names * 2, values) if not (gates.is_number(value) and 0 <= value <= limit)]
    if bad:
        words = "the averaged gradients of %s differ from a single device's by up to %s of their norm (at most %g)"
        worst = "what is no number" if len(numbers) < len(values) else "%.3g" % measured["worst"]
        return answer("FAIL", "WRONG_GRADIENT", words % (", ".join(sorted(set(bad))), worst, limit))
    if not (gates.is_number(spread) and 0 <= spread <= apart):
        words = "after the training the replicas' weights lie %s of their norm apart (at most %g)"
        return answer("FAIL", "REPLICAS_DIFFER", words % (gates.text(spread), apart))
    words = "gradients on %d devices equal those of one (%.2g of their norm apart)"
    return answer("PASS", "OK", words % (wanted, measured["worst"]))


def judge_training(target, result, table, common=None):
    """Judge that the loss fell as far as it does with right gradients."""
    limits = table["job"]["data_parallel"]
    ratio = limits["loss_ratio"]["value"]
    losses = result.get("loss_curve")
    losses = losses if isinstance(losses, list) and all(gates.is_number(loss) for loss in losses) else []
    measured = {"loss_curve": losses[:1000], "accuracy": gates.plain(result.get("accuracy"))}
    more = dict(common or {}, measured=measured, threshold={"loss_ratio": ratio})
    more["threshold_source"] = "thresholds.json: %s" % limits["loss_ratio"]["source"]
    if len(losses) < 2 or not (losses[0] > 0) or not (0 <= losses[-1] <= ratio * losses[0]):
        words = "the loss did not fall to %g of its beginning: %s"
        message = words % (ratio, gates.text(losses or result.get("loss_curve")))
        return gates.check("dp.train", target, "FAIL", message, "LOSS", **more)
    measured["loss_ratio"] = losses[-1] / losses[0]
    words = "the loss fell from %.4f to %.4f" % (losses[0], losses[-1])
    return gates.check("dp.train", target, "PASS", words, **more)


def self_test(table, judge=judge):
    """Feed the gates results that must be refused, and one that must not.

    :returns: ``{what: True when the gates behaved}``
    """
    right = {"w1": 1e-7, "b1": 1e-7, "w2": 2e-7, "b2": 1e-7}
    good = {"devices": ["cuda:0", "cuda:1"], "replicas": 2, "backend": "nccl", "gradients": right}
    good.update(single_device=right, replicas_spread=0.0, loss_curve=[2.0, 0.5])
    ended = processes.Outcome("finished", 0, 1.0, "")

    def statuses(**changes):
        result = dict(good, **changes)
        return [row["status"] for row in judge("self-test", "pytorch", "gpu", 2, ended, result, "", table, "log")]

    return {
        "data_parallel_accepted": statuses() == ["PASS", "PASS"],
        "nan_gradient_rejected": statuses(gradients=dict(right, w1=float("nan")))[0] == "FAIL",
        "lost_replica_rejected": statuses(gradients=dict(right, w1=0.7))[0] == "FAIL",
        "one_device_for_two_rejected": statuses(devices=["cuda:0"])[0] == "FAIL",
        "replicas_apart_rejected": statuses(replicas_spread=0.01)[0] == "FAIL",
        "still_loss_rejected": statuses(loss_curve=[2.0, 2.0])[1] == "FAIL",
    }
