# SPDX-License-Identifier: Apache-2.0
"""Processes that end, that do not want to end, and that cannot be ended."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import processes
import pytest

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 1.0)


def run(code: str, directory: Path, timeout: float = 20, user: processes.User | None = None) -> processes.Outcome:
    return processes.run(
        [sys.executable, "-c", code], ENVIRONMENT, str(directory), str(directory / "log"), timeout, user
    )


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_until(condition, seconds: float = 10) -> bool:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def test_status_and_output_are_kept(tmp_path: Path) -> None:
    outcome = run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)", tmp_path)
    assert (outcome.state, outcome.code) == ("finished", 5)
    assert sorted(outcome.tail.split()) == ["err", "out"]


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    outcome = processes.run(["/nonexistent/python"], ENVIRONMENT, str(tmp_path), str(tmp_path / "log"), 5)
    assert outcome.state == "not_started"
    assert "/nonexistent/python cannot be started: No such file" in outcome.tail


def test_a_process_that_ignores_term_is_killed(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome = run(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
        tmp_path, timeout=3,
    )  # fmt: skip
    assert outcome.state == "timeout"
    assert outcome.tail == "deaf\n"  # it did get as far as ignoring TERM
    assert time.monotonic() - started < 15


def test_a_process_that_heeds_term_may_clean_up(tmp_path: Path) -> None:
    goodbye = "lambda *_: (print('bye', flush=True), sys.exit())"
    code = f"import signal, sys, time; signal.signal(signal.SIGTERM, {goodbye}); time.sleep(60)"
    assert run(code, tmp_path, timeout=3).tail == "bye\n"


def test_a_process_that_cannot_be_killed_is_abandoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals that do nothing are what a process that hangs in the kernel makes of them."""
    pids: list[int] = []
    monkeypatch.setattr(processes, "_signal_group", lambda process, _: pids.append(process.pid))
    started = time.monotonic()
    try:
        outcome = run("import time; time.sleep(60)", tmp_path, timeout=0.5)
        assert outcome.state == "abandoned"
        assert outcome.code is None
        assert time.monotonic() - started < 10
        assert is_alive(pids[0])
    finally:
        os.killpg(pids[0], signal.SIGKILL)


SURVIVES_SIGKILL = """
import ctypes, os, time
PR_SET_PTRACER, ANY, PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x59616D61, -1, 0x4206, 0x40
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.prctl(PR_SET_PTRACER, ctypes.c_long(ANY), 0, 0, 0)
job, (reader, writer) = os.getpid(), os.pipe()
if os.fork() == 0:
    os.setsid()
    ok = libc.ptrace(PTRACE_SEIZE, job, None, PTRACE_O_TRACEEXIT) == 0
    os.write(writer, b"held" if ok else b"free")
    time.sleep(8)  # holds the job in the middle of its exit
    os._exit(0)
print(os.read(reader, 4).decode(), flush=True)
time.sleep(60)
"""


def test_a_process_that_really_survives_sigkill(tmp_path: Path) -> None:
    """Held by a tracer in the middle of its exit, as a process is that hangs in a driver."""
    started = time.monotonic()
    outcome = run(SURVIVES_SIGKILL, tmp_path, timeout=2)
    seconds = time.monotonic() - started
    if "held" not in outcome.tail:
        pytest.skip("this system does not let a process trace another one")
    assert outcome.state == "abandoned"
    assert seconds < 6


def test_helpers_of_a_job_do_not_stay(tmp_path: Path) -> None:
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    helper = int(run(code, tmp_path).tail)
    assert wait_until(lambda: not is_alive(helper))


def test_output_that_is_no_text(tmp_path: Path) -> None:
    outcome = run("import os; os.write(1, b'\\xff\\xfe\\x00' + b'x' * 100_000 + b'end')", tmp_path)
    assert outcome.tail.endswith("end")
    assert len(outcome.tail) <= processes.TAIL_BYTES


def test_nothing_of_our_environment_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPULAB_SECRET", "x")
    outcome = run("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}), os.getsid(0) == os.getpid())", tmp_path)
    assert outcome.tail.strip() == "['PATH'] True"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process as somebody else")
def test_root_runs_jobs_as_the_user(tmp_path: Path) -> None:
    nobody = processes.User("nobody")
    outcome = run("import os; print(os.getuid())", tmp_path)
    assert outcome.tail.split()[0] == "0"
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups())"
    outcome = processes.run(
        ["/usr/bin/python3", "-c", code], ENVIRONMENT, "/", str(tmp_path / "nobody.log"), 20, nobody
    )
    assert outcome.tail.strip() == f"{(nobody.uid,) * 3} {(nobody.gid,) * 3} {sorted(nobody.groups)}"
