# SPDX-License-Identifier: Apache-2.0
"""What must be done to a driver, for every state that a host can be in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from driver_facts import A100, H100, NVSWITCH, RTX_3090, RTX_5090, V100, bare_host, changed, made, plan_of
from gpu_compat import change, host_from_facts, plan
from gpu_compat.driver_change import STEPS, driver_change, driver_digest
from gpu_compat.driver_packages import in_family
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import TODAY

ORDER = list(STEPS)


def steps(found: dict[str, Any] | None) -> list[str]:
    return [row["step"] for row in found["steps"]] if found else []


def why(found: dict[str, Any] | None, step: str) -> str:
    assert found
    return str(next(row["why"] for row in found["steps"] if row["step"] == step))


def converged(system: str = "ubuntu2404", gpu: str = RTX_3090, **wishes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a host that is as planned, with the plan that is made of it."""
    bare = bare_host(system, gpu)
    facts = made(bare, plan_of(bare, **wishes))
    return facts, plan_of(facts, **wishes)


# --- from nothing to everything ----------------------------------------------------------------------------------


def test_a_fresh_host_takes_every_step_that_it_needs_and_the_nouveau_it_runs_goes() -> None:
    facts = bare_host(nouveau={"loaded": True, "blacklisted": False, "in_initramfs": True})
    found = driver_change(plan_of(facts), facts)
    assert steps(found) == [step for step in ORDER if step != "signing"]
    assert found
    assert found["from"] == {"version": None, "kernel_module": None, "source": None}
    assert found["to"] == {"version": "595.91.07", "kernel_module": "open", "source": "nvidia_repo"}
    assert found["kernels"] == ["6.8.0-48-generic", "6.8.0-45-generic"]
    assert (found["remove"], found["remove_runfile"], found["headers"]) == ([], False, [])
    assert why(found, "reboot") == "nouveau drives the GPU"
    assert not found["disruptive"], "nothing runs on its GPU"


@pytest.mark.parametrize(
    ("system", "gpu", "wishes"),
    [
        ("ubuntu2404", RTX_3090, {}),
        ("ubuntu2404", RTX_5090, {}),
        ("ubuntu2404", V100, {}),
        ("ubuntu2404", RTX_3090, {"driver_source": "distro"}),
        ("ubuntu2204", A100, {"driver_source": "runfile"}),
        ("debian12", RTX_3090, {"driver_source": "distro"}),
        ("debian12", RTX_3090, {"driver_source": "distro", "kernel_module": "proprietary"}),
        ("rhel9", A100, {}),
        ("rhel10", A100, {}),
    ],
)
def test_a_host_made_as_planned_needs_nothing_and_keeps_its_plan(system: str, gpu: str, wishes: dict[str, Any]) -> None:
    bare = bare_host(system, gpu)
    first = plan_of(bare, **wishes)
    facts = made(bare, first)
    again = plan_of(facts, **wishes)
    assert driver_change(first, facts) is None
    assert driver_change(again, facts) is None
    assert change(again, facts)["driver"] is None
    assert again["driver"] == first["driver"]


def test_an_archive_that_has_another_release_of_the_branch_is_as_planned() -> None:
    bare = bare_host("debian12")
    first = plan_of(bare, driver_source="distro")
    assert (first["driver"]["version"], first["driver"]["package_version"]) == ("535.309.01", "535.*")
    facts = made(bare, {**first, "driver": {**first["driver"], "version": "535.261.03"}})
    facts["state"]["digest"] = driver_digest(first)
    assert driver_change(first, facts) is None, "as installed by this run"
    again = plan_of(facts, driver_source="distro")
    assert again["driver"]["version"] == "535.261.03"
    assert driver_change(again, facts) is None


def test_a_version_that_is_named_must_be_that_version_from_an_archive_too() -> None:
    bare = bare_host("debian12")
    wishes = {"driver_source": "distro", "driver": "535.309.01"}
    first = plan_of(bare, **wishes)
    assert first["driver"]["package_version"] == "535.309.01-*"
    older = made(bare, {**first, "driver": {**first["driver"], "version": "535.261.03"}})
    assert why(driver_change(first, older), "packages") == "driver 535.261.03 is installed"


# --- states, each one value away from a host that is as planned ---------------------------------------------------

