"""Lines that are redrawn in place."""

import pyte
import pytest
from rich.cells import cell_len
from rich.text import Text

from asyncimport.cli.live_area import LiveArea, layout
from asyncimport.reporting.progress_text import ProgressText, Row, Tone

TEXT = ProgressText(
    0.5,
    "at least 1:02:03 left",
    [
        Row(["12,345 of 20,000 files", "1.2 of 2.0 TB", "41.2 MB/s (312 files/s), average 38.0 MB/s"]),
        Row(["41 sessions done, 5 open, 2 held", "12 uploads in flight, limited by the network"]),
        Row(
            ["17 retries, last: the server is away (no connection (refused) to 漢字.example.org)"],
            Tone.ERROR,
        ),
    ],
)


class Shown:
    """A live area on a terminal."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.screen = pyte.Screen(columns, 12)
        stream = pyte.Stream(self.screen)
        self.area = LiveArea(lambda text: stream.feed(text.replace("\n", "\r\n")))

    def draw(self, *lines: str) -> list[str]:
        """Draw lines, and return what is on the screen."""
        self.area.draw(lines, [cell_len(line) for line in lines], self.columns)
        return self.lines

    @property
    def lines(self) -> list[str]:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip("\n").split("\n")


def test_lines_are_drawn_over_those_before() -> None:
    """Whatever their number and length."""
    shown = Shown(20)
    assert shown.draw("first", "second line", "third") == ["first", "second line", "third"]
    assert shown.draw("1", "2") == ["1", "2"]
    assert shown.draw("a", "b", "c", "d") == ["a", "b", "c", "d"]
    assert shown.draw() == [""]


def test_what_is_put_appears_above() -> None:
    """It stays there, also at the end, and takes as many lines as it needs."""
    shown = Shown(10)
    shown.draw("one", "two")
    shown.area.put("note\n")
    shown.area.put("a longer note")
    assert shown.lines == ["one", "two"]
    assert shown.draw("three", "four") == ["note", "a longer n", "ote", "three", "four"]
    shown.area.put("last\n")
    shown.area.close(10)
    assert shown.lines == ["note", "a longer n", "ote", "last"]


def test_a_terminal_that_has_wrapped_lines() -> None:
    """Lines that a narrower terminal has wrapped are taken away wholly."""
    written: list[str] = []
    area = LiveArea(written.append)
    area.draw(["x" * 19, "y" * 8], [19, 8], 20)
    area.draw(["z"], [1], 10)
    assert written[1].startswith("\r\x1b[2A\x1b[J")


@pytest.mark.parametrize("columns", [5, 10, 20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("is_unicode", [True, False])
def test_no_line_fills_the_terminal(columns: int, *, is_unicode: bool) -> None:
    """Not even where there is little room, or letters take two cells."""
    lines = layout(TEXT, columns, 50, is_unicode=is_unicode)
    assert max(line.cell_len for line in lines) < max(columns, 2)
    if columns >= 60:
        text = "\n".join(line.plain for line in lines)
        assert {part for row in TEXT.rows[:2] for part in row.parts} <= set(
            text.replace("\n", SEPARATOR[is_unicode]).split(SEPARATOR[is_unicode])
        )
        assert lines[0].plain.endswith("  50 %  at least 1:02:03 left")


SEPARATOR = {True: " · ", False: " | "}


def plain(columns: int, lines: int = 50) -> list[str]:
    """Return the lines for a terminal of this size."""
    return [line.plain for line in layout(TEXT, columns, lines, is_unicode=True)]


def test_a_wide_terminal_needs_few_lines() -> None:
    """Parts of a row are in one line, where there is room."""
    _, *rest = plain(120)
    assert rest == [SEPARATOR[True].join(row.parts) for row in TEXT.rows]


def test_a_cause_loses_its_details_first() -> None:
    """Then the words that there is no room for."""
    assert plain(80)[-1] == "17 retries, last: the server is away"
    assert plain(40)[-1] == "17 retries, last: the server is away"
    assert plain(8)[-1] == "17 ret…"


def test_a_low_terminal_has_the_first_lines() -> None:
    """All of them fit on the terminal, so that they can be drawn over."""
    assert len(plain(60, lines=4)) == 3
    assert len(plain(60, lines=1)) == 1


def test_rows_have_colours_by_their_tone() -> None:
    """An error is red."""
    assert layout(TEXT, 80, 50, is_unicode=True)[-1].style == "red"
    assert isinstance(layout(TEXT, 80, 50, is_unicode=True)[0], Text)
