# SPDX-License-Identifier: Apache-2.0
"""Toolkits and cuDNN are proved by use; whatever is wrong is said in words, and nothing is left behind."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

GCC = shutil.which("gcc")

#: Stands in for nvcc: knows its release, keeps how it was called, and "compiles" into the script that lies beside it.
NVCC = """#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
env > "$here/environment"
if [ "$1" = --version ]; then
  echo "Cuda compilation tools, release $(cat "$here/release"), V12.9.86"
  exit 0
fi
cp "$5" "$here/source.cu"
if [ -e "$here/fails" ]; then cat "$here/fails"; exit 1; fi
cp "$here/program" "$4"
chmod 755 "$4"
"""


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    path = tmp_path / "cuda-12.9"
    (path / "bin").mkdir(parents=True)
    (path / "lib64").mkdir()
    nvcc = path / "bin/nvcc"
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)
    (path / "bin/release").write_text("12.9")
    (path / "bin/program").write_text("#!/bin/sh\necho device 0 right 8.6\n")
    (path / "version.json").write_text('{"cuda": {"version": "12.9.1"}}')
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.fixture
def probe(cuda_probe: ModuleType, scratch: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """Run a probe and return its checks by id; nothing may be left in the directory for temporary files."""

    def run(timeout: int = 30, **given: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        params = {"toolkits": [], "cudnn": [], "environments": [], "timeout": timeout, **given}
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
        try:
            rows = cuda_probe.probe(params, [str(scratch)])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert list(scratch.iterdir()) == []
        return {row["id"]: row for row in rows}

    return run


def row(path: Path, **given: Any) -> dict[str, Any]:
    return {
        "path": str(path),
        "version": "12.9.1",
        "series": "12.9",
        "architectures": ["8.6", "9.0"],
        "cxx": None,
        "run": True,
        "compiles": True,
        "nvcc": None,
        **given,
    }


Probe = Callable[..., dict[str, dict[str, Any]]]


def test_the_device_program_is_compiled_for_every_architecture_and_run(probe: Probe, toolkit: Path) -> None:
    checks = probe(toolkits=[row(toolkit, cxx="/usr/bin/g++-13")])
    assert checks["nvcc_version"]["ok"] is True
    assert checks["compiles"]["ok"] is True
    assert (checks["runs"]["ok"], checks["runs"]["detail"]) == (True, "GPU 0 (8.6)")
    call = (toolkit / "bin/calls").read_text().splitlines()[1]
    assert "-gencode arch=compute_86,code=sm_86 -gencode arch=compute_90,code=sm_90" in call
    assert "--cudart static" in call
    assert call.endswith("-ccbin /usr/bin/g++-13")
    assert "ptx" not in call.lower()
    assert "code=compute" not in call
    assert "__global__" in (toolkit / "bin/source.cu").read_text()


def test_commands_run_in_a_clean_environment(
    probe: Probe, toolkit: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LD_LIBRARY_PATH", "NVCC_APPEND_FLAGS", "CPATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "/nowhere" if name != "LD_PRELOAD" else "")
    probe(toolkits=[row(toolkit)])
    environment = dict(line.split("=", 1) for line in (toolkit / "bin/environment").read_text().splitlines())
    assert environment["PATH"].split(":")[0] == str(toolkit / "bin")
    assert environment["TMPDIR"].startswith(f"{scratch}/gpulab-cuda-")
    unexpected = set(environment) - {
        "PATH",
        "HOME",
        "TMPDIR",
        "LC_ALL",
        "CUDA_CACHE_DISABLE",
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }
    assert unexpected == set()


def test_without_a_gpu_nothing_is_run(probe: Probe, toolkit: Path) -> None:
    checks = probe(toolkits=[row(toolkit, run=False)])
    assert checks["compiles"]["ok"] is True
    assert "runs" not in checks


def test_a_toolkit_without_a_compiler_is_not_asked_to_compile(probe: Probe, toolkit: Path) -> None:
    assert set(probe(toolkits=[row(toolkit, compiles=False)])) == {"cudart_loads", "no_stub"}


def test_another_release_than_planned_is_found(probe: Probe, toolkit: Path) -> None:
    (toolkit / "bin/release").write_text("12.4")
    check = probe(toolkits=[row(toolkit)])["nvcc_version"]
    assert (check["ok"], check["subject"]) == (False, str(toolkit))
    assert check["detail"] == f"{toolkit}/bin/nvcc says 12.4, and 12.9 is expected"
    (toolkit / "bin/release").write_text("12.9")
    (toolkit / "version.json").write_text('{"cuda": {"version": "12.9.0"}}')
    assert "version.json says 12.9.0" in probe(toolkits=[row(toolkit)])["nvcc_version"]["detail"]
    for text in ('{"cuda": {"version": "12.9.20250531"}}', "{", '{"cuda": []}'):
        (toolkit / "version.json").write_text(text)
        assert probe(toolkits=[row(toolkit)])["nvcc_version"]["ok"] is True


def test_a_toolkit_that_is_not_there_is_said_to_be_missing(probe: Probe, tmp_path: Path) -> None:
    checks = probe(toolkits=[row(tmp_path / "nowhere")])
    assert "nowhere/bin/nvcc: No such file" in checks["nvcc_version"]["detail"]
    assert checks["cudart_loads"]["detail"] == "there is no libcudart.so in it"
    assert "compiles" not in checks


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("#error -- unsupported GNU version! gcc versions later than 14 are not supported!", "install an older one"),
        ("nvcc fatal : Unsupported gpu architecture 'compute_120'", "does not compile for that GPU"),
        ("sh: 1: cicc: not found", "a component was left out"),
        ("gcc: No such file or directory", "there is no C++ compiler"),
        ("", "nvcc failed silently"),
    ],
)
def test_why_nothing_compiles_is_said_in_words(probe: Probe, toolkit: Path, output: str, words: str) -> None:
    (toolkit / "bin/fails").write_text(output)
    checks = probe(toolkits=[row(toolkit)])
    assert checks["compiles"]["ok"] is False
    assert words in checks["compiles"]["detail"]
    assert output in checks["compiles"]["detail"]
    assert "runs" not in checks


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo device -1 error 35 text; exit 1", "CUDA: the driver is older than this toolkit needs"),
        ("echo device 0 right 8.6; echo device 1 error 2 oom; exit 1", "GPU 1: the GPU's memory is full"),
        ("echo device 0 wrong 5 7; exit 1", "GPU 0 calculates wrongly (element 5 is 7)"),
        ("echo device 0 skipped 7.0", "there is no GPU of 8.6, 9.0"),
        ("true", "there is no GPU of 8.6, 9.0"),
        ("echo broken; exit 3", "broken"),
        ("kill -SEGV $$", "it was ended by SIGSEGV"),
    ],
)
def test_what_went_wrong_on_the_gpu_is_said_in_words(probe: Probe, toolkit: Path, body: str, words: str) -> None:
    (toolkit / "bin/program").write_text(f"#!/bin/sh\n{body}\n")
    check = probe(toolkits=[row(toolkit)])["runs"]
    assert check["ok"] is False
    assert words in check["detail"]


def test_a_command_that_hangs_is_ended_with_everything_it_started(probe: Probe, toolkit: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    (toolkit / "bin/program").write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {child}\nwait\n")
    before = time.monotonic()
    assert probe(timeout=1, toolkits=[row(toolkit)])["runs"]["detail"] == "it was stopped after 1 s"
    assert time.monotonic() - before < 15
    _gone(int(child.read_text()))


def test_what_a_finished_command_left_running_is_ended(probe: Probe, toolkit: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    program = f"#!/bin/sh\nsleep 600 &\necho $! > {child}\necho device 0 right 8.6\n"
    (toolkit / "bin/program").write_text(program)
    assert probe(toolkits=[row(toolkit)])["runs"]["ok"] is True
    _gone(int(child.read_text()))


def _gone(pid: int) -> None:
    """Wait until a process is dead, whoever has to collect it."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is left")


