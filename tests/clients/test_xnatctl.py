"""xnatctl on the test XNAT, by its command line."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from anyio import run_process
from builders import sop
from client_site import Site, filled_site, sop_uids, write_folder, write_note, write_visit
from pydicom import dcmread

from asyncimport.testserver import SeriesFilter, TestXnat
from asyncimport.testserver.site.prearchive import RowStatus

xnatctl: Any = pytest.importorskip("xnatctl.cli.main")
testing: Any = pytest.importorskip("click.testing")
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
async def site(xnat: TestXnat, url: str) -> Site:
    """Serve a site with data."""
    return await filled_site(xnat, url)


class Commands:
    """Runs commands in this process, each with a configuration of its own and a cached login."""

    def __init__(self, site: Site, home: Path) -> None:
        self._site = site
        self._env = {
            **dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), str(home)),
            **dict.fromkeys(("XNAT_USER", "XNAT_PASS"), "demo"),
            "XNAT_URL": site.url,
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }

    async def run(self, *words: str, code: int = 0) -> str:
        """Run a command and return what it prints; the exit code must be as expected."""

        def work() -> Any:
            return testing.CliRunner().invoke(xnatctl.cli, list(words), env=self._env)

        ended = await self._site.run(work)
        assert ended.exit_code == code, ended.output
        return str(ended.stdout)

    async def json(self, *words: str) -> Any:
        """Run a command and return the JSON that it prints."""
        return json.loads(await self.run(*words, "-o", "json"))


@pytest.fixture
def commands(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Give commands a home that is empty."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return Commands(site, home)


async def test_connect_and_list(commands: Commands) -> None:
    """Login, projects, subjects, sessions, scans, resources, users."""
    await commands.run("auth", "login")
    assert (await commands.json("health", "ping"))["authenticated"] in {True, "Yes"}
    assert [row["id"] for row in await commands.json("project", "list")] == ["demo", "other"]
    assert (await commands.json("project", "show", "demo"))["subjects"] == 1
    assert [row["label"] for row in await commands.json("subject", "list", "-P", "demo")] == ["S"]
    assert [row["label"] for row in await commands.json("session", "list", "-P", "demo")] == ["E"]
    assert [row["type"] for row in await commands.json("scan", "list", "-E", "XNAT_E00001")] == ["T1"]
    assert "DICOM" in await commands.run("resource", "list", "XNAT_E00001", "--scan", "1")
    assert "demo" in await commands.run("project", "users", "demo")


async def test_files(commands: Commands, site: Site, tmp_path: Path) -> None:
    """A file and a folder are uploaded and come back."""
    note = write_note(tmp_path)
    folder = write_folder(tmp_path)
    await commands.run("resource", "upload", "XNAT_E00001", "NOTES", str(note))
    await commands.run("resource", "upload", "XNAT_E00001", "DIR", str(folder), "--scan", "1")
    (session,) = site.xnat.archived
    assert list(session.own_resources["NOTES"].files) == ["note.txt"]
    assert sorted(session.scans["1"].resources["DIR"].files) == ["inner/two.txt", "one.txt"]
    target = tmp_path / "notes.zip"
    await commands.run("resource", "download", "XNAT_E00001", "NOTES", "-f", str(target))
    assert target.stat().st_size > 0


async def test_the_prearchive(commands: Commands, site: Site) -> None:
    """Sessions are listed, rebuilt and archived; the project's mode is set."""
    (row,) = await commands.json("prearchive", "list", "--project", "demo")
    assert row["status"] == "READY"
    timestamp = site.xnat.prearchive[0].timestamp
    await commands.run("prearchive", "settings", "-P", "demo", "--set", "auto-archive", "-y")
    assert site.xnat.project("demo").prearchive_code == 4
    site.xnat.project("demo").prearchive_code = 0
    await commands.run("prearchive", "archive", "demo", timestamp, "W")
    assert site.labels == ["E", "W"]


async def test_archiving_under_other_labels(commands: Commands, site: Site) -> None:
    """The client sends `dest`, which breaks the archiving of one session in this version (Archiver)."""
    timestamp = site.xnat.prearchive[0].timestamp
    words = ("prearchive", "archive", "demo", timestamp, "W", "--subject", "S", "--label", "X")
    await commands.run(*words, code=1)
    assert site.labels == ["E"]


async def test_dicom_of_a_scan_comes_back(commands: Commands, tmp_path: Path) -> None:
    """Of one scan, and of a whole session."""
    words = ("download", "-E", "XNAT_E00001", "--extract", "--out")
    await commands.run("scan", *words, str(tmp_path / "scan"), "--scans", "1")
    await commands.run("session", *words, str(tmp_path / "all"))
    for folder in ("scan", "all"):
        paths = list((tmp_path / folder).rglob("*.dcm"))
        assert {dcmread(path).SOPInstanceUID for path in paths} == sop_uids(1, 2), folder


