"""Several resources at once, and servers and logins that go away."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from builders import AT_ONCE, DEMO, QUICK, folder, logged_in
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
from asyncimport.model import AttachmentBatch, AttachmentResult, ResourceOwner
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
    """Do what the command does with what waits; return what became of it."""
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
    """Many resources are filled side by side, each by one request at a time: XNAT would answer one of two with 500."""
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
    """A table may name a session by its label, by its study, with its subject: its files go one after the other."""
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


async def test_a_pile_hands_out_all_there_is(files: Files) -> None:
    """Of a resource 500 at a time, the next when those are results away; also when two enclosures name one resource."""
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


async def test_a_server_that_is_away(xnat: TestXnat, session: ArchivedSession, files: Files) -> None:
    """`fill` says so, and its caller decides."""
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


async def test_an_outage_is_outlasted(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """In the middle nothing is answered for a while: all arrives once, and both ends of it are told."""
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


async def test_an_outage_that_is_too_long(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The run ends, and what arrived before is results away."""

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


async def test_a_stop_while_the_server_is_away(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """Nobody waits for it: what was on its way has no outcome, and is as it was."""
    stop = Stop()
    results: list[Event] = []

    def report(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            stop.request()
        results.append(event)

    xnat.faults.add(Fault("any", Status(503), path="resources", share=1))
    async with logged_in(url) as client:
        with anyio.fail_after(10):
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


async def test_one_resource_that_is_broken(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """The server answers, and fails at this one only: it is given up, and the others arrive."""
    xnat.faults.add(Fault("any", Status(500), path="resources/B", share=1))
    enclosures = [batch_of(*files.small(2), label=label) for label in ("B", "A", "C")]
    async with logged_in(url) as client:
        results = await run(client, InMemoryQueue(enclosures), options=Options(outage_timeout=0, attachment_workers=1))
    assert [one.state for one in results] == [FAILED, FAILED, STORED, STORED, STORED, STORED]
    assert list(session.own_resources) == ["A", "C"]


async def test_a_login_that_expires(xnat: TestXnat, url: str, session: ArchivedSession, files: Files) -> None:
    """Between any two requests; it is renewed, and nothing is lost or sent twice."""
    xnat.faults.add(Fault("any", ExpireLogins(), share=0.3, seed=4, times=5))
    async with logged_in(url) as client:
        results = await run(
            client, InMemoryQueue([batch_of(*files.small(3), label=label) for label in "ABCD"]), zips=False
        )
    assert {one.state for one in results} == {STORED}
    assert [len(listed_digests(session, label)) for label in "ABCD"] == [3] * 4


async def test_a_password_that_is_no_longer_good(
    xnat: TestXnat, url: str, session: ArchivedSession, files: Files
) -> None:
    """It ends the run at once, before refusals lock the account."""
    async with connect(url, DEMO, connections=8, timeouts=QUICK, policy=AT_ONCE) as client:
        xnat.add_user(User("demo", "another"))
        xnat.expire_logins()
        with pytest.raises(LoginRefusedError):
            await run(client, InMemoryQueue([batch_of(*files.small(3), label=label) for label in "ABCD"]))
    assert session.own_resources == {}
