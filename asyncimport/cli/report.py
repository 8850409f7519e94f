"""`asyncimport report`: a page of what was uploaded, to hand on. It can be made during an upload."""

import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from asyncimport.cli.conclusion import conclude
from asyncimport.cli.options import Place, Screen
from asyncimport.cli.output import show_other_journals, summary_json
from asyncimport.cli.parameters import command
from asyncimport.cli.status import write_csv
from asyncimport.errors import UsageError
from asyncimport.model.option import setting
from asyncimport.model.options import JournalOptions
from asyncimport.operations.journals import select_journal
from asyncimport.reporting.json_lines import worker_json

if TYPE_CHECKING:
    from asyncimport.model.activity import RunActivity
    from asyncimport.operations.report import ReportResult


_COLUMNS = (
    *("project", "subject", "session", "study_uid", "date", "modalities", "scans", "files", "size", "state"),
    *("verified", "reason", "uri"),
)


class ReportForm(StrEnum):
    """How a report is written."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True)
class ReportScreen(Screen):
    """Where and how a report is written."""

    out: Path | None = setting("--out", metavar="FILE", help="File for the page; it replaces one that is there.")
    anonymous: bool = setting(
        "--anonymous",
        default=False,
        help="Replace labels by codes; leave out paths, UIDs and texts that may name people.",
    )
    output: ReportForm = setting(
        "--output",
        "-o",
        default=ReportForm.HTML,
        help="What to write to standard output: the page (if there is no --out), JSON, or CSV with a row a session.",
    )

    @property
    def as_json(self) -> bool:
        """Whether the report is written as JSON."""
        return self.output is ReportForm.JSON


@command()
def report(
    run: Annotated[
        int | None, typer.Argument(metavar="[RUN]", help="A run's number: only what it settled; else all.")
    ] = None,
    *,
    place: Place,
    journal: JournalOptions,
    screen: ReportScreen,
) -> None:
    """Make a page of what was uploaded, how fast, and what is wrong: one file that needs no network."""
    from asyncimport.operations.report import ReportRequest, make_report

    if screen.output is ReportForm.HTML and screen.out is None and sys.stdout.isatty():
        raise UsageError("a page is not for a terminal", hint="name a file for it: --out report.html")
    path, project, others = select_journal(place.host, place.project, journal.state_dir, journal.journal)
    show_other_journals(screen.consoles[1], place.project, others)
    request = ReportRequest(journal=path, project=project, run=run, anonymous=screen.anonymous, out=screen.out)
    conclude(screen, make_report(request), as_json=_report_json, show=partial(_write, screen))


def _write(screen: ReportScreen, _: Console, result: "ReportResult") -> None:
    assert result.page is not None  # noqa: S101 - it raises otherwise
    if screen.output is ReportForm.CSV:
        headings = ["bytes" if name == "size" else name for name in _COLUMNS]
        write_csv(headings, ([_cell(name, getattr(row, name)) for name in _COLUMNS] for row in result.page.sessions))
    elif screen.out is None:
        sys.stdout.buffer.write(result.html.encode())
        sys.stdout.buffer.flush()


def _cell(column: str, value: object) -> object:
    """Return a value for `write_csv`: a date is none of the texts that spreadsheets would change."""
    if column == "date":
        with suppress(ValueError):
            return date.fromisoformat(str(value))
    return value


def _report_json(result: "ReportResult") -> dict[str, object]:
    page, runs = result.page, result.runs
    assert page is not None  # noqa: S101 - it raises otherwise
    last = str(runs[-1].key) if runs else None
    found = summary_json(result.summary, run=last, host=result.host, seconds=0.0, code=0, command="report")
    found["details"] = [
        {
            "project": row.project,
            "subject": row.subject,
            "session": row.session,
            "study_uid": row.study_uid or None,
            "date": row.date or None,
            "modalities": row.modalities.split(", ") if row.modalities else [],
            "scans": row.scans,
            "files": row.files,
            "bytes": row.size,
            "state": row.state,
            "verified": row.verified or None,
            "reason": row.reason or None,
            "uri": row.uri or None,
        }
        for row in page.sessions
    ]
    found["problems"] = [
        {
            "kind": one.kind,
            "reason": one.reason,
            "files": one.counts[0][0],
            "example": one.example,
            "advice": one.advice,
        }
        for one in page.causes
    ]
    return {
        **found,
        "runs": [
            {
                "run": str(run.key),
                "started": run.started,
                "ended": run.ended,
                "exit_code": run.exit_code,
                "about": {} if page.is_anonymous else run.about,
            }
            for run in runs
        ],
        "activity": [
            {"run": str(one.run), "interval_seconds": one.seconds, "intervals": _intervals(one)}
            for one in result.activity
            if one.intervals
        ],
        "workers": [*map(worker_json, page.workers)],
        "written": None if result.written is None else str(result.written),
    }


def _intervals(of: "RunActivity") -> list[dict[str, object]]:
    return [{"second": second, **asdict(one)} for second, one in of.intervals]
