"""`asyncimport upload --watch`: run after run over a drop directory, until it is stopped."""

import time

from rich.console import Console
from rich.text import Text

from asyncimport.cli.transfer import Transfer, transfer
from asyncimport.errors import UnavailableError

__all__ = ["watch_source"]

# A run that comes to its end, with whatever was wrong with some of its files; a server that is away comes back.
_GOES_ON = frozenset({0, 8, 9, UnavailableError.exit_code})


def watch_source(task: Transfer, out: Console, err: Console, *, as_json: bool, quiet: bool) -> int:
    """Run, pause, run again; return the exit code of the run that was stopped, or could not go on.

    Each run tells its summary, and takes up what the one before could not send.
    """
    pause = task.watch or 0.0
    try:
        while (code := transfer(task, out, err, as_json=as_json, quiet=quiet, empty_is_fine=True)) in _GOES_ON:
            if not quiet:
                err.print(Text(f"looking again in {pause:.0f} s; Ctrl-C stops"))
            time.sleep(pause)
    except KeyboardInterrupt:
        return 130
    return code
