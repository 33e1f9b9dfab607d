# SPDX-License-Identifier: Apache-2.0
"""Toolkits from archives: what is refused before anything is done, generations that are whole or not there, links."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redist_lab import PLATFORM, Mirror, a_file, install, kill_points, look, options


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []


def in_store(base: Path) -> list[str]:
    return [name for name in names(base / "toolkits") if name != ".lock"]


def test_a_look_tells_what_is_to_be_fetched_and_changes_nothing(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    answer = look(cuda_archive, base, mirror)
    assert [row["component"] for row in answer["archives"]] == ["cuda_cudart", "cuda_nvcc"]
    row = answer["archives"][1]
    assert row["url"] == str(mirror.directory / mirror.entry("cuda_nvcc")["relative_path"])
    assert (row["version"], row["title"], row["here"]) == ("12.9.79", "CUDA_NVCC", False)
    total = sum(row["size"] for row in answer["archives"])
    assert (answer["download_bytes"], answer["unpack_bytes"]) == (total, 4 * total)
    assert (answer["changed"], answer["generation"], answer["label"]) == (False, None, "12.9.1")
    assert not base.exists()


def test_a_look_counts_what_is_in_the_cache_already(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    rows = look(cuda_archive, tmp_path, mirror)["archives"]
    path = Path(cuda_archive.fetch(options(tmp_path, archive=rows[0]), False)["path"])
    assert path.parent == tmp_path / "cache/redist"
    assert path.name == f"{rows[0]['sha256']}-{rows[0]['file']}"
    again = look(cuda_archive, tmp_path, mirror)
    assert [row["here"] for row in again["archives"]] == [True, False]
    assert again["download_bytes"] == rows[1]["size"]
    path.write_bytes(b"x" * rows[0]["size"])
    assert look(cuda_archive, tmp_path, mirror)["archives"][0]["here"] is False


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"version": "12.9.0"}, "is the manifest of release 12.9.1, and 12.9.0 is asked for"),
        ({"product": "cudnn", "version": "12.9.1", "variant": "cuda12"}, "manifest of 'cuda', and 'cudnn' is asked"),
        ({"components": ["cuda_nvcc", "nvcc"]}, "no component nvcc for linux-x86_64; it has cuda_cudart, cuda_nvcc"),
        ({"platform": "linux-sbsa"}, "has nothing for 'linux-sbsa'; it has linux-x86_64"),
        ({"version": "12.9"}, "the version '12.9' of cuda is not understood; write it as '12.9.1'"),
        ({"manifest": "/nowhere/redistrib_12.9.1.json"}, "/nowhere/redistrib_12.9.1.json is not on this host"),
        ({"manifest": "mirror/redistrib_12.9.1.json"}, "write https://…"),
        ({"manifest": "ftp://mirror.lab/redistrib_12.9.1.json"}, "cannot be used: write https://…"),
        ({"free_factor": 1e12}, "gpulab_base_dir"),
    ],
)
def test_a_look_refuses_what_cannot_work_in_words(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(cuda_archive.Failed, match=words.replace("(", r"\(")):
        look(cuda_archive, tmp_path / "base", mirror, **given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("relative_path", "../../etc/cuda.tar.xz"),
        ("relative_path", "/etc/cuda.tar.xz"),
        ("relative_path", "https://elsewhere.example/cuda.tar.xz"),
        ("relative_path", "cuda_nvcc/.hidden"),
        ("relative_path", "a//b"),
        ("relative_path", "a b"),
        ("relative_path", None),
        ("sha256", None),
        ("sha256", ""),
        ("sha256", "A" * 64),
        ("sha256", "a" * 63),
        ("size", None),
        ("size", "0"),
        ("size", "-5"),
        ("size", "a lot"),
        ("size", "9" * 15),
        ("size", True),
    ],
)
def test_a_manifest_is_not_trusted(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path, key: str, value: object
) -> None:
    mirror.entry("cuda_nvcc")[key] = value
    mirror.save()
    with pytest.raises(cuda_archive.Failed, match=f"component cuda_nvcc: {key} is"):
        look(cuda_archive, tmp_path / "base", mirror)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n<!DOCTYPE html><title>Log in</title>", "is a web page and no manifest"),
        ('{"release_label": "12.9.1", "cuda_nv', "only part of one"),
        ("[]", "a JSON object is expected"),
        ("\udcff", "only part of one"),
    ],
)
def test_what_is_no_manifest_is_called_so(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path, text: str, words: str
) -> None:
    mirror.path.write_text(text, errors="surrogateescape")
    with pytest.raises(cuda_archive.Failed, match=words):
        look(cuda_archive, tmp_path / "base", mirror, components=["cuda_nvcc"])


def test_cudnn_is_taken_in_the_variant_and_version_asked_for(cuda_archive: ModuleType, tmp_path: Path) -> None:
    mirror = Mirror.of_cudnn(tmp_path / "mirror")
    assert look(cuda_archive, tmp_path / "base", mirror)["archives"][0]["version"] == "9.13.0.50"
    with pytest.raises(cuda_archive.Failed, match="in the variants cuda12, and cuda13 is asked for"):
        look(cuda_archive, tmp_path / "base", mirror, variant="cuda13")
    with pytest.raises(cuda_archive.Failed, match=r"has cuDNN 9\.13\.0\.50, and 9\.13\.0\.51 is asked for"):
        look(cuda_archive, tmp_path / "base", mirror, version="9.13.0.51")


def test_an_old_manifest_without_a_label_is_known_by_its_name(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    del mirror.content["release_label"], mirror.content["release_product"]
    mirror.save()
    assert look(cuda_archive, tmp_path, mirror)["label"] == "12.9.1"
    mirror.path = mirror.path.rename(mirror.directory / "some.json")
    with pytest.raises(cuda_archive.Failed, match="the manifest of release None"):
        look(cuda_archive, tmp_path, mirror)


def test_archives_may_lie_beside_the_manifest_and_the_manifest_be_a_file_address(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    for archive in mirror.directory.rglob("*.xz"):
        archive.rename(mirror.directory / archive.name)
    rows = look(cuda_archive, tmp_path / "base", mirror, manifest=mirror.path.as_uri())["archives"]
    assert Path(rows[0]["url"]).parent == mirror.directory
    assert cuda_archive.fetch(options(tmp_path / "base", archive=rows[0]), False)["changed"] is True


def test_archives_become_one_tree_with_every_licence_and_the_release_in_nvidias_form(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    generation = Path(install(cuda_archive, tmp_path, mirror))
    assert generation.parent == tmp_path / "toolkits"
    assert (generation / "bin/nvcc").read_text() == "nvcc old"
    assert (generation / "lib64/libcudart.so.12").read_text() == "old"
    assert (generation / "LICENSES/cuda_nvcc").read_text() == "of nvcc"
    assert (generation / "LICENSES/cuda_cudart").read_text() == "of cudart"
    assert not (generation / "LICENSE").exists()
    versions = json.loads((generation / "version.json").read_text())
    assert versions["cuda"] == {"name": "CUDA SDK", "version": "12.9.1"}
    assert versions["cuda_nvcc"] == {"name": "CUDA_NVCC", "version": "12.9.79"}
    manifest = json.loads((generation / "archive.json").read_text())
    assert (manifest["state"], manifest["series"], manifest["cuda_major"]) == ("complete", "12.9", 12)
    assert sorted(manifest["components"]) == ["cuda_cudart", "cuda_nvcc"]
    assert manifest["files"]["bin/nvcc"] == len("nvcc old")
    assert manifest["links"]["lib64"] == "lib"
    assert names(generation) == ["LICENSES", "archive.json", "bin", "include", "lib", "lib64", "version.json"]


def test_a_generation_with_the_same_digest_is_taken_as_it_is_and_nothing_is_fetched(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    answer = look(cuda_archive, tmp_path, mirror, manifest="/nowhere/redistrib_12.9.1.json", digest="d")
    assert (answer["generation"], answer["archives"], answer["download_bytes"]) == (generation, [], 0)
    again = cuda_archive.unpack(options(tmp_path, digest="d"), False)
    assert (again["changed"], again["generation"]) == (False, generation)
    assert install(cuda_archive, tmp_path, mirror, digest="other") != generation


def test_a_damaged_generation_is_not_taken(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    (Path(generation) / "bin/nvcc").write_text("cut")
    assert look(cuda_archive, tmp_path, mirror, digest="d")["generation"] is None
    second = install(cuda_archive, tmp_path, mirror)
    assert second != generation
    (Path(second) / "lib/libcudart.so.12").unlink()
    assert install(cuda_archive, tmp_path, mirror) not in (generation, second)


def test_two_archives_with_different_files_of_one_name_are_refused_and_leave_nothing(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.add("cuda_nvml_dev", {"include/shared.h": "other"})
    with pytest.raises(
        cuda_archive.Failed, match=r"the archives of cuda_cudart and cuda_nvml_dev both have include/shared\.h"
    ):
        install(cuda_archive, tmp_path / "base", mirror)
    assert in_store(tmp_path / "base") == []


def test_a_file_where_another_archive_has_a_directory_is_refused(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.add("cuda_zzz", {"bin": "a file"})
    with pytest.raises(cuda_archive.Failed, match="cuda_nvcc and cuda_zzz both have bin"):
        install(cuda_archive, tmp_path / "base", mirror)
    mirror.add("cuda_zzz", {"other": "x"}, links={"include": "bin"})
    with pytest.raises(cuda_archive.Failed, match="both have include"):
        install(cuda_archive, tmp_path / "base", mirror)
    mirror.add("cuda_aaa", {"other": "x", "lib": "a file"})
    with pytest.raises(cuda_archive.Failed, match="cuda_aaa and cuda_cudart both have lib"):
        install(cuda_archive, tmp_path / "base", mirror)


def test_a_link_that_leads_out_only_over_another_archives_link_is_refused(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.add("cuda_aaa", {"a/b/file": "x"}, links={"a/b/up": "../.."})
    mirror.add("cuda_zzz", {"file": "x"}, links={"out": "a/b/up/../x"})
    with pytest.raises(cuda_archive.Failed, match="the link out of the archives leads out of them"):
        install(cuda_archive, tmp_path / "base", mirror)
    assert in_store(tmp_path / "base") == []


def test_too_little_space_is_refused_with_path_and_variable_and_counts_what_will_be_removed(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_archive, "free_bytes", lambda path: 4096)
    mirror.add_members("big", [a_file("big-1/f", os.urandom(40000))])
    with pytest.raises(cuda_archive.Failed, match=rf"only 0 MiB are free in {tmp_path}, and about 1 MiB.*gpulab_base_"):
        look(cuda_archive, tmp_path, mirror)
    left = tmp_path / "toolkits/cuda-12.9.1-20260101T000000Z"
    left.mkdir(parents=True)
    (left / "half").write_bytes(os.urandom(400000))
    assert look(cuda_archive, tmp_path, mirror)["free_bytes"] > 400000
    with pytest.raises(cuda_archive.Failed, match="MiB are free"):
        install(cuda_archive, tmp_path, mirror)  # for nothing but the number says that anything was removed
    assert in_store(tmp_path) == []


def test_a_file_system_where_nothing_can_run_is_refused(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)

    class Noexec:
        f_flag = real.f_flag | os.ST_NOEXEC
        f_bavail, f_frsize = real.f_bavail, real.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda path: Noexec)
    with pytest.raises(cuda_archive.Failed, match=r"mounted noexec.*gpulab_base_dir"):
        look(cuda_archive, tmp_path, mirror)
    Noexec.f_flag = os.ST_RDONLY
    with pytest.raises(cuda_archive.Failed, match=r"read-only.*gpulab_base_dir"):
        look(cuda_archive, tmp_path, mirror)


def test_an_archive_that_changed_in_the_cache_is_not_unpacked(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    rows = look(cuda_archive, tmp_path, mirror)["archives"]
    with pytest.raises(cuda_archive.Failed, match="has not been fetched"):
        cuda_archive.unpack(options(tmp_path, archives=rows, digest="d"), False)
    paths = [Path(cuda_archive.fetch(options(tmp_path, archive=row), False)["path"]) for row in rows]
    content = bytearray(paths[0].read_bytes())
    content[100] ^= 1
    paths[0].write_bytes(content)
    with pytest.raises(cuda_archive.Failed, match="not the file that its manifest describes any more"):
        cuda_archive.unpack(options(tmp_path, archives=rows, digest="d"), False)
    assert in_store(tmp_path) == []


def test_downloads_go_where_they_are_not_kept(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    rows = look(cuda_archive, tmp_path, mirror)["archives"]
    for row in rows:
        cuda_archive.fetch(options(tmp_path, archive=row), False)
    cuda_archive.unpack(options(tmp_path, archives=rows, digest="d", keep_downloads=False), False)
    assert names(tmp_path / "cache/redist") == []


def test_everybody_may_read_a_toolkit_and_nobody_write_it_whatever_the_archive_says(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    members = [a_file("t/bin/tool", mode=0o6777), a_file("t/bin/private", mode=0o600), a_file("t/bin/own", mode=0o700)]
    mirror.add_members("tool", members)
    generation = Path(install(cuda_archive, tmp_path, mirror))
    modes = {name: (generation / "bin" / name).stat().st_mode & 0o7777 for name in ("tool", "private", "own")}
    assert modes == {"tool": 0o755, "private": 0o644, "own": 0o755}
    assert generation.stat().st_mode & 0o7777 == 0o755


def test_rows_that_did_not_come_from_a_look_are_refused(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    row = look(cuda_archive, tmp_path, mirror)["archives"][0]
    for change in ({"file": "../x"}, {"sha256": "x"}, {"size": 0}, {"component": "a/b"}):
        with pytest.raises(cuda_archive.Failed, match="not described as the step 'look' does it"):
            cuda_archive.fetch(options(tmp_path, archive={**row, **change}), False)


def test_check_mode_leaves_the_disk_alone(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    base = tmp_path / "base"
    rows = look(cuda_archive, base, mirror)["archives"]
    link, cuda = str(base / "cuda-12.9"), str(base / "cuda")
    assert cuda_archive.fetch(options(base, archive=rows[0]), True)["changed"] is True
    generation = cuda_archive.unpack(options(base, archives=rows, digest="d"), True)["generation"]
    assert cuda_archive.activate(options(base, link=link, generation=generation), True)["changed"] is True
    assert cuda_archive.default(options(base, link=cuda, target=link), True)["changed"] is True
    cudnn = str(base / "toolkits/cudnn-9.13.0.50-cuda12-20260101T000000Z")
    (tmp_path / "there/include").mkdir(parents=True)
    (tmp_path / "there/lib64").mkdir()
    for toolkits in ([link], [str(tmp_path / "there")]):
        assert cuda_archive.links(options(base, generation=cudnn, toolkits=toolkits), True)["changed"] is True
    assert not base.exists()
    generation = install(cuda_archive, base, mirror)
    before = sorted(base.rglob("*"))
    assert cuda_archive.remove(options(base, generations=[generation]), True)["removed"] == [generation]
    assert sorted(base.rglob("*")) == before


def test_a_link_is_switched_and_the_generation_before_goes(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    link = tmp_path / "local/cuda-12.9"
    old = install(cuda_archive, tmp_path, mirror, "one")
    answer = cuda_archive.activate(options(tmp_path, link=str(link), generation=old), False)
    assert (answer["changed"], answer["previous"], answer["removed"]) == (True, None, [])
    new = install(cuda_archive, tmp_path, mirror, "two")
    answer = cuda_archive.activate(options(tmp_path, link=str(link), generation=new), False)
    assert (answer["changed"], answer["previous"], answer["removed"]) == (True, old, [old])
    assert os.readlink(link) == new
    again = cuda_archive.activate(options(tmp_path, link=str(link), generation=new), False)
    assert (again["changed"], again["removed"]) == (False, [])


def test_halves_of_any_run_go_with_the_next_switch(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    half = tmp_path / "toolkits/cuda-12.4.1-20260101T000000Z"
    half.mkdir()
    answer = cuda_archive.activate(options(tmp_path, link=str(tmp_path / "cuda-12.9"), generation=generation), False)
    assert answer["removed"] == [str(half)]


def test_generations_of_other_series_stay(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    other = install(cuda_archive, tmp_path, Mirror.of_cuda(tmp_path / "m", "12.8.1"))
    cudnn = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "n"))
    new = install(cuda_archive, tmp_path, mirror)
    cuda_archive.activate(options(tmp_path, link=str(tmp_path / "cuda-12.9"), generation=new), False)
    assert Path(other).is_dir()
    assert Path(cudnn).is_dir()


def test_a_generation_that_somebody_uses_is_kept_until_nobody_does(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    link = str(tmp_path / "cuda-12.9")
    old = install(cuda_archive, tmp_path, mirror, "one")
    cuda_archive.activate(options(tmp_path, link=link, generation=old), False)
    new = install(cuda_archive, tmp_path, mirror, "two")
    with open(Path(old) / "bin/nvcc") as stream:
        program = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
        job = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[stream.fileno()])
    try:
        assert job.stdout
        job.stdout.readline()
        answer = cuda_archive.activate(options(tmp_path, link=link, generation=new), False)
        assert answer["removed"] == []
        assert answer["kept"][0]["path"] == old
        assert f"process {job.pid}" in answer["kept"][0]["why"]
        with pytest.raises(cuda_archive.Failed, match=f"is in use: process {job.pid}.*Nothing was removed"):
            cuda_archive.remove(options(tmp_path, generations=[new, old], links=[link]), False)
        assert os.readlink(link) == new
    finally:
        job.communicate()
    assert cuda_archive.activate(options(tmp_path, link=link, generation=new), False)["removed"] == [old]


@pytest.mark.parametrize("spelled", ["{}/", "{}//", "{}/."])
def test_a_base_directory_that_is_spelled_otherwise_costs_nothing_that_was_just_made(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path, spelled: str
) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    given = options(tmp_path, link=str(tmp_path / "cuda-12.9"), generation=generation)
    answer = cuda_archive.activate({**given, "base_dir": spelled.format(tmp_path)}, False)
    assert (answer["removed"], os.path.isdir(generation)) == ([], True)
    cudnn = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m"))
    given = options(tmp_path, generation=cudnn, toolkits=[generation])
    assert cuda_archive.links({**given, "base_dir": spelled.format(tmp_path)}, False)["removed"] == []


def test_a_newer_generation_is_another_runs_and_stays(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    newer = str(tmp_path / "toolkits/cuda-12.9.1-29990101T000000Z")
    shutil.copytree(generation, newer, symlinks=True)
    link = str(tmp_path / "cuda-12.9")
    assert cuda_archive.activate(options(tmp_path, link=link, generation=generation), False)["removed"] == []
    assert cuda_archive.activate(options(tmp_path, link=link, generation=newer), False)["removed"] == [generation]
    # On the way back the newer one is what the link led to.
    shutil.copytree(newer, generation, symlinks=True)
    assert cuda_archive.activate(options(tmp_path, link=link, generation=generation), False)["removed"] == [newer]


def test_a_manifest_that_cannot_be_read_costs_nobody_a_toolkit(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    generation = Path(install(cuda_archive, tmp_path, mirror))
    (generation / "archive.json").unlink()
    (generation / "archive.json").mkdir()  # to open it fails, as on a disk with errors
    with pytest.raises(OSError, match=r"archive\.json"):
        install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m"))
    assert (generation / "bin/nvcc").exists()


def test_what_others_put_at_the_place_of_a_link_is_left(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    place = tmp_path / "cuda-12.9"
    place.mkdir()
    with pytest.raises(
        cuda_archive.Failed, match=r"was not made by this project\. It is left as it is: remove the pack"
    ):
        cuda_archive.activate(options(tmp_path, link=str(place), generation=generation), False)
    place.rmdir()
    place.symlink_to("/srv/apps/cuda")
    with pytest.raises(cuda_archive.Failed, match="leads to /srv/apps/cuda, which was not made by this project"):
        cuda_archive.activate(options(tmp_path, link=str(place), generation=generation), False)
    assert os.readlink(place) == "/srv/apps/cuda"


def test_only_a_complete_generation_of_the_store_is_activated(cuda_archive: ModuleType, tmp_path: Path) -> None:
    half = tmp_path / "toolkits/cuda-12.9.1-20260101T000000Z"
    half.mkdir(parents=True)
    link = str(tmp_path / "cuda-12.9")
    with pytest.raises(cuda_archive.Failed, match="is not complete"):
        cuda_archive.activate(options(tmp_path, link=link, generation=str(half)), False)
    for path in ("/etc", str(tmp_path / "toolkits/../cuda-12.9.1-20260101T000000Z"), str(half / "bin")):
        with pytest.raises(cuda_archive.Failed, match="is no generation below"):
            cuda_archive.activate(options(tmp_path, link=link, generation=path), False)


def test_the_default_is_led_to_a_toolkit_and_tells_what_was_before(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    series, link = str(tmp_path / "cuda-12.9"), str(tmp_path / "cuda")
    with pytest.raises(cuda_archive.Failed, match="there is no toolkit at"):
        cuda_archive.default(options(tmp_path, link=link, target=series), False)
    cuda_archive.activate(options(tmp_path, link=series, generation=install(cuda_archive, tmp_path, mirror)), False)
    assert cuda_archive.default(options(tmp_path, link=link, target=series), False)["previous"] is None
    assert os.readlink(link) == "cuda-12.9"
    assert cuda_archive.default(options(tmp_path, link=link, target=series), False)["changed"] is False
    foreign = tmp_path / "cuda-11.8"
    foreign.mkdir()
    answer = cuda_archive.default(options(tmp_path, link=link, target=str(foreign)), False)
    assert (answer["changed"], answer["previous"]) == (True, "cuda-12.9")
    given = options(tmp_path, link=link, target=series)
    with pytest.raises(cuda_archive.Failed, match=r"leads to cuda-11\.8, and this project did not lead it there"):
        cuda_archive.default(given, False)
    assert cuda_archive.default({**given, "replace_foreign_link": True}, False)["previous"] == "cuda-11.8"
    os.unlink(link)
    os.symlink("/nowhere/cuda", link)
    assert cuda_archive.default(given, False)["changed"] is True  # a dangling link serves nobody


def test_a_directory_or_an_alternative_is_never_replaced_as_default(
    cuda_archive: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, link = tmp_path / "cuda-12.9", tmp_path / "cuda"
    target.mkdir()
    link.mkdir()
    given = options(tmp_path, link=str(link), target=str(target), replace_foreign_link=True)
    with pytest.raises(cuda_archive.Failed, match="is no link, and was not made by this project"):
        cuda_archive.default(given, False)
    link.rmdir()
    alternatives = tmp_path / "alternatives"
    alternatives.mkdir()
    (alternatives / "cuda").symlink_to("/usr/local/cuda-12.4")
    link.symlink_to(alternatives / "cuda")
    monkeypatch.setattr(sys.modules["ansible.module_utils.cuda_store"], "_ALTERNATIVES", str(alternatives))
    with pytest.raises(cuda_archive.Failed, match="update-alternatives --set cuda"):
        cuda_archive.default(given, False)


def toolkit(path: Path) -> str:
    (path / "include").mkdir(parents=True)
    (path / "targets/lib").mkdir(parents=True)
    (path / "lib64").symlink_to("targets/lib")
    return str(path)


def test_cudnn_becomes_part_of_toolkits_and_a_new_one_leaves_no_stale_links(
    cuda_archive: ModuleType, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    toolkits = [toolkit(tmp_path / "a"), toolkit(tmp_path / "b")]
    old = install(cuda_archive, base, Mirror.of_cudnn(tmp_path / "m1", "9.12.0.46", ("include/cudnn_old.h",)))
    answer = cuda_archive.links(options(base, generation=old, toolkits=toolkits), False)
    assert len(answer["made"]) == 2 * 4
    assert answer["links"][f"{toolkits[0]}/lib64/libcudnn.so.9"] == f"{old}/lib/libcudnn.so.9"
    assert (tmp_path / "a/targets/lib/libcudnn.so.9").read_text() == "9.12.0.46"
    assert cuda_archive.links(options(base, generation=old, toolkits=toolkits), False)["changed"] is False
    new = install(cuda_archive, base, Mirror.of_cudnn(tmp_path / "m2"))
    given = options(base, generation=new, toolkits=toolkits[:1], links=list(answer["links"]))
    other = {path for path in answer["links"] if path.startswith(toolkits[1])}
    second = cuda_archive.links(given, False)
    assert set(second["stale"]) == {f"{toolkits[0]}/include/cudnn_old.h", *other}
    assert second["removed"] == [old]
    assert (tmp_path / "a/include/cudnn.h").read_text() == "9.13.0.50"
    assert not os.path.lexists(tmp_path / "a/include/cudnn_old.h")
    assert names(tmp_path / "b/include") == []


def test_links_of_a_toolkit_that_is_known_by_another_path_now_stay(cuda_archive: ModuleType, tmp_path: Path) -> None:
    place = toolkit(tmp_path / "a")
    (tmp_path / "cuda").symlink_to("a")
    generation = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m"))
    known = str(tmp_path / "cuda")
    made = cuda_archive.links(options(tmp_path, generation=generation, toolkits=[known]), False)["made"]
    answer = cuda_archive.links(options(tmp_path, generation=generation, toolkits=[place], links=made), False)
    assert (answer["made"], answer["stale"]) == ([], [])
    assert (tmp_path / "a/include/cudnn.h").exists()


def test_links_of_a_cudnn_for_another_cuda_are_not_stale(cuda_archive: ModuleType, tmp_path: Path) -> None:
    place = toolkit(tmp_path / "a")
    generation = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m"))
    made = cuda_archive.links(options(tmp_path, generation=generation, toolkits=[place]), False)["made"]
    other = generation.replace("cuda12", "cuda13")
    shutil.copytree(generation, other, symlinks=True)
    assert cuda_archive.links(options(tmp_path, generation=other, links=made), False)["stale"] == []
    assert cuda_archive.links(options(tmp_path, generation=generation, links=made), False)["stale"] == sorted(made)


def test_an_older_cudnn_stays_while_a_toolkit_leads_to_it(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    ours = install(cuda_archive, tmp_path, mirror)
    old = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m1", "9.12.0.46"))
    cuda_archive.links(options(tmp_path, generation=old, toolkits=[ours]), False)
    new = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m2"))
    other = toolkit(tmp_path / "other")
    assert cuda_archive.links(options(tmp_path, generation=new, toolkits=[other]), False)["removed"] == []
    assert cuda_archive.links(options(tmp_path, generation=new, toolkits=[other, ours]), False)["removed"] == [old]


def test_a_cudnn_that_others_put_into_a_toolkit_is_named_and_nothing_is_changed(
    cuda_archive: ModuleType, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    toolkits = [toolkit(tmp_path / "a"), toolkit(tmp_path / "b")]
    (tmp_path / "b/include/cudnn.h").write_text("by hand")
    (tmp_path / "b/targets/lib/libcudnn.so.8").symlink_to("/opt/cudnn8/libcudnn.so.8")
    generation = install(cuda_archive, base, Mirror.of_cudnn(tmp_path / "m"))
    with pytest.raises(cuda_archive.Failed) as failed:
        cuda_archive.links(options(base, generation=generation, toolkits=toolkits), False)
    assert f"{toolkits[1]}/include/cudnn.h, {toolkits[1]}/lib64/libcudnn.so.8 was not made" in str(failed.value)
    assert names(tmp_path / "a/include") == []


def test_cudnn_is_not_linked_into_what_lies_outside_of_a_toolkit(cuda_archive: ModuleType, tmp_path: Path) -> None:
    generation = install(cuda_archive, tmp_path, Mirror.of_cudnn(tmp_path / "m"))
    place = tmp_path / "distribution"
    place.mkdir()
    (place / "include").symlink_to("/usr/include")
    with pytest.raises(cuda_archive.Failed, match="leads out of the toolkit, to /usr/include"):
        cuda_archive.links(options(tmp_path, generation=generation, toolkits=[str(place)]), False)
    with pytest.raises(cuda_archive.Failed, match="there is no toolkit at"):
        cuda_archive.links(options(tmp_path, generation=generation, toolkits=[str(tmp_path / "nowhere")]), False)


def test_removal_takes_what_is_ours_and_leaves_the_rest(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    generation = install(cuda_archive, base, mirror)
    series, cuda = str(tmp_path / "cuda-12.9"), str(tmp_path / "cuda")
    cuda_archive.activate(options(base, link=series, generation=generation), False)
    cuda_archive.default(options(base, link=cuda, target=series), False)
    foreign, plain = tmp_path / "foreign", tmp_path / "plain"
    foreign.symlink_to("/usr")
    plain.write_text("x")
    links = [series, cuda, str(foreign), str(plain), str(tmp_path / "gone")]
    answer = cuda_archive.remove(options(base, generations=[generation], links=links), False)
    assert answer["removed"] == [cuda, series, generation]
    assert [row["path"] for row in answer["left"]] == [str(foreign), str(plain)]
    assert names(base) == []
    assert names(tmp_path) == ["base", "foreign", "mirror", "plain"]
    assert cuda_archive.remove(options(base, generations=[generation], links=links), False)["changed"] is False


def test_removal_refuses_what_is_no_generation(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    generation = install(cuda_archive, tmp_path, mirror)
    for path in ("/usr", str(tmp_path / "toolkits"), f"{generation}/../../mirror", f"{generation}/bin"):
        with pytest.raises(cuda_archive.Failed, match="is no generation below"):
            cuda_archive.remove(options(tmp_path, generations=[path, generation]), False)
    assert Path(generation).is_dir()


def test_a_run_beside_another_one_waits_and_then_says_so(
    cuda_archive: ModuleType, cuda_store: ModuleType, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_store, "LOCK_SECONDS", 0)
    with (
        cuda_store.locked(str(tmp_path)),
        pytest.raises(cuda_archive.Failed, match="another run is at work in"),
    ):
        install(cuda_archive, tmp_path, mirror)


def state(cuda_store: ModuleType, link: Path) -> str:
    """What a user of the link has; it must be whole, as everything must be that says so of itself."""
    manifests = {path: cuda_store.read_manifest(path) for path in cuda_store.generations(str(link.parent))}
    for path, manifest in manifests.items():
        assert manifest is None or cuda_store.damaged(path, manifest) is None
    return str(manifests[os.readlink(link)]["digest"])


def test_a_run_killed_at_any_moment_leaves_the_old_toolkit_or_the_new_one_and_the_next_run_finishes(
    cuda_archive: ModuleType, cuda_store: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    base, link = tmp_path / "base", tmp_path / "base/cuda-12.9"
    first = install(cuda_archive, base, mirror, "old")
    cuda_archive.activate(options(base, link=str(link), generation=first), False)
    renewed = Mirror.of_cuda(tmp_path / "renewed", text="new")
    rows = look(cuda_archive, base, renewed)["archives"]
    for row in rows:
        cuda_archive.fetch(options(base, archive=row), False)

    def upgrade() -> None:
        generation = cuda_archive.unpack(options(base, archives=rows, digest="new"), False)["generation"]
        cuda_archive.activate(options(base, link=str(link), generation=generation), False)

    seen = []
    for _ in kill_points(upgrade, base):
        seen.append(state(cuda_store, link))
        upgrade()
        assert state(cuda_store, link) == "new"
        assert (link / "bin/nvcc").read_text() == "nvcc new"
        assert in_store(base) == [os.path.basename(os.readlink(link))]
    assert seen == sorted(seen, reverse=True)  # first always the old one, then always the new one
    assert set(seen) == {"old", "new"}
    assert len(seen) > 30


def test_a_removal_killed_at_any_moment_is_finished_by_the_next_run(
    cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    lab = tmp_path / "lab"
    base = lab / "base"
    generation = install(cuda_archive, base, mirror)
    series, cuda = str(lab / "cuda-12.9"), str(lab / "cuda")
    cuda_archive.activate(options(base, link=series, generation=generation), False)
    cuda_archive.default(options(base, link=cuda, target=series), False)
    given = options(base, generations=[generation], links=[series, cuda])
    for _ in kill_points(lambda: cuda_archive.remove(given, False), lab):
        assert os.path.lexists(series) or not os.path.lexists(cuda)
        cuda_archive.remove(given, False)
        assert names(lab) == ["base"]
        assert in_store(base) == []


def test_links_of_cudnn_killed_at_any_moment_are_finished_by_the_next_run(
    cuda_archive: ModuleType, tmp_path: Path
) -> None:
    lab = tmp_path / "lab"
    base, place = lab / "base", toolkit(lab / "toolkit")
    old = install(cuda_archive, base, Mirror.of_cudnn(tmp_path / "m1", "9.12.0.46", ("include/cudnn_old.h",)))
    cuda_archive.links(options(base, generation=old, toolkits=[place]), False)
    new = install(cuda_archive, base, Mirror.of_cudnn(tmp_path / "m2"))
    given = options(base, generation=new, toolkits=[place])
    for _ in kill_points(lambda: cuda_archive.links(given, False), lab):
        # Nothing that was there is ever missing in between.
        assert (Path(place) / "lib64/libcudnn.so.9").exists()
        assert (Path(place) / "include/cudnn.h").exists()
        cuda_archive.links(given, False)
        assert names(Path(place) / "include") == ["cudnn.h"]
        assert in_store(base) == [os.path.basename(new)]


def test_the_module_runs_as_ansible_runs_it_and_hides_the_password_of_a_mirror(mirror: Mirror, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "tasks": [
                {
                    "cuda_archive": {
                        "step": "look",
                        "base_dir": str(tmp_path / "base"),
                        "manifest": f"https://lab:{'s3cret'}@127.0.0.1:1/redistrib_12.9.1.json",
                        "product": "cuda",
                        "version": "12.9.1",
                        "platform": PLATFORM,
                        "components": ["cuda_nvcc"],
                    }
                }
            ],
        }
    ]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(root / "ansible.cfg"), "no_proxy": "*"}
    with contextlib.suppress(KeyError):
        del environment["https_proxy"]
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-vvv", "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", "play.yml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "https://127.0.0.1:1/redistrib_12.9.1.json cannot be fetched: the connection was refused" in done.stdout
    assert "s3cret" not in done.stdout.split("TASK [cuda_archive]")[1].replace(str(play), "")
