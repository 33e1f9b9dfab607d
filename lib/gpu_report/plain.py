# SPDX-License-Identifier: Apache-2.0
"""Foreign values as what they should be: one line of text, a number, a list, a mapping. Nothing here fails."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Control characters, line and paragraph separators, characters that change the direction of writing, lone surrogates,
#: and what XML forbids.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]+"
)
#: Unknown words of a status count as UNKNOWN. Least to most severe.
SEVERITY = ("SKIP", "PASS", "WARN", "UNKNOWN", "FAIL")
TIERS = ("preflight", "identity", "health", "numerics", "job", "performance", "diagnostics")
#: What stands where nothing is known.
NOTHING = "\N{EN DASH}"
#: What a person is told to do, the gravest first; "none" is for everything without an action of its own.
VERBS = {
    "rma": "Return it to the maker",
    "isolate": "Take it out of use",
    "reboot": "Reboot",
    "reset_gpu": "Reset the GPU",
    "restart_app": "Start the program again",
    "none": "Look at it",
}
#: What the jobs trained on, in words; the digits that the validator draws itself are no MNIST.
_DATASETS = {"mnist": "MNIST", "generated": "drawn digits"}
_WORDS = {"tensorflow": "TensorFlow", "keras": "Keras", "pytorch": "PyTorch", "torch": "PyTorch", "jax": "JAX"}


def text(value: Any, limit: int = 300) -> str:
    """Return a foreign value as one printable line of limited length; nothing for None."""
    if value is None:
        return ""
    line = " ".join(_CONTROL.sub(" ", str(value)[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def number(value: Any) -> float | None:
    """Return a foreign value as a number to calculate with; None for anything else, NaN and infinity too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e300:
        return None
    return None if math.isnan(value) else float(value)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a foreign value that should be a mapping; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """Return a foreign value that should be a list; an empty one for anything else."""
    return value if isinstance(value, (list, tuple)) else ()


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return those members of a foreign list that are mappings."""
    return [member for member in sequence(value) if isinstance(member, Mapping)]


def status(value: Any) -> str:
    """Return a foreign status as one of the known words; UNKNOWN for all others."""
    return value if isinstance(value, str) and value in SEVERITY else "UNKNOWN"


def worst(statuses: Sequence[str]) -> str:
    """Return the most severe of some statuses; nothing at all is UNKNOWN."""
    return max(statuses, key=SEVERITY.index, default="UNKNOWN")


def counts_as(check: Mapping[str, Any]) -> str:
    """Return how a check counts: a required one that was skipped counts as UNKNOWN."""
    word = status(check.get("status"))
    return "UNKNOWN" if word == "SKIP" and check.get("required", True) is not False else word


def troubles(checks: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what is not in order, each with how it counts, the worst first.

    What could not be judged in a tier behind one that failed is a consequence of that, and left out.
    """
    rows = [(counts_as(check), number(check.get("tier")), check) for check in checks]
    first = min((tier for word, tier, _ in rows if word == "FAIL" and tier is not None), default=math.inf)
    left = [
        (word, check)
        for word, tier, check in rows
        if word not in ("PASS", "SKIP") and not (word == "UNKNOWN" and tier is not None and tier > first)
    ]
    return sorted(left, key=lambda row: -SEVERITY.index(row[0]))


def framework(name: Any) -> str:
    """Return a framework's or a backend's name as its makers write it."""
    return _WORDS.get(name, text(name, 40)) if isinstance(name, str) else text(name, 40)


def dataset(name: Any) -> str:
    """Return a data set's name in words; nothing where none is named."""
    return _DATASETS.get(name, text(name, 40)) if isinstance(name, str) else text(name, 40)


def short(value: float | None) -> str:
    """Return a number with as many digits as a person reads."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers in a foreign mapping with their names, those of nested mappings as "outer.inner"."""
    for key, member in mapping(value).items():
        name = prefix + text(key, 60)
        found = number(member)
        if found is not None:
            yield name, found
        elif isinstance(member, Mapping) and not prefix:
            yield from numbers(member, f"{name}.")


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts gpu2 before gpu10."""
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part.lower())
        for part in re.split(r"([0-9]+)", name)
    ]
