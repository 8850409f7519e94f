"""Services around archiving: validation, dumps of headers, recent prearchive rows, the user's cache, configurations."""

import gzip
import tarfile
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from raw_client import RawClient, dicom, raw_client, sop

from asyncimport.testserver import Project, Script, SeriesFilter, TestXnat, User, add_reader

pytestmark = pytest.mark.anyio
VALIDATE, DUMP = "/data/services/validate-archive", "/data/services/dicomdump"
CACHE = "/data/user/cache/resources"
E = "/archive/projects/demo/subjects/S/experiments/E"


async def notices(web: RawClient, *bodies: bytes, **params: str) -> list[tuple[str, str]]:
    """Import and build a session, and return code and type of what its validation finds."""
    uri = await web.build_session(*bodies, **params)
    answer = await web.post(VALIDATE, src=uri)
    assert answer.status == 200, answer.text
    assert await web.row_status(uri) == "READY"
    return [(row["code"], row["type"]) for row in answer.rows]


async def test_a_session_without_conflicts_has_no_notices() -> None:
    """The columns are code, type and message."""
    async with raw_client() as web:
        uri = await web.build_session()
        answer = await web.post(VALIDATE, src=uri, format="csv")
        assert answer.text == "code,type,message\n"
        assert (await web.post(VALIDATE, src=uri.removeprefix("/data"))).rows == []


async def test_what_validation_finds_in_an_existing_session() -> None:
    """Each kind of conflict has a code; all of them are listed, not only the first."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        assert await notices(web, dicom()) == [("1", "CONFLICT"), ("14", "CONFLICT"), ("16", "CONFLICT")]
        other = {"StudyInstanceUID": "9", "SeriesInstanceUID": "9.1"}
        found = await notices(web, dicom(2, **other), SUBJECT_ID="T")
        assert found == [("1", "CONFLICT"), ("4", "FAIL"), ("5", "CONFLICT"), ("17", "CONFLICT")]
        ct = dicom(3, StudyInstanceUID="8", Modality="CT", SOPClassUID=CTImageStorage, SeriesNumber=7)
        assert await notices(web, ct) == [
            ("1", "CONFLICT"),
            ("5", "CONFLICT"),
            ("18", "CONFLICT"),
            ("19", "FAIL"),
        ]
        (session,) = web.xnat.archived
        session.workflow = "AutoRun"
        web.xnat.project("demo").allows_other_studies = True
        assert {("10", "CONFLICT"), ("19", "CONFLICT")} <= set(await notices(web, dicom(4, StudyInstanceUID="7")))


async def test_what_cannot_be_validated() -> None:
    """One session at a time, and one that the user may edit."""
    xnat = TestXnat()
    add_reader(xnat, "reader")
    async with raw_client(xnat) as web:
        uri = await web.build_session()
        two = await web.post(f"{VALIDATE}?src={uri}&src={uri}")
        assert (two.status, two.message) == (400, "Cannot validate multiple sessions in one request.")
        assert (await web.post(VALIDATE)).status == 404
        assert (await web.post(VALIDATE, src=E)).status == 400
        assert (await web.post(VALIDATE, src="/prearchive/projects/demo/nope/E")).status == 500
        assert (await web.post(VALIDATE, src="/prearchive/projects/Unassigned/x/E")).status == 400
    async with raw_client(xnat, user="reader") as web:
        assert (await web.post(VALIDATE, src=uri)).status == 403


async def test_a_dump_of_a_header(tmp_path: Path) -> None:
    """All attributes up to the pixels, or the chosen ones; values are escaped and cut; sequences have one level."""
    item = Dataset()
    item.CodeValue = "T-A0100"
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.archive_session(dicom(AnatomicRegionSequence=[item], ImageComments="x" * 300))
        rows = (await web.get(DUMP, src=E)).rows
        assert list(rows[0]) == ["tag1", "tag2", "vr", "value", "desc"]
        values = {row["tag1"] + row["tag2"]: row["value"] for row in rows}
        assert values["(0008,0018)"] == sop(1)
        assert values["(0008,103E)"] == "T1 &lt;fast&gt;"
        assert values["(0020,4000)"] == "x" * 255
        assert values["(0008,2218)(0008,0100)"] == "T-A0100"
        assert "(0002,0010)" in values
        assert "(7FE0,0010)" not in values
        chosen = await web.get(f"{DUMP}?src={E}&field=SOPInstanceUID&field=0020000D")
        assert [(row["tag1"], row["vr"], row["desc"]) for row in chosen.rows] == [
            ("(0008,0018)", "UI", "SOP Instance UID"),
            ("(0020,000D)", "UI", "Study Instance UID"),
        ]
        (name,) = web.xnat.archived[0].scans["1"].resources["DICOM"].files
        for source in (f"{E}/scans/1", f"{E}/scans/1/resources/DICOM/files/{name}", E.replace("subjects/S/", "")):
            assert len((await web.get(DUMP, src=source, field="Modality")).rows) == 1


async def test_what_is_not_dumped(tmp_path: Path) -> None:
    """Without src 400; another address or a scan that is missing is an empty table; a missing session is a 404."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.archive_session(dicom())
        missing = await web.get(DUMP)
        assert (missing.status, missing.message) == (400, "Please set the src parameter")
        assert (await web.get(DUMP, src=E, field="nonsense!")).status == 400
        for source in (f"/data{E}", f"{E}/scans/9", "/nonsense"):
            assert (await web.get(DUMP, src=source)).rows == []
        for source in (E.replace("/E", "/F"), "/prearchive/projects/demo/x/E", E.replace("demo", "nope")):
            assert (await web.get(DUMP, src=source)).status == 404
        assert (await web.get(DUMP, src=E, summary="true")).status == 501
        uri = await web.build_session(dicom(2, StudyInstanceUID="9"), EXPT_LABEL="F")
        (row,) = (await web.get(DUMP, src=uri.removeprefix("/data"), field="SOPInstanceUID")).rows
        assert row["value"] == sop(2)


