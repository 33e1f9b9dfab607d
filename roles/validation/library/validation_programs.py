#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Put the validation programs and their settings on a host, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validation_programs
author: gpulab contributors
version_added: "0.1.0"
short_description: put the validation programs and their settings on a host
description:
  - Writes the programs and the settings that differ, removes programs of earlier versions, and tells what the next
    tasks need to know about the host. One round trip, where M(ansible.builtin.copy) would make one for each file.
options:
  base_dir:
    description: where this project keeps its files on the host.
    type: path
    required: true
  files:
    description: the content of each program by its path below the directory of the programs.
    type: dict
    required: true
  config:
    description: the settings of the validator.
    type: dict
    required: true
attributes:
  check_mode: {support: full, description: Tells what would be written.}
"""

EXAMPLES = r"""
- name: Install the validation programs
  validation_programs:
    base_dir: /opt/gpulab
    files: {validate.py: "print('hello')"}
    config: {base_dir: /opt/gpulab}
"""

RETURN = r"""
written:
  description: files that were written or removed, below the directory C(validation).
  returned: always
  type: list
  elements: str
user_missing:
  description: whether the jobs' user has to be made first, because we are root and it does not exist.
  returned: always
  type: bool
mnist_missing:
  description: files of MNIST that the cache does not hold, or not as they should be.
  returned: always
  type: list
  elements: str
"""

import hashlib
import json
import os
import pwd

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(
        argument_spec=dict(
            base_dir=dict(type="path", required=True),
            files=dict(type="dict", required=True),
            config=dict(type="dict", required=True),
        ),
        supports_check_mode=True,
    )
    base_dir, config = module.params["base_dir"], module.params["config"]
    directory = os.path.join(base_dir, "validation")
    programs = os.path.join(directory, "programs")
    wanted = {os.path.join("programs", name): text for name, text in module.params["files"].items()}
    wanted["config.json"] = json.dumps(config, indent=1, sort_keys=True) + "\n"
    try:
        stale = [
            os.path.join("programs", name) for name in present(programs) if os.path.join("programs", name) not in wanted
        ]
        written = [name for name in sorted(wanted) if differs(os.path.join(directory, name), wanted[name])]
        if not module.check_mode:
            for name in written:
                write(os.path.join(directory, name), wanted[name])
            for name in stale:
                os.unlink(os.path.join(directory, name))
    except OSError as error:
        module.fail_json(
            msg="the validation programs cannot be written to %s: %s" % (error.filename or directory, error.strerror),
            invocation={},
        )
    module.exit_json(
        changed=bool(written or stale),
        written=written + stale,
        user_missing=os.geteuid() == 0 and bool(config.get("user")) and not user_exists(config["user"]),
        mnist_missing=mnist_missing(base_dir, module.params["files"]),
        invocation={},  # would repeat the content of all programs
    )


def present(programs):
    """List the files below the directory of the programs, as paths relative to it."""
    return [
        os.path.relpath(os.path.join(folder, name), programs)
        for folder, _, names in os.walk(programs)
        for name in names
    ]


def differs(path, text):
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read() != text or os.stat(path).st_mode & 0o777 != 0o644
    except (OSError, ValueError):
        return True


def write(path, text):
    """Write a file that all users may read, completely or not at all."""
    make_directory(os.path.dirname(path))
    temporary = "%s.%d.part" % (path, os.getpid())
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def make_directory(path):
    """Make a directory and its parents so that all users may enter them, whatever the umask is."""
    if not os.path.isdir(path):
        make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


def user_exists(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def mnist_missing(base_dir, programs):
    """List the files of MNIST that are not in the cache as the table has them."""
    table = json.loads(programs["thresholds.json"])["datasets"]["mnist"]["files"]
    missing = []
    for name, entry in table.items():
        try:
            with open(os.path.join(base_dir, "cache", "mnist", name), "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
        except OSError:
            digest = None
        if digest != entry["sha256"]:
            missing.append(name)
    return missing


if __name__ == "__main__":
    main()
