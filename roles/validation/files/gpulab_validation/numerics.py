# SPDX-License-Identifier: Apache-2.0
"""Tier 3: does every device compute correctly? One layer forward and backward, and memory, against float64.

The programs below jobs/ compute with each framework on each device and write tensors, compare_numerics.py measures
them in a process without any framework, and the functions here judge what was measured against thresholds.json.
"""

from __future__ import annotations

import collections
import functools
import itertools
import os
import re

import gates
import settings

TIER = 3
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
#: In the order in which they are computed: the first that is wrong names the broken stage.
TENSORS = ("z", "h", "loss", "g", "dW", "db", "dX")
PRODUCTS = ("z", "dW", "dX")
#: Tensors whose distance as a whole is gated.
GATED_AS_A_WHOLE = ("z", "h", "dW", "db", "dX")
STORED_IN_32_BITS = ("fp32", "tf32")
#: Of the formats of products, the hidden first bit included: half of the last one is the unit of roundoff.
SIGNIFICANT_BITS = {"fp32": 24, "tf32": 11, "bf16": 8}
#: The first of them tests the memory, too.
FRAMEWORKS = ("pytorch", "jax", "tensorflow")
#: Since when GPUs compute TF32 and bfloat16 in hardware.
FIRST_WITH_TF32 = (8, 0)
MOST_THREADS = 16
SERIAL = itertools.count(1)

#: One framework in one environment.
Target = collections.namedtuple("Target", "environment framework name")
#: One device for one target; ``device`` is None for the processor.
Place = collections.namedtuple("Place", "target device name capability")


# -- what is to be done ------------------------------------------------------------------------------------------------


def targets(environments):
    """List each framework of each environment once; Keras is judged by the framework that it runs on."""
    found = []
    for row in environments:
        frameworks = {name for name in FRAMEWORKS if name in row["frameworks"]}
        if "keras" in row["frameworks"]:
            frameworks.add(_keras_backend(row, frameworks))
        for name in FRAMEWORKS:
            if name in frameworks:
                found.append(Target(row, name, "%s/%s" % (row["name"], name)))
    return found


def _keras_backend(row, frameworks):
    """Return the framework below Keras: what the environment says, else the one beside it."""
    if row.get("keras_backend"):
        return settings.KERAS_BACKENDS.get(row["keras_backend"], "tensorflow")
    return next((name for name in ("tensorflow", "pytorch", "jax") if name in frameworks), "tensorflow")


def places(c):
    """List every target on every device. In the profile gpu without a device, each target stands with "gpu"."""
    answer = []
    for target in targets(c.environments):
        if c.profile == "cpu":
            answer.append(Place(target, None, target.name + "@cpu", None))
        elif not c.devices:
            answer.append(Place(target, None, target.name + "@gpu", None))
        for device in c.devices if c.profile == "gpu" else ():
            name = "%s@%s" % (target.name, gates.text(device.uuid, 80))
            answer.append(Place(target, device, name, capability(device, c.observation, c.expected)))
    return answer


def _driver_rows(observation):
    """Yield the rows of all GPUs that the driver told of, NVML's first."""
    for side in ("nvml", "smi"):
        yield from ((observation or {}).get(side) or {}).get("gpus") or ()


def capability(device, observation, expected):
    """Return a device's compute capability as (major, minor), or None where nobody knows it."""
    rows = [row for row in _driver_rows(observation) if row.get("uuid") == device.uuid or row.get("bdf") == device.bdf]
    rows += [row for row in (expected or {}).get("gpus") or () if row.get("bus") == device.bdf]
    for row in rows:
        found = parse_capability(row.get("compute_capability"))
        if found:
            return found
    return None


def parse_capability(words):
    """Turn "9.0" into (9, 0); anything else into None."""
    match = re.match(r"(\d{1,3})\.(\d{1,3})$", words) if isinstance(words, str) else None
    return (int(match.group(1)), int(match.group(2))) if match else None


def not_applicable(precision, profile, capability):
    """Return why a precision does not exist on a device, or an empty string."""
    if profile == "cpu":
        return "TF32 is a format of GPUs: it does not exist on the processor" if precision == "tf32" else ""
    if precision in ("tf32", "bf16") and capability and not (capability >= FIRST_WITH_TF32):
        return "this GPU (compute capability %d.%d) has no %s: it came with 8.0" % ((*capability, precision))
    return ""


def precisions(profile, capability):
    """List the precisions to compute on a device."""
    return [name for name in PRECISIONS if not not_applicable(name, profile, capability)]


