"""What in the archive conflicts with a session: labels that are IDs, its study elsewhere, patients of its subject."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import anyio

from asyncimport.errors import SessionConflictError
from asyncimport.model.addresses import labels_match
from asyncimport.model.files import ArchivedPatient, Session
from asyncimport.model.record import record
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.routing.patients import patient_of
from asyncimport.xnat.archive import KnownSite, parts_among
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.subjects import parse_owners

# The form of XNAT's IDs: the site, the kind, a number of five digits or more (IDGenerator).
_ID = re.compile(r"[\w-]+_[A-Za-z]+\d{4,}", re.ASCII)
_DIGITS = re.compile(r"\d+")
# Labels in one address; proxies cut those of some kilobytes.
_BATCH = 50

# A label, and whether it is a subject's or a session's: "subjects" or "experiments".
_Label = tuple[str, str]


@record
class _Index:
    """The archived sessions of a project by subject and by study, their labels in lower case, and the forms of IDs."""

    subjects: Mapping[str, Sequence[Experiment]]
    studies: Mapping[str, Sequence[Experiment]]
    labels: frozenset[str]
    id_forms: frozenset[str]

    @classmethod
    def of(cls, sessions: Sequence[Experiment]) -> "_Index":
        subjects: dict[str, list[Experiment]] = {}
        studies: dict[str, list[Experiment]] = {}
        for one in sessions:
            subjects.setdefault(one.subject.lower(), []).append(one)
            studies.setdefault(one.study_uid, []).append(one)
        ids = (text for one in sessions for text in (one.accession, one.subject_id) if text)
        return cls(subjects, studies, frozenset(one.label.lower() for one in sessions), frozenset(map(_form, ids)))

    def labels_like_ids(self, session: Session) -> list[_Label]:
        """Return the labels of a session that may be IDs. XNAT finds what the project has by its label first."""
        labels = []
        if session.subject.lower() not in self.subjects:
            labels.append(("subjects", session.subject))
        if session.label.lower() not in self.labels:
            labels.append(("experiments", session.label))
        return [one for one in labels if _ID.fullmatch(one[1]) or _form(one[1]) in self.id_forms]


class ArchiveConflicts:
    """Compares sessions with the archive before anything is sent. All methods raise TransientError."""

    def __init__(self, client: Client, site: KnownSite, policy: RetryPolicy) -> None:
        self._client = client
        self._site = site
        self._policy = policy
        self._indexes: dict[str, _Index] = {}
        self._lock = anyio.Lock()
        self._waiting: dict[_Label, None] = {}
        self._owners: dict[_Label, tuple[str, str] | None] = {}

    async def check(self, session: Session) -> Sequence[ArchivedPatient]:
        """Return the patients in the archived sessions of its subject, if shown. Raises: SessionConflictError."""
        if reason := await self.id_conflict(session) or await self.study_conflict(session):
            raise SessionConflictError(reason)
        found = (await self._index(session.project)).subjects.get(session.subject.lower(), ())
        if not found:
            return ()
        changed = (await self._site.rules.get(session.project)).patient_fields
        return [_patient(session.project, one, changed) for one in found]

    async def find_session_of_study(self, session: Session) -> Experiment | None:
        """Return the one archived session of the study, if it has another label and the same subject."""
        found = (await self._index(session.project)).studies.get(session.study_uid, ())
        is_one = len(found) == 1 and found[0].label != session.label and labels_match(found[0].subject, session.subject)
        return found[0] if is_one else None

    async def study_conflict(self, session: Session) -> str | None:
        """Say where the archive has the study under another label; None if it has not.

        XNAT finds a session to merge into by its exact label (XnatExperimentdata.GetExptByProjectIdentifier), so a
        label in another case is another session.
        """
        found = (await self._index(session.project)).studies.get(session.study_uid, ())
        # The study may also be under its own label, or XNAT may have divided it.
        is_own = any(one.label == session.label for one in found) or parts_among(found, session)
        if not found or is_own:
            return None
        return (
            f"the study is in the archive already, as session {found[0].label} of subject {found[0].subject}; "
            "give it these labels, or remove that session in XNAT"
        )

    async def id_conflict(self, session: Session) -> str | None:
        """Say which label of a session is the ID of something else; None if none is."""
        for label in (await self._index(session.project)).labels_like_ids(session):
            kind, text = label
            project, owner = await self._owner(label) or (session.project, text)
            if (project, owner.lower()) != (session.project, text.lower()):
                what = "subject" if kind == "subjects" else "session"
                return (
                    f"the label {text} is the ID of another {what} ({owner}, of project {project}); "
                    "give it another label: XNAT would take this one for the ID"
                )
        return None

    async def _index(self, project: str) -> _Index:
        if project not in self._indexes:
            sessions = await self._site.archived.list_project(project) or ()
            self._indexes.setdefault(project, _Index.of(sessions))
        return self._indexes[project]

    async def _owner(self, label: _Label) -> tuple[str, str] | None:
        """Return project and label of what has an ID; None if this user can see nothing that has it."""
        if label not in self._owners:
            self._waiting[label] = None
        async with self._lock:
            if label not in self._owners:
                kind, _ = label
                # One request for all that wait at this moment.
                batch = [label, *(one for one in self._waiting if one[0] == kind and one != label)][:_BATCH]
                ids = ",".join(quote(text, safe="") for _, text in batch)
                path = f"/data/{kind}?ID={ids}&columns=ID,label,project&format=json"
                found = await self._client.request("GET", path, parse_owners, self._policy)
                for one in batch:
                    self._owners[one] = found.get(one[1])
                    self._waiting.pop(one, None)
        return self._owners[label]


def _patient(project: str, found: Experiment, changed: frozenset[str] | None) -> ArchivedPatient:
    """Return the patient in a session, without the fields that a script in force may change."""
    fields = {
        "id": ("PatientID", found.patient_id),
        "name": ("PatientName", found.patient_name),
        "birth date": ("PatientBirthDate", found.birth_date.replace("-", "")),
    }
    known = {name: text for what, (name, text) in fields.items() if what not in (changed or ())}
    if known.get("PatientName", "").lower() in {found.subject.lower(), found.label.lower()}:
        # A label, not a person's name.
        del known["PatientName"]
    session = Session(project, found.subject, found.label, found.study_uid)
    return ArchivedPatient(session, patient_of(known), is_reliable=changed is not None)


def _form(text: str) -> str:
    return _DIGITS.sub("0", text)
