"""Listings and items of projects, experiments, scans, resources and files."""

import re
from pathlib import Path

import anyio
import pytest
from raw_client import SERIES, STUDY, dicom, files_below, raw_client, sop

from asyncimport.testserver import Project, TestXnat

pytestmark = pytest.mark.anyio
UNFOUND = "Unable to find the specified experiment."
EXPERIMENT = "/data/experiments/XNAT_E00001"
PREFIX = "/data/projects/demo/subjects/XNAT_S00001"


async def test_archive_14_projects_are_made_and_changed_with_an_empty_200() -> None:
    """The reply to PUT is empty; a new project archives by itself (code 4)."""
    async with raw_client() as web:
        for _ in range(2):
            answer = await web.put("/data/projects/new", name="New one", description="d")
            assert (answer.status, answer.text) == (200, "")
        fields = (await web.get("/data/projects/new", format="json")).json["items"][0]["data_fields"]
        assert (fields["ID"], fields["name"], fields["description"]) == ("new", "New one", "d")
        assert (await web.get("/data/projects/new/prearchive_code")).text == "4"


async def test_archive_14_projects_that_cannot_be_made() -> None:
    """417, 409, 403."""
    async with raw_client() as web:
        web.xnat.add_project(Project("closed", editors=["boss"]))
        web.xnat.deleted_projects.add("dead")
        bad = await web.put("/data/projects/a.b")
        assert (bad.status, bad.message) == (417, "Invalid character in project ID.")
        clash = await web.put("/data/projects/new", name="Demo")
        assert clash.status == 409
        assert clash.message.startswith("Requested new project conflicts with existing projects: ")
        assert (await web.put("/data/projects/closed")).status == 403
        dead = await web.put("/data/projects/dead")
        assert dead.status == 403
        assert "used in a previously deleted project" in dead.message


async def test_archive_14_an_unreadable_project_looks_absent() -> None:
    """404, with a text about an experiment."""
    async with raw_client() as web:
        web.xnat.add_project(Project("closed", editors=["boss"]))
        for name in ("closed", "nope"):
            answer = await web.get(f"/data/projects/{name}", format="json")
            assert (answer.status, answer.message) == (404, UNFOUND)
        assert [row["ID"] for row in (await web.get("/data/projects")).rows] == ["demo"]


async def test_projects_by_permission() -> None:
    """permissions=edit leaves out those that can only be read."""
    async with raw_client() as web:
        web.xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
        assert [row["ID"] for row in (await web.get("/data/projects")).rows] == ["demo", "seen"]
        edit = {"permissions": "edit", "dataType": "xnat:mrSessionData", "format": "json"}
        answer = await web.get("/data/projects", **edit)
        assert [row["ID"] for row in answer.rows] == ["demo"]
        assert answer.json["ResultSet"]["totalRecords"] == "1"
        assert list(answer.rows[0])[-1] == "URI"
        csv = await web.get("/data/projects", format="csv", columns="ID,name")
        assert csv.text.splitlines() == [
            "ID,name,URI",
            "demo,Demo,/data/projects/demo",
            "seen,seen,/data/projects/seen",
        ]


async def test_archive_15_prearchive_code() -> None:
    """A plain number; any integer, true and false are accepted; other texts are 400."""
    async with raw_client() as web:
        path = "/data/projects/demo/prearchive_code"
        for value, shown in (("4", "4"), ("true", "1"), ("false", "0"), ("77", "77")):
            assert (await web.put(f"{path}/{value}")).text == ""
            assert (await web.get(path)).text == shown
        assert (await web.put(f"{path}/abc")).status == 400
        assert (await web.get("/data/projects/demo/other_code")).status == 400
        web.xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
        assert (await web.put("/data/projects/seen/prearchive_code/0")).status == 403


async def test_archive_15_other_settings() -> None:
    """Each has its own form; one that there is not is a 400."""
    async with raw_client() as web:
        path = "/data/projects/demo"
        for key, value, shown in (
            ("quarantine_code", "true", "1"),
            ("current_arc", "arc002", "arc002"),
            ("scan_type_mapping", "false", "0"),
        ):
            assert (await web.put(f"{path}/{key}/{value}")).text == ""
            assert (await web.get(f"{path}/{key}")).text == shown
        assert (await web.get(f"{path}/other_code")).status == 400


