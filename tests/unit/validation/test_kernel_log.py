# SPDX-License-Identifier: Apache-2.0
"""Xids in the journal, the kernel's ring buffer and text, told apart by the log's own order. The logs are made up."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kernel_log
import pytest

BOOT, EARLIER = "a9faedf2-d203-4d81-b894-b8f1dd6a2722", "11111111-2222-3333-4444-555555555555"
BUS = "NVRM: Xid (PCI:0000:17:00): 79, pid=4711, name=python, GPU has fallen off the bus."
DOUBLE = "NVRM: Xid (PCI:0000:3b:00): 48, pid='<unknown>', name=<unknown>, An uncorrectable double bit error (DBE)"
GSP = "NVRM: Xid (PCI:0000:65:00): 119, pid=8, name=nvidia-smi, Timeout after 6s of waiting for RPC response from GPU0"
USER = "NVRM: Xid (PCI:0000:17:00): 31, pid=99, name=a.out, Ch 00000008, intr 00000000. MMU Fault"
NOISE = "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.126.09"
MESSAGES = (NOISE, USER, "usb 1-1: new device", BUS, DOUBLE, GSP)

JOURNALCTL = """#!{python}
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
with open(os.path.join(here, "journal")) as stream:
    lines = stream.read().splitlines()
options = sys.argv[1:]
rows = [json.loads(line) if line.startswith('{{"MESSAGE') else line for line in lines]
if "--boot" in options:
    rows = [row for row in rows if not isinstance(row, dict) or row["_BOOT_ID"] == "{boot}"]
if any(option.startswith("--grep") for option in options):
    if os.path.exists(os.path.join(here, "no-patterns")):
        print("Compiled without pattern matching support", file=sys.stderr)
        sys.exit(1)
    words = next(option for option in options if option.startswith("--grep"))[len("--grep="):].split("|")
    rows = [row for row in rows if isinstance(row, dict) and any(word in str(row["MESSAGE"]) for word in words)]
    if not rows:
        sys.exit(1)
count = [int(option[8:]) for option in options if option.startswith("--lines=")]
for row in rows[-count[0]:] if count else rows:
    print(json.dumps(row) if isinstance(row, dict) else row)
