"""Images that go as zips: whatever becomes of a zip, each file is stored once, as it is on disk."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from builders import image, listening, sop, upload, write
from conftest import Commands
from multidict import CIMultiDict
from yarl import URL

from asyncimport.journal import JournalReader
from asyncimport.model.choices import Compress, Overwrite
from asyncimport.model.events import Event, Notice, OutcomesRecorded
from asyncimport.model.options import Options
from asyncimport.model.summary import Summary
from asyncimport.source.bytes_on_disk import xxh3_of
from asyncimport.testserver import (
    PROFILES,
    DiskFull,
    Empty,
    Fault,
    LoginPage,
    Reset,
    Script,
    SeriesFilter,
    Status,
    Tell,
    TestXnat,
    serve,
)
from asyncimport.testserver.faults.actions import Action

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

FILES = 12
ONE = Options(workers=1, finalizers=1, compress=Compress.ALWAYS)
ZIP = "DICOM-zip"


@pytest.fixture
def xnat(tmp_path: Path) -> TestXnat:
    """Make a test XNAT that keeps files as they are."""
    xnat = TestXnat(tmp_path / "xnat")
    xnat.script = None
    return xnat


def tree(folder: Path, files: int = FILES, *, pixels: int = 40_000) -> Path:
    """Write a session of images that deflate well."""
    for number in range(1, files + 1):
        content = image(number, PixelData=bytes(range(200)) * (pixels // 200), pixels=pixels)
        write(folder / f"{number:03}", content)
    return folder


def scout(number: int) -> bytes:
    """Make an image of a series that rules drop."""
    return image(number, SeriesInstanceUID="1.9", SeriesDescription="scout", PixelData=bytes(20_000))


SCOUTS_ARE_REJECTED = Script(
    rewrite=False, reject=lambda header: header.series_description == "scout", condition='(0008,103E) = "scout"'
)


def count_zips(xnat: TestXnat) -> Fault:
    """Count imports of zips in a fault that does nothing."""
    return xnat.faults.add(Fault("import", Tell(lambda: None), share=1.0, path=ZIP))


def check(xnat: TestXnat, summary: Summary, folder: Path) -> None:
    """Check that the archive has each file once, as it is on disk."""
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert summary.files.stored == len(files)
    assert {one.verified for one in summary.sessions} == {"uids"}
    stored = [file for _, _, file in xnat.instances("demo")]
    assert sorted(file.digest or b"" for file in stored) == sorted(
        hashlib.md5(one, usedforsecurity=False).digest() for one in files
    )
    assert xnat.partial_files() == []
    assert xnat.prearchive == []


@dataclass
class Report:
    """The lanes of the files that were stored, and the notices."""

    lanes: list[str]
    notices: list[str]

    def __call__(self, event: Event) -> None:
        """Note an event."""
        match event:
            case OutcomesRecorded(outcomes=outcomes):
                self.lanes += ["file" if getattr(one, "zip_size", None) is None else "zip" for one in outcomes]
            case Notice(reason=reason):
                self.notices.append(reason)


async def test_all_but_the_first_file_go_as_zips(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The summary tells bytes on disk and bytes sent."""
    zips, report = count_zips(xnat), Report([], [])
    folder = tree(tmp_path / "tree")
    summary = await upload(url, [folder], tmp_path / "j", options=ONE, report=report)
    check(xnat, summary, folder)
    assert (zips.seen, summary.zips, report.lanes) == (FILES - 1, FILES - 1, ["file"] + (FILES - 1) * ["zip"])
    assert summary.bytes_stored / FILES < summary.bytes_sent < summary.bytes_stored / 4
    assert report.notices == []


async def test_a_zip_has_the_parameters_of_a_file(url: str, tmp_path: Path) -> None:
    """But for the handler; none of them lets XNAT build the session."""
    came: list[dict[str, str]] = []

    def note(query: str, body: bytes) -> tuple[str, bytes]:
        came.append(dict(URL(f"?{query}", encoded=True).query))
        return query, body

    async with relay(url, note, of="") as address:
        await upload(address, [tree(tmp_path / "tree", 2)], tmp_path / "j", options=ONE)
    first, second = came
    assert first["import-handler"] == "gradual-DICOM"
    assert {**first, "import-handler": ZIP} == second
    assert set(second) == {
        *("import-handler", "inbody", "PROJECT_ID", "SUBJECT_ID", "EXPT_LABEL", "rename", "prevent_auto_commit"),
        "SOURCE",
    }


