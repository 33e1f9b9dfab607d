# SPDX-License-Identifier: Apache-2.0
"""The one line for a scheduler: OK only for a verdict that is good, of this boot, young, and about a real machine."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from validation_lab import PROGRAMS

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
NHC = PROGRAMS / "nhc" / "gpulab.nhc"


def ago(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))


def document(**changes: Any) -> dict[str, Any]:
    verdict = {"status": "PASS", "label": "PASS", "action": "none", "summary": "8 of 8 GPUs computed correctly"}
    answer = {"host": {"boot_id": BOOT_ID}, "simulated": False, "gpu_validated": True, "verdict": verdict}
    return {**answer, "checked": ago(60), "finished": ago(3600), **changes}


class Host:
    """The programs as they lie on a host, with a verdict beside them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "validation"
        self.programs = self.directory / "programs"
        self.verdict = self.directory / "verdict.json"
        self.programs.mkdir(parents=True)
        for name in ("check.py", "processes.py"):
            shutil.copy(PROGRAMS / name, self.programs / name)

    def write(self, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        part = self.verdict.with_suffix(".part")
        part.write_text(text)
        part.chmod(0o644)
        part.rename(self.verdict)

    def validator(self, body: str) -> None:
        """Put a program in the validator's place."""
        start = f"import json, os, sys, time\nVERDICT = {str(self.verdict)!r}\nARGUMENTS = sys.argv[1:]\n"
        (self.programs / "validate.py").write_text(start + body)

    def check(self, *options: str, **environment: str) -> tuple[int, str]:
        """Return the exit status and the one line."""
        done = subprocess.run(
            [sys.executable, "-B", str(self.programs / "check.py"), *options],
            capture_output=True,
            env={"PATH": os.environ["PATH"], **environment},
            timeout=60,
            check=False,
        )
        assert done.stderr == b""
        line = done.stdout.decode("ascii")
        assert line.endswith("\n")
        assert line.count("\n") == 1
        assert line.startswith({0: "OK gpulab: ", 1: "ERROR gpulab: "}[done.returncode]), line
        assert len(line) <= 401
        return done.returncode, line.rstrip("\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_good_verdict_is_ok(host: Host) -> None:
    host.write(document())
    expected = "OK gpulab: PASS, looked at 1.0 minutes ago: 8 of 8 GPUs computed correctly"
    assert host.check() == (0, expected)
    assert host.check("--require-gpu", "--strict", "--max-proof-age", "1")[0] == 0


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"host": {"boot_id": "another"}}, (), "of an earlier boot"),
        ({"host": {}}, (), "of an earlier boot"),
        ({"host": None}, (), "of an earlier boot"),
        ({"simulated": True}, (), "simulated"),
        ({"simulated": None}, (), "simulated"),
        ({"gpu_validated": False}, ("--require-gpu",), "no GPU was validated"),
        ({"gpu_validated": "yes"}, ("--require-gpu",), "no GPU was validated"),
        ({"checked": ago(8 * 86400)}, (), "looked at 8.0 days ago (allowed are 7 days)"),
        ({"checked": ago(7200)}, ("--max-age", "0.05"), "looked at 2.0 hours ago"),
        ({"checked": ago(-3600)}, (), "in the future"),
        ({"checked": None, "finished": None}, (), "does not say when"),
        ({"checked": "yesterday"}, (), "does not say when"),
        ({"checked": 1e18}, (), "does not say when"),
        ({"finished": ago(9 * 86400)}, ("--max-proof-age", "7"), "proven 9.0 days ago"),
        ({"finished": None}, ("--max-proof-age", "7"), "does not say when this host was proven"),
        ({"verdict": None}, (), "no verdict"),
        ({"verdict": {}}, (), "no verdict"),
        ({"verdict": {"status": "SKIP", "label": "SKIP (nothing to validate)"}}, (), "nothing to validate"),
        ({"verdict": {"status": "pass"}}, (), "pass"),
        ({"verdict": {"status": ["PASS"]}}, (), "PASS"),
    ],
)
def test_what_does_not_hold_is_an_error(
    host: Host, changes: dict[str, Any], options: tuple[str, ...], words: str
) -> None:
    host.write(document(**changes))
    status, line = host.check(*options)
    assert status == 1
    assert words in line


@pytest.mark.parametrize("status", ["FAIL", "UNKNOWN"])
def test_a_bad_verdict_is_an_error_with_its_reason_and_what_to_do(host: Host, status: str) -> None:
    verdict = {"status": status, "label": status, "action": "reboot", "summary": "Xid 79: the GPU fell off the bus"}
    host.write(document(verdict=verdict))
    assert host.check() == (1, f"ERROR gpulab: {status}: Xid 79: the GPU fell off the bus [action: reboot]")