def memory_places(everything):
    """Return the names of the places that test memory: the first of each device."""
    first = {}
    for place in everything:
        first.setdefault(place.device.uuid if place.device else None, place.name)
    return set(first.values())


def required(c):
    """List the checks that the profile demands, as (check id, target)."""
    everything, answer = places(c), []
    testing = memory_places(everything)
    models = [product(device) for device in c.devices if c.profile == "gpu"]
    for place in everything:
        answer += [("num.fwd_bwd." + name, place.name) for name in precisions(c.profile, place.capability)]
        answer.append(("num.repeat", place.name))
        if place.device is not None and models.count(product(place.device)) > 1:
            answer.append(("num.cross_gpu", place.name))
        if place.name in testing:
            answer.append(("mem.pattern", place.name))
    return answer


# -- doing it ----------------------------------------------------------------------------------------------------------


def run(c):
    """Compute, compare and judge everything.

    :returns: the checks, and the document's section ``numerics``
    """
    everything = places(c)
    checks, section = [], {"rows": [], "memory": []}
    testing = memory_places(everything)
    for target, group in itertools.groupby(everything, key=lambda place: place.target.name):
        group = list(group)
        if c.profile == "gpu" and not c.devices:
            checks += [_nothing_to_compute_on(place, name) for place in group for name in _identities(place, testing)]
            continue
        c.runner.progress("numerics of %s on %s" % (target, _count(len(group), c.profile)))
        measured = compute(c, group, testing)
        for place, answer in zip(group, measured):
            new, rows = judge_place(place, answer, c.profile, c.table["numerics"], place.name in testing)
            checks += new
            section["rows"] += rows
            if place.name in testing and isinstance(answer.entry.get("memory"), dict):
                section["memory"].append(memory_row(place, answer.entry["memory"]))
        wrong = {row["target"] for row in checks if row["id"].startswith("num.fwd_bwd.") and row["status"] == "FAIL"}
        checks += judge_agreement(group, measured, wrong)
        suspect_software(checks, group)
    return checks, section


def _count(number, profile):
    return "the processor" if profile == "cpu" else "%d GPU%s" % (number, "s" if number > 1 else "")


def _identities(place, testing):
    names = ["num.fwd_bwd." + name for name in PRECISIONS] + ["num.repeat"]
    return names + (["mem.pattern"] if place.name in testing else [])


def _nothing_to_compute_on(place, identity):
    words = "not run: the driver tells of no GPU to compute on"
    return gates.check(identity, place.name, "UNKNOWN", words, "NO_GPU", tier=TIER)


#: What is known of one place: how its program ended, its own result, what the comparison found (an empty dictionary
#: without one), what is wrong with either ("" for nothing), how many bytes were to be tested, and the log.
Answer = collections.namedtuple("Answer", "outcome result entry problem wanted_bytes log")


def compute(c, group, testing):
    """Run one target's program on all devices at once, then the comparison; return an Answer per place."""
    table, runner, serial = c.table["numerics"], c.runner, next(SERIAL)
    stem = "numerics-%s-%d" % (re.sub(r"[^A-Za-z0-9_.-]", "_", group[0].target.name.replace("/", "-")), serial)
    names = ["%s-%d" % (stem, number) for number in range(len(group))]
    limits = {"OMP_NUM_THREADS": str(threads(len(group)))}
    wanted = [memory_to_test(place, c, table) if place.name in testing else 0 for place in group]
    calls = []
    for place, name, size in zip(group, names, wanted):
        arguments = ["--device", c.profile, "--out", runner.result_path(name + ".tensors")]
        arguments += ["--result", runner.result_path(name + ".json"), "--memory-bytes", str(size)]
        arguments += ["--precisions", ",".join(precisions(c.profile, place.capability))]
        arguments += ["--repeats", str(table["repeats"][c.profile])]
        calls.append(
            functools.partial(
                runner.start, place.target.environment, "numerics_%s.py" % place.target.framework, arguments,
                name + ".log", table["timeout_s"], devices=[place.device] if place.device else None, variables=limits,
            )
        )  # fmt: skip
    outcomes = runner.together(calls)
    results = [runner.result(name + ".json") for name in names]
    entries, problem = compare(c, group[0].target.environment, stem, names, outcomes)
    answers = []
    for outcome, (result, words), name, size in zip(outcomes, results, names, wanted):
        entry = entries.get(name + ".tensors")
        entry = entry if isinstance(entry, dict) else {}
        log = os.path.join(runner.run_directory, name + ".log")
        answers.append(Answer(outcome, result, entry, words or problem, size, log))
    return answers


