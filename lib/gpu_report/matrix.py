# SPDX-License-Identifier: Apache-2.0
"""The part of the page with a line for each host and a column for each tier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_report import details, drift
from gpu_report.markup import SIGNS, badge, count, e, section, time
from gpu_report.plain import NOTHING, SEVERITY, TIERS, mapping, mappings, number, short, status, text, troubles, worst
from gpu_report.store import Host

_LEAD = (
    "One line for each host, one column for each tier of the validation, quick ones first. Open a host for its plan, "
    "versions, checks and proof. <span class=keys>Keys: <kbd>/</kbd> filter, <kbd>↓</kbd> <kbd>↑</kbd> move, "
    "<kbd>Enter</kbd> open.</span>"
)
_NO_SCRIPT = (
    '<noscript><p class="note">Filtering and the details of each host need JavaScript. All that is known of a host is '
    "in its JSON file beside this page.</p></noscript>"
)


def fleet(hosts: Sequence[Host], names: Mapping[str, str]) -> str:
    """Return the part as HTML."""
    counts = Counter(host.status for host in hosts)
    chips = "".join(
        f'<button type="button" class="chip {key}" aria-pressed="false" data-status="{key}">'
        f'<i aria-hidden="true">{SIGNS[key]}</i>{key} {counts[key]}</button>'
        for key in ("FAIL", "UNKNOWN", "WARN", "PASS")
        if counts[key]
    )
    # The last tier has to be asked for; where nobody has, its column would say nothing.
    last = len(TIERS) - 1
    asked = any(_tier(host, last) and status(_tier(host, last).get("status")) != "SKIP" for host in hosts)
    columns = list(enumerate(TIERS if asked else TIERS[:-1]))
    tiers = "".join(
        f'<th scope="col" class="t"><abbr title="tier {index}: {name}">T{index}</abbr> <small>{name}</small></th>'
        for index, name in columns
    )
    rows = "".join(_row(host, names[host.name], columns) for host in hosts)
    body = f"""<div class="tools" role="search"><label for="filter">Filter</label>
