"""The import service: routing, rows, file names, and replies to bad requests."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from raw_client import IMPORT, SERIES, STUDY, RawClient, dicom, files_below, raw_client, sop

from asyncimport.testserver import Fault, Project, Reset, RowStatus, TestXnat, Timing, User

pytestmark = pytest.mark.anyio
CHUNKED = "the request entity size is -1 but the media type is not application/zip"


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces, which aiohttp sends chunked."""
    yield body


async def files(web: RawClient, uri: str) -> list[str]:
    """Build a session and return the names of the files of its only scan."""
    await web.post(uri, action="build")
    (scan,) = (await web.get(f"{uri}/scans")).rows
    rows = (await web.get(f"{uri}/scans/{scan['ID']}/resources/DICOM/files")).rows
    return [row["Name"] for row in rows]


@pytest.mark.parametrize("prefix", ["/data", "/REST"])
async def test_import_04_only_post(prefix: str) -> None:
    """GET and PUT are 405, under both prefixes; POST is served."""
    async with raw_client() as web:
        path = f"{prefix}/services/import"
        for method in ("GET", "PUT"):
            answer = await web.ask(method, path)
            assert answer.status == 405
            assert answer.headers["Allow"] == "POST"
        headers = {"Content-Type": "application/dicom"}
        assert (await web.ask("POST", path, dicom(), headers, **IMPORT)).status == 200


async def test_import_05_a_chunked_body_is_refused() -> None:
    """No Content-Length: 400 with the text."""
    async with raw_client() as web:
        answer = await web.send(pieces(dicom()))
        assert answer.status == 400
        assert CHUNKED in answer.message


async def test_import_05_an_empty_body_is_refused() -> None:
    """Length 0: 400 with the text."""
    async with raw_client() as web:
        answer = await web.send(b"")
        assert answer.status == 400
        assert "the request entity size is 0 but" in answer.message


async def test_import_05_inbody_forbids_multipart() -> None:
    """A form with `inbody`: 406."""
    async with raw_client() as web:
        answer = await web.send(b"x", content_type="multipart/form-data; boundary=x")
        assert answer.status == 406
        assert "not as part of multi-part form data" in answer.message


async def test_import_05_without_inbody_a_known_type_will_do() -> None:
    """The classic script sends no `inbody`; a form without file is refused."""
    async with raw_client() as web:
        assert (await web.send(dicom(), inbody="")).status == 200
        form = await web.send("a=b", inbody="", content_type="application/x-www-form-urlencoded")
        assert (form.status, form.message) == (400, "Unable to identify upload format.")


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json"])
async def test_import_05_a_file_may_have_the_type_of_a_form(tmp_path: Path, content_type: str) -> None:
    """With `inbody` the body is the file, whatever its type: so curl sends it; without, it is refused."""
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        refused = await web.send(dicom(), inbody="", content_type=content_type)
        assert (refused.status, refused.message) == (400, "Unable to identify upload format.")
        await web.import_session(dicom(), content_type=content_type)
    assert list((await files_below(tmp_path)).values()) == [dicom()]


@pytest.mark.parametrize("content_type", ["text/html", "x/y", "application/x-mirc"])
async def test_import_05_other_types_need_inbody(content_type: str) -> None:
    """RequestUtil knows which types are files."""
    async with raw_client() as web:
        refused = await web.send(dicom(), inbody="", content_type=content_type)
        assert (refused.status, refused.message) == (400, "Unable to identify upload format.")
        assert (await web.send(dicom(), content_type=content_type)).status == 200


@pytest.mark.parametrize(
    ("content_type", "status"), [("application/x-www-form-urlencoded", 404), ("application/json", 400)]
)
async def test_archive_08_a_form_that_is_no_text(content_type: str, status: int) -> None:
    """Binary data where parameters are expected: an error of the request, not of the server."""
    async with raw_client() as web:
        answer = await web.ask("POST", "/data/services/archive", b"\xff\xfe\x00=", {"Content-Type": content_type})
        assert answer.status == status


