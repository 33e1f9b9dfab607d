#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Print a digest of what is installed below an interpreter: its real place, its packages, its libraries.

    python3 environment.py /opt/gpulab/envs/torch/bin/python

Names, sizes and times of the packages' lists and of the shared libraries; nothing is read and nothing is started. A
process of its own, because a path on a network file system that does not answer would hold whoever looks at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys


def main():
    python = sys.argv[1]
    prefix = os.path.dirname(os.path.dirname(python))
    found = [os.path.realpath(python), stamp(python)]
    for library in sorted(entry for entry in names(prefix) if entry.startswith("lib")):
        directory = os.path.join(prefix, library)
        found += [[name, stamp(os.path.join(directory, name))] for name in names(directory) if ".so" in name]
        for version in names(directory):
            if version.startswith("python3"):
                found += packages(os.path.join(directory, version, "site-packages"))
    print(hashlib.sha256(json.dumps(found).encode("utf-8", "surrogateescape")).hexdigest())


def packages(directory):
    """Return the packages' lists and the shared libraries below a directory, each with size and time."""
    answer = []
    for folder, folders, found in os.walk(directory):
        folders.sort()
        folders[:] = [name for name in folders if name != "__pycache__"]
        lists = folder.endswith(".dist-info")
        if lists:
            answer.append([os.path.relpath(folder, directory), None])
        for name in sorted(found):
            if ".so" in name or (lists and name == "RECORD"):
                path = os.path.join(folder, name)
                answer.append([os.path.relpath(path, directory), stamp(path)])
    return answer


def names(directory):
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def stamp(path):
    """Return size and time of a file, or the reason why they cannot be had."""
    try:
        status = os.stat(path)
    except OSError as error:
        return error.strerror
    return [status.st_size, status.st_mtime_ns]


if __name__ == "__main__":
    main()
