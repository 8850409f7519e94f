"""Alias tokens: what XNAT gives out in place of a password, for a while."""

import json
import time

from asyncimport.credentials import Token
from asyncimport.errors import LoginExpiredError, UnavailableError
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.response import Reply

# Seconds: a hundred years.
_LONGEST = 100 * 366 * 86_400


async def issue_token(client: Client) -> Token:
    """Let XNAT issue a token for the user who is logged in.

    Raises: UnavailableError when it does not, TransientError.
    """
    return await client.ask("GET", "/data/services/tokens/issue", _token, RetryPolicy(attempts=1))


def _token(reply: Reply) -> Token:
    """Read the answer (AliasTokenRestlet); of its times, by the server's clock, only the difference counts."""
    if reply.status == 401:
        raise LoginExpiredError("XNAT no longer knows the login (401)")
    if reply.status != 200 or reply.is_html:
        raise UnavailableError(
            f"XNAT issues no token ({reply.status}: {reply.message})",
            hint="log in without --token: the password is kept instead",
        )
    try:
        found = json.loads(reply.text)
        alias, secret = str(found["alias"]), str(found["secret"])
        end, beginning = found.get("estimatedExpirationTime"), found.get("created")
        lifetime = (end - beginning) / 1000 if end and beginning else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UnavailableError("XNAT's answer is not a token", hint="log in without --token") from None
    # Any other lifetime is a mistake of the site's clock or settings, and tells nothing.
    expires = time.time() + lifetime if lifetime is not None and 0 < lifetime < _LONGEST else None
    return Token(alias, secret, expires)
