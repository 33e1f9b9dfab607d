# SPDX-License-Identifier: Apache-2.0
"""Pieces of HTML that the parts of the page share. Every foreign value goes through :func:`e`."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_report.plain import NOTHING, text
from gpu_report.store import Host

#: Colour alone says nothing: each status has a sign and its word as well.
SIGNS = {"PASS": "✓", "WARN": "!", "FAIL": "✕", "UNKNOWN": "?", "SKIP": NOTHING}
#: Of a long list, so many are shown, and the rest is counted.
MOST_HOSTS, MOST_ROWS = 14, 300


def e(value: Any, limit: int = 300) -> str:
    """Return a foreign value as HTML text, for elements and quoted attributes."""
    return html.escape(text(value, limit))


def script_json(value: Any) -> str:
    """Return a value as JSON that cannot end the element it stands in, whatever is in it."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def count(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def anchors(hosts: Iterable[Host]) -> dict[str, str]:
    """Return for each host an id that a document may have once."""
    taken: set[str] = set()
    answer = {}
    for host in hosts:
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in host.name)[:60]
        anchor, more = f"h-{plain}", 1
        while anchor in taken:
            more += 1
            anchor = f"h-{plain}--{more}"
        taken.add(anchor)
        answer[host.name] = anchor
    return answer


def badge(word: str, said: str = "") -> str:
    """Return a status as a coloured word with its sign."""
    return f'<span class="st {word}"><i aria-hidden="true">{SIGNS[word]}</i>{e(said or word)}</span>'


def link(host: str, names: Mapping[str, str]) -> str:
    """Return a host's name as a link to its row."""
    if host not in names:
        return f"<span>{e(host, 60)}</span>"
    return f'<a class="hl" href="#{names[host]}">{e(host, 60)}</a>'


def links(hosts: Sequence[str], names: Mapping[str, str]) -> str:
    """Return some hosts' names as links, and how many more there are."""
    words = [link(host, names) for host in hosts[:MOST_HOSTS]]
    if len(hosts) > MOST_HOSTS:
        words.append(f'<span class="soft">and {len(hosts) - MOST_HOSTS} more</span>')
    return " ".join(words)


def time(stamp: str) -> str:
    """Return a time of a document as HTML; the page's script adds how long ago that was."""
    return f'<time datetime="{e(stamp)}">{e(stamp[:16].replace("T", " "))}</time>'


def raw_table(headings: Sequence[str], body: str, label: str, classes: str = "plain", box: str = "scroll") -> str:
    """Return a table of ready-made rows in a box that scrolls, which the keyboard can reach."""
    head = "".join(f'<th scope="col">{e(word)}</th>' for word in headings)
    return (
        f'<div class="{box}" tabindex="0" role="region" aria-label="{e(label)}"><table class="{classes}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """Return a table of foreign texts."""
    body = "".join("<tr>" + "".join(f"<td>{e(cell)}</td>" for cell in row) + "</tr>" for row in rows[:MOST_ROWS])
    more = len(rows) - MOST_ROWS
    rest = f'<p class="soft">{more} more rows are left out; the JSON files have them.</p>' if more > 0 else ""
    return raw_table(headings, body, label) + rest


def section(identity: str, title: str, lead: str, body: str) -> str:
    """Return a part of the page; title, lead and body are HTML."""
    return (
        f'<section id="{identity}" aria-labelledby="{identity}-t"><h2 id="{identity}-t">{title}</h2>'
        f'<p class="lead">{lead}</p>{body}</section>\n'
    )
