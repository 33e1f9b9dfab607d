# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's real packages from the Debian archive, through the role: DKMS really compiles the module for a kernel of the
archive. That newer kernels have left the open module of the release behind is real, too, and refused before anything is
done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fabricated_hosts
import pytest
from ansible_runs import recap
from driver_runs import PLAYBOOKS, REQUEST, facts_of, provision
from posing_hosts import PosingHost, PosingHosts, play
from real_packages import FLAVOURS, image_with_headers
from testbed import Bed, Unavailable

StartReal = Callable[..., PosingHost]
PACKAGES = "dpkg-query -W -f '${Package} ${Version}\\n'"


@pytest.fixture(scope="module")
def start_real(bed: Bed, hosts: PosingHosts) -> StartReal:
    """Start a Debian 12 host with the archive's headers, of a kernel for which a flavour builds, and DKMS."""

    def start(name: str, flavour: str) -> PosingHost:
        try:
            image = image_with_headers(bed, flavour)
        except Unavailable as reason:
            pytest.skip(str(reason))
        return hosts.start_real(name, image, hardware=a100)

    return start


def a100(root: Path) -> None:
    """A card that both flavours drive."""
    fabricated_hosts.plain(root, "debian12")
    fabricated_hosts.pci_function(root, "0000:3b:00.0", fabricated_hosts.NVIDIA, "0x20f1", "0x030200")


def variables_of(flavour: str) -> dict[str, Any]:
    """Return the variables of a host that wants a flavour from the archive."""
    stack = {**REQUEST, "driver_source": "distro", "kernel_module": flavour}
    # The real daemon asks a real device, and there is none.
    return {"gpu_stack": stack, "nvidia_driver_manage_kernel_module": "true", "nvidia_driver_persistence": False}


#: Each build takes five to seven minutes.
LONG = pytest.mark.skipif(not os.environ.get("GPULAB_TEST_LONG"), reason="a real build: ./test --long")


@LONG
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_real_module_is_built_held_and_removed(start_real: StartReal, flavour: str) -> None:
    package, licence = FLAVOURS[flavour]
    host, variables = start_real(f"real-{flavour}", flavour), variables_of(flavour)
    before = host.must(PACKAGES)
    done = provision(host, variables)
    assert done.status == 0, done.output
    driver = facts_of(host, variables)["driver"]
    module = driver["modules"][host.kernel()]
    assert (module["license"], module["version"]) == (licence, driver["installed_version"])
    assert module["size"] > 1_000_000
    assert driver["source"] == "distro"
    assert host.must(f"dpkg-query -W -f '${{Version}}' {package}").startswith(f"{module['version']}-")
    assert f"{host.kernel()}, x86_64: installed" in host.must("dkms status")
    assert set(driver["packages"]) == set(driver["held"])
    assert "Inst nvidia" not in host.must("apt-get -qq update; apt-get -s dist-upgrade")
    again = provision(host, variables)
    assert again.status == 0, again.output
    assert recap(again.output, host.name)["changed"] == 0, again.output
    consent = ("-e", "remove_driver_consent=true")
    removal = play(PLAYBOOKS / "remove_driver.yml", {host.name: host}, *consent, variables={host.name: variables})
    assert removal.status == 0, removal.output
    assert host.must(PACKAGES) == before
    assert host.must("find /lib/modules -path '*dkms*.ko'") == ""
    assert host.must("find /etc /var/lib /usr/local -name '*gpulab*'") == ""


@LONG
def test_a_module_that_the_kernel_has_left_behind_is_refused_before_anything_is_done(start_real: StartReal) -> None:
    host = start_real("left-behind", "proprietary")  # that is the newest kernel
    variables = variables_of("open")
    variables["gpu_stack"]["driver"] = "535"
    before = host.must(PACKAGES)
    refused = provision(host, variables)
    assert refused.status != 0
    assert f"the host runs Linux {host.kernel()}" in " ".join(refused.output.split()), refused.output
    assert host.must(PACKAGES) == before
