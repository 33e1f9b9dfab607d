# SPDX-License-Identifier: Apache-2.0
"""The role nvidia_driver where packages change and where they fail: one host goes through upgrades, downgrades, other
branches, flavours and sources, and through the faults on the way, until the driver is taken off again.

The tests of a host follow one another: what one leaves installed is where the next begins."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fabricated_hosts as f
import pytest
from ansible_runs import recap
from driver_runs import PLAYBOOKS, facts_of, provision, variables_of
from posing_hosts import PosingHost, inventory, play
from project_tree import ROOT

NEWER, OLDER, NEXT = "580.178.04", "580.126.09", "595.91.07"
#: What a host may differ in without having been changed: what runs, what is read, and what the posing itself keeps.
NOT_LOOKED_AT = (
    "/proc /sys /run /dev /tmp /var/tmp /var/log /var/cache /var/lib/apt/lists /root /opt/posed /etc/standin "
    "/var/lib/dpkg /var/lib/systemd"
)
FILES = (
    "find / "
    + " -o ".join(f"-path {path} -prune" for path in NOT_LOOKED_AT.split())
    + " -o -name __pycache__ -prune -o -name '*.pyc' -o -print | sort"
)
CONTENTS = (
    "find /etc /boot /lib/modules -type f ! -path '/etc/standin/*' ! -name 'initrd*' ! -name 'modules.*' "
    "| sort | xargs sha256sum"
)
# It came with the distribution's driver, and may be the one that runs by then, so it stays.
KERNEL_THAT_CAME_ALONG = "6.8.0-47-generic"
# As the package cuda-keyring leaves it.
FOREIGN_SOURCE = "/etc/apt/sources.list.d/cuda-ubuntu2404-x86_64.list"
FOREIGN_KEYRING = "/usr/share/keyrings/cuda-archive-keyring.asc"


def two_rtx_3090(root: Path) -> None:
    """Two cards of a generation that both flavours of the module drive."""
    f.plain(root)
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        f.pci_function(root, bus, f.NVIDIA, "0x2204", "0x030200", subsystem="10de:1467", link=f.GEN4)


@dataclass
class Lab:
    """One host, its repository, and what is asked for."""

    host: PosingHost
    server: Any
    repositories: Any
    published: Any
    before: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def variables(self, driver: str, request: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Return the variables that ask for a driver."""
        asked = {"driver": driver, "driver_source": "nvidia_repo", "kernel_module": "open", **(request or {})}
        return variables_of(self.server, self.published, asked, **{**self.more, **more})

    def run(self, driver: str, request: dict[str, Any] | None = None, *arguments: str, **more: Any) -> Any:
        """Provision the host."""
        return provision(self.host, self.variables(driver, request, **more), *arguments)

    def settles(self, driver: str, request: dict[str, Any] | None = None, **more: Any) -> Any:
        """Provision the host, and see that it has the driver and that the next run changes nothing.

        The old module is unloaded before, as nothing uses it; a reboot in each test would prove nothing about packages.
        """
        self.host.run("modprobe -r nvidia")
        done = self.run(driver, request, **more)
        assert done.status == 0, done.output
        self.has(driver, request, **more)
        again = self.run(driver, request, **more)
        assert again.status == 0, again.output
        assert recap(again.output, self.host.name)["changed"] == 0, again.output
        return done

    def has(self, driver: str, request: dict[str, Any] | None = None, **more: Any) -> None:
        """See that the driver that was asked for, whole and nothing else of its kind, is there and loaded."""
        variables = self.variables(driver, request, **more)
        found = facts_of(self.host, variables)["driver"]
        asked = variables["gpu_stack"]
        assert found["installed_version"] == found["loaded_version"] == driver, found
        assert (found["source"], found["module"]) == (asked["driver_source"], asked["kernel_module"]), found
        assert (found["mismatch"], found["broken"]) == (None, []), found
        strangers = {name: version for name, version in found["packages"].items() if driver not in version}
        assert not [name for name in strangers if not name.startswith("linux-modules-nvidia-")], strangers
        if not self.host.system.startswith("rhel"):
            assert set(self.host.must("apt-mark showhold").split()) > {"wanted-by-the-lab"}
            assert "wanted-by-the-lab" not in found["held"]

    def seen(self) -> dict[str, str]:
        """Return all files, the contents of those that people change, packages and holds."""
        commands = {
            "files": FILES,
            "contents": CONTENTS,
            "packages": "dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n'",
            "holds": "apt-mark showhold",
            "manual": "apt-mark showmanual",
        }
        return {name: self.host.must(command) for name, command in commands.items()}

    def packages(self) -> list[str]:
        """Return the packages of the family, removed ones that left settings behind as well."""
        listed = self.host.must("dpkg-query -W -f '${Package}\\n'")
        return [name for name in listed.splitlines() if "nvidia" in name]


