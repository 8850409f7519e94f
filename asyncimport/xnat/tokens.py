"""Alias tokens, which XNAT accepts for a while in place of a password."""

import json
import time

from asyncimport.credentials.keyring_store import Token
from asyncimport.errors import LoginExpiredError, UnavailableError
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.response import Reply

# A hundred years.
_MAX_LIFETIME_SECONDS = 100 * 366 * 86_400


async def issue_token(client: Client) -> Token:
    """Have XNAT issue a token for the user who is logged in. Raises: UnavailableError, TransientError."""
    return await client.request("GET", "/data/services/tokens/issue", _parse_token, RetryPolicy(attempts=1))


def _parse_token(reply: Reply) -> Token:
    """Return the token of a reply (AliasTokenRestlet). Its times are the server's: only their difference counts."""
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
        end, start = found.get("estimatedExpirationTime"), found.get("created")
        lifetime = (end - start) / 1000 if end and start else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UnavailableError("XNAT's answer is not a token", hint="log in without --token") from None
    # Any other lifetime is a mistake in the site's clock or settings.
    expires = time.time() + lifetime if lifetime is not None and 0 < lifetime < _MAX_LIFETIME_SECONDS else None
    return Token(alias, secret, expires)
