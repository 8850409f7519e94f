"""What a run sends over time: bounded, and added to journals that were made before it was kept."""

import sqlite3
from contextlib import closing
from dataclasses import fields
from pathlib import Path

from journals import E1, E2, Disk, instance, opened, scan, session, stored, whole_run

from asyncimport.journal import Journal, JournalReader
from asyncimport.model.activity import MAX_INTERVALS, Activity, RunActivity


def sending(path: Path, at: list[float]) -> RunActivity:
    """Let a run record a file of 10 bytes at each of these seconds after its start; return what its journal tells."""
    disk, now = Disk(), [0.0]
    disk.put(*[instance(f"{number:05}", E1) for number in range(len(at))])
    ticks = lambda: now[0]  # noqa: E731 - it reads better than a function here
    with Journal(path, destination="https://xnat.test", rules={"project": "P"}, ticks=ticks) as journal:
        scan(journal, disk)
        for now[0] in at:
            claims = journal.queue.claim(1, max_active=1)
            assert claims
            activity = Activity(1, 10, busy_seconds=0.5, slowest_seconds=at.index(now[0]), in_flight=2, allowed=4)
            journal.queue.record_outcomes([stored(claim) for claim in claims], activity)
    with JournalReader.open(path) as reader:
        return reader.activity(reader.runs()[-1].key)


def test_what_is_sent_is_kept_by_the_second(path: Path) -> None:
    """Seconds without uploads have no row; sums are sums, and the most is the most."""
    found = sending(path, [0.1, 0.9, 7.0])
    assert (found.run, found.seconds) == (1, 1)
    assert list(found.intervals) == [
        (0, Activity(2, 20, busy_seconds=1.0, slowest_seconds=1, in_flight=2, allowed=4)),
        (7, Activity(1, 10, busy_seconds=0.5, slowest_seconds=2, in_flight=2, allowed=4)),
    ]


def test_a_run_of_days_has_a_few_hundred_rows(path: Path) -> None:
    """Its intervals get longer, and none of what was sent is lost."""
    found = sending(path, [number * 400.0 for number in range(MAX_INTERVALS * 2)])
    assert len(found.intervals) <= MAX_INTERVALS
    assert sum(one.files for _, one in found.intervals) == MAX_INTERVALS * 2
    seconds = [second for second, _ in found.intervals]
    assert seconds == sorted(seconds)
    assert {second % found.seconds for second in seconds} == {0}
    assert max(one.slowest_seconds for _, one in found.intervals) == MAX_INTERVALS * 2 - 1


def as_before(path: Path) -> None:
    """Make a journal as earlier versions made it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(
            "DROP TABLE activity; ALTER TABLE run DROP COLUMN about; ALTER TABLE session DROP COLUMN study_date"
        )


def test_a_journal_of_an_earlier_version_goes_on(path: Path) -> None:
    """It is read as it is, the next run adds what reports need, and what was stored is not sent again."""
    disk = Disk()
    disk.put(instance("a", E1))
    whole_run(path, disk)
    as_before(path)
    with JournalReader.open(path) as reader:
        assert [run.about for run in reader.runs()] == [{}]
        assert reader.activity(1).intervals == []
        assert [facts.date for facts in reader.study_facts().values()] == [""]
    disk.put(instance("b", E2))
    assert whole_run(path, disk) == ["b"]
    with opened(path) as journal:
        journal.describe_run({"version": "9"})
    with JournalReader.open(path) as reader:
        assert [run.about for run in reader.runs()] == [{}, {}, {"version": "9"}]


def test_an_earlier_version_can_use_the_journal_again(path: Path) -> None:
    """What was added has no column that must be filled."""
    with opened(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO run (started) VALUES ('2026-01-01T00:00:00+00:00')")
        connection.execute(
            "INSERT INTO session (project, subject, label, study_uid, patient) VALUES ('P', 'S', 'E', '1.2', '')"
        )


def test_a_report_of_a_run_has_what_that_run_settled(path: Path) -> None:
    """Files of other runs are left out, and their sessions, but for one that this run archived."""
    disk = Disk()
    disk.put(instance("a", E1), instance("b", E2))
    with opened(path) as journal:
        scan(journal, disk)
        claims = journal.queue.claim(2, max_active=2)
        assert claims
        journal.queue.record_outcomes([stored(claim) for claim in claims])
        journal.end_run(130)
    with closing(sqlite3.connect(path)) as connection, connection:
        # The second run starts later, and seals both.
        connection.execute("UPDATE run SET started = '2020-01-01T00:00:00+00:00', ended = '2020-01-01T00:00:01+00:00'")
    disk.put(instance("c", session("E3")))
    assert whole_run(path, disk) == ["c"]
    with JournalReader.open(path, run=1) as reader:
        assert reader.summary().files.found == 2
    with JournalReader.open(path, run=2) as reader:
        assert {one.session.label for one in reader.summary().sessions} == {"E1", "E2", "E3"}


def test_every_number_of_an_interval_has_its_column(path: Path) -> None:
    """The table is written by position."""
    with opened(path) as journal:
        columns = [row[1] for row in journal.connection.db.execute("PRAGMA table_info(activity)")]
    assert columns == ["run", "second", "seconds", *(field.name for field in fields(Activity))]
