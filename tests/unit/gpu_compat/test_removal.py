# SPDX-License-Identifier: Apache-2.0
"""What taking the driver off comes to."""

from __future__ import annotations

from typing import Any

from driver_facts import bare_host, made, plan_of
from gpu_compat import removal, removal_cuda


def test_the_family_and_the_files_go_and_what_others_own_stays() -> None:
    bare = bare_host()
    facts = made(bare, plan_of(bare))
    facts["driver"]["packages"] |= {"nvidia-container-toolkit": "1", "cuda-compat-13-0": "580.1-1", "nvlsm": "2025.1"}
    facts["managed"]["/etc/modprobe.d/gone.conf"] = None
    facts["state"]["replaced"] = {"/etc/apt/sources.list.d/cuda.list": "%etc%apt%sources.list.d%cuda.list"}
    found = removal(facts)
    assert found["packages"] == ["libnvidia-ml1", "nvidia-driver-pinning-595.91.07", "nvidia-open", "nvlsm"]
    assert found["files"] == ["/etc/modprobe.d/gpulab-nvidia.conf"]
    assert found["replaced"] == facts["state"]["replaced"]
    assert found["kernels"] == ["6.8.0-48-generic", "6.8.0-45-generic"]
    assert (found["runfile"], found["key"]) == (False, False)
    assert len(found["steps"]) == 3
    assert found["text"].splitlines() == found["steps"]


def test_a_runfiles_driver_is_uninstalled_and_a_key_that_stays_is_told() -> None:
    bare = bare_host()
    facts = made(bare, plan_of(bare, driver_source="runfile"))
    facts["machine_owner_key"] = {"enrolled": True, "pending": False, "certificate": "/x"}
    found = removal(facts)
    assert (found["packages"], found["runfile"], found["key"]) == ([], True, True)
    assert found["steps"][0] == "uninstall driver 595.91.07, which a runfile installed"


def test_nothing_to_remove_is_said() -> None:
    for facts in (bare_host(), {}):
        found = removal(facts)
        assert (found["steps"], found["text"]) == ([], "there is no NVIDIA driver to remove")


def test_a_record_alone_is_forgotten() -> None:
    facts: dict[str, Any] = bare_host(state={"digest": "x"})
    assert removal(facts)["steps"] == ["forget what was written down"]


# --- toolkits and cuDNN ----------------------------------------------------------------------------------------------

STORE = "/opt/gpulab/toolkits"
KEY = "/etc/apt/keyrings/gpulab-nvidia.gpg"


def provisioned() -> dict[str, Any]:
    """A host with a driver, a toolkit of each source, and a cuDNN from an archive."""
    cuda, cudnn = f"{STORE}/cuda-13.0.3-x", f"{STORE}/cudnn-9.28.1.4-cuda13-x"
    link = "/usr/local/cuda-13.0/lib64/libcudnn.so.9"
    return {
        "driver": {"packages": {"nvidia-open": "595.1-1"}},
        "state": {"digest": "x", "files": {KEY: "k", "/etc/modprobe.d/gpulab-nvidia.conf": "m"}},
        "managed": {KEY: "k", "/etc/modprobe.d/gpulab-nvidia.conf": "m"},
        "os": {"id": "ubuntu", "version": "22.04"},
        "cuda_packages": {
            "cuda-toolkit-12-9": {"version": "12.9.2-1", "held": True},
            "cuda-nvcc-12-8": {"version": "12.8.1-1", "held": False},
        },
        "toolkit_store": [
            {"product": "cuda", "path": cuda, "state": "complete", "links": ["/usr/local/cuda-13.0"]},
            {"product": "cuda", "path": f"{STORE}/cuda-12.0.0-x", "state": "half-made", "links": []},
            {"product": "cudnn", "path": cudnn, "state": "complete", "links": [link]},
        ],
        "records": {
            "cuda_toolkit": {
                "noted": {
                    "digest": "x",
                    "files": {KEY: "k", "/etc/profile.d/gpulab-cuda.sh": "p"},
                    "links": {"/usr/share/modulefiles/cuda/13.0": "../x"},
                    "default": {"path": "/usr/local/cuda", "previous": "/usr/local/cuda-12.8"},
                    "added": ["cuda-toolkit-12-9", "cuda-gone-12-9", "gcc-12"],
                    "toolkits": {"12.4": {"version": "12.4.1", "source": "runfile", "path": "/usr/local/cuda-12.4"}},
                },
                "found": {KEY: "k", "/etc/profile.d/gpulab-cuda.sh": "p", "/etc/gone": None},
                "links": {"/usr/share/modulefiles/cuda/13.0": "../x", "/usr/local/cuda": "cuda-13.0"},
            },
            "cudnn": {"noted": {"digest": "x", "files": {}, "added": []}, "found": {}, "links": {link: cudnn}},
        },
    }


def test_only_what_this_project_set_up_of_cuda_goes() -> None:
    found = removal_cuda(provisioned())
    # A compiler goes only where nothing else needs it by then; packages that were there before stay.
    assert found["packages"] == ["cuda-toolkit-12-9"]
    assert found["held"] == ["cuda-toolkit-12-9"]
    assert len(found["archives"]) == 3
    assert found["runfiles"] == ["/usr/local/cuda-12.4"]
    assert (found["default"], found["default_previous"]) == ("/usr/local/cuda", "/usr/local/cuda-12.8")
    assert found["links"] == [
        "/usr/local/cuda-13.0",
        "/usr/local/cuda-13.0/lib64/libcudnn.so.9",
        "/usr/share/modulefiles/cuda/13.0",
    ]
    # The repository's key is the driver's as well.
    assert found["files"] == ["/etc/profile.d/gpulab-cuda.sh"]
    assert found["text"].splitlines() == found["steps"]
    assert found["steps"][-1] == "let /usr/local/cuda lead to /usr/local/cuda-12.8 again"


def test_each_product_goes_by_itself() -> None:
    cudnn = removal_cuda(provisioned(), "cudnn")
    assert (cudnn["packages"], cudnn["files"], cudnn["default"]) == ([], [], None)
    assert cudnn["archives"] == [f"{STORE}/cudnn-9.28.1.4-cuda13-x"]
    assert cudnn["links"] == ["/usr/local/cuda-13.0/lib64/libcudnn.so.9"]
    toolkits = removal_cuda(provisioned(), "cuda")
    assert f"{STORE}/cudnn-9.28.1.4-cuda13-x" not in toolkits["archives"]
    assert toolkits["records"] == ["cuda_toolkit"]


def test_the_driver_leaves_what_toolkits_need_and_the_last_one_takes_it() -> None:
    facts = provisioned()
    assert removal(facts)["files"] == ["/etc/modprobe.d/gpulab-nvidia.conf"]
    without_driver = {**facts, "state": None, "managed": {}}
    assert KEY in removal_cuda(without_driver)["files"]
    facts["records"] = {}
    assert removal(facts)["files"] == [KEY, "/etc/modprobe.d/gpulab-nvidia.conf"]


def test_nothing_of_cuda_to_remove_is_said() -> None:
    for facts in (bare_host(), {}, {"cuda_packages": {"cuda-toolkit-12-9": {"version": "1", "held": True}}}):
        found = removal_cuda(facts)
        assert (found["steps"], found["packages"]) == ([], [])
        assert found["text"] == "there is no CUDA toolkit and no cuDNN of this project to remove"
    assert "no cuDNN of this project" in removal_cuda({}, "cudnn")["text"]
