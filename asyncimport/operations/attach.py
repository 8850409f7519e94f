"""Attach files to resources of sessions, scans, subjects or projects."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import anyio.to_thread

from asyncimport.errors import RefusedError, TransientError, UnavailableError
from asyncimport.model.attachments import AttachmentBatch, AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.csv_table import TableIssue
from asyncimport.model.events import AttachmentsStored, Event
from asyncimport.model.files import File
from asyncimport.model.options import AttachOptions, Options
from asyncimport.model.texts import plain
from asyncimport.operations.result import Result, captured_in
from asyncimport.operations.server import Server, find_project_ids
from asyncimport.pacing.concurrency import map_concurrently
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.attachments import InMemoryQueue, upload_attachments
from asyncimport.source.folder import FileSource
from asyncimport.xnat.client import Client
from asyncimport.xnat.resources import Resources
from asyncimport.xnat.site import check_project

# Owners of resources that are looked up at a time.
_LOOK_UPS = 8


@dataclass(frozen=True, kw_only=True)
class AttachRequest(AttachOptions):
    """Files by resource. `group_by_resource` makes the batches of rows, and the issues of other rows."""

    server: Server
    batches: Sequence[AttachmentBatch]
    issues: Sequence[TableIssue] = ()


@dataclass(slots=True, kw_only=True)
class AttachResult(Result):
    """The result of each file that was tried."""

    dry_run: bool = False
    batches: Sequence[AttachmentBatch] = ()
    issues: Sequence[TableIssue] = ()
    results: list[tuple[Resource, AttachmentResult]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Return the number of files to attach."""
        return sum(len(one.attachments) for one in self.batches)

    @property
    def findings_code(self) -> int:
        """Return 8 if a row is wrong, or a file was refused or failed."""
        bad = {AttachmentState.REFUSED, AttachmentState.FAILED}
        is_flawed = any(not one.is_warning for one in self.issues)
        return 8 if is_flawed or any(one.state in bad for _, one in self.results) else 0

    def reject(self, batch: AttachmentBatch, state: AttachmentState, reason: str) -> None:
        """Add the results of a batch that is not sent."""
        self.results += [(batch.resource, AttachmentResult(one, state, reason)) for one in batch.attachments]

    def counts(self) -> dict[str, int]:
        """Return the numbers of files that are stored, sent now, refused, failed and left."""
        states = Counter(one.state for _, one in self.results)
        would_be_sent = states[AttachmentState.PENDING] if self.dry_run else 0
        return {
            "total": self.total,
            "stored": states[AttachmentState.STORED],
            "sent": sum(one.sent for _, one in self.results),
            "refused": states[AttachmentState.REFUSED],
            "failed": states[AttachmentState.FAILED],
            "left": self.total - len(self.results) + would_be_sent,
        }


async def attach(
    request: AttachRequest, *, report: Callable[[AttachResult], None] = lambda _: None, stop: Stop | None = None
) -> AttachResult:
    """Put files into resources that lack them, and check them. `report` gets the result so far after each batch."""
    stop = stop or Stop()
    result = AttachResult(dry_run=request.dry_run, batches=request.batches, issues=request.issues)

    def note(event: Event) -> None:
        if isinstance(event, AttachmentsStored):
            result.results += [(event.resource, one) for one in event.results]
            report(result)

    with captured_in(result, stop):
        async with AsyncExitStack() as stack:
            with stop.immediate_scope():
                client = await stack.enter_async_context(request.server.connect())
                resources = Resources(
                    client,
                    replace=request.replace,
                    zips=request.zips,
                    event_reason=request.event_reason,
                    dry_run=request.dry_run,
                )
                batches = await _locate(resources, await _open_batches(client, result), result)
            if not stop.requested:
                source = await anyio.to_thread.run_sync(FileSource, [])
                await upload_attachments(
                    source, resources, InMemoryQueue(batches), options=Options(), report=note, stop=stop
                )
    return result


async def _open_batches(client: Client, result: AttachResult) -> list[AttachmentBatch]:
    """Return the batches of projects that are open to this user, under their IDs; refuse the others."""
    names = dict.fromkeys(one.resource.owner.project for one in result.batches)
    ids = await find_project_ids(names, partial(check_project, client))
    batches = []
    for one in result.batches:
        resource = one.resource
        project = ids[resource.owner.project]
        if isinstance(project, str):
            owner = replace(resource.owner, project=project)
            batches.append(replace(one, resource=replace(resource, owner=owner)))
        else:
            result.reject(one, AttachmentState.REFUSED, str(project))
    return batches


async def _locate(
    resources: Resources, batches: Sequence[AttachmentBatch], result: AttachResult
) -> list[AttachmentBatch]:
    """Look up the owners, and return what can be sent; refuse the rest, also the second of two files of one name."""

    async def locate(owner: ResourceOwner) -> str | RefusedError | TransientError:
        try:
            return await resources.locate(owner)
        except RefusedError as error:
            return error
        except TransientError as error:
            if error.unreachable:
                raise UnavailableError(str(error), hint="run the command again when the server is back") from error
            return error

    owners = list(dict.fromkeys(one.resource.owner for one in batches))
    found = dict(zip(owners, await map_concurrently(locate, owners, _LOOK_UPS), strict=True))
    taken: dict[tuple[str, str, str], File] = {}
    left = []
    for one in batches:
        resource, address = one.resource, found[one.resource.owner]
        if not isinstance(address, str):
            state = AttachmentState.REFUSED if isinstance(address, RefusedError) else AttachmentState.FAILED
            result.reject(one, state, str(address))
            continue
        sound = []
        for each in one.attachments:
            first = taken.setdefault((address, resource.label, each.name), each.file)
            if first == each.file:
                sound.append(each)
            else:
                why = f"{plain(first.path)} has this name there"
                result.results.append((resource, AttachmentResult(each, AttachmentState.REFUSED, why)))
        if sound:
            left.append(replace(one, attachments=tuple(sound)))
    return left
