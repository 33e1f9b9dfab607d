# SPDX-License-Identifier: Apache-2.0
"""The steps of gpu_environment: sources in order, CUDA kept off CPU hosts, nothing lost, nothing visible too early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOCK = """\
numpy==2.4.6 \\
    --hash=sha256:{a}
    # via torch
    # from https://pypi.lab.example/simple
torch==2.13.0+cpu \\
    --hash=sha256:{b} \\
    --hash=sha256:{c}
    # from /srv/wheels
""".format(a="a" * 64, b="b" * 64, c="c" * 64)

PLAN: dict[str, Any] = {
    "name": "torch",
    "optional": False,
    "manager": "uv",
    "keras_backend": None,
    "imports": ["json"],
    "digest": "d",
    "python": "3.11",
    "interpreter": sys.executable,
    "frameworks": {"pytorch": {"version": "2.15.0", "package": "torch", "wheel": "cpu"}},
    "resolve": ["torch>=2.6.0,<=2.15.0"],
    "constraints": [],
    "torch_packages": ["torch"],
    "forbidden": ["nvidia-", "cuda-", "triton"],
}
INDEX: dict[str, Any] = {
    "use_host_configuration": False,
    "index_url": "",
    "extra_index_urls": [],
    "index_strategy": "auto",
    "find_links": ["/srv/wheels"],
    "wheel_dir": "",
    "ca_bundle": "",
    "proxy": "",
    "pytorch_index_url": "https://torch.example/whl/",
}


@pytest.fixture
def params(tmp_path: Path) -> dict[str, Any]:
    return {
        "base_dir": str(tmp_path),
        "name": "torch",
        "prefix": str(tmp_path / "generations/torch-20260102T000000Z"),
        "free_mib": 1,
        "uv": str(tmp_path / "uv"),
        "installer": "uv",
        "interpreter": "",
        "plan": PLAN,
        "package_index": INDEX,
        "keep_generations": 1,
        "timeout": 30,
        "lock_file": None,
    }


def fake_uv(params: dict[str, Any], body: str) -> Path:
    """Put a stand-in for uv in place that keeps its arguments; return the file that it keeps them in."""
    log = Path(params["base_dir"]) / "uv.log"
    Path(params["uv"]).write_text(f'#!/bin/sh\necho "$@" >> {log}\n{body}\n')
    os.chmod(params["uv"], 0o755)
    return log


def sources(module: ModuleType, **changes: Any) -> list[str]:
    options = {**INDEX, **changes.pop("options", {})}
    index = sys.modules["ansible.module_utils.package_index"].PackageIndex(options, {"HOME": "/nonexistent"})
    return [source["label"] for source in module._torch_sources({**PLAN, **changes}, options, index)]


def test_sources_of_torch_in_order(gpu_environment: ModuleType) -> None:
    assert sources(gpu_environment) == [
        "PyTorch's index https://torch.example/whl/cpu",
        "find-links /srv/wheels",
    ]
    assert sources(gpu_environment, torch_packages=[]) == ["the package index"]
    assert sources(gpu_environment, options={"wheel_dir": "/srv/offline"}) == ["wheel directory /srv/offline"]
    assert sources(gpu_environment, options={"pytorch_index_url": "", "find_links": []}) == []
    gpu = {"pytorch": {"version": "2.15.0", "package": "torch", "wheel": "cu130", "on_package_index": True}}
    assert sources(gpu_environment, frameworks=gpu)[-1] == "the package index"


def test_lock_is_read_with_versions_origins_and_hashes(gpu_environment: ModuleType) -> None:
    numpy, torch = gpu_environment._parse_lock(LOCK)
    assert numpy == {
        "name": "numpy",
        "version": "2.4.6",
        "index": "https://pypi.lab.example/simple",
        "sha256": ["a" * 64],
    }
    assert (torch["version"], len(torch["sha256"])) == ("2.13.0+cpu", 2)


def test_cuda_libraries_are_kept_off_cpu_hosts(gpu_environment: ModuleType) -> None:
    packages = [{"name": "torch"}, {"name": "nvidia-cublas"}, {"name": "triton"}]
    assert "nvidia-cublas, triton" in gpu_environment._cuda_in_cpu_lock(packages, PLAN["forbidden"])
    assert gpu_environment._cuda_in_cpu_lock(packages, []) is None
    assert gpu_environment._cuda_in_cpu_lock([{"name": "numpy"}], PLAN["forbidden"]) is None


def test_lock_goes_on_to_the_next_source_and_keeps_its_answer_private(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "lock").write_text(LOCK)
    fake_uv(
        params,
        f"""
