# SPDX-License-Identifier: Apache-2.0
"""Filters of the role cuda_toolkit: what its tasks would else say in long templates. The engine decides what fits."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.utils.vars import transform_to_native_types

#: Lines of a log that go into a message.
LAST_LINES = 6


def step_text(step: Mapping[str, Any], change: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]) -> str:
    """Say one step of a change, with the names that it is about."""
    name, names = step["step"], []
    wanted = [row for row in planned if row["series"] in {one["series"] for one in change["toolkits"]}]
    if name == "compiler":
        names = sorted({package for row in planned for package in (row.get("host_compiler") or {}).get("packages", ())})
    elif name == "packages":
        names = [f"removes {package}" for package in change.get("remove") or ()]
        names += [f"installs {package}" for row in wanted for package in row.get("packages") or ()]
    return f"{name}: {step['why']}" + (f" ({', '.join(names)})" if names else "")


def toolkit_text(one: Mapping[str, Any]) -> str:
    """Say what happens to one toolkit of a change."""
    before = f"{one['from']} -> " if one.get("from") and one["from"] != one["version"] else ""
    return f"CUDA {one['series']}: {before}{one['version']} at {one['path']}, from {one['source']}: {one['why']}"


def md5_of(sums: str, file: str) -> str:
    """Return the MD5 sum of a file from NVIDIA's list, empty where the list does not name it."""
    for line in sums.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*") == file and re.fullmatch("[0-9a-f]{32}", words[0].lower()):
            return words[0].lower()
    return ""


def installer_text(lines: Sequence[str]) -> str:
    """Say why the installer of a runfile failed, from its log and its words."""
    errors = [line.strip() for line in lines if re.search(r"\[ERROR\]|\berror\b|No space|not permitted", line, re.I)]
    shown = list(dict.fromkeys(errors or [line.strip() for line in lines if line.strip()]))[-LAST_LINES:]
    return "It says:\n" + "\n".join(f"  {line}" for line in shown) if shown else "It says nothing."


def without(path: str, directory: str) -> str:
    """Return a search path without a directory; for reading what we ourselves have set."""
    return ":".join(part for part in path.split(":") if part and part != directory)


def secure_path(told: str, own: str) -> str:
    """Return the search path of sudo with ``own`` at its end; empty where sudo sets none.

    Args:
        told: what ``sudo -V`` prints for root.
        own: the directory of the default toolkit's programs.
    """
    match = re.search(r"^Value to override user's \$PATH with: (\S+)", told, re.M)
    return f"{without(match[1], own)}:{own}" if match else ""


def manager_path(told: str, own: str) -> str:
    """Return the search path of systemd's services with ``own`` at its end, from ``systemctl show-environment``."""
    match = re.search(r"^PATH=(\S+)", told, re.M)
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return f"{without(match[1], own) if match else usual}:{own}"


