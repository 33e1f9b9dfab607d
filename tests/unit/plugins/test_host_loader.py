# SPDX-License-Identifier: Apache-2.0
"""Where programs find libraries: the loader's configuration, LD_LIBRARY_PATH, and what lies there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_loader
from ansible.module_utils.host_files import HostFiles
from hypothesis import given
from hypothesis import strategies as st


def loader(root: Path, unknown: dict[str, str] | None = None) -> dict[str, Any]:
    return host_loader.loader(HostFiles(str(root), {} if unknown is None else unknown))


# --- ld.so.conf ------------------------------------------------------------------------------------------------------


def test_a_host_without_any_setting(tmp_path: Path) -> None:
    unknown: dict[str, str] = {}
    assert loader(tmp_path, unknown) == {"ld_so_conf": [], "library_path": [], "cudnn": [], "stubs": []}
    assert unknown == {}


def test_directories_and_what_is_included(tmp_path: Path) -> None:
    text = (
        "# ours\n/opt/first # why not\ninclude ld.so.conf.d/*.conf /etc/more/?.list\nhwcap 1 nosegneg\nrelative/path\n"
    )
    fabricated.write(tmp_path, "etc/ld.so.conf", f"{text}  /opt/last/  \n")
    fabricated.write(tmp_path, "etc/ld.so.conf.d/b.conf", "/opt/b\n/opt/with a blank\n")
    fabricated.write(tmp_path, "etc/ld.so.conf.d/a.conf", "/opt/a=libc6\n\n#/opt/not\n")
    fabricated.write(tmp_path, "etc/ld.so.conf.d/a.conf.bak", "/opt/bak\n")
    fabricated.write(tmp_path, "etc/ld.so.conf.d/.hidden.conf", "/opt/hidden\n")
    fabricated.write(tmp_path, "etc/more/x.list", "/opt/x\n")
    rows = loader(tmp_path)["ld_so_conf"]
    assert [(row["file"], row["path"]) for row in rows] == [
        ("/etc/ld.so.conf", "/opt/first"),
        ("/etc/ld.so.conf.d/a.conf", "/opt/a"),
        ("/etc/ld.so.conf.d/b.conf", "/opt/b"),
        ("/etc/ld.so.conf.d/b.conf", "/opt/with a blank"),
        ("/etc/more/x.list", "/opt/x"),
        ("/etc/ld.so.conf", "/opt/last"),
    ]


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    fabricated.write(
        tmp_path, "etc/ld.so.conf", "include /etc/ld.so.conf /etc/other.conf /etc/../etc/ld.so.conf\n/opt/a\n"
    )
    fabricated.write(tmp_path, "etc/other.conf", "include /etc/ld.so.conf\n/opt/b\n")
    fabricated.link(tmp_path, "etc/loop", "loop")
    assert [row["path"] for row in loader(tmp_path)["ld_so_conf"]] == ["/opt/b", "/opt/a"]


# --- LD_LIBRARY_PATH -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export LD_LIBRARY_PATH=/a", ["/a"]),
        ("LD_LIBRARY_PATH=/a:/b/\nexport LD_LIBRARY_PATH\n", ["/a", "/b"]),
        ("export LD_LIBRARY_PATH=/a:$LD_LIBRARY_PATH", ["/a"]),
        ("export LD_LIBRARY_PATH=$LD_LIBRARY_PATH:/a", ["/a"]),
        ("export LD_LIBRARY_PATH=${LD_LIBRARY_PATH}:/a::", ["/a"]),
        ("export LD_LIBRARY_PATH=/a${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}", ["/a"]),
        ('export LD_LIBRARY_PATH="/a${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" # a comment', ["/a"]),
        ("export LD_LIBRARY_PATH='/a b':/c", ["/a b", "/c"]),
        ("export PATH=/x:$PATH LD_LIBRARY_PATH=/a OTHER=1", ["/a"]),
        ("declare -x LD_LIBRARY_PATH=/a; typeset -x LD_LIBRARY_PATH=/b", ["/a", "/b"]),
        ("LD_LIBRARY_PATH+=:/a", ["/a"]),
        ("export LD_LIBRARY_PATH=/a:\\\n/b", ["/a", "/b"]),
        ("[ -d /a ] && export LD_LIBRARY_PATH=/a\nif true; then LD_LIBRARY_PATH=/b; fi", ["/a", "/b"]),
        ("case x in\n  x) LD_LIBRARY_PATH=/a ;;\nesac", ["/a"]),
        ("setenv LD_LIBRARY_PATH /a:${LD_LIBRARY_PATH}\nif ( -d /b ) setenv LD_LIBRARY_PATH /b", ["/a", "/b"]),
        ("HOME_OF=/opt/cuda\nexport LD_LIBRARY_PATH=${HOME_OF}/lib64:$HOME_OF/x", ["/opt/cuda/lib64", "/opt/cuda/x"]),
        ('export LD_LIBRARY_PATH="/a \\"b\\":\\\n/c"', ['/a "b"', "/c"]),
        # What nobody can know without running it stays as it is written.
        ("export LD_LIBRARY_PATH=$CUDA_HOME/lib64", ["$CUDA_HOME/lib64"]),
        ("X=/a\nX=/b\nLD_LIBRARY_PATH=$X", ["$X"]),
        ("X=$(pwd)\nLD_LIBRARY_PATH=$X:/a", ["$X", "/a"]),
        ("LD_LIBRARY_PATH=${X:-/a:/b}:/c", ["${X:-/a:/b}", "/c"]),
        ("LD_LIBRARY_PATH=$(dirname /a:b):/c", ["$(dirname /a:b)", "/c"]),
        # These set nothing for those who come after.
        ("# export LD_LIBRARY_PATH=/a", []),
        ("LD_LIBRARY_PATH=/a program", []),
        ("export LD_LIBRARY_PATH", []),
        ("echo 'export LD_LIBRARY_PATH=/a'", []),
        ("export MY_LD_LIBRARY_PATH=/a LD_LIBRARY_PATH_64=/b", []),
        ("unset LD_LIBRARY_PATH; [ \"$LD_LIBRARY_PATH\" = /a ]", []),
        ("use() {\n  if x; then { export LD_LIBRARY_PATH=/a; }; fi\n}\n", []),
        ("use() {\n  export LD_LIBRARY_PATH=/a\n}\nuse\n", ["/a"]),
        ("function use { export LD_LIBRARY_PATH=/a; }\nexport LD_LIBRARY_PATH=/b", ["/b"]),
        # Half a script is no reason to give up.
        ("export LD_LIBRARY_PATH=/a\necho \"unfinished", ["/a"]),
        ("} } fi\nexport LD_LIBRARY_PATH=/a", ["/a"]),
        ("export LD_LIBRARY_PATH=${LD_LIBRARY_PATH", ["${LD_LIBRARY_PATH"]),
    ],
)  # fmt: skip
def test_what_a_script_puts_into_the_library_path(text: str, expected: list[str]) -> None:
    assert host_loader.library_paths(text) == expected


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("etc/environment", 'PATH="/usr/bin"\nLD_LIBRARY_PATH="/a:/b" trailing words\n'),
        ("etc/environment.d/50-x.conf", "LD_LIBRARY_PATH=/a:/b:$LD_LIBRARY_PATH\n"),
        ("etc/security/pam_env.conf", "# X DEFAULT=/no\nLD_LIBRARY_PATH DEFAULT=/a OVERRIDE=@{LD_LIBRARY_PATH}:/b\n"),
        ("etc/profile", "export LD_LIBRARY_PATH=/a:/b\n"),
        ("etc/profile.d/x.sh", "export LD_LIBRARY_PATH=/a:/b\n"),
        ("etc/profile.d/x.csh", "setenv LD_LIBRARY_PATH /a:/b\n"),
        ("etc/bash.bashrc", "export LD_LIBRARY_PATH=/a:/b\n"),
        ("etc/bashrc", "export LD_LIBRARY_PATH=/a:/b\n"),
        ("etc/zsh/zshenv", "export LD_LIBRARY_PATH=/a:/b\n"),
        ("etc/zprofile", "export LD_LIBRARY_PATH=/a:/b\n"),
    ],
)  # fmt: skip
def test_files_that_set_it_for_all_users(tmp_path: Path, file: str, text: str) -> None:
    fabricated.write(tmp_path, file, text)
    rows = [{"file": f"/{file}", "path": path} for path in ("/a", "/b")]
    assert loader(tmp_path)["library_path"] == rows


def test_a_backup_beside_the_settings_sets_nothing(tmp_path: Path) -> None:
    for name in ("profile.d/x.sh.bak", "profile.d/README", "environment.d/x.conf~"):
        fabricated.write(tmp_path, f"etc/{name}", "export LD_LIBRARY_PATH=/a\n")
    assert loader(tmp_path)["library_path"] == []


def test_a_path_that_depends_on_a_variable_is_said_and_not_looked_into(tmp_path: Path) -> None:
    unknown: dict[str, str] = {}
    fabricated.write(tmp_path, "$X/lib/libcudnn.so.9.13.0")
    fabricated.write(tmp_path, "etc/profile.d/x.sh", "export LD_LIBRARY_PATH=$X/lib\n")
    found = loader(tmp_path, unknown)
    assert (found["library_path"], found["cudnn"]) == ([{"file": "/etc/profile.d/x.sh", "path": "$X/lib"}], [])
    assert "$X/lib" in unknown["loader./etc/profile.d/x.sh"]


# --- what lies there -------------------------------------------------------------------------------------------------


def test_cudnn_in_a_directory_of_the_loader_is_listed_once_by_the_name_that_programs_ask_for(tmp_path: Path) -> None:
    fabricated.cudnn_files(tmp_path, "9.13.0.50", "usr/local/cuda-12.9/include", "usr/local/cuda-12.9/lib64")
    fabricated.write(tmp_path, "opt/odd/libcudnn.so.8")
    fabricated.link(tmp_path, "opt/odd/libcudnn.so.7", "gone")
    fabricated.link(tmp_path, "usr/local/cuda", "cuda-12.9")
    fabricated.ld_so_conf(tmp_path, "cuda.conf", "/usr/local/cuda/lib64", "/opt/odd", "/nowhere")
    fabricated.library_path(tmp_path, "cuda.sh", "/usr/local/cuda-12.9/lib64")
    real = "/usr/local/cuda-12.9/lib64/libcudnn.so.9.13.0"
    conf = {"via": "ld_so_conf", "file": "/etc/ld.so.conf.d/cuda.conf"}
    script = {"via": "library_path", "file": "/etc/profile.d/cuda.sh"}
    odd = "/opt/odd/libcudnn.so.8"
    assert loader(tmp_path)["cudnn"] == [
        {"path": "/usr/local/cuda/lib64/libcudnn.so.9", "real": real, "version": "9.13.0", **conf},
        {"path": odd, "real": odd, "version": None, **conf},
        {"path": "/usr/local/cuda-12.9/lib64/libcudnn.so.9", "real": real, "version": "9.13.0", **script},
    ]


def test_stubs_by_their_directory_and_by_a_link_elsewhere(tmp_path: Path) -> None:
    fabricated.toolkit(tmp_path, "12.4.1")
    fabricated.link(tmp_path, "opt/hidden", "/usr/local/cuda-12.4/lib64/stubs")
    fabricated.link(tmp_path, "opt/lib/libcuda.so.1", "/usr/local/cuda-12.4/lib64/stubs/libcuda.so")
    fabricated.write(tmp_path, "usr/lib/libcuda.so.1", "the driver's")
    fabricated.ld_so_conf(tmp_path, "x.conf", "/opt/lib", "/usr/lib", "/opt/hidden")
    fabricated.library_path(tmp_path, "x.sh", "/usr/local/cuda-12.4/lib64/stubs")
    assert [(row["path"], row["via"]) for row in loader(tmp_path)["stubs"]] == [
        ("/opt/lib/libcuda.so.1", "ld_so_conf"),
        ("/opt/hidden", "ld_so_conf"),
        ("/usr/local/cuda-12.4/lib64/stubs", "library_path"),
    ]


# --- hostile hosts ---------------------------------------------------------------------------------------------------


def test_pipes_huge_files_and_loops_hold_nobody_up_and_are_said(tmp_path: Path) -> None:
    unknown: dict[str, str] = {}
    fabricated.write(tmp_path, "etc/profile.d/huge.sh", b"export LD_LIBRARY_PATH=/a\n" * 100_000)
    os.mkfifo(tmp_path / "etc/profile.d/pipe.sh")
    fabricated.link(tmp_path, "etc/profile.d/loop.sh", "loop.sh")
    (tmp_path / "etc/profile.d/directory.sh").mkdir()
    fabricated.write(tmp_path, "etc/profile.d/bytes.sh", b"\xff\xfe\x00export\nexport LD_LIBRARY_PATH=/\xe9\n\x00")
    fabricated.write(
        tmp_path, "etc/ld.so.conf", b"include /etc/\xff*\ninclude /etc/\x00 /etc/\x00/*\n/\xff\n/\x00\n\x00\n"
    )
    fabricated.write(tmp_path, os.fsdecode(b"etc/\xff.conf"), "/opt/a\n")
    begun = time.monotonic()
    found = loader(tmp_path, unknown)
    assert time.monotonic() - begun < 2
    said = {key.rpartition("/")[2] for key in unknown if "\0" not in key}
    assert said == {"huge.sh", "pipe.sh", "loop.sh", "directory.sh", "loader"}
    assert [row["path"] for row in found["library_path"]] == [os.fsdecode(b"/\xe9")]
    assert "/opt/a" in [row["path"] for row in found["ld_so_conf"]]


@pytest.mark.parametrize(
    "piece",
    ["'\"", '"\\"', "${", "$(", "`", "{ ", "{ a;", "x() {\n", "x() { a;}\n", "\\", "$LD_LIBRARY_PATH", "${X:-{"],
)
def test_a_quarter_megabyte_of_one_piece_is_read_in_no_time(piece: str) -> None:
    begun = time.monotonic()
    host_loader.library_paths("LD_LIBRARY_PATH=" + piece * (256 * 1024 // len(piece)))
    assert time.monotonic() - begun < 3


_PIECES = st.sampled_from(["LD_LIBRARY_PATH", "export ", "/a", "x()", *"=:${}()'\"`\\\n ;#+"])


@given(st.lists(_PIECES | st.text(max_size=3), max_size=30).map("".join), st.booleans(), st.booleans())
def test_any_text_is_read_without_an_error(text: str, pam: bool, plain: bool) -> None:
    paths = host_loader.library_paths(text, pam=pam, plain=plain)
    assert all(paths)
    assert len(set(paths)) == len(paths)
