"""Who makes a request: cookies, Basic authentication, and what an unauthenticated request gets."""

import base64
import binascii
import re
import time
from dataclasses import dataclass

from aiohttp import web

from ..site.logins import Login, Logins
from .responses import HttpError, tomcat_page

# The site setting interactiveAgentIds; DefaultInteractiveAgentDetector exempts blank agents and XNAT's own.
_BROWSER = re.compile("MSIE|Mozilla|AppleWebKit|Opera")


@dataclass(frozen=True, slots=True)
class Authentication:
    """The login of a request, and whether the reply has to set its cookie."""

    login: Login
    fresh: bool
    denied: web.Response | None = None
    """The reply, if the request is denied."""


def authenticate(logins: Logins, request: web.BaseRequest, *, is_open: bool, login_page: str) -> Authentication:
    """Find or make the login of a request (XnatBasicAuthenticationFilter, XnatAuthenticationEntryPoint)."""
    found = logins.find(request.cookies.get("JSESSIONID"))
    credentials = basic_credentials(request.headers.get("Authorization"))
    if credentials is None:
        login = found or logins.begin(None)
        denied = None if login.user is not None or is_open else _deny(request, login_page)
        return Authentication(login, found is None, denied)
    name, password = credentials
    known = found.user if found is not None else None
    if found is not None and known is not None and known.name == logins.account(name):
        return Authentication(found, fresh=False)  # XNAT does not check the password again
    user = logins.verify(name, password)
    new = logins.log_in(user, found) if user is not None else None
    if new is None:
        return Authentication(found or logins.begin(None), found is None, _login_failed())
    return Authentication(new, fresh=True)


def basic_credentials(header: str | None) -> tuple[str, str] | None:
    """Return user and password of a Basic header, or None if there is none.

    A value without a colon is an error page, as in XnatBasicAuthenticationFilter.
    """
    if header is None or not header.lower().startswith("basic "):
        return None
    try:
        text = base64.b64decode(header[6:].strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    name, colon, password = text.partition(":")
    if not colon:
        raise HttpError(500, "Invalid basic authentication token", tomcat=True)
    return name.rpartition("/")[2], password


def expiration_cookie(timeout: float, seconds_ahead: float) -> str:
    """Return the SESSION_EXPIRATION_TIME cookie, quoted because of its comma (XnatExpiredPasswordFilter)."""
    times = f"{int((time.time() + seconds_ahead) * 1000)},{int(timeout * 1000)}"
    return f'SESSION_EXPIRATION_TIME="{times}"; Version=1; Path=/'


def is_browser(agent: str) -> bool:
    """Return whether a User-Agent counts as interactive."""
    return _BROWSER.search(agent) is not None and "XNATDesktopClient" not in agent


def needs_csrf_token(agent: str) -> bool:
    """Return whether a User-Agent has to send XNAT_CSRF with changes (SecureAction.isCsrfTokenOk)."""
    return is_browser(agent) and "java" not in agent.lower()


def _deny(request: web.BaseRequest, login_page: str) -> web.Response:
    if is_browser(request.headers.get("User-Agent", "")):
        return web.Response(status=302, headers={"Location": login_page})
    return tomcat_page(
        401,
        "Full authentication is required to access this resource",
        headers={"WWW-Authenticate": 'Basic realm="XNAT"'},
    )


def _login_failed() -> web.Response:
    """Return the one reply to bad passwords, locked accounts and too many logins; it has no WWW-Authenticate."""
    return tomcat_page(
        401,
        "Your login attempt failed because the username and password combination you provided was invalid "
        "or your user already has the maximum number of user sessions open. After 20 failed login attempts, "
        "your user account will be locked.",
    )
