# SPDX-License-Identifier: Apache-2.0
"""A stand-in for NVIDIA's apt repository: small packages with real names, whose kernel module really builds and loads.

`Repository(directory, image)` makes and signs it, flat like the original; `serve()` of virtual_machine.py brings
it to a machine. Its packages depend on each other as NVIDIA's do, as far as one host's driver needs it.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from virtual_machine import Image

VERSIONS = ("580.126.09", "595.91.07")
MODULE = Path(__file__).parent / "nvidia-module"
OWNER = "Test bed <test-bed@example.invalid>"

# dkms is told what to build as NVIDIA's own scripts do it, with Debian's helper.
DKMS_POSTINST = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
/usr/lib/dkms/common.postinst nvidia {version} "" "$(dpkg --print-architecture)" "$2"
"""
DKMS_PRERM = """\
#!/bin/sh
set -e
case $1 in
    remove | upgrade | deconfigure)
        [ -z "$(dkms status -m nvidia -v {version})" ] || dkms remove -m nvidia -v {version} --all ;;
esac
"""
PIN = "Package: nvidia-* libnvidia-* cuda-drivers*\nPin: version {version}-*\nPin-Priority: 1001\n"
UDEV = 'ACTION=="add", DEVPATH=="/module/nvidia", SUBSYSTEM=="module", RUN+="/usr/bin/nvidia-modprobe -c 0 -c 255"\n'
MODPROBE = """\
#!/bin/sh
# Makes the device nodes, as the original does for -c.
grep -q ' nvidia-frontend$' /proc/devices || modprobe nvidia || exit 1
[ -e /dev/nvidiactl ] || mknod -m 666 /dev/nvidiactl c 195 255
[ -e /dev/nvidia0 ] || mknod -m 666 /dev/nvidia0 c 195 0
"""
PERSISTENCED = """\
#!/bin/sh
# Holds a device open under the original's name, which is all of it that a test can see.
mkdir -p /var/lib/nvidia && cp -u /usr/bin/sleep /var/lib/nvidia/nvidia-persistenced
exec /var/lib/nvidia/nvidia-persistenced infinity 9</dev/nvidia0
"""
PERSISTENCED_UNIT = """\
[Unit]
Description=NVIDIA Persistence Daemon
[Service]
Type=exec
ExecStartPre=/usr/bin/nvidia-modprobe -c 0 -c 255
ExecStart=/usr/bin/nvidia-persistenced --verbose
[Install]
WantedBy=multi-user.target
"""
UNIT_POSTINST = """\
#!/bin/sh
set -e
systemctl daemon-reload
systemctl --quiet enable nvidia-persistenced.service
"""
UNIT_PRERM = "#!/bin/sh\nset -e\nsystemctl --quiet disable --now nvidia-persistenced.service\n"


@dataclass(frozen=True)
class Package:
    """One Debian package to be made."""

    name: str
    version: str
    depends: str = ""
    architecture: str = "amd64"
    fields: str = ""  # further lines of its control file
    files: tuple[tuple[str, str | bytes], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    scripts: tuple[tuple[str, str], ...] = ()

    def build(self, directory: Path) -> None:
        """Write the package into a directory; it installs files below bin and sbin as programs."""
        with tempfile.TemporaryDirectory() as temporary:
            tree = Path(temporary) / self.name
            control = f"Package: {self.name}\nVersion: {self.version}\nArchitecture: {self.architecture}\n"
            control += f"Maintainer: {OWNER}\nDescription: stand-in\n{self.fields}"
            control += f"Depends: {self.depends}\n" if self.depends else ""
            for name, content in (("DEBIAN/control", control), *self.scripts, *self.files):
                path = tree / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
                program = path.parent.name in ("bin", "sbin") or name in ("DEBIAN/postinst", "DEBIAN/prerm")
                path.chmod(0o755 if program else 0o644)
            for name, target in self.links:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).symlink_to(target)
            # Light compression: the machine that unpacks it is slow.
            command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(directory)]
            subprocess.run(command, check=True, capture_output=True)


