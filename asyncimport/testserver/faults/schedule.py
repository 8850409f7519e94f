"""Which requests a fault strikes: the nth of a kind, or a share of them drawn from a seed.

A test adds a fault, and reads afterwards how often it struck. The same requests in the same order get the same faults.
"""

import random
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..site.gates import Gate
from .actions import KINDS, WITHIN_XNAT, Action, Restart, Tell, Unseen, kinds_for


@dataclass(slots=True)
class Fault:
    """An action on the requests `nth` to `nth + times - 1` of a kind, counted from when it is added.

    With a `share`, it strikes that share of the requests from the nth on, drawn with `seed`, until it has struck
    `times` times (for ever unless given). With a `path`, only requests whose raw address below /data, query included,
    contains that text are counted.

    Kinds: login, logout, import, build, commit, prearchive (other actions on a prearchive session), archive,
    subject, resource, file (changes of what is archived), refresh (of catalogs), listing (every GET of data), other;
    `any` counts them all.
    """

    kind: str
    action: Action
    nth: int = 1
    times: int = 0
    """1 unless given; without a limit if a share is drawn."""
    share: float | None = None
    seed: int = 0
    path: str = ""
    seen: int = field(default=0, init=False)
    """Requests of the kind so far."""
    hits: int = field(default=0, init=False)
    """Requests that got the action."""
    gates: list[Gate] = field(default_factory=list, init=False, repr=False, compare=False)
    """What it holds back: late effects, stalled requests, rows, the server."""
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of the kinds of requests: {', '.join(sorted(KINDS))}")
        if self.kind not in (kinds := kinds_for(self.action)):
            name = type(self.action).__name__
            raise ValueError(f"{name} cannot strike requests of the kind {self.kind}, only {', '.join(sorted(kinds))}")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"a share of {self.share} is not above 0 and at most 1")
        if self.nth < 1 or self.times < 0:
            raise ValueError(
                f"requests are counted from 1, and struck once at least: nth={self.nth}, times={self.times}"
            )
        self.times = self.times or (1 if self.share is None else sys.maxsize)
        # Different faults with one seed strike different requests. The repr of a function changes with each run.
        action = "Tell" if isinstance(self.action, Tell) else repr(self.action)
        self._random = random.Random(f"{self.seed} {self.kind} {action}")  # noqa: S311 - to be repeated, not secret

    def counts(self, kind: str, path: str, query: str, params: Mapping[str, str], *, within: bool) -> bool:
        """Return whether this fault counts a request, on its way to XNAT or `within` it."""
        if self.kind not in {kind, "any"} or self.path not in f"{path}?{query}":
            return False
        if isinstance(self.action, WITHIN_XNAT) is not within:
            return False
        return not isinstance(self.action, Unseen) or self.action.concerns(path, params)

    def strikes_next(self) -> bool:
        """Count a request; return whether it gets the action."""
        self.seen += 1
        if self.share is None:
            return self.nth <= self.seen < self.nth + self.times
        # Drawn for every request, so that other faults do not shift the draws.
        drawn = self._random.random() < self.share
        return drawn and self.seen >= self.nth and self.hits < self.times

    def hold(self, gate: Gate) -> Gate:
        """Remember a gate, to be released with the fault."""
        self.gates = [one for one in self.gates if not one.is_settled]
        self.gates.append(gate)
        return gate

    def release(self) -> int:
        """Release everything held back so far; return how much. `settled` waits until it has taken place."""
        waiting = [gate for gate in self.gates if not gate.is_released]
        for gate in waiting:
            gate.release()
        return len(waiting)

    async def settled(self) -> None:
        """Wait until everything released has taken place, and until timed restarts are over."""
        timed = isinstance(self.action, Restart) and self.action.seconds is not None
        for gate in list(self.gates):
            if gate.is_released or timed:
                await gate.settled()


@dataclass(slots=True)
class _Countdown:
    """A late effect that waits for acknowledged requests."""

    kind: str
    remaining: int
    gate: Gate


class Faults:
    """The faults of a server, in the order added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._countdowns: list[_Countdown] = []

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def add(self, fault: Fault) -> Fault:
        """Add a fault; returns it, so that its hits can be read."""
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Remove all faults; what they hold back stays held."""
        self._faults.clear()

    def strike(
        self, kind: str, path: str, params: Mapping[str, str], *, query: str = "", within: bool = False
    ) -> Fault | None:
        """Count a request, on its way to XNAT or `within` it, in every fault; return the first fault that strikes.

        Two faults can strike one request: XNAT fails, and a gateway hides it.
        """
        first: Fault | None = None
        for fault in self._faults:
            if fault.counts(kind, path, query, params, within=within) and fault.strikes_next() and first is None:
                first = fault
        if first is not None:
            first.hits += 1
        return first

    def release_after(self, gate: Gate, kind: str, number: int) -> None:
        """Release a gate when this many requests of a kind have been acknowledged."""
        self._countdowns.append(_Countdown(kind, number, gate))

    async def acknowledge(self, kind: str) -> None:
        """Count a request that is about to be acknowledged; wait for the effects that it releases."""
        counted = [one for one in self._countdowns if one.kind in {kind, "any"}]
        for one in counted:
            one.remaining -= 1
            if one.remaining == 0:
                self._countdowns.remove(one)
                one.gate.release()
        for one in counted:
            if one.remaining == 0:
                await one.gate.settled()
