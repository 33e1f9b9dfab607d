# SPDX-License-Identifier: Apache-2.0
"""Plans from the facts of hosts, and the change that they make."""

from __future__ import annotations

from typing import Any

from gpu_compat import change, host_from_facts, plan, provided
from situations import TODAY

TORCH = {"name": "torch", "frameworks": {"pytorch": "newest"}}
TF = {"name": "tf", "frameworks": {"tensorflow": "newest", "keras": "newest"}}
JAX = {"name": "jax", "frameworks": {"jax": "newest"}}


def ask(request: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    return plan(request, host_from_facts(facts), today=TODAY, driver_as_it_is=True)


def planned(request: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    answer = ask(request, facts)
    assert answer["status"] == "planned", answer["conflicts"]
    return dict(answer["plan"])


def conflict(request: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    answer = ask(request, facts)
    assert answer["status"] == "conflict"
    assert answer["plan"] is None
    return dict(answer["conflicts"][0])


def test_cpu_host_gets_cpu_builds_and_its_own_python(facts: dict[str, Any]) -> None:
    answer = planned({"environments": [TF, TORCH]}, facts)
    tf, torch = answer["environments"]
    assert answer["profile"] == "cpu"
    assert tf["frameworks"]["tensorflow"]["package"] == "tensorflow-cpu"
    assert tf["keras_backend"] == "tensorflow"
    assert torch["frameworks"]["pytorch"]["wheel"] == "cpu"
    assert torch["torch_packages"] == ["torch"]
    assert "nvidia-" in torch["forbidden"]
    assert (torch["python"], torch["interpreter"]) == ("3.11", "/usr/bin/python3.11")


def test_aarch64_has_its_own_name_for_cpu_tensorflow(facts: dict[str, Any]) -> None:
    answer = planned({"environments": [TF]}, {**facts, "arch": "aarch64"})
    assert answer["environments"][0]["frameworks"]["tensorflow"]["package"] == "tensorflow"
    assert conflict({"environments": [TF]}, {**facts, "arch": "riscv64"})["id"] == "arch_vs_wheel"


def test_gpu_host_gets_what_its_driver_can_run(gpu_host: dict[str, Any]) -> None:
    torch = planned({"environments": [TORCH]}, gpu_host)["environments"][0]
    build = torch["frameworks"]["pytorch"]
    assert (build["version"], build["wheel"], build["on_package_index"]) == ("2.15.0", "cu132", True)
    assert torch["resolve"] == ["torch>=2.12.0,<=2.15.0", "numpy"]
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
    torch = planned({"environments": [TORCH], "cuda_toolkits": []}, ancient)["environments"][0]
    assert torch["frameworks"]["pytorch"]["wheel"] == "cu118"
    newest = {"name": "t", "frameworks": {"pytorch": {"version": "newest", "cuda": "13"}}}
    assert conflict({"environments": [newest]}, ancient)["id"] == "driver_vs_cuda"


def test_what_is_loaded_must_do_where_nothing_installs_a_driver(gpu_host: dict[str, Any]) -> None:
    assert planned({"environments": [TORCH]}, gpu_host)["driver"]["version"] == "580.126.09"
    found = conflict({"driver": "595", "environments": [TORCH]}, gpu_host)
    assert found["involves"] == ["host.driver", "request.driver"]
    whole = plan({"driver": "595", "environments": [TORCH]}, host_from_facts(gpu_host), today=TODAY)
    assert whole["plan"]["driver"]["branch"] == "595"
    found = change(whole["plan"], gpu_host)["driver"]
    assert found["from"]["version"] == "580.126.09"
    assert found["to"] == {"version": "595.91.07", "kernel_module": "open", "source": "nvidia_repo"}


def test_only_a_loaded_driver_must_do_where_nothing_installs_one(gpu_host: dict[str, Any]) -> None:
    waiting = {
        **gpu_host,
        "driver": {"loaded_version": None, "installed_version": "580.126.09", "reason": "not loaded"},
    }
    assert conflict({"environments": [TORCH]}, waiting)["id"] == "no_driver"
    older = {**gpu_host, "driver": {"loaded_version": "535.309.01", "installed_version": "580.126.09", "reason": None}}
    assert planned({"environments": [TORCH]}, older)["driver"]["version"] == "535.309.01"
    whole = plan({"environments": [TORCH]}, host_from_facts(older), today=TODAY)
    assert whole["plan"]["driver"]["version"] == "580.126.09"
    assert whole["plan"]["driver"]["source"] == "nvidia_repo"


def test_a_host_may_get_its_driver_and_no_environment(gpu_host: dict[str, Any]) -> None:
    answer = planned({"environments": [], "cuda_toolkits": []}, gpu_host)
    assert (answer["environments"], answer["driver"]["version"]) == ([], "580.126.09")


def test_profile_follows_the_evidence(facts: dict[str, Any], gpu_host: dict[str, Any]) -> None:
    assert conflict({"profile": "gpu", "environments": [TORCH]}, facts)["id"] == "no_gpu"
    silent = {**gpu_host, "driver": {"loaded_version": None, "reason": "not loaded"}}
    assert conflict({"environments": [TORCH]}, silent)["id"] == "no_driver"
    unreadable = {**facts, "gpus": None, "unknown": {"gpus": "Permission denied"}}
    assert "Permission denied" in conflict({"environments": [TORCH]}, unreadable)["message"]
    assert planned({"profile": "cpu", "environments": [TORCH]}, unreadable)["profile"] == "cpu"
    answer = ask({"profile": "cpu", "environments": [TORCH]}, gpu_host)
    assert answer["plan"]["profile"] == "cpu"
    assert "nothing will be said about the GPU" in answer["warnings"][0]


def test_other_vendors_are_named(facts: dict[str, Any]) -> None:
    amd = {**facts, "other_gpus": [{"name": "AMD 0x73bf"}]}
    assert "AMD 0x73bf" in ask({"environments": [TORCH]}, amd)["reasons"][0]["because"]


def test_python_too_new_is_replaced_by_the_newest_that_fits(facts: dict[str, Any]) -> None:
    new = {**facts, "pythons": [{"path": "/usr/bin/python3.14", "minor": "3.14", "usable": True}]}
    environment = planned({"environments": [TF]}, new)["environments"][0]
    assert (environment["python"], environment["interpreter"]) == ("3.13", None)
    assert any("3.13 will be provided" in text for text in ask({"environments": [TF]}, new)["warnings"])


def test_python_for_other_users_is_not_taken(facts: dict[str, Any]) -> None:
    hidden = {**facts, "pythons": [{**facts["pythons"][0], "usable": False}]}
    assert planned({"environments": [TORCH]}, hidden)["environments"][0]["interpreter"] is None


def test_a_new_interpreter_is_no_reason_to_rebuild(facts: dict[str, Any]) -> None:
    newer = {"path": "/usr/bin/python3.13", "minor": "3.13", "usable": True, "venv": True}
    host = {**facts, "pythons": [newer, *facts["pythons"]]}
    assert planned({"environments": [TORCH]}, host)["environments"][0]["python"] == "3.13"
    built = {**host, "environments": {"torch": {"state": "complete", "python": "3.11"}}}
    assert planned({"environments": [TORCH]}, built)["environments"][0]["python"] == "3.11"


def test_venv_needs_an_interpreter_with_its_module(facts: dict[str, Any]) -> None:
    bare = {**facts, "pythons": [{**facts["pythons"][0], "venv": False}]}
    environment = planned({"environments": [{**TORCH, "manager": "venv"}]}, bare)["environments"][0]
    assert (environment["python"], environment["interpreter"]) == ("3.11", None)
    assert planned({"environments": [TORCH]}, bare)["environments"][0]["interpreter"]


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
    assert "transformers" in torch["packages"]
    assert "torchvision" not in tf["packages"]


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
    nothing = {"driver": None, "cuda_toolkit": None, "cudnn": None, "environments": [], "unasked": []}
    assert change(answer, host) == nothing
    assert "gpulab_rebuild" in change(answer, host, ["torch"])["environments"][0]["why"]
    assert change(answer, {**host, "environments": {"torch": good, "old-one": good}})["unasked"] == ["old-one"]
    rows = provided(answer, host)
    assert [(row["name"], row["origin"]) for row in rows["environments"]] == [
        ("torch", "managed"),
        ("old", "existing"),
    ]
    assert provided(answer, facts)["absent"] == ["torch"]
    assert rows["expected"] == {"driver": None, "gpus": [], "cuda_toolkits": []}


def test_the_same_input_gives_the_same_output(facts: dict[str, Any]) -> None:
    assert ask({"environments": [TF, TORCH]}, facts) == ask({"environments": [TF, TORCH]}, facts)


def test_the_range_for_the_resolver_holds_only_what_meets_every_rule(gpu_host: dict[str, Any]) -> None:
    volta = {**gpu_host, "gpus": [{"bus": "0", "vendor": "0x10de", "device": "0x1db4"}]}
    cu128 = {"name": "t", "frameworks": {"pytorch": {"version": "newest", "cuda": "cu128"}}}
    environment = planned({"environments": [cu128], "cuda_toolkits": []}, volta)["environments"][0]
    assert environment["resolve"][0] == "torch>=2.8.0,<=2.10.0"
    exact = {"name": "t", "frameworks": {"pytorch": "==2.9.1"}}
    assert planned({"environments": [exact]}, gpu_host)["environments"][0]["resolve"][0] == "torch==2.9.1"


def test_facts_become_a_host(gpu_host: dict[str, Any]) -> None:
    host = host_from_facts({**gpu_host, "nvswitches": [{"bus": "0", "vendor": "0x10de", "device": "0x22a3"}]})
    assert host.system is not None
    assert (host.system["id"], host.nvswitch, host.kernel_module) == ("debian12", True, "open")
    assert host.gpus is not None
    assert host.gpus[0].name == "GeForce RTX 3090"
    assert [python.version for python in host.pythons or ()] == ["3.11"]


def test_tables_that_are_old_warn(facts: dict[str, Any]) -> None:
    from datetime import date

    request = {"environments": [TORCH]}
    fresh = plan(request, host_from_facts(facts), today=date(2026, 12, 1))
    stale = plan(request, host_from_facts(facts), today=date(2027, 3, 1))
    assert not any("days old" in text for text in fresh["warnings"])
    assert any("98 days old" in text for text in stale["warnings"])


def test_jax_follows_the_hosts_own_python(facts: dict[str, Any]) -> None:
    assert planned({"environments": [JAX]}, facts)["environments"][0]["frameworks"]["jax"]["version"] == "0.10.2"
