"""Imports of archives (DICOM-zip, SI) and of forms, and what all imports have in common beside the plain body."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import aiohttp
import pytest
from raw_client import IMPORT, RawClient, dicom, raw_client, sop

from asyncimport.testserver import PROFILES, Project, Script, SeriesFilter, TestXnat

pytestmark = pytest.mark.anyio
ZIP = {"import-handler": "DICOM-zip", "content_type": "application/zip"}
SI = {"import-handler": "SI", "content_type": "application/zip"}
TWO = (("a.dcm", dicom(1)), ("b/c.dcm", dicom(2)))


def zipped(*files: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(*files: tuple[str, bytes], mode: str = "w") -> bytes:
    """Return a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def streamed(data: bytes, *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip file of one entry whose size and CRC follow its data."""

    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    buffer = Unseekable()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("f.dcm", data)
    return buffer.getvalue()


def uids(xnat: TestXnat) -> set[str]:
    """Return the SOPInstanceUIDs of all files in the prearchive."""
    return {file.sop_uid for row in xnat.prearchive for file in row.files}


class TestZip:
    """DicomZipImporter."""

    async def test_each_file_is_imported_and_each_session_named_once(self) -> None:
        """The reply has the distinct URIs; rows receive until somebody builds them."""
        # Two studies of one label and millisecond collide.
        other = "d", dicom(3, StudyInstanceUID="9", PatientID="other")
        async with raw_client() as web:
            answer = await web.send(zipped(*TWO, other), **ZIP, EXPT_LABEL="")
            lines = answer.text.split("\r\n")
            assert (answer.status, answer.type, len(lines), lines[-1]) == (200, "text/uri-list", 3, "")
            assert {f"/data{row.uri}" for row in web.xnat.prearchive} == set(lines[:-1])
            assert {row.status.value for row in web.xnat.prearchive} == {"RECEIVING"}
            assert uids(web.xnat) == {sop(1), sop(2), sop(3)}

    async def test_short_names_come_before_the_long_ones(self) -> None:
        """`project`, `subject` and `session`."""
        async with raw_client() as web:
            web.xnat.add_project(Project("other"))
            await web.send(zipped(*TWO), **ZIP, project="other", subject="T", session="F")
            (row,) = web.xnat.prearchive
            assert (row.project, row.subject, row.name) == ("other", "T", "F")

    @pytest.mark.parametrize(
        ("body", "content_type", "name"),
        [
            (tarred(*TWO), "application/x-tar", ""),
            (tarred(*TWO, mode="w:gz"), "application/octet-stream", "x.tar.gz"),
            (zipped(*TWO), "application/octet-stream", "x.zip"),
            (zipped(("inner.zip", zipped(*TWO))), "application/zip", ""),
            (zipped(("inner.tgz", tarred(*TWO, mode="w:gz"))), "application/zip", ""),
        ],
    )
    async def test_the_name_tells_the_format(self, body: bytes, content_type: str, name: str) -> None:
        """Of the body's own name, which comes from its type unless the address has one, and of archives in it."""
        async with raw_client() as web:
            path = f"/data/services/import/{name}".rstrip("/")
            query = {**IMPORT, "import-handler": "DICOM-zip"}
            answer = await web.ask("POST", path, body, {"Content-Type": content_type}, **query)
            assert (answer.status, uids(web.xnat)) == (200, {sop(1), sop(2)}), answer.text

    async def test_before_1_8_3_every_archive_is_a_zip_file(self) -> None:
        """A tar file then has no entries."""
        async with raw_client(TestXnat(profile=PROFILES["1.7"])) as web:
            answer = await web.send(tarred(*TWO), **{**ZIP, "content_type": "application/x-tar"})
            assert (answer.status, answer.text, uids(web.xnat)) == (200, "", set())

    @pytest.mark.parametrize("content_type", ["application/gzip", "application/x-gzip"])
    async def test_a_single_packed_file_is_refused(self, content_type: str) -> None:
        """As an archive, and as an entry of one."""
        async with raw_client() as web:
            outer = await web.send(b"\x1f\x8b", **{**ZIP, "content_type": content_type})
            inner = await web.send(zipped(("f.gz", b"\x1f\x8b")), **ZIP)
            assert [(one.status, one.message) for one in (outer, inner)] == [(400, "Unsupported format GZ")] * 2

    @pytest.mark.parametrize("body", [zipped(), b"no zip file at all", zipped(*TWO)[1:]])
    async def test_no_entries_are_an_empty_200(self, body: bytes) -> None:
        """Nothing is stored, and no error is told."""
        async with raw_client() as web:
            answer = await web.send(body, **ZIP)
            assert (answer.status, answer.text, web.xnat.prearchive) == (200, "", [])

    @pytest.mark.parametrize("streams", [True, False])
    async def test_a_wrong_byte_is_found(self, streams: bool) -> None:
        """By its CRC, or by the packed data."""
        body = streamed(dicom()) if streams else zipped(("f.dcm", dicom()), compression=zipfile.ZIP_STORED)
        async with raw_client() as web:
            assert (await web.send(body, **ZIP)).status == 200
            refused = await web.send(body[:100] + bytes([body[100] ^ 1]) + body[101:], **ZIP)
            cut = await web.send(body[: len(body) // 3], **ZIP)
            assert (refused.status, cut.status) == (400, 400)

    async def test_the_central_directory_is_not_read(self) -> None:
        """What ends before it is whole; an entry that is stored before its size is known is not taken."""
        body = zipped(*TWO)
        async with raw_client() as web:
            assert (await web.send(body[: body.index(b"PK\x01\x02")], **ZIP)).status == 200
            assert uids(web.xnat) == {sop(1), sop(2)}
            answer = await web.send(streamed(dicom(), compression=zipfile.ZIP_STORED), **ZIP)
            assert (answer.status, answer.message) == (400, "only DEFLATED entries can have EXT descriptor")

    async def test_an_encrypted_entry_is_refused(self) -> None:
        """By its flag."""
        body = bytearray(zipped(*TWO))
        struct.pack_into("<H", body, 6, 1)
        async with raw_client() as web:
            assert (await web.send(bytes(body), **ZIP)).status == 400

    async def test_a_bad_file_ends_the_import_and_what_came_before_stays(self) -> None:
        """With Ignore-Unparsable it is passed over, unless all are bad."""
        body = zipped(("1", dicom(1)), ("2", b"no DICOM"), ("3", dicom(3)))
        async with raw_client() as web:
            answer = await web.send(body, **ZIP)
            assert (answer.status, answer.message) == (400, "unable to read DICOM object 2")
            assert uids(web.xnat) == {sop(1)}
            assert (await web.send(body, **ZIP, **{"Ignore-Unparsable": "true"})).status == 200
            assert uids(web.xnat) == {sop(1), sop(3)}
            bad = await web.send(zipped(("2", b"no DICOM")), **ZIP, **{"Ignore-Unparsable": "true"})
            assert bad.status == 400

    async def test_what_is_dropped_is_an_empty_200(self) -> None:
        """By a filter, or by the site's script."""
        for site in (
            TestXnat(series_filter=SeriesFilter(("T1.*",))),
            TestXnat(anonymise=Script(reject=lambda _: True)),
        ):
            async with raw_client(site) as web:
                answer = await web.send(zipped(("f.dcm", dicom())), **ZIP)
                assert (answer.status, answer.text) == (200, "")

    @pytest.mark.parametrize(
        "params", [{"action": "commit"}, {"dest": "/prearchive/projects/demo"}, {"dest": "/prearchive"}]
    )
    async def test_a_commit_builds(self, params: dict[str, str]) -> None:
        """A `dest` means a commit; a project that archives by itself archives."""
        async with raw_client() as web:
            answer = await web.send(zipped(*TWO, ("x", b"no DICOM")), **ZIP, **params)
            (row,) = web.xnat.prearchive
            assert (answer.text, row.status.value) == (f"/data{row.uri}\r\n", "READY")
            web.xnat.project("demo").prearchive_code = 4
            answer = await web.send(zipped(*TWO), **ZIP, **params, EXPT_LABEL="F")
            assert answer.text == "/data/archive/projects/demo/subjects/S/experiments/F\r\n"

    async def test_a_destination_in_the_archive_archives(self) -> None:
        """It names project, subject and session; without `overwrite` nothing is merged."""
        dest = "/archive/projects/other/subjects/T/experiments/G"
        async with raw_client() as web:
            web.xnat.add_project(Project("other"))
            answer = await web.send(zipped(TWO[0]), **ZIP, dest=dest)
            assert answer.text == f"/data{dest}\r\n"
            again = await web.send(zipped(TWO[1]), **ZIP, dest=dest)
            assert "Session already exists, retry with overwrite enabled" in again.message
            assert web.xnat.sop_uids() == {sop(1)}
            merged = await web.send(zipped(TWO[1]), **ZIP, dest=dest, overwrite="append")
            assert (merged.status, web.xnat.sop_uids()) == (200, {sop(1), sop(2)}), merged.text
            elsewhere = await web.send(zipped(*TWO), **ZIP, dest="/archive", project="other", EXPT_LABEL="H")
            assert elsewhere.text == "/data/archive/projects/other/subjects/S/experiments/H\r\n"
            web.xnat.project("other").editors = ["boss"]
            assert (await web.send(zipped(*TWO), **ZIP, dest=dest)).status == 403


class TestSession:
    """SessionImporter."""

    async def test_an_archive_is_one_session(self) -> None:
        """Built, in a folder of its own for each request; other files are passed over."""
        async with raw_client() as web:
            body = zipped(*TWO, ("README", b"no DICOM"))
            replies = [await web.send(body, **SI) for _ in range(2)]
            assert {f"/data{row.uri}\r\n" for row in web.xnat.prearchive} == {one.text for one in replies}
            assert [(row.status.value, row.source) for row in web.xnat.prearchive] == [("READY", "SessionImporter")] * 2
            tar = await web.send(tarred(*TWO), **{**SI, "content_type": "application/x-tar"}, session="F")
            assert (tar.status, len(web.xnat.prearchive)) == (200, 3)

    async def test_several_studies_are_refused(self) -> None:
        """And so is an archive without DICOM."""
        async with raw_client() as web:
            several = await web.send(zipped(TWO[0], ("x", dicom(2, StudyInstanceUID="9"))), **SI)
            assert (several.status, several.message) == (400, "Upload included files for multiple imaging sessions.")
            none = await web.send(zipped(("x", b"no DICOM")), **SI)
            assert (none.status, none.message) == (
                400,
                "Upload did not include parsable files for session generation.",
            )
            assert not web.xnat.prearchive

    async def test_a_destination_names_the_row_or_the_archive(self) -> None:
        """A locked row is a 409."""
        async with raw_client() as web:
            uri = (await web.send(zipped(TWO[0]), **SI)).text.strip()
            more = await web.send(zipped(TWO[1]), **SI, dest=uri)
            assert (more.text.strip(), uids(web.xnat)) == (uri, {sop(1), sop(2)})
            web.xnat.leave(web.xnat.prearchive[0], type(web.xnat.prearchive[0].status).LOCKED_BUILDING)
            locked = await web.send(zipped(*TWO), **SI, dest=uri)
            assert (locked.status, locked.message) == (409, "Prearc destination is locked.")
            archived = await web.send(zipped(*TWO), **SI, dest="/archive/projects/demo/subjects/T/experiments/H")
            assert archived.text.strip() == "/data/archive/projects/demo/subjects/T/experiments/H"


async def form(web: RawClient, *files: tuple[str, bytes], **fields: str) -> tuple[int, str]:
    """Import with a multipart form."""
    data = aiohttp.FormData(fields)
    for name, content in files:
        data.add_field("file", io.BytesIO(content), filename=name, content_type="application/octet-stream")
    reply = await web.ask("POST", "/data/services/import", data)
    return reply.status, reply.text


async def test_import_05_a_form_has_one_file_and_its_fields_are_parameters() -> None:
    """The part keeps its name; several files, none, and a reference are refused."""
    fields = {name: value for name, value in IMPORT.items() if name not in {"inbody", "import-handler"}}
    async with raw_client() as web:
        query = "/data/services/import?import-handler="
        data = aiohttp.FormData(fields)
        data.add_field("f", io.BytesIO(dicom()), filename="mine.dcm")
        one = await web.ask("POST", f"{query}gradual-DICOM", data)
        assert (one.status, uids(web.xnat)) == (200, {sop(1)})
        data = aiohttp.FormData(fields)
        data.add_field("f", io.BytesIO(zipped(*TWO)), filename="mine.zip")
        assert (await web.ask("POST", f"{query}DICOM-zip", data)).status == 200
        assert uids(web.xnat) == {sop(1), sop(2)}
        several = await form(web, ("a", dicom()), ("b", dicom()), **fields)
        assert (several[0], "Importer is limited to one uploaded resource at a time." in several[1]) == (400, True)
        assert (await form(web, **fields))[0] == 400
        assert (await form(web, ("a", dicom()), reference="/etc/passwd", **fields))[0] == 400


async def test_import_08_a_bad_destination_is_refused() -> None:
    """A good one gives gradual-DICOM the project, if PROJECT_ID does not."""
    async with raw_client() as web:
        answer = await web.send(dicom(), dest="/nowhere")
        assert (answer.status, answer.message) == (400, "Invalid destination URI (/nowhere)")
        for dest in ("/prearchive/projects/demo", "/data/archive/projects/demo/subjects/X"):
            answer = await web.send(dicom(), PROJECT_ID="", dest=dest)
            assert answer.text.startswith("/data/prearchive/projects/demo/")
        assert web.xnat.prearchive[0].subject == "S"


async def test_replies_in_other_formats() -> None:
    """`txt` has no line end; `html` is a page, with 200 for errors too."""
    async with raw_client() as web:
        plain = await web.send(dicom(), format="txt")
        assert (plain.type, plain.text) == ("text/plain", f"/data{web.xnat.prearchive[0].uri}")
        page = await web.send(dicom(), format="html")
        assert (page.status, page.type, plain.text in page.text) == (200, "text/html", True)
        error = await web.send(b"no DICOM", format="html")
        assert (error.status, "unable to read DICOM object" in error.text) == (200, True)


async def test_a_prearchive_code_has_xnats_own_mistakes() -> None:
    """`1` refuses every `overwrite`, and fails without a `project`."""
    async with raw_client() as web:
        refused = await web.send(dicom(), prearchive_code="1", overwrite="append")
        assert refused.message == "Overwrite flag was not set to a valid option. ('append' or 'delete')"
        assert (await web.send(dicom(), prearchive_code="1")).status == 500
        assert (await web.send(dicom(), prearchive_code="1", project="demo")).status == 200


async def test_large_archives_are_read_from_the_disk(tmp_path: Path) -> None:
    """More than stays in memory; where bytes are not kept, that is said."""
    body = zipped(*[(str(number), dicom(number, PixelData=bytes(4 << 20))) for number in range(3)], compression=0)
    async with raw_client(TestXnat(tmp_path)) as web:
        assert (await web.send(body, **ZIP)).status == 200
        assert uids(web.xnat) == {sop(0), sop(1), sop(2)}
        assert not list((tmp_path / "spool").iterdir())
    async with raw_client() as web:
        assert (await web.send(body, **ZIP)).status == 501


async def test_a_file_that_the_user_has_put_into_the_cache_is_imported() -> None:
    """By its address there; one that is none is a 400, one that is not there a 404."""
    async with raw_client() as web:
        path = "/user/cache/resources/X/files/visit.zip"
        assert (await web.put(f"/data{path}", io.BytesIO(zipped(*TWO)), inbody="true")).status == 200
        query = {name: value for name, value in IMPORT.items() if name != "inbody"} | {"import-handler": "DICOM-zip"}
        answer = await web.ask("POST", "/data/services/import", None, None, **query, src=path)
        assert (answer.status, uids(web.xnat)) == (200, {sop(1), sop(2)}), answer.text
        for source, status, message in (
            ("/nowhere", 400, "src uri is invalid."),
            (f"{path}x", 404, "Unknown src file."),
        ):
            answer = await web.ask("POST", "/data/services/import", None, None, **query, src=source)
            assert (answer.status, answer.message) == (status, message)
