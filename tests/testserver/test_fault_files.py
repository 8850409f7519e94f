"""What a fault may be: counts, shares, combinations that make no sense, and faults that are written in files."""

import json
from dataclasses import replace
from typing import Any

import pytest
from raw_client import dicom, raw_client

from asyncimport.testserver import (
    Administer,
    Conflict,
    DiskFull,
    Empty,
    ExpireLogins,
    Fault,
    Gateway,
    Late,
    Leave,
    Locked,
    LoginPage,
    Reset,
    Restart,
    RowStatus,
    Stall,
    Status,
    Tell,
    Unseen,
    faults_from,
)
from asyncimport.testserver.faults.actions import KINDS, NAMES, STRIKES, Action

pytestmark = pytest.mark.anyio
EXAMPLES: list[Action] = [
    Status(503),
    Reset(),
    Late(),
    Gateway(),
    Stall(),
    LoginPage(),
    ExpireLogins(),
    Restart(),
    Locked(),
    Conflict(),
    Leave(RowStatus.ERROR),
    Administer("delete"),
    Empty(),
    DiskFull(),
    Unseen("demo"),
    Tell(lambda: None),
]


def name(value: object) -> str:
    """Name an action by its class in a test's id."""
    return type(value).__name__


@pytest.mark.parametrize("action", EXAMPLES, ids=name)
def test_an_action_strikes_the_kinds_of_the_table_only(action: Action) -> None:
    """Any other is a mistake of the test, and told when the fault is made."""
    for kind in KINDS:
        if kind in STRIKES[type(action)]:
            assert Fault(kind, action).kind == kind
        else:
            with pytest.raises(ValueError, match=rf"{name(action)} cannot strike requests of the kind {kind}, only "):
                Fault(kind, action)


def test_every_action_has_an_example() -> None:
    """So that the tests above are about all."""
    assert {type(action) for action in EXAMPLES} == set(STRIKES) == set(NAMES.values())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Fault("listing", Reset(after_bytes=1)),
            "Reset cannot strike requests of the kind listing, only file, im",
        ),
        (lambda: Fault("any", Late()), "Late cannot strike"),
        (lambda: Fault("import", Empty(), nth=0), "nth=0"),
        (lambda: Fault("import", Empty(), times=-1), "times=-1"),
        (lambda: Fault("import", Empty(), share=0), "share of 0"),
        (lambda: Fault("import", Empty(), share=1.5), "share of 1.5"),
        (lambda: Status(99), "99 is no status"),
        (lambda: Late(after=0), "after 0 requests"),
        (lambda: Late(of="imports"), "'imports' is none of the kinds"),
        (lambda: Late(status=501), "answers 500, 502, .*, not 501"),
        (lambda: Gateway(404), "not 404"),
        (lambda: Gateway(wait=False, effect=False), "no work that goes on"),
        (lambda: Stall(effect=True, reads=False), "has no effect"),
        (lambda: Restart(-1), "-1 seconds"),
        (lambda: Conflict(status=RowStatus.READY), "CONFLICT or ERROR, not READY"),
        (lambda: Leave(RowStatus.BUILDING, looks=-1), "-1 times"),
        (lambda: Leave(RowStatus.CONFLICT, looks=1), "nobody is at work"),
        (lambda: Administer("rename"), "cannot 'rename' a session"),  # type: ignore[arg-type]
        (lambda: Unseen("demo", "write"), "'write' is neither"),  # type: ignore[arg-type]
    ],
)
def test_nonsense_is_an_error(make: Any, text: str) -> None:
    """A fault that cannot be meant so."""
    with pytest.raises(ValueError, match=text):
        make()


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
    """About so many; others for another seed, and for another fault of the same seed."""
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
    """Its draws are by the number of the request; where both strike, the one that was added first does."""
    share = Fault("import", Status(501), share=0.2, seed=1)
    _, alone = await struck(100, Fault("import", Status(500), nth=101), replace(share))
    first, second = await struck(100, Fault("any", Status(500), nth=alone[0] + 1), replace(share))
    assert (first, second) == (alone[:1], alone[1:])


async def test_a_share_may_begin_late_and_end() -> None:
    """From the nth request, and so many times at most."""
    (hits,) = await struck(50, Fault("import", Status(500), nth=11, times=5, share=1))
    assert hits == [10, 11, 12, 13, 14]


async def test_only_requests_to_a_path_are_counted() -> None:
    """The listing of the prearchive, say."""
    async with raw_client() as web:
        fault = web.xnat.faults.add(Fault("listing", Status(503), path="prearchive"))
        assert (await web.get("/data/projects")).status == 200
        assert (await web.get("/data/prearchive")).status == 503
        assert (fault.seen, fault.hits) == (1, 1)


async def test_the_state_tells_of_faults() -> None:
    """For those who run the server as a process."""
    async with raw_client() as web:
        web.xnat.faults.add(Fault("import", Empty(), nth=2))
        await web.send(dicom())
        await web.send(dicom())
        assert (await web.get("/testserver/state")).json["faults"] == [
            {"kind": "import", "action": "Empty", "seen": 2, "hits": 1}
        ]


