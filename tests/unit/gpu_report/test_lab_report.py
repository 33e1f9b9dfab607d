# SPDX-License-Identifier: Apache-2.0
"""The action that takes a run's verdicts and makes the report, as playbooks use it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import fabricated_lab
import pytest

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def action() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpulab_lab_report", ROOT / "action_plugins" / "lab_report.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tmp_path: Path, book: Path, verdicts: dict[str, Any], *options: str) -> tuple[int, str]:
    """Run a playbook on hosts of which nobody is asked; return status and output."""
    inventory = tmp_path / "hosts.yml"
    hosts = {name: {"ansible_connection": "local", **variables} for name, variables in verdicts.items()}
    # What hosts say is no template in a real run; in an inventory that has to be said.
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}).replace('"No route', '!unsafe "No route'))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, "-i", str(inventory), str(book), "-e", f"gpulab_results_dir={tmp_path / 'results'}", *options],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


STAGE, AGAIN = ROOT / "playbooks" / "stages" / "report.yml", ROOT / "playbooks" / "report.yml"
CHANGE = {"driver": None, "cuda_toolkit": None, "cudnn": None, "environments": []}


def test_a_run_leaves_verdicts_and_report_and_the_next_one_changes_nothing(tmp_path: Path, document: Make) -> None:
    facts = {
        "gpu_facts": {"os": {"name": "Debian"}, "kernel": "6.1", "gpus": [{"bus": "0000:17:00.0", "product": "X"}]}
    }
    lab = {
        "gpu01": {
            "validation_verdict": document(reused=True),
            "gpulab_plan": {"profile": "gpu"},
            "ansible_facts": facts,
        },
        "gpu02": {"__gpulab_asked": {"unreachable": True, "msg": "No route to host {{ 7 * 7 }}"}},
    }
    code, output = run(tmp_path, STAGE, lab)
    assert code == 2, output
    assert "gpu02 is not proven" in output
    assert "gpu01 is not proven" not in output
    assert "proven at 2026-11-20" in output
    assert "UNKNOWN (no verdict)" in output
    said = " ".join(output.split())
    assert "gpu02: UNKNOWN - No route to host {{ 7 * 7 }}" in said
    # The last message names what is there: a host without a verdict has no JSON.
    assert "gpu02 is not proven: UNKNOWN - No route to host {{ 7 * 7 }}. More: the report, " in said
    assert "gpu02.json" not in said
    results = tmp_path / "results"
    names = {"gpu01.json", "gpu01.plan.json", "gpu02.plan.json", "junit.xml", "report.html"}
    assert {path.name for path in results.iterdir()} == names
    assert "reused" not in json.loads((results / "gpu01.json").read_text())
    assert json.loads((results / "gpu02.plan.json").read_text())["no_verdict"] == "No route to host {{ 7 * 7 }}"
    plan = json.loads((results / "gpu01.plan.json").read_text())
    assert plan["plan"] == {"profile": "gpu"}

    lab["gpu01"]["validation_verdict"] = document(reused=True, checked="later")
    code, output = run(tmp_path, STAGE, lab)
    assert "later" in (results / "gpu01.json").read_text()
    assert "changed=0" in output.partition("PLAY RECAP")[2].splitlines()[1]

    code, output = run(tmp_path, AGAIN, lab)
    assert code == 0, output
    assert "gpu02" in output
    (results / "report.html").unlink()
    assert "changed=1" in run(tmp_path, AGAIN, lab)[1]
    assert (results / "report.html").exists()


def test_a_host_that_failed_says_why_and_where_its_verdict_is(tmp_path: Path, document: Make) -> None:
    bad = document()
    fabricated_lab.spoil(bad, "row_remap", "FAIL", "rows wait for a reset", "PENDING", "reset_gpu")
    code, output = run(tmp_path, STAGE, {"gpu/01": {"validation_verdict": fabricated_lab.settle(bad)}})
    assert code == 2, output
    said = " ".join(output.split())
    assert "gpu/01 is not proven: FAIL - row_remap: rows wait for a reset. More: the report, " in said
    assert f"and {tmp_path / 'results' / 'gpu%2F01.json'}" in said
    assert (tmp_path / "results" / "gpu%2F01.json").exists()


def test_all_hosts_that_passed_end_the_run_well(tmp_path: Path, document: Make) -> None:
    code, output = run(tmp_path, STAGE, {name: {"validation_verdict": document()} for name in ("gpu01", "gpu02")})
    assert code == 0, output
    assert str(tmp_path / "results" / "report.html") in " ".join(output.split())


def test_check_mode_writes_nothing(tmp_path: Path, document: Make) -> None:
    variables = {"validation_verdict": document(), "gpulab_change": CHANGE}
    code, output = run(tmp_path, STAGE, {"gpu01": variables}, "--check")
    assert code == 0, output
    book = tmp_path / "book.yml"
    tasks = [{"lab_report": {"results_dir": str(tmp_path / "results")}, "register": "said", "run_once": True}]
    tasks.append({"ansible.builtin.assert": {"that": ["said is changed", "'gpu01.json' in said.changed_files"]}})
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    code, output = run(tmp_path, book, {"gpu01": variables, "gpu02": {}}, "--check")
    assert code == 0, output
    assert not (tmp_path / "results").exists()


def test_a_directory_without_verdicts_is_no_report(tmp_path: Path) -> None:
    code, output = run(tmp_path, AGAIN, {"gpu01": {}})
    assert code == 2
    assert "the report cannot be made" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"__gpulab_failed": "Build environments: no space"}, "Build environments: no space"),
        ({"__gpulab_asked": {"msg": "No route to host"}}, "No route to host"),
        ({}, "it was not asked"),
        ({"ansible_facts": {"gpu_facts": {"kernel": "6.1"}}}, "the run ended on this host before it was judged"),
        (
            {"__gpulab_answers": {"gpu01": {"status": "conflict", "conflicts": [{"message": "too old"}]}}},
            "it cannot be planned: too old",
        ),
    ],
)
def test_a_host_without_a_verdict_has_a_reason(action: ModuleType, known: dict[str, Any], said: str) -> None:
    assert action.plan_file("gpu01", known, None)["no_verdict"].startswith(said)


def test_the_plan_file_holds_what_the_page_shows(action: ModuleType, document: Make) -> None:
    answer = {"status": "planned", "plan": {"profile": "gpu"}, "reasons": [{"about": "driver"}], "warnings": ["w"]}
    facts = {
        "os": {"name": "Debian"},
        "kernel": "6.1",
        "simulated": True,
        "gpus": [{"bus": "b", "product": "p", "x": 1}],
    }
    known = {"__gpulab_answers": {"gpu01": answer}, "ansible_facts": {"gpu_facts": facts}, "gpulab_change": CHANGE}
    file = action.plan_file("gpu01", known, document())
    assert file["plan"] == {"profile": "gpu"}
    assert file["reasons"] == [{"about": "driver"}]
    assert file["gpus"] == [{"bus": "b", "product": "p", "compute_capability": None}]
    assert (file["os"], file["kernel"], file["simulated"], file["no_verdict"]) == ("Debian", "6.1", True, "")
