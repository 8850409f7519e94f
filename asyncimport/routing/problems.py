"""The problems of a plan, and the effect of each: one table for plans, dry runs and runs."""

from collections.abc import Iterable
from enum import Enum, StrEnum, auto
from typing import Self

from asyncimport.errors import FILES_MISSING, SESSION_HELD, UsageError
from asyncimport.model.record import record


class Severity(StrEnum):
    """An error keeps a study from being sent; a warning may keep files from arriving."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Effect(Enum):
    """What a run does because of a problem."""

    WRONG = auto()
    """Files are skipped; a run that decides all studies before the first file sends nothing."""
    SKIPS = auto()
    """Files are skipped; with `--check-first` nothing is sent."""
    LACKS = auto()
    """Files or attachments are not sent, or XNAT drops them."""
    HOLDS = auto()
    """A session is held, or stays open."""
    PARTS = auto()
    """A session stays open, unless incomplete sessions are archived too."""
    TOLD = auto()
    """Nothing else: a person should know about it."""


class ProblemCode(StrEnum):
    """The stable name of a kind of problem, with its severity and its effect."""

    severity: Severity
    effect: Effect

    def __new__(cls, name: str, severity: Severity, effect: Effect) -> Self:
        """Make a member of its name."""
        code = str.__new__(cls, name)
        code._value_ = name
        code.severity, code.effect = severity, effect
        return code

    # Studies that are not sent.
    NO_LABEL = "no-label", Severity.ERROR, Effect.WRONG
    LABELS_DIFFER = "labels-differ", Severity.ERROR, Effect.WRONG
    LABEL_TAKEN = "label-taken", Severity.ERROR, Effect.WRONG
    PARTLY_PLANNED = "partly-planned", Severity.ERROR, Effect.WRONG
    ROW_DIFFERS = "row-differs", Severity.ERROR, Effect.WRONG
    ROW_ELSEWHERE = "row-elsewhere", Severity.ERROR, Effect.WRONG
    ROW_UNMATCHED = "row-unmatched", Severity.ERROR, Effect.WRONG
    SUBJECT_TAKEN = "subject-taken", Severity.ERROR, Effect.WRONG
    TWO_PATIENTS = "two-patients", Severity.ERROR, Effect.WRONG
    TWO_PEOPLE = "two-people", Severity.ERROR, Effect.WRONG
    # Only its owner can open it: other projects go on.
    PROJECT_CLOSED = "project-closed", Severity.ERROR, Effect.SKIPS
    # Studies that XNAT cannot take under these labels, or whose new files it cannot merge.
    LABEL_IS_ID = "label-is-id", Severity.ERROR, Effect.HOLDS
    LABEL_ON_SERVER = "label-on-server", Severity.ERROR, Effect.HOLDS
    MODALITY_ON_SERVER = "modality-on-server", Severity.ERROR, Effect.HOLDS
    PREARCHIVE_TAKEN = "prearchive-taken", Severity.ERROR, Effect.HOLDS
    STUDY_ON_SERVER = "study-on-server", Severity.ERROR, Effect.HOLDS
    SUBJECT_OF_ANOTHER = "subject-of-another", Severity.ERROR, Effect.HOLDS
    SUBJECT_ON_SERVER = "subject-on-server", Severity.ERROR, Effect.HOLDS
    # Files.
    TWIN = "twin", Severity.WARNING, Effect.SKIPS
    ARCHIVE_FILE = "archive-file", Severity.WARNING, Effect.LACKS
    LINK = "link", Severity.WARNING, Effect.LACKS
    SERIES_DROPPED = "series-dropped", Severity.WARNING, Effect.LACKS
    SUBJECTS_UNMATCHED = "subjects-unmatched", Severity.WARNING, Effect.LACKS
    UNREADABLE = "unreadable", Severity.WARNING, Effect.LACKS
    ATTACHMENT_NAMES = "attachment-names", Severity.WARNING, Effect.LACKS
    PART_OF_STUDY = "part-of-study", Severity.WARNING, Effect.PARTS
    # What the rehearsal of an upload finds.
    FILES_FAILED = "files-failed", Severity.WARNING, Effect.LACKS
    FILES_REFUSED = "files-refused", Severity.WARNING, Effect.LACKS
    FILES_SKIPPED = "files-skipped", Severity.WARNING, Effect.SKIPS
    SESSION_HELD = "session-held", Severity.ERROR, Effect.HOLDS
    SESSION_OPEN = "session-open", Severity.WARNING, Effect.HOLDS
    STUDY_SKIPPED = "study-skipped", Severity.ERROR, Effect.SKIPS
    # Notices.
    DATED_AHEAD = "dated-ahead", Severity.WARNING, Effect.TOLD
    LABEL_LATE = "label-late", Severity.WARNING, Effect.TOLD
    LABEL_SUFFIXED = "label-suffixed", Severity.WARNING, Effect.TOLD
    MAY_BE_REJECTED = "may-be-rejected", Severity.WARNING, Effect.TOLD
    PREARCHIVE_BEGUN = "prearchive-begun", Severity.WARNING, Effect.TOLD
    SUBJECT_DOUBTED = "subject-doubted", Severity.WARNING, Effect.TOLD
    TWO_SUBJECTS = "two-subjects", Severity.WARNING, Effect.TOLD
    ARCHIVED_ALREADY = "archived-already", Severity.INFO, Effect.TOLD
    BEING_WRITTEN = "being-written", Severity.INFO, Effect.TOLD
    DUPLICATE = "duplicate", Severity.INFO, Effect.TOLD
    INNER_LINK = "inner-link", Severity.INFO, Effect.TOLD
    LABELS_BY_SOURCE = "labels-by-source", Severity.INFO, Effect.TOLD
    LEFT_OUT = "left-out", Severity.INFO, Effect.TOLD
    SESSION_KEPT = "session-kept", Severity.INFO, Effect.TOLD


@record
class PlanProblem:
    """A problem: its code, a sentence, an advice, and the number of `files` that it concerns.

    With two people of one PatientID, `other_study` has the other one; so has the file `other_example`, if known.
    """

    code: ProblemCode
    text: str
    advice: str
    study_uid: str = ""
    files: int = 0
    example: str = ""
    other_study: str = ""
    other_example: str = ""

    @property
    def severity(self) -> Severity:
        """Return the severity of its code."""
        return self.code.severity

    @property
    def is_error(self) -> bool:
        """Whether it keeps something from being sent."""
        return self.code.severity is Severity.ERROR


def plan_exit_code(problems: Iterable[PlanProblem]) -> int:
    """Return the exit code of a plan: that of a run by it which archives incomplete sessions too."""
    effects = {problem.code.effect for problem in problems}
    if Effect.WRONG in effects:
        return UsageError.exit_code
    if effects & {Effect.SKIPS, Effect.LACKS}:
        return FILES_MISSING
    return SESSION_HELD if Effect.HOLDS in effects else 0
