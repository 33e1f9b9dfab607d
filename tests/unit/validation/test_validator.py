# SPDX-License-Identifier: Apache-2.0
"""The validator as a whole: what it prints, what it leaves behind, and that nothing turns into a PASS by accident."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import files
import pytest
import settings as settings_module
import validate
from validation_lab import Lab, status_of

RESULT_KEYS = {
    "environment", "framework", "version", "python", "keras_backend", "device", "device_name", "dataset", "accuracy",
    "seconds", "batch_size", "status", "note", "loss_curve",
}  # fmt: skip


def in_process(lab: Lab, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> validate.Validation:
    """Return a validation that runs here, so that a test can break something inside it."""
    monkeypatch.setattr(validate, "PROGRAMS", str(lab.programs))
    validation = validate.Validation(settings_module.check(lab.settings(**changes)))
    os.makedirs(validation.directory, exist_ok=True)
    return validation


# -- the ordinary way ------------------------------------------------------------------------------------------------


def test_a_host_that_passes(lab: Lab) -> None:
    tf = lab.environment("tf", frameworks={"tensorflow": "1.0", "keras": "1.0"}, keras_backend="tensorflow")
    code, reply = lab.validate(environments=[tf, lab.environment("torch")], host="gpu07")
    document = reply["document"]
    assert code == 0, document["verdict"]
    assert document["verdict"]["label"] == "PASS (cpu profile - no GPU claim)"
    assert document == lab.verdict()
    assert (document["schema_version"], document["host"]["name"], document["gpu_validated"]) == ("2.0", "gpu07", False)
    assert status_of(document, "mnist.train") == {"tf/tensorflow": "PASS", "tf/keras": "PASS", "torch/pytorch": "PASS"}
    assert status_of(document, "mnist.device") == status_of(document, "mnist.train")
    assert [(row["environment"], row["framework"]) for row in document["results"]] == [
        ("tf", "tensorflow"), ("tf", "keras"), ("torch", "pytorch"),
    ]  # fmt: skip
    assert all(set(row) == RESULT_KEYS for row in document["results"])
    assert [row["keras_backend"] for row in document["results"]] == [None, "tensorflow", None]
    assert document["results"][0]["accuracy"] == 0.97
    assert document["dataset"]["name"] == "mnist"
    assert document["self_test"]["required_checks_missing"] == []


def test_drawn_digits_are_named_everywhere(lab: Lab) -> None:
    code, reply = lab.validate(mnist_host_dir="", mnist_source="generated")
    document = reply["document"]
    assert code == 0
    assert document["dataset"]["name"] == "generated"
    assert "not MNIST" in document["dataset"]["title"]
    assert document["results"][0]["dataset"] == "generated"
    assert any("generated" in row["message"] for row in document["checks"] if row["id"] == "mnist.train")


def test_keras_gets_the_backend_of_its_environment(lab: Lab) -> None:
    body = 'result["keras_backend"] = os.environ.get("KERAS_BACKEND")'
    row = lab.environment("k", body, frameworks={"keras": "1.0", "pytorch": "1.0"})
    _, reply = lab.validate(environments=[row])
    assert {r["framework"]: r["keras_backend"] for r in reply["document"]["results"]} == {
        "keras": "torch",
        "pytorch": None,
    }


def test_jobs_get_a_clean_environment_and_their_own_directory(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("GPULAB_SECRET", "x")
    body = (
        'result["device_name"] = json.dumps([dict(os.environ), os.getcwd(), os.access(os.environ["HOME"], os.W_OK)])\n'
    )
    body += 'open(os.path.join(os.path.dirname(sys.argv[0]), "..", "seen.json"), "w").write(result["device_name"])'
    code, _ = lab.validate(environments=[lab.environment("torch", body)])
    assert code == 0
    environment, directory, writable = json.loads((lab.directory / "envs/torch/seen.json").read_text())
    assert not {"PYTHONPATH", "GPULAB_SECRET"} & set(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert {environment[name] for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")} == {directory}
    assert writable
    assert not Path(directory).exists()  # and it is gone afterwards


def test_missing_optional_environments_are_a_warning(lab: Lab) -> None:
    code, reply = lab.validate(missing_environments=[{"name": "jax", "reason": "no source has jax"}])
    assert code == 0
    assert reply["document"]["verdict"]["label"] == "WARN (cpu profile - no GPU claim)"
    assert status_of(reply["document"], "environment.available") == {"jax": "WARN"}
    assert lab.validate("--strict", "--always", missing_environments=[{"name": "jax", "reason": "x"}])[0] == 1


def test_simulated_hosts_say_so(lab: Lab) -> None:
    _, reply = lab.validate(simulated=True)
    assert reply["document"]["simulated"] is True
    assert reply["document"]["verdict"]["label"].endswith("[simulated]")


# -- nothing proven --------------------------------------------------------------------------------------------------


def test_only_missing_environments_prove_nothing(lab: Lab) -> None:
    config = {"environments": [], "missing_environments": [{"name": "jax", "reason": "x"}]}
    code, reply = run_with(lab, config)
    assert code == 2
    assert reply["document"]["verdict"]["status"] == "UNKNOWN"


def test_no_environment_is_not_applicable(lab: Lab) -> None:
    code, reply = run_with(lab, {"environments": []})
    assert code == 77
    assert reply["document"]["verdict"]["status"] == "SKIP"
    assert run_with(lab, {"environments": []})[0] == 77


def run_with(lab: Lab, config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    command = lab.command()
    path = Path(command[-1])
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


# -- jobs that go wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ('result["accuracy"] = float("nan")', 1, "accuracy is nan"),
        ('result["accuracy"] = 0.5', 1, "below 0.95"),
        ('result["loss_curve"] = [0.1, float("inf")]', 1, "did not fall"),
        ('result["result_devices"] = ["cpu:0", "cuda:0"]', 1, "cpu was asked for"),
        ('del result["result_devices"]', 1, "no device"),
        ('result = {"error": {"reason_code": "NO_GPU", "message": "no GPU\\nhere"}}', 1, "no GPU here"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 1, "signal 11"),
        ("sys.exit(0)", 2, "left no result"),
        ('print("OSError: [Errno 28] No space left on device"); sys.exit(1)', 2, "No space left"),
        ('open(option("--result"), "w").write("{half"); sys.exit(0)', 2, "result"),
        ('open(option("--result"), "w").write("[1]"); sys.exit(0)', 2, "does not hold a JSON object"),
        ('open(option("--result"), "w").write("x" * 2000000); sys.exit(0)', 2, "plain file"),
        ('os.symlink("/etc/passwd", option("--result")); sys.exit(0)', 2, "cannot be read"),
        ('os.mkfifo(option("--result")); sys.exit(0)', 2, "plain file"),
    ],
)
def test_jobs_that_go_wrong(lab: Lab, body: str, code: int, words: str) -> None:
    seen, reply = lab.validate(environments=[lab.environment("torch", body)])
    verdict = reply["document"]["verdict"]
    assert (seen, verdict["status"]) == (code, {1: "FAIL", 2: "UNKNOWN"}[code])
    assert words in verdict["summary"]
    assert words in reply["document"]["results"][0]["note"]


def test_one_bad_environment_does_not_hide_the_others(lab: Lab) -> None:
    bad = lab.environment("bad", "sys.exit(3)")
    gone = {**lab.environment("gone"), "python": "/nonexistent/bin/python"}
    code, reply = lab.validate(environments=[bad, gone, lab.environment("good")])
    assert code == 1
    assert {row["environment"]: row["status"] for row in reply["document"]["results"]} == {
        "bad": "UNKNOWN", "gone": "FAIL", "good": "PASS",
    }  # fmt: skip
    assert "/nonexistent/bin/python cannot be started" in reply["document"]["verdict"]["summary"]


def test_a_framework_of_another_version_than_planned(lab: Lab) -> None:
    managed = {"origin": "managed", "digest": "abc"}
    code, reply = lab.validate(environments=[lab.environment("torch", frameworks={"pytorch": "2.0"}, **managed)])
    assert code == 1
    assert status_of(reply["document"], "environment.version") == {"torch/pytorch": "FAIL"}
    body = 'result["version"] = "2.0+cpu"'
    assert lab.validate(environments=[lab.environment("torch", body, frameworks={"pytorch": "2.0"}, **managed)])[0] == 0


def test_a_job_that_outlives_its_time_and_ignores_term(lab: Lab) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(120)"
    started = time.monotonic()
    code, reply = lab.validate(environments=[lab.environment("torch", body)], job_timeout=1)
    assert code == 1
    assert time.monotonic() - started < 60
    assert [row["reason_code"] for row in reply["document"]["checks"] if row["id"] == "mnist.train"] == ["TIMEOUT"]


def test_hostile_strings_do_not_break_anything(lab: Lab) -> None:
    body = 'result["device_name"] = result["version"] = "a\\nb\\x1b[31m\\"\\u202e\\ud800" + "x" * 5000\n'
    body += 'result["notes"] = ["{{ 1 + 1 }}\\r\\n", 5, None]\nos.write(1, bytes(range(256)) * 10)'
    body += '\nresult["batch_size"] = 10**400\nresult["model_bytes"] = {"a": ["b"] * 1000}'
    code, reply = lab.validate(environments=[lab.environment("torch", body)])
    row = reply["document"]["results"][0]
    assert code == 0
    assert "\\ud8" not in json.dumps(reply)  # a lone surrogate would break whoever writes it as UTF-8
    assert row["batch_size"] is None
    assert row["device_name"].startswith('a b [31m"')
    assert len(row["device_name"]) == 80
    assert "\n" not in row["note"]
    assert lab.verdict() == reply["document"]


def test_gpu_profile_without_a_gpu_fails_and_starts_no_job(lab: Lab) -> None:
    body = 'open("{}", "w")'.format(lab.directory / "started")
    code, reply = lab.validate(environments=[lab.environment("torch", body)], profile="gpu")
    document = reply["document"]
    assert code == 1
    assert "the PCI bus shows no NVIDIA GPU" in document["verdict"]["summary"]
    assert document["gpu_validated"] is False
    assert not (lab.directory / "started").exists()
    rows = {row["id"]: row for row in document["checks"]}
    assert (rows["mnist.train"]["status"], rows["mnist.train"]["reason_code"]) == ("UNKNOWN", "BLOCKED")
    assert rows["gpu.proof"]["status"] == "UNKNOWN"
    assert {number: tier["status"] for number, tier in document["tiers"].items()}["4"] == "UNKNOWN"


# -- UNKNOWN until the end -------------------------------------------------------------------------------------------


def start(lab: Lab, body: str) -> subprocess.Popen[str]:
    """Start a validation whose job waits, and return once the job runs."""
    running = lab.directory / "running"
    body = f"open({str(running)!r}, 'w').write(str(os.getpid()))\n{body}\ntime.sleep(120)"
    command = lab.command("--always", environments=[lab.environment("torch", body)])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (running.exists() and running.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    return process


def test_a_killed_validator_leaves_unknown_and_no_job(lab: Lab) -> None:
    assert lab.validate()[0] == 0
    assert lab.verdict()["verdict"]["status"] == "PASS"
    process = start(lab, "")
    assert lab.verdict()["verdict"]["status"] == "UNKNOWN"  # already while it works
    process.kill()
    process.communicate(timeout=20)
    assert lab.verdict()["verdict"]["status"] == "UNKNOWN"
    scratch = Path((lab.base / "validation" / "scratch").read_text())
    assert scratch.is_dir()
    job = int((lab.directory / "running").read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{job}").exists() and "Z" not in Path(f"/proc/{job}/stat").read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{job}").exists() or " Z " in Path(f"/proc/{job}/stat").read_text()
    assert lab.validate()[0] == 0  # the lock went with it
    assert not scratch.exists()  # and its directory is not left lying about


def test_a_validator_that_is_told_to_stop_says_unknown(lab: Lab) -> None:
    process = start(lab, "")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in errors
    assert json.loads(output)["document"]["verdict"]["reason_code"] == "INTERRUPTED"
    assert lab.verdict()["verdict"]["status"] == "UNKNOWN"


def test_a_second_validator_is_refused(lab: Lab) -> None:
    process = start(lab, "")
    before = lab.verdict()
    code, reply = lab.validate("--always")
    after = lab.verdict()
    process.terminate()
    process.communicate(timeout=60)
    assert code == 4
    assert f"pid {process.pid}" in reply["error"]["message"]
    assert after == before


def test_an_error_of_the_validator_itself_is_unknown(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = in_process(lab, monkeypatch)
    monkeypatch.setattr(validation, "_self_test", lambda: 1 / 0)
    document = validation.run()["document"]
    assert document["verdict"]["status"] == "UNKNOWN"
    assert "ZeroDivisionError" in document["verdict"]["summary"]
    assert lab.verdict()["verdict"]["status"] == "UNKNOWN"
    assert "Traceback" in Path(validation.runner.run_directory, "internal-error.log").read_text()


def test_gates_that_do_not_hold_fail_the_host(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = in_process(lab, monkeypatch)
    monkeypatch.setattr(validate.gates, "self_test", lambda _: {"nan_accuracy_rejected": False})
    document = validation.run()["document"]
    assert document["verdict"]["status"] == "FAIL"
    assert "nan_accuracy_rejected" in document["verdict"]["summary"]


def test_a_job_whose_checks_were_lost_is_unknown(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = in_process(lab, monkeypatch)
    monkeypatch.setattr(validate.mnist_jobs._Run, "_job", lambda *_: [])
    document = validation.run()["document"]
    assert document["verdict"]["status"] == "UNKNOWN"
    assert document["self_test"]["required_checks_missing"] == [
        "mnist.train torch/pytorch",
        "mnist.device torch/pytorch",
    ]


@pytest.mark.parametrize("succeeding_writes", [0, 1])
def test_a_full_disk_never_leaves_an_old_pass(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, succeeding_writes: int
) -> None:
    """At 0 not even UNKNOWN can be written, at 1 the final verdict cannot."""
    assert lab.validate()[0] == 0
    validation = in_process(lab, monkeypatch, job_policy="always")
    real, calls = files.write_atomically, []

    def write(path: str, content: bytes, mode: int = 0o644) -> None:
        if path == validation.verdict_path:
            calls.append(path)
            if len(calls) > succeeding_writes:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content, mode)

    monkeypatch.setattr(files, "write_atomically", write)
    document = validation.run()["document"]
    assert document["verdict"]["status"] == "UNKNOWN"
    assert "No space left on device" in document["verdict"]["summary"]
    left = lab.base / "validation" / "verdict.json"
    assert not left.exists() or json.loads(left.read_text())["verdict"]["status"] == "UNKNOWN"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can mount a small file system")
def test_a_really_full_disk(lab: Lab) -> None:
    lab.base.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", lab.base], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        assert lab.validate()[0] == 0
        free = os.statvfs(lab.base)
        (lab.base / "filler").write_bytes(b"x" * free.f_bavail * free.f_frsize)
        code, reply = lab.validate("--always")
        assert code in (2, 3)
        assert "No space left on device" in json.dumps(reply)
        left = lab.base / "validation" / "verdict.json"
        assert not left.exists() or json.loads(left.read_text())["verdict"]["status"] == "UNKNOWN"
    finally:
        subprocess.run(["umount", lab.base], check=True)


def test_the_verdict_is_never_half_written(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lab.directory / "verdict.json"
    files.write_atomically(str(path), b"old")

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="I/O error"):
        files.write_atomically(str(path), b"new and longer")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in lab.directory.iterdir() if "part" in entry.name] == []


def test_a_given_file_that_is_damaged_is_named_in_the_verdict(lab: Lab) -> None:
    (lab.given / "train-images-idx3-ubyte.gz").write_text("<html>log in")
    code, reply = lab.validate()
    assert code == 2
    assert str(lab.given / "train-images-idx3-ubyte.gz") in reply["document"]["verdict"]["summary"]
    assert reply["document"]["results"][0]["status"] == "UNKNOWN"


# -- the command line ------------------------------------------------------------------------------------------------


def test_mistakes_in_the_settings_come_all_at_once(lab: Lab) -> None:
    code, reply = lab.validate(
        proflie="gpu", profile="cpu ", job_epochs="10", base_dir="relative", mnist_source="web",
        environments=[{"name": "a/b", "python": "python3", "frameworks": {"torch": "1"}, "digset": ""}],
    )  # fmt: skip
    assert code == 3
    problems = " | ".join(reply["error"]["problems"])
    for words in ("proflie is unknown; did you mean profile?", "profile is 'cpu '", "job_epochs is '10'", "base_dir",
                  "mnist_source is 'web'", "environments[0].name", "environments[0].python",
                  "frameworks.torch is unknown", "digset is unknown; did you mean digest?"):  # fmt: skip
        assert words in problems
    assert not lab.base.exists()


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_settings_that_cannot_be_read(lab: Lab, content: str | None) -> None:
    command = lab.command()
    path = Path(command[-1])
    path.unlink() if content is None else path.write_text(content)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["message"].startswith(str(path))
    assert done.stderr == ""


def test_wrong_options_are_wrong_settings_not_unknown(lab: Lab) -> None:
    done = subprocess.run([*lab.command(), "--nonsense"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    help_text = subprocess.run(
        [sys.executable, "-B", str(lab.programs / "validate.py"), "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "Exit status: 0 PASS or WARN" in help_text


def test_a_base_directory_that_cannot_be_written(lab: Lab) -> None:
    lab.base.write_text("a file where the directory should be")
    code, reply = lab.validate()
    assert code == 3
    assert f"{lab.base}/validation cannot be used: Not a directory" in reply["error"]["message"]


def test_nothing_is_written_beside_the_programs(lab: Lab) -> None:
    before = sorted(lab.programs.rglob("*"))
    lab.validate()
    assert sorted(lab.programs.rglob("*")) == before


def test_everybody_may_read_whatever_the_umask_is(lab: Lab) -> None:
    command = lab.command(mnist_source="generated")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, umask=0o077, timeout=60)
    modes = {path: path.stat().st_mode & 0o777 for path in lab.base.rglob("*")}
    assert set(modes.values()) == {0o644, 0o755}


def test_old_runs_are_removed(lab: Lab) -> None:
    for number in range(15):
        (lab.base / "validation" / "runs" / f"00{number:02}").mkdir(parents=True)
    lab.validate()
    assert len(list((lab.base / "validation" / "runs").iterdir())) == validate.runner_module.KEPT_RUNS
