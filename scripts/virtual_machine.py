# SPDX-License-Identifier: Apache-2.0
"""The test bed with a kernel of its own: Debian virtual machines that really reboot, without KVM.

`prepare()` finds QEMU, or (as root, with apt) installs it, and finds or builds the disk that all machines
start from; `VirtualMachine.start()` boots one. As in testbed.py nothing is pulled: the disk is made from the
package archive that this machine is configured for, once per recipe, and is kept below .ansible.

What a machine is: Debian 12 with its two newest cloud kernels and their headers, gcc and dkms, and GRUB, so
that which kernel comes next is decided in the machine as everywhere else. It has one NVIDIA GPU as far as
anything that reads /sys/bus/pci/devices can tell (GPU_TREE, mounted over it before sshd starts), and a stand-in
nouveau for it, which is loaded by the GPU's alias as udev would, unless it is blacklisted. Its only package
source is what a test serves to it. Nothing random is shared with other machines: keys and certificates are
made with the disk.

    machine = VirtualMachine.start(prepare())
    machine.ssh("uname -r").output
    machine.stop()
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import http.server
import json
import os
import shlex
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from project_tree import ROOT
from testbed import SUITE, Result, Unavailable, apt_install, apt_sources, first_error, note

CACHE = ROOT / ".ansible" / "virtual-machine"
USER = "admin"  # has a key and sudo without a password
NAME = "guest"  # in the inventory
HOST = "10.0.2.2"  # this machine, as a virtual one reaches it
MEMORY = 1024  # MiB
DISK = 4096  # MiB, sparse
BOOT = 240  # seconds a machine gets until ssh answers; 30 are usual

# For inventory(): a cut connection is noticed after six seconds; the project's own setting takes a minute and a half.
IMPATIENT = {
    "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=2 -o ServerAliveCountMax=2"
}

# Commands that are needed here, and the Debian packages that have them.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "openssl": "openssl",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "gpg": "gpg",
    "gpg-agent": "gpg-agent",
    "setpriv": "util-linux",
}

# --- the recipe of the disk -----------------------------------------------------------------------

PACKAGES = [
    "ca-certificates",
    "dbus",
    "dkms",
    "e2fsprogs",
    "gcc",
    "grub-pc-bin",
    "grub2-common",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "make",
    "openssh-server",
    "pciutils",
    "procps",
    "python3",
    "python3-apt",
    "python3-debian",
    "sudo",
    "systemd-sysv",
    "udev",
    "zstd",
]
OPTIONS = [
    "--variant=minbase",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    # Without recommendations, as PACKAGES says all that is wanted.
    "--aptopt=APT::Install-Recommends false",
]
FLAVOUR = "cloud-amd64"  # a small kernel: it boots in half the time of the general one
KERNELS = 2
# What would only cost time in a machine that lives for minutes.
MASKED = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service",
    "systemd-pstore.service",
    "systemd-timesyncd.service",
]
FILESYSTEM = "8b0a64c2-3f0e-4d7b-9a51-6c2f7e9d1b40"

GPU_TREE = "/etc/test-bed/pci"  # functions of the PCI bus that are not there, one directory each
GPU = {
    "vendor": "0x10de",
    "device": "0x1eb8",
    "subsystem_vendor": "0x10de",
    "subsystem_device": "0x12a2",
    "class": "0x030200",
    "revision": "0xa1",
    "modalias": "pci:v000010DEd00001EB8sv000010DEsd000012A2bc03sc02i00",
    "current_link_speed": "8.0 GT/s PCIe",
    "current_link_width": "16",
    "max_link_speed": "8.0 GT/s PCIe",
    "max_link_width": "16",
    "numa_node": "-1",
    "enable": "1",
}
GPU_SLOT = "0000:65:00.0"

# Built without a version, which is put in afterwards, as the machines that serve it need no compiler.
LIBRARY_VERSION = b"version-is-here!"
LIBRARY = f"""\
/* SPDX-License-Identifier: Apache-2.0 */
static volatile const char version[17] = "{LIBRARY_VERSION.decode()}";
int nvmlInit_v2(void) {{ return 0; }}
int nvmlShutdown(void) {{ return 0; }}
int nvmlDeviceGetCount_v2(unsigned *count) {{ *count = 0; return 0; }}
int nvmlSystemGetDriverVersion(char *text, unsigned length)
{{
    unsigned i = 0;
    while (i + 1 < length && i < 16 && version[i]) {{ text[i] = version[i]; i++; }}
    text[i] = 0;
    return 0;
}}
"""

FILES = {
    "etc/hostname": "guest\n",
    "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 guest\n{HOST} repository.test\n",
    "etc/fstab": f"UUID={FILESYSTEM} / ext4 defaults,noatime 0 1\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/apt/apt.conf.d/90test-bed": 'Acquire::Languages "none";\nAcquire::Retries "0";\n',
    "etc/systemd/network/10-all.network": """\
