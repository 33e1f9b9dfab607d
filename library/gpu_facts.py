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
  - Reads operating system, kernels, privileges, interpreters, NVIDIA and other GPUs on the PCI bus, the driver that is
    loaded and the one that is installed, Secure Boot, nouveau, packages, services, CUDA, cuDNN, compilers, settings of
    the loader and of shells, who works on the GPUs, free disk space, and what this project keeps on the host.
  - Needs no driver, no lspci and no root; without root some things cannot be seen. Standard library only. Changes
    nothing. Never runs nvidia-smi, which hangs when the driver does, and waits for no command without a bound.
  - On the control node product and compute capability of each GPU are added from the tables of the engine.
  - What cannot be read is null, and C(unknown) says why.
options:
  root:
    description:
      - Directory that stands for C(/). Anything but C(/) marks the facts as simulated, and then no command is run that
        would speak of the real host, except for what O(scope) needs.
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
  again:
    description:
      - Look a second time at a host that has been looked at. Where it keeps its files and who logs in are taken over
        from the facts that are there; a task that runs as root by then would otherwise take root for that user.
    type: bool
    default: false
  privilege:
    description: C(privilege) of earlier facts; the action plugin hands it over for O(again).
    type: dict
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

import os
import platform
import pwd
import shutil

from ansible.module_utils import (
    host_boot,
    host_compilers,
    host_cuda,
    host_driver,
    host_kernels,
    host_loader,
    host_modules,
    host_packages,
    host_pci,
    host_shells,
    host_state,
    host_units,
)
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.environment_store import describe_all
from ansible.module_utils.host_busy import Busy
from ansible.module_utils.host_files import Command, HostFiles, printable
from ansible.module_utils.host_interpreters import Interpreters

SCHEMA = 2


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", default="/"),
            scope=dict(type="str", choices=["auto", "system", "user"], default="auto"),
            become_password_given=dict(type="bool", default=False, no_log=False),
            base_dir=dict(type="path", default="/opt/gpulab"),
            user_base_dir=dict(type="str", default=""),
            again=dict(type="bool", default=False),
            privilege=dict(type="dict"),
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
        self.unknown = {}
        self.files = HostFiles(params["root"], self.unknown)

    def facts(self):
        """Return all facts. What takes a process of its own is begun first and asked for last."""
        files = self.files
        busy = Busy(files)
        system = self.operating_system()
        packages = host_packages.Packages(files, system["family"])
        privilege = self.params.get("privilege") or self.privilege()
        scope = self.params["scope"]
        if scope == "auto":
            scope = "system" if privilege["root"] else "user"
        base_dir = self.params["base_dir"] if scope == "system" else self.user_base_dir()
        interpreters = Interpreters(base_dir, scope)

        kernel = host_kernels.running(files)
        kernels = host_kernels.kernels(files, kernel)
        next_boot = host_kernels.next_boot(kernels)
        noted = host_state.state(files)
        settings = host_boot.modprobe_lines(files)
        modules = host_modules.KernelModules(
            files, [row["release"] for row in kernels], settings, (noted or {}).get("modules")
        )
        gpus, other_gpus, nvswitches = host_pci.gpus(files)
        nouveau = self.nouveau(gpus, settings, next_boot, noted)
        cuda = host_cuda.Cuda(files, base_dir, scope, packages.kind)
        packages.read()
        facts = dict(
            schema=SCHEMA,
            simulated=host_state.simulated(files),
            os=system,
            arch=platform.machine(),
            kernel=kernel,
            container=host_kernels.container(files, kernel),
            kernels=kernels,
            glibc=self.glibc(),
            boot_id=files.needed("proc/sys/kernel/random/boot_id"),
            uptime_s=host_state.uptime(files),
            reboot=host_state.reboot(files),
            privilege=privilege,
            scope=scope,
            base_dir=base_dir,
            gpus=gpus,
            other_gpus=other_gpus,
            nvswitches=nvswitches,
            secure_boot=host_boot.secure_boot(files),
            machine_owner_key=host_boot.machine_owner_key(files),
            package_manager=packages.manager(),
            units=host_units.units(files),
            cuda=cuda.toolkits(),
            cuda_default=cuda.default(),
            cudnn=cuda.cudnn(),
            toolkit_store=cuda.store.rows,
            cuda_packages=packages.cuda(),
            compilers=host_compilers.compilers(files),
            loader=host_loader.loader(files),
            module_systems=host_shells.module_systems(files),
            shells=host_shells.shells(files),
            disk=host_state.disk(files, (base_dir, "/tmp")),
            tools=self.tools(base_dir),
            environments=describe_all(base_dir),
            state=noted,
            managed=host_state.managed(files, noted),
            records=host_state.records(files, base_dir, scope),
            driver=self.driver(packages, modules.result(), next_boot, noted, system),
            pythons=interpreters.rows(),
            nouveau=nouveau(),
            busy=busy.result(),
            unknown=self.unknown,
        )
        return printable(facts)

    def operating_system(self):
        """Return id, version and family from os-release."""
        fields = host_kernels.read_settings(self.files.needed("etc/os-release") or "")
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
        # In a session of its own sudo would not find the answer that it remembers for a person's terminal.
        elif Command(["sudo", "-n", "true"], new_session=False).output() is not None:
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

    def nouveau(self, gpus, settings, next_boot, noted):
        """Begin to look for nouveau; return a function that ends it. The initramfs matters beside NVIDIA's GPUs."""
        row = dict(
            loaded=self.files.exists("sys/module/nouveau"),
            blacklisted=host_boot.nouveau_blacklisted(self.files, settings),
            in_initramfs=None,
            initramfs=None,
        )
        if not gpus and not row["loaded"]:
            return lambda: row
        initramfs = host_boot.Initramfs(self.files, next_boot, (noted or {}).get("initramfs"))

        def finish():
            row["in_initramfs"], row["initramfs"] = initramfs.result()
            return row

        return finish

    def driver(self, packages, modules, next_boot, noted, system):
        """Return what is loaded, what is installed and whether these agree."""
        row = host_driver.loaded(self.files)
        row.update(host_driver.installed(self.files, packages, modules, next_boot, noted, system["id"]))
        row.update(modules=modules, dkms=host_modules.dkms(self.files))
        return dict(row, mismatch=host_driver.mismatch(row))

    def tools(self, base_dir):
        """List the tools that this project keeps on the host: ``["uv-0.13.9"]``."""
        try:
            return sorted(os.listdir(os.path.join(base_dir, "tools")))
        except OSError:
            return []


if __name__ == "__main__":
    main()
