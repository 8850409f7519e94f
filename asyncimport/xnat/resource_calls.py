"""The calls on one resource: create it, list its files, send files into it."""

import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from functools import partial
from urllib.parse import quote, urlencode

import anyio.to_thread

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.attachments import Resource
from asyncimport.model.files import Body
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.body import send
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.resources import (
    ListedFile,
    check_creation,
    check_refresh,
    is_duplicate,
    parse_files,
    parse_resource_labels,
)

ONCE = RetryPolicy(attempts=1)
# aiohttp warns of larger bodies in one piece, which block everything else.
_MAX_WHOLE_BYTES = 1 << 20
_CHUNK_BYTES = 256 << 10
_HEADERS = {"Content-Type": "application/octet-stream"}


class _ChunkedBytes:
    """A large body in memory, sent in chunks."""

    xxh3 = sha256 = None

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.size = len(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, self.size, _CHUNK_BYTES):
            yield self._body[start : start + _CHUNK_BYTES]


class ResourceCalls:
    """Calls on a resource, with an `event_reason` for audit trails. All raise TransientError and RefusedError."""

    def __init__(
        self, client: Client, policy: RetryPolicy, owner_path: str, resource: Resource, event_reason: str
    ) -> None:
        self._client = client
        self._policy = policy
        self._owner_path = owner_path
        self._label = resource.label
        self._tags = {"tags": resource.tags} if resource.tags else {}
        self._path = f"{owner_path}/resources/{quote(resource.label, safe='')}"
        self._reason = {"event_reason": event_reason or "attachments"}

    async def exists(self) -> bool:
        """Whether there is such a resource; the files of an empty one would not tell."""
        path = f"{self._owner_path}/resources?format=json"
        return self._label in await self._client.request("GET", path, parse_resource_labels, self._policy)

    async def create(self) -> None:
        """Create the resource, if it does not exist. Two first files at once might create two (ResourceModifierA)."""
        path = f"{self._path}?{_query({**self._tags, **self._reason})}"
        await self._client.request("PUT", path, check_creation, self._policy)

    async def list_files(self, policy: RetryPolicy | None = None) -> dict[str, ListedFile]:
        """Return the files in the catalog by their paths."""
        parse = partial(parse_files, resource=self._label)
        return await self._client.request("GET", f"{self._path}/files?format=json", parse, policy or self._policy)

    async def refresh_and_list(self) -> dict[str, ListedFile]:
        """Return all files, also those that interruptions or races left in no catalog, if allowed (RefreshCatalog)."""
        query = _query(
            {
                "resource": f"{self._owner_path.replace('/data/', '/archive/', 1)}/resources/{self._label}",
                "options": "append,checksum,populateStats",
                **self._reason,
            }
        )
        try:
            await self._client.request("POST", f"/data/services/refresh/catalog?{query}", check_refresh, ONCE)
        except RefusedError:
            pass
        except TransientError as error:
            if error.overload or error.unreachable:
                raise
        return await self.list_files()

    async def send(self, bodies: Mapping[str, Body], *, file_format: str, content: str, overwrites: bool) -> bool:
        """Send files in one request, several as a zip; True: XNAT kept one of such a name. Raises also SourceError."""
        options = {
            "inbody": "true",
            "format": file_format,
            "content": content,
            "overwrite": "true" if overwrites else "",
            **self._reason,
        }
        ((name, body), *more) = bodies.items()
        if more:
            small = {one: data for one, data in bodies.items() if isinstance(data, bytes)}
            packed = await anyio.to_thread.run_sync(_zip, small)
            body = packed if len(packed) <= _MAX_WHOLE_BYTES else _ChunkedBytes(packed)
            name, options["extract"] = "attachments.zip", "true"
        url = self._client.url(f"{self._path}/files/{name}?{_query(options)}")
        # PUT would do the same, but aiohttp repeats it by itself, older versions with only the rest of a body.
        return await send(self._client, "POST", url, body, is_duplicate, _HEADERS)


def _query(fields: Mapping[str, str]) -> str:
    return urlencode({name: value for name, value in fields.items() if value}, quote_via=quote)


def _zip(bodies: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, body in bodies.items():
            # ZipInfo has a fixed date, so the same files make the same zip.
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return out.getvalue()
