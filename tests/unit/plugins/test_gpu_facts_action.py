# SPDX-License-Identifier: Apache-2.0
"""What the control node adds to gpu_facts, and that everything else of a task works as with a plain module."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fabricated_hosts
import pytest
from gpu_compat.tables import shipped

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def action() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpulab_gpu_facts_action", ROOT / "action_plugins/gpu_facts.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("device", "product", "capability"),
    [
        ("0x1b06", "GeForce GTX 1080 Ti", "6.1"),
        ("0x102d", "Tesla K80", "3.7"),
        ("0x2330", "H100 SXM5 80GB", "9.0"),
        ("0x2b85", "GeForce RTX 5090", "12.0"),
        ("0xFFFF", None, None),
        (None, None, None),
        ("", None, None),
    ],
)
def test_product_and_capability_or_null(action: ModuleType, device: Any, product: Any, capability: Any) -> None:
    named = action.named({"vendor": "0x10de", "device": device}, shipped())
    assert named == {"product": product, "compute_capability": capability}


def play(tmp_path: Path, tasks: list[dict[str, Any]], *options: str, hosts: str = "localhost,") -> tuple[int, str]:
    """Run tasks as a user does, and return status and output."""
    book = tmp_path / "play.yml"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    environment["ANSIBLE_DISPLAY_TRACEBACK"] = "never"
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", hosts, str(book), *options],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


LOCAL = ("-c", "local", "-e", f"ansible_python_interpreter={sys.executable}")


def check(that: list[str]) -> dict[str, Any]:
    return {"ansible.builtin.assert": {"that": that}}


def test_a_task_gives_facts_and_registers_also_in_check_mode(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fabricated_hosts.p100_and_a100(tree)
    fabricated_hosts.pci_function(tree, "0000:d0:00.0", "0x10de", "0xffff", "0x030000")
    that = [
        "not asked.changed",
        "not asked.failed | default(false)",
        "asked.ansible_facts.gpu_facts.gpus == ansible_facts['gpu_facts']['gpus']",
        "ansible_facts['gpu_facts']['schema'] == 2",
        "ansible_facts['gpu_facts']['simulated']",
        "ansible_facts['gpu_facts']['gpus'] | map(attribute='product') | list"
        " == ['Tesla P100 PCIe 16GB', 'A100 PCIe 40GB', none]",
        "ansible_facts['gpu_facts']['gpus'] | map(attribute='compute_capability') | list == ['6.0', '8.0', none]",
    ]
    tasks = [{"gpu_facts": {"root": str(tree)}, "register": "asked"}, check(that)]
    for options in (LOCAL, (*LOCAL, "--check")):
        status, output = play(tmp_path, tasks, *options)
        assert status == 0, output
        assert "changed=0" in output


def test_a_labs_own_rows_name_a_gpu_that_the_tables_do_not_know(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fabricated_hosts.pci_function(tree, "0000:01:00.0", "0x10de", "0xfffe", "0x030000")
    row = {"name": "{{ brand }} 9", "pci": ["10de:fffe"], "architecture": "Ada", "compute_capability": "8.9"}
    row |= {"class": "geforce", "source": ["the lab"]}
    known = shipped().rows("gpus.architectures")
    row["architecture"] = next(one["name"] for one in known if "8.9" in one["compute_capabilities"])
    overlay = {"gpus": {"products": [row]}}
    variables = {"brand": "Lab", "gpulab_compat_overlay": overlay}
    tasks = [
        {"gpu_facts": {"root": str(tree)}, "vars": variables},
        check(["ansible_facts['gpu_facts']['gpus'][0]['product'] == 'Lab 9'"]),
    ]
    status, output = play(tmp_path, tasks, *LOCAL)
    assert status == 0, output
    variables["gpulab_compat_overlay"] = {"gpus": {"prodcuts": []}}
    status, output = play(tmp_path, tasks, *LOCAL)
    assert status == 2, output
    assert "gpulab_compat_overlay cannot be used" in output
    assert "prodcuts" in output


def test_a_failure_is_the_modules_own_and_failed_when_decides(tmp_path: Path) -> None:
    task: dict[str, Any] = {"gpu_facts": {"base_dir": "relative"}, "register": "asked"}
    status, output = play(tmp_path, [task], *LOCAL)
    assert status == 2, output
    assert "gpulab_base_dir is 'relative'; write an absolute path" in output
    silent = {**task, "failed_when": "asked.failed | default(false) and not true"}
    status, output = play(tmp_path, [silent, check(["asked.msg is search('absolute path')"])], *LOCAL)
    assert status == 0, output
    status, output = play(tmp_path, [{"gpu_facts": {"no_such_option": 1}}], *LOCAL)
    assert status == 2, output
    assert "no_such_option" in output


def test_a_host_that_cannot_be_reached_is_unreachable_and_one_without_python_fails(tmp_path: Path) -> None:
    task = {"gpu_facts": {}}
    ssh = fabricated_hosts.write(tmp_path, "ssh", "#!/bin/sh\necho 'No route to host' >&2\nexit 255\n")
    ssh.chmod(0o755)
    status, output = play(tmp_path, [task], "-e", f"ansible_ssh_executable={ssh}", hosts="nowhere.invalid,")
    assert status == 4, output
    assert "UNREACHABLE" in output
    silent = {"gpu_facts": {}, "register": "asked", "failed_when": "asked.failed | default(false) and not true"}
    options = ("-c", "local", "-e", "ansible_python_interpreter=/nonexistent/python3")
    assert play(tmp_path, [task], *options)[0] == 2
    status, output = play(tmp_path, [silent, check(["asked.ansible_facts is not defined"])], *options)
    assert status == 0, output


def test_a_second_look_takes_over_where_files_are_and_who_logs_in(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fabricated_hosts.gtx_1080_ti(tree)
    first = {"root": str(tree), "scope": "user", "user_base_dir": str(tmp_path / "mine")}
    somebody = {"uid": 1000, "user": "ada", "home": "/home/ada", "root": True, "how": "sudo without a password"}
    that = [
        "ansible_facts['gpu_facts']['scope'] == 'user'",
        f"ansible_facts['gpu_facts']['base_dir'] == '{tmp_path}/mine'",
        "ansible_facts['gpu_facts']['privilege']['user'] == 'ada'",
        "ansible_facts['gpu_facts']['gpus'] | map(attribute='product') | list == ['GeForce GTX 1080 Ti']",
    ]
    tasks = [
        {"gpu_facts": {**first, "privilege": somebody}},
        {"gpu_facts": {"root": str(tree), "again": True}},
        check(that),
    ]
    status, output = play(tmp_path, tasks, *LOCAL)
    assert status == 0, output


def test_a_second_look_without_a_first_is_refused_in_words(tmp_path: Path) -> None:
    status, output = play(tmp_path, [{"gpu_facts": {"again": True}}], *LOCAL)
    assert status == 2, output
    assert "there are no facts of a first look" in output
