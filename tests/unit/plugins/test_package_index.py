# SPDX-License-Identifier: Apache-2.0
"""Where packages come from: the host's pip configuration, what overrides it, and that no password gets out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NOTHING: dict[str, Any] = {
    "use_host_configuration": True,
    "index_url": "",
    "extra_index_urls": [],
    "index_strategy": "auto",
    "find_links": [],
    "wheel_dir": "",
    "ca_bundle": "",
    "proxy": "",
    "pytorch_index_url": "",
}


def index(module: ModuleType, environ: dict[str, str], **options: Any) -> dict[str, str]:
    settings = module.PackageIndex({**NOTHING, **options}, environ)
    return settings.environment(environ)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / ".config/pip").mkdir(parents=True)
    (tmp_path / ".config/pip/pip.conf").write_text(
        "[global]\nindex-url = https://me:secret@pypi.lab.example/simple\nfind-links = /srv/wheels\n"
        "[install]\nextra-index-url =\n    https://a.example/simple\n    https://b.example/simple\n"
    )
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": str(tmp_path / "none"),
        "PATH": "/usr/bin",
        "PIP_CERT": "/etc/ca.pem",
    }


def test_files_and_variables_of_pip_reach_uv_and_pip(package_index: ModuleType, home: dict[str, str]) -> None:
    environ = index(package_index, home)
    assert environ["UV_DEFAULT_INDEX"] == environ["PIP_INDEX_URL"] == "https://me:secret@pypi.lab.example/simple"
    assert environ["UV_INDEX"] == "https://a.example/simple https://b.example/simple"
    assert environ["UV_FIND_LINKS"] == "/srv/wheels"
    assert environ["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert environ["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_role_variables_win_and_are_asked_in_order(package_index: ModuleType, home: dict[str, str]) -> None:
    environ = index(
        package_index,
        home,
        index_url="https://mine.example/simple",
        extra_index_urls=["https://c.example/simple"],
    )
    assert environ["UV_DEFAULT_INDEX"] == "https://mine.example/simple"
    assert environ["UV_INDEX"] == "https://c.example/simple"
    assert environ["UV_INDEX_STRATEGY"] == "first-index"


def test_a_wheel_directory_shuts_everything_else_out(package_index: ModuleType, home: dict[str, str]) -> None:
    environ = index(package_index, home, wheel_dir="/srv/offline")
    assert environ["PIP_NO_INDEX"] == "1"
    assert package_index.PackageIndex({**NOTHING, "wheel_dir": "/srv/offline"}, home).uv_options() == ["--no-index"]
    assert package_index.PackageIndex(NOTHING, home).uv_options() == []
    assert environ["UV_FIND_LINKS"] == environ["PIP_FIND_LINKS"] == "/srv/offline"
    assert environ["PIP_CONFIG_FILE"] == "/dev/null"


def test_the_host_configuration_can_be_left_out(package_index: ModuleType, home: dict[str, str]) -> None:
    environ = index(package_index, home, use_host_configuration=False)
    assert "UV_DEFAULT_INDEX" not in environ
    assert "PIP_CERT" not in environ


def test_a_broken_pip_configuration_is_left_out_as_pip_does(package_index: ModuleType, home: dict[str, str]) -> None:
    (Path(home["HOME"]) / ".config/pip/pip.conf").write_text("no section\n")
    assert "UV_DEFAULT_INDEX" not in index(package_index, home)


def test_passwords_are_removed_wherever_they_stand(package_index: ModuleType) -> None:
    text = "from https://me:s%40cret@pypi.lab.example/simple and http://token@b.example"
    assert package_index.without_secrets(text) == "from https://pypi.lab.example/simple and http://b.example"
    assert "secret" not in package_index.explain("error: https://me:secret@x.example/simple: 401 Unauthorized")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("error: Failed\n  cause: No space left on device (os error 28)", "the disk is full"),
        ("error: Request failed\n  cause: dns error\n", "cannot be resolved"),
        ("error: invalid peer certificate: UnknownIssuer", "dl_frameworks_ca_bundle"),
        ("error: Hash mismatch for `torch`", "checksum"),
        ("Read-only file system (os error 30)", "read-only"),
        ("", "no reason was given"),
        ("Because there is no version of torch==9 we can conclude", "no version of torch==9"),
    ],
)
def test_explanations(package_index: ModuleType, output: str, words: str) -> None:
    assert words in package_index.explain(output)
