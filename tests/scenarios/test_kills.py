"""The client is killed at any request, before or after it takes effect: the same command resumes."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Literal, get_args

import anyio
import pytest
from anyio.abc import Process
from builders import states_in, uids_below
from conftest import Commands, Ended

from asyncimport.model.states import InstanceState
from asyncimport.testserver import Fault, Gate, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

WORKERS = 4
SESSIONS, FILES = 5, 60
# The least that an undisturbed migration makes: one import a file, and for each session two listings, those that its
# scans need, a build and an archiving.
REQUESTS = 100
# Files that can be in XNAT but not in the journal when a run is killed: each worker has one in flight or in hand,
# waiting for the stream to the recorder; the stream is full; and the recorder settles what it has received and all
# that was at hand then, which is a full stream and what as many workers were waiting with.
UNSETTLED = WORKERS + WORKERS + (1 + WORKERS + WORKERS)

How = Literal["unserved", "served", "unheard"]


@dataclass(frozen=True, slots=True)
class Kill:
    """The nth request of a kind is the client's last one.

    "unserved": XNAT turns it away. "served": XNAT goes on with as much of it as has come, and it takes effect when the
    client is dead. "unheard": the client dies when it has taken effect, before the reply.
    """

    kind: str
    nth: int
    how: How = "served"
    path: str = ""

    def __str__(self) -> str:
        return f"{self.kind}-{self.nth}-{self.how}"


@dataclass(slots=True)
class Migration:
    """One tree and one command, which is run until it ends by itself."""

    xnat: TestXnat
    commands: Commands
    tree: Path
    journal: Path
    kills: int = 0
    compress: str = "never"
    _sealed: dict[str, int] = field(default_factory=dict)
    """Rows that have been committed, and the number of imports when that was first seen."""

    async def run(self, kill: Kill | None = None, *, also: Fault | None = None) -> Ended | None:
        """Run the command, with another fault; None when it was killed, otherwise how it ended."""
        known, before = await self._stored(), len(self.xnat.imports)
        self.xnat.faults.clear()
        to = "--journal", self.journal, "--compress", self.compress
        words = ("upload", self.tree, "-P", "demo", "-q", "-o", "json", "-w", str(WORKERS), *to)
        async with self.commands.start(*words) as process, self._killer(process, kill):
            if also is not None:
                self.xnat.faults.add(also)
            # Only the first fault that is due strikes, so the observer comes after the killer.
            self.xnat.faults.add(Fault("any", Tell(self._look), share=1))
            out, err = [await _all_of(stream) for stream in (process.stdout, process.stderr)]
            code = await process.wait()
        assert err == ""
        assert not known & {record.sop_uid for record in self.xnat.imports[before:]}, "sent again though in the journal"
        if code != -SIGKILL:
            return Ended(code, out, err)
        self.kills += 1
        reached = {record.sop_uid for record in self.xnat.imports}
        assert len(reached - await self._stored()) <= self.kills * UNSETTLED
        return None

    async def check(self, ended: Ended | None) -> None:
        """Check that all has arrived, once, in sound sessions, and that the summary says so."""
        assert ended is not None
        assert ended.code == 0, ended.out
        assert {(detail["state"], detail["verified"]) for detail in ended.json["details"]} == {("archived", "uids")}
        assert ended.json["sessions"]["total"] == len(self.xnat.archived)
        assert self.xnat.sop_uids("demo") == await uids_below(self.tree)
        assert self.xnat.partial_files() == []
        assert self.xnat.prearchive == []
        assert self.resent <= self.kills * UNSETTLED
        for uri, imports in self._sealed.items():
            assert uri not in {record.uri for record in self.xnat.imports[imports:]}, "sent into a sealed row"

    @property
    def resent(self) -> int:
        """Count imports of files that had reached XNAT before, at least in part."""
        return len(self.xnat.imports) - len({record.sop_uid for record in self.xnat.imports})

    @asynccontextmanager
    async def _killer(self, process: Process, kill: Kill | None) -> AsyncIterator[None]:
        """Kill the client at a request."""
        match kill:
            case None:
                yield
            case Kill(how="unheard"):
                gate = Gate()
                self.xnat.faults.release_after(gate, kill.kind, kill.nth)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_kill_before_the_reply, process, gate)
                    yield
                    tasks.cancel_scope.cancel()
            case _:
                strike = self._kill_unserved if kill.how == "unserved" else self._kill
                self.xnat.faults.add(Fault(kill.kind, Tell(lambda: strike(process)), nth=kill.nth, path=kill.path))
                yield

    def _kill(self, process: Process) -> None:
        self._look()
        process.kill()

    def _kill_unserved(self, process: Process) -> None:
        self._kill(process)
        # XNAT then no longer knows the login of the request, and rejects it.
        self.xnat.expire_logins()

    def _look(self) -> None:
        """Look for rows that have been committed: only a build gives a row its document."""
        for row in self.xnat.prearchive:
            if row.document is not None:
                self._sealed.setdefault(f"/data{row.uri}", len(self.xnat.imports))

    async def _stored(self) -> set[str]:
        """Return the SOPInstanceUIDs that are in the journal as stored."""
        states = await states_in(self.journal) if self.journal.exists() else {}
        return {uid for uid, state in states.items() if state is InstanceState.STORED}


async def _kill_before_the_reply(process: Process, gate: Gate) -> None:
    """Kill when a request has taken effect; XNAT replies when the gate is settled."""
    try:
        await gate.released()
        process.kill()
        await process.wait()
    finally:
        gate.settle()


async def _all_of(stream: anyio.abc.ByteReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([piece async for piece in stream]).decode()


@pytest.fixture
def migration(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> Migration:
    """Write a tree, and let the command find the server."""
    tree = tmp_path / "tree"
    generated(tree, sessions=SESSIONS, files=FILES, size=1_000, seed=11)
    commands.login(url)
    return Migration(xnat, commands, tree, tmp_path / "book.journal")


MOMENTS = [
    *(Kill("import", nth, how) for nth in (1, FILES // 2, FILES) for how in get_args(How)),
    *(Kill(kind, nth, how) for kind in ("build", "archive") for nth in (1, SESSIONS) for how in get_args(How)),
    # The requests that compare what the archive holds with what was sent.
    Kill("listing", 1, path="resources"),
    Kill("listing", 2 * SESSIONS, path="resources"),
]


@pytest.mark.parametrize("kill", MOMENTS, ids=str)
async def test_a_kill_at_any_stage_loses_nothing(migration: Migration, kill: Kill) -> None:
    """At the first request of a kind, at one in the middle, and at the last."""
    assert await migration.run(kill) is None
    await migration.check(await migration.run())


@pytest.mark.parametrize("how", get_args(How))
@pytest.mark.parametrize("nth", [1, FILES // 2])
async def test_a_kill_while_files_go_as_zips_loses_nothing(migration: Migration, nth: int, how: How) -> None:
    """With the first zip in flight, or with one in the middle; the second run goes on with zips."""
    migration.compress, migration.tree = "always", migration.tree.with_name("large")
    generated(migration.tree, sessions=SESSIONS, files=FILES, size=20_000, seed=11)
    zips = Fault("import", Tell(lambda: None), share=1, path="DICOM-zip")
    assert await migration.run(Kill("import", nth, how, path="" if how == "unheard" else "DICOM-zip")) is None
    ended = await migration.run(also=zips)
    await migration.check(ended)
    assert ended is not None
    assert ended.json["zips"] > 0
    assert zips.seen >= ended.json["zips"]


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.endurance) for seed in range(3, 170))]
)
async def test_kills_at_random_moments_lose_nothing(migration: Migration, seed: int) -> None:
    """Killed three times, at any of the requests of a migration, the same command finishes the job."""
    rng = Random(seed)
    cuts = sorted(rng.sample(range(1, REQUESTS + 1), 3))
    for earlier, later in pairwise([0, *cuts]):
        assert await migration.run(Kill("any", later - earlier, rng.choice(get_args(How)))) is None
    await migration.check(await migration.run())
    sys.stdout.write(f"seed {seed}: {migration.kills} kills, {migration.resent} of {FILES} files sent again\n")
