# SPDX-License-Identifier: Apache-2.0
"""Asking sources and comparing what they say with rows: what :mod:`gpu_compat.refresh.upstream` stands on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.version import Version

from gpu_compat.data_schema import ROWS
from gpu_compat.errors import Mistake
from gpu_compat.refresh.index_releases import Release, releases, requirements, series
from gpu_compat.refresh.package_index import Index, links
from gpu_compat.refresh.web import Client, SourceError
from gpu_compat.tables import Row, row_key

#: Sources by the names that `--offline-source` takes, and what they are called in what people read.
SOURCES = {
    "index": "the package index",
    "nvidia-cuda": "NVIDIA's archive of CUDA toolkits",
    "nvidia-cudnn": "NVIDIA's archive of cuDNN",
    "nvidia-driver": "NVIDIA's archive of drivers",
    "pytorch": "PyTorch's own wheel index",
}
NVIDIA = "https://developer.download.nvidia.com/compute"
PYTORCH = "https://download.pytorch.org/whl"
#: A row that names this source has had its METADATA read.
METADATA = "wheel metadata of {}=={}"
#: The order of a new field in an existing row; what is not named here is a person's and keeps its place.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "cudnn.releases": ("package", "version", "cuda_major", "date", "arches", "yanked", "capability_min", "source"),
    "pytorch.releases": (
        "version", "date", "python", "yanked", "glibc", "default_cuda", "aarch64_default", "cudnn", "triton", "tags",
        "source",
    ),
    "tensorflow.releases": (
        "version", "date", "python", "yanked", "glibc", "cuda", "built_with_cudnn", "driver_min", "sm", "ptx", "cudnn",
        "bundled", "keras", "source",
    ),
    "jax.releases": (
        "version", "date", "python", "yanked", "plugins", "sm_cuda12", "ptx_cuda12", "sm_cuda13", "ptx_cuda13",
        "cudnn_cuda12", "cudnn_cuda13", "source",
    ),
    "keras.releases": ("version", "date", "requires_python", "yanked", "source"),
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One row that is not as its source says.

    Attributes:
        kind: added, changed or removed (yanked or deleted).
        table: ``file.table``.
        row: as it is to be; None: to be taken out.
        fields: what changes, by field: the old value and the new one. None: not there.
    """

    kind: str
    table: str
    key: tuple[str, ...]
    row: Row | None
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


