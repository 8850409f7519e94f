"""Replies about images on their way: import, prearchive, build, archive."""

import re
from collections.abc import Mapping
from dataclasses import field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import NoReturn

from asyncimport.errors import (
    MergeRefusedError,
    NothingStoredError,
    RefusedError,
    TransientError,
    ZipFailedError,
    ZipRefusedError,
)
from asyncimport.model.record import record
from asyncimport.xnat.replies.response import Reply, check, page_error, parse_location, parse_rows, too_large_error

_URI = re.compile(r"(?:/data|/REST)?(/prearchive/projects/(?P<project>[^/\s]+)/[^/\s]+/[^/\s]+)")
_TELLABLE_ROW = re.compile(r"\s*/data/prearchive/projects/(?P<project>[\w.-]{1,64})/(?P<timestamp>\d{8}_\d{9})/")
_ARCHIVE_URI = re.compile(r"(?:/data|/REST)?(/archive/[^\r\n]+)")
_ADDRESS = re.compile(r"\s*(?:/data|/REST)?/(?:prearchive|archive)/")
_BUSY = frozenset({"ARCHIVING", "BUILDING", "DELETING", "MOVING", "SEPARATING"})
# What XNAT says of an archive step that takes long, or that another one blocks.
_AT_WORK = (
    "duplicate archive attempt",
    "configured timeout interval",
    "destination session in use",
    "session processing may already be in progress",
)
_GOES_ON = ("configured timeout interval", "prearchive session already archiving")
_ZONE_SECONDS = 15 * 60
_CLOCK_SECONDS = 5