async def test_downloads_are_not_verified(commands: Commands, tmp_path: Path) -> None:
    """The client looks for labels of resources in the addresses of files, where XNAT has numbers (FileList)."""
    words = ("session", "download", "-E", "XNAT_E00001", "--out", str(tmp_path / "all"), "--verify")
    await commands.run(*words, code=1)


async def test_sharing_and_deleting(commands: Commands, site: Site) -> None:
    """Subjects and sessions are shared and unshared; scans and subjects are deleted."""
    await commands.run("subject", "share", "XNAT_S00001", "-P", "demo", "--into", "other", "-y")
    await commands.run("session", "share", "-E", "XNAT_E00001", "--into", "other", "--label", "there", "-y")
    (session,) = site.xnat.archived
    assert (session.shares, session.subject.shares) == ({"other": "there"}, {"other": "S"})
    await commands.run("session", "unshare", "-E", "XNAT_E00001", "--from", "other", "-y")
    assert session.shares == {}
    await commands.run("scan", "delete", "-E", "XNAT_E00001", "--scans", "1", "-y")
    assert session.scans == {}
    await commands.run("subject", "delete", "XNAT_S00001", "-P", "demo", "-y")
    assert site.labels == []


async def test_projects_are_not_created_by_a_post(commands: Commands, site: Site) -> None:
    """XNAT takes a PUT at this address (ProjectResource), and the client sends a POST: 405."""
    await commands.run("project", "create", "new", code=1)
    assert "new" not in site.xnat.projects


@pytest.mark.parametrize("mode", ["tar", "zip", "gradual"])
@pytest.mark.parametrize("where", ["--prearchive", "--direct-archive"])
async def test_a_session_is_uploaded(commands: Commands, site: Site, tmp_path: Path, mode: str, where: str) -> None:
    """Packed, or file by file; into the prearchive, or on its way into the archive."""
    folder = write_visit(tmp_path)
    names = ("-P", "demo", "-S", "S", "-E", "V")
    await commands.run("session", "upload", str(folder), *names, "--mode", mode, where, "--workers", "1")
    rows = [row for row in site.xnat.prearchive if row.name == "V"] or list(site.xnat.direct_rows.values())
    assert [(row.project, row.subject, row.name) for row in rows] == [("demo", "S", "V")]
    assert {file.sop_uid for row in rows for file in row.files} == sop_uids(11, 12)


PAGE = (Path(__file__).parents[2] / "docs" / "from-xnatctl.md").read_text("utf-8")


async def test_the_two_commands_of_the_page_do_the_same(commands: Commands, site: Site, tmp_path: Path) -> None:
    """The same instances arrive under the same labels; only the second command archives them."""
    (words,) = re.findall(r"^\$ xnatctl (.*)$", PAGE, re.MULTILINE)
    (other_words,) = re.findall(r"^\$ asyncimport (.* -E .*)$", PAGE, re.MULTILINE)
    folder = str(write_visit(tmp_path))

    def here(line: str, project: str) -> list[str]:
        return shlex.split(line.replace("/data/dicom/S1", folder).replace("MYPROJECT", project))

    await commands.run(*here(words, "demo"))
    (row,) = site.xnat.direct_rows.values()
    env = {**os.environ, "HOME": str(tmp_path), "XNAT_HOST": site.url, "XNAT_USER": "demo", "XNAT_PASS": "demo"}
    await run_process([sys.executable, "-m", "asyncimport", *here(other_words, "other"), "-q"], env=env)
    (session,) = [session for session in site.xnat.archived if session.project == "other"]
    assert (session.subject.label, session.label) == (row.subject, row.name) == ("S1", "S1_MR1")
    assert {file.sop_uid for file in row.files} == site.xnat.sop_uids("other") == sop_uids(11, 12)


@pytest.mark.parametrize("case", ["filter", "misspelt", "named by its UID", "again", "last file"])
async def test_what_the_page_says_it_does_not_see(commands: Commands, site: Site, tmp_path: Path, case: str) -> None:
    """Each row of its table: xnatctl ends with 0, as if all was well."""
    folder = write_visit(tmp_path)
    project = "demo" if case != "misspelt" else "demmo"
    upload = (
        "session",
        "upload",
        str(folder),
        "-P",
        project,
        "-S",
        "S",
        "-E",
        "V",
        "--mode",
        "gradual",
        "--prearchive",
    )
    before = len(site.xnat.imports)
    if case == "filter":
        site.xnat.series_filter = SeriesFilter(("T2",))
    if case == "named by its UID":
        (folder / "12.dcm").rename(folder / sop(12))
    for _ in range(2 if case == "again" else 1):
        await commands.run(*upload)
    sent = len(site.xnat.imports) - before
    rows = [row for row in site.xnat.prearchive if row.name == "V"]
    match case:
        case "filter":
            assert rows == []
        case "misspelt":
            assert [row.project for row in rows] == [None]
        case "named by its UID":
            assert [file.sop_uid for row in rows for file in row.files] == [sop(11)]
        case "again":
            assert sent == 4
        case _:
            assert [row.status for row in rows] == [RowStatus.RECEIVING]
