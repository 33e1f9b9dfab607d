# SPDX-License-Identifier: Apache-2.0
"""The file server of the driver's tests for large files: it answers to ranges, and fails as transfers of minutes do.

Runs in a container beside file_server.py, with the same arguments. Faults besides those of that program: "reset" (half
of it, and then the connection is torn down), "slow" (some MB in a second), "no-ranges" (ranges are not answered to).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import sys
import time
from pathlib import Path

from file_server import LOCK, PAGE, STATE, Handler, Server, fault_of

PIECE = 1 << 18
SLOW = 0.1  # seconds between two pieces


class ArchiveHandler(Handler):
    """Answers requests for files and for what is left of them."""

    def answer(self) -> None:
        fault = fault_of(self.path)
        file = Path(self.translate_path(self.path))
        status = int(fault) if fault and fault.isdigit() else 200 if file.is_file() else 404
        whole = file.stat().st_size if status == 200 else 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted and status == 200 and fault != "no-ranges" else 0
        last = min(int(wanted[2]), whole - 1) if wanted and wanted[2] else whole - 1
        if wanted and status == 200 and fault != "no-ranges":
            status = 206 if first < whole else 416
        self._note(status, fault, first, self.headers.get("Range"))
        if status not in (200, 206) or fault == "html":
            text = PAGE if fault == "html" else f"{status} {self.responses[status][0]}\n".encode()
            self.send_response(200 if fault == "html" else status)
            self.send_header("Content-Type", "text/html" if fault == "html" else "text/plain")
            self.send_header("Content-Length", str(len(text)))
            if status == 416:
                self.send_header("Content-Range", f"bytes */{whole}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        if fault != "no-ranges":
            self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        self.close_connection = fault in ("truncated", "stalled", "reset")
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(file, first, last + 1, fault)

    def _send(self, file: Path, first: int, end: int, fault: str | None) -> None:
        """Send a part of a file, as far as the fault lets it come."""
        middle = (first + end) // 2
        stop = middle if fault in ("truncated", "stalled", "reset") else end
        with file.open("rb") as stream:
            stream.seek(first)
            for start in range(first, stop, PIECE):
                data = stream.read(min(PIECE, stop - start))
                if fault == "corrupted" and start + len(data) > middle:
                    data = bytes(byte ^ 0x5A for byte in data)
                self.wfile.write(data)
                if fault == "slow":
                    time.sleep(SLOW)
        self.wfile.flush()
        if fault == "stalled":
            time.sleep(3600)
        if fault == "reset":
            # Without lingering, closing is a reset, which would take back what was not read yet.
            time.sleep(0.5)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _note(self, status: int, fault: str | None, first: int, wanted: str | None) -> None:
        """Write down what was asked for, and how it is answered."""
        entry = {
            "method": self.command,
            "path": self.path,
            "status": status,
            "fault": fault,
            "from": self.client_address[0],
            "range": wanted,
            "first": first,
        }
        with LOCK, (STATE / "requests.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    Server.context.load_cert_chain(STATE / "server.pem")
    Server(("", int(sys.argv[3])), ArchiveHandler).serve_forever()
