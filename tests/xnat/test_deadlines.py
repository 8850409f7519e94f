"""Calls that take too long end, each by itself."""

from functools import partial

import anyio
import anyio.lowlevel
import pytest
from patience import in_time

from asyncimport.errors import TransientError
from asyncimport.xnat.deadlines import Deadlines

pytestmark = pytest.mark.anyio


async def test_only_calls_that_take_too_long_end() -> None:
    """One timer serves calls that begin together, later, or after a pause."""
    deadlines = Deadlines(0.1)
    ended: list[str] = []

    async def call(name: str, *, is_quick: bool = False, after: anyio.Event | None = None) -> None:
        if after is not None:
            await after.wait()
        try:
            with deadlines:
                await (anyio.lowlevel.checkpoint() if is_quick else anyio.sleep_forever())
            ended.append(name)
        except TransientError:
            ended.append(f"{name} late")
        # The task goes on like any other.
        await anyio.lowlevel.checkpoint()

    for _ in range(2):
        ended.clear()
        began = anyio.Event()
        with in_time():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, "slow")
                tasks.start_soon(partial(call, "quick", is_quick=True))
                tasks.start_soon(partial(call, "later", after=began))
                await anyio.wait_all_tasks_blocked()
                began.set()
        assert ended == ["quick", "slow late", "later late"]


async def test_a_cancelled_call_is_not_late() -> None:
    """A cancellation stays one just before the deadline, and an expired deadline does not cancel the scope."""
    deadlines = Deadlines(0.05)
    with in_time():
        with anyio.CancelScope() as scope, deadlines:
            scope.cancel()
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(TransientError), deadlines, anyio.CancelScope(shield=True):
                await anyio.sleep_forever()
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            with pytest.raises(TransientError), deadlines:
                await anyio.sleep_forever()
            await anyio.lowlevel.checkpoint()
        assert not scope.cancelled_caught
