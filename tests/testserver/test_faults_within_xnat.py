"""Faults of XNAT itself: locks, conflicts, full disks, held rows, hidden projects, late effects."""

from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup
from raw_client import RawClient, Reply, basic_auth, dicom, files_below, raw_client, sop
from yarl import URL

from asyncimport.testserver import (
    PROFILES,
    Administer,
    Conflict,
    DiskFull,
    Empty,
    Fault,
    Gateway,
    Late,
    Leave,
    Locked,
    Project,
    Reset,
    RowStatus,
    TestXnat,
    Unseen,
    User,
)

pytestmark = pytest.mark.anyio
ARCHIVED = "/data/archive/projects/demo/subjects/S/experiments/E"
MASKED = "unable to read DICOM object upload.dcm"
TIMED_OUT = "The archive operation for E did not complete within the configured timeout interval."


async def finalise(web: RawClient, kind: str, uri: str) -> Reply:
    """Archive, commit or build a session."""
    return await (web.archive(uri) if kind == "archive" else web.post(uri, action=kind))


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("archive", 403, "Operation already in progress on this prearchive entry."),
        ("commit", 409, "session document locked"),
        ("build", 409, "session document locked"),
    ],
)
async def test_a_session_is_locked(kind: str, status: int, text: str) -> None:
    """The request has no effect; the row stays as it is."""
    async with raw_client() as web:
        uri = await web.build_session()
        fault = web.xnat.faults.add(Fault(kind, Locked(), times=2))
        for _ in range(2):
            answer = await finalise(web, kind, uri)
            assert (answer.status, answer.message) == (status, text)
        assert await web.row_status(uri) == "READY"
        assert (await finalise(web, kind, uri)).status == 200
        assert fault.hits == 2


@pytest.mark.parametrize("kind", ["archive", "commit"])
@pytest.mark.parametrize("status", [RowStatus.CONFLICT, RowStatus.ERROR])
async def test_an_archiving_fails(kind: str, status: RowStatus) -> None:
    """500 with the text, which the log has too; nothing is archived, and a retry succeeds."""
    async with raw_client() as web:
        web.xnat.project("demo").prearchive_code = 4 * (kind == "commit")
        uri = await (web.build_session() if kind == "archive" else web.import_session(dicom()))
        web.xnat.faults.add(Fault(kind, Conflict("Session processing may already be in progress: x", status)))
        answer = await finalise(web, kind, uri)
        text = "Session processing may already be in progress: x"
        assert (answer.status, answer.message) == (500, f"FAILED: Unable to archive E: Operation Failed: {text}")
        assert await web.row_status(uri) == status
        assert (await web.get(f"{uri}/logs/last")).text == text
        assert not web.xnat.archived
        assert (await finalise(web, kind, uri)).status == (200 if kind == "archive" else 301)


async def test_a_conflict_has_its_own_code_in_old_versions() -> None:
    """1.6: 409."""
    async with raw_client(TestXnat(profile=PROFILES["1.6.1"])) as web:
        uri = await web.build_session()
        web.xnat.faults.add(Fault("archive", Conflict(), times=1))
        answer = await web.archive(uri)
        assert answer.status == 409
        assert "Session already exists with matching files." in answer.message


async def test_what_is_within_xnat_strikes_only_whom_it_lets_in() -> None:
    """A request without a login is not counted."""
    async with raw_client() as web:
        uri = await web.build_session()
        fault = web.xnat.faults.add(Fault("archive", Conflict()))
        web.xnat.expire_logins()
        assert (await web.archive(uri)).status == 401
        assert fault.seen == 0
        await web.get("/data/JSESSION", basic_auth())
        assert (await web.archive(uri)).status == 500


