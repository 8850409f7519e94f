"""The prearchive: listing, session documents, build, commit, move, delete."""

import re
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import anyio
import pytest
from raw_client import STUDY, RawClient, dicom, files_below, raw_client

from asyncimport.testserver import Fault, Gateway, Project, Reset, RowStatus, Script, TestXnat, Timing, User

pytestmark = pytest.mark.anyio
COLUMNS = [
    *(
        "project",
        "timestamp",
        "lastmod",
        "uploaded",
        "scan_date",
        "scan_time",
        "subject",
        "folderName",
        "name",
    ),
    *("tag", "status", "url", "autoarchive", "prevent_anon", "prevent_auto_commit"),
    *("SOURCE", "VISIT", "PROTOCOL", "TIMEZONE"),
]


def two_users() -> TestXnat:
    """Return a site with an all-data user beside `demo`, and a project that `demo` may only read."""
    xnat = TestXnat()
    xnat.add_user(User("admin", "x", all_data=True))
    xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
    return xnat


@pytest.mark.parametrize("path", ["", "/projects", "/projects/demo"])
async def test_import_21_the_listing_has_these_columns_and_only_texts(path: str) -> None:
    """All strings; no totalRecords; `url` without /data."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        answer = await web.get(f"/data/prearchive{path}")
        assert list(answer.json["ResultSet"]) == ["Result"]
        (row,) = answer.rows
        assert list(row) == COLUMNS
        assert all(isinstance(value, str) for value in row.values())
        assert "/data" + row["url"] == uri
        assert (row["project"], row["subject"], row["name"], row["tag"]) == ("demo", "S", "E", STUDY)
        assert (row["status"], row["autoarchive"]) == ("RECEIVING", "Manual")


async def test_import_21_a_row_says_when_and_by_whom_it_was_uploaded() -> None:
    """Times are of the server's clock, in SQL format; the source is that of the creating request."""
    async with raw_client() as web:
        before = web.xnat.now()
        uri = await web.import_session(dicom(), SOURCE="script")
        await web.import_session(dicom(2), SOURCE="another")
        listed, (own,) = (await web.get("/data/prearchive")).rows, (await web.get(uri, format="json")).rows
        assert listed == [own]
        assert own["SOURCE"] == "script"
        for column in ("uploaded", "lastmod"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,3}", own[column])
            moment = datetime.fromisoformat(own[column].ljust(23, "0"))
            assert before - timedelta(milliseconds=1) < moment <= web.xnat.now()
        assert (own["scan_date"], own["timestamp"], own["folderName"]) == (
            "2020-01-02 00:00:00.0",
            uri.split("/")[-2],
            "E",
        )


async def test_import_21_csv_and_xml() -> None:
    """Both formats have the same rows."""
    async with raw_client() as web:
        await web.import_session(dicom())
        head, line = (await web.get("/data/prearchive", format="csv")).text.splitlines()
        assert head == ",".join(COLUMNS)
        assert ",RECEIVING," in line
        assert "<ResultSet" in (await web.get("/data/prearchive", format="xml")).text


async def test_import_21_one_project_may_be_named_by_who_can_read_it() -> None:
    """Without a name, those are listed that the user can edit; several names are for all-data users."""
    async with raw_client(two_users()) as web:
        await web.import_session(dicom(), PROJECT_ID="seen")
        assert (await web.get("/data/prearchive")).rows == []
        assert len((await web.get("/data/prearchive/projects/seen")).rows) == 1
        for name in ("nope", "demo,seen"):
            assert (await web.get(f"/data/prearchive/projects/{name}")).status == 403
        assert (await web.get("/data/prearchive", tag=STUDY)).status == 403


async def test_import_21_unassigned_rows_are_for_all_data_users_always() -> None:
    """They see them even if another project is named; other users never do."""
    xnat = two_users()
    async with raw_client(xnat) as web:
        uri = await web.import_session(dicom(), PROJECT_ID="typo")
        assert (await web.get("/data/prearchive")).rows == []
        statuses = [(await web.ask(method, uri)).status for method in ("GET", "DELETE")]
        assert statuses == [500, 500]
        assert (await web.post(uri, action="build")).status == 200
    async with raw_client(xnat, user="admin") as web:
        for path in ("/data/prearchive", "/data/prearchive/projects/demo"):
            (row,) = (await web.get(path)).rows
            assert row["project"] == "Unassigned"
            assert row["autoarchive"] == ""
        assert len((await web.get("/data/prearchive", tag=STUDY)).rows) == 1
        assert (await web.get("/data/prearchive", tag="9")).rows == []


