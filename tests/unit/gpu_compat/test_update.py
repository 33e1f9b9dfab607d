# SPDX-License-Identifier: Apache-2.0
"""The update of the tables, against a stand-in index on loopback with made-up wheels."""

from __future__ import annotations

import argparse
import base64
import difflib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpu_compat import tables
from gpu_compat.refresh import comparison, update, upstream, web
from stand_in_index import Server, StandIn, metadata, wheel

TABLES = {
    "drivers": """\
as_of: "2026-01-01"
sources: {a: b}
branches:
  - {branch: "580", latest: "580.10.01", status: lts, cuda: "13.0", source: [a]}
kernel_limits: []
rules: []
""",
    "cuda": """\
as_of: "2026-01-01"
sources: {a: b}
toolkits:
  - {version: "13.0.1", driver: "580.10", driver_min: "580.10", capabilities: ["7.5", "12.1"], source: [a]}
  - {version: "12.6.0", driver: "560.10", driver_min: "525.60", capabilities: ["5.0", "9.0"], source: [a]}
rules: []
forward_compatibility: []
components: []
distribution: []
""",
    "cudnn": """\
as_of: "2026-01-01"
sources: {a: b}
ranges:
  - {first: "9.11", last: "9.28", cuda_majors: ["12", "13"], capabilities: ["7.5", "12.1"], source: [a]}
releases:
  - {package: nvidia-cudnn-cu13, version: "9.20.0.48", cuda_major: "13", date: "2026-11-20", arches: [x86_64],
     source: [a]}
  - {package: nvidia-cudnn-cu12, version: "9.20.0.48", cuda_major: "12", date: "2026-11-20", arches: [x86_64],
     source: [a]}
""",
    "pytorch": """\
# Kept by hand.
as_of: "2026-01-01"
sources:
  index-torch: "package index: torch"
  inferred-cuda: "default CUDA as the neighbouring release (inferred)"
releases:
  # The newest.
  - {version: "2.1.0", date: "2026-11-20", python: {x86_64: ["3.12"], aarch64: []}, glibc: "2.28",
     default_cuda: "13.0.1", aarch64_default: cpu, cudnn: "nvidia-cudnn-cu13==9.20.0.48", tags: [cu130],
     note: "kept",   source: [index-torch, "wheel metadata of torch==2.1.0"]}
  - {version: "2.0.0", date: "2026-11-20", python: {x86_64: ["3.12"], aarch64: []}, glibc: "2.28",
     default_cuda: "12.6", aarch64_default: cpu, tags: [cu126], source: [index-torch, "wheel metadata of torch==2.0.0"]}
wheels:
  - {release: "2.1", tag: cu130, cuda: "13.0", sm: ["7.5", "8.0"], source: [a]}
  - {release: "2.0", tag: cu126, cuda: "12.6", sm: ["7.0"], source: [a]}
companions: []
notes: []
""",
    "tensorflow": """\
as_of: "2026-01-01"
sources: {a: b}
releases:
  - {version: "2.20.0", date: "2026-11-20", python: {x86_64: ["3.12"], aarch64: []}, glibc: "2.28", cuda: "12.6",
     built_with_cudnn: "9.3", driver_min: "525.60", sm: ["7.0"], source: [a, "wheel metadata of tensorflow==2.20.0"]}
ptx_fails: []
notes: []
""",
    "jax": """\
as_of: "2026-01-01"
sources: {a: b}
releases:
  - {version: "0.9.0", date: "2026-11-20", python: ["3.12"], plugins: [cuda12], sm_cuda12: ["7.0"],
     source: [a, "wheel metadata of jax-cuda12-plugin==0.9.0"]}
plugins: []
glibc:
  - {first: "0", glibc: "2.28", source: [a]}
notes: []
""",
    "keras": """\
as_of: "2026-01-01"
sources: {a: b}
releases:
  - {version: "3.1.0", date: "2026-11-20", requires_python: ">=3.11", source: [a]}
backends: []
notes: []
""",
}
LINUX = "manylinux_2_28_x86_64"
PINS = (
    'cuda-toolkit[cublas]==13.0.1; platform_system == "Linux"',
    'nvidia-cudnn-cu13==9.21.0.5; platform_system == "Linux"',
    'triton~=3.9.0; platform_system == "Linux" and python_version < "3.99"',
    'numpy; extra == "numpy"',
)
ALONE = ("nvidia-cuda", "nvidia-cudnn", "nvidia-driver", "pytorch")


