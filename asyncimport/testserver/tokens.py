"""Alias tokens: a name and a secret that stand for a user's own, for a while."""

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Token", "Tokens"]


@dataclass(frozen=True, slots=True)
class Token:
    """An alias and its secret."""

    id: int
    alias: str
    secret: str
    user: str
    created: float
    """Clock reading, in seconds."""
    moment: float
    """The time of day, in seconds since 1970."""


class Tokens:
    """The alias tokens of a site (AliasTokenService); they live for `seconds` (aliasTokenTimeout)."""

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
