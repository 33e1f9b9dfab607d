# SPDX-License-Identifier: Apache-2.0
"""Run a process within a time limit, whatever the process does.

``subprocess.run(timeout=...)`` waits for ever for a process that cannot be killed (one that hangs in a driver, say).
Here output goes to a file instead of a pipe, every wait is bounded, and a process that survives KILL is abandoned.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import time

#: Seconds to wait after TERM and after KILL.
GRACE = 10.0
TAIL_BYTES = 4000
PR_SET_PDEATHSIG = 1

#: How a process ended. ``state``: finished, timeout (ended by TERM or KILL), abandoned (survived both) or not_started;
#: ``code``: exit status, negative for a signal, None unless finished; ``seconds``; ``tail``: the end of its output.
Outcome = collections.namedtuple("Outcome", "state code seconds tail")


class User:
    """Whom a process runs as."""

    def __init__(self, name):
        """:raises KeyError: when there is no such user"""
        entry = pwd.getpwnam(name)
        self.name, self.uid, self.gid = name, entry.pw_uid, entry.pw_gid
        self.groups = os.getgrouplist(name, entry.pw_gid)


def run(command, environment, directory, log_path, timeout, user=None, grace=None):
    """Run a command to its end or to its time limit.

    :param command: the program and its arguments
    :param environment: the complete environment
    :param directory: where it runs
    :param log_path: file that receives its output; appended to
    :param timeout: seconds
    :param user: the User it runs as; None for our own
    :param grace: seconds to wait after TERM and after KILL; None for GRACE
    :returns: an Outcome; this function never waits longer than ``timeout`` and twice ``grace``
    """
    libc = ctypes.CDLL(None)

    def become():
        if user is not None:
            os.setgroups(user.groups)
            os.setgid(user.gid)
            os.setuid(user.uid)
        os.umask(0o022)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a validator that is killed leaves no job behind

    grace = GRACE if grace is None else grace
    started = time.monotonic()
    with open(log_path, "ab") as log:
        try:
            process = subprocess.Popen(
                command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=become,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            who = " by user %s" % user.name if user is not None else ""
            if user is not None and isinstance(error, PermissionError):
                reason += ": let that user read it and its directories, or name another one in validation_user"
            return Outcome("not_started", None, 0.0, "%s cannot be started%s: %s" % (command[0], who, reason))
    state = "finished"
    try:
        if not _ends_within(process, timeout):
            state = _end(process, grace)
    except BaseException:
        _end(process, grace)  # we are being interrupted: take the job with us
        raise
    else:
        _signal_group(process, signal.SIGKILL)  # helpers that the job left behind
    code = process.returncode if state == "finished" else None
    return Outcome(state, code, time.monotonic() - started, tail(log_path))


def _end(process, grace):
    """End a process and its group: politely, then not. Return "timeout", or "abandoned" when it cannot be ended."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        _signal_group(process, signal_number)
        if _ends_within(process, grace):
            _signal_group(process, signal.SIGKILL)
            return "timeout"
    return "abandoned"


def _ends_within(process, seconds):
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal_group(process, signal_number):
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal_number)


def tail(path):
    """Return the last lines of a log as text, whatever bytes are in it."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(path) - TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
