# SPDX-License-Identifier: Apache-2.0
"""Who works on the GPUs, and which of the driver's services run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_busy, host_units
from ansible.module_utils.host_files import HostFiles


def busy(root: Path) -> dict[str, Any]:
    return host_busy.Busy(HostFiles(str(root), {})).result()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    fabricated.plain(tmp_path)
    fabricated.loaded_driver(tmp_path, "580.126.09")
    fabricated.process(tmp_path, 1, "systemd", "/sbin/init", uid=0)
    return tmp_path


def test_nobody_works_on_a_gpu_without_a_driver(tmp_path: Path) -> None:
    fabricated.plain(tmp_path)
    fabricated.process(tmp_path, 7, "python", "python train.py", devices=["/dev/nvidia0"])  # it cannot be
    assert busy(tmp_path) == {"processes": [], "complete": True, "reason": None}


def test_who_holds_a_gpu_is_named_with_user_age_and_devices(host: Path) -> None:
    devices = ["/dev/nvidiactl", "/dev/nvidia1", "/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidia0"]
    fabricated.process(host, 4711, "python3", "python3 train.py --epochs 10", devices=devices, age_s=3600)
    fabricated.process(host, 815, "Xorg", "/usr/lib/xorg/Xorg :0", uid=0, devices=["/dev/nvidia0"])
    assert busy(host) == {
        "processes": [
            {
                "pid": 815,
                "user": "root",
                "command": "/usr/lib/xorg/Xorg :0",
                "age_s": 100,
                "devices": ["/dev/nvidia0"],
            },
            {
                "pid": 4711,
                "user": "ada",
                "command": "python3 train.py --epochs 10",
                "age_s": 3600,
                "devices": ["/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1"],
            },
        ],
        "complete": True,
        "reason": None,
    }


@pytest.mark.parametrize(
    ("device", "counts"),
    [
        ("/dev/nvidia0", True),
        ("/dev/nvidia15", True),
        ("/dev/nvidia-uvm", True),
        ("/dev/nvidia-uvm-tools", True),
        ("/dev/nvidia-caps/nvidia-cap21", True),
        ("/dev/nvidia0 (deleted)", True),
        ("/dev/nvidiactl", False),
        ("/dev/nvidia-modeset", False),
        ("/dev/null", False),
        ("/home/ada/dev/nvidia0", False),
        ("/dev/nvidia-caps-imex-channels/channel0", False),
    ],
)
def test_what_counts_as_a_gpu(host: Path, device: str, counts: bool) -> None:
    fabricated.process(host, 10, "python3", "python3", devices=[device])
    fabricated.process(host, 11, "python3", "python3", mapped=["/usr/lib/libc.so.6", device])
    assert [row["pid"] for row in busy(host)["processes"]] == ([10, 11] if counts else [])


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-persistenced", "nv-fabricmanager", "nv-hostengine", "nvidia-imex", "nvidia-imex-ctl", "nvidia-smi",
        "nvidia-powerd", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-device-plugin",
        "gpu-feature-discovery", "dcgm-exporter", "nvidia_gpu_exporter", "nvtop",
    ],
)  # fmt: skip
def test_daemons_and_monitors_are_no_work(host: Path, name: str) -> None:
    for pid, shown in (20, name), (21, name[:15]):  # the kernel cuts it
        fabricated.process(host, pid, shown, f"/usr/bin/{name}", uid=0, devices=["/dev/nvidia0"])
    assert busy(host)["processes"] == []


@pytest.mark.parametrize("name", ["nvidia-smile", "nvtop-train", "python3", "dcgmproftester1"])
def test_a_program_with_a_name_like_a_daemons_is_work(host: Path, name: str) -> None:
    fabricated.process(host, 20, name, f"/usr/bin/{name}", devices=["/dev/nvidia0"])
    assert [row["pid"] for row in busy(host)["processes"]] == [20]


def test_a_name_may_hold_blanks_and_brackets_and_a_user_no_name(host: Path) -> None:
    fabricated.process(host, 30, "a) (b c", "x", uid=4242, devices=["/dev/nvidia0"], age_s=7)
    (row,) = busy(host)["processes"]
    assert (row["user"], row["age_s"]) == ("4242", 7)


def test_a_process_that_hangs_in_the_kernel_is_not_asked_for_what_may_never_come(host: Path) -> None:
    fabricated.process(host, 40, "python3", "python3 x.py", devices=["/dev/nvidia0"], state="D")
    for name in ("maps", "cmdline"):
        (host / f"proc/40/{name}").unlink()
        os.mkfifo(host / f"proc/40/{name}")  # whoever opens it waits for ever
    begun = time.monotonic()
    (row,) = busy(host)["processes"]
    assert row["command"] == "python3"
    assert time.monotonic() - begun < 3


def test_reading_that_hangs_all_the_same_is_left_behind(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricated.process(host, 50, "python3", "python3 x.py")
    (host / "proc/50/maps").unlink()
    os.mkfifo(host / "proc/50/maps")
    monkeypatch.setattr(host_busy, "_SECONDS", 0.3)
    begun = time.monotonic()
    found = busy(host)
    assert (found["processes"], found["complete"]) == ([], False)
    assert "too long" in found["reason"]
    assert time.monotonic() - begun < 3


def test_processes_that_are_closed_to_us_make_the_answer_incomplete(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricated.process(host, 60, "python3", "python3 x.py", devices=["/dev/nvidia0"])
    fabricated.process(host, 61, "python3", "python3 y.py", devices=["/dev/nvidia0"])
    real = os.listdir

    def guarded(path: Any) -> list[str]:
        if str(path).endswith("proc/61/fd"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(host_busy.os, "listdir", guarded)
    found = host_busy.scan(HostFiles(str(host), {}))
    assert ([row["pid"] for row in found["processes"]], found["complete"]) == ([60], False)
    assert found["reason"].startswith("not root: what 1 of 3 processes")


def test_a_real_process_is_found_by_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = tmp_path / "nvidia0"
    held.write_bytes(b"x" * 4096)
    code = (
        "import mmap, sys, time\nstream = open(sys.argv[1], 'r+b')\nmapped = mmap.mmap(stream.fileno(), 0)\n"
        "if sys.argv[2] == 'map':\n    stream.close()\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(host_busy, "_DEVICE", host_busy.re.compile(f"{held}$"))
    monkeypatch.setattr(host_busy, "_PREFIX", str(held))
    for how in ("open", "map"):
        process = subprocess.Popen([sys.executable, "-c", code, str(held), how], stdout=subprocess.PIPE)
        try:
            assert process.stdout
            process.stdout.readline()
            time.sleep(0.3)
            rows = [row for row in host_busy.scan(HostFiles("/", {}))["processes"] if row["pid"] == process.pid]
            assert [row["devices"] for row in rows] == [[str(held)]]
            assert 0 <= rows[0]["age_s"] < 60
            assert rows[0]["command"].startswith(sys.executable)
        finally:
            process.kill()
            process.wait()


# --- services --------------------------------------------------------------------------------------------------------


def units(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    files = HostFiles(str(root), {})
    return host_units.units(files), files.unknown


def test_services_that_exist_with_what_they_are_set_to_and_what_they_do(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/system.slice").mkdir(parents=True)
    assert units(tmp_path) == ({}, {})
    fabricated.unit(tmp_path, "nvidia-persistenced", enabled=True, active=True)
    fabricated.unit(tmp_path, "nvidia-fabricmanager", enabled=False, active=False)
    fabricated.unit(tmp_path, "nvidia-imex", enabled=True, active=False)
    fabricated.unit(tmp_path, "sshd", enabled=True, active=True)
    assert units(tmp_path) == (
        {
            "nvidia-persistenced": {"enabled": True, "active": True},
            "nvidia-fabricmanager": {"enabled": False, "active": False},
            "nvidia-imex": {"enabled": True, "active": False},
        },
        {},
    )


def test_a_masked_service_is_not_enabled(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/system.slice").mkdir(parents=True)
    fabricated.unit(tmp_path, "nvidia-dcgm", enabled=True, active=False)
    fabricated.link(tmp_path, "etc/systemd/system/nvidia-dcgm.service", "/dev/null")
    assert units(tmp_path)[0]["nvidia-dcgm"]["enabled"] is False


@pytest.mark.parametrize("group", ["systemd/", "unified/"])
def test_active_by_the_first_version_of_control_groups(tmp_path: Path, group: str) -> None:
    fabricated.unit(tmp_path, "nvidia-dcgm", enabled=False, active=False)
    place = f"sys/fs/cgroup/{group}system.slice"
    fabricated.write(tmp_path, f"{place}/nvidia-dcgm.service/cgroup.procs", "")
    assert units(tmp_path)[0]["nvidia-dcgm"]["active"] is False
    fabricated.write(tmp_path, f"{place}/nvidia-dcgm.service/cgroup.procs", "12\n13\n")
    assert units(tmp_path)[0]["nvidia-dcgm"]["active"] is True


def test_processes_one_level_down_are_active_as_well(tmp_path: Path) -> None:
    fabricated.unit(tmp_path, "nvidia-dcgm", enabled=False, active=False)
    place = "sys/fs/cgroup/system.slice/nvidia-dcgm.service"
    fabricated.write(tmp_path, f"{place}/cgroup.procs", "")
    fabricated.write(tmp_path, f"{place}/cgroup.events", "populated 1\nfrozen 0\n")
    assert units(tmp_path)[0]["nvidia-dcgm"]["active"] is True


def test_without_systemds_control_groups_it_is_not_known(tmp_path: Path) -> None:
    fabricated.unit(tmp_path, "nvidia-dcgm", enabled=False, active=False)
    found, unknown = units(tmp_path)
    assert found["nvidia-dcgm"]["active"] is None
    assert "control groups" in unknown["units.nvidia-dcgm.active"]