<input id="filter" type="search" autocomplete="off" spellcheck="false" placeholder="host, GPU, system, check …">{chips}
<button type="button" id="all" class="chip">Open all shown</button>
<span id="shown" class="soft" aria-live="polite">{count(len(hosts), "host")}</span></div>{_NO_SCRIPT}
<div class="scroll wide" tabindex="0" role="region" aria-label="Hosts and tiers"><table class="matrix"><thead><tr>
{_sortable("name", "Host")}{_sortable("verdict", "Verdict", "descending")}{_sortable("gpus", "GPUs")}{tiers}
<th scope="col">Jobs</th>{_sortable("time", "Proven")}</tr></thead>
<tbody>{rows}</tbody></table><p id="none" class="note" hidden>No host fits the filter.</p></div>"""
    return section("fleet", "Hosts", _LEAD, body)


def _sortable(key: str, title: str, direction: str = "none") -> str:
    button = f'<button type="button" class="sort" data-key="{key}">{title}</button>'
    return f'<th scope="col" aria-sort="{direction}">{button}</th>'


def _tier(host: Host, index: int) -> Mapping[str, Any]:
    """Return what is said of a tier of a host; what its equals on other hosts show belongs to performance."""
    tier = mapping(mapping(mapping(host.document).get("tiers")).get(str(index)))
    if TIERS[index] != "performance" or not host.slow:
        return tier
    flagged = [status(row.get("status")) for row in host.slow]
    return {**tier, "status": worst([*flagged, status(tier.get("status"))])}


def _row(host: Host, anchor: str, columns: Sequence[tuple[int, str]]) -> str:
    document = mapping(host.document)
    gpus = mappings(mapping(document.get("observed")).get("gpus")) or mappings(mapping(host.plan).get("gpus"))
    products = Counter(text(gpu.get("product") or gpu.get("name"), 40) or "GPU" for gpu in gpus)
    cells = "".join(_tier_cell(_tier(host, index), name) for index, name in columns)
    results = mappings(document.get("results"))
    passed = sum(row.get("status") in ("PASS", "WARN") for row in results)
    jobs = f"{passed}/{len(results)}" if results else NOTHING
    jobs_word = "SKIP" if not results else "PASS" if passed == len(results) else "FAIL"
    when = text(document.get("finished"), 40)
    seen = f"{time(when) if when else 'never'}"
    if host.looked_again:
        seen += f'<small class="seen">seen {time(host.looked_again)}</small>'
    return (
        f'<tr id="{anchor}" class="row {host.status}" data-s="{host.status}" data-v="{SEVERITY.index(host.status)}" '
        f'data-t="{e(when)}" data-q="{e(_search(host, document, products), 900)}">'
        f'<th scope="row"><button type="button" class="host" aria-expanded="false">{e(host.name, 60)}</button>'
        f'{_marks(host)}</th><td>{badge(host.status)}</td><td class="gpus">{_gpus(host, products)}</td>{cells}'
        f'<td class="jobs {jobs_word}">{jobs}</td><td class="when">{seen}</td></tr>\n'
    )


def _marks(host: Host) -> str:
    marks = []
    if host.simulated:
        marks.append('<span class="mark sim">simulated</span>')
    if host.profile == "cpu":
        marks.append('<span class="mark">cpu only</span>')
    if host.slow:
        marks.append('<span class="mark slow">slow GPU</span>')
    if drift.compare(host.previous, host.document):
        marks.append('<span class="mark new">changed</span>')
    return "".join(marks)


def _gpus(host: Host, products: Mapping[str, int]) -> str:
    """Return what GPUs a host has, a square for each, and in words which of them are not in order."""
    states = [word for _, word in details.gpu_states(host)]
    bad = Counter(word for word in states if word not in ("PASS", "SKIP"))
    named = [f"{number} &times; {e(name)}" if number > 1 else e(name) for name, number in products.items()]
    squares = "".join(f'<b class="{word}"></b>' for word in states[:16])
    drawn = f'<span class="sq" aria-hidden="true">{squares}</span>' if squares else ""
    said = f'<small class="soft">{", ".join(f"{number} {word}" for word, number in bad.items())}</small>' if bad else ""
    return f"{', '.join(named) or NOTHING}{drawn}{said}"


def _search(host: Host, document: Mapping[str, Any], products: Iterable[str]) -> str:
    """Return what the filter looks through, in small letters."""
    wrong = dict.fromkeys(text(check.get("id"), 60) for _, check in troubles(host.checks))
    words = [
        host.name,
        host.status,
        host.profile,
        "simulated" if host.simulated else "",
        text(mapping(document.get("observed")).get("os") or mapping(host.plan).get("os"), 80),
        *products,
        "" if host.status == "PASS" else host.why,
        *list(wrong)[:20],
    ]
    return text(" ".join(words), 900).lower()


def _tier_cell(tier: Mapping[str, Any], name: str) -> str:
    if not tier:
        return (
            f'<td class="t SKIP" title="{name}: not run"><i aria-hidden="true">{NOTHING}</i>'
            '<span class="vh">not run</span></td>'
        )
    word = status(tier.get("status"))
    title = f"{name}: {word}"
    if (seconds := number(tier.get("duration_s"))) is not None:
        title += f", {short(seconds)} s"
    if (budget := number(tier.get("budget_s"))) is not None:
        title += f" of {short(budget)} s"
    again = ""
    if tier.get("reused") is True:
        title += "; from an earlier run, nothing that it rests on has changed"
        again = '<b class="again" aria-hidden="true">↺</b><span class="vh">from an earlier run</span>'
    said = "skip" if word == "SKIP" else word
    cell = f'<span><i aria-hidden="true">{SIGNS[word]}</i>{said}{again}</span>'
    return f'<td class="t {word}" title="{e(title)}">{cell}</td>'
