"""Any sequence of runs keeps the promises of the journal."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from journals import (
    ROOT,
    Disk,
    archived,
    built,
    deleted,
    held,
    instance,
    meet,
    opened,
    sealed_by,
    second_row,
    send,
    session,
    stored,
    uri,
)

from asyncimport.journal import JournalReader
from asyncimport.journal.demand import ANY, Demand
from asyncimport.model.deliveries import Claim, Deleted, Failed, Outcome, Refused, SealedDelivery
from asyncimport.model.files import Instance, Session
from asyncimport.model.states import Refusal

POOL = [session(f"E{n}", subject="s" if n else "S") for n in range(3)]


class AnyOrder(RuleBasedStateMachine):
    """The journal against a model of what each instance is: calls in any order, with kills in between."""

    def __init__(self) -> None:
        super().__init__()
        self.place = TemporaryDirectory()
        self.path = Path(self.place.name) / "journal"
        self.journal = opened(self.path)
        self.known: dict[str, Instance] = {}  # by path
        self.met: set[str] = set()
        self.left: set[str] = set()
        self.flying: dict[tuple[str, str], Claim] = {}
        self.stored: set[tuple[str, str]] = set()
        self.into: dict[tuple[str, str], int] = {}
        self.settled: set[tuple[str, str]] = set()
        self.uris: dict[int, str] = {}
        self.sealed: dict[int, SealedDelivery] = {}
        self.scanning = True
        self.feeding = True

    def teardown(self) -> None:
        """Run until everything has an outcome, as a patient user would, and compare."""
        self.crash()
        for _ in range(4):
            self.pass_all(retry_refused=True)
            self.journal.scan.finish([], archive_built=True, retry_held=True)
            send(self.journal)
            self.crash()
        self.pass_all(retry_refused=False)
        last = JournalReader.of(self.journal).summary()
        files = last.files
        copies = {(item.session.label, item.sop_uid) for item in self.known.values()}
        assert files.already_stored == len(copies)
        assert files.found == len(self.known)
        assert last.count("archived") == len({label for label, _ in copies}) == len(last.sessions)
        self.journal.close()
        self.place.cleanup()

    def pass_all(self, *, retry_refused: bool) -> None:
        """Walk over all files."""
        disk = Disk()
        disk.put(*self.known.values())
        meet(self.journal, disk, retry_refused=retry_refused)
        self.met = set(self.known)

    @precondition(lambda self: self.scanning)
    @rule(of=st.sampled_from(POOL), sop=st.integers(0, 2), copy=st.integers(0, 1))
    def admit(self, of: Session, sop: int, copy: int) -> None:
        """Find a file, new or known, first or second copy."""
        item = instance(f"{of.label}/{sop}-{copy}", of, sop=f"{of.study_uid}.{sop}")
        self.known.setdefault(item.file.path, item)
        disk = Disk()
        disk.put(item)
        for other in self.known.values():
            disk.content[other.file.path] = other.sop_uid
        meet(self.journal, disk)
        self.met.add(item.file.path)

    @precondition(lambda self: self.scanning)
    @rule(retry_refused=st.booleans(), retry_held=st.booleans(), archive_built=st.booleans())
    def finish_scan(self, retry_refused: bool, retry_held: bool, archive_built: bool) -> None:
        """Find all known files and end the scan."""
        self.pass_all(retry_refused=retry_refused)
        self.journal.scan.finish([], archive_built=archive_built, retry_held=retry_held)
        self.scanning = False

    @precondition(lambda self: self.scanning)
    @rule(of=st.sampled_from(POOL), sop=st.integers(0, 2), comes_back=st.booleans())
    def leave_directory(self, of: Session, sop: int, comes_back: bool) -> None:
        """Leave the directory of a session; the scan may come to another one of the same label."""
        self.left.add(of.label)
        self.journal.scan.directory_done([f"{ROOT}/{of.label}"])
        if comes_back:
            self.admit(of, sop, 0)
            self.claim_session()

    @rule(limit=st.integers(1, 4), max_active=st.integers(1, 3), demand=st.sampled_from([ANY, Demand(1, 0, 0)]))
    def claim(self, limit: int, max_active: int, demand: Demand) -> None:
        """Claim: no instance is handed out twice or after it was stored, and a first file goes alone."""
        claims = self.journal.queue.claim(limit, max_active=max_active, demand=demand)
        if claims is None:
            assert not self.scanning
            assert not self.flying
            self.feeding = False
            return
        assert self.feeding
        assert len(claims) <= limit
        for claim in claims:
            key = (claim.instance.session.label, claim.instance.sop_uid)
            assert key not in self.flying
            assert key not in self.stored
            assert claim.delivery.key not in self.sealed
            assert claim.delivery.uri == self.uris.get(claim.delivery.key)
            alone = claim.delivery.uri is None
            assert not (alone and any(other.delivery.key == claim.delivery.key for other in self.flying.values()))
            self.flying[key] = claim
            self.settled.discard(key)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Record outcomes of any kind for some instances in flight."""
        keys = data.draw(st.lists(st.sampled_from(sorted(self.flying)), min_size=1, unique=True))
        refusals = st.sampled_from(Refusal)
        self.record({key: (data.draw(st.sampled_from("ssssrwfu2")), data.draw(refusals)) for key in keys})

    @precondition(lambda self: self.feeding)
    @rule()
    def send(self) -> None:
        """Store all that can be sent now."""
        for _ in range(3):
            if self.feeding:
                self.claim(4, 3, ANY)
            self.record(dict.fromkeys(self.flying, ("s", Refusal.FILE)))

    def record(self, hows: Mapping[tuple[str, str], tuple[str, Refusal]]) -> None:
        """Record outcomes of instances in flight."""
        outcomes: list[Outcome] = []
        for key, (how, kind) in hows.items():
            claim = self.flying.pop(key)
            if how == "s":
                self.stored.add(key)
                self.into[key] = claim.delivery.key
                self.uris.setdefault(claim.delivery.key, uri(claim))
                outcomes.append(stored(claim))
            elif how == "2" and claim.delivery.uri is not None:
                outcomes.append(second_row(claim))
            elif how in "rw2":
                why = Refusal.SERVER if how == "w" else kind
                outcomes.append(Refused(claim, "no", whole_session=how == "w", kind=why))
            else:
                outcomes.append(Failed(claim, "no", unreadable=how == "u"))
            self.settled.add(key)
        ready = self.journal.queue.record_outcomes(outcomes)
        # Before the scan has left a session it is not sealed, but what has become of a row may be asked.
        asked = self.journal.connection.db.execute("SELECT count(*) FROM blocked WHERE second_row").fetchone()
        assert not self.scanning or ready <= asked[0] + len(self.left)

    @rule()
    def claim_session(self) -> None:
        """Seal: nothing of the session is in flight, no other delivery of the subject is claimed, UIDs are complete."""
        sealed = sealed_by(self.journal)
        if sealed is None:
            return
        of = sealed.delivery.session
        assert all(of.subject.lower() != other.delivery.session.subject.lower() for other in self.sealed.values())
        assert not any(label == of.label for label, _ in self.flying)
        assert sealed.sop_uids == {uid for label, uid in self.stored if label == of.label}
        assert sealed.delivery.uri == self.uris[sealed.delivery.key]
        self.sealed[sealed.delivery.key] = sealed

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """Record any verdict; instances of a deleted delivery are no longer stored."""
        key = data.draw(st.sampled_from(sorted(self.sealed)))
        sealed = self.sealed.pop(key)
        verdicts = [archived, held, deleted, *([] if sealed.is_open else [built])]
        recorded = self.journal.deliveries.record_verdict(data.draw(st.sampled_from(verdicts))(sealed))
        if isinstance(recorded, Deleted):
            gone = {one for one in self.stored if self.into[one] == key}
            assert recorded.files == len(gone)
            self.stored -= gone
            self.settled -= gone

    @rule()
    def crash(self) -> None:
        """Lose everything that is not on disk, and begin another run."""
        self.journal.close()
        self.journal = opened(self.path)
        self.met, self.left, self.flying, self.sealed = set(), set(), {}, {}
        self.scanning = self.feeding = True

    @invariant()
    def stored_is_final(self) -> None:
        """Check that exactly the acknowledged instances are stored."""
        rows = self.journal.connection.db.execute(
            "SELECT s.label, i.sop_uid FROM instance i JOIN session s ON s.key = i.session WHERE i.state = 'STORED'"
        ).fetchall()
        assert set(rows) == self.stored

    @invariant()
    def the_sum_is_right(self) -> None:
        """Check that each file of this run is in one category."""
        files = JournalReader.of(self.journal).summary().files
        assert files.found + files.unreadable == len(self.met)


# In parts, because each has a minute, and a busy machine is several times slower.
@pytest.mark.thorough
@pytest.mark.parametrize("part", range(4))
def test_any_order(part: int) -> None:
    """A hundred histories in all."""
    assert part in range(4)
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
