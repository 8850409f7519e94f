"""`asyncimport status`: what the journal holds. It reads beside a run and never disturbs it."""

import csv
import enum
import io
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncimport.cli.options import Host, JournalFile, NoColor, Profile, Project, StateDir
from asyncimport.cli.output import consoles, show_error, show_other_journals, show_summary, summary_json, write_json
from asyncimport.errors import AsyncimportError
from asyncimport.journal.attachment_reports import AttachmentRow
from asyncimport.journal.rows import DeliveryRow, InstanceRow, Remaining, Run
from asyncimport.model.texts import plain
from asyncimport.operations.journals import select_journal
from asyncimport.operations.status import SessionFiles, StatusRequest, StatusResult, read_status
from asyncimport.reporting.progress import human_bytes
from asyncimport.routing.plan_file import escape_cell


class _Form(enum.StrEnum):
    """How the journal is written to standard output."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def status(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="A session label: show its files.")] = None,
    host: Host = None,
    profile: Profile = None,  # noqa: ARG001 - what it says comes as the other options' values
    project: Project = None,
    output: Annotated[
        _Form,
        typer.Option(
            "--output",
            "-o",
            envvar="ASYNCIMPORT_OUTPUT",
            help="How to write it to standard output; csv has a row for each session, or for each file of one.",
        ),
    ] = _Form.TABLE,
    state_dir: StateDir = None,
    journal: JournalFile = None,
    no_color: NoColor = False,
) -> None:
    """Show what was uploaded, what is left, and why."""
    out, err = consoles(no_color=no_color)
    try:
        path, part, others = select_journal(host, project, state_dir, journal)
        show_other_journals(err, project, others)
        result = read_status(StatusRequest(journal=path, project=part, session=session))
    except AsyncimportError as error:
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None
    if session is not None and result.session is not None:
        _session(out, session, result.session, output)
    else:
        _journal(out, result, output, others)


def _journal(out: Console, result: StatusResult, form: _Form, others: Sequence[Path]) -> None:
    about, runs, summary, left, at_work = result.about, result.runs, result.summary, result.remaining, result.at_work
    assert summary is not None and left is not None  # noqa: S101, PT018 - of the journal as a whole
    last = runs[-1] if runs else None
    if form is _Form.CSV:
        names = ("project", "subject", "session", "study_uid", "state", "files", "bytes", "uri", "verified", "reason")
        rows = (
            (
                report.session.project,
                report.session.subject,
                report.session.label,
                report.session.study_uid,
                report.state,
                report.files,
                report.size,
                report.uri,
                report.verified,
                report.reason,
            )
            for report in summary.sessions
        )
        _write_csv(names, rows)
        return
    if form is _Form.JSON:
        value = summary_json(
            summary,
            run=str(last.key) if last else None,
            host=about["destination"],
            seconds=0.0,
            code=0,
        )
        value["rules"] = {name.removeprefix("rule "): rule for name, rule in about.items() if name.startswith("rule ")}
        value["runs"] = [
            {"run": str(run.key), "started": run.started, "ended": run.ended, "exit_code": run.exit_code}
            for run in runs
        ]
        value["at_work"] = at_work
        value["other_journals"] = [plain(str(one)) for one in others]
        value["remaining"] = {
            "files": left.files,
            "bytes": left.size,
            "seconds": None if left.seconds is None else round(left.seconds),
        }
        write_json(value)
        return
    out.print(Text(f"{about['destination']}, project {about.get('rule project')}", style="bold"))
    for run in runs[-5:]:
        out.print(Text(f"  run {run.key}: started {run.started}, {_end(run, at_work if run is last else False)}"))
    show_summary(out, summary, seconds=None)
    if left.files:
        out.print(Text(_remaining(left), style="bold"))


def _end(run: Run, at_work: bool | None) -> str:
    if run.ended:
        return f"ended {run.ended} with exit code {run.exit_code}"
    return {True: "is at work", False: "was killed", None: "has not ended, or was killed"}[at_work]


def _remaining(left: Remaining) -> str:
    text = f"left to send: {left.files:,} files, {human_bytes(left.size)}"
    return text if left.seconds is None else f"{text}; {_about(left.seconds)} at the rate of the last run"


def _about(seconds: float) -> str:
    """Write an estimate as it deserves."""
    for name, length, most in (("min", 60, 90), ("h", 3600, 36)):
        if seconds < 60:
            return "less than a minute"
        if round(seconds / length) < most:
            return f"about {round(seconds / length)} {name}"
    return f"about {round(seconds / 86_400)} days"


def _session(out: Console, label: str, found: SessionFiles, form: _Form) -> None:
    rows, attachments, deliveries = found.instances, found.attachments, found.deliveries
    files = [_file_json(row) for row in rows]
    if form is _Form.CSV:
        names = ("path", "bytes", "sop_uid", "state", "attempts", "time", "reason")
        _write_csv(names, ([file[name] for name in names] for file in files))
    elif form is _Form.JSON:
        write_json(
            {
                "session": label,
                "files": files,
                "attachments": [_attachment_json(one) for one in attachments],
                "deliveries": [_delivery_json(one) for one in deliveries],
            }
        )
    else:
        for one in deliveries:
            out.print(Text(_delivery_line(one)))
        _show_files(out, rows)
        if attachments:
            _show_attachments(out, attachments)


def _file_json(row: InstanceRow) -> dict[str, object]:
    return {
        "path": plain(row.file.path),
        "bytes": row.file.size,
        "sop_uid": row.sop_uid or None,
        "state": row.state.lower(),
        "reason": row.reason,
        "attempts": row.attempts,
        "time": _time(row.settled_at),
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
        "time": _time(row.settled_at),
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
        "time": _time(one.closed_at),
    }


def _delivery_line(one: DeliveryRow) -> str:
    places = [place for place in (one.uri and f"/data{one.uri}", one.archive_uri) if place]
    text = f"delivery {one.number}: {one.state.lower()}, {one.files:,} files"
    if places:
        text += f", {' -> '.join(map(plain, places))}"
    if one.verified:
        text += f", verified by {one.verified}"
    return f"{text}: {plain(one.reason)}" if one.reason else text


def _show_files(out: Console, rows: Sequence[InstanceRow]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("state", "size", "attempts", "time", "path", "reason"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.state.lower()),
            human_bytes(row.file.size),
            "" if row.attempts is None else str(row.attempts),
            _time(row.settled_at) or "",
            Text(plain(row.file.path)),
            Text(plain(row.reason or "")),
        )
    out.print(table)


def _show_attachments(out: Console, rows: Sequence[AttachmentRow]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("state", "size", "time", "resource", "attachment", "reason"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(
            Text(row.state.lower()),
            human_bytes(row.file.size),
            _time(row.settled_at) or "",
            Text(row.resource),
            Text(plain(row.file.path)),
            Text(plain(row.reason or "")),
        )
    out.print(table)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _write_csv(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for spreadsheets: UTF-8, whatever the terminal speaks, and nothing that they would carry out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    sys.stdout.buffer.write(text.getvalue().encode())
    sys.stdout.buffer.flush()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return escape_cell(plain(value))
