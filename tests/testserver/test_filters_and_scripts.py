"""Series import filters, anonymisation scripts, secondary resources, and the site's settings over HTTP."""

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from patience import in_time
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)
from raw_client import SERIES, STUDY, RawClient, dicom, files_below, raw_client, sop

from asyncimport.testserver import Project, RowStatus, Script, SeriesFilter, TestXnat, User

pytestmark = pytest.mark.anyio
THREE = ("StudyDescription", "PatientName", "PatientID")


async def only(folder: Path) -> tuple[bytes, pydicom.Dataset]:
    """Return the only file below a folder."""
    ((_, content),) = (await files_below(folder)).items()
    return content, pydicom.dcmread(BytesIO(content))


@pytest.mark.parametrize(
    ("series_filter", "admitted"),
    [
        (SeriesFilter(("scout.*",)), ["T1", None]),
        (SeriesFilter(("T1", "T2"), "allowlist"), ["T1"]),
        (SeriesFilter((".*",), "allowlist"), ["T1", "scout 1"]),
        (SeriesFilter((".*",), enabled=False), ["T1", "scout 1", None]),
        (SeriesFilter(("SCOUT",)), ["T1", None]),
        (SeriesFilter(("# scout", "^out")), ["T1", "scout 1", None]),
        (SeriesFilter(("[Modality]", "MR", "[SeriesDescription]", "T1")), []),
        (SeriesFilter(("[Modality]", "CT", "[SeriesDescription]", "T1")), ["scout 1", None]),
        (SeriesFilter(("EXISTS",)), [None]),
        (SeriesFilter(("!EXISTS",)), ["T1", "scout 1"]),
        (SeriesFilter(("MR: true",), "modality map"), ["T1", "scout 1", None]),
        (
            SeriesFilter((), "modality map", excludes=lambda header: header.series_description == "T1"),
            ["scout 1", None],
        ),
    ],
)
@pytest.mark.parametrize("of", ["site", "project"])
async def test_import_16_filtered_series_get_200_and_no_row(
    series_filter: SeriesFilter, admitted: list[str | None], of: str
) -> None:
    """A pattern may match anywhere in a description; a filtered file leaves no trace."""
    async with raw_client() as web:
        if of == "site":
            web.xnat.series_filter = series_filter
        else:
            web.xnat.project("demo").series_filter = series_filter
        for number, description in enumerate(("T1", "scout 1", None)):
            answer = await web.send(dicom(number, SeriesDescription=description), EXPT_LABEL=f"E{number}")
            assert answer.status == 200
            assert bool(answer.text) is (description in admitted)
        assert len(web.xnat.prearchive) == len(admitted) == len(web.xnat.imports)


async def test_import_16_filters_can_be_read_by_all() -> None:
    """The configuration service returns a JSON object of strings, or a table; 404 if there is no filter."""
    site, project = "/data/config/seriesImportFilter/config", "/data/projects/demo/config/seriesImportFilter/config"
    async with raw_client() as web:
        for path in (site, project):
            assert (await web.get(path, contents="true")).status == 404
        web.xnat.series_filter = SeriesFilter(("a.*", "b"))
        web.xnat.project("demo").series_filter = SeriesFilter(("c",), "allowlist", enabled=False)
        assert (await web.get(site, contents="true")).json == {"enabled": "true", "mode": "blacklist", "list": "a.*\nb"}
        (row,) = (await web.get(project)).rows
        assert json.loads(row["contents"]) == {"enabled": "false", "mode": "whitelist", "list": "c"}
        assert (await web.get("/xapi/siteConfig/enableSitewideSeriesImportFilter")).json is True
        assert (await web.get("/xapi/siteConfig/sitewideSeriesImportFilter")).text == "a.*\nb"
        assert (await web.get("/xapi/siteConfig/sitewideSeriesImportFilterMode")).text == "blacklist"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("attributes", [{}, {"StudyDescription": "odd"}, {"PatientName": None, "PatientID": None}])
