# SPDX-License-Identifier: Apache-2.0
"""The page as text: what may stand in it, and what it may say of a lab. How it looks and works: tests/page."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricated_lab
import pytest
from fabricated_lab import HOSTILE
from gpu_report import charts, page, store
from gpu_report.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[..., dict[str, Any]]
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Reader(html.parser.HTMLParser):
    """Notes elements and attributes, and that every element that was opened was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def hosts(*documents: Any, **more: Any) -> list[store.Host]:
    return [store.Host(f"gpu{index}", made, **more) for index, made in enumerate(documents)]


REAL = {"simulated": False, "gpu_validated": True}


@pytest.fixture(scope="module")
def rendered(small_lab: Path) -> str:
    return page.render(store.read(small_lab))


def test_the_page_is_well_formed_and_loads_nothing(rendered: str) -> None:
    text = rendered
    reader = read(text)
    assert not reader.wrong
    assert not reader.open
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form", "video", "audio", "image", "use"}
    assert sum(tag == "script" for tag, _ in reader.seen) == 2
    for tag, attributes in reader.seen:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#"), (tag, attributes)
    assert "url(" not in text
    assert "@import" not in text
    identities = [attributes["id"] for _, attributes in reader.seen if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_the_policy_lets_the_pages_own_script_run_and_no_other(rendered: str) -> None:
    text = rendered
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_the_same_files_make_the_same_page(small_lab: Path, rendered: str) -> None:
    assert page.render(store.read(small_lab)) == rendered


def test_hostile_text_stays_text_wherever_it_comes_from(document: Make) -> None:
    made, before = document(), document(run_id="A")
    fabricated_lab.hostile(made)
    made["tiers"]["0"] = {"status": HOSTILE, "duration_s": HOSTILE, "budget_s": HOSTILE}
    made["verdict"] = {"status": "FAIL", "label": HOSTILE, "summary": HOSTILE, "action": HOSTILE}
    made["finished"] = HOSTILE
    made["gpu_use_proof"] = {"targets": {HOSTILE: {"signals": [{"name": HOSTILE, "detail": HOSTILE}]}}}
    made["data_parallel"] = {HOSTILE: [{HOSTILE: HOSTILE}]}
    plan = {"reasons": [{"about": HOSTILE, "because": HOSTILE}], "warnings": [HOSTILE], "gpus": [{"product": HOSTILE}]}
    host = store.Host(HOSTILE, made, before, plan)
    text = page.render(store.compared([host, store.Host("b" + HOSTILE, plan={"no_verdict": HOSTILE})]))
    reader = read(text)
    assert not reader.wrong
    assert {tag for tag, _ in reader.seen}.isdisjoint({"img", "b>"})
    assert sum(tag == "script" for tag, _ in reader.seen) == 2
    assert not [name for _, attributes in reader.seen for name in attributes if name.startswith("on")]
    assert not set(text) & {"\x00", "\x1b", "\u202e"}


def test_the_data_of_the_script_is_json_and_cannot_end_its_element(document: Make) -> None:
    made = document()
    fabricated_lab.hostile(made)
    made["observed"]["gpus"][0]["memory"] = float("nan")
    text = page.render(store.Lab(hosts(made)))
    data = text.partition('id="data">')[2].partition("</script>")[0]
    assert "<" not in data
    assert list(json.loads(data)["hosts"]) == ["h-gpu0"]


@pytest.mark.parametrize(
    ("changes", "word", "said"),
    [
        ([REAL, REAL], "PASS", "GPU fleet: 2 of 2 GPU hosts proven"),
        ([REAL, REAL | {"simulated": True}], "WARN", "SIMULATED: 1 of 2 hosts. This proves no GPU"),
        ([REAL, {"gpu_validated": True, "simulated": None}], "WARN", "SIMULATED: 1 of 2 hosts. This proves no GPU"),
        ([REAL, REAL | {"gpu_validated": False}], "UNKNOWN", "GPU fleet: 1 of 2 GPU hosts proven"),
        ([REAL, REAL | {"verdict": {"status": "FAIL"}}], "FAIL", "GPU fleet: 1 of 2 GPU hosts proven"),
        ([REAL, REAL | {"verdict": {"status": "UNKNOWN"}}], "UNKNOWN", "GPU fleet: 1 of 2 GPU hosts proven"),
        ([REAL, REAL | {"verdict": {"status": "WARN"}}], "WARN", "GPU fleet: 2 of 2 GPU hosts proven"),
        ([REAL, REAL | {"profile": None}], "UNKNOWN", "GPU fleet: 1 of 1 GPU host proven"),
        ([REAL | {"profile": "cpu"}], "SKIP", "Processors alone: no claim about any GPU"),
        ([REAL, REAL | {"profile": "cpu"}], "PASS", "GPU fleet: 1 of 1 GPU host proven"),
    ],
)
def test_only_a_lab_of_proven_gpus_gets_the_green_badge(document: Make, changes: Any, word: str, said: str) -> None:
    assert page.fleet_badge(hosts(*(document(**change) for change in changes))) == (word, said)


def test_a_host_that_did_not_answer_keeps_the_badge_from_being_green(document: Make) -> None:
    lab = [*hosts(document(**REAL)), store.Host("gone", plan={"plan": {"profile": "gpu"}})]
    assert page.fleet_badge(lab) == ("UNKNOWN", "GPU fleet: 1 of 2 GPU hosts proven")
    assert page.fleet_badge([*hosts(document(**REAL)), store.Host("gone")])[0] == "UNKNOWN"


def test_a_lab_that_passed_and_is_simulated_is_not_green_at_the_top(document: Make) -> None:
    assert 'class="hero PASS"' in page.render(store.Lab(hosts(document(**REAL))))
    for change, look in (({"simulated": True}, "WARN"), (REAL | {"profile": "cpu"}, "SKIP")):
        text = page.render(store.Lab(hosts(document(**change))))
        assert f'class="hero {look}"' in text
        assert 'class="hero PASS"' not in text


def test_every_trouble_says_what_to_do_and_hosts_with_the_same_one_are_together(rendered: str) -> None:
    text = rendered
    todo = text.partition('<ol class="todo">')[2].partition("</ol>")[0]
    assert "<b>Return it to the maker</b>" in todo
    assert re.search(r"<b>Reboot</b> the kernel module is 580\.95\.05", todo)
    assert "not made: tier" not in todo  # what follows from a failed tier is no trouble of its own
    baseline = next(card for card in todo.split("<li") if "perf.baseline" in card)
    assert "blackwell02" in baseline
    assert "pascal02" in baseline


def test_without_the_drawing_library_there_are_tables_and_the_page_says_so(
    small_lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "vl_convert", None)
    text = page.render(store.read(small_lab))
    assert "vl-convert-python is not installed" in text
    assert "<svg" not in text
    assert '<details class="as-table" open>' in text
    assert not read(text).wrong


def test_drawings_take_their_colours_from_the_page(rendered: str) -> None:
    pytest.importorskip("vl_convert")
    text = rendered
    assert 'fill="var(--accent)"' in text
    assert "hopper03" in re.sub(
        r"<table.*?</table>", "", text.partition('id="throughput"')[2].partition("</section>")[0]
    )
    assert text.count("<svg") == 4 + 7 + 1


def test_the_number_of_marks_does_not_grow_with_the_lab() -> None:
    pytest.importorskip("vl_convert")
    rows = [
        {"product": "X", "metric": "matmul_fp32", "unit": "TFLOP/s", "value": 50 + index / 4000, "status": "PASS"}
        for index in range(4000)
    ]
    (figure,) = charts.throughput(rows, {})
    assert figure.svg.count("<path") < 200


@pytest.mark.parametrize(
    "value", [None, 1, "x", [], [1, None], {}, {"rows": 1}, {"rows": [1, {}]}, {"gpus": [{"memory": "x"}]}, True]
)
def test_documents_of_the_wrong_shape_make_a_page(document: Make, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "vl_convert", None)  # what is drawn is in the tables, and drawing takes its time
    for key in document():
        made = document(**{key: value})
        lab = store.compared(
            [store.Host("gpu01", made, made, {"plan": value, "reasons": value, "change": value, "gpus": value})]
        )
        assert not read(page.render(lab)).wrong


def test_an_empty_lab_is_no_success() -> None:
    text = page.render(store.Lab())
    assert '<div class="hero UNKNOWN">' in text
    assert "There are no results" in text


def test_the_command_line_makes_page_and_junit(
    small_lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, junit = tmp_path / "page.html", tmp_path / "junit.xml"
    assert main([str(small_lab), "--output", str(output), "--junit", str(junit), "--table"]) == 0
    assert "T3 NUMERICS" in capsys.readouterr().out
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert junit.read_text().startswith("<?xml")
    assert main([str(tmp_path / "missing")]) == 2
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "holds no verdicts" in capsys.readouterr().err


def test_the_module_runs_without_ansible(small_lab: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "gpu_report",
        str(small_lab),
        "--output",
        str(tmp_path / "r.html"),
        "--junit",
        str(tmp_path / "j.xml"),
    ]
    code = (
        "import sys; sys.modules['ansible'] = None; import runpy; runpy.run_module('gpu_report', run_name='__main__')"
    )
    words = [sys.executable, "-c", code, *words[3:]]
    done = subprocess.run(
        words,
        env=os.environ | {"PYTHONPATH": str(ROOT / "lib")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
