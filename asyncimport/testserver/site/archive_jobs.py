"""Archive jobs as their waiters see them."""

from dataclasses import dataclass, field

import anyio

from .archive import ArchivedSession


class ArchiveError(Exception):
    """The job failed; with `conflict`, XNAT's own code is 409 and the row becomes CONFLICT."""

    def __init__(self, message: str, *, conflict: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.conflict = conflict


@dataclass(slots=True, eq=False)
class JobStatus:
    """What is known about the job of a key (EventTrackingData); a later job of the same key takes its place.

    All waiters of one key see the job that ended last: one job's failure is reported to both.
    """

    key: str
    entries: list[tuple[str, str]] = field(default_factory=list)
    """Status and message of each step."""
    outcome: ArchivedSession | ArchiveError | None = None
    _ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def succeeded(self) -> bool | None:
        """Whether the last job of this key succeeded; None while it runs."""
        return None if self.outcome is None else isinstance(self.outcome, ArchivedSession)

    def restart(self) -> None:
        """Forget the end of an earlier job."""
        self.outcome = None
        if self._ended.is_set():
            self._ended = anyio.Event()

    def begin(self, message: str) -> None:
        """Note that a job has begun."""
        self.entries.append(("InProgress", message))

    def end(self, outcome: ArchivedSession | ArchiveError) -> None:
        """Note how a job ended."""
        self.outcome = outcome
        if isinstance(outcome, ArchivedSession):
            self.entries.append(("Completed", f"archived {outcome.label}"))
        else:
            self.entries.append(("Failed", outcome.message))
        self._ended.set()

    async def result(self, poll_seconds: float) -> ArchivedSession | ArchiveError:
        """Wait for the end, as a waiter who polls."""
        while True:
            await self._ended.wait()
            await anyio.sleep(poll_seconds)
            if self.outcome is not None:
                return self.outcome
