# SPDX-License-Identifier: Apache-2.0
"""The plan: what will be true of a host and why.

So far it decides the profile, the interpreters and the framework releases; driver, CUDA and cuDNN are left as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from gpu_compat.request import KERAS_BACKENDS, read_request
from gpu_compat.tables import minor, releases, table

NVIDIA = "10de"


class _Conflict(Exception):
    """A wish and a fact that cannot hold together; becomes one entry of ``conflicts``."""

    def __init__(self, conflict_id: str, message: str, involves: Sequence[str], source: str) -> None:
        super().__init__(message)
        self.entry: dict[str, Any] = {
            "id": conflict_id,
            "message": message,
            "involves": list(involves),
            "because": [message],
            "source": source,
        }


def plan(request: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Plan one host.

    Args:
        request: a ``gpu_stack``, plain data.
        facts: what the module ``gpu_facts`` returned for the host, plain data.

    Returns:
        ``{"status": "planned" | "conflict", "data_as_of", "plan", "reasons", "conflicts", "warnings"}``. ``plan`` is
        ``None`` on conflict. The same input always gives the same output.

    Raises:
        CompatError: the request cannot be read.
    """
    wish = read_request(request)
    reasons: list[dict[str, str]] = []
    conflicts: list[dict[str, Any]] = []
    warnings: list[str] = []
    environments: list[dict[str, Any]] = []
    unavailable: list[dict[str, str]] = []
    profile = "cpu"
    try:
        profile = _profile(wish, facts, reasons, warnings)
    except _Conflict as conflict:
        conflicts.append(conflict.entry)
    else:
        for index, environment in enumerate(wish["environments"]):
            try:
                environments.append(_environment(environment, index, profile, facts, reasons))
            except _Conflict as conflict:
                if environment["optional"]:
                    unavailable.append({"name": environment["name"], "reason": conflict.entry["message"]})
                else:
                    conflicts.append(conflict.entry)
    whole: dict[str, Any] = {
        "profile": profile,
        "environments": environments,
        "unavailable_environments": unavailable,
    }
    return {
        "status": "conflict" if conflicts else "planned",
        "data_as_of": table("frameworks")["as_of"],
        "plan": None if conflicts else whole,
        "reasons": reasons,
        "conflicts": conflicts,
        "warnings": warnings,
    }


def _profile(
    wish: Mapping[str, Any], facts: Mapping[str, Any], reasons: list[dict[str, str]], warnings: list[str]
) -> str:
    """Decide by PCI evidence whether the host is to be proven with or without a GPU."""
    gpus = facts["gpus"]
    if gpus is None:
        seen = f"the PCI bus cannot be read ({facts['unknown'].get('gpus', 'no reason given')})"
    else:
        seen = f"the PCI bus shows {len(gpus)} NVIDIA GPU(s)"
    if facts["other_gpus"]:
        seen += f" and, of other vendors: {', '.join(gpu['name'] for gpu in facts['other_gpus'])}"
    asked = wish["profile"]
    if asked == "gpu" and not gpus:
        raise _Conflict(
            "no_gpu",
            f"profile: gpu is asked for, but {seen}. Write profile: cpu or auto, or look why the GPU is not on the bus",
            ["request.profile", "host.gpus"],
            "validation rules: a GPU that is expected must be found",
        )
    if asked == "auto" and gpus is None:
        raise _Conflict(
            "no_gpu",
            f"profile: auto decides by what is on the PCI bus, but {seen}. Write profile: cpu or profile: gpu",
            ["request.profile", "host.gpus"],
            "validation rules: that there is no GPU needs evidence",
        )
    profile = "gpu" if asked != "cpu" and gpus else "cpu"
    if profile == "gpu" and not facts["driver"]["loaded_version"]:
        raise _Conflict(
            "no_driver",
            f"{seen}, but no NVIDIA driver is loaded ({facts['driver']['reason']}), and this version of the project "
            "does not install drivers. Install one, or write profile: cpu to provision this host without its GPU",
            ["request.profile", "host.gpus", "host.driver"],
            "validation rules: a GPU without a working driver is a failure, never a skip",
        )
    if asked == "cpu" and gpus:
        warnings.append(f"profile: cpu was asked for although {seen}: nothing will be said about the GPU")
    reasons.append({"about": "profile", "choice": profile, "because": f"profile: {asked}, and {seen}", "source": "PCI"})
    return profile


