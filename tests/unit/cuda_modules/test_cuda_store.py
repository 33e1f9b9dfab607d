# SPDX-License-Identifier: Apache-2.0
"""Who uses a generation, and which links are ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

NAME = "cuda-12.9.1-20260102T000000Z"


@pytest.fixture
def generation(tmp_path: Path) -> Path:
    path = tmp_path / "base/toolkits" / NAME
    (path / "bin").mkdir(parents=True)
    return path


def process(proc: Path, pid: int, **files: str) -> Path:
    place = proc / str(pid)
    (place / "fd").mkdir(parents=True)
    (place / "ns").mkdir()
    content = {"stat": f"{pid} (a) b) S 1", "maps": "", "cmdline": "job\0--x\0", "mountinfo": "", **files}
    for name, text in content.items():
        (place / name).write_text(text)
    (place / "exe").symlink_to("/usr/bin/job")
    (place / "cwd").symlink_to("/")
    (place / "ns/mnt").symlink_to("mnt:[1]")
    return place


def relink(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def waits(place: Path, maps: str) -> None:
    (place / "stat").write_text("7 (job) D 1")
    (place / "maps").write_text(maps)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda place, path: relink(place / "exe", f"{path}/bin/nvcc"), "its program"),
        (lambda place, path: relink(place / "cwd", str(path)), "its directory"),
        (lambda place, path: relink(place / "fd/3", f"{path}/bin/x (deleted)"), "an open file"),
        (lambda place, path: (place / "maps").write_text(f"1-2 r-xp 0 08:01 5 {path}/lib/libx.so\n"), "a library"),
        (lambda place, path: waits(place, f"1-2 r-xp 0 08:01 5 {path}/lib/libx.so\n"), "a library"),
        (
            lambda place, path: (place / "mountinfo").write_text(
                f"36 35 98:0 /x/toolkits/{NAME} /mnt rw - ext4 d rw\n"
            ),
            "a mount in its container",
        ),
    ],
)
def test_every_way_to_use_a_generation_is_seen(
    cuda_store: ModuleType, generation: Path, tmp_path: Path, change: object, how: str
) -> None:
    proc = tmp_path / "proc"
    place = process(proc, 7)
    (proc / "self").mkdir()
    assert cuda_store.users_of(str(generation), str(proc)) == []
    change(place, generation)  # type: ignore[operator]
    assert cuda_store.users_of(str(generation), str(proc)) == [{"pid": 7, "command": "job --x", "how": how}]


def test_a_process_that_hangs_in_the_kernel_counts_and_one_that_waits_for_a_disk_does_not(
    cuda_store: ModuleType, generation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_store, "_PATIENCE", 0.5)
    place = process(tmp_path / "proc", 7)
    waits(place, "")
    assert cuda_store.users_of(str(generation), str(tmp_path / "proc")) == []
    (place / "maps").unlink()
    os.mkfifo(place / "maps")  # whoever reads it waits
    users = cuda_store.users_of(str(generation), str(tmp_path / "proc"))
    assert [row["how"] for row in users] == ["unknown: it hangs in the kernel"]


def test_a_generation_with_a_longer_name_is_another_one(
    cuda_store: ModuleType, generation: Path, tmp_path: Path
) -> None:
    place = process(tmp_path / "proc", 7, maps=f"1-2 r-xp 0 08:01 5 {generation}-2/lib/libx.so\n")
    relink(place / "cwd", f"{generation}-2")
    (place / "mountinfo").write_text(f"36 35 98:0 /x/toolkits/{NAME}-2 /mnt rw - ext4 d rw\n")
    assert cuda_store.users_of(str(generation), str(tmp_path / "proc")) == []


def test_a_real_process_is_seen(cuda_store: ModuleType, generation: Path) -> None:
    program = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=generation, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout
        job.stdout.readline()
        assert [row["pid"] for row in cuda_store.users_of(str(generation))] == [job.pid]
        job.communicate()
    assert cuda_store.users_of(str(generation)) == []


def test_links_into_the_store_are_ours_directly_or_over_one_of_ours(
    cuda_store: ModuleType, generation: Path, tmp_path: Path
) -> None:
    base = str(tmp_path / "base")
    places = {name: tmp_path / name for name in ("cuda-12.9", "cuda", "foreign", "sly", "loop")}
    places["cuda-12.9"].symlink_to(generation)
    places["cuda"].symlink_to("cuda-12.9")
    places["foreign"].symlink_to("/usr/local")
    places["sly"].symlink_to(f"{tmp_path}/base/toolkits/../elsewhere")
    places["loop"].symlink_to("loop")
    ours = {name: cuda_store.is_ours(base, str(path)) for name, path in places.items()}
    assert ours == {"cuda-12.9": True, "cuda": True, "foreign": False, "sly": False, "loop": False}
    (tmp_path / "other").symlink_to("base")  # the same base directory under another name
    assert cuda_store.is_ours(str(tmp_path / "other"), str(places["cuda"])) is True


def test_a_generation_loses_its_manifest_first(
    cuda_store: ModuleType, generation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (generation / "archive.json").write_text('{"state": "complete"}')

    def fail(path: str) -> None:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(cuda_store.shutil, "rmtree", fail)
    with pytest.raises(OSError, match="Input/output"):
        cuda_store.remove_generation(str(generation))
    assert cuda_store.half_made(str(generation.parents[1])) == [str(generation)]


def test_generations_are_sorted_by_age_and_nothing_else_is_one(cuda_store: ModuleType, tmp_path: Path) -> None:
    store = tmp_path / "toolkits"
    names = [
        "cuda-12.10.1-20260101T000000Z",
        "cudnn-9.13.0.50-cuda12-20260102T000000Z",
        "cuda-12.9.1-20260103T000000Z",
        "cuda-12.9.1-20260103T000000Z-2",
        "cuda-12.9.1-20260103T000000Z-10",
    ]
    for name in (*names, "mine", "cuda-12.9.1", ".lock"):
        (store / name).mkdir(parents=True)
    (store / "cuda-1.1.1-20260101T000000Z").symlink_to("mine")
    (store / "cuda-1.1.2-20260101T000000Z").write_text("a file")
    assert [os.path.basename(path) for path in cuda_store.generations(str(tmp_path))] == names
    assert cuda_store.describe_name(names[1]) == {"product": "cudnn", "version": "9.13.0.50", "cuda_major": 12}
    assert cuda_store.generations(str(tmp_path), "cudnn") == [str(store / names[1])]
