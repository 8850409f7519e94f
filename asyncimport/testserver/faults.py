"""Scripted faults: the nth request of a kind gets another answer, or none.

A fault is counted, not random: a test says what happens to which request, and reads afterwards how often
it did.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["KINDS", "Action", "Fault", "Faults", "Reset", "Status", "Tell"]


KINDS = frozenset({"login", "logout", "import", "build", "commit", "prearchive", "archive", "listing", "other", "any"})


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status in XNAT's place, as a proxy would; nothing takes effect."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection without a reply.

    With `effect`, the request is served before; without, not. With `after_bytes`, the connection breaks
    when that many bytes of the body have arrived, and what XNAT keeps of a cut upload is kept.
    """

    effect: bool = False
    after_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """Call a function when the request has come, and then serve it as if nothing had been: to kill the client, say."""

    function: Callable[[], None]


Action = Status | Reset | Tell


@dataclass(slots=True)
class Fault:
    """An action on the requests `nth` ... `nth + times - 1` of a kind, counted from when it is added.

    Kinds: login, logout, import, build, commit, prearchive (other actions on a prearchive session),
    archive, listing (every GET of data), other; `any` counts them all.
    """

    kind: str
    action: Action
    nth: int = 1
    times: int = 1
    seen: int = 0
    """Requests of the kind so far."""
    hits: int = 0
    """Requests that got the action."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is none of the kinds of requests: {', '.join(sorted(KINDS))}")

    def strikes(self, kind: str) -> bool:
        """Count a request of this kind; tell whether it is to get the action."""
        if self.kind not in {kind, "any"}:
            return False
        self.seen += 1
        if not self.nth <= self.seen < self.nth + self.times:
            return False
        self.hits += 1
        return True


class Faults:
    """The site's faults, in the order added."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Add a fault; returns it, so that its hits can be read."""
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def take(self, kind: str) -> Action | None:
        """Count a request in every fault; return the action of the first that strikes."""
        action: Action | None = None
        for fault in self._faults:
            if action is None:
                if fault.strikes(kind):
                    action = fault.action
            elif fault.kind in {kind, "any"}:
                fault.seen += 1
        return action
