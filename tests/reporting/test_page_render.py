"""What HTML a page is made of; browsers have tests of their own."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from asyncimport.reporting.page.content import SessionRow
from asyncimport.reporting.page.live import LiveRun
from asyncimport.reporting.page.render import link, page_data, render_page, shown


class Elements(HTMLParser):
    """The elements of a page as a browser sees them, and the data in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.data = ""
        self._is_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.names.append(tag)
        self._is_data = ("id", "data") in attrs

    def handle_data(self, data: str) -> None:
        """Note the data for the script."""
        if self._is_data:
            self.data += data
            self._is_data = False


def row(text: str) -> SessionRow:
    """Make a row whose every text is this one."""
    return SessionRow(text, text, text, text, text, text, 1, 1, 1, text, text, text, text)


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "</SCRIPT >", "&lt;/script&gt;"]
)
def test_no_text_ends_the_data(text: str) -> None:
    """A browser reads the data to its end, and the text is in it as it was."""
    page = replace(LiveRun("https://xnat.test", "P").page(), sessions=[row(text)])
    made = Elements(render_page(page))
    assert made.names.count("script") == 3
    assert json.loads(made.data)["rows"][0][1] == text


@pytest.mark.parametrize(
    ("host", "uri", "found"),
    [
        ("https://xnat.test", "/data/archive/projects/P", "https://xnat.test/data/archive/projects/P?format=html"),
        ("https://xnat.test/xnat", "/data/a b#?", "https://xnat.test/xnat/data/a%20b%23%3F?format=html"),
        ("https://xnat.test", "javascript:alert(1)", ""),
        ("https://xnat.test", "", ""),
        ("javascript:alert(1)//", "/data", ""),
        ("", "/data", ""),
    ],
)
def test_links_lead_into_xnat(host: str, uri: str, found: str) -> None:
    """Or there is none."""
    assert link(host, uri) == found


def test_texts_are_bounded_and_visible() -> None:
    """Nobody reads what is longer; what turns text around is spelt."""
    assert len(shown("x" * 10_000)) < 700
    assert "\u202e" not in shown("\u202egnp.exe")


def test_most_links_are_left_to_the_script() -> None:
    """They are made of the labels, so that a page of many sessions is half as large."""
    usual = SessionRow("P", "S", "E", "1", "", "", 1, 1, 1, "archived", "", "",
                       "/data/archive/projects/P/subjects/S/experiments/E")  # fmt: skip
    data = page_data(replace(LiveRun("https://xnat.test", "P").page(), sessions=[usual, row("/x")]))
    assert [one[13] for one in data["rows"]] == [1, "https://xnat.test/x?format=html"]
