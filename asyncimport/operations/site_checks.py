"""Checks of a site and of its projects. Pure."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from asyncimport.operations.server_checks import Facts, Finding, Status, failed_check, number_in, unknown_check
from asyncimport.xnat.inspection import Fact, ProjectFacts, Unknown
from asyncimport.xnat.replies.identity import is_our_source
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.replies.site import Script, SeriesFilter

_HELD = 9
_DEFAULT_FILE_NAMES = "${StudyInstanceUID}-${SeriesNumber}-${InstanceNumber}-${HashSOPClassUIDWithSOPInstanceUID}"
_SHORT_ARCHIVING = 60
# The server's time zone is unknown, so a day more or less proves nothing.
_STALE = timedelta(days=2)
_MANY_ROWS = 1_000
# No index helps to find a row; databases read about a million in a second.
_SECONDS_PER_ROW = 1e-6


def check_site(facts: Facts) -> Iterator[Finding]:
    """Check filter, script, file names, idle builder, archive timeout and prearchive of the site."""
    authenticated = facts.authenticated
    if authenticated is None:
        return
    yield _filter(authenticated.series_filter)
    yield _script(authenticated.script)
    yield _file_names(authenticated.file_names)
    yield _idle_builder(authenticated.idle_builder)
    yield _archive_timeout(authenticated.archive_timeout)
    yield _prearchive(facts, authenticated.rows)


def _filter(fact: Fact[SeriesFilter], about: str = "") -> Finding:
    if isinstance(fact, Unknown):
        return unknown_check("series-filter", "whether a series import filter drops files", fact, about)
    if not fact.enabled:
        return Finding("series-filter", Status.OK, "no series import filter is enabled", about=about)
    patterns = f"{len(fact.patterns)} pattern{'' if len(fact.patterns) == 1 else 's'}"
    drops = {
        "blacklist": f"drops each series whose description matches one of {patterns}",
        "whitelist": f"drops each series whose description matches none of {patterns}",
    }.get(fact.mode, f"is enabled, with {patterns}")
    meaning = "XNAT accepts these files and drops them; a summary counts them as refused"
    hint = "have it switched off for the migration, or expect refused files"
    return Finding("series-filter", Status.WARNING, f"a series import filter {drops}", meaning, hint, about)


def _script(fact: Fact[Script | None], about: str = "") -> Finding:
    if isinstance(fact, Unknown):
        return unknown_check("anonymisation", "what an anonymisation script does", fact, about)
    if fact is None:
        return Finding("anonymisation", Status.OK, "no anonymisation script is enabled", about=about)
    does = {"rewrites attributes": fact.rewrites, "rejects files": fact.rejects, "maps UIDs": fact.maps_uids}
    found = f"a script {', '.join(what for what, it_does in does.items() if it_does) or 'changes nothing'}"
    meanings = []
    if fact.rejects:
        meanings.append("XNAT drops the files that it rejects")
    if fact.maps_uids:
        meanings.append("instances get other UIDs, so only their number can be compared (`count`)")
    if meanings:
        hint = "read the script; have it switched off for the migration, or expect this"
        return Finding("anonymisation", Status.WARNING, found, "; ".join(meanings), hint, about)
    meaning = (
        "stored files differ from those that were sent; instances are compared by their UIDs" if fact.rewrites else ""
    )
    return Finding("anonymisation", Status.OK, found, meaning, about=about)


def _file_names(fact: Fact[str]) -> Finding:
    if isinstance(fact, Unknown):
        return unknown_check("file-names", "how XNAT names files", fact)
    if fact == _DEFAULT_FILE_NAMES:
        return Finding("file-names", Status.OK, "XNAT names files by its default template")
    variables = re.findall(r"\$\{(\w+)\}", fact)
    if any("SOPInstanceUID" in name for name in variables):
        return Finding("file-names", Status.OK, "the template of file names is not the default, but has the UID")
    hint = "have dicomFileNameTemplate end in ${HashSOPClassUIDWithSOPInstanceUID}, as by default"
    if "InstanceNumber" in variables:
        meaning = "of two files of a series with the same instance number, the later overwrites the earlier"
        return Finding("file-names", Status.WARNING, "the template of file names has no UID", meaning, hint)
    found = "the template of file names has neither UID nor instance number"
    meaning = "the files of a series overwrite each other"
    return Finding("file-names", Status.ERROR, found, meaning, hint, exit_code=_HELD)


def _idle_builder(fact: Fact[str]) -> Finding:
    minutes = number_in(fact)
    if minutes is None:
        unknown = fact if isinstance(fact, Unknown) else Unknown("XNAT's answer is not a number")
        return unknown_check("idle-builder", "when XNAT builds an idle session", unknown)
    found = f"XNAT builds a session that has been idle for {minutes} min"
    if minutes < 1:
        meaning = "sessions of other senders are built before they are complete"
        hint = "have sessionXmlRebuilderInterval set to 5, XNAT's default"
        return Finding("idle-builder", Status.WARNING, found, meaning, hint)
    return Finding("idle-builder", Status.OK, found, "it does not affect the sessions of asyncimport")


def _archive_timeout(fact: Fact[str]) -> Finding:
    seconds = number_in(fact)
    if seconds is None:
        unknown = fact if isinstance(fact, Unknown) else Unknown("XNAT's answer is not a number")
        return unknown_check("archive-timeout", "how long XNAT waits until a session is archived", unknown)
    found = f"XNAT waits {seconds:,} s until a session is archived"
    if seconds < _SHORT_ARCHIVING:
        meaning = "it reports failure after that, although it goes on; checking each such session takes time"
        hint = "have sessionArchiveTimeoutInterval set to 600, XNAT's default"
        return Finding("archive-timeout", Status.WARNING, found, meaning, hint)
    return Finding("archive-timeout", Status.OK, found)


def _prearchive(facts: Facts, fact: Fact[list[Row]]) -> Finding:
    """Count the rows of the given projects, or else of all that this user may edit."""
    if isinstance(fact, Unknown):
        return unknown_check("prearchive", "what is in the prearchive", fact)
    named = {project.id for project in facts.projects}
    rows = [row for row in fact if (row.project in named if named else row.project not in {"", "Unassigned"})]
    stuck = sum(row.is_stuck for row in rows)
    stale = sum(row.status.startswith("RECEIVING") and _is_stale(row.uploaded, facts.now) for row in rows)
    others = sum(
        (row.source is not None and not is_our_source(row.source)) or row.prevents_auto_commit is False for row in rows
    )
    if not stuck and not stale:
        if len(fact) >= _MANY_ROWS:
            found = f"{len(fact):,} sessions in the prearchive, of all projects that this user sees"
            meaning = _cost(fact)
            hint = "archive or remove what is old in XNAT's prearchive: uploads of all users become faster"
            return Finding("prearchive", Status.WARNING, found, meaning, hint)
        found = f"{len(rows):,} sessions in the prearchive, none of them stuck"
        if not others:
            return Finding("prearchive", Status.OK, found)
        meaning = "an upload sends nothing into these, and holds its sessions of the same studies"
        return Finding("prearchive", Status.OK, f"{found}, {others:,} of them begun by other tools", meaning)
    found = f"of {len(rows):,} sessions in the prearchive {stuck:,} are in conflict or error, {stale:,} began days ago"
    meaning = "files of the same studies may go into them, or make second sessions"
    if len(fact) >= _MANY_ROWS:
        meaning = f"{meaning}; {_cost(fact)}"
    hint = "remove them in XNAT's prearchive; `asyncimport verify --orphans` finds those of an upload"
    return Finding("prearchive", Status.WARNING, found, meaning, hint)


def _cost(rows: list[Row]) -> str:
    """Say what rows of the prearchive cost each file (PrearcDatabase.eitherGetOrCreateSession)."""
    cost = len(rows) * _SECONDS_PER_ROW * 1000
    return (
        f"for each file that XNAT takes, one after another, it reads all {len(rows):,} rows of the prearchive: "
        f"by an estimate {cost:.0f} ms a file"
    )


def _is_stale(uploaded: str, now: float) -> bool:
    try:
        began = datetime.fromisoformat(uploaded.partition(".")[0])
    except ValueError:
        return False
    return datetime.fromtimestamp(now) - began > _STALE  # noqa: DTZ006 - XNAT's time has no zone either


def check_projects(facts: Facts) -> Iterator[Finding]:
    """Check whether each project exists and is open, and its settings."""
    for project in facts.projects:
        yield from _project(project)


def _project(project: ProjectFacts) -> Iterator[Finding]:
    about = project.name
    if project.failure is not None:
        meaning = "files would arrive, but build and archive would be refused" if project.is_readable else ""
        yield failed_check("project", project.failure, meaning=meaning, about=about)
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


def _creation(fact: Fact[bool], about: str) -> Finding:
    if isinstance(fact, Unknown):
        return unknown_check("creation", "whether this user may make new sessions", fact, about)
    if fact:
        return Finding("creation", Status.OK, "this user may make new sessions", about=about)
    meaning = "XNAT would accept the files, but not archive them"
    hint = "ask the project's owner to make the user a member"
    return Finding("creation", Status.ERROR, "this user may not make new sessions", meaning, hint, about, _HELD)


def _prearchive_code(fact: Fact[str], about: str) -> Finding:
    if isinstance(fact, Unknown):
        return unknown_check("prearchive-code", "whether XNAT archives by itself", fact, about)
    match fact:
        case "0":
            meaning = "an upload archives them in a separate step"
            return Finding("prearchive-code", Status.OK, "0: sessions wait to be archived", meaning, about=about)
        case "4":
            meaning = "an upload still archives them in a separate step, and leaves them with --no-archive"
            return Finding("prearchive-code", Status.OK, "4: XNAT archives by itself", meaning, about=about)
        case "5":
            found = "5: XNAT archives by itself, and overwrites"
            meaning = "files in the archive are replaced without a question"
            hint = "have the project's prearchive setting changed to 0 or 4, unless that is wanted"
            return Finding("prearchive-code", Status.WARNING, found, meaning, hint, about)
        case _:
            found = f"{fact}: a code without a meaning in XNAT" if number_in(fact) is not None else "it is not a number"
            hint = "have the project's prearchive setting changed to 0 or 4"
            return Finding("prearchive-code", Status.WARNING, found, "its effect is unknown", hint, about)


def _automation(project: ProjectFacts) -> Finding:
    fact = {"pipelines": project.pipelines, "subscriptions of the event service": project.subscriptions}
    counts = {what: count for what, count in fact.items() if not isinstance(count, Unknown)}
    if any(counts.values()):
        found = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        meaning = "those that start by themselves start for every archived session"
        hint = "switch them off for the migration, unless that is wanted"
        return Finding("automation", Status.WARNING, found, meaning, hint, project.name)
    for unknown in fact.values():
        if isinstance(unknown, Unknown):
            return unknown_check("automation", "what starts when a session is archived", unknown, project.name)
    return Finding("automation", Status.OK, "no pipelines and no subscriptions are set up", about=project.name)
