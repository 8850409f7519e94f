"""A plan as a run would carry it out: what its rehearsal comes to outweighs what the plan expects."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from asyncimport import model
from asyncimport.model import NOTHING_STORED, Session, SessionReport, Summary
from asyncimport.operations.plan import Plan
from asyncimport.routing import PlanProblem, ProblemCode
from asyncimport.routing.plan_file import PlanRow

_ARRIVES = frozenset({"archived", "prearchive"})
_KEPT_ADVICE = "what is new of it goes there"
_LEFT_ADVICE = "see what it waits for, and run the upload again"
_OF_KIND = {
    "failed": (ProblemCode.FILES_FAILED, "bring it back; --partial archive does without it"),
    "refused": (ProblemCode.FILES_REFUSED, "it is told as refused"),
    "skipped": (ProblemCode.FILES_SKIPPED, "see what differs"),
}


def apply_rehearsal(plan: Plan, summary: Summary, disputed: Collection[str]) -> Plan:
    """Return a plan that says of each study what the run does with it, by the summary of its rehearsal.

    Of `disputed` studies (UIDs) the run skips files, for where they would go.
    """
    reports: dict[str, list[SessionReport]] = defaultdict(list)
    for one in summary.sessions:
        reports[one.session.study_uid].append(one)
    told: dict[str, list[PlanProblem]] = defaultdict(list)
    for problem in plan.problems:
        told[problem.study_uid].append(problem)
    rows: list[PlanRow] = []
    found: list[PlanProblem] = []
    settled: set[str] = set()
    skipped = {about: one for one in summary.problems if one.kind == "skipped" and (about := _study_of(one.reason))}
    for row in plan.rows:
        uid = row.study_uid
        report = _take(reports[uid], row.project_id)
        if report is None:
            # Nothing of it was admitted.
            why = None if row.skip else skipped.get(uid)
            found += [] if why is None else [_skipped(row, why)]
            rows.append(row if why is None else replace(row, skip=True, problems=_with(row, ProblemCode.STUDY_SKIPPED)))
        elif report.state in _ARRIVES and uid not in disputed:
            rows.append(_arriving(row, report.session, told[uid]))
            settled.add(uid)
            found += _moved(row, report, told[uid])
        else:
            found += (more := [*_left(row, report, told[uid])])
            words = _with(row, *(problem.code for problem in more))
            rows.append(replace(row, skip=row.skip or report.state == "held", problems=words))
    for uid, others in reports.items():
        found += (problem for other in others for problem in _left(None, other, told[uid]))
    kept = [one for one in plan.problems if not one.is_error or one.study_uid not in settled]
    return replace(plan, rows=tuple(rows), problems=(*kept, *found, *_of_files(summary, [*kept, *found])))


def _take(reports: list[SessionReport], project: str) -> SessionReport | None:
    """Take the report of a study, of the session in its project where there are several."""
    of_project = [one for one in reports if one.session.project == project]
    report = of_project[0] if of_project else reports[0] if len(reports) == 1 else None
    if report is not None:
        reports.remove(report)
    return report


def _is_held(report: SessionReport) -> bool:
    return report.state == "held" and report.reason != NOTHING_STORED


def _with(row: PlanRow, *codes: ProblemCode) -> str:
    return " ".join(dict.fromkeys([*row.problems.split(), *codes]))


def _study_of(reason: str) -> str:
    """Return the study that a reason to skip files is about; "" where it is about none."""
    found = re.match(r"study ([^\s:,]+)[:,]", reason)
    return "" if found is None else found[1]


def _skipped(row: PlanRow, why: model.Problem) -> PlanProblem:
    text = why.reason.partition(":")[2].strip()
    text, _, advice = text.partition("; ")
    code, otherwise = ProblemCode.STUDY_SKIPPED, _OF_KIND["skipped"][1]
    return PlanProblem(code, text, advice or otherwise, row.study_uid, why.files, why.example)


def _arriving(row: PlanRow, session: Session, told: Sequence[PlanProblem]) -> PlanRow:
    """Return the row of a study that goes into a session, whatever the plan has against it."""
    errors = {problem.code for problem in told if problem.is_error}
    return replace(
        row,
        project_id=session.project,
        subject_label=session.subject,
        session_label=session.label,
        skip=row.skip and not errors,
        problems=" ".join(word for word in row.problems.split() if word not in errors),
    )


def _moved(row: PlanRow, report: SessionReport, told: Sequence[PlanProblem]) -> Iterator[PlanProblem]:
    """Tell of a study that goes into another session than its plan says."""
    session = report.session
    if row.session_label in {"", session.label} or any(one.code is ProblemCode.SESSION_KEPT for one in told):
        return
    text = f"it has session {session.label} of subject {session.subject}, and not {row.session_label}"
    yield PlanProblem(ProblemCode.SESSION_KEPT, text, _KEPT_ADVICE, row.study_uid, report.files, row.source)


def _left(row: PlanRow | None, report: SessionReport, told: Sequence[PlanProblem]) -> Iterator[PlanProblem]:
    """Tell why a session would not come to its end, where nothing else says so."""
    codes = {problem.code for problem in told}
    if (
        report.state in _ARRIVES
        or report.reason == NOTHING_STORED
        or any(one.is_error for one in told)
        or ProblemCode.PART_OF_STUDY in codes
    ):
        return
    text, _, advice = (report.reason or "files of it are left that this run does not send").partition("; ")
    code = ProblemCode.SESSION_HELD if _is_held(report) else ProblemCode.SESSION_OPEN
    example = row.source if row is not None else ""
    yield PlanProblem(code, text, advice or _LEFT_ADVICE, report.session.study_uid, report.files, example)


def _of_files(summary: Summary, told: Sequence[PlanProblem]) -> Iterator[PlanProblem]:
    """Tell of files that would not arrive, where nothing else says so."""
    codes = {problem.code for problem in told}
    is_said: Mapping[str, bool] = {
        "failed": False,
        "refused": ProblemCode.SERIES_DROPPED in codes,
        "skipped": ProblemCode.TWIN in codes or any(one.is_error for one in told),
    }
    for problem in summary.problems:
        kind = problem.kind.removeprefix("attachment ")
        is_told = is_said if kind == problem.kind else {**is_said, "skipped": ProblemCode.ATTACHMENT_NAMES in codes}
        if not is_told.get(kind, True):
            code, advice = _OF_KIND[kind]
            yield PlanProblem(code, problem.reason, advice, files=problem.files, example=problem.example)