def _environment(
    wish: Mapping[str, Any], index: int, profile: str, facts: Mapping[str, Any], reasons: list[dict[str, str]]
) -> dict[str, Any]:
    """Plan one environment. The result is all that the roles need; equal results have equal digests."""
    backend = _keras_backend(wish)
    planned: dict[str, Any] = {
        "name": wish["name"],
        "optional": wish["optional"],
        "existing": wish["existing"],
        "keras_backend": backend,
        "imports": [table("frameworks")["imports"][name] for name in wish["frameworks"]],
    }
    if wish["existing"]:
        return {
            **planned,
            "frameworks": {name: {"version": "any"} for name in wish["frameworks"]},
            "digest": "",
        }
    where = f"request.environments[{index}]"
    python = _python(wish, where, profile, facts)
    frameworks = {
        name: _framework(name, wanted, f"{where}.frameworks.{name}", python["version"], profile, facts)
        for name, wanted in wish["frameworks"].items()
    }
    planned.update(
        manager=wish["manager"],
        python=python,
        frameworks=frameworks,
        requirements=[entry["requirement"] for entry in frameworks.values()],
        torch_packages=[],
        forbidden=table("frameworks")["cuda_packages"] if profile == "cpu" else [],
    )
    _add_companions(planned, wish["extras"])
    reasons.append(
        {
            "about": f"environments.{wish['name']}.python",
            "choice": python["version"],
            "because": python["because"],
            "source": table("frameworks")["frameworks"][next(iter(frameworks))]["source"],
        }
    )
    return {**planned, "digest": _digest(planned)}


def _digest(planned: Mapping[str, Any]) -> str:
    """Digest what an environment is made of. Where its Python comes from does not count: once a missing one has been
    provided, the same plan finds it on the host."""
    parts = {**planned, "python": planned["python"]["version"]}
    del parts["optional"]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _keras_backend(wish: Mapping[str, Any]) -> str | None:
    """Return the framework that Keras computes on here, or None where there is no Keras."""
    if "keras" not in wish["frameworks"]:
        return None
    if wish["keras_backend"] != "auto":
        return str(wish["keras_backend"])
    return next(backend for name, backend in KERAS_BACKENDS.items() if name in wish["frameworks"])


def _add_companions(planned: dict[str, Any], extras: Sequence[str]) -> None:
    """Add what the frameworks are used with and the packages of each field.

    Those that belong to PyTorch must come from where PyTorch comes from.
    """
    packages: list[str] = []
    for framework in planned["frameworks"]:
        packages += table("frameworks")["frameworks"][framework].get("companions", [])
    for extra in extras:
        row = table("frameworks")["extras"][extra]
        packages += row["packages"]
        for framework, companions in row["with"].items():
            if framework in planned["frameworks"]:
                packages += companions
                planned["torch_packages"] += companions
    planned["requirements"] += sorted(set(packages))
    if "pytorch" in planned["frameworks"]:
        planned["torch_packages"] = ["torch", *sorted(set(planned["torch_packages"]))]


def _fitting(
    name: str, wanted: Mapping[str, Any], python: tuple[int, int], profile: str, facts: Mapping[str, Any]
) -> list[str]:
    """Return the known releases, newest first, that the wish, the Python and the variant allow."""
    specifier = SpecifierSet("" if wanted["version"] in ("newest", "any") else wanted["version"])
    last = Version(_variant(name, wanted, profile, facts).get("last", "999"))
    return [
        version
        for version, parsed, first_python, last_python in releases(name)
        if specifier.contains(parsed) and parsed <= last and first_python <= python <= last_python
    ]


