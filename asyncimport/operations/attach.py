"""Files other than images into resources of sessions, scans, subjects or projects."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import anyio
import anyio.to_thread

from asyncimport.errors import (
    ProjectMissingError,
    ProjectReadOnlyError,
    RefusedError,
    TransientError,
    UnavailableError,
    primary_error,
)
from asyncimport.model import AttachmentBatch, AttachmentResult, AttachmentState, File, Resource, ResourceOwner
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.events import AttachmentsStored, Event
from asyncimport.model.options import AttachOptions, Options
from asyncimport.model.texts import plain
from asyncimport.operations.result import Result, ended_in
from asyncimport.operations.server import Server
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.attachments import InMemoryQueue, upload_attachments
from asyncimport.source.folder import FileSource
from asyncimport.xnat.client import Client
from asyncimport.xnat.resources import Resources
from asyncimport.xnat.site import check_project

# How many places are looked up at a time.
_LOOK_UPS = 8


@dataclass(frozen=True, kw_only=True)
class AttachRequest(AttachOptions):
    """Files by resource, where they go, and how.

    `group_by_resource` makes the batches of rows, and tells of the rows that are none (`issues`).
    """

    server: Server
    batches: Sequence[AttachmentBatch]
    issues: Sequence[TableIssue] = ()


@dataclass(slots=True, kw_only=True)
class AttachResult(Result):
    """What became of each file that was come to."""

    dry_run: bool = False
    batches: Sequence[AttachmentBatch] = ()
    issues: Sequence[TableIssue] = ()
    filed: list[tuple[Resource, AttachmentResult]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many files there are to be attached."""
        return sum(len(one.attachments) for one in self.batches)

    @property
    def findings_code(self) -> int:
        """8 where a row or a file is wrong, was refused or failed."""
        bad = {AttachmentState.REFUSED, AttachmentState.FAILED}
        is_flawed = any(not one.is_warning for one in self.issues)
        return 8 if is_flawed or any(one.state in bad for _, one in self.filed) else 0

    def counts(self) -> dict[str, int]:
        """Return how many files are stored, sent (those of them that were not there before), refused and so on."""
        states = Counter(one.state for _, one in self.filed)
        would_be_sent = states[AttachmentState.PENDING] if self.dry_run else 0
        return {
            "total": self.total,
            "stored": states[AttachmentState.STORED],
            "sent": sum(one.sent for _, one in self.filed),
            "refused": states[AttachmentState.REFUSED],
            "failed": states[AttachmentState.FAILED],
            "left": self.total - len(self.filed) + would_be_sent,
        }


async def attach(
    request: AttachRequest, *, report: Callable[[AttachResult], None] = lambda _: None, stop: Stop | None = None
) -> AttachResult:
    """Put files into resources, and check that they arrived; what is there already is not sent again.

    `report` is told the result so far whenever files were come to.
    """
    stop = stop or Stop()
    result = AttachResult(dry_run=request.dry_run, batches=request.batches, issues=request.issues)

    def note(event: Event) -> None:
        if isinstance(event, AttachmentsStored):
            result.filed += [(event.resource, one) for one in event.results]
            report(result)

    with ended_in(result, stop):
        async with AsyncExitStack() as stack:
            with stop.at_once():
                client = await stack.enter_async_context(request.server.connect())
                cabinet = Resources(
                    client,
                    replace=request.replace,
                    zips=request.zips,
                    event_reason=request.event_reason,
                    dry_run=request.dry_run,
                )
                waiting = await _located(cabinet, await _open(client, result), result)
            if not stop.requested:
                source = await anyio.to_thread.run_sync(FileSource, [])
                await upload_attachments(
                    source, cabinet, InMemoryQueue(waiting), options=Options(), report=note, stop=stop
                )
    return result


async def _open(client: Client, result: AttachResult) -> list[AttachmentBatch]:
    """Return what goes into projects that are open to this user, under their IDs; the others refuse theirs.

    Raises: ProjectMissingError, ProjectReadOnlyError when there is one project only, UnavailableError.
    """
    projects = list(dict.fromkeys(one.resource.owner.project for one in result.batches))
    names: dict[str, str] = {}
    closed: dict[str, str] = {}
    for project in projects:
        try:
            names[project] = await check_project(client, project)
        except (ProjectMissingError, ProjectReadOnlyError) as error:
            if len(projects) == 1:
                raise
            closed[project] = str(error)
    waiting = []
    for one in result.batches:
        resource = one.resource
        if why := closed.get(resource.owner.project):
            result.filed += [
                (resource, AttachmentResult(each, AttachmentState.REFUSED, why)) for each in one.attachments
            ]
        else:
            place = replace(resource.owner, project=names[resource.owner.project])
            waiting.append(replace(one, resource=replace(resource, owner=place)))
    return waiting


async def _located(
    cabinet: Resources, waiting: Sequence[AttachmentBatch], result: AttachResult
) -> list[AttachmentBatch]:
    """Look up what the resources belong to, and return what can be sent; the rest is refused, or fails.

    A place may be named in several ways, as a session with its subject or without: of two files that would go to one
    address under one name the first goes, and the other is refused, whatever may be replaced there.
    Raises: UnavailableError.
    """
    places = iter(dict.fromkeys(one.resource.owner for one in waiting))
    found: dict[ResourceOwner, str | RefusedError | TransientError] = {}

    async def look() -> None:
        for place in places:
            try:
                found[place] = await cabinet.locate(place)
            except RefusedError as error:
                found[place] = error
            except TransientError as error:
                if error.unreachable:
                    raise UnavailableError(str(error), hint="run the command again when the server is back") from error
                found[place] = error

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(_LOOK_UPS):
                tasks.start_soon(look)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    taken: dict[tuple[str, str, str], File] = {}
    left = []
    for one in waiting:
        resource, address = one.resource, found[one.resource.owner]
        if not isinstance(address, str):
            state = AttachmentState.REFUSED if isinstance(address, RefusedError) else AttachmentState.FAILED
            result.filed += [(resource, AttachmentResult(each, state, str(address))) for each in one.attachments]
            continue
        sound = []
        for each in one.attachments:
            first = taken.setdefault((address, resource.label, each.name), each.file)
            if first == each.file:
                sound.append(each)
            else:
                why = f"{plain(first.path)} goes there under this name"
                result.filed.append((resource, AttachmentResult(each, AttachmentState.REFUSED, why)))
        if sound:
            left.append(replace(one, attachments=tuple(sound)))
    return left
