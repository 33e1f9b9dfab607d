# SPDX-License-Identifier: Apache-2.0
"""What a package index offers: listings by the simple API, and METADATA without downloading a wheel."""

from __future__ import annotations

import email
import hashlib
import json
import re
import struct
import urllib.parse
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from typing import Any

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from gpu_compat.refresh.web import Answer, Client, SourceError

JSON = "application/vnd.pypi.simple.v1+json"
#: The machine-readable form first; what knows no JSON answers with the page of links (PEP 503).
ACCEPT = f"{JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
#: A wheel is read from its end in blocks of this size; the first nearly always holds the entry of METADATA.
BLOCK = 128 * 1024
#: How far back METADATA is looked for: the directory of a wheel with 100 000 files is smaller.
DIRECTORY_LIMIT = 16 * 1024 * 1024

_CENTRAL = struct.Struct("<4s6xH2x2x4xII3H8xI")  # entry of a zip's central directory, up to its name
_LOCAL_HEADER = 30


@dataclass(frozen=True)
class Wheel:
    """One wheel of a listing.

    Attributes:
        date: day of its upload, ``YYYY-MM-DD``; empty where the index does not say.
        size: in bytes; 0 where the index does not say.
        metadata_sha256: None: no METADATA beside the wheel (PEP 658); empty: there is, without a checksum.
    """

    filename: str
    url: str
    version: Version
    build: tuple[int, str] | tuple[()]
    tags: frozenset[Tag]
    yanked: bool = False
    requires_python: str = ""
    date: str = ""
    size: int = 0
    metadata_sha256: str | None = None


class Index:
    """A package index."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._url = url

    def wheels(self, project: str) -> list[Wheel]:
        """Return every wheel of ``project`` that is no pre-release; source archives are left out."""
        answer = self._client.get(f"{self._url}/{canonicalize_name(project)}/", accept=ACCEPT)
        entries = _json_entries(answer) if "json" in answer.headers.get_content_type() else _html_entries(answer)
        found = [wheel for entry in entries if (wheel := _wheel(entry, answer.url))]
        return [wheel for wheel in found if not wheel.version.is_prerelease]

    def metadata(self, wheel: Wheel) -> Message:
        """Return a wheel's METADATA: the file beside it where the index offers one, else a part of the wheel."""
        text = self._beside(wheel) if wheel.metadata_sha256 is not None else None
        return email.message_from_string(text if text is not None else self._within(wheel))

    def _beside(self, wheel: Wheel) -> str | None:
        try:
            answer = self._client.get(f"{wheel.url}.metadata", limit=BLOCK * 16)
        except SourceError as error:
            if error.missing:
                return None  # promised in the listing, not kept: the wheel itself has it
            raise
        if wheel.metadata_sha256 and hashlib.sha256(answer.body).hexdigest() != wheel.metadata_sha256:
            raise SourceError(f"the metadata of {wheel.filename} does not have the checksum of the listing")
        return answer.text()

    def _within(self, wheel: Wheel) -> str:
        """Read METADATA out of a wheel by ranges, from the end of the file backwards."""
        tail, size = self._end(wheel)
        while (entry := _central_entry(tail)) is None:
            start = size - len(tail)
            if start <= 0 or len(tail) >= DIRECTORY_LIMIT:
                raise SourceError(f"{wheel.filename} has no METADATA where wheels have it")
            tail = self._part(wheel, max(0, start - BLOCK), start - 1) + tail
        method, packed, name_length, offset = entry
        # The local header may hold longer extra fields than the directory: their length is read with the content.
        last = min(size, offset + _LOCAL_HEADER + name_length + packed + 4096) - 1
        return _member(self._part(wheel, offset, last), method, packed, wheel.filename)

    def _end(self, wheel: Wheel) -> tuple[bytes, int]:
        """Return the last block of a wheel, and the wheel's size."""
        span = f"{max(0, wheel.size - BLOCK)}-{wheel.size - 1}" if wheel.size else f"-{BLOCK}"
        answer = self._ranged(wheel, span, BLOCK)
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return answer.body, int(total) if total.isdigit() else len(answer.body)

    def _part(self, wheel: Wheel, first: int, last: int) -> bytes:
        answer = self._ranged(wheel, f"{first}-{last}", last - first + 1)
        return answer.body if answer.status == 206 else answer.body[first : last + 1]

    def _ranged(self, wheel: Wheel, span: str, length: int) -> Answer:
        try:
            return self._client.get(wheel.url, span=span, limit=max(length, BLOCK))
        except SourceError as error:
            if "longer than" in str(error):
                raise SourceError(
                    f"it gives no parts of a file (HTTP range requests), and {wheel.filename} is not downloaded whole"
                ) from None
            raise


