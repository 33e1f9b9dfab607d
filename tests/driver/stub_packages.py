# SPDX-License-Identifier: Apache-2.0
"""Stub packages: what one is, and how it becomes a .deb or an .rpm."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EPOCH = 1_700_000_000  # the time of everything that is made here, so that a build can be repeated


@dataclass(frozen=True)
class Link:
    """A symbolic link among the files of a package."""

    target: str


Content = str | bytes | Link


@dataclass(frozen=True)
class Package:
    """A stub: real in name, version and relations, small in what it holds.

    Relations are written as the package manager writes them. `scripts` are those of the package manager by name
    (postinst, prerm; %post, %preun). `branch` is that of the driver it belongs to, None for the rest.
    """

    name: str
    version: str
    release: str = ""
    epoch: str = ""
    arch: str = ""
    depends: Sequence[str] = ()
    provides: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    replaces: Sequence[str] = ()
    files: Mapping[str, Content] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    branch: str | None = None
    component: str = "main"

    @property
    def tail(self) -> str:
        """What an rpm is called after its name: version, release and architecture."""
        return f"{self.version}-{self.release or '1'}.{self.arch or 'x86_64'}"


def mode_of(path: str, content: str | bytes) -> int:
    """Return the mode of a file: programs can be run."""
    return 0o755 if content[:2] in ("#!", b"#!") or "/bin/" in path else 0o644


# --- deb -------------------------------------------------------------------------------------------------------------


def control(package: Package) -> str:
    """Return the control file of a .deb."""
    relations = {
        "Depends": package.depends,
        "Provides": package.provides,
        "Conflicts": package.conflicts,
        "Replaces": package.replaces,
    }
    fields = {"Package": package.name, "Version": package.version, "Architecture": package.arch or "amd64"}
    fields |= {"Maintainer": "Test bed <test-bed@example.invalid>", "Section": "non-free/libs", "Priority": "optional"}
    fields |= {name: ", ".join(values) for name, values in relations.items() if values}
    fields["Description"] = "stand-in of the tests, it drives nothing"
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def packed(files: Iterable[tuple[str, Content, int]]) -> bytes:
    """Return files as a compressed archive, with the directories that they lie in, owned by root."""
    stream = io.BytesIO()
    seen: set[str] = set()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content, mode in files:
            parts = path.strip("/").split("/")
            for depth in range(len(parts)):
                directory = "./" + "".join(f"{part}/" for part in parts[:depth])
                if directory not in seen:
                    seen.add(directory)
                    entry = _entry(directory, 0o755)
                    entry.type = tarfile.DIRTYPE
                    archive.addfile(entry)
            entry = _entry("./" + path.strip("/"), mode)
            if isinstance(content, Link):
                entry.type, entry.linkname = tarfile.SYMTYPE, content.target
                archive.addfile(entry)
            else:
                data = content.encode() if isinstance(content, str) else content
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(stream.getvalue(), 1, mtime=0)


def _entry(name: str, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime, entry.uname, entry.gname = mode, EPOCH, "root", "root"
    return entry


def write_deb(package: Package, directory: Path) -> Path:
    """Write a .deb: an `ar` archive of its format, its control files and its files."""
    scripts = [(name, text, 0o755) for name, text in package.scripts.items()]
    files = [
        (path, content, 0o777 if isinstance(content, Link) else mode_of(path, content))
        for path, content in sorted(package.files.items())
    ]
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": packed([("control", control(package), 0o644), *scripts]),
        "data.tar.gz": packed(files),
    }
    file = directory / f"{package.name}_{package.version.replace(':', '%3a')}_{package.arch or 'amd64'}.deb"
    with file.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for name, data in members.items():
            stream.write(f"{name:<16}{EPOCH:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
            stream.write(data + b"\n" * (len(data) % 2))
    return file


# --- rpm -------------------------------------------------------------------------------------------------------------

MACROS = {
    "_buildhost": "test-bed",
    "_build_id_links": "none",
    "__os_install_post": "%{nil}",
    "__spec_install_pre": "%{nil}",
    "debug_package": "%{nil}",
    "_binary_payload": "w1.gzdio",
    "source_date_epoch_from_changelog": "0",
    "use_source_date_epoch_as_buildtime": "1",
    "clamp_mtime_to_source_date_epoch": "1",
}


def write_rpms(packages: Sequence[Package], directory: Path, work: Path) -> None:
    """Write .rpm files with one run of rpmbuild: one spec, whose subpackages they are."""
    source = work / "source"
    lines = ["Name: stand-in", "Version: 1", "Release: 1", "Summary: stand-ins of the tests", "License: Apache-2.0"]
    lines += [
        "AutoReqProv: no",
        "%description",
        "Stand-ins of the tests.",
        "%install",
        'cp -a "%{source}"/. "%{buildroot}"',
    ]
    for package in packages:
        lines += _subpackage(package)
        for path, content in package.files.items():
            file = source / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                file.unlink(missing_ok=True)
                file.symlink_to(content.target)
            else:
                file.write_bytes(content.encode() if isinstance(content, str) else content)
                file.chmod(mode_of(path, content))
    source.mkdir(parents=True, exist_ok=True)
    spec = work / "stand-in.spec"
    spec.write_text("\n".join(lines) + "\n")
    macros = MACROS | {"_rpmdir": str(directory), "_topdir": str(work), "source": str(source)}
    macros["_build_name_fmt"] = "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"
    command = ["rpmbuild", "--quiet", "-bb", "--buildroot", str(work / "root"), "--target", "x86_64", str(spec)]
    for name, value in macros.items():
        command += ["--define", f"{name} {value}"]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(work), "SOURCE_DATE_EPOCH": str(EPOCH)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def _subpackage(package: Package) -> list[str]:
    lines = [f"%package -n {package.name}", "Summary: stand-in of the tests", f"Version: {package.version}"]
    lines += [f"Release: {package.release or '1'}", "AutoReqProv: no"]
    lines += [f"Epoch: {package.epoch}"] * bool(package.epoch)
    lines += [f"BuildArch: {package.arch}"] * bool(package.arch)
    relations = {
        "Requires": package.depends,
        "Provides": package.provides,
        "Conflicts": package.conflicts,
        "Obsoletes": package.replaces,
    }
    lines += [f"{name}: {value}" for name, values in relations.items() for value in values]
    lines += [f"%description -n {package.name}", "It drives nothing."]
    for name, text in package.scripts.items():
        lines += [f"{name} -n {package.name}", text]
    lines += [f"%files -n {package.name}", "%defattr(-,root,root,-)", *sorted(package.files)]
    return lines
