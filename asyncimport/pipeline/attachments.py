"""The line of what goes beside images: claim a resource's files, fill the resource, record what became of them.

It runs when the images are through. Several resources are filled side by side, each by one task at a time.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import anyio
import anyio.to_thread

from asyncimport.errors import TransientError, worst
from asyncimport.model import Attachment, AttachmentBatch, AttachmentResult, AttachmentState
from asyncimport.model.events import Away, Enclosed, Event
from asyncimport.model.options import Options
from asyncimport.model.ports import Bytes
from asyncimport.pacing.outage import Outage
from asyncimport.pacing.shutdown import Stop, StoppedError

__all__ = ["InMemoryQueue", "PendingAttachments", "ResourceStore", "enclose"]

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
    """Where enclosures go."""

    async def fill(
        self, enclosure: AttachmentBatch, source: Bytes, begin: Callable[[Sequence[Attachment]], Awaitable[None]]
    ) -> list[AttachmentResult]:
        """Bring files into a resource; it may be done again at any time. `begin` is told what is about to be sent.

        Raises: TransientError when the server is away, FatalError.
        """
        ...

    async def is_there(self) -> bool:
        """Tell whether the server answers at all. Raises: FatalError."""
        ...


class InMemoryQueue:
    """Enclosures that stand in no journal: what is in the resources tells the next run what is done."""

    # As many files as one enclosure has at most.
    _MOST_FILES = 500

    def __init__(self, enclosures: Sequence[AttachmentBatch]) -> None:
        self._left = deque(enclosures)
        self._rest: dict[int, AttachmentBatch] = {}

    def claim(self) -> AttachmentBatch | None:
        """Hand out the next, or the beginning of it: the rest follows when that is filed away."""
        if not self._left:
            return None
        whole = self._left.popleft()
        if len(whole.attachments) <= self._MOST_FILES:
            return whole
        first, rest = whole.attachments[: self._MOST_FILES], whole.attachments[self._MOST_FILES :]
        self._rest[first[0].key] = AttachmentBatch(whole.resource, rest)
        return AttachmentBatch(whole.resource, first)

    def start(self, attachments: Sequence[Attachment]) -> None:
        """Note nothing: a later run knows of no earlier one."""

    def record(self, batch: AttachmentBatch, _: Sequence[AttachmentResult]) -> None:
        """Let the rest of it be handed out."""
        if (rest := self._rest.pop(batch.attachments[0].key, None)) is not None:
            self._left.append(rest)


async def enclose(
    source: Bytes,
    cabinet: ResourceStore,
    pending: PendingAttachments,
    *,
    options: Options,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Fill all resources that something waits for. Raises: FatalError."""
    stop = stop or Stop()
    turn = anyio.CapacityLimiter(1)
    outage = Outage(
        options.max_outage,
        is_there=cabinet.is_there,
        sleep=stop.sleep,
        report=lambda reason: report(Away(reason)),
    )

    async def ask(method: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(method, limiter=turn)

    async def begin(attachments: Sequence[Attachment]) -> None:
        await ask(partial(pending.start, attachments))

    async def filled(enclosure: AttachmentBatch) -> list[AttachmentResult]:
        try:
            return await outage.through(partial(cabinet.fill, enclosure, source, begin), enclosure.resource)
        except TransientError as error:
            # Others get through meanwhile.
            return [AttachmentResult(one, AttachmentState.FAILED, str(error)) for one in enclosure.attachments]

    async def work() -> None:
        while not stop.requested and (enclosure := await ask(pending.claim)) is not None:
            filed = None
            try:
                with stop.after_grace():
                    filed = await filled(enclosure)
            except StoppedError:
                pass
            if filed is None:
                return
            with anyio.CancelScope(shield=True):
                await ask(partial(pending.record, enclosure, filed))
            report(Enclosed(enclosure.resource, tuple(filed)))

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(options.enclosers):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise worst(errors) from None
