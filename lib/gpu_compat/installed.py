# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits, cuDNN and compilers that a host has, from the facts of the module ``gpu_facts``.

Facts may be older than a key, or unable to say; what is not known is left out here, and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpu_compat.versions import is_dotted, release_of, series_of

_SERIES = re.compile(r"cuda-(\d+\.\d+)")
#: The name of the package that keeps settings goes on behind the series.
_OF_SERIES = re.compile(r"-(\d+)-(\d+)(?:-config-common)?$")
_CUDNN_9 = re.compile(r"(?:lib)?cudnn9-.*cuda-(\d+)$")
_CUDNN_8 = re.compile(r"[+.]cuda(\d+)\.")


@dataclass(frozen=True)
class FoundToolkit:
    """A toolkit on disk.

    Attributes:
        path: as people use it.
        version: what it says of itself; None where it does not.
        series: "12.9".
        source: redist (ours), nvidia_repo, distro, runfile (ours), other (somebody's), None where that is not known.
        real: the path with every link followed.
        nvcc: whether its compiler is there; None where that is not known.
    """

    path: str
    version: str | None
    series: str | None
    source: str | None
    real: str | None = None
    nvcc: bool | None = None


@dataclass(frozen=True)
class Compilers:
    """The compilers of a host.

    Attributes:
        own: the major of its own gcc; None where there is none, or its version cannot be told.
        own_has_cxx: whether there is one, and as far as is known with C++.
        gcc: each gcc with C++: its major and the path of g++.
    """

    own: str | None = None
    own_has_cxx: bool = False
    gcc: tuple[tuple[str, str], ...] = ()


def found_toolkits(facts: Mapping[str, Any]) -> list[FoundToolkit]:
    """Return the toolkits on disk."""
    packages = facts.get("cuda_packages")
    noted = record(facts, "cuda_toolkit").get("toolkits")
    by_runfile = {
        row.get("path")
        for row in (noted.values() if isinstance(noted, Mapping) else ())
        if isinstance(row, Mapping) and row.get("source") == "runfile"
    }
    found = []
    for row in facts.get("cuda") or ():
        path, version = str(row.get("path") or ""), row.get("version")
        version = version if isinstance(version, str) and is_dotted(version) else None
        named = _SERIES.search(path)
        series = series_of(version) if version else named.group(1) if named else None
        source = _source(row, series, packages, path in by_runfile)
        found.append(FoundToolkit(path, version, series, source, row.get("real"), row.get("nvcc")))
    return found


def _source(row: Mapping[str, Any], series: str | None, packages: Any, by_runfile: bool) -> str | None:
    if row.get("ours"):
        return "redist"
    if "package" not in row or packages is None:
        return None
    package = row["package"]
    if package is None and row.get("nvcc") is False and series in {series_of_package(name) for name in packages}:
        return "nvidia_repo"  # a part of it, without the compiler
    if package is None:
        return "runfile" if by_runfile else "other"
    return origin_of_package(package) or "other"


def origin_of_package(name: str) -> str | None:
    """Tell whose package of CUDA a name is: NVIDIA's or the distribution's."""
    if name.startswith(("nvidia-cuda-", "nvidia-cudnn", "nvidia-profiler", "nvidia-visual-profiler")):
        return "distro"
    if name.startswith(("cuda-", "cudnn", "libcudnn")) or series_of_package(name):
        return "nvidia_repo"
    return None


def series_of_package(name: str) -> str | None:
    """Return the series that a package of NVIDIA's is of: "12.9" of cuda-nvcc-12-9."""
    found = _OF_SERIES.search(name.partition(":")[0])
    return f"{found.group(1)}.{found.group(2)}" if found else None


def packages_of(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]] | None:
    """Return the installed packages of CUDA, None where they are not known."""
    rows = facts.get("cuda_packages")
    return dict(rows) if isinstance(rows, Mapping) else None


def kept_toolkits(facts: Mapping[str, Any]) -> tuple[tuple[str, str, str | None, str | None], ...]:
    """Return what of the toolkits decides a plan: series and source, of others' toolkits version and path as well.

    Without root the packages of the system are somebody else's.
    """
    user = facts.get("scope") == "user"
    kept: set[tuple[str, str, str | None, str | None]] = set()
    for toolkit in found_toolkits(facts):
        source = toolkit.source
        if source is None or toolkit.series is None:
            continue
        if user and source != "redist":
            source = "other"
        if source == "other":
            # What does not say its release, or cannot compile, is nobody's choice; but it is there, and in the way.
            usable = toolkit.nvcc is not False
            kept.add((toolkit.series, source, toolkit.version if usable else None, toolkit.path))
        else:
            kept.add((toolkit.series, source, None, None))
    return tuple(sorted(kept, key=repr))


