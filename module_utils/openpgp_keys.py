# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of OpenPGP public keys (RFC 4880, RFC 9580), for hosts without gpg."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct

_PUBLIC_KEY = 6


class NotAKeyError(ValueError):
    """The bytes are no OpenPGP public key; the message says why."""


def dearmor(data):
    """Return the binary form of a key that may be armored text; ``bytes`` -> ``bytes``."""
    if b"-----BEGIN PGP PUBLIC KEY BLOCK-----" not in data:
        return data
    blocks = re.findall(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END PGP PUBLIC KEY BLOCK-----", data, re.S)
    binary = b""
    for block in blocks:
        # Headers end with an empty line; the checksum begins with "=" and protects against accidents alone.
        body = re.split(rb"\r?\n[ \t]*\r?\n", block, maxsplit=1)[-1]
        lines = [line.strip() for line in body.splitlines()]
        try:
            binary += base64.b64decode(b"".join(line for line in lines if not re.match(rb"=[A-Za-z0-9+/]{4}$", line)))
        except (binascii.Error, ValueError) as error:
            raise NotAKeyError(f"its armor is damaged: {error}") from error
    return binary


def armor(binary):
    """Return a binary key as text with the checksum that older readers want; ``bytes`` -> ``bytes``."""
    text = base64.b64encode(binary)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    checksum = base64.b64encode(struct.pack(">I", _crc24(binary))[1:])
    head, tail = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"
    return b"\n".join([head, b"", *lines, b"=" + checksum, tail, b""])


def fingerprints_of(binary):
    """Return the fingerprints of the primary keys in a binary keyring: upper-case hexadecimal digits, 40 of a version 4
    key, 64 of a version 6 one.

    Raises:
        NotAKeyError: there is no public key in it.
    """
    found = []
    for tag, body in _packets(binary):
        if tag != _PUBLIC_KEY:
            continue
        version = body[:1]
        if version == b"\x04":
            digest = hashlib.sha1(b"\x99" + struct.pack(">H", len(body)) + body)
        elif version == b"\x06":
            digest = hashlib.sha256(b"\x9b" + struct.pack(">I", len(body)) + body)
        else:
            raise NotAKeyError("it is a key of a version that is not trusted any more")
        found.append(digest.hexdigest().upper())
    if not found:
        raise NotAKeyError("there is no public key in it")
    return found


def _packets(binary):
    """Yield tag and body of each packet."""
    at = 0
    while at < len(binary):
        head = binary[at]
        if not head & 0x80:
            raise NotAKeyError("it does not begin like one")
        at += 1
        if head & 0x40:  # the newer form of header
            tag, (length, at) = head & 0x3F, _new_length(binary, at)
        else:
            tag, (length, at) = (head >> 2) & 0x0F, _old_length(binary, at, head & 3)
        if at + length > len(binary):
            raise NotAKeyError("it is cut off")
        yield tag, binary[at : at + length]
        at += length


def _new_length(binary, at):
    try:
        first = binary[at]
        if first < 192:
            return first, at + 1
        if first < 224:
            return ((first - 192) << 8) + binary[at + 1] + 192, at + 2
        if first == 255:
            return struct.unpack(">I", binary[at + 1 : at + 5])[0], at + 5
    except (IndexError, struct.error):
        raise NotAKeyError("it is cut off") from None
    raise NotAKeyError("a packet of unknown length is in it")


def _old_length(binary, at, kind):
    if kind == 3:
        raise NotAKeyError("a packet of unknown length is in it")
    size = (1, 2, 4)[kind]
    if at + size > len(binary):
        raise NotAKeyError("it is cut off")
    return int.from_bytes(binary[at : at + size], "big"), at + size


def _crc24(data):
    """Return the checksum of armored text (RFC 4880, 6.1)."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc & 0xFFFFFF
