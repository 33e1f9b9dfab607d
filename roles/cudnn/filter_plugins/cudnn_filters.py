# SPDX-License-Identifier: Apache-2.0
"""Filters of the role cudnn: what its tasks would else say in long templates. The engine decides what fits."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible.utils.vars import transform_to_native_types


def step_text(step: Mapping[str, Any], change: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]) -> str:
    """Say one step of a change, with the names that it is about."""
    name, names = step["step"], []
    wanted = [row for row in planned if row["cuda_major"] in {one["cuda_major"] for one in change["entries"]}]
    if name == "packages":
        names = [f"removes {package}" for package in change.get("remove") or ()]
        names += [f"installs {package}" for row in wanted for package in row.get("packages") or ()]
    return f"{name}: {step['why']}" + (f" ({', '.join(names)})" if names else "")


def entry_text(one: Mapping[str, Any]) -> str:
    """Say what happens to the cuDNN of one CUDA major."""
    before = f"{one['from']} -> " if one.get("from") and one["from"] != one["version"] else ""
    return f"cuDNN for CUDA {one['cuda_major']}: {before}{one['version']}, from {one['source']}: {one['why']}"


def generation(store: Iterable[Mapping[str, Any]] | None, one: Mapping[str, Any]) -> str:
    """Return the directory of an unpacked cuDNN as planned, the newest of several."""
    found = [
        row["path"]
        for row in store or ()
        if row["product"] == "cudnn"
        and row["state"] == "complete"
        and row["cuda_major"] == one["cuda_major"]
        and row["digest"] == one["digest"]
    ]
    if not found:
        raise AnsibleFilterError(
            f"cuDNN {one['version']} for CUDA {one['cuda_major']} is not unpacked although it should be; run again"
        )
    return max(found)


def compiler_of(
    toolkit: Mapping[str, Any], compilers: Mapping[str, Any] | None, taking_own: Sequence[str]
) -> tuple[bool, str | None]:
    """Tell whether a host has a compiler that a toolkit takes, as far as is known, and which one nvcc is told of."""
    told = (toolkit.get("host_compiler") or {}).get("cxx")
    if told:
        return compilers is None or any(row.get("cxx") == told for row in compilers.get("gcc") or ()), told
    return toolkit["path"] in taking_own, None


def to_probe(
    planned: Iterable[Mapping[str, Any]],
    toolkits: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    taking_own: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what the module cuda_probe shall load and link.

    Args:
        planned: the cuDNN entries of the plan.
        toolkits: the toolkits of the plan; a program is built with one of the same CUDA major.
        facts: what the host is now.
        taking_own: paths of the toolkits whose nvcc takes the host's own compiler.
    """
    rows = []
    for one in planned:
        beside = [row for row in toolkits if row["major"] == one["cuda_major"]]
        if one["source"] == "redist":
            inside = [row for row in beside if row["path"] in one["toolkits"]]
            places = [(row["path"], f"{row['path']}/include", row) for row in inside]
            places = [
                (f"{path}/lib64/libcudnn.so.{one['version'].split('.')[0]}", include, row)
                for path, include, row in places
            ]
        else:
            places = _packaged(one, beside, facts)
        for library, include, toolkit in places:
            fits, cxx = compiler_of(toolkit, facts.get("compilers"), taking_own) if toolkit else (False, None)
            rows.append(
                {
                    "version": one["version"],
                    "cuda_major": one["cuda_major"],
                    "library": library,
                    "include": include,
                    "toolkit": toolkit["path"] if fits else None,
                    "cxx": cxx if fits else None,
                }
            )
    return rows


