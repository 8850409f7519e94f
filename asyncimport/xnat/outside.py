"""What can be told of a server without a login. Nothing of it changes anything there."""

import json
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from statistics import median
from time import perf_counter, time
from typing import Any, Literal

import aiohttp
import anyio
import anyio.to_thread
from yarl import URL

from asyncimport import __version__
from asyncimport.errors import (
    AsyncimportError,
    FatalError,
    TransientError,
    UnavailableError,
)
from asyncimport.xnat.client import Client, Credentials, Timeouts, bounded
from asyncimport.xnat.inspection import Fact, Unknown
from asyncimport.xnat.proxies import Proxy, proxy_for
from asyncimport.xnat.reading import ACCEPTED, ANSWER, read_reply
from asyncimport.xnat.replies.logins import check_login
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.trust import tls_context

SIZES: Mapping[str, int] = {"1 MB": 1 << 20, "100 MB": 100 << 20, "2 GB": 2 << 30, "8 GB": 8 << 30}
"""The sizes of bodies that are announced, smallest first."""
_QUICK = Timeouts(connect=10.0, stall=15.0, reply=15.0)
_LAST_SECONDS = 5.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUILD_INFO = "/xapi/siteConfig/buildInfo"
_JSESSION = "/data/JSESSION"
# No XNAT has this importer: even a body that got there would be refused before a byte of it is read (Importer).
_IMPORT = "/data/services/import?inbody=true&import-handler=asyncimport-doctor"
_LOGIN_ID = re.compile(r"[0-9A-F]{32}(?:\.[\w-]+)?")
_VERSION = re.compile(r"\d+\.\d[\w.-]*")
_EXPIRATION = re.compile(r'SESSION_EXPIRATION_TIME="?(\d+),(-?\d+)')


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """The largest announced body that was let through, and the first that was not, by its answer: "" for none.

    `status` is 0 where the connection was closed in place of an answer.
    """

    passed: str = ""
    refused: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class PublicFacts:
    """What a guest finds out.

    `failure` is how an upload would end before it logs in, and `stage` what failed. `moved_to` is where the address
    redirects to, `elsewhere` an address near by at which there is an XNAT, `sign_on` where a login is redirected to.
    `version` is "" for an XNAT that does not tell it. Times are in seconds.
    """

    failure: FatalError | None = None
    stage: Literal["address", "certificate", "proxy"] = "address"
    proxy: str = ""
    server: str = ""
    certificate_ends: float | None = None
    is_xnat: bool = False
    version: str = ""
    moved_to: str = ""
    elsewhere: str = ""
    sign_on: str = ""
    seconds_ahead: float | None = None
    idle_seconds: float | None = None
    round_trip: float | None = None
    body: Fact[BodyLimit] | None = None


class _NothingToSendError(Exception):
    """Ends a request whose body is asked for."""


class _Guest(Client):
    """Asks without a login. XNAT takes whoever does so for a guest with a login of his own: one for all questions."""

    def __init__(self, http: aiohttp.ClientSession, host: URL, proxy: Proxy) -> None:
        super().__init__(http, host, Credentials("", ""), _QUICK, proxy)
        self.welcome: set[URL] = set()
        """Where XNAT has made us a guest."""

    async def look(self, base: URL, path: str, method: str = "GET") -> Reply:
        """Ask below an address, and return the answer with all its headers, and the beginning of its body.

        Raises: TransientError, UnavailableError.
        """
        with bounded(self.timeouts.reply):
            async with self._answer(method, _below(base, path), None, {}) as response:
                body = (await read_reply(response, ANSWER)).text
                headers = {name.lower(): "\n".join(response.headers.getall(name)) for name in response.headers}
                return Reply(response.status, headers, body)

    async def announce(self, base: URL, size: int) -> int | None:
        """Announce a body, and send none: return the status of the answer, or 100 when the body is asked for.

        It is 0 where the connection was closed, and None where nothing came at all.
        """
        headers = {"Content-Type": "application/dicom", "Content-Length": str(size), "Expect": "100-continue"}
        is_asked_for = False

        async def body() -> AsyncIterator[bytes]:
            # Nobody reads from here before a 100 has come; nobody is to get anything, so the request ends with that.
            nonlocal is_asked_for
            is_asked_for = True
            raise _NothingToSendError
            yield b""

        with anyio.move_on_after(_LAST_SECONDS):
            try:
                async with self._answer("POST", _below(base, _IMPORT), body(), headers) as response:
                    return response.status
            except TransientError as error:
                if not is_asked_for:
                    return 0 if error.may_have_taken_effect else None
        return 100 if is_asked_for else None

    async def leave(self) -> None:
        """End the guest's logins: others would wait for theirs while these idle out."""
        with anyio.CancelScope(shield=True):
            for base in self.welcome:
                with suppress(AsyncimportError), bounded(_LAST_SECONDS):
                    await self.look(base, _JSESSION, "DELETE")


