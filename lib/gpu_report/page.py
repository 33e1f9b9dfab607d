# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page: it opens from a disk, loads nothing, and runs no script but its own.

The page is the same whenever it is made from the same files; how old something is, the browser says. What comes from
hosts is escaped here, or set as text by the page's own script; a content security policy forbids all other scripts.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from gpu_report import charts, details, drift, matrix
from gpu_report.markup import (
    MOST_ROWS,
    SIGNS,
    anchors,
    badge,
    count,
    e,
    link,
    links,
    raw_table,
    script_json,
    section,
    table,
    time,
)
from gpu_report.plain import SEVERITY, VERBS, counts_as, mapping, mappings, natural, status, text, troubles
from gpu_report.store import Host, Lab

#: Of a long list, so many are shown, and the rest is counted.
_MOST_MATTERS, _MOST_DRIFT = 60, 400
_PARTS = {
    "todo": "What to do",
    "fleet": "Hosts",
    "drift": "Changes",
    "training": "Training",
    "throughput": "Throughput",
    "numerics": "Arithmetic",
}


def render(lab: Lab) -> str:
    """Return the page."""
    hosts = lab.sorted()
    names = anchors(hosts)
    style, script = _asset("style.css"), _asset("script.js")
    parts = [
        _top(hosts),
        "<main>\n",
        _todo(hosts, names),
        matrix.fleet(hosts, names),
        _drift(hosts, names),
        _training(hosts, names),
        _throughput(lab, names),
        _numerics(hosts),
        _reading(),
        "</main>\n",
    ]
    shared = details.Shared()
    shown = {names[host.name]: details.of_host(host, shared) for host in hosts}
    data = script_json({"hosts": shown, "shared": shared.values})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{_overall(hosts)}: {count(len(hosts), "host")} | gpulab</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#fleet">To the hosts</a>
{"".join(parts)}<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


@cache
def _asset(name: str) -> str:
    """Return a file of the page; the dark colours stand once in the style sheet and are needed twice."""
    content = resources.files("gpu_report").joinpath("assets", name).read_text(encoding="utf-8")
    if name.endswith(".css"):
        before, _, rest = content.partition("@dark {")
        dark, _, after = rest.partition("}")
        content = (
            f"{before}@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{{dark}}} }}\n"
            f":root[data-theme=dark] {{{dark}}}\n{after}"
        )
    return "\n" + content


# --- the top ----------------------------------------------------------------------------------------------------------


def _overall(hosts: Sequence[Host]) -> str:
    return max((host.status for host in hosts), key=SEVERITY.index, default="UNKNOWN")


def fleet_badge(hosts: Sequence[Host]) -> tuple[str, str]:
    """Return what may be said of the lab's GPUs, as status and words.

    PASS, the green one, takes a lab in which every host has a verdict, at least one has GPUs, all that have GPUs
    passed, and none is simulated.
    """
    simulated = sum(host.simulated for host in hosts)
    if simulated:
        return "WARN", f"SIMULATED: {simulated} of {count(len(hosts), 'host')}. This proves no GPU"
    if not hosts:
        return "UNKNOWN", "no hosts"
    if all(host.profile == "cpu" for host in hosts):
        return "SKIP", "Processors alone: no claim about any GPU"
    with_gpus = sum(host.profile == "gpu" for host in hosts)
    proven = sum(host.proven for host in hosts)
    if not with_gpus:
        # Nobody knows of a GPU here, so there is no fleet to count.
        unknown = sum(not host.profile for host in hosts)
        words = f"No claim about any GPU: {count(unknown, 'host')} could not be judged"
        return ("FAIL" if any(host.status == "FAIL" for host in hosts) else "UNKNOWN"), words
    words = f"GPU fleet: {proven} of {count(with_gpus, 'GPU host')} proven"
    statuses = {host.status for host in hosts}
    if "FAIL" in statuses:
        return "FAIL", words
    if proven < with_gpus or "UNKNOWN" in statuses or not all(host.profile for host in hosts):
        return "UNKNOWN", words
    return ("WARN" if "WARN" in statuses else "PASS"), words


