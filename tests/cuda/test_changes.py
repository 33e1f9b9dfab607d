# SPDX-License-Identifier: Apache-2.0
"""One host through the life of its toolkit: damaged and cut downloads, power cuts, releases up and down, and programs
that use the old one meanwhile. The tests build on one another, as the runs of a person do."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_runs import recap
from cuda_hosts import CudaHost, refused, steps_taken, wait_for

STORE = "/opt/gpulab/toolkits"
CACHE = "/opt/gpulab/cache/redist"
LINK = "/usr/local/cuda-13.0"
OLD, NEW = "13.0.0", "13.0.2"
NVCC = {OLD: "V13.0.48", NEW: "V13.0.88"}


@pytest.fixture(scope="module")
def host(lab: Any) -> Iterator[CudaHost]:
    """A host with a compiler."""
    started = lab.host("solo", "compiler")
    yield started
    lab.server.heal()
    lab.bed.remove_machines([started.machine.name])


@pytest.fixture(scope="module")
def wants(lab: Any) -> dict[str, dict[str, Any]]:
    """The variables of the host by the release that it is to have."""
    return {version: lab.variables([version]) for version in (OLD, NEW)}


def generations(host: CudaHost) -> dict[str, bool]:
    """Return the generations in the store, and whether each is whole."""
    listing = host.must(
        f"cd {STORE} 2>/dev/null && for d in cuda-*; do echo $d $(ls $d/archive.json 2>/dev/null); done || :"
    )
    return {line.split()[0]: len(line.split()) > 1 for line in listing.splitlines() if not line.startswith("cuda-*")}


def asked(lab: Any, path: str) -> list[dict[str, Any]]:
    """Return the requests for a file."""
    return [request for request in lab.server.requests() if re.search(path, request["path"])]


@pytest.fixture(scope="module")
def damaged(lab: Any, host: CudaHost, wants: Any) -> Any:
    """A run that gets one archive damaged, however often it asks."""
    lab.server.fault("cuda_cudart.*13.0.48", "corrupted")
    done = lab.provision(host, wants[OLD])
    lab.server.heal()
    return done


def test_a_damaged_archive_is_refused_and_nothing_of_it_is_used(host: CudaHost, damaged: Any) -> None:
    refused(damaged.output, "solo", "cuda_cudart-linux-x86_64-13.0.48-archive.tar.xz", "SHA-256")
    assert generations(host) == {}
    assert host.run(f"ls {LINK} /usr/local/cuda").status == 2
    assert host.must(f"find {CACHE} -name '*cuda_cudart*'") == ""


@pytest.fixture(scope="module")
def cut(lab: Any, host: CudaHost, wants: Any, damaged: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """A run that is killed while a download has stalled, and the run after it."""
    host.must(f"rm -rf {CACHE}")
    lab.server.forget_requests()
    lab.server.fault("cuda_nvcc.*13.0.48", "stalled", times=1)
    run = lab.start(host, wants[OLD], tmp_path_factory.mktemp("cut"))
    part = f"find {CACHE} -name '*cuda_nvcc*' -size +1M"
    try:
        wait_for(lambda: host.run(part).output.strip(), "a part of the archive on the host")
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    return {"again": lab.provision(host, wants[OLD])}


def test_a_download_that_was_cut_goes_on_where_it_was(lab: Any, host: CudaHost, cut: Any) -> None:
    assert cut["again"].status == 0, cut["again"].output
    requests = [request for request in asked(lab, "cuda_nvcc.*13.0.48") if request["method"] == "GET"]
    assert [request["first"] > 0 for request in requests] == [False, True], requests
    assert NVCC[OLD] in host.must(f"{LINK}/bin/nvcc --version")
    assert list(generations(host).values()) == [True]
    assert host.must(f"find {CACHE} -name '*.part*'") == ""


@pytest.fixture(scope="module")
def outage(lab: Any, host: CudaHost, wants: Any, cut: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """The upgrade, cut off by a power failure while the new toolkit is being unpacked."""
    run = lab.start(host, wants[NEW], tmp_path_factory.mktemp("outage"))
    # Waited for on the host, because there are seconds between the beginning and the end of unpacking.
    begun = f"for turn in $(seq 1200); do ls -d {STORE}/cuda-{NEW}-* 2>/dev/null && exit; sleep 0.1; done; exit 1"
    try:
        assert host.run(begun).status == 0
        host.restart(hard=True)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    return {
        "store": host.must(f"ls -A {STORE}"),
        "nvcc": host.must(f"{LINK}/bin/nvcc --version"),
        "facts": lab.facts(host),
    }


def test_a_power_cut_leaves_users_what_they_had(host: CudaHost, outage: Any) -> None:
    assert NVCC[OLD] in outage["nvcc"]
    states = {row["state"] for row in outage["facts"]["toolkit_store"] if row["version"] == NEW}
    assert states == {"half-made"}, outage
    assert [row["version"] for row in outage["facts"]["cuda"]] == [OLD]


@pytest.fixture(scope="module")
def user(host: CudaHost, outage: Any) -> Iterator[str]:
    """A process that uses the old toolkit, by its id."""
    script = f"cd {LINK}/bin && exec 9<nvcc && exec sleep 3600"
    pid = host.must(f"setsid sh -c '{script}' >/dev/null 2>&1 & echo $!").strip()
    yield pid
    host.run(f"kill {pid}")


@pytest.fixture(scope="module")
def upgraded(lab: Any, host: CudaHost, wants: Any, user: str) -> Any:
    """The run that finishes the upgrade."""
    return lab.provision(host, wants[NEW])


def test_the_next_run_finishes_the_upgrade(lab: Any, host: CudaHost, wants: Any, upgraded: Any) -> None:
    assert upgraded.status == 0, upgraded.output
    assert NVCC[NEW] in host.must("/usr/local/cuda/bin/nvcc --version")
    assert all(generations(host).values()), generations(host)
    done = host.compiles("/usr/local/cuda/bin/nvcc", "75")
    assert done.status == 0, done.output
    again = lab.provision(host, wants[NEW])
    assert recap(again.output, "solo")["changed"] == 0, again.output


def test_a_toolkit_in_use_stays_for_its_user(host: CudaHost, user: str, upgraded: Any) -> None:
    assert host.run(f"kill -0 {user} && test -s /proc/{user}/fd/9 && ls /proc/{user}/cwd/nvcc").status == 0
    assert sorted(name.rsplit("-", 1)[0] for name in generations(host)) == [f"cuda-{OLD}", f"cuda-{NEW}"]


@pytest.fixture(scope="module")
def downgraded(lab: Any, host: CudaHost, wants: Any, upgraded: Any) -> Any:
    """The run back to the old release."""
    lab.server.forget_requests()
    return lab.provision(host, wants[OLD])


def test_the_way_back_needs_no_download(lab: Any, host: CudaHost, downgraded: Any) -> None:
    assert downgraded.status == 0, downgraded.output
    assert "archives" in steps_taken(downgraded.output, "solo")
    assert NVCC[OLD] in host.must("/usr/local/cuda/bin/nvcc --version")
    assert asked(lab, r"\.tar\.xz$") == []
    assert [name.rsplit("-", 1)[0] for name in generations(host)] == [f"cuda-{OLD}"]


def test_a_toolkit_without_its_compiler_is_mended(lab: Any, host: CudaHost, wants: Any, downgraded: Any) -> None:
    host.must(f"rm {LINK}/bin/nvcc")
    done = lab.provision(host, wants[OLD])
    assert done.status == 0, done.output
    done = host.compiles("/usr/local/cuda/bin/nvcc", "75")
    assert done.status == 0, done.output


def test_two_runs_at_once_do_not_harm_each_other(
    lab: Any, host: CudaHost, wants: Any, downgraded: Any, tmp_path: Path
) -> None:
    first = lab.start(host, wants[NEW], tmp_path)
    second = lab.provision(host, wants[NEW])
    output, _ = first.communicate(timeout=300)
    # Each of them succeeds, or says that the other one is at work.
    for status, text in ((first.returncode, output), (second.status, second.output)):
        assert status == 0 or "another" in text, text
        assert "Traceback" not in text, text
    assert 0 in (first.returncode, second.status), output + second.output
    assert all(generations(host).values()), generations(host)
    again = lab.provision(host, wants[NEW])
    assert recap(again.output, "solo")["changed"] == 0, again.output
