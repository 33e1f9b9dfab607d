# SPDX-License-Identifier: Apache-2.0
"""Unpacking archives that are not trusted into one tree: nothing is written outside it, nothing but plain files,
directories and links within comes out, and two archives may share a path only where they agree about it."""

from __future__ import annotations

import contextlib
import filecmp
import lzma
import os
import shutil
import tarfile
import zlib

from ansible.module_utils.cuda_store import MIB, Failed
from ansible.module_utils.redist_source import sha256_of

#: NVIDIA's largest archive has some ten thousand members, and unpacks to less than ten times its size.
MOST_MEMBERS = 200000
MOST_GROWTH = 100
_FLOOR = 256 * MIB
#: Names and links are written into headers of their own; one this large is meant to exhaust memory.
_LARGEST_HEADER = MIB
_LONGEST = 4096
_CHUNK = 1024 * 1024
LICENSES = "LICENSES"


class Refused(Exception):
    """An archive holds what it must not; the message says what."""


class _Member(tarfile.TarInfo):
    """A member whose header is looked at before anything of it is read."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        member = super().frombuf(buf, encoding, errors)
        headers = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
        if member.type in (*headers, tarfile.GNUTYPE_LONGLINK) and not 0 <= member.size <= _LARGEST_HEADER:
            raise Refused(f"a header of {member.size} bytes")
        return member


def extract(path, archive, directory):
    """Unpack one archive into an empty directory, without its top directory."""
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size != archive["size"] or sha256_of(stream) != archive["sha256"]:
                raise Refused("it is not the file that its manifest describes any more; fetch it again")
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:*", tarinfo=_Member) as tar:
                _Extraction(directory, archive["size"]).run(tar)
    except FileNotFoundError as error:
        if error.filename != path:
            raise
        raise Failed(f"{archive['file']} has not been fetched: {path} is not there") from None
    except Refused as error:
        raise Failed(f"{archive['file']} cannot be unpacked: {error}") from None
    except tarfile.CompressionError as error:
        raise Failed(
            f"{archive['file']} cannot be unpacked: the host's Python lacks a module for it ({error}). Install the "
            "full Python of the distribution"
        ) from None
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise Failed(f"{archive['file']} is no archive, or is broken inside ({error})") from None


class _Extraction:
    def __init__(self, directory, size):
        self.directory = directory
        self.limit = max(_FLOOR, MOST_GROWTH * size)
        self.written = 0
        self.files = set()
        self.directories = {()}
        self.links = {}
        self.top = None

    def run(self, tar):
        for count, member in enumerate(iter(tar.next, None)):
            if count >= MOST_MEMBERS:
                raise Refused(f"it has more than {MOST_MEMBERS} members")
            tar.members = []  # the module would keep all of them
            words = self._words(member.name, member)
            if words:
                self._take(tar, member, words)
            elif not member.isdir():
                raise Refused(f"{member.name!r} lies beside its top directory")
        if not self.files:
            raise Refused("it holds no files")
        # Links come last: while files are written there is none that could lead one astray.
        for words, target in self.links.items():
            os.symlink(target, self._place(words))

    def _words(self, name, member):
        """Return the parts of a member's name below the top directory."""
        words = [word for word in name.split("/") if word not in ("", ".")]
        if name.startswith("/") or ".." in words or "\0" in name or len(name) > _LONGEST:
            raise Refused(f"the name {name[:200]!r} leads out of it")
        if not words:
            return ()
        if self.top is None:
            self.top = words[0]
        if words[0] != self.top or (len(words) == 1 and not member.isdir()):
            raise Refused(f"{name[:200]!r} lies beside its top directory {self.top!r}")
        return tuple(words[1:])

    def _take(self, tar, member, words):
        if words in self.files or words in self.links:
            raise Refused(f"{member.name!r} is in it twice")
        self._parents(words, member)
        if member.isdir():
            self._make(words)
        elif words in self.directories:
            raise Refused(f"{member.name!r} is in it twice")
        elif member.issym():
            self.links[words] = self._target(member, words)
        elif member.islnk():
            self._hard_link(member, words)
        elif member.isreg() and not member.issparse():
            self._write(tar, member, words)
        else:
            raise Refused(f"{member.name!r} is no plain file, directory or link")

    def _parents(self, words, member):
        for length in range(1, len(words)):
            parent = words[:length]
            if parent in self.files or parent in self.links:
                raise Refused(f"{member.name!r} lies below what is no directory")
            self._make(parent)

    def _make(self, words):
        if words not in self.directories:
            os.mkdir(self._place(words), 0o755)
            self.directories.add(words)

    def _target(self, member, words):
        target = member.linkname
        depth = len(words) - 1
        for word in target.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(word, 1)
            if depth < 0:
                break
        if not target or target.startswith("/") or depth < 0 or "\0" in target or len(target) > _LONGEST:
            raise Refused(f"the link {member.name!r} leads to {target[:200]!r}, out of it")
        return target

    def _hard_link(self, member, words):
        source = self._words(member.linkname, member)
        if source not in self.files:
            raise Refused(f"{member.name!r} is a link to {member.linkname!r}, which is no file before it")
        os.link(self._place(source), self._place(words), follow_symlinks=False)
        self.files.add(words)

    def _write(self, tar, member, words):
        self.written += member.size
        if member.size < 0 or self.written > self.limit:
            raise Refused(f"it unpacks to more than {self.limit // MIB} MiB")
        place = self._place(words)
        mode = 0o755 if member.mode & 0o111 else 0o644
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream, tar.extractfile(member) as content:
            shutil.copyfileobj(content, stream, _CHUNK)  # it raises where the archive ends within the file
        os.chmod(place, mode)
        stamp = min(max(0, int(member.mtime)), 2**32 - 1)
        os.utime(place, (stamp, stamp))
        self.files.add(words)

    def _place(self, words):
        return os.path.join(self.directory, *words)


