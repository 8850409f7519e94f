"""Judge what was found out about a server: what it means for a migration, and what to change. Pure: facts in.

Only what would end an upload, or spoil it, is an error; its exit code is the one that `upload` would end with. What
this user may not ask is unknown, which is no error.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import ceil

from asyncimport.errors import FatalError, LoginRefusedError, UsageError
from asyncimport.model.options import AUTO_CEILING
from asyncimport.xnat.inspection import BodyLimit, Inside, Outside, ProjectFacts, Script, Told, Untold
from asyncimport.xnat.replies import Row, SeriesFilter, is_of_upload

__all__ = ["Facts", "Finding", "Status", "exit_code", "judge"]

# As upload stumbles: over the command, the network, the login, the project; 9 is a session that is held in the end.
_STUMBLES = (2, 4, 3, 5, 6, 9)
_HELD = 9
_DEFAULT_FILE_NAMES = "${StudyInstanceUID}-${SeriesNumber}-${InstanceNumber}-${HashSOPClassUIDWithSOPInstanceUID}"
# XNAT's own default of concurrentMaxSessions (SiteConfigPreferences).
_MOST_LOGINS = 1000
_SKEW = 60.0
_SHORT_IDLE = 300.0
_SHORT_ARCHIVING = 60
_SOON = timedelta(days=30)
# The server's local time may be anywhere on earth, so that a day more or less proves nothing.
_STALE = timedelta(days=2)
# What one XNAT takes in a second at best: each file passes one lock and one SELECT (PrearcDatabase).
_FILES_A_SECOND = 100


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, what it means, and what to change; `about` is a project, or "" for the whole site."""

    code: str
    status: Status
    found: str
    meaning: str = ""
    hint: str = ""
    about: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was found out; what was not tried is None."""

    host: str
    now: float
    bad_address: UsageError | None = None
    unencrypted: UsageError | None = None
    insecure: bool = False
    outside: Outside | None = None
    no_login: FatalError | None = None
    inside: Inside | None = None
    projects: Sequence[ProjectFacts] = ()


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0, or the code of the first error that `upload` would meet."""
    codes = {finding.exit_code for finding in findings if finding.status is Status.ERROR}
    return next((code for code in _STUMBLES if code in codes), max(codes, default=0))


def judge(facts: Facts) -> list[Finding]:
    """Judge everything there is to judge, in the order in which an upload would meet it."""
    return [*_way(facts), *_login(facts), *_site(facts), *_projects(facts)]


def _failed(code: str, error: FatalError, *, meaning: str = "", hint: str = "", about: str = "") -> Finding:
    return Finding(code, Status.ERROR, str(error), meaning, hint or error.hint, about, error.exit_code)


def _unknown(code: str, what: str, untold: Untold, about: str = "") -> Finding:
    return Finding(code, Status.UNKNOWN, f"{what}: not known", untold.reason, about=about)


# --- the way to the server


def _way(facts: Facts) -> Iterator[Finding]:
    if facts.bad_address is not None:
        yield _failed("address", facts.bad_address)
    outside = facts.outside
    if outside is None:
        return
    if outside.failure is None or outside.stage == "address":
        yield _address(facts.host, outside)
    yield _encryption(facts)
    if outside.stage == "certificate" and outside.failure is not None:
        yield _failed("certificate", outside.failure, meaning="no login is sent to a server that may be another's")
    elif facts.host.startswith("https:") and outside.failure is None:
        yield _certificate(facts, outside)
    if outside.stage == "proxy" and outside.failure is not None:
        yield _failed("proxy", outside.failure)
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


def _address(host: str, outside: Outside) -> Finding:
    def wrong(found: str, meaning: str, hint: str) -> Finding:
        return Finding("address", Status.ERROR, found, meaning, hint, exit_code=4)

    no_xnat = "what answers there is not an XNAT"
    if outside.failure is not None:
        return _failed("address", outside.failure)
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
        return _failed("encryption", facts.unencrypted, meaning="no login was tried")
    if facts.host.startswith("https:"):
        return Finding("encryption", Status.OK, "https")
    if facts.insecure:
        meaning = "password and patients cross the network in the clear, unless the address is this machine's"
        return Finding("encryption", Status.WARNING, "plain http, with --insecure", meaning, "use https")
    return Finding("encryption", Status.OK, "plain http, which does not leave this machine")


