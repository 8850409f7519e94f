"""Sessions that studies already have, by the journal or in the archive: they keep their labels."""

from collections.abc import Iterable
from dataclasses import field, replace

from asyncimport.model.files import Session
from asyncimport.model.record import record

RoutedLabels = tuple[str | None, str | None]
"""Subject and label that the rules of a journal give a study file by file, None where unknown. They may differ from
those of its session, which avoided another label, or had earlier rules."""


@record
class ExistingSession:
    """A session and the date of its study (YYYYMMDD, or "" where unknown).

    The StudyInstanceUID is "" where a script of the site has mapped it. `ruled` is None for a session that gets other
    labels, and for one that is not in the journal.
    """

    session: Session
    date: str = ""
    ruled: RoutedLabels | None = None


def matching_session(existing: Session, ruled: RoutedLabels, wanted: Session) -> Session | None:
    """Return the session that a study has if the rules of today give it; None if they give another one.

    They give it if they say the same as so far, or if it is unknown what they said.
    """
    now = wanted.subject, wanted.label
    if now == (existing.subject, existing.label):
        return existing
    return existing if all(was in {None, is_now} for was, is_now in zip(ruled, now, strict=True)) else None


def label_conflict(session: Session, owner: str | None) -> str:
    """Return why another study has the label of a session, or "". `owner` is that study; "": unknown.

    A study that has a label keeps it. Of new studies, the first one gets it.
    """
    if owner in {None, session.study_uid}:
        return ""
    whose = f"already belongs to study {owner}" if owner else "belongs to a study that cannot be determined"
    return f"the session label {session.label} {whose}"


@record
class ExistingSessions:
    """Sessions by study, by label and by subject. Of two with one study or one label, the first counts."""

    _of_study: dict[tuple[str, str], ExistingSession] = field(default_factory=dict, repr=False)
    _owners: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    _of_subject: dict[tuple[str, str], list[ExistingSession]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, sessions: Iterable[ExistingSession]) -> "ExistingSessions":
        """Index sessions; pass those of the journal before those of the archive."""
        found = cls()
        for one in sessions:
            session = one.session
            label = session.project, session.label.lower()
            study = session.project, session.study_uid
            if label in found._owners:
                # Both the journal and the archive have it; one of them may know the date.
                if session.study_uid and not (known := found._of_study.get(study, one)).date and one.date:
                    found._replace(known, replace(known, date=one.date))
                continue
            found._owners[label] = session.study_uid
            if session.study_uid:
                found._of_study.setdefault(study, one)
            found._of_subject.setdefault((session.project, session.subject.lower()), []).append(one)
        return found

    def _replace(self, old: ExistingSession, new: ExistingSession) -> None:
        session = new.session
        self._of_study[session.project, session.study_uid] = new
        siblings = self.of_subject(session.project, session.subject)
        siblings[siblings.index(old)] = new

    def session_of(self, project: str, study_uid: str) -> Session | None:
        """Return the session of a study, if it has one."""
        found = self._of_study.get((project, study_uid))
        return None if found is None else found.session

    def journal_session(self, project: str, study_uid: str) -> tuple[Session, RoutedLabels] | None:
        """Return the session of a study by the journal, which it keeps, and its labels by the rules."""
        found = self._of_study.get((project, study_uid))
        return None if found is None or found.ruled is None else (found.session, found.ruled)

    def owner_of(self, project: str, label: str) -> str | None:
        """Return the study that has a label in any case; "" where unknown, None if no study has it."""
        return self._owners.get((project, label.lower()))

    def is_free(self, project: str, label: str, study_uid: str) -> bool:
        """Whether a study may have this label: no other study is known to have it."""
        return self.owner_of(project, label) in {None, "", study_uid}

    def of_subject(self, project: str, subject: str) -> list[ExistingSession]:
        """Return the sessions of a subject, whatever its case."""
        return self._of_subject.get((project, subject.lower()), [])


NO_SESSIONS = ExistingSessions()
