# SPDX-License-Identifier: Apache-2.0
"""A browser, and pages of labs of three sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import browser as browser_module
import fabricated_lab
import pytest
from gpu_report import store
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement


@dataclass
class Page:
    """A page in a browser."""

    driver: Chrome
    directory: Path

    def open(self, fragment: str = "") -> Page:
        """Load the page anew."""
        self.driver.get("about:blank")
        self.driver.get((self.directory / store.PAGE).as_uri() + fragment)
        return self

    def script(self, code: str, *arguments: Any) -> Any:
        """Run a script in the page and return its answer."""
        return self.driver.execute_script(code, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        """Return all elements that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """Return the only element that a CSS selector finds."""
        (found,) = self.all(selector)
        return found

    def shown(self) -> list[str]:
        """Return the names of the hosts that are to be seen, in their order."""
        code = "return [...document.querySelectorAll('.row')].filter(r => !r.hidden && r.getClientRects().length)"
        answer: list[str] = self.script(f"{code}.map(r => r.querySelector('.host').textContent)")
        return answer

    def size(self, width: int, height: int = 900) -> None:
        """Give the page a size in CSS pixels."""
        values = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", values)

    def media(self, media: str = "", scheme: str = "light") -> None:
        """Pretend a medium and what the system prefers."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def complaints(self) -> list[str]:
        """Return what the browser's console said since it was asked last."""
        return [row["message"] for row in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return every address that was asked for since this was asked last."""
        events = [json.loads(row["message"])["message"] for row in self.driver.get_log("performance")]
        sent = [row for row in events if row["method"] == "Network.requestWillBeSent"]
        return [row["params"]["request"]["url"] for row in sent]


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    if browser_module.programs() is None:
        pytest.skip("chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)")
    with browser_module.browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    directories = {}
    for count in (1, 40, 500):
        directories[count] = tmp_path_factory.mktemp(f"lab{count}")
        fabricated_lab.make(directories[count], count)
        store.make(directories[count])
    return directories


@pytest.fixture
def page(chrome: Chrome, labs: dict[int, Path]) -> Page:
    """Return the page of 40 hosts, freshly loaded, in a wide and light window."""
    made = Page(chrome, labs[40])
    made.size(1440)
    made.media()
    made.complaints()
    made.requests()
    return made.open()