async def test_import_22_a_session_is_xml_or_a_row() -> None:
    """XML is 404 before the build; JSON is a row, or an empty result when it is gone."""
    async with raw_client(TestXnat(anonymise=False)) as web:
        uri = await web.import_session(dicom(), dicom(2))
        before = await web.get(uri)
        assert before.status == 404
        assert "its XNAT session document is not available" in before.message
        for part in ("scans", "resources", "scans/1/resources", "scans/1/resources/DICOM/files"):
            assert (await web.get(f"{uri}/{part}")).message == "Unable to locate prearc resource."
        assert await web.row_status(uri) == "RECEIVING"
        await web.post(uri, action="build")
        assert "<xnat:MRSession" in (await web.get(uri)).text
        assert await web.row_status(uri) == "READY"
        (scan,) = (await web.get(f"{uri}/scans")).rows
        assert scan == {"ID": "1", "xsiType": "xnat:mrScanData", "series_description": "T1 <fast>"}
        (resource,) = (await web.get(f"{uri}/scans/1/resources")).rows
        assert (resource["label"], resource["file_count"]) == ("DICOM", "2")
        assert (await web.get(f"{uri}/resources")).rows[0]["cat_id"] == "1"
        files = (await web.get(f"{uri}/scans/1/resources/DICOM/files")).rows
        assert [file["Size"] for file in files] == [str(len(dicom())), str(len(dicom(2)))]
        for part in ("scans/9/resources", "scans/1/resources/X/files", "nonsense"):
            assert (await web.get(f"{uri}/{part}")).status == 404
        await web.ask("DELETE", uri)
        assert await web.row_status(uri) == "gone"
        assert (await web.get(uri)).status == 404
        assert (await web.get(f"{uri}/scans")).status == 404


async def unzipped(web: RawClient, uri: str) -> dict[str, bytes]:
    """Download a session as a zip file; return its files by name."""
    async with web.http.get(web.url + uri, params={"format": "zip"}) as reply:
        assert (reply.status, reply.content_type) == (200, "application/zip")
        with ZipFile(BytesIO(await reply.read())) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}


async def test_import_22_a_session_can_be_downloaded_before_and_after_it_is_built(tmp_path: Path) -> None:
    """All files in its folder, whether or not the document lists them, and the catalogs of a build."""
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        bodies = dicom(), dicom(2, SeriesNumber=7, SeriesInstanceUID="7"), dicom(3)
        uri = await web.import_session(*bodies[:2])
        before = await unzipped(web, uri)
        assert set(before.values()) == set(bodies[:2])
        assert all(re.fullmatch(r"E/SCANS/[17]/DICOM/1\.2\.3-[17]-[12]-\w+\.dcm", name) for name in before)
        on_disk = await files_below(tmp_path / "prearchive" / "demo" / uri.split("/")[-2])
        assert before == {"/".join(parts): content for parts, content in on_disk.items()}
        assert (await web.post(uri, action="build")).status == 200
        await web.import_session(bodies[2])
        after = await unzipped(web, uri)
        catalogs = {name: after.pop(name) for name in list(after) if name.endswith("_catalog.xml")}
        assert set(after.values()) == set(bodies)
        assert set(catalogs) == {f"E/SCANS/{scan}/DICOM/scan_{scan}_catalog.xml" for scan in (1, 7)}
        begin = b'<?xml version="1.0" encoding="UTF-8"?>\n<cat:DCMCatalog'
        assert all(document.startswith(begin) for document in catalogs.values())


async def test_import_22_accept_asks_for_a_download_too(tmp_path: Path) -> None:
    """Paths have the label verbatim; HEAD returns only the type."""
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await web.import_session(dicom(), EXPT_LABEL="T:1")
        async with web.http.get(web.url + uri, headers={"Accept": "application/zip"}) as reply:
            (name,) = ZipFile(BytesIO(await reply.read())).namelist()
        assert name.startswith("T:1/SCANS/1/DICOM/1.2.3-1-1-")
        head = await web.ask("HEAD", uri, None, {"Accept": "application/zip"})
        assert (head.status, head.type, head.text) == (200, "application/zip", "")


