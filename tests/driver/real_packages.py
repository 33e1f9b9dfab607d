# SPDX-License-Identifier: Apache-2.0
"""Images with NVIDIA's real packages from the Debian archive, whose modules DKMS really builds.

A build takes minutes, so what it makes is kept as an image, found again by its recipe.
"""

from __future__ import annotations

import re

from testbed import Bed, Machine

#: The packages of each flavour of the kernel module, and the licence that the module then shows.
FLAVOURS = {"proprietary": ("nvidia-kernel-dkms", "NVIDIA"), "open": ("nvidia-open-kernel-dkms", "Dual MIT/GPL")}

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends"
# Where NVIDIA's packages are in the archive; a test machine knows `main` alone.
COMPONENTS = r"sed -i -E '/^deb / s/ main.*/ main contrib non-free non-free-firmware/' /etc/apt/sources.list"
#: What a host has before: the archive's kernel headers, DKMS with its compiler, and tools that look at modules.
HEADERS = (
    COMPONENTS,
    "apt-get -qq update",
    f"{INSTALL} dkms kmod pciutils gnupg python3-apt",
)
NEWEST = f"{INSTALL} linux-headers-amd64"
# The open module is that of the release, and stable kernels have moved on since: newer ones no longer build it.
OLDEST = f"""\
releases=$(apt-cache search --names-only '^linux-headers-[0-9.]+-[0-9]+-amd64$' | cut -d' ' -f1)
{INSTALL} "$(echo "$releases" | sort -V | head -n 1)\""""


def image_with_headers(bed: Bed, flavour: str) -> str:
    """Return the image of a host with DKMS, headers of a kernel for which a flavour builds, and no driver."""
    return bed.image_with("headers", (*HEADERS, NEWEST if flavour == "proprietary" else OLDEST, "apt-get clean"))


def archive_kernel(machine: Machine) -> str:
    """Return the release of the kernel that the headers are for."""
    found = machine.run("ls -d /lib/modules/*/build").output
    releases: list[str] = re.findall(r"^/lib/modules/([^/]+)/build$", found, re.MULTILINE)
    assert len(releases) == 1, found
    return releases[0]
