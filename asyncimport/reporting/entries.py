"""The entries of a report: the events of the pipeline, and the start and end of a run."""

import os
from collections.abc import Callable, Iterator, Mapping

from asyncimport.errors import AsyncimportError
from asyncimport.model.events import Event
from asyncimport.model.files import Session
from asyncimport.model.record import record
from asyncimport.model.summary import Orphan, Summary


@record
class RunStarted:
    """A run has started. `settings` are public; `names` (sources, templates) may name patients."""

    run: str
    version: str
    host: str
    project: str
    settings: Mapping[str, object]
    names: Mapping[str, object]


@record
class RunEnded:
    """A run has ended. `run` is None if it failed before it started."""

    run: str | None
    exit_code: int
    error: AsyncimportError | None
    summary: Summary | None


@record
class EventsLost:
    """Events that were not written, or not in time."""

    events: int


Entry = Event | RunStarted | RunEnded | Orphan | EventsLost
LineFormat = Callable[[float, Entry], Iterator[str]]


def text_of_path(path: str) -> str:
    """Return a path as text, with invalid bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def session_names(session: Session) -> dict[str, str]:
    """Return the names of a session as they are in events and receipts."""
    return {
        "project": session.project,
        "subject": session.subject,
        "session": session.label,
        "study_uid": session.study_uid,
    }


def lane(zip_size: int | None) -> str:
    """Return how a file was sent: as a "zip" of this size, or as the "file" that it is."""
    return "file" if zip_size is None else "zip"
