# SPDX-License-Identifier: Apache-2.0
"""Where the data set comes from, and what is done about mirrors and files that are not what they should be."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

import files
import mnist_data
import pytest
import settings as settings_module
from validation_lab import Lab, Mirror

IMAGES = "train-images-idx3-ubyte.gz"


def finder(lab: Lab, *, plain_http: bool = True, draw: Any = None, **changes: Any) -> mnist_data.Finder:
    settings = settings_module.check(lab.settings(**{"mnist_host_dir": "", "http_timeout": 2, **changes}))
    return mnist_data.Finder(settings, lab.table["datasets"], draw or (lambda: (None, "nobody draws here")), plain_http)


def drawing(lab: Lab, contents: dict[str, str] | None = None) -> Any:
    def draw() -> tuple[str, str]:
        directory = lab.directory / "drawn"
        directory.mkdir(exist_ok=True)
        for name, text in (contents or lab.digits).items():
            (directory / name).write_text(text)
        return str(directory), ""

    return draw


def cached(lab: Lab) -> dict[str, str]:
    return {path.name: path.read_text() for path in (lab.base / "cache" / "mnist").iterdir() if path.is_file()}


def words(error: pytest.ExceptionInfo[mnist_data.DataError]) -> str:
    return str(error.value)


# -- files given by the lab ------------------------------------------------------------------------------------------


def test_given_files_are_taken_into_the_cache(lab: Lab) -> None:
    dataset = finder(lab, mnist_host_dir=str(lab.given)).find()
    assert (dataset.name, dataset.tried) == ("mnist", [])
    assert "given by the lab" in dataset.origin
    assert cached(lab) == lab.mnist


@pytest.mark.parametrize("source", ["auto", "mnist"])
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.write_text(path.read_text()[:-1] + "!"), "right size, wrong content"),
        (lambda path: path.write_text("short"), "truncated: 5 of"),
        (lambda path: path.write_text(path.read_text() + "!"), "too large"),
        (lambda path: path.write_text("<!DOCTYPE html><p>log in first"), "got an HTML page, 30 bytes, instead of"),
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "it cannot be read"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is no plain file"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "it is no plain file"),
    ],
)
def test_a_bad_given_file_is_named_and_never_replaced(
    lab: Lab, mirror: Mirror, source: str, spoil: Any, expected: str
) -> None:
    mirror.serve(lab.mnist)
    spoil(lab.given / IMAGES)
    with pytest.raises(mnist_data.DataError) as error:
        finder(
            lab, mnist_host_dir=str(lab.given), mnist_mirrors=[mirror.address], mnist_source=source, draw=drawing(lab)
        ).find()
    assert str(lab.given / IMAGES) in words(error)
    assert expected in words(error)
    assert mirror.requests == []


def test_files_from_the_control_node_that_did_not_arrive(lab: Lab, mirror: Mirror) -> None:
    mirror.serve(lab.mnist)
    with pytest.raises(mnist_data.DataError, match=IMAGES):
        finder(lab, mnist_dir="/home/me/mnist", mnist_mirrors=[mirror.address]).find()
    finder(lab, mnist_host_dir=str(lab.given)).find()  # fills the cache
    assert "control node" in finder(lab, mnist_dir="/home/me/mnist").find().origin


# -- cache and mirrors -----------------------------------------------------------------------------------------------


def test_a_mirror_fills_the_cache_and_the_cache_needs_no_mirror(lab: Lab, mirror: Mirror) -> None:
    mirror.serve(lab.mnist)
    assert mirror.address in finder(lab, mnist_mirrors=[mirror.address]).find().origin
    assert cached(lab) == lab.mnist
    mirror.requests.clear()
    assert "cache" in finder(lab, mnist_mirrors=[mirror.address]).find().origin
    assert mirror.requests == []


def test_a_damaged_file_in_the_cache_is_fetched_again(lab: Lab, mirror: Mirror) -> None:
    mirror.serve(lab.mnist)
    finder(lab, mnist_mirrors=[mirror.address]).find()
    mirror.requests.clear()
    (lab.base / "cache" / "mnist" / IMAGES).write_text("x")
    dataset = finder(lab, mnist_mirrors=[mirror.address]).find()
    assert mirror.requests == [f"/mnist/{IMAGES}"]
    assert "truncated" in dataset.tried[0]["result"]
    assert cached(lab) == lab.mnist


def html(handler: Any) -> None:
    page = b"<html><body>Please accept our terms.</body></html>"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(page)))
    handler.end_headers()
    handler.wfile.write(page)


def truncated(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "2000")
    handler.end_headers()
    handler.wfile.write(b"x" * 100)


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 65536)
    except OSError:
        pass


def redirect(address: str) -> Any:
    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", address)
        handler.end_headers()

    return answer


def no_http(handler: Any) -> None:
    handler.wfile.write(b"\x00\x01 this is no answer\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "expected", "requests"),
    [
        (html, "got an HTML page, 50 bytes, instead of train-images-idx3-ubyte", 2),
        (truncated, "truncated: 100 of", 2),
        (endless, "too large", 2),
        (Lab.mnist[IMAGES][:-1].encode() + b"!", "right size, wrong content", 2),
        (b"", "truncated: 0 of", 2),
        (None, "the server answers 404", 1),
        (lambda handler: handler.send_error(503), "the server answers 503", 2),
        (redirect("ftp://127.0.0.1/x"), "redirects to ftp://", 1),
        (redirect("file:///etc/passwd"), "file:///etc/passwd' is not allowed", 1),
        (no_http, "no HTTP", 2),
    ],
    ids=["html", "truncated", "endless", "checksum", "empty", "404", "503", "redirect-ftp", "redirect-file", "garbage"],
)
def test_a_bad_mirror_is_described_and_the_next_one_used(
    lab: Lab, mirror: Mirror, answer: Any, expected: str, requests: int
) -> None:
    good = lab.directory / "good"
    good.mkdir()
    for name, text in lab.mnist.items():
        (good / name).write_text(text)
    mirror.answers[f"/mnist/{IMAGES}"] = answer
    dataset = finder(lab, mnist_mirrors=[mirror.address, f"file://{good}"]).find()
    assert dataset.tried[0]["source"] == mirror.address
    assert expected in dataset.tried[0]["result"]
    assert mirror.requests.count(f"/mnist/{IMAGES}") == requests
    assert cached(lab) == lab.mnist


def test_a_transfer_that_was_damaged_once_is_repeated(lab: Lab, mirror: Mirror) -> None:
    mirror.serve(lab.mnist)
    whole = mirror.answers[f"/mnist/{IMAGES}"]

    def first_time(handler: Any) -> None:
        mirror.answers[f"/mnist/{IMAGES}"] = whole
        truncated(handler)

    mirror.answers[f"/mnist/{IMAGES}"] = first_time
    dataset = finder(lab, mnist_mirrors=[mirror.address]).find()
    assert dataset.name == "mnist"
    assert "trying once more" in dataset.tried[0]["result"]


def test_a_mirror_without_answer_is_asked_once_for_all_files(lab: Lab) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        dataset = finder(lab, mnist_mirrors=[address], draw=drawing(lab)).find()
    assert dataset.name == "generated"
    assert [entry["source"] for entry in dataset.tried] == [address]
    assert "no answer" in dataset.tried[0]["result"]


def test_a_mirror_that_trickles_is_given_up(lab: Lab, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(400):  # far longer than the mirror is given, which is what the reason below shows
                handler.wfile.write(b"x")
                time.sleep(0.2)
        except OSError:
            pass

    monkeypatch.setattr(mnist_data, "SLOW_FACTOR", 1)
    mirror.answers[f"/mnist/{IMAGES}"] = trickle
    dataset = finder(lab, mnist_mirrors=[mirror.address], draw=drawing(lab)).find()
    assert dataset.name == "generated"
    assert "too slow" in dataset.tried[0]["result"]


def test_a_silent_mirror_times_out(lab: Lab, mirror: Mirror) -> None:
    mirror.answers[f"/mnist/{IMAGES}"] = lambda _: time.sleep(8)
    dataset = finder(lab, mnist_mirrors=[mirror.address], http_timeout=1, draw=drawing(lab)).find()
    assert dataset.name == "generated"
    assert "timed out" in dataset.tried[-1]["result"]


def test_passwords_of_mirrors_stay_out_of_the_verdict(lab: Lab) -> None:
    dataset = finder(lab, mnist_mirrors=["https://me:secret@127.0.0.1:1/"], draw=drawing(lab)).find()
    assert dataset.tried[0]["source"] == "https://127.0.0.1:1/"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_used_are_the_persons_to_repair(lab: Lab, content: str | None) -> None:
    bundle = lab.directory / "ca.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(mnist_data.DataError, match=str(bundle)) as error:
        finder(lab, mnist_ca_bundle=str(bundle), mnist_mirrors=["https://127.0.0.1:1/"], draw=drawing(lab)).find()
    assert error.value.reason_code == "CA_BUNDLE"


def test_plain_http_is_refused(lab: Lab, mirror: Mirror) -> None:
    mirror.serve(lab.mnist)
    dataset = finder(lab, plain_http=False, mnist_mirrors=[mirror.address], draw=drawing(lab)).find()
    assert dataset.name == "generated"
    assert "http:// is not accepted" in dataset.tried[0]["result"]
    assert mirror.requests == []


def test_a_full_disk_is_not_the_mirrors_fault(lab: Lab, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.serve(lab.mnist)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(mnist_data.DataError, match="No space left") as error:
        finder(lab, mnist_mirrors=[mirror.address], draw=drawing(lab)).find()
    assert error.value.reason_code == "DISK_FULL"
    assert cached(lab) == {}


def test_what_a_killed_run_left_is_removed(lab: Lab) -> None:
    cache = lab.base / "cache" / "mnist"
    cache.mkdir(parents=True)
    (cache / f"{IMAGES}.999.part").write_text("half")
    finder(lab, mnist_host_dir=str(lab.given)).find()
    assert cached(lab) == lab.mnist


# -- drawn digits ----------------------------------------------------------------------------------------------------


def test_drawn_digits_where_nothing_else_is(lab: Lab) -> None:
    dataset = finder(lab, draw=drawing(lab)).find()
    assert (dataset.name, dataset.origin) == ("generated", "drawn on this host")
    assert dataset.tried == [{"source": "mirrors", "result": "none is configured (validation_mnist_mirrors)"}]
    assert finder(lab, draw=lambda: (None, "not again")).find().origin == "drawn earlier on this host"


def test_drawn_digits_when_asked_for_come_before_everything(lab: Lab, mirror: Mirror) -> None:
    dataset = finder(
        lab, mnist_source="generated", mnist_mirrors=[mirror.address], mnist_host_dir=str(lab.given), draw=drawing(lab)
    ).find()
    assert (dataset.name, mirror.requests) == ("generated", [])


def test_mnist_when_asked_for_is_never_replaced(lab: Lab, mirror: Mirror) -> None:
    with pytest.raises(mnist_data.DataError, match="404") as error:
        finder(lab, mnist_source="mnist", mnist_mirrors=[mirror.address], draw=drawing(lab)).find()
    assert error.value.reason_code == "DATA_MISSING"


def test_digits_that_came_out_differently_are_refused(lab: Lab) -> None:
    wrong = {**lab.digits, "t10k-labels-idx1-ubyte": lab.digits["t10k-labels-idx1-ubyte"][:-1] + "!"}
    with pytest.raises(mnist_data.DataError, match="t10k-labels-idx1-ubyte differently"):
        finder(lab, draw=drawing(lab, wrong)).find()


def test_digits_that_nobody_can_draw(lab: Lab) -> None:
    with pytest.raises(mnist_data.DataError, match="nobody draws here"):
        finder(lab).find()


# -- the real files --------------------------------------------------------------------------------------------------


def real_mnist() -> Path | None:
    root = Path(__file__).resolve().parents[3]
    for path in (os.environ.get("GPULAB_TEST_MNIST_DIR"), root.parent / "shared" / "data" / "mnist"):
        if path and Path(path, IMAGES).exists():
            return Path(path)
    return None


@pytest.mark.skipif(real_mnist() is None, reason="the MNIST files are not here (GPULAB_TEST_MNIST_DIR)")
def test_the_table_knows_the_real_files() -> None:
    table = files.json.loads((Path(mnist_data.__file__).parent / "thresholds.json").read_text())
    for name, entry in table["datasets"]["mnist"]["files"].items():
        assert mnist_data.file_problem(str(real_mnist() / name), entry) is None  # type: ignore[operator]
