# SPDX-License-Identifier: Apache-2.0
"""Hosts as an inventory declares them, and as the module gpu_facts finds them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from gpu_compat import CompatError, host_from_facts, plan, read_host
from gpu_compat.gpus import identify
from gpu_compat.hosts import Host, Interpreter, find_system
from gpu_compat.questions import with_default_environments
from gpu_compat.tables import shipped
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import TODAY, situations

TABLES = shipped()
SYSTEMS = {row["id"]: row for row in TABLES.rows("systems.systems")}


def system_of(said: Any) -> str:
    host = read_host({"os": said})
    assert host.system, f"{said} is not known"
    return str(host.system["id"])


def mistakes(value: Any) -> dict[str, str]:
    with pytest.raises(CompatError) as refused:
        read_host(value)
    found = {mistake.path: mistake.message for mistake in refused.value.mistakes}
    assert len(found) == len(refused.value.mistakes), "one thing is told twice"
    return found


# --- systems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_found_by_its_id_and_by_its_os_release(name: str) -> None:
    assert system_of(name) == system_of(name.upper()) == name
    for identifier in SYSTEMS[name]["names"]:
        found = find_system(identifier, SYSTEMS[name]["version"], TABLES)
        assert found
        assert found["id"] == name


@pytest.mark.parametrize(
    ("said", "system"),
    [
        ("ubuntu24.04", "ubuntu2404"),
        ("Ubuntu-24.04", "ubuntu2404"),
        ("debian-12", "debian12"),
        ("debian12.7", "debian12"),
        ("rhel9.4", "rhel9"),
        ("redhat-8", "rhel8"),
        ("rocky9", "rhel9"),
        ("Rocky9.5", "rhel9"),
        ("almalinux-9", "rhel9"),
        ("alma10", "rhel10"),
        ("centos9", "rhel9"),
        ("oracle8", "rhel8"),
        ("ol9", "rhel9"),
    ],
)
def test_a_word_for_a_system_may_have_dashes_dots_and_the_name_of_a_rebuild(said: str, system: str) -> None:
    assert system_of(said) == system
    assert read_host({"os": said}).os_name == said


@pytest.mark.parametrize(
    ("distribution", "version", "system"),
    [
        ("Ubuntu", "24.04", "ubuntu2404"),
        ("ubuntu", "22.04.5", "ubuntu2204"),
        ("Debian", "12", "debian12"),
        ("Debian", "13.1", "debian13"),
        ("Debian GNU/Linux", "12", "debian12"),
        ("RedHat", "9.4", "rhel9"),
        ("Red Hat Enterprise Linux", "9.4", "rhel9"),
        ("AlmaLinux", "8.10", "rhel8"),
        ("Alma Linux", "9.4", "rhel9"),
        ("Rocky", "9", "rhel9"),
        ("Rocky Linux", "10.0", "rhel10"),
        ("CentOS Stream", "9", "rhel9"),
        ("OracleLinux", "8.9", "rhel8"),
        ("Oracle Linux Server", "9.3", "rhel9"),
        ("Amazon", "2023", "amzn2023"),
        ("Fedora Linux", "42", "fedora42"),
        ("SLES", "15.5", "sles15"),
        ("SUSE Linux Enterprise Server", "15.6", "sles15"),
        ("SLES", "16.0", "suse16"),
        ("openSUSE Leap", "15.6", "opensuse15"),
        ("openSUSE Leap", "16.0", "suse16"),
        ("Microsoft Azure Linux", "3.0", "azl3"),
    ],
)
def test_a_distribution_is_known_as_ansible_and_as_people_call_it(distribution: str, version: str, system: str) -> None:
    said = {"distribution": distribution, "version": version}
    assert system_of(said) == system
    assert read_host({"os": said}).os_name == f"{distribution} {version}"


@pytest.mark.parametrize(("name", "version"), [("debian", "1"), ("debian", "120"), ("ubuntu", "24.10"), ("arch", "12")])
def test_a_version_that_only_begins_alike_is_another_system(name: str, version: str) -> None:
    assert find_system(name, version, TABLES) is None


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("ubunut2404", "did you mean 'ubuntu2404'?"),
        ("Ubuntu 24.04", "did you mean 'ubuntu2404'?"),
        ("debian10", "did you mean 'debian1"),
        ("windows11", "known: ubuntu1804, ubuntu2004"),
        ("", "known: ubuntu1804"),
    ],
)
def test_a_system_that_is_not_known_names_the_nearest_or_all(said: str, hint: str) -> None:
    message = mistakes({"os": said})["host.os"]
    assert f"'{said}' is not known" in message
    assert hint in message


# --- what else is declared ---------------------------------------------------------------------------------------


def test_nothing_declared_forbids_nothing() -> None:
    assert read_host(None) == read_host({}) == Host(declared=True)
    everything = ("os", "arch", "kernel", "glibc", "gpus", "python", "driver", "kernel_module", "secure_boot")
    assert read_host(dict.fromkeys(everything)) == Host(declared=True)


def test_everything_declared_is_kept() -> None:
    host = read_host(
        {
            "os": "rocky9",
            "arch": "aarch64",
            "kernel": "5.14.0-503.el9.aarch64",
            "glibc": "2.35",
            "gpus": ["GH200 480GB", "10de:2342", {"compute_capability": "9.0"}],
            "driver": "580.126.09",
            "kernel_module": "open",
            "secure_boot": True,
            "nvswitch": True,
        }
    )
    assert (host.machine, host.kernel, host.libc) == ("aarch64", "5.14.0-503.el9.aarch64", "2.35")
    assert host.gpus is not None
    assert [gpu.capability for gpu in host.gpus] == ["9.0"] * 3
    assert host.gpus[0] == host.gpus[1]
    assert (host.driver, host.kernel_module, host.secure_boot, host.nvswitch) == ("580.126.09", "open", True, True)
    assert host.declared


def test_what_is_not_declared_is_the_systems_or_the_usual() -> None:
    host = read_host({"os": "debian12"})
    assert (host.machine, host.libc) == ("x86_64", "2.36")
    assert host.gpus == (), "no GPUs named is no GPUs"


@pytest.mark.parametrize(
    ("said", "versions"),
    [
        ("3.12", ["3.12"]),
        ("3.12.4", ["3.12"]),
        (["3.9", "3.12.1"], ["3.9", "3.12"]),
        (["3.10"], ["3.10"]),
    ],
)
def test_pythons_are_a_version_or_a_list_with_or_without_patch(said: Any, versions: list[str]) -> None:
    host = read_host({"python": said})
    assert host.pythons == tuple(Interpreter(version) for version in versions)
    assert not host.may_install_python


def test_without_pythons_any_may_be_installed() -> None:
    host = read_host({"python": None})
    assert host.pythons is None
    assert host.may_install_python


@pytest.mark.parametrize(
    ("host", "path", "remedy"),
    [
        ("debian12", "host", "must be a mapping"),
        (["debian12"], "host", "must be a mapping"),
        ({"gpu": []}, "host.gpu", "did you mean 'gpus'?"),
        ({"secureboot": True}, "host.secureboot", "did you mean 'secure_boot'?"),
        ({1: 2}, "host.1", "unknown key; known: os, arch"),
        ({"os": 24.04}, "host.os", 'must be ubuntu2404, say, or {distribution: Ubuntu, version: "24.04"}'),
        ({"os": {"distribution": "Ubuntu"}}, "host.os", "the key 'version' is missing"),
        ({"os": {"version": "12"}}, "host.os", "the key 'distribution' is missing"),
        ({"os": {"distribution": "Ubuntu", "version": 24.04}}, "host.os.version", 'quotes: "24.04"'),
        ({"os": {"distribution": " ", "version": "12"}}, "host.os.distribution", 'a name such as "Ubuntu"'),
        ({"os": {"name": "x", "distribution": "Debian", "version": "12"}}, "host.os.name", "unknown key"),
        ({"arch": "arm64"}, "host.arch", "did you mean 'aarch64'?"),
        ({"arch": "amd64"}, "host.arch", "known: x86_64, aarch64"),
        ({"arch": 64}, "host.arch", "must be one of x86_64, aarch64"),
        ({"kernel": 6.8}, "host.kernel", 'quotes: "6.8"'),
        ({"kernel": "linux"}, "host.kernel", '"6.8.0-45-generic"'),
        ({"next_boot_kernel": 6.8}, "host.next_boot_kernel", 'quotes: "6.8"'),
        ({"glibc": "2"}, "host.glibc", '"2.36"'),
        ({"gpus": "RTX 3090"}, "host.gpus", 'write ["RTX 3090"], or [] for none'),
        ({"gpus": [None]}, "host.gpus[0]", 'must be a product ("RTX 3090")'),
        ({"gpus": ["L4", ""]}, "host.gpus[1]", 'a PCI id ("10de:2204")'),
        ({"gpus": ["L4", "GTX 1080 Tii"]}, "host.gpus[1]", "did you mean 'GeForce GTX 1080 Ti'?"),
        ({"gpus": [1080]}, "host.gpus[0]", 'quotes: "1080"'),
        ({"gpus": [{}]}, "host.gpus[0]", "the key 'compute_capability' is missing"),
        ({"gpus": [{"compute_capability": 8.6}]}, "host.gpus[0].compute_capability", 'quotes: "8.6"'),
        ({"gpus": [{"compute_capability": "8"}]}, "host.gpus[0].compute_capability", 'such as "8.6"'),
        ({"python": 3.10}, "host.python", '"3.1" or "3.10"'),
        ({"python": "2.7"}, "host.python", 'such as "3.12"'),
        ({"python": []}, "host.python", "write null where any Python may be installed"),
        ({"python": ["3.12", "new"]}, "host.python[1]", "'new' is not a Python version"),
        ({"driver": "580"}, "host.driver", '"580.126.09", or null where none is installed'),
        ({"driver": 580.1}, "host.driver", 'quotes: "580.1"'),
        ({"kernel_module": "opn"}, "host.kernel_module", "did you mean 'open'?"),
        ({"secure_boot": "false"}, "host.secure_boot", "must be true or false without quotes"),
        ({"nvswitch": 1}, "host.nvswitch", "must be true or false without quotes"),
    ],
)
def test_a_mistake_has_its_path_and_what_to_write_instead(host: Any, path: str, remedy: str) -> None:
    found = mistakes(host)
    assert list(found) == [path]
    assert remedy in found[path]


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes(
        {
            "os": "x",
            "arch": "arm64",
            "kernel": "x",
            "glibc": 2,
            "gpus": ["GTX 1080 Tii", 4, {"capability": "8.6"}],
            "python": ["x", 3.1],
            "driver": True,
            "kernel_module": "x",
            "secure_boot": None,
            "nvswitch": "no",
            "name": "x",
        }
    )
    words = {path.removeprefix("host.") for path in found}
    assert words == {"os", "arch", "kernel", "glibc", "gpus[0]", "gpus[1]", "gpus[2]", "gpus[2].capability"} | {
        "python[0]",
        "python[1]",
        "driver",
        "kernel_module",
        "nvswitch",
        "name",
    }


#: Letters of any kind, the digits that Python counts as digits and cannot calculate with ("²") among them.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _TEXT, st.dates(), st.binary(max_size=4))
_ANYTHING = st.recursive(
    _SCALAR, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_SCALAR, inner, max_size=3))
)
_KEYS = (
    "os",
    "arch",
    "kernel",
    "next_boot_kernel",
    "glibc",
    "gpus",
    "python",
    "driver",
    "kernel_module",
    "secure_boot",
    "nvswitch",
)
_LIKELY = st.sampled_from(["3.12", "rocky9", "L4", "10de:1b06", "open", "6.8", ["K80", 3], {"compute_capability": "x"}])


@settings(deadline=None)
@given(st.one_of(_ANYTHING, st.dictionaries(st.sampled_from(_KEYS), st.one_of(_ANYTHING, _LIKELY))))
def test_no_value_of_any_shape_gives_anything_but_mistakes(value: Any) -> None:
    with contextlib.suppress(CompatError):
        assert read_host(value).declared


# --- facts -------------------------------------------------------------------------------------------------------


def gpu_row(device: str, bus: str = "0000:01:00.0") -> dict[str, str]:
    return {"bus": bus, "vendor": "0x10de", "device": device}


def test_facts_of_a_host_are_the_host(facts: dict[str, Any]) -> None:
    host = host_from_facts(facts)
    assert host.system is SYSTEMS["debian12"]
    assert (host.os_name, host.arch, host.kernel) == ("Debian GNU/Linux 12 (bookworm)", "x86_64", "6.1.0-25-amd64")
    assert (host.glibc, host.secure_boot, host.gpus) == ("2.36", False, ())
    assert host.pythons == (Interpreter("3.11", "/usr/bin/python3.11", True),)
    assert host.may_install_python
    assert not host.declared


@pytest.mark.parametrize(
    ("identifier", "version", "system"),
    [("rocky", "9.5", "rhel9"), ("centos", "9", "rhel9"), ("sles", "15.6", "sles15"), ("amzn", "2023", "amzn2023")],
)
def test_systems_are_known_by_their_os_release(
    facts: dict[str, Any], identifier: str, version: str, system: str
) -> None:
    host = host_from_facts({**facts, "os": {"id": identifier, "version": version, "name": None, "family": "rhel"}})
    assert host.system is SYSTEMS[system]


@pytest.mark.parametrize("release", [{"id": None, "version": None, "name": None}, {"id": "void", "version": "1"}, {}])
def test_a_system_that_is_not_in_the_tables_is_no_mistake(facts: dict[str, Any], release: dict[str, Any]) -> None:
    host = host_from_facts({**facts, "os": release, "glibc": None})
    assert host.system is None
    assert host.libc is None


def test_gpus_are_found_by_vendor_and_device(facts: dict[str, Any]) -> None:
    host = host_from_facts({**facts, "gpus": [gpu_row("0x2204"), gpu_row("0x1db1", "0000:02:00.0"), gpu_row("0xffff")]})
    assert host.gpus is not None
    assert [gpu.name for gpu in host.gpus] == ["GeForce RTX 3090", "Tesla V100 SXM2 16GB", "10de:ffff"]
    assert "not in the tables" in host.gpus[2].unknown


@pytest.mark.parametrize(
    ("bridges", "switched"),
    [
        ([], False),
        ([gpu_row("0x22a3")], True),
        ([gpu_row("0x1234"), gpu_row("0x1AF1")], True),
        ([gpu_row("0x1234")], False),
    ],
)
def test_nvswitch_is_one_of_nvidias_bridges(
    facts: dict[str, Any], bridges: list[dict[str, str]], switched: bool
) -> None:
    assert host_from_facts({**facts, "nvswitches": bridges}).nvswitch is switched


def test_a_bus_that_cannot_be_read_is_not_a_host_without_gpus(facts: dict[str, Any]) -> None:
    host = host_from_facts({**facts, "gpus": None, "unknown": {"gpus": "/sys/bus/pci/devices: Permission denied"}})
    assert host.gpus is None
    assert host.problem == "/sys/bus/pci/devices: Permission denied"
    assert host_from_facts(facts).problem == ""


@pytest.mark.parametrize("module", ["open", "proprietary", None])
def test_the_loaded_driver_has_a_version_and_perhaps_a_flavour(facts: dict[str, Any], module: str | None) -> None:
    host = host_from_facts({**facts, "driver": {"loaded_version": "580.126.09", "module": module, "reason": None}})
    assert (host.driver, host.kernel_module) == ("580.126.09", module)


@pytest.mark.parametrize("secure_boot", [True, False, None])
def test_secure_boot_may_be_unreadable(facts: dict[str, Any], secure_boot: bool | None) -> None:
    assert host_from_facts({**facts, "secure_boot": secure_boot}).secure_boot is secure_boot


@pytest.mark.parametrize(
    ("driver", "version", "module"),
    [
        ({"installed_version": "580.126.09", "installed_module": "open"}, "580.126.09", "open"),
        ({"loaded_version": "535.1.1", "module": "proprietary", "installed_version": "580.1"}, "580.1", None),
        ({"loaded_version": "580.1", "module": "open", "installed_version": "580.1"}, "580.1", "open"),
        ({"loaded_version": "580.1", "module": "open", "installed_version": None}, "580.1", "open"),
        ({"loaded_version": None, "module": None, "installed_version": None}, None, None),
    ],
)
def test_what_is_installed_comes_before_what_is_loaded(
    facts: dict[str, Any], driver: dict[str, Any], version: str | None, module: str | None
) -> None:
    host = host_from_facts({**facts, "driver": {"source": "distro", **driver}})
    assert (host.driver, host.kernel_module, host.driver_source) == (version, module, "distro")
    assert host.loaded == driver.get("loaded_version")


def test_a_module_must_exist_for_the_running_kernel_and_for_the_next_boots(facts: dict[str, Any]) -> None:
    rows = [
        {"release": "6.1.0-28-amd64", "running": False, "next_boot": True},
        {"release": "6.1.0-25-amd64", "running": True, "next_boot": False},
        {"release": "6.1.0-20-amd64", "running": False, "next_boot": False},
    ]
    assert host_from_facts({**facts, "kernels": rows}).kernels == ("6.1.0-28-amd64", "6.1.0-25-amd64")
    unknown = [{**row, "next_boot": None} for row in rows]
    for nothing in (unknown, [], None):
        assert host_from_facts({**facts, "kernels": nothing}).kernels == ("6.1.0-25-amd64",)


def test_the_next_boots_kernel_forbids_a_driver_that_does_not_build_for_it() -> None:
    said = {"kernel": "6.8.0-45-generic", "next_boot_kernel": "6.17.0-8-generic", "gpus": ["RTX 3090"]}
    request: dict[str, Any] = {"driver": "550", "environments": [], "cuda_toolkits": []}
    answer = plan(request, read_host(said), today=TODAY)
    (found,) = answer["conflicts"]
    assert found["id"] == "driver_vs_kernel"
    assert "host.next_boot_kernel" in found["involves"]
    assert "the next boot takes Linux 6.17.0-8-generic" in found["message"]
    del said["next_boot_kernel"]
    assert plan(request, read_host(said), today=TODAY)["status"] == "planned"


# --- containers --------------------------------------------------------------------------------------------------


def in_container(facts: dict[str, Any], **driver: Any) -> dict[str, Any]:
    found = {"loaded_version": None, "module": None, "installed_version": "535.309.01", "source": "distro", **driver}
    return {**facts, "container": "docker", "gpus": [gpu_row("0x2204")], "driver": found}


NOTHING_ELSE = {"environments": [], "cuda_toolkits": []}


def test_a_containers_driver_is_the_one_that_is_loaded_below_it(facts: dict[str, Any]) -> None:
    inside = in_container(facts, loaded_version="580.126.09", module="open")
    answer = plan(NOTHING_ELSE, host_from_facts(inside), today=TODAY)
    driver = answer["plan"]["driver"]
    assert (driver["source"], driver["version"], driver["kernel_module"]) == ("preinstalled", "580.126.09", "open")
    assert (driver["packages"], driver["headers"], driver["family"]) == ([], {}, [])
    because = next(row["because"] for row in answer["reasons"] if row["about"] == "driver")
    assert (
        "the host is a container (docker), whose kernel and driver 580.126.09 are those of the machine below" in because
    )
    wsl = {**inside, "container": "wsl"}
    reasons = plan(NOTHING_ELSE, host_from_facts(wsl), today=TODAY)["reasons"]
    assert any("the host is WSL" in row["because"] for row in reasons)


@pytest.mark.parametrize(
    "wish", [{"driver": "595"}, {"driver_source": "nvidia_repo"}, {"kernel_module": "proprietary"}]
)
def test_a_container_cannot_have_another_driver_than_that(facts: dict[str, Any], wish: dict[str, str]) -> None:
    inside = in_container(facts, loaded_version="580.126.09", module="open")
    answer = plan({**NOTHING_ELSE, **wish}, host_from_facts(inside), today=TODAY)
    (found,) = answer["conflicts"]
    assert "host.container" in found["involves"]
    assert f"request.{next(iter(wish))}" in found["involves"]


def test_a_container_without_a_loaded_driver_says_where_one_belongs(facts: dict[str, Any]) -> None:
    inside = in_container(facts)
    (found,) = plan(NOTHING_ELSE, host_from_facts(inside), today=TODAY)["conflicts"]
    assert (found["id"], found["involves"]) == ("no_driver", ["host.container", "host.gpus"])
    assert "on the machine below it" in found["message"]
    assert "nvidia_driver_manage_kernel_module" in found["message"]
    for wish in ({"profile": "cpu"}, {"driver": "none"}):
        assert plan({**NOTHING_ELSE, **wish}, host_from_facts(inside), today=TODAY)["status"] == "planned"
    without = {**inside, "gpus": []}
    assert plan(NOTHING_ELSE, host_from_facts(without), today=TODAY)["plan"]["profile"] == "cpu"


def test_a_container_that_stands_for_a_machine_is_planned_as_one(facts: dict[str, Any]) -> None:
    host = host_from_facts(in_container(facts), container_is_host=True)
    assert (host.container, host.driver) == (None, "535.309.01")
    assert plan(NOTHING_ELSE, host, today=TODAY)["plan"]["driver"]["source"] != "preinstalled"


# --- what is installed stays from where it came ------------------------------------------------------------------


@pytest.mark.parametrize("source", ["nvidia_repo", "distro", "runfile"])
@pytest.mark.parametrize("module", ["open", "proprietary"])
def test_a_supported_driver_stays_from_where_it_came(facts: dict[str, Any], source: str, module: str) -> None:
    ubuntu = {"id": "ubuntu", "version": "24.04", "name": "Ubuntu 24.04", "family": "debian"}
    driver = {"installed_version": "580.126.09", "installed_module": module, "source": source, "loaded_version": None}
    here = {**facts, "os": ubuntu, "kernel": "6.8.0-45-generic", "gpus": [gpu_row("0x2204")], "driver": driver}
    found = plan(NOTHING_ELSE, host_from_facts(here), today=TODAY)["plan"]["driver"]
    assert (found["version"], found["source"], found["kernel_module"]) == ("580.126.09", source, module)
    assert found["signed"] is (source == "distro"), "Ubuntu's modules come signed, whatever release of the branch"
    asked = plan({**NOTHING_ELSE, "driver_source": "nvidia_repo"}, host_from_facts(here), today=TODAY)
    assert asked["plan"]["driver"]["source"] == "nvidia_repo"


def test_a_driver_goes_from_where_it_came_when_the_rules_forbid_it(facts: dict[str, Any]) -> None:
    driver = {"installed_version": "580.126.09", "installed_module": "open", "source": "runfile"}
    here = {**facts, "gpus": [gpu_row("0x2204")], "driver": driver, "secure_boot": True}
    assert plan(NOTHING_ELSE, host_from_facts(here), today=TODAY)["plan"]["driver"]["source"] == "nvidia_repo"
    volta = {**here, "gpus": [gpu_row("0x1db4")], "secure_boot": False}
    found = plan(NOTHING_ELSE, host_from_facts(volta), today=TODAY)["plan"]["driver"]
    assert (found["source"], found["kernel_module"], found["version"]) == ("runfile", "proprietary", "580.126.09")


def test_pythons_that_not_all_users_can_run_do_not_count(facts: dict[str, Any]) -> None:
    hidden = {"path": "/root/python3.12", "minor": "3.12", "version": "3.12.1", "usable": False, "venv": True}
    bare = {"path": "/usr/bin/python3.9", "minor": "3.9", "version": "3.9.2", "usable": True, "venv": False}
    host = host_from_facts({**facts, "pythons": [hidden, bare]})
    assert host.pythons == (Interpreter("3.9", "/usr/bin/python3.9", False),)


def test_the_pythons_of_environments_are_remembered(facts: dict[str, Any]) -> None:
    environments = {
        "torch": {"path": "/opt/gpulab/environments/torch", "state": "complete", "python": "3.11"},
        "mine": {"path": "/opt/gpulab/environments/mine", "state": "foreign", "python": None},
        "tf": {"path": "/opt/gpulab/environments/tf", "state": "half-made"},
    }
    assert host_from_facts({**facts, "environments": environments}).built_with == (("torch", "3.11"),)


def test_gpus_of_other_vendors_are_remembered_by_name(facts: dict[str, Any]) -> None:
    other = {"bus": "0000:03:00.0", "vendor": "0x1002", "device": "0x73bf", "name": "AMD 0x73bf"}
    assert host_from_facts({**facts, "other_gpus": [other]}).other_gpus == ("AMD 0x73bf",)


_DEVICES = st.from_regex(r"0x[0-9a-f]{4}", fullmatch=True)
_PYTHON = st.builds(
    lambda minor, usable, venv: (
        {"path": f"/usr/bin/python3.{minor}", "minor": f"3.{minor}", "usable": usable}
        | ({} if venv is None else {"venv": venv})
    ),
    st.integers(6, 20),
    st.booleans(),
    st.one_of(st.none(), st.booleans()),
)
_NAMES = st.one_of(st.none(), st.sampled_from(["ubuntu", "debian", "rocky", "24.04", "12", "9.5"]), _TEXT)


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "os": st.fixed_dictionaries({}, optional={"id": _NAMES, "version": _NAMES, "name": _NAMES}),
            "arch": st.sampled_from(["x86_64", "aarch64", "ppc64le", "riscv64"]),
            "kernel": st.sampled_from(["3.10.0", "4.4.0", "6.1.0-25-amd64", "6.8.0-45-generic", "9.0"]),
            "glibc": st.sampled_from([None, "2.17", "2.28", "2.36", "2.43"]),
            "gpus": st.none() | st.lists(_DEVICES.map(gpu_row) | st.just(gpu_row("0x2204")), max_size=3),
            "nvswitches": st.lists(st.just(gpu_row("0x22a3")), max_size=1),
            "other_gpus": st.lists(st.just({"name": "AMD 0x73bf"}), max_size=1),
            "secure_boot": st.none() | st.booleans(),
            "driver": st.fixed_dictionaries(
                {
                    "loaded_version": st.sampled_from([None, "390.157", "470.256.02", "580.126.09", "999.1"]),
                    "module": st.sampled_from([None, "open", "proprietary"]),
                    "reason": st.none() | _TEXT,
                },
                optional={
                    "installed_version": st.sampled_from([None, "535.261.03", "580.126.09", "999.1"]),
                    "installed_module": st.sampled_from([None, "open", "proprietary"]),
                    "source": st.sampled_from([None, "nvidia_repo", "distro", "runfile"]),
                },
            ),
            "pythons": st.lists(_PYTHON, max_size=3),
            "environments": st.just({}),
            "unknown": st.just({}),
        },
        optional={
            "container": st.sampled_from([None, "docker", "wsl"]),
            "kernels": st.none()
            | st.lists(
                st.fixed_dictionaries(
                    {"release": st.sampled_from(["6.1.0-28-amd64", "rescue"]), "next_boot": st.none() | st.booleans()}
                ),
                max_size=2,
            ),
        },
    )
)
def test_facts_of_any_host_give_an_answer(found: dict[str, Any]) -> None:
    request = {"environments": [{"name": "torch", "frameworks": {"pytorch": "newest"}}]}
    assert plan(request, host_from_facts(found), today=TODAY)["status"] in ("planned", "conflict")


# --- declared and asked ------------------------------------------------------------------------------------------


def asked(said: dict[str, Any]) -> dict[str, Any] | None:
    """Return the facts of a declared host, None where what is declared is no product or no system."""
    host = read_host(said)
    products = {row["name"]: row["pci"][0] for row in TABLES.rows("gpus.products")}
    devices = [products.get(gpu.name) for gpu in host.gpus or ()]
    if None in devices or host.system is None:
        return None
    pythons = [found.version for found in host.pythons or ()] or [host.system["python"]]
    return {
        "os": {"id": host.system["names"][0], "version": host.system["version"], "name": "as the host says"},
        "gpus": [gpu_row(f"0x{device[5:]}") for device in devices if device],
        "nvswitches": [gpu_row("0x22a3")] if said.get("nvswitch") else [],
        "driver": {"loaded_version": said.get("driver"), "module": said.get("kernel_module")},
        "kernels": [{"release": said[key], "next_boot": True} for key in ("next_boot_kernel",) if key in said],
        "pythons": [{"path": f"/usr/bin/python{minor}", "minor": minor, "usable": True} for minor in pythons],
        **{key: said.get(key) for key in ("arch", "kernel", "glibc", "secure_boot")},
    }


def kept(answer: dict[str, Any]) -> tuple[Any, ...]:
    """Return what must not depend on how a host became known: all but where its interpreters are."""
    planned = answer["plan"]
    if planned:
        environments = [{**found, "interpreter": None} for found in planned["environments"]]
        planned = {**planned, "environments": environments}
    return answer["status"], planned, [row["id"] for row in answer["conflicts"]]


COMPARED = {name: (row, found) for name, row in situations().items() if (found := asked(row["host"]))}


def test_enough_situations_are_compared() -> None:
    assert len(COMPARED) > 40
    assert any(identify(gpu, TABLES).fabric for row, _ in COMPARED.values() for gpu in row["host"]["gpus"])


@pytest.mark.parametrize("name", COMPARED)
def test_a_host_that_is_asked_gets_the_plan_of_one_that_is_declared(name: str) -> None:
    row, found = COMPARED[name]
    request = with_default_environments(row.get("request"))
    declared = plan(request, read_host(row["host"]), today=TODAY)
    assert kept(plan(request, host_from_facts(found), today=TODAY)) == kept(declared)
