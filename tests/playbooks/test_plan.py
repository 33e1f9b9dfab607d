# SPDX-License-Identifier: Apache-2.0
"""Plans of many hosts: from what hosts answer or the inventory declares, and what follows where there is none."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Machine, Run

HERE = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PASCAL = {"os": "ubuntu2204", "arch": "x86_64", "kernel": "5.15.0-100-generic", "gpus": ["GTX 1080 Ti"]}
VOLTA = {"os": "debian12", "arch": "x86_64", "kernel": "6.1.0-25-amd64", "gpus": ["Tesla V100 PCIe 16GB"]}
AMPERE = {"os": "debian12", "arch": "x86_64", "kernel": "6.1.0-25-amd64", "gpus": ["RTX 3090"], "python": "3.11"}
DECLARED = "(declared in the inventory, not seen on the host)"


def request(pytorch: Any = "newest", **wishes: Any) -> dict[str, Any]:
    """Return a request for one environment with PyTorch."""
    return {"environments": [{"name": "torch", "frameworks": {"pytorch": pytorch}}], **wishes}


def lab(directory: Path, hosts: dict[str, dict[str, Any]], **variables: Any) -> Path:
    """Write an inventory, its hosts in this order, and return its path."""
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"vars": variables, "hosts": hosts}}, sort_keys=False))
    return path


def play(machine: Machine, playbook: str, inventory: Path, *options: str, **variables: Any) -> Run:
    """Run one of the project's playbooks over an inventory."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, "-i", str(inventory), "-e", json.dumps(variables), *options]
    return machine.run([*command, str(ROOT / "playbooks" / f"{playbook}.yml")])


def counted(run: Run, what: str) -> dict[str, int]:
    """Return a number of the recap for every host that is not the control node: changed, say."""
    found = dict(re.findall(rf"^(\S+) +: ok=.*\b{what}=(\d+)", run.output, re.MULTILINE))
    assert found, run.output
    return {host: int(number) for host, number in found.items() if host != "localhost"}


def answers(path: Path) -> dict[str, Any]:
    """Read what plan.yml wrote."""
    return dict(json.loads(path.read_text()))


def drivers(path: Path) -> dict[str, str]:
    """Return the driver branch that each host would get."""
    return {host: answer["plan"]["driver"]["branch"] for host, answer in answers(path).items()}


def stand_in_ssh(directory: Path) -> str:
    """Return an ssh that reaches no host."""
    path = directory / "ssh"
    path.write_text('#!/bin/sh\necho "ssh: connect to host: No route to host" >&2\nexit 255\n')
    path.chmod(0o755)
    return str(path)


def test_the_lab_is_planned_without_asking_a_host_and_check_mode_gives_the_same(machine: Machine) -> None:
    written = machine.base.parent / "plan.json"
    wish: dict[str, Any] = {"plan_ask_hosts": False, "plan_output": str(written)}
    example = ROOT / "inventories" / "lab"
    hosts = {"gpu01", "gpu02", "gpu03", "gpu04", "gpu05", "gpu06", "login"}

    dry = play(machine, "plan", example, "--check", **wish).succeeded()
    assert "Gather facts" not in dry.output
    heads = re.findall(rf"^ +(.+) {re.escape(DECLARED)}: planned", dry.output, re.MULTILINE)
    assert {name for head in heads for name in head.split(", ")} == hosts
    assert "7 of 7 hosts can be planned" in dry.output
    told = answers(written)
    assert {host: (answer["status"], answer["facts"]) for host, answer in told.items()} == dict.fromkeys(
        hosts, ("planned", "declared")
    )
    assert all(answer["plan"]["environments"] for answer in told.values())
    assert sum(counted(dry, "changed").values()) == 1  # the file that was asked for

    again = play(machine, "plan", example, **wish).succeeded()
    assert set(counted(again, "changed").values()) == {0}
    assert answers(written) == told


