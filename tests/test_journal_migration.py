"""Journals of older versions are brought forward, and nothing in them is lost on the way."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from journals import Disk, instance, names, opened, scan, send, session

from asyncimport.errors import JournalError
from asyncimport.journal import Ledger
from asyncimport.journal.database import create_or_open
from asyncimport.model import AttachmentState, File, Filed, FileKind, Ignored

E1, E2, E3 = session("E1"), session("E2", subject="S2"), session("E3", subject="S3")


def written_by(version: int, path: Path, which: str = "") -> Path:
    """Write a journal as that version left it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((Path(__file__).parent / f"journal_v{version}{which}.sql").read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {0x61696D70}")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA journal_mode = WAL")
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Write a journal as version 1 left it: two sessions archived, one with a failed file."""
    return written_by(1, tmp_path / "old.journal")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Write a journal as version 2 left it: a session archived, with a file beside it, and one with a failed file."""
    return written_by(2, tmp_path / "second.journal")


def schema(path: Path) -> set[tuple[str, ...]]:
    """Return what there is in a database, apart from its rows: columns of tables, and all else as it was written."""
    with closing(sqlite3.connect(path)) as connection:
        objects = connection.execute("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master").fetchall()
        columns = [
            (name, *map(str, column))
            for kind, name, *_ in objects
            if kind == "table"
            for column in connection.execute(f"PRAGMA table_info({name})")
        ]
        transitions = connection.execute("SELECT * FROM transition").fetchall()
        version = connection.execute("PRAGMA user_version").fetchone()
    others = [(kind, name, re.sub(r"\s+", " ", sql)) for kind, name, _, sql in objects if kind != "table"]
    return {*columns, *others, *transitions, ("version", str(version))}


@pytest.mark.parametrize("version", [1, 2, 3])
def test_it_becomes_what_a_new_one_is(tmp_path: Path, version: int) -> None:
    """Tables, indexes, triggers and transitions are the same, whichever way a journal came to them."""
    old = written_by(version, tmp_path / "old.journal")
    create_or_open(old).close()
    create_or_open(tmp_path / "new.journal").close()
    assert schema(old) == schema(tmp_path / "new.journal")


def test_a_run_goes_on_with_it(old: Path) -> None:
    """What was stored is not sent again, what had failed is, and its session is archived."""
    disk = Disk()
    disk.put(*[instance(f"1/{name}", E1) for name in "abc"], *[instance(f"2/{name}", E2) for name in "de"])
    disk.put(instance("3/f", E3))
    with opened(old) as journal:
        assert journal.run == 2
        scan(journal, disk)
        assert names(send(journal)) == ["2/e"]
        summary = Ledger.of(journal).summary()
        arrived = list(Ledger.of(journal).arrived())
    assert [report.state for report in summary.sessions] == ["archived"] * 3
    assert (summary.files.already_stored, summary.files.stored, summary.files.already_refused) == (4, 1, 1)
    # What nobody noted then is not known now, and says so.
    assert [(one.sha256, one.attempts) for one in arrived if one.run == 1] == [(None, None)] * 4


def test_what_lies_beside_old_sessions_is_attached(second: Path) -> None:
    """A journal of before there were attachments knows which sessions are archived, and what lies beside them."""
    disk = Disk()
    disk.put(*[instance(f"1/{name}", E1) for name in "abc"], *[instance(f"2/{name}", E2) for name in "de"])
    disk.put(instance("3/f", E3), Ignored(File("/src/1/notes.csv", 3, 1_000), FileKind.NOT_DICOM, "not DICOM"))
    with opened(second) as journal:
        assert not journal.has_unattached()
        scan(journal, disk)
        assert names(send(journal)) == ["2/e"]
        assert journal.enclose(["/src"], lambda path: "DATA" if path.endswith(".csv") else None) == 1
        enclosure = journal.claim_enclosure()
        assert enclosure is not None
        assert (enclosure.resource.place.session, [one.name for one in enclosure.attachments]) == ("E1", ["notes.csv"])
        journal.file_away(enclosure, [Filed(one, AttachmentState.STORED, md5="x") for one in enclosure.attachments])
        summary = Ledger.of(journal).summary()
    assert (summary.files.already_stored, summary.files.stored, summary.attachments.stored) == (4, 1, 1)


@pytest.mark.parametrize("retry_refused", [False, True])
def test_sessions_that_were_archived_without_refused_files_say_so(tmp_path: Path, retry_refused: bool) -> None:
    """What was held because XNAT would not take a file was never sealed: it goes on, with that file too."""
    disk = Disk()
    for number in range(1, 5):
        of = session(f"E{number}", subject=f"S{number}")
        disk.put(*[instance(f"{number}/{name}", of) for name in "abc"])
    with opened(written_by(3, tmp_path / "third.journal", "_refused")) as journal:
        scan(journal, disk, retry_refused=retry_refused)
        sent = ["3/b", "4/a", "4/b", "4/c"]
        assert sorted(names(send(journal))) == (["1/c", "2/c", *sent] if retry_refused else sent)
        summary = Ledger.of(journal).summary()
    ends = [(report.state, report.reason) for report in summary.sessions]
    assert ends == [
        ("archived", None),
        ("archived", None) if retry_refused else ("held", "1 of its files was refused"),
        ("archived", None),
        ("archived", None),
    ]
    assert (summary.files.already_refused, summary.files.refused) == ((0, 0) if retry_refused else (1, 1))


def test_what_was_said_of_subjects_stays_on_the_list(tmp_path: Path) -> None:
    """But for what the archive had another value of."""
    old = written_by(3, tmp_path / "third.journal")
    rows = [
        ("S2", "STORED", '{"dob": "1970-01-31", "race": "x"}', '["race"]'),
        ("S3", "REFUSED", '{"race": "x"}', "[]"),
    ]
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.executemany("INSERT INTO described VALUES ('P', ?, ?, ?, ?, '[]', NULL, 1)", rows)
    with opened(old) as journal:
        found = Ledger.of(journal).described()
    assert found == [("P", "S1", {"gender": "female"}), ("P", "S2", {"dob": "1970-01-31"}), ("P", "S3", {})]


def test_a_reader_leaves_it_alone(old: Path) -> None:
    """Reading changes nothing: it is said what brings the journal forward."""
    before = old.read_bytes()
    with pytest.raises(JournalError, match="written by an older version") as caught, Ledger.read(old):
        pass
    assert "asyncimport upload" in caught.value.hint
    assert old.read_bytes() == before


@pytest.mark.parametrize(("version", "table"), [(1, "file_lacked"), (1, "attachment"), (2, "described")])
def test_a_step_that_fails_leaves_it_as_it_was(tmp_path: Path, version: int, table: str) -> None:
    """Bringing it forward is one transaction."""
    old = written_by(version, tmp_path / "old.journal")
    with closing(sqlite3.connect(old)) as connection:
        connection.execute(f"CREATE TABLE {table} (in_the_way)")
    before = schema(old)
    with pytest.raises(JournalError):
        opened(old)
    assert schema(old) == before
