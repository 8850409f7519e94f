"""A plan: where each study of a source would go, and every problem, before a byte is sent.

It is made of the header cache and the options of a run. A dry run adds what the server says. As a table
(`routing/plan_file.py`) people can edit it; it is then the rules of a run itself (`PlannedRoutes`).
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from types import MappingProxyType

from asyncimport.errors import AsyncimportError, UsageError
from asyncimport.journal import HeaderCache, RecentStudies, StudySummary, SubjectPatient
from asyncimport.model.record import record
from asyncimport.operations.plan_draft import PlanDraft, PlanRules, StudyDraft, file_problems, study_problem
from asyncimport.operations.plan_guards import assign_labels, check_patients, check_rows, keep_session, use_project_id
from asyncimport.routing.attachments import name_in_resource
from asyncimport.routing.existing_sessions import NO_SESSIONS, ExistingSessions
from asyncimport.routing.filters import StudyFilter
from asyncimport.routing.plan_binding import FoundStudy
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.routing.problems import PlanProblem, ProblemCode

# Why the files of a problem will not go: of a study that is not sent, and of one that is.
_CHOSEN: Mapping[str, str] = MappingProxyType(
    {
        ProblemCode.LEFT_OUT: "of studies that were left out",
        ProblemCode.BEING_WRITTEN: "of studies that are being written",
    }
)
_FILES_LACK: Mapping[str, str] = MappingProxyType(
    {
        ProblemCode.UNREADABLE: "unreadable",
        ProblemCode.TWIN: "with the SOPInstanceUID of another file",
        ProblemCode.ARCHIVE_FILE: "packed as zip, tar or gz",
        ProblemCode.LINK: "linked out of the source",
        ProblemCode.FILES_FAILED: "that cannot be sent",
        ProblemCode.FILES_REFUSED: "that XNAT would refuse",
        ProblemCode.FILES_SKIPPED: "skipped",
    }
)
_NO_IDS: Mapping[str, str | AsyncimportError] = MappingProxyType({})


@record
class Plan:
    """A row for each study, in the order of their dates, and all problems.

    `not_dicom` counts other files by suffix, `attachments` those that become attachments by resource. `series` has the
    SeriesDescription and the number of files of each series, by study; `left_out` says why a filter leaves a study out.
    `beyond_limit` has the number of files of each study after the first sessions that a pilot sends; these have no row.
    `unasked` counts files of studies of which a filter selects a part.
    """

    rows: tuple[PlanRow, ...]
    problems: tuple[PlanProblem, ...] = ()
    not_dicom: tuple[tuple[str, int], ...] = ()
    series: Mapping[str, Sequence[tuple[str, int]]] = field(default_factory=dict, repr=False)
    attachments: tuple[tuple[str, int], ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict, repr=False)
    beyond_limit: Mapping[str, int] = field(default_factory=dict, repr=False)
    unasked: int = 0

    @property
    def errors(self) -> int:
        """Return the number of problems that keep something from being sent."""
        return sum(problem.is_error for problem in self.problems)

    @property
    def selects_nothing(self) -> bool:
        """Whether filters leave out every study of the source."""
        return bool(self.rows) and all(row.study_uid in self.left_out for row in self.rows)

    @property
    def unsent(self) -> Mapping[str, int]:
        """Return how many files will not go, by why: of whole studies, then others. Copies are no such files."""
        files: Counter[str] = Counter()
        skipped = set()
        for row in self.rows:
            if row.skip:
                skipped.add(row.study_uid)
                codes = row.problems.split()
                chosen = (why for code, why in _CHOSEN.items() if code in codes)
                files[next(chosen, "of studies with errors")] += row.files or 0
        files["beyond --max-sessions"] += sum(self.beyond_limit.values())
        files["left out by the filters"] += self.unasked
        for problem in self.problems:
            if (why := _FILES_LACK.get(problem.code)) and problem.study_uid not in skipped:
                # The first of the files that share a SOPInstanceUID is sent.
                files[why] += problem.files - (problem.code is ProblemCode.TWIN)
        return {why: number for why, number in files.items() if number}

    @property
    def waiting(self) -> Mapping[str, str]:
        """Return why each study waits that may still be written."""
        found = [problem for problem in self.problems if problem.code is ProblemCode.BEING_WRITTEN]
        return {problem.study_uid: f"it is being written: {problem.text}" for problem in found}

    @property
    def faulty(self) -> Mapping[str, str]:
        """Return the error of each study that is not sent because of one."""
        errors = [problem for problem in self.problems if problem.is_error and problem.study_uid]
        return {problem.study_uid: f"{problem.text}; {problem.advice}" for problem in reversed(errors)}

    def with_problems(self, problems: Iterable[PlanProblem]) -> "Plan":
        """Return the plan with more problems; the rows of their studies name their codes."""
        more = tuple(problems)
        codes: dict[str, list[str]] = defaultdict(list)
        for problem in more:
            codes[problem.study_uid].append(problem.code)
        rows = tuple(
            replace(row, problems=" ".join(dict.fromkeys([*row.problems.split(), *codes[row.study_uid]])))
            for row in self.rows
        )
        return replace(self, rows=rows, problems=(*self.problems, *more))


def make_plan(
    cache: HeaderCache,
    draft: PlanDraft,
    rules: PlanRules,
    *,
    project_ids: Mapping[str, str | AsyncimportError] = _NO_IDS,
    sessions: ExistingSessions = NO_SESSIONS,
    known_patients: Iterable[SubjectPatient] = (),
    recent: RecentStudies | None = None,
    resource_of: Callable[[str], str | None] = lambda _: None,
) -> Plan:
    """Compare all studies with each other and with the sessions that exist; then apply --min-age and the limit.

    `project_ids` has the ID of each project, or why it is closed, by the name that the rules give it. `known_patients`
    are those of each subject by the journal. With `recent`, studies that may still be written are left out.
    With `suffix`, a study whose label is taken gets `_2`, `_3` and so on, in the order of dates; else that is an error.
    It blocks.
    """
    routes, problems = rules.routes, list(draft.problems)
    studies = [use_project_id(one, project_ids, problems) for one in draft.studies]
    if isinstance(routes, PlannedRoutes):
        waiting = {} if recent is None else recent.waiting
        studies = list(check_rows(studies, routes, problems, sessions, waiting, draft.damaged))
    else:
        is_whole = rules.suffix or routes.needs_whole_study
        studies = [keep_session(one, sessions, problems, is_whole=is_whole) for one in studies]
    # All studies are compared before any is left for later: neither may hide a problem.
    studies = list(assign_labels(studies, problems, sessions, rules))
    if not rules.allow_mixed_patients:
        studies = list(check_patients(studies, problems, known_patients, rules.accepted))
    if recent is not None:
        studies = [_check_recent(one, recent, problems) for one in studies]
        studies += _recent_without_files(cache, studies, recent, problems)
    everything = {draft.study.study_uid: draft.study.files for draft in studies}
    if rules.limit is not None:
        studies = _first(studies, rules.limit)
    problems += file_problems(cache, truncated=rules.send_truncated)
    attachments = _attachments(cache, resource_of, problems)
    return Plan(
        tuple(map(_row, studies)),
        not_dicom=tuple(cache.other_kinds(suffix_of)),
        series=cache.series(truncated=rules.send_truncated),
        attachments=attachments,
        left_out=draft.left_out,
        beyond_limit={uid: everything[uid] for uid in everything.keys() - {draft.study.study_uid for draft in studies}},
        unasked=draft.unasked,
    ).with_problems(problems)


def _attachments(
    cache: HeaderCache, resource_of: Callable[[str], str | None], problems: list[PlanProblem]
) -> tuple[tuple[str, int], ...]:
    """Count attachments by resource. Files that would get one name in a resource are a problem."""
    paths_by_name: dict[tuple[str, str, str], list[str]] = {}

    def resource(path: str) -> str | None:
        if (label := resource_of(path)) is not None:
            directory, name = os.path.split(path)
            paths_by_name.setdefault((directory, label, name_in_resource(name)), []).append(path)
        return label

    counts = tuple(cache.other_kinds(resource))
    for (_, label, name), paths in paths_by_name.items():
        if len(paths) > 1:
            text = f"{len(paths)} files of one directory would all be {name} in {label}: only the first is sent"
            advice = "give the others names that differ in letters, digits, '.', '_' or '-'"
            code = ProblemCode.ATTACHMENT_NAMES
            problems.append(PlanProblem(code, text, advice, files=len(paths), example=paths[-1]))
    return counts


def unmatched_filter(study_filter: StudyFilter, rows: Iterable[PlanRow]) -> UsageError:
    """Return the error for a filter that selects no study of a source; `rows` are of all its studies."""
    rows = list(rows)
    modalities = sorted({modality for row in rows for modality in row.modalities.split()})
    dates = sorted(row.study_date for row in rows if row.study_date)
    facts = [f"SOURCE has modalities {', '.join(modalities)}"] if modalities and study_filter.modalities else []
    facts += [f"its studies are of {dates[0]} to {dates[-1]}"] if dates and study_filter.since else []
    facts += ["--include is compared with paths below SOURCE"] if study_filter.include is not None else []
    hint = "; ".join(facts) or "correct the filter"
    return UsageError(f"nothing in SOURCE matches {study_filter.text or 'the filter'}", hint=hint)


def suffix_of(path: str) -> str:
    """Return the extension of a path in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 - the path need not be text


