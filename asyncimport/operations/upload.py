"""One run, whole: a request to journal to login to pipeline to summary."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport import __version__
from asyncimport.demographics import Demographics
from asyncimport.errors import (
    FatalError,
    RefusedError,
    TransientError,
    UsageError,
)
from asyncimport.journal import Journal, JournalReader, LockWait
from asyncimport.model import Algorithm, Digest, Orphan, Summary
from asyncimport.model.events import AttachmentsStarted, Event, Notice, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.model.texts import plain
from asyncimport.operations.comparison import orphans_of
from asyncimport.operations.decision import Decision, decide, no_dicom
from asyncimport.operations.observer import Observer
from asyncimport.operations.plan import Plan
from asyncimport.operations.result import ended_in
from asyncimport.operations.upload_request import UploadRequest, UploadResult
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import LOCK_SECONDS, Stop, StoppedError
from asyncimport.pipeline.attachments import upload_attachments
from asyncimport.pipeline.demographics import DemographicsRequest, describe_subjects, unmatched
from asyncimport.pipeline.images import upload_images
from asyncimport.reporting.entries import RunEnded, RunStarted
from asyncimport.reporting.receipts import check_receipts, write_receipts
from asyncimport.routing import FilteredRoutes, resource_of
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.source.folder import FileSource
from asyncimport.system.threads import opened_in_thread
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.resources import Resources
from asyncimport.xnat.subjects import Subjects

# The keys of `options` in the event that begins a run, and the fields of `Options`. The keys are a contract.
_EVENT_OPTIONS = {
    "workers": "max_workers",
    "adaptive": "is_adaptive",
    "max_rate": "max_rate",
    "finalizers": "finalizers",
    "enclosers": "attachment_workers",
    "max_open_sessions": "max_open_sessions",
    "archive": "archive",
    "scan_first": "check_first",
    "max_outage": "outage_timeout",
    "quiet_period": "settle_seconds",
    "partial": "archive_partial",
    "send_truncated": "send_truncated",
    "resend_changed": "resend_changed",
    "retry_held": "retry_held",
    "retry_refused": "retry_refused",
    "chooses": "is_filtered",
}
# Subjects of a table that are named, of those that have no session.
_NAMED = 10


async def upload(request: UploadRequest, *, report: Observer | None = None, stop: Stop | None = None) -> UploadResult:
    """Scan, send, build, archive, verify; attach files and set demographics, where that is asked for.

    A source without any DICOM is a mistake.
    """
    observer = report or Observer()
    result = UploadResult(issues=request.issues)
    async with uploads(request, observer, stop or Stop()) as runs:
        with ended_in(result, runs.stop):
            await runs.run(result)
    observer.note(RunEnded(result.run, result.exit_code, result.error, result.summary))
    return result


@asynccontextmanager
async def uploads(request: UploadRequest, observer: Observer, stop: Stop) -> "AsyncIterator[Uploads]":
    """Give runs that a stop, or the end of their longest time, ends; the login that they need is given back."""

    def end() -> None:
        if not stop.requested:
            observer.tell("the longest time is over: what is in flight may finish (30 s at most)")
            stop.request()

    with _after(request.max_duration_seconds, end):
        async with AsyncExitStack() as stack:
            yield Uploads(request, observer, stop, stack)


def _beginning(task: UploadRequest, run: str, rules: Mapping[str, str]) -> RunStarted:
    """Say what is run, and how; no secret is among it."""
    settings = {key: getattr(task.options, name) for key, name in _EVENT_OPTIONS.items()}
    settings |= {
        "receipts": task.receipts is not None,
        "overwrite": task.overwrite,
        "reroute": task.relabel,
        "adopt_rows": task.adopt_rows,
    }
    names = {"sources": [plain(str(path)) for path in task.sources], **rules}
    return RunStarted(run, __version__, task.server.host, task.project, settings, names)


def open_journal(
    task: UploadRequest, decision: Decision, path: Path, lock_wait: LockWait, *, is_temporary: bool = False
) -> Journal:
    """Open the journal of a run, or a copy of it that `is_temporary`. It blocks. Raises: JournalError, UsageError."""
    return Journal(
        path,
        destination=task.server.host,
        rules=decision.rules,
        relabel=task.relabel,
        allow_mixed_patients=task.allow_mixed_patients,
        is_planned=decision.is_strict,
        lock_wait=lock_wait,
        is_temporary=is_temporary,
    )


def options_of(task: UploadRequest, decision: Decision, journal: Journal) -> Options:
    """Return the options of the line, and let what is not asked for, or not yet, wait in the journal. It blocks."""
    if decision.plan is not None:
        unasked = () if task.study_filter.is_everything else decision.plan.left_out
        journal.scan.postpone(decision.plan.waiting, unasked)
    # Files may wait from an earlier run that a plan, edited since, does not ask for any more.
    leaves_out = isinstance(task.routes, PlannedRoutes) and decision.plan is not None and bool(decision.plan.left_out)
    return replace(
        task.options,
        check_first=task.checks_first(decision.routes),
        receipts=task.receipts is not None,
        is_filtered=decision.study_filter.is_of_parts or decision.study_filter.studies is not None or leaves_out,
    )


class Uploads:
    """Runs one after the other, under one login. Make it with `uploads`. What they tell they tell once."""

    def __init__(self, task: UploadRequest, observer: Observer, stop: Stop, stack: AsyncExitStack) -> None:
        self.stop = stop
        self._task = task
        self._observer = observer
        self._stack = stack
        self._client: Client | None = None
        self._first: int | None = None
        self._report: Callable[[Event], None] = lambda _: None
        self._monitor = OutageMonitor(
            task.options.outage_timeout, report=lambda reason: self._report(ServerUnavailable(reason))
        )
        self._told: set[str] = set()

    async def run(self, outcome: UploadResult, *, is_watch: bool = False) -> None:
        """Run once: journal, login, line, summary.

        In a watch a source without DICOM is fine, studies that something is wrong with keep no other one back, and
        what earlier runs of it have stored counts among what was stored. Raises: AsyncimportError of what comes before
        the line; after that it is in the outcome.
        """
        try:
            await self._run(self._task, outcome, is_watch=is_watch)
        except StoppedError:
            # While another program had locked the journal: the run has no end there, like one that was killed.
            pass
        finally:
            outcome.signal = self._signal

    @property
    def _signal(self) -> int | None:
        return self.stop.signal if self.stop.requested else None

    async def _run(self, task: UploadRequest, outcome: UploadResult, *, is_watch: bool) -> None:
        if task.receipts is not None:
            await anyio.to_thread.run_sync(check_receipts, task.receipts)
        source = await anyio.to_thread.run_sync(task.source)

        def report(event: Event) -> None:
            if isinstance(event, ServerUnavailable) and (event.reason is None) == (outcome.totals.away is None):
                # Several find out that it is so.
                return
            outcome.totals.note(event)
            self._observer.note(event)

        self._report = report
        async with self._monitor.guard():
            with self.stop.immediate_scope():
                client = await self._logged_in()
                decision = await decide(task, source, client, self._observer, stop=self.stop)
            if self.stop.requested or decision is None:
                return
        if not is_watch:
            decision.check()
        lock_wait = LockWait(report=self._tell, deadline=partial(self.stop.wait_deadline, LOCK_SECONDS))
        async with opened_in_thread(partial(open_journal, task, decision, decision.journal, lock_wait)) as journal:
            outcome.run = str(journal.run)
            self._first = self._first or journal.run
            self._observer.note(_beginning(task, outcome.run, decision.rules))
            if task.project and task.project != decision.rules.get("project"):
                await anyio.to_thread.run_sync(journal.note_alias, task.project)
            options = await anyio.to_thread.run_sync(options_of, task, decision, journal)
            try:
                async with self._monitor.guard():
                    await self._send(replace(task, options=options), source, decision, client, journal, outcome)
            except FatalError as error:
                outcome.error = error
            except StoppedError:
                # While another program had locked the journal. What is in it can be read all the same.
                pass
            reader = JournalReader.of(journal, since=self._first)
            outcome.summary = await anyio.to_thread.run_sync(reader.summary)
            outcome.signal = self._signal
            if outcome.error is None and outcome.signal is None and not is_watch:
                outcome.error = nothing_found(outcome.summary, decision.plan, source)
            for orphan in outcome.orphans or ():
                self._observer.note(orphan)
            await anyio.to_thread.run_sync(journal.end_run, outcome.exit_code)
            if task.receipts is not None:
                await anyio.to_thread.run_sync(write_receipts, task.receipts, reader)

    async def _send(
        self,
        task: UploadRequest,
        source: FileSource,
        decision: Decision,
        client: Client,
        journal: Journal,
        outcome: UploadResult,
    ) -> None:
        """Run the line, and what follows it."""
        stop, report = self.stop, self._report
        destination = XnatDestination(
            client,
            archive=task.options.archive,
            overwrite=task.overwrite,
            trigger_pipelines=task.trigger_pipelines,
            event_reason=task.event_reason,
            source=journal.source,
            adopt_rows=task.adopt_rows,
            policy=task.retries.call_policy,
            sleep=task.retries.sleep,
        )
        chosen = FilteredRoutes(decision.routes, decision.study_filter)
        async with self._observer.progress(outcome.totals):
            await upload_images(
                source,
                destination,
                journal,
                chosen,
                options=task.options,
                policy=task.retries.file_policy,
                report=report,
                stop=stop,
            )
            await _attach(task, source, journal, client, report, stop)
            outcome.issues += await _describe(task, decision, source, journal, client, report, stop)
        if not stop.requested:
            with stop.immediate_scope():
                outcome.orphans = await self._sweep(client, journal)

    async def _logged_in(self) -> Client:
        """Log in, once for all runs."""
        task = self._task
        if self._client is None:
            self._client = await self._stack.enter_async_context(
                task.server.connect(
                    # One more, to ask whether the server answers when all others hang.
                    connections=max(task.options.max_workers + task.options.finalizers, task.options.attachment_workers)
                    + 1,
                    max_rate=task.options.max_rate,
                    timeouts=task.timeouts,
                    monitor=self._monitor,
                )
            )
            self._monitor.ping = self._client.ping
        return self._client

    async def _sweep(self, client: Client, journal: Journal) -> list[Orphan] | None:
        """Look for what requests that broke off have left in the prearchive; None when XNAT does not let us look."""
        try:
            return await orphans_of(client, JournalReader.of(journal))
        except (RefusedError, TransientError) as error:
            self._tell(f"the prearchive could not be looked through for stray sessions: {error}")
            return None

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._observer.tell(text)


def assign_attachments(task: UploadRequest, source: FileSource, journal: Journal) -> int:
    """Decide what goes beside images, and where; return how many files wait for their sessions. It blocks."""

    def which(path: str) -> str | None:
        return resource_of(task.attach, source.relative(path).replace(os.sep, "/"))

    # What changed since it was stored may have been refused for that.
    again = task.options.retry_refused or task.options.resend_changed
    return journal.attachments.assign(source.places, which, roots=source.roots, retry_refused=again)


async def _attach(
    task: UploadRequest,
    source: FileSource,
    journal: Journal,
    client: Client,
    report: Callable[[Event], None],
    stop: Stop,
) -> None:
    """Bring what lies beside the images of archived sessions into their resources."""
    # Where the run is to stop the scan need not have met all files.
    waiting = bool(task.attach) or await anyio.to_thread.run_sync(journal.attachments.has_unstored)
    if stop.requested or not waiting:
        return

    waiting_files = await anyio.to_thread.run_sync(assign_attachments, task, source, journal)
    if perhaps := await anyio.to_thread.run_sync(journal.attachments.possible_moves):
        # What lies elsewhere under the name of what was stored is another file, unless its bytes are the same.
        known = [(file, Digest(Algorithm.MD5, bytes.fromhex(md5))) for file, md5 in perhaps]
        same = [file for (file, _), is_same in zip(known, await source.have_digests(known), strict=True) if is_same]
        waiting_files = await anyio.to_thread.run_sync(journal.attachments.record_moves, same)
    report(AttachmentsStarted(waiting_files))
    cabinet = Resources(client, replace_changed=task.options.resend_changed, event_reason=task.event_reason)
    await upload_attachments(source, cabinet, journal.attachments, options=task.options, report=report, stop=stop)


async def _describe(
    task: UploadRequest,
    decision: Decision,
    source: FileSource,
    journal: Journal,
    client: Client,
    report: Callable[[Event], None],
    stop: Stop,
) -> int:
    """Say what the table and the headers tell of subjects whose sessions are archived.

    Returns how many rows of the table are of nobody, where all of the source was asked for.
    """
    if stop.requested or not (task.demographics.table or task.demographics.from_headers):
        return 0
    demographics = demographics_of(task, decision)
    register = Subjects(
        client,
        RetryPolicy(),
        overwrite=demographics.overwrite,
        event_reason=task.event_reason or "demographics",
        only_existing=True,
    )
    await describe_subjects(source, register, journal, demographics, options=task.options, report=report, stop=stop)
    return await _tell_unmatched(task, journal, demographics, report, stop)


def demographics_of(task: UploadRequest, decision: Decision) -> DemographicsRequest:
    """Return what is to be said of subjects, with the project's ID where an alias was given."""
    project = decision.rules.get("project", task.project)
    table = [replace(row, project=project) if row.project == task.project else row for row in task.demographics.table]
    return replace(task.demographics, table=table)


