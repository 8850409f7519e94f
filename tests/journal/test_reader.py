"""The journal reader: each file in one category, each session in one state, for one run or all."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from journals import (
    ROOT,
    RULES,
    Disk,
    archived,
    failed,
    held,
    instance,
    meet,
    names,
    opened,
    refused,
    scan,
    sealed_by,
    send,
    session,
    stored,
    whole_run,
)

from asyncimport.journal import Journal, JournalReader
from asyncimport.model.deliveries import Built, Claim, Outcome, Refused, SealedDelivery, Verdict
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind, Refusal
from asyncimport.model.summary import NOTHING_STORED, Files, Problem, SessionReport, SubjectReport, Summary

E1, E2, E3 = session("E1"), session("E2", subject="S2"), session("E3", subject="S3")


def answers(verdicts: dict[str, Callable[[Claim], Outcome]]) -> Callable[[Claim], Outcome]:
    """Give these answers to some files, and acknowledge all others."""
    return lambda claim: verdicts.get(names([claim])[0], stored)(claim)


def built(sealed: SealedDelivery) -> Verdict:
    """Leave the session in the prearchive."""
    return Built(sealed.delivery, "/data" + (sealed.delivery.uri or ""))


def ignored(name: str, kind: FileKind, reason: str, size: int = 7) -> Ignored:
    """Make a file that is not sent."""
    return Ignored(File(f"{ROOT}/{name}", size, 1_000), kind, reason)


def of_all(path: Path) -> Summary:
    """Return the summary of everything in a journal."""
    with JournalReader.open(path) as reader:
        return reader.summary()


def only_session(summary: Summary) -> SessionReport:
    """Return the report of the only session."""
    (report,) = summary.sessions
    return report


# Files and bytes


def test_found_is_the_sum_of_its_parts() -> None:
    """Every category of DICOM that can be sent counts once; the two other categories do not."""
    files = Files(*(10**power for power in range(10)))
    assert files.found == sum(10**power for power in range(2, 10))


def test_each_file_is_in_one_category(path: Path, disk: Disk) -> None:
    """Bytes found are those of files that can be sent, bytes stored those of files that were."""
    disk.put(
        instance("1-stored", E1, size=1),
        instance("2-refused", E1, size=20),
        instance("3-failed", E2, size=300),
        instance("4-skipped", session("e1", study="1.2.late"), size=4_000),
        instance("5-duplicate", E1, sop="1.2.E1.1-stored", size=50_000),
        ignored("6-not", FileKind.NOT_DICOM, "no DICOM"),
        ignored("7-bad", FileKind.UNREADABLE, "truncated"),
        instance("8-whole", E3, size=600_000),
        instance("9-left", E3, size=7_000_000),
    )
    verdicts = {
        "2-refused": refused,
        "3-failed": failed,
        "8-whole": lambda claim: Refused(claim, "not allowed", whole_session=True, kind=Refusal.SERVER),
    }
    with opened(path) as journal:
        scan(journal, disk)
        assert JournalReader.of(journal).summary().files.left == 5
        send(journal, answers(verdicts))
        summary = JournalReader.of(journal).summary()
    assert summary.files == Files(
        not_dicom=1, unreadable=1, duplicate=1, skipped=1, stored=1, refused=2, failed=1, left=1
    )
    assert (summary.files.found, summary.bytes_found, summary.bytes_stored) == (7, 7_654_321, 1)
    assert of_all(path) == summary
    # The next run finds the same files: old verdicts are an earlier run's, and what failed, or was refused with its
    # session, is taken up again.
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, failed)
        later = JournalReader.of(journal).summary()
    assert later.files == Files(
        not_dicom=1, unreadable=1, duplicate=1, skipped=1, already_stored=1, already_refused=1, failed=3
    )
    assert (later.files.found, later.bytes_found, later.bytes_stored) == (7, 7_654_321, 0)


def test_a_run_counts_its_own_sources(path: Path, disk: Disk) -> None:
    """A run's summary leaves out files of other sources; the summary of the journal has all."""
    disk.put(instance("a/1", E1), instance("a/2", E1), ignored("a/3", FileKind.NOT_DICOM, "no DICOM"))
    whole_run(path, disk)
    other = Disk()
    other.put(instance("b/1", E2, size=5))
    with opened(path) as journal:
        meet(journal, other)
        journal.scan.finish([f"{ROOT}/b"], archive_built=True, retry_held=False)
        send(journal)
        summary = JournalReader.of(journal).summary()
    assert (summary.files, summary.bytes_found, summary.bytes_stored) == (Files(stored=1), 5, 5)
    assert only_session(summary).session == E2
    whole = of_all(path)
    assert (whole.files, whole.bytes_found, whole.bytes_stored) == (Files(not_dicom=1, stored=3), 25, 25)
    assert [report.session for report in whole.sessions] == [E1, E2]


