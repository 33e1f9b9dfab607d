# SPDX-License-Identifier: Apache-2.0
"""What a driver is called, where it comes from and what must be there before, for each system and source."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from gpu_compat import plan, read_host
from gpu_compat.driver_packages import in_family
from gpu_compat.tables import shipped
from situations import TODAY

TABLES = shipped()
KERNELS = {"ubuntu2404": "6.8.0-45-generic", "debian12": "6.1.0-25-amd64", "rocky9": "5.14.0-503.el9.x86_64"}
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos"


def driver(host: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    host = {"gpus": ["RTX 3090"], "kernel": KERNELS.get(host.get("os", ""), "6.12.0-1"), **host}
    request = {"environments": [], "cuda_toolkits": [], "cudnn": "none", **wishes}
    answer = plan(request, read_host(host), today=TODAY)
    assert answer["status"] == "planned", answer["conflicts"]
    return dict(answer["plan"]["driver"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"os": "ubuntu2404"}, ("ubuntu2404", "apt", f"{CUDA}/ubuntu2404/x86_64/", "3bf863cc.pub", [], [])),
        (
            {"os": "ubuntu2404", "arch": "aarch64"},
            ("ubuntu2404", "apt", f"{CUDA}/ubuntu2404/sbsa/", "3bf863cc.pub", [], []),
        ),
        ({"os": "debian12"}, ("debian12", "apt", f"{CUDA}/debian12/x86_64/", "3bf863cc.pub", ["contrib"], [])),
        ({"os": "debian13"}, ("debian13", "apt", f"{CUDA}/debian13/x86_64/", "8793F200.pub", ["contrib"], [])),
        ({"os": "rocky9"}, ("rhel9", "dnf", f"{CUDA}/rhel9/x86_64/", "D42D0685.pub", [], ["epel"])),
        ({"os": "rhel10"}, ("rhel10", "dnf", f"{CUDA}/rhel10/x86_64/", "CDF6BA43.pub", [], ["epel"])),
    ],
)
def test_nvidias_repository_has_its_address_and_its_key(host: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = driver(host, driver_source="nvidia_repo")["repository"]
    name, kind, url, key, components, requires = expected
    assert (found["id"], found["kind"], found["url"], found["key_url"]) == (name, kind, url, url + key)
    assert (found["components"], found["requires"]) == (components, requires)
    assert all(fingerprint.endswith(key.partition(".")[0].upper()) for fingerprint in found["fingerprints"])
    assert bool(found["fingerprints"]) is (name != "rhel10"), "where none is known, the lab must give one"


@pytest.mark.parametrize(
    ("system", "components"),
    [
        ("debian11", ["contrib", "non-free"]),
        ("debian12", ["contrib", "non-free", "non-free-firmware"]),
        ("ubuntu2404", ["restricted"]),
    ],
)
def test_the_distributions_archive_has_components_and_no_key_of_its_own(system: str, components: list[str]) -> None:
    wishes = {"driver": "470", "gpus": ["K80"]} if system == "debian11" else {}
    gpus = wishes.pop("gpus", ["RTX 3090"])
    found = driver({"os": system, "gpus": gpus, "kernel": "5.10.0-30-amd64"}, driver_source="distro", **wishes)
    assert found["repository"]["components"] == components
    assert (found["repository"]["url"], found["repository"]["fingerprints"]) == (None, [])
    assert not found["exact"]
    assert found["package_version"] == f"{found['branch']}.*"


def test_a_lab_may_name_its_own_key_for_one_system() -> None:
    row = {"origin": "nvidia_repo", "systems": ["rhel10"], "kind": "dnf", "key": "CDF6BA43.pub", "source": ["our lab"]}
    row["fingerprints"] = ["0" * 32 + "CDF6BA43"]
    from gpu_compat.check import read_overlay
    from gpu_compat.tables import with_overlay

    tables = with_overlay(read_overlay({"packages": {"repositories": [row]}}, "overlay"))
    request = {"environments": [], "cuda_toolkits": []}
    host = read_host({"os": "rhel10", "gpus": ["L4"], "kernel": "6.12.0-55.el10.x86_64"}, tables)
    found = plan(request, host, tables, today=TODAY)["plan"]["driver"]
    assert found["repository"]["fingerprints"] == row["fingerprints"]


@pytest.mark.parametrize(
    ("host", "headers"),
    [
        ({"os": "ubuntu2404"}, {"6.8.0-45-generic": ["linux-headers-6.8.0-45-generic"]}),
        ({"os": "debian12"}, {"6.1.0-25-amd64": ["linux-headers-6.1.0-25-amd64"]}),
        ({"os": "rocky9"}, {"5.14.0-503.el9.x86_64": ["kernel-devel-5.14.0-503.el9.x86_64"]}),
        (
            {"os": "rocky9", "arch": "aarch64", "kernel": "5.14.0-503.el9.aarch64+64k"},
            {"5.14.0-503.el9.aarch64+64k": ["kernel-64k-devel-5.14.0-503.el9.aarch64"]},
        ),
        (
            {"os": "ol9", "kernel": "5.15.0-210.163.7.el9uek.x86_64"},
            {"5.15.0-210.163.7.el9uek.x86_64": ["kernel-uek-devel-5.15.0-210.163.7.el9uek.x86_64"]},
        ),
        (
            {"os": "ubuntu2404", "next_boot_kernel": "6.8.0-48-generic"},
            {
                "6.8.0-48-generic": ["linux-headers-6.8.0-48-generic"],
                "6.8.0-45-generic": ["linux-headers-6.8.0-45-generic"],
            },
        ),
    ],
)
def test_headers_are_those_of_each_kernel(host: dict[str, Any], headers: dict[str, list[str]]) -> None:
    found = driver(host, driver_source="nvidia_repo")
    assert found["headers"] == headers
    assert list(found["headers"]) == list(headers), "the kernel of the next boot comes first"
    assert found["build_packages"] == ["dkms"]


@pytest.mark.parametrize(
    ("wishes", "packages"),
    [
        ({"driver": "535", "kernel_module": "proprietary"}, ["nvidia-driver", "nvidia-kernel-dkms"]),
        ({"driver": "535", "kernel_module": "open"}, ["nvidia-driver", "nvidia-open-kernel-dkms"]),
        ({"driver": "470"}, ["nvidia-tesla-470-driver", "nvidia-tesla-470-kernel-dkms"]),
    ],
)
def test_debian_has_two_drivers_with_names_of_their_own(wishes: dict[str, Any], packages: list[str]) -> None:
    assert driver({"os": "debian12"}, driver_source="distro", **wishes)["packages"] == packages


def test_signed_modules_are_there_for_each_kernel_and_keep_the_kernel() -> None:
    host = {"os": "ubuntu2404", "secure_boot": True, "next_boot_kernel": "6.11.0-19-generic"}
    found = driver(host)
    assert (found["headers"], found["build_packages"], found["signed"]) == ({}, [], True)
    assert found["kernel_packages"] == {
        "6.11.0-19-generic": ["linux-modules-nvidia-580-server-open-6.11.0-19-generic"],
        "6.8.0-45-generic": ["linux-modules-nvidia-580-server-open-6.8.0-45-generic"],
    }
    assert found["hold_kernel"] == [
        f"linux{part}-{flavour}" for part in ("", "-image", "-headers") for flavour in ("generic-hwe-24.04", "generic")
    ]
    assert "linux-modules-nvidia-580-server-open-generic" in found["packages"]
    assert "linux-modules-nvidia-580-server-open-generic-hwe-24.04" in found["packages"]


def test_a_kernel_that_the_distribution_signs_nothing_for_takes_the_sources() -> None:
    found = driver({"os": "ubuntu2404", "next_boot_kernel": "6.8.0-1-mine"}, driver_source="distro")
    assert not found["signed"]
    assert "nvidia-dkms-580-server-open" in found["packages"]


def test_a_runfile_has_its_address_its_checksum_and_what_builds_it() -> None:
    found = driver({"os": "debian12"}, driver_source="runfile", driver="580.126.09")
    file = "NVIDIA-Linux-x86_64-580.126.09.run"
    address = f"https://download.nvidia.com/XFree86/Linux-x86_64/580.126.09/{file}"
    assert found["runfile"]["url"] == address
    assert (found["runfile"]["file"], found["runfile"]["sha256_url"]) == (file, f"{address}.sha256sum")
    assert found["runfile"]["mirrors"][0]["url"] == f"https://us.download.nvidia.com/tesla/580.126.09/{file}"
    assert found["build_packages"] == ["dkms", "gcc", "make", "libc6-dev"]
    assert (found["hold"], found["packages"], found["repository"], found["package_version"]) == ([], [], None, None)
    arm = driver({"os": "ubuntu2404", "arch": "aarch64"}, driver_source="runfile")
    assert arm["runfile"]["url"].startswith("https://download.nvidia.com/XFree86/Linux-aarch64/")


def test_the_licence_tells_the_flavour() -> None:
    assert driver({"os": "debian12"})["licenses"] == {"nvidia": "Dual MIT/GPL"}
    assert driver({"os": "debian12", "gpus": ["V100"]})["licenses"] == {"nvidia": "NVIDIA"}
    there = {"os": "debian12", "driver": "580.178.04"}
    assert driver(there, driver="keep")["licenses"] == {}, "its flavour is not known"
    kept = driver({**there, "kernel_module": "open"}, driver="keep")
    assert kept["licenses"] == {"nvidia": "Dual MIT/GPL"}
    assert (kept["headers"], kept["repository"], kept["extras"]) == ({}, None, {})


@pytest.mark.parametrize(
    ("gpus", "wishes", "names"),
    [
        (["RTX 5090"], {}, ["datacenter-gpu-manager-4-cuda13"]),
        (["V100"], {}, ["datacenter-gpu-manager-4-cuda12", "datacenter-gpu-manager-4-cuda13"]),
        (["V100", "A100"], {}, ["datacenter-gpu-manager-4-cuda12", "datacenter-gpu-manager-4-cuda13"]),
        (["A100"], {"driver": "535"}, ["datacenter-gpu-manager-4-cuda12"]),
        (["K80"], {}, ["datacenter-gpu-manager-4-cuda11"]),
    ],
)
def test_dcgm_is_built_for_the_cuda_of_the_driver(gpus: list[str], wishes: dict[str, Any], names: list[str]) -> None:
    found = driver({"os": "ubuntu2204", "gpus": gpus, "kernel": "5.15.0-100-generic"}, **wishes)
    assert found["extras"]["dcgm"] == names


@pytest.mark.parametrize(
    ("host", "wishes", "name"),
    [
        ({"os": "debian12"}, {"driver_source": "distro"}, "nvidia-persistenced"),
        ({"os": "ubuntu2404"}, {"driver_source": "distro"}, "nvidia-compute-utils-580-server"),
        ({"os": "ubuntu2404"}, {"driver": "580", "driver_source": "nvidia_repo"}, "nvidia-compute-utils-580"),
        ({"os": "ubuntu2404"}, {}, "nvidia-persistenced"),
        ({"os": "rocky9"}, {}, "nvidia-persistenced"),
    ],
)
def test_the_persistence_daemon_has_a_package(host: dict[str, Any], wishes: dict[str, Any], name: str) -> None:
    assert driver(host, **wishes)["extras"]["persistence"] == [name]


# --- the family -------------------------------------------------------------------------------------------------------

OURS = {
    "debian": """
        nvidia-open nvidia-open-580 nvidia-driver nvidia-driver-pinning-580.126.09 nvidia-driver-580-server
        cuda-drivers-580 nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server nvidia-dkms-580-open
        nvidia-kernel-dkms nvidia-open-kernel-dkms nvidia-kernel-common nvidia-tesla-470-driver
        nvidia-firmware-580-server-580.126.09
        libnvidia-compute libnvidia-compute-580 libnvidia-ml1 libnvidia-gl-580 libnvidia-cfg1 libnvidia-glcore libcuda1
        nvidia-fabricmanager nvidia-fabricmanager-535 nvidia-imex nvlsm firmware-nvidia-gsp nvidia-persistenced
        linux-modules-nvidia-580-server-generic linux-objects-nvidia-580-server-6.8.0-45-generic nvidia-alternative
        xserver-xorg-video-nvidia libegl-nvidia0 nvidia-modprobe nvidia-smi
    """,
    "rhel": """
        nvidia-open nvidia-driver nvidia-driver-libs nvidia-driver-cuda kmod-nvidia-open-dkms kmod-nvidia-latest-dkms
        cuda-drivers nvidia-kmod-common libnvidia-ml libnvidia-cfg nvidia-fabricmanager nvidia-fabric-manager nvlsm
        nvidia-persistenced nvidia-modprobe
    """,
}
NOT_OURS = """
    nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container1 libnvidia-container-tools nvidia-docker2
    nvidia-cuda-toolkit nvidia-cuda-dev nvidia-cudnn libcudnn9-cuda-12 cuda-toolkit-12-8 cuda-compat-13-0 libcudart12
    linux-image-generic linux-modules-6.8.0-45-generic datacenter-gpu-manager-4-cuda13 nvidia-vaapi-driver nvtop
    libnvidia-egl-wayland1 libnvidia-egl-gbm1 python3-nvidia-ml-py nvidia-nsight-systems
