# SPDX-License-Identifier: Apache-2.0
"""The stand-ins themselves: what the tests of the driver build on must behave as the originals do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fabricated_hosts
import pytest
from posing_hosts import INSTALL, PosingHost, PosingHosts, play
from repositories import KERNELS, Published, Repositories, versions
from repository_server import RepositoryServer
from runfile import corrupted, truncated, write_runfile

OLD, NEW = "580.126.09", "580.178.04"
Start = Callable[[str], PosingHost]


@pytest.fixture(scope="module")
def start(hosts: PosingHosts) -> Start:
    """Return the module's host of a system, with headers; one serves all tests of this module."""
    started: dict[str, PosingHost] = {}

    def find(system: str) -> PosingHost:
        if system not in started:
            hardware = fabricated_hosts.rtx_5090
            started[system] = hosts.start(system, system, hardware=hardware, headers=True, nouveau=True)
        return started[system]

    return find


@pytest.fixture(scope="module")
def published(repositories: Repositories, server: RepositoryServer) -> Callable[..., Published]:
    """Publish NVIDIA's repository of a system."""

    def publish(system: str, **how: object) -> Published:
        return repositories.publish(system, server.root, **how)  # type: ignore[arg-type]

    return publish


def bare(host: PosingHost) -> PosingHost:
    """Take the driver, its repository and every fault off a host."""
    host.run(
        "rm -rf /etc/standin /etc/apt/preferences.d/* /etc/apt/sources.list.d/nvidia.list /etc/apt/keyrings/nvidia.asc"
    )
    if host.system.startswith("rhel"):
        host.run(
            "dnf -q -y remove '*nvidia*' cuda-drivers; dnf -q -y module reset nvidia-driver; "
            "rm -f /etc/yum.repos.d/nvidia.repo"
        )
    else:
        host.run("dpkg --configure -a")
        host.must("apt-get -q -y purge $(dpkg-query -W -f '${Package}\\n' | grep -E 'nvidia|cuda') dkms", timeout=300)
    host.run("modprobe -r nvidia; rm -rf /var/lib/dkms/nvidia*; find /lib/modules -name 'nvidia*.ko' -delete")
    return host


# --- apt -------------------------------------------------------------------------------------------------------------


def test_apt_accepts_the_signature_and_refuses_another_key(
    start: Start, published: Callable[..., Published], repositories: Repositories
) -> None:
    host, nvidia = bare(start("ubuntu2404")), published("ubuntu2404")
    host.use_repository(nvidia)
    assert "Failed" not in host.must("apt-get update 2>&1")
    host.use_repository(nvidia, key=repositories.second.public)
    host.must("rm -rf /var/lib/apt/lists/repository*")
    refused = host.run("apt-get -o APT::Update::Error-Mode=any update 2>&1")
    assert refused.status != 0
    assert "NO_PUBKEY" in refused.output


def test_a_rotated_key_shuts_out_who_has_the_old_one(
    start: Start, published: Callable[..., Published], repositories: Repositories
) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.must("apt-get update")
    rotated = published("ubuntu2404", key=repositories.second)
    assert host.run("apt-get -o APT::Update::Error-Mode=any update").status != 0
    host.use_repository(rotated)
    host.must("apt-get -o APT::Update::Error-Mode=any update")