@record
class Row:
    """A row of the prearchive (DatabaseSession), with its status as PrearcUtils.PrearcStatus spells it.

    `uri` is without /data; `uploaded` and `lastmod` are the server's local time. None: XNAT does not show it.
    `min_age_seconds` is how long ago `lastmod` was at least when the row was read, 0 if unknown; comparisons ignore it.
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
    min_age_seconds: float = field(default=0.0, compare=False)

    @property
    def is_receiving(self) -> bool:
        """Whether the session has not been built since its last file arrived."""
        return self.status in {"RECEIVING", "RECEIVING_INTERRUPT"}

    @property
    def is_busy(self) -> bool:
        """Whether XNAT is working on the session, so that nothing may be done to it now."""
        return self.status.startswith(("_", "QUEUED_")) or self.status in _BUSY

    @property
    def is_stuck(self) -> bool:
        """Whether an archive step failed and left the session for a person to look at."""
        return self.status in {"CONFLICT", "ERROR"}


def parse_import_uri(reply: Reply, project: str, expected: str | None) -> str:
    """Return the prearchive URI (without /data) that an imported file went to (Importer, GradualDicomImporter).

    `expected` is the URI of the delivery's first file. Raises: NothingStoredError, RefusedError.
    """
    if expected is not None and reply.status == 200 and reply.text.strip() == f"/data{expected}":
        # The usual case, for every file; its project was checked with the first file.
        return expected
    if reply.status == 200 and not reply.is_html:
        return _parse_stored_uri(reply, project, expected)
    if reply.status == 200:
        raise page_error(reply)
    if reply.status == 400:
        # GradualDicomImporter turns any exception into this: for a broken file, and for XNAT's own full disk or
        # exhausted database pool. So it is a verdict only if it stays.
        text = reply.message
        lowered = text.lower()
        if "unable to read dicom" in lowered:
            raise TransientError("XNAT could not read the file (400: unable to read DICOM object)", blames_file=True)
        if "concurrent file sends" in lowered:
            raise TransientError("XNAT was writing the same file at the same time (400)")
        raise RefusedError(f"XNAT refused the file (400: {text})", blames_server=reply.is_foreign)
    if reply.status == 413:
        raise too_large_error()
    if reply.status in {403, 405}:
        raise RefusedError(
            f"XNAT does not let this user import here ({reply.status}: {reply.message})", whole_session=True
        )
    check(reply)
    if reply.status == 404:
        # XNAT's web application is missing while Tomcat restarts.
        raise TransientError(f"the import service is not there (404: {reply.message})", overload=True)
    raise RefusedError(f"XNAT refused the file ({reply.status}: {reply.message})", blames_server=reply.is_foreign)


def _parse_stored_uri(reply: Reply, project: str, expected: str | None) -> str:
    text = reply.text.strip()
    if not text:
        raise NothingStoredError("XNAT answered, but did not keep the file (empty 200)", is_file_verdict=True)
    match = _URI.fullmatch(text)
    if match is None:
        raise RefusedError("XNAT's answer to the import is not a prearchive address", whole_session=True)
    if match["project"] != project:
        where = "unassigned" if match["project"] == "Unassigned" else "another project"
        raise RefusedError(
            f"XNAT put the file into {where}: the project does not exist, or is not open to this user",
            whole_session=True,
        )
    if expected is not None and match[1] != expected:
        raise RefusedError("XNAT put the file into a second prearchive session of the same study", second_row=True)
    return match[1]


# XNAT or a proxy before it takes no zips. It may have refused just this one for another reason, as with 400.
_ENDS_ZIPS = frozenset({403, 404, 405, 413, 415})


def parse_zip_uri(reply: Reply, expected: str) -> str:
    """Return the prearchive URI of a file that was imported as a zip (DicomZipImporter), if it is the `expected` one.

    Only that is a verdict. An empty 200 is what a zip without an entry gets too, and a 400 also means that it was
    damaged on the way. Raises: ZipRefusedError: send the file as it is; ZipFailedError, TransientError.
    """
    if reply.status == 200 and reply.text.strip() == f"/data{expected}":
        return expected
    if reply.status == 200 and reply.is_html:
        raise page_error(reply)
    if reply.status == 200 and _ADDRESS.match(reply.text):
        raise ZipRefusedError(f"XNAT put a zip elsewhere than the files before it{_row_of(reply)}", ends_zips=True)
    if reply.status == 200 and not reply.text.strip():
        raise ZipRefusedError("XNAT answered to a zip, but did not keep a file (empty 200)")
    if reply.status < 300:
        # A gateway's, which may have passed the zip on, or does so later.
        raise TransientError(
            f"what answered to a zip is no XNAT ({reply.status}: {reply.message})", may_have_taken_effect=True
        )
    if reply.status == 500:
        raise ZipFailedError(f"the server failed on a zip (500: {reply.message})", may_have_taken_effect=True)
    ends = reply.status in _ENDS_ZIPS
    if not ends:
        check(reply)
    if reply.is_foreign:
        # It lets nothing through; if it did, the row has more files than were acknowledged.
        raise ZipRefusedError(f"a proxy before XNAT did not take a zip ({reply.status})", ends_zips=ends)
    raise ZipRefusedError(
        f"XNAT did not take a zip ({reply.status}: {reply.message})", ends_zips=ends, leaves_part=not ends
    )


def _row_of(reply: Reply) -> str:
    """Say which row an answer names, but not its session: that may name a patient."""
    match = _TELLABLE_ROW.match(reply.text)
    return "" if match is None else f": in row {match['timestamp']} of project {match['project']}"


def check_build(reply: Reply) -> None:
    """Judge the reply to `action=build` (PrearcSessionResource). Raises: TransientError: look again; RefusedError."""
    if reply.status == 200 and reply.is_html:
        raise page_error(reply)
    if reply.status == 200:
        return
    if reply.status in {404, 409}:
        raise TransientError(f"the prearchive session is busy or gone ({reply.status}: {reply.message})")
    check(reply, server_errors=False)
    raise RefusedError(f"XNAT could not build the session ({reply.status}: {reply.message})")


def parse_archive_uri(reply: Reply) -> str:
    """Return the archive URI in the reply of /data/services/archive (Archiver, QueueBasedImageCommit).

    303 is success too (auto-archive projects); its Location may name another host, so it is read but never followed.
    Conflicts are 500 with text, before 1.7 they are 409. Raises: TransientError: look again; MergeRefusedError.
    """
    if reply.status in {200, 301, 303} and not (reply.status == 200 and reply.is_html):
        # A Location has host and context path in front; the body has not.
        if match := _ARCHIVE_URI.fullmatch(reply.text.strip()) or _ARCHIVE_URI.search(parse_location(reply).path):
            return f"/data{match[1]}"
        raise TransientError(f"XNAT's answer names no archived session ({reply.status})", may_have_taken_effect=True)
    if reply.status == 200:
        raise page_error(reply)
    text = reply.message
    lowered = text.lower()
    if reply.status in {404, 423} or (reply.status == 403 and "already in progress" in lowered):
        raise TransientError(f"the prearchive session is busy or gone ({reply.status}: {text})")
    if reply.status == 500 and any(words in lowered for words in _AT_WORK):
        # If another session blocks this step, it has not begun; else it goes on.
        goes_on = any(words in lowered for words in _GOES_ON)
        raise TransientError(f"XNAT is still archiving the session ({text})", may_have_taken_effect=goes_on)
    check(reply, server_errors=False)
    if "retry with overwrite enabled" in lowered:
        raise MergeRefusedError(f"XNAT did not archive the session ({reply.status}: {text})")
    advice = ""
    if "matching files" in lowered or "same resources" in lowered:
        # The archived session was compared before: it is of this study and subject. If a late upload left a row behind,
        # the next files go into it, and its own files conflict.
        advice = "; `--overwrite append --retry held` replaces them with the files that were sent"
    raise RefusedError(f"XNAT did not archive the session ({reply.status}: {text}){advice}")


def parse_row(reply: Reply) -> Row | None:
    """Return a session's row (PrearcSessionResource, `format=json`); None if it is gone. Raises: RefusedError."""
    rows = _rows_of_session(reply)
    if not rows:
        return None
    row = _make_row(rows[0])
    return replace(row, min_age_seconds=_min_age_seconds(row.lastmod, reply.headers.get("date", "")))


