# SPDX-License-Identifier: Apache-2.0
"""T5: how fast are the GPUs, compared with what is known of their product?

One framework measures every device: all GPUs compute at the same time, and take turns on the bus. What is judged has a
figure with a source in products.json; a product without figures is a WARN and never a plain PASS. On the processor the
figures are measured and shown, nothing more. Pure functions judge; ``run`` alone starts programs.
"""

from __future__ import annotations

import functools
import re
import statistics

import gates
import looks
import settings

TIER = 5
#: Who measures: the first of these that an environment has.
FRAMEWORKS = ("pytorch", "jax", "tensorflow")
BANDWIDTHS = ("memory_bandwidth", "host_to_device", "device_to_host")
#: What a GPU of a compute capability must be able to multiply, see jobs/performance.py.
SINCE = {"matmul_fp32": (0, 0), "matmul_tf32": (8, 0), "matmul_bf16": (8, 0), "matmul_fp16": (5, 3)}
CHECKS = {
    "perf.gemm": tuple(SINCE),
    "perf.membw": ("memory_bandwidth",),
    "perf.pcie": ("host_to_device", "device_to_host"),
}
LOOKED_AT = ("perf.pcie_link", "perf.throttle", "perf.nvlink")
#: What the document keeps of each GPU that was watched, beside the reasons.
KEPT = (
    "uuid", "samples", "gen_max_seen", "width_max_seen", "temperature_max", "power_w_max", "utilization_max",
    "nvlink_errors_delta",
)  # fmt: skip
#: NVML's words for what a GPU does not have (observe.py); anything else could not be read.
NOT_APPLICABLE = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NOT_APPLICABLE_MIG")


def check(identity, target, status, message, reason_code="OK", **more):
    """Return a check of this tier; what is skipped is not required."""
    return gates.check(identity, target, status, message, reason_code, status != "SKIP", TIER, **more)


def product(products, name):
    """Return what is known of a product, or None. Only the very name counts: figures of a relative prove nothing."""
    row = products.get("products", {}).get(name) if isinstance(products, dict) and name else None
    return row if isinstance(row, dict) else None


def source_of(products, figure):
    """Return a figure's source in full."""
    return products.get("sources", {}).get(figure.get("source"), figure.get("source"))


# -- what to do --------------------------------------------------------------------------------------------------------


def chosen(c):
    """Return the environment and the framework that measure, or None when there is none."""
    for framework in FRAMEWORKS:
        for environment in c.environments:
            backend = settings.KERAS_BACKENDS.get(environment.get("keras_backend"))
            if framework in environment["frameworks"] or (
                "keras" in environment["frameworks"] and framework == backend
            ):
                return environment, framework
    return None


def target_of(environment, framework, where):
    """Return a check's target: environment/framework@where."""
    return "%s/%s@%s" % (environment["name"], framework, where)


def required(c):
    """Return the pairs (check id, target) that this host's profile demands."""
    if not c.settings.get("performance") or chosen(c) is None:
        return []
    environment, framework = chosen(c)
    if c.profile != "gpu":
        return [("perf.measured", target_of(environment, framework, "cpu"))]
    answer = []
    for device in c.devices:
        target = target_of(environment, framework, device.uuid)
        answer += [(identity, target) for identity in ("perf.measured", "perf.baseline", *CHECKS, *LOOKED_AT)]
    if len(c.devices) > 1:
        answer.append(("perf.all_reduce", target_of(environment, framework, "all")))
    return answer or [("perf.measured", target_of(environment, framework, "gpu"))]


def run(c):
    """Measure and judge.

    :returns: the checks, and the section ``performance`` of the verdict document
    """
    section = {"rows": [], "framework": None, "watch": None}
    if not c.settings.get("performance"):
        words = "not measured: validation_performance is off"
        return [check("perf.measured", "host", "SKIP", words, "NOT_REQUESTED")], section
    found = chosen(c)
    if found is None:
        words = "not measured: no environment has PyTorch, JAX or TensorFlow"
        return [check("perf.measured", "host", "SKIP", words, "NOT_APPLICABLE")], section
    environment, framework = found
    section["framework"] = "%s/%s" % (environment["name"], framework)
    if c.profile == "gpu" and not c.devices:
        words = "no GPU to measure: the driver shows none"
        return [check("perf.measured", target_of(environment, framework, "gpu"), "UNKNOWN", words, "NO_GPU")], section
    c.runner.progress("T5: measuring with %s" % section["framework"])
    if c.profile != "gpu":
        return _run_on_processor(c, environment, framework, section), section
    return _run_on_gpus(c, environment, framework, section), section


