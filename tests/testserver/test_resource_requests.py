"""Resources and their files: uploads, catalogs, races, refreshes."""

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from patience import in_time
from raw_client import RawClient, Reply, dicom, files_below, raw_client

from asyncimport.testserver import (
    PROFILES,
    DiskFull,
    Fault,
    Late,
    Project,
    Reset,
    Resource,
    Status,
    TestXnat,
    Timing,
    add_file,
    add_reader,
    add_session,
    file_bytes,
)

pytestmark = pytest.mark.anyio
FORBIDDEN = "User account doesn't have permission to modify this session."
E = "/data/experiments/XNAT_E00001"
R = f"{E}/resources/R"
DATA = b"some bytes"
PARENTS = [
    ("/data/projects/demo", "/projects/demo"),
    ("/data/projects/demo/subjects/S", "/projects/demo/subjects/XNAT_S00001"),
    ("/data/subjects/XNAT_S00001", "/subjects/XNAT_S00001"),
    (E, "/experiments/XNAT_E00001"),
    ("/data/archive/projects/demo/experiments/E", "/experiments/XNAT_E00001"),
    (
        "/data/projects/demo/subjects/S/experiments/E",
        "/projects/demo/subjects/XNAT_S00001/experiments/XNAT_E00001",
    ),
    (f"{E}/scans/1", "/experiments/XNAT_E00001/scans/1"),
    (
        "/data/projects/demo/subjects/S/experiments/E/scans/1",
        "/projects/demo/subjects/XNAT_S00001/experiments/XNAT_E00001/scans/1",
    ),
]


def site(directory: Path | None = None, **settings: Any) -> TestXnat:
    """Make a site with a session E of the subject S, which has a scan 1."""
    xnat = TestXnat(directory, **settings)
    add_session(xnat, "S", "E")
    return xnat


def own(web: RawClient, label: str = "R") -> Resource:
    """Return a resource of the session."""
    return web.xnat.archived[0].own_resources[label]