def modulefiles(systems: Mapping[str, str | None] | None, planned: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the modulefiles to write: ``path``, ``template`` and the ``toolkit`` of each."""
    kinds = (("lmod", ".lua", "modulefile.lua.j2"), ("environment_modules", "", "modulefile.tcl.j2"))
    return [
        {"path": f"{directory}/cuda/{row['series']}{ending}", "template": template, "toolkit": row}
        for kind, ending, template in kinds
        if (directory := (systems or {}).get(kind))
        for row in planned
    ]


def newest_nccl(lines: Iterable[str], series: str) -> str:
    """Return the newest version of NCCL that was built for a series of CUDA, else for its major; empty where none was.

    Args:
        lines: lines that hold versions such as ``2.27.3-1+cuda12.9``, in any order and form.
        series: the series of the default toolkit.
    """
    found = {
        match[0]: ([int(part) for part in re.split(r"[.-]", match[1])], match[2])
        for line in lines
        if (match := re.search(r"(\d[\d.]*-\d+)\+cuda(\d+\.\d+)", line))
    }
    exact = [version for version, (_, built) in found.items() if built == series]
    # A minor version of the same major is compatible, but for one that is newer than the toolkit.
    wanted = [int(part) for part in series.split(".")]
    older = [
        version
        for version, (_, built) in found.items()
        if [int(part) for part in built.split(".")] <= wanted and built.split(".")[0] == series.split(".")[0]
    ]
    return max(exact or older, key=lambda version: found[version][0], default="")


def record(noted: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is written down: before the steps what they are about to do, after them what is there.

    Args:
        noted: the record that is there, empty for none.
        now: ``done`` (after the steps), ``steps``, ``digest``, ``planned`` (toolkits), ``store`` (generations on the
            host), ``written`` and ``blocks`` (files of the environment), ``writes`` (files of the steps), ``sums``
            (path -> SHA-256 of the files that are there), ``default``, ``runfiles``, ``added`` (packages that came
            along), ``before`` (those of CUDA that were there before), ``made`` (directories), ``replaced`` (files of
            others that were set aside).
    """
    done, anew = now["done"], "environment" in now["steps"]
    written = {key: list(now[key]) if anew else list(noted.get(own) or ()) for key, own in _OWN.items()}
    if not done:  # what an earlier run wrote goes only now, so both are named until then
        written = {key: _union(noted.get(own) or (), written[key]) for key, own in _OWN.items()}
    planned = {row["path"] for row in now["planned"] if row["source"] == "redist"}
    links = {link: row["path"] for row in now["store"] or () if row["product"] == "cuda" for link in row["links"]}
    ours = planned | set(noted.get("links") or {})
    return {
        **({} if done else {"before": now["before"]}),
        "schema": 1,
        "digest": now["digest"] if done else "",
        "toolkits": {
            **(noted.get("toolkits") or {}),
            **{row["series"]: {key: row[key] for key in ("version", "source", "path")} for row in now["planned"]},
        },
        "files": {**({} if done else dict.fromkeys(now["writes"], "")), **now["sums"]},
        "environment": written["written"],
        "blocks": written["blocks"],
        # A link that is about to be made leads nowhere yet.
        "links": {link: links.get(link, "") for link in sorted(ours) if not done or link in links},
        "default": now["default"] or noted.get("default"),
        "packages": _union(
            noted.get("packages") or (),
            [name for row in now["planned"] if row["source"] in ("nvidia_repo", "distro") for name in row["packages"]],
        ),
        "added": _union(noted.get("added") or (), now["added"]),
        "runfiles": now["runfiles"],
        "made": now["made"],
        "replaced": now["replaced"],
    }


#: Lists of files, by the key of the record that has them.
_OWN = {"written": "environment", "blocks": "blocks"}


def _union(one: Iterable[str], other: Iterable[str]) -> list[str]:
    return sorted({*one, *other})


def runfiles(noted: Mapping[str, Any], wanted: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what installers have installed, without what takes its place, and what they are about to install."""
    rows = list(wanted)
    gone = {row["path"] for row in rows if row["source"] != "runfile"}
    begun = {row["path"]: {"version": "", "beside": []} for row in rows if row["source"] == "runfile"}
    return {**begun, **{path: row for path, row in noted.items() if path not in gone}}


def removal_of(removal: Mapping[str, Any], facts: Mapping[str, Any], series: Sequence[str]) -> dict[str, Any]:
    """Return what a removal comes to, of everything or of some series alone.

    Args:
        removal: the answer of the filter gpu_compat_removal_cuda.
        facts: what the host is now.
        series: those to take off, all where it is empty.

    Returns:
        The same, and ``whole`` (everything goes), ``unknown`` (series that are not there), ``gone`` (paths of toolkits
        that go), ``beside`` (what an installer left elsewhere), ``record`` (what is written down where not all goes).
    """
    noted = (((facts.get("records") or {}).get("cuda_toolkit")) or {}).get("noted") or {}
    there: Mapping[str, Any] = noted.get("toolkits") or {}
    chosen = {name: row for name, row in there.items() if not series or name in series}
    gone = sorted(row["path"] for row in chosen.values() if row["source"] != "existing")
    beside = sorted(
        path for place, row in (noted.get("runfiles") or {}).items() if place in gone for path in row["beside"]
    )
    found = {**removal, "whole": True, "unknown": [], "gone": gone, "beside": beside, "record": {}}
    if "before" in noted:  # an interrupted run could not say what came with it
        came = sorted(set(facts.get("cuda_packages") or ()) - set(noted["before"]) - set(removal["packages"]))
        found["packages"] = sorted([*removal["packages"], *came])
        known = facts.get("cuda_packages") or {}
        found["held"] = [name for name in found["packages"] if (known.get(name) or {}).get("held")]
        text = f"remove {len(came)} packages of an interrupted run: {', '.join(came)}"
        found["steps"] = [*([text] if came else []), *removal["steps"]]
    default = facts.get("cuda_default") or {}
    leads = {row["real"] for row in facts.get("cuda") or () if row["path"] in gone} | set(gone)
    elsewhere = not leads & {default.get("real"), default.get("target")} and default.get("real")
    if elsewhere or default.get("target") == removal.get("default_previous"):
        found["default"] = None  # other hands have led it there since, or it never led to us
        found["steps"] = [step for step in found["steps"] if step not in _about_default(removal)]
    if not series:
        if noted.get("blocks"):
            found["steps"] = [*found["steps"], f"take the marked lines out of {', '.join(noted['blocks'])}"]
        return {**found, "text": "\n".join(found["steps"]) if found["steps"] else removal["text"]}

    def inside(path: str) -> bool:
        return any(path == one or path.startswith(f"{one}/") for one in gone)

    store = [row for row in facts.get("toolkit_store") or () if row["links"] and all(map(inside, row["links"]))]
    endings = tuple(f"-{name.replace('.', '-')}{end}" for name in chosen for end in ("", "-config-common"))
    previous = removal.get("default_previous")
    kept = {name: row for name, row in there.items() if name not in chosen}
    files = [
        path
        for path in removal["files"]
        if path.endswith(tuple(f"/cuda/{name}{end}" for name in chosen for end in _ENDS))
    ]
    found |= {
        "whole": False,
        "unknown": [name for name in series if name not in there],
        "packages": [name for name in found["packages"] if name.split(":")[0].endswith(endings)],
        "archives": [row["path"] for row in store],
        "links": [link for link in removal["links"] if inside(link)],
        "runfiles": [path for path in removal["runfiles"] if path in gone],
        "files": files,
        "replaced": {},
        "default": found["default"],
        "default_previous": None
        if previous and inside(posixpath.join(posixpath.dirname(default["link"]), previous))
        else previous,
        # Without a digest: the next run sets up anew what is left.
        "record": {
            **noted,
            "digest": "",
            "toolkits": kept,
            "files": {path: value for path, value in noted["files"].items() if path not in files},
            "environment": [path for path in noted["environment"] if path not in files],
            "links": {path: target for path, target in noted["links"].items() if not inside(path)},
            "runfiles": {path: row for path, row in noted["runfiles"].items() if path not in gone},
        },
    }
    found["held"] = [name for name in found["held"] if name in found["packages"]]
    steps = [
        f"remove CUDA {name} at {row['path']}" for name, row in sorted(chosen.items()) if row["source"] != "existing"
    ]
    steps += [f"remove {len(found['packages'])} packages: {', '.join(found['packages'])}"] if found["packages"] else []
    steps += [f"remove what was unpacked: {', '.join(found['archives'])}"] if found["archives"] else []
    if found["default"]:
        before = found["default_previous"]
        steps.append(f"let {found['default']} lead to {before} again" if before else f"remove {found['default']}")
    return {**found, "steps": steps, "text": "\n".join(steps) if steps else "there is nothing to remove"}


def _about_default(removal: Mapping[str, Any]) -> tuple[str, str]:
    link = removal["default"]
    return f"remove {link}", f"let {link} lead to {removal['default_previous']} again"


#: How the names of modulefiles end.
_ENDS = ("", ".lua")


def refused_extras(extras: Sequence[str], default: Mapping[str, Any]) -> list[str]:
    """Say of each extra that the default toolkit cannot have why not, and what to write instead."""
    source, told = default.get("source"), []
    components = (default.get("redist") or {}).get("components") or ()
    for name in extras:
        if not default:
            told.append(f"{name}: no toolkit is planned; name one in gpu_stack.cuda_toolkits")
        elif name == "nccl" and source != "nvidia_repo":
            told.append(f"nccl: only NVIDIA's repository has it (cuda_source: nvidia_repo), and CUDA is from {source}")
        elif name.startswith("nsight_") and source == "redist" and name not in components:
            told.append(f"{name}: name it in gpu_stack.cuda_components, beside what else is wanted of the archives")
        elif name.startswith("nsight_") and source in ("distro", "existing"):
            told.append(f"{name}: CUDA is from {source}; it comes with cuda_source: nvidia_repo, redist or runfile")
        elif name == "device_query" and source == "redist" and "cuda_nvcc" not in components:
            told.append("device_query: it is compiled here, so gpu_stack.cuda_components must have nvcc")
    return told


def to_probe(
    planned: Iterable[Mapping[str, Any]], taking_own: Sequence[str], gpu: bool, tell_nvcc: bool
) -> list[dict[str, Any]]:
    """Return what the module cuda_probe shall look at.

    Args:
        planned: the toolkits of the plan.
        taking_own: paths of those whose nvcc takes the host's own compiler. Where neither that one nor one of the plan
            fits, nothing is compiled (the plan has said so).
        gpu: there is a GPU that programs can use.
        tell_nvcc: nvcc is told of the compiler of the plan.
    """
    rows = []
    for one in planned:
        components = (one.get("redist") or {}).get("components")
        nvcc = components is None or "cuda_nvcc" in components
        rows.append(
            {
                "path": one["path"],
                "version": one.get("version") or "",
                "series": one["series"],
                "architectures": list(one.get("architectures") or ()),
                "cxx": (one.get("host_compiler") or {}).get("cxx") if tell_nvcc else None,
                "run": gpu,
                "compiles": nvcc and (bool(one.get("host_compiler") and tell_nvcc) or one["path"] in taking_own),
            }
        )
    return rows


def not_proven(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which toolkits were not asked to compile."""
    return [
        f"{row['path']}: compiling was not tried, because there is no nvcc or no host compiler that it takes"
        for row in rows
        if not row["compiles"]
    ]


def home_in(path: str, home: str) -> str:
    """Write out a leading ``~`` of a path."""
    return home.rstrip("/") + path[1:] if path == "~" or path.startswith("~/") else path


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
            "text": toolkit_text,
            "md5_of": md5_of,
            "installer_text": installer_text,
            "secure_path": secure_path,
            "manager_path": manager_path,
            "modulefiles": modulefiles,
            "newest_nccl": newest_nccl,
            "record": record,
            "removal_of": removal_of,
            "runfiles": runfiles,
            "refused_extras": refused_extras,
            "to_probe": to_probe,
            "not_proven": not_proven,
            "home_in": home_in,
        }
        return {f"cuda_toolkit_{name}": _on_plain(function) for name, function in plain.items()}
