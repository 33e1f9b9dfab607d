#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""The key of a package repository, accepted by its fingerprint."""

from __future__ import annotations

DOCUMENTATION = r"""
module: repository_key
author: gpulab contributors
version_added: "0.1.0"
short_description: install the OpenPGP key of a package repository if its fingerprint is right
description:
  - Fetches a public key, or takes one that is handed over, and writes it where apt or dnf reads it.
  - A key with another fingerprint is refused, and the file on the host stays as it was. A file that holds the right key
    already is left alone, and nothing is fetched.
  - Needs no gpg on the host.
options:
  source:
    description: address of the key, https or file. One of O(source) and O(content) is needed.
    type: str
  content:
    description: the key itself, base64.
    type: str
  dest:
    description: where to write it.
    type: path
    required: true
  armored:
    description: write it as text, as dnf wants it; else binary, as apt takes it at any age.
    type: bool
    default: false
  fingerprints:
    description:
      - fingerprints of primary keys that are accepted, 40 hexadecimal digits. Every key in the file must be one
        of them.
    type: list
    elements: str
    required: true
  ca_bundle:
    description: file with the certificates to trust instead of the host's own.
    type: path
attributes:
  check_mode: {support: full, description: Fetches and checks the key and writes nothing.}
"""

EXAMPLES = r"""
- name: Install NVIDIA's key
  repository_key:
    source: https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/3bf863cc.pub
    dest: /etc/apt/keyrings/gpulab-nvidia.gpg
    fingerprints: [EB693B3035CD5710E231E123A4B469963BF863CC]
"""

RETURN = r"""
fingerprints:
  description: fingerprints of the keys in the file.
  returned: always
  type: list
  elements: str
"""

import base64
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.openpgp_keys import NotAKeyError, armor, dearmor, fingerprints_of
from ansible.module_utils.urls import open_url

#: A public key with its signatures has some thousand bytes; whatever is larger is no key.
LARGEST = 1024 * 1024


def main():
    module = AnsibleModule(
        argument_spec=dict(
            source=dict(type="str"),
            content=dict(type="str"),
            dest=dict(type="path", required=True),
            armored=dict(type="bool", default=False),
            fingerprints=dict(type="list", elements="str", required=True, no_log=False),
            ca_bundle=dict(type="path"),
        ),
        required_one_of=[["source", "content"]],
        mutually_exclusive=[["source", "content"]],
        supports_check_mode=True,
    )
    wanted = {fingerprint.replace(" ", "").upper() for fingerprint in module.params["fingerprints"]}
    dest = module.params["dest"]
    there = _accepted(_read(dest), wanted)
    if there and module.params["source"]:
        module.exit_json(changed=False, fingerprints=there)
    where = module.params["source"] or "the key that was handed over"
    data = _data(module, where)
    try:
        found = fingerprints_of(dearmor(data))
    except NotAKeyError as error:
        module.fail_json(msg=f"{where} is no OpenPGP public key ({error}); nothing was written")
    if not set(found) <= wanted:
        module.fail_json(
            msg=f"{where} has the fingerprint {', '.join(found)}, and {', '.join(sorted(wanted))} is expected. Nothing "
            "was written. If the repository has a new key, look its fingerprint up at a place you trust and set "
            "nvidia_driver_repository_fingerprints."
        )
    text = armor(dearmor(data)) if module.params["armored"] else dearmor(data)
    changed = _read(dest) != text
    if changed and not module.check_mode:
        _write(module, dest, text)
    module.exit_json(changed=changed, fingerprints=found)


def _data(module, where):
    if module.params["content"]:
        return base64.b64decode(module.params["content"])
    try:
        with open_url(where, ca_path=module.params["ca_bundle"], timeout=60) as answer:
            return answer.read(LARGEST)
    except Exception as error:  # urllib, ssl and http.client each have their own
        module.fail_json(msg=f"the key of the repository cannot be fetched from {where}: {error}")
    return b""


def _read(path):
    try:
        with open(path, "rb") as stream:
            return stream.read(LARGEST)
    except OSError:
        return b""


def _accepted(data, wanted):
    """Return the fingerprints of the keys in ``data`` where all are wanted, else an empty list."""
    try:
        found = fingerprints_of(dearmor(data))
    except NotAKeyError:
        return []
    return found if set(found) <= wanted else []


def _write(module, path, data):
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
    module.atomic_move(temporary, path)
    module.set_mode_if_different(path, "0644", False)


if __name__ == "__main__":
    main()
