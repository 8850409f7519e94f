"""The requests that fill a resource: how files are sent, to which owner, and what a dry run does."""

import asyncio
import io
import os
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiohttp import web
from builders import listening
from resource_builders import (
    FAILED,
    REFUSED,
    SESSION,
    STORED,
    STUDY,
    WRITES,
    Files,
    batch_of,
    fill,
    fill_one,
    listed_digests,
    make_files,
    make_session,
    md5_bytes,
    md5_hex,
)

from asyncimport.model.attachments import ResourceOwner
from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.testserver import (
    PROFILES,
    ArchivedSession,
    Fault,
    Status,
    Tell,
    TestXnat,
    add_file,
    add_session,
    serve,
)

pytestmark = pytest.mark.anyio

files, session = pytest.fixture(make_files), pytest.fixture(make_session)


# --- How it is sent


async def test_many_small_files_go_in_few_requests(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """They are sent as zips, which XNAT unpacks; the digests prove that all arrived."""
    some = files.small(700)
    results = await fill(url, batch_of(*some))
    assert {one.state for one in results.values()} == {STORED}
    assert listed_digests(session) == {one.name: md5_bytes(Path(one.file.path).read_bytes()) for one in some}
    assert xnat.count["file"] == 2
    xnat.count.clear()
    await fill(url, batch_of(*some))
    assert xnat.count["file"] == 0


async def test_a_zip_has_files_of_one_kind_and_a_maximum_size(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The options of a request hold for all its files; large files are sent alone."""
    kinds = [files.write(f"{kind}{one}", b"1", format=kind) for kind in ("", "PDF") for one in range(3)]
    large = files.write("large", bytes(300 << 10))
    middling = [files.write(f"m{one}", os.urandom(250 << 10)) for one in range(40)]
    results = await fill(url, batch_of(*kinds, large, *middling))
    assert {one.state for one in results.values()} == {STORED}
    # Two kinds, of one of which 10 MB take two zips, and the large one.
    assert xnat.count["file"] == 4
    formats = Counter(file.metadata.format for file in session.own_resources["R"].files.values() if file.metadata)
    assert formats == {"": 44, "PDF": 3}


async def test_small_files_are_sent_alone_without_zips(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Each has a request of its own."""
    await fill(url, batch_of(*files.small(5)), zips=False)
    assert xnat.count["file"] == 5
    assert len(listed_digests(session)) == 5


async def test_a_zip_file_is_not_unpacked(url: str, session: ArchivedSession, files: Files) -> None:
    """It may be alone or among others."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("inner", b"1")
    alone, one, two = (files.write(name, out.getvalue()) for name in ("alone.zip", "one.zip", "two.zip"))
    assert (await fill_one(url, alone)).state is STORED
    results = await fill(url, batch_of(one, two))
    assert {one.state for one in results.values()} == {STORED}
    assert sorted(listed_digests(session)) == ["alone.zip", "one.zip", "two.zip"]


@pytest.mark.parametrize("action", [Status(400, "<h3>no zip here</h3>"), Status(413), Status(500), Status(200)])
async def test_the_files_of_a_failed_zip_are_sent_alone(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, action: Status
) -> None:
    """The zip is refused, fails, or has no effect."""
    xnat.faults.add(Fault("file", action, path="attachments.zip"))
    results = await fill(url, batch_of(*files.small(4)))
    assert {(one.state, one.sent) for one in results.values()} == {(STORED, True)}
    assert len(listed_digests(session)) == 4
    assert xnat.count["file"] == 1 + 4


async def test_a_zip_without_its_unreadable_files_is_sent(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Files that are removed meanwhile fail, and the others arrive."""
    some = files.small(4)
    gone = Path(some[2].file.path)

    def remove() -> None:
        asyncio.get_running_loop().call_soon(gone.unlink)

    xnat.faults.add(Fault("resource", Tell(remove)))
    results = await fill(url, batch_of(*some))
    assert Counter(one.state for one in results.values()) == {STORED: 3, FAILED: 1}
    assert results["0002.csv"].state is FAILED
    assert len(listed_digests(session)) == 3


class Sink:
    """A server that takes files down as they come over the wire, and lists them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, str], bytes]] = []
        self.made: list[dict[str, str]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Log in whoever comes; note a file; list all that came."""
        path = request.path
        if path == "/data/JSESSION":
            return web.Response(text="OURS")
        if path == "/data/auth":
            return web.Response(text="User 'demo' is logged in")
        if path == "/data/projects/demo/experiments":
            row = {"ID": "X_E1", "label": "E", "UID": STUDY, "project": "demo", "subject_label": "S"}
            return web.json_response({"ResultSet": {"Result": [row]}})
        assert path.startswith("/data/experiments/X_E1/resources/R")
        if request.method == "GET":
            rows = [
                {
                    "Name": name.rpartition("/")[2],
                    "Size": str(len(data)),
                    "digest": md5_hex(data),
                    "URI": f"/data/experiments/X_E1/resources/1/files/{name}",
                }
                for name, data in self._files()
            ]
            return web.json_response({"ResultSet": {"Result": [{**row, "collection": "R"} for row in rows]}})
        if not path.endswith("/files") and "/files/" not in path:
            self.made.append(dict(request.query))
            return web.Response()
        content = b"".join([piece async for piece in request.content.iter_any()])
        self.requests.append((path.partition("/files/")[2], dict(request.query), dict(request.headers), content))
        return web.Response()

    def _files(self) -> Iterable[tuple[str, bytes]]:
        for name, query, _, content in self.requests:
            if "extract" in query:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    yield from ((one, archive.read(one)) for one in archive.namelist())
            else:
                yield name, content


@pytest.mark.parametrize("size", [1, 300 << 10, LARGE, LARGE + 1, 3 * LARGE + 17])
async def test_every_file_is_sent_as_xnat_needs_it(files: Files, size: int) -> None:
    """The body is the file, has a length and a reason, and is never chunked."""
    sink = Sink()
    content = os.urandom(size)
    attachment = files.write("in/a.pdf", content, format="PDF", content="a report")
    async with listening(sink.answer) as url:
        results = await fill(url, batch_of(attachment, tags="x,y"), event_reason="visit 1")
    assert results["in/a.pdf"].state is STORED
    assert sink.made == [{"tags": "x,y", "event_reason": "visit 1"}]
    ((name, query, headers, received),) = sink.requests
    assert name == "in/a.pdf"
    assert query == {"inbody": "true", "format": "PDF", "content": "a report", "event_reason": "visit 1"}
    assert headers["Content-Length"] == str(size)
    assert "Transfer-Encoding" not in headers
    assert headers["Content-Type"] == "application/octet-stream"
    assert received == content


async def test_zips_are_sent_as_xnat_needs_them(files: Files) -> None:
    """The name ends in `.zip`, the files have their paths, and the same files make the same zip."""
    bodies = []
    for _ in range(2):
        sink = Sink()
        some = [files.write("in/a.csv", b"1"), files.write("b.csv", b"2")]
        async with listening(sink.answer) as url:
            await fill(url, batch_of(*some))
        ((name, query, headers, received),) = sink.requests
        assert (name, query["extract"], query["inbody"]) == ("attachments.zip", "true", "true")
        assert "overwrite" not in query
        assert int(headers["Content-Length"]) == len(received)
        with zipfile.ZipFile(io.BytesIO(received)) as archive:
            assert {one: archive.read(one) for one in archive.namelist()} == {"in/a.csv": b"1", "b.csv": b"2"}
        bodies.append(received)
    assert bodies[0] == bodies[1]


async def test_tags_are_sent_once(url: str, session: ArchivedSession, files: Files) -> None:
    """XNAT adds them again with each request that has them."""
    await fill(url, batch_of(*files.small(5), tags="x,y"), zips=False)
    await fill(url, batch_of(*files.small(7), tags="x,y"), zips=False)
    said = session.own_resources["R"].metadata
    assert said is not None
    assert said.tags == ("x", "y")


async def test_an_existing_resource_is_filled(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """XNAT answers its creation with 409."""
    await add_file(xnat, session, "R", "theirs", b"1")
    assert (await fill_one(url, files.write("ours", b"2"))).state is STORED
    assert list(listed_digests(session)) == ["theirs", "ours"]
    assert len(session.own_resources) == 1


@pytest.mark.parametrize("reason", ["", "visit 1"])
async def test_sites_with_an_audit_trail(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, reason: str
) -> None:
    """They answer 500 to a change without a reason, so each request has one."""
    xnat.needs_reason = True
    assert (await fill_one(url, files.write("a", b"1"), event_reason=reason)).state is STORED
    assert list(listed_digests(session)) == ["a"]


# --- Where to


async def test_a_session_is_found_by_its_study(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """None and several are refused, and so is a label of another study."""
    place = ResourceOwner("demo", study_uid=STUDY)
    assert (await fill(url, batch_of(files.write("a", b"1"), owner=place)))["a"].state is STORED
    assert list(listed_digests(session)) == ["a"]
    none = (await fill(url, batch_of(files.write("a", b"1"), owner=ResourceOwner("demo", study_uid="9.9"))))["a"]
    assert (none.state, none.reason) == (REFUSED, "the archive has no session of study 9.9 in project demo")
    wrong = (await fill(url, batch_of(files.write("a", b"1"), owner=ResourceOwner("demo", "", "E", "9.9"))))["a"]
    assert (wrong.state, wrong.reason) == (REFUSED, "the archive has no such session of this study in project demo (E)")
    twin = add_session(xnat, "S", "F", study_uid=STUDY)
    two = (await fill(url, batch_of(files.write("b", b"1"), owner=place)))["b"]
    assert (two.state, two.reason) == (REFUSED, f"the archive has 2 sessions of study {STUDY} in project demo")
    assert twin.own_resources == {}
    label = (await fill(url, batch_of(files.write("b", b"1"), owner=ResourceOwner("demo", "", "F", STUDY))))["b"]
    assert label.state is STORED
    assert list(listed_digests(twin)) == ["b"]


@pytest.mark.parametrize("uid", ["1.2&UID=1.2.840.1", "*", "1.2.840.1,1", "1.2.840.*"])
async def test_a_malformed_study_uid_is_refused(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, uid: str
) -> None:
    """A table may have any text in this column; it does not change the query."""
    results = (await fill(url, batch_of(files.write("a", b"1"), owner=ResourceOwner("demo", study_uid=uid))))["a"]
    assert results.state is REFUSED
    assert session.own_resources == {}
    assert xnat.count["resource"] == 0


async def test_a_missing_session_is_refused(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """XNAT would list the project's files instead, which are not the session's."""
    await add_file(xnat, xnat.project("demo"), "R", "a", b"1")
    results = (await fill(url, batch_of(files.write("a", b"1"), owner=ResourceOwner("demo", "", "NOPE"))))["a"]
    assert (results.state, results.reason) == (REFUSED, "the archive has no such session in project demo (NOPE)")
    assert session.own_resources == {}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("scan", ["9", "ALL", "*", "1,9"])
async def test_a_missing_scan_is_refused(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, scan: str, dry_run: bool
) -> None:
    """So are patterns, which XNAT would accept."""
    place = ResourceOwner("demo", "", "E", "", scan)
    results = (await fill(url, batch_of(files.write("a", b"1"), owner=place), dry_run=dry_run))["a"]
    assert (results.state, results.reason) == (REFUSED, f"the session has no scan {scan}")
    assert session.scans["1"].resources == {}
    assert xnat.count["file"] == xnat.count["resource"] == 0


@pytest.mark.parametrize("scan", ["1", "1-MR1", "T1 a/b,c"])
async def test_a_scan_is_found_by_its_id(xnat: TestXnat, url: str, files: Files, scan: str) -> None:
    """The ID may have any characters."""
    session = add_session(xnat, "S", "E", scans={"0": "MR", scan: "MR"})
    place = ResourceOwner("demo", "", "E", "", scan)
    assert (await fill(url, batch_of(files.write("a", b"1"), owner=place)))["a"].state is STORED
    assert list(session.scans[scan].resources["R"].files) == ["a"]
    assert session.scans["0"].resources == {}
    assert session.own_resources == {}


async def test_subjects_and_projects_own_resources(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """A missing subject is refused."""
    for place in (ResourceOwner("demo", "S"), ResourceOwner("demo")):
        assert (await fill(url, batch_of(files.write("a", b"1"), owner=place)))["a"].state is STORED
    assert session.subject is not None
    assert list(session.subject.resources["R"].files) == ["a"]
    assert list(xnat.project("demo").resources["R"].files) == ["a"]
    assert session.own_resources == {}
    none = (await fill(url, batch_of(files.write("b", b"1"), owner=ResourceOwner("demo", "NOPE"))))["b"]
    assert (none.state, none.reason) == (REFUSED, "the archive has no such subject in project demo (NOPE)")
    assert list(xnat.project("demo").resources["R"].files) == ["a"]


async def test_a_label_that_is_the_id_of_another_resource(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Numeric labels are refused earlier; even without that, another resource's files do not count as ours."""
    await add_file(xnat, xnat.project("demo"), "P", "a", b"1")
    number = str(xnat.project("demo").resources["P"].number)
    results = (await fill(url, batch_of(files.write("a", b"1"), label=number)))["a"]
    assert (results.state, results.sent) == (STORED, True)
    assert list(listed_digests(session, number)) == ["a"]


@pytest.mark.parametrize("version", ["1.6.1", "1.8"])
async def test_old_versions_below_a_context_path(tmp_path: Path, files: Files, version: str) -> None:
    """No request is unknown to XNAT 1.6, and each address has the context path."""
    xnat = TestXnat(tmp_path / "old", profile=PROFILES[version])
    session = add_session(xnat, "S", "E", study_uid=STUDY)
    async with serve(xnat, context="/xnat") as url:
        for place in (
            SESSION,
            ResourceOwner("demo", study_uid=STUDY),
            ResourceOwner("demo", "", "E", "", "1"),
            ResourceOwner("demo", "S"),
        ):
            some = files.small(3)
            results = await fill(url, batch_of(*some, owner=place))
            assert {(one.state) for one in results.values()} == {STORED}
        xnat.storage.checksums = False
        await add_file(xnat, session, "R", "same", b"1")
        assert (await fill_one(url, files.write("same", b"1"))).sent is False
    assert len(listed_digests(session)) == 4


async def test_a_dry_run_sends_nothing(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """It reports what would be sent, and changes nothing."""
    await add_file(xnat, session, "R", "same", b"1")
    await add_file(xnat, session, "R", "other", b"2")
    await add_file(xnat, session, "R", "half", b"1")
    contents = {"same": b"1", "other": b"3", "half": b"12", "new": b"4"}
    three = [files.write(name, content, is_started=name == "half") for name, content in contents.items()]
    results = await fill(url, batch_of(*three), dry_run=True)
    assert {name: one.state.value for name, one in results.items()} == {
        "same": "STORED",
        "other": "REFUSED",
        "half": "PENDING",
        "new": "PENDING",
    }
    assert {kind: xnat.count[kind] for kind in WRITES} == dict.fromkeys(WRITES, 0)
    assert list(session.own_resources) == ["R"]


_NO_SUCH_RESOURCE = [
    None,
    Status(404, "", {"Content-Type": "text/html"}),
    Status(404),
    Status(404, "<h3>Unable to find the specified resource.</h3>", {"Content-Type": "text/html"}),
    Status(404, "<html><title>404 Not Found</title></html>", {"Content-Type": "text/html"}),
    Status(500, "<h3>NullPointerException</h3>", {"Content-Type": "text/html"}),
]


@pytest.mark.parametrize("answer", _NO_SUCH_RESOURCE)
async def test_a_dry_run_reports_a_missing_resource(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, answer: Status | None
) -> None:
    """A few requests show that it would be created, whatever XNAT's listing answers."""
    if answer is not None:
        xnat.faults.add(Fault("listing", answer, path="/files", share=1))
    before = xnat.count["listing"]
    results = await fill(url, batch_of(files.write("a", b"1"), files.write("b", b"2"), label="NEW"), dry_run=True)
    assert {(one.state.value, one.reason) for one in results.values()} == {("PENDING", "the resource would be made")}
    assert xnat.count["listing"] - before <= 4
    assert {kind: xnat.count[kind] for kind in WRITES} == dict.fromkeys(WRITES, 0)
    assert session.own_resources == {}


async def test_a_dry_run_knows_an_empty_resource(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It exists, and would not be created."""
    await add_file(xnat, session, "EMPTY", "on-the-disk-only", b"1", catalogued=False)
    results = await fill(url, batch_of(files.write("a", b"1"), label="EMPTY"), dry_run=True)
    assert (results["a"].state.value, results["a"].reason) == ("PENDING", None)


@pytest.mark.parametrize("answer", _NO_SUCH_RESOURCE[1:4])
async def test_a_missing_resource_is_created(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, answer: Status
) -> None:
    """It is created and filled, whatever XNAT answers to the first listing."""
    xnat.faults.add(Fault("listing", answer, path="/files"))
    assert (await fill_one(url, files.write("a", b"1"))).sent
    assert list(listed_digests(session)) == ["a"]
