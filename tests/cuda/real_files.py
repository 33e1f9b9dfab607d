# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's real files, from the package index and the package archive that this machine is configured for.

A wheel is read member by member where its server answers to byte ranges, so that 5 MB of a wheel of 650 MB cost 5 MB.
What is read is checked against the wheel's RECORD, and that against the checksum that is written down with the wheel.
Files of Debian packages are verified by apt, with the archive's signature.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import ssl
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from testbed import SUITE, Unavailable, apt_sources, ca_bundle, first_error, pip_configuration

PIECE = 4 << 20  # bytes of one request; what is taken of a wheel lies together
TIMEOUT = 120
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index, and the SHA-256 of its RECORD, which has that of every file."""

    requirement: str
    record: str


@dataclass(frozen=True)
class Package:
    """A package of a Debian archive."""

    name: str
    suite: str
    component: str


class Ranges(io.RawIOBase):
    """A file on a server as something to read and seek in."""

    def __init__(self, url: str) -> None:
        self.url, self.position = url, 0
        with self._open(0, 0) as answer:
            whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status != 206 or not whole.isdigit():
            raise OSError("the server does not answer to ranges")
        self.size = int(whole)

    def _open(self, first: int, last: int) -> urllib.request.addinfourl:
        bundle, proxy = ca_bundle(), pip_configuration().get("proxy")
        context = ssl.create_default_context(cafile=str(bundle) if bundle else None)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
        if proxy:
            handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={first}-{last}"})
        answer: urllib.request.addinfourl = urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT)
        return answer

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        last = min(self.position + len(buffer), self.size) - 1
        if last < self.position:
            return 0
        with self._open(self.position, last) as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def wheel_files(wheel: Wheel, wanted: Wanted) -> dict[str, bytes]:
    """Return the files of a wheel that are wanted, by their paths in it; raise Unavailable where it cannot be had."""
    with _opened(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        record = archive.read(name)
        if hashlib.sha256(record).hexdigest() != wheel.record:
            raise AssertionError(f"{wheel.requirement} is not the wheel that was written down: its RECORD differs")
        sums = {path: digest for path, digest, _ in csv.reader(record.decode().splitlines()) if digest}
        files = {path: archive.read(path) for path in sums if wanted(path)}
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        assert sums[path] == f"sha256={digest}", f"{wheel.requirement}: {path} differs from its RECORD"
    return files


@contextmanager
def _opened(wheel: Wheel) -> Iterator[zipfile.ZipFile]:
    """Open a wheel where it lies; where that cannot be, download it whole for as long as it is needed."""
    url = _address(wheel)
    if url.startswith("file:"):
        with zipfile.ZipFile(unquote(urlsplit(url).path)) as archive:
            yield archive
        return
    try:
        opened = zipfile.ZipFile(io.BufferedReader(Ranges(url), PIECE))
    except (OSError, zipfile.BadZipFile):
        opened = None
    if opened:
        with opened:
            yield opened
        return
    with tempfile.TemporaryDirectory(prefix="wheel-") as directory:
        _pip("download", "--no-deps", "--dest", directory, wheel.requirement)
        (file,) = Path(directory).glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            yield archive


def _address(wheel: Wheel) -> str:
    """Return where pip would take a wheel from."""
    with tempfile.TemporaryDirectory(prefix="report-") as directory:
        report = Path(directory) / "report.json"
        _pip("install", "--dry-run", "--ignore-installed", "--no-deps", f"--report={report}", wheel.requirement)
        (found,) = json.loads(report.read_text())["install"]
    return str(found["download_info"]["url"])


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"pip {arguments[0]} {arguments[-1]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def package_files(package: Package, wanted: Wanted) -> dict[str, bytes]:
    """Return the files of a Debian package that are wanted, by their paths (`usr/bin/nvcc`); links are left out."""
    with tempfile.TemporaryDirectory(prefix="deb-") as directory:
        file = _download(package, Path(directory))
        contents = subprocess.run(["dpkg-deb", "--fsys-tarfile", file], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
        found = {path: archive.extractfile(member) for path, member in members.items() if wanted(path)}
        return {path: stream.read() for path, stream in found.items() if stream}


def _download(package: Package, directory: Path) -> Path:
    """Download a package with an apt of its own: this machine's archive, another suite, nothing of its state."""
    sources = apt_sources().splitlines()
    uri = next(line.split()[1] for line in sources if f" {SUITE} " in line)
    listing = directory / "sources.list"
    listing.write_text(f"deb [signed-by={KEYRING}] {uri} {package.suite} {package.component}\n")
    for part in ("state/lists/partial", "cache/archives/partial"):
        (directory / part).mkdir(parents=True)
    (directory / "status").touch()
    settings = {
        "APT::Sandbox::User": "",  # it could not write here
        "APT::Architecture": "amd64",
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "status",
        "Dir::Cache": directory / "cache",
        "Dir::Etc::sourcelist": listing,
        "Dir::Etc::sourceparts": "/dev/null",
    }
    options = [f"--option={key}={value}" for key, value in settings.items()]
    for action in (["update"], ["download", package.name]):
        command = ["apt-get", "--quiet", *options, *action]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        # apt-get update says a missing archive only as a warning.
        if done.returncode != 0 or "Failed to fetch" in done.stderr:
            raise Unavailable(f"{package.name} of Debian {package.suite} cannot be had: {first_error(done.stderr)}")
    (file,) = directory.glob("*.deb")
    return file
