"""When a call is made again: the delay as a number, and the loop with its sleep and its luck given."""

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
    """Sleeps no time, and notes how long it should have been."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Note the wish."""
        self.asked.append(seconds)


def answers(*ends: str | Exception) -> Callable[[], Awaitable[str]]:
    """Make a call that ends in these ways, one after the other."""
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
    """The delay is a share of a span that doubles up to the cap; what the server asked for comes on top of nothing."""
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
    """No delay is below the server's wish (of five minutes at most), and none exceeds it by more than the cap."""
    delay = RetryPolicy(first_seconds=first, factor=factor, max_seconds=cap).delay(
        attempt, retry_after=hint, jitter=jitter
    )
    least = min(hint or 0.0, 300.0)
    assert least <= delay <= least + cap


@given(attempt=st.integers(1, 1000), jitter=JITTER)
def test_delay_never_shrinks(attempt: int, jitter: float) -> None:
    """With the same luck, each further attempt waits at least as long."""
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
    """A call that fails for a time is repeated, with the pauses of the policy, and each failure is reported once."""
    sleep = Sleeper()
    first, second = TransientError("one"), LoginExpiredError("two")
    seen: list[TransientError] = []
    got = await call_with_retries(
        answers(first, second, "stored"), POLICY, on_error=seen.append, sleep=sleep, jitter=lambda: 0.5
    )
    assert got == "stored"
    assert sleep.asked == [0.5, 1.0]
    assert seen == [first, second]


async def test_honours_retry_after() -> None:
    """The pause is at least what the server asked for."""
    sleep = Sleeper()
    await call_with_retries(
        answers(TransientError("busy", retry_after=20.0), "ok"), POLICY, sleep=sleep, jitter=lambda: 0.25
    )
    assert sleep.asked == [20.25]


async def test_draws_anew_for_each_pause() -> None:
    """Each pause has its own share of chance, so that calls which failed together do not come back together."""
    sleep = Sleeper()
    luck = iter([0.0, 0.5, 0.75])
    with pytest.raises(TransientError):
        await call_with_retries(answers(*[TransientError("x")] * 4), POLICY, sleep=sleep, jitter=lambda: next(luck))
    assert sleep.asked == [0.0, 1.0, 2.25]


async def test_gives_up_with_the_last_error() -> None:
    """After the last attempt the last error goes to the caller, at once and reported like the others."""
    sleep = Sleeper()
    errors = [TransientError(str(number)) for number in range(5)]
    seen: list[TransientError] = []
    with pytest.raises(TransientError) as caught:
        await call_with_retries(answers(*errors), POLICY, on_error=seen.append, sleep=sleep, jitter=lambda: 0.0)
    assert caught.value is errors[3]
    assert seen == errors[:4]
    assert len(sleep.asked) == 3


@pytest.mark.parametrize(
    "error", [RefusedError("no"), UnavailableError("gone"), AsyncimportError("?"), ValueError("bug"), TimeoutError()]
)
async def test_nothing_else_is_repeated(error: Exception) -> None:
    """What is not for a time is final: it goes to the caller unseen by the loop."""
    sleep = Sleeper()
    seen: list[TransientError] = []
    with pytest.raises(type(error)) as caught:
        await call_with_retries(answers(error, "stored"), POLICY, on_error=seen.append, sleep=sleep)
    assert caught.value is error
    assert (sleep.asked, seen) == ([], [])


async def test_one_attempt_is_no_repetition() -> None:
    """A policy of one attempt asks once and never sleeps."""
    sleep = Sleeper()
    with pytest.raises(TransientError):
        await call_with_retries(answers(TransientError("x"), "stored"), RetryPolicy(attempts=1), sleep=sleep)
    assert sleep.asked == []


async def test_no_attempt_is_a_mistake() -> None:
    """A policy without an attempt could give neither a value nor an error of the call."""
    with pytest.raises(ValueError, match="at least one attempt"):
        await call_with_retries(answers("stored"), RetryPolicy(attempts=0))


async def test_default_sleep_and_luck() -> None:
    """Without anything given, the pause is anyio's and the luck random; a span of nothing makes it no time."""
    assert await call_with_retries(answers(TransientError("x"), "stored"), RetryPolicy(first_seconds=0.0)) == "stored"


async def test_an_answer_that_blames_the_file_is_believed_sooner() -> None:
    """A bad file does not hold a worker for as long as a sick server may."""
    sleeper = Sleeper()
    bad = [TransientError("bad file", blames_file=True) for _ in range(9)]
    with pytest.raises(TransientError, match="bad file"):
        await call_with_retries(
            answers(*bad), RetryPolicy(attempts=9, file_attempts=2), sleep=sleeper, jitter=lambda: 0.0
        )
    assert len(sleeper.asked) == 1


async def test_without_repetitions_to_spare_every_pause_is_long() -> None:
    """A sick server gets its rest: the first pause is as long as the last, and Retry-After still counts."""
    sleeper = Sleeper()
    trouble = [TransientError("busy"), TransientError("busy", retry_after=7.0), TransientError("busy")]
    spare = iter([True, False, False])
    policy = RetryPolicy(attempts=9, first_seconds=0.5, max_seconds=30.0)
    call = answers(*trouble, "stored")
    done = await call_with_retries(call, policy, acquire=lambda: next(spare), sleep=sleeper, jitter=lambda: 0.5)
    assert done == "stored"
    assert sleeper.asked == [0.25, 7.0 + 15.0, 15.0]