async def test_import_06_choice_of_the_importer() -> None:
    """Unknown: 404; by content type: gradual-DICOM; octet-stream goes to the unzipper and fails."""
    async with raw_client() as web:
        unknown = await web.send(dicom(), **{"import-handler": "nope"})
        assert (unknown.status, unknown.message) == (404, "Unknown importer implementation specified: nope")
        none = {"import-handler": ""}
        assert (await web.send(dicom(), **none)).status == 200
        octets = await web.send(dicom(), content_type="application/octet-stream", **none)
        assert (octets.status, octets.message) == (400, "Unsupported format UNKNOWN")
        named = await web.send(dicom(), content_type="application/octet-stream")
        assert named.status == 200
        mirc = await web.send(dicom(), content_type="application/x-mirc", **none)
        assert mirc.text == "OK"


async def test_import_07_success_is_one_uri_with_crlf() -> None:
    """200, text/uri-list, one line, no Location."""
    async with raw_client() as web:
        answer = await web.send(dicom())
        assert answer.status == 200
        assert answer.type == "text/uri-list"
        assert re.fullmatch(r"/data/prearchive/projects/demo/\d{8}_\d{9}/E\r\n", answer.text)
        assert "Location" not in answer.headers


@pytest.mark.parametrize("body", [b"not DICOM at all", bytes(4000), dicom()[:200], b"\0" * 128 + b"DICM"])
async def test_import_08_what_is_not_dicom_is_400(body: bytes) -> None:
    """Restlet's page has the text, with the name that XNAT gives the file."""
    async with raw_client() as web:
        answer = await web.send(body)
        assert answer.status == 400
        assert answer.type == "text/html"
        if body[128:132] != b"DICM":
            assert answer.message == "unable to read DICOM object upload.dcm"
        assert not web.xnat.prearchive


async def test_import_08_missing_uids_have_texts_of_their_own() -> None:
    """No SOP Class UID, no SOP Instance UID; the name may come from the path."""
    async with raw_client() as web:
        answer = await web.send(dicom(SOPClassUID=None))
        assert (answer.status, answer.message) == (400, "object upload.dcm contains no SOP Class UID")
        headers = {"Content-Type": "application/dicom"}
        body = dicom(SOPInstanceUID=None)
        answer = await web.ask("POST", "/data/services/import/a b.dcm".replace(" ", "%20"), body, headers, **IMPORT)
        assert answer.message == "object a_20b.dcm contains no SOP Instance UID"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
async def test_import_08_other_transfer_syntaxes_are_read(syntax: str) -> None:
    """Implicit VR and deflated headers are read too."""
    async with raw_client() as web:
        await web.import_session(dicom(syntax=syntax))
        assert web.xnat.imports[0].sop_uid == sop(1)


async def test_import_08_a_data_set_without_preamble_is_read() -> None:
    """File meta information may be absent."""
    async with raw_client() as web:
        body = dicom()
        start = body.index(b"\x08\x00\x16\x00UI")
        await web.import_session(body[start:])
        assert web.xnat.imports[0].sop_uid == sop(1)


async def test_import_09_unknown_project_is_unassigned() -> None:
    """A misspelt project is a 200 too: only the URI shows it; `project=` has no effect."""
    async with raw_client() as web:
        answer = await web.send(dicom(), PROJECT_ID="dmeo")
        assert answer.status == 200
        assert answer.text.startswith("/data/prearchive/projects/Unassigned/")
        answer = await web.send(dicom(), PROJECT_ID="", project="demo")
        assert answer.text.startswith("/data/prearchive/projects/Unassigned/")