def _check_recent(draft: StudyDraft, recent: RecentStudies, problems: list[PlanProblem]) -> StudyDraft:
    """Leave out a study that may still be written, and report files with times in the future."""
    study = draft.study
    if files := recent.dated_ahead.get(study.study_uid):
        text, advice = f"{files} of its files have times in the future", "correct the clock that set these times"
        problems.append(study_problem(ProblemCode.DATED_AHEAD, study, text, advice))
    if draft.session is None or study.study_uid not in recent.waiting:
        return draft
    problems.append(_being_written(study, recent))
    return draft.without_session()


def _being_written(study: StudySummary, recent: RecentStudies) -> PlanProblem:
    advice = "nothing to do: a later run sends it, when its files have not changed for --min-age"
    return study_problem(ProblemCode.BEING_WRITTEN, study, recent.waiting[study.study_uid], advice)


def _recent_without_files(
    cache: HeaderCache, drafts: Sequence[StudyDraft], recent: RecentStudies, problems: list[PlanProblem]
) -> list[StudyDraft]:
    """Return the recent studies that have no intact file yet."""
    known = {draft.study.study_uid for draft in drafts}
    found = []
    for study in cache.studies(truncated=True):
        if study.study_uid not in known and study.study_uid in recent.waiting:
            problems.append(_being_written(study, recent))
            found.append(StudyDraft(study, None, ("", ""), {}, FoundStudy(study.study_uid, (), None)))
    return found


def _first(drafts: list[StudyDraft], limit: int) -> list[StudyDraft]:
    """Keep the sessions that a walk meets first, and studies that are not sent."""
    in_order = sorted((draft for draft in drafts if draft.session is not None), key=lambda draft: draft.study.position)
    first = {draft.study.study_uid for draft in in_order[:limit]}
    return [draft for draft in drafts if draft.session is None or draft.study.study_uid in first]


def _row(draft: StudyDraft) -> PlanRow:
    study, session = draft.study, draft.session
    patient_id, issuer = draft.found.patient_cells()
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
        skip=session is None,
        patient_id=patient_id,
        issuer=issuer,
    )