def _start(c, environment, framework, name, arguments, devices=None):
    """Run a performance program; return its outcome, its result and what is wrong with that, and the log's name."""
    name = "performance-%s-%s-%s" % (environment["name"], framework, name)
    options = ["--device", c.profile, "--result", c.runner.result_path(name + ".json"), *arguments]
    log, limit = name + ".log", c.table["budgets"]["performance"]
    program = "performance_%s.py" % framework
    outcome = c.runner.start(environment, program, options, log, limit, devices=devices)
    result, problem = c.runner.result(name + ".json")
    return outcome, result if isinstance(result, dict) else None, problem, log


def _run_on_processor(c, environment, framework, section):
    target = target_of(environment, framework, "cpu")
    outcome, result, problem, log = _start(c, environment, framework, "cpu", [])
    more = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    failure = failed(outcome, result, problem)
    if failure:
        status, reason_code, message, action = failure
        return [check("perf.measured", target, status, message, reason_code, action=action, **more)]
    wanted = ("matmul_fp32", "memory_bandwidth")
    figures, problems = read_figures(result, wanted, c.table)
    identity = {"environment": environment["name"], "framework": framework, "target": target, "product": None}
    identity.update(device_name=gates.text(result.get("device_name")), simulated=bool(c.settings.get("simulated")))
    section["rows"] += rows_of(identity, figures, None, c.products)
    return [judge_measured(target, figures, problems, "; the processor is shown, not judged", more)]


def _run_on_gpus(c, environment, framework, section):
    # Imported here: judging, which is all that tests on other machines need, does not.
    import observe

    turn = c.runner.result_path("performance-turn")
    calls = [
        functools.partial(_start, c, environment, framework, str(device.index), ["--turn", turn], [device])
        for device in c.devices
    ]
    with observe.Watch(c.runner) as watch:
        answers = c.runner.together(calls)
    seen = watch.result()
    section["watch"] = kept_of_watch(seen)
    simulated = bool(c.settings.get("simulated") or (c.observation or {}).get("simulated") or seen.get("simulated"))
    checks = []
    for device, answer in zip(c.devices, answers):
        target = target_of(environment, framework, device.uuid)
        identity = {"environment": environment["name"], "framework": framework, "target": target}
        identity.update(simulated=simulated)
        more, rows = judge_device(identity, device, answer, seen, c)
        checks += more
        section["rows"] += rows
    if len(c.devices) > 1:
        checks.append(_all_reduce(c, environment, framework, simulated, section))
    return checks


def _all_reduce(c, environment, framework, simulated, section):
    target = target_of(environment, framework, "all")
    if any(is_part(device) for device in c.devices):
        words = "not measured: parts of GPUs (MIG) do not add up together"
        return check("perf.all_reduce", target, "SKIP", words, "NOT_APPLICABLE")
    arguments = ["--part", "all_reduce", "--devices", str(len(c.devices))]
    outcome, result, problem, log = _start(c, environment, framework, "all", arguments, c.devices)
    more = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    failure = failed(outcome, result, problem)
    if failure:
        status, reason_code, message, action = failure
        return check("perf.all_reduce", target, status, message, reason_code, action=action, **more)
    figures, problems = read_figures(result, ("all_reduce",), c.table)
    names = {device.product for device in c.devices}
    name = names.pop() if len(names) == 1 else None
    known = product(c.products, name)
    identity = {"environment": environment["name"], "framework": framework, "target": target, "product": name}
    identity.update(device_name=gates.text(result.get("device_name")), simulated=simulated)
    section["rows"] += rows_of(identity, figures, known, c.products, len(c.devices))
    return judge_all_reduce(target, figures, problems, known, len(c.devices), c.products, c.table, more)


# -- judging -----------------------------------------------------------------------------------------------------------


