"""HTTP to one host. The only place that knows aiohttp's errors, and turns them into ours."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from math import inf
from ssl import SSLContext
from time import monotonic
from typing import Any, ClassVar

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from asyncimport import __version__
from asyncimport.errors import (
    AsyncimportError,
    LoginExpiredError,
    NothingStoredError,
    SourceError,
    TransientError,
    UnavailableError,
)
from asyncimport.model.options import REPLY_SECONDS
from asyncimport.model.record import record
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.system.sockets import LinkMeter, Sending, sending
from asyncimport.xnat.deadlines import timeout_error
from asyncimport.xnat.proxies import DIRECT, Proxy
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.response_body import ACCEPT_HEADERS, MAX_REPLY_BYTES, read_reply

# XNAT takes a name with Mozilla, AppleWebKit, MSIE or Opera for a browser: it answers with login pages, CSRF errors.
_USER_AGENT = f"asyncimport/{__version__}"
# OpenSSL's codes of verification (x509_vfy.h) that no certificate authority would help with.
_CERTIFICATE_HINTS = {
    10: "ask the server's administrator to renew the certificate: it has expired",
    62: "give --host the name that the certificate is for",
    64: "give --host the name that the certificate is for, not an address",
}
_CONNECTED = "_asyncimport_connected"

Sockets = Callable[[tuple[Any, ...]], socket.socket]
"""Makes a socket for an entry of `getaddrinfo`."""


@record
class Timeouts:
    """Seconds: to connect; for a body to make progress; for the whole reply after it. A body has no total limit."""

    connect: float = 30.0
    stall: float = 60.0
    reply: float = REPLY_SECONDS


class _ClosedWhileIdleError(aiohttp.ServerDisconnectedError):
    """A connection that had served other requests ended before the first byte of the response."""


class _Connected:
    """What is known of a connection: its link, if that is timed, and whether it has served a request."""

    def __init__(self, link: LinkMeter | None) -> None:
        self.link = link
        self.has_served = False


class _Response(aiohttp.ClientResponse):
    """A response that knows whether its connection has served a request before.

    `waiting` has the connections that send a request, or wait for its response. With `times_link`, some responses know
    how long the requests of their connection have waited for the link, since the last one that did. Where the system
    does not tell, that is all the time until the response began, and there is no round trip.
    """

    waiting: ClassVar[set[asyncio.Transport | None]]
    times_link: ClassVar[bool]
    blocked_seconds: float | None = None
    round_trip = 0.0

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        began = monotonic()
        protocol, transport = connection.protocol, connection.transport
        # On the connection itself: a dictionary of weak references takes 3 us, for every file.
        connected: _Connected | None = getattr(protocol, _CONNECTED, None)
        if connected is None:
            connected = self._note(protocol, transport)
        self.waiting.add(transport)
        try:
            await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if connected.has_served:
                raise _ClosedWhileIdleError from error
            raise
        finally:
            self.waiting.discard(transport)
        connected.has_served = True
        if link := connected.link:
            if link.is_told:
                self.blocked_seconds, self.round_trip = link.measure(), link.round_trip
            else:
                self.blocked_seconds = monotonic() - began
        return self

    def _note(self, protocol: object, transport: asyncio.Transport | None) -> _Connected:
        link = None
        if self.times_link:
            link = LinkMeter(None if transport is None else transport.get_extra_info("socket"))
        connected = _Connected(link)
        # A version of aiohttp may forbid it: a connection that was closed while idle costs an attempt then.
        with suppress(AttributeError):
            setattr(protocol, _CONNECTED, connected)
        return connected


def open_session(
    server: URL,
    proxy: Proxy,
    *,
    tls: SSLContext | bool,
    connections: int,
    connect_seconds: float,
    cookies: aiohttp.abc.AbstractCookieJar,
    waiting: set[asyncio.Transport | None] | None = None,
    times_link: bool = False,
    sockets: Sockets | None = None,
) -> aiohttp.ClientSession:
    """Open an HTTP session, of at most this many connections; those that are busy are in `waiting`.

    With `times_link`, responses tell how long their request waited for the link. `sockets` makes the sockets.
    """
    what = {"waiting": set() if waiting is None else waiting, "times_link": times_link}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=tls, socket_factory=sockets),
        response_class=type("_Response", (_Response,), what),
        cookie_jar=cookies,
        # Without TLS the proxy reads the request itself; with TLS its headers go to it first, apart.
        headers={"User-Agent": _USER_AGENT, **ACCEPT_HEADERS, **(proxy.headers if server.scheme == "http" else {})},
        auto_decompress=False,  # aiohttp would unpack megabytes before anybody can stop it
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds),
        trust_env=False,  # aiohttp would also send credentials from ~/.netrc
    )


def count_sending(waiting: Iterable[asyncio.Transport | None]) -> int:
    """Return how many of these connections wait for the network."""
    count = 0
    for transport in waiting:
        if transport is not None and (connected := transport.get_extra_info("socket")) is not None:
            has_more = transport.get_write_buffer_size() > 0
            state = sending(connected)
            count += state is Sending.NETWORK or (has_more and state is Sending.NOTHING)
    return count


class Transport:
    """Sends requests to one host, and reports to the monitor how they end."""

    def __init__(
        self, http: aiohttp.ClientSession, host: URL, proxy: Proxy = DIRECT, monitor: OutageMonitor | None = None
    ) -> None:
        self._http = http
        self._host = host
        self._proxy = proxy
        self.area = "/data"
        """The first part of paths; very old servers, or proxies before them, have /REST only."""
        self.monitor = monitor or OutageMonitor(inf)
        self.blocked_seconds = self.link_seconds = 0.0
        """How long all bodies together have waited for the link, if that is timed; and as far as the system tells."""
        self.round_trip = 0.0
        """The shortest round trip of a connection, in seconds; 0 if it is unknown."""

    def switch_to(self, http: aiohttp.ClientSession) -> None:
        """Send from now on by other connections."""
        self._http = http

    def url(self, path: str) -> URL:
        """Return the address of an encoded path below XNAT's, such as `/data/projects`."""
        if path.startswith("/data/"):
            path = f"{self.area}{path.removeprefix('/data')}"
        return URL(f"{self._host}{path}", encoded=True)

    @contextmanager
    def monitored(self) -> Iterator[None]:
        """Report to the monitor how a call ends."""
        self.monitor.call_started()
        report = self.monitor.call_cancelled
        try:
            yield
            report = self.monitor.call_answered
        except AsyncimportError as error:
            report = self.report_of(error)
            raise
        finally:
            report()

    def report_of(self, error: AsyncimportError) -> Callable[[], None]:
        """Return the monitor's method for a call that ends with this error: any reply of XNAT's has got through."""
        if isinstance(error, SourceError):
            return self.monitor.call_cancelled
        if not isinstance(error, TransientError) or isinstance(error, LoginExpiredError | NothingStoredError):
            return self.monitor.call_answered
        return self.monitor.call_answered if error.is_file_verdict else partial(self.monitor.call_failed, error)

    async def exchange(
        self,
        method: str,
        url: URL,
        data: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> Reply:
        """Send a request and read the response. Raises: TransientError, UnavailableError."""
        # As `open`, without its context manager, which would cost time for every file.
        try:
            async with self._request(method, url, data, headers) as response:
                if response.status == 407:
                    raise self._proxy.auth_error()
                self._record_times(response, has_body=data is not None)
                return await read_reply(response, max_bytes)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._translate(error) from _cause(error)

    @asynccontextmanager
    async def open(
        self, method: str, url: URL, data: bytes | AsyncIterator[bytes] | None, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and give the response before its body is read. Raises: TransientError, UnavailableError."""
        try:
            async with self._request(method, url, data, headers) as response:
                if response.status == 407:
                    raise self._proxy.auth_error()
                self._record_times(response, has_body=data is not None)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._translate(error) from _cause(error)

    def _record_times(self, response: aiohttp.ClientResponse, *, has_body: bool) -> None:
        assert isinstance(response, _Response)  # noqa: S101 - for the type checker
        if response.blocked_seconds is None:
            return
        if response.round_trip:
            self.round_trip = min(self.round_trip or inf, response.round_trip)
            self.link_seconds += response.blocked_seconds
        if response.round_trip or has_body:
            self.blocked_seconds += response.blocked_seconds

    def _request(
        self, method: str, url: URL, data: bytes | AsyncIterator[bytes] | None, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        # Redirects are never followed: one could lead to another host, and take the cookie there.
        return self._http.request(
            method,
            url,
            data=data,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy.url,
            proxy_headers=self._proxy.headers,
        )

    def _translate(self, error: aiohttp.ClientError | TimeoutError) -> TransientError | UnavailableError:
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return self._proxy_error(error.status)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            problem = error.certificate_error
            hint = _CERTIFICATE_HINTS.get(
                getattr(problem, "verify_code", 0), "name the certificate authority of your site with --ca-bundle"
            )
            reason = getattr(problem, "verify_message", "verification failed")
            return UnavailableError(f"the server's certificate is not trusted: {reason}", hint=hint)
        # Behind a proxy it may be the proxy that answers so.
        is_direct = self._proxy.url is None
        if is_direct and isinstance(error, aiohttp.ClientConnectorSSLError) and _is_plain_http(error.os_error):
            return UnavailableError(
                f"{error.host}:{error.port} speaks plain http, not https",
                hint="correct scheme or port; http:// to another machine needs --insecure",
            )
        if isinstance(error, aiohttp.ClientConnectorError):
            place = "the server" if isinstance(error, aiohttp.ClientSSLError) else self._proxy
            return TransientError(f"no connection to {place} ({error.strerror or error.os_error})", unreachable=True)
        if not isinstance(error, aiohttp.ClientError):
            return timeout_error()
        idle = isinstance(error, _ClosedWhileIdleError)
        name = type(error.__cause__ if idle else error).__name__
        return TransientError(f"the connection broke ({name})", may_have_taken_effect=True, idle=idle)

    def _proxy_error(self, status: int) -> UnavailableError | TransientError:
        """Return the error of a proxy that makes no connection to the server."""
        if status == 407:
            return self._proxy.auth_error()
        if status >= 500 or status == 429:
            return TransientError(f"{self._proxy} has no connection to the server ({status})", unreachable=True)
        return UnavailableError(
            f"{self._proxy} refuses the connection to the server ({status})",
            hint="ask the proxy's administrator to allow it, or name the server in NO_PROXY",
        )


def _is_plain_http(error: OSError) -> bool:
    """Whether the answer to the first message of TLS was none of TLS."""
    return getattr(error, "reason", "") in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}


def _cause(error: aiohttp.ClientError | TimeoutError) -> BaseException | None:
    """Return the cause to show: a proxy's error holds the headers that went to it, with the password."""
    return None if isinstance(error, aiohttp.ClientHttpProxyError) else error
