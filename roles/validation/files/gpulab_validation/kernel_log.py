# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's error reports (Xid) in the kernel's log.

What is new is told by the log's own order: the cursor and the boot of the journal, the sequence number of /dev/kmsg,
the place in dmesg's text. Never by the wall clock: that jumps, and the usual form of dates in logs has no year.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import shutil
import tempfile
import time

import gates
import processes

KMSG = "/dev/kmsg"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: Seconds for journalctl and for dmesg; for one that cannot be ended, twice GRACE is added.
TIMEOUT, GRACE = 20, 1.0
#: Bytes of the log that are looked at, from its end: the ring buffer of a kernel is at most as large.
LIMIT = 64 << 20
#: Xids that are kept. A GPU in trouble can report thousands of the same.
MOST = 2000
#: Xids of earlier boots: for people to read, nothing is judged by them.
EARLIER = 200
#: Lines by which a place in dmesg's text is found again.
MARK = 3
#: "NVRM: Xid (PCI:0000:17:00): 79, pid=1234, name=python, GPU has fallen off the bus."
XID = re.compile(r"NVRM: Xid \((?:PCI:)?([^)]*)\): (\d{1,5})\b[,:]?\s*(.*)", re.DOTALL)
ADDRESS = re.compile(r"^([0-9a-fA-F]{1,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.([0-9a-fA-F]))?$")
#: A process may call itself what it likes, also "x, pid=1": its name ends at the last place that could end it.
PROCESS = re.compile(r"^pid=('<unknown>'|<unknown>|\d+)(?:, name=(.{0,64}?))?(?:, |$)", re.DOTALL)
FIELDS = "MESSAGE,_BOOT_ID,_TRANSPORT,__CURSOR,__MONOTONIC_TIMESTAMP,__REALTIME_TIMESTAMP"

#: Drivers also say it without a number, in one message of three lines or in three messages; it is what Xid 79 says.
FALLEN_WHO = re.compile(r"NVRM: The NVIDIA GPU ([0-9a-fA-F:.]+)")
FALLEN = re.compile(r"NVRM:\s+fallen off the bus")
FALLEN_XID = 79
PATTERN = "NVRM: Xid|NVRM: The NVIDIA GPU|fallen off the bus"
#: One message. ``order`` grows within a boot; ``boot`` is None where the source only has the present one.
Entry = collections.namedtuple("Entry", "message boot order cursor time_us")


def read(boot_id, start=None):
    """Read the Xids that the kernel reported.

    :param boot_id: of the present boot
    :param start: what ``position`` returned earlier
    :returns: ``source`` (journal, kmsg, dmesg, none), ``problem``, ``cursor`` and ``boot_id`` of the end of the log,
        ``xids`` (oldest first), ``truncated`` (of very many only the newest are there)
    """
    source, entries, problem = _entries(MOST)
    boot = _plain(boot_id)
    last = entries[-1] if entries else None
    rows = _rows(_after_start(entries, source, start), boot)
    kept = _newest(rows)
    return {
        "source": source,
        "problem": problem,
        "cursor": last.cursor if last else None,
        "boot_id": str(boot_id or "").strip() or None,
        "xids": kept,
        "truncated": len(kept) < len(rows),
    }


def position():
    """Return where the log ends now: to be handed to ``read`` later. A dictionary that JSON can hold."""
    source, entries, _ = _entries(1)
    last = entries[-1] if entries else Entry("", None, -1, None, None)
    boot = last.boot or _plain(_boot_id())
    return {
        "source": source, "boot_id": boot, "order": last.order, "cursor": last.cursor,
        "lines": [entry.message for entry in entries[-MARK:]] if source == "dmesg" else [],
    }  # fmt: skip


# -- sources -----------------------------------------------------------------------------------------------------------


def _entries(most):
    """Return (source, entries, problem) of the first source that has the kernel's messages.

    :param most: how many entries of the journal are wanted: 1 for its end alone
    """
    said = []
    for source, function in (("journal", _journal), ("kmsg", _kmsg), ("dmesg", _dmesg)):
        entries, problem = function(most)
        if entries is not None:
            return source, entries, ""
        said.append(problem)
    return "none", [], "the kernel's log cannot be read: %s" % "; ".join(said)


