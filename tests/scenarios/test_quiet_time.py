"""Studies that are still being written: recognised by file times and by two scans, even if clocks are wrong."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from builders import image, sop, write
from conftest import Commands
from journals import Disk, archived, instance, opened, scan, session, stored

from asyncimport.dicom import Identity
from asyncimport.journal import HeaderCache, JournalReader, RecentStudies
from asyncimport.model.deliveries import Stored
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.testserver import Fault, Tell, TestXnat

NOW = 1_700_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
QUIET = 120.0


class Place:
    """A directory with files, as a scan finds it. Times are seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, tuple[File, str, FileKind]] = {}

    def put(
        self, name: str, mtime: float, ctime: float | None = None, *, study: str = "1.2", size: int = 9, kind: str = ""
    ) -> None:
        """Write a file that changed at these times. A disk may have no ctime."""
        ctime_ns = None if ctime is None else int(ctime * 1e9)
        file = File(f"/drop/{name}", size, int(mtime * 1e9), None if ctime is None else 1, ctime_ns)
        self.files[name] = (file, study, FileKind(kind or "INSTANCE"))

    def look(self, now: float, quiet: float = QUIET) -> RecentStudies:
        """Scan as a run does, and return the studies that are not settled."""
        with HeaderCache(self.path) as survey:
            files = [file for file, _, _ in self.files.values()]
            unknown = {file.path for file in survey.skip_known(files)}
            survey.record(
                [
                    Ignored(file, kind, "damaged")
                    if kind is FileKind.UNREADABLE
                    else (
                        file,
                        Identity(
                            study_uid=study,
                            series_uid="1.3",
                            sop_uid=f"{study}.{name}",
                            fields={},
                            truncated=_cut(name),
                        ),
                    )
                    for name, (file, study, kind) in self.files.items()
                    if file.path in unknown
                ]
            )
            return survey.recent_studies(now, quiet)


