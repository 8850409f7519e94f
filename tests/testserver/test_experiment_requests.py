"""PUT of experiments and scans, as clients create them that upload files to resources."""

from pathlib import Path

import pytest
from raw_client import SERIES, STUDY, RawClient, basic_auth, dicom, files_below, raw_client

from asyncimport.testserver import ArchivedSession, Project, TestXnat, add_creator, add_file, add_reader, add_session

pytestmark = pytest.mark.anyio
DEFAULT_500 = "The server encountered an unexpected condition which prevented it from fulfilling the request"
SUBJECTS = "/data/projects/demo/subjects"
E = f"{SUBJECTS}/S/experiments/E"
ID = "/data/experiments/XNAT_E00001"
MR = {"xsiType": "xnat:mrSessionData"}
SCAN = {"xsiType": "xnat:mrScanData"}


def session(web: RawClient, label: str = "E") -> ArchivedSession:
    """Return a session of the project demo."""
    found = web.xnat.experiment_labelled("demo", label)
    assert found is not None
    return found


async def test_an_experiment_is_created_and_changed() -> None:
    """201 and then 200, each with the accession ID; the address may have the label or the ID, of either."""
    async with raw_client() as web:
        await web.put(f"{SUBJECTS}/S")
        made = await web.put(E, date="2026-03-01", note="first", **MR)
        assert (made.status, made.type, made.text) == (201, "text/plain", "XNAT_E00001")
        for path in (E, f"{SUBJECTS}/XNAT_S00001/experiments/XNAT_E00001", E.replace("/data/", "/data/archive/")):
            changed = await web.put(path, scanner="one")
            assert (changed.status, changed.text) == (200, "XNAT_E00001")
        (row,) = (await web.get("/data/experiments", columns="label,date,note,scanner,xsiType,subject_ID")).rows
        assert row == {
            "label": "E",
            "date": "2026-03-01",
            "note": "first",
            "scanner": "one",
            "xsiType": "xnat:mrSessionData",
            "subject_ID": "XNAT_S00001",
            "URI": ID,
            "project": "demo",
            "xnat:subjectassessordata/id": "XNAT_E00001",
        }


async def test_paths_name_the_fields_of_a_type_and_of_its_parents() -> None:
    """In any letter case; fields of other types are ignored, and an unknown path ends the reading."""
    async with raw_client() as web:
        params = {
            "req_format": "qs",
            "xnat:mrSessionData/label": "E",
            "xnat:experimentData/date": "03/01/2026",
            "xnat:imagesessiondata/uid": "1.2.3",
            "xnat:mrSessionData/fields/field[name=site]/field": "A",
            "xnat:petSessionData/note": "ignored",
        }
        assert (await web.put(E, **params, **MR)).status == 201
        (item,) = (await web.get(E, format="json")).json["items"]
        fields = item["data_fields"]
        assert (fields["label"], fields["date"], fields["UID"]) == ("E", "2026-03-01", "1.2.3")
        assert "note" not in fields
        (custom,) = item["children"]
        assert (custom["field"], custom["items"][0]["data_fields"]) == ("fields/field", {"name": "site", "field": "A"})
        await web.put(E, **{"xnat:mrSessionData/note": "x", "xnat:mrSessionData/nonsense": "y"})
        assert session(web).fields == {"note": "x"}
        await web.put(E, note="NULL")
        assert session(web).fields == {}
        unknown = {"xnat:mrSessionData/nonsense": "y", "xnat:mrSessionData/note": "x"}
        assert (await web.put(f"{SUBJECTS}/S/experiments/F", **unknown)).status == 201
        assert session(web, "F").fields == {}


