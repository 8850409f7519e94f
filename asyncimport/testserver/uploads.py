"""PUT and POST of files to resources (FileList.handlePost): what is stored, what is catalogued, what is told.

A catalog is read, the files are written, and the catalog is written again, unless somebody else has done so meanwhile:
then the files stay on the disk, and no catalog knows of them (CatalogUtils, ResourceModifierA).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import unquote_plus

import anyio
from aiohttp import web
from anyio import to_thread

from .bodies import BadArchiveError, entries, form_parts, is_archive
from .call import Call
from .catalogs import imported
from .names import escape_parameter
from .pages import Refused, text
from .places import Place, Where, labelled, made, written
from .state import NO_SERIES, Described, Resource, StoredFile
from .storage import Body

__all__ = ["described", "file_name", "upload"]

# What RequestUtil takes for a file; of anything else it has to be said that the file is the body.
_FILES = {
    "application/dicom": "dcm",
    "application/gzip": "gz",
    "application/msword": "doc",
    "application/octet-stream": "dat",
    "application/pdf": "pdf",
    "application/x-gtar": "tar",
    "application/x-gzip": "gz",
    "application/x-tar": "tar",
    "application/zip": "zip",
    "text/csv": "csv",
    "text/plain": "txt",
    "text/xml": "xml",
}
_FAMILIES = ("image/", "application/vnd.ms-", "application/vnd.openxmlformats")


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A file as it came, by its path within the resource."""

    name: str
    body: Body


async def upload(call: Call, label: str = "", name: str = "", **where: str) -> web.StreamResponse:
    """Store the files of a request: 200 and nothing else, also where there was no right to (FileList.handlePost)."""
    place = written(call, where)
    if not call.may("edit", place.project):
        await call.xnat.storage.discard(await call.xnat.storage.receive(call.body, stop_after=call.stop_after))
        return text()  # a missing else branch
    if call.lacks_reason and _counts(call):
        raise Refused(500, "Justification required.")
    kind = _body_kind(call)
    label = escape_parameter(label)
    before = _target(place, label)
    version = before.version if before is not None else 0
    arrived, params = await _received(call, file_name(name), kind)
    said = described(params)
    resource = _target(place, label) or made(call.xnat, place, label, Described())
    _describe(resource, said)
    await anyio.sleep(call.xnat.timing.saving_seconds)
    stored: list[StoredFile] = []
    duplicates = []
    for one in arrived:
        if not _flag(params, "overwrite") and await _is_on_disk(call, place, resource, one.name):
            duplicates.append(one.name)
            await call.xnat.storage.discard(one.body)
            continue
        try:
            stored.append(await _written(call, place, resource, one, said))
        except Refused:
            _leave(call, resource, stored)
            raise
    if stored and resource.version != version:
        _leave(call, resource, stored)
        path = "/".join((*place.folder(resource), f"{resource.label}_catalog.xml"))
        raise Refused(500, f"Another thread or process modified {path} since I last read it. Nothing has been saved.")
    if stored:
        _catalogue(resource, stored, count=_counts(call))
    if duplicates:
        body = json.dumps({"duplicates": duplicates}, separators=(",", ":"))
        return web.Response(text=body, content_type="text/html")
    return text()


def file_name(raw: str) -> str:
    """Return the name that the rest of an address gives: it is decoded only where it has a blank or a plus sign."""
    return unquote_plus(raw) if "%20" in raw or "%2b" in raw.lower() else raw


def described(params: Where) -> Described:
    """Return what a request says of what it brings."""
    tags = tuple(filter(None, params.get("tags", "").split(",")))
    return Described(params.get("format", ""), params.get("content", ""), params.get("description", ""), tags)


def _describe(resource: Resource, said: Described) -> None:
    """Let a request describe the resource too; its tags are added once more (CatalogUtils.configureResource)."""
    if said == Described():
        return
    old = resource.said or imported(resource.label)
    resource.said = Described(
        said.format or old.format,
        said.content or old.content,
        said.description or old.description,
        old.tags + said.tags,
    )


def _counts(call: Call) -> bool:
    """Tell whether the database is to hear of it; of this flag only true and 1 are true."""
    return call.params.get("update-stats", "true").lower() in {"true", "1"}


def _flag(params: Where, name: str) -> bool:
    return params.get(name, "false").lower() not in {"false", "0"}


def _target(place: Place, label: str) -> Resource | None:
    """Return the resource of a label or number; the first there is, where the address names none."""
    if not label:
        return next(iter(place.resources.values()), None)
    found = labelled([place], label)
    return found[0][1] if found else None