"""


def journal_row(message: Any, number: int, boot: str = BOOT, **changes: Any) -> dict[str, Any]:
    boot = boot.replace("-", "")
    return {
        "MESSAGE": message, "_BOOT_ID": boot, "_TRANSPORT": "kernel", "__CURSOR": f"s=x;i={number:x};b={boot}",
        "__MONOTONIC_TIMESTAMP": str(1000 + number), "__REALTIME_TIMESTAMP": str(1795540000000000 + number * 1000000),
        **changes,
    }  # fmt: skip


class Log:
    """A kernel's log of some kind, that can grow."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        self.directory, self.kind = directory, kind
        self.rows: list[dict[str, Any] | str] = []
        self.number = 0
        (directory / "boot").write_text(BOOT + "\n")
        monkeypatch.setattr(kernel_log, "BOOT_ID", str(directory / "boot"))
        monkeypatch.setattr(kernel_log, "KMSG", str(directory / "kmsg"))
        monkeypatch.setenv("PATH", str(directory))
        if kind == "journal":
            self.program("journalctl", JOURNALCTL.format(python=sys.executable, boot=BOOT.replace("-", "")))
        elif kind != "kmsg":
            self.program("dmesg", f"#!{sys.executable}\nprint(open({str(directory / 'dmesg.txt')!r}).read(), end='')\n")

    def program(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o755)

    def add(self, *messages: str, boot: str = BOOT) -> None:
        for message in messages:
            self.number += 1
            seconds = 100 + self.number
            date = time.gmtime(1798761590 + self.number)  # ten seconds before the year 2027
            if self.kind == "journal":
                self.rows.append(journal_row(message, self.number, boot))
            elif self.kind == "kmsg":
                self.rows.append(
                    f"4,{self.number},{seconds}000000,-;{message}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:17:00.0"
                )
            elif self.kind == "monotonic":
                self.rows.append(f"[{seconds:5d}.123456] {message}")
            elif self.kind == "iso":
                self.rows.append(f"{time.strftime('%Y-%m-%dT%H:%M:%S', date)},123456+00:00 {message}")
            elif self.kind == "bsd":
                self.rows.append(f"[{time.asctime(date)}] {message}")
            else:
                self.rows.append(f"{time.strftime('%b %d %H:%M:%S', date)} gpu07 kernel: {message}")
        self.write()

    def write(self) -> None:
        name = {"journal": "journal", "kmsg": "kmsg"}.get(self.kind, "dmesg.txt")
        lines = [json.dumps(row) if isinstance(row, dict) else row for row in self.rows]
        (self.directory / name).write_text("".join(line + "\n" for line in lines))

    def read(self, start: dict[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = kernel_log.read(BOOT + "\n", start)
        assert json.loads(json.dumps(answer)) == answer
        return answer


KINDS = ("journal", "kmsg", "monotonic", "iso", "bsd", "syslog")


@pytest.fixture(params=KINDS)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Log:
    return Log(tmp_path, monkeypatch, request.param)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(tmp_path, monkeypatch, "journal")


def brief(answer: dict[str, Any], *keys: str) -> list[Any]:
    rows = [tuple(row[key] for key in keys) for row in answer["xids"]]
    return [row[0] for row in rows] if len(keys) == 1 else rows


def test_all_kinds_of_logs_say_the_same(log: Log) -> None:
    log.add(*MESSAGES)
    answer = log.read()
    assert answer["source"] == {"journal": "journal", "kmsg": "kmsg"}.get(log.kind, "dmesg")
    assert (answer["problem"], answer["truncated"]) == ("", False)
    assert brief(answer, "xid", "bdf", "pid", "process", "this_boot", "after_start") == [
        (31, "0000:17:00.0", 99, "a.out", True, False),
        (79, "0000:17:00.0", 4711, "python", True, False),
        (48, "0000:3b:00.0", None, None, True, False),
        (119, "0000:65:00.0", 8, "nvidia-smi", True, False),
    ]
    assert [row["text"] for row in answer["xids"]] == [USER, BUS, DOUBLE, GSP]


def test_what_came_after_the_start_is_told_by_the_logs_own_order(log: Log) -> None:
    log.add(*MESSAGES[:4])
    start = kernel_log.position()
    assert json.loads(json.dumps(start)) == start
    assert brief(log.read(start), "xid", "after_start") == [(31, False), (79, False)]
    log.add("some other message", DOUBLE)  # the year ends between the first and the last
    log.add(*["the year is new"] * 10, BUS)
    assert brief(log.read(start), "xid", "after_start") == [(31, False), (79, False), (48, True), (79, True)]
    assert not any(brief(log.read(kernel_log.position()), "after_start"))


def test_a_start_in_an_empty_log_makes_everything_new(log: Log) -> None:
    log.add("only this")
    start = kernel_log.position()
    log.add(BUS)
    assert brief(log.read(start), "after_start") == [True]


def test_no_xid_is_a_log_without_xids(log: Log) -> None:
    log.add(NOISE, "usb 1-1: new device")
    answer = log.read()
    assert (answer["problem"], answer["xids"]) == ("", [])
    assert answer["source"] != "none"


def test_the_same_line_twice_is_two_events(log: Log) -> None:
    log.add(USER, USER)
    start = kernel_log.position()
    log.add(USER)
    assert brief(log.read(start), "after_start") == [False, False, True]


def test_a_gpu_that_fell_off_the_bus_without_a_number_is_xid_79(log: Log) -> None:
    start = kernel_log.position() if log.kind in ("kmsg", "journal") else None
    lines = ("NVRM: The NVIDIA GPU 0000:b3:00.0", "NVRM: (PCI ID: 10de:26b5) installed in this system has",
             "NVRM: fallen off the bus and is not responding to commands.")  # fmt: skip
    if log.kind == "journal":
        log.add("something", "\n".join(lines), *lines, "something")
    elif log.kind == "kmsg":
        log.add("\\x0a".join(lines), *lines)
    else:
        log.add(lines[0] + "".join("\n               " + line for line in lines[1:]), *lines)
    assert brief(log.read(start), "xid", "bdf") == [(79, "0000:b3:00.0")] * 2


# -- the journal -------------------------------------------------------------------------------------------------------


def test_an_xid_of_an_earlier_boot_is_marked_as_such_and_is_never_new(journal: Log) -> None:
    journal.add(BUS, boot=EARLIER)
    journal.add(NOISE)
    start = kernel_log.position()
    journal.add(USER)
    assert brief(journal.read(start), "xid", "this_boot", "after_start") == [(79, False, False), (31, True, True)]


def test_after_a_boot_in_between_everything_of_this_boot_is_new(journal: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.add(NOISE)
    start = {**kernel_log.position(), "boot_id": EARLIER.replace("-", ""), "order": 10**9}
    journal.add(USER)
    assert brief(journal.read(start), "after_start") == [True]


def test_messages_of_the_same_microsecond_are_new_unless_they_are_the_start(journal: Log) -> None:
    journal.add(USER)
    start = kernel_log.position()
    same = dict(journal.rows[0]) if isinstance(journal.rows[0], dict) else {}
    journal.rows.append({**same, "MESSAGE": BUS, "__CURSOR": "s=x;i=ff"})
    journal.write()
    assert brief(journal.read(start), "xid", "after_start") == [(31, False), (79, True)]


def test_what_users_log_in_the_kernels_name_is_no_xid(journal: Log) -> None:
    journal.add(NOISE)
    for transport in ("syslog", "stdout", "journal", None):
        journal.rows.append(journal_row(BUS, 50, _TRANSPORT=transport))
    journal.write()
    journal.add(NOISE)
    assert journal.read()["xids"] == []


@pytest.mark.parametrize(
    "message",
    [
        list(BUS.encode()),
        [*list(BUS.encode()), 255, 254],
        [BUS, "second"],
        BUS.replace("python", 'p"y\n\x1b[31m\u202e'),
    ],
)
def test_messages_that_are_no_plain_text_are_read(journal: Log, message: Any) -> None:
    journal.rows.append(journal_row(message, 1))
    journal.write()
    # The pretended journalctl looks for words in text; bytes reach us where patterns are not supported.
    (journal.directory / "no-patterns").touch()
    (row,) = journal.read()["xids"]
    assert (row["xid"], row["bdf"], row["pid"]) == (79, "0000:17:00.0", 4711)
    for character in "\n\x1b\u202e":
        assert character not in row["text"] + str(row["process"])


def test_rubbish_between_the_lines_is_left_out(journal: Log) -> None:
    journal.add(USER)
    journal.rows += ["-- Boot --", "{not json", "[1, 2]", "Hint: You are currently not seeing messages"]
    journal.write()
    journal.add(BUS)
    (journal.directory / "no-patterns").touch()
    assert brief(journal.read(), "xid") == [31, 79]


def test_a_journal_without_a_message_of_this_kernel_is_none(journal: Log, tmp_path: Path) -> None:
    journal.add(BUS, boot=EARLIER)
    answer = journal.read()
    assert answer["source"] == "none"
    assert "no message of this kernel" in answer["problem"]
    assert answer["xids"] == []
    (tmp_path / "kmsg").write_text(f"4,7,1,-;{USER}\n")
    assert (journal.read()["source"], brief(journal.read(), "xid")) == ("kmsg", [31])


def test_cursors_and_times_are_given(journal: Log) -> None:
    journal.add(USER, NOISE)
    answer = journal.read()
    assert answer["cursor"] == journal_row("", 2)["__CURSOR"]
    assert answer["xids"][0]["cursor"] == journal_row("", 1)["__CURSOR"]
    assert answer["xids"][0]["time"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1795540001))
    assert answer["boot_id"] == BOOT


def test_the_clock_of_the_wall_decides_nothing(journal: Log) -> None:
    journal.rows.append(journal_row(USER, 1, __REALTIME_TIMESTAMP="4000000000000000"))
    journal.write()
    start = kernel_log.position()
    journal.rows.append(journal_row(BUS, 2, __REALTIME_TIMESTAMP="1"))
    journal.rows.append(journal_row(DOUBLE, 3, __REALTIME_TIMESTAMP=None))
    journal.write()
    assert brief(journal.read(start), "xid", "after_start") == [(31, False), (79, True), (48, True)]


# -- sources that fail -------------------------------------------------------------------------------------------------


def test_no_source_at_all_is_a_problem_and_not_an_empty_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernel_log, "KMSG", str(tmp_path / "missing"))
    answer = kernel_log.read(BOOT)
    assert (answer["source"], answer["xids"], answer["cursor"]) == ("none", [], None)
    for words in ("there is no journalctl", "No such file", "there is no dmesg"):
        assert words in answer["problem"]
    assert kernel_log.position()["source"] == "none"


def test_where_the_log_was_closed_at_the_start_everything_counts_as_new(log: Log, tmp_path: Path) -> None:
    start = {"source": "dmesg" if log.kind in ("journal", "kmsg") else "kmsg", "order": 5, "lines": [], "boot_id": None}
    log.add(BUS)
    assert brief(log.read(start), "after_start") == [True]


@pytest.mark.parametrize("start", [None, {}, {"source": "none"}, {"source": "moon"}])
def test_a_start_that_says_nothing_makes_nothing_new(log: Log, start: dict[str, Any] | None) -> None:
    log.add(BUS)
    assert brief(log.read(start), "after_start") == [False]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("sys.exit('dmesg: read kernel buffer failed: Operation not permitted')", "Operation not permitted"),
        ("time.sleep(60)", "did not end within 1 s"),
        ("", "printed nothing"),
    ],
)
def test_a_reader_that_fails_or_hangs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    monkeypatch.setattr(kernel_log, "TIMEOUT", 1)
    log = Log(tmp_path, monkeypatch, "monotonic")
    log.program("dmesg", f"#!{sys.executable}\nimport sys, time\n{body}\n")
    log.program("journalctl", f"#!{sys.executable}\nimport sys\nsys.exit('No journal files were opened')\n")
    started = time.monotonic()
    answer = log.read()
    assert time.monotonic() - started < 5
    assert answer["source"] == "none"
    assert words in answer["problem"]
    assert "No journal files were opened" in answer["problem"]


