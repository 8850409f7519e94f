"""What the journal holds. Reading does not disturb a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from asyncimport.errors import UsageError
from asyncimport.journal import JournalReader
from asyncimport.journal.reports import AttachmentRow
from asyncimport.journal.rows import DeliveryRow, InstanceRow, Remaining, Run
from asyncimport.model.activity import WorkerActivity
from asyncimport.model.record import record
from asyncimport.model.summary import Summary
from asyncimport.model.texts import did_you_mean
from asyncimport.operations.result import Result, captured_in
from asyncimport.pacing.shutdown import Stop


@record(kw_only=True)
class StatusRequest:
    """The journal to read, or one session of it."""

    journal: Path
    project: str | None = None
    """Only what went to this one of several projects of the journal."""
    session: str | None = None
    """A label: return its files instead of the whole journal."""


@record
class SessionFiles:
    """What the journal has of the sessions with one label."""

    instances: Sequence[InstanceRow]
    attachments: Sequence[AttachmentRow]
    deliveries: Sequence[DeliveryRow]


@dataclass(slots=True, kw_only=True)
class StatusResult(Result):
    """The journal at one moment: what it is bound to (`about`), its runs, and what is stored and left."""

    about: Mapping[str, str] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    summary: Summary | None = None
    remaining: Remaining | None = None
    at_work: bool | None = False
    """Whether the last run is at work; None if unknown."""
    workers: Sequence[WorkerActivity] = ()
    """What the workers of the last run have done, if it was of a cluster."""
    session: SessionFiles | None = None


async def status(request: StatusRequest, *, stop: Stop | None = None) -> StatusResult:
    """Read what was uploaded, what is left, and why."""
    result = StatusResult()
    with captured_in(result, stop or Stop()):
        await anyio.to_thread.run_sync(_read, request, result)
    return result


def read_status(request: StatusRequest) -> StatusResult:
    """Do the same, but block. Raises: JournalError, UsageError."""
    result = StatusResult()
    _read(request, result)
    return result


def _read(request: StatusRequest, result: StatusResult) -> None:
    with JournalReader.open(request.journal, project=request.project) as reader:
        if (label := request.session) is not None:
            with reader.snapshot():
                result.about = reader.metadata()
                instances = [*reader.instances(label), *reader.unsent_files(label)]
                result.session = SessionFiles(instances, reader.attachments(label), reader.deliveries(label))
            if not instances and not result.session.deliveries:
                near = did_you_mean(label, (one.session.label for one in reader.summary().sessions))
                hint = f"{near}list all sessions with `asyncimport status -o json`"
                raise UsageError(f"the journal has no session {label}", hint=hint)
            return
        with reader.snapshot():
            result.about, result.runs = reader.metadata(), reader.runs()
            result.summary, result.remaining = reader.summary(), reader.remaining()
            result.workers = reader.activity(result.runs[-1].key).workers if result.runs else ()
        if result.runs:
            result.at_work = reader.is_running(result.runs[-1])