def _central_entry(tail: bytes) -> tuple[int, int, int, int] | None:
    """Find METADATA in (the end of) a zip's directory: compression, packed size, length of the name, offset."""
    at = tail.find(b"PK\x01\x02")
    while at >= 0 and at + 46 <= len(tail):
        _, method, packed, _, name_length, _, _, offset = _CENTRAL.unpack_from(tail, at)
        name = tail[at + 46 : at + 46 + name_length]
        if re.fullmatch(rb"[^/]+\.dist-info/METADATA", name):
            return method, packed, name_length, offset
        at = tail.find(b"PK\x01\x02", at + 4)
    return None


def _member(content: bytes, method: int, packed: int, filename: str) -> str:
    """Unpack one member of a zip from its local header on."""
    if content[:4] != b"PK\x03\x04" or method not in (0, 8):
        raise SourceError(f"{filename} cannot be read: it is no zip of the usual kind")
    name_length, extra_length = struct.unpack_from("<HH", content, 26)
    start = _LOCAL_HEADER + name_length + extra_length
    data = content[start : start + packed]
    try:
        unpacked = data if method == 0 else zlib.decompressobj(-15).decompress(data, BLOCK * 16)
    except zlib.error as error:
        raise SourceError(f"{filename} cannot be read: {error}") from error
    return unpacked.decode("utf-8", errors="replace")


def _json_entries(answer: Answer) -> list[dict[str, Any]]:
    try:
        files = json.loads(answer.body)["files"]
        return [entry for entry in files if isinstance(entry["filename"], str) and isinstance(entry["url"], str)]
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError("it answered with something that is no list of files") from error


class _Links(HTMLParser):
    """Collects the links of a page of the simple API, as entries of its JSON form."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag != "a" or not given.get("href"):
            return
        url = str(given["href"]).partition("#")[0]
        offered = given.get("data-core-metadata", given.get("data-dist-info-metadata"))
        algorithm, _, digest = (offered or "").partition("=")
        self.entries.append({
            "filename": urllib.parse.unquote(url.rstrip("/").rpartition("/")[2]),
            "url": url,
            "yanked": "data-yanked" in given,
            "requires-python": given.get("data-requires-python"),
            "core-metadata": ({algorithm: digest} if digest else True) if offered and offered != "false" else False,
        })  # fmt: skip


def _html_entries(answer: Answer) -> list[dict[str, Any]]:
    page = _Links()
    page.feed(answer.text())
    if not page.entries and "html" not in answer.headers.get_content_type():
        raise SourceError("it answered with something that is no list of files")
    return page.entries


def _wheel(entry: Mapping[str, Any], base: str) -> Wheel | None:
    """Return an entry of a listing as a wheel; None for anything else."""
    try:
        _, version, build, tags = parse_wheel_filename(entry["filename"])
    except (InvalidWheelFilename, InvalidVersion):
        return None
    offered = entry.get("core-metadata", entry.get("dist-info-metadata", False))
    checksum = str(offered.get("sha256", "")) if isinstance(offered, Mapping) else ""
    size = entry.get("size")
    return Wheel(
        filename=entry["filename"],
        url=urllib.parse.urljoin(base, entry["url"]),
        version=version,
        build=build,
        tags=tags,
        yanked=entry.get("yanked", False) is not False,
        requires_python=entry.get("requires-python") or "",
        date=str(entry.get("upload-time") or "")[:10],
        size=size if isinstance(size, int) else 0,
        metadata_sha256=checksum if offered else None,
    )


def links(answer: Answer) -> list[str]:
    """Return the names that a page of links (a listing of files) leads to."""
    return [entry["filename"] for entry in _html_entries(answer)]
