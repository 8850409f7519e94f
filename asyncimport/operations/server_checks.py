"""The facts about a server, the findings of its checks, and the checks of the connection and of the login. Pure.

Only what would end or spoil an upload is an error; its exit code is that of the upload. What this user may not ask is
unknown, which is no error.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import ceil

from asyncimport.errors import FatalError, LoginRefusedError, UsageError
from asyncimport.model.options import AUTO_CEILING
from asyncimport.model.record import record
from asyncimport.system.deflate import NAME
from asyncimport.xnat.inspection import AuthenticatedFacts, Fact, ProjectFacts, Unknown
from asyncimport.xnat.public_inspection import BodyLimit, PublicFacts
from asyncimport.xnat.replies.site import version_number
from asyncimport.xnat.site import FIRST_WITH_ZIPS

# The order in which an upload meets errors: of the command, the network, the login, the project; 9 is a held session.
_EXIT_CODES = (2, 4, 3, 5, 6, 9)


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@record
class Finding:
    """What a check found, what it means, and what to change; `about` is a project, or "" for the site."""

    code: str
    status: Status
    found: str
    meaning: str = ""
    hint: str = ""
    about: str = ""
    exit_code: int = 0


@record
class Facts:
    """All facts; None if not tried."""

    host: str
    now: float
    bad_address: UsageError | None = None
    unencrypted: UsageError | None = None
    insecure: bool = False
    public: PublicFacts | None = None
    no_login: FatalError | None = None
    deflate_rate: float = 0.0
    """Bytes of images that this machine deflates in a second, on one core."""
    authenticated: AuthenticatedFacts | None = None
    projects: Sequence[ProjectFacts] = ()


def exit_code_of(findings: Sequence[Finding]) -> int:
    """Return 0, or the code of the first error that `upload` would meet."""
    codes = {finding.exit_code for finding in findings if finding.status is Status.ERROR}
    return next((code for code in _EXIT_CODES if code in codes), max(codes, default=0))


def failed_check(code: str, error: FatalError, *, meaning: str = "", hint: str = "", about: str = "") -> Finding:
    """Return the finding of a check that failed with an error."""
    return Finding(code, Status.ERROR, str(error), meaning, hint or error.hint, about, error.exit_code)


def unknown_check(code: str, what: str, unknown: Unknown, about: str = "") -> Finding:
    """Return the finding of a check that was not possible."""
    return Finding(code, Status.UNKNOWN, f"{what}: not known", unknown.reason, about=about)


def number_in(fact: Fact[str]) -> int | None:
    """Return a setting as a number; None if it is unknown or not a number."""
    if isinstance(fact, Unknown) or not re.fullmatch(r"-?\d{1,9}", fact):
        return None
    return int(fact)


# XNAT's own default of concurrentMaxSessions (SiteConfigPreferences).
_MOST_LOGINS = 1000
_SKEW = 60.0
_SHORT_IDLE = 300.0
_SOON = timedelta(days=30)
# The most that one XNAT imports: each file passes one lock and one SELECT (PrearcDatabase).
_FILES_A_SECOND = 100


def check_connection(facts: Facts) -> Iterator[Finding]:
    """Check the address, encryption, certificate, proxy, version, clock, round trip and body size."""
    if facts.bad_address is not None:
        yield failed_check("address", facts.bad_address)
    public = facts.public
    if public is None:
        return
    if public.failure is None or public.stage == "address":
        yield _address(facts.host, public)
    yield _encryption(facts)
    if public.stage == "certificate" and public.failure is not None:
        meaning = "no login is sent, because the server may be an impostor"
        yield failed_check("certificate", public.failure, meaning=meaning)
    elif facts.host.startswith("https:") and public.failure is None:
        yield _certificate(facts, public)
    if public.stage == "proxy" and public.failure is not None:
        yield failed_check("proxy", public.failure)
    else:
        yield _proxy(public)
    if not public.is_xnat:
        return
    version = public.version
    if not version and facts.authenticated is not None and not isinstance(facts.authenticated.version, Unknown):
        version = facts.authenticated.version
    yield _version(version)
    yield _compression(version, facts.deflate_rate)
    if public.seconds_ahead is not None:
        yield _clock(public.seconds_ahead)
    if public.round_trip is not None:
        yield _round_trip(public.round_trip)
    if public.body is not None:
        yield _body(public.body)


def _address(host: str, public: PublicFacts) -> Finding:
    def wrong(found: str, meaning: str, hint: str) -> Finding:
        return Finding("address", Status.ERROR, found, meaning, hint, exit_code=4)

    no_xnat = "what answers there is not an XNAT"
    if public.failure is not None:
        return failed_check("address", public.failure)
    if public.moved_to and public.elsewhere:
        meaning = "redirects are not followed, so that the login cannot go to another server"
        return wrong(f"the address redirects to {public.moved_to}", meaning, f"give --host {public.elsewhere}")
    if public.moved_to:
        hint = "give XNAT's own address; if that is a sign-on page, ask for an address that accepts user and password"
        return wrong(f"the address redirects to {public.moved_to}", "no XNAT answers there", hint)
    if public.elsewhere:
        return wrong(no_xnat, f"XNAT answers at {public.elsewhere}", f"give --host {public.elsewhere}")
    if not public.is_xnat:
        return wrong(no_xnat, "", "give the address with its context path, such as https://xnat.example.org/xnat")
    return Finding("address", Status.OK, f"XNAT answers at {host}")


def _encryption(facts: Facts) -> Finding:
    if facts.unencrypted is not None:
        return failed_check("encryption", facts.unencrypted, meaning="no login was tried")
    if facts.host.startswith("https:"):
        return Finding("encryption", Status.OK, "https")
    if facts.insecure:
        meaning = "password and patients' data cross the network unencrypted, unless the address is this machine"
        return Finding("encryption", Status.WARNING, "plain http, with --insecure", meaning, "use https")
    return Finding("encryption", Status.OK, "plain http, which does not leave this machine")


def _certificate(facts: Facts, public: PublicFacts) -> Finding:
    if facts.insecure:
        hint = "leave out --insecure, and name the certificate authority of the site with --ca-bundle"
        return Finding("certificate", Status.WARNING, "not checked, with --insecure", "any server could answer", hint)
    if public.certificate_ends is None:
        return Finding("certificate", Status.UNKNOWN, "trusted; its expiry date is unknown")
    end = datetime.fromtimestamp(public.certificate_ends, UTC)
    left = end - datetime.fromtimestamp(facts.now, UTC)
    found = f"trusted until {end:%Y-%m-%d}"
    if left < _SOON:
        meaning = f"it expires in {left.days} days, which ends a run"
        return Finding("certificate", Status.WARNING, found, meaning, "have it renewed before a long migration")
    return Finding("certificate", Status.OK, found)


def _proxy(public: PublicFacts) -> Finding:
    found = f"through {public.proxy}" if public.proxy else "this machine uses no proxy"
    if re.fullmatch(r"[\w./() -]{1,60}", public.server, re.ASCII):
        found += f"; {public.server} answers"
    return Finding("proxy", Status.OK, found, "its limits apply too" if public.proxy else "")


def _version(version: str) -> Finding:
    number = version_number(version)
    if number is None:
        return Finding("version", Status.UNKNOWN, "XNAT does not show its version")
    if number < (1, 7):
        meaning = "it does not show its filters and scripts, and merges into a session only with --overwrite append"
        hint = "try a small part first, or have XNAT upgraded"
        return Finding("version", Status.WARNING, f"XNAT {version}", meaning, hint)
    return Finding("version", Status.OK, f"XNAT {version}")


def _compression(version: str, rate: float) -> Finding:
    """Say what `--compress` does with this server, and how fast this machine is at it."""
    number = version_number(version)
    if number is None:
        return Finding("compression", Status.UNKNOWN, "without XNAT's version, images go as they are")
    if number < FIRST_WITH_ZIPS:
        return Finding("compression", Status.OK, "images go as they are, because zips need XNAT 1.8")
    found = f"this version takes images as zips; {NAME} deflates {rate / 1e6:,.0f} MB/s on one core of this machine"
    meaning = "`--compress auto` makes zips of uncompressed images while the link is the limit"
    hint = "pip install 'asyncimport[compress]' for a library that is several times as fast" if NAME == "zlib" else ""
    return Finding("compression", Status.OK, found, meaning, hint)


def _clock(ahead: float) -> Finding:
    if abs(ahead) <= _SKEW:
        return Finding("clock", Status.OK, "the server's clock agrees with this machine's")
    found = f"the server's clock is {abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    meaning = "times of receipts and of XNAT's logs will differ"
    return Finding("clock", Status.WARNING, found, meaning, "set both clocks by NTP")


def _round_trip(seconds: float) -> Finding:
    found = f"a round trip takes {seconds * 1000:,.{0 if seconds > 0.01 else 1}f} ms"
    wanted = ceil(seconds * _FILES_A_SECOND)
    if wanted <= AUTO_CEILING:
        meaning = f"--workers auto finds the number of uploads in flight ({AUTO_CEILING} at most)"
        return Finding("round-trip", Status.OK, found, meaning)
    meaning = f"{AUTO_CEILING} uploads in flight send {AUTO_CEILING / seconds:,.0f} small files a second at most"
    return Finding("round-trip", Status.WARNING, found, meaning, "run nearer to the server")


def _body(fact: Fact[BodyLimit]) -> Finding:
    if isinstance(fact, Unknown):
        return unknown_check("body-size", "the largest file that gets through", fact)
    if not fact.refused:
        return Finding("body-size", Status.OK, f"files of {fact.passed} get through")
    answer = "413" if fact.status else "the connection is closed"
    between = f"between {fact.passed} and {fact.refused}" if fact.passed else f"below {fact.refused}"
    found = f"the largest file that gets through is {between} ({answer})"
    hint = "raise its limit: client_max_body_size of nginx, LimitRequestBody of Apache"
    return Finding("body-size", Status.WARNING, found, "a proxy in front of XNAT will refuse larger files", hint)


def check_login(facts: Facts) -> Iterator[Finding]:
    """Check whether XNAT accepts the login, how many are open, and how long one lasts."""
    public = facts.public
    if facts.no_login is not None:
        if public is not None and public.sign_on and not isinstance(facts.no_login, LoginRefusedError):
            meaning = f"a login is led to {public.sign_on}: single sign-on, perhaps"
            hint = "ask for an address for programs that accepts user and password, or a token"
            yield failed_check("login", facts.no_login, meaning=meaning, hint=hint)
        else:
            yield failed_check("login", facts.no_login)
    if facts.authenticated is None:
        return
    yield Finding("login", Status.OK, "XNAT accepts the login")
    yield _logins(facts.authenticated)
    idle = public.idle_seconds if public is not None else None
    if idle is None:
        yield Finding("idle-timeout", Status.UNKNOWN, "when XNAT ends an idle login: not known")
    elif 0 < idle < _SHORT_IDLE:
        meaning = "a login may end during a run or a long upload; it is then renewed"
        hint = "have the site's session timeout set to 15 minutes, XNAT's default"
        yield Finding("idle-timeout", Status.WARNING, f"XNAT ends a login after {idle:,.0f} s", meaning, hint)
    else:
        found = f"XNAT ends a login after {idle / 60:,.0f} idle minutes" if idle > 0 else "XNAT never ends a login"
        yield Finding("idle-timeout", Status.OK, found)


def _logins(authenticated: AuthenticatedFacts) -> Finding:
    if isinstance(authenticated.logins, Unknown):
        return unknown_check("logins", "how many logins this user has open", authenticated.logins)
    fact = number_in(authenticated.max_logins)
    most = _MOST_LOGINS if fact is None else fact
    limit = f"{most:,}{' (the default)' if fact is None else ''}"
    found = f"this user has {authenticated.logins:,} of at most {limit} logins open, including this one"
    if authenticated.logins * 2 <= most:
        return Finding("logins", Status.OK, found, "a run needs one")
    meaning = "beyond the limit, XNAT refuses a login as if the password were wrong"
    hint = "end other programs of this user, or have concurrentMaxSessions raised"
    return Finding("logins", Status.WARNING, found, meaning, hint)
