"""Who goes where: studies, labels and patients, and what of them collides with what was met before."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from asyncimport.journal.database import Waiting
from asyncimport.journal.store import Store
from asyncimport.model import Instance, Patient, Session
from asyncimport.routing import mismatch

__all__ = ["NoPlace", "Registry"]

# Files of a session come together; with more sessions than this in between, one is looked up again.
_SESSIONS_REMEMBERED = 2_000
_ALLOW = "--merge-patients allows it"


@dataclass(frozen=True, slots=True)
class _Known:
    """A session that has a row, and the patient that it was last seen to agree with (None: not in this run)."""

    key: int
    session: Session
    patient: Patient | None


@dataclass(frozen=True, slots=True)
class NoPlace:
    """Why an instance goes into no session; `disputes` is the session of its study, if another patient has that."""

    reason: str
    disputes: int | None = None


class Registry(Store):
    """The sessions of the journal. What was met first keeps its label; what collides with it gets a reason instead.

    `merge_patients` lets several patients share a subject.
    """

    def __init__(
        self,
        path: Path,
        *,
        destination: str,
        rules: Mapping[str, str],
        reroute: bool = False,
        merge_patients: bool = False,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        waiting: Waiting | None = None,
    ) -> None:
        super().__init__(
            path,
            destination=destination,
            rules=rules,
            reroute=reroute,
            clock=clock,
            ticks=ticks,
            waiting=waiting,
        )
        self._merge_patients = merge_patients
        self._sessions: dict[tuple[str, str], _Known] = {}

    def _session(self, instance: Instance) -> int | NoPlace:
        """Return the key of the instance's session, or the reason why it cannot go there."""
        session, patient = instance.session, instance.patient
        known = self._sessions.get((session.project, session.study_uid)) or self._find(session)
        if known is None:
            if reason := self._label_taken(session) or self._meet(session, patient, None):
                return NoPlace(reason)
            known = _Known(self._register(session, patient), session, patient)
        elif known.session != session:
            first = known.session
            return NoPlace(
                f"study {session.study_uid} goes to subject {first.subject}, session {first.label}; by this file's "
                f"header it would go to subject {session.subject}, session {session.label}",
                known.key if self._is_of_another(known.key, patient) else None,
            )
        elif known.patient != patient:
            if reason := self._meet(session, patient, known.key):
                return NoPlace(reason, known.key)
            known = _Known(known.key, session, patient)
        if len(self._sessions) >= _SESSIONS_REMEMBERED:
            self._sessions.clear()
        self._sessions[session.project, session.study_uid] = known
        return known.key

    def _find(self, session: Session) -> _Known | None:
        row = self._db.execute(
            "SELECT key, subject, label FROM session WHERE project = ? AND study_uid = ?",
            (session.project, session.study_uid),
        ).fetchone()
        return row and _Known(row[0], Session(session.project, row[1], row[2], session.study_uid), None)

    def _label_taken(self, session: Session) -> str | None:
        owner = self._db.execute(
            "SELECT study_uid FROM session WHERE project = ? AND label = ? COLLATE NOCASE",
            (session.project, session.label),
        ).fetchone()
        return owner and (
            f"study {session.study_uid}: the session label {session.label} belongs to study {owner[0]} already"
        )

    def _register(self, session: Session, patient: Patient) -> int:
        return self._insert(
            "INSERT INTO session (project, subject, label, study_uid, patient) VALUES (?, ?, ?, ?, ?)",
            (session.project, session.subject, session.label, session.study_uid, patient.id),
        )

    def _meet(self, session: Session, patient: Patient, key: int | None) -> str | None:
        """Note the patient of a session (of the row `key`, if it has one), or return what is wrong with it.

        Of names and birth dates the journal keeps digests only, as it needs to compare and not to tell them.
        """
        if self._merge_patients:
            return None
        where = f"study {session.study_uid}, subject {session.subject}"
        if key is not None and self._is_of_another(key, patient):
            return f"{where}: the study holds files of two PatientIDs; {_ALLOW}"
        if self._db.execute(
            "SELECT 1 FROM patient WHERE project = ? AND subject = ? AND id <> ?",
            (session.project, session.subject, patient.id),
        ).fetchone():
            return f"{where}: the subject would hold two PatientIDs; {_ALLOW}"
        name, birth_date = _digest(patient.name), _digest(patient.birth_date)
        same_person = "id = ?2" if patient.id else "id = '' AND subject = ?2"
        other = self._db.execute(
            f"SELECT name, birth_date FROM patient WHERE project = ?1 AND {same_person} AND "  # noqa: S608 - fixed text
            "((?3 <> '' AND name NOT IN ('', ?3)) OR (?4 <> '' AND birth_date NOT IN ('', ?4)))",
            (session.project, patient.id or session.subject, name, birth_date),
        ).fetchone()
        if other is not None:
            return f"{where}: {mismatch(Patient(patient.id, *other), Patient(patient.id, name, birth_date))}; {_ALLOW}"
        self._db.execute(
            "INSERT INTO patient VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "name = iif(name = '', excluded.name, name), "
            "birth_date = iif(birth_date = '', excluded.birth_date, birth_date)",
            (session.project, session.subject, patient.id, name, birth_date),
        )
        return None

    def _is_of_another(self, key: int, patient: Patient) -> bool:
        """Whether the session of this row is of another PatientID, and may not be."""
        of = self._one("SELECT patient FROM session WHERE key = ?", (key,))
        return not self._merge_patients and of != (patient.id,)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] if text else ""