def failed(outcome, result, problem):
    """Return (status, reason code, message, action) of a program without a usable result, else None."""
    if outcome.state == "not_started":
        return "FAIL", "TOOL_MISSING", outcome.tail, "none"
    if outcome.state == "abandoned":
        words = "the program did not end within its time and survived SIGKILL: it hangs in the driver; reboot the host"
        return "FAIL", "TIMEOUT", words, "reboot"
    if outcome.state == "timeout":
        return "UNKNOWN", "TIMEOUT", "the program did not end within its time and was stopped", "none"
    return gates.told_error(result) or gates.no_answer(outcome, result, problem, "the program")


def read_figures(result, wanted, table):
    """Read the figures that a program measured.

    :param wanted: metrics that there must be
    :returns: ``{metric: figure}`` of the usable ones, and problems as (metric, status, reason code, sentence)
    """
    rows = result.get("figures")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    reasons = result.get("not_measured")
    reasons = reasons if isinstance(reasons, dict) else {}
    figures, problems = {}, []
    for metric in wanted:
        found = [row for row in rows if row.get("metric") == metric]
        if len(found) != 1:
            why = gates.text(reasons.get(metric, "the program says nothing about it"))
            problems.append((metric, "UNKNOWN", "NOT_MEASURED", "%s: %s" % (metric, why)))
            continue
        runs = found[0].get("runs")
        runs = runs if isinstance(runs, list) else []
        if not all(gates.is_number(run) and run > 0 for run in runs):
            problems.append((metric, "FAIL", "NOT_A_NUMBER", "%s: a run gave %s" % (metric, gates.text(runs))))
        elif not (len(runs) >= table["performance"]["repeats"]):
            problems.append((metric, "UNKNOWN", "NOT_REPEATED", "%s: only %d runs" % (metric, len(runs))))
        else:
            median = statistics.median(runs)
            figures[metric] = {
                "unit": gates.text(found[0].get("unit"), 20), "runs": runs[:100], "median": median,
                "spread": (max(runs) - min(runs)) / median, "size": gates.plain(found[0].get("size")),
                "method": gates.text(found[0].get("method") or "", 40) or None,
                "mode": gates.text(found[0].get("mode") or "", 40) or None,
            }  # fmt: skip
    return figures, problems


def rows_of(identity, figures, known, products, devices=1):
    """Return the figures as rows of the section, with the product's own figure beside each."""
    answer = []
    for metric, figure in figures.items():
        reference = comparable(known, metric, figure, devices)
        row = dict(identity, metric=metric, devices=devices, **figure)
        row.update(reference=None, kind=None, ratio=None, source=None)
        if reference:
            row.update(
                reference=reference["value"], kind=reference["kind"], ratio=figure["median"] / reference["value"]
            )
            row.update(source=source_of(products, reference))
        answer.append(row)
    return answer


def comparable(known, metric, figure, devices=1):
    """Return the product's figure that a measured one can be compared with, or None.

    Copies between host and GPU compare with page-locked memory only, adding up only with as many GPUs.
    """
    reference = (known or {}).get(metric)
    if not isinstance(reference, dict) or not gates.is_number(reference.get("value")) or not reference["value"] > 0:
        return None
    if metric in ("host_to_device", "device_to_host") and figure["method"] != "pinned":
        return None
    if metric == "all_reduce" and reference.get("devices") != devices:
        return None
    return reference


def limits(metric, reference, table):
    """Return the values below which a figure is WARN and FAIL, and what says so."""
    kind = reference["kind"]
    if kind == "peak":
        kind = "peak_bandwidth" if metric in BANDWIDTHS else "peak_matmul"
    floor = table["performance"]["floors"][kind]
    fail = floor["fail"] * reference["value"]
    return max(fail, floor.get("warn", 0) * reference["value"]), fail, floor["source"]


def judge_figure(metric, figure, reference, table):
    """Judge one figure against the product's; return (status, reason code, sentence)."""
    warn, fail, _ = limits(metric, reference, table)
    value = figure["median"]
    told = "%s %.4g %s is %.0f %% of %.4g (%s)"
    told %= (metric, value, figure["unit"], 100 * value / reference["value"], reference["value"], reference["kind"])
    if not (value >= fail):
        return "FAIL", "TOO_SLOW", "%s, less than %.4g" % (told, fail)
    if reference["kind"] == "peak" and not (value <= table["performance"]["ceiling"]["peak"] * reference["value"]):
        return "UNKNOWN", "IMPLAUSIBLE", "%s: faster than the hardware can be, so it was not measured rightly" % told
    if not (value >= warn):
        return "WARN", "SLOW", "%s, less than %.4g" % (told, warn)
    return "PASS", "OK", told


