"""Reports about the files and sessions of a journal."""

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from asyncimport.journal.rows import Remaining
from asyncimport.model import NOTHING_STORED, Files, Problem, Session, SessionReport
from asyncimport.model.addresses import with_archived_subject

# The rate counts intervals of this length in which a file was stored, so it leaves out long outages. Below the minimum
# it is unknown.
_INTERVAL_SECONDS = 300
_MIN_SECONDS = 10.0
_COUNTED_AS = {
    "pending": "left",
    "excluded": "skipped",
    **dict.fromkeys(("container", "link", "inner_link"), "not_dicom"),
}


def count_files(
    database: sqlite3.Connection, files: str, run: int | None
) -> tuple[Files, int, int, dict[int, tuple[int, int]]]:
    """Count `files` (a FROM clause) by what became of them, the bytes found and stored, and both of each session.

    With a `run`, outcomes of earlier runs are counted apart, as "already".
    """
    counts = dict.fromkeys(Files.__dataclass_fields__, 0)
    found = stored = 0
    sessions: dict[int, tuple[int, int]] = {}
    # A file that an earlier run sent and XNAT refused, but no rule of the site drops, does not count as "already".
    rows = database.execute(
        "SELECT f.kind, i.state, coalesce(i.run, 0) < ? AND (i.state = 'STORED' OR i.refusal IS 'DROPPED'), "  # noqa: S608 - fixed text
        f"i.session, count(*), sum(f.size) FROM {files} "
        "LEFT JOIN instance i ON i.key = f.instance AND f.kind IN ('INSTANCE', 'SKIPPED') GROUP BY 4, 1, 2, 3",
        (run,),
    )
    for kind, state, earlier, session, count, size in rows:
        if kind == "ATTACHMENT":
            continue
        if session is not None:
            number, total = sessions.get(session, (0, 0))
            sessions[session] = number + count, total + size
        name = (state if kind == "INSTANCE" else kind).lower()
        name = _COUNTED_AS.get(name, name)
        if earlier and run is not None and name in {"stored", "refused"}:
            name = f"already_{name}"
        counts[name] += count
        if kind not in {"NOT_DICOM", "CONTAINER", "LINK", "INNER_LINK", "UNREADABLE"}:
            found += size
        if name == "stored":
            stored += size
    return Files(**counts), found, stored, sessions


def session_reports(
    database: sqlite3.Connection,
    counted: Mapping[int, tuple[int, int]],
    *,
    began_at: float | None,
    postponed: Mapping[int, str],
) -> tuple[SessionReport, ...]:
    """Report the sessions in `counted` (files and bytes of each), in the order they were found.

    The state of a session covers files outside the scope of the run too. `postponed` sessions have a reason to be left
    alone in this run. Those archived before `began_at` (seconds since 1970) are marked as earlier ones.
    """
    # A delivery without a file yet says nothing about the session.
    rows = database.execute(
        "WITH u AS (SELECT i.session, sum(i.state = 'FAILED') AS failed, "
        "sum(i.state = 'REFUSED' AND i.refusal IS NOT 'DROPPED') AS refused, "
        "sum(i.state = 'PENDING') AS pending, sum(i.state = 'STORED') AS stored, "
        "sum(i.state = 'STORED' AND i.presumed IS NOT NULL) AS presumed FROM instance i "
        "WHERE i.session IN (SELECT value FROM json_each(?)) GROUP BY i.session) "
        "SELECT s.key, s.project, s.subject, s.label, s.study_uid, u.failed, u.refused, (SELECT count(*) "
        "FROM file l WHERE l.missing_from = s.key AND l.kind = 'UNREADABLE' AND NOT EXISTS (SELECT 1 FROM instance i "
        "WHERE i.session = s.key AND i.sop_uid = l.missing_uid)), (SELECT count(*) FROM file l "
        "WHERE l.missing_from = s.key AND l.kind = 'EXCLUDED' AND NOT EXISTS (SELECT 1 FROM instance i "
        "WHERE i.session = s.key AND i.sop_uid = l.missing_uid)), u.pending, u.stored, "
        "(SELECT min(l.reason) FROM file l WHERE l.missing_from = s.key AND l.kind = 'SKIPPED'), "
        "d.state, d.partial, coalesce(d.archive_uri, d.uri), d.verified, d.reason, "
        "u.presumed, d.expected, d.closed_at "
        "FROM u CROSS JOIN session s ON s.key = u.session "
        "LEFT JOIN delivery d ON d.session = s.key AND d.number = (SELECT max(number) FROM delivery "
        "WHERE session = s.key AND (state <> 'OPEN' OR uri IS NOT NULL OR reason IS NOT NULL)) ORDER BY s.key",
        (json.dumps(list(counted)),),
    )
    reports = []
    for key, *names, presumed, expected, as_of in rows:
        report = _report(Session(*names[:4]), *counted[key], *names[4:])
        if key in postponed and report.state == "open":
            report = replace(report, reason=postponed[key])
        report = replace(report, presumed=presumed, expected=expected)
        if as_of is not None and report.state in {"archived", "prearchive"}:
            earlier = began_at is not None and as_of < began_at
            report = replace(report, as_of=as_of, earlier=earlier)
        reports.append(report)
    return tuple(reports)


