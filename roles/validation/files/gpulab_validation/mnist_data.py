# SPDX-License-Identifier: Apache-2.0
"""Find the data set: files given by the lab, the cache, mirrors, or digits drawn here.

Whatever the source, each file is used only when its size and SHA-256 are those of the table. What was tried, and why it
did not work, is kept in words for the verdict.
"""

from __future__ import annotations

import collections
import errno
import hashlib
import http.client
import os
import re
import socket
import ssl
import stat
import time
import urllib.error
import urllib.request

import files

#: A data set that is ready: ``name`` (mnist or generated), ``directory`` with its files, ``origin`` in words, and
#: ``tried``: a list of ``{"source", "result"}``.
DataSet = collections.namedtuple("DataSet", "name directory origin tried")
ATTEMPTS = 2
#: A mirror that keeps sending, but slowly, is given up after this many times the time-out for a silent one.
SLOW_FACTOR = 15


class DataError(Exception):
    """There is no usable data set. The message is for a person; ``tried`` lists the sources."""

    def __init__(self, reason_code, message, tried):
        super().__init__(message)
        self.reason_code, self.tried = reason_code, tried


class Unusable(Exception):
    """A file, or a mirror, cannot be used; the message says why. ``for_good``: trying again is pointless."""

    def __init__(self, message, for_good=False, whole_mirror=False):
        super().__init__(message)
        self.for_good, self.whole_mirror = for_good, whole_mirror


