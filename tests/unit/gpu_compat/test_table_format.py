# SPDX-License-Identifier: Apache-2.0
"""Editing data files: only the rows meant change, in the style of their neighbours."""

from __future__ import annotations

import difflib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from gpu_compat import tables
from gpu_compat.refresh.table_format import Edit, FormatError, edit_file, emit, parse, scalar

ROOT = Path(__file__).resolve().parents[3]
KERAS = """\
# SPDX-License-Identifier: Apache-2.0
# Keras releases, newest first.
as_of: "2026-01-01"
sources:
  index-keras: "package index: keras"
releases:
  # The newest series.
  - {version: "3.15.1", date: "2026-07-29", requires_python: ">=3.11", source: [index-keras]}
  - {version:   "3.15.0", date: "2026-06-24", requires_python: ">=3.11",
     source: [index-keras]}   # laid out by hand

  # Long ago.
  - {version: "3.9.0", date: "2025-03-04", requires_python: ">=3.9", source: [index-keras]}
# What each computes on.
backends:
  - {first: "3.0.0", backends: {jax: ">=0.4.20"}, source: [index-keras]}
notes: []
"""
NEW = {"version": "3.16.0", "date": "2026-11-30", "requires_python": ">=3.12", "source": ["index-keras"]}
LINE = '  - {version: "3.16.0", date: "2026-11-30", requires_python: ">=3.12", source: [index-keras]}\n'


def edited(*edits: Edit, text: str = KERAS) -> tuple[list[str], list[str]]:
    """Return the lines that an edit takes out and puts in, without the date's."""
    new = edit_file("keras", text, edits, "2026-12-01")
    changes = list(difflib.ndiff(text.splitlines(keepends=True), new.splitlines(keepends=True)))
    lines = [line for line in changes if line[0] in "+-" and "as_of" not in line]
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


def test_the_newest_row_goes_before_the_first_one() -> None:
    assert edited(Edit("releases", ("3.16.0",), NEW)) == ([], [LINE])
    text = edit_file("keras", KERAS, [Edit("releases", ("3.16.0",), NEW)], "2026-12-01")
    assert text.index("# The newest series.") < text.index("3.16.0") < text.index("3.15.1")


@pytest.mark.parametrize(
    ("version", "before"), [("3.15.0.post1", '"3.15.0"'), ("3.10.0", '"3.9.0"'), ("2.1", "# What")]
)
def test_a_row_takes_its_place_in_the_order_of_versions(version: str, before: str) -> None:
    row = {**NEW, "version": version}
    text = edit_file("keras", KERAS, [Edit("releases", (version,), row)], "2026-12-01")
    after = text[text.index(f'"{version}"') :].partition("\n")[2]
    assert before in after.partition("\n")[0]


def test_the_date_is_set_once() -> None:
    text = edit_file("keras", KERAS, [Edit("releases", ("3.16.0",), NEW)], "2026-12-01")
    assert 'as_of: "2026-12-01"\n' in text
    assert text.count("as_of") == 1


def test_a_changed_row_is_written_anew_and_no_other() -> None:
    row = {"version": "3.9.0", "date": "2025-03-05", "requires_python": ">=3.9", "source": ["index-keras"]}
    gone, new = edited(Edit("releases", ("3.9.0",), row))
    assert gone == ['  - {version: "3.9.0", date: "2025-03-04", requires_python: ">=3.9", source: [index-keras]}\n']
    assert new == ['  - {version: "3.9.0", date: "2025-03-05", requires_python: ">=3.9", source: [index-keras]}\n']


def test_a_row_of_several_lines_is_taken_out_as_a_whole() -> None:
    gone, new = edited(Edit("releases", ("3.15.0",), None))
    assert [line.split()[0] for line in gone] == ["-", "source:"]
    assert new == []


def test_several_edits_and_every_other_byte_stays() -> None:
    edits = [Edit("releases", ("3.16.0",), NEW), Edit("releases", ("3.9.0",), None)]
    text = edit_file("keras", KERAS, edits, "2026-01-01")
    gone = '  - {version: "3.9.0", date: "2025-03-04", requires_python: ">=3.9", source: [index-keras]}\n'
    assert text.replace(LINE, "") == KERAS.replace(gone, "")


def test_no_edit_changes_nothing_not_even_the_date() -> None:
    assert edit_file("keras", KERAS, [], "2026-12-01") == KERAS