def _cut(name: str) -> str:
    return "cut" if "cut" in name else ""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make a directory with one old study."""
    one = Place(tmp_path / "test.survey")
    one.put("a", NOW - 9 * DAY, NOW - 9 * DAY)
    return one


def test_what_is_old_is_quiet_at_first_sight(place: Place) -> None:
    """A thirty-year-old archive needs no second scan."""
    assert place.look(NOW) == RecentStudies()


def test_a_copy_that_keeps_times_is_seen_by_ctime(place: Place) -> None:
    """`rsync -a` and `cp -p` keep the old mtime. The ctime is that of the copy."""
    place.put("b", NOW - 9 * DAY, NOW - 5)
    assert place.look(NOW).waiting == {"1.2": "a file of it has just changed"}
    assert not place.look(NOW + QUIET).waiting


def test_two_looks_where_the_clock_of_the_disk_is_behind(place: Place) -> None:
    """New files are dated an hour ago. The study is complete only when no more files arrive."""
    now = NOW
    for number in range(4):
        now += 200
        place.put(f"b{number}", now - HOUR, now - HOUR)
        assert place.look(now).waiting == {"1.2": "it has not been seen unchanged for long enough"}
    assert place.look(now + QUIET - 1).waiting
    assert not place.look(now + QUIET).waiting
    # More may arrive.
    place.put("b9", now + QUIET + 1 - HOUR, now + QUIET + 1 - HOUR)
    assert place.look(now + QUIET + 1).waiting


def test_a_disk_without_ctime(place: Place) -> None:
    """The mtime and two scans decide."""
    place.put("a", NOW - HOUR)
    assert place.look(NOW).waiting
    assert not place.look(NOW + QUIET).waiting


@pytest.mark.parametrize("ahead", [HOUR, DAY, 300 * 366 * DAY])
def test_times_in_the_future_have_a_reason_of_their_own_and_an_end(place: Place, ahead: float) -> None:
    """After a clock that was ahead, or an odd copy, times mean nothing: two scans decide."""
    place.put("b", NOW + ahead, NOW - 9 * DAY)
    first = place.look(NOW)
    assert first.dated_ahead == {"1.2": 1}
    assert first.waiting == {"1.2": "it has not been seen unchanged for long enough"}
    assert place.look(NOW + QUIET) == RecentStudies({}, {"1.2": 1})


def test_a_clock_that_differs_by_a_little(place: Place) -> None:
    """A file server is half a minute ahead. The file counts as just changed, not as dated in the future."""
    place.put("b", NOW + 30, NOW + 30)
    assert place.look(NOW) == RecentStudies({"1.2": "a file of it has just changed"})
    assert not place.look(NOW + 30 + QUIET).waiting


def test_a_clock_that_was_a_day_ahead_when_it_was_looked_at(place: Place) -> None:
    """The first scan is dated tomorrow. The time counts from the second scan, so nothing waits a day."""
    place.put("b", NOW - HOUR, NOW - HOUR)
    place.look(NOW + DAY / 2)
    assert place.look(NOW).waiting
    assert not place.look(NOW + QUIET).waiting


@pytest.mark.parametrize("kind", ["INSTANCE", "UNREADABLE"])
def test_a_file_in_the_midst_of_being_written(place: Place, kind: str) -> None:
    """It is truncated, or not DICOM yet, and not part of the study yet: the study waits for it."""
    place.put("cut", NOW - 5, NOW - 5, kind=kind)
    place.put("elsewhere/a", NOW - 9 * DAY, NOW - 9 * DAY, study="1.9")
    assert set(place.look(NOW).waiting) == {"1.2"}
    assert not place.look(NOW + QUIET).waiting


def test_each_study_for_itself(place: Place) -> None:
    """A study that grows does not delay the others."""
    place.put("x/b", NOW - 5, NOW - 5, study="1.9")
    assert set(place.look(NOW).waiting) == {"1.9"}


def test_the_journal_leaves_alone_what_is_being_written(tmp_path: Path) -> None:
    """Nothing of it is sent, and its session is not archived, although all known files have arrived."""
    disk = Disk()
    disk.put(instance("a/1", session("E1")), instance("b/1", session("E2")), instance("c/1", session("E3")))

    def all_but_one(journal_path: Path) -> None:
        with opened(journal_path) as journal:
            scan(journal, disk)
            claims = journal.queue.claim(9, max_active=9)
            assert claims is not None
            assert len(claims) == 3
            journal.queue.record_outcomes(
                [Stored(one, f"/prearchive/{one.key}", may_have_taken_effect=True) for one in claims[:2]]
            )
            journal.end_run(130)

    path = tmp_path / "test.journal"
    all_but_one(path)
    with opened(path) as journal:
        journal.scan.postpone({"1.2.E1": "wait", "1.2.E3": "wait"})
        scan(journal, disk)
        assert not journal.queue.claim(9, max_active=9)
        sealed = journal.deliveries.claim()
        assert sealed is not None
        assert not isinstance(sealed, float)
        assert sealed.delivery.session.label == "E2"
        assert journal.deliveries.claim() is None
        reasons = {one.session.label: one.reason for one in JournalReader.of(journal).summary().sessions}
        assert (reasons["E1"], reasons["E3"]) == ("wait", "wait")
        journal.end_run(9)
    with opened(path) as journal:
        scan(journal, disk)
        claims = journal.queue.claim(9, max_active=9)
        assert claims is not None
        assert [one.instance.session.label for one in claims] == ["E3"]
        journal.queue.record_outcomes([stored(one) for one in claims])
        labels = set()
        while (found := journal.deliveries.claim()) is not None:
            assert not isinstance(found, float)
            labels.add(found.delivery.session.label)
            journal.deliveries.record_verdict(archived(found))
        assert labels == {"E1", "E2", "E3"}


# As users see it


def drop(place: Path, study: int, *numbers: int) -> None:
    """Copy files of a study as `cp -p` does: dated long ago."""
    for number in numbers:
        file = write(place / f"{number}", image(number, StudyInstanceUID=f"1.2.{study}", PatientID=f"P{study}"))
        os.utime(file.path, (NOW - DAY, NOW - DAY))


@pytest.mark.anyio
async def test_a_copy_that_is_under_way(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """The first run records what it saw and sends nothing. A later run sends what has not changed."""
    place = tmp_path / "drop"
    commands.login(url)
    words = ("upload", place, "-P", "demo", "-o", "json", "--min-age")
    drop(place / "a", 1, 10)
    drop(place / "b", 2, 20)
    first = await commands(*words, "5m")
    assert (first.code, first.json["files"]["stored"], first.json["files"]["skipped"]) == (0, 0, 2)
    reason = "it is being written: a file of it has just changed"
    assert {one["reason"] for one in first.json["problems"]} == {f"study 1.2.{n}: {reason}" for n in (1, 2)}
    drop(place / "b", 2, 21)
    second = await commands(*words, "0.01s")
    assert (second.code, second.json["files"]["stored"]) == (0, 1)
    assert [one["reason"] for one in second.json["problems"]] == [
        "study 1.2.2: it is being written: it has not been seen unchanged for long enough"
    ]
    third = await commands(*words, "0.01s")
    assert (third.code, third.json["files"]["stored"], third.json["files"]["already_stored"]) == (0, 2, 1)
    assert xnat.sop_uids() == {sop(number) for number in (10, 20, 21)}


@pytest.mark.anyio
@pytest.mark.parametrize("way", [(), ("--max-sessions", "5"), ("--on-collision", "suffix"), ("--plan",)])
async def test_what_an_earlier_run_has_begun_waits_too(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, way: tuple[str, ...]
) -> None:
    """A run was killed, and the study has grown since. Nothing more of it is sent, and the reason is reported."""
    place = tmp_path / "drop"
    commands.login(url)
    drop(place, 1, *range(10, 16))
    words: tuple[str | Path, ...] = ("upload", place, "-P", "demo", "-o", "json", "-w", "1", *way)
    if way == ("--plan",):
        assert (await commands("plan", place, "-P", "demo", "--out", tmp_path / "plan.csv", "-q")).code == 0
        # The plan was made for six files. It is no error that the study has grown since.
        made = (tmp_path / "plan.csv").read_text("utf-8-sig").replace(",MR,1,6,", ",MR,1,,")
        (tmp_path / "plan.csv").write_text(made)
        words = (*words, tmp_path / "plan.csv")
    async with commands.start(*words) as process:
        xnat.faults.add(Fault("import", Tell(process.kill), nth=3))
        assert await process.wait() == -signal.SIGKILL
    sent = xnat.count["import"]
    drop(place, 1, 16)
    waits = await commands(*words, "--min-age", "5m")
    assert (xnat.count["import"], xnat.count["commit"]) == (sent, 0)
    (detail,) = waits.json["details"]
    assert (waits.code, detail["state"]) == (9, "open"), waits.out
    assert detail["reason"] == "it is being written: a file of it has just changed"
    assert "--max-sessions" not in waits.out
    ended = await commands(*words, "--min-age", "0.01s")
    assert ended.code == 0, ended.out
    assert xnat.sop_uids() == {sop(number) for number in range(10, 17)}


@pytest.mark.anyio
async def test_a_dry_run_tells_what_waits(url: str, commands: Commands, tmp_path: Path) -> None:
    """With its problem code, and with that of a wrong clock."""
    drop(tmp_path / "drop", 1, 10)
    drop(tmp_path / "drop", 2, 20)
    os.utime(tmp_path / "drop" / "20", (4e9, 4e9))
    commands.login(url)
    ended = await commands("upload", tmp_path / "drop", "-P", "demo", "-o", "json", "--dry-run", "--min-age", "5m")
    codes = [one["code"] for one in ended.json["problems"]]
    assert sorted(codes) == ["being-written", "being-written", "dated-ahead"]
    assert ended.code == 0
    shutil.rmtree(tmp_path / "drop")
