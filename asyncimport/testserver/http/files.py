"""Files of resources: listings, downloads, deletion."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from aiohttp import web
from anyio import Path

from ..site.catalogs import digest_of, is_hidden, metadata_of
from ..site.names import escape_parameter
from ..site.resource_owners import OwnedResource, ResourceOwner, resources_of
from ..site.resources import Resource, StoredFile
from .addresses import FORBIDDEN, find_resources, owner_to_change, owners_to_read
from .downloads import ARCHIVES, download_files
from .request_context import RequestContext
from .responses import HttpError, table, text
from .uploads import file_name

_COLUMNS = ("Name", "Size", "URI", "collection", "file_tags", "file_format", "file_content", "cat_ID", "digest")
_TYPES = {
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".txt": "text/plain",
    ".xml": "text/xml",
    ".zip": "application/zip",
}


async def get_files(context: RequestContext, label: str = "", name: str = "", **address: str) -> web.StreamResponse:
    """List files, or return one (FileList.represent).

    If the address names no resource, it means all resources of the owner, and of a session those of its scans too. A
    resource that does not exist is an empty list.
    """
    owners = owners_to_read(context, address)
    if not owners:
        raise HttpError(500)  # a NullPointerException
    if label:
        found = find_resources(context, owners, escape_parameter(label))
    else:
        found = resources_of(one for owner in owners for one in owner.with_scans())
    name = file_name(name)
    if context.request.raw_path.partition("?")[0].endswith("/") and name:
        return _listing(context, found, f"{name}/")
    if not name or name.endswith("*"):
        return _listing(context, found, name.removesuffix("*"))
    for owner, resource in found:
        if name in resource.files:
            return await _file(context, owner, resource, name)
    return _missing(context)


def _missing(context: RequestContext) -> web.Response:
    """Return the 404 of a file: XNAT puts the reason into the status line, which Tomcat does not send."""
    return web.Response(status=204 if context.flag("accept-not-found") else 404)


def _listing(context: RequestContext, found: Iterable[OwnedResource], prefix: str) -> web.StreamResponse:
    """List files (all values are strings, with a Columns key and no totalRecords), or send them in an archive."""
    form = context.requested_format("json")
    chosen = _filter(context, found, prefix)
    if form in ARCHIVES:
        files = [
            (
                f"{owner.download_folder}/resources/{resource.label or resource.folder}/files/{file.name}",
                owner.file(resource, file.name),
            )
            for owner, resource, file in chosen
        ]
        return download_files(context, form, files)
    rows = [_row(owner, resource, file) for owner, resource, file in chosen]
    extra = {"Columns": [{"key": "URI", "serverRoot": ""}]}
    return table(form, _COLUMNS, rows, title="Files", total=False, extra=extra)


def _filter(
    context: RequestContext, found: Iterable[OwnedResource], prefix: str
) -> list[tuple[ResourceOwner, Resource, StoredFile]]:
    """Return the files below a prefix that pass the filters; NULL stands for no format or content."""
    formats, contents = (context.query.get(key, "").split(",") for key in ("file_format", "file_content"))
    flat = context.query.get("recursive", "true").lower() == "false"
    chosen = []
    for owner, resource in found:
        for file in resource.files.values():
            metadata = metadata_of(file, resource)
            if (
                file.name.startswith(prefix)
                and not is_hidden(file.name)
                and not (flat and "/" in file.name.removeprefix(prefix))
                and (formats == [""] or (metadata.format or "NULL") in formats)
                and (contents == [""] or (metadata.content or "NULL") in contents)
            ):
                chosen.append((owner, resource, file))
    index = context.query.get("index", "")
    return chosen[int(index) : int(index) + 1] if index.isdecimal() else chosen


def _row(owner: ResourceOwner, resource: Resource, file: StoredFile) -> Sequence[object]:
    metadata = metadata_of(file, resource)
    # XNAT decodes only an address with an encoded blank, so only names with a blank are encoded here.
    path = quote(file.name) if " " in file.name else file.name
    return (
        PurePosixPath(file.name).name,
        file.size,
        f"/data{owner.uri}/resources/{resource.number}/files/{path}",
        resource.label,
        ",".join(metadata.tags),
        metadata.format,
        metadata.content,
        resource.number,
        digest_of(file),
    )


async def _file(context: RequestContext, owner: ResourceOwner, resource: Resource, name: str) -> web.StreamResponse:
    """Return a file; one range is allowed."""
    if "," in context.request.headers.get("Range", ""):
        raise HttpError(501)
    path = context.site.storage.path(owner.file(resource, name))
    if path is None or not await Path(path).is_file():
        return _missing(context)
    headers = {
        "Content-Type": _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
        "Content-Disposition": f'attachment; filename="{PurePosixPath(name).name}";',
        "Cache-Control": "must-revalidate",
        "Accept-Ranges": "bytes",
    }
    return web.FileResponse(path, headers=headers)


async def delete_files(context: RequestContext, label: str = "", name: str = "", **address: str) -> web.StreamResponse:
    """Delete every file whose path begins with the name, which may be empty (FileList.handleDelete).

    The address must name a resource that exists. If `removeFiles` is false, the bytes stay.
    """
    addressed = owner_to_change(context, address)
    found = find_resources(context, [addressed], escape_parameter(label)) if label else []
    if not found:
        raise HttpError(400)
    projects = {addressed.project, *(owner.project for owner, _ in found)}
    if context.lacks_reason or not all(context.has_right("delete", project) for project in projects):
        raise HttpError(403, FORBIDDEN)
    name, matched = file_name(name), False
    for owner, resource in found:
        names = [path for path in resource.files if path.startswith(name)]
        for path in names:
            file = resource.files.pop(path)
            if context.params.get("removeFiles", "true").lower() in {"false", "0"}:
                resource.uncatalogued[path] = file
            else:
                await context.site.storage.delete(owner.file(resource, path))
        if names:
            matched = True
            resource.version += 1
            resource.recount()
    if matched:
        return text()
    if context.flag("accept-not-found"):
        return web.Response(status=204)
    raise HttpError(404, "No matched files")
