# SPDX-License-Identifier: Apache-2.0
"""Verdicts as JUnit XML, held against what its schema asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fabricated_lab import HOSTILE, check
from gpu_report import junit, store

Make = Callable[..., dict[str, Any]]


def suites(*hosts: store.Host) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(junit.render(store.Lab(list(hosts)))))


def test_the_whole_lab_has_the_structure_of_the_schema(small_lab: Path) -> None:
    root = ElementTree.fromstring(junit.render(store.read(small_lab)))
    assert root.tag == "testsuites"
    assert len(root) == 40
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped", "time", "hostname"} <= set(suite.attrib)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp", "2026-01-01T00:00:00"))
        assert suite[0].tag == "properties"
        cases = suite.findall("testcase")
        assert len(suite) == len(cases) + 1
        for case in cases:
            assert {"classname", "name", "time"} == set(case.attrib)
            assert len(case) <= 1
            assert all(child.tag in ("failure", "error", "skipped", "system-out") for child in case)
        counted = {"tests": len(cases)}
        for key, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            counted[key] = sum(case.find(tag) is not None for case in cases)
        assert counted == {key: int(suite.attrib[key]) for key in counted}
        totals = {key: totals[key] + counted[key] for key in totals}
    assert totals == {key: int(root.attrib[key]) for key in totals}
    assert totals["failures"]
    assert totals["errors"]


@pytest.mark.parametrize(
    ("status", "required", "tag"),
    [
        ("PASS", True, None),
        ("WARN", True, "system-out"),
        ("FAIL", True, "failure"),
        ("UNKNOWN", True, "error"),
        ("SKIP", False, "skipped"),
        ("SKIP", True, "error"),
        ("good", True, "error"),
        (None, True, "error"),
    ],
)
def test_each_status_has_its_element(document: Make, status: Any, required: bool, tag: str | None) -> None:
    made = document(checks=[check("xid", "host", 2) | {"status": status, "required": required}])
    (suite,) = suites(store.Host("gpu01", made))
    assert [child.tag for child in suite.findall("testcase")[0]] == ([tag] if tag else [])


def test_a_host_without_a_verdict_is_an_error_and_not_an_empty_suite() -> None:
    (suite,) = suites(store.Host("gpu01", plan={"no_verdict": "no route"}))
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert suite.find("testcase/error").get("message") == "no route"  # type: ignore[union-attr]


def test_a_verdict_that_failed_without_a_check_that_says_why_is_a_failure(document: Make) -> None:
    made = document(verdict={"status": "FAIL", "summary": "out of words"})
    (suite,) = suites(store.Host("gpu01", made))
    assert suite.get("failures") == "1"


def test_hostile_text_is_well_formed_xml(document: Make) -> None:
    row = check("xid", HOSTILE, 2, "FAIL", HOSTILE + "\ufffe\ud800]]>", reason_code=HOSTILE, action=HOSTILE)
    (suite,) = suites(store.Host(HOSTILE, document(checks=[row], run_id=HOSTILE, started=HOSTILE)))
    message = suite.find("testcase/failure").get("message", "")  # type: ignore[union-attr]
    assert "<script>" in message
    assert "timestamp" not in suite.attrib
    assert not set(message) & {"\x00", "\x1b", "\u202e"}
