# SPDX-License-Identifier: Apache-2.0
"""The documents say what the engine does: those made from it are current, and their examples end as they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from gpu_compat.__main__ import main
from gpu_compat.conflicts import IDS

ROOT = Path(__file__).resolve().parents[3]
PLANNING = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_matrix_is_what_the_engine_says_today(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["matrix", "--markdown"]) == 0
    assert (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_the_list_of_conflicts_is_complete() -> None:
    section = PLANNING.partition("## Conflicts")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)) == dict(IDS)


def test_the_question_is_planned_and_the_overlay_is_right(tmp_path: Path) -> None:
    question, overlay = blocks(PLANNING, "yaml")
    (tmp_path / "question.yml").write_text(question, encoding="utf-8")
    (tmp_path / "overlay.yml").write_text(yaml.safe_dump(yaml.safe_load(overlay)["gpulab_compat_overlay"]))
    assert main(["plan", str(tmp_path / "question.yml"), "--overlay", str(tmp_path / "overlay.yml")]) == 0
    assert main(["check", "--overlay", str(tmp_path / "overlay.yml")]) == 0


def test_every_finding_of_the_doctor_is_explained() -> None:
    source = "".join(
        (ROOT / "lib" / "gpu_compat" / name).read_text(encoding="utf-8") for name in ("doctor.py", "doctor_cuda.py")
    )
    named = set(re.findall(r'_finding\(\s*"(\w+)"', source)) | set(re.findall(r'"(\w+)" if \w', source))
    told = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8") + PLANNING))
    assert named - {"error", "warning", "repository", "dnf", "apt"} <= told