def md5(data: bytes) -> str:
    """Return the digest as a listing shows it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


async def put(web: RawClient, path: str, data: Any = DATA, kind: str = "", /, **params: str) -> Reply:
    """PUT a file; without a type, with inbody=true."""
    headers = {"Content-Type": kind} if kind else None
    query = params if kind else {"inbody": "true", **params}
    return await web.ask("PUT", path, data, headers, **query)


async def names(web: RawClient, path: str = R) -> list[str]:
    """List the names of files."""
    return [row["Name"] for row in (await web.get(f"{path}/files")).rows]


def zipped(**files: bytes) -> bytes:
    """Make a zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(mode: str = "w", /, **files: bytes) -> bytes:
    """Make a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(("path", "uri"), PARENTS)
async def test_archive_25_resources_of_every_object(path: str, uri: str) -> None:
    """200 without a body, then 409; listed with no counts as long as it is empty; files go in and out."""
    async with raw_client(site()) as web:
        made = await web.put(f"{path}/resources/R", tags="a,b", format="F", content="C")
        assert (made.status, made.text) == (200, "")
        again = await web.put(f"{path}/resources/R")
        assert (again.status, again.message) == (409, "Specified resource already exists.")
        (row,) = (await web.get(f"{path}/resources")).rows
        number = row["xnat_abstractresource_id"]
        assert (row["label"], row["tags"], row["format"], row["content"]) == ("R", "a,b", "F", "C")
        assert (row["file_count"], row["file_size"]) == ("", "")
        file = await put(web, f"{path}/resources/R/files/a/b.txt")
        assert (file.status, file.type, file.text) == (200, "text/plain", "")
        (row,) = (await web.get(f"{path}/resources")).rows
        assert (row["file_count"], row["file_size"]) == ("1", str(len(DATA)))
        (row,) = (await web.get(f"{path}/resources/R/files")).rows
        assert row == {
            "Name": "b.txt",
            "Size": str(len(DATA)),
            "URI": f"/data{uri}/resources/{number}/files/a/b.txt",
            "collection": "R",
            "file_tags": "",
            "file_format": "",
            "file_content": "",
            "cat_ID": number,
            "digest": md5(DATA),
        }
        assert (await web.get(f"{path}/resources/{number}/files")).rows == [row]
        assert (await web.ask("DELETE", f"{path}/resources/R", removeFiles="true")).status == 200
        assert (await web.get(f"{path}/resources")).rows == []


async def test_archive_25_resources_that_cannot_be_made() -> None:
    """Rights, labels, addresses."""
    xnat = site()
    add_reader(xnat, "reader")
    async with raw_client(xnat, user="reader") as web:
        answer = await web.put(R)
        assert (answer.status, answer.message) == (403, FORBIDDEN)
    async with raw_client(xnat) as web:
        assert (await web.put(f"{E}/resources/a'b")).status == 400
        below = await web.put(f"{R}/more")
        assert below.status == 400
        assert below.message.startswith("This resource works at the catalog level only")
        posted = await web.post(f"{E}/resources", label="P")
        assert (posted.status, posted.headers["Location"]) == (200, f"{web.url}{E}/resources/1")
        assert (await web.post(R)).status == 200
        web.xnat.project("demo").deleters = ["boss"]
        answer = await web.ask("DELETE", R)
        assert (answer.status, answer.message) == (403, FORBIDDEN)


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_archive_26_27_a_file(tmp_path: Path, method: str) -> None:
    """The upload creates its resource; a second file of the name is stored only with `overwrite`."""
    async with raw_client(site(tmp_path)) as web:

        async def send(data: bytes, **params: str) -> Reply:
            return await web.ask(method, f"{R}/files/a.txt", data, {"Content-Type": "text/plain"}, **params)

        new = await send(DATA, format="TXT", content="C", tags="x,y", description="d")
        assert (new.status, new.type, new.text) == (200, "text/plain", "")
        (row,) = (await web.get(f"{R}/files")).rows
        assert (row["file_format"], row["file_content"], row["file_tags"]) == ("TXT", "C", "x,y")
        again = await send(b"other")
        assert (again.status, again.type, again.text) == (200, "text/html", '{"duplicates":["a.txt"]}')
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "a.txt") == DATA
        # Whatever is neither false nor 0 is true.
        assert (await send(b"other", overwrite="0")).text == '{"duplicates":["a.txt"]}'
        replaced = await send(b"other", overwrite="no")
        assert (replaced.status, replaced.type, replaced.text) == (200, "text/plain", "")
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "a.txt") == b"other"
        (row,) = (await web.get(f"{R}/files")).rows
        assert (row["Size"], row["digest"], row["file_format"]) == ("5", md5(b"other"), "")
        assert web.xnat.count["file"] == 4


async def test_tags_are_added_to_the_resource_by_every_request() -> None:
    """So they are sent once, with the resource."""
    async with raw_client(site()) as web:
        for name in "ab":
            await put(web, f"{R}/files/{name}", tags="x", format="F")
        (row,) = (await web.get(f"{E}/resources")).rows
        assert (row["tags"], row["format"]) == ("x,x", "F")


async def test_archive_28_without_the_right_to_edit_nothing_is_said() -> None:
    """200, and nothing is stored."""
    xnat = site()
    add_reader(xnat, "reader")
    async with raw_client(xnat, user="reader") as web:
        answer = await put(web, f"{R}/files/a.txt")
        assert (answer.status, answer.text) == (200, "")
        assert (await web.get(f"{E}/resources")).rows == []
        await add_file(xnat, xnat.archived[0], "R", "b.txt", b"b")
        assert (await web.ask("DELETE", f"{R}/files/b.txt")).status == 403


async def test_archive_29_bodies(tmp_path: Path) -> None:
    """Which bodies are files, and which are refused."""
    async with raw_client(site(tmp_path)) as web:

        async def chunked() -> AsyncIterator[bytes]:
            yield DATA

        async def status(data: Any, kind: str, name: str = "a", **params: str) -> Reply:
            return await put(web, f"{R}/files/{name}", data, kind, **params)

        for kind in ("text/plain", "application/dicom", "image/png", "application/octet-stream"):
            assert (await status(DATA, kind, overwrite="true")).status == 200
            assert (await status(b"", kind)).status == 500
            assert (await status(chunked(), kind)).status == 500
        assert (await status(DATA, "application/json", inbody="true", overwrite="true")).status == 200
        form = "application/x-www-form-urlencoded"
        assert (await status(DATA, form, inbody="true", overwrite="true")).status == 200
        for kind in ("application/json", form, "x/y"):
            answer = await status(DATA, kind)
            assert answer.status == 400
            assert answer.message.startswith("You tried to PUT a payload of 10 to this service, but didn't provide any")
            assert "multipart/form-data encoding" in answer.message
        empty = await status(b"", "x/y")
        assert empty.status == 400
        assert "(found request entity size of 0)" in empty.message
        assert (await status(chunked(), "application/zip", "c.zip")).status == 200
        assert (await status(gzip.compress(DATA), "text/plain", "packed")).status == 200
        headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
        assert (await web.ask("PUT", f"{R}/files/g", gzip.compress(DATA), headers)).status == 500
        assert await names(web) == ["a", "c.zip", "packed"]
        assert (await put(web, f"{R}/files", DATA, "text/csv")).status == 200
        assert (await names(web))[-1] == "upload.csv"


async def test_archive_29_forms(tmp_path: Path) -> None:
    """Several files at once, with the names they have; with a name in the address, all have that."""
    async with raw_client(site(tmp_path)) as web:

        def form(**fields: bytes | str) -> aiohttp.FormData:
            data = aiohttp.FormData()
            for name, value in fields.items():
                filename = {"filename": f"{name}.bin"} if isinstance(value, bytes) else {}
                data.add_field(name, value, **filename)
            if all(isinstance(value, str) for value in fields.values()):
                data._is_multipart = True
            return data

        answer = await web.put(f"{R}/files", form(a=b"1\r\n--2", b=b"", format="F"))
        assert (answer.status, answer.text) == (200, "")
        rows = (await web.get(f"{R}/files")).rows
        assert [(row["Name"], row["Size"], row["file_format"]) for row in rows] == [
            ("a.bin", "6", "F"),
            ("b.bin", "0", "F"),
        ]
        assert own(web).version == 1
        assert (await web.put(f"{R}/files/c.txt", form(a=b"3"))).status == 200
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "c.txt") == b"3"
        duplicates = await web.put(f"{R}/files", form(a=b"4", d=b"5"))
        assert duplicates.json == {"duplicates": ["a.bin"]}
        assert await names(web) == ["a.bin", "b.bin", "c.txt", "d.bin"]
        assert (await web.put(f"{R}/files", form(e=b"6"), inbody="true")).status == 400
        assert (await web.put(f"{R}/files", form(reference="x"))).status == 400
        assert (await web.put(f"{R}/files", form(other="x"))).status == 400


async def test_archive_30_flags() -> None:
    """update-stats=false, or anything but true and 1, leaves the counts as they were."""
    async with raw_client(site()) as web:

        async def counts() -> tuple[str, str]:
            (row,) = (await web.get(f"{E}/resources")).rows
            return row["file_count"], row["file_size"]

        await put(web, f"{R}/files/a", b"1", **{"update-stats": "false"})
        assert await counts() == ("", "")
        await put(web, f"{R}/files/b", b"2", **{"update-stats": "1"})
        assert await counts() == ("2", "2")
        await put(web, f"{R}/files/c", b"3", **{"update-stats": "yes"})
        assert await counts() == ("2", "2")
        assert await names(web) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", zipped(**{"a.txt": b"1", "in/b.txt": b"2", "dir/": b""})),
        ("x.tar", tarred(**{"./a.txt": b"1", "in/b.txt": b"2"})),
        ("x.tar.gz", tarred("w:gz", **{"a.txt": b"1", "in/b.txt": b"2"})),
        ("x.TGZ", tarred("w:gz", **{"a.txt": b"1", "in/b.txt": b"2"})),
    ],
)
async def test_archive_31_archives_are_unpacked(tmp_path: Path, name: str, data: bytes) -> None:
    """By their names; their entries are stored, with folders, and the archives are not."""
    async with raw_client(site(tmp_path)) as web:
        assert (await put(web, f"{R}/files/{name}", data, extract="true")).status == 200
        rows = (await web.get(f"{R}/files")).rows
        assert [(row["Name"], row["digest"]) for row in rows] == [("a.txt", md5(b"1")), ("b.txt", md5(b"2"))]
        assert rows[1]["URI"].endswith("/files/in/b.txt")
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "in/b.txt") == b"2"
        assert own(web).version == 1
        again = await put(web, f"{R}/files/{name}", data, extract="true")
        assert again.json == {"duplicates": ["a.txt", "in/b.txt"]}
        assert (await put(web, f"{R}/files/sub/{name}", data, extract="true")).status == 200
        assert "sub/in/b.txt" in own(web).files
        # Without being asked for, or under another name, it is a file like any other.
        assert (await put(web, f"{R}/files/{name}", data)).status == 200
        assert (await put(web, f"{R}/files/x.bin", data, extract="true")).status == 200
        assert {name, "x.bin"} <= set(own(web).files)


async def test_archive_31_one_file_packed(tmp_path: Path) -> None:
    """A .gz that is no tar."""
    async with raw_client(site(tmp_path)) as web:
        assert (await put(web, f"{R}/files/a.txt.gz", gzip.compress(DATA), extract="true")).status == 200
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "a.txt") == DATA


def bomb(name: str) -> bytes:
    """Return an archive that unpacks to far more bytes than its own."""
    if name == "many.zip":
        return zipped(**{str(number): b"" for number in range(20_001)})
    zeros = bytes(200 << 20)
    if name == "x.zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", zeros)
        return buffer.getvalue()
    return tarred("w:gz", zeros=zeros) if name == "x.tar.gz" else gzip.compress(zeros)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.gz", "many.zip"])
async def test_archives_that_burst_are_not_unpacked(tmp_path: Path, name: str) -> None:
    """500, as of any other that cannot be unpacked, and nothing of them is stored."""
    data = await anyio.to_thread.run_sync(bomb, name)
    async with raw_client(site(tmp_path)) as web:
        reply = await put(web, f"{R}/files/{name}", data, extract="true")
        assert reply.status == 500
        assert await files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", zipped(**{"a.txt": b"1", "../b.txt": b"2"})),
        ("x.tar", tarred(**{"a.txt": b"1", "/b.txt": b"2"})),
        ("x.zip", b"no zip"),
        ("x.tar.gz", b"no tar"),
        ("x.gz", b"no gzip"),
        ("x.tar", b"no tar" * 200),
    ],
)
async def test_archive_31_archives_that_are_none_or_reach_outside(tmp_path: Path, name: str, data: bytes) -> None:
    """500, and nothing of them is stored."""
    async with raw_client(site(tmp_path)) as web:
        assert (await put(web, f"{R}/files/{name}", data, extract="true")).status == 500
        assert await files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("sent", "name", "uri"),
    [
        ("a%20b.txt", "a b.txt", "a%20b.txt"),
        ("a%2Bb.txt", "a+b.txt", "a+b.txt"),
        ("a+b.txt", "a+b.txt", "a+b.txt"),
        ("a+b%20c.txt", "a b c.txt", "a%20b%20c.txt"),
        ("%C3%A9.txt", "%C3%A9.txt", "%C3%A9.txt"),
        ("%C3%A9%20.txt", "é .txt", "%C3%A9%20.txt"),
        ("a&b.txt", "a&b.txt", "a&b.txt"),
    ],
)
async def test_archive_32_names(tmp_path: Path, sent: str, name: str, uri: str) -> None:
    """Only those with a blank or a plus sign are decoded; what is listed can be got."""
    async with raw_client(site(tmp_path)) as web:
        await put(web, f"{R}/files/{sent}")
        (row,) = (await web.get(f"{R}/files")).rows
        assert row["Name"] == name
        assert row["URI"].endswith(f"/files/{uri}")
        assert (await web.get(row["URI"])).text == DATA.decode()


async def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    """Tomcat resolves dots before XNAT sees them; what leaves the site is refused."""
    async with raw_client(site(tmp_path)) as web:
        assert (await put(web, f"{R}/files/a/../b.txt")).status == 200
        assert (await put(web, f"{R}/files/%2e%2E/files/./c.txt")).status == 200
        assert await names(web) == ["b.txt", "c.txt"]
        assert (await put(web, "/data/../../b.txt")).status == 400
        assert (await put(web, f"{R}/files/..%2Fb.txt")).status == 400
        assert (await put(web, f"{R}/files/x_catalog.xml")).status == 200
        assert await names(web) == ["b.txt", "c.txt"]
        assert all(path[:4] == ("archive", "demo", "arc001", "E") for path in await files_below(tmp_path))


async def test_archive_33_files_without_a_resource() -> None:
    """In the first there is, or in a new one without a label."""
    async with raw_client(site()) as web:
        assert (await put(web, f"{E}/files/a.txt")).status == 200
        (row,) = (await web.get(f"{E}/resources")).rows
        assert (row["label"], row["file_count"]) == ("", "1")
        assert re.fullmatch(r"\d{8}_\d{6}", own(web, "").folder)
        scan = f"{E}/scans/1"
        await web.put(f"{scan}/resources/first")
        await web.put(f"{scan}/resources/second")
        assert (await put(web, f"{scan}/files/b.txt")).status == 200
        assert list(web.xnat.archived[0].scans["1"].resources["first"].files) == ["b.txt"]
        # All of a session's are found without one, those of its scans too.
        assert await names(web, E) == ["a.txt", "b.txt"]


async def test_archive_34_overlapping_writes(tmp_path: Path) -> None:
    """One of two fails: its file is on the disk, and no catalog lists it."""
    async with raw_client(site(tmp_path)) as web:
        begun, go = anyio.Event(), anyio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield DATA[:5]
            begun.set()
            await go.wait()
            yield DATA[5:]

        answers = []

        async def send() -> None:
            headers = {"Content-Length": str(len(DATA)), "Content-Type": "text/plain"}
            answers.append(await web.ask("PUT", f"{R}/files/slow.txt", slowly(), headers))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            await begun.wait()
            await _begun(web)
            assert (await put(web, f"{R}/files/quick.txt")).status == 200
            go.set()
        (lost,) = answers
        assert lost.status == 500
        assert lost.message.startswith("Another thread or process modified archive/demo/arc001/E/RESOURCES/R/R_catalog")
        assert "since I last read it" in lost.message
        assert await names(web) == ["quick.txt"]
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "slow.txt") == DATA
        assert list(own(web).uncatalogued) == ["slow.txt"]
        assert (await web.get(f"{R}/files/slow.txt")).status == 404
        retried = await put(web, f"{R}/files/slow.txt")
        assert retried.json == {"duplicates": ["slow.txt"]}
        assert await names(web) == ["quick.txt"]
        assert (await put(web, f"{R}/files/slow.txt", overwrite="true")).text == ""
        assert await names(web) == ["quick.txt", "slow.txt"]
        assert not own(web).uncatalogued


async def _begun(web: RawClient) -> None:
    """Wait until another request for a file has reached the server."""
    while web.xnat.count["file"] < 1:
        await anyio.lowlevel.checkpoint()


async def test_archive_34_many_at_once() -> None:
    """Those that arrive while another is being stored fail; those for other resources do not."""
    async with raw_client(site(timing=Timing(saving_seconds=0.1))) as web:
        answers: dict[str, Reply] = {}

        async def send(resource: str, name: str) -> None:
            answers[f"{resource}{name}"] = await put(web, f"{E}/resources/{resource}/files/{name}")

        async with anyio.create_task_group() as tasks:
            for resource, name in ("Ra", "Rb", "Rc", "Qa"):
                tasks.start_soon(send, resource, name)
        assert sorted(answers[name].status for name in ("Ra", "Rb", "Rc")) == [200, 500, 500]
        assert answers["Qa"].status == 200
        assert len(own(web).files) == 1
        assert len(own(web).uncatalogued) == 2
        refreshed = await web.post("/data/services/refresh/catalog", resource=f"/archive/experiments/{E[18:]}")
        assert refreshed.status == 200
        assert len(await names(web)) == 3


@pytest.mark.parametrize(("version", "size"), [("1.7", "3"), ("1.8", str(len(DATA)))])
async def test_a_cut_upload_leaves_a_truncated_file(tmp_path: Path, version: str, size: str) -> None:
    """At its place, in no catalog; one that was to be replaced has the old digest, and its size where catalogs have it.

    What is handed out is what there is, and a refresh sets the size right.
    """
    async with raw_client(site(tmp_path, profile=PROFILES[version])) as web:
        web.http._retry_connection = False
        session = web.xnat.archived[0]
        web.xnat.faults.add(Fault("file", Reset(after_bytes=4)))
        with pytest.raises(aiohttp.ClientError):
            await put(web, f"{R}/files/a.txt")
        assert await file_bytes(web.xnat, session, "R", "a.txt") == DATA[:4]
        assert await names(web) == []
        assert not own(web).uncatalogued["a.txt"].complete
        assert (await put(web, f"{R}/files/a.txt")).json == {"duplicates": ["a.txt"]}
        assert await names(web) == []
        await put(web, f"{R}/files/a.txt", overwrite="true")
        assert await file_bytes(web.xnat, session, "R", "a.txt") == DATA
        web.xnat.faults.add(Fault("file", Reset(after_bytes=3)))
        with pytest.raises(aiohttp.ClientError):
            await put(web, f"{R}/files/a.txt", b"other", overwrite="true")
        (row,) = (await web.get(f"{R}/files")).rows
        assert (row["Size"], row["digest"]) == (size, md5(DATA))
        assert (await web.get(f"{R}/files/a.txt")).text == "oth"
        refresh = {"resource": f"/archive/experiments/{E[18:]}/resources/R", "options": "populateStats"}
        assert (await web.post("/data/services/refresh/catalog", **refresh)).status == 200
        (row,) = (await web.get(f"{R}/files")).rows
        assert (row["Size"], row["digest"]) == ("3", md5(DATA))


async def test_a_client_that_goes_away_leaves_a_truncated_file(tmp_path: Path) -> None:
    """As above; of a form or an archive nothing is left."""
    async with raw_client(site(tmp_path)) as web:
        web.http._retry_connection = False

        async def half() -> AsyncIterator[bytes]:
            yield DATA[:5]
            await _begun(web)
            raise ConnectionResetError

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData()
            data.add_field("a", b"12345678901234567890", filename="a")
            return data

        headers = {"Content-Length": "10", "Content-Type": "text/plain"}
        with pytest.raises(aiohttp.ClientError):
            await web.ask("PUT", f"{R}/files/a.txt", half(), headers)
        with in_time():
            while "R" not in web.xnat.archived[0].own_resources or not own(web).uncatalogued:
                await anyio.lowlevel.checkpoint()
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "a.txt") == DATA[:5]
        for body in (zipped(a=b"1"), form()):
            web.xnat.faults.add(Fault("file", Reset(after_bytes=20)))
            with pytest.raises(aiohttp.ClientError):
                await web.put(f"{R}/files/x.zip", body, extract="true")
        assert [path[-1] for path in await files_below(tmp_path)] == ["a.txt"]


async def test_faults_of_files_and_resources() -> None:
    """They are kinds of their own; a late effect takes place later."""
    async with raw_client(site()) as web:
        web.http._retry_connection = False
        web.xnat.faults.add(Fault("file", Status(503, "busy")))
        assert (await put(web, f"{R}/files/a.txt")).status == 503
        assert web.xnat.archived[0].own_resources == {}
        fault = web.xnat.faults.add(Fault("file", Late()))
        with pytest.raises((OSError, aiohttp.ServerDisconnectedError)):
            await put(web, f"{R}/files/a.txt")
        assert web.xnat.archived[0].own_resources == {}
        fault.release()
        await fault.settled()
        assert await names(web) == ["a.txt"]
        assert own(web).files["a.txt"].digest == hashlib.md5(DATA, usedforsecurity=False).digest()
        web.xnat.faults.add(Fault("resource", Reset(effect=True)))
        with pytest.raises((OSError, aiohttp.ServerDisconnectedError)):
            await web.put(f"{E}/resources/Q")
        assert (await web.put(f"{E}/resources/Q")).status == 409
        web.xnat.faults.add(Fault("refresh", Status(502)))
        assert (await web.post("/data/services/refresh/catalog", resource=R.removeprefix("/data"))).status == 502
        assert web.xnat.count["refresh"] == 1
        assert web.xnat.count["resource"] == 2


async def test_a_full_disk(tmp_path: Path) -> None:
    """500; half of the file may stay."""
    async with raw_client(site(tmp_path)) as web:
        web.xnat.faults.add(Fault("file", DiskFull()))
        answer = await put(web, f"{R}/files/a.txt")
        assert (answer.status, answer.message) == (500, "No space left on device")
        assert await files_below(tmp_path) == {}
        web.xnat.faults.add(Fault("file", DiskFull(partial=True)))
        assert (await put(web, f"{R}/files/a.txt")).status == 500
        assert await file_bytes(web.xnat, web.xnat.archived[0], "R", "a.txt") == DATA[:5]
        assert await names(web) == []
        # A file is no folder.
        await put(web, f"{R}/files/b")
        assert (await put(web, f"{R}/files/b/c")).status == 500


async def test_archive_35_no_digests() -> None:
    """The digest is an empty text if the site makes none."""
    async with raw_client(site(checksums=False)) as web:
        await put(web, f"{R}/files/a.txt")
        (row,) = (await web.get(f"{R}/files")).rows
        assert row["digest"] == ""
        answer = (await web.get(f"{R}/files")).json["ResultSet"]
        assert set(answer) == {"Result", "Columns", "title"}


async def test_archive_35_what_is_listed() -> None:
    """By folder, by format and content, one of them; as CSV."""
    async with raw_client(site()) as web:
        for name, form in (("a/b.txt", "F"), ("a/c/d.txt", ""), ("ab.txt", "F")):
            await put(web, f"{R}/files/{name}", format=form, content=f"{form}x" if form else "")

        async def listed(path: str = "", **params: str) -> list[str]:
            rows = (await web.get(f"{R}/files{path}", **params)).rows
            return [row["URI"].partition("/files/")[2] for row in rows]

        assert await listed() == ["a/b.txt", "a/c/d.txt", "ab.txt"]
        assert await listed("/a/") == ["a/b.txt", "a/c/d.txt"]
        assert await listed("/a/", recursive="false") == ["a/b.txt"]
        assert await listed(recursive="false") == ["ab.txt"]
        assert await listed("/a*") == ["a/b.txt", "a/c/d.txt", "ab.txt"]
        assert await listed(file_format="F") == ["a/b.txt", "ab.txt"]
        assert await listed(file_format="NULL") == ["a/c/d.txt"]
        assert await listed(file_content="Fx") == ["a/b.txt", "ab.txt"]
        assert await listed(index="1") == ["a/c/d.txt"]
        csv = await web.get(f"{R}/files", format="csv")
        assert csv.text.splitlines()[0].startswith("Name,Size,URI")
        assert (await web.get(f"{R}/files/a")).status == 404
        nothing = await web.get(f"{E}/resources/NOSUCH/files", format="json")
        assert (nothing.status, nothing.rows) == (200, [])
        assert (await web.get(f"{E}/resources/NOSUCH/files", format="zip")).status == 404


async def test_archive_36_lists_of_resources() -> None:
    """Those of a session's scans with `all`; always all columns; a number may be a label."""
    async with raw_client(TestXnat(anonymise=False)) as web:
        uri = await web.archive_session(dicom())
        await web.put(f"{uri}/resources/R")
        assert [row["label"] for row in (await web.get(f"{uri}/resources")).rows] == ["R"]
        answer = await web.get(f"{uri}/resources", all="true")
        assert answer.json["ResultSet"]["title"] == "Resources"
        own_row, scan = answer.rows
        assert (own_row["category"], own_row["cat_id"]) == ("resources", "XNAT_E00001")
        assert (scan["category"], scan["cat_id"], scan["cat_desc"]) == ("scans", "1", "T1 <fast>")
        assert (scan["file_count"], scan["file_size"]) == ("1", str(len(dicom())))
        csv = await web.get(f"{uri}/resources", format="csv", columns="label,xnat_abstractresource_id")
        head, row = csv.text.splitlines()
        assert head.startswith("xnat_abstractresource_id,label,element_name,category")
        assert row.startswith("2,R,xnat:resourceCatalog,resources")
        catalog = await web.get(f"{uri}/resources/R", format="json")
        assert catalog.type == "text/xml"
        assert catalog.text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<cat:Catalog')


