"""Receipts: a line of JSON for each file, attachment and session that arrived, and for every address that a run made.

They are written from the journal, so a file has them also when the run that sent it was killed.
"""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.journal import JournalReader, StoredInstance
from asyncimport.model import Session
from asyncimport.source.bytes_on_disk import compute_sha256
from asyncimport.system.output_files import check_output, hint_for, replacing


def check_receipts(path: Path) -> None:
    """Refuse, before anything is sent, a place where no receipts can be written. Raises: UsageError."""
    try:
        check_output(path)
    except OSError as error:
        raise UsageError(
            f"--receipts {path} cannot be written: {error.strerror}",
            hint=hint_for(error, "give a file in a directory that you may write to"),
        ) from error


def write_receipts(path: Path, reader: JournalReader) -> None:
    """Write the receipts of all files in scope, readable by their owner only, in place of earlier ones.

    A pipe or a device is written to. Raises: AsyncimportError; earlier receipts are left as they were then.
    """
    try:
        with replacing(path) as file:
            file.writelines(f"{json.dumps(line)}\n".encode() for line in _lines(reader))
    except OSError as error:
        raise AsyncimportError(
            f"--receipts {path} cannot be written: {error.strerror}",
            hint="nothing of the upload is lost by that: run the same command again",
        ) from error


def _lines(reader: JournalReader) -> Iterator[Mapping[str, object]]:
    for arrived in reader.stored_instances():
        sha256, of = _digest(arrived)
        yield {
            "kind": "file",
            **_names(arrived.session),
            "series_uid": arrived.series_uid,
            "sop_uid": arrived.sop_uid,
            "path": _text(arrived.file.path),
            "bytes": arrived.file.size,
            "sha256": sha256,
            "sha256_of": of,
            "uri": arrived.uri and f"/data{arrived.uri}",
            "attempts": arrived.attempts,
            "time": _time(arrived.settled_at),
            "run": str(arrived.run),
        }
    for row in reader.stored_attachments():
        yield {
            "kind": "attachment",
            **_names(row.session),
            "resource": row.resource,
            "name": row.name,
            "path": _text(row.file.path),
            "bytes": row.file.size,
            "md5": row.md5,
            "time": _time(row.settled_at),
            "run": str(row.run),
        }
    for one in reader.deliveries():
        uri = one.uri and f"/data{one.uri}"
        if one.uri:
            is_gone = one.state in {"ARCHIVED", "DELETED"}
            yield {"kind": "created", "what": "prearchive", "uri": uri, "gone": is_gone, "run": str(one.run)}
        # What was found in the archive is no delivery from here.
        if one.uri and one.archive_uri:
            if one.number == 1 and not one.merges:
                # Without an answer from before, nobody knows whether it was there.
                sure = one.merges is False
                yield {"kind": "created", "what": "session", "uri": one.archive_uri, "sure": sure, "run": str(one.run)}
            yield {
                "kind": "session",
                **_names(one.session),
                "delivery": one.number,
                "files": one.files,
                "prearchive_uri": uri,
                "uri": one.archive_uri,
                "merged": True if one.number > 1 else one.merges,
                "verified": one.verified,
                "time": _time(one.closed_at),
                "run": str(one.run),
            }


def _digest(arrived: StoredInstance) -> tuple[str | None, str | None]:
    """Return the SHA-256 of a file that was sent, and whose it is: of what was "sent", or of the "file" as it is now.

    A run without receipts keeps a quicker digest only. By that one the file on disk is known to be what was sent.
    """
    if arrived.sha256 is not None:
        return arrived.sha256, "sent"
    if (found := compute_sha256(arrived.file, arrived.xxh3)) is None:
        return None, None
    sha256, is_what_was_sent = found
    return sha256.hex(), "sent" if is_what_was_sent else "file"


def _names(session: Session) -> dict[str, str]:
    return {
        "project": session.project,
        "subject": session.subject,
        "session": session.label,
        "study_uid": session.study_uid,
    }


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
