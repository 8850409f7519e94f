"""A project is one project under any of its names. Parts of a plan and projects from a template just work."""

import csv
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands, Ended

from asyncimport.testserver import Project, TestXnat

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write four studies of four patients, of two kinds."""
    for number in range(4):
        ids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}"}
        content = image(number, StudyDescription="demo" if number < 2 else "other", **ids)
        write(tmp_path / "source" / f"p{number}" / "1.dcm", content)
    return tmp_path / "source"


@pytest.fixture
def ready(xnat: TestXnat, url: str, commands: Commands) -> Commands:
    """Let the commands find the test XNAT, whose project has an alias."""
    xnat.projects["demo"].aliases = ("nickname",)
    commands.login(url)
    return commands


async def upload(commands: Commands, source: Path, *words: str | Path) -> Ended:
    """Run it for JSON."""
    return await commands("upload", source, "-q", "-o", "json", *words)


async def test_alias_and_id_have_one_journal(xnat: TestXnat, ready: Commands, source: Path) -> None:
    """The second run knows what the first sent, and offline commands find the journal by either name."""
    assert (await upload(ready, source, "-P", "nickname")).code == 0
    again = await upload(ready, source, "-P", "demo")
    assert (again.code, again.json["files"]["already_stored"]) == (0, 4), again.out
    assert xnat.count["import"] == 4
    assert len(list(ready.home.rglob("*.journal"))) == 1
    for name in ("demo", "nickname"):
        assert (await ready("status", "-P", name, "-o", "json")).json["sessions"]["archived"] == 4
        assert (await ready("verify", "-P", name)).code == 0


async def test_alias_and_id_in_a_plan_are_one_project(
    xnat: TestXnat, ready: Commands, source: Path, tmp_path: Path
) -> None:
    """A label that is used under both names is an error before anything is sent, and in the dry run."""
    rows = [
        {"study_uid": f"1.2.{number}", "project_id": project, "subject_label": "S", "session_label": "S_v1"}
        for number, project in ((0, "demo"), (1, "nickname"))
    ]
    with (tmp_path / "plan.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    for words in (("--dry-run",), ()):
        ended = await upload(ready, source, "--plan", tmp_path / "plan.csv", "--allow-mixed-patients", *words)
        assert ended.code == 2, ended.out
        assert "S_v1" in ended.out + ended.err
    assert xnat.count["import"] == 0


async def test_parts_of_a_plan_one_after_the_other(
    xnat: TestXnat, ready: Commands, source: Path, tmp_path: Path
) -> None:
    """On one machine each part uses the same journal, without --relabel."""
    made = await ready("plan", source, "-P", "demo", "--out", tmp_path / "plan.csv", "--split", "2")
    assert made.code == 0, made.err
    for part in ("plan-1.csv", "plan-2.csv", "plan-1.csv"):
        ended = await upload(ready, source, "-P", "demo", "--plan", tmp_path / part)
        assert ended.code == 0, ended.out + ended.err
    assert xnat.sop_uids() == {sop(number) for number in range(4)}
    assert xnat.count["import"] == 4


async def test_a_study_that_has_a_session_is_not_moved_by_an_edited_plan(
    xnat: TestXnat, ready: Commands, source: Path, tmp_path: Path
) -> None:
    """Another target for a study that was sent is an error before anything is sent."""
    plan = tmp_path / "plan.csv"
    assert (await ready("plan", source, "-P", "demo", "--out", plan)).code == 0
    assert (await upload(ready, source / "p0", "-P", "demo")).code == 0
    plan.write_bytes(plan.read_bytes().replace(b"P0_", b"Q0_"))
    for words in (("--dry-run",), ()):
        ended = await upload(ready, source, "-P", "demo", "--plan", plan, *words)
        assert ended.code != 0, ended.out
    assert {session.label for session in xnat.archived} == {"P0_20200102"}


async def test_the_journal_of_a_template_is_found_by_each_of_its_projects(
    xnat: TestXnat, ready: Commands, source: Path
) -> None:
    """Each command uses only the part of that project."""
    xnat.projects["other"] = Project("other")
    assert (await upload(ready, source, "-P", "{StudyDescription}")).code == 0
    assert len(xnat.archived) == 4
    for project, labels in (("demo", {"P0", "P1"}), ("other", {"P2", "P3"})):
        status = await ready("status", "-P", project, "-o", "json")
        assert {one["subject"] for one in status.json["details"]} == labels
        verified = await ready("verify", "-P", project, "-o", "json")
        assert {one["subject"] for one in verified.json["details"]} == labels
    forgotten = await ready("forget", "-P", "other", "--session", "P0_20200102", "--yes")
    assert forgotten.code == 2
    assert (await ready("forget", "-P", "other", "--session", "P2_20200102", "--yes", "-o", "json")).code == 0
    left = await ready("status", "-P", "{StudyDescription}", "-o", "json")
    assert {one["subject"] for one in left.json["details"]} == {"P0", "P1", "P3"}


async def test_overlapping_sources_bring_each_file_once(xnat: TestXnat, ready: Commands, source: Path) -> None:
    """A file counts for the first source that contains it. Patterns see its path below that source."""
    sources: tuple[str | Path, ...] = (source, source / "p0")
    words = ("-P", "demo", "--path-pattern", "{subject}/{n}.dcm", "-E", "{subject}_v1")
    plan = await ready("plan", *sources, *words, "-o", "json")
    ended = await ready("upload", *sources, *words, "-q", "-o", "json")
    assert (plan.code, ended.code) == (0, 0), plan.out + ended.out
    assert {(row["session"], row["files"]) for row in plan.json["rows"]} == {
        (f"p{number}_v1", 1) for number in range(4)
    }
    assert {session.label for session in xnat.archived} == {f"p{number}_v1" for number in range(4)}
    assert xnat.count["import"] == 4


async def test_a_project_in_two_journals_is_told_by_each_command(ready: Commands, source: Path, tmp_path: Path) -> None:
    """One journal does not hold all of the project: the other one is named, and can be used."""
    assert (await upload(ready, source / "p0", "-P", "nickname")).code == 0
    assert (await upload(ready, source / "p1", "-P", "{StudyDescription}")).code == 0
    (other,) = [path for path in ready.home.rglob("*.journal") if "StudyDescription" in path.name]
    for words in (("status",), ("verify", "--safe-to-delete", tmp_path / "safe")):
        for name in ("demo", "nickname"):
            ended = await ready(*words, "-P", name, "-o", "json")
            assert (ended.code, ended.json["other_journals"]) == (0, [str(other)]), ended
            assert f"--journal {other}" in ended.err
        there = await ready(*words, "-P", "demo", "-o", "json", "--journal", other)
        assert (there.code, there.json["other_journals"], there.err) == (0, [], ""), there
        assert [one["subject"] for one in there.json["details"]] == ["P1"]
    forgotten = await ready("forget", "-P", "demo", "--session", "P1_20200102", "--yes")
    assert (forgotten.code, f"--journal {other}" in forgotten.err) == (2, True), forgotten


async def test_two_journals_of_templates_and_none_of_the_project(ready: Commands, source: Path) -> None:
    """The message does not say that nothing was uploaded: it asks for one of the two journals."""
    assert (await upload(ready, source / "p0", "-P", "{StudyDescription}")).code == 0
    assert (await upload(ready, source / "p1", "-P", "{StudyDescription:lower}")).code == 0
    ended = await ready("status", "-P", "demo")
    assert (ended.code, "2 journals have sessions of project demo" in ended.err) == (2, True), ended


async def test_the_only_journal_is_not_taken_for_that_of_another_project(ready: Commands, source: Path) -> None:
    """Also without a server: `forget` would delete rows of another project."""
    assert (await upload(ready, source / "p0", "-P", "demo")).code == 0
    del ready.env["XNAT_HOST"]
    for words in (("status",), ("forget", "--session", "P0_20200102", "--yes")):
        ended = await ready(*words, "-P", "other")
        assert (ended.code, "nothing was uploaded to project other" in ended.err) == (2, True), ended
        assert (await ready("status", "-P", "demo", "-o", "json")).json["sessions"]["archived"] == 1
