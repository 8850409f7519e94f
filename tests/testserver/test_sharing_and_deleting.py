"""Sharing of subjects and sessions into other projects, and DELETE of sessions, scans, subjects and projects."""

from pathlib import Path

import pytest
from raw_client import RawClient, Reply, dicom, files_below, raw_client

from asyncimport.testserver import (
    ArchivedSession,
    Project,
    RowStatus,
    Subject,
    TestXnat,
    add_file,
    add_reader,
    add_session,
)

pytestmark = pytest.mark.anyio
S = "/data/projects/demo/subjects/S"
E = f"{S}/experiments/E"
INTO_OTHER = "/projects/other"


def site() -> TestXnat:
    """Make a site of two projects, with one session in the first."""
    xnat = TestXnat()
    xnat.add_project(Project("other", "Other"))
    add_session(xnat, "S", "E")
    return xnat


def only_session(web: RawClient) -> ArchivedSession:
    """Return the one session."""
    (found,) = web.xnat.archived
    return found


def only_subject(web: RawClient) -> Subject:
    """Return the one subject."""
    (found,) = web.xnat.subjects()
    return found


async def delete(web: RawClient, path: str, **params: str) -> Reply:
    """DELETE."""
    return await web.ask("DELETE", path, **params)


@pytest.mark.parametrize("path", [S, "/data/subjects/XNAT_S00001", E, "/data/experiments/XNAT_E00001"])
async def test_archive_19_an_item_is_shared_and_unshared(path: str) -> None:
    """The reply lists its projects, its own first; a label counts in the other project only."""
    async with raw_client(site()) as web:
        shared = await web.put(path + INTO_OTHER, label="there", format="json")
        assert shared.status == 200
        label = "E" if "experiments" in path else "S"
        assert shared.rows == [
            {"label": label, "ID": "demo", "Secondary_ID": "demo", "Name": "Demo"},
            {"label": "there", "ID": "other", "Secondary_ID": "other", "Name": "Other"},
        ]
        assert (await web.get(f"{path}/projects", format="json")).rows == shared.rows
        kind = "experiments" if "experiments" in path else "subjects"
        (row,) = (await web.get(f"/data/projects/other/{kind}", columns="label,project")).rows
        assert (row["label"], row["project"]) == ("there", "demo")
        again = await web.put(path + INTO_OTHER)
        assert (again.status, again.message) == (409, "Already assigned to project:other")
        assert (await delete(web, f"/data/projects/other/{kind}/there{INTO_OTHER}")).status == 200
        assert (await web.get(f"/data/projects/other/{kind}")).rows == []
        assert len((await web.get(f"{path}/projects", format="json")).rows) == 1


async def test_what_cannot_be_shared() -> None:
    """Unknown targets 404, no right there 403, a label that is taken 409, an unknown item 403 or 417."""
    async with raw_client(site()) as web:
        add_session(web.xnat, "T", "F", "other")
        web.xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
        for path, kind in ((S, "subjects"), (E, "experiments")):
            unknown = await web.put(f"{path}/projects/nope")
            assert (unknown.status, unknown.message) == (404, "Unable to identify project: nope")
            seen = await web.put(f"{path}/projects/seen")
            message = f"Specified user account has insufficient create privileges for {kind} in the seen project."
            assert (seen.status, seen.message) == (403, message)
            taken = await web.put(path + INTO_OTHER, label="T" if kind == "subjects" else "F")
            assert taken.status == 409
            assert taken.message.startswith("Label already in use:")
        assert (await web.put(f"{E}/projects/demo")).message == "Already assigned to project:demo"
        assert (await web.put(f"/data/projects/demo/subjects/nope{INTO_OTHER}")).status == 403
        assert (await web.put(f"{S}/experiments/nope{INTO_OTHER}")).status == 417