async def test_archive_16_a_label_on_an_experiment_drops_all_else(tmp_path: Path) -> None:
    """200 without a body: renamed with its files if it differs; 409 if the label or its folder is taken."""
    async with raw_client(TestXnat(tmp_path)) as web:
        uri = await web.archive_session(dicom())
        add_session(web.xnat, "S", "F")
        same = await web.put(uri, label="E", note="lost")
        assert (same.status, same.text, session(web).fields) == (200, "", {})
        taken = await web.put(uri, label="F")
        assert (taken.status, taken.message) == (409, "Specified label is already in use.")
        web.xnat.orphans["demo", "G"] = {("1", "DICOM", "x.dcm")}
        full = await web.put(uri, label="G")
        assert (full.status, full.message) == (409, "File system destination contains pre-existing files")
        session(web).workflow = "AutoRun"
        busy = await web.put(uri, label="H")
        assert (busy.status, busy.message) == (409, "Specified session is being processed (AutoRun).")
        session(web).workflow = ""
        (before,) = (await files_below(tmp_path)).items()
        renamed = await web.put(ID, label="H", note="lost")
        assert (renamed.status, renamed.text) == (200, "")
        assert (session(web, "H").id, session(web, "H").fields) == ("XNAT_E00001", {})
        (after,) = (await files_below(tmp_path)).items()
        assert after == (tuple("H" if part == "E" else part for part in before[0]), before[1])
        (row,) = (await web.get(f"{ID}/scans/1/files")).rows
        assert (await web.ask("HEAD", row["URI"])).status == 200


async def test_an_experiment_without_its_subject_creates_the_subject() -> None:
    """The subject of the address is its label; for an existing session, an unknown subject changes nothing."""
    async with raw_client() as web:
        assert (await web.put(E, **MR)).status == 201
        assert session(web).subject.label == "S"
        assert (await web.put(f"{SUBJECTS}/nope/experiments/E")).status == 200
        assert [subject.label for subject in web.xnat.subjects()] == ["S"]
        web.xnat.add_subject("demo", "T")
        assert (await web.put(f"{SUBJECTS}/T/experiments/E")).status == 200
        assert session(web).subject.label == "T"
        assert (await web.put(E, subject_ID="U")).status == 200
        assert session(web).subject.label == "U"


async def test_without_a_subject_in_the_address() -> None:
    """ExperimentResource needs subject_ID for a new one; it looks for an ID only if no type is named."""
    async with raw_client() as web:
        path = "/data/projects/demo/experiments/E"
        assert (await web.put(path, **MR)).status == 501
        made = await web.put(path, subject_ID="S", **MR)
        assert (made.status, made.text, session(web).subject.label) == (201, "XNAT_E00001", "S")
        for params in ({}, {"pullDataFromHeaders": "true"}, {"fixScanTypes": "true"}, {"triggerPipelines": "true"}):
            answer = await web.put(ID, **params)
            assert (answer.status, answer.text) == (200, "XNAT_E00001")
        assert (await web.put(path, note="n")).status == 200
        assert session(web).fields == {"note": "n"}
        typed = await web.put(ID, note="n", **MR)
        assert (typed.status, typed.message) == (
            422,
            "Submitted experiment record must include the project attribute.",
        )


@pytest.mark.parametrize(
    ("path", "params", "status", "text"),
    [
        (E, {}, 417, "Need PUT Contents"),
        (E, {"xsiType": "xnat:mrScanData"}, 422, "Only xnat:Subject documents can be PUT to this address."),
        (E, {"xsiType": "nonsense"}, 400, ""),
        (E, {"xsiType": "xnat:qcManualAssessorData"}, 501, "not part of this test server"),
        (E, {**MR, "date": "soon"}, 400, "/date : 'soon' Must Be A Valid Date"),
        (E, {**MR, "ID": "a.b"}, 417, "Invalid character in experiment label."),
        (f"{SUBJECTS}/S/experiments/a.b", MR, 500, DEFAULT_500),
        (f"{SUBJECTS}/a.b/experiments/E", MR, 500, DEFAULT_500),
        ("/data/projects/no/subjects/S/experiments/E", MR, 422, "record must include the project attribute."),
        (f"{SUBJECTS}/S/experiments/OLD", {"ID": "XNAT_E00009"}, 400, "ID cannot be modified"),
        (f"{SUBJECTS}/S/experiments/OLD", {"project": "other"}, 409, "Project must be modified through separate URI."),
        (
            f"{SUBJECTS}/S/experiments/OLD",
            {"xnat:mrSessionData/label": "NEW"},
            400,
            "Label must be modified through separate URI.",
        ),
        (E, {**MR, "label": "OLD"}, 409, "Project must be modified through separate URI."),
        (f"{SUBJECTS}/S/experiments/OLD/nonsense", {}, 400, ""),
    ],
)
async def test_experiments_that_are_refused(path: str, params: dict[str, str], status: int, text: str) -> None:
    """The texts are SubjAssessmentResource's; some speak of subjects, labels and URIs although they mean others."""
    async with raw_client() as web:
        add_session(web.xnat, "S", "OLD")
        answer = await web.put(path, **params)
        assert answer.status == status
        assert text in answer.message
        assert [one.label for one in web.xnat.archived] == ["OLD"]