def _journal(most):
    """Read the journal. A journal without a single message of the kernel of this boot is none."""
    program = shutil.which("journalctl")
    if program is None:
        return None, "there is no journalctl"
    common = [program, "--no-pager", "--quiet", "--all", "--output=json", "--output-fields=" + FIELDS]
    # The field _TRANSPORT is set by the journal itself: what users log under the kernel's name does not have it.
    end, problem = _run([*common, "--boot", "--lines=1", "_TRANSPORT=kernel"])
    if end is None:
        return None, problem
    last = journal_entries(end)
    if not last:
        return None, "the journal has no message of this kernel"
    if most == 1:
        return last, ""
    entries = []
    for more in (["--boot"], ["--lines=%d" % EARLIER]):
        output, problem = _run([*common, *more, "--grep=" + PATTERN, "--case-sensitive", "_TRANSPORT=kernel"], (0, 1))
        if output is None:  # built without a pattern library
            output, problem = _run([*common, "--boot", "_TRANSPORT=kernel"]) if more == ["--boot"] else (b"", "")
        if output is None:
            return None, problem
        entries += journal_entries(output)
    unique = {entry.cursor: entry for entry in entries}
    # The end of the log is kept as the last entry, for its cursor; it is no Xid, or it is one of them.
    this_boot = [entry for entry in unique.values() if entry.boot == last[0].boot and entry.cursor != last[0].cursor]
    earlier = [entry for entry in unique.values() if entry.boot != last[0].boot]
    earlier.sort(key=lambda entry: entry.time_us or 0)  # for people to read
    return earlier + sorted(this_boot, key=lambda entry: entry.order or 0) + last, ""


def journal_entries(output):
    """Return the kernel's messages in journalctl's JSON, line by line. Lines that are no JSON are left out."""
    entries = []
    for line in output.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or row.get("_TRANSPORT") != "kernel":
            continue
        message = row.get("MESSAGE")
        if isinstance(message, list):  # bytes that are no text, or a field that is there twice
            flat = [part for part in message if isinstance(part, int) and 0 <= part < 256]
            message = bytes(flat).decode("utf-8", "replace") if flat else " ".join(map(str, message))
        order, clock = (_number(row.get(key)) for key in ("__MONOTONIC_TIMESTAMP", "__REALTIME_TIMESTAMP"))
        boot = _plain(row.get("_BOOT_ID"))
        entries.append(Entry(str(message or ""), boot, order, str(row.get("__CURSOR")), clock))
    return entries


def _kmsg(_most):
    """Read the kernel's ring buffer."""
    parts = []
    try:
        descriptor = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return None, "%s: %s" % (KMSG, error.strerror)
    try:
        while True:
            try:
                part = os.read(descriptor, 65536)
            except OSError as error:
                if error.errno == errno.EPIPE:  # it was overwritten while we read: go on with what is there now
                    continue
                if error.errno == errno.EAGAIN:
                    break
                return None, "%s: %s" % (KMSG, error.strerror)
            if not part:
                break
            parts.append(part)
    finally:
        os.close(descriptor)
    entries = kmsg_entries(b"".join(parts))
    return (entries, "") if entries else (None, "%s is empty" % KMSG)


def kmsg_entries(output):
    """Return the messages in the records of /dev/kmsg: ``priority,sequence,microseconds,flags;message``."""
    entries = []
    for line in output.decode("utf-8", "replace").split("\n"):
        match = re.match(r"\d+,(\d+),(\d+),[^;]*;(.*)", line)
        if match:  # lines that begin with a blank continue the record with names of devices
            message = re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code.group(1), 16)), match.group(3))
            entries.append(Entry(message, None, int(match.group(1)), None, None))
    return entries


def _dmesg(_most):
    """Let dmesg read the ring buffer: it has means that /dev/kmsg lacks in some containers."""
    program = shutil.which("dmesg")
    if program is None:
        return None, "there is no dmesg"
    output, problem = _run([program])
    if output is None:
        return None, problem
    entries = text_entries(output)
    return (entries, "") if entries else (None, "dmesg printed nothing")


def text_entries(output):
    """Return the lines of a log as text. Their order is the order of events, whatever form their dates have."""
    # A message of several lines goes on with lines that are indented as deep as the first one's date is long.
    words = re.sub(r"\r?\n +(?=NVRM:)", " ", output.decode("utf-8", "replace"))
    lines = [line for line in words.splitlines() if line.strip()]
    return [Entry(line, None, number, None, None) for number, line in enumerate(lines)]