def merge(part, tree, component, owners):
    """Move an unpacked archive into the tree. ``owners`` says which archive brought what is there."""
    for directory, names, files in os.walk(part):
        relative = os.path.relpath(directory, part)
        # os.walk lists links to directories among these; they are moved as the links they are.
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]
        names[:] = [name for name in names if name not in links]
        for name in names:
            _merge_directory(os.path.normpath(os.path.join(relative, name)), tree, component, owners)
        for name in sorted(files + links):
            path = os.path.normpath(os.path.join(relative, name))
            target = _license(path, component) or path
            _merge_file(os.path.join(part, path), target, tree, component, owners)
    shutil.rmtree(part)


def _license(path, component):
    """Every archive brings its licence under the same name; all are kept."""
    return os.path.join(LICENSES, component) if path in ("LICENSE", "LICENSE.txt") else None


def _merge_directory(path, tree, component, owners):
    place = os.path.join(tree, path)
    if os.path.islink(place) or (os.path.lexists(place) and not os.path.isdir(place)):
        raise Failed(_clash(path, component, owners))
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o755)
    owners.setdefault(path, component)


def _merge_file(source, path, tree, component, owners):
    place = os.path.join(tree, path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if os.path.lexists(place):
        if not _same(source, place):
            raise Failed(_clash(path, component, owners))
        return
    os.rename(source, place)
    owners[path] = component


def _same(first, second):
    if os.path.islink(first) or os.path.islink(second):
        return os.path.islink(first) and os.path.islink(second) and os.readlink(first) == os.readlink(second)
    return os.path.isfile(second) and filecmp.cmp(first, second, shallow=False)


def _clash(path, component, owners):
    return (
        f"the archives of {owners.get(path, 'another component')} and {component} both have {path}, and not the same; "
        "they do not belong together"
    )


def contents(tree):
    """Return ``({path: size}, {path: target})`` of a tree. A link that leads out of it, however twisted, is refused."""
    root = os.path.realpath(tree)
    files, links = {}, {}
    for directory, names, others in os.walk(tree):
        for name in names + others:
            place = os.path.join(directory, name)
            path = os.path.relpath(place, tree)
            if os.path.islink(place):
                if not (os.path.realpath(place) + os.sep).startswith(root + os.sep):
                    raise Failed(f"the link {path} of the archives leads out of them, to {os.path.realpath(place)}")
                links[path] = os.readlink(place)
            elif name in others:
                files[path] = os.lstat(place).st_size
    return files, links