def family(version: str, library: bytes) -> list[Package]:
    """Return the packages of one driver version."""
    full = f"{version}-1"
    sources = tuple(
        (f"usr/src/nvidia-{version}/{path.name}", path.read_text().replace("@VERSION@", version))
        for path in sorted(MODULE.iterdir())
    )
    sources += ((f"usr/src/nvidia-{version}/Makefile", f"NV_VERSION := {version}\ninclude $(src)/Kbuild.in\n"),)
    sources = tuple((name.replace("/Kbuild", "/Kbuild.in"), text) for name, text in sources)
    pin = PIN.format(version=version)
    lib = "usr/lib/x86_64-linux-gnu"
    return [
        Package(
            f"nvidia-driver-pinning-{version}",
            full,
            architecture="all",
            fields="Provides: nvidia-driver-pinning\nConflicts: nvidia-driver-pinning\n",
            # apt skips what has another extension there, and a version ends like one.
            files=((f"etc/apt/preferences.d/nvidia-driver-pinning-{version}.pref", pin),),
        ),
        Package(
            "nvidia-open",
            full,
            f"nvidia-dkms-open (= {full}), libnvidia-ml1 (= {full}), nvidia-modprobe (= {full}),"
            f" nvidia-persistenced (= {full})",
        ),
        Package(
            "nvidia-dkms-open",
            full,
            "dkms",
            fields="Provides: nvidia-kernel-open-dkms\n",
            files=sources,
            scripts=(
                ("DEBIAN/postinst", DKMS_POSTINST.format(version=version)),
                ("DEBIAN/prerm", DKMS_PRERM.format(version=version)),
            ),
        ),
        Package(
            "libnvidia-ml1",
            full,
            files=((f"{lib}/libnvidia-ml.so.{version}", library),),
            links=((f"{lib}/libnvidia-ml.so.1", f"libnvidia-ml.so.{version}"),),
        ),
        Package(
            "nvidia-modprobe",
            full,
            files=(("usr/bin/nvidia-modprobe", MODPROBE), ("usr/lib/udev/rules.d/60-nvidia.rules", UDEV)),
        ),
        Package(
            "nvidia-persistenced",
            full,
            f"nvidia-modprobe (= {full})",
            files=(
                ("usr/bin/nvidia-persistenced", PERSISTENCED),
                ("lib/systemd/system/nvidia-persistenced.service", PERSISTENCED_UNIT),
            ),
            scripts=(("DEBIAN/postinst", UNIT_POSTINST), ("DEBIAN/prerm", UNIT_PRERM)),
        ),
    ]


class Repository:
    """A signed repository of every version's packages and of the machines' kernel headers."""

    def __init__(self, directory: Path, image: Image, versions: tuple[str, ...] = VERSIONS) -> None:
        """Make it in an empty directory."""
        self.directory = directory
        self.files = directory / "debian12" / "x86_64"
        self.files.mkdir(parents=True)
        self.home = directory / "gnupg"
        self.home.mkdir(mode=0o700)
        for version in versions:
            for package in family(version, image.library(version)):
                package.build(self.files)
        for path in image.pool.glob("*.deb"):
            shutil.copy(path, self.files)
        self.gpg("--quick-generate-key", OWNER, "ed25519", "sign", "never")
        self.key = self.gpg("--export", "--armor").decode()
        self.sign()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the signing key."""
        lines = self.gpg("--list-keys", "--with-colons").decode().splitlines()
        return next(line.split(":")[9] for line in lines if line.startswith("fpr:"))

    def gpg(self, *words: str) -> bytes:
        """Run gpg with the repository's own keys."""
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--passphrase", "", *words]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def sign(self) -> None:
        """Write index and signature anew, for packages that were added or removed."""
        index = "\n".join(self.entry(path) for path in sorted(self.files.glob("*.deb"))).encode()
        (self.files / "Packages").write_bytes(index)
        (self.files / "Packages.gz").write_bytes(gzip.compress(index))
        lines = [
            f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} {path.name}"
            for path in (self.files / "Packages", self.files / "Packages.gz")
        ]
        release = f"Origin: NVIDIA\nLabel: NVIDIA CUDA\nDate: {formatdate(usegmt=True)}\nSHA256:\n" + "\n".join(lines)
        (self.files / "Release").write_text(release + "\n")
        self.gpg("--clearsign", "--output", str(self.files / "InRelease"), str(self.files / "Release"))

    @staticmethod
    def entry(path: Path) -> str:
        """Return what the index says of one package."""
        control = subprocess.run(["dpkg-deb", "--field", str(path)], check=True, capture_output=True, text=True).stdout
        content = path.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        return f"{control.strip()}\nFilename: ./{path.name}\nSize: {len(content)}\nSHA256: {checksum}\n"
