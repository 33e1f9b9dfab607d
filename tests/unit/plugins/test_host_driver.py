# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's driver as it lies on disk: library, packages, kernel modules, DKMS, where it came from, what disagrees."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import fabricated_hosts as fabricated
import pytest
from ansible.module_utils import host_boot, host_driver, host_modules
from ansible.module_utils.host_files import HostFiles
from hypothesis import given
from hypothesis import strategies as st

UBUNTU = "6.8.0-45-generic"
VERSION = "580.126.09"


def driver(module: ModuleType, root: Path) -> dict[str, Any]:
    params = {"scope": "user", "become_password_given": False, "base_dir": "/opt/gpulab", "user_base_dir": str(root)}
    found: dict[str, Any] = module.Host({"root": str(root), **params}).facts()["driver"]
    return found


@pytest.fixture(autouse=True)
def a_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


# --- the library -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64"])
def test_the_library_that_programs_load(tmp_path: Path, place: str) -> None:
    files = HostFiles(str(tmp_path), {})
    assert host_driver.library_version(files) is None
    fabricated.write(tmp_path, f"{place}/libnvidia-ml.so.590.44.01")  # it lies there, and the link leads elsewhere
    fabricated.library(tmp_path, VERSION, place)
    assert host_driver.library_version(files) == VERSION


def test_without_the_link_the_newest_library_counts(tmp_path: Path) -> None:
    for version in ("580.9.1", "580.126.09", "470.256.02"):
        fabricated.write(tmp_path, f"usr/lib64/libnvidia-ml.so.{version}")
    fabricated.link(tmp_path, "usr/lib64/libnvidia-ml.so.1", "libnvidia-ml.so.999.1")  # it dangles
    assert host_driver.library_version(HostFiles(str(tmp_path), {})) == VERSION


def test_debians_library_lies_behind_alternatives(tmp_path: Path) -> None:
    place = "usr/lib/x86_64-linux-gnu"
    fabricated.library(tmp_path, "535.247.01", f"{place}/nvidia/current")
    fabricated.link(tmp_path, f"{place}/libnvidia-ml.so.1", "/etc/alternatives/nvidia--libnvidia-ml.so.1")
    real = f"/{place}/nvidia/current/libnvidia-ml.so.1"
    fabricated.link(tmp_path, "etc/alternatives/nvidia--libnvidia-ml.so.1", real)
    assert host_driver.library_version(HostFiles(str(tmp_path), {})) == "535.247.01"


def test_a_library_of_a_foreign_architecture_is_not_the_hosts(tmp_path: Path) -> None:
    fabricated.library(tmp_path, VERSION, "usr/lib/i386-linux-gnu")
    assert host_driver.library_version(HostFiles(str(tmp_path), {})) is None


@pytest.mark.parametrize(
    ("packaged", "version"),
    [
        ("580.126.09-1", "580.126.09"),
        ("580.126.09-0ubuntu0.24.04.1", "580.126.09"),
        ("3:580.126.09-1.el9", "580.126.09"),
        ("535.261.03-1~deb12u1", "535.261.03"),
        ("580.126.09", "580.126.09"),
        ("390.157-1", "390.157"),
    ],
)
def test_a_packages_version_without_its_packager(packaged: str, version: str) -> None:
    assert host_driver.upstream_version(packaged) == version
    assert host_driver.packages_version({"libcuda1": packaged}) == version


def test_packages_that_do_not_carry_user_space_tell_no_version() -> None:
    assert host_driver.packages_version({"nvidia-settings": "590.1-1", "nvidia-modprobe": "590.1-1"}) is None
    assert host_driver.packages_version({"nvidia-driver-pinning-580": "580.1-1", "firmware-nvidia-gsp": "5-1"}) is None
    names = {"nvidia-dkms-580": "590.1-1", "libnvidia-compute-580": f"{VERSION}-0ubuntu1", "nvidia-prime": "0.8.17"}
    assert host_driver.packages_version(names) == VERSION


# --- kernel modules --------------------------------------------------------------------------------------------------

