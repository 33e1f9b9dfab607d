# SPDX-License-Identifier: Apache-2.0
"""Fetching from NVIDIA's redistributables, a mirror of them, or a directory. What comes is not trusted: addresses are
checked, redirects followed to secure places only, sizes bounded, and every file is held to the SHA-256 of its manifest.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import http.client
import os
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request

from ansible.module_utils.cuda_store import MIB, Failed, cache_path, explain

#: Bound on each wait for the server.
_PATIENCE = 60
#: Pauses between tries that brought nothing; one that brought something starts anew.
PAUSES = (1, 2, 4, 8)
_CHUNK = 1024 * 1024
#: Ansible hides a secret wherever its letters stand, so a short one would hide half of every answer.
SHORTEST_SECRET = 5
#: What a try must bring to count as progress.
_PROGRESS = 64 * 1024


class Broken(Exception):
    """A connection that may do better when tried again."""


def shown(address):
    """Return an address without user name and password."""
    return re.sub(r"(?<=://)\S*@", "", address)


def secrets_of(address):
    """Return what must not be shown of an address, as it is written and decoded: the password, or a lone user name,
    which is a token then."""
    found = re.match(r"[^/]*://(\S*)@", address)
    if not found:
        return set()
    name, colon, password = found.group(1).partition(":")
    secret = password if colon else name
    return {secret, urllib.parse.unquote(secret)} - {""}


def local_path(address):
    """Return the path that a plain path or a file:// address names; None for anything else."""
    if address.startswith("/"):
        return address
    if address.startswith("file:"):
        parts = urllib.parse.urlsplit(address)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise Failed(f"{address} names no file of this host: write file:///path/to/file, or the path alone")
        return urllib.parse.unquote(parts.path)
    return None


