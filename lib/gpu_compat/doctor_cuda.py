# SPDX-License-Identifier: Apache-2.0
"""What the doctor sees of CUDA toolkits, cuDNN, and of settings that let programs load the wrong ones."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from gpu_compat.cuda_change import CudnnComparison, ToolkitComparison, is_of_repository, names
from gpu_compat.findings import Finding
from gpu_compat.findings import finding as _finding
from gpu_compat.versions import begins_with, is_dotted

#: What stands in the name of every file of ours.
_OURS = "gpulab"


class Place:
    """Plan and facts of one host, as far as toolkits and cuDNN are concerned."""

    def __init__(
        self,
        planned: Mapping[str, Any] | None,
        facts: Mapping[str, Any],
        settings_by_role: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.planned: Mapping[str, Any] = planned or {}
        self.facts, self.settings = facts, settings_by_role
        self.loader: Mapping[str, Any] = facts.get("loader") or {}

    @cached_property
    def toolkits(self) -> ToolkitComparison | None:
        """The planned toolkits beside the facts, None where none are planned."""
        settings = self.settings.get("cuda_toolkit") or {}
        return ToolkitComparison(self.planned, self.facts, settings) if self.planned.get("cuda_toolkits") else None

    @cached_property
    def cudnn(self) -> CudnnComparison | None:
        """The planned cuDNN beside the facts, None where none is planned."""
        if not self.planned.get("cudnn"):
            return None
        toolkits = self.toolkits.change() if self.toolkits else None
        return CudnnComparison(self.planned, self.facts, self.settings.get("cudnn") or {}, toolkits)

    @property
    def is_dnf(self) -> bool:
        """Whether packages are Red Hat's."""
        return (self.facts.get("package_manager") or {}).get("kind") == "dnf"

    @property
    def with_cudnn_of_their_own(self) -> list[str]:
        """The planned environments whose wheels bring cuDNN."""
        return [
            environment["name"]
            for environment in self.planned.get("environments") or ()
            for row in environment["frameworks"].values()
            if row.get("cuda") and row.get("wheel") != "system"
        ]

    def is_planned_cudnn(self, version: Any) -> bool:
        """Tell whether a library is the cuDNN that is planned for the whole system."""
        return isinstance(version, str) and any(
            is_dotted(version) and begins_with(row["version"], version) for row in self.planned.get("cudnn") or ()
        )


def look(place: Place) -> Iterator[Finding]:
    """Yield everything that is wrong."""
    for one in _LOOKS:
        yield from one(place)


# --- what is planned -------------------------------------------------------------------------------------------------


def _toolkits(place: Place) -> Iterator[Finding]:
    """Toolkits that are missing, different, incomplete or not the default."""
    compared = place.toolkits
    if compared is None:
        return
    for entry, why in compared.wrong:
        there = compared.found(entry)
        what = f"CUDA {entry['version']} is planned from {entry['source']}: {'; '.join(why)}"
        yield _finding("toolkit_differs" if there else "toolkit_missing", "warning", what)
    wrong = [entry["series"] for entry, _ in compared.wrong]
    for entry in compared.toolkits:
        there = compared.found(entry)
        if there and there.nvcc is False and entry["series"] not in wrong and _has_compiler(entry):
            yield _incomplete(entry, place)
    default = compared._default()
    if default and not any(entry["default"] and entry["series"] in wrong for entry in compared.toolkits):
        yield _finding("toolkit_default", "warning", "; ".join(default))
    for text in compared.lacking_compilers:
        yield _finding("host_compiler_missing", "warning", text)


def _has_compiler(entry: Mapping[str, Any]) -> bool:
    return not entry["redist"] or "cuda_nvcc" in entry["redist"]["components"]


def _incomplete(entry: Mapping[str, Any], place: Place) -> Finding:
    what = f"CUDA {entry['version']} in {entry['path']} has no nvcc"
    if entry["source"] != "nvidia_repo":
        return _finding("toolkit_incomplete", "error", what, "Complete it from where it came", None)
    package = f"cuda-nvcc-{entry['series'].replace('.', '-')}"
    command = f"dnf reinstall {package}" if place.is_dnf else f"apt-get install --reinstall {package}"
    return _finding("toolkit_incomplete", "error", what, "Install the package with its compiler again", command)


def _cudnn(place: Place) -> Iterator[Finding]:
    """A cuDNN that is missing, different or not linked."""
    compared = place.cudnn
    if compared is None:
        return
    for entry, why in compared.wrong:
        what = f"cuDNN {entry['version']} for CUDA {entry['cuda_major']} is planned: {'; '.join(why)}"
        yield _finding("cudnn_missing", "warning", what)
    wrong = [path for entry, _ in compared.wrong for path in entry["toolkits"]]
    unlinked = [path for path in compared.unlinked if path not in wrong and path not in compared.new_toolkits]
    if unlinked:
        yield _finding("cudnn_missing_links", "warning", f"cuDNN is not linked into {names(unlinked)}")


