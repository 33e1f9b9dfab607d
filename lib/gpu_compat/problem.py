# SPDX-License-Identifier: Apache-2.0
"""The search problem: packages, their candidates in order of preference, and rules between them.

A rule rests on *members*, the wishes and facts it comes from ("host.gpus[0]", "request.driver"). A rule without
members is a law: it holds whatever anybody wishes. Dropping a member drops its rules; that is how the smallest conflict
is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Text = str | Callable[[], str]


@dataclass(eq=False, slots=True)
class Candidate:
    """One thing that a package may be.

    Attributes:
        package: the package's name: "driver", "toolkit[0]", "env[1].pytorch".
        value: the choice itself.
        index: its place in the order of preference.
        laws: makes the rules on other packages that hold when this is chosen; called once, when first needed.
    """

    package: str
    value: Any
    index: int
    laws: Callable[[], Sequence[Rule]] | None = None
    _made: Sequence[Rule] | None = None

    def requires(self) -> Sequence[Rule]:
        """Return the rules on other packages."""
        if self._made is None:
            self._made = self.laws() if self.laws else ()
        return self._made


@dataclass(eq=False, slots=True)
class Rule:
    """What a package must be.

    Attributes:
        package: the package it is about.
        id: the id of the conflict that it leads to.
        accepts: whether a choice is allowed.
        members: wishes and facts it rests on.
        text: one sentence for an admin; may be made when it is needed.
        source: where the rule comes from; may be made when it is needed, too.
    """

    package: str
    id: str
    accepts: Callable[[Any], bool]
    members: frozenset[str] = frozenset()
    text: Text = ""
    source: Text = ""
    _mask: int = -1

    def says(self) -> str:
        """Return the sentence."""
        return self.text if isinstance(self.text, str) else self.text()

    def origin(self) -> str:
        """Return where the rule comes from."""
        return self.source if isinstance(self.source, str) else self.source()


@dataclass
class Problem:
    """Packages with candidates, and the rules on them.

    Attributes:
        candidates: what each package may be, the best first.
        rules: what holds from the start; laws come with candidates.
        wanted_by: the member without which a package is not there at all.
    """

    candidates: dict[str, list[Candidate]] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    wanted_by: dict[str, str] = field(default_factory=dict)
    _laws: dict[Any, Rule] = field(default_factory=dict)

    def add(
        self,
        package: str,
        values: Iterable[Any],
        laws: Callable[[Any], Sequence[Rule]] | None = None,
        wanted_by: str = "",
    ) -> None:
        """Add a package with its choices, the best first."""
        if wanted_by:
            self.wanted_by[package] = wanted_by
        found = self.candidates[package] = []
        for index, value in enumerate(values):
            made = (lambda value=value: laws(value)) if laws else None
            found.append(Candidate(package, value, index, made))

    def rule(
        self,
        package: str,
        rule_id: str,
        accepts: Callable[[Any], bool],
        *members: str,
        text: Text = "",
        source: Text = "",
    ) -> None:
        """Add a rule that rests on wishes or facts."""
        self.rules.append(Rule(package, rule_id, accepts, frozenset(members), text, source))

    def law(
        self,
        package: str,
        rule_id: str,
        key: object,
        accepts: Callable[[Any], bool],
        *members: str,
        text: Text = "",
        source: Text = "",
    ) -> Rule:
        """Return a law; equal keys share one rule, so that it is worked out once."""
        whole = (package, rule_id, key, members)
        if whole not in self._laws:
            self._laws[whole] = Rule(package, rule_id, accepts, frozenset(members), text, source)
        return self._laws[whole]

    def mask(self, rule: Rule) -> int:
        """Return the candidates that a rule accepts, as bits."""
        if rule._mask < 0:
            rule._mask = sum(
                1 << candidate.index for candidate in self.candidates[rule.package] if rule.accepts(candidate.value)
            )
        return rule._mask

    @cached_property
    def laws(self) -> list[Rule]:
        """Every law that comes with a candidate, each once; to be asked for when all packages are there."""
        found = (law for package in self.candidates.values() for candidate in package for law in candidate.requires())
        return list(dict.fromkeys(found))

    @cached_property
    def members(self) -> list[str]:
        """Every wish and fact that a rule rests on, each once; parts of a wish (``wish#part``) are no wishes."""
        found: dict[str, None] = dict.fromkeys(self.wanted_by.values())
        for rule in (*self.rules, *self.laws):
            found.update(dict.fromkeys(sorted(rule.members)))
        return [member for member in found if "#" not in member]

    def part(self, packages: Iterable[str]) -> Problem:
        """Return the problem of some packages alone; laws on packages that are left out do not hold in it."""
        wanted = set(packages)
        smaller = Problem({name: found for name, found in self.candidates.items() if name in wanted})
        smaller.rules = [rule for rule in self.rules if rule.package in wanted]
        smaller.wanted_by = {package: member for package, member in self.wanted_by.items() if package in wanted}
        return smaller

    def without(self, dropped: frozenset[str]) -> Problem:
        """Return the problem without the rules and packages of some members, laws included only where they rest on
        others."""
        smaller = self.part(package for package in self.candidates if self.wanted_by.get(package) not in dropped)
        smaller.rules = [rule for rule in smaller.rules if not rule.members & dropped]
        return smaller