def _below(base: URL, path: str) -> URL:
    return URL(f"{str(base).rstrip('/')}{path}", encoded=True)


async def look_from_outside(host: str, *, ca_bundle: Path | None = None, verify: bool = True) -> PublicFacts:
    """Find out about an address what needs no login, and send none."""
    base = URL(host.rstrip("/"))
    try:
        proxy = await anyio.to_thread.run_sync(proxy_for, base)
    except FatalError as error:
        return PublicFacts(error, "proxy")
    try:
        tls = tls_context(ca_bundle, proxy, verify=verify)
    except FatalError as error:
        return PublicFacts(error, "certificate")
    context = ssl.create_default_context() if tls is True else tls
    certificates = _watched(context) if isinstance(context, ssl.SSLContext) else []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, ssl=context),
        cookie_jar=aiohttp.CookieJar(unsafe=True),  # which is to take cookies of addresses of numbers too
        headers={
            "User-Agent": f"asyncimport/{__version__}",
            **ACCEPTED,
            **(proxy.headers if base.scheme == "http" else {}),
        },
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_QUICK.connect),
        trust_env=False,
    ) as http:
        guest = _Guest(http, base, proxy)
        try:
            found = await _outside(guest, base)
        except TransientError as error:
            hint = "check scheme, name and port, and that the server is up"
            return PublicFacts(UnavailableError(f"{host} does not answer: {error}", hint=hint), proxy=_name(proxy))
        except FatalError as error:
            untrusted = isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError)
            return PublicFacts(error, "certificate" if untrusted else "proxy", proxy=_name(proxy))
        finally:
            await guest.leave()
    return PublicFacts(**{**found, "proxy": _name(proxy), "certificate_ends": _ends(certificates)})


def _name(proxy: Proxy) -> str:
    return str(proxy) if proxy.url else ""


def _watched(context: ssl.SSLContext) -> list[Mapping[str, Any]]:
    """Return a list that will hold the certificate of whoever is connected to, however the connection is made."""
    seen: list[Mapping[str, Any]] = []

    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            seen.append(self.getpeercert() or {})

    context.sslobject_class = Watched
    return seen


def _ends(certificates: list[Mapping[str, Any]]) -> float | None:
    end = certificates[-1].get("notAfter") if certificates else None
    return ssl.cert_time_to_seconds(end) if end else None


async def _outside(guest: _Guest, base: URL) -> dict[str, Any]:
    """Ask it all of one address. Raises: TransientError, UnavailableError when nothing can be asked there."""
    first = await guest.look(base, _BUILD_INFO)
    found: dict[str, Any] = {"server": first.headers.get("server", "")}
    if first.status in _REDIRECTS:
        target = _target(base, first, _BUILD_INFO)
        there = await _xnat_at(guest, target)
        return {**found, "moved_to": str(target), "elsewhere": "" if there is None else str(target)}
    version = await _xnat_at(guest, base, first)
    login = await guest.look(base, _JSESSION)
    if login.status in _REDIRECTS:
        found["sign_on"] = str(_target(base, login, _JSESSION).origin())
    if version is None:
        found["elsewhere"] = "" if "sign_on" in found else await _elsewhere(guest, base)
        if not found["elsewhere"] and (login.status == 403 or login.status >= 500):
            found["failure"] = _refusal(login)
        return found
    trips = []
    for _ in range(5):
        began, asked = perf_counter(), time()
        answer = await guest.look(base, _JSESSION)
        trips.append(perf_counter() - began)
        found["seconds_ahead"] = _seconds_ahead(answer, asked + trips[-1] / 2)
        found["idle_seconds"] = _idle_seconds(answer)
    return {
        **found,
        "is_xnat": True,
        "version": version,
        "round_trip": median(trips),
        "body": await _body_limit(guest, base),
    }


