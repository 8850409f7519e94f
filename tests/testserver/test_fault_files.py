"""Faults from a parsed JSON file, and the mistakes in one."""

import json

import pytest

from asyncimport.testserver import (
    Administer,
    Conflict,
    Damage,
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
from asyncimport.testserver.faults.actions import NAMES

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
    ('{"kind": "file", "action": "damage"}', Fault("file", Damage())),
    ('{"kind": "import", "action": "disk_full", "partial": true}', Fault("import", DiskFull(partial=True))),
    ('{"kind": "listing", "action": "unseen", "project": "new", "right": "edit", "path": "projects"}',
     Fault("listing", Unseen("new", "edit"), path="projects")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fault"), WRITTEN)
def test_faults_are_read_from_a_file(text: str, fault: Fault) -> None:
    """Every action except `Tell`, with everything that selects requests."""
    assert faults_from(json.loads(f"[{text}]")) == [fault]


def test_every_action_but_a_function_can_be_written() -> None:
    """This keeps the table above complete."""
    assert {type(fault.action) for _, fault in WRITTEN} == set(NAMES.values()) - {Tell}
    assert faults_from([]) == []


NAMED = (
    "administer, conflict, damage, disk_full, empty, expire_logins, gateway, late, leave, locked, login_page, reset, "
    "restart, stall, status, unseen"
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
        ('[{"kind": "import", "action": "empty", "number": 3}]', 'fault 1: there is no value "number"'),
        ('[{"kind": "import", "action": "empty", "hits": 3}]', 'fault 1: there is no value "hits"'),
        ('[{"kind": "files", "action": "empty"}]', "fault 1: 'files' is none of the kinds of requests: any, "),
        ('[{"kind": "archive", "action": "empty"}]', "fault 1: Empty cannot strike requests of the kind archive"),
        ('[{"kind": "import", "action": "empty", "nth": "3"}]', 'fault 1: nth: "3" is not a whole number'),
        ('[{"kind": "import", "action": "empty", "nth": true}]', "fault 1: nth: true is not a whole number"),
        ('[{"kind": "import", "action": "empty", "share": "x"}]', 'fault 1: share: "x" is not a number or null'),
        ('[{"kind": "import", "action": "reset", "effect": 1}]', "fault 1: effect: 1 is not true or false"),
        (
            '[{"kind": "import", "action": "status", "status": 503, "headers": {"Retry-After": 1}}]',
            "fault 1: headers.Retry-After: 1 is not a text",
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
    """Each message has the number of its fault and the valid values."""
    with pytest.raises(ValueError, match=r".") as caught:
        faults_from(json.loads(text))
    assert str(caught.value).startswith(mistake)
