"""What is said of subjects in an upload: of those whose sessions are archived, from a table and from headers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import anyio
import anyio.to_thread

from asyncimport.demographics import Demographics, Difference, filled, from_header
from asyncimport.dicom import Identity
from asyncimport.errors import RefusedError, TransientError, worst
from asyncimport.events import Away, Event
from asyncimport.journal import DueSubject, Journal
from asyncimport.limits import Outage
from asyncimport.model import File, Ignored, SubjectReport
from asyncimport.settings import Options
from asyncimport.stop import Stop, StoppedError
from asyncimport.xnat import Described

__all__ = ["Register", "Wishes", "describe_subjects"]


class Headers(Protocol):
    """Files whose headers can be looked into."""

    def identify(self, file: File) -> Identity | Ignored:
        """Look into a file; called in a worker thread."""
        ...


class Register(Protocol):
    """Where demographics go."""

    async def set(self, wish: Demographics) -> Described:
        """Bring a subject to the given values, and see that they have arrived.

        Raises: TransientError, RefusedError, FatalError.
        """
        ...

    async def is_there(self) -> bool:
        """Tell whether the server answers at all. Raises: FatalError."""
        ...


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be said: of subjects, by a table, and for what that leaves open, by headers (XNAT's names of fields).

    `overwrite` says it also where XNAT has other values.
    """

    table: Sequence[Demographics] = ()
    from_headers: Sequence[str] = ()
    overwrite: bool = False


async def describe_subjects(
    headers: Headers,
    register: Register,
    journal: Journal,
    wishes: Wishes,
    *,
    options: Options,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
) -> None:
    """Say what is to be said of all subjects with archived sessions. Raises: FatalError."""
    stop = stop or Stop()
    turn = anyio.CapacityLimiter(1)
    outage = Outage(
        options.max_outage, is_there=register.is_there, sleep=stop.sleep, report=lambda reason: report(Away(reason))
    )
    table = {(row.project, row.subject.casefold()): row for row in wishes.table}
    due = iter(await anyio.to_thread.run_sync(journal.due_subjects))

    async def told(wish: Demographics, taken: Sequence[str]) -> SubjectReport:
        reported = partial(SubjectReport, wish.project, wish.subject)
        try:
            done = await outage.through(partial(register.set, wish), wish.subject)
        except RefusedError as error:
            return reported("refused", reason=str(error))
        except TransientError as error:
            return reported("failed", reason=str(error))
        arrived = tuple(one for one in taken if one in done.written)
        return reported("stored", written=done.written, kept=_names(done.kept), taken=arrived)

    async def work() -> None:
        for subject in due:
            if stop.requested:
                return
            given = table.get((subject.project, subject.subject.casefold()))
            found = await anyio.to_thread.run_sync(_from_headers, headers, subject, wishes.from_headers)
            own = Demographics(subject.subject, {} if given is None else given.values, subject.project)
            wish = filled(own, found)
            if not wish.values or (subject.said == wish.values and not (subject.kept and wishes.overwrite)):
                continue
            result = None
            try:
                with stop.after_grace():
                    result = await told(wish, [name for name in wish.values if name not in own.values])
            except StoppedError:
                pass
            if result is None:
                return
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(journal.describe, result, wish.values, limiter=turn)
            report(result)

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(options.enclosers):
                tasks.start_soon(work)
    except BaseExceptionGroup as errors:
        raise worst(errors) from None


def _from_headers(headers: Headers, subject: DueSubject, wanted: Sequence[str]) -> Mapping[str, str]:
    """Return what the headers of a subject's sessions tell of it, and none of them contradicts."""
    found: dict[str, set[str]] = {}
    for file in subject.files if wanted else ():
        identity = headers.identify(file)
        if isinstance(identity, Identity):
            for name, value in from_header(identity.fields, wanted).items():
                found.setdefault(name, set()).add(value)
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _names(differences: Sequence[Difference]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.name for one in differences))