OLD = "580.126.09"
KERNEL, NEXT = "6.8.0-45-generic", "6.8.0-48-generic"
STATES: dict[str, tuple[tuple[Any, ...], dict[str, str]]] = {
    "not held": (("driver", "held", ["nvidia-open"]), {"hold": "not held: "}),
    "unattended upgrades": (
        ("package_manager", {"unattended_upgrades": True, "our_blacklist": False}),
        {"hold": "unattended upgrades may touch it"},
    ),
    "half-configured": (("driver", "broken", ["nvidia-open"]), {"packages": "half-configured: nvidia-open"}),
    "none loaded": (("driver", "loaded_version", None), {"reboot": "no NVIDIA driver is loaded"}),
    "older one loaded": (("driver", "loaded_version", OLD), {"reboot": f"driver {OLD} is loaded"}),
    "other flavour loaded": (("driver", "module", "proprietary"), {"reboot": "the proprietary module of driver"}),
    "no module for the next kernel": (
        ("driver", "modules", NEXT, ...),
        {"modules": f"there is no module for Linux {NEXT}, which boots next"},
    ),
    "no module for the running kernel": (
        ("driver", "modules", KERNEL, None),
        {"modules": f"there is no module for Linux {KERNEL}"},
    ),
    "module of another version": (
        ("driver", "modules", NEXT, "version", OLD),
        {"modules": f"the module for Linux {NEXT}, which boots next is of driver {OLD}"},
    ),
    "module of another licence": (
        ("driver", "modules", NEXT, "license", "NVIDIA"),
        {"modules": "has the licence 'NVIDIA', not 'Dual MIT/GPL'"},
    ),
    "no headers for the next kernel": (
        ("kernels", 0, "headers", False),
        {"headers": f"a module is built with linux-headers-{NEXT}"},
    ),
    "nouveau loaded": (("nouveau", "loaded", True), {"nouveau": "nouveau is loaded"}),
    "nouveau not blacklisted": (("nouveau", "blacklisted", False), {"nouveau": "nothing keeps nouveau"}),
    "nouveau in the initramfs": (("nouveau", "in_initramfs", True), {"nouveau": "nouveau is in the initramfs"}),
    "set up otherwise": (
        ("state", "digest", "another"),
        dict.fromkeys(("repository", "settings", "hold"), "plan or settings have changed since it was set up"),
    ),
    "never set up by us": (("state", None), {"settings": "this project has not set it up yet"}),
    "file changed": (
        ("managed", "/etc/modprobe.d/gpulab-nvidia.conf", "bb"),
        {"settings": "/etc/modprobe.d/gpulab-nvidia.conf was changed by hand"},
    ),
    "file gone": (
        ("managed", "/etc/modprobe.d/gpulab-nvidia.conf", None),
        {"settings": "/etc/modprobe.d/gpulab-nvidia.conf is gone"},
    ),
    "daemon stopped": (
        ("units", "nvidia-persistenced", "active", False),
        {"services": "nvidia-persistenced: not running"},
    ),
    "daemon gone": (("units", {}), {"services": "nvidia-persistenced: not running"}),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_needs_its_steps_and_no_others(name: str) -> None:
    path_and_value, expected = STATES[name]
    facts, planned = converged()
    found = driver_change(planned, changed(facts, *path_and_value))
    assert steps(found) == list(expected)
    for step, words in expected.items():
        assert words in why(found, step)


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/etc/apt/sources.list.d/gpulab-nvidia.sources", "repository"),
        ("/etc/apt/keyrings/gpulab-nvidia.gpg", "repository"),
        ("/etc/yum.repos.d/gpulab-nvidia.repo", "repository"),
        ("/etc/apt/preferences.d/gpulab-nvidia-driver", "packages"),
        ("/etc/apt/apt.conf.d/52gpulab-nvidia-driver", "hold"),
        ("/etc/modprobe.d/gpulab-nouveau.conf", "nouveau"),
        ("/etc/modules-load.d/gpulab-nvidia.conf", "settings"),
        ("/etc/systemd/system/gpulab-dev-char.service", "settings"),
    ],
)
def test_a_file_that_is_gone_is_written_again_by_the_step_that_it_belongs_to(path: str, step: str) -> None:
    facts, planned = converged()
    facts["managed"][path] = None
    found = driver_change(planned, facts)
    assert steps(found) == [step]
    assert why(found, step) == f"{path} is gone"
    assert found
    assert not found["disruptive"]


def test_the_record_may_be_without_checksums_and_no_record_at_all() -> None:
    facts, planned = converged()
    assert driver_change(planned, changed(facts, "state", "files", ["/etc/modprobe.d/gpulab-nvidia.conf"])) is None
    assert steps(driver_change(planned, changed(facts, "state", "half-written"))) == ["settings"]


