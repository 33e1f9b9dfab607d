# SPDX-License-Identifier: Apache-2.0
"""Hosts of the CUDA tests: Debian 12 in systemd containers without a GPU, and the server that they download from.

Users of every host: root; ada, who may use sudo; bob, who may not. bash, dash and zsh are there; a compiler only where
a test wants one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_runs import SETTINGS as ANSIBLE_SETTINGS
from ansible_runs import run_playbook
from project_tree import ROOT
from redist import CUDNN_PARTS, Redist
from repository_server import RepositoryServer
from testbed import Bed, Machine, Result

PLAYBOOKS = ROOT / "playbooks"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
# A prompt for somebody who logs in is not wanted: zsh asks a person without any dotfiles.
USERS = (
    "useradd --create-home --shell /bin/bash ada",
    "useradd --create-home --shell /bin/bash bob",
    "echo 'ada ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ada && chmod 440 /etc/sudoers.d/ada",
    "for home in /root /home/ada /home/bob; do touch $home/.zshrc; done && chown ada: /home/ada/.zshrc",
    "chown bob: /home/bob/.zshrc",
)
PLAIN = ("apt-get -qq update", f"{INSTALL} zsh", *USERS, "apt-get clean")
COMPILER = (f"{INSTALL} gcc g++ libc6-dev", "apt-get clean")
#: A gcc of a major that no toolkit takes: the distribution's, which says that it is another, to programs and to cpp.
NEW_GCC = "16"
STANDIN_GCC = f"""\
#!/bin/sh
# Stand-in of gcc {NEW_GCC}: it compiles as the distribution's does, and says another version.
case " $* " in
    *" -dumpversion "* | *" -dumpfullversion "*) echo {NEW_GCC}; exit ;;
    *" --version "*) echo "$(basename "$0") (stand-in of the tests) {NEW_GCC}.1.0"; exit ;;