def file_problems(database: sqlite3.Connection, files: str) -> list[Problem]:
    """Return why `files` (a FROM clause) were not sent or not stored."""
    rows = database.execute(
        f"SELECT f.kind, f.reason, count(*), min(f.path) FROM {files} "  # noqa: S608 - fixed text
        "WHERE f.kind IN ('SKIPPED', 'EXCLUDED', 'UNREADABLE', 'CONTAINER', 'LINK', 'INNER_LINK') GROUP BY 1, 2 "
        f"UNION ALL SELECT i.state, i.reason, count(*), min(f.path) FROM {files} JOIN instance i ON i.key = f.instance "
        "AND f.kind = 'INSTANCE' WHERE i.state IN ('REFUSED', 'FAILED') GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return [Problem(kind.lower(), reason or "", count, os.fsdecode(path)) for kind, reason, count, path in rows]


def _report(
    session: Session,
    files: int,
    size: int,
    failed: int,
    refused: int,
    unreadable: int,
    unasked: int,
    pending: int,
    stored: int,
    disputed: str | None,
    state: str | None,
    partial: int | None,
    uri: str | None,
    verified: str | None,
    reason: str | None,
) -> SessionReport:
    session = with_archived_subject(session, uri)
    missing = _missing_text(failed, refused, unreadable)
    disputes = disputed is not None and state not in {"ARCHIVED", "SEALED"}
    if state in {"ARCHIVED", "BUILT"} and not pending and not disputes and (not missing or partial):
        found = "archived" if state == "ARCHIVED" else "prearchive"
        unasked_for = _unasked(unasked) if unasked else None
        return SessionReport(session, files, size, found, uri, verified, missing or unasked_for or reason)
    # The reason of an open delivery is why the last run did not continue it.
    if state == "HELD" or (state == "OPEN" and reason):
        return SessionReport(session, files, size, "held", uri, None, reason)
    if disputes:
        return SessionReport(session, files, size, "held", uri, None, f"no part of it is sent: {disputed}")
    if failed or (missing and not pending and state != "SEALED"):
        return SessionReport(session, files, size, "held", uri, None, missing)
    if unasked and not pending and state != "SEALED":
        reason = f"{_unasked(unasked)}: it is archived when it has all files, or with --partial archive"
        return SessionReport(session, files, size, "open", uri, None, reason)
    if not pending and not stored:
        return SessionReport(session, files, size, "held", uri, None, NOTHING_STORED)
    return SessionReport(session, files, size, "open", uri, None, reason if pending or state == "SEALED" else None)


def _unasked(files: int) -> str:
    return "1 file of it was not asked for" if files == 1 else f"{files:,} files of it were not asked for"


def _missing_text(failed: int, refused: int, unreadable: int) -> str | None:
    """Return what a session misses, or None."""
    counts = {
        "could not be sent": failed,
        "was refused" if refused == 1 else "were refused": refused,
        "cannot be read": unreadable,
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(said).replace(" ", " of its files ", 1) if said else None


def remaining(database: sqlite3.Connection, scope: str) -> Remaining:
    """Return what is left to send of `scope` (a FROM clause), and how long that takes by files or by bytes."""
    ((files, size),) = database.execute(
        f"SELECT count(*), coalesce(sum(f.size), 0) FROM {scope} "  # noqa: S608 - fixed text
        "JOIN instance i ON i.key = f.instance AND f.kind = 'INSTANCE' WHERE i.state = 'PENDING'"
    )
    ((sent, sent_size, span, intervals),) = database.execute(
        "SELECT count(*), sum(f.size), max(i.settled_at) - min(i.settled_at), "
        "count(DISTINCT CAST(i.settled_at / ? AS INTEGER)) FROM instance i JOIN file f ON f.key = i.file "
        "WHERE i.state = 'STORED' AND i.run = (SELECT max(run) FROM instance WHERE state = 'STORED')",
        (_INTERVAL_SECONDS,),
    )
    took = min(span or 0.0, float(intervals * _INTERVAL_SECONDS))
    if took < _MIN_SECONDS:
        return Remaining(files, size, None)
    return Remaining(files, size, took * max(files / sent, size / max(sent_size, 1)))
