# SPDX-License-Identifier: Apache-2.0
"""The change: plan minus facts, the only thing that roles act on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_compat.cuda_change import cudnn_change, toolkit_change
from gpu_compat.driver_change import driver_change


def change(
    planned: Mapping[str, Any],
    facts: Mapping[str, Any],
    rebuild: Sequence[str] = (),
    driver_settings: Mapping[str, Any] | None = None,
    settings_by_role: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Compare a plan with what the host is.

    Args:
        planned: the value of ``plan`` in the answer of :func:`gpu_compat.plan`, not None.
        facts: what the module ``gpu_facts`` returned for the host.
        rebuild: names of environments to build again although they look as planned.
        driver_settings: the lab's variables ``nvidia_driver_*``.
        settings_by_role: those of the roles ``cuda_toolkit`` and ``cudnn``.

    Returns:
        ``driver``: None where nothing is to be done to it, else its steps (:mod:`gpu_compat.driver_change`);
        ``cuda_toolkit`` and ``cudnn``: the same for toolkits and cuDNN (:mod:`gpu_compat.cuda_change`);
        ``environments``: the planned environments that must be built, each with ``why``, a sentence for people;
        ``unasked``: names of environments of ours on the host that the plan does not know (they are left alone).
        All but the last are empty on a converged host.
    """
    builds = []
    for environment in planned["environments"]:
        if environment["existing"]:
            continue
        why = _why_build(environment, facts["environments"].get(environment["name"]))
        if not why and environment["name"] in rebuild:
            why = "asked for by gpulab_rebuild"
        if why:
            builds.append({**environment, "why": why})
    known = {environment["name"] for environment in planned["environments"]}
    known.update(row["name"] for row in planned["unavailable_environments"])
    unasked = [name for name, row in facts["environments"].items() if row["state"] == "complete" and name not in known]
    driver = driver_change(planned, facts, driver_settings)
    settings = settings_by_role or {}
    toolkits = toolkit_change(planned, facts, settings.get("cuda_toolkit"))
    return {
        "driver": driver,
        "cuda_toolkit": toolkits,
        "cudnn": cudnn_change(planned, facts, settings.get("cudnn"), toolkits),
        "environments": builds,
        "unasked": sorted(unasked),
    }


def _why_build(wanted: Mapping[str, Any], found: Mapping[str, Any] | None) -> str:
    """Say why an environment must be built, or return an empty string where it is as planned."""
    if found is None:
        return "it does not exist yet"
    if found["state"] == "foreign":
        # The role refuses to touch it; reaching that refusal is the purpose of this entry.
        return f"{found['path']} was not made by this project"
    if found["state"] == "half-made":
        return "an earlier run was interrupted while making it"
    if found["digest"] != wanted["digest"]:
        return "the plan for it has changed"
    if found["drift"]:
        return f"packages were changed by hand: {', '.join(found['drift'][:5])}"
    return ""


def provided(
    planned: Mapping[str, Any], facts: Mapping[str, Any], unavailable: Sequence[Mapping[str, str]] = ()
) -> dict[str, Any]:
    """Sort the planned environments into those that can be validated and those that are not there.

    Args:
        planned: the value of ``plan`` in the answer of :func:`gpu_compat.plan`, not None.
        facts: what the module ``gpu_facts`` returned after provisioning.
        unavailable: ``{"name", "reason"}`` of optional environments that no source could give.

    Returns:
        ``environments``: for the role ``validation``, each with ``python``, the path of its interpreter;
        ``missing``: optional ones with the reason; ``absent``: names of required ones that are not on the host;
        ``expected``: what the plan says of driver, GPUs and toolkits, for the same role.
    """
    reasons = {row["name"]: row["reason"] for row in (*planned["unavailable_environments"], *unavailable)}
    answer: dict[str, Any] = {
        "environments": [],
        "missing": [dict(row) for row in planned["unavailable_environments"]],
        "absent": [],
        "expected": _expected(planned, facts),
    }
    for environment in planned["environments"]:
        found = facts["environments"].get(environment["name"])
        common = {key: environment[key] for key in ("name", "optional", "keras_backend")}
        if environment["existing"]:
            frameworks = {name: row["version"] for name, row in environment["frameworks"].items()}
            row = {
                "python": environment["existing"],
                "origin": "existing",
                "digest": "",
                "frameworks": frameworks,
            }
            answer["environments"].append({**common, **row})
        elif found and found["state"] == "complete":
            row = {
                "python": f"{found['path']}/bin/python",
                "origin": "managed",
                # The lock says what is installed, the generation that it is this very installation.
                "digest": f"{found['lock_sha256']} {found['generation']}",
                "frameworks": found["frameworks"],
            }
            answer["environments"].append({**common, **row})
        elif environment["optional"]:
            reason = reasons.get(environment["name"], "it has not been provisioned")
            answer["missing"].append({"name": environment["name"], "reason": reason})
        else:
            answer["absent"].append(environment["name"])
    return answer


def _expected(planned: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a validation on the host compares with and cannot know by itself."""
    driver = planned["driver"]
    wanted = ("version", "kernel_module", "source", "exact", "hold")
    keys = ("bus", "vendor", "device", "product", "compute_capability")
    return {
        "driver": {key: driver[key] for key in wanted} if driver else None,
        "gpus": [{key: gpu.get(key) for key in keys} for gpu in facts["gpus"] or ()],
        "cuda_toolkits": [toolkit["version"] for toolkit in planned["cuda_toolkits"]],
    }
