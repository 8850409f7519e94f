"""A reply of XNAT: what any reply can mean, and the forms of its listings and items."""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from asyncimport.errors import LoginExpiredError, LoginRefusedError, RefusedError, TransientError, UnavailableError
from asyncimport.model.record import record

OVERLOAD = frozenset({408, 429, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PERMANENT = frozenset({301, 308})
_HEAD_CHARACTERS = 8 << 10
_PAGE = re.compile(r"\s*<(?:!doctype )?html\b", re.IGNORECASE)
# Restlet's status page has the message in its heading, Tomcat's after "Message" (its heading is its version).
_RESTLET = re.compile(r"<h3>(?!Apache Tomcat)(.*?)</h3>", re.DOTALL)
_TOMCAT = re.compile(r"<b>Message</b>(.*?)</p>", re.DOTALL)
_TAGS = re.compile(r"<[^>]*>")
_ADDRESS = re.compile(r"(?<![\w/])(?:https?:/)?(?:/[^\s/()<>\"',;]+){2,}/?")


@record
class Reply:
    """An HTTP response: status, headers (by lower-case names, cookies among them), and the body as text."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    text: str

    @property
    def head(self) -> str:
        """The beginning of the text. Only that is searched for patterns, whose time may grow with its square."""
        return self.text[:_HEAD_CHARACTERS]

    @property
    def is_html(self) -> bool:
        """Whether this is a page for people: XNAT's login, an error page, or a gateway's."""
        kind = self.headers.get("content-type", "").lower()
        return kind.startswith("text/html") or _PAGE.match(self.text) is not None

    @property
    def is_foreign(self) -> bool:
        """Whether this is a page that XNAT's own services do not make: Tomcat's, or a gateway's."""
        return self.is_html and _RESTLET.search(self.head) is None

    @property
    def message(self) -> str:
        """The message of an error page, else the text, in one short line without addresses."""
        found = _RESTLET.search(self.head) or _TOMCAT.search(self.head)
        text = found.group(1) if found else ("" if self.is_html else self.head)
        words = _ADDRESS.sub("…", " ".join(html.unescape(_TAGS.sub(" ", text)).split()))
        return "".join(filter(str.isprintable, words))[:300] or f"status {self.status}"


def check(reply: Reply, *, server_errors: bool = True) -> None:
    """Raise what any reply can mean: an expired login, overload, a gateway's page. The caller judges the rest.

    Without `server_errors` a 500 is left to the caller too, because the archive step says no by it; other codes are a
    gateway's. XNAT may still be working on a call that a gateway has passed on, whatever the gateway answers: 502 to
    504, 520 to 527 (Cloudflare's), a 500, or a page of its own.
    """
    if reply.status == 401:
        raise LoginExpiredError("XNAT no longer knows the login (401)")
    if reply.status in REDIRECTS:
        raise redirect_error(reply)
    if reply.status == 404 and reply.is_foreign:
        # XNAT itself is missing, as while Tomcat starts.
        raise TransientError("XNAT is not there (404)", retry_after=parse_retry_after(reply), overload=True)
    if reply.status in OVERLOAD:
        raise TransientError(
            f"the server is overloaded or away ({reply.status})",
            retry_after=parse_retry_after(reply),
            overload=True,
            may_have_taken_effect=reply.status >= 500,
        )
    if reply.status >= 500 and (server_errors or reply.status != 500):
        raise TransientError(
            f"the server failed ({reply.status}: {reply.message})",
            retry_after=parse_retry_after(reply),
            may_have_taken_effect=True,
        )
    if reply.status == 200 and reply.is_html:
        raise page_error(reply)


def redirect_error(reply: Reply, *, at_login: bool = False) -> TransientError | LoginRefusedError | UnavailableError:
    """Return the error of a redirect, which is never followed.

    A temporary one leads to a page that says when the server is back; at a login, the address is not XNAT's.
    """
    if is_login_page(reply):
        return LoginExpiredError(f"XNAT no longer knows the login ({reply.status})")
    target = parse_location(reply)
    if "UpdateUser" in target.path or "InactiveAccount" in target.path:
        return account_error()
    host = target.netloc.rpartition("@")[2]
    place = f"{target.scheme}://{host}" if host and host.isprintable() else "another path"
    if at_login or reply.status in _PERMANENT:
        return UnavailableError(f"the server redirects to {place}", hint="give the address it redirects to as --host")
    return TransientError(
        f"the server redirects to {place} ({reply.status})",
        retry_after=parse_retry_after(reply),
        overload=True,
        may_have_taken_effect=True,
    )


def is_login_page(reply: Reply) -> bool:
    """Whether this is XNAT's login page, which it shows to browsers, or a redirect to it."""
    if reply.status == 200:
        return reply.is_html and "Login.vm" in reply.text
    return reply.status in REDIRECTS and "Login.vm" in parse_location(reply).path


def account_error() -> LoginRefusedError:
    """Return the error of an account that is blocked until its owner has done something."""
    return LoginRefusedError(
        "XNAT wants the user to act first", hint="log in with a browser: the password has expired or must be set"
    )


def parse_location(reply: Reply) -> SplitResult:
    """Return the Location of a redirect, in parts; empty if there is none."""
    try:
        return urlsplit(reply.headers.get("location", ""))
    except ValueError:
        return urlsplit("")


def page_error(reply: Reply) -> TransientError:
    """Return the error of a page instead of XNAT's answer: its login page, or a gateway's."""
    if is_login_page(reply):
        return LoginExpiredError("XNAT answers with its login page")
    return TransientError("a web page came instead of XNAT's answer (200)", may_have_taken_effect=True)


def too_large_error() -> RefusedError:
    """Return the error of a proxy that refuses a body for its size."""
    return RefusedError("the file is larger than a proxy before XNAT lets through (413)", never_reached_xnat=True)


def not_xnat_error() -> UnavailableError:
    """Return the error of a reply that no XNAT would give."""
    return UnavailableError(
        "what answers there is not an XNAT",
        hint="give the address with its context path, as in https://xnat.example.org/xnat",
    )


def parse_retry_after(reply: Reply) -> float | None:
    """Return Retry-After in seconds; None for the form with a date."""
    value = reply.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None


def parse_rows(reply: Reply) -> list[dict[str, str]]:
    """Return the rows of a listing; all values are strings, "" for null. Raises: TransientError."""
    try:
        rows = _parse_json(reply)["ResultSet"]["Result"]
        return [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    except (KeyError, TypeError, AttributeError):
        raise TransientError(f"XNAT's answer is not a listing ({reply.status})") from None


def parse_item(reply: Reply) -> dict[str, Any]:
    """Return the fields of an item (ItemJSONBuilder). Raises: TransientError."""
    try:
        return dict(_parse_json(reply)["items"][0]["data_fields"])
    except (KeyError, TypeError, IndexError, ValueError):
        raise TransientError(f"XNAT's answer is not an item ({reply.status})") from None


def parse_child_items(reply: Reply, field: str) -> list[dict[str, Any]]:
    """Return the fields of an item's children in a field. Raises: TransientError."""
    try:
        children = _parse_json(reply)["items"][0].get("children", ())
        return [dict(one["data_fields"]) for child in children if child["field"] == field for one in child["items"]]
    except (KeyError, TypeError, IndexError, ValueError, AttributeError):
        raise TransientError(f"XNAT's answer is not an item ({reply.status})") from None


def _parse_json(reply: Reply) -> Any:
    try:
        return json.loads(reply.text)
    except (ValueError, RecursionError):
        raise TransientError(f"XNAT's answer is not JSON ({reply.status})") from None
