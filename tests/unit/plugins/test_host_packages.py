# SPDX-License-Identifier: Apache-2.0
"""Packages as dpkg's and rpm's own records tell of them, and what state the package manager is in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_packages
from ansible.module_utils.host_files import HostFiles
from hypothesis import given
from hypothesis import strategies as st


def read(root: Path, family: str = "debian") -> host_packages.Packages:
    packages = host_packages.Packages(HostFiles(str(root), {}), family)
    packages.read()
    return packages


FAMILY = """
nvidia-driver nvidia-open nvidia-open-580 nvidia-driver-580-server nvidia-driver-pinning-580.126.09
nvidia-dkms-580-open nvidia-kernel-common-580 nvidia-kernel-dkms nvidia-open-kernel-dkms nvidia-kernel-source-580
nvidia-modprobe nvidia-settings nvidia-persistenced nvidia-smi nvidia-utils-580 nvidia-headless-580-server
nvidia-fabricmanager nvidia-imex nvidia-alternative nvidia-vdpau-driver nvidia-egl-common nvidia-egl-icd
nvidia-tesla-470-driver nvidia-legacy-390xx-driver nvidia-firmware-580 libnvidia-compute-580 libnvidia-ml1
libnvidia-nscq libnvidia-tesla-470-cuda1 libnvidia-cfg1 cuda-drivers cuda-drivers-580
linux-modules-nvidia-580-server-6.8.0-45-generic linux-objects-nvidia-580-6.8.0-45-generic
linux-signatures-nvidia-6.8.0-45 xserver-xorg-video-nvidia xserver-xorg-video-nvidia-580 kmod-nvidia-open-dkms
kmod-nvidia-580 nvidia-kmod-common nvidia-driver-cuda-libs libcuda1 libcudadebugger1 libnvcuvid1 libnvoptix1
libxnvctrl0 libglx-nvidia0 libegl-nvidia0 libgles-nvidia2 libgl1-nvidia-glvnd-glx firmware-nvidia-gsp cuda-compat-13-0
nvlsm libnvsdm
"""
OTHERS = """
nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container1 libnvidia-container-tools
nvidia-container-runtime nvidia-docker2 nvidia-cuda-toolkit nvidia-cuda-toolkit-gcc nvidia-cuda-dev nvidia-cudnn
libnvidia-egl-wayland1 libnvidia-egl-gbm1 nvidia-texture-tools nvidia-nsight-compute nvidia-openjdk-8-jre
nvidia-profiler nvidia-fs-dkms cuda-toolkit-13-0 cuda-runtime-13-0 libcudnn9-cuda-13 libcuda2 libxnvctrl-dev
firmware-misc-nonfree linux-image-nvidia datacenter-gpu-manager nvtop nvidia xserver-xorg-video-nouveau kmod
"""


@pytest.mark.parametrize("name", FAMILY.split())
def test_packages_of_the_driver(name: str) -> None:
    assert host_packages.of_driver(name)


@pytest.mark.parametrize("name", OTHERS.split())
def test_packages_that_are_only_called_alike(name: str) -> None:
    assert not host_packages.of_driver(name)


@pytest.mark.parametrize(
    "name",
    [
        *("cuda", "cuda-12-9", "cuda-toolkit-12-9", "cuda-nvcc-12-9", "cuda-keyring", "cuda-repo-ubuntu2404"),
        *("libcublas-12-9", "libcublas-dev-12-9", "libcublas-devel-12-9", "libnpp-13-0", "libnvjitlink-dev-12-9"),
        *("libnvvm-13-0", "libnvptxcompiler-13-0", "libcudla-12-9", "gds-tools-12-9", "nsight-compute-2025.2.1"),
        *("libcudnn9-cuda-12", "libcudnn9-dev-cuda-13", "libcudnn8", "cudnn9-cuda-12-9", "libnccl2", "libnccl-devel"),
        *("nvidia-cuda-toolkit", "nvidia-cuda-dev", "nvidia-cudnn", "libcudart12", "libcublaslt11", "libnppial12"),
        *("libnvrtc-builtins12.0", "libcuinj64-12.0"),
    ],
)
def test_packages_of_cuda(name: str) -> None:
    assert host_packages.of_cuda(name)


@pytest.mark.parametrize(
    "name",
    [
        *("cuda-drivers", "cuda-drivers-580", "cuda-compat-12-9", "nvidia-driver-580", "libcuda1", "libnvidia-ml1"),
        *("libgtk-3-0", "libcurl4", "libcups2", "libcudf", "libnvme1", "libnppfoo", "nvidia-container-toolkit"),
        *("barracuda-1-2", "nsight", "libcurand", "python3-pycuda"),
    ],
)
def test_packages_that_are_not_cudas(name: str) -> None:
    assert not host_packages.of_cuda(name)


def test_states_of_packages_in_dpkgs_file(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.package(tmp_path, "nvidia-driver", "580.126.09-1", "hold ok installed")
    fabricated.package(tmp_path, "libcuda1", "580.126.09-1")
    fabricated.package(tmp_path, "libcuda1", "580.126.09-1", arch="i386")
    fabricated.package(tmp_path, "nvidia-smi", "570.86.15-1", "deinstall ok config-files")
    fabricated.package(tmp_path, "nvidia-settings", "", "unknown ok not-installed")
    fabricated.package(tmp_path, "nvidia-kernel-dkms", "580.126.09-1", "install ok half-configured")
    fabricated.package(tmp_path, "libnvidia-ml1", "580.126.09-1", "install ok unpacked")
    fabricated.package(tmp_path, "nvidia-alternative", "580.126.09-1", "install ok triggers-pending")
    fabricated.package(tmp_path, "nvidia-modprobe", "580.126.09-1", "install reinstreq installed")
    fabricated.package(tmp_path, "man-db", "2.11", "install ok triggers-awaited")
    fabricated.package(tmp_path, "vim", "9.0", "hold ok installed")
    packages = read(tmp_path)
    assert packages.kind == "apt"
    version = "580.126.09-1"
    assert packages.installed() == {"libcuda1": version, "libcuda1:i386": version, "nvidia-driver": version}
    assert packages.held() == ["nvidia-driver"]
    assert packages.broken() == ["libnvidia-ml1", "nvidia-alternative", "nvidia-kernel-dkms", "nvidia-modprobe"]
    assert packages.manager()["broken"] == sorted([*packages.broken(), "man-db"])


def test_cudas_packages_that_are_installed_as_they_should_be(tmp_path: Path) -> None:
    fabricated.plain(tmp_path)
    fabricated.packaged_toolkit(tmp_path, "12.9.1", held=True)
    fabricated.package(tmp_path, "libcudnn9-cuda-12", "9.13.0.50-1", "install ok half-configured")
    fabricated.package(tmp_path, "libcublas-12-9", "12.9.1-1", arch="arm64")
    packages = host_packages.Packages(HostFiles(str(tmp_path), {}), "debian")
    packages.read()
    found = packages.cuda()
    assert found is not None
    assert found["cuda-nvcc-12-9"] == {"version": "12.9.1-1", "held": True}
    assert found["libcublas-12-9:arm64"] == {"version": "12.9.1-1", "held": False}
    assert "libcudnn9-cuda-12" not in found
    packages.rows = None
    assert packages.cuda() is None


def test_what_an_interrupted_dpkg_left_in_its_journal_counts(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.package(tmp_path, "nvidia-driver", "570.86.15-1")
    paragraph = "Package: nvidia-driver\nStatus: install ok unpacked\nArchitecture: amd64\nVersion: 580.126.09-1\n"
    fabricated.write(tmp_path, "var/lib/dpkg/updates/0001", paragraph)
    fabricated.write(tmp_path, "var/lib/dpkg/updates/tmp.i", "Package: nvidia-driver\nStatus: broken")
    packages = read(tmp_path)
    assert (packages.installed(), packages.broken()) == ({}, ["nvidia-driver"])


def test_a_host_without_any_list_of_packages(tmp_path: Path) -> None:
    packages = read(tmp_path)
    assert (packages.kind, packages.installed(), packages.held(), packages.broken()) == (None, {}, [], [])
    assert packages.manager()["unattended_upgrades"] is None
    assert "neither" in packages.files.unknown["packages"]


NAMES = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789+-."), min_size=2, max_size=20)
VERSIONS = st.text(st.sampled_from("0123456789.:~+-abc"), min_size=1, max_size=20)
STATES = ("installed", "unpacked", "half-configured", "triggers-pending", "config-files", "not-installed")
ROWS = st.tuples(VERSIONS, st.sampled_from(STATES), st.booleans())


@given(st.dictionaries(NAMES, ROWS), st.sampled_from(["\n\n", "\n\n\n", "\n \n"]))
def test_whatever_dpkg_writes_is_read_back(rows: dict[str, tuple[str, str, bool]], between: str) -> None:
    paragraphs = [
        f"Package: {name}\nStatus: {'hold' if held else 'install'} ok {state}\nArchitecture: all\nVersion: {version}\n"
        "Conffiles:\n /etc/x 0123\nDescription: one line\n Package: is no field here\n ."
        for name, (version, state, held) in rows.items()
    ]
    found = host_packages.read_dpkg(between.join(paragraphs))
    assert {name: (row["version"], row["state"], row["held"]) for name, row in found.items()} == {
        name: row for name, row in rows.items() if row[1] not in ("config-files", "not-installed")
    }


@given(st.text())
def test_no_status_file_is_too_strange(text: str) -> None:
    assert isinstance(host_packages.read_dpkg(text), dict)
    assert isinstance(host_packages.read_rpm(text), dict)
    assert isinstance(host_packages.held_by_versionlock(text, {}), list)
    assert isinstance(host_packages.read_locks(text), list)


# --- rpm -------------------------------------------------------------------------------------------------------------

RPM = """nvidia-driver\t3\t580.126.09-1.el9\tx86_64
kmod-nvidia-open-dkms\t3\t580.126.09-1.el9\tnoarch
nvidia-driver-libs\t3\t580.126.09-1.el9\tx86_64
nvidia-container-toolkit\t0\t1.18.0-1\tx86_64
gpg-pubkey\t0\td42d0685-62589a51\t(none)
kernel\t0\t5.14.0-503.el9\tx86_64
"""


@pytest.fixture
def rpm_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Red Hat host whose rpm is a stand-in that says what lies beside its database."""
    tree = tmp_path / "tree"
    fabricated.plain(tree, "rocky9")
    fabricated.write(tree, "var/lib/rpm/rpmdb.sqlite", RPM)
    text = f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat "$2/rpmdb.sqlite"\n'
    program = fabricated.write(tmp_path, "bin/rpm", text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tree


def test_packages_on_red_hat(rpm_host: Path) -> None:
    packages = read(rpm_host, "rhel")
    assert packages.kind == "dnf"
    assert packages.installed() == {
        "kmod-nvidia-open-dkms": "580.126.09-1.el9",
        "nvidia-driver": "580.126.09-1.el9",
        "nvidia-driver-libs": "580.126.09-1.el9",
    }
    assert (packages.held(), packages.broken()) == ([], [])
    # It is asked about the tree, not about the host that runs this.
    assert f"--dbpath {rpm_host}/var/lib/rpm" in (rpm_host.parent / "calls").read_text()


def test_an_rpm_that_does_not_answer_leaves_null_and_a_reason(rpm_host: Path) -> None:
    (rpm_host.parent / "bin/rpm").write_text("#!/bin/sh\nexit 1\n")
    packages = read(rpm_host, "rhel")
    assert (packages.installed(), packages.held(), packages.broken()) == (None, None, None)
    assert "rpm" in packages.files.unknown["packages"]


def test_a_debian_with_dnf_is_what_its_os_release_says(rpm_host: Path) -> None:
    fabricated.package(rpm_host, "dpkg", "1.21")
    assert read(rpm_host, "rhel").kind == "dnf"
    assert read(rpm_host, "debian").kind == "apt"


@pytest.mark.parametrize(
    ("entry", "held"),
    [
        ("nvidia-driver-3:580.126.09-1.el9.*", ["nvidia-driver"]),
        ("nvidia-driver-3:570.86.15-1.el9.*", ["nvidia-driver"]),  # it locks the name, and so no other version comes
        ("nvidia-driver-580.126.09-1.el9.x86_64", ["nvidia-driver"]),
        ("nvidia-driver", ["nvidia-driver"]),
        ("nvidia-driver*", ["nvidia-driver", "nvidia-driver-libs"]),
        ("*nvidia*-3:580.*", ["kmod-nvidia-open-dkms", "nvidia-driver", "nvidia-driver-libs"]),
        ("kmod-nvidia-open-dkms-3:580.126.09-1.el9.noarch", ["kmod-nvidia-open-dkms"]),
        ("!nvidia-driver-3:580.126.09-1.el9.*", []),
        ("# nvidia-driver", []),
        ("nvidia-settings-3:580.126.09-1.el9.*", []),
        ("", []),
    ],
)
@pytest.mark.parametrize("place", ["etc/dnf/plugins/versionlock.list", "etc/yum/pluginconf.d/versionlock.list"])
def test_names_that_dnf_locks(rpm_host: Path, entry: str, held: list[str], place: str) -> None:
    fabricated.write(rpm_host, place, f"# Added lock\n{entry}\n\n")
    assert read(rpm_host, "rhel").held() == held


NUMBERS = st.from_regex(r"[0-9][0-9.]{0,5}", fullmatch=True)
LOCKED = st.tuples(st.integers(0, 9), NAMES.filter(lambda name: name[0].isalpha()), NUMBERS)


@given(LOCKED)
def test_whatever_dnf_writes_into_its_list_holds_that_package(locked: tuple[int, str, str]) -> None:
    epoch, name, version = locked
    row = {"version": f"{version}-1.el9", "epoch": str(epoch), "arch": "x86_64"}
    line = f"{name}-{epoch}:{version}-1.el9.*"
    assert host_packages.held_by_versionlock(line, {name: row, "another": row | {"version": "0-0"}}) == [name]


# --- who works with it, and what upgrades by itself ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock", "var/lib/apt/lists/lock"])
def test_who_holds_apts_lock(tmp_path: Path, name: str) -> None:
    fabricated.plain(tmp_path, "debian12")
    inode = fabricated.write(tmp_path, name).stat().st_ino
    fabricated.process(tmp_path, 4321, "apt-get", "apt-get dist-upgrade -y", uid=0)

    def lock(line: str) -> Any:
        fabricated.write(tmp_path, "proc/locks", f"1: FLOCK  ADVISORY  WRITE 99 fe:00:1 0 EOF\n{line}\n")
        return read(tmp_path).manager()["lock"]

    held = {"pid": 4321, "command": "apt-get dist-upgrade -y"}
    assert lock(f"2: POSIX  ADVISORY  WRITE 4321 fe:00:{inode} 0 EOF") == held
    assert lock(f"2: POSIX  ADVISORY  READ 4321 fe:00:{inode} 0 EOF") is None
    assert lock(f"2: -> POSIX  ADVISORY  WRITE 4321 fe:00:{inode} 0 EOF") is None  # it waits
    assert lock(f"2: OFDLCK ADVISORY  WRITE -1 fe:00:{inode} 0 EOF") is None
    assert lock(f"2: POSIX  ADVISORY  WRITE 4321 fe:00:{inode + 1} 0 EOF") is None
    assert lock("") is None


@pytest.mark.parametrize("place", ["var/lib/dnf/rpmdb_lock.pid", "var/cache/dnf/download_lock.pid"])
def test_who_holds_dnfs_lock(rpm_host: Path, place: str) -> None:
    assert read(rpm_host, "rhel").manager()["lock"] is None
    fabricated.write(rpm_host, place, "777")
    assert read(rpm_host, "rhel").manager()["lock"] is None  # whoever wrote it is gone
    fabricated.process(rpm_host, 777, "dnf", "/usr/bin/python3 /usr/bin/dnf upgrade", uid=0)
    assert read(rpm_host, "rhel").manager()["lock"] == {"pid": 777, "command": "/usr/bin/python3 /usr/bin/dnf upgrade"}


ON = 'APT::Periodic::Unattended-Upgrade "1";\n'
SWITCH = "etc/apt/apt.conf.d/20auto-upgrades"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({SWITCH: 'APT::Periodic::Unattended-Upgrade "1";\n'}, True),
        ({SWITCH: 'APT::Periodic::Unattended-Upgrade "0";\n'}, False),
        ({SWITCH: '// APT::Periodic::Unattended-Upgrade "1";\n'}, False),
        ({SWITCH: 'APT { Periodic { Unattended-Upgrade "1"; }; };\n'}, True),
        ({SWITCH: ON, f"{SWITCH}9": 'APT::Periodic::Unattended-Upgrade "0";'}, False),
        ({SWITCH: ON, "etc/apt/apt.conf.d/10p": 'APT::Periodic::Enable "0";'}, False),
        ({"etc/apt/apt.conf.d/50u": 'Unattended-Upgrade::Package-Blacklist { "x"; };\n'}, False),
        ({}, False),
    ],
)
def test_whether_apt_upgrades_by_itself(tmp_path: Path, files: dict[str, str], expected: bool) -> None:
    fabricated.plain(tmp_path, "debian12")
    for name, text in files.items():
        fabricated.write(tmp_path, name, text)
    assert read(tmp_path).manager()["unattended_upgrades"] is False  # the package is not there
    fabricated.package(tmp_path, "unattended-upgrades", "2.9")
    assert read(tmp_path).manager()["unattended_upgrades"] is expected


