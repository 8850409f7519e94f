"""What pages of other sites may not do: a browser on this machine reaches the server, wherever its page is from.

No part of XNAT: it has names and addresses of its own, and this server has a password that everybody knows.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from aiohttp import web

from .auth import is_browser
from .pages import Refused

__all__ = ["is_at_home", "keep_out"]

_BRACKETED = re.compile(r"\[[^\[\]]*\](?::[0-9]*)?")


def keep_out(request: web.BaseRequest, site_url: str) -> None:
    """Refuse what a page of another site asks for, and any browser that knows this machine by somebody else's name.

    A name that leads elsewhere first, and here afterwards (DNS rebinding), makes such a page look like our own.
    Raises: Refused.
    """
    origin = request.headers.get("Origin")
    if origin is not None and not _is_ours(origin, site_url):
        raise Refused(403, "This test server answers no pages of other sites.", tomcat=True)
    if is_browser(request.headers.get("User-Agent", "")) and not is_at_home(request, site_url):
        raise Refused(403, "This test server answers browsers at its own address.", tomcat=True)


def is_at_home(request: web.BaseRequest, site_url: str) -> bool:
    """Tell whether a request knows this server by an address of this machine, or by the site's own."""
    return _is_ours(f"//{request.headers.get('Host', '')}", site_url)


def _is_ours(address: str, site_url: str) -> bool:
    try:
        parts = urlsplit(address)
        if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc):
            return False  # a name that begins like an address
        host = parts.hostname or ""
        if host in {"localhost", urlsplit(site_url).hostname}:
            return True
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
