# SPDX-License-Identifier: Apache-2.0
"""Secure Boot's keys, and nouveau: blacklisted, and in the initramfs or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_boot
from ansible.module_utils.host_files import HostFiles

GUID = "605dab50-e046-4300-abb6-3dd810dd8b23"
VARIABLES = "sys/firmware/efi/efivars"
DER = b"\x30\x82\x03\x01our certificate"


def key(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    files = HostFiles(str(root), {})
    return host_boot.machine_owner_key(files), files.unknown


def test_without_a_certificate_nothing_is_enrolled(tmp_path: Path) -> None:
    assert key(tmp_path) == ({"enrolled": False, "pending": False, "certificate": None}, {})


def test_without_uefi_a_certificate_is_not_enrolled(tmp_path: Path) -> None:
    fabricated.write(tmp_path, host_boot.CERTIFICATE, DER)
    path = "/var/lib/gpulab/machine-owner-key.der"
    assert key(tmp_path) == ({"enrolled": False, "pending": False, "certificate": path}, {})


@pytest.mark.parametrize(
    ("variables", "enrolled", "pending"),
    [
        ({"SecureBoot-8be4": b"\6\0\0\0\1"}, False, False),
        ({f"MokListRT-{GUID}": b"\6\0\0\0header" + DER + b"more"}, True, False),
        ({f"MokListRT-{GUID}": b"\6\0\0\0other", f"MokListRT1-{GUID}": b"\6\0\0\0" + DER}, True, False),
        ({f"MokListRT-{GUID}": b"\6\0\0\0" + DER[:-1]}, False, False),
        ({f"MokNew-{GUID}": b"\7\0\0\0" + DER}, False, True),
        ({f"MokListXRT-{GUID}": b"\6\0\0\0" + DER}, False, False),  # forbidden is not enrolled
    ],
)
def test_our_certificate_in_the_firmware(
    tmp_path: Path, variables: dict[str, bytes], enrolled: bool, pending: bool
) -> None:
    fabricated.write(tmp_path, host_boot.CERTIFICATE, DER)
    for name, content in variables.items():
        fabricated.write(tmp_path, f"{VARIABLES}/{name}", content)
    found, unknown = key(tmp_path)
    assert (found["enrolled"], found["pending"], unknown) == (enrolled, pending, {})


def test_firmware_whose_variables_are_not_mounted_is_not_known(tmp_path: Path) -> None:
    fabricated.write(tmp_path, host_boot.CERTIFICATE, DER)
    (tmp_path / VARIABLES).mkdir(parents=True)
    found, unknown = key(tmp_path)
    assert (found["enrolled"], found["pending"]) == (None, None)
    assert "not mounted" in unknown["machine_owner_key"]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("etc/modprobe.d/x.conf", "blacklist nouveau\n", True),
        ("etc/modprobe.d/x.conf", "  blacklist   nouveau  # no\n", True),
        ("etc/modprobe.d/x.conf", "install nouveau /bin/false\n", True),
        ("etc/modprobe.d/x.conf", "install nouveau /usr/bin/true\n", True),
        ("lib/modprobe.d/x.conf", "blacklist nouveau\n", True),
        ("usr/lib/modprobe.d/x.conf", "blacklist nouveau\n", True),
        ("run/modprobe.d/x.conf", "blacklist nouveau\n", True),
        ("etc/modprobe.d/x.conf", "# blacklist nouveau\nblacklist nouveau-extra\noptions nouveau modeset=0\n", False),
        ("etc/modprobe.d/x.conf", "install nouveau /sbin/modprobe --ignore-install nouveau\n", False),
        ("etc/modprobe.d/x.conf.bak", "blacklist nouveau\n", False),
        ("proc/cmdline", "ro rd.driver.blacklist=nouveau quiet\n", True),
        ("proc/cmdline", "ro modprobe.blacklist=floppy,nouveau\n", True),
        ("proc/cmdline", "ro module_blacklist=nouveau\n", True),
        ("proc/cmdline", "ro nouveau.modeset=0 blacklist=nouveau\n", False),
    ],
)
def test_nouveau_is_blacklisted(tmp_path: Path, path: str, content: str, expected: bool) -> None:
    fabricated.write(tmp_path, path, content)
    files = HostFiles(str(tmp_path), {})
    assert host_boot.nouveau_blacklisted(files, host_boot.modprobe_lines(files)) is expected


def test_an_administrators_file_hides_the_distributions_of_the_same_name(tmp_path: Path) -> None:
    fabricated.write(tmp_path, "usr/lib/modprobe.d/nvidia.conf", "blacklist nouveau\n")
    fabricated.link(tmp_path, "etc/modprobe.d/nvidia.conf", "/dev/null")
    files = HostFiles(str(tmp_path), {})
    assert host_boot.nouveau_blacklisted(files, host_boot.modprobe_lines(files)) is False


# --- the initramfs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lister(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of lsinitramfs that notes when it is called and says what lies beside the image."""
    fabricated.plain(tmp_path / "tree", "debian12")
    text = f'#!/bin/sh\necho x >> {tmp_path}/calls\ncat "$1"\n'
    program = fabricated.write(tmp_path, "tree/usr/bin/lsinitramfs", text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


IMAGE = "boot/initrd.img-6.1.0-25-amd64"


def look(tmp_path: Path, noted: Any = None, release: str | None = "6.1.0-25-amd64") -> tuple[Any, Any, dict[str, str]]:
    files = HostFiles(str(tmp_path / "tree"), {})
    answer, stamp = host_boot.Initramfs(files, release, noted).result()
    return answer, stamp, files.unknown


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("usr/lib/modules/6.1/kernel/drivers/gpu/drm/nouveau/nouveau.ko\n", True),
        ("drwxr-xr-x 2 root 0 Jan 1 usr/lib/modules/6.1/kernel/drivers/gpu/drm/nouveau/nouveau.ko.xz\n", True),
        ("usr/lib/modules/6.1/kernel/drivers/gpu/drm/nouveau\netc/modprobe.d/nouveau.conf\n", False),
        ("", False),
    ],
)
def test_nouveau_in_a_listed_initramfs(lister: Path, listing: str, expected: bool) -> None:
    fabricated.write(lister, f"tree/{IMAGE}", listing)
    answer, stamp, unknown = look(lister)
    assert (answer, unknown) == (expected, {})
    assert stamp["path"] == f"/{IMAGE}"
    assert stamp["size"] == len(listing)
    assert stamp["nouveau"] is expected