def test_a_driver_that_others_installed_exactly_as_planned_is_only_set_up_and_held() -> None:
    facts = converged()[0]
    by_hand = {**facts, "state": None, "managed": {}}
    by_hand["driver"] = {**facts["driver"], "held": [], "source": None}
    by_hand["units"] = {}
    found = driver_change(plan_of(by_hand), by_hand)
    assert steps(found) == ["settings", "hold", "services"]
    assert found
    assert found["hold"] == sorted(facts["driver"]["packages"])
    assert not found["disruptive"]


def test_holds_of_other_packages_are_nobodys_business() -> None:
    facts, planned = converged()
    facts["driver"]["packages"]["nvidia-container-toolkit"] = "1.17.0-1"
    assert driver_change(planned, facts) is None


def test_without_holds_and_daemon_neither_is_asked_for() -> None:
    wish = {"nvidia_driver_hold": "false", "nvidia_driver_persistence": False}
    bare = bare_host()
    planned = plan_of(bare)
    assert not {"hold", "services"} & set(steps(driver_change(planned, bare, wish)))
    facts = made(bare, planned, wish)
    facts["driver"]["held"] = []
    assert driver_change(planned, facts, wish) is None


# --- another branch, source or flavour ------------------------------------------------------------------------------


def test_a_newer_branch_removes_the_old_family_and_nothing_else() -> None:
    facts = made(bare_host(), plan_of(bare_host(), driver="580"))
    facts["driver"]["packages"] |= {"nvidia-container-toolkit": "1.17.0-1", "libnvidia-container1": "1.17.0-1"}
    planned = plan_of(facts, driver="595")
    found = driver_change(planned, facts)
    assert found
    assert found["from"]["version"] == "580.178.04"
    assert found["remove"] == sorted(
        set(facts["driver"]["packages"]) - {"nvidia-container-toolkit", "libnvidia-container1"}
    )
    assert "nvidia-driver-pinning-580.178.04" in found["remove"]
    assert found["disruptive"]
    assert steps(found) == ["repository", "headers", "packages", "modules", "settings", "hold", "reboot"]
    assert why(found, "packages") == "driver 580.178.04 is installed"


def test_another_release_of_the_branch_only_moves_the_pin() -> None:
    facts = made(bare_host(), plan_of(bare_host(), driver=OLD))
    found = driver_change(plan_of(facts, driver="580.178.04"), facts)
    assert found
    assert found["remove"] == [f"nvidia-driver-pinning-{OLD}"]
    back = driver_change(plan_of(facts, driver="580.82.07"), facts)
    assert back
    assert back["to"]["version"] == "580.82.07", "a downgrade is a change like any other"


def test_another_flavour_of_the_same_version_replaces_the_family() -> None:
    facts = made(bare_host(), plan_of(bare_host(), driver="580"))
    planned = plan_of(facts, driver="580", kernel_module="proprietary")
    found = driver_change(planned, facts)
    assert found
    assert why(found, "packages") == "its open kernel module is installed"
    assert {"libnvidia-ml1", "nvidia-open"} <= set(found["remove"])
    assert why(found, "reboot").startswith("the open module of driver 580.178.04")


def test_another_source_of_the_same_version_replaces_the_family_and_loads_nothing_new() -> None:
    facts = made(bare_host(), plan_of(bare_host(), driver="580.178.04", driver_source="distro"))
    planned = plan_of(facts, driver="580.178.04", driver_source="nvidia_repo")
    found = driver_change(planned, facts)
    assert found
    assert why(found, "packages") == "it was installed from the distribution's archive"
    assert "nvidia-headless-no-dkms-580-server-open" in found["remove"]
    assert "reboot" not in steps(found), "the loaded module is of the planned version and flavour"
    assert found["disruptive"], "its libraries go for a while"


def test_a_family_that_was_never_finished_goes_whole_before_another_flavour_comes() -> None:
    facts = made(bare_host(), plan_of(bare_host(), driver="580"))
    facts["driver"] |= {"broken": ["nvidia-open"], "packages": {"libnvidia-ml1": "580.178.04-1"}}
    found = driver_change(plan_of(facts, driver="580", kernel_module="proprietary"), facts)
    assert found
    assert found["remove"] == ["libnvidia-ml1", "nvidia-open"]
    facts["driver"] |= {"installed_version": None, "installed_module": None, "packages": {}, "modules": {}}
    found = driver_change(plan_of(facts, driver="580", kernel_module="proprietary"), facts)
    assert found
    assert found["remove"] == ["nvidia-open"]


