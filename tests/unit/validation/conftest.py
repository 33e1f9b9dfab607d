# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the tests of the validator, see validation_lab.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from validation_lab import Lab, Mirror


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    mirror = Mirror()
    thread = Thread(target=mirror.server.serve_forever, daemon=True)
    thread.start()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    thread.join(timeout=10)
