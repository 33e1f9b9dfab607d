# SPDX-License-Identifier: Apache-2.0
"""Hosts on which a toolkit cannot be made, or must not: each is told why in one message, and is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cuda_hosts import PLAYBOOKS, CudaHost, failure

#: Host -> what is mounted over its directories.
HOSTS: dict[str, tuple[str, ...]] = {
    "small": ("/opt/gpulab:size=120m,mode=755,exec",),
    "readonly": ("/usr/local:ro",),
    "noexec": ("/opt/gpulab:noexec,mode=755",),
    "taken": (),
    "taken13": (),
    "gone": (),
    "page": (),
    "other": (),
}
#: Host -> words that its message has.
MESSAGES = {
    "small": ["/opt/gpulab", "MiB"],
    "readonly": ["/usr/local", "read-only"],
    "noexec": ["/opt/gpulab", "noexec"],
    "taken": ["/usr/local/cuda", "not made by this project"],
    "taken13": ["/usr/local/cuda-13.0", "not made by this project"],
    "gone": ["the server has no such file", "cuda_cccl"],
    "page": ["redistrib_13.0.2.json"],
    "other": ["redistrib_13.0.1.json"],
}
#: Prepares a host as somebody else left it.
PREPARE = {
    "taken": "mkdir -p /usr/local/cuda/bin && echo mine >/usr/local/cuda/notes",
    "taken13": "mkdir -p /usr/local/cuda-13.0/lib64 && echo mine >/usr/local/cuda-13.0/lib64/libmine.so",
}


@pytest.fixture(scope="module")
def hosts(lab: Any) -> Iterator[dict[str, CudaHost]]:
    """The hosts, started and prepared."""
    started = {name: lab.host(name, "compiler", tmpfs=tmpfs) for name, tmpfs in HOSTS.items()}
    for name, command in PREPARE.items():
        started[name].must(command)
    yield started
    lab.server.heal()
    lab.bed.remove_machines([host.machine.name for host in started.values()])


@pytest.fixture(scope="module")
def variables(lab: Any) -> dict[str, dict[str, Any]]:
    """What is asked for on each: the same, but for where it comes from."""
    wanted = {name: lab.variables(["13.0.2"]) for name in HOSTS}
    # A second name of the same files, so that faults meet one host alone.
    for name in ("gone", "page"):
        (lab.server.root / name).symlink_to("redist")
        wanted[name]["cuda_toolkit_redist_url"] = lab.server.url(f"{name}/cuda")
    wanted["other"]["gpu_stack"]["cuda_toolkits"] = ["13.0.1"]
    lab.server.fault("^/gone/.*cuda_cccl", "404")
    lab.server.fault("^/page/.*json", "html")
    return wanted


@pytest.fixture(scope="module")
def before(hosts: Any) -> dict[str, dict[str, str]]:
    """Every file of the hosts."""
    return {name: host.files() for name, host in hosts.items()}


@pytest.fixture(scope="module")
def refusals(lab: Any, hosts: Any, variables: Any, before: Any) -> str:
    """What a run says of them all."""
    done = lab.play(PLAYBOOKS / "provision.yml", hosts, variables=variables)
    assert done.status == 2, done.output
    return str(done.output)


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_is_refused_with_the_reason(name: str, refusals: str) -> None:
    message = failure(refusals, name)
    assert [word for word in MESSAGES[name] if word not in message] == [], message


@pytest.mark.parametrize("name", HOSTS)
def test_nothing_is_visible_to_users_of_a_host_that_was_refused(
    name: str, hosts: Any, before: Any, refusals: str
) -> None:
    after = hosts[name].files()
    touched = [path for path in before[name].keys() | after.keys() if before[name].get(path) != after.get(path)]
    # What was fetched, and the note that something was begun, may stay for the next run.
    ours = ("/opt/gpulab/cache", "/var/lib/gpulab")
    assert [path for path in sorted(touched) if path != "/opt/gpulab" and not path.startswith(ours)] == []


def test_check_refuses_the_same_hosts(lab: Any, hosts: Any, variables: Any, refusals: str) -> None:
    # What only a download can show is not known before it: the archive that is missing.
    names = [name for name in HOSTS if name != "gone"]
    done = lab.play(PLAYBOOKS / "provision.yml", {name: hosts[name] for name in names}, "--check", variables=variables)
    failures = {name: failure(done.output, name) for name in names}
    wrong = {name: text for name, text in failures.items() if any(word not in text for word in MESSAGES[name])}
    assert wrong == {}