async def test_recent_rows_of_the_prearchive() -> None:
    """Oldest first, of projects that the user can edit."""
    xnat = TestXnat()
    xnat.add_project(Project("closed", editors=["boss"]))
    async with raw_client(xnat) as web:
        path = "/data/prearchive/experiments"
        for label in ("E", "F"):
            await web.import_session(dicom(), EXPT_LABEL=label)
        first, second = xnat.prearchive
        first.uploaded, second.uploaded = second.uploaded, first.uploaded
        assert [row["name"] for row in (await web.get(path, recent="true")).rows] == ["F", "E"]
        first.uploaded -= timedelta(days=2)
        assert [row["name"] for row in (await web.get(path, recent="1")).rows] == ["F"]
        for params in ({}, {"recent": "soon"}, {"recent": "0"}, {"recent": "-1"}):
            assert (await web.get(path, **params)).status == 400
        second.project = "closed"
        assert (await web.get(path, recent="9")).rows[0]["name"] == "E"


async def test_only_administrators_refresh_the_prearchive() -> None:
    """200 without a body, or 403."""
    xnat = TestXnat()
    xnat.add_user(User("admin", "admin", all_data=True))
    async with raw_client(xnat) as web:
        refused = await web.put("/data/prearchive")
        message = "Only site or data administrators can request a rebuild of the prearchive."
        assert (refused.status, refused.message) == (403, message)
    async with raw_client(xnat, user="admin") as web:
        answer = await web.put("/data/prearchive")
        assert (answer.status, answer.text) == (200, "")


async def test_the_cache_of_a_user() -> None:
    """PUT stores; the addresses of GET and DELETE mean something else than they say, as in XNAT."""
    async with raw_client() as web:
        assert (await web.put(f"{CACHE}/R")).status == 200
        assert (await web.put(f"{CACHE}/R")).status == 412
        assert (await web.put(f"{CACHE}/R/files/a.zip", b"1234", inbody="true")).status == 200
        assert web.xnat.user_cache == {"demo": {"R": {"a.zip": b"1234"}}}
        (row,) = (await web.get(f"{CACHE}/R/files/a.zip", format="json")).rows
        assert row == {"Name": "a.zip", "Size": "4", "URI": f"{CACHE}/R/files/a.zip"}
        assert (await web.get(f"{CACHE}/R/files")).status == 404
        assert (await web.get(CACHE)).text == ""
        assert (await web.post(f"{CACHE}/R", b"1")).status == 400
        assert (await web.ask("DELETE", f"{CACHE}/R")).status == 404
        assert (await web.ask("DELETE", f"{CACHE}/R/files/a.zip")).status == 200
        assert (await web.ask("DELETE", f"{CACHE}/R/files/a.zip")).status == 404


async def test_lists_of_configurations() -> None:
    """The tools of the site and of a project; 404 where there are none."""
    filter_ = SeriesFilter(patterns=("localizer",))
    async with raw_client(TestXnat(series_filter=filter_)) as web:
        tools = (await web.get("/data/config", format="json")).rows
        assert tools == [{"tool": "anon"}, {"tool": "seriesImportFilter"}]
        (row,) = (await web.get("/data/config/seriesImportFilter", format="json")).rows
        assert (row["path"], row["contents"]) == ("config", filter_.contents)
        assert (await web.get("/data/projects/demo/config")).status == 404
        web.xnat.project("demo").script = Script()
        assert (await web.get("/data/projects/demo/config", format="json")).rows == [{"tool": "anon"}]
        assert (await web.get("/data/config/nope")).status == 404


async def test_messages_of_a_job() -> None:
    """By its listener's ID: a text, or JSON."""
    async with raw_client() as web:
        uri = await web.build_session()
        params: dict[str, Any] = {"http-session-listener": "L"}
        assert (await web.archive(uri, **params)).status == 303
        while await web.row_status(uri) != "gone":
            pass
        log = await web.get("/data/status/L")
        assert log.text.startswith("StatusLogINPROGRESS: ")
        assert (await web.get("/data/status/L", format="json")).json["msgs"][0][-1]["terminal"] is True
        assert (await web.get("/data/status/other")).text == "StatusLog"


async def test_tars_with_links_and_tars_that_are_none() -> None:
    """A link becomes an empty file; what is no tar is an error, not a crash."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    async with raw_client() as web:
        files = "/data/projects/demo/resources/R/files"
        kind = {"Content-Type": "application/x-tar"}
        assert (await web.ask("PUT", f"{files}/a.tar", buffer.getvalue(), kind, extract="true")).status == 200
        (row,) = (await web.get(files)).rows
        assert (row["Name"], row["Size"]) == ("link.txt", "0")
        packed = gzip.compress(buffer.getvalue())
        assert (await web.ask("PUT", f"{files}/b.tar", packed, kind, extract="true")).status == 500
        zipped = {"import-handler": "DICOM-zip", "dest": "/prearchive"}
        assert (await web.send(packed, content_type="application/x-tar", **zipped)).status == 400