@pytest.mark.parametrize("action", [Conflict(), Leave(RowStatus.ERROR)])
async def test_a_row_that_is_gone_or_not_named_is_answered_as_ever(action: Conflict | Leave) -> None:
    """404."""
    async with raw_client() as web:
        web.xnat.faults.add(Fault("archive", action, times=2))
        assert (await web.archive("/prearchive/projects/demo/20200101_000000000/E")).status == 404
        assert (await web.post("/data/services/archive")).status == 404


async def test_xnat_fails_and_a_gateway_hides_it() -> None:
    """One fault on the way and one within strike the same request."""
    async with raw_client() as web:
        uri = await web.build_session()
        web.xnat.faults.add(Fault("archive", Gateway()))
        web.xnat.faults.add(Fault("archive", Conflict()))
        assert (await web.archive(uri)).status == 504
        assert await web.row_status(uri) == "CONFLICT"


async def test_an_import_is_answered_with_nothing() -> None:
    """200 and an empty body; no file and no row."""
    async with raw_client() as web:
        web.xnat.faults.add(Fault("import", Empty()))
        answer = await web.send(dicom())
        assert (answer.status, answer.type, answer.text) == (200, "text/uri-list", "")
        assert not web.xnat.prearchive
        assert not web.xnat.imports


async def test_a_disk_is_full_for_a_while(tmp_path: Path) -> None:
    """400 for valid files, as for invalid ones; no file is kept, and all can be sent again."""
    async with raw_client(TestXnat(tmp_path)) as web:
        fault = web.xnat.faults.add(Fault("import", DiskFull(), times=3))
        for body in (dicom(1), b"no DICOM", dicom(2)):
            answer = await web.send(body)
            assert (answer.status, answer.message) == (400, MASKED)
        assert fault.hits == 3
        assert not await files_below(tmp_path)
        await web.archive_session(dicom(1), dicom(2))
        assert web.xnat.sop_uids() == {sop(1), sop(2)}


@pytest.mark.parametrize(
    ("pixels", "kept"), [(100, -1), (10_000, 0), (9 * 1024 * 1024, 0)], ids=["small", "middling", "large"]
)
async def test_a_full_disk_keeps_a_part(tmp_path: Path, pixels: int, kept: int) -> None:
    """It is listed like any other after a build; sending it again repairs it."""
    body = dicom(PixelData=bytes(pixels))
    async with raw_client(TestXnat(tmp_path, anonymise=False)) as web:
        web.xnat.faults.add(Fault("import", DiskFull(partial=True)))
        assert (await web.send(body)).status == 400
        (row,) = web.xnat.prearchive
        (file,) = row.files
        ((name, data),) = (await files_below(tmp_path)).items()
        assert not file.complete
        assert name[-1] == file.name
        assert len(data) == file.size
        assert body.startswith(data)
        if pixels < 1000:
            assert len(data) == len(body) + kept
        else:
            assert len(data) <= len(body) / 2
        uri = await web.build_session(body)
        assert [file.complete for file in row.files] == [True]
        assert (await web.archive(uri)).status == 200
        assert web.xnat.partial_files() == []


@pytest.mark.parametrize("kind", ["archive", "commit", "build"])
@pytest.mark.parametrize("status", [RowStatus.CONFLICT, RowStatus.ERROR])
async def test_a_row_is_left_in_a_failed_status(kind: str, status: RowStatus) -> None:
    """500; it keeps the status however often it is looked at, and the action can be retried."""
    async with raw_client() as web:
        uri = await web.build_session()
        fault = web.xnat.faults.add(Fault(kind, Leave(status, message="Bad luck")))
        answer = await finalise(web, kind, uri)
        assert (answer.status, answer.message.endswith("Bad luck")) == (500, True)
        assert [await web.row_status(uri) for _ in range(3)] == [status] * 3
        fault.release()
        await fault.settled()
        assert await web.row_status(uri) == status
        assert (await finalise(web, kind, uri)).status == 200