async def test_archive_37_a_file(tmp_path: Path) -> None:
    """The headers; HEAD; a range; 404 without a body, or 204; types by extension."""
    async with raw_client(site(tmp_path)) as web:
        for name in ("in/a.txt", "b.csv", "c.dcm", "d.pdf"):
            await put(web, f"{R}/files/{name}")
        got = await web.get(f"{R}/files/in/a.txt")
        assert (got.status, got.text, got.type) == (200, DATA.decode(), "text/plain")
        head = await web.ask("HEAD", f"{R}/files/in/a.txt")
        assert (head.status, head.text) == (200, "")
        for answer in (got, head):
            assert answer.headers["Content-Disposition"] == 'attachment; filename="a.txt";'
            assert answer.headers["Content-Length"] == "10"
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert "Last-Modified" in answer.headers
        kinds = [(await web.ask("HEAD", f"{R}/files/{name}")).type for name in ("b.csv", "c.dcm", "d.pdf")]
        assert kinds == ["application/octet-stream", "application/octet-stream", "application/pdf"]
        part = await web.get(f"{R}/files/b.csv", {"Range": "bytes=5-"})
        assert (part.status, part.text, part.headers["Content-Range"]) == (206, "bytes", "bytes 5-9/10")
        assert (await web.get(f"{R}/files/b.csv", {"Range": "bytes=0-1,3-4"})).status == 501
        for path in (f"{R}/files/nope", f"{E}/resources/Q/files/nope", f"{E}/files/nope"):
            missing = await web.get(path)
            assert (missing.status, missing.text) == (404, "")
            assert (await web.get(path, **{"accept-not-found": "true"})).status == 204
        (parts,) = [parts for parts in await files_below(tmp_path) if parts[-1] == "b.csv"]
        await anyio.Path(tmp_path, *parts).unlink()
        assert (await web.get(f"{R}/files/b.csv")).status == 404
        assert (await web.get(f"{E}/files/in/a.txt")).text == DATA.decode()


