"""Compare the archive with the journal, and repair, list safe files or delete orphans if asked to."""

import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import JournalError, RefusedError, TransientError, UnavailableError, UsageError
from asyncimport.journal import Journal, JournalReader, LockWait
from asyncimport.model.attachments import AttachmentState
from asyncimport.model.events import AttachmentsStored, Event
from asyncimport.model.options import Options, VerifyOptions
from asyncimport.model.summary import Orphan
from asyncimport.operations import comparison
from asyncimport.operations.orphans import orphans_of
from asyncimport.operations.result import Result, captured_in
from asyncimport.operations.server import Server
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import LOCK_SECONDS, Stop, StoppedError
from asyncimport.pipeline.attachments import upload_attachments
from asyncimport.pipeline.images import upload_images
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.source.folder import FileSource
from asyncimport.system.output_files import check_option, output_errors, replacing
from asyncimport.system.threads import opened_in_thread
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.orphans import delete_orphan
from asyncimport.xnat.resource_check import Depth
from asyncimport.xnat.resources import Resources
from asyncimport.xnat.subjects import SubjectResult


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(VerifyOptions):
    """Which journal to compare with the archive, and what to do besides."""

    server: Server
    journal: Path
    project: str | None = None
    """Only what went to this one of several projects of the journal."""


@dataclass(slots=True, kw_only=True)
class VerifyResult(Result):
    """Findings, the number of instances sent again, and each orphan with what became of it."""

    findings: list[comparison.SessionFinding] = field(default_factory=list)
    resources: list[comparison.ResourceFinding] = field(default_factory=list)
    subjects: list[comparison.SubjectFinding] = field(default_factory=list)
    restored: list[SubjectResult] = field(default_factory=list)
    repaired: int = 0
    unrepaired: int = 0
    orphans: list[tuple[Orphan, str]] | None = None
    safe: int | None = None
    kept_back: int = 0

    @property
    def findings_code(self) -> int:
        """Return 9 if something is not as it was stored, or could not be repaired."""
        problems = [one.problem for kind in (self.findings, self.resources, self.subjects) for one in kind]
        return 0 if all(problem is None for problem in problems) and not self.unrepaired else 9


async def verify(
    request: VerifyRequest, *, report: Callable[[str], None] = lambda _: None, stop: Stop | None = None
) -> VerifyResult:
    """Check that the archive still holds every instance that was stored; without further options, change nothing.

    After a stop, a repair finishes what is in flight. `report` gets a text when it waits for another program's lock.
    """
    stop = stop or Stop()
    result = VerifyResult()
    with captured_in(result, stop):
        if request.safe_to_delete is not None:
            await anyio.to_thread.run_sync(check_option, "--safe-to-delete", request.safe_to_delete)
        await _verify(request, result, stop, report)
    return result


async def _verify(request: VerifyRequest, result: VerifyResult, stop: Stop, report: Callable[[str], None]) -> None:
    async with opened_in_thread(partial(JournalReader.open, request.journal)) as reader:
        about = await anyio.to_thread.run_sync(reader.metadata)
    if request.server.host != about["destination"]:
        raise JournalError(
            f"the journal {request.journal} belongs to {about['destination']}, not to {request.server.host}",
            hint="correct --host, or name another journal with --journal",
        )
    async with AsyncExitStack() as stack:
        with stop.immediate_scope():
            client = await stack.enter_async_context(request.server.connect())
            await _compare(client, request, result)
        if request.repair and not stop.requested:
            lock_wait = LockWait(report=report, deadline=partial(stop.wait_deadline, LOCK_SECONDS))
            # While another program has locked the journal, a stop ends the wait.
            with suppress(StoppedError):
                await _repair(client, request.journal, about, result, stop, lock_wait)
            with stop.immediate_scope():
                # Instances that were sent again count once they are found in the archive.
                await _compare(client, request, result)
        async with opened_in_thread(partial(JournalReader.open, request.journal, project=request.project)) as reader:
            if request.safe_to_delete is not None and not stop.requested:
                write = partial(_write_paths, request.safe_to_delete, reader, result)
                result.safe = await anyio.to_thread.run_sync(write)
            if (request.orphans or request.delete_orphans) and not stop.requested:
                await _orphans(client, reader, result, stop, delete=request.delete_orphans)


async def _compare(client: Client, request: VerifyRequest, result: VerifyResult) -> None:
    policy = RetryPolicy()
    result.findings = []
    async with opened_in_thread(partial(JournalReader.open, request.journal, project=request.project)) as reader:
        result.findings = await comparison.compare_sessions(client, reader, policy, report=result.findings.append)
        result.resources = await comparison.compare_resources(
            client, reader, policy, reads_bytes=request.attachments_bytes
        )
        result.subjects = await comparison.compare_subjects(client, reader, policy)


