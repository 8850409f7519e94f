"""Labels that depend on other studies do not change: a run asks the journal and the archive about them."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, router, write
from builders import upload as upload_at_once
from conftest import Commands, Ended

from asyncimport.dicom import Identity
from asyncimport.journal import HeaderCache
from asyncimport.model.files import File, Session
from asyncimport.operations.plan import Plan, make_plan
from asyncimport.operations.plan_draft import PlanRules, draft_plan
from asyncimport.routing.existing_sessions import ExistingSession, ExistingSessions
from asyncimport.routing.plan_file import PlanRow
from asyncimport.routing.planned_routes import PlannedRoutes, StudyRoutes
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

INDEX = ("-E", "{PatientID}_v{StudyIndex}")
SUFFIX = ("-E", "{PatientID}", "--on-collision", "suffix")


def visit(place: Path, number: int, year: int, **attributes: Any) -> None:
    """Write a visit of a patient."""
    ids = {"StudyInstanceUID": f"1.2.{number}", "PatientID": "P1", "StudyDate": f"{year}0101", **attributes}
    write(place / f"visit{number}" / "1.dcm", image(number, **ids))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write three visits in three years."""
    for number in (1, 2, 3):
        visit(tmp_path / "source", number, 2000 + number)
    return tmp_path / "source"


async def upload(commands: Commands, source: Path, *words: str | Path) -> Ended:
    """Do a dry run and an upload: both say the same."""
    call: tuple[str | Path, ...] = ("upload", source, "-P", "demo", "-q", "-o", "json", *words)
    rehearsed = await commands(*call, "--dry-run")
    ended = await commands(*call)
    assert rehearsed.code == ended.code, rehearsed.out + ended.out + ended.err
    return ended


def labels(xnat: TestXnat) -> dict[str, str]:
    """Return the labels of what is archived, by the number of its visit."""
    return {session.study_uid.rpartition(".")[2]: session.label for session in xnat.archived}


BY_INDEX = {"1": "P1_v1", "2": "P1_v2", "3": "P1_v3"}
BY_SUFFIX = {"1": "P1", "2": "P1_2", "3": "P1_3"}
RULES = {"index": (INDEX, BY_INDEX), "suffix": (SUFFIX, BY_SUFFIX)}


@pytest.mark.parametrize(("rules", "expected"), RULES.values(), ids=RULES)
@pytest.mark.parametrize("machine", ["this", "another"])
async def test_what_is_archived_counts(
    xnat: TestXnat,
    url: str,
    commands: Commands,
    source: Path,
    tmp_path: Path,
    rules: tuple[str, ...],
    expected: dict[str, str],
    machine: str,
) -> None:
    """The first visits are archived and deleted from disk: the third visit still gets number 3."""
    commands.login(url)
    (source / "visit3").rename(tmp_path / "visit3")
    assert (await upload(commands, source, *rules)).code == 0
    for number in (1, 2):
        (source / f"visit{number}").rename(tmp_path / f"visit{number}")
    (tmp_path / "visit3").rename(source / "visit3")
    state = ("--state-dir", tmp_path / "state") if machine == "another" else ()
    assert (await upload(commands, source, *rules, *state)).code == 0
    assert labels(xnat) == expected
    # All together once more, with both journals: no label changes, and nothing is sent twice.
    for number in (1, 2):
        (tmp_path / f"visit{number}").rename(source / f"visit{number}")
    sent = xnat.count["import"]
    assert (await upload(commands, source, *rules, *state)).code == 0
    assert (await upload(commands, source, *rules)).code == 0
    assert (labels(xnat), xnat.count["import"]) == (expected, sent)


@pytest.mark.parametrize(("rules", "expected"), RULES.values(), ids=RULES)
async def test_filters_select_a_part_of_the_source(
    xnat: TestXnat, url: str, commands: Commands, source: Path, rules: tuple[str, ...], expected: dict[str, str]
) -> None:
    """With --study-since the third visit gets number 3 too. The earlier ones later get 1 and 2."""
    commands.login(url)
    assert (await upload(commands, source, *rules, "--study-since", "2003-01-01")).code == 0
    assert labels(xnat) == {"3": expected["3"]}
    assert (await upload(commands, source, *rules)).code == 0
    assert labels(xnat) == expected