async def test_archive_22_experiments_of_a_project() -> None:
    """Default columns, strings only; one archived session each."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        for path in ("/data/projects/demo", "/data/projects/demo/subjects/S", "/data"):
            answer = await web.get(f"{path}/experiments", format="json")
            assert answer.json["ResultSet"]["totalRecords"] == "1"
            (row,) = answer.rows
            columns = ["xnat:subjectassessordata/id", "ID", "project", "date", "xsiType", "label", "insert_date", "URI"]
            assert list(row) == columns
            assert all(isinstance(value, str) for value in row.values())
            assert (row["ID"], row["xsiType"], row["date"]) == (
                "XNAT_E00001",
                "xnat:mrSessionData",
                "2020-01-02",
            )
            assert row["URI"] == EXPERIMENT


async def test_archive_22_filters_and_columns() -> None:
    """A comma means or, `*` is wild; a filter becomes a column; unknown columns are left out."""
    path = "/data/projects/demo/experiments"
    async with raw_client() as web:
        await web.archive_session(dicom())
        await web.archive_session(dicom(2, StudyInstanceUID="9"), EXPT_LABEL="F")

        async def labels(**params: str) -> list[str]:
            return [row["label"] for row in (await web.get(path, columns="label", **params)).rows]

        assert await labels(label="F") == ["F"]
        assert await labels(label="E,F") == ["E", "F"]
        assert await labels(label="*") == ["E", "F"]
        assert await labels(label="x") == []
        assert await labels(UID=STUDY) == ["E"]
        assert await labels(**{"xnat:imageSessionData/UID": "9", "xsiType": "xnat:imageSessionData"}) == ["F"]
        (row,) = (await web.get(path, columns="ID,label,nonsense", UID="9")).rows
        assert list(row) == ["xnat:subjectassessordata/id", "ID", "label", "xsiType", "project", "UID", "URI"]
        (row,) = (await web.get(path, columns="label", UID="9", xsiType="xnat:mrSessionData")).rows
        assert list(row) == ["xnat:mrsessiondata/id", "label", "UID", "URI"]


async def test_archive_22_unknown_and_unreadable_parents() -> None:
    """Unknown project or subject 404 with texts; unreadable 403."""
    async with raw_client() as web:
        web.xnat.add_project(Project("closed", editors=["boss"], aliases=["shut"]))
        unknown = await web.get("/data/projects/nope/experiments")
        assert (unknown.status, unknown.message) == (404, "Unable to identify project nope")
        assert (await web.get("/data/projects/closed/experiments")).status == 403
        assert (await web.get("/data/projects/shut/experiments")).status == 403
        subject = await web.get("/data/projects/demo/subjects/nope/experiments")
        assert (subject.status, subject.message) == (404, "Unable to identify subject")


async def test_archive_23_items_are_html_unless_asked_otherwise() -> None:
    """Sessions, scans and projects: HTML, JSON (items, with real numbers), XML."""
    async with raw_client() as web:
        uri = await web.archive_session(dicom())
        for path in (uri, EXPERIMENT, f"{EXPERIMENT}/scans/1", "/data/projects/demo"):
            assert (await web.get(path)).type == "text/html"
            assert (await web.get(path, format="xml")).text.startswith("<?xml")
            assert (await web.get(path, {"Accept": "application/json"})).type == "application/json"
            (item,) = (await web.get(path, format="json")).json["items"]
            assert set(item) == {"children", "meta", "data_fields"}
            assert item["meta"]["isHistory"] is False
        (item,) = (await web.get(EXPERIMENT, format="json")).json["items"]
        assert (item["data_fields"]["label"], item["data_fields"]["UID"]) == ("E", STUDY)
        (scan,) = item["children"][0]["items"]
        assert scan["data_fields"]["frames"] == 1
        assert scan["data_fields"]["series_description"] == "T1 <fast>"


async def test_archive_23_addresses_of_a_session() -> None:
    """A label within its project, or an accession ID, below any subject; otherwise 404. Its scans need a subject."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        web.xnat.project("demo").aliases = ["other"]
        for path in (
            "projects/demo/experiments/E",
            "projects/demo/subjects/XNAT_S00001/experiments/E",
            "projects/demo/subjects/T/experiments/E",
            "projects/demo/subjects/S/experiments/E/scans",
        ):
            assert (await web.get(f"/data/{path}", format="json")).status == 200
        assert (await web.get("/data/projects/demo/experiments/XNAT_E00001")).status == 200
        assert (await web.get("/data/projects/other/experiments/E")).status == 200
        for path in ("experiments/E", "projects/demo/subjects/T/experiments/E/scans", "projects/x/experiments/E"):
            answer = await web.get(f"/data/{path}", format="json")
            assert (answer.status, answer.message) == (404, UNFOUND)
        web.xnat.project("demo").editors = ["boss"]
        assert (await web.get(EXPERIMENT, format="json")).status == 404


async def test_archive_24_scans() -> None:
    """Default columns, or the requested ones and the row's number."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        (row,) = (await web.get(f"{EXPERIMENT}/scans", format="json")).rows
        assert list(row) == [
            *(
                "xnat_imagescandata_id",
                "ID",
                "type",
                "quality",
                "xsiType",
                "note",
                "series_description",
                "URI",
            ),
        ]
        (row,) = (await web.get(f"{EXPERIMENT}/scans", columns="ID,UID,modality,frames")).rows
        assert row == {
            "xnat_imagescandata_id": "1",
            "ID": "1",
            "UID": SERIES,
            "modality": "MR",
            "frames": "1",
            "URI": f"{EXPERIMENT}/scans/1",
        }
        assert (await web.get(f"{EXPERIMENT}/scans/2")).status == 404


async def test_archive_35_files() -> None:
    """Columns in order, strings, a Columns key, no totalRecords; the URI has the resource's number."""
    async with raw_client(TestXnat(anonymise=False)) as web:
        uri = await web.archive_session(dicom(1), dicom(2))
        for path in ("files", "scans/ALL/files", "scans/1/files", "scans/1/resources/DICOM/files"):
            result = (await web.get(f"{uri}/{path}", format="json", file_format="DICOM")).json["ResultSet"]
            assert set(result) == {"Result", "Columns", "title"}
            assert result["title"] == "Files"
            first, _ = result["Result"]
            assert list(first) == [
                *("Name", "Size", "URI", "collection", "file_tags", "file_format", "file_content", "cat_ID"),
                "digest",
            ]
            assert first["Size"] == str(len(dicom(1)))
            below = EXPERIMENT.removeprefix("/data")
            assert re.fullmatch(rf"{PREFIX}{below}/scans/1/resources/1/files/.*\.dcm", first["URI"])
            assert re.fullmatch("[0-9a-f]{32}", first["digest"])


