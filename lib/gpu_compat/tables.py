# SPDX-License-Identifier: Apache-2.0
"""The compatibility tables in ``data/``, with a lab's own rows laid over them.

A table is a list of rows, a row a mapping. Rows are read only: every answer of the engine shares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

#: The machines that the tables know.
ARCHES = ("x86_64", "aarch64")
DATA = Path(__file__).with_name("data")
#: Every file of ``data/``, in the order in which a reader meets them.
FILES = (
    "gpus",
    "drivers",
    "cuda",
    "cudnn",
    "pytorch",
    "tensorflow",
    "jax",
    "keras",
    "pairs",
    "systems",
    "packages",
    "environments",
)
#: Long tables that few hosts need, read when they do.
LAZY_FILES = ("gpu_chips",)
#: What makes two rows of a table the same row; a lab's row replaces the shipped one with the same key.
KEYS: Mapping[str, tuple[str, ...]] = {
    "gpus.architectures": ("name",),
    "gpus.products": ("name",),
    "gpus.nvswitches": ("pci",),
    "gpu_chips.chips": ("chip",),
    "drivers.branches": ("branch",),
    "drivers.kernel_limits": ("driver", "packaging"),
    "drivers.rules": ("id",),
    "cuda.toolkits": ("version",),
    "cuda.rules": ("id",),
    "cuda.components": ("name", "from", "arches"),
    "cuda.distribution": ("system",),
    "cuda.forward_compatibility": ("package",),
    "cudnn.ranges": ("first",),
    "cudnn.releases": ("package", "version"),
    "pytorch.releases": ("version",),
    "pytorch.wheels": ("release", "tag"),
    "pytorch.companions": ("torch",),
    "pytorch.notes": ("note",),
    "tensorflow.releases": ("version",),
    "tensorflow.ptx_fails": ("note",),
    "tensorflow.notes": ("note",),
    "jax.releases": ("version",),
    "jax.plugins": ("plugin",),
    "jax.glibc": ("first",),
    "jax.notes": ("note",),
    "keras.releases": ("version",),
    "keras.backends": ("first",),
    "keras.notes": ("note",),
    "pairs.pairs": ("first", "build", "second"),
    "pairs.collisions": ("files",),
    "systems.systems": ("id",),
    "packages.driver": ("family", "origin", "module", "from", "streams", "names", "signed", "suffix"),
    "packages.kernel_modules": ("family", "origin", "names"),
    "packages.kernel_hold": ("family", "names"),
    "packages.package_version": ("exact",),
    "packages.hold": ("family",),
    "packages.headers": ("family", "kernels"),
    "packages.build": ("family", "origin"),
    "packages.repositories": ("origin", "systems"),
    "packages.repository_urls": ("url",),
    "packages.runfile": ("url",),
    "packages.licenses": ("module",),
    "packages.persistence": ("family", "origin", "names", "to"),
    "packages.dcgm": ("cuda",),
    "packages.container_toolkit": ("packages",),
    "packages.fabric_manager": ("family", "origin", "from"),
    "packages.fabric_extra": ("component", "to"),
    "packages.cuda_toolkit": ("package",),
    "packages.cudnn": ("from_version", "family"),
    "packages.redist": ("product",),
    "packages.space": ("for", "path"),
    "packages.cuda_runfile": ("url",),
    "packages.compilers": ("family",),
    "packages.secure_boot": ("id",),
    "environments.frameworks": ("name",),
    "environments.extras": ("name",),
    "environments.cuda_packages": ("prefix",),
}
# libyaml is ten times as quick; the packages of some systems lack it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Row = Mapping[str, Any]


class Tables:
    """All tables, as shipped or with an overlay.

    Attributes:
        as_of: date of the oldest file, ``YYYY-MM-DD``: what the engine knows is no newer.
    """

    def __init__(self, files: Mapping[str, Mapping[str, Any]], overlay: Mapping[str, Any] | None = None) -> None:
        self._files = files
        self._overlay = overlay or {}
        self.as_of = min(str(content["as_of"]) for content in files.values())
        self._rows: dict[str, list[Row]] = {}

    def rows(self, name: str) -> list[Row]:
        """Return the rows of a table, named ``file.table``, a lab's own before the shipped ones."""
        if name not in self._rows:
            file, _, table = name.partition(".")
            shipped = (lazy_file(file) if file in LAZY_FILES else self._files[file])[table]
            own = list((self._overlay.get(file) or {}).get(table) or ())
            replaced = {row_key(name, row) for row in own}
            self._rows[name] = own + [row for row in shipped if row_key(name, row) not in replaced]
        return self._rows[name]

    def source(self, file: str, row: Row) -> str:
        """Return where a row comes from, in full."""
        known = (lazy_file(file) if file in LAZY_FILES else self._files[file])["sources"]
        return "; ".join(known.get(word, word) for word in row["source"])

    def rule(self, file: str, rule_id: str) -> Row:
        """Return the row of ``rules`` (or ``secure_boot``) with this id."""
        table = {"packages": "secure_boot"}.get(file, "rules")
        return next(row for row in self.rows(f"{file}.{table}") if row["id"] == rule_id)


def row_key(table: str, row: Row) -> tuple[str, ...]:
    """Return what identifies a row in its table."""
    return tuple(str(row.get(field)) for field in KEYS[table])


def read_file(path: Path) -> Any:
    """Read one YAML file; raises OSError or yaml.YAMLError."""
    with open(path, encoding="utf-8") as stream:
        return yaml.load(stream, Loader=_LOADER)


@cache
def lazy_file(name: str) -> Mapping[str, Any]:
    """Return one of ``LAZY_FILES``."""
    content: Mapping[str, Any] = read_file(DATA / f"{name}.yml")
    return content


@cache
def shipped() -> Tables:
    """Return the tables as shipped, read once."""
    return Tables({name: read_file(DATA / f"{name}.yml") for name in FILES})


def with_overlay(overlay: Mapping[str, Any] | None) -> Tables:
    """Return the shipped tables with a lab's rows over them; check the overlay first (:mod:`gpu_compat.check`)."""
    base = shipped()
    return Tables(base._files, overlay) if overlay else base


def names(rows: Sequence[Row], field: str = "name") -> list[str]:
    """Return one field of every row."""
    return [str(row[field]) for row in rows]