def test_a_buffer_that_was_overwritten_since_the_start_is_all_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, monkeypatch, "monotonic")
    log.add(USER, NOISE)
    start = kernel_log.position()
    log.rows = []
    log.add(BUS)
    assert brief(log.read(start), "after_start") == [True]


def test_a_storm_of_xids_hides_none(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "MOST", 50)
    log.add(BUS, DOUBLE, *[USER] * 200)
    answer = log.read()
    assert answer["truncated"] is True
    assert [row for row in brief(answer, "xid") if row != 31] == [79, 48]
    assert len(answer["xids"]) == 53


def test_the_real_ring_buffer_is_read_where_it_may_be() -> None:
    answer = kernel_log.read(Path("/proc/sys/kernel/random/boot_id").read_text())
    assert answer["source"] in ("journal", "kmsg", "dmesg", "none")
    assert bool(answer["problem"]) == (answer["source"] == "none")
    if os.access("/dev/kmsg", os.R_OK) and answer["source"] == "kmsg":
        assert kernel_log.position()["order"] > 0


# -- one line ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NVRM: Xid (PCI:0000:01:00): 62, 0000(0000) 00000000 00000000", (62, "0000:01:00.0", None, None)),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", (14, "0000:03:00.0", None, None)),
        ("NVRM: Xid (PCI:0000:C1:00.0): 94, pid=12, name=x, y", (94, "0000:c1:00.0", 12, "x")),
        ("NVRM: Xid (PCI:00000000:C1:00): 95", (95, "0000:c1:00.0", None, None)),
        ("NVRM: Xid (PCI:0000:01:00): 13, pid=5, Graphics Exception", (13, "0000:01:00.0", 5, None)),
        ("NVRM: Xid (PCI:0000:01:00): 13, pid=5, name=my prog, rest", (13, "0000:01:00.0", 5, "my prog")),
        ("NVRM: Xid (PCI:0000:01:00): 45, pid=5, name=x", (45, "0000:01:00.0", 5, "x")),
        ("NVRM: Xid (somewhere): 144, NVLINK: SAW error", (144, None, None, None)),
        ("NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed", (154, "0000:01:00.0", None, None)),
    ],
)
def test_the_forms_that_drivers_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: Sequence[Any]
) -> None:
    log = Log(tmp_path, monkeypatch, "kmsg")
    log.add(line)
    assert brief(log.read(), "xid", "bdf", "pid", "process") == [tuple(expected)]


@pytest.mark.parametrize(
    "line", ["NVRM: Xid", "NVRM: Xid (PCI:0000:01:00): ", "nvrm: xid (PCI:0000:01:00): 79", "Xid (PCI:0000:01:00): 79",
             "NVRM: GPU at PCI:0000:17:00: GPU-1234", "NVRM: Xid (PCI:0000:01:00): 1234567, x"],
)  # fmt: skip
def test_lines_that_report_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    log = Log(tmp_path, monkeypatch, "kmsg")
    log.add(line, NOISE)
    assert log.read()["xids"] == []
