"""The archive service: replies, jobs, merging and conflicts."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from raw_client import SERIES, dicom, files_below, raw_client, sop

from asyncimport.testserver import Project, RowStatus, TestXnat

pytestmark = pytest.mark.anyio
ARCHIVED = "/data/archive/projects/demo/subjects/S/experiments/E"
FAILED = "FAILED: Unable to archive E: Operation Failed: "


@pytest.mark.parametrize("prefix", ["", "/data"])
async def test_import_27_done_is_200_with_crlf(prefix: str) -> None:
    """With /data in the source or without; the reply is a text/uri-list."""
    async with raw_client() as web:
        uri = await web.build_session()
        answer = await web.archive(prefix + uri.removeprefix("/data"))
        assert (answer.status, answer.type, answer.text) == (200, "text/uri-list", ARCHIVED + "\r\n")


async def test_import_27_parameters_may_come_in_a_form_or_in_parts() -> None:
    """A form, or project, PREARC_TIMESTAMP and PREARC_SESSION_FOLDER."""
    async with raw_client() as web:
        uri = await web.build_session()
        assert (await web.post("/data/services/archive", {"src": uri})).status == 200
        *_, timestamp, folder = (await web.build_session(dicom(2))).split("/")
        parts = {"project": "demo", "PREARC_TIMESTAMP": timestamp, "PREARC_SESSION_FOLDER": folder}
        assert (await web.post("/data/services/archive", **parts)).status == 200
        assert web.xnat.sop_uids() == {sop(1), sop(2)}


@pytest.mark.parametrize(("code", "params"), [(0, {"redirect": "true"}), (0, {"AA": "true"}), (4, {})])
async def test_import_27_auto_archive_rows_are_303(code: int, params: dict[str, str]) -> None:
    """A redirection to the archived session at the site's own URL."""
    async with raw_client(TestXnat(site_url="https://xnat.example")) as web:
        web.xnat.project("demo").prearchive_code = code
        answer = await web.archive(await web.build_session(), **params)
        assert answer.status == 303
        assert answer.headers["Location"] == "https://xnat.example" + ARCHIVED


async def test_import_27_sources_that_cannot_be_had() -> None:
    """404, 400, 403 with their texts."""
    async with raw_client() as web:
        web.xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
        none = await web.post("/data/services/archive")
        assert (none.status, none.message) == (404, "Unknown prearchive session.")
        gone = await web.archive("/data/prearchive/projects/demo/20200101_000000000/E")
        assert gone.status == 404
        assert gone.message == "/prearchive/projects/demo/20200101_000000000/E not found."
        archived = await web.archive("/archive/projects/demo/subjects/S/experiments/E")
        assert archived.status == 400
        assert archived.message.startswith("Invalid src URI (")
        assert (await web.archive("nonsense")).status == 400
        unassigned = await web.archive(await web.import_session(dicom(), PROJECT_ID="typo"))
        assert unassigned.message == "Cannot archive sessions from the Unassigned folder."
        assert unassigned.status == 400
        assert (await web.archive(await web.import_session(dicom(), PROJECT_ID="seen"))).status == 403


async def test_import_27_a_locked_row_is_403() -> None:
    """The archiving has begun already."""
    async with raw_client() as web:
        uri = await web.build_session()
        web.xnat.prearchive[0].status = RowStatus.LOCKED_ARCHIVING
        answer = await web.archive(uri)
        assert answer.status == 403
        assert answer.message == "Operation already in progress on this prearchive entry."


async def test_import_27_a_session_that_was_not_built_fails() -> None:
    """500, and the row says ERROR."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        answer = await web.archive(uri)
        assert answer.status == 500
        assert answer.message.startswith(FAILED)
        assert await web.row_status(uri) == "ERROR"


async def test_import_32_dest_breaks_with_one_source() -> None:
    """500, and the row says ERROR."""
    async with raw_client() as web:
        uri = await web.build_session()
        assert (await web.archive(uri, dest="/archive/projects/demo/subjects/S")).status == 500
        assert await web.row_status(uri) == "ERROR"


async def test_import_27_several_sources_are_done_in_the_background() -> None:
    """200 at once with the rows; only the rows show the outcome."""
    async with raw_client() as web:
        first, second = (
            await web.build_session(),
            await web.build_session(dicom(2, StudyInstanceUID="8"), EXPT_LABEL="F"),
        )
        bad = await web.import_session(dicom(3, StudyInstanceUID="9"), EXPT_LABEL="G")
        answer = await web.post(f"/data/services/archive?src={first}&src={second}&src={bad}")
        assert answer.status == 200
        assert {row["status"] for row in answer.rows} == {"ARCHIVING"}
        while await web.row_status(bad) != "ERROR":
            await anyio.lowlevel.checkpoint()
        assert [session.label for session in web.xnat.archived] == ["E", "F"]


async def test_import_28_a_timeout_leaves_the_job_running() -> None:
    """500 with XNAT's text; the session is archived all the same."""
    async with raw_client(TestXnat(archive_seconds=0.05, archive_timeout=0.01)) as web:
        uri = await web.build_session()
        answer = await web.archive(uri)
        assert answer.status == 500
        assert "did not complete within the configured timeout interval." in answer.message
        while await web.row_status(uri) != "gone":
            await anyio.lowlevel.checkpoint()
        assert (await web.get(ARCHIVED, format="json")).status == 200


