"""/docs and /lineage in a browser: each address is tried out, on a desk and on a phone, without the internet."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect, sync_playwright

from tests.conftest import THOROUGH, Spindle, thorough
from tests.services import eventually, stopped
from tests.test_api_docs import OLD_PATHS, VIEWS
from tests.test_cache import settings_of
from tests.test_safety import SECRET

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# CI installs one: there a missing browser fails.
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not THOROUGH,
    reason="no browser: install chromium (apt-get install chromium) to test the pages",
)

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Visit:
    """A page of the gateway, and what went wrong on it."""

    page: Page
    home: str
    trouble: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.trouble.append(f"script: {error}"))
        self.page.on("request", self._follow)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.trouble.append(f"console: {message.text}")

    def _follow(self, request: Request) -> None:
        if not request.url.startswith((f"{self.home}/", "data:", "blob:")):
            self.trouble.append(f"left the gateway: {request.url}")

    def some_of(self, names: Sequence[str]) -> Sequence[str]:
        """All of them on a desk; on a phone, where only the layout is another, each third."""
        return names if self.page.viewport_size == DESK else names[::3]

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.home}{path}")
        return self.page

    def fits(self) -> bool:
        """Nothing makes the page wider than its window."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "no chromium on the PATH"
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root.
        running = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        yield running
        running.close()


@pytest.fixture(params=[pytest.param(DESK, id="desk"), pytest.param(PHONE, id="phone", marks=thorough)])
def visit(request: pytest.FixtureRequest, browser: Browser, spindle: Spindle) -> Iterator[Visit]:
    page = browser.new_page(viewport=request.param)
    visit = Visit(page, f"http://127.0.0.1:{spindle.port}")
    yield visit
    page.close()
    assert visit.trouble == []


def unfold(page: Page, name: str) -> Locator:
    """The box of an address, opened."""
    box = page.locator(f".opblock[id$='-{name}']")
    box.locator(".opblock-summary-control").click()
    expect(box.locator("button.execute")).to_be_visible()
    return box


def execute(page: Page, box: Locator) -> tuple[int, str]:
    """Press Execute, and see what the page shows of the answer: status and body."""
    with page.expect_response(lambda response: "/api/v1/" in response.url) as waited:
        box.locator("button.execute").click()
    shown = box.locator(".live-responses-table tbody .response").first
    expect(shown.locator(".response-col_status")).to_contain_text(str(waited.value.status))
    body = waited.value.text()
    if "json" in waited.value.headers["content-type"]:
        assert json.loads(shown.locator(".response-col_description pre").first.inner_text()) == json.loads(body)
    return waited.value.status, body


def test_every_address_can_be_tried_out(visit: Visit, spindle: Spindle) -> None:
    page = visit.open("/docs")
    expect(page.locator(".opblock")).to_have_count(len(VIEWS))
    assert "Spindle" in page.title()
    examples = {
        path[1:]: at["get"]["x-examples"][0] for path, at in spindle.get("/docs/openapi.json").json["paths"].items()
    }
    for view in visit.some_of(VIEWS):
        box = unfold(page, view)
        status, body = execute(page, box)
        assert status == 200, body
        assert body == spindle.get(examples[view]["path"]).body.decode()
        assert visit.fits(), view
        box.locator(".opblock-summary-control").click()


def test_what_is_typed_is_asked(visit: Visit, spindle: Spindle) -> None:
    page = visit.open("/docs")
    box = unfold(page, "machine_util")
    box.locator("tr[data-param-name='dt'] input").fill("lt.2026-03-25")
    box.locator("tr[data-param-name='machine'] input").fill("eq.tamesa")
    status, body = execute(page, box)
    assert (status, body) == (
        200,
        spindle.get("/api/v1/machine_util?dt=lt.2026-03-25&machine=eq.tamesa&order=machine").body.decode(),
    )
    box.locator("tr[data-param-name='dt'] input").fill("2026-03-25")
    visit.trouble.clear()
    status, body = execute(page, box)
    assert status == 400
    assert [trouble for trouble in visit.trouble if "400 (Bad Request)" not in trouble] == []
    visit.trouble.clear()


def test_csv_is_chosen_as_media_type(visit: Visit, spindle: Spindle) -> None:
    page = visit.open("/docs")
    box = unfold(page, "machines")
    box.locator(".responses-wrapper select.content-type").first.select_option("text/csv")
    status, body = execute(page, box)
    assert (status, body) == (200, spindle.get("/api/v1/machines.csv?order=machine").body.decode())


def test_the_old_dialect_can_be_tried_out(visit: Visit, spindle: Spindle) -> None:
    page = visit.open("/docs")
    page.get_by_role("link", name="Dialect of the replaced backend").click()
    expect(page.locator(".opblock")).to_have_count(len(OLD_PATHS))
    for path in visit.some_of(OLD_PATHS):
        box = unfold(page, path[1:])
        status, body = execute(page, box)
        assert status == 200, body
        assert visit.fits(), path
        box.locator(".opblock-summary-control").click()


def test_lineage(visit: Visit) -> None:
    page = visit.open("/lineage")
    expect(page.get_by_role("heading", name="Spindle: where each number comes from")).to_be_visible()
    page.goto(f"{visit.home}/lineage#!/model/model.spindle.energy_consumption")
    expect(page.get_by_text("Energy of all motors in the hour, in kWh, 3 decimals.").first).to_be_visible()
    # dbt's page is made for a desk: on a phone part of it is beside the window
    page.get_by_text("Compiled", exact=True).dispatch_event("click")
    expect(page.locator("code").filter(has_text='"agg"')).to_be_visible()
    page.get_by_role("link", name="energy", exact=True).dispatch_event("click")
    expect(page).to_have_url(f"{visit.home}/lineage#!/model/model.spindle.energy")


def test_the_start_page_leads_there(visit: Visit) -> None:
    page = visit.open("/")
    page.get_by_role("link", name="All of them explained").click()
    expect(page.locator(".opblock").first).to_be_visible()
    page.get_by_role("link", name="Lineage").click()
    expect(page).to_have_title("Spindle: lineage")


def test_the_start_page_says_whence_its_numbers_come(browser: Browser, expendable: Spindle) -> None:
    page = browser.new_page(viewport=DESK)
    verdict, machines = page.locator("#verdict"), page.locator("article.machine")
    page.goto(f"http://127.0.0.1:{expendable.port}/")
    expect(machines).to_have_count(2)
    expect(verdict).to_contain_text("The data is")
    with stopped(expendable, "postgrest"):
        eventually(lambda: expendable.get("/api/v1/data_status").headers["X-Cache"] == "STALE")
        page.reload()
        expect(verdict).to_have_text("The API answers from memory")
        expect(machines).to_have_count(2)
    with settings_of(expendable, API_JWT_SECRET=SECRET):
        page.reload()
        expect(verdict).to_have_text("A token is needed")
        expect(page.locator("#status")).to_have_attribute("data-state", "warn")
    page.close()