def _held(place: Place) -> Iterator[Finding]:
    """Packages that an upgrade may replace."""
    for compared, of in ((place.toolkits, "a toolkit"), (place.cudnn, "cuDNN")):
        if compared and compared.unheld:
            what = f"an upgrade may replace part of {of}; not held: {names(compared.unheld)}"
            yield _finding("toolkit_not_held", "warning", what)


def _files(place: Place) -> Iterator[Finding]:
    """Files of ours that other hands have changed."""
    for compared in (place.toolkits, place.cudnn):
        for path, text in compared.changed_files if compared else ():
            name = "repository_changed" if is_of_repository(path) else "file_changed"
            yield _finding(name, "warning", text)


# --- settings that programs are led astray by ------------------------------------------------------------------------


def _stubs(place: Place) -> Iterator[Finding]:
    """Stubs are for linking: a program that loads one finds no GPU."""
    for row in place.loader.get("stubs") or ():
        what = (
            f"programs find a stub of libcuda.so, which drives no GPU, in {row.get('path')}; {row.get('file')} names it"
        )
        if row.get("via") == "library_path":
            yield _finding(
                "cuda_stub_in_loader", "error", what, f"Take it out of {row.get('file')}, and log in again", None
            )
        else:
            action = f"Take it out of {row.get('file')}, and let the loader read its settings again"
            yield _finding("cuda_stub_in_loader", "error", what, action, "ldconfig")


def _shadows(place: Place) -> Iterator[Finding]:
    """A cuDNN that programs load instead of the one that came with their wheels."""
    environments = place.with_cudnn_of_their_own
    if not environments:
        return
    of = f"environment{'s' if len(environments) > 1 else ''} {names(environments)}"
    told: set[tuple[str, str]] = set()
    for row in place.loader.get("cudnn") or ():
        file, directory = str(row.get("file")), posixpath.dirname(str(row.get("path")))
        if (file, directory) in told:
            continue
        found = f"cuDNN {row.get('version') or 'of an unknown version'} in {directory}, which {file} names"
        if row.get("via") == "library_path":
            told.add((file, directory))
            what = f"{of} would load {found} in LD_LIBRARY_PATH, and not the one of their wheels"
            if _OURS in posixpath.basename(file):
                action = "Write cuda_toolkit_library_path: false, and provision the host"
                yield _finding("cudnn_shadows_wheels", "error", what, action)
            else:
                action = f"Take the directory out of {file}, and log in again"
                yield _finding("cudnn_shadows_wheels", "error", what, action, f"grep -n LD_LIBRARY_PATH {file}")
        elif not place.is_planned_cudnn(row.get("version")) and _OURS not in posixpath.basename(file):
            told.add((file, directory))
            what = f"programs of {of} may load {found}, and not the one of their wheels"
            action = f"Take the directory out of {file} if nothing needs it, and let the loader read its settings again"
            yield _finding("cudnn_shadows_wheels", "warning", what, action, "ldconfig")


def _library_path(place: Place) -> Iterator[Finding]:
    """LD_LIBRARY_PATH for all users that leads into CUDA, from another hand."""
    loader = place.loader
    told = {
        (str(row.get("file")), posixpath.dirname(str(row.get("path"))) if key == "cudnn" else str(row.get("path")))
        for key in ("cudnn", "stubs")
        for row in loader.get(key) or ()
        if row.get("via") == "library_path" and (key == "stubs" or place.with_cudnn_of_their_own)
    }
    by_file: dict[str, list[str]] = {}
    for row in loader.get("library_path") or ():
        file, path = str(row.get("file")), str(row.get("path"))
        if _OURS not in posixpath.basename(file) and "cuda" in path and (file, path) not in told:
            by_file.setdefault(file, []).append(path)
    for file, paths in sorted(by_file.items()):
        what = f"{file} puts {names(paths)} into everybody's LD_LIBRARY_PATH, before what programs bring along"
        action = f"Take it out of {file}; the loader finds the default toolkit without it"
        yield _finding("foreign_library_path", "warning", what, action, f"grep -n LD_LIBRARY_PATH {file}")


_LOOKS: tuple[Callable[[Place], Iterable[Finding]], ...] = (
    _toolkits,
    _cudnn,
    _held,
    _files,
    _stubs,
    _shadows,
    _library_path,
)