async def test_import_22_a_cut_file_is_in_the_download(tmp_path: Path) -> None:
    """As far as it has arrived."""
    body = dicom()
    async with raw_client(TestXnat(tmp_path)) as web:
        web.xnat.faults.add(Fault("import", Reset(after_bytes=len(body) - 10)))
        with pytest.raises(OSError, match=r"."):
            await web.send(body)
        (row,) = web.xnat.prearchive
        assert list((await unzipped(web, "/data" + row.uri)).values()) == [body[:-10]]


async def test_import_22_who_may_not_edit_may_not_download(tmp_path: Path) -> None:
    """403; no session 404; no project, and Unassigned for who has no access to all data, 500."""
    xnat = TestXnat(tmp_path)
    xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
    async with raw_client(xnat) as web:
        uri = await web.import_session(dicom())
        assert (await web.get(await web.import_session(dicom(), PROJECT_ID="seen"), format="zip")).status == 403
        assert (await web.get(uri.replace("demo", "Unassigned"), format="zip")).status == 500
        assert (await web.get(uri.replace("demo", "nope"), format="zip")).status == 500
        assert (await web.ask("DELETE", uri)).status == 200
        assert (await web.get(uri, format="zip")).status == 404


async def test_import_22_a_download_passes_over_what_has_gone(tmp_path: Path) -> None:
    """A folder that is emptied meanwhile gives a smaller zip file, or an empty one."""
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await web.import_session(dicom(), dicom(2))
        first, second = sorted((tmp_path / "prearchive").rglob("*.dcm"))
        first.unlink()
        assert [Path(name).name for name in await unzipped(web, uri)] == [second.name]
        second.unlink()
        assert await unzipped(web, uri) == {}


async def test_import_22_a_file_that_is_larger_than_a_piece_is_whole(tmp_path: Path) -> None:
    """As is the connection after it."""
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        body = dicom(PixelData=bytes(range(256)) * 40_000)
        assert list((await unzipped(web, await web.import_session(body))).values()) == [body]
        assert (await web.get("/data/projects")).status == 200


async def test_import_22_a_gateway_may_give_up_on_a_download(tmp_path: Path) -> None:
    """Nothing of the zip file has been sent then."""
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await web.import_session(dicom())
        web.xnat.faults.add(Fault("listing", Gateway()))
        assert (await web.get(uri, format="zip")).status == 504
        assert len(await unzipped(web, uri)) == 1


@pytest.mark.parametrize("directory", [True, False])
async def test_import_22_a_site_that_keeps_no_bytes_has_no_downloads(tmp_path: Path, directory: bool) -> None:
    """501, which does not mean that session or files are gone; a session without files is an empty zip file."""
    script = Script(reject=lambda header: header.modality == "OT")
    xnat = TestXnat(tmp_path if directory else None, keep_bytes=False, anonymise=script)
    async with raw_client(xnat) as web:
        answer = await web.get(await web.import_session(dicom()), format="zip")
        assert (answer.status, answer.message) == (501, "This test server keeps sizes and digests of files only.")
        assert (await web.send(dicom(Modality="OT"), EXPT_LABEL="F")).text == ""
        (uri,) = ["/data" + row.uri for row in xnat.prearchive if row.name == "F"]
        assert await unzipped(web, uri) == {}


async def test_import_22_scans_of_one_number_are_kept_apart() -> None:
    """Two series of the same SeriesNumber share a folder while importing; the build gives them ids."""
    async with raw_client() as web:
        uri = await web.build_session(dicom(1), dicom(2, SeriesInstanceUID="7"), dicom(3, SeriesInstanceUID="8"))
        assert [scan["ID"] for scan in (await web.get(f"{uri}/scans")).rows] == ["1", "1-MR1", "1-MR2"]


async def test_import_23_an_action_is_needed_and_must_be_known() -> None:
    """400 with texts."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        none = await web.post(uri)
        assert none.status == 400
        assert none.message == "No action parameter was specified for the request by user demo"
        for action in ("rebuild", "delete"):
            answer = await web.post(uri, action=action)
            assert answer.status == 400
            assert "requested an unsupported action" in answer.message


@pytest.mark.parametrize("action", ["build", "commit"])
async def test_import_23_build_and_commit_of_a_manual_session(action: str) -> None:
    """200, the same URI without CRLF; the action may be in the query, a form, or JSON."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        headers = {"Content-Type": "application/json"}
        for answer in (
            await web.post(uri, action=action),
            await web.post(uri, {"action": action}),
            await web.ask("POST", uri, f'{{"action": "{action}"}}', headers),
        ):
            assert (answer.status, answer.type, answer.text) == (200, "text/uri-list", uri)
        assert await web.row_status(uri) == "READY"
        assert (await web.ask("POST", uri, "{", headers)).status == 400