def test_hosts_that_do_not_answer_are_planned_from_what_is_declared_or_refused(machine: Machine) -> None:
    written = machine.base.parent / "plan.json"
    inventory = lab(
        written.parent,
        {
            # First, because what is done once for all hosts is done in the name of the first.
            "down": {"gpu_host": AMPERE},
            "stranger": {},
            "bare": {**HERE, "ansible_python_interpreter": "/nonexistent/python3", "gpu_host": PASCAL},
            # It says of itself what it is, whatever was declared.
            "here": {**HERE, "gpu_stack": request(profile="cpu"), "gpu_host": {**AMPERE, "gpus": ["RTX 5090"]}},
        },
        gpu_stack=request(),
        ansible_connection="ssh",
        ansible_ssh_executable=stand_in_ssh(written.parent),
        # A lab's usual settings; planning must become nobody.
        ansible_become=True,
        ansible_become_user="nobody",
        ansible_become_exe="/nonexistent/sudo",
    )
    run = play(machine, "plan", inventory, plan_output=str(written))
    reason = r"Task failed: Failed to connect to the host via ssh: ssh: connect to host: No route to host"
    run.failed_with(
        f"stranger: nothing is known of this host: {reason}, and its inventory declares no gpu_host [host_unknown]",
        f"down {DECLARED}: planned",
        f"bare {DECLARED}: planned",
        "here: planned",
        "3 of 4 hosts can be planned; not: stranger",
    )
    assert f"fatal: [down]: UNREACHABLE! => changed: false msg: '{reason}'" in " ".join(run.output.split())
    told = answers(written)
    assert {host: (answer["status"], answer["facts"]) for host, answer in told.items()} == {
        "down": ("planned", "declared"),
        "stranger": ("conflict", "none"),
        "bare": ("planned", "declared"),
        "here": ("planned", "asked"),
    }
    assert told["stranger"]["plan"] is None
    assert "GeForce RTX 3090" in told["down"]["reasons"][0]["because"]
    assert "GeForce GTX 1080 Ti" in told["bare"]["reasons"][0]["because"]
    assert "the inventory declares" not in told["here"]["reasons"][0]["because"]
    assert "RTX 5090" not in json.dumps(told["here"])

    # A host that is down and planned is no failure.
    without = play(machine, "plan", inventory, "--limit", "!stranger", plan_output=str(written)).succeeded()
    assert "3 of 3 hosts can be planned" in without.output
    assert "stranger" not in answers(written)


def test_a_host_that_cannot_be_planned_is_named_with_what_would_make_it_possible(machine: Machine) -> None:
    written = machine.base.parent / "plan.json"
    wish = request({"version": "newest", "cuda": "cu130"}, profile="gpu")
    inventory = lab(written.parent, {"volta": {"gpu_host": VOLTA}, "ampere": {"gpu_host": AMPERE}}, gpu_stack=wish)
    run = play(machine, "plan", inventory, plan_ask_hosts=False, plan_output=str(written))
    run.failed_with(
        f"volta {DECLARED}: conflict",
        "conflict gpu_arch_vs_torch_wheel: PyTorch for cu130 is asked for (environment torch), but Tesla V100",
        "what would make it possible",
        f"ampere {DECLARED}: planned",
        "1 of 2 hosts can be planned; not: volta",
    )
    refusal = " ".join(run.output.split("FAILED! =>")[1].split())
    assert re.search(r"volta: .+ \[gpu_arch_vs_torch_wheel\]", refusal)
    assert "ampere: " not in refusal
    told = answers(written)
    assert told["ampere"]["status"] == "planned"
    assert told["volta"]["status"] == "conflict"
    assert told["volta"]["plan"] is None
    assert [conflict["id"] for conflict in told["volta"]["conflicts"]] == ["gpu_arch_vs_torch_wheel"]
    changes = [alternative["change"] for alternative in told["volta"]["alternatives"]]
    assert {"request.profile": "cpu"} in changes, changes
    assert "cu126" in str(changes), changes


