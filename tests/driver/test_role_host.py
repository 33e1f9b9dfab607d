# SPDX-License-Identifier: Apache-2.0
"""What the role nvidia_driver does with a host around the packages: reboots, kernels, running work, Secure Boot and
NVIDIA's own installer. The tests of a host build on one another, as the runs of a person do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fabricated_hosts as f
import pytest
from ansible_runs import recap
from driver_runs import PLAYBOOKS, facts_of, provision, steps_taken, variables_of
from posing_hosts import PosingHost, play
from project_tree import ROOT
from repositories import KERNELS
from runfile import truncated, write_runfile

OLD, NEW = KERNELS["ubuntu2404"]
LATEST, OTHER = "595.91.07", "580.178.04"


def refused(done: Any, *words: str) -> None:
    """Check that a run ended in one message that says what is to be known, and not in a traceback."""
    assert done.status == 2, done.output
    assert "Traceback" not in done.output, done.output
    failures = [line for line in done.output.splitlines() if line.startswith("fatal:")]
    assert len(failures) == 1, done.output
    message = said(done)
    assert not [word for word in words if word not in message], message


def said(done: Any) -> str:
    """Return the message of the failure, without the line breaks of its presentation."""
    return told(done)[told(done).find("fatal:") :]


def told(done: Any) -> str:
    """Return all that a run printed, without the line breaks of its presentation."""
    return " ".join(done.output.replace("''", "'").split())


def converged(host: PosingHost, variables: dict[str, Any]) -> None:
    """Check that one more run finds nothing to do."""
    done = provision(host, variables)
    assert done.status == 0, done.output
    assert recap(done.output, host.name)["changed"] == 0, done.output
    assert "nvidia_driver :" not in done.output


def packages(host: PosingHost) -> str:
    """Return the packages of the host, with versions and states."""
    return host.must("dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n'")


def boot_id(host: PosingHost) -> str:
    """Return what tells one boot from another."""
    return host.read("/proc/sys/kernel/random/boot_id").strip()


def module(host: PosingHost, kernel: str) -> str:
    """Return the path of the module that was built for a kernel."""
    return host.must(f"find /lib/modules/{kernel} -name 'nvidia.ko'").strip()


# --- reboots, kernels and running work: one workstation, two kernels of which the older runs --------------------------


@pytest.fixture(scope="module")
def desk(hosts: Any) -> PosingHost:
    """A workstation whose console is drawn by nouveau."""
    host = hosts.start("desk", "ubuntu2404", hardware=f.rtx_5090, kernels=(OLD, NEW), running=OLD, nouveau=True)
    host.use_module("nouveau", users=1)
    return host


@pytest.fixture(scope="module")
def ubuntu(server: Any, repositories: Any) -> dict[str, Any]:
    """The variables of a host with Ubuntu."""
    return variables_of(server, repositories.publish("ubuntu2404", server.root))


@pytest.fixture(scope="module")
def pending(desk: PosingHost, ubuntu: dict[str, Any]) -> Any:
    """The first run: all is installed, and the reboot is not allowed."""
    assert desk.kernel() == OLD
    done = provision(desk, ubuntu)
    assert done.status == 0, done.output
    return done


def test_a_reboot_that_is_not_allowed_is_said_and_left(desk: PosingHost, pending: Any) -> None:
    assert f"driver {LATEST} is installed and takes effect with a reboot" in told(pending)
    assert "nvidia_driver_reboot_allowed: true" in told(pending)
    assert (desk.loaded(), desk.kernel()) == (None, OLD)
    assert desk.run("test -d /sys/module/nouveau").status == 0


def test_a_module_is_built_for_the_running_and_the_next_kernel(desk: PosingHost, pending: Any) -> None:
    assert module(desk, OLD)
    assert module(desk, NEW)


def test_the_next_run_says_it_again_and_nothing_is_proven(
    desk: PosingHost, ubuntu: dict[str, Any], pending: Any
) -> None:
    again = play(ROOT / "site.yml", {desk.name: desk}, variables={desk.name: ubuntu})
    # Said where it is found, and the host is failed where the report ends the run.
    flat = " ".join(again.output.split())
    assert f"driver {LATEST} takes effect with a reboot, so nothing was proven" in flat, again.output
    assert "nvidia_driver_reboot_allowed" in flat, again.output
    assert (again.status, recap(again.output, desk.name)["failed"]) == (2, 1), again.output
    # That there is no verdict is news to the report on the control node; the host stays as it is.
    assert recap(again.output, desk.name)["changed"] <= 1, again.output
    assert f"driver {LATEST} is installed and takes effect with a reboot" in told(again)


@pytest.fixture(scope="module")
def rebooted(desk: PosingHost, ubuntu: dict[str, Any], pending: Any) -> Any:
    """The run that may reboot."""
    before = boot_id(desk)
    done = provision(desk, {**ubuntu, "nvidia_driver_reboot_allowed": True})
    assert done.status == 0, done.output
    assert boot_id(desk) != before
    return done


def test_a_reboot_with_consent_ends_with_the_driver_loaded(
    desk: PosingHost, ubuntu: dict[str, Any], rebooted: Any
) -> None:
    assert steps_taken(rebooted.output, desk.name) == ["nouveau", "reboot"]
    assert (desk.loaded(), desk.kernel()) == (LATEST, NEW)
    assert desk.run("test -d /sys/module/nouveau").status != 0
    converged(desk, ubuntu)


# --- running work -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(ubuntu: dict[str, Any]) -> dict[str, Any]:
    """The variables of a host that is to have another driver than it has."""
    return {**ubuntu, "gpu_stack": {**ubuntu["gpu_stack"], "driver": "580"}}


def test_a_host_with_running_work_is_refused_and_the_work_named(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    work, before = desk.use_gpu(), packages(desk)
    try:
        done = provision(desk, other)
        refused(done, f"train.py 3600 (pid {work}, user root", "/dev/nvidia0", "gpu_busy_policy", "Nothing was changed")
        assert recap(done.output, desk.name)["changed"] == 0, done.output
        # Nobody's process is ended, and a host that is not to be changed may work on.
        assert desk.run(f"kill -0 {work}").status == 0
        assert packages(desk) == before
        waited = provision(desk, {**other, "gpu_busy_policy": "wait", "nvidia_driver_busy_deadline": 10})
        refused(
            waited, "still in use after 10 s", f"train.py 3600 (pid {work}, user root", "nvidia_driver_busy_deadline"
        )
        assert packages(desk) == before
    finally:
        desk.run(f"kill {work}")


def test_drained_work_is_let_in_again_also_when_the_change_fails(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    work = desk.use_gpu()
    drain = {
        "gpu_busy_policy": "drain",
        "nvidia_driver_busy_deadline": 60,
        # The scheduler lets the work that runs end.
        "nvidia_driver_drain_command": ["sh", "-c", f"echo drained >>/srv/scheduler; kill {work}"],
        "nvidia_driver_resume_command": ["sh", "-c", "echo resumed >>/srv/scheduler"],
    }
    desk.fail_builds("6.8*")
    refused(provision(desk, {**other, **drain}), "Half-configured: ", "nvidia-dkms-580-open", "make.log", "run again")
    assert desk.read("/srv/scheduler").split() == ["drained", "resumed"]


def test_the_next_run_waits_for_work_that_ends_and_finishes_what_failed(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    desk.fail_builds()
    desk.use_gpu("sleep 20")
    done = provision(desk, {**other, "gpu_busy_policy": "wait", "nvidia_driver_reboot_allowed": True})
    assert done.status == 0, done.output
    assert desk.loaded() == OTHER
    converged(desk, other)
    assert facts_of(desk, other)["driver"]["mismatch"] is None


# --- boots that go wrong ----------------------------------------------------------------------------------------------


def left_pending(host: PosingHost) -> None:
    """Leave the host as a run does that installed the driver and was not allowed to reboot: another one is loaded."""
    host.posed("sys/module/nvidia/version", "570.86.15\n")
    record = json.loads(host.read("/var/lib/gpulab/driver.json"))
    host.write("/var/lib/gpulab/driver.json", json.dumps({**record, "boot_id": boot_id(host)}))


def test_another_kernel_than_planned_is_named(desk: PosingHost, other: dict[str, Any], rebooted: Any) -> None:
    left_pending(desk)
    desk.must("echo 6.8.0-31-generic >/opt/posed/boot-into")
    done = provision(desk, {**other, "nvidia_driver_reboot_allowed": True})
    refused(done, "it has booted Linux 6.8.0-31-generic", NEW, "boot loader's default")
    desk.reboot()
    converged(desk, other)


def test_a_module_that_does_not_load_is_not_rebooted_for_twice(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    left_pending(desk)
    wrong = NEW.replace("47", "99")
    desk.must(f"sed -i.kept 's/vermagic={NEW}/vermagic={wrong}/' {module(desk, NEW)}")
    allowed = {**other, "nvidia_driver_reboot_allowed": True}
    before = boot_id(desk)
    words = ("is installed and rebooted for", "none is loaded", "Exec format error")
    refused(provision(desk, allowed), *words)
    after = boot_id(desk)
    assert after != before
    refused(provision(desk, allowed), *words)
    assert boot_id(desk) == after
    desk.must(f"mv {module(desk, NEW)}.kept {module(desk, NEW)}")
    mended = provision(desk, allowed)
    assert mended.status == 0, mended.output
    assert (desk.loaded(), boot_id(desk)) == (OTHER, after)
    converged(desk, other)


# --- what is left alone -----------------------------------------------------------------------------------------------


def test_a_driver_that_is_preinstalled_is_verified_and_left(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    def asked(**request: Any) -> dict[str, Any]:
        return {**other, "gpu_stack": {**other["gpu_stack"], "driver_source": "preinstalled", **request}}

    converged(desk, asked(driver="auto"))
    refused(provision(desk, asked(driver="570")), OTHER, "570", "Nothing was changed")


def test_a_container_takes_the_driver_of_the_machine_below(
    desk: PosingHost, ubuntu: dict[str, Any], rebooted: Any
) -> None:
    contained = {name: value for name, value in ubuntu.items() if name != "nvidia_driver_manage_kernel_module"}
    converged(desk, contained)
    plan = play(PLAYBOOKS / "plan.yml", {desk.name: desk}, variables={desk.name: contained})
    assert "preinstalled" in plan.output, plan.output


def test_without_root_a_driver_that_is_as_planned_is_no_business_and_another_is_refused(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    desk.must("id ada || useradd --create-home ada")
    mine = {**other, "ansible_user": "ada"}
    converged(desk, mine)
    newer = {**mine, "gpu_stack": {**mine["gpu_stack"], "driver": "595"}}
    refused(provision(desk, newer), "595 is asked for", OTHER, "nothing installs another", "Nothing was changed")


def test_a_kernel_without_a_module_is_found_and_repaired(
    desk: PosingHost, other: dict[str, Any], rebooted: Any
) -> None:
    # As a kernel comes whose headers came too late: DKMS has built nothing for it.
    desk.must(f"dkms unbuild -m nvidia -v {OTHER} -k {NEW}")
    audit = play(PLAYBOOKS / "audit.yml", {desk.name: desk}, variables={desk.name: other})
    assert audit.status == 2, audit.output
    assert NEW in audit.output
    before = packages(desk)
    done = provision(desk, other)
    assert done.status == 0, done.output
    assert steps_taken(done.output, desk.name) == ["modules"]
    assert packages(desk) == before
    converged(desk, other)


# --- Secure Boot ------------------------------------------------------------------------------------------------------

WORD = "correct-horse-17"


@pytest.fixture(scope="module")
def locked(hosts: Any) -> PosingHost:
    """A server with Secure Boot, whose archive has no signed module of the planned driver."""
    return hosts.start("locked", "debian12", hardware=f.rtx_5090, secure_boot=True)


@pytest.fixture(scope="module")
def debian(server: Any, repositories: Any) -> dict[str, Any]:
    """The variables of a host with Debian."""
    return variables_of(server, repositories.publish("debian12", server.root))


@pytest.fixture(scope="module")
def with_word(debian: dict[str, Any]) -> dict[str, Any]:
    """The same with the word for the console, and with leave to reboot."""
    return {**debian, "nvidia_driver_mok_password": WORD, "nvidia_driver_reboot_allowed": True}


def test_without_the_word_for_the_console_nothing_is_touched(locked: PosingHost, debian: dict[str, Any]) -> None:
    before = packages(locked)
    done = provision(locked, debian)
    refused(done, "Secure Boot is on", "nvidia_driver_mok_password", "console")
    assert recap(done.output, locked.name)["changed"] == 0, done.output
    assert packages(locked) == before


@pytest.fixture(scope="module")
def queued(locked: PosingHost, with_word: dict[str, Any]) -> Any:
    """The run that makes the key; it may reboot, and must not."""
    before = boot_id(locked)
    done = provision(locked, with_word, "-vvv")
    assert done.status == 0, done.output
    assert boot_id(locked) == before
    return done


def test_the_key_is_made_for_root_alone_and_signs_the_module(locked: PosingHost, queued: Any) -> None:
    assert locked.must("stat -c '%a %U' /var/lib/gpulab/machine-owner-key").split() == ["700", "root"]
    assert locked.must("stat -c '%a %U' /var/lib/gpulab/machine-owner-key/mok.key").split() == ["600", "root"]
    assert locked.must("mokutil --list-new").strip()
    assert "gpulab" in locked.must(f"modinfo -F signer {module(locked, locked.kernel())}")
    assert 'Choose "Enroll MOK"' in told(queued).replace('\\"', '"')
    assert "A person must confirm the machine owner key at the console" in told(queued)
    assert locked.loaded() is None


def test_the_word_for_the_console_is_kept_nowhere(locked: PosingHost, queued: Any) -> None:
    assert WORD not in queued.output
    found = locked.run(f"grep -rl {WORD} /etc /var/lib/gpulab /var/lib/dkms /var/log /var/tmp /root /tmp /run").output
    assert not found.strip(), found
    assert locked.run("test -e /var/lib/gpulab/machine-owner-key/hash").status != 0


def test_a_confirmed_key_ends_it_and_no_second_one_is_made(
    locked: PosingHost, debian: dict[str, Any], with_word: dict[str, Any], queued: Any
) -> None:
    key = locked.must("sha256sum /var/lib/gpulab/machine-owner-key/mok.key /var/lib/gpulab/machine-owner-key.der")
    waiting = provision(locked, with_word)
    assert waiting.status == 0, waiting.output
    assert recap(waiting.output, locked.name)["changed"] == 0, waiting.output
    assert "confirm the machine owner key at the console" in told(waiting)
    locked.enroll_key()
    locked.reboot()
    assert locked.loaded() == LATEST
    done = provision(locked, with_word)
    assert done.status == 0, done.output
    # The word has done its work, and may go from the vault.
    converged(locked, debian)
    assert key == locked.must(
        "sha256sum /var/lib/gpulab/machine-owner-key/mok.key /var/lib/gpulab/machine-owner-key.der"
    )


# --- NVIDIA's own installer -------------------------------------------------------------------------------------------

RUNFILE = f"NVIDIA-Linux-x86_64-{OTHER}.run"


@pytest.fixture(scope="module")
def runfile(server: Any) -> Path:
    """The runfile, as the test server has it."""
    return write_runfile(server.root / "runfiles", OTHER)


@pytest.fixture(scope="module")
def handmade(hosts: Any) -> PosingHost:
    """A workstation with a card of the last generation without an open module."""
    host = hosts.start("handmade", "debian12", hardware=f.gtx_1080_ti, nouveau=True)
    host.use_module("nouveau", users=1)
    return host


@pytest.fixture(scope="module")
def by_runfile(server: Any, debian: dict[str, Any], runfile: Path) -> dict[str, Any]:
    """The variables of a host that takes its driver from a runfile, with its checksum."""
    return {
        **debian,
        "gpu_stack": {**debian["gpu_stack"], "driver_source": "runfile"},
        "nvidia_driver_runfile": server.url(f"runfiles/{RUNFILE}"),
        "nvidia_driver_runfile_sha256": hashlib.sha256(runfile.read_bytes()).hexdigest(),
    }


def nothing_was_run(host: PosingHost) -> bool:
    """Tell whether no installer has left a trace."""
    return host.run("ls /usr/bin/nvidia-uninstall /var/log/nvidia-installer.log").status != 0


def test_a_runfile_is_not_fetched_beside_a_desktop(
    handmade: PosingHost, by_runfile: dict[str, Any], server: Any
) -> None:
    server.forget_requests()
    before = packages(handmade)
    handmade.write("/tmp/.X0-lock", "         1\n")
    done = provision(handmade, by_runfile)
    refused(done, "a graphical desktop runs (/tmp/.X0-lock)", "systemctl isolate multi-user.target")
    assert recap(done.output, handmade.name)["changed"] == 0, done.output
    assert (server.requests(), packages(handmade)) == ([], before)
    # One that is left over from a desktop that ended is no desktop.
    handmade.write("/tmp/.X0-lock", "   4194303\n")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("404", ("could not be fetched", "404")),
        ("html", ("checksum",)),
        ("truncated", ("could not be fetched",)),
    ],
)
def test_a_runfile_that_does_not_arrive_whole_is_not_run(
    fault: str, words: tuple[str, ...], handmade: PosingHost, by_runfile: dict[str, Any], server: Any
) -> None:
    server.fault(f"/runfiles/{RUNFILE}$", fault)
    try:
        refused(provision(handmade, by_runfile), *words, "Nothing was run", "nvidia_driver_runfile_sha256")
    finally:
        server.heal()
    assert nothing_was_run(handmade)


def test_a_damaged_runfile_that_the_lab_hands_over_is_not_run(
    handmade: PosingHost, by_runfile: dict[str, Any], runfile: Path, tmp_path: Path
) -> None:
    given = truncated(runfile, tmp_path / RUNFILE)
    by_hand = {**by_runfile, "nvidia_driver_runfile": str(given), "nvidia_driver_runfile_sha256": ""}
    refused(provision(handmade, by_hand), RUNFILE, "is damaged", "run again")
    assert nothing_was_run(handmade)


def test_a_runfile_with_another_checksum_than_the_lab_says_is_not_run(
    handmade: PosingHost, by_runfile: dict[str, Any], runfile: Path
) -> None:
    by_hand = {**by_runfile, "nvidia_driver_runfile": str(runfile), "nvidia_driver_runfile_sha256": "0" * 64}
    refused(provision(handmade, by_hand), "It was not run", "0" * 64, by_runfile["nvidia_driver_runfile_sha256"])
    assert nothing_was_run(handmade)


def test_nouveau_in_use_is_blacklisted_and_a_reboot_asked_for(handmade: PosingHost, by_runfile: dict[str, Any]) -> None:
    done = provision(handmade, by_runfile)
    refused(done, "nouveau", "in use", "Reboot", "run again")
    assert nothing_was_run(handmade)
    handmade.reboot()
    assert handmade.run("test -d /sys/module/nouveau").status != 0


def test_a_build_that_fails_is_told_with_the_compilers_words(handmade: PosingHost, by_runfile: dict[str, Any]) -> None:
    handmade.fail_builds("*")
    refused(provision(handmade, by_runfile), "the installer of driver", "make.log", "error:", "nvidia-installer.log")
    handmade.fail_builds()


def test_a_runfile_installs_the_planned_flavour_with_dkms(handmade: PosingHost, by_runfile: dict[str, Any]) -> None:
    done = provision(handmade, by_runfile)
    assert done.status == 0, done.output
    assert handmade.loaded() == OTHER
    assert f"nvidia/{OTHER}" in handmade.must("dkms status")
    assert handmade.must(f"modinfo -F license {module(handmade, handmade.kernel())}").strip() == "NVIDIA"
    assert "--kernel-module-type=proprietary" in handmade.read("/var/log/nvidia-installer.log")
    converged(handmade, by_runfile)


def test_a_driver_of_a_runfile_stays_one(handmade: PosingHost, debian: dict[str, Any]) -> None:
    done = provision(handmade, debian)
    assert done.status == 0, done.output
    driver = facts_of(handmade, debian)["driver"]
    assert (driver["source"], driver["installed_version"]) == ("runfile", OTHER)
    converged(handmade, debian)


def test_packages_replace_a_runfile_by_its_own_uninstaller(handmade: PosingHost, debian: dict[str, Any]) -> None:
    packaged = {**debian, "gpu_stack": {**debian["gpu_stack"], "driver_source": "nvidia_repo"}}
    done = provision(handmade, {**packaged, "nvidia_driver_reboot_allowed": True})
    assert done.status == 0, done.output
    assert handmade.run("ls /usr/bin/nvidia-uninstall").status != 0
    assert "Uninstallation of existing driver" in handmade.read("/var/log/nvidia-uninstall.log")
    driver = facts_of(handmade, packaged)["driver"]
    assert (driver["source"], driver["loaded_version"], driver["mismatch"]) == ("nvidia_repo", OTHER, None)
    converged(handmade, packaged)


def test_a_runfile_is_taken_off_with_its_daemon_by_its_own_uninstaller(
    handmade: PosingHost, by_runfile: dict[str, Any]
) -> None:
    done = provision(handmade, {**by_runfile, "nvidia_driver_reboot_allowed": True})
    assert done.status == 0, done.output
    consent = ("-e", "remove_driver_consent=true")
    hosts, variables = {handmade.name: handmade}, {handmade.name: by_runfile}
    removal = play(PLAYBOOKS / "remove_driver.yml", hosts, *consent, variables=variables)
    assert removal.status == 0, removal.output
    assert handmade.run("ls /usr/bin/nvidia-uninstall /etc/systemd/system/nvidia-persistenced.service").status == 2
    assert handmade.run("find /etc /var/lib -name '*gpulab*'").output == ""
