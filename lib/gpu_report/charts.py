# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG: Vega-Lite descriptions, drawn by vl-convert without a browser and without a network.

Colours are variables of the page's style sheet, so that one drawing serves light, dark and paper. Each figure has a
table of the same figures; where vl-convert is missing there is the table alone. However large the lab is, a drawing has
a bounded number of marks: what is usual is thinned out, what is not never.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_report.plain import NOTHING, dataset, framework, mapping, mappings, number, sequence, short, text
from gpu_report.store import Host, Lab

vl_convert: Any
try:
    import vl_convert
except ImportError:  # an optional extra; the page says so
    vl_convert = None

#: Lines of one chart that are drawn one by one; beyond, usual ones are a band.
_MOST_LINES = 16
#: Usual points in one row of a chart: as many as differ by more than a pixel or so.
_BINS = 90
_MOST_EPOCHS = 200
_CONFIG = {
    "background": "transparent",
    "padding": {"left": 4, "right": 8, "top": 8, "bottom": 2},
    "font": "sans-serif",
    "view": {"stroke": "transparent"},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 190,
    },
}
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
_TITLES = {
    "matmul_fp32": "Matrix products, fp32",
    "matmul_tf32": "Matrix products, TF32",
    "matmul_bf16": "Matrix products, bf16",
    "matmul_fp16": "Matrix products, fp16",
    "memory_bandwidth": "Memory bandwidth",
    "host_to_device": "Host to GPU",
    "device_to_host": "GPU to host",
    "all_reduce": "All-reduce",
}
#: Runs that lie further apart than this share of their median are shown beside it.
_UNSTEADY = 0.2
_MODES = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Figure:
    """One drawing and the same as a table."""

    title: str
    note: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    svg: str = ""
    #: What somebody who cannot see the drawing is told.
    label: str = ""
    data: Sequence[Mapping[str, Any]] = field(default_factory=list)


def available() -> bool:
    """Tell whether drawings can be made."""
    return vl_convert is not None


def metric_title(metric: str) -> str:
    """Return what a metric is called."""
    return _TITLES.get(metric, text(metric, 40))


def draw(spec: Mapping[str, Any]) -> str:
    """Return a Vega-Lite description as an SVG that fits its surroundings; an empty text where none can be made."""
    if vl_convert is None:
        return ""
    config = {**_CONFIG, **spec.get("config", {})}
    try:
        svg: str = vl_convert.vegalite_to_svg({"$schema": _SCHEMA, **spec, "config": config}, vl_version="5.21")
    except ValueError:  # figures that no axis has room for; the table has them
        return ""
    # The page's own style says how wide it is and in which letters; nothing in a drawing may run or lead anywhere.
    svg = re.sub(r'^<svg [^>]*?width="([\d.]+)" height="([\d.]+)"[^>]*>', _responsive, svg, count=1)
    svg = re.sub(r' (aria-[a-z]+|role)="[^"]*"', "", svg)
    if re.search(r"<(script|foreignObject|a|image|style)\b|\bhref=|\bon[a-z]+=", re.sub(r">[^<]*<", "><", svg)):
        return ""
    return svg


