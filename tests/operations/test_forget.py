"""`asyncimport forget`: what it deletes, what it keeps, and that the journal stays valid."""

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import filelock
import pytest
from conftest import Commands
from journals import RULES, Disk, archived, instance, meet, send, session, stored
from patience import COMMAND, in_time

from asyncimport.errors import JournalBusyError, UsageError
from asyncimport.journal import Journal, JournalReader
from asyncimport.journal.prune import Pruner
from asyncimport.model.deliveries import Archived, Built, Claim, Failed, Held, Outcome, Refused, SealedDelivery, Verdict
from asyncimport.model.files import File, Ignored, Instance, Patient, Session
from asyncimport.model.states import FileKind, Refusal
from asyncimport.system.mounts import tree_identity
from asyncimport.testserver import Fault, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

E1, E2, E3 = session("E1"), session("E2", subject="S2"), session("E3", subject="S3")


@pytest.fixture(autouse=True)
def blockbuster() -> None:
    """Let the tests block; the tested commands run in other processes."""


class Place:
    """A journal, and a real directory whose files an imaginary server gets."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "test.journal"
        self.root = directory / "root"
        self.root.mkdir()
        self.disk = Disk()
        self.now = 1_000.0

    def put(self, name: str, of: Session, *, sop: str | None = None, patient: str = "") -> Instance:
        """Write a file."""
        path = self.root / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(name.encode())
        made = instance(name, of, sop=sop or f"{of.study_uid}.{path.name}")
        made = replace(made, file=self._file(path), patient=Patient(patient))
        self.disk.put(made)
        return made

    def put_bad(self, name: str, of: Session) -> None:
        """Write a file that cannot be read."""
        path = self.root / name
        path.write_bytes(b"bad")
        bad = Ignored(self._file(path), FileKind.UNREADABLE, "truncated", session=of, sop_uid=f"{of.study_uid}.{name}")
        self.disk.put(bad)

    def put_text(self, name: str) -> None:
        """Write a file that is not DICOM."""
        (self.root / name).write_bytes(b"text")
        self.disk.put(Ignored(self._file(self.root / name), FileKind.NOT_DICOM, "no DICOM"))

    def _file(self, path: Path) -> File:
        return File.of(str(path), path.stat(), has_stable_inodes=True)

    def remove(self, *names: str) -> None:
        """Delete files."""
        for name in names:
            (self.root / name).unlink()
            path = str(self.root / name)
            del self.disk.items[path], self.disk.content[path]

    def run(
        self,
        answer: Callable[[Claim], Outcome] = stored,
        verdict: Callable[[SealedDelivery], Verdict] = archived,
        *,
        archive_built: bool = True,
    ) -> list[str]:
        """Do a whole run, and return the names of the files that were sent."""
        with self.opened() as journal:
            meet(journal, self.disk)
            journal.scan.finish([str(self.root)], archive_built=archive_built)
            sent = send(journal, answer, verdict=verdict)
            journal.end_run(0)
        return [str(Path(claim.instance.file.path).relative_to(self.root)) for claim in sent]

    def opened(self) -> Journal:
        """Open the journal as a run does."""
        return Journal(self.path, destination="https://xnat.test", rules=RULES, clock=lambda: self.now)

    def states(self) -> dict[str, str]:
        """Return the state of each session."""
        with JournalReader.open(self.path) as reader:
            return {report.session.label: report.state for report in reader.summary().sessions}

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Query the journal's file."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    def forget(self, *which: Callable[[Pruner], None]) -> list[tuple[str, int, str | None]]:
        """Forget, check the journal, and return what was found."""
        with Pruner.of(self.path) as pruner:
            for find in which:
                find(pruner)
            pruner.prune()
        assert self.rows("PRAGMA foreign_key_check") == []
        assert self.rows("PRAGMA integrity_check") == [("ok",)]
        assert self.rows("SELECT 1 FROM file WHERE instance > 0 AND instance NOT IN (SELECT key FROM instance)") == []
        assert (
            self.rows("SELECT 1 FROM file WHERE missing_from > 0 AND missing_from NOT IN (SELECT key FROM session)")
            == []
        )
        lost = "SELECT 1 FROM file WHERE kind = 'INSTANCE' AND instance IS NULL"
        assert self.rows(lost) == []
        return [(item.state, item.files, item.keep_reason) for item in pruner.found]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty journal and directory."""
    return Place(tmp_path)