BLOCKED = Status(301, headers={"Location": "https://gateway.example.org/blocked"})
BUSY = Status(503, headers={"Retry-After": "0"})
ALL = FILES - 1
"""All but the first file, which is no zip."""


@pytest.mark.parametrize(
    ("action", "times", "zips"),
    [
        pytest.param(Empty(), 3, 1, id="three empty 200"),
        pytest.param(Status(400, "no"), 2, ALL - 2, id="two 400"),
        pytest.param(Status(400, "no"), 3, 1, id="three 400"),
        pytest.param(BLOCKED, 3, 1, id="three 301"),
        pytest.param(Status(407), 3, 1, id="three 407"),
        pytest.param(BUSY, 2, ALL - 2, id="two 503 that make all wait"),
        pytest.param(BUSY, 3, 1, id="three 503 that make all wait"),
        pytest.param(Status(405), 1, 1, id="405"),
        pytest.param(Status(500), 2, 1, id="two 500"),
    ],
)
async def test_what_ends_zips(xnat: TestXnat, url: str, tmp_path: Path, action: Action, times: int, zips: int) -> None:
    """What it refuses for good; two failures; three refusals or waits in a row. The fault table has single faults."""
    folder, report = tree(tmp_path / "tree"), Report([], [])
    fault = xnat.faults.add(Fault("import", action, nth=2, times=times, path=ZIP))
    summary = await upload(url, [folder], tmp_path / "j", options=ONE, report=report)
    check(xnat, summary, folder)
    assert (fault.hits, summary.zips) == (times, zips)
    assert [one.partition(":")[0] for one in report.notices] == (zips == 1) * [
        "images are sent as they are from now on"
    ]


@pytest.mark.parametrize("action", [DiskFull(), Status(500), Status(404, "<html><body>HTTP Status 404</body></html>")])
async def test_a_server_that_was_in_trouble_gets_zips_again(
    xnat: TestXnat, url: str, tmp_path: Path, action: Action
) -> None:
    """Three zips in a row find no room, and so do their files once: that says nothing about zips."""
    folder, report = tree(tmp_path / "tree"), Report([], [])
    xnat.faults.add(Fault("import", action, nth=1, times=3, path=ZIP))
    for number in (2, 4, 6):
        xnat.faults.add(Fault("import", action, nth=number, path="gradual-DICOM"))
    summary = await upload(url, [folder], tmp_path / "j", options=ONE, report=report)
    check(xnat, summary, folder)
    assert (summary.zips, report.notices) == (ALL - 3, [])


@pytest.mark.parametrize(
    "action",
    [
        Status(502),
        Status(302, headers={"Location": "https://gateway.example.org/blocked"}),
        Status(200, "<html><body>blocked</body></html>", {"Content-Type": "text/html"}),
        Status(200, '{"state": "queued"}', {"Content-Type": "application/json"}),
        Status(202),
        Reset(after_bytes=100),
    ],
)
async def test_a_server_that_always_fails_on_zips_is_left_alone(
    xnat: TestXnat, url: str, tmp_path: Path, action: Action
) -> None:
    """Though each answer could be that of an overloaded server, or of a link that breaks."""
    folder, report = tree(tmp_path / "tree"), Report([], [])
    fault = xnat.faults.add(Fault("import", action, share=1.0, path=ZIP))
    summary = await upload(url, [folder], tmp_path / "j", options=ONE, report=report)
    check(xnat, summary, folder)
    assert (fault.hits, summary.zips) == (8, 0)
    assert len(report.notices) == 1