def _responsive(found: re.Match[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {found[1]} {found[2]}" style="max-width:{found[1]}px">'
    )


# --- training -----------------------------------------------------------------------------------------------------


def training(hosts: Iterable[Host]) -> list[Figure]:
    """Return a figure for each framework: the loss of its training jobs by epoch."""
    jobs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for host in hosts:
        for result in mappings(mapping(host.document).get("results")):
            curve = [number(value) for value in sequence(result.get("loss_curve"))[:_MOST_EPOCHS]]
            jobs[framework(result.get("framework")) or "?"].append(
                {
                    "host": text(host.name, 60),
                    "environment": text(result.get("environment"), 40),
                    "dataset": dataset(result.get("dataset")),
                    "curve": curve,
                    "accuracy": number(result.get("accuracy")),
                    "seconds": number(result.get("seconds")),
                    "bad": result.get("status") not in ("PASS", "WARN"),
                }
            )
    return [_losses(name, jobs[name]) for name in sorted(jobs)]


def _losses(name: str, jobs: list[dict[str, Any]]) -> Figure:
    bad, good = ([job for job in jobs if job["bad"] is wanted] for wanted in (True, False))
    drawn = [*bad[:_MOST_LINES], *(good if len(good) <= _MOST_LINES else [])]
    lines = [
        {"epoch": epoch, "loss": loss, "job": f"{job['host']} {job['environment']}", "bad": job["bad"]}
        for job in drawn
        for epoch, loss in enumerate(job["curve"], 1)
        if loss is not None and loss > 0
    ]
    # A line that is flat at the top has its name at its end.
    ends = {line["job"]: line for line in lines if line["bad"]}
    band = []
    if len(good) > _MOST_LINES:
        for epoch in range(max((len(job["curve"]) for job in good), default=0)):
            values = sorted(
                job["curve"][epoch] for job in good if len(job["curve"]) > epoch and (job["curve"][epoch] or 0) > 0
            )
            if values:
                band.append(
                    {"epoch": epoch + 1, "low": values[0], "high": values[-1], "middle": statistics.median(values)}
                )
    ticks = [digit * 10.0**power for power in range(-6, 5) for digit in (1, 2, 5)]
    scale = {"type": "log", "nice": False, "zero": False}
    axis = {"grid": True, "values": ticks, "format": "~g"}
    x = {"field": "epoch", "type": "quantitative", "title": "epoch", "axis": {"tickMinStep": 1, "grid": False}}
    y = {"field": "loss", "type": "quantitative", "title": "mean loss", "scale": scale, "axis": axis}
    layers: list[dict[str, Any]] = []
    if band:
        low = {"field": "low", "type": "quantitative", "title": "mean loss", "scale": scale, "axis": axis}
        layers += [
            {
                "data": {"values": band},
                "mark": {"type": "area", "color": "var(--accent)", "opacity": 0.18},
                "encoding": {"x": x, "y": low, "y2": {"field": "high"}},
            },
            {
                "data": {"values": band},
                "mark": {"type": "line", "color": "var(--accent)", "strokeWidth": 2},
                "encoding": {"x": x, "y": y | {"field": "middle"}},
            },
        ]
    if lines:
        colour = {"condition": {"test": "datum.bad", "value": "var(--fail)"}, "value": "var(--accent)"}
        layers.append(
            {
                "data": {"values": lines},
                "mark": {"type": "line", "strokeWidth": 1.6},
                "encoding": {
                    "x": x,
                    "y": y,
                    "detail": {"field": "job"},
                    "color": colour,
                    "opacity": {"condition": {"test": "datum.bad", "value": 1}, "value": 0.6},
                },
            }
        )
    if ends:
        layers.append(
            {
                "data": {"values": list(ends.values())[:4]},
                "mark": {"type": "text", "align": "right", "dy": -7, "fontSize": 11, "color": "var(--fail)"},
                "encoding": {"x": x, "y": y, "text": {"field": "job"}},
            }
        )
    rows = [
        (
            job["host"],
            job["environment"],
            job["dataset"] or NOTHING,
            *(short(job["curve"][place]) if job["curve"] else short(None) for place in (0, -1)),
            NOTHING if job["accuracy"] is None else f"{job['accuracy']:.4f}",
            short(job["seconds"]),
            "failed" if job["bad"] else "passed",
        )
        for job in [*bad, *good]
    ]
    note = f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}, {len(bad)} failed"
    # What was reached on one data set says nothing of another one.
    for kind in sorted({job["dataset"] for job in good}):
        found = [job["accuracy"] for job in good if job["dataset"] == kind and job["accuracy"] is not None]
        if found:
            low_word, high_word = f"{min(found):.4f}", f"{max(found):.4f}"
            note += f"; accuracy {low_word}" + (f" to {high_word}" if high_word != low_word else "")
            note += f" on {kind}" if kind else ""
    if band:
        note += "; the line is the median, the band reaches from the lowest to the highest"
    headings = ("host", "environment", "data set", "first loss", "last loss", "accuracy", "seconds", "verdict")
    svg = draw({"width": 250, "height": 150, "layer": layers}) if layers else ""
    return Figure(name, note, headings, rows, svg, f"Loss of {name} by epoch: {note}")


