"""Whose certificates are trusted."""

import os
import ssl
from pathlib import Path

from asyncimport.errors import UsageError
from asyncimport.xnat.proxies import DIRECT, Proxy

# Whatever else this machine runs finds the authorities of the site by one of these: curl, Python's requests, OpenSSL.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def tls_context(ca_bundle: Path | None, proxy: Proxy = DIRECT, *, verify: bool) -> ssl.SSLContext | bool:
    """Return whom to trust, as aiohttp takes it: a bundle, that of the environment, the system (True) or all (False).

    Without `verify` any server is trusted, but not any proxy: it gets a password of its own.
    Raises: OSError, ssl.SSLError, UsageError when the bundle cannot be used.
    """
    if verify:
        return _checked(ca_bundle) or True
    if proxy.url is None or proxy.url.scheme != "https":
        return False
    return _AnyServer.behind(proxy.url.host or "", _checked(None) or ssl.create_default_context())


def _checked(ca_bundle: Path | None) -> ssl.SSLContext | None:
    name, bundle = "--ca-bundle", str(ca_bundle or "")
    if not bundle:
        name, bundle = next(((name, found) for name in _CA_VARIABLES if (found := os.environ.get(name))), ("", ""))
    if not bundle:
        return None
    try:
        return ssl.create_default_context(cafile=bundle)
    except IsADirectoryError:
        return ssl.create_default_context(capath=bundle)
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"{name} {bundle}: {error}", hint="give a file of PEM certificates") from None


class _AnyServer(ssl.SSLContext):
    """Trusts any server, but no proxy, which it knows by its name: aiohttp takes one context for both."""

    _proxy: str
    _checked: ssl.SSLContext

    @classmethod
    def behind(cls, proxy: str, checked: ssl.SSLContext) -> "_AnyServer":
        """Make a context that leaves the proxy to another one, which checks."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context._proxy, context._checked = proxy.lower(), checked
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as its base has it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection, as asyncio does with each."""
        if isinstance(server_hostname, str) and server_hostname.lower() == self._proxy:
            return self._checked.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
