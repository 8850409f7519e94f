"""A proxy before a real XNAT that writes down what is said, without secrets and names."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web
from yarl import URL

from ..http.authentication import basic_credentials
from ..http.responses import HttpError
from ..site.dicom_header import NotDicomError, read_header
from .exchange import Exchange, head
from .mask import Mask, mask_cookies

_HOP_BY_HOP = frozenset(
    [
        "connection",
        "keep-alive",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "proxy-authorization",
        "proxy-authenticate",
        "host",
        "content-length",
        "content-encoding",
        "accept-encoding",
    ]
)


@asynccontextmanager
async def recording_proxy(
    upstream: str, write: Callable[[str], object], *, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[str]:
    """Serve a proxy before `upstream` and yield its URL; each exchange is written as a line, the first one is its head.

    Bodies pass through memory, one at a time for each connection.
    """
    base = upstream.rstrip("/")
    mask = Mask(base)
    write(head())

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True) as http:

        async def answer(request: web.BaseRequest) -> web.Response:
            body = await request.content.read()  # request.read() has a limit
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            url = URL(base + request.raw_path, encoded=True)
            async with http.request(
                request.method, url, data=body or None, headers=headers, allow_redirects=False
            ) as reply:
                content = await reply.read()
                write(_exchange(mask, request, body, reply, content).line())
                kept = [(name, value) for name, value in reply.headers.items() if name.lower() not in _HOP_BY_HOP]
                response = web.Response(status=reply.status, body=content)
                response.headers.popall("Content-Type", None)
                for name, value in kept:
                    # The client is to come back here.
                    response.headers.add(name, value.replace(base, "") if name == "Location" else value)
                return response

        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield f"http://{host}:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def _exchange(
    mask: Mask, request: web.BaseRequest, body: bytes, reply: aiohttp.ClientResponse, content: bytes
) -> Exchange:
    raw, _, query = request.raw_path.partition("?")
    _learn_login(mask, request.headers.get("Authorization"))
    kind = request.content_type if "Content-Type" in request.headers else ""
    path = mask.path(raw)
    parameters = tuple((name, mask.parameter(name, value)) for name, value in parse_qsl(query, keep_blank_values=True))
    sent = mask_body(mask, kind, body, is_file="inbody" in query)
    login = "password" if "Authorization" in request.headers else "cookie" if request.headers.get("Cookie") else ""
    return Exchange(
        request.method,
        path,
        parameters,
        kind,
        login,
        sent,
        **answer_of(mask, reply, content),  # type: ignore[arg-type]
    )


def _learn_login(mask: Mask, header: str | None) -> None:
    """Learn the user's name and password of a Basic header, wherever else they may be."""
    try:
        credentials = basic_credentials(header)
    except HttpError:
        return
    if credentials is not None:
        mask.learn("user", credentials[0])
        mask.hide(credentials[1])


def answer_of(mask: Mask, reply: aiohttp.ClientResponse, content: bytes) -> dict[str, object]:
    """Return what an exchange keeps of a reply."""
    kind = reply.content_type if "Content-Type" in reply.headers else ""
    headers = mask_cookies(reply.headers, reply.headers.getall("Set-Cookie", []))
    if location := reply.headers.get("Location"):
        headers["Location"] = mask.path(location)
    is_text = kind.startswith("text/") or kind in {"application/json", "application/xml", ""}
    shown = mask.body(kind, content.decode("utf-8", "replace")) if is_text else "{bytes}"
    return {"status": reply.status, "reply_type": kind, "headers": headers, "reply": shown}


def mask_body(mask: Mask, kind: str, body: bytes, *, is_file: bool) -> tuple[tuple[str, ...], ...]:
    """Return what an exchange keeps of the body of a request."""
    if not body:
        return ()
    if kind == "application/x-www-form-urlencoded" and not is_file:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        return (("form",), *((name, mask.parameter(name, value)) for name, value in pairs))
    try:
        header = read_header(body)
    except NotDicomError:
        return (("bytes", str(len(body))),)
    uids = (mask.learn("uid", uid) for uid in (header.study_uid, header.series_uid, header.sop_uid))
    # Their values may name a person; that there are some shows in names of files and in listings.
    date, text = ("20000101" if header.study_date else ""), ("text" if header.series_description else "")
    number = "1" if header.instance_number else ""
    return (("dicom", *uids, header.modality, header.series_number, date, text, number),)
