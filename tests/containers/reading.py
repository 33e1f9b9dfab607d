# SPDX-License-Identifier: Apache-2.0
"""Read what ./provision left: its recap, its verdict, and whether it spoke to a person."""

from __future__ import annotations

import json
import re
from typing import Any

from testbed import Machine, Result

LABEL = "PASS (cpu profile - no GPU claim)"


def changed(result: Result) -> int:
    """Return how many changes Ansible's recap counts, all hosts together."""
    counts = re.findall(r"\bchanged=(\d+)", result.output)
    assert counts, result.output[-3000:]
    return sum(map(int, counts))


def verdict(machine: Machine, path: str) -> dict[str, Any]:
    """Return the verdict written at `path`."""
    found = machine.run(f"cat {path}")
    assert found.status == 0, found.output
    content: dict[str, Any] = json.loads(found.output)
    return content


def assert_passed(result: Result) -> None:
    """Assert that a run succeeded and ended with the honest label of a CPU host."""
    assert result.status == 0, result.output[-6000:]
    assert LABEL in result.output, result.output[-3000:]


def assert_refused(result: Result, *words: str) -> None:
    """Assert that a run failed, said each of `words`, showed no traceback, and claimed no PASS."""
    text = " ".join(result.output.split())
    assert result.status != 0, result.output[-3000:]
    for word in words:
        assert word in text, result.output[-4000:]
    assert "Traceback" not in result.output, result.output[-6000:]
    assert LABEL not in result.output, result.output[-3000:]
