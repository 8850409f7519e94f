"""Answers on the way of images: import, prearchive, build, archive."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn

from asyncimport.errors import NothingStoredError, RefusedError, TransientError
from asyncimport.xnat.replies.response import Reply, check, page_error, parse_location, parse_rows

_URI = re.compile(r"(?:/data|/REST)?(/prearchive/projects/(?P<project>[^/\s]+)/[^/\s]+/[^/\s]+)")
_ARCHIVE_URI = re.compile(r"(?:/data|/REST)?(/archive/[^\r\n]+)")
# In what XNAT says of an archive step that another one stands in the way of, or that takes its time.
_AT_WORK = (
    "duplicate archive attempt",
    "configured timeout interval",
    "destination session in use",
    "session processing may already be in progress",
)
_GOES_ON = ("configured timeout interval", "prearchive session already archiving")
_ZONE_SECONDS = 15 * 60
_CLOCK_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the prearchive: its status, as PrearcUtils.PrearcStatus spells it, and whose it is (DatabaseSession).

    `uri` is without /data; `uploaded` and `lastmod` are the server's local time. None is what XNAT does not tell.
    `quiet_seconds` is how long `lastmod` was ago at least when the row was looked at, 0 where that cannot be told; it
    does not count in comparisons.
    """

    status: str
    uri: str = ""
    project: str = ""
    subject: str = ""
    label: str = ""
    study_uid: str = ""
    source: str | None = None
    uploaded: str = ""
    prevents_auto_commit: bool | None = None
    lastmod: str = ""
    quiet_seconds: float = field(default=0.0, compare=False)

    @property
    def is_receiving(self) -> bool:
        """Whether the session was not built since its last file came in."""
        return self.status in {"RECEIVING", "RECEIVING_INTERRUPT"}

    @property
    def is_busy(self) -> bool:
        """Whether XNAT itself is at work on the session, so that nothing may be asked of it now."""
        return self.status.startswith(("_", "QUEUED_")) or self.status in {
            "ARCHIVING",
            "BUILDING",
            "DELETING",
            "MOVING",
            "SEPARATING",
        }

    @property
    def is_stuck(self) -> bool:
        """Whether an archive step failed and left the session for a person to look at."""
        return self.status in {"CONFLICT", "ERROR"}


def parse_import_uri(reply: Reply, project: str, expected: str | None) -> str:
    """Judge the answer to an import, and return the prearchive URI (without /data) that the file went to.

    `expected` is the URI that the first file of the delivery got. Sources: Importer, GradualDicomImporter.
    Raises: TransientError, LoginExpiredError, NothingStoredError, RefusedError.
    """
    if expected is not None and reply.status == 200 and reply.text.strip() == f"/data{expected}":
        # As nearly always, on the way of every file; the project in it was looked at when the first one came.
        return expected
    if reply.status == 200 and not reply.is_html:
        return _stored_uri(reply, project, expected)
    if reply.status == 200:
        raise page_error(reply)
    if reply.status == 400:
        # XNAT gives this answer to a broken file and to its own full disk or exhausted database pool alike
        # (GradualDicomImporter turns any exception into it), so it is a verdict only when it stays.
        text = reply.message
        lowered = text.lower()
        if "unable to read dicom" in lowered:
            raise TransientError("XNAT could not read the file (400: unable to read DICOM object)", blames_file=True)
        if "concurrent file sends" in lowered:
            raise TransientError("XNAT was writing the same file at the same time (400)")
        raise RefusedError(f"XNAT refused the file (400: {text})", blames_server=reply.is_foreign)
    if reply.status == 413:
        raise RefusedError("the file is larger than a proxy before XNAT lets through (413)", never_reached_xnat=True)
    if reply.status in {403, 405}:
        raise RefusedError(
            f"XNAT does not let this user import here ({reply.status}: {reply.message})", whole_session=True
        )
    check(reply)
    if reply.status == 404:
        # XNAT's web application is not there while Tomcat restarts.
        raise TransientError(f"the import service is not there (404: {reply.message})", overload=True)
    raise RefusedError(f"XNAT refused the file ({reply.status}: {reply.message})", blames_server=reply.is_foreign)


def _stored_uri(reply: Reply, project: str, expected: str | None) -> str:
    text = reply.text.strip()
    if not text:
        raise NothingStoredError("XNAT answered, but did not keep the file (empty 200)", is_file_verdict=True)
    match = _URI.fullmatch(text)
    if match is None:
        raise RefusedError("XNAT's answer to the import is not a prearchive address", whole_session=True)
    if match["project"] != project:
        where = "unassigned" if match["project"] == "Unassigned" else "another project"
        raise RefusedError(
            f"XNAT put the file into {where}: the project is not known to it or not open to this user",
            whole_session=True,
        )
    if expected is not None and match[1] != expected:
        raise RefusedError("XNAT put the file into a second prearchive session of the same study", second_row=True)
    return match[1]


def check_build(reply: Reply) -> None:
    """Judge the answer to `action=build` (PrearcSessionResource).

    Raises: TransientError when it is not over yet or the row is gone: look again; RefusedError.
    """
    if reply.status == 200 and reply.is_html:
        raise page_error(reply)
    if reply.status == 200:
        return
    if reply.status in {404, 409}:
        raise TransientError(f"the prearchive session is busy or gone ({reply.status}: {reply.message})")
    check(reply, server_errors=False)
    raise RefusedError(f"XNAT could not build the session ({reply.status}: {reply.message})")


