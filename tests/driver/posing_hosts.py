# SPDX-License-Identifier: Apache-2.0
"""Hosts that pose: containers that say they are another system, with hardware and a kernel that are fabricated.

A posing host is Debian below. It has the os-release of the system that it poses as, stub kernels in /boot and
/lib/modules, and, laid over the kernel's own files, the PCI bus, loaded modules, firmware and running kernel of a host
made of files (tests/fabricated_hosts.py). pose.py, which runs on it, plays firmware, boot loader and modprobe: a reboot
really ends systemd and starts it again, takes the newest kernel, and loads the module that is found for it.
What it cannot be: another C library, another Python, a kernel that runs. `uname` says the posed kernel, os.uname() not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabricated_hosts
import yaml
from ansible_runs import run_playbook
from real_packages import archive_kernel
from repositories import KERNELS, SUITES, Published, Repositories, is_dnf
from repository_server import RepositoryServer
from testbed import Bed, Machine, Result

OS_RELEASE = {
    "ubuntu2204": (
        'PRETTY_NAME="Ubuntu 22.04.5 LTS"',
        'NAME="Ubuntu"',
        'VERSION_ID="22.04"',
        'VERSION="22.04.5 LTS (Jammy Jellyfish)"',
        "VERSION_CODENAME=jammy",
        "ID=ubuntu",
        "ID_LIKE=debian",
        "UBUNTU_CODENAME=jammy",
    ),
    "ubuntu2404": (
        'PRETTY_NAME="Ubuntu 24.04.2 LTS"',
        'NAME="Ubuntu"',
        'VERSION_ID="24.04"',
        'VERSION="24.04.2 LTS (Noble Numbat)"',
        "VERSION_CODENAME=noble",
        "ID=ubuntu",
        "ID_LIKE=debian",
        "UBUNTU_CODENAME=noble",
    ),
    "debian12": (),  # it is what it is
    "debian13": (
        'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"',
        'NAME="Debian GNU/Linux"',
        'VERSION_ID="13"',
        'VERSION="13 (trixie)"',
        "VERSION_CODENAME=trixie",
        "ID=debian",
    ),
    "rhel9": (
        'NAME="Rocky Linux"',
        'VERSION="9.5 (Blue Onyx)"',
        'ID="rocky"',
        'ID_LIKE="rhel centos fedora"',
        'VERSION_ID="9.5"',
        'PLATFORM_ID="platform:el9"',
        'PRETTY_NAME="Rocky Linux 9.5 (Blue Onyx)"',
    ),
    "rhel10": (
        'NAME="Red Hat Enterprise Linux"',
        'VERSION="10.0 (Coughlan)"',
        'ID="rhel"',
        'ID_LIKE="centos fedora"',
        'VERSION_ID="10.0"',
        'PLATFORM_ID="platform:el10"',
        'PRETTY_NAME="Red Hat Enterprise Linux 10.0 (Coughlan)"',
    ),
}
REDHAT_RELEASE = {
    "rhel9": "Rocky Linux release 9.5 (Blue Onyx)",
    "rhel10": "Red Hat Enterprise Linux release 10.0 (Coughlan)",
}
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
COMMON = "kmod pciutils gnupg openssl python3-yaml"
#: What DKMS needs, but not DKMS itself: that is for the role to install.
COMPILER = "gcc make libc6-dev dpkg-dev patch lsb-release dctrl-tools"
# dpkg and apt go, so that nothing on the host speaks for Debian.
RED_HAT = (
    "rm -rf /var/lib/dpkg /var/lib/apt /usr/bin/apt* /usr/bin/dpkg*",
    "rm -rf /etc/apt/*.d/[!9]* /etc/apt/sources.list /etc/debian_version",
    "mkdir -p /etc/yum.repos.d /etc/pki/rpm-gpg /etc/dnf/plugins /usr/src/kernels",
    # Debian's rpm keeps its database at a place of its own.
    "mkdir -p /root/.rpmdb && rmdir /var/lib/rpm && ln -s /root/.rpmdb /var/lib/rpm",
    "touch /etc/dnf/plugins/versionlock.list",
    # Of the plugins that Debian has in one package, these are not on by default where they come from.
    "sed -i 's/^enabled.*/enabled = 0/' /etc/dnf/plugins/local.conf",
)
WRAPPERS = {
    # Package managers run scripts without /usr/local, so the program itself makes way for one that poses.
    "/usr/bin/uname": """\
