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
from asyncimport.model.files import File, Ignored
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
    table = {(row.project, row.subject.casefold()): row for row in request.table}
    wanted = header_fields(request.from_headers)
    due = iter(await pool.call_journal(journal.subjects.due_subjects))

    async def send(values: Demographics, header_names: Sequence[str]) -> SubjectReport:
        result = partial(SubjectReport, values.project, values.subject)
        if not values.values:
            return result("stored")
        try:
            updated = await pool.outage.call(partial(store.update, values), values.subject)
        except RefusedError as error:
            return result("refused", reason=str(error))
        except TransientError as error:
            return result("failed", reason=str(error))
        if updated.alike:
            labels = ", ".join(updated.alike)
            report(
                Notice(f"XNAT ignores letter case when it archives, and has several subjects of one label: {labels}")
            )
        kept = tuple(dict.fromkeys(one.name for one in updated.kept))
        arrived = tuple(name for name in header_names if name in updated.written)
        return result("stored", written=updated.written, kept=kept, taken=arrived)

    async def read_headers(subject: DueSubject) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the values that the headers of all sessions agree on, and the fields in which they differ."""
        known = await pool.call_journal(partial(journal.subjects.headers_of, subject, wanted))
        read = await anyio.to_thread.run_sync(_read, source, known, wanted, journal.run, abandon_on_cancel=True)
        if read != known:
            await pool.call_journal(partial(journal.subjects.record_headers, read))
        return agreed_values({name: {value for one in read for value in one.values[name]} for name in wanted}, wanted)

    async def update(subject: DueSubject) -> Done | None:
        found: Mapping[str, str] = {}
        contradictory: Sequence[str] = ()
        with pool.stop.immediate_scope():
            if wanted:
                found, contradictory = await read_headers(subject)
        if pool.stop.requested:
            raise StoppedError
        row = table.get((subject.project, subject.subject.casefold()))
        own = Demographics(subject.subject, {} if row is None else row.values, subject.project)
        values = fill_gaps(own, found)
        gaps = fill_gaps(own, dict.fromkeys(contradictory, "")).values
        contradictory = [name for name in gaps if name not in own.values]
        is_known = subject.stored_fields == values.values
        if not contradictory and (not values.values or (is_known and not request.overwrite)):
            return None
        result = await send(values, [name for name in values.values if name not in own.values])
        if not contradictory and is_known and (result.kept, result.written) == (subject.kept, ()):
            # Nothing has changed since an earlier run.
            return None
        in_archive: Mapping[str, str] = {}
        if result.state == "stored":
            in_archive = {name: value for name, value in values.values.items() if name not in result.kept}
            if contradictory:
                result = replace(result, state="refused", reason=f"{_CONTRADICTION}: {', '.join(contradictory)}")
        return Done(partial(journal.subjects.record, result, values.values, in_archive), result)

    await pool.run(lambda: next(due, None), update)


def rows_without_session(journal: Journal, request: DemographicsRequest) -> list[Demographics]:
    """Return the rows of the table whose subjects have no session in the journal."""
    known = journal.subjects.known_subjects() if request.table else set()
    return [row for row in request.table if (row.project, row.subject.casefold()) not in known]


def _read(
    source: HeaderSource, sessions: Sequence[SessionHeaders], wanted: Sequence[str], run: int
) -> list[SessionHeaders]:
    """Add the values of new files to their sessions; where a file cannot be read, the next run reads them again."""
    read = []
    for session in sessions:
        # The keys of a dict are an ordered set.
        values = {name: dict.fromkeys(known) for name, known in session.values.items()}
        is_complete = True
        for file in session.files:
            identity = source.identify(file)
            if isinstance(identity, Identity):
                for name, value in header_values(identity.fields, wanted).items():
                    values[name][value] = None
            else:
                is_complete = False
        session = replace(session, values={name: [*one] for name, one in values.items()})
        if is_complete:
            session = replace(session, run=run, files_read=session.files_read + len(session.files))
        read.append(session)
    return read
