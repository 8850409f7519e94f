"""xnatpy (the package xnat) on the test XNAT."""

import importlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from client_site import Site, filled_site, packed, sop_uids, write_folder, write_note, write_visit
from pydicom import dcmread

from asyncimport.testserver import TestXnat

pytest.importorskip("xnat.session")  # without the client, `xnat` is a folder of these tests
xnatpy: Any = importlib.import_module("xnat")
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]
METHODS = ("per_file", "tar_memory", "tgz_memory", "tar_file", "tgz_file")


@pytest.fixture
async def site(xnat: TestXnat, url: str) -> Site:
    """Serve a site with data."""
    return await filled_site(xnat, url)


@contextmanager
def connected(site: Site, user: str = "demo") -> Iterator[Any]:
    """Connect, build the model from the schema, and log out at the end."""
    with xnatpy.connect(site.url, user=user, password=user, loglevel="ERROR", cli=True) as session:
        yield session


async def test_connect_and_list(site: Site) -> None:
    """Projects, subjects, sessions, scans, resources and users."""

    def work() -> None:
        with connected(site) as session:
            assert session.xnat_version == site.xnat.profile.version
            assert [project.id for project in session.projects.values()] == ["demo", "other"]
            project = session.projects["demo"]
            assert [subject.label for subject in project.subjects.values()] == ["S"]
            experiment = project.experiments["E"]
            assert type(experiment).__name__ == "MrSessionData"
            assert (experiment.subject.label, experiment.date) == ("S", date(2020, 1, 2))
            (scan,) = experiment.scans.values()
            assert (scan.id, scan.type, scan.uid) == ("1", "T1", "1.2.3.1")
            files = scan.resources["DICOM"].files.values()
            assert {len(file.digest) for file in files} == {32}
            assert "demo" in session.users

    await site.run(work)


async def test_subjects_and_demographics(site: Site) -> None:
    """A subject is created, described, renamed, shared and deleted."""

    def work() -> None:
        with connected(site) as session:
            project = session.projects["demo"]
            subject = session.classes.SubjectData(parent=project, label="X")
            subject.demographics.gender = "female"
            subject.demographics.yob = 1970
            subject.fields["site"] = "A"
            subject.label = "Y"
            subject.share("other")
            assert [one.label for one in session.projects["other"].subjects.values()] == ["Y"]
            found = site.xnat.subject("demo", "Y")
            assert found is not None
            assert (found.demographics, found.custom) == ({"gender": "female", "yob": 1970}, {"site": "A"})
            subject.delete()

    await site.run(work)
    assert [subject.label for subject in site.xnat.subjects()] == ["S"]


async def test_sessions_and_scans(site: Site) -> None:
    """A session and its scan are created, changed and deleted, with their files."""

    def work() -> None:
        with connected(site) as session:
            subject = session.projects["demo"].subjects["S"]
            experiment = session.classes.MrSessionData(parent=subject, label="X")
            experiment.note = "first"
            experiment.date = date(2026, 1, 2)
            scan = session.classes.MrScanData(parent=experiment, id="1", type="1")
            scan.quality = "questionable"
            scan.type = "T2"
            assert site.labels == ["E", "X"]
            archived = site.xnat.archived[1]
            assert (archived.fields, archived.date) == ({"note": "first"}, "2026-01-02")
            assert archived.scans["1"].fields == {"type": "T2", "quality": "questionable"}
            experiment.label = "Z"
            assert site.labels == ["E", "Z"]
        with connected(site) as session:  # it cannot delete what it has created in the same connection
            experiment = session.projects["demo"].experiments["Z"]
            experiment.scans["1"].delete()
            assert archived.scans == {}
            experiment.delete()

    await site.run(work)
    assert site.labels == ["E"]


async def test_a_scan_that_is_named_by_its_type(site: Site) -> None:
    """XNAT creates the scan under its ID, and has none at the address that the client then asks for (ScanResource)."""

    def work() -> None:
        with connected(site) as session:
            experiment = session.projects["demo"].experiments["E"]
            scan = session.classes.MrScanData(parent=experiment, id="7", type="T2")
            with pytest.raises(xnatpy.exceptions.XNATResponseError, match="404"):
                assert scan.quality

    await site.run(work)
    assert list(site.xnat.archived[0].scans) == ["1", "7"]


