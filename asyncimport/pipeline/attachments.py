"""The pipeline of attachments: claim files of one resource, fill the resource, record the results.

It runs after the images are archived. Several workers fill one resource each.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from asyncimport.errors import TransientError
from asyncimport.model.attachments import Attachment, AttachmentBatch, AttachmentResult, AttachmentState
from asyncimport.model.events import AttachmentsStored, Event
from asyncimport.model.options import Options
from asyncimport.model.ports import AttachmentSource
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.worker_pool import Done, WorkerPool


class PendingAttachments(Protocol):
    """The queue of attachments; one call at a time."""

    def claim(self) -> AttachmentBatch | None:
        """Hand out files of one resource; None when no more are pending."""

    def start(self, attachments: Sequence[Attachment]) -> None:
        """Note which attachments are about to be sent."""

    def record(self, batch: AttachmentBatch, results: Sequence[AttachmentResult]) -> None:
        """Record what became of a batch."""


class ResourceStore(Protocol):
    """Where batches of attachments go."""

    async def fill(
        self,
        batch: AttachmentBatch,
        source: AttachmentSource,
        start: Callable[[Sequence[Attachment]], Awaitable[None]],
        /,
    ) -> list[AttachmentResult]:
        """Bring files into a resource, and call `start` before sending. It can be repeated at any time.

        Raises: TransientError when the server is away, FatalError.
        """

    async def ping(self) -> bool:
        """Return whether the server answers at all. Raises: FatalError."""


class InMemoryQueue:
    """A queue without a journal: the next run sees in the resources what is done."""

    _MAX_FILES = 500

    def __init__(self, batches: Sequence[AttachmentBatch]) -> None:
        self._pending = deque(batches)
        self._rest: dict[int, AttachmentBatch] = {}

    def claim(self) -> AttachmentBatch | None:
        """Hand out the next batch, or its first files; `record` queues the rest."""
        if not self._pending:
            return None
        whole = self._pending.popleft()
        first, rest = whole.attachments[: self._MAX_FILES], whole.attachments[self._MAX_FILES :]
        if not rest:
            return whole
        self._rest[first[0].key] = AttachmentBatch(whole.resource, rest)
        return AttachmentBatch(whole.resource, first)

    def start(self, attachments: Sequence[Attachment]) -> None:
        """Do nothing: there is no journal to note it in."""

    def record(self, batch: AttachmentBatch, _: Sequence[AttachmentResult]) -> None:
        """Queue the rest of the batch."""
        if (rest := self._rest.pop(batch.attachments[0].key, None)) is not None:
            self._pending.append(rest)


async def upload_attachments(
    source: AttachmentSource,
    store: ResourceStore,
    pending: PendingAttachments,
    *,
    options: Options,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Fill all resources that have pending attachments. Raises: FatalError."""
    pool = WorkerPool(store.ping, options=options, report=report, stop=stop)

    async def start(attachments: Sequence[Attachment]) -> None:
        await pool.call_journal(partial(pending.start, attachments))

    async def fill(batch: AttachmentBatch) -> Done:
        try:
            results = await pool.outage.call(partial(store.fill, batch, source, start), batch.resource)
        except TransientError as error:
            # Other batches get through.
            results = [AttachmentResult(one, AttachmentState.FAILED, str(error)) for one in batch.attachments]
        return Done(partial(pending.record, batch, results), AttachmentsStored(batch.resource, tuple(results)))

    await pool.run(pending.claim, fill)
