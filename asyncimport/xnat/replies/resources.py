"""Replies about resources and their files."""

import json
import re
from urllib.parse import unquote

from asyncimport.errors import RefusedError
from asyncimport.model.record import record
from asyncimport.xnat.replies.response import Reply, check, parse_rows, too_large_error

# What precedes a file's path in its URI. A project may be named `files`, or `resources`.
_FILES = re.compile(r"/resources/[^/]+/files/")


@record
class ListedFile:
    """A file in XNAT's catalog of a resource; size None, or MD5 (hexadecimal) "", if XNAT does not show it."""

    size: int | None
    md5: str
    uri: str


def check_creation(reply: Reply) -> bool:
    """Judge the creation of a resource (CatalogResource): False if it existed already. Raises: RefusedError."""
    if reply.status == 409:
        return False
    check(reply)
    if reply.status == 403:
        raise RefusedError(f"XNAT does not let this user add files here (403: {reply.message})", whole_session=True)
    if reply.status != 200:
        raise RefusedError(f"XNAT did not make the resource ({reply.status}: {reply.message})", whole_session=True)
    return True


def is_duplicate(reply: Reply) -> bool:
    """Judge the reply to a sent file (FileList): whether XNAT kept an older file of this name instead.

    An empty 200 proves nothing: XNAT also answers so to a user who may not edit. Raises: RefusedError.
    """
    if reply.status == 200 and (found := _has_duplicates(reply)) is not None:
        # Before `check`, because XNAT labels this JSON as HTML.
        return found
    check(reply)
    if reply.status in {200, 201}:
        return False
    if reply.status == 413:
        raise too_large_error()
    # A missing right or owner may be there the next time.
    raise RefusedError(
        f"XNAT refused the file ({reply.status}: {reply.message})", blames_server=reply.status in {403, 404, 409}
    )


def _has_duplicates(reply: Reply) -> bool | None:
    try:
        found = json.loads(reply.text)
    except (ValueError, RecursionError):
        return None
    return bool(found["duplicates"]) if isinstance(found, dict) and "duplicates" in found else None


def parse_files(reply: Reply, resource: str) -> dict[str, ListedFile]:
    """Return the files of a resource (FileList) by their paths in it.

    For a missing one XNAT lists nothing, or its owner's files, which are left out, or says 404. Raises: RefusedError.
    """
    if _is_missing(reply, 404):
        return {}
    if reply.status != 200:
        raise RefusedError(f"XNAT does not list the files ({reply.status}: {reply.message})", whole_session=True)
    found = {}
    for row in parse_rows(reply):
        uri = row.get("URI", "")
        path = uri[match.end() :] if (match := _FILES.search(uri)) else ""
        size = row.get("Size", "")
        if path and row.get("collection", resource) == resource:
            listed = ListedFile(int(size) if size.isdecimal() else None, row.get("digest", "").lower(), uri)
            found[unquote(path)] = listed
    return found


def parse_file_size(reply: Reply) -> int | None:
    """Return how many bytes XNAT would send of a file (HEAD, FileList); None if it does not say."""
    if reply.status == 404:
        # Without a body, nothing shows whose 404 it is.
        return None
    check(reply)
    length = reply.headers.get("content-length", "")
    return int(length) if reply.status == 200 and length.isdecimal() else None


def check_absent(reply: Reply) -> None:
    """Judge a reply that should have been a file: return if XNAT has none, though listed. Raises: RefusedError."""
    if not _is_missing(reply, 204, 404):
        raise RefusedError(f"XNAT does not send the file ({reply.status}: {reply.message})", blames_server=True)


def _is_missing(reply: Reply, *statuses: int) -> bool:
    """Whether XNAT says that it has none. FileList's own 404 is empty, of any type; that of a server away is a page."""
    if reply.status in statuses and not reply.text.strip():
        return True
    check(reply)
    return reply.status == 404


def check_refresh(reply: Reply) -> None:
    """Judge the reply to the refresh of a catalog (RefreshCatalog). Raises: TransientError, RefusedError."""
    check(reply)
    if reply.status != 200:
        raise RefusedError(f"XNAT does not refresh the catalog ({reply.status}: {reply.message})", blames_server=True)


def parse_resource_labels(reply: Reply) -> set[str]:
    """Return the labels of the resources of an owner (CatalogResourceList)."""
    return _column(reply, "label")


def parse_scan_ids(reply: Reply) -> set[str]:
    """Return the IDs of the scans of a session (ScanList)."""
    return _column(reply, "ID")


def _column(reply: Reply, name: str) -> set[str]:
    check(reply)
    return set() if reply.status in {403, 404} else {row.get(name, "") for row in parse_rows(reply)}
