"""The run that a dry run rehearses: the same line, a copy of the journal, and nothing that changes XNAT."""

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
from asyncimport.model import Body, File, Ignored
from asyncimport.model.summary import exit_code
from asyncimport.operations.decision import Decision
from asyncimport.operations.dry_run_plan import apply_rehearsal
from asyncimport.operations.plan import Plan
from asyncimport.operations.scan import survey_path
from asyncimport.operations.upload import (
    assign_attachments,
    demographics_of,
    nothing_found,
    open_journal,
    options_of,
    unmatched_rows,
    unmatched_text,
)
from asyncimport.operations.upload_request import UploadRequest
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.images import upload_images
from asyncimport.routing import FilteredRoutes, PlanProblem, ProblemCode
from asyncimport.source.folder import FileSource
from asyncimport.system.threads import opened_in_thread
from asyncimport.xnat.archive import ArchivedSessions
from asyncimport.xnat.client import Client
from asyncimport.xnat.dry_run import DryRun
from asyncimport.xnat.site import SiteRules


class Unread(FileSource):
    """Directories of which a scan has read the headers just now; no bodies are read."""

    def __init__(self, headers: HeaderCache, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._headers = headers

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Return what the scan has found, and look into what has changed since."""
        known = await anyio.to_thread.run_sync(self._headers.identities, files)
        rest = [file for file in files if file.path not in known]
        looks = dict(zip((file.path for file in rest), await super().identify_many(rest), strict=True)) if rest else {}
        return [known.get(file.path) or looks[file.path] for file in files]

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Return bodies that cannot be sent."""
        return [_Nothing(file.size) for file in files]


class _Nothing:
    """The body of a file that nobody reads, so that nothing is known of its bytes."""

    xxh3 = sha256 = None

    def __init__(self, size: int) -> None:
        self.size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        raise SourceError("nothing was read of it")
        yield b""


async def rehearse(
    task: UploadRequest,
    client: Client,
    archived: ArchivedSessions,
    rules: SiteRules,
    decision: Decision,
    found: Plan,
    stop: Stop,
) -> tuple[Plan, int]:
    """Return a plan with what the run makes of it, and the exit code of the run. Raises: what a run raises."""
    if decision.is_strict and decision.wrong and task.watch_seconds is None:
        return found, UsageError.exit_code
    headers = survey_path(await anyio.to_thread.run_sync(task.source), task.state_dir)
    async with (
        opened_in_thread(partial(HeaderCache, headers, reuse_scan=True)) as cache,
        opened_in_thread(partial(TemporaryDirectory, prefix="asyncimport-")) as place,
    ):
        source = await anyio.to_thread.run_sync(task.source, partial(Unread, cache))
        path = Path(place) / "journal"
        await anyio.to_thread.run_sync(copy_journal, decision.journal, path)
        async with opened_in_thread(
            partial(open_journal, task, decision, path, LockWait(), is_temporary=True)
        ) as journal:
            options = await anyio.to_thread.run_sync(options_of, task, decision, journal)
            destination = DryRun(
                client,
                identify=source.identify,
                archived=archived,
                rules=rules,
                archive=options.archive,
                overwrite=task.overwrite,
                source=journal.source,
                adopt_rows=task.adopt_rows,
            )
            # Nothing takes time, and nothing is under way that could take effect late.
            options = replace(options, settle_seconds=0.0, outage_timeout=0.0, receipts=False)
            chosen = FilteredRoutes(decision.routes, decision.study_filter)
            try:
                await upload_images(source, destination, journal, chosen, options=options, stop=stop)
            except UsageError as error:
                return found, error.exit_code
            return await anyio.to_thread.run_sync(_outcome, task, source, decision, found, journal)


def _outcome(
    task: UploadRequest, source: FileSource, decision: Decision, found: Plan, journal: Journal
) -> tuple[Plan, int]:
    if task.attach or journal.attachments.has_unstored():
        assign_attachments(task, source, journal)
    reader = JournalReader.of(journal)
    summary = reader.summary()
    if (error := nothing_found(summary, decision.plan, source)) is not None:
        raise error
    if rows := unmatched_rows(task, journal, demographics_of(task, decision)):
        problem = PlanProblem(
            ProblemCode.SUBJECTS_UNMATCHED, unmatched_text(rows), "correct the table, or take them out"
        )
        found = replace(found, problems=(*found.problems, problem))
    issues = task.issues + len(rows)
    # What waits for its session is sent once that is archived.
    whole = replace(summary, attachments=replace(summary.attachments, left=0))
    return apply_rehearsal(found, summary, reader.disputed_studies()), exit_code(whole) or (8 if issues else 0)
