# SPDX-License-Identifier: Apache-2.0
"""One validation at a time on a host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

import files
import gates


class Refused(Exception):
    """Another validation is running; the message says which."""


@contextlib.contextmanager
def held(directory, wait=0.0):
    """Hold the lock of ``directory``. The kernel drops it with the process, however that ends.

    :param wait: seconds to wait for another validation that holds it
    :raises Refused: when another validation holds it
    :raises OSError: when the lock's file cannot be opened
    """
    with open(os.path.join(directory, "lock"), "a+", encoding="utf-8") as stream:
        if not _taken(stream, wait):
            stream.seek(0)
            holder = gates.text(stream.read(200)) or "unknown process"
            raise Refused("another validation is running on this host (%s)" % holder)
        with contextlib.suppress(OSError):  # who holds it is for people; on a full disk they do without
            stream.truncate(0)
            stream.write("pid %d since %s" % (os.getpid(), files.now()))
            stream.flush()
        yield


def _taken(stream, wait):
    """Try to take the lock for some seconds; tell whether it is ours."""
    end = time.monotonic() + wait
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.3)
