"""`asyncimport testserver`: a version, a site from a file, a recording, a comparison."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from anyio.streams.text import TextReceiveStream
from builders import image, write
from conftest import Commands

from asyncimport.cli.testserver import XnatVersion
from asyncimport.testserver import PROFILES, TestXnat

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(commands: Commands, *words: str | Path) -> AsyncIterator[dict[str, Any]]:
    """Run the command, and give what it says."""
    async with commands.start("testserver", "--port", "0", "-o", "json", *words) as process:
        assert process.stdout is not None
        yield json.loads(await TextReceiveStream(process.stdout).receive())
        process.terminate()


async def get(url: str) -> str:
    """GET a page."""
    async with aiohttp.ClientSession() as http, http.get(url) as reply:
        assert reply.status == 200
        return await reply.text()


def test_every_version_can_be_asked_for() -> None:
    """The names of the option are those of the profiles."""
    assert [version.value for version in XnatVersion] == list(PROFILES)


async def test_it_behaves_like_a_version(commands: Commands) -> None:
    """Under the context path of its time, too."""
    async with serving(commands, "--xnat", "1.6.1") as said:
        assert said["url"].endswith("/xnat")
        assert "1.6.1" in await get(f"{said['url']}/testserver/state")
    wrong = await commands("testserver", "--xnat", "2.0")
    assert (wrong.code, "1.10" in wrong.err) == (2, True)


async def test_a_file_sets_the_site_up(commands: Commands, tmp_path: Path) -> None:
    """The option of the command comes before what the file says; a mistake in it is told with its place."""
    file = tmp_path / "site.json"
    file.write_text(json.dumps({"xnat": "1.9", "users": [{"name": "anna"}], "projects": [{"id": "STUDY"}]}))
    async with serving(commands, "--config", file) as said:
        assert (said["user"], said["password"], said["project"]) == ("anna", "anna", "STUDY")
        assert json.loads(await get(f"{said['url']}/testserver/state"))["version"].startswith("1.9")
    async with serving(commands, "--config", file, "--xnat", "1.7") as said:
        assert json.loads(await get(f"{said['url']}/testserver/state"))["version"].startswith("1.7")
    file.write_text('{"users": [{}], "xnat": 3}')
    wrong = await commands("testserver", "--config", file)
    lines = wrong.err.splitlines()
    assert wrong.code == 2
    assert lines[0] == f"error: --config {file}: users 1: name is missing"
    assert lines[-1].startswith("hint:")


async def test_the_file_of_profiles_is_not_the_file_of_the_site(commands: Commands, tmp_path: Path) -> None:
    """ASYNCIMPORT_CONFIG names the former."""
    commands.env["ASYNCIMPORT_CONFIG"] = str(tmp_path / "config.toml")
    async with serving(commands) as said:
        assert said["project"] == "demo"


async def test_the_schema_of_the_file_is_printed(commands: Commands) -> None:
    """And is JSON."""
    printed = await commands("testserver", "--schema")
    assert (printed.code, json.loads(printed.out)["title"]) == (0, "A test XNAT")


async def test_a_server_is_recorded_and_compared(commands: Commands, xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """An upload through the recorder works, and another test XNAT answers alike."""
    write(tmp_path / "source" / "Miller.dcm", image(1, PatientID="MILLER"))
    recording = tmp_path / "recording.jsonl"
    async with serving(commands, "--record", recording, "--of", url) as said:
        assert said["records"] == url
        commands.login(said["url"])
        done = await commands("upload", tmp_path / "source", "-P", "demo", "--insecure")
        assert done.code == 0, done.out + done.err
    assert len(xnat.archived) == 1
    assert "MILLER" not in recording.read_text()
    compared = await commands("testserver", "--compare", recording)
    assert compared.code == 0, compared.out + compared.err
    assert compared.out.endswith("requests, 0 answered otherwise than in the recording\n")
    other = await commands("testserver", "--compare", recording, "--xnat", "1.5.4")
    assert other.code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--record", "x"), "--record and --of belong together"),
        (("--of", "http://x"), "--record and --of belong together"),
        (("--compare", "nowhere"), "--compare nowhere: "),
    ],
)
async def test_mistakes(commands: Commands, words: tuple[str, ...], message: str) -> None:
    """One line, and a hint."""
    ended = await commands("testserver", *words)
    error, hint = ended.err.splitlines()
    assert (ended.code, message in error, hint.startswith("hint:")) == (2, True, True)
