"""The page in a real browser, as a planner meets it."""

from __future__ import annotations

import contextlib
import csv
import re
import shutil
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import uvicorn

from feastrain.errors import FeastrainError
from feastrain.serving.api import create_app
from feastrain.serving.listening import address_of
from feastrain.settings import Settings
from planner_facts import evidence, many_levels, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fakes import FakeSource

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
DESK, PHONE = {"width": 1300, "height": 900}, {"width": 360, "height": 740}
SITES, ITEMS = 40, 83


@dataclass(frozen=True)
class Site:
    """A page that is served, and the source behind it to meddle with."""

    address: str
    source: FakeSource


@contextlib.contextmanager
def site_of(sites: int, items: int, settings: Settings) -> Iterator[Site]:
    """Series and a backtest of some of them, behind a real server."""
    forecaster, source, history = served(many_levels(sites, items))
    shown = evidence(forecaster, history, 50)
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(forecaster, history, settings, evidence=shown)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield Site(address_of(listener), source)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """3,320 series."""
    with site_of(SITES, ITEMS, Settings()) as served_site:
        yield served_site


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(site: Site, browser: playwright.Browser) -> Iterator[playwright.Page]:
    """The page, loaded; a script that fails or another host that is asked fails the test."""
    site.source.error = None
    context = browser.new_context(viewport=DESK, locale="en-US")
    context.set_default_timeout(10_000)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda asked: _note_foreign(asked.url, site, faults))
    _load(opened, site.address)
    yield opened
    assert faults == []
    context.close()


def _note_foreign(url: str, site: Site, faults: list[str]) -> None:
    if not url.startswith((site.address, "data:", "blob:")):
        faults.append(url)