def test_a_note_about_the_same_file_is_taken_and_one_about_another_is_not(lister: Path) -> None:
    answer, stamp, _ = look(lister)
    assert answer is False
    assert look(lister, {**stamp, "nouveau": True})[0] is True
    assert (lister / "calls").read_text().count("x") == 1
    for other in ({**stamp, "mtime_ns": 1}, {**stamp, "size": 1}, {**stamp, "nouveau": None}, {}, "text", None):
        assert look(lister, other)[0] is False
    assert (lister / "calls").read_text().count("x") == 7


def test_nouveau_that_something_beside_it_keeps_out_is_not_loaded_from_the_initramfs(lister: Path) -> None:
    module = "usr/lib/modules/6.1.0-25-amd64/kernel/drivers/gpu/drm/nouveau/nouveau.ko"
    fabricated.write(lister, f"tree/{IMAGE}", f"{module}\netc/modprobe.d/gpulab-nouveau.conf\n")
    assert look(lister)[0] is True, "a file of that name says nothing of nouveau on this host"
    fabricated.write(lister, "tree/etc/modprobe.d/gpulab-nouveau.conf", "# ours\nblacklist nouveau\n")
    assert look(lister)[0] is False


def test_an_initramfs_that_cannot_be_looked_into_is_not_known(lister: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "which kernel" in look(lister, release=None)[2]["nouveau.in_initramfs"]
    assert "no initramfs" in look(lister, release="5.0")[2]["nouveau.in_initramfs"]
    (lister / "tree/usr/bin/lsinitramfs").write_text("#!/bin/sh\nexit 1\n")
    answer, stamp, unknown = look(lister)
    assert (answer, stamp["nouveau"]) == (None, None)
    assert "could not be listed" in unknown["nouveau.in_initramfs"]
    (lister / "tree/usr/bin/lsinitramfs").unlink()
    assert "neither" in look(lister)[2]["nouveau.in_initramfs"]


@pytest.mark.parametrize("place", ["boot/initramfs-5.14.0.el9.img", "boot/0123/5.14.0.el9/initrd"])
def test_where_other_systems_keep_it(tmp_path: Path, place: str) -> None:
    fabricated.write(tmp_path, "tree/etc/machine-id", "0123\n")
    fabricated.write(tmp_path, f"tree/{place}")
    assert look(tmp_path, release="5.14.0.el9")[1]["path"] == f"/{place}"