def _run(command, codes=(0,)):
    """Run a reader of logs within its limit.

    :returns: the end of its output and an empty string; or None and what went wrong
    """
    variables = {"PATH": os.environ.get("PATH") or os.defpath, "LC_ALL": "C", "LANG": "C"}
    name = os.path.basename(command[0])
    with tempfile.TemporaryDirectory(prefix="gpulab-log-") as directory:
        log = os.path.join(directory, "log")
        outcome = processes.run(command, variables, "/", log, TIMEOUT, grace=GRACE)
        try:
            with open(log, "rb") as stream:
                stream.seek(max(0, os.path.getsize(log) - LIMIT))
                output = stream.read()
        except OSError as error:
            return None, "%s left nothing to read: %s" % (name, error.strerror)
    if outcome.state != "finished":
        return None, "%s did not end within %d s" % (name, TIMEOUT)
    # With a pattern that nothing matches journalctl ends with 1 and prints nothing.
    if outcome.code not in codes or (outcome.code != 0 and output.strip()):
        return None, "%s ended with status %s: %s" % (name, outcome.code, gates.last_line(outcome.tail))
    return output, ""


# -- Xids --------------------------------------------------------------------------------------------------------------


def _after_start(entries, source, start):
    """Return pairs (entry, whether it came after the start)."""
    if not start or start.get("source") not in ("journal", "kmsg", "dmesg"):
        return [(entry, False) for entry in entries]
    if source != start["source"]:
        return [(entry, True) for entry in entries]  # nobody can tell: what may be new counts as new
    if source == "dmesg":
        lines, mark = [entry.message for entry in entries], start.get("lines") or []
        places = [n for n in range(len(lines)) if lines[n : n + len(mark)] == mark]
        # Without its mark the buffer was overwritten or emptied since: everything in it is new.
        first = places[0] + len(mark) if mark and places else 0
        return [(entry, number >= first) for number, entry in enumerate(entries)]
    answer = []
    for entry in entries:
        same_boot = start.get("boot_id") in (None, entry.boot or _plain(_boot_id()))
        later = entry.order is None or entry.order > (start.get("order") or 0)
        # Messages of the same microsecond as the start's: new, unless it is the start itself.
        level = source == "journal" and entry.order == start.get("order") and entry.cursor != start.get("cursor")
        answer.append((entry, (later or level) if same_boot else True))
    return answer


def _rows(pairs, boot):
    """Return the descriptions of the Xids among messages.

    :param pairs: of an entry and whether it came after the start
    :param boot: id of the present boot
    """
    rows, who = [], None
    for entry, after_start in pairs:
        match, named = XID.search(entry.message), FALLEN_WHO.search(entry.message)
        who = named or who
        if match:
            rows.append(_row(entry, after_start, boot, int(match.group(2)), match.group(1), match.group(3), match))
        elif FALLEN.search(entry.message):
            rows.append(_row(entry, after_start, boot, FALLEN_XID, who.group(1) if who else "", "", named))
            who = None
    return rows


def _row(entry, after_start, boot, number, place, more, match):
    """Return the description of one Xid.

    :param place: the GPU's address as the driver wrote it
    :param more: what follows the number
    :param match: where in the message the report begins; None for its beginning
    """
    process = PROCESS.match(more)
    this_boot = entry.boot is None or entry.boot == boot
    name = process.group(2) if process else None
    return {
        "xid": number,
        "bdf": _address(ADDRESS.match(place.strip())),
        "pid": int(process.group(1)) if process and process.group(1).isdigit() else None,
        "process": gates.text(name, 64) if name and name not in ("<unknown>", "'<unknown>'") else None,
        "text": gates.text(entry.message[match.start() if match else 0 :], 300),
        "this_boot": this_boot,
        "cursor": entry.cursor,
        "time": _time(entry.time_us),
        # Another boot than the present one cannot lie behind a start in this one.
        "after_start": bool(after_start and this_boot),
    }


def _newest(rows):
    """Return the newest Xids, and of those that fall out one for every number and GPU."""
    if len(rows) <= MOST:
        return rows
    old, new = rows[: len(rows) - MOST], rows[len(rows) - MOST :]
    kept = {}
    for row in old:
        kept[row["xid"], row["bdf"], row["this_boot"], row["after_start"]] = row
    return sorted(kept.values(), key=old.index) + new


def _address(match):
    """Return a PCI address as sysfs writes it."""
    if match is None:
        return None
    domain, bus, device, function = match.groups()
    return "%04x:%s:%s.%s" % (int(domain, 16), bus.lower(), device.lower(), (function or "0").lower())


def _plain(boot_id):
    """Return a boot's id as the journal writes it: without dashes."""
    return str(boot_id or "").replace("-", "").strip().lower() or None


def _boot_id():
    try:
        with open(BOOT_ID, encoding="ascii") as stream:
            return stream.read()
    except OSError:
        return ""


def _number(words):
    return int(words) if isinstance(words, str) and words.isdigit() and len(words) < 20 else None


def _time(microseconds):
    if microseconds is None or microseconds > 4e15:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(microseconds // 1000000))