async def test_a_new_label_for_a_shared_item() -> None:
    """It is set; for a subject the reply says so, for a session it is a 409 all the same."""
    async with raw_client(site()) as web:
        for path in (S, E):
            await web.put(path + INTO_OTHER, label="one")
        assert (await web.put(S + INTO_OTHER, label="two")).status == 200
        assert (await web.put(E + INTO_OTHER, label="two")).status == 409
        assert only_subject(web).shares == only_session(web).shares == {"other": "two"}
        assert web.xnat.experiment_labelled("other", "one") is None


async def test_primary_moves_an_item_with_its_files(tmp_path: Path) -> None:
    """Subject and session move each for itself; the right to delete is needed."""
    xnat = TestXnat(tmp_path)
    xnat.add_project(Project("other"))
    add_reader(xnat, "reader")
    async with raw_client(xnat) as web:
        await web.archive_session(dicom())
        await add_file(xnat, only_subject(web), "R", "a.txt", b"1")
        assert (await web.put(E + INTO_OTHER, label="there")).status == 200
        moved = await web.put(E + INTO_OTHER, label="there", primary="true")
        assert (moved.status, moved.text) == (200, "")
        session = only_session(web)
        assert (session.project, session.label, session.shares) == ("other", "there", {})
        assert (await web.put(S + INTO_OTHER, primary="true")).status == 200
        assert (only_subject(web).project, only_subject(web).label) == ("other", "S")
        assert {parts[1] for parts in await files_below(tmp_path)} == {"other"}
        for path in ("experiments/there/scans/1", "experiments/there", "S"):
            where = path if path != "S" else "."
            assert (await web.get(f"/data/projects/other/subjects/S/{where}/files")).status == 200
        (row,) = (await web.get("/data/experiments/XNAT_E00001/scans/1/files")).rows
        assert (await web.ask("HEAD", row["URI"])).status == 200
        same = await web.put(f"/data/experiments/XNAT_E00001{INTO_OTHER}", primary="true")
        assert (same.status, same.message) == (409, "Already assigned to project: other")
        xnat.project("other").deleters = []
        for path in ("/data/experiments/XNAT_E00001", "/data/subjects/XNAT_S00001"):
            assert (await web.put(f"{path}/projects/demo", primary="true")).status == 403


@pytest.mark.parametrize("path", [E, "/data/projects/demo/experiments/E", "/data/experiments/XNAT_E00001"])
async def test_a_session_is_deleted(tmp_path: Path, path: str) -> None:
    """With removeFiles its files go too; after that it can be sent again."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.archive_session(dicom())
        assert (await delete(web, path, removeFiles="true")).status == 200
        assert web.xnat.archived == []
        assert await files_below(tmp_path) == {}
        again = await delete(web, path)
        assert (again.status, again.message) == (404, "Unable to find the specified experiment.")
        assert (await web.archive_session(dicom())).endswith("/experiments/E")


async def test_files_of_a_deleted_session_stay_in_the_way(tmp_path: Path) -> None:
    """Without removeFiles they stay on the disk, and a session with the same files is a conflict."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.archive_session(dicom())
        assert (await delete(web, E)).status == 200
        assert len(await files_below(tmp_path)) == 1
        uri = await web.build_session()
        assert "Session already exists with matching files." in (await web.archive(uri)).message
        assert await web.row_status(uri) == RowStatus.CONFLICT


async def test_rights_and_reasons_for_deleting() -> None:
    """403, with a text for each kind; without a reason where one is needed, 403 too, and 500 for scans and projects."""
    xnat = site()
    xnat.project("demo").deleters = []
    async with raw_client(xnat) as web:
        expected = {
            E: "User cannot delete experiments for project demo",
            S: "User cannot delete subjects for project demo",
            f"{E}/scans/1": "User account doesn't have permission to modify this session.",
            "/data/projects/demo": "The server understood the request, but is refusing to fulfill it",
        }
        for path, message in expected.items():
            answer = await delete(web, path)
            assert (answer.status, answer.message) == (403, message)
        xnat.project("demo").deleters = None
        xnat.needs_reason = True
        statuses = [(await delete(web, path)).status for path in expected]
        assert statuses == [403, 403, 500, 500]
        assert (await delete(web, E, event_reason="why")).status == 200


