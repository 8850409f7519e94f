"""The command line: parse, call an operation, write its result, exit."""

from asyncimport.system.collector import suspend

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    suspend()
    from asyncimport.cli.app import main as run

    run()