class Comparison:
    """One round of questions to all sources.

    Attributes:
        answers: what became of each source that was asked: empty, or why it did not answer.
        differences: every row that differs, in the order of the tables.
        needs: what only a person can add, one sentence each.
    """

    def __init__(self, data: Mapping[str, Any], client: Client, index: Index, today: str, say: Callable[[str], None]):
        self._data = data
        self._client = client
        self._index = index
        self._today = today
        self._say = say
        self._left_out: frozenset[str] = frozenset()
        self._index_is_gone = False
        self._tags: Mapping[str, set[Version]] = {}
        self.answers: dict[str, str] = {}
        self.differences: list[Difference] = []
        self.needs: list[str] = []

    def _rows(self, table: str) -> list[Row]:
        file, _, name = table.partition(".")
        return list(self._data[file][name])

    # Sources.

    def _releases(self, project: str) -> dict[Version, Release]:
        """Ask the package index for a project; nothing where it does not answer."""
        name = f"{SOURCES['index']}: {project}"
        if self._index_is_gone:
            return {}
        self._say(f"asking {name}")
        try:
            found = releases(self._index.wheels(project))
        except SourceError as error:
            self.answers[name] = str(error)
            # One project that it lacks is no reason to give the index up; no connection is.
            self._index_is_gone = not error.missing
            return {}
        self.answers[name] = "" if found else "it lists no wheel of a release"
        return found

    def _metadata(self, project: str, release: Release, arch: str, extra: str = "") -> Mapping[str, Any] | None:
        """Return what a release asks for, by name; None where its METADATA cannot be had.

        As the oldest of its Pythons reads it: for the newest one, a companion such as triton may not be there yet.
        """
        wheel = release.wheel(arch)
        if wheel is None:
            return None
        self._say(f"reading the metadata of {project} {release.version} ({arch})")
        try:
            python = (release.pythons(arch) or ["3.12"])[0]
            return requirements(self._index.metadata(wheel), arch, python, extra)
        except SourceError as error:
            self.answers[f"{SOURCES['index']}: metadata of {project} {release.version}"] = str(error)
            return None

    def _listing(self, source: str, folder: str) -> list[str]:
        """Return the versions in a folder of NVIDIA's ``redistrib_<version>.json``, oldest first."""
        names = self._names(source, f"{NVIDIA}/{folder}/redist/")
        return sorted(
            (match[1] for name in names or () if (match := re.fullmatch(r"redistrib_(\d+(?:\.\d+)+)\.json", name))),
            key=Version,
        )

    def _names(self, source: str, url: str) -> list[str] | None:
        """Return the names in a listing of files; None where the source does not answer."""
        if source in self._left_out:
            return None
        self._say(f"asking {SOURCES[source]}")
        try:
            found = links(self._client.get(url))
        except SourceError as error:
            self.answers[SOURCES[source]] = str(error)
            return None
        self.answers[SOURCES[source]] = ""
        return found

    def _torch_tags(self) -> dict[str, set[Version]]:
        """Return the releases on PyTorch's own index by tag; a tag that it does not show is missing."""
        known = {str(tag) for row in self._rows("pytorch.releases") for tag in row["tags"]}
        known |= {f"cu{series(row['version']).replace('.', '')}" for row in self._rows("cuda.toolkits")}
        found: dict[str, set[Version]] = {}
        name = SOURCES["pytorch"]
        for tag in sorted(known, key=lambda tag: int(tag[2:]), reverse=True):
            if "pytorch" in self._left_out or self.answers.get(name):
                break
            self._say(f"asking {name} for {tag}")
            try:
                wheels = Index(self._client, f"{PYTORCH}/{tag}").wheels("torch")
            except SourceError as error:
                if not error.missing:
                    self.answers[name] = str(error)
                continue
            self.answers[name] = ""
            found[tag] = {Version(wheel.version.public) for wheel in wheels if wheel.version.local in (None, tag)}
        return found

    # Comparing.

    def _compare(
        self, table: str, found: Mapping[Version, Release], own: Callable[[Row], bool] = lambda row: True
    ) -> Iterator[tuple[Row | None, Release]]:
        """Yield every release that the table has or ought to have, newest first; report those that are deleted.

        A table begins with some release; what the index has of before is of no use to it. Nothing found: not asked.
        """
        if not found:
            return
        rows = {Version(row["version"]): row for row in self._rows(table) if own(row)}
        for version in sorted(set(rows) - set(found), reverse=True):
            self.differences.append(Difference("removed", table, row_key(table, rows[version]), None))
        for version in sorted(found, reverse=True):
            known = rows.get(version)
            release = found[version]
            if known is not None or (rows and version > min(rows) and release.linux and not release.yanked):
                yield known, release

    def _changed(self, table: str, row: Row, facts: Mapping[str, Any]) -> None:
        """Report a row whose facts differ. None: the source does not say; ``yanked`` false is the same as absent."""
        new = dict(row)
        fields: dict[str, tuple[Any, Any]] = {}
        for name, value in facts.items():
            if name == "yanked" and not value:
                if new.pop(name, False):
                    fields[name] = (True, None)
            elif value not in (None, "") and row.get(name) != value:
                fields[name] = (row.get(name), value)
                new = _placed(table, new, name, value)
        if set(fields) - {"source"} or _no_longer_inferred(row, new):
            kind = "removed" if fields.get("yanked", ("", None))[1] else "changed"
            self.differences.append(Difference(kind, table, row_key(table, row), new, fields))

    def _added(self, table: str, title: str, facts: Mapping[str, Any]) -> bool:
        """Report a new row; one that lacks what the engine needs becomes work for a person instead."""
        row = {name: value for name, value in facts.items() if value not in ("", None) or name == "sm"}
        mistakes: list[Mistake] = []
        ROWS[table](row, "", mistakes)
        if mistakes:
            self.needs.append(f"{title}: the sources do not say enough for a row: {'; '.join(map(str, mistakes))}")
            return False
        self.differences.append(Difference("added", table, row_key(table, row), row))
        return True

    def _dated(self, release: Release, source: list[str]) -> tuple[str, list[str]]:
        """Return the day of a new release; where the index tells none, today's, and says so in the source."""
        return (release.date, source) if release.date else (self._today, [*source, "date: the day it was first seen"])

    def _unread(self, file: str, row: Row, project: str) -> bool:
        """Say whether nobody has read a release's METADATA yet, going by the sources that its row names."""
        known = self._data[file]["sources"]
        return not any(known.get(word, word) == METADATA.format(project, row["version"]) for word in row["source"])

    def _sources(self, file: str, row: Row, *read: str) -> list[str]:
        """Return a row's sources with METADATA in the place of what was inferred without it."""
        known = self._data[file]["sources"]
        kept = [word for word in row["source"] if "(inferred)" not in known.get(word, word)]
        return [*kept[:1], *read, *kept[1:]]


def _placed(table: str, row: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return the row with a field set: in its place, or where a row of this table usually has it."""
    if name in row:
        return {**row, name: value}
    order = FIELDS.get(table, ())
    before = set(order[: order.index(name)]) if name in order else set(row) - {"source"}
    at = max((at for at, key in enumerate(row) if key in before), default=-1) + 1
    items = list(row.items())
    return dict([*items[:at], (name, value), *items[at:]])


def _no_longer_inferred(row: Row, new: Mapping[str, Any]) -> bool:
    """Say whether a row's facts, though the same, are now read where they were inferred."""
    return any("inferred" in word for word in row["source"]) and not any("inferred" in word for word in new["source"])