def _top(hosts: Sequence[Host]) -> str:
    counts = Counter(host.status for host in hosts)
    overall = _overall(hosts)
    unknown = f", {counts['UNKNOWN']} could not be judged" if counts["UNKNOWN"] else ""
    sentence = {
        "PASS": "Every host passed.",
        "WARN": f"Every host passed, {counts['WARN']} with something to look at.",
        "UNKNOWN": f"{counts['UNKNOWN']} of {count(len(hosts), 'host')} could not be judged; none failed.",
        "FAIL": f"{counts['FAIL']} of {count(len(hosts), 'host')} failed{unknown}.",
    }[overall]
    if not hosts:
        sentence = "There are no results in this directory."
    word, said = fleet_badge(hosts)
    look, remark = overall, ""
    if overall in ("PASS", "WARN") and word != overall:
        # A lab that is simulated, or has no GPU, does not get the green that a lab of proven GPUs gets.
        look = "SKIP" if word == "SKIP" else "WARN"
        remark = f" <small>{'simulated' if any(host.simulated for host in hosts) else 'processors alone'}</small>"
    kind = " sim" if said.startswith("SIMULATED") else ""
    badges = f'<span class="badge {word}{kind}" id="fleet-badge">{e(said)}</span>'
    without = sum(host.profile == "cpu" for host in hosts)
    if without and word != "SKIP":
        badges += f'<span class="badge SKIP">cpu only: {count(without, "host")}, no claim about a GPU</span>'
    present = [key for key in ("FAIL", "UNKNOWN", "WARN", "PASS") if counts[key]]
    bar = "".join(f'<span class="{key}" style="flex-grow:{counts[key]}"></span>' for key in present)
    legend = "".join(f"<li>{badge(key)} <b>{counts[key]}</b></li>" for key in present)
    nav = "".join(f'<a href="#{key}">{title}</a>\n' for key, title in _PARTS.items())
    return f"""<header class="top"><div class="bar"><span class="brand">gpulab</span>
<nav aria-label="Parts of the report">{nav}</nav><button id="theme" type="button" hidden>Dark</button></div>
<div class="hero {look}"><div class="sign" aria-hidden="true">{SIGNS[overall]}</div>
<div><h1>{overall}{remark}</h1><p>{sentence}</p></div><div class="badges">{badges}</div></div>
<div class="split" aria-hidden="true">{bar}</div><ul class="legend" aria-label="Hosts by verdict">{legend}</ul>
<dl class="tiles">{_tiles(hosts)}</dl></header>
"""


def _tiles(hosts: Sequence[Host]) -> str:
    states = [state for host in hosts for state in details.gpu_states(host)]
    trouble = sum(word not in ("PASS", "SKIP") for _, word in states)
    in_order = f"{trouble} not in order" if trouble else "all in order" if states else "none seen"
    results = [row for host in hosts for row in mappings(mapping(host.document).get("results"))]
    passed = sum(row.get("status") in ("PASS", "WARN") for row in results)
    drawn = sum(row.get("dataset") == "generated" for row in results)
    words = Counter(map(_counted, (check for host in hosts for check in host.checks)))
    good = words.pop("passed", 0)
    stamps = sorted(text(mapping(host.document).get("finished"), 40) for host in hosts)
    stamps = [stamp for stamp in stamps if stamp]
    tiles = [
        ("Hosts", f"{len(hosts):,}", f"{sum(host.profile == 'gpu' for host in hosts)} with GPUs"),
        ("GPUs", f"{len(states):,}", in_order),
        (
            "Training jobs passed",
            f"{passed:,}",
            f"of {len(results):,}{f', {drawn:,} on drawn digits' if drawn else ''}",
        ),
        ("Checks passed", f"{good:,}", ", ".join(f"{words[key]:,} {key}" for key in _COUNTED if words[key])),
    ]
    if not states and all(host.profile == "cpu" for host in hosts):
        tiles = [tile for tile in tiles if tile[0] != "GPUs"]
    if stamps:
        looked = max(host.looked_again for host in hosts)
        more = f"<br>looked at {time(looked)}" if looked else ""
        tiles.append(("Newest proof", time(stamps[-1]), f"oldest {time(stamps[0])}{more}"))
    return "".join(f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in tiles)


#: How checks that did not pass are counted, the worst first.
_COUNTED = ("failed", "unknown", "to look at", "do not apply", "not asked for")


def _counted(check: Mapping[str, Any]) -> str:
    word = counts_as(check)
    if word == "SKIP":
        return "not asked for" if check.get("reason_code") == "NOT_REQUESTED" else "do not apply"
    return {"PASS": "passed", "WARN": "to look at", "UNKNOWN": "unknown", "FAIL": "failed"}[word]


# --- what to do -------------------------------------------------------------------------------------------------------


@dataclass
class _Matter:
    """One thing that is wrong, on one or many hosts."""

    status: str
    action: str
    identity: str
    message: str
    hosts: dict[str, int] = field(default_factory=dict)


def _todo(hosts: Sequence[Host], names: Mapping[str, str]) -> str:
    order = sorted(
        _matters(hosts),
        key=lambda row: (
            -SEVERITY.index(row.status),
            list(VERBS).index(row.action),
            row.identity,
            -len(row.hosts),
        ),
    )
    if not order:
        return section("todo", "What to do", "Nothing is wrong on any host.", "")
    cards = "".join(_card(matter, names) for matter in order[:_MOST_MATTERS])
    more = len(order) - _MOST_MATTERS
    if more > 0:
        cards += f'<li class="SKIP">{badge("SKIP", "more")}<div>{more} more matters; see the hosts.</div></li>'
    lead = "Everything that is not in order, the worst first; hosts with the same trouble together."
    return section("todo", "What to do", lead, f'<ol class="todo">{cards}</ol>')


