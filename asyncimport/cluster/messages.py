"""What driver and workers tell each other.

Files and outcomes travel as plain tuples: there is one for each file, and the driver makes all of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from asyncimport.cluster.columns import checked_columns
from asyncimport.errors import AsyncimportError
from asyncimport.model.deliveries import Claim, Delivery, Failed, Outcome, Refused, Stored, Withheld
from asyncimport.model.files import File, Instance, Session
from asyncimport.model.options import Options
from asyncimport.model.ports import FileReader
from asyncimport.model.record import record
from asyncimport.model.states import Refusal
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.transport import Timeouts

Packed = tuple[Any, ...]

_NONE = type(None)
_STRING, _DIGEST, _SIZE = {str, _NONE}, {bytes, _NONE}, {int, _NONE}
_STORED_TYPES = {str}, {int}, {int}, {bool}, _STRING, _DIGEST, _DIGEST, _SIZE, {float}
_OUTCOME_TYPES: Mapping[str, Sequence[type]] = {
    "R": [str, int, int, bool, str, bool, str, bool],
    "F": [str, int, int, bool, str, bool, bool],
    "W": [str, int, int, bool, str],
}
"""Of the fields of a packed outcome, by its kind."""

# More than a sound worker tells: of files or attempts, seconds, letters.
MOST_COUNT = 1_000_000
MOST_SECONDS = 1e12
MOST_LETTERS = 100_000
_MOST_BYTES = 1 << 60
MALFORMED = "its reply is malformed"


@record(kw_only=True)
class Setup:
    """What a worker needs to send. It holds a password: it goes from process to process only, and is never kept.

    `authorities` are the certificates to trust, if the driver has a bundle of them. `source` is what prearchive rows
    name as theirs. `open_files` returns the files as this worker sees them.
    """

    host: str
    credentials: Credentials
    authorities: str
    verify: bool
    timeouts: Timeouts
    options: Options
    file_policy: RetryPolicy
    call_policy: RetryPolicy
    source: str
    adopt_rows: bool
    lease_seconds: float
    open_files: Callable[[], FileReader] = field(repr=False)


@record(kw_only=True)
class Order:
    """What the driver tells a worker. `number` counts up; the same one again is the same order.

    The worker may send until `lease_until` of its own clock, `limit` files at a time, and `rate` bytes a second.
    `stop_seconds`: send nothing more; what is in flight has this long. `may_log_in`: again, if its login has expired.
    """

    number: int
    lease_until: float
    limit: int
    rate: float | None = None
    files: Sequence[Packed] = ()
    deliveries: Mapping[int, Packed] = field(default_factory=dict)
    zips_ended: bool = False
    pause: float = 0.0
    stop_seconds: float | None = None
    may_log_in: bool = False


@record(kw_only=True)
class Reply:
    """What a worker tells the driver. `clock` is its clock when it made the reply.

    `overloads` has the Retry-After (seconds, or None) of each call that found the server overloaded. `zips_ended`: it
    makes no zips any more. `has_ended`: it sends nothing more, and nothing of it is in flight; `error` is why, if it
    was not told to. `wants_login`: its login has expired, and it has not logged in again.
    """

    number: int
    clock: float
    outcomes: Sequence[Packed] = ()
    in_flight: int = 0
    reading: int = 0
    limited_by: str = ""
    overloads: Sequence[float | None] = ()
    retries: Sequence[tuple[str, int | None, int]] = ()
    notices: Sequence[str] = ()
    outages: Sequence[str | None] = ()
    zips_ended: bool = False
    has_ended: bool = False
    wants_login: bool = False
    error: AsyncimportError | None = None


def pack_claims(claims: Iterable[Claim]) -> tuple[list[Packed], dict[int, Packed]]:
    """Return files to send, and their deliveries by key."""
    files: list[Packed] = []
    deliveries: dict[int, Packed] = {}
    for claim in claims:
        instance, delivery = claim.instance, claim.delivery
        file = instance.file
        key = delivery.key
        if key not in deliveries:
            initial = delivery.initial_session
            deliveries[key] = (
                _pack_session(delivery.session),
                delivery.number,
                delivery.uri,
                None if initial is None else _pack_session(initial),
            )
        known = file.path, file.size, file.mtime_ns, file.inode, file.ctime_ns
        files.append((claim.key, key, instance.sop_uid, instance.series_uid, *known))
    return files, deliveries


def unpack_claims(files: Iterable[Packed], deliveries: Mapping[int, Packed]) -> list[Claim]:
    """Return the claims of an order, with what a worker needs of them."""
    known: dict[int, Delivery] = {}
    for key, (session, number, uri, initial) in deliveries.items():
        row = None if initial is None else Session(*initial)
        known[key] = Delivery(key, Session(*session), number, uri, row)
    claims: list[Claim] = []
    for key, delivery_key, sop_uid, series_uid, *file in files:
        delivery = known[delivery_key]
        instance = Instance(File(*file), sop_uid, series_uid, delivery.session)
        claims.append(Claim(key, instance, delivery))
    return claims


def _pack_session(session: Session) -> Packed:
    return session.project, session.subject, session.label, session.study_uid


def pack_outcome(outcome: Outcome) -> Packed:
    """Return what became of a file."""
    key, attempts, effect = outcome.claim.key, outcome.attempts, outcome.may_have_taken_effect
    if isinstance(outcome, Stored):
        # The driver knows the address of all but first files.
        uri = outcome.uri if outcome.claim.delivery.uri is None else None
        digests = outcome.sha256, outcome.xxh3
        return "S", key, attempts, effect, uri, *digests, outcome.zip_size, outcome.seconds
    if isinstance(outcome, Refused):
        rest = outcome.reason, outcome.whole_session, outcome.kind.value, outcome.second_row
        return "R", key, attempts, effect, *rest
    if isinstance(outcome, Failed):
        return "F", key, attempts, effect, outcome.reason, outcome.unreadable, outcome.may_be_elsewhere
    return "W", key, attempts, effect, outcome.reason


def unpack_outcomes(packed: Sequence[Packed], claims: Mapping[int, Claim]) -> list[Outcome]:
    """Return what became of these claims of the driver; leave out what is of none. Raises: ValueError."""
    try:
        known = [one for one in packed if one[1] in claims]
        stored = _unpack_stored([one for one in known if one[0] == "S"], claims)
        return [*stored, *(_unpack_other(one, claims[one[1]]) for one in known if one[0] != "S")]
    except (TypeError, LookupError, ValueError) as error:
        # Nothing of it is shown: there may be names in it.
        raise ValueError(MALFORMED) from error


def _unpack_stored(rows: Sequence[Packed], claims: Mapping[int, Claim]) -> list[Stored]:
    columns = checked_columns(rows, _STORED_TYPES)
    _, keys, attempts, effects, uris, sha256, xxh3, zip_sizes, seconds = columns
    if not all(0 <= one <= MOST_COUNT for one in attempts) or not all(0 <= one <= MOST_SECONDS for one in seconds):
        raise ValueError("attempts or time")
    if not all(0 < one <= _MOST_BYTES for one in zip_sizes if one is not None):
        raise ValueError("size")
    if any(len(one) > 32 for one in [*sha256, *xxh3] if one) or any(len(one) > MOST_LETTERS for one in uris if one):
        raise ValueError("address or digest")
    of = [claims[key] for key in keys]
    where = [claim.delivery.uri or uri for claim, uri in zip(of, uris, strict=True)]
    if not all(where):
        raise ValueError("a first file without its address")
    merges = [False if claim.check_archive else None for claim in of]
    return [*map(Stored, of, where, attempts, effects, sha256, merges, xxh3, zip_sizes, seconds)]


def _unpack_other(packed: Packed, claim: Claim) -> Outcome:
    if [*map(type, packed)] != _OUTCOME_TYPES[packed[0]]:
        raise ValueError("fields of an outcome")
    kind, _, attempts, effect, *rest = packed
    if not 0 <= attempts <= MOST_COUNT:
        raise ValueError("attempts")
    if len(rest[0]) > MOST_LETTERS:
        raise ValueError("reason")
    if kind == "R":
        reason, whole_session, refusal, second_row = rest
        return Refused(claim, reason, whole_session, attempts, effect, Refusal(refusal), second_row)
    if kind == "F":
        reason, unreadable, elsewhere = rest
        return Failed(claim, reason, unreadable, attempts, effect, elsewhere)
    return Withheld(claim, rest[0], attempts, effect)
