"""`asyncimport status`: show what the journal holds. It can run during an upload."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Place, Screen
from asyncimport.cli.output import show_other_journals, show_summary, summary_json, time_text
from asyncimport.cli.parameters import command
from asyncimport.cli.rows import show_rows
from asyncimport.journal.reports import AttachmentRow
from asyncimport.journal.rows import DeliveryRow, InstanceRow, Remaining, Run
from asyncimport.model.csv_table import escape_cell
from asyncimport.model.option import setting
from asyncimport.model.options import JournalOptions
from asyncimport.model.texts import counted, plain
from asyncimport.operations.journals import select_journal
from asyncimport.operations.status import SessionFiles, StatusRequest, StatusResult, read_status
from asyncimport.reporting.entries import session_names
from asyncimport.reporting.json_lines import worker_json
from asyncimport.reporting.progress import human_bytes
from asyncimport.reporting.progress_text import worker_lines


class Form(StrEnum):
    """How the journal is written to standard output."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True)
class StatusScreen(Screen):
    """How the journal is written."""

    output: Form = setting(
        "--output",
        "-o",
        default=Form.TABLE,
        help="How to write it to standard output; csv has a row for each session, or for each file of one.",
    )

    @property
    def as_json(self) -> bool:
        """Whether the journal is written as JSON."""
        return self.output is Form.JSON


@command()
def status(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="A session label: show its files.")] = None,
    *,
    place: Place,
    journal: JournalOptions,
    screen: StatusScreen,
) -> None:
    """Show what was uploaded, what is left, and why."""
    path, project, others = select_journal(place.host, place.project, journal.state_dir, journal.journal)
    show_other_journals(screen.consoles[1], place.project, others)
    result = read_status(StatusRequest(journal=path, project=project, session=session))
    is_csv = screen.output is Form.CSV
    if result.session is None:
        show = _write_journal_csv if is_csv else _show_journal
        conclude(screen, result, as_json=partial(_journal_json, others), show=show)
    show_session = partial(_write_session_csv if is_csv else _show_session, found=result.session)
    conclude(screen, result, as_json=partial(_session_json, session, result.session), show=show_session)


def _journal_json(others: Sequence[Path], result: StatusResult) -> dict[str, object]:
    about, runs, left = result.about, result.runs, result.remaining
    assert left is not None  # noqa: S101 - of the journal as a whole
    last = str(runs[-1].key) if runs else None
    return {
        **summary_json(result.summary, run=last, host=about["destination"], seconds=0.0, code=0, command="status"),
        "rules": {name.removeprefix("rule "): rule for name, rule in about.items() if name.startswith("rule ")},
        "runs": [
            {"run": str(run.key), "started": run.started, "ended": run.ended, "exit_code": run.exit_code}
            for run in runs
        ],
        "at_work": result.at_work,
        "workers": [*map(worker_json, result.workers)],
        "other_journals": [plain(str(one)) for one in others],
        "remaining": {
            "files": left.files,
            "bytes": left.size,
            "seconds": None if left.seconds is None else round(left.seconds),
        },
    }


def _write_journal_csv(_: Console, result: StatusResult) -> None:
    assert result.summary is not None  # noqa: S101 - of the journal as a whole
    names = ("state", "files", "size", "uri", "verified", "reason")
    rows = (
        [*session_names(one.session).values(), *(getattr(one, name) for name in names)]
        for one in result.summary.sessions
    )
    headings = ("project", "subject", "session", "study_uid", "state", "files", "bytes", "uri", "verified", "reason")
    write_csv(headings, rows)


def _show_journal(out: Console, result: StatusResult) -> None:
    about, runs, summary, left = result.about, result.runs, result.summary, result.remaining
    assert summary is not None and left is not None  # noqa: S101, PT018 - of the journal as a whole
    out.print(Text(f"{about['destination']}, project {about.get('rule project')}", style="bold"))
    for run in runs[-5:]:
        is_at_work = result.at_work if run is runs[-1] else False
        out.print(Text(f"  run {run.key}: started {run.started}, {_end(run, is_at_work)}"))
    for line in worker_lines(result.workers):
        out.print(Text(f"    {line}"))
    show_summary(out, summary, seconds=None)
    if left.files:
        out.print(Text(_remaining(left), style="bold"))


def _end(run: Run, at_work: bool | None) -> str:
    if run.ended:
        return f"ended {run.ended} with exit code {run.exit_code}"
    return {True: "is at work", False: "was killed", None: "has not ended, or was killed"}[at_work]


