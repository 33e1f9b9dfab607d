# SPDX-License-Identifier: Apache-2.0
"""Collections out of the bundle: the right ones, with what they depend on, at allowed versions."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import install_collections
import pytest
from install_collections import CollectionError, check, unpack, version_range


def make_bundle(path: Path, collections: dict[str, tuple[str, list[str]]]) -> zipfile.ZipFile:
    """Write a bundle of `{name: (version, dependencies)}` and open it."""
    with zipfile.ZipFile(path, "w") as bundle:
        for name, (version, dependencies) in collections.items():
            directory = f"ansible_collections/{name.replace('.', '/')}"
            information = {"version": version, "dependencies": dict.fromkeys(dependencies, "*")}
            bundle.writestr(f"{directory}/MANIFEST.json", json.dumps({"collection_info": information}))
            bundle.writestr(f"{directory}/plugins/modules/thing.py", "")
    return zipfile.ZipFile(path)


BUNDLE = {
    "a.one": ("1.2.0", ["b.two"]),
    "b.two": ("3.0.0", ["a.one"]),
    "c.three": ("4.0.0", []),
    "a.one_more": ("1.0.0", []),
}


def test_only_what_is_needed_is_unpacked(tmp_path: Path) -> None:
    unpack(make_bundle(tmp_path / "bundle.zip", BUNDLE), ["a.one"], tmp_path)
    unpacked = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("MANIFEST.json")}
    assert unpacked == {"ansible_collections/a/one", "ansible_collections/b/two"}
    assert (tmp_path / "ansible_collections/a/one/plugins/modules/thing.py").exists()


def test_a_collection_that_the_bundle_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"does not carry d\.four"):
        unpack(make_bundle(tmp_path / "bundle.zip", BUNDLE), ["d.four"], tmp_path)


def test_every_version_outside_its_range_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack(make_bundle(tmp_path / "bundle.zip", BUNDLE), ["a.one", "c.three"], tmp_path)
    ranges = {"a.one": ">=1.0.0,<2.0.0", "b.two": ">=4", "c.three": "3.9.0"}
    monkeypatch.setattr(
        install_collections, "wanted", lambda: {name: version_range(text) for name, text in ranges.items()}
    )
    with pytest.raises(CollectionError, match=r"b\.two 3\.0\.0 is not >=4; c\.three 4\.0\.0 is not ==3\.9\.0"):
        check(tmp_path, "the bundle")


@pytest.mark.parametrize(
    ("text", "version", "admitted"),
    [
        (">=1,<2", "1.9", True),
        (">=1,<2", "2.0", False),
        ("1.2.3", "1.2.3", True),
        ("1.2.3", "1.2.4", False),
        ("*", "9", True),
    ],
)
def test_ranges_read_as_galaxy_reads_them(text: str, version: str, admitted: bool) -> None:
    assert (version in version_range(text)) is admitted


def test_the_requirements_of_the_project_can_be_read() -> None:
    assert "community.docker" in install_collections.wanted()


def test_collections_that_are_there_already_do_not_count_as_galaxys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_GALAXY_SERVER", "http://127.0.0.1:9/")
    target = tmp_path / "fresh"
    target.mkdir()
    assert install_collections.from_galaxy(target) is False
    assert not list(target.rglob("MANIFEST.json"))
