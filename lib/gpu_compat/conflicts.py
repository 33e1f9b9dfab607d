# SPDX-License-Identifier: Apache-2.0
"""Conflicts: the smallest sets of wishes and facts that cannot hold together, in words, with what would make it
possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_compat.problem import Problem, Rule
from gpu_compat.solver import broken_rules, possible, smallest_conflict

# : Every conflict there is, with what it says. Closed: a test holds every plan to it, and docs/conflicts.md is made
# from it.
IDS: Mapping[str, str] = {
    "arch_vs_wheel": "no wheel with CUDA for the machine (x86_64, aarch64)",
    "cudnn_vs_cuda": "the cuDNN has no build for the CUDA major",
    "driver_vs_cuda": "the driver is too old for the CUDA",
    "driver_vs_kernel": "the driver's module does not build for the kernel",
    "driver_vs_product": "the driver does not know this product yet",
    "environment_pins": "frameworks that cannot share an environment",
    "glibc_vs_wheel": "the C library is too old for the wheel",
    "gpu_arch_vs_cuda_max": "the CUDA toolkit has left the GPU behind",
    "gpu_arch_vs_cuda_min": "the CUDA toolkit does not know the GPU yet",
    "gpu_arch_vs_cudnn": "the cuDNN does not serve the GPU",
    "gpu_arch_vs_driver": "the driver branch does not drive the GPU",
    "gpu_arch_vs_jax_wheel": "the JAX wheel holds no code for the GPU",
    "gpu_arch_vs_tensorflow_wheel": "the TensorFlow wheel holds no code for the GPU",
    "gpu_arch_vs_torch_wheel": "the PyTorch wheel holds no code for the GPU",
    "host_unknown": "nothing is known of the host",
    "keras_vs_backend": "Keras and what it computes on do not fit",
    "mixed_gpus_no_common_driver": "no driver drives all GPUs of the host",
    "module_flavor": "the flavour of the kernel module does not fit",
    "no_driver": "GPUs are to be used without a driver",
    "no_gpu": "a GPU is asked for, or a CUDA build, and there is no GPU",
    "os_vs_cuda": "NVIDIA's repository for the system does not have the CUDA toolkit",
    "os_vs_driver": "no source for the system has the driver",
    "python_not_available": "the Python that is asked for is not on the host",
    "python_vs_framework": "no wheel of the framework for the Python",
    "secure_boot": "the module would be refused by Secure Boot",
    "source_needs_root": "the source that is asked for changes the whole system, and nobody may become root",
    "source_vs_cuda": "the source that is asked for does not have the CUDA toolkit or the cuDNN",
    "toolkit_vs_framework": "the framework needs a CUDA toolkit on the host",
    "two_of_one_series": "two releases of one CUDA series are asked for; a host has one",
    "unknown_component": "no part of the CUDA toolkit is called that",
    "unknown_gpu": "the tables do not know the GPU",
    "unknown_release": "no release that the tables know is meant",
    "unsupported_vendor": "the GPU is not NVIDIA's",
}
#: Which rules are given up first when several explain a conflict equally well.
_GIVEN_UP = (
    "two_of_one_series",
    "toolkit_vs_framework",
    "cudnn_vs_cuda",
    "driver_vs_product",
    "driver_vs_cuda",
    "gpu_arch_vs_cudnn",
    "secure_boot",
    "os_vs_driver",
    "os_vs_cuda",
    "source_vs_cuda",
    "unknown_component",
    "source_needs_root",
    "driver_vs_kernel",
    "module_flavor",
    "environment_pins",
    "keras_vs_backend",
    "python_vs_framework",
    "python_not_available",
    "glibc_vs_wheel",
    "arch_vs_wheel",
    "gpu_arch_vs_cuda_max",
    "gpu_arch_vs_cuda_min",
    "gpu_arch_vs_driver",
    "gpu_arch_vs_torch_wheel",
    "gpu_arch_vs_tensorflow_wheel",
    "gpu_arch_vs_jax_wheel",
    "no_gpu",
    "unknown_release",
)
#: Which of the rules that are needed names the conflict, the first that is among them.
_NAMES = (
    "source_needs_root",
    "unknown_component",
    "arch_vs_wheel",
    "gpu_arch_vs_torch_wheel",
    "gpu_arch_vs_tensorflow_wheel",
    "gpu_arch_vs_jax_wheel",
    "gpu_arch_vs_cudnn",
    "gpu_arch_vs_cuda_max",
    "gpu_arch_vs_cuda_min",
    "driver_vs_product",
    "driver_vs_kernel",
    "module_flavor",
    "secure_boot",
    "glibc_vs_wheel",
    "environment_pins",
    "keras_vs_backend",
    "driver_vs_cuda",
    "os_vs_cuda",
    "source_vs_cuda",
    "os_vs_driver",
    "gpu_arch_vs_driver",
    "python_vs_framework",
    "python_not_available",
    "cudnn_vs_cuda",
    "toolkit_vs_framework",
    "two_of_one_series",
    "no_gpu",
    "no_driver",
    "unknown_release",
)
#: More conflicts than these are not looked for, nor in more ways: an admin mends some and asks again.
MOST = 6
MOST_WAYS = 40
Conflict = dict[str, Any]


def entry(
    conflict_id: str, message: str, involves: Iterable[str], source: str, because: Sequence[str] = ()
) -> Conflict:
    """Return a conflict as it stands in an answer."""
    return {
        "id": conflict_id,
        "message": message,
        "involves": list(involves),
        "because": list(because) or [message],
        "source": source,
    }


def find(problem: Problem, known: Sequence[frozenset[str]] = ()) -> list[tuple[Conflict, frozenset[str]]]:
    """Return the conflicts of a problem, each with the members it rests on, but for those that are ``known``.

    Conflicts may share members, so one after the other is looked for with every way of taking the earlier ones away (a
    hitting set tree): where only one is returned and none was known, dropping any of its members makes a solution.
    """
    found: list[frozenset[str]] = list(known)
    described: list[tuple[Conflict, frozenset[str]]] = []
    ways: list[frozenset[str]] = [frozenset()]
    tried: set[frozenset[str]] = set()
    while ways and len(described) < MOST and len(tried) < MOST_WAYS:
        dropped = ways.pop(0)
        if dropped in tried:
            continue
        tried.add(dropped)
        needed = next((members for members in found if not members & dropped), None)
        if needed is None and not possible(problem, dropped):
            rest = problem.without(dropped)
            needed = smallest_conflict(rest, _members(rest))
            if not needed:
                break  # laws alone forbid it: a fault of the tables, which the check of the tables finds
            found.append(needed)
            described.append((_describe(rest, needed), needed))
        ways += [dropped | {member} for member in sorted(needed or ())]
    return described


def _members(problem: Problem) -> list[str]:
    """Return the members in the order in which they are given up: what a host is stays longest in doubt of being
    named."""
    order = {"host.gpus": 0, "host.os": 1, "host.arch": 1, "host.kernel": 1, "host.next_boot_kernel": 1}
    return sorted(
        problem.members, key=lambda member: (order.get(member, 2 if member.startswith("request.") else 3), member)
    )


def _describe(problem: Problem, members: frozenset[str]) -> Conflict:
    """Put a smallest conflict into words."""
    dropped = frozenset(problem.members) - members
    ids = broken_rules(problem, members, _GIVEN_UP)
    rules = _told(problem, members, dropped, ids)
    facts = [rule.says() for rule in rules if not _is_wish(rule)]
    wishes = [rule.says() for rule in rules if _is_wish(rule)]
    because = list(dict.fromkeys(text for text in [*wishes, *facts] if text))
    sources = list(dict.fromkeys(rule.origin() for rule in rules if rule.source and not _is_wish(rule)))
    shown = _shown(members)
    return entry(
        _named(shown, ids),
        _sentence(list(dict.fromkeys(wishes)), list(dict.fromkeys(facts))),
        shown,
        "; ".join(sources[:3]) or "the request itself",
        because,
    )


def mask_first(bits: int) -> int:
    """Return the place of the first candidate that is left."""
    return (bits & -bits).bit_length() - 1


def _of(rule: Rule) -> frozenset[str]:
    """Return a rule's members without the parts of wishes."""
    return frozenset(member for member in rule.members if "#" not in member)


