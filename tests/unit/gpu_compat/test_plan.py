# SPDX-License-Identifier: Apache-2.0
"""The plan and the change, for hosts with and without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
from gpu_compat import change, plan, provided
from gpu_compat.tables import minor, releases, table

TORCH = {"name": "torch", "frameworks": {"pytorch": "newest"}}
TF = {"name": "tf", "frameworks": {"tensorflow": "newest", "keras": "newest"}}


def planned(request: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    answer = plan(request, facts)
    assert answer["status"] == "planned", answer["conflicts"]
    return answer["plan"]


def conflict(request: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    answer = plan(request, facts)
    assert answer["status"] == "conflict"
    assert answer["plan"] is None
    return answer["conflicts"][0]


def test_cpu_host_gets_cpu_builds_and_its_own_python(facts: dict[str, Any]) -> None:
    answer = planned({"environments": [TF, TORCH]}, facts)
    tf, torch = answer["environments"]
    assert answer["profile"] == "cpu"
    assert tf["frameworks"]["tensorflow"]["package"] == "tensorflow-cpu"
    assert tf["keras_backend"] == "tensorflow"
    assert torch["frameworks"]["pytorch"]["wheel"] == "cpu"
    assert torch["torch_packages"] == ["torch"]
    assert "nvidia-" in torch["forbidden"]
    assert torch["python"]["interpreter"] == "/usr/bin/python3.11"


def test_aarch64_has_its_own_name_for_cpu_tensorflow(facts: dict[str, Any]) -> None:
    answer = planned({"environments": [TF]}, {**facts, "arch": "aarch64"})
    assert answer["environments"][0]["frameworks"]["tensorflow"]["package"] == "tensorflow"
    assert conflict({"environments": [TF]}, {**facts, "arch": "riscv64"})["id"] == "arch_vs_wheel"


def test_gpu_host_gets_what_its_driver_can_run(gpu_host: dict[str, Any]) -> None:
    torch = planned({"environments": [TORCH]}, gpu_host)["environments"][0]
    assert torch["frameworks"]["pytorch"] | {"versions": None} == {
        "version": "2.15.0",
        "versions": None,
        "package": "torch",
        "wheel": "cu130",
        "requirement": "torch>=2.6.0,<=2.15.0",
    }
    assert torch["forbidden"] == []
    older = {**gpu_host, "driver": {"loaded_version": "535.309.01", "reason": None}}
    torch = planned({"environments": [TORCH]}, older)["environments"][0]
    assert (torch["frameworks"]["pytorch"]["version"], torch["frameworks"]["pytorch"]["wheel"]) == (
        "2.14.1",
        "cu126",
    )
    jax = planned({"environments": [{"name": "j", "frameworks": {"jax": "newest"}}]}, older)["environments"][0]
    assert jax["requirements"][0].startswith("jax[cuda12]")
    ancient = {**gpu_host, "driver": {"loaded_version": "470.256.02", "reason": None}}
    assert conflict({"environments": [TORCH]}, ancient)["id"] == "driver_vs_cuda"


def test_profile_follows_the_evidence(facts: dict[str, Any], gpu_host: dict[str, Any]) -> None:
    assert conflict({"profile": "gpu", "environments": [TORCH]}, facts)["id"] == "no_gpu"
    silent = {**gpu_host, "driver": {"loaded_version": None, "reason": "not loaded"}}
    assert conflict({"environments": [TORCH]}, silent)["id"] == "no_driver"
    unreadable = {**facts, "gpus": None, "unknown": {"gpus": "Permission denied"}}
    assert "Permission denied" in conflict({"environments": [TORCH]}, unreadable)["message"]
    assert planned({"profile": "cpu", "environments": [TORCH]}, unreadable)["profile"] == "cpu"
    answer = plan({"profile": "cpu", "environments": [TORCH]}, gpu_host)
    assert answer["plan"]["profile"] == "cpu"
    assert "nothing will be said about the GPU" in answer["warnings"][0]


def test_other_vendors_are_named(facts: dict[str, Any]) -> None:
    amd = {**facts, "other_gpus": [{"name": "AMD 0x73bf"}]}
    assert "AMD 0x73bf" in plan({"environments": [TORCH]}, amd)["reasons"][0]["because"]


def test_python_too_new_is_replaced_by_the_newest_that_fits(facts: dict[str, Any]) -> None:
    new = {**facts, "pythons": [{"path": "/usr/bin/python3.14", "minor": "3.14", "usable": True}]}
    python = planned({"environments": [TF]}, new)["environments"][0]["python"]
    assert (python["version"], python["interpreter"]) == ("3.13", None)
    assert "3.14" in python["because"]


def test_python_for_other_users_is_not_taken(facts: dict[str, Any]) -> None:
    hidden = {**facts, "pythons": [{**facts["pythons"][0], "usable": False}]}
    assert planned({"environments": [TORCH]}, hidden)["environments"][0]["python"]["interpreter"] is None


def test_a_new_interpreter_is_no_reason_to_rebuild(facts: dict[str, Any]) -> None:
    newer = {"path": "/usr/bin/python3.13", "minor": "3.13", "usable": True, "venv": True}
    host = {**facts, "pythons": [newer, *facts["pythons"]]}
    assert planned({"environments": [TORCH]}, host)["environments"][0]["python"]["version"] == "3.13"
    built = {**host, "environments": {"torch": {"state": "complete", "python": "3.11"}}}
    assert planned({"environments": [TORCH]}, built)["environments"][0]["python"]["version"] == "3.11"


def test_venv_needs_an_interpreter_with_its_module(facts: dict[str, Any]) -> None:
    bare = {**facts, "pythons": [{**facts["pythons"][0], "venv": False}]}
    python = planned({"environments": [{**TORCH, "manager": "venv"}]}, bare)["environments"][0]["python"]
    assert (python["version"], python["interpreter"]) == ("3.11", None)
    assert planned({"environments": [TORCH]}, bare)["environments"][0]["python"]["interpreter"]


def test_asked_python_that_no_release_supports_is_a_conflict(facts: dict[str, Any]) -> None:
    answer = conflict({"environments": [{**TF, "python": "3.14"}]}, facts)
    assert answer["id"] == "python_vs_framework"
    assert "3.10 to 3.13" in answer["message"]


def test_a_release_that_nobody_knows_is_named_as_such(facts: dict[str, Any]) -> None:
    answer = conflict({"environments": [{"name": "t", "frameworks": {"pytorch": ">=9"}}]}, facts)
    assert (answer["id"], "to 2.15.0" in answer["message"]) == ("unknown_release", True)


def test_an_impossible_optional_environment_does_not_stop_the_others(facts: dict[str, Any]) -> None:
    request = {"environments": [{**TF, "python": "3.14", "optional": True}, TORCH]}
    answer = planned(request, facts)
    assert [row["name"] for row in answer["environments"]] == ["torch"]
    assert answer["unavailable_environments"][0]["name"] == "tf"
    assert provided(answer, facts)["missing"][0]["name"] == "tf"


def test_keras_computes_on_what_is_there(facts: dict[str, Any]) -> None:
    request = {"environments": [{"name": "k", "frameworks": {"keras": "newest", "pytorch": "newest"}}]}
    assert planned(request, facts)["environments"][0]["keras_backend"] == "torch"


def test_extras_bring_companions_from_where_torch_comes_from(facts: dict[str, Any]) -> None:
    both = planned({"environments": [{**TORCH, "extras": ["vision", "nlp"]}, {**TF, "extras": ["vision"]}]}, facts)
    torch, tf = both["environments"]
    assert torch["torch_packages"] == ["torch", "torchvision"]
    assert "transformers" in torch["requirements"]
    assert "torchvision" not in tf["requirements"]


def test_digest_changes_with_the_content_and_with_nothing_else(facts: dict[str, Any]) -> None:
    def digest(environment: dict[str, Any], host: dict[str, Any]) -> str:
        return str(planned({"environments": [environment]}, host)["environments"][0]["digest"])

    same = digest(TORCH, facts)
    elsewhere = {
        **facts,
        "pythons": [{**facts["pythons"][0], "path": "/opt/gpulab/tools/python/x/bin/python3.11"}],
    }
    assert digest(TORCH, elsewhere) == same
    assert digest({**TORCH, "optional": True}, facts) == same
    assert digest({**TORCH, "extras": ["nlp"]}, facts) != same
    assert digest({**TORCH, "manager": "venv"}, facts) != same


def test_change_is_empty_on_a_converged_host_and_explains_itself_elsewhere(facts: dict[str, Any]) -> None:
    answer = planned(
        {
            "environments": [
                TORCH,
                {"name": "old", "frameworks": {"jax": "any"}, "existing": "/opt/x/bin/python"},
            ]
        },
        facts,
    )
    digest = answer["environments"][0]["digest"]
    good = {
        "path": "/opt/gpulab/envs/torch",
        "state": "complete",
        "digest": digest,
        "drift": [],
        "lock_sha256": "x",
        "generation": "/g",
        "frameworks": {"pytorch": "2.13.0"},
    }
    cases = [
        (None, "does not exist"),
        ({**good, "state": "half-made"}, "interrupted"),
        ({**good, "state": "foreign"}, "was not made by this project"),
        ({**good, "digest": "other"}, "plan for it has changed"),
        ({**good, "drift": ["numpy 2 is missing"]}, "numpy 2 is missing"),
    ]
    for found, words in cases:
        host = {**facts, "environments": {"torch": found} if found else {}}
        assert words in change(answer, host)["environments"][0]["why"]
    host = {**facts, "environments": {"torch": good}}
    assert change(answer, host) == {"environments": [], "unasked": []}
    assert "gpulab_rebuild" in change(answer, host, ["torch"])["environments"][0]["why"]
    assert change(answer, {**host, "environments": {"torch": good, "old-one": good}})["unasked"] == ["old-one"]
    rows = provided(answer, host)
    assert [(row["name"], row["origin"]) for row in rows["environments"]] == [
        ("torch", "managed"),
        ("old", "existing"),
    ]
    assert provided(answer, facts)["absent"] == ["torch"]


def test_the_same_input_gives_the_same_output(facts: dict[str, Any]) -> None:
    assert plan({"environments": [TF, TORCH]}, facts) == plan({"environments": [TF, TORCH]}, facts)


@pytest.mark.parametrize("framework", ["tensorflow", "keras", "pytorch", "jax"])
def test_the_table_is_sorted_and_holds_strings_only(framework: str) -> None:
    rows = releases(framework)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    assert all(isinstance(row[0], str) for row in rows)
    assert all(row[2] <= row[3] for row in rows)
    assert table("frameworks")["frameworks"][framework]["source"]
    assert minor("3.9") < minor("3.10")
