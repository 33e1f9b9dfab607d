# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in labs: each fault ends in one clear message or in success, never in a PASS not earned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, MNIST, install_checkout, install_mnist, install_venv_package
from reading import assert_passed, assert_refused
from testbed import Machine, Result

JAX = {"name": "jax", "frameworks": {"jax": "newest"}}


def wish(**environment: Any) -> str:
    """Return the option for a request of one small environment with the given keys changed."""
    return f"-e '{json.dumps({'gpu_stack': {'profile': 'auto', 'environments': [JAX | environment]}})}'"


@pytest.fixture(scope="module")
def host(new_machine: Callable[..., Machine]) -> Machine:
    machine = new_machine("unlucky")
    install_venv_package(machine)
    install_checkout(machine)
    return machine


@pytest.fixture(scope="module")
def prepared(host: Machine) -> Machine:
    """The same machine with ./provision's own set-up done."""
    assert host.run("./provision --list-hosts", directory=CHECKOUT).status == 0
    return host


@pytest.fixture(scope="module")
def converged(prepared: Machine) -> Machine:
    """The same machine with one proven environment."""
    assert_passed(prepared.run(f"./provision {wish()}", directory=CHECKOUT))
    return prepared


# --- before the set-up is done --------------------------------------------------------------------


def test_no_network_at_the_first_start_is_said(host: Machine) -> None:
    if not host.can_disconnect:
        pytest.skip("the test machines share this machine's network, which cannot be taken away")
    host.disconnect()
    refused = host.run("./provision", directory=CHECKOUT)
    host.connect()
    assert_refused(refused, "could not get", "requirements/run.lock", "the package index does not answer")


def test_a_set_up_that_was_killed_is_done_again(host: Machine) -> None:
    killed = host.run("timeout --signal=KILL 6 ./provision --list-hosts", directory=CHECKOUT)
    assert killed.status != 0
    again = host.run("./provision --list-hosts", directory=CHECKOUT)
    assert again.status == 0, again.output


# --- bad requests: refused before anything is touched ---------------------------------------------

GOOD = {"profile": "auto", "environments": [JAX]}


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        pytest.param(GOOD | {"profil": "cpu"}, ["profil", "profile"], id="misspelt key"),
        pytest.param({"environments": [JAX | {"python": 3.10}]}, ["python", "quote"], id="unquoted version"),
        pytest.param({"environments": [JAX | {"frameworks": {"tensorflo": "newest"}}]}, ["tensorflow"], id="framework"),
        pytest.param({"environments": []}, ["environments"], id="empty list"),
        pytest.param({"environments": [JAX, JAX]}, ["jax", "environments"], id="duplicate name"),
        pytest.param(
            {"profil": "cpu", "environments": [JAX | {"python": 3.10, "framworks": {}}]},
            ["profil", "quote", "framworks"],
            id="all mistakes at once",
        ),
    ],
)
def test_a_bad_request_is_refused(prepared: Machine, stack: dict[str, Any], words: list[str]) -> None:
    option = f"-e '{json.dumps({'gpu_stack': stack})}'"
    assert_refused(prepared.run(f"./provision {option}", directory=CHECKOUT), "localhost", *words)
    assert prepared.run("ls /opt/gpulab").status != 0


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def small_disk(machine: Machine, size: str) -> Iterator[None]:
    """Give /opt/gpulab a disk of its own that is soon full."""
    assert machine.run(f"mkdir -p /opt/gpulab && mount -t tmpfs -o size={size} tmpfs /opt/gpulab").status == 0
    try:
        yield
    finally:
        machine.run("umount -l /opt/gpulab && rmdir /opt/gpulab")


def test_too_little_space_is_said_before_an_environment_is_begun(prepared: Machine) -> None:
    with small_disk(prepared, "100m"):
        refused = prepared.run(f"./provision {wish()}", directory=CHECKOUT)
    assert_refused(refused, "MiB are free in /opt/gpulab")


def test_a_disk_that_fills_up_is_said(prepared: Machine) -> None:
    with small_disk(prepared, "150m"):
        refused = prepared.run(f"./provision {wish()} -e python_environment_free_mib=1", directory=CHECKOUT)
        assert prepared.run("test -e /opt/gpulab/envs/jax").status != 0
    assert_refused(refused, "the disk is full")


# --- killed in the middle -------------------------------------------------------------------------


def test_a_run_killed_while_installing_is_finished_by_the_next(prepared: Machine) -> None:
    # setsid: all of the run is one process group, killed at once as by a power cut.
    prepared.run(
        f"setsid ./provision {wish()} >/tmp/killed.log 2>&1 & echo $! >/tmp/pid; sleep 0.1", directory=CHECKOUT
    )
    half_made = "find /opt/gpulab/generations -maxdepth 5 -name '*.dist-info' 2>/dev/null | head -n 1"
    prepared.wait_until(lambda: bool(prepared.run(half_made).output), timeout=180)
    prepared.run("kill -KILL -- -$(cat /tmp/pid)")
    assert prepared.run("test -e /opt/gpulab/envs/jax").status != 0, prepared.run("cat /tmp/killed.log").output

    assert_passed(prepared.run(f"./provision {wish()}", directory=CHECKOUT))
    # The step that was running may have outlived the kill and finished its own generation: complete ones are fine.
    made = prepared.run("ls -d /opt/gpulab/generations/jax-*").output.splitlines()
    complete = prepared.run("ls -d /opt/gpulab/generations/jax-*/environment.json").output.splitlines()
    assert [f"{path}/environment.json" for path in made] == complete
    assert prepared.run("test -e /opt/gpulab/envs/jax/environment.json").status == 0


# --- with an environment in place -----------------------------------------------------------------


def test_a_read_only_home_is_no_obstacle(converged: Machine) -> None:
    assert converged.run("mount --bind /root /root && mount -o remount,ro,bind /root").status == 0
    run = converged.run(f"touch /root/x; ./provision {wish()}", directory=CHECKOUT)
    converged.run("umount /root")
    assert "Read-only file system" in run.output
    assert_passed(run)


def corrupt(machine: Machine, mnist: Path) -> str:
    """Hand over MNIST files of which one lost its end, as after a broken copy."""
    option = install_mnist(machine, mnist)
    assert machine.run(f"truncate --size=-1000 {MNIST}/train-images-idx3-ubyte.gz").status == 0
    return option


def test_a_corrupt_mnist_file_is_named_and_not_replaced(converged: Machine, mnist: Path | None) -> None:
    if mnist is None:
        pytest.skip("no real MNIST files on this machine (GPULAB_TEST_MNIST_DIR names their directory)")
    refused = converged.run(f"./provision {wish()} {corrupt(converged, mnist)}", directory=CHECKOUT)
    assert_refused(refused, "train-images-idx3-ubyte.gz")


def test_a_broken_environment_is_rebuilt(converged: Machine) -> None:
    prefix = "/opt/gpulab/envs/jax"
    assert converged.run(f"rm -r {prefix}/lib/python3*/site-packages/jax").status == 0
    assert converged.run(f"rm -r {prefix}/lib/python3*/site-packages/jax-*.dist-info").status == 0
    repaired = converged.run(f"./provision {wish()}", directory=CHECKOUT)
    assert_passed(repaired)
    assert converged.run(f"{prefix}/bin/python -c 'import jax'").status == 0


def test_a_request_that_no_python_can_meet_is_refused_by_the_plan(converged: Machine) -> None:
    refused: Result = converged.run(f"./provision {wish(frameworks={'jax': '0.0.1'})}", directory=CHECKOUT)
    assert_refused(refused, "jax", "0.0.1")
