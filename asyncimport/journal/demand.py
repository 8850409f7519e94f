"""What those who send files need of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncimport.model.deliveries import Claim
from asyncimport.model.record import record

# This many sessions are always open: while the first file of one is under way, another is sent.
_MIN_OPEN = 3


@record
class Demand:
    """How many files senders need, so that other sessions begin in time and no sooner.

    `files` last until the first file of another session is recorded: while open sessions have as many, none begins.
    `now` is what can be sent at once: while open sessions have as many for that, and `firsts` first files are under
    way, none begins either.
    """

    files: int = 1_000_000
    now: int = 1_000_000
    firsts: int = 3


ANY = Demand()
"""Sessions begin as long as the claim has room."""


@dataclass(slots=True)
class OpenSessions:
    """The `files` that open sessions have left, and those of `sessions` that can be sent at once."""

    files: int = 0
    now: int = 0
    sessions: int = 0

    def add(self, files: int, *, waits: bool) -> None:
        """Add a session that has this many files to send: now, or (`waits`) after its first one."""
        self.files += files
        if files and not waits:
            self.now += files
            self.sessions += 1

    def meet(self, demand: Demand, firsts: int, claimed: int) -> bool:
        """Whether no other session need begin. `firsts` first files are under way; the claim has `claimed` files."""
        if firsts + self.sessions < _MIN_OPEN:
            return False
        return self.files >= demand.files or (firsts >= demand.firsts and self.now + claimed >= demand.now)


class Shares(Protocol):
    """Which files can be sent now, and by whom, where several machines send."""

    def room(self, path: str) -> int:
        """Return how many files more can be sent by those who see this path."""
        ...

    def take(self, claims: Sequence[Claim]) -> None:
        """Take files that were handed out."""
        ...
