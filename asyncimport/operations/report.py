"""The report of a run, or of all that a journal holds: as a page for people, and as data."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport import __version__
from asyncimport.errors import UsageError
from asyncimport.journal import JournalReader
from asyncimport.journal.rows import Run
from asyncimport.model.activity import RunActivity
from asyncimport.model.record import record
from asyncimport.model.summary import Summary
from asyncimport.operations.result import Result, captured_in
from asyncimport.pacing.shutdown import Stop
from asyncimport.reporting.page import summary as parts
from asyncimport.reporting.page.content import BAD, ChartRun, Fact, Page, RunLine, SessionRow
from asyncimport.system.output_files import output_errors, replacing

# A watch has thousands of runs, most of which send nothing.
_MAX_CHART_RUNS = 20
_MAX_RUN_LINES = 50


@record(kw_only=True)
class ReportRequest:
    """The journal to report on, or what one `run` of it settled. With `out`, the page is written there."""

    journal: Path
    project: str | None = None
    """Only what went to this one of several projects of the journal."""
    run: int | None = None
    anonymous: bool = False
    """Replace labels by codes, and leave out paths, UIDs, dates of studies and texts that may name somebody."""
    out: Path | None = None


@dataclass(slots=True, kw_only=True)
class ReportResult(Result):
    """The report: the content of the page, its HTML, and what it was made of. `host` is None if it is anonymous."""

    page: Page | None = None
    html: str = ""
    host: str | None = None
    runs: Sequence[Run] = ()
    summary: Summary | None = None
    activity: Sequence[RunActivity] = field(default_factory=list)
    written: Path | None = None


async def report(request: ReportRequest, *, stop: Stop | None = None) -> ReportResult:
    """Make the report of a run, or of all that the journal holds, also while a run goes on, or after a kill."""
    result = ReportResult()
    with captured_in(result, stop or Stop()):
        return await anyio.to_thread.run_sync(make_report, request)
    return result


def make_report(request: ReportRequest) -> ReportResult:
    """Do the same, but block. Raises: JournalError, UsageError."""
    from asyncimport.reporting.page.render import render_page

    with JournalReader.open(request.journal, project=request.project, run=request.run) as reader:
        with reader.snapshot():
            about, runs, summary = reader.metadata(), reader.runs(), reader.summary()
            facts = reader.study_facts()
            chosen = runs if request.run is None else [run for run in runs if run.key == request.run]
            if request.run is not None and not chosen:
                raise _no_such_run(request.run, runs)
            activity = [reader.activity(run.key) for run in chosen]
        is_running = bool(chosen) and reader.is_running(chosen[-1])
    charts = [ChartRun(_seconds(run.started), one) for run, one in zip(chosen, activity, strict=True) if one.intervals]
    busy = sum(len(one.intervals) * one.seconds for one in activity)
    sent = sum(each.size for one in activity for _, each in one.intervals)
    last = chosen[-1] if chosen else None
    status, tone = _status(last, is_running=is_running)
    host, project = about["destination"], request.project or about.get("rule project", "")
    page = Page(
        title=f"Upload into {project}" if project else "Upload",
        status=status,
        tone=tone,
        facts=_facts(host, chosen, request.run),
        tiles=parts.tiles(summary, busy=busy, sent=sent),
        asked=[] if last is None else parts.asked(last.about),
        causes=parts.causes(summary),
        proof=parts.proof(summary),
        runs=[_run_line(run) for run in chosen[-_MAX_RUN_LINES:]],
        settings=[] if last is None else parts.settings(last.about),
        sessions=parts.session_rows(summary.sessions, facts),
        charts=charts[-_MAX_CHART_RUNS:],
        workers=parts.workers(activity),
        host=host,
        made=f"Made by asyncimport {__version__} on {_time_text(datetime.now(UTC).isoformat())}.",
    )
    if request.anonymous:
        page = anonymous(page)
    result = ReportResult(
        page=page,
        html=render_page(page),
        host=page.host or None,
        runs=chosen,
        summary=summary,
        activity=activity,
    )
    if request.out is not None:
        with output_errors("--out", request.out), replacing(request.out) as stream:
            stream.write(result.html.encode())
        result.written = request.out
    return result


def anonymous(page: Page) -> Page:
    """Return the page without names: labels become codes, by a key that nobody keeps."""
    key = secrets.token_bytes(32)

    def code(kind: str, label: str) -> str:
        # XNAT ignores case.
        digest = hmac.new(key, f"{kind}\0{label.lower()}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"{kind}-{digest.hexdigest()[:12]}"

    def hidden(row: SessionRow) -> SessionRow:
        return replace(
            row,
            project=code("project", row.project),
            subject=code("subject", f"{row.project}\0{row.subject}"),
            session=code("session", f"{row.project}\0{row.session}"),
            study_uid="",
            date="",
            reason="",
            uri="",
        )

    return replace(
        page,
        title="Upload",
        facts=[fact for fact in page.facts if fact.name != "Server"],
        asked=[],
        causes=[replace(cause, reason="", example="", people=()) for cause in page.causes],
        settings=[fact for fact in page.settings if fact.name not in {"System"}],
        sessions=[hidden(row) for row in page.sessions],
        workers=[replace(one, worker=code("worker", one.worker)) for one in page.workers],
        host="",
        is_anonymous=True,
    )


def _no_such_run(run: int, runs: Sequence[Run]) -> UsageError:
    known = "it has no run yet" if not runs else f"its runs are {runs[0].key} to {runs[-1].key}"
    return UsageError(f"the journal has no run {run}", hint=f"{known}; leave it out for all that the journal holds")


def _status(run: Run | None, *, is_running: bool | None) -> tuple[str, str]:
    if run is None:
        return "no run yet", BAD
    if run.ended is None:
        return parts.RUNNING if is_running else ("the last run was killed, or has not ended", BAD)
    return parts.status_of(run.exit_code or 0)


def _facts(host: str, runs: Sequence[Run], run: int | None) -> list[Fact]:
    facts = [Fact("Server", (host,))]
    if runs:
        facts.append(Fact("Run" if run is not None or len(runs) == 1 else "Runs", (_span(runs),)))
        facts.append(Fact("Started", (_time_text(runs[0].started),)))
    if runs and runs[-1].ended:
        facts.append(Fact("Ended", (_time_text(runs[-1].ended),)))
    return facts


def _span(runs: Sequence[Run]) -> str:
    return str(runs[0].key) if len(runs) == 1 else f"{runs[0].key} to {runs[-1].key}"


def _run_line(run: Run) -> RunLine:
    result = "no end: killed, or running" if run.ended is None else parts.status_of(run.exit_code or 0)[0]
    return RunLine(str(run.key), _time_text(run.started), _time_text(run.ended or ""), result)


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _time_text(time: str) -> str:
    """Return a time for people: 2026-01-31 12:00:00 UTC."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""