@pytest.mark.parametrize(("action", "missing"), [("build", 500), ("commit", 404)])
async def test_import_23_locked_missing_and_forbidden(action: str, missing: int) -> None:
    """Locked: 409; no row: 500 or 404; no right: 403; no project: 500."""
    async with raw_client(two_users()) as web:
        uri = await web.import_session(dicom())
        web.xnat.prearchive[0].status = RowStatus.LOCKED_BUILDING
        locked = await web.post(uri, action=action)
        assert (locked.status, locked.message) == (409, "session document locked")
        assert (await web.post(uri + "x", action=action)).status == missing
        assert (await web.post(await web.import_session(dicom(), PROJECT_ID="seen"), action=action)).status == 403
        assert (await web.post(uri.replace("demo", "nope"), action=action)).status == 500


async def test_import_23_a_file_that_arrives_during_the_build_is_left_out() -> None:
    """The row is READY, the document does not list the file, and archiving is refused."""
    async with raw_client(TestXnat(timing=Timing(build_seconds=0.01))) as web:
        uri = await web.import_session(dicom())
        (row,) = web.xnat.prearchive
        statuses = []

        async def late() -> None:
            while row.status is not RowStatus.LOCKED_BUILDING:
                await anyio.lowlevel.checkpoint()
            await web.import_session(dicom(2))
            statuses.append(row.status)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late)
            assert (await web.post(uri, action="build")).status == 200
        assert (await web.get(f"{uri}/resources")).rows[0]["file_count"] == "1"
        answer = await web.archive(uri)
        assert answer.status == 500
        assert "Scan 1 has 1 non-DICOM (or non-parsable DICOM) files" in answer.message
        await web.post(uri, action="commit")
        assert (await web.archive(uri)).status == 200


async def test_import_23_move() -> None:
    """301 and the new URI; 403 without the right there; `newProject` counts in the query only."""
    xnat = two_users()
    xnat.add_project(Project("other"))
    async with raw_client(xnat) as web:
        uri = await web.import_session(dicom())
        assert (await web.post(uri, action="move", newProject="seen")).status == 403
        assert (await web.post(uri, {"action": "move", "newProject": "other"})).status == 403
        answer = await web.post(uri, action="move", newProject="other")
        assert (answer.status, answer.text) == (301, uri.replace("demo", "other"))
        assert await web.row_status(uri) == "gone"
        assert await web.row_status(answer.text) == "READY"


async def test_import_23_move_takes_the_files_along(tmp_path: Path) -> None:
    """The session that is archived afterwards is complete."""
    xnat = TestXnat(tmp_path)
    xnat.add_project(Project("other"))
    async with raw_client(xnat) as web:
        uri = (await web.post(await web.import_session(dicom()), action="move", newProject="other")).text
        await web.post(uri, action="build")
        assert (await web.archive(uri)).status == 200
        (path,) = await files_below(tmp_path)
        assert path[:3] == ("archive", "other", "arc001")


async def test_import_25_move_of_a_locked_row_does_nothing_and_says_200() -> None:
    """An empty 200: XNAT lacks an else branch."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        uri = await web.import_session(dicom())
        web.xnat.prearchive[0].status = RowStatus.LOCKED_ARCHIVING
        answer = await web.post(uri, action="move", newProject="other")
        assert (answer.status, answer.text) == (200, "")
        assert await web.row_status(uri) == "_ARCHIVING"


async def test_import_23_statuses_can_be_set() -> None:
    """set-status takes any unlocked value; reset-status makes a built session READY."""
    async with raw_client() as web:
        uri = await web.build_session()
        assert (await web.post(uri, action="set-status", status="ERROR")).status == 200
        assert await web.row_status(uri) == "ERROR"
        assert (await web.post(uri, action="reset-status")).text == uri
        assert await web.row_status(uri) == "READY"
        for status in ("_ARCHIVING", "nonsense"):
            assert (await web.post(uri, action="set-status", status=status)).status == 400


async def test_import_23_delete() -> None:
    """200 at once; 404 for what is not there."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        assert (await web.ask("DELETE", uri)).status == 200
        assert (await web.ask("DELETE", uri)).status == 404
        assert not web.xnat.prearchive


