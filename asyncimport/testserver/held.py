"""What a fault keeps back until it is let go: an effect, a reply, a row, a whole server. No HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from .state import PrearchiveRow, RowStatus

__all__ = ["ARCHIVING", "BUILDING", "BUSY", "DELETING", "Held", "Left"]

ARCHIVING = frozenset({RowStatus.ARCHIVING, RowStatus.QUEUED_ARCHIVING, RowStatus.LOCKED_ARCHIVING})
BUILDING = frozenset({RowStatus.BUILDING, RowStatus.QUEUED_BUILDING, RowStatus.LOCKED_BUILDING})
DELETING = frozenset({RowStatus.DELETING, RowStatus.QUEUED_DELETING, RowStatus.LOCKED_DELETING})
BUSY = ARCHIVING | BUILDING | DELETING
"""The statuses in which somebody is at work, whose end can be awaited."""


@dataclass(slots=True, eq=False)
class Held:
    """Something kept back; `release` lets it go, and `settled` waits until it has taken place, or is lost."""

    _let_go: anyio.Event = field(default_factory=anyio.Event, init=False, repr=False)
    _over: anyio.Event = field(default_factory=anyio.Event, init=False, repr=False)

    @property
    def let_go(self) -> bool:
        """Whether it has been released."""
        return self._let_go.is_set()

    @property
    def over(self) -> bool:
        """Whether it has taken place, or is lost for good."""
        return self._over.is_set()

    def release(self) -> None:
        """Let it take place; returns at once."""
        self._let_go.set()

    def end(self) -> None:
        """Note that it has taken place, or never will."""
        self._over.set()

    async def released(self) -> None:
        """Wait until it is let go."""
        await self._let_go.wait()

    async def settled(self) -> None:
        """Wait until it is over."""
        await self._over.wait()


@dataclass(slots=True, eq=False)
class Left(Held):
    """A row that stays in a status until it is let go, or has been looked at so often.

    Then the work goes on that the status speaks of: a build, an archiving, a deletion. With `then`, it ends in that
    status instead. An import puts the row back to RECEIVING as ever. Only an archiving goes on all the same: begun
    (_ARCHIVING), it loses the file; still to begin, it finds a file that the document does not know.
    """

    row: PrearchiveRow
    status: RowStatus
    looks: int | None = None
    """How many listings, or GETs of the session, still show the status."""
    then: RowStatus | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    """The parameters of an archiving."""
    looked: int = 0
    files: Mapping[str, set[str]] | None = field(default=None, init=False, repr=False)
    """What an archiving has found on the disk: scan folder -> names; None for one that has not begun."""

    def __post_init__(self) -> None:
        if self.status is RowStatus.LOCKED_ARCHIVING:
            self.files = {folder: set(files) for folder, files in self.row.scans.items()}
        if self.looks is None:
            return
        if self.looks < 0:
            raise ValueError(f"a row cannot be looked at {self.looks} times")
        if self.status not in BUSY and self.then is None:
            raise ValueError(f"nobody is at work on a row in {self.status}: it does not move on by itself")

    def shown_at(self, path: str) -> bool:
        """Tell whether a GET of this path below /data shows the row's status."""
        own = self.row.uri.removeprefix("/")
        if path in {own, "prearchive", "prearchive/projects"}:
            return True
        project = own.split("/")[2]
        return project in path.removeprefix("prearchive/projects/").split(",")