def test_a_comment_within_a_row_survives_its_change() -> None:
    text = KERAS.replace("     source: [index-keras]}   # laid out by hand", "     # why\n     source: [index-keras]}")
    row = {"version": "3.15.0", "date": "2026-06-25", "requires_python": ">=3.11", "source": ["index-keras"]}
    assert "# why\n" in edit_file("keras", text, [Edit("releases", ("3.15.0",), row)], "2026-12-01")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (KERAS.replace("3.15.0", "3.15.1"), "releases has two rows for 3.15.1"),
        (KERAS.replace("notes: []\n", ""), "lacks notes"),
        (KERAS + "x: [\n", "no valid YAML"),
        (KERAS.replace("  - {version", "    - {version"), "releases has no row 3.16.0, or no rows at all"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        edit_file("keras", text, [Edit("releases", ("3.16.0",), NEW)], "2026-12-01")


def test_a_row_that_is_not_there_cannot_be_taken_out() -> None:
    with pytest.raises(FormatError, match=r"no row 9\.9"):
        edit_file("keras", KERAS, [Edit("releases", ("9.9",), None)], "2026-12-01")


def test_a_row_is_wrapped_between_its_fields() -> None:
    pythons = ["3.10", "3.11", "3.12", "3.13", "3.14"]
    row = {
        "version": "2.14.1", "date": "2026-09-30", "python": {"x86_64": pythons, "aarch64": pythons}, "glibc": "2.28",
        "default_cuda": "13.0.3", "aarch64_default": "cuda", "cudnn": "nvidia-cudnn-cu13==9.24.0.43",
        "triton": "triton~=3.8.0", "tags": ["cu126", "cu130", "cu132"],
        "source": ["index-torch", "wheel metadata of torch==2.14.1"],
    }  # fmt: skip
    assert "".join(emit(row)) == (
        '  - {version: "2.14.1", date: "2026-09-30",\n'
        '     python: {x86_64: ["3.10", "3.11", "3.12", "3.13", "3.14"],'
        ' aarch64: ["3.10", "3.11", "3.12", "3.13", "3.14"]}, glibc: "2.28",\n'
        '     default_cuda: "13.0.3", aarch64_default: cuda, cudnn: "nvidia-cudnn-cu13==9.24.0.43",'
        ' triton: "triton~=3.8.0", tags: [cu126, cu130, cu132],\n'
        '     source: [index-torch, "wheel metadata of torch==2.14.1"]}\n'
    )


def test_a_field_longer_than_a_line_makes_a_block() -> None:
    row = {"version": "1.0", "source": ["a" * 90, "b" * 90]}
    assert emit(row) == ['  - version: "1.0"\n', "    source:\n", f"      - {'a' * 90}\n", f"      - {'b' * 90}\n"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("3.10", '"3.10"'),
        ("cu130", "cu130"),
        ("nvidia-cudnn-cu13", "nvidia-cudnn-cu13"),
        ("no", '"no"'),
        ("null", '"null"'),
        ("with space", '"with space"'),
        ('say "x"', '"say \\"x\\""'),
        (None, "null"),
        (True, "true"),
        ([], "[]"),
        ({"2.0": "3.0"}, '{"2.0": "3.0"}'),
    ],
)
def test_values_keep_their_type(value: object, text: str) -> None:
    assert scalar(value) == text
    assert yaml.safe_load(text) == value


@pytest.mark.parametrize("file", ["cuda", "cudnn", "pytorch", "tensorflow", "jax", "keras"])
def test_rows_of_the_shipped_files_can_be_taken_out_and_put_back(file: str, tmp_path: Path) -> None:
    """The row in the middle: out and in again leaves every other byte, and pleases the linter of the project."""
    table = "toolkits" if file == "cuda" else "releases"
    text = (tables.DATA / f"{file}.yml").read_text(encoding="utf-8")
    content = parse(file, text)
    row = content[table][len(content[table]) // 2]
    key = tables.row_key(f"{file}.{table}", row)
    without = edit_file(file, text, [Edit(table, key, None)], content["as_of"])
    again = edit_file(file, without, [Edit(table, key, row)], content["as_of"])
    assert row not in parse(file, without)[table]
    assert parse(file, again) == content
    assert again.replace("".join(emit(row)), "") == without
    shutil.copy(ROOT / ".yamllint", tmp_path / ".yamllint")
    (tmp_path / ".gitignore").touch()
    (tmp_path / f"{file}.yml").write_text(again, encoding="utf-8")
    lint = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", f"{file}.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