async def test_archive_42_the_stock_script_sets_three_attributes(
    tmp_path: Path, syntax: str, attributes: dict[str, Any]
) -> None:
    """Project, subject and session; the rest stays; size and digest differ from the sent file's."""
    sent = dicom(syntax=syntax, **attributes)
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await web.archive_session(sent, SUBJECT_ID="subject-7", EXPT_LABEL="session-7")
        content, dataset = await only(tmp_path)
        assert [str(dataset[name].value) for name in THREE] == ["demo", "subject-7", "session-7"]
        (file,) = (await web.get(f"{uri}/files")).rows
        assert file["digest"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
        assert file["Size"] == str(len(content))
        assert content != sent
        before = pydicom.dcmread(BytesIO(sent))
        for name in THREE:
            del dataset[name]
            before.pop(name, None)
        assert dataset == before
        assert dataset.file_meta == before.file_meta
        assert web.xnat.sop_uids() == {sop(1)}


@pytest.mark.parametrize("keep_bytes", [True, False])
async def test_archive_42_without_kept_bytes_the_books_are_the_same(tmp_path: Path, keep_bytes: bool) -> None:
    """Sizes and digests are the same whether or not bytes are kept."""
    async with raw_client(TestXnat(tmp_path, keep_bytes=keep_bytes)) as web:
        await web.import_session(dicom())
        (file,) = web.xnat.prearchive[0].files
        assert file.size == len(dicom()) + 4  # StudyDescription is new, the other two are shorter
        assert file.digest is not None
        assert file.digest != hashlib.md5(dicom(), usedforsecurity=False).digest()


async def test_archive_42_large_files_are_rewritten_too(tmp_path: Path) -> None:
    """More than 8 MiB, of which only the head is in memory."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.import_session(dicom(PixelData=bytes(9 * 1024 * 1024) + b"end!"))
        content, dataset = await only(tmp_path)
        assert (dataset.PatientID, dataset.PixelData[-4:]) == ("E", b"end!")
        (file,) = web.xnat.prearchive[0].files
        assert (file.size, file.digest) == (len(content), hashlib.md5(content, usedforsecurity=False).digest())
    sent = dicom(PixelData=bytes(9 * 1024 * 1024))
    async with raw_client(TestXnat(keep_bytes=False)) as web:
        await web.import_session(sent)
        (file,) = web.xnat.prearchive[0].files
        assert file.digest not in {None, hashlib.md5(sent, usedforsecurity=False).digest()}


async def test_import_16_prevent_anon_of_the_creating_request_keeps_the_bytes(tmp_path: Path) -> None:
    """It applies to the whole row."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.import_session(dicom(), prevent_anon="true")
        assert (await only(tmp_path))[0] == dicom()
        await web.import_session(dicom())
        assert (await only(tmp_path))[0] == dicom()


async def test_import_16_a_rejecting_script_gets_200_and_leaves_a_row(tmp_path: Path) -> None:
    """No file and an empty reply, but a row; an earlier file of that instance is deleted too."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.import_session(dicom(1))
        web.xnat.script = Script(reject=lambda header: header.modality == "MR")
        answer = await web.send(dicom(1))
        assert (answer.status, answer.text) == (200, "")
        assert (await web.send(dicom(1), EXPT_LABEL="F")).text == ""
        assert [(row.name, list(row.files)) for row in web.xnat.prearchive] == [("E", []), ("F", [])]
        assert web.xnat.prearchive[0].status is RowStatus.RECEIVING
        assert not await files_below(tmp_path)
        assert await web.import_session(dicom(2, Modality="CT"))
        assert (await web.send(dicom(PixelData=bytes(9 * 1024 * 1024)))).text == ""
        assert len(await files_below(tmp_path)) == 1


async def test_import_16_a_script_may_give_instances_other_uids(tmp_path: Path) -> None:
    """The archived file has another SOPInstanceUID, in data set, meta information and catalog."""
    script = Script(rewrite=False, map_uid=lambda uid: f"2.25.99{uid.replace('.', '')}")
    async with raw_client(TestXnat(tmp_path, anonymise=script)) as web:
        uri = await web.archive_session(dicom(1))
        mapped = "2.25.99" + sop(1).replace(".", "")
        assert web.xnat.sop_uids() == {mapped}
        assert web.xnat.imports[0].sop_uid == sop(1)
        content, dataset = await only(tmp_path)
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == mapped
        group_length = dataset.file_meta.FileMetaInformationGroupLength
        assert content[132 + 12 + group_length :].startswith(b"\x08\x00\x16\x00UI")
        assert dataset.PatientID == "PID"
        assert f'UID="{mapped}"' in (await web.get(f"{uri}/scans/1/resources/DICOM")).text


async def test_archive_42_anonymisation_can_be_asked_for() -> None:
    """By default the site has a script and projects have none; it can be switched off."""
    async with raw_client() as web:
        assert (await web.get("/xapi/anonymize/site/enabled")).json is True
        assert "(0010,0020) := session" in (await web.get("/xapi/anonymize/site")).text
        assert (await web.get("/xapi/siteConfig/enableSitewideAnonymizationScript")).json is True
        assert (await web.get("/xapi/anonymize/projects/demo/enabled")).json is False
        assert (await web.get("/xapi/anonymize/projects/nope/enabled")).status == 403
        web.xnat.project("demo").script = Script(reject=lambda _: True, condition="", map_uid=lambda uid: uid)
        assert (await web.get("/xapi/anonymize/projects/demo/enabled")).json is True
        assert (await web.get("/xapi/anonymize/projects/demo")).text.endswith("\nreject\n")
        web.xnat.project("demo").script = Script(reject=lambda _: True, condition='(0008,0060) = "MR"')
        assert (await web.get("/xapi/anonymize/projects/demo")).text.endswith('\n(0008,0060) = "MR" ? reject\n')
    async with raw_client(TestXnat(anonymise=False)) as web:
        assert (await web.get("/xapi/anonymize/site/enabled")).json is False
        assert (await web.get("/xapi/anonymize/site")).text == ""
        await web.import_session(dicom())
        (file,) = web.xnat.prearchive[0].files
        assert file.digest == hashlib.md5(dicom(), usedforsecurity=False).digest()


async def test_a_projects_script_runs_when_archiving(tmp_path: Path) -> None:
    """It drops and rewrites files; if it drops all, the archiving fails and the row is in ERROR."""
    xnat = TestXnat(tmp_path, anonymise=False)
    xnat.project("demo").script = Script(reject=lambda header: header.modality == "CT", map_uid=lambda uid: uid + ".9")
    async with raw_client(xnat) as web:
        await web.archive_session(dicom(1), dicom(2, Modality="CT", SeriesNumber=2, SeriesInstanceUID="2"))
        assert web.xnat.sop_uids() == {sop(1) + ".9"}
        _, dataset = await only(tmp_path)
        assert (dataset.SOPInstanceUID, dataset.PatientID) == (sop(1) + ".9", "E")
        uri = await web.build_session(dicom(3, Modality="CT", SeriesInstanceUID="3"), EXPT_LABEL="F")
        assert (await web.archive(uri)).status == 500
        assert await web.row_status(uri) == "ERROR"


async def test_settings_are_for_all_for_administrators_or_unknown() -> None:
    """Some need no login, some any login, the rest an administrator."""
    xnat = TestXnat(site_url="https://xnat.example")
    xnat.add_user(User("admin", "x", all_data=True))
    async with raw_client(xnat, user=None, cookies=False) as web:
        assert (await web.get("/xapi/siteConfig/siteUrl")).text == "https://xnat.example"
        assert (await web.get("/xapi/siteConfig/checksums")).status == 401
    async with raw_client(xnat) as web:
        assert (await web.get("/xapi/siteConfig/checksums")).json is True
        assert (await web.get("/xapi/siteConfig/defaultProjectAutoArchiveSetting")).json == 4
        assert (await web.get("/xapi/siteConfig/sessionXmlRebuilderInterval")).json == 5
        assert (await web.get("/xapi/siteConfig/preventCrossModalityMerge")).status == 403
    async with raw_client(xnat, user="admin") as web:
        assert (await web.get("/xapi/siteConfig/preventCrossModalityMerge")).json is True
        assert (await web.get("/xapi/siteConfig/nope")).status == 404


OTHERS = (SecondaryCaptureImageStorage, KeyObjectSelectionDocumentStorage, GrayscaleSoftcopyPresentationStateStorage)


async def sent_with_others(web: RawClient) -> str:
    """Archive a session of an image, a report that counts as an image, and three objects that do not."""
    bodies = [dicom(number, SOPClassUID=uid) for number, uid in enumerate((CTImageStorage, EnhancedSRStorage, *OTHERS))]
    return await web.archive_session(*bodies)


async def test_what_is_no_image_is_catalogued_as_secondary(tmp_path: Path) -> None:
    """By its SOP class alone, within the same scan; its format is DICOM too."""
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await sent_with_others(web)
        rows = (await web.get(f"{uri}/resources", all="true")).rows
        assert [(row["cat_id"], row["label"], row["format"], row["content"], row["file_count"]) for row in rows] == [
            ("1", "DICOM", "DICOM", "RAW", "2"),
            ("1", "secondary", "DICOM", "secondary", "3"),
        ]
        assert len((await web.get(f"{uri}/scans/ALL/files", file_format="DICOM")).rows) == 5
        (session,) = web.xnat.archived
        assert set(session.scans["1"].sop_uids("secondary").values()) == {sop(2), sop(3), sop(4)}
        text = (await web.get(f"{uri}/scans/1/resources/secondary")).text
        assert text.count("<cat:entry ") == text.count('content="secondary"') == 3
        for row in (await web.get(f"{uri}/scans/1/resources/secondary/files")).rows:
            assert (await web.ask("HEAD", row["URI"])).status == 200


async def test_secondary_catalogs_can_be_switched_off() -> None:
    """The preference separateSecondaryDicomOnArchive."""
    async with raw_client(TestXnat(separate_secondary=False)) as web:
        uri = await sent_with_others(web)
        (row,) = (await web.get(f"{uri}/resources", all="true")).rows
        assert (row["label"], row["file_count"]) == ("DICOM", "5")


async def test_import_16_a_script_may_give_other_uids_to_study_and_series(tmp_path: Path) -> None:
    """The row keeps the received UID as its key; document, archive and files have the new one."""
    script = Script(rewrite=False, map_study=lambda uid: f"{uid}.8", map_series=lambda uid: f"{uid}.9")
    async with raw_client(TestXnat(tmp_path, anonymise=script)) as web:
        uri = await web.build_session(dicom(1))
        (row,) = web.xnat.prearchive
        assert (row.study_uid, row.document and row.document.study_uid) == (STUDY, f"{STUDY}.8")
        assert f'UID="{STUDY}.8"' in (await web.get(uri)).text
        assert (await web.archive(uri)).status == 200
        (session,) = web.xnat.archived
        assert session.study_uid == f"{STUDY}.8"
        assert session.scans["1"].series_uid == f"{SERIES}.9"
        _, dataset = await only(tmp_path)
        assert (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) == (f"{STUDY}.8", f"{SERIES}.9")
        # Both are mapped before they are compared, so more may be merged.
        assert (await web.archive(await web.build_session(dicom(2)))).status == 200


async def test_a_projects_script_maps_a_study_after_it_was_compared(tmp_path: Path) -> None:
    """A later delivery is a conflict unless overridden, because the archive has the new UID."""
    xnat = TestXnat(tmp_path, anonymise=False)
    xnat.project("demo").script = Script(map_study=lambda uid: f"{uid}.8", map_series=lambda uid: f"{uid}.9")
    async with raw_client(xnat) as web:
        await web.archive_session(dicom(1))
        (session,) = xnat.archived
        assert (session.study_uid, session.scans["1"].series_uid) == (f"{STUDY}.8", f"{SERIES}.9")
        uri = await web.build_session(dicom(2, SeriesNumber=2, SeriesInstanceUID="1.2.3.5"))
        answer = await web.archive(uri)
        assert (answer.status, "Invalid modification of session UID" in answer.text) == (500, True)
        assert (await web.archive(uri, overwrite="append")).status == 200


PET: dict[str, Any] = {"Modality": "PT", "SeriesNumber": 2, "SeriesInstanceUID": "2"}


async def separated(web: RawClient, uri: str) -> None:
    """Rebuild a session and wait until two rows replace it."""
    await web.post("/data/services/prearchive/rebuild", src=uri.removeprefix("/data"))
    with in_time():
        while await web.row_status(uri) != "gone":
            pass


@pytest.mark.parametrize(
    ("label", "parts"),
    [("E", ("E_MR", "E_PET")), ("A_PETMR_1", ("A_MR_1", "A_PET_1")), ("petmr7", ("mr7", "pet7"))],
)
async def test_a_rebuild_may_separate_pet_and_mr(tmp_path: Path, label: str, parts: tuple[str, str]) -> None:
    """Two rows with derived labels replace the one; a build or a commit does not separate."""
    xnat = TestXnat(tmp_path, pet_mr="separate")
    async with raw_client(xnat) as web:
        uri = await web.build_session(dicom(1), dicom(2, **PET), EXPT_LABEL=label)
        assert [row.name for row in xnat.prearchive] == [label]
        await separated(web, uri)
        assert {row.name for row in xnat.prearchive} == set(parts)
        assert {(row.status, row.study_uid, row.subject) for row in xnat.prearchive} == {(RowStatus.READY, STUDY, "S")}
        for row in xnat.prearchive:
            assert (await web.archive(f"/data{row.uri}")).status == 200
        sessions = {one.label: (one.xsi_type, one.study_uid) for one in xnat.archived}
        assert sessions == {parts[0]: ("xnat:mrSessionData", STUDY), parts[1]: ("xnat:petSessionData", STUDY)}
        assert xnat.sop_uids() == {sop(1), sop(2)}
        assert not xnat.prearchive


async def test_a_part_has_a_number_where_its_label_is_taken(tmp_path: Path) -> None:
    """A second division of the same session is not merged into the first."""
    xnat = TestXnat(tmp_path, pet_mr="separate")
    async with raw_client(xnat) as web:
        for number in (1, 3):
            uri = await web.build_session(dicom(number), dicom(number + 1, **PET))
            await separated(web, uri)
            for row in xnat.prearchive:
                assert (await web.archive(f"/data{row.uri}")).status == 200
        assert [one.label for one in xnat.archived] == ["E_MR", "E_PET", "E_MR1", "E_PET1"]


@pytest.mark.parametrize(("label", "becomes"), [("A_PETMR", "A_PET"), ("petmr_PetMr_1", "petmr_PET_1"), ("A", "A")])
async def test_pet_mr_as_pet_changes_labels(label: str, becomes: str) -> None:
    """A project's setting comes before the site's; the row keeps its name, the archive has the new label."""
    xnat = TestXnat(pet_mr="separate")
    xnat.project("demo").pet_mr = "pet"
    async with raw_client(xnat) as web:
        uri = await web.archive_session(dicom(1), dicom(2, **PET), EXPT_LABEL=label)
        assert uri == f"/data/archive/projects/demo/subjects/S/experiments/{becomes}"
        assert [one.label for one in xnat.archived] == [becomes]


async def test_filters_of_projects_that_are_found_by_the_file() -> None:
    """Routing comes first: the filter is that of the project that the file goes to."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other", series_filter=SeriesFilter(("T1.*",))))
        assert (await web.send(dicom(StudyDescription="other"), PROJECT_ID="")).text == ""
