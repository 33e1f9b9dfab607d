# SPDX-License-Identifier: Apache-2.0
"""What the role cuda_toolkit says, reads and writes, without any host but this one's shells."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
from gpu_compat import taking_own_compiler

ROLE = Path(__file__).resolve().parents[3] / "roles" / "cuda_toolkit"


@pytest.fixture(scope="module")
def filters(filters_of_role: Callable[[str], ModuleType]) -> ModuleType:
    return filters_of_role("cuda_toolkit")


def toolkit(series: str, source: str = "redist", **others: Any) -> dict[str, Any]:
    """Return a toolkit as a plan names it."""
    return {
        "version": f"{series}.1",
        "series": series,
        "source": source,
        "path": f"/usr/local/cuda-{series}",
        "packages": [f"cuda-toolkit-{series.replace('.', '-')}"] if source == "nvidia_repo" else [],
        "package_version": f"{series}.1-*" if source == "nvidia_repo" else None,
        "redist": {"components": ["cuda_nvcc", "cuda_cudart"]} if source == "redist" else None,
        "host_compiler": None,
        "gcc_max": "13",
        "architectures": ["8.6"],
        "default": False,
        **others,
    }


# --- what is said and asked for ---------------------------------------------------------------------------------------


def test_a_step_names_the_packages_that_come_and_go(filters: ModuleType) -> None:
    change = {"toolkits": [{"series": "12.9"}], "remove": ["nvidia-cuda-toolkit"]}
    planned = [toolkit("12.9", "nvidia_repo"), toolkit("12.4", "nvidia_repo")]
    said = filters.step_text({"step": "packages", "why": "it is missing"}, change, planned)
    assert said == "packages: it is missing (removes nvidia-cuda-toolkit, installs cuda-toolkit-12-9)"


def test_the_sum_of_a_runfile_is_found_in_nvidias_list(filters: ModuleType) -> None:
    file, digest = "cuda_12.9.1_575.57.08_linux.run", "0123456789abcdef" * 2
    assert filters.md5_of(f"{'f' * 32}  other.run\n{digest} *{file}\n", file) == digest
    assert filters.md5_of("<html>not found</html>", file) == ""


@pytest.mark.parametrize(
    ("series", "version"),
    [("13.0", "2.27.3-1+cuda13.0"), ("13.1", "2.28.10-1+cuda13.1"), ("13.2", "2.28.10-1+cuda13.1"), ("11.8", "")],
)
def test_nccl_is_the_newest_that_was_built_for_the_toolkit_or_an_older_one_of_its_major(
    filters: ModuleType, series: str, version: str
) -> None:
    lines = [
        " libnccl2 | 2.28.10-1+cuda13.1 | file:/srv  Packages",
        " libnccl2 | 2.28.9-1+cuda13.1 | file:/srv  Packages",
        "libnccl.x86_64   2.27.3-1+cuda13.0   gpulab-nvidia",
        " libnccl2 | 2.29.1-1+cuda12.9 | file:/srv  Packages",
    ]
    assert filters.newest_nccl(lines, series) == version


def test_extras_that_cannot_be_had_are_answered_with_what_to_write(filters: ModuleType) -> None:
    told = filters.refused_extras(["nccl", "nsight_compute", "device_query"], toolkit("12.9"))
    assert [line.partition(":")[0] for line in told] == ["nccl", "nsight_compute"]
    assert "cuda_source: nvidia_repo" in told[0]
    assert "gpu_stack.cuda_components" in told[1]
    assert filters.refused_extras(["nccl", "nsight_systems"], toolkit("12.9", "nvidia_repo")) == []
    assert "no toolkit is planned" in filters.refused_extras(["device_query"], {})[0]


# --- what the host says -----------------------------------------------------------------------------------------------


def test_the_path_of_sudo_keeps_the_systems_own_in_front_and_ours_once(filters: ModuleType) -> None:
    own = "/usr/local/cuda/bin"
    told = "Sudo version 1.9\nValue to override user's $PATH with: /usr/sbin:/usr/bin\nOther: x\n"
    assert filters.secure_path(told, own) == f"/usr/sbin:/usr/bin:{own}"
    again = told.replace("/usr/sbin:/usr/bin", f"/usr/sbin:/usr/bin:{own}")
    assert filters.secure_path(again, own) == f"/usr/sbin:/usr/bin:{own}"
    assert filters.secure_path("Sudo version 1.9\n", own) == ""


def test_the_path_of_services_is_systemds_own_with_ours_behind(filters: ModuleType) -> None:
    assert filters.manager_path("LANG=C\nPATH=/a:/b\n", "/c") == "/a:/b:/c"
    assert filters.manager_path("", "/c").endswith("/bin:/c")


def test_modulefiles_go_where_a_module_system_reads_them(filters: ModuleType) -> None:
    found = filters.modulefiles({"lmod": "/m", "environment_modules": "/e"}, [toolkit("12.9")])
    assert [row["path"] for row in found] == ["/m/cuda/12.9.lua", "/e/cuda/12.9"]
    assert filters.modulefiles({"lmod": None, "environment_modules": None}, [toolkit("12.9")]) == []
    assert filters.modulefiles(None, [toolkit("12.9")]) == []


@pytest.mark.parametrize(
    ("row", "compilers", "compiles"),
    [
        ({}, {"default": {"cc": "/usr/bin/gcc", "major": "13"}, "gcc": []}, True),
        ({}, {"default": {"cc": "/usr/bin/gcc", "major": "14"}, "gcc": []}, False),
        ({}, {"default": None, "gcc": []}, False),
        ({}, None, True),
        ({"host_compiler": {"cxx": "/usr/bin/g++-13"}}, {"default": None, "gcc": []}, True),
        ({"redist": {"components": ["cuda_cudart"]}}, {"default": {"cc": "gcc", "major": "12"}, "gcc": []}, False),
    ],
)
def test_a_toolkit_is_asked_to_compile_only_with_nvcc_and_a_compiler_that_it_takes(
    filters: ModuleType, row: dict[str, Any], compilers: dict[str, Any] | None, compiles: bool
) -> None:
    planned = [toolkit("12.4", **row)]
    (probed,) = filters.to_probe(planned, taking_own_compiler(planned, compilers), False, True)
    assert probed["compiles"] is compiles
    assert bool(filters.not_proven([probed])) is not compiles


# --- the record, and what removal makes of it -------------------------------------------------------------------------


def now(**others: Any) -> dict[str, Any]:
    """Return what a run writes down, of a toolkit from archives."""
    return {
        "done": True,
        "steps": ["archives", "environment"],
        "digest": "d",
        "planned": [toolkit("12.9")],
        "store": [{"product": "cuda", "path": "/opt/t/cuda-12.9.1-a", "links": ["/usr/local/cuda-12.9"]}],
        "written": ["/etc/profile.d/gpulab-cuda.sh"],
        "blocks": ["/etc/zsh/zprofile"],
        "writes": ["/etc/profile.d/gpulab-cuda.sh"],
        "sums": {"/etc/profile.d/gpulab-cuda.sh": "s"},
        "default": {"path": "/usr/local/cuda", "previous": None, "alternative": None},
        "runfiles": {},
        "added": [],
        "before": ["cuda-nvcc-11-8"],
        "made": [],
        "replaced": {},
        **others,
    }


def test_before_the_steps_the_record_names_what_they_write_and_has_no_digest(filters: ModuleType) -> None:
    begun = filters.record({}, now(done=False, store=[], sums={}))
    assert begun["digest"] == ""
    assert begun["files"] == {"/etc/profile.d/gpulab-cuda.sh": ""}
    assert begun["links"] == {"/usr/local/cuda-12.9": ""}
    assert begun["before"] == ["cuda-nvcc-11-8"]


def test_after_the_steps_the_record_says_what_is_there(filters: ModuleType) -> None:
    done = filters.record({}, now())
    assert done["digest"] == "d"
    assert done["files"] == {"/etc/profile.d/gpulab-cuda.sh": "s"}
    assert done["links"] == {"/usr/local/cuda-12.9": "/opt/t/cuda-12.9.1-a"}
    assert done["toolkits"] == {"12.9": {"version": "12.9.1", "source": "redist", "path": "/usr/local/cuda-12.9"}}
    assert "before" not in done


def test_what_an_earlier_run_wrote_is_kept_where_this_one_does_not_write_it(filters: ModuleType) -> None:
    earlier = filters.record({}, now())
    later = filters.record(earlier, now(steps=["default"], written=["/other"], default=None, added=["libnccl2"]))
    assert later["environment"] == ["/etc/profile.d/gpulab-cuda.sh"]
    assert later["default"] == earlier["default"]
    assert later["added"] == ["libnccl2"]


def host(noted: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return the facts of a host with a toolkit of each kind."""
    return {
        "records": {"cuda_toolkit": {"noted": noted}},
        "cuda": [{"path": "/usr/local/cuda-12.9", "real": "/opt/t/cuda-12.9.1-a"}],
        "cuda_default": {"link": "/usr/local/cuda", "target": "cuda-12.9", "real": "/opt/t/cuda-12.9.1-a"},
        "cuda_packages": {"cuda-nvcc-11-8": {"version": "1", "held": False}},
        "toolkit_store": [
            {"product": "cuda", "path": "/opt/t/cuda-12.9.1-a", "links": ["/usr/local/cuda-12.9"]},
            {"product": "cudnn", "path": "/opt/t/cudnn-a", "links": ["/usr/local/cuda-12.9/lib64/libcudnn.so"]},
            {"product": "cudnn", "path": "/opt/t/cudnn-b", "links": ["/usr/local/cuda-13.0/lib64/libcudnn.so"]},
        ],
        **others,
    }


