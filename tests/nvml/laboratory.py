# SPDX-License-Identifier: Apache-2.0
"""A laboratory for what reads a driver: the validator's programs beside a pretended driver, and a real Runner."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from nvml import standin

PROGRAMS = Path(__file__).resolve().parents[2] / "roles" / "validation" / "files" / "gpulab_validation"
sys.path.insert(0, str(PROGRAMS))
sys.dont_write_bytecode = True  # the role ships that directory

import runner as runners  # noqa: E402


class Laboratory:
    """A host with a pretended driver.

    :param directory: everything lies below it
    :param monkeypatch: sets the variables by which programs find the pretended driver
    :param description: of the host
    :param library: whether there is a library; where there is no compiler for it, the test is skipped
    :param binding: whether NVIDIA's binding lies beside the programs; where it is not installed, the test is skipped
    :param most: seconds for a call into the driver
    """

    def __init__(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, description: standin.Description, *,
        library: bool = True, binding: bool = True, smi: dict[str, Any] | bool = True, most: float = 20,
        profile: str = "gpu",
    ) -> None:  # fmt: skip
        try:
            built = standin.build() if library else None
        except standin.NoCompiler as error:
            pytest.skip(f"no pretended driver: {error}")
        self.driver = standin.StandIn(directory / "driver", description, built, smi)
        self.programs = directory / "programs"
        shutil.copytree(PROGRAMS, self.programs, ignore=shutil.ignore_patterns("__pycache__", "vendor"))
        if binding:
            found = importlib.util.find_spec("pynvml")
            if found is None or found.origin is None:
                pytest.skip("NVIDIA's binding (nvidia-ml-py) is not installed")
            (self.programs / "vendor").mkdir()
            shutil.copy(found.origin, self.programs / "vendor" / "pynvml.py")
        for key, value in self.driver.environment.items():
            monkeypatch.setenv(key, value)
        table = json.loads((PROGRAMS / "thresholds.json").read_text())
        table["identity"]["smi_seconds"]["most"] = most
        self.runner = runners.Runner({"profile": profile}, table, str(self.programs), str(directory / "var"), "a run")
        os.makedirs(self.runner.run_directory)


def gpus(observation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the GPUs that NVML described, having seen that it worked."""
    assert observation["nvml"]["outcome"] == "finished", observation["nvml"]
    assert observation["nvml"]["error"] is None, observation["nvml"]["error"]
    rows: list[dict[str, Any]] = observation["nvml"]["gpus"]
    return rows
