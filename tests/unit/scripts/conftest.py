# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the tests of scripts/ and ./provision."""

from __future__ import annotations

import pytest
from fake_checkout import Checkout, make_checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout that has been set up once. Tests that break it put it right again."""
    made = make_checkout(tmp_path_factory.mktemp("checkout"))
    first = made.start()
    assert first.returncode == 0, first.stderr
    return made
