"""From a request to its handler: the table of addresses, logins, faults, and what every reply carries.

XNAT's addresses are matched raw, as Restlet 1.1 does, so this is a plain aiohttp server with a small table
of its own rather than an aiohttp application.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from aiohttp import web

from . import (
    archive,
    batch,
    files,
    imports,
    listings,
    logins,
    prearchive,
    projects,
    refresh,
    resources,
    settings,
    status,
    striking,
    subjects,
    uploads,
)
from .auth import Entry, Login, needs_token
from .call import Call, Engine
from .names import escape_parameter
from .pages import Refused, tomcat_page
from .places import WHERE
from .site import TestXnat
from .strangers import is_at_home, keep_out

__all__ = ["App"]

_Handler = Callable[..., Awaitable[web.StreamResponse]]

_PREARCHIVED = r"prearchive/projects/(?P<project>[^/]+)/(?P<timestamp>[^/]+)/(?P<folder>[^/]+)"
_OWNER = r"projects/(?P<project>[^/]+)(?:/subjects/(?P<subject>[^/]+))?"
_RESOURCE = WHERE + "resources/(?P<label>[^/]+)"


@dataclass(frozen=True, slots=True)
class _Route:
    """An address (a pattern of the whole raw path below /data or /xapi) and its handlers by verb."""

    pattern: re.Pattern[str]
    handlers: Mapping[str, _Handler]


def _route(pattern: str, **handlers: _Handler) -> _Route:
    return _Route(re.compile(pattern), handlers)


def _files(pattern: str) -> _Route:
    return _route(pattern, GET=files.get_files, PUT=uploads.upload, POST=uploads.upload, DELETE=files.delete_files)


_WRITES = {
    "file": re.compile(WHERE + "(?:resources/[^/]+/)?files(?:/|$)"),
    "resource": re.compile(WHERE + "resources(?:/|$)"),
    "subject": re.compile("(?:projects/[^/]+/)?subjects(?:/[^/]+)?$"),
    "refresh": re.compile("services/refresh/catalog$|archive/catalogs/refresh(?:/|$)"),
}
"""The kinds of requests that change what is archived, by their addresses."""

_IMPORT = _route(r"services/import(?:/(?P<name>.*))?", POST=imports.import_service)

_DATA = (
    _IMPORT,
    _route("JSESSION", GET=logins.jsession, POST=logins.jsession, DELETE=logins.end_login),
    _route("auth", GET=logins.auth),
    _route("services/auth", PUT=logins.services_auth, POST=logins.services_auth),
    _route("user/(?P<name>[^/]+)/sessions", GET=logins.count_sessions, DELETE=logins.end_sessions),
    _route("version", GET=logins.version),
    _route(r"services/tokens/(?P<operation>[^/]+)(?:/(?P<alias>[^/]+)(?:/(?P<secret>[^/]+))?)?", GET=logins.tokens),
    _route("services/archive", POST=archive.archive_service),
    _route("services/refresh/catalog", POST=refresh.refresh_catalogs),
    _route("services/prearchive/(?P<operation>rebuild|move|delete)", POST=batch.batch),
    _route("prearchive(?:/projects(?:/(?P<projects>[^/]+))?)?", GET=prearchive.listing),
    _route(_PREARCHIVED, GET=prearchive.session, POST=prearchive.session_action, DELETE=prearchive.delete),
    _route(_PREARCHIVED + "/(?P<part>.+)", GET=prearchive.session_part),
    _route("projects", GET=projects.list_projects),
    _route("projects/(?P<name>[^/]+)", GET=projects.project, PUT=projects.put_project),
    _route("(?:projects/(?P<name>[^/]+)/)?config/seriesImportFilter/config", GET=settings.filter_config),
    _route("projects/(?P<name>[^/]+)/pipelines", GET=projects.pipelines),
    _route("projects/(?P<name>[^/]+)/(?P<key>[a-z_]+_code)", GET=projects.setting),
    _route("projects/(?P<name>[^/]+)/(?P<key>[a-z_]+_code)/(?P<value>[^/]+)", PUT=projects.setting),
    _route("subjects", GET=subjects.list_subjects),
    _route("projects/(?P<project>[^/]+)/subjects", GET=subjects.list_subjects, POST=subjects.post_subject),
    _route(
        "(?:projects/(?P<project>[^/]+)/)?subjects/(?P<subject>[^/]+)",
        GET=subjects.get_subject,
        PUT=subjects.put_subject,
    ),
    _route(WHERE + "resources", GET=resources.list_resources, POST=resources.post_resource),
    _route(
        _RESOURCE,
        GET=resources.get_resource,
        PUT=resources.put_resource,
        POST=resources.put_resource,
        DELETE=resources.delete_resource,
    ),
    _files(_RESOURCE + "/files(?:/(?P<name>.+))?"),
    _files(WHERE + "files(?:/(?P<name>.+))?"),
    _route(_RESOURCE + "/(?P<extra>.+)", PUT=resources.put_extra),
    _route(f"(?:{_OWNER}/)?experiments", GET=listings.experiment_list),
    _route(f"(?:{_OWNER}/)?experiments/(?P<name>[^/]+)(?:/(?P<part>.+))?", GET=listings.experiment),
)
_XAPI = (
    _route("siteConfig/buildInfo(?:/(?P<key>[^/]+))?", GET=logins.build_info),
    _route("siteConfig/(?P<name>[^/]+)", GET=settings.site_setting),
    _route("anonymize/site(?:/(?P<part>enabled))?", GET=settings.anonymisation),
    _route("anonymize/projects/(?P<name>[^/]+)(?:/(?P<part>enabled))?", GET=settings.anonymisation),
    _route("projects/(?P<name>[^/]+)/events/subscriptions", GET=projects.subscriptions),
    _route("archive/catalogs/refresh(?:/(?P<options>[^/]+))?", PUT=refresh.refresh_through_xapi),
    _route("event_tracking/(?P<key>[^/]+)(?:/(?P<payload>payload))?", GET=archive.event_tracking),
)
_NOBODY = Login("", None, 0.0)
"""Who asks, until that is known."""
_LOGIN_PAGE = "app/template/Login.vm"
_OPEN = {"JSESSION", "services/auth", *(f"siteConfig/{name}" for name in settings.OPEN_NAMES)}
_FORBIDDEN = re.compile(r"""["<>\\^`{|}\[\]]""")
_TABLES = {"data": _DATA, "REST": _DATA, "xapi": _XAPI}