def _certificate(facts: Facts, outside: Outside) -> Finding:
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


def _proxy(outside: Outside) -> Finding:
    found = f"through {outside.proxy}" if outside.proxy else "no proxy of this machine's is in use"
    if re.fullmatch(r"[\w./() -]{1,60}", outside.server, re.ASCII):
        found += f"; {outside.server} answers"
    return Finding("proxy", Status.OK, found, "its limits count too" if outside.proxy else "")


def _version(facts: Facts, outside: Outside) -> Finding:
    version = outside.version
    if not version and facts.inside is not None and not isinstance(facts.inside.version, Untold):
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


def _body(told: Told[BodyLimit]) -> Finding:
    if isinstance(told, Untold):
        return _unknown("body-size", "the largest file that gets through", told)
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


def _login(facts: Facts) -> Iterator[Finding]:
    outside = facts.outside
    if facts.no_login is not None:
        if outside is not None and outside.sign_on and not isinstance(facts.no_login, LoginRefusedError):
            yield _failed(
                "login",
                facts.no_login,
                meaning=f"a login is led to {outside.sign_on}: single sign-on, it may be",
                hint="ask for an address for programs, which takes user and password, or a token",
            )
        else:
            yield _failed("login", facts.no_login)
    if facts.inside is None:
        return
    yield Finding("login", Status.OK, "XNAT takes the login, and not for a guest's")
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


def _logins(inside: Inside) -> Finding:
    if isinstance(inside.logins, Untold):
        return _unknown("logins", "how many logins this user has open", inside.logins)
    told = _number(inside.most_logins)
    most = _MOST_LOGINS if told is None else told
    limit = f"{most:,}{' (the default)' if told is None else ''}"
    found = f"this user has {inside.logins:,} of at most {limit} logins open, this one among them"
    if inside.logins * 2 <= most:
        return Finding("logins", Status.OK, found, "a run needs one")
    meaning = "beyond the limit XNAT refuses a login as if the password were wrong"
    hint = "end what else logs in as this user, or have concurrentMaxSessions raised"
    return Finding("logins", Status.WARNING, found, meaning, hint)


def _number(told: Told[str]) -> int | None:
    if isinstance(told, Untold) or not re.fullmatch(r"-?\d{1,9}", told):
        return None
    return int(told)


# --- the site


def _site(facts: Facts) -> Iterator[Finding]:
    inside = facts.inside
    if inside is None:
        return
    yield _filter(inside.series_filter)
    yield _script(inside.script)
    yield _file_names(inside.file_names)
    yield _idle_builder(inside.idle_builder)
    yield _archive_timeout(inside.archive_timeout)
    yield _prearchive(facts, inside.rows)


def _filter(told: Told[SeriesFilter], about: str = "") -> Finding:
    if isinstance(told, Untold):
        return _unknown("series-filter", "whether a series import filter drops files", told, about)
    if not told.enabled:
        return Finding("series-filter", Status.OK, "no series import filter is in force", about=about)
    patterns = f"{told.patterns} pattern{'' if told.patterns == 1 else 's'}"
    drops = {
        "blacklist": f"drops each series whose description matches one of {patterns}",
        "whitelist": f"drops each series whose description matches none of {patterns}",
    }.get(told.mode, f"is in force, with {patterns}")
    return Finding(
        "series-filter",
        Status.WARNING,
        f"a series import filter {drops}",
        "XNAT takes such files and keeps nothing of them; a summary calls them refused",
        "have it switched off for the migration, or expect it",
        about,
    )


