# SPDX-License-Identifier: Apache-2.0
"""``python -m gpu_compat update``: bring the tables up to what machine-readable sources say.

Exit status: 0 up to date, or everything applied; 1 no source answered, or the tables cannot be read or written;
2 wrong usage; 3 differences found that are not applied.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_compat import tables
from gpu_compat.refresh.comparison import SOURCES, Difference
from gpu_compat.refresh.package_index import Index
from gpu_compat.refresh.table_format import Edit, FormatError, edit_file, parse
from gpu_compat.refresh.upstream import Refresh
from gpu_compat.refresh.web import Client, SourceError, settings, without_secrets

KINDS = ("added", "changed", "removed")
#: Files with a table that some source can refresh.
FILES = ("drivers", "cuda", "cudnn", "pytorch", "tensorflow", "jax", "keras")


class UpdateError(Exception):
    """The update cannot go on; the text says why and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``update`` to a parser."""
    parser.add_argument("--apply", action="store_true", help="write the differences into the tables, after a question")
    parser.add_argument("--yes", action="store_true", help="with --apply: do not ask; applies added rows")
    parser.add_argument(
        "--accept",
        action="append",
        choices=("changed", "removed"),
        default=[],
        help="with --apply --yes: apply rows of this class as well, after you have reviewed them (repeat for both)",
    )
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.add_argument("--index-url", default="", metavar="URL", help="package index; default: as pip is configured")
    parser.add_argument(
        "--offline-source",
        action="extend",
        nargs="+",
        choices=tuple(SOURCES),
        default=[],
        metavar="NAME",
        help=f"do not ask this source: {', '.join(SOURCES)}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the options say; every failure becomes one line on stderr."""
    if usage := _usage(arguments):
        print(f"update: {usage}", file=sys.stderr)
        return 2
    try:
        return _run(arguments)
    except (UpdateError, FormatError, SourceError) as error:
        print(f"update: {without_secrets(str(error))}", file=sys.stderr)
    except (KeyboardInterrupt, EOFError):
        print("update: stopped; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:  # whatever it is, a traceback helps nobody who runs this
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        print(f"update: a mistake in this program, please report it: {without_secrets(text)}", file=sys.stderr)
    return 1


def _usage(arguments: argparse.Namespace) -> str:
    if (arguments.yes or arguments.accept) and not arguments.apply:
        return "--yes and --accept say how to apply: give --apply as well"
    if arguments.accept and not arguments.yes:
        return "--accept replaces the question: give --yes as well, or leave it out and answer"
    if arguments.apply and not arguments.yes and not sys.stdin.isatty():
        return "--apply asks before it writes, but this is no terminal: give --yes to write without a question"
    return ""


def _run(arguments: argparse.Namespace) -> int:
    texts = _read()
    data = {file: parse(file, text) for file, text in texts.items()}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    refresh = _refresh(arguments, data, today)
    differences = sorted(refresh.differences, key=_rank)
    if not arguments.json:
        _print_sources(refresh.answers)
    if not any(reason == "" for reason in refresh.answers.values()):
        raise UpdateError("no source answered, so nothing is known about the tables; see the reasons above"
                          if not arguments.json else "no source answered: " + _reasons(refresh.answers))  # fmt: skip
    if not arguments.json:
        _print_differences(differences, refresh.needs)
    chosen = _chosen(arguments, differences) if arguments.apply else []
    written = _apply(texts, chosen, today)
    if arguments.json:
        print(_as_json(refresh, differences, chosen, today))
    for path in written:
        print(f"wrote {path}", file=sys.stderr)
    return 0 if len(chosen) == len(differences) else 3


def _rank(diff: Difference) -> tuple[int, int]:
    return list(tables.KEYS).index(diff.table), KINDS.index(diff.kind)


def _read() -> dict[str, str]:
    try:
        return {file: (tables.DATA / f"{file}.yml").read_text(encoding="utf-8") for file in FILES}
    except (OSError, UnicodeDecodeError) as error:
        raise UpdateError(f"the tables cannot be read: {error}") from error


def _refresh(arguments: argparse.Namespace, data: Mapping[str, Any], today: str) -> Refresh:
    """Ask every source; what each is asked appears on stderr, because some take a while to answer."""
    left_out = set(arguments.offline_source)
    say = _say(sys.stderr.isatty())
    unset = ""
    try:
        chosen = settings(arguments.index_url, os.environ, usual="index" not in left_out)
    except SourceError as error:  # the other sources may do without an index
        unset = str(error)
        chosen = settings("", os.environ, usual=False)
        left_out.add("index")
    client = Client(chosen)
    refresh = Refresh(data, client, Index(client, chosen.index_url), today, say)
    if unset:
        refresh.answers[SOURCES["index"]] = unset
    refresh.run(frozenset(left_out))
    return refresh


def _say(terminal: bool) -> Any:
    """Return what prints progress, without colours or cursor movements: they end up in logs."""
    return lambda text: print(f"{without_secrets(text)} ...", file=sys.stderr, flush=terminal)


def _reasons(answers: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in answers.items() if reason) or "none was asked"


def _print_sources(answers: Mapping[str, str]) -> None:
    for name, reason in answers.items():
        if reason:
            print(f"not answered: {name}: {without_secrets(reason)}", file=sys.stderr)


def _print_differences(differences: Sequence[Difference], needs: Sequence[str]) -> None:
    """Print one line per row under the name of its table."""
    table = ""
    for diff in differences:
        if diff.table != table:
            table = diff.table
            print(table)
        print(f"  {diff.kind:8}{' '.join(diff.key)}{_what(diff)}")
    for need in needs:
        print(f"needs a person: {need}")
    counts = [f"{number} {kind}" for kind in KINDS if (number := sum(diff.kind == kind for diff in differences))]
    print(", ".join(counts) or "the tables say what the sources that answered say")


def _what(diff: Difference) -> str:
    if diff.kind == "added":
        hidden = (*tables.KEYS[diff.table], "source")
        shown = [f"{name} {_short(value)}" for name, value in (diff.row or {}).items() if name not in hidden]
        return ": " + ", ".join(shown)
    if diff.row is None:
        return ": no longer offered; the row goes"
    if list(diff.fields) == ["source"]:
        return ": the same values, now read from the wheel's metadata instead of inferred"
    changes = [f"{name} {_short(old)} -> {_short(new)}" for name, (old, new) in diff.fields.items() if name != "source"]
    return ": " + "; ".join(changes)


def _short(value: Any) -> str:
    """Write a value for people: lists in brackets, nothing as ``none``."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_short(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(_short(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_json(refresh: Refresh, differences: Sequence[Difference], chosen: Sequence[Difference], today: str) -> str:
    content = {
        "date": today,
        "sources": [
            {"name": name, "answered": not reason, **({"reason": without_secrets(reason)} if reason else {})}
            for name, reason in refresh.answers.items()
        ],
        "differences": [
            {
                "class": diff.kind,
                "table": diff.table,
                "key": dict(zip(tables.KEYS[diff.table], diff.key, strict=True)),
                "fields": {name: {"old": old, "new": new} for name, (old, new) in diff.fields.items()},
                "row": diff.row,
                "applied": diff in chosen,
            }
            for diff in differences
        ],
        "needs_a_person": refresh.needs,
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _chosen(arguments: argparse.Namespace, differences: Sequence[Difference]) -> list[Difference]:
    """Return the rows to apply: by the options, or as the person at the terminal says, one question per class."""
    taken: list[Difference] = []
    for kind in KINDS:
        rows = [diff for diff in differences if diff.kind == kind]
        accepted = kind == "added" or kind in arguments.accept
        if rows and (accepted if arguments.yes else _ask(f"Apply {len(rows)} {kind} row(s)?")):
            taken += rows
        elif rows and arguments.yes:
            print(f"{len(rows)} {kind} row(s) need review; --accept {kind} applies them", file=sys.stderr)
    return taken


def _ask(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _apply(texts: Mapping[str, str], chosen: Sequence[Difference], today: str) -> list[Path]:
    """Write the chosen rows: all files, or none. Everything is made and checked before the first one is replaced."""
    new: dict[Path, str] = {}
    for file, text in texts.items():
        edits = [_edit(diff) for diff in chosen if diff.table.partition(".")[0] == file]
        if edits:
            new[tables.DATA / f"{file}.yml"] = edit_file(file, text, edits, today)
    if new:
        replace_files(new)
    return list(new)


def _edit(diff: Difference) -> Edit:
    return Edit(diff.table.partition(".")[2], diff.key, diff.row)


def replace_files(new: Mapping[Path, str]) -> None:
    """Replace files, each at once and together all or none. Raises UpdateError; then they are as before."""
    _writable(new)
    ready: list[tuple[Path, Path]] = []
    done: list[tuple[Path, Path]] = []
    try:
        for path, text in new.items():
            backup = _beside(path, path.read_text(encoding="utf-8"))
            ready.append((path, backup))
            fresh = _beside(path, text)
            ready.append((path, fresh))
            done.append((fresh, backup))
        for at, (path, (fresh, _)) in enumerate(zip(new, done, strict=True)):
            try:
                os.replace(fresh, path)
            except OSError:
                for earlier, (_, backup) in list(zip(new, done, strict=True))[:at]:
                    os.replace(backup, earlier)
                raise
    except OSError as error:
        raise UpdateError(f"the tables cannot be written ({error}); they are as they were") from error
    finally:
        for _, leftover in ready:
            leftover.unlink(missing_ok=True)


def _writable(paths: Iterable[Path]) -> None:
    for path in paths:
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise UpdateError(
                f"{path} is not writable: this is an installed copy, or another user's; run the update in a checkout"
                " that is yours, or as the user who owns the files"
            )


def _beside(path: Path, text: str) -> Path:
    """Write a text into a new file in the same directory, with the mode of the file it is for."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with open(handle, "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    shutil.copymode(path, name)
    return Path(name)
