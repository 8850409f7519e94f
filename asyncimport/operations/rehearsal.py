"""The run that a dry run rehearses: the same pipeline over a copy of the journal, with nothing that changes XNAT."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio.to_thread

from asyncimport.dicom import Identity
from asyncimport.errors import SourceError, UsageError
from asyncimport.journal import HeaderCache, Journal, JournalReader, LockWait, copy_journal
from asyncimport.model.events import Event, Notice
from asyncimport.model.files import Body, File, Ignored
from asyncimport.model.summary import exit_code
from asyncimport.operations.decision import Decision
from asyncimport.operations.dry_run_plan import apply_rehearsal
from asyncimport.operations.plan import Plan
from asyncimport.operations.scan import header_cache_path
from asyncimport.operations.upload_request import UploadRequest
from asyncimport.operations.upload_steps import (
    assign_attachments,
    no_dicom_error,
    open_journal,
    prepare_options,
    resolve_demographics,
    unmatched_rows,
    unmatched_text,
)
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.images import upload_images
from asyncimport.routing.filters import FilteredRoutes
from asyncimport.routing.problems import PlanProblem, ProblemCode
from asyncimport.source.folder import FileSource
from asyncimport.system.threads import opened_in_thread
from asyncimport.xnat.archive import ArchivedSessions
from asyncimport.xnat.client import Client
from asyncimport.xnat.dry_run import DryRunDestination
from asyncimport.xnat.site import SiteRules


class CachedSource(FileSource):
    """A source whose headers a scan has just put into the cache. It reads no bodies."""

    def __init__(self, headers: HeaderCache, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._headers = headers

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Return what the cache has, and read the headers of files that changed since."""
        known = await anyio.to_thread.run_sync(self._headers.identities, files)
        rest = [file for file in files if file.path not in known]
        looks = dict(zip((file.path for file in rest), await super().identify_many(rest), strict=True)) if rest else {}
        return [known.get(file.path) or looks[file.path] for file in files]

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Return bodies that cannot be sent."""
        return [_NoBody(file.size) for file in files]


class _NoBody:
    """The body of a file that is not read."""

    xxh3 = sha256 = None

    def __init__(self, size: int) -> None:
        self.size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise SourceError("a dry run reads no bodies")
        yield b""


async def rehearse(
    request: UploadRequest,
    client: Client,
    archived: ArchivedSessions,
    site: SiteRules,
    decision: Decision,
    plan: Plan,
    stop: Stop,
) -> tuple[Plan, int]:
    """Return a plan with what the run makes of it, and the exit code of the run. Raises: what a run raises."""
    cache_path = header_cache_path(await anyio.to_thread.run_sync(request.source), request.state_dir)
    async with (
        opened_in_thread(partial(HeaderCache, cache_path, reuse_scan=True)) as cache,
        opened_in_thread(partial(TemporaryDirectory, prefix="asyncimport-")) as directory,
    ):
        source = await anyio.to_thread.run_sync(request.source, partial(CachedSource, cache))
        path = Path(directory) / "journal"
        await anyio.to_thread.run_sync(copy_journal, decision.journal, path)
        opened = partial(open_journal, request, decision, path, LockWait(), is_temporary=True)
        async with opened_in_thread(opened) as journal:
            options = await anyio.to_thread.run_sync(prepare_options, request, decision, journal)
            destination = DryRunDestination(
                client,
                identify=source.identify,
                archived=archived,
                rules=site,
                archive=options.archive,
                overwrite=request.overwrite,
                source=journal.source,
                adopt_rows=request.adopt_rows,
            )
            # Nothing takes time, and no earlier attempt is still under way. Collisions are counted afterwards.
            quick = replace(options, settle_seconds=0.0, outage_timeout=0.0, receipts=False, check_first=False)
            routes = FilteredRoutes(decision.routes, decision.study_filter)
            notices: list[str] = []

            def note(event: Event) -> None:
                if isinstance(event, Notice):
                    notices.append(event.reason)

            await upload_images(source, destination, journal, routes, options=quick, report=note, stop=stop)
            is_refused = request.watch_seconds is None and decision.is_strict and bool(decision.faults)
            if options.check_first:
                is_refused |= bool(await anyio.to_thread.run_sync(journal.scan.skip_reasons))
            outcome = partial(_outcome, request, source, decision, plan, journal, notices, is_refused=is_refused)
            return await anyio.to_thread.run_sync(outcome)


def _outcome(
    request: UploadRequest,
    source: FileSource,
    decision: Decision,
    plan: Plan,
    journal: Journal,
    notices: Sequence[str],
    *,
    is_refused: bool,
) -> tuple[Plan, int]:
    if request.attach or journal.attachments.has_unstored():
        assign_attachments(request, source, journal)
    reader = JournalReader.of(journal)
    summary = reader.summary()
    if (error := no_dicom_error(summary, decision.plan, source)) is not None:
        raise error
    plan = apply_rehearsal(plan, summary, reader.disputed_studies(), notices, is_refused=is_refused)
    if is_refused:
        return plan, UsageError.exit_code
    if rows := unmatched_rows(request, journal, resolve_demographics(request, decision)):
        text, advice = unmatched_text(rows), "correct the table, or remove these rows"
        plan = plan.with_problems([PlanProblem(ProblemCode.SUBJECTS_UNMATCHED, text, advice)])
    issues = request.issues + len(rows)
    # Attachments that wait for their session are sent once that is archived.
    summary = replace(summary, attachments=replace(summary.attachments, left=0))
    return plan, exit_code(summary) or (8 if issues else 0)
