"""Replies to a login, and to the question who is logged in."""

import json
import re

from asyncimport.errors import LoginExpiredError, LoginRefusedError, TransientError, UnavailableError
from asyncimport.xnat.replies.response import (
    OVERLOAD,
    REDIRECTS,
    Reply,
    account_error,
    check,
    is_login_page,
    not_xnat_error,
    parse_retry_after,
    redirect_error,
)

_USER = re.compile(r"User '(.*?)' is logged in")


def check_login(reply: Reply) -> None:
    """Judge a login (UserSession, XnatBasicAuthenticationFilter). Raises: LoginRefusedError, UnavailableError."""
    if reply.status == 401:
        raise LoginRefusedError(
            "XNAT refused the user name or password",
            hint="check both; after 20 refusals XNAT locks the account for an hour, and says the same then",
        )
    if is_login_page(reply):
        raise LoginRefusedError("XNAT answers the login with its login page", hint="check the user name and password")
    if reply.status in REDIRECTS:
        raise redirect_error(reply, at_login=True)
    if reply.status == 403 and "password has expired" in reply.message:
        raise account_error()
    if reply.status == 403:
        raise UnavailableError(f"XNAT does not let anyone in: {reply.message}", hint="ask the administrator of XNAT")
    if reply.status in OVERLOAD or reply.status >= 500:
        raise TransientError(
            f"the server answers {reply.status} to the login", retry_after=parse_retry_after(reply), overload=True
        )
    if reply.status != 200 or reply.is_html or not re.fullmatch(r"[\w.-]+", reply.text.strip()):
        raise not_xnat_error()


def check_user(reply: Reply, name: str) -> None:
    """Check that the user (UserAuth) is no guest, as anyone may be. Raises: LoginRefusedError, UnavailableError."""
    if reply.status == 200 and (match := _USER.search(reply.head)):
        # An alias token logs in under its owner's name, so another name than `name` is right, but not a guest's.
        if match.group(1).lower() == "guest" != name.lower():
            raise LoginRefusedError("XNAT took the login for a guest's", hint="check the user name and password")
        return
    if reply.status == 401:
        raise LoginExpiredError("XNAT does not know the login that it has just made (401)")
    if reply.status in REDIRECTS:
        error = redirect_error(reply, at_login=True)
        if isinstance(error, UnavailableError):
            raise error
    if reply.status in {403, *REDIRECTS} or is_login_page(reply):
        raise not_accepted_error()
    if reply.status in OVERLOAD or reply.status >= 500:
        raise TransientError(
            f"the server answers {reply.status} to the login check", retry_after=parse_retry_after(reply), overload=True
        )
    raise not_xnat_error()


def not_accepted_error() -> LoginRefusedError:
    """Return the error of a right password whose login XNAT does not accept."""
    return LoginRefusedError(
        "XNAT does not accept the login",
        hint="log in with a browser once: the password may have expired, or the account may be disabled",
    )


def check_reachable(reply: Reply) -> bool:
    """Return True for any reply of XNAT itself (UserAuth). Raises: TransientError, LoginExpiredError."""
    check(reply)
    return True


def parse_user_name(reply: Reply) -> str | None:
    """Return who is logged in (UserAuth); with an alias token that is its owner."""
    check(reply)
    match = _USER.search(reply.head)
    return match[1] if match and reply.status == 200 else None


def parse_login_count(reply: Reply) -> int | None:
    """Return how many logins a user has open (UserSessionId); None if XNAT does not show it."""
    check(reply)
    if reply.status != 200:
        return None
    try:
        (count,) = dict(json.loads(reply.text)).values()
        return int(count)
    except (ValueError, RecursionError, TypeError, OverflowError):
        return None
