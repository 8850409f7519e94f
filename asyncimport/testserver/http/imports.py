"""POST /data/services/import: finds the file of a request, chooses the importer, and makes the reply."""

import html
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from aiohttp import web

from ..site.names import escape_parameter, request_file_name
from ..site.storage import Body
from .bodies import FILE_EXTENSIONS, form_parts, is_file_type
from .import_archives import session_import, zip_import
from .import_gradual import import_object
from .import_target import ImportTarget
from .request_context import RequestContext
from .responses import HttpError, text, uri_list

_ARCHIVES = {"DICOM-zip": zip_import, "SI": session_import}
_NOT_BUILT = {"XAR": "XAR archives are", "inbox": "The DICOM inbox is"}
_DICOM_TYPES = {"application/dicom", "application/x-mirc", "application/x-mirc-dicom"}
_EXTENSIONS = {**{kind: f".{extension}" for kind, extension in FILE_EXTENSIONS.items()}, "application/octet-stream": ""}
_CACHED = re.compile(r"(?:/data|/REST)?/user/cache/resources/([^/]+)/files/(.+)")
_IN_BODY = "In-body File posts must include the file directly as the body of the message"


@dataclass(frozen=True, slots=True)
class _Upload:
    """The file of a request, its name, and the request's parameters with those of a form."""

    name: str
    body: Body
    params: Mapping[str, str]


async def import_service(context: RequestContext, name: str = "") -> web.StreamResponse:
    """Serve an import (org.nrg.xnat.restlet.services.Importer); `name` is the rest of the path, if any.

    With `format=html` an error is a page with 200.
    """
    try:
        async with nullcontext() if context.site.timing.is_free else context.runtime.threads:
            uris = await _import(context, name)
    except HttpError as error:
        if context.query.get("format") != "html":
            raise
        message = html.escape(error.message)
        return web.Response(text=f"<html><body><h3>{message}</h3></body></html>", content_type="text/html")
    match context.query.get("format"):
        case "html":
            links = "".join(f'<a href="{html.escape(uri)}">{html.escape(uri)}</a>' for uri in uris)
            return web.Response(text=f"<html><body>{links}</body></html>", content_type="text/html")
        case "txt" if len(uris) == 1:
            return text(uris[0])
    if context.request.content_type == "application/x-mirc" and uris:
        return uri_list("OK")
    return uri_list("".join(f"{uri}\r\n" for uri in uris))


async def _import(context: RequestContext, name: str) -> list[str]:
    """Import the request's file and return the URIs of its sessions."""
    kind = context.request.content_type
    handler = _choose_handler(context, kind)
    _check_prearchive_code(context)
    target = ImportTarget.parse(context.query.get("dest", ""))
    if "src" in context.query:
        upload = _cached(context, context.query["src"])
    elif kind.startswith("multipart/") and not _is_in_body(context):
        upload = await _read_form(context, name)
    else:
        _check_body(context, kind)
        body = await context.site.storage.receive(context.body, stop_after=context.stop_after)
        upload = _Upload(_file_name(name, kind), body, context.query)
    if handler in _NOT_BUILT:
        raise HttpError(501, f"{_NOT_BUILT[handler]} not part of this test server")
    if target.is_archive and handler in _ARCHIVES:
        project = target.project or upload.params.get("project") or upload.params.get("PROJECT_ID", "")
        if not context.has_right("edit", project):
            raise HttpError(403, f"User {context.user.name} cannot archive into project {project}")
    if handler in _ARCHIVES:
        if not upload.body.complete:
            await context.site.storage.discard(upload.body)
            raise HttpError(400, "Unexpected end of ZLIB input stream")
        return await _ARCHIVES[handler](context, upload.params, target, upload.name, upload.body)
    # Of a `dest` this importer takes only the project, if PROJECT_ID gives none.
    project = upload.params.get("PROJECT_ID") or target.project
    params = {**upload.params, "PROJECT_ID": project} if target.is_given else upload.params
    row = await import_object(context, params, upload.body, upload.name)
    return [] if row is None else [row.import_uri]


def _choose_handler(context: RequestContext, content_type: str) -> str:
    """Choose the importer (Importer.handlePost, ImporterHandlerA.buildImporter)."""
    asked = context.query.get("import-handler")
    if asked is None:
        return "gradual-DICOM" if content_type in _DICOM_TYPES else context.site.profile.default_importer
    if asked != "gradual-DICOM" and asked not in _ARCHIVES and asked not in _NOT_BUILT:
        raise HttpError(404, f"Unknown importer implementation specified: {asked}")
    return asked


def _check_prearchive_code(context: RequestContext) -> None:
    """Refuse every `overwrite` beside `prearchive_code=1`, and a missing project, as Importer does by mistake."""
    if context.query.get("prearchive_code") != "1":
        return
    if "overwrite" in context.query:
        raise HttpError(400, "Overwrite flag was not set to a valid option. ('append' or 'delete')")
    if "project" not in context.query:
        raise HttpError(500)


def _is_in_body(context: RequestContext) -> bool:
    return context.query.get("inbody", "false") not in {"false", "0"}


def _file_name(name: str, content_type: str) -> str:
    return request_file_name(name or "upload" + _EXTENSIONS.get(content_type, ".unsupported"))


def _check_body(context: RequestContext, content_type: str) -> None:
    """Check that the body is one file of known length (SecureResource.getFileWritersAndLoadParams)."""
    inbody = _is_in_body(context)
    if content_type.startswith("multipart/"):
        raise HttpError(406, f"{_IN_BODY} (not as part of multi-part form data).")
    if not inbody and not ("Content-Type" in context.request.headers and is_file_type(content_type)):
        raise HttpError(400, "Unable to identify upload format.")
    length = context.request.content_length
    size = -1 if length is None else length
    if size < 1 and content_type != "application/zip":
        raise HttpError(
            400,
            f"{_IN_BODY}. In this case, the request entity size is {size} but the media type is not application/zip "
            "(i.e. streaming compressed upload).",
        )


def _cached(context: RequestContext, source: str) -> _Upload:
    """Return a file that the user has put into the cache before."""
    if (match := _CACHED.fullmatch(source)) is None:
        raise HttpError(400, "src uri is invalid.")
    resource, name = match.groups()
    data = context.site.user_cache.get(context.user.name, {}).get(resource, {}).get(name)
    if data is None:
        raise HttpError(404, "Unknown src file.")
    return _Upload(request_file_name(name.rpartition("/")[2]), Body.of(data), context.query)


async def _read_form(context: RequestContext, name: str) -> _Upload:
    """Return the one file of a form; its fields are parameters, and come before those of the query."""
    data = await context.site.storage.collect(context.body, stop_after=context.stop_after)
    if data is None:
        raise HttpError(500)  # a form is read as a whole first, so nothing is stored of one that is cut
    parts = form_parts(data, context.request.headers["Content-Type"])
    files = [part for part in parts if part.filename]
    if any(part.name == "reference" for part in parts):
        raise HttpError(400, "A form cannot refer to files of the server's own.")
    if not files:
        raise HttpError(400, "Unable to identify upload format.")
    if len(files) > 1:
        raise HttpError(400, "Importer is limited to one uploaded resource at a time.")
    fields = {part.name: escape_parameter(part.text) for part in parts if part.filename is None}
    file_name = request_file_name(name or files[0].filename or "upload")
    return _Upload(file_name, Body.of(files[0].data), {**context.query, **fields})