def _load(page: playwright.Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#chart canvas")
    page.wait_for_selector("#facts dd")


def _names(page: playwright.Page) -> list[str]:
    return page.locator("#spacer .row > :first-child").all_text_contents()


def test_what_is_most_at_risk_is_shown_first(page: playwright.Page) -> None:
    """The widest fan is the first row, and its series is open."""
    assert _names(page)[0] == "site 40 · item i82"
    assert page.inner_text("#title") == "site 40 · item i82"
    assert page.inner_text("#count") == "3,320 of 3,320 series"
    assert page.locator("#figures dd:not(.note)").all_text_contents() == [
        "9.5%",
        "-1.2%",
        "81%",
        "+36.9%",
    ]
    assert page.locator("#drivers-list li .what").all_text_contents() == ["level", "holiday"]
    assert page.locator("#horizon-chart polyline").count() == 2


def test_a_search_narrows_the_table(page: playwright.Page) -> None:
    """Words and numbers in any order; only the rows in view are drawn."""
    page.fill("#search", "i05 site 7")
    assert _names(page) == ["site 7 · item i05"]
    page.fill("#search", "")
    assert page.locator("#spacer .row").count() < 60


def test_a_column_sorts_both_ways(page: playwright.Page) -> None:
    """Its header says which."""
    header = page.locator("#head [role=columnheader]", has_text="series")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert _names(page)[:2] == ["site 1 · item i00", "site 1 · item i01"]
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert _names(page)[0] == "site 40 · item i82"


def test_the_first_entity_opens_into_its_series(page: playwright.Page) -> None:
    """Totals by site, then the items of one, and back."""
    page.click("#levels button:has-text('By site')")
    assert page.inner_text("#count") == "40 of 40 site totals"
    page.click("#spacer .row:has-text('site 39')")
    assert page.inner_text("#count") == "83 of 3,320 series"
    assert all(name.startswith("site 39 ·") for name in _names(page))
    page.click("#up")
    assert page.inner_text("#count") == "40 of 40 site totals"


def test_a_forecast_of_the_past_stands_beside_what_happened(page: playwright.Page) -> None:
    """The one chosen was 10 too much in each of four weeks."""
    page.click("#levels button:has-text('Series')")
    page.fill("#search", "site 1 i00")
    page.click("#spacer .row:has-text('site 1 ·')")
    page.wait_for_selector("#asof option[value='2012-08-17']", state="attached")
    page.select_option("#asof", "2012-08-17")
    assert page.locator("#facts dt").all_text_contents()[1] == "what happened"
    forecast, happened = (
        float(text.replace(",", "")) for text in page.locator("#facts dd").all_text_contents()[:2]
    )
    assert forecast - happened == pytest.approx(40, abs=1)
    assert "asof=2012-08-17" in page.url


def test_a_what_if_is_shown_beside_the_forecast(page: playwright.Page) -> None:
    """A holiday in the second week lifts it by half; taken back, it is gone."""
    page.wait_for_selector("#try")
    page.select_option("#try-step", "2")
    page.select_option("#try-value", "Labor Day")
    page.click("#try button[type=submit]")
    page.wait_for_selector("#try-result dd")
    assert page.locator("#try-result .note").first.inner_text() == "+50.0%"
    assert page.is_visible("#tried-key")
    page.click("#try-reset")
    assert not page.is_visible("#try-result")
    assert not page.is_visible("#tried-key")


def test_an_export_holds_what_is_shown(page: playwright.Page, tmp_path: Path) -> None:
    """Every row that the search left, in the table's order."""
    page.fill("#search", "site 7")
    with page.expect_download() as saved:
        page.click("#export")
    saved.value.save_as(tmp_path / "shown.csv")
    rows = list(csv.DictReader((tmp_path / "shown.csv").open()))
    assert [row["item"] for row in rows] == [f"i{item:02d}" for item in reversed(range(ITEMS))]
    assert {row["site"] for row in rows} == {"7"}
    assert all(float(row["at_risk"]) > 0 for row in rows)


def test_a_link_opens_the_same_view(page: playwright.Page, site: Site) -> None:
    """Series, search, order and the date of the forecast."""
    link = "#is.site=3&is.item=i04&q=site+3&sort=forecast&order=up&asof=&periods=52"
    page.goto("about:blank")
    _load(page, site.address + link)
    assert page.inner_text("#title") == "site 3 · item i04"
    assert _names(page)[0] == "site 3 · item i00"
    assert page.input_value("#search") == "site 3"
    assert page.inner_text("#ranges [aria-pressed=true]") == "1 year"
    page.reload()
    page.wait_for_selector("#facts dd")
    assert page.inner_text("#title") == "site 3 · item i04"


def test_a_dead_store_is_shown_as_stale(page: playwright.Page, site: Site) -> None:
    """The page says how old the forecast is, and goes on showing it."""
    site.source.error = FeastrainError("Redis at h:1 did not answer: start it")
    page.reload()
    page.wait_for_selector("#stale:not([hidden])")
    page.wait_for_selector("#facts dd")
    text = page.inner_text("#stale")
    assert re.search(r"Oct 26, 2012, [\d,]+ days ago", text)
    assert "Redis at h:1 did not answer" in text
    assert page.locator("#facts dd").first.inner_text() != ""
    assert page.is_visible("#chart canvas")


def test_the_table_is_worked_by_keyboard_alone(page: playwright.Page) -> None:
    """From the search into the rows; each row that is reached is opened."""
    page.focus("#search")
    page.keyboard.type("site 5")
    page.keyboard.press("ArrowDown")
    first = page.inner_text("#title")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    assert first == "site 5 · item i82"
    assert page.inner_text("#title") == "site 5 · item i00"
    active = page.get_attribute("#list", "aria-activedescendant")
    assert active is not None
    assert page.get_attribute(f"#{active}", "aria-selected") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") != "list"


def test_nothing_scrolls_sideways_on_a_phone(page: playwright.Page) -> None:
    """At 360 pixels everything is within the page."""
    page.set_viewport_size(PHONE)
    page.reload()
    page.wait_for_selector("#facts dd")
    page.wait_for_selector("#drivers-list li")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_a_planner_signs_in_and_the_link_still_holds(browser: playwright.Browser) -> None:
    """A token opens the page at the view that the link asked for; a wrong one does not."""
    token = "token-of-these-tests"
    with site_of(2, 3, Settings.model_validate({"serve_tokens": token})) as guarded:
        context = browser.new_context(viewport=DESK, locale="en-US")
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.goto(f"{guarded.address}#is.site=1&is.item=i01")
        for shown in ("wrong-token-of-the-tests", token):
            page.fill("input[name=token]", shown)
            page.click("button")
            if shown != token:
                page.wait_for_selector("text=This token is not valid.")
        page.wait_for_selector("#chart canvas")
        assert page.inner_text("#title") == "site 1 · item i01"
        assert token not in page.evaluate("document.cookie")
        context.close()