"""


@pytest.mark.parametrize("family", OURS)
def test_the_family_is_the_driver_whole_and_nothing_else(family: str) -> None:
    found = driver({"os": {"debian": "debian12", "rhel": "rocky9"}[family]})
    assert [name for name in OURS[family].split() if not in_family(name, found["family"])] == []
    assert [name for name in NOT_OURS.split() if in_family(name, found["family"])] == []
    assert set(found["family"]) - set(found["hold"]) == {"nvlsm"}, "it has versions of its own"
    assert not any(set(pattern) & set("[]?!") for pattern in found["hold"]), "apt's lists know * alone"


@pytest.mark.parametrize("row", TABLES.rows("packages.driver"), ids=str)
def test_every_package_that_is_planned_is_of_the_family(row: dict[str, Any]) -> None:
    patterns = next(held for held in TABLES.rows("packages.hold") if held["family"] == row["family"])["patterns"]
    filled = dict.fromkeys(("flavour", "suffix"), "tesla-470") | {"branch": "470", "version": "470.1", "open": "-open"}
    names = [name.format(**filled) for name in row["packages"]]
    assert all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names), names


def test_packages_of_a_second_architecture_are_of_the_family() -> None:
    family = driver({"os": "ubuntu2404"})["family"]
    assert in_family("libcuda1:i386", family)
    assert not in_family("libnvidia-container1:arm64", family)


def test_no_pattern_of_a_lab_takes_the_containers_toolkit() -> None:
    assert not in_family("nvidia-container-toolkit", ["*"])
    assert not in_family("libnvidia-container1", ["libnvidia-*"])
