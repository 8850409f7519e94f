"""The journal's file: created, locked, recognised, bound to one server and its rules, read during a run."""

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from math import inf
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
from journals import ROOT, RULES, Disk, archived, instance, meet, opened, scan, send, session, stored

from asyncimport.errors import JournalBusyError, JournalError, UsageError
from asyncimport.journal import HeaderCache, Journal, JournalReader
from asyncimport.journal.database import LockWait, connect_read_only
from asyncimport.model.attachments import AttachmentBatch, Resource, ResourceOwner
from asyncimport.model.files import File, Ignored, Instance
from asyncimport.model.states import FileKind
from asyncimport.model.summary import SubjectReport
from asyncimport.pacing.shutdown import StoppedError

HERE = Path(__file__).parent.parent / "support"


@pytest.fixture
def filled(path: Path) -> Path:
    """Make a journal that holds 2,000 stored instances."""
    disk = Disk()
    disk.put(*[instance(f"{n:05}") for n in range(2_000)])
    with opened(path) as journal:
        scan(journal, disk)
        send(journal)
    return path


def python(code: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code in another process that can import the tests' modules."""
    command: Sequence[str | Path] = [sys.executable, "-c", code, *words]
    env = {**os.environ, "PYTHONPATH": str(HERE)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return path.stat().st_mode & 0o777


# Making


def test_a_new_journal_is_its_owners_alone(path: Path) -> None:
    """Only the owner can read the journal, the files next to it and its directory: they name patients."""
    previous = os.umask(0)
    try:
        with opened(path) as journal:
            journal.scan.admit([instance("a")])
            found = {file.name: mode(file) for file in path.parent.iterdir()}
    finally:
        os.umask(previous)
    assert found == dict.fromkeys(
        ["test.journal", "test.journal.lock", "test.journal-wal", "test.journal-shm"],
        0o600,
    )
    assert mode(path.parent) == 0o700


def level(journal: Journal) -> str:
    """Return how the last transaction was committed: with a sync of the log or without."""
    assert journal.connection.db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    (number,) = journal.connection.db.execute("PRAGMA synchronous").fetchone()
    return {1: "committed", 2: "synced"}[number]


def test_lasting_changes_are_synced_at_once(path: Path) -> None:
    """Calls to XNAT and their results survive a power failure."""
    levels: dict[str, str] = {}
    enclosure = AttachmentBatch(Resource(ResourceOwner("P", "S1", "E1", "1.2.E1"), "DOCS"), ())
    with Journal(path, destination="https://xnat.test", rules=RULES, clock=lambda: 1_000.0) as journal:
        levels["open"] = level(journal)

        def do(name: str, *words: object) -> Any:
            journal.scan.skip_known([])
            levels["scan.skip_known"] = level(journal)
            found = attrgetter(name)(journal)(*words)
            levels[name] = level(journal)
            return found

        do("scan.admit", [instance("a")])
        do("scan.finish", [ROOT])
        do("queue.note_leases", 15.0)
        do("queue.forget_leases")
        claims = journal.queue.claim(1, max_active=1)
        levels["claim of a new delivery"] = level(journal)
        journal.queue.claim(1, max_active=1)
        levels["claim"] = level(journal)
        do("queue.record_outcomes", [stored(claim) for claim in claims or ()])
        do("deliveries.record_verdict", archived(do("deliveries.claim")))
        do("deliveries.repair", session(), ["1.2.E1.a"])
        do("attachments.requeue", [])
        do("attachments.record", enclosure, [])
        do("subjects.record", SubjectReport("P", "S1", "stored"), {}, {})
        do("end_run", 0)
    assert [name for name, how in levels.items() if how == "committed"] == [
        "scan.skip_known",
        "scan.admit",
        "scan.finish",
        "queue.forget_leases",
        "claim",
        "queue.record_outcomes",
    ]


def test_acknowledgements_are_synced_every_quarter_second(path: Path) -> None:
    """Whatever else happens meanwhile, and even after a clock was set back."""
    now = [1_000.0]
    found = []
    with Journal(path, destination="https://xnat.test", rules=RULES, clock=lambda: now[0]) as journal:
        journal.scan.admit([instance(f"{n}") for n in range(7)])
        for step in (0.0, 0.125, 0.0625, 0.0625, 0.1875, -100.0, 0.1875):
            now[0] += step
            assert journal.deliveries.claim() is None
            journal.queue.record_outcomes([stored(claim) for claim in journal.queue.claim(1, max_active=1) or ()])
            found.append(level(journal))
    last = "committed"
    assert found == [last, last, last, "synced", last, "synced", last]


def test_a_commit_is_synced_as_a_whole(path: Path) -> None:
    """The level is set before the transaction: SQLite ignores it within one."""
    said: list[str] = []
    with opened(path) as journal:
        journal.scan.admit([instance("a")])
        journal.connection.db.set_trace_callback(said.append)
        journal.end_run(0)
        journal.connection.db.set_trace_callback(None)
    assert said[:2] == ["PRAGMA synchronous = FULL", "BEGIN IMMEDIATE"]
    assert said[-1] == "COMMIT"


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    """Such as one that mktemp makes."""
    path.parent.mkdir()
    path.touch()
    with opened(path) as journal:
        assert journal.scan.admit([instance("a")]).files == 1


KILLED_IN_MAKING = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
connection.executemany("INSERT INTO metadata VALUES (?, ?)", [("x" * 1000, "y") for _ in range(1000)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_while_the_journal_is_created(path: Path) -> None:
    """The incomplete journal is rolled back and created again."""
    path.parent.mkdir()
    python(KILLED_IN_MAKING, path)
    assert path.stat().st_size > 0
    assert path.with_name("test.journal-journal").stat().st_size > 0
    with opened(path) as journal:
        assert journal.scan.admit([instance("a")]).files == 1


def test_a_place_where_no_journal_can_be(tmp_path: Path) -> None:
    """Below a file, or at a directory: one line, and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be made") as error:
        opened(tmp_path / "file" / "test.journal")
    assert "--state-dir" in error.value.hint
    (tmp_path / "directory").mkdir()
    with pytest.raises(JournalError, match="cannot be opened: Is a directory") as error:
        opened(tmp_path / "directory")
    assert "--journal" in error.value.hint


@pytest.mark.parametrize("name", ["a b?c#d%20.journal", os.fsdecode(b"\xff.journal")])
def test_odd_names(tmp_path: Path, name: str) -> None:
    """A journal may have any file name, for writing and for reading."""
    path = tmp_path / name
    with opened(path) as journal:
        journal.scan.admit([instance("a")])
    with JournalReader.open(path) as reader:
        assert reader.summary().files.left == 1


# Lock


def test_a_second_run_is_refused(path: Path) -> None:
    """One run uses a journal at a time; when it has ended the journal is free."""
    with opened(path) as journal:
        with pytest.raises(JournalBusyError, match="in use by another run") as error:
            opened(path)
        assert error.value.exit_code == 7
        assert "status" in error.value.hint
        assert journal.scan.admit([instance("a")]).files == 1
    with opened(path) as journal:
        assert journal.run == 2


def test_a_second_process_is_refused(path: Path) -> None:
    """The lock holds between processes."""
    code = "import sys; from pathlib import Path; from journals import opened; opened(Path(sys.argv[1]))"
    with opened(path):
        done = python(code, path)
    assert "JournalBusyError" in done.stderr


def test_the_lock_is_released_when_opening_fails(path: Path) -> None:
    """Whether the journal is unusable or of another server."""
    path.parent.mkdir()
    path.write_text("no database, but long enough to be looked at" * 100)
    for _ in range(2):
        with pytest.raises(JournalError):
            opened(path)
    path.unlink()
    opened(path).close()
    for _ in range(2):
        with pytest.raises(UsageError):
            opened(path, rules={"project": "Q"})


def test_a_link_and_what_it_leads_to_are_one_journal(path: Path, tmp_path: Path) -> None:
    """Two runs under two names would send everything twice, and damage SQLite's files."""
    link = tmp_path / "elsewhere" / "link.journal"
    link.parent.mkdir()
    link.symlink_to(path)
    with opened(link) as journal:
        journal.scan.admit([instance("a")])
        for name in (path, link):
            with pytest.raises(JournalBusyError):
                opened(name)
            with JournalReader.open(name) as reader:
                (run,) = reader.runs()
                assert reader.is_running(run)
        assert [one.name for one in link.parent.iterdir()] == ["link.journal"]
    with opened(path) as journal:
        assert journal.run == 2
    assert link.is_symlink()


# Other programs, and other users


@contextmanager
def held(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold a lock as a backup program does, until the block ends or somebody else ends it."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def test_another_programs_lock_is_waited_for(filled: Path) -> None:
    """The wait is reported once, and the run continues."""
    told: list[str] = []
    with ExitStack() as stack:
        other = stack.enter_context(held(filled))

        def tell(text: str) -> None:
            told.append(text)
            other.execute("ROLLBACK")

        journal = stack.enter_context(opened(filled, lock_wait=LockWait(report=tell)))
        assert len(told) == 1
        assert str(filled) in told[0]
        assert "waiting" in told[0]
        other.execute("BEGIN IMMEDIATE")
        assert journal.scan.admit([instance("new")]).files == 1
        assert len(told) == 2


def test_a_lock_that_is_never_released(filled: Path) -> None:
    """The wait ends with an error, and the hint says that nothing is lost."""
    with opened(filled, lock_wait=LockWait(seconds=0)) as journal, held(filled):
        with pytest.raises(JournalError, match="another program holds a lock on the journal") as error:
            journal.scan.admit([instance("new")])
        assert "nothing is lost" in error.value.hint
        assert "move" not in error.value.hint
    with pytest.raises(JournalError, match="another program"), held(filled):
        opened(filled, lock_wait=LockWait(seconds=0))
    with opened(filled) as journal:
        assert journal.scan.admit([instance("new")]).files == 1


def test_a_stop_ends_the_wait_for_a_lock(filled: Path) -> None:
    """Both while the journal is opened and later; the run's lock is released, and nothing is lost."""
    ends = [inf]
    lock_wait = LockWait(seconds=3, deadline=lambda: ends[0])
    with opened(filled, lock_wait=lock_wait) as journal, held(filled):
        ends[0] = 0.0
        with pytest.raises(StoppedError):
            journal.scan.admit([instance("new")])
    with pytest.raises(StoppedError), held(filled):
        opened(filled, lock_wait=lock_wait)
    with opened(filled) as journal:
        assert journal.scan.admit([instance("new")]).files == 1


def test_a_locked_header_cache_is_not_replaced(tmp_path: Path) -> None:
    """Only an unusable one is."""
    path = tmp_path / "scan.survey"
    with HeaderCache(path) as survey:
        survey.record([Ignored(File("/a", 1, 1), FileKind.NOT_DICOM, "not DICOM")])
    told: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

        def tell(text: str) -> None:
            told.append(text)
            other.close()

        with HeaderCache(path, LockWait(report=tell)) as survey:
            assert survey.skip_known([File("/a", 1, 1)]) == []
    assert len(told) == 1


ANOTHER = 65534


def check_refused(path: Path, match: str) -> JournalError:
    """Check that a run and a reader refuse a journal, and return the error of the run."""
    with pytest.raises(JournalError, match=match) as error:
        opened(path)
    with pytest.raises(JournalError, match=match), JournalReader.open(path):
        pass
    return error.value


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal", ".lock"])
def test_a_journal_of_another_user(path: Path, beside: str) -> None:
    """It would decide what is sent and deleted; so would another user's log next to ours."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    opened(path).close()
    planted = path.with_name(f"{path.name}{beside}")
    planted.touch()
    os.chown(planted, ANOTHER, ANOTHER)
    assert check_refused(path, "is not used: it belongs to ").hint


def test_another_users_link_leads_to_no_journal(path: Path, tmp_path: Path) -> None:
    """It would choose which journal is used, or where a new one is created."""
    if os.geteuid() != 0:
        pytest.skip("only root gives links away")
    opened(path).close()
    link = tmp_path / "link.journal"
    link.symlink_to(path)
    os.chown(link, ANOTHER, ANOTHER, follow_symlinks=False)
    check_refused(link, "the link belongs to ")


def test_a_journal_that_others_can_write_to(path: Path) -> None:
    """The owner has to confirm that nobody did; one that others can only read becomes private."""
    opened(path).close()
    path.chmod(0o660)
    with pytest.raises(JournalError, match="others may write to it") as error:
        opened(path)
    assert "chmod" in error.value.hint
    path.chmod(0o644)
    opened(path).close()
    assert mode(path) == 0o600


def test_a_directory_that_everybody_can_write_to(path: Path) -> None:
    """SQLite would read files that anybody put next to the journal."""
    opened(path).close()
    path.parent.chmod(0o1777)
    check_refused(path, "everybody may write to its directory")


def test_a_lock_file_that_is_a_link(path: Path, tmp_path: Path) -> None:
    """Taking the lock would empty its target."""
    path.parent.mkdir()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    path.with_name(f"{path.name}.lock").symlink_to(precious)
    with pytest.raises(JournalError):
        opened(path)
    assert precious.read_text() == "precious"


# Recognition


def test_a_file_that_is_no_database(path: Path) -> None:
    """It is named, and left as it is."""
    path.parent.mkdir()
    path.write_bytes(b"%PDF-1.7" * 1000)
    check_refused(path, "not a database")
    assert path.read_bytes() == b"%PDF-1.7" * 1000


def test_the_database_of_another_program(path: Path) -> None:
    """It is recognised, and left as it is."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE file (key INTEGER)")
    before = path.read_bytes()
    assert check_refused(path, "is not a journal of asyncimport").hint == "name another file with --journal"
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, 2])
def test_a_journal_of_another_version(filled: Path, version: int) -> None:
    """The error names both versions, and the journal is left as it is."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    check_refused(filled, rf"is of version {version}, this program writes version 1")
    with closing(sqlite3.connect(filled)) as connection:
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (2_000,)


@pytest.mark.parametrize("version", [1, 4])
def test_a_journal_of_an_unreleased_version(filled: Path, version: int) -> None:
    """A journal of a development version is refused, whatever its version, and left as it is."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute(f"PRAGMA application_id = {0x61696D70}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = filled.read_bytes()
    assert "--journal" in check_refused(filled, "was written by an unreleased version of asyncimport").hint
    assert filled.read_bytes() == before


def use(path: Path) -> None:
    """Do with a journal what a run does."""
    disk = Disk()
    disk.put(*[instance(f"{n:05}") for n in range(2_001)])
    with opened(path) as journal:
        scan(journal, disk)
        send(journal)
        JournalReader.of(journal).summary()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_torn_journal(filled: Path, share: float) -> None:
    """A truncated journal ends the run with one line, and what that means for the files."""
    whole = filled.read_bytes()
    filled.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(JournalError, match="cannot be used") as error:
        use(filled)
    assert "restore the journal from a backup" in error.value.hint
    assert "move" not in error.value.hint


def test_a_journal_with_a_hole(filled: Path) -> None:
    """A run and a reader notice invalid pages when they read them."""
    with filled.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * (filled.stat().st_size - 3 * 4096))
    with pytest.raises(JournalError, match="cannot be used"):
        use(filled)
    with pytest.raises(JournalError, match="cannot be used"), JournalReader.open(filled) as reader:
        reader.summary()


FULL = """
import resource, sys
from operator import attrgetter
from pathlib import Path
from asyncimport.errors import JournalError
from journals import instance, opened
with opened(Path(sys.argv[1])) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    done = 0
    try:
        while True:
            journal.scan.admit([instance(f"{done + n:06}") for n in range(100)])
            done += 100
    except JournalError as error:
        print(done, error, sep="\\n")
"""


def test_a_full_disk(path: Path) -> None:
    """The run ends and says so; everything up to the last commit is intact."""
    finished = python(FULL, path)
    assert finished.returncode == 0, finished.stderr
    done, message = finished.stdout.splitlines()
    assert int(done) > 0
    assert "cannot be written: " in message
    assert "disk" in message
    with opened(path) as journal:
        assert journal.connection.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert journal.connection.db.execute("SELECT count(*) FROM instance").fetchone() == (int(done),)
        assert journal.connection.db.execute("SELECT count(*) FROM file").fetchone() == (int(done),)


def test_an_error_that_is_not_the_databases(path: Path) -> None:
    """Nothing of the failed call is kept, and the journal stays usable."""
    with opened(path) as journal:
        batch = [instance("a"), Instance(File("/src/nul\0", 1, 1 << 70), "1.2", "1.2", session("\ud800"))]
        with pytest.raises(UnicodeEncodeError):
            journal.scan.admit(batch)
        assert JournalReader.of(journal).summary().files.found == 0
        assert journal.scan.admit([instance("b", session("E2"))]).files == 1


# Binding


def about(path: Path) -> dict[str, str]:
    """Return what a journal is bound to."""
    with JournalReader.open(path) as reader:
        return reader.metadata()


def test_a_journal_is_bound_to_its_server_and_rules(path: Path) -> None:
    """The first run records both, and the same ones open it again."""
    bound = {"destination": "https://xnat.test", "rule project": "P", "rule subject": "{PatientID}"}
    for _ in range(2):
        opened(path).close()
        assert about(path) == bound | {"source": about(path)["source"]}


@pytest.mark.parametrize("relabel", [True, False])
def test_another_server(path: Path, relabel: bool) -> None:
    """What one server acknowledged says nothing about another: refused, with --relabel too."""
    opened(path).close()
    before = about(path)
    with pytest.raises(JournalError, match=r"belongs to https://xnat\.test, not to https://other") as error:
        Journal(path, destination="https://other", rules=RULES, relabel=relabel)
    assert error.value.exit_code == 1
    assert "each server has a journal of its own" in error.value.hint
    assert about(path) == before


def test_other_rules(path: Path) -> None:
    """The error names only stored rules that differ, and nothing is forgotten."""
    disk = Disk()
    disk.put(instance("a"))
    with opened(path) as journal:
        meet(journal, disk)
    before = about(path)
    with pytest.raises(UsageError) as error:
        opened(path, rules={"project": "P", "subject": "{AccessionNumber}", "session": "E"})
    assert str(error.value).endswith("other rules: --subject '{PatientID}', not '{AccessionNumber}', no --session")
    assert "--relabel" in error.value.hint
    assert about(path) == before
    with JournalReader.open(path) as reader:
        assert reader.summary().files.left == 1
        assert len(reader.runs()) == 1


TEMPLATES = {"project": "P", "subject": "{PatientID}", "session": "{StudyDate}"}
PLAN = {"project": "P", "plan": "0123456789abcdef"}


@pytest.mark.parametrize(
    ("begun", "now", "difference"),
    [
        (TEMPLATES, PLAN, "by --subject '{PatientID}' and --session '{StudyDate}', and this run has --plan"),
        (PLAN, TEMPLATES, "with --plan, and this run has none"),
        (TEMPLATES, {**TEMPLATES, "map": "12ab"}, "no --label-map"),
        ({**TEMPLATES, "map": "12ab"}, {**TEMPLATES, "map": "34cd"}, "another --label-map"),
        (TEMPLATES, {**TEMPLATES, "project": "Q"}, "--project 'P', not 'Q'"),
        (TEMPLATES, {**TEMPLATES, "path pattern": "{a}/**"}, "no --path-pattern"),
    ],
)
def test_the_difference_is_told_by_options(
    path: Path, begun: dict[str, str], now: dict[str, str], difference: str
) -> None:
    """A person sees which option to give, and a way out for a source with rules of its own."""
    opened(path, rules=begun).close()
    with pytest.raises(UsageError) as error:
        opened(path, rules=now)
    assert str(error.value) == f"this journal was begun with other rules: {difference}"
    assert "--journal FILE" in error.value.hint


def test_each_journal_has_a_source_of_its_own(path: Path, tmp_path: Path) -> None:
    """It is drawn once: rows with that source belong to this journal only, in every run."""
    sources = []
    for one in (path, path, tmp_path / "state" / "other"):
        with opened(one) as journal:
            sources.append(journal.source)
    assert re.fullmatch("uploader-[0-9a-f]{16}", sources[0])
    assert sources[0] == sources[1] != sources[2]


def test_relabel_changes_the_rules(path: Path) -> None:
    """With `relabel` the new rules replace the old ones, and later runs are compared with them."""
    opened(path).close()
    source = about(path)["source"]
    opened(path, relabel=True, rules={"project": "Q"}).close()
    assert about(path) == {"destination": "https://xnat.test", "rule project": "Q", "source": source}
    with pytest.raises(UsageError, match="project 'Q'"):
        opened(path)


# Reading


def test_reading_beside_a_run(path: Path) -> None:
    """A reader sees what a running run has committed, and cannot change it."""
    with opened(path) as journal:
        journal.scan.admit([instance("a"), instance("b")])
        with JournalReader.open(path) as reader:
            assert reader.summary().files.left == 2
            journal.scan.admit([instance("c")])
            assert reader.summary().files.left == 3


def test_a_reader_cannot_write(filled: Path) -> None:
    """Its connection refuses every change."""
    with closing(connect_read_only(filled)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM instance")
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (2_000,)


def test_there_is_no_journal_to_read(path: Path, tmp_path: Path) -> None:
    """Reading creates nothing: a missing journal, or a directory, is a usage error."""
    for missing in (path, tmp_path):
        with pytest.raises(UsageError, match="there is no journal") as error, JournalReader.open(missing):
            pass
        assert error.value.exit_code == 2
    assert not path.parent.exists()


def test_the_lock_outlives_no_process(path: Path) -> None:
    """A left-over lock file locks nothing."""
    opened(path).close()
    assert path.with_name("test.journal.lock").exists()
    with opened(path) as journal:
        assert journal.scan.skip_known([File(f"{ROOT}/a", 1, 1)]).unknown == [File(f"{ROOT}/a", 1, 1)]
