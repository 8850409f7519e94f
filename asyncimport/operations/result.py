"""What every operation returns, also after an error or a stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from asyncimport.errors import AsyncimportError
from asyncimport.pacing.shutdown import Stop


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
def ended_in(result: Result, stop: Stop) -> Iterator[None]:
    """Keep in the result an error of ours that ends the block, and a requested stop."""
    try:
        yield
    except AsyncimportError as error:
        result.error = error
    finally:
        result.signal = stop.signal if stop.requested else None
