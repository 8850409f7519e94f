"""What a server shows without a login, for `doctor`. Nothing here changes anything on it."""

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median
from time import perf_counter, time
from typing import Any, Literal

import aiohttp
import anyio
import anyio.to_thread
from yarl import URL

from asyncimport.errors import AsyncimportError, FatalError, TransientError, UnavailableError
from asyncimport.model.record import record
from asyncimport.xnat.deadlines import time_limit
from asyncimport.xnat.inspection import Fact, Unknown
from asyncimport.xnat.proxies import proxy_for
from asyncimport.xnat.replies.logins import check_login
from asyncimport.xnat.replies.response import REDIRECTS, Reply
from asyncimport.xnat.replies.site import parse_version, version_number
from asyncimport.xnat.response_body import MAX_REPLY_BYTES, read_reply
from asyncimport.xnat.site import BUILD_INFO
from asyncimport.xnat.tls import tls_context
from asyncimport.xnat.transport import Timeouts, Transport, open_session

BODY_SIZES: Mapping[str, int] = {"1 MB": 1 << 20, "100 MB": 100 << 20, "2 GB": 2 << 30, "8 GB": 8 << 30}
"""The sizes of the announced bodies, smallest first."""
_TIMEOUTS = Timeouts(connect=10.0, stall=15.0, reply=15.0)
_END_SECONDS = 5.0
_JSESSION = "/data/JSESSION"
# No XNAT has this importer: it would refuse the call before it reads a byte of the body (Importer).
_IMPORT = "/data/services/import?inbody=true&import-handler=asyncimport-doctor"
_LOGIN_ID = re.compile(r"[0-9A-F]{32}(?:\.[\w-]+)?")
_EXPIRATION = re.compile(r'SESSION_EXPIRATION_TIME="?(\d+),(-?\d+)')


@record
class BodyLimit:
    """The largest body accepted, the first refused ("": none), and the refusal's status (0: the connection closed)."""

    passed: str = ""
    refused: str = ""
    status: int = 0


@record
class PublicFacts:
    """What a guest can see. Times are in seconds.

    `failure` is the error that an upload would end with before it logs in, and `stage` what failed. `moved_to` is where
    the address redirects to, `elsewhere` a similar address that has an XNAT, `sign_on` where a login is redirected to.
    `version` is "" for an XNAT that does not show it.
    """

    failure: FatalError | None = None
    stage: Literal["address", "certificate", "proxy"] = "address"
    proxy: str = ""
    server: str = ""
    certificate_ends: float | None = None
    is_xnat: bool = False
    version: str = ""
    moved_to: str = ""
    elsewhere: str = ""
    sign_on: str = ""
    seconds_ahead: float | None = None
    idle_seconds: float | None = None
    round_trip: float | None = None
    body: Fact[BodyLimit] | None = None


class _NoBodyError(Exception):
    """Ends a request as soon as its body is asked for."""


class _Guest:
    """Calls a server without a login. XNAT gives a guest a login of his own, one for all calls."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.addresses: set[URL] = set()
        """The addresses of XNATs that have given us a guest's login."""

    async def get(self, base: URL, path: str, method: str = "GET") -> Reply:
        """Return the reply with all headers and the beginning of its body. Raises: TransientError, UnavailableError."""
        with time_limit(_TIMEOUTS.reply):
            async with self._transport.open(method, _below(base, path), None, {}) as response:
                body = (await read_reply(response, MAX_REPLY_BYTES)).text
                headers = {name.lower(): "\n".join(response.headers.getall(name)) for name in response.headers}
                return Reply(response.status, headers, body)

    async def announce_body(self, base: URL, size: int) -> int | None:
        """Announce a body, but send none. Return the status; 100: it is asked for, 0: closed, None: no response."""
        headers = {"Content-Type": "application/dicom", "Content-Length": str(size), "Expect": "100-continue"}
        is_asked_for = False

        async def body() -> AsyncIterator[bytes]:
            # aiohttp reads from here only after a 100. Nothing is to be sent, so the request ends with that.
            nonlocal is_asked_for
            is_asked_for = True
            raise _NoBodyError
            yield b""

        with anyio.move_on_after(_END_SECONDS):
            try:
                async with self._transport.open("POST", _below(base, _IMPORT), body(), headers) as response:
                    return response.status
            except TransientError as error:
                if not is_asked_for:
                    return 0 if error.may_have_taken_effect else None
        return 100 if is_asked_for else None

    async def log_out(self) -> None:
        """End the guest's logins, which others would have to wait for."""
        with anyio.CancelScope(shield=True):
            for base in self.addresses:
                with suppress(AsyncimportError), time_limit(_END_SECONDS):
                    await self.get(base, _JSESSION, "DELETE")