def torch(version: str, *pythons: str, platform: str = LINUX) -> list[str]:
    return [f"torch-{version}-{python}-{platform}.whl" for python in pythons]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small tables in the place of the shipped ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, text in TABLES.items():
        (folder / f"{name}.yml").write_text(f"# SPDX-License-Identifier: Apache-2.0\n{text}", encoding="utf-8")
    monkeypatch.setattr(tables, "DATA", folder)
    return folder


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An index that has just what the small tables say; nothing of this machine's configuration is in force."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    site = StandIn()
    site.add("torch", *torch("2.1.0", "cp312-cp312"), *torch("2.0.0", "cp312-cp312"))
    site.add("tensorflow", f"tensorflow-2.20.0-cp312-cp312-{LINUX}.whl")
    site.add("jax", "jax-0.9.0-py3-none-any.whl")
    site.add("jaxlib", f"jaxlib-0.9.0-cp312-cp312-{LINUX}.whl")
    site.add("jax-cuda12-plugin", f"jax_cuda12_plugin-0.9.0-cp312-cp312-{LINUX}.whl")
    site.add("jax-cuda13-plugin", f"jax_cuda13_plugin-0.8.0-cp312-cp312-{LINUX}.whl")
    site.add("keras", "keras-3.1.0-py3-none-any.whl", requires_python=">=3.11")
    site.add("nvidia-cudnn-cu13", f"nvidia_cudnn_cu13-9.20.0.48-py3-none-{LINUX}.whl")
    site.add("nvidia-cudnn-cu12", f"nvidia_cudnn_cu12-9.20.0.48-py3-none-{LINUX}.whl")
    site.add("nvidia-cudnn-cu11", "nvidia_cudnn_cu11-8.0.0.1-py3-none-win_amd64.whl")
    site.add("cuda-toolkit", "cuda_toolkit-13.0.1-py2.py3-none-any.whl")
    with Server(site):
        monkeypatch.setattr(comparison, "NVIDIA", f"{site.url}/nvidia")
        monkeypatch.setattr(upstream, "NVIDIA", f"{site.url}/nvidia")
        monkeypatch.setattr(comparison, "PYTORCH", f"{site.url}/whl")
        yield site


def run(site: StandIn, *options: str, left_out: tuple[str, ...] = ALONE, index: str | None = None) -> int:
    """Run the update as from the command line."""
    parser = argparse.ArgumentParser()
    update.add_arguments(parser)
    offline = ["--offline-source", *left_out] if left_out else []
    return update.run(parser.parse_args([*options, "--index-url", index or f"{site.url}/simple", *offline]))


def as_json(site: StandIn, capsys: pytest.CaptureFixture[str], *options: str, **how: Any) -> dict[str, Any]:
    capsys.readouterr()
    run(site, "--json", *options, **how)
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def one(result: dict[str, Any]) -> dict[str, Any]:
    """Return the only difference."""
    assert len(result["differences"]) == 1, result
    difference: dict[str, Any] = result["differences"][0]
    return difference


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    file, _, table = name.partition(".")
    found: list[dict[str, Any]] = yaml.safe_load((data / f"{file}.yml").read_text(encoding="utf-8"))[table]
    return found


def new_torch(site: StandIn, content: bytes | None = None, **options: Any) -> None:
    content = wheel(metadata(*PINS), padding=600_000) if content is None else content
    site.add("torch", *torch("2.1.1", "cp312-cp312", "cp313-cp313"), content=content, date="2026-11-22", **options)


