"""Differences between XNAT versions: locks, names, rows; and the SessionImporter with one file."""

from dataclasses import replace

import anyio
import pytest
from raw_client import RawClient, dicom, raw_client, sop

from asyncimport.testserver import PROFILES, Project, RowStatus, TestXnat, Timing

pytestmark = pytest.mark.anyio
SLOW = Timing(parallel_seconds=0.6)


async def at_once(web: RawClient, *sent: tuple[bytes, dict[str, str]]) -> list[tuple[int, str]]:
    """Import bodies at the same time; return status and message of each, sorted."""
    answers = []

    async def send(body: bytes, params: dict[str, str]) -> None:
        answer = await web.send(body, **params)
        answers.append((answer.status, answer.message if answer.status != 200 else ""))

    async with anyio.create_task_group() as tasks:
        for body, params in sent:
            tasks.start_soon(send, body, params)
    return sorted(answers)


BUSY = (400, "Concurrent file sends of the same data is not supported.")
BUSY_1_6 = (500, "Concurrent file sends are not supported.")
DONE = (200, "")


@pytest.mark.parametrize(
    ("version", "same_file", "other_scan", "other_session"),
    [
        ("1.8", [DONE, BUSY], [DONE, DONE], [DONE, DONE]),
        ("1.7", [DONE, BUSY], [DONE, BUSY], [DONE, DONE]),
        ("1.6.1", [DONE, BUSY_1_6], [DONE, BUSY_1_6], [DONE, BUSY_1_6]),
        ("1.5.4", [DONE, DONE], [DONE, DONE], [DONE, DONE]),
    ],
)
async def test_import_14_what_a_files_lock_covers(
    version: str,
    same_file: list[tuple[int, str]],
    other_scan: list[tuple[int, str]],
    other_session: list[tuple[int, str]],
) -> None:
    """Name and scan in a session, name in a session, the name alone, nothing; refused with these codes and texts."""
    plain = {"rename": ""}  # every file is called upload.dcm
    async with raw_client(TestXnat(profile=PROFILES[version], timing=SLOW)) as web:
        await web.import_session(dicom(9, SeriesNumber=9, SeriesInstanceUID="9"))  # the row is there
        assert await at_once(web, (dicom(1), plain), (dicom(1), plain)) == same_file
        second = dicom(3, SeriesNumber=3, SeriesInstanceUID="3")
        assert (
            await at_once(web, (dicom(2, SeriesNumber=2, SeriesInstanceUID="2"), plain), (second, plain)) == other_scan
        )
        other = dicom(4, StudyInstanceUID="4", SeriesNumber=4), {"rename": "", "EXPT_LABEL": "F"}
        fifth = dicom(5, SeriesNumber=5, SeriesInstanceUID="5")
        assert await at_once(web, (fifth, plain), other) == other_session


async def test_import_14_without_rename_a_first_file_may_replace_another() -> None:
    """Both find upload.dcm free and take the lock in turn: two replies of 200, one file."""
    async with raw_client(TestXnat(timing=Timing(naming_seconds=0.15))) as web:
        await web.import_session(dicom(9, SeriesNumber=9, SeriesInstanceUID="9"))
        assert await at_once(web, (dicom(1), {"rename": ""}), (dicom(2), {"rename": ""})) == [DONE, DONE]
        (row,) = web.xnat.prearchive
        assert list(row.scans["1"]) == ["upload.dcm"]


async def test_import_14_with_rename_names_do_not_collide() -> None:
    """The same two files, each under its own name."""
    async with raw_client(TestXnat(timing=Timing(naming_seconds=0.05, parallel_seconds=0.01))) as web:
        assert await at_once(web, (dicom(1), {}), (dicom(2), {})) == [DONE, DONE]
        assert {file.sop_uid for file in web.xnat.prearchive[0].files} == {sop(1), sop(2)}


