"""The report and the live page in a real browser: what readers see, search, sort and print, and nothing else runs."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, browsing, needs_chromium, visit
from builders import image, write
from conftest import Commands
from patience import in_time
from playwright.async_api import Browser, expect

from asyncimport.model.activity import Activity, RunActivity, WorkerActivity
from asyncimport.reporting.causes import cause_of
from asyncimport.reporting.page.content import (
    BAD,
    GOOD,
    ChartRun,
    Fact,
    Page,
    RunLine,
    SessionRow,
    Tile,
)
from asyncimport.reporting.page.render import render_page
from asyncimport.testserver import Fault, Stall, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough, needs_chromium]

MANY = 50_000
# What somebody could have written into headers, names of files, or answers of a server.
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "<!-- <script>",
    "\u202egnp.exe",
    "\x1b[31mred\x00",
    "' onmouseover='alert(1)",
    '=HYPERLINK("http://evil.test")',
    "x" * 10_000,
)


@pytest.fixture
def blockbuster() -> None:
    """Allow Playwright to block the loop of a test, on which nothing of ours runs."""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with browsing() as browser:
        yield browser


def row(number: int, **changes: Any) -> SessionRow:
    """Make the row of an archived session."""
    subject, label = f"S{number:05}", f"S{number:05}_20200102"
    one = SessionRow(
        *("P", subject, label, f"1.2.{number}", f"2020-01-{1 + number % 28:02}", "MR", number % 7, 10 * (number + 1)),
        *(1_000 * number * 7_919 % 1_000_003, "archived", "uids", ""),
        f"/data/archive/projects/P/subjects/{subject}/experiments/{label}",
    )
    return replace(one, **changes)


def page(sessions: Sequence[SessionRow], **changes: Any) -> Page:
    """Make a page that has everything."""
    intervals = [(second, Activity(50, 10_000_000, 0, 1, 9.0, 0.4, 8, 16)) for second in (0, 1, 2, 7)]
    one = Page(
        title="Upload into P",
        status="finished, but some files did not arrive",
        tone=BAD,
        facts=[Fact("Server", ("https://xnat.test",))],
        tiles=[Tile("Files in XNAT", "9", "of 10 to send", GOOD), Tile("Not in XNAT", "1", "file", BAD)],
        asked=[Fact("Command", ("asyncimport upload /data",), is_code=True)],
        causes=[cause_of("refused", "XNAT did not keep it", (1, "file"), "/data/a.dcm", "Read the reason.")],
        proof=["9 sessions verified by UID."],
        runs=[RunLine("1", "2026-01-31 12:00:00 UTC", "2026-01-31 12:01:00 UTC", "finished")],
        settings=[Fact("--archive", ("yes",))],
        sessions=sessions,
        charts=[ChartRun(1_790_000_000.0, RunActivity(1, 1, intervals))],
        host="https://xnat.test",
        workers=[WorkerActivity("node1:40321", 1_200, 5_000_000, 12.5, 3, "the disk"), WorkerActivity("node2")],
        made="Made by a test.",
    )
    return replace(one, **changes)


def written(path: Path, content: Page) -> str:
    """Write a page; return its address."""
    path.write_text(render_page(content), "utf-8")
    return path.as_uri()


class TestReport:
    """One file that a browser shows without a network."""

    @pytest.mark.parametrize("width", WIDTHS)
    @pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
    async def test_everybody_can_use_it(self, browser: Browser, tmp_path: Path, width: int, is_dark: bool) -> None:
        """Contrasts, names, headings and keyboard, on a phone too; nothing is wider than the window."""
        rows = [*map(row, range(3)), row(3, state="held", verified="", reason="refused", uri="")]
        url = written(tmp_path / "report.html", page(rows))
        async with visit(browser, url, width=width, is_dark=is_dark) as seen:
            await expect(seen.page.locator("#table tbody tr")).to_have_count(4)
            assert await seen.barriers() == []
            assert not await seen.is_wide()
            await expect(seen.page.locator(".chart canvas")).to_have_count(4)

    async def test_a_reader_finds_sorts_and_follows(self, browser: Browser, tmp_path: Path) -> None:
        """By all words, by state, by numbers as numbers, by keyboard; a name leads into XNAT."""
        rows = [row(2), row(10), row(1, state="held", verified="", reason="FAILED (1): conflict", uri="")]
        async with visit(browser, written(tmp_path / "report.html", page(rows))) as seen:
            names = "#table tbody td[data-name=Session]"
            assert await seen.texts(names) == ["S00002_20200102", "S00010_20200102", "S00001_20200102"]
            await seen.page.get_by_role("button", name="Files").click()
            assert await seen.texts(names) == ["S00001_20200102", "S00002_20200102", "S00010_20200102"]
            await seen.page.keyboard.press("Enter")
            assert await seen.texts(names) == ["S00010_20200102", "S00002_20200102", "S00001_20200102"]
            await expect(seen.page.locator("th[aria-sort=descending]")).to_have_text("Files")
            await seen.page.get_by_label("Search").fill("CONFLICT s00001")
            assert await seen.texts(names) == ["S00001_20200102"]
            await expect(seen.page.locator("#count")).to_have_text("1 of 3 sessions")
            await seen.page.get_by_label("Search").fill("")
            await seen.page.locator("#state").select_option("archived")
            assert await seen.texts(names) == ["S00010_20200102", "S00002_20200102"]
            link = seen.page.get_by_role("link", name="S00002_20200102")
            assert await link.get_attribute("href") == (
                "https://xnat.test/data/archive/projects/P/subjects/S00002/experiments/S00002_20200102?format=html"
            )
            assert await link.get_attribute("rel") == "noreferrer noopener"

    async def test_many_sessions(self, browser: Browser, tmp_path: Path) -> None:
        """50,000 are there in 3 s and sorted in 1 s, and the last of them is found."""
        url = written(tmp_path / "report.html", page([row(number) for number in range(MANY)]))
        took = (
            "(at) => new Promise((done) => { const start = performance.now(); document.querySelector(at).click();"
            "requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))); })"
        )
        async with visit(browser, url) as seen:
            await expect(seen.page.locator("#count")).to_have_text("50,000 sessions")
            opened = await seen.page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
            sorted_in = min([await seen.page.evaluate(took, "th button") for _ in range(3)])
            await seen.page.get_by_label("Search").fill(f"1.2.{MANY - 1}")
            assert await seen.texts("#table tbody td[data-name=Session]") == ["S49999_20200102"]
            await seen.page.get_by_label("Search").fill("")
            await seen.page.get_by_role("button", name="Next").click()
            await expect(seen.page.locator("#place")).to_have_text("Page 2 of 500")
        assert (opened < 3_000, sorted_in < 1_000) == (True, True), (opened, sorted_in)

    async def test_it_prints(self, browser: Browser, tmp_path: Path) -> None:
        """On paper all rows are there, and nothing to click."""
        url = written(tmp_path / "report.html", page([row(number) for number in range(250)]))
        async with visit(browser, url, is_dark=True) as seen:
            await expect(seen.page.locator("#table tbody tr")).to_have_count(100)
            await seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
            await seen.page.emulate_media(media="print")
            await expect(seen.page.locator("#table tbody tr")).to_have_count(250)
            await expect(seen.page.get_by_label("Search")).to_be_hidden()
            ground = "getComputedStyle(document.body).backgroundColor"
            assert await seen.page.evaluate(ground) == "rgb(255, 255, 255)"
            assert (await seen.page.pdf()).startswith(b"%PDF")

    async def test_without_scripts(self, browser: Browser, tmp_path: Path) -> None:
        """Totals, problems and settings can be read; the page says what is missing."""
        url = written(tmp_path / "report.html", page([row(1)]))
        async with visit(browser, url, has_scripts=False) as seen:
            text = await seen.page.inner_text("body")
        for part in ("finished, but some files did not arrive", "XNAT did not keep it", "runs no scripts", "--archive"):
            assert part in text

    @pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
    async def test_whatever_texts_hold_they_are_texts(self, browser: Browser, tmp_path: Path, text: str) -> None:
        """Nothing of them runs, loads, links or turns other text around."""
        cells = ("project", "subject", "session", "study_uid", "date", "modalities", "verified", "reason", "uri")
        names = dict.fromkeys((*cells, "state"), text)
        fact = Fact(text, (text,))
        content = page(
            [row(1, **names), row(2, uri="//evil.test/x"), row(3, uri=f"/{text}")],
            title=text, status=text, tone=text, facts=[fact], asked=[fact], settings=[fact], proof=[text], made=text,
            tiles=[Tile(text, text, text, text)], causes=[cause_of(text, text, (1, text), text, text)],
            runs=[RunLine(text, text, text, text)],
        )  # fmt: skip
        for host in ("https://xnat.test", text):
            async with visit(browser, written(tmp_path / "report.html", replace(content, host=host))) as seen:
                await expect(seen.page.locator("#table tbody tr")).to_have_count(3)
                links = await seen.page.evaluate("[...document.links].map((link) => link.href)")
                assert all(re.match(r"https://xnat\.test/|file:///.*#sessions$", link) for link in links), links
                assert await seen.page.locator("img, iframe, object, embed, form").count() == 0
                assert await seen.page.locator("script").count() == 3
                assert "\u202e" not in await seen.page.inner_text("body")


class TestLivePage:
    """The page of an upload while it runs."""

    async def test_it_follows_an_upload(
        self, browser: Browser, commands: Commands, xnat: TestXnat, url: str, tmp_path: Path
    ) -> None:
        """Sessions come and change without a reload; the search stays as it is, and the end is shown."""
        for number in range(1, 4):
            content = image(number, PatientID=f"S{number}", StudyInstanceUID=f"1.2.{number}", StudyDate="20200102")
            write(tmp_path / "files" / f"{number}.dcm", content)
        stalled = xnat.faults.add(Fault("archive", Stall(), nth=2))
        commands.login(url)
        async with commands.start("upload", tmp_path / "files", "-P", "demo", "-q", "--page", "127.0.0.1:0") as process:
            assert process.stderr is not None
            line = (await process.stderr.receive()).decode()
            assert line.startswith("page: http://127.0.0.1:")
            async with visit(browser, line.removeprefix("page: ").strip()) as seen:
                rows = seen.page.locator("#table tbody tr")
                await expect(rows).to_have_count(3)
                await expect(rows.filter(has_text="archived")).to_have_count(2)
                await expect(seen.page.locator(".status")).to_contain_text("running")
                await seen.page.get_by_label("Search").fill("S2")
                await expect(rows).to_have_count(1)
                assert await seen.barriers() == []
                loaded = await seen.page.evaluate("performance.timeOrigin")
                stalled.release()
                await expect(seen.page.locator(".status")).to_have_text("finished: everything is done")
                await expect(seen.page.get_by_label("Search")).to_have_value("S2")
                await expect(rows).to_have_count(1)
                await expect(rows.first).to_contain_text("archived")
                assert await seen.page.evaluate("performance.timeOrigin") == loaded
            with in_time():
                assert await process.wait() == 0

    async def test_it_has_a_line_for_each_worker(
        self, browser: Browser, commands: Commands, xnat: TestXnat, url: str, tmp_path: Path
    ) -> None:
        """With what it does now, and at the end with what it has done."""
        generated(tmp_path / "files", sessions=2, files=40, size=2_000, seed=1)
        stalled = xnat.faults.add(Fault("import", Stall(), nth=20))
        commands.login(url)
        words = ("upload", tmp_path / "files", "-P", "demo", "-q", "-w", "1", "--dask", "local:1")
        async with commands.start(*words, "--page", "127.0.0.1:0") as process:
            assert process.stderr is not None
            line = (await process.stderr.receive()).decode()
            async with visit(browser, line.removeprefix("page: ").strip()) as seen:
                cells = seen.page.locator("#workers tbody td")
                await expect(cells.nth(4)).to_have_text("1")
                assert (await cells.all_inner_texts())[:2] == ["0", "19"]
                assert await seen.barriers() == []
                stalled.release()
                await expect(seen.page.locator(".status")).to_have_text("finished: everything is done")
                assert (await cells.all_inner_texts())[1] == "40"
            with in_time():
                assert await process.wait() == 0

    async def test_a_run_that_is_killed(
        self, browser: Browser, commands: Commands, xnat: TestXnat, url: str, tmp_path: Path
    ) -> None:
        """The page says that it has lost the run, and goes on showing what it knows."""
        write(tmp_path / "files" / "1.dcm", image(1, PatientID="S1"))
        xnat.faults.add(Fault("archive", Stall()))
        commands.login(url)
        async with commands.start("upload", tmp_path / "files", "-P", "demo", "-q", "--page", "127.0.0.1:0") as process:
            assert process.stderr is not None
            line = (await process.stderr.receive()).decode()
            async with visit(browser, line.removeprefix("page: ").strip()) as seen:
                await expect(seen.page.locator("#table tbody tr")).to_have_count(1)
                process.kill()
                await expect(seen.page.locator(".status")).to_contain_text("The connection to the run is broken")
                # Chromium says that it could not connect.
                seen.problems = [one for one in seen.problems if "net::ERR" not in one]


async def test_the_report_of_an_upload(browser: Browser, commands: Commands, url: str, tmp_path: Path) -> None:
    """From files to a page: its numbers are those of the upload, and --anonymous names nobody."""
    for number in range(1, 5):
        content = image(number, PatientID=f"Smith{number}", StudyInstanceUID=f"1.2.{number}", StudyDate="20200102")
        write(tmp_path / "Doe" / f"{number}.dcm", content[:-20] if number == 4 else content)
    commands.login(url)
    assert (await commands("upload", tmp_path / "Doe", "-P", "demo", "-q")).code == 8
    for name, options in (("report", ()), ("shared", ("--anonymous",))):
        made = await commands("report", "-P", "demo", "--out", tmp_path / f"{name}.html", *options)
        assert (made.code, made.out) == (0, ""), made.err
    async with visit(browser, (tmp_path / "report.html").as_uri()) as seen:
        names = sorted(await seen.texts("#table tbody td[data-name=Session]"))
        assert names == [f"Smith{number}_20200102" for number in (1, 2, 3)]
        await expect(seen.page.locator("#tiles li").first).to_contain_text("of 3 to send")
        assert "truncated" in " ".join(await seen.texts("ol.causes li"))
        assert str(tmp_path / "Doe") in await seen.page.inner_text("body")
    async with visit(browser, (tmp_path / "shared.html").as_uri()) as seen:
        codes = await seen.texts("#table tbody td[data-name=Session]")
        assert all(re.fullmatch(r"session-[0-9a-f]{12}", code) for code in codes)
        assert len(set(codes)) == 3
    shared = (tmp_path / "shared.html").read_text("utf-8")
    assert not re.search(rf"Smith|Doe|2020|{re.escape(url)}|{re.escape(str(tmp_path))}|1\.2\.\d", json.dumps(shared))
