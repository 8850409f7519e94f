"""Python's garbage collector, which is in the way while a command is imported."""

import gc

# So many things more than before, and the collector looks for garbage. What is imported for an upload are 100,000, of
# which none is garbage; with Python's own 700 it takes a tenth of the time that starting takes to find that out.
_WHILE_STARTING = 200_000
_WHILE_RUNNING = 50_000


def suspend() -> None:
    """Let the collector wait until all is imported."""
    gc.set_threshold(_WHILE_STARTING)


def resume() -> None:
    """Let the collector look for garbage, if it was put off, but not among what has been imported, which stays."""
    if gc.get_threshold()[0] == _WHILE_STARTING:
        gc.freeze()
        gc.set_threshold(_WHILE_RUNNING)
