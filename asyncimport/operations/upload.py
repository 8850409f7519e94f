"""Uploads: from a request over scan, login and pipeline to a summary."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from asyncimport.errors import FatalError, RefusedError, TransientError
from asyncimport.journal import Journal, JournalReader, LockWait
from asyncimport.model.choices import Compress
from asyncimport.model.events import Event, ServerUnavailable
from asyncimport.model.summary import Orphan
from asyncimport.operations import upload_steps
from asyncimport.operations.cluster import open_cluster, open_cluster_source
from asyncimport.operations.decision import Decision, decide
from asyncimport.operations.orphans import orphans_of
from asyncimport.operations.result import Observer, captured_in
from asyncimport.operations.upload_request import UploadRequest, UploadResult
from asyncimport.pacing.load import Load
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.pacing.shutdown import LOCK_SECONDS, Stop, StoppedError
from asyncimport.reporting.entries import RunEnded
from asyncimport.reporting.receipts import write_receipts
from asyncimport.source.folder import FileSource
from asyncimport.system.output_files import check_option
from asyncimport.system.threads import opened_in_thread
from asyncimport.xnat.archive import READS_AT_ONCE
from asyncimport.xnat.client import Client

if TYPE_CHECKING:
    from asyncimport.cluster.ports import WorkerLinks
    from asyncimport.cluster.source import ClusterSource


async def upload(
    request: UploadRequest,
    *,
    report: Observer | None = None,
    stop: Stop | None = None,
    workers: "WorkerLinks | None" = None,
    dask_client: Any = None,
) -> UploadResult:
    """Scan, send, build, archive, verify, attach, set demographics. A source without DICOM is an error.

    With `workers`, those send the images. With a client of Dask (asynchronous, of this loop), its workers also scan.
    """
    observer, stop = report or Observer(), stop or Stop()
    result = UploadResult(issues=request.issues)
    with captured_in(result, stop):
        async with open_runner(request, observer, stop, workers, dask_client) as runner:
            await runner.run(result)
    observer.note(RunEnded(result.run, result.exit_code, result.error, result.summary))
    return result


@asynccontextmanager
async def open_runner(
    request: UploadRequest,
    observer: Observer,
    stop: Stop,
    workers: "WorkerLinks | None" = None,
    dask_client: Any = None,
) -> "AsyncIterator[Runner]":
    """Yield a runner that stops after the longest duration, and logs out at the end."""

    def end() -> None:
        if not stop.requested:
            observer.tell("--max-duration is over: what is in flight may finish (30 s at most)")
            stop.request()

    async with AsyncExitStack() as stack:
        if request.max_duration_seconds is not None:
            stack.callback(asyncio.get_running_loop().call_later(request.max_duration_seconds, end).cancel)
        yield Runner(request, observer, stop, stack, workers, dask_client)


class Runner:
    """Runs one after the other, under one login. Make it with `open_runner`."""

    def __init__(
        self,
        request: UploadRequest,
        observer: Observer,
        stop: Stop,
        stack: AsyncExitStack,
        workers: "WorkerLinks | None" = None,
        dask_client: Any = None,
    ) -> None:
        self._request = request
        self._observer = observer
        self._stop = stop
        self._stack = stack
        self._workers = workers
        self._dask_client = dask_client
        self._client: Client | None = None
        self._first_run: int | None = None
        self._has_receipts = False
        self._report: Callable[[Event], None] = lambda _: None
        self._monitor = OutageMonitor(
            request.options.outage_timeout, report=lambda reason: self._report(ServerUnavailable(reason))
        )
        self._report_of_workers: Callable[[Event], None] = observer.note
        self._load = Load()
        self._messages: set[str] = set()

    async def run(self, result: UploadResult, *, is_watch: bool = False) -> None:
        """Run once, and write what was done into the result.

        In a watch, a source without DICOM is fine, a problem of one study keeps no other study back, and what earlier
        runs of the watch have stored counts as stored. Raises: AsyncimportError before the journal is open; later
        errors are in the result.
        """
        try:
            # If a stop comes while another program locks the journal, the run has no end, as if it was killed.
            with suppress(StoppedError):
                await self._open_and_run(result, is_watch=is_watch)
        finally:
            result.signal = self._signal

    @property
    def _signal(self) -> int | None:
        return self._stop.signal if self._stop.requested else None

    async def _open_and_run(self, result: UploadResult, *, is_watch: bool) -> None:
        """Open the source, and run. Raises: StoppedError."""
        request = self._request
        self._report_of_workers = partial(self._note, result)
        if request.receipts is not None:
            await anyio.to_thread.run_sync(check_option, "--receipts", request.receipts)
        if request.dask is None and self._dask_client is None:
            await self._run(await anyio.to_thread.run_sync(request.source), self._workers, result, is_watch=is_watch)
            return
        is_plain = not request.server.verify_certificate
        opened = open_cluster(request, self._note_cluster, insecure=is_plain, stop=self._stop, client=self._dask_client)
        async with (
            opened as cluster,
            open_cluster_source(
                cluster,
                request,
                self._note_cluster,
                stop=self._stop,
                digests=request.receipts is not None,
                is_partial=not request.study_filter.is_everything,
            ) as source,
        ):
            from asyncimport.cluster.links import ActorLinks

            await self._run(source, ActorLinks(cluster, source), result, is_watch=is_watch)

    async def _run(
        self,
        source: "FileSource | ClusterSource",
        workers: "WorkerLinks | None",
        result: UploadResult,
        *,
        is_watch: bool,
    ) -> None:
        request, stop = self._request, self._stop
        result.totals.load = self._load
        async with self._monitor.guard():
            with stop.immediate_scope():
                client = await self._log_in()
                # Before that an absent server is an error at once, and nothing waits.
                self._report = partial(self._note, result)
                decision = await decide(request, source, client, self._observer, stop=stop)
            if stop.requested or decision is None:
                return
        if not is_watch:
            decision.check()
        lock_wait = LockWait(report=self._tell, deadline=partial(stop.wait_deadline, LOCK_SECONDS))
        async with opened_in_thread(
            partial(upload_steps.open_journal, request, decision, decision.journal, lock_wait)
        ) as journal:
            result.run = str(journal.run)
            self._first_run = self._first_run or journal.run
            await self._describe(journal, decision)
            options = await anyio.to_thread.run_sync(upload_steps.prepare_options, request, decision, journal)
            run = upload_steps.OpenRun(
                request=request,
                options=options,
                source=source,
                decision=decision,
                client=client,
                journal=journal,
                report=self._report,
                stop=stop,
                workers=workers,
            )
            try:
                # Even if another program had locked the journal until the stop, the journal can be read.
                with suppress(StoppedError):
                    async with self._monitor.guard():
                        await self._send(run, result)
            except FatalError as error:
                result.error = error
            await self._conclude(journal, decision, result, is_watch=is_watch)
            # A look of a watch at which nothing has arrived changes none.
            if request.receipts is not None and (result.totals.has_arrivals or not self._has_receipts):
                await anyio.to_thread.run_sync(self._write_receipts, request.receipts, journal, source.roots)

    async def _describe(self, journal: Journal, decision: Decision) -> None:
        """Tell that a run begins, and note in the journal what it was asked to do."""
        request = self._request
        started = upload_steps.run_started(request, str(journal.run), decision)
        self._observer.note(started)
        await anyio.to_thread.run_sync(journal.describe_run, upload_steps.describe_run(request, started))
        if request.project and request.project != decision.rules.get("project"):
            await anyio.to_thread.run_sync(journal.note_alias, request.project)

    async def _conclude(self, journal: Journal, decision: Decision, result: UploadResult, *, is_watch: bool) -> None:
        """Complete the result, and write what stays of the run."""
        reader = JournalReader.of(journal, since=self._first_run)
        result.summary = await anyio.to_thread.run_sync(reader.summary)
        result.signal = self._signal
        if result.error is None and result.signal is None and not is_watch:
            result.error = upload_steps.nothing_to_send_error(self._request, result.summary, decision.plan)
        for orphan in result.orphans or ():
            self._observer.note(orphan)
        await anyio.to_thread.run_sync(journal.end_run, result.exit_code)

    def _write_receipts(self, path: Path, journal: Journal, roots: Sequence[str]) -> None:
        """Write receipts, also of files that have been deleted since they arrived."""
        journal.scan.include_gone(roots)
        write_receipts(path, JournalReader.of(journal, since=self._first_run))
        self._has_receipts = True

    async def _send(self, run: upload_steps.OpenRun, result: UploadResult) -> None:
        """Send everything, then look for orphans."""
        async with self._observer.progress(result.totals):
            await upload_steps.send_images(run)
            await upload_steps.send_attachments(run)
            result.issues += await upload_steps.set_demographics(run)
        if not run.stop.requested:
            with run.stop.immediate_scope():
                result.orphans = await self._find_orphans(run.client, run.journal)

    async def _log_in(self) -> Client:
        """Log in, once for all runs."""
        if self._client is None:
            request, options = self._request, self._request.options
            # One more asks whether the server answers when all others hang.
            reads = READS_AT_ONCE * options.max_finalizers
            connections = max(options.max_workers + reads, options.attachment_workers) + 1
            connected = request.server.connect(
                connections=connections,
                max_rate=options.max_rate,
                times_link=options.compress is Compress.AUTO or options.is_adaptive,
                timeouts=request.timeouts,
                monitor=self._monitor,
                load=self._load,
            )
            self._client = await self._stack.enter_async_context(connected)
            self._monitor.ping = self._client.ping
        return self._client

    async def _find_orphans(self, client: Client, journal: Journal) -> list[Orphan] | None:
        """Return what interrupted uploads left in the prearchive; None if XNAT does not answer that."""
        try:
            return await orphans_of(client, JournalReader.of(journal))
        except (RefusedError, TransientError) as error:
            self._tell(f"cannot look for orphans in the prearchive: {error}")
            return None

    def _note_cluster(self, event: Event) -> None:
        """Report what happens in the cluster, also before the run begins."""
        self._report_of_workers(event)

    def _note(self, result: UploadResult, event: Event) -> None:
        is_known = isinstance(event, ServerUnavailable) and (event.reason is None) == (result.totals.away is None)
        # Several calls find out at the same time that the server is not available.
        if not is_known:
            result.totals.note(event)
            self._observer.note(event)

    def _tell(self, text: str) -> None:
        """Pass a message on, once."""
        if text not in self._messages:
            self._messages.add(text)
            self._observer.tell(text)
