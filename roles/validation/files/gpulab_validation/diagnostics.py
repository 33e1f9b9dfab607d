# SPDX-License-Identifier: Apache-2.0
"""T6, on request only: NVIDIA's own diagnostics, the NCCL tests, and hours of the numerical tier.

What was asked for and cannot be run is UNKNOWN. Of dcgmi only the JSON is believed, and not its exit status alone: a
test that passes while it reports an error, tests that were all skipped, and NVLinks that it does not look at are known.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time

import gates
import performance
import processes

TIER = 6
#: Bytes of a tool's output that are read.
OUTPUT_LIMIT = 4 * 1024 * 1024
#: Seconds that a tool has to end after it was told to.
GRACE = 5.0
#: Where the NCCL tests are found when they are not on the path.
NCCL_TESTS = ("/usr/local/bin", "/opt/nccl-tests/build", "/usr/local/nccl-tests/build", "/opt/nccl_tests/build")
#: Names of the diagnostic in DCGM 4 and 3, and the category whose tests do not touch a GPU's hardware.
DCGM_NAMES, DCGM_SOFTWARE = ("DCGM Diagnostic", "DCGM GPU Diagnostic"), "deployment"
DCGM_STATUSES = {"pass": "PASS", "fail": "FAIL", "warn": "WARN", "skip": "SKIP"}
#: DCGM's severities ISOLATE and RESET as actions; what it does not say is isolated.
DCGM_ACTIONS = {1: "none", 2: "isolate", 6: "reset_gpu"}
ORDER = ("PASS", "WARN", "UNKNOWN", "FAIL")


def check(identity, target, status, message, reason_code="OK", **more):
    """Return a check of this tier; what is skipped is not required."""
    return gates.check(identity, target, status, message, reason_code, status != "SKIP", TIER, **more)


def wanted(c):
    """Return what was asked for; in the profile cpu the soak alone means anything."""
    return [name for name in c.settings.get("diagnostics") or [] if c.profile == "gpu" or name == "soak"]


def required(c):
    """Return the pairs (check id, target) that were asked for."""
    answer = []
    for name in wanted(c):
        answer.append(("diag." + name, "host"))
        if name == "dcgm":
            answer += [("diag.dcgm", uuid) for uuid in whole_gpus(c)]
    return answer


def whole_gpus(c):
    """Return ``{uuid: index}`` of the GPUs; parts of them (MIG) are left out.

    The index is NVML's, which DCGM's tools use as well, None where it is not known. Our own devices are counted with
    the parts of GPUs among them.
    """
    found = {}
    for device in c.devices:
        if not performance.is_part(device):
            index = performance.observed(c.observation, device).get("index")
            found[device.uuid] = index if isinstance(index, int) and not isinstance(index, bool) else None
    return found


def run(c):
    """Run what was asked for.

    :returns: the checks, and the section ``diagnostics`` of the verdict document
    """
    asked = list(c.settings.get("diagnostics") or [])
    section = {"requested": asked, "dcgm": None, "nccl_tests": None, "soak": None}
    checks = []
    for name in asked:
        if name not in wanted(c):
            words = "not run: there is no GPU in the profile cpu"
            checks.append(check("diag." + gates.text(name, 40), "host", "SKIP", words, "NOT_APPLICABLE"))
            continue
        c.runner.progress("T6: %s" % name)
        more, section[name] = {"dcgm": run_dcgm, "nccl_tests": run_nccl_tests, "soak": run_soak}[name](c)
        checks += more
    return checks, section


def run_tool(c, command, name, timeout, user=None, variables=None):
    """Run a tool to its end or its time limit.

    :returns: its processes.Outcome, everything it printed as text, and the log's name
    """
    log = name + ".log"
    path = os.path.join(c.runner.run_directory, log)
    environment = dict(c.runner.probe_variables(), **(variables or {}))
    outcome = processes.run(command, environment, "/", path, timeout, user, grace=GRACE)
    try:
        with open(path, "rb") as stream:
            output = stream.read(OUTPUT_LIMIT).decode("utf-8", "replace")
    except OSError:
        output = ""
    return outcome, output, log


def unusable(outcome):
    """Return (status, reason code, message, action) of a tool that did not end by itself, else None."""
    if outcome.state == "not_started":
        return "UNKNOWN", "TOOL_MISSING", outcome.tail, "none"
    if outcome.state == "abandoned":
        words = "did not end within its time and survived SIGKILL: it hangs in the driver; reboot the host"
        return "FAIL", "TIMEOUT", words, "reboot"
    if outcome.state == "timeout":
        return "UNKNOWN", "TIMEOUT", "did not end within its time and was stopped", "none"
    if outcome.code < 0:
        return "UNKNOWN", "CRASHED", "was ended by signal %d" % -outcome.code, "none"
    return None


# -- dcgmi ----------------------------------------------------------------------------------------------------


def run_dcgm(c):
    """Run dcgmi diag; return the checks of the host and of each GPU, and what the document keeps."""
    gpus, rules = whole_gpus(c), c.table["performance"]["dcgm"]
    path = shutil.which("dcgmi", path=c.runner.probe_variables()["PATH"])
    section = {"level": rules["level"], "code": None, "version": None, "tests": []}
    if path is None:
        words = "dcgmi was asked for and is not there: install datacenter-gpu-manager, or take dcgm out of the request"
        return _for_all(gpus, "UNKNOWN", words, "TOOL_MISSING"), section
    command = [path, "diag", "-r", str(rules["level"]), "-j"]
    outcome, output, log = run_tool(c, command, "dcgmi", rules["timeout_s"])
    more = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    section["code"] = outcome.code
    failure = unusable(outcome)
    if failure:
        status, reason_code, words, action = failure
        return _for_all(gpus, status, "dcgmi " + words, reason_code, action=action, **more), section
    tests, problem = read_dcgm(output)
    section["tests"] = tests[:500]
    links = {
        uuid: _links_down(performance.observed(c.observation, device))
        for uuid, device in ((device.uuid, device) for device in c.devices)
    }
    return judge_dcgm(tests, problem, outcome.code, gpus, links, more), section


def _for_all(gpus, status, message, reason_code, **more):
    return [check("diag.dcgm", target, status, message, reason_code, **more) for target in ["host", *gpus]]


def _links_down(gpu):
    return sum(1 for link in gpu.get("nvlink") or [] if link.get("active") is False)


def read_dcgm(output):
    """Read the JSON of dcgmi diag, of DCGM 3 and 4.

    :returns: rows ``{"category", "test", "gpu" (index or None), "status", "notes": [...], "severity"}`` and what is
        wrong with it, an empty string where nothing is. A status that is not known is UNKNOWN.
    """
    start = output.find("{")
    if start < 0:
        return [], "dcgmi printed no JSON: %s" % gates.last_line(output)
    try:
        document, _ = json.JSONDecoder().raw_decode(output[start:])
    except (ValueError, RecursionError):
        return [], "what dcgmi printed is not whole JSON"
    body = next((document[name] for name in DCGM_NAMES if name in document), None)
    if not isinstance(body, dict):
        return [], "dcgmi's JSON has no diagnostic in it"
    if body.get("runtime_error"):
        return [], "dcgmi says: %s" % gates.text(body["runtime_error"])
    rows = []
    for category in _list(body.get("test_categories")):
        for test in _list(_dict(category).get("tests")):
            rows += _dcgm_test(gates.text(_dict(category).get("category"), 60), _dict(test))
    if not rows:
        return [], "dcgmi's JSON has no test in it"
    if body.get("warning"):
        row = {"category": "", "test": "the diagnostic", "status": "WARN", "gpu": None, "severity": None}
        rows.append(dict(row, notes=[gates.text(body["warning"])]))
    return rows, ""


def _list(value):
    return value if isinstance(value, list) else []


def _dict(value):
    return value if isinstance(value, dict) else {}


def _dcgm_test(category, test):
    """Return the rows of one test: one for each result and GPU; a test without results is one with its summary."""
    name, rows = gates.text(test.get("name"), 60), []
    results = [_dict(result) for result in _list(test.get("results"))]
    summary = _dict(test.get("test_summary"))
    for result in results or [summary]:
        status = DCGM_STATUSES.get(str(result.get("status")).strip().lower(), "UNKNOWN")
        notes, severities = _dcgm_notes(result)
        row = {"category": category, "test": name, "status": status, "notes": notes}
        row["severity"] = max(severities, default=None)
        rows += [dict(row, gpu=gpu) for gpu in _dcgm_gpus(result)]
    if results and summary:  # an error may stand in the summary alone
        status = DCGM_STATUSES.get(str(summary.get("status")).strip().lower(), "UNKNOWN")
        notes, severities = _dcgm_notes(summary)
        rows.append({"category": category, "test": name, "status": status, "notes": notes, "gpu": None})
        rows[-1]["severity"] = max(severities, default=None)
    return rows


def _dcgm_gpus(result):
    """Return the GPUs that a result is of; [None] for one of the whole host or of something else."""
    if result.get("entity_group", "GPU") != "GPU":
        return [None]
    text = ",".join(str(result[key]) for key in ("gpu_ids", "gpu_id", "entity_id") if result.get(key) is not None)
    return [int(number) for number in re.findall(r"\d{1,4}", text)] or [None]


def _dcgm_notes(result):
    """Return what a result warns of, and how severe DCGM calls it. ``info`` is no warning."""
    notes, severities = [], []
    given = [result.get(key) for key in ("warnings", "warning", "errors", "error") if result.get(key)]
    for entry in [part for value in given for part in (value if isinstance(value, list) else [value])]:
        row = entry if isinstance(entry, dict) else {"warning": entry}
        words = row.get("warning") or row.get("error") or row.get("message") or row
        notes.append(gates.text(words))
        if gates.is_number(row.get("error_severity")):
            severities.append(int(row["error_severity"]))
    return notes[:20], severities


def judge_dcgm(tests, problem, code, gpus, links, more):
    """Judge what dcgmi found; return a check of the host and one of each GPU.

    :param code: dcgmi's exit status
    :param gpus: ``{uuid: index}``; nothing can be said of a GPU whose index is None
    :param links: ``{uuid: NVLinks that are down}``
    """
    told = "status %d" % code + (", DCGM's code %d" % (code - 256) if code > 127 else "")
    more = dict(more, threshold_source="DCGM's own limits for the product; what its verdict is worth: this project's")
    if problem:
        words = "%s (%s). Is nv-hostengine running?" % (problem, told)
        return _for_all(gpus, "UNKNOWN", words, "PARSE" if code == 0 else "EXIT_STATUS", **more)
    checks = []
    for uuid, index in gpus.items():
        own = [row for row in tests if index is not None and row["gpu"] == index]
        status, reason_code, words = _judge_tests(own, True)
        if status == "PASS" and links.get(uuid):
            status, reason_code = "WARN", "KNOWN_FALSE_PASS"
            words = "DCGM passes this GPU, but does not look at its %d NVLinks that are down" % links[uuid]
        checks.append(check("diag.dcgm", uuid, status, words, reason_code, action=_action(own, status), **more))
    status, reason_code, words = _judge_tests(tests, bool(gpus))
    if code != 0 and status in ("PASS", "WARN"):
        status, reason_code = "UNKNOWN", "EXIT_STATUS"
        words = "no test failed, but dcgmi ended with %s" % told
    checks.insert(0, check("diag.dcgm", "host", status, words, reason_code, action=_action(tests, status), **more))
    return checks


def _judge_tests(tests, hardware_needed):
    """Judge a set of tests; return (status, reason code, message)."""
    failed = [row for row in tests if row["status"] == "FAIL"]
    if failed:
        return "FAIL", "DIAGNOSTIC", "failed: %s" % _told(failed)
    strange = [row for row in tests if row["status"] == "UNKNOWN"]
    if strange:
        return "UNKNOWN", "PARSE", "tests with a result that is not known: %s" % _told(strange)
    passed = [row for row in tests if row["status"] in ("PASS", "WARN")]
    if not [row for row in passed if row["category"].lower() != DCGM_SOFTWARE or not hardware_needed]:
        return (
            "UNKNOWN",
            "NOTHING_RAN",
            "no test of the hardware ran; GPUs that are not for data centers have level 1 only",
        )
    doubtful = [row for row in passed if row["status"] == "WARN"]
    if doubtful:
        return "WARN", "DIAGNOSTIC", "doubtful: %s" % _told(doubtful)
    contradicting = [row for row in passed if row["notes"]]
    if contradicting:
        return "WARN", "KNOWN_FALSE_PASS", "passed and yet reports an error: %s" % _told(contradicting)
    return "PASS", "OK", "%d tests passed" % len(passed)


def _told(rows):
    told = ["%s%s" % (row["test"], ": " + row["notes"][0] if row["notes"] else "") for row in rows]
    return gates.text("; ".join(sorted(set(told))), 400)


def _action(tests, status):
    """Return what to do about failed tests: what DCGM asks for, and isolate where it says nothing."""
    if status != "FAIL":
        return "none"
    given = [DCGM_ACTIONS.get(row["severity"], "isolate") for row in tests if row["status"] == "FAIL"]
    return max(given or ["isolate"], key=("none", "reset_gpu", "isolate").index)


# -- NCCL tests ----------------------------------------------------------------------------------------------------


def run_nccl_tests(c):
    """Run all_reduce_perf over all GPUs; return the check, and what the document keeps."""
    rules, gpus = c.table["performance"]["nccl_tests"], whole_gpus(c)
    if len(gpus) < 2:
        words = "not run: adding up needs more than one GPU"
        return [check("diag.nccl_tests", "host", "SKIP", words, "NOT_APPLICABLE")], {}
    places = os.pathsep.join([c.runner.probe_variables()["PATH"], *NCCL_TESTS])
    path = shutil.which("all_reduce_perf", path=places)
    if path is None:
        words = (
            "all_reduce_perf was asked for and is not there: build nccl-tests, or take nccl_tests out of the request"
        )
        return [check("diag.nccl_tests", "host", "UNKNOWN", words, "TOOL_MISSING")], {}
    size, count = str(rules["bytes"]), str(len(gpus))
    command = [path, "-b", size, "-e", size, "-g", count, "-n", str(rules["iterations"]), "-c", "1"]
    variables = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "HOME": c.runner.scratch or "/"}
    outcome, output, log = run_tool(c, command, "nccl-tests", rules["timeout_s"], c.runner.user, variables)
    more = {"evidence": [log], "duration_s": round(outcome.seconds, 1)}
    failure = unusable(outcome)
    if failure:
        status, reason_code, words, action = failure
        words = "all_reduce_perf " + words
        return [check("diag.nccl_tests", "host", status, words, reason_code, action=action, **more)], {}
    wrong, bandwidth = read_nccl_tests(output)
    section = {"wrong": wrong, "bus_bandwidth": bandwidth, "gpus": len(gpus), "code": outcome.code}
    names = {device.product for device in c.devices}
    known = performance.product(c.products, names.pop()) if len(names) == 1 else None
    return [judge_nccl_tests(outcome, wrong, bandwidth, known, len(gpus), c, more)], section


def read_nccl_tests(output):
    """Return the number of wrong values and the bus bandwidth in GB/s; None for what is not there."""
    wrong = re.findall(r"^# Out of bounds values\s*:\s*(\d+)\s+(?:OK|FAILED)\s*$", output, re.MULTILINE)
    bandwidth = re.findall(r"^# Avg bus bandwidth\s*:\s*([0-9.eE+-]+)\s*$", output, re.MULTILINE)
    try:
        return (int(wrong[0]) if len(wrong) == 1 else None, float(bandwidth[0]) if len(bandwidth) == 1 else None)
    except ValueError:
        return None, None


def judge_nccl_tests(outcome, wrong, bandwidth, known, count, c, more):
    """Judge the NCCL tests: right sums first, then the product's figure for as many GPUs."""
    identity = "diag.nccl_tests"
    more = dict(more, measured={"all_reduce": gates.plain(bandwidth), "wrong": wrong})
    if wrong:
        words = "all_reduce_perf added up wrongly: %d values. Look at NVLink, the bus and the Xids" % wrong
        return check(identity, "host", "FAIL", words, "WRONG_RESULT", action="isolate", **more)
    if outcome.code != 0:
        words = "all_reduce_perf ended with status %d: %s" % (outcome.code, gates.last_line(outcome.tail))
        return check(identity, "host", "UNKNOWN", words, "EXIT_STATUS", **more)
    if wrong is None or not gates.is_number(bandwidth) or not bandwidth > 0:
        return check(identity, "host", "UNKNOWN", "what all_reduce_perf printed cannot be read", "PARSE", **more)
    figure = {"median": bandwidth, "unit": "GB/s", "method": "nccl"}
    reference = performance.comparable(known, "all_reduce", figure, count)
    if reference is None:
        words = "%d GPUs add up rightly, with %.4g GB/s; no figure to compare with" % (count, bandwidth)
        return check(identity, "host", "WARN", words, "PERF_BASELINE_NONE", **more)
    warn, _, source = performance.limits("all_reduce", reference, c.table)
    more.update(threshold={"all_reduce": warn})
    more.update(threshold_source="%s; floor: %s" % (performance.source_of(c.products, reference), source))
    status, reason_code, words = performance.judge_figure("all_reduce", figure, reference, c.table)
    return check(identity, "host", status, words, reason_code, **more)