def _packaged(
    one: Mapping[str, Any], beside: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> list[tuple[str, str | None, Mapping[str, Any]]]:
    """Return library, headers and toolkit of a cuDNN from packages."""
    version = ".".join(one["version"].split(".")[:3])

    def found(kind: str) -> list[str]:
        return [
            row["path"]
            for row in facts.get("cudnn") or ()
            if row["kind"] == kind
            and row["package"]
            and row["version"] == version
            and not ("-cuda-" in row["package"] and not row["package"].endswith(f"-cuda-{one['cuda_major']}"))
        ]

    libraries, headers = found("library"), found("header")
    if not libraries:
        raise AnsibleFilterError(
            f"cuDNN {version} for CUDA {one['cuda_major']} is installed, and no package of it has a library "
            "libcudnn.so; run again, or name another version in gpu_stack.cudnn"
        )
    return [(libraries[0], posixpath.dirname(headers[0]) if headers else None, beside[0] if beside else {})]


def environments(
    planned: Iterable[Mapping[str, Any]], facts: Mapping[str, Any], gpu: bool, library_path: bool
) -> list[dict[str, Any]]:
    """Return the environments that are there, for the module cuda_probe to see which cuDNN each of them loads.

    Args:
        planned: the environments of the plan.
        facts: what the host is now.
        gpu: there is a GPU that programs can use.
        library_path: users have the default toolkit in LD_LIBRARY_PATH.
    """
    rows = []
    for one in planned:
        found = (facts.get("environments") or {}).get(one["name"])
        if one.get("existing") or not found or found["state"] != "complete":
            continue
        system = any(row.get("cuda") == "system" for row in one["frameworks"].values())
        rows.append(
            {
                "name": one["name"],
                "python": f"{found['path']}/bin/python",
                "frameworks": list(one["frameworks"]),
                "cuda": "system" if system else "",
                "run": gpu,
                "library_path": f"{facts['cuda_default']['link']}/lib64" if library_path else "",
            }
        )
    return rows


def record(noted: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written down: before the steps what they are about to do, after them what is there.

    Args:
        noted: the record that is there, empty for none.
        now: ``done`` (after the steps), ``digest``, ``planned``, ``links``, ``writes`` (files of the steps), ``sums``
            (path -> SHA-256 of the files that are there), ``added`` (packages that came along), ``before`` (those of
            CUDA that were there before), ``replaced`` (files of others that were set aside).
    """
    packages = [
        name for row in now["planned"] if row["source"] in ("nvidia_repo", "distro") for name in row["packages"]
    ]
    return {
        **({} if now["done"] else {"before": now["before"]}),
        "schema": 1,
        "digest": now["digest"] if now["done"] else "",
        "entries": [{key: row[key] for key in ("version", "cuda_major", "source")} for row in now["planned"]],
        "files": {**({} if now["done"] else dict.fromkeys(now["writes"], "")), **now["sums"]},
        "links": now["links"],
        "packages": sorted({*(noted.get("packages") or ()), *packages}),
        "added": sorted({*(noted.get("added") or ()), *now["added"]}),
        "replaced": now["replaced"],
    }


def with_interrupted(removal: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a removal comes to, with the packages of a run that was interrupted before it could say them."""
    noted = ((facts.get("records") or {}).get("cudnn") or {}).get("noted") or {}
    there: Mapping[str, Any] = facts.get("cuda_packages") or {}
    came = [name for name in there if "cudnn" in name and name not in noted.get("before", there)]
    came = sorted(set(came) - set(removal["packages"]))
    if not came:
        return dict(removal)
    steps = [f"remove {len(came)} packages of an interrupted run: {', '.join(came)}", *removal["steps"]]
    packages = sorted([*removal["packages"], *came])
    held = [name for name in packages if (there.get(name) or {}).get("held")]
    return {**removal, "packages": packages, "held": held, "steps": steps, "text": "\n".join(steps)}


def _native(value: Any) -> Any:
    return transform_to_native_types(value, redact=False)


def _on_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter see plain values, without Ansible's tags."""
    return lambda *args: function(*map(_native, args))


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the names used in templates."""
        plain = {
            "step_text": step_text,
            "text": entry_text,
            "generation": generation,
            "to_probe": to_probe,
            "environments": environments,
            "record": record,
            "with_interrupted": with_interrupted,
        }
        return {f"cudnn_{name}": _on_plain(function) for name, function in plain.items()}