def _variant(name: str, wanted: Mapping[str, Any], profile: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the CPU build, or the newest CUDA build that the loaded driver can run."""
    row = table("frameworks")["frameworks"][name]
    if profile == "cpu":
        package = row["cpu"].get(facts["arch"])
        if package is None:
            raise _Conflict(
                "arch_vs_wheel",
                f"{name} has no wheels for {facts['arch']}; hosts are {' or '.join(row['cpu'])}",
                ["host.arch"],
                row["source"],
            )
        return {"tag": "cpu", "package": package}
    driver = Version(facts["driver"]["loaded_version"])
    fits = [variant for variant in row["gpu"] if Version(variant["driver_first"]) <= driver]
    if wanted["cuda"]:
        fits = [
            variant for variant in fits if variant["tag"].startswith(("any", f"cu{wanted['cuda'].removeprefix('cu')}"))
        ]
    if not fits:
        raise _Conflict(
            "driver_vs_cuda",
            f"no CUDA build of {name}{' for ' + wanted['cuda'] if wanted['cuda'] else ''} runs on driver "
            f"{facts['driver']['loaded_version']}; known: "
            + ", ".join(f"{row['tag']} from driver {row['driver_first']}" for row in row["gpu"]),
            ["host.driver", f"request.frameworks.{name}"],
            row["source"],
        )
    return dict(fits[0])


def _framework(
    name: str, wanted: Mapping[str, Any], where: str, python: str, profile: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Plan one framework: its package, the releases that may be taken, and the variant that fits the host."""
    variant = _variant(name, wanted, profile, facts)
    fits = _fitting(name, wanted, minor(python), profile, facts)
    if not fits:
        raise _Conflict(
            "python_vs_framework",
            f"no known release of {name} {wanted['version']} has wheels for Python {python}; known: "
            + "; ".join(
                f"{'/'.join(row['versions'][:2])}{' …' if len(row['versions']) > 2 else ''} for Python "
                f"{row['python'][0]} to {row['python'][1]}"
                for row in table("frameworks")["frameworks"][name]["releases"]
            ),
            [where, "host.python"],
            table("frameworks")["frameworks"][name]["source"],
        )
    package = variant["package"]
    exact = len(fits) == 1
    return {
        "version": fits[0],
        "versions": fits,
        "package": package.split("[")[0],
        "wheel": variant["tag"],
        # A source may not carry the newest release yet: any release that fits may be taken, the newest first.
        "requirement": f"{package}=={fits[0]}" if exact else f"{package}>={fits[-1]},<={fits[0]}",
    }


def _refuse_unknown_release(name: str, wanted: Mapping[str, Any], where: str) -> None:
    """Refuse a wish that no known release meets, whatever the Python."""
    if wanted["version"] in ("newest", "any"):
        return
    known = releases(name)
    specifier = SpecifierSet(wanted["version"])
    if not any(specifier.contains(row[1]) for row in known):
        raise _Conflict(
            "unknown_release",
            f"no known release of {name} matches {wanted['version']}: the data of {table('frameworks')['as_of']} goes "
            f"from {known[-1][0]} to {known[0][0]}",
            [where],
            table("frameworks")["frameworks"][name]["source"],
        )


def _can_make(wish: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Tell whether an interpreter can make the environment: the manager venv needs a module that some hosts lack."""
    return wish["manager"] != "venv" or bool(row.get("venv", True))


def _python(wish: Mapping[str, Any], where: str, profile: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the interpreter: the host's own where it fits what is to be installed, else one that is to be provided."""
    asked = wish["python"]
    usable = [row for row in facts["pythons"] if row["usable"]] if wish["manager"] != "conda" else []

    def fits(version: tuple[int, int]) -> bool:
        return all(_fitting(name, wanted, version, profile, facts) for name, wanted in wish["frameworks"].items())

    # What the environment was built with stays while it fits: a new interpreter on the host is no reason to rebuild.
    before = (facts["environments"].get(wish["name"]) or {}).get("python")
    for row in sorted(usable, key=lambda row: bool(row["minor"] != before)):
        if row["minor"] == asked or (asked == "auto" and fits(minor(row["minor"]))):
            because = "asked for and found on the host" if asked != "auto" else "the host's own, and it fits"
            found = [other["path"] for other in usable if other["minor"] == row["minor"] and _can_make(wish, other)]
            return {
                "version": row["minor"],
                "interpreter": found[0] if found else None,
                "because": f"{because}: {row['path']}" + ("" if found else ", but its venv module is missing"),
            }
    if asked != "auto":
        return {"version": asked, "interpreter": None, "because": "asked for; the host does not have it"}
    for name, wanted in wish["frameworks"].items():
        _refuse_unknown_release(name, wanted, f"{where}.frameworks.{name}")
    for second in range(15, 8, -1):
        if fits((3, second)):
            own = ", ".join(row["minor"] for row in usable) or "none"
            return {
                "version": f"3.{second}",
                "interpreter": None,
                "because": f"newest that fits all frameworks of this environment; the host's own do not ({own})",
            }
    raise _Conflict(
        "python_vs_framework",
        "no single Python has wheels for all of: "
        + ", ".join(f"{name} {wanted['version']}" for name, wanted in wish["frameworks"].items()),
        [f"{where}.frameworks"],
        "package index metadata",
    )
