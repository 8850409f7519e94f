"""Logins, passwords, lock-out and alias tokens.

A "login" is what Tomcat calls an HTTP session: "session" means an imaging session everywhere else.
"""

import secrets
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from .projects import User

_SWEEP_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Token:
    """An alias token: a name and a secret that stand for a user's own, for a while."""

    id: int
    alias: str
    secret: str
    user: str
    created: float
    """Clock reading, in seconds."""
    moment: float
    """The time of day, in seconds since 1970."""


class Tokens:
    """The alias tokens of a site (AliasTokenService); each lives for `seconds` (aliasTokenTimeout)."""

    def __init__(self, *, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._tokens: dict[str, Token] = {}
        self._issued = 0

    def issue(self, user: str) -> Token:
        """Issue a token for a user."""
        self._issued += 1
        secret = secrets.token_hex(32)  # 64 letters and digits
        token = Token(self._issued, str(uuid.uuid4()), secret, user, self._clock(), time.time())
        self._tokens[token.alias] = token
        return token

    def find(self, alias: str) -> Token | None:
        """Return a live token."""
        token = self._tokens.get(alias)
        return token if token is not None and self._clock() - token.created <= self.seconds else None

    def of(self, user: str) -> list[Token]:
        """Return the live tokens of a user."""
        return [token for token in self._tokens.values() if token.user == user and self.find(token.alias)]

    def end(self, alias: str) -> None:
        """Invalidate a token."""
        self._tokens.pop(alias, None)

    def clear(self) -> None:
        """Invalidate all tokens."""
        self._tokens.clear()


@dataclass(slots=True, eq=False)
class Login:
    """One JSESSIONID; `user` is None for a guest."""

    id: str
    user: User | None
    used: float
    """Clock reading at the last request, in seconds."""
    csrf: str = field(default_factory=lambda: str(uuid.uuid4()))


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
        """Make a login; without a user, a guest's."""
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
        """Count a user's logins that have not expired."""
        self._sweep()
        return sum(1 for login in self._logins.values() if login.user is not None and login.user.name == name)

    def verify(self, name: str, password: str) -> User | None:
        """Check a password, or the secret of an alias token, and count failures.

        The account locks at the limit; a success resets the count.
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

    def log_in(self, user: User, previous: Login | None) -> Login | None:
        """Log a verified user in under a new ID, or return None if the user has too many logins.

        The login of a guest's cookie ends (session fixation protection).
        """
        if self.live(user.name) >= self.max_per_user:
            return None
        if previous is not None:
            self.end(previous)
        return self.begin(user)

    def account(self, name: str) -> str:
        """Return the user name behind a user name or an alias."""
        token = self._tokens.find(name)
        return name if token is None else token.user

    def _sweep(self) -> None:
        oldest = self._clock() - self.timeout
        for login in [login for login in self._logins.values() if login.used < oldest]:
            self.end(login)
