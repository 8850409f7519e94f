"""The second step of a plan: its studies compared with each other, and with who and what is there already."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from asyncimport.errors import AsyncimportError
from asyncimport.journal import SubjectPatient, digest_patient
from asyncimport.model import Patient, Session
from asyncimport.operations.plan_draft import ONE_PERSON, SAME_FIELDS, StudyDraft, study_problem
from asyncimport.routing import (
    ExistingSessions,
    PlanProblem,
    ProblemCode,
    is_same_patient,
    label_conflict,
    matching_session,
    merge_patients,
    patient_conflict,
)
from asyncimport.routing.plan_binding import FoundStudy, differences, nearest
from asyncimport.routing.plan_file import Key, KeyKind
from asyncimport.routing.planned_routes import PlannedRoutes

_OTHER_STUDY = "make the plan anew; if the study is meant all the same, correct or empty that cell of the line"
_NO_STUDY = "correct its key, take the line out or mark it skip; or check SOURCE"


def in_project(
    draft: StudyDraft, names: Mapping[str, str | AsyncimportError], problems: list[PlanProblem]
) -> StudyDraft:
    """Let a study go to its project by the ID of that, or nowhere where the project is closed."""
    if draft.wanted is None:
        return draft
    name = names.get(draft.wanted.project, draft.wanted.project)
    if isinstance(name, str):
        if name == draft.wanted.project:
            return draft
        wanted = replace(draft.wanted, project=name)
        return replace(draft, wanted=wanted, session=None if draft.session is None else wanted)
    if draft.session is None:
        return replace(draft, wanted=None)
    advice = name.hint or "see who owns the project"
    problems.append(study_problem(ProblemCode.PROJECT_CLOSED, draft.study, str(name), advice))
    return draft.without_place()


def kept(draft: StudyDraft, given: ExistingSessions, problems: list[PlanProblem], *, is_whole: bool) -> StudyDraft:
    """Let a study keep the session that it has by the journal, as a run does (`Registry` there).

    Where whole studies decide (`is_whole`) it has been given the label of that already.
    """
    session, study = draft.session, draft.study
    known = None if session is None else given.kept(session.project, study.study_uid)
    if session is None or known is None:
        return draft
    has, (subject, label) = known
    place = matching_session(has, (subject, None if is_whole else label), session)
    if place is None:
        text = f"it goes to subject {has.subject}, session {has.label}; by its headers it would go to subject "
        text += f"{session.subject}, session {session.label}"
        problems.append(study_problem(ProblemCode.LABELS_DIFFER, study, text, SAME_FIELDS))
        return draft.without_place()
    if is_whole:
        return replace(draft, session=replace(session, subject=place.subject))
    if place != session:
        text = f"it has session {place.label} of subject {place.subject}, and not {session.label} of {session.subject}"
        problems.append(study_problem(ProblemCode.SESSION_KEPT, study, text, "what is new of it goes there"))
    return replace(draft, session=place, wanted=place)


def distinct(
    drafts: Sequence[StudyDraft], problems: list[PlanProblem], given: ExistingSessions, *, suffix: bool, streams: bool
) -> Iterable[StudyDraft]:
    """Give each label to one study. XNAT matches labels without regard to case when it archives."""
    labels = _suffixed(drafts, given) if suffix else {}
    owners = {} if suffix else _owners(sorted(drafts, key=lambda draft: draft.study.met) if streams else drafts, given)
    for draft in drafts:
        wanted = draft.session
        if wanted is None:
            yield draft
            continue
        uid = draft.study.study_uid
        label = labels.get(uid, wanted.label) if suffix else wanted.label
        owner = owners.get((wanted.project, wanted.label.lower())) if label is not None else ""
        if text := label_conflict(wanted, owner):
            advice = "use a template that tells them apart, --on-collision suffix, or edit the plan"
            problems.append(study_problem(ProblemCode.LABEL_TAKEN, draft.study, text, advice))
            yield draft.without_place()
            continue
        if label != wanted.label:
            text = f"the session label {wanted.label} was taken: it gets {label}"
            problems.append(study_problem(ProblemCode.LABEL_SUFFIXED, draft.study, text, "see that this is meant"))
        yield replace(draft, session=replace(wanted, label=label or wanted.label))


def _owners(drafts: Iterable[StudyDraft], given: ExistingSessions) -> Mapping[tuple[str, str], str]:
    """Return which study has each label: the one that has it already, or the first of these."""
    owners: dict[tuple[str, str], str] = {}
    for draft in drafts:
        if (session := draft.session) is not None:
            owner = given.owner_of(session.project, session.label) or draft.study.study_uid
            owners.setdefault((session.project, session.label.lower()), owner)
    return owners


def _suffixed(drafts: Iterable[StudyDraft], given: ExistingSessions) -> Mapping[str, str | None]:
    """Return a label for each study, with a suffix where another study has it; None where nobody can tell which has.

    A study that has a session keeps the label of that. The drafts are in the order of their dates.
    """
    labels: dict[str, str | None] = {}
    last: dict[tuple[str, str], int] = {}
    taken: set[tuple[str, str]] = set()
    for draft in drafts:
        if (wanted := draft.wanted) is None:
            continue
        uid, project = draft.study.study_uid, wanted.project
        if (has := given.session_of(project, uid)) is not None:
            labels[uid] = has.label
            continue
        first = project, wanted.label.lower()
        while True:
            number = last[first] = last.get(first, 0) + 1
            label = wanted.label if number == 1 else f"{wanted.label}_{number}"
            owner = given.owner_of(project, label)
            if owner == "":
                # It may be that of any of them, so none gets another one.
                labels[uid], last[first] = None, number - 1
                break
            if owner in {None, uid} and (project, label.lower()) not in taken:
                labels[uid] = label
                taken.add((project, label.lower()))
                break
    return labels


def one_patient(
    drafts: Iterable[StudyDraft], problems: list[PlanProblem], residents: Iterable[SubjectPatient]
) -> Iterable[StudyDraft]:
    """Give each subject to one patient, and each PatientID to one person."""
    people = _People(residents)
    for draft in drafts:
        if draft.session is None:
            yield draft
            continue
        code, text = people.enter(draft.session, draft.patients)
        if code is None:
            yield draft
            continue
        is_error = code is not ProblemCode.TWO_SUBJECTS
        problems.append(study_problem(code, draft.study, text, ONE_PERSON if is_error else "see that this is meant"))
        yield draft.without_place() if is_error else draft


class _People:
    """Who is in which subject, by the journal and by a plan as far as it has been read."""

    def __init__(self, residents: Iterable[SubjectPatient]) -> None:
        self._subjects: dict[tuple[str, str], list[tuple[str, Patient]]] = {}
        self._ids: dict[tuple[str, str], list[tuple[str, Patient]]] = {}
        for one in residents:
            who = one.subject, one.patient
            self._subjects.setdefault((one.project, one.subject.lower()), []).append(who)
            if one.patient.id:
                self._ids.setdefault((one.project, one.patient.id), []).append(who)

    def enter(self, session: Session, patients: frozenset[Patient]) -> tuple[ProblemCode | None, str]:
        """Enter the patients of a study, or return a code and what keeps one of them out; or what is to be told.

        Nothing keeps out who is there already, as in a run (`Registry` in the journal).
        """
        here = self._subjects.setdefault((session.project, session.subject.lower()), [])
        whose = sorted(map(digest_patient, patients), key=lambda one: (one.id, one.issuer, one.name, one.birth_date))
        strangers = [patient for patient in whose if not any(is_same_patient(one, patient) for _, one in here)]
        if strangers and len(ids := {patient.id for patient in patients}) > 1:
            return ProblemCode.TWO_PATIENTS, f"it holds files of {len(ids)} PatientIDs"
        told: tuple[ProblemCode | None, str] = None, ""
        for patient in whose:
            same_id = self._ids.setdefault((session.project, patient.id), []) if patient.id else []
            if patient in strangers and (why := patient_conflict([*here, *same_id], session.subject, patient)):
                code = ProblemCode.SUBJECT_TAKEN if why.startswith("the subject") else ProblemCode.TWO_PEOPLE
                return code, why.replace("the subject", f"the subject {session.subject}", 1)
            elsewhere = next((place for place, one in same_id if is_same_patient(one, patient)), session.subject)
            if not _enter(here, session.subject, patient) and elsewhere.lower() != session.subject.lower():
                text = f"its PatientID is under two subjects ({elsewhere}, {session.subject})"
                told = ProblemCode.TWO_SUBJECTS, text
            _enter(same_id, session.subject, patient)
        return told


def _enter(known: list[tuple[str, Patient]], subject: str, patient: Patient) -> bool:
    """Note a patient, or what more is known of one; whether that is one who was known."""
    for place, (where, one) in enumerate(known):
        if is_same_patient(one, patient):
            known[place] = where, merge_patients(one, patient)
            return True
    known.append((subject, patient))
    return False


def bound(
    drafts: Iterable[StudyDraft],
    routes: "PlannedRoutes",
    problems: list[PlanProblem],
    given: ExistingSessions,
    waiting: Mapping[str, str],
) -> Iterable[StudyDraft]:
    """Compare studies with what the rows of a plan were made for, and tell of rows that match none.

    What has a session already may have been cleaned away, in part or as a whole.
    """
    # Of what is being written perhaps no file is whole yet.
    matched = {Key(KeyKind.STUDY_UID, (uid,)) for uid in waiting}
    unmatched: list[FoundStudy] = []
    for draft in drafts:
        rows = routes.rows_of(draft.found)
        matched.update(row.key for row in rows)
        if not rows:
            unmatched.append(draft.found)
        if draft.session is None:
            yield draft
            continue
        session, study = draft.session, draft.study
        lines = ", ".join(str(row.line) for row in rows)
        has = given.session_of(session.project, study.study_uid)
        # Of a study with PET and MR, XNAT may have made a PET session.
        if has is not None and has.label.lower() != session.label.lower() and "petmr" not in session.label.lower():
            text = f"line {lines} of the plan: the study has session {has.label} already, and not {session.label}"
            problems.append(study_problem(ProblemCode.ROW_ELSEWHERE, study, text, "write that label into the line"))
            yield draft.without_place()
            continue
        is_partial = study.study_uid in waiting or (
            has is not None and all(study.files < (row.files or 0) for row in rows)
        )
        there = replace(draft.found, files=None) if is_partial else draft.found
        told = [(row.line, text) for row in rows for text in differences(row, there)]
        if not told:
            yield draft
            continue
        text = "; ".join(f"line {line} of the plan: {text}" for line, text in told)
        problems.append(study_problem(ProblemCode.ROW_DIFFERS, study, text, _OTHER_STUDY))
        yield draft.without_place()
    gone = {row.key: row for row in routes.rows if row.key not in matched and not routes.is_done(row, given)}
    is_other = len(gone) == len(routes.rows)
    for row in gone.values():
        if row.skip and not is_other:
            continue
        near = nearest(row, unmatched)
        text = f"line {row.line} of the plan: no study of the source matches it"
        advice = f"{near}: correct the line" if near else _NO_STUDY
        uid = row.study_uid
        problems.append(PlanProblem(ProblemCode.ROW_UNMATCHED, text, advice, uid, row.files or 0, row.source))
