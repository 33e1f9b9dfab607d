# SPDX-License-Identifier: Apache-2.0
"""CUDA 12.4 and 13.0 beside each other, with cuDNN for both, on hosts without a GPU: for all users of a host, for one
user alone, and where the system's compiler is too new. Real compilers and libraries; there is no GPU to run kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_runs import recap
from cuda_hosts import CUDNN_PROGRAM, NEW_GCC, PLAYBOOKS, CudaHost, refused, steps_named, steps_taken

TOOLKITS = ["13.0.2", "12.4.1"]
CUDNN = "9.13.0.50"
#: Host -> its image, and who logs in: both has no compiler, mine is used by one who may not become root.
HOSTS = {"both": ("plain", "root"), "mine": ("compiler", "bob"), "late": ("new-gcc", "root")}
BASE = {"both": "/opt/gpulab", "mine": "/home/bob/.local/share/gpulab", "late": "/opt/gpulab"}
#: Where the links of a host lie.
PREFIX = {"both": "/usr/local", "mine": BASE["mine"], "late": "/usr/local"}
#: Series -> an architecture that it compiles for.
ARCHITECTURES = {"13.0": "75", "12.4": "75"}


@pytest.fixture(scope="module")
def hosts(lab: Any) -> Iterator[dict[str, CudaHost]]:
    """The hosts, started."""
    started = {name: lab.host(name, kind, user=user) for name, (kind, user) in HOSTS.items()}
    yield started
    lab.bed.remove_machines([host.machine.name for host in started.values()])


@pytest.fixture(scope="module")
def variables(lab: Any) -> dict[str, dict[str, Any]]:
    """What is asked for on each."""
    return {
        "both": lab.variables(TOOLKITS, CUDNN),
        # The whole toolkit, of which most components are small stand-ins.
        "mine": lab.variables(
            ["13.0.2"], CUDNN, stack_cuda_components="auto", cuda_toolkit_shell_rc=["~/.bashrc", "~/.zshrc"]
        ),
        "late": lab.variables(TOOLKITS, CUDNN),
    }


@pytest.fixture(scope="module")
def before(hosts: Any) -> dict[str, dict[str, str]]:
    """Every file of the fresh hosts."""
    return {name: host.files() for name, host in hosts.items()}


@pytest.fixture(scope="module")
def checked(lab: Any, hosts: Any, variables: Any, before: Any) -> str:
    """What --check says of the fresh hosts."""
    done = lab.play(PLAYBOOKS / "provision.yml", hosts, "--check", variables=variables)
    assert done.status == 0, done.output
    return str(done.output)


@pytest.fixture(scope="module")
def after_check(hosts: Any, checked: str) -> dict[str, dict[str, str]]:
    """Every file after the run in check mode."""
    return {name: host.files() for name, host in hosts.items()}


@pytest.fixture(scope="module")
def provisioned(lab: Any, hosts: Any, variables: Any, after_check: Any) -> str:
    """What the real run printed."""
    done = lab.play(PLAYBOOKS / "provision.yml", hosts, variables=variables)
    assert done.status == 0, done.output
    return str(done.output)


@pytest.mark.parametrize("name", HOSTS)
def test_check_changes_nothing(name: str, before: Any, after_check: Any) -> None:
    assert changes(before[name], after_check[name]) == []


@pytest.mark.parametrize("name", HOSTS)
def test_check_names_the_steps_that_the_real_run_takes(name: str, checked: str, provisioned: str) -> None:
    assert steps_named(checked, name) == steps_taken(provisioned, name)
    assert "archives" in steps_named(checked, name)


@pytest.mark.parametrize("series", ARCHITECTURES)
@pytest.mark.parametrize("name", ["both", "late"])
def test_each_toolkit_compiles_device_code(name: str, series: str, hosts: Any, provisioned: str) -> None:
    compiler = "-ccbin g++-12" if name == "late" else ""
    nvcc = f"/usr/local/cuda-{series}/bin/nvcc"
    done = hosts[name].compiles(nvcc, ARCHITECTURES[series], user="ada", options=compiler)
    assert done.status == 0, done.output
    assert f"release {series}," in hosts[name].must(f"{nvcc} --version")


@pytest.mark.parametrize(("series", "directory"), [("12.4", "cuda12"), ("13.0", "cuda13")])
def test_each_toolkit_has_its_own_cudnn(series: str, directory: str, hosts: Any, provisioned: str) -> None:
    host, path = hosts["both"], f"/usr/local/cuda-{series}"
    host.write("/tmp/cudnn.cpp", CUDNN_PROGRAM)
    flags = f"-I{path}/include -L{path}/lib64 -Wl,-rpath,{path}/lib64"
    assert host.must(f"g++ {flags} -o /tmp/cudnn /tmp/cudnn.cpp -lcudnn && /tmp/cudnn").split() == ["91300", "91300"]
    assert f"-{directory}-" in host.must(f"realpath {path}/lib64/libcudnn.so.9")


def test_the_first_toolkit_is_the_default(hosts: Any, provisioned: str) -> None:
    assert hosts["both"].must("readlink -f /usr/local/cuda") == hosts["both"].must("readlink -f /usr/local/cuda-13.0")


def test_facts_say_what_is_there(lab: Any, hosts: Any, provisioned: str) -> None:
    facts = lab.facts(hosts["both"])
    found = {row["path"]: (row["version"], row["default"], row["ours"]) for row in facts["cuda"]}
    assert found == {"/usr/local/cuda-13.0": ("13.0.2", True, True), "/usr/local/cuda-12.4": ("12.4.1", False, True)}
    assert {row["version"] for row in facts["cudnn"] if row["ours"]} == {"9.13.0"}
    assert {row["state"] for row in facts["toolkit_store"]} == {"complete"}
    assert len(facts["toolkit_store"]) == 4


@pytest.mark.parametrize("name", ["both", "late"])
def test_files_are_roots_and_everybody_can_read_them(name: str, hosts: Any, provisioned: str) -> None:
    wrong = r"\( -not -user root -o -not -group root -o -perm /7022 -o -not -perm -a+r \) -not -type l"
    assert hosts[name].must(f"find /opt/gpulab/toolkits/*-* /opt/gpulab/cache/redist {wrong}") == ""


def test_the_second_run_changes_nothing(lab: Any, hosts: Any, variables: Any, provisioned: str) -> None:
    state = {name: host.files() for name, host in hosts.items()}
    again = lab.play(PLAYBOOKS / "provision.yml", hosts, variables=variables)
    assert again.status == 0, again.output
    assert {name: recap(again.output, name)["changed"] for name in hosts} == dict.fromkeys(hosts, 0), again.output
    assert {name: changes(state[name], host.files()) for name, host in hosts.items()} == {name: [] for name in hosts}
    # A converged host costs facts, plan and comparison, and none of the roles' tasks.
    assert "cuda_toolkit :" not in again.output
    assert "cudnn :" not in again.output


# --- where users and services find it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "sh"])
@pytest.mark.parametrize("user", ["ada", "root"])
def test_a_login_shell_finds_the_default(shell: str, user: str, hosts: Any, provisioned: str) -> None:
    said = hosts["both"].login(shell, 'nvcc --version; echo "home=$CUDA_HOME"; echo "path=$PATH"', user=user).output
    assert "release 13.0," in said, said
    assert "home=/usr/local/cuda\n" in said
    assert re.findall(r"^path=(.*)", said, re.M)[0].count("cuda") == 1, said


@pytest.mark.parametrize("shell", ["bash", "zsh", "sh"])
def test_a_shell_in_a_shell_doubles_nothing(shell: str, hosts: Any, provisioned: str) -> None:
    nested = f"{shell} -l -c '{shell} -l -c env'"
    said = hosts["both"].login(shell, nested).output
    (path,) = re.findall(r"^PATH=(.*)$", said, re.M)
    assert path.count("/cuda") == 1, said
    assert len(set(path.split(":"))) == len(path.split(":")), said


@pytest.mark.parametrize(("shell", "select"), [("bash", "cuda-select"), ("zsh", "cuda-select"), ("sh", "cuda_select")])
def test_a_user_selects_another_toolkit(shell: str, select: str, hosts: Any, provisioned: str) -> None:
    words = (
        f"{select} 12.4 && nvcc --version && {select} && {select} default && nvcc --version; {select} 9.9 || echo no"
    )
    said = hosts["both"].login(shell, f'{words}; echo "path=$PATH"').output
    assert re.findall(r"release (\d+\.\d)", said) == ["12.4", "13.0"], said
    assert "there is no CUDA 9.9 on this host" in said
    assert "12.4" in said.partition("9.9")[2]
    assert re.findall(r"^path=(.*)", said, re.M)[0].count("cuda") == 1, said


def test_a_selection_is_inherited_by_a_login_shell_within(hosts: Any, provisioned: str) -> None:
    said = hosts["both"].login("bash", "cuda-select 12.4 && bash -l -c 'nvcc --version'").output
    assert "release 12.4," in said, said


def test_sudo_finds_it(hosts: Any, provisioned: str) -> None:
    said = hosts["both"].run("cd && env -i PATH=/usr/bin:/bin sudo -n nvcc --version", user="ada").output
    assert "release 13.0," in said, said
    kept = hosts["both"].login("bash", "sudo -n env").output
    assert "CUDA_HOME=/usr/local/cuda\n" in kept, kept
    assert hosts["both"].run("visudo -c").status == 0


def test_a_service_finds_it_and_what_was_in_its_path(hosts: Any, provisioned: str) -> None:
    unit = "systemd-run --quiet --wait --pipe sh -c 'nvcc --version; env'"
    for said in (hosts["both"].run(unit).output, *after_reboot(hosts["both"], unit)):
        assert "release 13.0," in said, said
        assert "CUDA_HOME=/usr/local/cuda\n" in said, said
        (path,) = re.findall(r"^PATH=(.*)$", said, re.M)
        assert {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"} <= set(path.split(":")), said


def after_reboot(host: CudaHost, command: str) -> list[str]:
    """Return what a command says once the host has booted again."""
    host.restart()
    return [host.run(command).output]


def test_the_loader_finds_the_runtime_and_no_stub(hosts: Any, provisioned: str) -> None:
    cache = hosts["both"].must("ldconfig -p")
    assert "libcudart.so.13" in cache
    assert "stubs" not in cache
    assert "libcuda.so.1 " not in cache


def test_no_shell_is_told_a_library_path(hosts: Any, provisioned: str) -> None:
    for shell in ("bash", "zsh", "sh"):
        assert "LD_LIBRARY_PATH" not in hosts["both"].login(shell, "env").output


# --- one user alone ---------------------------------------------------------------------------------------------------


def test_a_user_without_root_gets_everything_below_their_home(hosts: Any, before: Any, provisioned: str) -> None:
    touched = changes(before["mine"], hosts["mine"].files())
    allowed = re.compile(r"/home/bob(/\.(bashrc|zshrc|local(/share(/gpulab(/.*)?)?)?))?$")
    assert [path for path in touched if not allowed.match(path)] == []


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_a_users_own_shell_finds_it_once(shell: str, file: str, hosts: Any, provisioned: str) -> None:
    host = hosts["mine"]
    # Debian's .bashrc ends at once where nobody is there to type.
    said = host.run(
        f"cd && env -i HOME=/home/bob PATH=/usr/bin:/bin TERM=dumb {shell} -i -c 'nvcc --version; env'"
    ).output
    assert "release 13.0," in said, said
    assert f"CUDA_HOME={BASE['mine']}/cuda" in said
    assert host.must(f"grep -c 'gpulab: CUDA' /home/bob/{file}").strip() == "2"


def test_a_whole_toolkit_has_all_its_components(lab: Any, hosts: Any, provisioned: str) -> None:
    host, base = hosts["mine"], BASE["mine"]
    said = json.loads(host.must(f"cat {base}/cuda-13.0/version.json"))
    assert {"cuda_nvcc", "cuda_cudart", "libcublas"} <= said.keys(), said
    assert host.run(f"ls {base}/cuda-13.0/include/libcublas.h {base}/cuda-13.0/lib64/libcublas.so.13.0.2").status == 0


def test_a_user_compiles_with_their_own_toolkit(hosts: Any, provisioned: str) -> None:
    done = hosts["mine"].compiles(f"{BASE['mine']}/cuda-13.0/bin/nvcc", "90")
    assert done.status == 0, done.output


# --- a compiler that is too new ---------------------------------------------------------------------------------------


def test_nvcc_refuses_the_systems_compiler_unless_it_is_told_another(hosts: Any, provisioned: str) -> None:
    host = hosts["late"]
    assert host.must("gcc -dumpversion").strip() == NEW_GCC
    alone = host.compiles("/usr/local/cuda-13.0/bin/nvcc", "75")
    assert "unsupported GNU version" in alone.output
    for series in ARCHITECTURES:
        build = f"cuda_select {series} && nvcc -arch=sm_75 -o /tmp/late-{series} /tmp/program.cu && /tmp/late-{series}"
        done = host.login("bash", f'{build} && echo "ccbin=$NVCC_CCBIN"')
        assert "ccbin=/usr/bin/g++-12" in done.output, done.output


def test_a_host_whose_compiler_fits_is_told_none(hosts: Any, provisioned: str) -> None:
    assert "NVCC_CCBIN" not in hosts["both"].login("bash", "env").output


def test_a_host_without_a_compiler_gets_the_distributions(hosts: Any, before: Any, provisioned: str) -> None:
    assert "/usr/bin/g++" not in before["both"]
    assert hosts["both"].must("g++ -dumpversion").strip() == "12"


# --- another default, and the way back --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def switched(lab: Any, hosts: Any, variables: Any, provisioned: str) -> str:
    """The run that makes the second toolkit the default."""
    stack = {**variables["both"]["gpu_stack"], "cuda_toolkits": TOOLKITS[::-1]}
    done = lab.provision(hosts["both"], {**variables["both"], "gpu_stack": stack})
    assert done.status == 0, done.output
    return str(done.output)


def test_switching_the_default_downloads_nothing(lab: Any, hosts: Any, switched: str) -> None:
    assert "archives" not in steps_taken(switched, "both")
    said = hosts["both"].login("zsh", "nvcc --version").output
    assert "release 12.4," in said, said
    assert hosts["both"].must("readlink /usr/local/cuda").strip() in ("cuda-12.4", "/usr/local/cuda-12.4")
    service = hosts["both"].run("systemd-run --quiet --wait --pipe sh -c 'nvcc --version'").output
    assert "release 12.4," in service, service


@pytest.fixture(scope="module")
def one_series_removed(lab: Any, hosts: Any, variables: Any, switched: str) -> str:
    """The removal of one toolkit of a host."""
    consent = ("-e", "remove_cuda_consent=true", "-e", '{"remove_cuda_series": ["12.4"]}')
    done = lab.play(PLAYBOOKS / "remove_cuda.yml", {"late": hosts["late"]}, *consent, variables=variables)
    assert done.status == 0, done.output
    return str(done.output)


def test_one_toolkit_goes_and_the_other_stays(lab: Any, hosts: Any, variables: Any, one_series_removed: str) -> None:
    host = hosts["late"]
    assert host.must("ls -d /usr/local/cuda* && ls /opt/gpulab/toolkits").count("cuda-12.4") == 0
    assert "release 13.0," in host.login("bash", "nvcc --version").output
    assert "12.4" not in host.login("bash", "cuda-select").output
    assert "-cuda13-" in host.must("realpath /usr/local/cuda-13.0/lib64/libcudnn.so.9")
    fewer = {**variables["late"], "gpu_stack": {**variables["late"]["gpu_stack"], "cuda_toolkits": ["13.0.2"]}}
    for changed in (None, 0):
        done = lab.provision(host, fewer)
        assert done.status == 0, done.output
        assert changed in (None, recap(done.output, "late")["changed"]), done.output


@pytest.fixture(scope="module")
def removed(lab: Any, hosts: Any, variables: Any, one_series_removed: str) -> str:
    """The removal, first without the consent that it asks for."""
    playbook, state = PLAYBOOKS / "remove_cuda.yml", {name: host.files() for name, host in hosts.items()}
    asked = lab.play(playbook, hosts, variables=variables)
    refused(asked.output, "both", "remove_cuda_consent")
    checked = lab.play(playbook, hosts, "--check", variables=variables)
    assert checked.status == 0, checked.output
    assert {name: changes(state[name], host.files()) for name, host in hosts.items()} == {name: [] for name in hosts}
    done = lab.play(playbook, hosts, "-e", "remove_cuda_consent=true", variables=variables)
    assert done.status == 0, done.output
    return str(done.output)


@pytest.mark.parametrize("name", ["late", "mine"])
def test_removal_leaves_no_file_behind(name: str, hosts: Any, before: Any, removed: str) -> None:
    # A user's directories for what programs keep are everybody's.
    shared = ("/home/bob/.local", "/home/bob/.local/share")
    assert [path for path in changes(before[name], hosts[name].files()) if path not in shared] == []


def test_removal_leaves_nothing_but_what_packages_leave(hosts: Any, before: Any, removed: str) -> None:
    host = hosts["both"]
    left = changes(before["both"], host.files())
    owned = set(host.must("cat /var/lib/dpkg/info/*.list").splitlines())
    assert [
        path for path in left if path not in owned and not path.startswith(("/var/lib/dpkg/", "/etc/alternatives/"))
    ] == []
    assert "cuda" not in host.must("ldconfig -p")


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return the paths that came, went or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
