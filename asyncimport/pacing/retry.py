"""When to try again: a pure delay, and the loop around one call.

Only `TransientError` is repeated. Sleep and randomness are parameters, so tests need neither.
"""

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from asyncimport.errors import TransientError
from asyncimport.model.record import record

T = TypeVar("T")
# Without budget for retries, a pause is as long as after this attempt.
_LATE_ATTEMPT = 8


@record
class RetryPolicy:
    """How often to try and how long to wait: from `first_seconds`, growing by `factor`, up to `max_seconds`.

    An answer that blames the file is believed after `file_attempts`: a bad file should not occupy a worker for long.
    """

    attempts: int = 6
    file_attempts: int = 3
    first_seconds: float = 0.5
    factor: float = 2.0
    max_seconds: float = 30.0

    def delay(self, attempt: int, *, retry_after: float | None, jitter: float, has_budget: bool = True) -> float:
        """Return the seconds to wait after the failed `attempt` (from 1), for `jitter` in [0, 1).

        Full jitter spreads workers that failed together. The server's Retry-After, up to five minutes, is a lower
        bound, and the jitter is added to it. Without budget for retries, the first pause is as long as the last.
        """
        step = attempt if has_budget else max(attempt, _LATE_ATTEMPT)
        spread = min(self.max_seconds, self.first_seconds * self.factor ** (step - 1)) * jitter
        return spread if retry_after is None else min(retry_after, 300.0) + spread


async def call_with_retries(
    call: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    acquire: Callable[[], bool] = lambda: True,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Await `call()` until it succeeds, raises anything but `TransientError`, or the attempts are used up.

    If the server had closed an idle connection, the call is repeated once, at once, and this costs no attempt. Before
    any other retry, `acquire` says whether the budget has one left. Raises: the last `TransientError`.
    """
    if policy.attempts < 1:
        raise ValueError("a retry policy needs at least one attempt")
    attempt, was_idle = 1, False
    while True:
        try:
            return await call()
        except TransientError as error:
            was_idle = error.idle and not was_idle
            if was_idle:
                continue
            if attempt == policy.attempts or (error.is_file_verdict and attempt >= policy.file_attempts):
                raise
            await sleep(policy.delay(attempt, retry_after=error.retry_after, jitter=jitter(), has_budget=acquire()))
            attempt += 1
