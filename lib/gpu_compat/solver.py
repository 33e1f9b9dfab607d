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
        self._active: dict[Rule, bool] = {}

    def active(self, rule: Rule) -> bool:
        """Tell whether a rule holds."""
        if rule not in self._active:
            self._active[rule] = (
                rule.package in self.problem.candidates
                and rule.id not in self.ignored
                and not rule.members & self.dropped
                and self.problem.wanted_by.get(rule.package) not in self.dropped
            )
        return self._active[rule]

    def start(self) -> Domains:
        """Return what the rules that hold from the start leave of every package."""
        domains = {package: (1 << len(self.problem.candidates[package])) - 1 for package in self.packages}
        for rule in self.problem.rules:
            if self.active(rule):
                domains[rule.package] &= self.problem.mask(rule)
        return domains

    def prune(self, domains: Domains) -> Domains | None:
        """Strike out what no choice elsewhere can go with, in both directions; None where a package has nothing left.

        A candidate goes when nothing is left that one of its laws accepts, and everything goes that no candidate left
        of another package accepts.
        """
        domains = dict(domains)
        if not all(domains.values()):
            return None
        changed = True
        while changed:
            changed = False
            for package in self.packages:
                before = domains[package]
                accepted = self.accepted(package, domains)
                if not domains[package]:
                    return None
                changed = changed or domains[package] != before
                for other, mask in accepted.items():
                    if domains[other] & ~mask:
                        domains[other] &= mask
                        changed = True
                        if not domains[other]:
                            return None
        return domains

    def accepted(self, package: str, domains: Domains) -> Domains:
        """Strike out the candidates of a package whose laws cannot be met; return what those left accept of others."""
        accepted: Domains | None = None
        for candidate in self.left(package, domains):
            demands: Domains = {}
            for law in candidate.requires():
                bits = domains.get(law.package)
                if bits is not None and self.active(law):
                    demands[law.package] = demands.get(law.package, bits) & self.problem.mask(law)
            if not all(demands.values()):
                domains[package] &= ~(1 << candidate.index)
            elif accepted is None:
                accepted = demands
            else:
                # A candidate without a law on a package accepts all of it.
                accepted = {other: mask | demands[other] for other, mask in accepted.items() if other in demands}
        return accepted or {}

    def left(self, package: str, domains: Domains) -> list[Candidate]:
        """Return the candidates of a package that are left, the best first."""
        bits = domains[package]
        return [candidate for candidate in self.problem.candidates[package] if bits >> candidate.index & 1]

    def laws(self, candidate: Candidate) -> list[Rule]:
        """Return the laws that come with a candidate and hold."""
        return [law for law in candidate.requires() if self.active(law)]

    def best(self, package: str, domains: Domains) -> Domains:
        """Choose the best for a package that leaves a solution for the rest."""
        left = self.left(package, domains)
        for candidate in left[:-1]:
            narrowed = self.prune({**domains, package: 1 << candidate.index})
            if narrowed is not None and self.resolve(narrowed) is not None:
                return narrowed
        return self.prune({**domains, package: 1 << left[-1].index}) or domains

    def ties(self, domains: Domains) -> list[set[str]]:
        """Return the packages whose choice still depends on another's, in groups that depend on each other."""
        groups: dict[str, set[str]] = {}
        for package in self.packages:
            for candidate in self.left(package, domains):
                for law in candidate.requires():
                    bits = domains.get(law.package)
                    if bits is None or self.problem.mask(law) & bits == bits or not self.active(law):
                        continue
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
            narrowed = self.prune({**domains, package: 1 << candidate.index})
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
    dropped = frozenset(problem.members()) - kept
    ignored: set[str] = set()
    for rule_id in ids:
        if not possible(problem, dropped, frozenset(ignored | {rule_id})):
            ignored.add(rule_id)
    return [rule_id for rule_id in ids if rule_id not in ignored]
