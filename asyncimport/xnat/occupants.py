"""Who is in a subject of the archive already, where a study lies, and which labels are IDs of something else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import anyio

from asyncimport.errors import SessionConflictError
from asyncimport.model import ArchivedPatient, Session
from asyncimport.model.addresses import labels_match
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.routing import patient_of
from asyncimport.xnat.archive import ArchivedSessions, parts_among
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.subjects import parse_owners
from asyncimport.xnat.site import SiteRules

# The form that XNAT gives IDs: the site, the kind, a number of five digits or more (IDGenerator).
_AN_ID = re.compile(r"[\w-]+_[A-Za-z]+\d{4,}", re.ASCII)
_DIGITS = re.compile(r"\d+")
# Labels in one address, which proxies cut at some kilobytes.
_AT_ONCE = 50
_OTHER_LABEL = "give it another label: XNAT looks for IDs too, in all projects"

# A label, and whether it is a subject's or a session's.
_Label = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Listed:
    """The archived sessions of a project: by subject, by study, their labels in lower case, and what IDs look like."""

    subjects: Mapping[str, Sequence[Experiment]]
    studies: Mapping[str, Sequence[Experiment]]
    labels: frozenset[str]
    shapes: frozenset[str]

    @classmethod
    def of(cls, sessions: Sequence[Experiment]) -> "_Listed":
        subjects: dict[str, list[Experiment]] = {}
        studies: dict[str, list[Experiment]] = {}
        for one in sessions:
            subjects.setdefault(one.subject.lower(), []).append(one)
            studies.setdefault(one.study_uid, []).append(one)
        ids = (one for there in sessions for one in (there.accession, there.subject_id) if one)
        return cls(subjects, studies, frozenset(one.label.lower() for one in sessions), frozenset(map(_shape, ids)))

    def doubtful(self, session: Session) -> list[_Label]:
        """Return the labels of a session that may be IDs. What the project has is found by its label before."""
        labels = []
        if session.subject.lower() not in self.subjects:
            labels.append(("subjects", session.subject))
        if session.label.lower() not in self.labels:
            labels.append(("experiments", session.label))
        return [one for one in labels if _AN_ID.fullmatch(one[1]) or _shape(one[1]) in self.shapes]


class Occupants:
    """Whom the archived sessions of each subject name, and whether a label is an accession ID of any project.

    A project is listed once. Only labels that look like IDs are looked up, many in one request.
    """

    def __init__(self, client: Client, archived: ArchivedSessions, rules: SiteRules, policy: RetryPolicy) -> None:
        self._client = client
        self._archived = archived
        self._rules = rules
        self._policy = policy
        self._listed: dict[str, _Listed] = {}
        self._turn = anyio.Lock()
        self._wanted: dict[_Label, None] = {}
        self._owners: dict[_Label, tuple[str, str] | None] = {}

    async def of(self, session: Session) -> Sequence[ArchivedPatient]:
        """Return whom the archived sessions of the subject of a session name; none where XNAT does not show them.

        Raises: SessionConflictError when XNAT would take a label of it for the ID of something else, or has its study
        under another label; TransientError.
        """
        if reason := await self.id_in_the_way(session) or await self.study_elsewhere(session):
            raise SessionConflictError(reason)
        there = (await self._in_project(session.project)).subjects.get(session.subject.lower(), ())
        return await self._named(session.project, there) if there else ()

    async def session_of_study(self, session: Session) -> Experiment | None:
        """Return the session that the archive has of a study, under another label of the same subject.

        None: it has none, or several. Raises: TransientError.
        """
        study = (await self._in_project(session.project)).studies.get(session.study_uid, ())
        is_one = len(study) == 1 and study[0].label != session.label and labels_match(study[0].subject, session.subject)
        return study[0] if is_one else None

    async def study_elsewhere(self, session: Session) -> str | None:
        """Say where the archive has the study of a session under another label; None: it has not.

        XNAT finds a session to merge into by its label as it is (XnatExperimentdata.GetExptByProjectIdentifier), so one
        in another case is another. Raises: TransientError.
        """
        study = (await self._in_project(session.project)).studies.get(session.study_uid, ())
        # It may lie under its own label too, and XNAT may have divided it.
        is_own = any(one.label == session.label for one in study) or parts_among(study, session)
        if not study or is_own:
            return None
        return (
            f"the study is in the archive already, as session {study[0].label} of subject {study[0].subject}; "
            "give it these labels, or remove that session in XNAT"
        )

    async def id_in_the_way(self, session: Session) -> str | None:
        """Say why a label of a session would be taken for something else; None: none is. Raises: TransientError."""
        for label in (await self._in_project(session.project)).doubtful(session):
            kind, text = label
            project, name = await self._owner(label) or (session.project, text)
            if (project, name.lower()) != (session.project, text.lower()):
                what = "subject" if kind == "subjects" else "session"
                return f"the label {text} is the ID of another {what} ({name}, of project {project}); {_OTHER_LABEL}"
        return None

    async def _in_project(self, project: str) -> _Listed:
        if project not in self._listed:
            sessions = await self._archived.in_project(project) or ()
            self._listed.setdefault(project, _Listed.of(sessions))
        return self._listed[project]

    async def _named(self, project: str, there: Iterable[Experiment]) -> list[ArchivedPatient]:
        rewritten = (await self._rules.get(project)).patient_fields
        return [_occupant(project, one, rewritten) for one in there]

    async def _owner(self, label: _Label) -> tuple[str, str] | None:
        """Return project and label of what has an ID; None: nothing has it that this user can see."""
        if label not in self._owners:
            self._wanted[label] = None
        async with self._turn:
            if label not in self._owners:
                kind, _ = label
                # All who ask at this moment are answered at once.
                asked = [label, *(one for one in self._wanted if one[0] == kind and one != label)][:_AT_ONCE]
                ids = ",".join(quote(text, safe="") for _, text in asked)
                path = f"/data/{kind}?ID={ids}&columns=ID,label,project&format=json"
                found = await self._client.request("GET", path, parse_owners, self._policy)
                for one in asked:
                    self._owners[one] = found.get(one[1])
                    self._wanted.pop(one, None)
        return self._owners[label]


def _occupant(project: str, there: Experiment, rewritten: frozenset[str] | None) -> ArchivedPatient:
    """Return whom a session names, without what a script in force puts there."""
    fields = {
        "id": ("PatientID", there.patient_id),
        "name": ("PatientName", there.patient_name),
        "birth date": ("PatientBirthDate", there.birth_date.replace("-", "")),
    }
    known = {name: text for what, (name, text) in fields.items() if what not in (rewritten or ())}
    if known.get("PatientName", "").lower() in {there.subject.lower(), there.label.lower()}:
        # Not a name that anybody was born with.
        del known["PatientName"]
    session = Session(project, there.subject, there.label, there.study_uid)
    return ArchivedPatient(session, patient_of(known), is_reliable=rewritten is not None)


def _shape(text: str) -> str:
    return _DIGITS.sub("0", text)
