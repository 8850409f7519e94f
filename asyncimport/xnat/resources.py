"""Files into resources of the archive: look at what is there, send what is not, look again.

XNAT answers 200 to much that it did not do: to a user who may not edit, to a name that is taken. It loses one of two
files that are written into one resource at a time, and leaves the beginning of a file whose transfer broke. So an
answer is never believed: what counts is the size and the MD5 in the listing afterwards (FileList, CatalogUtils).
"""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlencode
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

from asyncimport import replies
from asyncimport.ends import Bytes
from asyncimport.errors import RefusedError, SourceError, TransientError
from asyncimport.model import Attachment, AttachmentState, Enclosure, Filed, Place, Resource
from asyncimport.replies import ListedFile
from asyncimport.retry import RetryPolicy
from asyncimport.xnat.addresses import address_of
from asyncimport.xnat.client import Client
from asyncimport.xnat.sending import send

__all__ = ["Resources"]

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
_NOTHING_STORED = "XNAT answered 200 and stored nothing; this user may not be allowed to edit here"
_WOULD_BE_MADE = "the resource would be made"
_TAKEN = "the resource holds another file of this name; `asyncimport attach --replace` puts this one in its place"


@dataclass(slots=True)
class _Load:
    """An attachment that is to be sent, the MD5 of its bytes, and what came of the last attempt."""

    attachment: Attachment
    md5: str
    overwrite: bool = False
    kept: bool = False  # XNAT said that it has a file of this name, and kept that
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
    which refuse changes without one. A `dry_run` changes nothing.
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
        policy: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._client = client
        self._replace = replace
        self._replace_changed = replace_changed
        self._zips = zips
        self._reason = {"event_reason": event_reason or "attachments"}
        self._dry_run = dry_run
        self._policy = policy or RetryPolicy()
        self._sleep = sleep
        self._addresses: dict[Place, str] = {}
        self._turns: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def files(self, place: Place, label: str) -> Mapping[str, ListedFile]:
        """Return what a resource holds, by path.

        Raises: TransientError, RefusedError when there is nothing that it could belong to.
        """
        return await self._list(await address_of(self._client, place, self._policy), label)

    async def locate(self, place: Place) -> str:
        """Return the address of a place, the same under whatever names, and keep it for all that is filled later.

        Raises: TransientError, RefusedError when there is nothing of the kind.
        """
        self._addresses[place] = address = await address_of(self._client, place, self._policy)
        return address

    async def is_there(self) -> bool:
        """Tell whether XNAT answers at all."""
        return await self._client.is_there()

    async def fill(self, enclosure: Enclosure, source: Bytes) -> list[Filed]:
        """Bring files into a resource, which is made if need be; it may be done again at any time.

        In a dry run what would be sent is PENDING. Raises: TransientError when the server is away, FatalError.
        """
        filed: list[Filed] = []
        loads: list[_Load] = []
        digests = await source.md5([(one.file, one.file.size) for one in enclosure.attachments])
        for attachment, digest in zip(enclosure.attachments, digests, strict=True):
            if isinstance(digest, SourceError):
                filed.append(Filed(attachment, AttachmentState.FAILED, str(digest)))
            else:
                loads.append(_Load(attachment, digest))
        if not loads:
            return filed
        resource = enclosure.resource
        try:
            base = self._addresses.get(resource.place) or await address_of(self._client, resource.place, self._policy)
            # A place may be named in several ways, and asked for under each.
            async with self._turns.setdefault(f"{base}/{resource.label}", anyio.Lock()):
                await self._fill(base, resource, loads, source, filed)
        except RefusedError as error:
            settled = {one.attachment.key for one in filed}
            left = [load.attachment for load in loads if load.attachment.key not in settled]
            filed += [Filed(one, AttachmentState.REFUSED, str(error)) for one in left]
        return filed

    async def _fill(self, base: str, resource: Resource, loads: list[_Load], source: Bytes, filed: list[Filed]) -> None:
        """Look, and bring what is not there. Raises: RefusedError of all that is not in `filed` yet."""
        if self._dry_run and not await self._exists(base, resource.label):
            filed += [Filed(load.attachment, AttachmentState.PENDING, _WOULD_BE_MADE) for load in loads]
            return
        try:
            there = await self._list(base, resource.label, _ONCE)
        except TransientError:
            # It may be that XNAT does not know how to list what nobody has made yet.
            if not self._dry_run:
                await self._make(base, resource)
            there = await self._list(base, resource.label)
        waiting: list[_Load] = []
        for load in loads:
            verdict = await self._judge(load, there.get(load.attachment.name), source)
            if verdict is None and self._dry_run:
                verdict = Filed(load.attachment, AttachmentState.PENDING)
            if verdict is None:
                waiting.append(load)
            else:
                filed.append(verdict)
        if waiting:
            await self._make(base, resource)
            await self._bring(base, resource.label, waiting, source, filed)

    async def _bring(self, base: str, label: str, waiting: list[_Load], source: Bytes, filed: list[Filed]) -> None:
        """Send, and look, until all is there or nothing helps. Raises: RefusedError, as `_fill`."""
        attempt = 0
        while waiting:
            attempt += 1
            for group in self._groups(waiting) if attempt == 1 else [[load] for load in waiting]:
                filed += await self._send(base, label, group, source)
            settled = {one.attachment.key for one in filed}
            waiting = [load for load in waiting if load.attachment.key not in settled]
            there = await self._list(base, label)
            left: list[_Load] = []
            for load in waiting:
                found = there.get(load.attachment.name)
                if found is not None and _fits(load, found):
                    filed.append(Filed(load.attachment, AttachmentState.STORED, md5=load.md5, sent=True))
                elif found and not load.overwrite and (other := await self._judge(load, found, source)):
                    # Somebody else has put it there since we looked: we may not write over anything yet.
                    filed.append(other)
                else:
                    # What XNAT has on its disk and not in its catalog, or in part, is ours.
                    load.overwrite = True
                    left.append(load)
            hopeless = attempt > 1 and not any(load.trouble for load in left)
            if attempt >= self._policy.attempts or hopeless:
                filed += [_gave_up(load, there) for load in left]
                return
            if waiting := left:
                await self._sleep(self._policy.delay(attempt, hint=None, jitter=0.5))

    async def _judge(self, load: _Load, there: ListedFile | None, source: Bytes) -> Filed | None:
        """Compare a file with what the resource holds under its name; None: it is to be sent."""
        if there is None:
            return None
        attachment = load.attachment
        size, md5 = there.size, there.md5
        if size is None or not md5:
            # A site without checksums: only the bytes tell.
            size, md5 = await self._downloaded(there)
        if (size, md5) == (attachment.file.size, load.md5):
            return Filed(attachment, AttachmentState.STORED, md5=md5)
        if self._replace or (self._replace_changed and attachment.previous == md5):
            load.overwrite = True
            return None
        if size < attachment.file.size:
            # The beginning of this very file is what a transfer that broke has left; one that was to replace the file
            # has left the MD5 of the whole with it.
            (beginning,) = await source.md5([(attachment.file, size)])
            if md5 in (beginning, load.md5):
                load.overwrite = True
                return None
        return Filed(attachment, AttachmentState.REFUSED, _TAKEN)

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

    async def _send(self, base: str, label: str, group: list[_Load], source: Bytes) -> list[Filed]:
        """Send files in one request, and return those that are settled by that: unreadable ones, and refused ones."""
        filed = []
        bodies = {}
        for load, body in zip(group, await source.read([load.attachment.file for load in group]), strict=True):
            if isinstance(body, SourceError):
                filed.append(Filed(load.attachment, AttachmentState.FAILED, str(body)))
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
            "overwrite": "true" if loads[0].overwrite else "",
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
        try:
            # PUT would do the same, but aiohttp repeats that by itself, older ones with what is left of a body.
            kept = await send(self._client, "POST", url, body, replies.duplicates, _BYTES)
        except TransientError as error:
            if error.unreachable:
                raise
            trouble = str(error)
        except SourceError as error:
            return [*filed, Filed(first, AttachmentState.FAILED, str(error))]
        except RefusedError as error:
            if len(loads) == 1:
                return [*filed, Filed(first, AttachmentState.REFUSED, str(error))]
            trouble = str(error)
        for load in loads:
            load.trouble, load.kept = trouble, kept
        return filed

    async def _make(self, base: str, resource: Resource) -> None:
        """Make the resource; two first files that make it between them may make two (ResourceModifierA)."""
        query = urlencode({**({"tags": resource.tags} if resource.tags else {}), **self._reason}, quote_via=quote)
        path = f"{base}/resources/{quote(resource.label, safe='')}?{query}"
        await self._client.ask("PUT", path, replies.resource_made, self._policy)

    async def _exists(self, base: str, label: str) -> bool:
        """Whether there is a resource of this label; no files are listed of an empty one either."""
        return label in await self._client.ask("GET", f"{base}/resources?format=json", replies.resources, self._policy)

    async def _list(self, base: str, label: str, policy: RetryPolicy | None = None) -> dict[str, ListedFile]:
        path = f"{base}/resources/{quote(label, safe='')}/files?format=json"
        return await self._client.ask("GET", path, partial(replies.files, resource=label), policy or self._policy)

    async def _downloaded(self, there: ListedFile) -> tuple[int, str]:
        """Return the size and the MD5 of what XNAT holds; 0 and "" where it does not hand that out."""
        scratch = await anyio.to_thread.run_sync(TemporaryDirectory)
        try:
            path = Path(scratch.name, "file")
            await self._client.download(there.uri, path, self._policy)
            return await anyio.to_thread.run_sync(_size_and_md5, path)
        except RefusedError:
            return 0, ""
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(scratch.cleanup)


def _fits(load: _Load, there: ListedFile) -> bool:
    """Whether what is listed is what was sent; a site without checksums tells only if XNAT said that it took it."""
    size = load.attachment.file.size
    if there.md5:
        return there.md5 == load.md5 and there.size in {None, size}
    return there.size == size and not load.kept and not load.trouble


def _gave_up(load: _Load, there: Mapping[str, ListedFile]) -> Filed:
    if load.trouble:
        return Filed(load.attachment, AttachmentState.FAILED, load.trouble)
    if load.attachment.name in there:
        return Filed(load.attachment, AttachmentState.FAILED, "XNAT holds other bytes than were sent")
    return Filed(load.attachment, AttachmentState.REFUSED, _NOTHING_STORED)


def _zipped(bodies: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, body in bodies.items():
            # With a date of its own, the same files make the same zip.
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _size_and_md5(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False))
        return file.tell(), digest.hexdigest()
