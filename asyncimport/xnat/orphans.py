"""Rows of the prearchive that bear our sessions' names and are no deliveries of ours: found, removed with proof."""

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.dicom import NotDicom, Unreadable, identify
from asyncimport.errors import RefusedError
from asyncimport.model import Orphan, Session
from asyncimport.model.addresses import OUR_SOURCE, labels_match
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import find_session, held_of_session
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.identity import is_our_source, names_journal
from asyncimport.xnat.replies.images import (
    Row,
    check_build,
    check_delete,
    parse_file_count,
    parse_prearchive,
    parse_row,
)
from asyncimport.xnat.site import SiteRules

# XNAT moves `lastmod` once in 15 s only (GradualDicomImporter.updateSessionLastMod), when a file begins to come in.
_QUIET_SECONDS = 60.0
# What a build leaves among the files of a session (XNATSessionBuilder).
_CATALOG = re.compile(r"(?:\A|/)SCANS/[^/]+/[^/]+/scan_[^/]+_catalog\.xml\Z")
# A zip is not believed more than this: files in it, and bytes that it unpacks to. A header lies in what is kept.
_MOST_MEMBERS = 1_000_000
_MOST_RATIO = 200
_LEAST_UNPACKED = 64 << 20
_MOST_KEPT = 16 << 20
_PIECE = 256 << 10


async def find_orphans(
    client: Client,
    project: str,
    sessions: Iterable[Session],
    known: Collection[str],
    policy: RetryPolicy,
    source: str | None = None,
) -> list[Orphan]:
    """Look through the prearchive of a project for rows of these sessions; `known` are the URIs of live deliveries.

    Those of other journals than the one that names this `source` are no strays: an upload may be at work on them.
    Raises: TransientError, RefusedError when this user may not look.
    """
    rows = await client.request("GET", f"/data/prearchive/projects/{project}?format=json", parse_prearchive, policy)
    ours = {(session.study_uid, session.label): session for session in sessions}
    return [
        Orphan(session, f"/data{row.uri}", row.status, row.uploaded, row.source or "")
        for row in rows
        # XNAT shows rows without a project to those who may see all: what it misrouted is among them.
        if row.project in {project, "Unassigned"} and row.uri not in known
        if (session := ours.get((row.study_uid, row.label))) is not None
        # What another subject's files are in was begun by somebody else.
        if not row.subject or labels_match(row.subject, session.subject)
        if not (source and names_journal(row.source or "") and row.source != source)
    ]


async def delete_orphan(client: Client, orphan: Orphan, policy: RetryPolicy) -> None:
    """Delete a stray row, after every file in it was seen to be in the archive, and nothing has come in meanwhile.

    A row that is receiving is built first. XNAT takes it back to RECEIVING with the next file, and moves `lastmod` with
    each file that comes more than 15 s after the last move: so both must be as they were, right before the row is
    deleted.
    Raises: RefusedError with the reason for which it stays, TransientError.
    """
    if orphan.source and not is_our_source(orphan.source):
        raise RefusedError(f"it was made by {orphan.source}, not by us")
    row = await _row(client, orphan, policy)
    if row is None:
        return
    if row.is_busy:
        raise RefusedError(f"XNAT is at work on it ({row.status})")
    if row.quiet_seconds < _QUIET_SECONDS:
        raise RefusedError("a file may have come into it within the last minute: try again in a few minutes")
    there = await find_session(client, orphan.session, policy, SiteRules(client, policy))
    if there.problem is not None or not there.experiments:
        raise RefusedError(there.problem or "the archive has no session of this label and study")
    before = await _built(client, orphan, row, policy)
    found = await _downloaded(client, orphan, policy)
    if len(found) < before.files:
        raise RefusedError(f"XNAT handed out {len(found)} of its {before.files} files")
    uids = frozenset(found)
    held = await held_of_session(client, orphan.session, there.experiments, uids, policy)
    if lacking := uids - held.keys():
        raise RefusedError(f"{len(lacking)} of its {len(uids)} instances are not in the archive")
    if await _state(client, orphan, policy) != before:
        raise RefusedError("it has changed while it was looked at: a file has come into it, it may be")
    await client.request("DELETE", orphan.uri, check_delete, policy)