@lru_cache(maxsize=4096)
def _parse_query(query: str) -> Mapping[str, str]:
    """Return the first value of each parameter, escaped. All files of a session share one query."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        values.setdefault(name, escape_parameter(value))
    return values


class App:
    """Answers the requests of one running server."""

    def __init__(self, xnat: TestXnat, engine: Engine, context: str, *, secure: bool) -> None:
        self.site_url = ""
        self._xnat = xnat
        self._engine = engine
        self._context = context
        self._cookie_end = f"; Path={context or '/'}; HttpOnly{'; Secure' if secure else ''}"
        self._served: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; a refusal becomes its page."""
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = refused.page()
        if self._xnat.seconds_ahead and not response.prepared:
            response.headers["Date"] = formatdate(time.time() + self._xnat.seconds_ahead, usegmt=True)
        limit = self._xnat.timing.keepalive_requests
        if limit is not None and request.transport is not None:
            self._limit_keepalive(request.transport, response, limit)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        raw, _, query_string = request.raw_path.partition("?")
        if self._xnat.strict_urls and (_FORBIDDEN.search(request.raw_path) or "%2f" in raw.lower()):
            raise Refused(400, "Invalid character found in the request target", tomcat=True)
        if not raw.startswith(self._context + "/"):
            return Refused(404, raw, tomcat=True).page()
        keep_out(request, self.site_url)
        raw = _resolved(raw.removeprefix(self._context + "/"))
        if (page := self._outside(request, raw)) is not None:
            return page
        area, _, path = raw.partition("/")
        if area not in _TABLES or (area == "xapi" and not self._xnat.profile.has_xapi):
            raise Refused(404, raw, tomcat=True)
        if area != "xapi" and path.startswith("archive/"):
            path = path.removeprefix("archive/")
        path = path.rstrip("/")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        query = _parse_query(query_string)
        kind = _kind(request.method, path)
        form = await _form(request) if kind != "file" else {}
        params = {**query, **{name: escape_parameter(values[0]) for name, values in form.items()}} if form else query
        if kind == "prearchive" and params.get("action") in {"build", "commit"}:
            kind = params["action"]
        self._xnat.count[kind] += 1
        call = Call(
            self._xnat, self._engine, request, path, query, params, form, _NOBODY, self.site_url, request.content
        )
        fault = self._xnat.faults.take(kind, path, params, query=query_string)
        if fault is not None:
            instead = await striking.on_the_way(call, fault, partial(self._reply, call, area, kind))
            if instead is not None:
                return instead
        response = await self._reply(call, area, kind)
        if fault is not None and (other := striking.replaced(call, fault, response)) is not response:
            return other
        if response.status < HTTPStatus.BAD_REQUEST:
            await self._xnat.faults.acknowledge(kind)
        return response

    async def _reply(self, call: Call, area: str, kind: str) -> web.StreamResponse:
        """Let a request in and serve it, faults within XNAT included; a refusal becomes its page."""
        try:
            entry = self._xnat.logins.enter(
                call.request,
                open_url=not self._xnat.require_login
                or call.path in _OPEN
                or call.path.startswith("siteConfig/buildInfo"),
                login_page=f"{self._context}/{_LOGIN_PAGE}",
            )
        except Refused as refused:
            return refused.page()
        call.login = entry.login
        try:
            response = self._barred(entry) or entry.denied or await self._serve(call, area, kind)
        except Refused as refused:
            response = refused.page()
        self._set_cookies(response, call, entry)
        return response

    async def _serve(self, call: Call, area: str, kind: str) -> web.StreamResponse:
        """Find the handler and let it answer (XnatSecureGuard), unless a fault does."""
        query = call.request.raw_path.partition("?")[2]
        fault = self._xnat.faults.take(kind, call.path, call.params, query=query, within=True)
        if fault is not None and (response := await striking.within(call, fault)) is not None:
            return response
        if self._xnat.left and kind == "listing" and call.path.startswith("prearchive"):
            await striking.look(call)
        method = call.request.method
        changes = method not in {"GET", "HEAD"} and area != "xapi"
        browser = changes and needs_token(call.request.headers.get("User-Agent", ""))
        if browser and call.params.get("XNAT_CSRF") != call.login.csrf:
            raise Refused(500, "Invalid CSRF")
        for route in _TABLES[area]:
            if (match := route.pattern.fullmatch(call.path)) is None:
                continue
            handler = route.handlers.get("GET" if method == "HEAD" else method)
            if handler is None:
                raise Refused(405, allow=tuple(route.handlers))
            variables = {name: value for name, value in match.groupdict().items() if value is not None}
            return await handler(call, **variables)
        raise Refused(404)

    def _barred(self, entry: Entry) -> web.Response | None:
        """Keep everybody out of a site that is not set up, and those whose password has expired.

        XnatInitCheckFilter, XnatExpiredPasswordFilter.
        """
        user = entry.login.user
        if not self._xnat.initialised:
            if entry.fresh or user is None:
                return tomcat_page(403, "Site has not yet been configured.")
            page = "setup" if user.all_data else "app/template/Unconfigured.vm"
        elif user is not None and user.password_expired:
            page = "app/template/XDATScreen_UpdateUser.vm"
        else:
            return None
        return web.Response(status=302, headers={"Location": f"{self._context}/{page}"})

    def _outside(self, request: web.BaseRequest, raw: str) -> web.Response | None:
        """Answer addresses that are not XNAT's: the home page, the server's own state; and the login page.

        What the server holds is told to processes of this machine, and to others under a login.
        """
        if request.method not in {"GET", "HEAD"}:
            return None
        if raw in {"", "testserver/state", "testserver/instances"} and not is_at_home(request, self.site_url):
            entry = self._xnat.logins.enter(request, open_url=False, login_page=f"{self._context}/{_LOGIN_PAGE}")
            if entry.denied is not None:
                return entry.denied
        match raw:
            case "":
                return status.home(self._xnat)
            case "testserver/state":
                return status.state(self._xnat)
            case "testserver/instances":
                return status.instances(self._xnat)
            case _ if raw == _LOGIN_PAGE:
                return logins.login_page()
            case _:
                return None

    def _set_cookies(self, response: web.StreamResponse, call: Call, entry: Entry) -> None:
        """Set a new login's cookie (also a guest's, also on a 401) and always the time of expiry."""
        if entry.fresh or call.login is not entry.login:
            response.headers.add("Set-Cookie", f"JSESSIONID={call.login.id}{self._cookie_end}")
        response.headers.add("Set-Cookie", self._xnat.logins.expiration_cookie(self._xnat.seconds_ahead))

    def _limit_keepalive(self, transport: asyncio.Transport, response: web.StreamResponse, limit: int) -> None:
        """Close the connection after its allotted requests (Tomcat's maxKeepAliveRequests)."""
        served = self._served[transport] = self._served.get(transport, 0) + 1
        if served >= limit:
            response.force_close()