async def test_import_23_delete_removes_the_files_of_its_own_session_only(tmp_path: Path) -> None:
    """Built or not; another study's files stay, and everything stays without the right to edit."""
    xnat = TestXnat(tmp_path)
    xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
    async with raw_client(xnat) as web:
        kept = await web.import_session(dicom(), EXPT_LABEL="F")
        forbidden = await web.import_session(dicom(), PROJECT_ID="seen")
        for uri in (await web.import_session(dicom(1), dicom(2)), await web.build_session(dicom(3), EXPT_LABEL="G")):
            assert (await web.ask("DELETE", uri)).status == 200
            assert await web.row_status(uri) == "gone"
        assert (await web.ask("DELETE", forbidden)).status == 403
        assert {row.uri for row in xnat.prearchive} == {uri.removeprefix("/data") for uri in (kept, forbidden)}
        assert sorted(parts[1:4:2] for parts in await files_below(tmp_path)) == [("demo", "F"), ("seen", "E")]


async def test_import_24_commit_with_auto_archive_is_301_with_a_body_and_no_location() -> None:
    """The archive URI is the body, without CRLF."""
    async with raw_client() as web:
        web.xnat.project("demo").prearchive_code = 4
        uri = await web.import_session(dicom())
        answer = await web.post(uri, action="commit")
        assert (answer.status, answer.text) == (301, "/data/archive/projects/demo/subjects/S/experiments/E")
        assert "Location" not in answer.headers
        assert await web.row_status(uri) == "gone"
        assert (await web.get(answer.text, format="json")).status == 200


@pytest.mark.parametrize(
    ("row_code", "code", "params", "status"),
    [
        (0, 0, {}, 200),
        (0, 4, {}, 301),
        (4, 0, {}, 301),
        (0, 0, {"AA": "true"}, 301),
        (0, 0, {"xAAx": "yes"}, 301),
        (0, 0, {"auto-archive": "on"}, 301),
        (0, 4, {"AA": "false"}, 200),
        (4, 4, {"AA": "false"}, 301),
        (0, 0, {"autoArchive": "true"}, 200),
        (0, 4, {"AA": "maybe"}, 301),
    ],
)
async def test_import_25_who_decides_on_archiving(
    row_code: int, code: int, params: dict[str, str], status: int
) -> None:
    """First the row, then a parameter whose name contains AA or auto-archive, then the project."""
    async with raw_client() as web:
        web.xnat.project("demo").prearchive_code = row_code
        uri = await web.import_session(dicom())
        web.xnat.project("demo").prearchive_code = code
        assert (await web.post(uri, action="commit", **params)).status == status


async def test_import_24_commit_that_cannot_archive_is_500() -> None:
    """The conflict is a text; the row is in CONFLICT, and its log has the reason."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        uri = await web.import_session(dicom())
        answer = await web.post(uri, action="commit", AA="true")
        assert answer.status == 500
        assert answer.message.endswith("Session already exists with matching files.")
        assert await web.row_status(uri) == "CONFLICT"
        assert (await web.get(f"{uri}/logs/last")).text == "Session already exists with matching files."
        assert len((await web.get(f"{uri}/logs")).rows) == 1
        assert (await web.get(f"{uri}/logs/0")).status == 200
        assert (await web.get(f"{uri}/logs/1")).status == 404


@pytest.mark.parametrize("params", [{"overwrite_files": "true"}, {}])
async def test_import_24_commit_may_overwrite_files(params: dict[str, str]) -> None:
    """`overwrite_files=true`, or a project of code 5: files of the same name are replaced."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        web.xnat.project("demo").prearchive_code = 4 if params else 5
        uri = await web.import_session(dicom(), dicom(2))
        assert (await web.post(uri, action="commit", **params)).status == 301
        assert len(web.xnat.sop_uids("demo")) == 2


async def test_import_26_there_is_no_commit_service() -> None:
    """/data/services/prearchive/commit is 404."""
    async with raw_client() as web:
        assert (await web.post("/data/services/prearchive/commit", src="/prearchive/projects/x")).status == 404
