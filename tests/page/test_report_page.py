# SPDX-License-Identifier: Apache-2.0
"""The report in a real browser: it works, with the keyboard too, loads nothing, and lets no host's text run."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from conftest import Page
from gpu_report import store
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.keys import Keys

STATUSES = ("FAIL", "UNKNOWN", "WARN", "PASS")
LUMINANCE = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const part = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data]; };
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const behind = element => {
  for (; element; element = element.parentElement) {
    const colour = rgb(getComputedStyle(element).backgroundColor);
    if (colour[3] > 200) return colour;
  }
  return [255, 255, 255];
};
"""
CONTRAST = (
    LUMINANCE
    + """
const poor = [];
for (const element of document.querySelectorAll('body *')) {
  if (!element.getClientRects().length || element.closest('.draw, .vh, .skip, script')) continue;
  if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
  const one = light(rgb(getComputedStyle(element).color)), two = light(behind(element));
  const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
  const name = `${element.tagName}.${element.className} ${element.textContent.slice(0, 30)}`;
  if (ratio < 4.5) poor.push(`${name}: ${ratio.toFixed(2)}`);
}
return [...new Set(poor)].slice(0, 20);
"""
)


@pytest.mark.parametrize("count", [1, 40, 500])
def test_labs_of_any_size_open_without_a_complaint_and_load_nothing(
    chrome: Chrome, labs: dict[int, Path], count: int
) -> None:
    page = Page(chrome, labs[count])
    page.complaints()
    page.requests()
    page.open()
    assert len(page.shown()) == count
    page.one(".row:first-child .host").click()
    assert len(page.all(".detail")) == 1
    assert page.complaints() == []
    assert {address.partition(":")[0] for address in page.requests()} <= {"file", "about", "data"}
    assert [address for address in page.requests() if "report.html" not in address and address != "about:blank"] == []


def test_a_page_that_does_complain_is_noticed(page: Page) -> None:
    page.script("setTimeout(() => { throw new Error('on purpose') })")
    page.script(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.invalid/x.png'}))"
    )
    page.driver.execute_async_script("setTimeout(arguments[0], 200)")
    said = " ".join(page.complaints())
    assert "on purpose" in said
    assert "Content Security Policy" in said


def test_the_worst_hosts_come_first(page: Page) -> None:
    statuses = [row.get_attribute("data-s") for row in page.all(".row")]
    assert statuses == sorted(statuses, key=lambda word: STATUSES.index(str(word)))
    assert set(statuses) == set(STATUSES)


def test_colour_is_never_alone(page: Page) -> None:
    for status in STATUSES:
        for selector in (f".st.{status}", f"td.t.{status}"):
            found = page.all(selector)
            assert found, selector
            assert all(status in str(element.get_attribute("textContent")) for element in found[:20]), selector


def test_the_filter_finds_hosts_by_name_gpu_system_and_what_is_wrong(page: Page) -> None:
    field = page.one("#filter")
    for words, expected in (
        ("hopper01", ["hopper01"]),
        ("fwd_bwd", ["hopper01"]),
        ("row_remap a100", []),
        ("RTX 5090 warn", ["blackwell02"]),
        ("no route", ["ampere03"]),
    ):
        field.clear()
        field.send_keys(words)
        if words == "row_remap a100":  # the host with that fault calls its GPUs something hostile
            assert page.shown() == []
            assert page.one("#none").is_displayed()
            continue
        assert page.shown() == expected
        assert page.one("#shown").text == f"{len(expected)} of 40 hosts"
    field.send_keys(Keys.ESCAPE)
    assert len(page.shown()) == 40


def test_the_chips_show_one_verdict_or_several(page: Page) -> None:
    fail, unknown = page.one("[data-status=FAIL]"), page.one("[data-status=UNKNOWN]")
    fail.click()
    failed = page.shown()
    assert failed
    assert fail.get_attribute("aria-pressed") == "true"
    unknown.click()
    assert len(page.shown()) > len(failed)
    fail.click()
    unknown.click()
    assert len(page.shown()) == 40


