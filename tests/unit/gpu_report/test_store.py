# SPDX-License-Identifier: Apache-2.0
"""What is kept in the directory of the results, and what is believed of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricated_lab
import pytest
from gpu_report import store

Make = Callable[..., dict[str, Any]]


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_a_verdict_is_written_once_and_a_second_run_changes_nothing(tmp_path: Path, document: Make) -> None:
    entry = {"gpu01": store.Entry(document(), {"host": "gpu01"})}
    assert store.save(tmp_path, entry) == (["gpu01.json", "gpu01.plan.json"], True)
    assert store.make(tmp_path) == ["junit.xml", "report.html"]
    assert store.save(tmp_path, entry) == ([], False)
    assert store.make(tmp_path) == []


def test_a_verdict_that_was_used_again_is_the_same_file(tmp_path: Path, document: Make) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document() | {"reused": False})})
    assert store.save(tmp_path, {"gpu01": store.Entry(document() | {"reused": True})}) == ([], False)
    assert "reused" not in json.loads((tmp_path / "gpu01.json").read_text())


def test_the_document_of_another_run_becomes_the_previous_one(tmp_path: Path, document: Make) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document(run_id="A"))})
    changed, news = store.save(tmp_path, {"gpu01": store.Entry(document(run_id="B"))})
    assert (changed, news) == (["previous/gpu01.json", "gpu01.json"], True)
    # The same run once more, with something added: what was before that run stays the previous one.
    store.save(tmp_path, {"gpu01": store.Entry(document(run_id="B", finished="later"))})
    host = store.read(tmp_path).hosts[0]
    assert host.previous
    assert host.document
    assert (host.previous["run_id"], host.document["finished"]) == ("A", "later")


def test_a_host_that_was_only_looked_at_again_is_no_news_and_its_file_is_newer(tmp_path: Path, document: Make) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document(checked="monday"), {"change": {"driver": 1}})})
    again = document(checked="tuesday")
    again["checks"][0]["measured"] = {"free": 1}
    again["tiers"]["0"]["duration_s"] = 99
    changed, news = store.save(tmp_path, {"gpu01": store.Entry(again, {"change": None})})
    assert (changed, news) == (["gpu01.json", "gpu01.plan.json"], False)
    again["checks"][0]["status"] = "WARN"
    changed, news = store.save(tmp_path, {"gpu01": store.Entry(again, {"change": None})})
    assert (changed, news) == (["previous/gpu01.json", "gpu01.json"], True)


def test_a_host_without_a_verdict_loses_its_file_and_is_unknown(tmp_path: Path, document: Make) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document(run_id="A"))})
    said = {"host": "gpu01", "no_verdict": "no route to host"}
    changed, news = store.save(tmp_path, {"gpu01": store.Entry(None, said)})
    assert news
    assert changed == ["previous/gpu01.json", "gpu01.json", "gpu01.plan.json"]
    assert names(tmp_path) == {"previous/gpu01.json", "gpu01.plan.json"}
    host = store.read(tmp_path).hosts[0]
    assert (host.name, host.status, host.why) == ("gpu01", "UNKNOWN", "no route to host")


def test_check_mode_says_what_would_change_and_changes_nothing(tmp_path: Path, document: Make) -> None:
    assert store.save(tmp_path / "new", {"gpu01": store.Entry(document())}, dry_run=True).files == ["gpu01.json"]
    assert not (tmp_path / "new").exists()
    store.save(tmp_path, {"gpu01": store.Entry(document())})
    before = names(tmp_path)
    wanted = ["previous/gpu01.json", "gpu01.json"]
    assert store.save(tmp_path, {"gpu01": store.Entry(None)}, dry_run=True) == (wanted, True)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    [
        "gpu01.lab.example",
        "gpu01.plan",
        "../escape",
        "/etc/passwd",
        ".hidden",
        "a b",
        "ä",
        "x" * 40,
        "..",
        ".",
        "%41",
        "A~",
    ],
)
def test_any_name_of_a_host_is_a_file_name_and_comes_back(tmp_path: Path, document: Make, name: str) -> None:
    directory = tmp_path / "results"
    store.save(directory, {name: store.Entry(document(), {"host": name})})
    assert names(tmp_path) == {f"results/{store.file_name(name)}.json", f"results/{store.file_name(name)}.plan.json"}
    assert [host.name for host in store.read(directory).hosts] == [name]
    assert not store.file_name(name).startswith(".")


def test_names_that_end_in_plan_are_not_taken_for_plans(tmp_path: Path, document: Make) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document(), {}), "gpu01.plan": store.Entry(document(), {})})
    assert [host.name for host in store.read(tmp_path).hosts] == ["gpu01", "gpu01.plan"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"PASS"', b"\xff\xfe", b"[" * 100_000, b"1" * 5000])
def test_a_file_that_is_no_verdict_is_unknown_and_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gpu01.json").write_bytes(content)
    host = store.read(tmp_path).hosts[0]
    assert host.status == "UNKNOWN"
    assert "gpu01.json" in host.why
    store.make(tmp_path)
    assert "gpu01.json" in (tmp_path / "report.html").read_text()


def test_a_link_that_leads_nowhere_is_no_host(tmp_path: Path) -> None:
    (tmp_path / "gpu01.json").symlink_to(tmp_path / "nothing")
    assert store.read(tmp_path).hosts == []


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "PASS"),
        ({"verdict": {"status": "PASS"}, "checks": []}, "UNKNOWN"),
        ({"verdict": {}}, "UNKNOWN"),
        ({"verdict": {"status": "SKIP"}}, "UNKNOWN"),
        ({"verdict": {"status": "fine"}}, "UNKNOWN"),
        ({"verdict": {"status": ["PASS"]}}, "UNKNOWN"),
        ({"verdict": None}, "UNKNOWN"),
        ({"checks": "none"}, "UNKNOWN"),
        ({"checks": [{"id": "x", "status": "FAIL"}]}, "FAIL"),
        ({"checks": [{"id": "x", "status": "SKIP", "required": True}]}, "UNKNOWN"),
        ({"checks": [{"id": "x", "status": "SKIP", "required": False}]}, "PASS"),
        ({"checks": [{"id": "x"}]}, "UNKNOWN"),
        ({"checks": [{"id": "x", "status": float("nan")}]}, "UNKNOWN"),
        ({"checks": [{"id": "x", "status": "PASS"}], "verdict": {"status": "FAIL"}}, "FAIL"),
    ],
)
def test_the_worse_of_verdict_and_checks_is_believed(document: Make, changes: dict[str, Any], status: str) -> None:
    assert store.Host("gpu01", document(**changes)).status == status


@pytest.mark.parametrize("value", [True, None, "false", 0, "missing"])
def test_a_document_that_does_not_say_it_is_real_is_taken_as_simulated(document: Make, value: Any) -> None:
    made = document(simulated=value)
    if value == "missing":
        del made["simulated"]
    assert store.Host("gpu01", made).simulated


def test_a_proven_host_is_real_has_gpus_and_says_that_they_were_validated(document: Make) -> None:
    real = {"simulated": False, "gpu_validated": True}
    assert store.Host("gpu01", document(**real)).proven
    assert not store.Host("gpu01", document(**real | {"simulated": True})).proven
    assert not store.Host("gpu01", document(**real | {"gpu_validated": "yes"})).proven
    assert not store.Host("gpu01", document("login", **real)).proven
    assert not store.Host("gpu01", document(**real, verdict={"status": "UNKNOWN"})).proven


def test_a_gpu_that_is_slower_than_its_equals_fails_its_host(tmp_path: Path, document: Make) -> None:
    kind = next(kind for kind in fabricated_lab.KINDS if kind.prefix == "hopper")
    entries = {f"gpu{index}": fabricated_lab.fabricate(f"gpu{index}", kind, index) for index in range(2)}
    fabricated_lab.slow(entries["gpu1"], 0.3)
    store.save(tmp_path, {name: store.Entry(made) for name, made in entries.items()})
    fast, slow = store.read(tmp_path).hosts
    assert (fast.status, slow.status) == ("PASS", "FAIL")
    assert fast.slow == ()
    assert {check["id"] for check in slow.checks if check["status"] == "FAIL"} == {"fleet.outlier"}
    assert "its own verdict: PASS" in slow.label
    assert slow.shown["verdict"]["label"] == slow.label


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, document: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document(run_id="A"))})
    before = (tmp_path / "gpu01.json").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(store.ReportError, match="No space left on device"):
        store.save(tmp_path, {"gpu01": store.Entry(document(run_id="A", finished="later"))})
    assert (tmp_path / "gpu01.json").read_bytes() == before
    assert names(tmp_path) == {"gpu01.json"}


def test_everybody_may_read_the_results(tmp_path: Path, document: Make) -> None:
    old = os.umask(0o077)
    try:
        store.save(tmp_path, {"gpu01": store.Entry(document())})
    finally:
        os.umask(old)
    assert (tmp_path / "gpu01.json").stat().st_mode & 0o777 == 0o644


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(store.ReportError, match="missing"):
        store.read(tmp_path / "missing")


def test_text_that_is_no_text_is_kept_as_json(tmp_path: Path, document: Make) -> None:
    store.save(tmp_path, {"gpu01": store.Entry(document(note="\ud800 " + fabricated_lab.HOSTILE))})
    assert json.loads((tmp_path / "gpu01.json").read_bytes())["note"].endswith(fabricated_lab.HOSTILE)
    store.make(tmp_path)
