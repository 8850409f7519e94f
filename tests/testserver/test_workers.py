"""XNAT's background work: the idle builder, queues, locks on subjects, shared and tracked results."""

from dataclasses import replace

import anyio
import pytest
from raw_client import Clock, RawClient, basic_auth, dicom, raw_client, sop

from asyncimport.testserver import Project, RowStatus, TestXnat, Timing, User

pytestmark = pytest.mark.anyio
ARCHIVED = "/data/archive/projects/demo/subjects/S/experiments/E"
OPEN = {"prevent_auto_commit": "", "SOURCE": ""}
BATCH = "/data/services/prearchive"


async def until(web: RawClient, uri: str, status: str) -> None:
    """Wait until a row has a status."""
    while await web.row_status(uri) != status:
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("params", "code", "end"),
    [
        (OPEN, 0, "READY"),
        (OPEN, 4, "gone"),
        ({"prevent_auto_commit": ""}, 4, "RECEIVING"),
        ({"SOURCE": ""}, 4, "RECEIVING"),
        (OPEN | {"SOURCE": "other"}, 4, "gone"),
    ],
)
async def test_import_19_the_idle_builder_builds_and_archives(params: dict[str, str], code: int, end: str) -> None:
    """After five full minutes; a session that waits for a commit, or whose source is an uploader, stays."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock)) as web:
        web.xnat.project("demo").prearchive_code = code
        uri = await web.import_session(dicom(), **params)
        clock.seconds += 299
        assert await web.xnat.idle_round() == 0
        assert await web.row_status(uri) == "RECEIVING"
        clock.seconds += 1
        assert await web.xnat.idle_round() == (end != "RECEIVING")
        assert await web.row_status(uri) == end
        assert len(web.xnat.archived) == (end == "gone")


async def test_import_19_a_file_within_15_seconds_does_not_put_the_builder_off() -> None:
    """The time of change stays then: the session is built five minutes after the first file."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock)) as web:
        await web.import_session(dicom(), **OPEN)
        clock.seconds += 15
        await web.import_session(dicom(2), **OPEN)
        clock.seconds += 285
        assert await web.xnat.idle_round() == 1
    async with raw_client(TestXnat(clock=clock)) as web:
        await web.import_session(dicom(), **OPEN)
        clock.seconds += 16
        await web.import_session(dicom(2), **OPEN)
        clock.seconds += 285
        assert await web.xnat.idle_round() == 0


async def test_import_19_a_file_that_comes_while_it_builds_puts_the_session_back() -> None:
    """RECEIVING_INTERRUPT, then RECEIVING: neither built nor archived."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock, timing=Timing(queue_seconds=0.1))) as web:
        web.xnat.project("demo").prearchive_code = 4
        await web.import_session(dicom(), **OPEN)
        (row,) = web.xnat.prearchive
        clock.seconds += 300
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(web.xnat.idle_round)
            while row.status is not RowStatus.BUILDING:
                await anyio.lowlevel.checkpoint()
            uri = await web.import_session(dicom(2), **OPEN)
            assert await web.row_status(uri) == "RECEIVING_INTERRUPT"
        assert await web.row_status(uri) == "RECEIVING"
        assert row.document is None


async def test_import_19_a_row_with_lock_files_is_left_alone() -> None:
    """While a file is being written."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock, timing=Timing(parallel_seconds=0.1))) as web:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: web.send(dicom(), **OPEN))
            while not web.xnat.prearchive or not web.xnat.prearchive[0].writing:
                await anyio.lowlevel.checkpoint()
            clock.seconds += 300
            assert await web.xnat.idle_round() == 0
        assert await web.xnat.idle_round() == 1


async def test_import_19_the_idle_builder_runs_by_itself() -> None:
    """Every `idle_repeat` seconds; without a server it is a RuntimeError."""
    xnat = TestXnat(idle_minutes=0, idle_repeat=0.01)
    async with raw_client(xnat) as web:
        await until(web, await web.import_session(dicom(), **OPEN), "READY")
    with pytest.raises(RuntimeError):
        await xnat.idle_round()