async def test_downloads_of_all_files(tmp_path: Path) -> None:
    """Zip, tar and tar.gz, with the paths of the archive."""
    async with raw_client(site(tmp_path)) as web:
        await put(web, f"{R}/files/in/a.txt")
        await put(web, f"{E}/scans/1/resources/Q/files/b.txt", b"2")
        expected = {"E/resources/R/files/in/a.txt": DATA, "E/scans/1/resources/Q/files/b.txt": b"2"}

        async def content(form: str) -> bytes:
            async with web.http.get(f"{web.url}{E}/files?format={form}") as reply:
                assert reply.status == 200
                return await reply.read()

        with zipfile.ZipFile(io.BytesIO(await content("zip"))) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == expected
        for form in ("tar", "tar.gz"):
            with tarfile.open(fileobj=io.BytesIO(await content(form))) as packed:
                assert {one.name: _read(packed, one) for one in packed} == expected
        assert (await web.get(f"{R}/files", format="zip", file_format="none")).status == 404


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


async def test_archive_38_catalogs() -> None:
    """An entry for each file, with its digest; a UID for what came as DICOM only."""
    async with raw_client(site()) as web:
        await put(web, f"{R}/files/a.txt", tags="x", format="F")
        catalog = await web.get(R)
        assert catalog.type == "text/xml"
        assert "<cat:Catalog xmlns" in catalog.text
        assert f'URI="a.txt" format="F" digest="{md5(DATA)}"' in catalog.text
        assert "<cat:tag>x</cat:tag>" in catalog.text
        assert "UID" not in catalog.text
        await web.archive_session(dicom(), EXPT_LABEL="F")
        scan = "/data/projects/demo/subjects/S/experiments/F/scans/1"
        await put(web, f"{scan}/resources/DICOM/files/b.txt", tags="x")
        (row,) = (await web.get(f"{scan}/resources")).rows
        assert (row["file_count"], row["format"], row["content"], row["tags"]) == ("2", "DICOM", "RAW", "x")
        catalog = await web.get(f"{scan}/resources/DICOM")
        assert "<cat:DCMCatalog UID=" in catalog.text
        assert catalog.text.count("<cat:entry ") == 2
        assert len(list(web.xnat.instances())) == 1


