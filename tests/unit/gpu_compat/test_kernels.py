# SPDX-License-Identifier: Apache-2.0
"""Kernels: releases as systems write them, and which driver builds for which."""

from __future__ import annotations

from typing import Any

import pytest
from gpu_compat import plan
from gpu_compat.hosts import read_host
from gpu_compat.versions import kernel_numbers


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("6.1", (6, 1)),
        ("6.1.0-56-amd64", (6, 1, 0, 56)),
        ("6.1.0-53", (6, 1, 0, 53)),
        ("6.8.0-45-generic", (6, 8, 0, 45)),
        ("5.14.0-503.11.1.el9_5.x86_64", (5, 14, 0)),
        ("6.12.43+deb13-amd64", (6, 12, 43)),
        ("7.0.0-rc1", (7, 0, 0)),
    ],
)
def test_numbers_of_a_release(release: str, numbers: tuple[int, ...]) -> None:
    assert kernel_numbers(release) == numbers


def test_what_is_no_release_is_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with a number"):
        kernel_numbers("linux")


def answer(kernel: str, module: str) -> dict[str, Any]:
    host = read_host({"os": "debian12", "kernel": kernel, "gpus": ["RTX 3090"]})
    request = {
        "profile": "gpu",
        "driver_source": "distro",
        "kernel_module": module,
        "cuda_toolkits": [],
        "environments": [],
    }
    return plan(request, host)


def test_a_stable_update_of_the_kernel_can_end_a_driver() -> None:
    # Seen with Debian 12's own packages: the open flavour stayed at the release that security updates left behind.
    before = answer("6.1.0-50-amd64", "open")
    assert before["plan"]["driver"]["version"] == "535.261.03"
    after = answer("6.1.0-56-amd64", "open")
    assert [conflict["id"] for conflict in after["conflicts"]] == ["driver_vs_kernel"]
    assert answer("6.1.0-56-amd64", "auto")["plan"]["driver"]["version"] == "535.309.01"