def compare(c, environment, stem, names, outcomes):
    """Run the comparison over what the programs wrote; return its entries by directory, and what is wrong with it."""
    directories = [
        c.runner.result_path(name + ".tensors") for name, outcome in zip(names, outcomes) if outcome.state == "finished"
    ]
    if not directories:
        return {}, "no program came to its end"
    answer_name, log = stem + "-compared.json", stem + "-compared.log"
    arguments = ["--remove", "--result", c.runner.result_path(answer_name), *directories]
    limits = {name: str(threads(1)) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    timeout = c.table["numerics"]["timeout_s"]
    outcome = c.runner.start(environment, "compare_numerics.py", arguments, log, timeout, devices=[], variables=limits)
    result, problem = c.runner.result(answer_name)
    if outcome.state != "finished" or outcome.code != 0 or result is None:
        words = problem or gates.last_line(outcome.tail)
        return {}, "the comparison with float64 gave no result (%s): %s" % (outcome.state, words)
    devices = result.get("devices")
    return (devices, "") if isinstance(devices, dict) else ({}, "the comparison with float64 gave an odd result")


def threads(processes):
    """Return how many threads each of some processes may use."""
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // processes))


def memory_to_test(place, c, table):
    """Return how many bytes of a device's memory to test: a share of what is free on a GPU."""
    if place.device is None:
        return table["memory"]["cpu_bytes"]
    for row in _driver_rows(c.observation):
        free = (row.get("memory") or {}).get("free")
        if row.get("uuid") == place.device.uuid and gates.is_number(free) and free > 0:
            return int(free * table["memory"]["share_of_free"])
    total = place.device.memory
    return int(total * table["memory"]["share_of_free"]) if gates.is_number(total) and total > 0 else 0


# -- judging -----------------------------------------------------------------------------------------------------------


def judge_place(place, answer, profile, table, with_memory):
    """Judge one framework on one device; return its checks, and its rows of the section."""
    seconds = round(answer.outcome.seconds, 1)
    common = {"tier": TIER, "evidence": [answer.log], "duration_s": seconds}
    common["action"] = "reboot" if answer.outcome.state == "abandoned" else "none"

    def check(identity, status, message, reason_code="OK", **more):
        return gates.check(identity, place.name, status, message, reason_code, **dict(common, **more))

    known = place.capability or parse_capability((answer.result or {}).get("compute_capability"))
    trouble = failure(answer) or wrong_device(place, answer, profile)
    asked = precisions(profile, place.capability)
    checks, rows = [], []
    runs = answer.entry.get("runs")
    runs = [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
    holding = controls_hold(answer.entry.get("controls"), table)
    for precision in PRECISIONS:
        identity, why_not = "num.fwd_bwd." + precision, not_applicable(precision, profile, known)
        if why_not:
            checks.append(check(identity, "SKIP", why_not, "NOT_APPLICABLE", required=False))
            continue
        if trouble:
            checks.append(check(identity, *trouble))
            continue
        of_precision = [run for run in runs if run.get("precision") == precision]
        row = judge_precision(precision, of_precision, table)
        if row["status"] in ("PASS", "WARN") and not holding:
            row["status"], row["reason_code"] = "FAIL", "SELF_TEST"
            row["message"] = "the comparison does not see tensors that were spoiled on purpose, so it proves nothing"
        row["measured"]["device"] = ", ".join(_devices(answer.entry))
        row["action"] = "isolate" if row["status"] == "FAIL" and profile == "gpu" and row.pop("hardware") else "none"
        row.pop("hardware", None)
        checks.append(check(identity, row.pop("status"), row.pop("message"), row.pop("reason_code"), **row))
        measured = [run for run in of_precision if isinstance(run.get("tensors"), dict)]
        rows += [section_row(place, answer.entry, run, table) for run in measured]
    if trouble:
        checks.append(check("num.repeat", *trouble))
    else:
        wanted = [run for run in runs if run.get("precision") in asked and not run.get("error")]
        checks.append(check("num.repeat", **judge_repeats(wanted, profile)))
    if with_memory:
        judged = dict(zip(("status", "message", "reason_code"), trouble)) if trouble else None
        judged = judged or judge_memory(answer.entry.get("memory"), answer.wanted_bytes, profile, table)
        checks.append(check("mem.pattern", **judged))
    return checks, rows


def failure(answer):
    """Return (status, message, reason code) when there is nothing to judge, else None."""
    outcome = answer.outcome
    if outcome.state == "not_started":
        return "FAIL", outcome.tail, "TOOL_MISSING"
    if outcome.state == "abandoned":
        words = "the program did not end within its time limit and survived SIGKILL: it hangs in the driver; reboot"
        return "FAIL", words, "TIMEOUT"
    if outcome.state == "timeout":
        return "FAIL", "the program did not end within its time limit and was stopped", "TIMEOUT"
    error = answer.result.get("error") if isinstance(answer.result, dict) else None
    if isinstance(error, dict):
        return "FAIL", gates.text(error.get("message"), 500), gates.text(error.get("reason_code"), 40)
    if outcome.code is not None and outcome.code < 0:
        hint = gates.SIGNAL_HINTS.get(-outcome.code, "")
        return "FAIL", "the program was ended by signal %d%s" % (-outcome.code, hint), "CRASHED"
    if answer.result is None and outcome.code != 0:
        words = "the program ended with status %s and left no result: %s"
        return "UNKNOWN", words % (outcome.code, gates.last_line(outcome.tail)), "NO_RESULT"
    error = answer.entry.get("error")
    if isinstance(error, dict):
        return "UNKNOWN", gates.text(error.get("message"), 500), gates.text(error.get("reason_code"), 40)
    if answer.problem or not answer.entry:
        return "UNKNOWN", "nothing to judge: %s" % (answer.problem or "no tensors were compared"), "PARSE"
    return None


def _devices(entry):
    devices = entry.get("result_devices")
    return [gates.text(device, 40) for device in devices] if isinstance(devices, list) else []


def wrong_device(place, answer, profile):
    """Return (status, message, reason code) unless all tensors lay on the device that was asked for."""
    used = _devices(answer.entry)
    if not used or {gates.device_kind(device) for device in used} != {profile}:
        where = ", ".join(used) or "no device"
        return "FAIL", "%s was asked for, the tensors lie on %s" % (profile, where), "WRONG_DEVICE"
    said, wanted = answer.entry.get("uuid"), place.device.uuid if place.device else ""
    if isinstance(said, str) and wanted.startswith("GPU-") and said.replace("GPU-", "").lower() != wanted[4:].lower():
        words = "%s was asked for, the framework computed on %s"
        return "FAIL", words % (gates.text(wanted), gates.text(said)), "WRONG_DEVICE"
    return None


def gate(precision, tensor, table):
    """Return the gates of a tensor: as a whole (None for none), and per element in units of its rounding."""
    whole = table["rel_f"][precision] if tensor in GATED_AS_A_WHOLE else None
    return whole, table["elementwise_u"][precision]["products" if tensor in PRODUCTS else "others"]


def faults(tensor, measured, precision, table):
    """List what is wrong with one tensor as pairs (reason code, sentence); an empty list when nothing is."""
    if not isinstance(measured, dict):
        return [("NO_RESULT", "%s was not measured" % tensor)]
    whole, each = gate(precision, tensor, table)
    found, worst = [], measured.get("worst")
    worst = worst if isinstance(worst, dict) else {}
    bad = measured.get("not_finite")
    if not (gates.is_number(bad) and bad == 0):
        found.append(("NOT_FINITE", "%s holds %s values that are NaN or infinite" % (tensor, gates.text(bad, 20))))
    distance = measured.get("elementwise_u")
    if not (gates.is_number(distance) and distance <= each):
        words = "%s is wrong: element %s is %s, float64 says %s (off by %s roundings, %g are allowed)"
        where = gates.text(worst.get("index"), 30)
        values = tuple(gates.text(_short(worst.get(key)), 30) for key in ("got", "wanted"))
        found.append(("WRONG_RESULT", words % ((tensor, where, *values, gates.text(_short(distance), 30), each))))
    distance = measured.get("rel_f")
    if not (gates.is_number(distance) and (whole is None or distance <= whole)):
        allowed = "" if whole is None else ", %g is allowed" % whole
        found.append(("WRONG_RESULT", "%s is off by %s as a whole%s" % (tensor, gates.text(_short(distance)), allowed)))
    return found


def _short(value):
    return "%.2g" % value if isinstance(value, float) else value


def mode_of(precision, tensors, table):
    """Tell in which format the products were really computed, by the size of the errors of all of them."""
    distances = [tensors[name].get("rel_f") for name in PRODUCTS if isinstance(tensors.get(name), dict)]
    # 16-bit results cannot be more exact than their format; 32-bit ones may have been computed in any.
    others = ("fp32", "tf32", "bf16") if precision in STORED_IN_32_BITS else ()
    for name in (precision, *others):
        low, high = table["fingerprint"][name]
        inside = [gates.is_number(distance) and low <= distance <= high for distance in distances]
        if len(inside) == len(PRODUCTS) and all(inside):
            return name
    return "unknown"


def silently_in(mode, tensors, table):
    """Tell whether results in float32 would be right, had their products been asked for in another format.

    Then most elements are off, and none of them far: a few that are wrong tell of something else.
    """
    median = tensors["z"].get("median_u")
    if not (gates.is_number(median) and median > gate("fp32", "z", table)[1]):
        return False
    for name in TENSORS:
        distance = tensors[name].get("elementwise_u")
        factor = 2.0 ** (SIGNIFICANT_BITS[mode] - SIGNIFICANT_BITS["fp32"]) if name in PRODUCTS else 1
        limit = gate(mode if name in PRODUCTS else "fp32", name, table)[1]
        if not (gates.is_number(distance) and distance * factor <= limit):
            return False
    return True


def judge_run(run, precision, table):
    """Judge one shape; return (status, reason code, sentence, mode)."""
    shape = run.get("shape")
    shape = "x".join(gates.text(size, 10) for size in shape) if isinstance(shape, list) else "an unknown shape"
    error = run.get("error")
    if error:
        error = error if isinstance(error, dict) else {}
        words = "%s on %s could not be computed: %s"
        code = gates.text(error.get("reason_code"), 40)
        return "FAIL", code, words % (precision, shape, gates.text(error.get("message"), 400)), "unknown"
    wrong, tensors = run.get("wrong"), run.get("tensors")
    if wrong:
        first = wrong[0] if isinstance(wrong, list) else wrong
        return "FAIL", "SHAPE", "%s on %s: %s" % (precision, shape, gates.text(first)), "unknown"
    if not isinstance(tensors, dict):
        return "UNKNOWN", "NO_RESULT", "%s on %s was not measured" % (precision, shape), "unknown"
    mode = mode_of(precision, tensors, table)
    found = [fault for name in TENSORS for fault in faults(name, tensors.get(name), precision, table)]
    # A single wrong stage spoils all that follow as a whole; its own elements tell which one it was.
    found.sort(key=lambda fault: ("NOT_FINITE", "WRONG_RESULT", "NO_RESULT").index(fault[0]))
    elements = [fault for fault in found if "element" in fault[1]] if found and found[0][0] == "WRONG_RESULT" else []
    if found:
        code, words = (elements or found)[0]
        if precision == "fp32" and mode in ("tf32", "bf16") and silently_in(mode, tensors, table):
            code, words = "MODE", "%s: errors of this size are those of %s, which is on though it was switched off" % (
                words, mode,
            )  # fmt: skip
        more = "" if len(found) == 1 else " (and %d more)" % (len(found) - 1)
        return "FAIL", code, "%s on %s: %s%s" % (precision, shape, words, more), mode
    if precision not in STORED_IN_32_BITS and mode != precision:
        words = "%s on %s: the results are more exact than the format allows, so something else was computed"
        return "FAIL", "MODE", words % (precision, shape), mode
    return "PASS", "OK", "", mode


def judge_precision(precision, runs, table):
    """Judge all shapes of one precision.

    :returns: status, reason_code, message, measured, threshold, threshold_source, and ``hardware``: whether the device
        is suspect rather than the settings
    """
    judged = [judge_run(run, precision, table) for run in runs]
    answer = {"measured": worst_of(runs, precision, table), "hardware": False}
    whole, products = gate(precision, "z", table)
    others = gate(precision, "h", table)[1]
    answer["threshold"] = {"rel_f": whole, "elementwise_u": products, "elementwise_u_others": others}
    answer["threshold_source"] = "thresholds.json: %s" % table["source"]
    answer["measured"]["mode"] = judged[0][3] if judged else "unknown"
    for status in ("FAIL", "UNKNOWN"):
        for row in judged:
            if row[0] == status:
                hardware = row[1] in ("WRONG_RESULT", "NOT_FINITE")
                return dict(answer, status=status, reason_code=row[1], message=row[2], hardware=hardware)
    shapes = len({str(run.get("shape")) for run in runs})
    if not (shapes >= table["shapes"]):
        words = "%s was measured on %d of %d shapes" % (precision, shapes, table["shapes"])
        return dict(answer, status="UNKNOWN", reason_code="NO_RESULT", message=words)
    # The mode shows on the first shape; on one that fits no tile, plain cores may be the better choice.
    if precision == "tf32" and judged[0][3] != "tf32":
        words = "TF32 was asked for and the results are right, but more exact than TF32: tensor cores were not used"
        return dict(answer, status="WARN", reason_code="MODE", message=words)
    words = "%s: z, h, L, dW, db and dX are float64's (as a whole within %s, each element within %s roundings)"
    words %= (precision, *(_short(answer["measured"][key]) for key in ("rel_f", "elementwise_u")))
    return dict(answer, status="PASS", reason_code="OK", message=words)


def worst_of(runs, precision, table):
    """Return the worst distances over some runs, as a whole and per element, each nearest to its gate."""
    worst = {"rel_f": None, "elementwise_u": None}
    shares = {"rel_f": -1.0, "elementwise_u": -1.0}
    for run in runs:
        tensors = run.get("tensors")
        for name in TENSORS if isinstance(tensors, dict) else ():
            measured = tensors.get(name) if isinstance(tensors.get(name), dict) else {}
            for key, limit in zip(("rel_f", "elementwise_u"), gate(precision, name, table)):
                value = measured.get(key)
                share = value / limit if gates.is_number(value) and limit else (-1.0 if limit is None else float("inf"))
                if share > shares[key]:
                    shares[key], worst[key] = share, gates.plain(value)
    return worst


def section_row(place, entry, run, table):
    """Return one run as the document lists it."""
    shape = run.get("shape")
    tensors = {
        name: {key: gates.plain(measured.get(key)) for key in ("rel_f", "elementwise_u")}
        for name, measured in ((name, run["tensors"].get(name)) for name in TENSORS)
        if isinstance(measured, dict)
    }
    return {
        "environment": place.target.environment["name"],
        "framework": place.target.framework,
        "target": place.name,
        "version": gates.text(entry.get("version"), 60),
        "precision": run["precision"],
        "shape": [gates.plain(size) for size in shape[:3]] if isinstance(shape, list) else [],
        "mode": mode_of(run["precision"], run["tensors"], table),
        "worst": worst_of([run], run["precision"], table),
        "tensors": tensors,
    }


def memory_row(place, memory):
    """Return what was done with a device's memory as the document lists it."""
    passes = memory.get("passes")
    row = {"target": place.name, "passes": len(passes) if isinstance(passes, list) else 0}
    return dict(row, bytes=gates.plain(memory.get("bytes")), seconds=gates.plain(memory.get("seconds")))


def controls_hold(controls, table):
    """Tell whether the gates refuse every tensor that the comparison spoiled on purpose; False without any."""
    if not isinstance(controls, list) or len(controls) < table["controls"]:
        return False
    tensors = [row.get("tensors") if isinstance(row, dict) else None for row in controls]
    return all(isinstance(row, dict) and "z" in row and faults("z", row["z"], "fp32", table) for row in tensors)


def judge_repeats(runs, profile):
    """Judge whether the same inputs gave the same bits again."""
    bad, measured = [], {"runs": len(runs), "repeats": min([_repeats(run) for run in runs] or [0])}
    for run in runs:
        unequal = run.get("unequal")
        if not isinstance(unequal, list):
            unequal = ["all tensors"]
        bad += ["%s of %s" % (gates.text(name, 20), gates.text(run.get("precision"), 10)) for name in unequal]
    answer = {"measured": measured, "threshold": {"unequal": 0}, "action": "none"}
    if bad:
        words = "the same inputs gave other bits on the same device: %s" % ", ".join(sorted(set(bad))[:8])
        answer["action"] = "isolate" if profile == "gpu" else "none"
        return dict(answer, status="FAIL", reason_code="NOT_REPEATABLE", message=words)
    if not (measured["repeats"] >= 2):
        words = "nothing was computed twice, so nothing is known about repeats"
        return dict(answer, status="UNKNOWN", reason_code="NO_RESULT", message=words)
    words = "%d calculations gave the same bits %d times" % (len(runs), measured["repeats"])
    return dict(answer, status="PASS", reason_code="OK", message=words)


def _repeats(run):
    repeats = run.get("repeats")
    return repeats if gates.is_number(repeats) else 0


def judge_memory(memory, wanted, profile, table):
    """Judge the memory test."""
    limits = table["memory"]
    answer = {"measured": {}, "threshold": {"words_wrong": 0, "share_tested": limits["least_share_tested"]}}
    answer["threshold_source"] = "thresholds.json: %s" % limits["source"]

    def result(status, reason_code, message, action="none"):
        return dict(answer, status=status, reason_code=reason_code, message=message, action=action)

    if not isinstance(memory, dict):
        return result("UNKNOWN", "NO_RESULT", "memory was not tested")
    error = memory.get("error")
    if error:
        error = error if isinstance(error, dict) else {}
        words = "memory could not be tested: %s" % gates.text(error.get("message"), 400)
        if error.get("reason_code") == "OUT_OF_MEMORY":
            return result("UNKNOWN", "MEMORY_TAKEN", words)
        return result("FAIL", gates.text(error.get("reason_code"), 40), words)
    passes = memory.get("passes")
    passes = [row for row in passes if isinstance(row, dict)] if isinstance(passes, list) else []
    wrong = [row.get("words_wrong") for row in passes] + [memory.get("samples_wrong")]
    tested = memory.get("bytes")
    answer["measured"] = {"bytes": gates.plain(tested), "words_wrong": [gates.plain(count) for count in wrong]}
    answer["measured"]["seconds"] = gates.plain(memory.get("seconds"))
    if any(gates.is_number(count) and count > 0 for count in wrong):
        words = "memory gives back other words than were written: %s of %s words"
        total = sum(count for count in wrong if gates.is_number(count))
        words %= (gates.text(total), gates.text(tested // 4 if gates.is_number(tested) else "?"))
        return result("FAIL", "MEMORY", words, "isolate" if profile == "gpu" else "none")
    if memory.get("control_words_wrong") != 1:
        words = "a word that was changed on purpose was not found, so the test of memory proves nothing"
        return result("FAIL", "SELF_TEST", words)
    complete = {row.get("inverted") for row in passes} == {False, True}
    seen = memory.get("samples")
    if not complete or not all(gates.is_number(count) for count in wrong) or not (gates.is_number(seen) and seen > 0):
        return result("UNKNOWN", "NO_RESULT", "the test of memory is incomplete")
    if not (gates.is_number(tested) and wanted > 0 and tested >= wanted * limits["least_share_tested"]):
        words = "%s MiB could be tested of %d MiB: somebody else uses the memory"
        size = "%d" % (tested / 2**20) if gates.is_number(tested) else "unknown"
        return result("UNKNOWN", "MEMORY_TAKEN", words % (size, wanted >> 20))
    words = "%d MiB were written with their own addresses, and once more with every bit inverted, and read back right"
    return result("PASS", "OK", words % (tested / 2**20))


def judge_agreement(group, answers, wrong=frozenset()):
    """Compare equal GPUs with each other, to the bit; return the checks num.cross_gpu.

    :param wrong: names of the places that float64 has shown to be wrong: nothing is measured by them
    """

    def check(place, status, message, reason_code="OK", **more):
        return gates.check("num.cross_gpu", place.name, status, message, reason_code, tier=TIER, **more)

    products = collections.defaultdict(list)
    for place, answer in zip(group, answers):
        if place.device is not None:
            products[product(place.device)].append((place, {} if failure(answer) else all_digests(answer.entry)))
    checks = []
    for members in products.values():
        for place, digests in members if len(members) > 1 else ():
            others = [
                other
                for one, other in members
                if digests and set(other) == set(digests) and (one is place or one.name not in wrong)
            ]
            measured = {"gpus": len(members), "compared": len(others)}
            if len(others) < 2:
                words = "there is nothing to compare with: %s" % (
                    "the other GPUs of its product gave no tensors, or compute wrongly"
                    if digests
                    else "this GPU gave no tensors"
                )
                checks.append(check(place, "UNKNOWN", words, "NO_RESULT", measured=measured))
                continue
            odd = [key for key in digests if not _is_majority(digests[key], [other[key] for other in others])]
            measured["unequal"] = len(odd)
            if not odd:
                words = "%d GPUs of this product give the same bits" % len(others)
                checks.append(check(place, "PASS", words, measured=measured))
                continue
            tensors = ", ".join(sorted({"%s of %s" % (key[2], key[0]) for key in odd})[:8])
            if len(others) == 2:
                words = "the %d GPUs of this product give different bits, and which of them is wrong is not known: %s"
            else:
                words = "this GPU gives other bits than most of the %d GPUs of its product: %s"
            words %= (len(others), tensors)
            checks.append(check(place, "FAIL", words, "GPUS_DISAGREE", measured=measured, action="isolate"))
    if not checks:
        words = "there are no two GPUs of one product to compare"
        checks.append(check(group[0], "SKIP", words, "NOT_APPLICABLE", required=False))
    return checks


def product(device):
    """Return what devices must share for their bits to be compared."""
    return device.product or device.name, device.memory


def all_digests(entry):
    """Return the digests of a device's tensors: ``{(precision, shape, tensor): digest}``."""
    answer, runs = {}, entry.get("runs")
    for run in runs if isinstance(runs, list) else ():
        digests = run.get("digests") if isinstance(run, dict) else None
        for name in TENSORS if isinstance(digests, dict) else ():
            answer[(gates.text(run.get("precision"), 10), str(run.get("shape")), name)] = digests.get(name)
    return answer


def _is_majority(value, values):
    """Tell whether more than half say the same; nobody is right where there is no majority."""
    return isinstance(value, str) and 2 * values.count(value) > len(values)


def suspect_software(checks, group):
    """Where every one of several GPUs fails alike, the GPUs are not what is broken: say so, and isolate none."""
    names = {place.name for place in group}
    for identity in ["num.fwd_bwd." + name for name in PRECISIONS] + ["num.repeat"]:
        rows = [row for row in checks if row["id"] == identity and row["target"] in names]
        codes = {row["reason_code"] for row in rows}
        if len(rows) > 1 and all(row["status"] == "FAIL" for row in rows) and len(codes) == 1:
            for row in rows:
                row["action"] = "none"
                words = "%s (the same on all %d GPUs: suspect the framework and its libraries)"
                row["message"] = gates.text(words % (row["message"], len(rows)), 600)


# -- the gates' own test -----------------------------------------------------------------------------------------------


def self_test(table):
    """Feed the gates what they must refuse, and what they must not.

    :returns: ``{what: True when the gates behaved}``
    """
    table = table["numerics"]

    def run(precision="fp32", tensor=None, stored=None, **changes):
        low, high = table["fingerprint"][stored or precision]
        good = {"rel_f": (low + high) / 4 + low / 2, "elementwise_u": 0.5, "not_finite": 0, "worst": {}}
        tensors = {name: dict(good) for name in TENSORS}
        if tensor:
            tensors[tensor].update(changes)
        return {"precision": precision, "shape": [1], "tensors": tensors, "unequal": [], "repeats": 2}

    def status(precision="fp32", **changes):
        shapes = [dict(run(precision, **changes), shape=[size]) for size in range(table["shapes"])]
        return judge_precision(precision, shapes, table)["status"]

    missing = run()
    del missing["tensors"]["dX"]
    memory = {"bytes": 1 << 20, "control_words_wrong": 1, "samples": 1, "samples_wrong": 0}
    memory["passes"] = [{"inverted": flag, "words_wrong": 0} for flag in (False, True)]

    def memory_status(**changes):
        return judge_memory(dict(memory, **changes), 1 << 20, "gpu", table)["status"]

    good = [status(name) == "PASS" for name in PRECISIONS]
    above = 1.01 * table["elementwise_u"]["fp32"]["products"]
    return {
        "right_tensor_accepted": all(good) and judge_repeats([run()], "gpu")["status"] == "PASS",
        "wrong_element_rejected": status(tensor="dW", elementwise_u=above) == "FAIL",
        "wrong_tensor_rejected": status(tensor="dX", rel_f=1.01 * table["rel_f"]["fp32"]) == "FAIL",
        "nan_tensor_rejected": status(tensor="z", rel_f=float("nan")) == "FAIL"
        and status(tensor="z", elementwise_u=float("nan")) == "FAIL"
        and status(tensor="g", not_finite=1) == "FAIL",
        "missing_tensor_rejected": judge_run(missing, "fp32", table)[0] == "FAIL",
        "missing_precision_unknown": judge_precision("fp32", [], table)["status"] == "UNKNOWN",
        "other_precision_rejected": status(stored="tf32") == "FAIL" and status("bf16", stored="fp32") == "FAIL",
        "other_bits_rejected": judge_repeats([dict(run(), unequal=["z"])], "gpu")["status"] == "FAIL",
        "missing_controls_rejected": not controls_hold([], table) and not controls_hold(None, table),
        "right_memory_accepted": memory_status() == "PASS",
        "wrong_memory_rejected": memory_status(samples_wrong=1) == "FAIL",
        "blind_memory_test_rejected": memory_status(control_words_wrong=0) == "FAIL",
    }
