# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of toolkits, cuDNN, and of settings that programs are led astray by."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cuda_facts import PROFILE, SOURCES_LIST, bare_host, made, plan_of
from gpu_compat import change, doctor_text, examine

TORCH = {
    "name": "torch",
    "existing": None,
    "unavailable": [],
    "optional": False,
    "frameworks": {"pytorch": {"version": "2.15.0", "wheel": "cu132", "cuda": "13.2", "cudnn": "9.26.0.51"}},
}
TF = {**TORCH, "name": "tf", "frameworks": {"tensorflow": {"version": "2.21.0", "wheel": "system", "cuda": "12.5"}}}


@pytest.fixture(scope="module")
def packaged() -> tuple[dict[str, Any], dict[str, Any]]:
    """A converged host with a toolkit and cuDNN from packages."""
    bare = bare_host("ubuntu2204")
    planned = plan_of(bare, cuda_toolkits=["12.9"])
    return planned, made(bare, planned)


@pytest.fixture(scope="module")
def unpacked() -> tuple[dict[str, Any], dict[str, Any]]:
    """A converged host with toolkits and cuDNN from archives."""
    bare = bare_host()
    planned = plan_of(bare, cuda_toolkits=["13.0", "12.4"], cuda_source="redist")
    return planned, made(bare, planned)


def ids(planned: Any, facts: dict[str, Any], **settings: Any) -> list[tuple[str, str]]:
    found = examine(planned, facts, settings_by_role={"cuda_toolkit": settings})
    for row in found:
        assert row["what"]
        assert row["action"]
    return [(row["id"], row["severity"]) for row in found]


def only(planned: Any, facts: dict[str, Any]) -> dict[str, Any]:
    (found,) = examine(planned, facts)
    return found


def with_loader(facts: dict[str, Any], **rows: Any) -> dict[str, Any]:
    return {**facts, "loader": {"ld_so_conf": [], "library_path": [], "cudnn": [], "stubs": [], **rows}}


def with_environments(planned: dict[str, Any], *environments: dict[str, Any]) -> dict[str, Any]:
    return {**planned, "environments": list(environments)}


def test_a_converged_host_has_no_findings(packaged: Any, unpacked: Any) -> None:
    assert ids(*packaged) == ids(*unpacked) == []
    assert examine(None, packaged[1]) == []


def test_what_is_missing_is_named(packaged: Any, unpacked: Any) -> None:
    assert ids(packaged[0], bare_host("ubuntu2204")) == [
        ("cudnn_missing", "warning"),
        ("toolkit_missing", "warning"),
    ]
    found = examine(unpacked[0], bare_host())
    assert [row["id"] for row in found] == ["cudnn_missing", "cudnn_missing", "toolkit_missing", "toolkit_missing"]
    assert all(row["command"] == "./provision --limit HOST" for row in found)


def test_another_release_is_told_from_none(packaged: Any) -> None:
    planned, facts = copy.deepcopy(packaged)
    facts["cuda_packages"]["cuda-toolkit-12-9"]["version"] = "12.9.0-1"
    found = only(planned, facts)
    assert (found["id"], "12.9.0" in found["what"]) == ("toolkit_differs", True)


def test_a_toolkit_without_its_compiler_is_incomplete(packaged: Any) -> None:
    planned, facts = copy.deepcopy(packaged)
    facts["cuda"][0]["nvcc"] = False
    found = only(planned, facts)
    assert (found["id"], found["severity"]) == ("toolkit_incomplete", "error")
    assert found["command"] == "apt-get install --reinstall cuda-nvcc-12-9"
    facts["package_manager"]["kind"] = "dnf"
    assert only(planned, facts)["command"] == "dnf reinstall cuda-nvcc-12-9"


def test_a_default_that_leads_elsewhere(unpacked: Any) -> None:
    planned, facts = copy.deepcopy(unpacked)
    facts["cuda_default"]["target"] = "cuda-12.4"
    assert only(planned, facts)["id"] == "toolkit_default"


def test_packages_that_nothing_holds(packaged: Any) -> None:
    planned, facts = copy.deepcopy(packaged)
    for row in facts["cuda_packages"].values():
        row["held"] = False
    assert ids(planned, facts) == [("toolkit_not_held", "warning"), ("toolkit_not_held", "warning")]
    assert ids(planned, facts, cuda_toolkit_hold=False)[:1] == [("toolkit_not_held", "warning")]


def test_links_that_are_missing(unpacked: Any) -> None:
    planned, facts = copy.deepcopy(unpacked)
    for row in facts["toolkit_store"]:
        if row["product"] == "cudnn" and row["cuda_major"] == 12:
            row["links"] = []
    assert only(planned, facts)["what"] == "cuDNN is not linked into /usr/local/cuda-12.4"


def test_files_of_ours_that_were_changed(packaged: Any) -> None:
    planned, facts = copy.deepcopy(packaged)
    facts["records"]["cuda_toolkit"]["found"] = {PROFILE: "bb", SOURCES_LIST: None}
    assert ids(planned, facts) == [("file_changed", "warning"), ("repository_changed", "warning")]


