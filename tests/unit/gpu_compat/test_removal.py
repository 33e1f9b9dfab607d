# SPDX-License-Identifier: Apache-2.0
"""What taking the driver off comes to."""

from __future__ import annotations

from typing import Any

from driver_facts import bare_host, made, plan_of
from gpu_compat import removal


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