class Finder:
    """Finds the data set for one run.

    :param settings: the validator's settings
    :param datasets: the table's ``datasets``
    :param draw: function that draws the digits: ``draw() -> (directory, problem)``, ``problem`` empty when it worked
    :param allow_plain_http: let mirrors be http:// (for tests)
    """

    def __init__(self, settings, datasets, draw, allow_plain_http=False):
        self.settings, self.datasets, self.draw = settings, datasets, draw
        self.schemes = ("https", "file", "http") if allow_plain_http else ("https", "file")
        self.cache = os.path.join(settings["base_dir"], "cache", "mnist")
        self.tried = []

    def find(self):
        """Return a DataSet.

        :raises DataError: when nothing usable is there, or when what the lab gave explicitly is not usable
        """
        try:
            os.makedirs(self.cache, mode=0o755, exist_ok=True)
            self._clear_half_made(self.cache)
            if self.settings["mnist_source"] != "generated":
                origin = self._find_mnist()
                if origin:
                    return DataSet("mnist", self.cache, origin, self.tried)
                if self.settings["mnist_source"] == "mnist":
                    raise self._error(
                        "DATA_MISSING",
                        "MNIST was asked for (validation_mnist_source: mnist) and no source has it: %s. Put the four "
                        "files into a directory and name it in validation_mnist_dir." % self._tried_in_words(),
                    )
            return self._find_generated()
        except OSError as error:
            raise self._error(
                "DISK_FULL" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "DATA_UNWRITABLE",
                "the data set cannot be kept in %s: %s" % (self.cache, error.strerror or error),
            ) from error

    # -- MNIST ---------------------------------------------------------------------------------------------------

    def _find_mnist(self):
        """Bring all four files into the cache; return where they came from, or None when no source has them."""
        wanted = self.datasets["mnist"]["files"]
        if self.settings["mnist_host_dir"]:
            for name in wanted:
                self._take_given_file(name)
            return "files given by the lab (%s on this host)" % self.settings["mnist_host_dir"]
        missing = []
        for name, entry in wanted.items():
            path = os.path.join(self.cache, name)
            problem = file_problem(path, entry)
            if problem and os.path.lexists(path):
                self._note("cache", "%s: %s" % (path, problem))
                files.remove(path)
            if problem:
                missing.append(name)
        if self.settings["mnist_dir"]:
            if missing:
                raise self._error(
                    "DATA_CORRUPT",
                    "%s from %s on the control node did not arrive in %s"
                    % (" and ".join(missing), self.settings["mnist_dir"], self.cache),
                )
            return "files given by the lab (%s on the control node)" % self.settings["mnist_dir"]
        if not missing:
            return "cache (%s)" % self.cache
        return self._download(missing)

    def _take_given_file(self, name):
        """Copy one file from the lab's directory on this host; a bad one is the lab's to repair, never replaced."""
        source = os.path.join(self.settings["mnist_host_dir"], name)
        try:
            self._keep(source, os.path.join(self.cache, name), self.datasets["mnist"]["files"][name])
        except Unusable as reason:
            self._note(self.settings["mnist_host_dir"], "%s: %s" % (name, reason))
            raise self._error(
                "DATA_MISSING" if str(reason) == MISSING else "DATA_CORRUPT",
                "%s, given in validation_mnist_host_dir, cannot be used: %s. Replace the file, or leave "
                "validation_mnist_host_dir empty." % (source, reason),
            ) from reason

    @staticmethod
    def _keep(source, target, entry):
        """Take a file into the cache, exactly as it was when it was checked.

        :raises Unusable: when it is not the one in the table
        """
        content = read_checked(source, entry)
        if file_problem(target, entry):
            files.write_atomically(target, content)

    def _download(self, missing):
        """Fetch the missing files; return where they came from, or None when no mirror has them all."""
        try:
            opener = self._opener()
        except OSError as error:
            message = "validation_mnist_ca_bundle, %s, cannot be used: %s"
            words = message % (self.settings["mnist_ca_bundle"], error.strerror or error)
            raise self._error("CA_BUNDLE", words) from error
        used = []
        mirrors = list(self.settings["mnist_mirrors"])
        if not mirrors:
            self._note("mirrors", "none is configured (validation_mnist_mirrors)")
        for name in missing:
            for mirror in list(mirrors):
                try:
                    self._fetch(opener, mirror, name)
                except Unusable as reason:
                    self._note(mirror, "%s: %s" % (name, reason))
                    if reason.whole_mirror:
                        mirrors.remove(mirror)
                    continue
                used.append(mirror)
                break
            else:
                return None
        return "downloaded from %s" % re.sub(r"//[^/@]*@", "//", " and ".join(sorted(set(used))))

    def _fetch(self, opener, mirror, name):
        """Fetch one file from one mirror into the cache, with a second attempt when it arrived damaged.

        :raises Unusable: when the file cannot be had from there
        """
        entry = self.datasets["mnist"]["files"][name]
        url = mirror.rstrip("/") + "/" + name
        scheme = url.split(":", 1)[0]
        if scheme not in self.schemes:
            raise Unusable("%s:// is not accepted, write https:// or file://" % scheme, whole_mirror=True)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                content = self._receive(opener, url, entry["size"])
                check_content(content, name, entry)
            except Unusable as reason:
                if reason.for_good or attempt == ATTEMPTS:
                    raise
                self._note(mirror, "%s: %s; trying once more" % (name, reason))
            else:
                files.write_atomically(os.path.join(self.cache, name), content)
                return

    def _receive(self, opener, url, size):
        """Return what a URL answers, at most one byte more than expected.

        :raises Unusable: when there is no such answer
        """
        timeout = self.settings["http_timeout"]
        deadline = time.monotonic() + SLOW_FACTOR * timeout
        content = b""
        try:
            with opener.open(url, timeout=timeout) as answer:
                while len(content) <= size:
                    # read1 returns what is there; read would wait for all of it, however slowly it trickles in.
                    block = answer.read1(min(size + 1 - len(content), 1 << 20))
                    if not block:
                        break
                    content += block
                    if time.monotonic() > deadline:
                        words = "too slow: %s of %s bytes in %d seconds"
                        raise Unusable(
                            words % (commas(len(content)), commas(size), SLOW_FACTOR * timeout), for_good=True
                        )
        except urllib.error.HTTPError as error:
            words = "the server answers %d %s" % (error.code, error.reason)
            raise Unusable(words, for_good=error.code < 500) from error
        except http.client.HTTPException as error:
            raise Unusable("the answer breaks off or is no HTTP (%s)" % type(error).__name__) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, FileNotFoundError):
                raise Unusable(MISSING, for_good=True) from error
            raise Unusable("no answer: %s" % _network_words(error.reason), for_good=True, whole_mirror=True) from error
        except OSError as error:
            raise Unusable("the connection broke: %s" % _network_words(error)) from error
        return content

    def _opener(self):
        """Return an opener with the environment's proxies, our CA bundle, and no way from https to http."""
        schemes = self.schemes

        class Redirects(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, req, fp, code, msg, headers, newurl):
                if newurl.split(":", 1)[0] not in schemes:
                    raise Unusable("it redirects to %s, which is not accepted" % newurl, for_good=True)
                return super().redirect_request(req, fp, code, msg, headers, newurl)

        context = ssl.create_default_context(cafile=self.settings["mnist_ca_bundle"] or None)
        return urllib.request.build_opener(Redirects, urllib.request.HTTPSHandler(context=context))

    # -- drawn digits --------------------------------------------------------------------------------------------

    def _find_generated(self):
        """Return the generated set, from the cache or drawn now."""
        wanted = self.datasets["generated"]["files"]
        directory = os.path.join(self.cache, "generated")
        os.makedirs(directory, mode=0o755, exist_ok=True)
        self._clear_half_made(directory)
        if all(file_problem(os.path.join(directory, name), entry) is None for name, entry in wanted.items()):
            return DataSet("generated", directory, "drawn earlier on this host", self.tried)
        drawn, problem = self.draw()
        if problem:
            self._note("generate_digits.py", problem)
            raise self._error("DATA_MISSING", "no data set: %s" % self._tried_in_words())
        for name, entry in wanted.items():
            try:
                self._keep(os.path.join(drawn, name), os.path.join(directory, name), entry)
            except Unusable as reason:
                # Arithmetic on this host differs, or another program wrote there: either way nothing to build on.
                words = "generate_digits.py drew %s differently here: %s" % (name, reason)
                raise self._error("DATA_CORRUPT", words) from reason
        return DataSet("generated", directory, "drawn on this host", self.tried)

    # -- words ---------------------------------------------------------------------------------------------------

    def _note(self, source, result):
        """Keep what became of a source; a password in a mirror's address stays out of the verdict."""
        self.tried.append({"source": re.sub(r"//[^/@]*@", "//", source), "result": result})

    def _error(self, reason_code, message):
        return DataError(reason_code, message, self.tried)

    def _tried_in_words(self):
        return "; ".join("%(source)s: %(result)s" % entry for entry in self.tried) or "nothing was tried"

    @staticmethod
    def _clear_half_made(directory):
        """Remove what a killed run left; we hold the lock, so nobody is writing there."""
        for name in os.listdir(directory):
            if name.endswith(".part"):
                files.remove(os.path.join(directory, name))


