"""The login of a user: its cookies, and one new login for all calls when it expires.

The cookies are sent by hand, without a cookie jar: XNAT gives a guest's cookie to any request without a valid one,
with the 401 too, and a jar would replace ours with it.
"""

import base64
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

import anyio

from asyncimport.errors import LoginExpiredError, LoginRefusedError, TransientError, UnavailableError
from asyncimport.model.record import record
from asyncimport.xnat.deadlines import grace_period, time_limit
from asyncimport.xnat.replies.logins import check_login, check_user, not_accepted_error
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.response_body import MAX_REPLY_BYTES, read_reply
from asyncimport.xnat.transport import Timeouts, Transport

# How long a login or logout may go on when the run ends, and during an outage.
_END_SECONDS = 5.0
_OUTAGE_END_SECONDS = 0.5


@record
class Credentials:
    """User name and password, or alias and secret of an XNAT token."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Show the user only, so that no traceback or log shows the password."""
        return f"Credentials({self.user!r}, ...)"


class Login:
    """A login that many calls share: `headers` carry it, `number` counts up with each new one."""

    def __init__(self, transport: Transport, credentials: Credentials, timeouts: Timeouts) -> None:
        self._transport = transport
        self._credentials = credentials
        self._timeouts = timeouts
        self._renewal = anyio.Lock()
        self._refusal: LoginRefusedError | None = None
        self.permission: Callable[[], AbstractAsyncContextManager[object]] = nullcontext
        """What to enter before the password is tried again, where others use it too."""
        self.headers: Mapping[str, str] = {}
        self.number = 0
        self.is_lost = False
        """Whether the last renewal failed: without a login we would be a guest, who sees other things."""

    async def open(self) -> None:
        """Log in, and check that it is not as a guest. Raises: LoginRefusedError, UnavailableError, TransientError."""
        try:
            with self._transport.monitored():
                await self._open()
        except LoginExpiredError:
            # The password was right, and the login is dead already: the server may have restarted in between.
            try:
                await self._open()
            except LoginExpiredError:
                raise not_accepted_error() from None

    async def _open(self) -> None:
        try:
            async with grace_period(self._end_seconds):
                cookies = await self._request_cookies()
                self.headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
                self.number += 1
            with time_limit(self._timeouts.stall):
                reply = await self._transport.exchange("GET", self._transport.url("/data/auth"), None, self.headers)
            check_user(reply, self._credentials.user)
        except BaseException:
            # The next attempt gets another login: this one would stay open until XNAT ends it for idling.
            await self.close()
            raise

    async def _request_cookies(self) -> dict[str, str]:
        reply, cookies = await self._send_password()
        if reply.status == 404 and self._transport.area != "/REST":
            before, self._transport.area = self._transport.area, "/REST"
            other, other_cookies = await self._send_password()
            if other.status == 200:
                reply, cookies = other, other_cookies
            else:
                self._transport.area = before
        check_login(reply)
        cookies.pop("SESSION_EXPIRATION_TIME", None)
        cookies.setdefault("JSESSIONID", reply.text.strip())
        return cookies

    async def _send_password(self) -> tuple[Reply, dict[str, str]]:
        secret = f"{self._credentials.user}:{self._credentials.password}".encode()
        headers = {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}
        url = self._transport.url("/data/JSESSION")
        with time_limit(self._timeouts.stall):
            async with self._transport.open("POST", url, None, headers) as response:
                reply = await read_reply(response, MAX_REPLY_BYTES)
                return reply, {name: morsel.value for name, morsel in response.cookies.items()}

    async def close(self) -> None:
        """Log out, also when this task is cancelled; no error if the server is away."""
        if not self.headers:
            return
        with anyio.CancelScope(shield=True):
            try:
                with time_limit(self._end_seconds()):
                    await self._transport.exchange("DELETE", self._transport.url("/data/JSESSION"), None, self.headers)
            except (TransientError, UnavailableError):
                pass
        self.headers = {}

    def _end_seconds(self) -> float:
        return _OUTAGE_END_SECONDS if self._transport.monitor.is_on else _END_SECONDS

    async def renew(self, number: int | None) -> None:
        """Log in again, once for all calls of this number (None: none). Raises: LoginRefusedError, TransientError."""
        async with self._renewal:
            if self._refusal is not None:
                raise LoginRefusedError(str(self._refusal), hint=self._refusal.hint)
            if self.is_lost if number is None else self.number == number:
                # One 401 does not prove that it is dead, and it would stay open beside the new one.
                await self.close()
                is_lost = True
                try:
                    async with self.permission():
                        await self.open()
                    is_lost = False
                except LoginRefusedError as error:
                    # The calls that wait for this one must not try the password too: refusals lock the account.
                    self._refusal = error
                    raise
                except UnavailableError as error:
                    # It was an XNAT before, so it may be starting again.
                    raise TransientError(str(error), overload=True) from error
                finally:
                    # Only now: until here calls get a 401, and wait for the same login.
                    self.is_lost = is_lost
