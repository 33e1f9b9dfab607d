# SPDX-License-Identifier: Apache-2.0
"""CUDA toolkits and cuDNN as they lie on disk, those that this project unpacked among them."""

from __future__ import annotations

import os
import re

from ansible.module_utils.host_files import version_key
from ansible.module_utils.host_packages import Owners

MANIFEST = "archive.json"
#: A manifest names every file of a toolkit: some ten thousand.
_LARGEST_MANIFEST = 16 * 1024 * 1024
_LARGEST_HEADER = 1024 * 1024
#: What a generation is called: product, version, CUDA's major (of cuDNN), time, a number where that was taken.
GENERATION = re.compile(r"(cuda|cudnn)-(\d+(?:\.\d+)+)(?:-cuda(\d+))?-(\d{8}T\d{6}Z)(?:-(\d+))?")
#: Of the files in a manifest: what programs are run and libraries are loaded from.
_LOOKED_AT = re.compile(r"(nvvm/)?bin/[^/]+$|(nvvm/)?lib(64)?/[^/]+\.so[^/]*$")
_MOST_DAMAGED = 5
_SERIES = re.compile(r"cuda-\d+\.\d+")
_CUDNN_LIBRARY = re.compile(r"libcudnn\.so\.(\d+\.\d+\.\d+)")
_CUDNN_HEADER = re.compile(r"cudnn_version.*\.h|cudnn\.h")


