"""Archive jobs as those see them who wait for them or ask about them."""

from dataclasses import dataclass, field

import anyio

from .state import ArchivedSession

__all__ = ["ArchiveFailed", "Tracked"]


class ArchiveFailed(Exception):  # noqa: N818
    """The job failed; `conflict` says whether XNAT's own code was 409, so that the row becomes CONFLICT."""

    def __init__(self, message: str, *, conflict: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.conflict = conflict


@dataclass(slots=True, eq=False)
class Tracked:
    """What is known of a job under its key (EventTrackingData); a later job of the same key takes its place.

    All who wait for jobs of one key see whichever ended last: one job's failure is told to both.
    """

    key: str
    entries: list[tuple[str, str]] = field(default_factory=list)
    """Status and message of each step."""
    outcome: ArchivedSession | ArchiveFailed | None = None
    _ended: anyio.Event = field(default_factory=anyio.Event)

    @property
    def succeeded(self) -> bool | None:
        """How the last job of this key ended; None while it is under way."""
        return None if self.outcome is None else isinstance(self.outcome, ArchivedSession)

    def restart(self) -> None:
        """Forget the end of an earlier job."""
        self.outcome = None
        if self._ended.is_set():
            self._ended = anyio.Event()

    def begin(self, message: str) -> None:
        """Note that a job has begun."""
        self.entries.append(("InProgress", message))

    def end(self, outcome: ArchivedSession | ArchiveFailed) -> None:
        """Note how a job ended."""
        self.outcome = outcome
        if isinstance(outcome, ArchivedSession):
            self.entries.append(("Completed", f"archived {outcome.label}"))
        else:
            self.entries.append(("Failed", outcome.message))
        self._ended.set()

    async def result(self, poll_seconds: float) -> ArchivedSession | ArchiveFailed:
        """Wait for the end, as one who looks every so often."""
        while True:
            await self._ended.wait()
            await anyio.sleep(poll_seconds)
            if self.outcome is not None:
                return self.outcome
