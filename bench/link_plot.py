"""The plot of time against the speed of a link as SVG, drawn from the tables of a report."""

import html
import re
from collections.abc import Sequence
from math import log10
from typing import NamedTuple

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 520, 70, 210, 110, 70
_INK, _GRID = "#4a5560", "#d9dee3"
_TITLE = "Time to move a gigabyte of CT and MR images over links of three speeds, with and without compression"
_LEGEND = (
    "Seconds for a gigabyte of uncompressed images, over TLS; lower is better, and both scales are logarithmic.",
    "Blue is asyncimport. The dotted line is what the link needs for the files as they are: below it only zips come.",
    "At 1 Gbit/s the server unpacks no zips: on an XNAT they gain less there.",
)
# A slow link is often a long one. These are the cells with targets.
_CELLS = {
    ("links-20", "link-20-150-loss"): (20, "150 ms, 0.1 % lost"),
    ("links-100", "link-100-30"): (100, "30 ms"),
    ("links-1000", "link-1000-2"): (1000, "2 ms"),
}


class _Style(NamedTuple):
    """How the line of a contender is drawn, and what it is called."""

    name: str
    colour: str
    width: float
    dashes: str = ""


_LINK = _Style("the link, without zips", _INK, 1, "1 4")
_SECONDS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_STYLES = {
    "xnatctl 16": _Style("xnatctl, gradual, 16", "#d08c3f", 1.5),
    "xnatctl zip 4": _Style("xnatctl, zip, 4", "#d08c3f", 1.5, "3 3"),
    "ceiling 16": _Style("aiohttp alone, 16", "#9aa5b1", 1.5),
    "curl -T 16": _Style("curl -T, 16", "#7b5aa6", 1.5),
    "asyncimport never": _Style("asyncimport, no zips", "#2563a8", 2, "6 3"),
    "asyncimport always": _Style("asyncimport, all zips", "#2563a8", 2, "2 2"),
    "asyncimport compress": _Style("asyncimport, auto", "#2563a8", 3),
}


def as_svg(tables: str) -> str:
    """Return a plot of the tables of a report: a line for each contender. Empty without tables of links."""
    points = _points(tables)
    if not points:
        return ""
    every = [seconds for found in (_of_link(), *points.values()) for seconds in found.values()]
    low, high = log10(min(every) * 0.8), log10(max(every) * 1.25)

    def place(speed: float, seconds: float) -> tuple[float, float]:
        x = _LEFT + (log10(speed) - log10(16)) / (log10(1250) - log10(16)) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (high - log10(seconds)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_text(10, 22, "Seconds for a gigabyte", "title")]
    parts += [_text(10, 44 + 17 * at, line) for at, line in enumerate(_LEGEND)]
    for seconds in _SECONDS:
        if low <= log10(seconds) <= high:
            _, y = place(20, seconds)
            parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="{_GRID}"/>')
            parts.append(_text(_LEFT - 8, y + 4, f"{seconds:,}", "number"))
    for speed, way in _CELLS.values():
        x, y = place(speed, 10**low)
        parts += [_text(x, y + 22, f"{speed:,} Mbit/s", "below"), _text(x, y + 38, way, "below")]
    lines = [(style, points[name]) for name, style in _STYLES.items() if name in points]
    for at, (style, found) in enumerate([(_LINK, _of_link()), *lines]):
        y = _TOP + 10 + 22 * at
        parts.append(_path([(_WIDTH - _RIGHT + 20, y), (_WIDTH - _RIGHT + 50, y)], style))
        parts.append(_text(_WIDTH - _RIGHT + 58, y + 4, style.name))
        parts.append(_path([place(*point) for point in sorted(found.items())], style))
    css = (
        f"text{{font:12px system-ui,sans-serif;fill:{_INK}}}text.title{{font-weight:600;font-size:15px}}"
        "text.below{text-anchor:middle}text.number{text-anchor:end}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" width="{_WIDTH}" '
        f'height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"><title id="title">{_TITLE}</title>'
        f'<desc id="desc">{html.escape(" ".join(_LEGEND))}</desc><style>{css}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _of_link() -> dict[float, float]:
    return {speed: 8_000 / speed for speed, _ in _CELLS.values()}


def _points(tables: str) -> dict[str, dict[float, float]]:
    """Return seconds a gigabyte by speed, for each contender that has been measured over the links of the plot."""
    found: dict[str, dict[float, float]] = {}
    for part in re.split(r"^### ", tables, flags=re.MULTILINE)[1:]:
        head = re.match(r"(\S+) on (\S+): .* \(([\d,]+) files, ([\d,.]+) MB, \d+ sessions\)$", part, re.MULTILINE)
        if head is None or (head[1], head[2]) not in _CELLS:
            continue
        speed, _ = _CELLS[head[1], head[2]]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line[:2] == "| "]
        for row in rows[2:]:
            if rate := row[rows[0].index("files/s")].partition(" ")[0]:
                seconds = _number(head[3]) / _number(rate) / _number(head[4]) * 1000
                found.setdefault(row[0], {}).setdefault(speed, seconds)
    return found


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _path(points: Sequence[tuple[float, float]], style: _Style) -> str:
    line = "L".join(f"{x} {y}" for x, y in points)
    dashes = f' stroke-dasharray="{style.dashes}"' if style.dashes else ""
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="{style.width + 0.5}" fill="{style.colour}"/>' for x, y in points)
    return f'<path d="M{line}" fill="none" stroke="{style.colour}" stroke-width="{style.width}"{dashes}/>{dots}'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{attribute}>{html.escape(text)}</text>'
