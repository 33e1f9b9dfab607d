# SPDX-License-Identifier: Apache-2.0
"""What the unit tests share: modules that import without Ansible running, and the facts of a plain host."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible.module_utils
import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# On a host Ansible packs module_utils/ into its own package; here that package finds the same files.
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


@pytest.fixture(scope="session")
def filters_of_role() -> Callable[[str], ModuleType]:
    """Load the filters of a role by its name; no loader of Ansible finds them without a play."""

    def load(role: str) -> ModuleType:
        name = f"{role}_filters"
        return _load(f"gpulab_{name}", ROOT / "roles" / role / "filter_plugins" / f"{name}.py")

    return load


@pytest.fixture(scope="session")
def store() -> ModuleType:
    return importlib.import_module("ansible.module_utils.environment_store")


@pytest.fixture(scope="session")
def cuda_filters() -> ModuleType:
    return _load("gpulab_cuda_filters", ROOT / "filter_plugins" / "cuda_filters.py")


@pytest.fixture(scope="session")
def package_index() -> ModuleType:
    return importlib.import_module("ansible.module_utils.package_index")


@pytest.fixture(scope="session")
def gpu_facts() -> ModuleType:
    return _load("gpulab_gpu_facts", ROOT / "library" / "gpu_facts.py")


@pytest.fixture(scope="session")
def gpu_environment() -> ModuleType:
    return _load("gpulab_gpu_environment", ROOT / "library" / "gpu_environment.py")


@pytest.fixture
def facts() -> dict[str, Any]:
    """A Debian 12 host without a GPU and with its own Python 3.11."""
    return {
        "os": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12 (bookworm)", "family": "debian"},
        "arch": "x86_64",
        "kernel": "6.1.0-25-amd64",
        "glibc": "2.36",
        "secure_boot": False,
        "nvswitches": [],
        "gpus": [],
        "other_gpus": [],
        "unknown": {},
        "driver": {"loaded_version": None, "module": None, "reason": "the kernel module nvidia is not loaded"},
        "pythons": [
            {
                "path": "/usr/bin/python3.11",
                "minor": "3.11",
                "version": "3.11.2",
                "usable": True,
                "venv": True,
            }
        ],
        "environments": {},
    }


@pytest.fixture
def gpu_host(facts: dict[str, Any]) -> dict[str, Any]:
    """The same host with one GPU and a loaded driver."""
    return {
        **facts,
        "gpus": [{"bus": "0000:01:00.0", "vendor": "0x10de", "device": "0x2204"}],
        "driver": {"loaded_version": "580.126.09", "module": "open", "reason": None},
    }