async def test_import_28_a_client_that_leaves_does_not_stop_the_job() -> None:
    """The client closes the connection; the session is archived all the same."""
    async with raw_client(TestXnat(archive_seconds=0.05)) as web:
        uri = await web.build_session()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(web.archive, uri)
            while not web.xnat.count["archive"]:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        while await web.row_status(uri) != "gone":
            await anyio.lowlevel.checkpoint()
        assert (await web.get(ARCHIVED, format="json")).status == 200


async def test_import_29_after_success_all_is_in_the_archive(tmp_path: Path) -> None:
    """Row and folder are gone; the files are in the archive, with unchanged bytes."""
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        uri = await web.build_session(dicom(1), dicom(2, SeriesNumber=5, SeriesInstanceUID="5"))
        assert (await web.archive(uri)).status == 200
        assert await web.row_status(uri) == "gone"
        files = await files_below(tmp_path)
        session = ("archive", "demo", "arc001", "E", "SCANS")
        assert [path[:-1] for path in files] == [(*session, "1", "DICOM"), (*session, "5", "DICOM")]
        assert next(iter(files.values())) == dicom(1)
        (archived,) = web.xnat.archived
        assert (archived.id, archived.subject.id, archived.subject.label) == (
            "XNAT_E00001",
            "XNAT_S00001",
            "S",
        )
        assert {scan.id: scan.series_uid for scan in archived.scans.values()} == {"1": SERIES, "5": "5"}
        assert list(archived.scans["5"].sop_uids().values()) == [sop(2)]


async def test_import_29_labels_are_cleaned_when_archiving() -> None:
    """Punctuation and blanks become `_`; the URI says so."""
    async with raw_client() as web:
        uri = await web.archive_session(dicom(), EXPT_LABEL="a,b.c", SUBJECT_ID="s/1")
        assert uri == "/data/archive/projects/demo/subjects/s_1/experiments/a_b_c"


async def test_import_29_the_subject_is_found_whatever_its_letter_case() -> None:
    """SUB and sub are one subject, with the label that came first."""
    async with raw_client() as web:
        await web.archive_session(dicom(), SUBJECT_ID="SUB")
        uri = await web.archive_session(dicom(2, StudyInstanceUID="8"), SUBJECT_ID="sub", EXPT_LABEL="F")
        assert "/subjects/SUB/" in uri
        assert len({session.subject for session in web.xnat.archived}) == 1


async def test_import_29_names_may_be_given_when_archiving() -> None:
    """`subject` and `session` come before the row's."""
    async with raw_client() as web:
        answer = await web.archive(await web.build_session(), subject="T", session="G")
        assert answer.text.strip() == "/data/archive/projects/demo/subjects/T/experiments/G"


async def test_import_29_a_subject_is_needed() -> None:
    """Without a parameter and without a patient name: 500."""
    async with raw_client() as web:
        answer = await web.archive(await web.build_session(dicom(PatientName=None), SUBJECT_ID=""))
        assert answer.message == FAILED + "Unable to identify subject."


