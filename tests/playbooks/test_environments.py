# SPDX-License-Identifier: Apache-2.0
"""Environments from wish to link: built once, changed beside the old one, repaired, never half-visible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Machine
from standins import make_package, sha256

JAX: dict[str, Any] = {"name": "jx", "frameworks": {"jax": "newest"}}
TORCH: dict[str, Any] = {"name": "tt", "frameworks": {"pytorch": "newest"}}
# The stand-ins of jax are releases for these Pythons; another Python makes the plan look elsewhere.
FITS = (3, 11) <= sys.version_info[:2] <= (3, 14)

pytestmark = pytest.mark.skipif(
    not FITS, reason=f"stand-in releases are for Python 3.11 to 3.14, not {sys.version[:4]}"
)


def request_for(*environments: dict[str, Any]) -> dict[str, Any]:
    """Return a request for environments made with the Python that runs the tests."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"environments": [{"python": version, **environment} for environment in environments]}


def test_check_mode_tells_and_touches_nothing_then_two_runs_converge(machine: Machine) -> None:
    wish = request_for(JAX, TORCH)
    dry = machine.provision(wish, "--check").succeeded()
    assert dry.changed > 0
    assert not machine.base.exists()

    machine.provision(wish).succeeded()
    manifest = machine.manifest("jx")
    assert manifest["frameworks"] == {"jax": "0.7.2"}
    assert {package["name"] for package in manifest["packages"]} == {"jax", "numpy"}
    assert all(package["sha256"] for package in manifest["packages"])
    assert machine.manifest("tt")["frameworks"] == {"pytorch": "2.13.0+cpu"}
    python = machine.base / "envs/jx/bin/python"
    assert subprocess.run([python, "-c", "import jax, numpy"], check=False).returncode == 0
    writable = [
        path
        for path in (machine.base / "generations").rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]
    assert writable == []
    inside = (machine.base / "envs/jx/").resolve()
    closed = [path for path in (inside, *inside.rglob("*")) if path.stat().st_mode & 0o004 == 0]
    assert closed == []
    assert (machine.base / "generations").stat().st_mode & 0o777 == 0o755
    assert machine.base.stat().st_mode & 0o777 == 0o755

    again = machine.provision(wish).succeeded()
    assert again.changed == 0
    assert machine.provision(wish, "--check").succeeded().changed == 0


def test_a_new_plan_makes_a_generation_beside_the_old_one(machine: Machine) -> None:
    machine.provision(request_for({**JAX, "frameworks": {"jax": "==0.7.1"}})).succeeded()
    before = os.readlink(machine.base / "envs/jx")
    machine.provision(request_for(JAX)).succeeded()
    assert machine.manifest("jx")["frameworks"] == {"jax": "0.7.2"}
    assert len(machine.generations("jx")) == 2
    assert (machine.base / "envs" / before / "bin/python").exists()


def test_what_was_changed_by_hand_is_repaired_and_what_was_added_is_left(machine: Machine) -> None:
    machine.provision(request_for(JAX)).succeeded()
    site = next((machine.base / "envs/jx").glob("lib/python3*/site-packages"))
    (site / "mine-1.0.dist-info").mkdir()
    assert machine.provision(request_for(JAX)).succeeded().changed == 0
    (site / "numpy-2.4.0.dist-info").rename(site / "numpy-1.0.dist-info")
    run = machine.provision(request_for(JAX)).succeeded()
    assert "numpy is 1.0 instead of 2.4.0" in run.output
    assert machine.provision(request_for(JAX)).succeeded().changed == 0


@pytest.mark.parametrize("moment", ["generations/jx-*", "generations/jx-*/environment.lock"])
def test_killed_in_the_middle_and_run_again(machine: Machine, moment: str) -> None:
    machine.kill_when(moment, request_for(JAX))
    assert not (machine.base / "envs/jx").exists()
    machine.provision(request_for(JAX)).succeeded()
    assert len(machine.generations("jx")) == 1
    assert machine.provision(request_for(JAX)).succeeded().changed == 0


