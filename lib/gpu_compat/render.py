# SPDX-License-Identifier: Apache-2.0
"""Answers of the engine as text for people."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 120


def answer_text(answer: Mapping[str, Any], name: str = "") -> str:
    """Return a whole answer as text: the plan with its reasons, or the conflicts with what would make it possible.

    Args:
        answer: from :func:`gpu_compat.plan`.
        name: of the host, for the first line.
    """
    head = f"{name}: " if name else ""
    lines = [f"{head}{answer['status']} (tables of {answer['data_as_of']})"]
    if answer["plan"]:
        lines += plan_lines(answer["plan"])
        lines += ["", "why", *(_bullet(f"{row['about']}: {row['because']}") for row in answer["reasons"])]
    for conflict in answer["conflicts"]:
        lines += ["", *conflict_lines(conflict)]
    if answer["alternatives"]:
        lines += [
            "",
            "what would make it possible"
            if len(answer["conflicts"]) < 2
            else "each of these ends one of the conflicts",
            *(_bullet(change_text(change)) for change in answer["alternatives"]),
        ]
    if answer["warnings"]:
        lines += ["", "read this", *(_bullet(text) for text in answer["warnings"])]
    return "\n".join(lines)


def fleet_text(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the answers of many hosts, equal ones once; ``facts`` of an answer says what they rest on."""
    groups: dict[str, list[str]] = {}
    shown: dict[str, Mapping[str, Any]] = {}
    for host, answer in answers.items():
        key = repr(answer)
        groups.setdefault(key, []).append(host)
        shown[key] = answer
    blocks = []
    for key, hosts in groups.items():
        declared = " (declared in the inventory, not seen on the host)" if shown[key].get("facts") == "declared" else ""
        blocks.append(answer_text(shown[key], name_hosts(hosts, most=8) + declared))
    failing = [host for host, answer in answers.items() if answer["status"] != "planned"]
    last = f"{len(answers) - len(failing)} of {len(answers)} hosts can be planned"
    return "\n\n".join([*blocks, last + (f"; not: {name_hosts(failing)}" if failing else "")])


def name_hosts(hosts: Sequence[str], most: int = 5) -> str:
    """Name a few hosts and count the rest: ``gpu01, gpu02 and 38 more``."""
    shown = ", ".join(hosts[:most])
    rest = len(hosts) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """Return the plan itself as lines of label and value."""
    rows: list[tuple[str, str]] = [("profile", plan["profile"])]
    driver = plan["driver"]
    if driver:
        module = f", {driver['kernel_module']} kernel module" if driver["kernel_module"] else ""
        packages = [*driver["packages"], *([f"module stream {stream}"] if (stream := driver["module_stream"]) else [])]
        rows.append(("driver", f"{driver['version']}{module}, from {driver['source']}{_list(packages)}"))
    if plan["cuda_compat_package"]:
        rows.append(("compatibility", plan["cuda_compat_package"]))
    if plan["fabric_manager"]:
        fabric = plan["fabric_manager"]
        rows.append(("fabric manager", f"{fabric['version']}{_list([fabric['package'], *fabric['extra_packages']])}"))
    if plan["secure_boot"]:
        person = "; a person confirms once at the console" if plan["secure_boot"]["console_confirmation"] else ""
        rows.append(("secure boot", plan["secure_boot"]["method"].replace("_", " ") + person))
    for toolkit in plan["cuda_toolkits"]:
        default = ", the default" if toolkit["default"] and len(plan["cuda_toolkits"]) > 1 else ""
        rows.append(("CUDA toolkit", f"{toolkit['version']}{default}, {_from(toolkit)}, in {toolkit['path']}"))
        if toolkit["host_compiler"]:
            compiler = toolkit["host_compiler"]
            rows.append(("", f"compiles with gcc {compiler['major']}{_list(compiler['packages'])}"))
    for cudnn in plan["cudnn"]:
        beside = f", beside {', '.join(cudnn['toolkits'])}" if cudnn["toolkits"] else ""
        rows.append(("cuDNN", f"{cudnn['version']} for CUDA {cudnn['cuda_major']}, {_from(cudnn)}{beside}"))
    for environment in plan["environments"]:
        rows.append((f"environment {environment['name']}", _environment(environment)))
    for missing in plan["unavailable_environments"]:
        rows.append((f"without {missing['name']}", missing["reason"]))
    width = max(len(label) for label, _ in rows)
    return [line for label, value in rows for line in _row(label, value, width)]


def conflict_lines(conflict: Mapping[str, Any]) -> list[str]:
    """Return a conflict as lines."""
    return [
        *_wrap(f"conflict {conflict['id']}: {conflict['message']}"),
        *_wrap(f"between: {', '.join(conflict['involves'])}", "    "),
        *_wrap(f"source: {conflict['source']}", "    "),
    ]


def change_text(change: Mapping[str, Any]) -> str:
    """Return an alternative as one line: what to write, and what that gives."""
    written = "; ".join(f"{path.removeprefix('request.')}: {_value(value)}" for path, value in change["change"].items())
    return f"{written}  ->  {change['gives']}"


def _from(entry: Mapping[str, Any]) -> str:
    """Say where a toolkit or a cuDNN comes from, and what is installed of it."""
    if entry["source"] == "existing":
        return "there already"
    return f"from {entry['source']}{_list(entry['packages'])}"


def _environment(environment: Mapping[str, Any]) -> str:
    if environment["existing"]:
        return f"{environment['existing']}, validated and never changed"
    built = [
        f"{name} {row['version']}" + (f" ({row['wheel']})" if row.get("wheel") else "")
        for name, row in environment["frameworks"].items()
    ]
    cudnn = next((row["cudnn"] for row in environment["frameworks"].values() if row.get("cudnn")), None)
    return f"Python {environment['python']}, {', '.join(built)}" + (f", cuDNN {cudnn}" if cudnn else "")


def _value(value: Any) -> str:
    """Return a value as it would be written in the inventory."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    text = str(value)
    return f'"{text}"' if text[:1].isdigit() or text[:1] in "<>=!~" else text


def _list(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _row(label: str, value: str, width: int) -> list[str]:
    return textwrap.wrap(
        value,
        WIDTH,
        initial_indent=f"  {label.ljust(width)}  ",
        subsequent_indent=" " * (width + 4),
        break_on_hyphens=False,
    )


def _bullet(text: str) -> str:
    return "\n".join(
        textwrap.wrap(text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False)
    )


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "    ", break_on_hyphens=False)
