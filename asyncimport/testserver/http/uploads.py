"""PUT and POST of files to resources (FileList.handlePost).

XNAT reads the catalog, writes the files, and writes the catalog again. If another request has done so meanwhile, the
files stay on the disk, and no catalog lists them (CatalogUtils, ResourceModifierA).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import unquote_plus

import anyio
from aiohttp import web
from anyio import to_thread

from ..site.catalogs import dicom_metadata
from ..site.names import escape_parameter
from ..site.resource_owners import ResourceOwner, create_resource, resources_named
from ..site.resources import NO_SERIES, FileMetadata, Resource, StoredFile
from ..site.storage import Body
from ..site.unpacking import BadArchiveError, is_archive, unpack
from .addresses import owner_to_change
from .bodies import FILE_EXTENSIONS, form_parts, is_file_type
from .request_context import RequestContext, is_set
from .responses import HttpError, text


@dataclass(frozen=True, slots=True)
class _UploadedFile:
    """An uploaded file, with its path within the resource."""

    name: str
    body: Body


async def upload(context: RequestContext, label: str = "", name: str = "", **address: str) -> web.StreamResponse:
    """Store the files of a request: 200 and an empty body, even without the right to (FileList.handlePost)."""
    owner = owner_to_change(context, address)
    if not context.has_right("edit", owner.project):
        await context.site.storage.discard(
            await context.site.storage.receive(context.body, stop_after=context.stop_after)
        )
        return text()  # XNAT lacks an else branch here
    if context.lacks_reason and _updates_stats(context):
        raise HttpError(500, "Justification required.")
    kind = _body_kind(context)
    label = escape_parameter(label)
    before = _find_resource(owner, label)
    version = before.version if before is not None else 0
    uploaded, params = await _read_files(context, file_name(name), kind)
    metadata = metadata_from_params(params)
    resource = _find_resource(owner, label) or create_resource(context.site, owner, label, FileMetadata())
    _update_metadata(resource, metadata)
    await anyio.sleep(context.site.timing.saving_seconds)
    stored: list[StoredFile] = []
    duplicates = []
    for one in uploaded:
        if not is_set(params, "overwrite") and await _is_on_disk(context, owner, resource, one.name):
            duplicates.append(one.name)
            await context.site.storage.discard(one.body)
            continue
        try:
            stored.append(await _write(context, owner, resource, one, metadata))
        except HttpError:
            _leave_uncatalogued(context, resource, stored)
            raise
    if stored and resource.version != version:
        _leave_uncatalogued(context, resource, stored)
        path = "/".join((*owner.folder(resource), f"{resource.label}_catalog.xml"))
        raise HttpError(500, f"Another thread or process modified {path} since I last read it. Nothing has been saved.")
    if stored:
        _add_to_catalog(resource, stored, count=_updates_stats(context))
    if duplicates:
        body = json.dumps({"duplicates": duplicates}, separators=(",", ":"))
        return web.Response(text=body, content_type="text/html")
    return text()


def file_name(raw: str) -> str:
    """Return the file name in the rest of an address: it is decoded only if it has a blank or a plus sign."""
    return unquote_plus(raw) if "%20" in raw or "%2b" in raw.lower() else raw


def metadata_from_params(params: Mapping[str, str]) -> FileMetadata:
    """Return what a request says about its files."""
    tags = tuple(filter(None, params.get("tags", "").split(",")))
    return FileMetadata(params.get("format", ""), params.get("content", ""), params.get("description", ""), tags)


def _update_metadata(resource: Resource, metadata: FileMetadata) -> None:
    """Apply a request's metadata to the resource too; its tags are added each time (CatalogUtils.configureResource)."""
    if metadata == FileMetadata():
        return
    old = resource.metadata or dicom_metadata(resource.label)
    resource.metadata = FileMetadata(
        metadata.format or old.format,
        metadata.content or old.content,
        metadata.description or old.description,
        old.tags + metadata.tags,
    )


def _updates_stats(context: RequestContext) -> bool:
    """Return whether the database counts the files; for this flag only true and 1 are true."""
    return context.params.get("update-stats", "true").lower() in {"true", "1"}


def _find_resource(owner: ResourceOwner, label: str) -> Resource | None:
    """Return the resource with this label or number; the first one if the address names none."""
    if not label:
        return next(iter(owner.resources.values()), None)
    found = resources_named([owner], label)
    return found[0].resource if found else None


def _body_kind(context: RequestContext) -> str:
    """Return "multipart", or the file extension for the body's type; refuse a body that cannot be a file.

    A body of unknown length, or an empty one, ends in a FileUploadException, except for zip files.
    """
    headers = context.request.headers
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and "Content-Encoding" not in headers else -1
    inbody = context.flag("inbody")
    if "reference" in context.query:
        raise HttpError(501, "Files of the server's own are not part of this test server")
    if kind.startswith("multipart/"):
        if inbody:
            raise HttpError(
                400,
                "In-body File posts must include the file directly as the body of the message "
                "(not as part of multi-part form data).",
            )
        return "multipart"
    if not inbody and not is_file_type(kind):
        method = context.request.method
        if size == 0:
            raise HttpError(
                400,
                f"You tried to {method} to this service, but didn't provide any data (found request entity size of 0). "
                "Please check the format of your service request.",
            )
        raise HttpError(
            400,
            f"You tried to {method} a payload of {size} to this service, but didn't provide any data. If you think you "
            "sent data to upload, you can try to specify the query string parameter inbody=true or use "
            "multipart/form-data encoding.",
        )
    if size < 1 and kind != "application/zip":
        raise HttpError(500)
    return FILE_EXTENSIONS.get(kind, "dat")


