# SPDX-License-Identifier: Apache-2.0
"""The stand-in of NVIDIA's archives itself: what it has in common with the original, and how its server fails."""

from __future__ import annotations

import json
import tarfile
from typing import Any

import pytest
from redist import CUDNN_WHEELS, PLATFORM, TOOLKITS, Redist
from standins import sha256


@pytest.mark.parametrize("version", [*TOOLKITS, *CUDNN_WHEELS])
def test_a_manifest_names_the_archives_as_they_are(version: str, lab: Any) -> None:
    base = lab.server.root / (Redist.cudnn if version in CUDNN_WHEELS else Redist.cuda)
    manifest = json.loads((base / f"redistrib_{version}.json").read_text())
    assert manifest["release_label"] == version
    entries = [entry[PLATFORM] for entry in manifest.values() if isinstance(entry, dict)]
    rows = [row for entry in entries for row in ([entry] if "sha256" in entry else entry.values())]
    assert rows
    for row in rows:
        file = base / row["relative_path"]
        assert (sha256(file), str(file.stat().st_size)) == (row["sha256"], row["size"])


@pytest.mark.parametrize(
    ("path", "library"),
    [
        ("cuda/cuda_cudart/linux-x86_64/cuda_cudart-linux-x86_64-13.0.96-archive.tar.xz", "libcudart.so.13.0.96"),
        ("cudnn/cudnn/linux-x86_64/cudnn-linux-x86_64-9.13.0.50_cuda13-archive.tar.xz", "libcudnn.so.9.13.0"),
    ],
)
def test_an_archive_has_one_top_directory_and_links_to_libraries(path: str, library: str, lab: Any) -> None:
    file = lab.server.root / "redist" / path
    with tarfile.open(file) as archive:
        members = {member.name: member for member in archive}
    top = file.name.removesuffix(".tar.xz")
    assert {name.partition("/")[0] for name in members} == {top}
    bare, _, rest = library.partition(".so.")
    major = rest.partition(".")[0]
    assert members[f"{top}/lib/{bare}.so"].linkname == f"{bare}.so.{major}"
    assert members[f"{top}/lib/{bare}.so.{major}"].linkname == library
    assert members[f"{top}/lib/{library}"].size > 100_000


def test_the_server_answers_to_ranges_and_fails_on_request(lab: Any) -> None:
    client = lab.host("client")
    path = "redist/cudnn/redistrib_9.13.0.json"
    url, size = lab.server.url(path), (lab.server.root / path).stat().st_size
    ask = f"""python3 - <<'END'
import http.client, ssl, urllib.error, urllib.request
def get(**headers):
    try:
        with urllib.request.urlopen(urllib.request.Request("{url}", headers=headers), timeout=5) as answer:
            return answer.status, len(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, 0
    except (http.client.IncompleteRead, OSError) as error:
        return type(error).__name__
print(get(), get(Range="bytes=10-"), get(Range="bytes=10-19"), get(Range="bytes={size}-"))
END"""
    try:
        assert client.must(ask).strip() == f"(200, {size}) (206, {size - 10}) (206, 10) (416, 0)"
        for fault, expected in (
            ("404", "(404, 0)"),
            ("truncated", "IncompleteRead"),
            ("reset", "ConnectionResetError"),
        ):
            lab.server.heal()
            lab.server.fault("cudnn/redistrib", fault)
            answers = client.must(ask).strip()
            assert answers.startswith((expected, "IncompleteRead")), (fault, answers)
    finally:
        lab.server.heal()
        lab.bed.remove_machines([client.machine.name])