def _script(told: Told[Script | None], about: str = "") -> Finding:
    if isinstance(told, Untold):
        return _unknown("anonymisation", "what an anonymisation script does", told, about)
    if told is None:
        return Finding("anonymisation", Status.OK, "no anonymisation script is in force", about=about)
    does = {"rewrites attributes": told.rewrites, "rejects files": told.rejects, "maps UIDs": told.maps_uids}
    found = f"a script {', '.join(what for what, it_does in does.items() if it_does) or 'changes nothing'}"
    meanings = []
    if told.rejects:
        meanings.append("what it rejects is kept nowhere")
    if told.maps_uids:
        meanings.append("instances come out under other UIDs, so that only their number can be compared (`count`)")
    if meanings:
        hint = "read the script; have it switched off for the migration, or expect it"
        return Finding("anonymisation", Status.WARNING, found, "; ".join(meanings), hint, about)
    meaning = "stored files differ from what was sent; instances are compared by their UIDs" if told.rewrites else ""
    return Finding("anonymisation", Status.OK, found, meaning, about=about)


def _file_names(told: Told[str]) -> Finding:
    if isinstance(told, Untold):
        return _unknown("file-names", "how XNAT names files", told)
    if told == _DEFAULT_FILE_NAMES:
        return Finding("file-names", Status.OK, "XNAT names files by its default template")
    variables = re.findall(r"\$\{(\w+)\}", told)
    if any("SOPInstanceUID" in name for name in variables):
        return Finding("file-names", Status.OK, "the template of file names is not the default, and holds the UID")
    hint = "have dicomFileNameTemplate end in ${HashSOPClassUIDWithSOPInstanceUID}, as by default"
    if "InstanceNumber" in variables:
        meaning = "of two files of a series with one instance number, the later overwrites the earlier"
        return Finding("file-names", Status.WARNING, "the template of file names holds no UID", meaning, hint)
    found = "the template of file names holds neither UID nor instance number"
    meaning = "the files of a series overwrite each other"
    return Finding("file-names", Status.ERROR, found, meaning, hint, exit_code=_HELD)


def _idle_builder(told: Told[str]) -> Finding:
    minutes = _number(told)
    if minutes is None:
        untold = told if isinstance(told, Untold) else Untold("XNAT's answer is not a number")
        return _unknown("idle-builder", "when XNAT builds what nobody sends to any more", untold)
    found = f"XNAT builds a session that nobody has sent to for {minutes} min"
    if minutes < 1:
        hint = "have sessionXmlRebuilderInterval set to 5, XNAT's default"
        return Finding("idle-builder", Status.WARNING, found, "other senders' sessions are built half-way", hint)
    return Finding("idle-builder", Status.OK, found, "it leaves alone what asyncimport sends")


def _archive_timeout(told: Told[str]) -> Finding:
    seconds = _number(told)
    if seconds is None:
        untold = told if isinstance(told, Untold) else Untold("XNAT's answer is not a number")
        return _unknown("archive-timeout", "how long XNAT waits for an archiving", untold)
    found = f"XNAT waits {seconds:,} s for an archiving"
    if seconds < _SHORT_ARCHIVING:
        meaning = "it calls longer ones failed while they go on; each is then looked after, which takes time"
        hint = "have sessionArchiveTimeoutInterval set to 600, XNAT's default"
        return Finding("archive-timeout", Status.WARNING, found, meaning, hint)
    return Finding("archive-timeout", Status.OK, found)


def _prearchive(facts: Facts, told: Told[list[Row]]) -> Finding:
    """Count the rows of the projects that were asked for, else of all that this user may edit; name none of them."""
    if isinstance(told, Untold):
        return _unknown("prearchive", "what stands in the prearchive", told)
    named = {project.id for project in facts.projects}
    rows = [row for row in told if (row.project in named if named else row.project not in {"", "Unassigned"})]
    stuck = sum(row.is_stuck for row in rows)
    stale = sum(row.status.startswith("RECEIVING") and _is_stale(row.uploaded, facts.now) for row in rows)
    others = sum(
        (row.source is not None and not is_of_upload(row.source)) or row.prevents_auto_commit is False for row in rows
    )
    if not stuck and not stale:
        found = f"{len(rows):,} sessions in the prearchive, none of them stuck"
        if not others:
            return Finding("prearchive", Status.OK, found)
        meaning = "an upload sends nothing into those, and holds its sessions of the same studies"
        return Finding("prearchive", Status.OK, f"{found}, {others:,} of them begun by other tools", meaning)
    return Finding(
        "prearchive",
        Status.WARNING,
        f"of {len(rows):,} sessions in the prearchive {stuck:,} are in conflict or error, {stale:,} begun days ago",
        "files of the same studies may join them, or make second sessions",
        "clear them away in XNAT's prearchive; `asyncimport verify --strays` finds those of an upload",
    )


