"""From a request to its handler: logins, faults, and what every reply carries.

XNAT's addresses are matched raw, as Restlet 1.1 does, so this is a plain aiohttp server with a routing table of its own
rather than an aiohttp application.
"""

import asyncio
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from urllib.parse import parse_qsl
from weakref import WeakKeyDictionary

from aiohttp import web

from ..faults.schedule import Faults
from ..site.logins import Login
from ..site.names import escape_parameter
from ..site.prearchive import RowLockedError
from ..site.runtime import Runtime
from ..site.site import Site
from . import inject, logins, overview
from .authentication import Authentication, authenticate, expiration_cookie, needs_csrf_token
from .bodies import RequestBody, form_fields
from .front_end import has_reset, refuse
from .home import Home
from .listener import Listener
from .origins import check_origin, is_local
from .request_context import RequestContext
from .responses import HttpError, tomcat_page
from .routes import AREAS, OPEN_PATHS, kind_of_request

_NOBODY = Login("", None, 0.0)
"""The login of a request until it is authenticated."""
_LOGIN_PAGE = "app/template/Login.vm"
_OWN_PAGES = frozenset({"", "testserver/events", "testserver/state", "testserver/instances"})
_WITH_FILES = frozenset({"file", "import"})
"""The kinds of requests whose body is a file, whatever its media type says."""