async def test_import_09_a_project_without_right_is_unassigned_but_reading_is_enough() -> None:
    """1.8 needs only the right to read."""
    async with raw_client() as web:
        web.xnat.add_project(Project("closed", editors=["boss"]))
        web.xnat.add_project(Project("seen", editors=["boss"], readers=["demo"], aliases=["glimpsed"]))
        assert "/Unassigned/" in (await web.send(dicom(), PROJECT_ID="closed")).text
        assert "/seen/" in (await web.send(dicom(), PROJECT_ID="seen")).text
        assert "/seen/" in (await web.send(dicom(), PROJECT_ID="glimpsed")).text


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientComments": "Project:other Subject:x"},
        {"StudyComments": "see project: other; ok"},
        {"AdditionalPatientHistory": "Project:other"},
        {"StudyDescription": "other"},
        {"AccessionNumber": "other"},
    ],
)
async def test_import_09_dicom_routes_silently_when_the_project_is_wrong(attributes: dict[str, str]) -> None:
    """The file decides if, and only if, PROJECT_ID cannot be reached."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        body = dicom(**attributes)
        assert "/projects/other/" in (await web.send(body, PROJECT_ID="typo")).text
        assert "/projects/demo/" in (await web.send(body)).text


async def test_import_10_labels_fall_back_on_dicom() -> None:
    """EXPT_LABEL, Session:, PatientID, dicom_upload; SUBJECT_ID, Subject:, PatientName."""
    none = {"EXPT_LABEL": "", "SUBJECT_ID": ""}
    async with raw_client() as web:
        await web.import_session(dicom(PatientComments="Subject:sub Session:ses"), **none)
        await web.import_session(dicom(PatientID="a/b c.d"), **none)
        await web.import_session(dicom(PatientID=None, PatientName=None), **none)
        rows = [(row.name, row.subject) for row in web.xnat.prearchive]
        assert sorted(rows) == [("a_b_c_d", "Doe_Jane"), ("dicom_upload", ""), ("ses", "sub")]


async def test_import_10_labels_of_parameters_are_taken_verbatim_but_escaped() -> None:
    """Labels are not cleaned at import, but all values are XML-escaped."""
    async with raw_client() as web:
        answer = await web.send(dicom(), EXPT_LABEL="a b.c&d")
        assert answer.text.endswith("/a b.c&amp;d\r\n")


@pytest.mark.parametrize("timing", [Timing(), Timing(serial_seconds=0.001, parallel_seconds=0.001)])
async def test_import_11_parallel_first_files_make_one_row(tmp_path: Path, timing: Timing) -> None:
    """40 first files at once: one row, and one URI for all."""
    async with raw_client(TestXnat(tmp_path, timing=timing)) as web:
        uris: list[str] = []

        async def send(number: int) -> None:
            uris.append((await web.send(dicom(number))).text)

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(send, number)
        assert len(uris) == 40
        assert len(set(uris)) == 1
        (row,) = web.xnat.prearchive
        assert {file.sop_uid for file in row.files} == {sop(number) for number in range(40)}


async def test_import_11_label_and_study_are_the_key() -> None:
    """Another label or another study is another row, whatever the subject."""
    async with raw_client() as web:
        await web.import_session(dicom(), dicom(2))
        await web.import_session(dicom(3), SUBJECT_ID="other")
        await web.import_session(dicom(), EXPT_LABEL="F")
        await web.import_session(dicom(StudyInstanceUID="9.9"))
        assert [(row.name, row.study_uid, row.subject) for row in web.xnat.prearchive] == [
            ("E", STUDY, "S"),
            ("F", STUDY, "S"),
            ("E", "9.9", "S"),
        ]


async def test_import_12_the_creating_request_decides_the_row() -> None:
    """Later parameters do not count; AA has no effect; `1` is not true."""
    async with raw_client() as web:
        uri = await web.import_session(
            dicom(), AA="true", prevent_auto_commit="1", SOURCE="first", VISIT="v", SUBTYPE="p"
        )
        await web.import_session(dicom(2), prevent_auto_commit="true", prevent_anon="true", SOURCE="second")
        (row,) = (await web.get(uri, format="json")).rows
        assert row["autoarchive"] == "Manual"
        assert (row["prevent_auto_commit"], row["prevent_anon"]) == ("false", "false")
        assert (row["SOURCE"], row["VISIT"], row["PROTOCOL"]) == ("first", "v", "p")
        assert row["scan_date"] == "2020-01-02 00:00:00.0"


@pytest.mark.parametrize(
    ("code", "comment", "autoarchive"),
    [
        (0, None, "Manual"),
        (4, None, "AutoArchive"),
        (5, None, "AutoArchiveOverwrite"),
        (0, "AA:true", "AutoArchive"),
        (4, "AA:false", "Manual"),
    ],
)
async def test_import_12_autoarchive_comes_from_dicom_or_the_project(
    code: int, comment: str | None, autoarchive: str
) -> None:
    """`AA:` in the comments comes before the project's code."""
    async with raw_client() as web:
        web.xnat.project("demo").prearchive_code = code
        await web.import_session(dicom(PatientComments=comment))
        assert web.xnat.prearchive[0].autoarchive == autoarchive


