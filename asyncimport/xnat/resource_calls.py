"""The address of a resource's owner, and the calls on one resource: create it, list its files, send files into it."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from urllib.parse import quote, urlencode

import anyio.to_thread

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.attachments import Resource, ResourceOwner
from asyncimport.model.files import Body, Session
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import Archive, scan_path
from asyncimport.xnat.body import send
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.identity import subject_conflict
from asyncimport.xnat.replies.resources import (
    ListedFile,
    check_creation,
    check_refresh,
    is_duplicate,
    parse_files,
    parse_resource_labels,
    parse_scan_ids,
)
from asyncimport.xnat.replies.subjects import parse_owners
from asyncimport.xnat.zip_body import zip_files


async def find_address(client: Client, owner: ResourceOwner, policy: RetryPolicy) -> str:
    """Return the one path of an owner, all of whose names must match. Raises: TransientError, RefusedError."""
    # XNAT takes a name in an address for a label or an ID, in an order that differs between its classes; some look for
    # an ID in all projects (ExperimentResource, SubjectResource, XNATTemplate). Only a project's listing, filtered by
    # label, knows just labels; only an address without a project knows just IDs.
    if owner.session or owner.study_uid:
        accession = await _find_session(client, owner, policy)
        path = f"/data/experiments/{accession}"
        if not owner.scan:
            return path
        # XNAT takes types and patterns for scans too, and looks elsewhere if there is no such scan.
        if owner.scan not in await client.request("GET", f"{path}/scans?format=json", parse_scan_ids, policy):
            raise RefusedError(f"the session has no scan {owner.scan}")
        return scan_path(accession, owner.scan)
    if owner.subject:
        return f"/data/subjects/{await _find_subject(client, owner, policy)}"
    return f"/data/projects/{owner.project}"


async def _find_subject(client: Client, owner: ResourceOwner, policy: RetryPolicy) -> str:
    label = quote(owner.subject, safe="")
    path = f"/data/projects/{owner.project}/subjects?label={label}&columns=ID,label,project&format=json"
    listed = await client.request("GET", path, parse_owners, policy)
    projects = {accession: project for accession, (project, shown) in listed.items() if shown == owner.subject}
    if not projects:
        raise RefusedError(f"the archive has no such subject in project {owner.project} ({owner.subject})")
    return _only_own(projects, owner, f"subjects of this label in project {owner.project} ({owner.subject})")


async def _find_session(client: Client, owner: ResourceOwner, policy: RetryPolicy) -> str:
    archive = Archive(client, policy)
    if owner.session:
        several = f"sessions of this label in project {owner.project} ({owner.session})"
        labelled = await archive.list_labelled(owner.project, [owner.session])
        labelled = [one for one in labelled if one.label == owner.session]
        found = [one for one in labelled if not owner.study_uid or one.study_uid in {"", owner.study_uid}]
        if not found:
            what = "such session of this study" if labelled else "such session"
            raise RefusedError(f"the archive has no {what} in project {owner.project} ({owner.session})")
    else:
        of_study = f"of study {owner.study_uid} in project {owner.project}"
        several = f"sessions {of_study}"
        found = await archive.list_study(owner.project, owner.study_uid)
        if not found:
            raise RefusedError(f"the archive has no session {of_study}")
    accession = _only_own({one.accession: one.project for one in found}, owner, several)
    subject = next(one.subject for one in found if one.accession == accession)
    wanted = Session(owner.project, owner.subject, owner.session, owner.study_uid)
    if owner.subject and (problem := subject_conflict(subject, wanted)):
        raise RefusedError(problem)
    return accession


def _only_own(projects: Mapping[str, str], owner: ResourceOwner, several: str) -> str:
    """Return the one accession ID that belongs to the owner's project; "" is a project that XNAT does not show."""
    own = [accession for accession, project in projects.items() if project in {"", owner.project}]
    if len(own) == 1:
        return own[0]
    if own:
        raise RefusedError(f"the archive has {len(own)} {several}")
    others = ", ".join(sorted(set(projects.values())))
    raise RefusedError(f"it belongs to another project, which shares it: attach it there ({others})")


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
            packed = await anyio.to_thread.run_sync(zip_files, small)
            body = packed if len(packed) <= _MAX_WHOLE_BYTES else _ChunkedBytes(packed)
            name, options["extract"] = "attachments.zip", "true"
        url = self._client.url(f"{self._path}/files/{name}?{_query(options)}")
        # PUT would do the same, but aiohttp repeats it by itself, older versions with only the rest of a body.
        return await send(self._client, "POST", url, body, is_duplicate, _HEADERS)


def _query(fields: Mapping[str, str]) -> str:
    return urlencode({name: value for name, value in fields.items() if value}, quote_via=quote)
