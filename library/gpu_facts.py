#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What a host is, in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_facts
author: gpulab contributors
version_added: "0.1.0"
short_description: gather everything that plan, change and validation need from a host
description:
  - Reads operating system, C library, privileges, interpreters, NVIDIA and other GPUs on the PCI bus, the loaded
    driver, free disk space, tools and environments of this project.
  - Needs no driver, no lspci and no root. Standard library only. Changes nothing.
  - What cannot be read is null, and C(unknown) says why.
options:
  root:
    description:
      - Directory that stands for C(/) when C(/sys), C(/proc) and C(/etc) are read. Anything but C(/) marks the facts as
        simulated.
    type: path
    default: /
  scope:
    description:
      - V(system) is for all users of the host and needs root, V(user) lies below the user's data directory.
      - V(auto) is V(system) with root, with sudo that asks for no password, or where O(become_password_given) is true.
    type: str
    choices: [auto, system, user]
    default: auto
  become_password_given:
    description: whether Ansible was given a password to become root with.
    type: bool
    default: false
  base_dir:
    description: where this project keeps its files in system scope.
    type: path
    default: /opt/gpulab
  user_base_dir:
    description: the same in user scope; empty means C(gpulab) below the user's data directory (XDG_DATA_HOME).
    type: str
    default: ""
attributes:
  check_mode: {support: full, description: Changes nothing.}
"""

EXAMPLES = r"""
- name: Gather facts
  gpu_facts:
"""

RETURN = r"""
ansible_facts:
  description: the facts, below the key C(gpu_facts).
  returned: always
  type: dict
  contains:
    gpu_facts:
      description: see docs/facts.md for every key.
      type: dict