def _is_stale(uploaded: str, now: float) -> bool:
    try:
        began = datetime.fromisoformat(uploaded.partition(".")[0])
    except ValueError:
        return False
    return datetime.fromtimestamp(now) - began > _STALE  # noqa: DTZ006 - XNAT's have no zone either


# --- the projects


def _projects(facts: Facts) -> Iterator[Finding]:
    for project in facts.projects:
        yield from _project(project)


def _project(project: ProjectFacts) -> Iterator[Finding]:
    about = project.name
    if project.failure is not None:
        meaning = "files would arrive, and build and archive be refused" if project.is_readable else ""
        yield _failed("project", project.failure, meaning=meaning, about=about)
    else:
        yield Finding("project", Status.OK, "this user may read and edit it", about=about)
    if not project.is_readable:
        return
    if project.failure is None:
        yield _creation(project.may_create, about)
    yield _prearchive_code(project.prearchive_code, about)
    yield _filter(project.series_filter, about)
    yield _script(project.script, about)
    yield _automation(project)


def _creation(told: Told[bool], about: str) -> Finding:
    if isinstance(told, Untold):
        return _unknown("creation", "whether this user may make new sessions", told, about)
    if told:
        return Finding("creation", Status.OK, "this user may make new sessions", about=about)
    meaning = "XNAT would take the files, and not archive them"
    hint = "ask the project's owner to make the user a member"
    return Finding("creation", Status.ERROR, "this user may not make new sessions", meaning, hint, about, _HELD)


def _prearchive_code(told: Told[str], about: str) -> Finding:
    if isinstance(told, Untold):
        return _unknown("prearchive-code", "whether XNAT archives by itself", told, about)
    match told:
        case "0":
            meaning = "an upload archives them, in a step of its own"
            return Finding("prearchive-code", Status.OK, "0: sessions wait to be archived", meaning, about=about)
        case "4":
            meaning = "an upload archives them in a step of its own all the same, and with --no-archive leaves them"
            return Finding("prearchive-code", Status.OK, "4: XNAT archives by itself", meaning, about=about)
        case "5":
            return Finding(
                "prearchive-code",
                Status.WARNING,
                "5: XNAT archives by itself, and overwrites",
                "files that are in the archive are replaced without a question",
                "have the project's prearchive setting changed to 0 or 4, unless that is wanted",
                about,
            )
        case _:
            found = f"{told}: a code that XNAT gives no meaning" if _number(told) is not None else "it is not a number"
            hint = "have the project's prearchive setting changed to 0 or 4"
            return Finding("prearchive-code", Status.WARNING, found, "what XNAT makes of it is open", hint, about)


def _automation(project: ProjectFacts) -> Finding:
    told = {"pipelines": project.pipelines, "subscriptions of the event service": project.subscriptions}
    counts = {what: count for what, count in told.items() if not isinstance(count, Untold)}
    if any(counts.values()):
        return Finding(
            "automation",
            Status.WARNING,
            ", ".join(f"{count:,} {what}" for what, count in counts.items() if count),
            "those that start by themselves start with every session that is archived",
            "switch them off for the migration, unless that is wanted",
            project.name,
        )
    for untold in told.values():
        if isinstance(untold, Untold):
            return _unknown("automation", "what starts when a session is archived", untold, project.name)
    return Finding("automation", Status.OK, "no pipelines and no subscriptions are set up", about=project.name)
