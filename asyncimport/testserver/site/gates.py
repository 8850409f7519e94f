"""Gates: what a fault holds back until it is released, such as an effect, a reply, a row or a whole server."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio

from .prearchive import BUSY, PrearchiveRow, RowStatus


@dataclass(slots=True, eq=False)
class Gate:
    """Holds something back until `release`; `settled` waits until it has taken place, or is lost."""

    _released: anyio.Event = field(default_factory=anyio.Event, init=False, repr=False)
    _settled: anyio.Event = field(default_factory=anyio.Event, init=False, repr=False)

    @property
    def is_released(self) -> bool:
        """Whether it has been released."""
        return self._released.is_set()

    @property
    def is_settled(self) -> bool:
        """Whether what it held back has taken place, or is lost for good."""
        return self._settled.is_set()

    def release(self) -> None:
        """Let it take place; returns at once."""
        self._released.set()

    def settle(self) -> None:
        """Note that it has taken place, or never will."""
        self._settled.set()

    async def released(self) -> None:
        """Wait until it is released."""
        await self._released.wait()

    async def settled(self) -> None:
        """Wait until it has taken place, or is lost."""
        await self._settled.wait()


@dataclass(slots=True, eq=False)
class HeldRow(Gate):
    """A row that stays in a status until it is released, or has been looked at `looks` times.

    Then the work that the status names goes on: a build, an archiving, a deletion. With `then`, the row gets that
    status instead. An import puts the row back to RECEIVING as always. Only an archiving goes on all the same: one
    that has begun (_ARCHIVING) loses the file; one that has not finds a file that the document does not know.
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
            self.files = self.row.names_on_disk()
        check_looks(self.status, self.looks, self.then)

    def is_shown_at(self, path: str) -> bool:
        """Return whether a GET of this path below /data shows the row's status."""
        own = self.row.uri.removeprefix("/")
        if path in {own, "prearchive", "prearchive/projects"}:
            return True
        project = own.split("/")[2]
        return project in path.removeprefix("prearchive/projects/").split(",")


def check_looks(status: RowStatus, looks: int | None, then: RowStatus | None) -> None:
    """Refuse looks that cannot be counted, or after which nothing would happen. Raises ValueError."""
    if looks is None:
        return
    if looks < 0:
        raise ValueError(f"a row cannot be looked at {looks} times")
    if status not in BUSY and then is None:
        raise ValueError(f"nobody is at work on a row in {status}: it does not move on by itself")
