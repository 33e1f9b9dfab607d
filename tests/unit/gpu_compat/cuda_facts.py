# SPDX-License-Identifier: Apache-2.0
"""Facts of hosts as far as toolkits and cuDNN go: a bare host, and one that a change was carried out on to the end."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from driver_facts import OS
from gpu_compat import change, host_from_facts, plan
from situations import TODAY

OWN_GCC = {"ubuntu2404": "13", "ubuntu2204": "11", "debian12": "12", "rhel9": "11", "rhel10": "14"}
USER_BASE = "/home/ada/.local/share/gpulab"
PROFILE = "/etc/profile.d/gpulab-cuda.sh"
SOURCES_LIST = "/etc/apt/sources.list.d/gpulab-nvidia.sources"


def bare_host(system: str = "debian12", **more: Any) -> dict[str, Any]:
    """A host without a GPU and without anything of CUDA, that has the system's own compiler."""
    user = more.get("scope") == "user"
    major = OWN_GCC[system]
    facts: dict[str, Any] = {
        "schema": 2,
        "os": dict(OS[system]),
        "arch": "x86_64",
        "kernel": "6.1.0-25-amd64",
        "glibc": "2.36",
        "scope": "system",
        "base_dir": USER_BASE if user else "/opt/gpulab",
        "gpus": [],
        "package_manager": {"kind": "dnf" if system.startswith("rhel") else "apt"},
        "pythons": [],
        "environments": {},
        "cuda": [],
        "cuda_default": {
            "link": f"{USER_BASE}/cuda" if user else "/usr/local/cuda",
            "exists": False,
            "is_link": False,
            "target": None,
            "real": None,
            "alternative": None,
        },
        "cudnn": [],
        "toolkit_store": [],
        "cuda_packages": {},
        "compilers": {
            "default": {"cc": "/usr/bin/gcc", "major": major},
            "gcc": [{"major": major, "cc": f"/usr/bin/gcc-{major}", "cxx": f"/usr/bin/g++-{major}"}],
            "clang": [],
        },
        "loader": {"ld_so_conf": [], "library_path": [], "cudnn": [], "stubs": []},
        "records": {role: {"noted": None, "found": {}, "links": {}} for role in ("cuda_toolkit", "cudnn")},
        "unknown": {},
    }
    return {**facts, **more}


def toolkit_row(path: str, version: str | None, **more: Any) -> dict[str, Any]:
    """A toolkit on disk that nobody's package owns."""
    row = {"path": path, "real": path, "version": version, "default": False, "link": False, "ours": False}
    return {**row, "package": None, "nvcc": True, **more}


def ask(facts: Mapping[str, Any], **wishes: Any) -> dict[str, Any]:
    """Plan toolkits and cuDNN of a host and nothing else."""
    return plan({"environments": [], **wishes}, host_from_facts(facts), today=TODAY)


def plan_of(facts: Mapping[str, Any], **wishes: Any) -> dict[str, Any]:
    """Return a plan that there must be."""
    answer = ask(facts, **wishes)
    assert answer["status"] == "planned", answer["conflicts"]
    return dict(answer["plan"])