async def test_archive_35_no_digest_where_checksums_are_off() -> None:
    """An empty text."""
    async with raw_client(TestXnat(checksums=False)) as web:
        uri = await web.archive_session(dicom())
        assert (await web.get(f"{uri}/files")).rows[0]["digest"] == ""


async def test_archive_36_resources() -> None:
    """all=true lists those of the scans too; numbers are texts."""
    async with raw_client(TestXnat(anonymise=False)) as web:
        uri = await web.archive_session(dicom(1), dicom(2))
        assert (await web.get(f"{uri}/resources")).rows == []
        for path, params in (("resources", {"all": "true"}), ("scans/1/resources", {})):
            answer = await web.get(f"{uri}/{path}", **params)
            assert answer.json["ResultSet"]["title"] == "Resources"
            assert answer.json["ResultSet"]["totalRecords"] == "1"
            (row,) = answer.rows
            assert (row["category"], row["cat_id"], row["label"], row["format"]) == (
                "scans",
                "1",
                "DICOM",
                "DICOM",
            )
            assert (row["file_count"], row["file_size"]) == ("2", str(len(dicom(1) + dicom(2))))


async def test_archive_37_a_file(tmp_path: Path) -> None:
    """Bytes as stored, the headers, HEAD, ranges; by the resource's label or number."""
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        uri = await web.archive_session(dicom())
        (row,) = (await web.get(f"{uri}/files")).rows
        for path in (row["URI"], f"{uri}/scans/1/resources/DICOM/files/{row['Name']}"):
            async with web.http.get(web.url + path) as reply:
                assert await reply.read() == dicom()
                assert reply.headers["Content-Disposition"] == f'attachment; filename="{row["Name"]}";'
                assert reply.headers["Cache-Control"] == "must-revalidate"
                assert reply.headers["Content-Type"] == "application/octet-stream"
                assert "Last-Modified" in reply.headers
            head = await web.ask("HEAD", path)
            assert (head.status, head.text, head.headers["Content-Length"]) == (200, "", str(len(dicom())))
            part = await web.get(path, {"Range": "bytes=128-131"})
            assert (part.status, part.text) == (206, "DICM")
            assert (await web.get(path, {"Range": "bytes=0-1,3-4"})).status == 501


async def test_archive_37_a_missing_file_is_404_with_an_empty_body(tmp_path: Path) -> None:
    """Not in the catalog, or not on disk; 204 on request."""
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await web.archive_session(dicom())
        (row,) = (await web.get(f"{uri}/files")).rows
        missing = f"{uri}/scans/1/resources/DICOM/files/nope.dcm"
        answer = await web.get(missing)
        assert (answer.status, answer.text) == (404, "")
        assert (await web.get(missing, **{"accept-not-found": "true"})).status == 204
        (path,) = await files_below(tmp_path)
        await anyio.Path(tmp_path, *path).unlink()
        assert (await web.get(row["URI"])).status == 404


async def test_archive_38_the_catalog_has_a_uid_for_each_entry() -> None:
    """It is the only cheap listing of SOPInstanceUIDs."""
    async with raw_client() as web:
        uri = await web.archive_session(dicom(1), dicom(2))
        catalog = await web.get(f"{uri}/scans/1/resources/DICOM", format="xml")
        assert catalog.type == "text/xml"
        assert "<cat:DCMCatalog " in catalog.text
        assert re.findall(r' URI="[^"]+" UID="([^"]+)"', catalog.text) == [sop(1), sop(2)]
        assert len(re.findall(r' digest="[0-9a-f]{32}"', catalog.text)) == 2
        assert (await web.get(f"{uri}/scans/1/resources/NOPE")).status == 404


async def test_archive_43_pages_of_errors() -> None:
    """Restlet's page with the handler's text or the status's default text; Tomcat's page outside /data."""
    async with raw_client() as web:
        answer = await web.get("/data/nope")
        assert (answer.status, answer.type) == (404, "text/html")
        assert answer.message == "The server has not found anything matching the request URI"
        assert "<title>Status page</title>" in answer.text
        assert (await web.ask("DELETE", "/data/projects")).status == 405
        assert "HTTP Status 404" in (await web.get("/nope")).text
