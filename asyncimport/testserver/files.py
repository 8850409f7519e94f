"""Files of resources: listings, downloads, deletion."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from urllib.parse import quote

from aiohttp import web
from anyio import Path

from .call import Call
from .catalogs import digest_of, is_hidden, said_of
from .names import escape_parameter
from .pages import Refused, table, text, wanted
from .places import FORBIDDEN, Found, Place, below, numbered, read, written
from .state import Resource, StoredFile
from .uploads import file_name
from .zips import ARCHIVES, files_archive

__all__ = ["delete_files", "get_files"]

_COLUMNS = (
    "Name",
    "Size",
    "URI",
    "collection",
    "file_tags",
    "file_format",
    "file_content",
    "cat_ID",
    "digest",
)
_TYPES = {
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".txt": "text/plain",
    ".xml": "text/xml",
    ".zip": "application/zip",
}


async def get_files(call: Call, label: str = "", name: str = "", **where: str) -> web.StreamResponse:
    """List files, or return one (FileList.represent).

    Where the address names no resource, all those of the object count, and of a session those of its scans. A resource
    that is not there has no files: an empty list.
    """
    places = read(call, where)
    if not places:
        raise Refused(500)  # a NullPointerException
    if label:
        found = numbered(call, places, escape_parameter(label))
    else:
        found = [(place, resource) for one in places for place in below(one) for resource in place.resources.values()]
    name = file_name(name)
    if call.request.raw_path.partition("?")[0].endswith("/") and name:
        return _listing(call, found, f"{name}/")
    if not name or name.endswith("*"):
        return _listing(call, found, name.removesuffix("*"))
    for place, resource in found:
        if name in resource.files:
            return await _file(call, place, resource, name)
    return _missing(call)


def _missing(call: Call) -> web.Response:
    """Return the 404 of a file: the reason would be in the status line, which Tomcat does not send."""
    return web.Response(status=204 if call.flag("accept-not-found") else 404)


def _listing(call: Call, found: Iterable[Found], prefix: str) -> web.StreamResponse:
    """List files: strings, a Columns key, and no totalRecords; or send them all."""
    form = wanted(call.request, call.query, "json")
    chosen = _chosen(call, found, prefix)
    if form in ARCHIVES:
        return files_archive(call, form, [(_zipped(*one), one[0].file(one[1], one[2].name)) for one in chosen])
    rows = [_row(place, resource, file) for place, resource, file in chosen]
    extra = {"Columns": [{"key": "URI", "serverRoot": ""}]}
    return table(form, _COLUMNS, rows, title="Files", total=False, extra=extra)


def _chosen(call: Call, found: Iterable[Found], prefix: str) -> list[tuple[Place, Resource, StoredFile]]:
    """Return the files below a prefix that the filters leave; NULL stands for no format or content."""
    formats, contents = (call.query.get(key, "").split(",") for key in ("file_format", "file_content"))
    flat = call.query.get("recursive", "true").lower() == "false"
    chosen = []
    for place, resource in found:
        for file in resource.files.values():
            said = said_of(file, resource)
            if (
                file.name.startswith(prefix)
                and not is_hidden(file.name)
                and not (flat and "/" in file.name.removeprefix(prefix))
                and (formats == [""] or (said.format or "NULL") in formats)
                and (contents == [""] or (said.content or "NULL") in contents)
            ):
                chosen.append((place, resource, file))
    index = call.query.get("index", "")
    return chosen[int(index) : int(index) + 1] if index.isdecimal() else chosen


def _row(place: Place, resource: Resource, file: StoredFile) -> Sequence[object]:
    said = said_of(file, resource)
    # An address in which nothing is decoded would not find a name with a blank; any other it would not find encoded.
    path = quote(file.name) if " " in file.name else file.name
    return (
        PurePosixPath(file.name).name,
        file.size,
        f"/data{place.uri}/resources/{resource.number}/files/{path}",
        resource.label,
        ",".join(said.tags),
        said.format,
        said.content,
        resource.number,
        digest_of(file),
    )


def _zipped(place: Place, resource: Resource, file: StoredFile) -> str:
    return f"{place.zipped}/resources/{resource.label or resource.folder}/files/{file.name}"


async def _file(call: Call, place: Place, resource: Resource, name: str) -> web.StreamResponse:
    """Return a file: one range is allowed."""
    if "," in call.request.headers.get("Range", ""):
        raise Refused(501)
    path = call.xnat.storage.path(place.file(resource, name))
    if path is None or not await Path(path).is_file():
        return _missing(call)
    headers = {
        "Content-Type": _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"),
        "Content-Disposition": f'attachment; filename="{PurePosixPath(name).name}";',
        "Cache-Control": "must-revalidate",
        "Accept-Ranges": "bytes",
    }
    return web.FileResponse(path, headers=headers)


async def delete_files(call: Call, label: str = "", name: str = "", **where: str) -> web.StreamResponse:
    """Delete every file whose path begins with the name, which may be empty (FileList.handleDelete).

    The bytes stay where `removeFiles` is false.
    """
    place = written(call, where)
    found = numbered(call, [place], escape_parameter(label)) if label else list(_all_of(place))
    owners = {place.project, *(owner.project for owner, _ in found)}
    if call.lacks_reason or not all(call.may("delete", owner) for owner in owners):
        raise Refused(403, FORBIDDEN)
    name, matched = file_name(name), False
    for owner, resource in found:
        names = [path for path in resource.files if path.startswith(name)]
        for path in names:
            file = resource.files.pop(path)
            if call.params.get("removeFiles", "true").lower() in {"false", "0"}:
                resource.uncatalogued[path] = file
            else:
                await call.xnat.storage.delete(owner.file(resource, path))
        if names:
            matched = True
            resource.version += 1
            resource.recount()
    if matched:
        return text()
    if call.flag("accept-not-found"):
        return web.Response(status=204)
    raise Refused(404, "No matched files")


def _all_of(place: Place) -> Iterator[Found]:
    return ((place, resource) for resource in place.resources.values())