def test_a_retried_refusal_belongs_to_this_run(path: Path, disk: Disk) -> None:
    """A file refused again counts for this run; without a retry it remains an earlier refusal."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, answers({"a": refused}))
    with opened(path) as journal:
        scan(journal, disk, retry_refused=True)
        send(journal, refused)
        assert JournalReader.of(journal).summary().files == Files(already_stored=1, refused=1)
    with opened(path) as journal:
        scan(journal, disk)
        assert JournalReader.of(journal).summary().files == Files(already_stored=1, already_refused=1)


def test_an_empty_journal(path: Path) -> None:
    """All counts are zero."""
    with opened(path) as journal:
        assert JournalReader.of(journal).summary() == Summary(Files(), 0, 0, (), ())


# Sessions


@pytest.mark.parametrize(
    ("verdict", "report"),
    [
        (archived, SessionReport(E1, 2, 20, "archived", "/archive/E1", "uids", None)),
        (built, SessionReport(E1, 2, 20, "prearchive", "/prearchive/E1/1", None, None)),
        (held, SessionReport(E1, 2, 20, "held", "/prearchive/E1/1", None, "conflict")),
    ],
)
def test_states_of_a_session(
    path: Path, disk: Disk, verdict: Callable[[SealedDelivery], Verdict], report: SessionReport
) -> None:
    """Archived, built or held like its delivery, with its address; in later runs too."""
    disk.put(instance("a", E1), instance("b", E1))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal, verdict=verdict)
        summary = JournalReader.of(journal).summary()
    found = only_session(summary)
    assert (found.as_of is None, found.earlier) == (report.state == "held", False)
    assert replace(found, as_of=None) == report
    assert [summary.count(state) for state in ("archived", "prearchive", "held", "open")].count(1) == 1
    assert summary.count(report.state) == 1
    with opened(path) as journal:
        scan(journal, disk, archive_built=False)
        assert send(journal) == []
        assert replace(only_session(JournalReader.of(journal).summary()), as_of=None, earlier=False) == report


def test_sessions_archived_by_an_earlier_run_are_marked(path: Path, disk: Disk) -> None:
    """By the time of their end and the begin of the run."""
    disk.put(instance("a", E1))
    whole_run(path, disk)
    with Journal(path, destination="https://xnat.test", rules=RULES, clock=lambda: time.time() + 60) as journal:
        scan(journal, disk)
        found = only_session(JournalReader.of(journal).summary())
        assert found.earlier
        assert found.as_of is not None
        assert time.time() - 60 < found.as_of < time.time()
    assert not only_session(of_all(path)).earlier


def test_a_session_is_open_until_its_verdict(path: Path, disk: Disk) -> None:
    """Before its first file, with some, with all, and sealed."""
    disk.put(instance("a", E1), instance("b", E1))
    with opened(path) as journal:
        scan(journal, disk)
        reader = JournalReader.of(journal)
        seen = [only_session(reader.summary())]
        while claims := journal.queue.claim(8, max_active=1):
            seen.append(only_session(reader.summary()))
            journal.queue.record_outcomes([stored(claim) for claim in claims])
            seen.append(only_session(reader.summary()))
        assert sealed_by(journal) is not None
        seen.append(only_session(reader.summary()))
    assert {report.state for report in seen} == {"open"}
    assert [report.uri for report in seen] == [None, None, *["/prearchive/E1/1"] * 4]


@pytest.mark.parametrize("verdict", [archived, built])
def test_new_files_open_a_session_again(path: Path, disk: Disk, verdict: Callable[[SealedDelivery], Verdict]) -> None:
    """An ended session is open while new files of it are queued, and held if they fail."""
    disk.put(instance("a", E1))
    whole_run(path, disk, verdict=verdict, archive_built=False)
    disk.put(instance("b", E1))
    with opened(path) as journal:
        scan(journal, disk, archive_built=False)
        assert only_session(JournalReader.of(journal).summary()).state == "open"
        send(journal, failed)
        report = only_session(JournalReader.of(journal).summary())
        assert (report.state, report.reason) == ("held", "1 of its files could not be sent")


def test_a_session_with_failed_files_is_held(path: Path, disk: Disk) -> None:
    """The reason says how many it misses; dropped ones do not count."""
    disk.put(*[instance(name, E1) for name in "abcd"])
    whole_run(path, disk, answers({"b": failed, "c": failed, "d": refused}))
    report = only_session(of_all(path))
    assert (report.state, report.uri, report.reason) == (
        "held",
        "/prearchive/E1/1",
        "2 of its files could not be sent",
    )


def test_a_session_of_which_xnat_stored_nothing(path: Path, disk: Disk) -> None:
    """XNAT refused every file: there is nothing to archive."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, refused)
    report = only_session(of_all(path))
    assert (report.state, report.uri, report.reason) == ("held", None, NOTHING_STORED)


def test_an_archived_session_whose_new_files_are_all_refused(path: Path, disk: Disk) -> None:
    """It remains archived: the new delivery is empty."""
    disk.put(instance("a", E1))
    whole_run(path, disk)
    disk.put(instance("b", E1))
    whole_run(path, disk, refused)
    with opened(path) as journal:
        scan(journal, disk)
        assert send(journal) == []
        summary = JournalReader.of(journal).summary()
    assert only_session(summary).state == "archived"
    assert summary.files == Files(already_stored=1, already_refused=1)


