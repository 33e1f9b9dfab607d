# SPDX-License-Identifier: Apache-2.0
"""What the role cudnn says and writes, without any host."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from gpu_compat import taking_own_compiler


@pytest.fixture(scope="module")
def filters(filters_of_role: Callable[[str], ModuleType]) -> ModuleType:
    return filters_of_role("cudnn")


ENTRY: dict[str, Any] = {
    "version": "9.13.0.50",
    "cuda_major": 12,
    "source": "redist",
    "packages": [],
    "package_version": None,
    "toolkits": ["/usr/local/cuda-12.9"],
    "digest": "d",
}
PACKAGED = {**ENTRY, "source": "nvidia_repo", "packages": ["cudnn9-cuda-12"], "package_version": "9.13.0.50-*"}
TOOLKIT = {"path": "/usr/local/cuda-12.9", "major": 12, "series": "12.9", "gcc_max": "14", "host_compiler": None}
COMPILERS = {"default": {"cc": "/usr/bin/gcc", "major": "13"}, "gcc": [{"major": "12", "cxx": "/usr/bin/g++-12"}]}


def to_probe(filters: ModuleType, entry: Any, toolkit: Any, cudnn: Any = ()) -> Any:
    facts = {"compilers": COMPILERS, "cudnn": cudnn}
    return filters.to_probe([entry], [toolkit], facts, taking_own_compiler([toolkit], COMPILERS))


def test_the_generation_is_a_complete_one_with_the_planned_digest(filters: ModuleType) -> None:
    row = {"product": "cudnn", "state": "complete", "cuda_major": 12, "digest": "d", "path": "/t/a"}
    store = [row, {**row, "path": "/t/b", "state": "half-made"}, {**row, "path": "/t/c", "cuda_major": 13}]
    assert filters.generation(store, ENTRY) == "/t/a"
    with pytest.raises(AnsibleFilterError, match=r"cuDNN 9\.13\.0\.50 for CUDA 12 is not unpacked"):
        filters.generation(store[1:], ENTRY)


def test_an_unpacked_one_is_proven_in_each_toolkit(filters: ModuleType) -> None:
    (row,) = to_probe(filters, ENTRY, TOOLKIT)
    assert row["library"] == "/usr/local/cuda-12.9/lib64/libcudnn.so.9"
    assert (row["toolkit"], row["cxx"]) == ("/usr/local/cuda-12.9", None)


def test_without_a_compiler_that_the_toolkit_takes_nothing_is_linked(filters: ModuleType) -> None:
    (row,) = to_probe(filters, ENTRY, {**TOOLKIT, "gcc_max": "12"})
    assert row["toolkit"] is None
    told = {**TOOLKIT, "host_compiler": {"cxx": "/usr/bin/g++-12"}}
    (row,) = to_probe(filters, ENTRY, told)
    assert (row["toolkit"], row["cxx"]) == ("/usr/local/cuda-12.9", "/usr/bin/g++-12")


def test_one_from_packages_is_found_where_its_package_put_it(filters: ModuleType) -> None:
    found = [
        {"path": "/usr/lib/libcudnn.so.9.13.0", "version": "9.13.0", "kind": "library", "package": "libcudnn9-cuda-12"},
        {"path": "/usr/include/cudnn_version.h", "version": "9.13.0", "kind": "header", "package": "libcudnn9-dev"},
        {"path": "/opt/libcudnn.so.9.13.0", "version": "9.13.0", "kind": "library", "package": None},
        {"path": "/x/libcudnn.so.9.13.0", "version": "9.13.0", "kind": "library", "package": "libcudnn9-cuda-13"},
    ]
    (row,) = to_probe(filters, PACKAGED, TOOLKIT, found)
    assert (row["library"], row["include"]) == ("/usr/lib/libcudnn.so.9.13.0", "/usr/include")
    with pytest.raises(AnsibleFilterError, match="no package of it has a library"):
        to_probe(filters, PACKAGED, TOOLKIT, found[2:])


def test_environments_that_are_there_are_looked_into(filters: ModuleType) -> None:
    facts = {
        "environments": {"torch": {"state": "complete", "path": "/b/envs/torch"}, "tf": {"state": "half-made"}},
        "cuda_default": {"link": "/usr/local/cuda"},
    }
    planned = [
        {"name": "torch", "existing": None, "frameworks": {"pytorch": {"cuda": "12.9"}}},
        {"name": "tf", "existing": None, "frameworks": {"tensorflow": {"cuda": "system"}}},
        {"name": "theirs", "existing": "/opt/x/bin/python", "frameworks": {}},
    ]
    (row,) = filters.environments(planned, facts, False, True)
    assert row["python"] == "/b/envs/torch/bin/python"
    assert (row["cuda"], row["library_path"]) == ("", "/usr/local/cuda/lib64")


def test_the_record_names_beforehand_what_is_written(filters: ModuleType) -> None:
    now = {
        "done": False,
        "digest": "d",
        "planned": [PACKAGED],
        "links": {},
        "writes": ["/etc/apt/apt.conf.d/52gpulab-cudnn"],
        "sums": {},
        "added": [],
        "before": [],
        "replaced": {},
    }
    begun = filters.record({}, now)
    assert (begun["digest"], begun["files"]) == ("", {"/etc/apt/apt.conf.d/52gpulab-cudnn": ""})
    done = filters.record(begun, {**now, "done": True, "added": ["cudnn9-cuda-12"]})
    assert (done["digest"], done["files"], done["added"]) == ("d", {}, ["cudnn9-cuda-12"])
    assert "before" not in done


def test_packages_of_an_interrupted_run_are_removed_as_well(filters: ModuleType) -> None:
    removal = {"packages": [], "held": [], "steps": ["forget what was written down"]}
    packages = {"libcudnn9-cuda-12": {"held": True}, "cuda-nvcc-12-9": {"held": False}}
    facts = {"records": {"cudnn": {"noted": {"before": []}}}, "cuda_packages": packages}
    found = filters.with_interrupted(removal, facts)
    assert found["packages"] == found["held"] == ["libcudnn9-cuda-12"]
    facts["records"] = {"cudnn": {"noted": {}}}
    assert filters.with_interrupted(removal, facts) == removal
