"""Workers and drivers are killed, stopped and cut off at random: nothing is lost, nothing goes into a sealed delivery.

python tests/cluster/test_seeded_losses.py FIRST_SEED SEEDS   runs many, and prints a line for each.
"""

import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

import anyio
import cluster_driver
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream
from builders import states_in, uids_below
from local_cluster import LocalWorker, LocalWorkers, local_workers

from asyncimport.model.states import InstanceState
from asyncimport.source.folder import FileSource
from asyncimport.testserver import Fault, Tell, TestXnat, serve
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

FILES, SESSIONS, WORKERS = 300, 10, 3
LEASE_SECONDS, SETTLE_SECONDS = 1.0, 0.3
_KINDS = ("kill", "stop", "long stop", "cut", "long cut", "driver")


@dataclass
class Losses:
    """One migration, with losses drawn by a seed."""

    seed: int
    xnat: TestXnat
    url: str
    tree: Path
    journal: Path
    workers: LocalWorkers
    happened: list[str] = field(default_factory=list)
    unsettled: Counter[str] = field(default_factory=Counter)
    """How often each file was with a worker or a driver that was lost, and nobody knew what had become of it."""
    _driver: Process | None = None
    _sealed: dict[str, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Run the upload until it ends by itself, and check."""
        drawn = random.Random(self.seed)
        while not await self._upload(drawn):
            pass
        self._check_sealed()
        assert self.xnat.sop_uids("demo") == await uids_below(self.tree), "lost"
        assert self.xnat.partial_files() == []
        assert self.xnat.prearchive == []
        states = await states_in(self.journal)
        assert set(states.values()) == {InstanceState.STORED}
        sent = Counter(record.sop_uid for record in self.xnat.imports)
        resent, unsettled = sent.total() - len(sent), self.unsettled.total()
        assert not sent - self.unsettled - Counter(set(sent)), "sent again though nobody had lost it"
        what = f"{resent} sent again of {unsettled} that were unsettled"
        print(f"seed {self.seed}: {', '.join(self.happened)}; {what}", flush=True)  # noqa: T201 - a script

    async def _upload(self, drawn: random.Random) -> bool:
        """Run the driver once, with losses; return whether it ended by itself."""
        known = {uid for uid, state in (await self._states()).items() if state is InstanceState.STORED}
        before = len(self.xnat.imports)
        alive = [worker for worker in self.workers.workers if worker.process.returncode is None]
        if len(alive) < WORKERS:
            await self.workers.add(WORKERS - len(alive))
            alive = [worker for worker in self.workers.workers if worker.process.returncode is None]
        self.xnat.faults.clear()
        async with anyio.create_task_group() as tasks:
            if len(self.happened) < 3:
                for _ in range(drawn.randint(1, 2)):
                    kind, nth = drawn.choice(_KINDS), drawn.randint(1, FILES // 2)
                    lose = partial(self._lose, kind, drawn.choice(alive), drawn.random(), tasks.start_soon)
                    self.xnat.faults.add(Fault("import", Tell(lose), nth=nth))
            # The first fault that fits is the one that strikes.
            self.xnat.faults.add(Fault("any", Tell(self._look), share=1))
            command = [sys.executable, cluster_driver.__file__, self.url, str(self.tree), str(self.journal)]
            command += [self.workers.scheduler, str(LEASE_SECONDS), str(SETTLE_SECONDS)]
            words = [*command, *(one.address for one in alive)]
            async with await anyio.open_process(words, stderr=None) as self._driver:
                assert self._driver.stdout is not None
                told = "".join([text async for text in TextReceiveStream(self._driver.stdout)])
                code = await self._driver.wait()
            # Workers that have lost the driver may still send, and nothing would heal what is lost then.
            self.xnat.faults.clear()
            self.xnat.faults.add(Fault("any", Tell(self._look), share=1))
        assert not known & {record.sop_uid for record in self.xnat.imports[before:]}, "sent again though settled"
        assert code in {0, -signal.SIGKILL}
        await self._note_unsettled(told)
        return code == 0

    async def _note_unsettled(self, told: str) -> None:
        """Note what was with lost workers, and of a killed driver what has no outcome in the journal."""
        given: set[str] = set()
        for line in map(json.loads, told.splitlines()):
            given.update(line.get("given", []))
            self.unsettled.update(line.get("queued", []))
        states = await self._states()
        self.unsettled.update(uid for uid in given if states[uid] is InstanceState.PENDING)

    def _lose(self, kind: str, victim: LocalWorker, share: float, start_soon: Callable[..., object]) -> None:
        self.happened.append(kind)
        seconds = LEASE_SECONDS * (0.5 * share if kind in {"stop", "cut"} else 1.5 + share)
        if kind == "driver" and self._driver is not None:
            # Two losses may come at once.
            with suppress(ProcessLookupError):
                self._driver.kill()
        elif kind == "kill" and sum(one.process.returncode is None for one in self.workers.workers) > 1:
            victim.signal(signal.SIGKILL)
        elif kind.endswith("stop"):
            victim.signal(signal.SIGSTOP)
            start_soon(_after, seconds, partial(victim.signal, signal.SIGCONT))
        elif kind.endswith("cut"):
            victim.way.cut()
            start_soon(_after, seconds, victim.way.heal)

    async def _states(self) -> dict[str, InstanceState]:
        return await states_in(self.journal) if self.journal.exists() else {}

    def _look(self) -> None:
        for row in self.xnat.prearchive:
            if row.document is not None:
                self._sealed.setdefault(f"/data{row.uri}", len(self.xnat.imports))

    def _check_sealed(self) -> None:
        for uri, imports in self._sealed.items():
            assert uri not in {record.uri for record in self.xnat.imports[imports:]}, "sent into a sealed row"


async def _after(seconds: float, what: Callable[[], object]) -> None:
    await anyio.sleep(seconds)
    what()


async def many(folder: Path, seeds: range) -> None:
    """Run migrations of one tree, each into an XNAT of its own, by the same workers."""
    tree = folder / "tree"
    await anyio.to_thread.run_sync(partial(generated, tree, sessions=SESSIONS, files=FILES, size=4_000))
    open_files = partial(FileSource, [tree])
    async with local_workers(open_files, workers=WORKERS, lease_seconds=LEASE_SECONDS) as workers:
        for seed in seeds:
            xnat = TestXnat(folder / f"xnat-{seed}")
            async with serve(xnat) as url:
                await Losses(seed, xnat, url, tree, folder / f"{seed}.db", workers).run()


@pytest.mark.parametrize("first", [0, 4])
async def test_seeded_losses(tmp_path: Path, first: int) -> None:
    """All arrives, once, whatever is lost on the way."""
    await many(tmp_path, range(first, first + 4))


if __name__ == "__main__":
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        anyio.run(many, Path(place), range(int(sys.argv[1]), int(sys.argv[1]) + int(sys.argv[2])))
    print(f"{sys.argv[2]} runs in {time.monotonic() - began:.0f} s")  # noqa: T201 - a script
