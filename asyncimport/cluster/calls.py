"""Calls of actors of Dask: whatever goes wrong on the way there or back means that the worker is lost."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from distributed import Actor, Client, wait

from asyncimport.cluster.ports import WorkerLostError
from asyncimport.errors import AsyncimportError

T = TypeVar("T")


async def make_actor(
    client: Client, kind: type, address: str, while_there: Callable[[], AbstractAsyncContextManager[object]]
) -> Any:
    """Make an actor on a worker. Raises: WorkerLostError."""
    # Its arguments would be kept by the scheduler, so it has none.
    made = client.submit(kind, actor=True, workers=[address], pure=False)
    await call_actor(client, while_there, lambda: wait(made))
    if made.status == "error":
        await call_actor(client, while_there, lambda: made)
    # The result is the same, but Dask would fetch it from the worker, and for ever try again if nobody gets there.
    with client.as_current():
        return Actor(kind, address, made.key)


async def call_actor(
    client: Client,
    while_there: Callable[[], AbstractAsyncContextManager[object]],
    call: Callable[[], Awaitable[T]],
) -> T:
    """Return what a call returns. `while_there` cancels it when Dask tells that the worker is gone.

    Raises: WorkerLostError, and the errors of ours that the actor raises.
    """
    try:
        # Dask raises before there is anything to await, too.
        with client.as_current():
            awaited = call()
        async with while_there():
            return await awaited
    except (WorkerLostError, AsyncimportError):
        raise
    except OSError as error:
        raise WorkerLostError(f"no connection ({error})") from error
    except Exception as error:
        raise WorkerLostError(f"{type(error).__name__}: {error}", is_final=True) from error
    raise WorkerLostError("it has left the cluster", is_final=True)
