"""The second step of a plan: its studies are compared with each other, and with sessions and patients that exist."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from asyncimport.errors import AsyncimportError
from asyncimport.journal import SubjectPatient
from asyncimport.model.files import Patient, Session
from asyncimport.operations.plan_draft import (
    COMPARE_PATIENTS,
    COMPARE_PEOPLE,
    CONSTANT_FIELDS,
    PlanRules,
    StudyDraft,
    study_problem,
)
from asyncimport.routing.accepted_patients import AcceptedPatients
from asyncimport.routing.existing_sessions import ExistingSessions, label_conflict, matching_session
from asyncimport.routing.patients import (
    PatientConflict,
    digest_patient,
    is_same_patient,
    merge_patients,
    patient_conflict,
    two_people_text,
)
from asyncimport.routing.plan_binding import FoundStudy, differences, nearest_study
from asyncimport.routing.plan_file import Key, KeyKind, PlanRow
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.routing.problems import PlanProblem, ProblemCode

_CHECK_INTENT = "check that this is intended"
_OTHER_STUDY = "make a new plan; or, if this study is meant, correct or clear that cell of the line"
_NO_STUDY = "correct its key, remove the line or set its action to skip; or check SOURCE"

_DAMAGED = "get intact copies, give --truncated send, or set the action of the line to skip"


def use_project_id(
    draft: StudyDraft, project_ids: Mapping[str, str | AsyncimportError], problems: list[PlanProblem]
) -> StudyDraft:
    """Name the project of a study by its ID. A study of a closed project is not sent."""
    ruled = draft.ruled_session
    if ruled is None:
        return draft
    project = project_ids.get(ruled.project, ruled.project)
    if isinstance(project, str):
        ruled = replace(ruled, project=project)
        return replace(draft, ruled_session=ruled, session=None if draft.session is None else ruled)
    if draft.session is not None:
        advice = project.hint or "find out who owns the project"
        problems.append(study_problem(ProblemCode.PROJECT_CLOSED, draft.study, str(project), advice))
    return draft.without_session()


def keep_session(
    draft: StudyDraft, sessions: ExistingSessions, problems: list[PlanProblem], *, is_whole: bool
) -> StudyDraft:
    """Keep the session that a study has by the journal, as the run does (`journal/sessions.py`).

    With `is_whole`, the rules decided whole studies, and have given it the label of that session already.
    """
    session, study = draft.session, draft.study
    known = None if session is None else sessions.journal_session(session.project, study.study_uid)
    if session is None or known is None:
        return draft
    existing, (subject, label) = known
    place = matching_session(existing, (subject, None if is_whole else label), session)
    if place is None:
        text = f"it has subject {existing.subject} and session {existing.label}, but its headers give subject "
        text += f"{session.subject} and session {session.label}"
        problems.append(study_problem(ProblemCode.LABELS_DIFFER, study, text, CONSTANT_FIELDS))
        return draft.without_session()
    if is_whole:
        return replace(draft, session=replace(session, subject=place.subject))
    if place != session:
        text = f"it has session {place.label} of subject {place.subject}, not {session.label} of {session.subject}"
        problems.append(study_problem(ProblemCode.SESSION_KEPT, study, text, "nothing to do: new files of it go there"))
    return replace(draft, session=place, ruled_session=place)


def assign_labels(
    drafts: Sequence[StudyDraft], problems: list[PlanProblem], sessions: ExistingSessions, rules: PlanRules
) -> Iterable[StudyDraft]:
    """Give each label to one study. XNAT ignores the case of labels when it archives."""
    labels = _suffixed_labels(drafts, sessions) if rules.suffix else {}
    in_order = drafts
    if not (rules.needs_whole_studies or rules.selects_studies):
        # The run sends while it scans: the study that it meets first gets the label.
        in_order = sorted(drafts, key=lambda draft: draft.study.position)
    owners = {} if rules.suffix else _owners(in_order, sessions)
    for draft in drafts:
        session = draft.session
        if session is None:
            yield draft
            continue
        label = labels.get(draft.study.study_uid, session.label)
        owner = owners.get((session.project, session.label.lower())) if label is not None else ""
        if text := label_conflict(session, owner):
            advice = "use a template that tells them apart, use --on-collision suffix, or edit the plan"
            problems.append(study_problem(ProblemCode.LABEL_TAKEN, draft.study, text, advice))
            yield draft.without_session()
            continue
        if label != session.label:
            text = f"the session label {session.label} is taken: it gets {label}"
            problems.append(study_problem(ProblemCode.LABEL_SUFFIXED, draft.study, text, _CHECK_INTENT))
        yield replace(draft, session=replace(session, label=label or session.label))


def _owners(drafts: Iterable[StudyDraft], sessions: ExistingSessions) -> Mapping[tuple[str, str], str]:
    """Return the study of each label: the one that has it already, or else the first of these."""
    owners: dict[tuple[str, str], str] = {}
    for draft in drafts:
        if (session := draft.session) is not None:
            owner = sessions.owner_of(session.project, session.label) or draft.study.study_uid
            owners.setdefault((session.project, session.label.lower()), owner)
    return owners


def _suffixed_labels(drafts: Iterable[StudyDraft], sessions: ExistingSessions) -> Mapping[str, str | None]:
    """Return a label for each study, with a suffix where another study has it; None where its owner is unknown."""
    labels: dict[str, str | None] = {}
    last: dict[tuple[str, str], int] = {}
    taken: set[tuple[str, str]] = set()
    for draft in drafts:
        if (session := draft.ruled_session) is None:
            continue
        uid, project = draft.study.study_uid, session.project
        if (existing := sessions.session_of(project, uid)) is not None:
            labels[uid] = existing.label
            continue
        first = project, session.label.lower()
        while True:
            number = last[first] = last.get(first, 0) + 1
            label = session.label if number == 1 else f"{session.label}_{number}"
            owner = sessions.owner_of(project, label)
            if owner == "":
                # Any of these studies may own it, so none gets another one.
                labels[uid], last[first] = None, number - 1
                break
            if owner in {None, uid} and (project, label.lower()) not in taken:
                labels[uid] = label
                taken.add((project, label.lower()))
                break
    return labels


def check_patients(
    drafts: Iterable[StudyDraft],
    problems: list[PlanProblem],
    known_patients: Iterable[SubjectPatient],
    accepted: AcceptedPatients,
) -> Iterable[StudyDraft]:
    """Allow one patient in each subject, and one person for each PatientID."""
    register = _PatientRegister(known_patients, accepted)
    for draft in drafts:
        problem = None if draft.session is None else register.add_study(draft, draft.session)
        if problem is None:
            yield draft
            continue
        problems.append(problem)
        yield draft.without_session() if problem.is_error else draft


class _Known(NamedTuple):
    """A patient (digests) of a subject, one study, a file of it if the plan has it, and whether it is an exception."""

    subject: str
    patient: Patient
    study_uid: str
    example: str = ""
    is_allowed: bool = False


class _PatientRegister:
    """The patients of each subject: by the journal, and by the studies of a plan so far."""

    def __init__(self, known_patients: Iterable[SubjectPatient], accepted: AcceptedPatients) -> None:
        self._accepted = accepted
        self._subjects: dict[tuple[str, str], list[_Known]] = {}
        self._ids: dict[tuple[str, str], list[_Known]] = {}
        for one in known_patients:
            entry = _Known(one.subject, one.patient, one.study_uid, is_allowed=one.is_allowed)
            self._subjects.setdefault((one.project, one.subject.lower()), []).append(entry)
            if one.patient.id:
                self._ids.setdefault((one.project, one.patient.id), []).append(entry)

    def add_study(self, draft: StudyDraft, session: Session) -> PlanProblem | None:
        """Add a study's patients, or return why one is kept out, as `journal/sessions.py` does; or a warning."""
        study, patients = draft.study, draft.patients
        here = self._subjects.setdefault((session.project, session.subject.lower()), [])
        files = {digest_patient(patient): path for patient, path in patients.items()}
        ours = sorted(files, key=lambda one: (one.id, one.issuer, one.name, one.birth_date))
        strangers = [patient for patient in ours if not any(is_same_patient(one.patient, patient) for one in here)]
        if strangers and len(ids := {patient.id for patient in patients}) > 1:
            text = f"its files have {len(ids)} PatientIDs"
            return study_problem(ProblemCode.TWO_PATIENTS, study, text, COMPARE_PATIENTS)
        warning = None
        for patient in ours:
            same_id = self._ids.setdefault((session.project, patient.id), []) if patient.id else []
            if patient in strangers:
                conflict = self._conflict([*here, *same_id], session, patient)
            else:
                conflict = self._conflict_of_known(here, same_id, session, patient)
            if conflict is not None:
                problem = _conflict_problem(draft, session, [*here, *same_id], conflict)
                return replace(problem, example=files[patient])
            subjects = (one.subject for one in same_id if is_same_patient(one.patient, patient))
            other = next(subjects, session.subject)
            entry = _Known(session.subject, patient, study.study_uid, files[patient])
            if not _add_patient(here, entry) and other.lower() != session.subject.lower():
                text = f"its PatientID has two subjects ({other}, {session.subject})"
                warning = study_problem(ProblemCode.TWO_SUBJECTS, study, text, _CHECK_INTENT)
            _add_patient(same_id, entry)
        return warning

    def _conflict(self, known: Iterable[_Known], session: Session, patient: Patient) -> PatientConflict | None:
        people = ((one.subject, one.patient) for one in known)
        return patient_conflict(people, session.subject, patient, self._accepted.accepts)

    def _conflict_of_known(
        self, here: Iterable[_Known], same_id: Iterable[_Known], session: Session, patient: Patient
    ) -> PatientConflict | None:
        """Compare a known patient again if more is known of them now: a file without a name lets nobody else in."""
        one = next(one for one in here if is_same_patient(one.patient, patient))
        more = merge_patients(one.patient, patient)
        if one.is_allowed or more == one.patient:
            return None
        return self._conflict((other for other in same_id if not other.is_allowed), session, more)


