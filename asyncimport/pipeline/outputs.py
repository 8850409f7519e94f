"""What the upload stage passes to the others: outcomes, and signals that wake them."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from asyncimport.model.deliveries import Outcome
from asyncimport.model.record import record
from asyncimport.pipeline.context import Signal, notify

Outcomes = Sequence[Outcome]
"""Some outcomes that came together: a worker of a cluster tells many at once."""


@record
class UploadOutputs:
    """The streams that the upload stage writes into; `with` closes them at its end.

    `outcomes` go to the recorder, and `flush` ends its pause between two transactions. `wake_feed` says that there may
    be other files to hand out, `wake_finalizers` that sessions may be ready.
    """

    outcomes: MemoryObjectSendStream[Outcomes]
    flush: Signal
    wake_feed: Signal
    wake_finalizers: Signal

    def clone(self) -> "UploadOutputs":
        """Return the same for one more task: a stream ends when all its clones are closed."""
        return UploadOutputs(
            self.outcomes.clone(), self.flush.clone(), self.wake_feed.clone(), self.wake_finalizers.clone()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.outcomes, self.flush, self.wake_feed, self.wake_finalizers):
            stream.close()

    async def record(self, outcomes: Outcomes) -> None:
        """Pass outcomes to the recorder, even if this task is cancelled meanwhile: XNAT has the files."""
        if not outcomes:
            return
        try:
            self.outcomes.send_nowait(outcomes)
        except anyio.BrokenResourceError:
            pass
        except anyio.WouldBlock:
            notify(self.flush)
            with suppress(anyio.BrokenResourceError), anyio.CancelScope(shield=True):
                await self.outcomes.send(outcomes)
