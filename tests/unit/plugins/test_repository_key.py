# SPDX-License-Identifier: Apache-2.0
"""The key of a repository is taken by its fingerprint, and nothing else is."""

from __future__ import annotations

import base64
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

#: Made for this test; its private half is gone. The second line of a pair is the fingerprint that gpg prints for it.
KEY = b"""-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEawVXzBYJKwYBBAHaRw8BAQdAROmwQHL8iXymllLFEZF9E98zE+sNAn+hDx0A
ueYeYui0GU90aGVyIDxvdGhlckBsYWIuZXhhbXBsZT6IkAQTFggAOBYhBK95mVaw
LqarBkVy/b+d5/0lBNJGBQJrBVfMAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheA
AAoJEL+d5/0lBNJG2DUBALbo/9BN3OA+14Yo0jCI5zNRGajAlLd1jXKAoFf2dy6l
AP9k1RCQNzd3BnPcijAgn44CPbETGMheCNeyrRCZ7jmMDQ==
=kd9x
-----END PGP PUBLIC KEY BLOCK-----
"""
FINGERPRINT = "AF799956B02EA6AB064572FDBF9DE7FD2504D246"


#: Lets the module find its helper as tests/unit/conftest.py does, then runs it.
PROGRAM = f"""
import ansible.module_utils, runpy
ansible.module_utils.__path__.append("{ROOT}/module_utils")
runpy.run_path("{ROOT}/library/repository_key.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def keys() -> ModuleType:
    return importlib.import_module("ansible.module_utils.openpgp_keys")


def run(tmp_path: Path, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module as Ansible does, with its arguments on standard input."""
    arguments = {"ANSIBLE_MODULE_ARGS": {"_ansible_check_mode": check, "_ansible_tmpdir": str(tmp_path), **options}}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(arguments), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return dict(json.loads(done.stdout))


def test_fingerprint_is_that_of_gpg(keys: ModuleType) -> None:
    assert keys.fingerprints_of(keys.dearmor(KEY)) == [FINGERPRINT]


def test_armor_and_binary_are_the_same_key(keys: ModuleType) -> None:
    binary = keys.dearmor(KEY)
    assert keys.dearmor(keys.armor(binary)) == binary
    assert b"=kd9x" in keys.armor(binary)  # the checksum that gpg wrote


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b"\x99", b"\x99\x01\x0d\x04", b"\xc6\xff\x00", b"\x98\x01\x03"]
)
def test_what_is_no_key_is_no_key(keys: ModuleType, data: bytes) -> None:
    with pytest.raises(keys.NotAKeyError):
        keys.fingerprints_of(keys.dearmor(data))


def test_a_key_that_is_cut_off_is_no_key(keys: ModuleType) -> None:
    binary = keys.dearmor(KEY)
    for length in range(1, len(binary)):
        try:
            found = keys.fingerprints_of(binary[:length])
        except keys.NotAKeyError:
            continue
        # Cut between two packets it is the same key with fewer signatures.
        assert found == [FINGERPRINT]


def test_the_right_key_is_written_once(tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_bytes(KEY)
    dest = tmp_path / "repository.gpg"
    options = {"source": f"file://{tmp_path}/key.asc", "dest": str(dest), "fingerprints": [FINGERPRINT.lower()]}
    assert run(tmp_path, check=True, **options)["changed"] is True
    assert not dest.exists()
    assert run(tmp_path, **options)["changed"] is True
    assert dest.read_bytes()[:1] == b"\x98"
    assert dest.stat().st_mode & 0o777 == 0o644
    (tmp_path / "key.asc").unlink()  # what is there already is not fetched again
    assert run(tmp_path, **options)["changed"] is False


def test_another_key_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_bytes(KEY)
    dest = tmp_path / "repository.gpg"
    dest.write_bytes(b"what was there")
    answer = run(tmp_path, source=f"file://{tmp_path}/key.asc", dest=str(dest), fingerprints=["A" * 40])
    assert answer["failed"]
    assert FINGERPRINT in answer["msg"]
    assert "nvidia_driver_repository_fingerprints" in answer["msg"]
    assert dest.read_bytes() == b"what was there"


def test_a_page_instead_of_a_key_is_refused(tmp_path: Path) -> None:
    page = base64.b64encode(b"<html>403</html>").decode()
    answer = run(tmp_path, content=page, dest=str(tmp_path / "key"), fingerprints=[FINGERPRINT])
    assert "no OpenPGP public key" in answer["msg"]


def test_a_key_that_cannot_be_fetched_is_said_with_its_address(tmp_path: Path) -> None:
    answer = run(tmp_path, source=f"file://{tmp_path}/none", dest=str(tmp_path / "key"), fingerprints=[FINGERPRINT])
    assert f"{tmp_path}/none" in answer["msg"]


def test_a_rotated_key_replaces_the_old_one(tmp_path: Path) -> None:
    dest = tmp_path / "key.asc"
    dest.write_bytes(KEY)
    # The table names another key now; the one on the host is no longer accepted.
    answer = run(tmp_path, source=f"file://{dest}", dest=str(dest), fingerprints=["B" * 40])
    assert answer["failed"]
    answer = run(
        tmp_path, content=base64.b64encode(KEY).decode(), dest=str(dest), armored=True, fingerprints=[FINGERPRINT]
    )
    assert not answer.get("failed")
    assert dest.read_bytes().startswith(b"-----BEGIN")