def _conflict_problem(
    draft: StudyDraft, session: Session, known: Iterable[_Known], conflict: PatientConflict
) -> PlanProblem:
    if conflict.other is None:
        text = conflict.text.replace("the subject", f"the subject {session.subject}", 1)
        return study_problem(ProblemCode.SUBJECT_TAKEN, draft.study, text, COMPARE_PATIENTS)
    other = next(one for one in known if (one.subject, one.patient) == conflict.other)
    text = two_people_text(conflict.text, other.study_uid)
    advice = COMPARE_PEOPLE if other.patient.id else COMPARE_PATIENTS
    problem = study_problem(ProblemCode.TWO_PEOPLE, draft.study, text, advice)
    return replace(problem, other_study=other.study_uid, other_example=other.example)


def _add_patient(known: list[_Known], entry: _Known) -> bool:
    """Add a patient, or what is new about a known one; return whether the patient was known."""
    for place, one in enumerate(known):
        if is_same_patient(one.patient, entry.patient):
            known[place] = one._replace(patient=merge_patients(one.patient, entry.patient))
            return True
    known.append(entry)
    return False


def check_rows(
    drafts: Iterable[StudyDraft],
    routes: PlannedRoutes,
    problems: list[PlanProblem],
    sessions: ExistingSessions,
    waiting: Mapping[str, str],
    damaged: Collection[str],
) -> Iterable[StudyDraft]:
    """Compare studies with what the rows of a plan bind, and report rows that match no study.

    The files of a study that has a session may have been removed since, some or all. `waiting` are studies (UIDs) that
    may still be written: none of their files need be intact yet. Every file of `damaged` studies is truncated.
    """
    matched = {Key(KeyKind.STUDY_UID, (uid,)) for uid in waiting}
    unmatched: list[FoundStudy] = []
    for draft in drafts:
        rows = routes.rows_of(draft.found)
        matched.update(row.key for row in rows)
        if not rows:
            unmatched.append(draft.found)
        problem = _row_problem(draft, rows, sessions, waiting)
        if problem is None:
            yield draft
        else:
            problems.append(problem)
            yield draft.without_session()
    left = {row.key: row for row in routes.rows if row.key not in matched and not routes.is_done(row, sessions)}
    is_other_source = len(left) == len(routes.rows)
    wrong = [row for row in left.values() if is_other_source or not row.skip]
    problems += [_unmatched_row(row, unmatched, damaged) for row in wrong]


