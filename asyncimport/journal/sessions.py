"""Which session each instance goes to, and which patients each subject has."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from asyncimport.journal.connection import Connection
from asyncimport.journal.session_state import SessionState
from asyncimport.model.deliveries import Claim
from asyncimport.model.files import ArchivedPatient, Ignored, Instance, Patient, Session
from asyncimport.model.record import record
from asyncimport.routing.accepted_patients import AcceptedPatients
from asyncimport.routing.existing_sessions import RoutedLabels, label_conflict, matching_session
from asyncimport.routing.patients import (
    TWO_IDS,
    PatientConflict,
    digest_patient,
    is_same_patient,
    merge_patients,
    occupant_conflict,
    occupant_doubt,
    patient_conflict,
    two_people_text,
)

# Files of a session come together. Beyond this number of sessions, the journal looks one up again.
_SESSIONS_REMEMBERED = 2_000
# Patients of one session. Beyond this number, the journal compares one again.
_PATIENTS_REMEMBERED = 16
_ALLOW = "--allow-mixed-patients allows it"
_ACCEPT = "--accept-patients accepts this pair"


@record
class _KnownSession:
    """A session that has a row, the labels that the rules give it, and the patients that this run found to fit."""

    key: int
    session: Session
    routed: RoutedLabels
    patients: frozenset[Patient]


@record
class NoSession:
    """Why an instance has no session. `disputes` is the session of its study, which is not archived in part."""

    reason: str
    disputes: int | None = None


class Sessions:
    """The sessions of the journal: the first study of a label keeps it, later ones get a reason instead.

    `allow_mixed_patients` lets several patients share a subject; the journal remembers each pair that it allows.
    `accepted` people are one person, and no exception: they are compared with others as before.
    `is_planned`: labels were decided for whole studies, so they are not those that the rules give each file.
    """

    def __init__(
        self,
        connection: Connection,
        state: SessionState,
        *,
        allow_mixed_patients: bool,
        accepted: AcceptedPatients,
        is_planned: bool,
    ) -> None:
        self._connection = connection
        self._db = connection.db
        self._state = state
        self._allow_mixed_patients = allow_mixed_patients
        self._accepted = accepted
        self._is_planned = is_planned
        self._sessions: dict[tuple[str, str], _KnownSession] = {}
        self._other_studies: dict[tuple[str, str, str, str], str] = {}
        self._notices: dict[str, None] = {}
        self._noticed: set[str] = set()

    def take_notices(self) -> list[str]:
        """Return notices about patients that keep nothing from being sent; each once in a run."""
        notices, self._notices = self._notices, {}
        return [*notices]

    def check_archived_patients(self, session: Session, occupants: Sequence[ArchivedPatient]) -> str | None:
        """Return why a session must not go into its subject, by the patients there that this journal did not send."""
        with self._connection.transaction():
            ours = self._db.execute(
                "SELECT p.key, p.id, p.name, p.birth_date, p.issuer FROM patient p JOIN session s ON s.patient = p.id "
                "AND s.project = p.project AND s.subject = p.subject COLLATE NOCASE "
                "WHERE s.project = ? AND s.study_uid = ? AND p.allowed IS NULL",
                (session.project, session.study_uid),
            ).fetchall()
            sent = {
                label.lower()
                for (label,) in self._db.execute(
                    "SELECT label FROM session s WHERE project = ? AND subject = ? COLLATE NOCASE AND EXISTS "
                    "(SELECT 1 FROM delivery d WHERE d.session = s.key AND d.uri IS NOT NULL AND d.state = 'ARCHIVED')",
                    (session.project, session.subject),
                )
            }
            others = [_without_names(one) for one in occupants if one.session.label.lower() not in sent]
            for key, *values in ours:
                patient = Patient(*values)
                why = next(filter(None, (occupant_conflict(one, session.subject, patient) for one in others)), "")
                if why and self._allow_mixed_patients:
                    self._db.execute("UPDATE patient SET allowed = 1 WHERE key = ?", (key,))
                elif why:
                    return f"{why}; {_ALLOW}"
                elif doubt := next(filter(None, (occupant_doubt(one, session.subject, patient) for one in others)), ""):
                    self._notice(f"study {session.study_uid} (subject {session.subject}): ({doubt})")
        return None

    def _notice(self, text: str) -> None:
        if text not in self._noticed:
            self._noticed.add(text)
            self._notices[text] = None

    def keys_of(self, batch: Iterable[Instance | Ignored]) -> Iterator[int | NoSession | None]:
        """Yield the key of the session of each instance, or why it has none; None for other files."""
        last: tuple[Session, Patient, int | NoSession] | None = None
        for item in batch:
            if isinstance(item, Ignored):
                yield None
            elif last is not None and item.session is last[0] and item.patient is last[1]:
                yield last[2]
            else:
                key = self._key_of(item)
                last = (item.session, item.patient, key) if isinstance(key, int) else None
                yield key

    def _key_of(self, instance: Instance) -> int | NoSession:
        """Return the key of the session of an instance, or why it has none."""
        session, patient = instance.session, instance.patient
        known = self._sessions.get((session.project, session.study_uid)) or self._find(session)
        if known is None:
            if reason := self._label_taken(session) or self._add_patient(session, patient, None):
                return NoSession(reason)
            known = _KnownSession(self._register(instance), session, self._routed_labels(session), frozenset([patient]))
        elif known.key in self._state.undecided:
            if reason := self._relabel(known, session, patient):
                return NoSession(reason, known.key)
            known = _KnownSession(known.key, session, self._routed_labels(session), frozenset([patient]))
        else:
            first = known.session
            if session != first and (session.subject, session.label) != known.routed:
                if self._is_planned or matching_session(first, known.routed, session) is None:
                    return NoSession(
                        f"study {session.study_uid} goes to subject {first.subject}, session {first.label}; by this "
                        f"file's header it would go to subject {session.subject}, session {session.label}",
                        known.key,
                    )
                known = self._keep_session(known, session)
            if patient not in known.patients:
                if reason := self._add_patient(first, patient, known):
                    return NoSession(reason, known.key)
                patients = known.patients if len(known.patients) < _PATIENTS_REMEMBERED else frozenset[Patient]()
                known = replace(known, patients=patients | {patient})
        if len(self._sessions) >= _SESSIONS_REMEMBERED:
            self._sessions.clear()
        self._sessions[session.project, session.study_uid] = known
        return known.key

    def _routed_labels(self, session: Session) -> RoutedLabels:
        return session.subject, None if self._is_planned else session.label

    def _keep_session(self, known: _KnownSession, session: Session) -> _KnownSession:
        """Let a study keep its session, and note the labels that the rules give it now."""
        routed, first = self._routed_labels(session), known.session
        self._db.execute("UPDATE session SET routed_subject = ?, routed_label = ? WHERE key = ?", (*routed, known.key))
        self._notice(
            f"study {session.study_uid}: it has a session already, and its new files go there "
            f"(subject {first.subject}, session {first.label}; not {session.subject}, {session.label})"
        )
        return replace(known, routed=routed)

    def take_label(self, claim: Claim, label: str) -> bool:
        """Give the session of a claim the label under which the archive has its study; False if that is not its own."""
        session = claim.instance.session
        with self._connection.transaction():
            (has_row,) = self._connection.one(
                "SELECT EXISTS (SELECT 1 FROM delivery d JOIN session s ON s.key = d.session WHERE s.project = ? "
                "AND s.study_uid = ? AND d.uri IS NOT NULL AND d.state NOT IN ('ARCHIVED', 'DELETED'))",
                (session.project, session.study_uid),
            )
            if self._is_planned or has_row or self._label_taken(replace(session, label=label)) is not None:
                return False
            self._db.execute(
                "UPDATE session SET label = ? WHERE project = ? AND study_uid = ?",
                (label, session.project, session.study_uid),
            )
            self._sessions.pop((session.project, session.study_uid), None)
            self._notice(
                f"study {session.study_uid}: it is in the archive already, and its new files go there "
                f"(session {label}; not {session.label})"
            )
        return True

    def _relabel(self, known: _KnownSession, session: Session, patient: Patient) -> str | None:
        """Give a session in the prearchive the labels of changed rules, or return why it cannot have them."""
        first, routed = known.session, (*self._routed_labels(session), known.key)
        if first == session:
            self._db.execute("UPDATE session SET routed_subject = ?, routed_label = ? WHERE key = ?", routed)
            self._state.undecided.discard(known.key)
            return None
        self._db.execute("SAVEPOINT relabel")
        reason = None if first.label.lower() == session.label.lower() else self._label_taken(session)
        if reason is None:
            self._db.execute(
                "UPDATE session SET subject = ?, label = ?, initial_subject = coalesce(initial_subject, subject), "
                "initial_label = coalesce(initial_label, label), routed_subject = ?, routed_label = ? WHERE key = ?",
                (session.subject, session.label, *routed),
            )
            self._db.execute(
                "DELETE FROM patient WHERE project = ?1 AND subject = ?2 AND archived IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM session WHERE project = ?1 AND subject = ?2 COLLATE NOCASE)",
                (first.project, first.subject),
            )
            reason = self._add_patient(session, patient, known)
        if reason is not None:
            self._db.execute("ROLLBACK TO relabel")
        else:
            self._state.undecided.discard(known.key)
        self._db.execute("RELEASE relabel")
        return reason

    def _find(self, session: Session) -> _KnownSession | None:
        row = self._db.execute(
            "SELECT key, subject, label, routed_subject, routed_label FROM session WHERE project = ? AND study_uid = ?",
            (session.project, session.study_uid),
        ).fetchone()
        if row is None:
            return None
        key, subject, label, *routed = row
        return _KnownSession(key, replace(session, subject=subject, label=label), (routed[0], routed[1]), frozenset())

    def _label_taken(self, session: Session) -> str | None:
        owner = self._db.execute(
            "SELECT study_uid FROM session WHERE project = ? AND label = ? COLLATE NOCASE",
            (session.project, session.label),
        ).fetchone()
        why = label_conflict(session, None if owner is None else owner[0])
        return f"study {session.study_uid}: {why}" if why else None

    def _register(self, instance: Instance) -> int:
        session = instance.session
        return self._connection.insert(
            "INSERT INTO session (project, subject, label, study_uid, patient, routed_subject, routed_label, "
            "study_date) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(session.project, session.subject, session.label, session.study_uid),
                *(instance.patient.id, *self._routed_labels(session), instance.study_date or None),
            ),
        )

    def _add_patient(self, session: Session, patient: Patient, known: _KnownSession | None) -> str | None:
        """Record the patient of a session (`known`, if it has a row), or return why the patient does not fit.

        The journal keeps only digests of names and birth dates: it compares them and never shows them.
        """
        wanted = digest_patient(patient)
        own, others = self._patients_in_subject(session, patient.id), self._patients_elsewhere(session, patient.id)
        for key, one in own:
            if is_same_patient(one, wanted):
                if (more := merge_patients(one, wanted)) != one:
                    if patient.id and (conflict := self._conflict_of_known(session, key, more)):
                        return self._reason(session, patient, conflict)
                    self._db.execute(
                        "UPDATE patient SET issuer = ?, name = ?, birth_date = ? WHERE key = ?",
                        (more.issuer, more.name, more.birth_date, key),
                    )
                return None
        why: PatientConflict | None = None
        if known is not None and self._connection.one("SELECT patient FROM session WHERE key = ?", (known.key,)) != (
            patient.id,
        ):
            why = PatientConflict("the study holds files of two PatientIDs")
        if not why and self._has_others(session, patient.id):
            why = PatientConflict(TWO_IDS)
        people = [*((session.subject, one) for _, one in own), *others]
        why = why or patient_conflict(people, session.subject, wanted, self._accepted.accepts)
        if why and not self._allow_mixed_patients:
            return self._reason(session, patient, why)
        self._db.execute(
            "INSERT INTO patient (project, subject, id, issuer, name, birth_date, allowed) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(session.project, session.subject, patient.id, patient.issuer),
                *(wanted.name, wanted.birth_date, 1 if why else None),
            ),
        )
        for subject, one in others:
            if is_same_patient(one, wanted):
                self._notice(
                    f"study {session.study_uid}: one PatientID under two subjects ({subject}, {session.subject})"
                )
        return None

    def _patients_in_subject(self, session: Session, patient_id: str) -> list[tuple[int, Patient]]:
        """Return the patients with this PatientID in the subject of a session, with their keys."""
        rows = self._db.execute(
            "SELECT key, id, name, birth_date, issuer FROM patient WHERE project = ? AND subject = ? AND id = ?",
            (session.project, session.subject, patient_id),
        ).fetchall()
        return [(key, Patient(*values)) for key, *values in rows]

    def _has_others(self, session: Session, patient_id: str) -> bool:
        query = "SELECT 1 FROM patient WHERE project = ? AND subject = ? AND id <> ?"
        return self._connection.exists(query, (session.project, session.subject, patient_id))

    def _conflict_of_known(self, session: Session, key: int, patient: Patient) -> PatientConflict | None:
        """Compare a known patient again if more is known of them now: a file without a name lets nobody else in."""
        rows = self._db.execute(
            "SELECT o.subject, o.id, o.name, o.birth_date, o.issuer FROM patient p JOIN patient o ON "
            "o.project = p.project AND o.id = p.id AND o.key <> p.key AND o.allowed IS NULL "
            "WHERE p.key = ? AND p.allowed IS NULL",
            (key,),
        )
        known = [(subject, Patient(*values)) for subject, *values in rows]
        return patient_conflict(known, session.subject, patient, self._accepted.accepts)

    def _reason(self, session: Session, patient: Patient, why: PatientConflict) -> str:
        where = f"study {session.study_uid}, subject {session.subject}"
        if why.other is None:
            return f"{where}: {why.text}; {_ALLOW}"
        other = self._study_of(session, why.other[0], patient.id)
        return f"{where}: {two_people_text(why.text, other)}; {_ACCEPT if patient.id else _ALLOW}"

    def _study_of(self, session: Session, subject: str, patient_id: str) -> str:
        """Return a study of a subject with this PatientID, another one if there is one; "" if it is forgotten."""
        key = (session.project, subject.lower(), patient_id, session.study_uid)
        # Each file of a study asks.
        if key in self._other_studies:
            return self._other_studies[key]
        found = self._db.execute(
            "SELECT study_uid FROM session WHERE project = ? AND subject = ? COLLATE NOCASE AND patient = ? "
            "ORDER BY study_uid = ?, key LIMIT 1",
            (session.project, subject, patient_id, session.study_uid),
        ).fetchone()
        if len(self._other_studies) >= _SESSIONS_REMEMBERED:
            self._other_studies.clear()
        return self._other_studies.setdefault(key, "" if found is None else str(found[0]))

    def _patients_elsewhere(self, session: Session, patient_id: str) -> list[tuple[str, Patient]]:
        """Return patients with this PatientID in other subjects, each with one of these. An empty ID matches none."""
        if not patient_id:
            return []
        rows = self._db.execute(
            "SELECT min(subject), id, name, birth_date, issuer FROM patient WHERE project = ? AND id = ? "
            "AND subject <> ? GROUP BY issuer, name, birth_date",
            (session.project, patient_id, session.subject),
        ).fetchall()
        return [(subject, Patient(*values)) for subject, *values in rows]


def _without_names(occupant: ArchivedPatient) -> ArchivedPatient:
    return replace(occupant, patient=digest_patient(occupant.patient))