async def test_archive_39_deletion(tmp_path: Path) -> None:
    """Of all files whose path begins with the name; a second time it is a 404; the bytes may stay."""
    async with raw_client(site(tmp_path)) as web:
        for name in ("a.csv", "a.csv.bak", "b.csv", "in/c.csv"):
            await put(web, f"{R}/files/{name}")
        assert (await web.ask("DELETE", f"{R}/files/a.csv")).status == 200
        assert await names(web) == ["b.csv", "c.csv"]
        again = await web.ask("DELETE", f"{R}/files/a.csv")
        assert (again.status, again.message) == (404, "No matched files")
        assert (await web.ask("DELETE", f"{R}/files/a.csv", **{"accept-not-found": "true"})).status == 204
        assert (await web.ask("DELETE", f"{R}/files/b.csv", removeFiles="false")).status == 200
        assert (await put(web, f"{R}/files/b.csv")).json == {"duplicates": ["b.csv"]}
        assert [path[-1] for path in await files_below(tmp_path)] == ["b.csv", "c.csv"]
        web.xnat.project("demo").deleters = ["boss"]
        denied = await web.ask("DELETE", f"{R}/files/in/c.csv")
        assert (denied.status, denied.message) == (403, FORBIDDEN)
        web.xnat.project("demo").deleters = None
        assert (await web.ask("DELETE", f"{R}/files")).status == 200
        assert await names(web) == []
        # A resource goes, and its files with it only where that is said.
        assert (await web.ask("DELETE", R)).status == 200
        assert (await put(web, f"{R}/files/b.csv")).json == {"duplicates": ["b.csv"]}
        assert (await web.ask("DELETE", R, removeFiles="true")).status == 200
        assert (await put(web, f"{R}/files/b.csv")).text == ""


