"""Write the result of a rehearsal into a plan, where it overrides what the plan expects."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from asyncimport.model.summary import NOTHING_STORED, Problem, SessionReport, Summary
from asyncimport.operations.plan import Plan
from asyncimport.operations.plan_draft import COMPARE_PATIENTS
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.problems import PlanProblem, ProblemCode

_ARRIVES = frozenset({"archived", "prearchive"})
_MERGES = frozenset({ProblemCode.ARCHIVED_ALREADY, ProblemCode.PREARCHIVE_BEGUN})
_SEE_HINT = "find out what it waits for, and run the upload again"
# How a reason begins for which a session is held: its code, and the advice where the reason has none.
_HELD: Mapping[str, tuple[ProblemCode, str]] = {
    "the archive has another study under this label": (ProblemCode.LABEL_ON_SERVER, "choose another label"),
    "the archive has it under another subject": (
        ProblemCode.SUBJECT_ON_SERVER,
        "use that subject, or choose another label",
    ),
    "the archive has it as": (ProblemCode.MODALITY_ON_SERVER, ""),
    "the archive's session": (ProblemCode.SUBJECT_OF_ANOTHER, COMPARE_PATIENTS),
    "the label": (ProblemCode.LABEL_IS_ID, ""),
    "the study is in the archive already": (ProblemCode.STUDY_ON_SERVER, ""),
    "the prearchive has this study already": (
        ProblemCode.PREARCHIVE_TAKEN,
        "let that upload end, or archive, move or delete the session in XNAT's prearchive; --adopt-rows fills it",
    ),
}
_FILES = {
    "failed": (ProblemCode.FILES_FAILED, "restore these files; --partial archive archives sessions without them"),
    "refused": (ProblemCode.FILES_REFUSED, "expect these files to be refused"),
    "skipped": (ProblemCode.FILES_SKIPPED, "compare these files, and remove or exclude the wrong ones"),
}


def apply_rehearsal(
    plan: Plan, summary: Summary, disputed: Collection[str], notices: Iterable[str], *, is_refused: bool
) -> Plan:
    """Return the plan with what the run does with each study, by the summary of its rehearsal.

    The run skips files of `disputed` studies (UIDs), because their session is not clear. With `is_refused`, the run
    sends nothing because of the errors of the plan, so these stay.
    """
    reports: dict[str, list[SessionReport]] = defaultdict(list)
    for one in summary.sessions:
        reports[one.session.study_uid].append(one)
    known: dict[str, list[PlanProblem]] = defaultdict(list)
    for problem in plan.problems:
        known[problem.study_uid].append(problem)
    skipped = {uid: one for one in summary.problems if one.kind == "skipped" and (uid := _study_of(one.reason))}
    rows: list[PlanRow] = []
    found: list[PlanProblem] = []
    dropped: set[PlanProblem] = set()
    for row in plan.rows:
        uid = row.study_uid
        report = _take(reports[uid], row.project_id)
        errors = [one for one in known[uid] if one.is_error]
        if report is None:
            # None of its files was admitted.
            if not row.skip and uid in skipped:
                found.append(_study_skipped(row, skipped[uid]))
                row = replace(row, skip=True)
        elif report.state in _ARRIVES and uid not in disputed and not (errors and is_refused):
            dropped.update(errors)
            found += _moved(row, report, known[uid])
            project, subject, label = report.session.project, report.session.subject, report.session.label
            skip = row.skip and not errors
            row = replace(row, project_id=project, subject_label=subject, session_label=label, skip=skip)
        else:
            found += (more := [*_unfinished(row, report, known[uid])])
            if any(one.is_error for one in more):
                dropped.update(one for one in known[uid] if one.code in _MERGES)
            row = replace(row, skip=row.skip or report.state == "held")
        codes = {one.code for one in known[uid] if one in dropped}
        rows.append(replace(row, problems=" ".join(word for word in row.problems.split() if word not in codes)))
    for uid, others in reports.items():
        found += (problem for other in others for problem in _unfinished(None, other, known[uid]))
    found += _doubts(notices, {row.study_uid: row for row in plan.rows})
    kept = [one for one in plan.problems if one not in dropped]
    found += _file_problems(summary, [*kept, *found])
    return replace(plan, rows=tuple(rows), problems=tuple(kept)).with_problems(found)


def _take(reports: list[SessionReport], project: str) -> SessionReport | None:
    """Take the report of a study; of several, the one of its project."""
    of_project = [one for one in reports if one.session.project == project]
    report = of_project[0] if of_project else reports[0] if len(reports) == 1 else None
    if report is not None:
        reports.remove(report)
    return report


def _study_of(reason: str) -> str:
    """Return the study that a reason to skip files names, or ""."""
    found = re.match(r"study ([^\s:,]+)[:,]", reason)
    return "" if found is None else found[1]


def _study_skipped(row: PlanRow, why: Problem) -> PlanProblem:
    text, _, advice = why.reason.partition(":")[2].strip().partition("; ")
    advice = advice or _FILES["skipped"][1]
    return PlanProblem(ProblemCode.STUDY_SKIPPED, text, advice, row.study_uid, why.files, why.example)


def _moved(row: PlanRow, report: SessionReport, known: Sequence[PlanProblem]) -> Iterator[PlanProblem]:
    """Report a study that goes into another session than the plan says."""
    session = report.session
    if row.session_label in {"", session.label} or any(one.code is ProblemCode.SESSION_KEPT for one in known):
        return
    text = f"it has session {session.label} of subject {session.subject}, not {row.session_label}"
    advice = "nothing to do: new files of it go there"
    yield PlanProblem(ProblemCode.SESSION_KEPT, text, advice, row.study_uid, report.files, row.source)


def _unfinished(row: PlanRow | None, report: SessionReport, known: Sequence[PlanProblem]) -> Iterator[PlanProblem]:
    """Report why a session will not be archived, unless another problem says so."""
    if (
        report.state in _ARRIVES
        or report.reason == NOTHING_STORED
        or any(one.is_error for one in known)
        or ProblemCode.PART_OF_STUDY in {one.code for one in known}
    ):
        return
    reason = report.reason or "the run leaves some of its files unsent"
    # A semicolon in brackets does not begin the advice.
    text, *hint = re.split(r"; (?![^()]*\))", reason, maxsplit=1)
    code, advice = ProblemCode.SESSION_OPEN, ""
    if report.state == "held":
        held = (found for beginning, found in _HELD.items() if reason.startswith(beginning))
        code, advice = next(held, (ProblemCode.SESSION_HELD, ""))
    example = row.source if row is not None else ""
    advice = "".join(hint) or advice or _SEE_HINT
    yield PlanProblem(code, text, advice, report.session.study_uid, report.files, example)


def _doubts(notices: Iterable[str], rows: Mapping[str, PlanRow]) -> Iterator[PlanProblem]:
    """Report the notices of a run about subjects whose patient in the archive may be another one."""
    for notice in notices:
        found = re.fullmatch(r"study (\S+) \(subject .*?\): \((.*)\)", notice)
        if found and (row := rows.get(found[1])) is not None:
            code = ProblemCode.SUBJECT_DOUBTED
            yield PlanProblem(code, found[2], COMPARE_PATIENTS, row.study_uid, row.files or 0, row.source)


def _file_problems(summary: Summary, known: Sequence[PlanProblem]) -> Iterator[PlanProblem]:
    """Report files that will not arrive, unless another problem says so."""
    codes = {problem.code for problem in known}
    is_known: Mapping[str, bool] = {
        "failed": False,
        "refused": ProblemCode.SERIES_DROPPED in codes,
        "skipped": ProblemCode.TWIN in codes or any(one.is_error for one in known),
    }
    for problem in summary.problems:
        kind = problem.kind.removeprefix("attachment ")
        if kind != problem.kind and kind == "skipped":
            is_reported = ProblemCode.ATTACHMENT_NAMES in codes
        else:
            is_reported = is_known.get(kind, True)
        if not is_reported:
            code, advice = _FILES[kind]
            yield PlanProblem(code, problem.reason, advice, files=problem.files, example=problem.example)
