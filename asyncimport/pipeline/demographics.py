"""The pipeline of demographics: set the fields of subjects with archived sessions, from a table and from headers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio.to_thread

from asyncimport.demographics.headers import agreed_values, header_fields, header_values
from asyncimport.demographics.table import Demographics, fill_gaps
from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError, TransientError
from asyncimport.journal import DueSubject, Journal, SessionHeaders
from asyncimport.model.events import Event, Notice
from asyncimport.model.files import File, Ignored, Session
from asyncimport.model.options import Options
from asyncimport.model.record import record
from asyncimport.model.summary import SubjectReport
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.pipeline.worker_pool import Done, WorkerPool

if TYPE_CHECKING:
    from asyncimport.xnat.subjects import SubjectUpdated

_CONTRADICTION = "the headers of its files contradict each other, and it was not set"


class HeaderSource(Protocol):
    """Where the headers of files are read."""

    def identify(self, file: File) -> Identity | Ignored:
        """Read the header of a file; called in a worker thread."""


class SubjectStore(Protocol):
    """Where demographics go."""

    async def update(self, demographics: Demographics, /) -> "SubjectUpdated":
        """Give a subject these values, and check them. Raises: TransientError, RefusedError, FatalError."""

    async def find_moved(self, sessions: Sequence[Session], /) -> str:
        """Say which session the archive has under another subject; "" if none. Raises: as `update`."""

    async def ping(self) -> bool:
        """Return whether the server answers at all. Raises: FatalError."""


@record
class DemographicsRequest:
    """Which fields of subjects to set: those of a table, and those of headers (XNAT's names) that it leaves open.

    With `overwrite`, other values in XNAT are replaced.
    """

    table: Sequence[Demographics] = ()
    from_headers: Sequence[str] = ()
    overwrite: bool = False


async def update_subjects(
    source: HeaderSource,
    store: SubjectStore,
    journal: Journal,
    request: DemographicsRequest,
    *,
    options: Options,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Set the demographics of all subjects with archived sessions. Raises: FatalError."""
    pool = WorkerPool(store.ping, options=options, report=report, stop=stop)
    due = iter(await pool.call_journal(journal.subjects.due_subjects))
    await pool.run(lambda: next(due, None), _Updates(source, store, journal, request, pool).update)


@record
class _Values:
    """What a subject is to get: all its values, and the names of those that headers gave.

    Headers contradict each other in the fields of `contradictory`, which nothing else gives: they are not set.
    """

    subject: Demographics
    from_headers: Sequence[str]
    contradictory: Sequence[str]


class _Updates:
    """The updates of subjects, one call of `update` each."""

    def __init__(
        self,
        source: HeaderSource,
        store: SubjectStore,
        journal: Journal,
        request: DemographicsRequest,
        pool: WorkerPool,
    ) -> None:
        self._source = source
        self._store = store
        self._journal = journal
        self._pool = pool
        self._overwrite = request.overwrite
        self._table = {(row.project, row.subject.casefold()): row for row in request.table}
        self._wanted = header_fields(request.from_headers)

    async def update(self, due: DueSubject) -> Done | None:
        """Give a subject its values; None if nothing is to be recorded. Raises: FatalError, StoppedError."""
        wanted = await self._values_of(due)
        values, contradictory = wanted.subject.values, wanted.contradictory
        is_known = due.stored_fields == values
        if not contradictory and (not values or (is_known and not self._overwrite)):
            return None
        result = await self._send(due, wanted)
        if not contradictory and is_known and (result.kept, result.written) == (due.kept, ()):
            # Nothing has changed since an earlier run.
            return None
        in_archive: Mapping[str, str] = {}
        if result.state == "stored":
            in_archive = {name: value for name, value in values.items() if name not in result.kept}
            if contradictory:
                result = replace(result, state="refused", reason=f"{_CONTRADICTION}: {', '.join(contradictory)}")
        return Done(partial(self._journal.subjects.record, result, values, in_archive), result)

    async def _values_of(self, due: DueSubject) -> _Values:
        """Return the values of the table, and those of headers where it has none. Raises: StoppedError."""
        found: Mapping[str, str] = {}
        contradicted: Sequence[str] = ()
        with self._pool.stop.immediate_scope():
            if self._wanted:
                found, contradicted = await self._read_headers(due)
        if self._pool.stop.requested:
            raise StoppedError
        row = self._table.get((due.project, due.subject.casefold()))
        own = Demographics(due.subject, {} if row is None else row.values, due.project)
        subject = fill_gaps(own, found)
        gaps = fill_gaps(own, dict.fromkeys(contradicted, ""))
        return _Values(
            subject,
            from_headers=[name for name in subject.values if name not in own.values],
            contradictory=[name for name in gaps.values if name not in own.values],
        )

    async def _read_headers(self, due: DueSubject) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the values that the headers of all sessions agree on, and the fields in which they differ."""
        wanted, journal = self._wanted, self._journal
        known = await self._pool.call_journal(partial(journal.subjects.headers_of, due, wanted))
        read = await anyio.to_thread.run_sync(_read, self._source, known, wanted, journal.run, abandon_on_cancel=True)
        if read != known:
            await self._pool.call_journal(partial(journal.subjects.record_headers, read))
        return agreed_values({name: {value for one in read for value in one.values[name]} for name in wanted}, wanted)

    async def _send(self, due: DueSubject, wanted: _Values) -> SubjectReport:
        subject = wanted.subject
        result = partial(SubjectReport, subject.project, subject.subject)
        if not subject.values:
            return result("stored")
        try:
            if wanted.from_headers:
                # Somebody may have found that a session is of another subject, and its headers are then too.
                sessions = await self._pool.call_journal(partial(self._journal.subjects.sessions_of, due))
                moved = await self._pool.outage.call(partial(self._store.find_moved, sessions), subject.subject)
                if moved:
                    return result("refused", reason=moved)
            updated = await self._pool.outage.call(partial(self._store.update, subject), subject.subject)
        except RefusedError as error:
            return result("refused", reason=str(error))
        except TransientError as error:
            return result("failed", reason=str(error))
        if updated.alike:
            labels = ", ".join(updated.alike)
            self._pool.report(
                Notice(f"XNAT ignores letter case when it archives, and has several subjects of one label: {labels}")
            )
        kept = tuple(dict.fromkeys(one.name for one in updated.kept))
        arrived = tuple(name for name in wanted.from_headers if name in updated.written)
        return result("stored", written=updated.written, kept=kept, taken=arrived)


def rows_without_session(journal: Journal, request: DemographicsRequest) -> list[Demographics]:
    """Return the rows of the table whose subjects have no session in this run, and were not set by an earlier one."""
    if not request.table:
        return []
    reached, stored = journal.subjects.reached_subjects(), journal.subjects.stored_fields()
    keys = [(row.project, row.subject.casefold()) for row in request.table]
    return [
        row
        for key, row in zip(keys, request.table, strict=True)
        if key not in reached and not row.values.items() <= stored.get(key, {}).items()
    ]


def _read(
    source: HeaderSource, sessions: Sequence[SessionHeaders], wanted: Sequence[str], run: int
) -> list[SessionHeaders]:
    """Add the values of new files to their sessions.

    Where a file cannot be read, or is another one by now, the next run reads them again.
    """
    read = []
    for session in sessions:
        # The keys of a dict are an ordered set.
        values = {name: dict.fromkeys(known) for name, known in session.values.items()}
        is_complete = True
        for sop_uid, file in session.files:
            identity = source.identify(file)
            # Another patient's file may lie there by now.
            if isinstance(identity, Identity) and identity.sop_uid == sop_uid:
                for name, value in header_values(identity.fields, wanted).items():
                    values[name][value] = None
            else:
                is_complete = False
        session = replace(session, values={name: [*one] for name, one in values.items()})
        if is_complete:
            session = replace(session, run=run, files_read=session.files_read + len(session.files))
        read.append(session)
    return read
