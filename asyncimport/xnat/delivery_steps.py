"""What to do next about a delivery that is to be archived, and what is known of it meanwhile. Pure."""

from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import unquote

from asyncimport.xnat.replies.images import Row


@dataclass(slots=True)
class Progress:
    """What this run knows of a delivery on its way into the archive."""

    has_begun: bool = False
    """Whether XNAT was asked to build or archive it."""
    row_files: int | None = None
    """How many files its row held when it was built; None: nobody has counted."""
    may_have_archived: bool = False
    """Whether XNAT was asked to archive it, and the answer got lost."""
    archive_uri: str | None = None
    """Where XNAT says that it archived it."""
    failures: int = 0
    last_error: str = ""
    was_idle: bool = False
    """Whether the last attempt failed because its connection had been idle: once in a row, that is no failure."""
    losses: int = 0
    """How often it was found neither in the prearchive nor in the archive."""
    wait: float = 0.0
    """Seconds until the next look."""

    @property
    def new_label(self) -> str | None:
        """The label that XNAT says it gave the session."""
        return unquote(self.archive_uri.rpartition("/")[2]) if self.archive_uri else None


class Step(Enum):
    """What to do next about a sealed delivery."""

    FINISH = auto()  # build it, then archive it
    WAIT = auto()  # XNAT is working on it
    VERIFY = auto()  # it is in the archive
    STUCK = auto()  # our attempt failed, and XNAT marked the row
    LOST = auto()  # it is in neither place


def next_step(row: Row | None, *, is_archived: bool, has_begun: bool) -> Step:
    """Decide by the prearchive row, the archive, and whether this run has begun to finish it."""
    if row is None:
        return Step.VERIFY if is_archived else Step.LOST
    if row.is_busy:
        return Step.WAIT
    if row.is_stuck and has_begun:
        return Step.STUCK
    return Step.FINISH
