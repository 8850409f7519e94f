"""The pipeline of attachments: claim files of one resource, fill the resource, record the results.

It runs when the images are archived. It fills several resources at a time, each from one task.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from asyncimport.errors import TransientError, primary_error
from asyncimport.model import Attachment, AttachmentBatch, AttachmentResult, AttachmentState
from asyncimport.model.events import AttachmentsStored, Event, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.model.ports import Bytes
from asyncimport.pacing.outage import Outage
from asyncimport.pacing.shutdown import Stop, StoppedError

T = TypeVar("T")


class PendingAttachments(Protocol):
    """The queue of attachments; one call at a time."""

    def claim(self) -> AttachmentBatch | None:
        """Hand out files of one resource; None when there is nothing more."""
        ...

    def start(self, attachments: Sequence[Attachment]) -> None:
        """Note that these are about to be sent."""
        ...

    def record(self, batch: AttachmentBatch, results: Sequence[AttachmentResult]) -> None:
        """Record what became of them."""
        ...


class ResourceStore(Protocol):
    """Where batches of attachments go."""

    async def fill(
        self, batch: AttachmentBatch, source: Bytes, begin: Callable[[Sequence[Attachment]], Awaitable[None]]
    ) -> list[AttachmentResult]:
        """Bring files into a resource; it can be repeated at any time. `begin` gets those about to be sent.

        Raises: TransientError when the server is away, FatalError.
        """
        ...

    async def ping(self) -> bool:
        """Return whether the server answers at all. Raises: FatalError."""
        ...


class InMemoryQueue:
    """A queue without a journal: what the resources hold tells the next run what is done."""

    # A batch has at most this many files.
    _MOST_FILES = 500

    def __init__(self, batches: Sequence[AttachmentBatch]) -> None:
        self._left = deque(batches)
        self._rest: dict[int, AttachmentBatch] = {}

    def claim(self) -> AttachmentBatch | None:
        """Hand out the next batch, or its first files: the rest follows after `record`."""
        if not self._left:
            return None
        whole = self._left.popleft()
        if len(whole.attachments) <= self._MOST_FILES:
            return whole
        first, rest = whole.attachments[: self._MOST_FILES], whole.attachments[self._MOST_FILES :]
        self._rest[first[0].key] = AttachmentBatch(whole.resource, rest)
        return AttachmentBatch(whole.resource, first)

    def start(self, attachments: Sequence[Attachment]) -> None:
        """Do nothing: a later run knows of no earlier one."""

    def record(self, batch: AttachmentBatch, _: Sequence[AttachmentResult]) -> None:
        """Queue the rest of the batch."""
        if (rest := self._rest.pop(batch.attachments[0].key, None)) is not None:
            self._left.append(rest)


async def upload_attachments(
    source: Bytes,
    store: ResourceStore,
    pending: PendingAttachments,
    *,
    options: Options,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Fill all resources that have pending attachments. Raises: FatalError."""
    stop = stop or Stop()
    turn = anyio.CapacityLimiter(1)
    outage = Outage(
        options.outage_timeout,
        ping=store.ping,
        sleep=stop.sleep,
        report=lambda reason: report(ServerUnavailable(reason)),
    )

    async def ask(method: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(method, limiter=turn)

    async def begin(attachments: Sequence[Attachment]) -> None:
        await ask(partial(pending.start, attachments))

    async def fill(batch: AttachmentBatch) -> list[AttachmentResult]:
        try:
            return await outage.call(partial(store.fill, batch, source, begin), batch.resource)
        except TransientError as error:
            # Other batches get through.
            return [AttachmentResult(one, AttachmentState.FAILED, str(error)) for one in batch.attachments]

    async def work() -> None:
        while not stop.requested and (batch := await ask(pending.claim)) is not None:
            results = None
            try:
                with stop.grace_scope():
                    results = await fill(batch)
            except StoppedError:
                pass
            if results is None:
                return
            with anyio.CancelScope(shield=True):
                await ask(partial(pending.record, batch, results))
            report(AttachmentsStored(batch.resource, tuple(results)))

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(options.attachment_workers):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
