# SPDX-License-Identifier: Apache-2.0
"""What must be done to a host's CUDA toolkits and its cuDNN: the plan minus the facts, as steps that each say why."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from gpu_compat.installed import (
    FoundToolkit,
    cudnn_major,
    drift,
    found_toolkits,
    is_set_up,
    origin_of_package,
    packages_of,
    record,
    same_release,
    series_of_package,
)
from gpu_compat.versions import bare, branch_of, same_version

#: In the order in which they are taken.
STEPS = (
    "repository",
    "compiler",
    "packages",
    "archives",
    "runfile",
    "default",
    "environment",
    "hold",
    "verify",
)
CUDNN_STEPS = ("repository", "packages", "archives", "links", "hold", "verify")
#: Counts up when a step does more than before, so that hosts that were set up earlier take it again.
REVISION = 1
CUDNN_REVISION = 1
PACKAGED = ("nvidia_repo", "distro")
SOURCES = {
    "nvidia_repo": "NVIDIA's repository",
    "distro": "the distribution's archive",
    "redist": "NVIDIA's archives",
    "runfile": "a runfile",
    "existing": "somebody else",
    "other": "somebody else",
}
#: Variables that say what is planned, or are asked anew at each run: nothing that a host is set up with.
_CONSENT = (
    *("plan", "change", "versions", "version", "source", "components", "ca_bundle", "proxy", "redist_url", "runfile"),
    *("download_timeout", "install_timeout", "lock_timeout"),
)
#: What of a planned toolkit its settings are made of. What it is tried with, and where archives lie, is not.
_DIGESTED = ("version", "series", "source", "path", "default", "packages", "repository", "hold")
_CUDNN_DIGESTED = ("version", "cuda_major", "source", "packages", "repository", "hold", "toolkits")

Row = Mapping[str, Any]


def toolkit_change(
    planned: Mapping[str, Any], facts: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Compare the planned toolkits with what a host has; None where nothing is to be done.

    Args:
        planned: the value of ``plan`` in the answer of :func:`gpu_compat.plan`.
        facts: what the module ``gpu_facts`` returned; what is missing is not known, and needs no step.
        settings: the lab's variables ``cuda_toolkit_*``.
    """
    return ToolkitComparison(planned, facts, settings or {}).change() if planned.get("cuda_toolkits") else None


