"""The SQLite file of a journal: how it is created, recognised and locked, its views, and what its errors mean."""

import errno
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic
from typing import TypeVar

import filelock

from asyncimport.errors import JournalBusyError, JournalError, UsageError
from asyncimport.model.record import record
from asyncimport.model.states import DELIVERY_TRANSITIONS, INSTANCE_TRANSITIONS
from asyncimport.pacing.shutdown import StoppedError
from asyncimport.system.mounts import Mount, network_disk
from asyncimport.system.output_files import UntrustedError, check_directory, check_trusted, real_path

T = TypeVar("T")

# "aimj": SQLite's own way to tell one application's files from another's. Unreleased versions wrote "aimp".
_APPLICATION_ID = 0x61696D6A
_UNRELEASED_ID = 0x61696D70
_VERSION = 1

# How long to try for the lock; `is_locked` holds it for less.
_LOCK_SECONDS = 1.0
# How long SQLite itself waits for another program's lock; then `LockWait` reports the wait.
BUSY_SECONDS = 1.0
_ELSEWHERE = "choose another place with --state-dir or --journal"
# A reader does not wait for writers, but for the recovery of a journal after a kill.
_READER_SECONDS = 60.0

NOTHING_YET = "nothing was uploaded yet, or the journal is kept elsewhere"


@contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into JournalError, with a hint."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if is_busy(error):
            raise JournalError(
                f"another program holds a lock on the journal {path}",
                hint="let it end (a backup, say), and run the same command again: nothing is lost",
            ) from error
        if isinstance(error, sqlite3.OperationalError) and ("full" in str(error) or "disk I/O" in str(error)):
            raise JournalError(
                f"the journal {path} cannot be written: {error}",
                hint="make room on its disk, and see that the disk is sound; the same command goes on from there",
            ) from error
        raise JournalError(
            f"the journal {path} cannot be used: {error}",
            hint=f"check the disk, and restore the journal from a backup; `sqlite3 {path} .recover` reads what is left",
        ) from error


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another program's lock caused an error."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@record
class LockWait:
    """How long to wait for another program's lock, reported once; a stop ends it at `deadline` (monotonic clock)."""

    seconds: float = 600.0
    report: Callable[[str], None] = lambda _: None
    deadline: Callable[[], float] = lambda: inf

    def until_free(self, path: Path, call: Callable[[], T]) -> T:
        """Repeat a call while the journal is locked. Raises: sqlite3.OperationalError in the end, StoppedError."""
        until = monotonic() + self.seconds
        is_reported = False
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if not is_busy(error) or monotonic() > until:
                    raise
                if monotonic() > self.deadline():
                    raise StoppedError from None
            if not is_reported:
                is_reported = True
                self.report(f"another program (a backup, say) holds a lock on the journal {path}: waiting for it")


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path, lock_wait: LockWait) -> Iterator[None]:
    """Commit all that the block does, or nothing. Raises: JournalError."""
    with journal_errors(path):
        lock_wait.until_free(path, partial(connection.execute, "BEGIN IMMEDIATE"))
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # After a disk error SQLite may have rolled back already; a second rollback would hide that error.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _trusted_path(path: Path) -> Path:
    """Return the one path of a journal without links, if only its owner can write there. Raises: JournalError."""
    try:
        real = real_path(path)
        check_directory(real.parent)
        check_trusted(real)
        for suffix in ("-wal", "-shm", "-journal", ".lock"):
            place = real.with_name(f"{real.name}{suffix}")
            if place.is_symlink():
                hint = f"see where it leads: ls -l {place}"
                raise UntrustedError("a file next to it is a link", os.fspath(place), hint)
            check_trusted(place)
    except OSError as error:
        raise _refusal(path, "opened", error, _ELSEWHERE) from error
    return real


