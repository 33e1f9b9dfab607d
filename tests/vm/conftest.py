# SPDX-License-Identifier: Apache-2.0
"""Virtual machines for the tests: a real kernel, real reboots, and a stand-in for NVIDIA's repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_runs import SETTINGS
from driver_packages import Repository
from project_tree import ROOT
from testbed import Unavailable
from virtual_machine import Image, VirtualMachine, prepare, serve


@pytest.fixture(scope="session")
def image() -> Image:
    """The disk that every machine starts from; where there can be none, every test is skipped with the reason."""
    if "GPULAB_TEST_VM_UNAVAILABLE" in os.environ:
        pytest.skip(os.environ["GPULAB_TEST_VM_UNAVAILABLE"])
    try:
        return prepare()
    except Unavailable as reason:
        pytest.skip(f"no virtual machine: {reason}")


@pytest.fixture(scope="session")
def repository(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """NVIDIA's repository as far as the tests need it."""
    return Repository(tmp_path_factory.mktemp("repository") / "files", image)


@pytest.fixture(scope="session")
def repository_url(image: Image, repository: Repository) -> Iterator[str]:
    """Where the machines find it."""
    with serve(repository.directory, image) as url:
        yield url


@pytest.fixture(scope="session")
def booted(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Disk and memory of a machine that has booted: what each test's machine goes on from, within seconds."""
    memory = tmp_path_factory.mktemp("memory") / "state"
    first = VirtualMachine.start(image)
    try:
        yield first.save(memory), memory
    finally:
        first.stop()


@pytest.fixture
def machine(image: Image, booted: tuple[Path, Path]) -> Iterator[VirtualMachine]:
    """A machine of the test's own, which has booted and knows nothing of this project yet."""
    disk, memory = booted
    started = VirtualMachine.start(image, disk=disk, memory_state=memory)
    yield started
    started.stop()


@pytest.fixture
def ansible(machine: VirtualMachine) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a module on the machine with the project's own configuration."""
    return lambda *words, **variables: run_ansible(machine, *words, **variables)


def run_ansible(machine: VirtualMachine, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `ansible guest` with these words; `variables` go into the inventory."""
    return subprocess.run(
        ["ansible", "guest", "-i", str(machine.write_inventory(**variables)), *words],
        cwd=ROOT,
        env=os.environ | SETTINGS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
