"""Each told reason is the cause, and its hint works when it is followed."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.routing.filters import StudyFilter
from asyncimport.routing.labels import UnplannedError
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio


def study(number: int, **values: Any) -> dict[str, Any]:
    """Return the fields of a study of its own patient."""
    return {
        "StudyInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.2.{number}.1",
        "PatientID": f"P{number}",
        "PatientName": f"Doe^{number}",
        "StudyDate": f"202001{number:02}",
    } | values


def cut(number: int, **values: Any) -> bytes:
    """Return an instance whose pixel data ends early."""
    return image(number, pixels=900, **values)[:-500]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make two studies of two patients."""
    for number in (1, 2):
        write(tmp_path / "source" / str(number) / "a", image(number, **study(number)))
    return tmp_path / "source"


async def upload(commands: Commands, source: Path, *words: str | Path) -> Ended:
    """Upload with JSON output."""
    return await commands("upload", source, "-P", "demo", "-q", "-o", "json", *words)


def test_what_comes_after_the_scan_is_not_beyond_the_limit() -> None:
    """A pilot leaves two kinds of studies out, each for its own reason."""
    chosen = StudyFilter(studies={"1.2.1"}, beyond_limit={"1.2.2"})
    chosen.check("1.2.1")
    with pytest.raises(UnplannedError, match=r"^it is beyond --max-sessions$"):
        chosen.check("1.2.2")
    with pytest.raises(UnplannedError, match="appeared after the scan"):
        chosen.check("1.2.3")


def test_a_study_is_not_missing_from_a_plan_that_nobody_gave() -> None:
    """A run that decides whole studies has a plan of its own, which is not `--plan`."""
    with pytest.raises(UnplannedError, match=r"^it is late$"):
        PlannedRoutes([], if_unplanned="it is late").route("1.2.3", {})


async def test_a_pilot_says_which_studies_are_young(url: str, commands: Commands, source: Path) -> None:
    """Files that have just changed are not beyond a limit."""
    commands.login(url)
    ended = await upload(commands, source, "--max-sessions", "1", "--min-age", "1h")
    assert (ended.code, len(ended.json["problems"])) == (0, 2)
    assert all("it is being written" in one["reason"] for one in ended.json["problems"])
    ended = await upload(commands, source, "--max-sessions", "1")
    assert [one["reason"] for one in ended.json["problems"]] == ["study 1.2.2: it is beyond --max-sessions"]


async def test_truncated_files_explain_what_differs_from_the_plan(
    url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """A plan with truncated files and a run without them, or the reverse: the reason is that, and not a lost file."""
    write(source / "2" / "cut", cut(22, **study(2)))
    write(source / "3" / "cut", cut(33, **study(3)))
    commands.login(url)
    without, with_them = tmp_path / "without.csv", tmp_path / "with.csv"
    await commands("plan", source, "-P", "demo", "--out", without)
    await commands("plan", source, "-P", "demo", "--out", with_them, "--truncated", "send")

    async def told(*words: str | Path) -> list[str]:
        ended = await upload(commands, source, "--dry-run", *words)
        return [f"{one['text']}; {one['advice']}" for one in ended.json["problems"] if one["severity"] != "warning"]

    more, damaged = await told("--plan", with_them)
    assert more.startswith(
        "line 3 of the plan: it was made for 2 files, but the study has 1: the others are truncated, and sent with"
    )
    assert damaged.startswith(
        "line 4 of the plan: every file of its study is truncated; get intact copies, give --trunc"
    )
    unplanned, fewer = await told("--plan", without, "--truncated", "send")
    assert "it was made for 1 file, but the study has 2: the others are truncated, and the plan was made" in fewer
    assert unplanned.startswith(
        "it is not in the plan: all its files are truncated, and only a plan of --truncated send"
    )
    # The hint works.
    assert await told("--plan", with_them, "--truncated", "send") == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("-E", "visit"), "a field in --session, with --relabel, gives each its own"),
        (("-E", "visit", "--check-first"), "a field in --session, with --relabel, gives each its own"),
        (("-E", "{Modality}"), "--dry-run shows them all"),
        (("-E", "{StudyID}", "--check-first"), "without --check-first, the other files are sent"),
    ],
)
async def test_nobody_is_told_to_leave_out_what_nobody_gave(
    xnat: TestXnat, url: str, commands: Commands, source: Path, words: tuple[str, ...], hint: str
) -> None:
    """The hint names --check-first only to who gave it, and only where it helps."""
    for number in (1, 2):
        write(source / str(number) / "a", image(number, **study(number, StudyID="S")))
    commands.login(url)
    ended = await upload(commands, source, *words)
    assert ended.code == 2
    assert "nothing was sent, because" in ended.json["error"]["message"]
    assert "(s)" not in ended.json["error"]["message"]
    assert hint in ended.json["error"]["hint"]
    assert ("--check-first" in ended.json["error"]["hint"]) == hint.startswith("without")
    assert not xnat.archived
    if "--relabel" in hint:
        assert (await upload(commands, source, "-E", "{StudyInstanceUID}", "--relabel")).code == 0
        assert len(xnat.archived) == 2


async def test_a_second_source_with_its_own_templates(
    xnat: TestXnat, url: str, commands: Commands, source: Path, tmp_path: Path
) -> None:
    """The hint of the error names --journal, and with it both sources are in one project."""
    write(tmp_path / "other" / "a", image(3, **study(3)))
    commands.login(url)
    assert (await upload(commands, source)).code == 0
    refused = await upload(commands, tmp_path / "other", "-E", "{PatientID}")
    assert refused.code == 2
    assert "begun with other rules: --session '{PatientID}_{StudyDate}', not '{PatientID}'" in refused.err
    assert "--journal FILE" in refused.err
    ended = await upload(commands, tmp_path / "other", "-E", "{PatientID}", "--journal", tmp_path / "second.journal")
    assert ended.code == 0, ended.err
    assert {one.label for one in xnat.archived} == {"P1_20200101", "P2_20200102", "P3"}