BUSY = [
    ("archive", "ARCHIVING", "gone"),
    ("archive", "QUEUED_ARCHIVING", "gone"),
    ("archive", "_ARCHIVING", "gone"),
    ("archive", "QUEUED_BUILDING", "READY"),
    ("commit", "BUILDING", "READY"),
    ("commit", "QUEUED_BUILDING", "READY"),
    ("commit", "_BUILDING", "READY"),
    ("commit", "_ARCHIVING", "gone"),
    ("build", "BUILDING", "READY"),
    ("build", "_DELETING", "gone"),
]


@pytest.mark.parametrize(("kind", "status", "end"), BUSY)
async def test_a_row_is_left_busy_until_it_is_let_go(kind: str, status: str, end: str) -> None:
    """The client gets a timeout; then the work is done."""
    async with raw_client() as web:
        uri = await (web.build_session() if kind == "archive" else web.import_session(dicom()))
        fault = web.xnat.faults.add(Fault(kind, Leave(RowStatus(status))))
        answer = await finalise(web, kind, uri)
        if "ARCHIVING" in status:
            assert (answer.status, answer.message) == (500, TIMED_OUT)
        else:
            assert (answer.status, "nginx" in answer.text) == (504, True)
        assert [await web.row_status(uri) for _ in range(3)] == [status] * 3
        if status.startswith("_"):
            assert (await web.post(uri, action="build")).status == 409
            assert (await web.archive(uri)).status == 403
        assert fault.release() == 1
        await fault.settled()
        assert await web.row_status(uri) == end
        assert bool(web.xnat.archived) is ("ARCHIVING" in status)
        assert not web.xnat.held_rows
        assert end == "gone" or web.xnat.prearchive[0].document is not None


