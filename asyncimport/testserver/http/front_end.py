"""What stands before XNAT: a proxy with a limit on bodies, and Tomcat's connector."""

import re
import socket
import struct
from http import HTTPStatus

from aiohttp import web

from ..site.site import Site
from .responses import nginx_page, tomcat_page

_FORBIDDEN = re.compile(r"""["<>\\^`{|}\[\]]""")


def refuse(site: Site, request: web.BaseRequest) -> web.Response | None:
    """Return the answer to a request that does not reach XNAT; None: it does."""
    if site.starting is not None:
        if site.starting == 404:
            return tomcat_page(404, "The requested resource is not available")
        return nginx_page(site.starting)
    if site.max_body is not None and (request.content_length or 0) > site.max_body:
        return nginx_page(413)
    if site.sticky_cookie and "JSESSIONID" in request.cookies and site.sticky_cookie not in request.cookies:
        return tomcat_page(401, "another server has this request, and does not know the login")
    strict = site.profile.strict_urls if site.strict_urls is None else site.strict_urls
    if strict and (_FORBIDDEN.search(request.raw_path) or "%2f" in request.raw_path.partition("?")[0].lower()):
        return tomcat_page(400, "Invalid character found in the request target")
    return None


def has_reset(site: Site, request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Break the connection after an early error for a larger body than Tomcat swallows, and return whether it did.

    The client may never see the error (Tomcat's maxSwallowSize).
    """
    limit = site.swallowed_bytes
    if limit is None or response.status < HTTPStatus.BAD_REQUEST or request.content.at_eof():
        return False
    if (request.content_length or 0) <= limit:
        return False
    abort(request)
    return True


def abort(request: web.BaseRequest) -> None:
    """Break the connection of a request with a reset."""
    if (transport := request.transport) is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # With a linger time of zero, close() sends a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
