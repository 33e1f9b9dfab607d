# SPDX-License-Identifier: Apache-2.0
"""How environments lie on a host. Read by the module gpu_facts, written by the module gpu_environment.

Below the base directory::

    envs/<name>                   symbolic link to the current generation, switched atomically
    generations/<name>-<time>/    one prefix (virtual or conda environment); never changed once it is complete
        environment.lock          every package with its exact version and hashes, pip's requirements format
        environment.json          the manifest, written last: a generation without it is half-made

A new plan makes a new generation beside the old one, so running jobs keep the files they started with.
"""

from __future__ import annotations

import glob
import json
import os
import re

MANIFEST = "environment.json"
LOCK = "environment.lock"
#: Packages that make an environment rather than being its content; managers bring them in or leave them out.
_BOOTSTRAP = frozenset(("pip", "setuptools", "wheel"))


def link_path(base_dir, name):
    """Return the path of the link that users know."""
    return os.path.join(base_dir, "envs", name)


def generations(base_dir, name):
    """Return all generations of one environment, oldest first."""
    pattern = re.compile(re.escape(name) + r"-\d{8}T\d{6}Z(-\d+)?$")
    try:
        entries = sorted(os.listdir(os.path.join(base_dir, "generations")))
    except OSError:
        return []
    return [os.path.join(base_dir, "generations", entry) for entry in entries if pattern.match(entry)]


def read_manifest(prefix):
    """Return the manifest of a generation, or None where it is missing or cannot be read: then it is half-made."""
    try:
        with open(os.path.join(prefix, MANIFEST), encoding="utf-8") as stream:
            manifest = json.load(stream)
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("state") == "complete" else None


def normalise(name):
    """Return a package's name as the packaging standards compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_packages(prefix):
    """Return ``{name: version}`` of what is installed below ``prefix``, read from directory names alone (fast)."""
    found = {}
    for pattern in ("lib/python3*/site-packages", "lib64/python3*/site-packages"):
        for directory in glob.glob(os.path.join(prefix, pattern)):
            for entry in os.listdir(directory):
                if entry.endswith(".dist-info") and "-" in entry:
                    name, version = entry[: -len(".dist-info")].rsplit("-", 1)
                    found[normalise(name)] = version
    return found


def compare_with_lock(prefix, manifest):
    """Return ``(drift, extra)``: locked packages that are missing or changed, and packages that are not in the lock."""
    locked = {normalise(package["name"]): package["version"] for package in manifest.get("packages", [])}
    installed = installed_packages(prefix)
    drift = []
    if not os.path.exists(os.path.join(prefix, "bin", "python")):
        drift.append("bin/python does not lead to an interpreter any more")
    for name, version in sorted(locked.items()):
        if name not in installed:
            drift.append(f"{name} {version} is missing")
        elif _plain(installed[name]) != _plain(version):
            drift.append(f"{name} is {installed[name]} instead of {version}")
    extra = sorted(name for name in installed if name not in locked and name not in _BOOTSTRAP)
    return drift, extra


def _plain(version):
    """Bring the spellings of one version together: directory names escape '+' and '-' and may drop zeros."""
    parts = re.split(r"[-_.+]", version.lower())
    while len(parts) > 1 and parts[-1] == "0":
        parts.pop()
    return parts


def free_bytes(path):
    """Return the bytes free for us on the file system of ``path`` or of its nearest existing parent."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def describe(base_dir, name):
    """Describe the environment ``name`` as gpu_facts reports it, or return None where there is nothing of it."""
    link = link_path(base_dir, name)
    made = generations(base_dir, name)
    half_made = [path for path in made if read_manifest(path) is None]
    answer = {"path": link, "generation": None, "state": "half-made", "digest": "", "drift": [], "extra": []}
    if os.path.islink(link):
        target = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
        if target not in made:
            return dict(answer, state="foreign") if os.path.exists(link) else answer
        manifest = read_manifest(target)
        if manifest is None:
            return answer
        drift, extra = compare_with_lock(target, manifest)
        return dict(
            answer,
            generation=target,
            state="complete",
            digest=manifest.get("digest", ""),
            lock_sha256=manifest.get("lock_sha256", ""),
            frameworks=manifest.get("frameworks", {}),
            keras_backend=manifest.get("keras_backend"),
            python=manifest.get("python"),
            drift=drift,
            extra=extra,
        )
    if os.path.lexists(link):
        return dict(answer, state="foreign")
    return answer if half_made else None


def describe_all(base_dir):
    """Describe every environment below ``base_dir``: ``{name: description}``."""
    names = set()
    for directory, cut in (("envs", False), ("generations", True)):
        try:
            entries = os.listdir(os.path.join(base_dir, directory))
        except OSError:
            continue
        names.update(re.sub(r"-\d{8}T\d{6}Z(-\d+)?$", "", entry) if cut else entry for entry in entries)
    described = {name: describe(base_dir, name) for name in sorted(names)}
    return {name: row for name, row in described.items() if row is not None}
