# SPDX-License-Identifier: Apache-2.0
"""The report without Ansible: ``python -m gpu_report RESULTS_DIR``.

Makes report.html and junit.xml from the verdicts in a directory. Exit status: 0 made, 2 there is nothing to make them
from, or they cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_report import junit, page, store, table


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_report", description="Makes the report of a lab from its verdicts."
    )
    parser.add_argument("directory", type=Path, help="where the verdicts are: <host>.json, as a run left them")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: report.html beside the verdicts)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="JUnit XML (default: junit.xml beside the verdicts)")
    parser.add_argument("--table", action="store_true", help="show the table as well")
    options = parser.parse_args(words)
    try:
        lab = store.read(options.directory)
        if not lab.hosts:
            print(f"gpu_report: {options.directory} holds no verdicts", file=sys.stderr)
            return 2
        output = options.output or options.directory / store.PAGE
        store.write(output, page.render(lab).encode())
        store.write(options.junit or options.directory / store.JUNIT, junit.render(lab).encode())
    except store.ReportError as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        return 2
    if options.table:
        reasons = {host.name: host.why for host in lab.hosts if host.document is None}
        print(table.table({host.name: host.shown for host in lab.hosts}, reasons))
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
