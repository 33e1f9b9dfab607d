# SPDX-License-Identifier: Apache-2.0
"""Machines for the tests: fresh systemd containers that know nothing of this project yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import bed, mark_containers
from project_tree import ROOT, project_files
from testbed import Bed, Machine, mnist_directory

__all__ = ["bed"]  # a fixture, found by its name

CHECKOUT = "/srv/gpulab"
MNIST = "/srv/mnist"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that `-m "not containers"` leaves it out."""
    mark_containers(items, Path(__file__).parent)


@pytest.fixture(scope="module")
def new_machine(bed: Bed) -> Iterator[Callable[..., Machine]]:
    """Start machines that live as long as the test module."""
    yield bed.machine
    bed.remove_machines()


@pytest.fixture(scope="session")
def mnist() -> Path | None:
    """Directory of the real MNIST files, None where there are none on this machine."""
    return mnist_directory()


def install_checkout(machine: Machine, directory: str = CHECKOUT, owner: str = "root") -> None:
    """Put the working tree on a machine as a clone would: what is tracked, or new and not ignored."""
    machine.put(ROOT, project_files(), directory, owner=owner)


def install_venv_package(machine: Machine) -> None:
    """Install what ./provision asks for on a fresh Debian (test_fresh_machine.py proves that it does)."""
    done = machine.run("apt-get -qq update && apt-get -qq install -y --no-install-recommends python3-venv")
    assert done.status == 0, done.output


def install_mnist(machine: Machine, mnist: Path) -> str:
    """Put the real MNIST files on a machine and return the option that hands them to ./provision."""
    machine.put(mnist, [path.relative_to(mnist) for path in mnist.glob("*.gz")], MNIST)
    return f"-e validation_mnist_dir={MNIST}"
