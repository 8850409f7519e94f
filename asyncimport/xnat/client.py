"""Calls to XNAT under one login, which is renewed when it expires."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiofiles
import aiohttp
import anyio
import anyio.to_thread
from yarl import URL

from asyncimport.errors import AsyncimportError, LoginExpiredError, TransientError, UnavailableError
from asyncimport.pacing.load import Load
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.pacing.rate_limit import RateLimit
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.xnat.deadlines import Deadlines, time_limit
from asyncimport.xnat.login import Credentials, Login
from asyncimport.xnat.proxies import proxy_for
from asyncimport.xnat.replies.images import raise_download_error
from asyncimport.xnat.replies.logins import check_reachable
from asyncimport.xnat.replies.resources import check_absent
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.response_body import (
    MAX_FILE_BYTES,
    MAX_LISTING_BYTES,
    MAX_REPLY_BYTES,
    MIN_BYTES_PER_SECOND,
    read_chunks,
    read_reply,
)
from asyncimport.xnat.tls import tls_context
from asyncimport.xnat.transport import Sockets, Timeouts, Transport, count_sending, open_session

T = TypeVar("T")
F = TypeVar("F")


class Client:
    """Calls XNAT. `rate` limits the bytes of bodies in a second; `load` is told what waits. Open one with `connect`."""

    def __init__(
        self,
        transport: Transport,
        credentials: Credentials,
        timeouts: Timeouts,
        rate: RateLimit | None = None,
        load: Load | None = None,
    ) -> None:
        self._transport = transport
        self._monitor = transport.monitor
        self._deadlines = Deadlines(timeouts.stall + timeouts.reply)
        self.login = Login(transport, credentials, timeouts)
        self.timeouts = timeouts
        self.rate = rate
        self.load = load or Load()
        self.url = transport.url

    @property
    def blocked_seconds(self) -> float:
        """How long all bodies together have waited to be sent: for the link, or for the rate limit."""
        return self._transport.blocked_seconds + (0.0 if self.rate is None else self.rate.waited_seconds)

    @property
    def link_seconds(self) -> float:
        """The same, as far as the system tells it."""
        return self._transport.link_seconds + (0.0 if self.rate is None else self.rate.waited_seconds)

    @property
    def round_trip(self) -> float:
        """The shortest round trip so far, in seconds; 0 if it is unknown."""
        return self._transport.round_trip

    async def call(
        self,
        method: str,
        url: URL,
        parse: Callable[[Reply], T],
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        has_deadline: bool = False,
        max_bytes: int = MAX_REPLY_BYTES,
    ) -> T:
        """Send one request, and return what `parse` makes of the reply, which has `max_bytes` at most.

        With `has_deadline` the call has the time of a body and a reply, else the caller limits it.
        Raises: TransientError if no reply came, LoginExpiredError after the login was renewed, and as `parse`.
        """
        login = self.login
        if login.is_lost:
            await login.renew(None)
        number = login.number
        # As `Transport.monitored`, without a context manager, which would cost time for every file.
        self._monitor.call_started()
        report = self._monitor.call_cancelled
        try:
            sent = {**login.headers, **headers} if headers else login.headers
            if has_deadline:
                with self._deadlines:
                    reply = await self._transport.exchange(method, url, data, sent, max_bytes)
            else:
                reply = await self._transport.exchange(method, url, data, sent, max_bytes)
            result = parse(reply)
            report = self._monitor.call_answered
        except AsyncimportError as error:
            report = self._transport.report_of(error)
            if not isinstance(error, LoginExpiredError):
                raise
            expired = error
        else:
            return result
        finally:
            report()
        await login.renew(number)
        raise expired

    async def request(self, method: str, path: str, parse: Callable[[Reply], T], policy: RetryPolicy) -> T:
        """Send a request without a body, again while it fails for a time. Raises: TransientError, and as `parse`."""
        max_bytes = MAX_LISTING_BYTES if method == "GET" else MAX_REPLY_BYTES

        async def once() -> T:
            with time_limit(self.timeouts.reply):
                return await self.call(method, self.url(path), parse, max_bytes=max_bytes)

        return await call_with_retries(once, policy)

    async def ping(self) -> bool:
        """Whether XNAT answers at all."""
        try:
            with time_limit(self.timeouts.stall):
                return await self.call("GET", self.url("/data/auth"), check_reachable)
        except LoginExpiredError:
            return True
        except TransientError:
            return False

    async def download(self, path: str, target: Path, policy: RetryPolicy) -> None:
        """Write what XNAT has at a path into a file. Raises: TransientError, RefusedError for nothing, or too much."""

        async def write(chunks: AsyncIterator[bytes]) -> None:
            # A cancellation while aiofiles opens or closes would leave its handle open.
            with anyio.CancelScope(shield=True):
                file = await aiofiles.open(target, "wb", buffering=0)
            try:
                async for chunk in chunks:
                    rest = memoryview(chunk)
                    try:
                        while rest:
                            rest = rest[await file.write(rest) :]
                    except OSError as error:
                        raise TransientError(f"cannot write a file of XNAT's here: {error.strerror}") from None
            finally:
                with anyio.CancelScope(shield=True):
                    await file.close()

        await self._fetch(path, write, raise_download_error, policy)

    async def download_digest(self, path: str, policy: RetryPolicy) -> tuple[int, str] | None:
        """Download a file; return size and MD5 (hexadecimal), None: no file. Raises: TransientError, RefusedError."""

        async def measure(chunks: AsyncIterator[bytes]) -> tuple[int, str]:
            size, digest = 0, hashlib.md5(usedforsecurity=False)
            async for chunk in chunks:
                size += len(chunk)
                digest.update(chunk)
            return size, digest.hexdigest()

        return await self._fetch(path, measure, check_absent, policy)

    async def _fetch(
        self,
        path: str,
        consume: Callable[[AsyncIterator[bytes]], Awaitable[T]],
        judge: Callable[[Reply], F],
        policy: RetryPolicy,
    ) -> T | F:
        """Download into `consume`, again from the start while it fails; `judge` gets replies other than 200."""

        async def once() -> T | F:
            number = self.login.number
            with self._transport.monitored(), time_limit(self.timeouts.reply) as scope:
                async with self._transport.open("GET", self.url(path), None, self.login.headers) as response:
                    if response.status == 200:
                        return await consume(self._read_file(response, scope))
                    reply = await read_reply(response, MAX_REPLY_BYTES)
            try:
                return judge(reply)
            except LoginExpiredError:
                await self.login.renew(number)
                raise

        return await call_with_retries(once, policy)

    async def _read_file(self, response: aiohttp.ClientResponse, scope: anyio.CancelScope) -> AsyncIterator[bytes]:
        """Yield a body, and move the deadline with each chunk that comes in time."""
        limit = scope.deadline
        async for chunk in read_chunks(response, MAX_FILE_BYTES):
            limit += len(chunk) / MIN_BYTES_PER_SECOND
            scope.deadline = min(anyio.current_time() + self.timeouts.stall, limit)
            yield chunk


@asynccontextmanager
async def connect(
    host: str,
    credentials: Credentials,
    *,
    connections: int,
    timeouts: Timeouts | None = None,
    ca_bundle: Path | None = None,
    authorities: str = "",
    verify: bool = True,
    policy: RetryPolicy | None = None,
    max_rate: float | None = None,
    times_link: bool = False,
    monitor: OutageMonitor | None = None,
    load: Load | None = None,
    sockets: Sockets | None = None,
) -> AsyncIterator[Client]:
    """Log in to the XNAT at `host` (with its context path), and log out at the end.

    `connections` limits the open connections, `max_rate` the bytes of bodies that are sent in a second; `times_link`
    notes how long bodies wait for the link. The environment names a proxy, and a bundle if neither `ca_bundle` nor
    `authorities` (see `tls_context`) is given. `load` shows what limits the speed. `sockets` makes
    the sockets of calls, but for the logout.
    Raises: LoginRefusedError, UnavailableError, UsageError.
    """
    timeouts = timeouts or Timeouts()
    server = URL(host.rstrip("/"))
    proxy = await anyio.to_thread.run_sync(proxy_for, server)  # Windows may ask its name server
    waiting: set[asyncio.Transport | None] = set()
    open_http = partial(
        open_session,
        server,
        proxy,
        tls=tls_context(ca_bundle, proxy, verify=verify, authorities=authorities),
        connections=connections,
        connect_seconds=timeouts.connect,
        cookies=aiohttp.DummyCookieJar(),
    )
    async with open_http(waiting=waiting, times_link=times_link, sockets=sockets) as http:
        load = load or Load()
        load.rate = rate = None if max_rate is None else RateLimit(max_rate)
        load.monitor = monitor
        load.count_sending = lambda: count_sending(waiting)
        transport = Transport(http, server, proxy, monitor)
        client = Client(transport, credentials, timeouts, rate, load)
        try:
            await call_with_retries(client.login.open, policy or RetryPolicy(attempts=3))
        except TransientError as error:
            hint = "check the address, and that the server is up"
            raise UnavailableError(f"{host} does not answer: {error}", hint=hint) from error
        try:
            yield client
        finally:
            # All calls have ended. Those sockets may send nothing any more; a logout stores nothing.
            async with nullcontext(http) if sockets is None else open_http() as last:
                transport.switch_to(last)
                await client.login.close()