def judge_measured(target, figures, problems, tail="", more=None):
    """Judge whether every figure is there; return the check perf.measured."""
    more = dict(more or {}, measured={metric: figure["median"] for metric, figure in figures.items()})
    if problems or not figures:
        problems = problems or [("", "UNKNOWN", "NOT_MEASURED", "nothing was measured")]
        _, status, reason_code, _ = max(problems, key=lambda row: row[1] == "FAIL")
        words = "; ".join(row[3] for row in problems)
        return check("perf.measured", target, status, words, reason_code, **more)
    told = ["%s %.4g %s" % (metric, row["median"], row["unit"]) for metric, row in figures.items()]
    return check("perf.measured", target, "PASS", ", ".join(told) + tail, **more)


def judge_device(identity, device, answer, seen, c):
    """Judge what was measured on one GPU, and what the driver saw meanwhile.

    :param identity: environment, framework, target and simulated, for the rows
    :param answer: of ``_start``
    :param seen: the Watch's result
    :returns: the checks, and the rows of the section
    """
    target, table, products = identity["target"], c.table, c.products
    outcome, result, problem, log = answer
    more = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    gpu = observed(c.observation, device)
    known = None if is_part(device) else product(products, device.product)
    failure = failed(outcome, result, problem) or foreign(result, device)
    if failure:
        status, reason_code, message, action = failure
        figures, problems = {}, []
        checks = [check("perf.measured", target, status, message, reason_code, action=action, **more)]
    else:
        capability = read_capability(gpu.get("compute_capability")) or read_capability(result.get("compute_capability"))
        wanted = [metric for metric, since in SINCE.items() if not capability or capability >= since]
        figures, problems = read_figures(result, [*wanted, *BANDWIDTHS], table)
        checks = [judge_measured(target, figures, problems, more=more)]
    checks.append(judge_baseline(target, device, known))
    missing = {row[0] for row in problems}
    for identity_of_check, metrics in CHECKS.items():
        lacking = [metric for metric in metrics if metric in missing] if not failure else list(metrics)
        checks.append(judge_figures(identity_of_check, target, metrics, lacking, figures, known, device, c, more))
    looked = {row.get("uuid"): row for row in seen.get("gpus") or [] if isinstance(row, dict)}
    look = looked.get(gpu.get("uuid") or device.uuid)
    busy = any(metric in figures for metric in CHECKS["perf.pcie"])
    checks.append(judge_link(target, gpu, look, busy, seen.get("problem")))
    checks.append(judge_throttle(target, look, table, seen.get("problem")))
    alone = looks.unlinked(c, gpu)
    checks.append(judge_nvlink(target, gpu, look, known, table, seen.get("problem"), alone))
    name = gates.text(result.get("device_name")) if result else device.name
    identity = dict(identity, product=device.product, device_name=name)
    return checks, rows_of(identity, figures, known, products)


def kept_of_watch(seen):
    """Return what the document keeps of what the driver saw under load: numbers and words, nothing else."""
    gpus = []
    for row in seen.get("gpus") or []:
        if isinstance(row, dict):
            gpus.append({key: gates.plain(row.get(key)) for key in KEPT})
            reasons = row.get("reasons")
            gpus[-1]["reasons"] = [gates.text(word, 40) for word in reasons] if isinstance(reasons, list) else None
    problem = gates.text(seen.get("problem") or "")
    return {"simulated": bool(seen.get("simulated")), "problem": problem, "samples": gates.plain(seen.get("samples")),
            "gpus": gpus}  # fmt: skip


def observed(observation, device):
    """Return the row of the GPU in the observation, for a part of one that of the whole; empty when there is none."""
    rows = ((observation or {}).get("nvml") or {}).get("gpus") or []
    same = [row for row in rows if device.bdf and row.get("bdf") == device.bdf]
    return (same or [row for row in rows if row.get("uuid") == device.uuid] or [{}])[0]


