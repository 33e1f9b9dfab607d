# SPDX-License-Identifier: Apache-2.0
"""The directory of the results on the control node: what is in it, and how it is brought up to date.

``<host>.json`` is the verdict document, ``previous/<host>.json`` the last one that said something else,
``<host>.plan.json`` what was planned for the host and why it has no verdict. ``report.html`` and ``junit.xml`` are made
from these alone.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from gpu_report import outliers
from gpu_report.plain import SEVERITY, counts_as, mapping, mappings, natural, number, status, text, worst

PAGE, JUNIT, EARLIER = "report.html", "junit.xml", "previous"
_VERDICT, _PLAN = ".json", ".plan.json"
#: A document larger than this is no verdict.
_MOST_BYTES = 64 * 2**20


class ReportError(Exception):
    """The results cannot be read or written; the message says which file, and why."""


@dataclass(frozen=True)
class Host:
    """One host: its last verdict, the one before, and its plan. Any of them may be missing."""

    name: str
    document: Mapping[str, Any] | None = None
    previous: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None
    #: What is wrong with the files, or an empty text.
    problem: str = ""
    #: What the other hosts show of this one: its GPUs that are slower than their equals.
    slow: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def checks(self) -> list[Mapping[str, Any]]:
        """All checks of the host, and one for each figure of a GPU that is slower than its equals on other hosts."""
        return [*mappings(mapping(self.document).get("checks")), *map(_as_check, self.slow)]

    @cached_property
    def status(self) -> str:
        """The verdict, or UNKNOWN. Where the checks say worse than the verdict, the checks are believed."""
        if self.document is None:
            return "UNKNOWN"
        said = status(mapping(self.document.get("verdict")).get("status"))
        own = bool(mappings(self.document.get("checks")))
        found = worst(["PASS", *map(counts_as, self.checks)]) if own else "UNKNOWN"
        return worst(["UNKNOWN" if said == "SKIP" else said, found])

    @cached_property
    def label(self) -> str:
        """The verdict in words."""
        said = text(mapping(mapping(self.document).get("verdict")).get("label"), 120)
        if not said:
            return "UNKNOWN (no verdict)"
        word = status(mapping(mapping(self.document).get("verdict")).get("status"))
        if word == self.status:
            return said
        return f"{self.status} ({'slower than its equals' if self.slow else 'by its checks'}; its own verdict: {said})"

    @cached_property
    def shown(self) -> Mapping[str, Any]:
        """The document with what the other hosts show; an empty mapping where there is none."""
        if self.document is None:
            return {}
        verdict = {**mapping(self.document.get("verdict")), "label": self.label}
        return {**self.document, "checks": self.checks, "verdict": verdict}

    @cached_property
    def why(self) -> str:
        """Why the host did not pass, as one sentence; what the verdict sums up where it did."""
        if self.document is None:
            return self.problem or text(mapping(self.plan).get("no_verdict"), 600) or "there is no verdict"
        said = text(mapping(self.document.get("verdict")).get("summary"), 600)
        flagged = [text(row.get("message"), 300) for row in self.slow]
        return "; ".join([*flagged[:1], said] if flagged else [said])

    @cached_property
    def looked_again(self) -> str:
        """When the host was looked at last, where that was after its proof was made; else an empty text."""
        document = mapping(self.document)
        proven, looked = (text(document.get(key), 40) for key in ("finished", "checked"))
        return looked if proven and looked > proven else ""

    @cached_property
    def simulated(self) -> bool:
        """Whether anything here comes from a stand-in; a document that does not say is not believed to be real."""
        if self.document is None:
            return bool(mapping(self.plan).get("simulated"))
        return self.document.get("simulated") is not False

    @cached_property
    def profile(self) -> str:
        """Return gpu, cpu, or an empty text where nobody knows."""
        planned = mapping(mapping(self.plan).get("plan")).get("profile")
        said = mapping(self.document).get("profile") or planned
        return said if said in ("gpu", "cpu") else ""

    @cached_property
    def proven(self) -> bool:
        """Whether real GPUs were proven to compute right."""
        good = self.profile == "gpu" and self.status in ("PASS", "WARN") and not self.simulated
        return good and mapping(self.document).get("gpu_validated") is True


@dataclass(frozen=True)
class Lab:
    """All hosts that the directory knows."""

    hosts: list[Host] = field(default_factory=list)
    #: What :func:`gpu_report.outliers.find` says of every figure.
    findings: Sequence[Mapping[str, Any]] = ()

    def sorted(self) -> list[Host]:
        """Return the hosts, the worst first, equal ones by name."""
        return sorted(self.hosts, key=lambda host: (-SEVERITY.index(host.status), natural(host.name)))


@dataclass(frozen=True)
class Entry:
    """What a run has to say of a host."""

    document: Mapping[str, Any] | None = None
    plan: Mapping[str, Any] | None = None


def file_name(host: str) -> str:
    """Return the name of a host's file without its ending: encoded where it is none."""
    name = quote(host, safe="", encoding="utf-8", errors="surrogatepass").replace("~", "%7E")
    name = re.sub(r"^\.", "%2E", name)
    return re.sub(r"\.plan$", "%2Eplan", name) or "%00"


def _host_name(stem: str) -> str:
    return unquote(stem, encoding="utf-8", errors="replace")


def read(directory: Path) -> Lab:
    """Read all that a directory says of hosts.

    Raises:
        ReportError: there is no such directory, or it cannot be listed.
    """
    try:
        names = {entry.name for entry in os.scandir(directory) if entry.name.endswith(_VERDICT) and entry.is_file()}
    except OSError as error:
        raise ReportError(f"{directory}: {error.strerror}") from error
    stems = {name.removesuffix(_PLAN) if name.endswith(_PLAN) else name.removesuffix(_VERDICT) for name in names}
    hosts = []
    for stem in sorted(stems - {""}, key=natural):
        problems: list[str] = []
        document, plan = (
            _load(directory / name, problems) if name in names else None for name in (stem + _VERDICT, stem + _PLAN)
        )
        previous = _load(directory / EARLIER / (stem + _VERDICT), [])
        hosts.append(Host(_host_name(stem), document, previous, plan, "; ".join(problems)))
    return compared(hosts)