WRITTEN: list[tuple[str, Fault]] = [
    (
        '{"kind": "import", "action": "status", "status": 503, "body": "busy", "headers": {"Retry-After": "1"}}',
        Fault("import", Status(503, "busy", {"Retry-After": "1"})),
    ),
    ('{"kind": "any", "action": "reset", "effect": true, "share": 0.05, "seed": 1}',
     Fault("any", Reset(effect=True), share=0.05, seed=1)),
    ('{"kind": "import", "action": "reset", "after_bytes": 100}', Fault("import", Reset(after_bytes=100))),
    ('{"kind": "import", "action": "late", "after": 3, "of": "archive", "status": null}',
     Fault("import", Late(3, "archive"))),
    ('{"kind": "archive", "action": "gateway", "status": 502, "wait": false}',
     Fault("archive", Gateway(502, wait=False))),
    ('{"kind": "import", "action": "stall", "reads": false}', Fault("import", Stall(reads=False))),
    ('{"kind": "login", "action": "login_page"}', Fault("login", LoginPage())),
    ('{"kind": "any", "action": "expire_logins", "tokens": true, "nth": 4}',
     Fault("any", ExpireLogins(tokens=True), 4)),
    ('{"kind": "any", "action": "restart", "seconds": 2}', Fault("any", Restart(2))),
    ('{"kind": "commit", "action": "locked", "times": 3}', Fault("commit", Locked(), times=3)),
    ('{"kind": "archive", "action": "conflict", "message": "No", "status": "ERROR"}',
     Fault("archive", Conflict("No", RowStatus.ERROR))),
    ('{"kind": "archive", "action": "leave", "status": "_ARCHIVING", "looks": 2, "then": "CONFLICT"}',
     Fault("archive", Leave(RowStatus.LOCKED_ARCHIVING, 2, RowStatus.CONFLICT))),
    ('{"kind": "import", "action": "administer", "act": "move", "to": "new"}',
     Fault("import", Administer("move", "new"))),
    ('{"kind": "import", "action": "empty"}', Fault("import", Empty())),
    ('{"kind": "import", "action": "disk_full", "partial": true}', Fault("import", DiskFull(partial=True))),
    ('{"kind": "listing", "action": "unseen", "project": "new", "right": "edit", "path": "projects"}',
     Fault("listing", Unseen("new", "edit"), path="projects")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), WRITTEN)
def test_faults_are_read_from_a_file(text: str, fault: Fault) -> None:
    """Every action but a function, with all that counts."""
    assert faults_from(json.loads(f"[{text}]")) == [fault]


def test_every_action_but_a_function_can_be_written() -> None:
    """So that the table above is whole."""
    assert {type(fault.action) for _, fault in WRITTEN} == set(NAMES.values()) - {Tell}
    assert faults_from([]) == []


NAMED = (
    "administer, conflict, disk_full, empty, expire_logins, gateway, late, leave, locked, login_page, reset, restart, "
    "stall, status, unseen"
)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("{}", "faults are a list, not {}"),
        ("[3]", "fault 1: a fault is an object, not 3"),
        ('[{"kind": "import"}]', "fault 1: action: null is none of administer, conflict, "),
        ('[{"kind": "import", "action": "tell"}]', 'fault 1: action: "tell" is none of administer, '),
        ('[{"action": "empty"}]', "fault 1: kind is missing"),
        ('[{"kind": "import", "action": "status"}]', "fault 1: status is missing"),
        ('[{"kind": "import", "action": "empty", "number": 3}]', "fault 1: empty has no value number"),
        ('[{"kind": "import", "action": "empty", "hits": 3}]', "fault 1: empty has no value hits"),
        ('[{"kind": "files", "action": "empty"}]', "fault 1: 'files' is none of the kinds of requests: any, "),
        ('[{"kind": "archive", "action": "empty"}]', "fault 1: Empty cannot strike requests of the kind archive"),
        ('[{"kind": "import", "action": "empty", "nth": "3"}]', 'fault 1: nth: "3" is not a whole number'),
        ('[{"kind": "import", "action": "empty", "nth": true}]', "fault 1: nth: true is not a whole number"),
        ('[{"kind": "import", "action": "empty", "share": "x"}]', 'fault 1: share: "x" is not a number or null'),
        ('[{"kind": "import", "action": "reset", "effect": 1}]', "fault 1: effect: 1 is not true or false"),
        (
            '[{"kind": "import", "action": "status", "status": 503, "headers": {"Retry-After": 1}}]',
            'fault 1: headers: {"Retry-After": 1} is not an object of texts',
        ),
        (
            '[{"kind": "build", "action": "leave", "status": "LOST"}]',
            'fault 1: status: "LOST" is not one of RECEIVING, ',
        ),
        ('[{"kind": "build", "action": "leave", "status": []}]', "fault 1: status: [] is not one of RECEIVING, "),
        (
            '[{"kind": "listing", "action": "unseen", "project": "P", "right": "delete"}]',
            'fault 1: right: "delete" is not one of read, edit',
        ),
        (
            f'[{{"kind": "import", "action": "status", "status": "{"x" * 99}"}}]',
            f'fault 1: status: "{"x" * 56}... is not a whole number',
        ),
        (
            '[{"kind": "import", "action": "empty"}, {"kind": "import", "action": "none"}, 4]',
            f'fault 2: action: "none" is none of {NAMED}\nfault 3: a fault is an object, not 4',
        ),
    ],
)
def test_mistakes_in_a_file_are_told(text: str, mistake: str) -> None:
    """Each with the number of its fault and what would be right."""
    with pytest.raises(ValueError, match=r".") as caught:
        faults_from(json.loads(text))
    assert str(caught.value).startswith(mistake)


def test_faults_are_equal_by_what_they_do() -> None:
    """Not by what they keep back."""
    fault = Fault("import", Late())
    assert replace(fault, nth=2) == Fault("import", Late(), nth=2)
    assert fault.release() == 0
