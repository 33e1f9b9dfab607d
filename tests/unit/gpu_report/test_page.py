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
from gpu_report import charts, details, page, store
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
        (
            [REAL | {"profile": "cpu"}, REAL | {"profile": None}],
            "UNKNOWN",
            "No claim about any GPU: 1 host could not be judged",
        ),
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


def tiles(*made: Any) -> dict[str, str]:
    """Return what the tiles at the top say, without markup."""
    text = page.render(store.Lab(hosts(*made)))
    found = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", text.partition('class="tiles"')[2])
    return {name: " ".join(re.sub(r"<[^>]*>", " ", value).split()) for name, value in found}


def test_what_does_not_apply_is_not_counted_as_passed(document: Make) -> None:
    rows = [fabricated_lab.check(f"a.{index}", "host", 0) for index in range(28)]
    rows += [fabricated_lab.check(f"b.{index}", "host", 0, "SKIP", "not applicable") for index in range(6)]
    assert tiles(document(checks=rows))["Checks passed"] == "28 6 do not apply"
    rows.append(fabricated_lab.check("c", "host", 6, "SKIP", "not asked for", reason_code="NOT_REQUESTED"))
    rows += [fabricated_lab.check("d", "host", 0, word, "x") for word in ("WARN", "UNKNOWN", "FAIL")]
    # A required check that was skipped is no success, and not one that does not apply either.
    rows.append(fabricated_lab.check("e", "host", 0, "SKIP", "x") | {"required": True})
    said = "28 1 failed, 2 unknown, 1 to look at, 6 do not apply, 1 not asked for"
    assert tiles(document(checks=rows))["Checks passed"] == said


def test_drawn_digits_are_never_called_mnist(document: Make) -> None:
    usual, drawn = document("login"), document("login")
    for row in drawn["results"]:
        row["dataset"] = "generated"
    assert tiles(drawn)["Training jobs passed"] == "4 of 4, 4 on drawn digits"
    assert tiles(usual)["Training jobs passed"] == "4 of 4"

    def training(*made: Any) -> str:
        text = page.render(store.Lab(hosts(*made))).partition('id="training"')[2].partition("</section>")[0]
        return " ".join(re.sub(r"<[^>]*>", " ", text).split())

    assert "by epoch, on MNIST. Training" in training(usual)
    assert "drawn" not in training(usual)
    assert "by epoch, on digits that the validator drew: they are not MNIST." in training(drawn)
    assert "on MNIST, and on drawn digits, which are not MNIST, on gpu1 ." in training(usual, drawn)
    assert re.search(r"accuracy 0\.\d{4} on MNIST; accuracy 0\.\d{4} on drawn digits", training(usual, drawn))
    assert training(drawn).count("drawn digits") >= 4  # a word for each job in the tables


def test_training_on_data_without_a_name_is_not_said_to_be_mnist(document: Make) -> None:
    made = document("login")
    for row, value in zip(made["results"], (None, 1, ["mnist"], {"mnist": 1}), strict=True):
        row["dataset"] = value
    assert "by epoch. Training" in page.render(store.Lab(hosts(made)))


def test_a_host_that_was_looked_at_again_says_when_and_that_nothing_changed(document: Make) -> None:
    made = document(finished="2026-11-20T09:02:41Z", checked="2026-11-20T09:02:41Z")
    assert "There is no earlier run to compare with." in page.render(store.Lab(hosts(made)))
    assert "looked at" not in tiles(made)["Newest proof"]
    again = made | {"checked": "2026-11-22T03:30:00Z"}
    text = page.render(store.Lab(hosts(again)))
    assert "no earlier run" not in text
    part = text.partition('id="drift"')[2].partition("</section>")[0]
    said = " ".join(re.sub(r"<[^>]*>", " ", part).split())
    assert "Nothing has changed since 2026-11-20 09:02 : 1 host looked at again, last at 2026-11-22 03:30 ," in said
    assert tiles(again)["Newest proof"] == "2026-11-20 09:02 oldest 2026-11-20 09:02 looked at 2026-11-22 03:30"
    row = text.partition('<td class="when">')[2].partition("</td>")[0]
    assert re.sub(r"<[^>]*>", " ", row).split() == ["2026-11-20", "09:02", "seen", "2026-11-22", "03:30"]


@pytest.mark.parametrize("change", [{"finished": None}, {"verdict": {"status": "FAIL"}}, {"checked": None}])
def test_nothing_is_said_to_be_unchanged_where_nobody_knows(document: Make, change: Any) -> None:
    made = document(checked="2026-11-30T09:00:00Z") | change
    assert "There is no earlier run to compare with." in page.render(store.Lab(hosts(made)))


def test_a_processor_makes_no_claim_about_gpus_anywhere(document: Make) -> None:
    made = document("login", **REAL)
    made["gpu_use_proof"]["targets"] = {"torch/pytorch": {"reached": False, "signals": []}}
    assert "GPUs" not in tiles(made)
    assert tiles(made, document())["GPUs"] == "2 all in order"
    (host,) = hosts(made)
    shown = details.of_host(host, details.Shared())["proof"]
    assert shown["targets"] == []
    assert [word for _, word in shown["control"]] == ["rejected"] * 4
    assert "Each point is a GPU" not in page.render(store.Lab(hosts(made)))
    assert "Each point is a GPU" in page.render(store.Lab(hosts(made, document())))


def test_figures_of_processors_name_method_and_framework_and_unsteady_ones_their_runs(document: Make) -> None:
    made = document("login")
    one = {
        "framework": "pytorch",
        "environment": "torch",
        "metric": "memory_bandwidth",
        "unit": "GB/s",
        "method": "copy",
    }
    rows = [one | {"median": 10.0, "runs": [9.0, 10.0, 11.0]}]
    rows.append(
        one | {"framework": "jax", "environment": "jax", "method": "add", "median": 10.0, "runs": [6, 10, 11.5]}
    )
    rows += [one | {"median": 10.0, "runs": value} for value in (None, [], ["x"], [float("nan")], [1, None])]
    made["performance"]["rows"] = rows
    (figure,) = charts.processors(hosts(made))
    assert [row[2:] for row in figure.rows[:2]] == [
        ("PyTorch in torch", "Memory bandwidth", "copy", "10 GB/s"),
        ("JAX in jax", "Memory bandwidth", "add", "10 GB/s, 3 runs from 6 to 11.5"),
    ]
    assert {row[5] for row in figure.rows[2:]} == {"10 GB/s"}


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
