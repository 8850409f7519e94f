"""Logins: cookies, passwords, lock-out, and what an unauthenticated request is told.

A "login" is what Tomcat calls an HTTP session: "session" means an imaging session everywhere else.
"""

import base64
import binascii
import re
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from .pages import Refused, tomcat_page
from .state import User
from .tokens import Tokens

__all__ = ["Entry", "Login", "Logins", "basic_credentials", "is_browser", "needs_token"]

# The site setting interactiveAgentIds; DefaultInteractiveAgentDetector exempts blank agents and XNAT's own.
_BROWSER = re.compile("MSIE|Mozilla|AppleWebKit|Opera")
_SWEEP_EVERY = 1000


@dataclass(slots=True, eq=False)
class Login:
    """One JSESSIONID; `user` is None for a guest."""

    id: str
    user: User | None
    used: float
    """Clock reading of the last request, in seconds."""
    csrf: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True)
class Entry:
    """How a request got in: its login, and whether the reply has to set the cookie."""

    login: Login
    fresh: bool
    denied: web.Response | None = None


class Logins:
    """The live logins of a site (Tomcat's sessions and Spring's SessionRegistry)."""

    def __init__(
        self,
        users: dict[str, User],
        *,
        timeout: float,
        max_per_user: int,
        max_failed: int,
        lockout_seconds: float,
        tokens: Tokens,
        clock: Callable[[], float],
    ) -> None:
        self.timeout = timeout
        self.max_per_user = max_per_user
        self._tokens = tokens
        self._users = users
        self._max_failed = max_failed
        self._lockout_seconds = lockout_seconds
        self._clock = clock
        self._logins: dict[str, Login] = {}
        self._failed: Counter[str] = Counter()
        self._locked_until: dict[str, float] = {}
        self._made = 0

    def find(self, cookie: str | None) -> Login | None:
        """Return the live login of a cookie and refresh its idle time."""
        login = self._logins.get(cookie) if cookie else None
        if login is None:
            return None
        now = self._clock()
        if now - login.used > self.timeout:
            self.end(login)
            return None
        login.used = now
        return login

    def begin(self, user: User | None) -> Login:
        """Make a login; of a guest when there is no user."""
        self._made += 1
        if self._made % _SWEEP_EVERY == 0:
            self._sweep()
        login = Login(secrets.token_hex(16).upper(), user, self._clock())
        self._logins[login.id] = login
        return login

    def end(self, login: Login) -> None:
        """Invalidate a login."""
        self._logins.pop(login.id, None)

    def expire(self, name: str | None = None) -> None:
        """Invalidate all logins, as a restart of the server does, or those of one user."""
        for login in list(self._logins.values()):
            if name is None or (login.user is not None and login.user.name == name):
                self.end(login)

    def live(self, name: str) -> int:
        """Count the logins of a user that have not idled out."""
        self._sweep()
        return sum(1 for login in self._logins.values() if login.user is not None and login.user.name == name)

    def verify(self, name: str, password: str) -> User | None:
        """Check a password and count failures: the account locks at the limit, and a success resets.

        The alias and the secret of a token do as well.
        """
        token = self._tokens.find(name)
        if token is not None and secrets.compare_digest(token.secret.encode(), password.encode()):
            return self._users.get(token.user)
        user = self._users.get(name)
        if user is None:
            return None
        if self._locked_until.get(name, 0.0) > self._clock():
            return None
        if not secrets.compare_digest(user.password.encode(), password.encode()):
            self._failed[name] += 1
            if self._failed[name] >= self._max_failed:
                self._locked_until[name] = self._clock() + self._lockout_seconds
                del self._failed[name]
            return None
        del self._failed[name]
        return user

    def admit(self, user: User, previous: Login | None) -> Login | None:
        """Log a verified user in under a new id, or return None when the user has too many logins.

        A guest's cookie is given up for the new one (session fixation protection).
        """
        if self.live(user.name) >= self.max_per_user:
            return None
        if previous is not None:
            self.end(previous)
        return self.begin(user)

    def enter(self, request: web.BaseRequest, *, open_url: bool, login_page: str) -> Entry:
        """Decide who makes this request (XnatBasicAuthenticationFilter, XnatAuthenticationEntryPoint)."""
        found = self.find(request.cookies.get("JSESSIONID"))
        credentials = basic_credentials(request.headers.get("Authorization"))
        if credentials is None:
            login = found or self.begin(None)
            denied = None if login.user is not None or open_url else _deny(request, login_page)
            return Entry(login, found is None, denied)
        name, password = credentials
        known = found.user if found is not None else None
        if found is not None and known is not None and known.name == self._owner(name):
            return Entry(found, fresh=False)  # the password is not looked at again
        user = self.verify(name, password)
        login_or_none = self.admit(user, found) if user is not None else None
        if login_or_none is None:
            return Entry(found or self.begin(None), found is None, _login_failed())
        return Entry(login_or_none, fresh=True)

    def _owner(self, name: str) -> str:
        token = self._tokens.find(name)
        return name if token is None else token.user

    def expiration_cookie(self, seconds_ahead: float = 0.0) -> str:
        """Return the SESSION_EXPIRATION_TIME cookie, quoted for its comma (XnatExpiredPasswordFilter)."""
        times = f"{int((time.time() + seconds_ahead) * 1000)},{int(self.timeout * 1000)}"
        return f'SESSION_EXPIRATION_TIME="{times}"; Version=1; Path=/'

    def _sweep(self) -> None:
        oldest = self._clock() - self.timeout
        for login in [login for login in self._logins.values() if login.used < oldest]:
            self.end(login)


def basic_credentials(header: str | None) -> tuple[str, str] | None:
    """Return user and password of a Basic header, or None where there is none.

    A value without a colon is an error page, as in XnatBasicAuthenticationFilter.
    """
    if header is None or not header.lower().startswith("basic "):
        return None
    try:
        text = base64.b64decode(header[6:].strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    name, colon, password = text.partition(":")
    if not colon:
        raise Refused(500, "Invalid basic authentication token", tomcat=True)
    return name.rpartition("/")[2], password


def is_browser(agent: str) -> bool:
    """Tell whether a User-Agent counts as interactive."""
    return _BROWSER.search(agent) is not None and "XNATDesktopClient" not in agent


def needs_token(agent: str) -> bool:
    """Tell whether a User-Agent has to send XNAT_CSRF with what it changes (SecureAction.isCsrfTokenOk)."""
    return is_browser(agent) and "java" not in agent.lower()


def _deny(request: web.BaseRequest, login_page: str) -> web.Response:
    if is_browser(request.headers.get("User-Agent", "")):
        return web.Response(status=302, headers={"Location": login_page})
    return tomcat_page(
        401,
        "Full authentication is required to access this resource",
        headers={"WWW-Authenticate": 'Basic realm="XNAT"'},
    )


def _login_failed() -> web.Response:
    """Answer to bad passwords, locked accounts and too many logins alike; without WWW-Authenticate."""
    return tomcat_page(
        401,
        "Your login attempt failed because the username and password combination you provided was invalid "
        "or your user already has the maximum number of user sessions open. After 20 failed login attempts, "
        "your user account will be locked.",
    )
