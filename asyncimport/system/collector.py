"""Python's garbage collector, which slows the start of a command."""

import gc

# Objects created since the last collection that start another one. The imports of an upload create 100,000, none of
# them garbage; with Python's own 700, checking that takes a tenth of the start.
_WHILE_STARTING = 200_000
_WHILE_RUNNING = 50_000
# What comes from a cluster is garbage in cycles: with as many as above, 20 MB of it would wait to be collected.
_WITH_CLUSTER = 5_000


def suspend() -> None:
    """Keep the collector from running while modules are imported."""
    gc.set_threshold(_WHILE_STARTING)


def resume() -> None:
    """Let the collector run if it was suspended, except on what has been imported, which stays."""
    if gc.get_threshold()[0] == _WHILE_STARTING:
        gc.freeze()
        gc.set_threshold(_WHILE_RUNNING)


def run_often() -> None:
    """Let the collector run more often if `resume` has been called, except on what has been imported since."""
    if gc.get_threshold()[0] == _WHILE_RUNNING:
        gc.freeze()
        gc.set_threshold(_WITH_CLUSTER)