def test_a_probe_that_is_stopped_leaves_nothing(toolkit: Path, scratch: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    (toolkit / "bin/program").write_text(
        f"#!/bin/sh\nsleep 600 &\necho $! > {child}.new; mv {child}.new {child}\nwait\n"
    )
    root = Path(__file__).resolve().parents[3]
    program = f"""
import sys
import ansible.module_utils
ansible.module_utils.__path__.append({str(root / "module_utils")!r})
sys.path.insert(0, {str(root / "library")!r})
import cuda_probe
cuda_probe.probe({{"toolkits": [{row(toolkit)!r}], "cudnn": [], "environments": [], "timeout": 60}}, [{str(scratch)!r}])
"""
    with subprocess.Popen([sys.executable, "-B", "-c", program]) as job:
        deadline = time.monotonic() + 30
        while not child.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        job.send_signal(signal.SIGHUP)
        assert job.wait(20) == 128 + signal.SIGHUP
    assert list(scratch.iterdir()) == []
    _gone(int(child.read_text()))


def test_a_place_is_found_where_programs_may_run(
    cuda_probe: ModuleType, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = importlib.import_module("ansible.module_utils.cuda_workshop")
    closed, real = tmp_path / "closed", os.statvfs

    class Noexec:
        f_flag, f_bavail, f_frsize = os.ST_NOEXEC, 2**40, 1

    closed.mkdir()
    monkeypatch.setattr(os, "statvfs", lambda path: Noexec if str(path) == str(closed) else real(path))
    assert workshop.place([None, "/nowhere", str(closed), str(scratch)]) == str(scratch)
    with pytest.raises(workshop.Failed, match=rf"{closed} is mounted noexec\. Set TMPDIR"):
        workshop.place([str(closed)])
    Noexec.f_flag, Noexec.f_bavail = 0, 1
    with pytest.raises(workshop.Failed, match="has less than 64 MiB free"):
        workshop.place([str(closed)])


def test_a_host_that_forbids_programs_in_temporary_directories_is_told_what_to_set(probe: Probe, toolkit: Path) -> None:
    nvcc = toolkit / "bin/nvcc"
    nvcc.write_text(NVCC.replace('chmod 755 "$4"', 'chmod 644 "$4"'))
    assert "set TMPDIR in the environment of this task" in probe(toolkits=[row(toolkit)])["runs"]["detail"]


def test_a_library_that_is_none_does_not_load(probe: Probe, toolkit: Path) -> None:
    (toolkit / "lib64/libcudart.so.12").write_text("no library")
    checks = probe(toolkits=[row(toolkit)])
    assert checks["cudart_loads"]["ok"] is False
    assert "libcudart.so.12" in checks["cudart_loads"]["detail"]
    assert "Traceback" not in checks["cudart_loads"]["detail"]
    assert "cudart_version" not in checks


def library(path: Path, source: str, soname: str = "") -> str:
    """Build a small library with the host's compiler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert GCC
    name = ["-Wl,-soname," + soname] if soname else []
    command = [GCC, "-shared", "-fPIC", *name, "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return str(path)


needs_gcc = pytest.mark.skipif(GCC is None, reason="no gcc here to build stand-ins for libraries with")


@needs_gcc
def test_the_runtime_library_says_of_which_release_it_is(probe: Probe, toolkit: Path) -> None:
    source = "int cudaRuntimeGetVersion(int *v) { *v = %d; return 0; }"
    library(toolkit / "lib64/libcudart.so.12", source % 12090)
    assert probe(toolkits=[row(toolkit)])["cudart_version"]["ok"] is True
    library(toolkit / "lib64/libcudart.so.12", source % 12040)
    assert "it says 12.4, and 12.9 is expected" in probe(toolkits=[row(toolkit)])["cudart_version"]["detail"]
    # That of CUDA 11 says nothing without a driver.
    silent = "int cudaRuntimeGetVersion(int *v) { return 35; }"
    library(toolkit / "lib64/libcudart.so.12", silent)
    assert probe(toolkits=[row(toolkit)])["cudart_version"]["ok"] is True
    (toolkit / "lib64/libcudart.so.12").unlink()
    library(toolkit / "lib64/libcudart.so.12.4.127", silent)
    (toolkit / "lib64/libcudart.so.12").symlink_to("libcudart.so.12.4.127")
    assert "it says 12.4, and 12.9 is expected" in probe(toolkits=[row(toolkit)])["cudart_version"]["detail"]
    (toolkit / "lib64/libcudart.so.12").unlink()
    library(toolkit / "lib64/libcudart.so.12", "int cudaRuntimeGetVersion(int *v) { return *(volatile int *)0; }")
    assert "SIGSEGV" in probe(toolkits=[row(toolkit)])["cudart_loads"]["detail"]


CUDNN = """
#include <stddef.h>
size_t cudnnGetVersion(void) { return %d; }
size_t cudnnGetCudartVersion(void) { return 12090; }
int cudnnOpsVersionCheck(void) { return %d; }
"""
HEADER = """
#include <stddef.h>
size_t cudnnGetVersion(void);
#define CUDNN_MAJOR 9
#define CUDNN_MINOR 13
#define CUDNN_PATCHLEVEL 0
"""


def cudnn(home: Path, **given: Any) -> dict[str, Any]:
    return {
        "version": "9.13.0.50",
        "cuda_major": 12,
        "library": str(home / "lib64/libcudnn.so.9"),
        "include": str(home / "include/cudnn.h"),
        "toolkit": str(home),
        "cxx": None,
        **given,
    }


@needs_gcc
def test_cudnn_is_loaded_with_its_parts_and_linked_with_the_toolkit(probe: Probe, toolkit: Path) -> None:
    library(toolkit / "lib64/libcudnn.so.9", CUDNN % (91300, 0), "libcudnn.so.9")
    (toolkit / "lib64/libcudnn.so").symlink_to("libcudnn.so.9")
    (toolkit / "include").mkdir()
    (toolkit / "include/cudnn.h").write_text(HEADER)
    checks = probe(cudnn=[cudnn(toolkit)])
    assert checks["cudnn_loads"]["ok"] is True
    assert checks["cudnn_loads"]["detail"] == "9.13.0.50, parts: Ops"
    assert checks["cudnn_links"]["ok"] is True
    assert "cudnn_links" not in probe(cudnn=[cudnn(toolkit, toolkit=None)])
    assert (
        "calls itself 91300, and 91200" in probe(cudnn=[cudnn(toolkit, version="9.12.0.46")])["cudnn_loads"]["detail"]
    )
    assert "built for CUDA 12, and 13" in probe(cudnn=[cudnn(toolkit, cuda_major=13)])["cudnn_loads"]["detail"]
    (toolkit / "include/cudnn.h").write_text(HEADER.replace("13", "12"))
    assert "the header is of 9.12.0" in probe(cudnn=[cudnn(toolkit)])["cudnn_links"]["detail"]
    (toolkit / "include/cudnn.h").unlink()
    assert "cudnn.h" in probe(cudnn=[cudnn(toolkit)])["cudnn_links"]["detail"]


@needs_gcc
def test_a_cudnn_whose_parts_do_not_load_is_found(probe: Probe, toolkit: Path) -> None:
    library(toolkit / "lib64/libcudnn.so.9", CUDNN % (91300, 1004), "libcudnn.so.9")
    check = probe(cudnn=[cudnn(toolkit)])["cudnn_loads"]
    assert (check["ok"], check["detail"]) == (False, "its parts Ops are of another version or do not load")


@needs_gcc
def test_a_program_that_gets_another_cudnn_than_planned_is_found(probe: Probe, toolkit: Path, tmp_path: Path) -> None:
    library(toolkit / "lib64/libcudnn.so.9", CUDNN % (90100, 0), "libcudnn.so.9")
    (toolkit / "lib64/libcudnn.so").symlink_to("libcudnn.so.9")
    planned = library(tmp_path / "own/libcudnn.so.9", CUDNN % (91300, 0), "libcudnn.so.9")
    (tmp_path / "own/cudnn.h").write_text(HEADER)
    given = cudnn(toolkit, library=planned, include=str(tmp_path / "own"))
    assert "the program loads cuDNN 90100" in probe(cudnn=[given])["cudnn_links"]["detail"]


@pytest.mark.parametrize(("version", "number"), [("9.13.0.50", 91300), ("8.9.7.29", 8907), ("9.1", 90100)])
def test_cudnn_numbers_its_versions_in_its_own_way(cuda_probe: ModuleType, version: str, number: int) -> None:
    assert cuda_probe.number_of(version) == number


def test_a_stub_in_place_of_the_driver_is_found(cuda_probe: ModuleType) -> None:
    class Workshop:
        def __init__(self, found: list[str]) -> None:
            self.found = found

        def own(self, *_: object) -> tuple[dict[str, list[str]], None]:
            return {"mapped": self.found}, None

    for found, ok in (
        (["/usr/local/cuda-12.9/lib64/stubs/libcuda.so"], False),
        (["/usr/lib/x86_64-linux-gnu/libcuda.so.580.1"], True),
        ([], True),
    ):
        checks = cuda_probe.Checks()
        cuda_probe._no_stub(checks, Workshop(found))
        assert checks.rows[0]["ok"] is ok
    assert checks.rows[0]["detail"] == "no libcuda.so.1 on this host"


@needs_gcc
def test_what_a_process_maps_is_seen(cuda_probe: ModuleType, toolkit: Path, scratch: Path) -> None:
    path = library(toolkit / "lib64/libcudnn.so.9", CUDNN % (91300, 0))
    workshop = importlib.import_module("ansible.module_utils.cuda_workshop")
    programs = importlib.import_module("ansible.module_utils.cuda_programs")
    with workshop.Workshop([str(scratch)], 30) as place:
        answer, problem = place.own(programs.CUDNN_LOADS, path)
    assert problem is None
    assert answer["mapped"] == [path]


def environment(tmp_path: Path, libraries: list[str], build: dict[str, str] | None = None, fails: str = "") -> Path:
    """Make an environment whose Python answers as if its frameworks had loaded these libraries."""
    python = tmp_path / "envs/ml/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    answer = "GPULAB " + json.dumps({"mapped": libraries, "build": build or {}})
    body = f"echo '{fails}'; exit 1" if fails else f"echo noise; echo '{answer}'"
    python.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n{body}\n")
    python.chmod(0o755)
    return python


def wish(python: Path, *frameworks: str, **given: Any) -> dict[str, Any]:
    return {
        "name": "ml",
        "python": str(python),
        "frameworks": list(frameworks),
        "cuda": "",
        "run": False,
        "library_path": "",
        **given,
    }


def test_an_environment_is_to_load_its_own_cudnn(probe: Probe, tmp_path: Path) -> None:
    prefix = tmp_path / "envs/ml"
    own = f"{prefix}/lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9"
    python = environment(tmp_path, [own])
    assert probe(environments=[wish(python, "pytorch")])["cudnn_of_environment"]["ok"] is True
    python = environment(tmp_path, [own, "/usr/lib/x86_64-linux-gnu/libcudnn_ops.so.9"])
    check = probe(environments=[wish(python, "pytorch", library_path="/usr/lib/x86_64-linux-gnu")])[
        "cudnn_of_environment"
    ]
    assert (check["ok"], check["subject"]) == (False, "ml")
    assert "loads /usr/lib/x86_64-linux-gnu/libcudnn_ops.so.9, which is not its own" in check["detail"]
    assert "LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu\n" in (tmp_path / "environment").read_text()
    python = environment(tmp_path, [])
    assert probe(environments=[wish(python, "jax")])["cudnn_of_environment"]["detail"] == "it loads none here"


def test_an_environment_behind_a_link_is_known_by_its_real_place(probe: Probe, tmp_path: Path) -> None:
    real = tmp_path / "generations/ml-1"
    environment(tmp_path, [f"{real}/lib/libcudnn.so.9"])
    shutil.move(tmp_path / "envs/ml", real)
    (tmp_path / "envs/ml").symlink_to(real)
    python = tmp_path / "envs/ml/bin/python"
    assert probe(environments=[wish(python, "pytorch")])["cudnn_of_environment"]["ok"] is True


def test_a_framework_that_cannot_be_imported_is_said_so(probe: Probe, tmp_path: Path) -> None:
    python = environment(tmp_path, [], fails="ImportError: libcudnn.so.9: cannot open shared object file")
    detail = probe(environments=[wish(python, "pytorch", "keras")])["cudnn_of_environment"]["detail"]
    assert detail.startswith("it cannot be imported: ImportError: libcudnn.so.9")
    assert probe(environments=[wish(python, "keras")]) == {}


def test_an_environment_with_the_hosts_cuda_is_to_load_the_planned_cudnn(
    probe: Probe, cuda_probe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_probe, "_cudnn", lambda *_: None)
    monkeypatch.setattr(cuda_probe, "_toolkit", lambda *_: None)
    store = tmp_path / "toolkits/cudnn/lib"
    store.mkdir(parents=True)
    (store / "libcudnn.so.9").write_text("")
    (tmp_path / "cuda-12.9/lib64").mkdir(parents=True)
    (tmp_path / "cuda-12.9/lib64/libcudnn.so.9").symlink_to(store / "libcudnn.so.9")
    build = {"cuda_version": "12.5.1", "cudnn_version": "9"}

    def check(libraries: list[str], run: bool = True, **changes: str) -> dict[str, dict[str, Any]]:
        python = environment(tmp_path, libraries, {**build, **changes})
        given = wish(python, "tensorflow", cuda="system", run=run)
        return probe(
            toolkits=[row(tmp_path / "cuda-12.9")], cudnn=[cudnn(tmp_path / "cuda-12.9")], environments=[given]
        )

    good = check([str(store / "libcudnn.so.9")])
    assert good["cudnn_of_environment"]["ok"] is True
    assert (good["tensorflow_build"]["ok"], good["tensorflow_build"]["detail"]) == (True, "CUDA 12.5.1, cuDNN 9")
    own = f"{tmp_path}/envs/ml/lib/libcudnn.so.9"
    assert "loads its own" in check([own])["cudnn_of_environment"]["detail"]
    assert f"expected from {store}" in check(["/opt/x/libcudnn.so.9"])["cudnn_of_environment"]["detail"]
    assert "finds no cuDNN of the host" in check([])["cudnn_of_environment"]["detail"]
    assert check([], run=False)["cudnn_of_environment"]["ok"] is True
    assert "built for CUDA 11.8, and the host has 12.9" in check([], cuda_version="11.8")["tensorflow_build"]["detail"]
    assert "a build without CUDA" in check([], cuda_version="")["tensorflow_build"]["detail"]
    assert check([], cudnn_version="9.13.0")["tensorflow_build"]["ok"] is True
    for newer in ("9.14", "8"):
        assert f"built for cuDNN {newer} with CUDA 12" in check([], cudnn_version=newer)["tensorflow_build"]["detail"]


def play(toolkit: Path, tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[3]
    task = {"cuda_probe": {"toolkits": [{"path": str(toolkit), "series": "12.9"}]}}
    content = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}]
    (tmp_path / "play.yml").write_text(json.dumps(content))
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    options = ["-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}", "play.yml", *more]
    environ = {**os.environ, "ANSIBLE_CONFIG": str(root / "ansible.cfg")}
    return subprocess.run([program, *options], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)


def test_the_module_fails_with_every_check_that_did_not_pass_and_proves_nothing_in_check_mode(
    toolkit: Path, tmp_path: Path
) -> None:
    (toolkit / "bin/release").write_text("12.4")
    done = play(toolkit, tmp_path)
    assert done.returncode == 2
    assert re.search(r"2 of \d+ checks failed:", done.stdout)
    assert f"- {toolkit}: nvcc is of this release: {toolkit}/bin/nvcc says 12.4" in done.stdout
    assert f"- {toolkit}: its runtime library loads: there is no libcudart.so in it" in done.stdout
    assert play(toolkit, tmp_path, "--check").returncode == 0
