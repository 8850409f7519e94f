"""Addresses of servers: which are fit to send a password to, and which are the same."""

import re
from urllib.parse import unquote, urlsplit

from asyncimport.errors import UsageError

# A name, or an address of IPv6 in brackets, behind which nothing but a port stands: `[::1].example.org` is a name.
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%25\w+)?\]|[^\[\]:/\\?#%]+)(?::[0-9]*)?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_no_secret(host: str, name: str = "--host") -> None:
    """Refuse an address with a user name or password in it, before it gets anywhere; it is not told what stands there.

    Raises: UsageError.
    """
    if "@" in unquote(host):
        raise UsageError(f"{name} holds a user name or password", hint="give them apart: --user, XNAT_PASS or netrc")


def check_host(host: str, *, insecure: bool, name: str = "--host") -> str:
    """Return the address without its trailing slash; `name` says where it stands.

    Raises: UsageError when it is not an address, or would send the password over the network in the clear.
    """
    check_no_secret(host, name)
    try:
        parts = urlsplit(host)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if (
        parts.scheme not in {"http", "https"}
        or not _NETLOC.fullmatch(parts.netloc)
        or port == 0
        or parts.query
        or parts.fragment
        or host.split() != [host]
        or not host.isprintable()
    ):
        raise UsageError(f"{name} {host!r} is not an address", hint="write it as https://xnat.example.org")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not insecure:
        raise UsageError(
            f"{host} is not encrypted: password and patients would cross the network in the clear",
            hint="use https, or --insecure if you know that the network is safe",
        )
    return host.rstrip("/")


def canonical(host: str) -> str:
    """Return the one spelling of an address that a secret is kept under: scheme, port and path are part of it."""
    parts = urlsplit(host)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def same_server(one: str, other: str) -> bool:
    """Whether two addresses are the same server's; what is no address is nobody's."""
    try:
        return canonical(one) == canonical(other)
    except ValueError:
        return False
