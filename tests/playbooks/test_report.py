# SPDX-License-Identifier: Apache-2.0
"""What is said of hosts that a run could not judge: nothing of an earlier run goes on speaking for them."""

from __future__ import annotations

import json
from pathlib import Path

from ansible_runs import recap
from conftest import Machine
from test_plan import lab, play, request

# Nothing listens on the port, so the connection is refused at once.
SILENT = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}


def earlier_pass(results: Path, host: str) -> None:
    """Leave the verdict of an earlier run."""
    results.mkdir(exist_ok=True)
    document = {"schema_version": "2.0", "run_id": "01EARLIER", "host": {"name": host}, "profile": "cpu"}
    document.update(simulated=False, checks=[], results=[], tiers={}, verdict={"status": "PASS", "label": "PASS"})
    (results / f"{host}.json").write_text(json.dumps(document))


def test_a_host_that_does_not_answer_is_named_and_failed_and_its_old_pass_withdrawn(
    machine: Machine, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    earlier_pass(results, "gone")
    inventory = lab(tmp_path, {"gone": SILENT}, gpu_stack={"profile": "cpu", **request()})
    for playbook in ("validate", "../site"):
        run = play(machine, playbook, inventory, gpulab_results_dir=str(results)).failed_with("gone", "UNKNOWN")
        assert recap(run.output, "gone")["failed"] == 1
        assert not (results / "gone.json").exists()
        assert "does not answer" in json.loads((results / "gone.plan.json").read_text())["no_verdict"]
        assert "does not answer" in (results / "report.html").read_text()


def test_without_a_report_to_follow_a_host_that_does_not_answer_is_unreachable(
    machine: Machine, tmp_path: Path
) -> None:
    inventory = lab(tmp_path, {"gone": SILENT}, gpu_stack={"profile": "cpu", **request()})
    for playbook in ("provision", "audit"):
        run = play(machine, playbook, inventory)
        assert run.code == 4, run.output
        assert recap(run.output, "gone")["unreachable"] == 1