def refused(done: Any, *words: str) -> str:
    """See that a run failed with one message that has all the words, and return the message on one line."""
    assert done.status != 0, done.output
    assert "Traceback" not in done.output, done.output
    fatal = re.findall(r"^fatal: .*?(?=^\S|\Z)", done.output, re.M | re.S)
    assert len(fatal) == 1, done.output
    message = " ".join(done.output.replace("\\n", " ").split())
    for word in words:
        assert word in message, f"{word!r} is not said:\n{done.output}"
    return message


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """Return the lines that came and went, by what they are of."""
    return {
        name: sorted(set(before[name].splitlines()) ^ set(after[name].splitlines()))
        for name in before
        if before[name] != after[name]
    }


@pytest.fixture(scope="module")
def lab(hosts: Any, server: Any, repositories: Any) -> Lab:
    """An Ubuntu host with a package that the lab holds, and with NVIDIA's repository as other hands left it."""
    published = repositories.publish("ubuntu2404", server.root)
    host = hosts.start("u1", "ubuntu2404", hardware=two_rtx_3090)
    return prepared(Lab(host, server, repositories, published))


def prepared(lab: Lab) -> Lab:
    """Give the host what is not this project's, and keep what it looks like."""
    host = lab.host
    host.must("mkdir -p /etc/standin /srv/p/DEBIAN")
    control = "Package: wanted-by-the-lab\nVersion: 1\nArchitecture: all\nMaintainer: lab <lab@lab.example>\n"
    host.write("/srv/p/DEBIAN/control", control + "Description: held by other hands\n")
    host.must("dpkg-deb --build /srv/p /srv/p.deb && dpkg --install /srv/p.deb && apt-mark hold wanted-by-the-lab")
    host.write(FOREIGN_KEYRING, lab.published.key.public)
    host.write(FOREIGN_SOURCE, f"deb [signed-by={FOREIGN_KEYRING}] {lab.server.url(lab.published)} /\n")
    host.must("rm -rf /srv/p /srv/p.deb; touch /srv/facts.json; apt-get -qq update")
    lab.before = lab.seen()
    return lab


def remove(lab: Lab, *arguments: str) -> Any:
    """Take the driver off."""
    name = lab.host.name
    return play(PLAYBOOKS / "remove_driver.yml", {name: lab.host}, *arguments, variables={name: lab.variables(NEWER)})


@contextmanager
def started(host: PosingHost, variables: dict[str, Any]) -> Iterator[Any]:
    """A run of its own process group, as a person starts it at a terminal."""
    with tempfile.TemporaryDirectory(prefix="play-") as directory:
        listing = Path(directory) / "inventory.yml"
        listing.write_text(inventory({host.name: host}, {host.name: variables}))
        command = ["ansible-playbook", "--inventory", str(listing), str(PLAYBOOKS / "provision.yml")]
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield run
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()


# --- before the first driver ----------------------------------------------------------------------------------------


def test_a_key_that_nobody_vouched_for_is_refused_with_its_fingerprint(lab: Lab) -> None:
    key = lab.repositories.second
    other = lab.repositories.publish("ubuntu2404", lab.server.root, key=key, path="other/")
    done = lab.run(NEWER, nvidia_driver_repository_key=lab.server.key_url(other))
    refused(done, key.fingerprint, lab.repositories.first.fingerprint, "nvidia_driver_repository_fingerprints")


@pytest.mark.parametrize(("fault", "said"), [("503", "503"), ("html", "Clearsigned"), ("truncated", "Failed to fetch")])
def test_a_repository_that_cannot_be_read_is_named(lab: Lab, fault: str, said: str) -> None:
    lab.server.fault("/compute/cuda/repos/ubuntu2404/x86_64/(InRelease|Release|Packages)", fault)
    try:
        done = lab.run(NEWER)
    finally:
        lab.server.heal()
    refused(done, "the lists of packages could not be read", said, "repository.test", "nvidia_driver_repository_url")


def test_what_a_first_run_that_failed_left_is_taken_off_as_well(lab: Lab) -> None:
    assert lab.host.run("ls /etc/apt/sources.list.d/gpulab-*").status == 0
    done = remove(lab, "--extra-vars", "remove_driver_consent=true")
    assert done.status == 0, done.output
    assert differences(lab.before, lab.seen()) == {}


def test_a_module_that_does_not_build_is_told_with_the_compilers_words(lab: Lab) -> None:
    lab.host.fail_builds("6.8*")
    done = lab.run(NEWER)
    lab.host.fail_builds()
    refused(
        done,
        f"driver {NEWER} could not be installed",
        "Half-configured: nvidia-dkms-580-open",
        "has no member named 'output_poll_changed'",
        "make.log",
        "run again",
    )


