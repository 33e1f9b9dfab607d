# SPDX-License-Identifier: Apache-2.0
"""What is different between a host's last two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpu_report.plain import NOTHING, SEVERITY, TIERS, framework, mapping, mappings, number, short, status, text

#: A figure of throughput that moved by less than this share is noise.
_NOTEWORTHY = 0.05


def compare(previous: Mapping[str, Any] | None, document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return what changed from one verdict document to the next one of the same host.

    Returns:
        rows ``{"kind", "what", "before", "after", "worse"}``, texts but for ``worse``: true where it is worse now,
        false where it is better, null where it is neither. Nothing where one of the two is missing.
    """
    if not previous or not document:
        return []
    rows: list[dict[str, Any]] = []
    for part in (_verdict, _identity, _gpus, _frameworks, _counters, _throughput):
        rows += part(previous, document)
    return rows


def _row(kind: str, what: str, before: Any, after: Any, worse: bool | None = None) -> dict[str, Any]:
    return {
        "kind": kind,
        "what": what,
        "before": text(before, 120) or NOTHING,
        "after": text(after, 120) or NOTHING,
        "worse": worse,
    }


def _graver(before: str, after: str) -> bool:
    return SEVERITY.index(after) > SEVERITY.index(before)


def _verdict(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield changes of the verdict and of each tier; tiers that did not run in one of the two are left out."""
    before, after = (status(mapping(of.get("verdict")).get("status")) for of in (old, new))
    if before != after:
        yield _row("verdict", "verdict", before, after, _graver(before, after))
    for index, name in enumerate(TIERS):
        pair = [mapping(mapping(of.get("tiers")).get(str(index))).get("status") for of in (old, new)]
        if None in pair or "SKIP" in pair:
            continue
        before, after = map(status, pair)
        if before != after:
            yield _row("verdict", f"T{index} {name}", before, after, _graver(before, after))


_IDENTITY = (
    ("system", ("observed", "os"), "operating system"),
    ("system", ("host", "kernel"), "kernel"),
    ("system", ("host", "machine_id_hash"), "machine (its id)"),
    ("driver", ("observed", "driver", "module"), "driver, kernel module"),
    ("driver", ("observed", "driver", "library"), "driver, library"),
    ("driver", ("observed", "driver", "flavour"), "driver, flavour of the module"),
    ("driver", ("observed", "cuda_driver_version"), "newest CUDA of the driver"),
    ("run", ("profile",), "profile"),
    ("run", ("simulated",), "simulated"),
    ("run", ("tool", "version"), "validator"),
    ("run", ("dataset", "name"), "data set"),
)


def _identity(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, path, what in _IDENTITY:
        before, after = _at(old, path), _at(new, path)
        if before != after:
            yield _row(kind, what, before, after)


def _at(document: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return what lies at a path; mappings as one line."""
    value: Any = document
    for key in path:
        value = mapping(value).get(key)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {value[key]}" for key in sorted(value) if value[key] is not None)
    return value


def _gpus(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield GPUs that came, went, or were swapped, by their place on the bus."""
    before, after = (
        {text(gpu.get("bdf")): gpu for gpu in mappings(mapping(of.get("observed")).get("gpus")) if gpu.get("bdf")}
        for of in (old, new)
    )
    for bus in sorted({*before, *after}):
        was, now = before.get(bus), after.get(bus)
        if was is None or now is None:
            yield _row("gpu", f"GPU {bus}", _gpu(was), _gpu(now), True if now is None else None)
            continue
        if was.get("uuid") != now.get("uuid"):
            yield _row("gpu", f"GPU {bus}: another card", _gpu(was), _gpu(now))
        elif was.get("vbios") != now.get("vbios"):
            yield _row("gpu", f"GPU {bus}: VBIOS", was.get("vbios"), now.get("vbios"))


def _gpu(gpu: Mapping[str, Any] | None) -> str:
    if gpu is None:
        return "none"
    return f"{text(gpu.get('product') or gpu.get('name'), 60)} {text(gpu.get('uuid'), 60)}".strip()


def _frameworks(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    before, after = (
        {
            (text(environment), text(name)): version
            for environment, versions in mapping(mapping(of.get("observed")).get("environments")).items()
            for name, version in mapping(versions).items()
        }
        for of in (old, new)
    )
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield _row("framework", f"{framework(key[1])} in {key[0]}", before.get(key), after.get(key))


def _counters(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield corrected memory errors that grew, where the documents carry the counters."""
    before, after = (
        {text(row.get("target")): number(mapping(row.get("measured")).get("corrected")) for row in _ecc(of)}
        for of in (old, new)
    )
    for target, count in after.items():
        earlier = before.get(target)
        if count is not None and earlier is not None and count > earlier:
            yield _row("gpu", f"{target}: corrected memory errors", short(earlier), short(count), True)


def _ecc(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in mappings(document.get("checks")) if row.get("id") == "ecc.corrected"]


def _throughput(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    before, after = (
        {
            (text(row.get("target")), text(row.get("metric"))): (number(row.get("median")), text(row.get("unit"), 20))
            for row in mappings(mapping(of.get("performance")).get("rows"))
        }
        for of in (old, new)
    )
    moved: dict[str, list[tuple[float, str, str, str]]] = {}
    for key, (value, unit) in after.items():
        earlier = before.get(key, (None, ""))[0]
        if value is None or earlier is None or earlier <= 0 or not abs(value / earlier - 1) > _NOTEWORTHY:
            continue
        figure = (value / earlier - 1, key[1], f"{short(earlier)} {unit}", f"{short(value)} {unit}")
        moved.setdefault(key[0], []).append(figure)
    for target, figures in moved.items():
        # One row for each GPU: whatever makes one figure fall mostly makes the others fall as well.
        change, metric, was, now = min(figures)
        more = f", and {len(figures) - 1} more figures, up to {max(figures)[0]:+.0%}" if len(figures) > 1 else ""
        what = f"throughput of {target}"
        yield _row("throughput", what, f"{metric} {was}", f"{metric} {now} ({change:+.0%}{more})", change < 0)
