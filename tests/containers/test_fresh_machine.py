# SPDX-License-Identifier: Apache-2.0
"""The whole job as its first user meets it: root on a fresh Debian 12, no GPU, the local inventory as shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, install_checkout, install_mnist
from reading import assert_passed, changed, verdict
from testbed import Machine, Result

VERDICT = f"{CHECKOUT}/results/localhost.json"


@pytest.fixture(scope="module")
def host(new_machine: Callable[..., Machine]) -> Machine:
    machine = new_machine("fresh")
    install_checkout(machine)
    return machine


@pytest.fixture(scope="module")
def first_start(host: Machine) -> Result:
    """The very first start, where Python's venv module is missing."""
    return host.run("./provision", directory=CHECKOUT)


@pytest.fixture(scope="module")
def options(host: Machine, mnist: Path | None) -> str:
    return install_mnist(host, mnist) if mnist else ""


@pytest.fixture(scope="module")
def first_run(host: Machine, first_start: Result, options: str) -> Result:
    """The first run that goes through, after the one command that the first start asked for."""
    command = first_start.output.partition("run: ")[2].splitlines()[0]
    done = host.run(f"apt-get -qq update && {command}")
    assert done.status == 0, done.output
    return host.run(f"./provision {options}", directory=CHECKOUT)


@pytest.fixture(scope="module")
def second_run(host: Machine, first_run: Result, options: str) -> Result:
    assert_passed(first_run)
    return host.run(f"./provision {options}", directory=CHECKOUT)


def test_a_missing_venv_module_is_answered_with_the_command(first_start: Result) -> None:
    assert first_start.status == 3
    assert "run: apt-get install -y python3.11-venv" in first_start.output
    assert "Traceback" not in first_start.output


def test_the_first_run_passes_without_claiming_a_gpu(first_run: Result) -> None:
    assert_passed(first_run)
    assert changed(first_run) > 0


def test_every_framework_is_proven(host: Machine, first_run: Result, mnist: Path | None) -> None:
    found = verdict(host, VERDICT)
    assert found["verdict"]["status"] == "PASS"
    assert (found["profile"], found["gpu_validated"], found["simulated"]) == ("cpu", False, False)
    results = {result["framework"]: result for result in found["results"]}
    assert results.keys() == {"tensorflow", "keras", "pytorch"}
    for result in results.values():
        assert result["status"] == "PASS"
        assert result["device"].lower().startswith("cpu")
        assert result["dataset"] == ("mnist" if mnist else "generated")
        if mnist:
            assert result["accuracy"] >= 0.95


def test_the_table_shows_the_accuracies(host: Machine, first_run: Result) -> None:
    for result in verdict(host, VERDICT)["results"]:
        assert f"{result['accuracy']:.4f}" in first_run.output
        assert result["version"] in first_run.output
    assert VERDICT.removesuffix("localhost.json") in first_run.output


def test_no_cuda_package_was_installed(host: Machine, first_run: Result) -> None:
    names = "'(' -iname 'nvidia_*' -o -iname 'triton*' -o -iname 'jax_cuda*' ')'"
    found = host.run(f"find /opt/gpulab/generations -maxdepth 5 {names}")
    assert found.output == ""


def test_a_second_run_changes_nothing_and_is_quick(first_run: Result, second_run: Result) -> None:
    assert_passed(second_run)
    assert changed(second_run) == 0
    assert second_run.seconds < first_run.seconds / 3


def test_without_any_network_a_further_run_is_the_same(host: Machine, second_run: Result, options: str) -> None:
    if not host.can_disconnect:
        pytest.skip("the test machines share this machine's network, which cannot be taken away")
    host.disconnect()
    offline = host.run(f"./provision {options}", directory=CHECKOUT)
    host.connect()
    assert_passed(offline)
    assert changed(offline) == 0
