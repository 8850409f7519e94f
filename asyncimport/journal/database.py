"""The SQLite file behind the journal: made, recognised, locked, and its errors translated."""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import filelock

from asyncimport.errors import JournalBusyError, JournalError, UsageError
from asyncimport.journal.disk import refuse_network_disk
from asyncimport.model import DELIVERY_TRANSITIONS, INSTANCE_TRANSITIONS

__all__ = ["NOTHING_YET", "bind", "connect_read_only", "create_or_open", "is_locked", "locked", "sql", "translated"]

# "aimp": SQLite's own way to tell one application's files from another's.
_APPLICATION_ID = 0x61696D70
_VERSION = 4

# How long a lock is tried for: `is_locked` has it for less.
_MOMENT = 0.2

NOTHING_YET = "nothing was uploaded yet, or the journal is kept elsewhere"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into JournalError, with what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and ("full" in str(error) or "disk I/O" in str(error)):
            raise JournalError(
                f"the journal {path} cannot be written: {error}",
                hint="make room on its disk, and see that the disk is sound; the same command goes on from there",
            ) from error
        raise JournalError(
            f"the journal {path} cannot be used: {error}",
            hint="check the disk; then move the journal away, or name another with --journal: files that XNAT "
            "holds already are then sent again and overwrite themselves",
        ) from error


def locked(path: Path) -> filelock.FileLock:
    """Take the journal's lock, which the system gives back when the process dies, however it dies.

    Raises: JournalBusyError when another run holds it, JournalError when it cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_network_disk(path)
        # The line opens and closes the journal from different threads.
        lock = filelock.FileLock(f"{path}.lock", mode=0o600, thread_local=False)
        lock.acquire(timeout=_MOMENT, poll_interval=_MOMENT / 10)
    except filelock.Timeout:
        raise JournalBusyError(
            f"the journal {path} is in use by another run",
            hint="wait for it to end, or see its progress with `asyncimport status`",
        ) from None
    except OSError as error:
        raise JournalError(
            f"the journal {path} cannot be made: {error.strerror}",
            hint="choose another place with --state-dir",
        ) from error
    return lock


def is_locked(path: Path) -> bool | None:
    """Tell whether a run holds the journal's lock; None where that cannot be tried, as on a disk that is read-only."""
    if not Path(f"{path}.lock").exists():
        return False
    try:
        with filelock.FileLock(f"{path}.lock", mode=0o600, blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return None


def create_or_open(path: Path) -> sqlite3.Connection:
    """Open the journal for writing, and make it, readable by its owner only, where there is none.

    Raises: JournalError when the file is not ours, of a newer version, or damaged.
    """
    with translated(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise JournalError(
                f"the journal {path} cannot be opened: {error.strerror}",
                hint="choose another place with --state-dir or --journal",
            ) from error
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # Asked of SQLite, not of the file system: a kill in the midst of making it leaves a file to roll back.
            if connection.execute("PRAGMA page_count").fetchone() == (0,):
                _create(connection)
            elif (version := _recognise(connection, path)) < _VERSION:
                _migrate(connection, version)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # In KiB. Twice as much would be a twentieth faster with a million files, and cost 20 MB of memory.
            connection.execute("PRAGMA cache_size = -8000")
            connection.executescript(sql("ephemeral.sql"))
        except BaseException:
            connection.close()
            raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a journal for reading, beside a run that writes it.

    Raises: UsageError when there is none, JournalError when it is not ours.
    """
    if not path.is_file() or not path.stat().st_size:
        raise UsageError(f"there is no journal {path}", hint=NOTHING_YET)
    with translated(path):
        try:
            connection, version = _reading(path, "mode=ro")
        except sqlite3.OperationalError as error:
            if os.access(path.parent, os.W_OK):
                raise
            # SQLite wants to make its -wal and -shm files. Where it cannot, and no run has left any, nothing changes.
            log = Path(f"{path}-wal")
            if log.exists() and log.stat().st_size:
                raise JournalError(
                    f"the journal {path} cannot be read where it is: {error}",
                    hint="its directory is read-only, and a file of it is missing; copy it with its -wal file, and "
                    "name the copy with --journal",
                ) from error
            connection, version = _reading(path, "mode=ro&immutable=1")
    if version < _VERSION:
        connection.close()
        raise JournalError(
            f"the journal {path} was written by an older version of asyncimport",
            hint="`asyncimport upload` brings it forward; it need not send anything for that",
        )
    return connection


def _reading(path: Path, how: str) -> tuple[sqlite3.Connection, int]:
    """Open a journal for reading, and return its version too."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        return connection, _recognise(connection, path)
    except BaseException:
        connection.close()
        raise


def bind(connection: sqlite3.Connection, path: Path, destination: str, rules: Mapping[str, str]) -> None:
    """Note destination and rules in a new journal, or rules in one that has forgotten them; otherwise compare them.

    Raises: JournalError for another destination, UsageError for other rules.
    """
    wanted = {"destination": destination, **{f"rule {name}": rule for name, rule in rules.items()}}
    stored = dict(connection.execute("SELECT key, value FROM about"))
    if stored.get("destination", destination) != destination:
        raise JournalError(
            f"the journal {path} belongs to {stored['destination']}, not to {destination}",
            hint="leave out --journal, or name another: each server has a journal of its own",
        )
    if stored.keys() <= {"destination"}:
        connection.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", wanted.items())
        return
    if changed := [name for name in wanted if stored.get(name) != wanted[name]]:
        was = ", ".join(f"{name.removeprefix('rule ')} {stored.get(name)!r}" for name in changed)
        raise UsageError(
            f"this journal was begun with other rules: {was}",
            hint="give the same options again; --reroute applies the new ones to what was not sent yet",
        )


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {sql('schema.sql')}")
    _set_transitions(connection)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring an older journal forward, in one transaction: a kill leaves it as it was."""
    steps = "".join(sql(f"from_{step}.sql") for step in range(version, _VERSION))
    connection.executescript(f"BEGIN IMMEDIATE; {steps}")
    _set_transitions(connection)
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _set_transitions(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM transition")
    connection.executemany("INSERT INTO transition VALUES ('instance', ?, ?)", sorted(INSTANCE_TRANSITIONS))
    connection.executemany("INSERT INTO transition VALUES ('delivery', ?, ?)", sorted(DELIVERY_TRANSITIONS))


def _recognise(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a journal."""
    version: int
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise JournalError(f"{path} is not a journal of asyncimport", hint="name another file with --journal")
    if not 1 <= version <= _VERSION:
        raise JournalError(
            f"the journal {path} is of version {version}, this program writes version {_VERSION}",
            hint="use the version of asyncimport that wrote it last",
        )
    return version


def sql(name: str) -> str:
    """Return a script of this package."""
    return files("asyncimport.journal").joinpath(name).read_text(encoding="utf-8")
