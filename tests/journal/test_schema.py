"""The rules that the database itself enforces: states, seals, unique labels."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from journals import (
    E1,
    E2,
    instance,
    opened,
)

from asyncimport.model.states import DELIVERY_TRANSITIONS, INSTANCE_TRANSITIONS, DeliveryState, InstanceState


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal of two sessions, each with an instance and a delivery, with nothing between SQL and the file."""
    with opened(path) as journal:
        journal.scan.admit([instance("a", E1), instance("b", E2)])
        journal.queue.claim(2, max_active=2)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def as_instance(raw: sqlite3.Connection, state: InstanceState) -> None:
    """Bring the first instance into a state, the legal way."""
    raw.execute("UPDATE instance SET state = ?, delivery = 1 WHERE key = 1", (state,))


def as_delivery(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """Bring the first delivery into a state, the legal way, all of its session settled."""
    raw.execute("UPDATE instance SET state = 'STORED', delivery = 1 WHERE key = 1")
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    if state in {DeliveryState.BUILT, DeliveryState.ARCHIVED}:
        raw.execute("UPDATE delivery SET state = 'SEALED' WHERE key = 1")
    raw.execute("UPDATE delivery SET state = ? WHERE key = 1", (state,))


def state_of(raw: sqlite3.Connection, table: str) -> str:
    """Return the state of the first row."""
    (state,) = raw.execute(f"SELECT state FROM {table} WHERE key = 1").fetchone()  # noqa: S608 - two fixed names
    return str(state)


@pytest.mark.parametrize(("was", "becomes"), sorted(INSTANCE_TRANSITIONS))
def test_legal_changes_of_an_instance(raw: sqlite3.Connection, was: InstanceState, becomes: InstanceState) -> None:
    """The database lets an instance make each change of the table."""
    if was == InstanceState.STORED:
        as_delivery(raw, DeliveryState.ARCHIVED)
    as_instance(raw, was)
    raw.execute("UPDATE instance SET state = ?, delivery = 1 WHERE key = 1", (becomes,))
    assert state_of(raw, "instance") == becomes


@pytest.mark.parametrize(("was", "becomes"), sorted(DELIVERY_TRANSITIONS))
def test_legal_changes_of_a_delivery(raw: sqlite3.Connection, was: DeliveryState, becomes: DeliveryState) -> None:
    """The database lets a delivery make each change of the table."""
    as_delivery(raw, was)
    # What was not sealed is at its end only where it was seen in the archive.
    raw.execute("UPDATE delivery SET state = ?, archive_uri = '/archive/1' WHERE key = 1", (becomes,))
    assert state_of(raw, "delivery") == becomes


REACH: dict[str, tuple[Callable[[sqlite3.Connection, Any], None], str]] = {
    "instance": (as_instance, ", delivery = 1"),
    "delivery": (as_delivery, ""),
}
ILLEGAL = [
    (table, one, other)
    for table, states, legal in (
        ("instance", InstanceState, INSTANCE_TRANSITIONS),
        ("delivery", DeliveryState, DELIVERY_TRANSITIONS),
    )
    for one, other in sorted(product(states, states))
    if one != other and (one, other) not in legal
]


@pytest.mark.parametrize(("table", "was", "becomes"), ILLEGAL)
def test_illegal_changes(raw: sqlite3.Connection, table: str, was: Any, becomes: str) -> None:
    """The database refuses every change that is not in the table: no seal is ever broken."""
    reach, more = REACH[table]
    reach(raw, was)
    with pytest.raises(sqlite3.IntegrityError, match=f"illegal change of an? {table}"):
        raw.execute(f"UPDATE {table} SET state = ?{more} WHERE key = 1", (becomes,))  # noqa: S608 - two fixed names
    assert state_of(raw, table) == was


@pytest.mark.parametrize("table", ["instance", "delivery"])
def test_states_that_do_not_exist(raw: sqlite3.Connection, table: str) -> None:
    """An unknown state cannot be reached, and neither can NULL."""
    before = state_of(raw, table)
    for state in ("LOST", None):
        with pytest.raises(sqlite3.IntegrityError):
            raw.execute(f"UPDATE {table} SET state = ? WHERE key = 1", (state,))  # noqa: S608 - two fixed names
    assert state_of(raw, table) == before


@pytest.mark.parametrize("state", sorted(set(InstanceState) - {InstanceState.PENDING}))
def test_instances_begin_as_pending(raw: sqlite3.Connection, state: InstanceState) -> None:
    """No instance enters the journal with a verdict."""
    with pytest.raises(sqlite3.IntegrityError, match="begins as PENDING"):
        raw.execute(
            "INSERT INTO instance (session, sop_uid, series_uid, file, state, delivery) VALUES (1, 'x', 'y', 1, ?, 1)",
            (state,),
        )


@pytest.mark.parametrize("state", sorted(set(DeliveryState) - {DeliveryState.OPEN}))
def test_deliveries_begin_as_open(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """No delivery begins sealed."""
    as_delivery(raw, DeliveryState.ARCHIVED)
    with pytest.raises(sqlite3.IntegrityError, match="begins as OPEN"):
        raw.execute("INSERT INTO delivery (session, number, state) VALUES (1, 2, ?)", (state,))


@pytest.mark.parametrize("state", sorted(DeliveryState))
def test_a_new_delivery_only_after_the_end_of_the_last(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """Another delivery begins only when the last one is archived, deleted, or built and left."""
    as_delivery(raw, state)
    if state in {DeliveryState.ARCHIVED, DeliveryState.BUILT, DeliveryState.DELETED}:
        raw.execute("INSERT INTO delivery (session, number) VALUES (1, 2)")
        assert raw.execute("SELECT count(*) FROM delivery WHERE session = 1").fetchone() == (2,)
    else:
        with pytest.raises(sqlite3.IntegrityError, match="has not ended"):
            raw.execute("INSERT INTO delivery (session, number) VALUES (1, 2)")


@pytest.mark.parametrize("state", sorted(set(DeliveryState) - {DeliveryState.OPEN}))
def test_nothing_is_stored_after_the_seal(raw: sqlite3.Connection, state: DeliveryState) -> None:
    """An instance is stored into an open delivery, never into a sealed, held or ended one."""
    as_delivery(raw, state)
    raw.execute("INSERT INTO instance (session, sop_uid, series_uid, file) VALUES (1, 'late', 'y', 1)")
    with pytest.raises(sqlite3.IntegrityError, match="after the seal"):
        raw.execute("UPDATE instance SET state = 'STORED', delivery = 1 WHERE sop_uid = 'late'")


@pytest.mark.parametrize("delivery", [2, 99, None])
def test_nothing_is_stored_into_another_sessions_delivery(raw: sqlite3.Connection, delivery: int | None) -> None:
    """An instance needs a delivery of its own session."""
    with pytest.raises(sqlite3.IntegrityError, match="after the seal"):
        raw.execute("UPDATE instance SET state = 'STORED', delivery = ? WHERE key = 1", (delivery,))
    assert state_of(raw, "instance") == "PENDING"


def test_a_delivery_with_pending_instances_is_not_sealed(raw: sqlite3.Connection) -> None:
    """Whatever code asks for it."""
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    with pytest.raises(sqlite3.IntegrityError, match="pending instances"):
        raw.execute("UPDATE delivery SET state = 'SEALED' WHERE key = 1")
    assert state_of(raw, "delivery") == "OPEN"


@pytest.mark.parametrize("state", ["OPEN", "HELD"])
def test_an_empty_delivery_is_not_sealed(raw: sqlite3.Connection, state: str) -> None:
    """A delivery without an acknowledged file has no row in XNAT to finalise."""
    raw.execute("UPDATE instance SET state = 'REFUSED' WHERE key = 1")
    raw.execute("UPDATE delivery SET state = ? WHERE key = 1", (state,))
    with pytest.raises(sqlite3.IntegrityError, match="empty delivery"):
        raw.execute("UPDATE delivery SET state = 'SEALED' WHERE key = 1")


@pytest.mark.parametrize("other", ["/prearchive/2", "", None])
def test_the_address_of_a_delivery_never_changes(raw: sqlite3.Connection, other: str | None) -> None:
    """The first file fixes the prearchive row; recording the same address again is no change."""
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    raw.execute("UPDATE delivery SET uri = '/prearchive/1' WHERE key = 1")
    with pytest.raises(sqlite3.IntegrityError, match="one prearchive row"):
        raw.execute("UPDATE delivery SET uri = ? WHERE key = 1", (other,))


def test_labels_and_identities_are_unique(raw: sqlite3.Connection) -> None:
    """A label belongs to one study, ignoring case; a study has one session, an instance one row."""
    for values in (("P", "S", "e1", "1.2.new", ""), ("P", "S", "new", E1.study_uid, "")):
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            raw.execute(
                "INSERT INTO session (project, subject, label, study_uid, patient) VALUES (?, ?, ?, ?, ?)", values
            )
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        raw.execute(
            "INSERT INTO instance (session, sop_uid, series_uid, file) SELECT session, sop_uid, 'y', 1 FROM instance"
        )
