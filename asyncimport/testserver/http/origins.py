"""Keeps web pages of other sites away: a browser on this machine reaches the server, wherever its page comes from.

This is not part of XNAT, which has its own name and address; this server has a password that everybody knows.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from aiohttp import web

from .authentication import is_browser
from .responses import HttpError

_BRACKETED = re.compile(r"\[[^\[\]]*\](?::[0-9]*)?")


def check_origin(request: web.BaseRequest, site_url: str) -> None:
    """Refuse requests by pages of other sites, and browsers that use another host name for this machine.

    A name that leads to another machine first, and here afterwards (DNS rebinding), makes such a page look like our
    own. Raises HttpError.
    """
    origin = request.headers.get("Origin")
    if origin is not None and not _is_ours(origin, site_url):
        raise HttpError(403, "This test server answers no pages of other sites.", tomcat=True)
    if is_browser(request.headers.get("User-Agent", "")) and not is_local(request, site_url):
        raise HttpError(403, "This test server answers browsers at its own address.", tomcat=True)


def is_local(request: web.BaseRequest, site_url: str) -> bool:
    """Return whether a request addresses this server as this machine, or by the site's own name."""
    return _is_ours(f"//{request.headers.get('Host', '')}", site_url)


def _is_ours(address: str, site_url: str) -> bool:
    try:
        parts = urlsplit(address)
        if "[" in parts.netloc and not _BRACKETED.fullmatch(parts.netloc):
            return False  # a name that only begins like an address
        host = parts.hostname or ""
        if host in {"localhost", urlsplit(site_url).hostname}:
            return True
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