#!/bin/sh
# Says the kernel that the host poses as running.
[ "$*" != -r ] || exec cat /proc/sys/kernel/osrelease
exec /usr/bin/uname.original "$@"
""",
    "/usr/local/sbin/modprobe": """\
#!/bin/sh
# Loads and unloads what is fabricated; leaves questions to the original.
case " $* " in
    *" -n "* | *" --dry-run "* | *" -c "* | *" --show"* | *" -V "* | *" -R "*) exec /sbin/modprobe "$@" ;;
esac
exec /usr/bin/python3 /opt/posed/pose.py load "$@"
""",
    "/usr/local/bin/mokutil": """\
#!/bin/sh
# Machine owner keys in fabricated firmware: --generate-hash, --import FILE --hash-file FILE, --sb-state, --list-new.
new=MokNew-605dab50-e046-4300-abb6-3dd810dd8b23 tree=/opt/posed/tree/sys/firmware/efi/efivars
case $1 in
    --generate-hash*) cat >/dev/null; echo '$6$stand-in$hash' ;;
    --import)
        [ -d "$tree" ] || { echo "EFI variables are not supported on this system" >&2; exit 1; }
        { printf '\\007\\000\\000\\000'; cat "$2"; } >"$tree/$new" ;;
    --sb-state) [ -d "$tree" ] || exit 1
        tail -c 1 "$tree"/SecureBoot-* | grep -q "$(printf '\\001')" && state=enabled || state=disabled
        echo "SecureBoot $state" ;;
    --list-new) [ ! -e "$tree/$new" ] || echo "[key 1]" ;;
    --list-enrolled) [ ! -e "$tree/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23" ] || echo "[key 1]" ;;
    *) exit 1 ;;
esac
""",
    "/etc/systemd/system/pose.service": """\
[Unit]
Description=Pose as another machine
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /opt/posed/pose.py boot
[Install]
WantedBy=sysinit.target
""",
}
GRUB = 'GRUB_DEFAULT=0\nGRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n'
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
MOK = "605dab50-e046-4300-abb6-3dd810dd8b23"
Hardware = Callable[[Path], Any]


def image_of(bed: Bed, system: str) -> str:
    """Return the image of hosts that pose as a system: its family's packages, and what says which system it is."""
    if is_dnf(system):
        packages = f"{COMMON} dnf python3-dnf rpm dnf-plugins-core dracut"
        commands = ["apt-get -qq update", f"{INSTALL} {packages}", "apt-get clean", *RED_HAT]
        named = [f"echo '{REDHAT_RELEASE[system]}' >/etc/redhat-release"]
        # dnf asks a package of the distribution for it, and there is none.
        named += ["mkdir -p /etc/dnf/vars", f"echo {system.removeprefix('rhel')} >/etc/dnf/vars/releasever"]
    else:
        packages = f"{COMMON} {COMPILER} python3-apt initramfs-tools"
        commands = ["apt-get -qq update", f"{INSTALL} {packages}", "apt-get clean"]
        named = []
    if OS_RELEASE[system]:
        lines = "\n".join(OS_RELEASE[system])
        named.append(f"cat >/usr/lib/os-release <<'END'\n{lines}\nEND")
    family = bed.image_with("poses-dnf" if is_dnf(system) else "poses-apt", commands)
    return bed.image_with(f"poses-{system}", named, base=family) if named else family