@contextmanager
def changed(xnat: TestXnat) -> Iterator[None]:
    """Tell that the resource R has another catalog afterwards."""
    before = xnat.archived[0].own_resources["R"].version
    yield
    assert xnat.archived[0].own_resources["R"].version > before


async def test_archive_40_refreshing(tmp_path: Path) -> None:
    """Each option alone; without any, everything is done."""
    async with raw_client(site(tmp_path)) as web:
        session = web.xnat.archived[0]
        await put(web, f"{R}/files/a", b"1")
        await put(web, f"{R}/files/gone", b"2")
        await add_file(web.xnat, session, "R", "lost", b"34", catalogued=False)
        paths = {path[-1]: tmp_path.joinpath(*path) for path in await files_below(tmp_path)}
        await anyio.Path(paths["gone"]).unlink()
        await anyio.Path(paths["a"]).write_bytes(b"567")

        async def refresh(options: str) -> None:
            with changed(web.xnat):
                answer = await web.post("/data/services/refresh/catalog", resource="/archive" + R[5:], options=options)
                assert (answer.status, answer.text) == (200, "")

        async def shown() -> tuple[dict[str, tuple[str, str]], tuple[str, str]]:
            (row,) = (await web.get(f"{E}/resources")).rows
            files = {file["Name"]: (file["Size"], file["digest"]) for file in (await web.get(f"{R}/files")).rows}
            return files, (row["file_count"], row["file_size"])

        files = {"a": ("1", md5(b"1")), "gone": ("1", md5(b"2"))}
        assert await shown() == (files, ("2", "2"))
        await refresh("append")
        files = {"a": ("3", md5(b"1")), "gone": ("1", md5(b"2")), "lost": ("2", "")}
        assert await shown() == (files, ("2", "2"))
        await refresh("delete")
        del files["gone"]
        assert await shown() == (files, ("2", "2"))
        await refresh("checksum")
        files = {"a": ("3", md5(b"567")), "lost": ("2", md5(b"34"))}
        assert await shown() == (files, ("2", "2"))
        await refresh("populateStats")
        assert await shown() == (files, ("2", "5"))
        await anyio.Path(paths["lost"]).unlink()
        await refresh("")
        assert await shown() == ({"a": ("3", md5(b"567"))}, ("1", "3"))