async def test_import_30_new_files_and_scans_are_merged(tmp_path: Path) -> None:
    """A second delivery adds to the session; existing IDs, subject and files stay."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.archive_session(dicom(1))
        uri = await web.archive_session(dicom(2), dicom(3, SeriesNumber=2, SeriesInstanceUID="2"))
        assert uri == ARCHIVED
        (session,) = web.xnat.archived
        assert list(session.scans) == ["1", "2"]
        assert web.xnat.sop_uids() == {sop(1), sop(2), sop(3)}
        assert len(await files_below(tmp_path)) == 3
        counts = [row["file_count"] for row in (await web.get(f"{uri}/resources", all="true")).rows]
        assert counts == ["2", "1"]


@pytest.mark.parametrize(
    ("attributes", "params", "message", "overridden"),
    [
        ({}, {"SUBJECT_ID": "T"}, "via archive process.: E Already Exists for another Subject", False),
        ({"Modality": "CT"}, {}, "session modality via archive process.  Data may require", False),
        ({"StudyInstanceUID": "9"}, {}, "Invalid modification of session UID via archive process.", True),
        ({"SeriesNumber": 2}, {}, "with the same UID, but a different number (1).", True),
        (
            {"SOPInstanceUID": sop(1), "InstanceNumber": 1},
            {},
            "Session already exists with matching files.",
            True,
        ),
    ],
)
@pytest.mark.parametrize("overwrite", ["", "append", "delete", "true"])
async def test_import_30_conflicts(
    attributes: dict[str, Any], params: dict[str, str], message: str, overridden: bool, overwrite: str
) -> None:
    """500 with text, and the row is in CONFLICT; append and delete skip the same checks."""
    async with raw_client() as web:
        await web.archive_session(dicom(1))
        uri = await web.build_session(dicom(2, **attributes), **params)
        answer = await web.archive(uri, overwrite=overwrite)
        if overridden and overwrite in {"append", "delete"}:
            assert answer.status == 200
            return
        assert answer.status == 500
        assert answer.message.startswith(FAILED)
        assert message in answer.message
        assert await web.row_status(uri) == "CONFLICT"
        assert web.xnat.sop_uids() == {sop(1)}


async def test_import_30_upload_dcm_collides_when_appending() -> None:
    """Without `rename` the first file of every delivery has one name."""
    async with raw_client() as web:
        await web.archive_session(dicom(1), rename="")
        answer = await web.archive(await web.build_session(dicom(2), rename=""))
        assert answer.message == FAILED + "Session already exists with matching files."


async def test_import_30_an_instance_that_is_there_twice_is_refused() -> None:
    """Sent once under its own name and once as upload.dcm: two files of one UID in a scan."""
    async with raw_client() as web:
        await web.import_session(dicom(1), rename="")
        answer = await web.archive(await web.build_session(dicom(1)))
        assert f"Scan 1 DICOM catalog contains duplicated SOP instance UIDs: {sop(1)}" in answer.message


async def test_archive_24_a_number_that_another_series_has_gets_a_suffix() -> None:
    """1-MR1, then 1-MR2; later files of a renamed series find it by its UID."""
    async with raw_client() as web:
        await web.archive_session(dicom(1))
        await web.archive_session(dicom(2, SeriesInstanceUID="7"))
        await web.archive_session(dicom(3, SeriesInstanceUID="8"))
        uri = await web.archive_session(dicom(4, SeriesInstanceUID="7"))
        scans = {scan["ID"]: scan["UID"] for scan in (await web.get(f"{uri}/scans", columns="ID,UID")).rows}
        assert scans == {"1": SERIES, "1-MR1": "7", "1-MR2": "8"}
        (session,) = web.xnat.archived
        assert set(session.scans["1-MR1"].sop_uids().values()) == {sop(2), sop(4)}


async def test_archive_24_a_pet_scan_is_suffixed_pt() -> None:
    """Not PE."""
    async with raw_client() as web:
        await web.archive_session(dicom(1, Modality="PT"))
        await web.archive_session(dicom(2, Modality="PT", SeriesInstanceUID="7"))
        assert list(web.xnat.archived[0].scans) == ["1", "1-PT1"]


async def test_import_31_a_double_submit_is_accepted_and_the_second_fails() -> None:
    """Two requests before the job has locked the row."""
    async with raw_client(TestXnat(archive_seconds=0.01)) as web:
        uri = await web.build_session()
        answers = []

        async def archive() -> None:
            answers.append(await web.archive(uri))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(archive)
            tasks.start_soon(archive)
        assert sorted(answer.status for answer in answers) in ([200, 403], [200, 500])
        assert web.xnat.sop_uids() == {sop(1)}
        assert (await web.archive(uri)).status == 404


async def test_import_31_two_jobs_into_one_existing_session_collide() -> None:
    """The second finds the destination in use."""
    async with raw_client() as web:
        await web.archive_session(dicom(1))
        first = await web.build_session(dicom(2))
        await web.post(first, action="set-status", status="READY")
        second = (await web.send(dicom(3), EXPT_LABEL="F")).text.strip()
        await web.post(second, action="build")
        web.xnat.archive_seconds = 0.02
        answers = []

        async def archive(uri: str, session: str) -> None:
            answers.append(await web.archive(uri, session=session))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(archive, first, "E")
            tasks.start_soon(archive, second, "E")
        assert sorted(answer.status for answer in answers) == [200, 500]
        assert any("Destination session in use." in answer.text for answer in answers)


async def test_files_sent_while_archiving_are_answered_with_200_and_lost(tmp_path: Path) -> None:
    """This is why nothing may be sent into a session that is being archived."""
    async with raw_client(TestXnat(tmp_path, archive_seconds=0.05)) as web:
        uri = await web.build_session()

        async def late() -> None:
            while web.xnat.prearchive[0].status is not RowStatus.LOCKED_ARCHIVING:
                await anyio.lowlevel.checkpoint()
            assert (await web.send(dicom(2))).text.strip() == uri

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late)
            assert (await web.archive(uri)).status == 200
        assert await web.row_status(uri) == "gone"
        assert web.xnat.sop_uids() == {sop(1)}
        assert len(await files_below(tmp_path)) == 1


async def test_a_site_may_be_served_again() -> None:
    """Archived and received data is there after a restart."""
    xnat = TestXnat()
    async with raw_client(xnat) as web:
        await web.archive_session(dicom(1))
        uri = await web.build_session(dicom(2))
    async with raw_client(xnat) as web:
        assert (await web.archive(uri)).status == 200
        assert web.xnat.sop_uids() == {sop(1), sop(2)}