def _refusal(path: Path, problem: str, error: OSError, hint: str) -> JournalError:
    if isinstance(error, UntrustedError):
        where = "" if error.filename == os.fspath(path) else f" ({error.filename})"
        return JournalError(f"the journal {path} is not used: {error.strerror}{where}", hint=error.hint)
    return JournalError(f"the journal {path} cannot be {problem}: {error.strerror}", hint=hint)


def refuse_network_disk(path: Path, mounts: Iterable[Mount] | None = None) -> None:
    """Refuse a journal on a file system that machines share; accept an unknown type.

    SQLite keeps the index of its log in shared memory, which two machines do not share, and locks files, which many
    network file systems only pretend to do. `mounts` are by default those of this machine. Raises: JournalError.
    """
    if kind := network_disk(path, mounts):
        raise JournalError(
            f"the journal {path} would lie on a network file system ({kind})",
            hint="choose a local disk with --state-dir",
        )


def locked(path: Path) -> filelock.FileLock:
    """Take the journal's lock until the process ends. Raises: JournalBusyError (another run), JournalError."""
    try:
        real_path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_network_disk(path)
        real = _trusted_path(path)
        # The pipeline opens and closes the journal from different threads.
        lock = filelock.FileLock(f"{real}.lock", mode=0o600, thread_local=False)
        lock.acquire(timeout=_LOCK_SECONDS, poll_interval=_LOCK_SECONDS / 10)
    except filelock.Timeout:
        raise JournalBusyError(
            f"the journal {path} is in use by another run",
            hint="wait for it to end, or see its progress with `asyncimport status`",
        ) from None
    except OSError as error:
        raise _refusal(path, "made", error, "choose another place with --state-dir") from error
    return lock


