# SPDX-License-Identifier: Apache-2.0
"""The test network of the driver's tests: a server of stand-in repositories, and hosts that pose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import bed, mark_containers
from posing_hosts import PosingHosts
from repositories import Repositories
from repository_server import RepositoryServer
from testbed import Bed, Unavailable, apt_install, output

__all__ = ["bed"]  # a fixture, found by its name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that `-m "not containers"` leaves it out."""
    mark_containers(items, Path(__file__).parent)


def ensure_tools() -> None:
    """Install what makes packages and their lists."""
    tools = {"rpmbuild": "rpm", "createrepo_c": "createrepo-c", "gpg": "gnupg", "openssl": "openssl"}
    missing = [package for tool, package in tools.items() if not output(["which", tool])]
    if missing:
        apt_install(missing)


@pytest.fixture(scope="session")
def repositories(bed: Bed) -> Repositories:
    """The stand-in repositories; where nothing can make them, every test is skipped with the reason."""
    try:
        ensure_tools()
    except Unavailable as reason:
        pytest.skip(str(reason))
    return Repositories()


@pytest.fixture(scope="session")
def server(bed: Bed) -> Iterator[RepositoryServer]:
    """The server of the test network."""
    running = RepositoryServer(bed)
    yield running
    running.remove()


@pytest.fixture(scope="module")
def hosts(bed: Bed, server: RepositoryServer, repositories: Repositories) -> Iterator[PosingHosts]:
    """Starts posing hosts, which live as long as the test module."""
    started = PosingHosts(bed, server, repositories)
    yield started
    started.remove()
    server.heal()
