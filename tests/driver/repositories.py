# SPDX-License-Identifier: Apache-2.0
"""Signed stand-ins of NVIDIA's package repositories and of the distributions' own archives.

`Repositories` makes them; what it made is kept by a hash of its recipe, so the second time costs nothing.
`publish()` lays one out for a server, `publish_archive()` the distribution's archive that goes with it. Both can leave
out branches or versions, and be signed by another key, so that a repository can change under a host's feet.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import driver_family as family
import fabricated_hosts
import stub_contents
import stub_packages
from driver_family import OLDER
from gpu_compat.drivers import Driver, from_nvidia, modules_of
from gpu_compat.tables import shipped
from stub_packages import EPOCH, Package, control, write_deb, write_rpms
from testbed import SETTINGS

#: For each system the kernels of its archive, oldest first, and the name of its release.
KERNELS = {
    "ubuntu2204": ("5.15.0-119-generic", "5.15.0-122-generic"),
    "ubuntu2404": ("6.8.0-45-generic", "6.8.0-47-generic"),
    "debian12": ("6.1.0-25-amd64", "6.1.0-26-amd64"),
    "debian13": ("6.12.41+deb13-amd64", "6.12.43+deb13-amd64"),
    "rhel9": ("5.14.0-503.11.1.el9_5.x86_64", "5.14.0-503.16.1.el9_5.x86_64"),
    "rhel10": ("6.12.0-55.9.1.el10_0.x86_64", "6.12.0-55.12.1.el10_0.x86_64"),
}
SUITES = {"ubuntu2204": "jammy", "ubuntu2404": "noble", "debian12": "bookworm", "debian13": "trixie"}
DISTS = {"rhel9": "el9", "rhel10": "el10"}
STREAMS_PLATFORM = {"rhel9": "platform:el9"}
KEY_FILE = "repository-key.pub"

Build = Callable[[Path], list[dict[str, Any]]]


def is_dnf(system: str) -> bool:
    """Tell whether a system's repositories are dnf's."""
    return system in DISTS


@dataclass(frozen=True)
class Key:
    """A throw-away key: where gpg keeps it, and what it is called by."""

    home: Path
    fingerprint: str
    public: str

    @classmethod
    def generate(cls, home: Path, name: str) -> Key:
        """Make a key, or find the one that was made there before."""
        if not (home / "done").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True, mode=0o700)
            owner = f"{name} of the test bed <{name}@example.invalid>"
            for arguments in (["--passphrase", "", "--quick-generate-key", owner, "rsa2048", "sign", "never"],):
                cls._gpg(home, *arguments)
            (home / "done").touch()
        listing = cls._gpg(home, "--list-keys", "--with-colons").decode()
        fingerprint = next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:"))
        return cls(home, fingerprint, cls._gpg(home, "--armor", "--export", fingerprint).decode())

    @staticmethod
    def _gpg(home: Path, *arguments: str) -> bytes:
        # The socket of gpg's agent has a short limit on its path, so the home is named by a short one.
        with tempfile.TemporaryDirectory(prefix="gpg-") as short:
            place = Path(short) / "home"
            place.symlink_to(home)
            command = ["gpg", "--batch", "--quiet", "--no-tty", "--yes", "--homedir", str(place), *arguments]
            # An agent that is just ending takes the socket of the next one with it; then there is nothing to talk to.
            for _ in range(4):
                done = subprocess.run(command, capture_output=True, check=False)
                if b"connect to the agent" not in done.stderr:
                    break
                time.sleep(0.5)
            subprocess.run(["gpgconf", "--homedir", str(place), "--kill", "all"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def sign_release(self, directory: Path) -> None:
        """Sign the file Release in both ways that apt looks for."""
        release = str(directory / "Release")
        for kind, name in (("--clear-sign", "InRelease"), ("--detach-sign", "Release.gpg")):
            (directory / name).unlink(missing_ok=True)
            self._gpg(
                self.home, "--armor", "--local-user", self.fingerprint, "--output", str(directory / name), kind, release
            )

    def sign_rpms(self, files: Sequence[Path]) -> None:
        """Sign packages of rpm in place."""
        with tempfile.TemporaryDirectory(prefix="gpg-") as short:
            place = Path(short) / "home"
            place.symlink_to(self.home)
            command = [
                "rpmsign",
                "--addsign",
                "--define",
                f"_gpg_name {self.fingerprint}",
                "--define",
                f"_gpg_path {place}",
            ]
            command += [
                "--define",
                f"__gpg {shutil.which('gpg')}",
                "--define",
                "_gpg_digest_algo sha256",
                *map(str, files),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            subprocess.run(["gpgconf", "--homedir", str(place), "--kill", "all"], capture_output=True, check=False)
        assert done.returncode == 0, (done.stderr + done.stdout)[-2000:]


@dataclass(frozen=True)
class Published:
    """A repository as a server has it: its path on the server, and its key."""

    path: str
    key: Key
    kind: str

    @property
    def key_path(self) -> str:
        """The path of the key on the server."""
        return f"{self.path}{KEY_FILE}"


class Repositories:
    """Makes repositories below a directory, and keeps them there."""

    def __init__(self, directory: Path = SETTINGS / "stand-ins") -> None:
        self.directory = directory
        self.first = Key.generate(directory / "keys" / "first", "first")
        self.second = Key.generate(directory / "keys" / "second", "second")

    # --- NVIDIA's ----------------------------------------------------------------------------------------------------

    def publish(
        self, system: str, root: Path, *, key: Key | None = None, without: Iterable[str] = (), path: str = ""
    ) -> Published:
        """Lay out NVIDIA's repository for a system below the root of a server.

        `without` names branches ("595") and versions ("580.126.09") that are left out. What lay there is replaced.
        """
        key = key or self.first
        path = path or f"compute/cuda/repos/{system}/x86_64/"
        made = self._made(f"nvidia-{system}", key, functools.partial(_nvidia, system))
        if is_dnf(system):
            _lay_out_dnf(made, root / path, without, STREAMS_PLATFORM.get(system), DISTS[system])
        else:
            _lay_out_flat(made, root / path, without, key)
        (root / path / KEY_FILE).write_text(key.public)
        return Published(path, key, "dnf" if is_dnf(system) else "apt")

    def publish_archive(self, system: str, root: Path, *, key: Key | None = None) -> Published:
        """Lay out the distribution's own archive: kernels, headers and its drivers; for dnf also what EPEL has."""
        key = key or self.first
        path = f"archive/{system}/"
        made = self._made(f"archive-{system}", key, functools.partial(_archive, system))
        if is_dnf(system):
            _lay_out_dnf(made, root / path, (), None, DISTS[system])
        else:
            _lay_out_suite(made, root / path, SUITES[system], key)
        (root / path / KEY_FILE).write_text(key.public)
        return Published(path, key, "dnf" if is_dnf(system) else "apt")

    def _made(self, name: str, key: Key, build: Build) -> Path:
        """Return the directory of the packages of a repository; make them unless this recipe's are there."""
        recipe = hashlib.sha256()
        for module in (family, stub_contents, stub_packages, sys.modules[__name__]):
            recipe.update(inspect.getsource(module).encode())
        recipe.update(inspect.getsource(fabricated_hosts.elf_module).encode())
        recipe.update(repr(versions(name.partition("-")[2])).encode())
        if is_dnf(name.partition("-")[2]):
            recipe.update(key.fingerprint.encode())
        made = self.directory / f"{name}-{recipe.hexdigest()[:12]}"
        if not (made / "packages.json").exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
            entries = build(work)
            rpms = sorted(work.glob("*.rpm"))
            if rpms:
                key.sign_rpms(rpms)
            (work / "packages.json").write_text(json.dumps(entries))
            work.chmod(0o755)
            shutil.rmtree(made, ignore_errors=True)
            work.rename(made)
        return made