async def test_import_11_version_1_6_looks_at_project_and_study_only() -> None:
    """Another label is the same row, whose label stays."""
    async with raw_client(TestXnat(profile=PROFILES["1.6.1"])) as web:
        first = await web.import_session(dicom(1))
        assert await web.import_session(dicom(2), EXPT_LABEL="F") == first
        assert [row.name for row in web.xnat.prearchive] == ["E"]


async def test_import_11_version_1_5_may_make_several_rows_of_one_study() -> None:
    """No lock covers look-up and creation; 1.8 creates one row."""
    bodies = [(dicom(number), {"PREARC_TIMESTAMP": f"20260101_00000000{number}"}) for number in range(5)]
    for version, rows in (("1.5.4", 5), ("1.8", 1)):
        timing = Timing(serial_seconds=0.15)
        async with raw_client(TestXnat(profile=PROFILES[version], timing=timing)) as web:
            assert await at_once(web, *bodies) == [DONE] * 5
            assert len(web.xnat.prearchive) == rows
            await web.import_session(dicom(9))
            assert len(web.xnat.prearchive) == rows


async def test_import_09_version_1_7_asks_for_the_right_to_edit() -> None:
    """A project that can only be read is not reached."""
    async with raw_client(TestXnat(profile=PROFILES["1.7"])) as web:
        web.xnat.project("demo").editors, web.xnat.project("demo").readers = [], ["demo"]
        assert "/Unassigned/" in (await web.send(dicom())).text


@pytest.mark.parametrize(("version", "prefix"), [("1.5.4", "/archive/"), ("1.6.1", "/data/archive/")])
async def test_import_32_dest_works_in_old_versions(version: str, prefix: str) -> None:
    """It names subject and session."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        uri = await web.build_session()
        answer = await web.archive(uri, dest="/archive/projects/demo/subjects/T/experiments/G")
        assert answer.text == f"{prefix}projects/demo/subjects/T/experiments/G\r\n"
        uri = await web.build_session(dicom(2))
        assert (await web.archive(uri, dest="nonsense")).status == 400
        assert (await web.archive(uri, dest="/archive/projects/other")).status == 403
        web.xnat.add_project(Project("other"))
        answer = await web.archive(uri, dest="/archive/projects/other")
        assert answer.text == f"{prefix}projects/other/subjects/S/experiments/E\r\n"


async def test_import_32_dest_can_be_made_to_work() -> None:
    """A switch of the profile."""
    profile = replace(PROFILES["1.8"], archive_dest_breaks=False)
    async with raw_client(TestXnat(profile=profile)) as web:
        answer = await web.archive(await web.build_session(), dest="/archive/projects/demo/subjects/T")
        assert "/subjects/T/experiments/E" in answer.text


async def test_import_27_version_1_6_gives_conflicts_their_own_code() -> None:
    """409, also for a merge that was not allowed; `overwrite` allows it."""
    async with raw_client(TestXnat(profile=PROFILES["1.6.1"])) as web:
        await web.archive_session(dicom(1))
        uri = await web.build_session(dicom(2))
        answer = await web.archive(uri)
        assert answer.status == 409
        assert answer.message.endswith("Session already exists, retry with overwrite enabled")
        assert await web.row_status(uri) == "CONFLICT"
        assert (await web.archive(uri, overwrite="append")).status == 200


async def test_import_18_a_full_disk_is_masked_as_an_unreadable_file() -> None:
    """400 for every valid file; the row exists, and sending the files again repairs everything."""
    async with raw_client(TestXnat(disk_full=True)) as web:
        answer = await web.send(dicom())
        assert (answer.status, answer.message) == (400, "unable to read DICOM object upload.dcm")
        (row,) = web.xnat.prearchive
        assert (list(row.files), row.writing) == ([], 0)
        web.xnat.disk_full = False
        await web.import_session(dicom())


@pytest.mark.parametrize("status", [status for status in RowStatus if "BUILDING" not in status.value])
async def test_import_17_no_status_keeps_a_file_out(status: RowStatus) -> None:
    """200 and the same session, whatever the row's status; it is RECEIVING or RECEIVING_INTERRUPT afterwards."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        (row,) = web.xnat.prearchive
        row.status = status
        assert await web.import_session(dicom(2)) == uri
        interrupted = status is RowStatus.RECEIVING_INTERRUPT
        assert row.status is (RowStatus.RECEIVING_INTERRUPT if interrupted else RowStatus.RECEIVING)