@dataclass(frozen=True, slots=True)
class _State:
    """A row as it was looked at, and the number of files that its document names."""

    row: Row
    files: int


async def _row(client: Client, orphan: Orphan, policy: RetryPolicy) -> Row | None:
    return await client.request("GET", f"{orphan.uri}?format=json", parse_row, policy)


async def _state(client: Client, orphan: Orphan, policy: RetryPolicy) -> _State | None:
    files = await client.request("GET", f"{orphan.uri}/resources?format=json", parse_file_count, policy)
    row = await _row(client, orphan, policy)
    return None if row is None or files is None else _State(row, files)


async def _built(client: Client, orphan: Orphan, row: Row, policy: RetryPolicy) -> _State:
    """Build a row that is receiving, and return what it is then. Nothing may have come in since `row` was looked at."""
    if row.is_receiving:
        if not is_our_source(row.source or ""):
            raise RefusedError(f"it is receiving files ({row.status})")
        await client.request("POST", f"{orphan.uri}?action=build&SOURCE={OUR_SOURCE}", check_build, policy)
    state = await _state(client, orphan, policy)
    if state is None:
        raise RefusedError("it has no session document that tells what is in it")
    if state.row.is_receiving or state.row.is_busy or state.row.lastmod != row.lastmod:
        raise RefusedError(f"files are coming into it ({state.row.status})")
    return state


async def _downloaded(client: Client, orphan: Orphan, policy: RetryPolicy) -> list[str]:
    """Return the SOPInstanceUIDs of the files in a row. Nothing of them stays on this disk, also after a stop."""
    directory = Path(await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix="asyncimport-stray-")))
    try:
        content = directory / "row.zip"
        await client.download(f"{orphan.uri}?format=zip", content, policy)
        return await anyio.to_thread.run_sync(_sop_uids, content)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(shutil.rmtree, directory)


def _sop_uids(content: Path) -> list[str]:
    """Return the SOPInstanceUIDs of the files in a zip, one for each.

    Raises: RefusedError when one of them cannot be told, or there is none.
    """
    try:
        with zipfile.ZipFile(content) as archive:
            found = list(_uids_in(archive, content))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # As for an entry that is encrypted, or packed in a way that nobody knows.
        raise RefusedError(f"what XNAT handed out is no zip that can be read ({type(error).__name__})") from None
    except OSError as error:
        raise RefusedError(f"it cannot be unpacked ({error.strerror or type(error).__name__})") from None
    if not found:
        raise RefusedError("XNAT handed out no file of it")
    return found


def _uids_in(archive: zipfile.ZipFile, content: Path) -> Iterator[str]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > _MOST_MEMBERS:
        raise RefusedError(f"the zip of it holds {len(members):,} files, which is more than is looked into")
    left = _LEAST_UNPACKED + _MOST_RATIO * content.stat().st_size
    # One after the other under one name of ours: names in a zip may lead anywhere.
    entry = content.with_name("entry")
    for info in members:
        left -= _unpack(archive, info, entry, left)
        if _CATALOG.search(info.filename) and entry.read_bytes().lstrip().startswith(b"<"):
            continue
        try:
            yield identify(os.fspath(entry)).sop_uid
        except NotDicom as outcome:
            raise RefusedError(f"a file in it is no DICOM file ({outcome.reason})") from None
        except Unreadable as outcome:
            raise RefusedError(f"a file in it cannot be told ({outcome.reason})") from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, into: Path, most: int) -> int:
    """Unpack a file to its end, whose checksum is compared there, and keep its beginning; return how many bytes it had.

    Raises: RefusedError when it has more than `most` bytes.
    """
    size = 0
    with archive.open(info) as member, into.open("wb") as kept:
        while piece := member.read(_PIECE):
            if size < _MOST_KEPT:
                kept.write(piece)
            size += len(piece)
            if size > most:
                raise RefusedError("the zip of it unpacks to far more than it holds")
    return size
