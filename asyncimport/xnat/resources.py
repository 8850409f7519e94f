"""Files into resources of the archive: look at what is there, send what is not, look again.

XNAT answers 200 to much that it did not do: to a user who may not edit, to a name that is taken. It loses one of two
files that are written into one resource at a time, and leaves the beginning of a file whose transfer broke, beside the
digest of what that was to replace. So an answer is never believed: what counts is the size and the MD5 in the listing
afterwards, and the bytes where these two do not agree, or there is no MD5 (FileList, CatalogUtils).

Others write here too. What is written over, unless that is asked for, has been seen right before to be ours.
"""

import io
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from asyncimport.errors import RefusedError, SourceError, TransientError, primary_error
from asyncimport.model import Attachment, AttachmentBatch, AttachmentResult, AttachmentState, Resource, ResourceOwner
from asyncimport.model.ports import Bytes
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.addresses import find_address
from asyncimport.xnat.body import send
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.resources import (
    ListedFile,
    check_creation,
    check_refresh,
    is_duplicate,
    parse_file_size,
    parse_files,
    parse_resource_labels,
)

# Files up to this size go several in one zip, which XNAT takes apart: each file of its own costs a request, and XNAT
# a rewriting of the whole catalog.
_SMALL = 256 << 10
_ZIP_FILES = 500
_ZIP_BYTES = 8 << 20
# aiohttp warns of larger bodies in one piece, which hold up all else.
_LARGE = 1 << 20
_PIECE = 256 << 10
_BYTES = {"Content-Type": "application/octet-stream"}
_ONCE = RetryPolicy(attempts=1)
# Files of a resource that are looked at at a time.
_AT_A_TIME = 4
_NOTHING_STORED = "XNAT answered 200 and stored nothing; this user may not be allowed to edit here"
_WOULD_BE_MADE = "the resource would be made"
_TAKEN = "the resource holds another file of this name; `asyncimport attach --replace` puts this one in its place"
_HIDDEN = (
    "XNAT keeps a file of this name that its catalog does not list; refresh the catalog, or put this one in its place "
    "with `asyncimport attach --replace`"
)
_CHANGED = "it has changed since it was stored, and XNAT has lost that; --resend-changed sends what it is now"


class Depth(StrEnum):
    """How far what is there is looked into: what the listing says, whether XNAT has as many bytes, or the bytes."""

    LISTING = "listing"
    SIZE = "size"
    BYTES = "bytes"


class Held(StrEnum):
    """What XNAT has of a file that was stored."""

    SAME = "same"
    MISSING = "missing"  # it is not listed, or listed and not on the disk
    DAMAGED = "damaged"  # the listing has its digest, and the bytes are others
    OTHER = "other"
    UNREADABLE = "unreadable"


async def _nobody_asks(_: Sequence[Attachment]) -> None:
    pass


@dataclass(slots=True)
class _Load:
    """An attachment that is to be sent, the MD5 of its bytes, and what came of the last attempt."""

    attachment: Attachment
    md5: str
    overwrite: bool = False
    kept: bool = False  # XNAT said that it has a file of this name, and kept that
    is_taken: bool = False  # XNAT said that it stored it, where it had none of this name
    is_own: bool = False  # XNAT lists the MD5 of these bytes
    is_hidden: bool = False  # XNAT has a file of this name that its catalog did not list
    tried: bool = False
    sent: bool = False  # what XNAT has of it may be from here
    trouble: str = ""


class _Pieces:
    """A large body that is in memory."""

    xxh3 = sha256 = None

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.size = len(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, self.size, _PIECE):
            yield self._body[start : start + _PIECE]