# -- soak ----------------------------------------------------------------------------------------------------


def run_soak(c, clock=time.monotonic):
    """Repeat the numerical tier for as long as was asked for; the first round that is not right ends it.

    :returns: the check, and what the document keeps
    """
    # Imported here: everything else in this module does without it.
    import numerics

    seconds = 60.0 * c.settings["soak_minutes"]
    started, rounds, worst = clock(), 0, []
    while not worst and (rounds == 0 or clock() - started < seconds):
        checks, _ = numerics.run(c)
        rounds += 1
        # "Nothing was checked" is not a round.
        worst = [row for row in checks if row["status"] not in ("PASS", "WARN", "SKIP")]
        if not [row for row in checks if row["status"] in ("PASS", "WARN")] and not worst:
            worst = [check("diag.soak", "host", "UNKNOWN", "the round checked nothing", "NOTHING_RAN")]
        c.runner.progress("T6: soak, round %d, %d of %d s" % (rounds, clock() - started, seconds))
    took = clock() - started
    section = {"minutes": c.settings["soak_minutes"], "rounds": rounds, "seconds": round(took, 1), "failed": worst[:20]}
    return [judge_soak(rounds, took, seconds, worst)], section


def judge_soak(rounds, took, seconds, worst):
    """Judge the soak; return the check diag.soak."""
    more = {"measured": {"rounds": rounds, "seconds": round(took, 1)}, "duration_s": round(took, 1)}
    more.update(threshold={"seconds": seconds})
    if worst:
        row = max(
            worst, key=lambda row: ORDER.index(row["status"]) if row["status"] in ORDER else ORDER.index("UNKNOWN")
        )
        status = "FAIL" if row["status"] == "FAIL" else "UNKNOWN"
        words = "round %d after %d s, %s: %s" % (rounds, took, row["target"], row["message"])
        action = row["action"] if status == "FAIL" else "none"
        return check("diag.soak", "host", status, words, gates.text(row["reason_code"], 40), action=action, **more)
    if not rounds or not (took >= seconds):
        return check("diag.soak", "host", "UNKNOWN", "the soak ended early", "TOO_SHORT", **more)
    words = "%d rounds of the numerical checks in %d s, all right" % (rounds, took)
    return check("diag.soak", "host", "PASS", words, **more)


