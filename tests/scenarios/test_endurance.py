"""All faults at once, and kills: the same command, run a few times, brings all files into the archive."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from signal import SIGKILL
from time import monotonic

import pytest
from anyio.abc import Process
from builders import states_in, uids_below
from conftest import Commands, Ended

from asyncimport.model.states import InstanceState
from asyncimport.testserver import (
    Conflict,
    DiskFull,
    Empty,
    ExpireLogins,
    Fault,
    Gateway,
    Late,
    Leave,
    Locked,
    LoginPage,
    Reset,
    RowStatus,
    Status,
    Tell,
    TestXnat,
)
from asyncimport.testserver.faults.actions import Action
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

MOST_RUNS = 6
# Refusals are final, and a 500 to a build or an archiving may be a conflict that is for a person to look at: what was
# refused or held stays so until one asks for another try.
AGAIN = ("--retry", "held,refused")
# A late file makes a row anew when its session has been archived. What is sent of the session after that gets into this
# row, and XNAT merges what the archive has already only when it is told to.
AGAIN_AND_MERGE = (*AGAIN, "--overwrite", "append")

AT_ONCE = {"Retry-After": "0"}
BROKEN = (Status(500), Status(503, headers=AT_ONCE), Reset(), Reset(effect=True), Gateway(), Gateway(effect=False))
# Not to a login, to which a login page is XNAT's last word: it ends the run, as do listings that check a login.
ON_THE_WAY = (*BROKEN, Status(429, headers=AT_ONCE), Gateway(502), Gateway(wait=False), LoginPage(), ExpireLogins())
CUT = (Reset(after_bytes=200), Reset(after_bytes=1_200))
# Soon after, and when the session has been archived meanwhile.
LATE_FILE = (Late(after=5), Late(after=300, status=504))
LATE_STEP = (Late(after=5, of="any"), Late(after=50, of="any", status=504))
# Without Stall, which only the client's time-out ends, a minute after a file has been sent. Without Unseen, which lets
# XNAT put files where they do not belong: that bars the session, and leaves a row for a person to look at.
FAULTS: dict[str, tuple[float, Sequence[Action]]] = {
    "login": (0.05, BROKEN),
    "listing": (0.05, ON_THE_WAY),
    "import": (0.05, (*ON_THE_WAY, *CUT, *LATE_FILE, Empty(), DiskFull(), DiskFull(partial=True))),
    # These requests are so few that a smaller share would leave most faults out.
    "build": (0.15, (*ON_THE_WAY, *LATE_STEP, Locked(), Leave(RowStatus.BUILDING, looks=2))),
    "archive": (0.15, (*ON_THE_WAY, *LATE_STEP, Locked(), Leave(RowStatus.ARCHIVING, looks=2), Conflict())),
}


class Migration:
    """One tree and one command, which is run through all faults until it ends with 0."""

    def __init__(self, xnat: TestXnat, commands: Commands, tree: Path, journal: Path, seed: int) -> None:
        self.xnat = xnat
        self.commands = commands
        self.words = ("upload", tree, "-P", "demo", "-q", "-o", "json", "--journal", journal)
        self.seed = seed
        self.codes: list[int] = []
        self.struck: list[Fault] = []

    async def run(self, *more: str, kill_at: int | None = None) -> Ended:
        """Run the command once, with faults of its own. It may be killed at its nth import."""
        self.xnat.faults.clear()
        async with self.commands.start(*self.words, *more) as process:
            if kill_at is not None:
                # First in the list: of the faults that are due, the first one strikes.
                self.xnat.faults.add(Fault("import", Tell(process.kill), nth=kill_at))
            self.struck += map(self.xnat.faults.add, self._faults())
            ended = await _end_of(process)
        assert "Traceback" not in ended.err
        self.codes.append(ended.code)
        return ended

    @property
    def kills(self) -> int:
        """The number of runs that were killed."""
        return self.codes.count(-SIGKILL)

    def _faults(self) -> Iterator[Fault]:
        """Strike a share of the requests of each kind, with each possible fault in turn."""
        rng = Random(f"{self.seed} {len(self.codes)}")
        for kind, (share, actions) in FAULTS.items():
            for action in actions:
                yield Fault(kind, action, share=share / len(actions), seed=rng.randrange(10**9))

    async def settle(self) -> None:
        """Let all late requests take effect."""
        for fault in self.struck:
            fault.release()
            await fault.settled()


async def _end_of(process: Process) -> Ended:
    """Wait until a command has ended, and return what it wrote."""
    assert process.stdout is not None
    assert process.stderr is not None
    out = b"".join([piece async for piece in process.stdout])
    err = b"".join([piece async for piece in process.stderr])
    return Ended(await process.wait(), out.decode(), err.decode())


async def endure(xnat: TestXnat, commands: Commands, tree: Path, journal: Path, seed: int, kills: int) -> None:
    """Run the command until it ends with 0, and check the archive."""
    began = monotonic()
    migration = Migration(xnat, commands, tree, journal, seed)
    uids = await uids_below(tree)
    rng = Random(seed)
    more: tuple[str, ...] = ()
    while True:
        # Its share of the files: that many are left to send, whatever the other kills do.
        kill_at = rng.randrange(1, len(uids) // (kills + 1)) if migration.kills < kills else None
        ended = await migration.run(*more, kill_at=kill_at)
        if ended.code == 0:
            break
        reasons = {detail["reason"] for detail in ended.json["details"]} if ended.out else None
        assert len(migration.codes) < MOST_RUNS + kills, f"seed {seed}: {ended.err} {reasons}"
        if ended.code in {8, 9}:
            more = AGAIN_AND_MERGE if more else AGAIN
    assert migration.kills == kills
    assert {(detail["state"], detail["verified"]) for detail in ended.json["details"]} == {("archived", "uids")}
    assert xnat.sop_uids() == uids
    assert xnat.partial_files() == []
    assert await states_in(journal) == dict.fromkeys(uids, InstanceState.STORED)

    await migration.settle()
    assert xnat.sop_uids() == uids
    orphans = {f"/data{row.uri}": len(list(row.files)) for row in xnat.prearchive}
    late = sum(fault.hits for fault in migration.struck if fault.kind == "import" and isinstance(fault.action, Late))
    assert sum(orphans.values()) <= late, f"seed {seed}: {orphans}"
    xnat.faults.clear()
    ended = await commands(*migration.words)
    assert ended.code == 0, ended.out
    if "strays" in ended.json:
        assert {orphan["uri"] for orphan in ended.json["strays"]} == set(orphans)

    hits: Counter[str] = Counter()
    for fault in migration.struck:
        hits[type(fault.action).__name__] += fault.hits
    assert sum(hits.values()) > 0.03 * sum(xnat.count.values())
    struck = ", ".join(f"{name} {count}" for name, count in hits.most_common())
    sys.stdout.write(
        f"seed {seed}: {kills} kills survived, runs ended {migration.codes}, {sum(xnat.count.values())} requests, "
        f"{len(xnat.imports) / len(uids) - 1:.2%} of the files sent again, {len(orphans)} strays, "
        f"{monotonic() - began:.1f} s; struck by {struck}\n"
    )


async def test_faults_and_a_kill_lose_nothing(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """A small version for every day."""
    generated(tmp_path / "tree", sessions=12, files=600, size=1_000, seed=23)
    commands.login(url)
    await endure(xnat, commands, tmp_path / "tree", tmp_path / "book.journal", seed=23, kills=1)


@pytest.mark.endurance
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kills", [0, 3])
async def test_ten_thousand_files_arrive(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, seed: int, kills: int
) -> None:
    """A hundred sessions, and all faults."""
    generated(tmp_path / "tree", sessions=100, files=10_000, size=1_000, seed=seed)
    commands.login(url)
    await endure(xnat, commands, tmp_path / "tree", tmp_path / "book.journal", seed, kills)