def _row_problem(
    draft: StudyDraft, rows: Sequence[PlanRow], sessions: ExistingSessions, waiting: Collection[str]
) -> PlanProblem | None:
    """Return why the rows of a study cannot mean it."""
    session, study = draft.session, draft.study
    if session is None:
        return None
    existing = sessions.session_of(session.project, study.study_uid)
    # XNAT may have made a PET session of a study with PET and MR.
    if (
        existing is not None
        and existing.label.lower() != session.label.lower()
        and "petmr" not in session.label.lower()
    ):
        lines = ", ".join(str(row.line) for row in rows)
        text = f"line {lines} of the plan gives session {session.label}, but the study has session {existing.label}"
        return study_problem(ProblemCode.ROW_ELSEWHERE, study, text, f"write {existing.label} into the line")
    is_partial = study.study_uid in waiting or (
        existing is not None and all(study.files < (row.files or 0) for row in rows)
    )
    found = replace(draft.found, files=None) if is_partial else draft.found
    texts = [f"line {row.line} of the plan: {text}" for row in rows for text in differences(row, found)]
    return study_problem(ProblemCode.ROW_DIFFERS, study, "; ".join(texts), _OTHER_STUDY) if texts else None


def _unmatched_row(row: PlanRow, unmatched: Sequence[FoundStudy], damaged: Collection[str]) -> PlanProblem:
    if row.study_uid in damaged:
        text, advice = f"line {row.line} of the plan: every file of its study is truncated", _DAMAGED
    else:
        near = nearest_study(row, unmatched)
        text = f"line {row.line} of the plan matches no study of the source"
        advice = f"{near}: correct the line" if near else _NO_STUDY
    return PlanProblem(ProblemCode.ROW_UNMATCHED, text, advice, row.study_uid, row.files or 0, row.source)
