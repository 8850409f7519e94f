"""Prepares several items at once, and takes them one after the other in their order."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import anyio

from asyncimport.errors import primary_error

T = TypeVar("T")
R = TypeVar("R")


async def in_order(
    items: AsyncIterator[T],
    prepare: Callable[[T], Awaitable[R]],
    take: Callable[[R], Awaitable[object]],
    *,
    ahead: int,
) -> None:
    """Prepare `ahead` items at once, and take each when all before it are taken."""
    if ahead <= 1:
        async for item in items:
            await take(await prepare(item))
        return
    put, waiting = anyio.create_memory_object_stream[tuple[anyio.Event, list[R]]](ahead - 1)

    async def prepare_one(item: T, is_ready: anyio.Event, result: list[R]) -> None:
        result.append(await prepare(item))
        is_ready.set()

    async def take_all() -> None:
        async for is_ready, result in waiting:
            await is_ready.wait()
            await take(result[0])

    try:
        async with waiting, anyio.create_task_group() as tasks:
            tasks.start_soon(take_all)
            async with put:
                async for item in items:
                    prepared: tuple[anyio.Event, list[R]] = anyio.Event(), []
                    tasks.start_soon(prepare_one, item, *prepared)
                    await put.send(prepared)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
