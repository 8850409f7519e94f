"""Logging in and out over HTTP, and what the server says about itself."""

import json
from typing import Any

from aiohttp import web

from .call import Call
from .pages import Refused, text
from .tokens import Token

__all__ = [
    "auth",
    "build_info",
    "count_sessions",
    "end_login",
    "end_sessions",
    "jsession",
    "login_page",
    "services_auth",
    "tokens",
    "version",
]


async def jsession(call: Call) -> web.StreamResponse:
    """Return the login's id (UserSession); an open address: without credentials it is a guest's."""
    login = call.login
    if call.query.get("CSRF", "false") == "true":
        return text(f"{login.id}; XNAT_CSRF={login.csrf}")
    return text(login.id)


async def end_login(call: Call) -> web.StreamResponse:
    """Log out (UserSession.removeRepresentations)."""
    call.xnat.logins.end(call.login)
    return text()


async def auth(call: Call) -> web.StreamResponse:
    """Say who is logged in (UserAuth)."""
    return text(f"User '{call.user.name}' is logged in")


async def services_auth(call: Call) -> web.StreamResponse:
    """Log in with a form (AuthenticationRestlet); the id is the body and the cookie."""
    if "username" not in call.params or "password" not in call.params:
        raise Refused(404)
    user = call.xnat.logins.verify(call.params["username"], call.params["password"])
    login = call.xnat.logins.admit(user, call.login) if user is not None else None
    if login is None:
        raise Refused(401, "Authentication failed.")
    call.login = login
    return text(login.id)


async def count_sessions(call: Call, name: str) -> web.StreamResponse:
    """Count a user's logins (UserSessionId)."""
    _check_own(call, name)
    return web.Response(text=json.dumps({name: call.xnat.live_logins(name)}), content_type="application/json")


async def end_sessions(call: Call, name: str) -> web.StreamResponse:
    """End all logins of a user."""
    _check_own(call, name)
    call.xnat.logins.expire(name)
    return text()


def _check_own(call: Call, name: str) -> None:
    if name != call.user.name and not call.user.all_data:
        raise Refused(403)


async def build_info(call: Call, key: str = "") -> web.StreamResponse:
    """Return what is installed (SiteConfigApi); an open address."""
    info = {
        "version": call.xnat.profile.version,
        "buildNumber": "1",
        "application": "asyncimport test server",
    }
    if not key:
        return web.Response(text=json.dumps(info), content_type="application/json")
    if key not in info:
        raise Refused(404)
    return text(info[key])


def login_page() -> web.Response:
    """Return the login page that browsers are sent to: HTML with 200, a trap for clients that follow."""
    body = "<html><body><!-- BEGIN xnat-templates/screens/Login.vm --><form>Log in</form></body></html>"
    return web.Response(text=body, content_type="text/html")


async def tokens(call: Call, operation: str, alias: str = "", secret: str = "") -> web.StreamResponse:
    """Issue, show, check or end alias tokens (AliasTokenRestlet)."""
    if call.login.user is None:
        raise Refused(403)
    held = call.xnat.tokens
    match operation:
        case "issue":
            name = call.user.name
            if alias == "user":
                name = secret
                if not call.user.all_data:
                    raise Refused(403)
            return _json(_token(call, held.issue(name)))
        case "show":
            return _json([_token(call, token) for token in held.of(call.user.name)])
        case "validate":
            if (token := held.find(alias)) is None:
                raise Refused(404)
            return _json({"valid": token.user} if token.secret == secret else {})
        case "invalidate":
            held.end(alias)
            return _json({"result": "OK"})
        case _:
            raise Refused(400, f"Unknown operation: {operation}")


def _token(call: Call, token: Token) -> dict[str, Any]:
    created = int(token.moment * 1000)
    return {
        "alias": token.alias,
        "secret": token.secret,
        "xdatUserId": token.user,
        "singleUse": False,
        "estimatedExpirationTime": created + int(call.xnat.tokens.seconds * 1000),
        "validIPAddresses": [],
        "id": token.id,
        "enabled": True,
        "created": created,
        "timestamp": created,
        "disabled": 0,
    }


def _json(value: object) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json")


async def version(call: Call) -> web.StreamResponse:
    """Return the version where versions before 1.7 have it."""
    if call.xnat.profile.has_xapi:
        raise Refused(404)
    return text(call.xnat.profile.version)