def answers(**verdicts: Callable[[Claim], Outcome]) -> Callable[[Claim], Outcome]:
    """Give these files this answer, and acknowledge all others."""
    return lambda claim: verdicts.get(Path(claim.instance.file.path).name, stored)(claim)


def failed(claim: Claim) -> Outcome:
    """Return no verdict."""
    return Failed(claim, "no answer")


def refused(claim: Claim) -> Outcome:
    """Refuse the file."""
    return Refused(claim, "XNAT did not keep it", kind=Refusal.DROPPED)


def held(sealed: SealedDelivery) -> Verdict:
    """Let XNAT not archive the session."""
    return Held(sealed.delivery, "conflict")


def unverified(sealed: SealedDelivery) -> Verdict:
    """Archive the session without verification."""
    return Archived(sealed.delivery, "/archive", None)


def built(sealed: SealedDelivery) -> Verdict:
    """Leave the session in the prearchive."""
    return Built(sealed.delivery, "/data" + (sealed.delivery.uri or ""))


class TestSession:
    """Whole sessions."""

    def test_is_sent_as_new_the_next_time(self, place: Place) -> None:
        """Its files and copies are new again; others do not change."""
        place.put("a", E1)
        place.put("b", E1, sop="1.2.E1.a")
        place.put("c", E2)
        place.run()
        place.put_bad("d", E1)
        place.run()
        assert place.forget(lambda it: it.find_sessions("e1")) == [("held", 1, None)]
        assert place.states() == {"E2": "archived"}
        assert place.run() == ["a"]
        assert place.states() == {"E1": "held", "E2": "archived"}
        place.remove("d")
        assert place.run() == []
        assert place.states() == {"E1": "archived", "E2": "archived"}
        assert place.rows("SELECT number FROM delivery") == [(1,), (1,)]

    def test_frees_its_label_and_its_patient(self, place: Place) -> None:
        """Then, and only then, another study may get the label, and another patient the subject."""
        place.put("a", E1, patient="P1")
        place.run(refused)
        place.remove("a")
        place.put("b", session("E1", study="1.2.other"), patient="P2")
        assert place.run() == []
        place.forget(lambda it: it.find_sessions("E1"))
        assert place.rows("SELECT count(*) FROM patient") == [(0,)]
        assert place.run() == ["b"]
        assert place.states() == {"E1": "archived"}

    def test_keeps_what_others_need(self, place: Place) -> None:
        """Patients and sources of other sessions stay."""
        place.put("a", E1, patient="P1")
        place.put("b", session("E9"), patient="P1")
        place.run()
        # The file of E1 now holds an instance of E2.
        place.remove("a")
        place.put("a", E2)
        place.run()
        assert place.forget(lambda it: it.find_sessions("E2")) == [("archived", 1, None)]
        # The archive has E2 still, under its subject, and whose it is.
        assert place.rows("SELECT subject, id, archived FROM patient") == [("S1", "P1", None), ("S2", "", 1)]
        assert place.rows("SELECT state FROM instance") == [("STORED",), ("STORED",)]
        assert place.run() == ["a"]
        assert place.states()["E2"] == "archived"

    @pytest.mark.parametrize(
        ("answer", "verdict"),
        [(stored, held), (stored, built), (answers(b=failed), archived)],
        ids=["held", "built", "open"],
    )
    def test_a_session_with_a_row_in_xnat_needs_force(
        self, place: Place, answer: Callable[[Claim], Outcome], verdict: Callable[[SealedDelivery], Verdict]
    ) -> None:
        """Its row in the prearchive would become an orphan, so this needs --force."""
        place.put("a", E1)
        place.put("b", E1)
        place.run(answer, verdict)
        before = place.states()
        with pytest.raises(UsageError, match="unfinished delivery of it: E1 in /prearchive/E1/1") as error:
            place.forget(lambda it: it.find_sessions("E1"))
        assert "--force" in error.value.hint
        assert place.states() == before
        place.forget(lambda it: it.find_sessions("E1", force=True))
        assert place.states() == {}
        assert place.run() == ["a", "b"]

    def test_all_that_are_held(self, place: Place) -> None:
        """Sessions with a row in XNAT are kept, with the reason."""
        place.put("a", E1)
        place.put("b", E2)
        place.put("c", E3)
        place.run(answers(b=refused), lambda sealed: (held if sealed.delivery.session == E1 else archived)(sealed))
        assert place.states() == {"E1": "held", "E2": "held", "E3": "archived"}
        assert place.forget(Pruner.find_held) == [
            ("held", 1, "XNAT holds an unfinished delivery of it"),
            ("held", 1, None),
        ]
        assert place.states() == {"E1": "held", "E3": "archived"}
        assert place.forget(lambda it: it.find_held(force=True)) == [("held", 1, None)]
        assert place.run() == ["a", "b"]

    def test_an_unknown_label(self, place: Place) -> None:
        """A wrong label is a usage error."""
        place.put("a", E1)
        place.run()
        with pytest.raises(UsageError, match="knows no session E7"):
            place.forget(lambda it: it.find_sessions("E7"))


