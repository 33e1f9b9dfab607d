# SPDX-License-Identifier: Apache-2.0
"""Small helpers for files: atomic writes, digests, run ids."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import stat
import time

#: A job's result is a few kilobytes; whatever is larger was not written by a job of ours.
RESULT_LIMIT = 1 << 20
#: A verdict of a host with many GPUs and environments has some hundred checks.
DOCUMENT_LIMIT = 1 << 25


def write_atomically(path, content, mode=0o644):
    """Write bytes so that a reader, or a power cut, sees the old file or the new one and nothing between.

    :raises OSError: when it cannot be written; then nothing is left behind and the old file is untouched
    """
    temporary = "%s.%d.part" % (path, os.getpid())
    try:
        with open(temporary, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def to_json(value, indent=None):
    """Turn a value into JSON text that every reader accepts: NaN and infinities become the words for them."""
    return json.dumps(_finite(value), indent=indent, sort_keys=False, allow_nan=False, ensure_ascii=True)


def _finite(value):
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def remove(path):
    """Remove a file that may not be there."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def read_foreign_json(path, limit=RESULT_LIMIT):
    """Read a JSON object that another user wrote.

    :param limit: bytes that it may have
    :returns: the object, or None when there is no such file
    :raises ValueError: when it is not a plain file of reasonable size with one JSON object in it
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError("cannot be read: %s" % error.strerror) from error
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise ValueError("is not a plain file of at most %d bytes" % limit)
        content = stream.read(limit)
    answer = json.loads(content.decode("utf-8", "replace"))
    if not isinstance(answer, dict):
        raise ValueError("does not hold a JSON object")
    return answer


def sha256_file(path):
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value):
    """Return the SHA-256 of a value's JSON form; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def programs_sha256(directory):
    """Return one SHA-256 over the names and contents of all programs and tables below ``directory``."""
    sums = []
    for folder, _, names in sorted(os.walk(directory)):
        for name in sorted(names):
            if name.endswith((".py", ".json")):
                path = os.path.join(folder, name)
                sums.append((os.path.relpath(path, directory), sha256_file(path)))
    return sha256_json(sums)


def new_run_id():
    """Return a ULID: 26 characters that sort by time."""
    number = int(time.time() * 1000) << 80 | random.SystemRandom().getrandbits(80)
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    return "".join(letters[number >> shift & 31] for shift in range(125, -1, -5))


def now():
    """Return the time in UTC as RFC 3339 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