async def test_import_13_rename_names_files_by_the_template() -> None:
    """Study UID, numbers, and the base-36 hash of [SOP class, SOP instance], as Java computes it."""

    def java(text: str) -> int:
        value = 0
        for char in text:
            value = (31 * value + ord(char)) % 2**32
        return value

    async with raw_client() as web:
        name, *_ = await files(web, await web.import_session(dicom(7)))
        study, number, instance, code = name.removesuffix(".dcm").split("-")
        assert (study, number, instance) == (STUDY, "1", "7")
        expected = 31 * (31 + java("1.2.840.10008.5.1.4.1.1.4")) + java(sop(7))
        assert int(code, 36) == expected % 2**32


async def test_import_13_missing_numbers_have_words_in_the_template() -> None:
    """no-value-for-<Tag>; the scan is named by the series UID."""
    async with raw_client() as web:
        (name,) = await files(web, await web.import_session(dicom(SeriesNumber=None, InstanceNumber=None)))
        assert "-no-value-for-SeriesNumber-no-value-for-InstanceNumber-" in name
        assert list(web.xnat.prearchive[0].scans) == [SERIES.replace(".", "_")]


async def test_import_13_without_rename_the_first_file_is_upload_dcm() -> None:
    """Others get template names; the same instance again overwrites its file."""
    async with raw_client() as web:
        uri = await web.import_session(dicom(1), dicom(2), dicom(1), dicom(3), rename="")
        names = await files(web, uri)
        assert names[0] == "upload.dcm"
        assert len(names) == 3
        assert all(name.startswith(f"{STUDY}-1-") for name in names[1:])


async def test_import_13_the_same_instance_again_is_overwritten(tmp_path: Path) -> None:
    """200, the same reply, the same count, the new bytes."""
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        uri = await web.import_session(dicom(1), dicom(1, PatientID="again"))
        (name,) = await files(web, uri)
        ((path, content),) = (await files_below(tmp_path)).items()
        assert path[-1] == name
        assert content == dicom(1, PatientID="again")


async def test_import_14_the_same_name_at_once_is_refused() -> None:
    """Of two simultaneous transfers of one instance, one is a 400."""
    async with raw_client(TestXnat(timing=Timing(parallel_seconds=0.05))) as web:
        statuses = []

        async def send() -> None:
            answer = await web.send(dicom())
            statuses.append(answer.status)
            if answer.status == 400:
                assert answer.message == "Concurrent file sends of the same data is not supported."

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(send)
        assert sorted(statuses) == [200, 400]


async def test_import_15_a_cut_transfer_leaves_a_partial_file(tmp_path: Path) -> None:
    """No reply; the beginning of the file is kept and listed, the row keeps receiving; a retry repairs it."""
    body = dicom(PixelData=bytes(200_000))
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        async with await anyio.connect_tcp(*host_and_port(web.url)) as connection:
            await connection.send(request_head(web, len(body)) + body[:50_000])
            while not web.xnat.count["import"]:
                await anyio.lowlevel.checkpoint()
        while not web.xnat.imports:
            await anyio.lowlevel.checkpoint()
        (row,) = web.xnat.prearchive
        (file,) = row.files
        assert (file.size, file.complete, row.status) == (50_000, False, RowStatus.RECEIVING)
        assert list((await files_below(tmp_path)).values()) == [body[:50_000]]
        await web.import_session(body)
        (file,) = row.files
        assert (file.size, file.complete) == (len(body), True)
        assert list((await files_below(tmp_path)).values()) == [body]
        assert [record.status for record in web.xnat.imports] == [0, 200]