[Match]
Type=ether
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
""",
    "etc/ssh/sshd_config.d/test-bed.conf": """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UseDNS no
""",
    f"etc/sudoers.d/{USER}": f"{USER} ALL=(ALL) NOPASSWD: ALL\n",
    "etc/default/grub": """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0 net.ifnames=0 mitigations=off"
GRUB_TERMINAL=console
GRUB_DISABLE_OS_PROBER=true
""",
    "etc/initramfs-tools/conf.d/test-bed": "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    # nouveau comes into the initramfs by a hook, as plymouth's and framebuffer's bring it in elsewhere.
    "etc/initramfs-tools/hooks/test-bed": """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
if [ -e /etc/test-bed/nouveau-in-initramfs ]; then
    manual_add_modules nouveau
    mkdir -p "$DESTDIR/etc/test-bed"
    cat /etc/test-bed/pci/*/modalias >"$DESTDIR/etc/test-bed/aliases"
fi
""",
    "etc/initramfs-tools/scripts/init-premount/test-bed": """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
[ -e /etc/test-bed/aliases ] || exit 0
while read -r alias; do modprobe -b "$alias"; done </etc/test-bed/aliases
""",
    # What udev does for a real function: a driver is loaded by alias unless a blacklist names it.
    "usr/local/sbin/test-bed-pci": f"""\
#!/bin/sh
set -e
mkdir -p /run/test-bed-pci
for function in /sys/bus/pci/devices/*; do
    cp -d "$function" /run/test-bed-pci/
done
cp -r {GPU_TREE}/. /run/test-bed-pci/
mount --bind /run/test-bed-pci /sys/bus/pci/devices
for alias in $(cat {GPU_TREE}/*/modalias 2>/dev/null); do modprobe -b "$alias" || true; done
""",
    "etc/systemd/system/test-bed-pci.service": """\
[Unit]
Description=PCI functions that are not there
DefaultDependencies=no
After=local-fs.target systemd-udev-trigger.service systemd-tmpfiles-setup.service
Before=sysinit.target ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/test-bed-pci
[Install]
WantedBy=sysinit.target
""",
    # A driver that claims the GPU, as far as module tools see; busy=1 makes one that cannot be unloaded.
    "usr/src/test-bed-nouveau/nouveau.c": """\
// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
#include <linux/module.h>
#include <linux/pci.h>
static bool busy;
module_param(busy, bool, 0444);
static const struct pci_device_id functions[] = {
    {PCI_DEVICE(0x10de, PCI_ANY_ID), .class = 0x030000, .class_mask = 0xff0000}, {}};
MODULE_DEVICE_TABLE(pci, functions);
static int __init load(void) { return busy && !try_module_get(THIS_MODULE) ? -ENODEV : 0; }
static void __exit unload(void) {}
module_init(load);
module_exit(unload);
MODULE_DESCRIPTION("stand-in for nouveau");
MODULE_LICENSE("Dual MIT/GPL");
""",
    "etc/test-bed/libnvidia-ml.c": LIBRARY,
    "usr/src/test-bed-nouveau/Makefile": "obj-m := nouveau.o\n",
    # Stands in front of grub-mkconfig while the disk is built, when the device to ask about does not exist yet.
    "usr/local/sbin/test-bed-grub-probe": f"""\
#!/bin/sh
for word; do
    case $word in
        --target=device) echo /dev/vda1 ;;
        --target=fs_uuid) echo {FILESYSTEM} ;;
        --target=partuuid) echo 1b40cafe-01 ;;
        --target=fs) echo ext2 ;;
        --target=partmap) echo msdos ;;
        --target=compatibility_hint) echo hd0,msdos1 ;;
        --target=hints_string) echo --hint-bios=hd0,msdos1 ;;
    esac