def check_address(address, insecure_http):
    """Refuse what is not https, a file, or http where that was allowed; return whether it is http."""
    if local_path(address) is not None:
        return False
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname or ""
        parts.port  # noqa: B018 - it complains here about a port that is none
    except ValueError:
        raise Failed(f"{shown(address)} is no address") from None
    if re.search(r"[\x00-\x20\x7f]", address) or not host:
        raise Failed(f"{shown(address) or 'an empty text'} is no address: write https://…, file:///… or /path/…")
    if parts.scheme == "https":
        return False
    if parts.scheme == "http":
        if insecure_http or host == "localhost" or host == "::1" or re.match(r"127(\.\d+){3}$", host):
            return True
        raise Failed(
            f"{shown(address)} is plain http, where anybody on the way can change what comes: use https, or a "
            "directory. For a mirror of your own set the option insecure_http"
        )
    raise Failed(f"{shown(address)} cannot be used: write https://…, file:///… or /path/…")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows only where we would have gone ourselves."""

    max_redirections = 5

    def __init__(self, insecure_http):
        self.insecure_http = insecure_http

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise Failed(
                f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not secure; it was not followed"
            )
        check_address(newurl, self.insecure_http)
        fp.close()  # else the page of the redirect would be read to its end, however long that takes
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Source:
    """How to reach servers: certificates, proxy, credentials."""

    def __init__(self, ca_bundle="", proxy="", insecure_http=False, credentials_from=""):
        self.insecure_http = insecure_http
        self.credentials_from = credentials_from
        self.ca_bundle = ca_bundle
        try:
            context = ssl.create_default_context(cafile=ca_bundle or None)
        except (OSError, ssl.SSLError) as error:
            raise Failed(f"the file of certificates {ca_bundle} cannot be used: {error}") from None
        self.opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else None),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            _Redirects(insecure_http),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
        ):
            self.opener.add_handler(handler)

    def open(self, address, start=0):
        """Open an http(s) address, from a byte on."""
        check_address(address, self.insecure_http)
        parts = urllib.parse.urlsplit(address)
        plain = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        request = urllib.request.Request(plain, headers={"User-Agent": "gpulab", "Accept-Encoding": "identity"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        credentials = self._credentials(address)
        if credentials:
            # Not for whoever the server redirects to.
            request.add_unredirected_header("Authorization", "Basic " + credentials)
        try:
            return self.opener.open(request, timeout=_PATIENCE)
        except Failed:
            raise
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 or error.code in (408, 425, 429) or error.code >= 500:
                    raise Broken(f"the server answers {error.code} {error.reason}") from None
                raise Failed(f"{shown(address)}: {_refusal(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise Failed(
                    f"{shown(address)}: its certificate is not trusted ({reason.verify_message}): name the file of "
                    "your CA in ca_bundle"
                ) from None
            raise Broken(why(reason)) from None

    def _credentials(self, address):
        for place in (address, self.credentials_from):
            parts = urllib.parse.urlsplit(place)
            if parts.username and _origin(place) == _origin(address):
                pair = "{}:{}".format(*(urllib.parse.unquote(word or "") for word in (parts.username, parts.password)))
                return base64.b64encode(pair.encode("utf-8")).decode("ascii")
        return None

    def read(self, address, limit):
        """Return a small file as a whole."""
        path = local_path(address)
        if path is not None:
            try:
                with open(path, "rb") as stream:
                    data = stream.read(limit + 1)
            except FileNotFoundError:
                raise Failed(f"{path} is not on this host") from None
            except OSError as error:
                raise Failed(f"{path} cannot be read: {error.strerror}") from None
        else:
            data = self._read_again(address, limit)
        if len(data) > limit:
            raise Failed(f"{shown(address)} is larger than {limit // MIB} MiB; that is no manifest")
        return data

    def _read_again(self, address, limit):
        for pause in (*PAUSES[:2], None):
            try:
                with self.open(address) as answer:
                    data = _body(answer, limit + 1)
                announced = answer.headers.get("Content-Length", "")
                if announced.isdigit() and len(data) < min(int(announced), limit + 1):
                    raise Broken(f"the connection ended after {len(data)} of {announced} bytes")
                return data
            except Broken as error:
                if pause is None:
                    raise Failed(f"{shown(address)} cannot be fetched: {error}") from None
                time.sleep(pause)
        return b""


def _body(answer, limit):
    data, deadline = b"", time.monotonic() + 2 * _PATIENCE
    try:
        while len(data) < limit:
            piece = answer.read1(min(_CHUNK, limit - len(data)))
            if not piece:
                break
            data += piece
            if time.monotonic() > deadline:
                raise Broken(f"only {len(data)} bytes came in {2 * _PATIENCE} s")
    except (OSError, http.client.HTTPException) as error:
        raise Broken(why(error)) from None
    return data


def _origin(address):
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.hostname, parts.port


def _refusal(error):
    return {
        401: "the server wants a user name and password (write them into the address), or refuses those it got",
        403: "the server refuses access",
        404: "the server has no such file",
        407: "the proxy wants a user name and password",
        410: "the server has no such file any more",
    }.get(error.code, f"the server answers {error.code} {error.reason}")


def why(error):
    """Say in words what broke a connection."""
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved (no network, or no DNS)"
    if isinstance(error, (socket.timeout, TimeoutError)):
        return f"no answer within {_PATIENCE} s"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead)):
        return "the connection was cut"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "it cannot be reached (no network)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error})"
    return str(error) or type(error).__name__


def cached(base_dir, archive):
    """Return the path of an archive in the cache."""
    return os.path.join(cache_path(base_dir), "{}-{}".format(archive["sha256"], archive["file"]))


def verified(path, archive):
    """Tell whether a file is just that archive."""
    try:
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()).st_size == archive["size"] and sha256_of(stream) == archive["sha256"]
    except FileNotFoundError:
        return False


def sha256_of(stream):
    """Return the SHA-256 of an open file."""
    digest = hashlib.sha256()
    for piece in iter(lambda: stream.read(_CHUNK), b""):
        digest.update(piece)
    return digest.hexdigest()


def bytes_there(base_dir, archive):
    """Return how much of a download an interrupted run left."""
    try:
        return min(os.stat(cached(base_dir, archive) + ".part").st_size, archive["size"])
    except OSError:
        return 0


class Download:
    """One archive on its way into the cache; an interrupted one goes on where it stopped."""

    def __init__(self, source, base_dir, archive, timeout):
        self.source, self.archive = source, archive
        self.path = cached(base_dir, archive)
        self.timeout = timeout
        self.deadline = time.monotonic() + timeout
        self.came = 0
        self.resumed = 0
        self.part = None

    def run(self):
        """Fetch, check, and put in place; return whether anything had to be done."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        descriptor = self._open_part()
        try:
            with os.fdopen(descriptor, "r+b", buffering=0) as self.part:
                if verified(self.path, self.archive):  # another run was faster
                    os.unlink(self.path + ".part")
                    return False
                self.resumed = min(os.fstat(self.part.fileno()).st_size, self.archive["size"])
                self._fill()
                self._check()
                os.fsync(self.part.fileno())
                os.chmod(self.path + ".part", 0o644)
                os.rename(self.path + ".part", self.path)
                return True
        except OSError as error:
            raise Failed(
                f"{self.archive['file']} could not be written: {explain(error)}. Whatever lies in "
                f"{os.path.dirname(self.path)} is safe to delete"
            ) from None

    def _open_part(self):
        """Open the part for us alone: two runs must not write into one file."""
        while True:
            descriptor = os.open(self.path + ".part", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path + ".part")):
                    return descriptor
            except BlockingIOError:
                if time.monotonic() > self.deadline:
                    os.close(descriptor)
                    raise Failed(f"another run downloads {self.archive['file']} and is not done") from None
                time.sleep(0.2)
            except FileNotFoundError:
                pass  # another run put it in place between our two steps
            os.close(descriptor)

    def _fill(self):
        path = local_path(self.archive["url"])
        if path is not None:
            self.resumed = 0
            self._restart()
            self._copy(path)
            return
        pauses = list(PAUSES)
        while True:
            before = self.came
            try:
                if self._fetch():
                    return
                problem = "the connection ended early"
            except Broken as error:
                problem = str(error)
            if self.came - before >= _PROGRESS:
                pauses = list(PAUSES)
            elif not pauses:
                self._give_up(problem)
            if time.monotonic() > self.deadline:
                self._give_up(f"it takes longer than {self.timeout} s")
            time.sleep(min(pauses.pop(0), max(0.0, self.deadline - time.monotonic())))

    def _give_up(self, problem):
        have = os.fstat(self.part.fileno()).st_size
        raise Failed(
            f"{shown(self.archive['url'])} cannot be fetched: {problem}. {have // MIB} of "
            f"{self.archive['size'] // MIB} MiB are here; the next run goes on from there"
        )

    def _copy(self, path):
        try:
            stream = open(path, "rb")  # noqa: SIM115 - it is closed below, and errors of writing are told otherwise
        except FileNotFoundError:
            raise Failed(f"{path} is not on this host; the manifest beside it names it") from None
        except OSError as error:
            raise Failed(f"{path} cannot be read: {error.strerror}") from None
        with stream:
            size = os.fstat(stream.fileno()).st_size
            if size != self.archive["size"]:
                self._wrong(f"{path} has {size} bytes, and its manifest says {self.archive['size']}")
            for piece in iter(lambda: stream.read(_CHUNK), b""):
                self._take(piece)

    def _fetch(self):
        """Ask once for what is missing; return whether everything is there."""
        start = os.fstat(self.part.fileno()).st_size
        size = self.archive["size"]
        if start == size:
            return True
        if start > size:
            start = self._restart()
        try:
            answer = self.source.open(self.archive["url"], start)
        except Broken as error:
            if " 416 " in f"{error} ":
                self._restart()
            raise
        with answer:
            if answer.status == 206 and start:
                found = re.match(r"bytes (\d+)-\d+/(\d+|\*)$", answer.headers.get("Content-Range", ""))
                if not found or int(found.group(1)) != start:
                    self._restart()
                    raise Broken("the server sent another part than it was asked for")
                total = int(found.group(2)) if found.group(2) != "*" else size
            else:
                start = self._restart() if start else 0
                self.resumed = 0
                announced = answer.headers.get("Content-Length", "")
                total = int(announced) if announced.isdigit() else size
            if total != size:
                kind = answer.headers.get("Content-Type", "")
                self._wrong(
                    f"{shown(self.archive['url'])} has {total} bytes{' of ' + kind if kind else ''}, and its manifest "
                    f"says {size}"
                )
            self.part.seek(start)
            self._receive(answer)
        return os.fstat(self.part.fileno()).st_size == size

    def _receive(self, answer):
        while True:
            try:
                piece = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Broken(why(error)) from None
            if not piece:
                return
            self._take(piece)
            if time.monotonic() > self.deadline:
                self._give_up(f"it takes longer than {self.timeout} s")

    def _take(self, piece):
        if self.part.tell() + len(piece) > self.archive["size"]:
            self._wrong(f"{shown(self.archive['url'])} is longer than the {self.archive['size']} bytes of its manifest")
        view = memoryview(piece)
        while view:
            view = view[self.part.write(view) :]
        self.came += len(piece)

    def _restart(self):
        self.part.seek(0)
        self.part.truncate()
        return 0

    def _wrong(self, words):
        """Leave nothing of what is not the archive."""
        os.unlink(self.path + ".part")
        raise Failed(f"{words}. It was not taken; if the mirror is being renewed, try again later")

    def _check(self):
        self.part.seek(0)
        found = sha256_of(self.part)
        if found == self.archive["sha256"]:
            return
        if self.resumed:
            # What an earlier run left may come from another file; that is not the server's fault.
            self.resumed = 0
            self._restart()
            self._fill()
            self._check()
            return
        self._wrong(
            f"{shown(self.archive['url'])} has the SHA-256 {found}, and its manifest expects {self.archive['sha256']}"
        )
