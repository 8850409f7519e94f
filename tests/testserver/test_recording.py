"""Recordings of a server: nothing secret is in them, and another server can be compared with them."""

import json
from pathlib import Path

import aiohttp
import pytest
from anyio import to_thread
from raw_client import RawClient, basic_auth, dicom

from asyncimport.testserver import PROFILES, Project, TestXnat, User, serve
from asyncimport.testserver.recording.exchange import Exchange, read_recording, write_recording
from asyncimport.testserver.recording.proxy import recording_proxy
from asyncimport.testserver.recording.replay import replay

pytestmark = pytest.mark.anyio
SECRETS = ("hunter2", "SECRETSTUDY", "Miller", "VISIT-OF-MILLER", "nurse", "1.2.3", "Doe", "127.0.0.1")


async def visit(web: RawClient) -> None:
    """Do what a client does on a visit, its mistakes included."""
    into = {"PROJECT_ID": "SECRETSTUDY", "SUBJECT_ID": "Miller", "EXPT_LABEL": "VISIT-OF-MILLER"}
    await web.get("/data/projects")
    await web.get("/data/JSESSION", basic_auth("nurse", "hunter2"))
    await web.get("/data/auth")
    uri = ""
    for number in (1, 2):
        uri = (await web.send(dicom(number), **into)).text.strip()
    await web.send(b"no DICOM", **into)
    await web.send(dicom(3), **{**into, "PROJECT_ID": "unknown"})
    await web.get("/data/prearchive/projects/SECRETSTUDY", format="json")
    await web.post(f"{uri}?action=build")
    await web.get(f"{uri}/scans", format="json")
    archived = (await web.archive(uri)).text.strip()
    await web.archive(uri)
    await web.get(archived, format="json")
    await web.get(f"{archived}/scans/ALL/files", format="json")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    await web.ask("PUT", "/data/services/auth", "username=nurse&password=hunter2", form)
    await web.put("/data/projects/SECRETSTUDY/subjects/Miller", None, gender="female", dob="1970-01-31")
    await web.put(f"{archived}/resources/REPORTS")
    await web.ask("PUT", f"{archived}/resources/REPORTS/files/miller.pdf", b"%PDF", {"Content-Type": "application/pdf"})
    await web.get(f"{archived}/resources/REPORTS")
    await web.ask("DELETE", "/data/JSESSION")


def site(directory: Path, version: str = "1.8") -> TestXnat:
    """Make a site with secrets."""
    xnat = TestXnat(directory, profile=PROFILES[version])
    xnat.add_user(User("nurse", "hunter2"))
    xnat.add_project(Project("SECRETSTUDY"))
    return xnat


@pytest.fixture
async def recording(tmp_path: Path) -> str:
    """Record a visit."""
    lines: list[str] = []
    xnat = site(tmp_path / "recorded")
    async with (
        serve(xnat) as upstream,
        recording_proxy(upstream, lines.append) as url,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
    ):
        await visit(RawClient(xnat, url, http))
    assert len(xnat.archived) == 1
    return "".join(lines)


async def exchanges(recording: str, directory: Path) -> list[Exchange]:
    """Read a recording."""

    def read() -> list[Exchange]:
        path = directory / "recording.jsonl"
        path.write_text(recording)
        return list(read_recording(path))

    return await to_thread.run_sync(read)


async def test_a_recording_has_no_secrets_and_no_names(recording: str, tmp_path: Path) -> None:
    """Nor the server's address; what shows how XNAT behaves stays."""
    assert [secret for secret in SECRETS if secret in recording] == []
    found = await exchanges(recording, tmp_path)
    statuses = [exchange.status for exchange in found]
    assert (statuses[0], statuses.count(400), len(found)) == (401, 1, 20)
    (refused,) = (one for one in found if one.status == 400)
    assert refused.reply == ["Status page", "unable to read DICOM object upload.dcm"]
    (listing,) = (one for one in found if one.path == "/data/prearchive/projects/{project:1}")
    row = listing.reply["ResultSet"]["Result"][0]  # type: ignore[index]
    assert (row["project"], row["subject"], row["status"]) == ("{project:1}", "{subject:1}", "RECEIVING")


async def test_a_server_that_behaves_alike_has_no_differences(recording: str, tmp_path: Path) -> None:
    """Whatever its users and projects are called."""
    sent = await exchanges(recording, tmp_path)
    xnat = TestXnat(tmp_path / "other")
    xnat.add_project(Project("P1"))
    async with serve(xnat) as url:
        found = await replay(sent, url, user="demo", password="demo", project="P1")
    assert list(map(str, found)) == []


async def test_another_version_is_told_by_its_answers(recording: str, tmp_path: Path) -> None:
    """Each difference names the request, what was recorded and what came."""
    sent = await exchanges(recording, tmp_path)
    xnat = TestXnat(tmp_path / "old", profile=PROFILES["1.5.4"])
    xnat.add_project(Project("P1"))
    async with serve(xnat, context="") as url:
        found = await replay(sent, url, user="demo", password="demo", project="P1")
    (archived,) = (one for one in found if one.exchange.path == "/data/services/archive" and one.exchange.status == 200)
    assert "reply: recorded" in str(archived)
    assert "/archive/projects/{project:1}/subjects/{subject:1}/experiments/{session:1}" in str(archived)


def test_a_recording_can_be_written_and_read(tmp_path: Path) -> None:
    """What is none says so."""
    path = tmp_path / "recording"
    exchange = Exchange("GET", "/data/x", (("a", "b"),), status=200, headers={"Allow": ["GET"]}, reply={"a": 1})
    write_recording(path, [exchange])
    assert list(read_recording(path)) == [exchange]
    for text, mistake in (("x\n", "line 1 is not JSON"), ('{"recording": 99}\n', "no recording of this version")):
        path.write_text(text)
        with pytest.raises(ValueError, match=mistake):
            list(read_recording(path))
    path.write_text('{"recording": 1}\n' + json.dumps({"method": 3}) + "\n")
    with pytest.raises(ValueError, match="method: 3 is not a text"):
        list(read_recording(path))
