# SPDX-License-Identifier: Apache-2.0
"""Verdicts as JUnit XML: a test suite for each host, a test case for each check."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from gpu_report.plain import counts_as, mapping, number, text
from gpu_report.store import Host, Lab

#: What a suite says of its time: to the second and without a zone, as the schema wants it.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def render(lab: Lab) -> str:
    """Return the document. WARN passes with a remark, UNKNOWN is an error, and so is a host without a verdict."""
    suites = [_suite(host) for host in lab.hosts]
    root = ElementTree.Element("testsuites", name="gpulab")
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in suites):.1f}")
    root.extend(suites)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(host: Host) -> ElementTree.Element:
    document = mapping(host.document)
    suite = ElementTree.Element("testsuite", name=text(host.name), hostname=text(host.name))
    if started := _TIME.match(text(document.get("started"))):
        suite.set("timestamp", started[0])
    seconds = number(document.get("duration_s"))
    suite.set("time", f"{seconds or 0:.1f}")
    properties = ElementTree.SubElement(suite, "properties")
    for key in ("run_id", "profile", "simulated", "gpu_validated"):
        ElementTree.SubElement(properties, "property", name=key, value=text(document.get(key)))
    checks = host.checks
    cases = [_case(host, check) for check in checks]
    # A document that says FAIL or nothing, and has no check that says why, must not look like a success.
    if host.status in ("UNKNOWN", "FAIL") and host.status not in map(counts_as, checks):
        kind = "failure" if host.status == "FAIL" else "error"
        case = ElementTree.Element("testcase", classname=f"{text(host.name)}.verdict", name="verdict", time="0")
        ElementTree.SubElement(case, kind, message=host.why or "there is no verdict", type=host.status)
        cases.append(case)
    for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    suite.extend(cases)
    return suite


def _case(host: Host, check: Mapping[str, Any]) -> ElementTree.Element:
    tier = number(check.get("tier"))
    where = "" if tier is None else f"T{tier:.0f}."
    case = ElementTree.Element("testcase", classname=f"{text(host.name)}.{where}{text(check.get('id'), 80)}")
    case.set("name", text(check.get("target"), 200) or "-")
    case.set("time", f"{number(check.get('duration_s')) or 0:.1f}")
    word, message, reason = counts_as(check), text(check.get("message"), 600), text(check.get("reason_code"), 60)
    if word in ("FAIL", "UNKNOWN"):
        kind = ElementTree.SubElement(
            case, "failure" if word == "FAIL" else "error", message=message, type=reason or word
        )
        action = text(check.get("action"), 40)
        kind.text = "\n".join(
            line
            for line in (
                f"what to do: {action}" if action not in ("", "none") else "",
                f"limit: {text(check.get('threshold_source'), 400)}" if check.get("threshold_source") else "",
            )
            if line
        )
    elif word == "SKIP":
        ElementTree.SubElement(case, "skipped", message=message)
    elif word == "WARN":
        ElementTree.SubElement(case, "system-out").text = f"WARN {reason}: {message}"
    return case
