"""Files into resources of the archive: list what is there, send what is missing, list again.

XNAT answers 200 to much that it did not do: to a user who may not edit, to a name that is taken. It loses one of two
files that are written into one resource at once. So no answer is believed, only the listing afterwards, or the bytes.
Others write here too: unless `replace` is set, a file is overwritten only if it was right before seen to be ours.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import anyio

from asyncimport.errors import RefusedError, SourceError, TransientError
from asyncimport.model.attachments import Attachment, AttachmentBatch, AttachmentResult, AttachmentState, ResourceOwner
from asyncimport.model.files import Body
from asyncimport.model.ports import AttachmentSource
from asyncimport.pacing.concurrency import map_concurrently
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.resources import ListedFile
from asyncimport.xnat.resource_calls import ONCE, ResourceCalls, find_address
from asyncimport.xnat.resource_check import Depth, FileChecker, FileState, Upload, refuse

# Files up to this size are sent together in zips: each request makes XNAT rewrite the whole catalog.
_SMALL_BYTES = 256 << 10
_ZIP_FILES = 500
_ZIP_BYTES = 8 << 20
# Files of a resource that are checked at once.
_CHECKS = 4
_NOTHING_STORED = "XNAT answered 200 and stored nothing; this user may not be allowed to edit here"
_MOVED = "somebody has renamed or moved what it belongs to in XNAT meanwhile"
_HIDDEN = (
    "XNAT keeps a file of this name that its catalog does not list; refresh the catalog, or replace the file with "
    "`asyncimport attach --replace`"
)


async def _ignore(_: Sequence[Attachment]) -> None:
    pass


@dataclass(slots=True)
class _Fill:
    """One call of `Resources.fill`, and the results so far."""

    calls: ResourceCalls
    source: AttachmentSource
    start: Callable[[Sequence[Attachment]], Awaitable[None]]
    results: list[AttachmentResult] = field(default_factory=list)

    def without_result(self, uploads: Iterable[Upload]) -> list[Upload]:
        """Return the uploads that have no result."""
        done = {one.attachment.key for one in self.results}
        return [upload for upload in uploads if upload.attachment.key not in done]


class Resources:
    """Fills resources: several side by side, but each with one call at a time, whatever it is called.

    `replace` overwrites files of the same name, `replace_changed` only their own earlier state. With `zips`, small
    files are sent together. A `dry_run` changes nothing. `depth` is how far existing files are checked. Sites with an
    audit trail require an `event_reason`.
    """

    def __init__(
        self,
        client: Client,
        *,
        replace: bool = False,
        replace_changed: bool = False,
        zips: bool = True,
        event_reason: str = "",
        dry_run: bool = False,
        depth: Depth = Depth.LISTING,
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._client = client
        self._replace = replace
        self._zips = zips
        self._event_reason = event_reason
        self._dry_run = dry_run
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._interrupted: dict[int, bool] = {}
        self._checker = FileChecker(client, self._policy, depth, self._interrupted, replace, replace_changed)

    async def check_files(self, batch: AttachmentBatch) -> dict[int, FileState]:
        """Return what a resource has of each stored attachment, by key. Raises: TransientError, RefusedError."""
        path = await self.locate(batch.resource.owner)
        listed = await ResourceCalls(self._client, self._policy, path, batch.resource, "").list_files()

        async def state(one: Attachment) -> tuple[int, FileState]:
            return one.key, await self._checker.state(one, listed.get(one.name))

        states = dict(await map_concurrently(state, batch.attachments, _CHECKS))
        await self._check_owner(batch.resource.owner, path)
        return states

    async def locate(self, owner: ResourceOwner) -> str:
        """Return the one path of an owner. Raises: TransientError, RefusedError: no owner."""
        return await find_address(self._client, owner, self._policy)

    async def _check_owner(self, owner: ResourceOwner, path: str) -> None:
        """Look an owner up again: somebody may have moved it meanwhile. Raises: TransientError, RefusedError."""
        if await self.locate(owner) != path:
            raise RefusedError(_MOVED)

    async def ping(self) -> bool:
        """Whether XNAT answers at all."""
        return await self._client.ping()

    async def fill(
        self,
        batch: AttachmentBatch,
        source: AttachmentSource,
        start: Callable[[Sequence[Attachment]], Awaitable[None]] = _ignore,
    ) -> list[AttachmentResult]:
        """Bring files into a resource, which is created if need be. It may be called again at any time.

        `start` gets attachments before they are sent; a dry run makes them PENDING. Raises: TransientError, FatalError.
        """
        results: list[AttachmentResult] = []
        uploads: list[Upload] = []
        digests = await source.md5([(one.file, one.file.size) for one in batch.attachments])
        for attachment, digest in zip(batch.attachments, digests, strict=True):
            if isinstance(digest, SourceError):
                results.append(AttachmentResult(attachment, AttachmentState.FAILED, str(digest)))
            else:
                uploads.append(Upload(attachment, digest))
        if not uploads:
            return results
        resource, path = batch.resource, ""
        try:
            path = await self.locate(resource.owner)
            calls = ResourceCalls(self._client, self._policy, path, resource, self._event_reason)
            fill = _Fill(calls, source, start, results)
            # One lock a resource: its owner may be named in several ways.
            async with self._locks.setdefault(f"{path}/{resource.label}", anyio.Lock()):
                await self._fill(fill, uploads)
        except RefusedError as error:
            done = {one.attachment.key for one in results}
            results += [refuse(one.attachment, str(error)) for one in uploads if one.attachment.key not in done]
        if any(one.state is AttachmentState.STORED for one in results):
            try:
                await self._check_owner(resource.owner, path)
            except RefusedError as error:
                results = [
                    refuse(one.attachment, str(error)) if one.state is AttachmentState.STORED else one
                    for one in results
                ]
        self._restore_interrupted({one.attachment.key: None for one in results})
        return results

    async def _fill(self, fill: _Fill, uploads: list[Upload]) -> None:
        """List, and send what is missing. Raises: TransientError, RefusedError for all that has no result."""
        if self._dry_run and not await fill.calls.exists():
            reason = "the resource would be made"
            fill.results += [AttachmentResult(one.attachment, AttachmentState.PENDING, reason) for one in uploads]
            return
        try:
            listed = await fill.calls.list_files(ONCE)
        except TransientError:
            # XNAT may be unable to list a resource that does not exist yet.
            if not self._dry_run:
                await fill.calls.create()
            listed = await fill.calls.list_files()
        waiting = await self._judge(fill, uploads, listed)
        if self._dry_run:
            fill.results += [AttachmentResult(one.attachment, AttachmentState.PENDING) for one in waiting]
        elif waiting:
            await fill.calls.create()
            await self._send_all(fill, waiting)

    async def _send_all(self, fill: _Fill, waiting: list[Upload]) -> None:
        """Send, and list, until all is there or nothing helps. Raises: TransientError, RefusedError, as `_fill`."""
        attempt = 0
        while waiting:
            attempt += 1
            for group in self._groups(waiting) if attempt == 1 else [[upload] for upload in waiting]:
                chosen = group
                if group[0].overwrites and not self._replace:
                    # Somebody may have put another file there meanwhile.
                    chosen = await self._judge(fill, group, await fill.calls.list_files())
                if chosen:
                    await fill.start([upload.attachment for upload in chosen])
                    await self._send(fill, chosen)
            listed = await fill.calls.list_files()
            waiting = await self._judge(fill, fill.without_result(waiting), listed)
            # XNAT accepted each as it should, and does not have it.
            is_hopeless = attempt > 1 and not any(one.error or (one.kept_other and one.overwrites) for one in waiting)
            if attempt >= self._policy.attempts or is_hopeless:
                fill.results += [_give_up(upload, listed) for upload in waiting]
                return
            if waiting:
                await self._sleep(self._policy.delay(attempt, retry_after=None, jitter=0.5))
                if not self._replace:
                    is_unlisted = any(upload.attachment.name not in listed for upload in waiting)
                    listed = await (fill.calls.refresh_and_list() if is_unlisted else fill.calls.list_files())
                    waiting = await self._judge(fill, waiting, listed)

    async def _judge(self, fill: _Fill, uploads: Sequence[Upload], listed: Mapping[str, ListedFile]) -> list[Upload]:
        """Return the uploads to send, by what is listed; the results of the others are noted."""
        waiting: list[Upload] = []
        for upload in uploads:
            result = await self._checker.judge(upload, listed.get(upload.attachment.name), fill.source)
            if result is None:
                waiting.append(upload)
            else:
                fill.results.append(result)
        return waiting

    def _groups(self, uploads: Sequence[Upload]) -> Iterable[list[Upload]]:
        """Divide uploads into requests: small files with the same options in zips, the others one by one."""
        groups: dict[tuple[str, str, bool], list[Upload]] = {}
        for upload in uploads:
            attachment = upload.attachment
            if not self._zips or attachment.file.size > _SMALL_BYTES:
                yield [upload]
                continue
            kind = (attachment.format, attachment.content, upload.overwrites)
            group = groups.setdefault(kind, [])
            size = sum(one.attachment.file.size for one in group)
            if group and (len(group) >= _ZIP_FILES or size + attachment.file.size > _ZIP_BYTES):
                yield group
                group = groups[kind] = []
            group.append(upload)
        yield from groups.values()

    async def _send(self, fill: _Fill, group: list[Upload]) -> None:
        """Send files in one request. The results of unreadable and refused ones are noted."""
        bodies: dict[str, Body] = {}
        for upload, body in zip(group, await fill.source.read([one.attachment.file for one in group]), strict=True):
            if isinstance(body, SourceError):
                fill.results.append(AttachmentResult(upload.attachment, AttachmentState.FAILED, str(body)))
            else:
                bodies[upload.attachment.name] = body
        uploads = [upload for upload in group if upload.attachment.name in bodies]
        if not uploads:
            return
        first = uploads[0].attachment
        error_text, kept_other = "", False
        before = {upload.attachment.key: self._interrupted.get(upload.attachment.key) for upload in uploads}
        self._interrupted |= {
            upload.attachment.key: before[upload.attachment.key] or upload.is_listed for upload in uploads
        }
        try:
            kept_other = await fill.calls.send(
                bodies,
                file_format=first.format,
                content=first.content,
                overwrites=all(upload.overwrites for upload in uploads),
            )
        except TransientError as error:
            if not error.may_have_taken_effect:
                self._restore_interrupted(before)
            if error.unreachable:
                raise
            error_text = str(error)
        except SourceError as error:
            fill.results.append(AttachmentResult(first, AttachmentState.FAILED, str(error)))
            return
        except RefusedError as error:
            if len(uploads) == 1:
                fill.results.append(refuse(first, str(error), blames_server=error.blames_server))
                return
            error_text = str(error)
        if not error_text:
            # XNAT has read all of it, or wrote nothing.
            self._restore_interrupted(before if kept_other else dict.fromkeys(before))
        for upload in uploads:
            upload.error, upload.kept_other, upload.was_tried = error_text, kept_other, True
            upload.is_accepted = not (error_text or kept_other or upload.overwrites)
            upload.may_be_sent = upload.may_be_sent or not kept_other or len(uploads) > 1

    def _restore_interrupted(self, before: Mapping[int, bool | None]) -> None:
        """Set what is known of interrupted transfers of these attachments to what was known before; None: nothing."""
        for key, is_listed in before.items():
            self._interrupted.pop(key, None)
            if is_listed is not None:
                self._interrupted[key] = is_listed


def _give_up(upload: Upload, listed: Mapping[str, ListedFile]) -> AttachmentResult:
    if upload.error:
        return AttachmentResult(upload.attachment, AttachmentState.FAILED, upload.error)
    if upload.attachment.name in listed:
        return AttachmentResult(upload.attachment, AttachmentState.FAILED, "XNAT holds other bytes than were sent")
    return refuse(upload.attachment, _HIDDEN if upload.kept_other else _NOTHING_STORED)