def test_a_host_opens_with_its_plan_checks_versions_and_proof(page: Page) -> None:
    page.open("#h-hopper01")
    detail = page.one(".detail")
    text = str(detail.get_attribute("textContent"))
    for words in (
        *("What is not in order", "dW is wrong", "Return it to the maker", "51,200", "limit 16"),
        *("Versions", "580.126.09", "PyTorch in torch", "GPU-", "96.00.74.00.01", "Training jobs"),
        *("Proof that the GPU was used: 3 signals needed", "kernel_records", "rejected"),
        *("The plan and why", "long-term support until 2028-06", "Checks in order", "self-test"),
    ):
        assert words in text, words
    link = next(row for row in page.all(".detail a") if row.text == "All of it as JSON")
    assert str(link.get_attribute("href")).endswith("/hopper01.json")
    page.driver.execute_async_script("setTimeout(arguments[0], 100)")
    assert page.script("return document.activeElement.textContent") == "hopper01"
    page.one("#h-hopper01 .host").click()
    assert page.all(".detail") == []


def test_a_processor_shows_that_its_jobs_refused_and_no_proof_of_a_gpu(page: Page) -> None:
    page.open("#h-login01")
    text = str(page.one(".detail").get_attribute("textContent"))
    assert "Asked for a GPU, each job refused (4 of 4)." in text
    assert "Proof that the GPU was used" not in text


def test_a_host_says_on_what_it_trained_and_when_it_was_looked_at_last(page: Page) -> None:
    page.open("#h-login02")
    jobs = next(part for part in page.all(".detail .inside > div") if part.text.startswith("Training jobs"))
    assert jobs.text.count("drawn digits") == 4
    page.open()
    assert page.all(".when .seen time")
    assert "seen" in page.one("#h-volta01 .when").text


def test_a_host_that_did_not_answer_says_why(page: Page) -> None:
    page.open("#h-ampere03")
    assert "No route to host" in page.one(".detail").text
    assert "JSON" not in page.one(".detail").text


def test_what_to_do_leads_to_the_host_even_when_it_is_filtered_away(page: Page) -> None:
    page.one("#filter").send_keys("login")
    page.script("document.querySelector('.todo .hl[href=\"#h-hopper01\"]').click()")
    page.driver.execute_async_script("setTimeout(arguments[0], 100)")
    assert "hopper01" in page.shown()
    assert page.one("#h-hopper01").get_attribute("class") == "row FAIL open"


def test_the_keyboard_reaches_everything(page: Page) -> None:
    keys = ActionChains(page.driver)
    keys.send_keys("/").perform()
    active = "return document.activeElement.id || document.activeElement.textContent"
    assert page.script(active) == "filter"
    ActionChains(page.driver).send_keys("hopper0", Keys.ARROW_DOWN).perform()
    first, second = page.shown()[:2]
    assert page.script(active) == first
    ActionChains(page.driver).send_keys(Keys.ARROW_DOWN).perform()
    assert page.script(active) == second
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    assert page.one(".row.open .host").text == second
    assert page.one(".row.open .host").get_attribute("aria-expanded") == "true"
    ActionChains(page.driver).send_keys(Keys.ARROW_UP, Keys.ARROW_UP).perform()
    assert page.script(active) == "filter"
    reached = set()
    page.open()
    for _ in range(60):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.add(page.script("return document.activeElement.className || document.activeElement.id"))
    assert {"skip", "theme", "hl", "filter", "chip FAIL", "sort", "host"} <= reached
    ring = page.script("const h = document.querySelector('.host'); h.focus(); return getComputedStyle(h).outlineStyle")
    assert ring == "solid"


def test_columns_sort_both_ways_and_open_hosts_keep_their_details(page: Page) -> None:
    page.one("#h-hopper01 .host").click()
    by_name = page.one(".sort[data-key=name]")
    by_name.click()
    names = page.shown()
    assert names[0] == "ampere01"
    assert names.index("hopper02") < names.index("login01")
    assert page.script("return document.querySelector('#h-hopper01').nextElementSibling.id") == "d-h-hopper01"
    by_name.click()
    assert page.shown() == names[::-1]
    heading = page.script(
        "return document.querySelector('.sort[data-key=name]').parentElement.getAttribute('aria-sort')"
    )
    assert heading == "descending"