def _body_kind(call: Call) -> str:
    """Return "multipart", or the extension of files of the body's type; refuse what cannot be a file.

    A body of unknown length, or an empty one, ends in a FileUploadException; a zip file alone is not looked at so.
    """
    headers = call.request.headers
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and "Content-Encoding" not in headers else -1
    inbody = call.flag("inbody")
    if "reference" in call.query:
        raise Refused(501, "Files of the server's own are not part of this test server")
    if kind.startswith("multipart/"):
        if inbody:
            raise Refused(
                400,
                "In-body File posts must include the file directly as the body of the message "
                "(not as part of multi-part form data).",
            )
        return "multipart"
    if not inbody and kind not in _FILES and not kind.startswith(_FAMILIES):
        method = call.request.method
        if size == 0:
            raise Refused(
                400,
                f"You tried to {method} to this service, but didn't provide any data (found request entity size of 0). "
                "Please check the format of your service request.",
            )
        raise Refused(
            400,
            f"You tried to {method} a payload of {size} to this service, but didn't provide any data. If you think you "
            "sent data to upload, you can try to specify the query string parameter inbody=true or use "
            "multipart/form-data encoding.",
        )
    if size < 1 and kind != "application/zip":
        raise Refused(500)
    return _FILES.get(kind, "dat")


async def _received(call: Call, name: str, kind: str) -> tuple[list[_Arrived], Where]:
    """Take the body in; return its files, and the request's parameters with those of a form."""
    storage = call.xnat.storage
    if kind != "multipart":
        body = await storage.receive(call.body, stop_after=call.stop_after)
        arrived = [_Arrived(name or f"upload.{kind}", body)]
        return await _unpacked(call, arrived, call.params), call.params
    data = await storage.collect(call.body, stop_after=call.stop_after)
    if data is None:
        raise Refused(500)  # of a form that is cut nothing is stored: it is taken to pieces before
    parts = form_parts(data, call.request.headers["Content-Type"])
    files = [part for part in parts if part.filename is not None]
    if any(part.name == "reference" for part in parts):
        raise Refused(400, "A form cannot refer to files of the server's own.")
    if not files:
        method = call.request.method
        raise Refused(400, f"You tried to {method} to this service, but didn't provide any data.")
    params = {**call.params, **{part.name: escape_parameter(part.data.decode()) for part in parts if part not in files}}
    arrived = [_Arrived(name or part.filename or "upload.dat", _body(part.data)) for part in files]
    return await _unpacked(call, arrived, params), params


def _body(data: bytes) -> Body:
    return Body(data, len(data), None, None, complete=True)


async def _unpacked(call: Call, arrived: list[_Arrived], params: Where) -> list[_Arrived]:
    """Return the entries in the place of archives, where that is asked for."""
    if not _flag(params, "extract"):
        return arrived
    found: list[_Arrived] = []
    for one in arrived:
        if not is_archive(one.name):
            found.append(one)
            continue
        body = one.body
        if not body.complete:
            await call.xnat.storage.discard(body)
            raise Refused(500)
        if body.spooled is None and len(body.head) < body.size:
            raise Refused(501, "This test server keeps sizes and digests of files only.")
        source = body.head if body.spooled is None else body.spooled
        folder = one.name.rpartition("/")[0]
        try:
            inner = await to_thread.run_sync(entries, one.name, source)
        except BadArchiveError as error:
            raise Refused(500, str(error)) from None
        finally:
            await call.xnat.storage.discard(body)
        found += [_Arrived(f"{folder}/{path}" if folder else path, _body(data)) for path, data in inner]
    return found


async def _written(call: Call, place: Place, resource: Resource, arrived: _Arrived, said: Described) -> StoredFile:
    """Write a file; what is cut, by the client or by a full disk, stays at its place, and no catalog knows of it."""
    body, name = arrived.body, arrived.name
    if call.xnat.disk_full or call.disk_full is not None:
        await call.xnat.storage.discard(body)
        if call.disk_full is None or not call.disk_full.partial:
            raise Refused(500, "No space left on device")
        half = len(body.head) // 2
        body = Body(body.head[:half], half, None, None, complete=False)
    try:
        size, digest = await call.xnat.storage.write(place.file(resource, name), body)
    except OSError as error:
        raise Refused(500, error.strerror or "") from None  # such as a folder of the file's name
    file = StoredFile(name, size, digest, "", NO_SERIES, body.complete, said=said)
    if not body.complete:
        _leave(call, resource, [file])
        raise Refused(500)
    return file


async def _is_on_disk(call: Call, place: Place, resource: Resource, name: str) -> bool:
    """Tell whether there is a file of this name, in the catalog or not (CatalogUtils.storeCatalogEntry)."""
    if not resource.has_on_disk(name):
        return False
    parts, storage = place.file(resource, name), call.xnat.storage
    return storage.path(parts) is None or await storage.measure(parts, digest=False) is not None


def _leave(call: Call, resource: Resource, files: Iterable[StoredFile]) -> None:
    """Leave files on the disk, with no catalog to know of them.

    An entry of the same name stays as it was, digest included. So does its size, where the catalog has that.
    """
    for file in files:
        old = resource.files.get(file.name)
        if old is None:
            resource.uncatalogued[file.name] = file
        else:
            size = old.size if call.xnat.profile.catalog_has_sizes else file.size
            resource.files[file.name] = replace(old, size=size, complete=file.complete, on_disk=True)


def _catalogue(resource: Resource, stored: Iterable[StoredFile], *, count: bool) -> None:
    """Write the catalog again."""
    if not count:
        resource.told = resource.stats
    for file in stored:
        resource.uncatalogued.pop(file.name, None)
        resource.files[file.name] = file
    resource.version += 1
    if count:
        resource.recount()