@dataclass
class PosingHost:
    """One posing host, and what can be done to it from outside."""

    machine: Machine
    system: str
    server: RepositoryServer | None = None

    @property
    def name(self) -> str:
        """Its name in an inventory."""
        return self.machine.name

    def run(self, command: str, *, timeout: float = 600) -> Result:
        """Run a shell command as root."""
        return self.machine.run(command, timeout=timeout)

    def must(self, command: str, *, timeout: float = 600) -> str:
        """Run a shell command that is expected to succeed; return what it printed."""
        done = self.run(command, timeout=timeout)
        assert done.status == 0, f"{command}\n{done.output}"
        return done.output

    def write(self, path: str, content: str) -> None:
        """Write a file on the host, in place."""
        script = f"mkdir -p '{os.path.dirname(path)}' && cat >'{path}'"
        command = ["docker", "exec", "-i", self.machine.name, "sh", "-c", script]
        subprocess.run(command, input=content.encode(), check=True, capture_output=True)

    def read(self, path: str) -> str:
        """Return the content of a file on the host."""
        return self.must(f"cat '{path}'")

    def posed(self, path: str, content: str) -> None:
        """Write a fabricated file: `proc/...` or `sys/...`, as the host's kernel would show it."""
        self.write(f"/opt/posed/tree/{path}", content)

    # --- boots -------------------------------------------------------------------------------------------------------

    def reboot(self, into: str | None = None) -> None:
        """Boot the host; into a kernel by name, or what its boot loader takes (the newest)."""
        self.must(f"echo '{into}' >/opt/posed/boot-into" if into else "rm -f /opt/posed/boot-into")
        self.machine.restart()

    def kernel(self) -> str:
        """Return the kernel that it poses as running."""
        return self.read("/proc/sys/kernel/osrelease").strip()

    def install_kernel(self, release: str, *, headers: bool = False) -> None:
        """Install a kernel of the archive, by its packages; its modules are built as the host's DKMS decides."""
        names = kernel_packages(self.system, release, headers=headers)
        tool = "dnf -q -y install" if is_dnf(self.system) else f"apt-get -qq update && {INSTALL}"
        self.must(f"{tool} {' '.join(names)}")

    # --- state of the hardware ---------------------------------------------------------------------------------------

    def loaded(self) -> str | None:
        """Return the version of the module that poses as loaded."""
        done = self.run("cat /sys/module/nvidia/version")
        return done.output.strip() if done.status == 0 else None

    def use_module(self, name: str, users: int) -> None:
        """Say how many use a loaded module; one that is in use cannot be unloaded."""
        self.posed(f"sys/module/{name}/refcnt", f"{users}\n")

    def use_gpu(self, command: str = "sleep 3600") -> int:
        """Start a process that holds the first GPU's device, as work does; return its id."""
        work = f"exec 9</dev/nvidia0; exec -a train.py {command}"
        return int(self.must(f"touch /dev/nvidia0; nohup bash -c '{work}' >/dev/null 2>&1 & echo $!"))

    def enroll_key(self) -> None:
        """Do what the person at the console does at the next boot: confirm the key that is waiting."""
        place = "/opt/posed/tree/sys/firmware/efi/efivars"
        self.must(f"mv {place}/MokNew-{MOK} {place}/MokListRT-{MOK}")

    # --- repositories ------------------------------------------------------------------------------------------------

    def use_archive(self, published: Published) -> None:
        """Configure the distribution's own archive, as an installer would have done."""
        assert self.server
        url = self.server.url(published)
        if published.kind == "dnf":
            self.write("/etc/pki/rpm-gpg/RPM-GPG-KEY-archive", published.key.public)
            text = f"[archive]\nname=archive\nbaseurl={url}\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-archive\n"
            self.write("/etc/yum.repos.d/archive.repo", text)
            return
        self.write("/usr/share/keyrings/archive.asc", published.key.public)
        text = f"Types: deb\nURIs: {url}\nSuites: {SUITES[self.system]}\nComponents: main\n"
        text += "Signed-By: /usr/share/keyrings/archive.asc\n"
        self.write("/etc/apt/sources.list.d/archive.sources", text)

    def use_repository(self, published: Published, key: str | None = None) -> None:
        """Configure NVIDIA's repository by hand, for tests of the stand-in itself; roles do it their own way."""
        assert self.server
        url, text = self.server.url(published), key or published.key.public
        if published.kind == "dnf":
            self.write("/etc/pki/rpm-gpg/RPM-GPG-KEY-nvidia", text)
            repo = (
                f"[nvidia]\nname=nvidia\nbaseurl={url}\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-nvidia\n"
            )
            self.write("/etc/yum.repos.d/nvidia.repo", repo)
            return
        self.write("/etc/apt/keyrings/nvidia.asc", text)
        self.write("/etc/apt/sources.list.d/nvidia.list", f"deb [signed-by=/etc/apt/keyrings/nvidia.asc] {url} /\n")

    # --- faults ------------------------------------------------------------------------------------------------------

    def fail_builds(self, *kernels: str) -> None:
        """Let the module not build for kernels (shell patterns); for none to make it build again."""
        self.write("/etc/standin/dkms-fails", "".join(f"{kernel}\n" for kernel in kernels))

    def fail_once(self, *packages: str) -> None:
        """Let the set-up of packages (apt) fail the next time."""
        self.write("/etc/standin/fails-once", "".join(f"{package}\n" for package in packages))

    def slow_down(self, seconds: int) -> None:
        """Let the set-up of the module's package take longer, so that a test can come in between."""
        self.write("/etc/standin/slow", f"{seconds}\n")


