"""Whether a prearchive row, or an archived session, is the one that a session may go into.

XNAT finds a prearchive row by project, study and label, and a session to merge into by its label. The first file of a
row decides the rest: XNAT ignores subject, SOURCE and prevent_auto_commit of later files (PrearcDatabase). So the row
or session is compared before anything goes into it, by these functions only.
"""

from asyncimport.model.addresses import OUR_SOURCE, labels_match
from asyncimport.model.files import Session
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.images import Row


def is_our_source(source: str) -> bool:
    """Whether a row with this source was begun by this program, from any journal."""
    return source == OUR_SOURCE or names_journal(source)


def names_journal(source: str) -> bool:
    """Whether a source names a journal; those of earlier versions did not."""
    return source.startswith(f"{OUR_SOURCE}-")


def row_conflict(row: Row, session: Session, source: str | None = None) -> str | None:
    """Say why a session may not go into a row of its study; None if we have begun the row.

    `source` is what our journal's rows name; None: the row of any journal will do. XNAT keeps the source of the file
    that began the row (PrearcDatabase.eitherGetOrCreateSession), so two uploads cannot both take it for theirs. What
    XNAT does not show counts as right. Labels are in brackets, which logs without names leave out.
    """
    differences = []
    if row.subject and not labels_match(row.subject, session.subject):
        differences.append(f"its subject is {row.subject}, not {session.subject}")
    if row.label and not labels_match(row.label, session.label):
        differences.append(f"its label is {row.label}, not {session.label}")
    if row.source is not None and not is_our_source(row.source):
        differences.append(f"its source is '{row.source}', not {OUR_SOURCE}")
    elif row.source is not None and source is not None and row.source != source:
        differences.append("by an upload from another journal")
    if row.prevents_auto_commit is False:
        differences.append("XNAT archives it by itself when no file comes for a while")
    if not differences:
        return None
    return f"the prearchive has this study already, begun by somebody else ({'; '.join(differences)}: {row.uri})"


def session_conflict(found: Experiment, session: Session) -> str | None:
    """Say why a session may not be merged into the one that has its label; None if it may.

    With `overwrite` XNAT compares project, label and subject only, and mixes two studies (PrearcSessionArchiver).
    """
    if found.study_uid not in {"", session.study_uid}:
        return f"the archive has another study under this label ({found.label}: {found.study_uid})"
    return subject_conflict(found.subject, session)


def subject_conflict(subject: str, session: Session) -> str | None:
    """Say that the archive has a session under another subject; None if not, or if XNAT does not show it."""
    if not subject or labels_match(subject, session.subject):
        return None
    return f"the archive has it under another subject ({subject}, not {session.subject})"
