# SPDX-License-Identifier: Apache-2.0
"""What all tests in containers begin with: the engine, and the mark that leaves them out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from testbed import Bed, Unavailable


def mark_containers(items: Sequence[pytest.Item], directory: Path) -> None:
    """Mark the tests below a directory, so that `-m "not containers"` leaves them out."""
    for item in items:
        if directory in item.path.parents:
            item.add_marker(pytest.mark.containers)


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The test bed; where there can be none, every test is skipped with the reason."""
    if "GPULAB_TEST_UNAVAILABLE" in os.environ:
        pytest.skip(os.environ["GPULAB_TEST_UNAVAILABLE"])
    try:
        prepared = Bed.prepare()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield prepared
    prepared.remove_machines()
    prepared.remove_networks()
