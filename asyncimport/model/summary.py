"""The result of a run, and its exit code."""

from dataclasses import astuple

from asyncimport.errors import FILES_MISSING, SESSION_HELD
from asyncimport.model.files import Session
from asyncimport.model.record import record


@record
class Files:
    """How many files ended in which way; `found` is the number of DICOM instances that can be sent."""

    not_dicom: int = 0
    unreadable: int = 0
    duplicate: int = 0
    skipped: int = 0
    already_stored: int = 0
    already_refused: int = 0
    stored: int = 0
    refused: int = 0
    failed: int = 0
    left: int = 0

    @property
    def found(self) -> int:
        """DICOM instances that can be sent, whatever became of them."""
        found: int = sum(astuple(self))
        return found - self.not_dicom - self.unreadable


@record
class AttachmentCounts:
    """How many attachments ended in which way; `already_*` in an earlier run."""

    stored: int = 0
    already_stored: int = 0
    skipped: int = 0
    refused: int = 0
    already_refused: int = 0
    failed: int = 0
    left: int = 0

    @property
    def found(self) -> int:
        """All of them."""
        return sum(astuple(self))


@record
class SubjectCounts:
    """How many subjects with demographics ended in which way; `already_stored` in an earlier run."""

    stored: int = 0
    already_stored: int = 0
    refused: int = 0
    failed: int = 0

    @property
    def found(self) -> int:
        """All of them."""
        return sum(astuple(self))


@record
class SubjectReport:
    """What became of a subject's demographics; `state` is stored, refused (all or a part) or failed.

    `written` fields were sent and have arrived. XNAT has another value of `kept` ones, which stays. `taken` fields come
    from headers.
    """

    project: str
    subject: str
    state: str
    written: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    reason: str | None = None


NOTHING_STORED = "XNAT kept none of its files"


@record
class SessionReport:
    """What became of one session: `state` is archived, prearchive, held or open; `files` are its instances.

    `as_of` is when it got this state, in seconds since 1970; sessions of `earlier` runs were not checked since. The
    archive had some version of `presumed` instances before, and nothing proves that it has the one on disk. If only
    numbers can be compared, the archive must hold `expected` instances.
    """

    session: Session
    files: int
    size: int
    state: str
    uri: str | None
    verified: str | None
    reason: str | None
    as_of: float | None = None
    earlier: bool = False
    presumed: int = 0
    expected: int | None = None


@record
class Orphan:
    """A prearchive row that has the names of one of our sessions and is no delivery that we know.

    An interrupted request that took effect late may have made it. `created` is in the server's local time, `source` is
    the name that its maker gave.
    """

    session: Session
    uri: str
    status: str
    created: str
    source: str


@record
class Problem:
    """A reason for which files did not arrive, how many, and one of their paths.

    With two people of one PatientID, `other_example` is a file of the other one.
    """

    kind: str
    reason: str
    files: int
    example: str
    other_example: str = ""


@record
class Summary:
    """The end of a run, or the content of a journal: files, bytes, sessions, problems, attachments, subjects.

    `bytes_sent` were sent for the `bytes_stored`: fewer, as `zips` of the files went as zips, or the archive had some.
    """

    files: Files
    bytes_found: int
    bytes_stored: int
    sessions: tuple[SessionReport, ...]
    problems: tuple[Problem, ...]
    attachments: AttachmentCounts = AttachmentCounts()
    subjects: SubjectCounts = SubjectCounts()
    bytes_sent: int = 0
    zips: int = 0

    @property
    def containers(self) -> int:
        """Archive files that hold DICOM and were skipped; they count as not DICOM."""
        return sum(problem.files for problem in self.problems if problem.kind == "container")

    @property
    def links(self) -> int:
        """Links out of the source that were not followed; they count as not DICOM."""
        return sum(problem.files for problem in self.problems if problem.kind == "link")

    @property
    def excluded(self) -> int:
        """Files that were not asked for; they count as skipped."""
        return sum(problem.files for problem in self.problems if problem.kind == "excluded")

    def count(self, state: str) -> int:
        """Return the number of sessions in this state."""
        return sum(report.state == state for report in self.sessions)


def exit_code(summary: Summary) -> int:
    """Return the exit code of a run that ended: 0, 8 if files are missing, 9 if only sessions are.

    What an earlier run saw dropped by a rule of the site does not count again.
    """
    files = summary.files
    # Files that were not asked for are no problem.
    skipped = files.skipped - summary.excluded
    if skipped or files.unreadable or files.refused or files.failed or summary.containers or summary.links:
        return FILES_MISSING
    attachments = summary.attachments
    # Refused files are missing, whichever run sent them.
    if attachments.skipped or attachments.refused or attachments.already_refused or attachments.failed:
        return FILES_MISSING
    if summary.subjects.refused or summary.subjects.failed:
        return FILES_MISSING
    for report in summary.sessions:
        if report.state in {"held", "open"} and report.reason != NOTHING_STORED:
            return SESSION_HELD
        if is_unverified(report):
            return SESSION_HELD
    # Sessions left in the prearchive on request cannot take attachments yet.
    waits = attachments.left and not summary.count("prearchive")
    return SESSION_HELD if files.left or waits else 0


def is_unverified(report: SessionReport) -> bool:
    """Whether the session is archived and could not be verified."""
    return report.state == "archived" and report.verified is None
