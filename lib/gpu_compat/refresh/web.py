# SPDX-License-Identifier: Apache-2.0
"""Asking servers over HTTP as this machine is configured to: its package index, CAs, proxy and credentials.

Which index is asked is the machine's own configuration, as for every other tool of this project. A source that does not
answer raises :class:`SourceError`, whose text tells a person why; credentials never get into a text.
"""

from __future__ import annotations

import base64
import configparser
import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

BODY_LIMIT = 128 * 1024 * 1024
#: Seconds without a byte, and seconds for a whole answer.
SILENCE = 20.0
PATIENCE = 180.0


class SourceError(Exception):
    """A source did not give what was asked for.

    Attributes:
        missing: it answered, but has no such thing; another question to the same source may do better.
    """

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(without_secrets(reason))
        self.missing = missing


def without_secrets(text: str) -> str:
    """Remove user names and passwords from every address in ``text``."""
    return re.sub(r"(?<=://)[^/\s'\"]*@", "", text)


@dataclass(frozen=True)
class Settings:
    """How this machine reaches package indexes.

    Attributes:
        index_url: the root of the simple API, without a trailing slash; may hold credentials.
        ca_bundle: file or directory of CAs to trust instead of the system's; empty: the system's.
        proxy: for all requests; empty: what the environment says.
    """

    index_url: str
    ca_bundle: str = ""
    proxy: str = ""


def settings(index_url: str, environ: Mapping[str, str], *, usual: bool = True) -> Settings:
    """Return the settings in force: the option, then pip's, then uv's, then (if ``usual``) what pip uses by itself."""
    found = pip_configuration(environ)
    address = index_url or found.get("index-url") or environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL")
    bundle = found.get("cert") or environ.get("REQUESTS_CA_BUNDLE") or environ.get("SSL_CERT_FILE", "")
    if not address and usual:
        address = usual_index()
    return Settings((address or "").rstrip("/"), bundle, found.get("proxy", ""))


def pip_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings: its files from system to user, then ``PIP_*`` variables; later ones win."""
    result: dict[str, str] = {}
    for path in _pip_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip leaves such a file out, too
        for section in ("global", "install"):
            if parser.has_section(section):
                result.update((key.replace("_", "-"), value) for key, value in parser.items(section))
    for key in ("index-url", "cert", "proxy"):
        if value := environ.get("PIP_" + key.upper().replace("-", "_")):
            result[key] = value
    return result


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    if environ.get("PIP_CONFIG_FILE") == os.devnull:
        return []  # pip's own way to say: no files
    home = Path(environ.get("HOME") or Path.home())
    systems = [Path(path) / "pip" for path in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if path]
    users = [home / ".pip", Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip"]
    if sys.platform == "darwin":
        systems.append(Path("/Library/Application Support/pip"))
        users.append(home / "Library" / "Application Support" / "pip")
    files = [folder / "pip.conf" for folder in (*systems, Path("/etc"), *users, Path(sys.prefix))]
    if environ.get("PIP_CONFIG_FILE"):
        files.append(Path(environ["PIP_CONFIG_FILE"]))
    return files


def usual_index() -> str:
    """Return the index that pip asks where nothing is configured; pip knows it, this project names no host."""
    question = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    for python in (sys.executable, "python3", "python"):
        try:
            answer = subprocess.run([python, "-c", question], capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    raise SourceError(
        "no package index is configured, and no Python with pip was found to ask for the usual one:"
        " give --index-url URL, or set PIP_INDEX_URL"
    )


@dataclass(frozen=True)
class Answer:
    """What a server answered. ``url`` is where it came from after redirections."""

    status: int
    headers: Message
    body: bytes
    url: str

    def text(self) -> str:
        return self.body.decode("utf-8", errors="replace")


class Client:
    """Asks for addresses over HTTP, with this machine's CAs, proxies and credentials."""

    def __init__(self, chosen: Settings) -> None:
        bundle = chosen.ca_bundle
        try:
            folder = os.path.isdir(bundle)
            context = ssl.create_default_context(
                cafile=None if folder else bundle or None, capath=bundle if folder else None
            )
        except (OSError, ssl.SSLError) as error:
            raise SourceError(f"the CA bundle {bundle} cannot be read ({error}); correct PIP_CERT, pip's 'cert',"
                              " REQUESTS_CA_BUNDLE or SSL_CERT_FILE") from error  # fmt: skip
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
        if chosen.proxy:
            handlers.append(urllib.request.ProxyHandler({"http": chosen.proxy, "https": chosen.proxy}))
        self._opener = urllib.request.build_opener(*handlers)
        self._logins: dict[str, str] = {}

    def get(self, url: str, *, accept: str = "*/*", span: str = "", limit: int = BODY_LIMIT) -> Answer:
        """Return the answer to GET; ``span`` is a value of the Range header. Raises SourceError.

        A body longer than ``limit`` is not read to its end: SourceError.
        """
        request = self._request(url)
        request.add_header("Accept", accept)
        request.add_header("Accept-Encoding", "identity")
        if span:
            request.add_header("Range", f"bytes={span}")
        try:
            with self._opener.open(request, timeout=SILENCE) as response:
                body = _body(response, limit)
                return Answer(response.status, response.headers, body, response.url)
        except urllib.error.HTTPError as error:
            error.close()
            raise SourceError(_status(error.code), missing=error.code in (404, 410, 416)) from None
        except (urllib.error.URLError, OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(_why(getattr(error, "reason", None) or error)) from None

    def _request(self, url: str) -> urllib.request.Request:
        """Credentials go into a header that a redirection to another host does not carry along."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceError(f"'{url}' is no address of the form https://host/path")
        user, _, host = parts.netloc.rpartition("@")
        if user:
            name, _, password = user.partition(":")
            login = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}"
            self._logins[host] = "Basic " + base64.b64encode(login.encode()).decode()
        path = urllib.parse.quote(parts.path, safe="/%+~@:!$&'()*,;=")
        request = urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, path, parts.query, "")))
        request.add_header("User-Agent", "gpulab-update")
        if host in self._logins:
            request.add_unredirected_header("Authorization", self._logins[host])
        return request


def _body(response: http.client.HTTPResponse, limit: int) -> bytes:
    """Read a body within bounds: neither its size nor its pace is the server's to choose."""
    deadline = time.monotonic() + PATIENCE
    chunks: list[bytes] = []
    size = 0
    while chunk := response.read(64 * 1024):
        size += len(chunk)
        if size > limit:
            raise SourceError(f"its answer is longer than the {limit} bytes asked for")
        if time.monotonic() > deadline:
            raise SourceError(f"it did not finish its answer within {PATIENCE:g} seconds")
        chunks.append(chunk)
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and size < int(announced):
        raise SourceError("the connection broke within its answer")
    return b"".join(chunks)


def _status(code: int) -> str:
    if code in (401, 403, 407):
        return f"access was denied (HTTP {code}): look at the credentials in the index address or proxy"
    return "it has no such page (HTTP %d)" % code if code in (404, 410) else f"it answered with an error (HTTP {code})"


def _why(error: object) -> str:
    """Say in one sentence what is wrong with a connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted: set PIP_CERT or SSL_CERT_FILE to your CA's file"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved (no network, or no DNS)"
    if isinstance(error, TimeoutError):
        return f"it gave no answer within {SILENCE:g} seconds"
    if isinstance(error, ConnectionRefusedError):
        return "it refused the connection"
    if isinstance(error, (ConnectionError, http.client.HTTPException)):
        return "the connection broke within its answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
