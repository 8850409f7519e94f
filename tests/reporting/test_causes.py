"""Problems by their cause: one line for equal ones, the worst first, and none hidden behind a number."""

import pytest

from asyncimport.model.files import Session
from asyncimport.model.summary import Files, Problem, SessionReport, Summary
from asyncimport.reporting.causes import advice_for, plan_causes, summary_causes
from asyncimport.routing.problems import PlanProblem, ProblemCode

DENIED = Problem("unreadable", "permission denied", 1, "/data/secret.dcm")


def summary(*problems: Problem, sessions: tuple[SessionReport, ...] = ()) -> Summary:
    """Make a summary with these problems."""
    return Summary(Files(), 0, 0, sessions, problems)


def held(number: int, reason: str, state: str = "held") -> SessionReport:
    """Make a session that is not archived."""
    return SessionReport(Session("P", f"S{number}", f"E{number}", f"1.2.{number}"), 1, 1, state, None, None, reason)


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("the server failed (500: no), 5 times", "the server failed (500: no), 3 times", "the server failed (500: no)"),
        (
            "study 1.2.3: the session label A_1 already belongs to study 1.2.4",
            "study 1.2.5: the session label B_1 already belongs to study 1.2.6",
            "the session label ... already belongs to study ...",
        ),
        (
            "XNAT refused the file (400: no project 'A')",
            "XNAT refused the file (400: no project 'B')",
            "no project ...",
        ),
        ("XNAT refused (500: at /data/a b 17)", "XNAT refused (500: at /data/c b 18)", "at ... b ..."),
        (
            "another file has the same SOPInstanceUID (1.2.3)",
            "another file has the same SOPInstanceUID (1.2.4)",
            "(...)",
        ),
    ],
)
def test_problems_that_differ_in_details_are_one(one: str, other: str, shown: str) -> None:
    """UIDs, labels, paths and numbers are no causes. The counts are added up, and the example is that of the first."""
    (cause,) = summary_causes(summary(Problem("failed", one, 4, "/a"), Problem("failed", other, 6, "/b")))
    assert (cause.hit, cause.example) == ("10 files", "/a")
    assert shown in cause.reason
    assert "1.2." not in cause.reason


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("the server failed (500: no)", "the server failed (503: no)"),
        ("no PatientID in the header", "no StudyDate in the header"),
        ("permission denied", "truncated: the pixel data ends early"),
    ],
)
def test_causes_are_kept_apart(one: str, other: str) -> None:
    """A status, a field and a defect are causes."""
    found = summary_causes(summary(Problem("failed", one, 1, "/a"), Problem("failed", other, 1, "/b")))
    assert {cause.reason for cause in found} == {one, other}


def test_a_single_problem_is_told_with_its_details() -> None:
    """Only what differs is left out."""
    reason = "study 1.2.3: the session label A_1 already belongs to study 1.2.4"
    (cause,) = summary_causes(summary(Problem("skipped", reason, 7, "/a")))
    assert (cause.reason, cause.hit) == (reason, "7 files")


def test_nothing_hides_what_may_not_be_read() -> None:
    """A server can give each file a reason of its own: these are counted, and permissions still come first."""
    many = [Problem("failed", f"reason {'x' * number}", 2, f"/{number}") for number in range(100)]
    found = summary_causes(summary(*many, DENIED))
    assert found[0].reason == "permission denied"
    assert "check permissions" in found[0].advice
    assert len(found) == 31
    assert found[-1].hit == f"{2 * 71} files"
    assert found[-1].reason.startswith("71 other reasons, of which one is: reason x")


def test_the_worst_come_first() -> None:
    """Errors before warnings and notices, and of these what hit most."""
    found = summary_causes(
        summary(
            Problem("excluded", "study 1.2.3: its modality was not asked for", 900, "/a"),
            Problem("link", "a link to a file outside the source", 50, "/b"),
            Problem("skipped", "study 1.2.4: no StudyDate in the header", 3, "/c"),
            Problem("refused", "XNAT refused the file (400: no)", 4, "/d"),
            sessions=(held(1, "interrupted", "open"), held(2, "XNAT did not archive it (500: no)")),
        )
    )
    assert [cause.kind for cause in found] == ["refused", "skipped", "held", "link", "open", "excluded"]


def test_sessions_with_one_cause_are_one() -> None:
    """Each of 50,000 sessions may be held for one cause: that is one line."""
    sessions = tuple(held(number, f"XNAT did not archive the session (500: id {number})") for number in range(50_000))
    (cause,) = summary_causes(summary(sessions=sessions))
    assert (cause.hit, cause.example) == ("50,000 sessions", "P / S0 / E0")


@pytest.mark.parametrize("text", ["a-" * 9000, "'" * 9000, "/" * 9000, "1." * 9000, "study A" * 2000, "1:" * 9000])
def test_a_hostile_reason_takes_no_minutes(text: str) -> None:
    """What a server writes into a reason cannot keep the search for details busy."""
    (cause,) = summary_causes(summary(Problem("failed", text, 1, "/a")))
    assert cause.reason == text


def test_studies_of_a_plan_are_counted() -> None:
    """A plan counts studies and files of each problem, by its code."""
    problems = [
        PlanProblem(ProblemCode.NO_LABEL, "no PatientID in the header", "choose", f"1.2.{number}", 3, f"/{number}")
        for number in range(4)
    ]
    problems.append(PlanProblem(ProblemCode.UNREADABLE, "permission denied", "check", "", 1, "/x"))
    error, warning = plan_causes(problems)
    assert (error.kind, error.hit, error.reason) == ("no-label", "4 studies, 12 files", "no PatientID in the header")
    assert (warning.hit, warning.reason) == ("1 file", "permission denied")


@pytest.mark.parametrize(
    ("kind", "reason", "advice"),
    [
        ("unreadable", "permission denied", "check permissions"),
        ("unreadable", "truncated: the pixel data ends early", "--truncated send"),
        ("unreadable", "input/output error", "check the disk"),
        ("skipped", "study 1.2.3: no PatientID in the header", "choose other templates"),
        ("skipped", "study 1.2.3: the session label L already belongs to study 1.2.4", "--on-collision suffix"),
        ("skipped", "study 1.2.3, subject S: the subject would hold two PatientIDs", "--allow-mixed-patients"),
        ("link", "a link to a file; leave it out with --exclude, or use --follow-links", ""),
        ("excluded", "study 1.2.3: it is being written: ...", "nothing to do"),
        ("excluded", "study 1.2.3: it is beyond --max-sessions", "run the command without --max-sessions"),
        ("refused", "the file is larger than a proxy before XNAT lets through (413)", "limit"),
        ("failed", "the server failed (500: no), 5 times", "run the same command again"),
        ("held", "2 of its files cannot be read", "--partial archive"),
        ("held", "the prearchive has this study already (); delete it in XNAT's prearchive, then run this again", ""),
        ("held", "XNAT did not archive the session (500: no)", "--retry held"),
        ("subject failed", "no", "run the same command again"),
    ],
)  # fmt: skip
def test_what_to_do(kind: str, reason: str, advice: str) -> None:
    """Each cause has an advice that fits, unless the reason itself ends with it."""
    found = advice_for(kind, reason)
    assert advice in found
    assert bool(found) == bool(advice)