async def _repair(
    client: Client, path: Path, about: dict[str, str], result: VerifyResult, stop: Stop, lock_wait: LockWait
) -> None:
    """Send again, in a run of its own, what the archive lacks: instances, attachments, demographics."""
    rules = {name.removeprefix("rule "): rule for name, rule in about.items() if name.startswith("rule ")}
    opened = partial(Journal, path, destination=about["destination"], rules=rules, lock_wait=lock_wait)
    async with opened_in_thread(opened) as journal:
        everything = JournalReader(journal.connection.db, path, run=None)
        await _repair_images(client, journal, everything, result, stop)
        await _repair_attachments(client, journal, result, stop)
        if not stop.requested and any(one.problem for one in result.subjects):
            with stop.immediate_scope():
                # Subjects whose sessions were sent again may have lost theirs too.
                wrong = {(one.project, one.subject) for one in result.subjects if one.problem}
                found = await comparison.compare_subjects(client, everything, RetryPolicy())
                lost = [one for one in found if (one.project, one.subject) in wrong]
                result.restored = await comparison.restore_subjects(client, lost, RetryPolicy())
        await anyio.to_thread.run_sync(journal.end_run, 128 + stop.signal if stop.requested else 0)


async def _repair_images(
    client: Client, journal: Journal, everything: JournalReader, result: VerifyResult, stop: Stop
) -> None:
    """Send missing instances again, from the files that they were sent from."""
    paths: list[str] = []
    for finding in result.findings:
        if not finding.missing or finding.expected is not None:
            continue
        there, gone = await anyio.to_thread.run_sync(comparison.files_to_resend, everything, finding)
        result.unrepaired += gone
        uids = [source.sop_uid for source in there]
        if await anyio.to_thread.run_sync(journal.deliveries.repair, finding.session, uids):
            result.repaired += len(uids)
            await anyio.to_thread.run_sync(journal.scan.confirm_unchanged, [source.file for source in there])
            paths += [source.file.path for source in there]
    if paths:
        # The journal knows where each file goes. A file that has changed meanwhile is not sent.
        routes, destination = PlannedRoutes([]), XnatDestination(client, source=journal.source)
        source = await anyio.to_thread.run_sync(FileSource, paths)
        await upload_images(source, destination, journal, routes, options=Options(), stop=stop)


async def _repair_attachments(client: Client, journal: Journal, result: VerifyResult, stop: Stop) -> None:
    """Send missing and damaged attachments again."""
    missing, gone = await anyio.to_thread.run_sync(comparison.attachments_to_repair, result.resources)
    result.unrepaired += gone
    if not missing:
        return
    stored = 0

    def count(event: Event) -> None:
        nonlocal stored
        if isinstance(event, AttachmentsStored):
            stored += sum(one.state is AttachmentState.STORED for one in event.results)

    await anyio.to_thread.run_sync(journal.scan.confirm_unchanged, [one.file for one in missing])
    await anyio.to_thread.run_sync(journal.attachments.requeue, [one.key for one in missing])
    source = await anyio.to_thread.run_sync(FileSource, [])
    # XNAT still lists files that are gone from its disk or damaged there.
    resources = Resources(client, depth=Depth.BYTES)
    await upload_attachments(source, resources, journal.attachments, options=Options(), report=count, stop=stop)
    result.repaired += stored
    result.unrepaired += len(missing) - stored


async def _orphans(client: Client, reader: JournalReader, result: VerifyResult, stop: Stop, *, delete: bool) -> None:
    """Find orphans, and delete them if asked to."""
    try:
        with stop.immediate_scope():
            found = await orphans_of(client, reader)
        if stop.requested:
            return
        result.orphans = []
        for orphan in found:
            outcome = "left"
            if delete and not stop.requested:
                outcome = "left: stopped"
                with stop.grace_scope():
                    outcome = await _delete(client, orphan)
            result.orphans.append((orphan, outcome))
    except TransientError as error:
        raise UnavailableError(str(error), hint="run verify again when the server is back") from error
    except RefusedError as error:
        raise UsageError(str(error), hint="--orphans needs the right to edit the project") from error


async def _delete(client: Client, orphan: Orphan) -> str:
    try:
        await delete_orphan(client, orphan, RetryPolicy())
    except RefusedError as error:
        return f"left: {error}"
    except TransientError as error:
        if error.overload or error.unreachable:
            raise
        return f"left: {error}"
    return "removed"


def _write_paths(path: Path, reader: JournalReader, result: VerifyResult) -> int:
    """Write the paths of unchanged files, one a line, and return their number; no path with a line end is written."""
    count = 0
    with output_errors("--safe-to-delete", path), replacing(path) as file:
        seen = chain(
            comparison.verified_sources(reader, result.findings), comparison.verified_attachments(result.resources)
        )
        for found, is_unchanged in seen:
            raw = os.fsencode(found.path)
            if is_unchanged and b"\n" not in raw:
                file.write(raw + b"\n")
                count += 1
            else:
                result.kept_back += 1
    return count