# --- throughput -----------------------------------------------------------------------------------------------------


def throughput(findings: Iterable[Mapping[str, Any]], references: Mapping[tuple[str, str], float]) -> list[Figure]:
    """Return a figure for each metric: every GPU of every product as a point, those that are slow by name.

    Args:
        findings: what :func:`gpu_report.outliers.find` says of each GPU.
        references: (product, metric) -> the figure that the product should reach.
    """
    by_metric: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for finding in findings:
        if number(finding.get("value")) is not None:
            by_metric[text(finding.get("metric"), 40)].append(finding)
    order = [*_TITLES, *sorted(set(by_metric) - set(_TITLES))]
    return [_speeds(metric, by_metric[metric], references) for metric in order if by_metric.get(metric)]


def processors(hosts: Iterable[Host]) -> list[Figure]:
    """Return the table of what was measured on processors; there is nothing to compare it with, and no claim."""
    rows = [
        (
            text(host.name, 60),
            text(row.get("device_name"), 60) or NOTHING,
            f"{framework(row.get('framework'))} in {text(row.get('environment'), 40)}",
            metric_title(text(row.get("metric"), 40)),
            text(row.get("method"), 40) or NOTHING,
            f"{short(number(row.get('median')))} {text(row.get('unit'), 20)}{_unsteady(row)}",
        )
        for host in hosts
        if host.profile == "cpu"
        for row in mappings(mapping(mapping(host.document).get("performance")).get("rows"))
    ]
    note = "measured, compared with nothing"
    headings = ("host", "processor", "by", "figure", "method", "median")
    return [Figure("Processors", note, headings, rows)] if rows else []


def _unsteady(row: Mapping[str, Any]) -> str:
    """Return how far the runs of a figure lie apart, where that is a large part of it; else an empty text."""
    runs = [value for run in sequence(row.get("runs")) if (value := number(run)) is not None]
    if not runs or not max(runs) - min(runs) > _UNSTEADY * (number(row.get("median")) or math.inf):
        return ""
    return f", {len(runs)} runs from {short(min(runs))} to {short(max(runs))}"


