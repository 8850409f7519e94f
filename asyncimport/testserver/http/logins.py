"""Logging in and out, alias tokens, and the server's version."""

from typing import Any

from aiohttp import web

from ..site.logins import Token
from .request_context import RequestContext
from .responses import HttpError, text

_PROVIDER = "localdb"


async def jsession(context: RequestContext) -> web.StreamResponse:
    """Return the login's ID (UserSession); without credentials, a guest's."""
    login = context.login
    if context.query.get("CSRF", "false") == "true":
        return text(f"{login.id}; XNAT_CSRF={login.csrf}")
    return text(login.id)


async def end_login(context: RequestContext) -> web.StreamResponse:
    """Log out (UserSession.removeRepresentations)."""
    context.site.logins.end(context.login)
    return text()


async def auth(context: RequestContext) -> web.StreamResponse:
    """Return who is logged in, and with `CSRF=true` the login's token (UserAuth)."""
    token = f"; XNAT_CSRF={context.login.csrf}" if context.query.get("CSRF", "false") == "true" else ""
    return text(f"User '{context.user.name}' is logged in{token}")


async def services_auth(context: RequestContext) -> web.StreamResponse:
    """Log in with a form (AuthenticationRestlet); the login's ID is the body and the cookie.

    Its constructor fails for a GET and without a body. The only provider of a test site is its own database.
    """
    if context.request.method == "GET" or "username" not in context.params or "password" not in context.params:
        raise HttpError(404)
    if not {context.params.get(name, _PROVIDER) for name in ("provider", "authenticatorId")} <= {_PROVIDER}:
        raise HttpError(400, "Unknown authentication provider")
    user = context.site.logins.verify(context.params["username"], context.params["password"])
    login = context.site.logins.log_in(user, context.login) if user is not None else None
    if login is None:
        raise HttpError(401, "Authentication failed.")
    context.login = login
    return text(login.id)


async def count_logins(context: RequestContext, name: str) -> web.StreamResponse:
    """Count a user's logins (UserSessionId)."""
    _check_own(context, name)
    return web.json_response({name: context.site.live_logins(name)})


async def end_logins(context: RequestContext, name: str) -> web.StreamResponse:
    """End all logins of a user (UserSessionId)."""
    _check_own(context, name)
    context.site.logins.expire(name)
    return text()


def _check_own(context: RequestContext, name: str) -> None:
    if name != context.user.name and not context.user.all_data:
        raise HttpError(403)


async def build_info(context: RequestContext, key: str = "") -> web.StreamResponse:
    """Return version and build (SiteConfigApi); no login is needed."""
    info = {
        "version": context.site.profile.version,
        "buildNumber": "1",
        "buildDate": "2026-01-01 00:00:00",
        "commit": "0000000",
        "application": "asyncimport test server",
    }
    if not key:
        return web.json_response(info)
    if key not in info:
        raise HttpError(404)
    return text(info[key])


def login_page() -> web.Response:
    """Return the login page that browsers are sent to: HTML with 200, which misleads clients that follow redirects."""
    body = "<html><body><!-- BEGIN xnat-templates/screens/Login.vm --><form>Log in</form></body></html>"
    return web.Response(text=body, content_type="text/html")


async def tokens(context: RequestContext, operation: str, alias: str = "", secret: str = "") -> web.StreamResponse:
    """Issue, show, check or end alias tokens (AliasTokenRestlet)."""
    if context.login.user is None:
        raise HttpError(403)
    site_tokens = context.site.tokens
    match operation:
        case "issue":
            name = context.user.name
            if alias == "user":
                name = secret
                if not context.user.all_data:
                    raise HttpError(403)
            return web.json_response(_token(context, site_tokens.issue(name)))
        case "show":
            return web.json_response([_token(context, token) for token in site_tokens.of(context.user.name)])
        case "validate":
            if (token := site_tokens.find(alias)) is None:
                raise HttpError(404)
            return web.json_response({"valid": token.user} if token.secret == secret else {})
        case "invalidate":
            site_tokens.end(alias)
            return web.json_response({"result": "OK"})
        case _:
            raise HttpError(400, f"Unknown operation: {operation}")


def _token(context: RequestContext, token: Token) -> dict[str, Any]:
    created = int(token.moment * 1000)
    return {
        "alias": token.alias,
        "secret": token.secret,
        "xdatUserId": token.user,
        "singleUse": False,
        "estimatedExpirationTime": created + int(context.site.tokens.seconds * 1000),
        "validIPAddresses": [],
        "id": token.id,
        "enabled": True,
        "created": created,
        "timestamp": created,
        "disabled": 0,
    }


async def version(context: RequestContext) -> web.StreamResponse:
    """Return the version, at the address of XNAT before 1.7."""
    if context.site.profile.has_xapi:
        raise HttpError(404)
    return text(context.site.profile.version)
