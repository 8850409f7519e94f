"""The line: on real files, a real journal and a real test XNAT, and with a source and a destination out of memory."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pydicom
import pytest
from builders import (
    AT_ONCE,
    folder,
    image,
    logged_in,
    no_sleep,
    opened,
    router,
    sop,
    states_in,
    summary_of,
    uids_below,
    upload,
    write,
)
from yarl import URL

from asyncimport.dicom import STUDY_FIELDS, Identity
from asyncimport.errors import (
    JournalError,
    LoginRefusedError,
    RefusedError,
    SourceError,
    TransientError,
    UnavailableError,
    UsageError,
)
from asyncimport.journal import Journal
from asyncimport.model import (
    Archived,
    ArchivedContent,
    ArchivedPatient,
    Body,
    Claim,
    Delivery,
    Digest,
    Dropped,
    File,
    FileKind,
    Held,
    Ignored,
    Instance,
    Outcome,
    SealedDelivery,
    Session,
    Summary,
    Verdict,
)
from asyncimport.model.events import (
    Admitted,
    Event,
    OutcomesRecorded,
    RetryScheduled,
    ScanFinished,
    Scanned,
    ServerUnavailable,
)
from asyncimport.model.options import Options, Retry
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.feed import files_per_batch, split_batches
from asyncimport.pipeline.images import upload_images
from asyncimport.routing import PathPattern, Router
from asyncimport.testserver import Fault, Reset, RowStatus, Status, Tell, TestXnat, serve
from asyncimport.testserver.samples import Written, generated
from asyncimport.xnat.images import XnatDestination

pytestmark = pytest.mark.anyio

FEW = Options(workers=4, finalizers=2, settle_seconds=0)
ONE = Options(workers=1, finalizers=1, settle_seconds=0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Name a place for the files of a test."""
    return tmp_path / "tree"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Name a place for the journal of a test."""
    return tmp_path / "journal.db"


def sample(tree: Path, **options: Any) -> Written:
    """Write a small collection: 4 sessions of 60 files."""
    return generated(tree, **{"sessions": 4, "files": 60, "size": 3000, **options})


# --- on a real server


async def test_everything_arrives(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Each instance on disk, as pydicom reads them, is in the archive, verified; nothing stays in the prearchive."""
    written = sample(tree)
    summary = await upload(url, [tree], book)
    assert xnat.sop_uids("demo") == await uids_below(tree)
    assert len(xnat.sop_uids("demo")) == written.instances == 60
    assert (summary.files.stored, summary.files.found) == (60, 60)
    assert summary.bytes_stored == written.bytes
    assert [(report.state, report.verified) for report in summary.sessions] == [("archived", "uids")] * 4
    assert not xnat.prearchive
    assert not xnat.partial_files()
    assert xnat.live_logins("demo") == 0
    assert xnat.count["login"] == 1
    assert len(xnat.archived) == 4


async def test_a_second_run_sends_nothing(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Whatever is in the journal and unchanged on disk is neither sent nor finalised again."""
    sample(tree)
    await upload(url, [tree], book)
    xnat.count.clear()
    summary = await upload(url, [tree], book)
    assert set(xnat.count) == {"login", "logout", "listing"}
    assert (summary.files.stored, summary.files.already_stored) == (0, 60)
    assert [report.state for report in summary.sessions] == ["archived"] * 4


async def test_large_and_small_files_arrive_side_by_side(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Those over 1 MiB are streamed from disk, between the others."""
    for number in range(1, 13):
        write(tree / f"{number:02}", image(number, pixels=(2 << 20) if number % 3 == 0 else 500))
    await upload(url, [tree], book)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 13)}
    assert not xnat.partial_files()


