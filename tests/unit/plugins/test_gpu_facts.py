# SPDX-License-Identifier: Apache-2.0
"""gpu_facts against fabricated trees: what is there, what is not, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def pci(root: Path, address: str, vendor: str, device: str, class_code: str) -> None:
    directory = root / "sys/bus/pci/devices" / address
    directory.mkdir(parents=True)
    for name, value in (("vendor", vendor), ("device", device), ("class", class_code)):
        (directory / name).write_text(f"{value}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(
        'PRETTY_NAME="Rocky Linux 9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
    )
    return tmp_path


def gather(module: ModuleType, root: Path, **params: Any) -> dict[str, Any]:
    defaults = {
        "root": str(root),
        "scope": "user",
        "become_password_given": False,
        "base_dir": "/opt/gpulab",
        "user_base_dir": str(root / "data"),
    }
    return module.Host({**defaults, **params}).facts()


def test_a_host_without_a_gpu(gpu_facts: ModuleType, root: Path) -> None:
    pci(root, "0000:00:01.0", "0x1234", "0x1111", "0x030000")  # an emulator's display chip is no GPU
    facts = gather(gpu_facts, root)
    assert facts["gpus"] == []
    assert facts["other_gpus"] == []
    assert facts["simulated"] is True
    assert facts["os"] == {"id": "rocky", "version": "9.4", "name": "Rocky Linux 9.4", "family": "rhel"}
    assert facts["driver"]["loaded_version"] is None


def test_nvidia_functions_of_class_display_only(gpu_facts: ModuleType, root: Path) -> None:
    pci(root, "0000:17:00.0", "0x10de", "0x2330", "0x030200")
    pci(root, "0000:01:00.0", "0x10de", "0x1b06", "0x030000")
    pci(root, "0000:01:00.1", "0x10de", "0x10ef", "0x040300")  # the audio function of the same card
    pci(root, "0000:05:00.0", "0x10de", "0x22a3", "0x068000")  # an NVSwitch
    pci(root, "0000:03:00.0", "0x1002", "0x73bf", "0x030000")
    facts = gather(gpu_facts, root)
    assert [gpu["bus"] for gpu in facts["gpus"]] == ["0000:01:00.0", "0000:17:00.0"]
    assert facts["other_gpus"][0]["name"] == "AMD 0x73bf"
    assert [bridge["device"] for bridge in facts["nvswitches"]] == ["0x22a3"]


def test_no_pci_bus_at_all_is_evidence_but_an_unreadable_one_is_not(gpu_facts: ModuleType, root: Path) -> None:
    (root / "sys/bus/pci/devices").rmdir()
    (root / "sys/bus/pci").rmdir()
    assert gather(gpu_facts, root)["gpus"] == []
    (root / "sys/bus").rmdir()
    facts = gather(gpu_facts, root)
    assert facts["gpus"] is None
    assert "No such file" in facts["unknown"]["gpus"]


def test_loaded_driver(gpu_facts: ModuleType, root: Path) -> None:
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("580.126.09\n")
    assert gather(gpu_facts, root)["driver"] == {"loaded_version": "580.126.09", "module": None, "reason": None}


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  Release Build", "open"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.126.09  Thu Jan  8 17:01:01 UTC 2026", "proprietary"),
    ],
)
def test_flavour_of_the_loaded_module(gpu_facts: ModuleType, root: Path, line: str, module: str) -> None:
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("580.126.09\n")
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(f"{line}\nGCC version:  gcc version 12.2.0\n")
    assert gather(gpu_facts, root)["driver"]["module"] == module


def test_secure_boot(gpu_facts: ModuleType, root: Path) -> None:
    assert gather(gpu_facts, root)["secure_boot"] is False
    efivars = root / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True)
    facts = gather(gpu_facts, root)
    assert facts["secure_boot"] is None
    assert "No such file" in facts["unknown"]["secure_boot"]
    variable = efivars / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.write_bytes(b"\x06\x00\x00\x00\x01")
    assert gather(gpu_facts, root)["secure_boot"] is True
    variable.write_bytes(b"\x06\x00\x00\x00\x00")
    assert gather(gpu_facts, root)["secure_boot"] is False


def test_scope_follows_the_privilege(gpu_facts: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_facts.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu_facts.os, "geteuid", lambda: os.getuid() or 65534)
    facts = gather(gpu_facts, root, scope="auto", user_base_dir="")
    assert facts["scope"] == "user"
    assert facts["base_dir"].endswith("/gpulab")
    assert "no sudo" in facts["privilege"]["how"]
    assert gather(gpu_facts, root, scope="auto", become_password_given=True)["scope"] == "system"


def test_user_directory_follows_xdg(gpu_facts: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(root / "xdg"))
    assert gather(gpu_facts, root, user_base_dir="")["base_dir"] == str(root / "xdg" / "gpulab")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(root))
    assert gather(gpu_facts, root, user_base_dir="")["base_dir"] == str(root / ".local/share/gpulab")


def test_an_interpreter_in_a_closed_directory_is_not_for_all(gpu_facts: ModuleType, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "python3"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o001 == 0:
            assert gpu_facts._readable_by_all(str(program)) is False
    program.parent.chmod(0o700)
    assert gpu_facts._readable_by_all(str(program)) is False


def test_a_hanging_command_is_left_behind(gpu_facts: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_facts, "COMMAND_TIMEOUT", 0.2)
    assert gpu_facts.Host({"root": str(root)}).run(["sleep", "30"]) is None
