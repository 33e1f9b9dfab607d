# SPDX-License-Identifier: Apache-2.0
"""The metrics say what the verdict says, and no document makes a file that a collector would refuse."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import files
import pytest
import textfile
import validation_lab  # noqa: F401  puts the programs on the path
import verdict as verdict_module

GPU = "GPU-00000000-0000-0000-0000-000000000001"
SERIES = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+)$')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read metrics as strictly as a collector does: known types, each series once, no line that is none."""
    assert text.endswith("\n")
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    typed: set[str] = set()
    for line in text[:-1].split("\n"):
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            assert name not in typed
            assert kind == "gauge"
            typed.add(name)
            continue
        if line.startswith("# HELP "):
            continue
        match = SERIES.match(line)
        assert match, line
        assert match[1] in typed, line
        key = match[1], tuple(sorted(LABEL.findall(match[2] or "")))
        assert key not in found, line
        assert math.isfinite(float(match[3]))
        found[key] = float(match[3])
    return found


def value(text: str, name: str, /, **labels: str) -> float | None:
    """Return the value of the one series that has these labels among its own."""
    hits = [
        number
        for (metric, pairs), number in parse(text).items()
        if metric == f"gpulab_validation_{name}" and set(labels.items()) <= set(pairs)
    ]
    assert len(hits) < 2, hits
    return hits[0] if hits else None


def row(identity: str, target: str, status: str, **more: Any) -> dict[str, Any]:
    return {"id": identity, "target": target, "status": status, "required": True, "action": "none", **more}


def document(**changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "tool": verdict_module.TOOL,
        "run_id": "01J",
        "finished": "2026-11-20T03:30:00Z",
        "checked": "2026-11-24T03:30:00Z",
        "duration_s": 41.25,
        "host": {"name": "gpu07", "boot_id": "b0", "kernel": "6.1.0"},
        "profile": "gpu",
        "simulated": False,
        "gpu_validated": True,
        "observed": {
            "driver": {"module": "580.126.09"},
            "gpus": [{"uuid": GPU, "bdf": "0000:17:00.0", "name": "NVIDIA H100", "product": "H100 SXM5 80GB"}],
        },
        "checks": [row("num.fwd_bwd.fp32", f"torch/pytorch@{GPU}", "PASS"), row("xid", GPU, "WARN")],
        "tiers": {"2": {"name": "health", "status": "WARN", "duration_s": 0.5, "reused": False, "finished": None}},
        "results": [{"environment": "torch", "framework": "pytorch", "dataset": "mnist", "accuracy": 0.9689}],
        "performance": {"rows": [{"target": "t@g", "metric": "matmul_bf16", "unit": "TFLOP/s", "median": 700.5}]},
        "verdict": {"status": "WARN", "label": "WARN", "action": "none", "summary": "x"},
    }
    return {**answer, **changes}


def test_a_verdict_is_there_as_one_status_of_five() -> None:
    text = textfile.render(document())
    words = {word: value(text, "status", status=word) for word in ("PASS", "WARN", "UNKNOWN", "FAIL", "SKIP")}
    assert words == {"PASS": 0, "WARN": 1, "UNKNOWN": 0, "FAIL": 0, "SKIP": 0}
    assert value(text, "checked_timestamp_seconds") == 1795491000
    assert value(text, "finished_timestamp_seconds") == 1795491000 - 4 * 86400
    assert value(text, "gpu_validated") == 1
    assert value(text, "simulated") == 0
    assert value(text, "boot_info", boot_id="b0") == 1
    assert value(text, "info", host="gpu07", driver="580.126.09", profile="gpu") == 1
    assert value(text, "tier_status", tier="2", name="health", status="WARN") == 1
    assert value(text, "tier_status", tier="2", name="health", status="PASS") == 0
    assert value(text, "accuracy", framework="pytorch") == 0.9689
    assert value(text, "performance", metric="matmul_bf16", unit="TFLOP/s") == 700.5
    assert value(text, "checks", status="WARN") == 1
    assert value(text, "check_not_passed", id="xid", target=GPU, status="WARN") == 1


def test_a_gpu_has_the_worst_status_of_its_own_checks() -> None:
    assert value(textfile.render(document()), "gpu_status", gpu=GPU, status="WARN") == 1
    failed = document(checks=[row("num.repeat", f"a/b@{GPU}", "FAIL"), row("xid", GPU, "PASS")])
    assert value(textfile.render(failed), "gpu_status", gpu=GPU, status="FAIL") == 1
    others = document(checks=[row("xid", "GPU-another", "PASS"), row("xid", GPU, "SKIP", required=False)])
    assert value(textfile.render(others), "gpu_status", gpu=GPU, status="UNKNOWN") == 1