async def test_archive_40_what_may_be_refreshed() -> None:
    """Objects and resources of them; several in a query or a form; rights; mistakes are 400, in the other API 500."""
    xnat = site()
    add_reader(xnat, "reader")
    session = xnat.archived[0]
    path, twin = "/data/services/refresh/catalog", "/xapi/archive/catalogs/refresh"
    async with raw_client(xnat) as web:
        for name in "abcdef":
            await add_file(xnat, session, "R", name, b"1", catalogued=False)
            await add_file(xnat, session, "Q", name, b"1", scan="1", catalogued=False)

        def found() -> tuple[int, int]:
            own_count = len(session.own_resources["R"].files)
            scan_count = len(session.scans["1"].resources["Q"].files)
            session.own_resources["R"].files.clear()
            session.scans["1"].resources["Q"].files.clear()
            for resource in (session.own_resources["R"], session.scans["1"].resources["Q"]):
                for name in "ab":
                    resource.uncatalogued[name] = xnat_file
            return own_count, scan_count

        xnat_file = next(iter(session.own_resources["R"].uncatalogued.values()))
        found()
        scan = f"{E[5:]}/scans/1"
        for source, expected in (
            (f"/archive{E[5:]}", (6, 6)),
            (f"/archive{R[5:]}", (2, 0)),
            (f"/data/archive{scan}", (0, 2)),
            ("/archive/projects/demo/subjects/S/experiments/E/scans/1/resources/Q", (0, 2)),
        ):
            assert (await web.post(path, resource=source)).status == 200
            assert found() == expected
        assert (await web.post(f"{path}?resource={R[5:]}&resource={scan}&options=append")).status == 200
        assert found() == (2, 2)
        form = aiohttp.FormData([("resource", f"/archive{R[5:]}"), ("options", "append")])
        form._is_multipart = True
        assert (await web.post(path, form)).status == 200
        assert found() == (2, 0)
        headers = {"Content-Type": "application/json"}
        assert (await web.ask("PUT", twin, f'["{R[5:]}", "{scan}"]', headers)).status == 200
        assert found() == (2, 2)
        assert (await web.ask("PUT", f"{twin}/Append", f'["{R[5:]}"]', headers)).status == 200
        assert found() == (2, 0)
        for source in ("nonsense", "/archive/experiments/NOPE", f"{E[5:]}/resources/NOPE", "/prearchive/projects/demo"):
            assert (await web.post(path, resource=source)).status == 400
            assert (await web.ask("PUT", twin, f'["{source}"]', headers)).status == 500
        assert (await web.post(path)).status == 400
        assert (await web.ask("POST", path, f'{{"resource": "{R[5:]}"}}', headers)).status == 400
        assert (await web.post(path, resource=R[5:], options="nonsense")).status == 400
    async with raw_client(xnat, user="reader") as web:
        assert (await web.post(path, resource=R[5:])).status == 403


async def test_archive_41_unknown_parents() -> None:
    """A write is a 404 with a text; a read goes on with the part that it finds, or is a 500."""
    async with raw_client(site()) as web:
        web.xnat.add_project(Project("closed", editors=["boss"]))
        await put(web, "/data/projects/demo/resources/R/files/of-project")
        await put(web, "/data/projects/demo/subjects/S/resources/R/files/of-subject")
        for path, what in (
            ("experiments/NOPE", "experiment"),
            ("experiments/XNAT_E00001/scans/9", "scan"),
            ("experiments/NOPE/scans/1", "image session"),
            ("projects/demo/subjects/NOPE", "subject"),
            ("projects/demo/subjects/NOPE/experiments/E", "subject"),
            ("projects/NOPE", "project"),
            ("projects/closed/experiments/E", "project"),
        ):
            for end in ("resources/R", "resources/R/files/a", "files/a"):
                answer = await put(web, f"/data/{path}/{end}")
                assert (answer.status, answer.message) == (404, f"Unable to identify {what}")
            assert (await web.ask("DELETE", f"/data/{path}/resources/R")).status == 404
        for path, expected in (
            ("projects/demo/experiments/NOPE", "of-project"),
            ("projects/demo/subjects/NOPE", "of-project"),
            ("projects/demo/subjects/S/experiments/E/scans/9", "of-subject"),
            ("projects/demo/subjects/S/experiments/NOPE", "of-subject"),
        ):
            assert await names(web, f"/data/{path}") == [expected]
            assert await names(web, f"/data/{path}/resources/R") == [expected]
            assert len((await web.get(f"/data/{path}/resources")).rows) == 1
        for path in ("experiments/NOPE", "projects/NOPE", "experiments/XNAT_E00001/scans/9", "projects/closed"):
            assert (await web.get(f"/data/{path}/files")).status == 500
            assert (await web.get(f"/data/{path}/resources")).status == 404


