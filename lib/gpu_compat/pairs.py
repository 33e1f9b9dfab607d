# SPDX-License-Identifier: Apache-2.0
"""Two frameworks in one environment, decided from the pins in the metadata of their wheels (table ``pairs.pairs``).

What the table does not name was not looked at. With CUDA that forbids the pair, because two wrong pins would overwrite
each other's libraries in silence; without CUDA the resolver sees every pin there is, so it may try.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpu_compat.tables import Row, Tables
from gpu_compat.versions import matches
from gpu_compat.wheels import CPU, Build, label

#: Which of two frameworks a row names first.
_FIRST = ("tensorflow", "jax", "pytorch")


@dataclass(frozen=True)
class Pair:
    """What one build demands of another framework beside it.

    Attributes:
        key: what makes two demands the same.
        accepts: whether a build of the other framework may be there.
        text: why others may not.
        source: where that comes from.
        x86_only: it stands against the pair only because the table was made for another machine.
    """

    key: object
    accepts: Callable[[Build], bool]
    text: str
    source: str
    x86_only: bool = False


def pairs_of(build: Build, other: str, machine: str, tables: Tables) -> list[Pair]:
    """Return what ``build`` demands of the framework ``other``: nothing, what its pins say, and on another machine than
    the one that they were looked at on, that it is not there."""
    if "keras" in (build.framework, other) or _FIRST.index(build.framework) > _FIRST.index(other):
        return []  # Keras is ruled by its backends; a demand is stated once, by the first of the two
    rows = [row for row in tables.rows("pairs.pairs") if row["second"] == other and _is_first(row, build)]
    if build.cuda is None:
        without = _without_cuda(build, other, rows, tables)
        return [without] if without else []
    row = next((row for row in rows if row["build"] == build.wheel), None)
    shown = f"{label(build.framework, tables)} {build.version} ({build.wheel})"
    key = (build.version, build.wheel, other)
    if row is None:
        text = f"{shown} beside {label(other, tables)} was not looked at, so it is not proven"
        return [Pair(key, lambda found: found.cuda is None, text, "table pairs.pairs has no row")]
    works, source = tuple(row.get("works") or ()), tables.source("pairs", row)
    pins = Pair(
        key,
        lambda found: found.cuda is None or _works(found, works, row),
        _why_not(shown, other, row, tables),
        source,
    )
    if machine == "x86_64":
        return [pins]
    text = f"{shown} beside {label(other, tables)} was looked at on x86_64 only, so on {machine} it is not proven"
    return [pins, Pair((*key, machine), lambda found: found.cuda is None, text, source, x86_only=True)]


def _is_first(row: Row, build: Build) -> bool:
    name = row["first"].split("=")[0].rstrip("<>")
    return bool(name == build.framework and matches(build.version, row["first"][len(name) :]))


def _works(found: Build, works: Sequence[str], row: Row) -> bool:
    """Tell whether a build is one that the row names: the release, in the build that the package index gives."""
    if found.version not in works:
        return False
    return found.default if row["second_build"] == "default" else found.wheel == row["second_build"]


def _without_cuda(build: Build, other: str, rows: Sequence[Row], tables: Tables) -> Pair | None:
    """Return what the pins that have nothing to do with CUDA say."""
    clashes = {
        version: pin
        for row in rows
        for pin, versions in (row.get("pins") or {}).items()
        if not pin.startswith("nvidia-")
        for version in versions
    }
    if not clashes or build.wheel != CPU:
        return None
    shown = f"{label(build.framework, tables)} {build.version}"
    some = "; ".join(f"{version}: {pin}" for version, pin in list(clashes.items())[:3])
    text = f"{shown} and {label(other, tables)} pin different releases of one package ({some})"
    return Pair(
        (build.version, CPU, other), lambda found: found.version not in clashes, text, tables.source("pairs", rows[0])
    )


def _why_not(shown: str, other: str, row: Row, tables: Tables) -> str:
    works = list(row.get("works") or ())
    second = label(other, tables)
    pins = [f"{pin} ({', '.join(versions[-2:])})" for pin, versions in (row.get("pins") or {}).items()]
    told = [
        f"beside {shown} {second} may be {', '.join(works)} as the package index gives it"
        if works
        else f"nothing of {second} fits beside {shown}"
    ]
    if pins:
        told.append(f"the pins clash: {'; '.join(pins[-3:])}")
    if row.get("overwrite"):
        told.append(
            f"{', '.join(row['overwrite'][-3:])} as the package index gives them would overwrite its "
            "libraries with those of another CUDA major"
        )
    if row["second_build"] == "default":
        told.append(f"other builds of {second} were not looked at, so they are not proven")
    return "; ".join(told)
