"""The report of one or several runs: tables as Markdown, and a plot of the rates as SVG."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import link_plot
from bench.plot import as_svg
from bench.tables import headline, markdown, table_of, targets_of


def write_report(
    results: Sequence[Path], markdown_file: Path | None, svg_file: Path | None, link_file: Path | None
) -> None:
    """Write results files as Markdown (by default to standard output) and as plots."""
    runs = [json.loads(path.read_bytes()) for path in results]
    text = as_markdown(runs)
    if markdown_file is None:
        sys.stdout.write(text)
    else:
        markdown_file.write_text(text)
    if svg_file is not None:
        svg_file.write_text(as_svg(text))
    if link_file is not None:
        link_file.write_text(link_plot.as_svg(text))


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