grep -q torch.example pyproject.toml && {{ echo 'error: dns error' >&2; exit 2; }}
while [ "$1" != --output-file ]; do shift; done; cp {tmp_path}/lock "$2" """,
    )
    answer = gpu_environment.lock(params, False)
    assert answer["available"] is True
    assert answer["versions"] == {"pytorch": "2.13.0+cpu"}
    assert answer["tried"][0].startswith("PyTorch's index https://torch.example/whl/cpu: its name cannot be resolved")
    kept = tmp_path / "cache/resolved"
    assert kept.stat().st_mode & 0o077 == 0
    assert (kept / "torch.lock").read_text() == LOCK


def test_a_cuda_lock_on_a_cpu_host_is_refused_before_download(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "lock").write_text(LOCK.replace("numpy==", "nvidia-cublas=="))
    fake_uv(params, f'while [ "$1" != --output-file ]; do shift; done; cp {tmp_path}/lock "$2"')
    with pytest.raises(gpu_environment.Failed, match=r"nvidia-cublas.*to a CPU host"):
        gpu_environment.lock(params, False)
    params["plan"] = {**PLAN, "optional": True}
    assert gpu_environment.lock(params, False)["available"] is False


def test_check_mode_resolves_but_keeps_nothing(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    assert gpu_environment.lock(params, True)["available"] is True  # no uv on the host yet: nothing speaks against it
    (tmp_path / "lock").write_text(LOCK)
    fake_uv(params, f'while [ "$1" != --output-file ]; do shift; done; cp {tmp_path}/lock "$2"')
    assert gpu_environment.lock(params, True)["versions"] == {"pytorch": "2.13.0+cpu"}
    assert not (tmp_path / "cache").exists()


def test_begin_removes_half_made_generations_only(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    good, half = (tmp_path / "generations" / f"torch-2026010{day}T000000Z" for day in (1, 2))
    for prefix in (good, half, tmp_path / "generations/other-20260101T000000Z"):
        prefix.mkdir(parents=True)
    (good / "environment.json").write_text('{"state": "complete"}')
    assert gpu_environment.begin(params, True)["removed"] == [str(half)]
    assert half.exists()
    answer = gpu_environment.begin(params, False)
    assert answer["removed"] == [str(half)]
    assert (good.exists(), half.exists()) == (True, False)
    assert (tmp_path / "generations/other-20260101T000000Z").exists()


def test_begin_leaves_foreign_directories_alone_and_refuses_a_full_disk(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(gpu_environment.Failed, match="MiB are free"):
        gpu_environment.begin({**params, "free_mib": 1 << 40}, False)
    (tmp_path / "envs/torch").mkdir(parents=True)
    with pytest.raises(gpu_environment.Failed, match="not made by this project"):
        gpu_environment.begin(params, False)


def built(module: ModuleType, params: dict[str, Any]) -> Path:
    """Make a prefix as it is after the step install."""
    prefix = Path(params["prefix"])
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python").symlink_to(sys.executable)
    (prefix / "environment.lock").write_text(LOCK)
    (Path(params["base_dir"]) / "envs").mkdir(exist_ok=True)
    fake_uv(params, "exit 0")
    return prefix


def test_finish_writes_the_manifest_last_and_switches_the_link(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    params["plan"] = {**PLAN, "imports": ["json"]}
    prefix = built(gpu_environment, params)
    answer = gpu_environment.finish(params, False)
    assert answer["versions"] == {"pytorch": "2.13.0+cpu"}
    manifest = json.loads((prefix / "environment.json").read_text())
    assert (manifest["state"], manifest["digest"], manifest["frameworks"]) == (
        "complete",
        "d",
        {"pytorch": "2.13.0+cpu"},
    )
    assert len(manifest["lock_sha256"]) == 64
    assert os.readlink(tmp_path / "envs/torch") == "../generations/torch-20260102T000000Z"


def test_a_failed_import_leaves_the_old_generation_current(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    prefix = built(gpu_environment, params)
    (tmp_path / "envs/torch").symlink_to("../generations/torch-20260101T000000Z")
    params["plan"] = {**PLAN, "imports": ["no_such_module"]}
    with pytest.raises(gpu_environment.Failed, match="no_such_module is installed but cannot be imported"):
        gpu_environment.finish(params, False)
    assert os.readlink(tmp_path / "envs/torch").endswith("20260101T000000Z")
    assert not (prefix / "environment.json").exists()


def test_old_generations_go_unless_someone_runs_from_them(
    gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path
) -> None:
    built(gpu_environment, params)
    old = [tmp_path / "generations" / f"torch-2025010{day}T000000Z" for day in (1, 2, 3)]
    for prefix in old:
        (prefix / "bin").mkdir(parents=True)
    program = old[0] / "bin" / "job"
    program.symlink_to("/bin/sleep")
    job = subprocess.Popen([str(program), "60"])
    try:
        removed = gpu_environment._tidy(params)
    finally:
        job.kill()
        job.wait()
    assert removed == [str(old[1])]
    assert old[0].exists()
    assert old[2].exists()


def test_install_failure_is_explained(gpu_environment: ModuleType, params: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(gpu_environment.Failed, match="run the step 'lock' first"):
        gpu_environment.install(params, False)
    gpu_environment._keep_resolved(params, LOCK, {"label": "x", "url": "", "flat": False})
    Path(params["prefix"]).mkdir(parents=True)
    log = fake_uv(params, "echo 'No space left on device (os error 28)' >&2; exit 1")
    with pytest.raises(gpu_environment.Failed, match="the disk is full"):
        gpu_environment.install(params, False)
    assert "--require-hashes" in log.read_text()
    assert "--no-deps" in log.read_text()