def is_part(device):
    """Tell whether a device is a part of a GPU (MIG)."""
    return str(device.uuid).startswith("MIG")


def foreign(result, device):
    """Return a failure when a result is of another GPU than the one that was asked for, else None."""
    name = result.get("device_name")
    plain = [re.sub(r"[^a-z0-9]", "", str(text or "").lower()) for text in (name, device.name)]
    if plain[1] and not (plain[0] and (plain[0].startswith(plain[1]) or plain[1].startswith(plain[0]))):
        words = "the result is of %s, but %s was to be measured"
        return "UNKNOWN", "FOREIGN_RESULT", words % (gates.text(name), gates.text(device.name)), "none"
    return None


def read_capability(text):
    """Return a compute capability as (major, minor), or None when it cannot be read."""
    match = re.match(r"(\d{1,2})\.(\d{1,2})$", str(text or ""))
    return (int(match.group(1)), int(match.group(2))) if match else None


def judge_baseline(target, device, known):
    """Say whether there is anything to compare with; return the check perf.baseline."""
    if is_part(device):
        words = "a part of a GPU (MIG) has no figures of its own: its speed is shown, not judged"
        return check("perf.baseline", target, "SKIP", words, "NOT_APPLICABLE")
    metrics = [metric for identity in CHECKS for metric in CHECKS[identity] if metric in (known or {})]
    if not metrics:
        name = gates.text(device.product or device.name or "this GPU")
        words = (
            "perf_baseline: none. Nothing is known of how fast %s should be, so its speed is shown, not judged" % name
        )
        return check("perf.baseline", target, "WARN", words, "PERF_BASELINE_NONE")
    return check("perf.baseline", target, "PASS", "figures are known for %s" % ", ".join(metrics))


def judge_figures(identity, target, metrics, lacking, figures, known, device, c, more):
    """Judge the figures of one kind against the product's; return one check."""
    judged, threshold, sources, measured = [], {}, [], {}
    for metric in metrics:
        reference = comparable(known, metric, figures[metric]) if metric in figures else None
        if reference:
            judged.append(judge_figure(metric, figures[metric], reference, c.table))
            warn, _, source = limits(metric, reference, c.table)
            measured[metric], threshold[metric] = figures[metric]["median"], warn
            sources += ["%s; floor: %s" % (source_of(c.products, reference), source)]
    if lacking and any(metric in (known or {}) for metric in lacking):
        judged.append(("UNKNOWN", "NOT_MEASURED", "not measured: %s" % ", ".join(lacking)))
    more = dict(
        more, measured=measured, threshold=threshold, threshold_source=gates.text("; ".join(sources), 1000) or None
    )
    if not judged:
        words = "not judged: no figure is known for %s" % gates.text(device.product or device.name or "this GPU")
        if any(metric in (known or {}) and metric in figures for metric in metrics):
            words = "not judged: the framework copies from ordinary memory, the figures are for page-locked memory"
        return check(identity, target, "SKIP", words, "NOT_APPLICABLE", **more)
    order = ("PASS", "WARN", "UNKNOWN", "FAIL")
    status, reason_code, _ = max(judged, key=lambda row: order.index(row[0]))
    words = "; ".join(row[2] for row in judged if row[0] == status)
    if status == "FAIL":
        words += (
            ". Compare with its neighbours, look for heat and power limits; take it out of service if it stays slow"
        )
    return check(identity, target, status, words, reason_code, action="isolate" if status == "FAIL" else "none", **more)


def _not_looked(identity, target, look, problem):
    """Return the UNKNOWN check of a GPU that nobody looked at under load, else None."""
    if look and look.get("samples") != 0:
        return None
    words = "the driver was not watched while the GPU worked: %s" % gates.text(problem or "no sample of this GPU")
    return check(identity, target, "UNKNOWN", words, "NOT_WATCHED")


