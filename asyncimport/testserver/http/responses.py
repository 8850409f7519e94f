"""Responses as XNAT makes them: error pages of its two web layers, texts, tables and documents."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from ..site.names import sql_timestamp
from ..site.prearchive import PrearchiveRow
from ..site.projects import UNASSIGNED

_DEFAULTS = {
    400: "The request could not be understood by the server due to malformed syntax",
    401: "The request requires user authentication",
    403: "The server understood the request, but is refusing to fulfill it",
    404: "The server has not found anything matching the request URI",
    405: "The method specified in the request is not allowed for the resource identified by the request URI",
    409: "The request could not be completed due to a conflict with the current state of the resource",
    417: "The expectation given in the request header could not be met by this server",
    422: "The server understands the content type of the request entity and the syntax of the request entity "
    "is correct but was unable to process the contained instructions",
    500: "The server encountered an unexpected condition which prevented it from fulfilling the request",
    501: "The server does not support the functionality required to fulfill the request",
}
_ROW_COLUMNS: dict[str, Callable[[PrearchiveRow], str]] = {
    "project": lambda row: row.project or UNASSIGNED,
    "timestamp": lambda row: row.timestamp,
    "lastmod": lambda row: sql_timestamp(row.lastmod),
    "uploaded": lambda row: sql_timestamp(row.uploaded),
    "scan_date": lambda row: row.scan_date,
    "scan_time": lambda _: "",
    "subject": lambda row: row.subject,
    "folderName": lambda row: row.folder,
    "name": lambda row: row.name,
    "tag": lambda row: row.study_uid,
    "status": lambda row: row.status.value,
    "url": lambda row: row.uri,
    "autoarchive": lambda row: row.autoarchive,
    "prevent_anon": lambda row: str(row.prevent_anon).lower(),
    "prevent_auto_commit": lambda row: str(row.prevent_auto_commit).lower(),
    "SOURCE": lambda row: row.source,
    "VISIT": lambda row: row.visit,
    "PROTOCOL": lambda row: row.protocol,
    "TIMEZONE": lambda row: row.timezone,
}
_FORMATS = {name: name for name in ("json", "csv", "xml", "html", "zip", "tar", "tar.gz")}
_ACCEPTS = {
    "application/json": "json",
    "text/csv": "csv",
    "text/xml": "xml",
    "application/xml": "xml",
    "application/zip": "zip",
}


class HttpError(Exception):
    """An error reply: a status and the text that XNAT puts on its page."""

    def __init__(self, status: int, message: str = "", *, tomcat: bool = False, allow: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.tomcat = tomcat
        self.allow = allow

    def page(self) -> web.Response:
        """Return the error page."""
        if self.tomcat:
            return tomcat_page(self.status, self.message)
        return restlet_page(self.status, self.message, headers=self._headers)

    def plain(self) -> web.Response:
        """Return the reply of /xapi: the text alone, which a refusal lacks (XapiRestControllerAdvice)."""
        message = "" if self.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} else self.message
        return web.Response(status=self.status, text=message, content_type="text/plain", headers=self._headers)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Allow": ", ".join(self.allow)} if self.allow else {}


def restlet_page(status: int, message: str = "", *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error page of Restlet 1.1 (StatusFilter); the message is not HTML-escaped there."""
    section = "10.4." if status < HTTPStatus.INTERNAL_SERVER_ERROR else "10.5."
    section += str(status % 100 + 1)
    body = (
        "<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n"
        f"<h3>{message or _DEFAULTS.get(status, HTTPStatus(status).phrase)}</h3>"
        "<p>You can get technical details "
        f'<a href="http://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html#sec{section}">here</a>.<br>\n'
        'Please continue your visit at our <a href="/">home page</a>.\n</p>\n</body>\n</html>\n'
    )
    return web.Response(status=status, text=body, content_type="text/html", headers=headers)