async def test_archive_41_labels_that_are_numbers(tmp_path: Path) -> None:
    """A number that is no label is the key of any resource on the site, to those who read or delete."""
    async with raw_client(site(tmp_path)) as web:
        await put(web, "/data/projects/demo/resources/P/files/of-project", b"1")
        number = web.xnat.project("demo").resources["P"].number
        path = f"{E}/resources/{number}"
        assert await names(web, path) == ["of-project"]
        assert (await web.get(f"{path}/files/of-project")).text == "1"
        assert (await web.get(path)).type == "text/xml"
        # What is written stays here: the number becomes a label, and hides the other.
        await put(web, f"{path}/files/of-session", b"2")
        assert await names(web, path) == ["of-session"]
        assert (await web.ask("DELETE", path)).status == 200
        assert (await web.ask("DELETE", path)).status == 200
        assert web.xnat.project("demo").resources == {}
        # What is not there is gone.
        assert (await web.ask("DELETE", path)).status == 200


async def test_a_reason_is_needed() -> None:
    """500 for a file, 403 for a deletion."""
    async with raw_client(site(needs_reason=True)) as web:
        answer = await put(web, f"{R}/files/a")
        assert (answer.status, answer.message) == (500, "Justification required.")
        assert (await put(web, f"{R}/files/a", event_reason="upload")).status == 200
        assert (await put(web, f"{R}/files/b", **{"update-stats": "false"})).status == 200
        assert (await web.ask("DELETE", f"{R}/files/a")).status == 403
        assert (await web.put(f"{E}/resources/Q")).status == 500


@pytest.mark.parametrize("version", ["1.5.4", "1.6.1"])
async def test_old_versions_have_the_same(version: str) -> None:
    """At /REST, below a context path, with numbers as pyxnat has them; only digests they have not."""
    async with raw_client(site(profile=PROFILES[version]), context="/xnat") as web:
        path = "/REST/projects/demo/subjects/S/experiments/E/resources"
        assert (await web.put(f"{path}/R")).status == 200
        (row,) = (await web.get(path)).rows
        number = row["xnat_abstractresource_id"]
        headers = {"Content-Type": ""}
        posted = await web.ask("POST", f"{path}/{number}/files/a.txt", DATA, headers, inbody="true", overwrite="false")
        assert (posted.status, posted.text) == (200, "")
        (file,) = (await web.get(f"{path}/R/files")).rows
        assert (file["Name"], file["Size"], file["digest"]) == ("a.txt", str(len(DATA)), "")


async def test_large_files(tmp_path: Path) -> None:
    """Larger than what stays in memory, also in archives; without a directory only size and digest are kept."""
    big = bytes(9 * 1024 * 1024)
    async with raw_client(site(tmp_path)) as web:
        assert (await put(web, f"{R}/files/a.bin", big)).status == 200
        assert (await put(web, f"{R}/files/x.zip", zipped(b=big), extract="true")).status == 200
        rows = (await web.get(f"{R}/files")).rows
        assert [(row["Name"], row["digest"]) for row in rows] == [("a.bin", md5(big)), ("b", md5(big))]
        assert not list((tmp_path / "spool").iterdir())
    async with raw_client(site()) as web:
        assert (await put(web, f"{R}/files/a.bin", big)).status == 200
        assert (await web.get(f"{R}/files")).rows[0]["digest"] == md5(big)
        assert (await put(web, f"{R}/files/x.zip", zipped(b=big), extract="true")).status == 501
        assert (await web.get(f"{R}/files", format="zip")).status == 501


async def test_what_tests_put_in_and_take_out(tmp_path: Path) -> None:
    """Files of every object, without a request; where bytes are not kept there are none."""
    for directory in (tmp_path, None):
        async with raw_client(site(directory)) as web:
            session = web.xnat.archived[0]
            for owner, path in (
                (web.xnat.project("demo"), "/data/projects/demo"),
                (session.subject, "/data/subjects/XNAT_S00001"),
                (session, E),
            ):
                await add_file(web.xnat, owner, "Q", "a.txt", DATA)
                assert await names(web, f"{path}/resources/Q") == ["a.txt"]
                if directory is not None:
                    assert await file_bytes(web.xnat, owner, "Q", "a.txt") == DATA
                else:
                    with pytest.raises(FileNotFoundError):
                        await file_bytes(web.xnat, owner, "Q", "a.txt")


async def test_the_state_tells_of_resources() -> None:
    """Tests in other processes read them."""
    async with raw_client(site()) as web:
        await put(web, f"{R}/files/a.txt")
        await put(web, f"{E}/scans/1/resources/Q/files/b.txt")
        state: dict[str, Any] = (await web.get("/testserver/state")).json
        (session,) = state["archived"]
        files = [{"name": "a.txt", "size": 10, "md5": md5(DATA)}]
        assert session["resources"] == {"R": {"files": files, "uncatalogued": []}}
        assert list(session["scans"][0]["resources"]) == ["Q"]
        assert "/experiments/XNAT_E00001/scans/1" in (await web.get("/")).text