def test_every_branch_of_the_tables_can_be_installed(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.must("apt-get update")
    script = ""
    for version, branch, flavours in versions("ubuntu2404"):
        pin = f"Package: *nvidia* cuda-drivers*\nPin: version {version}-*\nPin-Priority: 1001\n"
        script += f"printf '{pin}' >/etc/apt/preferences.d/pin\n"
        for flavour in flavours:
            meta = "nvidia-open" if flavour == "open" else "cuda-drivers"
            names = f"{meta}-{branch}" if int(branch) < 580 else f"nvidia-driver-pinning-{version} {meta}"
            install = f"apt-get -s --no-install-recommends install {names} 2>&1"
            script += f"{install} | grep '^Inst {meta}[-0-9]* .*{version}' || echo no {names}\n"
    assert script.count("apt-get") > 20
    assert [line for line in host.must(script).splitlines() if line.startswith("no ")] == []


def test_the_pinning_package_holds_the_family_and_lets_it_go_back(
    start: Start, published: Callable[..., Published]
) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.must(f"apt-get update && {INSTALL} nvidia-driver-pinning-{NEW}")
    host.must(f"{INSTALL} nvidia-open", timeout=300)
    assert host.must("dpkg-query -W -f '${Version}' nvidia-dkms-580-open") == f"{NEW}-0ubuntu1"
    assert "Inst nvidia" not in host.must("apt-get -s dist-upgrade")
    host.must(f"{INSTALL} nvidia-driver-pinning-{OLD}")
    host.must(f"{INSTALL} --allow-downgrades nvidia-open", timeout=300)
    assert host.must("dpkg-query -W -f '${Version}' nvidia-dkms-580-open") == f"{OLD}-0ubuntu1"
    assert host.must("readlink /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").strip() == f"libnvidia-ml.so.{OLD}"


def test_without_a_hold_an_upgrade_leaves_the_branch(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("debian12"))
    host.use_repository(published("debian12"))
    host.must(f"apt-get update && {INSTALL} nvidia-driver-pinning-{OLD}")
    host.must(f"{INSTALL} nvidia-open", timeout=300)
    host.must("rm /etc/apt/preferences.d/nvidia-driver-pinning")
    newest = versions("debian12")[-1][0]
    assert f"Inst nvidia-open [{OLD}-1] ({newest}-1" in host.must("apt-get -s dist-upgrade")
    host.must(
        "apt-mark hold $(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' '*nvidia*' libcuda1 | sed -n 's/^ii //p')"
    )
    assert "Inst nvidia" not in host.must("apt-get -s dist-upgrade")
    host.must("apt-mark unhold $(apt-mark showhold)")


def test_flavours_and_sources_are_in_each_others_way(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.must(
        "sed -i 's/^Components:.*/Components: main restricted/' /etc/apt/sources.list.d/archive.sources; apt-get update"
    )
    host.must(f"{INSTALL} nvidia-open-580", timeout=300)
    assert "Remv nvidia-open-580" in host.must("apt-get -s --no-install-recommends install cuda-drivers-580")
    own = "nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server"
    assert "Remv libnvidia-compute-580 " in host.must(f"apt-get -s --no-install-recommends install {own}")


def test_a_branch_or_version_can_be_taken_out(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404", without=("570", OLD)))
    host.must("apt-get update")
    known = host.must(f"apt-cache madison nvidia-open-575 nvidia-open-570 nvidia-open nvidia-driver-pinning-{OLD}")
    assert "nvidia-open-575 |" in known
    assert "nvidia-open-570 |" not in known
    assert f"nvidia-open | {NEW}" in known
    assert OLD not in known


def test_a_build_that_fails_leaves_the_package_half_configured(
    start: Start, published: Callable[..., Published]
) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.fail_builds("6.8.0-45-*")
    done = host.run(f"apt-get update && {INSTALL} nvidia-open-580", timeout=300)
    assert done.status != 0
    assert "Bad return status for module build" in done.output
    assert host.must("dpkg-query -W -f '${db:Status-Status}' nvidia-dkms-580-open") == "half-configured"
    assert "error: " in host.must("cat /var/lib/dkms/nvidia/*/build/make.log")
    host.fail_builds()
    host.must("dpkg --configure -a", timeout=300)
    assert f"nvidia/{NEW}, 6.8.0-45-generic, x86_64: installed" in host.must("dkms status")


def test_setting_up_can_be_told_to_fail_once(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.fail_once("nvidia-utils-580")
    assert host.run(f"apt-get update && {INSTALL} nvidia-utils-580").status != 0
    assert host.must("dpkg-query -W -f '${db:Status-Status}' nvidia-utils-580") == "half-configured"
    host.must("dpkg --configure -a")


def test_what_is_built_twice_is_the_same(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        root = tmp_path / name / "root"
        published = Repositories(tmp_path / name).publish("debian13", root)
        made.append({file.name: file.read_bytes() for file in (root / published.path).glob("*")})
    unsigned = [name for name in made[0] if not name.startswith(("Release", "InRelease", "repository-key"))]
    assert len(unsigned) > 50
    assert [made[0][name] == made[1][name] for name in unsigned] == [True] * len(unsigned)


# --- modules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "licence"), [("nvidia-open-580", "Dual MIT/GPL"), ("cuda-drivers-580", "NVIDIA")])
def test_modinfo_reads_the_modules_version_and_licence(
    start: Start, published: Callable[..., Published], package: str, licence: str
) -> None:
    host = bare(start("ubuntu2404"))
    host.use_repository(published("ubuntu2404"))
    host.must(f"apt-get update && {INSTALL} {package}", timeout=300)
    for field, value in (("version", NEW), ("license", licence), ("name", "nvidia")):
        assert host.must(f"modinfo -k $(uname -r) -F {field} nvidia").strip() == value


def test_a_boot_loads_what_is_built_for_its_kernel(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("ubuntu2404"))
    older, newer = KERNELS["ubuntu2404"]
    assert host.kernel() == host.must("uname -r").strip() == older
    host.use_repository(published("ubuntu2404"))
    host.must(f"apt-get update && {INSTALL} nvidia-open-580", timeout=300)
    if "nouveau" in host.must("ls /sys/module"):
        assert "No such device" in host.run("modprobe nvidia").output
        host.must("modprobe -r nouveau")
    host.must("modprobe nvidia")
    assert host.loaded() == NEW
    assert host.run("nvidia-smi").status == 0
    before = host.read("/proc/sys/kernel/random/boot_id")
    host.install_kernel(newer)
    host.reboot()
    assert host.kernel() == newer
    assert host.read("/proc/sys/kernel/random/boot_id") != before
    assert host.loaded() is None  # no headers of it, so no module
    assert host.run("nvidia-smi").status == 9
    host.reboot(into=older)
    assert host.loaded() == NEW
    host.use_module("nvidia", 1)
    assert "in use" in host.run("modprobe -r nvidia").output
    host.use_module("nvidia", 0)
    host.must(f"apt-get -q -y purge linux-image-{newer}; rm -f /opt/posed/boot-into")


def test_secure_boot_takes_signed_modules_only(hosts: PosingHosts, published: Callable[..., Published]) -> None:
    host = hosts.start("secure", "ubuntu2404", headers=True, secure_boot=True)
    host.use_repository(published("ubuntu2404"))
    host.must(f"apt-get update && {INSTALL} nvidia-open-580", timeout=300)
    assert "Key was rejected" in host.run("modprobe nvidia").output
    key = "/var/lib/gpulab"
    host.must(
        f"mkdir -p {key} /etc/dkms/framework.conf.d; openssl req -new -x509 -newkey rsa:2048 -sha256 -nodes "
        f"-subj /CN=ours/ -keyout {key}/mok.key -outform DER -out {key}/machine-owner-key.der 2>&1"
    )
    conf = f"mok_signing_key={key}/mok.key\nmok_certificate={key}/machine-owner-key.der\n"
    host.write("/etc/dkms/framework.conf.d/own.conf", conf)
    host.must(f"dkms remove nvidia/{NEW} --all && dkms install -m nvidia -v {NEW} -k $(uname -r)", timeout=300)
    assert host.must("modinfo -k $(uname -r) -F signer nvidia").strip() == "ours"
    assert host.run("modprobe nvidia").status != 0
    host.must(
        "mokutil --generate-hash </dev/null >/root/hash; "
        f"mokutil --import {key}/machine-owner-key.der --hash-file /root/hash"
    )
    host.enroll_key()
    host.must("modprobe nvidia")
    host.must(
        "sed -i 's/^Components:.*/Components: main restricted/' /etc/apt/sources.list.d/archive.sources; apt-get update"
    )
    host.must(
        "modprobe -r nvidia; apt-get -q -y purge $(dpkg-query -W -f '${Package}\\n' | grep nvidia); "
        "rm -rf /lib/modules/*/updates"
    )
    host.must(f"{INSTALL} linux-modules-nvidia-580-server-open-$(uname -r) && modprobe nvidia")
    hosts.remove(host)


# --- dnf -------------------------------------------------------------------------------------------------------------


def test_dnf_enables_a_stream_and_installs_from_it_alone(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("rhel9"))
    host.use_repository(published("rhel9"))
    host.must("dnf -q -y module enable nvidia-driver:580-open && dnf -q -y install nvidia-open", timeout=300)
    assert host.must("rpm -q --qf '%{VERSION}' nvidia-open") == NEW
    assert "nvidia" not in host.must("dnf -q check-update '*nvidia*' || true")
    assert f"nvidia-open/{NEW}, {host.kernel()}, x86_64: installed" in host.must("dkms status")
    host.must(f"dnf -q -y downgrade '*nvidia*{OLD}*'", timeout=300)
    assert host.must("rpm -q --qf '%{VERSION}' kmod-nvidia-open-dkms") == OLD
    assert host.must("modinfo -k $(uname -r) -F version nvidia").strip() == OLD
    assert "cuda-drivers" not in host.must("dnf -q list --available 'cuda-drivers*' 2>&1 || true")
    host.must("modprobe -r nouveau; modprobe nvidia")
    assert host.loaded() == OLD


def test_dnf_refuses_packages_of_another_key(
    start: Start, published: Callable[..., Published], repositories: Repositories
) -> None:
    host = bare(start("rhel9"))
    host.use_repository(published("rhel9", key=repositories.second), key=repositories.first.public)
    host.must("dnf -q -y module enable nvidia-driver:580-open")
    refused = host.run("dnf -y install nvidia-persistenced")
    assert refused.status != 0
    assert "GPG" in refused.output


def test_versionlock_holds_where_there_are_no_streams(start: Start, published: Callable[..., Published]) -> None:
    host = bare(start("rhel10"))
    host.use_repository(published("rhel10"))
    assert "nvidia-driver" not in host.run("dnf -q module list").output
    host.write("/etc/dnf/plugins/versionlock.list", f"*nvidia*-{OLD}-*\n")
    host.must("dnf -q -y install nvidia-open", timeout=300)
    assert host.must("rpm -q --qf '%{VERSION}' nvidia-open") == OLD
    assert "nvidia" not in host.must("dnf -q check-update '*nvidia*' || true")
    host.write("/etc/dnf/plugins/versionlock.list", "")
    assert "nvidia-open" in host.must("dnf -q check-update '*nvidia*' || true")


# --- server ----------------------------------------------------------------------------------------------------------

FETCH = """\
import sys, urllib.request
try:
    with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
        data = answer.read()
        print(answer.status, len(data), data[:9])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_the_server_fails_as_it_is_told_and_says_what_was_asked_for(start: Start, server: RepositoryServer) -> None:
    host = start("ubuntu2404")
    (server.root / "file").write_bytes(b"x" * 1000)
    host.write("/root/fetch.py", FETCH)

    def fetch() -> str:
        return host.must(f"python3 /root/fetch.py {server.base}file").strip()

    server.forget_requests()
    whole = "200 1000 b'xxxxxxxxx'"
    assert fetch() == whole
    assert [(entry["method"], entry["path"], entry["status"]) for entry in server.requests()] == [("GET", "/file", 200)]
    for fault, says in (
        ("404", "404"),
        ("503", "503"),
        ("truncated", "IncompleteRead"),
        ("html", "<!DOCTYPE"),
        ("stalled", "timed out"),
    ):
        server.fault("/file", fault)
        assert says in fetch(), fault
        server.heal()
    server.fault("/file", "corrupted", times=1)
    assert fetch() == whole  # the same length and beginning
    server.fault("/file", "503", times=1)
    assert "503" in fetch()
    assert fetch() == whole
    assert json.dumps(server.requests()).count('"fault": "503"') == 2
    server.heal()


# --- runfile ---------------------------------------------------------------------------------------------------------


def test_the_runfile_installs_loads_and_uninstalls(start: Start, tmp_path: Path) -> None:
    host = bare(start("ubuntu2404"))
    file = write_runfile(tmp_path, OLD)
    host.machine.put(tmp_path, [Path(file.name)], "/root/run")
    run = f"sh /root/run/{file.name} --silent"
    host.must(f"sh /root/run/{file.name} --check")
    refused = host.run(f"modprobe nouveau; {run} --dkms")
    assert (refused.status, "Nouveau" in refused.output) == (1, True)
    host.must("modprobe -r nouveau; sleep 1000 & echo $! >/tmp/.X0-lock")
    assert "X server" in host.run(f"{run} --dkms").output
    assert host.run("grep -c ^ERROR /var/log/nvidia-installer.log").output.strip() == "2"
    host.must("kill $(cat /tmp/.X0-lock); rm /tmp/.X0-lock")
    assert "Failed to find dkms" in host.run(f"{run} --dkms").output
    host.must(f"apt-get -qq update; {INSTALL} dkms")
    host.fail_builds("*")
    assert host.run(f"{run} --dkms").status == 1
    log = host.read("/var/log/nvidia-installer.log")
    assert "error: " in log, log
    host.must("rm -r /etc/standin")
    host.must(f"{run} --dkms --kernel-module-type=proprietary")
    assert host.loaded() == OLD
    assert host.must("modinfo -k $(uname -r) -F license nvidia").strip() == "NVIDIA"
    host.use_module("nvidia", 2)
    assert "already loaded" in host.run(f"{run} --dkms").output
    host.use_module("nvidia", 0)
    host.must("modprobe -r nvidia; nvidia-uninstall --silent")
    left = host.run(
        "ls -d /usr/bin/nvidia-* /var/lib/nvidia /lib/modules/*/updates/dkms/* /var/lib/dkms/nvidia 2>/dev/null"
    ).output
    assert left.strip() == ""


def test_a_damaged_runfile_fails_its_own_check(start: Start, tmp_path: Path) -> None:
    host = start("ubuntu2404")
    file = write_runfile(tmp_path, OLD)
    for damage in (truncated, corrupted):
        damaged = damage(file, tmp_path / "damaged.run")
        host.machine.put(tmp_path, [Path(damaged.name)], "/root/run")
        assert host.run("sh /root/run/damaged.run --check").status == 1


# --- hosts -----------------------------------------------------------------------------------------------------------


def test_ansible_sees_the_systems_that_the_hosts_pose_as_and_can_reboot_them(start: Start) -> None:
    wanted = {
        "ubuntu2404": ("Debian", "Ubuntu", "24.04", "apt"),
        "debian12": ("Debian", "Debian", "12", "apt"),
        "rhel9": ("RedHat", "Rocky", "9.5", "dnf"),
        "rhel10": ("RedHat", "RedHat", "10.0", "dnf"),
    }
    hosts = {system: start(system) for system in wanted}
    said = play(
        """
- hosts: all
  gather_facts: true
  tasks:
    - name: Say it
      ansible.builtin.debug:
        msg: "{{ inventory_hostname }}={{ ansible_facts['os_family'] }},{{ ansible_facts['distribution'] }},{{
          ansible_facts['distribution_version'] }},{{ ansible_facts['pkg_mgr'] }};"
    - name: Reboot
      ansible.builtin.reboot:
        reboot_timeout: 60
      when: inventory_hostname in ['ubuntu2404', 'rhel9']
""",
        hosts,
    )
    assert said.status == 0, said.output
    for system, (family, name, version, manager) in wanted.items():
        assert f"{system}={family},{name},{version}" in said.output
        assert f",{manager};" in said.output
    assert "0000:01:00.0" in hosts["rhel9"].must("ls /sys/bus/pci/devices")