PLACES = [
    "updates/dkms/nvidia.ko",
    "updates/dkms/nvidia-current.ko",
    "updates/dkms/nvidia-current-open.ko",
    "updates/dkms/nvidia-tesla-470.ko",
    "extra/nvidia.ko",
    "extra/drivers/video/nvidia/nvidia.ko",
    "weak-updates/nvidia/nvidia.ko",
    "kernel/drivers/video/nvidia.ko",
    "kernel/nvidia-580srv-open/nvidia.ko",
]


def modules(root: Path, *releases: str, noted: Any = None) -> tuple[dict[str, Any], dict[str, str]]:
    files = HostFiles(str(root), {})
    lines = host_boot.modprobe_lines(files)
    return host_modules.KernelModules(files, releases or (UBUNTU,), lines, noted).result(), files.unknown


@pytest.mark.parametrize("place", PLACES)
def test_where_the_module_of_a_kernel_lies(tmp_path: Path, place: str) -> None:
    fabricated.kernel(tmp_path, UBUNTU)
    file = fabricated.kernel_module(tmp_path, UBUNTU, VERSION, fabricated.OPEN, place)
    for other in ("nvidia-uvm.ko", "nvidia-modeset.ko", "nvidia-drm.ko", "nvidia-peermem.ko", "nvidia-current-uvm.ko"):
        fabricated.write(tmp_path, f"lib/modules/{UBUNTU}/updates/dkms/{other}", b"\x7fELF")
    fabricated.write(tmp_path, f"lib/modules/{UBUNTU}/kernel/drivers/platform/x86/nvidia-wmi-ec-backlight.ko", b"")
    found, unknown = modules(tmp_path)
    assert found[UBUNTU] == {
        "path": f"/lib/modules/{UBUNTU}/{place}",
        "size": file.stat().st_size,
        "mtime_ns": file.stat().st_mtime_ns,
        "name": place.rpartition("/")[2][:-3],
        "version": VERSION,
        "license": "Dual MIT/GPL",
        "signer": None,
    }
    assert unknown == {}


def test_every_kernel_has_a_module_of_its_own_or_none(tmp_path: Path) -> None:
    for release in (UBUNTU, "6.11.0-9-generic", "6.14.0-1-generic"):
        fabricated.kernel(tmp_path, release)
    fabricated.kernel_module(tmp_path, UBUNTU, VERSION)
    fabricated.kernel_module(tmp_path, "6.11.0-9-generic", "570.86.15", fabricated.PROPRIETARY)
    found, _ = modules(tmp_path, UBUNTU, "6.11.0-9-generic", "6.14.0-1-generic")
    assert {release: (row["version"], row["license"]) for release, row in found.items()} == {
        UBUNTU: (VERSION, "Dual MIT/GPL"),
        "6.11.0-9-generic": ("570.86.15", "NVIDIA"),
    }


def test_of_several_modules_the_one_that_modprobe_loads_counts(tmp_path: Path) -> None:
    fabricated.kernel(tmp_path, UBUNTU)
    fabricated.kernel_module(tmp_path, UBUNTU, "1.1.1", place="kernel/drivers/video/nvidia.ko")
    fabricated.kernel_module(tmp_path, UBUNTU, "2.2.2", place="updates/dkms/nvidia-current.ko")
    fabricated.kernel_module(tmp_path, UBUNTU, "3.3.3", place="updates/dkms/nvidia-current-open.ko")
    fabricated.write(tmp_path, f"lib/modules/{UBUNTU}/modules.dep")
    assert modules(tmp_path)[0][UBUNTU]["version"] == "3.3.3"  # the first by name, where nothing else decides
    fabricated.write(tmp_path, f"lib/modules/{UBUNTU}/modules.dep", "kernel/drivers/video/nvidia.ko: a\n")
    assert modules(tmp_path)[0][UBUNTU]["version"] == "1.1.1"
    fabricated.write(tmp_path, "etc/modprobe.d/nvidia.conf", "install nvidia modprobe -i nvidia-current $OPTS\n")
    assert modules(tmp_path)[0][UBUNTU]["version"] == "2.2.2"


