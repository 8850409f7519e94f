"""The plot of rates as SVG, drawn from the tables of a report, so that it says what they say."""

import html
import re
from collections.abc import Iterator, Sequence

_WIDTH, _NAMES, _BAR, _GAP = 760, 190, 16, 6
_OURS, _CEILING, _RIVAL, _INK = "#2563a8", "#9aa5b1", "#d08c3f", "#4a5560"
_TITLE = "Files a second of asyncimport and other clients: on servers like XNAT, and on one that answers at once"
# What users meet comes first.
_SCENARIOS = ("mr", "ct", "small", "far")
_SECTIONS = (
    ("Servers like XNAT: the server is the limit", ("realistic", "far")),
    ("A server that answers at once (nginx): the client is the limit", ("instant",)),
)
_LEGEND = (
    "A bar is the median of the rounds, in files a second. The thin line at its end goes from the slowest to the",
    "fastest round; with one round there is none. A number after a name says how many files are in flight; -w auto",
    "finds it out. Only asyncimport (blue) keeps a journal, builds, archives and verifies; the others only send.",
    "“aiohttp alone” (grey) is the HTTP library that asyncimport uses, and nothing else: “ceiling” in the tables. It",
    "is no upper limit: curl, which is written in C, is faster where the server answers at once.",
)
_NAMES_OF = {
    "asyncimport": "asyncimport -w",
    "ceiling": "aiohttp alone,",
    "ceiling memory": "aiohttp from memory,",
    "curl data": "curl --data-binary,",
    "curl -T": "curl -T,",
    "curl loop": "curl, one after the other",
    "xnatctl": "xnatctl -w",
}

Bar = tuple[str, str]


def as_svg(tables: str) -> str:
    """Return a plot of the tables of a report, a bar for each contender; the first table of its kind counts."""
    panels = _panels(tables)
    parts = [_text(10, 22, "Files a second", "title")]
    parts += [_text(10, 44 + 17 * at, line) for at, line in enumerate(_LEGEND)]
    top = 44 + 17 * len(_LEGEND)
    for section, models in _SECTIONS:
        found = [panels[name, model] for model in models for name in _SCENARIOS if (name, model) in panels]
        if found:
            parts.append(_text(10, top + 22, section, "title"))
            top += 34
        for what, bars in found:
            parts += [_text(10, top + 16, what, "head"), *_bars(bars, top + 26)]
            top += 38 + len(bars) * (_BAR + _GAP)
    style = (
        f"text{{font:12px system-ui,sans-serif;fill:{_INK}}}"
        "text.head{font-weight:600;font-size:13px}text.title{font-weight:600;font-size:15px}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" width="{_WIDTH}" '
        f'height="{top + 10}" viewBox="0 0 {_WIDTH} {top + 10}"><title id="title">{_TITLE}</title>'
        f'<desc id="desc">{html.escape(" ".join(_LEGEND))}</desc><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _panels(tables: str) -> dict[tuple[str, str], tuple[str, list[Bar]]]:
    """Return a title and bars for each scenario and server: names, and cells such as `352 (346-355)`."""
    found: dict[tuple[str, str], tuple[str, list[Bar]]] = {}
    for part in re.split(r"^### ", tables, flags=re.MULTILINE)[1:]:
        head = re.match(r"(\S+) on (\S+): (.*) \((.*), \d+ sessions\)$", part, re.MULTILINE)
        rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
        if head is None or len(rows) < 4 or "files/s" not in rows[0]:
            continue
        column = rows[0].index("files/s")
        bars = [(row[0], row[column]) for row in rows[2:] if len(row) > column and row[column].strip()]
        if head[1] in _SCENARIOS and len(bars) > 1:
            found.setdefault((head[1], head[2]), (f"{head[3][0].upper()}{head[3][1:]}: {head[4]}", bars))
    return found


def _bars(bars: Sequence[Bar], top: int) -> Iterator[str]:
    values = [[float(text.replace(",", "")) for text in re.findall(r"[\d,.]+", cell)] for _, cell in bars]
    scale = (_WIDTH - _NAMES - 90) / max(map(max, values))
    for at, ((name, cell), (median, *ends)) in enumerate(zip(bars, values, strict=True)):
        y = top + at * (_BAR + _GAP)
        colour = _OURS if name.startswith("asyncimport") else _CEILING if name.startswith("ceiling") else _RIVAL
        end = _NAMES + max([median, *ends]) * scale + 6
        yield _text(_NAMES - 8, y + 12, _name(name), "name")
        yield f'<rect x="{_NAMES}" y="{y}" width="{median * scale:.1f}" height="{_BAR}" fill="{colour}"/>'
        if ends:
            left, right = (_NAMES + value * scale for value in ends)
            yield f'<path d="M{left:.1f} {y + _BAR / 2}H{right:.1f}" stroke="{_INK}"/>'
        yield _text(round(end, 1), y + 12, cell.partition(" ")[0])


def _name(contender: str) -> str:
    """Return what a contender does, for people who have not read its table."""
    kind, _, number = contender.rpartition(" ")
    if contender in _NAMES_OF:
        return _NAMES_OF[contender]
    return f"{_NAMES_OF.get(kind, kind)} {number}"


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attributes = ' text-anchor="end"' if kind == "name" else f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{attributes}>{html.escape(text)}</text>'
