# SPDX-License-Identifier: Apache-2.0
"""Compilers, shells and systems of modules, told from names and links alone."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_compilers, host_shells
from ansible.module_utils.host_files import HostFiles


def compilers(root: Path, unknown: dict[str, str] | None = None) -> dict[str, Any]:
    return host_compilers.compilers(HostFiles(str(root), {} if unknown is None else unknown))


def test_a_host_without_a_compiler(tmp_path: Path) -> None:
    unknown: dict[str, str] = {}
    fabricated.write(tmp_path, "usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a")  # a library that programs are linked with
    fabricated.write(tmp_path, "usr/bin/gcc-ar-12")
    fabricated.link(tmp_path, "usr/bin/gcc-9", "gone")
    assert compilers(tmp_path, unknown) == {"default": None, "gcc": [], "clang": []}
    assert unknown == {}


def test_compilers_of_debian_newest_first(tmp_path: Path) -> None:
    fabricated.gcc(tmp_path, "9", cxx=False)
    fabricated.gcc(tmp_path, "13", default=True)
    fabricated.gcc(tmp_path, "10")
    fabricated.clang(tmp_path, "14", default=True)
    fabricated.clang(tmp_path, "18")
    assert compilers(tmp_path) == {
        "default": {"cc": "/usr/bin/gcc", "major": "13"},
        "gcc": [
            {"major": "13", "cc": "/usr/bin/gcc-13", "cxx": "/usr/bin/g++-13"},
            {"major": "10", "cc": "/usr/bin/gcc-10", "cxx": "/usr/bin/g++-10"},
            {"major": "9", "cc": "/usr/bin/gcc-9", "cxx": None},
        ],
        "clang": [{"major": "18", "cxx": "/usr/bin/clang++-18"}, {"major": "14", "cxx": "/usr/bin/clang++-14"}],
    }


def test_compilers_of_red_hat_with_a_toolset_beside_the_systems_own(tmp_path: Path) -> None:
    fabricated.red_hats_gcc(tmp_path, "11")
    fabricated.red_hats_gcc(tmp_path, "13", toolset=True)
    fabricated.write(tmp_path, "usr/bin/clang-17")
    fabricated.link(tmp_path, "usr/bin/clang++", "clang-17")
    place = "/opt/rh/gcc-toolset-13/root/usr/bin"
    assert compilers(tmp_path) == {
        "default": {"cc": "/usr/bin/gcc", "major": "11"},
        "gcc": [
            {"major": "13", "cc": f"{place}/gcc", "cxx": f"{place}/g++"},
            {"major": "11", "cc": "/usr/bin/gcc", "cxx": "/usr/bin/g++"},
        ],
        "clang": [{"major": "17", "cxx": "/usr/bin/clang++"}],
    }


def test_the_default_by_the_directories_of_gcc_where_no_name_tells(tmp_path: Path) -> None:
    unknown: dict[str, str] = {}
    fabricated.write(tmp_path, "usr/bin/gcc")
    assert compilers(tmp_path, unknown)["default"] == {"cc": "/usr/bin/gcc", "major": None}
    assert "tells its version" in unknown.pop("compilers.default")
    fabricated.write(tmp_path, f"usr/lib/gcc/{platform.machine()}-linux-gnu/14/cc1")
    fabricated.write(tmp_path, "usr/lib/gcc/arm-none-eabi/10.3.1/cc1")  # for another machine
    assert compilers(tmp_path, unknown)["default"] == {"cc": "/usr/bin/gcc", "major": "14"}
    assert unknown == {}
    fabricated.write(tmp_path, f"usr/libexec/gcc/{platform.machine()}-linux-gnu/13.2.0/cc1")
    fabricated.write(tmp_path, f"usr/lib/gcc/{platform.machine()}-linux-gnu/13.2.0/libgcc.a")
    assert compilers(tmp_path, unknown)["default"] == {"cc": "/usr/bin/gcc", "major": None}
    assert set(unknown) == {"compilers.default"}


def test_what_lies_in_usr_local_comes_first_and_a_cache_is_no_compiler(tmp_path: Path) -> None:
    fabricated.gcc(tmp_path, "12", default=True)
    fabricated.write(tmp_path, "usr/bin/ccache")
    fabricated.link(tmp_path, "usr/local/bin/gcc", "/usr/bin/ccache")
    assert compilers(tmp_path)["default"] == {"cc": "/usr/bin/gcc", "major": "12"}
    (tmp_path / "usr/local/bin/gcc").unlink()
    fabricated.write(tmp_path, "opt/gcc/bin/gcc-14.2.0")
    fabricated.link(tmp_path, "usr/local/bin/gcc", "/opt/gcc/bin/gcc-14.2.0")
    found = compilers(tmp_path)
    assert found["default"] == {"cc": "/usr/local/bin/gcc", "major": "14"}
    assert [row["cc"] for row in found["gcc"]] == ["/usr/local/bin/gcc", "/usr/bin/gcc-12"]


def test_a_compiler_that_leads_to_itself_is_none(tmp_path: Path) -> None:
    for name in ("gcc", "gcc-13", "clang++"):
        fabricated.link(tmp_path, f"usr/bin/{name}", name)
    assert compilers(tmp_path) == {"default": None, "gcc": [], "clang": []}


# --- shells and modules ----------------------------------------------------------------------------------------------


def test_shells(tmp_path: Path) -> None:
    assert host_shells.shells(HostFiles(str(tmp_path), {})) == []
    fabricated.write(tmp_path, "usr/bin/zsh")
    fabricated.write(tmp_path, "bin/bash")
    assert host_shells.shells(HostFiles(str(tmp_path), {})) == ["bash", "zsh"]


def modules(root: Path, unknown: dict[str, str] | None = None) -> tuple[str | None, str | None]:
    found = host_shells.module_systems(HostFiles(str(root), {} if unknown is None else unknown))
    return found["lmod"], found["environment_modules"]


def directory(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).mkdir(parents=True, exist_ok=True)


def test_no_system_of_modules(tmp_path: Path) -> None:
    directory(tmp_path, "etc/modulefiles", "etc/lmod/modules")  # what a removed package left
    fabricated.write(tmp_path, "etc/lmod/modulespath", "/etc/lmod/modules\n")
    assert modules(tmp_path) == (None, None)


MODULES, ETC = "etc/environment-modules", "/etc/environment-modules/modules"


@pytest.mark.parametrize(
    ("home", "setting", "text", "expected"),
    [
        ("usr/share/lmod/lmod", "etc/lmod/modulespath", "# x\n/usr/share/lmod/lmod/modulefiles/\n/etc/x\n", "/etc/x"),
        ("usr/share/lmod/lmod", "etc/none", "", "/etc/modulefiles"),
        ("usr/share/modules", f"{MODULES}/modulespath", f"{ETC}\n/usr/share/modules/$X/modulefiles # v\n", ETC),
        ("usr/share/modules", f"{MODULES}/initrc", "#%Module\nmodule use --append {/usr/share/modules/files}\n",
         "/usr/share/modules/files"),
        ("usr/share/Modules", f"{MODULES}/modulespath", "/usr/share/Modules/x:/etc/modulefiles\n", "/etc/modulefiles"),
    ],
)  # fmt: skip
def test_where_modulefiles_go(tmp_path: Path, home: str, setting: str, text: str, expected: str) -> None:
    directory(tmp_path, f"{home}/init", f"{home}/modulefiles", expected[1:])
    fabricated.write(tmp_path, setting, text)
    unknown: dict[str, str] = {}
    assert modules(tmp_path, unknown) == ((expected, None) if "lmod" in home else (None, expected))
    assert unknown == {}


def test_a_system_of_modules_without_a_known_place_says_so(tmp_path: Path) -> None:
    directory(tmp_path, "opt/apps/lmod/lmod/init")
    unknown: dict[str, str] = {}
    assert modules(tmp_path, unknown) == (None, None)
    assert "/opt/apps/lmod/lmod" in unknown["module_systems.lmod"]