def test_a_mistake_in_a_declaration_is_named_with_the_host(machine: Machine) -> None:
    hosts = {"fine": {"gpu_host": AMPERE}, "typo": {"gpu_host": {**PASCAL, "arhc": "x86_64"}}}
    inventory = lab(machine.base.parent, hosts, gpu_stack=request())
    run = play(machine, "plan", inventory, plan_ask_hosts=False)
    run.failed_with("typo: gpu_host.arhc: unknown key; did you mean 'arch'?")


def two_hosts(machine: Machine, **more: dict[str, Any]) -> tuple[Path, Path, Path]:
    """Return an inventory of two hosts, both this machine, the second of which cannot be planned, and their bases.

    Args:
        more: other hosts of the inventory, which come first.
    """
    good, bad = machine.base / "good", machine.base / "bad"
    jax = {"name": "jx", "python": PYTHON, "frameworks": {"jax": "newest"}}
    common = {"gpulab_scope": "user", "python_environment_free_mib": 1, "dl_frameworks_wheel_dir": str(machine.wheels)}
    hosts = more | {
        "good": {"gpu_stack": {"profile": "cpu", "environments": [jax]}, "gpulab_user_base_dir": str(good)},
        "bad": {"gpu_stack": request("==99.0", profile="cpu"), "gpulab_user_base_dir": str(bad)},
    }
    return lab(machine.base.parent, hosts, **HERE, **common), good, bad


def test_one_host_without_a_plan_keeps_all_hosts_of_the_run_as_they_are(machine: Machine) -> None:
    inventory, _, _ = two_hosts(machine)
    for options in ([], ["--check"]):
        run = play(machine, "provision", inventory, *options)
        run.failed_with(
            "bad: ",
            "99.0",
            "[unknown_release]",
            "Nothing was changed on any host.",
            "leave the host out with --limit",
            """-e '{"gpulab_go_on_without_unplannable": true}'""",
        )
        assert set(counted(run, "changed").values()) == {0}
        assert not machine.base.exists()


@pytest.mark.skipif(
    not (3, 11) <= sys.version_info[:2] <= (3, 14), reason=f"stand-in releases are not for Python {PYTHON}"
)
def test_the_others_are_provisioned_where_that_was_asked_for(machine: Machine) -> None:
    # To be changed a host must answer; one that is down is left out and keeps nobody.
    ssh = {"ansible_connection": "ssh", "ansible_ssh_executable": stand_in_ssh(machine.base.parent)}
    inventory, good, bad = two_hosts(machine, down={**ssh, "gpu_stack": request(), "gpu_host": AMPERE})
    run = play(machine, "provision", inventory, gpulab_go_on_without_unplannable=True)
    run.failed_with("bad: ", "[unknown_release]")
    assert counted(run, "failed") == {"down": 0, "good": 0, "bad": 1}
    assert counted(run, "unreachable") == {"down": 1, "good": 0, "bad": 0}
    manifest = json.loads((good / "envs/jx/environment.json").read_text())
    assert manifest["frameworks"] == {"jax": "0.7.2"}
    assert not bad.exists()


def test_one_driver_for_all_hosts(machine: Machine) -> None:
    written = machine.base.parent / "plan.json"
    hosts = {"pascal": {"gpu_host": PASCAL}, "ampere": {"gpu_host": AMPERE}}
    inventory = lab(written.parent, hosts, gpu_stack=request(profile="gpu"))
    wish: dict[str, Any] = {"plan_ask_hosts": False, "plan_output": str(written)}
    play(machine, "plan", inventory, **wish).succeeded()
    each = drivers(written)
    assert each["pascal"] == "580"
    assert int(each["ampere"]) > 580
    play(machine, "plan", inventory, **wish, gpulab_uniform_driver=True).succeeded()
    assert drivers(written) == {"pascal": "580", "ampere": "580"}


