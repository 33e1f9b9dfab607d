# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's list of redistributable archives, redistrib_<version>.json: read, checked, reduced to what is asked for."""

from __future__ import annotations

import json
import os
import re
import urllib.parse

from ansible.module_utils.cuda_store import MIB, Failed
from ansible.module_utils.redist_source import local_path, shown

LIMIT = 16 * MIB
#: Larger than any archive there is; a manifest that says more is wrong.
_LARGEST = 64 * 1024 * MIB
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*$")
_SHA256 = re.compile(r"[0-9a-f]{64}$")


def parse(data, where):
    """Return the manifest in ``data``; ``where`` is its address, for messages."""
    where = shown(where)
    if data.lstrip()[:1] == b"<":
        raise Failed(f"{where} is a web page and no manifest: a proxy or a log-in page may have answered instead")
    try:
        manifest = json.loads(data.decode("utf-8"))
    except ValueError:
        raise Failed(f"{where} is no manifest of NVIDIA's, or only part of one ({len(data)} bytes came)") from None
    if not isinstance(manifest, dict):
        raise Failed(f"{where} is no manifest of NVIDIA's: a JSON object is expected")
    return manifest


def check_release(manifest, product, version, where):
    """Refuse the manifest of another release; return its label."""
    label, found = manifest.get("release_label"), manifest.get("release_product")
    if label is None and os.path.basename(urllib.parse.urlsplit(where).path) == f"redistrib_{_label(version)}.json":
        label = _label(version)  # the first manifests named their release in the file's name only
    if found is not None and found != product:
        raise Failed(f"{shown(where)} is the manifest of {found!r}, and {product!r} is asked for")
    if label != _label(version):
        raise Failed(f"{shown(where)} is the manifest of release {label}, and {_label(version)} is asked for")
    return label


def _label(version):
    """cuDNN's releases are named by three parts, its archives by four."""
    return ".".join(version.split(".")[:3])


def archives(manifest, where, product, version, platform, components, variant):
    """Return the rows of the archives asked for, sorted by component."""
    known = sorted(
        name for name, row in manifest.items() if isinstance(row, dict) and isinstance(row.get(platform), dict)
    )
    if not known:
        entries = [item for row in manifest.values() if isinstance(row, dict) for item in row.items()]
        platforms = {key for key, entry in entries if isinstance(entry, dict)}
        raise Failed(f"{shown(where)} has nothing for {platform!r}; it has {', '.join(sorted(platforms)) or 'nothing'}")
    unknown = sorted(set(components) - set(known))
    if unknown:
        raise Failed(f"{shown(where)} has no component {', '.join(unknown)} for {platform}; it has {', '.join(known)}")
    rows = []
    for component in sorted(set(components)):
        entry = _entry(manifest[component], component, platform, variant, where)
        rows.append(_row(component, manifest[component], entry, where))
    for row in rows:
        if product == "cudnn" and row["component"] == "cudnn" and version.count(".") > 2 and row["version"] != version:
            raise Failed(f"{shown(where)} has cuDNN {row['version']}, and {version} is asked for")
    return rows


def _entry(row, component, platform, variant, where):
    entry = row[platform]
    if "relative_path" in entry:
        return entry
    variants = sorted(name for name, value in entry.items() if isinstance(value, dict))
    if variant not in variants:
        raise Failed(
            f"{shown(where)} has {component} for {platform} in the variants {', '.join(variants) or 'none'}, and "
            f"{variant or 'none'} is asked for"
        )
    return entry[variant]


def _row(component, row, entry, where):
    place = f"{shown(where)}, component {component}"
    path, digest, size = entry.get("relative_path"), entry.get("sha256"), entry.get("size")
    if not isinstance(path, str) or not all(_NAME.match(word) for word in path.split("/")):
        raise Failed(f"{place}: relative_path is {path!r}; a plain path below the manifest's directory is expected")
    if not isinstance(digest, str) or not _SHA256.match(digest):
        raise Failed(f"{place}: sha256 is {digest!r}; without 64 hexadecimal digits nothing can be checked")
    if isinstance(size, bool) or not re.match(r"[1-9]\d{0,14}$", str(size)) or int(size) > _LARGEST:
        raise Failed(f"{place}: size is {size!r}; a number of bytes is expected")
    if not isinstance(row.get("version"), str) or not _NAME.match(component):
        raise Failed(f"{place}: it has no version, or a name that is none")
    return dict(
        component=component,
        title=str(row.get("name") or component),
        license=str(row.get("license") or ""),
        version=row["version"],
        file=path.rpartition("/")[2],
        url=_address(where, path),
        sha256=digest,
        size=int(size),
    )


def _address(where, path):
    """Return where an archive lies; a directory may hold all of them beside the manifest, without subdirectories."""
    local = local_path(where)
    if local is not None:
        directory = os.path.dirname(local)
        flat = os.path.join(directory, path.rpartition("/")[2])
        full = os.path.join(directory, path)
        return flat if os.path.exists(flat) and not os.path.exists(full) else full
    parts = urllib.parse.urlsplit(shown(where))
    directory = parts.path.rpartition("/")[0]
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, f"{directory}/{urllib.parse.quote(path)}", "", ""))