# --- which packages --------------------------------------------------------------------------------------------------


@functools.lru_cache
def versions(system: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return version, branch and flavours of each driver that NVIDIA's repository for a system has."""
    tables = shipped()
    row = next(row for row in tables.rows("systems.systems") if row["id"] == system)
    found = []
    for branch in tables.rows("drivers.branches"):
        if from_nvidia(Driver(branch["latest"], branch, "open", "nvidia_repo"), row, tables):
            kinds = tuple(modules_of(branch))
            if branch["branch"] == OLDER[1]:
                found.append((*OLDER, kinds))
            found.append((branch["latest"], branch["branch"], kinds))
    return found


def _cudas(system: str) -> list[str]:
    tables = shipped()
    kept = {branch for _, branch, _ in versions(system)}
    return sorted({row["cuda"] for row in tables.rows("drivers.branches") if row["branch"] in kept})


def _nvidia(system: str, directory: Path) -> list[dict[str, Any]]:
    if is_dnf(system):
        sets = [family.rpm_family(*driver, DISTS[system]) for driver in versions(system)]
        return _write_rpms([*sets, family.rpm_others(_cudas(system))], directory)
    make = family.ubuntu_family if system.startswith("ubuntu") else family.debian_family
    packages = [package for driver in versions(system) for package in make(*driver)]
    return _write_debs(packages + family.deb_others(_cudas(system)), directory)


def _archive(system: str, directory: Path) -> list[dict[str, Any]]:
    releases = KERNELS[system]
    if is_dnf(system):
        return _write_rpms([family.rpm_archive(), *(family.rpm_kernels(release) for release in releases)], directory)
    packages = family.deb_kernels(releases, "generic" if system.startswith("ubuntu") else "amd64")
    tables = shipped()
    row = next(row for row in tables.rows("systems.systems") if row["id"] == system)
    if system.startswith("ubuntu"):
        for own in row["distribution_drivers"]:
            version = own.get("version") or next(
                branch["latest"] for branch in tables.rows("drivers.branches") if branch["branch"] == own["branch"]
            )
            packages += family.ubuntu_server_family(version, own["branch"], own["modules"], releases)
    return _write_debs(packages, directory)


# --- apt -------------------------------------------------------------------------------------------------------------


def _write_debs(packages: Iterable[Package], directory: Path) -> list[dict[str, Any]]:
    entries = []
    for package in packages:
        file = write_deb(package, directory)
        data = file.read_bytes()
        stanza = f"{control(package)}Filename: @PLACE@{file.name}\nSize: {len(data)}\n"
        stanza += f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        entry: dict[str, Any] = {"file": file.name, "stanza": stanza, "component": package.component}
        entries.append(entry | {"branch": package.branch, "version": package.version})
    return entries


def _kept(made: Path, without: Iterable[str]) -> list[dict[str, Any]]:
    """Return the packages that a repository is to have."""
    gone = set(without)
    entries = json.loads((made / "packages.json").read_text())
    return [
        entry
        for entry in entries
        if entry["branch"] not in gone and (entry["branch"] is None or entry["version"].split("-")[0] not in gone)
    ]


def _link(made: Path, entries: Iterable[dict[str, Any]], directory: Path) -> None:
    for entry in entries:
        os.link(made / entry["file"], directory / entry["file"])


def _release(fields: dict[str, str], directory: Path, key: Key) -> None:
    """Write and sign the file Release, with sums of the lists of packages."""
    sums = ""
    for file in sorted(directory.rglob("Packages*")):
        data = file.read_bytes()
        sums += f" {hashlib.sha256(data).hexdigest()} {len(data)} {file.relative_to(directory)}\n"
    text = "".join(f"{name}: {value}\n" for name, value in fields.items())
    (directory / "Release").write_text(f"{text}Date: {formatdate(EPOCH, usegmt=True)}\nSHA256:\n{sums}")
    key.sign_release(directory)


def _lists(directory: Path, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "Packages").write_text(text)
    (directory / "Packages.gz").write_bytes(gzip.compress(text.encode(), 6, mtime=0))


def _lay_out_flat(made: Path, directory: Path, without: Iterable[str], key: Key) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    entries = _kept(made, without)
    _lists(directory, "\n".join(entry["stanza"].replace("@PLACE@", "./") for entry in entries))
    _link(made, entries, directory)
    _release({"Origin": "NVIDIA", "Label": "NVIDIA CUDA", "Architecture": "x86_64"}, directory, key)


def _lay_out_suite(made: Path, directory: Path, suite: str, key: Key) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    entries = _kept(made, ())
    (directory / "pool").mkdir(parents=True)
    _link(made, entries, directory / "pool")
    components = sorted({"main", "restricted", *(entry["component"] for entry in entries)})
    for component in components:
        own = [entry["stanza"].replace("@PLACE@", "pool/") for entry in entries if entry["component"] == component]
        _lists(directory / "dists" / suite / component / "binary-amd64", "\n".join(own))
    fields = {"Origin": "Test bed", "Suite": suite, "Codename": suite, "Architectures": "amd64"}
    _release(fields | {"Components": " ".join(components)}, directory / "dists" / suite, key)


# --- dnf -------------------------------------------------------------------------------------------------------------


def _write_rpms(sets: Iterable[Sequence[Package]], directory: Path) -> list[dict[str, Any]]:
    """Write the packages of each set with one run of rpmbuild, two at a time."""

    def write(packages: Sequence[Package]) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="rpms-") as work:
            write_rpms(packages, directory, Path(work))
        return [
            {
                "file": f"{package.name}-{package.tail}.rpm",
                "nevra": f"{package.name}-{package.epoch or '0'}:{package.tail}",
                "name": package.name,
                "branch": package.branch,
                "version": package.version,
            }
            for package in packages
        ]

    with ThreadPoolExecutor(2) as pool:
        return [entry for entries in pool.map(write, sets) for entry in entries]


