"""A real browser: Chromium, driven by Playwright. It is the one of the system; Playwright's own is not downloaded."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped] # it has no types
from patience import allowed
from playwright.async_api import Browser, ConsoleMessage, Dialog, Page, Request, async_playwright, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDTHS = (1280, 390)


@dataclass
class Visit:
    """A page in a browser, and what went wrong there: errors, messages of its console, dialogs, requests elsewhere."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)

    def _requested(self, request: Request) -> None:
        place = self.url.split("#")[0].rpartition("/")[0]
        if not request.url.startswith((place, "data:", "blob:")):
            self.problems.append(f"request: {request.url}")

    def _said(self, message: ConsoleMessage) -> None:
        self.problems.append(f"console: {message.type}: {message.text}")

    async def _asked(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    async def open(self) -> None:
        """Go there, and listen."""
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("dialog", self._asked)
        self.page.on("request", self._requested)
        response = await self.page.goto(self.url)
        assert response is not None
        assert response.ok

    async def texts(self, selector: str) -> Sequence[str]:
        """Return the texts of all elements."""
        return await self.page.locator(selector).all_inner_texts()

    async def is_wide(self) -> bool:
        """Whether the page is wider than its window, so that a reader must move it sideways."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    async def barriers(self) -> Sequence[str]:
        """Return what keeps some people from using the page, by the rules of axe."""
        found = await Axe().run(self.page)
        return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found.response["violations"]]


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """Start a browser."""
    # Its own 5 s are too short for what an upload does on a busy machine.
    expect.set_options(timeout=1_000 * allowed())
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visit(
    browser: Browser, url: str, *, width: int = 1280, is_dark: bool = False, has_scripts: bool = True
) -> AsyncIterator[Visit]:
    """Open a page in a browser of its own; at the end, nothing must have gone wrong there."""
    page = await browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if is_dark else "light",
        java_script_enabled=has_scripts,
    )
    page.set_default_timeout(1_000 * allowed())
    try:
        one = Visit(page, url)
        await one.open()
        yield one
        assert one.problems == []
    finally:
        await page.close()
