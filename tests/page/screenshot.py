# SPDX-License-Identifier: Apache-2.0
"""Takes the picture of the report that the README shows, of a lab that does not exist.

python tests/page/screenshot.py docs/images/report.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lib"))

import browser
import fabricated_lab
from gpu_report import store

HOSTS, WIDTH, HEIGHT = 40, 1440, 1560
#: The age of the made-up verdicts is of no interest to anybody.
TIDY = "for (const age of document.querySelectorAll('.age')) age.remove(); document.querySelector('#filter').blur();"


def main() -> None:
    """Write the picture to the file that the command line names."""
    with tempfile.TemporaryDirectory(prefix="gpulab-picture-") as scratch:
        results = Path(scratch, "results")
        fabricated_lab.make(results, HOSTS, with_hostile=False)
        store.make(results)
        with browser.browser(Path(scratch, "profile")) as driver:
            size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            driver.get((results / store.PAGE).as_uri())
            driver.execute_script(TIDY)
            if not driver.save_screenshot(sys.argv[1]):
                sys.exit(f"{sys.argv[1]} cannot be written")


if __name__ == "__main__":
    main()