class Resources:
    """Fills resources: one by one call at a time, whatever it is called in it, and several side by side.

    `replace` puts files in the place of others of the same name, `replace_changed` only in that of their own earlier
    state. With `zips`, small files go several in one request. `event_reason` is what sites with an audit trail note,
    which refuse changes without one. A `dry_run` changes nothing. `depth` is how far what is there is looked into.
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
        self._replace_changed = replace_changed
        self._zips = zips
        self._reason = {"event_reason": event_reason or "attachments"}
        self._dry_run = dry_run
        self._depth = depth
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._addresses: dict[ResourceOwner, str] = {}
        self._turns: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        # Attachments, by their keys, of which a transfer of ours that broke may have left the beginning, and whether it
        # was to replace what the catalog had the MD5 of already, which then proves nothing.
        self._broken: dict[int, bool] = {}

    async def held(self, batch: AttachmentBatch) -> dict[int, Held]:
        """Tell what a resource has of each attachment that was stored in it, by its key.

        Raises: TransientError, RefusedError when there is nothing that it could belong to.
        """
        there = await self._list(
            await find_address(self._client, batch.resource.owner, self._policy), batch.resource.label
        )
        found: dict[int, Held] = {}
        turns = iter(batch.attachments)

        async def worker() -> None:
            for one in turns:
                found[one.key] = await self._held(one, there.get(one.name))

        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(_AT_A_TIME):
                    tasks.start_soon(worker)
        except BaseExceptionGroup as errors:
            raise primary_error(errors) from None
        return found

    async def _held(self, attachment: Attachment, there: ListedFile | None) -> Held:
        if there is None:
            return Held.MISSING
        try:
            found = await self._measured(there, {attachment.previous: attachment.previous_size})
        except RefusedError:
            return Held.UNREADABLE
        if found is None:
            return Held.MISSING
        if found[1] == attachment.previous:
            return Held.SAME
        return Held.DAMAGED if there.md5 == attachment.previous else Held.OTHER

    async def locate(self, place: ResourceOwner) -> str:
        """Return the address of a place, the same under whatever names, and keep it for all that is filled later.

        Raises: TransientError, RefusedError when there is nothing of the kind.
        """
        self._addresses[place] = address = await find_address(self._client, place, self._policy)
        return address

    async def ping(self) -> bool:
        """Tell whether XNAT answers at all."""
        return await self._client.ping()

    async def fill(
        self,
        batch: AttachmentBatch,
        source: Bytes,
        begin: Callable[[Sequence[Attachment]], Awaitable[None]] = _nobody_asks,
    ) -> list[AttachmentResult]:
        """Bring files into a resource, which is made if need be; it may be done again at any time.

        `begin` is told what is about to be sent. In a dry run what would be sent is PENDING.
        Raises: TransientError when the server is away, FatalError.
        """
        filed: list[AttachmentResult] = []
        loads: list[_Load] = []
        digests = await source.md5([(one.file, one.file.size) for one in batch.attachments])
        for attachment, digest in zip(batch.attachments, digests, strict=True):
            if isinstance(digest, SourceError):
                filed.append(AttachmentResult(attachment, AttachmentState.FAILED, str(digest)))
            else:
                loads.append(_Load(attachment, digest))
        if not loads:
            return filed
        resource = batch.resource
        try:
            base = self._addresses.get(resource.owner) or await find_address(self._client, resource.owner, self._policy)
            # A place may be named in several ways, and asked for under each.
            async with self._turns.setdefault(f"{base}/{resource.label}", anyio.Lock()):
                await self._fill(base, resource, loads, source, begin, filed)
        except RefusedError as error:
            left = [load.attachment for load in _unsettled(loads, filed)]
            filed += [AttachmentResult(one, AttachmentState.REFUSED, str(error), blames_server=True) for one in left]
        self._recall({one.attachment.key: None for one in filed})
        return filed

    async def _fill(
        self,
        base: str,
        resource: Resource,
        loads: list[_Load],
        source: Bytes,
        begin: Callable[[Sequence[Attachment]], Awaitable[None]],
        filed: list[AttachmentResult],
    ) -> None:
        """Look, and bring what is not there. Raises: RefusedError of all that is not in `filed` yet."""
        if self._dry_run and not await self._exists(base, resource.label):
            filed += [AttachmentResult(load.attachment, AttachmentState.PENDING, _WOULD_BE_MADE) for load in loads]
            return
        try:
            there = await self._list(base, resource.label, _ONCE)
        except TransientError:
            # It may be that XNAT does not know how to list what nobody has made yet.
            if not self._dry_run:
                await self._make(base, resource)
            there = await self._list(base, resource.label)
        waiting = await self._left(loads, there, source, filed)
        if self._dry_run:
            filed += [AttachmentResult(load.attachment, AttachmentState.PENDING) for load in waiting]
        elif waiting:
            await self._make(base, resource)
            await self._bring(base, resource.label, waiting, source, begin, filed)

    async def _bring(
        self,
        base: str,
        label: str,
        waiting: list[_Load],
        source: Bytes,
        begin: Callable[[Sequence[Attachment]], Awaitable[None]],
        filed: list[AttachmentResult],
    ) -> None:
        """Send, and look, until all is there or nothing helps. Raises: RefusedError, as `_fill`."""
        attempt = 0
        while waiting:
            attempt += 1
            for group in self._groups(waiting) if attempt == 1 else [[load] for load in waiting]:
                chosen = group
                if group[0].overwrite and not self._replace:
                    # Somebody may have put another file there since we looked.
                    chosen = await self._left(group, await self._list(base, label), source, filed)
                if chosen:
                    await begin([load.attachment for load in chosen])
                    filed += await self._send(base, label, chosen, source)
            there = await self._list(base, label)
            waiting = await self._left(_unsettled(waiting, filed), there, source, filed)
            # XNAT took each as it was to be, and has it not.
            hopeless = attempt > 1 and not any(load.trouble or (load.kept and load.overwrite) for load in waiting)
            if attempt >= self._policy.attempts or hopeless:
                filed += [_gave_up(load, there) for load in waiting]
                return
            if waiting:
                await self._sleep(self._policy.delay(attempt, retry_after=None, jitter=0.5))
                if not self._replace:
                    is_unseen = any(load.attachment.name not in there for load in waiting)
                    there = await (self._everything if is_unseen else self._list)(base, label)
                    waiting = await self._left(waiting, there, source, filed)

    async def _left(
        self, loads: Sequence[_Load], there: Mapping[str, ListedFile], source: Bytes, filed: list[AttachmentResult]
    ) -> list[_Load]:
        """Return what is to be sent, by what is there; what became of the others is added to `filed`."""
        left: list[_Load] = []
        for load in loads:
            verdict = await self._judge(load, there.get(load.attachment.name), source)
            if verdict is None:
                left.append(load)
            else:
                filed.append(verdict)
        return left

    async def _judge(self, load: _Load, there: ListedFile | None, source: Bytes) -> AttachmentResult | None:
        """Compare a file with what the resource holds under its name; None: it is to be sent.

        What is written over is ours: an earlier state of the file, where that is asked for, or the beginning of it.
        """
        attachment, size = load.attachment, load.attachment.file.size
        is_changed = attachment.previous not in {None, load.md5}
        stored = AttachmentResult(attachment, AttachmentState.STORED, md5=load.md5, sent=load.sent)
        broken = self._broken.get(attachment.key)
        may_be_broken = attachment.is_started or broken is not None
        load.overwrite = self._replace and (there is not None or load.tried)
        load.is_own = there is not None and there.md5 == load.md5
        if there is None:
            load.is_hidden = load.kept
            # What no listing shows, though XNAT has it, is ours if we have left it.
            load.overwrite |= load.kept and may_be_broken
            if is_changed and not (self._replace or self._replace_changed):
                return AttachmentResult(attachment, AttachmentState.REFUSED, _CHANGED, blames_server=True)
            return None
        if load.is_taken and not there.md5 and there.size == size:
            return stored
        # A listing of these very bytes is right, unless they were listed before as well.
        is_listed = (there.size, there.md5) == (size, load.md5)
        is_doubtful = may_be_broken and (not is_listed or bool(broken) or attachment.previous == load.md5)
        known = {attachment.previous: attachment.previous_size, load.md5: size}
        try:
            found = await self._measured(there, known, is_doubtful=is_doubtful)
        except RefusedError as error:
            return (
                None
                if self._replace
                else AttachmentResult(attachment, AttachmentState.REFUSED, str(error), blames_server=True)
            )
        if found == (size, load.md5):
            if there.md5 in {"", load.md5}:
                return stored
            # The digest is that of what it took the place of: a catalog that was not written then.
            load.overwrite = True
            return None
        if self._replace:
            return None
        if found is None:
            # It is listed, and XNAT has nothing of it: nothing is written over.
            ours = {load.md5, attachment.previous} if self._replace_changed or not is_changed else {load.md5}
            if there.md5 in ours or attachment.previous == load.md5:
                return None
        elif self._replace_changed and attachment.previous == found[1]:
            load.overwrite = True
            return None
        elif found[0] < size and (may_be_broken or load.is_own or load.is_hidden):
            # What a transfer that broke has left is the beginning of this very file: one of ours, or one that was to
            # replace what the MD5 is still listed of, or one that was in no catalog.
            (beginning,) = await source.md5([(attachment.file, found[0])])
            if found[1] == beginning:
                load.overwrite = True
                # A catalog that is refreshed forgets whose it was.
                self._broken[attachment.key] = broken or load.is_own
                return None
        return AttachmentResult(attachment, AttachmentState.REFUSED, _TAKEN, blames_server=True)

    async def _measured(
        self, there: ListedFile, known: Mapping[str | None, int | None], *, is_doubtful: bool = False
    ) -> tuple[int, str] | None:
        """Return the size and the MD5 of what XNAT has; None when it lists it, and has nothing to hand out.

        The listing tells them, unless it is doubtful, has no MD5, or that of a file that is `known`, and not its size.
        Raises: TransientError, RefusedError when this user may not have it.
        """
        agrees = there.size is not None and known.get(there.md5, there.size) == there.size
        if there.md5 and agrees and not is_doubtful:
            if self._depth is Depth.LISTING and there.size is not None:
                return there.size, there.md5
            if self._depth is Depth.SIZE:
                # What is right is cheap to see: of anything else the bytes tell what it is.
                size = await self._client.request("HEAD", there.uri, parse_file_size, self._policy)
                if size is not None and size == there.size:
                    return size, there.md5
        return await self._client.download_digest(there.uri, self._policy)

    def _groups(self, loads: Sequence[_Load]) -> Iterable[list[_Load]]:
        """Divide what is to be sent into requests: small files of a kind in zips, the others one by one."""
        kinds: dict[tuple[str, str, bool], list[_Load]] = {}
        for load in loads:
            attachment = load.attachment
            if not self._zips or attachment.file.size > _SMALL:
                yield [load]
                continue
            kind = (attachment.format, attachment.content, load.overwrite)
            group = kinds.setdefault(kind, [])
            size = sum(one.attachment.file.size for one in group)
            if group and (len(group) >= _ZIP_FILES or size + attachment.file.size > _ZIP_BYTES):
                yield group
                group = kinds[kind] = []
            group.append(load)
        yield from kinds.values()

    async def _send(self, base: str, label: str, group: list[_Load], source: Bytes) -> list[AttachmentResult]:
        """Send files in one request, and return those that are settled by that: unreadable ones, and refused ones."""
        filed = []
        bodies = {}
        for load, body in zip(group, await source.read([load.attachment.file for load in group]), strict=True):
            if isinstance(body, SourceError):
                filed.append(AttachmentResult(load.attachment, AttachmentState.FAILED, str(body)))
            else:
                bodies[load.attachment.name] = body
        loads = [load for load in group if load.attachment.name in bodies]
        if not loads:
            return filed
        first = loads[0].attachment
        how = {
            "inbody": "true",
            "format": first.format,
            "content": first.content,
            "overwrite": "true" if all(load.overwrite for load in loads) else "",
            **self._reason,
        }
        small = {name: body for name, body in bodies.items() if isinstance(body, bytes)}
        if len(loads) > 1:
            body = await anyio.to_thread.run_sync(_zipped, small)
            body = body if len(body) <= _LARGE else _Pieces(body)
            name, how["extract"] = "attachments.zip", "true"
        else:
            body, name = bodies[first.name], first.name
        query = urlencode({key: value for key, value in how.items() if value}, quote_via=quote)
        url = self._client.url(f"{base}/resources/{quote(label, safe='')}/files/{name}?{query}")
        trouble, kept = "", False
        before = {load.attachment.key: self._broken.get(load.attachment.key) for load in loads}
        self._broken |= {load.attachment.key: before[load.attachment.key] or load.is_own for load in loads}
        try:
            # PUT would do the same, but aiohttp repeats that by itself, older ones with what is left of a body.
            kept = await send(self._client, "POST", url, body, is_duplicate, _BYTES)
        except TransientError as error:
            if not error.may_have_taken_effect:
                self._recall(before)
            if error.unreachable:
                raise
            trouble = str(error)
        except SourceError as error:
            return [*filed, AttachmentResult(first, AttachmentState.FAILED, str(error))]
        except RefusedError as error:
            if len(loads) == 1:
                return [
                    *filed,
                    AttachmentResult(first, AttachmentState.REFUSED, str(error), blames_server=error.blames_server),
                ]
            trouble = str(error)
        if not trouble:
            # XNAT has come to the end of it, or wrote nothing.
            self._recall(before if kept else dict.fromkeys(before))
        for load in loads:
            load.trouble, load.kept, load.tried = trouble, kept, True
            load.is_taken = not (trouble or kept or load.overwrite)
            load.sent = load.sent or not kept or len(loads) > 1
        return filed

    def _recall(self, broken: Mapping[int, bool | None]) -> None:
        """Let it be known of these attachments again what was known before, if anything."""
        for key, is_own in broken.items():
            self._broken.pop(key, None)
            if is_own is not None:
                self._broken[key] = is_own

    async def _make(self, base: str, resource: Resource) -> None:
        """Make the resource; two first files that make it between them may make two (ResourceModifierA)."""
        query = urlencode({**({"tags": resource.tags} if resource.tags else {}), **self._reason}, quote_via=quote)
        path = f"{base}/resources/{quote(resource.label, safe='')}?{query}"
        await self._client.request("PUT", path, check_creation, self._policy)

    async def _exists(self, base: str, label: str) -> bool:
        """Whether there is a resource of this label; no files are listed of an empty one either."""
        return label in await self._client.request(
            "GET", f"{base}/resources?format=json", parse_resource_labels, self._policy
        )

    async def _list(self, base: str, label: str, policy: RetryPolicy | None = None) -> dict[str, ListedFile]:
        path = f"{base}/resources/{quote(label, safe='')}/files?format=json"
        return await self._client.request("GET", path, partial(parse_files, resource=label), policy or self._policy)

    async def _everything(self, base: str, label: str) -> dict[str, ListedFile]:
        """List a resource, with what is on its disk and in no catalog: transfers that broke, or lost a race.

        Where the catalog cannot be refreshed (RefreshCatalog), that stays hidden.
        """
        query = urlencode(
            {
                "resource": f"{base.replace('/data/', '/archive/', 1)}/resources/{label}",
                "options": "append,checksum,populateStats",
                **self._reason,
            },
            quote_via=quote,
        )
        try:
            await self._client.request("POST", f"/data/services/refresh/catalog?{query}", check_refresh, _ONCE)
        except RefusedError:
            pass
        except TransientError as error:
            if error.overload or error.unreachable:
                raise
        return await self._list(base, label)


def _unsettled(loads: Iterable[_Load], filed: Iterable[AttachmentResult]) -> list[_Load]:
    settled = {one.attachment.key for one in filed}
    return [load for load in loads if load.attachment.key not in settled]


def _gave_up(load: _Load, there: Mapping[str, ListedFile]) -> AttachmentResult:
    if load.trouble:
        return AttachmentResult(load.attachment, AttachmentState.FAILED, load.trouble)
    if load.attachment.name in there:
        return AttachmentResult(load.attachment, AttachmentState.FAILED, "XNAT holds other bytes than were sent")
    return AttachmentResult(
        load.attachment, AttachmentState.REFUSED, _HIDDEN if load.kept else _NOTHING_STORED, blames_server=True
    )


def _zipped(bodies: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, body in bodies.items():
            # With a date of its own, the same files make the same zip.
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()
