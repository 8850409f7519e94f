"""What is written down: the events of the line, and what begins and ends a run."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from asyncimport.errors import AsyncimportError
from asyncimport.model import Orphan, Summary
from asyncimport.model.events import Event


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run has begun. `settings` may be told to everybody; `names` (sources, templates) may name patients."""

    run: str
    version: str
    host: str
    project: str
    settings: Mapping[str, object]
    names: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended; without a run it did not come to begin."""

    run: str | None
    exit_code: int
    error: AsyncimportError | None
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class EventsLost:
    """So many events could not be written, or not in time."""

    events: int


Entry = Event | RunStarted | RunEnded | Orphan | EventsLost


LineFormat = Callable[[float, Entry], Iterator[str]]


def text_of_path(path: str) -> str:
    """Return a path as text; bytes that are none are spelt out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
