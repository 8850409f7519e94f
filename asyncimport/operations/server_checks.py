"""Checks of the way to a server and of the login: what was found, what it means, and what to change. Pure."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import ceil

from asyncimport.errors import LoginRefusedError
from asyncimport.model.options import AUTO_CEILING
from asyncimport.operations.findings import Facts, Finding, Status, failed, number_in, unknown
from asyncimport.xnat.inspection import AuthenticatedFacts, Fact, Unknown
from asyncimport.xnat.public_inspection import BodyLimit, PublicFacts

# XNAT's own default of concurrentMaxSessions (SiteConfigPreferences).
_MOST_LOGINS = 1000
_SKEW = 60.0
_SHORT_IDLE = 300.0
_SOON = timedelta(days=30)
# What one XNAT takes in a second at best: each file passes one lock and one SELECT (PrearcDatabase).
_FILES_A_SECOND = 100


# --- the way to the server


def check_way(facts: Facts) -> Iterator[Finding]:
    """Judge the address, encryption, certificate, proxy, version, clock, round trip and body size."""
    if facts.bad_address is not None:
        yield failed("address", facts.bad_address)
    outside = facts.outside
    if outside is None:
        return
    if outside.failure is None or outside.stage == "address":
        yield _address(facts.host, outside)
    yield _encryption(facts)
    if outside.stage == "certificate" and outside.failure is not None:
        yield failed("certificate", outside.failure, meaning="no login is sent to a server that may be another's")
    elif facts.host.startswith("https:") and outside.failure is None:
        yield _certificate(facts, outside)
    if outside.stage == "proxy" and outside.failure is not None:
        yield failed("proxy", outside.failure)
    else:
        yield _proxy(outside)
    if not outside.is_xnat:
        return
    yield _version(facts, outside)
    if outside.seconds_ahead is not None:
        yield _clock(outside.seconds_ahead)
    if outside.round_trip is not None:
        yield _round_trip(outside.round_trip)
    if outside.body is not None:
        yield _body(outside.body)


def _address(host: str, outside: PublicFacts) -> Finding:
    def wrong(found: str, meaning: str, hint: str) -> Finding:
        return Finding("address", Status.ERROR, found, meaning, hint, exit_code=4)

    no_xnat = "what answers there is not an XNAT"
    if outside.failure is not None:
        return failed("address", outside.failure)
    if outside.moved_to and outside.elsewhere:
        meaning = "redirects are not followed, lest the login go to another server"
        return wrong(f"the address redirects to {outside.moved_to}", meaning, f"give --host {outside.elsewhere}")
    if outside.moved_to:
        hint = "give XNAT's own address; if that is a sign-on page, ask for an address that takes user and password"
        return wrong(f"the address redirects to {outside.moved_to}", "no XNAT answers there", hint)
    if outside.elsewhere:
        return wrong(no_xnat, f"there is one at {outside.elsewhere}", f"give --host {outside.elsewhere}")
    if not outside.is_xnat:
        return wrong(no_xnat, "", "give the address with its context path, as in https://xnat.example.org/xnat")
    return Finding("address", Status.OK, f"XNAT answers at {host}")


def _encryption(facts: Facts) -> Finding:
    if facts.unencrypted is not None:
        return failed("encryption", facts.unencrypted, meaning="no login was tried")
    if facts.host.startswith("https:"):
        return Finding("encryption", Status.OK, "https")
    if facts.insecure:
        meaning = "password and patients cross the network in the clear, unless the address is this machine's"
        return Finding("encryption", Status.WARNING, "plain http, with --insecure", meaning, "use https")
    return Finding("encryption", Status.OK, "plain http, which does not leave this machine")


def _certificate(facts: Facts, outside: PublicFacts) -> Finding:
    if facts.insecure:
        hint = "leave --insecure out, and name the certificate authority of the site with --ca-bundle"
        return Finding("certificate", Status.WARNING, "not checked, with --insecure", "anybody could answer", hint)
    if outside.certificate_ends is None:
        return Finding("certificate", Status.UNKNOWN, "trusted; when it expires is not known")
    end = datetime.fromtimestamp(outside.certificate_ends, UTC)
    left = end - datetime.fromtimestamp(facts.now, UTC)
    found = f"trusted until {end:%Y-%m-%d}"
    if left < _SOON:
        meaning = f"it expires in {left.days} days, and a run ends with it"
        return Finding("certificate", Status.WARNING, found, meaning, "have it renewed before a long migration")
    return Finding("certificate", Status.OK, found)


def _proxy(outside: PublicFacts) -> Finding:
    found = f"through {outside.proxy}" if outside.proxy else "no proxy of this machine's is in use"
    if re.fullmatch(r"[\w./() -]{1,60}", outside.server, re.ASCII):
        found += f"; {outside.server} answers"
    return Finding("proxy", Status.OK, found, "its limits count too" if outside.proxy else "")


def _version(facts: Facts, outside: PublicFacts) -> Finding:
    version = outside.version
    if not version and facts.inside is not None and not isinstance(facts.inside.version, Unknown):
        version = facts.inside.version
    match = re.fullmatch(r"(\d+)\.(\d+)[\w.-]*", version)
    if match is None:
        return Finding("version", Status.UNKNOWN, "XNAT does not tell its version")
    if (int(match[1]), int(match[2])) < (1, 7):
        return Finding(
            "version",
            Status.WARNING,
            f"XNAT {version}",
            "it does not tell its filters and scripts, and merges into a session only with --overwrite append",
            "try a small part first, or have XNAT upgraded",
        )
    return Finding("version", Status.OK, f"XNAT {version}")


def _clock(ahead: float) -> Finding:
    if abs(ahead) <= _SKEW:
        return Finding("clock", Status.OK, "the server's clock agrees with this machine's")
    found = f"the server's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return Finding("clock", Status.WARNING, found, "receipts and XNAT's logs will disagree", "set both clocks by NTP")


def _round_trip(seconds: float) -> Finding:
    found = f"a round trip takes {seconds * 1000:,.{0 if seconds > 0.01 else 1}f} ms"
    wanted = ceil(seconds * _FILES_A_SECOND)
    if wanted <= AUTO_CEILING:
        return Finding(
            "round-trip", Status.OK, found, f"--workers auto finds how many it takes ({AUTO_CEILING} at most)"
        )
    meaning = f"{AUTO_CEILING} uploads in flight send {AUTO_CEILING / seconds:,.0f} small files a second at most"
    return Finding("round-trip", Status.WARNING, found, meaning, "run nearer to the server")


def _body(told: Fact[BodyLimit]) -> Finding:
    if isinstance(told, Unknown):
        return unknown("body-size", "the largest file that gets through", told)
    if not told.refused:
        return Finding("body-size", Status.OK, f"files of {told.passed} get through")
    answer = "413" if told.status else "the connection is closed"
    between = f"between {told.passed} and {told.refused}" if told.passed else f"below {told.refused}"
    return Finding(
        "body-size",
        Status.WARNING,
        f"the largest file that gets through is {between} ({answer})",
        "larger ones will be refused, by whatever stands before XNAT",
        "raise its limit: client_max_body_size of nginx, LimitRequestBody of Apache",
    )


# --- the login


def check_login(facts: Facts) -> Iterator[Finding]:
    """Judge whether XNAT takes the login, how many are open, and how long one lasts."""
    outside = facts.outside
    if facts.no_login is not None:
        if outside is not None and outside.sign_on and not isinstance(facts.no_login, LoginRefusedError):
            yield failed(
                "login",
                facts.no_login,
                meaning=f"a login is led to {outside.sign_on}: single sign-on, it may be",
                hint="ask for an address for programs, which takes user and password, or a token",
            )
        else:
            yield failed("login", facts.no_login)
    if facts.inside is None:
        return
    yield Finding("login", Status.OK, "XNAT accepts the login")
    yield _logins(facts.inside)
    idle = outside.idle_seconds if outside is not None else None
    if idle is None:
        yield Finding("idle-timeout", Status.UNKNOWN, "after how long XNAT ends a login: not known")
    elif 0 < idle < _SHORT_IDLE:
        meaning = "a login may end in mid-run, or under a long upload; it is renewed then"
        hint = "have the site's session timeout set to 15 minutes, XNAT's default"
        yield Finding("idle-timeout", Status.WARNING, f"XNAT ends a login after {idle:,.0f} s", meaning, hint)
    else:
        found = f"XNAT ends a login after {idle / 60:,.0f} idle minutes" if idle > 0 else "XNAT ends no login"
        yield Finding("idle-timeout", Status.OK, found)


def _logins(inside: AuthenticatedFacts) -> Finding:
    if isinstance(inside.logins, Unknown):
        return unknown("logins", "how many logins this user has open", inside.logins)
    told = number_in(inside.max_logins)
    most = _MOST_LOGINS if told is None else told
    limit = f"{most:,}{' (the default)' if told is None else ''}"
    found = f"this user has {inside.logins:,} of at most {limit} logins open, this one among them"
    if inside.logins * 2 <= most:
        return Finding("logins", Status.OK, found, "a run needs one")
    meaning = "beyond the limit XNAT refuses a login as if the password were wrong"
    hint = "end what else logs in as this user, or have concurrentMaxSessions raised"
    return Finding("logins", Status.WARNING, found, meaning, hint)
