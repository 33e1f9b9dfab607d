# SPDX-License-Identifier: Apache-2.0
"""What a user of the provisioned host cares about. Runs on the host through testinfra."""

from __future__ import annotations

import json
from typing import Any

import pytest

BASE = "/opt/gpulab"
ENVIRONMENTS = {"jax": ["jax", "keras"], "torch": ["torch"]}
MODULES = [(name, module) for name, modules in ENVIRONMENTS.items() for module in modules]

# Where the machine itself, its package manager and Ansible write; nothing of ours belongs there.
THE_MACHINES_OWN = (
    "/dev /proc /run /sys /tmp /var/cache /var/lib/apt /var/lib/dpkg /var/lib/systemd /var/log /root/.ansible"
)

INSTALLED = """
import importlib.metadata, json, re
found = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions()}
print(json.dumps({re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}))
"""


@pytest.fixture(scope="module")
def verdict(host: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(host.file(f"{BASE}/validation/verdict.json").content_string)
    return content


@pytest.mark.parametrize(("environment", "module"), MODULES)
def test_a_plain_user_can_import(host: Any, environment: str, module: str) -> None:
    # -I: from the environment alone, whatever directory or settings the user has.
    command = f"{BASE}/envs/{environment}/bin/python -I -c 'import {module}; print({module}.__version__)'"
    found = host.run(f"setpriv --reuid=nobody --clear-groups env -i HOME=/tmp KERAS_BACKEND=jax {command}")
    assert found.rc == 0, found.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_is_locked_is_installed(host: Any, environment: str) -> None:
    prefix = f"{BASE}/envs/{environment}"
    manifest = json.loads(host.file(f"{prefix}/environment.json").content_string)
    installed = json.loads(host.check_output(f"{prefix}/bin/python -I -c '{INSTALLED}'"))
    locked = {package["name"]: package["version"] for package in manifest["packages"]}
    assert locked
    assert {name: installed.get(name) for name in locked} == locked
    lock = host.file(f"{prefix}/environment.lock")
    assert lock.sha256sum == manifest["lock_sha256"]
    for name, version in locked.items():
        assert f"{name}=={version}" in lock.content_string
    assert "--hash=sha256:" in lock.content_string


def test_the_verdict_is_an_honest_pass(verdict: dict[str, Any]) -> None:
    assert verdict["verdict"]["status"] == "PASS"
    assert verdict["verdict"]["label"] == "PASS (cpu profile - no GPU claim)"
    assert (verdict["profile"], verdict["gpu_validated"], verdict["simulated"]) == ("cpu", False, False)


def test_every_framework_was_trained(verdict: dict[str, Any]) -> None:
    proven = {(result["environment"], result["framework"]): result for result in verdict["results"]}
    assert proven.keys() == {("jax", "jax"), ("jax", "keras"), ("torch", "pytorch")}
    for result in proven.values():
        assert result["dataset"] in ("mnist", "generated")
        # The bound of the real data set; the generated one has its own in the role's table.
        assert result["accuracy"] >= (0.95 if result["dataset"] == "mnist" else 0.5)
    assert proven["jax", "keras"]["keras_backend"] == "jax"


def test_jobs_did_not_run_as_root(host: Any) -> None:
    assert host.user("gpulab").exists
    assert host.user("gpulab").shell.endswith(("nologin", "false"))


def test_only_root_can_write_to_environments(host: Any) -> None:
    places = f"{BASE}/envs {BASE}/generations {BASE}/tools {BASE}/validation/programs"
    found = host.check_output(f"find {places} ! -type l '(' -perm /022 -o ! -user root ')' | head")
    assert found == ""


def test_everybody_can_read_environments(host: Any) -> None:
    places = f"{BASE}/envs {BASE}/generations"
    found = host.check_output(f"find {places} '(' -type d ! -perm -005 -o -type f ! -perm -004 ')' | head")
    assert found == ""


def test_nothing_was_written_elsewhere(host: Any) -> None:
    without = " ".join(f"-path {place} -prune -o" for place in [*THE_MACHINES_OWN.split(), BASE])
    # prepare.yml left the marker before anything else was done.
    new = set(host.check_output(f"find / -xdev {without} -newer /var/before-gpulab -type f -print").splitlines())
    mounted = {line.split()[1] for line in host.check_output("cat /proc/mounts").splitlines()}
    of_packages = set(host.check_output("cat /var/lib/dpkg/info/*.list").splitlines())
    ours = {path for path in new - mounted - of_packages if not path.endswith((".pyc", "/ld.so.cache"))}
    accounts = {f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow") for old in ("", "-")}
    assert sorted(ours - accounts)[:20] == []
