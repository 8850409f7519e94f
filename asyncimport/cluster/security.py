"""Dask's TLS, for connections that end without a word, as Dask ends all of its own.

Python 3.13 leaves what OpenSSL says of such an end in a queue of the thread. The next call finds it there, whichever
connection that is about, and breaks it: workers of `local:N` were lost so when they had just joined. An end without a
word is harmless here, as Dask's messages tell their length.
"""

import ssl
from typing import Any

from distributed import Security

# OpenSSL before 3 makes no error of it.
_OPTION = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


class TolerantSecurity(Security):  # type: ignore[misc]  # Dask is untyped
    """Certificates and settings as Dask has them."""

    @classmethod
    def of(cls, security: Security) -> "TolerantSecurity":
        """Return one with the settings of another."""
        return cls(**{name: getattr(security, name) for name in Security.__slots__})

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """Return what a connection is made with."""
        return _tolerant(super().get_connection_args(role))

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """Return what connections are accepted with."""
        return _tolerant(super().get_listen_args(role))


def _tolerant(arguments: dict[str, Any]) -> dict[str, Any]:
    if (context := arguments["ssl_context"]) is not None:
        context.options |= _OPTION
    return arguments
