"""A plan: where each study of a source would go, and every problem, before a byte is sent.

It is made of a scan of the source and the rules of a run, and of nothing else: what the server knows is asked elsewhere
and added (`with_archive`). As a table (`routing/plan_file.py`) it can be edited, and is then the rules of a run itself
(`PlannedRoutes`).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType

from asyncimport.errors import AsyncimportError
from asyncimport.journal import HeaderCache, StudySummary, SubjectPatient, Unsettled
from asyncimport.model import Patient
from asyncimport.operations.plan_draft import PlanDraft, StudyDraft, of_files, study_problem
from asyncimport.operations.plan_guards import bound, distinct, in_project, kept, one_patient
from asyncimport.routing import (
    NO_SESSIONS,
    ExistingSessions,
    PlanProblem,
    ProblemCode,
    name_in_resource,
)
from asyncimport.routing.plan_binding import FoundStudy
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.planned_routes import PlannedRoutes

_NO_NAMES: Mapping[str, str | AsyncimportError] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Plan:
    """A row for each study, in the order of their dates, and all problems.

    `not_dicom` counts other files by suffix, `attachments` those of them that are to go beside the images by resource,
    `series` tells SeriesDescription and files of each series, by study, `patients` whom its headers name, `left` why
    nobody asked for it.
    """

    rows: tuple[PlanRow, ...]
    problems: tuple[PlanProblem, ...]
    not_dicom: tuple[tuple[str, int], ...] = ()
    series: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict, repr=False)
    attachments: tuple[tuple[str, int], ...] = ()
    patients: Mapping[str, AbstractSet[Patient]] = field(default_factory=dict, repr=False)
    left: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> int:
        """Return the number of problems that keep something from being sent."""
        return sum(problem.is_error for problem in self.problems)

    @property
    def waiting(self) -> Mapping[str, str]:
        """Return why each study waits that may still be being written."""
        found = [problem for problem in self.problems if problem.code is ProblemCode.BEING_WRITTEN]
        return {problem.study_uid: f"it is being written: {problem.text}" for problem in found}

    @property
    def faulty(self) -> Mapping[str, str]:
        """Return what is wrong with each study that an error keeps from being sent."""
        errors = [problem for problem in self.problems if problem.is_error and problem.study_uid]
        return {problem.study_uid: f"{problem.text}; {problem.advice}" for problem in reversed(errors)}


def make_plan(
    found: HeaderCache,
    drafted: PlanDraft,
    *,
    projects: Mapping[str, str | AsyncimportError] = _NO_NAMES,
    truncated: bool = False,
    given: ExistingSessions = NO_SESSIONS,
    residents: Iterable[SubjectPatient] = (),
    allow_mixed_patients: bool = False,
    suffix: bool = False,
    limit: int | None = None,
    looks: Unsettled | None = None,
    resource_of: Callable[[str], str | None] = lambda _: None,
    streams: bool = False,
) -> Plan:
    """Compare all studies with each other and with what is `given`, and keep the first `limit` at most by their places.

    `projects` are the IDs of projects, or why one is closed, by the names that the rules have for them, `residents` are
    who is in each subject by the journal.
    With `looks`, studies are left out that may still be being written.
    With `suffix`, studies whose label another one has already get `_2`, `_3` and so on behind it, in the order of their
    dates; else they are errors, but for the one that has it, or is the first of them by date; or that the walk meets
    first, as a run that `streams` knows no more when it begins. It blocks: call it in a worker thread.
    """
    problems: list[PlanProblem] = [*drafted.problems]
    drafts = [in_project(draft, projects, problems) for draft in drafted.drafts]
    if isinstance(drafted.routes, PlannedRoutes):
        drafts = list(bound(drafts, drafted.routes, problems, given, {} if looks is None else looks.waiting))
    else:
        is_whole = suffix or drafted.routes.needs_whole_study
        drafts = [kept(draft, given, problems, is_whole=is_whole) for draft in drafts]
    # All studies are compared before any is left for later: nothing that is wrong may hide behind a pause or a limit.
    drafts = list(distinct(drafts, problems, given, suffix=suffix, streams=streams))
    if not allow_mixed_patients:
        drafts = list(one_patient(drafts, problems, residents))
    if looks is not None:
        drafts = [_quiet(draft, looks, problems) for draft in drafts]
        drafts += _unfinished(found, drafts, looks, problems)
    if limit is not None:
        drafts = _first(drafts, limit)
    problems += of_files(found, truncated=truncated)
    codes: dict[str, dict[str, None]] = {}
    for problem in problems:
        codes.setdefault(problem.study_uid, {})[problem.code] = None
    rows = tuple(_row(draft, codes.get(draft.study.study_uid, ())) for draft in drafts)
    series = found.series(truncated=truncated)
    patients = {draft.study.study_uid: draft.patients for draft in drafts}
    others = tuple(found.other_kinds(suffix_of))
    attachments = _attachments(found, resource_of, problems)
    return Plan(rows, tuple(problems), others, series, attachments, patients, drafted.left)


def _attachments(
    found: HeaderCache, resource_of: Callable[[str], str | None], problems: list[PlanProblem]
) -> tuple[tuple[str, int], ...]:
    """Count what goes beside the images, by resource; of what would have one name there, all but one are a problem."""
    alike: dict[tuple[str, str, str], list[str]] = {}

    def resource(path: str) -> str | None:
        if (label := resource_of(path)) is not None:
            directory, own = os.path.split(path)
            alike.setdefault((directory, label, name_in_resource(own)), []).append(path)
        return label

    counts = tuple(found.other_kinds(resource))
    for (_, label, name), paths in alike.items():
        if len(paths) > 1:
            text = f"{len(paths)} files beside each other would be {name} in {label}: only the first is sent"
            advice = "give the others names that differ in letters, digits, '.', '_' or '-'"
            problems.append(
                PlanProblem(ProblemCode.ATTACHMENT_NAMES, text, advice, files=len(paths), example=paths[-1])
            )
    return counts


def suffix_of(path: str) -> str:
    """Return the extension of a path, in small letters and with its dot."""
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - the path need not be text


def _quiet(draft: StudyDraft, looks: Unsettled, problems: list[PlanProblem]) -> StudyDraft:
    """Leave a study out that is still being written, it may be; tell of files that are dated in the future."""
    study = draft.study
    if files := looks.ahead.get(study.study_uid):
        text, advice = f"{files} of its files are dated in the future", "set the clock; their times are not gone by"
        problems.append(study_problem(ProblemCode.DATED_AHEAD, study, text, advice))
    if draft.session is None or study.study_uid not in looks.waiting:
        return draft
    problems.append(_being_written(study, looks))
    return draft.without_place()


def _being_written(study: StudySummary, looks: Unsettled) -> PlanProblem:
    advice = "it is sent when its files have been quiet"
    return study_problem(ProblemCode.BEING_WRITTEN, study, looks.waiting[study.study_uid], advice)


def _unfinished(
    found: HeaderCache, drafts: Sequence[StudyDraft], looks: Unsettled, problems: list[PlanProblem]
) -> list[StudyDraft]:
    """Leave studies out of which no file is whole yet, as they are being written, it may be."""
    known = {draft.study.study_uid for draft in drafts}
    left = []
    for study in found.studies(truncated=True):
        if study.study_uid not in known and study.study_uid in looks.waiting:
            problems.append(_being_written(study, looks))
            left.append(StudyDraft(study, None, ("", ""), frozenset(), FoundStudy(study.study_uid, (), None)))
    return left


def _first(drafts: list[StudyDraft], limit: int) -> list[StudyDraft]:
    """Keep the studies that a walk meets first."""
    met = sorted((draft for draft in drafts if draft.session is not None), key=lambda draft: draft.study.met)
    kept = {draft.study.study_uid for draft in met[:limit]}
    return [draft for draft in drafts if draft.session is None or draft.study.study_uid in kept]


def _row(draft: StudyDraft, codes: Iterable[str]) -> PlanRow:
    study, session = draft.study, draft.session
    patient_id, issuer = draft.found.bound()
    return PlanRow(
        study.study_uid,
        session.project if session else "",
        session.subject if session else "",
        session.label if session else "",
        study_date=draft.when[0],
        modalities=" ".join(study.modalities),
        series=study.series,
        files=study.files,
        bytes=study.size,
        source=study.directory,
        problems=" ".join(codes),
        skip=session is None,
        patient_id=patient_id,
        issuer=issuer,
    )