def test_a_timer_that_is_off_upgrades_nothing(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.package(tmp_path, "unattended-upgrades", "2.9")
    fabricated.write(tmp_path, SWITCH, 'APT::Periodic::Unattended-Upgrade "1";\n')
    timer = "apt-daily-upgrade.timer"
    fabricated.write(tmp_path, f"lib/systemd/system/{timer}")
    assert read(tmp_path).manager()["unattended_upgrades"] is False
    fabricated.link(tmp_path, f"etc/systemd/system/timers.target.wants/{timer}", f"/lib/systemd/system/{timer}")
    assert read(tmp_path).manager()["unattended_upgrades"] is True
    fabricated.link(tmp_path, f"etc/systemd/system/{timer}", "/dev/null")
    assert read(tmp_path).manager()["unattended_upgrades"] is False


@pytest.mark.parametrize(
    ("timer", "settings", "expected"),
    [
        (None, "apply_updates = yes", False),
        ("dnf-automatic.timer", "[commands]\napply_updates = yes\n", True),
        ("dnf-automatic.timer", "[commands]\napply_updates = no\n", False),
        ("dnf-automatic-install.timer", "", True),
        ("dnf-automatic-download.timer", "apply_updates = yes", False),
    ],
)
def test_whether_dnf_upgrades_by_itself(rpm_host: Path, timer: str | None, settings: str, expected: bool) -> None:
    fabricated.write(rpm_host, "etc/dnf/automatic.conf", settings)
    if timer:
        fabricated.link(rpm_host, f"etc/systemd/system/timers.target.wants/{timer}", f"/usr/lib/systemd/system/{timer}")
    assert read(rpm_host, "rhel").manager()["unattended_upgrades"] is expected


def test_our_word_to_unattended_upgrades(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    text = 'Unattended-Upgrade::Package-Blacklist {\n  "^nvidia-.*$";\n};\n'
    fabricated.write(tmp_path, "etc/apt/apt.conf.d/50unattended-upgrades", text)
    assert read(tmp_path).manager()["our_blacklist"] is False
    fabricated.write(tmp_path, "etc/apt/apt.conf.d/52gpulab-nvidia-driver", text)
    assert read(tmp_path).manager()["our_blacklist"] is True