@pytest.mark.parametrize("status", [None, "", "pass", "OK", 1, ["PASS"], "PASS\n"])
def test_a_status_that_is_none_is_unknown(status: Any) -> None:
    broken = document(verdict={"status": status}, checks=[row("x", GPU, status)], tiers={"0": {"status": status}})
    text = textfile.render(broken)
    assert value(text, "status", status="UNKNOWN") == 1
    assert value(text, "status", status="PASS") == 0
    assert value(text, "checks", status="UNKNOWN") == 1
    assert value(text, "gpu_status", status="UNKNOWN") == 1
    assert value(text, "tier_status", status="UNKNOWN") == 1


def test_a_required_check_that_was_skipped_is_unknown() -> None:
    text = textfile.render(document(checks=[row("x", "host", "SKIP"), row("y", "host", "SKIP", required=False)]))
    assert (value(text, "checks", status="UNKNOWN"), value(text, "checks", status="SKIP")) == (1, 1)


def test_a_run_that_has_not_ended_is_no_pass_and_has_no_date() -> None:
    unfinished = verdict_module.unfinished(document(finished=None, checked=None), "UNFINISHED", "killed")
    text = textfile.render(unfinished)
    assert value(text, "status", status="UNKNOWN") == 1
    assert value(text, "checked_timestamp_seconds") == 0
    assert value(text, "gpu_validated") == 0


HOSTILE = 'a"b\\c\n# TYPE x counter\r\x00\u202e{} é\ud800'


def test_hostile_names_stay_inside_their_quotes() -> None:
    gpu = {"uuid": GPU, "name": HOSTILE, "bdf": HOSTILE, "product": "x" * 5000}
    hostile = document(observed={"gpus": [gpu]}, checks=[row(HOSTILE, HOSTILE, "FAIL", reason_code=HOSTILE)])
    hostile["host"] = {"name": HOSTILE}
    text = textfile.render(hostile)
    assert len(text.encode("utf-8")) < 20000
    names = {metric for metric, _ in parse(text)}
    assert all(name.startswith("gpulab_validation_") for name in names)
    assert value(text, "check_not_passed", status="FAIL") == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), "NaN", "0.9", None, True, 10**400, []])
def test_what_is_no_number_has_no_series(number: Any) -> None:
    results = [{"environment": "torch", "framework": "pytorch", "accuracy": number}]
    text = textfile.render(document(results=results, duration_s=number))
    assert value(text, "accuracy") is None
    assert value(text, "duration_seconds") is None


def test_the_same_series_twice_is_written_once_and_the_worst_stays() -> None:
    twice = [row("x", "host", "WARN"), row("x", "host", "FAIL"), row("x", "host", "FAIL")]
    gpus = [{"uuid": GPU, "bdf": "a"}, {"uuid": GPU, "bdf": "a"}, {"uuid": None}, {}]
    text = textfile.render(document(checks=twice, observed={"gpus": gpus}))
    assert value(text, "check_not_passed", id="x", status="FAIL") == 1
    assert value(text, "checks", status="FAIL") == 2


def test_very_many_failures_do_not_make_a_file_without_end() -> None:
    many = [row("x", f"gpu {number}", "WARN") for number in range(5000)] + [row("y", "host", "FAIL")]
    text = textfile.render(document(checks=many))
    assert len(text.splitlines()) < 400
    assert value(text, "check_not_passed", id="y") == 1  # the worst come first
    assert value(text, "checks", status="WARN") == 5000


@pytest.mark.parametrize(
    "broken", [{}, {"checks": None}, {"verdict": None}, {"tiers": []}, {"observed": {"gpus": ["x"]}}, {"host": "x"}]
)
def test_a_document_that_lacks_parts_is_still_told(broken: dict[str, Any]) -> None:
    text = textfile.render(broken)
    assert value(text, "status", status="UNKNOWN") == 1
    assert value(text, "status", status="PASS") == 0


def test_a_file_is_replaced_at_once_and_readable_for_all(tmp_path: Path) -> None:
    path = tmp_path / textfile.NAME
    old = os.umask(0o077)
    try:
        textfile.write(str(path), document())
        textfile.write(str(path), document())
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == [textfile.NAME]
    assert path.read_text(encoding="utf-8") == textfile.render(document())


def test_a_link_in_the_collectors_directory_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_text("secret")
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    for name in (textfile.NAME, f"{textfile.NAME}.{os.getpid()}.part"):
        (metrics / name).symlink_to(secret)
    textfile.write(str(metrics / textfile.NAME), document())
    assert secret.read_text() == "secret"
    assert not (metrics / textfile.NAME).is_symlink()


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / textfile.NAME
    path.write_text("old\n")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        textfile.write(str(path), document())
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [(textfile.NAME, "old\n")]
