"""Results as tables for the terminal and for Markdown. Pure: it works on the content of the JSON file."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.profile import PLACES
from bench.rounds import Spread, figure, ratios, spread

Table = list[list[str]]
_COLUMNS = {
    "rate": "files/s",
    "sending": "while sending",
    "times_link": "x link",
    "ratio": "bytes / sent",
    "mb_per_core": "MB/s a core",
    "cpu_ms": "CPU ms/file",
    "cpu_s": "CPU s",
    "server_cpu_ms": "server's",
    "rss_mb": "peak MB",
    "in_flight": "in flight",
    "first_byte": "first byte s",
    "first_archived": "first archived s",
    "tail": "last 5 %",
    "finishing": "finishing s",
    "archiving": "archiving x ideal",
    "opens": "opens/file",
    "running": "without start s",
    "seconds": "s",
    **{place: f"{place} us" for place in PLACES},
    "loop_cpu": "CPU us: loop",
    "threads_cpu": "threads",
    "children_cpu": "children",
}
_SPREAD = frozenset({"rate", "seconds", "running"})
"""Figures that are shown with minimum and maximum. For others these are in the JSON file."""
_WANTED: Mapping[str, Sequence[str]] = {
    "transfer": (
        "rate",
        "sending",
        "times_link",
        "ratio",
        "mb_per_core",
        "cpu_ms",
        "server_cpu_ms",
        "rss_mb",
        "in_flight",
        "first_byte",
        "first_archived",
        "tail",
        "finishing",
        "archiving",
    ),
    "memory": ("rss_mb", "rate", "cpu_s", "cpu_ms", "seconds"),
    "again": ("seconds", "running", "opens", "cpu_s", "rss_mb"),
    "scan": ("rate", "cpu_ms", "opens", "rss_mb"),
    "resume": ("rate", "cpu_ms", "opens", "rss_mb"),
    "start-up": ("seconds", "rss_mb"),
    "profile": ("rate", *PLACES, "loop_cpu", "threads_cpu", "children_cpu"),
}


def rates_of(runs: Sequence[Mapping[str, Any]], metric: str = "rate") -> list[float | None]:
    """Return a figure for each round."""
    return [one["values"].get(metric) for one in runs]


def _cell(runs: Sequence[Mapping[str, Any]], metric: str) -> str:
    found = spread([value for value in rates_of(runs, metric) if value is not None])
    return _shown(found) if found is None or metric in _SPREAD else figure(found.median)


def headline(result: Mapping[str, Any]) -> str:
    """Return the title of a table."""
    on = f" on {result['model']}" if result["model"] else ""
    return f"{result['scenario']}{on}: {result['what']}{f' ({found})' if (found := result['collection']) else ''}"


def table_of(result: Mapping[str, Any]) -> Table:
    """Return the rows of a result, its header first; the ratio to the reference is the first figure."""
    if result["kind"] == "sweep":
        return _sweep(result)
    runs, reference = result["contenders"], result["reference"]
    metrics = [name for name in _WANTED[result["kind"]] if any(_cell(found, name) for found in runs.values())]
    against = runs.get(reference, [])
    header = ["contender", *([f"x {reference}"] if against else []), *(_COLUMNS[name] for name in metrics), "rounds"]
    rows: Table = [header]
    for name, found in runs.items():
        problem = next((one["problem"] for one in found if one["problem"]), "")
        share = ratios(rates_of(found), rates_of(against))
        ratio = [_shown(share)] if against else []
        cells = [_cell(found, metric) for metric in metrics]
        rows.append([name, *ratio, *cells, f"FAILED: {problem}" if problem else str(len(found))])
    rows += [[name, *([""] * (len(header) - 2)), f"skipped: {why}"] for name, why in result["skipped"].items()]
    return rows


def _shown(found: Spread | None) -> str:
    return "" if found is None else str(found) if found.count > 1 else figure(found.median)


def _sweep(result: Mapping[str, Any]) -> Table:
    runs = result["contenders"]
    phases = dict.fromkeys(phase for found in runs.values() for one in found for phase in one["phases"])
    columns = [(phase, name) for phase in phases for name in ("settled", "in_flight")]
    titles = {"settled": "files/s", "in_flight": "in flight"}
    rows: Table = [["contender", *(f"{phase}: {titles[name]}" for phase, name in columns), "rounds"]]
    for name, found in runs.items():
        cells = [
            _shown(spread([value for one in found if (value := one["phases"].get(phase, {}).get(column)) is not None]))
            for phase, column in columns
        ]
        problem = next((one["problem"] for one in found if one["problem"]), "")
        rows.append([name, *cells, f"FAILED: {problem}" if problem else str(len(found))])
    return rows


def targets_of(result: Mapping[str, Any]) -> list[str]:
    """Return a line for each target: reached, missed, or not measured."""
    lines = []
    for target in result["targets"]:
        value = target["value"]
        unknown = "not measured" if value is None else "not judged"
        word = {True: "reached", False: "MISSED", None: unknown}[target["reached"]]
        shown = "" if value is None else f": {figure(value[0])} ({figure(value[1])}-{figure(value[2])})"
        lines.append(f"{word}{shown} - {target['what']}")
    return lines


def text(table: Table) -> str:
    """Return a table for the terminal."""
    widths = [max(len(row[at]) for row in table) for at in range(len(table[0]) - 1)]
    lines = []
    for first, *row, last in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, last]).rstrip())
    return "\n".join(lines)


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    rule = ["---", *["--:"] * (len(table[0]) - 2), "---"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