"""

import glob
import json
import os
import platform
import pwd
import re
import shutil
import subprocess

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.environment_store import describe_all, free_bytes

NVIDIA = "0x10de"
#: PCI vendors that make GPUs for computing; a server's display chip (ASPEED, Matrox, QEMU) is none.
OTHER_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}
#: Bounds every command that is run here, in seconds.
COMMAND_TIMEOUT = 10


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            scope=dict(type="str", choices=["auto", "system", "user"], default="auto"),
            become_password_given=dict(type="bool", default=False, no_log=False),
            base_dir=dict(type="path", default="/opt/gpulab"),
            user_base_dir=dict(type="str", default=""),
        ),
        supports_check_mode=True,
    )
    for option in ("base_dir", "user_base_dir"):
        if module.params[option] and not os.path.isabs(os.path.expanduser(module.params[option])):
            variable = {"base_dir": "gpulab_base_dir", "user_base_dir": "gpulab_user_base_dir"}[option]
            module.fail_json(
                msg=f"{variable} is '{module.params[option]}'; write an absolute path, which begins with /"
            )
    module.exit_json(changed=False, ansible_facts={"gpu_facts": Host(module.params).facts()})


class Host:
    """One host, read through ``root``. Every reader that fails leaves its reason in ``unknown``."""

    def __init__(self, params):
        self.params = params
        self.root = params["root"]
        self.unknown = {}

    def facts(self):
        privilege = self.privilege()
        scope = self.params["scope"]
        if scope == "auto":
            scope = "system" if privilege["root"] else "user"
        base_dir = self.params["base_dir"] if scope == "system" else self.user_base_dir()
        gpus, other_gpus, nvswitches = self.gpus()
        return dict(
            schema=1,
            simulated=self.root != "/",
            os=self.operating_system(),
            arch=platform.machine(),
            kernel=platform.release(),
            glibc=self.glibc(),
            boot_id=self.text("proc/sys/kernel/random/boot_id"),
            privilege=privilege,
            scope=scope,
            base_dir=base_dir,
            pythons=self.pythons(base_dir, scope),
            gpus=gpus,
            other_gpus=other_gpus,
            nvswitches=nvswitches,
            secure_boot=self.secure_boot(),
            driver=self.driver(),
            disk={path: free_bytes(path) for path in (base_dir, "/tmp")},
            tools=self.tools(base_dir),
            environments=describe_all(base_dir),
            unknown=self.unknown,
        )

    def path(self, relative):
        return os.path.join(self.root, relative)

    def text(self, relative):
        """Return the stripped text of a small file below ``root``, or None with the reason kept."""
        try:
            with open(self.path(relative), encoding="utf-8", errors="replace") as stream:
                return stream.read().strip()
        except OSError as error:
            self.unknown[relative] = error.strerror or str(error)
            return None

    def operating_system(self):
        """Return id, version and family from os-release."""
        fields = {}
        for line in (self.text("etc/os-release") or "").splitlines():
            key, separator, value = line.partition("=")
            if separator:
                fields[key] = value.strip().strip("\"'")
        words = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
        family = next((name for name in ("debian", "rhel") if name in words), None)
        if family is None and ("fedora" in words or "centos" in words):
            family = "rhel"
        return dict(
            id=fields.get("ID"),
            version=fields.get("VERSION_ID"),
            name=fields.get("PRETTY_NAME"),
            family=family,
        )

    def glibc(self):
        """Return the version of the GNU C library, or None (musl, for example)."""
        try:
            return os.confstr("CS_GNU_LIBC_VERSION").split()[-1]
        except (ValueError, OSError, AttributeError, IndexError):
            self.unknown["glibc"] = "this host's C library is not the GNU C library"
            return None

    def privilege(self):
        """Tell who we are and whether we may become root without asking a person."""
        uid = os.geteuid()
        try:
            name, home = pwd.getpwuid(uid).pw_name, pwd.getpwuid(uid).pw_dir
        except KeyError:  # a container's user, say, that the host knows by number alone
            name, home = str(uid), "/"
        if uid == 0:
            root, how = True, "connected as root"
        elif self.params["become_password_given"]:
            root, how = True, "sudo, with the password given to Ansible"
        elif not shutil.which("sudo"):
            root, how = False, "not root, and there is no sudo"
        elif self.run(["sudo", "-n", "true"]) is not None:
            root, how = True, "sudo without a password"
        else:
            root, how = False, "not root, and sudo asks for a password (give it with --ask-become-pass)"
        return dict(uid=uid, user=name, home=os.environ.get("HOME") or home, root=root, how=how)

    def user_base_dir(self):
        """Return the base directory in user scope, as the XDG base directory specification places data."""
        if self.params["user_base_dir"]:
            return os.path.expanduser(self.params["user_base_dir"])
        data = os.environ.get("XDG_DATA_HOME", "")
        return os.path.join(data if os.path.isabs(data) else os.path.expanduser("~/.local/share"), "gpulab")

    def run(self, command):
        """Run a short command; return its output, or None when it failed or took too long."""
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_TIMEOUT,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode("utf-8", "replace")

    def pythons(self, base_dir, scope):
        """List interpreters, the host's default first. In system scope only those that all users can run are usable."""
        directories = ["/usr/bin", "/usr/local/bin"]
        if scope == "user":
            directories += [path for path in os.environ.get("PATH", "").split(os.pathsep) if path not in directories]
        candidates = ["/usr/bin/python3"]
        for directory in directories:
            candidates += sorted(glob.glob(os.path.join(directory, "python3.[0-9]*")), key=_version, reverse=True)
        managed = os.path.join(base_dir, "tools", "python", "*", "bin", "python3.[0-9]*")
        candidates += sorted(glob.glob(managed), key=_version, reverse=True)
        found = {}
        for path in candidates:
            if not re.search(r"python3(\.\d+)?$", path) or not os.access(path, os.X_OK):
                continue
            answer = self.run([path, "-I", "-S", "-c", _ASK_PYTHON])
            if answer is None:
                continue
            try:
                row = json.loads(answer)
            except ValueError:  # something that is called python3.N and is none
                continue
            row["usable"] = scope == "user" or _readable_by_all(row["path"])
            found.setdefault(row["path"], row)
        return list(found.values())

    def gpus(self):
        """Return NVIDIA's GPUs, those of other vendors, and NVIDIA's bridges (NVSwitch is one) from PCI; the first is
        None where the bus cannot be read."""
        if os.path.isdir(self.path("sys/bus")) and not os.path.isdir(self.path("sys/bus/pci")):
            return [], [], []  # the kernel is there to ask, and it knows of no PCI bus
        try:
            addresses = sorted(os.listdir(self.path("sys/bus/pci/devices")))
        except OSError as error:
            self.unknown["gpus"] = f"/sys/bus/pci/devices: {error.strerror}"
            return None, [], []
        ours, others, bridges = [], [], []
        for address in addresses:
            device = {key: self.text(f"sys/bus/pci/devices/{address}/{key}") for key in ("vendor", "device", "class")}
            if device["vendor"] == NVIDIA and (device["class"] or "").startswith("0x0680"):
                bridges.append(dict(bus=address, vendor=device["vendor"], device=device["device"]))
            # Class 03 is a display controller: 0300 VGA, 0302 3D controller, 0380 other.
            if not (device["class"] or "").startswith("0x03"):
                continue
            row = dict(bus=address, vendor=device["vendor"], device=device["device"])
            if device["vendor"] == NVIDIA:
                ours.append(row)
            elif device["vendor"] in OTHER_VENDORS:
                others.append(dict(row, name="{} {}".format(OTHER_VENDORS[device["vendor"]], device["device"])))
        return ours, others, bridges

    def secure_boot(self):
        """Tell whether Secure Boot is on; False without UEFI, None where the variable cannot be read."""
        if not os.path.isdir(self.path("sys/firmware/efi")):
            return False
        name = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        try:
            with open(self.path(name), "rb") as stream:
                return stream.read()[4:5] == b"\x01"  # four bytes of attributes come first
        except OSError as error:
            self.unknown["secure_boot"] = f"/{name}: {error.strerror}"
            return None

    def driver(self):
        """Return version and flavour of the loaded NVIDIA kernel module, or None with the reason."""
        version = self.text("sys/module/nvidia/version")
        told = self.text("proc/driver/nvidia/version") if version else None
        # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  ..."; the other flavour says "x86_64
        # Kernel Module".
        module = None if not told else "open" if "Open Kernel Module" in told else "proprietary"
        return dict(
            loaded_version=version,
            module=module,
            reason=None if version else "the kernel module nvidia is not loaded",
        )

    def tools(self, base_dir):
        """List the tools that this project keeps on the host: ``["uv-0.13.9"]``."""
        try:
            return sorted(os.listdir(os.path.join(base_dir, "tools")))
        except OSError:
            return []


_ASK_PYTHON = """
import importlib.util, json, os, sys
print(json.dumps(dict(
    path=os.path.realpath(sys.executable), version="%d.%d.%d" % sys.version_info[:3],
    minor="%d.%d" % sys.version_info[:2], venv=importlib.util.find_spec("ensurepip") is not None)))
"""


def _version(path):
    """Return the numbers in a program's name, so that python3.12 comes after python3.9."""
    return [int(number) for number in re.findall(r"\d+", os.path.basename(path))]


def _readable_by_all(path):
    """Tell whether every user may reach and run ``path``."""
    if os.stat(path).st_mode & 5 != 5:
        return False
    directory = os.path.dirname(path)
    while directory != os.path.dirname(directory):
        if not os.stat(directory).st_mode & 0o001:
            return False
        directory = os.path.dirname(directory)
    return True


if __name__ == "__main__":
    main()