@pytest.mark.parametrize(
    "path", ["", "/data/prearchive", "/data/prearchive/projects", "/data/prearchive/projects/demo"]
)
async def test_a_row_moves_on_when_it_has_been_looked_at(path: str) -> None:
    """Two looks at the session or at a listing with it show the status, the third does not; others do not count."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        uri = await web.build_session()
        web.xnat.faults.add(Fault("archive", Leave(RowStatus.LOCKED_ARCHIVING, looks=2)))
        assert (await web.archive(uri)).status == 500
        shown: list[list[str]] = []
        for _ in range(3):
            await web.get("/data/prearchive/projects/other")
            await web.get(f"{uri}/scans")
            assert (await web.get(ARCHIVED)).status == (404 if len(shown) < 3 else 200)
            rows = (await web.get(path or uri, format="json")).rows
            shown.append([row["status"] for row in rows])
        assert shown == [["_ARCHIVING"], ["_ARCHIVING"], []]
        assert (await web.get(ARCHIVED)).status == 200


async def test_a_row_may_end_in_another_status() -> None:
    """It is archiving for a while, and then in conflict."""
    async with raw_client() as web:
        uri = await web.build_session()
        left = web.xnat.leave(web.xnat.prearchive[0], RowStatus.LOCKED_ARCHIVING, looks=1, then=RowStatus.CONFLICT)
        assert [await web.row_status(uri) for _ in range(3)] == ["_ARCHIVING", "CONFLICT", "CONFLICT"]
        assert (left.is_settled, left.looked) == (True, 2)


async def test_an_import_takes_a_row_that_is_left() -> None:
    """The row receives again: it is not built; an archiving goes on, and loses the file or fails because of it."""
    async with raw_client() as web:
        uri = await web.build_session()
        (row,) = web.xnat.prearchive
        left = web.xnat.leave(row, RowStatus.LOCKED_BUILDING)
        assert await web.import_session(dicom(2)) == uri
        left.release()
        await left.settled()
        assert await web.row_status(uri) == "RECEIVING"
        left = web.xnat.leave(row, RowStatus.QUEUED_ARCHIVING)
        left.release()
        await left.settled()
        assert await web.row_status(uri) == "CONFLICT"
        assert (await web.post(uri, action="build")).status == 200
        left = web.xnat.leave(row, RowStatus.LOCKED_ARCHIVING)
        assert await web.import_session(dicom(3)) == uri
        assert await web.row_status(uri) == "RECEIVING"
        left.release()
        await left.settled()
        assert await web.row_status(uri) == "gone"
        assert web.xnat.sop_uids() == {sop(1), sop(2)}


async def test_a_row_that_goes_meanwhile_is_let_go_of() -> None:
    """Somebody else has deleted it."""
    async with raw_client() as web:
        uri = await web.build_session()
        left = web.xnat.leave(web.xnat.prearchive[0], RowStatus.QUEUED_ARCHIVING)
        assert (await web.ask("DELETE", uri)).status == 200
        left.release()
        await left.settled()
        assert not web.xnat.archived


async def test_a_locked_row_is_left_as_it_is() -> None:
    """A second fault gets the same reply as any request."""
    async with raw_client() as web:
        uri = await web.build_session()
        for kind in ("archive", "commit"):
            web.xnat.faults.add(Fault(kind, Leave(RowStatus.LOCKED_ARCHIVING), times=2))
        assert (await web.archive(uri)).status == 500
        assert (await web.archive(uri)).status == 403
        assert (await web.post(uri, action="commit")).status == 409
        assert await web.row_status(uri) == "_ARCHIVING"


async def test_rows_that_were_left_outlive_a_server_but_not_a_restart() -> None:
    """Served again, the work goes on; after a restart of the site it never does."""
    async with raw_client() as web:
        uri = await web.build_session()
        (row,) = web.xnat.prearchive
    xnat = web.xnat
    left = xnat.leave(row, RowStatus.QUEUED_ARCHIVING, looks=0)
    other = xnat.leave(row, RowStatus.QUEUED_ARCHIVING)
    async with raw_client(xnat) as web:
        assert await web.row_status(uri) == "gone"
        assert left.is_settled
        other.release()
        await other.settled()
        uri = await web.build_session(EXPT_LABEL="F")
        left = xnat.leave(xnat.prearchive[0], RowStatus.QUEUED_ARCHIVING, looks=1)
        xnat.restart()
        await web.get("/data/JSESSION", basic_auth())
        assert [await web.row_status(uri) for _ in range(3)] == ["QUEUED_ARCHIVING"] * 3
        assert left.is_settled


@pytest.mark.parametrize(
    ("right", "kind", "asked", "hidden", "seen"),
    [
        ("read", "listing", "/data/projects/new", 404, 200),
        ("edit", "listing", "/data/projects/new", 200, 200),
        ("read", "listing", "/data/prearchive/projects/new", 403, 200),
        ("edit", "listing", "/data/prearchive/projects/new", 200, 200),
        ("read", "listing", "/data/projects/new/prearchive_code", 404, 200),
    ],
)
async def test_a_new_project_is_seen_late(right: str, kind: str, asked: str, hidden: int, seen: int) -> None:
    """The first requests for it are refused; requests for other projects are not counted."""
    async with raw_client() as web:
        await web.put("/data/projects/new")
        fault = web.xnat.faults.add(Fault(kind, Unseen("new", "read" if right == "read" else "edit"), times=2))
        statuses = []
        for _ in range(3):
            assert (await web.get("/data/projects/demo")).status == 200
            assert (await web.get("/data/projects/new-2")).status == 404
            statuses.append((await web.get(asked)).status)
        assert statuses == [hidden, hidden, seen]
        assert (fault.seen, fault.hits) == (3, 2)


@pytest.mark.parametrize("right", ["read", "edit"])
async def test_lists_of_projects_show_a_new_one_late(right: str) -> None:
    """If only the right to edit is hidden, the list of editable projects lacks it."""
    async with raw_client() as web:
        await web.put("/data/projects/new")
        web.xnat.faults.add(Fault("listing", Unseen("new", "read" if right == "read" else "edit"), times=2))

        async def listed(**params: str) -> bool:
            return "new" in {row["ID"] for row in (await web.get("/data/projects", **params)).rows}

        assert await listed() is (right == "edit")
        assert not await listed(permissions="edit")
        assert await listed(permissions="edit")


async def test_imports_into_a_project_not_seen_yet_are_unassigned() -> None:
    """200 and another address: what 1.6 does for two minutes after a project is made."""
    xnat = TestXnat()
    xnat.add_user(User("admin", "admin", all_data=True))
    async with raw_client(xnat, user="admin") as web:
        await web.put("/data/projects/new")
        web.xnat.faults.add(Fault("import", Unseen("new")))
        assert "/projects/Unassigned/" in await web.import_session(dicom(), PROJECT_ID="new")
        uri = await web.import_session(dicom(), PROJECT_ID="new")
        assert "/projects/new/" in uri
        web.xnat.faults.add(Fault("commit", Unseen("new", "edit")))
        assert (await web.post(uri, action="commit")).status == 403
        assert (await web.post(uri, action="build")).status == 200
        web.xnat.faults.add(Fault("archive", Unseen("new", "edit")))
        assert (await web.archive(uri)).status == 403


async def cut_off(web: RawClient, number: int) -> None:
    """Send a file whose reply never comes."""
    with pytest.raises(OSError, match=r"."):
        await web.send(dicom(number))


async def test_a_late_import_comes_after_its_retry() -> None:
    """It replaces the retry's file after two acknowledged imports; other requests do not count."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("import", Late(after=2)))
        refused = web.xnat.faults.add(Fault("import", DiskFull(), nth=2))
        await cut_off(web, 1)
        assert not web.xnat.prearchive
        assert (await web.send(dicom(1))).status == 200
        assert (await web.send(dicom(2))).status == 400
        await web.get("/data/projects")
        assert [record.sop_uid for record in web.xnat.imports] == [sop(1)]
        assert (await web.send(dicom(3))).status == 200
        assert [record.sop_uid for record in web.xnat.imports] == [sop(1), sop(3), sop(1)]
        assert (fault.hits, refused.hits) == (1, 1)
        (row,) = web.xnat.prearchive
        assert {file.sop_uid for file in row.files} == {sop(1), sop(3)}