@pytest.mark.parametrize("manager", ["venv", "conda"])
def test_other_managers(machine: Machine, manager: str, tmp_path: Path) -> None:
    micromamba = tmp_path / "micromamba"
    # A stand-in with micromamba's command line: it makes a venv where the real one would make a conda prefix.
    micromamba.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --prefix ]; do shift; done\nexec {sys.executable} -m venv "$2"\n'
    )
    variables = {
        "python_micromamba_url": f"file://{micromamba}",
        "python_micromamba_checksum": f"sha256:{sha256(micromamba)}",
    }
    wish = request_for({**JAX, "manager": manager})
    machine.provision(wish, **variables).succeeded()
    assert machine.manifest("jx")["manager"] == manager
    assert machine.provision(wish, **variables).succeeded().changed == 0


def test_a_tool_with_the_wrong_checksum_is_not_kept(machine: Machine, tmp_path: Path) -> None:
    micromamba = tmp_path / "micromamba"
    micromamba.write_text("#!/bin/sh\ntouch " + str(tmp_path / "was-run"))
    run = machine.provision(
        request_for({**JAX, "manager": "conda"}),
        python_micromamba_url=f"file://{micromamba}",
        python_micromamba_checksum=f"sha256:{'0' * 64}",
    )
    run.failed_with("the manager conda needs micromamba", "did not match")
    assert not (tmp_path / "was-run").exists()
    assert not (machine.base / "tools/micromamba/micromamba").exists()


def test_an_optional_environment_that_no_source_can_give(machine: Machine) -> None:
    wish = request_for({"name": "tf", "frameworks": {"tensorflow": "newest"}, "optional": True, "python": "3.12"}, JAX)
    wish["environments"][0]["python"] = request_for(JAX)["environments"][0]["python"]
    machine.provision(wish).succeeded()
    assert machine.manifest("jx")
    assert not (machine.base / "envs/tf").exists()
    assert machine.provision(wish).succeeded().changed == 0


def test_a_required_one_is_refused_with_what_was_tried(machine: Machine) -> None:
    run = machine.provision(request_for({"name": "tf", "frameworks": {"jax": "newest", "keras": "newest"}}))
    run.failed_with("no source can give jax", f"wheel directory {machine.wheels}", "keras")


def test_cuda_libraries_do_not_reach_a_cpu_host(machine: Machine) -> None:
    (machine.wheels / "torch-2.13.0+cpu-py3-none-any.whl").unlink()
    make_package(machine.wheels, "torch", "2.13.0", ["nvidia-cublas"])
    make_package(machine.wheels, "nvidia-cublas", "13.0.0")
    machine.provision(request_for(TORCH)).failed_with("it would bring CUDA libraries (nvidia-cublas) to a CPU host")
    assert machine.generations("tt") == []


def test_what_others_made_is_left_alone(machine: Machine) -> None:
    theirs = machine.base / "envs/jx"
    theirs.mkdir(parents=True)
    (theirs / "precious").write_text("data")
    machine.provision(request_for(JAX)).failed_with("was not made by this project")
    assert (theirs / "precious").read_text() == "data"


def test_too_little_space_is_refused_before_anything_is_made(machine: Machine) -> None:
    run = machine.provision(request_for(JAX), python_environment_free_mib=1 << 30)
    run.failed_with("MiB are free in", "gpulab_base_dir")
    assert machine.generations("jx") == []


def test_passwords_of_an_index_are_not_shown(machine: Machine) -> None:
    run = machine.provision(
        request_for(JAX),
        "-vv",
        dl_frameworks_wheel_dir="",
        dl_frameworks_index_url="https://me:s3cr3t@127.0.0.1:9/simple",
    )
    run.failed_with("no source can give jax")
    told = [line for line in run.output.splitlines() if "s3cr3t" in line]
    assert told == []


def test_mistakes_are_refused_before_facts_are_gathered(machine: Machine) -> None:
    run = machine.provision(
        {"environments": [{"name": "a", "frameworks": {"torhc": "newest"}, "pyhton": "3.11"}], "profil": "x"}
    )
    run.failed_with("did you mean 'pytorch'?", "did you mean 'python'?", "did you mean 'profile'?", "localhost")
    assert "Gather facts" not in run.output
