"""One http session and one login for everything that is asked of XNAT.

The cookie is sent by hand rather than from a cookie jar: XNAT hands a guest's cookie to whoever comes without a
valid one (with the 401 as well), and a jar would let it replace ours.
"""

import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TypeVar

import aiohttp
import anyio
import anyio.to_thread
from aiohttp.connector import Connection
from yarl import URL

from asyncimport import __version__
from asyncimport.errors import (
    AsyncimportError,
    LoginExpiredError,
    LoginRefusedError,
    NothingStoredError,
    SourceError,
    TransientError,
    UnavailableError,
    primary_error,
)
from asyncimport.pacing.bandwidth import Rate
from asyncimport.pacing.monitor import OutageMonitor
from asyncimport.pacing.retry import RetryPolicy, retrying
from asyncimport.xnat.deadlines import Deadlines
from asyncimport.xnat.proxies import DIRECT, Proxy, proxy_for
from asyncimport.xnat.reading import ACCEPTED, ANSWER, FILE, LISTING, SLOWEST, pieces, read_reply
from asyncimport.xnat.replies.images import raise_download_error
from asyncimport.xnat.replies.logins import check_login, check_reachable, check_user
from asyncimport.xnat.replies.resources import check_absent
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.trust import tls_context

T = TypeVar("T")
F = TypeVar("F")

# XNAT takes anything with Mozilla, AppleWebKit, MSIE or Opera in it for a browser, and answers it with login pages
# and CSRF errors.
_USER_AGENT = f"asyncimport/{__version__}"
# By OpenSSL's codes of verification (x509_vfy.h): what a certificate authority would not help with.
_CERTIFICATE_HINTS = {
    10: "the certificate has expired: whoever runs the server has to renew it",
    62: "use the name in --host that the certificate is made out to",
    64: "use the name in --host that the certificate is made out to, not an address",
}
# What ends a run, or is under way when it ends, gets no longer than this.
_LAST_SECONDS = 5.0
# The same, when the server is known to be away.
_LAST_MOMENT = 0.5


@dataclass(frozen=True, slots=True)
class Credentials:
    """User name and password, or alias and secret of an XNAT token."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Show the user only, so that no traceback or log shows the password."""
        return f"Credentials({self.user!r}, ...)"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; for a body to make progress; for the whole answer after it. A body has no total.

    How large an answer may be stands in `reading`.
    """

    connect: float = 30.0
    stall: float = 60.0
    reply: float = 600.0


@contextmanager
def bounded(seconds: float) -> Iterator[anyio.CancelScope]:
    """Bound the time of a block, whose deadline may be moved; what takes longer is a TransientError."""
    try:
        with anyio.fail_after(seconds) as scope:
            yield scope
    except TimeoutError:
        raise _late() from None


@asynccontextmanager
async def unhurried(seconds: Callable[[], float]) -> AsyncIterator[None]:
    """Let a block go on for so many seconds after it was cancelled: XNAT may have done its part by then."""

    async def hurry(scope: anyio.CancelScope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            scope.deadline = anyio.current_time() + seconds()

    try:
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope(shield=True) as scope:
                tasks.start_soon(hurry, scope)
                yield
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


_SERVED = "_asyncimport_served"


class _ClosedWhileIdleError(aiohttp.ServerDisconnectedError):
    """A connection that had served other requests ended before any byte of the answer came."""


class _Response(aiohttp.ClientResponse):
    """A response that knows whether its connection has served a request before."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = connection.protocol
        try:
            await super().start(connection)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if hasattr(protocol, _SERVED):
                raise _ClosedWhileIdleError from error
            raise
        # On the connection itself, as this is on the way of every file: a set of weak references takes 3 us.
        try:  # noqa: SIM105 - a context manager costs more, for every file
            setattr(protocol, _SERVED, True)
        except AttributeError:
            # A version of aiohttp that does not let us: a connection that was closed while idle costs an attempt then.
            pass
        return self