class Cuda:
    """Everything of CUDA below ``usr/local``, in the distribution's places, and below the base directory. Who owns the
    files is asked beside us until ``toolkits`` or ``cudnn`` is called."""

    def __init__(self, files, base_dir, scope, kind):
        self.files = files
        base = base_dir.strip("/")
        #: Where ``cuda`` and ``cuda-12.9`` lie in this scope.
        self.prefix = "usr/local" if scope == "system" else base
        self.store = Store(files, base)
        self.places = [
            f"{prefix}/{name}"
            for prefix in dict.fromkeys((self.prefix, "usr/local"))
            for name in files.names(prefix, "cuda*")
            if name == "cuda" or name.startswith("cuda-")
        ]
        self.store.linked(self.places)
        self.rows = self._toolkits()
        self.libraries = self._cudnn()
        paths = [row["nvcc"] for row in self.rows] + [row["path"] for row in self.libraries]
        self.owners = Owners(files, [path for path in paths if path and not self.store.holds(path)], kind)

    def toolkits(self):
        """List CUDA toolkits, the newest first."""
        return [dict(row, package=self.owners.of(row["nvcc"]), nvcc=row["nvcc"] is not None) for row in self.rows]

    def cudnn(self):
        """List cuDNN's headers and libraries."""
        return [dict(row, package=self.owners.of(row["path"])) for row in self.libraries]

    def default(self):
        """Describe the link ``cuda`` that people and programs find the default toolkit by."""
        files, place = self.files, f"{self.prefix}/cuda"
        target = files.link(place)
        return dict(
            link=f"/{place}",
            exists=target is not None or files.exists(place),
            is_link=target is not None,
            target=target,
            real=files.real(place) if files.exists(place) else None,
            alternative=self._alternative() if self.prefix == "usr/local" else None,
        )

    def _alternative(self):
        """Return what update-alternatives knows by the name of cuda, None where it does not know it."""
        for place in ("var/lib/dpkg/alternatives/cuda", "var/lib/alternatives/cuda"):
            content = self.files.small(place, "cuda_default.alternative")
            if content is not None:
                found = read_alternative(content.decode("utf-8", "replace"))
                if found is None:
                    self.files.unknown["cuda_default.alternative"] = f"/{place} is not what update-alternatives writes"
                    return None
                return dict(found, current=self.files.link("etc/alternatives/cuda"))
        return None

    def _toolkits(self):
        files = self.files
        default = files.real(f"{self.prefix}/cuda") if files.exists(f"{self.prefix}/cuda") else None
        named = {}
        for place in self.places:
            named.setdefault(files.real(place), []).append(place)
        rows = []
        for real, places in named.items():
            version = _version(files, real[1:])
            nvcc = files.exists(f"{real[1:]}/bin/nvcc")
            if version or nvcc:
                place = _as_people_say(real[1:], places)
                rows.append(self._row(place, real, version, f"{real[1:]}/bin/nvcc" if nvcc else None, real == default))
        rows.sort(key=lambda row: version_key(row["version"] or ""), reverse=True)
        return rows + self._distribution({row["real"] for row in rows})

    def _distribution(self, known):
        """List the distribution's own toolkit, whose parts lie in the directories of the system."""
        # What leads into another toolkit is that toolkit's.
        home, nvcc = (
            place if self.files.exists(place) and not self._in(known, self.files.real(place)) else None
            for place in ("usr/lib/cuda", "usr/bin/nvcc")
        )
        place = home or nvcc
        if place is None:
            return []
        return [self._row(place, self.files.real(place), _version(self.files, place), nvcc, False)]

    @staticmethod
    def _in(directories, path):
        return any(path == directory or path.startswith(f"{directory}/") for directory in directories)

    def _row(self, place, real, version, nvcc, default):
        return dict(
            path=f"/{place}",
            real=real,
            version=version,
            default=default,
            link=self.files.link(place) is not None,
            ours=self.store.holds(real),
            package=None,
            nvcc=self.files.real(nvcc) if nvcc else None,
        )

    def _cudnn(self):
        files, rows = self.files, {}
        first = [row["path"][1:] for row in self.rows if row["path"][1:] in self.places]
        named = {}
        for place in first + self.places:  # each directory once, by the name that people use
            named.setdefault(files.real(place), place)
        toolkits = list(named.values())
        multiarch = files.names("usr/include", "*-linux-gnu")
        headers = ["usr/include", *(f"usr/include/{name}" for name in multiarch)]
        headers += [f"{place}/include" for place in toolkits]
        libraries = [f"usr/lib/{name}" for name in files.names("usr/lib", "*-linux-gnu")]
        libraries += ["usr/lib64", "usr/local/lib", *(f"{place}/lib64" for place in toolkits)]
        for row in self.store.rows:
            if row["product"] == "cudnn" and row["state"] == "complete":
                headers.append(f"{row['path'][1:]}/include")
                libraries.append(f"{row['path'][1:]}/lib")
        for place in headers:
            names = files.names(place, "cudnn*")
            # cudnn_version.h says the version since 8; before that cudnn.h did.
            for name in sorted(filter(_CUDNN_HEADER.fullmatch, names), key=lambda name: name == "cudnn.h"):
                self._header(rows, f"{place}/{name}")
            self.store.linked(f"{place}/{name}" for name in names)
        for place in libraries:
            names = files.names(place, "libcudnn*")
            for name in names:
                found = _CUDNN_LIBRARY.fullmatch(name)
                if found and files.exists(f"{place}/{name}"):
                    self._add(rows, f"{place}/{name}", found.group(1), "library")
            self.store.linked(f"{place}/{name}" for name in names)
        return [rows[path] for path in sorted(rows)]

    def _header(self, rows, place):
        if self.files.real(place) in rows:
            self._add(rows, place, None, "header")
            return
        content = self.files.small(place, limit=_LARGEST_HEADER)
        version = header_version((content or b"").decode("utf-8", "replace"))
        if version:
            self._add(rows, place, version, "header")

    def _add(self, rows, place, version, kind):
        path = self.files.real(place)
        row = rows.setdefault(
            path, dict(path=path, version=version, kind=kind, package=None, ours=self.store.holds(path), link=None)
        )
        if row["link"] is None and self.store.leads_to(place):
            row["link"] = f"/{place}"