def cudnn_change(
    planned: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    toolkits: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Compare the planned cuDNN with what a host has; None where nothing is to be done.

    Args:
        planned, facts: as for :func:`toolkit_change`.
        settings: the lab's variables ``cudnn_*``.
        toolkits: what :func:`toolkit_change` returned: a new toolkit has no links yet.
    """
    return CudnnComparison(planned, facts, settings or {}, toolkits).change() if planned.get("cudnn") else None


def toolkit_digest(planned: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """Digest what toolkits are set up with: the plan, the lab's settings, and what this version does with them."""
    rows = []
    for row in planned["cuda_toolkits"]:
        # The system's own compiler needs no setting, be it there already or not.
        compiler = row["host_compiler"] and row["host_compiler"]["cxx"]
        rows.append({**{key: row[key] for key in _DIGESTED}, "cxx": compiler})
    return _digest({"revision": REVISION, "toolkits": rows, "settings": _kept(settings, "cuda_toolkit_")})


def cudnn_digest(planned: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> str:
    """Digest what cuDNN is set up with."""
    rows = [{key: row[key] for key in _CUDNN_DIGESTED} for row in planned["cudnn"]]
    return _digest({"revision": CUDNN_REVISION, "cudnn": rows, "settings": _kept(settings, "cudnn_")})


def _kept(settings: Mapping[str, Any] | None, prefix: str) -> dict[str, Any]:
    consent = tuple(f"{prefix}{name}" for name in _CONSENT)
    return {
        name: value
        for name, value in (settings or {}).items()
        if name.startswith(prefix) and not name.startswith(consent)
    }


def _digest(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class _Comparison:
    """What both comparisons ask of the facts."""

    role = ""

    def __init__(self, planned: Mapping[str, Any], facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.planned, self.facts, self.settings = planned, facts, settings
        self.digest = ""

    @cached_property
    def packages(self) -> Mapping[str, Row] | None:
        """The installed packages of CUDA."""
        return packages_of(self.facts)

    @property
    def _owns_packages(self) -> bool:
        """Whether packages are this run's business: without root they are the whole system's."""
        return self.facts.get("scope") != "user"

    @cached_property
    def stale(self) -> bool:
        """Whether it was set up by another plan, other settings or an older version of this project."""
        noted = record(self.facts, self.role)
        return bool(noted) and noted.get("digest") != self.digest

    @cached_property
    def changed_files(self) -> list[tuple[str, str]]:
        """The files of ours that other hands removed or changed, each with what happened to it."""
        return list(drift(self.facts, self.role))

    def _drift(self, repository: bool) -> list[str]:
        """Say what happened to files of the repository, or to all others."""
        return [text for path, text in self.changed_files if is_of_repository(path) == repository]

    def _outdated(self) -> list[str]:
        return ["plan or settings have changed since it was set up"] if self.stale else []

    def _installed(self, name: str) -> str | None:
        """Return the version of an installed package."""
        row = (self.packages or {}).get(name)
        return None if row is None else str(row.get("version") or "")

    def _lacking(self, entry: Row) -> list[str]:
        """Say which packages of an entry are not there in the version that is planned."""
        found = []
        for name in entry["packages"] if self.packages is not None else ():
            version, pattern = self._installed(name), entry["package_version"]
            if version is None:
                found.append(f"{name} is not installed")
            elif pattern and not fnmatchcase(version.rpartition(":")[2], pattern):
                found.append(f"{name} is {bare(version)}, and {entry['version']} is planned")
        return found

    def _unheld(self, entries: Iterable[Row]) -> list[str]:
        """Return the installed packages that an upgrade could replace."""
        patterns = [pattern for entry in entries for pattern in entry["hold"]]
        if not _is_on(self.settings, f"{self.role}_hold"):
            return []
        return sorted(
            name
            for name, row in (self.packages or {}).items()
            if row.get("held") is False and matches_any(name, patterns)
        )


class ToolkitComparison(_Comparison):
    """The planned toolkits beside the facts of one host."""

    role = "cuda_toolkit"

    def __init__(self, planned: Mapping[str, Any], facts: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        super().__init__(planned, facts, settings)
        self.toolkits: Sequence[Row] = planned["cuda_toolkits"]
        self.digest = toolkit_digest(planned, settings)

    def change(self) -> dict[str, Any] | None:
        """Return the change, None where no step is needed."""
        steps = _steps(self, STEPS)
        if not steps:
            return None
        return {
            "toolkits": [self._row(entry, why) for entry, why in self.wrong],
            "remove": self.remove,
            "unlink": self.unlink,
            "steps": steps,
            "hold": self.unheld,
            "digest": self.digest,
        }

    def _row(self, entry: Row, why: Sequence[str]) -> dict[str, Any]:
        found = self.found(entry)
        there = found if found and found.source != "other" else None
        return {
            "series": entry["series"],
            "version": entry["version"],
            "path": entry["path"],
            "source": entry["source"],
            "from": self._version(entry) if there else None,
            "from_source": there.source if there else None,
            "why": "; ".join(why),
        }

    # --- what the host has -----------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> list[FoundToolkit]:
        """The toolkits on disk."""
        return found_toolkits(self.facts)

    @cached_property
    def store(self) -> list[Row] | None:
        """What this project unpacked, None where that is not known."""
        rows = self.facts.get("toolkit_store")
        return None if rows is None else [row for row in rows if row.get("product") == "cuda"]

    def found(self, entry: Row) -> FoundToolkit | None:
        """Return the toolkit that is where one is planned."""
        return next((row for row in self.rows if row.path == entry["path"]), None)

    def _version(self, entry: Row) -> str | None:
        """Return the version of what is there; packages know it better than old toolkits themselves."""
        found = self.found(entry)
        name = entry["packages"][0] if entry["source"] == "nvidia_repo" else ""
        installed = self._installed(name)
        return bare(installed) if installed else found.version if found else None

    # --- what differs ----------------------------------------------------------------------------------------------

    @cached_property
    def wrong(self) -> list[tuple[Row, list[str]]]:
        """The planned toolkits that must be installed or replaced, and why."""
        return [(entry, why) for entry in self.toolkits if (why := self._why(entry))]

    def _why(self, entry: Row) -> list[str]:
        source, found = entry["source"], self.found(entry)
        if source == "existing" or self.facts.get("cuda") is None:
            return []
        if source in PACKAGED and self.packages is not None:
            found_elsewhere = found and found.source not in (None, source)
            return [*([self._other(found)] if found and found_elsewhere else []), *self._lacking(entry)]
        if found is None:
            return [f"there is no CUDA {entry['series']} in {entry['path']}"]
        if found.source not in (None, source):
            return [self._other(found)]
        if source == "redist":
            return self._why_unpack(entry, found)
        if not same_release(found.version, entry["version"]):
            return [f"CUDA {found.version or 'of an unknown version'} is in {found.path}"]
        return ["it has no nvcc"] if found.nvcc is False else []

    def _why_unpack(self, entry: Row, found: FoundToolkit) -> list[str]:
        row = next((row for row in self.store or () if row.get("path") in (found.real, found.path)), None)
        row = row or next((row for row in self.store or () if entry["path"] in (row.get("links") or ())), {})
        version, state = row.get("version") or found.version, row.get("state")
        if state == "half-made":
            return ["an earlier run was interrupted while unpacking it"]
        if not same_release(version, entry["version"]):
            return [f"CUDA {version or 'of an unknown version'} is in {found.path}"]
        if found.nvcc is False and "cuda_nvcc" in entry["redist"]["components"]:
            return ["its nvcc is gone"]
        if row.get("damaged"):
            return [_damage(row)]
        same = state is None or row.get("digest") in (None, entry["digest"])
        return [] if same else ["other components of it are planned"]

    @staticmethod
    def _other(found: FoundToolkit) -> str:
        origin = SOURCES.get(found.source or "", found.source)
        return f"CUDA {found.version or found.series} in {found.path} comes from {origin}"

    @cached_property
    def remove(self) -> list[str]:
        """Packages of the same series from another source; nothing else of the host."""
        if not self._owns_packages:
            return []
        found = []
        for entry, _ in self.wrong:
            others = (name for name in self.packages or () if origin_of_package(name) not in (None, entry["source"]))
            found += [name for name in others if self._is_of_series(name, entry["series"])]
        return sorted(dict.fromkeys(found))

    def _is_of_series(self, name: str, series: str) -> bool:
        """Tell whether a package is of the toolkit of a series, and of nothing else."""
        if is_of_cudnn(name) or _is_of_driver(name):
            return False
        if origin_of_package(name) == "distro":
            return any(row.source == "distro" and row.series == series for row in self.rows)
        return series_of_package(name) == series

    @cached_property
    def unlink(self) -> list[str]:
        """Links of ours that stand where packages or a runfile will put a directory."""
        return [
            entry["path"]
            for entry, _ in self.wrong
            if entry["source"] in ("nvidia_repo", "runfile")
            and (found := self.found(entry))
            and found.source == "redist"
        ]

    @cached_property
    def unheld(self) -> list[str]:
        """Installed packages that nothing keeps at their version."""
        return self._unheld(self.toolkits)

    @cached_property
    def lacking_compilers(self) -> list[str]:
        """Say which compilers are to be installed."""
        if str(self.settings.get("cuda_toolkit_host_compiler", "auto")) == "none":
            return []
        known = self.facts.get("compilers")
        found = []
        for entry in self.toolkits:
            wanted = entry["host_compiler"]
            if wanted and wanted["packages"] and isinstance(known, Mapping) and not _has_compiler(wanted, known):
                found.append(f"gcc {wanted['major']} for CUDA {entry['series']}: {wanted['why']}")
        return found

    # --- the steps, each with its reasons ----------------------------------------------------------------------------

    def _of(self, *sources: str) -> list[str]:
        return [f"CUDA {row['series']}: {'; '.join(why)}" for row, why in self.wrong if row["source"] in sources]

    def _repository(self) -> list[str]:
        needed = [row["series"] for row, _ in self.wrong if row["repository"]]
        here = [f"CUDA {', '.join(needed)} comes from a repository"] if needed else []
        wanted = any(row["repository"] for row in self.toolkits)
        return [*here, *([*self._outdated(), *self._drift(repository=True)] if wanted else [])]

    def _compiler(self) -> list[str]:
        return self.lacking_compilers

    def _packages(self) -> list[str]:
        removed = [f"to be removed: {names(self.remove)}"] if self.remove else []
        return [*self._of(*PACKAGED), *removed]

    def _archives(self) -> list[str]:
        return self._of("redist")

    def _runfile(self) -> list[str]:
        return self._of("runfile")

    def _default(self) -> list[str]:
        known = self.facts.get("cuda_default")
        entry = next((row for row in self.toolkits if row["default"]), None)
        if not isinstance(known, Mapping) or entry is None or leads_to(known, entry["path"], self.rows):
            return []
        if not known.get("exists") and not known.get("is_link"):
            return [f"there is no {known.get('link')}"]
        return [f"{known.get('link')} is not CUDA {entry['series']}"]

    def _environment(self) -> list[str]:
        first = ["this project has not set it up yet"] if is_set_up(self.facts, self.role) is False else []
        return [*first, *self._outdated(), *self._drift(repository=False), *self._lost_links()]

    def _lost_links(self) -> list[str]:
        """Say which links other than toolkits and the default are gone; those have steps of their own."""
        rows = (self.facts.get("records") or {}).get(self.role) or {}
        default = (self.facts.get("cuda_default") or {}).get("link")
        own = {default, *(entry["path"] for entry in self.toolkits)}
        noted = record(self.facts, self.role).get("links") or {}
        found = rows.get("links") or {}
        return [f"{path} is gone" for path in sorted(noted) if path not in own and path in found and not found[path]]

    def _hold(self) -> list[str]:
        if not _is_on(self.settings, "cuda_toolkit_hold"):
            return []
        new = [row["series"] for row, _ in self.wrong if row["hold"]]
        found = [f"CUDA {', '.join(new)} is to stay at its version"] if new else []
        return found + ([f"not held: {names(self.unheld)}"] if self.unheld else [])

    def _verify(self) -> list[str]:
        return ["what was changed must work"]


def _damage(row: Row) -> str:
    return f"files of it are gone or were changed: {', '.join(row['damaged'])}"


class CudnnComparison(_Comparison):
    """The planned cuDNN beside the facts of one host."""

    role = "cudnn"

    def __init__(
        self,
        planned: Mapping[str, Any],
        facts: Mapping[str, Any],
        settings: Mapping[str, Any],
        toolkits: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(planned, facts, settings)
        self.entries: Sequence[Row] = planned["cudnn"]
        self.digest = cudnn_digest(planned, settings)
        self.new_toolkits = {row["path"] for row in (toolkits or {}).get("toolkits") or ()}

    def change(self) -> dict[str, Any] | None:
        """Return the change, None where no step is needed."""
        steps = _steps(self, CUDNN_STEPS)
        if not steps:
            return None
        return {
            "entries": [self._row(entry, why) for entry, why in self.wrong],
            "links": self.unlinked,
            "unlink": self.stray,
            "remove": self.remove,
            "steps": steps,
            "hold": self.unheld,
            "digest": self.digest,
        }

    def _row(self, entry: Row, why: Sequence[str]) -> dict[str, Any]:
        return {
            "cuda_major": entry["cuda_major"],
            "version": entry["version"],
            "source": entry["source"],
            "from": self._there(entry),
            "why": "; ".join(why),
        }

    @cached_property
    def store(self) -> list[Row] | None:
        """The cuDNN that this project unpacked, None where that is not known."""
        rows = self.facts.get("toolkit_store")
        return None if rows is None else [row for row in rows if row.get("product") == "cudnn"]

    def _of_major(self, entry: Row) -> list[Row]:
        return [row for row in self.store or () if row.get("cuda_major") == entry["cuda_major"]]

    def _generation(self, entry: Row) -> Row | None:
        """Return the complete one that is as planned, linked ones first."""
        fits = [
            row
            for row in self._of_major(entry)
            if row.get("state") in ("complete", None)
            and row.get("version") == entry["version"]
            and row.get("digest") in (entry["digest"], None)
            and not row.get("damaged")
        ]
        return max(fits, key=lambda row: len(row.get("links") or ()), default=None)

    def _there(self, entry: Row) -> str | None:
        """Return the version that is there from the same source."""
        if entry["source"] == "redist":
            rows = [row for row in self._of_major(entry) if row.get("state") == "complete" and row.get("links")]
            return rows[-1].get("version") if rows else None
        version = self._installed(entry["packages"][0]) if entry["packages"] else None
        return bare(version) if version else None

    @cached_property
    def wrong(self) -> list[tuple[Row, list[str]]]:
        """What must be installed or replaced, and why."""
        return [(entry, why) for entry in self.entries if (why := self._why(entry))]

    def _why(self, entry: Row) -> list[str]:
        if entry["source"] != "redist":
            return self._lacking(entry)
        if self.store is None or self._generation(entry):
            return []
        damaged = next((row for row in self._of_major(entry) if row.get("links") and row.get("damaged")), None)
        if damaged:
            return [_damage(damaged)]
        there = self._there(entry)
        if there and not same_version(there, entry["version"]):
            return [f"cuDNN {there} for CUDA {entry['cuda_major']} is there"]
        return [f"cuDNN {entry['version']} for CUDA {entry['cuda_major']} is not there"]

    @cached_property
    def unlinked(self) -> list[str]:
        """The toolkits that lack links to the cuDNN planned beside them."""
        return [path for entry in self.entries for path in entry["toolkits"] if not self._is_linked(entry, path)]

    def _is_linked(self, entry: Row, path: str) -> bool:
        if path in self.new_toolkits:
            return False
        if self.store is None:
            return True
        row = self._generation(entry)
        if row is None:
            return False
        # Older facts list no links.
        here = [link for link in row.get("links", [path + "/"]) if link.startswith(f"{path}/")]
        noted = (record(self.facts, self.role).get("links") or {}).items()
        now = ((self.facts.get("records") or {}).get(self.role) or {}).get("links") or {}
        lost = [link for link, target in noted if link.startswith(f"{path}/") and now.get(link, target) != target]
        return bool(here) and not lost

    @cached_property
    def stray(self) -> list[str]:
        """Links of ours to a cuDNN that is planned from elsewhere now, or beside no toolkit of theirs."""
        planned = {path for entry in self.entries for path in entry["toolkits"]}
        return sorted(
            link
            for row in self.store or ()
            for link in row.get("links") or ()
            if not any(link.startswith(f"{path}/") for path in planned)
        )

    @cached_property
    def remove(self) -> list[str]:
        """Packages of the same cuDNN from another source, and those for another CUDA that a planned one excludes."""
        if not self._owns_packages:
            return []
        found = []
        for entry, _ in self.wrong:
            for name, row in (self.packages or {}).items():
                version = str(row.get("version") or "")
                if not is_of_cudnn(name) or not same_series(version, entry["version"]):
                    continue
                same = cudnn_major(name, version) in (None, str(entry["cuda_major"]))
                other_source = origin_of_package(name) != entry["source"]
                if (same and other_source) or (not same and entry["source"] == "nvidia_repo"):
                    found.append(name)
        return sorted(dict.fromkeys(found))

    @cached_property
    def unheld(self) -> list[str]:
        """Installed packages that nothing keeps at their version."""
        return self._unheld(self.entries)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _of(self, *sources: str) -> list[str]:
        return [text for row, why in self.wrong if row["source"] in sources for text in why]

    def _repository(self) -> list[str]:
        needed = [str(row["cuda_major"]) for row, _ in self.wrong if row["repository"]]
        here = [f"cuDNN for CUDA {', '.join(needed)} comes from a repository"] if needed else []
        wanted = any(row["repository"] for row in self.entries)
        return [*here, *([*self._outdated(), *self._drift(repository=True)] if wanted else [])]

    def _packages(self) -> list[str]:
        removed = [f"to be removed: {names(self.remove)}"] if self.remove else []
        return [*self._of(*PACKAGED), *removed]

    def _archives(self) -> list[str]:
        return self._of("redist")

    def _links(self) -> list[str]:
        found = [f"not linked into {names(self.unlinked)}"] if self.unlinked else []
        found += [f"linked where it is not planned: {names(self.stray)}"] if self.stray else []
        if not any(row["redist"] for row in self.entries):
            return found
        first = is_set_up(self.facts, self.role) is False
        found += ["this project has not written it down yet"] if first and not found else []
        return [*found, *self._outdated()]

    def _hold(self) -> list[str]:
        if not _is_on(self.settings, "cudnn_hold"):
            return []
        new = [str(row["cuda_major"]) for row, _ in self.wrong if row["hold"]]
        found = [f"cuDNN for CUDA {', '.join(new)} is to stay at its version"] if new else []
        return found + ([f"not held: {names(self.unheld)}"] if self.unheld else [])

    def _verify(self) -> list[str]:
        return ["what was changed must work"]


def _steps(comparison: ToolkitComparison | CudnnComparison, order: Iterable[str]) -> list[dict[str, str]]:
    """Return the steps that have a reason; to verify is one only after others."""
    steps = [
        {"step": step, "why": "; ".join(dict.fromkeys(reasons))}
        for step in order
        if (reasons := getattr(comparison, f"_{step}")())
    ]
    return [] if [row["step"] for row in steps] == ["verify"] else steps


def leads_to(default: Mapping[str, Any], path: str, rows: Iterable[FoundToolkit]) -> bool:
    """Tell whether the link of the default leads to a toolkit, by itself or by way of update-alternatives."""
    link, target = str(default.get("link")), default.get("target")
    if path == link:
        return bool(default.get("exists"))
    if target and posixpath.normpath(posixpath.join(posixpath.dirname(link), str(target))) == path:
        return True
    current = (default.get("alternative") or {}).get("current")
    if current and posixpath.normpath(str(current)) == path and str(target or "").endswith("/alternatives/cuda"):
        return True
    real = default.get("real")
    return real is not None and real in {path, *(row.real for row in rows if row.path == path)}


def is_of_repository(path: str) -> bool:
    """Tell whether a file of ours says where packages come from."""
    return any(part in path for part in ("/sources.list.d/", "/keyrings/", "/yum.repos.d/", "/etc/pki/"))


def is_of_cudnn(name: str) -> bool:
    """Tell whether a package is one of cuDNN's."""
    return name.startswith(("cudnn", "libcudnn", "nvidia-cudnn"))


def same_series(package_version: str, cudnn: str) -> bool:
    """Tell whether a package has the cuDNN that programs would mistake for another one: they ask by the major."""
    found = bare(package_version)
    return found[:1].isdigit() and branch_of(found) == branch_of(cudnn)


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a package, "libcublas-12-9" or "libcublas-12-9:arm64", is one of some; the driver's never are."""
    bare_name = name.partition(":")[0]
    return not _is_of_driver(bare_name) and any(fnmatchcase(bare_name, pattern) for pattern in patterns)


def _is_of_driver(name: str) -> bool:
    return name.startswith(("cuda-drivers", "cuda-compat"))


def _has_compiler(wanted: Row, known: Row) -> bool:
    if wanted["cxx"] is None:
        return bool(known.get("default")) and any(
            row.get("cxx") for row in known.get("gcc") or () if str(row.get("major")) == str(wanted["major"])
        )
    return any(row.get("cxx") == wanted["cxx"] for row in known.get("gcc") or ())


def _is_on(settings: Mapping[str, Any], name: str) -> bool:
    """Return a setting that is on where it is not given; on a command line everything is a word."""
    return str(settings.get(name, True)).lower() not in ("false", "no", "off", "0")


def names(every: Iterable[str], most: int = 5) -> str:
    """Name a few and count the rest."""
    listed = list(every)
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")
