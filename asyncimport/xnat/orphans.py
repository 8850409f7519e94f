"""Orphans: prearchive rows of our sessions that are no deliveries of ours. Found, and deleted with proof."""

import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.dicom import NotDicom, Unreadable, identify
from asyncimport.errors import RefusedError
from asyncimport.model.addresses import OUR_SOURCE, labels_match
from asyncimport.model.files import Session
from asyncimport.model.summary import Orphan
from asyncimport.model.texts import counted
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import Archive
from asyncimport.xnat.client import Client
from asyncimport.xnat.prearchive import Prearchive
from asyncimport.xnat.replies.identity import is_our_source, names_journal
from asyncimport.xnat.replies.images import Row, check_build, check_delete, parse_prearchive

# XNAT updates `lastmod` once in 15 s only (GradualDicomImporter.updateSessionLastMod), when a file begins to arrive.
_MIN_AGE_SECONDS = 60.0
# What a build leaves among the files of a session (XNATSessionBuilder).
_CATALOG = re.compile(r"(?:\A|/)SCANS/[^/]+/[^/]+/scan_[^/]+_catalog\.xml\Z")
# A zip may hold this many files, and unpack to 64 MiB and 200 times its size. A header is in the part that is kept.
_MAX_MEMBERS = 1_000_000
_MAX_RATIO = 200
_UNPACKED_BYTES = 64 << 20
_KEPT_BYTES = 16 << 20
_CHUNK_BYTES = 256 << 10


async def find_orphans(
    client: Client,
    project: str,
    sessions: Iterable[Session],
    known: Collection[str],
    policy: RetryPolicy,
    source: str | None = None,
) -> list[Orphan]:
    """Return the rows of these sessions in the prearchive of a project, but those `known` as URIs of deliveries.

    Rows of other journals than the one that names this `source` are no orphans: an upload may be filling them.
    Raises: TransientError, RefusedError if this user may not list the prearchive.
    """
    rows = await client.request("GET", f"/data/prearchive/projects/{project}?format=json", parse_prearchive, policy)
    ours = {(session.study_uid, session.label): session for session in sessions}
    return [
        Orphan(session, f"/data{row.uri}", row.status, row.uploaded, row.source or "")
        for row in rows
        # XNAT shows rows without a project to those who may see all; files that it misrouted are among them.
        if row.project in {project, "Unassigned"} and row.uri not in known
        if (session := ours.get((row.study_uid, row.label))) is not None
        # A row with files of another subject was begun by somebody else.
        if not row.subject or labels_match(row.subject, session.subject)
        if not (source and names_journal(row.source or "") and row.source != source)
    ]


async def delete_orphan(client: Client, orphan: Orphan, policy: RetryPolicy) -> None:
    """Delete an orphan if the archive has every file in it, and no file has come in meanwhile.

    A row that is receiving is built first. The next file would take it back to RECEIVING, and a file that comes more
    than 15 s after the last update changes `lastmod`. So both must be unchanged right before the row is deleted.
    Raises: RefusedError with the reason why it stays, TransientError.
    """
    if orphan.source and not is_our_source(orphan.source):
        raise RefusedError(f"it was made by {orphan.source}, not by us")
    prearchive, uri = Prearchive(client, policy), orphan.uri.removeprefix("/data")
    row = await prearchive.read_row(uri)
    if row is None:
        return
    if row.is_busy:
        raise RefusedError(f"XNAT is working on it ({row.status})")
    if row.min_age_seconds < _MIN_AGE_SECONDS:
        raise RefusedError("a file may have come into it within the last minute: try again in a few minutes")
    archive = Archive(client, policy)
    there = await archive.find_session(orphan.session)
    if there.problem is not None or not there.experiments:
        raise RefusedError(there.problem or "the archive has no session of this label and study")
    if row.is_receiving:
        if not is_our_source(row.source or ""):
            raise RefusedError(f"it is receiving files ({row.status})")
        await client.request("POST", f"{orphan.uri}?action=build&SOURCE={OUR_SOURCE}", check_build, policy)
    before = await _read_state(prearchive, uri)
    if before is None:
        raise RefusedError("it has no session document that tells what is in it")
    built, files = before
    if built.is_receiving or built.is_busy or built.lastmod != row.lastmod:
        raise RefusedError(f"files are coming into it ({built.status})")
    found = await _download_uids(client, orphan, policy)
    if len(found) < files:
        raise RefusedError(f"XNAT sent only {len(found)} of its {counted(files, 'file')}")
    uids = frozenset(found)
    if missing := uids - (await archive.read_digests(orphan.session, there.experiments, uids)).keys():
        raise RefusedError(f"the archive lacks {len(missing):,} of its {counted(len(uids), 'instance')}")
    if await _read_state(prearchive, uri) != before:
        raise RefusedError("it has changed meanwhile: a file may have come into it")
    await client.request("DELETE", orphan.uri, check_delete, policy)


async def _read_state(prearchive: Prearchive, uri: str) -> tuple[Row, int] | None:
    """Return a row, and how many files its document names."""
    files = await prearchive.count_files(uri)
    row = await prearchive.read_row(uri)
    return None if row is None or files is None else (row, files)


async def _download_uids(client: Client, orphan: Orphan, policy: RetryPolicy) -> list[str]:
    """Return the SOPInstanceUIDs of the files in a row. Nothing stays on this disk, also after a stop."""
    directory = Path(await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix="asyncimport-orphan-")))
    try:
        content = directory / "row.zip"
        await client.download(f"{orphan.uri}?format=zip", content, policy)
        return await anyio.to_thread.run_sync(_read_uids, content)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(shutil.rmtree, directory)


def _read_uids(content: Path) -> list[str]:
    """Return the SOPInstanceUID of each file in a zip. Raises: RefusedError if one is unreadable, or there is none."""
    try:
        with zipfile.ZipFile(content) as archive:
            found = list(_uids_in(archive, content))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # Among others for an entry that is encrypted, or packed by an unknown method.
        raise RefusedError(f"XNAT sent no zip that can be read ({type(error).__name__})") from None
    except OSError as error:
        raise RefusedError(f"it cannot be unpacked ({error.strerror or type(error).__name__})") from None
    if not found:
        raise RefusedError("XNAT sent no file of it")
    return found


def _uids_in(archive: zipfile.ZipFile, content: Path) -> Iterator[str]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) > _MAX_MEMBERS:
        raise RefusedError(f"its zip holds {len(members):,} files, more than {_MAX_MEMBERS:,}")
    remaining = _UNPACKED_BYTES + _MAX_RATIO * content.stat().st_size
    # One after the other under a name of ours: names in a zip may lead anywhere.
    entry = content.with_name("entry")
    for info in members:
        remaining -= _unpack(archive, info, entry, remaining)
        if _CATALOG.search(info.filename) and entry.read_bytes().lstrip().startswith(b"<"):
            continue
        try:
            yield identify(os.fspath(entry)).sop_uid
        except NotDicom as outcome:
            raise RefusedError(f"a file in it is no DICOM file ({outcome.reason})") from None
        except Unreadable as outcome:
            raise RefusedError(f"a file in it cannot be read ({outcome.reason})") from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, max_bytes: int) -> int:
    """Unpack a file to its end, where its checksum is compared, keep its beginning, and return its size."""
    size = 0
    with archive.open(info) as member, target.open("wb") as kept:
        while chunk := member.read(_CHUNK_BYTES):
            if size < _KEPT_BYTES:
                kept.write(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise RefusedError("its zip unpacks to far more than it holds")
    return size