async def test_import_20_the_session_importer_makes_a_session_of_every_request() -> None:
    """Each in a folder of its own, built at once, with either set of parameter names."""
    short = {"PROJECT_ID": "", "SUBJECT_ID": "", "EXPT_LABEL": "", "project": "demo", "subject": "T", "session": "G"}
    async with raw_client() as web:
        si = {"import-handler": "SI"}
        uris = [(await web.send(dicom(number), **si)).text for number in (1, 2)]
        uris.append((await web.send(dicom(3), **si, **short)).text)
        assert len(set(uris)) == 3
        rows = web.xnat.prearchive
        assert [(row.name, row.subject, row.status.value) for row in rows] == [
            *[("E", "S", "READY")] * 2,
            ("G", "T", "READY"),
        ]
        assert {(row.source, row.prevent_auto_commit) for row in rows} == {("SessionImporter", True)}
        assert (await web.archive(uris[0].strip())).status == 200
        bad = await web.send(b"no DICOM", **si)
        assert (bad.status, bad.message) == (400, "Upload did not include parsable files for session generation.")


@pytest.mark.parametrize(("version", "status"), [("1.8", 400), ("1.7", 200)])
async def test_import_06_the_default_importer_was_another(version: str, status: int) -> None:
    """Octets without an importer's name go to SI before 1.8."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        answer = await web.send(dicom(), content_type="application/octet-stream", **{"import-handler": ""})
        assert answer.status == status


@pytest.mark.parametrize(("version", "folder"), [("1.9", "1_2_3_4"), ("1.10", "_7")])
async def test_import_13_a_plus_sign_in_a_series_number(version: str, folder: str) -> None:
    """No folder may have one: until 1.9 the series UID names the scan, from 1.10 on an underscore stands for it."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        await web.import_session(dicom(SeriesNumber="+7"))
        assert list(web.xnat.prearchive[0].scans) == [folder]


@pytest.mark.parametrize("version", sorted(PROFILES))
async def test_the_version_is_told_where_it_was_at_that_time(version: str) -> None:
    """At /data/version before 1.7, in buildInfo since."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        old, new = await web.get("/data/version"), await web.get("/xapi/siteConfig/buildInfo")
        told, other = (new, old) if PROFILES[version].has_xapi else (old, new)
        assert (told.status, other.status) == (200, 404)
        assert f"{version}" in told.text


@pytest.mark.parametrize(("version", "has_them"), [("1.6.1", False), ("1.7", True)])
async def test_archive_35_old_versions_have_no_digests(version: str, has_them: bool) -> None:
    """Their lists have the column, and nothing in it."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        uri = (await web.archive_session(dicom())).removeprefix("/archive").removeprefix("/data/archive")
        (row,) = (await web.get(f"/data{uri}/scans/1/resources/DICOM/files")).rows
        assert bool(row["digest"]) is has_them


@pytest.mark.parametrize(("version", "status"), [("1.7", 404), ("1.8", 200)])
async def test_import_34_jobs_are_tracked_from_1_8_on(version: str, status: int) -> None:
    """The redirect of the archive step is the same."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        uri = await web.build_session()
        started = await web.archive(uri, **{"http-session-listener": "L"})
        assert started.status == 303
        while await web.row_status(uri) != "gone":
            pass
        assert (await web.get("/xapi/event_tracking/L")).status == status
