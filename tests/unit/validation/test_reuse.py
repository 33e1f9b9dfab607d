# SPDX-License-Identifier: Apache-2.0
"""When an earlier verdict is used again, and what makes the jobs run anew."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import reuse
from validation_lab import Lab

COUNTING = 'open(os.path.join(os.path.dirname(sys.argv[0]), "..", "jobs-run"), "a").write("x")'


def jobs_run(lab: Lab) -> int:
    path = lab.directory / "envs" / "torch" / "jobs-run"
    return len(path.read_text()) if path.exists() else 0


def managed(lab: Lab, **changes: Any) -> dict[str, Any]:
    (lab.directory / "envs/torch/lib/python3.11/site-packages/numpy-2.0.dist-info").mkdir(parents=True, exist_ok=True)
    return lab.environment("torch", COUNTING, **{"origin": "managed", "digest": "abc", **changes})


def edit(lab: Lab, change: Any) -> None:
    path = lab.base / "validation" / "verdict.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def proven(lab: Lab) -> Lab:
    """A lab whose host has a PASS already."""
    code, reply = lab.validate(environments=[managed(lab)])
    assert (code, reply["reused"], jobs_run(lab)) == (0, False, 1)
    return lab


def test_nothing_changed_nothing_runs(proven: Lab) -> None:
    before = proven.verdict()
    code, reply = proven.validate(environments=[managed(proven)])
    assert (code, reply["reused"], jobs_run(proven)) == (0, True, 1)
    after = proven.verdict()
    assert reply["document"] == after
    for key in ("run_id", "finished", "results", "numerics", "performance", "fingerprint", "verdict", "log_directory"):
        assert after[key] == before[key]
    assert [after["tiers"][number]["reused"] for number in "03456"] == [False, True, True, True, False]
    assert after["tiers"]["4"]["finished"] == before["tiers"]["4"]["finished"]


def test_what_only_looks_is_looked_at_in_every_run(proven: Lab) -> None:
    proven.write_facts(reboot={"required": True, "packages": ["linux-image-amd64"]})
    code, reply = proven.validate(environments=[managed(proven)])
    document = reply["document"]
    assert (code, reply["reused"], jobs_run(proven)) == (0, True, 1)
    assert document["verdict"]["status"] == "WARN"
    assert document["tiers"]["0"]["status"] == "WARN"
    proven.write_facts(reboot={"required": False, "packages": []})
    assert proven.validate(environments=[managed(proven)])[1]["document"]["verdict"]["status"] == "PASS"
    assert jobs_run(proven) == 1


def test_a_look_alone_keeps_a_proof_of_any_age_and_makes_none(proven: Lab) -> None:
    edit(proven, lambda document: document.update(finished="2020-01-01T00:00:00Z"))
    code, reply = proven.validate("--tiers", "0-2", environments=[managed(proven)])
    assert (code, reply["reused"], reply["document"]["finished"]) == (0, True, "2020-01-01T00:00:00Z")
    code, reply = proven.validate("--tiers", "0-2", environments=[managed(proven)], job_seed=8)
    assert (code, reply["reused"], jobs_run(proven)) == (2, False, 1)
    rows = [row for row in reply["document"]["checks"] if row["id"] == "mnist.train"]
    assert [(row["status"], row["reason_code"]) for row in rows] == [("UNKNOWN", "NOT_PROVEN")]
    assert "job parameters" in rows[0]["message"]


@pytest.mark.parametrize("words", ["3-4", "0-9", "all", ""])
def test_tiers_that_nobody_knows_are_refused(lab: Lab, words: str) -> None:
    code, reply = lab.validate("--tiers", words)
    assert (code, reply["error"]["reason_code"]) == (3, "SETTINGS")


def test_looks_do_not_take_away_the_logs_of_the_proof(proven: Lab) -> None:
    logs = Path(proven.verdict()["log_directory"])
    for _ in range(2):
        proven.validate("--tiers", "0-2", environments=[managed(proven)])
    assert sorted(path.name for path in logs.parent.iterdir()) == [logs.name]
    for number in range(15):
        (logs.parent / f"02{number:02}").mkdir()
    proven.validate("--tiers", "0-2", environments=[managed(proven)])
    assert (logs / "torch-pytorch.log").exists()


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"job_epochs": 11}, "job parameters"),
        ({"job_batch_size": 16}, "job parameters"),
        ({"job_mixed_precision": True}, "job parameters"),
        ({"job_seed": 8}, "job parameters"),
        ({"simulated": True}, "profile"),
        ({"mnist_source": "generated"}, "data set"),
        ({"mnist_host_dir": "", "mnist_mirrors": ["file:///nowhere"]}, "data set"),
        ({"missing_environments": [{"name": "jax", "reason": "x"}]}, "missing environments"),
        ({"job_policy": "always"}, "always"),
        ({"job_max_age_days": 0}, "older than"),
    ],
)
def test_what_makes_the_jobs_run_anew(proven: Lab, changes: dict[str, Any], because: str) -> None:
    time.sleep(1.1)  # so that the verdict is older than 0 days
    _, reply = proven.validate(environments=[managed(proven)], **changes)
    assert (reply["reused"], jobs_run(proven)) == (False, 2)
    assert because in reply["reason"]


@pytest.mark.parametrize(
    "changes",
    [{"digest": "abd"}, {"frameworks": {"pytorch": ""}}, {"origin": "existing"}, {"keras_backend": "torch"}],
    ids=str,
)
def test_a_changed_environment_runs_anew(proven: Lab, changes: dict[str, Any]) -> None:
    _, reply = proven.validate(environments=[managed(proven, **changes)])
    assert (reply["reused"], jobs_run(proven), reply["reason"]) == (False, 2, "changed: environment torch")


def test_a_package_that_was_added_behind_our_back(proven: Lab) -> None:
    (proven.directory / "envs/torch/lib/python3.11/site-packages/evil-1.0.dist-info").mkdir()
    assert proven.validate(environments=[managed(proven)])[1]["reason"] == "changed: environment torch"


def test_an_environment_that_was_switched_to_a_new_generation(proven: Lab) -> None:
    environments = proven.directory / "envs"
    (environments / "torch").rename(environments / "generation-2")
    (environments / "torch").symlink_to("generation-2")
    row = {"name": "torch", "python": str(environments / "torch/bin/python"), "frameworks": {"pytorch": "1.0"}}
    _, reply = proven.validate(environments=[{**row, "origin": "managed", "digest": "abc"}])
    assert reply["reason"] == "changed: environment torch"


def test_changed_programs_run_anew(proven: Lab) -> None:
    path = proven.programs / "jobs" / "mnist_pytorch.py"
    path.write_text(path.read_text() + "\n")
    assert proven.validate(environments=[managed(proven)])[1]["reason"] == "changed: validation programs"


def test_a_changed_given_file_runs_anew(proven: Lab) -> None:
    path = proven.given / "t10k-labels-idx1-ubyte.gz"
    path.write_text(path.read_text()[:-1] + "!")
    code, reply = proven.validate(environments=[managed(proven)])
    assert (code, reply["reason"]) == (2, "changed: data set")


def test_a_reboot_runs_anew(proven: Lab) -> None:
    edit(proven, lambda document: document["fingerprint_parts"].update({"boot of the host": "another"}))
    assert proven.validate(environments=[managed(proven)])[1]["reason"] == "changed: boot of the host"


@pytest.mark.parametrize("finished", ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "yesterday", None, 5])
def test_a_verdict_of_doubtful_age_is_not_used(proven: Lab, finished: Any) -> None:
    edit(proven, lambda document: document.update(finished=finished))
    assert proven.validate(environments=[managed(proven)])[1]["reused"] is False


@pytest.mark.parametrize("status", ["FAIL", "UNKNOWN", "SKIP", None])
def test_only_what_was_computed_well_is_used_again(proven: Lab, status: Any) -> None:
    def set_status(word: Any) -> None:
        def change(document: dict[str, Any]) -> None:
            next(row for row in document["checks"] if row["id"] == "num.repeat").update(status=word)

        edit(proven, change)

    set_status(status)
    assert proven.validate("--dry-run", environments=[managed(proven)])[1]["reused"] is False
    set_status("WARN")
    assert proven.validate("--dry-run", environments=[managed(proven)])[1]["reused"] is True


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"verdict": 5}', '{"verdict": {"status": "PASS"}}'])
def test_a_verdict_that_cannot_be_read_is_not_used(proven: Lab, content: str) -> None:
    (proven.base / "validation" / "verdict.json").write_text(content)
    code, reply = proven.validate(environments=[managed(proven)])
    assert (code, reply["reused"]) == (0, False)


def test_a_host_on_drawn_digits_does_not_ask_the_mirrors_again(lab: Lab, mirror: Any) -> None:
    changes = {"mnist_host_dir": "", "mnist_mirrors": [mirror.address]}
    assert lab.validate("--allow-plain-http", **changes)[1]["document"]["dataset"]["name"] == "generated"
    asked = len(mirror.requests)
    assert asked > 0
    assert lab.validate("--allow-plain-http", **changes)[1]["reused"] is True
    assert len(mirror.requests) == asked


def test_an_existing_interpreter_is_asked_what_it_has(lab: Lab) -> None:
    assert lab.validate()[1]["reused"] is False
    assert lab.validate()[1]["reused"] is True
    python = Path(lab.interpreter())
    program = python.read_text().replace("packages as on the first day", "one package more")
    row = lab.environment()
    python.write_text(program)
    assert lab.validate(environments=[row])[1]["reason"] == "changed: environment torch"


def test_an_existing_interpreter_that_does_not_answer_is_never_unchanged(lab: Lab) -> None:
    row = lab.environment()
    python = Path(row["python"])
    python.write_text(
        python.read_text().replace('print("packages as on the first day")\n    sys.exit()', "sys.exit(1)")
    )
    assert lab.validate(environments=[row])[0] == 0
    assert lab.validate(environments=[row])[1]["reused"] is False


def test_the_question_works_under_a_real_interpreter(tmp_path: Path) -> None:
    import subprocess
    import sys

    answers = {
        subprocess.run(
            [sys.executable, "-c", reuse.LIST_DISTRIBUTIONS], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 64


def test_a_dry_run_tells_and_changes_nothing(proven: Lab) -> None:
    before = sorted(proven.base.rglob("*"))
    code, reply = proven.validate("--dry-run", environments=[managed(proven, digest="new")])
    assert (code, reply["reused"], reply["would_run"]) == (0, False, ["torch/pytorch"])
    assert sorted(proven.base.rglob("*")) == before
    assert jobs_run(proven) == 1
    assert proven.validate("--dry-run", environments=[managed(proven)])[1]["reused"] is True


def test_a_library_that_was_lost_runs_anew(lab: Lab) -> None:
    row = managed(lab)
    library = lab.directory / "envs/torch/lib/python3.11/site-packages/torch/lib/libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    library.write_text("code")
    assert lab.validate(environments=[row])[0] == 0
    assert lab.validate("--dry-run", environments=[row])[1]["reused"] is True
    library.unlink()
    assert lab.validate("--dry-run", environments=[row])[1]["reason"] == "changed: environment torch"


def test_other_libraries_of_the_host_run_anew(proven: Lab) -> None:
    row = {"path": "/usr/lib/libcudnn.so.9", "version": "9.13.0", "kind": "library"}
    proven.write_facts(cudnn=[row])
    reply = proven.validate("--dry-run", environments=[managed(proven)])[1]
    assert reply["reason"] == "changed: CUDA and cuDNN of the host"


def test_an_environment_that_does_not_answer_is_unknown_and_starts_nothing(lab: Lab) -> None:
    (lab.programs / "probes" / "environment.py").write_text("import time\ntime.sleep(60)\n")
    runner = (lab.programs / "runner.py").read_text()
    (lab.programs / "runner.py").write_text(runner.replace("ASK_TIMEOUT = 60", "ASK_TIMEOUT = 1"))
    code, reply = lab.validate(environments=[managed(lab)])
    assert (code, jobs_run(lab)) == (2, 0)
    assert reply["document"]["verdict"]["reason_code"] == "NO_ANSWER"
    assert "does not answer" in reply["document"]["verdict"]["summary"]
