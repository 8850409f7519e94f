"""The test XNAT with a model of the time for a file, and a record of its imports."""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TextIO

import anyio

from asyncimport.testserver import ArchivedSession, TestXnat, Timing
from asyncimport.testserver.site.storage import Body, BodyStream, PathParts, Storage
from bench.import_log import Phase

# When the body of this request began to arrive: files out of a zip arrive with it.
_BEGAN: ContextVar[float] = ContextVar("began")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a server can do, for some seconds from its first import on, or for ever.

    Each import takes the one lock of the site for `serial` seconds, then `parallel` seconds outside of it; then one
    of `cores` spends `working` seconds on it, and `anonymising` more for each megabyte. All of it is waited, not
    computed: the server stands for a machine with cores of its own.
    """

    name: str = ""
    seconds: float = float("inf")
    serial: float = 0.002
    parallel: float = 0.020
    working: float = 0.0
    anonymising: float = 0.030
    cores: int = 8
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of `Timing`."""

    @property
    def timing(self) -> Timing:
        """The part that the test XNAT models itself."""
        timing = Timing(serial_seconds=self.serial, parallel_seconds=self.parallel, threads=200, db_connections=40)
        return replace(timing, **self.more)


class _Recording(Storage):
    """Keeps no bytes. It takes the time of each file, and writes a line for each import that it kept."""

    def __init__(self, capacity: Capacity, log: TextIO) -> None:
        super().__init__(None, keep_bytes=False, checksums=False)
        self._capacity = capacity
        self._cores = anyio.CapacityLimiter(capacity.cores)
        self._log = log
        self.begun = anyio.Event()

    def go_on_with(self, capacity: Capacity) -> None:
        """Change the capacity."""
        self._capacity = capacity
        self._cores.total_tokens = capacity.cores

    async def receive(self, stream: BodyStream, *, stop_after: int | None = None) -> Body:
        """Read a body, and record its arrival."""
        _BEGAN.set(time.time())
        self.begun.set()
        return await super().receive(stream, stop_after=stop_after)

    async def _receive_large(self, stream: BodyStream, head: bytes, stop_after: int | None) -> Body:
        """Keep a large zip in memory, since it is to be unpacked."""
        if not head.startswith(b"PK"):
            return await super()._receive_large(stream, head, stop_after)
        rest = await self.collect(stream)
        return Body.of(head + (rest or b""), complete=rest is not None)

    async def write(self, parts: PathParts, body: Body, head: bytes | None = None) -> tuple[int, bytes | None]:
        """Take the time of the file, and write a line."""
        seconds = self._capacity.working + self._capacity.anonymising * body.size / 1e6
        if seconds:
            async with self._cores:
                await anyio.sleep(seconds)
        written = await super().write(parts, body, head)
        now = time.time()
        begin = _BEGAN.get(now)
        # The last part of prearchive/project/timestamp/label is the session.
        self._log.write(f"{now:.6f} {now - begin:.6f} {200 if body.complete else 0} {body.size} {parts[3]}\n")
        return written


class ModelledXnat(TestXnat):
    """A test XNAT of one capacity, or of several, one after the other."""

    def __init__(self, capacities: Sequence[Capacity], log: TextIO, *, archive_seconds: float = 0.0) -> None:
        self.archived_at: dict[str, float] = {}
        """The archiving time of each session, by label."""
        super().__init__(
            timing=capacities[0].timing,
            keep_bytes=False,
            checksums=False,
            anonymise=False,
            archive_seconds=archive_seconds,
        )
        self._capacities = capacities
        self._recording = _Recording(capacities[0], log)
        self.storage = self._recording
        self.phases: list[Phase] = []

    def add_experiment(self, session: ArchivedSession) -> None:
        """Add an archived session and its time."""
        self.archived_at.setdefault(session.label, time.time())
        super().add_experiment(session)

    def held(self) -> int:
        """Return the number of distinct instances."""
        archived = sum(file.complete for _, _, file in self.instances())
        return archived + sum(file.complete for row in self.prearchive for file in row.files)

    async def live(self) -> None:
        """Change the capacity on time. The time of the first begins with the first import."""
        await self._recording.begun.wait()
        begin = time.time()
        for capacity in self._capacities:
            self._recording.go_on_with(capacity)
            self.timing = capacity.timing
            self.phases.append(Phase(capacity.name, begin, begin + capacity.seconds))
            if capacity.seconds == float("inf"):
                return
            await anyio.sleep(capacity.seconds)
            begin = time.time()
            self.phases[-1] = Phase(capacity.name, self.phases[-1].begin, begin)