async def test_import_15_a_scripted_cut_after_so_many_bytes() -> None:
    """Reset(after_bytes) does the same on the server's side; partial files are known as such."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("import", Reset(after_bytes=1000)))
        with pytest.raises(OSError, match=r"."):
            await web.send(dicom(PixelData=bytes(20_000)))
        assert fault.hits == 1
        await web.archive_session(dicom(2))
        assert web.xnat.sop_uids() == {sop(2)}
        assert [file.size for file in web.xnat.partial_files()] == [1000]


@pytest.mark.parametrize("after_bytes", [100, 200, 330])
async def test_import_15_a_cut_within_the_header_leaves_nothing(after_bytes: int) -> None:
    """XNAT names a file by its header, so it keeps none without a complete header."""
    async with raw_client() as web:
        web.xnat.faults.add(Fault("import", Reset(after_bytes=after_bytes)))
        with pytest.raises(OSError, match=r"."):
            await web.send(dicom(PixelData=bytes(20_000)))
        assert not web.xnat.prearchive
        await web.archive_session(dicom(1))
        assert not web.xnat.partial_files()


@pytest.mark.parametrize("keep_bytes", [True, False])
async def test_large_bodies_are_streamed_to_disk(tmp_path: Path, keep_bytes: bool) -> None:
    """More than 8 MiB: the same file, the same digest, nothing left in the spool."""
    body = dicom(PixelData=bytes(9 * 1024 * 1024))
    async with raw_client(TestXnat(tmp_path, keep_bytes=keep_bytes, anonymise=False)) as web:
        uri = await web.archive_session(body)
        (row,) = (await web.get(f"{uri}/scans/1/files")).rows
        assert row["Size"] == str(len(body))
        assert len(row["digest"]) == 32
        assert list((await files_below(tmp_path)).values()) == ([body] if keep_bytes else [])


async def test_large_bodies_that_are_no_dicom_leave_nothing(tmp_path: Path) -> None:
    """A refused large body is removed from the spool."""
    async with raw_client(TestXnat(tmp_path)) as web:
        assert (await web.send(bytes(9 * 1024 * 1024))).status == 400
        assert not await files_below(tmp_path)


async def test_large_bodies_cut_leave_what_has_arrived(tmp_path: Path) -> None:
    """A cut after 9 MiB keeps 9 MiB."""
    async with raw_client(TestXnat(tmp_path)) as web:
        web.xnat.faults.add(Fault("import", Reset(after_bytes=9 * 1024 * 1024)))
        with pytest.raises(OSError, match=r"."):
            await web.send(dicom(PixelData=bytes(20 * 1024 * 1024)))
        (file,) = web.xnat.prearchive[0].files
        assert file.size >= 9 * 1024 * 1024
        assert not file.complete


@pytest.mark.parametrize("status", [RowStatus.READY, RowStatus.ERROR, RowStatus.LOCKED_ARCHIVING])
async def test_import_17_a_file_sets_any_row_back_to_receiving(status: RowStatus) -> None:
    """From every status, locked ones included; 200 each time; BUILDING is interrupted."""
    async with raw_client() as web:
        await web.import_session(dicom())
        (row,) = web.xnat.prearchive
        row.status = status
        await web.import_session(dicom(2))
        assert row.status is RowStatus.RECEIVING
        row.status = RowStatus.BUILDING
        await web.import_session(dicom(3))
        assert row.status is RowStatus.RECEIVING_INTERRUPT


@pytest.mark.parametrize("label", ["../../out", "..", ".", "/etc/x", "a/b", "~", "x" * 400, "ü\n"])
async def test_no_label_leaves_the_directory(tmp_path: Path, label: str) -> None:
    """Labels are used verbatim: whatever they are, files stay in folders of their own below the site's."""
    inside = tmp_path / "deep" / "down" / "site"
    async with raw_client(TestXnat(inside)) as web:
        for params in ({"EXPT_LABEL": label}, {"EXPT_LABEL": "E", "PREARC_TIMESTAMP": label}):
            answer = await web.send(dicom(), **params)
            assert answer.status == 200
        await web.post("/data/services/archive", src=f"/prearchive/projects/demo/{label}/E")
    found = await files_below(tmp_path)
    assert len(found) == 2
    for path in found:
        assert path[:5] == ("deep", "down", "site", "prearchive", "demo")
        _timestamp, _folder, *rest = path[5:]
        assert rest[:3] == ["SCANS", "1", "DICOM"]


