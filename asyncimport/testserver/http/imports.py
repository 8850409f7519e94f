"""POST /data/services/import: chooses the importer and checks the body."""

from aiohttp import web

from ..site.names import request_file_name
from .bodies import is_file_type
from .import_gradual import gradual_import, session_import
from .request_context import RequestContext
from .responses import HttpError

_GRADUAL = "gradual-DICOM"
_IMPORTERS = {_GRADUAL: gradual_import, "SI": session_import}
_HANDLERS = {*_IMPORTERS, "XAR", "inbox", "DICOM-zip"}
_DICOM_TYPES = {"application/dicom", "application/x-mirc", "application/x-mirc-dicom"}
_EXTENSIONS = {"application/dicom": ".dcm", "application/zip": ".zip", "application/octet-stream": ""}


async def import_service(context: RequestContext, name: str = "") -> web.StreamResponse:
    """Serve an import (org.nrg.xnat.restlet.services.Importer); `name` is the rest of the path, if any."""
    content_type = context.request.content_type
    handler = _choose_handler(context, content_type)
    _check_body(context, content_type)
    file_name = request_file_name(name or "upload" + _EXTENSIONS.get(content_type, ".unsupported"))
    if handler not in _IMPORTERS or (handler == "SI" and content_type == "application/zip"):
        raise HttpError(501, f"The importer {handler} of {content_type} is not part of this test server")
    serve = _IMPORTERS[handler]
    if context.site.timing.is_free:
        return await serve(context, file_name, content_type)
    async with context.runtime.threads:
        return await serve(context, file_name, content_type)


def _choose_handler(context: RequestContext, content_type: str) -> str:
    """Choose the importer (Importer.handlePost, ImporterHandlerA.buildImporter)."""
    asked = context.query.get("import-handler")
    if asked is not None:
        if asked not in _HANDLERS:
            raise HttpError(404, f"Unknown importer implementation specified: {asked}")
        return asked
    if content_type in _DICOM_TYPES:
        return _GRADUAL
    default = context.site.profile.default_importer
    if content_type == "application/octet-stream" and default == "DICOM-zip":
        raise HttpError(400, "Unsupported format UNKNOWN")  # it cannot be unpacked
    return default


def _check_body(context: RequestContext, content_type: str) -> None:
    """Check that the body is one file of known length (SecureResource.getFileWritersAndLoadParams)."""
    inbody = context.query.get("inbody", "false") not in {"false", "0"}
    if content_type.startswith("multipart/"):
        if inbody:
            raise HttpError(
                406,
                "In-body File posts must include the file directly as the body of the message "
                "(not as part of multi-part form data).",
            )
        raise HttpError(501, "Multipart uploads are not part of this test server")
    if not inbody and not ("Content-Type" in context.request.headers and is_file_type(content_type)):
        raise HttpError(400, "Unable to identify upload format.")
    length = context.request.content_length
    size = -1 if length is None else length
    if size < 1 and content_type != "application/zip":
        raise HttpError(
            400,
            "In-body File posts must include the file directly as the body of the message. In this case, "
            f"the request entity size is {size} but the media type is not application/zip (i.e. streaming "
            "compressed upload).",
        )