def _matters(hosts: Sequence[Host]) -> list[_Matter]:
    """Return what is wrong, hosts with the same trouble together."""
    matters: dict[tuple[str, ...], _Matter] = {}

    def add(host: Host, key: tuple[str, ...], message: str) -> None:
        matter = matters.setdefault(key, _Matter(key[0], key[1], key[2], message))
        matter.hosts[host.name] = matter.hosts.get(host.name, 0) + 1

    for host in hosts:
        if host.document is None:
            # The reason mostly has the host's name in it; hosts with the same one belong together.
            add(host, ("UNKNOWN", "none", "no verdict", host.why.replace(host.name, "…")), host.why)
            continue
        found = troubles(host.checks)
        for word, check in found:
            action, identity = text(check.get("action"), 40), text(check.get("id"), 80)
            key = (word, action if action in VERBS else "none", identity, text(check.get("reason_code"), 60))
            add(host, key, text(check.get("message"), 600))
        if not found and host.status not in ("PASS", "SKIP"):
            add(host, (host.status, "none", "verdict", host.why), host.why or "the document does not say why")
    return list(matters.values())


def _card(matter: _Matter, names: Mapping[str, str]) -> str:
    more = sum(matter.hosts.values()) - 1
    rest = f' <span class="soft">and {more} more of the kind</span>' if more else ""
    return (
        f'<li class="{matter.status}">{badge(matter.status)}<div><b>{VERBS[matter.action]}</b> '
        f'{e(details.shortened(matter.message), 400)}{rest}<div class="where">'
        f"{links(sorted(matter.hosts, key=natural), names)} <code>{e(matter.identity)}</code></div></div></li>"
    )


# --- what changed -----------------------------------------------------------------------------------------------------

_DRIFT_ORDER = ("verdict", "gpu", "driver", "framework", "system", "throughput", "run")


def _drift(hosts: Sequence[Host], names: Mapping[str, str]) -> str:
    title = "Changes since the last run"
    found: dict[tuple[str, str, str, str, bool | None], list[str]] = defaultdict(list)
    for host in hosts:
        for row in drift.compare(host.previous, host.document):
            found[(row["kind"], row["what"], row["before"], row["after"], row["worse"])].append(host.name)
    with_previous = sum(host.previous is not None and host.document is not None for host in hosts)
    if not found:
        return section("drift", title, _unchanged(hosts, with_previous), "")
    rows = sorted(
        found.items(),
        key=lambda item: (
            item[0][4] is not True,
            _DRIFT_ORDER.index(item[0][0]),
            item[0][1] != "verdict",
            -len(item[1]),
            item[0][1],
        ),
    )
    directions = {True: ' <span class="down">worse</span>', False: ' <span class="up">better</span>', None: ""}
    body = "".join(
        f"<tr><td>{e(kind)}</td><td>{e(details.shortened(what))}</td><td>{e(before)}</td>"
        f"<td>{e(after)}{directions[worse]}</td><td>{links(sorted(on, key=natural), names)}</td></tr>"
        for (kind, what, before, after, worse), on in rows[:_MOST_DRIFT]
    )
    lead = f"{count(with_previous, 'host')} compared with the run before. What got worse comes first."
    headings = ("kind", "what", "before", "now", "hosts")
    return section("drift", title, lead, raw_table(headings, body, "Changes", "plain drift", "scroll tall"))


def _unchanged(hosts: Sequence[Host], with_previous: int) -> str:
    """Return what is said where no host changed: since when, or that there is nothing to compare with."""
    if with_previous:
        return "Nothing changed on any host."
    # The document of a host on which something changes is kept; these were looked at again and are as they were.
    again = [host for host in hosts if host.looked_again and host.status in ("PASS", "WARN")]
    if not again:
        return "There is no earlier run to compare with."
    since = min(text(mapping(host.document).get("finished"), 40) for host in again)
    looked = max(host.looked_again for host in again)
    return (
        f"Nothing has changed since {time(since)}: {count(len(again), 'host')} looked at again, last at "
        f"{time(looked)}, with the same result."
    )


# --- figures ----------------------------------------------------------------------------------------------------------


