# SPDX-License-Identifier: Apache-2.0
"""What the role nvidia_packages says and reads, without any host."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

OWN = "/etc/apt/sources.list.d/gpulab-distribution.sources"


@pytest.fixture(scope="module")
def filters(filters_of_role: Callable[[str], ModuleType]) -> ModuleType:
    return filters_of_role("nvidia_packages")


SOURCES = """### /etc/apt/sources.list
# deb http://mirror.lab/debian bookworm non-free
deb [arch=amd64 signed-by=/usr/share/keyrings/a.gpg] http://mirror.lab/debian bookworm main
deb http://mirror.lab/debian/ bookworm contrib # the rest
deb-src http://mirror.lab/debian bookworm non-free
deb http://mirror.lab/flat ./
### /etc/apt/sources.list.d/security.sources
Types: deb deb-src
URIs: http://mirror.lab/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=

Enabled: no
Types: deb
URIs: http://mirror.lab/off
Suites: bookworm
Components: main
### /etc/apt/sources.list.d/tools.list
deb https://other.lab/tools stable stable
"""


def test_components_are_added_to_the_hosts_own_archives_alone(filters: ModuleType) -> None:
    assert filters.components(SOURCES, ["contrib", "non-free"], OWN) == [
        {
            "uri": "http://mirror.lab/debian",
            "suite": "bookworm",
            "components": ["non-free"],
            "signed_by": "/usr/share/keyrings/a.gpg",
        },
        {
            "uri": "http://mirror.lab/security",
            "suite": "bookworm-security",
            "components": ["contrib", "non-free"],
            "signed_by": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=",
        },
    ]


def test_what_is_there_already_is_not_named_again(filters: ModuleType) -> None:
    assert filters.components("### /etc/apt/sources.list\ndeb u s main restricted\n", ["restricted"], OWN) == []


def test_what_another_role_asked_for_stays_in_the_file_that_is_written_anew(filters: ModuleType) -> None:
    own = f"### {OWN}\nTypes: deb\nURIs: http://m\nSuites: s\nComponents: contrib non-free\n"
    (row,) = filters.components(f"### /etc/apt/sources.list\ndeb http://m s main\n{own}", ["contrib"], OWN)
    assert row["components"] == ["contrib", "non-free"]


@pytest.mark.parametrize(
    ("result", "bad"),
    [
        ({"changed": True, "finished": 1}, False),
        ({"rc": 0, "msg": "Nothing to do", "results": []}, False),
        ({"rc": 0, "msg": "", "results": ["Installed: a"]}, False),
        ({"msg": "E: Unable to locate package nvidia-open"}, True),
        ({"rc": 1, "failures": ["No package x available."], "msg": "Failed to install"}, True),
        ({"started": 1, "finished": 0}, True),
    ],
)
def test_a_failed_transaction_is_seen(filters: ModuleType, result: dict[str, Any], bad: bool) -> None:
    assert filters.failed(result) is bad


def test_a_held_lock_is_said_with_its_holder(filters: ModuleType) -> None:
    facts = {"package_manager": {"lock": {"pid": 812, "command": "unattended-upgr"}, "broken": []}}
    said = filters.install_text({"msg": "Failed to lock apt for exclusive operation"}, facts, {}, "", "nvidia_driver")
    assert "unattended-upgr (pid 812)" in said
    assert "Run again" in said


def test_a_removed_branch_is_said_as_such(filters: ModuleType) -> None:
    missing = {"msg": "No package matching 'cuda-drivers-510' is available"}
    said = filters.install_text(missing, {}, {}, "Update this project.", "nvidia_driver")
    assert "cuda-drivers-510" in said
    assert "Update this project." in said


def test_a_repository_with_another_key_is_not_taken_for_one_without_the_package(filters: ModuleType) -> None:
    told = "W: GPG error: https://lab.example InRelease: the public key is not available: NO_PUBKEY A4B4\nE: not signed"
    said = filters.install_text({"msg": "Failed to update apt cache", "stderr": told}, {}, {}, "", "nvidia_driver")
    assert "NO_PUBKEY A4B4" in said
    assert "nvidia_driver_repository_fingerprints" in said
    assert "does not have it" not in said


def test_dependencies_that_cannot_be_met_are_named(filters: ModuleType) -> None:
    told = "The following packages have unmet dependencies:\n nvidia-open : Depends: dkms but it is not\nE: Unable"
    said = filters.install_text({"msg": "E: Unable to correct problems", "stdout": told}, {}, {}, "", "nvidia_driver")
    assert "nvidia-open : Depends: dkms but it is not" in said


def test_a_build_that_failed_is_said_with_the_compilers_words(filters: ModuleType) -> None:
    facts = {"package_manager": {"lock": None, "broken": ["nvidia-dkms-open"]}}
    lines = ["x.c:1: error: no member", *["..."] * 20]
    log = {"end": filters.log_end({"path": "/var/lib/dkms/nvidia/580/build/make.log", "lines": lines})}
    said = filters.install_text(
        {"msg": "E: Sub-process /usr/bin/dpkg returned an error code (1)"}, facts, log, "", "nvidia_driver"
    )
    assert "x.c:1: error: no member" in said
    assert "nvidia-dkms-open" in said
