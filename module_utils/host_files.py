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
import stat
import subprocess
import tempfile
import time

#: Bounds every command that is run, in seconds.
COMMAND_TIMEOUT = 10
#: Errors that say that there is no such file.
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
#: Of a file that a person or another program wrote nobody knows how large it is: beyond this it is not read.
SMALL = 256 * 1024
#: JSON that is nested deeper than this is nobody's note; whoever walks through it afterwards might not come back.
_DEEPEST = 40


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
            except (OSError, ValueError):  # not a link, or nothing at all: then opening it says so
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
        except (OSError, ValueError) as error:
            self._closed(relative, key, error)
            return None

    def _closed(self, relative, key, error):
        """Keep the reason why something cannot be read. ValueError: a name that no file system can hold."""
        if getattr(error, "errno", None) not in ABSENT:
            self.unknown[key or relative] = f"/{relative}: {getattr(error, 'strerror', None) or error}"

    def text(self, relative, key=None):
        """Return the stripped text of a file, or None, as ``data`` does."""
        content = self.data(relative, key)
        return None if content is None else content.decode("utf-8", "replace").strip()

    def small(self, relative, key=None, limit=SMALL):
        """Return the bytes of a plain file of a bounded size, as ``data`` does. A pipe of that name holds nobody up."""
        try:
            with open(self.path(relative), "rb", opener=_without_waiting) as stream:
                plain = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
                content = stream.read(limit + 1) if plain else b""
        except (OSError, ValueError) as error:
            self._closed(relative, key, error)
            return None
        if plain and len(content) <= limit:
            return content
        reason = f"is larger than {limit} bytes" if plain else "is no plain file"
        self.unknown[key or relative] = f"/{relative} {reason}"
        return None

    def mapping(self, relative, key=None, limit=SMALL):
        """Return the mapping that a JSON file holds, None where it is not there or holds none, which is then said."""
        content = self.small(relative, key, limit)
        return None if content is None else self.parsed(content, relative, key)

    def parsed(self, content, relative, key=None):
        """Return the mapping in the content of a file, or None, as ``mapping`` does."""
        try:
            value = json.loads(content.decode("utf-8", "replace"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            reason = f"is not JSON: {error}"
        else:
            if isinstance(value, dict) and not _too_deep(value):
                return value
            reason = "is nested too deeply" if isinstance(value, dict) else "holds no mapping"
        self.unknown[key or relative] = f"/{relative} {reason}"
        return None

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
        except (OSError, ValueError) as error:
            self._closed(relative, key, error)
            return []

    def exists(self, relative):
        """Tell whether there is something of this name, links followed."""
        return os.path.exists(self.path(relative))

    def present(self, relative):
        """Tell whether there is something of this name, and be it a link that leads nowhere."""
        directory, name = os.path.split(relative)
        return os.path.lexists(os.path.join(self.path(directory), name))

    def is_dir(self, relative):
        """Tell whether there is a directory of this name, links followed."""
        return os.path.isdir(self.path(relative))

    def link(self, relative):
        """Return what a link says, unfollowed, or None where it is none."""
        directory, name = os.path.split(relative)
        try:
            return os.readlink(os.path.join(self.path(directory), name))
        except (OSError, ValueError):
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


def _without_waiting(path, flags):
    return os.open(path, flags | os.O_NONBLOCK)


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON")


def _too_deep(value):
    layer = [value]
    for _level in range(_DEEPEST):
        nested = [row.values() if isinstance(row, dict) else row for row in layer if isinstance(row, (dict, list))]
        layer = [row for rows in nested for row in rows]
        if not layer:
            return False
    return True


def printable(value):
    """Return facts as JSON in UTF-8 can carry them: a name on a disk may be any bytes."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return value
    if isinstance(value, dict):
        return {printable(key): printable(row) for key, row in value.items()}
    return [printable(row) for row in value] if isinstance(value, list) else value


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