def _figure(figure: charts.Figure) -> str:
    picture = f'<div class="draw" role="img" aria-label="{e(figure.label)}">{figure.svg}</div>' if figure.svg else ""
    closed = "" if figure.svg else " open"
    return (
        f'<figure><figcaption><b>{e(figure.title)}</b> <span class="soft">{e(figure.note)}</span></figcaption>'
        f'{picture}<details class="as-table"{closed}><summary>The figures as a table</summary>'
        f"{table(figure.headings, figure.rows, figure.title)}</details></figure>\n"
    )


def _figures(figures: Sequence[charts.Figure], columns: str) -> str:
    missing = ""
    if not charts.available():
        missing = (
            '<p class="note no-charts">There are no drawings: vl-convert-python is not installed on the control node. '
            "The tables have all figures.</p>"
        )
    return missing + f'<div class="figures {columns}">' + "".join(map(_figure, figures)) + "</div>"


def _training(hosts: Sequence[Host], names: Mapping[str, str]) -> str:
    figures = charts.training(hosts)
    if not figures:
        return section("training", "Training", "No job has run.", "")
    lead = (
        f"The loss of the training jobs by epoch{_trained_on(hosts, names)} Training shows that all the software works "
        "together; whether a device computes right is shown below."
    )
    return section("training", "Training", lead, _figures(figures, "four"))


def _trained_on(hosts: Sequence[Host], names: Mapping[str, str]) -> str:
    """Return on what the jobs trained, as HTML that ends a sentence; hosts that drew their digits are named."""
    used = {
        host.name: {text(row.get("dataset")) for row in mappings(mapping(host.document).get("results"))}
        for host in hosts
    }
    kinds = set().union(*used.values()) & {"mnist", "generated"}
    if kinds == {"mnist"}:
        return ", on MNIST."
    if kinds == {"generated"}:
        return ", on digits that the validator drew: they are not MNIST."
    drew = sorted((name for name, found in used.items() if "generated" in found), key=natural)
    return f", on MNIST, and on drawn digits, which are not MNIST, on {links(drew, names)}." if drew else "."


def _throughput(lab: Lab, names: Mapping[str, str]) -> str:
    figures = charts.throughput(lab.findings, charts.references(lab)) + charts.processors(lab.sorted())
    if not figures:
        return section("throughput", "Throughput", "Nothing was measured.", "")
    flagged = [row for host in lab.hosts for row in host.slow]
    outliers = ""
    if flagged:
        flagged.sort(key=lambda row: -SEVERITY.index(status(row.get("status"))))
        body = "".join(
            f"<tr><td>{badge(status(row.get('status')))}</td><td>{link(text(row.get('host')), names)}</td>"
            f"<td>{e(row.get('product'))}</td><td>{e(charts.metric_title(text(row.get('metric'))))}</td>"
            f"<td>{e(details.shortened(row.get('message')), 400)}</td></tr>"
            for row in flagged[:MOST_ROWS]
        )
        headings = ("verdict", "host", "product", "figure", "what")
        outliers = "<h3>Slower than their equals</h3>" + raw_table(headings, body, "Outliers", "plain", "scroll tall")
    lead = (
        "Each point is a GPU, compared with the others of its product alone. A grey stroke is the product's reference "
        "figure, mostly the peak of its data sheet; a diamond is a GPU that is slower than its equals."
    )
    if all(host.profile == "cpu" for host in lab.hosts):
        lead = "What was measured on processors, which have no reference figures and are compared with nothing."
    return section("throughput", "Throughput", lead, _figures(figures, "three") + outliers)


def _numerics(hosts: Sequence[Host]) -> str:
    figures = charts.numerics(hosts)
    if not figures:
        return section("numerics", "Arithmetic", "Nothing was compared.", "")
    lead = "Forward and backward pass of every framework on every device, against the same in float64 by NumPy."
    return section("numerics", "Arithmetic", lead, _figures(figures, "one"))


def _reading() -> str:
    meanings = {
        "PASS": "was checked, and is as it should be",
        "WARN": "works, and somebody should look at it",
        "UNKNOWN": "could not be judged: no answer, no result, or one that nobody can read. Never a success",
        "FAIL": "is wrong",
        "SKIP": "does not apply here, or was not asked for",
    }
    marks = "".join(f"<li>{badge(word)} {said}</li>" for word, said in meanings.items())
    return f"""<section id="reading" aria-labelledby="reading-t"><h2 id="reading-t">How to read this</h2>
<ul class="marks">{marks}</ul>
<p>A tier with ↺ was proven by an earlier run, and nothing that it rests on has changed since. Proven is when
something was computed on the host last; seen is when it was only looked at after that. A comparison of some seconds
finds a GPU that computes wrong now; it is no guarantee against one that errs once a week: for that there is the long
soak of tier 6, which has to be asked for. A host marked as simulated has no GPU; what is shown of it proves the
program's decisions and nothing else. A host with the profile cpu makes no claim about a GPU.</p></section>
"""
