"""Imports that go straight into the archive, with what is wrong with them."""

from pathlib import Path

import pytest
from raw_client import STUDY, Clock, RawClient, dicom, raw_client, sop

from asyncimport.testserver import PROFILES, RowStatus, TestXnat

pytestmark = pytest.mark.anyio
DIRECT = {"Direct-Archive": "true"}
URI = f"/xapi/direct-archive/demo/{STUDY}/E"


async def until_gone(web: RawClient) -> None:
    """Wait until the session is no longer on its way."""
    while (await web.get(URI)).status != 404:
        pass


async def test_a_session_is_archived_when_it_is_asked_for(tmp_path: Path) -> None:
    """Nothing of it is in the prearchive; the reply to its files has another address."""
    async with raw_client(TestXnat(tmp_path)) as web:
        answer = await web.send(dicom(1), **DIRECT)
        assert (answer.status, answer.text) == (200, f"{URI}\r\n")
        await web.send(dicom(2), **DIRECT)
        assert (await web.get("/data/prearchive")).rows == []
        session = (await web.get(URI)).json
        assert (session["name"], session["status"]) == ("E", "RECEIVING")
        assert [one["name"] for one in (await web.post("/xapi/direct-archive")).json] == ["E"]
        done = await web.post(URI)
        assert (done.status, done.text) == (200, "")
        await until_gone(web)
        assert web.xnat.sop_uids() == {sop(1), sop(2)}


async def test_what_the_archive_has_goes_to_the_prearchive_without_a_word() -> None:
    """And so does what comes while XNAT is at work on the session, or has no project."""
    async with raw_client() as web:
        await web.send(dicom(1), **DIRECT)
        web.xnat.direct_rows["demo", STUDY, "E"].status = RowStatus.LOCKED_ARCHIVING
        assert "/data/prearchive/projects/demo/" in (await web.send(dicom(2), **DIRECT)).text
        web.xnat.direct_rows["demo", STUDY, "E"].status = RowStatus.RECEIVING
        await web.post(URI)
        await until_gone(web)
        assert "/data/prearchive/projects/demo/" in (await web.send(dicom(3), **DIRECT)).text
        assert "/Unassigned/" in (await web.send(dicom(4), **DIRECT, PROJECT_ID="typo")).text


async def test_a_stall_archives_half_a_session() -> None:
    """The idle builder does not look at prevent_auto_commit here; the rest is a session of the prearchive."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock, idle_repeat=None)) as web:
        await web.send(dicom(1), **DIRECT, prevent_auto_commit="true", SOURCE="uploader")
        clock.seconds += 301
        await web.xnat.idle_round()
        assert web.xnat.sop_uids() == {sop(1)}
        assert "/data/prearchive/" in (await web.send(dicom(2), **DIRECT)).text


async def test_what_cannot_be_archived_ends_in_the_prearchive() -> None:
    """The request for it said 200."""
    async with raw_client() as web:
        await web.send(dicom(1), **DIRECT)
        other = await web.archive_session(dicom(9, StudyInstanceUID="9"), SUBJECT_ID="T")
        assert other.endswith("/experiments/E")
        assert (await web.post(URI)).status == 200
        await until_gone(web)
        ((name, status),) = [(row.name, row.status) for row in web.xnat.prearchive]
        assert (name, status) == ("E", RowStatus.CONFLICT)


async def test_a_session_is_not_archived_while_a_file_is_being_written() -> None:
    """A client error."""
    async with raw_client() as web:
        await web.send(dicom(1), **DIRECT)
        web.xnat.direct_rows["demo", STUDY, "E"].writing = 1
        assert (await web.post(URI)).status == 400


async def test_a_session_can_be_deleted() -> None:
    """By its number in the list; others may not see it."""
    async with raw_client() as web:
        await web.send(dicom(1), **DIRECT)
        (session,) = (await web.post("/xapi/direct-archive")).json
        assert (await web.ask("DELETE", f"/xapi/direct-archive/{session['id']}")).status == 200
        assert (await web.ask("DELETE", f"/xapi/direct-archive/{session['id']}")).status == 404
        assert (await web.post(URI)).status == 404


async def test_old_versions_do_not_know_it() -> None:
    """The parameter has no effect."""
    async with raw_client(TestXnat(profile=PROFILES["1.7"])) as web:
        assert "/data/prearchive/" in (await web.send(dicom(1), **DIRECT)).text