@pytest.mark.parametrize("action", [LoginPage(), Status(401)])
async def test_a_gateway_that_lets_no_zip_in(xnat: TestXnat, url: str, tmp_path: Path, action: Action) -> None:
    """Each zip is tried with a new login once; the file itself needs none."""
    folder, report = tree(tmp_path / "tree"), Report([], [])
    fault = xnat.faults.add(Fault("import", action, share=1.0, path=ZIP))
    summary = await upload(url, [folder], tmp_path / "j", options=ONE, report=report)
    check(xnat, summary, folder)
    assert (fault.hits, summary.zips, xnat.count["login"]) == (2 * 3, 0, 1 + 2 * 3)
    assert len(report.notices) == 1


def inflated(query: str, body: bytes) -> tuple[str, bytes]:
    """Unpack a zip on the way."""
    with zipfile.ZipFile(io.BytesIO(body)) as packed:
        return query, packed.read("f.dcm")


def stripped(query: str, _: bytes) -> tuple[str, bytes]:
    """Take the entry out of a zip."""
    out = io.BytesIO()
    zipfile.ZipFile(out, "w").close()
    return query, out.getvalue()


def cut(query: str, body: bytes) -> tuple[str, bytes]:
    """Cut a zip in its data."""
    return query, body[: len(body) // 2]


Change = Callable[[str, bytes], tuple[str, bytes]]


Encode = Callable[[web.Response], object]


@asynccontextmanager
async def relay(
    url: str, change: Change, *, of: str = ZIP, nth: int = 1, times: int = 1000, encode: Encode = lambda _: None
) -> AsyncIterator[str]:
    """Serve a gateway to a test XNAT that changes imports of a handler, from the nth on, and encodes all answers."""
    seen = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal seen
        query, body = request.url.raw_query_string, await request.read()
        if f"import-handler={of}" in query:
            seen += 1
            if nth <= seen < nth + times:
                query, body = change(query, body)
        names = {"Cookie", "Content-Type", "Authorization", "User-Agent"} & set(request.headers)
        headers = {name: request.headers[name] for name in names}
        target = URL(f"{url}{request.url.raw_path}?{query}", encoded=True)
        async with http.request(request.method, target, data=body, headers=headers, allow_redirects=False) as reply:
            kept = [(name, value) for name, value in reply.headers.items() if name in {"Content-Type", "Set-Cookie"}]
            response = web.Response(status=reply.status, body=await reply.read(), headers=CIMultiDict(kept))
            encode(response)
            return response

    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=jar) as http, listening(answer) as address:
        yield address


@pytest.mark.parametrize("change", [inflated, stripped, cut])
@pytest.mark.parametrize(("times", "zips"), [(1, ALL - 1), (1000, 1)])
async def test_a_gateway_that_changes_zips(
    xnat: TestXnat, url: str, tmp_path: Path, change: Change, times: int, zips: int
) -> None:
    """XNAT notices by the CRC, or finds no file; the file goes as it is. If it goes on, zips end."""
    folder = tree(tmp_path / "tree")
    async with relay(url, change, nth=2, times=times) as address:
        summary = await upload(address, [folder], tmp_path / "j", options=ONE)
    check(xnat, summary, folder)
    assert summary.zips == zips


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(lambda response: response.enable_compression(web.ContentCoding.gzip), id="gzip"),
        pytest.param(web.Response.enable_chunked_encoding, id="chunked"),
    ],
)
async def test_a_gateway_that_encodes_answers(xnat: TestXnat, url: str, tmp_path: Path, encode: Encode) -> None:
    """An address is one, however it comes."""
    folder = tree(tmp_path / "tree")
    async with relay(url, lambda query, body: (query, body), encode=encode) as address:
        summary = await upload(address, [folder], tmp_path / "j", options=ONE)
    check(xnat, summary, folder)
    assert summary.zips == ALL


