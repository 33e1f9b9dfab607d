# SPDX-License-Identifier: Apache-2.0
"""What the page shows of one host when somebody opens it: rows of plain text, which a program in the page sets.

Checks are gathered by what they check; of those that did not pass, only those that say the same. All of them, with
every figure, are in the host's JSON beside the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_report import charts, drift
from gpu_report.plain import (
    SEVERITY,
    VERBS,
    counts_as,
    dataset,
    framework,
    mapping,
    mappings,
    number,
    numbers,
    sequence,
    short,
    status,
    text,
    worst,
)
from gpu_report.store import Host, file_name

#: Of one host. A host on which everything fails need not fill the page of the whole lab.
_MOST_CHECKS, _MOST_TARGETS, _MOST_ROWS = 60, 6, 64
#: The whole UUID of a GPU stands in the table of the GPUs.
_UUID = re.compile(r"((?:GPU|MIG)-[0-9a-f]{8})-[0-9a-f-]{8,}")
Row = list[Any]


class Shared:
    """Values that many hosts have in common, each held once: hosts name them by their place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Return the place of a value."""
        key = repr(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def of_host(host: Host, shared: Shared) -> dict[str, Any]:
    """Return what is to be shown of a host."""
    document = mapping(host.document)
    return {
        "why": host.why,
        "label": host.label,
        "file": f"{file_name(host.name)}.json" if host.document is not None else "",
        "facts": _facts(host, document),
        "gpus": _gpus(host),
        "checks": _checks(host),
        "jobs": _jobs(document),
        "proof": _proof(host, document),
        "versions": _versions(host, document),
        "reasons": shared.place(_reasons(host)),
        "drift": [
            [row["kind"], row["what"], row["before"], row["after"], row["worse"]]
            for row in drift.compare(host.previous, host.document)[:_MOST_ROWS]
        ],
        "extra": _extra(document),
    }


def shortened(value: Any) -> str:
    """Return a foreign text with the ids of GPUs shortened."""
    return _UUID.sub(r"\1…", text(value, 600))


def gpu_states(host: Host) -> list[tuple[str, str]]:
    """Return (what it is, status) of each GPU: the worst of all checks that name it, UNKNOWN where none does."""
    document = mapping(host.document)
    found: dict[str, list[str]] = {}
    for check in host.checks:
        device = text(check.get("target"), 400).rpartition("@")[2]
        found.setdefault(device, []).append(counts_as(check))
    answer = []
    for gpu in mappings(mapping(document.get("observed")).get("gpus"))[:_MOST_ROWS]:
        words = [word for key in ("uuid", "bdf") for word in found.get(text(gpu.get(key), 400), [])]
        name = text(gpu.get("product") or gpu.get("name"), 60) or "GPU"
        answer.append((f"{name} {text(gpu.get('bdf'), 20)}".strip(), worst(words)))
    return answer


def _facts(host: Host, document: Mapping[str, Any]) -> list[Row]:
    observed, about = mapping(document.get("observed")), mapping(document.get("host"))
    driver = mapping(observed.get("driver"))
    plan = mapping(host.plan)
    rows = [
        ["system", text(observed.get("os") or plan.get("os"), 120)],
        ["kernel", text(about.get("kernel") or observed.get("kernel") or plan.get("kernel"), 120)],
        ["name of its own", "" if about.get("name") == host.name else text(about.get("name"), 120)],
        ["driver", " ".join(text(driver.get(key), 60) for key in ("module", "flavour") if driver.get(key))],
        ["profile", text(document.get("profile"), 20)],
        ["run", text(document.get("run_id"), 60)],
        ["started", text(document.get("started"), 40)],
        ["proven", text(document.get("finished"), 40)],
        ["looked at last", text(document.get("checked"), 40)],
        ["took", f"{short(number(document.get('duration_s')))} s" if document else ""],
        ["ran as", text(document.get("run_as"), 60)],
        [
            "data set",
            text(mapping(document.get("dataset")).get("title") or mapping(document.get("dataset")).get("name")),
        ],
        ["logs on the host", text(document.get("log_directory"), 300)],
    ]
    return [row for row in rows if row[1]]


def _gpus(host: Host) -> list[Row]:
    gpus = mappings(mapping(mapping(host.document).get("observed")).get("gpus"))[:_MOST_ROWS]
    rows = []
    for gpu, (_, state) in zip(gpus, gpu_states(host), strict=True):
        memory = gpu.get("memory")
        total = number(mapping(memory).get("total")) if isinstance(memory, Mapping) else number(memory)
        size = "" if total is None else f"{total / 2**30:.0f} GiB"
        name = text(gpu.get("product") or gpu.get("name"), 80)
        rows.append(
            [state, text(gpu.get("bdf"), 20), name, size, text(gpu.get("uuid"), 60), text(gpu.get("vbios"), 40)]
        )
    return rows


def _checks(host: Host) -> list[Row]:
    """Return [tier, status, id, count, targets, message, measured, source, action, evidence, seconds], worst first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for check in host.checks:
        word = counts_as(check)
        key: tuple[Any, ...] = (word, _tier(check), text(check.get("id"), 80))
        if word not in ("PASS", "SKIP"):
            key += tuple(text(check.get(part), 600) for part in ("message", "reason_code", "action"))
        groups.setdefault(key, []).append(check)
    ordered = sorted(groups.items(), key=lambda item: (-SEVERITY.index(item[0][0]), item[0][1], item[0][2]))
    bad = [(key, members) for key, members in ordered if key[0] not in ("PASS", "SKIP")]
    rows = [_check(key[0], members) for key, members in bad[:_MOST_CHECKS]]
    if len(bad) > _MOST_CHECKS:
        words = f"{len(bad) - _MOST_CHECKS} more of the kind; all of them are in the JSON"
        rows.append([9, "UNKNOWN", "…", 1, "", words, "", "", "", "", ""])
    return rows + [_check(key[0], members) for key, members in ordered[len(bad) :][: 2 * _MOST_CHECKS]]


