"""What a worker process of `--dask local:N` does first.

A terminal sends Ctrl-C to all processes of a command. The one that was started stops the others, when all is recorded.
"""

import signal


def dask_setup(_worker: object) -> None:
    """Ignore Ctrl-C. Dask calls it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
