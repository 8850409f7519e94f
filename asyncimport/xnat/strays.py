"""Rows of the prearchive that bear our sessions' names and are no deliveries of ours: found, removed with proof."""

import os
import tempfile
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

import anyio.to_thread

from asyncimport import replies
from asyncimport.dicom import NotDicom, Unreadable, identify
from asyncimport.errors import RefusedError
from asyncimport.model import Session, Stray
from asyncimport.retry import RetryPolicy
from asyncimport.xnat.archive import find_experiment, held_of_study
from asyncimport.xnat.client import Client

__all__ = ["find_strays", "remove_stray"]

# What imports of ours call their source, and whoever else sends files as XNAT's own uploaders do.
_OUR_SOURCE = "uploader"


async def find_strays(
    client: Client, project: str, sessions: Iterable[Session], known: Collection[str], policy: RetryPolicy
) -> list[Stray]:
    """Look through the prearchive of a project for rows of these sessions; `known` are the URIs of live deliveries.

    Raises: TransientError, RefusedError when this user may not look.
    """
    rows = await client.ask("GET", f"/data/prearchive/projects/{project}?format=json", replies.prearchive, policy)
    ours = {(session.study_uid, session.label): session for session in sessions}
    return [
        Stray(session, f"/data{row.uri}", row.status, row.uploaded, row.source or "")
        for row in rows
        # XNAT shows rows without a project to those who may see all: what it misrouted is among them.
        if row.project in {project, "Unassigned"} and row.uri not in known
        if (session := ours.get((row.study_uid, row.label))) is not None
    ]


async def remove_stray(client: Client, stray: Stray, policy: RetryPolicy) -> None:
    """Delete a stray row, after every file in it was seen to be in the archive.

    Raises: RefusedError with the reason for which it stays, TransientError.
    """
    if stray.source not in {"", _OUR_SOURCE}:
        raise RefusedError(f"it was made by {stray.source}, not by us")
    row = await client.ask("GET", f"{stray.uri}?format=json", replies.row, policy)
    if row is None:
        return
    if row.is_busy:
        raise RefusedError(f"XNAT is at work on it ({row.status})")
    experiment = await find_experiment(client, stray.session, policy)
    if experiment is None:
        raise RefusedError("the archive has no session of this label and study")
    with tempfile.TemporaryDirectory(prefix="asyncimport-stray-") as directory:
        content = Path(directory) / "row.zip"
        await client.download(f"{stray.uri}?format=zip", content, policy)
        uids = await anyio.to_thread.run_sync(_uids, content)
    held = await held_of_study(client, experiment, stray.session, policy)
    if lacking := uids - held:
        raise RefusedError(f"{len(lacking)} of its {len(uids)} instances are not in the archive")
    await client.ask("DELETE", stray.uri, replies.deleted, policy)


def _uids(content: Path) -> frozenset[str]:
    """Return the SOPInstanceUIDs of the files in a zip. Raises: RefusedError when one of them cannot be told."""
    uids = set()
    entry = os.fspath(content.with_name("entry"))
    with zipfile.ZipFile(content) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            # One after the other under one name of ours: names in a zip may lead anywhere.
            Path(entry).write_bytes(archive.read(info))
            try:
                uids.add(identify(entry).sop_uid)
            except NotDicom:
                continue
            except Unreadable as outcome:
                raise RefusedError(f"a file in it cannot be told ({outcome.reason})") from None
    return frozenset(uids)