REMOVAL = {
    "packages": [],
    "held": [],
    "archives": ["/opt/t/cuda-12.9.1-a"],
    "links": ["/usr/local/cuda-12.9"],
    "runfiles": [],
    "files": ["/etc/profile.d/gpulab-cuda.sh", "/m/cuda/12.9.lua"],
    "replaced": {},
    "default": "/usr/local/cuda",
    "default_previous": "cuda-11.8",
    "records": ["cuda_toolkit"],
    "steps": ["remove 1 links: /usr/local/cuda-12.9", "let /usr/local/cuda lead to cuda-11.8 again"],
    "text": "",
}


def test_all_of_it_goes_with_its_lines_in_files_of_others(filters: ModuleType) -> None:
    found = filters.removal_of(REMOVAL, host(filters.record({}, now())), [])
    assert found["whole"]
    assert found["gone"] == ["/usr/local/cuda-12.9"]
    assert found["default_previous"] == "cuda-11.8"
    assert found["steps"][-1] == "take the marked lines out of /etc/zsh/zprofile"


def test_a_default_that_other_hands_led_elsewhere_stays(filters: ModuleType) -> None:
    theirs = {"link": "/usr/local/cuda", "target": "/opt/theirs", "real": "/opt/theirs"}
    found = filters.removal_of(REMOVAL, host(filters.record({}, now()), cuda_default=theirs), [])
    assert found["default"] is None
    assert not [step for step in found["steps"] if "/usr/local/cuda " in step]


