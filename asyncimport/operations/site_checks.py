"""Checks of a site and of its projects: what was found, what it means, and what to change. Pure."""

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

from asyncimport.operations.findings import Facts, Finding, Status, failed, number_in, unknown
from asyncimport.xnat.inspection import Fact, ProjectFacts, Unknown
from asyncimport.xnat.replies.identity import is_our_source
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.replies.site import Script, SeriesFilter

_HELD = 9
_DEFAULT_FILE_NAMES = "${StudyInstanceUID}-${SeriesNumber}-${InstanceNumber}-${HashSOPClassUIDWithSOPInstanceUID}"
_SHORT_ARCHIVING = 60
# The server's local time may be anywhere on earth, so that a day more or less proves nothing.
_STALE = timedelta(days=2)


# --- the site


def check_site(facts: Facts) -> Iterator[Finding]:
    """Judge filter, script, file names, idle builder, archive timeout and prearchive of the site."""
    inside = facts.inside
    if inside is None:
        return
    yield _filter(inside.series_filter)
    yield _script(inside.script)
    yield _file_names(inside.file_names)
    yield _idle_builder(inside.idle_builder)
    yield _archive_timeout(inside.archive_timeout)
    yield _prearchive(facts, inside.rows)


def _filter(told: Fact[SeriesFilter], about: str = "") -> Finding:
    if isinstance(told, Unknown):
        return unknown("series-filter", "whether a series import filter drops files", told, about)
    if not told.enabled:
        return Finding("series-filter", Status.OK, "no series import filter is in force", about=about)
    patterns = f"{len(told.patterns)} pattern{'' if len(told.patterns) == 1 else 's'}"
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


def _script(told: Fact[Script | None], about: str = "") -> Finding:
    if isinstance(told, Unknown):
        return unknown("anonymisation", "what an anonymisation script does", told, about)
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


def _file_names(told: Fact[str]) -> Finding:
    if isinstance(told, Unknown):
        return unknown("file-names", "how XNAT names files", told)
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


def _idle_builder(told: Fact[str]) -> Finding:
    minutes = number_in(told)
    if minutes is None:
        untold = told if isinstance(told, Unknown) else Unknown("XNAT's answer is not a number")
        return unknown("idle-builder", "when XNAT builds what nobody sends to any more", untold)
    found = f"XNAT builds a session that nobody has sent to for {minutes} min"
    if minutes < 1:
        hint = "have sessionXmlRebuilderInterval set to 5, XNAT's default"
        return Finding("idle-builder", Status.WARNING, found, "other senders' sessions are built half-way", hint)
    return Finding("idle-builder", Status.OK, found, "it leaves alone what asyncimport sends")


def _archive_timeout(told: Fact[str]) -> Finding:
    seconds = number_in(told)
    if seconds is None:
        untold = told if isinstance(told, Unknown) else Unknown("XNAT's answer is not a number")
        return unknown("archive-timeout", "how long XNAT waits for an archiving", untold)
    found = f"XNAT waits {seconds:,} s for an archiving"
    if seconds < _SHORT_ARCHIVING:
        meaning = "it calls longer ones failed while they go on; each is then looked after, which takes time"
        hint = "have sessionArchiveTimeoutInterval set to 600, XNAT's default"
        return Finding("archive-timeout", Status.WARNING, found, meaning, hint)
    return Finding("archive-timeout", Status.OK, found)


def _prearchive(facts: Facts, told: Fact[list[Row]]) -> Finding:
    """Count the rows of the projects that were asked for, else of all that this user may edit; name none of them."""
    if isinstance(told, Unknown):
        return unknown("prearchive", "what stands in the prearchive", told)
    named = {project.id for project in facts.projects}
    rows = [row for row in told if (row.project in named if named else row.project not in {"", "Unassigned"})]
    stuck = sum(row.is_stuck for row in rows)
    stale = sum(row.status.startswith("RECEIVING") and _is_stale(row.uploaded, facts.now) for row in rows)
    others = sum(
        (row.source is not None and not is_our_source(row.source)) or row.prevents_auto_commit is False for row in rows
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
        "clear them away in XNAT's prearchive; `asyncimport verify --orphans` finds those of an upload",
    )


def _is_stale(uploaded: str, now: float) -> bool:
    try:
        began = datetime.fromisoformat(uploaded.partition(".")[0])
    except ValueError:
        return False
    return datetime.fromtimestamp(now) - began > _STALE  # noqa: DTZ006 - XNAT's have no zone either


# --- the projects


def check_projects(facts: Facts) -> Iterator[Finding]:
    """Judge whether each project is there and open, and its own settings."""
    for project in facts.projects:
        yield from _project(project)


def _project(project: ProjectFacts) -> Iterator[Finding]:
    about = project.name
    if project.failure is not None:
        meaning = "files would arrive, and build and archive be refused" if project.is_readable else ""
        yield failed("project", project.failure, meaning=meaning, about=about)
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


def _creation(told: Fact[bool], about: str) -> Finding:
    if isinstance(told, Unknown):
        return unknown("creation", "whether this user may make new sessions", told, about)
    if told:
        return Finding("creation", Status.OK, "this user may make new sessions", about=about)
    meaning = "XNAT would take the files, and not archive them"
    hint = "ask the project's owner to make the user a member"
    return Finding("creation", Status.ERROR, "this user may not make new sessions", meaning, hint, about, _HELD)


def _prearchive_code(told: Fact[str], about: str) -> Finding:
    if isinstance(told, Unknown):
        return unknown("prearchive-code", "whether XNAT archives by itself", told, about)
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
            found = (
                f"{told}: a code that XNAT gives no meaning" if number_in(told) is not None else "it is not a number"
            )
            hint = "have the project's prearchive setting changed to 0 or 4"
            return Finding("prearchive-code", Status.WARNING, found, "what XNAT makes of it is open", hint, about)


def _automation(project: ProjectFacts) -> Finding:
    told = {"pipelines": project.pipelines, "subscriptions of the event service": project.subscriptions}
    counts = {what: count for what, count in told.items() if not isinstance(count, Unknown)}
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
        if isinstance(untold, Unknown):
            return unknown("automation", "what starts when a session is archived", untold, project.name)
    return Finding("automation", Status.OK, "no pipelines and no subscriptions are set up", about=project.name)
