"""Answers about resources and their files: made, stored, listed."""

import json
import re
from dataclasses import dataclass
from urllib.parse import unquote

from asyncimport.errors import RefusedError
from asyncimport.xnat.replies.response import Reply, check, parse_rows

# Where the path of a file begins in its URI. A project may be called `files`, or `resources`.
_FILES = re.compile(r"/resources/[^/]+/files/")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a resource as XNAT's catalog has it; None and "" where it tells no size and no MD5 (hexadecimal)."""

    size: int | None
    md5: str
    uri: str


def check_creation(reply: Reply) -> bool:
    """Judge the answer to the making of a resource (CatalogResource): False when it was there already.

    Raises: TransientError, RefusedError when this user may not, or there is nothing that it could belong to.
    """
    if reply.status == 409:
        return False
    check(reply)
    if reply.status == 403:
        raise RefusedError(f"XNAT does not let this user add files here (403: {reply.message})", whole_session=True)
    if reply.status != 200:
        raise RefusedError(f"XNAT did not make the resource ({reply.status}: {reply.message})", whole_session=True)
    return True


def is_duplicate(reply: Reply) -> bool:
    """Judge the answer to a file (FileList): whether XNAT has kept a file of this name that was there before.

    An empty 200 means nothing: XNAT says so as well to a user who may not edit, and stores nothing then.
    Raises: TransientError, RefusedError.
    """
    if reply.status == 200 and (found := _duplicates(reply)) is not None:
        # It is labelled as HTML.
        return found
    check(reply)
    if reply.status in {200, 201}:
        return False
    if reply.status == 413:
        raise RefusedError("the file is larger than a proxy before XNAT lets through (413)", never_reached_xnat=True)
    # Who may not, or has nothing to add it to, may find it otherwise the next time.
    raise RefusedError(
        f"XNAT refused the file ({reply.status}: {reply.message})", blames_server=reply.status in {403, 404, 409}
    )


def _duplicates(reply: Reply) -> bool | None:
    try:
        found = json.loads(reply.text)
    except (ValueError, RecursionError):
        return None
    return bool(found["duplicates"]) if isinstance(found, dict) and "duplicates" in found else None


def parse_files(reply: Reply, resource: str) -> dict[str, ListedFile]:
    """Return the files of a resource (FileList) by their paths in it.

    Of a resource that is not there XNAT lists nothing, or the files of what it would be in: those are left out. It may
    also answer 404, with or without a text, which is the same. Raises: TransientError, RefusedError.
    """
    if reply.status == 404 and not reply.text.strip():
        # Every 404 of FileList is empty, whatever it calls itself; a server that is away has a page.
        return {}
    check(reply)
    if reply.status == 404:
        return {}
    if reply.status != 200:
        raise RefusedError(f"XNAT does not list the files ({reply.status}: {reply.message})", whole_session=True)
    found = {}
    for row in parse_rows(reply):
        uri = row.get("URI", "")
        path = uri[found_at.end() :] if (found_at := _FILES.search(uri)) else ""
        size = row.get("Size", "")
        if path and row.get("collection", resource) == resource:
            listed = ListedFile(int(size) if size.isdecimal() else None, row.get("digest", "").lower(), uri)
            found[unquote(path)] = listed
    return found


def parse_file_size(reply: Reply) -> int | None:
    """Return how many bytes XNAT would hand out of a file (HEAD, FileList); None when it does not say.

    Raises: TransientError.
    """
    if reply.status == 404:
        # Without a body nothing tells whose 404 it is.
        return None
    check(reply)
    length = reply.headers.get("content-length", "")
    return int(length) if reply.status == 200 and length.isdecimal() else None


def check_absent(reply: Reply) -> None:
    """Judge an answer that should have been a file of a resource: XNAT has none, though it may list it, or it raises.

    Every 404 of FileList is empty; a server that is away has a page. Raises: TransientError, RefusedError.
    """
    if reply.status in {204, 404} and not reply.text.strip():
        return
    check(reply)
    if reply.status == 404:
        return
    raise RefusedError(f"XNAT does not hand the file out ({reply.status}: {reply.message})", blames_server=True)


def check_refresh(reply: Reply) -> None:
    """Judge the answer to the refreshing of a catalog (RefreshCatalog). Raises: TransientError, RefusedError."""
    check(reply)
    if reply.status != 200:
        raise RefusedError(f"XNAT does not refresh the catalog ({reply.status}: {reply.message})", blames_server=True)


def parse_resource_labels(reply: Reply) -> set[str]:
    """Return the labels of the resources of an object (CatalogResourceList). Raises: TransientError."""
    check(reply)
    return set() if reply.status in {403, 404} else {row.get("label", "") for row in parse_rows(reply)}


def parse_scan_ids(reply: Reply) -> set[str]:
    """Return the IDs of the scans of a session (ScanList). Raises: TransientError."""
    check(reply)
    return set() if reply.status in {403, 404} else {row.get("ID", "") for row in parse_rows(reply)}