def _below(base: URL, path: str) -> URL:
    return URL(f"{str(base).rstrip('/')}{path}", encoded=True)


async def inspect_address(host: str, *, ca_bundle: Path | None = None, verify: bool = True) -> PublicFacts:
    """Find out what a server shows without a login, and send none."""
    base = URL(host.rstrip("/"))
    try:
        proxy = await anyio.to_thread.run_sync(proxy_for, base)
    except FatalError as error:
        return PublicFacts(error, "proxy")
    try:
        tls = tls_context(ca_bundle, proxy, verify=verify)
    except FatalError as error:
        return PublicFacts(error, "certificate")
    context = ssl.create_default_context() if tls is True else tls
    certificates = _record_certificates(context) if isinstance(context, ssl.SSLContext) else []
    name = str(proxy) if proxy.url else ""
    # An unsafe jar takes the cookies of numeric addresses too.
    cookies = aiohttp.CookieJar(unsafe=True)
    async with open_session(
        base, proxy, tls=context, connections=1, connect_seconds=_TIMEOUTS.connect, cookies=cookies
    ) as http:
        guest = _Guest(Transport(http, base, proxy))
        try:
            found = await _inspect(guest, base)
        except TransientError as error:
            hint = "check scheme, name and port, and that the server is up"
            return PublicFacts(UnavailableError(f"{host} does not answer: {error}", hint=hint), proxy=name)
        except FatalError as error:
            is_untrusted = isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError)
            return PublicFacts(
                error, "certificate" if is_untrusted else "proxy" if proxy.url else "address", proxy=name
            )
        finally:
            await guest.log_out()
    end = certificates[-1].get("notAfter") if certificates else None
    return PublicFacts(**{**found, "proxy": name, "certificate_ends": ssl.cert_time_to_seconds(end) if end else None})