def tomcat_page(status: int, message: str, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error page of Tomcat, as XNAT's filter chain does."""
    title = f"HTTP Status {status} – {HTTPStatus(status).phrase}"  # noqa: RUF001 - Tomcat's own dash
    body = (
        f'<!doctype html><html lang="en"><head><title>{title}</title></head><body><h1>{title}</h1>'
        f'<hr class="line" /><p><b>Type</b> Status Report</p><p><b>Message</b> {html.escape(message)}</p>'
        '<hr class="line" /><h3>Apache Tomcat/9.0.83</h3></body></html>'
    )
    return web.Response(status=status, text=body, content_type="text/html", headers=headers)


def nginx_page(status: int, *, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error page of nginx."""
    phrases = {
        413: "Request Entity Too Large",
        502: "Bad Gateway",
        503: "Service Temporarily Unavailable",
        504: "Gateway Time-out",
    }
    title = f"{status} {phrases.get(status, 'Error')}"
    body = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    all_headers = {"Content-Type": "text/html", "Server": "nginx", **(headers or {})}
    return web.Response(status=status, body=body.encode(), headers=all_headers)


def text(body: str = "", *, status: int = 200) -> web.Response:
    """Return a plain text."""
    return web.Response(status=status, text=body, content_type="text/plain")


def uri_list(body: str, *, status: int = 200) -> web.Response:
    """Return URIs as text/uri-list; the caller adds a final CRLF if XNAT does."""
    return web.Response(status=status, body=body.encode(), headers={"Content-Type": "text/uri-list"})


def xml(body: str) -> web.Response:
    """Return an XML document."""
    return web.Response(text='<?xml version="1.0" encoding="UTF-8"?>\n' + body, content_type="text/xml")


def requested_format(accept: str, name: str | None, default: str) -> str:
    """Return the format that an Accept header asks for, or a name in its place."""
    if name is not None:
        return _FORMATS.get(name.lower(), default)
    return _ACCEPTS.get(accept.partition(";")[0].strip(), default)


def table(
    form: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str | None = None,
    total: bool = True,
    extra: Mapping[str, Any] | None = None,
) -> web.Response:
    """Return a listing; in JSON every value is a string and null is "" (JSONTableRepresentation)."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    if form == "csv":
        lines = [",".join(map(_csv_cell, row)) for row in ([*columns], *cells)]
        return web.Response(text="".join(f"{line}\n" for line in lines), content_type="text/csv")
    if form == "html":
        return web.Response(text=_html_table(columns, cells), content_type="text/html")
    if form == "xml":
        return xml(_xml_table(columns, cells, title or ""))
    result: dict[str, Any] = {"Result": [dict(zip(columns, row, strict=True)) for row in cells], **(extra or {})}
    if total:
        result["totalRecords"] = str(len(cells))
    if title is not None:
        result["title"] = title
    return web.json_response({"ResultSet": result})


def _csv_cell(value: str) -> str:
    """Return a cell of a CSV file, on one line, in quotes only if it needs them (XFTTable.toCSV)."""
    value = value.replace("\r", " ").replace("\n", " ")
    return '"' + value.replace('"', '""') + '"' if "," in value or '"' in value else value


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<html><body><table><tr>{head}</tr>{body}</table></body></html>"


def _xml_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    head = "".join(f"<column>{html.escape(column)}</column>" for column in columns)
    body = "".join("<row>" + "".join(f"<cell>{html.escape(cell)}</cell>" for cell in row) + "</row>" for row in rows)
    return (
        f'<ResultSet title="{html.escape(title)}" totalRecords="{len(rows)}">'
        f"<results><columns>{head}</columns><rows>{body}</rows></results></ResultSet>"
    )


def row_table(form: str, rows: Iterable[PrearchiveRow]) -> web.Response:
    """Return rows as a listing (the columns of DatabaseSession), without totalRecords."""
    cells = [[value(row) for value in _ROW_COLUMNS.values()] for row in rows]
    return table(form, list(_ROW_COLUMNS), cells, total=False)
