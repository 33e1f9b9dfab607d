# SPDX-License-Identifier: Apache-2.0
"""How long the report takes to make and to open, for labs of 1, 40 and 500 hosts that do not exist.

    PYTHONPATH=lib python benchmarks/report_page.py

Opening needs chromium and chromedriver, and is left out without them. The exit status is 0 whatever was measured.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests" / "page")]

import browser  # noqa: E402
import fabricated_lab  # noqa: E402
from gpu_report import junit, page, store  # noqa: E402

SIZES = (1, 40, 500)
OPENINGS = 5
OPEN_BUDGET = 2.0
#: Until everything is drawn and the hosts are sorted, filtered and ready.
READY = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
FILTER = """
const input = document.querySelector('#filter'), start = performance.now();
input.value = 'h100'; input.dispatchEvent(new Event('input')); document.body.offsetHeight;
return performance.now() - start;
"""
OPEN_HOST = """
const start = performance.now(); document.querySelector('.host').click(); document.body.offsetHeight;
return performance.now() - start;
"""


def main() -> None:
    """Measure, and print one line for each lab."""
    with tempfile.TemporaryDirectory(prefix="gpulab-report-") as scratch:
        directories = {count: Path(scratch, str(count)) for count in SIZES}
        print("hosts   read   page  junit  size of the page")
        for count, directory in directories.items():
            fabricated_lab.make(directory, count)
            started = time.perf_counter()
            lab = store.read(directory)
            read = time.perf_counter()
            text = page.render(lab)
            rendered = time.perf_counter()
            junit.render(lab)
            done = time.perf_counter()
            store.make(directory)
            seconds = f"{read - started:5.2f}s {rendered - read:5.2f}s {done - rendered:5.2f}s"
            print(f"{count:5} {seconds}  {len(text.encode()) / 1e6:.1f} MB")
        if browser.programs() is None:
            print("no chromium and chromedriver: opening is not measured")
            return
        with browser.browser(Path(scratch, "profile")) as driver:
            print("\nhosts  opening  filtering  opening a host   (medians)")
            for count, directory in directories.items():
                figures: dict[str, list[float]] = {"ready": [], "filter": [], "host": []}
                for _ in range(OPENINGS):
                    driver.get("about:blank")
                    driver.get((directory / store.PAGE).as_uri())
                    figures["ready"].append(driver.execute_script(READY) / 1000)
                    figures["host"].append(driver.execute_script(OPEN_HOST))
                    figures["filter"].append(driver.execute_script(FILTER))
                ready, sought, opened = (statistics.median(values) for values in figures.values())
                word = "within budget" if ready <= OPEN_BUDGET else "OVER"
                print(f"{count:5} {ready:7.2f}s {sought:8.1f}ms {opened:12.1f}ms   {word} ({OPEN_BUDGET:g} s)")


if __name__ == "__main__":
    main()