def _remaining(left: Remaining) -> str:
    text = f"left to send: {counted(left.files, 'file')}, {human_bytes(left.size)}"
    return text if left.seconds is None else f"{text}; {_about(left.seconds)} at the rate of the last run"


def _about(seconds: float) -> str:
    """Return an estimate, rounded to what it is worth."""
    for name, length, most in (("min", 60, 90), ("h", 3600, 36)):
        if seconds < 60:
            return "less than a minute"
        if round(seconds / length) < most:
            return f"about {round(seconds / length)} {name}"
    return f"about {round(seconds / 86_400)} days"


def _session_json(label: str | None, found: SessionFiles, result: StatusResult) -> dict[str, object]:
    return {
        **outcome_json("status", result, result.about.get("destination")),
        "session": label,
        "files": [_file_json(row) for row in found.instances],
        "attachments": [_attachment_json(one) for one in found.attachments],
        "deliveries": [_delivery_json(one) for one in found.deliveries],
    }


def _write_session_csv(_out: Console, _result: StatusResult, *, found: SessionFiles) -> None:
    names = ("path", "bytes", "sop_uid", "state", "attempts", "time", "reason")
    files = map(_file_json, found.instances)
    write_csv(names, ([file[name] for name in names] for file in files))


def _show_session(out: Console, _: StatusResult, *, found: SessionFiles) -> None:
    for one in found.deliveries:
        out.print(Text(_delivery_line(one)))
    _show_files(out, found.instances)
    if found.attachments:
        _show_attachments(out, found.attachments)


def _file_json(row: InstanceRow) -> dict[str, object]:
    return {
        "path": plain(row.file.path),
        "bytes": row.file.size,
        "sop_uid": row.sop_uid or None,
        "state": row.state.lower(),
        "reason": row.reason,
        "attempts": row.attempts,
        "time": time_text(row.settled_at),
    }


def _attachment_json(row: AttachmentRow) -> dict[str, object]:
    return {
        "path": plain(row.file.path),
        "bytes": row.file.size,
        "resource": row.resource,
        "name": row.name,
        "md5": row.md5,
        "state": row.state.lower(),
        "reason": row.reason,
        "time": time_text(row.settled_at),
    }


def _delivery_json(one: DeliveryRow) -> dict[str, object]:
    return {
        "project": one.session.project,
        "study_uid": one.session.study_uid,
        "delivery": one.number,
        "state": one.state.lower(),
        "files": one.files,
        "prearchive_uri": one.uri and f"/data{one.uri}",
        "uri": one.archive_uri,
        "verified": one.verified,
        "reason": one.reason,
        "time": time_text(one.closed_at),
    }


def _delivery_line(one: DeliveryRow) -> str:
    places = [place for place in (one.uri and f"/data{one.uri}", one.archive_uri) if place]
    text = f"delivery {one.number}: {one.state.lower()}, {counted(one.files, 'file')}"
    if places:
        text += f", {' -> '.join(map(plain, places))}"
    if one.verified:
        text += f", verified by {one.verified}"
    return f"{text}: {plain(one.reason)}" if one.reason else text


def _show_files(out: Console, rows: Sequence[InstanceRow]) -> None:
    cells = [
        (
            row.state.lower(),
            human_bytes(row.file.size),
            "" if row.attempts is None else str(row.attempts),
            time_text(row.settled_at) or "",
            row.sop_uid,
            plain(row.file.path),
            plain(row.reason or ""),
        )
        for row in rows
    ]
    show_rows(out, cells, headings=("state", "size", "attempts", "time", "instance", "path", "reason"), long=3)


def _show_attachments(out: Console, rows: Sequence[AttachmentRow]) -> None:
    cells = [
        (
            row.state.lower(),
            human_bytes(row.file.size),
            time_text(row.settled_at) or "",
            row.resource,
            plain(row.file.path),
            plain(row.reason or ""),
        )
        for row in rows
    ]
    show_rows(out, cells, headings=("state", "size", "time", "resource", "attachment", "reason"), long=2)


def write_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for spreadsheets: always UTF-8, without cells that they would run as formulas."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    sys.stdout.buffer.write(text.getvalue().encode())
    sys.stdout.buffer.flush()


def _cell(value: object) -> object:
    return escape_cell(plain(value)) if isinstance(value, str) else value
