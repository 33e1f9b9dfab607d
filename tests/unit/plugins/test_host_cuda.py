# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and cuDNN on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_cuda, host_packages
from ansible.module_utils.host_files import HostFiles, printable
from hypothesis import given
from hypothesis import strategies as st

HEADER = "#ifndef X_\n#define CUDNN_MAJOR 9\n# define CUDNN_MINOR  10\n#define CUDNN_PATCHLEVEL 2\n#endif\n"


NOBODYS = {"package": None, "ours": False, "link": None}


def files(root: Path) -> HostFiles:
    return HostFiles(str(root), {})


def cuda(root: Path, scope: str = "system", base_dir: str = "/opt/gpulab", kind: str | None = None) -> host_cuda.Cuda:
    return host_cuda.Cuda(files(root), base_dir, scope, kind)


def toolkits(root: Path, **more: str) -> list[dict[str, Any]]:
    return cuda(root, **more).toolkits()


def cudnn(root: Path, kind: str | None = None) -> list[dict[str, Any]]:
    return cuda(root, kind=kind).cudnn()


def test_toolkits_newest_first_and_the_one_that_cuda_leads_to(tmp_path: Path) -> None:
    assert toolkits(tmp_path) == []
    fabricated.toolkit(tmp_path, "9.2.148")
    fabricated.toolkit(tmp_path, "12.4.1", default=True)
    fabricated.toolkit(tmp_path, "13.0.2")
    fabricated.write(tmp_path, "usr/local/cuda-10.1/version.txt", "CUDA Version 10.1.243\n")
    fabricated.write(tmp_path, "usr/local/cuda-11.0/bin/nvcc")  # no file tells its version
    fabricated.write(tmp_path, "usr/local/cuda-11.8/lib64/libcudart.so.11.0")  # a library, and no toolkit
    fabricated.write(tmp_path, "usr/local/cudatoolkit/version.json", "{}")
    fabricated.link(tmp_path, "usr/local/cuda-12", "/usr/local/cuda-12.4")
    assert [(row["path"], row["version"], row["default"]) for row in toolkits(tmp_path)] == [
        ("/usr/local/cuda-13.0", "13.0.2", False),
        ("/usr/local/cuda-12.4", "12.4.1", True),
        ("/usr/local/cuda-10.1", "10.1.243", False),
        ("/usr/local/cuda-9.2", "9.2.148", False),
        ("/usr/local/cuda-11.0", None, False),
    ]


def test_a_toolkit_in_the_directory_cuda_itself_is_the_default(tmp_path: Path) -> None:
    fabricated.write(tmp_path, "usr/local/cuda/version.json", '{"cuda": {"version": "12.4.1"}}')
    assert toolkits(tmp_path) == [
        {
            "path": "/usr/local/cuda",
            "real": "/usr/local/cuda",
            "version": "12.4.1",
            "default": True,
            "link": False,
            "ours": False,
            "package": None,
            "nvcc": False,
        }
    ]


@pytest.mark.parametrize("text", ["{half", "[]", "{}", '{"cuda": "12"}'])
def test_a_version_that_cannot_be_read_is_null_with_a_reason(tmp_path: Path, text: str) -> None:
    fabricated.write(tmp_path, "usr/local/cuda-12.4/version.json", text)
    fabricated.write(tmp_path, "usr/local/cuda-12.4/bin/nvcc")
    here = cuda(tmp_path)
    assert [row["version"] for row in here.toolkits()] == [None]
    assert "version.json" in here.files.unknown["cuda./usr/local/cuda-12.4"]


def test_the_distributions_toolkit(tmp_path: Path) -> None:
    fabricated.write(tmp_path, "usr/bin/nvcc")
    (row,) = toolkits(tmp_path)
    assert (row["path"], row["version"], row["nvcc"], row["package"]) == ("/usr/bin/nvcc", None, True, None)
    fabricated.distribution_toolkit(tmp_path, "11.8.89")
    (row,) = toolkits(tmp_path, kind="apt")
    assert (row["path"], row["version"], row["nvcc"]) == ("/usr/lib/cuda", "11.8.89", True)
    assert (row["package"], row["ours"], row["default"]) == ("nvidia-cuda-toolkit", False, False)


