"""Rows of values for people: whole in files and pipes, and folded on a terminal that is too narrow, never cut."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from asyncimport.cli.live_area import terminal_size

_GAP = 2
_INDENT = 4
_LINES_AT_A_TIME = 1_000


def show_rows(
    console: Console,
    rows: Sequence[Sequence[str]],
    *,
    headings: Sequence[str] = (),
    long: int = 1,
) -> None:
    """Write rows in columns; the last `long` columns hold paths and texts of any length.

    Where a row is wider than the terminal, long values have lines of their own. The terminal wraps these, so a path is
    copied whole.
    """
    lines = [*([headings] if headings else []), *rows]
    if not lines:
        return
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(lines[0]))]
    # A console with forced colours says that a file is a terminal.
    is_folded = console.file.isatty() and sum(widths) + _GAP * (len(widths) - 1) >= terminal_size(console)[0]
    made = [_folded(line, widths, long) if is_folded else _aligned(line, widths) for line in lines]
    for begin in range(0, len(made), _LINES_AT_A_TIME):
        text = Text("\n".join(made[begin : begin + _LINES_AT_A_TIME]))
        if headings and begin == 0:
            text.stylize("bold", 0, len(made[0]))
        console.print(text)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    gap = " " * _GAP
    return gap.join(cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _folded(cells: Sequence[str], widths: Sequence[int], long: int) -> str:
    short = len(cells) - long
    first = _aligned(cells[:short], widths[:short])
    return "\n".join([first, *(" " * _INDENT + cell for cell in cells[short:] if cell)])
