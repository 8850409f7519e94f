"""Answers that tell how a site and its projects are set up."""

import json
import re
from dataclasses import dataclass, field

from asyncimport.xnat.replies.response import Reply, check, item_of, rows_of

# What DicomEdit scripts use for it: an assignment to the tag, or one of the functions made for UIDs.
_MAPS_UIDS = re.compile(r"\(\s*0008\s*,\s*0018\s*\)\s*:=|hashUID|mapUID|mapReferencedUIDs|newUID", re.IGNORECASE)
_MAPS_STUDIES = re.compile(r"\(\s*0020\s*,\s*000D\s*\)\s*:=|hashUID|mapUID|newUID", re.IGNORECASE)
# DicomEdit's statement, outside of a comment.
_REJECTS = re.compile(r"^(?:(?!//).)*\breject\b", re.MULTILINE)
# The statements of DicomEdit that change attributes, outside of a comment: assignments, deletions, functions.
_REWRITES = re.compile(
    r"^(?:(?!//).)*?(?::=|-\s*[({]|\b(?:removeAllPrivateTags|retainPrivateTags|blankValues|alterPixels|delete)\b)",
    re.MULTILINE,
)

# An attribute that any statement names, and attributes of patients that one names by a pattern.
_PATIENT_TAGS = {"0010": "name", "0020": "id", "0030": "birth date"}
_NAMES_TAG = re.compile(r"\(\s*0010\s*,\s*([0-9A-FX@#]{4})\s*\)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """A series import filter: its mode as XNAT spells it (blacklist, whitelist, ...), and how many patterns it has.

    `expressions` are the lines of it; `routing.dropping` says what they mean.
    """

    enabled: bool
    mode: str = ""
    patterns: int = 0
    expressions: tuple[str, ...] = field(default=(), repr=False, compare=False)


def project_id(reply: Reply) -> str | None:
    """Return the project's ID, for its ID or an alias (ProjectResource); None when XNAT shows no such project."""
    check(reply)
    if reply.status in {403, 404}:
        return None
    return str(item_of(reply).get("ID", "")) or None


def editable_projects(reply: Reply) -> frozenset[str]:
    """Return the IDs of a project listing (ProjectListResource with `permissions=edit`)."""
    check(reply)
    return frozenset(found for result in rows_of(reply) if (found := result.get("ID") or result.get("id")))


def setting(reply: Reply) -> bool | None:
    """Return what is true or false at a site (SiteConfigApi, AnonymizeApi); None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return {"true": True, "false": False}.get(reply.text.strip().lower()) if reply.status == 200 else None


def value(reply: Reply) -> str | None:
    """Return a setting as text (SiteConfigApi, ProjectResource); None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return reply.text.strip() if reply.status == 200 else None


def rejects(reply: Reply) -> bool | None:
    """Whether an anonymisation script (AnonymizeApi) can reject files; None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return _REJECTS.search(reply.text) is not None if reply.status == 200 else None


def script(reply: Reply) -> str | None:
    """Return an anonymisation script (AnonymizeApi); None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return reply.text if reply.status == 200 else None


def rewrites(reply: Reply) -> bool | None:
    """Whether an anonymisation script (AnonymizeApi) changes attributes; None: an old XNAT, or it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return _REWRITES.search(reply.text) is not None if reply.status == 200 else None


def rewritten_of_patients(reply: Reply) -> frozenset[str] | None:
    """Return what an anonymisation script (AnonymizeApi) may change of "id", "name" and "birth date" of a patient.

    None: an old XNAT, or it does not tell.
    """
    if reply.status not in {403, 404}:
        check(reply)
    if reply.status != 200:
        return None
    tags = {match[1].upper() for match in _NAMES_TAG.finditer(reply.text)}
    if any(not tag.isalnum() or "X" in tag for tag in tags):
        return frozenset(_PATIENT_TAGS.values())
    return frozenset(name for tag, name in _PATIENT_TAGS.items() if tag in tags)


def maps_uids(reply: Reply) -> bool | None:
    """Whether an anonymisation script (AnonymizeApi) gives instances new SOPInstanceUIDs; None: it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return _MAPS_UIDS.search(reply.text) is not None if reply.status == 200 else None


def maps_studies(reply: Reply) -> bool | None:
    """Whether an anonymisation script (AnonymizeApi) gives studies new StudyInstanceUIDs; None: it does not tell."""
    if reply.status not in {403, 404}:
        check(reply)
    return _MAPS_STUDIES.search(reply.text) is not None if reply.status == 200 else None


def series_filter(reply: Reply) -> SeriesFilter | None:
    """Return a project's series import filter (ConfigResource, `contents=true`); None: it does not tell."""
    check(reply)
    if reply.status == 404:
        return SeriesFilter(enabled=False)
    try:
        found = json.loads(reply.text) if reply.status == 200 else {}
        enabled = str(found["enabled"]).lower() == "true"
        patterns = [line for line in str(found.get("list") or "").splitlines() if line.strip()]
        return SeriesFilter(enabled, str(found.get("mode") or ""), len(patterns), tuple(patterns))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def pipelines(reply: Reply) -> int | None:
    """Return how many pipelines are set up in a project (ProjectPipelineListResource); None: it does not tell."""
    check(reply)
    return len(rows_of(reply)) if reply.status == 200 else None


def subscriptions(reply: Reply) -> int | None:
    """Return how many subscriptions of the event service are active in a project (EventServiceRestApi).

    None: an old XNAT, or it does not tell.
    """
    if reply.status not in {403, 404}:
        check(reply)
    if reply.status != 200:
        return None
    try:
        return sum(one["active"] is True for one in json.loads(reply.text))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
