#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Put the validation programs and their settings on a host, in one round trip where they are there already."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validation_programs
author: gpulab contributors
version_added: "0.1.0"
short_description: put the validation programs and their settings on a host
description:
  - Writes the programs and the settings that differ, removes programs of earlier versions, and tells what the next
    tasks need to know about the host.
  - The action plugin of the same name reads the programs on the control node and fills in O(digests), O(contents) and
    O(mnist). It calls the module with digests alone first; where the module answers with RV(wanted), it calls it again
    with the content of these files. A host that has all programs is asked once.
  - Waits for a validation that is running before it changes anything under it.
options:
  base_dir:
    description: where this project keeps its files on the host.
    type: path
    required: true
  source:
    description: directory of the programs on the control node; for the action plugin.
    type: path
  config:
    description: the settings of the validator.
    type: dict
    required: true
  units:
    description:
      - the content of each unit of the nightly timer by its name; without any there is to be no timer. They are
        compared here and written by the tasks.
    type: dict
    default: {}
  digests:
    description: the SHA-256 of each program by its path below the directory of the programs.
    type: dict
    required: true
  contents:
    description: the content of the programs that differ.
    type: dict
    default: {}
  mnist:
    description: the SHA-256 of each original file of MNIST by its name.
    type: dict
    default: {}
attributes:
  check_mode: {support: full, description: Tells what would be written.}
"""

EXAMPLES = r"""
- name: Install the validation programs
  validation_programs:
    base_dir: /opt/gpulab
    source: "{{ role_path }}/files/gpulab_validation"
    config: {base_dir: /opt/gpulab}
"""

RETURN = r"""
wanted:
  description: programs that differ and whose content was not given; then nothing was written.
  returned: always
  type: list
  elements: str
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
timer:
  description: what has to be done about the nightly timer.
  returned: always
  type: dict
  contains:
    possible: {description: whether we are root and systemd runs the host., type: bool}
    write: {description: units that are not there as they should be., type: list, elements: str}
    remove: {description: units that should not be there., type: list, elements: str}
    start: {description: whether the timer has to be enabled or started., type: bool}
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

UNITS = "/etc/systemd/system"
SERVICE, TIMER = "gpulab-validation.service", "gpulab-validation.timer"
#: Exists where systemd runs the host.
SYSTEMD = "/run/systemd/system"
#: Seconds for a validation that is running to end: one of the tiers that only look takes less.
LOCK_TIMEOUT = 180
#: Seconds for systemctl to answer.
ASK_TIMEOUT = 20
METRICS = "gpulab.prom"


class Busy(Exception):
    """Another validation is running and does not end."""


def main():
    module = AnsibleModule(
        argument_spec=dict(
            base_dir=dict(type="path", required=True),
            config=dict(type="dict", required=True),
            units=dict(type="dict", default={}),
            digests=dict(type="dict", required=True),
            contents=dict(type="dict", default={}),
            mnist=dict(type="dict", default={}),
        ),
        supports_check_mode=True,
        no_log=True,  # the system's log is no place for programs
    )
    params = module.params
    directory = os.path.join(params["base_dir"], "validation")
    programs = Programs(directory, params["digests"], params["contents"], params["config"])
    what = "the validation programs cannot be written to"
    try:
        ready = not (programs.wanted or module.check_mode)
        if ready and programs.changes:
            make_directory(directory)
            with held(directory):
                programs.write()
        what = "the directory of the metrics cannot be set up in"
        metrics = metrics_directory(programs.earlier, params["config"], write=ready)
        timer = timer_state(params["units"])
        mnist = mnist_missing(params["base_dir"], params["mnist"])
    except Busy as error:
        module.fail_json(msg=str(error), invocation={})
    except OSError as error:
        module.fail_json(msg="%s %s: %s" % (what, error.filename or directory, error.strerror), invocation={})
    user = params["config"].get("user")
    module.exit_json(
        changed=bool(programs.changes or metrics),
        wanted=programs.wanted,
        written=programs.changes + metrics,
        user_missing=os.geteuid() == 0 and bool(user) and not user_exists(user),
        mnist_missing=mnist,
        timer=timer,
        invocation={},  # would repeat the content of all programs
    )