async def test_deleting_elsewhere() -> None:
    """In a project without the session nothing happens; a subject must be there; other addresses are refused."""
    async with raw_client(site()) as web:
        assert (await delete(web, f"/data/experiments/XNAT_E00001{INTO_OTHER}")).status == 200
        subject = await delete(web, f"/data/subjects/XNAT_S00001{INTO_OTHER}")
        assert (subject.status, subject.message) == (403, "Subject is not assigned to specified project other")
        unknown = await delete(web, f"{E}/projects/nope")
        assert (unknown.status, unknown.message) == (404, "Unable to identify project: nope")
        assert (await delete(web, f"{E}/nonsense")).status == 400
        assert (await delete(web, "/data/projects/demo/subjects/nope")).status == 404
        assert len(web.xnat.archived) == 1


async def test_a_scan_is_deleted(tmp_path: Path) -> None:
    """With removeFiles its files go too."""
    async with raw_client(TestXnat(tmp_path)) as web:
        await web.archive_session(dicom(1), dicom(2, SeriesInstanceUID="7", SeriesNumber=2))
        assert (await delete(web, f"{E}/scans/2", removeFiles="true")).status == 200
        assert list(only_session(web).scans) == ["1"]
        assert len(await files_below(tmp_path)) == 1
        gone = await delete(web, f"{E}/scans/2")
        assert (gone.status, gone.message) == (404, "Unable to find the specified scan.")


async def test_a_subject_is_deleted_with_its_sessions(tmp_path: Path) -> None:
    """Where it is shared, only the sharing ends, and that of its sessions."""
    xnat = TestXnat(tmp_path)
    xnat.add_project(Project("other"))
    async with raw_client(xnat) as web:
        await web.archive_session(dicom())
        await add_file(xnat, only_subject(web), "R", "a.txt", b"1")
        for path in (S, E):
            await web.put(path + INTO_OTHER)
        assert (await delete(web, "/data/projects/other/subjects/S")).status == 200
        assert only_subject(web).shares == only_session(web).shares == {}
        assert (await delete(web, S, removeFiles="true")).status == 200
        assert (xnat.subjects(), xnat.archived, await files_below(tmp_path)) == ([], [], {})


async def test_archive_14_a_deleted_project_takes_its_id_with_it(tmp_path: Path) -> None:
    """Its subjects, sessions and prearchive go; the ID cannot be used again, nor deleted again (400)."""
    xnat = TestXnat(tmp_path)
    xnat.add_project(Project("other"))
    async with raw_client(xnat) as web:
        await web.archive_session(dicom())
        await web.import_session(dicom(2, StudyInstanceUID="9"), EXPT_LABEL="waiting")
        await web.put(E + INTO_OTHER)
        assert (await delete(web, "/data/projects/demo", removeFiles="true")).status == 200
        assert (xnat.subjects(), xnat.archived, xnat.prearchive, await files_below(tmp_path)) == ([], [], [], {})
        assert (await delete(web, "/data/projects/demo")).status == 400
        again = await web.put("/data/projects/demo")
        message = "Project 'demo' was used in a previously deleted project and cannot be reused."
        assert (again.status, again.message) == (403, message)


async def test_a_project_stays_as_long_as_others_need_its_subjects() -> None:
    """The reply is a 200 all the same."""
    async with raw_client(site()) as web:
        session = add_session(web.xnat, "S", "F")
        await web.put(f"/data/experiments/{session.id}{INTO_OTHER}", primary="true")
        assert (await delete(web, "/data/projects/demo")).status == 200
        assert [one.label for one in web.xnat.archived] == ["F"]
        assert only_subject(web).label == "S"
        assert (await web.get("/data/projects/demo", format="json")).status == 200
