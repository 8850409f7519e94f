"""What every operation returns, however it ended."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from asyncimport.errors import AsyncimportError
from asyncimport.pacing.shutdown import Stop


@dataclass(slots=True, kw_only=True)
class Result:
    """What was done, also by an operation that failed or was stopped: then it is what was done before."""

    error: AsyncimportError | None = None
    """What ended the operation before its time."""
    signal: int | None = None
    """The signal that stopped the operation, or SIGINT where something else did: it may not have come to all."""

    @property
    def exit_code(self) -> int:
        """Return what a process would end with: 0 if all went well."""
        if self.error is not None:
            return self.error.exit_code
        return self.findings_code if self.signal is None else 128 + self.signal

    @property
    def findings_code(self) -> int:
        """Return the exit code of what was found, where nothing ended the operation before its time."""
        return 0

    def raise_for_error(self) -> Self:
        """Raise what ended the operation, if anything did; else return the result."""
        if self.error is not None:
            raise self.error
        return self


@contextmanager
def ended_in(result: Result, stop: Stop) -> Iterator[None]:
    """Keep in the result what ends the block: an error of ours, or that it was asked to stop."""
    try:
        yield
    except AsyncimportError as error:
        result.error = error
    finally:
        result.signal = stop.signal if stop.requested else None
