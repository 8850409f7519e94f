"""Which requests a fault strikes: the nth of a kind, a seeded share, and only those of a path."""

from dataclasses import replace

import pytest
from raw_client import RawClient, dicom, raw_client

from asyncimport.testserver import (
    Fault,
    Late,
    Reset,
    Status,
)

pytestmark = pytest.mark.anyio


async def statuses(web: RawClient, count: int) -> list[int]:
    """Send this many files; return the statuses."""
    return [(await web.send(dicom(number))).status for number in range(count)]


async def test_a_status_replaces_the_reply_and_nothing_takes_effect() -> None:
    """The third and fourth import get 503 with its headers; hits are counted."""
    async with raw_client() as web:
        action = Status(503, "busy", {"Retry-After": "1"})
        fault = web.xnat.faults.add(Fault("import", action, nth=3, times=2))
        assert await statuses(web, 5) == [200, 200, 503, 503, 200]
        assert (fault.hits, fault.seen) == (2, 5)
        assert len(web.xnat.imports) == 3
        web.xnat.faults.add(Fault("import", action))
        answer = await web.send(dicom())
        assert (answer.text, answer.headers["Retry-After"]) == ("busy", "1")


@pytest.mark.parametrize("effect", [True, False])
async def test_a_reset_breaks_the_connection_with_or_without_effect(effect: bool) -> None:
    """No reply; with `effect` the file is stored, without it is not."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("import", Reset(effect=effect)))
        with pytest.raises(OSError, match=r"."):
            await web.send(dicom())
        assert fault.hits == 1
        assert bool(web.xnat.prearchive) is effect
        assert (await web.send(dicom())).status == 200


@pytest.mark.parametrize("kind", ["login", "import", "build", "commit", "prearchive", "archive", "listing", "logout"])
async def test_each_kind_of_request_can_be_struck(kind: str) -> None:
    """One fault of each kind strikes its kind only; all are counted by kind."""
    async with raw_client() as web:
        uri = await web.import_session(dicom())
        web.xnat.count.clear()
        fault = web.xnat.faults.add(Fault(kind, Status(418)))
        answers = {
            "login": await web.get("/data/JSESSION"),
            "import": await web.send(dicom(2)),
            "build": await web.post(uri, action="build"),
            "commit": await web.post(uri, {"action": "commit"}),
            "prearchive": await web.post(uri, action="set-status", status="READY"),
            "archive": await web.archive(uri),
            "listing": await web.get("/data/projects"),
            "logout": await web.ask("DELETE", "/data/JSESSION"),
        }
        assert [name for name, answer in answers.items() if answer.status == 418] == [kind]
        assert fault.hits == 1
        assert web.xnat.count == dict.fromkeys(answers, 1)


async def test_any_strikes_whatever_comes() -> None:
    """Kind `any` counts all requests; a later fault on the same request waits."""
    async with raw_client() as web:
        first = web.xnat.faults.add(Fault("any", Status(502), nth=2))
        second = web.xnat.faults.add(Fault("import", Status(503), times=2))
        assert await statuses(web, 3) == [503, 502, 200]
        assert (first.hits, second.hits) == (1, 1)
        web.xnat.faults.clear()


def test_a_fault_of_an_unknown_kind_is_an_error() -> None:
    """A fault that can never strike is a mistake of the test."""
    with pytest.raises(ValueError, match="none of the kinds"):
        Fault("imports", Status(503))


async def struck(count: int, *faults: Fault) -> list[list[int]]:
    """Send files to a site with faults that answer 500 and up; return which requests each of them struck."""
    async with raw_client() as web:
        for fault in faults:
            web.xnat.faults.add(fault)
        statuses = [(await web.send(dicom(number))).status for number in range(count)]
        hits = [[number for number, status in enumerate(statuses) if status == 500 + i] for i in range(len(faults))]
        assert [fault.hits for fault in faults] == list(map(len, hits))
        assert {fault.seen for fault in faults} == {count}
        return hits


async def test_a_share_strikes_the_same_requests_for_the_same_seed() -> None:
    """About that share; another seed, or another fault with this seed, strikes other requests."""
    (once,) = await struck(200, Fault("import", Status(500), share=0.1, seed=1))
    (twice,) = await struck(200, Fault("import", Status(500), share=0.1, seed=1))
    (other,) = await struck(200, Fault("import", Status(500), share=0.1, seed=2))
    assert once == twice
    assert once != other
    assert 8 < len(once) < 40
    first, second = await struck(
        200, Fault("import", Status(500), share=0.1, seed=1), Fault("import", Status(501), share=0.1, seed=1)
    )
    assert first == once
    assert len(second) > 8


async def test_another_fault_does_not_shift_a_share() -> None:
    """Draws depend on the number of the request only; if both strike, the fault added first acts."""
    share = Fault("import", Status(501), share=0.2, seed=1)
    _, alone = await struck(100, Fault("import", Status(500), nth=101), replace(share))
    first, second = await struck(100, Fault("any", Status(500), nth=alone[0] + 1), replace(share))
    assert (first, second) == (alone[:1], alone[1:])


async def test_a_share_may_begin_late_and_end() -> None:
    """It begins with the nth request and strikes `times` times at most."""
    (hits,) = await struck(50, Fault("import", Status(500), nth=11, times=5, share=1))
    assert hits == [10, 11, 12, 13, 14]


async def test_only_requests_to_a_path_are_counted() -> None:
    """Here the listing of the prearchive."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("listing", Status(503), path="prearchive"))
        assert (await web.get("/data/projects")).status == 200
        assert (await web.get("/data/prearchive")).status == 503
        assert (fault.seen, fault.hits) == (1, 1)


def test_faults_are_equal_by_what_they_do() -> None:
    """Gates do not count."""
    fault = Fault("import", Late())
    assert replace(fault, nth=2) == Fault("import", Late(), nth=2)
    assert fault.release() == 0
