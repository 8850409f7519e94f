"""The report of one or several runs: tables as Markdown, and a plot of the rates as SVG."""

import html
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rounds import Spread, figure, spread
from bench.tables import headline, markdown, rates_of, table_of, targets_of

_WIDTH, _NAMES, _BAR, _GAP, _HEAD = 760, 170, 16, 6, 46
_OURS, _CEILING, _RIVAL, _INK = "#2563a8", "#9aa5b1", "#d08c3f", "#4a5560"


def write_report(results: Sequence[Path], markdown_file: Path | None, svg_file: Path | None) -> None:
    """Write results files as Markdown (by default to standard output) and as a plot."""
    runs = [json.loads(path.read_bytes()) for path in results]
    text = as_markdown(runs)
    if markdown_file is None:
        sys.stdout.write(text)
    else:
        markdown_file.write_text(text)
    if svg_file is not None:
        svg_file.write_text(as_svg([result for run in runs for result in run["results"]]))


def as_markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables of runs. Successive runs with the same machine and caveats name them once."""
    parts: list[str] = []
    told: list[str] = []
    for run in runs:
        head = _head(run)
        parts += head if head != told else []
        told = head
        for result in run["results"]:
            command = f"`{_command(run['options'], result)}`, at a load of {run['machine']['load'][0]}"
            parts += [f"### {headline(result)}", command, markdown(table_of(result))]
            if lines := [*targets_of(result), *(f"note: {note}" for note in result["notes"])]:
                parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) + "\n"


def _head(run: Mapping[str, Any]) -> list[str]:
    parts = [", ".join(f"{name} {value}" for name, value in run["machine"].items() if name != "load")]
    parts += ["\n".join(f"- {caveat}" for caveat in run["caveats"])]
    if run["options"]["quick"]:
        parts.append("This was a quick run: it shows that everything works. Its figures say nothing.")
    return parts


def _command(options: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    words = ["python -m bench run", result["scenario"]]
    words += [f"--model {result['model']}"] if result["model"] not in {"", "site"} else []
    words += ["--quick"] if options["quick"] else []
    words += [f"--scale {options['scale']:g}"] if options["scale"] != 1 else []
    words += [f"--rounds {options['rounds']}"] if options["rounds"] else []
    words += [f"--against {options['against']}"] if options["against"] else []
    words += [f'--contender "{name}"' for name in options["contenders"]]
    words += ["--project ID"] if options["site"] else []
    return " ".join(words)


def as_svg(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a plot with a bar for each contender of a scenario, as long as its files a second."""
    parts: list[str] = []
    top = 10
    for result in results:
        if result["kind"] != "transfer":
            continue
        bars = [(name, found) for name, runs in result["contenders"].items() if (found := _spread(runs)) is not None]
        if len(bars) < 2:
            continue
        parts.append(f'<text x="10" y="{top + 20}" class="head">{html.escape(_title(result))}</text>')
        parts += _panel(bars, top + _HEAD - 14)
        top += _HEAD + len(bars) * (_BAR + _GAP)
    style = f"text{{font:12px system-ui,sans-serif;fill:{_INK}}}.head{{font-weight:600;font-size:13px}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top + 10}" '
        f'viewBox="0 0 {_WIDTH} {top + 10}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _title(result: Mapping[str, Any]) -> str:
    return f"{result['what']}, {result['model']} server: files/s ({result['collection']})"


def _spread(runs: Sequence[Mapping[str, Any]]) -> Spread | None:
    return spread([value for value in rates_of(runs) if value is not None])


def _panel(bars: Sequence[tuple[str, Spread]], top: int) -> Iterator[str]:
    most = max(found.greatest for _, found in bars)
    scale = (_WIDTH - _NAMES - 90) / most
    for at, (name, found) in enumerate(bars):
        y = top + at * (_BAR + _GAP)
        colour = _OURS if name.startswith("asyncimport") else _CEILING if name.startswith("ceiling") else _RIVAL
        middle, left, right = y + _BAR / 2, _NAMES + found.least * scale, _NAMES + found.greatest * scale
        end = max(right, _NAMES + found.median * scale) + 6
        yield f'<text x="{_NAMES - 8}" y="{y + 12}" text-anchor="end">{html.escape(name)}</text>'
        yield f'<rect x="{_NAMES}" y="{y}" width="{found.median * scale:.1f}" height="{_BAR}" fill="{colour}"/>'
        yield f'<path d="M{left:.1f} {middle}H{right:.1f}" stroke="{_INK}"/>'
        yield f'<text x="{end:.1f}" y="{y + 12}">{figure(found.median)}</text>'
