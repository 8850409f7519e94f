"""The journal of one run, assembled from its parts."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Self

from asyncimport.journal.attachments import AttachmentQueue
from asyncimport.journal.connection import Connection, begin_run, end_run, tree_key
from asyncimport.journal.database import LockWait
from asyncimport.journal.deliveries import DeliveryQueue
from asyncimport.journal.existing import ExistingInstances
from asyncimport.journal.files import FileRecords, below
from asyncimport.journal.first_files import FirstFiles
from asyncimport.journal.queue import UploadQueue
from asyncimport.journal.scan import ScanWriter
from asyncimport.journal.session_state import SessionState
from asyncimport.journal.sessions import Sessions
from asyncimport.journal.subjects import SubjectQueue
from asyncimport.routing.accepted_patients import NOBODY, AcceptedPatients


class Journal:
    """The durable queue of one run. What the methods of its parts return is committed.

    Use it as a context manager, or call `close()`. Call it from one thread at a time. `run` is the key of this run,
    `began_at` its beginning in seconds since 1970, `source` the source of prearchive rows of this journal.

    `relabel` applies other rules to what is not archived. `allow_mixed_patients` lets several patients share a subject;
    `accepted` are pairs of people that are one. `is_planned`: labels were decided for whole studies, so they are not
    those that the rules give each file. A journal that `is_temporary` is never synced. Raises from every method, and
    from those of its parts: JournalError.
    """

    def __init__(
        self,
        path: Path,
        *,
        destination: str,
        rules: Mapping[str, str],
        relabel: bool = False,
        allow_mixed_patients: bool = False,
        accepted: AcceptedPatients = NOBODY,
        is_planned: bool = False,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        lock_wait: LockWait | None = None,
        is_temporary: bool = False,
    ) -> None:
        self.path = path
        self.connection = connection = Connection(
            path, clock=clock, ticks=ticks, lock_wait=lock_wait, is_temporary=is_temporary
        )
        try:
            run = begin_run(connection, destination=destination, rules=rules, relabel=relabel)
        except BaseException:
            connection.close()
            raise
        self.run, self.began_at, self.source = run.key, run.began_at, run.source
        self._leased_until = 0.0 if is_temporary else run.leased_until
        self.state = SessionState(connection, run)
        self.sessions = Sessions(
            connection,
            self.state,
            allow_mixed_patients=allow_mixed_patients,
            accepted=accepted,
            is_planned=is_planned,
        )
        first_files = FirstFiles(connection.ticks)
        self.existing = ExistingInstances(connection, first_files)
        files = FileRecords(connection, run, self.state)
        self.scan = ScanWriter(connection, run, self.state, self.sessions, self.existing, files)
        self.queue = UploadQueue(connection, run, self.state, self.existing, files, first_files)
        self.deliveries = DeliveryQueue(connection, run, self.state)
        self.attachments = AttachmentQueue(connection, run, files, self.state)
        self.subjects = SubjectQueue(connection, run)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def leased_seconds(self) -> float:
        """How much longer workers of an earlier run may be sending."""
        return max(0.0, self._leased_until - self.connection.ticks())

    def close(self) -> None:
        """Close the file and release the lock."""
        self.connection.close()

    def end_run(self, exit_code: int) -> None:
        """Note how the run ended. Files that it handed out without an outcome may still take effect."""
        end_run(self.connection, self.run, exit_code)

    def describe_run(self, about: Mapping[str, object]) -> None:
        """Note what the run was asked to do, for reports; `about` holds no secret."""
        with self.connection.transaction():
            self.connection.db.execute("UPDATE run SET about = ? WHERE key = ?", (json.dumps(about), self.run))

    def has_trees(self) -> bool:
        """Whether runs on workers have filled this journal, which may see files that this machine does not."""
        return self.connection.exists("SELECT 1 FROM metadata WHERE key LIKE 'tree %'", ())

    def note_trees(self, place: str, seen: Collection[str], here: str) -> bool:
        """Note which trees of files the machines of a run see at a place; whether they are all that there ever were.

        A tree is named by `TreeIdentity.lasting`; `here` is that of this machine ("" for none), which has filled the
        journal if no trees are noted.
        """
        key = tree_key(os.fsencode(place))
        with self.connection.transaction():
            db = self.connection.db
            rows = db.execute("SELECT key FROM metadata WHERE substr(key, 1, ?) = ?", (len(key), key))
            known = {row[0].removeprefix(key) for row in rows}
            if not known and self.connection.exists("SELECT 1 FROM file WHERE path >= ? AND path < ?", below(place)):
                known = {here}
            db.executemany(
                "INSERT OR IGNORE INTO metadata VALUES (?, '')", [(f"{key}{tree}",) for tree in known | set(seen)]
            )
        return known <= set(seen)

    def note_alias(self, name: str) -> None:
        """Note another name of this journal's project, by which it can be found."""
        with self.connection.transaction():
            self.connection.db.execute("INSERT OR REPLACE INTO metadata VALUES (?, '')", (f"alias {name}",))
