"""The test server's home page in a real browser: it follows what arrives, and everybody can use it."""

from collections.abc import AsyncIterator

import pytest
from browser import WIDTHS, browsing, needs_chromium, visit
from patience import COMMAND, in_time
from playwright.async_api import Browser, expect
from raw_client import dicom, raw_client

from asyncimport.testserver import Project, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough, needs_chromium]


@pytest.fixture
def blockbuster() -> None:
    """Allow Playwright to block the loop of a test."""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with browsing() as browser:
        yield browser


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("context", ["", "xnat"])
async def test_it_shows_what_arrives_while_it_does(browser: Browser, width: int, context: str) -> None:
    """Without a reload: what is searched for stays, states are in words, names lead to what they name."""
    xnat = TestXnat()
    xnat.add_project(Project("p", "</script><script>alert(1)</script>"))
    async with raw_client(xnat, context=context) as web, visit(browser, f"{web.url}/", width=width) as seen:
        assert await seen.texts("#archive .none") == ["Nothing yet."]
        await web.archive_session(dicom(1), dicom(2))
        await expect(seen.page.locator("#archive tbody tr")).to_have_count(1)
        await seen.page.get_by_label("Search").fill("receiving")
        await expect(seen.page.locator("#archive tbody tr")).to_be_hidden()
        await web.import_session(dicom(3), EXPT_LABEL="F")
        await expect(seen.page.locator("#prearchive tbody tr")).to_contain_text("RECEIVING")
        await expect(seen.page.locator("#archive tbody tr")).to_be_hidden()
        await expect(seen.page.locator("#received")).to_have_text("3 files received.")
        await seen.page.get_by_label("Search").fill("")
        assert await seen.barriers() == []
        assert not await seen.is_wide()
        links = await seen.page.evaluate("[...document.links].map((link) => link.getAttribute('href'))")
        for link in links:
            assert (await web.get(f"/{link}")).status == 200, link


async def test_a_server_that_stops(browser: Browser) -> None:
    """It does not wait for browsers, and the page says that it is gone."""
    with in_time(COMMAND):
        async with raw_client() as web:
            page = visit(browser, f"{web.url}/")
            seen = await page.__aenter__()
            await expect(seen.page.locator("#projects tbody tr")).to_have_count(1)
        await expect(seen.page.locator("#connection")).to_contain_text("The server is gone")
    # Chromium says that it could not connect.
    seen.problems = [one for one in seen.problems if "net::ERR" not in one]
    await page.__aexit__(None, None, None)