def _kind(method: str, path: str) -> str:
    """Classify a request for counts and faults, as far as its address goes."""
    if path.startswith("services/import"):
        return "import"
    match method, path:
        case ("DELETE", "JSESSION"):
            return "logout"
        case (_, "JSESSION" | "services/auth"):
            return "login"
        case ("POST", "services/archive"):
            return "archive"
        case ("GET" | "HEAD", _):
            return "listing"
    if path.startswith("prearchive/"):
        return "prearchive"
    return next((kind for kind, pattern in _WRITES.items() if pattern.match(path)), "other")


def _resolved(raw: str) -> str:
    """Resolve `.` and `..` in an address, as Tomcat does before XNAT sees it; one that leaves the site is refused."""
    if "/." not in raw and "/%2e" not in raw.lower():
        return raw
    segments: list[str] = []
    for segment in raw.split("/"):
        match segment.lower().replace("%2e", "."):
            case ".":
                continue
            case "..":
                if not segments:
                    raise Refused(400, "Invalid URI", tomcat=True)
                segments.pop()
            case _:
                segments.append(segment)
    return "/".join(segments)


async def _form(request: web.BaseRequest) -> Mapping[str, list[str]]:
    """Return the fields of a form or of a JSON object in the body; other bodies stay unread."""
    values: dict[str, list[str]] = {}
    if request.content_type == "application/x-www-form-urlencoded":
        for name, value in parse_qsl(await request.text(), keep_blank_values=True):
            values.setdefault(name, []).append(value)
    elif request.content_type == "application/json" and request.can_read_body:
        try:
            body = json.loads(await request.text())
        except json.JSONDecodeError:
            raise Refused(400) from None
        values = {name: [str(value)] for name, value in body.items()} if isinstance(body, dict) else {}
    return values
