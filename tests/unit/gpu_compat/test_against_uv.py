# SPDX-License-Identifier: Apache-2.0
"""Which build follows from a driver, against uv's own answer (``--torch-backend auto``).

uv looks at the driver alone. Where the GPU is one that every build of that CUDA holds code for, it is right, and the
two must agree on the CUDA major. Where it is not, the difference is the point of this engine, and it is stated here.

uv is made to say which index it would ask by being kept from asking it: a proxy that nobody answers at.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import uv
from gpu_compat.tables import shipped
from gpu_compat.versions import at_least
from gpu_compat.wheels import cuda_driver
from situations import ask

DRIVERS = [
    "450.248.02",
    "470.256.02",
    "525.147.05",
    "535.309.01",
    "550.163.01",
    "570.211.01",
    "580.178.04",
    "595.91.07",
]


def backend(driver: str, tmp_path: Path) -> str:
    """Return the tag of the index that uv would take PyTorch from on a host with this driver."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    environment |= {"UV_CUDA_DRIVER_VERSION": driver, "HTTPS_PROXY": "http://127.0.0.1:9", "UV_HTTP_RETRIES": "0"}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "NO_PROXY": ""}
    command = [uv.find_uv_bin(), "pip", "compile", "-", "--torch-backend", "auto", "--no-config", "--no-cache"]
    done = subprocess.run(
        command, input="torch", env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    found = re.search(r"download\.pytorch\.org/whl/(cu\d+)", done.stderr)
    assert found, done.stderr
    return found[1]


def major(tag: str) -> int:
    return int(tag[2:4])


def planned(gpu: str, driver: str) -> dict[str, Any]:
    host = {"gpus": [gpu], "driver": driver, "python": "3.10"}
    answer = ask(host, {"driver": "keep", "cuda_toolkits": []})
    assert answer["status"] == "planned", answer["conflicts"]
    return dict(answer["plan"]["environments"][0])


@pytest.mark.parametrize("driver", DRIVERS)
def test_for_ampere_uv_is_right_and_we_agree(driver: str, tmp_path: Path) -> None:
    theirs = backend(driver, tmp_path)
    environment = planned("A100 PCIe 40GB", driver)
    assert environment["cuda_major"] == major(theirs)
    tag = environment["frameworks"]["pytorch"]["wheel"]
    assert at_least(driver, cuda_driver(environment["frameworks"]["pytorch"]["cuda"], shipped()))
    # uv takes the newest tag and whatever release is there, we the newest release and a tag that it has.
    assert int(tag[2:]) <= int(theirs[2:])


@pytest.mark.parametrize("gpu", ["GTX 1080 Ti", "V100", "Tesla P40", "Tesla M60"])
def test_for_what_cuda_13_has_left_behind_uv_is_wrong(gpu: str, tmp_path: Path) -> None:
    assert major(backend("580.178.04", tmp_path)) == 13
    environment = planned(gpu, "580.178.04")
    assert (environment["cuda_major"], environment["frameworks"]["pytorch"]["wheel"]) == (12, "cu126")


def test_for_kepler_uv_gives_a_build_whose_cudnn_has_left_it_behind(tmp_path: Path) -> None:
    assert backend("470.256.02", tmp_path) == "cu118"  # PyTorch 2.7 there, which brings cuDNN 9.1
    assert planned("Tesla K80", "470.256.02")["frameworks"]["pytorch"]["version"] == "2.3.1"