async def test_a_late_import_after_the_build_is_not_in_the_document() -> None:
    """The row receives again; the archived session lacks the file."""
    async with raw_client() as web:
        uri = await web.import_session(dicom(1))
        web.xnat.faults.add(Fault("import", Late(after=1, of="commit")))
        await cut_off(web, 2)
        assert (await web.post(uri, action="commit")).status == 200
        assert await web.row_status(uri) == "RECEIVING"
        (row,) = web.xnat.prearchive
        assert len(list(row.files)) == 2
        assert row.document is not None
        assert [len(scan.sop_uids()) for scan in row.document.scans] == [1]


async def test_a_late_import_makes_a_stray_session() -> None:
    """The session is archived without it, and then an orphan row appears."""
    async with raw_client() as web:
        uri = await web.build_session(dicom(1))
        web.xnat.faults.add(Fault("import", Late(after=1, of="archive")))
        await cut_off(web, 2)
        assert (await web.archive(uri)).status == 200
        (orphan,) = web.xnat.prearchive
        assert (orphan.name, orphan.study_uid, orphan.status) == ("E", "1.2.3", "RECEIVING")
        assert orphan.uri not in uri
        assert {file.sop_uid for file in orphan.files} == {sop(2)}
        assert web.xnat.sop_uids() == {sop(1)}


