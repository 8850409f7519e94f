"""pyxnat on the test XNAT."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from client_site import Site, filled_site, sop_uids, write_folder, write_note
from pydicom import dcmread

from asyncimport.testserver import TestXnat

for needed in ("nibabel", "pandas"):  # pyxnat needs them and does not say so
    pytest.importorskip(needed)
pyxnat: Any = pytest.importorskip("pyxnat")
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]
DEMOGRAPHICS = "xnat:subjectData/demographics[@xsi:type=xnat:demographicData]"


@pytest.fixture
async def site(xnat: TestXnat, url: str) -> Site:
    """Serve a site with data."""
    return await filled_site(xnat, url)


@contextmanager
def connected(site: Site) -> Iterator[Any]:
    """Log in, and out at the end."""
    interface = pyxnat.Interface(server=site.url, user="demo", password="demo")
    try:
        yield interface
    finally:
        interface.disconnect()


async def test_connect_and_list(site: Site) -> None:
    """Projects, subjects, sessions, scans, resources, users, types, and tables of them."""

    def work() -> None:
        with connected(site) as interface:
            assert interface.version()["version"] == site.xnat.profile.version
            assert interface.select.projects().get() == ["demo", "other"]
            project = interface.select.project("demo")
            assert project.exists()
            assert project.subjects().get("label") == ["XNAT_S00001"]
            experiment = project.subject("S").experiment("E")
            assert (experiment.id(), experiment.label()) == ("XNAT_E00001", "E")
            assert experiment.datatype() == "xnat:mrSessionData"
            assert experiment.scans().get() == ["1"]
            assert experiment.scan("1").resources().get("label") == [
                str(site.xnat.archived[0].scans["1"].resources["DICOM"].number)
            ]
            (row,) = interface.array.mrsessions(project_id="demo").data
            assert (row["ID"], row["project"]) == ("XNAT_E00001", "demo")
            assert "xnat:mrSessionData" in interface.inspect.datatypes()
            assert interface.manage.users() == ["admin", "demo"]
            assert project.users() == ["demo"]
            assert project.accessibility() == b"private"
            assert project.prearchive_code() == 0

    await site.run(work)


async def test_subjects_and_demographics(site: Site) -> None:
    """A subject is created, described in one request, shared and deleted."""

    def work() -> None:
        with connected(site) as interface:
            subject = interface.select.project("demo").subject("X")
            subject.create()
            subject.attrs.mset({f"{DEMOGRAPHICS}/gender": "male", f"{DEMOGRAPHICS}/yob": "1950"})
            assert subject.attrs.mget(["gender", "yob"]) == ["male", "1950"]
            subject.share("other")
            assert interface.select.project("other").subjects().get() != []
            subject.delete()
            assert not subject.exists()

    await site.run(work)
    assert [subject.label for subject in site.xnat.subjects()] == ["S"]


async def test_sessions_and_scans(site: Site) -> None:
    """A session is created with its subject, changed and deleted; so is its scan."""

    def work() -> None:
        with connected(site) as interface:
            experiment = interface.select.project("demo").subject("S").experiment("X")
            experiment.create(experiments="xnat:mrSessionData")
            scan = experiment.scan("1")
            scan.create(scans="xnat:mrScanData")
            scan.attrs.set("type", "T2")
            experiment.attrs.mset({"xnat:mrSessionData/date": "2026-01-02", "xnat:mrSessionData/note": "n"})
            session = site.xnat.archived[1]
            assert (session.date, session.fields, session.scans["1"].type) == ("2026-01-02", {"note": "n"}, "T2")
            scan.delete()
            assert session.scans == {}
            experiment.delete()
            assert not experiment.exists()

    await site.run(work)
    assert site.labels == ["E"]


async def test_files(site: Site, tmp_path: Path) -> None:
    """Files are uploaded one by one or as a zip, listed, read and deleted."""
    note = write_note(tmp_path)
    folder = write_folder(tmp_path)

    def work() -> None:
        with connected(site) as interface:
            experiment = interface.select.project("demo").subject("S").experiment("E")
            resource = experiment.resource("NOTES")
            resource.file("note.txt").put(str(note), format="TXT", content="note", tags="t")
            (file,) = list(resource.files())
            assert (file.id(), file.size(), file.format()) == ("note.txt", "6", "TXT")
            back = resource.file("note.txt").get(str(tmp_path / "back.txt"))
            assert Path(back).read_text() == "a note"
            resource.file("note.txt").delete()
            assert resource.files().get() == []
            resource.delete()
            experiment.scan("1").resource("DIR").put_dir(str(folder), overwrite=True, extract=True)
            assert sorted(experiment.scan("1").resource("DIR").files().get()) == ["one.txt", "two.txt"]

    await site.run(work)


async def test_the_prearchive(site: Site) -> None:
    """Sessions are listed, with their scans, rebuilt and deleted; there is no call that archives one."""

    def work() -> None:
        with connected(site) as interface:
            prearchive = interface.manage.prearchive
            (triple,) = prearchive.get()
            assert (triple[0], triple[2], prearchive.status(triple)) == ("demo", "W", "READY")
            assert prearchive.get_scans(triple) == "1"
            prearchive.reset(triple)
            prearchive.delete(prearchive.get_uri(triple))

    await site.run(work)


async def test_archiving_by_a_request_of_its_own(site: Site) -> None:
    """What the client has no method for goes by its raw requests."""

    def work() -> None:
        with connected(site) as interface:
            row = site.xnat.prearchive[0]
            reply = interface.post("/data/services/archive", data={"src": row.uri})
            assert (reply.status_code, reply.text.strip()) == (
                200,
                "/data/archive/projects/demo/subjects/S/experiments/W",
            )

    await site.run(work)
    assert site.labels == ["E", "W"]


async def test_dicom_of_a_scan_comes_back(site: Site, tmp_path: Path) -> None:
    """As the files of a resource."""

    def work() -> None:
        with connected(site) as interface:
            scan = interface.select.project("demo").subject("S").experiment("E").scan("1")
            paths = scan.resource("DICOM").get(str(tmp_path), extract=True)
            assert {dcmread(path).SOPInstanceUID for path in paths} == sop_uids(1, 2)

    await site.run(work)


async def test_projects_are_created_and_deleted(site: Site) -> None:
    """With what they hold."""

    def work() -> None:
        with connected(site) as interface:
            project = interface.select.project("new")
            project.create()
            assert project.exists()
            project.set_prearchive_code("4")
            assert site.xnat.project("new").prearchive_code == 4
            project.delete()

    await site.run(work)
    assert "new" in site.xnat.deleted_projects


async def test_printing_an_object_needs_searches(site: Site) -> None:
    """Its text comes from POST /data/search, which the test XNAT lacks."""

    def work() -> None:
        with connected(site) as interface:
            subject = interface.select.project("demo").subject("S")
            for one in (subject, subject.experiment("E")):
                with pytest.raises(pyxnat.core.errors.DatabaseError, match="501"):
                    repr(one)

    await site.run(work)
