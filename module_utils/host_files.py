# SPDX-License-Identifier: Apache-2.0
"""Reading a host below a root directory: files, links, and commands that can never hold the reader up.

Whoever reads leaves the reason for what could not be read in ``unknown``. Of a file that is simply not there nothing is
said, because its absence is an answer; of one that is there and closed to us, the reason is kept.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import json
import os
import re
import signal
import subprocess
import tempfile
import time

#: Bounds every command that is run, in seconds.
COMMAND_TIMEOUT = 10
#: Errors that say that there is no such file.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)


class HostFiles:
    """The files of one host, below ``root``. Relative names have no leading slash: ``etc/os-release``."""

    def __init__(self, root, unknown):
        self.root = root
        self.unknown = unknown

    def path(self, relative):
        """Return where a file lies, links followed as the host would follow them: never out of ``root``."""
        if self.root == "/":
            return os.path.join("/", relative)
        done, todo, links = [], relative.split("/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = done[:-1]
                continue
            try:
                target = os.readlink(os.path.join(self.root, *done, part))
            except OSError:  # not a link, or nothing at all: then opening it says so
                done.append(part)
                continue
            links += 1
            if links > 40:
                return os.path.join(self.root, relative)
            if target.startswith("/"):
                done = []
            todo += target.split("/")[::-1]
        return os.path.join(self.root, *done)

    def real(self, relative):
        """Return the host's own name of a file with every link followed: ``/usr/local/cuda-12.4``."""
        if self.root == "/":
            return os.path.realpath(os.path.join("/", relative))
        return "/" + os.path.relpath(self.path(relative), self.root)

    def data(self, relative, key=None):
        """Return the bytes of a file, None where it is not there, or is closed to us, which ``unknown`` then says."""
        try:
            with open(self.path(relative), "rb") as stream:
                return stream.read()
        except OSError as error:
            if error.errno not in ABSENT:
                self.unknown[key or relative] = f"/{relative}: {error.strerror or error}"
            return None

    def text(self, relative, key=None):
        """Return the stripped text of a file, or None, as ``data`` does."""
        content = self.data(relative, key)
        return None if content is None else content.decode("utf-8", "replace").strip()

    def needed(self, relative):
        """Return the stripped text of a file that every host has: its absence, too, is a reason to keep."""
        content = self.text(relative)
        if content is None:
            self.unknown.setdefault(relative, "No such file or directory")
        return content

    def names(self, relative, pattern="*", key=None):
        """List the names in a directory that match a pattern, sorted; none where there is no such directory."""
        try:
            return sorted(fnmatch.filter(os.listdir(self.path(relative)), pattern))
        except OSError as error:
            if error.errno not in ABSENT:
                self.unknown[key or relative] = f"/{relative}: {error.strerror or error}"
            return []

    def exists(self, relative):
        """Tell whether there is something of this name, links followed."""
        return os.path.exists(self.path(relative))

    def is_dir(self, relative):
        """Tell whether there is a directory of this name, links followed."""
        return os.path.isdir(self.path(relative))

    def link(self, relative):
        """Return what a link says, unfollowed, or None where it is none."""
        directory, name = os.path.split(relative)
        try:
            return os.readlink(os.path.join(self.path(directory), name))
        except OSError:
            return None

    def status(self, relative):
        """Return what stat tells of a file, links followed, or None."""
        try:
            return os.stat(self.path(relative))
        except OSError:
            return None

    def stamp(self, relative):
        """Return what tells one state of a file from another, ``{path, size, mtime_ns}``, or None."""
        status = self.status(relative)
        return status and dict(path="/" + relative, size=status.st_size, mtime_ns=status.st_mtime_ns)


class Command:
    """A command that runs beside us. One that takes too long, even one that cannot be killed, is left behind: its
    output goes to a file, so nothing here ever waits for it to close a pipe."""

    def __init__(self, words, seconds=None, new_session=True):
        self.deadline = time.monotonic() + (COMMAND_TIMEOUT if seconds is None else seconds)
        self.new_session = new_session
        self.process = None
        try:
            self.sink = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the command
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self.sink,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ, LC_ALL="C", PATH=search_path()),
                start_new_session=new_session,
            )
        except OSError:
            pass  # there is no such command; then it has no output

    def output(self):
        """Wait until the command is done; return its output, or None when it failed or took too long."""
        if self.process is None:
            return None
        try:
            status = self.process.wait(max(0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(self.process.pid, self.new_session)
            return None
        if status != 0:
            return None
        self.sink.seek(0)
        return self.sink.read().decode("utf-8", "replace")


class Child:
    """A function that runs in a process of its own, because the kernel may hold up whoever asks what it asks."""

    def __init__(self, function, seconds):
        self.deadline = time.monotonic() + seconds
        self.sink = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        self.pid = os.fork()
        if self.pid == 0:
            self._work(function)

    def _work(self, function):
        status = 1
        try:
            # Whoever waits for our output to end must not wait for a child that was left behind.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            self.sink.write(json.dumps(function()).encode("utf-8"))
            self.sink.flush()
            status = 0
        finally:
            os._exit(status)

    def answer(self):
        """Return what the function returned, or None when it failed or took too long."""
        pause = 0.0005
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > self.deadline:
                _kill(self.pid, False)
                return None
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        if status != 0:
            return None
        self.sink.seek(0)
        return json.loads(self.sink.read().decode("utf-8"))


def _kill(pid, group):
    with contextlib.suppress(OSError):  # it may not be ours any more, as a command that became root
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def search_path():
    """Return PATH with the directories of administrators' commands, which a user's own lacks on some systems."""
    words = [word for word in os.environ.get("PATH", "").split(os.pathsep) if word]
    return os.pathsep.join(words + [word for word in ("/usr/sbin", "/sbin", "/usr/bin", "/bin") if word not in words])


def version_key(text):
    """Return a key that sorts versions as their makers mean them: 6.8.0-9 before 6.8.0-45, a candidate before all."""
    text = re.sub(r"[-_~]?(rc)(?=\d)", r"~\1", text)
    return [
        (2, int(word), "") if word.isdecimal() else (0 if word.startswith("~") else 1, 0, word)
        for word in re.findall(r"\d+|~?[^\d~]+|~", text)
    ] + [(0.5, 0, "")]
