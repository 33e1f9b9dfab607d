# SPDX-License-Identifier: Apache-2.0
"""Names of GPUs: which product or chip a person, or nvidia-smi, means by one.

Names are compared word by word, without brands, so that "A100" is any A100 and "RTX 3080 Ti" is not the RTX 3080.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from gpu_compat.tables import Row, Tables

Words = tuple[str, ...]

_BRANDS = ("quadro", "geforce", "tesla")
#: Words that tell no product from another.
_EMPTY = {*_BRANDS, "nvidia", "graphics", "gpu", "corporation", "hbm2", "hbm2e", "hbm3", "hbm3e", "ac"}
#: What nvidia-smi adds to a product that the tables list without it.
_FORM = re.compile(r"\d+gb|sxm\d?|pcie|nvl|workstation|edition")
_MEMORY = re.compile(r"\d+gb")
_SERIES = ("rtx", "gtx", "gt")


@dataclass(frozen=True)
class Named:
    """A name and the row that it stands for: of gpus.products, or of gpu_chips.chips."""

    words: Words
    name: str
    row: Row
    product: bool

    @property
    def called(self) -> str:
        """Its name, with the chip where several may bear it."""
        return self.name if self.product else f"{self.name} with {self.row['chip']}"

    def of_brand(self, text: str) -> bool:
        """Tell whether the brand that is named, if one is, is its own."""
        return all(brand in self.name.lower() for brand in _BRANDS if brand in text.lower())


def find(text: str, tables: Tables) -> list[Named]:
    """Return what a name may stand for; the caller judges whether several are alike enough. Empty: nothing."""
    wanted = _words(text)
    if not wanted:
        return []
    exact = [named for named in _by_words(tables).get(wanted, ()) if named.of_brand(text)]
    family = [
        named for named in _names(tables) if named.product and named.of_brand(text) and _family(wanted, named.words)
    ]
    if exact:
        products = [named for named in exact if named.product] or [
            named for named in family if all(_FORM.fullmatch(word) for word in set(named.words) - set(wanted))
        ]
        # "RTX 6000" without a brand may be the Quadro or the one of a later generation.
        sure = any("quadro" not in named.name.lower() for named in exact) or "quadro" in text.lower()
        return (products or exact) if sure else [*exact, *family]
    plain = tuple(word for word in wanted if not _FORM.fullmatch(word))
    memory = any(_MEMORY.fullmatch(word) for word in wanted)
    return family or [
        named
        for named in _names(tables)
        if (plain and named.of_brand(text) and named.words == plain) or (named.product and named.words == plain)
        if not memory or not any(_MEMORY.fullmatch(word) for word in named.words)
    ]


def nearest(text: str, tables: Tables) -> str:
    """Return "did you mean 'X'? ", or nothing."""
    names = {"".join(named.words): named.name for named in _names(tables) if named.product}
    close = difflib.get_close_matches("".join(_words(text)), list(names), n=1, cutoff=0.6)
    return f"did you mean '{names[close[0]]}'? " if close else ""


def _family(wanted: Words, product: Words) -> bool:
    """Tell whether a name means a product among others: "A100" any A100, "3090" the RTX 3090."""
    begins = product[0] == wanted[0] or (product[0] in _SERIES and product[1:2] == wanted[:1])
    return begins and set(wanted) <= set(product)


def _words(name: str) -> Words:
    """Split a name into the words that tell products apart: "1080Ti" as "1080 Ti", "40 GB" as "40GB"."""
    text = re.sub(r"\blaptop\b", "mobile", name.lower())
    text = re.sub(r"\b(rtx|gtx)(?=\d)", r"\1 ", text)
    text = re.sub(r"(?<=\d)\s*(ti|super)\b", r" \1", text)
    text = re.sub(r"(?<=\d)\s+gb\b", "gb", text)
    return tuple(word for word in re.split(r"[^a-z0-9]+", text) if word and word not in _EMPTY)


def _spellings(name: str) -> list[str]:
    """Return every name in one of the tables: "Quadro RTX 6000 / 8000" is two, "GB10 (DGX Spark)" is known by
    either."""
    first, *others = name.split(" / ")
    found = [name, first]
    for other in others:
        stem = first.split(" ")[:-1]
        found.append(other if not stem or " " in other else " ".join([*stem, other]))
    inside = re.search(r"\(([A-Za-z]+ [A-Za-z ]+)\)", name)
    return found + ([inside.group(1), name[: inside.start()].strip()] if inside else [])


@cache
def _names(tables: Tables) -> Sequence[Named]:
    """Return every name of the tables, read once."""
    found = []
    for row in tables.rows("gpus.products"):
        for spelling in dict.fromkeys([*_spellings(row["name"]), *(row.get("aliases") or ())]):
            found.append(Named(_words(spelling), row["name"], row, product=True))
    for row in tables.rows("gpu_chips.chips"):
        for name in row["devices"].values():
            found += [Named(_words(spelling), name, row, product=False) for spelling in dict.fromkeys(_spellings(name))]
    return [named for named in found if named.words]


@cache
def _by_words(tables: Tables) -> dict[Words, list[Named]]:
    found: dict[Words, list[Named]] = {}
    for named in _names(tables):
        found.setdefault(named.words, []).append(named)
    return found