async def archiving(web: RawClient, tasks: TaskGroup, uri: str) -> None:
    """Begin to archive a session."""
    tasks.start_soon(web.archive, uri)
    while await web.row_status(uri) != "_ARCHIVING":
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("kind", ["import", "listing", "commit", "archive"])
@pytest.mark.parametrize("act", ["archive", "delete", "move", "unassign"])
async def test_an_administrator_is_quicker(act: str, kind: str) -> None:
    """The session is gone before the request is served: a file makes a new row, other requests find none."""
    async with raw_client() as web:
        web.xnat.add_project(Project("new"))
        action = Administer("move") if act == "unassign" else Administer(act, to="new")  # type: ignore[arg-type]
        uri = await web.build_session(dicom(1))
        fault = web.xnat.faults.add(Fault(kind, action))
        match kind:
            case "import":
                assert await web.import_session(dicom(2)) != uri
            case "listing":
                assert await web.row_status(uri) == "gone"
            case _:
                assert (await finalise(web, kind, uri)).status == 404
        assert fault.hits == 1
        assert web.xnat.sop_uids() == ({sop(1)} if act == "archive" else set())
        there = {row.project: {file.sop_uid for file in row.files} for row in web.xnat.prearchive}
        wanted: dict[str | None, set[str]] = {"demo": {sop(2)}} if kind == "import" else {}
        if act in {"move", "unassign"}:
            wanted["new" if act == "move" else None] = {sop(1)}
        assert there == wanted


async def test_a_late_import_into_what_is_being_archived_is_lost() -> None:
    """The row receives the file, and both are gone."""
    async with raw_client(TestXnat(archive_seconds=0.1)) as web:
        uri = await web.build_session(dicom(1))
        fault = web.xnat.faults.add(Fault("import", Late()))
        await cut_off(web, 2)
        async with anyio.create_task_group() as tasks:
            await archiving(web, tasks, uri)
            fault.release()
            await fault.settled()
            assert await web.row_status(uri) == "RECEIVING"
        assert not web.xnat.prearchive
        assert web.xnat.sop_uids() == {sop(1)}
        assert len(web.xnat.imports) == 2


async def test_a_late_import_is_lost_with_a_restart() -> None:
    """The same holds for a server that stops."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("import", Late(), times=2))
        await cut_off(web, 1)
        web.xnat.restart()
        await fault.gates[0].settled()
        await cut_off(web, 2)
    await fault.gates[0].settled()
    assert not web.xnat.prearchive


async def test_what_has_not_all_come_has_no_late_effect() -> None:
    """The client leaves before it has sent everything."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("import", Late()))
        url = URL(web.url)
        cookie = "; ".join(f"{one.key}={one.value}" for one in web.http.cookie_jar)
        head = f"POST /data/services/import?inbody=true HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n"
        body = "Content-Type: application/dicom\r\nContent-Length: 1000\r\n\r\nDI"
        async with await anyio.connect_tcp(url.host or "", url.port or 0) as stream:
            await stream.send((head + body).encode())
            while not web.xnat.count["import"]:
                await anyio.lowlevel.checkpoint()
        while not fault.gates:
            await anyio.lowlevel.checkpoint()
        await fault.gates[0].settled()
        assert not web.xnat.prearchive


async def test_a_cut_body_leaves_its_part_and_a_retry_repairs_it() -> None:
    """The connection breaks after the given number of bytes."""
    body = dicom(1)
    async with raw_client() as web:
        web.xnat.faults.add(Fault("import", Reset(after_bytes=len(body) - 10)))
        await cut_off(web, 1)
        (row,) = web.xnat.prearchive
        assert [file.complete for file in row.files] == [False]
        await web.import_session(body)
        assert [file.complete for file in row.files] == [True]


def test_only_who_is_at_work_can_be_looked_at() -> None:
    """A failed row does not move on by itself."""
    xnat = TestXnat()
    with pytest.raises(ValueError, match="nobody is at work"):
        xnat.leave(None, RowStatus.CONFLICT, looks=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="looked at -1 times"):
        xnat.leave(None, RowStatus.BUILDING, looks=-1)  # type: ignore[arg-type]
    assert not xnat.held_rows
