# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and cuDNN on disk."""

from __future__ import annotations

from pathlib import Path

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_cuda
from ansible.module_utils.host_files import HostFiles
from hypothesis import given
from hypothesis import strategies as st

HEADER = "#ifndef X_\n#define CUDNN_MAJOR 9\n# define CUDNN_MINOR  10\n#define CUDNN_PATCHLEVEL 2\n#endif\n"


def files(root: Path) -> HostFiles:
    return HostFiles(str(root), {})


def test_toolkits_newest_first_and_the_one_that_cuda_leads_to(tmp_path: Path) -> None:
    assert host_cuda.toolkits(files(tmp_path)) == []
    fabricated.toolkit(tmp_path, "9.2.148")
    fabricated.toolkit(tmp_path, "12.4.1", default=True)
    fabricated.toolkit(tmp_path, "13.0.2")
    fabricated.write(tmp_path, "usr/local/cuda-10.1/version.txt", "CUDA Version 10.1.243\n")
    fabricated.write(tmp_path, "usr/local/cuda-11.0/bin/nvcc")  # no file tells its version
    fabricated.write(tmp_path, "usr/local/cuda-11.8/lib64/libcudart.so.11.0")  # a library, and no toolkit
    fabricated.write(tmp_path, "usr/local/cudatoolkit/version.json", "{}")
    fabricated.link(tmp_path, "usr/local/cuda-12", "/usr/local/cuda-12.4")
    assert [(row["path"], row["version"], row["default"]) for row in host_cuda.toolkits(files(tmp_path))] == [
        ("/usr/local/cuda-13.0", "13.0.2", False),
        ("/usr/local/cuda-12.4", "12.4.1", True),
        ("/usr/local/cuda-10.1", "10.1.243", False),
        ("/usr/local/cuda-9.2", "9.2.148", False),
        ("/usr/local/cuda-11.0", None, False),
    ]


def test_a_toolkit_in_the_directory_cuda_itself_is_the_default(tmp_path: Path) -> None:
    fabricated.write(tmp_path, "usr/local/cuda/version.json", '{"cuda": {"version": "12.4.1"}}')
    assert host_cuda.toolkits(files(tmp_path)) == [{"path": "/usr/local/cuda", "version": "12.4.1", "default": True}]


@pytest.mark.parametrize("text", ["{half", "[]", "{}", '{"cuda": "12"}'])
def test_a_version_that_cannot_be_read_is_null_with_a_reason(tmp_path: Path, text: str) -> None:
    fabricated.write(tmp_path, "usr/local/cuda-12.4/version.json", text)
    fabricated.write(tmp_path, "usr/local/cuda-12.4/bin/nvcc")
    here = files(tmp_path)
    assert [row["version"] for row in host_cuda.toolkits(here)] == [None]
    assert "version.json" in here.unknown["cuda./usr/local/cuda-12.4"]


def test_the_distributions_toolkit(tmp_path: Path) -> None:
    fabricated.write(tmp_path, "usr/bin/nvcc")
    assert host_cuda.toolkits(files(tmp_path)) == [{"path": "/usr/bin/nvcc", "version": None, "default": False}]
    fabricated.write(tmp_path, "usr/lib/cuda/version.txt", "CUDA Version 11.8.89\n")
    assert host_cuda.toolkits(files(tmp_path)) == [{"path": "/usr/lib/cuda", "version": "11.8.89", "default": False}]


def test_a_link_to_a_toolkits_compiler_is_no_toolkit_of_its_own(tmp_path: Path) -> None:
    fabricated.toolkit(tmp_path, "12.4.1")
    fabricated.link(tmp_path, "usr/bin/nvcc", "/usr/local/cuda-12.4/bin/nvcc")
    assert len(host_cuda.toolkits(files(tmp_path))) == 1


@pytest.mark.parametrize("place", ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/local/cuda-12.4/lib64"])
def test_cudnns_library_and_no_link_to_it(tmp_path: Path, place: str) -> None:
    fabricated.write(tmp_path, f"{place}/libcudnn.so.9.10.2")
    fabricated.link(tmp_path, f"{place}/libcudnn.so.9", "libcudnn.so.9.10.2")
    fabricated.write(tmp_path, f"{place}/libcudnn_ops.so.9.10.2")
    assert host_cuda.cudnn(files(tmp_path), None) == [
        {"path": f"/{place}/libcudnn.so.9.10.2", "version": "9.10.2", "kind": "library", "package": None}
    ]


@pytest.mark.parametrize("place", ["usr/include", "usr/include/x86_64-linux-gnu", "usr/local/cuda-12.4/include"])
@pytest.mark.parametrize("name", ["cudnn_version.h", "cudnn.h", "cudnn_version_v9.h"])
def test_cudnns_header(tmp_path: Path, place: str, name: str) -> None:
    fabricated.write(tmp_path, f"{place}/{name}", HEADER)
    fabricated.write(tmp_path, f"{place}/cudnn_graph.h", HEADER)
    assert host_cuda.cudnn(files(tmp_path), None) == [
        {"path": f"/{place}/{name}", "version": "9.10.2", "kind": "header", "package": None}
    ]


def test_one_header_with_several_names_is_one(tmp_path: Path) -> None:
    place = "usr/include/x86_64-linux-gnu"
    fabricated.write(tmp_path, f"{place}/cudnn_version_v9.h", HEADER)
    fabricated.link(tmp_path, "usr/include/cudnn_version.h", "/etc/alternatives/cudnn_version_h")
    fabricated.link(tmp_path, "etc/alternatives/cudnn_version_h", f"/{place}/cudnn_version_v9.h")
    assert [row["path"] for row in host_cuda.cudnn(files(tmp_path), None)] == [f"/{place}/cudnn_version_v9.h"]


def test_who_owns_cudnn(tmp_path: Path) -> None:
    place = "usr/lib/x86_64-linux-gnu"
    for name in ("libcudnn.so.9.10.2", "libcudnn.so.8.9.7"):
        fabricated.write(tmp_path, f"{place}/{name}")
    fabricated.write(tmp_path, "var/lib/dpkg/info/libcudnn9-cuda-12.list", f"/.\n/usr\n/{place}/libcudnn.so.9.10.2\n")
    fabricated.write(tmp_path, "var/lib/dpkg/info/libother:amd64.list", f"/{place}/libcudnn.so.8.9.7\n")
    packages = {row["version"]: row["package"] for row in host_cuda.cudnn(files(tmp_path), "apt")}
    assert packages == {"9.10.2": "libcudnn9-cuda-12", "8.9.7": None}


def test_nothing_is_asked_of_rpm_about_a_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fabricated.write(tmp_path, "bin/rpm", f"#!/bin/sh\ntouch {tmp_path}/asked\necho x\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    fabricated.write(tmp_path, "usr/lib64/libcudnn.so.9.10.2")
    assert host_cuda.cudnn(files(tmp_path), "dnf")[0]["package"] is None
    assert not (tmp_path / "asked").exists()


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.text(max_size=20))
def test_any_header_of_cudnn(major: int, minor: int, patch: int, noise: str) -> None:
    lines = [f"#define CUDNN_MAJOR {major}", f"#define CUDNN_MINOR {minor}", f"#define CUDNN_PATCHLEVEL {patch}"]
    assert host_cuda.header_version("\n".join([f"/* {noise} */", *lines])) == f"{major}.{minor}.{patch}"
    assert host_cuda.header_version("\n".join(lines[:2])) is None