def _is_wish(rule: Rule) -> bool:
    return bool(rule.members) and all(
        member.startswith("request.") or member == "host.driver" for member in rule.members
    )


def _sentence(wishes: Sequence[str], facts: Sequence[str]) -> str:
    first = " and ".join(text for text in wishes if text)
    second = "; ".join(text for text in facts if text)
    return f"{first}, but {second}" if first and second else first or second


def _told(problem: Problem, members: frozenset[str], dropped: frozenset[str], ids: Sequence[str]) -> list[Rule]:
    """Return the rules worth telling: those that rest on the members, and the laws that tie them together."""
    told = [
        rule
        for rule in problem.rules
        if rule.members and _of(rule) <= members and rule.id in ids and _bites(problem, rule)
    ]
    told = _needed(problem, told, dropped)
    laws: list[Rule] = []
    alive = {package: (1 << len(found)) - 1 for package, found in problem.candidates.items()}
    for rule in problem.rules:
        if not rule.members & dropped and rule.id in ids:
            alive[rule.package] &= problem.mask(rule)
    for package, found in problem.candidates.items():
        for candidate in found:
            if alive[package] & (1 << candidate.index):
                laws += [
                    law
                    for law in candidate.requires()
                    if law.id in ids
                    and law.package in alive
                    and not law.members & dropped
                    and not problem.mask(law) & alive[law.package]
                ]
    if not laws:
        # Each law could be met, only not all of them: the laws of what would be wanted most tell best.
        wanted = [
            (package, found[mask_first(alive[package])])
            for package, found in problem.candidates.items()
            if alive[package]
        ]
        laws = [
            law
            for _, candidate in wanted
            for law in candidate.requires()
            if law.id in ids and not law.members & dropped
        ]
    texts: dict[str, Rule] = {}
    for law in laws:
        texts.setdefault(law.says(), law)
    return told + list(texts.values())[:3]


