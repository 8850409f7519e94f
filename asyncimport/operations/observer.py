"""What an operation reports while it runs."""

from contextlib import AbstractAsyncContextManager, nullcontext

from asyncimport.operations.result import Result
from asyncimport.reporting.entries import Entry
from asyncimport.reporting.progress import Totals


class Observer:
    """Receives reports, on the loop. Methods must not block. These ignore everything; override what you need."""

    def note(self, entry: Entry) -> None:
        """Take note of what happened: of all events of a run, between its `RunStarted` and its `RunEnded`."""

    def tell(self, text: str) -> None:
        """Receive a message for a person."""

    def progress(self, totals: Totals) -> AbstractAsyncContextManager[None]:
        """Show totals while the block runs. They change meanwhile."""
        del totals
        return nullcontext()

    def run_ended(self, result: Result, seconds: float) -> None:
        """Receive the result of one run of a watch, and how long it took."""
