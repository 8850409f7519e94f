"""When to try again: a pure delay, and the loop around one call.

Only `TransientError` is repeated. Sleep and randomness are parameters, so tests need neither.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from asyncimport.errors import TransientError

T = TypeVar("T")
_LATE = 8


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long to wait: `attempts` in all, then `first` seconds growing by `factor` up to `cap`.

    An answer that judges the file is believed after `file_attempts`: a bad file should not hold a worker for long.
    """

    attempts: int = 6
    file_attempts: int = 3
    first: float = 0.5
    factor: float = 2.0
    cap: float = 30.0

    def delay(self, attempt: int, *, hint: float | None, jitter: float, spare: bool = True) -> float:
        """Seconds to wait after the failed `attempt` (from 1), for `jitter` in [0, 1).

        Full jitter spreads workers that failed together. The server's own hint (Retry-After, bounded to five
        minutes) is a lower bound, to which the jitter is added. Where no repetition is to `spare`, even the first
        pause is as long as the last.
        """
        step = attempt if spare else max(attempt, _LATE)
        spread = min(self.cap, self.first * self.factor ** (step - 1)) * jitter
        return spread if hint is None else min(hint, 300.0) + spread


async def retrying(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    on_error: Callable[[TransientError], None] = lambda _: None,
    acquire: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Await `call()` until it succeeds, raises anything but `TransientError`, or the attempts are used up.

    A connection that the server had closed while it was idle costs no attempt: the call is made once more, at once.
    `acquire` is asked before each other repetition whether there is one to spare. Raises: the last `TransientError`.
    """
    if policy.attempts < 1:
        raise ValueError("a retry policy needs at least one attempt")
    attempt, was_idle = 1, False
    while True:
        try:
            return await call()
        except TransientError as error:
            on_error(error)
            was_idle = error.idle and not was_idle
            if was_idle:
                continue
            if attempt == policy.attempts or (error.is_file_verdict and attempt >= policy.file_attempts):
                raise
            await sleep(policy.delay(attempt, hint=error.retry_after, jitter=jitter(), spare=acquire()))
            attempt += 1
