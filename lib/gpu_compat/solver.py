# SPDX-License-Identifier: Apache-2.0
"""The search: ``resolvelib``, the resolver of pip, over a :class:`~gpu_compat.problem.Problem`.

Before it starts, candidates that no choice elsewhere can go with are struck out (arc consistency), so an impossible
wish is mostly seen without any search, and a possible one found without going back. The resolver takes back a choice
when a later one asks for something else, so by itself it does not honour that the driver matters more than the
toolkit; packages are therefore settled one after the other, with the resolver as the judge of what each choice leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver

from gpu_compat.problem import Candidate, Problem, Rule

#: Rounds that the resolver gets before the question is split at the package that leaves the fewest candidates: it goes
#: back one choice at a time, which can take it long to see that nothing fits.
MAX_ROUNDS = 50

Solution = dict[str, Any]
Domains = dict[str, int]
#: What a rule accepts that does not hold.
EVERYTHING = -1


def solve(
    problem: Problem, dropped: frozenset[str] = frozenset(), ignored: frozenset[str] = frozenset()
) -> Solution | None:
    """Find the best choice for every package: for the first the best that any solution has, then for the second, and
    so on.

    Args:
        problem: what is asked.
        dropped: members whose rules do not hold.
        ignored: ids of rules that do not hold, laws included.

    Returns:
        package -> choice, or None where there is no solution.
    """
    search = _Search(problem, dropped, ignored)
    domains = search.prune(search.start())
    if domains is None or search.resolve(domains) is None:
        return None
    for package in list(domains):
        domains = search.best(package, domains)
    return search.resolve(domains)


def possible(problem: Problem, dropped: frozenset[str] = frozenset(), ignored: frozenset[str] = frozenset()) -> bool:
    """Tell whether there is any solution; the arguments are those of :func:`solve`."""
    search = _Search(problem, dropped, ignored)
    domains = search.prune(search.start())
    return domains is not None and search.resolve(domains) is not None


class _Search:
    """One search: a problem, and what of it does not hold. Domains are the candidates left, as bits."""

    def __init__(self, problem: Problem, dropped: frozenset[str], ignored: frozenset[str]) -> None:
        self.problem, self.dropped, self.ignored = problem, dropped, ignored
        self.packages = [package for package in problem.candidates if problem.wanted_by.get(package) not in dropped]
        self._masks: dict[Rule, int] = {}
        # package -> those with a law on it, as far as their candidates have been looked at
        self._readers: dict[str, dict[str, None]] = {package: {} for package in self.packages}

    def mask(self, rule: Rule) -> int:
        """Return the candidates that a rule accepts, as bits; all of them for a rule that does not hold."""
        if rule not in self._masks:
            holds = rule.package in self._readers and rule.id not in self.ignored and not rule.members & self.dropped
            self._masks[rule] = self.problem.mask(rule) if holds else EVERYTHING
        return self._masks[rule]

    def start(self) -> Domains:
        """Return what the rules that hold from the start leave of every package."""
        domains = {package: (1 << len(self.problem.candidates[package])) - 1 for package in self.packages}
        for rule in self.problem.rules:
            mask = self.mask(rule)
            if mask != EVERYTHING:
                domains[rule.package] &= mask
        return domains

    def prune(self, domains: Domains, narrowed: str | None = None) -> Domains | None:
        """Strike out what no choice elsewhere can go with, in both directions; None where a package has nothing left.

        A candidate goes when nothing is left that one of its laws accepts, and everything goes that no candidate left
        of another package accepts. Of domains that were pruned before, the one ``narrowed`` since may be named.
        """
        domains = dict(domains)
        if not all(domains.values()):
            return None
        waiting = dict.fromkeys(self.packages if narrowed is None else (narrowed, *self._readers[narrowed]))
        while waiting:
            package = next(iter(waiting))
            del waiting[package]
            before = domains[package]
            accepted = self.accepted(package, domains)
            if not domains[package]:
                return None
            smaller = [package] if domains[package] != before else []
            for other, mask in accepted.items():
                if domains[other] & ~mask:
                    domains[other] &= mask
                    if not domains[other]:
                        return None
                    smaller.append(other)
                    waiting[other] = None
            for name in smaller:
                waiting.update(self._readers[name])
        return domains

    def accepted(self, package: str, domains: Domains) -> Domains:
        """Strike out the candidates of a package whose laws cannot be met; return what those left accept of others."""
        accepted: Domains | None = None
        masks = self._masks
        read: set[str] = set()
        for candidate in self.left(package, domains):
            demands: Domains = {}
            for law in candidate.requires():
                mask = masks[law] if law in masks else self.mask(law)
                if mask == EVERYTHING:
                    continue
                other = law.package
                bits = demands.get(other, domains[other]) & mask
                if not bits:
                    domains[package] &= ~(1 << candidate.index)
                    break
                demands[other] = bits
            else:
                read.update(demands)
                # A candidate without a law on a package accepts all of it.
                accepted = (
                    demands
                    if accepted is None
                    else {other: mask | demands[other] for other, mask in accepted.items() if other in demands}
                )
        for other in read:
            self._readers[other][package] = None
        return accepted or {}

    def left(self, package: str, domains: Domains) -> list[Candidate]:
        """Return the candidates of a package that are left, the best first."""
        bits = domains[package]
        return [candidate for candidate in self.problem.candidates[package] if bits >> candidate.index & 1]

    def laws(self, candidate: Candidate) -> list[Rule]:
        """Return the laws that come with a candidate and hold."""
        return [law for law in candidate.requires() if self.mask(law) != EVERYTHING]

    def best(self, package: str, domains: Domains) -> Domains:
        """Choose the best for a package that leaves a solution for the rest."""
        left = self.left(package, domains)
        for candidate in left[:-1]:
            narrowed = self.prune({**domains, package: 1 << candidate.index}, package)
            if narrowed is not None and self.resolve(narrowed) is not None:
                return narrowed
        return self.prune({**domains, package: 1 << left[-1].index}, package) or domains

    def ties(self, domains: Domains) -> list[set[str]]:
        """Return the packages whose choice still depends on another's, in groups that depend on each other."""
        groups: dict[str, set[str]] = {}
        for package in self.packages:
            for candidate in self.left(package, domains):
                for law in self.laws(candidate):
                    if domains[law.package] & ~self.mask(law):
                        joined = groups.get(package, {package}) | groups.get(law.package, {law.package})
                        groups.update(dict.fromkeys(joined, joined))
        return list({id(group): group for group in groups.values()}.values())

    def resolve(self, domains: Domains) -> Solution | None:
        """Find any solution within pruned domains: what is free takes its best, each group is searched."""
        solution = {package: self.left(package, domains)[0].value for package in self.packages}
        for group in self.ties(domains):
            found = self.search(group, domains)
            if found is None:
                return None
            solution.update(found)
        return solution

    def search(self, group: set[str], domains: Domains) -> Solution | None:
        """Find a solution for packages that depend on each other."""
        roots = [Rule(package, "", lambda value: True) for package in self.packages if package in group]
        try:
            result = Resolver(_Provider(self, domains, group), BaseReporter()).resolve(roots, max_rounds=MAX_ROUNDS)
        except ResolutionImpossible:
            return None
        except ResolutionTooDeep:
            return self.split(group, domains)
        return {package: candidate.value for package, candidate in result.mapping.items()}

    def split(self, group: set[str], domains: Domains) -> Solution | None:
        """Ask again for each choice of the package that leaves the fewest."""
        undecided = [package for package in self.packages if package in group and domains[package].bit_count() > 1]
        package = min(undecided, key=lambda name: domains[name].bit_count())
        for candidate in self.left(package, domains):
            narrowed = self.prune({**domains, package: 1 << candidate.index}, package)
            found = None if narrowed is None else self.resolve(narrowed)
            if found is not None:
                return {name: value for name, value in found.items() if name in group}
        return None