done
""",
}
EXECUTABLE = (
    "etc/initramfs-tools/hooks/test-bed",
    "etc/initramfs-tools/scripts/init-premount/test-bed",
    "usr/local/sbin/test-bed-pci",
    "usr/local/sbin/test-bed-grub-probe",
)
GRUB_MODULES = "biosdisk part_msdos ext2 normal configfile linux loadenv search search_fs_uuid test echo gzio minicmd"

# Runs on this machine for the directory $1 once PACKAGES are in it; $2 is where packages are put for tests to serve.
CUSTOMIZE = f"""\
set -eu
root=$1 pool=$2
export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG
kernels=$(apt-cache pkgnames linux-headers- | sed -nE 's/^linux-headers-([0-9.]+-[0-9]+-{FLAVOUR})$/\\1/p' \\
    | sort -V | tail -n {KERNELS})
packages=
for kernel in $kernels; do packages="$packages linux-image-$kernel linux-headers-$kernel"; done
DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Chroot-Directory="$root" install $packages
cd "$pool"
for kernel in $kernels; do apt-get -q -o APT::Sandbox::User=root download linux-headers-$kernel; done
inside() {{ chroot "$root" "$@"; }}
for kernel in $kernels; do
    inside make -s -C /lib/modules/$kernel/build M=/usr/src/test-bed-nouveau modules
    inside install -D -m 644 /usr/src/test-bed-nouveau/nouveau.ko \\
        /lib/modules/$kernel/kernel/drivers/gpu/drm/nouveau/nouveau.ko
    inside make -s -C /lib/modules/$kernel/build M=/usr/src/test-bed-nouveau clean
    inside depmod $kernel
done
inside gcc -shared -nostdlib -fPIC -O1 -Wl,-soname,libnvidia-ml.so.1 \\
    -o /tmp/libnvidia-ml.so /etc/test-bed/libnvidia-ml.c
mv "$root/tmp/libnvidia-ml.so" "$pool/.."
inside useradd --create-home --shell /bin/bash {USER}
inside install -d -m 700 -o {USER} -g {USER} /home/{USER}/.ssh
inside install -m 600 -o {USER} -g {USER} /etc/test-bed/authorized_keys /home/{USER}/.ssh/authorized_keys
inside systemctl -q enable systemd-networkd ssh test-bed-pci
inside systemctl -q mask {" ".join(MASKED)}
inside update-ca-certificates >/dev/null
inside mkdir -p /boot/grub/i386-pc
inside sh -c 'cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /boot/grub/i386-pc/'
inside grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/core.img {GRUB_MODULES}
mv "$root/usr/sbin/grub-probe" "$root/usr/sbin/grub-probe.real"
mv "$root/usr/local/sbin/test-bed-grub-probe" "$root/usr/sbin/grub-probe"
inside grub-mkconfig -o /boot/grub/grub.cfg
mv "$root/usr/sbin/grub-probe.real" "$root/usr/sbin/grub-probe"
inside grub-editenv /boot/grub/grubenv create
echo '# A test adds the package source it serves.' >"$root/etc/apt/sources.list"
: >"$root/etc/machine-id"
"""


# --- the disk -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """A disk that machines start from, with the keys that fit it; never written to."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The disk of a machine that was never started."""
        return self.directory / "disk.qcow2"

    @property
    def key(self) -> Path:
        """USER's private key."""
        return self.directory / "user_key"

    @property
    def host_key(self) -> str:
        """The public key that proves a machine to be one of this disk."""
        return (self.directory / "host_key.pub").read_text().strip()

    @property
    def pool(self) -> Path:
        """Debian packages of the machines' kernel headers, for a test to serve."""
        return self.directory / "pool"

    def library(self, version: str) -> bytes:
        """Return a shared library libnvidia-ml.so.1 that says this driver version and sees no device."""
        built = (self.directory / "libnvidia-ml.so").read_bytes()
        return built.replace(LIBRARY_VERSION, version.encode().ljust(len(LIBRARY_VERSION), b"\0"))

    @property
    def kernels(self) -> list[str]:
        """Releases of the installed kernels, the newest (which GRUB starts) first."""
        found: list[str] = json.loads((self.directory / "kernels.json").read_text())
        return found