def test_a_mirror_is_used_with_a_key_from_the_control_node(lab: Lab, tmp_path_factory: Any) -> None:
    key = tmp_path_factory.mktemp("lab") / "cuda.pub"
    key.write_text(lab.published.key.public)
    lab.more["nvidia_driver_repository_key"] = str(key)
    lab.server.forget_requests()
    # It also goes on from where the build failed.
    lab.settles(NEWER)
    assert not [row for row in lab.server.requests() if row["path"].endswith(lab.published.key_path)]


def test_another_source_of_the_same_repository_is_set_aside(lab: Lab) -> None:
    assert lab.host.run(f"test -e {FOREIGN_SOURCE}").status != 0
    lab.host.must("apt-get -qq update")


# --- other versions, flavours and sources, and what goes wrong on the way --------------------------------------------


def test_a_downgrade_that_stops_half_way_is_finished_by_the_next_run(lab: Lab) -> None:
    lab.host.must("modprobe -r nvidia")
    lab.host.fail_once("nvidia-dkms-580-open")
    done = lab.run(OLDER)
    refused(done, f"driver {OLDER} could not be installed", "Half-configured: nvidia-dkms-580-open", "run again")
    lab.settles(OLDER)


def test_whoever_holds_the_lock_is_named(lab: Lab) -> None:
    code = "import fcntl,time; f=open('/var/lib/dpkg/lock-frontend','w'); fcntl.lockf(f,fcntl.LOCK_EX); time.sleep(600)"
    hold = f'exec -a unattended-upgrade python3 -c "{code}"'
    pid = lab.host.must(f"setsid bash -c {shlex.quote(hold)} >/dev/null 2>&1 & echo $!").strip()
    lab.host.must("modprobe -r nvidia")
    try:
        done = lab.run(NEXT, nvidia_driver_lock_timeout=2)
    finally:
        lab.host.run(f"kill {pid}")
    refused(done, f"(pid {pid})", "unattended-upgrade", "has held the lock", "Run again: it goes on from here")
    # Another branch, whose packages have other names: none of the old ones is left, not even its settings.
    lab.settles(NEXT)
    assert not [name for name in lab.packages() if "580" in name]


def test_a_run_that_dies_in_the_middle_leaves_a_transaction_that_ends_once(lab: Lab) -> None:
    host, proprietary = lab.host, {"kernel_module": "proprietary"}
    host.must("modprobe -r nvidia; : >/var/log/dpkg.log")
    host.slow_down(12)
    with started(host, lab.variables(NEXT, proprietary)) as run:
        met = "grep -q 'half-configured nvidia-dkms:' /var/log/dpkg.log"
        host.machine.wait_until(lambda: host.run(met).status == 0, timeout=180)
        os.killpg(run.pid, signal.SIGKILL)
    # The transaction goes on, and the next run meets it.
    assert host.run("pgrep -x dpkg").status == 0
    done = lab.run(NEXT, proprietary)
    host.must("rm /etc/standin/slow")
    if done.status != 0:
        refused(done, "Run again: it goes on from here")
    lab.settles(NEXT, proprietary)
    log = host.read("/var/log/dpkg.log")
    assert len(re.findall(r" install nvidia-dkms:amd64 ", log)) == 1, log
    assert len(re.findall(r" status installed nvidia-dkms:amd64 ", log)) == 1, log
    # Another flavour of the same version: nothing of the open one is left.
    assert not [name for name in lab.packages() if name.endswith("-open")]


def test_the_distributions_own_driver_replaces_nvidias_and_the_other_way_round(lab: Lab) -> None:
    lab.settles(NEWER, {"driver_source": "distro"})
    assert not [name for name in lab.packages() if name.startswith(("nvidia-driver-pinning", "cuda-drivers"))]
    lab.settles(OLDER)
    assert not [name for name in lab.packages() if "-server" in name]


def test_a_branch_that_was_taken_out_of_the_repository_is_said(lab: Lab) -> None:
    lab.published = lab.repositories.publish("ubuntu2404", lab.server.root, without=["595"])
    done = lab.run(NEXT)
    lab.published = lab.repositories.publish("ubuntu2404", lab.server.root)
    refused(done, f"driver {NEXT} could not be installed", "The repository does not have it", "gpu_stack")


