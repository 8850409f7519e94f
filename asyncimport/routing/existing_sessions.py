"""Labels that studies have already, in the journal or in the archive: they stay, and new ones keep clear of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from asyncimport.model import Session

RoutedLabels = tuple[str | None, str | None]
"""Subject and label that the rules of a journal give a study file by file, None where nobody knows them: they need not
be those of its session, which was given another label for the sake of others, or under earlier rules."""


@dataclass(frozen=True, slots=True)
class ExistingSession:
    """A session that there is: its study ("" where a script of the site has given it another UID), and its date.

    The date is that of the study, YYYYMMDD, or "" where nobody tells. `ruled` is None of those that are to get other
    labels, and of those that the journal does not know.
    """

    session: Session
    date: str = ""
    ruled: RoutedLabels | None = None


def matching_session(has: Session, ruled: RoutedLabels, wanted: Session) -> Session | None:
    """Return the session that a study has, if the rules of today mean that one; None: they mean another.

    They do if they say of the study what they have said of it so far, and if nobody knows what that was.
    """
    now = wanted.subject, wanted.label
    if now == (has.subject, has.label) or all(was in {None, is_now} for was, is_now in zip(ruled, now, strict=True)):
        return has
    return None


def label_conflict(session: Session, owner: str | None) -> str:
    """Say that the label of a session is that of another study, its `owner` ("": nobody can tell); "": it is free.

    A study that has a label keeps it. Among new ones the first gets it, in the order in which they are asked for.
    """
    if owner in {None, session.study_uid}:
        return ""
    whose = f"belongs to study {owner} already" if owner else "is that of a study which nobody can tell"
    return f"the session label {session.label} {whose}"


@dataclass(frozen=True, slots=True)
class ExistingSessions:
    """The sessions that there are. Of two of one study the first counts, of two of one label the first has it."""

    _of_study: dict[tuple[str, str], ExistingSession] = field(default_factory=dict, repr=False)
    _owners: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    _of_subject: dict[tuple[str, str], list[ExistingSession]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, sessions: Iterable[ExistingSession]) -> "ExistingSessions":
        """Make it of sessions in the order in which they count: those of the journal before those of the archive."""
        found = cls()
        for one in sessions:
            session = one.session
            label = session.project, session.label.lower()
            study = session.project, session.study_uid
            if label in found._owners:
                # The journal and the archive have it, the one of which may know the date.
                if session.study_uid and not (known := found._of_study.get(study, one)).date and one.date:
                    found._replace(known, replace(known, date=one.date))
                continue
            found._owners[label] = session.study_uid
            if session.study_uid:
                found._of_study.setdefault(study, one)
            found._of_subject.setdefault(_subject(session.project, session.subject), []).append(one)
        return found

    def _replace(self, old: ExistingSession, new: ExistingSession) -> None:
        session = new.session
        self._of_study[session.project, session.study_uid] = new
        siblings = self._of_subject[_subject(session.project, session.subject)]
        siblings[siblings.index(old)] = new

    def session_of(self, project: str, study_uid: str) -> Session | None:
        """Return the session that a study has, if it has one."""
        found = self._of_study.get((project, study_uid))
        return None if found is None else found.session

    def kept(self, project: str, study_uid: str) -> tuple[Session, RoutedLabels] | None:
        """Return the session that a study has and keeps, by the journal, and what the rules call it; None: none."""
        found = self._of_study.get((project, study_uid))
        return None if found is None or found.ruled is None else (found.session, found.ruled)

    def owner_of(self, project: str, label: str) -> str | None:
        """Return the study that has a label, "" where that is not known; None: nobody has it.

        XNAT matches labels without regard to case when it archives.
        """
        return self._owners.get((project, label.lower()))

    def is_free(self, project: str, label: str, study_uid: str) -> bool:
        """Whether a study may have this label: nobody else has it, for all that is known."""
        return self.owner_of(project, label) in {None, "", study_uid}

    def of_subject(self, project: str, subject: str) -> list[ExistingSession]:
        """Return the sessions of a subject, whatever its case."""
        return self._of_subject.get(_subject(project, subject), [])


def _subject(project: str, subject: str) -> tuple[str, str]:
    return project, subject.lower()


NO_SESSIONS = ExistingSessions()
