# SPDX-License-Identifier: Apache-2.0
"""Requests of many hosts: one line for one mistake, with everyone who has it."""

from __future__ import annotations

from gpu_compat import check_requests

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
