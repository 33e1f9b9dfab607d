# SPDX-License-Identifier: Apache-2.0
"""A package index on loopback that offers made-up wheels, and remembers how it was asked."""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import re
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def wheel(metadata: str, *, entries: int = 0, padding: int = 0, early: bool = False) -> bytes:
    """Return a wheel with this METADATA, ``entries`` more files in its directory and ``padding`` random bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        if early:
            archive.writestr("made_up-1.dist-info/METADATA", metadata)
        archive.writestr("made_up/library.so", os.urandom(padding))
        for number in range(entries):
            archive.writestr(f"made_up/{'x' * 60}/{number}.h", "")
        archive.writestr("made_up/vendored-1.dist-info/METADATA", "Requires-Dist: nothing-of-interest==1\n")
        if not early:
            archive.writestr("made_up-1.dist-info/METADATA", metadata)
    return buffer.getvalue()


def metadata(*requirements: str) -> str:
    """Return METADATA that asks for these."""
    return (
        "Metadata-Version: 2.1\nName: made-up\n"
        + "".join(f"Requires-Dist: {line}\n" for line in requirements)
        + "\nText\n"
    )


@dataclass
class File:
    """One file that the index offers. ``beside``: METADATA as a file of its own (None: not offered)."""

    name: str
    content: bytes = b""
    date: str = "2026-11-20"
    yanked: bool | str = False
    requires_python: str | None = None
    beside: str | None = None
    promised: bool = False
    checksum: str = ""
    host: str = ""


@dataclass
class StandIn:
    """What the index has and how it behaves; ``asked`` are the paths and ranges of every request."""

    projects: dict[str, list[File]] = field(default_factory=dict)
    pages: dict[str, bytes] = field(default_factory=dict)
    html: bool = False
    ranges: bool = True
    login: str = ""
    status: dict[str, int] = field(default_factory=dict)
    silent: bool = False
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def add(self, project: str, *names: str, **options: Any) -> None:
        self.projects.setdefault(project, []).extend(File(name, **options) for name in names)

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: StandIn
    patience: threading.Event

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        site = self.site
        site.asked.append((self.path, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        if site.silent:
            self.patience.wait(10)
            self.close_connection = True
            return None
        if site.login and self.headers.get("Authorization") != site.login:
            return self.give(401, b"")
        for part, status in site.status.items():
            if part in self.path:
                return self.give(status, b"")
        return self.find()

    def find(self) -> None:
        site = self.site
        if self.path in site.pages:
            return self.give(200, site.pages[self.path], "text/html")
        if match := re.fullmatch(r"/simple/([^/]+)/", self.path):
            if match[1] in site.projects:
                return self.listing(match[1], site.projects[match[1]])
        elif match := re.fullmatch(r"/files/(.+?)(\.metadata)?", self.path):
            for file in (file for files in site.projects.values() for file in files):
                if file.name == match[1] and match[2] and file.beside is not None:
                    return self.give(200, file.beside.encode())
                if file.name == match[1] and not match[2]:
                    return self.part(file.content)
        return self.give(404, b"")

    def listing(self, project: str, files: list[File]) -> None:
        if self.site.html:
            return self.give(200, page(files), "text/html; charset=utf-8")
        content = {
            "meta": {"api-version": "1.1"},
            "name": project,
            "files": [entry(file, self.site.url) for file in files],
        }
        return self.give(200, json.dumps(content).encode(), "application/vnd.pypi.simple.v1+json")

    def part(self, content: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not match or not self.site.ranges:
            return self.give(200, content)
        first = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
        last = int(match[2]) if match[1] and match[2] else len(content) - 1
        body = content[first : last + 1]
        return self.give(206, body, extra={"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(content)}"})

    def give(
        self, status: int, body: bytes, kind: str = "application/octet-stream", extra: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
            self.site.sent += len(body)
        except OSError:
            self.close_connection = True  # the client had seen enough


def entry(file: File, url: str) -> dict[str, Any]:
    """Return a file as an entry of a listing."""
    offered: Any = file.beside is not None or file.promised
    if offered and file.beside is not None:
        offered = {"sha256": file.checksum or hashlib.sha256(file.beside.encode()).hexdigest()}
    return {
        "filename": file.name,
        "url": f"{file.host or url}/files/{file.name}",
        "upload-time": f"{file.date}T10:00:00Z",
        "yanked": file.yanked,
        "requires-python": file.requires_python,
        "size": len(file.content),
        "hashes": {},
        "core-metadata": offered,
    }


def page(files: list[File]) -> bytes:
    """Return a listing as PEP 503 has it."""
    lines = []
    for file in files:
        marks = f' data-requires-python="{html.escape(file.requires_python)}"' if file.requires_python else ""
        marks += ' data-yanked=""' if file.yanked else ""
        lines.append(f'<a href="../../files/{file.name}#sha256=0"{marks}>{file.name}</a><br>')
    return f"<!DOCTYPE html><html><body>{''.join(lines)}</body></html>".encode()


class Server:
    """Serves a :class:`StandIn` while in use."""

    def __init__(self, site: StandIn) -> None:
        self._patience = threading.Event()
        handler = type("Handler", (_Handler,), {"site": site, "patience": self._patience})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        site.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