def test_packages_of_an_interrupted_run_go_as_well(filters: ModuleType) -> None:
    packages = {"cuda-nvcc-11-8": {"version": "1", "held": False}, "cuda-nvcc-12-9": {"version": "1", "held": True}}
    begun = filters.record({}, now(done=False))
    found = filters.removal_of(REMOVAL, host(begun, cuda_packages=packages), [])
    assert found["packages"] == found["held"] == ["cuda-nvcc-12-9"]
    assert found["steps"][0] == "remove 1 packages of an interrupted run: cuda-nvcc-12-9"


def test_one_series_goes_with_its_cudnn_and_the_rest_stays(filters: ModuleType) -> None:
    noted = filters.record({}, now(planned=[toolkit("12.9"), toolkit("13.0")]))
    found = filters.removal_of(REMOVAL, host(noted), ["12.9"])
    assert not found["whole"]
    assert found["archives"] == ["/opt/t/cuda-12.9.1-a", "/opt/t/cudnn-a"]
    assert found["files"] == ["/m/cuda/12.9.lua"]
    assert list(found["record"]["toolkits"]) == ["13.0"]
    assert found["record"]["digest"] == ""
    assert found["default"] == "/usr/local/cuda"


def test_a_series_that_is_not_there_is_named(filters: ModuleType) -> None:
    assert filters.removal_of(REMOVAL, host(filters.record({}, now())), ["11.1"])["unknown"] == ["11.1"]


# --- the environment of shells ----------------------------------------------------------------------------------------


