# SPDX-License-Identifier: Apache-2.0
"""Many hosts: one line for one mistake, with everyone who has it, and one driver branch for all who want it."""

from __future__ import annotations

from typing import Any

import pytest
from gpu_compat import check_requests, read_host
from gpu_compat.fleet import plan_fleet

GOOD = {"environments": [{"name": "torch", "frameworks": {"pytorch": "newest"}}]}


def test_good_requests_give_no_line() -> None:
    assert check_requests({"a": GOOD, "b": GOOD}) == []


def test_hosts_that_share_a_mistake_share_a_line() -> None:
    lines = check_requests({f"gpu{n:02}": {**GOOD, "profil": "gpu"} for n in range(7)})
    assert len(lines) == 1
    assert lines[0].startswith("gpu00, gpu01, gpu02, gpu03, gpu04 and 2 more: gpu_stack.profil: unknown key")


def test_a_host_without_a_request_is_named() -> None:
    assert check_requests({"login": None})[0].startswith("login: gpu_stack: is not set")


def test_keys_that_are_no_words() -> None:
    lines = check_requests({"a": {**GOOD, True: "x", 7: "y"}})
    assert len(lines) == 2
    assert "gpu_stack.True: unknown key" in lines[0]


def test_the_nearest_known_origin_is_shown() -> None:
    origins = {"a": {"gpu_stack": "all.yml:1", "gpu_stack.environments[0]": "all.yml:7"}}
    request = {"environments": [{"name": "torch", "python": 3.1, "frameworks": {"pytorch": "newest"}}]}
    assert check_requests({"a": request}, origins)[0].endswith("[all.yml:7]")


# --- one driver branch for all hosts ------------------------------------------------------------------------------


def branches(driver: str, *, installed: str | None = None) -> dict[str, Any]:
    """Plan a GTX 1080 Ti, an L4 with a wish for its driver, and a host without a GPU, all to have one branch."""
    torch = {"environments": [{"name": "torch", "frameworks": {"pytorch": "newest"}}]}
    wishes = {
        "old": (torch, read_host({"gpus": ["GTX 1080 Ti"]})),
        "own": ({**torch, "driver": driver}, read_host({"gpus": ["L4"], "driver": installed})),
        "none": (torch, read_host({"gpus": []})),
    }
    return plan_fleet(wishes, uniform=True)


@pytest.mark.parametrize(
    ("driver", "branch"), [("auto", "580"), (">=570,<590", "580"), ("<575", "570"), ("535", "535"), ("570", "570")]
)
def test_the_one_branch_fits_what_each_host_asks_of_its_driver(driver: str, branch: str) -> None:
    answers = branches(driver)
    drivers = {name: answer["plan"]["driver"] for name, answer in answers.items()}
    assert {name: row and row["branch"] for name, row in drivers.items()} == {
        "old": branch,
        "own": branch,
        "none": None,
    }
    assert not any("no effect" in text for text in answers["none"]["warnings"])


@pytest.mark.parametrize(("driver", "installed"), [("595.71.05", None), (">=590", None), ("keep", "595.71.05")])
def test_where_no_branch_fits_all_nobodys_wish_is_overridden(driver: str, installed: str | None) -> None:
    answers = branches(driver, installed=installed)
    assert {name: answer["status"] for name, answer in answers.items()} == dict.fromkeys(answers, "conflict")
    assert answers["own"]["conflicts"][0]["id"] == "mixed_gpus_no_common_driver"
    assert "580 (old), 595 (own)" in answers["own"]["conflicts"][0]["message"]
