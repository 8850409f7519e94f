"""A plan compared with what the archive and the prearchive hold. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from asyncimport.journal import SubjectPatient, digest_patient
from asyncimport.model import ArchivedPatient, Session
from asyncimport.operations.plan import Plan
from asyncimport.operations.plan_draft import ONE_PERSON
from asyncimport.routing import (
    PlanProblem,
    ProblemCode,
    is_same_patient,
    occupant_conflict,
    occupant_doubt,
)
from asyncimport.routing.drop_rules import filter_drops
from asyncimport.routing.plan_file import PlanRow
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.identity import row_conflict
from asyncimport.xnat.replies.images import Row
from asyncimport.xnat.replies.site import SeriesFilter


@dataclass(frozen=True, slots=True)
class Known:
    """What the server knows of a project: its sessions by label, and what drops files there.

    `filters` drop series by their SeriesDescription, `scripts` files for whatever reason they have. `rows` are those of
    the prearchive, by StudyInstanceUID and label; `source` and `own` (by address, with the labels that they were begun
    with) tell which of them the journal has begun, as far as uploads have: None, nobody asks. `occupants` are whom the
    sessions of each subject (in lower case) name, but for those that the journal has brought; `residents` are who is in
    a subject by the journal. `in_the_way` says of a study why it cannot go under its labels, or not as it is:
    label-is-id, study-on-server or modality-on-server, and the reason.
    """

    sessions: Mapping[str, Experiment]
    filters: Sequence[tuple[str, SeriesFilter]] = ()
    scripts: Sequence[str] = ()
    rows: Mapping[tuple[str, str], Sequence[Row]] = field(default_factory=dict)
    source: str | None = None
    own: Mapping[str, Session] = field(default_factory=dict)
    occupants: Mapping[str, Sequence[ArchivedPatient]] = field(default_factory=dict, repr=False)
    residents: Sequence[SubjectPatient] = ()
    in_the_way: Mapping[str, tuple[ProblemCode, str]] = field(default_factory=dict)


def with_archive(plan: Plan, known: Mapping[str, Known]) -> Plan:
    """Compare a plan with what the server knows, by project.

    A label of another study or subject is an error; a study that is there already is merged, and that is told.
    """
    problems = list(plan.problems)
    for project, there in known.items():
        for name in there.scripts:
            text = f"project {project}: {name} may reject files"
            problems.append(PlanProblem(ProblemCode.MAY_BE_REJECTED, text, "what it rejects is told as refused"))
    rows = []
    for row in plan.rows:
        told = [] if row.skip or row.project_id not in known else list(_told(plan, row, known[row.project_id]))
        problems += told
        codes = dict.fromkeys(problem.code for problem in told)
        is_error = any(problem.is_error for problem in told)
        words = " ".join(filter(None, (row.problems, *codes)))
        rows.append(replace(row, skip=row.skip or is_error, problems=words))
    return replace(plan, rows=tuple(rows), problems=tuple(problems))


def _told(plan: Plan, row: PlanRow, known: Known) -> Iterable[PlanProblem]:
    """Tell what the server has to say of a study."""

    def problem(code: ProblemCode, text: str, advice: str, files: int | None = None) -> PlanProblem:
        count = row.files or 0 if files is None else files
        return PlanProblem(code, text, advice, row.study_uid, count, row.source)

    there = known.sessions.get(row.session_label)
    if there is not None and there.study_uid not in {"", row.study_uid}:
        text = f"the session label {row.session_label} is that of another study in the archive"
        yield problem(ProblemCode.LABEL_ON_SERVER, text, "choose another label")
    elif there is not None and there.subject and there.subject.lower() != row.subject_label.lower():
        text = f"the session {row.session_label} belongs to another subject in the archive"
        yield problem(ProblemCode.SUBJECT_ON_SERVER, text, "use that subject, or another label")
    elif there is not None:
        text, advice = "its session is in the archive already", "only what is new of it will be merged"
        yield problem(ProblemCode.ARCHIVED_ALREADY, text, advice)
    if row.study_uid in known.in_the_way:
        code, why = known.in_the_way[row.study_uid]
        text, advice = why.partition("; ")[::2]
        yield problem(code, text, advice)
    for code, text in _of_another(plan, row, known):
        yield problem(code, text, ONE_PERSON)
    for begun in known.rows.get((row.study_uid, row.session_label), ()):
        session = Session(row.project_id, row.subject_label, row.session_label, row.study_uid)
        session, source = known.own.get(begun.uri, session), None if begun.uri in known.own else known.source
        if reason := row_conflict(begun, session, source):
            advice = "archive, move or delete it in XNAT's prearchive: nothing is sent before"
            if row_conflict(begun, session) is None:
                advice = f"let that upload end, or {advice}; --adopt-rows fills it all the same"
            yield problem(ProblemCode.PREARCHIVE_TAKEN, reason, advice)
        else:
            text, advice = (
                "the prearchive has files of it already",
                "if some were not sent from here, it is held",
            )
            yield problem(ProblemCode.PREARCHIVE_BEGUN, text, advice)
    for name, one in known.filters:
        dropped = [
            files
            for description, files in plan.series.get(row.study_uid, ())
            if filter_drops(one.mode, one.patterns, {"SeriesDescription": description})
        ]
        if dropped:
            text = f"{len(dropped)} of its series would be dropped by {name}"
            yield problem(ProblemCode.SERIES_DROPPED, text, "they are told as refused", sum(dropped))


def _of_another(plan: Plan, row: PlanRow, known: Known) -> Iterable[tuple[ProblemCode, str]]:
    """Tell of one session of the archive that is of somebody else, or may be, though it has the subject of a study."""
    let_in = [
        one.patient
        for one in known.residents
        if one.is_allowed and (one.project, one.subject.lower()) == (row.project_id, row.subject_label.lower())
    ]
    there = [
        (one, patient)
        for one in known.occupants.get(row.subject_label.lower(), ())
        for patient in plan.patients.get(row.study_uid, ())
        # What is there of the study itself is merged with it.
        if one.session.study_uid != row.study_uid
        and not any(is_same_patient(who, digest_patient(patient)) for who in let_in)
    ]
    subject = row.subject_label
    if why := next(filter(None, (occupant_conflict(one, subject, patient) for one, patient in there)), ""):
        yield ProblemCode.SUBJECT_OF_ANOTHER, why
    elif why := next(filter(None, (occupant_doubt(one, subject, patient) for one, patient in there)), ""):
        yield ProblemCode.SUBJECT_DOUBTED, why
