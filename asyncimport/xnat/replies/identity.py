"""Whether a row of the prearchive, or a session of the archive, is the one that was asked for.

XNAT finds a prearchive row by project, study and label, and a session to merge into by its label. Whoever began it
decides the rest: subject, SOURCE and prevent_auto_commit of later files are ignored (PrearcDatabase). So what is there
is compared with what was asked for before anything goes into it. All comparisons stand here.
"""

from asyncimport.model import Session
from asyncimport.model.addresses import OUR_SOURCE, labels_match
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.images import Row


def is_our_source(source: str) -> bool:
    """Whether an upload of this program has begun a row with this source, from whichever journal."""
    return source == OUR_SOURCE or names_journal(source)


def names_journal(source: str) -> bool:
    """Whether it tells which journal's upload has begun a row; those of earlier versions did not."""
    return source.startswith(f"{OUR_SOURCE}-")


def row_conflict(row: Row, session: Session, source: str | None = None) -> str | None:
    """Say why nothing of a session may go into a row of its study; None: we have begun it.

    `source` is what our journal's rows name as theirs; None: the row of any journal will do. XNAT keeps what the file
    named that began the row (PrearcDatabase.eitherGetOrCreateSession), so two uploads cannot both take it for theirs.
    What XNAT does not tell of a row counts as right. Labels stand in brackets, which logs without names leave out.
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
        differences.append("XNAT archives it by itself when nothing comes for a while")
    if not differences:
        return None
    return f"the prearchive has this study already, begun by somebody else ({'; '.join(differences)}: {row.uri})"


def session_conflict(there: Experiment, session: Session) -> str | None:
    """Say why nothing of a session may be merged into the one that has its label; None: they are one.

    With `overwrite` XNAT compares project, label and subject only, and mixes two studies (PrearcSessionArchiver).
    """
    if there.study_uid not in {"", session.study_uid}:
        return f"the archive has another study under this label ({there.label}: {there.study_uid})"
    return subject_conflict(there.subject, session)


def subject_conflict(subject: str, session: Session) -> str | None:
    """Say that the archive has a session under another subject; None where it does not, or XNAT does not tell."""
    if not subject or labels_match(subject, session.subject):
        return None
    return f"the archive has it under another subject ({subject}, not {session.subject})"
