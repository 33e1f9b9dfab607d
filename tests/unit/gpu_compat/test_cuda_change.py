# SPDX-License-Identifier: Apache-2.0
"""What must be done to toolkits and cuDNN: no step without a reason, and none left once a change was carried out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cuda_facts import PROFILE, SOURCES_LIST, USER_BASE, ask, bare_host, made, plan_of, steps, toolkit_row
from driver_facts import RTX_3090
from driver_facts import bare_host as host_with_gpu
from driver_facts import made as driver_made
from gpu_compat import change
from gpu_compat.cuda_change import STEPS
from gpu_compat.installed import drift
from hypothesis import given, settings
from hypothesis import strategies as st

REDIST: dict[str, Any] = {"cuda_toolkits": ["13.0", "12.4"], "cuda_source": "redist"}
GPU = [{"bus": "0000:01:00.0", "vendor": "0x10de", "device": RTX_3090, "driver": None, "product": "GPU"}]


def of_toolkits(planned: dict[str, Any], facts: dict[str, Any], **settings_of: Any) -> Any:
    return change(planned, facts, settings_by_role={"cuda_toolkit": settings_of})["cuda_toolkit"]


def of_cudnn(planned: dict[str, Any], facts: dict[str, Any], **settings_of: Any) -> Any:
    return change(planned, facts, settings_by_role={"cudnn": settings_of})["cudnn"]


def test_a_bare_host_gets_all_steps_of_archives_in_order() -> None:
    facts = bare_host()
    planned = plan_of(facts, **REDIST)
    found = of_toolkits(planned, facts)
    assert steps(found) == ["archives", "default", "environment", "verify"]
    assert [(row["series"], row["from"]) for row in found["toolkits"]] == [("13.0", None), ("12.4", None)]
    assert (found["remove"], found["unlink"], found["hold"]) == ([], [], [])
    found = of_cudnn(planned, facts)
    assert steps(found) == ["archives", "links", "verify"]
    assert found["links"] == ["/usr/local/cuda-13.0", "/usr/local/cuda-12.4"]


def test_a_bare_host_gets_all_steps_of_packages_in_order() -> None:
    facts = bare_host("ubuntu2404")
    planned = plan_of(facts, cuda_toolkits=["12.5"])
    facts["compilers"]["default"]["major"] = "14"
    facts["compilers"]["gcc"] = [{"major": "14", "cc": "/usr/bin/gcc-14", "cxx": "/usr/bin/g++-14"}]
    planned = plan_of(facts, cuda_toolkits=["12.5"])
    assert planned["cuda_toolkits"][0]["host_compiler"]["cxx"] == "/usr/bin/g++-12"
    found = of_toolkits(planned, facts)
    assert steps(found) == [step for step in STEPS if step not in ("archives", "runfile")]
    assert steps(of_cudnn(planned, facts)) == ["repository", "packages", "hold", "verify"]
    assert "compiler" not in steps(of_toolkits(planned, facts, cuda_toolkit_host_compiler="none"))
    assert "hold" not in steps(of_toolkits(planned, facts, cuda_toolkit_hold="false"))


SITUATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "archives": (bare_host(), REDIST),
    "packages": (bare_host("ubuntu2404"), {"cuda_toolkits": ["12.9", "13.0"]}),
    "one major": (bare_host("rhel9"), {"cuda_toolkits": ["12.9", "12.8"]}),
    "distribution": (bare_host(), {"cuda_toolkits": ["11.8"], "cuda_source": "distro", "cudnn_source": "distro"}),
    "runfile": (bare_host("ubuntu2204"), {"cuda_toolkits": ["12.4"], "cuda_source": "runfile"}),
    "user": (bare_host(scope="user"), {"cuda_toolkits": ["12.9", "13.0"]}),
    "gpu": (bare_host("ubuntu2204", gpus=GPU, driver={"loaded_version": None}), {}),
    "older gcc": (bare_host("ubuntu2404"), {"cuda_toolkits": ["12.2"]}),
    "no gcc": (bare_host("rhel9", compilers={"default": None, "gcc": [], "clang": []}), {"cuda_toolkits": ["13.0"]}),
    "somebody's": (
        bare_host(cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.3")]),
        {"cuda_toolkits": ["12.6", "13.0"]},
    ),
    "components": (
        bare_host(),
        {"cuda_toolkits": ["13.0"], "cuda_source": "redist", "cuda_components": ["cublas", "cudart"]},
    ),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_change_that_was_carried_out_leaves_nothing_to_do(name: str) -> None:
    facts, wishes = SITUATIONS[name]
    planned = plan_of(facts, **wishes)
    first = change(planned, facts)
    assert first["cuda_toolkit"]
    assert first["cudnn"]
    after = made(facts, planned)
    again = plan_of(after, **wishes)
    found = change(again, after)
    assert (found["cuda_toolkit"], found["cudnn"]) == (None, None)
    sources = [(row["version"], row["source"], row["path"]) for row in planned["cuda_toolkits"]]
    assert [(row["version"], row["source"], row["path"]) for row in again["cuda_toolkits"]] == sources
    assert again["cudnn"] == planned["cudnn"]


hosts = st.builds(
    bare_host,
    st.sampled_from(["ubuntu2404", "ubuntu2204", "debian12", "rhel9", "rhel10"]),
    scope=st.sampled_from(["system", "system", "user"]),
    gpus=st.sampled_from([[], GPU]),
    cuda=st.sampled_from(
        [
            [],
            [toolkit_row("/usr/local/cuda-12.6", "12.6.3")],
            [toolkit_row("/usr/local/cuda-12.9", "12.9.0", package="cuda-nvcc-12-9")],
            [toolkit_row("/usr/local/cuda", "13.0.1")],
            [toolkit_row("/usr/local/cuda-11.8", "11.8.20220929")],
        ]
    ),
    cuda_packages=st.sampled_from(
        [
            {},
            {"cuda-toolkit-12-9": {"version": "12.9.0-1", "held": False}},
            {"libcudnn9-cuda-12": {"version": "9.8.0.87-1", "held": True}},
        ]
    ),
    compilers=st.sampled_from(
        [
            {"default": None, "gcc": [], "clang": []},
            {"default": {"cc": "/usr/bin/gcc", "major": "14"}, "gcc": [], "clang": []},
            {"default": {"cc": "/usr/bin/gcc", "major": None}, "gcc": [], "clang": []},
            {
                "default": {"cc": "/usr/bin/gcc", "major": "9"},
                "gcc": [{"major": "9", "cc": "/usr/bin/gcc-9", "cxx": None}],
                "clang": [],
            },
        ]
    ),
)
wishes_of = st.fixed_dictionaries(
    {"cuda_toolkits": st.lists(st.sampled_from(["auto", "11.8", "12.6", "12.9", "12.9.1", "13.0"]), unique=True)},
    optional={
        "cuda_source": st.sampled_from(["auto", "nvidia_repo", "redist", "runfile", "distro", "existing"]),
        "cudnn_source": st.sampled_from(["auto", "nvidia_repo", "redist"]),
        "cudnn": st.sampled_from(["auto", "none", "9.8.0.87"]),
        "cuda_components": st.sampled_from(["auto", ["nvcc"], ["libcublas", "cudart"]]),
    },
)


@given(hosts, st.lists(wishes_of, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_every_plan_that_is_carried_out_is_stable(facts: dict[str, Any], requests: list[dict[str, Any]]) -> None:
    """One request after the other, on the host that the one before has made."""
    for wishes in requests:
        answer = ask(facts, **wishes)
        if answer["status"] == "conflict":
            continue
        facts = made(facts, answer["plan"])
        again = plan_of(facts, **wishes)
        found = change(again, facts)
        assert found["cuda_toolkit"] is None
        assert found["cudnn"] is None


def test_a_toolkit_that_was_installed_for_us_is_not_left_for_somebodys_of_its_series() -> None:
    somebodys = {"path": "/usr/local/cuda", "real": "/usr/local/cuda", "version": "13.0.1", "default": False}
    somebodys.update(link=False, ours=False, package=None, nvcc=True)
    facts = bare_host("ubuntu2404", scope="system", gpus=[], cuda=[somebodys])
    for wishes in ({"cuda_toolkits": ["13.0"], "cuda_source": "runfile"}, {"cuda_toolkits": ["13.0"]}):
        facts = made(facts, plan_of(facts, **wishes))
        again = plan_of(facts, **wishes)
        assert (again["cuda_toolkits"][0]["source"], again["cuda_toolkits"][0]["version"]) == ("runfile", "13.0.3")
        assert change(again, facts)["cuda_toolkit"] is None


@given(hosts, wishes_of, st.lists(st.sampled_from(sorted(bare_host())), max_size=6))
@settings(max_examples=150, deadline=None)
def test_facts_that_lack_keys_are_planned_and_compared_without_a_traceback(
    facts: dict[str, Any], wishes: dict[str, Any], lacking: list[str]
) -> None:
    less = {key: value for key, value in facts.items() if key not in lacking}
    nulls = {
        key: None if key in lacking and key not in ("os", "environments") else value for key, value in facts.items()
    }
    for partial in (less, nulls):
        answer = ask(partial, **wishes)
        if answer["plan"]:
            change(answer["plan"], {"environments": {}, **partial})


def test_what_older_facts_do_not_say_needs_no_step() -> None:
    facts = bare_host()
    planned = plan_of(facts, **REDIST)
    old = {key: facts[key] for key in ("schema", "os", "arch", "gpus", "environments")}
    found = change(planned, old)
    assert (found["cuda_toolkit"], found["cudnn"]) == (None, None)


# --- what a converged host loses -------------------------------------------------------------------------------------


def converged(**wishes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = bare_host("ubuntu2404")
    planned = plan_of(facts, **wishes)
    return planned, made(facts, planned)


def test_a_newer_release_of_the_series_is_an_upgrade() -> None:
    planned, facts = converged(**REDIST)
    old = copy.deepcopy(planned)
    old["cuda_toolkits"][0] |= {"version": "13.0.1", "digest": "other"}
    facts = made(bare_host("ubuntu2404"), old)
    found = of_toolkits(planned, facts)
    assert [(row["series"], row["from"], row["from_source"]) for row in found["toolkits"]] == [
        ("13.0", "13.0.1", "redist")
    ]
    assert found["toolkits"][0]["why"] == "CUDA 13.0.1 is in /usr/local/cuda-13.0"
    assert "archives" in steps(found)
    # Links lie inside the generation, so the new one has none.
    assert of_cudnn(planned, facts)["links"] == ["/usr/local/cuda-13.0"]


def test_other_components_are_unpacked_anew() -> None:
    _planned, facts = converged(cuda_toolkits=["13.0"], cuda_source="redist", cuda_components=["nvcc"])
    other = plan_of(facts, cuda_toolkits=["13.0"], cuda_source="redist")
    assert of_toolkits(other, facts)["toolkits"][0]["why"] == "other components of it are planned"


def test_a_half_made_generation_is_unpacked_anew() -> None:
    planned, facts = converged(cuda_toolkits=["13.0"], cuda_source="redist")
    facts["toolkit_store"][0]["state"] = "half-made"
    assert "interrupted" in of_toolkits(planned, facts)["toolkits"][0]["why"]
    facts["toolkit_store"][0]["state"] = None  # its manifest is closed to us
    assert of_toolkits(planned, facts) is None


def test_a_repository_that_nothing_planned_comes_from_is_no_step() -> None:
    planned, facts = converged(cuda_toolkits=["13.0"], cuda_source="redist")
    known = facts["records"]["cuda_toolkit"]
    known["noted"]["files"][SOURCES_LIST], known["found"][SOURCES_LIST] = "a", None
    assert of_toolkits(planned, facts) is None


def test_a_file_that_another_part_of_this_project_wrote_was_not_changed_by_hand() -> None:
    written = {"noted": {"files": {SOURCES_LIST: "a"}}, "found": {SOURCES_LIST: "b"}}
    facts: dict[str, Any] = {"records": {"cuda_toolkit": written}, "state": {"files": {SOURCES_LIST: "b"}}}
    assert list(drift(facts, "cuda_toolkit")) == []
    facts["state"] = None
    assert list(drift(facts, "cuda_toolkit")) == [(SOURCES_LIST, f"{SOURCES_LIST} was changed by hand")]


def test_a_program_or_library_that_is_gone_has_its_archives_unpacked_anew() -> None:
    planned, facts = converged(cuda_toolkits=["13.0"], cuda_source="redist")
    for row in facts["toolkit_store"]:
        row["damaged"] = ["bin/ptxas"] if row["product"] == "cuda" else ["lib/libcudnn.so.9.13.0"]
    assert "bin/ptxas" in of_toolkits(planned, facts)["toolkits"][0]["why"]
    assert "libcudnn.so.9.13.0" in of_cudnn(planned, facts)["entries"][0]["why"]


def test_a_compiler_that_somebody_took_out_is_seen() -> None:
    planned, facts = converged(cuda_toolkits=["13.0"], cuda_source="redist")
    facts["cuda"][0]["nvcc"] = False
    assert of_toolkits(planned, facts)["toolkits"][0]["why"] == "its nvcc is gone"
    parts, facts = converged(cuda_toolkits=["13.0"], cuda_source="redist", cuda_components=["cublas"])
    assert facts["cuda"][0]["nvcc"] is False
    assert of_toolkits(parts, facts) is None


@pytest.mark.parametrize(
    ("target", "alternative", "leads"),
    [
        ("cuda-13.0", None, True),
        ("/usr/local/cuda-13.0", None, True),
        ("/etc/alternatives/cuda", {"mode": "auto", "choices": [], "current": "/usr/local/cuda-13.0"}, True),
        ("/etc/alternatives/cuda", {"mode": "auto", "choices": [], "current": "/usr/local/cuda-12.4"}, False),
        ("cuda-12.4", None, False),
        ("/opt/elsewhere", None, False),
    ],
)
def test_the_default_is_where_its_link_leads(target: str, alternative: Any, leads: bool) -> None:
    planned, facts = converged(**REDIST)
    facts["cuda_default"] |= {"target": target, "alternative": alternative, "real": None}
    assert (of_toolkits(planned, facts) is None) is leads


def test_a_default_that_is_found_by_its_real_path_stays() -> None:
    planned, facts = converged(**REDIST)
    facts["cuda_default"] |= {"target": "../x", "real": facts["cuda"][0]["real"]}
    assert of_toolkits(planned, facts) is None


def test_files_changed_by_hand_are_written_again() -> None:
    planned, facts = converged(cuda_toolkits=["12.9"])
    for path, step in ((PROFILE, "environment"), (SOURCES_LIST, "repository")):
        facts["records"]["cuda_toolkit"]["found"] = {path: None}
        assert steps(of_toolkits(planned, facts)) == [step, "verify"]
    facts["records"]["cuda_toolkit"]["found"] = {PROFILE: "bb"}
    assert "changed by hand" in of_toolkits(planned, facts)["steps"][0]["why"]


def test_a_modulefile_that_is_gone_is_linked_again() -> None:
    planned, facts = converged(cuda_toolkits=["12.9"])
    link = "/usr/share/modulefiles/cuda/12.9"
    facts["records"]["cuda_toolkit"]["noted"]["links"] = {link: "x", "/usr/local/cuda": "y"}
    facts["records"]["cuda_toolkit"]["links"] = {link: None, "/usr/local/cuda": None}
    found = of_toolkits(planned, facts)
    assert (steps(found), found["steps"][0]["why"]) == (["environment", "verify"], f"{link} is gone")


def test_settings_of_the_lab_take_the_environment_again_but_consent_does_not() -> None:
    planned, facts = converged(cuda_toolkits=["12.9"])
    assert of_toolkits(planned, facts, cuda_toolkit_lock_timeout=5, cuda_toolkit_proxy="http://p") is None
    assert steps(of_toolkits(planned, facts, cuda_toolkit_sudo=False)) == ["repository", "environment", "verify"]
    after = made(facts, planned, {"cuda_toolkit": {"cuda_toolkit_sudo": False}})
    assert of_toolkits(planned, after, cuda_toolkit_sudo=False) is None


def test_packages_that_nothing_holds_are_held() -> None:
    planned, facts = converged(cuda_toolkits=["12.9"])
    facts["cuda_packages"]["cuda-nvcc-12-9"]["held"] = False
    facts["cuda_packages"]["cuda-nvcc-12-8"] = {"version": "12.8.1-1", "held": False}
    facts["cuda_packages"]["cuda-drivers-595"] = {"version": "595.1-1", "held": False}
    found = of_toolkits(planned, facts)
    assert (steps(found), found["hold"]) == (["hold", "verify"], ["cuda-nvcc-12-9"])


def test_another_source_removes_packages_of_that_series_alone() -> None:
    _planned, facts = converged(cuda_toolkits=["12.9"])
    facts["cuda_packages"] |= {
        "cuda-nvcc-12-8": {"version": "12.8.1-1", "held": False},
        "cuda-drivers-12-9": {"version": "1-1", "held": False},
    }
    other = plan_of(facts, cuda_toolkits=["12.9"], cuda_source="redist", cudnn_source="redist")
    found = of_toolkits(other, facts)
    assert found["remove"] == ["cuda-nvcc-12-9", "cuda-toolkit-12-9", "libcublas-12-9"]
    assert found["toolkits"][0]["from_source"] == "nvidia_repo"
    assert steps(found)[:2] == ["packages", "archives"]
    assert of_cudnn(other, facts)["remove"] == ["cudnn9-cuda-12"]


def test_a_link_of_ours_gives_way_to_packages() -> None:
    _planned, facts = converged(cuda_toolkits=["12.9"], cuda_source="redist")
    other = plan_of(facts, cuda_toolkits=["12.9"], cuda_source="nvidia_repo", cudnn_source="nvidia_repo")
    assert of_toolkits(other, facts)["unlink"] == ["/usr/local/cuda-12.9"]
    found = of_cudnn(other, facts)
    assert found["unlink"] == ["/usr/local/cuda-12.9/lib64/libcudnn.so.9"]
    assert "links" in steps(found)


def test_an_older_cudnn_of_another_soname_stays() -> None:
    facts = bare_host("ubuntu2204")
    facts["cuda_packages"]["libcudnn8"] = {"version": "8.9.7.29-1+cuda12.2", "held": False}
    planned = plan_of(facts, cuda_toolkits=["12.9"], cudnn_source="redist")
    assert of_cudnn(planned, facts)["remove"] == []
    facts["cuda_packages"]["libcudnn9-cuda-12"] = {"version": "9.8.0.87-1", "held": True}
    assert of_cudnn(planned, facts)["remove"] == ["libcudnn9-cuda-12"]


def test_packages_of_cudnn_for_another_cuda_give_way() -> None:
    facts = bare_host("ubuntu2204")
    facts["cuda_packages"]["libcudnn9-cuda-12"] = {"version": "9.8.0.87-1", "held": True}
    planned = plan_of(facts, cuda_toolkits=["13.0"], cudnn_source="nvidia_repo")
    assert of_cudnn(planned, facts)["remove"] == ["libcudnn9-cuda-12"]


def test_without_root_packages_of_the_system_are_left_alone() -> None:
    facts = bare_host(scope="user")
    facts["cuda_packages"] |= {
        "cuda-toolkit-12-9": {"version": "12.9.0-1", "held": False},
        "libcudnn9-cuda-12": {"version": "9.8.0.87-1", "held": False},
    }
    planned = plan_of(facts, cuda_toolkits=["12.9"])
    assert planned["cuda_toolkits"][0]["path"] == f"{USER_BASE}/cuda-12.9"
    assert of_toolkits(planned, facts)["remove"] == []
    found = of_cudnn(planned, facts)
    assert (found["remove"], found["hold"]) == ([], [])


def test_links_that_are_lost_are_made_again() -> None:
    planned, facts = converged(**REDIST)
    store = next(row for row in facts["toolkit_store"] if row["product"] == "cudnn" and row["cuda_major"] == 12)
    store["links"] = []
    found = of_cudnn(planned, facts)
    assert (steps(found), found["links"], found["entries"]) == (["links", "verify"], ["/usr/local/cuda-12.4"], [])
    planned, facts = converged(**REDIST)
    link = "/usr/local/cuda-12.4/include/cudnn.h"
    facts["records"]["cudnn"] |= {"links": {link: None}}
    facts["records"]["cudnn"]["noted"]["links"] = {link: "/opt/gpulab/toolkits/x/include/cudnn.h"}
    assert of_cudnn(planned, facts)["links"] == ["/usr/local/cuda-12.4"]


def test_a_toolkit_of_somebody_is_never_installed_but_set_up() -> None:
    facts = bare_host(cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.3")])
    planned = plan_of(facts, cuda_toolkits=["12.6"])
    assert planned["cuda_toolkits"][0]["source"] == "existing"
    found = of_toolkits(planned, facts)
    assert (found["toolkits"], steps(found)) == ([], ["default", "environment", "verify"])


def test_a_foreign_directory_that_would_be_replaced_is_said() -> None:
    facts = bare_host(cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.3")])
    answer = ask(facts, cuda_toolkits=["12.6"], cuda_source="redist")
    assert any("cuda_source: existing takes it as it is" in text for text in answer["warnings"])
    silent = bare_host(cuda=[toolkit_row("/usr/local/cuda-12.6", None)])
    answer = ask(silent, cuda_toolkits=["12.6"], cuda_source="redist")
    assert any("does not say its release" in text and "move it away" in text for text in answer["warnings"])
    (row,) = of_toolkits(answer["plan"], facts)["toolkits"]
    assert (row["from"], row["from_source"]) == (None, None)


def test_the_driver_of_a_host_and_its_toolkits_change_apart() -> None:
    facts = host_with_gpu("ubuntu2204", **{key: value for key, value in bare_host().items() if key.startswith("cu")})
    planned = plan_of(facts, cuda_toolkits=["12.9"])
    found = change(planned, driver_made(facts, planned))
    assert found["driver"] is None
    assert steps(found["cuda_toolkit"])[0] == "repository"