def judge_link(target, gpu, look, busy, problem):
    """Judge the bus under load: generation and width must be the most that GPU and slot can do together."""
    identity, pcie = "perf.pcie_link", gpu.get("pcie") or {}
    why = gpu.get("why") or {}
    if gpu.get("virtualization") in ("vgpu", "host_vgpu"):
        return check(identity, target, "SKIP", "a virtual GPU has no PCIe link of its own", "NOT_APPLICABLE")
    reasons = [why.get(key) for key in ("pcie", "pcie.gen_max", "pcie.width_max", "pcie.gen", "pcie.width")]
    if pcie.get("gen_max") is None and any(reason in NOT_APPLICABLE for reason in reasons):
        return check(identity, target, "SKIP", "the driver tells nothing of this GPU's PCIe link", "NOT_APPLICABLE")
    unknown = _not_looked(identity, target, look, problem)
    if unknown:
        return unknown
    pairs = [("generation", look.get("gen_max_seen"), pcie.get("gen_max") or look.get("gen_max"))]
    pairs.append(("width", look.get("width_max_seen"), pcie.get("width_max") or look.get("width_max")))
    more = {"measured": {name: gates.plain(seen) for name, seen, _ in pairs}}
    more.update(threshold={name: gates.plain(most) for name, _, most in pairs})
    more.update(threshold_source="the most that GPU and slot can do together, as the driver says (NVML)")
    if not all(gates.is_number(value) and value > 0 for _, seen, most in pairs for value in (seen, most)):
        words = "the driver does not tell generation and width of the PCIe link under load"
        return check(identity, target, "UNKNOWN", words, "NOT_READABLE", **more)
    less = ["%s %d instead of %d" % pair for pair in pairs if not (pair[1] >= pair[2])]
    if less and not busy:
        words = "PCIe %s, but nothing was copied over it meanwhile" % ", ".join(less)
        return check(identity, target, "UNKNOWN", words, "NO_LOAD", **more)
    if less:
        words = "PCIe runs with %s under load: seat the GPU again, look at riser, cable and firmware settings"
        return check(identity, target, "FAIL", words % ", ".join(less), "PCIE_DEGRADED", action="isolate", **more)
    return check(
        identity, target, "PASS", "PCIe generation %d, width %d under load" % (pairs[0][1], pairs[1][1]), **more
    )


def judge_throttle(target, look, table, problem):
    """Judge why the driver slowed the GPU down under load; return the check perf.throttle."""
    rules = table["performance"]["throttle"]
    unknown = _not_looked("perf.throttle", target, look, problem)
    if unknown:
        return unknown
    reasons = look.get("reasons")
    more = {"threshold": {"none of": rules["fail"] + rules["warn"]}, "threshold_source": rules["source"]}
    if not isinstance(reasons, list):
        words = "the driver does not tell whether it slowed the GPU down"
        return check("perf.throttle", target, "UNKNOWN", words, "NOT_READABLE", **more)
    reasons = sorted({gates.text(reason, 40) for reason in reasons})
    more["measured"] = {"reasons": reasons, "temperature_max": gates.plain(look.get("temperature_max")),
                        "power_w_max": gates.plain(look.get("power_w_max"))}  # fmt: skip
    bad = [reason for reason in reasons if reason in rules["fail"]]
    if bad:
        words = "slowed down under load: %s. Look at cooling and power supply" % ", ".join(bad)
        return check("perf.throttle", target, "FAIL", words, "THROTTLED", action="isolate", **more)
    bad = [reason for reason in reasons if reason in rules["warn"]]
    if bad:
        words = "slowed down under load: %s. Look at the cooling" % ", ".join(bad)
        return check("perf.throttle", target, "WARN", words, "THROTTLED", **more)
    strange = [reason for reason in reasons if reason.startswith("unknown")]
    if strange:
        words = "slowed down under load for a reason that is not known here: %s" % ", ".join(strange)
        return check("perf.throttle", target, "WARN", words, "THROTTLED", **more)
    return check("perf.throttle", target, "PASS", "not slowed down for heat or power supply", **more)


