"""What there is to tell at the end of a run."""

from asyncimport.errors import FILES_MISSING, SESSION_HELD
from asyncimport.model.files import Session
from asyncimport.model.record import record


@record
class Files:
    """How many files ended in which way; `found` is the sum of the DICOM instances that can be sent."""

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
        return (
            self.duplicate
            + self.skipped
            + self.already_stored
            + self.already_refused
            + self.stored
            + self.refused
            + self.failed
            + self.left
        )


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
        return (
            self.stored
            + self.already_stored
            + self.skipped
            + self.refused
            + self.already_refused
            + self.failed
            + self.left
        )


@record
class SubjectCounts:
    """How many subjects had something to be said of them, and what came of it; `already_stored` in an earlier run."""

    stored: int = 0
    already_stored: int = 0
    refused: int = 0
    failed: int = 0

    @property
    def found(self) -> int:
        """All of them."""
        return self.stored + self.already_stored + self.refused + self.failed


NOTHING_STORED = "XNAT kept none of its files"


@record
class SessionReport:
    """What became of one session: `state` is archived, prearchive, held or open; `files` are its instances.

    `as_of` is when it came to that, in seconds since 1970; what `earlier` runs archived nobody has looked at since.
    Of `presumed` instances the archive had some version before, and nothing proves that it has the one on disk.
    Where only numbers can be compared, `expected` is how many instances the archive must hold.
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
    """A row of XNAT's prearchive that bears the names of one of our sessions and is no delivery that we know of.

    A request that broke off and took effect late may have made it. `created` is in the server's local time, `source`
    what its maker called itself.
    """

    session: Session
    uri: str
    status: str
    created: str
    source: str


@record
class Problem:
    """A reason for which files did not arrive, how many, and the path of one of them."""

    kind: str
    reason: str
    files: int
    example: str


@record
class Summary:
    """The end of a run, or what a journal holds: files, bytes, sessions, every reason, and what goes beside them."""

    files: Files
    bytes_found: int
    bytes_stored: int
    sessions: tuple[SessionReport, ...]
    problems: tuple[Problem, ...]
    attachments: AttachmentCounts = AttachmentCounts()
    subjects: SubjectCounts = SubjectCounts()

    @property
    def containers(self) -> int:
        """Archives that hold DICOM and were passed over; they count among what is not DICOM."""
        return sum(problem.files for problem in self.problems if problem.kind == "container")

    @property
    def links(self) -> int:
        """Links that lead out of the source and were not followed; they count among what is not DICOM."""
        return sum(problem.files for problem in self.problems if problem.kind == "link")

    def count(self, state: str) -> int:
        """Return the number of sessions in this state."""
        return sum(report.state == state for report in self.sessions)


def exit_code(summary: Summary) -> int:
    """Return the code of a run that came to its end: 0, 8 when files are lacking, 9 when only sessions are.

    What an earlier run saw dropped by a filter or a script of the site does not count again.
    """
    files = summary.files
    # What nobody asked for is no problem.
    skipped = files.skipped - sum(problem.files for problem in summary.problems if problem.kind == "excluded")
    if skipped or files.unreadable or files.refused or files.failed or summary.containers or summary.links:
        return FILES_MISSING
    attachments = summary.attachments
    # What is refused is lacking, whichever run was told so.
    if attachments.skipped or attachments.refused or attachments.already_refused or attachments.failed:
        return FILES_MISSING
    if summary.subjects.refused or summary.subjects.failed:
        return FILES_MISSING
    for report in summary.sessions:
        if report.state in {"held", "open"} and report.reason != NOTHING_STORED:
            return SESSION_HELD
        if is_unverified(report):
            return SESSION_HELD
    # What is left in the prearchive, as asked, has no place in the archive for them yet.
    waits = attachments.left and not summary.count("prearchive")
    return SESSION_HELD if files.left or waits else 0


def is_unverified(report: SessionReport) -> bool:
    """Whether the session is in the archive, and nobody could look into it there."""
    return report.state == "archived" and report.verified is None
