# SPDX-License-Identifier: Apache-2.0
"""Root is not needed: a plain user provisions for themselves, a user with sudo for everybody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import CHECKOUT, install_checkout, install_venv_package
from reading import assert_passed, changed, verdict
from testbed import Machine, Result

# The smallest request that still proves something.
WISH = '-e \'{"gpu_stack": {"profile": "auto", "environments": [{"name": "jax", "frameworks": {"jax": "newest"}}]}}\''


@pytest.fixture(scope="module")
def host(new_machine: Callable[..., Machine]) -> Machine:
    """A machine with two users: ada, who may do nothing special, and bob, who may use sudo."""
    machine = new_machine("shared")
    install_venv_package(machine)
    users = "useradd --create-home --shell /bin/bash ada && useradd --create-home --shell /bin/bash bob"
    assert machine.run(f"{users} && echo 'bob ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/bob").status == 0
    for user in ("ada", "bob"):
        install_checkout(machine, f"/home/{user}/gpulab", owner=user)
    install_checkout(machine)
    return machine


@pytest.fixture(scope="module")
def adas_run(host: Machine) -> Result:
    return host.run(f"./provision {WISH}", user="ada", directory="/home/ada/gpulab")


@pytest.fixture(scope="module")
def bobs_run(host: Machine) -> Result:
    return host.run(f"./provision {WISH}", user="bob", directory="/home/bob/gpulab")


def test_a_plain_user_gets_a_proven_environment(host: Machine, adas_run: Result) -> None:
    assert_passed(adas_run)
    base = "/home/ada/.local/share/gpulab"
    assert host.run(f"{base}/envs/jax/bin/python -c 'import jax'", user="ada").status == 0
    assert verdict(host, "/home/ada/gpulab/results/localhost.json")["verdict"]["status"] == "PASS"


def test_a_plain_user_is_told_what_was_left_out(adas_run: Result) -> None:
    assert "Left out:" in adas_run.output


def test_a_plain_users_run_stays_in_their_home(host: Machine, adas_run: Result) -> None:
    found = host.run("find / -xdev -user ada -not -path '/home/ada/*' -not -path '/home/ada' -not -path '/proc/*'")
    assert found.output == ""


def test_a_plain_users_second_run_changes_nothing(host: Machine, adas_run: Result) -> None:
    again = host.run(f"./provision {WISH}", user="ada", directory="/home/ada/gpulab")
    assert_passed(again)
    assert changed(again) == 0


def test_a_user_with_sudo_provisions_for_all(host: Machine, bobs_run: Result) -> None:
    assert_passed(bobs_run)
    assert host.run("stat -c %U /opt/gpulab/envs/jax/").output.strip() == "root"
    assert host.run("/opt/gpulab/envs/jax/bin/python -c 'import jax'", user="ada").status == 0


def test_only_root_can_write_what_is_for_all(host: Machine, bobs_run: Result) -> None:
    writable = host.run("find /opt/gpulab -path /opt/gpulab/cache -prune -o ! -type l -writable -print", user="bob")
    assert writable.output == ""


def test_results_belong_to_the_user_who_ran_it(host: Machine, bobs_run: Result) -> None:
    assert host.run("stat -c %U /home/bob/gpulab/results/localhost.json").output.strip() == "bob"


def test_a_checkout_of_someone_else_is_refused_in_words(host: Machine) -> None:
    refused = host.run("./provision", user="ada", directory=CHECKOUT)
    assert refused.status == 3
    assert f"cannot write to {CHECKOUT} as user ada" in refused.output