def test_a_link_to_a_toolkits_compiler_is_no_toolkit_of_its_own(tmp_path: Path) -> None:
    fabricated.toolkit(tmp_path, "12.4.1")
    fabricated.link(tmp_path, "usr/bin/nvcc", "/usr/local/cuda-12.4/bin/nvcc")
    assert len(toolkits(tmp_path)) == 1
    fabricated.write(tmp_path, "usr/lib/cuda/version.txt", "CUDA Version 11.8.89\n")
    assert [(row["path"], row["nvcc"]) for row in toolkits(tmp_path)][1:] == [("/usr/lib/cuda", False)]


@pytest.mark.parametrize("place", ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/local/cuda-12.4/lib64"])
def test_cudnns_library_and_no_link_to_it(tmp_path: Path, place: str) -> None:
    fabricated.write(tmp_path, f"{place}/libcudnn.so.9.10.2")
    fabricated.link(tmp_path, f"{place}/libcudnn.so.9", "libcudnn.so.9.10.2")
    fabricated.write(tmp_path, f"{place}/libcudnn_ops.so.9.10.2")
    assert cudnn(tmp_path) == [
        {"path": f"/{place}/libcudnn.so.9.10.2", "version": "9.10.2", "kind": "library", **NOBODYS}
    ]


@pytest.mark.parametrize("place", ["usr/include", "usr/include/x86_64-linux-gnu", "usr/local/cuda-12.4/include"])
@pytest.mark.parametrize("name", ["cudnn_version.h", "cudnn.h", "cudnn_version_v9.h"])
def test_cudnns_header(tmp_path: Path, place: str, name: str) -> None:
    fabricated.write(tmp_path, f"{place}/{name}", HEADER)
    fabricated.write(tmp_path, f"{place}/cudnn_graph.h", HEADER)
    assert cudnn(tmp_path) == [{"path": f"/{place}/{name}", "version": "9.10.2", "kind": "header", **NOBODYS}]


def test_one_header_with_several_names_is_one(tmp_path: Path) -> None:
    place = "usr/include/x86_64-linux-gnu"
    fabricated.write(tmp_path, f"{place}/cudnn_version_v9.h", HEADER)
    fabricated.link(tmp_path, "usr/include/cudnn_version.h", "/etc/alternatives/cudnn_version_h")
    fabricated.link(tmp_path, "etc/alternatives/cudnn_version_h", f"/{place}/cudnn_version_v9.h")
    assert [row["path"] for row in cudnn(tmp_path)] == [f"/{place}/cudnn_version_v9.h"]


def test_who_owns_cudnn(tmp_path: Path) -> None:
    place = "usr/lib/x86_64-linux-gnu"
    for name in ("libcudnn.so.9.10.2", "libcudnn.so.8.9.7"):
        fabricated.write(tmp_path, f"{place}/{name}")
    fabricated.write(tmp_path, "var/lib/dpkg/info/libcudnn9-cuda-12.list", f"/.\n/usr\n/{place}/libcudnn.so.9.10.2\n")
    fabricated.write(tmp_path, "var/lib/dpkg/info/libother:amd64.list", f"/{place}/libcudnn.so.8.9.7\n")
    packages = {row["version"]: row["package"] for row in cudnn(tmp_path, "apt")}
    assert packages == {"9.10.2": "libcudnn9-cuda-12", "8.9.7": None}


def test_nothing_is_asked_of_rpm_about_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fabricated.write(tmp_path, "bin/rpm", f"#!/bin/sh\ntouch {tmp_path}/asked\necho x\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    fabricated.write(tmp_path, "usr/lib64/libcudnn.so.9.10.2")
    assert cudnn(tmp_path, "dnf")[0]["package"] is None
    assert not (tmp_path / "asked").exists()


def test_a_toolkit_of_ours_is_called_as_people_call_it(tmp_path: Path) -> None:
    made = fabricated.store_toolkit(tmp_path, "12.9.1", default=True)
    fabricated.link(tmp_path, "usr/local/cuda-12", "cuda-12.9")
    fabricated.packaged_toolkit(tmp_path, "12.4.1")
    fabricated.link(tmp_path, "usr/local/cuda-11.8", "/data/cuda/11.8")
    fabricated.write(tmp_path, "data/cuda/11.8/version.txt", "CUDA Version 11.8.89\n")
    ours, packages, elsewhere = toolkits(tmp_path, kind="apt")
    assert (ours["path"], ours["real"], ours["version"]) == ("/usr/local/cuda-12.9", made, "12.9.1")
    assert (ours["link"], ours["ours"], ours["default"], ours["package"]) == (True, True, True, None)
    assert (packages["package"], packages["ours"], packages["link"]) == ("cuda-nvcc-12-4", False, False)
    assert (elsewhere["path"], elsewhere["real"]) == ("/usr/local/cuda-11.8", "/data/cuda/11.8")
    assert (elsewhere["link"], elsewhere["ours"], elsewhere["nvcc"]) == (True, False, False)


def test_in_user_scope_our_toolkits_lie_below_the_base_directory_and_the_systems_are_seen(tmp_path: Path) -> None:
    base = "home/ada/.local/share/gpulab"
    fabricated.store_toolkit(tmp_path, "12.9.1", default=True, prefix=base, base=base)
    fabricated.toolkit(tmp_path, "13.0.2", default=True)
    here = cuda(tmp_path, scope="user", base_dir=f"/{base}")
    assert [(row["path"], row["ours"], row["default"]) for row in here.toolkits()] == [
        ("/usr/local/cuda-13.0", False, False),
        (f"/{base}/cuda-12.9", True, True),
    ]
    assert here.default() == {
        "link": f"/{base}/cuda",
        "exists": True,
        "is_link": True,
        "target": "cuda-12.9",
        "real": f"/{base}/toolkits/cuda-12.9.1-{fabricated.STAMP}",
        "alternative": None,
    }
    assert here.store.rows[0]["links"] == [f"/{base}/cuda-12.9"]


def test_a_base_directory_that_is_a_link_is_the_same_store_by_both_names(tmp_path: Path) -> None:
    fabricated.link(tmp_path, "opt/gpulab", "/data/gpulab")
    fabricated.generation(tmp_path, "cuda", "12.9.1", base="data/gpulab")
    fabricated.generation(tmp_path, "cuda", "12.8.1", base="data/gpulab")
    fabricated.link(tmp_path, "usr/local/cuda-12.9", f"/opt/gpulab/toolkits/cuda-12.9.1-{fabricated.STAMP}")
    fabricated.link(tmp_path, "usr/local/cuda-12.8", f"../../data/gpulab/toolkits/cuda-12.8.1-{fabricated.STAMP}")
    here = cuda(tmp_path)
    assert [(row["path"], row["ours"]) for row in here.toolkits()] == [
        ("/usr/local/cuda-12.9", True),
        ("/usr/local/cuda-12.8", True),
    ]
    assert [row["links"] for row in here.store.rows] == [["/usr/local/cuda-12.8"], ["/usr/local/cuda-12.9"]]


# --- the default -----------------------------------------------------------------------------------------------------


def test_no_default_a_directory_and_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    nothing = {"link": "/usr/local/cuda", "target": None, "real": None, "alternative": None}
    assert cuda(tmp_path).default() == {**nothing, "exists": False, "is_link": False}
    fabricated.link(tmp_path, "usr/local/cuda", "cuda-12.4")
    assert cuda(tmp_path).default() == {**nothing, "exists": True, "is_link": True, "target": "cuda-12.4"}
    (tmp_path / "usr/local/cuda").unlink()
    (tmp_path / "usr/local/cuda").mkdir()
    directory = {**nothing, "exists": True, "is_link": False, "real": "/usr/local/cuda"}
    assert cuda(tmp_path).default() == directory


def test_the_default_by_way_of_update_alternatives(tmp_path: Path) -> None:
    fabricated.packaged_toolkit(tmp_path, "12.4.1")
    fabricated.packaged_toolkit(tmp_path, "12.9.1")
    fabricated.default_toolkit(tmp_path, "/usr/local/cuda-12.4", alternatives=True)
    default = cuda(tmp_path).default()
    assert (default["target"], default["real"]) == ("/etc/alternatives/cuda", "/usr/local/cuda-12.4")
    choices = ["/usr/local/cuda-12.4", "/usr/local/cuda-12.9"]
    assert default["alternative"] == {"mode": "auto", "choices": choices, "current": "/usr/local/cuda-12.4"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("manual\n/usr/local/cuda\n\n/usr/local/cuda-12.4\n124\n\n", ("manual", ["/usr/local/cuda-12.4"])),
        # Followers have two lines above and one with every choice; Red Hat's file ends without an empty line.
        ("auto\n/x\ncuda-man\n/x/man\n\n/a\n1\n/a/man\n/b\n2\n/b/man\n", ("auto", ["/a", "/b"])),
        ("auto\n/x\n\n", ("auto", [])),
        ("", None),
        ("automatic\n/x\n\n/a\n1\n", None),
        ("auto", None),
    ],
)
def test_files_of_update_alternatives(text: str, expected: tuple[str, list[str]] | None) -> None:
    found = host_cuda.read_alternative(text)
    assert (found and (found["mode"], found["choices"])) == expected


def test_alternatives_that_cannot_be_read_are_null_with_a_reason(tmp_path: Path) -> None:
    fabricated.write(tmp_path, "var/lib/alternatives/cuda", b"\xff\x00")
    here = cuda(tmp_path)
    assert here.default()["alternative"] is None
    assert "update-alternatives" in here.files.unknown["cuda_default.alternative"]


# --- the store -------------------------------------------------------------------------------------------------------


def test_the_store_says_what_is_whole_and_what_leads_there(tmp_path: Path) -> None:
    path = fabricated.store_toolkit(tmp_path, "12.9.1", default=True, digest="abc", components={"cuda_nvcc": "12.9.86"})
    fabricated.generation(tmp_path, "cuda", "13.0.2", half_made=True)
    fabricated.link(tmp_path, "usr/local/cuda-13.0", f"{path}-gone")
    (tmp_path / "opt/gpulab/toolkits/cuda-12.9.1").mkdir()  # no generation, and nobody's business
    fabricated.write(tmp_path, "opt/gpulab/toolkits/.lock")
    fabricated.link(tmp_path, "opt/gpulab/toolkits/cuda-12.0.1-20260101T000000Z", path)
    here = cuda(tmp_path)
    whole, half = here.store.rows
    assert whole == {
        "name": f"cuda-12.9.1-{fabricated.STAMP}",
        "product": "cuda",
        "version": "12.9.1",
        "cuda_major": 12,
        "path": path,
        "state": "complete",
        "components": {"cuda_nvcc": "12.9.86"},
        "damaged": [],
        "digest": "abc",
        "links": ["/usr/local/cuda-12.9"],
    }
    assert (half["state"], half["version"], half["components"], half["links"]) == ("half-made", "13.0.2", {}, [])
    assert here.files.unknown == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{half",
        "[]",
        "[" * 100_000,
        '{"a":' * 60 + "1" + "}" * 60,
        '{"schema": NaN}',
        '{"schema": 1, "product": "cuda", "version": "12.9.0", "components": {}, "digest": "d"}',
        '{"schema": 2, "product": "cuda", "version": "12.9.1", "components": {}, "digest": "d"}',
        '{"schema": 1, "product": "cuda", "version": "12.9.1", "components": 7, "digest": "d"}',
        '{"schema": 1, "product": "cuda", "version": "12.9.1", "components": {}, "digest": 7}',
    ],
)
def test_what_is_no_manifest_of_this_generation_makes_nothing_whole(tmp_path: Path, text: str) -> None:
    path = fabricated.generation(tmp_path, "cuda", "12.9.1")
    fabricated.write(tmp_path, f"{path[1:]}/archive.json", text)
    here = cuda(tmp_path)
    (row,) = here.store.rows
    assert (row["state"], row["components"], row["digest"]) == ("half-made", {}, None)
    assert "archive.json" in here.files.unknown[f"toolkit_store.{row['name']}"]


