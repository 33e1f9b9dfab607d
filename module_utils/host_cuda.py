# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and cuDNN as they lie on disk."""

from __future__ import annotations

import json
import re

from ansible.module_utils.host_files import version_key
from ansible.module_utils.host_packages import owners

_CUDNN_LIBRARY = re.compile(r"libcudnn\.so\.(\d+\.\d+\.\d+)$")


def toolkits(files):
    """List CUDA toolkits, the newest first: path, version, default."""
    default = files.real("usr/local/cuda") if files.exists("usr/local/cuda") else None
    found = {}
    for name in files.names("usr/local", "cuda*"):
        path = files.real(f"usr/local/{name}")
        if name == "cuda" or name.startswith("cuda-"):
            version = _toolkit_version(files, path[1:])
            if version or files.exists(f"{path[1:]}/bin/nvcc"):
                found[path] = dict(path=path, version=version, default=path == default)
    rows = sorted(found.values(), key=lambda row: version_key(row["version"] or ""), reverse=True)
    if files.exists("usr/lib/cuda") or files.exists("usr/bin/nvcc"):  # the distribution's own
        path = "usr/lib/cuda" if files.exists("usr/lib/cuda") else "usr/bin/nvcc"
        real = files.real(path)
        if real not in found and not any(real.startswith(f"{row}/") for row in found):
            rows.append(dict(path="/" + path, version=_toolkit_version(files, path), default=False))
    return rows


def _toolkit_version(files, place):
    text = files.text(f"{place}/version.json")
    if text:
        try:
            return str(json.loads(text)["cuda"]["version"])
        except (ValueError, KeyError, TypeError):
            files.unknown[f"cuda./{place}"] = f"/{place}/version.json is not what NVIDIA writes"
    found = re.search(r"CUDA Version (\d+(?:\.\d+)+)", files.text(f"{place}/version.txt") or "")
    return found.group(1) if found else None


def cudnn(files, kind):
    """List cuDNN's headers and libraries: path, version, kind, package."""
    multiarch = files.names("usr/include", "*-linux-gnu")
    cuda = [name for name in files.names("usr/local", "cuda*") if name == "cuda" or name.startswith("cuda-")]
    rows = {}
    for place in [
        "usr/include",
        *(f"usr/include/{name}" for name in multiarch),
        *(f"usr/local/{name}/include" for name in cuda),
    ]:
        for name in [*files.names(place, "cudnn_version*.h"), *files.names(place, "cudnn.h")]:
            path = files.real(f"{place}/{name}")
            version = header_version(files.text(path[1:]) or "")
            if version and path not in rows:
                rows[path] = dict(path=path, version=version, kind="header", package=None)
    places = [f"usr/lib/{name}" for name in files.names("usr/lib", "*-linux-gnu")]
    places += ["usr/lib64", "usr/local/lib", *(f"usr/local/{name}/lib64" for name in cuda)]
    for place in places:
        for name in files.names(place, "libcudnn.so.*"):
            found = _CUDNN_LIBRARY.match(name)
            path = files.real(f"{place}/{name}")
            if found and files.exists(path[1:]):
                rows.setdefault(path, dict(path=path, version=found.group(1), kind="library", package=None))
    owned = owners(files, list(rows), kind)
    return [dict(rows[path], package=owned.get(path)) for path in sorted(rows)]


def header_version(text):
    """Return the version that cuDNN's header defines, None where it defines none."""
    numbers = [
        re.search(rf"(?m)^\s*#\s*define\s+CUDNN_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCHLEVEL")
    ]
    return ".".join(number.group(1) for number in numbers) if all(numbers) else None