def _lay_out_dnf(made: Path, directory: Path, without: Iterable[str], platform: str | None, dist: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    entries = _kept(made, without)
    _link(made, entries, directory)
    command = ["createrepo_c", "--quiet", "--no-database", "--compatibility", "--revision", str(EPOCH)]
    _run([*command, "--set-timestamp-to-revision", str(directory)])
    if platform:
        with tempfile.TemporaryDirectory(prefix="modules-") as work:
            modules = Path(work) / "modules.yaml"
            modules.write_text(_streams(entries, platform))
            _run(["modifyrepo_c", "--mdtype=modules", str(modules), str(directory / "repodata")])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}{done.stdout}"


def _streams(entries: Sequence[dict[str, Any]], platform: str) -> str:
    """Return the description of the streams: one for each branch and flavour, and those that follow the newest."""
    kmods = {"open": "kmod-nvidia-open-dkms", "dkms": "kmod-nvidia-latest-dkms"}
    branches = sorted({entry["branch"] for entry in entries if entry["branch"]}, key=int)
    documents = []
    for flavour, kmod in kmods.items():
        having = [branch for branch in branches if any(e["name"] == kmod and e["branch"] == branch for e in entries)]
        other = {"open": {"cuda-drivers", kmods["dkms"]}, "dkms": {"nvidia-open", kmods["open"]}}[flavour]
        wanted = {f"{branch}-{flavour}": {branch} for branch in having}
        wanted["open-dkms" if flavour == "open" else "latest-dkms"] = set(having)
        for stream, kept in wanted.items():
            artifacts = [e["nevra"] for e in entries if e["branch"] in kept and e["name"] not in other]
            documents.append(_stream(stream, sorted(artifacts), platform))
    return "".join(documents)


def _stream(stream: str, artifacts: Sequence[str], platform: str) -> str:
    context = hashlib.sha256(stream.encode()).hexdigest()[:8]
    lines = ["---", "document: modulemd", "version: 2", "data:", "  name: nvidia-driver", f"  stream: {stream!r}"]
    lines += [
        "  version: 20231114",
        f"  context: {context}",
        "  arch: x86_64",
        "  summary: stand-in of the driver's module",
    ]
    lines += [
        "  description: stand-in of the driver's module",
        "  license:",
        "    module: [Apache-2.0]",
        "  dependencies:",
    ]
    lines += [f"  - requires: {{{platform.partition(':')[0]}: [{platform.partition(':')[2]}]}}"]
    meta = "nvidia-open" if stream.endswith("open") or stream == "open-dkms" else "cuda-drivers"
    lines += ["  profiles:", "    default:", f"      rpms: [{meta}]", "  artifacts:", "    rpms:"]
    lines += [f"    - {artifact}" for artifact in artifacts]
    return "\n".join([*lines, "...", ""])
