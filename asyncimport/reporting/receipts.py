"""Receipts: a line of JSON for each file, attachment and session that arrived, and each address that a run created.

They are written from the journal, so they also cover files of a run that was killed.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from asyncimport.errors import AsyncimportError
from asyncimport.journal import JournalReader, StoredInstance
from asyncimport.reporting.entries import lane, session_names, text_of_path
from asyncimport.source.bytes_on_disk import compute_sha256
from asyncimport.system.output_files import replacing


def write_receipts(path: Path, reader: JournalReader) -> None:
    """Write the receipts of all files in scope in place of earlier ones; `path` may be a pipe or device.

    Only the owner can read them. Raises: AsyncimportError; then earlier receipts stay as they were.
    """
    try:
        with replacing(path) as file:
            file.writelines(f"{json.dumps(line)}\n".encode() for line in _lines(reader))
    except OSError as error:
        raise AsyncimportError(
            f"--receipts {path} cannot be written: {error.strerror}",
            hint="run the same command again: nothing of the upload is lost",
        ) from error


def _lines(reader: JournalReader) -> Iterator[Mapping[str, object]]:
    for stored in reader.stored_instances():
        sha256, of = _digest(stored)
        yield {
            "kind": "file",
            **session_names(stored.session),
            "series_uid": stored.series_uid,
            "sop_uid": stored.sop_uid,
            "path": text_of_path(stored.file.path),
            "bytes": stored.file.size,
            "lane": lane(stored.zip_size),
            "sent_bytes": stored.file.size if stored.zip_size is None else stored.zip_size,
            "sha256": sha256,
            "sha256_of": of,
            "uri": stored.uri and f"/data{stored.uri}",
            "attempts": stored.attempts,
            "time": _time(stored.settled_at),
            "run": str(stored.run),
        }
    for row in reader.stored_attachments():
        yield {
            "kind": "attachment",
            **session_names(row.session),
            "resource": row.resource,
            "name": row.name,
            "path": text_of_path(row.file.path),
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
        # Instances that the archive had already came in no delivery of ours.
        if one.uri and one.archive_uri:
            if one.number == 1 and not one.merges:
                # Without an earlier answer of XNAT, it is unknown whether the session existed.
                sure = one.merges is False
                yield {"kind": "created", "what": "session", "uri": one.archive_uri, "sure": sure, "run": str(one.run)}
            yield {
                "kind": "session",
                **session_names(one.session),
                "delivery": one.number,
                "files": one.files,
                "prearchive_uri": uri,
                "uri": one.archive_uri,
                "merged": True if one.number > 1 else one.merges,
                "verified": one.verified,
                "time": _time(one.closed_at),
                "run": str(one.run),
            }


def _digest(stored: StoredInstance) -> tuple[str | None, str | None]:
    """Return the SHA-256 of a file, and of which bytes: those that were "sent", or those of the "file" now."""
    if stored.sha256 is not None:
        return stored.sha256, "sent"
    if (found := compute_sha256(stored.file, stored.xxh3)) is None:
        return None, None
    sha256, is_what_was_sent = found
    return sha256.hex(), "sent" if is_what_was_sent else "file"


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