def is_locked(path: Path) -> bool | None:
    """Whether a run holds the journal's lock; None if unknown, as on a read-only disk."""
    try:
        lock = Path(f"{real_path(path)}.lock")
        if not lock.exists():
            return False
        with filelock.FileLock(lock, mode=0o600, blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return None


def make_private(path: Path) -> None:
    """Create an empty file for its owner only, if there is none. Raises: OSError when it cannot be written to."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    # Not by opening it: closing it would release this process's locks on it.
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))


def create_or_open(path: Path, lock_wait: LockWait | None = None) -> sqlite3.Connection:
    """Open the journal for writing; create it, readable by its owner only, if it is missing. Raises: JournalError."""
    real = _trusted_path(path)
    try:
        make_private(real)
    except OSError as error:
        raise _refusal(path, "opened", error, _ELSEWHERE) from error
    with journal_errors(path):
        return (lock_wait or LockWait()).until_free(path, partial(_opened, path, real))


def _opened(path: Path, real: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(real, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
    try:
        # Ask SQLite, not the file system: a kill while it is created leaves a file to roll back.
        if connection.execute("PRAGMA page_count").fetchone() == (0,):
            _create(connection)
        else:
            _check_version(connection, path)
            _add_what_reports_need(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # In KiB. Twice as much is 5 % faster with a million files, and costs 20 MB of memory.
        connection.execute("PRAGMA cache_size = -8000")
        connection.executescript(read_script("temp_tables.sql"))
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a journal for reading, while a run may write it. Raises: UsageError if there is none, JournalError."""
    if not path.is_file() or not path.stat().st_size:
        raise UsageError(f"there is no journal {path}", hint=NOTHING_YET)
    real = _trusted_path(path)
    with journal_errors(path):
        try:
            return _open_read_only(path, real, "mode=ro")
        except sqlite3.OperationalError as error:
            if os.access(real.parent, os.W_OK):
                raise
            # SQLite cannot create its -wal and -shm files here. Without a log to read it needs none.
            log = Path(f"{real}-wal")
            if log.exists() and log.stat().st_size:
                raise JournalError(
                    f"the journal {path} cannot be read where it is: {error}",
                    hint="its directory is read-only; copy it with its -wal file, and name the copy with --journal",
                ) from error
            return _open_read_only(path, real, "mode=ro&immutable=1")


def copy_journal(path: Path, into: Path) -> None:
    """Copy a journal as it is now, while a run may write it, if there is one. Raises: JournalError."""
    if not path.exists() or not path.stat().st_size:
        return
    make_private(into)
    with closing(connect_read_only(path)) as source, closing(sqlite3.connect(into)) as copy, journal_errors(path):
        source.backup(copy)


def _open_read_only(path: Path, real: Path, how: str) -> sqlite3.Connection:
    uri = f"{real.absolute().as_uri()}?{how}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_READER_SECONDS)
    try:
        _check_version(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {read_script('schema.sql')}")
    connection.executemany("INSERT INTO transition VALUES ('instance', ?, ?)", sorted(INSTANCE_TRANSITIONS))
    connection.executemany("INSERT INTO transition VALUES ('delivery', ?, ?)", sorted(DELIVERY_TRANSITIONS))
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def has_what_reports_need(connection: sqlite3.Connection) -> bool:
    """Whether a journal has the table and the columns that reports alone read: earlier versions made none."""
    return has_table(connection, "activity")


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a journal has this table."""
    return connection.execute("SELECT 1 FROM main.sqlite_schema WHERE name = ?", (name,)).fetchone() is not None


def _add_what_reports_need(connection: sqlite3.Connection) -> None:
    """Add them to the journal of an earlier version, which can still use it then."""
    if not has_what_reports_need(connection):
        connection.executescript(
            "BEGIN IMMEDIATE; ALTER TABLE run ADD COLUMN about TEXT; ALTER TABLE session ADD COLUMN study_date TEXT; "
            f"{_table('activity')} COMMIT"
        )
    if not has_table(connection, "worker"):
        connection.execute(_table("worker"))


def _table(name: str) -> str:
    """Return the statement that creates a table."""
    found = re.search(rf"CREATE TABLE {name} .*?;", read_script("schema.sql"), re.DOTALL)
    assert found is not None  # noqa: S101 - it is a file of ours
    return found[0]


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == _UNRELEASED_ID:
        raise JournalError(
            f"the journal {path} was written by an unreleased version of asyncimport",
            hint="move it away, or name another with --journal: what XNAT holds is found there and not sent again",
        )
    if application != _APPLICATION_ID:
        raise JournalError(f"{path} is not a journal of asyncimport", hint="name another file with --journal")
    if version != _VERSION:
        raise JournalError(
            f"the journal {path} is of version {version}, this program writes version {_VERSION}",
            hint="use the version of asyncimport that wrote it last",
        )


def read_script(name: str) -> str:
    """Return an SQL script of this package."""
    # `importlib.resources` would take 5 ms of each start.
    return Path(__file__).with_name(name).read_text("utf-8")


# SQLite looks names up among temporary tables first, so every query sees only this part.
_VIEWS = {
    "session": "project = (SELECT project FROM temp.shown_project)",
    "delivery": "session IN (SELECT key FROM temp.session)",
    "instance": "session IN (SELECT key FROM temp.session)",
    "attachment": "session IN (SELECT key FROM temp.session)",
    "file": "instance IN (SELECT key FROM temp.instance) OR missing_from IN (SELECT key FROM temp.session) "
    "OR key IN (SELECT file FROM temp.instance UNION SELECT file FROM temp.attachment)",
    "subject_demographics": "project = (SELECT project FROM temp.shown_project)",
}


def show_only_project(connection: sqlite3.Connection, project: str) -> None:
    """Let a connection see only one project, read-only, until `show_all_projects`."""
    connection.execute("CREATE TEMP TABLE shown_project (project TEXT)")
    connection.execute("INSERT INTO shown_project VALUES (?)", (project,))
    for name, condition in _VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name} WHERE {condition}")  # noqa: S608 - fixed text


def show_all_projects(connection: sqlite3.Connection) -> None:
    """Let a connection see everything again."""
    for name in _VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS temp.{name}")