def test_a_program_that_is_gone_or_of_another_size_is_named(tmp_path: Path) -> None:
    path = fabricated.generation(tmp_path, "cuda", "12.9.1")
    manifest = tmp_path / path[1:] / "archive.json"
    files = {"bin/nvcc": 1 << 20, "bin/ptxas": 7, "include/cuda.h": 7, "lib/libcudart.so.12.9.79": 7}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "files": files}))
    (row,) = cuda(tmp_path).store.rows
    assert row["damaged"] == ["bin/nvcc", "bin/ptxas", "lib/libcudart.so.12.9.79"]


def test_components_that_are_named_have_the_versions_of_their_archives(tmp_path: Path) -> None:
    path = fabricated.generation(tmp_path, "cuda", "12.9.1")
    manifest = tmp_path / path[1:] / "archive.json"
    archives = [{"component": "cuda_nvcc", "version": "12.9.86"}, {"component": "libcublas", "version": "12.9.1.4"}]
    named = {"components": ["cuda_nvcc", "libcublas"], "archives": archives}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **named}))
    (row,) = cuda(tmp_path).store.rows
    assert (row["state"], row["components"]) == ("complete", {"cuda_nvcc": "12.9.86", "libcublas": "12.9.1.4"})
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "archives": ["cuda_nvcc"]}))
    assert cuda(tmp_path).store.rows[0]["state"] == "half-made"