def self_test(table):
    """Feed the gates what must be refused, and something good.

    :returns: ``{what: True when the gates behaved}``
    """

    def dcgm(status="Pass", code=0, links=0, **result):
        results = [dict({"entity_group": "GPU", "entity_id": 0, "status": status}, **result)]
        category = {"category": "Hardware", "tests": [{"name": "memory", "results": results}]}
        tests, problem = read_dcgm(json.dumps({"DCGM Diagnostic": {"test_categories": [category]}}))
        checks = judge_dcgm(tests, problem, code, {"GPU-0": 0}, {"GPU-0": links}, {})
        return max((row["status"] for row in checks), key=ORDER.index)

    bad = check("num.repeat", "self-test", "FAIL", "")
    return {
        "good_diagnostic_accepted": dcgm() == "PASS",
        "failed_diagnostic_rejected": dcgm("Fail") == "FAIL",
        "skipped_diagnostic_unknown": dcgm("Skip") == "UNKNOWN",
        "odd_exit_status_unknown": dcgm(code=226) == "UNKNOWN",
        "empty_diagnostic_unknown": bool(read_dcgm("")[1]) and bool(read_dcgm("{}")[1]),
        "known_false_pass_doubted": dcgm(warnings=[{"warning": "x"}]) == "WARN" and dcgm(links=1) == "WARN",
        "failed_soak_rejected": judge_soak(3, 90.0, 60.0, [bad])["status"] == "FAIL",
        "short_soak_unknown": judge_soak(1, 30.0, 60.0, [])["status"] == "UNKNOWN",
    }
