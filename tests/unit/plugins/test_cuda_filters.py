# SPDX-License-Identifier: Apache-2.0
"""What the roles cuda_toolkit and cudnn say and ask for in one way."""

from __future__ import annotations

from types import ModuleType

TOOLKIT = {"packages": ["cuda-toolkit-12-9"], "package_version": "12.9.1-*"}
OF_DEBIAN = {"packages": ["nvidia-cuda-toolkit"], "package_version": None}
CUDNN = {"packages": ["cudnn9-cuda-12"], "package_version": "9.13.0.50-*"}


def test_packages_are_asked_for_at_the_planned_version(cuda_filters: ModuleType) -> None:
    planned = [TOOLKIT, OF_DEBIAN]
    assert cuda_filters.at_version(planned, "=") == ["cuda-toolkit-12-9=12.9.1-*", "nvidia-cuda-toolkit"]
    assert cuda_filters.at_version(planned, "-")[0] == "cuda-toolkit-12-9-12.9.1-*"
    assert cuda_filters.at_version([CUDNN], "=") == ["cudnn9-cuda-12=9.13.0.50-*"]
    assert cuda_filters.at_version([{**CUDNN, "package_version": None}], "-") == ["cudnn9-cuda-12"]


def test_dnf_locks_each_package_at_its_own_version(cuda_filters: ModuleType) -> None:
    packages = {"cuda-nvcc-12-9": {"version": "12.9.86-1"}, "libcublas-12-9": {"version": "12.9.1.4-1"}, "x": {}}
    assert cuda_filters.locks(packages, ["cuda-*-12-9", "lib*-12-9"]) == [
        "cuda-nvcc-12-9-12.9.86-1.*",
        "libcublas-12-9-12.9.1.4-1.*",
    ]


def test_a_mirror_takes_the_place_of_nvidias_address(cuda_filters: ModuleType) -> None:
    theirs = "https://nvidia.example/compute/cuda/redist/redistrib_12.9.1.json"
    assert cuda_filters.manifest(theirs, "") == theirs
    assert cuda_filters.manifest(theirs, "/srv/redist/") == "/srv/redist/redistrib_12.9.1.json"


def test_an_archive_is_named_with_its_size(cuda_filters: ModuleType) -> None:
    row = {"component": "cuda_nvcc", "version": "13.0.88", "size": 36_400_000}
    assert cuda_filters.archive_text(row) == "cuda_nvcc 13.0.88, 36 MB"
    assert cuda_filters.archive_text({**row, "size": 1_250_000_000}) == "cuda_nvcc 13.0.88, 1.2 GB"


def test_what_was_proven_is_a_line_for_each_check(cuda_filters: ModuleType) -> None:
    checks = [
        {"subject": "/usr/local/cuda-13.0", "what": "a device program compiles", "detail": "sm_75"},
        {"subject": "", "what": "the loader takes no stub", "detail": ""},
    ]
    said = ["/usr/local/cuda-13.0: a device program compiles (sm_75)", "the loader takes no stub"]
    assert cuda_filters.probe_lines(checks) == said
