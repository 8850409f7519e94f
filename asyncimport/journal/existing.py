"""Instances that the archive held before this journal sent anything of their sessions, as after a lost journal."""

from collections.abc import Iterable

from asyncimport.journal.connection import Connection
from asyncimport.journal.first_files import FirstFiles
from asyncimport.model.deliveries import ArchivedContent, Claim
from asyncimport.model.record import record
from asyncimport.routing.studies import type_conflict


@record
class AdoptedFiles:
    """How many queued files, and bytes of them, the archive holds already: they are not sent."""

    files: int
    size: int


class ExistingInstances:
    """Instances that need not be sent: they count as stored, in a delivery that has no prearchive row."""

    def __init__(self, connection: Connection, first_files: FirstFiles) -> None:
        self._first_files = first_files
        self._connection = connection
        self._db = connection.db

    def adopt(self, claim: Claim, existing: ArchivedContent | None) -> AdoptedFiles | None:
        """Record what the archive has of the session of a claim; return None if the claim is to be sent.

        It is to be sent if the archive has nothing of the session, or only what this journal brought there, under the
        label of the claim, and XNAT merges that with what is queued. Otherwise the claim returns to the queue.
        Instances that the archive has are not sent, even if the scan meets them later. Nothing proves that it has the
        bytes on disk: they are `presumed`.
        """
        with self._connection.transaction():
            (session,) = self._connection.one("SELECT session FROM instance WHERE key = ?", (claim.key,))
            self._db.execute("INSERT OR IGNORE INTO archive_checked VALUES (?)", (session,))
            if existing is None:
                return None
            self._db.execute("INSERT OR REPLACE INTO archived_type VALUES (?, ?)", (session, existing.kind))
            is_ours = self._has_sent_all(session, existing.held)
            if is_ours and not existing.label and not self.merge_problem(session):
                return None
            self._db.execute("DELETE FROM in_flight WHERE session = ? AND instance = ?", (session, claim.key))
            self._db.execute("INSERT OR IGNORE INTO queued VALUES (?, ?)", (session, claim.key))
            if not is_ours:
                self._connection.execute_rows(
                    "INSERT OR IGNORE INTO archived_instance SELECT column1, column2 FROM {rows}",
                    [(session, uid) for uid in existing.held],
                )
            # The open delivery holds nothing, and never will: it stands for what was found.
            if not is_ours and self._adopted_delivery(session) is None:
                self._db.execute(
                    "UPDATE delivery SET state = 'ARCHIVED', archive_uri = ?, verified = 'present', merges = 1, "
                    "closed_at = ? WHERE session = ? AND state = 'OPEN' AND uri IS NULL",
                    (existing.uri, self._connection.clock(), session),
                )
            self._db.execute("DELETE FROM active_session WHERE session = ?", (session,))
            self._first_files.end(session, is_stored=False)
            return self.adopt_queued([session])

    def _has_sent_all(self, session: int, held: frozenset[str]) -> bool:
        """Whether deliveries of this journal stored all that the archive has of a session."""
        stored = self._db.execute("SELECT sop_uid FROM instance WHERE session = ? AND state = 'STORED'", (session,))
        return bool(held) and held <= {uid for (uid,) in stored}

    def _adopted_delivery(self, session: int) -> int | None:
        """Return the delivery of a session that stands for what was found in the archive."""
        row = self._db.execute(
            "SELECT key FROM delivery WHERE session = ? AND state = 'ARCHIVED' AND uri IS NULL", (session,)
        ).fetchone()
        return None if row is None else int(row[0])

    def adopt_queued(self, sessions: Iterable[int]) -> AdoptedFiles:
        """Count queued instances of sessions as stored if the archive has them."""
        files = size = 0
        if not self._connection.exists("SELECT 1 FROM archived_instance"):
            return AdoptedFiles(0, 0)
        for session in sessions:
            rows = self._db.execute(
                "SELECT i.key, f.size FROM queued w CROSS JOIN instance i ON i.key = w.instance "
                "JOIN archived_instance h ON h.session = i.session AND h.sop_uid = i.sop_uid "
                "JOIN file f ON f.key = i.file "
                # A new version of an archived instance is sent.
                "WHERE w.session = ? AND i.state = 'PENDING' AND i.presumed IS NULL",
                (session,),
            ).fetchall()
            if not rows:
                continue
            delivery = self._adopted_delivery(session)
            self._db.executemany(
                "UPDATE instance SET state = 'STORED', reason = NULL, delivery = ?, run = NULL, attempts = 0, "
                "settled_at = ?, sha256 = NULL, xxh3 = NULL, zip_size = NULL, presumed = 1 WHERE key = ?",
                [(delivery, self._connection.clock(), key) for key, _ in rows],
            )
            self._db.executemany(
                "DELETE FROM queued WHERE session = ? AND instance = ?", [(session, key) for key, _ in rows]
            )
            files, size = files + len(rows), size + sum(size for _, size in rows)
        return AdoptedFiles(files, size)

    def needs_archive_check(self, session: int, uri: str | None) -> bool:
        """Whether to ask, before each new delivery, what the archive has: others may have sent queued files."""
        if self._connection.exists("SELECT 1 FROM archive_checked WHERE session = ?", (session,)):
            return False
        return uri is None or self._adopted_delivery(session) is not None

    def merge_problem(self, session: int) -> str:
        """Return why XNAT would not merge the queued files of a session into what the archive has of it, or ""."""
        kind = self._db.execute("SELECT kind FROM archived_type WHERE session = ?", (session,)).fetchone()
        return type_conflict(kind[0], self._modalities(session)) if kind is not None and kind[0] else ""

    def _modalities(self, session: int) -> set[str]:
        """Return the modalities of the queued files of a session, and of those in its prearchive row."""
        rows = self._db.execute(
            "SELECT DISTINCT i.modality FROM (SELECT instance FROM queued WHERE session = ?1 "
            "UNION ALL SELECT instance FROM in_flight WHERE session = ?1) w JOIN instance i ON i.key = w.instance "
            "UNION SELECT i.modality FROM instance i JOIN delivery d ON d.key = i.delivery "
            "WHERE i.session = ?1 AND i.state = 'STORED' AND d.state IN ('OPEN', 'BUILT')",
            (session,),
        )
        return {modality or "" for (modality,) in rows}