esac
exec "/usr/bin/$(basename "$0" -{NEW_GCC})-12" -U__GNUC__ -D__GNUC__={NEW_GCC} "$@"
"""
TOO_NEW = (
    f"cat >/usr/bin/gcc-{NEW_GCC} <<'END'\n{STANDIN_GCC}END",
    f"chmod 755 /usr/bin/gcc-{NEW_GCC} && cp /usr/bin/gcc-{NEW_GCC} /usr/bin/g++-{NEW_GCC}",
    f"for name in gcc g++; do ln -sf $name-{NEW_GCC} /usr/bin/$name; done",
    f"mkdir -p /usr/lib/gcc/x86_64-linux-gnu/{NEW_GCC} && touch /usr/lib/gcc/x86_64-linux-gnu/{NEW_GCC}/cc1plus",
)
# Where Debian's own toolkit is in the archive.
NON_FREE = r"sed -i -E '/^deb / s/ main.*/ main contrib non-free non-free-firmware/' /etc/apt/sources.list"
#: What is asked for of a toolkit where a test does not say: the components that are real.
COMPONENTS = ["nvcc", "cudart", "cccl"]
#: What a run or anybody else may leave behind: logs, caches, lists, and Ansible's own files.
PASSING = (
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/var/lib/systemd",
    "/var/tmp",
    "/root/.cache",
    *(f"{home}/{name}" for home in ("/root", "/home/ada", "/home/bob") for name in (".ansible", ".ansible_async")),
    "/etc/ld.so.cache",
)
#: A program for the GPU that uses headers of the runtime and a kernel.
PROGRAM = r"""
#include <cstdio>
#include <cuda_runtime.h>
__global__ void add(int n, const float *a, float *b) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) b[i] += a[i];
}
int main() {
    int version = 0;
    cudaRuntimeGetVersion(&version);
    std::printf("%d\n", version);
    void (*kernel)(int, const float *, float *) = add;
    return kernel == nullptr;
}
"""
CUDNN_PROGRAM = r"""
#include <cstdio>
#include <cudnn.h>
int main() { std::printf("%zu %d\n", cudnnGetVersion(), CUDNN_VERSION); }
"""


class ArchiveServer(RepositoryServer):
    """The server of the test network, with ranges and the faults of long transfers."""

    def _start(self, bed: Bed) -> Machine:
        here, general = Path(__file__).parent, Path(__file__).parent.parent / "driver"
        programs = [here / "archive_server.py", general / "file_server.py"]
        volumes = [f"{self.root}:/srv/root:ro", f"{self.state}:/srv/state"]
        volumes += [f"{program}:/srv/{program.name}:ro" for program in programs]
        command = ["python3", "/srv/archive_server.py", "/srv/root", "/srv/state", str(self.port)]
        alias = [f"--network-alias={self.base.split('/')[2].split(':')[0]}"] if self.network != "host" else []
        machine = bed.machine(
            "archives", network=self.network, volumes=volumes, options=[*alias, "--init"], command=command
        )
        ask = f"import socket; socket.create_connection(('127.0.0.1', {self.port}), 1).close()"
        machine.wait_until(lambda: machine.run(f'python3 -c "{ask}"').status == 0)
        return machine


def image(bed: Bed, kind: str = "plain") -> str:
    """Return the image of hosts: plain, compiler (gcc 12 is there), or new-gcc (a gcc that is too new comes first)."""
    plain = bed.image_with("cuda", PLAIN)
    if kind == "plain":
        return plain
    compiler = bed.image_with("cuda-compiler", COMPILER, base=plain)
    return compiler if kind == "compiler" else bed.image_with("cuda-new-gcc", TOO_NEW, base=compiler)


def cudnn_parts(bed: Bed) -> dict[str, bytes]:
    """Return stand-ins of libraries of cuDNN, compiled in a container."""
    start = ["docker", "run", "--rm", "--interactive", "--network=none", image(bed, "compiler"), "sh", "-c"]
    made = {}
    for name, part in CUDNN_PARTS.items():
        build = f"gcc -x c - -shared -fPIC -s -Wl,-soname,{name}.so.9 -o /tmp/library && cat /tmp/library"
        source = f"int cudnn{part}VersionCheck(void) {{ return 0; }}\n".encode()
        made[name] = subprocess.run([*start, build], input=source, check=True, capture_output=True).stdout
    return made


@dataclass(frozen=True)
class CudaHost:
    """One host."""

    name: str
    machine: Machine
    user: str = "root"

    def run(self, command: str, *, user: str = "", timeout: float = 300) -> Result:
        """Run a command as a user, not as a login."""
        return self.machine.run(command, user=user or self.user, timeout=timeout)

    def must(self, command: str, *, user: str = "", timeout: float = 300) -> str:
        """Run a command that has to succeed, and return its output."""
        done = self.run(command, user=user, timeout=timeout)
        assert done.status == 0, f"{command}\n{done.output}"
        return done.output

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        command = [
            "docker",
            "exec",
            "-i",
            self.machine.name,
            "sh",
            "-c",
            f'mkdir -p "$(dirname {path})" && cat >{path}',
        ]
        subprocess.run(command, input=text.encode(), check=True, capture_output=True)

    def login(self, shell: str, command: str, *, user: str = "ada") -> Result:
        """Run a command in a login shell of a user, as over SSH: nothing of the container's environment is there."""
        home = "/root" if user == "root" else f"/home/{user}"
        clean = f"HOME={home} USER={user} LOGNAME={user} TERM=dumb PATH=/usr/local/bin:/usr/bin:/bin:/usr/games"
        self.write("/tmp/command", command)
        return self.run(f"cd {home} && env -i {clean} {shell} -l -c '. /tmp/command'", user=user)

    def restart(self, *, hard: bool = False) -> None:
        """Boot the host again; `hard`: after its power was cut."""
        if hard:
            subprocess.run(["docker", "kill", self.machine.name], check=True, capture_output=True)
            subprocess.run(["docker", "start", self.machine.name], check=True, capture_output=True)
            self.machine.wait_for_boot()
        else:
            self.machine.restart()

    def files(self) -> dict[str, str]:
        """Return every path of the host, but for what passes (`PASSING`): its kind, and what tells its contents."""
        prune = " -o ".join(f"-path {path}" for path in PASSING)
        listing = rf"find / -xdev \( {prune} \) -prune -o -printf '%p\t%y %m %U %l\n'"
        found = dict(line.split("\t", 1) for line in self.must(listing, user="root").splitlines())
        sums = self.must("find /etc /root /home -xdev -type f -exec sha256sum {} +", user="root")
        for line in sums.splitlines():
            digest, path = line.split("  ", 1)
            if path in found:
                found[path] += f" {digest[:16]}"
        return found

    def compiles(self, nvcc: str, architecture: str, *, user: str = "root", options: str = "") -> Result:
        """Compile a program with device code, look that the code is in it, and run its host part."""
        self.write("/tmp/program.cu", PROGRAM)
        build = f"{nvcc} {options} -arch=sm_{architecture} -o /tmp/program-{user} /tmp/program.cu"
        return self.run(f"{build} && grep -c 'sm_{architecture}' /tmp/program-{user} && /tmp/program-{user}", user=user)