def compared(hosts: Sequence[Host]) -> Lab:
    """Return a lab of these hosts, in which each GPU is compared with its equals on all of them."""
    findings = outliers.find({host.name: host.document for host in hosts if host.document})
    slow: dict[str, list[Mapping[str, Any]]] = {}
    for finding in outliers.flagged(findings):
        slow.setdefault(finding["host"], []).append(finding)
    return Lab([replace(host, slow=tuple(slow.get(host.name, ()))) for host in hosts], findings)


def _as_check(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found of one figure as a check of its host."""
    measured = {key: finding[key] for key in ("value", "group_median", "below") if number(finding.get(key)) is not None}
    same = {"id": "fleet.outlier", "tier": 5, "required": True, "reason_code": "OUTLIER", "action": "none"}
    return {**same, **{key: finding.get(key) for key in ("target", "status", "message")}, "measured": measured}


def _load(path: Path, problems: list[str]) -> Mapping[str, Any] | None:
    """Return the JSON object in a file; None, and a sentence more in ``problems``, where there is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        value = json.loads(content) if len(content) <= _MOST_BYTES else None
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
    except (ValueError, RecursionError):
        problems.append(f"{path.name} is no JSON")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"{path.name} holds no verdict")
    return None


class Saved(NamedTuple):
    """What :func:`save` did."""

    #: Names of the files that were written or taken away, relative to the directory.
    files: list[str]
    #: Whether that says anything new. A host that is only looked at again has other times and other free space.
    news: bool


def save(directory: Path, entries: Mapping[str, Entry], *, dry_run: bool = False) -> Saved:
    """Bring the files of some hosts up to date; the last document that said something else is kept as the previous one.

    Args:
        entries: host name -> what this run says of it. Without a document the file of an earlier run is taken away, so
            that it does not speak for a host that this run could not judge.
        dry_run: change nothing, and say what would be.

    Raises:
        ReportError: a file cannot be written.
    """
    changed: list[str] = []
    news = False
    for host, entry in entries.items():
        stem = file_name(host)
        current, earlier = directory / (stem + _VERDICT), directory / EARLIER / (stem + _VERDICT)
        new = None
        if entry.document is not None:
            # Whether a verdict was used again is about this run of the playbook, not about the verdict.
            new = _json({key: value for key, value in entry.document.items() if key != "reused"})
        old = _bytes(current)
        if old != new and (old is None or _substance(_parsed(old)) != _substance(entry.document)):
            news = True
            if old is not None and _parsed(old).get("run_id") is not None:
                changed += _write(earlier, old, directory, dry_run)
        if new is not None:
            changed += _write(current, new, directory, dry_run)
        elif old is not None:
            changed += _remove(current, directory, dry_run)
        if entry.plan is not None:
            path = directory / (stem + _PLAN)
            before = _parsed(_bytes(path))
            news = news or any(before.get(key) != entry.plan.get(key) for key in ("status", "no_verdict"))
            changed += _write(path, _json(entry.plan), directory, dry_run)
    return Saved(changed, news)


def _substance(document: Any) -> Any:
    """Return what is new when it changes: which run, what it judged, and of what; not how long that took."""
    document = mapping(document)
    verdict, observed = mapping(document.get("verdict")), mapping(document.get("observed"))
    checks = [
        tuple(str(check.get(key)) for key in ("id", "target", "status", "reason_code"))
        for check in mappings(document.get("checks"))
    ]
    gpus = [[str(gpu.get(key)) for key in ("bdf", "uuid", "vbios")] for gpu in mappings(observed.get("gpus"))]
    return (
        *(str(document.get(key)) for key in ("run_id", "profile", "simulated")),
        *(str(verdict.get(key)) for key in ("status", "action")),
        *(_json(observed.get(key)) for key in ("environments", "driver")),
        sorted(gpus),
        sorted(checks),
    )


def make(directory: Path, *, dry_run: bool = False) -> list[str]:
    """Make the page and the JUnit file from what is in the directory; return the names of those that changed.

    Raises:
        ReportError: the directory cannot be read, or a file cannot be written.
    """
    from gpu_report import junit, page  # they need this module

    lab = read(directory)
    changed = _write(directory / JUNIT, junit.render(lab).encode(), directory, dry_run)
    return changed + _write(directory / PAGE, page.render(lab).encode(), directory, dry_run)


def _json(value: Any) -> bytes:
    """Return a value as JSON; what JSON does not know, lone surrogates too, becomes text that every reader takes."""
    return json.dumps(value, indent=1, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace") + b"\n"


def _parsed(content: bytes | None) -> Mapping[str, Any]:
    try:
        return mapping(json.loads(content or b"null"))
    except (ValueError, RecursionError):
        return {}


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def write(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it sees the old one or the new one, never half of it.

    Raises:
        ReportError: it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                os.fchmod(stream.fileno(), 0o644)
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error.strerror}") from error


def _write(path: Path, content: bytes, directory: Path, dry_run: bool) -> list[str]:
    if _bytes(path) == content:
        return []
    if not dry_run:
        write(path, content)
    return [str(path.relative_to(directory))]


def _remove(path: Path, directory: Path, dry_run: bool) -> list[str]:
    if not dry_run:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ReportError(f"{path} cannot be removed: {error.strerror}") from error
    return [str(path.relative_to(directory))]