async def test_rights_and_reasons_for_experiments() -> None:
    """Creating needs the right to create, changing that to edit; both need a reason if the site asks for one."""
    xnat = TestXnat()
    add_reader(xnat, "reader")
    add_creator(xnat, "creator")
    add_session(xnat, "S", "OLD")
    old = f"{SUBJECTS}/S/experiments/OLD"
    async with raw_client(xnat, user=None) as web:
        for user, path, params, status in (
            ("reader", E, MR, 403),
            ("creator", E, MR, 201),
            ("creator", old, {}, 403),
            ("reader", old, {}, 403),
            ("demo", old, {}, 200),
        ):
            web.http.cookie_jar.clear()
            answer = await web.ask("PUT", path, None, basic_auth(user), **params)
            assert answer.status == status, (user, path)
            if status == 403:
                assert answer.message.startswith("Specified user account has insufficient ")
                assert answer.message.endswith(" privileges for experiments in this project.")
        xnat.needs_reason = True
        assert (await web.put(old, note="n")).status == 500
        assert (await web.put(f"{SUBJECTS}/S/experiments/N", **MR)).status == 500
        assert (await web.put(old, note="n", event_reason="why")).status == 200


async def test_scans_are_created_and_changed() -> None:
    """200 without a body either way; the type cannot change."""
    async with raw_client() as web:
        await web.put(E, **MR)
        for path in (f"{E}/scans/1", f"{ID}/scans/1"):
            answer = await web.put(path, type="T1", series_description="mprage", UID="1.2.3.4", **SCAN)
            assert (answer.status, answer.text) == (200, "")
        second_scan = {"xnat:mrScanData/id": "2", "xnat:mrScanData/parameters/tr": "2.5", "req_format": "qs"}
        assert (await web.put(f"{E}/scans/2", **second_scan, **SCAN)).status == 200
        (first, second) = (await web.get(f"{E}/scans", columns="ID,type,quality,xsiType,UID,series_description")).rows
        assert first == {
            "xnat_imagescandata_id": "1",
            "ID": "1",
            "type": "T1",
            "quality": "usable",
            "xsiType": "xnat:mrScanData",
            "UID": "1.2.3.4",
            "series_description": "mprage",
            "URI": f"{ID}/scans/1",
        }
        assert (second["ID"], second["type"], second["xsiType"]) == ("2", "", "xnat:mrScanData")
        assert (await web.put(f"{E}/scans/1", quality="questionable")).status == 200
        (item,) = (await web.get(f"{E}/scans/1", format="json")).json["items"]
        assert (item["meta"]["xsi:type"], item["data_fields"]["quality"]) == ("xnat:mrScanData", "questionable")
        other = await web.put(f"{E}/scans/1", xsiType="xnat:ctScanData")
        assert (other.status, other.message) == (409, "Specified xsiType differs from existing xsiType")
        assert (await web.put(f"{E}/scans/a%20b", **SCAN)).status == 200
        assert "a b" in session(web).scans


@pytest.mark.parametrize(
    ("path", "params", "status", "text"),
    [
        (f"{E}/scans/1", {}, 417, "Need PUT Contents"),
        (f"{E}/scans/1", MR, 400, "Only Scan documents can be PUT to this address. Expected: xnat:imageScanData"),
        (f"{E}/scans/1", {"xsiType": "xnat:imageScanData"}, 400, "Multiple scan modalities can be associated here."),
        ("/data/experiments/NOPE/scans/1", SCAN, 417, "Specified scan must reference a valid image session."),
        (f"{E}/scans/1/nonsense", SCAN, 400, ""),
    ],
)
async def test_scans_that_are_refused(path: str, params: dict[str, str], status: int, text: str) -> None:
    """417 for the session that is missing, as for the type."""
    async with raw_client() as web:
        await web.put(E, **MR)
        answer = await web.put(path, **params)
        assert answer.status == status
        assert answer.message.startswith(text)


