"""Replies about how a site and its projects are set up. None: XNAT is too old, or does not show it to this user."""

import json
import re
from dataclasses import field

from asyncimport.model.record import record
from asyncimport.xnat.replies.response import Reply, check, parse_item, parse_rows

# How a DicomEdit script changes these UIDs: an assignment to the tag, or a function for UIDs.
_MAPS_UIDS = re.compile(r"\(\s*0008\s*,\s*0018\s*\)\s*:=|hashUID|mapUID|mapReferencedUIDs|newUID", re.IGNORECASE)
_MAPS_STUDIES = re.compile(r"\(\s*0020\s*,\s*000D\s*\)\s*:=|hashUID|mapUID|newUID", re.IGNORECASE)
# DicomEdit's statement, outside a comment.
_REJECTS = re.compile(r"^(?:(?!//).)*\breject\b", re.MULTILINE)
# DicomEdit's statements that change attributes, outside a comment: assignments, deletions, functions.
_REWRITES = re.compile(
    r"^(?:(?!//).)*?(?::=|-\s*[({]|\b(?:removeAllPrivateTags|retainPrivateTags|blankValues|alterPixels|delete)\b)",
    re.MULTILINE,
)
# Tags of patient attributes in any statement; X, @ and # are DicomEdit's wildcards.
_PATIENT_TAG = re.compile(r"\(\s*0010\s*,\s*([0-9A-FX@#]{4})\s*\)", re.IGNORECASE)
_PATIENT_FIELDS = {"0010": "name", "0020": "id", "0030": "birth date"}
_VERSION = re.compile(r"(\d+)\.(\d+)[\w.-]*")


@record
class SeriesFilter:
    """A series import filter: its mode as XNAT spells it (blacklist, whitelist, ...), and its patterns, one a line."""

    enabled: bool
    mode: str = ""
    patterns: tuple[str, ...] = field(default=(), repr=False, compare=False)


@record
class Script:
    """An anonymisation script, and what it may do."""

    text: str = field(repr=False)

    @property
    def rejects(self) -> bool:
        """Whether it can reject files."""
        return _REJECTS.search(self.text) is not None

    @property
    def rewrites(self) -> bool:
        """Whether it changes attributes."""
        return _REWRITES.search(self.text) is not None

    @property
    def maps_uids(self) -> bool:
        """Whether it changes SOPInstanceUIDs."""
        return _MAPS_UIDS.search(self.text) is not None

    @property
    def maps_studies(self) -> bool:
        """Whether it changes StudyInstanceUIDs."""
        return _MAPS_STUDIES.search(self.text) is not None

    @property
    def patient_fields(self) -> frozenset[str]:
        """Which of "id", "name" and "birth date" of a patient it may change."""
        tags = {match[1].upper() for match in _PATIENT_TAG.finditer(self.text)}
        if any(not tag.isalnum() or "X" in tag for tag in tags):
            return frozenset(_PATIENT_FIELDS.values())
        return frozenset(name for tag, name in _PATIENT_FIELDS.items() if tag in tags)


def parse_version(reply: Reply) -> str | None:
    """Return XNAT's version (SiteConfigApi, `buildInfo`)."""
    try:
        version = json.loads(reply.text)["version"] if reply.status == 200 else None
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    return version if isinstance(version, str) and version_number(version) else None


def parse_version_number(reply: Reply) -> tuple[int, int] | None:
    """Return the first two numbers of XNAT's version (SiteConfigApi, `buildInfo`), under a login."""
    version = None if _text(reply) is None else parse_version(reply)
    return None if version is None else version_number(version)


def version_number(version: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version; None if it is none."""
    match = _VERSION.fullmatch(version)
    return None if match is None else (int(match[1]), int(match[2]))


def parse_project_id(reply: Reply) -> str | None:
    """Return a project's ID, for its ID or an alias (ProjectResource); None if XNAT shows no such project."""
    check(reply)
    if reply.status in {403, 404}:
        return None
    return str(parse_item(reply).get("ID", "")) or None


def parse_project_ids(reply: Reply) -> frozenset[str]:
    """Return the IDs in a listing of projects (ProjectListResource with `permissions`)."""
    check(reply)
    return frozenset(found for row in parse_rows(reply) if (found := row.get("ID") or row.get("id")))


def parse_setting(reply: Reply) -> str | None:
    """Return a setting as text (SiteConfigApi, ProjectResource)."""
    text = _text(reply)
    return None if text is None else text.strip()


def parse_flag(reply: Reply) -> bool | None:
    """Return a setting that is true or false (SiteConfigApi, AnonymizeApi)."""
    return {"true": True, "false": False}.get((_text(reply) or "").strip().lower())


def parse_script(reply: Reply) -> Script | None:
    """Return an anonymisation script (AnonymizeApi)."""
    text = _text(reply)
    return None if text is None else Script(text)


def parse_series_filter(reply: Reply) -> SeriesFilter | None:
    """Return a project's series import filter (ConfigResource, `contents=true`)."""
    check(reply)
    if reply.status == 404:
        return SeriesFilter(enabled=False)
    try:
        found = json.loads(reply.text) if reply.status == 200 else {}
        enabled = str(found["enabled"]).lower() == "true"
        return SeriesFilter(enabled, str(found.get("mode") or ""), parse_patterns(str(found.get("list") or "")))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def parse_patterns(text: str) -> tuple[str, ...]:
    """Return the patterns of a series import filter, one a line."""
    return tuple(line for line in text.splitlines() if line.strip())


def parse_pipeline_count(reply: Reply) -> int | None:
    """Return how many pipelines a project has (ProjectPipelineListResource)."""
    check(reply)
    return len(parse_rows(reply)) if reply.status == 200 else None


def parse_subscription_count(reply: Reply) -> int | None:
    """Return how many subscriptions of the event service are active in a project (EventServiceRestApi)."""
    text = _text(reply)
    try:
        return None if text is None else sum(one["active"] is True for one in json.loads(text))
    except (ValueError, RecursionError, KeyError, TypeError):
        return None


def _text(reply: Reply) -> str | None:
    if reply.status not in {403, 404}:
        check(reply)
    return reply.text if reply.status == 200 else None
