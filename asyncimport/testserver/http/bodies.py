"""Request bodies: the stream, the media types of files, the fields of a form, the parts of a multipart form."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import ClientError, StreamReader, content_disposition_filename, parse_content_disposition, web
from aiohttp.http_exceptions import HttpProcessingError

from .responses import HttpError

FILE_EXTENSIONS = {
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
_FILE_TYPES = ("image/", "application/vnd.ms-", "application/vnd.openxmlformats")
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


def is_file_type(content_type: str) -> bool:
    """Return whether a body of this type is a file (RequestUtil.isFileInBody); any other needs inbody=true."""
    return content_type in FILE_EXTENSIONS or content_type.startswith(_FILE_TYPES)


class RequestBody:
    """The body of a request as a stream for the site's storage."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content

    async def readany(self) -> bytes:
        """Return what has arrived, or wait for it; empty at the end. Raises ConnectionError if it is cut."""
        try:
            return await self._content.readany()
        except (ClientError, HttpProcessingError, web.PayloadAccessError) as error:
            raise ConnectionError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart form; a file has a file name, perhaps an empty one."""

    name: str
    filename: str | None
    data: bytes

    @property
    def text(self) -> str:
        """The value of a field."""
        return self.data.decode("utf-8", "replace")


async def form_fields(request: web.BaseRequest) -> Mapping[str, list[str]]:
    """Return the fields of a form or of a JSON object in the body; other bodies stay unread.

    Raises HttpError if the body is not JSON although its type says so.
    """
    values: dict[str, list[str]] = {}
    if request.content_type == "application/x-www-form-urlencoded":
        text = (await request.read()).decode("utf-8", "replace")
        for name, value in parse_qsl(text, keep_blank_values=True):
            values.setdefault(name, []).append(value)
    elif request.content_type == "application/json" and request.can_read_body:
        try:
            body = json.loads(await request.read())
        except ValueError:  # not JSON, or not even text
            raise HttpError(400) from None
        values = {name: [str(value)] for name, value in body.items()} if isinstance(body, dict) else {}
    return values


def form_parts(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a multipart/form-data body; of a broken one, those that are complete."""
    if (boundary := _BOUNDARY.search(content_type)) is None:
        return []
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())
    parts = []
    for piece in pieces[1:-1]:
        head, _, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        for line in head.decode("utf-8", "replace").split("\r\n"):
            key, _, value = line.partition(":")
            if key.strip().lower() == "content-disposition":
                _, params = parse_content_disposition(value.strip())
                parts.append(Part(params.get("name", ""), content_disposition_filename(params), data))
    return parts
