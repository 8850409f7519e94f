"""The command line: parse, call, write, exit. The commands are thin; what they do is elsewhere."""

from asyncimport.system.collector import suspend

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    suspend()
    from asyncimport.cli.app import main as run

    run()
