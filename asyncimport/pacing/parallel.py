"""Calls side by side."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from asyncimport.errors import primary_error

T = TypeVar("T")
R = TypeVar("R")


async def map_concurrently(call: Callable[[T], Awaitable[R]], items: Iterable[T], workers: int) -> list[R]:
    """Call a function for each item, `workers` at a time, and return the results in order.

    Raises: the primary error of the calls; the others are cancelled.
    """
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def work() -> None:
        for place, item in waiting:
            results[place] = await call(item)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    return [results[place] for place in sorted(results)]
