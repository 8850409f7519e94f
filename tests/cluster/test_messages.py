"""What driver and workers tell each other arrives as it was."""

import pickle
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
from builders import AT_ONCE, QUICK, claim
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.cluster.messages import Setup, pack_claims, pack_outcome, unpack_claims, unpack_outcomes
from asyncimport.errors import LoginRefusedError, UnavailableError
from asyncimport.model.deliveries import Claim, Delivery, Failed, Outcome, Refused, Stored, Withheld
from asyncimport.model.files import File, Instance, Session
from asyncimport.model.options import Options
from asyncimport.model.states import Refusal
from asyncimport.source.folder import FileSource
from asyncimport.xnat.login import Credentials

T = TypeVar("T")
TEXTS = st.text(max_size=8)
# A path may hold bytes that are no text.
PATHS = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
SESSIONS = st.builds(Session, TEXTS, TEXTS, TEXTS, TEXTS)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FILES = st.builds(File, PATHS, st.integers(0), INTEGERS, st.none() | INTEGERS, st.none() | INTEGERS)
DELIVERIES = st.builds(Delivery, st.integers(1, 3), SESSIONS, st.integers(1), st.none() | TEXTS, st.none() | SESSIONS)


@st.composite
def claim_lists(draw: st.DrawFn) -> list[Claim]:
    """Draw claims of a few deliveries, each of which is the same for all its claims."""
    deliveries = draw(st.lists(DELIVERIES, min_size=1, max_size=3, unique_by=lambda one: one.key))
    claims = []
    for key in range(draw(st.integers(0, 6))):
        delivery = draw(st.sampled_from(deliveries))
        instance = Instance(draw(FILES), draw(TEXTS), draw(TEXTS), delivery.session)
        claims.append(Claim(key, instance, delivery))
    return claims


@given(claim_lists())
def test_files_arrive_as_they_were(claims: list[Claim]) -> None:
    """With their deliveries, by any path, over the wire."""
    assert unpack_claims(*_sent(pack_claims(claims))) == claims


CLAIM = claim(File("/a", 1, 2), number=7, uri="/row")


@pytest.mark.parametrize(
    "outcome",
    [
        Stored(CLAIM, "/row", 3, may_have_taken_effect=True, sha256=b"sha", xxh3=b"xxh", zip_size=12, seconds=0.5),
        Stored(replace(CLAIM, delivery=replace(CLAIM.delivery, uri=None)), "/new"),
        Stored(replace(CLAIM, check_archive=True), "/row", merges=False),
        Refused(CLAIM, "no", whole_session=True, attempts=2, kind=Refusal.SERVER, second_row=True),
        Refused(CLAIM, "no", kind=Refusal.DROPPED),
        Failed(CLAIM, "gone", unreadable=True, may_be_elsewhere=True),
        Failed(CLAIM, "no answer", attempts=8, may_have_taken_effect=True),
        Withheld(CLAIM, "another patient", 2, may_have_taken_effect=True),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_outcomes_arrive_as_they_were(outcome: Outcome) -> None:
    """The driver puts its own claim to them."""
    packed = _sent(pack_outcome(outcome))
    [there] = unpack_outcomes([packed], {outcome.claim.key: outcome.claim})
    assert there == outcome
    assert not isinstance(there, Stored) or there.seconds == outcome.seconds  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "packed",
    [
        5,
        (),
        ("S",),
        ("X", 7, 1, False, "reason"),
        ("S", [], 1, False, "/row", None, None, None, 0.5),
        ("S", 7, 1, False, None, None, None, None, 0.5),
        ("S", 7, 1, False, "/row", None, None, None, "soon"),
        ("S", 7, 1, False, "/row", None, "digest", None, 0.5),
        ("S", 7, 1, False, "/row", None, None, None),
        ("S", 7, True, False, "/row", None, None, None, 0.5),
        ("S", 7, -1, False, "/row", None, None, None, 0.5),
        ("S", 7, 1, False, "/row", None, None, None, float("nan")),
        ("S", 7, 1, False, "/row", None, None, 0, 0.5),
        ("S", 7, 1, False, "/row", None, bytes(33), None, 0.5),
        ("S", 7, 1, False, "r" * 100_001, None, None, None, 0.5),
        ("R", 7, 1, False, "reason", False, "no reason", False),
        ("F", 7, None, False, "reason", False, False),
        ("W", 7, 1, False),
    ],
    ids=lambda packed: repr(packed)[:80],
)
def test_a_reply_with_a_malformed_outcome_is_not_taken_in_part(packed: Any) -> None:
    """A first file that is stored has an address, say. The error shows nothing of it."""
    first = replace(CLAIM, delivery=replace(CLAIM.delivery, uri=None))
    sound = pack_outcome(Stored(first, "/row"))
    assert len(unpack_outcomes([sound], {7: first})) == 1
    with pytest.raises(ValueError, match=r"^its reply is malformed$"):
        unpack_outcomes([sound, packed], {7: first})


def test_an_outcome_of_a_file_that_others_have_is_left_out() -> None:
    """Its lease was over before it told."""
    assert unpack_outcomes([pack_outcome(Failed(CLAIM, "gone"))], {}) == []


@pytest.mark.parametrize("error", [UnavailableError("away", hint="wait"), LoginRefusedError("no", hint="log in")])
def test_an_error_of_a_worker_keeps_its_kind_and_hint(error: UnavailableError | LoginRefusedError) -> None:
    """Its exit code is that of the run."""
    there = _sent(error)
    assert (type(there), str(there), there.hint) == (type(error), str(error), error.hint)


def test_what_a_worker_is_told_shows_no_password() -> None:
    """It may get into a log of the cluster's software."""
    setup = Setup(
        host="https://xnat",
        credentials=Credentials("me", "s3cret"),
        authorities="",
        verify=True,
        timeouts=QUICK,
        options=Options(),
        file_policy=AT_ONCE,
        call_policy=AT_ONCE,
        source="uploader-1",
        adopt_rows=False,
        lease_seconds=15,
        open_files=partial(FileSource, ["/data"]),
    )
    assert "s3cret" not in repr(setup)
    assert _sent(setup).credentials.password == "s3cret"


def _sent(value: T) -> T:
    """Return a value as it arrives in another process."""
    there: T = pickle.loads(pickle.dumps(value))  # noqa: S301 - it is our own
    return there