def script(tmp_path: Path, **settings: Any) -> Path:
    """Write the file that shells read, for toolkits below a directory of the test."""
    prefix = tmp_path / "local"
    for series in ("13.0", "12.4"):
        for name in ("bin", "lib64"):
            (prefix / f"cuda-{series}" / name).mkdir(parents=True)
        nvcc = prefix / f"cuda-{series}" / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho {series}\n")
        nvcc.chmod(0o755)
    (prefix / "cuda").symlink_to("cuda-13.0")
    told = [
        {"default": False, "path": f"{prefix}/cuda-12.4", "host_compiler": {"cxx": "/usr/bin/g++-13"}},
    ]
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["bool"] = bool
    text = environment.from_string((ROLE / "templates" / "cuda-env.sh.j2").read_text()).render(
        {
            "__cuda_toolkit_home": f"{prefix}/cuda",
            "__cuda_toolkit_prefix": str(prefix),
            "__cuda_toolkit_elsewhere": [],
            "__cuda_toolkit_told": told,
            "cuda_toolkit_library_path": False,
            **settings,
        }
    )
    file = tmp_path / "cuda-env.sh"
    file.write_text(text)
    return file


SHELLS = [name for name in ("dash", "bash", "zsh", "ksh", "busybox sh") if shutil.which(name.split()[0])]


def said(shell: str, file: Path, commands: str, **environment: str) -> list[str]:
    """Return what a shell prints that has read the file."""
    done = subprocess.run(
        [*shell.split(), "-eu", "-c", f'. "{file}"; {commands}'],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_finds_the_default_and_changes_to_another(tmp_path: Path, shell: str) -> None:
    file = script(tmp_path)
    commands = 'nvcc; cuda_select 12.4; nvcc; echo "$NVCC_CCBIN $NVCC_PREPEND_FLAGS"; cuda_select default; nvcc'
    lines = said(shell, file, f'{commands}; echo "${{NVCC_CCBIN-none}} $PATH"')
    assert lines[:4] == ["13.0", "12.4", "/usr/bin/g++-13 -ccbin /usr/bin/g++-13", "13.0"]
    assert lines[4] == f"none {tmp_path}/local/cuda/bin:/usr/bin:/bin"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_nested_shell_keeps_the_choice_and_doubles_nothing(tmp_path: Path, shell: str) -> None:
    file = script(tmp_path)
    inner = f'{shell} -c \'. "{file}"; . "{file}"; echo "$CUDA_HOME"; echo "$PATH"\''
    assert said(shell, file, f"cuda_select 12.4; {inner}") == [
        f"{tmp_path}/local/cuda-12.4",
        f"{tmp_path}/local/cuda-12.4/bin:/usr/bin:/bin",
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_series_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path, shell: str) -> None:
    lines = said(shell, script(tmp_path), 'cuda_select 9.9 2>&1 || echo "status $?"; nvcc')
    assert lines[0].startswith("cuda_select: there is no CUDA 9.9 on this host; there are: 12.4 13.0")
    assert lines[1:] == ["status 1", "13.0"]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_person_set_by_hand_stays(tmp_path: Path, shell: str) -> None:
    commands = 'cuda_select 12.4; echo "$NVCC_CCBIN $NVCC_PREPEND_FLAGS"'
    lines = said(shell, script(tmp_path), commands, NVCC_CCBIN="/my/g++", NVCC_PREPEND_FLAGS="-lineinfo")
    assert lines == ["/my/g++ -lineinfo"]


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_of_its_own_work_stays_in_the_shell(tmp_path: Path, shell: str) -> None:
    lines = said(shell, script(tmp_path), "cuda_select 12.4; set")
    left = [line for line in lines if line.split("=")[0] in ("rest", "directory", "entry", "head", "IFS_")]
    assert left == []
    assert not [line for line in lines if line.startswith("__gpulab_cuda_cxx=")]


@pytest.mark.parametrize("shell", [name for name in SHELLS if name in ("bash", "zsh")])
def test_bash_and_zsh_know_the_name_with_a_hyphen(tmp_path: Path, shell: str) -> None:
    assert said(shell, script(tmp_path), "cuda-select 12.4; nvcc") == ["12.4"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_library_path_is_set_only_where_it_is_asked_for(tmp_path: Path, shell: str) -> None:
    assert said(shell, script(tmp_path), 'echo "${LD_LIBRARY_PATH-none}"') == ["none"]
    other = tmp_path / "asked"
    other.mkdir()
    lines = said(shell, script(other, cuda_toolkit_library_path=True), 'echo "$LD_LIBRARY_PATH"', LD_LIBRARY_PATH="/a")
    assert lines == [f"{other}/local/cuda/lib64:/a"]
