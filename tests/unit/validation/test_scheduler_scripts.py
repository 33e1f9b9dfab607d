# SPDX-License-Identifier: Apache-2.0
"""The scripts for Slurm that the manual gives: they are run as they stand there, with a Slurm that is pretended."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / "validation.md").read_text(), re.DOTALL | re.MULTILINE)
PATH, CHECK = "PATH=/usr/sbin:/usr/bin:/sbin:/bin\n", "check=/opt/gpulab/validation/programs/check.py\n"
#: Writes down how it was called; knows one node.
STAND_IN = """#!/bin/bash
printf '%s\\n' "${0##*/} $*" >> "$(dirname "$0")/../called"
[[ ${0##*/} == scontrol && -e "$(dirname "$0")/../no-answer" ]] && exit 1
[[ $* == *"show node"* ]] && cat "$(dirname "$0")/../node"
exit 0
"""


class Slurm:
    """A node, a check that says what the test wants, and the manual's scripts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name in ("scontrol", "logger"):
            path = directory / "bin" / name
            path.write_text(STAND_IN)
            path.chmod(0o755)
        self.state("IDLE")
        self.says("OK gpulab: PASS", 0)

    def state(self, word: str) -> None:
        node = f"NodeName=gpu01 Arch=x86_64 Reason=State=DRAINED NextState=N/A State={word} ThreadsPerCore=2 \n"
        (self.directory / "node").write_text(node)

    def says(self, line: str, status: int) -> None:
        code = f"import sys; print({line!r}, end=''); open(sys.argv[0] + '.words', 'w').write(' '.join(sys.argv[1:]))"
        (self.directory / "check.py").write_text(f"{code}; sys.exit({status})")

    def run(self, script: str) -> tuple[int, list[str]]:
        """Run a script as Slurm does, with next to nothing in its environment; return its status and who was called."""
        assert script.count(PATH) == 1
        assert script.count(CHECK) == 1
        assert script.startswith("#!/bin/bash\n")
        script = script.replace(PATH, f"PATH={self.directory}/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
        path = self.directory / "script"
        path.write_text(script.replace(CHECK, f"check={self.directory}/check.py\n"))
        path.chmod(0o755)
        called = self.directory / "called"
        called.unlink(missing_ok=True)
        done = subprocess.run(
            [str(path)],
            env={"SLURMD_NODENAME": "gpu01"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, called.read_text().splitlines() if called.exists() else []


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    return Slurm(tmp_path)


PROLOG, HEALTH = BLOCKS
BAD = "ERROR gpulab: FAIL: GPU 3 'computes' wrong; $(reboot) [action: rma]"


def test_a_proven_host_takes_jobs_and_nobody_is_told(slurm: Slurm) -> None:
    for script in (PROLOG, HEALTH):
        assert slurm.run(script) == (0, [])


def test_the_prolog_refuses_a_host_that_is_not_proven_and_logs_why(slurm: Slurm) -> None:
    slurm.says(BAD, 1)
    assert slurm.run(PROLOG) == (1, [f"logger -t gpulab -- {BAD}"])
    assert (slurm.directory / "check.py.words").read_text() == "--require-gpu --wait 5"


def test_the_health_check_drains_a_host_with_the_reason_and_ends_well(slurm: Slurm) -> None:
    slurm.says(BAD, 1)
    called = ["scontrol -o show node gpu01", f"scontrol update NodeName=gpu01 State=DRAIN Reason={BAD}"]
    assert slurm.run(HEALTH) == (0, called)


@pytest.mark.parametrize("word", ["IDLE+DRAIN", "MIXED+DRAIN+NOT_RESPONDING", "DRAINED", "DOWN*+DRAIN"])
def test_a_node_that_is_drained_already_keeps_its_reason(slurm: Slurm, word: str) -> None:
    slurm.says(BAD, 1)
    slurm.state(word)
    assert slurm.run(HEALTH) == (0, ["scontrol -o show node gpu01"])


def test_a_drained_node_is_never_resumed(slurm: Slurm) -> None:
    slurm.state("IDLE+DRAIN")
    assert slurm.run(HEALTH) == (0, [])
    commands = [line for line in HEALTH.splitlines() if not line.startswith("#")]
    assert not re.search(r"resume|undrain|state=idle", "\n".join(commands), re.IGNORECASE)


def test_without_an_answer_of_slurm_the_health_check_fails(slurm: Slurm) -> None:
    slurm.says(BAD, 1)
    (slurm.directory / "no-answer").touch()
    assert slurm.run(HEALTH) == (1, ["scontrol -o show node gpu01"])


@pytest.mark.parametrize(("line", "status"), [("", 0), ("", 3), ("something", 0), ("OK gpulab: PASS", 1)])
def test_a_check_that_did_not_say_ok_is_no_ok(slurm: Slurm, line: str, status: int) -> None:
    slurm.says(line, status)
    code, called = slurm.run(PROLOG)
    assert code == 1
    assert called
    code, called = slurm.run(HEALTH)
    assert (code, len(called)) == (0, 2)


def test_a_check_that_is_not_there_drains_with_one_line(slurm: Slurm) -> None:
    (slurm.directory / "check.py").unlink()
    code, called = slurm.run(HEALTH)
    assert code == 0
    assert len(called) == 2
    assert "No such file" in called[1]