async def _read_files(context: RequestContext, name: str, kind: str) -> tuple[list[_UploadedFile], Mapping[str, str]]:
    """Read the body; return its files, and the request's parameters with those of a form."""
    storage = context.site.storage
    if kind != "multipart":
        body = await storage.receive(context.body, stop_after=context.stop_after)
        uploaded = [_UploadedFile(name or f"upload.{kind}", body)]
        return await _unpack(context, uploaded, context.params), context.params
    data = await storage.collect(context.body, stop_after=context.stop_after)
    if data is None:
        raise HttpError(500)  # a form is parsed first, so nothing is stored of one that is cut
    parts = form_parts(data, context.request.headers["Content-Type"])
    files = [part for part in parts if part.filename is not None]
    if any(part.name == "reference" for part in parts):
        raise HttpError(400, "A form cannot refer to files of the server's own.")
    if not files:
        method = context.request.method
        raise HttpError(400, f"You tried to {method} to this service, but didn't provide any data.")
    params = {**context.params, **{part.name: escape_parameter(part.text) for part in parts if part not in files}}
    uploaded = [_UploadedFile(name or part.filename or "upload.dat", Body.of(part.data)) for part in files]
    return await _unpack(context, uploaded, params), params


async def _unpack(
    context: RequestContext, uploaded: list[_UploadedFile], params: Mapping[str, str]
) -> list[_UploadedFile]:
    """Replace archives by their entries if the request asks for it."""
    if not is_set(params, "extract"):
        return uploaded
    found: list[_UploadedFile] = []
    for one in uploaded:
        if not is_archive(one.name):
            found.append(one)
            continue
        body = one.body
        if not body.complete:
            await context.site.storage.discard(body)
            raise HttpError(500)
        if (source := body.content) is None:
            raise HttpError(501, "This test server keeps sizes and digests of files only.")
        folder = one.name.rpartition("/")[0]
        try:
            entries = await to_thread.run_sync(unpack, one.name, source)
        except BadArchiveError as error:
            raise HttpError(500, str(error)) from None
        finally:
            await context.site.storage.discard(body)
        found += [_UploadedFile(f"{folder}/{path}" if folder else path, Body.of(data)) for path, data in entries]
    return found


async def _write(
    context: RequestContext, owner: ResourceOwner, resource: Resource, uploaded: _UploadedFile, metadata: FileMetadata
) -> StoredFile:
    """Write a file; the part of a cut one, by the client or by a full disk, stays uncatalogued."""
    body, name = uploaded.body, uploaded.name
    if context.site.disk_full or context.disk_full is not None:
        await context.site.storage.discard(body)
        if context.disk_full is None or not context.disk_full.partial:
            raise HttpError(500, "No space left on device")
        body = Body.of(body.head[: len(body.head) // 2], complete=False)
    try:
        size, digest = await context.site.storage.write(owner.file(resource, name), body)
    except OSError as error:
        raise HttpError(500, error.strerror or "") from None  # such as a folder with the file's name
    file = StoredFile(name, size, digest, "", NO_SERIES, body.complete, metadata=metadata)
    if not body.complete:
        _leave_uncatalogued(context, resource, [file])
        raise HttpError(500)
    return file


async def _is_on_disk(context: RequestContext, owner: ResourceOwner, resource: Resource, name: str) -> bool:
    """Return whether a file of this name exists, in the catalog or not (CatalogUtils.storeCatalogEntry)."""
    if not resource.has_on_disk(name):
        return False
    parts, storage = owner.file(resource, name), context.site.storage
    return storage.path(parts) is None or await storage.measure(parts, digest=False) is not None


def _leave_uncatalogued(context: RequestContext, resource: Resource, files: Iterable[StoredFile]) -> None:
    """Leave files on the disk without an entry in the catalog.

    An existing entry of the same name stays as it is, digest included; its size too, if the catalog has sizes.
    """
    for file in files:
        old = resource.files.get(file.name)
        if old is None:
            resource.uncatalogued[file.name] = file
        else:
            size = old.size if context.site.profile.catalog_has_sizes else file.size
            resource.files[file.name] = replace(old, size=size, complete=file.complete, on_disk=True)


def _add_to_catalog(resource: Resource, stored: Iterable[StoredFile], *, count: bool) -> None:
    """Write the catalog with new entries."""
    if not count:
        resource.reported_stats = resource.stats
    for file in stored:
        resource.uncatalogued.pop(file.name, None)
        resource.files[file.name] = file
    resource.version += 1
    if count:
        resource.recount()
