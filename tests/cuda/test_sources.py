# SPDX-License-Identifier: Apache-2.0
"""Toolkits that are not made of archives: NVIDIA's installer (a stand-in around the real compiler), one that is there
already, and the distribution's own package, which is the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_runs import recap
from cuda_hosts import PLAYBOOKS, CudaHost, refused
from standins import sha256
from toolkit_runfile import write_toolkit_runfile


@pytest.fixture(scope="module")
def runfile(lab: Any) -> dict[str, str]:
    """The installer on the server."""
    file = write_toolkit_runfile(lab.server.root / "runfiles", "13.0.2", "580.95.05")
    return {"url": lab.server.url(f"runfiles/{file.name}"), "sha256": sha256(file)}


@pytest.fixture(scope="module")
def variables(lab: Any, runfile: Any) -> dict[str, Any]:
    """What is asked for on the host of the installer."""
    return lab.variables(["13.0.2"], stack_cuda_source="runfile", cuda_toolkit_runfile={"13.0.2": runfile})


@pytest.fixture(scope="module")
def host(lab: Any) -> Iterator[CudaHost]:
    """A host whose default leads to a toolkit that somebody else made."""
    started = lab.host("installer", "compiler")
    started.must("mkdir -p /opt/theirs/bin && ln -s /opt/theirs /usr/local/cuda")
    yield started
    lab.bed.remove_machines([started.machine.name])


@pytest.fixture(scope="module")
def before(host: CudaHost) -> dict[str, str]:
    """Every file of the fresh host."""
    return host.files()


@pytest.fixture(scope="module")
def installed(lab: Any, host: CudaHost, variables: Any, before: Any) -> Any:
    """The run with the installer, after one whose checksum was wrong."""
    wrong = {"13.0.2": {**variables["cuda_toolkit_runfile"]["13.0.2"], "sha256": "0" * 64}}
    refusal = lab.provision(host, {**variables, "cuda_toolkit_runfile": wrong})
    refused(refusal.output, "installer", "0" * 64)
    assert host.run("ls /usr/local/cuda-13.0").status == 2
    done = lab.provision(host, variables)
    assert done.status == 0, done.output
    return done


def test_the_installer_leaves_a_toolkit_that_compiles(host: CudaHost, installed: Any) -> None:
    done = host.compiles("/usr/local/cuda-13.0/bin/nvcc", "75")
    assert done.status == 0, done.output
    assert host.must("readlink -f /usr/local/cuda").strip() == "/usr/local/cuda-13.0"
    assert "release 13.0," in host.login("bash", "nvcc --version").output


def test_the_next_run_with_the_installer_changes_nothing(
    lab: Any, host: CudaHost, variables: Any, installed: Any
) -> None:
    again = lab.provision(host, variables)
    assert again.status == 0, again.output
    assert recap(again.output, "installer")["changed"] == 0, again.output


def test_removal_takes_all_that_the_installer_left_and_puts_the_default_back(
    lab: Any, host: CudaHost, variables: Any, before: Any, installed: Any
) -> None:
    done = lab.play(
        PLAYBOOKS / "remove_cuda.yml",
        {host.name: host},
        "-e",
        "remove_cuda_consent=true",
        variables={host.name: variables},
    )
    assert done.status == 0, done.output
    after = host.files()
    assert [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)] == []
    assert host.must("readlink /usr/local/cuda").strip() == "/opt/theirs"


def test_what_somebody_else_has_at_its_place_is_refused_however_often_it_is_tried(
    lab: Any, host: CudaHost, variables: Any, installed: Any
) -> None:
    host.must("mkdir /usr/local/cuda-13.0 && echo precious > /usr/local/cuda-13.0/theirs")
    for arguments in (["--check"], [], []):
        done = lab.provision(host, variables, *arguments)
        refused(done.output, "installer", "/usr/local/cuda-13.0", "was not made by this project")
    assert host.must("cat /usr/local/cuda-13.0/theirs") == "precious\n"
    assert host.run("ls /var/lib/gpulab/cuda_toolkit.json").status == 2
    host.must("rm -r /usr/local/cuda-13.0")


def test_a_user_without_root_is_told_that_an_installer_needs_it(lab: Any, variables: Any) -> None:
    host = lab.host("userrun", "compiler", user="bob")
    try:
        done = lab.provision(host, variables)
        refused(done.output, "userrun", "runfile", "root")
    finally:
        lab.bed.remove_machines([host.machine.name])


def test_a_toolkit_of_somebody_else_is_taken_as_it_is(lab: Any, runfile: Any) -> None:
    host = lab.host("existing", "compiler")
    try:
        # An administrator ran NVIDIA's installer.
        download = f"import urllib.request as u; u.urlretrieve('{runfile['url']}', '/tmp/toolkit.run')"
        host.must(f'python3 -c "{download}" && sh /tmp/toolkit.run --silent --toolkit --override')
        before = {path: what for path, what in host.files().items() if path.startswith("/usr/local/cuda")}
        wanted = lab.variables(["13.0"], stack_cuda_source="auto")
        done = lab.provision(host, wanted)
        assert done.status == 0, done.output
        assert host.run("ls /opt/gpulab/toolkits").status == 2
        after = {path: what for path, what in host.files().items() if path.startswith("/usr/local/cuda")}
        assert before == after
        assert "release 13.0," in host.login("bash", "nvcc --version").output
        again = lab.provision(host, wanted)
        assert recap(again.output, "existing")["changed"] == 0, again.output
    finally:
        lab.bed.remove_machines([host.machine.name])


@pytest.mark.skipif(
    "GPULAB_TEST_LONG" not in os.environ, reason="Debian's toolkit is 1.6 GB of packages: ./test --long"
)
def test_debians_own_toolkit_compiles(lab: Any) -> None:
    host = lab.host("distro", "compiler")
    try:
        wanted = lab.variables(["11.8"], stack_cuda_source="distro")
        done = lab.provision(host, wanted, timeout=3600)
        assert done.status == 0, done.output
        done = host.compiles("nvcc", "75")
        assert done.status == 0, done.output
        held = host.must("apt-mark showhold").split()
        assert "nvidia-cuda-toolkit" in held
        again = lab.provision(host, wanted)
        assert recap(again.output, "distro")["changed"] == 0, again.output
    finally:
        lab.bed.remove_machines([host.machine.name])