@pytest.mark.parametrize(
    ("rules", "late"), [(INDEX, ("label-late", "P1_v3")), (SUFFIX, ("label-suffixed", "P1_3"))], ids=RULES
)
async def test_who_turns_up_late(
    xnat: TestXnat,
    url: str,
    commands: Commands,
    source: Path,
    tmp_path: Path,
    rules: tuple[str, ...],
    late: tuple[str, str],
) -> None:
    """It gets the next free label, which is reported. No other label changes."""
    commands.login(url)
    (source / "visit2").rename(tmp_path / "visit2")
    assert (await upload(commands, source, *rules)).code == 0
    before = labels(xnat)
    (tmp_path / "visit2").rename(source / "visit2")
    rehearsed = await commands("upload", source, "-P", "demo", "-q", "-o", "json", *rules, "--dry-run")
    code, label = late
    told = [one for one in rehearsed.json["problems"] if one["code"] == code and one["study_uid"] == "1.2.2"]
    assert [label in one["text"] for one in told] == [True], rehearsed.out
    assert (await upload(commands, source, *rules)).code == 0
    assert labels(xnat) == {**before, "2": label}


async def test_what_waits_in_the_journal_counts(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """Visits in the prearchive keep their labels."""
    commands.login(url)
    (source / "visit3").rename(tmp_path / "visit3")
    assert (await upload(commands, source, *INDEX, "--no-archive")).code == 0
    (source / "visit1").rename(tmp_path / "visit1")
    (tmp_path / "visit3").rename(source / "visit3")
    assert (await upload(commands, source, *INDEX)).code == 0
    assert labels(xnat) == {"2": "P1_v2", "3": "P1_v3"}


async def test_a_plan_by_labels_that_are_others(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """A plan of a part was made without a server. Its line is reported, and nothing is sent a second time."""
    commands.login(url)
    assert (await upload(commands, source, *INDEX)).code == 0
    (source / "visit1").rename(tmp_path / "visit1")
    target = tmp_path / "plan.csv"
    made = await commands("plan", source, "-P", "demo", *INDEX, "--out", target, "-o", "json")
    assert [one["code"] for one in made.json["problems"]] == ["labels-by-source"]
    sent = xnat.count["import"]
    ended = await upload(commands, source, "--plan", target, "--state-dir", tmp_path / "state")
    assert (ended.code, xnat.count["import"], len(xnat.archived)) == (2, sent, 3)
    assert "line 2 of the plan" in ended.err
    assert "P1_v2" in ended.err


async def test_the_archive_is_asked_once(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """The number of studies does not matter."""
    commands.login(url)
    counts = []
    for studies in (2, 12):
        for number in range(studies):
            visit(tmp_path / str(studies), number + 1, 2000 + number)
        xnat.count.clear()
        words = ("-P", "demo", "-q", "-o", "json", *INDEX, "--dry-run")
        assert (await commands("upload", tmp_path / str(studies), *words)).code == 0
        counts.append(xnat.count["listing"])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("way", ["plan", "choice", "upload"])
async def test_who_gets_a_label(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, way: str) -> None:
    """The earlier of two studies, if the upload knows both; the first it finds, if it sends while it scans."""
    visit(tmp_path / "source" / "a", 2, 2002)
    visit(tmp_path / "source" / "a-b", 1, 2001)
    commands.login(url)
    words = (tmp_path / "source", "-P", "demo", "-E", "{PatientID}", "-q", "-o", "json")
    if way == "plan":
        ended = await commands("plan", *words)
        assert [row["study_uid"] for row in ended.json["rows"] if not row["skip"]] == ["1.2.2"]
        (told,) = [one for one in ended.json["problems"] if one["severity"] == "error"]
        assert (told["code"], told["study_uid"]) == ("label-taken", "1.2.1")
        ended = await commands("plan", *words, "--max-sessions", "5")
        (told,) = [one for one in ended.json["problems"] if one["severity"] == "error"]
        assert (told["code"], told["study_uid"]) == ("label-taken", "1.2.2")
    elif way == "choice":
        assert (await commands("upload", *words, "--max-sessions", "5")).code == 8
        assert labels(xnat) == {"1": "P1"}
    else:
        rehearsed = await commands("upload", *words, "--dry-run")
        told = [one["study_uid"] for one in rehearsed.json["problems"] if one["code"] == "label-taken"]
        assert (rehearsed.code, told) == (8, ["1.2.1"])
        assert (await commands("upload", *words)).code == 8
        assert labels(xnat) == {"2": "P1"}
        # The journal knows which study had it first.
        (tmp_path / "source" / "a").rename(tmp_path / "source" / "z")
        rehearsed = await commands("upload", *words, "--dry-run")
        told = [one["study_uid"] for one in rehearsed.json["problems"] if one["code"] == "label-taken"]
        assert (rehearsed.code, told) == (8, ["1.2.1"])
        assert (await commands("upload", *words)).code == 8
        assert labels(xnat) == {"2": "P1"}


LATE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "after a suffix": (SUFFIX, ("-E", "{PatientID}")),
    "other labels": (("-E", "{PatientID}_{StudyDate}"), ("--relabel", "-S", "S_{PatientID}", "-E", "{PatientID}")),
    "other numbers": (INDEX, ("--relabel", "-S", "S_{PatientID}", *INDEX)),
}


@pytest.mark.parametrize(("first", "then"), LATE.values(), ids=LATE)
async def test_what_comes_late_of_a_study(
    xnat: TestXnat,
    url: str,
    commands: Commands,
    source: Path,
    first: tuple[str, ...],
    then: tuple[str, ...],
) -> None:
    """It goes into the session of its study, whatever the present rules would call that, in this run and the next."""
    commands.login(url)
    (source / "visit3").rename(source.parent / "visit3")
    assert (await upload(commands, source, *first)).code == 0
    before = {(one.subject.label, one.label) for one in xnat.archived}
    study: dict[str, Any] = {"StudyInstanceUID": "1.2.2", "PatientID": "P1", "StudyDate": "20020101"}
    write(source / "visit2" / "late.dcm", image(9, SeriesNumber=9, SeriesInstanceUID="1.3.9", **study))
    for words in (then, tuple(word for word in then if word != "--relabel")):
        assert (await upload(commands, source, *words)).code == 0
        assert {(one.subject.label, one.label) for one in xnat.archived} == before
        assert len(xnat.sop_uids()) == 3


async def test_one_visit_from_another_machine(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """It has only the archive to ask."""
    await upload_at_once(url, [source / "visit1"], tmp_path / "journal", rules=router(session="P1_v1"))
    commands.login(url)
    ended = await commands("upload", source / "visit3", "-P", "demo", *INDEX, "-q")
    assert ended.code == 0, ended.err
    assert labels(xnat) == {"1": "P1_v1", "3": "P1_v2"}


def planned(place: Path, routes: StudyRoutes, *sessions: Session, suffix: bool = False) -> Plan:
    """Plan two visits, of 2001 and 2002, with some sessions that exist already."""
    with HeaderCache(place) as found:
        for number in (1, 2):
            file = File(f"/{number}", 1, number)
            fields = {"PatientID": "P1", "StudyDate": f"200{number}0101", "Modality": "MR"}
            found.skip_known([file])
            found.record([(file, Identity(f"1.{number}", f"1.2.{number}", "1.3", fields, ""))])
        options, existing = (
            PlanRules(routes=routes, suffix=suffix),
            ExistingSessions.of(map(ExistingSession, sessions)),
        )
        return make_plan(found, draft_plan(found, options, sessions=existing), options, sessions=existing)


def test_a_suffix_keeps_clear_of_what_is_there(tmp_path: Path) -> None:
    """A study with a session keeps its label, and no other study gets a label that is taken."""
    taken, own = Session("demo", "P9", "p1", "1.2.9"), Session("demo", "P1", "P1_2", "1.2.2")
    for sessions, expected in (
        ((taken,), ["P1_2", "P1_3"]),
        ((own,), ["P1", "P1_2"]),
        ((taken, own), ["P1_3", "P1_2"]),
        ((Session("demo", "P1", "other", "1.2.1"),), ["other", "P1"]),
    ):
        found = planned(tmp_path / "survey", router(session="{PatientID}"), *sessions, suffix=True)
        assert [row.session_label for row in found.rows] == expected
    untold = planned(tmp_path / "survey", router(session="{PatientID}"), Session("demo", "P1", "P1", ""), suffix=True)
    assert {problem.code for problem in untold.problems} == {"label-taken"}


def test_a_row_is_bound_to_the_session_of_its_study(tmp_path: Path) -> None:
    """A plan that was made without a server may not send a study a second time, under another label."""
    rows = [PlanRow(f"1.2.{number}", "demo", "P1", f"P1_v{number}", line=1 + number) for number in (1, 2)]
    found = planned(tmp_path / "survey", PlannedRoutes(rows), Session("demo", "P1", "P1_v7", "1.2.2"))
    (told,) = found.problems
    assert (told.code, told.study_uid) == ("row-elsewhere", "1.2.2")
    assert told.text.startswith("line 3 of the plan gives session P1_v2, but the study has session P1_v7")
    # A study that was archived and deleted from disk is no error of the plan.
    rows.append(PlanRow("1.2.9", "demo", "P1", "P1_v9", line=4))
    found = planned(tmp_path / "survey", PlannedRoutes(rows), Session("demo", "P1", "P1_v9", "1.2.9"))
    assert found.problems == ()