def test_a_new_key_of_the_repository_is_refused_until_the_lab_names_it(lab: Lab) -> None:
    key = lab.repositories.second
    lab.published = lab.repositories.publish("ubuntu2404", lab.server.root, key=key)
    given = {"nvidia_driver_repository_key": lab.server.key_url(lab.published)}
    old = [lab.repositories.first.fingerprint]
    # The host trusts the old key still, so apt finds out.
    done = lab.run(NEWER, **given, nvidia_driver_repository_fingerprints=old)
    refused(done, "is not signed by the key", key.fingerprint[-16:], "nvidia_driver_repository_fingerprints")
    lab.more.update(given)
    # An upgrade within the branch.
    lab.settles(NEWER)


# --- and off again ---------------------------------------------------------------------------------------------------


def test_nothing_is_removed_without_consent(lab: Lab) -> None:
    before = lab.seen()
    refused(remove(lab), "remove_driver_consent=true", lab.host.name)
    checked = remove(lab, "--check")
    assert checked.status == 0, checked.output
    assert recap(checked.output, lab.host.name)["changed"] > 0
    assert differences(before, lab.seen()) == {}


def test_the_host_is_as_before_when_the_driver_is_off(lab: Lab) -> None:
    done = remove(lab, "--extra-vars", "remove_driver_consent=true")
    assert done.status == 0, done.output
    left = differences(lab.before, lab.seen())
    assert not [line for lines in left.values() for line in lines if KERNEL_THAT_CAME_ALONG not in line], left
    again = remove(lab, "--extra-vars", "remove_driver_consent=true")
    assert recap(again.output, lab.host.name)["changed"] == 0, again.output


# --- dnf -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def red_hats(hosts: Any, server: Any, repositories: Any) -> dict[str, Lab]:
    """A host with streams of modules and one without."""
    hosts.remove()
    found = {}
    for system in ("rhel9", "rhel10"):
        published = repositories.publish(system, server.root)
        found[system] = Lab(hosts.start(system, system, hardware=two_rtx_3090), server, repositories, published)
        found[system].host.must("mkdir -p /etc/standin")
    return found


def both(labs: dict[str, Lab], playbook: str, drivers: dict[str, str], *arguments: str) -> Any:
    """Run a playbook on both hosts at once; the old module is unloaded before."""
    for lab in labs.values():
        lab.host.run("modprobe -r nvidia")
    return play(
        PLAYBOOKS / playbook,
        {name: lab.host for name, lab in labs.items()},
        *arguments,
        variables={name: lab.variables(drivers[name]) for name, lab in labs.items()},
    )


def test_a_repository_without_a_known_fingerprint_needs_one_from_the_lab(red_hats: dict[str, Lab]) -> None:
    done = red_hats["rhel10"].run(OLDER, nvidia_driver_repository_fingerprints=[])
    refused(done, "the tables know no fingerprint", "set nvidia_driver_repository_fingerprints")


def test_a_build_that_fails_behind_dnfs_back_is_found(red_hats: dict[str, Lab]) -> None:
    lab = red_hats["rhel9"]
    lab.host.fail_builds("5.14*")
    done = lab.run(NEWER)
    lab.host.fail_builds()
    refused(done, f"driver {NEWER} is installed", "there is no module nvidia", "has no member named", "run again")


@pytest.mark.parametrize("drivers", [(NEWER, NEWER), (NEXT, OLDER)])
def test_versions_and_streams_change_with_dnf(red_hats: dict[str, Lab], drivers: tuple[str, str]) -> None:
    wanted = dict(zip(red_hats, drivers, strict=True))
    done = both(red_hats, "provision.yml", wanted)
    assert done.status == 0, done.output
    for name, lab in red_hats.items():
        lab.has(wanted[name])
    again = play(
        PLAYBOOKS / "provision.yml",
        {name: lab.host for name, lab in red_hats.items()},
        variables={name: lab.variables(wanted[name]) for name, lab in red_hats.items()},
    )
    assert {name: recap(again.output, name)["changed"] for name in red_hats} == dict.fromkeys(red_hats, 0), again.output
    streams = red_hats["rhel9"].host.must("dnf -q module list --enabled nvidia-driver")
    assert f"nvidia-driver {drivers[0].split('.')[0]}-open " in " ".join(streams.split()), streams


def test_dnf_takes_the_family_off(red_hats: dict[str, Lab]) -> None:
    done = both(red_hats, "remove_driver.yml", dict.fromkeys(red_hats, OLDER), "-e", "remove_driver_consent=true")
    assert done.status == 0, done.output
    for lab in red_hats.values():
        assert lab.host.run("rpm -qa | grep -i nvidia").output == ""
        left = "grep -rl gpulab /etc /usr/local 2>/dev/null; ls -d /var/lib/gpulab /etc/pki/rpm-gpg/*gpulab*"
        assert lab.host.run(left + " 2>/dev/null").output == ""
