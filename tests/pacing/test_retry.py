"""Retries: the delay, and the loop with a given sleep and jitter."""

from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import AsyncimportError, LoginExpiredError, RefusedError, TransientError, UnavailableError
from asyncimport.pacing.retry import RetryPolicy, call_with_retries

pytestmark = pytest.mark.anyio

POLICY = RetryPolicy(attempts=4, first_seconds=1.0, factor=2.0, max_seconds=3.0)
JITTER = st.floats(0.0, 1.0, exclude_max=True)


class Sleeper:
    """Notes the pauses, and does not sleep."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Note the pause."""
        self.asked.append(seconds)


def answers(*ends: str | Exception) -> Callable[[], Awaitable[str]]:
    """Make a call that ends in these ways, in turn."""
    left = list(ends)

    async def call() -> str:
        end = left.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    return call


@pytest.mark.parametrize(
    ("attempt", "hint", "jitter", "expected"),
    [
        (1, None, 0.0, 0.0),
        (1, None, 0.5, 0.5),
        (2, None, 0.5, 1.0),
        (3, None, 0.5, 1.5),
        (9, None, 0.5, 1.5),
        (1, 10.0, 0.0, 10.0),
        (1, 10.0, 0.5, 10.5),
        (1, 0.0, 0.5, 0.5),
        (9, 1e9, 0.5, 301.5),
    ],
)
def test_delay(attempt: int, hint: float | None, jitter: float, expected: float) -> None:
    """The delay is a share of a span that doubles up to the maximum; a Retry-After is added."""
    assert POLICY.delay(attempt, retry_after=hint, jitter=jitter) == expected


@given(
    attempt=st.integers(1, 1000),
    first=st.floats(0.001, 10.0),
    factor=st.floats(1.0, 2.0),
    cap=st.floats(0.001, 600.0),
    hint=st.none() | st.floats(0.0, allow_nan=False),
    jitter=JITTER,
)
def test_delay_is_bounded(
    attempt: int, first: float, factor: float, cap: float, hint: float | None, jitter: float
) -> None:
    """A delay is at least the Retry-After, up to five minutes, and exceeds it by the maximum at most."""
    delay = RetryPolicy(first_seconds=first, factor=factor, max_seconds=cap).delay(
        attempt, retry_after=hint, jitter=jitter
    )
    least = min(hint or 0.0, 300.0)
    assert least <= delay <= least + cap


@given(attempt=st.integers(1, 1000), jitter=JITTER)
def test_delay_never_shrinks(attempt: int, jitter: float) -> None:
    """With the same jitter, each further attempt waits at least as long."""
    policy = RetryPolicy()
    assert policy.delay(attempt, retry_after=None, jitter=jitter) <= policy.delay(
        attempt + 1, retry_after=None, jitter=jitter
    )


async def test_success_needs_no_sleep() -> None:
    """A call that succeeds at once is made once."""
    sleep = Sleeper()
    assert await call_with_retries(answers("stored"), POLICY, sleep=sleep) == "stored"
    assert sleep.asked == []


async def test_repeats_until_it_succeeds() -> None:
    """A call that fails for a time is repeated with the pauses of the policy."""
    sleep = Sleeper()
    first, second = TransientError("one"), LoginExpiredError("two")
    got = await call_with_retries(answers(first, second, "stored"), POLICY, sleep=sleep, jitter=lambda: 0.5)
    assert got == "stored"
    assert sleep.asked == [0.5, 1.0]


async def test_honours_retry_after() -> None:
    """The pause is at least what the server asked for."""
    sleep = Sleeper()
    await call_with_retries(
        answers(TransientError("busy", retry_after=20.0), "ok"), POLICY, sleep=sleep, jitter=lambda: 0.25
    )
    assert sleep.asked == [20.25]


async def test_each_pause_has_its_own_jitter() -> None:
    """Calls that failed together do not come back together."""
    sleep = Sleeper()
    luck = iter([0.0, 0.5, 0.75])
    with pytest.raises(TransientError):
        await call_with_retries(answers(*[TransientError("x")] * 4), POLICY, sleep=sleep, jitter=lambda: next(luck))
    assert sleep.asked == [0.0, 1.0, 2.25]


async def test_gives_up_with_the_last_error() -> None:
    """After the last attempt the last error is raised at once."""
    sleep = Sleeper()
    errors = [TransientError(str(number)) for number in range(5)]
    with pytest.raises(TransientError) as caught:
        await call_with_retries(answers(*errors), POLICY, sleep=sleep, jitter=lambda: 0.0)
    assert caught.value is errors[3]
    assert len(sleep.asked) == 3


@pytest.mark.parametrize(
    "error", [RefusedError("no"), UnavailableError("gone"), AsyncimportError("?"), ValueError("bug"), TimeoutError()]
)
async def test_nothing_else_is_repeated(error: Exception) -> None:
    """Any other error is raised at once."""
    sleep = Sleeper()
    with pytest.raises(type(error)) as caught:
        await call_with_retries(answers(error, "stored"), POLICY, sleep=sleep)
    assert caught.value is error
    assert sleep.asked == []


async def test_one_attempt_means_no_retry() -> None:
    """The call is made once, without a pause."""
    sleep = Sleeper()
    with pytest.raises(TransientError):
        await call_with_retries(answers(TransientError("x"), "stored"), RetryPolicy(attempts=1), sleep=sleep)
    assert sleep.asked == []


async def test_a_policy_without_attempts_is_an_error() -> None:
    """It could return neither a value nor an error."""
    with pytest.raises(ValueError, match="at least one attempt"):
        await call_with_retries(answers("stored"), RetryPolicy(attempts=0))


async def test_default_sleep_and_jitter() -> None:
    """The defaults work; a policy of 0 s takes no time."""
    assert await call_with_retries(answers(TransientError("x"), "stored"), RetryPolicy(first_seconds=0.0)) == "stored"


async def test_an_answer_that_blames_the_file_ends_the_attempts_earlier() -> None:
    """A bad file occupies a worker for a shorter time than a server in trouble."""
    sleeper = Sleeper()
    bad = [TransientError("bad file", blames_file=True) for _ in range(9)]
    with pytest.raises(TransientError, match="bad file"):
        await call_with_retries(
            answers(*bad), RetryPolicy(attempts=9, file_attempts=2), sleep=sleeper, jitter=lambda: 0.0
        )
    assert len(sleeper.asked) == 1


async def test_without_budget_every_pause_is_long() -> None:
    """The first pause is as long as the last, and Retry-After still counts."""
    sleeper = Sleeper()
    trouble = [TransientError("busy"), TransientError("busy", retry_after=7.0), TransientError("busy")]
    spare = iter([True, False, False])
    policy = RetryPolicy(attempts=9, first_seconds=0.5, max_seconds=30.0)
    call = answers(*trouble, "stored")
    done = await call_with_retries(call, policy, acquire=lambda: next(spare), sleep=sleeper, jitter=lambda: 0.5)
    assert done == "stored"
    assert sleeper.asked == [0.25, 7.0 + 15.0, 15.0]
