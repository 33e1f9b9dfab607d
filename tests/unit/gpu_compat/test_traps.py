# SPDX-License-Identifier: Apache-2.0
"""The traps that a person, a table of version numbers or a resolver falls into, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from gpu_compat.check import check_tables
from gpu_compat.drivers import builds_for, choices
from gpu_compat.hosts import read_host
from gpu_compat.request import read_request
from gpu_compat.tables import shipped
from gpu_compat.wheels import builds
from situations import ask

UBUNTU: dict[str, Any] = {"os": "ubuntu2404", "arch": "x86_64", "kernel": "6.8.0-45-generic", "python": "3.12"}


def environments(**frameworks: Any) -> dict[str, Any]:
    return {"environments": [{"name": "e", "frameworks": frameworks}]}


def planned(host: dict[str, Any], request: dict[str, Any] | None = None) -> Any:
    answer = ask(host, request)
    assert answer["status"] == "planned", answer["conflicts"]
    return answer["plan"]


def conflict(host: dict[str, Any], request: dict[str, Any] | None = None) -> Any:
    answer = ask(host, request)
    assert answer["status"] == "conflict"
    assert answer["plan"] is None
    return answer["conflicts"][0]


@pytest.mark.parametrize(
    ("gpu", "driver", "major"), [("GTX 1080 Ti", "580", 12), ("RTX 3090", "535", 12), ("RTX 3090", "580", 13)]
)
def test_1_the_build_follows_driver_and_gpu(gpu: str, driver: str, major: int) -> None:
    environment = planned({**UBUNTU, "gpus": [gpu]}, {"driver": driver, "cuda_toolkits": []})["environments"][0]
    assert environment["cuda_major"] == major


def test_2_releases_that_were_withdrawn_or_are_not_out_are_never_chosen() -> None:
    tables = shipped()
    every = {
        (build.framework, build.version) for name in ("jax", "tensorflow", "pytorch") for build in builds(name, tables)
    }
    assert ("jax", "0.4.32") not in every
    assert not any("rc" in version for _, version in every)
    newest = planned(
        {**UBUNTU, "gpus": ["RTX 4090"]}, {**environments(jax="newest"), "cudnn": "9.25.1.1", "cuda_toolkits": ["13.0"]}
    )
    assert newest["cudnn"][0]["version"] == "9.25.1.1"
    assert (
        conflict({**UBUNTU, "gpus": ["RTX 4090"]}, {"cudnn": "9.25.0.15", "cuda_toolkits": ["13.0"]})["id"]
        == "unknown_release"
    )


@pytest.mark.parametrize(
    ("capability", "sm", "runs"),
    [
        ("6.1", "6.0", True),
        ("8.9", "8.6", True),
        ("10.3", "10.0", True),
        ("12.1", "12.0", True),
        ("3.5", "3.7", False),
        ("7.0", "6.0", False),
    ],
)
def test_3_machine_code_reaches_up_within_its_major_only(capability: str, sm: str, runs: bool) -> None:
    from gpu_compat.versions import covers

    assert covers((sm,), capability) is runs


def test_4_minor_version_compatibility_needs_machine_code() -> None:
    # TensorFlow 2.21 has only portable code for Hopper, made by CUDA 12.5: a driver of CUDA 12.2 cannot compile it.
    host = {**UBUNTU, "gpus": ["H100 SXM5"], "driver": "535.309.01"}
    found = conflict(host, {**environments(tensorflow=">=2.18"), "driver": "keep", "cuda_toolkits": []})
    assert found["id"] == "driver_vs_cuda"
    assert "portable code" in found["message"]
    assert planned(
        {**host, "gpus": ["A100"]}, {**environments(tensorflow=">=2.18"), "driver": "keep", "cuda_toolkits": []}
    )
    # and it never makes an old branch drive a new GPU
    assert conflict({**UBUNTU, "gpus": ["RTX 5090"]}, {"driver": "550"})["id"] == "gpu_arch_vs_driver"


@pytest.mark.parametrize("framework", ["tensorflow", "jax"])
@pytest.mark.parametrize(("gpu", "cudnn"), [("V100", "9.10.2.21"), ("RTX 3090", None)])
def test_5_a_cudnn_that_floats_is_pinned(framework: str, gpu: str, cudnn: str | None) -> None:
    environment = planned({**UBUNTU, "gpus": [gpu]}, environments(**{framework: "newest"}))["environments"][0]
    build = environment["frameworks"][framework]
    assert environment["constraints"] == [f"nvidia-cudnn-cu{environment['cuda_major']}=={build['cudnn']}"]
    assert cudnn in (None, build["cudnn"])


def test_6_one_environment_holds_one_cuda_major() -> None:
    found = conflict(
        {**UBUNTU, "gpus": ["RTX 3090"]},
        environments(tensorflow="newest", pytorch={"version": "newest", "cuda": "cu130"}),
    )
    assert found["id"] == "environment_pins"
    both = planned({**UBUNTU, "gpus": ["RTX 3090"]}, environments(tensorflow="newest", pytorch="newest"))[
        "environments"
    ][0]
    assert both["cuda_major"] == 12


@pytest.mark.parametrize("version", ["2.15.1", "2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.21.0"])
def test_7_pins_that_clash_are_told(version: str) -> None:
    found = conflict(
        {**UBUNTU, "gpus": ["RTX 3090"], "python": "3.11"}, environments(tensorflow=f"=={version}", pytorch="newest")
    )
    assert found["id"] == "environment_pins"
    assert "nvidia-" in found["message"]
    answer = ask(
        {**UBUNTU, "gpus": ["RTX 3090"], "python": "3.11"}, environments(tensorflow=f"=={version}", pytorch="newest")
    )
    assert any("request.environments[0]" in change["change"] for change in answer["alternatives"])


def test_8_mixed_hosts_get_what_all_of_their_gpus_share() -> None:
    driver = planned({**UBUNTU, "gpus": ["P100", "A100", "H100 PCIe"]})["driver"]
    assert (driver["branch"], driver["kernel_module"]) == ("580", "proprietary")
    for gpus in (["GTX 1080 Ti", "RTX 5090"], ["K80", "RTX 4090"], ["V100", "B200"]):
        found = conflict({**UBUNTU, "gpus": gpus})
        assert (found["id"], found["involves"]) == ("mixed_gpus_no_common_driver", ["host.gpus[0]", "host.gpus[1]"])


def test_9_newest_and_proprietary_is_refused_not_bent() -> None:
    found = conflict({**UBUNTU, "gpus": ["RTX 4090"]}, {"driver": "620", "kernel_module": "proprietary"})
    assert (found["id"], found["involves"]) == ("module_flavor", ["request.driver", "request.kernel_module"])
    assert "615" in found["message"]


@pytest.mark.parametrize(
    ("system", "stream"), [("rhel8", True), ("rocky9", True), ("rhel10", False), ("fedora44", False)]
)
def test_10_module_streams_only_where_they_are(system: str, stream: bool) -> None:
    driver = planned({"os": system, "gpus": ["L4"]})["driver"]
    assert (driver["module_stream"] is not None) is stream
    assert all(("-595" in name) is not stream for name in driver["packages"])


@pytest.mark.parametrize("system", ["ubuntu2204", "debian12", "rhel9", "rhel10"])
def test_11_no_metapackage_that_pulls_a_driver(system: str) -> None:
    for toolkit in planned({"os": system, "gpus": ["L4"]})["cuda_toolkits"]:
        assert all(name.startswith("cuda-toolkit-") for name in toolkit["packages"])


@pytest.mark.parametrize(
    ("driver", "source", "package"),
    [
        ("595", "nvidia_repo", "nvidia-fabricmanager"),
        ("580", "nvidia_repo", "nvidia-fabricmanager"),
        ("570", "nvidia_repo", "nvidia-fabricmanager-570"),
        ("580", "distro", "nvidia-fabricmanager-580"),
    ],
)
def test_12_the_fabric_manager_is_named_and_versioned_after_the_driver(driver: str, source: str, package: str) -> None:
    found = planned(
        {**UBUNTU, "os": "ubuntu2204", "gpus": ["H100 SXM5"], "nvswitch": True},
        {"driver": driver, "driver_source": source},
    )
    assert found["fabric_manager"] == {"package": package, "version": found["driver"]["version"], "extra_packages": []}


def test_12_rpm_has_another_name_below_580_and_nvlink_5_needs_more() -> None:
    old = planned({"os": "rhel9", "gpus": ["H100 SXM5"], "nvswitch": True}, {"driver": "570"})
    assert old["fabric_manager"]["package"] == "nvidia-fabric-manager"
    assert planned({**UBUNTU, "gpus": ["B300 SXM6"]})["fabric_manager"]["extra_packages"] == ["nvlsm"]
    grace = planned({**UBUNTU, "arch": "aarch64", "gpus": ["GB300"]})
    assert grace["fabric_manager"]["extra_packages"] == ["nvlsm", "nvidia-imex"]
    assert planned({**UBUNTU, "gpus": ["H100 SXM5"]})["fabric_manager"] is None


def test_13_a_runfile_carries_a_driver_up_to_13_3_only() -> None:
    with_driver = {row["version"]: row["runfile"] for row in shipped().rows("cuda.toolkits") if row.get("runfile")}
    assert "610.43.02" in with_driver["13.3.1"]
    assert with_driver["13.4.1"] == "cuda_13.4.1_linux.run"


def test_14_aarch64() -> None:
    host = {"os": "ubuntu2404", "arch": "aarch64", "gpus": ["GH200 480GB"], "python": "3.12"}
    assert conflict(host, environments(tensorflow="newest"))["id"] == "arch_vs_wheel"
    found = conflict({**host, "gpus": ["T4G"]})
    assert (found["id"], "host.arch" in found["involves"]) == ("arch_vs_wheel", True)
    assert planned(host)["driver"]["kernel_module"] == "open"
    assert conflict({**host, "os": "debian12"}, {"driver_source": "nvidia_repo"})["id"] == "os_vs_driver"


@pytest.mark.parametrize(("framework", "wish"), [("pytorch", ">=2.7"), ("tensorflow", "==2.21.0"), ("jax", ">=0.7.1")])
def test_15_the_c_library(framework: str, wish: str) -> None:
    host = {"glibc": "2.26", "gpus": ["A100"]}
    found = conflict(host, environments(**{framework: wish}))
    assert (found["id"], "host.glibc" in found["involves"]) == ("glibc_vs_wheel", True)
    assert planned({**host, "glibc": "2.28"}, environments(**{framework: wish}))


@pytest.mark.parametrize(
    ("version", "kernel", "builds"),
    [
        ("580.126.18", "7.0.0", False),
        ("580.142", "7.0.0", True),
        ("580.142", "7.1.0", False),
        ("580.159.04", "7.1.0", True),
        ("580.173.02", "7.2.1", False),
        ("580.178.04", "7.2.1", True),
        ("580.178.04", "7.3.0", None),
        ("590.48.01", "6.19.0", False),
        ("470.256.02", "6.12.0", False),
    ],
)
def test_16_the_patch_level_decides_for_which_kernel_it_builds(version: str, kernel: str, builds: bool | None) -> None:
    request = read_request({"driver": version, "driver_source": "nvidia_repo", **environments(pytorch="newest")})
    host = read_host({"os": "ubuntu2404", "kernel": kernel, "gpus": ["RTX 3090"]})
    driver = next(
        row for row in choices(host, request, shipped()) if row.version == version and row.origin == "nvidia_repo"
    )
    assert builds_for(driver, kernel, shipped()) is builds


@pytest.mark.parametrize(
    ("gpu", "driver"),
    [
        ("RTX PRO 6000 Blackwell Server", "570"),
        ("B300 SXM6", "570"),
        ("GB10", "580.95.05"),
        ("H200 SXM", "535"),
        ("L40S", "535.86.10"),
    ],
)
def test_17_a_branch_is_not_enough_for_some_products(gpu: str, driver: str) -> None:
    found = conflict({**UBUNTU, "gpus": [gpu]}, {"driver": driver})
    assert found["id"] in ("driver_vs_product", "gpu_arch_vs_driver")
    assert found["involves"] == ["host.gpus[0]", "request.driver"]


def test_the_tables_hold_together() -> None:
    assert check_tables() == []