def unmatched_rows(task: UploadRequest, journal: Journal, demographics: DemographicsRequest) -> list[Demographics]:
    """Return the rows of the table that are of nobody, where all of the source was asked for. It blocks."""
    if task.max_sessions is not None or not task.study_filter.is_everything:
        return []
    return unmatched(journal, demographics)


async def _tell_unmatched(
    task: UploadRequest,
    journal: Journal,
    demographics: DemographicsRequest,
    report: Callable[[Event], None],
    stop: Stop,
) -> int:
    """Tell which rows of the table are of subjects that nothing was found of; return how many."""
    rows = [] if stop.requested else await anyio.to_thread.run_sync(unmatched_rows, task, journal, demographics)
    if rows:
        report(Notice(unmatched_text(rows)))
    return len(rows)


def unmatched_text(rows: Sequence[Demographics]) -> str:
    """Tell of rows of the table that are of nobody."""
    labels = ", ".join(f"{row.project} / {row.subject}" for row in rows[:_NAMED])
    such = f"such as {labels}" if len(rows) > _NAMED else labels
    return f"{len(rows):,} rows of --subjects are of subjects without a session here ({such})"


@contextmanager
def _after(seconds: float | None, call: Callable[[], None]) -> Iterator[None]:
    """Call a function on the loop when the block has taken so many seconds."""
    if seconds is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(seconds, call)
    try:
        yield
    finally:
        timer.cancel()


def nothing_found(summary: Summary, plan: Plan | None, source: FileSource) -> UsageError | None:
    """Return what a run ends with that has met no DICOM; None: it has."""
    # What nobody asks for today is not in the summary, if it was sent before.
    if summary.files.found or summary.files.unreadable or summary.containers or (plan is not None and plan.rows):
        return None
    return no_dicom(source, summary.files.not_dicom)