@dataclass
class Lab:
    """Starts hosts, and runs playbooks against them."""

    bed: Bed
    server: ArchiveServer
    redist: Redist

    def host(
        self, name: str, kind: str = "plain", *, user: str = "root", tmpfs: tuple[str, ...] = (), **more: Any
    ) -> CudaHost:
        """Start a host that finds and trusts the server; Ansible logs in as `user`."""
        machine = self.bed.machine(
            name,
            image=image(self.bed, kind),
            network=self.server.network,
            tmpfs=tmpfs,
            volumes=self.server.authority.volumes(),
            options=self.server.options(),
            **more,
        )
        return CudaHost(name, machine, user)

    def variables(self, toolkits: Sequence[str], cudnn: str = "none", **more: Any) -> dict[str, Any]:
        """Return the variables of a host that takes archives from the server; `stack_*` are keys of the request."""
        stack = {key.removeprefix("stack_"): more.pop(key) for key in list(more) if key.startswith("stack_")}
        request = {
            "profile": "cpu",
            "driver": "none",
            "cuda_toolkits": list(toolkits),
            "cuda_source": "redist",
            "cuda_components": COMPONENTS,
            "cudnn": cudnn,
            "environments": [],
        }
        return {
            "gpu_stack": {**request, **stack},
            "cuda_toolkit_redist_url": self.server.url(Redist.cuda),
            "cudnn_redist_url": self.server.url(Redist.cudnn),
            **more,
        }

    def play(
        self,
        playbook: Path | str,
        hosts: Mapping[str, CudaHost],
        *arguments: str,
        variables: Mapping[str, Mapping[str, Any]],
        timeout: float = 900,
    ) -> Result:
        """Run a playbook (a file, or its text) against hosts, as a person would."""
        with tempfile.TemporaryDirectory(prefix="play-") as directory:
            words = self._words(Path(directory), playbook, hosts, variables)
            return run_playbook(*words, *arguments, timeout=timeout)

    def provision(self, host: CudaHost, variables: Mapping[str, Any], *arguments: str, timeout: float = 900) -> Result:
        """Provision one host."""
        return self.play(
            PLAYBOOKS / "provision.yml",
            {host.name: host},
            *arguments,
            variables={host.name: variables},
            timeout=timeout,
        )

    def start(self, host: CudaHost, variables: Mapping[str, Any], directory: Path) -> subprocess.Popen[str]:
        """Start provisioning one host, in a process group of its own so that it can be killed."""
        words = self._words(directory, PLAYBOOKS / "provision.yml", {host.name: host}, {host.name: variables})
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("ansible-playbook")), *words],
            cwd=ROOT,
            env=os.environ | ANSIBLE_SETTINGS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @staticmethod
    def _words(
        directory: Path,
        playbook: Path | str,
        hosts: Mapping[str, CudaHost],
        variables: Mapping[str, Mapping[str, Any]],
    ) -> list[str]:
        """Write the inventory, and the playbook where it is given as text; return what names them."""
        entries = {
            name: {
                "ansible_connection": "community.docker.docker",
                "ansible_host": host.machine.name,
                "ansible_user": host.user,
                **variables.get(name, {}),
            }
            for name, host in hosts.items()
        }
        listing = directory / "inventory.yml"
        listing.write_text(yaml.safe_dump({"all": {"hosts": entries}}, sort_keys=False))
        if isinstance(playbook, str):
            (directory / "playbook.yml").write_text(playbook)
            playbook = directory / "playbook.yml"
        return ["--inventory", str(listing), str(playbook)]

    def facts(self, host: CudaHost, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the facts of a host as site.yml gathers them."""
        text = """
- hosts: all
  gather_facts: false
  tasks:
    - gpu_facts:
        scope: "{{ gpulab_scope | default('auto') }}"
    - ansible.builtin.copy:
        content: "{{ ansible_facts['gpu_facts'] | to_json }}"
        dest: /tmp/facts.json
        mode: "0644"
"""
        done = self.play(text, {host.name: host}, variables={host.name: dict(variables or {})})
        assert done.status == 0, done.output
        return dict(json.loads(host.must("cat /tmp/facts.json")))


def steps_named(output: str, host: str) -> list[str]:
    """Return the steps that a run in check mode names for a host."""
    return re.findall(rf"^changed: \[{host}\] => \(item=(?:[\w ]+, )?(\w+)\)", output, re.M)


def steps_taken(output: str, host: str) -> list[str]:
    """Return the steps that a real run takes on a host, in its order."""
    included = re.findall(
        r"^included: .*/roles/(cuda_toolkit|cudnn)/tasks/step_(\w+)\.yml for ([\w, -]+)", output, re.M
    )
    return [step for _, step, names in included if host in names.split(", ")]


def failure(output: str, host: str) -> str:
    """Return the one failure of a host in a run's output, without the line breaks of its presentation."""
    assert "Traceback" not in output, output
    found = re.findall(
        rf"^(?:fatal: \[{host}\]:|failed: \[{host}\] \(item=).*?(?=\n\n|\n\w+: \[|\Z)", output, re.M | re.S
    )
    assert len(found) == 1, output
    return " ".join(found[0].replace("''", "'").split())


def refused(output: str, host: str, *words: str) -> None:
    """Check that a run failed a host with one message that has these words."""
    message = failure(output, host)
    assert not [word for word in words if word not in message], message


def wait_for(condition: Any, what: str, timeout: float = 120) -> None:
    """Wait for a condition; fail with what was waited for."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.2)
