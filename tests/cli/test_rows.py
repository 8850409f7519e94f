"""Rows of values: whole in files and pipes, folded on a narrow terminal, never cut."""

import io

import pytest
from rich.console import Console

from asyncimport.cli.rows import show_rows

PATH = "/data/" + "/".join(f"directory {number}" for number in range(30)) + "/漢字.dcm"
UID = "1.2.840." + "9" * 56
HEADINGS = ("state", "instance", "path", "reason")
ROWS = [("stored", UID, PATH, ""), ("failed", "1.2", "/a.dcm", "time-out"), ("refused", "1.3", "/漢.dcm", "no")]


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


def written(width: int, *, is_terminal: bool) -> str:
    """Return the rows as a console of this width shows them."""
    file = Terminal() if is_terminal else io.StringIO()
    # Colours may be forced into a file.
    console = Console(file=file, width=width, force_terminal=True, no_color=True, soft_wrap=True)
    show_rows(console, ROWS, headings=HEADINGS, long=2)
    return file.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")


@pytest.mark.parametrize("width", [20, 80, 1000])
def test_a_file_has_one_whole_line_for_each_row(width: int) -> None:
    """The width of a terminal does not matter, columns are aligned, and no line ends with blanks."""
    lines = written(width, is_terminal=False).splitlines()
    assert len(lines) == 4
    assert lines == [line.rstrip() for line in lines]
    assert lines[1].split(None, 2) == ["stored", UID, PATH]
    assert lines[2].split() == ["failed", "1.2", "/a.dcm", "time-out"]
    places = {line.index(word) for line, word in zip(lines, ("path", "/data", "/a.dcm", "/漢.dcm"), strict=True)}
    assert len(places) == 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_folds_paths_and_reasons(width: int) -> None:
    """They have lines of their own, which only the terminal wraps, so that they can be copied."""
    lines = written(width, is_terminal=True).split("\n")
    assert f"    {PATH}" in lines
    assert lines[lines.index("    /a.dcm") + 1] == "    time-out"
    assert [line for line in lines if line.startswith("failed")] == [f"failed   {'1.2':{len(UID)}}".rstrip()]


def test_a_wide_terminal_has_one_line_for_each_row() -> None:
    """Nothing is folded where all of it fits."""
    assert len(written(1000, is_terminal=True).splitlines()) == 4


def test_no_rows_are_no_lines() -> None:
    """Not even headings without need."""
    console = Console(file=io.StringIO())
    show_rows(console, [])
    file = console.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue() == ""
