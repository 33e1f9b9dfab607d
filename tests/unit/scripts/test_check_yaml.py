# SPDX-License-Identifier: Apache-2.0
"""YAML that cannot be read is shown with file, line and column."""

from __future__ import annotations

from pathlib import Path

import check_yaml
import pytest


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a:\n  b: 1\n   c: 2\n", ":3:5: mapping values are not allowed here"),
        ("a:\n\tb: 1\n", ":2:1: found character"),
        ("a: {b: 1\n", ":2:1: "),
    ],
)
def test_mistakes_are_shown_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, where: str
) -> None:
    path = tmp_path / "group_vars" / "all.yml"
    path.parent.mkdir()
    path.write_text(text)
    assert check_yaml.main([str(tmp_path)]) == 3
    assert f"{path}{where}" in capsys.readouterr().err


def test_what_ansible_reads_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts.yml").write_text("all: {hosts: {a: {}}}\n")
    (tmp_path / "secret.yml").write_text(
        "password: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\n---\nsecond: document\n"
    )
    (tmp_path / "hosts.ini").write_text("[all]\na\n\tb\n")
    assert check_yaml.main([str(tmp_path), str(tmp_path / "hosts.ini")]) == 0
    assert capsys.readouterr().err == ""


def test_files_that_are_no_text_or_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yml").write_bytes(b"\xff\xfe\x00")
    assert check_yaml.main([str(tmp_path), str(tmp_path / "gone.yml")]) == 3
    said = capsys.readouterr().err
    assert "is not text in UTF-8" in said
    assert "gone.yml: cannot be read: No such file" in said