def _tier(check: Mapping[str, Any]) -> int:
    tier = number(check.get("tier"))
    return int(tier) if tier is not None and 0 <= tier <= 6 else 9


def _check(word: str, members: Sequence[Mapping[str, Any]]) -> Row:
    first = members[0]
    targets = list(dict.fromkeys(shortened(check.get("target")) for check in members))
    said = list(dict.fromkeys(shortened(check.get("message")) for check in members))
    seconds = [value for check in members if (value := number(check.get("duration_s"))) is not None]
    more = len(targets) - _MOST_TARGETS
    action = first.get("action")
    return [
        _tier(first),
        word,
        text(first.get("id"), 80),
        len(members),
        ", ".join(targets[:_MOST_TARGETS]) + (f" and {more} more" if more > 0 else ""),
        said[0] + (f" (and {len(said) - 1} others)" if len(said) > 1 else ""),
        _measured(members),
        text(first.get("threshold_source"), 300),
        "" if action in (None, "none") else VERBS.get(str(action), text(action, 40)),
        ", ".join(text(path, 200) for path in sequence(first.get("evidence"))[:4]),
        f"{short(max(seconds))} s" if seconds else "",
    ]


def _measured(members: Sequence[Mapping[str, Any]]) -> str:
    """Return what was measured beside its limit, as "rel_f 2.1e-7 to 3.9e-7 (limit 1e-5)"."""
    values: dict[str, list[float]] = {}
    limits: dict[str, float] = {}
    for check in members:
        for key, value in numbers(check.get("measured")):
            values.setdefault(key, []).append(value)
        limits.update(numbers(check.get("threshold")))
    words = []
    for key, found in list(values.items())[:8]:
        low, high = short(min(found)), short(max(found))
        words.append(f"{key} {low}" + (f" to {high}" if high != low else ""))
        for suffix, said in (("", "limit"), ("_max", "at most"), ("_min", "at least")):
            if key + suffix in limits:
                words[-1] += f" ({said} {short(limits[key + suffix])})"
    return ", ".join(words)


def _jobs(document: Mapping[str, Any]) -> list[Row]:
    rows = []
    for result in mappings(document.get("results"))[:_MOST_ROWS]:
        name = framework(result.get("framework"))
        if result.get("framework") == "keras" and result.get("keras_backend"):
            name += f" on {framework(result['keras_backend'])}"
        device = text(result.get("device"), 40)
        if result.get("device_name"):
            device += f" ({text(result['device_name'], 60)})"
        accuracy = number(result.get("accuracy"))
        rows.append(
            [
                status(result.get("status")),
                text(result.get("environment"), 60),
                f"{name} {text(result.get('version'), 40)}".strip(),
                text(result.get("python"), 20),
                device,
                dataset(result.get("dataset")),
                "" if accuracy is None else f"{accuracy:.4f}",
                "" if (seconds := number(result.get("seconds"))) is None else f"{seconds:.0f} s",
                charts.curve(sequence(result.get("loss_curve"))),
                text(result.get("note"), 400),
            ]
        )
    return rows


