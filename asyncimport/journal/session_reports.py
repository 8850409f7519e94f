"""Reports about the sessions of a journal: what became of each, and why."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from asyncimport.model.addresses import with_archived_subject
from asyncimport.model.files import Session
from asyncimport.model.record import record
from asyncimport.model.summary import NOTHING_STORED, SessionReport


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
    for key, project, subject, label, study_uid, *found, presumed, expected, as_of in rows:
        report = _report(Session(project, subject, label, study_uid), *counted[key], _Found(*found))
        if key in postponed and report.state == "open":
            report = replace(report, reason=postponed[key])
        report = replace(report, presumed=presumed, expected=expected)
        if as_of is not None and report.state in {"archived", "prearchive"}:
            earlier = began_at is not None and as_of < began_at
            report = replace(report, as_of=as_of, earlier=earlier)
        reports.append(report)
    return tuple(reports)


def report_now(database: sqlite3.Connection, report: SessionReport) -> tuple[SessionReport, int]:
    """Return a report as it is now, and the number of the last delivery of its session that was archived (or 0)."""
    row = database.execute(
        "SELECT s.key, coalesce(max(d.number), 0) FROM session s LEFT JOIN delivery d ON d.session = s.key "
        "AND d.archive_uri IS NOT NULL WHERE s.project = ? AND s.study_uid = ? GROUP BY s.key",
        (report.session.project, report.session.study_uid),
    ).fetchone()
    if row is None:
        return report, 0
    found = session_reports(database, {row[0]: (report.files, report.size)}, began_at=None, postponed={})
    return next(iter(found), report), row[1]


@record
class _Found:
    """How many files of a session ended in which way, why it is disputed, and what its last delivery says."""

    failed: int
    refused: int
    unreadable: int
    unasked: int
    pending: int
    stored: int
    disputed: str | None
    state: str | None
    partial: int | None
    uri: str | None
    verified: str | None
    reason: str | None


def _report(session: Session, files: int, size: int, found: _Found) -> SessionReport:
    """Return what became of a session of `files` files and `size` bytes."""

    def report(state: str, reason: str | None, verified: str | None = None) -> SessionReport:
        return SessionReport(with_archived_subject(session, uri), files, size, state, uri, verified, reason)

    state, uri, pending = found.state, found.uri, found.pending
    missing = _missing_text(found.failed, found.refused, found.unreadable)
    unasked = _unasked(found.unasked) if found.unasked else None
    is_disputed = found.disputed is not None and state not in {"ARCHIVED", "SEALED"}
    if state in {"ARCHIVED", "BUILT"} and not pending and not is_disputed and (not missing or found.partial):
        ended = "archived" if state == "ARCHIVED" else "prearchive"
        return report(ended, missing or unasked or found.reason, found.verified)
    # The reason of an open delivery is why the last run did not continue it.
    if state == "HELD" or (state == "OPEN" and found.reason):
        return report("held", found.reason)
    if is_disputed:
        return report("held", f"no part of it is sent: {found.disputed}")
    if found.failed or (missing and not pending and state != "SEALED"):
        return report("held", missing)
    if unasked and not pending and state != "SEALED":
        return report("open", f"{unasked}: it is archived when it has all files, or with --partial archive")
    if not pending and not found.stored:
        return report("held", NOTHING_STORED)
    return report("open", found.reason if pending or state == "SEALED" else None)


def _unasked(files: int) -> str:
    return "1 file of it was not asked for" if files == 1 else f"{files:,} files of it were not asked for"


def _missing_text(failed: int, refused: int, unreadable: int) -> str | None:
    counts = {
        "could not be sent": failed,
        "was refused" if refused == 1 else "were refused": refused,
        "cannot be read": unreadable,
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(said).replace(" ", " of its files ", 1) if said else None
