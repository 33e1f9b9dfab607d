# SPDX-License-Identifier: Apache-2.0
"""What machine-readable sources say today, compared with the tables: rows added, changed and removed.

Fields that a person keeps (kernel lists, notes, the oldest driver) are never touched, and never guessed in a new row:
what only a person can add is listed in ``needs``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from gpu_compat.refresh.comparison import FIELDS, METADATA, NVIDIA, Comparison
from gpu_compat.refresh.index_releases import Release, exact, first_of, lowest, series
from gpu_compat.refresh.web import SourceError
from gpu_compat.tables import ARCHES, Row

#: By CUDA major, the releases of JAX's plugin.
Plugins = Mapping[str, Mapping[Version, Release]]
UNTIL_THEN = "until then no GPU is given this build"


class Refresh(Comparison):
    """One round of questions to all sources, table by table."""

    def run(self, left_out: frozenset[str]) -> None:
        """Ask every source that is not left out."""
        self._left_out = left_out
        self._index_is_gone = "index" in left_out
        self._tags = self._torch_tags()
        toolkits = self._listing("nvidia-cuda", "cuda")
        self._cuda(toolkits)
        self._cudnn(self._listing("nvidia-cudnn", "cudnn"))
        self._drivers(self._listing("nvidia-driver", "nvidia-driver"))
        self._pytorch()
        self._tensorflow()
        self._jax()
        self._keras()

    def _pytorch(self) -> None:
        table = "pytorch.releases"
        found = self._releases("torch")
        for row, release in self._compare(table, found):
            facts: dict[str, Any] = _wheel_facts(release)
            if row is None:
                self._new_torch(release, facts)
                continue
            if self._unread("pytorch", row, "torch"):
                facts |= (read := self._torch_pins(release, "x86_64"))
                if read.get("default_cuda"):
                    facts["source"] = self._sources("pytorch", row, METADATA.format("torch", release.version))
            self._changed(table, row, facts | self._proven_tags(release.version, row["tags"]))
        self._kernel_lists()

    def _torch_pins(self, release: Release, arch: str) -> dict[str, Any]:
        asked = self._metadata("torch", release, arch) or {}
        runtime = exact(first_of(asked, r"nvidia-cuda-runtime-cu\d+"))
        return {
            "default_cuda": exact(asked.get("cuda-toolkit")) or series(runtime),
            "cudnn": _named(first_of(asked, r"nvidia-cudnn-cu\d+")),
            "triton": _named(asked.get("triton")),
        }

    def _new_torch(self, release: Release, facts: Mapping[str, Any]) -> None:
        """Fill the row of a new release; its builds are known only as far as a source shows them."""
        pins = self._torch_pins(release, "x86_64")
        on_arm = self._torch_pins(release, "aarch64")
        date, source = self._dated(release, ["index-torch", METADATA.format("torch", release.version)])
        default = f"cu{series(pins['default_cuda']).replace('.', '')}"
        tags = self._proven_tags(release.version, []).get("tags") or []
        if not tags and pins["default_cuda"]:
            tags = [default]
            source.append("tags: that of the default CUDA alone (PyTorch's own index not seen)")
        row = {
            "version": str(release.version), "date": date, "python": facts["python"], "glibc": facts["glibc"],
            "default_cuda": pins["default_cuda"], "aarch64_default": "cuda" if on_arm["default_cuda"] else "cpu",
            "cudnn": pins["cudnn"], "triton": pins["triton"], "tags": tags, "source": source,
        }  # fmt: skip
        self._added("pytorch.releases", f"torch {release.version}", row)

    def _proven_tags(self, version: Version, known: list[str]) -> dict[str, list[str]]:
        """Return a release's tags as PyTorch's index shows them; a tag that it did not show stays as it is."""
        shown = {tag for tag, versions in self._tags.items() if version in versions}
        kept = {tag for tag in known if tag not in self._tags}
        tags = sorted(shown | kept, key=lambda tag: int(tag[2:]))
        return {"tags": tags} if tags and self._tags else {}

    def _kernel_lists(self) -> None:
        """Ask a person for the kernel list of every build that some row of a release names and no row describes."""
        described = {(row["release"], row["tag"]) for row in self._rows("pytorch.wheels")}
        rows = {row["version"]: row for row in self._rows("pytorch.releases")}
        new = [diff.row for diff in self.differences if diff.table == "pytorch.releases" and diff.row]
        rows |= {row["version"]: row for row in new}
        for version, row in rows.items():
            for tag in row["tags"]:
                if (series(version), tag) not in described:
                    self.needs.append(f"kernel list of torch {version} tag {tag} (pytorch.wheels); {UNTIL_THEN}")

    def _tensorflow(self) -> None:
        table = "tensorflow.releases"
        found = self._releases("tensorflow")
        for row, release in self._compare(table, found):
            facts: dict[str, Any] = _wheel_facts(release)
            if row is None:
                self._new_tensorflow(release, facts)
                continue
            if self._unread("tensorflow", row, "tensorflow"):
                asked = self._metadata("tensorflow", release, "x86_64", "and-cuda") or {}
                cudnn = first_of(asked, r"nvidia-cudnn-cu\d+")
                facts |= {"keras": _specifier(asked.get("keras")), "cudnn": _specifier(cudnn)}
                read = METADATA.format("tensorflow", release.version)
                facts["source"] = [*row["source"][:2], read, *row["source"][2:]]
            self._changed(table, row, facts)

    def _new_tensorflow(self, release: Release, facts: Mapping[str, Any]) -> None:
        asked = self._metadata("tensorflow", release, "x86_64", "and-cuda") or {}
        cudnn = first_of(asked, r"nvidia-cudnn-cu\d+")
        cuda = series(lowest(first_of(asked, r"nvidia-cuda-runtime-cu\d+") or asked.get("cuda-toolkit")))
        date, source = self._dated(release, ["index-tensorflow", METADATA.format("tensorflow", release.version)])
        row = {
            "version": str(release.version), "date": date, "python": facts["python"], "glibc": facts["glibc"],
            "cuda": cuda, "built_with_cudnn": series(lowest(cudnn)), "driver_min": self._driver_min(cuda), "sm": None,
            "cudnn": _specifier(cudnn), "bundled": True if cudnn else None, "keras": _specifier(asked.get("keras")),
            "source": source,
        }  # fmt: skip
        if self._added("tensorflow.releases", f"tensorflow {release.version}", row):
            self.needs.append(f"kernel list of tensorflow {release.version}: sm and ptx; {UNTIL_THEN}")

    def _driver_min(self, cuda: str) -> str:
        """Return the oldest driver for programs of a CUDA, which is the same for all of its major version."""
        major = cuda.partition(".")[0]
        rows = [row for row in self._rows("cuda.toolkits") if row["version"].partition(".")[0] == major]
        return str(rows[0].get("driver_min", "")) if rows else ""

    def _jax(self) -> None:
        table = "jax.releases"
        found, libraries = self._releases("jax"), self._releases("jaxlib")
        plugins = {major: self._releases(f"jax-cuda{major}-plugin") for major in ("13", "12")}
        if not found or not libraries:
            return
        for row, release in self._compare(table, found):
            library = libraries.get(release.version)
            if library is None:  # such a release shares the library, and the plugins, of the one before
                continue
            facts: dict[str, Any] = {
                "date": release.date,
                "python": [python for python in library.pythons("x86_64") if python in library.pythons("aarch64")]
                or library.pythons("x86_64"),
                "yanked": release.yanked,
                "plugins": [f"cuda{major}" for major, known in plugins.items() if release.version in known],
            }
            if not all(plugins.values()):
                del facts["plugins"]
            pins = self._jax_pins(row, release.version, plugins)
            read = [METADATA.format(f"jax-{name.removeprefix('cudnn_')}-plugin", release.version) for name in pins]
            if row is None:
                self._new_jax(release, facts | pins, read)
            else:
                facts |= {**pins, "source": self._sources("jax", row, *read)} if pins else {}
                self._changed(table, row, facts)
        self._jax_glibc(libraries)

    def _jax_pins(self, row: Row | None, version: Version, plugins: Plugins) -> dict[str, str]:
        """Return the range of cuDNN that each CUDA build asks for, of builds whose METADATA nobody has read yet.

        Nothing where one of them cannot be had: a row is either read or inferred.
        """
        result: dict[str, str] = {}
        for major in sorted(plugins):
            project = f"jax-cuda{major}-plugin"
            if version in plugins[major] and (row is None or self._unread("jax", row, project)):
                asked = self._metadata(project, plugins[major][version], "x86_64", "with-cuda") or {}
                result[f"cudnn_cuda{major}"] = _specifier(first_of(asked, r"nvidia-cudnn-cu\d+"))
        return result if all(result.values()) or row is None else {}

    def _new_jax(self, release: Release, facts: Mapping[str, Any], read: list[str]) -> None:
        date, source = self._dated(release, ["index-jax", *read])
        row = {"version": str(release.version), **facts, "date": date, "source": source}
        row = {name: row[name] for name in FIELDS["jax.releases"] if name in row and name != "yanked"}
        if self._added("jax.releases", f"jax {release.version}", row):
            for name in row["plugins"]:
                self.needs.append(f"kernel list of jax {release.version}: sm_{name} and ptx_{name}; {UNTIL_THEN}")

    def _jax_glibc(self, libraries: Mapping[Version, Release]) -> None:
        """Report a step in what JAX asks of the C library."""
        steps = self._rows("jax.glibc")
        known = {Version(row["version"]) for row in self._rows("jax.releases")}
        for version in sorted(set(libraries) - known):
            asked = libraries[version].glibc()
            before = max((row for row in steps if Version(row["first"]) <= version), key=_first)
            if known and version > max(known) and asked and asked != before["glibc"]:
                says = f"package index: jaxlib (manylinux_{asked.replace('.', '_')} from {version})"
                row = {"first": str(version), "glibc": asked, "source": [says]}
                self._added("jax.glibc", f"C library of jax {version}", row)
                steps.append(row)

    def _keras(self) -> None:
        found = self._releases("keras")
        for row, release in self._compare("keras.releases", found):
            facts: dict[str, Any] = {"date": release.date, "requires_python": release.requires_python()}
            if row is not None:
                self._changed("keras.releases", row, facts | {"yanked": release.yanked})
                continue
            date, source = self._dated(release, ["index-keras"])
            row = {"version": str(release.version), **facts, "date": date, "source": source}
            self._added("keras.releases", f"keras {release.version}", row)

    def _cudnn(self, archive: list[str]) -> None:
        table = "cudnn.releases"
        for major in ("13", "12", "11"):
            package = f"nvidia-cudnn-cu{major}"
            found = self._releases(package)
            for row, release in self._compare(table, found, _package(package)):
                facts: dict[str, Any] = {"date": release.date, "arches": release.arches()}
                if row is not None:
                    self._changed(table, row, facts | {"yanked": release.yanked})
                else:
                    self._new_cudnn(package, major, release)
        last = max((Version(row["last"]) for row in self._rows("cudnn.ranges")), default=Version("0"))
        for version in archive:
            if Version(version).release[:2] > last.release[:2]:
                self.needs.append(f"cuDNN {version} is in NVIDIA's archive: a row of cudnn.ranges with its GPUs")

    def _new_cudnn(self, package: str, major: str, release: Release) -> None:
        """Fill the row of a new release; its GPUs are those of its series, where a row of ``ranges`` has it."""
        version = release.version
        date, source = self._dated(release, ["index-cudnn"])
        row: dict[str, Any] = {
            "package": package, "version": str(version), "cuda_major": major, "date": date, "arches": release.arches(),
        }  # fmt: skip
        fitting = [row for row in self._rows("cudnn.ranges") if _in_range(version, row)]
        if fitting:
            row["capability_min"] = fitting[0]["capabilities"][0]
            source.insert(1, "cudnn-matrix")
        row["source"] = source
        if self._added("cudnn.releases", f"{package} {version}", row) and not fitting:
            self.needs.append(f"{package} {version}: no row of cudnn.ranges has its series, so its GPUs are not known")

    def _cuda(self, archive: list[str]) -> None:
        """Add releases of a CUDA whose series is known; what GPUs and driver a new series has, a person must say."""
        found = {str(version) for version in self._releases("cuda-toolkit")} | set(archive)
        rows = sorted(self._rows("cuda.toolkits"), key=lambda row: Version(row["version"]))
        known = {Version(row["version"]) for row in rows}
        for version in sorted(found, key=Version):
            siblings = [row for row in rows if series(row["version"]) == series(version)]
            if Version(version) in known or (not siblings and Version(version) < max(known)):
                continue
            if not siblings:
                self.needs.append(f"CUDA toolkit {version}: a row of cuda.toolkits with its driver and its GPUs")
                continue
            self._new_toolkit(version, siblings[-1], version in archive)

    def _new_toolkit(self, version: str, sibling: Row, archived: bool) -> None:
        driver = self._archived_driver(version) if archived else ""
        source = [f"NVIDIA redistrib_{version}.json" if driver else f"driver inferred from {sibling['version']}"]
        row = {"version": version, "driver": driver or sibling["driver"]}
        alike = ("driver_min", "capabilities", "gcc_max", "clang_max")
        row |= {name: sibling[name] for name in alike if name in sibling}
        row["source"] = [f"package index or NVIDIA's archive: cuda-toolkit {version}", *source,
                         f"GPUs and compilers as {sibling['version']} (inferred)"]  # fmt: skip
        self._added("cuda.toolkits", f"CUDA toolkit {version}", row)

    def _archived_driver(self, version: str) -> str:
        """Return the driver that NVIDIA's archive names with a toolkit; nothing where it names none."""
        try:
            content = json.loads(self._client.get(f"{NVIDIA}/cuda/redist/redistrib_{version}.json").body)
            found = str(content["nvidia_driver"]["version"])
            Version(found)
        except (SourceError, ValueError, KeyError, TypeError, InvalidVersion):
            return ""
        return found

    def _drivers(self, archive: list[str]) -> None:
        newest = {version.partition(".")[0]: version for version in archive}
        branches = {row["branch"]: row for row in self._rows("drivers.branches")}
        for branch, version in newest.items():
            row = branches.get(branch)
            if row is not None and Version(version) > Version(row["latest"]):
                self._changed("drivers.branches", row, {"latest": version})
            if row is None and int(branch) > max(int(known) for known in branches):
                self.needs.append(f"driver branch {branch} ({version}): a row of drivers.branches")


def _wheel_facts(release: Release) -> dict[str, Any]:
    """Return what the names of a release's wheels say."""
    python = {arch: release.pythons(arch) for arch in ARCHES}
    return {"date": release.date, "python": python, "glibc": release.glibc(), "yanked": release.yanked}


def _first(row: Row) -> Version:
    return Version(row["first"])


def _package(name: str) -> Callable[[Row], bool]:
    return lambda row: row["package"] == name


def _in_range(version: Version, row: Row) -> bool:
    """Say whether a row of ``cudnn.ranges`` has a version; its ends are as short as 9.28, or 9.10.2."""
    first, last = Version(row["first"]).release, Version(row["last"]).release
    return version.release[: len(first)] >= first and version.release[: len(last)] <= last


def _named(wanted: Any) -> str:
    return f"{wanted.name}{wanted.specifier}" if wanted is not None else ""


def _specifier(wanted: Any) -> str:
    return str(wanted.specifier) if wanted is not None else ""