def test_tables_that_are_up_to_date(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site) == 0
    out, err = capsys.readouterr()
    assert out == "the tables say what the sources that answered say\n"
    assert "asking the package index: torch ..." in err
    assert not any(path.startswith("/files") for path in site.paths()), (
        "metadata was read though every row has its pins"
    )


def test_a_new_release_of_torch_by_ranges(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    new_torch(site)
    site.add(
        "torch",
        *torch("2.1.1", "cp312-cp312", platform="manylinux2014_aarch64"),
        content=wheel(metadata()),
        date="2026-11-21",
    )
    difference = one(as_json(site, capsys))
    assert difference["class"] == "added"
    assert difference["row"] == {
        "version": "2.1.1",
        "date": "2026-11-21",
        "python": {"x86_64": ["3.12", "3.13"], "aarch64": ["3.12"]},
        "glibc": "2.28",
        "default_cuda": "13.0.1",
        "aarch64_default": "cpu",
        "cudnn": "nvidia-cudnn-cu13==9.21.0.5",
        "triton": "triton~=3.9.0",
        "tags": ["cu130"],
        "source": [
            "index-torch",
            "wheel metadata of torch==2.1.1",
            "tags: that of the default CUDA alone (PyTorch's own index not seen)",
        ],
    }
    spans = [span for path, span, _ in site.asked if path.startswith("/files")]
    assert spans
    assert all(spans), "a wheel was asked for as a whole"
    assert site.sent < 600_000


def test_a_directory_longer_than_one_block(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """METADATA is the first entry of some 300 KiB of directory, as it may be in the wheels of PyTorch."""
    new_torch(site, wheel(metadata(*PINS), entries=2600, padding=900_000, early=True))
    assert one(as_json(site, capsys))["row"]["triton"] == "triton~=3.9.0"
    assert site.sent < 900_000


def test_metadata_beside_the_wheel_is_taken_first(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    new_torch(site, b"no wheel at all", beside=metadata(*PINS))
    assert one(as_json(site, capsys))["row"]["default_cuda"] == "13.0.1"
    assert all(path.endswith(".metadata") for path in site.paths() if path.startswith("/files"))


def test_metadata_that_is_promised_and_missing(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    new_torch(site, promised=True)
    assert one(as_json(site, capsys))["row"]["default_cuda"] == "13.0.1"


def test_metadata_with_another_checksum_is_not_believed(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    new_torch(site, beside=metadata(*PINS), checksum="0" * 64)
    result = as_json(site, capsys)
    assert result["differences"] == []
    assert "does not have the checksum" in next(s["reason"] for s in result["sources"] if "2.1.1" in s["name"])
    assert result["needs_a_person"][0].startswith("torch 2.1.1: the sources do not say enough for a row: ")


def test_no_wheel_is_downloaded_whole_where_ranges_are_not_served(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    new_torch(site, wheel(metadata(*PINS), padding=9_000_000))
    site.ranges = False
    result = as_json(site, capsys)
    assert any("gives no parts of a file" in source.get("reason", "") for source in result["sources"])
    assert site.sent < 9_000_000


def test_kernel_lists_are_a_persons(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    site.add("torch", *torch("2.2.0", "cp312-cp312"), content=wheel(metadata(*PINS)))
    result = as_json(site, capsys)
    assert one(result)["table"] == "pytorch.releases"
    assert result["needs_a_person"][0].startswith("kernel list of torch 2.2.0 tag cu130")
    assert run(site) == 3
    assert "needs a person: kernel list of torch 2.2.0 tag cu130" in capsys.readouterr().out


def test_pins_of_older_wheels(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """CUDA 12 wheels name the runtime instead of the toolkit, for x86_64 alone."""
    old = metadata(
        'nvidia-cuda-runtime-cu12==12.6.77; platform_system == "Linux" and platform_machine == "x86_64"',
        "keras-preprocessing (~=1.1.2)",
        "this is; no requirement ===",
    )
    names = [*torch("2.0.1", "cp312-cp312"), *torch("2.0.1", "cp312-cp312", platform="manylinux_2_28_aarch64")]
    site.add("torch", *names, content=wheel(old))
    row = one(as_json(site, capsys))["row"]
    assert (row["default_cuda"], row["aarch64_default"], row["tags"]) == ("12.6", "cpu", ["cu126"])


def test_markers_are_not_those_of_the_running_python(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = metadata(PINS[0], PINS[1], 'triton==3.1.0; python_version < "3.9"', 'triton==9; python_version >= "3.9"')
    site.add("torch", *torch("2.1.1", "cp38-cp38", "cp312-cp312"), content=wheel(asked))
    assert one(as_json(site, capsys))["row"]["triton"] == "triton==3.1.0"


def test_tags_of_wheels(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """abi3 reaches to the newest Python of the project; build tags count once; free-threaded wheels do not count."""
    site.projects["torch"][0].name = "torch-2.1.0-3-cp312-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    site.add(
        "torch",
        *torch("2.1.0", "cp310-cp310", "cp315-cp315t", "cp39-cp39t"),
        "torch-2.1.0-cp38-none-macosx_11_0_arm64.whl",
    )
    difference = one(as_json(site, capsys))
    assert difference["class"] == "changed"
    python = {"x86_64": ["3.10", "3.12", "3.13", "3.14", "3.15"], "aarch64": []}
    assert difference["fields"] == {"python": {"old": {"x86_64": ["3.12"], "aarch64": []}, "new": python}}


@pytest.mark.parametrize("name", ["2.2.0rc1", "2.2.0.dev20261101", "2.2.0+cu130", "1.9.0"])
def test_what_is_no_release_of_interest(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    site.add("torch", *torch(name, "cp312-cp312"), content=wheel(metadata(*PINS)))
    site.add("torch", "torch-2.3.0.tar.gz", "torch-garbage.whl", "torch-2.4.0-cp312-cp312-win_amd64.whl")
    assert as_json(site, capsys)["differences"] == []


def test_a_yanked_release_is_marked(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    site.projects["torch"][0].yanked = "broken"
    difference = one(as_json(site, capsys))
    assert difference["class"] == "removed"
    assert difference["fields"] == {"yanked": {"old": None, "new": True}}
    assert run(site, "--apply", "--yes") == 3
    assert run(site, "--apply", "--yes", "--accept", "removed") == 0
    assert rows(data, "pytorch.releases")[0]["yanked"] is True
    assert rows(data, "pytorch.releases")[0]["note"] == "kept"
    site.projects["torch"][0].yanked = False
    assert one(as_json(site, capsys))["class"] == "changed"


def test_a_release_yanked_in_part_is_what_is_left_of_it(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("torch", *torch("2.1.0", "cp313-cp313"), yanked=True)
    assert as_json(site, capsys)["differences"] == []


def test_a_yanked_release_is_not_added(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    new_torch(site, yanked=True)
    assert as_json(site, capsys)["differences"] == []


def test_a_deleted_release_is_taken_out_on_request(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.projects["torch"][1]
    assert run(site) == 3
    assert "  removed 2.0.0: no longer offered; the row goes\n" in capsys.readouterr().out
    assert run(site, "--apply", "--yes", "--accept", "removed") == 0
    assert [row["version"] for row in rows(data, "pytorch.releases")] == ["2.1.0"]


def test_a_project_that_is_missing_deletes_no_rows(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    del site.projects["torch"]
    site.projects["keras"].clear()
    result = as_json(site, capsys)
    assert result["differences"] == []
    reasons = {source["name"]: source.get("reason") for source in result["sources"]}
    assert reasons["the package index: torch"] == "it has no such page (HTTP 404)"
    assert reasons["the package index: keras"] == "it lists no wheel of a release"
    assert reasons["the package index: jax"] is None


def test_pins_that_were_inferred_are_read(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    path = data / "pytorch.yml"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace('[index-torch, "wheel metadata of torch==2.0.0"]', "[index-torch, inferred-cuda]"),
        encoding="utf-8",
    )
    site.projects["torch"][1].content = wheel(metadata("nvidia-cuda-runtime-cu12==12.6.77", "triton==2.0.0"))
    fields = one(as_json(site, capsys))["fields"]
    assert fields["triton"] == {"old": None, "new": "triton==2.0.0"}
    assert fields["source"]["new"] == ["index-torch", "wheel metadata of torch==2.0.0"]
    assert "default_cuda" not in fields


def test_the_html_form_of_the_index(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    new_torch(site)
    site.add("keras", "keras-3.2.0-py3-none-any.whl", requires_python=">=3.12,<4")
    site.projects["torch"][1].yanked = True
    site.html = True
    found = {" ".join(diff["key"].values()): diff for diff in as_json(site, capsys)["differences"]}
    assert set(found) == {"2.1.1", "2.0.0", "3.2.0"}
    assert found["2.1.1"]["row"]["cudnn"] == "nvidia-cudnn-cu13==9.21.0.5"
    assert found["2.0.0"]["class"] == "removed"
    assert found["3.2.0"]["row"]["requires_python"] == ">=3.12,<4"
    assert "date: the day it was first seen" in found["3.2.0"]["row"]["source"]


def test_a_page_that_is_no_listing(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    site.pages["/simple/torch/"] = b"<html>please log in</html>"
    assert run(site) == 0
    assert "not answered: the package index: torch: it lists no wheel" in capsys.readouterr().err


def test_a_source_that_refuses_is_named_with_the_reason(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr(comparison, "NVIDIA", address)
    new_torch(site)
    assert run(site, left_out=("pytorch",)) == 3
    out, err = capsys.readouterr()
    assert "not answered: NVIDIA's archive of cuDNN: it refused the connection" in err
    assert "added   2.1.1" in out


def test_a_source_that_is_silent_is_named_with_the_reason(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SILENCE", 0.3)
    dumb = StandIn(silent=True)
    with Server(dumb):
        monkeypatch.setattr(comparison, "PYTORCH", dumb.url)
        assert run(site, left_out=ALONE[:3]) == 0
    assert "not answered: PyTorch's own wheel index: it gave no answer within 0.3 seconds" in capsys.readouterr().err
    assert len(dumb.asked) == 1, "a source that is silent is asked once"


@pytest.mark.parametrize("options", [[], ["--json"], ["--apply", "--yes"]])
def test_no_source_answers(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(web, "SILENCE", 0.3)
    site.silent = True
    assert run(site, *options) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no source answered" in err
    assert "it gave no answer within 0.3 seconds" in err
    assert len(site.asked) == 1


def test_every_source_left_out(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(site, left_out=("index", *ALONE)) == 1
    assert site.asked == []


def test_an_applied_file_differs_in_the_new_row_alone(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    new_torch(site)
    before = {path.name: path.read_text(encoding="utf-8") for path in data.iterdir()}
    assert run(site, "--apply", "--yes") == 0
    after = {path.name: path.read_text(encoding="utf-8") for path in data.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"pytorch.yml"}
    assert set(after) == set(before), "something is left over"
    old, new = before["pytorch.yml"].splitlines(), after["pytorch.yml"].splitlines()
    changes = [line for line in difflib.ndiff(old, new) if line[0] in "+-"]
    assert changes[0] == '- as_of: "2026-01-01"'
    assert changes[1].startswith('+ as_of: "20')
    assert changes[2].startswith('+   - {version: "2.1.1", date: "2026-11-22", ')
    assert all(line.startswith("+ ") for line in changes[2:])
    assert [row["version"] for row in rows(data, "pytorch.releases")] == ["2.1.1", "2.1.0", "2.0.0"]
    assert run(site) == 0, "what is applied is up to date"


def test_changed_rows_need_review(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    site.add("torch", *torch("2.1.0", "cp314-cp314"))
    new_torch(site)
    assert run(site, "--apply", "--yes") == 3
    assert "1 changed row(s) need review; --accept changed applies them" in capsys.readouterr().err
    assert rows(data, "pytorch.releases")[1]["python"]["x86_64"] == ["3.12"]
    assert run(site, "--apply", "--yes", "--accept", "changed") == 0
    assert rows(data, "pytorch.releases")[1]["python"]["x86_64"] == ["3.12", "3.14"]


def fail_to_replace(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    replace = os.replace
    failed: list[str] = []

    def broken(source: Any, target: Any) -> None:
        if Path(target).name == name and not failed:
            failed.append(name)
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)


def test_all_files_are_written_or_none(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_torch(site)
    site.add("keras", "keras-3.2.0-py3-none-any.whl", requires_python=">=3.12")
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    fail_to_replace(monkeypatch, "keras.yml")
    assert run(site, "--apply", "--yes") == 1
    assert {path.name: path.read_bytes() for path in data.iterdir()} == before
    assert "No space left on device" in capsys.readouterr().err


def test_the_mode_of_a_file_stays(data: Path, site: StandIn) -> None:
    new_torch(site)
    (data / "pytorch.yml").chmod(0o640)
    assert run(site, "--apply", "--yes") == 0
    assert (data / "pytorch.yml").stat().st_mode & 0o777 == 0o640


def test_an_installed_copy_is_not_written(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_torch(site)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert run(site, "--apply", "--yes") == 1
    assert f"{data / 'pytorch.yml'} is not writable: this is an installed copy" in capsys.readouterr().err
    assert len(rows(data, "pytorch.releases")) == 2


class Terminal:
    """A standard input with a person at it."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self.answers.pop(0) + "\n"


def test_the_person_at_the_terminal_is_asked_by_class(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_torch(site)
    site.add("torch", *torch("2.1.0", "cp314-cp314"))
    monkeypatch.setattr(sys, "stdin", Terminal("", "yes"))
    assert run(site, "--apply") == 3
    err = capsys.readouterr().err
    assert "Apply 1 added row(s)? [y/N] " in err
    assert [row["version"] for row in rows(data, "pytorch.releases")] == ["2.1.0", "2.0.0"]
    assert rows(data, "pytorch.releases")[0]["python"]["x86_64"] == ["3.12", "3.14"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--apply"], "this is no terminal: give --yes"),
        (["--yes"], "give --apply as well"),
        (["--accept", "changed"], "give --apply as well"),
        (["--apply", "--accept", "changed"], "give --yes as well"),
    ],
)
def test_wrong_usage(
    data: Path,
    site: StandIn,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    says: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 - pytest's own stdin has no end either
    assert run(site, *options) == 2
    assert says in capsys.readouterr().err
    assert site.asked == []


def test_credentials_never_appear(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """They are sent to the index, to no other host, and are in no output, even where the index denies access."""
    site.login = "Basic " + base64.b64encode(b"lab user:s3cr@t/x").decode()
    files = StandIn()
    with Server(files):
        new_torch(site, host=files.url)
        files.projects = site.projects
        right = site.url.replace("http://", "http://lab%20user:s3cr%40t%2Fx@") + "/simple"
        wrong = site.url.replace("http://", "http://lab%20user:s3cr%40t%2Fy@") + "/simple"
        assert run(site, index=right) == 3
        assert run(site, index=wrong) == 1
        assert run(site, index=right.replace("http", "ftp")) == 1
    out, err = capsys.readouterr()
    assert "added   2.1.1" in out
    assert "access was denied (HTTP 401)" in err
    assert "is no address of the form" in err
    assert "s3cr" not in out + err
    assert files.asked
    assert all(not login for _, _, login in files.asked)


def test_rows_of_tensorflow(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    asked = metadata(
        "keras>=3.12.0",
        'nvidia-cuda-runtime-cu12<13.0,>=12.6.77; extra == "and-cuda"',
        'nvidia-cudnn-cu12<10.0,>=9.3.0.75; extra == "and-cuda"',
    )
    site.add("tensorflow", f"tensorflow-2.21.0-cp313-cp313-{LINUX}.whl", content=wheel(asked))
    result = as_json(site, capsys)
    row = one(result)["row"]
    assert row["sm"] is None
    assert "ptx" not in row
    expected = {"cuda": "12.6", "built_with_cudnn": "9.3", "driver_min": "525.60", "cudnn": "<10.0,>=9.3.0.75"}
    assert {name: row[name] for name in expected} == expected
    assert (row["bundled"], row["keras"]) == (True, ">=3.12.0")
    assert result["needs_a_person"][0].startswith("kernel list of tensorflow 2.21.0")


def test_rows_of_jax(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """A release without a library of its own is none of the table's; a new demand on the C library is a row."""
    site.add("jax", "jax-0.9.1-py3-none-any.whl", "jax-0.9.2-py3-none-any.whl")
    site.add("jaxlib", "jaxlib-0.9.2-cp313-cp313-manylinux_2_34_x86_64.whl")
    asked = metadata('nvidia-cudnn-cu12<10.0,>=9.8; sys_platform == "linux" and extra == "with_cuda"')
    site.add("jax-cuda12-plugin", f"jax_cuda12_plugin-0.9.2-cp313-cp313-{LINUX}.whl", content=wheel(asked))
    result = as_json(site, capsys)
    found = {diff["table"]: diff["row"] for diff in result["differences"]}
    assert len(result["differences"]) == 2
    assert found["jax.releases"] == {
        "version": "0.9.2",
        "date": "2026-11-20",
        "python": ["3.13"],
        "plugins": ["cuda12"],
        "cudnn_cuda12": "<10.0,>=9.8",
        "source": ["index-jax", "wheel metadata of jax-cuda12-plugin==0.9.2"],
    }
    assert (found["jax.glibc"]["first"], found["jax.glibc"]["glibc"]) == ("0.9.2", "2.34")
    assert result["needs_a_person"][0].startswith("kernel list of jax 0.9.2: sm_cuda12")


def test_rows_of_cudnn(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Its GPUs are those of its series; a series that no range has gets none."""
    for version in ("9.28.5.1", "9.29.0.1"):
        site.add("nvidia-cudnn-cu13", f"nvidia_cudnn_cu13-{version}-py3-none-manylinux_2_27_aarch64.whl")
    result = as_json(site, capsys)
    found = {diff["key"]["version"]: diff["row"] for diff in result["differences"]}
    assert found["9.28.5.1"]["capability_min"] == "7.5"
    assert found["9.28.5.1"]["arches"] == ["aarch64"]
    assert "capability_min" not in found["9.29.0.1"]
    assert result["needs_a_person"] == [
        "nvidia-cudnn-cu13 9.29.0.1: no row of cudnn.ranges has its series, so its GPUs are not known"
    ]
    assert run(site, "--apply", "--yes") == 0
    versions = [row["version"] for row in rows(data, "cudnn.releases")]
    assert versions == ["9.29.0.1", "9.28.5.1", "9.20.0.48", "9.20.0.48"]


def test_rows_of_cuda(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """An update of a known CUDA is as its sibling; a new one is a person's."""
    site.add(
        "cuda-toolkit", *(f"cuda_toolkit-{version}-py3-none-any.whl" for version in ("13.0.2", "13.1.0", "12.5.0"))
    )
    result = as_json(site, capsys)
    row = one(result)["row"]
    assert (row["version"], row["driver"], row["capabilities"]) == ("13.0.2", "580.10", ["7.5", "12.1"])
    assert "driver inferred from 13.0.1" in row["source"]
    assert result["needs_a_person"] == ["CUDA toolkit 13.1.0: a row of cuda.toolkits with its driver and its GPUs"]


def test_archives_of_nvidia(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    def listing(*versions: str) -> bytes:
        return (
            "".join(f"<a href='redistrib_{version}.json'>x</a>" for version in versions).encode()
            + b"<a href='../'>up</a>"
        )

    site.pages["/nvidia/cuda/redist/"] = listing("13.0.1", "13.0.2")
    site.pages["/nvidia/cuda/redist/redistrib_13.0.2.json"] = b'{"nvidia_driver": {"version": "580.95.05"}}'
    site.pages["/nvidia/cudnn/redist/"] = listing("9.20.0", "9.29.0")
    site.pages["/nvidia/nvidia-driver/redist/"] = listing("580.9.1", "580.178.04", "590.10")
    result = as_json(site, capsys, left_out=("pytorch",))
    found = {diff["table"]: diff for diff in result["differences"]}
    assert found["cuda.toolkits"]["row"]["driver"] == "580.95.05"
    assert found["drivers.branches"]["fields"] == {"latest": {"old": "580.10.01", "new": "580.178.04"}}
    assert sorted(need.partition(":")[0] for need in result["needs_a_person"]) == [
        "cuDNN 9.29.0 is in NVIDIA's archive",
        "driver branch 590 (590.10)",
    ]


def test_the_wheel_index_of_pytorch_proves_tags(data: Path, site: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """A tag whose page is missing stays; one whose page lacks the release goes."""
    page = "".join(f"<a href='{name}'>x</a>" for name in torch("2.1.0%2Bcu130", "cp312-cp312"))
    site.pages["/whl/cu130/torch/"] = page.encode()
    page = "".join(f"<a href='{name}'>x</a>" for name in torch("2.1.0%2Bcu126", "cp312-cp312"))
    site.pages["/whl/cu126/torch/"] = page.encode()
    result = as_json(site, capsys, left_out=ALONE[:3])
    assert one(result)["fields"] == {"tags": {"old": ["cu130"], "new": ["cu126", "cu130"]}}
    assert result["needs_a_person"][0].startswith("kernel list of torch 2.1.0 tag cu126")


def test_no_traceback(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "_refresh", lambda *_: 1 / 0)
    assert run(site) == 1
    assert "a mistake in this program, please report it: ZeroDivisionError" in capsys.readouterr().err
    (data / "jax.yml").write_text("as_of: [", encoding="utf-8")
    assert run(site) == 1
    assert "jax.yml: no valid YAML" in capsys.readouterr().err


def test_where_the_index_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over pip's variables, these over its files, these over uv's; pip knows the usual one."""
    monkeypatch.setattr(web, "usual_index", lambda: "http://usual/simple/")
    folder = tmp_path / "pip"
    folder.mkdir()
    (folder / "pip.conf").write_text(
        "[global]\nindex-url = http://file/simple\ncert = /ca.pem\nproxy = http://p:1\n", encoding="utf-8"
    )
    files = {
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "none"),
    }
    everything = {**files, "PIP_INDEX_URL": "http://pip/simple", "UV_INDEX_URL": "http://uv/simple"}
    assert web.settings("http://option/simple/", everything).index_url == "http://option/simple"
    assert web.settings("", everything) == web.Settings("http://pip/simple", "/ca.pem", "http://p:1")
    assert web.settings("", {**files, "UV_INDEX_URL": "http://uv/simple"}).index_url == "http://file/simple"
    nothing = {**files, "PIP_CONFIG_FILE": os.devnull}
    assert web.settings("", {**nothing, "UV_INDEX_URL": "http://uv/simple"}).index_url == "http://uv/simple"
    assert web.settings("", {**nothing, "SSL_CERT_FILE": "/x.pem"}) == web.Settings("http://usual/simple", "/x.pem")


def test_no_index_and_no_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(web.SourceError, match="give --index-url URL, or set PIP_INDEX_URL"):
        web.usual_index()


def test_a_ca_bundle_that_is_missing(
    data: Path, site: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "missing.pem"))
    assert run(site) == 1
    assert "missing.pem cannot be read" in capsys.readouterr().err
