"""Whether a row of the prearchive, or a session of the archive, is the one that was asked for.

XNAT finds a prearchive row by project, study and label, and a session to merge into by its label. Whoever began it
decides the rest: subject, SOURCE and prevent_auto_commit of later files are ignored (PrearcDatabase). So what is there
is compared with what was asked for before anything goes into it. All comparisons stand here.
"""

import re

from asyncimport.model import Session
from asyncimport.replies.archive import Experiment
from asyncimport.replies.images import Row

__all__ = ["OUR_SOURCE", "archived_as", "misplaced", "other_row", "other_session", "same_label"]

OUR_SOURCE = "uploader"
"""What our imports call their source; XNAT's idle builder leaves the rows of that name alone."""

_ADDRESS = re.compile(r"(?:/data)?/archive/projects/([^/]+)/subjects/([^/]+)/experiments/([^/?]+)")


def same_label(one: str, other: str) -> bool:
    """Compare labels as XNAT does when it archives: without regard to case (PrearcSessionArchiver)."""
    return one.lower() == other.lower()


def other_row(row: Row, session: Session) -> str | None:
    """Say why nothing of a session may go into a row of its study; None: it is as if we had begun it.

    What XNAT does not tell of a row counts as right.
    """
    differences = []
    if not same_label(row.subject, session.subject) and row.subject:
        differences.append(f"under subject {row.subject}, not {session.subject}")
    if not same_label(row.label, session.label) and row.label:
        differences.append(f"as session {row.label}, not {session.label}")
    if row.source is not None and row.source != OUR_SOURCE:
        differences.append(f"sent by {row.source}" if row.source else "not sent by an uploader")
    if row.prevents_auto_commit is False:
        differences.append("to be archived by XNAT itself when it has been idle")
    if not differences:
        return None
    return f"XNAT's prearchive has this study already ({row.uri}), {', '.join(differences)}"


def other_session(there: Experiment, session: Session) -> str | None:
    """Say why nothing of a session may be merged into the one that has its label; None: they are one.

    Under `overwrite` XNAT compares labels and subjects only, and mixes two studies (PrearcSessionArchiver).
    """
    if there.study_uid not in {"", session.study_uid}:
        return f"the archive's session {there.label} is of another study ({there.study_uid})"
    return misplaced(there.subject, session)


def misplaced(subject: str, session: Session) -> str | None:
    """Say that the archive has a session under another subject; None where it does not, or XNAT does not tell."""
    if not subject or same_label(subject, session.subject):
        return None
    return f"the archive has session {session.label} under subject {subject}, not {session.subject}"


def archived_as(uri: str) -> tuple[str, str] | None:
    """Return the labels of subject and session in the address of an archived session; None if it has none."""
    match = _ADDRESS.fullmatch(uri)
    return None if match is None else (match[2], match[3])