def test_a_runfile_is_uninstalled_by_its_own_means() -> None:
    facts = made(bare_host(), plan_of(bare_host(), driver="580", driver_source="runfile"))
    assert driver_change(plan_of(facts, driver_source="auto"), facts) is None, "it stays while its branch is supported"
    found = driver_change(plan_of(facts, driver_source="nvidia_repo"), facts)
    assert found
    assert (found["remove_runfile"], found["remove"]) == (True, [])
    assert why(found, "packages") == "it was installed from a runfile"
    to_runfile = driver_change(plan_of(bare_host(), driver_source="runfile"), bare_host())
    assert to_runfile
    assert "repository" not in steps(to_runfile)
    assert "hold" not in steps(to_runfile)
    assert "gcc" in why(to_runfile, "headers")


def test_what_an_interrupted_run_left_is_finished() -> None:
    bare = bare_host()
    planned = plan_of(bare)
    half = made(bare, planned)
    half["driver"] |= {"broken": ["nvidia-open"], "loaded_version": None, "module": None, "modules": {}, "held": []}
    half["state"] = None
    found = driver_change(planned, half)
    assert steps(found) == ["packages", "modules", "settings", "hold", "reboot"]


# --- NVSwitch, compatibility packages, Secure Boot ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        (None, "nvidia-fabricmanager is not installed"),
        ("1:580.126.09-1", "nvidia-fabricmanager is 1:580.126.09-1, and the driver 580.178.04"),
    ],
)
def test_the_fabric_manager_is_there_and_of_the_drivers_version(installed: str | None, words: str) -> None:
    bare = bare_host(gpu=H100, nvswitches=[NVSWITCH])
    facts = made(bare, plan_of(bare, driver="580"))
    planned = plan_of(facts, driver="580")
    assert driver_change(planned, facts) is None
    facts["driver"]["packages"]["nvidia-fabricmanager"] = "1:580.178.04-1"
    assert driver_change(planned, facts) is None
    facts = changed(facts, "driver", "packages", "nvidia-fabricmanager", installed or ...)
    found = driver_change(planned, facts)
    assert why(found, "packages") == words
    assert found
    assert found["disruptive"]
    facts = made(bare, planned)
    facts["units"]["nvidia-fabricmanager"]["active"] = False
    assert why(driver_change(planned, facts), "services") == "nvidia-fabricmanager: not running"


def test_the_compatibility_package_is_part_of_the_driver() -> None:
    bare = bare_host(gpu=A100)
    facts = made(bare, plan_of(bare, driver="535"))
    planned = {**plan_of(facts, driver="535"), "cuda_compat_package": "cuda-compat-13-0"}
    facts["state"]["digest"] = driver_digest(planned)
    assert why(driver_change(planned, facts), "packages") == "cuda-compat-13-0 is not installed"
    facts["driver"]["packages"]["cuda-compat-13-0"] = "580.82.07-1"
    assert driver_change(planned, facts) is None


def key_state(**key: Any) -> dict[str, Any] | None:
    bare = bare_host("debian12", secure_boot=True)
    facts = made(bare, plan_of(bare))
    facts["machine_owner_key"] |= key
    return driver_change(plan_of(facts), facts)


def test_a_machine_owner_key_is_made_requested_and_confirmed_once() -> None:
    assert key_state(enrolled=True) is None
    missing = key_state(enrolled=False, certificate=None)
    assert "there is no machine owner key" in why(missing, "signing")
    assert "is not enrolled" in why(key_state(enrolled=False), "signing")
    pending = key_state(enrolled=False, pending=True)
    assert "waits for its confirmation at the console" in why(pending, "signing")
    assert pending
    assert pending["console"]
    assert key_state(enrolled=None) is None, "what cannot be read asks for nothing"


def test_a_module_without_a_signature_is_built_again_under_secure_boot() -> None:
    bare = bare_host("debian12", secure_boot=True)
    facts = made(bare, plan_of(bare))
    facts["driver"]["modules"]["6.1.0-28-amd64"]["signer"] = None
    assert why(driver_change(plan_of(facts), facts), "modules").endswith("is not signed")