def _proof(host: Host, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the proof of GPU use: the signals of each target, and what the same job did without a GPU.

    On a processor there is nothing to prove, and what the jobs did that asked for a GPU stays.
    """
    proof = mapping(document.get("gpu_use_proof"))
    control = {text(key, 120): text(word, 60) for key, word in mapping(proof.get("negative_control")).items()}
    targets = []
    claimed = {} if host.profile == "cpu" else mapping(proof.get("targets"))
    for key, target in list(claimed.items())[:_MOST_ROWS]:
        signals = [
            [text(row.get("name"), 40), text(row.get("side"), 20), row.get("ok") is True, text(row.get("detail"), 160)]
            for row in mappings(mapping(target).get("signals"))[:12]
        ]
        targets.append([text(key, 120), mapping(target).get("reached") is True, signals])
    needed = number(proof.get("quorum_needed"))
    return {
        "needed": short(needed) if needed else "",
        "targets": targets,
        "control": list(control.items())[:_MOST_ROWS],
    }


def _versions(host: Host, document: Mapping[str, Any]) -> list[Row]:
    """Return [what, planned, found, differs] of driver, toolkits and frameworks."""
    plan = mapping(mapping(host.plan).get("plan"))
    expected, observed = mapping(document.get("expected")), mapping(document.get("observed"))
    rows: list[Row] = []
    wanted = mapping(plan.get("driver") or expected.get("driver"))
    found = mapping(observed.get("driver"))
    if wanted or found:
        planned = " ".join(
            text(wanted.get(key), 40) for key in ("version", "kernel_module", "source") if wanted.get(key)
        )
        rows += [
            _version("driver, kernel module", planned, text(wanted.get("version"), 40), found.get("module")),
            _version("driver, library", planned, text(wanted.get("version"), 40), found.get("library")),
        ]
    for part, name in (("cuda_toolkits", "CUDA toolkit"), ("cudnn", "cuDNN")):
        for row in mappings(plan.get(part))[:8]:
            words = f"{text(row.get('version'), 40)} {text(row.get('source'), 40)} {text(row.get('path'), 120)}"
            rows.append([name, text(words), "", False])
    ran = mapping(observed.get("environments"))
    for environment in mappings(plan.get("environments"))[:_MOST_ROWS]:
        name = text(environment.get("name"), 60)
        for word, wish in mapping(environment.get("frameworks")).items():
            version = text(mapping(wish).get("version") if isinstance(wish, Mapping) else wish, 40)
            python = text(environment.get("python"), 20)
            planned = version + (f" for Python {python}" if python else "")
            rows.append(_version(f"{framework(word)} in {name}", planned, version, mapping(ran.get(name)).get(word)))
    return rows


def _version(what: str, planned: str, version: str, found: Any) -> Row:
    found = text(found, 60)
    differs = bool(version and found) and version.split("+")[0] != found.split("+")[0]
    return [what, planned, found, differs]


def _reasons(host: Host) -> dict[str, list[Row]]:
    plan = mapping(host.plan)
    return {
        "reasons": [
            [text(row.get(key), 300) for key in ("about", "choice", "because", "source")]
            for row in mappings(plan.get("reasons"))[:_MOST_ROWS]
        ],
        "remarks": [
            *([text(row.get("message") or row.get("id"), 600)] for row in mappings(plan.get("conflicts"))[:_MOST_ROWS]),
            *([_remark(row)] for row in list(sequence(plan.get("warnings")))[:_MOST_ROWS]),
        ],
        "change": _change(mapping(plan.get("change"))),
    }


def _remark(row: Any) -> str:
    return text(row.get("message") or row.get("id"), 600) if isinstance(row, Mapping) else text(row, 600)


def _change(change: Mapping[str, Any]) -> list[Row]:
    """Return [part, why] for everything that was to be changed on the host in this run."""
    rows: list[Row] = []
    for part, name in (("driver", "driver"), ("cuda_toolkit", "CUDA toolkits"), ("cudnn", "cuDNN")):
        for step in mappings(mapping(change.get(part)).get("steps")):
            rows.append([f"{name}: {text(step.get('step'), 40)}", text(step.get("why"), 300)])
    for environment in mappings(change.get("environments")):
        rows.append([f"environment {text(environment.get('name'), 60)}", text(environment.get("why"), 300)])
    return rows[:_MOST_ROWS]


def _extra(document: Mapping[str, Any]) -> list[Row]:
    """Return [name, value] of what has no table of its own: data-parallel training, diagnostics, the self test."""
    rows = _flat("data-parallel training", document.get("data_parallel"))
    rows += _flat("diagnostics", document.get("diagnostics"))
    tests = mapping(document.get("self_test"))
    if tests:
        failed = [text(key, 60) for key, good in tests.items() if good is not True]
        rows.append(
            ["self-test of the gates", f"FAIL: {', '.join(failed)}" if failed else f"{len(tests)} of {len(tests)} held"]
        )
    return rows[:_MOST_ROWS]


def _flat(prefix: str, value: Any, depth: int = 3) -> list[Row]:
    """Return a nested value as rows of path and text, some levels deep."""
    members: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        members = ((f"{prefix}, {text(key, 40)}", member) for key, member in list(value.items())[:20])
    elif isinstance(value, (list, tuple)) and any(isinstance(member, (Mapping, list)) for member in value):
        members = ((f"{prefix} {place}", member) for place, member in enumerate(value[:20], 1))
    elif value in (None, "", [], ()):
        return []
    else:
        shown = ", ".join(text(member, 60) for member in value[:12]) if isinstance(value, (list, tuple)) else value
        return [[prefix, text(shown, 300)]]
    if depth == 0:
        return [[prefix, text(value, 300)]]
    return [row for name, member in members for row in _flat(name, member, depth - 1)]
