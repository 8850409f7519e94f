"""Injects faults into requests: on their way to XNAT, within it, and on the way back."""

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

from ..faults import actions
from ..faults.schedule import Fault
from ..site.building import build
from ..site.gates import Gate
from ..site.prearchive import ARCHIVING, BUSY, PrearchiveRow, RowStatus
from ..site.storage import BufferedBody
from ..site.workers import administer
from .archive import archive_failure, archive_timeout
from .front_end import abort
from .logins import login_page
from .request_context import RequestContext
from .responses import HttpError, nginx_page, text, uri_list

_Serve = Callable[[], Awaitable[web.StreamResponse]]
_ROW = re.compile(r"prearchive/projects/([^/]+)/([^/]+)/([^/]+)(?:/.*)?\Z")


async def on_the_way(context: RequestContext, fault: Fault, serve: _Serve) -> web.StreamResponse | None:
    """Do what happens before XNAT has the request; return the reply that replaces XNAT's, if any."""
    match fault.action:
        case actions.Status() as action:
            await _drain(context)
            return web.Response(status=action.status, text=action.body, headers=action.headers)
        case actions.Reset(effect=False, after_bytes=None):
            await _drain(context)
            return _abort(context)
        case actions.Reset() as action:
            context.stop_after = action.after_bytes
        case actions.Damage():
            body = await _drain(context)
            if body:
                at = len(body) // 2
                body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            context.body = BufferedBody(body or b"")
        case actions.Gateway(effect=False) as action:
            await _drain(context)
            return nginx_page(action.status, headers=action.headers)
        case actions.Gateway(wait=False) as action:
            gate = await _delay(context, fault, serve)
            gate.release()
            return nginx_page(action.status, headers=action.headers)
        case actions.Late() as action:
            gate = await _delay(context, fault, serve)
            if action.after is not None:
                context.faults.release_after(gate, action.of, action.after)
            return _abort(context) if action.status is None else nginx_page(action.status)
        case actions.Stall() as action:
            return await _stall(context, fault, action, serve)
        case actions.LoginPage():
            await _drain(context)
            return login_page()
        case actions.ExpireLogins() as action:
            context.site.expire_logins()
            if action.tokens:
                context.site.tokens.clear()
        case actions.Restart() as action:
            context.listener.refuse(fault.hold(Gate()), action.seconds)
            context.site.restart()
            return _abort(context)
        case actions.Tell() as action:
            action.function()
        case actions.Administer() as action:
            for row in _rows(context):
                await administer(context.site, context.runtime, row, action.act, action.to)
        case _:
            pass  # it happens within XNAT, or on the way back
    return None


async def within(context: RequestContext, fault: Fault) -> web.StreamResponse | None:
    """Do what goes wrong in XNAT itself; return its reply, or None if the request is served. Raises HttpError."""
    match fault.action:
        case actions.Locked():
            raise _locked(context)
        case actions.Empty():
            await _drain(context)
            return uri_list("")
        case actions.DiskFull() as action:
            context.disk_full = action
        case actions.Unseen() as action:
            context.unseen = action
        case actions.Conflict() as action:
            if (row := _row(context)) is not None:
                await _build_first(context, row)
                row.status = action.status
                row.logs.append(action.message)
                raise archive_failure(context.site, row, action.message, conflict=action.status is RowStatus.CONFLICT)
        case actions.Leave() as action:
            if (row := _row(context)) is not None:
                return await _leave(context, fault, action, row)
        case _:
            pass
    return None


def on_the_way_back(context: RequestContext, fault: Fault, response: web.StreamResponse) -> web.StreamResponse:
    """Return the reply that the client gets instead of XNAT's."""
    match fault.action:
        case actions.Reset():
            return _abort(context)
        case actions.Gateway() as action:
            return nginx_page(action.status, headers=action.headers)
        case _:
            return response


async def count_look(context: RequestContext) -> None:
    """Count a GET of the prearchive; rows that have been looked at often enough move on before the reply."""
    for held_row in list(context.site.held_rows):
        if not held_row.is_shown_at(context.path):
            continue
        held_row.looked += 1
        if held_row.looks is not None and held_row.looked > held_row.looks:
            held_row.release()
            await held_row.settled()


async def _delay(context: RequestContext, fault: Fault, serve: _Serve) -> Gate:
    """Read the whole body, and serve the request when the returned gate is released."""
    gate = fault.hold(Gate())
    body = await _drain(context)
    if body is None:
        gate.settle()  # the client left before it had sent everything: there is nothing to serve
        return gate
    context.body = BufferedBody(body)
    context.runtime.jobs.start_soon(_serve_later, gate, serve)
    return gate


async def _serve_later(gate: Gate, serve: _Serve) -> None:
    try:
        await gate.released()
        await serve()
    finally:
        gate.settle()


async def _stall(context: RequestContext, fault: Fault, action: actions.Stall, serve: _Serve) -> web.Response:
    if action.effect:
        await serve()
    elif action.reads:
        await _drain(context)
    gate = fault.hold(Gate())
    context.listener.release_when_lost(context.request, gate)
    await gate.released()
    gate.settle()
    return _abort(context)


def _row(context: RequestContext) -> PrearchiveRow | None:
    """Return the row that a request is about; None if it names none, or one that is gone."""
    source = context.path if context.path.startswith("prearchive/") else next(iter(context.values("src")), "")
    match = _ROW.search(source)
    return context.site.find_row(*match.groups()) if match is not None else None


def _rows(context: RequestContext) -> list[PrearchiveRow]:
    """Return the rows that a request is about; for an import, those with its project and label."""
    if (row := _row(context)) is not None:
        return [row]
    names = context.query.get("PROJECT_ID"), context.query.get("EXPT_LABEL")
    return [row for row in context.site.prearchive if (row.project, row.name) == names]


async def _build_first(context: RequestContext, row: PrearchiveRow) -> None:
    """Build the row if the request is a build or commit."""
    if context.path != "services/archive":
        await build(context.site, row)


async def _leave(context: RequestContext, fault: Fault, action: actions.Leave, row: PrearchiveRow) -> web.Response:
    if row.status.is_locked:
        raise _locked(context)
    if action.status in ARCHIVING or action.status is RowStatus.CONFLICT:
        await _build_first(context, row)
    held_row = context.site.leave(row, action.status, looks=action.looks, then=action.then, params=context.params)
    fault.hold(held_row)
    if action.status in ARCHIVING:
        raise archive_timeout(row)
    if action.status in BUSY:
        return nginx_page(504)
    row.logs.append(action.message)
    if context.path == "services/archive":
        raise archive_failure(context.site, row, action.message, conflict=action.status is RowStatus.CONFLICT)
    raise HttpError(500, action.message)


def _locked(context: RequestContext) -> HttpError:
    if context.path == "services/archive":
        return HttpError(403, "Operation already in progress on this prearchive entry.")
    return HttpError(409, "session document locked")


async def _drain(context: RequestContext) -> bytes | None:
    """Read the whole body, as a proxy does before it answers; None if the client left meanwhile."""
    return await context.site.storage.collect(context.body)


def _abort(context: RequestContext) -> web.Response:
    abort(context.request)
    return text()
