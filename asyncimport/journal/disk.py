"""The disk of a journal: it must be local to this machine."""

from collections.abc import Iterable
from pathlib import Path

from asyncimport.errors import JournalError
from asyncimport.system.mounts import Mount, network_disk


def refuse_network_disk(path: Path, mounts: Iterable[Mount] | None = None) -> None:
    """Refuse a journal on a file system that machines share; accept an unknown type.

    SQLite keeps the index of its log in shared memory, which two machines do not share, and locks files, which many
    network file systems only pretend to do. `mounts` are those of this machine by default.
    Raises: JournalError.
    """
    if kind := network_disk(path, mounts):
        raise JournalError(
            f"the journal {path} would lie on a network file system ({kind})",
            hint="choose a local disk with --state-dir",
        )
