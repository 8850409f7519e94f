"""Scripted faults: the nth request of a kind, or a seeded share of them, gets another answer, or none.

A test says what happens to which request, and reads afterwards how often it did. A share is drawn from a seed: the
same requests in the same order have the same faults. What each action does, and to which kinds of requests, is in
`actions`.
"""

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from .actions import (
    INSIDE,
    KINDS,
    Action,
    Reset,
    Restart,
    Status,
    Tell,
    Unseen,
    strikable,
)
from .held import Held

__all__ = ["KINDS", "Action", "Fault", "Faults", "Reset", "Status", "Tell"]


@dataclass(slots=True)
class Fault:
    """An action on the requests `nth` ... `nth + times - 1` of a kind, counted from when it is added.

    With a `share`, it is an action on that part of the requests from the nth on, drawn with `seed`, until it has
    struck `times` times (no end unless given). With a `path`, only requests whose raw address below /data, query
    included, contains that text are counted.

    Kinds: login, logout, import, build, commit, prearchive (other actions on a prearchive session), archive,
    subject, resource, file (changes of what is archived), refresh (of catalogs), listing (every GET of data), other;
    `any` counts them all.
    """

    kind: str
    action: Action
    nth: int = 1
    times: int = 0
    """1 unless given, or without end where a share is drawn."""
    share: float | None = None
    seed: int = 0
    path: str = ""
    seen: int = field(default=0, init=False)
    """Requests of the kind so far."""
    hits: int = field(default=0, init=False)
    """Requests that got the action."""
    held: list[Held] = field(default_factory=list, init=False, repr=False, compare=False)
    """What it keeps back: late effects, stalled requests, rows, the server."""
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of the kinds of requests: {', '.join(sorted(KINDS))}")
        if self.kind not in (kinds := strikable(self.action)):
            name = type(self.action).__name__
            raise ValueError(f"{name} cannot strike requests of the kind {self.kind}, only {', '.join(sorted(kinds))}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"a share of {self.share} is not above 0 and at most 1")
        if self.nth < 1 or self.times < 0:
            raise ValueError(
                f"requests are counted from 1, and struck once at least: nth={self.nth}, times={self.times}"
            )
        self.times = self.times or (1 if self.share is None else sys.maxsize)
        # Faults of one seed are to strike different requests; what a function looks like is not the same twice.
        action = "Tell" if isinstance(self.action, Tell) else repr(self.action)
        self._random = random.Random(f"{self.seed} {self.kind} {action}")  # noqa: S311 - to be repeated, not secret

    def counts(self, kind: str, path: str, query: str, params: Mapping[str, str], *, within: bool) -> bool:
        """Tell whether a request is one of those that this fault counts, on its way to XNAT or `within` it."""
        if self.kind not in {kind, "any"} or self.path not in f"{path}?{query}":
            return False
        if isinstance(self.action, INSIDE) is not within:
            return False
        return not isinstance(self.action, Unseen) or self.action.concerns(path, params)

    def due(self) -> bool:
        """Count a request; tell whether it is to get the action."""
        self.seen += 1
        if self.share is None:
            return self.nth <= self.seen < self.nth + self.times
        # Drawn for every request, struck or not, so that other faults do not shift the draws.
        drawn = self._random.random() < self.share
        return drawn and self.seen >= self.nth and self.hits < self.times

    def hold(self, held: Held) -> Held:
        """Remember what is kept back."""
        self.held = [one for one in self.held if not one.over]
        self.held.append(held)
        return held

    def release(self) -> int:
        """Let everything go that is kept back by now; return how much. `settled` waits until it has taken place."""
        waiting = [one for one in self.held if not one.let_go]
        for one in waiting:
            one.release()
        return len(waiting)

    async def settled(self) -> None:
        """Wait until all has taken place that has been let go, and all restarts that take their time."""
        timed = isinstance(self.action, Restart) and self.action.seconds is not None
        for one in list(self.held):
            if one.let_go or timed:
                await one.settled()


@dataclass(slots=True)
class _Count:
    """A late effect that waits for acknowledged requests."""

    kind: str
    left: int
    held: Held


class Faults:
    """The site's faults, in the order added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._counts: list[_Count] = []

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def add(self, fault: Fault) -> Fault:
        """Add a fault; returns it, so that its hits can be read."""
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults; what they keep back stays so."""
        self._faults.clear()

    def take(
        self, kind: str, path: str, params: Mapping[str, str], *, query: str = "", within: bool = False
    ) -> Fault | None:
        """Count a request in every fault of what is on the way to XNAT, or is `within` it; return the first to strike.

        So two faults may strike one request: XNAT fails, and a gateway hides it.
        """
        first: Fault | None = None
        for fault in self._faults:
            if fault.counts(kind, path, query, params, within=within) and fault.due() and first is None:
                first = fault
        if first is not None:
            first.hits += 1
        return first

    def count_down(self, held: Held, kind: str, number: int) -> None:
        """Let something go when so many requests of a kind have been acknowledged."""
        self._counts.append(_Count(kind, number, held))

    async def acknowledge(self, kind: str) -> None:
        """Count a request that is about to be acknowledged; wait for the effects that it lets go."""
        counted = [one for one in self._counts if one.kind in {kind, "any"}]
        for one in counted:
            one.left -= 1
            if one.left == 0:
                self._counts.remove(one)
                one.held.release()
        for one in counted:
            if one.left == 0:
                await one.held.settled()
