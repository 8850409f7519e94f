"""Writes results to standard output, and all else to standard error. Texts from files cannot forge either."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from rich.console import Console
from rich.text import Text

from asyncimport.errors import AsyncimportError
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.files import Session
from asyncimport.model.summary import (
    AttachmentCounts,
    Files,
    Orphan,
    SessionReport,
    SubjectCounts,
    Summary,
)
from asyncimport.model.texts import counted, plain
from asyncimport.reporting.causes import Cause, summary_causes
from asyncimport.reporting.entries import session_names
from asyncimport.reporting.progress import human_bytes, human_seconds
from asyncimport.routing.problems import Severity

if TYPE_CHECKING:
    from asyncimport.cli.live_area import LiveArea

Json = dict[str, object]
_SHOWN = 20


def consoles(*, no_color: bool) -> tuple[Console, Console]:
    """Return the consoles of standard output and standard error."""
    # Rich's highlighter would colour digits at random; its markup would read "[...]" in paths.
    make = partial(Console, no_color=no_color or None, highlight=False, markup=False, soft_wrap=True)
    return make(), make(file=cast("IO[str]", StandardError()))


class StandardError:
    """Standard error without errors: a run does not end because its progress cannot be written.

    While it has an `area` of live lines, texts appear above that.
    """

    area: "LiveArea | None" = None

    def write(self, text: str) -> int:
        """Write, if possible."""
        if (area := self.area) is None:
            self.write_through(text)
        else:
            area.put(text)
        return len(text)

    def write_through(self, text: str) -> None:
        """Write to standard error itself, whatever it shows."""
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def flush(self) -> None:
        """Flush, if possible."""
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(sys.stderr, name)


def show_lines(console: Console, lines: Sequence[str], *, is_whole: bool = False) -> None:
    """Write lines with an indent: the first 20, and how many more there are, or all of them."""
    shown = lines if is_whole else lines[:_SHOWN]
    for line in shown:
        console.print(Text(f"  {line}"))
    if len(lines) > len(shown):
        console.print(Text(f"  and {len(lines) - len(shown):,} more: see -o json"))


def show_error(console: Console, error: AsyncimportError) -> None:
    """Write an error in one line, and its hint in another."""
    console.print(Text(f"error: {plain(str(error))}", style="red"))
    if error.hint:
        console.print(Text(f"hint: {plain(error.hint)}"))


def error_json(error: AsyncimportError | None) -> dict[str, object] | None:
    """Return what ended a command before its time, for JSON."""
    return None if error is None else {"message": str(error), "hint": error.hint or None}


def head_json(command: str | None, host: str | None, code: int | None, error: AsyncimportError | None) -> Json:
    """Return what the JSON of every command has: `reporting/schema/results.json` describes it."""
    return {"schema": 1, "command": command, "host": host, "exit_code": code, "error": error_json(error)}


def failure_json(command: str | None, error: AsyncimportError, code: int, host: str | None = None) -> Json:
    """Return the JSON of a command that failed before it had a result."""
    if command == "upload":
        return summary_json(None, run=None, host=host, seconds=0.0, code=code, error=error)
    return head_json(command, host, code, error)


def summary_json(
    summary: Summary | None,
    *,
    run: str | None,
    host: str | None,
    seconds: float,
    code: int,
    error: AsyncimportError | None = None,
    orphans: Sequence[Orphan] | None = None,
    notices: Sequence[str] = (),
    command: str = "upload",
) -> Json:
    """Return the JSON summary of `upload`; without a summary, that of a run that did not start."""
    if summary is None:
        summary = Summary(Files(), 0, 0, (), ())
    files = summary.files
    head = head_json(command, host, code, error)
    return {
        **{name: head.pop(name) for name in ("schema", "command")},
        "run": run,
        "host": head.pop("host"),
        "seconds": round(seconds, 3),
        **head,
        "files": _counts(files),
        "bytes": {"found": summary.bytes_found, "stored": summary.bytes_stored, "sent": summary.bytes_sent},
        "zips": summary.zips,
        "attachments": _counts(summary.attachments),
        "subjects": _counts(summary.subjects),
        "sessions": {
            "total": len(summary.sessions),
            **{state: summary.count(state) for state in ("archived", "prearchive", "held", "open")},
        },
        "details": [_detail(report) for report in summary.sessions],
        "problems": [
            {"kind": one.kind, "reason": one.reason, "files": one.files, "example": plain(one.example)}
            for one in summary.problems
        ],
        "notices": [plain(text) for text in notices],
        "strays": None if orphans is None else [orphan_json(orphan) for orphan in orphans],
    }


def _counts(counts: Files | AttachmentCounts | SubjectCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in ("found", *counts.__dataclass_fields__)}


def session_name(session: Session) -> str:
    """Return the labels of a session, for people."""
    return f"{session.project} / {session.subject} / {session.label}"


def orphan_json(orphan: Orphan) -> dict[str, object]:
    """Return an orphan for JSON."""
    where = {"uri": orphan.uri, "status": orphan.status, "created": orphan.created}
    return {**session_names(orphan.session), **where}


def show_orphans(console: Console, orphans: Sequence[Orphan]) -> None:
    """Write what interrupted uploads left in the prearchive."""
    if orphans:
        title = f"orphans in the prearchive, left by interrupted uploads: {len(orphans):,}"
        console.print(Text(f"{title} (see `asyncimport verify --orphans`)", style="bold"))
        show_lines(console, [f"orphan: {session_name(one.session)}: {plain(one.uri)}" for one in orphans])


def _detail(report: SessionReport) -> dict[str, object]:
    return {
        **session_names(report.session),
        "files": report.files,
        "state": report.state,
        "uri": report.uri,
        "verified": report.verified,
        "reason": report.reason,
        "as_of": time_text(report.as_of),
    }


def time_text(seconds: float | None) -> str | None:
    """Return a time in UTC, by ISO 8601."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def write_json(value: Mapping[str, object]) -> None:
    """Write one JSON object to standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


_WORDS = {
    "stored": "stored",
    "already_stored": "stored by an earlier run",
    "duplicate": "the same instance again",
    "skipped": "skipped",
    "refused": "refused by XNAT",
    "already_refused": "dropped by the site in an earlier run",
    "failed": "failed",
    "left": "left for the next run",
}


_COMPARED = {"uids": "verified", "count": "verified by number only", "present": "by UIDs that were there before"}


def how_compared(verified: Iterable[str | None]) -> list[str]:
    """Say how many sessions were compared in each way: see `Archived`."""
    counts = Counter(verified)
    return [f"{count:,} of them {words}" for how, words in _COMPARED.items() if (count := counts[how])]


def show_summary(console: Console, summary: Summary, *, seconds: float | None) -> None:
    """Write what became of files and sessions, and every reason why something did not arrive."""
    took = "" if seconds is None else f" in {human_seconds(seconds)}"
    files = summary.files
    found = f"{counted(files.found, 'DICOM file')}, {human_bytes(summary.bytes_found)}{took}"
    console.print(Text(found, style="bold"))
    listed = [(f"{count:,}", words) for name, words in _WORDS.items() if (count := getattr(files, name))]
    width = max((len(count) for count, _ in listed), default=0)
    for count, words in listed:
        console.print(Text(f"  {count:>{width}}    {words}"))
    if files.unreadable or files.not_dicom:
        others = [f"{files.unreadable:,} unreadable"] * bool(files.unreadable)
        others += [f"{files.not_dicom:,} not DICOM"] * bool(files.not_dicom)
        console.print(Text(f"apart from these: {', '.join(others)}", style="bold"))
    if summary.zips:
        sizes = f"{human_bytes(summary.bytes_stored)} stored, {human_bytes(summary.bytes_sent)} sent"
        console.print(Text(f"{sizes}: {counted(summary.zips, 'file')} went as zips"))
    if summary.attachments.found:
        of_attachments = {"left": "wait for their session", "already_refused": "refused by XNAT in an earlier run"}
        _show_counts(console, "attachment", summary.attachments, of_attachments)
    if summary.subjects.found:
        of_subjects = {"stored": "updated", "already_stored": "updated by an earlier run", "refused": "refused"}
        _show_counts(console, "subject", summary.subjects, of_subjects)
    states = {state: summary.count(state) for state in ("archived", "prearchive", "held", "open")}
    counts = [f"{count:,} {state}" for state, count in states.items() if count]
    counts[1:1] = how_compared(report.verified for report in summary.sessions if not report.earlier)
    sessions = counted(len(summary.sessions), "session")
    console.print(Text(f"{sessions}: {', '.join(counts) or 'none'}", style="bold"))
    if days := sorted(_day(report) for report in summary.sessions if report.earlier and report.state == "archived"):
        when = f"on {days[0]}" if days[0] == days[-1] else f"from {days[0]} to {days[-1]}"
        they = "it is" if len(days) == 1 else "they are"
        were = "was" if len(days) == 1 else "were"
        again = f"`asyncimport verify` checks that {they} still there"
        console.print(Text(f"  {len(days):,} of them {were} archived {when}; {again}"))
    show_causes(console, summary_causes(summary))


def show_causes(console: Console, causes: Sequence[Cause]) -> None:
    """Write each cause with what it hit, an example, and what to do."""
    styles = {Severity.ERROR: "red", Severity.WARNING: "yellow"}
    for cause in causes:
        name = ", ".join(filter(None, (cause.kind, cause.hit)))
        console.print(Text(f"  {cause.severity} ", style=styles.get(cause.severity, "")), end="")
        console.print(Text(": ".join(filter(None, (name, plain(cause.reason))))))
        if cause.example:
            many = any(number > 1 for number, _ in cause.counts)
            console.print(Text(f"      {'such as ' * many}{plain(cause.example)}", style="dim"))
        if cause.advice:
            console.print(Text(f"      {plain(cause.advice)}"))
        if len(cause.people) > 1:
            show_lines(console, [f"    {plain(pair.text)}" for pair in cause.people])
        if cause.people:
            from asyncimport.cli.people import show_people

            show_people(console, cause.people)


def _day(report: SessionReport) -> str:
    return datetime.fromtimestamp(report.as_of or 0.0).astimezone().date().isoformat()


def _show_counts(
    console: Console, what: str, counts: AttachmentCounts | SubjectCounts, words: Mapping[str, str]
) -> None:
    listed = ", ".join(
        f"{count:,} {words.get(name) or _WORDS[name]}"
        for name in counts.__dataclass_fields__
        if (count := getattr(counts, name))
    )
    console.print(Text(f"{counted(counts.found, what)}: {listed}", style="bold"))


def show_issues(out: Console, issues: Sequence[TableIssue]) -> None:
    """Write what is wrong in a table, by line and column."""
    show_lines(out, [_issue_line(issue) for issue in issues])


def _issue_line(issue: TableIssue) -> str:
    column = f", {plain(issue.column)}" if issue.column else ""
    place = f"line {issue.line}{column}: " if issue.line else ""
    hint = f" ({issue.hint})" if issue.hint else ""
    return f"{'warning' if issue.is_warning else 'not sent'}: {place}{issue.text}{hint}"


def issues_json(issues: Sequence[TableIssue]) -> list[dict[str, object]]:
    """Return what is wrong in a table, for JSON."""
    return [
        {
            "line": issue.line or None,
            "column": plain(issue.column) or None,
            "problem": issue.text,
            "hint": issue.hint or None,
            "warning": issue.is_warning,
        }
        for issue in issues
    ]


def show_other_journals(console: Console, project: str | None, journals: Sequence[Path]) -> None:
    """Report other journals with sessions of a project."""
    for one in journals:
        console.print(Text(f"project {project} also has sessions in another journal, which is not read: {one}"))
        console.print(Text(f"hint: run the same command with --journal {one}"))