class TestGone:
    """Files that are no longer on disk and never arrived."""

    def test_nothing_waits_for_them_any_more(self, place: Place) -> None:
        """A session that lacked a deleted file is archived by the next run."""
        for name in "abc":
            place.put(name, E1)
        place.put_bad("d", E1)
        place.put_text("e")
        place.run(answers(b=failed, c=refused))
        place.remove("b", "d", "e")
        place.run()
        assert place.states() == {"E1": "held"}
        found = place.forget(Pruner.find_gone)
        assert sorted(found) == [("failed", 1, None), ("not_dicom", 1, None), ("unreadable", 1, None)]
        assert place.run() == []
        assert place.states() == {"E1": "archived"}
        with JournalReader.open(place.path) as reader:
            assert [row.state for row in reader.instances("E1")] == ["STORED", "REFUSED"]

    def test_a_file_that_holds_something_else(self, place: Place) -> None:
        """Its earlier instance is forgotten like that of a deleted file; the new one stays."""
        place.put("a", E1)
        place.put("b", E1)
        place.run(answers(b=failed))
        place.remove("b")
        place.put("b", E2)
        place.run()
        assert place.states() == {"E1": "held", "E2": "archived"}
        assert place.forget(Pruner.find_gone) == [("failed", 1, None)]
        assert place.run() == []
        assert place.states() == {"E1": "archived", "E2": "archived"}

    def test_a_copy_that_is_still_there_is_sent(self, place: Place) -> None:
        """The copy counts as new."""
        place.put("a", E1)
        place.put("b", E1, sop="1.2.E1.a")
        with place.opened() as journal:
            meet(journal, place.disk)
        place.remove("a")
        assert place.forget(Pruner.find_gone) == [("pending", 1, None)]
        assert place.states() == {}
        assert place.run() == ["b"]

    def test_what_was_stored_is_proof(self, place: Place) -> None:
        """Only its deleted copies are forgotten: `verify` still knows what XNAT acknowledged."""
        place.put("a", E1)
        place.put("b", E1, sop="1.2.E1.a")
        place.put("c", E2)
        place.run()
        place.remove("a", "b")
        assert place.forget(Pruner.find_gone) == [("duplicate", 1, None)]
        with JournalReader.open(place.path) as reader:
            assert [len(reader.acknowledged(one.session)[0]) for one in reader.session_reports()] == [1, 1]

    def test_what_xnat_refused_of_an_unfinished_session(self, place: Place) -> None:
        """It is kept until the session is archived."""
        place.put("a", E1)
        place.put("b", E1)
        place.run(answers(b=refused), built, archive_built=False)
        place.remove("b")
        assert place.forget(Pruner.find_gone) == [("refused", 1, "XNAT holds an unfinished delivery of it")]
        place.run()
        assert place.forget(Pruner.find_gone) == [("refused", 1, None)]

    def test_a_disk_that_is_not_mounted(self, place: Place) -> None:
        """If its directory is empty or gone, a disk may be unmounted: nothing is forgotten."""
        place.put("disk/a/1", E1)
        place.put("disk/b/2", E2)
        place.put("other/3", E3)
        place.run(failed)
        for name in ("disk/a/1", "disk/b/2", "other/3"):
            (place.root / name).unlink()
        for name in ("disk/a", "disk/b", "other"):
            (place.root / name).rmdir()
        kept = "its directory is empty or gone, as if a disk were not mounted"
        # Whoever has deleted a directory has left its neighbours.
        assert place.forget(Pruner.find_gone) == [("failed", 1, kept), ("failed", 1, kept), ("failed", 1, None)]
        assert place.states() == {"E1": "held", "E2": "held"}
        assert len(place.forget(lambda it: it.find_gone(force=True))) == 2
        assert place.states() == {}

    @pytest.mark.parametrize("elsewhere", [True, False])
    def test_what_only_workers_see(self, place: Place, elsewhere: bool) -> None:
        """A file that this machine does not see is not gone, unless it has seen all that workers have."""
        place.put("a", E1)
        place.put("b", E2)
        place.run(failed)
        here = tree_identity(str(place.root))
        assert here is not None
        with Journal(place.path, destination="https://xnat.test", rules=RULES) as journal:
            journal.note_trees(str(place.root), {"another"} if elsewhere else {here.lasting}, here.lasting)
            journal.end_run(0)
        place.remove("a")
        kept = "a run with --dask saw it on another machine"
        assert place.forget(Pruner.find_gone) == [("failed", 1, kept if elsewhere else None)]
        assert place.forget(lambda it: it.find_gone(force=True)) == ([("failed", 1, None)] if elsewhere else [])

    def test_a_disk_that_does_not_answer(self, place: Place) -> None:
        """A file that cannot be checked is not gone."""
        place.put("a", E1)
        place.run(failed)
        place.remove("a")
        (place.root / "a").symlink_to(place.root / "a")
        assert place.forget(Pruner.find_gone) == []