def prepare() -> Image:
    """Make everything ready for virtual machines; raise Unavailable with the reason where it cannot be."""
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if missing:
        apt_install(sorted(missing))
    recipe = json.dumps(
        [SUITE, PACKAGES, OPTIONS, MASKED, FILES, GPU, GPU_SLOT, CUSTOMIZE, DISK, FILESYSTEM], sort_keys=True
    )
    image = Image(CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:12])
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.directory.is_dir():
            build(image)
    return image


def build(image: Image) -> None:
    """Build a disk with mmdebstrap from this machine's own package archive, and its keys."""
    if os.geteuid() != 0:
        raise Unavailable("only root can build the disk of the virtual machines")
    sources = apt_sources()
    note("building the disk of the virtual machines from this machine's package archive (about two minutes)")
    for old in CACHE.iterdir():
        if old.is_dir():
            shutil.rmtree(old)  # of an older recipe, or half built
    # Beside its final place and renamed when complete, so that an interrupted build is never taken for a disk.
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=CACHE))
    unfinished.chmod(0o755)
    try:
        make_keys(unfinished)
        root = unfinished / "root"
        make_tree(unfinished, root, sources)
        make_disk(unfinished, root)
        shutil.rmtree(root)
        unfinished.rename(image.directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def do(*words: str | Path, data: str | None = None) -> str:
    """Run a command that is part of building; return its standard output, raise Unavailable if it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log = CACHE / "build.log"
        log.write_text(done.stdout + done.stderr)
        why = first_error(done.stderr)
        raise Unavailable(f"{command[0]} cannot build the virtual machines' disk ({why}; all it said is in {log})")
    return done.stdout


def make_keys(directory: Path) -> None:
    """Make the user's and the machine's ssh key, and a certificate authority with one certificate for this machine."""
    for name in ("user_key", "host_key"):
        do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test-bed", "-f", directory / name)
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    key, certificate = directory / "ca.key", directory / "ca.crt"
    do(*new, "-keyout", key, "-out", certificate, "-subj", "/CN=test bed authority")
    names = ["-addext", f"subjectAltName=DNS:repository.test,IP:{HOST}", "-addext", "basicConstraints=CA:FALSE"]
    issued = ["-subj", "/CN=repository.test", "-CA", str(certificate), "-CAkey", str(key)]
    do(*new, "-keyout", directory / "tls.key", "-out", directory / "tls.crt", *issued, *names)


def make_tree(directory: Path, root: Path, sources: str) -> None:
    """Install the packages into a directory, and what else the machines have."""
    (directory / "pool").mkdir()
    extra = directory / "extra"
    content = FILES | {f"{GPU_TREE[1:]}/{GPU_SLOT}/{name}": f"{value}\n" for name, value in GPU.items()}
    content["etc/test-bed/authorized_keys"] = (directory / "user_key.pub").read_text()
    content["etc/ssh/ssh_host_ed25519_key"] = (directory / "host_key").read_text()
    content["etc/ssh/ssh_host_ed25519_key.pub"] = (directory / "host_key.pub").read_text()
    content["usr/local/share/ca-certificates/test-bed.crt"] = (directory / "ca.crt").read_text()
    for name, text in content.items():
        path = extra / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name in EXECUTABLE else 0o600 if name.endswith("_key") else 0o644)
    (extra / GPU_TREE[1:] / GPU_SLOT / "config").write_bytes(config_header(GPU))
    script = directory / "customize"
    script.write_text(CUSTOMIZE)
    copy = f'tar -C {shlex.quote(str(extra))} --owner=0 --group=0 -c . | tar -C "$1" --keep-directory-symlink -x'
    customize = shlex.join(["sh", *map(str, (script, root, directory / "pool"))])
    hooks = [f"--customize-hook={copy}", f"--customize-hook={customize}"]
    include = f"--include={','.join(PACKAGES)}"
    do("mmdebstrap", "--format=directory", *OPTIONS, include, *hooks, SUITE, root, "-", data=sources)
    kernels = sorted((path.name for path in (root / "lib/modules").iterdir()), key=kernel_order, reverse=True)
    (directory / "kernels.json").write_text(json.dumps(kernels))
    shutil.rmtree(extra)
    script.unlink()


def config_header(function: dict[str, str]) -> bytes:
    """Return the first 64 bytes of a PCI function's configuration, which lspci opens."""
    number = {name: int(value, 16) for name, value in function.items() if value.startswith("0x")}
    head = struct.pack("<HHHH", number["vendor"], number["device"], 0x0006, 0x0010)
    kind = struct.pack("<I", number["class"] << 8 | number["revision"])
    subsystem = struct.pack("<HH", number["subsystem_vendor"], number["subsystem_device"])
    return (head + kind).ljust(44, b"\0") + subsystem + bytes(16)


def kernel_order(release: str) -> list[int]:
    """Return what kernel releases of one flavour are sorted by."""
    return [int(word) for word in release.replace("-", ".").split(".") if word.isdigit()]


def make_disk(directory: Path, root: Path) -> None:
    """Write a disk with GRUB, one partition and the directory's content."""
    raw = directory / "disk.raw"
    start = 2048  # sectors; GRUB lies between the partition table and here
    size = DISK * 2048 - start
    with raw.open("wb") as stream:
        stream.truncate(DISK << 20)
    features = "-E", f"offset={start * 512},lazy_itable_init=1,root_owner=0:0", "-O", "^has_journal"
    do("mkfs.ext4", "-q", "-F", *features, "-U", FILESYSTEM, "-d", root, raw, f"{size // 2}k")
    boot = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()
    core = (root / "boot/grub/core.img").read_bytes()
    if len(core) > (start - 1) * 512:
        raise Unavailable("GRUB does not fit in front of the first partition")
    partition = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", start, size)
    table = struct.pack("<IH", 0x1B40CAFE, 0) + partition + bytes(48) + b"\x55\xaa"
    with raw.open("r+b") as stream:
        # boot.img looks for the rest of GRUB in the second sector unless it is told otherwise.
        stream.write(boot[:440] + table + core)
    do("qemu-img", "convert", "-O", "qcow2", raw, directory / "disk.qcow2")
    raw.unlink()


# --- a machine ------------------------------------------------------------------------------------


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Monitor:
    """QEMU's control connection."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        """Connect as soon as QEMU has opened it."""
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"QEMU does not start: {log.read_text(errors='replace').strip()}") from None
                time.sleep(0.05)
        self.stream = self.socket.makefile("rw")
        self.stream.readline()  # its greeting
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Execute a command of the QEMU machine protocol and return its result."""
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        for line in self.stream:
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise ConnectionError("QEMU has ended")


@dataclass
class VirtualMachine:
    """One virtual machine with a disk of its own."""

    image: Image
    directory: Path
    disk: Path
    port: int
    process: subprocess.Popen[bytes]
    monitor: Monitor
    resumed: bool  # from a saved memory, which spared it the first boot

    @classmethod
    def start(
        cls,
        image: Image,
        *,
        disk: Path | None = None,
        memory_state: Path | None = None,
        wait: bool = True,
    ) -> VirtualMachine:
        """Start a machine and wait until ssh answers.

        It writes to an overlay of `disk` (another machine's, kept with `keep_disk`; the image's unless given).
        With `memory_state` (see `save`) it goes on where that machine stood, within seconds and without booting.
        """
        directory = Path(tempfile.mkdtemp(prefix="gpulab-vm-"))
        overlay = directory / "disk.qcow2"
        do("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", (disk or image.disk).resolve(), overlay)
        port = free_port()
        (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(image.host_key.split()[:2])}\n")
        process = launch(directory, overlay, port, memory_state)
        try:
            monitor = Monitor(directory / "monitor", process, directory / "qemu.log")
        except Unavailable:
            process.kill()
            shutil.rmtree(directory)
            raise
        machine = cls(image, directory, overlay, port, process, monitor, resumed=memory_state is not None)
        atexit.register(machine.stop)
        if memory_state:
            machine.resume()
        if wait:
            machine.wait_until_up()
        return machine

    # what happens in it

    def ssh_command(self, *options: str) -> list[str]:
        """Return the words of an ssh command to this machine, without what to run."""
        words = ["ssh", "-i", str(self.image.key), "-p", str(self.port), "-l", USER, *options, "-o", "BatchMode=yes"]
        return [*words, *shlex.split(self.ssh_options()), "127.0.0.1"]

    def ssh_options(self) -> str:
        """Return the options that make ssh accept this machine's host key and no other."""
        return (
            f"-o UserKnownHostsFile={self.directory}/known_hosts -o GlobalKnownHostsFile=/dev/null"
            " -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
        )

    def ssh(self, command: str, *, root: bool = True, timeout: float = 600, check: bool = False) -> Result:
        """Run a shell command, as root unless told otherwise; with `check`, raise AssertionError where it fails."""
        started = time.monotonic()
        remote = f"sudo -n bash -c {shlex.quote(command)}" if root else command
        try:
            done = subprocess.run(
                [*self.ssh_command("-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"), remote],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
            )
            result = Result(done.returncode, done.stdout, time.monotonic() - started)
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
            result = Result(124, f"{said}\nno end within {timeout:.0f} s", time.monotonic() - started)
        if check and result.status != 0:
            raise AssertionError(f"{command}: status {result.status}: {result.output}")
        return result

    def put(self, text: str, path: str, mode: str = "644") -> None:
        """Write a file as root; directories above it are made."""
        target = shlex.quote(path)
        inner = f"mkdir -p $(dirname {target}) && cat >{target} && chmod {mode} {target}"
        remote = f"sudo -n sh -c {shlex.quote(inner)}"
        subprocess.run([*self.ssh_command(), remote], input=text, text=True, check=True, capture_output=True)

    def inventory(self, **variables: str) -> str:
        """Return an inventory (INI) with this machine as NAME; `variables` are added to its own."""
        own = {
            "ansible_host": "127.0.0.1",
            "ansible_port": str(self.port),
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.image.key),
            "ansible_ssh_common_args": self.ssh_options(),
            # A connection kept open to an earlier machine must not be taken for one to this machine.
            "ansible_control_path_dir": str(self.directory / "cp"),
        }
        words = [f"{name}={shlex.quote(value)}" for name, value in (own | variables).items()]
        return f"[all]\n{NAME} {' '.join(words)}\n"

    def write_inventory(self, **variables: str) -> Path:
        """Write `inventory()` to a file and return its path."""
        path = self.directory / "inventory.ini"
        path.write_text(self.inventory(**variables))
        return path

    def boot_id(self) -> str:
        """Return the random number that the running kernel drew when it started."""
        return self.ssh("cat /proc/sys/kernel/random/boot_id", root=False, check=True).output.strip()

    def wait_until_up(self, timeout: float = BOOT) -> None:
        """Wait until ssh answers and booting has come to its end; raise TimeoutError with the console's last lines."""
        deadline = time.monotonic() + timeout
        command = "systemctl is-system-running --wait"
        while self.ssh(command, root=False, timeout=60).output.strip() not in ("running", "degraded"):
            if self.process.poll() is not None:
                raise TimeoutError("the machine has ended")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the machine does not answer within {timeout:.0f} s: {self.console()[-2000:]}")
            time.sleep(0.5)

    def console(self) -> str:
        """Return what the machine wrote to its console."""
        return (self.directory / "console.log").read_text(errors="replace")

    # what happens to it

    def cut(self) -> None:
        """Pull the network cable: open connections freeze, and new ones get no answer."""
        self.monitor("set_link", name="net0", up=False)

    def restore(self) -> None:
        """Put the cable back."""
        self.monitor("set_link", name="net0", up=True)

    def hang_up(self) -> None:
        """End every ssh session of USER at once, so that what runs over one breaks off without waiting."""
        self.ssh(f"pkill -KILL -u {USER} -x sshd", timeout=60)

    def reset(self) -> None:
        """Press the reset button: a reboot without shutting down."""
        self.monitor("system_reset")

    def go_down_at_reboot(self) -> None:
        """Make the next reboot the end of the machine: it never comes back."""
        self.monitor("set-action", reboot="shutdown")

    @property
    def running(self) -> bool:
        """Whether the machine is powered on."""
        return self.process.poll() is None

    @property
    def reboots(self) -> int:
        """How often a kernel has started since the machine was: what its console says (QEMU counts resets twice)."""
        return self.console().count("] Linux version ") - (0 if self.resumed else 1)

    @property
    def next_kernel(self) -> str:
        """The kernel release that GRUB will start next time: for once, by its saved entry, or the newest."""
        entries = dict(line.split("=", 1) for line in self.ssh("grub-editenv - list", check=True).output.splitlines())
        follows = self.ssh("grep -qx GRUB_DEFAULT=saved /etc/default/grub").status == 0
        entry = entries.get("next_entry") or (entries.get("saved_entry", "") if follows else "")
        kernels = self.image.kernels
        return next((kernel for kernel in kernels if f"gnulinux-{kernel}-advanced" in entry), kernels[0])

    @next_kernel.setter
    def next_kernel(self, release: str) -> None:
        """Make `release` what GRUB starts from now on, as an administrator would."""
        self.ssh(
            "set -e; grep -qx GRUB_DEFAULT=saved /etc/default/grub"
            " || { sed -i 's/^GRUB_DEFAULT=.*/GRUB_DEFAULT=saved/' /etc/default/grub; update-grub; }"
            f"; grub-set-default {shlex.quote(grub_entry(release))}",
            check=True,
        )

    def boot_once(self, release: str) -> None:
        """Make `release` what GRUB starts next time only."""
        self.ssh(f"grub-reboot {shlex.quote(grub_entry(release))}", check=True)

    # keeping and ending it

    def save(self, memory_state: Path) -> Path:
        """Write memory and devices to a file and end the machine; return the disk that belongs to it.

        Both are kept: start(image, disk=..., memory_state=...) makes any number of machines of them. The disk lies
        in this machine's directory until `stop`.
        """
        self.ssh("sync; echo 3 >/proc/sys/vm/drop_caches", check=True)
        self.monitor("stop")
        self.monitor("migrate", uri=f"exec:cat >{shlex.quote(str(memory_state))}")
        while (status := self.monitor("query-migrate")["status"]) != "completed":
            if status in ("failed", "cancelled"):
                raise RuntimeError(f"the machine's memory cannot be saved: {status}")
            time.sleep(0.1)
        self.power_off()
        return self.disk

    def resume(self) -> None:
        """Go on with a saved memory: wait until it is read, then let the machine run, with the right time."""
        while self.monitor("query-status")["status"] in ("inmigrate", "postmigrate"):
            time.sleep(0.1)
        self.monitor("cont")
        deadline = time.monotonic() + 60
        while self.ssh(f"date -s @{time.time():.0f}", timeout=20).status != 0:
            if time.monotonic() > deadline:
                raise TimeoutError("the machine does not go on from its saved memory")

    def power_off(self) -> None:
        """Pull the plug, with the disk as it is; a machine that should be whole is shut down or synced before."""
        if self.running:
            try:
                self.monitor("quit")
                self.process.wait(timeout=10)
            except (OSError, RuntimeError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()

    def stop(self) -> None:
        """End the machine and remove what was kept of it."""
        self.power_off()
        shutil.rmtree(self.directory, ignore_errors=True)


def grub_entry(release: str) -> str:
    """Return what GRUB's menu calls a kernel."""
    return f"gnulinux-advanced-{FILESYSTEM}>gnulinux-{release}-advanced-{FILESYSTEM}"


def launch(directory: Path, disk: Path, port: int, memory_state: Path | None) -> subprocess.Popen[bytes]:
    """Start QEMU for a machine."""
    # /dev/kvm may be there and hang: emulation works everywhere, and takes as long everywhere.
    # A CPU without wide vectors is emulated faster: programs do not choose them for copying memory.
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem", "-smp", "2"]
    command += ["-machine", "pc", "-m", str(MEMORY), "-display", "none", "-nodefaults", "-no-user-config"]
    command += ["-drive", f"file={disk},if=virtio,cache=unsafe,discard=unmap", "-device", "virtio-rng-pci"]
    command += ["-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22"]
    command += ["-device", "virtio-net-pci,netdev=net0,romfile="]
    command += ["-serial", f"file:{directory}/console.log"]
    command += ["-qmp", f"unix:{directory}/monitor,server=on,wait=off"]
    if memory_state:
        command += ["-S", "-incoming", f"exec:cat {shlex.quote(str(memory_state))}"]
    # The machine ends with this process, however that ends.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    with (directory / "qemu.log").open("w") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, start_new_session=True
        )


# --- what a machine is served -----------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        """Keep requests off the terminal."""


@contextmanager
def serve(directory: Path, image: Image) -> Iterator[str]:
    """Serve a directory to virtual machines over https, whose certificate they trust; yield its URL, without `/`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(image.directory / "tls.crt", image.directory / "tls.key")
    handler = functools.partial(Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        # The handshake is left to the thread of each connection, so that one that stalls holds up no other.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()
