"""What the archive held of sessions before this journal sent anything of them, as when an earlier journal is lost."""

from collections.abc import Iterable
from dataclasses import dataclass

from asyncimport.journal.registry import Registry
from asyncimport.model import Claim, Existing
from asyncimport.routing import misfit

__all__ = ["Adopted", "Holdings"]


@dataclass(frozen=True, slots=True)
class Adopted:
    """So many instances of so many bytes that waited are in the archive already, and are not sent."""

    files: int
    size: int


class Holdings(Registry):
    """Instances that need not be sent: they count as stored, in a delivery of their own that has no prearchive row."""

    def adopt(self, claim: Claim, there: Existing | None) -> Adopted | None:
        """Note what the archive has of the session of a claim; None: nothing, and the claim is to be sent.

        Nothing counts as well what the journal itself has brought there, if XNAT merges what waits into it. Otherwise
        the claim is as if it had not been handed out, and what the archive has is not sent, whether it waits now or is
        met later. All the same nothing proves that it has the bytes that are on disk: they are `presumed`.
        """
        with self._transaction():
            (session,) = self._one("SELECT session FROM instance WHERE key = ?", (claim.key,))
            self._db.execute("INSERT OR IGNORE INTO looked VALUES (?)", (session,))
            if there is None:
                return None
            self._db.execute("INSERT OR REPLACE INTO typed VALUES (?, ?)", (session, there.kind))
            is_ours = self._has_brought(session, there.held)
            if is_ours and not self._misfit(session):
                return None
            self._db.execute("DELETE FROM flying WHERE session = ? AND instance = ?", (session, claim.key))
            self._db.execute("INSERT OR IGNORE INTO waiting VALUES (?, ?)", (session, claim.key))
            if not is_ours:
                self._over(
                    "INSERT OR IGNORE INTO held SELECT column1, column2 FROM {rows}",
                    [(session, uid) for uid in there.held],
                )
            # The delivery that had been begun for it holds nothing, and never will: it stands for what was found.
            if not is_ours and self._adoption(session) is None:
                self._db.execute(
                    "UPDATE delivery SET state = 'ARCHIVED', archive_uri = ?, verified = 'present', merges = 1, "
                    "closed_at = ? WHERE session = ? AND state = 'OPEN' AND uri IS NULL",
                    (there.uri, self._clock(), session),
                )
            self._db.execute("DELETE FROM begun WHERE session = ?", (session,))
            return self._adopt_waiting([session])

    def _has_brought(self, session: int, held: frozenset[str]) -> bool:
        """Whether all that the archive has of a session was stored there by deliveries of this journal."""
        stored = self._db.execute("SELECT sop_uid FROM instance WHERE session = ? AND state = 'STORED'", (session,))
        return bool(held) and held <= {uid for (uid,) in stored}

    def _adoption(self, session: int) -> int | None:
        """Return the delivery of a session that stands for what was found in the archive."""
        row = self._db.execute(
            "SELECT key FROM delivery WHERE session = ? AND state = 'ARCHIVED' AND uri IS NULL", (session,)
        ).fetchone()
        return None if row is None else int(row[0])

    def _adopt_waiting(self, sessions: Iterable[int]) -> Adopted:
        """Let what waits of sessions, and was found in the archive, count as stored."""
        files = size = 0
        if not self._one("SELECT EXISTS (SELECT 1 FROM held)")[0]:
            return Adopted(0, 0)
        for session in sessions:
            rows = self._db.execute(
                "SELECT i.key, f.size FROM waiting w CROSS JOIN instance i ON i.key = w.instance "
                "JOIN held h ON h.session = i.session AND h.sop_uid = i.sop_uid JOIN file f ON f.key = i.file "
                # What is to take the place of what the archive has is sent.
                "WHERE w.session = ? AND i.state = 'PENDING' AND i.presumed IS NULL",
                (session,),
            ).fetchall()
            if not rows:
                continue
            delivery = self._adoption(session)
            self._db.executemany(
                "UPDATE instance SET state = 'STORED', reason = NULL, delivery = ?, run = NULL, attempts = 0, "
                "settled_at = ?, sha256 = NULL, xxh3 = NULL, presumed = 1 WHERE key = ?",
                [(delivery, self._clock(), key) for key, _ in rows],
            )
            self._db.executemany(
                "DELETE FROM waiting WHERE session = ? AND instance = ?", [(session, key) for key, _ in rows]
            )
            files, size = files + len(rows), size + sum(size for _, size in rows)
        return Adopted(files, size)

    def _must_look(self, session: int, uri: str | None) -> bool:
        """Whether the archive is to be asked what it has of a session before more is sent into the delivery at `uri`.

        Before each new one, as others may have sent what waits here. What another found there may not be all of it yet.
        """
        if self._one("SELECT EXISTS (SELECT 1 FROM looked WHERE session = ?)", (session,))[0]:
            return False
        return uri is None or self._adoption(session) is not None

    def _misfit(self, session: int) -> str:
        """Say why XNAT would not merge what waits of a session into what the archive has of it; "": it may."""
        kind = self._db.execute("SELECT kind FROM typed WHERE session = ?", (session,)).fetchone()
        return misfit(kind[0], self._modalities(session)) if kind is not None and kind[0] else ""

    def _modalities(self, session: int) -> set[str]:
        """Return the modalities of what is to be sent of a session, and of what is in its row of the prearchive."""
        rows = self._db.execute(
            "SELECT DISTINCT i.modality FROM (SELECT instance FROM waiting WHERE session = ?1 "
            "UNION ALL SELECT instance FROM flying WHERE session = ?1) w JOIN instance i ON i.key = w.instance "
            "UNION SELECT i.modality FROM instance i JOIN delivery d ON d.key = i.delivery "
            "WHERE i.session = ?1 AND i.state = 'STORED' AND d.state IN ('OPEN', 'BUILT')",
            (session,),
        )
        return {modality or "" for (modality,) in rows}
