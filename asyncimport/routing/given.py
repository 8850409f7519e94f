"""Labels that studies have already, in the journal or in the archive: they stay, and new ones keep clear of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from asyncimport.model import Session

__all__ = ["NOTHING_GIVEN", "Given", "GivenSession"]


@dataclass(frozen=True, slots=True)
class GivenSession:
    """A session that there is: its study ("" where a script of the site has given it another UID), and its date.

    The date is that of the study, YYYYMMDD, or "" where nobody tells.
    """

    session: Session
    date: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """The sessions that there are. Of two of one study the first counts, of two of one label the first has it."""

    _of_study: dict[tuple[str, str], GivenSession] = field(default_factory=dict, repr=False)
    _owners: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)
    _of_subject: dict[tuple[str, str], list[GivenSession]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, sessions: Iterable[GivenSession]) -> "Given":
        """Make it of sessions in the order in which they count: those of the journal before those of the archive."""
        found = cls()
        for one in sessions:
            session = one.session
            label = session.project, session.label.lower()
            study = session.project, session.study_uid
            if label in found._owners:
                # The journal and the archive have it, the one of which may know the date.
                if session.study_uid and not (known := found._of_study.get(study, one)).date and one.date:
                    found._replace(known, GivenSession(known.session, one.date))
                continue
            found._owners[label] = session.study_uid
            if session.study_uid:
                found._of_study.setdefault(study, one)
            found._of_subject.setdefault(_subject(session.project, session.subject), []).append(one)
        return found

    def _replace(self, old: GivenSession, new: GivenSession) -> None:
        session = new.session
        self._of_study[session.project, session.study_uid] = new
        siblings = self._of_subject[_subject(session.project, session.subject)]
        siblings[siblings.index(old)] = new

    def session_of(self, project: str, study_uid: str) -> Session | None:
        """Return the session that a study has, if it has one."""
        found = self._of_study.get((project, study_uid))
        return None if found is None else found.session

    def owner_of(self, project: str, label: str) -> str | None:
        """Return the study that has a label, "" where that is not known; None: nobody has it.

        XNAT matches labels without regard to case when it archives.
        """
        return self._owners.get((project, label.lower()))

    def is_free(self, project: str, label: str, study_uid: str) -> bool:
        """Whether a study may have this label: nobody else has it, for all that is known."""
        return self.owner_of(project, label) in {None, "", study_uid}

    def of_subject(self, project: str, subject: str) -> list[GivenSession]:
        """Return the sessions of a subject, whatever its case."""
        return self._of_subject.get(_subject(project, subject), [])


def _subject(project: str, subject: str) -> tuple[str, str]:
    return project, subject.lower()


NOTHING_GIVEN = Given()