class _Provider(AbstractProvider[Rule, Candidate, str]):
    """Tells resolvelib of candidates and rules."""

    def __init__(self, search: _Search, domains: Domains, group: set[str]) -> None:
        self.search, self.problem, self.domains, self.group = search, search.problem, domains, group
        # What leaves least choice first: there it is soonest seen that nothing fits.
        self.order = {package: (domains[package].bit_count(), place) for place, package in enumerate(search.packages)}

    def identify(self, requirement_or_candidate: Rule | Candidate) -> str:
        """Both are about a package."""
        return requirement_or_candidate.package

    def get_preference(self, identifier: str, *_: Any, **__: Any) -> tuple[int, int]:
        """Packages with the fewest candidates are decided first."""
        return self.order[identifier]

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Rule]],
        incompatibilities: Mapping[str, Iterator[Candidate]],
    ) -> Iterable[Candidate]:
        """Return what is left of a package's candidates, the best first."""
        left = self.domains[identifier]
        for rule in requirements[identifier]:
            if rule.id:
                left &= self.problem.mask(rule)
        for candidate in incompatibilities[identifier]:
            left &= ~(1 << candidate.index)
        return [candidate for candidate in self.problem.candidates[identifier] if left & (1 << candidate.index)]

    def is_satisfied_by(self, requirement: Rule, candidate: Candidate) -> bool:
        """Tell whether a rule accepts a candidate."""
        return not requirement.id or bool(self.problem.mask(requirement) & (1 << candidate.index))

    def get_dependencies(self, candidate: Candidate) -> Sequence[Rule]:
        """Return the laws that come with a candidate."""
        return [law for law in self.search.laws(candidate) if law.package in self.group]


def smallest_conflict(problem: Problem, members: Sequence[str]) -> frozenset[str]:
    """Return a smallest set of members that cannot hold together: without any one of them there is a solution.

    Args:
        problem: one that has no solution.
        members: all of its members; what comes first is given up first.
    """
    needed: list[str] = list(members)
    dropped: set[str] = set()
    for member in members:
        if not possible(problem, frozenset(dropped | {member})):
            dropped.add(member)
            needed.remove(member)
    return frozenset(needed)


def broken_rules(problem: Problem, kept: frozenset[str], ids: Sequence[str]) -> list[str]:
    """Return the ids of the rules that a smallest conflict needs, ``ids`` being given up from the first on."""
    dropped = frozenset(problem.members) - kept
    used = {rule.id for rule in (*problem.rules, *problem.laws) if not rule.members & dropped}
    ignored: set[str] = set()
    for rule_id in ids:
        if rule_id in used and not possible(problem, dropped, frozenset(ignored | {rule_id})):
            ignored.add(rule_id)
    return [rule_id for rule_id in ids if rule_id in used - ignored]