async def test_rights_for_scans() -> None:
    """Both texts speak of sessions."""
    xnat = TestXnat()
    add_reader(xnat, "reader")
    add_session(xnat, "S", "E")
    async with raw_client(xnat, user="reader") as web:
        for scan, right in (("1", "edit"), ("2", "create")):
            answer = await web.put(f"{E}/scans/{scan}", **SCAN)
            message = f"Specified user account has insufficient {right} privileges for sessions in this project."
            assert (answer.status, answer.message) == (403, message)


async def test_a_scan_goes_by_its_id_alone() -> None:
    """Neither by its type nor by a list, unlike where its files are listed (ScanResource)."""
    async with raw_client() as web:
        await web.put(E, **MR)
        await web.put(f"{E}/scans/1", type="T1", **SCAN)
        assert (await web.get(f"{E}/scans/1", format="json")).status == 200
        for name in ("T1", "ALL", "1,2"):
            answer = await web.get(f"{E}/scans/{name}", format="json")
            assert (answer.status, answer.message) == (404, "Unable to find the specified scan.")
        await add_file(web.xnat, session(web), "R", "a.txt", b"1", scan="1")
        assert len((await web.get(f"{E}/scans/T1/files")).rows) == 1


async def test_what_has_no_class_of_its_own_is_the_experiment() -> None:
    """Scans without a subject in the address are not listed; assessors, reconstructions and history are not here."""
    async with raw_client() as web:
        await web.put(E, **MR)
        path = "/data/projects/demo/experiments/E"
        (item,) = (await web.get(f"{path}/scans", format="json")).json["items"]
        assert item["data_fields"]["label"] == "E"
        assert (await web.get(f"{path}/status")).text == "active"
        for part in ("history", "assessors", "reconstructions"):
            assert (await web.get(f"{E}/{part}")).status == 501
        assert (await web.put(f"{E}/assessors/A")).status == 501
        for listed in (f"{SUBJECTS}/S/experiments", f"{E}/scans"):
            assert (await web.post(listed, b"<xml/>")).status == 501
        (row,) = (await web.get(f"{E}/projects", format="json")).rows
        assert row == {"label": "E", "ID": "demo", "Secondary_ID": "demo", "Name": "Demo"}


async def test_addresses_that_xnat_does_not_route() -> None:
    """Scans of a project without a subject, sessions of a subject without a project: what comes before them answers."""
    async with raw_client() as web:
        await web.put(E, **MR)
        scan, session_ = "/data/projects/demo/experiments/E/scans/1", "/data/subjects/XNAT_S00001/experiments/E"
        for path, label in ((scan, "E"), (session_, "S")):
            (item,) = (await web.get(f"{path}/files", format="json")).json["items"]
            assert item["data_fields"]["label"] == label
            for end in ("", "/resources/R", "/resources/R/files/a.txt"):
                assert (await web.put(path + end, b"1", inbody="true")).status == 400
                assert (await web.ask("DELETE", path + end)).status == 400


async def test_a_session_is_filled_in_from_its_files(tmp_path: Path) -> None:
    """What clients ask for after they have put DICOM files into the resources of scans."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.put(E, **MR)
        for scan in ("1", "2"):
            await web.put(f"{E}/scans/{scan}", **SCAN)
        await web.put(f"{E}/scans/1/resources/DICOM/files/note.txt", b"no DICOM", inbody="true")
        await web.put(f"{E}/scans/1/resources/DICOM/files/x.dcm", dicom(), inbody="true")
        assert (await web.put(ID, pullDataFromHeaders="true")).text == "XNAT_E00001"
        found = session(web)
        assert (found.study_uid, found.date, found.patient.id) == (STUDY, "2020-01-02", "PID")
        (first, second) = (await web.get(f"{E}/scans", columns="UID,series_description")).rows
        assert (first["UID"], first["series_description"]) == (SERIES, "T1 <fast>")
        assert second["UID"] == ""


async def test_an_imported_session_merges_into_one_that_was_put() -> None:
    """Its scan keeps its number, as the series of that number has another UID."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        await web.put(E, **MR)
        await web.put(f"{E}/scans/1", type="T1", **SCAN)
        assert (await web.archive_session(dicom())).endswith("/experiments/E")
        assert sorted(session(web).scans) == ["1", "1-MR1"]
