# SPDX-License-Identifier: Apache-2.0
"""A file server over TLS with faults on request; a program that runs in a container of its own.

    file_server.py ROOT STATE PORT

STATE holds the certificate (server.pem), gets the log of requests (requests.jsonl), and may hold faults.json: a list of
{"path": regular expression, "fault": "404", "times": 2}; without `times` a fault stays.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT, STATE = Path(sys.argv[1]), Path(sys.argv[2])
PAGE = (
    b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please sign in to use this network.</body></html>\n"
)
LOCK = threading.Lock()


def fault_of(path: str) -> str | None:
    """Return the fault that a request meets, and count it."""
    with LOCK:
        file = STATE / "faults.json"
        try:
            faults = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        for fault in faults:
            if re.search(fault["path"], path) and fault.get("times", 1) > 0:
                if "times" in fault:
                    fault["times"] -= 1
                    file.write_text(json.dumps(faults))
                return str(fault["fault"])
    return None


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers requests for files, or as it is told to."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, directory=str(ROOT), **rest)

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Answer a request, and write down which and how."""
        fault = fault_of(self.path)
        file = Path(self.translate_path(self.path))
        status, data = 200, b""
        if fault and fault.isdigit():
            status = int(fault)
        elif not file.is_file():
            status = 404
        else:
            data = PAGE if fault == "html" else file.read_bytes()
        if status != 200:
            data = f"{status} {self.responses[status][0]}\n".encode()
        whole = len(data)
        if fault == "truncated":
            data = data[: whole // 2]
        if fault == "corrupted":
            data = data[: whole // 2] + bytes(byte ^ 0x5A for byte in data[whole // 2 :])
        entry = {
            "method": self.command,
            "path": self.path,
            "status": status,
            "fault": fault,
            "from": self.client_address[0],
        }
        with LOCK, (STATE / "requests.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if data == PAGE else "application/octet-stream")
        self.send_header("Content-Length", str(whole))
        if status == 200:
            self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        self.close_connection = fault in ("truncated", "stalled")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "stalled":
            self.wfile.write(data[: whole // 2])
            self.wfile.flush()
            time.sleep(3600)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Leave the terminal alone: what there is to say is in the log of requests."""


class Server(http.server.ThreadingHTTPServer):
    """Shakes hands in the connection's own thread, so that a client that does not cannot stop the others."""

    daemon_threads = True
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS with one client; one that does not trust the certificate hangs up."""
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError),
            self.context.wrap_socket(request, server_side=True) as it,
        ):
            super().finish_request(it, client_address)


if __name__ == "__main__":
    Server.context.load_cert_chain(STATE / "server.pem")
    Server(("", int(sys.argv[3])), Handler).serve_forever()
