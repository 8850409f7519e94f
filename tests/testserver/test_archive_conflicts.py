"""Each conflict that keeps a session out of the archive, and what skips its check."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from raw_client import SERIES, RawClient, dicom, raw_client, sop

from asyncimport.testserver import PROFILES, Project, TestXnat

pytestmark = pytest.mark.anyio
FAILED = "FAILED: Unable to archive E: Operation Failed: "


def lend(xnat: TestXnat) -> None:
    """Share a session of another project into this one, under this label."""
    (session,) = xnat.archived
    session.project = "other"
    xnat.share(session, "demo")


def rename(xnat: TestXnat) -> None:
    """Give the session that is found under this label another label."""
    xnat.archived[0].label = "another"


def occupy(xnat: TestXnat) -> None:
    """Open a workflow on the session."""
    xnat.archived[0].workflow = "AutoRun"


def forget(xnat: TestXnat) -> None:
    """Lose the file from the disk, but not from the catalog."""
    files = xnat.archived[0].scans["1"].resources["DICOM"].files
    for name, file in files.items():
        files[name] = replace(file, on_disk=False)


def nothing(_: TestXnat) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Case:
    """A session with instance 1 is archived, then something is done to it, and another delivery comes."""

    message: str
    skipped: bool
    """Whether overwrite=append or delete skips the check."""
    attributes: dict[str, Any] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[TestXnat], None] = nothing
    number: int = 2


INVALID = "Invalid modification of session "
CASES = {
    "label": Case(f"{INVALID}label via archive process.", skipped=False, prepare=rename),
    "project": Case(f"{INVALID}project via archive process.", skipped=False, prepare=lend),
    "modality": Case(f"{INVALID}modality via archive process.", skipped=False, attributes={"Modality": "CT"}),
    "subject": Case(
        f"{INVALID}subject via archive process.: E Already Exists for another Subject",
        skipped=False,
        params={"SUBJECT_ID": "T"},
    ),
    "study": Case(f"{INVALID}UID via archive process.", skipped=True, attributes={"StudyInstanceUID": "9"}),
    "scan": Case(
        "Session already contains a scan with the same UID, but a different number (1).",
        skipped=True,
        attributes={"SeriesNumber": 2},
    ),
    "file": Case("Session already exists with matching files.", skipped=True, number=1),
    "lost file": Case("Session already exists with the same resources.", skipped=True, number=1, prepare=forget),
    "instance": Case(
        "Session already exists with the same resources.",
        skipped=True,
        number=1,
        attributes={"InstanceNumber": 7},
    ),
    "workflow": Case("Session processing may already be in progress: AutoRun.", skipped=True, prepare=occupy),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("overwrite", ["", "append", "delete", "true"])
async def test_import_30_each_conflict_and_what_skips_it(name: str, overwrite: str) -> None:
    """500 with the text, and the row in CONFLICT; append and delete skip the same checks."""
    case = CASES[name]
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        await web.archive_session(dicom(1))
        case.prepare(web.xnat)
        uri = await web.build_session(dicom(case.number, **case.attributes), **case.params)
        answer = await web.archive(uri, overwrite=overwrite)
        if case.skipped and overwrite in {"append", "delete"}:
            assert answer.status == 200
            assert sop(case.number) in web.xnat.sop_uids()
            return
        assert answer.status == 500
        assert answer.message.startswith(FAILED + case.message)
        assert await web.row_status(uri) == "CONFLICT"
        assert (await web.get(f"{uri}/logs/last")).text.startswith(case.message)
        assert web.xnat.sop_uids() == {sop(1)}


async def test_import_30_a_merge_without_leave() -> None:
    """Version 1.6 needs `overwrite` for a merge; 1.8 does not."""
    for version, status in (("1.6.1", 409), ("1.8", 200)):
        async with raw_client(TestXnat(profile=PROFILES[version])) as web:
            await web.archive_session(dicom(1))
            assert (await web.archive(await web.build_session(dicom(2)))).status == status


async def test_import_30_modalities_may_be_mixed_where_the_site_allows_it() -> None:
    """The preference preventCrossModalityMerge."""
    async with raw_client(TestXnat(prevent_cross_modality_merge=False)) as web:
        await web.archive_session(dicom(1))
        await web.archive_session(dicom(2, Modality="CT", SeriesNumber=2, SeriesInstanceUID="2"))
        (session,) = web.xnat.archived
        assert session.xsi_type == "xnat:mrSessionData"
        assert list(session.scans) == ["1", "2"]


async def test_import_30_studies_may_be_mixed_where_the_project_allows_it() -> None:
    """Another StudyInstanceUID is merged."""
    async with raw_client() as web:
        web.xnat.project("demo").allows_other_studies = True
        await web.archive_session(dicom(1))
        await web.archive_session(dicom(2, StudyInstanceUID="9"))
        assert web.xnat.sop_uids() == {sop(1), sop(2)}


async def test_import_30_the_same_number_is_no_conflict() -> None:
    """The scan gets another ID."""
    async with raw_client() as web:
        await web.archive_session(dicom(1))
        await web.archive_session(dicom(2, SeriesInstanceUID="7"))
        assert {scan.id: scan.series_uid for scan in web.xnat.archived[0].scans.values()} == {"1": SERIES, "1-MR1": "7"}


async def name_of(web: RawClient) -> str:
    """Return the name of the one file in the prearchive."""
    (file,) = web.xnat.prearchive[0].files
    return file.name


@pytest.mark.parametrize("overwrite", ["", "append"])
async def test_import_30_a_folder_that_the_database_does_not_know_conflicts_too(overwrite: str) -> None:
    """Files of the same name in an archive folder without a database row; other files do not matter."""
    async with raw_client() as web:
        uri = await web.build_session(dicom(1))
        web.xnat.orphans["demo", "E"] = {("1", "DICOM", await name_of(web)), ("1", "DICOM", "x.dcm")}
        answer = await web.archive(uri, overwrite=overwrite)
        if overwrite:
            assert answer.status == 200
            assert web.xnat.orphans["demo", "E"] == {("1", "DICOM", "x.dcm")}
        else:
            assert answer.message == FAILED + "Session already exists with matching files."
            assert not web.xnat.archived
    async with raw_client() as web:
        web.xnat.orphans["demo", "E"] = {("1", "DICOM", "x.dcm")}
        await web.archive_session(dicom(1))


async def test_import_30_overwriting_replaces_files_and_entries() -> None:
    """The same instance under another name replaces the first entry."""
    async with raw_client() as web:
        await web.archive_session(dicom(1), rename="")
        assert (await web.archive(await web.build_session(dicom(1)), overwrite="append")).status == 200
        (name,) = web.xnat.archived[0].scans["1"].sop_uids()
        assert name != "upload.dcm"


@pytest.mark.parametrize(
    ("params", "attributes"),
    [({"rename": ""}, {}), ({}, {"SeriesNumber": 2})],
    ids=["another name", "another number"],
)
@pytest.mark.parametrize(("overwrite", "unique", "status"), [("", True, 500), ("append", True, 200), ("", False, 200)])
async def test_import_30_an_instance_twice_in_one_delivery(
    params: dict[str, str], attributes: dict[str, Any], overwrite: str, unique: bool, status: int
) -> None:
    """Under two names, or two numbers of one series: refused, unless overridden or not checked by the site."""
    async with raw_client(TestXnat(unique_sop_uids=unique)) as web:
        await web.import_session(dicom(1), **params)
        answer = await web.archive(await web.build_session(dicom(1, **attributes)), overwrite=overwrite)
        assert answer.status == status
        if status == 500:
            assert f"DICOM catalog contains duplicated SOP instance UIDs: {sop(1)}" in answer.message


@pytest.mark.parametrize("overwrite", ["", "append"])
async def test_import_30_files_that_the_document_does_not_know(overwrite: str) -> None:
    """Sent after the build: refused, or lost when overridden."""
    async with raw_client() as web:
        uri = await web.build_session(dicom(1))
        await web.import_session(dicom(2))
        answer = await web.archive(uri, overwrite=overwrite)
        if overwrite:
            assert answer.status == 200
            assert web.xnat.sop_uids() == {sop(1)}
        else:
            assert answer.message == FAILED + "Scan 1 has 1 non-DICOM (or non-parsable DICOM) files"
