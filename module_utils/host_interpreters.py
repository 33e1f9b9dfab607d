# SPDX-License-Identifier: Apache-2.0
"""The Python interpreters of a host."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import re
import sys

from ansible.module_utils.host_files import Command

_ASK = """
import importlib.util, json, os, sys
print(json.dumps(dict(
    path=os.path.realpath(sys.executable), version="%d.%d.%d" % sys.version_info[:3],
    minor="%d.%d" % sys.version_info[:2], venv=importlib.util.find_spec("ensurepip") is not None)))
"""


class Interpreters:
    """Asks all interpreters at once, each of them once, however many names it has."""

    def __init__(self, base_dir, scope):
        self.scope = scope
        self.asked = {}
        for path in _candidates(base_dir, scope):
            real = os.path.realpath(path)
            if real not in self.asked and re.search(r"python3(\.\d+)?$", path) and os.access(path, os.X_OK):
                self.asked[real] = None if _is_ours(real) else Command([path, "-I", "-S", "-c", _ASK])

    def rows(self):
        """List them, the host's default first. In system scope only those that all users can run are usable."""
        found = {}
        for real, command in self.asked.items():
            row = _ourselves(real) if command is None else _read(command.output())
            if row is not None:
                row["usable"] = self.scope == "user" or readable_by_all(row["path"])
                found.setdefault(row["path"], row)
        return list(found.values())


def _candidates(base_dir, scope):
    directories = ["/usr/bin", "/usr/local/bin"]
    if scope == "user":
        directories += [path for path in os.environ.get("PATH", "").split(os.pathsep) if path not in directories]
    candidates = ["/usr/bin/python3"]
    for directory in directories:
        candidates += sorted(glob.glob(os.path.join(directory, "python3.[0-9]*")), key=_version, reverse=True)
    managed = os.path.join(base_dir, "tools", "python", "*", "bin", "python3.[0-9]*")
    return candidates + sorted(glob.glob(managed), key=_version, reverse=True)


def _is_ours(path):
    return bool(sys.executable) and path == os.path.realpath(sys.executable)


def _ourselves(path):
    """Return the row of the interpreter that runs this, which nobody needs to start again to ask."""
    return dict(
        path=path,
        version="%d.%d.%d" % sys.version_info[:3],
        minor="%d.%d" % sys.version_info[:2],
        venv=importlib.util.find_spec("ensurepip") is not None,
    )


def _read(answer):
    try:
        row = json.loads(answer or "")
    except ValueError:  # something that is called python3.N and is none
        return None
    return row if isinstance(row, dict) and "path" in row else None


def _version(path):
    """Return the numbers in a program's name, so that python3.12 comes after python3.9."""
    return [int(number) for number in re.findall(r"\d+", os.path.basename(path))]


def readable_by_all(path):
    """Tell whether every user may reach and run ``path``."""
    if os.stat(path).st_mode & 5 != 5:
        return False
    directory = os.path.dirname(path)
    while directory != os.path.dirname(directory):
        if not os.stat(directory).st_mode & 0o001:
            return False
        directory = os.path.dirname(directory)
    return True
