"""Several resources at once, and servers and logins that go away."""

from collections.abc import Callable
from typing import Any

import pytest
from builders import AT_ONCE, DEMO, QUICK, folder, logged_in
from patience import in_time
from resource_builders import (
    FAILED,
    SESSION,
    STORED,
    STUDY,
    Files,
    batch_of,
    listed_digests,
    make_files,
    make_resources,
    make_session,
)

from asyncimport.errors import LoginRefusedError, TransientError, UnavailableError
from asyncimport.model.attachments import AttachmentBatch, AttachmentResult, ResourceOwner
from asyncimport.model.events import AttachmentsStored, Event, ServerUnavailable
from asyncimport.model.options import Options
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.attachments import InMemoryQueue, upload_attachments
from asyncimport.testserver import (
    ArchivedSession,
    ExpireLogins,
    Fault,
    Reset,
    Status,
    Tell,
    TestXnat,
    Timing,
    User,
    add_session,
    serve,
)
from asyncimport.xnat.client import Client, connect

pytestmark = pytest.mark.anyio

files, session = pytest.fixture(make_files), pytest.fixture(make_session)


# --- Several at a time


async def run(
    client: Client,
    waiting: Any,
    *,
    report: Callable[[Event], None] = lambda _: None,
    options: Options | None = None,
    **how: Any,
) -> list[AttachmentResult]:
    """Upload what waits as the command does, and return the results."""
    results: list[AttachmentResult] = []

    def note(event: Event) -> None:
        report(event)
        if isinstance(event, AttachmentsStored):
            results.extend(event.results)

    await upload_attachments(
        await folder(), make_resources(client, **how), waiting, options=options or Options(), report=note
    )
    return results


async def test_never_two_writes_at_once_into_one_resource(xnat: TestXnat, files: Files) -> None:
    """Many resources are filled side by side, each by one request at a time; XNAT would answer 500 to a second one."""
    xnat.timing = Timing(saving_seconds=0.005)
    sessions = [add_session(xnat, "S", f"E{number}") for number in range(12)]
    enclosures = [
        batch_of(*files.small(4), label=label, owner=ResourceOwner("demo", "S", session.label))
        for session in sessions
        for label in ("A", "B")
    ]
    async with serve(xnat) as url, logged_in(url) as client:
        results = await run(client, InMemoryQueue(enclosures), zips=False)
    assert len(results) == 96
    assert {(one.state, one.sent) for one in results} == {(STORED, True)}
    # A race that is lost costs a request more.
    assert xnat.count["file"] == 96
    assert all(len(listed_digests(session, label)) == 4 for session in sessions for label in ("A", "B"))


async def test_one_resource_by_several_names(xnat: TestXnat, session: ArchivedSession, files: Files) -> None:
    """A table may name a session by label, study or subject: its files are still sent one after the other."""
    xnat.timing = Timing(saving_seconds=0.005)
    places = [
        SESSION,
        ResourceOwner("demo", "", "E"),
        ResourceOwner("demo", study_uid=STUDY),
        ResourceOwner("demo", "S", "E"),
    ]
    enclosures = [
        batch_of(*[files.write(f"{number}-{one}", b"1") for one in range(4)], owner=place)
        for number, place in enumerate(places)
    ]
    async with serve(xnat) as url, logged_in(url) as client:
        results = await run(client, InMemoryQueue(enclosures), zips=False)
    assert {(one.state, one.sent) for one in results} == {(STORED, True)}
    assert xnat.count["file"] == len(listed_digests(session)) == 16


async def test_a_queue_hands_out_all_batches(files: Files) -> None:
    """It hands out 500 files of a resource, then the next when these are recorded, also if two batches name it."""
    some = files.small(1_201, size=10)
    pile = InMemoryQueue([batch_of(*some[:600]), batch_of(*some[600:]), batch_of(files.write("x", b"1"), label="Q")])
    handed: list[AttachmentBatch] = []
    names: list[str] = []
    while (batch := pile.claim()) is not None:
        handed.append(batch)
    assert [len(one.attachments) for one in handed] == [500, 500, 1]
    while handed:
        batch = handed.pop()
        names += [one.name for one in batch.attachments]
        pile.record(batch, ())
        if (more := pile.claim()) is not None:
            handed.append(more)
    assert sorted(names) == sorted([*(one.name for one in some), "x"])


# --- Outages


