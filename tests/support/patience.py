"""How long a test waits: it fails where something hangs, and not where a machine is slow."""

from contextlib import AbstractContextManager

import anyio

# What takes a moment, below the time-outs that are the client's own; what a process does; what many do.
MOMENT, COMMAND, RUN = 50.0, 150.0, 240.0
_longest = RUN


def in_time(seconds: float = MOMENT) -> AbstractContextManager[anyio.CancelScope]:
    """Return a scope that fails if it takes longer, which it does only if something hangs."""
    return anyio.fail_after(allowed(seconds))


def allowed(seconds: float = MOMENT) -> float:
    """Return how long to wait, for what has a time-out of its own."""
    return min(seconds, _longest)


def be_impatient(seconds: float) -> None:
    """Let everything fail after so many seconds: a mutant may hang."""
    global _longest
    _longest = seconds