async def test_a_zip_that_goes_elsewhere_ends_zips(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Its file goes as it is into the right session; what is elsewhere is archived by nobody."""
    folder, report = tree(tmp_path / "tree"), Report([], [])

    def misled(query: str, body: bytes) -> tuple[str, bytes]:
        return query.replace("EXPT_LABEL=", "EXPT_LABEL=X"), body

    async with relay(url, misled, nth=2) as address:
        summary = await upload(address, [folder], tmp_path / "j", options=ONE, report=report)
    (stray,) = xnat.prearchive
    assert stray.name.startswith("X")
    xnat.remove_row(stray)
    check(xnat, summary, folder)
    assert summary.zips == 1
    (notice,) = report.notices
    assert notice.startswith("images are sent as they are from now on: ")
    assert notice.endswith(f"elsewhere than the files before it: in row {stray.timestamp} of project demo")


def unnamed(query: str, body: bytes) -> tuple[str, bytes]:
    """Let XNAT call a file of a zip by its name there."""
    return query.replace("&rename=true", ""), body


async def test_files_under_another_name_are_all_there(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """One after another, XNAT finds another name for each."""
    folder = tree(tmp_path / "tree")
    async with relay(url, unnamed) as address:
        summary = await upload(address, [folder], tmp_path / "j", options=ONE)
    check(xnat, summary, folder)


async def test_files_that_replaced_each_other_are_sent_again(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Two that come together get one name, and one of them is lost. What is sent again is no zip."""
    folder, report = tree(tmp_path / "tree"), Report([], [])
    xnat.timing = replace(xnat.timing, naming_seconds=0.3)
    xnat.profile = replace(xnat.profile, file_lock="none")
    async with relay(url, unnamed) as address:
        options = replace(ONE, workers=8)
        summary = await upload(address, [folder], tmp_path / "j", options=options, report=report)
    check(xnat, summary, folder)
    assert "archive lacks files" in report.notices[-1]


async def test_what_a_script_drops_while_archiving_says_nothing_about_zips(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """The archive lacks it as the site wants it, so the next session goes as zips too."""
    first, second = tree(tmp_path / "tree" / "1"), tmp_path / "tree" / "2"
    write(first / "101", scout(101))
    for number in range(201, 205):
        write(second / f"{number}", image(number, StudyInstanceUID="1.5", PatientID="T", PixelData=bytes(40_000)))
    xnat.project("demo").script = SCOUTS_ARE_REJECTED
    report, options = Report([], []), replace(ONE, max_open_sessions=1)
    summary = await upload(url, [first.parent], tmp_path / "j", options=options, report=report)
    assert {one.state for one in summary.sessions} == {"archived"}
    assert (summary.files.stored, summary.files.refused) == (FILES + 4, 1)
    assert (summary.zips, report.notices) == (ALL + 3, [])


async def test_what_a_script_may_have_dropped_ends_zips(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """It may as well be lost."""
    folder, report = tree(tmp_path / "tree"), Report([], [])
    write(folder / "101", scout(101))
    xnat.project("demo").script = replace(SCOUTS_ARE_REJECTED, condition="isUnwanted[]")
    await upload(url, [folder], tmp_path / "j", options=ONE, report=report)
    assert [one for one in report.notices if "archive lacks files" in one]


async def test_a_file_under_two_names_is_not_archived(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The zip had taken effect when its connection broke, and the file itself gets another name."""
    folder = tree(tmp_path / "tree")
    xnat.faults.add(Fault("import", Reset(effect=True), path=ZIP))
    async with relay(url, unnamed) as address:
        summary = await upload(address, [folder], tmp_path / "j", options=ONE)
    (session,) = summary.sessions
    assert session.state == "held"
    assert "more files than were sent there: 1 too many" in (session.reason or "")
    assert xnat.archived == []


async def test_a_file_that_is_dropped_after_a_part_of_its_zip(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT may have kept that part, so its session is not archived, as it would be without a dropped file."""
    folder = tree(tmp_path / "tree")
    write(folder / "101", scout(101))
    xnat.script = SCOUTS_ARE_REJECTED
    async with relay(url, cut, nth=ALL + 1, times=1) as address:
        summary = await upload(address, [folder], tmp_path / "j", options=ONE)
    assert (summary.files.stored, summary.files.failed, summary.files.refused) == (FILES, 1, 0)
    assert summary.problems[0].reason.endswith("after an attempt that broke off")
    assert [one.state for one in summary.sessions] == ["held"]
    assert xnat.archived == []


async def test_a_file_that_is_dropped_after_a_gateway_refused_its_zip(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT has no part of that zip, so its session is archived without the file, as by plain sending."""
    folder = tree(tmp_path / "tree")
    write(folder / "101", scout(101))
    xnat.script = SCOUTS_ARE_REJECTED
    page = Status(406, "<html><body>blocked</body></html>", {"Content-Type": "text/html"})
    fault = xnat.faults.add(Fault("import", page, nth=ALL + 1, path=ZIP))
    summary = await upload(url, [folder], tmp_path / "j", options=ONE)
    assert (fault.hits, summary.files.stored, summary.files.failed, summary.files.refused) == (1, FILES, 0, 1)
    assert [one.state for one in summary.sessions] == ["archived"]


async def test_zips_need_no_other_library(url: str, tmp_path: Path, commands: Commands) -> None:
    """Where ISA-L is not installed, zlib deflates."""
    commands.absent = ["isal"]
    commands.login(url)
    ended = await commands("upload", tree(tmp_path / "tree"), "-P", "demo", "--compress", "always", "-o", "json")
    assert ended.code == 0, ended.err
    assert ended.json["zips"] == ALL


@pytest.mark.parametrize("version", PROFILES)
async def test_zips_begin_with_xnat_1_8(tmp_path: Path, version: str) -> None:
    """Before, whatever is asked for, all files go as they are, and who asked for zips is told."""
    report = Report([], [])
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    folder, zips = tree(tmp_path / "tree"), count_zips(xnat)
    async with serve(xnat) as url:
        summary = await upload(url, [folder], tmp_path / "j", options=ONE, overwrite=Overwrite.APPEND, report=report)
    assert summary.files.stored == FILES
    assert xnat.sop_uids("demo") == {sop(number) for number in range(1, FILES + 1)}
    has_zips = version in {"1.8", "1.9", "1.10"}
    assert (summary.zips, zips.seen) == (has_zips * ALL, has_zips * ALL)
    told = "images are sent as they are from now on: this XNAT is older than 1.8, or does not show its version"
    assert [notice for notice in report.notices if "as they are" in notice] == ([] if has_zips else [told])


@pytest.mark.parametrize("rule", ["filter", "script"])
async def test_a_rule_of_the_site_drops_a_file_in_either_lane(
    xnat: TestXnat, url: str, tmp_path: Path, rule: str
) -> None:
    """An empty answer to a zip is no verdict; that to the file is. After three files the series goes as it is."""
    folder = tree(tmp_path / "tree")
    for number in range(101, 106):
        write(folder / f"{number}", scout(number))
    if rule == "filter":
        xnat.series_filter = SeriesFilter(("scout",))
    else:
        xnat.script = SCOUTS_ARE_REJECTED
    zips = count_zips(xnat)
    summary = await upload(url, [folder], tmp_path / "j", options=ONE)
    assert (summary.files.stored, summary.files.refused) == (FILES, 5)
    assert {one.state for one in summary.sessions} == {"archived"}
    assert zips.seen == ALL + 3


async def test_zips_end_with_nothing_in_the_wrong_place_when_many_go_at_once(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """Every other zip fails in its own way, with 16 files in flight."""
    folder = tree(tmp_path / "tree", 120, pixels=17_000)
    actions: list[Action] = [Empty(), Status(400), Status(500), Reset(effect=True), Reset(after_bytes=200)]
    for seed, action in enumerate(actions):
        xnat.faults.add(Fault("import", action, share=0.1, seed=seed, path=ZIP))
    options = replace(ONE, workers=16)
    summary = await upload(url, [folder], tmp_path / "j", options=options)
    check(xnat, summary, folder)


async def test_large_files_are_deflated_as_they_are_sent(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Their digests in the journal are those of the files."""
    folder = tree(tmp_path / "tree", 3, pixels=3_000_000)
    summary = await upload(url, [folder], tmp_path / "j", options=ONE)
    check(xnat, summary, folder)
    assert summary.zips == 2

    def digests() -> set[bytes | None]:
        with JournalReader.open(tmp_path / "j") as reader:
            return {one.xxh3 for one in reader.stored_instances()}

    files = [path.read_bytes() for path in folder.iterdir()]
    found = await anyio.to_thread.run_sync(digests)
    assert found == {xxh3_of(one) for one in files}


async def test_receipts_and_events_tell_the_lane(url: str, tmp_path: Path, commands: Commands) -> None:
    """And bytes on disk, and bytes sent; the digest is that of the file."""
    folder = tree(tmp_path / "tree", 3)
    commands.login(url)
    to = "--receipts", tmp_path / "receipts", "--events", tmp_path / "events", "--metrics", tmp_path / "metrics.prom"
    ended = await commands("upload", folder, "-P", "demo", "--compress", "always", "-o", "json", *to)
    assert ended.code == 0, ended.err
    receipts = [json.loads(line) for line in (tmp_path / "receipts").read_text().splitlines()]
    files = sorted((one for one in receipts if one["kind"] == "file"), key=lambda one: one["path"])
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    stored = sorted((one for one in events if one["event"] == "file_stored"), key=lambda one: one["path"])
    for found in (files, stored):
        assert [one["lane"] for one in found] == ["file", "zip", "zip"]
        assert [one["bytes"] for one in found] == [path.stat().st_size for path in sorted(folder.iterdir())]
        assert found[0]["sent_bytes"] == found[0]["bytes"]
        assert all(0 < one["sent_bytes"] < one["bytes"] / 4 for one in found[1:])
    sent = sum(one["sent_bytes"] for one in files)
    assert [one["sha256"] for one in files] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
    ]
    assert ended.json["bytes"]["sent"] == sent
    assert ended.json["zips"] == 2
    metrics = (tmp_path / "metrics.prom").read_text()
    assert re.search(rf"^asyncimport_sent_bytes_total\{{.*\}} {sent}$", metrics, re.MULTILINE)
    assert re.search(r"^asyncimport_zipped_files_total\{.*\} 2$", metrics, re.MULTILINE)
    table = await commands("status", "-P", "demo")
    assert "2 files went as zips" in table.out


async def test_a_limit_of_the_rate_counts_what_is_sent_and_turns_zips_on(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """With auto: files wait for the limit, and a trial shows that zips do so for less time."""
    folder = tree(tmp_path / "tree", 125, pixels=20_000)
    # So little that a busy machine deflates faster.
    options = replace(ONE, workers=4, compress=Compress.AUTO, max_rate=250_000.0)
    summary = await upload(url, [folder], tmp_path / "j", options=options)
    check(xnat, summary, folder)
    assert 62 < summary.zips <= 125 - 4


@pytest.mark.parametrize("compress", [Compress.AUTO, Compress.NEVER])
async def test_a_fast_link_gets_no_zips(xnat: TestXnat, url: str, tmp_path: Path, compress: Compress) -> None:
    """Files wait for the server, not for the link."""
    xnat.timing = replace(xnat.timing, parallel_seconds=0.02)
    folder, zips = tree(tmp_path / "tree", 100, pixels=20_000), count_zips(xnat)
    summary = await upload(url, [folder], tmp_path / "j", options=replace(ONE, workers=4, compress=compress))
    check(xnat, summary, folder)
    assert zips.seen == 0


async def test_names_on_disk_do_not_matter(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """XNAT would unpack an entry that is called like an archive. Empty files are no images."""
    folder = tree(tmp_path / "tree")
    for number, ending in enumerate((".gz", ".zip", ".tar.gz", ".tgz", " \u00e4.zar"), 1):
        path = folder / f"{number:03}"
        path.rename(path.with_name(path.name + ending))
    (folder / "empty.dcm").touch()
    summary = await upload(url, [folder], tmp_path / "j", options=ONE)
    (folder / "empty.dcm").unlink()
    check(xnat, summary, folder)
    assert summary.zips == ALL


async def test_a_dry_run_makes_no_zips(xnat: TestXnat, url: str, tmp_path: Path, commands: Commands) -> None:
    """It reads no files."""
    commands.login(url)
    ended = await commands("upload", tree(tmp_path / "tree"), "-P", "demo", "--compress", "always", "--dry-run")
    assert ended.code == 0, ended.err
    assert xnat.imports == []