def kept_cudnn(facts: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the CUDA majors that a system-wide cuDNN is there for, with its source."""
    if facts.get("scope") == "user":
        return ()
    found = {
        (str(row["cuda_major"]), "redist")
        for row in facts.get("toolkit_store") or ()
        if row.get("product") == "cudnn"
        and row.get("cuda_major")
        and row.get("state") == "complete"
        and row.get("links", True)
    }
    for name, row in (packages_of(facts) or {}).items():
        major = cudnn_major(name, row.get("version"))
        if major:
            found.add((major, origin_of_package(name) or "nvidia_repo"))
    return tuple(sorted(found))


def cudnn_major(package: str, version: Any) -> str | None:
    """Return the CUDA major that a package of cuDNN is for, None where it is none of cuDNN's or does not say."""
    bare = package.partition(":")[0]
    named = _CUDNN_9.match(bare)
    if named:
        return named.group(1)
    if bare.startswith(("libcudnn8", "libcudnn7", "nvidia-cudnn")):
        said = re.search(r"cuda(\d+)", str(version or "")) if bare == "nvidia-cudnn" else _CUDNN_8.search(str(version))
        return said.group(1) if said else None
    return None


def kept_compilers(facts: Mapping[str, Any]) -> Compilers | None:
    """Return the compilers, None where they are not known."""
    rows = facts.get("compilers")
    if not isinstance(rows, Mapping):
        return None
    gcc = [row for row in rows.get("gcc") or () if _is_major(row.get("major"))]
    with_cxx = {str(row["major"]): str(row["cxx"]) for row in gcc if row.get("cxx")}
    own = rows.get("default")
    major = str(own["major"]) if own and _is_major(own.get("major")) else None
    listed = any(str(row["major"]) == major for row in gcc)
    has_cxx = bool(own) and (not listed or major in with_cxx)
    return Compilers(major, has_cxx, tuple(sorted(with_cxx.items())))


def _is_major(value: Any) -> bool:
    return str(value or "").isdecimal()


def record(facts: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    """Return what a role wrote down when it set a host up, empty where it has not or that is not known."""
    noted = ((facts.get("records") or {}).get(role) or {}).get("noted")
    return noted if isinstance(noted, Mapping) else {}


def is_set_up(facts: Mapping[str, Any], role: str) -> bool | None:
    """Tell whether a role has set a host up before; None where the facts cannot say."""
    known = (facts.get("records") or {}).get(role)
    return bool(known.get("noted")) if isinstance(known, Mapping) and "noted" in known else None


#: The parts of this project that keep a record of the files that they wrote.
PARTS = ("driver", "cuda_toolkit", "cudnn")


def drift(facts: Mapping[str, Any], part: str) -> Iterable[tuple[str, str]]:
    """Yield the files that a part of this project wrote and other hands removed or changed, each with what happened to
    it. Parts share the files of a repository, so what another part wrote is no change by hand."""
    written, others = _written(facts, part), [_written(facts, name) for name in PARTS if name != part]
    for path, checksum in sorted(_now(facts, part).items()):
        expected = written.get(path)
        if checksum is None:
            yield path, f"{path} is gone"
        elif expected is not None and checksum not in (expected, *(files.get(path) for files in others)):
            yield path, f"{path} was changed by hand"


def _written(facts: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Return the checksums of the files as a part wrote them."""
    noted = facts.get("state") if part == "driver" else record(facts, part)
    files = noted.get("files") if isinstance(noted, Mapping) else None
    return files if isinstance(files, Mapping) else {}


def _now(facts: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Return the checksums of those files as they are, None for one that is missing."""
    found = facts.get("managed") if part == "driver" else ((facts.get("records") or {}).get(part) or {}).get("found")
    return found or {}


def same_release(found: str | None, wanted: str) -> bool:
    """Tell whether a toolkit on disk is a release. Older ones name their day instead of a patch level: then the series
    must do."""
    if found is None:
        return False
    release = release_of(found)
    return release == release_of(wanted) if release else series_of(found) == series_of(wanted)
