# SPDX-License-Identifier: Apache-2.0
"""Downloads: they go on where they stopped, are held to size and checksum, and come from secure places only."""

from __future__ import annotations

import base64
import fcntl
import io
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redist_lab import Mirror, Server, a_file, look, options


@pytest.fixture
def row(cuda_archive: ModuleType, mirror: Mirror, server: Server, tmp_path: Path) -> dict[str, Any]:
    """An archive large enough to be cut in the middle."""
    mirror.add_members("cuda_nvcc", [a_file("nvcc-1/bin/nvcc", os.urandom(300_000))])
    manifest = f"{server.address}/{mirror.path.name}"
    found: dict[str, Any] = look(cuda_archive, tmp_path, mirror, manifest=manifest)["archives"][1]
    server.requests.clear()
    return found


def fetch(module: ModuleType, base: Path, row: dict[str, Any], **given: Any) -> dict[str, Any]:
    answer: dict[str, Any] = module.fetch(options(base, archive=row, **given), False)
    return answer


def path_of(row: dict[str, Any], server: Server) -> str:
    return str(row["url"])[len(server.address) + 1 :]


def part(base: Path, row: dict[str, Any]) -> Path:
    return base / "cache/redist" / f"{row['sha256']}-{row['file']}.part"


def test_an_archive_comes_over_http_once(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    answer = fetch(cuda_archive, tmp_path, row)
    assert (answer["changed"], answer["downloaded"], answer["resumed"]) == (True, row["size"], 0)
    assert Path(answer["path"]).read_bytes() == (server.directory / path_of(row, server)).read_bytes()
    assert Path(answer["path"]).stat().st_mode & 0o777 == 0o644
    assert fetch(cuda_archive, tmp_path, row)["changed"] is False
    assert len(server.requests) == 1
    assert not part(tmp_path, row).exists()


def test_a_connection_that_is_cut_goes_on_where_it_stopped(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    path = path_of(row, server)

    def cut(request: Any) -> bool:
        server.send(request, server.directory / path, stop=100_000)
        return True

    server.behave[path] = [cut, cut]
    answer = fetch(cuda_archive, tmp_path, row)
    assert answer["downloaded"] == row["size"]
    assert server.requests[0][1] is None
    assert [wanted is not None for _, wanted, _ in server.requests] == [False, True, True]


def test_a_part_of_an_earlier_run_is_not_fetched_again(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    data = (server.directory / path_of(row, server)).read_bytes()
    part(tmp_path, row).parent.mkdir(parents=True)
    part(tmp_path, row).write_bytes(data[:200_000])
    assert fetch(cuda_archive, tmp_path, row)["resumed"] == 200_000
    assert server.requests[0][1] == "bytes=200000-"


@pytest.mark.parametrize("kind", ["from another file", "too long", "complete", "complete and wrong"])
def test_a_part_that_is_no_beginning_of_the_archive_does_no_harm(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path, kind: str
) -> None:
    data = (server.directory / path_of(row, server)).read_bytes()
    content = {
        "from another file": b"x" * 1000,
        "too long": data + b"x",
        "complete": data,
        "complete and wrong": b"x" * len(data),
    }[kind]
    part(tmp_path, row).parent.mkdir(parents=True)
    part(tmp_path, row).write_bytes(content)
    answer = fetch(cuda_archive, tmp_path, row)
    assert Path(answer["path"]).read_bytes() == data
    assert len(server.requests) == (0 if kind == "complete" else 2 if kind == "from another file" else 1)


def test_a_server_without_ranges_starts_anew(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    path = path_of(row, server)

    def whole(request: Any) -> bool:
        del request.headers["Range"]
        server.send(request, server.directory / path)
        return True

    server.behave[path] = [whole]
    part(tmp_path, row).parent.mkdir(parents=True)
    part(tmp_path, row).write_bytes(b"x" * 1000)
    answer = fetch(cuda_archive, tmp_path, row)
    assert (answer["resumed"], answer["downloaded"]) == (0, row["size"])


def test_a_server_that_sends_another_part_than_asked_for_is_asked_anew(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    data = (server.directory / path_of(row, server)).read_bytes()

    def other(request: Any) -> bool:
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
        return True

    server.behave[path_of(row, server)] = [other]
    part(tmp_path, row).parent.mkdir(parents=True)
    part(tmp_path, row).write_bytes(data[:1000])
    fetch(cuda_archive, tmp_path, row)
    assert [wanted for _, wanted, _ in server.requests] == ["bytes=1000-", None]


def test_another_file_than_the_manifest_says_is_refused_and_not_kept(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    place = server.directory / path_of(row, server)
    wrong = bytearray(place.read_bytes())
    wrong[1000] ^= 1
    place.write_bytes(wrong)
    with pytest.raises(
        cuda_archive.Failed, match=f"has the SHA-256 [0-9a-f]{{64}}, and its manifest expects {row['sha256']}"
    ):
        fetch(cuda_archive, tmp_path, row)
    assert list(part(tmp_path, row).parent.iterdir()) == []


def test_a_file_of_another_size_is_refused_before_it_comes(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    place = server.directory / path_of(row, server)
    place.write_bytes(place.read_bytes() + b"more")
    with pytest.raises(cuda_archive.Failed, match=f"has {row['size'] + 4} bytes, and its manifest says {row['size']}"):
        fetch(cuda_archive, tmp_path, row)
    assert list(part(tmp_path, row).parent.iterdir()) == []


def test_a_server_that_sends_more_than_it_announces_is_stopped(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    def endless(request: Any) -> bool:
        request.send_response(200)
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x" * 100_000)
        return True

    server.behave[path_of(row, server)] = [endless]
    with pytest.raises(cuda_archive.Failed, match="is longer than the"):
        fetch(cuda_archive, tmp_path, row)
    assert list(part(tmp_path, row).parent.iterdir()) == []


def test_a_web_page_instead_of_the_archive_is_called_so(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    def page(request: Any) -> bool:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.send_header("Content-Length", "5")
        request.end_headers()
        request.wfile.write(b"Hello")
        return True

    server.behave[path_of(row, server)] = [page]
    with pytest.raises(cuda_archive.Failed, match="has 5 bytes of text/html, and its manifest says"):
        fetch(cuda_archive, tmp_path, row)


def status(code: int) -> Callable[[Any], bool]:
    def answer(request: Any) -> bool:
        request.send_error(code)
        return True

    return answer


def test_a_server_in_trouble_is_asked_again_and_not_for_ever(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    path = path_of(row, server)
    server.behave[path] = [status(503), status(502)]
    assert fetch(cuda_archive, tmp_path, row)["changed"] is True
    Path(fetch(cuda_archive, tmp_path, row)["path"]).unlink()
    server.requests.clear()
    server.behave[path] = [status(503)] * 20
    with pytest.raises(cuda_archive.Failed, match=r"the server answers 503.*the next run goes on"):
        fetch(cuda_archive, tmp_path, row)
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    ("code", "words"),
    [(404, "the server has no such file"), (403, "refuses access"), (401, "wants a user name and password")],
)
def test_a_refusal_is_told_at_once(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path, code: int, words: str
) -> None:
    server.behave[path_of(row, server)] = [status(code)]
    with pytest.raises(cuda_archive.Failed, match=words):
        fetch(cuda_archive, tmp_path, row)
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_told_in_words(
    cuda_archive: ModuleType, row: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(cuda_archive.Failed, match="cannot be fetched: the connection was refused"):
        fetch(cuda_archive, tmp_path, {**row, "url": "http://127.0.0.1:1/x"})


def test_a_download_has_an_end_even_when_the_server_drips(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    def drip(request: Any) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", str(row["size"]))
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)
        return True

    server.behave[path_of(row, server)] = [drip]
    before = time.monotonic()
    with pytest.raises(cuda_archive.Failed, match="it takes longer than 1 s"):
        fetch(cuda_archive, tmp_path, row, timeout=1)
    assert time.monotonic() - before < 3


def redirect(address: str) -> Callable[[Any], bool]:
    def answer(request: Any) -> bool:
        request.send_response(302)
        request.send_header("Location", address)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    return answer


def test_redirects_are_followed_to_secure_places_only(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    path = path_of(row, server)
    server.behave[path] = [redirect("http://mirror.example/x")]
    with pytest.raises(cuda_archive.Failed, match=r"http://mirror\.example/x is plain http"):
        fetch(cuda_archive, tmp_path, row)
    for address, words in (("file:///etc/passwd", "is not allowed"), ("ftp://127.0.0.1/x", "which is not secure")):
        server.behave[path] = [redirect(address)]
        with pytest.raises(cuda_archive.Failed, match=words):
            fetch(cuda_archive, tmp_path, row)
    server.behave[path] = [redirect(f"{server.address}/{path}?again")]
    with pytest.raises(cuda_archive.Failed, match="no such file"):
        fetch(cuda_archive, tmp_path, row)
    server.behave[path] = [redirect(f"{server.address}/{path}")]
    assert fetch(cuda_archive, tmp_path, row)["changed"] is True


def test_https_never_becomes_http_on_the_way(redist_source: ModuleType) -> None:
    handler = redist_source._Redirects(insecure_http=True)
    request = redist_source.urllib.request.Request("https://mirror.example/x")
    with pytest.raises(redist_source.Failed, match="not secure"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "http://mirror.example/x")
    assert handler.redirect_request(request, io.BytesIO(), 302, "Found", {}, "https://other.example/x").type == "https"


@pytest.mark.parametrize(
    ("address", "insecure", "http"),
    [
        ("https://mirror.example/a", False, False),
        ("file:///srv/a", False, False),
        ("/srv/a", False, False),
        ("http://127.0.0.1:80/a", False, True),
        ("http://localhost/a", False, True),
        ("http://mirror.example/a", True, True),
    ],
)
def test_secure_addresses_are_taken(redist_source: ModuleType, address: str, insecure: bool, http: bool) -> None:
    assert redist_source.check_address(address, insecure) is http


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://mirror.example/a", "is plain http.*insecure_http"),
        ("http://127.0.0.1.example/a", "is plain http"),
        ("http://u:secret@mirror.example/a", "^http://mirror.example/a is plain"),
        ("file://server/a", "names no file of this host"),
        ("ftp://mirror.example/a", "cannot be used"),
        ("https:///a", "is no address"),
        ("https://mirror.example/a b", "is no address"),
        ("https://mirror.example:port/a", "is no address"),
        ("", "is no address"),
    ],
)
def test_other_addresses_are_refused_in_words(redist_source: ModuleType, address: str, words: str) -> None:
    with pytest.raises(redist_source.Failed, match=words):
        redist_source.check_address(address, False)


def test_plain_http_is_allowed_when_asked_for_and_then_said(
    cuda_archive: ModuleType, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    answer = look(cuda_archive, tmp_path, mirror, manifest=f"{server.address}/{mirror.path.name}")
    assert answer["insecure"] is True
    assert "plain http" in answer["warnings"][0]
    assert "warnings" not in look(cuda_archive, tmp_path, mirror)


def test_a_manifest_that_ends_early_is_fetched_again(
    cuda_archive: ModuleType, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    def cut(request: Any) -> bool:
        server.send(request, mirror.path, stop=100)
        return True

    def short(request: Any) -> bool:
        server.send(request, mirror.path, lie=1000)
        return True

    server.behave[mirror.path.name] = [cut, short]
    assert look(cuda_archive, tmp_path, mirror, manifest=f"{server.address}/{mirror.path.name}")["archives"]
    server.behave[mirror.path.name] = [short] * 9
    with pytest.raises(cuda_archive.Failed, match="cannot be fetched: the connection ended after"):
        look(cuda_archive, tmp_path, mirror, manifest=f"{server.address}/{mirror.path.name}")


def test_credentials_reach_their_server_alone_and_no_message(
    cuda_archive: ModuleType, row: dict[str, Any], mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    manifest = f"{server.address}/{mirror.path.name}".replace("http://", "http://lab:p%40ss@")
    answer = look(cuda_archive, tmp_path, mirror, manifest=manifest)
    expected = "Basic " + base64.b64encode(b"lab:p@ss").decode()
    assert server.requests[-1][2] == expected
    assert "p%40ss" not in repr(answer)
    fetch(cuda_archive, tmp_path, row, manifest=manifest)
    assert server.requests[-1][2] == expected
    Path(fetch(cuda_archive, tmp_path, row)["path"]).unlink()
    fetch(cuda_archive, tmp_path, row, manifest="http://lab:p%40ss@127.0.0.1:1/redistrib_12.9.1.json")
    assert server.requests[-1][2] is None
    Path(fetch(cuda_archive, tmp_path, row)["path"]).unlink()
    with Server(mirror.directory) as other:
        server.behave[path_of(row, server)] = [redirect(f"{other.address}/{path_of(row, server)}")]
        fetch(cuda_archive, tmp_path, row, manifest=manifest)
        assert other.requests[-1][2] is None
    server.behave[mirror.path.name] = [status(403)]
    with pytest.raises(cuda_archive.Failed) as failed:
        look(cuda_archive, tmp_path, mirror, manifest=manifest)
    assert "p%40ss" not in str(failed.value)


def test_a_directory_of_archives_needs_no_server(cuda_archive: ModuleType, mirror: Mirror, tmp_path: Path) -> None:
    row = look(cuda_archive, tmp_path, mirror)["archives"][0]
    archive = Path(row["url"])
    data = archive.read_bytes()
    archive.write_bytes(data[:-1])
    with pytest.raises(cuda_archive.Failed, match=f"has {len(data) - 1} bytes, and its manifest says {len(data)}"):
        fetch(cuda_archive, tmp_path, row)
    archive.write_bytes(b"x" * len(data))
    with pytest.raises(cuda_archive.Failed, match="has the SHA-256"):
        fetch(cuda_archive, tmp_path, row)
    archive.unlink()
    with pytest.raises(cuda_archive.Failed, match="is not on this host; the manifest beside it names it"):
        fetch(cuda_archive, tmp_path, row)
    archive.write_bytes(data)
    part(tmp_path, row).write_bytes(data[:100])
    answer = fetch(cuda_archive, tmp_path, row)
    assert Path(answer["path"]).read_bytes() == data


def test_a_download_that_is_killed_goes_on(
    cuda_archive: ModuleType, row: dict[str, Any], server: Server, tmp_path: Path
) -> None:
    path = path_of(row, server)
    sent, done = threading.Event(), threading.Event()

    def stall(request: Any) -> bool:
        data = (server.directory / path).read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:100_000])
        sent.set()
        done.wait(20)
        return True

    server.behave[path] = [stall]
    pid = os.fork()
    if pid == 0:
        try:
            fetch(cuda_archive, tmp_path, row)
        finally:
            os._exit(0)
    assert sent.wait(20)
    deadline = time.monotonic() + 20
    while not (part(tmp_path, row).exists() and part(tmp_path, row).stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    done.set()
    have = part(tmp_path, row).stat().st_size
    answer = fetch(cuda_archive, tmp_path, row)
    assert answer["resumed"] == have > 0
    assert server.requests[-1][1] == f"bytes={have}-"
    assert Path(answer["path"]).read_bytes() == (server.directory / path).read_bytes()


def test_two_runs_do_not_write_into_one_part(cuda_archive: ModuleType, row: dict[str, Any], tmp_path: Path) -> None:
    part(tmp_path, row).parent.mkdir(parents=True)
    with open(part(tmp_path, row), "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(cuda_archive.Failed, match="another run downloads"):
            fetch(cuda_archive, tmp_path, row, timeout=0)


def test_a_full_disk_is_told_in_words(
    cuda_archive: ModuleType, row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(cuda_archive.Failed, match=r"could not be written: the disk is full.*safe to delete"):
        fetch(cuda_archive, tmp_path, row)


def test_a_file_of_certificates_that_is_none_is_told(redist_source: ModuleType, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pem", tmp_path / "empty.pem"):
        (tmp_path / "empty.pem").write_text("no certificate")
        with pytest.raises(redist_source.Failed, match=re.escape(f"the file of certificates {path} cannot be used")):
            redist_source.Source(str(path))


@pytest.mark.parametrize(
    ("address", "secrets"),
    [
        ("https://mirror.lab.example/cuda/redistrib.json", set()),
        ("https://lab:secret@mirror.lab.example/x", {"secret"}),
        ("https://token@mirror.lab.example/x", {"token"}),
        ("https://lab:pa/ss%40word@mirror.lab.example/x", {"pa/ss%40word", "pa/ss@word"}),
        ("/srv/a@b/redistrib.json", set()),
    ],
)
def test_what_is_secret_in_an_address_is_known_and_not_shown(
    redist_source: ModuleType, address: str, secrets: set[str]
) -> None:
    assert redist_source.secrets_of(address) == secrets
    assert not [secret for secret in secrets if secret in redist_source.shown(address)]
