# SPDX-License-Identifier: Apache-2.0
"""Filters of the role nvidia_packages: what apt's sources lack, and why a transaction failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ansible.utils.vars import transform_to_native_types

#: Lines of a log that go into a message, and characters of a line.
LAST_LINES, LONGEST = 12, 200


def components(sources: str, wanted: Sequence[str], own: str) -> list[dict[str, Any]]:
    """Return the host's own archives with the components that are missing.

    Args:
        sources: the files of apt's sources, one after another, each after a line ``### PATH``.
        wanted: components that the packages are in.
        own: the file that the answer is for. What others asked for there stays; it tells nothing of what the host has.

    Returns:
        ``uri``, ``suite``, ``components`` and ``signed_by`` (empty, or as the host has it) of each.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    asked: dict[tuple[str, str], set[str]] = {}
    for path, text in re.findall(r"(?ms)^### (\S+)$\n(.*?)(?=^### /|\Z)", sources):
        if path == own:
            asked |= {(uri.rstrip("/"), suite): names for uri, suite, names, _ in _deb822(text)}
            continue
        for uri, suite, there, signed in _deb822(text) if path.endswith(".sources") else _one_line(text):
            row = found.setdefault((uri.rstrip("/"), suite), {"uri": uri, "there": set(), "signed_by": signed})
            row["there"] |= there
    missing = []
    for (uri, suite), row in found.items():
        # In one order, whoever asks, so that the file stays as it is.
        names = sorted({*wanted, *asked.get((uri, suite), ())} - row["there"])
        # "main" is what a distribution's own archive has; others keep other names.
        if "main" in row["there"] and names:
            missing.append({"uri": row["uri"], "suite": suite, "components": names, "signed_by": row["signed_by"]})
    return missing


def _one_line(text: str) -> Iterable[tuple[str, str, set[str], str]]:
    for options, uri, suite, rest in re.findall(
        r"(?m)^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)[ \t]*([^#\n]*)", text
    ):
        signed = re.search(r"signed-by=(\S+)", options, re.I)
        yield uri, suite, set(rest.split()), signed[1] if signed else ""


def _deb822(text: str) -> Iterable[tuple[str, str, set[str], str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        # A field goes on in lines that are indented; a key may be written out like that.
        fields = {
            name.lower(): value.strip() for name, value in re.findall(r"(?m)^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri, suite, set(fields.get("components", "").split()), fields.get("signed-by", "")


def failed(result: Mapping[str, Any]) -> bool:
    """Tell whether a transaction that was watched from outside ended badly."""
    if not int(result.get("finished", 1)):
        return True
    if int(result.get("rc") or 0) != 0 or result.get("failures"):
        return True
    # apt says nothing when it is well; dnf says that there was nothing to do.
    return bool(result.get("msg")) and result["msg"] != "Nothing to do" and not result.get("results")


def install_text(
    result: Mapping[str, Any], facts: Mapping[str, Any], log: Mapping[str, Any], hint: str, asked_by: str
) -> str:
    """Say why a transaction failed and what to do; ``asked_by`` is the role whose variables are named."""
    told = "\n".join(str(result.get(key) or "") for key in ("msg", "stderr", "stdout", "module_stderr"))
    told += "\n".join(str(line) for line in result.get("failures") or ())
    manager = facts.get("package_manager") or {}
    lock, broken = manager.get("lock"), manager.get("broken") or []
    again = "Run again: it goes on from here."
    if not int(result.get("finished", 1)):
        return f"It took longer than {asked_by}_install_timeout allows and goes on on the host. {again}"
    if _LOCKED.search(told):
        who = f"{lock['command']} (pid {lock['pid']})" if lock else "another package manager"
        return f"{who} has held the lock of the package manager longer than {asked_by}_lock_timeout. {again}"
    if _UNTRUSTED.search(told):
        return (
            f"The repository is not signed by the key that this host trusts: {_last(told, 2)} If it has a new key, "
            f"look its fingerprint up at a place you trust and set {asked_by}_repository_fingerprints."
        )
    if _NOT_THERE.search(told):
        return f"The repository does not have it: {_last(told, 2)} {hint}"
    if broken:
        why = f"{log['end']}\n" if log.get("end") else f" {_last(told, 3)} "
        names = ", ".join(broken[:6])
        return f"Half-configured: {names}.{why}Mend the cause and run again: what is half-done is finished first."
    unmet = re.search(r"unmet dependencies:\n(.*?)(?:\nE: |\Z)", told, re.S)
    if unmet:
        wanting = "\n".join(f"  {line.strip()}" for line in unmet[1].splitlines()[:LAST_LINES] if line.strip())
        return f"Its packages do not fit what is on the host or in its repositories:\n{wanting}\n{hint} {again}"
    return f"The package manager says: {_last(told, 4)} {hint} {again}".replace("  ", " ")


_LOCKED = re.compile(
    "could not get lock|failed to lock|frontend lock was locked|lock-frontend|waiting for process|lockfile", re.I
)
_UNTRUSTED = re.compile(
    "NO_PUBKEY|EXPKEYSIG|REVKEYSIG|BADSIG|is not signed|signature verification failed|GPG check FAILED|"
    "public key .*(not installed|does not match)",
    re.I,
)
_NOT_THERE = re.compile(
    "unable to locate|no package .*matching|no match for argument|unable to find a match|no installation candidate|"
    "version .* was not found|not available",
    re.I,
)


def _last(text: str, count: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Error", "W: Failed", "W: GPG error"))] or lines
    return " ".join(dict.fromkeys(errors[-count:]))


def log_end(log: Mapping[str, Any]) -> str:
    """Return what a person needs of a compiler's log, its errors where it names some, else its end, long lines cut;
    nothing where there is no log."""
    lines: Sequence[str] = log.get("lines") or ()
    if not lines:
        return ""
    errors = [line for line in lines if re.search(r"\b(fatal )?error: |\*\*\* ", line)]
    shown = errors[:LAST_LINES] or lines[-LAST_LINES:]
    cut = [f"  {line if len(line) <= LONGEST else line[: LONGEST - 2] + ' …'}" for line in shown]
    return "\n".join([f"\nThe end of {log['path']}:", *cut])


def _native(value: Any) -> Any:
    return transform_to_native_types(value, redact=False)


def _on_plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a filter see plain values, without Ansible's tags."""
    return lambda *args: function(*map(_native, args))


class FilterModule:
    """Registers the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by the names used in templates."""
        plain = {"components": components, "failed": failed, "install_text": install_text, "log_end": log_end}
        return {f"nvidia_packages_{name}": _on_plain(function) for name, function in plain.items()}
