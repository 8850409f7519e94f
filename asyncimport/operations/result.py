"""What every operation returns, also after an error or a stop, what it reports, and how it runs without a loop."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import ParamSpec, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from asyncimport.errors import AsyncimportError
from asyncimport.pacing.shutdown import Stop
from asyncimport.reporting.entries import Entry
from asyncimport.reporting.progress import Totals

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Result:
    """What was done, up to an error or a stop if there was one."""

    error: AsyncimportError | None = None
    """The error that ended the operation early."""
    signal: int | None = None
    """The signal that stopped the operation early; SIGINT for a stop without a signal."""

    @property
    def exit_code(self) -> int:
        """The exit code of a process with this result: 0 if all went well."""
        if self.error is not None:
            return self.error.exit_code
        return self.findings_code if self.signal is None else 128 + self.signal

    @property
    def findings_code(self) -> int:
        """The exit code of an operation that came to its end."""
        return 0

    def raise_for_error(self) -> Self:
        """Raise the error, if there is one; else return the result."""
        if self.error is not None:
            raise self.error
        return self


@contextmanager
def captured_in(result: Result, stop: Stop) -> Iterator[None]:
    """Keep in the result an error of ours that ends the block, and a requested stop."""
    try:
        yield
    except AsyncimportError as error:
        result.error = error
    finally:
        result.signal = stop.signal if stop.requested else None


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


def run_sync(operation: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an operation on a loop in a thread of its own, and wait for its end: `run_sync(upload, request)`.

    Ctrl-C ends the wait at once. The same operation resumes the next time.
    """
    with start_blocking_portal() as portal:
        future = portal.start_task_soon(lambda: operation(*args, **kwargs))
        try:
            return future.result()
        except BaseException:
            # Otherwise the portal waits for the operation.
            future.cancel()
            raise