def judge_nvlink(target, gpu, look, known, table, problem, alone=False):
    """Judge whether NVLink made errors under load; return the check perf.nvlink.

    :param alone: nothing that the GPU could be joined with is in this machine, see looks.unlinked
    """
    links = gpu.get("nvlink")
    expected = (known or {}).get("nvlink") or {}
    wired = bool(expected) and not expected.get("bridge") and not alone
    if not links and not wired:
        return check("perf.nvlink", target, "SKIP", "this GPU has no NVLink", "NOT_APPLICABLE")
    if not wired and all(isinstance(link, dict) and link.get("active") is False for link in links):
        words = "no NVLink of this GPU is up, so none can make errors"
        return check("perf.nvlink", target, "SKIP", words, "NOT_APPLICABLE")
    unknown = _not_looked("perf.nvlink", target, look, problem)
    if unknown:
        return unknown
    delta, most = look.get("nvlink_errors_delta"), table["performance"]["nvlink_errors"]
    more = {"measured": {"errors": gates.plain(delta)}, "threshold": {"errors": most["max"]}}
    more["threshold_source"] = most["source"]
    if not gates.is_number(delta):
        words = "the driver does not tell NVLink's error counters"
        if any(
            str(key).startswith("nvlink") and word in NOT_APPLICABLE for key, word in (gpu.get("why") or {}).items()
        ):
            return check("perf.nvlink", target, "SKIP", words, "NOT_APPLICABLE", **more)
        return check("perf.nvlink", target, "UNKNOWN", words, "NOT_READABLE", **more)
    if not (delta <= most["max"]):
        words = "NVLink made %d errors during the measurements: look at bridge, tray and fabric" % delta
        return check("perf.nvlink", target, "FAIL", words, "NVLINK_ERRORS", action="isolate", **more)
    return check("perf.nvlink", target, "PASS", "no NVLink error during the measurements", **more)


def judge_all_reduce(target, figures, problems, known, devices, products, table, more):
    """Judge how fast all GPUs add up together; return the check perf.all_reduce."""
    identity, figure = "perf.all_reduce", figures.get("all_reduce")
    if figure is None:
        _, status, reason_code, words = (problems or [("", "UNKNOWN", "NOT_MEASURED", "nothing was measured")])[0]
        return check(identity, target, status, words, reason_code, **more)
    more = dict(more, measured={"all_reduce": figure["median"]})
    reference = comparable(known, "all_reduce", figure, devices)
    if reference is None:
        words = "%d GPUs add up rightly, with %.4g %s; no figure to compare with"
        return check(identity, target, "PASS", words % (devices, figure["median"], figure["unit"]), **more)
    warn, _, source = limits("all_reduce", reference, table)
    more.update(threshold={"all_reduce": warn})
    more.update(threshold_source="%s; floor: %s" % (source_of(products, reference), source))
    status, reason_code, words = judge_figure("all_reduce", figure, reference, table)
    if status == "FAIL":
        words += ". Look at NVLink, the fabric manager and the topology (nvidia-smi topo -m)"
    return check(identity, target, status, words, reason_code, **more)


def self_test(table):
    """Feed the gates figures that must be refused, and one that must not.

    :returns: ``{what: True when the gates behaved}``
    """
    reference = {"value": 100.0, "kind": "measured", "source": "self-test"}
    peak = dict(reference, kind="peak")

    def figure(value):
        return {"median": value, "unit": "TFLOP/s", "method": None}

    def judged(value, reference=reference):
        return judge_figure("matmul_fp32", figure(value), reference, table)[0]

    def read(runs):
        return read_figures({"figures": [{"metric": "x", "unit": "GB/s", "runs": runs}]}, ["x"], table)

    floor = limits("matmul_fp32", reference, table)[1]
    look = {"samples": 3, "gen_max_seen": 1, "width_max_seen": 16, "reasons": table["performance"]["throttle"]["fail"]}
    link = judge_link("self-test", {"pcie": {"gen_max": 5, "width_max": 16}}, look, True, "")
    return {
        "good_figure_accepted": judged(floor) == "PASS" and not read([1.0, 2.0, 3.0])[1],
        "slow_figure_rejected": judged(floor * 0.999) == "FAIL",
        "nan_figure_rejected": judged(float("nan")) == "FAIL" and read([1.0, float("nan"), 1.0])[1][0][1] == "FAIL",
        "impossible_figure_rejected": judged(1000.0, peak) == "UNKNOWN",
        "missing_figure_unknown": read_figures({}, ["x"], table)[1][0][1] == "UNKNOWN",
        "degraded_link_rejected": link["status"] == "FAIL",
        "throttled_gpu_rejected": judge_throttle("self-test", look, table, "")["status"] == "FAIL",
        "unwatched_gpu_unknown": judge_throttle("self-test", None, table, "")["status"] == "UNKNOWN",
    }