def test_of_a_manifest_that_cannot_be_opened_nothing_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fabricated.generation(tmp_path, "cuda", "12.9.1")
    manifest = tmp_path / path[1:] / "archive.json"
    monkeypatch.setattr(host_cuda, "_LARGEST_MANIFEST", 10)
    for reason in ("larger", "no plain file", "symbolic links"):
        here = cuda(tmp_path)
        assert here.store.rows[0]["state"] is None
        assert reason in here.files.unknown[f"toolkit_store.{here.store.rows[0]['name']}"]
        manifest.unlink()
        os.mkfifo(manifest) if reason == "larger" else manifest.symlink_to(manifest.name)


def test_cudnn_of_ours_by_the_links_that_lead_to_it(tmp_path: Path) -> None:
    toolkit = fabricated.store_toolkit(tmp_path, "12.9.1", default=True)
    fabricated.toolkit(tmp_path, "12.4.1")
    path = fabricated.store_cudnn(tmp_path, "9.13.0.50", 12, "/usr/local/cuda-12.9", "/usr/local/cuda-12.4")
    unlinked = fabricated.store_cudnn(tmp_path, "9.13.0.50", 13)
    fabricated.generation(tmp_path, "cudnn", "9.14.0.64", cuda_major=13, half_made=True)
    here = cuda(tmp_path)
    rows = {row["path"]: row for row in here.cudnn()}
    assert rows[f"{path}/lib/libcudnn.so.9.13.0"] == {
        "path": f"{path}/lib/libcudnn.so.9.13.0",
        "version": "9.13.0",
        "kind": "library",
        "package": None,
        "ours": True,
        "link": "/usr/local/cuda-12.9/lib64/libcudnn.so.9.13.0",
    }
    assert rows[f"{path}/include/cudnn_version.h"]["link"] == "/usr/local/cuda-12.9/include/cudnn_version.h"
    assert (rows[f"{unlinked}/lib/libcudnn.so.9.13.0"]["link"], len(rows)) == (None, 4)
    links = {row["cuda_major"]: row["links"] for row in here.store.rows if row["version"] == "9.13.0.50"}
    assert len(links[12]) == 2 * 8
    assert "/usr/local/cuda-12.4/lib64/libcudnn_ops.so.9" in links[12]
    assert links[13] == []
    assert next(row for row in here.store.rows if row["path"] == toolkit)["links"] == ["/usr/local/cuda-12.9"]