class Programs:
    """The programs and the settings below one directory, compared with what should be there.

    :param digests: SHA-256 of each program by its path below the directory of the programs
    :param contents: the text of those that are to be written
    """

    def __init__(self, directory, digests, contents, config):
        self.directory, self.contents = directory, contents
        self.config = json.dumps(config, indent=1, sort_keys=True) + "\n"
        self.earlier = self._earlier_config()
        there = [os.path.join("programs", name) for name in present(os.path.join(directory, "programs"))]
        wanted = {os.path.join("programs", name): digest for name, digest in digests.items()}
        self.differing = [name for name in sorted(wanted) if self._differs(name, wanted[name])]
        self.stale = sorted(name for name in there if name not in wanted)
        settings_differ = self._differs("config.json", hashlib.sha256(self.config.encode("utf-8")).hexdigest())
        self.changes = (["config.json"] if settings_differ else []) + self.differing + self.stale
        names = [os.path.relpath(name, "programs") for name in self.differing]
        self.wanted = [name for name in names if name not in contents]

    def write(self):
        """Write what differs and remove what is of an earlier version. The settings come last: they name what is new.

        :raises OSError: when a file cannot be written
        """
        for name in self.differing:
            write(os.path.join(self.directory, name), self.contents[os.path.relpath(name, "programs")])
        for name in self.stale:
            os.unlink(os.path.join(self.directory, name))
        if "config.json" in self.changes:
            write(os.path.join(self.directory, "config.json"), self.config)

    def _differs(self, name, digest):
        path = os.path.join(self.directory, name)
        try:
            with open(path, "rb") as stream:
                content = stream.read()
            return hashlib.sha256(content).hexdigest() != digest or os.stat(path).st_mode & 0o777 != 0o644
        except OSError:
            return True

    def _earlier_config(self):
        try:
            with open(os.path.join(self.directory, "config.json"), encoding="utf-8") as stream:
                earlier = json.load(stream)
        except (OSError, ValueError):
            return {}
        return earlier if isinstance(earlier, dict) else {}


def present(programs):
    """List the files below the directory of the programs, as paths relative to it."""
    return [
        os.path.relpath(os.path.join(folder, name), programs)
        for folder, _, names in os.walk(programs)
        for name in names
    ]


def write(path, text):
    """Write a file that all users may read, completely or not at all."""
    make_directory(os.path.dirname(path))
    temporary = "%s.%d.part" % (path, os.getpid())
    try:
        with open(temporary, "wb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(text.encode("utf-8"))
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


@contextlib.contextmanager
def held(directory):
    """Hold the validator's lock: its programs must not change while it runs.

    :raises Busy: when a validation has not ended within LOCK_TIMEOUT
    """
    deadline = time.monotonic() + LOCK_TIMEOUT
    with open(os.path.join(directory, "lock"), "a+", encoding="utf-8", errors="replace") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    stream.seek(0)
                    words = "a validation is running on this host (%s) and has not ended within %d seconds"
                    holder = " ".join(stream.read(200).split()) or "unknown process"
                    raise Busy((words + "; run again later") % (holder, LOCK_TIMEOUT)) from None
                time.sleep(0.3)
        yield


def metrics_directory(earlier, config, write):
    """Make the directory of the metrics where it is missing, and remove the metrics that no run will renew.

    :param earlier: the settings of before
    :param write: whether to do it; else only tell
    :returns: what was made or removed
    """
    wanted, before, done = config.get("textfile_dir") or "", earlier.get("textfile_dir") or "", []
    if wanted and not os.path.isdir(wanted):
        done.append(wanted)
        if write:
            make_directory(wanted)
    left = os.path.join(before, METRICS) if before and before != wanted else ""
    if left and os.path.lexists(left):
        done.append(left)
        if write:
            os.unlink(left)
    return done


def timer_state(units):
    """Compare the units of the nightly timer with those of the host."""
    possible = os.geteuid() == 0 and os.path.isdir(SYSTEMD)
    names = sorted({SERVICE, TIMER} | set(units))
    differing = [name for name in names if name in units and read(os.path.join(UNITS, name)) != units[name]]
    stale = [name for name in names if name not in units and os.path.lexists(os.path.join(UNITS, name))]
    start = bool(units) and possible and not (timer_says("is-enabled") and timer_says("is-active"))
    return {"possible": possible, "write": differing, "remove": stale if possible else [], "start": start}


def timer_says(question):
    """Ask systemctl about the timer; no answer within ASK_TIMEOUT counts as no."""
    command = ["systemctl", question, "--quiet", TIMER]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=ASK_TIMEOUT, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def read(path):
    """Return the text of a file, None where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return None


def user_exists(name):
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def mnist_missing(base_dir, files):
    """List the files of MNIST that are not in the cache as they should be.

    :param files: SHA-256 by name
    """
    missing = []
    for name, wanted in files.items():
        try:
            with open(os.path.join(base_dir, "cache", "mnist", name), "rb") as stream:
                digest = hashlib.sha256(stream.read()).hexdigest()
        except OSError:
            digest = None
        if digest != wanted:
            missing.append(name)
    return missing


if __name__ == "__main__":
    main()