async def test_files(site: Site, tmp_path: Path) -> None:
    """Files are uploaded one by one or packed, listed with digests, read and deleted."""
    note = write_note(tmp_path)
    folder = write_folder(tmp_path)

    def work() -> None:
        with connected(site) as session:
            experiment = session.projects["demo"].experiments["E"]
            resource = experiment.create_resource("NOTES")
            resource.upload(str(note), "note.txt")
            (file,) = resource.files.values()
            assert (file.id, file.size, len(file.digest)) == ("note.txt", "6", 32)
            assert file.open().read() == b"a note"
            file.delete()
            for method in METHODS:
                scan_resource = experiment.scans["1"].create_resource(method.upper())
                scan_resource.upload_dir(str(folder), method=method)
                assert sorted(file.id for file in scan_resource.files.values()) == ["inner/two.txt", "one.txt"], method
            resource.delete()
            assert "NOTES" not in site.xnat.archived[0].own_resources

    await site.run(work)


async def test_the_prearchive(site: Site) -> None:
    """Sessions are listed, rebuilt, moved, archived and deleted."""

    def work() -> None:
        with connected(site) as session:
            (waiting,) = session.prearchive.sessions()
            assert (waiting.project, waiting.subject, waiting.name, waiting.status) == ("demo", "S", "W", "READY")
            (scan,) = waiting.scans.values()
            assert (scan.id, len(scan.files)) == ("1", 1)
            waiting.rebuild(asynchronous=False)
            archived = waiting.archive()
            assert (archived.label, type(archived).__name__) == ("W", "MrSessionData")
            assert session.prearchive.sessions() == []

    await site.run(work)
    assert site.labels == ["E", "W"]


async def test_dicom_of_a_scan_comes_back(site: Site, tmp_path: Path) -> None:
    """As a zip file of the whole session, and of one scan; its header also as a table."""

    def work() -> None:
        with connected(site) as session:
            experiment = session.projects["demo"].experiments["E"]
            for what, name in ((experiment, "session.zip"), (experiment.scans["1"], "scan.zip")):
                what.download(str(tmp_path / name), verbose=False)
                with zipfile.ZipFile(tmp_path / name) as archive:
                    images = [dcmread(BytesIO(archive.read(one))) for one in archive.namelist()]
                assert {image.SOPInstanceUID for image in images} == sop_uids(1, 2)
            (row,) = session.services.dicom_dump(
                "/archive/projects/demo/subjects/S/experiments/E", fields=["StudyInstanceUID"]
            )
            assert row["value"] == "1.2.3"

    await site.run(work)


async def test_a_session_is_deleted(site: Site) -> None:
    """With its files, as the client asks for it."""

    def work() -> None:
        with connected(site) as session:
            session.projects["demo"].experiments["E"].delete()

    await site.run(work)
    assert site.labels == []
    assert site.xnat.orphans == {}


async def test_catalogs_and_tokens(site: Site) -> None:
    """A catalog is refreshed; a token logs in."""

    def work() -> None:
        with connected(site) as session:
            session.services.refresh_catalog("/archive/experiments/XNAT_E00001", checksum=True, populate_stats=True)
            token = session.services.issue_token()
        with xnatpy.connect(site.url, user=token.alias, password=token.secret, no_parse_model=True) as session:
            assert session.logged_in_user == "demo"

    await site.run(work)


NAMES = {"project": "demo", "subject": "S", "experiment": "V"}


@pytest.mark.parametrize("form", ["zip", "gztar", "tar"])
async def test_an_archive_is_imported(site: Site, tmp_path: Path, form: str) -> None:
    """Into the prearchive, from where it is archived. The client calls a compressed tar a tar: 400."""
    path = packed(write_visit(tmp_path), form)

    def work() -> None:
        with connected(site) as session:
            if form == "gztar":
                with pytest.raises(xnatpy.exceptions.XNATUploadError, match="400"):
                    session.services.import_(path, destination="/prearchive", **NAMES)
                return
            waiting = session.services.import_(path, destination="/prearchive", **NAMES)
            assert (waiting.project, waiting.subject, waiting.label) == ("demo", "S", "V")
            waiting.archive()

    await site.run(work)
    assert site.labels == (["E"] if form == "gztar" else ["E", "V"])


async def test_a_folder_is_imported(site: Site, tmp_path: Path) -> None:
    """As a zip file straight into the archive."""
    folder = write_visit(tmp_path)

    def work() -> None:
        with connected(site) as session:
            archived = session.services.import_dir(str(folder), destination="/archive/projects/demo", **NAMES)
            assert archived.label == "V"

    await site.run(work)
    assert site.labels == ["E", "V"]


async def test_single_files_are_imported(site: Site, tmp_path: Path) -> None:
    """The importer for single files does not know `project` (GradualDicomImporter): the session stays unassigned."""
    folder = write_visit(tmp_path)

    def work() -> None:
        with connected(site) as session:
            for path in sorted(folder.iterdir()):
                session.services.import_(
                    path, import_handler="gradual-DICOM", content_type="application/dicom", **NAMES
                )

    await site.run(work)
    assert {(row.project, row.name) for row in site.xnat.prearchive} == {(None, "S"), ("demo", "W")}