@lru_cache(maxsize=4096)
def _parse_query(query: str) -> Mapping[str, str]:
    """Return the first value of each parameter, escaped. Cached: all files of a session share one query."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        values.setdefault(name, escape_parameter(value))
    return values


class App:
    """Answers the requests of one running server."""

    def __init__(
        self, site: Site, faults: Faults, runtime: Runtime, listener: Listener, context_path: str, *, secure: bool
    ) -> None:
        self.site_url = ""
        self._site = site
        self._home = Home(site)
        self._faults = faults
        self._runtime = runtime
        self._listener = listener
        self._context_path = context_path
        self._cookie_end = f"; Path={context_path or '/'}; HttpOnly{'; Secure' if secure else ''}"
        self._served: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; an HttpError becomes its page."""
        try:
            response = await self._answer(request)
        except HttpError as error:
            response = error.page()
        self._home.notify()
        if self._site.seconds_ahead and not response.prepared:
            response.headers["Date"] = formatdate(time.time() + self._site.seconds_ahead, usegmt=True)
        if has_reset(self._site, request, response):
            return response
        limit = self._site.timing.keepalive_requests
        if limit is not None and request.transport is not None:
            self._limit_keepalive(request.transport, response, limit)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if (refused := refuse(self._site, request)) is not None:
            return refused
        raw, _, query_string = request.raw_path.partition("?")
        if not raw.startswith(self._context_path + "/"):
            raise HttpError(404, raw, tomcat=True)
        check_origin(request, self.site_url)
        raw = _resolve_dots(raw.removeprefix(self._context_path + "/"))
        if (page := await self._page(request, raw)) is not None:
            return page
        area, _, path = raw.partition("/")
        missing = {"xapi": not self._site.profile.has_xapi, "data": not self._site.has_data}
        if area not in AREAS or missing.get(area):
            raise HttpError(404, raw, tomcat=True)
        if area != "xapi" and path.startswith("archive/"):
            path = path.removeprefix("archive/")
        path = path.rstrip("/")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        query = _parse_query(query_string)
        kind = kind_of_request(request.method, path)
        form = await form_fields(request) if kind not in _WITH_FILES else {}
        params = {**query, **{name: escape_parameter(values[0]) for name, values in form.items()}} if form else query
        if kind == "prearchive" and params.get("action") in {"build", "commit"}:
            kind = params["action"]
        self._site.count[kind] += 1
        context = RequestContext(
            self._site,
            self._faults,
            self._runtime,
            self._listener,
            request,
            path,
            query,
            params,
            form,
            _NOBODY,
            self.site_url,
            RequestBody(request.content),
        )
        fault = self._faults.strike(kind, path, params, query=query_string)
        if fault is not None:
            instead = await inject.on_the_way(context, fault, partial(self._reply, context, area, kind))
            if instead is not None:
                return instead
        response = await self._reply(context, area, kind)
        if fault is not None and (other := inject.on_the_way_back(context, fault, response)) is not response:
            return other
        if response.status < HTTPStatus.BAD_REQUEST:
            await self._faults.acknowledge(kind)
        return response

    async def _reply(self, context: RequestContext, area: str, kind: str) -> web.StreamResponse:
        """Authenticate a request and serve it, faults within XNAT included; an error becomes its page."""
        is_open = (
            not self._site.require_login
            or context.path in OPEN_PATHS
            or context.path.startswith("siteConfig/buildInfo")
        )
        try:
            authentication = authenticate(
                self._site.logins, context.request, is_open=is_open, login_page=f"{self._context_path}/{_LOGIN_PAGE}"
            )
        except HttpError as error:
            return error.page()
        context.login = authentication.login
        try:
            response = self._redirect(authentication) or authentication.denied or await self._serve(context, area, kind)
        except HttpError as error:
            response = error.page() if area != "xapi" else error.plain()
        except RowLockedError:
            response = HttpError(409, "session document locked").page()
        self._set_cookies(response, context, authentication)
        return response

    async def _serve(self, context: RequestContext, area: str, kind: str) -> web.StreamResponse:
        """Find the handler and let it answer (XnatSecureGuard), unless a fault does."""
        query = context.request.raw_path.partition("?")[2]
        fault = self._faults.strike(kind, context.path, context.params, query=query, within=True)
        if fault is not None and (response := await inject.within(context, fault)) is not None:
            return response
        if self._site.held_rows and kind == "listing" and context.path.startswith("prearchive"):
            await inject.count_look(context)
        method = context.request.method
        changes = method not in {"GET", "HEAD"} and area != "xapi"
        browser = changes and needs_csrf_token(context.request.headers.get("User-Agent", ""))
        if browser and context.params.get("XNAT_CSRF") != context.login.csrf:
            raise HttpError(500, "Invalid CSRF")
        for route in AREAS[area]:
            if (match := route.pattern.fullmatch(context.path)) is None:
                continue
            handler = route.handlers.get("GET" if method == "HEAD" else method)
            if handler is None:
                raise HttpError(405, allow=tuple(route.handlers))
            variables = {name: value for name, value in match.groupdict().items() if value is not None}
            return await handler(context, **variables)
        raise HttpError(404)

    def _redirect(self, authentication: Authentication) -> web.Response | None:
        """Keep everybody out of a site that is not set up, and users with an expired password.

        XnatInitCheckFilter, XnatExpiredPasswordFilter.
        """
        user = authentication.login.user
        if not self._site.initialised:
            if authentication.fresh or user is None:
                return tomcat_page(403, "Site has not yet been configured.")
            page = "setup" if user.all_data else "app/template/Unconfigured.vm"
        elif user is not None and user.password_expired:
            page = "app/template/XDATScreen_UpdateUser.vm"
        else:
            return None
        return web.Response(status=302, headers={"Location": f"{self._context_path}/{page}"})

    async def _page(self, request: web.BaseRequest, raw: str) -> web.StreamResponse | None:
        """Answer the addresses outside XNAT's REST interface: the login page, and this server's own pages.

        Its own pages need a login unless the request comes by an address of this machine.
        """
        if request.method not in {"GET", "HEAD"}:
            return None
        login_page = f"{self._context_path}/{_LOGIN_PAGE}"
        if raw in _OWN_PAGES and not is_local(request, self.site_url):
            authentication = authenticate(self._site.logins, request, is_open=False, login_page=login_page)
            if authentication.denied is not None:
                return authentication.denied
        match raw:
            case "":
                return self._home.page()
            case "testserver/events" if request.method == "GET":
                return await self._home.push(request)
            case "testserver/state":
                return overview.state(self._site, self._faults)
            case "testserver/instances":
                return overview.instances(self._site)
            case _ if raw == _LOGIN_PAGE:
                return logins.login_page()
            case _:
                return None

    def _set_cookies(
        self, response: web.StreamResponse, context: RequestContext, authentication: Authentication
    ) -> None:
        """Set a new login's cookie (a guest's too, and on a 401 too), and always the time of expiry."""
        if authentication.fresh or context.login is not authentication.login:
            response.headers.add("Set-Cookie", f"JSESSIONID={context.login.id}{self._cookie_end}")
        if (name := self._site.sticky_cookie) and name not in context.request.cookies:
            response.headers.add("Set-Cookie", f"{name}=node1; Path=/")
        response.headers.add("Set-Cookie", expiration_cookie(self._site.logins.timeout, self._site.seconds_ahead))

    def _limit_keepalive(self, transport: asyncio.Transport, response: web.StreamResponse, limit: int) -> None:
        """Close the connection after this many requests (Tomcat's maxKeepAliveRequests)."""
        served = self._served[transport] = self._served.get(transport, 0) + 1
        if served >= limit:
            response.force_close()


def _resolve_dots(raw: str) -> str:
    """Resolve `.` and `..` in an address, as Tomcat does before XNAT sees it; refuse one that leaves the site."""
    if "/." not in raw and "/%2e" not in raw.lower():
        return raw
    segments: list[str] = []
    for segment in raw.split("/"):
        match segment.lower().replace("%2e", "."):
            case ".":
                continue
            case "..":
                if not segments:
                    raise HttpError(400, "Invalid URI", tomcat=True)
                segments.pop()
            case _:
                segments.append(segment)
    return "/".join(segments)