def test_a_compiler_that_is_missing() -> None:
    bare = bare_host("ubuntu2404")
    planned = plan_of(bare, cuda_toolkits=["12.2"])
    facts = made(bare, planned)
    facts["compilers"] = bare["compilers"]
    found = only(planned, facts)
    assert (found["id"], "gcc 12" in found["what"]) == ("host_compiler_missing", True)


@pytest.mark.parametrize(("via", "command"), [("ld_so_conf", "ldconfig"), ("library_path", None)])
def test_stubs_are_no_driver(packaged: Any, via: str, command: str | None) -> None:
    planned, facts = packaged
    row = {"path": "/usr/local/cuda/lib64/stubs", "via": via, "file": "/etc/ld.so.conf.d/x.conf"}
    found = only(planned, with_loader(facts, stubs=[row]))
    assert (found["id"], found["severity"], found["command"]) == ("cuda_stub_in_loader", "error", command)
    assert examine(None, with_loader(facts, stubs=[row]))[0]["id"] == "cuda_stub_in_loader"


def test_a_cudnn_in_everybodys_library_path_shadows_that_of_wheels(packaged: Any) -> None:
    planned, facts = packaged
    row = {
        "path": "/opt/cuda-cudnn/lib/libcudnn.so.9",
        "version": "9.1.0",
        "via": "library_path",
        "file": "/etc/profile",
    }
    facts = with_loader(
        facts,
        cudnn=[row, {**row, "path": "/opt/cuda-cudnn/lib/libcudnn_ops.so.9"}],
        library_path=[{"file": "/etc/profile", "path": "/opt/cuda-cudnn/lib"}],
    )
    found = only(with_environments(planned, TORCH), facts)
    assert (found["id"], found["severity"]) == ("cudnn_shadows_wheels", "error")
    assert "/etc/profile" in found["action"]
    # Nobody's wheels bring one: then it is a foreign path like any other.
    assert ids(with_environments(planned, TF), facts) == [("foreign_library_path", "warning")]


def test_our_own_library_path_is_switched_off_by_its_setting(packaged: Any) -> None:
    planned, facts = packaged
    row = {"path": "/usr/local/cuda/lib64/libcudnn.so.9", "version": "9.28.0", "via": "library_path", "file": PROFILE}
    found = only(with_environments(planned, TORCH), with_loader(facts, cudnn=[row]))
    assert (found["id"], found["severity"]) == ("cudnn_shadows_wheels", "error")
    assert found["action"].startswith("Write cuda_toolkit_library_path: false")


@pytest.mark.parametrize(
    ("version", "file", "told"),
    [
        ("9.1.0", "/etc/ld.so.conf.d/cudnn.conf", True),
        (None, "/etc/ld.so.conf.d/cudnn.conf", True),
        # What is planned for the system, and what this project set, was tried.
        ("9.28.0", "/etc/ld.so.conf.d/x86_64-linux-gnu.conf", False),
        ("9.1.0", "/etc/ld.so.conf.d/gpulab-cuda.conf", False),
    ],
)
def test_a_foreign_cudnn_in_the_loader_is_a_warning(packaged: Any, version: Any, file: str, told: bool) -> None:
    planned, facts = packaged
    row = {"path": "/opt/cudnn/lib/libcudnn.so.9", "version": version, "via": "ld_so_conf", "file": file}
    found = ids(with_environments(planned, TORCH), with_loader(facts, cudnn=[row]))
    assert found == ([("cudnn_shadows_wheels", "warning")] if told else [])


def test_a_library_path_of_another_hand_is_told_once_for_each_file(packaged: Any) -> None:
    planned, facts = packaged
    rows = [
        {"file": "/etc/profile.d/cuda.sh", "path": "/usr/local/cuda/lib64"},
        {"file": "/etc/profile.d/cuda.sh", "path": "/usr/local/cuda/extras/CUPTI/lib64"},
        {"file": PROFILE, "path": "/usr/local/cuda/lib64"},
        {"file": "/etc/environment", "path": "/opt/mpi/lib"},
    ]
    found = only(planned, with_loader(facts, library_path=rows))
    assert (found["id"], found["severity"]) == ("foreign_library_path", "warning")
    assert found["command"] == "grep -n LD_LIBRARY_PATH /etc/profile.d/cuda.sh"


def test_what_a_run_would_do_is_said_where_nothing_is_wrong(packaged: Any) -> None:
    planned, facts = copy.deepcopy(packaged)
    facts["records"]["cuda_toolkit"]["noted"]["digest"] = "older"
    for found in (examine(planned, facts), examine(planned, facts, change(planned, facts))):
        assert [(row["id"], row["severity"]) for row in found] == [("not_applied", "info")]
        assert "environment: plan or settings have changed" in found[0]["what"]


def test_findings_are_text_for_people(packaged: Any) -> None:
    text = doctor_text({"gpu01": examine(packaged[0], bare_host("ubuntu2204"))})
    assert "[toolkit_missing]" in text
    assert "./provision --limit gpu01" in text