MISSING = "there is no such file"


def read_checked(path, entry):
    """Read a file that must be the one in the table.

    :param entry: the table's ``{"size", "sha256"}``
    :returns: its content
    :raises Unusable: when it is another one, in words
    """
    try:
        # Whoever offers the file may not be us: never wait for a pipe, never read without end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Unusable("it is no plain file")
            content = stream.read(entry["size"] + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable(MISSING) from None
    except OSError as error:
        raise Unusable("it cannot be read: %s" % (error.strerror or error)) from error
    check_content(content, os.path.basename(path), entry)
    return content


def check_content(content, name, entry):
    """Compare content, cut off one byte after the expected size, with the table.

    :raises Unusable: when it is another one, in words
    """
    size = entry["size"]
    got = commas(len(content)) if len(content) <= size else "more than %s" % commas(size)
    if content[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise Unusable("got an HTML page, %s bytes, instead of %s (%s bytes)" % (got, name, commas(size)))
    if len(content) < size:
        raise Unusable("truncated: %s of %s bytes" % (got, commas(size)))
    if len(content) > size:
        raise Unusable("too large: %s bytes" % got)
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry["sha256"]:
        words = "right size, wrong content (SHA-256 %s… instead of %s…)"
        raise Unusable(words % (digest[:12], entry["sha256"][:12]))


def file_problem(path, entry):
    """Tell in words why a file is not the one in the table, or return None when it is."""
    try:
        read_checked(path, entry)
    except Unusable as reason:
        return str(reason)
    return None


def commas(number):
    """Write a number as 1,234,567."""
    return f"{number:,}"


def _network_words(reason):
    if isinstance(reason, socket.gaierror):
        return "the name cannot be resolved (no network, or no DNS)"
    if isinstance(reason, socket.timeout):
        return "timed out"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "its certificate is not trusted (%s); see validation_mnist_ca_bundle" % reason.verify_message
    return getattr(reason, "strerror", None) or str(reason)