def _record_certificates(context: ssl.SSLContext) -> list[Mapping[str, Any]]:
    """Return a list that will get the certificate of each server that is connected to."""
    seen: list[Mapping[str, Any]] = []

    class Recorder(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            seen.append(self.getpeercert() or {})

    context.sslobject_class = Recorder
    return seen


async def _inspect(guest: _Guest, base: URL) -> dict[str, Any]:
    """Return the fields of PublicFacts for an address. Raises: TransientError, UnavailableError."""
    first = await guest.get(base, BUILD_INFO)
    found: dict[str, Any] = {"server": first.headers.get("server", "")}
    if first.status in REDIRECTS:
        target = _redirect_target(base, first, BUILD_INFO)
        version = await _find_version(guest, target)
        return {**found, "moved_to": str(target), "elsewhere": "" if version is None else str(target)}
    version = await _find_version(guest, base, first)
    login = await guest.get(base, _JSESSION)
    if login.status in REDIRECTS:
        found["sign_on"] = str(_redirect_target(base, login, _JSESSION).origin())
    if version is None:
        found["elsewhere"] = "" if "sign_on" in found else await _find_elsewhere(guest, base)
        if not found["elsewhere"] and (login.status == 403 or login.status >= 500):
            found["failure"] = _login_error(login)
        return found
    trips = []
    for _ in range(5):
        start, wall_time = perf_counter(), time()
        reply = await guest.get(base, _JSESSION)
        trips.append(perf_counter() - start)
        found["seconds_ahead"] = _seconds_ahead(reply, wall_time + trips[-1] / 2)
        found["idle_seconds"] = _idle_seconds(reply)
    body = await _find_body_limit(guest, base)
    return {**found, "is_xnat": True, "version": version, "round_trip": median(trips), "body": body}


def _login_error(login: Reply) -> FatalError | None:
    """Return the error that an upload would end with at a server that refuses every login, or is overloaded."""
    try:
        check_login(login)
    except FatalError as error:
        return error
    except TransientError as error:
        return UnavailableError(str(error), hint="try again when the server is back")
    return None


async def _find_version(guest: _Guest, base: URL, info: Reply | None = None) -> str | None:
    """Return the version of the XNAT at an address (SiteConfigApi), "" if it does not show it; None: no XNAT."""
    try:
        info = info or await guest.get(base, BUILD_INFO)
        if (version := parse_version(info)) is not None:
            guest.addresses.add(base)
            return version
        login = await guest.get(base, _JSESSION)
        # XNAT gives anyone a login ID (UserSession), and no other server one of this form.
        if login.status != 200 or not _LOGIN_ID.fullmatch(login.text.strip()):
            return None
        guest.addresses.add(base)
        text = (await guest.get(base, "/data/version")).text.strip()
        return text if version_number(text) else ""
    except (TransientError, FatalError):
        return None


def _redirect_target(base: URL, reply: Reply, path: str) -> URL:
    """Return the address that a redirect of `path` leads to, without `path`; else the origin only."""
    try:
        target = base.join(URL(reply.headers.get("location", "/")))
        found = target.with_user(None).with_query(None).with_fragment(None)
    except ValueError:
        return base.origin()
    if found.path.endswith(path):
        return URL(str(found).removesuffix(path).rstrip("/"))
    return found.origin()


async def _find_elsewhere(guest: _Guest, base: URL) -> str:
    """Return a similar address that has an XNAT: above this one, below it, or with TLS; "" if there is none."""
    origin = base.origin()
    paths = [base.path]
    with suppress(AsyncimportError):
        home = await guest.get(origin, "/")
        if home.status in REDIRECTS:
            target = base.join(URL(home.headers.get("location", "/")))
            paths += [target.path] if target.origin() == origin else []
    places: list[URL] = []
    for path in paths:
        parts = [part for part in path.split("/") if part]
        places += [origin.with_path("/".join(["", *parts[:count]])) for count in range(len(parts), -1, -1)]
    places += [origin.with_path(f"{base.path.rstrip('/')}/xnat"), origin.with_path("/xnat")]
    if base.scheme == "http":
        places += [base.with_scheme("https").with_port(None if base.port == 80 else base.port)]
    for place in dict.fromkeys(str(place).rstrip("/") for place in places):
        if place != str(base).rstrip("/") and await _find_version(guest, URL(place)) is not None:
            return place
    return ""


async def _find_body_limit(guest: _Guest, base: URL) -> Fact[BodyLimit]:
    """Find out which of the BODY_SIZES is the first that the server, or a proxy before it, refuses."""
    passed = ""
    for label, size in BODY_SIZES.items():
        # The first connection may have been closed while it was idle.
        status = await guest.announce_body(base, size) or await guest.announce_body(base, size)
        if status in {0, 413}:
            return BodyLimit(passed, label, status or 0)
        if status not in {100, 200, 401, 403, 404}:
            return Unknown("there was no answer" if status is None else f"the server answered {status}")
        passed = label
    return BodyLimit(passed)


def _seconds_ahead(reply: Reply, here: float) -> float | None:
    """Return how far XNAT's clock is ahead (XnatExpiredPasswordFilter), or that of the Date header."""
    if match := _EXPIRATION.search(reply.headers.get("set-cookie", "")):
        return int(match[1]) / 1000 - here
    try:
        return parsedate_to_datetime(reply.headers["date"]).timestamp() + 0.5 - here
    except (KeyError, ValueError, TypeError):
        return None


def _idle_seconds(reply: Reply) -> float | None:
    """Return after how long without a request XNAT ends a login (XnatExpiredPasswordFilter)."""
    match = _EXPIRATION.search(reply.headers.get("set-cookie", ""))
    return int(match[2]) / 1000 if match else None