class Client:
    """Asks XNAT, under one login that is renewed when it has expired. Make it with `connect`."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        host: URL,
        credentials: Credentials,
        timeouts: Timeouts,
        proxy: Proxy = DIRECT,
        rate: Rate | None = None,
        monitor: OutageMonitor | None = None,
    ) -> None:
        self._http = http
        self._host = host
        self._credentials = credentials
        self.timeouts = timeouts
        self.rate = rate
        self._monitor = monitor or OutageMonitor(inf)
        self._deadlines = Deadlines(timeouts.stall + timeouts.reply, _late)
        self._proxy = proxy
        self._headers: Mapping[str, str] = {}
        self._logins = 0
        self._renewing = anyio.Lock()
        self._refused: LoginRefusedError | None = None
        self._is_lost = False

    def url(self, path: str) -> URL:
        """Return the address of a path below XNAT's, such as `/data/projects`; the path is encoded already."""
        return URL(f"{self._host}{path}", encoded=True)

    async def call(
        self,
        method: str,
        url: URL,
        read: Callable[[Reply], T],
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        in_time: bool = False,
        most: int = ANSWER,
    ) -> T:
        """Ask once, and return what `read` makes of the answer, which has `most` bytes at most.

        With `in_time` it has the time of a body and an answer; else the caller bounds it. Raises: TransientError when
        no answer came, LoginExpiredError after the login was renewed (ask again), and whatever `read` raises.
        """
        login = self._logins
        if self._is_lost:
            # The login could not be renewed the last time: without one we would be a guest, who sees other things.
            await self._renew(None)
            login = self._logins
        # As `_told`, without a context manager: this is on the way of every file.
        self._monitor.began()
        note = self._monitor.dropped
        try:
            sent = {**self._headers, **headers} if headers else self._headers
            if in_time:
                with self._deadlines:
                    answer = await self._exchange(method, url, data, sent, most)
            else:
                answer = await self._exchange(method, url, data, sent, most)
            result = read(answer)
            note = self._monitor.got_through
        except AsyncimportError as error:
            note = self._meant(error)
            if not isinstance(error, LoginExpiredError):
                raise
            expired = error
        else:
            return result
        finally:
            note()
        await self._renew(login)
        raise expired

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell the monitor of a call how it ends: whatever XNAT answers has got through."""
        monitor = self._monitor
        monitor.began()
        note = monitor.dropped
        try:
            yield
            note = monitor.got_through
        except AsyncimportError as error:
            note = self._meant(error)
            raise
        finally:
            note()

    def _meant(self, error: AsyncimportError) -> Callable[[], None]:
        """Return what is to be noted of a call that ends with an error."""
        if isinstance(error, SourceError):
            return self._monitor.dropped
        if not isinstance(error, TransientError) or isinstance(error, LoginExpiredError | NothingStoredError):
            return self._monitor.got_through
        return self._monitor.got_through if error.is_file_verdict else partial(self._monitor.failed, error)

    async def ask(self, method: str, path: str, read: Callable[[Reply], T], policy: RetryPolicy) -> T:
        """Ask a question without a body, again while it fails for a time."""
        most = LISTING if method == "GET" else ANSWER

        async def once() -> T:
            with bounded(self.timeouts.reply):
                return await self.call(method, self.url(path), read, most=most)

        return await retrying(once, policy)

    async def ping(self) -> bool:
        """Tell whether XNAT answers at all, whatever it says."""
        try:
            with bounded(self.timeouts.stall):
                return await self.call("GET", self.url("/data/auth"), check_reachable)
        except LoginExpiredError:
            return True
        except TransientError:
            return False

    async def download(self, path: str, into: Path, policy: RetryPolicy) -> None:
        """Write what an address holds into a file, again from the start while that fails for a time.

        Raises: TransientError, RefusedError when there is nothing to be had, or too much.
        """

        async def write(body: AsyncIterator[bytes]) -> None:
            async with await anyio.open_file(into, "wb", buffering=0) as file:
                async for piece in body:
                    left = memoryview(piece)
                    try:
                        while left:
                            left = left[await file.write(left) :]
                    except OSError as error:
                        raise TransientError(f"a file of XNAT's cannot be kept here: {error.strerror}") from None

        await self._fetch(path, write, raise_download_error, policy)

    async def fingerprint(self, path: str, policy: RetryPolicy) -> tuple[int, str] | None:
        """Return the size and the MD5 (hexadecimal) of a file of a resource; None where XNAT has none to hand out.

        Raises: TransientError, RefusedError when this user may not have it, or it is too much.
        """

        async def measure(body: AsyncIterator[bytes]) -> tuple[int, str]:
            size, digest = 0, hashlib.md5(usedforsecurity=False)
            async for piece in body:
                size += len(piece)
                digest.update(piece)
            return size, digest.hexdigest()

        return await self._fetch(path, measure, check_absent, policy)

    async def _fetch(
        self,
        path: str,
        take: Callable[[AsyncIterator[bytes]], Awaitable[T]],
        otherwise: Callable[[Reply], F],
        policy: RetryPolicy,
    ) -> T | F:
        """Ask for a file, and let its body be taken, again from the start while that fails for a time.

        `otherwise` judges an answer of another status than 200.
        """

        async def once() -> T | F:
            login = self._logins
            with self._told(), bounded(self.timeouts.reply) as scope:
                async with self._answer("GET", self.url(path), None, self._headers) as response:
                    if response.status == 200:
                        return await take(self._body(response, scope))
                    other = await read_reply(response, ANSWER)
            try:
                return otherwise(other)
            except LoginExpiredError:
                await self._renew(login)
                raise

        return await retrying(once, policy)

    async def _body(self, response: aiohttp.ClientResponse, scope: anyio.CancelScope) -> AsyncIterator[bytes]:
        """Yield the body of an answer, and move the deadline with each piece that comes in time."""
        last = scope.deadline
        async for piece in pieces(response, FILE):
            last += len(piece) / SLOWEST
            scope.deadline = min(anyio.current_time() + self.timeouts.stall, last)
            yield piece

    async def log_in(self) -> None:
        """Log in, and check that it is not as a guest.

        Raises: LoginRefusedError, UnavailableError, TransientError.
        """
        try:
            with self._told():
                await self._log_in()
        except LoginExpiredError:
            # The password was right, and the login is dead already: the server has restarted in between, it may be.
            try:
                await self._log_in()
            except LoginExpiredError:
                raise LoginRefusedError(
                    "XNAT does not accept the login",
                    hint="log in with a browser once: the password may have expired, or the account be disabled",
                ) from None

    async def _log_in(self) -> None:
        try:
            async with unhurried(self._last_seconds):
                cookies = await self._new_login()
                self._headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
                self._logins += 1
            with bounded(self.timeouts.stall):
                check = await self._exchange("GET", self.url("/data/auth"), None, self._headers)
            check_user(check, self._credentials.user)
        except BaseException:
            # Whoever tries again gets another login: this one would stay open until it idles out.
            await self.log_out()
            raise

    async def _new_login(self) -> dict[str, str]:
        """Return the cookies of a new login."""
        secret = f"{self._credentials.user}:{self._credentials.password}".encode()
        auth = f"Basic {base64.b64encode(secret).decode()}"
        with bounded(self.timeouts.stall):
            async with self._answer("POST", self.url("/data/JSESSION"), None, {"Authorization": auth}) as response:
                answer = await read_reply(response, ANSWER)
                check_login(answer)
                cookies = {name: morsel.value for name, morsel in response.cookies.items()}
        cookies.pop("SESSION_EXPIRATION_TIME", None)
        cookies.setdefault("JSESSIONID", answer.text.strip())
        return cookies

    async def log_out(self) -> None:
        """End the login at the server, whatever happens around; a server that is away need not be told."""
        if not self._headers:
            return
        with anyio.CancelScope(shield=True):
            try:
                with bounded(self._last_seconds()):
                    await self._exchange("DELETE", self.url("/data/JSESSION"), None, self._headers)
            except (TransientError, UnavailableError):
                pass
        self._headers = {}

    def _last_seconds(self) -> float:
        return _LAST_MOMENT if self._monitor.is_on else _LAST_SECONDS

    async def _renew(self, login: int | None) -> None:
        """Log in again, once for all calls that found the login `login` dead, or that there is none (None)."""
        async with self._renewing:
            if self._refused is not None:
                raise LoginRefusedError(str(self._refused), hint=self._refused.hint)
            if self._is_lost if login is None else self._logins == login:
                # It need not be dead because one call was told so, and would stay open beside the new one.
                await self.log_out()
                is_lost = True
                try:
                    await self.log_in()
                    is_lost = False
                except LoginRefusedError as error:
                    # Those who wait for their turn must not try it too: refusals add up to a locked account.
                    self._refused = error
                    raise
                except UnavailableError as error:
                    # It was an XNAT before, so it is one that is starting, it may be.
                    raise TransientError(str(error), overload=True) from error
                finally:
                    # Not before: meanwhile calls are answered 401, and wait for the same login.
                    self._is_lost = is_lost

    async def _exchange(
        self,
        method: str,
        url: URL,
        data: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
        most: int = ANSWER,
    ) -> Reply:
        # As `_answer`, without its context manager: this is on the way of every file.
        try:
            async with self._request(method, url, data, headers) as response:
                if response.status == 407:
                    raise self._proxy.refused()
                return await read_reply(response, most)
        except aiohttp.ClientHttpProxyError as error:
            # It holds the headers that went to the proxy, password and all.
            raise _not_let_through(self._proxy, error.status) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._meaning(error) from error

    @asynccontextmanager
    async def _answer(
        self, method: str, url: URL, data: bytes | AsyncIterator[bytes] | None, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send, and give the answer before its body is read. Raises: TransientError, UnavailableError."""
        try:
            async with self._request(method, url, data, headers) as response:
                if response.status == 407:
                    raise self._proxy.refused()
                yield response
        except aiohttp.ClientHttpProxyError as error:
            raise _not_let_through(self._proxy, error.status) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._meaning(error) from error

    def _request(
        self,
        method: str,
        url: URL,
        data: bytes | AsyncIterator[bytes] | None,
        headers: Mapping[str, str],
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        # A redirect is never followed: it could lead to another host, and the cookie with it.
        return self._http.request(
            method,
            url,
            data=data,
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy.url,
            proxy_headers=self._proxy.headers,
        )

    def _meaning(self, error: aiohttp.ClientError | TimeoutError) -> TransientError | UnavailableError:
        """Say what went wrong on the way. This is the only place that knows aiohttp's errors."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            problem = error.certificate_error
            return UnavailableError(
                f"the server's certificate is not trusted: {getattr(problem, 'verify_message', 'verification failed')}",
                hint=_CERTIFICATE_HINTS.get(
                    getattr(problem, "verify_code", 0),
                    "name the certificate authority of your site with --ca-bundle",
                ),
            )
        if isinstance(error, aiohttp.ClientConnectorError):
            place = "the server" if isinstance(error, aiohttp.ClientSSLError) else self._proxy
            return TransientError(f"no connection to {place} ({error.strerror or error.os_error})", unreachable=True)
        if not isinstance(error, aiohttp.ClientError):
            return _late()
        idle = isinstance(error, _ClosedWhileIdleError)
        return TransientError(f"the connection broke ({type(error).__name__})", may_have_taken_effect=True, idle=idle)


@asynccontextmanager
async def connect(
    host: str,
    credentials: Credentials,
    *,
    connections: int,
    timeouts: Timeouts | None = None,
    ca_bundle: Path | None = None,
    verify: bool = True,
    policy: RetryPolicy | None = None,
    max_rate: float | None = None,
    monitor: OutageMonitor | None = None,
) -> AsyncIterator[Client]:
    """Log in to the XNAT at `host` (context path included), and out at the end.

    `connections` bounds the open connections, `max_rate` the bytes of bodies that go out in a second. A proxy, and a
    bundle that none is given for, come from the environment. The `monitor` is told of each call.
    Raises: LoginRefusedError, UnavailableError, UsageError.
    """
    timeouts = timeouts or Timeouts()
    server = URL(host.rstrip("/"))
    proxy = await anyio.to_thread.run_sync(proxy_for, server)  # Windows may ask its name server
    connector = aiohttp.TCPConnector(limit=connections, ssl=tls_context(ca_bundle, proxy, verify=verify))
    async with aiohttp.ClientSession(
        connector=connector,
        response_class=_Response,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Without TLS the proxy reads the request itself; with it, what goes to the proxy goes there before.
        headers={"User-Agent": _USER_AGENT, **ACCEPTED, **(proxy.headers if server.scheme == "http" else {})},
        auto_decompress=False,  # which would unpack megabytes before anybody can say that it is enough
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
        trust_env=False,  # it would also send Basic credentials from ~/.netrc
    ) as http:
        client = Client(
            http, server, credentials, timeouts, proxy, None if max_rate is None else Rate(max_rate), monitor
        )
        try:
            await retrying(client.log_in, policy or RetryPolicy(attempts=3))
        except TransientError as error:
            raise UnavailableError(
                f"{host} does not answer: {error}", hint="check the address, and that the server is up"
            ) from error
        try:
            yield client
        finally:
            await client.log_out()


def _late() -> TransientError:
    return TransientError("the server did not answer in time", overload=True, may_have_taken_effect=True)


def _not_let_through(proxy: Proxy, status: int) -> UnavailableError | TransientError:
    """Return what it means when a proxy makes no connection to the server."""
    if status == 407:
        return proxy.refused()
    if status >= 500 or status == 429:
        return TransientError(f"{proxy} has no connection to the server ({status})", unreachable=True)
    return UnavailableError(
        f"{proxy} does not let us through to the server ({status})",
        hint="ask whoever runs it, or leave the server out with NO_PROXY",
    )
