# SPDX-License-Identifier: Apache-2.0
"""The engine on the command line, without Ansible: ``python -m gpu_compat plan host.yml``.

Exit status: 0 planned, 1 conflict, 2 the input cannot be used. ``check`` and ``update`` say theirs in their help.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from gpu_compat.errors import CompatError, Mistake

EXAMPLE = """
a question, YAML or JSON; every key may be left out:
  host:
    os: ubuntu2404                 # or {distribution: Ubuntu, version: "24.04"}
    arch: x86_64
    kernel: "6.8.0-45-generic"
    gpus: ["GTX 1080 Ti"]          # products, PCI ids "10de:1b06", or {compute_capability: "6.1"}
    python: "3.12"                 # what the host has; null: any may be installed
    driver: null                   # installed version
    secure_boot: false
  request:                         # as gpu_stack in an inventory
    environments:
      - {name: torch, frameworks: {pytorch: ">=2.5"}}
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    _let_every_letter_through()
    try:
        try:
            arguments = _parser(words if words is not None else sys.argv[1:]).parse_args(words)
            status: int = arguments.run(arguments)
        finally:
            if sys.stdout:
                sys.stdout.flush()
    except CompatError as error:
        for mistake in error.mistakes:
            print(f"gpu_compat: {mistake}", file=sys.stderr)
        return 2
    except OSError as error:
        # What is left in the buffer would fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # head, for example, has seen enough
            return 0
        print(f"gpu_compat: the answer cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    return status


def _let_every_letter_through() -> None:
    """Print a question mark for a letter that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu_compat", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    plan = commands.add_parser(
        "plan", help="plan a host, or say why not", epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_question(plan)
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    plan.set_defaults(run=_plan)

    explain = commands.add_parser(
        "explain", help="say why a driver or a wheel was chosen, or what it takes to get another"
    )
    _add_question(explain)
    explain.add_argument(
        "about",
        nargs="?",
        default="",
        metavar="ABOUT",
        help="driver, cuda_toolkits[0], environments.torch.pytorch …; everything if left out",
    )
    explain.add_argument(
        "--want",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="ask for this instead, as environments[0].frameworks.pytorch='>=2.15'",
    )
    explain.set_defaults(run=_explain)

    matrix = commands.add_parser("matrix", help="show what each GPU can run")
    matrix.add_argument("--gpu", action="append", default=[], metavar="GPU", help="only this one; repeatable")
    matrix.add_argument("--markdown", action="store_true", help="print docs/compatibility.md")
    _add_overlay(matrix)
    matrix.set_defaults(run=_matrix)

    conflicts = commands.add_parser("conflicts", help="list the ids of conflicts")
    conflicts.set_defaults(run=_conflicts)

    # Their modules are long and needed by nothing else, so a plan does not wait for them.
    check = commands.add_parser("check", help="check the tables, and a lab's own rows over them")
    update = commands.add_parser("update", help="look for newer releases, and take them over on consent")
    if "check" in words:
        from gpu_compat import check as check_module

        check_module.add_arguments(check)
        check.set_defaults(run=check_module.run)
    if "update" in words:
        from gpu_compat.refresh import update as update_module

        update_module.add_arguments(update)
        update.set_defaults(run=update_module.run)
    return parser


def _add_question(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a question in YAML or JSON; - for standard input")
    _add_overlay(parser)


def _add_overlay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overlay", metavar="FILE", help="rows of your own over the tables, as {pytorch: {wheels: [...]}}"
    )


def _tables(arguments: argparse.Namespace) -> Any:
    from gpu_compat.tables import shipped, with_overlay

    if not arguments.overlay:
        return shipped()
    from gpu_compat.check import read_overlay
    from gpu_compat.questions import load

    try:
        content = load(arguments.overlay)
        if isinstance(content, dict) and list(content) == ["gpulab_compat_overlay"]:
            content = content["gpulab_compat_overlay"]  # as an inventory has it
        return with_overlay(read_overlay(content, "overlay"))
    except CompatError as error:
        named = [Mistake(f"{arguments.overlay}: {mistake.path}", mistake.message) for mistake in error.mistakes]
        raise CompatError(named) from error


def _answer(arguments: argparse.Namespace, content: Any) -> dict[str, Any]:
    from gpu_compat.plan import plan
    from gpu_compat.questions import question

    tables = _tables(arguments)
    request, host = question(content, tables)
    return plan(request, host, tables)


def _plan(arguments: argparse.Namespace) -> int:
    from gpu_compat.questions import load
    from gpu_compat.render import answer_text

    answer = _answer(arguments, load(arguments.file))
    # What reads JSON need not know the encoding of a terminal.
    print(json.dumps(answer, indent=2) if arguments.json else answer_text(answer))
    return 0 if answer["status"] == "planned" else 1


def _explain(arguments: argparse.Namespace) -> int:
    from gpu_compat.questions import change, load
    from gpu_compat.render import answer_text

    content = load(arguments.file)
    answer = _answer(arguments, change(content, arguments.want))
    if answer["status"] == "conflict" or arguments.want:
        print(answer_text(answer))
        return 0 if answer["status"] == "planned" else 1
    found = [
        row
        for row in answer["reasons"]
        if row["about"] == arguments.about or row["about"].startswith(f"{arguments.about}.") or not arguments.about
    ]
    if not found:
        known = ", ".join(row["about"] for row in answer["reasons"])
        raise CompatError([Mistake("ABOUT", f"there is nothing about '{arguments.about}'; there is {known}")])
    for row in found:
        print(f"{row['about']}: {row['choice']}\n    because {row['because']}\n    source: {row['source']}")
    return 0


def _matrix(arguments: argparse.Namespace) -> int:
    from gpu_compat import matrix
    from gpu_compat.gpus import UnknownGpuError

    tables = _tables(arguments)
    try:
        found = matrix.rows(tables, arguments.gpu)
    except UnknownGpuError as error:
        raise CompatError([Mistake("--gpu", str(error))]) from error
    print(
        matrix.markdown(found, tables) if arguments.markdown else matrix.text(found),
        end="" if arguments.markdown else "\n",
    )
    return 0


def _conflicts(arguments: argparse.Namespace) -> int:
    from gpu_compat.conflicts import IDS

    width = max(map(len, IDS))
    print("\n".join(f"{name.ljust(width)}  {meaning}" for name, meaning in IDS.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
