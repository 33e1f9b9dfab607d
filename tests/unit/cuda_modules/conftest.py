# SPDX-License-Identifier: Apache-2.0
"""The modules for toolkits from archives, and a small mirror of such archives to try them on."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from redist_lab import Mirror, Server

ROOT = Path(__file__).resolve().parents[3]


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpulab_{name}", ROOT / "library" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cuda_archive() -> ModuleType:
    return _module("cuda_archive")


@pytest.fixture(scope="session")
def cuda_probe() -> ModuleType:
    return _module("cuda_probe")


@pytest.fixture(scope="session")
def cuda_store() -> ModuleType:
    return importlib.import_module("ansible.module_utils.cuda_store")


@pytest.fixture(scope="session")
def redist_source() -> ModuleType:
    return importlib.import_module("ansible.module_utils.redist_source")


@pytest.fixture(scope="session")
def redist_unpack() -> ModuleType:
    return importlib.import_module("ansible.module_utils.redist_unpack")


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """A directory with a manifest and two archives, as NVIDIA publishes them."""
    return Mirror.of_cuda(tmp_path / "mirror")


@pytest.fixture
def server(mirror: Mirror, redist_source: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The same over http, on this machine alone."""
    monkeypatch.setattr(redist_source, "PAUSES", (0, 0, 0, 0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(mirror.directory) as running:
        yield running