def test_a_module_that_comes_signed_is_installed_for_a_kernel_that_lacks_it() -> None:
    bare = bare_host(secure_boot=True)
    facts = made(bare, plan_of(bare))
    planned = plan_of(facts)
    assert planned["driver"]["signed"]
    assert planned["driver"]["kernel_packages"][NEXT] == [f"linux-modules-nvidia-580-server-open-{NEXT}"]
    del facts["driver"]["modules"][NEXT]
    found = driver_change(planned, facts)
    assert steps(found) == ["packages", "modules"]
    assert found
    assert not found["disruptive"], "another kernel's module disturbs nobody"


# --- who is disturbed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path_and_value", "disruptive"),
    [
        (("driver", "loaded_version", OLD), True),
        (("driver", "broken", ["nvidia-open"]), True),
        (("nouveau", "loaded", True), True),
        (("nouveau", "blacklisted", False), False),
        (("driver", "held", []), False),
        (("driver", "modules", NEXT, ...), False),
        (("state", "digest", "x"), False),
    ],
)
def test_a_change_is_disruptive_where_programs_on_the_gpu_would_notice(
    path_and_value: tuple[Any, ...], disruptive: bool
) -> None:
    facts, planned = converged()
    found = driver_change(planned, changed(facts, *path_and_value))
    assert found
    assert found["disruptive"] is disruptive


def test_work_on_the_gpu_counts_without_a_loaded_driver() -> None:
    facts = bare_host()
    facts["busy"]["processes"] = [{"pid": 1, "user": "u", "command": "python", "age_s": 5, "devices": ["/dev/nvidia0"]}]
    found = driver_change(plan_of(facts), facts)
    assert found
    assert found["disruptive"]


# --- where nothing is to be done ------------------------------------------------------------------------------------


def test_a_container_gets_the_driver_of_the_machine_below_it_and_no_step() -> None:
    facts = bare_host(container="docker")
    facts["driver"] |= {"loaded_version": OLD, "module": "open", "installed_version": "535.1.1", "source": "distro"}
    planned = plan_of(facts)
    assert (planned["driver"]["source"], planned["driver"]["version"]) == ("preinstalled", OLD)
    assert driver_change(planned, facts) is None
    assert planned["driver"]["family"] == []


def test_without_gpu_and_without_a_wish_for_a_driver_nothing_is_touched() -> None:
    facts, _ = converged()
    assert driver_change(plan_of({**facts, "gpus": []}), {**facts, "gpus": []}) is None
    assert driver_change(plan_of(facts, driver="none"), facts) is None
    assert driver_change(plan_of(facts, profile="cpu"), facts) is None
    assert driver_change(plan_of(facts, driver="keep"), facts) is None


@pytest.mark.parametrize("name", ["packages", "held", "broken", "modules", "installed_module", "source"])
def test_what_could_not_be_read_asks_for_nothing(name: str) -> None:
    facts, planned = converged(gpu=A100, driver="535")
    assert driver_change(planned, changed(facts, "driver", name, None)) is None


def test_facts_that_know_no_more_than_the_loaded_driver_ask_for_no_more(gpu_host: dict[str, Any]) -> None:
    request = {"environments": [], "cuda_toolkits": []}
    planned = plan(request, host_from_facts(gpu_host), today=TODAY)["plan"]
    assert driver_change(planned, gpu_host) is None
    newer = plan({**request, "driver": "595"}, host_from_facts(gpu_host), today=TODAY)["plan"]
    found = driver_change(newer, gpu_host)
    assert steps(found) == ["repository", "headers", "packages", "modules", "hold", "reboot", "services"]
    silent = {**gpu_host, "driver": {"loaded_version": None, "reason": "x"}}
    assert why(driver_change(newer, silent), "packages") == "no NVIDIA driver is installed"


# --- the digest -----------------------------------------------------------------------------------------------------


def test_the_digest_stands_for_plan_and_settings_and_for_nothing_that_comes_and_goes() -> None:
    planned = plan_of(bare_host())
    digest = driver_digest(planned, {"nvidia_driver_hold": True})
    assert digest == driver_digest(copy.deepcopy(planned), {"nvidia_driver_hold": True, "gpulab_other": 1})
    consent = {"nvidia_driver_hold": True, "nvidia_driver_reboot_allowed": True, "nvidia_driver_busy_policy": "wait"}
    assert digest == driver_digest(planned, consent)
    assert digest != driver_digest(planned, {"nvidia_driver_hold": False})
    assert digest != driver_digest(plan_of(bare_host(), driver="580"), {"nvidia_driver_hold": True})
    one_kernel = bare_host()
    one_kernel["kernels"] = one_kernel["kernels"][1:]
    assert driver_digest(plan_of(one_kernel), {"nvidia_driver_hold": True}) == digest
    fabric = bare_host(gpu=H100, nvswitches=[NVSWITCH])
    assert driver_digest(plan_of(fabric)) != driver_digest(plan_of({**fabric, "nvswitches": []}))


