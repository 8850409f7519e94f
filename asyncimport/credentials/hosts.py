"""Server addresses: which are safe for a password, and which are the same."""

import re
from urllib.parse import unquote, urlsplit

from asyncimport.errors import UsageError

# A name, or an IPv6 address in brackets followed only by a port: `[::1].example.org` is not an address.
_NETLOC = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%25\w+)?\]|[^\[\]:/\\?#%]+)(?::[0-9]*)?")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def check_no_secret(host: str, name: str = "--host") -> None:
    """Refuse an address with a user name or password, without showing it. Raises: UsageError."""
    if "@" in unquote(host):
        raise UsageError(
            f"{name} holds a user name or password", hint="give these with --user, XNAT_PASS or netrc instead"
        )


def check_host(host: str, *, insecure: bool, name: str = "--host") -> str:
    """Return an address without its trailing slash; `name` is its option.

    Raises: UsageError when it is not an address, or none, or would send the password over the network unencrypted.
    """
    if not host:
        raise UsageError("no server", hint="name it with --host, set XNAT_HOST, or use asyncimport login")
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
            f"{host} is not encrypted: password and patients' data could be read on the network",
            hint="use https, or --insecure if you know that the network is safe",
        )
    return host.rstrip("/")


def with_scheme(address: str) -> str:
    """Return an address with `https://` if it has no scheme, or with `http://` if it is this machine."""
    if "://" in address:
        return address
    try:
        is_here = urlsplit(f"//{address}").hostname in _LOOPBACK
    except ValueError:  # `check_host` reports it
        is_here = False
    return f"{'http' if is_here else 'https'}://{address}"


def canonical(host: str) -> str:
    """Return the spelling of an address under which a secret is stored, with scheme, port and path."""
    parts = urlsplit(host)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def same_server(one: str, other: str) -> bool:
    """Whether two addresses are those of one server; False for an invalid address."""
    try:
        return canonical(one) == canonical(other)
    except ValueError:
        return False
