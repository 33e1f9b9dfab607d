# SPDX-License-Identifier: Apache-2.0
"""More than forty real situations against what was planned for them before, and looked at by a person.

A change of the tables or of a rule changes these files: run with GPULAB_WRITE_PLANS=1, and read the difference.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from gpu_compat.conflicts import IDS
from situations import DATA, ask, kept, situations

ALL = situations()


@pytest.mark.parametrize("name", ALL)
def test_a_situation_is_planned_as_before(name: str) -> None:
    path = DATA / "plans" / f"{name}.json"
    found = kept(ask(ALL[name]["host"], ALL[name]["request"]))
    if os.environ.get("GPULAB_WRITE_PLANS"):
        path.write_text(json.dumps({"about": ALL[name]["about"], **found}, indent=1) + "\n")
    assert {"about": ALL[name]["about"], **found} == json.loads(path.read_text())


def test_no_plan_is_left_over() -> None:
    assert {path.stem for path in (DATA / "plans").glob("*.json")} == set(ALL)
    assert len(ALL) >= 40


@pytest.mark.parametrize("name", [name for name in ALL if ask(ALL[name]["host"], ALL[name]["request"])["conflicts"]])
def test_a_conflict_is_told_with_its_reason_its_source_and_a_way_out(name: str) -> None:
    answer = ask(ALL[name]["host"], ALL[name]["request"])
    for conflict in answer["conflicts"]:
        assert conflict["id"] in IDS
        assert conflict["involves"]
        assert conflict["because"]
        assert conflict["source"]
        assert conflict["message"].strip()
    for change in answer["alternatives"]:
        assert change["gives"]
        assert _planned_with(ALL[name], change["change"]), change


def _planned_with(situation: dict[str, Any], change: dict[str, Any]) -> bool:
    """Tell whether an alternative, written into the request, does what it says."""
    from gpu_compat.questions import change as changed
    from gpu_compat.questions import with_default_environments

    request = with_default_environments(situation["request"])
    for path, value in change.items():
        steps = path.removeprefix("request.")
        if isinstance(value, list) and steps.startswith("environments["):
            place = int(steps[len("environments[") : -1])
            request = {
                **request,
                "environments": [*request["environments"][:place], *value, *request["environments"][place + 1 :]],
            }
        else:
            content = changed({"request": request}, [f"request.{steps}=null"])
            request = _set(content["request"], steps, value)
    return ask(situation["host"], request)["status"] == "planned"


def _set(request: Any, path: str, value: Any) -> Any:
    from gpu_compat.questions import _set as put
    from gpu_compat.questions import _steps

    return put({"request": request}, _steps(path), value, path)["request"]