def test_a_warning_is_ok_unless_strict(host: Host) -> None:
    host.write(document(verdict={"status": "WARN", "label": "WARN", "summary": "slow"}))
    assert host.check()[0] == 0
    assert host.check("--strict")[0] == 1


def test_a_simulated_host_is_ok_only_where_that_is_allowed_and_the_label_says_so(host: Host) -> None:
    verdict = {"status": "PASS", "label": "PASS [simulated]", "summary": ""}
    host.write(document(simulated=True, verdict=verdict))
    assert host.check()[0] == 1
    status, line = host.check("--allow-simulated")
    assert status == 0
    assert "[simulated]" in line


def test_without_a_limit_an_old_proof_holds_while_somebody_looks(host: Host) -> None:
    host.write(document(finished=ago(90 * 86400)))
    assert host.check()[0] == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"verdict": NaN}', "\x00\x01", "[" * 200000, json.dumps(document())[:-20]]
)
def test_a_damaged_verdict_is_an_error(host: Host, content: str) -> None:
    host.write(content)
    assert host.check()[0] == 1


def test_a_missing_verdict_a_link_a_directory_and_a_writable_file_are_errors(host: Host, tmp_path: Path) -> None:
    assert "never validated" in host.check()[1]
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(document()))
    host.verdict.symlink_to(elsewhere)
    assert "cannot be read" in host.check()[1]
    host.verdict.unlink()
    host.verdict.mkdir()
    assert host.check()[0] == 1
    host.verdict.rmdir()
    os.mkfifo(host.verdict)
    assert "not a plain file" in host.check()[1]
    host.write(document())
    host.verdict.chmod(0o666)
    assert "can be written by others" in host.check()[1]


@pytest.mark.parametrize(
    "options", [("--no-such-option",), ("--max-age", "x"), ("--max-age", "nan"), ("--max-age", "-1"), ("more",)]
)
def test_wrong_use_is_an_error_in_one_line(host: Host, options: tuple[str, ...]) -> None:
    host.write(document())
    assert host.check(*options)[1].startswith("ERROR gpulab: wrong use: ")


def test_a_check_that_is_broken_itself_is_an_error(host: Host) -> None:
    host.write(document())
    (host.programs / "processes.py").unlink()
    assert host.check("--live")[1].startswith("ERROR gpulab: the check itself failed: ModuleNotFoundError")


def test_hostile_words_stay_in_one_line_whatever_the_language(host: Host) -> None:
    summary = "a\nOK gpulab: b\r\x1b[31m\u202e\ud800 é " + "x" * 5000
    host.write(document(verdict={"status": "FAIL", "label": "FAIL", "summary": summary}))
    assert host.check(LC_ALL="C")[0] == 1
    assert host.check(PYTHONIOENCODING="latin-1")[0] == 1


def unfinished() -> dict[str, Any]:
    verdict = {"status": "UNKNOWN", "label": "UNKNOWN", "reason_code": "UNFINISHED", "summary": "has not finished"}
    return document(verdict=verdict, finished=None, checked=None)


def test_a_running_validation_is_waited_for(host: Host) -> None:
    host.write(unfinished())
    program = f"import os, time; time.sleep(1); os.rename({str(host.directory / 'new')!r}, {str(host.verdict)!r})"
    (host.directory / "new").write_text(json.dumps(document()))
    (host.directory / "new").chmod(0o644)
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        (host.directory / "lock").write_text(f"pid {other.pid} since {ago(0)}")
        assert host.check()[0] == 0


def test_a_validation_that_was_killed_is_not_waited_for(host: Host) -> None:
    host.write(unfinished())
    with subprocess.Popen(["true"]) as gone:
        pass
    for words in (f"pid {gone.pid} since now", "", "pid x"):
        (host.directory / "lock").write_text(words)
        started = time.monotonic()
        assert "has not finished" in host.check()[1]
        assert time.monotonic() - started < 5
    (host.directory / "lock").write_text(f"pid {os.getpid()} since {ago(0)}")
    assert "has not finished" in host.check("--wait", "0.5")[1]


# --- --live ---------------------------------------------------------------------------------------

WRITE = """
document = json.loads({document!r})
document["checked"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
with open(VERDICT + ".part", "w") as stream:
    json.dump(document, stream)
os.rename(VERDICT + ".part", VERDICT)
print(json.dumps({{"document": document}}))
sys.exit({code})
"""


