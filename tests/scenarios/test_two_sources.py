"""A project comes from one place: two that differ are an error before the scan, and neither wins."""

import os
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands

from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import UnroutableError
from asyncimport.routing.plan_reader import read_plan
from asyncimport.routing.router import Router
from asyncimport.testserver import Project, TestXnat

pytestmark = pytest.mark.anyio


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write the studies of two patients."""
    for number in (1, 2):
        ids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}"}
        write(tmp_path / "source" / f"{number}.dcm", image(number, **ids))
    return tmp_path / "source"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table that sends them to two projects."""
    path = tmp_path / "map.csv"
    path.write_text("PatientID,project,subject\nP1,one,S1\nP2,two,S2\n")
    return path


@pytest.fixture
def sites(xnat: TestXnat, url: str, commands: Commands) -> TestXnat:
    """Let both projects exist, and the commands find them."""
    for name in ("one", "two"):
        xnat.add_project(Project(name, editors=("demo",)))
    commands.login(url)
    return xnat


def places(xnat: TestXnat) -> set[tuple[str, str]]:
    """Return project and subject of all that is archived."""
    return {(session.project, session.subject.label) for session in xnat.archived}


async def test_a_plan_keeps_the_projects_of_a_table(
    sites: TestXnat, commands: Commands, source: Path, table: Path, tmp_path: Path
) -> None:
    """Without -P, as with a template of its own; the upload by that plan goes there."""
    target = tmp_path / "plan.csv"
    ended = await commands("plan", source, "--label-map", table, "--out", target, "-o", "json")
    assert ended.code == 0, ended.err
    assert [row["project"] for row in ended.json["rows"]] == ["one", "two"]
    assert [row.project_id for row in read_plan(target.read_bytes())] == ["one", "two"]
    assert (await commands("upload", source, "--plan", target, "-q")).code == 0
    assert places(sites) == {("one", "S1"), ("two", "S2")}


async def test_a_plan_keeps_the_projects_of_paths(commands: Commands, source: Path, tmp_path: Path) -> None:
    """Likewise those of directories."""
    source.rename(tmp_path / "all")
    (tmp_path / "source").mkdir()
    (tmp_path / "all").rename(tmp_path / "source" / "one")
    ended = await commands("plan", tmp_path / "source", "--path-pattern", "{project}/**", "-o", "json")
    assert [row["project"] for row in ended.json["rows"]] == ["one", "one"]


async def test_a_plan_without_any_project_leaves_it_open(commands: Commands, source: Path, tmp_path: Path) -> None:
    """The upload reports it then."""
    target = tmp_path / "plan.csv"
    ended = await commands("plan", source, "--out", target, "-o", "json")
    assert [row.project_id for row in read_plan(target.read_bytes(), project="x")] == ["x", "x"]
    assert ended.code == 0, ended.err


WAYS = ("option", "environment", "profile", "default profile")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", ["upload", "plan"])
async def test_two_sources_that_differ(
    sites: TestXnat, commands: Commands, source: Path, table: Path, tmp_path: Path, way: str, command: str
) -> None:
    """The message names the line and the option that decides. Nothing is sent."""
    words: list[str] = []
    if way == "option":
        words = ["-P", "one"]
    if way == "environment":
        commands.env["ASYNCIMPORT_PROJECT"] = "one"
    if way.endswith("profile"):
        if command == "plan":
            # It has no profiles.
            return
        host = commands.env["XNAT_HOST"]
        default = 'default_profile = "p"\n' if way == "default profile" else ""
        (tmp_path / "config.toml").write_text(f'{default}[profiles.p]\nhost = "{host}"\nproject = "one"\n')
        commands.env["ASYNCIMPORT_CONFIG"] = os.fspath(tmp_path / "config.toml")
        words = ["--profile", "p"] if way == "profile" else []
    ended = await commands(command, source, "--label-map", table, "-q", *words)
    assert ended.code == 2
    assert "line 3" in ended.err
    assert "project" in ended.err
    assert "{project}" in ended.err.partition("hint: ")[2]
    assert not sites.archived
    # The option of the message works.
    assert (await commands(command, source, "--label-map", table, "-q", *words, "-P", "{project}")).code == 0
    if command == "upload":
        assert places(sites) == {("one", "S1"), ("two", "S2")}


async def test_two_sources_that_agree(sites: TestXnat, commands: Commands, source: Path, tmp_path: Path) -> None:
    """Both agree, or only one names a project: no error."""
    table = tmp_path / "map.csv"
    sites.projects["one"].aliases = ("uno",)
    table.write_text("PatientID,project,subject\nP1,uno,S1\nP2,,S2\n")
    assert (await commands("upload", source, "--label-map", table, "-P", "uno", "-q")).code == 0
    assert places(sites) == {("one", "S1"), ("one", "S2")}


def rules(text: str, project: str) -> Router:
    """Make rules with a table."""
    keywords = frozenset({"PatientID", "StudyDate", "ClinicalTrialSiteID"})
    return Router(project, keywords=keywords, table=LookupTable.parse(text, keywords))


FIELDS = {"PatientID": "P1", "StudyDate": "20200102", "ClinicalTrialSiteID": "demo"}


def test_templates_beside_a_table() -> None:
    """A project from headers is compared study by study."""
    text = "PatientID,project,subject\nP1,{},S1\n"
    assert rules(text.format("demo"), "{ClinicalTrialSiteID}").route("1", FIELDS).project == "demo"
    with pytest.raises(UnroutableError, match="-P and --label-map name different projects"):
        rules(text.format("other"), "{ClinicalTrialSiteID}").route("1", FIELDS)