def test_rows_of_the_lab_reach_the_planner_and_mistakes_in_them_are_named(machine: Machine) -> None:
    written = machine.base.parent / "plan.json"
    card = {"name": "Lab Card", "pci": ["10de:ffff"], "architecture": "Ada", "compute_capability": "8.9"}
    own = {
        "gpus": {"products": [{**card, "class": "workstation", "source": ["our lab"]}]},
        # The release series whose build for CUDA 13.2 is chosen otherwise.
        "pytorch": {
            "wheels": [{"release": "2.15", "tag": "cu132", "cuda": "13.2", "sm": ["9.0"], "source": ["our lab"]}]
        },
    }
    inventory = lab(
        written.parent,
        {"ampere": {"gpu_host": AMPERE}, "own": {"gpu_host": {**AMPERE, "gpus": ["Lab Card"]}}},
        gpu_stack=request("==2.15.0", profile="gpu"),
        gpulab_compat_overlay=own,
    )
    wish: dict[str, Any] = {"plan_ask_hosts": False, "plan_output": str(written)}
    play(machine, "plan", inventory, **wish).succeeded()
    builds = {
        host: answer["plan"]["environments"][0]["frameworks"]["pytorch"]["wheel"]
        for host, answer in answers(written).items()
    }
    assert builds == {"ampere": "cu130", "own": "cu130"}

    without = play(machine, "plan", inventory, **wish, gpulab_compat_overlay={})
    without.failed_with("own: gpu_host.gpus[0]: ", "Lab Card")
    play(machine, "plan", inventory, "--limit", "ampere", **wish, gpulab_compat_overlay={}).succeeded()
    (answer,) = answers(written).values()
    assert answer["plan"]["environments"][0]["frameworks"]["pytorch"]["wheel"] == "cu132"

    bad = {"gpus": {"produkts": []}, "pytorch": {"wheels": [{**own["pytorch"]["wheels"][0], "sm": [9.0]}]}}
    mistakes = ("gpus.produkts: unknown key; did you mean 'products'?", "pytorch.wheels[0].sm[0]: ", "in quotes")
    play(machine, "plan", inventory, **wish, gpulab_compat_overlay=bad).failed_with(*mistakes)
    machine.provision(request(), gpulab_compat_overlay=bad).failed_with(*mistakes)
    assert not machine.base.exists()


def test_switches_given_as_words_are_understood(machine: Machine) -> None:
    inventory, _, _ = two_hosts(machine)
    run = play(machine, "provision", inventory, "--check", "-e", "gpulab_go_on_without_unplannable=false")
    run.failed_with("Nothing was changed on any host.")
    written = machine.base.parent / "plan.json"
    hosts = {"pascal": {"gpu_host": PASCAL}, "ampere": {"gpu_host": AMPERE}}
    inventory = lab(written.parent, hosts, gpu_stack=request(profile="gpu"))
    options = ("-e", "gpulab_uniform_driver=false", "-e", "plan_ask_hosts=false", "-e", f"plan_output={written}")
    play(machine, "plan", inventory, *options).succeeded()
    assert len(set(drivers(written).values())) == 2


def test_the_plans_are_written_where_the_person_is(machine: Machine) -> None:
    written = machine.base.parent / "here" / "plan.json"
    written.parent.mkdir()
    inventory = lab(machine.base.parent, {"ampere": {"gpu_host": AMPERE}}, gpu_stack=request())
    play(machine, "plan", inventory, plan_ask_hosts=False, plan_output="here/plan.json").succeeded()
    assert answers(written)["ampere"]["status"] == "planned"


def test_a_plan_from_a_declaration_says_why_the_host_could_not_be_asked(machine: Machine) -> None:
    bare = {**HERE, "ansible_python_interpreter": "/nonexistent/python3", "gpu_host": AMPERE}
    run = play(machine, "plan", lab(machine.base.parent, {"bare": bare}, gpu_stack=request())).succeeded()
    assert "/nonexistent/python3" in run.output
