"""An upload by workers that are lost on the way, and what must hold whatever happens."""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from builders import states_in, uids_below, upload
from local_cluster import LocalWorker, LocalWorkers

from asyncimport.model.events import Event, Notice
from asyncimport.model.options import Options
from asyncimport.model.states import InstanceState
from asyncimport.model.summary import Summary
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import Fault, Tell, TestXnat

LEASE_SECONDS = 1.0
SETTLE_SECONDS = 0.3
_SENT_AGAIN = re.compile(r"([\d,]+) files? of the worker .* (is|are) sent again by others")


@dataclass
class Migration:
    """One tree, and uploads of it by workers."""

    xnat: TestXnat
    url: str
    tree: Path
    journal: Path
    workers: LocalWorkers
    on_notice: Callable[[str], None] = lambda _: None
    notices: list[str] = field(default_factory=list)
    given_back: int = 0
    """Files that were with workers that were lost."""
    lost: list[LocalWorker] = field(default_factory=list)
    _sealed: dict[str, int] = field(default_factory=dict)

    async def run(self, *faults: Fault, stop: Stop | None = None) -> Summary:
        """Upload, while these faults strike."""
        known, before = await self.stored(), len(self.xnat.imports)
        self.xnat.faults.clear()
        for fault in faults:
            self.xnat.faults.add(fault)
        self.xnat.faults.add(Fault("any", Tell(self._look), share=1))
        summary = await upload(
            self.url,
            [self.tree],
            self.journal,
            options=Options(workers=6, finalizers=2),
            settle_seconds=SETTLE_SECONDS,
            report=self._note,
            stop=stop,
            workers=self.workers,
        )
        again = known & {record.sop_uid for record in self.xnat.imports[before:]}
        assert not again, "sent again though in the journal"
        return summary

    def lose(self, by: signal.Signals | None = None) -> None:
        """Send a signal to the worker that has most files now; without one, cut it off."""
        victim = self.workers.busiest
        self.lost.append(victim)
        if by is None:
            victim.way.cut()
        else:
            victim.signal(by)

    async def check(self, summary: Summary, *, most_resent: int = 0) -> None:
        """Check that all has arrived, in sound sessions, that nothing went into a sealed one, and little twice.

        Files of lost workers may come twice, and `most_resent` besides. On a busy machine more workers may be lost.
        """
        assert {(one.state, one.verified) for one in summary.sessions} == {("archived", "uids")}
        assert self.xnat.sop_uids("demo") == await uids_below(self.tree)
        assert self.xnat.partial_files() == []
        assert self.xnat.prearchive == []
        assert self.resent <= self.given_back + most_resent
        self.check_sealed()

    def check_sealed(self) -> None:
        """Check that nothing was sent into a row that had been committed."""
        for uri, imports in self._sealed.items():
            assert uri not in {record.uri for record in self.xnat.imports[imports:]}, "sent into a sealed row"

    @property
    def resent(self) -> int:
        """Count imports of files that had reached XNAT before, at least in part."""
        return len(self.xnat.imports) - len({record.sop_uid for record in self.xnat.imports})

    async def stored(self) -> set[str]:
        """Return the SOPInstanceUIDs that are in the journal as stored."""
        states = await states_in(self.journal) if self.journal.exists() else {}
        return {uid for uid, state in states.items() if state is InstanceState.STORED}

    def _look(self) -> None:
        for row in self.xnat.prearchive:
            if row.document is not None:
                self._sealed.setdefault(f"/data{row.uri}", len(self.xnat.imports))

    def _note(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.reason)
            if found := _SENT_AGAIN.fullmatch(event.reason):
                self.given_back += int(found[1].replace(",", ""))
            self.on_notice(event.reason)
