"""Calls of actors of Dask: whatever goes wrong on the way there or back means that the worker is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from distributed import Client, Future, wait
from distributed.protocol import to_serialize

from asyncimport.cluster.ports import WorkerLostError
from asyncimport.errors import AsyncimportError

T = TypeVar("T")
WhileThere = Callable[[], AbstractAsyncContextManager[object]]

# How long an actor may take to begin before that is reported: it waits for a thread of its worker.
_BUSY_SECONDS = 15.0
# Before what others have asked for: an actor begins in no time.
_PRIORITY = 1000


class Arguments:
    """What a method is called with."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values

    def __repr__(self) -> str:
        """Show nothing: Dask's logs can have what comes in, and there are names and paths in it."""
        return "Arguments(...)"


class Actor:
    """An object that lives on a worker, and whose methods are called by `RemoteActor`."""

    async def answer(self, method: str, arguments: Arguments) -> Any:
        """Call a method."""
        return await getattr(self, method)(*arguments.values)


class RemoteActor:
    """An actor on a worker. Make it with `make_actor`.

    It is called directly. A call of Dask's own goes through the scheduler unless the client says otherwise, and never
    ends if the worker has the actor no more.
    """

    def __init__(self, client: Client, address: str, made: Future, while_there: WhileThere) -> None:
        self._client = client
        self._address = address
        # As long as it is kept here, the worker keeps the actor.
        self._made = made
        self._while_there = while_there

    async def call(self, method: str, *arguments: Any) -> Any:
        """Call a method. Raises: WorkerLostError, and the errors of ours that the method raises."""
        return await _call(self._while_there, lambda: self._execute(method, arguments))

    async def _execute(self, method: str, arguments: tuple[Any, ...]) -> Any:
        reply = await self._client.rpc(self._address).actor_execute(
            function="answer", actor=self._made.key, args=[method, to_serialize(Arguments(arguments))], kwargs={}
        )
        if reply["status"] != "OK":
            raise reply["exception"]
        return reply["result"]


async def make_actor(
    client: Client,
    kind: type[Actor],
    address: str,
    while_there: WhileThere,
    on_busy: Callable[[], None] = lambda: None,
    busy_seconds: float = _BUSY_SECONDS,
) -> RemoteActor:
    """Make an actor on a worker; `on_busy` is called if that takes long.

    `while_there` cancels calls when the worker is gone. Raises: WorkerLostError.
    """

    async def make() -> Future:
        # Its arguments would be kept by the scheduler, so it has none.
        made = client.submit(kind, actor=True, workers=[address], pure=False, priority=_PRIORITY)
        with client.as_current():
            ended = wait(made)
        busy = asyncio.get_running_loop().call_later(busy_seconds, on_busy)
        try:
            await ended
        finally:
            busy.cancel()
        if made.status == "error":
            await made
        return made

    return RemoteActor(client, address, await _call(while_there, make), while_there)


async def _call(while_there: WhileThere, call: Callable[[], Awaitable[T]]) -> T:
    try:
        async with while_there():
            return await call()
    except (WorkerLostError, AsyncimportError):
        raise
    except OSError as error:
        raise WorkerLostError(f"no connection ({error})") from error
    except Exception as error:
        raise WorkerLostError(f"{type(error).__name__}: {error}", is_final=True) from error
    raise WorkerLostError("it has left the cluster", is_final=True)