@pytest.fixture
def modinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of modinfo that notes when it is called."""
    text = f"filename: $1\nlicense:        NVIDIA\nversion:        {VERSION}\nsigner:         DKMS module signing key\n"
    program = fabricated.write(tmp_path, "bin/modinfo", f"#!/bin/sh\necho x >> {tmp_path}/calls\ncat <<E\n{text}E\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    fabricated.kernel(tmp_path, UBUNTU)
    return tmp_path


def calls(root: Path) -> int:
    return (root / "calls").read_text().count("x") if (root / "calls").exists() else 0


@pytest.mark.parametrize("name", ["nvidia.ko.xz", "nvidia.ko.gz", "nvidia.ko.zst", "nvidia.ko"])
def test_modinfo_is_asked_about_what_is_compressed_or_signed(modinfo: Path, name: str) -> None:
    content = fabricated.elf_module([("license", "NVIDIA"), ("version", VERSION)], signed=True)
    fabricated.write(modinfo, f"lib/modules/{UBUNTU}/updates/dkms/{name}", content)
    row = modules(modinfo)[0][UBUNTU]
    assert row["name"] == "nvidia"
    assert (row["version"], row["license"], row["signer"]) == (VERSION, "NVIDIA", "DKMS module signing key")
    assert calls(modinfo) == 1


def test_modinfo_is_not_asked_about_a_plain_file_or_one_that_was_noted(modinfo: Path) -> None:
    fabricated.kernel_module(modinfo, UBUNTU, VERSION)
    assert modules(modinfo)[0][UBUNTU]["license"] == "Dual MIT/GPL"
    assert calls(modinfo) == 0
    fabricated.write(modinfo, f"lib/modules/{UBUNTU}/updates/dkms/nvidia.ko.xz", b"packed")
    (modinfo / f"lib/modules/{UBUNTU}/updates/dkms/nvidia.ko").unlink()
    first = modules(modinfo)[0]
    assert calls(modinfo) == 1
    again = modules(modinfo, noted=json.loads(json.dumps(first)))[0]
    assert (again, calls(modinfo)) == (first, 1)
    for other in ({UBUNTU: {**first[UBUNTU], "size": 1}}, {UBUNTU: {}}, {UBUNTU: None}, {}, [], "text"):
        assert modules(modinfo, noted=other)[0] == first
    assert calls(modinfo) == 7


def test_a_module_that_modinfo_cannot_read_is_there_and_not_known(modinfo: Path) -> None:
    (modinfo / "bin/modinfo").write_text("#!/bin/sh\nexit 1\n")
    fabricated.write(modinfo, f"lib/modules/{UBUNTU}/updates/dkms/nvidia.ko", b"\x7fELF cut short")
    found, unknown = modules(modinfo)
    assert (found[UBUNTU]["version"], found[UBUNTU]["license"]) == (None, None)
    assert "modinfo did not read" in unknown[f"driver.modules.{UBUNTU}"]


WORDS = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(st.dictionaries(WORDS, VALUES), st.booleans())
def test_whatever_a_module_says_of_itself_is_read(tmp_path_factory: Any, said: dict[str, str], signed: bool) -> None:
    file = tmp_path_factory.getbasetemp() / "any.ko"
    file.write_bytes(fabricated.elf_module(said.items(), signed=signed))
    with file.open("rb") as stream:
        assert host_modules.read_module(stream) == (said, signed)


@given(st.integers(1, 400), st.binary(max_size=3))
def test_a_module_that_is_cut_short_or_changed_is_refused_and_never_a_crash(
    tmp_path_factory: Any, length: int, tail: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.ko"
    file.write_bytes(fabricated.elf_module([("license", "NVIDIA")])[:length] + tail)
    with file.open("rb") as stream:
        try:
            said, _ = host_modules.read_module(stream)
        except ValueError:
            return
    assert set(said) <= {"license"}


@given(st.binary())
def test_no_section_is_too_strange(section: bytes) -> None:
    assert isinstance(host_modules.read_modinfo(section), dict)


def test_dkms_added_built_and_installed(tmp_path: Path) -> None:
    fabricated.dkms_module(tmp_path, "nvidia", VERSION, [UBUNTU])
    fabricated.write(tmp_path, f"var/lib/dkms/nvidia/{VERSION}/6.11.0-9-generic/x86_64/module/nvidia.ko.zst", "built")
    fabricated.write(tmp_path, f"var/lib/dkms/nvidia/{VERSION}/6.14.0-1-generic/x86_64/log/make.log", "failed")
    fabricated.dkms_module(tmp_path, "nvidia-current", "535.247.01", [])
    fabricated.dkms_module(tmp_path, "zfs", "2.2.2", [UBUNTU])
    assert host_modules.dkms(HostFiles(str(tmp_path), {})) == [
        {"module": "nvidia", "version": VERSION, "kernel": "6.11.0-9-generic", "state": "built"},
        {"module": "nvidia", "version": VERSION, "kernel": UBUNTU, "state": "installed"},
        {"module": "nvidia-current", "version": "535.247.01", "kernel": None, "state": "added"},
    ]


# --- all of it together ----------------------------------------------------------------------------------------------


def test_a_converged_host(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated.h100_hgx(tmp_path)
    found = driver(gpu_facts, tmp_path)
    assert (found["loaded_version"], found["library_version"], found["installed_version"]) == (VERSION,) * 3
    assert (found["module"], found["installed_module"], found["source"]) == ("open", "open", "nvidia_repo")
    assert (found["mismatch"], found["broken"], found["held"]) == (None, [], [])
    assert found["packages"]["nvidia-open"] == f"{VERSION}-1ubuntu1"


def test_an_upgrade_under_the_loaded_module_is_said_in_one_sentence(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated.mismatch(tmp_path)
    assert driver(gpu_facts, tmp_path)["mismatch"] == (
        "the loaded kernel module is 570.86.15, the user-space library is 580.126.09, the packages are 580.126.09"
    )
    (tmp_path / "sys/module/nvidia/version").unlink()
    assert driver(gpu_facts, tmp_path)["mismatch"] is None
    fabricated.library(tmp_path, "570.86.15")
    assert driver(gpu_facts, tmp_path)["mismatch"] == (
        "no kernel module is loaded, the user-space library is 570.86.15, the packages are 580.126.09"
    )


def test_a_loaded_module_without_a_library_is_no_mismatch_of_versions(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated.driver_loaded_without_library(tmp_path)
    found = driver(gpu_facts, tmp_path)
    assert (found["loaded_version"], found["library_version"], found["installed_version"]) == (VERSION, None, None)
    assert found["mismatch"] is None


def test_the_flavour_is_that_of_the_next_kernels_module(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated.h100_hgx(tmp_path)
    fabricated.kernel(tmp_path, "6.11.0-9-generic")
    fabricated.kernel_module(tmp_path, "6.11.0-9-generic", VERSION, fabricated.PROPRIETARY)
    assert driver(gpu_facts, tmp_path)["installed_module"] == "proprietary"


@pytest.mark.parametrize(
    ("names", "flavour"),
    [
        (["nvidia-dkms-580-open"], "open"),
        (["nvidia-open-kernel-dkms"], "open"),
        (["kmod-nvidia-open-dkms"], "open"),
        (["linux-modules-nvidia-580-server-open-6.8.0-45-generic"], "open"),
        (["nvidia-kernel-open-dkms"], "open"),
        (["nvidia-dkms-580"], "proprietary"),
        (["nvidia-kernel-dkms"], "proprietary"),
        (["libcuda1"], None),
        ([], None),
    ],
)
def test_without_a_module_on_disk_the_packages_tell_the_flavour(
    gpu_facts: ModuleType, tmp_path: Path, names: list[str], flavour: str | None
) -> None:
    fabricated.rtx_5090(tmp_path)
    for name in names:
        fabricated.package(tmp_path, name, f"{VERSION}-1")
    assert driver(gpu_facts, tmp_path)["installed_module"] == flavour


@pytest.mark.parametrize(
    ("system", "packages", "source"),
    [
        ("ubuntu2404", {"nvidia-open": "1ubuntu1", "libnvidia-compute": "1ubuntu1"}, "nvidia_repo"),
        ("ubuntu2404", {"cuda-drivers-580": "1", "nvidia-driver-580": "0ubuntu1"}, "nvidia_repo"),
        ("ubuntu2404", {"nvidia-driver-pinning-580": "1", "libnvidia-compute-580": "0ubuntu1"}, "nvidia_repo"),
        ("ubuntu2404", {"nvidia-headless-580-server-open": "0ubuntu0.24.04.1"}, "distro"),
        ("ubuntu2404", {"libnvidia-compute-580-server": "0ubuntu0.24.04.1"}, "distro"),
        ("ubuntu2404", {"linux-modules-nvidia-580-6.8.0-45-generic": "1", "nvidia-utils-580": "0ubuntu1"}, "distro"),
        ("ubuntu2404", {"libnvidia-compute-580": "0ubuntu1"}, None),
        ("debian12", {"nvidia-kernel-dkms": "1~deb12u1", "libcuda1": "1~deb12u1"}, "distro"),
        ("debian12", {"nvidia-open-kernel-dkms": "1~deb12u1", "libcuda1": "1~deb12u1"}, "distro"),
        ("debian12", {"nvidia-kernel-dkms": "3", "libcuda1": "3"}, "distro"),
        ("debian12", {"nvidia-kernel-dkms": "1", "libcuda1": "1"}, None),  # either could have brought these
        ("debian12", {"nvidia-open": "1", "nvidia-kernel-open-dkms": "1", "libcuda1": "1"}, "nvidia_repo"),
        ("debian12", {"nvidia-settings": "1~deb12u1"}, None),
    ],
)
def test_where_the_driver_came_from_by_its_packages(
    gpu_facts: ModuleType, tmp_path: Path, system: str, packages: dict[str, str], source: str | None
) -> None:
    fabricated.plain(tmp_path, system)
    for name, revision in packages.items():
        fabricated.package(tmp_path, name, f"{VERSION}-{revision}")
    assert driver(gpu_facts, tmp_path)["source"] == source


def test_a_maintainer_at_nvidia_tells_the_repository(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    fabricated.package(tmp_path, "libcuda1", f"{VERSION}-1", maintainer="NVIDIA <support@nvidia.com>")
    assert driver(gpu_facts, tmp_path)["source"] == "nvidia_repo"


def test_the_lists_of_apt_tell_debians_packages_from_nvidias(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated.plain(tmp_path, "debian12")
    for name in ("nvidia-kernel-dkms", "libcuda1"):
        fabricated.package(tmp_path, name, f"{VERSION}-1")
    fabricated.write(tmp_path, "var/lib/apt/lists/mirror_dists_bookworm_non-free_binary-amd64_Packages")
    assert driver(gpu_facts, tmp_path)["source"] == "distro"
    fabricated.write(tmp_path, "var/lib/apt/lists/developer.nvidia_compute_cuda_repos_debian12_Packages.lz4")
    assert driver(gpu_facts, tmp_path)["source"] is None


@pytest.mark.parametrize("tool", ["nvidia-uninstall", "nvidia-installer"])
def test_a_driver_that_no_package_owns_came_from_the_runfile(gpu_facts: ModuleType, tmp_path: Path, tool: str) -> None:
    fabricated.rtx_5090(tmp_path)
    fabricated.write(tmp_path, f"usr/bin/{tool}")
    assert driver(gpu_facts, tmp_path)["source"] is None  # a leftover: there is no driver
    fabricated.library(tmp_path, VERSION)
    fabricated.package(tmp_path, "nvidia-installer-cleanup", "20220217-3")
    assert driver(gpu_facts, tmp_path)["source"] == "runfile"
    fabricated.package(tmp_path, "libnvidia-compute-580", f"{VERSION}-0ubuntu1")
    assert driver(gpu_facts, tmp_path)["source"] is None


@pytest.mark.parametrize(
    ("note", "source"),
    [
        ({"source": "distro", "version": VERSION, "packages": ["nvidia-open", "libnvidia-compute"]}, "distro"),
        ({"source": "distro", "version": VERSION, "packages": [f"nvidia-open={VERSION}*", "libnvidia-*"]}, "distro"),
        ({"source": "distro", "version": VERSION, "packages": []}, "distro"),
        ({"source": "distro", "version": "570.86.15", "packages": ["nvidia-open"]}, "nvidia_repo"),
        ({"source": "distro", "version": VERSION, "packages": ["nvidia-open", "nvidia-gone"]}, "nvidia_repo"),
        ({}, "nvidia_repo"),
    ],
)
def test_what_this_project_noted_counts_as_long_as_it_is_so(
    gpu_facts: ModuleType, tmp_path: Path, note: dict[str, Any], source: str
) -> None:
    fabricated.h100_hgx(tmp_path)
    fabricated.write(tmp_path, "var/lib/gpulab/driver.json", json.dumps(note))
    assert driver(gpu_facts, tmp_path)["source"] == source