class TestArchived:
    """Files of finished sessions."""

    def test_only_verified_sessions_without_files_are_forgotten(self, place: Place) -> None:
        """The session is archived, verified and old enough, and none of its files is left on disk."""
        place.put("a", E1)
        place.put("b", E2)
        place.put("c", E2)
        place.put("d", E3)
        place.run(verdict=lambda sealed: unverified(sealed) if sealed.delivery.session == E3 else archived(sealed))
        place.remove("a", "b", "d")
        assert place.forget(lambda it: it.find_archived(1_000.0)) == []
        assert place.forget(lambda it: it.find_archived(1_001.0)) == [
            ("archived", 1, None),
            ("archived", 2, "1 of its files are still on disk, and would be sent again"),
        ]
        assert place.states() == {"E2": "archived", "E3": "archived"}

    def test_the_place_of_a_session_stays_taken(self, place: Place) -> None:
        """No other study gets its label, and no other patient its subject; later files make another delivery."""
        place.put("a", E1, patient="P1")
        place.put("z", E2)
        place.run()
        place.remove("a")
        assert place.forget(lambda it: it.find_archived(2_000.0)) == [
            ("archived", 1, None), ("archived", 1, "1 of its files are still on disk, and would be sent again")
        ]  # fmt: skip
        place.put("b", session("E1", study="1.2.other"), patient="P1")
        place.put("c", session("E4"), patient="P2")
        place.put("d", E1, patient="P1")
        assert place.run() == ["d"]
        assert place.rows("SELECT number FROM delivery WHERE session = 1") == [(1,), (2,)]
        assert place.states()["E1"] == "archived"
        # Its label can be freed all the same.
        place.remove("b", "d")
        place.forget(lambda it: it.find_archived(2_000.0))
        assert place.forget(lambda it: it.find_sessions("E1")) == [("archived", 0, None)]

    def test_an_unfinished_delivery_keeps_the_session(self, place: Place) -> None:
        """A later delivery is not finished."""
        place.put("a", E1)
        place.run()
        place.put("b", E1)
        place.run(verdict=built, archive_built=False)
        place.remove("a", "b")
        place.put("z", E2)
        assert place.forget(lambda it: it.find_archived(2_000.0)) == []


class TestAtOnce:
    """One transaction, under the lock."""

    def test_an_error_in_the_middle_deletes_nothing(self, place: Place) -> None:
        """An error in the middle leaves the journal unchanged."""
        place.put("a", E1)
        place.run()
        with closing(sqlite3.connect(place.path)) as connection, connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE DELETE ON session BEGIN SELECT raise(ABORT, 'the disk is full'); END"
            )
        with pytest.raises(Exception, match="the disk is full"):
            place.forget(lambda it: it.find_sessions("E1"))
        assert place.states() == {"E1": "archived"}
        assert place.rows("SELECT count(*) FROM file") == [(1,)]

    def test_finding_deletes_nothing(self, place: Place) -> None:
        """Finding deletes nothing."""
        place.put("a", E1)
        place.run()
        with Pruner.of(place.path) as pruner:
            pruner.find_sessions("E1")
        assert place.states() == {"E1": "archived"}

    def test_a_run_cannot_begin_meanwhile(self, place: Place) -> None:
        """Neither can forget start during a run."""
        place.put("a", E1)
        place.run()
        with Pruner.of(place.path), pytest.raises(JournalBusyError):
            place.opened()
        with place.opened(), pytest.raises(JournalBusyError), Pruner.of(place.path):
            pass

    def test_a_run_that_was_killed_is_still_known_to_be(self, place: Place) -> None:
        """Its files in flight may still take effect, which the next run must know."""
        place.put("a", E1)
        place.put("b", E1)
        with place.opened() as journal:
            meet(journal, place.disk)
            claims = journal.queue.claim(1, max_active=1)
            assert claims
            journal.queue.record_outcomes([stored(claim) for claim in claims])
        place.forget(Pruner.find_gone)
        place.opened().close()
        assert place.rows("SELECT interrupted_at FROM delivery") == [(1_000.0,)]

    def test_without_a_journal(self, place: Place) -> None:
        """Forget makes no journal."""
        with pytest.raises(UsageError, match="there is no journal"), Pruner.of(place.path):
            pass
        assert not place.path.exists()