def test_text_of_hosts_never_runs_and_stays_readable(page: Page) -> None:
    page.open("#h-ampere02")
    assert page.script("return window.hacked") is None
    assert page.all("img") == []
    text = page.one(".detail").text
    assert "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>" in text
    assert not set(text) & {"\x00", "\u202e"}
    for row in page.all("#all"):
        row.click()
    assert len(page.all(".detail")) == 40
    assert page.script("return window.hacked") is None
    assert page.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_enough(page: Page, scheme: str) -> None:
    page.media(scheme=scheme)
    page.open("#h-hopper01")
    assert page.script(CONTRAST) == []


def test_dark_follows_the_system_and_the_button(page: Page) -> None:
    page.script("try { localStorage.clear() } catch {}")
    light = "return " + "getComputedStyle(document.body).backgroundColor"
    assert page.script(light) == "rgb(244, 246, 248)"
    page.media(scheme="dark")
    assert page.script(light) == "rgb(14, 20, 26)"
    page.media()
    page.open()
    button = page.one("#theme")
    assert button.text == "Dark"
    button.click()
    assert page.script(light) == "rgb(14, 20, 26)"
    assert page.one("#theme").text == "Light"
    button.click()
    assert page.script(light) == "rgb(244, 246, 248)"
    page.script("try { localStorage.clear() } catch {}")


def test_drawings_change_their_colours_with_the_page(page: Page) -> None:
    colour = "return getComputedStyle(document.querySelector('#throughput svg path[fill=\"var(--accent)\"]')).fill"
    light = page.script(colour)
    page.media(scheme="dark")
    assert page.script(colour) != light


@pytest.mark.parametrize("width", [320, 390, 760, 1024, 1280, 1440, 1920])
def test_no_window_is_too_narrow(page: Page, width: int) -> None:
    page.size(width)
    page.open("#h-hopper01")
    assert page.script("return document.documentElement.scrollWidth") <= width
    over = page.script(
        "return [...document.querySelectorAll('h1, h2, .badge, .tiles div, .todo li, figure, .draw svg')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    )
    assert over == []


def pdf(page: Page) -> bytes:
    answer: dict[str, Any] = page.driver.execute_cdp_cmd(
        "Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True}
    )
    return base64.b64decode(answer["data"])


def test_paper_gets_the_report_in_light_colours_and_no_controls(page: Page) -> None:
    page.media("print", "dark")
    assert page.script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in ("#filter", "#theme", "nav", ".chip"):
        assert not any(element.is_displayed() for element in page.all(selector)), selector
    page.size(1040)  # A4 across, without its margins
    assert page.script("return document.documentElement.scrollWidth") <= 1040
    page.media()
    document = pdf(page)
    pages = len(re.findall(rb"/Type\s*/Page\b", document))
    assert document.startswith(b"%PDF")
    assert 3 <= pages <= 12
    size = re.search(rb"/MediaBox\s*\[\s*0\s+0\s+([\d.]+)\s+([\d.]+)", document + _unpacked(document))
    assert size
    assert float(size[1]) > float(size[2])


def _unpacked(document: bytes) -> bytes:
    """Return what is packed in a PDF, as far as it can be unpacked."""
    parts = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", document, re.DOTALL):
        try:
            parts.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return b"\n".join(parts)


def test_without_javascript_the_hosts_are_there(page: Page, labs: dict[int, Path]) -> None:
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.driver.get((labs[40] / store.PAGE).as_uri())
        assert "need JavaScript" in page.one("noscript").text
        assert len(page.all(".row")) == 40
        assert page.all(".todo li")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_a_screen_reader_needs_is_there(page: Page) -> None:
    assert page.script("return document.documentElement.lang") == "en"
    assert page.script("return document.querySelectorAll('h1').length") == 1
    for selector in (
        "main",
        "header",
        "nav[aria-label]",
        "table.matrix th[scope=col]",
        ".row th[scope=row]",
        "[aria-live]",
    ):
        assert page.all(selector), selector
    unnamed = page.script(
        "return [...document.querySelectorAll('button, a, input')].filter(e => !e.textContent.trim() && "
        "!(e.labels && e.labels.length) && !e.ariaLabel).map(e => e.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    assert page.script("return [...document.querySelectorAll('.draw')].every(e => e.ariaLabel.length > 20)")
