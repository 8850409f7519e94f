"""The protocols of workers on other machines, as the driver sees them."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from asyncimport.cluster.messages import Order, Reply, Setup
from asyncimport.model.ports import FileReader


class WorkerLostError(Exception):
    """A call did not reach a worker, or its reply did not come back.

    `is_final`: the worker has ended, as far as the cluster knows. It may still be sending.
    """

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class WorkerLink(Protocol):
    """Calls one worker. A call may take for ever if the worker hangs: the caller limits it.

    All calls may be repeated: each has a number. Raises from every method: WorkerLostError.
    """

    @property
    def name(self) -> str:
        """What people call the worker; it holds no secret."""
        ...

    def sees(self, path: str) -> bool:
        """Return whether a path is below a place that this worker sees."""
        ...

    async def reach(self) -> None:
        """Be ready to call `start`: a worker that is busy may take long."""
        ...

    async def start(self, setup: Setup) -> float:
        """Log in, and be ready to send; return the worker's clock. Whatever an earlier call started has ended then.

        Raises: AsyncimportError if this worker cannot send.
        """
        ...

    async def exchange(self, order: Order) -> Reply:
        """Bring files to send, and return what became of others: when there is enough to tell, or after a moment."""
        ...

    async def end(self) -> None:
        """Free what the worker holds. Raises: WorkerLostError if it may still be sending."""
        ...


class WorkerLinks(Protocol):
    """The workers of a cluster that can send."""

    @property
    def lease_seconds(self) -> float:
        """How long a worker may send without hearing from the driver."""
        ...

    @property
    def open_files(self) -> Callable[[], FileReader]:
        """What returns the files as a worker sees them, by the driver's paths; it is called there."""
        ...

    def joined(self) -> AsyncIterator[WorkerLink]:
        """Yield each worker that is there or joins later; end when none can join any more."""
        ...