# --- what holds for every host ----------------------------------------------------------------------------------------

SYSTEMS = st.sampled_from(["ubuntu2404", "ubuntu2204", "debian12", "rhel9", "rhel10"])
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "driver": st.sampled_from(["auto", "580", "595", "580.126.09"]),
        "driver_source": st.sampled_from(["auto", "nvidia_repo", "runfile"]),
        "kernel_module": st.sampled_from(["auto", "open", "proprietary"]),
    },
)
GPUS = st.sampled_from([RTX_3090, A100, H100])


@st.composite
def hosts(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a host that was made by one plan and then changed by hand, and another plan for it."""
    bare = bare_host(draw(SYSTEMS), draw(GPUS), secure_boot=False)
    facts = made(bare, plan_of(bare, **draw(WISHES))) if draw(st.booleans()) else bare
    packages = sorted(facts["driver"]["packages"])
    values: list[tuple[Any, ...]] = [
        ("driver", "held", draw(st.lists(st.sampled_from([*packages, "other"]), max_size=3))),
        ("driver", "broken", draw(st.lists(st.sampled_from([*packages, "nvlsm"]), max_size=2, unique=True))),
        ("driver", "loaded_version", draw(st.sampled_from([None, "470.256.02", "580.178.04"]))),
        ("driver", "source", draw(st.sampled_from([None, "distro", "runfile", "nvidia_repo"]))),
        ("driver", "installed_module", draw(st.sampled_from([None, "open", "proprietary"]))),
        ("driver", "modules", {}),
        ("driver", "packages", {**facts["driver"]["packages"], "nvidia-container-toolkit": "1", "libnvidia-gl": "1-1"}),
        ("state", draw(st.sampled_from([None, {}, {"digest": "x", "files": {"/etc/x": "y"}}]))),
        ("managed", {"/etc/x": None}),
        ("nouveau", draw(st.sampled_from([None, {"loaded": True, "blacklisted": None, "in_initramfs": None}]))),
        ("kernels", draw(st.sampled_from([[], None]))),
        ("machine_owner_key", None),
        ("package_manager", None),
        ("units", None),
        ("busy", None),
    ]
    for value in draw(st.lists(st.sampled_from(values), max_size=5)):
        facts = changed(facts, *value)
    if not draw(st.booleans()):
        return facts, plan_of(bare, **draw(WISHES))
    answer = plan({"environments": [], "cuda_toolkits": [], **draw(WISHES)}, host_from_facts(facts), today=TODAY)
    return facts, answer["plan"] or plan_of(bare)


@given(hosts())
@settings(max_examples=150, deadline=None)
def test_steps_are_in_order_and_say_why_and_only_the_family_is_removed(
    drawn: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    facts, planned = drawn
    found = driver_change(planned, facts)
    assert driver_change(copy.deepcopy(planned), copy.deepcopy(facts)) == found
    if found is None:
        return
    names = steps(found)
    assert names == sorted(set(names), key=ORDER.index)
    assert all(row["why"].strip() for row in found["steps"])
    assert "nvidia-container-toolkit" not in found["remove"]
    assert set(found["remove"]) <= {*facts["driver"]["packages"], *(facts["driver"].get("broken") or ())}
    assert all(in_family(name, planned["driver"]["family"]) for name in found["remove"])
    assert not found["remove"] or "packages" in names
    assert set(found["build"]) <= set(found["kernels"])


@given(SYSTEMS, GPUS, WISHES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_host_made_exactly_as_planned_is_converged(
    system: str, gpu: str, wishes: dict[str, Any], secure_boot: bool
) -> None:
    bare = bare_host(system, gpu, secure_boot=secure_boot)
    request = {"environments": [], "cuda_toolkits": [], **wishes}
    planned = plan(request, host_from_facts(bare), today=TODAY)["plan"]
    if planned is None:
        return
    facts = made(bare, planned)
    assert driver_change(planned, facts) is None
    again = plan(request, host_from_facts(facts), today=TODAY)["plan"]
    assert driver_change(again, facts) is None