def _needed(problem: Problem, told: Sequence[Rule], dropped: frozenset[str]) -> list[Rule]:
    """Leave out the rules without which there is a conflict all the same."""
    needed = list(told)
    for rule in told:
        without = [other for other in needed if other is not rule]
        smaller = Problem(
            problem.candidates,
            [other for other in problem.rules if not other.members or other in without],
            problem.wanted_by,
        )
        if not possible(smaller, dropped):
            needed = without
    one_gpu = any(member.startswith("host.gpus[") for rule in needed for member in rule.members)
    return [rule for rule in needed if not (one_gpu and rule.members == {"host.gpus"})]


def _bites(problem: Problem, rule: Rule) -> bool:
    """Tell whether a rule forbids anything at all."""
    return problem.mask(rule) != (1 << len(problem.candidates[rule.package])) - 1


def _shown(members: frozenset[str]) -> list[str]:
    """Return the members as they are named: that there are GPUs at all goes without saying where one of them is
    named."""
    if any(member.startswith("host.gpus[") for member in members):
        members = members - {"host.gpus"}
    return sorted(members, key=lambda member: (not member.startswith("host."), member))


def _named(members: Sequence[str], ids: Sequence[str]) -> str:
    if (
        len(members) > 1
        and all(member.startswith("host.gpus[") for member in members)
        and {"gpu_arch_vs_driver", "module_flavor"} & set(ids)
    ):
        return "mixed_gpus_no_common_driver"
    return next((name for name in _NAMES if name in ids), "unknown_release")
