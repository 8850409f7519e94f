"""Addresses of the archive and the labels in them, and the source of our prearchive rows."""

import re
from dataclasses import replace

from asyncimport.model.files import Session

OUR_SOURCE = "uploader"
"""The source of our imports begins with this; a hyphen and the journal's own number follow."""

_ADDRESS = re.compile(r"(?:/data)?/archive/projects/([^/]+)/subjects/([^/]+)/experiments/([^/?]+)")


def labels_match(one: str, other: str) -> bool:
    """Compare labels as XNAT does when it archives: ignoring case (PrearcSessionArchiver)."""
    return one.lower() == other.lower()


def labels_in_address(uri: str) -> tuple[str, str] | None:
    """Return the labels of subject and session in the address of an archived session; None for other addresses."""
    match = _ADDRESS.fullmatch(uri)
    return None if match is None else (match[2], match[3])


def with_archived_subject(session: Session, uri: str | None) -> Session:
    """Return a session with its subject label as in an archive address, if they differ in case only."""
    names = labels_in_address(uri) if uri else None
    if names is None or names[0] == session.subject or not labels_match(names[0], session.subject):
        return session
    return replace(session, subject=names[0])
