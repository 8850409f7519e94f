"""Whether what a worker tells can be: its software may be another one, or broken.

Each function raises ValueError otherwise. Its text shows nothing of what came in: there may be names in it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asyncimport.cluster.messages import MALFORMED, MOST_COUNT, MOST_LETTERS, MOST_SECONDS, Reply, unpack_outcomes
from asyncimport.cluster.scanning_actor import Sight
from asyncimport.errors import AsyncimportError, SourceError
from asyncimport.model.deliveries import Claim, Outcome
from asyncimport.system.mounts import TreeIdentity


def check_clock(clock: object) -> float:
    """Return the clock of a worker. Raises: ValueError."""
    if type(clock) is not float or not abs(clock) <= MOST_SECONDS:
        raise ValueError(MALFORMED)
    return clock


def read_reply(reply: Reply, number: int, claims: Mapping[int, Claim]) -> list[Outcome]:
    """Return the outcomes of the reply to an order, if all of it is sound. Raises: ValueError."""
    is_sound = (
        type(reply) is Reply
        and reply.number == number
        and _is_count(reply.in_flight)
        and _is_count(reply.reading)
        and _is_text(reply.limited_by)
        and _are(reply.overloads, lambda one: one is None or (type(one) is float and one >= 0))
        and _are(reply.retries, _is_retry)
        and _are(reply.notices, _is_text)
        and _are(reply.outages, lambda one: one is None or _is_text(one))
        and _are([reply.zips_ended, reply.has_ended, reply.wants_login], lambda one: type(one) is bool)
        and (reply.error is None or _is_error(reply.error))
    )
    if not is_sound:
        raise ValueError(MALFORMED)
    check_clock(reply.clock)
    return unpack_outcomes(reply.outcomes, claims)


def check_answer(method: str, words: Sequence[Any], answer: Any) -> Any:
    """Return what a method of the actor that scans has returned. Raises: ValueError."""
    is_sound = _ANSWERS.get(method)
    of_many = _ANSWERS_FOR_EACH.get(method)
    if is_sound is not None and not is_sound(answer):
        raise ValueError(MALFORMED)
    if of_many is not None and not (_are(answer, of_many) and len(answer) == len(words[0])):
        raise ValueError(MALFORMED)
    return answer


def _are(items: object, is_sound: Callable[[Any], bool]) -> bool:
    return type(items) in {list, tuple} and all(map(is_sound, items))  # type: ignore[call-overload]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MOST_COUNT


def _is_text(value: object) -> bool:
    return type(value) is str and len(value) <= MOST_LETTERS


def _is_retry(value: object) -> bool:
    if type(value) is not tuple or len(value) != 3:
        return False
    reason, key, attempt = value
    return _is_text(reason) and (key is None or type(key) is int) and _is_count(attempt)


def _is_error(value: object) -> bool:
    return isinstance(value, AsyncimportError) and _is_text(str(value)) and _is_text(value.hint)


def _is_sight(value: object) -> bool:
    return (
        type(value) is Sight
        and type(value.trees) is dict
        and all(_is_text(place) and _is_tree(tree) for place, tree in value.trees.items())
        and type(value.encoding) is tuple
        and list(map(type, value.encoding)) == [str, str]
    )


def _is_tree(value: object) -> bool:
    return type(value) is TreeIdentity and _is_text(value.now) and _is_text(value.lasting)


def _is_state(value: object) -> bool:
    return value is None or (type(value) is tuple and list(map(type, value)) == [int, int])


_ANSWERS: Mapping[str, Callable[[Any], bool]] = {
    "begin": _is_sight,
    "read_piece": lambda one: isinstance(one, bytes | SourceError),
    "same_bytes": lambda one: one is None or type(one) is bool,
    "sha256": lambda one: one is None or (type(one) is bytes and len(one) == 32),
}
_ANSWERS_FOR_EACH: Mapping[str, Callable[[Any], bool]] = {
    "states": _is_state,
    "read": lambda one: one is None or isinstance(one, bytes | SourceError),
    "md5": lambda one: isinstance(one, str | SourceError),
    "have_digests": lambda one: one is None or type(one) is bool,
}
