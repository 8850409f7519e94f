"""Which certificates are trusted."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncimport.errors import UsageError
from asyncimport.xnat.proxies import DIRECT, Proxy

# Other programs on this machine find a site's authorities by one of these: curl, Python's requests, OpenSSL.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def tls_context(
    ca_bundle: Path | None, proxy: Proxy = DIRECT, *, verify: bool, authorities: str = ""
) -> ssl.SSLContext | bool:
    """Return whom to trust, as aiohttp takes it: a bundle, the environment's, the system (True) or anyone (False).

    `authorities` are in place of a bundle, as `read_authorities` returns them. Without `verify` any server is trusted,
    but not any proxy, which gets a password of its own. Raises: UsageError.
    """
    if verify and authorities:
        return ssl.create_default_context(cadata=authorities)
    if verify:
        return _load_bundle(ca_bundle) or True
    if proxy.url is None or proxy.url.scheme != "https":
        return False
    return _AnyServerContext.behind(proxy.url.host or "", _load_bundle(None) or ssl.create_default_context())


def read_authorities(ca_bundle: Path | None) -> str:
    """Return the certificates of the bundle, or of the environment's: "" if there is none. Raises: UsageError."""
    name, bundle = _bundle(ca_bundle)
    place = Path(bundle)
    with _bundle_errors(name, bundle):
        files = [] if not bundle else sorted(place.iterdir()) if place.is_dir() else [place]
        text = "\n".join(file.read_text("ascii", "replace") for file in files if file.is_file())
    return "\n".join(_CERTIFICATE.findall(text))


def _bundle(ca_bundle: Path | None) -> tuple[str, str]:
    """Return the path of the bundle, after the name of the option or variable that has it."""
    if ca_bundle is not None:
        return "--ca-bundle", str(ca_bundle)
    return next(((name, found) for name in _CA_VARIABLES if (found := os.environ.get(name))), ("", ""))


def _load_bundle(ca_bundle: Path | None) -> ssl.SSLContext | None:
    name, bundle = _bundle(ca_bundle)
    if not bundle:
        return None
    with _bundle_errors(name, bundle):
        try:
            return ssl.create_default_context(cafile=bundle)
        except IsADirectoryError:
            return ssl.create_default_context(capath=bundle)


@contextmanager
def _bundle_errors(name: str, bundle: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        why = "it holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(f"{name} {bundle} cannot be read: {why}", hint="give a file of PEM certificates") from None


class _AnyServerContext(ssl.SSLContext):
    """Trusts any server, but checks the proxy, which it knows by its name: aiohttp takes one context for both."""

    _proxy: str
    _checked: ssl.SSLContext

    @classmethod
    def behind(cls, proxy: str, checked: ssl.SSLContext) -> "_AnyServerContext":
        """Make a context that uses `checked` for the proxy."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context._proxy, context._checked = proxy.lower(), checked
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as in its base class
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection; asyncio calls this for each."""
        if isinstance(server_hostname, str) and server_hostname.lower() == self._proxy:
            return self._checked.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