async def test_import_18_a_write_that_fails_is_masked_as_unreadable(tmp_path: Path) -> None:
    """Disk full, or a folder that has just been archived: 400 with a text about the file."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.import_session(dicom(1))
        await anyio.Path(tmp_path, *next(iter(await files_below(tmp_path)))).unlink()
        folder = next(iter(web.xnat.prearchive)).path
        await anyio.Path(tmp_path, *folder, "SCANS", "1", "DICOM").rmdir()
        answer = await web.send(dicom(2))
        assert answer.status == 400
        assert answer.message == "unable to read DICOM object upload.dcm"


async def test_import_19_lastmod_moves_only_when_older_than_15_seconds() -> None:
    """XNAT does not update its table for each file."""
    now = 0.0
    async with raw_client(TestXnat(clock=lambda: now)) as web:
        await web.import_session(dicom())
        (row,) = web.xnat.prearchive
        before = row.lastmod
        now = 15.0
        await web.import_session(dicom(2))
        assert row.lastmod == before
        now = 16.0
        await web.import_session(dicom(3))
        assert row.lastmod > before
        assert row.uploaded == before


async def test_two_studies_under_one_label_and_timestamp_collide() -> None:
    """The table's key is project, timestamp and folder: the second study is a 400."""
    async with raw_client() as web:
        await web.import_session(dicom(), PREARC_TIMESTAMP="20260101_000000000")
        answer = await web.send(dicom(StudyInstanceUID="9"), PREARC_TIMESTAMP="20260101_000000000")
        assert (answer.status, answer.message) == (400, "unable to read DICOM object upload.dcm")
        assert len(web.xnat.prearchive) == 1


async def test_importers_that_are_not_emulated_say_so() -> None:
    """501."""
    async with raw_client() as web:
        assert (await web.send(dicom(), **{"import-handler": "XAR"})).status == 501
        assert (await web.send(dicom(), **{"import-handler": "inbox"})).status == 501


async def test_a_transfer_cut_within_the_header_leaves_nothing() -> None:
    """No row is made before the header is read."""
    async with raw_client() as web:
        web.xnat.faults.add(Fault("import", Reset(after_bytes=300)))
        with pytest.raises(OSError, match=r"."):
            await web.send(dicom())
        assert not web.xnat.prearchive


async def test_expect_100_continue_is_answered() -> None:
    """Clients that wait for 100 Continue get it."""
    async with raw_client() as web:
        headers = {"Content-Type": "application/dicom"}
        async with web.http.post(
            web.url + "/data/services/import", data=dicom(), params=IMPORT, headers=headers, expect100=True
        ) as reply:
            assert reply.status == 200


async def test_context_path_and_aliases() -> None:
    """Everything is the same under /xnat; URIs in replies do not have it."""
    async with raw_client(context="/xnat") as web:
        assert web.url.endswith("/xnat")
        uri = await web.archive_session(dicom())
        assert uri == "/data/archive/projects/demo/subjects/S/experiments/E"
        for path in (uri, uri.replace("/archive", ""), uri.replace("/data/archive", "/REST")):
            assert (await web.get(path, format="json")).status == 200
        async with web.http.get(web.url.removesuffix("/xnat") + "/data/auth") as reply:
            assert reply.status == 404


async def test_what_was_received_is_recorded() -> None:
    """A record for each import, a count for each kind."""
    async with raw_client() as web:
        uri = await web.import_session(dicom(1), dicom(2))
        first, second = web.xnat.imports
        assert (first.project, first.subject, first.session, first.sop_uid) == ("demo", "S", "E", sop(1))
        assert (second.status, second.uri) == (200, uri)
        assert web.xnat.count == {"import": 2}


async def test_all_data_users_reach_every_project() -> None:
    """All-data access reads and edits everything."""
    xnat = TestXnat()
    xnat.add_user(User("admin", "x", all_data=True))
    xnat.add_project(Project("closed", editors=[]))
    async with raw_client(xnat, user="admin") as web:
        assert "/closed/" in (await web.send(dicom(), PROJECT_ID="closed")).text


def host_and_port(url: str) -> tuple[str, int]:
    """Return the address of a URL."""
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def request_head(web: RawClient, length: int) -> bytes:
    """Return the head of an import, hand-made."""
    query = "&".join(f"{name}={value}" for name, value in IMPORT.items())
    cookie = next(morsel.value for morsel in web.http.cookie_jar if morsel.key == "JSESSIONID")
    return (
        f"POST /data/services/import?{query} HTTP/1.1\r\nHost: x\r\nCookie: JSESSIONID={cookie}\r\n"
        f"Content-Type: application/dicom\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
