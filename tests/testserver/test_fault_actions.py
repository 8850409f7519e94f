"""Actions of faults: which kinds of requests each can strike, and combinations that make no sense."""

from typing import Any

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
)
from asyncimport.testserver.faults.actions import KINDS, NAMES, STRIKES, Action

EXAMPLES: list[Action] = [
    Status(503),
    Reset(),
    Damage(),
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
    """Any other combination is a ValueError when the fault is made."""
    for kind in KINDS:
        if kind in STRIKES[type(action)]:
            assert Fault(kind, action).kind == kind
        else:
            with pytest.raises(ValueError, match=rf"{name(action)} cannot strike requests of the kind {kind}, only "):
                Fault(kind, action)


def test_every_action_has_an_example() -> None:
    """This keeps the tests above complete."""
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
    """Values that make no sense are a ValueError."""
    with pytest.raises(ValueError, match=text):
        make()
