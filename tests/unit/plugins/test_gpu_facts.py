# SPDX-License-Identifier: Apache-2.0
"""gpu_facts against fabricated trees: what is there, what is not, and what cannot be read."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import ansible
import fabricated_hosts
import pytest


def pci(root: Path, address: str, vendor: str, device: str, class_code: str) -> None:
    directory = root / "sys/bus/pci/devices" / address
    directory.mkdir(parents=True)
    for name, value in (("vendor", vendor), ("device", device), ("class", class_code)):
        (directory / name).write_text(f"{value}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(
        'PRETTY_NAME="Rocky Linux 9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
    )
    return tmp_path


@pytest.fixture(autouse=True)
def a_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the interpreters of whoever runs the tests out of them: some take long to answer."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def gather(module: ModuleType, root: Path, **params: Any) -> dict[str, Any]:
    defaults = {
        "root": str(root),
        "scope": "user",
        "become_password_given": False,
        "base_dir": "/opt/gpulab",
        "user_base_dir": str(root / "data"),
    }
    return module.Host({**defaults, **params}).facts()


def test_a_host_without_a_gpu(gpu_facts: ModuleType, root: Path) -> None:
    pci(root, "0000:00:01.0", "0x1234", "0x1111", "0x030000")  # an emulator's display chip is no GPU
    facts = gather(gpu_facts, root)
    assert facts["gpus"] == []
    assert facts["other_gpus"] == []
    assert facts["simulated"] is True
    assert facts["os"] == {"id": "rocky", "version": "9.4", "name": "Rocky Linux 9.4", "family": "rhel"}
    assert facts["driver"]["loaded_version"] is None


def test_nvidia_functions_of_class_display_only(gpu_facts: ModuleType, root: Path) -> None:
    pci(root, "0000:17:00.0", "0x10de", "0x2330", "0x030200")
    pci(root, "0000:01:00.0", "0x10de", "0x1b06", "0x030000")
    pci(root, "0000:01:00.1", "0x10de", "0x10ef", "0x040300")  # the audio function of the same card
    pci(root, "0000:05:00.0", "0x10de", "0x22a3", "0x068000")  # an NVSwitch
    pci(root, "0000:03:00.0", "0x1002", "0x73bf", "0x030000")
    facts = gather(gpu_facts, root)
    assert [gpu["bus"] for gpu in facts["gpus"]] == ["0000:01:00.0", "0000:17:00.0"]
    assert facts["other_gpus"][0]["name"] == "AMD 0x73bf"
    assert [bridge["device"] for bridge in facts["nvswitches"]] == ["0x22a3"]


def test_no_pci_bus_at_all_is_evidence_but_an_unreadable_one_is_not(gpu_facts: ModuleType, root: Path) -> None:
    (root / "sys/bus/pci/devices").rmdir()
    (root / "sys/bus/pci").rmdir()
    assert gather(gpu_facts, root)["gpus"] == []
    (root / "sys/bus").rmdir()
    facts = gather(gpu_facts, root)
    assert facts["gpus"] is None
    assert "No such file" in facts["unknown"]["gpus"]


def test_loaded_driver(gpu_facts: ModuleType, root: Path) -> None:
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("580.126.09\n")
    driver = gather(gpu_facts, root)["driver"]
    assert (driver["loaded_version"], driver["module"], driver["reason"]) == ("580.126.09", None, None)
    assert (driver["installed_version"], driver["source"], driver["mismatch"]) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  Release Build", "open"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.126.09  Thu Jan  8 17:01:01 UTC 2026", "proprietary"),
    ],
)
def test_flavour_of_the_loaded_module(gpu_facts: ModuleType, root: Path, line: str, module: str) -> None:
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("580.126.09\n")
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(f"{line}\nGCC version:  gcc version 12.2.0\n")
    assert gather(gpu_facts, root)["driver"]["module"] == module


def test_secure_boot(gpu_facts: ModuleType, root: Path) -> None:
    assert gather(gpu_facts, root)["secure_boot"] is False
    efivars = root / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True)
    facts = gather(gpu_facts, root)
    assert facts["secure_boot"] is None
    assert "No such file" in facts["unknown"]["secure_boot"]
    variable = efivars / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    variable.write_bytes(b"\x06\x00\x00\x00\x01")
    assert gather(gpu_facts, root)["secure_boot"] is True
    variable.write_bytes(b"\x06\x00\x00\x00\x00")
    assert gather(gpu_facts, root)["secure_boot"] is False


def test_scope_follows_the_privilege(gpu_facts: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() or 65534)
    facts = gather(gpu_facts, root, scope="auto", user_base_dir="")
    assert facts["scope"] == "user"
    assert facts["base_dir"].endswith("/gpulab")
    assert "no sudo" in facts["privilege"]["how"]
    assert gather(gpu_facts, root, scope="auto", become_password_given=True)["scope"] == "system"


def test_user_directory_follows_xdg(gpu_facts: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(root / "xdg"))
    assert gather(gpu_facts, root, user_base_dir="")["base_dir"] == str(root / "xdg" / "gpulab")
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(root))
    assert gather(gpu_facts, root, user_base_dir="")["base_dir"] == str(root / ".local/share/gpulab")


def test_an_interpreter_in_a_closed_directory_is_not_for_all(tmp_path: Path) -> None:
    from ansible.module_utils.host_interpreters import readable_by_all

    program = tmp_path / "bin" / "python3"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_mode & 0o001 == 0:
            assert readable_by_all(str(program)) is False
    program.parent.chmod(0o700)
    assert readable_by_all(str(program)) is False


def test_interpreters_are_asked_once_each_and_what_is_none_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ansible.module_utils import host_interpreters

    log = tmp_path / "log"
    answer = '{"path": "%s", "version": "3.12.3", "minor": "3.12", "venv": false}' % (tmp_path / "python3.12")
    for name, text in (("python3.12", answer), ("python3.13", "not an interpreter")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} >> {log}\necho '{text}'\n")
        program.chmod(0o755)
    (tmp_path / "python3.1").symlink_to("python3.12")
    (tmp_path / "python3.12-config").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = host_interpreters.Interpreters("/nonexistent", "user").rows()
    assert [row["minor"] for row in rows if row["path"].startswith(str(tmp_path))] == ["3.12"]
    assert sorted(log.read_text().split()) == ["python3.12", "python3.13"]
    own = os.path.realpath(sys.executable)
    for row in rows:
        if row["path"] == own:  # answered without starting it again, and the same
            assert row["version"] == platform.python_version()


def test_a_hanging_command_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible.module_utils import host_files

    monkeypatch.setattr(host_files, "COMMAND_TIMEOUT", 0.2)
    begun = time.monotonic()
    # It ignores what can be ignored, and its child keeps the output open for longer than anybody waits.
    assert host_files.Command(["sh", "-c", "trap '' TERM INT HUP; sleep 30 & sleep 30"]).output() is None
    assert host_files.Command(["sh", "-c", "echo said; exit 3"]).output() is None
    assert host_files.Command(["no-such-command-anywhere"]).output() is None
    assert host_files.Command(["echo", "said"]).output() == "said\n"
    assert time.monotonic() - begun < 5


def test_a_function_that_hangs_is_left_behind() -> None:
    from ansible.module_utils.host_files import Child

    begun = time.monotonic()
    assert Child(lambda: time.sleep(30), 0.2).answer() is None
    assert Child(lambda: 1 / 0, 5).answer() is None
    assert Child(lambda: {"said": [1, None]}, 5).answer() == {"said": [1, None]}
    assert time.monotonic() - begun < 5


# --- hosts by name ---------------------------------------------------------------------------------------------------


def fabricated(module: ModuleType, tmp_path: Path, name: str) -> dict[str, Any]:
    fabricated_hosts.HOSTS[name](tmp_path)
    return gather(module, tmp_path)


#: What is on the bus of each fabricated host: NVIDIA's GPUs, other vendors' GPUs, bridges, loaded driver.
ON_THE_BUS = {
    "gtx_1080_ti": (["0x1b06"], [], 0, None),
    "k80": (["0x102d", "0x102d"], [], 0, None),
    "p100_and_a100": (["0x15f8", "0x20f1"], [], 0, None),
    "h100_hgx": (["0x2330"] * 8, [], 4, "580.126.09"),
    "rtx_5090": (["0x2b85"], [], 0, None),
    "gb200": (["0x2941"] * 4, [], 0, None),
    "amd_only": ([], ["AMD 0x73bf", "AMD 0x74a1"], 0, None),
    "no_pci": ([], [], 0, None),
    "virtual_gpu": (["0x1eb8"], [], 0, None),
    "secondary_display_function_only": (["0x1db6"], [], 0, None),
    "driver_loaded_without_library": (["0x2204"], [], 0, "580.126.09"),
    "mismatch": (["0x2204"], [], 0, "570.86.15"),
}


@pytest.mark.parametrize("name", fabricated_hosts.HOSTS)
def test_every_fabricated_host_is_what_it_is_called(gpu_facts: ModuleType, tmp_path: Path, name: str) -> None:
    facts = fabricated(gpu_facts, tmp_path, name)
    found = ([gpu["device"] for gpu in facts["gpus"]], [gpu["name"] for gpu in facts["other_gpus"]])
    assert (*found, len(facts["nvswitches"]), facts["driver"]["loaded_version"]) == ON_THE_BUS[name]
    assert facts["simulated"] is True
    assert facts["kernel"] == "6.8.0-45-generic"
    assert set(facts["unknown"]) <= {"nouveau.in_initramfs"}  # no tree has the programs that list one


def test_every_documented_key_is_there_and_no_other(gpu_facts: ModuleType, tmp_path: Path) -> None:
    facts = fabricated(gpu_facts, tmp_path, "h100_hgx")
    text = (Path(__file__).resolve().parents[3] / "docs/facts.md").read_text()
    rows = [line.split("|")[1] for line in text.partition("## GPUs")[0].splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(facts)
    assert facts["schema"] == 2
    assert f"table: {facts['schema']}" in text


def test_every_documented_key_of_cuda_is_there_and_no_other(gpu_facts: ModuleType, tmp_path: Path) -> None:
    facts = with_cuda(gpu_facts, tmp_path)
    text = (Path(__file__).resolve().parents[3] / "docs/facts.md").read_text()
    for key in ("cuda", "cuda_default", "cudnn", "toolkit_store", "compilers", "loader"):
        table = text.partition(f"| Key of `{key}` | Meaning |")[2].partition("\n\n")[0]
        documented = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
        row = facts[key][0] if isinstance(facts[key], list) else facts[key]
        assert sorted(documented) == sorted(row), key


def with_cuda(module: ModuleType, tree: Path) -> dict[str, Any]:
    """Return the facts of a host with toolkits and cuDNN of every kind, compilers and settings of the loader."""
    host = fabricated_hosts
    host.h100_hgx(tree)
    host.packaged_toolkit(tree, "12.4.1", held=True)
    host.toolkit(tree, "11.8.0")
    host.store_toolkit(tree, "12.9.1")
    host.default_toolkit(tree, "/usr/local/cuda-12.9", alternatives=True)
    host.generation(tree, "cuda", "13.0.2", half_made=True)
    host.store_cudnn(tree, "9.13.0.50", 12, "/usr/local/cuda-12.9")
    host.packaged_cudnn(tree, "9.10.2.21", 12)
    host.gcc(tree, "13", default=True)
    host.clang(tree, "18")
    host.ld_so_conf(tree, "cuda.conf", "/usr/local/cuda/lib64")
    host.library_path(tree, "cuda.sh", "/usr/local/cuda-12.9/lib64/stubs")
    host.write(tree, "usr/bin/bash")
    host.record(tree, "cuda_toolkit", files=["/etc/profile.d/cuda.sh"])
    return gather(module, tree, scope="system")


def test_a_host_with_cuda_of_every_kind(gpu_facts: ModuleType, tmp_path: Path) -> None:
    facts = with_cuda(gpu_facts, tmp_path)
    assert [(row["path"], row["ours"], row["package"]) for row in facts["cuda"]] == [
        ("/usr/local/cuda-12.9", True, None),
        ("/usr/local/cuda-12.4", False, "cuda-nvcc-12-4"),
        ("/usr/local/cuda-11.8", False, None),
    ]
    assert facts["cuda_default"]["alternative"]["current"] == "/usr/local/cuda-12.9"
    assert [row["state"] for row in facts["toolkit_store"]] == ["complete", "half-made", "complete"]
    assert facts["cuda_packages"]["cuda-nvcc-12-4"] == {"version": "12.4.1-1", "held": True}
    assert facts["cuda_packages"]["libcudnn9-cuda-12"] == {"version": "9.10.2.21-1", "held": False}
    assert [row["via"] for row in facts["loader"]["cudnn"]] == ["ld_so_conf"]
    assert [row["via"] for row in facts["loader"]["stubs"]] == ["library_path"]
    assert facts["compilers"]["default"] == {"cc": "/usr/bin/gcc", "major": "13"}
    assert (facts["shells"], facts["module_systems"]) == (["bash"], {"lmod": None, "environment_modules": None})
    assert set(facts["unknown"]) <= {"nouveau.in_initramfs"}


def test_five_toolkits_and_hundreds_of_settings_take_no_time(gpu_facts: ModuleType, tmp_path: Path) -> None:
    with_cuda(gpu_facts, tmp_path)
    for version in ("12.6.3", "12.8.1"):
        path = fabricated_hosts.store_toolkit(tmp_path, version)
        manifest = tmp_path / path[1:] / "archive.json"
        content = {**json.loads(manifest.read_text()), "paths": [f"include/a/directory/{n}.h" for n in range(10_000)]}
        manifest.write_text(json.dumps(content))
    for number in range(200):
        fabricated_hosts.library_path(tmp_path, f"{number}.sh", f"/opt/{number}/lib64")
    begun = time.monotonic()
    facts = gather(gpu_facts, tmp_path, scope="system")
    assert time.monotonic() - begun < 2  # less than 100 ms on an idle machine
    assert len(facts["cuda"]) == 5
    assert len(facts["loader"]["library_path"]) == 201


def test_board_driver_and_link_of_a_gpu(gpu_facts: ModuleType, tmp_path: Path) -> None:
    (gpu,) = fabricated(gpu_facts, tmp_path, "gtx_1080_ti")["gpus"]
    assert gpu == {
        "bus": "0000:01:00.0",
        "vendor": "0x10de",
        "device": "0x1b06",
        "class": "0x030000",
        "subsystem": "1458:376a",
        "driver": "nouveau",
        "link": {"speed": "2.5 GT/s PCIe", "width": 16, "speed_max": "8.0 GT/s PCIe", "width_max": 16},
    }


def test_what_the_bus_does_not_say_of_a_gpu_is_null(gpu_facts: ModuleType, root: Path) -> None:
    pci(root, "0000:01:00.0", "0x10de", "0x1b06", "0x030000")
    (gpu,) = gather(gpu_facts, root)["gpus"]
    assert gpu["subsystem"] is None
    assert gpu["driver"] is None
    assert gpu["link"] == {"speed": None, "width": None, "speed_max": None, "width_max": None}
    (root / "sys/bus/pci/devices/0000:01:00.0/device").unlink()
    facts = gather(gpu_facts, root)
    assert facts["gpus"][0]["device"] is None
    assert "No such file" in facts["unknown"]["sys/bus/pci/devices/0000:01:00.0/device"]


# --- nvidia-smi ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    ["sleep 45; echo fine", "trap '' TERM INT HUP; sleep 60 & wait; sleep 60", "echo ERR!; exit 0", None],
    ids=["slow", "hangs", "prints-ERR", "missing"],
)
def test_nvidia_smi_is_never_asked_whatever_it_does(tmp_path: Path, behaviour: str | None) -> None:
    tree, programs = tmp_path / "tree", tmp_path / "bin"
    tree.mkdir()
    programs.mkdir()
    fabricated_hosts.mismatch(tree)
    if behaviour is not None:
        for place in (programs, tree / "usr/bin"):
            program = place / "nvidia-smi"
            program.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n{behaviour}\n")
            program.chmod(0o755)
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "import ansible.module_utils; ansible.module_utils.__path__.append(sys.argv[3])\n"
        "import json, time, gpu_facts; begun = time.monotonic()\n"
        "facts = gpu_facts.Host(dict(root=sys.argv[4], scope='user', become_password_given=False,"
        " base_dir='/opt/gpulab', user_base_dir=sys.argv[4])).facts()\n"
        "print(json.dumps([time.monotonic() - begun, facts]))"
    )
    project = Path(__file__).resolve().parents[3]
    site = Path(ansible.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(site), str(project / "library"), str(project / "module_utils"), str(tree)],
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    seconds, facts = json.loads(done.stdout)
    assert not (tmp_path / "asked").exists()
    assert facts["driver"]["mismatch"] is not None
    assert seconds < 3  # milliseconds on an idle machine; a slow nvidia-smi takes 45 s


# --- this project's own notes ----------------------------------------------------------------------------------------


def test_state_and_the_files_it_names(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated_hosts.plain(tmp_path)
    note = {"version": "580.126.09", "files": {"/etc/modprobe.d/x.conf": "abc", "/etc/gone": "def", "/etc": "ghi"}}
    fabricated_hosts.write(tmp_path, "etc/modprobe.d/x.conf", "options nvidia\n")
    assert gather(gpu_facts, tmp_path)["state"] is None
    assert gather(gpu_facts, tmp_path)["managed"] == {}
    fabricated_hosts.write(tmp_path, "var/lib/gpulab/driver.json", json.dumps(note))
    facts = gather(gpu_facts, tmp_path)
    assert facts["state"] == note
    digest = hashlib.sha256(b"options nvidia\n").hexdigest()
    assert facts["managed"] == {"/etc/modprobe.d/x.conf": digest, "/etc/gone": None, "/etc": None}
    assert set(facts["unknown"]) == {"managed./etc"}


def test_what_the_roles_for_cuda_noted_and_what_is_there_of_it(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated_hosts.plain(tmp_path)
    nothing = {"noted": None, "found": {}, "links": {}}
    assert gather(gpu_facts, tmp_path, scope="system")["records"] == {"cuda_toolkit": nothing, "cudnn": nothing}
    fabricated_hosts.write(tmp_path, "etc/a", "as noted")
    fabricated_hosts.link(tmp_path, "usr/local/cuda-12.9", "/opt/x")
    fabricated_hosts.write(tmp_path, "usr/local/cuda-12.8", "no link")
    links = dict.fromkeys(("/usr/local/cuda-12.9", "/usr/local/cuda-12.8", "/usr/local/cuda-12.6"), "/opt/x")
    note = fabricated_hosts.record(tmp_path, "cuda_toolkit", files=["/etc/a"], links=links, default={"previous": None})
    fabricated_hosts.write(tmp_path, "etc/a", "changed")
    facts = gather(gpu_facts, tmp_path, scope="system")
    assert facts["records"]["cuda_toolkit"] == {
        "noted": note,
        "found": {"/etc/a": hashlib.sha256(b"changed").hexdigest()},
        "links": {"/usr/local/cuda-12.9": "/opt/x", "/usr/local/cuda-12.8": None, "/usr/local/cuda-12.6": None},
    }
    base = gather(gpu_facts, tmp_path)["base_dir"]
    fabricated_hosts.record(tmp_path, "cudnn", place=base[1:], digest="mine")
    records = gather(gpu_facts, tmp_path)["records"]
    assert (records["cuda_toolkit"]["noted"], records["cudnn"]["noted"]["digest"]) == (None, "mine")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{half", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"files": Infinity}', "not JSON"),
        ("[]", "no mapping"),
        ('{"a":' * 60 + "1" + "}" * 60, "too deeply"),
        ('{"files": ["/etc/a"], "links": 7}', None),
        ('{"files": {"/etc/\\u0000": "x", "/\\ud800": "y"}, "links": {"/\\u0000": "z", "": "a"}}', None),
    ],
)
def test_a_record_that_nobody_of_us_wrote_breaks_nothing(
    gpu_facts: ModuleType, tmp_path: Path, content: str, reason: str | None
) -> None:
    fabricated_hosts.plain(tmp_path)
    for role in ("cuda_toolkit", "cudnn"):
        fabricated_hosts.write(tmp_path, f"var/lib/gpulab/{role}.json", content)
    facts = gather(gpu_facts, tmp_path, scope="system")
    json.dumps(facts, ensure_ascii=False).encode()
    if reason:
        assert facts["records"]["cudnn"]["noted"] is None
        assert reason in facts["unknown"]["records.cudnn"]
    else:
        assert set(facts["records"]["cudnn"]["found"].values()) <= {None}


@pytest.mark.parametrize("content", ["{half", '["a list"]', "", "\udcff\ud800"])
def test_a_state_that_cannot_be_read_is_null_with_a_reason(gpu_facts: ModuleType, tmp_path: Path, content: str) -> None:
    fabricated_hosts.plain(tmp_path)
    fabricated_hosts.write(tmp_path, "var/lib/gpulab/driver.json", content.encode("utf-8", "surrogatepass"))
    facts = gather(gpu_facts, tmp_path)
    assert facts["state"] is None
    assert "driver.json" in facts["unknown"]["state"]


def closed_to_us(relative: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one file be there and not be ours to read, for root as well."""
    import builtins

    def guarded(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(f"/{relative}"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **kwargs)

    real = builtins.open
    monkeypatch.setattr(builtins, "open", guarded)


@pytest.mark.parametrize(
    ("relative", "key", "where"),
    [
        ("var/lib/gpulab/driver.json", "state", ["state"]),
        ("var/lib/dpkg/status", "packages", ["driver", "packages"]),
        ("var/lib/dpkg/status", "packages", ["driver", "held"]),
        ("var/lib/dpkg/status", "packages", ["package_manager", "broken"]),
        ("boot/grub/grubenv", "next_boot_kernel", ["kernels", 0, "next_boot"]),
        ("etc/default/grub", "next_boot_kernel", ["kernels", 0, "next_boot"]),
        ("var/lib/gpulab/machine-owner-key.der", "machine_owner_key", ["machine_owner_key", "enrolled"]),
        ("boot/initrd.img-6.8.0-45-generic", "nouveau.in_initramfs", ["nouveau", "in_initramfs"]),
        ("var/lib/dpkg/status", "packages", ["cuda_packages"]),
        ("home/gpulab/cudnn.json", "records.cudnn", ["records", "cudnn", "noted"]),
        (
            "home/gpulab/toolkits/cuda-12.9.1-20261123T120000Z/archive.json",
            "toolkit_store.cuda-12.9.1-20261123T120000Z",
            ["toolkit_store", 0, "state"],
        ),
        ("var/lib/dpkg/alternatives/cuda", "cuda_default.alternative", ["cuda_default", "alternative"]),
    ],
)
def test_what_is_closed_to_us_is_null_with_a_reason(
    gpu_facts: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    relative: str,
    key: str,
    where: list[Any],
) -> None:
    fabricated_hosts.mismatch(tmp_path)
    for name in ("var/lib/gpulab/driver.json", "boot/grub/grubenv", "var/lib/gpulab/machine-owner-key.der"):
        fabricated_hosts.write(tmp_path, name, "{}")
    fabricated_hosts.store_toolkit(tmp_path, "12.9.1", base="home/gpulab")
    fabricated_hosts.default_toolkit(tmp_path, "/usr/local/cuda-12.9", alternatives=True)
    fabricated_hosts.record(tmp_path, "cudnn", place="home/gpulab")
    closed_to_us(relative, monkeypatch)
    where_ours = {"scope": "system"} if "alternatives" in relative else {"user_base_dir": "/home/gpulab"}
    facts = gather(gpu_facts, tmp_path, **where_ours)
    value: Any = facts
    for step in where:
        value = value[step]
    assert value is None
    assert "ermission" in facts["unknown"][key] or "did not" in facts["unknown"][key]


# --- small ones ------------------------------------------------------------------------------------------------------


def test_uptime_reboot_and_space(gpu_facts: ModuleType, tmp_path: Path) -> None:
    fabricated_hosts.plain(tmp_path)
    facts = gather(gpu_facts, tmp_path)
    assert facts["uptime_s"] == 5000
    assert facts["boot_id"] == "7a1f6f6e-9f54-4a6c-8c43-0d2f7d2a3b11"
    assert facts["reboot"] == {"required": False, "packages": []}
    assert {"/", "/boot", "/usr", "/var", "/tmp", facts["base_dir"]} == set(facts["disk"])
    assert all(size > 0 for size in facts["disk"].values())
    fabricated_hosts.write(tmp_path, "run/reboot-required", "*** System restart required ***\n")
    fabricated_hosts.write(tmp_path, "run/reboot-required.pkgs", "linux-base\nlibc6\nlinux-base\n")
    assert gather(gpu_facts, tmp_path)["reboot"] == {"required": True, "packages": ["libc6", "linux-base"]}
    (tmp_path / "proc/uptime").unlink()
    facts = gather(gpu_facts, tmp_path)
    assert facts["uptime_s"] is None
    assert "No such file" in facts["unknown"]["proc/uptime"]


MOUNTS = "sysfs /sys sysfs rw 0 0\nproc /proc proc rw 0 0\n/dev/vda / ext4 rw 0 0\noverlay /home overlay rw 0 0\n"


@pytest.mark.parametrize(
    ("line", "simulated"),
    [
        ("", False),
        ("/dev/vda /sys/bus/pci/devices ext4 rw 0 0", True),
        ("overlay /sys/bus overlay rw 0 0", True),
        ("tmpfs /sys/module/nvidia tmpfs rw 0 0", True),
        ("/dev/vda /proc/driver ext4 rw 0 0", True),
        ("/dev/vda /proc/sys/kernel/osrelease ext4 rw 0 0", True),
        # What container engines do by themselves.
        ("proc /proc/sys proc ro 0 0", False),
        ("tmpfs /proc/driver/nvidia tmpfs ro 0 0", False),
        ("proc /proc/driver/nvidia/gpus/0000:01:00.0 proc ro 0 0", False),
        ("tmpfs /sys/firmware tmpfs ro 0 0", False),
        ("lxcfs /proc/cpuinfo fuse.lxcfs rw 0 0", False),
    ],
)
def test_hardware_that_is_mounted_over_the_kernels_own_files_is_simulated(
    tmp_path: Path, line: str, simulated: bool
) -> None:
    from ansible.module_utils import host_files, host_state

    fabricated_hosts.write(tmp_path, "proc/self/mounts", f"{MOUNTS}{line}\n")

    class AsRoot(host_files.HostFiles):
        def path(self, relative: str) -> str:
            return str(tmp_path / relative)

    assert host_state.simulated(AsRoot("/", {})) is simulated


def test_an_absolute_link_stays_below_the_root(tmp_path: Path) -> None:
    from ansible.module_utils.host_files import HostFiles

    files = HostFiles(str(tmp_path), {})
    fabricated_hosts.write(tmp_path, "usr/local/cuda-12.4/version.txt", "inside")
    fabricated_hosts.link(tmp_path, "usr/local/cuda", "/etc/alternatives/cuda")
    fabricated_hosts.link(tmp_path, "etc/alternatives/cuda", "/usr/local/cuda-12.4")
    fabricated_hosts.link(tmp_path, "etc/loop", "loop")
    fabricated_hosts.link(tmp_path, "etc/out", "../../../../../../etc/hostname")
    assert files.text("usr/local/cuda/version.txt") == "inside"
    assert files.real("usr/local/cuda") == "/usr/local/cuda-12.4"
    assert files.text("etc/loop") is None
    assert files.path("etc/out") == str(tmp_path / "etc/hostname")


def test_what_runs_on_hosts_is_written_for_their_python() -> None:
    project = Path(__file__).resolve().parents[3]
    for file in [project / "library/gpu_facts.py", *(project / "module_utils").glob("host_*.py")]:
        ast.parse(file.read_text(), feature_version=(3, 8))
        imported = re.findall(r"(?m)^(?:from|import) (\w+)", file.read_text())
        assert set(imported) <= sys.stdlib_module_names | {"ansible"}, file.name
