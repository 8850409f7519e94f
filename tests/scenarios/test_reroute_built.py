"""--relabel applies to sessions in the prearchive: they are archived under the new labels, or held."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands, Ended
from journals import Disk, instance, opened, scan, sealed_by, session, whole_run

from asyncimport.model.deliveries import Postponed
from asyncimport.testserver import Fault, Status, TestXnat

pytestmark = pytest.mark.anyio

SESSIONS = 2


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """Write sessions P1 and P2 of two files each."""
    for patient in range(1, SESSIONS + 1):
        for number in range(2):
            add(tmp_path / "visits", patient, number)
    return tmp_path / "visits"


def add(place: Path, patient: int, number: int) -> None:
    """Write a file of the session of a patient."""
    study = f"1.2.{patient}"
    header: dict[str, Any] = {"PatientID": f"P{patient}", "StudyInstanceUID": study, "SeriesInstanceUID": f"{study}.1"}
    write(place / f"P{patient}" / str(number), image(10 * patient + number, **header))


EVERY = {sop(10 * patient + number) for patient in range(1, SESSIONS + 1) for number in range(2)}


def states(ended: Ended) -> set[tuple[str, str, str | None]]:
    """Return subjects, and how their sessions ended and were verified."""
    return {(detail["subject"], detail["state"], detail["verified"]) for detail in ended.json["details"]}


async def left_built(commands: Commands, visits: Path, *words: str) -> None:
    """Upload with wrong labels, and leave the sessions in the prearchive."""
    labels = words or ("-S", "WRONG_{PatientID}")
    assert (await commands("upload", visits, "-P", "demo", "--no-archive", "-q", *labels)).code == 0


RIGHT = {("P1", "archived", "uids"), ("P2", "archived", "uids")}


@pytest.mark.parametrize("code", [0, 4])
@pytest.mark.parametrize("late", [False, True], ids=["as it is", "with late files"])
@pytest.mark.parametrize(
    "wrong",
    [("-S", "WRONG_{PatientID}"), ("-E", "WRONG_{PatientID}"), ("-S", "W_{PatientID}", "-E", "X_{PatientID}")],
    ids=["subject", "session", "both"],
)
async def test_it_is_archived_under_the_new_labels(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, wrong: Sequence[str], late: bool, code: int
) -> None:
    """The rows keep their first names, and the archive step gets the right ones."""
    xnat.project("demo").prearchive_code = code
    commands.login(url)
    await left_built(commands, visits, *wrong)
    if late:
        add(visits, 1, 2)
    ended = await commands("upload", visits, "-P", "demo", "--relabel", "-o", "json")
    assert (ended.code, states(ended)) == (0, RIGHT), ended.out
    archived = {(one.subject.label, one.label) for one in xnat.archived}
    assert archived == {("P1", "P1_20200102"), ("P2", "P2_20200102")}
    assert xnat.sop_uids() == (EVERY | {sop(12)} if late else EVERY)
    assert xnat.prearchive == []
    assert (await commands("verify", "-P", "demo")).code == 0
    # Later files go into that session, under its names.
    add(visits, 2, 3)
    again = await commands("upload", visits, "-P", "demo", "--overwrite", "append", "-o", "json")
    assert (again.code, sop(23) in xnat.sop_uids(), len(xnat.archived)) == (0, True, SESSIONS), again.out


@pytest.mark.parametrize(
    ("what", "why"),
    [("files", "more files than were sent there"), ("source", "may hold more than was sent from here")],
)
async def test_a_row_that_is_not_all_ours_is_held(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, what: str, why: str
) -> None:
    """A row with files of others is not moved to another subject, whatever --overwrite says."""
    commands.login(url)
    await left_built(commands, visits)
    row = next(row for row in xnat.prearchive if row.subject == "WRONG_P1")
    if what == "source":
        row.source = "uploader"
    else:
        files = next(iter(row.scans.values()))
        name, file = next(iter(files.items()))
        files[f"other-{name}"] = replace(file, name=f"other-{name}", sop_uid="9.9")
    for _ in range(2):
        words = ("upload", visits, "-P", "demo", "--relabel", "-o", "json", "--overwrite", "append", "--retry", "held")
        ended = await commands(*words)
        assert ended.code == 9, ended.out
        assert states(ended) == {("P1", "held", None), ("P2", "archived", "uids")}
        reason = next(detail["reason"] for detail in ended.json["details"] if detail["state"] == "held")
        assert why in reason
        assert "archive, move or delete it in XNAT's prearchive" in reason
    assert {one.subject.label for one in xnat.archived} == {"P2"}


async def test_the_new_subject_is_looked_at(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path
) -> None:
    """The label belongs to another patient in the archive: the session is held, as before a first file."""
    xnat.script = None
    commands.login(url)
    write(tmp_path / "other" / "1", image(90, PatientID="Q", StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1"))
    words = ("-S", "taken", "-E", "E9", "--state-dir", tmp_path / "elsewhere", "-q")
    assert (await commands("upload", tmp_path / "other", "-P", "demo", *words)).code == 0
    await left_built(commands, visits)
    ended = await commands("upload", visits / "P1", "-P", "demo", "--relabel", "-S", "taken", "-o", "json")
    assert ended.code == 9, ended.out
    assert states(ended) == {("taken", "held", None)}
    assert "has another PatientID" in ended.json["details"][0]["reason"]
    assert len(xnat.archived) == 1


async def test_two_of_them_do_not_become_one(xnat: TestXnat, url: str, commands: Commands, visits: Path) -> None:
    """New labels collide like those of new sessions."""
    commands.login(url)
    await left_built(commands, visits)
    ended = await commands("upload", visits, "-P", "demo", "--relabel", "-S", "all", "-E", "{PatientID}", "-o", "json")
    assert (ended.code, ended.json["files"]["skipped"]) == (8, 2), ended.out
    assert "two PatientIDs" in ended.json["problems"][0]["reason"]
    assert [one.subject.label for one in xnat.archived] == ["all"]
    # The other session waits for other labels.
    again = await commands("upload", visits, "-P", "demo", "--relabel", "-o", "json")
    assert (again.code, {one.subject.label for one in xnat.archived}) == (0, {"all", "P2"}), again.out
    assert xnat.sop_uids() == EVERY


async def test_what_has_no_place_any_more_is_not_archived(
    xnat: TestXnat, url: str, commands: Commands, visits: Path
) -> None:
    """The old labels are no longer wanted."""
    commands.login(url)
    await left_built(commands, visits)
    ended = await commands("upload", visits, "-P", "demo", "--relabel", "-S", "{StudyID}", "-o", "json")
    assert ended.code in {8, 9}, ended.out
    assert xnat.archived == []
    assert {row.status for row in xnat.prearchive} == {"READY"}
    again = await commands("upload", visits, "-P", "demo", "--relabel", "-o", "json")
    assert (again.code, states(again)) == (0, RIGHT), again.out


@pytest.mark.parametrize("is_there", [True, False])
def test_what_was_sealed_waits_for_its_labels(tmp_path: Path, is_there: bool) -> None:
    """An earlier run did not finish it: it is finalised when its files have given it its new labels."""
    path, disk = tmp_path / "book", Disk()
    disk.put(instance("1/a", session("E1", subject="WRONG")))
    whole_run(path, disk, verdict=lambda sealed: Postponed(sealed.delivery, "away"))
    later = Disk()
    if is_there:
        later.put(instance("1/a", session("E1", subject="RIGHT")))
    with opened(path, relabel=True) as journal:
        assert sealed_by(journal) is None
        scan(journal, later)
        sealed = sealed_by(journal)
    assert sealed is not None
    assert sealed.delivery.session.subject == ("RIGHT" if is_there else "WRONG")
    assert sealed.delivery.row_session.subject == "WRONG"


@pytest.mark.parametrize("lack", ["1 of its files cannot be read", "no part of it is sent"])
async def test_what_a_session_misses_elsewhere_stays_missing(ready: Commands, visits: Path, lack: str) -> None:
    """A run with --relabel over one source does not forget what another source has of a study, damaged or disputed."""
    other: dict[str, Any] = {"PatientID": "P2" if "part" in lack else "P1", "StudyInstanceUID": "1.2.1"}
    content = image(19, **other, SeriesInstanceUID="1.2.1.1")
    late = visits.parent / "late"
    write(late / "19", content if "part" in lack else content[:-2])
    words = ("-P", "demo", "-o", "json")
    await left_built(ready, visits, "-E", "A_{PatientID}")
    assert (await ready("upload", visits, late, *words, "--no-archive", "-E", "A_{PatientID}")).code == 8
    again = ("upload", visits, *words, "--relabel", "-E", "B_{PatientID}")
    planned, ended = await ready(*again, "--dry-run"), await ready(*again)
    assert (planned.code, ended.code) == (9, 9), ended.out
    held, whole = sorted(ended.json["details"], key=lambda one: str(one["session"]))
    assert (held["session"], held["state"], held["reason"][: len(lack)]) == ("B_P1", "held", lack)
    assert (whole["session"], whole["state"]) == ("B_P2", "archived")


async def test_a_dry_run_knows_that_the_run_builds_a_row_first(xnat: TestXnat, ready: Commands, visits: Path) -> None:
    """It said that the row of an interrupted run may hold what others have sent, and to delete it."""
    xnat.faults.add(Fault("import", Status(403), nth=4))
    assert (await ready("upload", visits, "-P", "demo", "-w", "1", "-S", "WRONG_{PatientID}")).code == 8
    assert [row.status for row in xnat.prearchive] == ["RECEIVING"]
    again = ("upload", visits, "-P", "demo", "-o", "json", "--relabel")
    planned, ended = await ready(*again, "--dry-run"), await ready(*again)
    assert (planned.code, ended.code) == (0, 0), planned.out
    assert ("P2", "archived", "uids") in states(ended)