class Store:
    """The toolkits that this project unpacked: ``rows``, and which links lead to them."""

    def __init__(self, files, base):
        self.files = files
        self.place = f"{base}/toolkits"
        # A base directory may itself be a link, and people may have written either name of it.
        self.names = {f"/{self.place}/", f"{files.real(self.place)}/"}
        self.rows = [
            self._row(name)
            for name in files.names(self.place)
            if GENERATION.fullmatch(name) and files.is_dir(place := f"{self.place}/{name}") and not files.link(place)
        ]
        self.by_name = {row["name"]: row for row in self.rows}

    def holds(self, path):
        """Tell whether a path lies in the store."""
        return any(path.startswith(name) for name in self.names)

    def leads_to(self, place):
        """Name the generation that a link leads to by itself, and not by way of another link; None where to none."""
        target = self.files.link(place)
        if target is None:
            return None
        here = self.files.real(os.path.dirname(place))
        name = self._generation(os.path.normpath(os.path.join(here, target)))
        return None if name == self._generation(f"{here}/") else name  # links within a generation are its own

    def _generation(self, path):
        store = next((name for name in self.names if path.startswith(name)), None)
        return path[len(store) :].split("/")[0] if store else None

    def linked(self, places):
        """Note which of these places are links that lead here and are not broken."""
        for place in places:
            row = self.by_name.get(self.leads_to(place))
            if row is not None and self.files.exists(place):
                row["links"].append(f"/{place}")

    def _row(self, name):
        place = f"{self.place}/{name}"
        product, version, major = GENERATION.fullmatch(name).group(1, 2, 3)
        row = dict(
            name=name,
            product=product,
            version=version,
            cuda_major=int(major or version.split(".")[0]),
            path=f"/{place}",
            state="half-made",
            components={},
            digest=None,
            damaged=[],
            links=[],
        )
        if not self.files.present(f"{place}/{MANIFEST}"):
            return row
        key = f"toolkit_store.{name}"
        content = self.files.small(f"{place}/{MANIFEST}", key, _LARGEST_MANIFEST)
        if content is None:  # it is there and closed to us, so whether the generation is whole cannot be told
            return dict(row, state=None)
        manifest = self.files.parsed(content, f"{place}/{MANIFEST}", key)
        if manifest is None:
            return row
        components, digest = _components(manifest), manifest.get("digest")
        said = [manifest.get(key, value) for key, value in (("schema", 1), ("state", "complete"))]
        said += [manifest.get("product"), manifest.get("version")]
        if said != [1, "complete", product, version] or components is None or not isinstance(digest, str):
            self.files.unknown[key] = f"/{place}/{MANIFEST} is not what this project writes"
            return row
        damaged = self._damaged(place, manifest.get("files"))
        return dict(row, state="complete", components=components, digest=digest, damaged=damaged)

    def _damaged(self, place, said):
        """Name programs and libraries that are gone or have another size. Headers are too many to look at each time."""
        found = []
        for name, size in sorted(said.items()) if isinstance(said, dict) else ():
            if _LOOKED_AT.match(name):
                status = self.files.status(f"{place}/{name}")
                if status is None or status.st_size != size:
                    found.append(name)
        return found[:_MOST_DAMAGED]


def _components(manifest):
    """Return the version of every component, from a mapping or from the archives that the names are those of."""
    named = manifest.get("components")
    if isinstance(named, dict):
        return named
    rows = manifest.get("archives")
    if not isinstance(named, list) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    versions = {str(row.get("component")): row.get("version") for row in rows}
    return {name: versions.get(name) for name in map(str, named)}


def _as_people_say(real, places):
    """Choose one of the names of a toolkit. `cuda` leads elsewhere tomorrow, so it is no name but its own."""
    if real in places:
        return real
    others = [place for place in places if not place.endswith("/cuda")]
    return next((place for place in others if _SERIES.fullmatch(os.path.basename(place))), (others or [real])[0])


def _version(files, place):
    key = f"cuda./{place}"
    content = files.mapping(f"{place}/version.json", key)
    if content is not None:
        named = content.get("cuda")
        version = named.get("version") if isinstance(named, dict) else None
        if isinstance(version, str):
            return version
        files.unknown[key] = f"/{place}/version.json is not what NVIDIA writes"
    text = (files.small(f"{place}/version.txt", key) or b"").decode("utf-8", "replace")
    found = re.search(r"CUDA Version (\d+(?:\.\d+)+)", text)
    return found.group(1) if found else None


def read_alternative(text):
    """Read what update-alternatives, Debian's or Red Hat's, notes of a name: mode and choices; None for other text."""
    head, _separator, rest = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] not in ("auto", "manual") or len(lines) < 2:
        return None
    followers = len(lines[2:]) // 2  # each has two lines, and one line with every choice
    rows, choices = rest.split("\n"), []
    while rows and rows[0].startswith("/"):
        choices.append(rows[0])
        rows = rows[2 + followers :]
    return dict(mode=lines[0], choices=choices)


def header_version(text):
    """Return the version that cuDNN's header defines, None where it defines none."""
    numbers = [
        re.search(rf"(?m)^\s*#\s*define\s+CUDNN_{part}\s+(\d+)", text) for part in ("MAJOR", "MINOR", "PATCHLEVEL")
    ]
    return ".".join(number.group(1) for number in numbers) if all(numbers) else None