def test_live_validates_the_quick_tiers_first(host: Host) -> None:
    host.write(document(checked=ago(20 * 86400)))
    told = "assert ARGUMENTS[0::2] == ['--config', '--tiers'] and ARGUMENTS[3] == '0-2', ARGUMENTS\n"
    host.validator(told + WRITE.format(document=json.dumps(document()), code=0))
    status, line = host.check("--live")
    assert (status, line.split(":")[1]) == (0, " PASS, looked at 0 seconds ago")


@pytest.mark.parametrize("code", [1, 2])
def test_live_tells_what_the_validation_found(host: Host, code: int) -> None:
    host.write(document())
    verdict = {"status": "FAIL", "label": "FAIL", "summary": "the driver does not answer", "action": "reboot"}
    host.validator(WRITE.format(document=json.dumps(document(verdict=verdict)), code=code))
    assert host.check("--live") == (1, "ERROR gpulab: FAIL: the driver does not answer [action: reboot]")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit(0)", "left no verdict"),
        ("print('Traceback: oh'); sys.exit(3)", "could not run: Traceback: oh"),
        (
            "print(json.dumps({'error': {'reason_code': 'SETTINGS', 'message': 'no'}})); sys.exit(3)",
            "could not run: no",
        ),
        ("os.kill(os.getpid(), 9)", "could not run"),
        ("time.sleep(60)", "did not end within 1 seconds"),
    ],
)
def test_an_old_verdict_does_not_speak_for_a_live_look_that_failed(host: Host, body: str, words: str) -> None:
    host.write(document())
    host.validator(body)
    status, line = host.check("--live", "--timeout", "1")
    assert status == 1
    assert words in line


def test_live_waits_for_another_validation(host: Host) -> None:
    host.write(document())
    locked = {"error": {"reason_code": "LOCKED", "message": "another validation is running"}}
    refuse = f"print({json.dumps(locked)!r})\nsys.exit(4)\n"
    once = "if not os.path.exists(VERDICT + '.second'):\n    open(VERDICT + '.second', 'w')\n"
    first = once + "".join(f"    {line}\n" for line in refuse.splitlines())
    host.validator(first + WRITE.format(document=json.dumps(document()), code=0))
    assert host.check("--live")[0] == 0
    host.validator(refuse)
    assert "another validation is running" in host.check("--live", "--wait", "1")[1]


def test_without_live_no_process_is_started_and_it_takes_no_time(host: Host) -> None:
    many = [{"id": "x", "target": "host", "status": "PASS", "message": "x" * 200}] * 500
    host.write(document(checks=many))
    program = str(host.programs / "check.py")
    trace = "import subprocess, runpy, sys\nsubprocess.Popen = None\nsys.argv = ['check.py']\n"
    trace += f"runpy.run_path({program!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-B", "-c", trace], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("OK"), done.stdout + done.stderr
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        host.check()
        seconds.append(time.monotonic() - started)
    # 0.1 s on an idle machine; tests share theirs with others.
    assert statistics.median(seconds) < 0.5, seconds


# --- NHC ------------------------------------------------------------------------------------------


def nhc(host: Host, *arguments: str, **environment: str) -> tuple[int, str]:
    """Call the check as NHC does: sourced, with NHC's own function die."""
    script = f'function die() {{ local code=$1; shift; echo "$*"; exit "$code"; }}\n. {NHC}\n'
    script += "check_gpulab " + " ".join(arguments) + "\n"
    variables = {"PATH": os.environ["PATH"], "GPULAB_CHECK": str(host.programs / "check.py"), **environment}
    done = subprocess.run(
        ["bash", "-u", "-c", script], capture_output=True, text=True, env=variables, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_node_health_check_says_what_is_wrong(host: Host) -> None:
    host.write(document())
    assert nhc(host) == (0, "")
    assert nhc(host, "--require-gpu", "--max-age", "1") == (0, "")
    host.write(document(verdict={"status": "FAIL", "label": "FAIL", "summary": "GPU 3 computes wrong"}))
    assert nhc(host) == (1, "check_gpulab:  FAIL: GPU 3 computes wrong\n")


@pytest.mark.parametrize(
    "environment", [{"GPULAB_CHECK": "/nonexistent/check.py"}, {"GPULAB_PYTHON": "false"}, {"GPULAB_PYTHON": "true"}]
)
def test_node_health_check_fails_where_the_check_cannot_run(host: Host, environment: dict[str, str]) -> None:
    host.write(document())
    status, words = nhc(host, **environment)
    assert status == 1
    assert words.startswith("check_gpulab:  ")