def test_the_state_covers_the_whole_session(path: Path, disk: Disk) -> None:
    """Missing files of other sources count; files and bytes are those of this run's sources."""
    disk.put(instance("a", E1), instance("b", E1))
    whole_run(path, disk, answers({"b": failed}))
    disk.remove("b")
    with opened(path) as journal:
        meet(journal, disk)
        journal.scan.finish([], archive_built=True, retry_held=False)
        assert send(journal) == []
        summary = JournalReader.of(journal).summary()
    assert summary.files == Files(already_stored=1)
    assert only_session(summary) == SessionReport(
        E1, 1, 10, "held", "/prearchive/E1/1", None, "1 of its files could not be sent"
    )


def test_skipped_files_make_no_session(path: Path, disk: Disk) -> None:
    """A study without a label is not among the sessions."""
    disk.put(instance("a", E1), instance("b", session("E1", study="1.2.late")))
    whole_run(path, disk)
    assert [report.session for report in of_all(path).sessions] == [E1]


# Problems


def test_problems_are_grouped_by_their_reason(path: Path, disk: Disk) -> None:
    """With the number of files and the first path; a file that is not DICOM is no problem."""
    odd = os.fsdecode(b"\xff[bold]")
    disk.put(
        instance("a", E1),
        instance("b", E1),
        instance("c", E2),
        ignored("d", FileKind.NOT_DICOM, "no DICOM"),
        ignored("e", FileKind.SKIPPED, "no PatientID"),
        ignored("f", FileKind.SKIPPED, "no PatientID"),
        ignored(odd, FileKind.UNREADABLE, "truncated"),
    )
    whole_run(path, disk, answers({"a": refused, "b": refused, "c": failed}))
    expected = (
        Problem("failed", "no answer", 1, f"{ROOT}/c"),
        Problem("refused", "XNAT did not keep it", 2, f"{ROOT}/a"),
        Problem("skipped", "no PatientID", 2, f"{ROOT}/e"),
        Problem("unreadable", "truncated", 1, f"{ROOT}/{odd}"),
    )
    assert sorted(of_all(path).problems, key=lambda problem: problem.kind) == list(expected)
    assert len(of_all(path).problems) == len(expected)


# The rest of what can be read


def test_runs_are_remembered(path: Path) -> None:
    """With times and exit code; a killed run has no end."""
    with opened(path) as journal:
        journal.end_run(8)
    opened(path).close()
    with JournalReader.open(path) as reader:
        first, second = reader.runs()
    assert (first.key, first.exit_code, second.key, second.exit_code, second.ended) == (1, 8, 2, None, None)
    assert first.ended is not None
    assert first.started <= first.ended <= second.started
    assert first.started.endswith("+00:00")


def test_instances_of_a_session(path: Path, disk: Disk) -> None:
    """In the order they were found, with state and reason; an unknown label has none."""
    odd = os.fsdecode(b"\xff")
    disk.put(instance("a", E1), instance(odd, E1, sop="1.2.odd"), instance("b", E2))
    whole_run(path, disk, answers({odd: refused}))
    with JournalReader.open(path) as reader:
        rows = reader.instances("E1")
        assert reader.instances("none") == []
    assert [(row.file, row.sop_uid, row.state, row.reason) for row in rows] == [
        (File(f"{ROOT}/a", 10, 1_000), "1.2.E1.a", "STORED", None),
        (File(f"{ROOT}/{odd}", 10, 1_000), "1.2.odd", "REFUSED", "XNAT did not keep it"),
    ]


def test_what_xnat_acknowledged(path: Path, disk: Disk) -> None:
    """The stored SOPInstanceUIDs of each session, of all its deliveries."""
    disk.put(*[instance(name, E1) for name in "ab"], instance("c", E2))
    whole_run(path, disk, answers({"b": refused, "c": failed}))
    disk.put(instance("d", E1))
    whole_run(path, disk, answers({"c": failed}))
    with JournalReader.open(path) as reader:
        found = [
            (one.session, one.state, sorted(reader.acknowledged(one.session)[0])) for one in reader.session_reports()
        ]
    assert found == [(E1, "archived", ["1.2.E1.a", "1.2.E1.d"]), (E2, "held", [])]


def test_a_reader_of_one_project_sees_only_that_project(path: Path, disk: Disk) -> None:
    """If a template sends studies into several projects, it leaves out the others' sessions and demographics."""
    other = session("E9", project="Q")
    disk.put(instance("a", E1), instance("b", other))
    with opened(path) as journal:
        scan(journal, disk)
        send(journal)
        for one in (E1, other):
            report = SubjectReport(one.project, one.subject, "stored", ("gender",))
            journal.subjects.record(report, {"gender": "F"}, {"gender": "F"})
    with JournalReader.open(path, project="Q") as reader:
        assert [one.session for one in reader.session_reports()] == [other]
        assert [(project, label) for project, label, _ in reader.subject_demographics()] == [("Q", "S1")]
    with JournalReader.open(path) as reader:
        assert [project for project, *_ in reader.subject_demographics()] == ["P", "Q"]
