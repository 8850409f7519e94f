"""What is said of subjects in an upload: of those whose sessions are archived, from a table and from headers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from asyncimport.demographics import (
    Demographics,
    Difference,
    agreed_values,
    fill_gaps,
    header_fields,
    header_values,
)
from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError, TransientError, primary_error
from asyncimport.journal import DueSubject, Journal, SessionHeaders
from asyncimport.model import File, Ignored, SubjectReport
from asyncimport.model.events import Event, Notice, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.pacing.outage import Outage
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.xnat.subjects import SubjectUpdated

_CONTRADICTION = "the headers of its files contradict each other, and it was not set"


class Headers(Protocol):
    """Files whose headers can be looked into."""

    def identify(self, file: File) -> Identity | Ignored:
        """Look into a file; called in a worker thread."""
        ...


class SubjectStore(Protocol):
    """Where demographics go."""

    async def update(self, wish: Demographics) -> SubjectUpdated:
        """Bring a subject to the given values, and see that they have arrived.

        Raises: TransientError, RefusedError, FatalError.
        """
        ...

    async def ping(self) -> bool:
        """Tell whether the server answers at all. Raises: FatalError."""
        ...


@dataclass(frozen=True, slots=True)
class DemographicsRequest:
    """What is to be said: of subjects, by a table, and for what that leaves open, by headers (XNAT's names of fields).

    `overwrite` says it also where XNAT has other values.
    """

    table: Sequence[Demographics] = ()
    from_headers: Sequence[str] = ()
    overwrite: bool = False


async def describe_subjects(
    headers: Headers,
    register: SubjectStore,
    journal: Journal,
    demographics: DemographicsRequest,
    *,
    options: Options,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Say what is to be said of all subjects with archived sessions. Raises: FatalError."""
    stop = stop or Stop()
    turn = anyio.CapacityLimiter(1)
    outage = Outage(
        options.outage_timeout,
        ping=register.ping,
        sleep=stop.sleep,
        report=lambda reason: report(ServerUnavailable(reason)),
    )
    table = {(row.project, row.subject.casefold()): row for row in demographics.table}
    wanted = header_fields(demographics.from_headers)
    due = iter(await anyio.to_thread.run_sync(journal.subjects.due_subjects))

    async def told(wish: Demographics, taken: Sequence[str]) -> SubjectReport:
        reported = partial(SubjectReport, wish.project, wish.subject)
        try:
            done = await outage.call(partial(register.update, wish), wish.subject)
        except RefusedError as error:
            return reported("refused", reason=str(error))
        except TransientError as error:
            return reported("failed", reason=str(error))
        if done.alike:
            report(
                Notice(f"XNAT ignores letter case where it archives, and has several of it: ({', '.join(done.alike)})")
            )
        arrived = tuple(one for one in taken if one in done.written)
        return reported("stored", written=done.written, kept=_names(done.kept), taken=arrived)

    async def heard(subject: DueSubject) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return what the headers of all sessions agree on, and the fields in which they do not."""
        known = await anyio.to_thread.run_sync(journal.subjects.headers_of, subject, wanted, limiter=turn)
        read = await anyio.to_thread.run_sync(_read, headers, known, wanted, journal.run, abandon_on_cancel=True)
        if read != known:
            await anyio.to_thread.run_sync(journal.subjects.record_headers, read, limiter=turn)
        return agreed_values({name: {value for one in read for value in one.values[name]} for name in wanted}, wanted)

    async def work() -> None:
        for subject in due:
            found: Mapping[str, str] = {}
            disputed: Sequence[str] = ()
            with stop.immediate_scope():
                if wanted:
                    found, disputed = await heard(subject)
            if stop.requested:
                return
            given = table.get((subject.project, subject.subject.casefold()))
            own = Demographics(subject.subject, {} if given is None else given.values, subject.project)
            wish = fill_gaps(own, found)
            disputed = [name for name in fill_gaps(own, dict.fromkeys(disputed, "")).values if name not in own.values]
            is_said = subject.stored_fields == wish.values and not demographics.overwrite
            if not disputed and (not wish.values or is_said):
                continue
            result = None
            try:
                with stop.grace_scope():
                    result = SubjectReport(wish.project, wish.subject, "stored")
                    if wish.values:
                        result = await told(wish, [name for name in wish.values if name not in own.values])
            except StoppedError:
                result = None
            if result is None:
                return
            if (
                not disputed
                and subject.stored_fields == wish.values
                and (result.kept, result.written) == (subject.kept, ())
            ):
                # All is as an earlier run has left it.
                continue
            seen = {name: value for name, value in wish.values.items() if name not in result.kept}
            seen = seen if result.state == "stored" else {}
            if disputed and result.state == "stored":
                result = replace(result, state="refused", reason=f"{_CONTRADICTION}: {', '.join(disputed)}")
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(journal.subjects.record, result, wish.values, seen, limiter=turn)
            report(result)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(options.attachment_workers):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


def unmatched(journal: Journal, demographics: DemographicsRequest) -> list[Demographics]:
    """Return the rows of the table whose subjects have no session in the journal."""
    met = journal.subjects.known_subjects() if demographics.table else set()
    return [row for row in demographics.table if (row.project, row.subject.casefold()) not in met]


def _read(
    headers: Headers, sessions: Sequence[SessionHeaders], wanted: Sequence[str], run: int
) -> list[SessionHeaders]:
    """Read the headers of files that were not read so far, and add what they say, up to this run, to what is known."""
    read = []
    for session in sessions:
        said = {name: dict.fromkeys(values) for name, values in session.values.items()}
        is_whole = True
        for file in session.files:
            identity = headers.identify(file)
            is_whole = is_whole and isinstance(identity, Identity)
            if isinstance(identity, Identity):
                for name, value in header_values(identity.fields, wanted).items():
                    said[name][value] = None
        lists = {name: [*values] for name, values in said.items()}
        count = session.files_read + len(session.files)
        read.append(
            replace(session, values=lists, run=run, files_read=count) if is_whole else replace(session, values=lists)
        )
    return read


def _names(differences: Sequence[Difference]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name for one in differences))
