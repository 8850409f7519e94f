"""What an operation tells while it runs."""

from contextlib import AbstractAsyncContextManager, nullcontext

from asyncimport.operations.result import Result
from asyncimport.reporting.entries import Entry
from asyncimport.reporting.progress import Totals


class Observer:
    """Is told of what happens, on the loop, and must not block. This one takes no notice; override what you need."""

    def note(self, entry: Entry) -> None:
        """Take note of what happened: of all events of a run, between its `RunStarted` and its `RunEnded`."""

    def tell(self, text: str) -> None:
        """Take note of what a person should know."""

    def progress(self, totals: Totals) -> AbstractAsyncContextManager[None]:
        """Show totals, which change, while the block runs."""
        del totals
        return nullcontext()

    def run_ended(self, result: Result, seconds: float) -> None:
        """Take note of a run of a watch, which took so many seconds."""
