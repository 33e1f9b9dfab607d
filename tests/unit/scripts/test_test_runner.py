# SPDX-License-Identifier: Apache-2.0
"""The test runner must not lose a failure, and the test bed must read this machine's configuration right."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest
import run_tests
import testbed
from run_tests import Outcome, Stage

REPORT = """<testsuites><testsuite>
<testcase name="good"/><testcase name="bad"><failure message="x"/></testcase>
<testcase name="broken"><error message="x"/></testcase>
<testcase name="left out"><skipped message="no engine"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    outcome = run_tests.read_report(tmp_path / "report.xml")
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, [("left out", "no engine")])


def test_a_command_that_fails_is_a_failure_with_its_output() -> None:
    assert run_tests.command("sh", "-c", "exit 0").failed == 0
    failed = run_tests.command("sh", "-c", "echo words; exit 3")
    assert (failed.passed, failed.failed, failed.output) == (0, 1, "words\n")


def test_pytest_without_any_test_is_a_failure(tmp_path: Path) -> None:
    assert run_tests.pytest(str(tmp_path), "--quiet").failed == 1


STAGES = [Stage("a", "", Outcome), Stage("b", "", Outcome, needs_engine=True)]


def closing(capsys: pytest.CaptureFixture[str], outcomes: list[Outcome]) -> tuple[int, list[str]]:
    status = run_tests.summary(STAGES, outcomes)
    return status, capsys.readouterr().out.splitlines()


def test_the_closing_line_adds_everything_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    status, lines = closing(
        capsys, [Outcome(passed=3), Outcome(passed=1, skipped=[("x", "why"), ("y", "why"), ("z", "else")])]
    )
    assert (status, lines) == (0, ["skipped: 2 tests: why", "skipped: z: else", "4 passed, 0 failed, 3 skipped"])
    status, lines = closing(capsys, [Outcome(passed=3, failed=1), Outcome()])
    assert (status, lines) == (1, ["failed: a", "3 passed, 1 failed, 0 skipped"])


def test_ci_does_not_accept_that_container_tests_cannot_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tests, "prepare_bed", lambda: testbed.Unavailable("no engine"))
    skipped = [Outcome(passed=3), Outcome(skipped=[("b", "no engine")])]
    monkeypatch.setenv("CI", "true")
    assert closing(capsys, skipped)[0] == 1
    monkeypatch.setenv("CI", "")
    assert closing(capsys, skipped) == (0, ["skipped: b: no engine", "3 passed, 0 failed, 1 skipped"])


def test_stages_are_chosen() -> None:
    fast = [stage.name for stage in run_tests.choose([], fast=True)]
    assert "ruff" in fast
    assert not {"molecule", "containers"} & set(fast)
    assert [stage.name for stage in run_tests.choose(["unit"], fast=False)] == ["unit"]


def test_a_stage_beside_another_runs_while_that_does_and_loses_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_tests, "prepare_bed", lambda: testbed.Unavailable("no engine"))
    begun, ended = Event(), Event()

    def long() -> Outcome:
        assert begun.wait(20)
        ended.set()
        return Outcome(passed=1)

    def beside() -> Outcome:
        begun.set()
        assert ended.wait(20)
        return run_tests.pytest(str(tmp_path), "--quiet")

    def broken() -> Outcome:
        raise ValueError("in a thread")

    stages = [Stage("first", "", Outcome), Stage("long", "", long), Stage("x", "", beside, beside="long")]
    stages += [Stage("y", "", broken, beside="long"), Stage("last", "", lambda: Outcome(passed=2))]
    outcomes = run_tests.run_stages(stages)
    assert [(outcome.passed, outcome.failed) for outcome in outcomes] == [(0, 0), (1, 0), (0, 1), (0, 1), (2, 0)]
    printed = capfd.readouterr().out
    assert "no tests ran" in printed
    assert "ValueError: in a thread" in printed
    assert printed.index("[5/5] last") > printed.index("[4/5] y: FAILED")


# --- the test bed ---------------------------------------------------------------------------------

TARGETS = """\
http://archive.example/main bookworm main
http://archive.example/main bookworm-updates main
http://archive.example/main trixie main
http://archive.example/security bookworm-security main
http://archive.example/main bookworm main"""


def test_sources_of_the_suite_are_taken_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "output", lambda command: TARGETS)
    assert testbed.apt_sources().splitlines() == [
        "deb http://archive.example/main bookworm main",
        "deb http://archive.example/main bookworm-updates main",
        "deb http://archive.example/security bookworm-security main",
    ]


def test_a_machine_without_the_suite_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "output", lambda command: "http://archive.example/main trixie main")
    with pytest.raises(testbed.Unavailable, match="GPULAB_TEST_IMAGE"):
        testbed.apt_sources()


PIP = """\
:env:.cert='/etc/ssl/some.pem'
global.extra-index-url='file:///srv/one/simple https://two.example/simple\\nhttps://three.example/simple'
global.find-links='/srv/wheels'
global.break-system-packages='true'
:env:.default-timeout='99'
user.find-links='/srv/mine'"""


def test_pip_settings_are_read_and_the_private_ones_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "output", lambda command: PIP)
    assert testbed.pip_configuration() == {
        "cert": "/etc/ssl/some.pem",
        "extra-index-url": "file:///srv/one/simple https://two.example/simple https://three.example/simple",
        "find-links": "/srv/mine",
        "timeout": "99",
    }


def test_local_directories_of_pip_are_found(tmp_path: Path) -> None:
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    pip = {
        "extra-index-url": f"file://{tmp_path}/index/simple https://two.example/simple",
        "find-links": f"{tmp_path}/wheels {tmp_path}/gone",
    }
    assert testbed.local_directories(pip) == [tmp_path / "index", tmp_path / "wheels"]


def test_the_first_error_is_the_cause() -> None:
    assert testbed.first_error("I: a\nE: the cause\nE: what follows") == "E: the cause"
    assert testbed.first_error("") == "no output"
