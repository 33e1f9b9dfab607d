# SPDX-License-Identifier: Apache-2.0
"""Archives that are meant to do harm: each is refused in words, and nothing is written beside the tree."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redist_lab import Member, a_file, a_link, a_thing, pack


def unpack(module: ModuleType, tmp_path: Path, members: list[Member], mode: str = "w:xz") -> Path:
    data = pack(tmp_path / "in/archive.tar", members, mode)
    return unpack_bytes(module, tmp_path, data)


def unpack_bytes(module: ModuleType, tmp_path: Path, data: bytes) -> Path:
    path, tree = tmp_path / "in/archive.tar", tmp_path / "deep/down/tree"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    tree.mkdir(parents=True)
    row = {"file": "a.tar.xz", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    module.extract(str(path), row, str(tree))
    return tree


GOOD = a_file("top/bin/tool", mode=0o755)

HOSTILE: dict[str, tuple[list[Member], str]] = {
    "a name that leads up": ([GOOD, a_file("top/../../evil")], "leads out of it"),
    "a name that leads up at its end": ([GOOD, a_thing("top/..", tarfile.DIRTYPE)], "leads out of it"),
    "an absolute name": ([GOOD, a_file("/tmp/evil")], "leads out of it"),
    "a second top directory": ([GOOD, a_file("other/file")], "lies beside its top directory"),
    "a file at the top": ([a_file("file")], "lies beside its top directory"),
    "an absolute link": ([GOOD, a_link("top/evil", "/etc")], "leads to '/etc', out of it"),
    "a link that leads up": ([GOOD, a_link("top/bin/evil", "../../etc")], "out of it"),
    "a link that comes back in": ([GOOD, a_link("top/evil", "../tree/bin")], "out of it"),
    "an empty link": ([GOOD, a_link("top/evil", "")], "out of it"),
    "a file below a link": ([a_link("top/d", "bin"), GOOD, a_file("top/d/tool")], "lies below what is no directory"),
    "a file below a file": ([GOOD, a_file("top/bin/tool/x")], "lies below what is no directory"),
    "a file in place of a link": ([GOOD, a_link("top/a", "bin"), a_file("top/a")], "is in it twice"),
    "a link in place of a file": ([GOOD, a_link("top/bin/tool", "x")], "is in it twice"),
    "a file in place of a directory": ([GOOD, a_file("top/bin")], "is in it twice"),
    "a directory in place of a link": (
        [GOOD, a_link("top/a", "bin"), a_thing("top/a", tarfile.DIRTYPE)],
        "is in it twice",
    ),
    "a hard link out": ([GOOD, a_link("top/x", "../etc/passwd", tarfile.LNKTYPE)], "leads out of it"),
    "an absolute hard link": ([GOOD, a_link("top/x", "/etc/passwd", tarfile.LNKTYPE)], "leads out of it"),
    "a hard link to a link": (
        [GOOD, a_link("top/l", "bin"), a_link("top/x", "top/l", tarfile.LNKTYPE)],
        "which is no file before it",
    ),
    "a device": ([GOOD, a_thing("top/dev", tarfile.CHRTYPE)], "no plain file, directory or link"),
    "a disk": ([GOOD, a_thing("top/dev", tarfile.BLKTYPE)], "no plain file, directory or link"),
    "a pipe": ([GOOD, a_thing("top/pipe", tarfile.FIFOTYPE)], "no plain file, directory or link"),
    "a very long name": ([GOOD, a_file("top/" + "a/" * 4000 + "x")], "leads out of it"),
    "nothing": ([a_thing("top", tarfile.DIRTYPE)], "it holds no files"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused(redist_unpack: ModuleType, tmp_path: Path, kind: str) -> None:
    members, words = HOSTILE[kind]
    with pytest.raises(redist_unpack.Failed, match=words) as failed:
        unpack(redist_unpack, tmp_path, members)
    assert str(failed.value).startswith("a.tar.xz cannot be unpacked: ")
    assert {path.name for path in tmp_path.rglob("*")} & {"evil", "passwd"} == set()


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "w"])
def test_good_archives_of_any_compression_are_unpacked_without_their_top_directory(
    redist_unpack: ModuleType, tmp_path: Path, mode: str
) -> None:
    members = [
        a_thing("./top/", tarfile.DIRTYPE),
        GOOD,
        a_link("./top/lib/libx.so", "libx.so.1"),
        a_file("./top/lib/libx.so.1", b"x"),
        a_link("top/lib/deep/up", "../../bin"),
        a_link("top/lib/hard", "top/lib/libx.so.1", tarfile.LNKTYPE),
    ]
    tree = unpack(redist_unpack, tmp_path, members, mode)
    assert (tree / "lib/libx.so").read_bytes() == b"x"
    assert (tree / "lib/deep/up/tool").stat().st_mode & 0o7777 == 0o755
    assert (tree / "lib/hard").stat().st_ino == (tree / "lib/libx.so.1").stat().st_ino


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="half of it"),
        pytest.param(lambda data: data[:-1000], id="without its end"),
        pytest.param(lambda data: b"<html>" + data, id="a page"),
        pytest.param(lambda data: b"", id="nothing"),
    ],
)
def test_what_is_no_whole_archive_is_refused(redist_unpack: ModuleType, tmp_path: Path, damage: Any) -> None:
    data = pack(tmp_path / "in/archive.tar", [a_file("top/f", os.urandom(200_000)), GOOD])
    with pytest.raises(redist_unpack.Failed, match=r"is no archive, or is broken inside"):
        unpack_bytes(redist_unpack, tmp_path, damage(data))


def test_a_plain_archive_that_ends_within_a_file_is_refused(redist_unpack: ModuleType, tmp_path: Path) -> None:
    data = pack(tmp_path / "in/archive.tar", [GOOD, a_file("top/f", b"x" * 200_000)], "w")
    with pytest.raises(redist_unpack.Failed, match="broken inside"):
        unpack_bytes(redist_unpack, tmp_path, data[:100_000])


def test_an_archive_with_too_many_members_is_refused(
    redist_unpack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redist_unpack, "MOST_MEMBERS", 100)
    with pytest.raises(redist_unpack.Failed, match="more than 100 members"):
        unpack(redist_unpack, tmp_path, [a_file(f"top/{number}") for number in range(101)])


def test_an_archive_that_grows_without_measure_is_refused_before_it_fills_the_disk(
    redist_unpack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redist_unpack, "_FLOOR", 1024 * 1024)
    members = [a_file(f"top/{number}", bytes(700_000)) for number in range(2)]
    with pytest.raises(redist_unpack.Failed, match="it unpacks to more than 1 MiB"):
        unpack(redist_unpack, tmp_path, members)
    assert sorted(path.name for path in (tmp_path / "deep/down/tree").iterdir()) == ["0"]


def test_a_file_with_holes_is_refused(redist_unpack: ModuleType, tmp_path: Path) -> None:
    member, _ = a_file("top/holes")
    member.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,7", "GNU.sparse.size": str(2**50)}
    with pytest.raises(redist_unpack.Failed, match=r"no plain file|more than"):
        unpack(redist_unpack, tmp_path, [GOOD, (member, b"content")])


def test_a_header_that_would_fill_the_memory_is_refused(redist_unpack: ModuleType, tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 8 * 2**30
    good = io.BytesIO()
    with tarfile.open(fileobj=good, mode="w") as tar:
        tar.addfile(GOOD[0], io.BytesIO(GOOD[1]))
    data = good.getvalue()[:1024] + header.tobuf(tarfile.GNU_FORMAT) + bytes(10240)
    with pytest.raises(redist_unpack.Failed, match="a header of 8589934592 bytes"):
        unpack_bytes(redist_unpack, tmp_path, data)


def test_a_host_python_without_lzma_is_told_what_it_lacks(
    redist_unpack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*_: Any, **__: Any) -> None:
        raise tarfile.CompressionError("lzma module is not available")

    monkeypatch.setattr(tarfile, "open", without)
    path = tmp_path / "archive"
    path.write_bytes(b"x")
    row = {"file": "a.tar.xz", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    with pytest.raises(redist_unpack.Failed, match="Install the full Python of the distribution"):
        redist_unpack.extract(str(path), row, str(tmp_path))