# The command


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_a_held_session_is_freed(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """After a refused file is deleted and forgotten, the session is archived; forget calls no server."""
    tree = tmp_path / "tree"
    generated(tree, sessions=2, files=300, size=1_000, seed=4)
    commands.login(url)
    async with commands.start("upload", tree, "-P", "demo", "-w", "2") as process:
        xnat.faults.add(Fault("import", Tell(lambda: process.send_signal(signal.SIGINT)), nth=21))
        with in_time(COMMAND):
            assert await process.wait() == 130
    (journal,) = commands.home.rglob("*.journal")
    with JournalReader.open(journal) as reader:
        arrived = {one.file.path for one in reader.stored_instances()}
    gone = next(path for path in sorted(tree.rglob("*")) if path.is_file() and str(path) not in arrived)
    gone.unlink()
    held = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert (held.code, held.json["sessions"]["held"]) == (8, 1)
    calls = dict(xnat.count)
    asked = await commands("forget", "--gone")
    assert asked.code == 2
    assert "to be forgotten: 1 file" in asked.out
    assert str(gone) in asked.out
    assert "give --yes" in asked.err
    done = await commands("forget", "--gone", "--yes", "-o", "json")
    assert done.code == 0, done.err
    assert (done.json["forgotten"], [one["state"] for one in done.json["found"]]) == (True, ["failed"])
    assert dict(xnat.count) == calls
    last = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert last.code == 0, last.out
    assert last.json["sessions"]["archived"] == 2
    again = await commands("forget", "--gone", "--yes")
    assert (again.code, again.err.strip()) == (0, "nothing was forgotten")


async def test_a_session_that_was_deleted_in_xnat(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """After it is forgotten, all of it is sent again."""
    commands.login(url)
    label = (await commands("upload", tree, "-P", "demo", "-o", "json")).json["details"][0]["session"]
    everything = xnat.sop_uids("demo")
    (deleted,) = [one for one in xnat.archived if one.label == label]
    xnat.remove_experiment(deleted)
    assert xnat.sop_uids("demo") < everything
    ended = await commands("forget", "--session", label, "-y")
    assert ended.code == 0
    assert "Of an archived session, the next upload sends what the archive lacks" in ended.out
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    assert xnat.sop_uids("demo") == everything


async def test_a_run_keeps_its_journal(url: str, commands: Commands, tree: Path) -> None:
    """During a run, forget ends with 7."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    (journal,) = commands.home.rglob("*.journal")
    with filelock.FileLock(f"{journal}.lock"):
        ended = await commands("forget", "--gone", "--yes")
    assert ended.code == 7
    assert "in use by another run" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing selected"),
        (("--gone", "--held"), "nothing selected"),
        (("--archived-before", "yesterday"), "invalid --archived-before 'yesterday'"),
        (("--gone",), "there is no journal"),
    ],
)
async def test_mistakes(commands: Commands, words: tuple[str, ...], message: str) -> None:
    """One line and a hint."""
    ended = await commands("forget", "--yes", *words)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")
@pytest.mark.parametrize(("answer", "left"), [(b"n\n", {"E1": "archived"}), (b"y\n", {})])
async def test_a_terminal_asks_for_a_yes(commands: Commands, place: Place, answer: bytes, left: dict[str, str]) -> None:
    """It shows what it will delete, and needs a yes."""
    place.put("a", E1)
    place.run()
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "asyncimport", "forget", "--session", "E1", "--journal", str(place.path)]
    os.write(ours, answer)
    try:
        done = await anyio.run_process(command, stdin=theirs, env=commands.env, check=False)
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 0
    assert b"P / S1 / E1: session, archived, 1 file, /archive/E1" in done.stdout
    assert b"Forget this?" in done.stderr
    assert place.states() == left
