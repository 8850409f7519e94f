"""A few lines at the end of a terminal that are redrawn in place; all else that is written appears above them."""

import os
import re
from collections import deque
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from asyncimport.reporting.progress_text import ProgressText, Row, Tone

_STYLES = {Tone.NORMAL: "", Tone.WARNING: "yellow", Tone.ERROR: "red"}
_MIN_BAR, _MAX_BAR = 10, 60
_DETAILS = re.compile(r"\s*\([^()]*\)")


class LiveArea:
    """Lines that are drawn over those drawn before. `write` writes to the terminal, and may block.

    `put` never blocks, and may be called in any thread; the other methods in one thread at a time.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._above: deque[str] = deque()
        self._shown: list[int] = []
        """The cells of each line that is on the terminal."""

    def put(self, text: str) -> None:
        """Let whole lines appear above the area the next time it is drawn."""
        self._above.append(text)

    def draw(self, lines: Sequence[str], cells: Sequence[int], columns: int) -> None:
        """Draw lines of these widths on a terminal that has this many columns by now."""
        # A terminal that has become narrower has wrapped what is on it.
        rows = sum(max(1, -(-count // columns)) for count in self._shown)
        up = f"\x1b[{rows - 1}A" if rows > 1 else ""
        above = "".join(self._above.popleft() for _ in range(len(self._above)))
        if above and not above.endswith("\n"):
            above += "\n"
        erase = "\x1b[J" if above or rows > len(self._shown) else ""
        self._write(f"\r{up}{erase}{above}" + "\x1b[K\n".join(lines) + "\x1b[K\x1b[J")
        self._shown = list(cells)

    def close(self, columns: int) -> None:
        """Take the area away, and leave what is above it."""
        self.draw([], [], columns)


def without_details(text: str) -> str:
    """Return a text without what is in brackets."""
    while (shorter := _DETAILS.sub("", text)) != text:
        text = shorter
    return text


def terminal_size(console: Console) -> tuple[int, int]:
    """Return columns and lines of the terminal as they are now, whatever the environment says."""
    try:
        columns, lines = os.get_terminal_size(console.file.fileno())
    except (OSError, ValueError):
        columns, lines = console.size
    return columns or 80, lines or 25


def layout(text: ProgressText, columns: int, lines: int, *, is_unicode: bool) -> list[Text]:
    """Return lines for a terminal of this size: none wraps, and parts that need more room have lines of their own."""
    # A terminal may wrap a line that fills it.
    width = max(columns - 1, 1)
    made = [] if text.done is None else [_bar_line(text.done, f"{text.percent:>6}", text.time_left, width, is_unicode)]
    for row in text.rows:
        made += [Text(line, style=_STYLES[row.tone]) for line in _flow(row, width, is_unicode)]
    return made[: max(lines - 1, 1)]


def _bar_line(done: float, percent: str, time_left: str, width: int, is_unicode: bool) -> Text:
    tail = f"{percent}  {time_left}".rstrip()
    # Room for a time left, even if there is none now: so the bar keeps its width.
    cells = min(width - max(cell_len(tail), 24), _MAX_BAR)
    if cells < _MIN_BAR:
        return Text(_fitted(tail, width, is_unicode))
    full = int(cells * done)
    line, rest = ("━", "─") if is_unicode else ("#", "-")
    return Text.assemble((line * full, "green"), (rest * (cells - full), "bright_black"), tail)


def _flow(row: Row, width: int, is_unicode: bool) -> list[str]:
    """Return the parts of a row in as few lines as they need."""
    separator = " · " if is_unicode else " | "
    lines: list[str] = []
    for part in row.parts:
        joined = f"{lines[-1]}{separator}{part}" if lines else ""
        if joined and cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(_fitted(part, width, is_unicode))
    return lines


def _fitted(text: str, width: int, is_unicode: bool) -> str:
    """Return a text without its details, or as many of its words as there is room for."""
    if cell_len(text) <= width:
        return text
    text = without_details(text)
    if cell_len(text) <= width:
        return text
    mark = "…" if is_unicode else "..."
    while text and cell_len(text) + len(mark) > width:
        shorter = text.rpartition(" ")[0]
        text = shorter if len(shorter) > len(text) / 2 else text[:-1]
    return f"{text}{mark}"
