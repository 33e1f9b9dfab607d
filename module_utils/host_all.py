# SPDX-License-Identifier: Apache-2.0
"""All facts of one host: what the module gpu_facts hands to Ansible and the validator gathers on the host by itself."""

from __future__ import annotations

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
from ansible.module_utils.environment_store import describe_all
from ansible.module_utils.host_busy import Busy
from ansible.module_utils.host_files import Command, HostFiles, printable
from ansible.module_utils.host_interpreters import Interpreters

SCHEMA = 2


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
