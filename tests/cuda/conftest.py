# SPDX-License-Identifier: Apache-2.0
"""The test network of the CUDA tests: a server of NVIDIA's archives, and hosts without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import bed, mark_containers
from testbed import Bed, Unavailable, apt_install, output

# The server of the driver's tests serves here, too.
sys.path.append(str(Path(__file__).parent.parent / "driver"))

from cuda_hosts import ArchiveServer, Lab, cudnn_parts
from redist import Redist

__all__ = ["bed"]  # a fixture, found by its name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that `-m "not containers"` leaves it out."""
    mark_containers(items, Path(__file__).parent)


@pytest.fixture(scope="session")
def lab(bed: Bed) -> Iterator[Lab]:
    """The server with all archives; where they cannot be made, every test is skipped with the reason."""
    try:
        if not output(["which", "openssl"]):
            apt_install(["openssl"])
        server = ArchiveServer(bed)
        redist = Redist(server.root, cudnn_parts(bed))
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield Lab(bed, server, redist)
    server.remove()
