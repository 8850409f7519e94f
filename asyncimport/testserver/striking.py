"""Does to a request what a fault says: on the way to XNAT, and within it."""

import re
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from .actions import (
    Administer,
    Conflict,
    DiskFull,
    Empty,
    ExpireLogins,
    Gateway,
    Late,
    Leave,
    Locked,
    LoginPage,
    Reset,
    Restart,
    Stall,
    Status,
    Tell,
    Unseen,
)
from .archive import failure, timed_out
from .building import build
from .call import Call
from .faults import Fault
from .held import ARCHIVING, BUSY, Held
from .logins import login_page
from .operations import administer
from .pages import Refused, text, uri_list
from .state import PrearchiveRow, RowStatus
from .storage import Kept

__all__ = ["look", "on_the_way", "replaced", "within"]

_Serve = Callable[[], Awaitable[web.StreamResponse]]
_ROW = re.compile(r"prearchive/projects/([^/]+)/([^/]+)/([^/]+)(?:/.*)?\Z")


async def on_the_way(call: Call, fault: Fault, serve: _Serve) -> web.StreamResponse | None:
    """Do what happens before XNAT has the request; return the reply that comes in its place, if any."""
    request = call.request
    match fault.action:
        case Status() as action:
            await _drain(request)
            return web.Response(status=action.status, text=action.body, headers=action.headers)
        case Reset(effect=False, after_bytes=None):
            await _drain(request)
            return _abort(request)
        case Reset() as action:
            call.stop_after = action.after_bytes
        case Gateway(effect=False) as action:
            await _drain(request)
            return _gateway(action)
        case Gateway(wait=False) as action:
            held = await _keep(call, fault, serve)
            held.release()
            return _gateway(action)
        case Late() as action:
            held = await _keep(call, fault, serve)
            if action.after is not None:
                call.xnat.faults.count_down(held, action.of, action.after)
            return _abort(request) if action.status is None else _gateway(Gateway(action.status))
        case Stall() as action:
            return await _stall(call, fault, action, serve)
        case LoginPage():
            await _drain(request)
            return login_page()
        case ExpireLogins() as action:
            call.xnat.expire_logins()
            if action.tokens:
                call.xnat.tokens.clear()
        case Restart() as action:
            await call.engine.door.refuse(fault.hold(Held()), action.seconds)
            call.xnat.restart()
            return _abort(request)
        case Tell() as action:
            action.function()
        case Administer() as action:
            for row in _rows(call):
                await administer(call.xnat, call.engine, row, action)
        case _:
            pass  # within XNAT, or when it has answered
    return None


async def within(call: Call, fault: Fault) -> web.StreamResponse | None:
    """Do what XNAT itself does amiss; return its reply, or None where the request is served on. Raises Refused."""
    match fault.action:
        case Locked():
            raise _locked(call)
        case Empty():
            await _drain(call.request)
            return uri_list("")
        case DiskFull() as action:
            call.disk_full = action
        case Unseen() as action:
            call.unseen = action
        case Conflict() as action:
            if (row := _row(call)) is not None:
                await _build_first(call, row)
                row.status = action.status
                row.logs.append(action.message)
                raise failure(call.xnat, row, action.message, conflict=action.status is RowStatus.CONFLICT)
        case Leave() as action:
            if (row := _row(call)) is not None:
                return await _leave(call, fault, action, row)
        case _:
            pass
    return None


def replaced(call: Call, fault: Fault, response: web.StreamResponse) -> web.StreamResponse:
    """Return what becomes of XNAT's reply on its way back."""
    match fault.action:
        case Reset():
            return _abort(call.request)
        case Gateway() as action:
            return _gateway(action)
        case _:
            return response


async def look(call: Call) -> None:
    """Count a GET of the prearchive; rows that have been looked at often enough move on before the reply."""
    for left in list(call.xnat.left):
        if not left.shown_at(call.path):
            continue
        left.looked += 1
        if left.looks is not None and left.looked > left.looks:
            left.release()
            await left.settled()


async def _keep(call: Call, fault: Fault, serve: _Serve) -> Held:
    """Take the whole body in, and serve the request when it is let go."""
    held = fault.hold(Held())
    body = await _drain(call.request)
    if body is None:
        held.end()  # the client went away before it had sent all: there is nothing to serve
        return held
    call.body = Kept(body)
    call.engine.jobs.start_soon(_later, held, serve)
    return held


async def _later(held: Held, serve: _Serve) -> None:
    try:
        await held.released()
        await serve()
    finally:
        held.end()


async def _stall(call: Call, fault: Fault, action: Stall, serve: _Serve) -> web.Response:
    if action.effect:
        await serve()
    elif action.reads:
        await _drain(call.request)
    held = fault.hold(Held())
    call.engine.door.release_when_gone(call.request, held)
    await held.released()
    held.end()
    return _abort(call.request)


def _row(call: Call) -> PrearchiveRow | None:
    """Return the row that a request is about; one that names none, or one that is gone, is served as ever."""
    source = call.path if call.path.startswith("prearchive/") else next(iter(call.values("src")), "")
    match = _ROW.search(source)
    return call.xnat.find_row(*match.groups()) if match is not None else None


def _rows(call: Call) -> list[PrearchiveRow]:
    """Return the rows that a request is about, those of an import's project and label too."""
    if (row := _row(call)) is not None:
        return [row]
    names = call.query.get("PROJECT_ID"), call.query.get("EXPT_LABEL")
    return [row for row in call.xnat.prearchive if (row.project, row.name) == names]


async def _build_first(call: Call, row: PrearchiveRow) -> None:
    """Build, when it is a commit that then fails in archiving."""
    if call.path != "services/archive":
        await build(call.xnat, row)


async def _leave(call: Call, fault: Fault, action: Leave, row: PrearchiveRow) -> web.Response:
    if row.status.locked:
        raise _locked(call)
    if action.status in ARCHIVING or action.status is RowStatus.CONFLICT:
        await _build_first(call, row)
    left = call.xnat.leave(row, action.status, looks=action.looks, then=action.then, params=call.params)
    fault.hold(left)
    if action.status in ARCHIVING:
        raise timed_out(row)
    if action.status in BUSY:
        return _gateway(Gateway())
    row.logs.append(action.message)
    if call.path == "services/archive":
        raise failure(call.xnat, row, action.message, conflict=action.status is RowStatus.CONFLICT)
    raise Refused(500, action.message)


def _locked(call: Call) -> Refused:
    if call.path == "services/archive":
        return Refused(403, "Operation already in progress on this prearchive entry.")
    return Refused(409, "session document locked")


def _gateway(action: Gateway) -> web.Response:
    """Return nginx's own page."""
    phrases = {502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}
    title = f"{action.status} {phrases.get(action.status, 'Error')}"
    body = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    headers = {"Content-Type": "text/html", "Server": "nginx", **action.headers}
    return web.Response(status=action.status, body=body.encode(), headers=headers)


async def _drain(request: web.BaseRequest) -> bytes | None:
    """Read the body away, as a proxy does before it answers; None when the client went away meanwhile."""
    pieces = []
    try:
        while piece := await request.content.readany():
            pieces.append(piece)
    except (ConnectionError, ClientError, HttpProcessingError, web.PayloadAccessError):
        # The last of these is what a late request meets, whose client has gone long ago.
        return None
    return b"".join(pieces)


def _abort(request: web.BaseRequest) -> web.Response:
    """Break the connection with a reset."""
    if (transport := request.transport) is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Lingering for zero seconds makes close() send a reset rather than an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return text()
