"""The command line: parse, call an operation, write its result, exit."""

import sys

from asyncimport.system.collector import suspend

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    suspend()
    try:
        from asyncimport.cli.app import main as run
    except KeyboardInterrupt:
        # Ctrl-C before anything was done.
        sys.exit(130)

    run()
