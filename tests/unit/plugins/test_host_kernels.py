# SPDX-License-Identifier: Apache-2.0
"""Kernels and boot loaders of fabricated hosts: what runs, what is installed, what starts next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_kernels
from ansible.module_utils.host_files import HostFiles, version_key
from hypothesis import given
from hypothesis import strategies as st

DEBIAN = "6.1.0-25-amd64"
ROCKY = "5.14.0-503.11.1.el9_5.x86_64"


def read(root: Path, kernel: str | None = None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    files = HostFiles(str(root), {})
    return host_kernels.kernels(files, kernel or host_kernels.running(files)), files.unknown


def next_boot(root: Path) -> tuple[str | None, dict[str, str]]:
    rows, unknown = read(root)
    assert sum(row["next_boot"] is True for row in rows) <= 1
    return host_kernels.next_boot(rows), unknown


def test_the_running_kernel_comes_from_the_tree(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    unknown: dict[str, str] = {}
    assert host_kernels.running(HostFiles(str(tmp_path), unknown)) == DEBIAN
    assert unknown == {}
    (tmp_path / "proc/sys/kernel/osrelease").unlink()
    assert host_kernels.running(HostFiles(str(tmp_path), unknown)) is None
    assert "No such file" in unknown["kernel"]


@pytest.mark.parametrize("system", fabricated.SYSTEMS)
def test_one_kernel_that_runs_and_starts_next(tmp_path: Path, system: str) -> None:
    release = fabricated.plain(tmp_path, system)
    rows, unknown = read(tmp_path)
    assert rows == [{"release": release, "running": True, "next_boot": True, "headers": True, "image": True}]
    assert unknown == {}


def test_kernels_are_listed_newest_first_with_what_each_of_them_has(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.kernel(tmp_path, "6.1.0-9-amd64", headers=False)
    fabricated.kernel(tmp_path, "6.1.0-31-amd64", headers=False)
    fabricated.kernel(tmp_path, "6.12.9-amd64", image=False)  # removed, and its headers are still there
    fabricated.write(tmp_path, "boot/vmlinuz-0-rescue-0123")
    (tmp_path / "lib/modules/leftover").mkdir()
    (tmp_path / "usr/src/linux-headers-6.1.0-31-amd64").mkdir()  # half installed: no Makefile
    rows, _ = read(tmp_path)
    said = [(row["release"], row["running"], row["next_boot"], row["headers"], row["image"]) for row in rows]
    assert said == [
        ("6.12.9-amd64", False, False, True, False),
        ("6.1.0-31-amd64", False, True, False, True),
        (DEBIAN, True, False, True, True),
        ("6.1.0-9-amd64", False, False, False, True),
    ]


def test_a_running_kernel_whose_packages_are_gone_is_still_listed(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    rows, _ = read(tmp_path, "6.1.0-20-amd64")
    assert [(row["release"], row["running"], row["image"]) for row in rows] == [
        (DEBIAN, False, True),
        ("6.1.0-20-amd64", True, False),
    ]


def test_headers_are_found_without_the_link_as_well(tmp_path: Path) -> None:
    release = fabricated.plain(tmp_path, "rocky9")
    (tmp_path / f"lib/modules/{release}/build").unlink()
    assert read(tmp_path)[0][0]["headers"] is True
    fabricated.link(tmp_path, f"lib/modules/{release}/build", "/usr/src/gone")
    (tmp_path / f"usr/src/kernels/{release}/Makefile").unlink()
    assert read(tmp_path)[0][0]["headers"] is False


OLD = "6.1.0-9-amd64"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"etc/default/grub": "GRUB_TIMEOUT=5\n"}, DEBIAN),
        ({"etc/default/grub": "# GRUB_DEFAULT=saved\n", "boot/grub/grubenv": f"saved_entry={OLD}\n"}, DEBIAN),
        ({"etc/default/grub": f'GRUB_DEFAULT="Advanced options>Debian GNU/Linux, with Linux {OLD}"\n'}, OLD),
        ({"etc/default/grub": f"GRUB_DEFAULT='gnulinux-advanced-ab>gnulinux-{OLD}-advanced-ab'\n"}, OLD),
        ({"etc/default/grub.d/60-lab.cfg": f"GRUB_DEFAULT='gnulinux-{OLD}-advanced'\n"}, OLD),
        ({"etc/default/grub": "GRUB_DEFAULT=saved\n"}, DEBIAN),
        ({"etc/default/grub": "GRUB_DEFAULT=saved\n", "boot/grub/grubenv": f"saved_entry=gnulinux-{OLD}\n"}, OLD),
        # grub-reboot speaks of the next boot alone, and before all else.
        ({"boot/grub/grubenv": f"next_entry=gnulinux-{OLD}-advanced\n"}, OLD),
        ({"boot/grub/grubenv": "next_entry=\nsaved_entry=\n"}, DEBIAN),
        ({"etc/default/grub": f"GRUB_TOP_LEVEL=/boot/vmlinuz-{OLD}\n"}, OLD),
    ],
)
def test_grub_on_debian(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.kernel(tmp_path, OLD)
    for name, text in files.items():
        fabricated.write(tmp_path, name, text)
    assert next_boot(tmp_path) == (expected, {})


def test_a_flavour_that_grub_prefers_comes_before_a_newer_kernel(tmp_path: Path) -> None:
    fabricated.plain(tmp_path)
    fabricated.kernel(tmp_path, "6.11.0-9-lowlatency")
    assert next_boot(tmp_path)[0] == "6.11.0-9-lowlatency"
    fabricated.write(tmp_path, "etc/default/grub.d/10-flavour.cfg", 'GRUB_FLAVOUR_ORDER="generic"\n')
    assert next_boot(tmp_path)[0] == "6.8.0-45-generic"


@pytest.mark.parametrize("said", ["1>2", "2", "Windows Boot Manager", "gnulinux-6.1.0-25-amd64x", "6.1.0-25-amd64.old"])
def test_an_entry_that_names_no_kernel_is_not_known(tmp_path: Path, said: str) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.write(tmp_path, "etc/default/grub", f'GRUB_DEFAULT="{said}"\n')
    release, unknown = next_boot(tmp_path)
    assert release is None
    assert said in unknown["next_boot_kernel"]
    assert [row["next_boot"] for row in read(tmp_path)[0]] == [None]


def test_the_saved_entry_on_red_hat(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "rocky9")
    newer = "5.14.0-570.1.1.el9_6.x86_64"
    fabricated.kernel(tmp_path, newer)
    assert next_boot(tmp_path) == (ROCKY, {})  # the saved entry, though a newer kernel is there
    fabricated.write(tmp_path, "boot/grub2/grubenv", f"saved_entry=0123abcd-{newer}\n")
    assert next_boot(tmp_path) == (newer, {})
    fabricated.write(tmp_path, "boot/grub2/grubenv", "boot_success=1\n")
    assert next_boot(tmp_path) == (newer, {})
    fabricated.write(tmp_path, "boot/loader/entries/mine.conf", f"title mine\nlinux /vmlinuz-{ROCKY}\n")
    fabricated.write(tmp_path, "boot/grub2/grubenv", "saved_entry=mine\n")
    assert next_boot(tmp_path) == (ROCKY, {})
    fabricated.write(tmp_path, "boot/grub2/grubenv", "saved_entry=3\n")
    release, unknown = next_boot(tmp_path)
    assert release is None
    assert "'3'" in unknown["next_boot_kernel"]


def test_hosts_without_a_boot_loader_to_read(tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    (tmp_path / "etc/default/grub").unlink()
    assert "no boot loader" in next_boot(tmp_path)[1]["next_boot_kernel"]
    fabricated.write(tmp_path, "boot/loader/loader.conf", "default debian-*\n")
    fabricated.write(tmp_path, "boot/loader/entries/debian.conf", f"linux /vmlinuz-{DEBIAN}\n")
    assert "systemd-boot" in next_boot(tmp_path)[1]["next_boot_kernel"]
    (tmp_path / f"boot/vmlinuz-{DEBIAN}").unlink()
    assert "no kernel image" in next_boot(tmp_path)[1]["next_boot_kernel"]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("etc/hostname", "h", None),
        ("run/systemd/container", "lxc\n", "lxc"),
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("proc/1/environ", "A=1\0container=systemd-nspawn\0B=2\0", "systemd-nspawn"),
        ("proc/1/environ", "KUBERNETES_SERVICE_HOST=10.0.0.1\0", "kubernetes"),
        ("proc/1/environ", "my_container=none\0", None),
    ],
)
def test_containers(tmp_path: Path, path: str, content: str, expected: str | None) -> None:
    fabricated.write(tmp_path, path, content)
    unknown: dict[str, str] = {}
    assert host_kernels.container(HostFiles(str(tmp_path), unknown), DEBIAN) == expected
    assert unknown == {}


def test_wsl_is_told_by_its_kernel(tmp_path: Path) -> None:
    files = HostFiles(str(tmp_path), {})
    assert host_kernels.container(files, "5.15.153.1-microsoft-standard-WSL2") == "wsl"
    assert host_kernels.container(files, None) is None


@pytest.mark.parametrize(
    "releases",
    [
        ["6.8.0-9-generic", "6.8.0-45-generic", "6.8.0-117-generic", "6.11.0-1-generic"],
        ["5.14.0-70.el9", "5.14.0-503.11.1.el9_5", "5.14.0-503.12.1.el9_5"],
        ["6.12-rc7-amd64", "6.12~rc9-amd64", "6.12-amd64", "6.12.1-amd64"],
        ["570.86.15", "580.65.06", "580.126.09", "1000.1"],
    ],
)
def test_versions_are_sorted_as_their_makers_mean_them(releases: list[str]) -> None:
    assert sorted(set(releases), key=version_key) == releases


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_two_names_can_be_compared(first: str, second: str) -> None:
    assert (version_key(first) < version_key(second)) in (True, False)


NAMES = st.text(st.characters(categories=["Ll"], max_codepoint=127), min_size=1, max_size=10)


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_characters="\n"), max_size=20)), st.integers(0, 100))
def test_a_grub_environment_is_read_as_grub_writes_it(values: dict[str, str], filling: int) -> None:
    lines = [f"{name}={value}".replace("\\", "\\\\") for name, value in values.items()]
    text = "# GRUB Environment Block\n" + "".join(f"{line}\n" for line in lines) + "#" * filling
    assert host_kernels.read_grubenv(text) == values


@given(st.text())
def test_no_grub_environment_and_no_settings_are_too_strange(text: str) -> None:
    assert isinstance(host_kernels.read_grubenv(text), dict)
    assert isinstance(host_kernels.read_settings(text), dict)


def test_settings_are_read_as_a_shell_reads_assignments() -> None:
    text = "A=1 # one\nB='two words'\nC=\"three\"\nexport D=four\n#E=5\n F=\nG=x;H=y\nif true; then\n"
    expected = {"A": "1", "B": "two words", "C": "three", "D": "four", "F": "", "G": "x"}
    assert host_kernels.read_settings(text) == expected
