"""The proxy to a server, as the system and its variables name it."""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import field
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from asyncimport.errors import UnavailableError, UsageError
from asyncimport.model.record import record


@record
class Proxy:
    """A proxy, or none. Its user and password are only in the headers that go to it."""

    url: URL | None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """Name it in a message."""
        return f"the proxy {self.url.host}:{self.url.port}" if self.url else "the server"

    def auth_error(self) -> UnavailableError:
        """Return the error of status 407."""
        if self.headers:
            return UnavailableError(
                f"{self} refuses the user name or password (407)",
                hint="check both in the proxy's variable; write what is not a letter or digit as %XX",
            )
        return UnavailableError(
            f"{self} asks for a user name and password (407)",
            hint="write both into its variable: HTTPS_PROXY=http://user:password@proxy.example.org:3128",
        )


DIRECT = Proxy(None)


def proxy_for(server: URL) -> Proxy:
    """Return the proxy by HTTP(S)_PROXY, ALL_PROXY, NO_PROXY or the system. Raises: UsageError without the password."""
    host = server.host or ""
    if _is_loopback(host):
        return DIRECT
    known = getproxies()
    kind = server.scheme if known.get(server.scheme) else "all"
    text = known.get(kind)
    if not text or proxy_bypass(f"[{host}]:{server.port}" if ":" in host else f"{host}:{server.port}"):
        return DIRECT
    name = f"{kind.upper()}_PROXY"
    url = _parse_address(text)
    if url is None:
        raise UsageError(f"{name} is not an address", hint="write it as http://proxy.example.org:3128")
    if url.scheme not in {"http", "https"}:
        raise UsageError(
            f"{name} names a {url.scheme} proxy, which is not supported", hint="give an http proxy, or set NO_PROXY"
        )
    headers = {}
    if url.user is not None:
        secret = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {secret}"
    return Proxy(URL.build(scheme=url.scheme, host=url.host or "", port=url.port), headers)


def _parse_address(text: str) -> URL | None:
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        return None
    # A password with a slash looks like a path.
    return url if url.host and url.path in {"", "/"} and not url.query_string and not url.fragment else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