def _speeds(metric: str, found: list[Mapping[str, Any]], references: Mapping[tuple[str, str], float]) -> Figure:
    unit = text(found[0].get("unit"), 20)
    products: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for finding in found:
        products[text(finding.get("product"), 60) or "processors"].append(finding)
    points: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    rows: list[Sequence[str]] = []
    for product in sorted(products):
        values = sorted(value for row in products[product] if (value := number(row.get("value"))) is not None)
        middle = statistics.median(values)
        name = f"{product} ({len(values)})"
        reference = references.get((product, metric))
        marks.append({"product": name, "middle": middle, "reference": reference})
        slow = [row for row in products[product] if row.get("status") in ("WARN", "FAIL", "UNKNOWN")]
        usual = [value for row in products[product] if row not in slow and (value := number(row.get("value")))]
        points += [{"product": name, "value": value, "status": "PASS", "name": ""} for value in _thin(usual)]
        points += [
            {
                "product": name,
                "value": number(row.get("value")),
                "status": text(row.get("status"), 10),
                "name": text(row.get("host"), 24),
            }
            for row in slow
        ]
        rows.append(
            (
                product,
                str(len(values)),
                f"{short(middle)} {unit}",
                f"{short(values[0])} {unit}",
                f"{short(values[-1])} {unit}",
                NOTHING if reference is None else f"{short(reference)} {unit}",
                ", ".join(dict.fromkeys(text(row.get("host"), 60) for row in slow)) or "none",
            )
        )
    largest = max([point["value"] for point in points] + [mark["reference"] or 0 for mark in marks] + [0])
    x = {
        "field": "value",
        "type": "quantitative",
        "title": unit,
        "scale": {"domain": [0, largest * 1.08 or 1], "nice": False},
        "axis": {"tickCount": 5},
    }
    y = {"field": "product", "type": "nominal", "title": None, "axis": {"ticks": False, "domain": False}}
    test = {status: f"datum.status === '{status}'" for status in ("FAIL", "WARN", "UNKNOWN")}
    colour = {
        "condition": [
            {"test": test[status], "value": f"var(--{status.lower()})"} for status in ("FAIL", "WARN", "UNKNOWN")
        ],
        "value": "var(--accent)",
    }
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [mark for mark in marks if mark["reference"]]},
            "mark": {"type": "tick", "color": "var(--soft)", "thickness": 2, "size": 16, "opacity": 0.8},
            "encoding": {"x": x | {"field": "reference"}, "y": y},
        },
        {
            "data": {"values": points},
            "mark": {"type": "point", "filled": True, "size": 42},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "opacity": {"condition": {"test": "datum.status === 'PASS'", "value": 0.55}, "value": 1},
                "shape": {"condition": {"test": "datum.status === 'PASS'", "value": "circle"}, "value": "diamond"},
                "size": {"condition": {"test": "datum.status === 'PASS'", "value": 36}, "value": 80},
            },
        },
        {
            "data": {"values": _named(points)},
            "mark": {"type": "text", "align": "right", "dx": -8, "fontSize": 11},
            "encoding": {"x": x, "y": y, "text": {"field": "name"}, "color": colour},
        },
    ]
    slow_count = sum(point["status"] != "PASS" for point in points)
    note = (
        f"{len(found)} figures, {slow_count} marked"
        if slow_count
        else f"{len(found)} figures, none far from its equals"
    )
    headings = ("product", "figures", "median", "lowest", "highest", "reference", "marked hosts")
    svg = draw({"width": 265, "height": {"step": 26}, "layer": [layer for layer in layers if layer["data"]["values"]]})
    return Figure(metric_title(metric), note, headings, rows, svg, f"{metric_title(metric)} by product: {note}")


