# SPDX-License-Identifier: Apache-2.0
"""Toolkits and cuDNN as they are planned: from where, where to, and with which compiler."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_facts import USER_BASE, ask, bare_host, plan_of, toolkit_row
from driver_facts import RTX_3090, V100
from gpu_compat import plan, read_host
from gpu_compat.components import components_for, missing
from gpu_compat.installed import found_toolkits, kept_compilers, kept_cudnn, same_release
from gpu_compat.tables import shipped
from gpu_compat.toolkits import toolkits
from gpu_compat.versions import numbers, release_of
from situations import TODAY

TABLES = shipped()
GPU = [{"bus": "0000:01:00.0", "vendor": "0x10de", "device": RTX_3090, "driver": None}]


def toolkit(facts: dict[str, Any], version: str, **wishes: Any) -> dict[str, Any]:
    (found,) = plan_of(facts, cuda_toolkits=[version], **wishes)["cuda_toolkits"]
    return dict(found)


def conflict(facts: dict[str, Any], **wishes: Any) -> dict[str, Any]:
    answer = ask(facts, **wishes)
    assert answer["status"] == "conflict"
    return dict(answer["conflicts"][0])


# --- where from ------------------------------------------------------------------------------------------------------


def test_packages_have_all_that_a_role_needs() -> None:
    found = toolkit(bare_host("ubuntu2204"), "12.9")
    assert (found["packages"], found["package_version"]) == (["cuda-toolkit-12-9"], "12.9.2-*")
    assert found["hold"] == ["cuda-*-12-9", "cuda-*-12-9-config-common", "lib*-12-9", "gds-tools-12-9"]
    assert (found["path"], found["series"], found["major"]) == ("/usr/local/cuda-12.9", "12.9", 12)
    repository = found["repository"]
    assert (repository["kind"], repository["components"], repository["requires"]) == ("apt", [], [])
    assert repository["fingerprints"] == ["EB693B3035CD5710E231E123A4B469963BF863CC"]
    # A driver's repository asks for EPEL; a toolkit needs nothing of it.
    assert toolkit(bare_host("rhel9"), "12.9")["repository"]["requires"] == []


def test_no_package_that_is_planned_pulls_a_driver() -> None:
    for system in ("ubuntu2204", "rhel9"):
        for series in ("12.9", "13.0"):
            assert toolkit(bare_host(system), series)["packages"] == [f"cuda-toolkit-{series.replace('.', '-')}"]


@pytest.mark.parametrize(
    ("system", "arch", "version", "source"),
    [
        ("ubuntu2204", "x86_64", "12.9", "nvidia_repo"),
        ("ubuntu2204", "x86_64", "11.4", "redist"),
        ("debian12", "x86_64", "12.4", "nvidia_repo"),
        ("debian12", "aarch64", "12.4", "redist"),
        ("debian13", "x86_64", "12.9", "redist"),
        ("rhel9", "aarch64", "13.0", "nvidia_repo"),
        ("sles15", "x86_64", "12.9", "redist"),
    ],
)
def test_archives_are_taken_where_nvidia_has_no_packages(system: str, arch: str, version: str, source: str) -> None:
    request = {"environments": [], "cuda_toolkits": [version]}
    answer = plan(request, read_host({"os": system, "arch": arch, "gpus": []}), today=TODAY)
    (found,) = answer["plan"]["cuda_toolkits"]
    assert found["source"] == source
    told = next(row for row in answer["reasons"] if row["about"] == "cuda_toolkits[0].source")
    assert (told["choice"], bool(told["because"]), bool(told["source"])) == (source, True, True)


@pytest.mark.parametrize(("arch", "platform"), [("x86_64", "linux-x86_64"), ("aarch64", "linux-sbsa")])
def test_archives_are_named_as_nvidia_names_them(arch: str, platform: str) -> None:
    found = toolkit({**bare_host(), "arch": arch}, "12.4", cuda_source="redist")
    assert found["redist"]["platform"] == platform
    assert found["redist"]["manifest_url"].endswith("/compute/cuda/redist/redistrib_12.4.1.json")
    assert ("cuda_opencl" in found["redist"]["components"]) is (arch == "x86_64")
    (cudnn,) = plan_of({**bare_host(), "arch": arch}, cuda_toolkits=["12.4"], cuda_source="redist")["cudnn"]
    assert cudnn["redist"]["manifest_url"].endswith("/compute/cudnn/redist/redistrib_9.28.0.json")
    assert (cudnn["redist"]["platform"], cudnn["redist"]["variant"]) == (platform, "cuda12")


def test_a_runfile_has_its_address_and_its_checksums() -> None:
    found = toolkit(bare_host("ubuntu2204"), "12.4.1", cuda_source="runfile")["runfile"]
    assert found["file"] == "cuda_12.4.1_550.54.15_linux.run"
    assert found["url"].endswith(f"/12.4.1/local_installers/{found['file']}")
    assert found["md5_url"].endswith("/12.4.1/docs/sidebar/md5sum.txt")
    arm = toolkit({**bare_host("ubuntu2204"), "arch": "aarch64"}, "12.4.1", cuda_source="runfile")["runfile"]
    assert arm["file"] == "cuda_12.4.1_550.54.15_linux_sbsa.run"
    assert conflict(bare_host(), cuda_toolkits=["13.5"], cuda_source="runfile")["id"] == "source_vs_cuda"


@pytest.mark.parametrize("key", ["cuda_source", "cudnn_source"])
@pytest.mark.parametrize("source", ["nvidia_repo", "distro", "runfile"])
def test_without_root_what_changes_the_system_is_refused_in_words(key: str, source: str) -> None:
    if (key, source) == ("cudnn_source", "runfile"):
        return
    found = conflict(bare_host(scope="user"), cuda_toolkits=["11.8"], **{key: source})
    assert (found["id"], found["involves"]) == ("source_needs_root", ["host.scope", f"request.{key}"])
    assert "redist needs none" in found["message"]


def test_without_root_everything_lies_in_the_base_directory() -> None:
    planned = plan_of(bare_host(scope="user"), cuda_toolkits=["12.9", "13.0"])
    assert [row["path"] for row in planned["cuda_toolkits"]] == [f"{USER_BASE}/cuda-12.9", f"{USER_BASE}/cuda-13.0"]
    assert {row["source"] for row in (*planned["cuda_toolkits"], *planned["cudnn"])} == {"redist"}


def test_auto_takes_what_nvidia_has_packages_of_before_anything_newer() -> None:
    (found,) = plan_of(bare_host("debian12", gpus=GPU), cuda_toolkits=["auto"])["cuda_toolkits"]
    assert (found["source"], found["version"]) == ("nvidia_repo", "13.2.2")
    request = {"environments": [], "driver_source": "runfile"}
    host = read_host({"os": "debian11", "gpus": ["RTX 3090"], "kernel": "5.10.0-32-amd64"})
    (found,) = plan(request, host, today=TODAY)["plan"]["cuda_toolkits"]
    assert (found["source"], found["version"]) == ("nvidia_repo", "12.9.2")


def test_a_host_without_gpu_gets_what_is_named_and_nothing_else() -> None:
    planned = plan_of(bare_host(), cuda_toolkits=["auto", "12.4"])
    assert [(row["version"], row["default"]) for row in planned["cuda_toolkits"]] == [("12.4.1", True)]
    assert planned["driver"] is None
    assert plan_of(bare_host())["cuda_toolkits"] == []
    # A GPU that is not to be used forbids nothing.
    volta = bare_host(gpus=[{**GPU[0], "device": V100}])
    found = plan_of(volta, profile="cpu", cuda_toolkits=["13.0"])
    assert (found["cuda_toolkits"][0]["architectures"], found["cudnn"][0]["cuda_major"]) == (["7.5"], 13)
    assert conflict(volta, cuda_toolkits=["13.0"])["id"] == "gpu_arch_vs_cuda_max"


# --- what is there already -------------------------------------------------------------------------------------------


def test_somebodys_toolkit_is_taken_as_it_is() -> None:
    facts = bare_host("ubuntu2204", cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.1")])
    found = toolkit(facts, "12.6")
    assert (found["source"], found["version"], found["path"]) == ("existing", "12.6.1", "/usr/local/cuda-12.6")
    assert (found["packages"], found["repository"], found["redist"], found["hold"]) == ([], None, None, [])
    assert toolkit(facts, "12.6.1")["source"] == "existing"
    assert (toolkit(facts, "12.6.3")["source"], toolkit(facts, "12.6.3")["version"]) == ("nvidia_repo", "12.6.3")
    assert toolkit(facts, "12.8")["source"] == "nvidia_repo"


@pytest.mark.parametrize(
    "row",
    [
        toolkit_row("/usr/local/cuda-12.6", None),
        toolkit_row("/usr/local/cuda-12.6", "12.6.1", nvcc=False),
        toolkit_row("/usr/local/cuda-12.6", "12.6.1", ours=True),
        toolkit_row("/usr/local/cuda-12.6", "12.6.1", package="cuda-nvcc-12-6"),
        {"path": "/usr/local/cuda-12.6", "version": "12.6.1", "default": True},
    ],
)
def test_what_is_ours_or_incomplete_or_not_known_is_nobodys_toolkit(row: dict[str, Any]) -> None:
    assert toolkit(bare_host("ubuntu2204", cuda=[row]), "12.6")["source"] in ("nvidia_repo", "redist")


def test_a_source_that_is_installed_stays() -> None:
    packaged = bare_host("ubuntu2204", cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.1", package="cuda-nvcc-12-6")])
    assert toolkit(packaged, "12.6")["source"] == "nvidia_repo"
    ours = bare_host("ubuntu2204", cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.1", ours=True)])
    assert toolkit(ours, "12.6")["source"] == "redist"
    debian = bare_host(cuda=[toolkit_row("/usr/lib/cuda", "11.8.0", package="nvidia-cuda-toolkit")])
    assert toolkit(debian, "11.8")["source"] == "distro"
    assert toolkit(bare_host(), "11.8")["source"] == "redist"
    assert toolkit(packaged, "12.6", cuda_source="redist")["source"] == "redist"


def test_a_toolkit_from_a_runfile_is_known_by_what_was_noted() -> None:
    facts = bare_host("ubuntu2204", cuda=[toolkit_row("/usr/local/cuda-12.4", "12.4.1")])
    assert found_toolkits(facts)[0].source == "other"
    noted = {"12.4": {"version": "12.4.1", "source": "runfile", "path": "/usr/local/cuda-12.4"}}
    facts["records"]["cuda_toolkit"]["noted"] = {"digest": "x", "toolkits": noted}
    assert toolkit(facts, "12.4")["source"] == "runfile"


def test_without_root_the_packages_of_the_system_are_somebodys() -> None:
    row = toolkit_row("/usr/local/cuda-12.6", "12.6.3", package="cuda-nvcc-12-6")
    planned = plan_of(bare_host(scope="user", cuda=[row]), cuda_toolkits=["12.6"])
    assert planned["cuda_toolkits"][0]["source"] == "existing"
    # Nobody may write there, so nothing is linked, and that is said.
    assert planned["cudnn"][0]["toolkits"] == []
    answer = ask(bare_host(scope="user", cuda=[row]), cuda_toolkits=["12.6"])
    assert any("is linked into no toolkit" in text for text in answer["warnings"])


def test_existing_is_refused_where_there_is_none_and_told_what_there_is() -> None:
    facts = bare_host(cuda=[toolkit_row("/usr/local/cuda-12.6", "12.6.1")])
    found = conflict(facts, cuda_toolkits=["12.8"], cuda_source="existing")
    assert found["id"] == "source_vs_cuda"
    assert "CUDA 12.6.1 in /usr/local/cuda-12.6" in found["message"]
    assert "no CUDA toolkit" in conflict(bare_host(), cuda_toolkits=["12.8"], cuda_source="existing")["message"]


def test_releases_that_name_their_day_are_of_their_series() -> None:
    assert (release_of("11.8.20220929"), release_of("12.9.1"), release_of("12.9")) == (None, (12, 9, 1), (12, 9, 0))
    assert same_release("11.8.20220929", "11.8.0")
    assert not same_release("12.9.0", "12.9.1")
    assert not same_release(None, "12.9.1")
    facts = bare_host(cuda=[toolkit_row("/usr/local/cuda-11.8", "11.8.20220929")])
    assert toolkit(facts, "11.8")["source"] == "existing"
    assert toolkit(facts, "11.8.0")["source"] == "redist"


# --- cuDNN -----------------------------------------------------------------------------------------------------------


def test_cudnn_from_packages_is_for_one_major_at_a_time() -> None:
    facts = bare_host("ubuntu2204")
    one = plan_of(facts, cuda_toolkits=["12.9", "12.8"])["cudnn"]
    assert [(row["source"], row["packages"], row["package_version"]) for row in one] == [
        ("nvidia_repo", ["cudnn9-cuda-12"], "9.28.0.42-*")
    ]
    two = plan_of(facts, cuda_toolkits=["12.9", "13.0"])["cudnn"]
    assert [(row["cuda_major"], row["source"], row["toolkits"]) for row in two] == [
        (12, "redist", ["/usr/local/cuda-12.9"]),
        (13, "redist", ["/usr/local/cuda-13.0"]),
    ]


def test_cudnn_stays_with_its_source_and_follows_the_toolkits() -> None:
    facts = bare_host("ubuntu2204")
    assert plan_of(facts, cuda_toolkits=["11.4"])["cudnn"][0]["source"] == "redist"
    facts["cuda_packages"]["libcudnn9-cuda-12"] = {"version": "9.8.0.87-1", "held": True}
    assert plan_of(facts, cuda_toolkits=["12.9"], cuda_source="redist")["cudnn"][0]["source"] == "nvidia_repo"
    store = {"product": "cudnn", "version": "9.8.0.87", "cuda_major": 12, "state": "complete", "digest": "x"}
    facts["toolkit_store"] = [{**store, "name": "x", "path": "/opt/gpulab/toolkits/x", "links": ["/y"]}]
    assert plan_of(facts, cuda_toolkits=["12.9"])["cudnn"][0]["source"] == "redist"
    facts["toolkit_store"][0]["links"] = []  # it was taken out of use
    assert plan_of(facts, cuda_toolkits=["12.9"])["cudnn"][0]["source"] == "nvidia_repo"


def test_nothing_is_linked_into_the_directories_of_the_system() -> None:
    planned = plan_of(bare_host(), cuda_toolkits=["11.8"], cuda_source="distro")
    assert (planned["cudnn"][0]["source"], planned["cudnn"][0]["toolkits"]) == ("redist", [])


def test_the_cudnn_before_9_is_told_apart_by_its_cuda() -> None:
    facts = bare_host("ubuntu2204")
    (found,) = plan_of(facts, cuda_toolkits=["12.2"], cudnn="8.9.7.29", cudnn_source="nvidia_repo")["cudnn"]
    assert (found["packages"], found["package_version"]) == (["libcudnn8", "libcudnn8-dev"], "8.9.7.29-*+cuda12.*")
    facts["cuda_packages"]["libcudnn8"] = {"version": "8.9.7.29-1+cuda11.8", "held": False}
    assert kept_cudnn(facts) == (("11", "nvidia_repo"),)


def test_the_cudnn_of_a_distribution_is_told_to_download_by_itself() -> None:
    answer = ask(bare_host(), cuda_toolkits=["11.8"], cuda_source="distro", cudnn_source="distro")
    (found,) = answer["plan"]["cudnn"]
    assert (found["packages"], found["source"], found["toolkits"]) == (["nvidia-cudnn"], "distro", [])
    assert any("downloads it from NVIDIA by itself" in text for text in answer["warnings"])
    found = conflict(bare_host("ubuntu2204"), cuda_toolkits=["12.9"], cudnn_source="distro")
    assert found["id"] == "source_vs_cuda"


# --- components ------------------------------------------------------------------------------------------------------


def test_what_compiling_needs_comes_with_the_compiler() -> None:
    needed = {"cuda_nvcc", "cuda_cudart", "cuda_cccl"}
    assert set(components_for(["nvcc"], "12.9.1", "x86_64", TABLES)) == needed
    assert set(components_for(["nvcc"], "13.0.0", "x86_64", TABLES)) == {*needed, "cuda_crt", "libnvvm"}
    # The headers have another name from 13.3 on.
    later = {"cuda_nvcc", "cuda_cudart", "cccl", "cuda_crt", "libnvvm"}
    assert set(components_for(["nvcc"], "13.3.1", "x86_64", TABLES)) == later
    assert components_for(["cublas", "libcufft", "cuda_cudart"], "12.9.1", "x86_64", TABLES) == [
        "cuda_cudart",
        "libcublas",
        "libcufft",
    ]


def test_parts_are_found_by_either_name_of_the_headers() -> None:
    for part in ("cccl", "cuda_cccl"):
        assert components_for([part], "12.9.1", "x86_64", TABLES) == ["cuda_cccl"]
        assert components_for([part], "13.4.1", "x86_64", TABLES) == ["cccl"]
    assert missing(["nvcc", "nvjitlink"], "11.8.0", "x86_64", TABLES) == ["nvjitlink"]


def test_parts_that_a_release_lacks_are_refused_and_others_are_chosen_by_them() -> None:
    found = conflict(bare_host(), cuda_toolkits=["11.8"], cuda_source="redist", cuda_components=["nvjitlink"])
    assert (found["id"], found["involves"]) == (
        "unknown_component",
        ["request.cuda_components", "request.cuda_toolkits[0]"],
    )
    assert toolkit(bare_host(), "12", cuda_source="redist", cuda_components=["nvjitlink"])["version"] == "12.9.2"
    answer = ask(bare_host("ubuntu2204"), cuda_toolkits=["12.9"], cuda_components=["nvcc"])
    assert any("comes whole from its source" in text for text in answer["warnings"])


def test_a_series_has_one_release_on_a_host() -> None:
    found = conflict(bare_host(), cuda_toolkits=["12.9.0", "12.9.1"])
    assert (found["id"], len(found["involves"])) == ("two_of_one_series", 2)
    planned = plan_of(bare_host(), cuda_toolkits=["12.9", "12.9.1", "12"])
    assert [row["version"] for row in planned["cuda_toolkits"]] == ["12.9.1"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_release_with_archives_can_compile(machine: str) -> None:
    for found in toolkits(TABLES):
        if numbers(found.series) >= (11, 4):
            parts = components_for("auto", found.version, machine, TABLES)
            assert {"cuda_nvcc", "cuda_cudart", "libcublas"} <= set(parts)
            assert ("cuda_cccl" in parts) != ("cccl" in parts)


def test_the_digest_is_of_what_a_toolkit_is_made_of() -> None:
    facts = bare_host()
    wishes: dict[str, Any] = {"cuda_source": "redist"}
    first = toolkit(facts, "12.9", **wishes)["digest"]
    assert toolkit(bare_host(scope="user"), "12.9", **wishes)["digest"] == first
    assert toolkit(facts, "12.9.1", **wishes)["digest"] != first
    assert toolkit(facts, "12.9", cuda_components=["nvcc"], **wishes)["digest"] != first
    assert toolkit(facts, "12.9", cuda_source="nvidia_repo")["digest"] != first


# --- compilers -------------------------------------------------------------------------------------------------------


def compilers(own: str | None, *others: str, cxx: bool = True) -> dict[str, Any]:
    gcc = [{"major": m, "cc": f"/usr/bin/gcc-{m}", "cxx": f"/usr/bin/g++-{m}"} for m in others]
    if own:
        gcc.append({"major": own, "cc": f"/usr/bin/gcc-{own}", "cxx": f"/usr/bin/g++-{own}" if cxx else None})
    return {"default": {"cc": "/usr/bin/gcc", "major": own} if own else None, "gcc": gcc, "clang": []}


@pytest.mark.parametrize(
    ("system", "version", "known", "major", "packages", "cxx"),
    [
        ("ubuntu2404", "12.9", compilers("13"), None, None, None),
        ("ubuntu2404", "12.2", compilers("13"), "12", ["gcc-12", "g++-12"], "/usr/bin/g++-12"),
        # What the host has comes before what would have to be installed.
        ("ubuntu2404", "12.2", compilers("13", "11"), "11", ["gcc-11", "g++-11"], "/usr/bin/g++-11"),
        ("ubuntu2404", "12.2", compilers("13", "8"), "8", [], "/usr/bin/g++-8"),
        ("ubuntu2404", "12.2", compilers("11"), None, None, None),
        ("ubuntu2404", "13.0", compilers(None), "13", ["gcc", "g++"], None),
        ("rhel9", "13.0", compilers(None), "11", ["gcc", "gcc-c++"], None),
        ("ubuntu2404", "12.2", compilers(None), "12", ["gcc-12", "g++-12"], "/usr/bin/g++-12"),
        ("ubuntu2404", "13.0", compilers("13", cxx=False), "13", ["gcc", "g++"], None),
        ("ubuntu2404", "13.5", compilers("13"), None, None, None),
    ],
)
def test_the_host_compiler(
    system: str, version: str, known: Any, major: str | None, packages: list[str] | None, cxx: str | None
) -> None:
    answer = ask(bare_host(system, compilers=known), cuda_toolkits=[version])
    found = answer["plan"]["cuda_toolkits"][0]["host_compiler"]
    if major is None:
        assert found is None
    else:
        assert (found["major"], found["packages"], found["cxx"]) == (major, packages, cxx)
        assert any(row["about"] == "cuda_toolkits[0].host_compiler" for row in answer["reasons"])
    assert not any("nothing will compile" in text for text in answer["warnings"])


def test_a_distributions_toolkit_brings_its_own_compiler() -> None:
    answer = ask(bare_host(), cuda_toolkits=["11.8"], cuda_source="distro")
    assert answer["plan"]["cuda_toolkits"][0]["host_compiler"] is None
    assert not any("nothing will compile" in text for text in answer["warnings"])
    assert toolkit(bare_host(), "11.8", cuda_source="redist")["host_compiler"]["major"] == "11"


def test_a_compiler_that_nobody_can_give_is_a_warning() -> None:
    for facts in (
        bare_host("rhel10"),
        bare_host("ubuntu2404", scope="user", compilers=compilers("13")),
        bare_host("ubuntu2404", scope="user", compilers=compilers(None)),
    ):
        answer = ask(facts, cuda_toolkits=["12.2"])
        assert answer["plan"]["cuda_toolkits"][0]["host_compiler"] is None
        assert sum("nothing will compile" in text for text in answer["warnings"]) == 1


def test_compilers_that_are_not_known_are_those_of_the_system() -> None:
    assert kept_compilers({}) is None
    facts = bare_host("ubuntu2404", compilers=None)
    assert toolkit(facts, "12.2")["host_compiler"]["cxx"] == "/usr/bin/g++-12"
    assert toolkit(facts, "13.0")["host_compiler"] is None
    strange = {"default": {"cc": "/usr/bin/gcc", "major": None}, "gcc": [], "clang": []}
    assert toolkit(bare_host("ubuntu2404", compilers=strange), "13.0")["host_compiler"] is None


# --- TensorFlow with the CUDA of the host ----------------------------------------------------------------------------


def tensorflow(*toolkits_of: str, **wishes: Any) -> dict[str, Any]:
    wish = {"version": wishes.pop("version", "newest"), "cuda": "system"}
    request = {"cuda_toolkits": list(toolkits_of), "environments": [{"name": "tf", "frameworks": {"tensorflow": wish}}]}
    host = read_host({"os": "ubuntu2204", "gpus": ["A100"], "python": ["3.11", "3.9"]})
    return plan({**request, **wishes}, host, today=TODAY)


def test_tensorflow_is_offered_with_the_cuda_of_the_host() -> None:
    planned = tensorflow("12.9")["plan"]
    (environment,) = planned["environments"]
    build = environment["frameworks"]["tensorflow"]
    assert (build["wheel"], build["package"], environment["constraints"]) == ("system", "tensorflow", [])
    assert environment["requirements"] == [f"tensorflow=={build['version']}"]
    assert planned["cuda_toolkits"][0]["default"]


@pytest.mark.parametrize(
    ("toolkits_of", "wishes", "involved"),
    [
        (("13.0", "12.9"), {}, "request.cuda_toolkits"),
        (("11.8",), {"version": "==2.20.0"}, "request.cuda_toolkits"),
        (("12.4",), {"version": "==2.20.0"}, "request.cuda_toolkits[0]"),
        (("12.9",), {"version": "==2.20.0", "cudnn": "9.1.0.70"}, "request.cudnn"),
        (("12.9",), {"cudnn": "none"}, "request.cudnn"),
        ((), {}, "request.cuda_toolkits"),
    ],
)
def test_tensorflow_needs_the_right_default_and_a_cudnn_no_older_than_its_own(
    toolkits_of: tuple[str, ...], wishes: dict[str, Any], involved: str
) -> None:
    answer = tensorflow(*toolkits_of, **wishes)
    (found,) = answer["conflicts"]
    assert found["id"] == "toolkit_vs_framework"
    assert involved in found["involves"]
    assert answer["alternatives"]


def test_nobody_gets_the_cuda_of_the_host_without_asking() -> None:
    request = {"cuda_toolkits": ["12.9"], "environments": [{"name": "tf", "frameworks": {"tensorflow": "newest"}}]}
    host = read_host({"os": "ubuntu2204", "gpus": ["A100"], "python": "3.11"})
    (environment,) = plan(request, host, today=TODAY)["plan"]["environments"]
    assert environment["frameworks"]["tensorflow"]["wheel"] == "and-cuda"
