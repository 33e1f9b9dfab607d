# SPDX-License-Identifier: Apache-2.0
"""A small mirror of NVIDIA's archives, a server for it that can misbehave, and runs that are killed in the middle."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

PLATFORM = "linux-x86_64"

Member = tuple[tarfile.TarInfo, bytes]


def a_file(name: str, content: bytes = b"content", mode: int = 0o644) -> Member:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    return member, content


def a_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def a_thing(name: str, kind: bytes) -> Member:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, 0o755
    return member, b""


def pack(path: Path, members: list[Member], mode: str = "w:xz") -> bytes:
    """Write an archive of just these members and return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path.read_bytes()


class Mirror:
    """A directory with a manifest and archives."""

    def __init__(self, directory: Path, product: str, version: str) -> None:
        self.directory, self.product, self.version = directory, product, version
        self.label = ".".join(version.split(".")[:3])
        self.content: dict[str, Any] = {
            "release_date": "2026-01-02",
            "release_label": self.label,
            "release_product": product,
        }
        self.path = directory / f"redistrib_{self.label}.json"

    @classmethod
    def of_cuda(cls, directory: Path, version: str = "12.9.1", text: str = "old") -> Mirror:
        mirror = cls(directory, "cuda", version)
        mirror.add("cuda_nvcc", {"bin/nvcc": f"nvcc {text}", "include/shared.h": "shared", "LICENSE": "of nvcc"})
        mirror.add(
            "cuda_cudart",
            {"lib/libcudart.so.12.9.79": text, "include/shared.h": "shared", "LICENSE": "of cudart"},
            links={"lib/libcudart.so.12": "libcudart.so.12.9.79"},
        )
        return mirror

    @classmethod
    def of_cudnn(cls, directory: Path, version: str = "9.13.0.50", more: tuple[str, ...] = ()) -> Mirror:
        mirror = cls(directory, "cudnn", version)
        files = {"include/cudnn.h": version, "lib/libcudnn.so.9.13.0": version, "LICENSE": "x"}
        files.update(dict.fromkeys(more, version))
        mirror.add("cudnn", files, links={"lib/libcudnn.so.9": "libcudnn.so.9.13.0"}, version=version, variant="cuda12")
        return mirror

    def add(
        self,
        component: str,
        files: dict[str, str],
        links: dict[str, str] | None = None,
        version: str = "12.9.79",
        variant: str = "",
    ) -> None:
        top = f"{component}-{PLATFORM}-{version}-archive"
        members = [a_file(f"{top}/{name}", text.encode(), 0o755) for name, text in files.items()]
        members += [a_link(f"{top}/{name}", target) for name, target in (links or {}).items()]
        self.add_members(component, members, version, variant)

    def add_members(self, component: str, members: list[Member], version: str = "12.9.79", variant: str = "") -> None:
        relative = f"{component}/{PLATFORM}/{component}-{PLATFORM}-{version}-archive.tar.xz"
        data = pack(self.directory / relative, members)
        entry: Any = {
            "relative_path": relative,
            "sha256": hashlib.sha256(data).hexdigest(),
            "md5": hashlib.md5(data).hexdigest(),
            "size": str(len(data)),
        }
        self.content[component] = {
            "name": component.upper(),
            "license": "CUDA Toolkit",
            "license_path": f"{component}/LICENSE.txt",
            "version": version,
            PLATFORM: {variant: entry} if variant else entry,
        }
        self.save()

    def entry(self, component: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.content[component][PLATFORM]
        return entry

    def save(self) -> None:
        self.path.write_text(json.dumps(self.content))

    def components(self) -> list[str]:
        return sorted(name for name in self.content if not name.startswith("release"))


def options(base: Path, **given: Any) -> dict[str, Any]:
    """Return the module's options with their defaults."""
    return {
        "base_dir": str(base),
        "manifest": "",
        "product": "cuda",
        "version": "12.9.1",
        "platform": PLATFORM,
        "components": [],
        "variant": "",
        "cuda_major": None,
        "digest": "",
        "archive": None,
        "archives": [],
        "generation": None,
        "link": None,
        "target": None,
        "replace_foreign_link": False,
        "toolkits": [],
        "generations": [],
        "links": [],
        "keep_downloads": True,
        "ca_bundle": "",
        "proxy": "",
        "insecure_http": False,
        "free_factor": 4.0,
        "timeout": 30,
        **given,
    }


def look(module: ModuleType, base: Path, mirror: Mirror, **given: Any) -> dict[str, Any]:
    """Take the step that looks at everything in a mirror."""
    wanted = {
        "manifest": str(mirror.path),
        "product": mirror.product,
        "version": mirror.version,
        "components": mirror.components(),
        "variant": "cuda12" if mirror.product == "cudnn" else "",
    }
    answer: dict[str, Any] = module.look(options(base, **{**wanted, **given}), False)
    return answer


def install(module: ModuleType, base: Path, mirror: Mirror, digest: str = "d") -> str:
    """Look, fetch, and unpack; return the generation."""
    rows = look(module, base, mirror)["archives"]
    for row in rows:
        module.fetch(options(base, archive=row), False)
    given = {"product": mirror.product, "version": mirror.version, "cuda_major": 12, "digest": digest}
    generation: str = module.unpack(options(base, archives=rows, **given), False)["generation"]
    return generation


#: What leaves a trace on disk. A run is killed before each of them in turn.
_CALLS = ("open", "mkdir", "symlink", "rename", "unlink", "link", "rmdir", "chmod", "utime")


def killed_at(number: int, work: Callable[[], Any]) -> bool:
    """Do the work in a child that is killed before its n-th change of the disk; tell whether it came that far."""
    pid = os.fork()
    if pid == 0:
        try:
            _count_down(number)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def kill_points(work: Callable[[], Any], directory: Path) -> Iterator[int]:
    """Yield after each killed run, until one is not killed any more; each begins with the directory as it was."""
    kept = directory.with_name(directory.name + "-as-it-was")
    shutil.copytree(directory, kept, symlinks=True)
    number = 1
    while killed_at(number, work):
        yield number
        shutil.rmtree(directory)
        shutil.copytree(kept, directory, symlinks=True)
        number += 1
        assert number < 1000
    shutil.rmtree(kept)


def _count_down(number: int) -> None:
    left = [number]
    lock = threading.Lock()

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return call

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    copy = shutil.copyfileobj

    def half(source: Any, target: Any, length: int = 0) -> None:
        with lock:
            left[0] -= 1
            if left[0] == 0:
                target.write(source.read(1))
                target.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        copy(source, target, length)

    shutil.copyfileobj = half  # type: ignore[assignment]


class Server:
    """Serves a directory and knows Range. ``behave`` maps a path to what is done instead, once for each request."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.behave: dict[str, list[Callable[[Any], bool]]] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                outer.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
                waiting = outer.behave.get(path, [])
                if waiting and waiting.pop(0)(self):
                    return
                outer.send(self, outer.directory / path)

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # clients that go away are what these tests are about

        self.httpd = Quiet(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()

    @staticmethod
    def send(request: Any, path: Path, stop: int | None = None, lie: int = 0) -> None:
        """Send a file, or what is left of it; cut the connection after ``stop`` bytes, announce ``lie`` more."""
        if not path.is_file():
            request.send_error(404)
            return
        data = path.read_bytes()
        start = 0
        wanted = request.headers.get("Range")
        if wanted:
            start = int(wanted[len("bytes=") :].rstrip("-"))
            if start >= len(data):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data) + lie}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(data) - start + lie))
        request.end_headers()
        request.wfile.write(data[start:stop])
        if stop is not None:
            request.wfile.flush()
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()  # a reset, not an end