def test_cudnn_of_a_package(tmp_path: Path) -> None:
    fabricated.packaged_cudnn(tmp_path, "9.13.0.50", 13)
    rows = {row["kind"]: (row["version"], row["package"], row["ours"]) for row in cudnn(tmp_path, "apt")}
    assert rows == {
        "header": ("9.13.0", "libcudnn9-dev-cuda-13", False),
        "library": ("9.13.0", "libcudnn9-cuda-13", False),
    }


def test_rpm_is_asked_once_about_all_files_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "/usr/local/cuda-12.9/bin/nvcc\tcuda-nvcc-12-9\n/usr/lib64/libcudnn.so.9.13.0\tlibcudnn9-cuda-12\nnoise\n"
    program = fabricated.write(tmp_path, "bin/rpm", f"#!/bin/sh\necho asked >> {tmp_path}/asked\nprintf '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    nvcc, library = "/usr/local/cuda-12.9/bin/nvcc", "/usr/lib64/libcudnn.so.9.13.0"
    owners = host_packages.Owners(HostFiles("/", {}), [nvcc, library], "dnf")
    found = [owners.of(path) for path in (nvcc, library, "/usr/bin/other", None)]
    assert found == ["cuda-nvcc-12-9", "libcudnn9-cuda-12", None, None]
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    assert host_packages.Owners(HostFiles("/", {}), [], "dnf").of(nvcc) is None
    assert len((tmp_path / "asked").read_text().splitlines()) == 1


# --- hostile hosts ---------------------------------------------------------------------------------------------------


def test_loops_bytes_and_files_in_the_place_of_directories_break_nothing(tmp_path: Path) -> None:
    fabricated.link(tmp_path, "usr/local/cuda", "cuda-12.9")
    fabricated.link(tmp_path, "usr/local/cuda-12.9", "cuda")
    fabricated.write(tmp_path, "usr/local/cuda-12.8")
    fabricated.write(tmp_path, "usr/local/cuda-12.7/version.json", b"\xff\xfe\x00{")
    fabricated.write(tmp_path, "usr/local/cuda-12.7/version.txt", b"CUDA Version 12.7.1\n\xff")
    fabricated.write(tmp_path, "usr/local/cuda-12.7/include/cudnn_version.h", bytes(range(256)) * 8000)
    fabricated.write(tmp_path, "usr/include", "no directory")
    fabricated.write(tmp_path, "opt/gpulab/toolkits", "no directory")
    fabricated.write(tmp_path, os.fsdecode(b"usr/local/cuda-\xff/bin/nvcc"))
    here = cuda(tmp_path)
    assert [row["version"] for row in here.toolkits()] == ["12.7.1", None]
    assert here.cudnn() == []
    assert here.store.rows == []
    assert here.default()["real"] is None
    assert "larger" in here.files.unknown["usr/local/cuda-12.7/include/cudnn_version.h"]
    assert json.dumps(printable(here.toolkits()), ensure_ascii=False).encode()


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.text(max_size=20))
def test_any_header_of_cudnn(major: int, minor: int, patch: int, noise: str) -> None:
    lines = [f"#define CUDNN_MAJOR {major}", f"#define CUDNN_MINOR {minor}", f"#define CUDNN_PATCHLEVEL {patch}"]
    assert host_cuda.header_version("\n".join([f"/* {noise} */", *lines])) == f"{major}.{minor}.{patch}"
    assert host_cuda.header_version("\n".join(lines[:2])) is None