async def test_the_first_file_of_a_session_goes_alone(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """All files of a session go to one row, which the first one made; sessions overlap."""
    sample(tree)
    await upload(url, [tree], book)
    assert len({record.uri for record in xnat.imports}) == 4


async def test_new_files_of_an_archived_session_are_merged(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """They are a delivery of their own, and the session is verified as a whole."""
    write(tree / "1", image(1))
    await upload(url, [tree], book)
    write(tree / "2", image(2))
    summary = await upload(url, [tree], book)
    assert (summary.files.already_stored, summary.files.stored) == (1, 1)
    assert [report.state for report in summary.sessions] == ["archived"]
    (session,) = xnat.archived
    assert {file.sop_uid for file in session.files} == {sop(1), sop(2)}


async def test_without_archiving_sessions_stay_in_the_prearchive(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """Built and not archived; the next run, with archiving, sends nothing and finishes them."""
    sample(tree)
    summary = await upload(url, [tree], book, options=Options(workers=4, archive=False))
    assert summary.count("prearchive") == 4
    assert {row.status for row in xnat.prearchive} == {RowStatus.READY}
    xnat.count.clear()
    summary = await upload(url, [tree], book)
    assert xnat.count["import"] == 0
    assert summary.count("archived") == 4
    assert xnat.sop_uids() == await uids_below(tree)


async def test_what_cannot_be_sent_is_told_and_the_rest_arrives(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """Copies, conflicting twins, files without a date, labels of two studies, and what is no DICOM at all."""
    write(tree / "a" / "1", image(1))
    write(tree / "a" / "2", image(2))
    write(tree / "b" / "copy of 1", image(1))
    write(tree / "b" / "other 2", image(2, pixels=50))
    write(tree / "c" / "undated", image(3, StudyDate=None))
    write(tree / "c" / "collides", image(4, StudyInstanceUID="9.9"))
    write(tree / "d" / "homeless", image(5, StudyInstanceUID=None))
    write(tree / "d" / "notes.dcm", b"notes")
    write(tree / "d" / "empty", b"")
    summary = await upload(url, [tree], book)
    assert xnat.sop_uids() == {sop(1), sop(2)}
    files = summary.files
    assert (files.stored, files.duplicate, files.skipped, files.unreadable, files.not_dicom) == (2, 1, 3, 1, 2)
    reasons = {Path(problem.example).name: problem.reason for problem in summary.problems}
    assert "different content" in reasons["other 2"]
    assert "no StudyDate in the header" in reasons["undated"]
    assert "belongs to study 1.2.3 already" in reasons["collides"]
    assert "homeless" in reasons
    assert xnat.count["import"] == 2


async def test_scan_first_refuses_a_source_with_collisions(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Not a byte is sent; the reason and where to see all of them are told."""
    for number in range(1, 60):
        write(tree / "a" / f"{number}", image(number))
    write(tree / "b", image(60, StudyInstanceUID="9.9"))
    with pytest.raises(UsageError, match=r"nothing was sent.*belongs to study") as caught:
        await upload(url, [tree], book, options=Options(workers=4, check_first=True))
    assert "status" in caught.value.hint
    assert xnat.count["import"] == 0
    assert xnat.live_logins("demo") == 0


async def test_scan_first_sends_all_of_a_sound_source(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """With nothing in the way it is a run like any other."""
    sample(tree)
    await upload(url, [tree], book, options=Options(workers=4, check_first=True))
    assert xnat.sop_uids() == await uids_below(tree)


async def test_misrouting_stops_a_session_after_its_first_file(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """A project that is deleted meanwhile: 200, and the file in Unassigned. One file a session, and no more."""
    written = sample(tree)
    xnat.faults.add(Fault("import", Tell(xnat.projects.clear)))
    summary = await upload(url, [tree], book)
    assert xnat.count["import"] == written.sessions
    assert {record.project for record in xnat.imports} == {"Unassigned"}
    assert [report.state for report in summary.sessions] == ["held"] * written.sessions
    assert all("unassigned" in (report.reason or "") for report in summary.sessions)
    assert (xnat.count["build"], xnat.count["archive"]) == (0, 0)


@pytest.mark.parametrize("most_open", [1, 2])
async def test_held_sessions_make_room_for_others(
    xnat: TestXnat, url: str, tree: Path, book: Path, most_open: int
) -> None:
    """However few sessions may be open: one that ends before the end of the scan is not open any more."""
    sample(tree, sessions=6, files=40)
    options = Options(workers=2, finalizers=1, max_open_sessions=most_open)
    xnat.faults.add(Fault("import", Tell(xnat.projects.clear)))
    with anyio.fail_after(10):
        await upload(url, [tree], book, options=options)
    assert xnat.count["import"] == 6


async def test_few_sessions_are_open_at_a_time(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """A days-long run does not fill the server's prearchive."""
    sample(tree, sessions=8, files=40)
    most = 0

    def report(_: Event) -> None:
        nonlocal most
        most = max(most, len(xnat.prearchive))

    await upload(url, [tree], book, options=Options(workers=4, finalizers=1, max_open_sessions=2), report=report)
    assert xnat.sop_uids() == await uids_below(tree)
    assert most <= 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("import", Status(503, "busy", {"Retry-After": "0"}), nth=3, times=2),
        Fault("import", Status(502), nth=1),
        Fault("import", Status(400, "unable to read DICOM object upload.dcm"), nth=5),
        Fault("import", Reset(effect=False), nth=4),
        Fault("import", Reset(effect=True), nth=4),
        Fault("import", Reset(after_bytes=1500), nth=4),
        Fault("import", Reset(effect=True), nth=1),
        Fault("login", Status(503)),
        Fault("build", Reset(effect=True)),
        Fault("build", Status(409, "session document locked")),
        Fault("archive", Reset(effect=True)),
        Fault("archive", Status(504)),
        Fault("listing", Status(502), nth=2),
    ],
    ids=lambda fault: f"{fault.kind} {fault.nth} {fault.action}",
)
async def test_a_fault_for_a_time_costs_nothing(xnat: TestXnat, url: str, tree: Path, book: Path, fault: Fault) -> None:
    """Each one is met, repeated, and everything arrives whole all the same."""
    sample(tree)
    # One parameter serves every run of the test.
    struck = xnat.faults.add(Fault(fault.kind, fault.action, fault.nth, fault.times))
    summary = await upload(url, [tree], book)
    assert struck.hits == fault.times
    assert xnat.sop_uids() == await uids_below(tree)
    assert not xnat.partial_files()
    assert summary.files.stored == 60
    assert summary.count("archived") == 4


async def test_an_expired_login_costs_one_login(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """All workers meet the 401; one of them logs in."""
    sample(tree)
    xnat.faults.add(Fault("import", Tell(xnat.expire_logins), nth=20))
    await upload(url, [tree], book, options=Options(workers=16))
    assert xnat.count["login"] == 2
    assert xnat.sop_uids() == await uids_below(tree)


async def test_a_file_that_xnat_never_reads_is_refused_and_holds_its_session(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """400 "unable to read" may be XNAT's full disk, so it is a verdict only when it stays, and never a filter's."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    answer = Status(400, "unable to read DICOM object upload.dcm")
    fault = xnat.faults.add(Fault("import", answer, nth=3, times=AT_ONCE.attempts))
    summary = await upload(url, [tree], book, options=ONE)
    assert fault.hits == AT_ONCE.attempts
    assert not xnat.archived
    assert (summary.files.refused, summary.files.stored) == (1, 4)
    assert [(one.state, one.reason) for one in summary.sessions] == [("held", "1 of its files was refused")]
    (problem,) = summary.problems
    assert (problem.kind, Path(problem.example).name) == ("refused", "3")
    assert problem.reason == "XNAT could not read the file (400: unable to read DICOM object), 3 times"
    # The disk may have room by now: it is tried again, and joins the session.
    summary = await upload(url, [tree], book, options=ONE)
    assert summary.count("archived") == 1
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}
    assert summary.files.stored == 1


async def test_a_refusal_after_a_broken_attempt_does_not_let_the_session_go(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """XNAT keeps the part that arrived: the session is not archived with it, but waits until the file is whole."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    answer = Status(400, "unable to read DICOM object upload.dcm")
    cut = xnat.faults.add(Fault("import", Reset(after_bytes=(tree / "3").stat().st_size - 10), nth=3))
    # The connection may have been closed before: that has cost no attempt.
    xnat.faults.add(Fault("import", answer, nth=4, times=AT_ONCE.attempts))
    summary = await upload(url, [tree], book, options=ONE)
    assert cut.hits == 1
    assert (summary.files.failed, summary.files.refused, summary.files.stored) == (1, 0, 4)
    assert "after an attempt that broke off" in summary.problems[0].reason
    assert not xnat.archived
    summary = await upload(url, [tree], book, options=ONE)
    assert summary.count("archived") == 1
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}
    assert not xnat.partial_files()


@pytest.mark.parametrize("there", [True, False])
async def test_the_last_file_may_be_hopeless(book: Path, there: bool) -> None:
    """Nothing else is left that could get through: the server is asked whether it is away."""
    shelf = Shelf()
    shelf.there = there

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.5":
            raise TransientError("the connection broke", may_have_taken_effect=True)

    shelf.on_store = store
    options = replace(ONE, outage_timeout=0.05)
    if there:
        summary = await move(Memory(study("1", 5)), shelf, book, options=options)
        assert (summary.files.failed, summary.files.stored) == (1, 4)
        assert summary.count("held") == 1
    else:
        with pytest.raises(UnavailableError):
            await move(Memory(study("1", 5)), shelf, book, options=options)


async def test_many_files_are_not_all_hopeless(book: Path) -> None:
    """XNAT answers what is small and lets no file in: one is given up at most, then the run waits."""
    shelf = Shelf()
    shelf.there = True

    async def store(_: Claim) -> None:
        if len(shelf.stored) >= 2:
            raise TransientError("the connection broke", may_have_taken_effect=True)

    shelf.on_store = store
    with pytest.raises(UnavailableError):
        await move(Memory(study("1", 20)), shelf, book, options=replace(ONE, outage_timeout=0.05))
    states = [str(state) for state in (await states_in(book)).values()]
    assert (states.count("STORED"), states.count("FAILED")) == (2, 1)


async def test_a_file_that_was_turned_away_at_the_door_is_refused_after_a_cut_too(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """XNAT has nothing of a file that the proxy before it does not let through, whatever became of the first answer."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    xnat.faults.add(Fault("import", Reset(effect=False), nth=3))
    xnat.faults.add(Fault("import", Status(413), nth=4))
    summary = await upload(url, [tree], book, options=ONE)
    assert (summary.files.failed, summary.files.refused, summary.files.stored) == (0, 1, 4)
    assert "(413)" in summary.problems[0].reason
    assert summary.count("held") == 1
    # It would be turned away again, unless somebody asks for it.
    summary = await upload(url, [tree], book, options=ONE)
    assert (summary.count("held"), summary.files.refused, xnat.count["import"]) == (1, 1, 6)
    summary = await upload(url, [tree], book, options=replace(ONE, retry=frozenset({Retry.REFUSED})))
    assert (summary.count("archived"), summary.files.refused) == (1, 0)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}


async def test_an_overload_longer_than_the_attempts_is_outlasted(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """While nothing at all gets through, no file is to blame: the run waits, says so, and goes on."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    events: list[Event] = []
    fault = xnat.faults.add(Fault("import", Status(503), nth=3, times=AT_ONCE.attempts + 4))
    summary = await upload(url, [tree], book, options=ONE, report=events.append)
    assert fault.hits == AT_ONCE.attempts + 4
    assert (summary.files.failed, summary.files.stored) == (0, 5)
    assert summary.count("archived") == 1
    assert [event for event in events if isinstance(event, ServerUnavailable)] == [
        ServerUnavailable("the server is overloaded or away (503)"),
        ServerUnavailable(None),
    ]


async def test_a_server_that_goes_away_ends_the_run_and_the_next_one_goes_on(
    xnat: TestXnat, tree: Path, book: Path
) -> None:
    """What was acknowledged is written down; the next run sends the rest."""
    sample(tree)
    away = anyio.Event()
    xnat.faults.add(Fault("import", Tell(away.set), nth=25))
    errors: list[UnavailableError] = []

    async def first_run(url: str) -> None:
        # Which of the two was seen last is chance: the server closes its connections one by one.
        last = r"for too long: (no connection to the server|the connection broke)"
        with pytest.raises(UnavailableError, match=last) as caught:
            await upload(url, [tree], book, options=replace(FEW, outage_timeout=0))
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks, serve(xnat) as url:
        tasks.start_soon(first_run, url)
        await away.wait()
    (error,) = errors
    assert "run the same command again" in error.hint
    stored = {uid for uid, state in (await states_in(book)).items() if state == "STORED"}
    received = {record.sop_uid for record in xnat.imports}
    assert stored <= received
    assert len(stored) >= 25 - FEW.max_workers
    xnat.imports.clear()
    async with serve(xnat, port=URL(url).port or 0):
        await upload(url, [tree], book)
    assert {record.sop_uid for record in xnat.imports} == await uids_below(tree) - stored
    assert xnat.sop_uids() == await uids_below(tree)


async def test_a_login_refused_in_mid_run_is_the_one_error(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Every worker meets it; the run ends with it once, and what was acknowledged is written down."""
    sample(tree)

    def lock_out() -> None:
        xnat.users.clear()
        xnat.expire_logins()

    xnat.faults.add(Fault("import", Tell(lock_out), nth=30))
    with pytest.raises(LoginRefusedError, match="refused the user name or password"):
        await upload(url, [tree], book)
    assert xnat.count["login"] == 2
    stored = {uid for uid, state in (await states_in(book)).items() if state == "STORED"}
    received = {record.sop_uid for record in xnat.imports}
    assert stored <= received
    # An answer may have been on its way when the run ended.
    assert len(received - stored) < FEW.max_workers


async def test_a_run_that_was_cancelled_is_resumed(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """What was in flight is sent again, and nothing else."""
    sample(tree)
    with anyio.CancelScope() as scope:
        xnat.faults.add(Fault("import", Tell(scope.cancel), nth=30))
        await upload(url, [tree], book)
    assert scope.cancelled_caught
    assert xnat.live_logins("demo") == 0
    await upload(url, [tree], book)
    assert xnat.sop_uids() == await uids_below(tree)
    assert len(xnat.imports) <= 60 + FEW.max_workers


async def test_a_run_that_was_cancelled_while_archiving_is_resumed(
    xnat: TestXnat, url: str, tree: Path, book: Path
) -> None:
    """Behind the seal nothing is sent; the next run looks how far XNAT has come."""
    for number in range(1, 6):
        write(tree / f"{number}", image(number))
    with anyio.CancelScope() as scope:
        xnat.faults.add(Fault("archive", Tell(scope.cancel)))
        await upload(url, [tree], book)
    assert scope.cancelled_caught
    xnat.count.clear()
    summary = await upload(url, [tree], book)
    assert xnat.count["import"] == 0
    assert summary.count("archived") == 1
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}


# --- out of memory


@dataclass
class Memory:
    """A source out of memory: `files` maps paths to (study, number); a path with "bad" in it cannot be read."""

    files: dict[str, tuple[str, int]]
    roots: Sequence[str] = ("/m",)
    before_last: Callable[[], Any] | None = None
    batch: int = 4
    patients: dict[str, str] = field(default_factory=dict)
    twins_equal: bool | None = True
    read_ahead: int = 1_000

    @property
    def places(self) -> Sequence[str]:
        """Walk what is to be covered."""
        return self.roots

    async def batches(self) -> AsyncIterator[list[File | Ignored]]:
        """Yield all files, a few at a time; and wait for something before the last batch, if wanted."""
        found: list[File | Ignored] = [File(path, 100, 1) for path in self.files]
        starts = range(0, len(found), self.batch)
        for start in starts:
            if start == starts[-1] and self.before_last is not None:
                await self.before_last()
            yield found[start : start + self.batch]

    async def identify_many(self, files: Sequence[File]) -> list[Identity | Ignored]:
        """Look them up."""
        return [self.identify(file) for file in files]

    def identify(self, file: File) -> Identity | Ignored:
        """Look one up."""
        study, number = self.files[file.path]
        if not number:
            return Ignored(file, FileKind.NOT_DICOM, "not DICOM")
        fields = {"PatientID": self.patients.get(study, study), "StudyDate": f"D{study}"}
        return Identity(f"{study}.{number}", study, f"{study}.0", fields)

    async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
        """Make up the bytes."""
        return [SourceError("cannot be read") if "bad" in file.path else file.path.encode() for file in files]

    def relative(self, path: str) -> str:
        """Take away the root."""
        return path.removeprefix("/m/")

    async def same_bytes(self, one: str, other: str) -> bool | None:
        """Say what was said."""
        assert one != other
        return self.twins_equal

    async def have_digests(self, files: Sequence[tuple[File, Digest]]) -> list[bool | None]:
        """Hold what was sent, or not, as the twins are equal."""
        return [self.twins_equal for _ in files]


def study(name: str, count: int, first: int = 1) -> dict[str, tuple[str, int]]:
    """Name the files of a study."""
    return {f"/m/{name}/{number:03}": (name, number) for number in range(first, first + count)}


class Shelf:
    """A destination out of memory, which acknowledges everything; tests say what is different."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.finalized: list[str] = []
        self.at_work: set[str] = set()
        self.on_store: Callable[[Claim], Any] = no_wait
        self.on_finalize: Callable[[SealedDelivery], Any] = no_wait
        self.sealed: list[SealedDelivery] = []
        self.there = False
        self.archive: dict[str, ArchivedContent] = {}
        self.before: dict[str, frozenset[str]] = {}

    async def store(self, claim: Claim, body: Body) -> str:
        """Acknowledge a file."""
        assert claim.instance.file.path.encode() == body
        await self.on_store(claim)
        self.stored.append(claim.instance.sop_uid)
        return f"/prearchive/{claim.instance.session.label}/{claim.delivery.number}"

    async def find_drop_rules(
        self, _session: Session, headers: Sequence[Mapping[str, str] | None], *, archived: bool
    ) -> list[Dropped | None]:
        """Know of no rules."""
        del archived
        return [None for _ in headers]

    async def ping(self) -> bool:
        """Be there or not, as told."""
        return self.there

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Nobody is in the archive."""
        assert session.subject
        return ()

    async def find_existing(self, claim: Claim) -> ArchivedContent | None:
        """Find what is in the archive: nothing, unless a test puts it there."""
        return self.archive.get(claim.instance.session.label)

    async def archived_uids(self, session: Session) -> frozenset[str] | None:
        """Let UIDs tell, unless a test says otherwise."""
        return self.before.get(session.label)

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Archive a delivery."""
        subject = sealed.delivery.session.subject
        assert subject not in self.at_work, "two deliveries of a subject at a time"
        self.at_work.add(subject)
        try:
            verdict = await self.on_finalize(sealed)
        finally:
            self.at_work.remove(subject)
        self.finalized.append(sealed.delivery.session.study_uid)
        self.sealed.append(sealed)
        return verdict if verdict is not None else Archived(sealed.delivery, "/archive", "uids")


async def no_wait(_: object) -> None:
    """Let others run."""
    await anyio.lowlevel.checkpoint()


async def move(
    source: Memory,
    shelf: Shelf,
    book: Path,
    *,
    options: Options = FEW,
    stop: Stop | None = None,
    report: Callable[[Event], None] = lambda _: None,
    policy: RetryPolicy = AT_ONCE,
) -> Summary:
    """Run the line between the two."""
    rules = router(session="{StudyDate}")
    with anyio.fail_after(20):
        async with opened(book, rules) as journal:
            await upload_images(source, shelf, journal, rules, options=options, policy=policy, stop=stop, report=report)
            return await summary_of(journal)


async def move_by_directory(source: Memory, shelf: Shelf, book: Path, **options: Any) -> Summary:
    """Run the line with labels out of directories."""
    rules = Router("P", session="{session}", keywords=frozenset(STUDY_FIELDS), paths=PathPattern.parse("{session}/**"))
    assert rules.session_depth == 1
    with anyio.fail_after(20):
        async with opened(book, rules) as journal:
            await upload_images(source, shelf, journal, rules, options=replace(FEW, **options), policy=AT_ONCE)
            return await summary_of(journal)


async def test_a_session_ends_when_the_walk_leaves_its_directory(book: Path) -> None:
    """It is archived while the scan goes on, which here does not before that."""
    shelf = Shelf()
    archived = anyio.Event()

    async def first(_: SealedDelivery) -> None:
        archived.set()

    shelf.on_finalize = first
    files = {**study("1", 6), **study("2", 6), "/m/2/notes": ("-", 0)}
    source = Memory(files, before_last=archived.wait)
    summary = await move_by_directory(source, shelf, book)
    assert shelf.finalized == ["1", "2"]
    assert summary.count("archived") == 2
    assert [len(sealed.sop_uids) for sealed in shelf.sealed] == [6, 6]


async def test_a_session_that_lacks_a_file_does_not_end_so(book: Path) -> None:
    """What cannot be read keeps it open to the end, where it is held; asked for, it ends in part."""
    files = {**study("1", 3), "/m/1/bad": ("1", 9), **study("2", 6)}
    shelf = Shelf()
    summary = await move_by_directory(Memory(files), shelf, book)
    assert shelf.finalized == ["2"]
    assert [report.state for report in summary.sessions] == ["held", "archived"]
    summary = await move_by_directory(Memory(files), shelf, book, partial=True)
    assert shelf.finalized == ["2", "1"]
    assert summary.count("archived") == 2


async def test_two_sources_may_have_one_session(book: Path) -> None:
    """Nothing ends before the scan does, as the other may have more of it."""
    shelf = Shelf()
    files = {"/m/1/a": ("1", 1), "/m/2/a": ("2", 1), "/n/1/b": ("1", 2)}

    class Both(Memory):
        def relative(self, path: str) -> str:
            return path[3:]

    summary = await move_by_directory(Both(files, roots=("/m", "/n"), batch=1), shelf, book)
    assert [len(sealed.sop_uids) for sealed in sorted(shelf.sealed, key=lambda one: one.delivery.key)] == [2, 1]
    assert summary.count("archived") == 2


async def test_every_event_is_reported(book: Path) -> None:
    """The events add up to what happened, in an order that makes sense."""
    events: list[Event] = []
    files = {**study("1", 6), **study("2", 4), "/m/notes": ("-", 0)}
    summary = await move(Memory(files), Shelf(), book, report=events.append)
    assert sum(event.files for event in events if isinstance(event, Scanned)) == 11
    assert sum(event.size for event in events if isinstance(event, Scanned)) == 1100
    assert sum(event.files for event in events if isinstance(event, Admitted)) == 10
    assert [event for event in events if isinstance(event, ScanFinished)] == [ScanFinished(0, 0)]
    assert sum(len(event.outcomes) for event in events if isinstance(event, OutcomesRecorded)) == 10
    assert len([event for event in events if isinstance(event, Archived)]) == 2
    assert summary.files.stored == 10


async def test_an_empty_source_ends_at_once(book: Path) -> None:
    """There is nothing to wait for."""
    summary = await move(Memory({}), Shelf(), book)
    assert (summary.files.found, summary.sessions) == (0, ())


async def test_the_first_file_of_a_delivery_is_sent_by_itself(book: Path) -> None:
    """Its answer fixes the row before the rest follows; other sessions are not held up by it."""
    shelf = Shelf()
    flying: dict[str, set[str | None]] = {"1": set(), "2": set(), "3": set()}
    alone = True

    async def store(claim: Claim) -> None:
        nonlocal alone
        name = claim.instance.session.study_uid
        alone = alone and not (flying[name] and None in {claim.delivery.uri, *flying[name]})
        flying[name].add(claim.delivery.uri)
        await no_wait(claim)
        flying[name].clear()

    shelf.on_store = store
    await move(Memory({**study("1", 20), **study("2", 20), **study("3", 20)}), shelf, book)
    assert alone
    assert len(shelf.stored) == 60


async def test_the_next_session_begins_while_the_one_before_is_sent(book: Path) -> None:
    """Its first file waits for several answers: asked early, they keep nobody waiting."""
    shelf = Shelf()
    under_way, both_known = anyio.Event(), anyio.Event()
    known: list[Admitted] = []

    def report(event: Event) -> None:
        if isinstance(event, Admitted):
            known.append(event)
        if len(known) == 2:
            both_known.set()

    async def store(claim: Claim) -> None:
        if claim.delivery.uri is not None:
            # Of the first session some files are claimed by now, and not all.
            under_way.set()
            await both_known.wait()

    shelf.on_store = store
    source = Memory({**study("1", 1_000), **study("2", 20)}, batch=1_000, before_last=under_way.wait)
    await move(source, shelf, book, options=replace(FEW, workers=1), report=report)
    assert shelf.stored.index("2.1") < shelf.stored.index("1.1000")
    assert len(shelf.stored) == 1_020


async def test_deliveries_of_a_subject_are_finalised_one_at_a_time(book: Path) -> None:
    """XNAT's archive step sleeps ten seconds where two of them meet; other subjects go on beside."""
    shelf = Shelf()
    files = {path: key for number in range(1, 9) for path, key in study(f"{number}", 2).items()}
    patients = {f"{number}": "twice" for number in range(1, 5)}
    together = anyio.Event()

    async def finalize(_: SealedDelivery) -> None:
        if len(shelf.at_work) > 2:
            together.set()
        await together.wait()

    shelf.on_finalize = finalize
    options = Options(workers=4, finalizers=4)
    await move(Memory(files, patients=patients), shelf, book, options=options)
    assert sorted(shelf.finalized) == [f"{number}" for number in range(1, 9)]
    assert together.is_set()


async def test_a_session_is_sealed_with_all_that_was_acknowledged(book: Path) -> None:
    """Nothing is sent behind the seal, and the seal lists every instance of the session."""
    shelf = Shelf()
    await move(Memory(study("1", 30)), shelf, book)
    (sealed,) = shelf.sealed
    assert sealed.sop_uids == set(shelf.stored)
    assert len(sealed.sop_uids) == 30


async def test_equal_twins_are_duplicates_and_stand_in(book: Path) -> None:
    """The copy is not sent, unless the first one cannot be read."""
    shelf = Shelf()
    files = {"/m/a bad": ("1", 1), "/m/a/2": ("1", 2), "/m/b/1": ("1", 1), "/m/b/2": ("1", 2)}
    summary = await move(Memory(files), shelf, book)
    assert sorted(shelf.stored) == ["1.1", "1.2"]
    assert (summary.files.stored, summary.files.duplicate, summary.files.unreadable) == (2, 1, 1)
    assert summary.count("archived") == 1


async def test_twins_that_cannot_be_compared_are_no_unequal_ones(book: Path) -> None:
    """A copy that cannot be read is told as that; nothing is lacking, as another is sent."""
    shelf = Shelf()
    summary = await move(Memory({"/m/a": ("1", 1), "/m/b": ("1", 1)}, twins_equal=None), shelf, book)
    assert shelf.stored == ["1.1"]
    assert (summary.files.skipped, summary.files.unreadable, summary.count("archived")) == (0, 1, 1)
    assert "cannot be compared" in summary.problems[0].reason


async def test_unequal_twins_are_skipped(book: Path) -> None:
    """Which one is right, nobody knows: the first is sent, the other told."""
    shelf = Shelf()
    summary = await move(Memory({"/m/a": ("1", 1), "/m/b": ("1", 1)}, twins_equal=False), shelf, book)
    assert shelf.stored == ["1.1"]
    assert summary.files.skipped == 1


async def test_a_file_that_cannot_be_read_fails(book: Path) -> None:
    """It is no word of XNAT's; its session waits for it."""
    shelf = Shelf()
    summary = await move(Memory({"/m/1": ("1", 1), "/m/bad": ("1", 2)}), shelf, book)
    assert (summary.files.failed, summary.files.stored) == (1, 1)
    assert shelf.finalized == []
    (problem,) = summary.problems
    assert (problem.kind, problem.reason) == ("failed", "cannot be read")


async def test_a_file_that_changes_while_it_is_sent_fails_at_once(book: Path) -> None:
    """The destination finds it out in mid-body; to try again would be in vain."""
    shelf = Shelf()
    tried = 0

    async def store(claim: Claim) -> None:
        nonlocal tried
        if claim.instance.sop_uid == "1.3":
            tried += 1
            raise SourceError("the file shrank while it was sent")

    shelf.on_store = store
    summary = await move(Memory(study("1", 5)), shelf, book)
    assert tried == 1
    assert (summary.files.failed, summary.files.stored) == (1, 4)
    assert summary.problems[0].reason == "the file shrank while it was sent"


@pytest.mark.parametrize("whole", [False, True])
async def test_a_refusal_is_not_repeated(book: Path, whole: bool) -> None:
    """Of one file, the others go on; of the session, nothing more of it is handed out. Neither is archived so."""
    shelf = Shelf()
    tried = 0

    async def store(claim: Claim) -> None:
        nonlocal tried
        if claim.instance.sop_uid == "1.1":
            tried += 1
            raise RefusedError("no", whole_session=whole)

    shelf.on_store = store
    summary = await move(Memory({**study("1", 5), **study("2", 5)}), shelf, book)
    assert tried == 1
    assert summary.files.refused == 1
    assert len(shelf.stored) == (5 if whole else 9)
    assert shelf.finalized == ["2"]


async def test_repetitions_are_reported_and_slow_all_down(book: Path) -> None:
    """Each transient failure is told; overload halves what is in flight, which then grows back."""
    shelf = Shelf()
    events: list[Event] = []
    flying = most = 0

    async def store(claim: Claim) -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await no_wait(claim)
        flying -= 1
        if claim.instance.sop_uid == "1.1" and not any(isinstance(event, RetryScheduled) for event in events):
            raise TransientError("busy", overload=True, retry_after=0)

    shelf.on_store = store
    await move(Memory(study("1", 40)), shelf, book, report=events.append, options=Options(workers=2))
    (repeated,) = (event for event in events if isinstance(event, RetryScheduled))
    assert (repeated.reason, repeated.attempt) == ("busy", 1)
    assert repeated.claim is not None
    assert len(shelf.stored) == 40
    assert most <= 2


async def test_scan_first_waits_for_the_end_of_the_scan(book: Path) -> None:
    """Nothing is sent before all is known, though much of it could be."""
    shelf = Shelf()

    async def look() -> None:
        await anyio.wait_all_tasks_blocked()
        assert shelf.stored == []

    source = Memory(study("1", 20), before_last=look)
    await move(source, shelf, book, options=Options(workers=4, check_first=True))
    assert len(shelf.stored) == 20


async def test_sending_begins_while_the_scan_goes_on(book: Path) -> None:
    """Otherwise what is known is on its way at once; but no session is sealed before the scan's end."""
    shelf = Shelf()
    all_there_is = anyio.Event()

    async def store(_: Claim) -> None:
        if len(shelf.stored) == 15:
            all_there_is.set()

    async def look() -> None:
        await all_there_is.wait()
        assert shelf.finalized == []

    shelf.on_store = store
    await move(Memory(study("1", 20), before_last=look), shelf, book)
    assert len(shelf.stored) == 20
    assert shelf.finalized == ["1"]


async def test_scan_first_waits_though_an_older_delivery_ends(book: Path) -> None:
    """What an earlier run has sealed is archived meanwhile, and that must not set the rest going."""
    shelf = Shelf()

    async def never(_: SealedDelivery) -> None:
        raise UnavailableError("gone")

    shelf.on_finalize = never
    with pytest.raises(UnavailableError):
        await move(Memory(study("1", 3)), shelf, book)
    shelf.on_finalize = no_wait
    closed = anyio.Event()

    def report(event: Event) -> None:
        if isinstance(event, Archived):
            closed.set()

    async def look() -> None:
        await closed.wait()
        # Once around the journal, so that whoever was woken has had his turn.
        for _ in range(20):
            await anyio.to_thread.run_sync(int)
        assert len(shelf.stored) == 3

    files = {**study("1", 3), **study("2", 20)}
    options = Options(workers=4, check_first=True)
    await move(Memory(files, before_last=look), shelf, book, options=options, report=report)
    assert len(shelf.stored) == 23
    assert sorted(shelf.finalized) == ["1", "2"]


async def test_new_files_of_a_sealed_delivery_wait_for_its_end(book: Path) -> None:
    """They go into the next delivery: nothing is sent behind a seal."""
    shelf = Shelf()

    async def never(_: SealedDelivery) -> None:
        raise UnavailableError("gone")

    shelf.on_finalize = never
    with pytest.raises(UnavailableError):
        await move(Memory(study("1", 3)), shelf, book)
    order: list[str] = []

    async def store(claim: Claim) -> None:
        order.append(f"store {claim.delivery.number}")

    async def finalize(sealed: SealedDelivery) -> None:
        await anyio.wait_all_tasks_blocked()
        order.append(f"finalize {sealed.delivery.number}")

    shelf.on_store, shelf.on_finalize = store, finalize
    summary = await move(Memory(study("1", 5)), shelf, book)
    assert order == ["finalize 1", "store 2", "store 2", "finalize 2"]
    assert summary.count("archived") == 1
    assert len(shelf.sealed[-1].sop_uids) == 5


async def test_a_held_delivery_is_taken_up_when_asked_for(book: Path) -> None:
    """HELD waits for a person, and for `--retry`."""
    shelf = Shelf()

    async def hold(sealed: SealedDelivery) -> Held:
        return Held(sealed.delivery, "a conflict")

    shelf.on_finalize = hold
    summary = await move(Memory(study("1", 3)), shelf, book)
    assert [(report.state, report.reason) for report in summary.sessions] == [("held", "a conflict")]
    shelf.on_finalize = no_wait
    await move(Memory(study("1", 3)), shelf, book)
    assert len(shelf.finalized) == 1
    summary = await move(Memory(study("1", 3)), shelf, book, options=Options(workers=1, retry=frozenset({Retry.HELD})))
    assert len(shelf.finalized) == 2
    assert summary.count("archived") == 1
    assert len(shelf.stored) == 3


async def test_a_session_held_during_the_scan_makes_room_for_others(book: Path) -> None:
    """One session may be open at a time: the first one is refused whole before the scan ends, the next one begins."""
    shelf = Shelf()
    refused = anyio.Event()

    async def store(claim: Claim) -> None:
        if claim.instance.session.study_uid == "1":
            refused.set()
            raise RefusedError("no", whole_session=True)

    shelf.on_store = store
    source = Memory({**study("1", 8), **study("2", 4)}, before_last=refused.wait)
    summary = await move(source, shelf, book, options=Options(workers=2, max_open_sessions=1))
    assert sorted(shelf.stored) == [f"2.{number}" for number in range(1, 5)]
    assert [report.state for report in summary.sessions] == ["held", "archived"]


# --- stopping


async def test_the_first_request_to_stop_lets_what_is_in_flight_finish(book: Path) -> None:
    """Uploads under way are finished and written down; nothing more is handed out, and nothing archived."""
    shelf, stop = Shelf(), Stop()
    begun: list[str] = []

    async def store(claim: Claim) -> None:
        begun.append(claim.instance.sop_uid)
        if len(begun) == 10:
            stop.request()
            await anyio.wait_all_tasks_blocked()

    shelf.on_store = store
    files = {**study("1", 30), **study("2", 30)}
    summary = await move(Memory(files), shelf, book, stop=stop)
    assert stop.requested
    assert sorted(shelf.stored) == sorted(begun)
    assert len(begun) <= 10 + FEW.max_workers
    assert summary.files.stored == len(begun)
    assert summary.files.left == summary.files.found - len(begun)
    assert shelf.finalized == []
    summary = await move(Memory(files), shelf, book)
    assert sorted(shelf.stored) == sorted(f"{study}.{number}" for study in "12" for number in range(1, 31))
    assert summary.count("archived") == 2


async def test_the_second_request_drops_what_is_in_flight(book: Path) -> None:
    """Without waiting for the grace to end."""
    shelf, stop = Shelf(), Stop(grace=3600)
    begun = 0

    async def store(_: Claim) -> None:
        nonlocal begun
        begun += 1
        if begun < 5:
            return
        if begun == 5:
            stop.request()
            stop.request()
        await anyio.sleep_forever()

    shelf.on_store = store
    summary = await move(Memory(study("1", 30)), shelf, book, stop=stop)
    assert summary.files.stored == len(shelf.stored) == 4
    assert summary.files.left == summary.files.found - 4


async def test_the_grace_ends(book: Path) -> None:
    """What does not finish in time is dropped: it is sent again by the next run."""
    shelf, stop = Shelf(), Stop(grace=0.05)

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.4":
            stop.request()
            await anyio.sleep_forever()

    shelf.on_store = store
    summary = await move(Memory(study("1", 6)), shelf, book, stop=stop)
    assert "1.4" not in shelf.stored
    assert summary.files.stored == len(shelf.stored)


async def test_a_stop_while_archiving_does_not_wait(book: Path) -> None:
    """SEALED is on disk: the next run goes on from there."""
    shelf, stop = Shelf(), Stop(grace=3600)

    async def finalize(_: SealedDelivery) -> None:
        stop.request()
        await anyio.sleep_forever()

    shelf.on_finalize = finalize
    await move(Memory(study("1", 3)), shelf, book, stop=stop)
    assert shelf.finalized == []
    shelf.on_finalize = no_wait
    summary = await move(Memory(study("1", 3)), shelf, book)
    assert (shelf.finalized, len(shelf.stored)) == (["1"], 3)
    assert summary.count("archived") == 1


async def test_a_stop_during_the_scan_ends_it(book: Path) -> None:
    """A walk over millions of files is not walked to its end."""
    shelf, stop = Shelf(), Stop()

    async def halt() -> None:
        stop.request()
        await anyio.sleep_forever()

    events: list[Event] = []
    summary = await move(Memory(study("1", 20), before_last=halt), shelf, book, stop=stop, report=events.append)
    assert not any(isinstance(event, ScanFinished) for event in events)
    assert summary.files.found <= 16
    assert shelf.finalized == []


@pytest.mark.parametrize("times", [1, 2])
async def test_a_stop_before_the_run_begins_counts(book: Path, times: int) -> None:
    """A signal that comes between login and line must not be forgotten."""
    shelf, stop = Shelf(), Stop(grace=3600)
    for _ in range(times):
        stop.request()
    await move(Memory(study("1", 20)), shelf, book, stop=stop)
    assert shelf.stored == []


# --- failing


async def test_one_fatal_error_ends_the_run_and_the_acknowledged_is_kept(book: Path) -> None:
    """All other stages end with it; every file that the destination took stands in the journal."""
    shelf = Shelf()

    async def store(claim: Claim) -> None:
        await no_wait(claim)
        if len(shelf.stored) >= 40:
            raise LoginRefusedError("no longer")

    shelf.on_store = store
    files = {path: key for number in range(1, 5) for path, key in study(f"{number}", 30).items()}
    with pytest.raises(LoginRefusedError, match="no longer"):
        await move(Memory(files, batch=50), shelf, book, options=Options(workers=16))
    states = await states_in(book)
    assert {uid for uid, state in states.items() if state == "STORED"} == set(shelf.stored)
    assert set(states.values()) == {"STORED", "PENDING"}


async def test_the_gravest_of_several_errors_is_shown(book: Path) -> None:
    """A usage error of the scan and a lost server at the same time: the server."""
    shelf = Shelf()
    both = anyio.Event()

    async def store(_: Claim) -> None:
        both.set()
        raise UnavailableError("gone")

    async def fail() -> None:
        await both.wait()
        raise UsageError("what a source")

    shelf.on_store = store
    with pytest.raises(UnavailableError, match="gone"):
        await move(Memory(study("1", 8), before_last=fail), shelf, book)


async def test_an_error_of_the_source_ends_the_run(book: Path) -> None:
    """It comes out as it is, and not in a group."""

    async def fail() -> None:
        raise UsageError("what a source")

    with pytest.raises(UsageError, match="what a source"):
        await move(Memory(study("1", 8), before_last=fail), Shelf(), book)


async def test_a_server_that_stays_away_ends_the_run(book: Path) -> None:
    """After the longest outage; otherwise each of a million files would fail for itself."""
    shelf = Shelf()
    tried = 0

    async def store(_: Claim) -> None:
        nonlocal tried
        tried += 1
        raise TransientError("no connection", unreachable=True)

    shelf.on_store = store
    with pytest.raises(UnavailableError, match="no connection") as caught:
        await move(Memory(study("1", 8)), shelf, book, options=replace(FEW, outage_timeout=0))
    assert tried == AT_ONCE.attempts
    assert caught.value.hint
    assert set((await states_in(book)).values()) == {"PENDING"}


@pytest.mark.parametrize(
    "error",
    [
        TransientError("no connection", unreachable=True),
        TransientError("the server is overloaded or away (502)", overload=True),
        TransientError("the connection broke", may_have_taken_effect=True),
        TransientError("XNAT could not read the file (400: unable to read DICOM object)", blames_file=True),
    ],
    ids=["unreachable", "overloaded", "broken", "disk full"],
)
async def test_no_file_is_to_blame_for_an_outage(book: Path, error: TransientError) -> None:
    """All files in flight fail at once, many more times than a file may: each of them arrives in the end."""
    shelf = Shelf()
    events: list[Event] = []
    trouble = 30 * AT_ONCE.attempts

    async def store(_: Claim) -> None:
        nonlocal trouble
        if len(shelf.stored) >= 8 and trouble:
            trouble -= 1
            raise error

    shelf.on_store = store
    summary = await move(
        Memory({**study("1", 20), **study("2", 20), **study("3", 20)}, batch=100),
        shelf,
        book,
        options=Options(workers=6, finalizers=2, settle_seconds=0),
        report=events.append,
    )
    assert trouble == 0
    # The first two that XNAT calls broken are believed to be: there is nothing yet to tell them from broken files.
    assert summary.files.failed == 0
    assert summary.files.refused <= (2 if error.blames_file else 0)
    assert summary.files.stored == 60 - summary.files.refused
    assert summary.count("archived") == 3
    reasons = [event.reason for event in events if isinstance(event, ServerUnavailable)]
    assert reasons[:1] == [str(error)]
    assert reasons[-1:] == [None]


async def test_a_file_that_fails_while_others_get_through_fails_for_itself(book: Path) -> None:
    """It is not waited for; its session is not archived without it, and the next run takes it up."""
    shelf = Shelf()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.3":
            # Each attempt fails after another file has got through.
            before = len(shelf.stored)
            while len(shelf.stored) < before + 2:
                await anyio.lowlevel.checkpoint()
            raise TransientError("the connection broke", may_have_taken_effect=True)

    shelf.on_store = store
    source = Memory({**study("1", 10), **study("2", 10)}, batch=100)
    summary = await move(source, shelf, book, options=Options(workers=4, finalizers=1))
    assert (summary.files.failed, summary.files.stored) == (1, 19)
    assert summary.problems[0].reason == "the connection broke, 3 times"
    assert [report.state for report in summary.sessions] == ["held", "archived"]
    shelf.on_store = no_wait
    summary = await move(source, shelf, book)
    assert (summary.files.stored, summary.files.already_stored) == (1, 19)
    assert summary.count("archived") == 2


async def test_an_outage_while_finalising_is_waited_for(book: Path) -> None:
    """The delivery stays sealed and is finalised when the server is back; it is not held."""
    shelf = Shelf()
    trouble = 5

    async def finalize(_: SealedDelivery) -> None:
        nonlocal trouble
        if trouble:
            trouble -= 1
            raise TransientError("no connection", unreachable=True)

    shelf.on_finalize = finalize
    summary = await move(Memory(study("1", 3)), shelf, book)
    assert trouble == 0
    assert summary.count("archived") == 1


@pytest.mark.parametrize("where", ["store", "finalize"])
async def test_a_stop_does_not_wait_for_a_server_that_is_away(book: Path, where: str) -> None:
    """Between two attempts nothing is in flight, so nothing has to be waited for; the next run goes on."""
    shelf, stop = Shelf(), Stop(grace=1_000)
    tried = 0

    async def away(_: object) -> None:
        nonlocal tried
        tried += 1
        if tried == 3:
            stop.request()
        raise TransientError("no connection", unreachable=True)

    setattr(shelf, f"on_{where}", away)
    slow = RetryPolicy(attempts=2, first_seconds=0)
    summary = await move(Memory(study("1", 6)), shelf, book, stop=stop, policy=slow)
    assert tried in range(3, 3 + FEW.max_workers)
    assert (summary.files.left, summary.files.stored) == ((6, 0) if where == "store" else (0, 6))
    assert summary.count("open") == 1
    setattr(shelf, f"on_{where}", no_wait)
    assert (await move(Memory(study("1", 6)), shelf, book)).count("archived") == 1


async def test_a_session_that_a_gateway_cannot_cope_with_stays_open(book: Path) -> None:
    """Others get through meanwhile, so it is no outage, and no verdict either: the next run goes on with it."""
    shelf = Shelf()

    async def finalize(sealed: SealedDelivery) -> None:
        if sealed.delivery.session.study_uid == "1":
            before = len(shelf.finalized)
            while len(shelf.finalized) < min(before + 1, 2):
                await anyio.lowlevel.checkpoint()
            raise TransientError("the server is overloaded or away (504)", overload=True)

    shelf.on_finalize = finalize
    studies = {**study("1", 2), **study("2", 2), **study("3", 2)}
    summary = await move(Memory(studies, batch=100), shelf, book, options=Options(workers=2, finalizers=2))
    assert [report.state for report in summary.sessions] == ["open", "archived", "archived"]
    assert summary.sessions[0].reason == "the server is overloaded or away (504)"
    shelf.on_finalize = no_wait
    summary = await move(Memory(studies, batch=100), shelf, book, options=Options(workers=2, finalizers=2))
    assert [report.state for report in summary.sessions] == ["archived"] * 3


class Torn(Journal):
    """A journal whose disk fails when outcomes are to be written."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.queue.record_outcomes = self._fail  # type: ignore[method-assign]

    def _fail(self, outcomes: Sequence[Outcome]) -> int:
        raise JournalError(f"{len(outcomes)} outcomes lost")


async def test_a_journal_that_fails_ends_the_run(book: Path) -> None:
    """Without it, nothing more may be sent: its error is the one that is shown."""
    rules = router(session="{StudyDate}")
    shelf = Shelf()
    journal = await anyio.to_thread.run_sync(partial(Torn, book, destination="test", rules=rules.rules))
    try:
        with anyio.fail_after(20), pytest.raises(JournalError, match="outcomes lost"):
            await upload_images(Memory(study("1", 50)), shelf, journal, rules, options=FEW, policy=AT_ONCE)
    finally:
        await anyio.to_thread.run_sync(journal.close)
    assert len(shelf.stored) <= 1


class Slow(Journal):
    """A journal that waits before it records outcomes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recorded = 0
        self.before_recording: Callable[[], None] = lambda: None
        self._record_outcomes = self.queue.record_outcomes
        self.queue.record_outcomes = self._wait  # type: ignore[method-assign]

    def _wait(self, outcomes: Sequence[Outcome]) -> int:
        self.before_recording()
        self.recorded += len(outcomes)
        return self._record_outcomes(outcomes)


async def test_outcomes_that_wait_for_the_journal_outlive_a_cancellation(book: Path) -> None:
    """What was taken from the stream is written, though the run is cancelled while the journal is at work."""
    rules = router(session="{StudyDate}")
    shelf = Shelf()
    journal = await anyio.to_thread.run_sync(partial(Slow, book, destination="test", rules=rules.rules))
    with anyio.CancelScope() as scope:

        def strike() -> None:
            if len(shelf.stored) > 1:
                # When the stream is full, and each worker waits with one more.
                anyio.from_thread.run(anyio.wait_all_tasks_blocked)
                anyio.from_thread.run_sync(scope.cancel)

        journal.before_recording = strike
        await upload_images(Memory(study("1", 60), batch=60), shelf, journal, rules, options=FEW, policy=AT_ONCE)
    assert scope.cancelled_caught
    assert 2 * FEW.max_workers < len(shelf.stored) < 60
    await anyio.to_thread.run_sync(journal.close)
    states = await states_in(book)
    assert {uid for uid, state in states.items() if state == "STORED"} == set(shelf.stored)
    assert journal.recorded == len(shelf.stored)


# --- parcels


@pytest.mark.parametrize(
    ("claims", "slots", "pace", "expected"),
    [
        (128, 3, None, 1),
        (128, 16, 0.005, 8),
        (128, 16, 0.010, 5),
        (128, 16, 0.040, 1),
        (128, 16, 30.0, 1),
        (20, 16, 0.005, 2),
        (2, 16, 0.005, 1),
    ],
)
def test_a_parcel_takes_no_worker_long(claims: int, slots: int, pace: float | None, expected: int) -> None:
    """Where a file takes long, one at a time is handed over: at the end none waits behind another."""
    assert files_per_batch(claims, slots, pace) == expected


def claims(*sizes: int) -> list[Claim]:
    """Make claims of files of these sizes."""
    session = Session("demo", "S", "E", "1")
    return [
        Claim(key, Instance(File(f"{key}", size, 1), f"{key}", "s", session), Delivery(1, session, 1, None))
        for key, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([], 8, []),
        ([1], 8, [1]),
        ([1] * 4, 1, [1, 1, 1, 1]),
        ([1] * 10, 3, [3, 3, 3, 1]),
        ([1] * 100, 8, [8] * 12 + [4]),
        ([1000] * 3, 8, [1, 1, 1]),
        ([500] * 5, 8, [2, 2, 1]),
        ([5000, 1, 1], 8, [1, 2]),
        ([1, 5000, 1], 8, [1, 1, 1]),
        ([0] * 9, 8, [8, 1]),
    ],
)
def test_parcels_are_small_and_in_order(sizes: list[int], most: int, expected: list[int]) -> None:
    """So many files and bytes at most, but one file however large it is."""
    waiting = claims(*sizes)
    parcels = split_batches(waiting, most, 1000)
    assert [len(parcel) for parcel in parcels] == expected
    assert [claim for parcel in parcels for claim in parcel] == waiting


@pytest.mark.parametrize(("ahead", "expected"), [(0, 1), (250, 2), (1_000, 8)])
async def test_a_parcel_is_read_as_far_ahead_as_the_source_wishes(book: Path, ahead: int, expected: int) -> None:
    """A quick one is asked for each file when it is its turn; the others for several in one go."""
    asked: list[int] = []

    class Watched(Memory):
        async def read(self, files: Sequence[File]) -> list[Body | SourceError]:
            asked.append(len(files))
            return await super().read(files)

    summary = await move(Watched(study("a", 40), read_ahead=ahead, batch=40), Shelf(), book, options=ONE)
    assert summary.files.stored == sum(asked) == 40
    assert max(asked) == expected


async def test_a_run_with_its_defaults(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Policy, report and stop have defaults that work."""
    write(tree / "1", image(1))
    rules = router()
    async with opened(book, rules) as journal, logged_in(url) as client:
        await upload_images(
            await folder(tree), XnatDestination(client, sleep=no_sleep), journal, rules, options=Options()
        )
    (session,) = xnat.archived
    assert {file.sop_uid for file in session.files} == {str(pydicom.dcmread(tree / "1").SOPInstanceUID)}
