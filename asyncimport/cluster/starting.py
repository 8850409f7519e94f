"""Starts workers: what is tried again, and for how long."""

from collections.abc import Sequence
from functools import partial

import anyio

from asyncimport.cluster.checks import check_clock
from asyncimport.cluster.messages import Setup
from asyncimport.cluster.ports import WorkerLink, WorkerLostError
from asyncimport.cluster.sending_workers import SendingWorker
from asyncimport.errors import LoginRefusedError, TransientError, UnavailableError
from asyncimport.model.events import ServerUnavailable
from asyncimport.pacing.outage import Outage
from asyncimport.pipeline.context import Context

# How often one that is not reached is tried again, as a share of a lease.
_PAUSE_SHARE = 1 / 3


class Starter:
    """Starts workers, which log in. `workers` are those that send now."""

    def __init__(self, setup: Setup, context: Context, workers: Sequence[SendingWorker]) -> None:
        self._setup = setup
        self._context = context
        self._sending = workers
        self._turn = anyio.Lock()
        self._proved_at = anyio.current_time()
        """When the password was right."""
        self._refused: LoginRefusedError | None = None
        self._logged_in: set[str] = set()
        """The names of workers that have reached the server."""

    @property
    def is_refused(self) -> bool:
        """Whether the password was refused: nobody tries it again."""
        return self._refused is not None

    def note_refusal(self, error: LoginRefusedError) -> None:
        """Note that the password was refused: the run ends, but others would not know yet."""
        self._refused = error

    async def start(self, link: WorkerLink) -> float:
        """Start a worker, and return its clock. Raises: WorkerLostError if it has ended, AsyncimportError.

        If the server is away that this worker has reached before, or that nobody reaches any more, this waits as long
        as for any outage.
        """
        outage = Outage(
            self._context.options.outage_timeout,
            first_pause=self._setup.file_policy.first_seconds,
            report=lambda reason: self._context.report(ServerUnavailable(reason)),
        )
        clock = await outage.call(partial(self._log_in, link), link.name)
        self._logged_in.add(link.name)
        # One that was lost while it was away could not say so.
        self._context.report(ServerUnavailable(None))
        return clock

    async def _log_in(self, link: WorkerLink) -> float:
        try:
            return await self._reach(link)
        except UnavailableError as error:
            if link.name in self._logged_in or (self._logged_in and not self._sending):
                raise TransientError(str(error)) from error
            raise

    async def _reach(self, link: WorkerLink) -> float:
        """Start a worker. One that is not reached is lost if no other is either for the longest outage."""
        began = anyio.current_time()
        while True:
            try:
                await link.reach()
                return await self._start(link)
            except ValueError as malformed:
                raise WorkerLostError(str(malformed), is_final=True) from malformed
            except WorkerLostError as lost:
                is_late = anyio.current_time() - began > self._context.options.outage_timeout
                if lost.is_final or (is_late and not self._sending):
                    raise
                await anyio.sleep(self._setup.lease_seconds * _PAUSE_SHARE)

    async def _start(self, link: WorkerLink) -> float:
        """Let a worker log in: alone, if nobody has for the time of a lease, as at the beginning the driver has.

        The password may have changed meanwhile, and many refusals would lock the account.
        """
        if not self._is_proved:
            async with self._turn:
                if self._refused is not None:
                    raise LoginRefusedError(str(self._refused), hint=self._refused.hint)
                if not self._is_proved:
                    try:
                        return await self._start_now(link)
                    except LoginRefusedError as error:
                        self.note_refusal(error)
                        raise
        return await self._start_now(link)

    @property
    def _is_proved(self) -> bool:
        return anyio.current_time() - self._proved_at < self._setup.lease_seconds

    async def _start_now(self, link: WorkerLink) -> float:
        clock = check_clock(await link.start(self._setup))
        self._proved_at = anyio.current_time()
        return clock