async def test_import_26_rebuild_is_queued_and_does_not_archive() -> None:
    """200 at once with the row; READY later, in a project that archives by itself too."""
    async with raw_client() as web:
        web.xnat.project("demo").prearchive_code = 4
        uri = await web.import_session(dicom())
        answer = await web.post(f"{BATCH}/rebuild", src=uri)
        assert answer.status == 200
        assert [row["status"] for row in answer.rows] == ["QUEUED_BUILDING"]
        await until(web, uri, "READY")
        assert not web.xnat.archived


async def test_import_26_delete_and_move_are_queued() -> None:
    """Several sources in one request, in a form too."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        first, second = await web.import_session(dicom(1)), await web.import_session(dicom(2), EXPT_LABEL="F")
        answer = await web.post(f"{BATCH}/move?src={first}&src={second.removeprefix('/data')}", newProject="other")
        assert {row["status"] for row in answer.rows} == {"QUEUED_MOVING"}
        moved = [uri.replace("/demo/", "/other/") for uri in (first, second)]
        for uri in moved:
            await until(web, uri, "READY")
        answer = await web.post(f"{BATCH}/delete", {"src": moved[0]})
        assert [row["status"] for row in answer.rows] == ["QUEUED_DELETING"]
        await until(web, moved[0], "gone")
        assert [row.name for row in web.xnat.prearchive] == ["F"]


async def test_import_26_sources_that_cannot_be_had() -> None:
    """No right: 403; no project: 404; no session, malformed: 500; no source at all: an empty list."""
    async with raw_client() as web:
        web.xnat.add_project(Project("seen", editors=["boss"], readers=["demo"]))
        uri = await web.import_session(dicom())
        for source, status in (
            (uri.replace("demo", "seen"), 403),
            (uri.replace("demo", "Unassigned"), 403),
            (uri.replace("demo", "nope"), 404),
            (uri + "x", 500),
            ("nonsense", 500),
        ):
            answer = await web.post(f"{BATCH}/delete?src={uri}", src=source)
            assert answer.status == status
        assert (await web.post(f"{BATCH}/delete")).rows == []
        assert (await web.post(f"{BATCH}/move", src=uri, newProject="seen")).status == 403
        assert await web.row_status(uri) == "RECEIVING"


async def test_import_26_locked_rows_stay_but_for_overridelock() -> None:
    """And a session of that name in the other project makes an ERROR."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        same = {"PREARC_TIMESTAMP": "20260101_000000000"}
        uri = await web.import_session(dicom(), **same)
        (row,) = web.xnat.prearchive
        row.status = RowStatus.LOCKED_BUILDING
        answer = await web.post(f"{BATCH}/delete", src=uri)
        assert answer.rows[0]["status"] == "_BUILDING"
        await web.post(f"{BATCH}/rebuild", src=uri, overrideLock="true")
        await until(web, uri, "READY")
        await web.import_session(dicom(), **same, PROJECT_ID="other")
        await web.post(f"{BATCH}/move", src=uri, newProject="other")
        await until(web, uri, "ERROR")


async def test_import_26_what_is_queued_is_lost_when_the_server_stops() -> None:
    """The rows stay as they are."""
    xnat = TestXnat(timing=Timing(queue_seconds=60))
    async with raw_client(xnat) as web:
        uri = await web.import_session(dicom())
        await web.post(f"{BATCH}/delete", src=uri)
    async with raw_client(xnat) as web:
        assert await web.row_status(uri) == "QUEUED_DELETING"


async def doubly(timing: Timing) -> tuple[list[int], TestXnat]:
    """Ask twice for the archiving of one session, the second time before the job begins; return both statuses."""
    async with raw_client(TestXnat(timing=timing, archive_seconds=0.1)) as web:
        uri = await web.build_session()
        statuses = []

        async def archive() -> None:
            answer = await web.archive(uri)
            statuses.append(answer.status)
            if answer.status == 500:
                assert "Duplicate archive attempt. Prearchive session already archiving." in answer.text

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(archive)
        await until(web, uri, "gone")
        assert (await web.archive(uri)).status == 404
        return statuses, web.xnat


