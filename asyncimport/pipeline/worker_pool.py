"""The workers of attachments and demographics: each claims an item, works on it and records it, until none is left."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from asyncimport.errors import primary_error
from asyncimport.model.events import Event, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.model.record import record
from asyncimport.pacing.outage import Outage
from asyncimport.pacing.shutdown import Stop, StoppedError

T = TypeVar("T")


@record
class Done:
    """What became of an item: `record` writes it to the journal."""

    record: Callable[[], object]
    event: Event


class WorkerPool:
    """Workers that share the journal, one call at a time, and the wait for a server that is away."""

    def __init__(
        self,
        ping: Callable[[], Awaitable[bool]],
        *,
        options: Options,
        report: Callable[[Event], None],
        stop: Stop | None,
    ) -> None:
        self.stop = stop or Stop()
        self.report = report
        self.outage = Outage(
            options.outage_timeout,
            ping=ping,
            sleep=self.stop.sleep,
            report=lambda reason: report(ServerUnavailable(reason)),
        )
        self._count = options.attachment_workers
        self._journal_limiter = anyio.CapacityLimiter(1)

    async def call_journal(self, method: Callable[[], T]) -> T:
        """Call the journal in a worker thread, one call at a time."""
        return await anyio.to_thread.run_sync(method, limiter=self._journal_limiter)

    async def run(self, claim: Callable[[], T | None], work: Callable[[T], Awaitable[Done | None]]) -> None:
        """Work on all that is claimed; `work` returns None where nothing is to be recorded. Raises: FatalError."""

        async def run_worker() -> None:
            while not self.stop.requested and (item := await self.call_journal(claim)) is not None:
                is_finished, done = False, None
                with self.stop.grace_scope():
                    try:
                        done = await work(item)
                        is_finished = True
                    except StoppedError:
                        return
                if not is_finished:
                    return
                if done is not None:
                    with anyio.CancelScope(shield=True):
                        await self.call_journal(done.record)
                    self.report(done.event)

        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(self._count):
                    tasks.start_soon(run_worker)
        except BaseExceptionGroup as errors:
            raise primary_error(errors) from None
