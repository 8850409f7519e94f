"""Several items are prepared at once, and taken in their order."""

from collections.abc import AsyncIterator

import anyio
import pytest
from patience import in_time

from asyncimport.errors import UsageError
from asyncimport.pipeline.in_order import in_order

pytestmark = pytest.mark.anyio


async def numbers(count: int) -> AsyncIterator[int]:
    """Yield numbers from 0."""
    for number in range(count):
        yield number


async def test_what_is_ready_first_waits_for_those_before_it() -> None:
    """Three are prepared at once, never more; the last of each three is ready first."""
    ready = [anyio.Event() for _ in range(9)]
    running: set[int] = set()
    taken: list[int] = []
    most = 0

    async def prepare(number: int) -> int:
        nonlocal most
        running.add(number)
        most = max(most, len(running))
        if number % 3 == 2:
            ready[number].set()
        await ready[number].wait()
        if number % 3:
            ready[number - 1].set()
        running.discard(number)
        return number

    async def take(number: int) -> None:
        taken.append(number)

    with in_time():
        await in_order(numbers(9), prepare, take, ahead=3)
    assert taken == [*range(9)]
    assert 3 <= most <= 4


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("is_first", [False, True])
async def test_an_error_ends_it(ahead: int, is_first: bool) -> None:
    """Alone, not in a group."""

    async def fail(number: int) -> int:
        if number == 4:
            raise UsageError("four")
        return number

    async def succeed(number: int) -> int:
        return number

    with in_time(), pytest.raises(UsageError, match="four"):
        await in_order(numbers(9), fail if is_first else succeed, succeed if is_first else fail, ahead=ahead)