def _refusal(login: Reply) -> FatalError | None:
    """Return what an upload would say of a server that lets nobody in, or is in trouble."""
    try:
        check_login(login)
    except FatalError as error:
        return error
    except TransientError as error:
        return UnavailableError(str(error), hint="try again when the server is back")
    return None


async def _xnat_at(guest: _Guest, base: URL, info: Reply | None = None) -> str | None:
    """Return the version of the XNAT at an address (SiteConfigApi), "" where it does not tell; None: there is none."""
    try:
        info = info or await guest.look(base, _BUILD_INFO)
        if (version := _version_of(info)) is not None:
            guest.welcome.add(base)
            return version
        login = await guest.look(base, _JSESSION)
        # XNAT makes an id for whoever asks (UserSession), and nobody else one of this form.
        if login.status != 200 or not _LOGIN_ID.fullmatch(login.text.strip()):
            return None
        guest.welcome.add(base)
        told = (await guest.look(base, "/data/version")).text.strip()
        return told if _VERSION.fullmatch(told) else ""
    except (TransientError, FatalError):
        return None


def _version_of(reply: Reply) -> str | None:
    try:
        version = json.loads(reply.text)["version"] if reply.status == 200 else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else None


def _target(base: URL, reply: Reply, path: str) -> URL:
    """Return the address that a redirect of `path` leads to: all of it where only what is before the path changes."""
    try:
        target = base.join(URL(reply.headers.get("location", "/")))
        found = target.with_user(None).with_query(None).with_fragment(None)
    except ValueError:
        return base.origin()
    if found.path.endswith(path):
        return URL(str(found).removesuffix(path).rstrip("/"))
    return found.origin()


async def _elsewhere(guest: _Guest, base: URL) -> str:
    """Look for the XNAT that an address without one may mean: above it, below it, or with TLS."""
    origin = base.origin()
    paths = [base.path]
    with suppress(AsyncimportError):
        home = await guest.look(origin, "/")
        if home.status in _REDIRECTS:
            led = base.join(URL(home.headers.get("location", "/")))
            paths += [led.path] if led.origin() == origin else []
    places: list[URL] = []
    for path in paths:
        parts = [part for part in path.split("/") if part]
        places += [origin.with_path("/".join(["", *parts[:count]])) for count in range(len(parts), -1, -1)]
    places += [origin.with_path(f"{base.path.rstrip('/')}/xnat"), origin.with_path("/xnat")]
    if base.scheme == "http":
        places += [base.with_scheme("https").with_port(None if base.port == 80 else base.port)]
    for place in dict.fromkeys(str(place).rstrip("/") for place in places):
        if place != str(base).rstrip("/") and await _xnat_at(guest, URL(place)) is not None:
            return place
    return ""


async def _body_limit(guest: _Guest, base: URL) -> Fact[BodyLimit]:
    """Find out between which of the `SIZES` whatever stands before XNAT draws its line."""
    passed = ""
    for label, size in SIZES.items():
        # A connection that was closed while it was idle is none that was closed for what was asked on it.
        status = await guest.announce(base, size) or await guest.announce(base, size)
        if status in {0, 413}:
            return BodyLimit(passed, label, status or 0)
        if status not in {100, 200, 401, 403, 404}:
            return Unknown("no answer came" if status is None else f"the answer to it is {status}")
        passed = label
    return BodyLimit(passed)


def _seconds_ahead(reply: Reply, here: float) -> float | None:
    """Return how far the server's clock is ahead: XNAT's own (XnatExpiredPasswordFilter), or that of the Date."""
    if match := _EXPIRATION.search(reply.headers.get("set-cookie", "")):
        return int(match[1]) / 1000 - here
    try:
        return parsedate_to_datetime(reply.headers["date"]).timestamp() + 0.5 - here
    except (KeyError, ValueError, TypeError):
        return None


def _idle_seconds(reply: Reply) -> float | None:
    """Return after how long without a request XNAT ends a login (XnatExpiredPasswordFilter)."""
    match = _EXPIRATION.search(reply.headers.get("set-cookie", ""))
    return int(match[2]) / 1000 if match else None