def kernel_packages(system: str, release: str, *, headers: bool) -> list[str]:
    """Return the names of a kernel's packages."""
    if is_dnf(system):
        bare = release.removesuffix(".x86_64")
        return [f"kernel-{bare}", f"kernel-core-{bare}"] + [f"kernel-devel-{bare}"] * headers
    return [f"linux-image-{release}"] + [f"linux-headers-{release}"] * headers


class PosingHosts:
    """Starts posing hosts on one test network."""

    def __init__(self, bed: Bed, server: RepositoryServer, repositories: Repositories) -> None:
        self.bed, self.server, self.repositories = bed, server, repositories
        self.archives: dict[str, Published] = {}
        self.started: list[PosingHost] = []

    def start(
        self,
        name: str,
        system: str,
        *,
        hardware: Hardware | None = fabricated_hosts.rtx_5090,
        kernels: Sequence[str] = (),
        running: str = "",
        headers: bool = False,
        nouveau: bool = False,
        secure_boot: bool | None = None,
        cmdline: str = "",
        trust: bool = True,
    ) -> PosingHost:
        """Start a host that poses as `system`.

        `hardware` fabricates it (a function of tests/fabricated_hosts.py; only its sys and proc are used, so a driver
        it loads is loaded, but not installed). `kernels` are installed (the archive's oldest by default) and
        `running` runs (the newest of them by default). `nouveau`: it is loaded where nothing keeps it from it.
        `secure_boot`: None is a host without EFI. `trust`: the host trusts the server's certificate.
        """
        host = self._create(name, system, image_of(self.bed, system), trust=trust)
        kernels = list(kernels or KERNELS[system][:1])
        self._place(host, hardware, kernels, secure_boot, {"kernel": running, "nouveau": nouveau, "cmdline": cmdline})
        if system not in self.archives:
            self.archives[system] = self.repositories.publish_archive(system, self.server.root)
        host.use_archive(self.archives[system])
        self._install_kernels(host, kernels, headers=headers)
        return self._boot(host)

    def start_real(self, name: str, image: str, *, hardware: Hardware | None = fabricated_hosts.rtx_5090) -> PosingHost:
        """Start a Debian 12 host from an image with real headers (real_packages.py); only kernel and hardware pose.

        The kernel of the headers runs. Its image is a stand-in, and the only archives are those of this machine.
        """
        host = self._create(name, "debian12", image)
        kernel = archive_kernel(host.machine)
        self._place(host, hardware, [kernel], None, {"kernel": kernel, "nouveau": False, "cmdline": ""})
        host.must(f"touch /boot/vmlinuz-{kernel}")
        return self._boot(host)

    def _create(self, name: str, system: str, image: str, *, trust: bool = True) -> PosingHost:
        """Start a container that waits for its files before it starts systemd."""
        volumes = self.server.authority.volumes() if trust else []
        # root of a real host sees what every process holds open.
        options = [*self.server.options(), "--restart=always", "--cap-add=SYS_PTRACE"]
        wait = "until [ -e /opt/posed/ready ]; do sleep 0.1; done; exec /lib/systemd/systemd"
        machine = self.bed.machine(
            name,
            image=image,
            network=self.server.network,
            volumes=volumes,
            options=options,
            command=["/bin/sh", "-c", wait],
        )
        host = PosingHost(machine, system, self.server)
        self.started.append(host)
        return host

    def _place(
        self,
        host: PosingHost,
        hardware: Hardware | None,
        kernels: Sequence[str],
        secure_boot: bool | None,
        settings: Mapping[str, Any],
    ) -> None:
        """Put the fabricated files on a host."""
        with tempfile.TemporaryDirectory(prefix="posed-") as directory:
            self._fabricate(Path(directory), host.system, hardware, kernels, secure_boot)
            (Path(directory) / "opt/posed/settings.json").write_text(json.dumps(settings))
            host.must("[ -e /usr/bin/uname.original ] || cp /usr/bin/uname /usr/bin/uname.original")
            self._put(host.machine, Path(directory))

    @staticmethod
    def _boot(host: PosingHost) -> PosingHost:
        host.must("systemctl enable -q pose.service && touch /opt/posed/ready", timeout=60)
        host.machine.wait_for_boot()
        return host

    def remove(self, *hosts: PosingHost) -> None:
        """Remove hosts; without names all that were started here."""
        gone = list(hosts or self.started)
        self.bed.remove_machines([host.machine.name for host in gone])
        self.started = [host for host in self.started if host not in gone]

    def _fabricate(
        self, directory: Path, system: str, hardware: Hardware | None, kernels: Sequence[str], secure_boot: bool | None
    ) -> None:
        """Write the files that a posing host has from the beginning."""
        with tempfile.TemporaryDirectory(prefix="tree-") as work:
            (hardware or fabricated_hosts.plain)(Path(work))
            tree = directory / "opt/posed/tree"
            tree.mkdir(parents=True)
            for part in ("sys/bus", "sys/module", "proc/driver"):
                if (Path(work) / part).exists():
                    shutil.copytree(Path(work) / part, tree / part, symlinks=True)
        for path, text in WRAPPERS.items():
            fabricated_hosts.write(directory, path.lstrip("/"), text).chmod(0o755)
        shutil.copy(Path(__file__).with_name("pose.py"), directory / "opt/posed/pose.py")
        if secure_boot is not None:
            fabricated_hosts.write(tree, SECURE_BOOT, b"\6\0\0\0" + (b"\1" if secure_boot else b"\0"))
        if is_dnf(system):
            for release in KERNELS[system]:
                text = f"title {system} ({release})\nversion {release}\nlinux /vmlinuz-{release}\n"
                fabricated_hosts.write(directory, f"boot/loader/entries/0123abcd-{release}.conf", text)
            fabricated_hosts.write(
                directory, "boot/grub2/grubenv", f"# GRUB Environment Block\nsaved_entry=0123abcd-{kernels[-1]}\n"
            )
        else:
            fabricated_hosts.write(directory, "etc/default/grub", GRUB)

    @staticmethod
    def _put(machine: Machine, directory: Path) -> None:
        pack = ["tar", "--create", "--directory", str(directory), "--owner=0", "--group=0", "."]
        packed = subprocess.run(pack, stdout=subprocess.PIPE, check=True).stdout
        unpack = ["docker", "exec", "-i", machine.name, "tar", "-x", "--no-overwrite-dir", "-C", "/"]
        subprocess.run(unpack, input=packed, check=True, capture_output=True)

    def _install_kernels(self, host: PosingHost, kernels: Sequence[str], *, headers: bool) -> None:
        """Install the packages of kernels, as the installer of the system would have done."""
        names = [name for release in kernels for name in kernel_packages(host.system, release, headers=headers)]
        if is_dnf(host.system):
            host.must(f"dnf -q -y install {' '.join(names)}")
            return
        # Only this list, so that no other archive is waited for.
        only = "-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/etc/apt/archive-only"
        host.must("mkdir -p /etc/apt/archive-only && cp /etc/apt/sources.list.d/archive.sources /etc/apt/archive-only/")
        host.must(f"apt-get -qq {only} -o APT::Get::List-Cleanup=0 update && {INSTALL} {' '.join(names)}")
        host.must("rm -r /etc/apt/archive-only")


# --- Ansible ---------------------------------------------------------------------------------------------------------


def inventory(hosts: Mapping[str, PosingHost], variables: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return an inventory of posing hosts, by the names that they are to have in it, with variables of each."""
    entries = {
        name: {"ansible_connection": "community.docker.docker", "ansible_host": host.machine.name}
        | dict((variables or {}).get(name, {}))
        for name, host in hosts.items()
    }
    return str(yaml.safe_dump({"all": {"hosts": entries}}, sort_keys=False))


def play(
    playbook: Path | str,
    hosts: Mapping[str, PosingHost],
    *arguments: str,
    variables: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 1200,
) -> Result:
    """Run a playbook (a file, or its text) against posing hosts from this machine, as a person would."""
    with tempfile.TemporaryDirectory(prefix="play-") as directory:
        listing = Path(directory) / "inventory.yml"
        listing.write_text(inventory(hosts, variables))
        if isinstance(playbook, str):
            (Path(directory) / "playbook.yml").write_text(playbook)
            playbook = Path(directory) / "playbook.yml"
        words = ["--inventory", str(listing), str(playbook), *arguments]
        return run_playbook(*words, environment=environment, timeout=timeout)