def steps(found: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the steps of a change."""
    return [row["step"] for row in (found or {"steps": []})["steps"]]


def made(
    before: Mapping[str, Any],
    planned: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what a host is when the change to a plan has been carried out on it."""
    facts = copy.deepcopy(dict(before))
    whole = change(planned, facts, settings_by_role=settings)
    if whole["cuda_toolkit"]:
        _make_toolkits(facts, planned, whole["cuda_toolkit"])
    if whole["cudnn"]:
        _make_cudnn(facts, planned, whole["cudnn"])
    return facts


def _make_toolkits(facts: dict[str, Any], planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    by_series = {row["series"]: row for row in planned["cuda_toolkits"]}
    _remove(facts, found["remove"])
    for link in found["unlink"]:
        _unlink(facts, link)
    if "compiler" in steps(found):
        for row in planned["cuda_toolkits"]:
            if row["host_compiler"]:
                _install_compiler(facts, row["host_compiler"])
    for new in found["toolkits"]:
        _install(facts, by_series[new["series"]])
    default = next((row for row in planned["cuda_toolkits"] if row["default"]), None)
    if "default" in steps(found) and default:
        link = facts["cuda_default"]["link"]
        facts["cuda_default"] |= {"exists": True, "is_link": link != default["path"], "target": default["path"]}
    _hold(facts, [pattern for row in planned["cuda_toolkits"] for pattern in row["hold"]])
    toolkits = {
        row["series"]: {key: row[key] for key in ("version", "source", "path")} for row in planned["cuda_toolkits"]
    }
    facts["records"]["cuda_toolkit"] = {
        "noted": {"schema": 1, "digest": found["digest"], "files": {PROFILE: "aa"}, "links": {}, "toolkits": toolkits},
        "found": {PROFILE: "aa"},
        "links": {},
    }


def _install(facts: dict[str, Any], row: Mapping[str, Any]) -> None:
    version, path, source = row["version"], row["path"], row["source"]
    facts["cuda"] = [known for known in facts["cuda"] if known["path"] != path]
    if source == "redist":
        name = f"cuda-{version}-20260102T030405Z"
        real = f"{facts['base_dir']}/toolkits/{name}"
        for known in facts["toolkit_store"]:
            known["links"] = [link for link in known["links"] if link != path and not link.startswith(f"{path}/")]
        store = {"name": name, "product": "cuda", "version": version, "cuda_major": row["major"], "path": real}
        facts["toolkit_store"] = [known for known in facts["toolkit_store"] if known["path"] != real]
        facts["toolkit_store"].append({**store, "state": "complete", "digest": row["digest"], "links": [path]})
        nvcc = "cuda_nvcc" in row["redist"]["components"]
        facts["cuda"].append(toolkit_row(path, version, real=real, link=True, ours=True, nvcc=nvcc))
    elif source == "nvidia_repo":
        dashed = row["series"].replace(".", "-")
        for package in (*row["packages"], f"cuda-nvcc-{dashed}", f"libcublas-{dashed}"):
            facts["cuda_packages"][package] = {"version": f"{version}-1", "held": False}
        facts["cuda"].append(toolkit_row(path, version, package=f"cuda-nvcc-{dashed}"))
    elif source == "distro":
        for package in (*row["packages"], "nvidia-cuda-dev"):
            facts["cuda_packages"][package] = {"version": f"{version}~distro-5", "held": False}
        facts["cuda"].append(toolkit_row(path, version, package=row["packages"][0]))
    elif source == "runfile":
        facts["cuda"].append(toolkit_row(path, version))


def _install_compiler(facts: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    major = wanted["major"]
    known = {"major": major, "cc": "/usr/bin/gcc", "cxx": wanted["cxx"] or "/usr/bin/g++"}
    facts["compilers"]["gcc"] = [row for row in facts["compilers"]["gcc"] if row["major"] != major] + [known]
    if wanted["cxx"] is None:
        facts["compilers"]["default"] = {"cc": "/usr/bin/gcc", "major": major}


def _make_cudnn(facts: dict[str, Any], planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    by_major = {row["cuda_major"]: row for row in planned["cudnn"]}
    _remove(facts, found["remove"])
    for new in found["entries"]:
        row = by_major[new["cuda_major"]]
        if row["source"] == "redist":
            name = f"cudnn-{row['version']}-cuda{row['cuda_major']}-20260102T030405Z"
            store = {"name": name, "product": "cudnn", "version": row["version"], "cuda_major": row["cuda_major"]}
            path = f"{facts['base_dir']}/toolkits/{name}"
            facts["toolkit_store"].append(
                {**store, "path": path, "state": "complete", "digest": row["digest"], "links": []}
            )
        for package in row["packages"]:
            version = row["package_version"].replace("*", "1") if row["package_version"] else f"{row['version']}~cuda"
            if row["source"] == "distro":
                version += str(row["cuda_major"])
            facts["cuda_packages"][package] = {"version": version, "held": False}
    if "links" in steps(found):
        stray = set(found["unlink"])
        for known in facts["toolkit_store"]:
            known["links"] = [link for link in known["links"] if link not in stray]
        for row in planned["cudnn"]:
            places = [f"{path}/lib64/libcudnn.so.9" for path in row["toolkits"]]
            for known in facts["toolkit_store"]:
                if known["product"] == "cudnn":
                    known["links"] = [link for link in known["links"] if link not in places]
            for known in facts["toolkit_store"]:
                if known["product"] == "cudnn" and known["digest"] == row["digest"]:
                    known["links"] += places
    _hold(facts, [pattern for row in planned["cudnn"] for pattern in row["hold"]])
    facts["records"]["cudnn"] = {
        "noted": {"schema": 1, "digest": found["digest"], "files": {}, "links": {}},
        "found": {},
        "links": {},
    }


def _remove(facts: dict[str, Any], names: list[str]) -> None:
    for name in names:
        del facts["cuda_packages"][name]
        facts["cuda"] = [row for row in facts["cuda"] if row["package"] != name]


def _unlink(facts: dict[str, Any], link: str) -> None:
    facts["cuda"] = [row for row in facts["cuda"] if row["path"] != link]
    for row in facts["toolkit_store"]:
        row["links"] = [known for known in row["links"] if known != link]


def _hold(facts: dict[str, Any], patterns: list[str]) -> None:
    from gpu_compat.cuda_change import matches_any

    for name, row in facts["cuda_packages"].items():
        row["held"] = row["held"] or matches_any(name, patterns)