async def test_fill_raises_if_the_server_is_away(xnat: TestXnat, session: ArchivedSession, files: Files) -> None:
    """The caller decides what to do."""
    async with serve(xnat) as url:
        port = int(url.rpartition(":")[2])
        async with logged_in(url) as client:
            there = make_resources(client)
            await there.fill(batch_of(files.write("a", b"1")), await folder())
            xnat.faults.add(Fault("any", Reset(), share=1))
            with pytest.raises(TransientError):
                await there.fill(batch_of(files.write("b", b"1")), await folder())
            assert not await there.ping()
            xnat.faults.clear()
            assert await there.ping()
            assert (await there.fill(batch_of(files.write("b", b"1")), await folder()))[0].state is STORED
    assert port
    assert sorted(listed_digests(session)) == ["a", "b"]


async def test_attachments_continue_after_an_outage(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """All files arrive once, and events report the beginning and the end of the outage."""
    told: list[str | None] = []

    def report(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            told.append(event.reason)

    away = AT_ONCE.attempts * 2

    def go_away() -> None:
        xnat.faults.add(Fault("any", Status(503), times=away))

    xnat.faults.add(Fault("file", Tell(go_away), nth=2))
    enclosures = [batch_of(*files.small(3), label=label) for label in ("A", "B", "C")]
    async with logged_in(url) as client:
        options = Options(outage_timeout=60, attachment_workers=1)
        results = await run(client, InMemoryQueue(enclosures), report=report, options=options, zips=False)
    assert {one.state for one in results} == {STORED}
    assert [len(listed_digests(session, label)) for label in ("A", "B", "C")] == [3, 3, 3]
    assert [reason is None for reason in told] == [False, True]


async def test_a_long_outage_ends_the_run(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The files that arrived before are recorded."""

    def go_away() -> None:
        xnat.faults.add(Fault("any", Status(503), share=1))

    xnat.faults.add(Fault("resource", Tell(go_away), path="resources/B"))
    enclosures = [batch_of(*files.small(2), label=label) for label in ("A", "B")]
    events: list[Event] = []
    async with logged_in(url) as client:
        with pytest.raises(UnavailableError, match="away for too long"):
            await run(
                client,
                InMemoryQueue(enclosures),
                report=events.append,
                options=Options(outage_timeout=0, attachment_workers=1),
            )
    assert [event.resource.label for event in events if isinstance(event, AttachmentsStored)] == ["A"]
    assert (len(listed_digests(session, "A")), len(listed_digests(session, "B"))) == (2, 0)


async def test_a_stop_during_an_outage(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The run does not wait for the server, and files in flight have no result."""
    stop = Stop()
    results: list[Event] = []

    def report(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            stop.request()
        results.append(event)

    xnat.faults.add(Fault("any", Status(503), path="resources", share=1))
    async with logged_in(url) as client:
        with in_time():
            waiting = InMemoryQueue([batch_of(*files.small(2))])
            await upload_attachments(
                await folder(),
                make_resources(client),
                waiting,
                options=Options(outage_timeout=3600),
                report=report,
                stop=stop,
            )
    assert not [event for event in results if isinstance(event, AttachmentsStored)]
    assert session.own_resources == {}


async def test_a_broken_resource_does_not_stop_the_others(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The server fails for one resource only, which is given up."""
    xnat.faults.add(Fault("any", Status(500), path="resources/B", share=1))
    enclosures = [batch_of(*files.small(2), label=label) for label in ("B", "A", "C")]
    async with logged_in(url) as client:
        results = await run(client, InMemoryQueue(enclosures), options=Options(outage_timeout=0, attachment_workers=1))
    assert [one.state for one in results] == [FAILED, FAILED, STORED, STORED, STORED, STORED]
    assert list(session.own_resources) == ["A", "C"]


@pytest.mark.parametrize("seed", range(3))
async def test_an_expired_login_is_renewed_while_filling(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files, seed: int
) -> None:
    """It may expire between any two requests; nothing is lost or sent twice."""
    # Each time may hit the same request, which has three attempts.
    xnat.faults.add(Fault("any", ExpireLogins(), share=0.3, seed=seed, times=AT_ONCE.attempts - 1))
    async with logged_in(url) as client:
        results = await run(
            client, InMemoryQueue([batch_of(*files.small(3), label=label) for label in "ABCD"]), zips=False
        )
    assert {one.state for one in results} == {STORED}
    assert [len(listed_digests(session, label)) for label in "ABCD"] == [3] * 4


async def test_a_changed_password_ends_the_run(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """The run ends before refusals lock the account."""
    async with connect(url, DEMO, connections=8, timeouts=QUICK, policy=AT_ONCE) as client:
        xnat.add_user(User("demo", "another"))
        xnat.expire_logins()
        with pytest.raises(LoginRefusedError):
            await run(client, InMemoryQueue([batch_of(*files.small(3), label=label) for label in "ABCD"]))
    assert session.own_resources == {}
