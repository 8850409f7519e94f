"""POST /data/services/import: which importer serves a request, and whether its body will do."""

from aiohttp import web

from .call import Call
from .gradual import gradual_import, session_import
from .names import request_file_name
from .pages import Refused

__all__ = ["import_service"]

_GRADUAL = "gradual-DICOM"
_IMPORTERS = {_GRADUAL: gradual_import, "SI": session_import}
_HANDLERS = {*_IMPORTERS, "XAR", "inbox", "DICOM-zip"}
_DICOM_TYPES = {"application/dicom", "application/x-mirc", "application/x-mirc-dicom"}
_EXTENSIONS = {"application/dicom": ".dcm", "application/zip": ".zip", "application/octet-stream": ""}


async def import_service(call: Call, name: str = "") -> web.StreamResponse:
    """Serve an import (org.nrg.xnat.restlet.services.Importer); `name` is the rest of the path, if any."""
    content_type = call.request.content_type
    handler = _choose_handler(call, content_type)
    _check_body(call, content_type)
    file_name = request_file_name(name or "upload" + _EXTENSIONS.get(content_type, ".unsupported"))
    if handler not in _IMPORTERS or (handler == "SI" and content_type == "application/zip"):
        raise Refused(501, f"The importer {handler} of {content_type} is not part of this test server")
    serve = _IMPORTERS[handler]
    if call.xnat.timing.free:
        return await serve(call, file_name, content_type)
    async with call.engine.threads:
        return await serve(call, file_name, content_type)


def _choose_handler(call: Call, content_type: str) -> str:
    """Choose the importer (Importer.handlePost, ImporterHandlerA.buildImporter)."""
    asked = call.query.get("import-handler")
    if asked is not None:
        if asked not in _HANDLERS:
            raise Refused(404, f"Unknown importer implementation specified: {asked}")
        return asked
    if content_type in _DICOM_TYPES:
        return _GRADUAL
    default = call.xnat.profile.default_importer
    if content_type == "application/octet-stream" and default == "DICOM-zip":
        raise Refused(400, "Unsupported format UNKNOWN")  # it cannot be unpacked
    return default


def _check_body(call: Call, content_type: str) -> None:
    """Check that the body is one file of known length.

    SecureResource.getFileWritersAndLoadParams.
    """
    inbody = call.query.get("inbody", "false") not in {"false", "0"}
    if content_type.startswith("multipart/"):
        if inbody:
            raise Refused(
                406,
                "In-body File posts must include the file directly as the body of the message "
                "(not as part of multi-part form data).",
            )
        raise Refused(501, "Multipart uploads are not part of this test server")
    form = content_type == "application/x-www-form-urlencoded"
    if not inbody and (form or "Content-Type" not in call.request.headers):
        raise Refused(400, "Unable to identify upload format.")
    length = call.request.content_length
    size = -1 if length is None else length
    if size < 1 and content_type != "application/zip":
        raise Refused(
            400,
            "In-body File posts must include the file directly as the body of the message. In this case, "
            f"the request entity size is {size} but the media type is not application/zip (i.e. streaming "
            "compressed upload).",
        )