async def test_import_31_one_failure_is_told_to_both_and_the_session_is_archived() -> None:
    """Both wait for one key, and the duplicate fails first."""
    statuses, xnat = await doubly(Timing(queue_seconds=0.1))
    assert statuses == [500, 500]
    assert xnat.sop_uids() == {sop(1)}


async def test_import_31_or_both_see_the_success() -> None:
    """They poll so rarely that the first job has ended by then."""
    statuses, xnat = await doubly(Timing(queue_seconds=0.1, poll_seconds=0.3))
    assert statuses == [200, 200]
    assert xnat.sop_uids() == {sop(1)}


async def test_import_33_two_jobs_that_look_for_one_subject_collide_and_one_sleeps() -> None:
    """The lock is on the label, in any project, while the subject is found or made; another label does not wait."""
    timing = Timing(subject_seconds=0.05, subject_lock_seconds=2)
    async with raw_client(TestXnat(archive_seconds=0.05, timing=timing)) as web:
        web.xnat.add_project(Project("other"))
        uris = [
            await web.build_session(dicom(1)),
            await web.build_session(dicom(2, StudyInstanceUID="2"), EXPT_LABEL="F", PROJECT_ID="other"),
            await web.build_session(dicom(3, StudyInstanceUID="3"), EXPT_LABEL="G", SUBJECT_ID="T"),
        ]
        took: dict[str, float] = {}

        async def archive(uri: str) -> None:
            start = anyio.current_time()
            assert (await web.archive(uri)).status == 200
            took[uri[-1]] = anyio.current_time() - start

        async with anyio.create_task_group() as tasks:
            for uri in uris:
                tasks.start_soon(archive, uri)
        naps = sorted([took["E"], took["F"]])
        assert naps[0] < 2 < naps[1]
        assert took["G"] < 2


async def test_import_34_with_a_listener_archiving_goes_on_in_the_background() -> None:
    """303 at once; the result is at /xapi/event_tracking, for the same user, once the job has begun."""
    xnat = TestXnat(timing=Timing(queue_seconds=0.1))
    xnat.add_user(User("other", "other"))
    async with raw_client(xnat) as web:
        uri = await web.build_session()
        answer = await web.archive(uri, **{"http-session-listener": "k1"})
        assert answer.status == 303
        assert answer.headers["Location"] == f"{web.url}/app/template/XDATScreen_prearchives.vm"
        path = "/xapi/event_tracking/k1"
        assert (await web.get(path)).status == 404
        while (await web.get(path)).status == 404 or (await web.get(path)).json["succeeded"] is None:
            await anyio.lowlevel.checkpoint()
        event = (await web.get(path)).json
        assert set(event) == {"key", "payload", "succeeded", "finalMessage"}
        assert (event["key"], event["succeeded"], event["finalMessage"]) == ("k1", True, ARCHIVED)
        assert [entry["status"] for entry in (await web.get(f"{path}/payload")).json["entryList"]] == [
            "InProgress",
            "Completed",
        ]
        await web.archive(await web.build_session(dicom(2)), **{"http-session-listener": "k1"})
        assert (await web.get(path)).json["succeeded"] is None  # the key has another job now
        web.http.cookie_jar.clear()
        assert (await web.get(path, basic_auth("other"))).status == 404


async def test_import_34_a_failed_job_and_a_commit_with_a_listener() -> None:
    """200 "Archival initiated"; event tracking reports the failure."""
    async with raw_client() as web:
        await web.archive_session(dicom())
        web.xnat.project("demo").prearchive_code = 4
        answer = await web.post(await web.import_session(dicom()), action="commit", **{"http-session-listener": "k2"})
        assert (answer.status, answer.text) == (200, "Archival initiated")
        path = "/xapi/event_tracking/k2"
        while (await web.get(path)).status == 404 or (await web.get(path)).json["succeeded"] is None:
            await anyio.lowlevel.checkpoint()
        event = (await web.get(path)).json
        assert (event["succeeded"], event["finalMessage"]) == (False, "Session already exists with matching files.")


def test_all_zero_is_a_model_that_costs_nothing() -> None:
    """Only the two sections of an import count for that."""
    assert Timing().is_free
    assert replace(Timing(), poll_seconds=1.0).is_free
    assert not Timing(parallel_seconds=1.0).is_free