def parse_archive_uri(reply: Reply) -> str:
    """Judge the answer to /data/services/archive and return the archive URI (Archiver, QueueBasedImageCommit).

    303 is success too (auto-archive projects; the Location may name another host and is only read, never followed).
    Conflicts are 500 with text. Raises: TransientError when it is not over yet: look again; RefusedError.
    """
    if reply.status in {200, 301, 303} and not (reply.status == 200 and reply.is_html):
        return _archive_uri(reply)
    if reply.status == 200:
        raise page_error(reply)
    text = reply.message
    lowered = text.lower()
    if reply.status in {404, 423} or (reply.status == 403 and "already in progress" in lowered):
        raise TransientError(f"the prearchive session is busy or gone ({reply.status}: {text})")
    if reply.status == 500 and any(words in lowered for words in _AT_WORK):
        # In the way of another session it has not begun; of this one it goes on.
        goes_on = any(words in lowered for words in _GOES_ON)
        raise TransientError(f"XNAT is still archiving the session ({text})", may_have_taken_effect=goes_on)
    check(reply, server_errors=False)
    advice = ""
    if "matching files" in lowered or "same resources" in lowered:
        # The session that is there was compared before: it is of this study and subject. A row that a late upload left
        # behind takes in what comes next for the session, and its own files conflict.
        advice = "; `--overwrite append --retry held` lets the files that were sent take their place"
    raise RefusedError(f"XNAT did not archive the session ({reply.status}: {text}){advice}")


def _archive_uri(reply: Reply) -> str:
    # A Location has host and context path in front; the body has not.
    if match := _ARCHIVE_URI.fullmatch(reply.text.strip()) or _ARCHIVE_URI.search(parse_location(reply).path):
        return f"/data{match[1]}"
    raise TransientError(f"XNAT's answer names no archived session ({reply.status})", may_have_taken_effect=True)


def parse_row(reply: Reply) -> Row | None:
    """Return the prearchive row of a session (PrearcSessionResource, `format=json`); None when it is gone.

    Raises: TransientError, LoginExpiredError, RefusedError when this user may not look at it.
    """
    check(reply)
    if reply.status == 404:
        return None
    if reply.status == 403:
        raise RefusedError(f"XNAT does not let this user see the prearchive session (403: {reply.message})")
    results = parse_rows(reply)
    if not results:
        return None
    found = _row(results[0])
    return replace(found, quiet_seconds=_least_age(found.lastmod, reply.headers.get("date", "")))


def _least_age(local: str, date: str) -> float:
    """Return how many seconds before `date` (of HTTP) a local time of the same server was at least.

    The server does not tell its time zone, but zones differ by whole quarters of an hour: the age is known but for
    these. A few seconds less than a quarter may be none, by the clock of a proxy.
    """
    try:
        then, now = datetime.fromisoformat(local), parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return 0.0
    age = (now.replace(tzinfo=None) - then.replace(tzinfo=None)).total_seconds() % _ZONE_SECONDS
    return 0.0 if age > _ZONE_SECONDS - _CLOCK_SECONDS else age


def parse_file_count(reply: Reply) -> int | None:
    """Return how many files the document of a prearchive session names (PrearcSessionResourcesList); None without one.

    Raises: TransientError, LoginExpiredError, RefusedError when this user may not look at it.
    """
    check(reply)
    if reply.status == 404:
        return None
    if reply.status == 403:
        raise RefusedError(f"XNAT does not let this user see the prearchive session (403: {reply.message})")
    counts = [result.get("file_count", "") for result in parse_rows(reply)]
    return sum(map(int, counts)) if all(one.isdecimal() and len(one) < 10 for one in counts) else None


def parse_prearchive(reply: Reply) -> list[Row]:
    """Return the rows of the prearchive (PrearcSessionListResource).

    Raises: TransientError, LoginExpiredError, RefusedError when this user may not look at it.
    """
    check(reply)
    if reply.status in {403, 404}:
        raise RefusedError(f"XNAT does not let this user see the prearchive ({reply.status}: {reply.message})")
    return [_row(result) for result in parse_rows(reply)]


def _row(result: Mapping[str, str]) -> Row:
    return Row(
        status=result.get("status", ""),
        uri=result.get("url", ""),
        project=result.get("project", ""),
        subject=result.get("subject", ""),
        label=result.get("name", ""),
        study_uid=result.get("tag", ""),
        source=result.get("SOURCE"),
        uploaded=result.get("uploaded", ""),
        prevents_auto_commit={"true": True, "false": False}.get(result.get("prevent_auto_commit", "").lower()),
        lastmod=result.get("lastmod", ""),
    )


def raise_download_error(reply: Reply) -> NoReturn:
    """Judge an answer that should have been a file and has another status than 200.

    Raises: TransientError, LoginExpiredError, RefusedError.
    """
    check(reply)
    raise RefusedError(f"XNAT does not hand the files out ({reply.status}: {reply.message})")


def check_delete(reply: Reply) -> None:
    """Judge the answer to a DELETE of a prearchive session; one that is gone already is fine.

    Raises: TransientError, LoginExpiredError, RefusedError.
    """
    check(reply)
    if reply.status not in {200, 204, 404}:
        raise RefusedError(f"XNAT did not delete the prearchive session ({reply.status}: {reply.message})")