def _min_age_seconds(local: str, date: str) -> float:
    """Return how many seconds before `date` (of HTTP) a local time of the same server was at least."""
    # XNAT does not show its time zone, but zones differ by quarters of an hour, so the age is known except for these. A
    # few seconds less than a quarter may be none, by the clock of a proxy.
    try:
        then, now = datetime.fromisoformat(local), parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return 0.0
    age = (now.replace(tzinfo=None) - then.replace(tzinfo=None)).total_seconds() % _ZONE_SECONDS
    return 0.0 if age > _ZONE_SECONDS - _CLOCK_SECONDS else age


def parse_file_count(reply: Reply) -> int | None:
    """Return how many files a row's document names (PrearcSessionResourcesList); None: none. Raises: RefusedError."""
    rows = _rows_of_session(reply)
    counts = None if rows is None else [row.get("file_count", "") for row in rows]
    if counts is None or not all(count.isdecimal() and len(count) < 10 for count in counts):
        return None
    return sum(map(int, counts))


def _rows_of_session(reply: Reply) -> list[dict[str, str]] | None:
    """Return the rows of a listing about a prearchive session; None if it is gone."""
    check(reply)
    if reply.status == 404:
        return None
    if reply.status == 403:
        raise RefusedError(f"XNAT does not let this user see the prearchive session (403: {reply.message})")
    return parse_rows(reply)


def parse_prearchive(reply: Reply) -> list[Row]:
    """Return the rows of the prearchive (PrearcSessionListResource). Raises: RefusedError if they are not shown."""
    check(reply)
    if reply.status in {403, 404}:
        raise RefusedError(f"XNAT does not let this user see the prearchive ({reply.status}: {reply.message})")
    return [_make_row(row) for row in parse_rows(reply)]


def _make_row(row: Mapping[str, str]) -> Row:
    return Row(
        status=row.get("status", ""),
        uri=row.get("url", ""),
        project=row.get("project", ""),
        subject=row.get("subject", ""),
        label=row.get("name", ""),
        study_uid=row.get("tag", ""),
        source=row.get("SOURCE"),
        uploaded=row.get("uploaded", ""),
        prevents_auto_commit={"true": True, "false": False}.get(row.get("prevent_auto_commit", "").lower()),
        lastmod=row.get("lastmod", ""),
    )


def raise_download_error(reply: Reply) -> NoReturn:
    """Judge a reply of another status than 200 that should have been a file. Raises: TransientError, RefusedError."""
    check(reply)
    raise RefusedError(f"XNAT does not send the files ({reply.status}: {reply.message})")


def check_delete(reply: Reply) -> None:
    """Judge the reply to a DELETE of a prearchive session, which may be gone already. Raises: RefusedError."""
    check(reply)
    if reply.status not in {200, 204, 404}:
        raise RefusedError(f"XNAT did not delete the prearchive session ({reply.status}: {reply.message})")