def _named(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those points that get their host's name: the slowest of each product, and none over another's name."""
    named: list[Mapping[str, Any]] = []
    for product in {point["product"] for point in points}:
        marked = [point for point in points if point["product"] == product and point["name"]]
        named += sorted(marked, key=lambda point: (point["value"], point["name"]))[:1]
    return sorted(named, key=lambda point: point["product"])


def _thin(values: Sequence[float]) -> list[float]:
    """Return values that differ by what an eye can see; all of them where they are few."""
    if len(values) <= _BINS:
        return list(values)
    step = (max(values) or 1) / 330
    return sorted({round(value / step): value for value in values}.values())


# --- numerics -------------------------------------------------------------------------------------------------------


def numerics(hosts: Iterable[Host]) -> list[Figure]:
    """Return the figure that shows how far each precision's errors are from their limits; nothing without figures."""
    errors: dict[str, list[tuple[float, str, bool]]] = defaultdict(list)
    limits: dict[str, float] = {}
    for host in hosts:
        for check in mappings(mapping(host.document).get("checks")):
            identity = text(check.get("id"), 80)
            mode = identity.rpartition(".")[2]
            measured = number(mapping(check.get("measured")).get("rel_f"))
            if not identity.startswith("num.fwd_bwd") or measured is None or not measured > 0:
                continue
            errors[mode].append((measured, text(host.name, 24), check.get("status") != "PASS"))
            limit = number(mapping(check.get("threshold")).get("rel_f"))
            if limit is not None and limit > 0:
                limits[mode] = limit
    modes = [mode for mode in _MODES if mode in errors] + sorted(set(errors) - set(_MODES))
    if not modes:
        return []
    points: list[dict[str, Any]] = []
    rows: list[Sequence[str]] = []
    for mode in modes:
        values = [value for value, _, _ in errors[mode]]
        bad = sorted(row for row in errors[mode] if row[2])
        usual = [math.log10(value) for value, _, wrong in errors[mode] if not wrong]
        name = f"{mode} ({len(values)})"
        points += [{"mode": name, "error": 10**value, "bad": False, "name": ""} for value in _spread(usual)]
        points += [{"mode": name, "error": value, "bad": True, "name": host} for value, host, _ in bad[-12:]]
        limit_word = short(limits.get(mode))
        hosts_word = ", ".join(dict.fromkeys(host for _, host, _ in bad)) or "none"
        rows.append((mode, str(len(values)), short(min(values)), short(max(values)), limit_word, hosts_word))
    low = min(point["error"] for point in points) / 3
    high = max([point["error"] for point in points] + list(limits.values())) * 3
    x = {
        "field": "error",
        "type": "quantitative",
        "title": "relative error against float64 (Frobenius norm, worst tensor)",
        "scale": {"type": "log", "domain": [low, high], "nice": False},
        "axis": {"format": "~e", "values": [10.0**power for power in range(-12, 4)]},
    }
    sort = [f"{mode} ({len(errors[mode])})" for mode in modes]
    y = {"field": "mode", "type": "nominal", "title": None, "sort": sort, "axis": {"ticks": False, "domain": False}}
    gates = [{"mode": f"{mode} ({len(errors[mode])})", "limit": limits[mode]} for mode in modes if mode in limits]
    colour = {"condition": {"test": "datum.bad", "value": "var(--fail)"}, "value": "var(--accent)"}
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": gates},
            "mark": {"type": "tick", "color": "var(--fail)", "thickness": 2, "size": 20},
            "encoding": {"x": x | {"field": "limit"}, "y": y},
        },
        {
            "data": {"values": points},
            "mark": {"type": "point", "filled": True, "size": 42},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "opacity": {"condition": {"test": "datum.bad", "value": 1}, "value": 0.55},
                "shape": {"condition": {"test": "datum.bad", "value": "diamond"}, "value": "circle"},
            },
        },
        {
            "data": {"values": [point for point in points if point["bad"]][-1:]},
            "mark": {"type": "text", "align": "left", "dx": 9, "fontSize": 11, "color": "var(--fail)"},
            "encoding": {"x": x, "y": y, "text": {"field": "name"}},
        },
    ]
    count, wrong = sum(len(rows) for rows in errors.values()), sum(row[2] for rows in errors.values() for row in rows)
    note = f"{count} comparisons, {wrong} outside the limit; a red stroke is the limit"
    headings = ("precision", "comparisons", "smallest error", "largest error", "limit", "hosts outside")
    svg = draw({"width": 900, "height": {"step": 28}, "layer": [layer for layer in layers if layer["data"]["values"]]})
    return [Figure("Forward and backward pass", note, headings, rows, svg, f"Errors by precision: {note}")]


def _spread(logarithms: Sequence[float]) -> list[float]:
    """Thin out points of a logarithmic axis."""
    return (
        sorted({round(value * 40): value for value in logarithms}.values())
        if len(logarithms) > _BINS
        else list(logarithms)
    )


def curve(values: Sequence[Any], width: int = 96, height: int = 22) -> str:
    """Return the points of a small line, as an SVG polyline takes them; an empty text for fewer than two figures."""
    found = [value for value in map(number, values[:_MOST_EPOCHS]) if value is not None]
    if len(found) < 2:
        return ""
    low, high = min(found), max(found)
    span = (high - low) or 1
    places = [
        (2 + index * (width - 4) / (len(found) - 1), 2 + (height - 4) * (1 - (value - low) / span))
        for index, value in enumerate(found)
    ]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def references(lab: Lab) -> dict[tuple[str, str], float]:
    """Return what each product should reach in each metric, as the hosts' documents say."""
    answer: dict[tuple[str, str], float] = {}
    for host in lab.hosts:
        for row in mappings(mapping(mapping(host.document).get("performance")).get("rows")):
            reference = number(row.get("reference"))
            if reference is not None and reference > 0:
                answer[(text(row.get("product"), 60), text(row.get("metric"), 40))] = reference
    return answer
