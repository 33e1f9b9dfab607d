# SPDX-License-Identifier: Apache-2.0
"""What the library says when a wish cannot be read or cannot be met."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Mistake:
    """One mistake in a request.

    Attributes:
        path: where it is, as the user would write it: ``environments[0].python``.
        message: what is wrong and what to write instead, one sentence, no trailing full stop.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class CompatError(Exception):
    """The input cannot be used. Carries every mistake found, never only the first.

    Attributes:
        mistakes: the mistakes, in the order in which a reader meets them in the input.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = list(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))
