"""What becomes of a file that was not stored, by the last error and the attempts before it. Pure."""

from dataclasses import dataclass

from asyncimport.errors import RefusedError, SessionConflictError, TransientError
from asyncimport.model.deliveries import Claim, Failed, Refused, Withheld
from asyncimport.model.states import Refusal


@dataclass(slots=True)
class Attempts:
    """The attempts to send one file.

    `times` holds when the first began and when each failed, in seconds.
    """

    times: list[float]
    count: int = 0
    may_have_taken_effect: bool = False


def judge(claim: Claim, error: RefusedError | TransientError, attempts: Attempts) -> Refused | Failed | Withheld:
    """Return the outcome of a file that was not stored."""
    count, may_have_taken_effect = attempts.count, attempts.may_have_taken_effect
    if isinstance(error, SessionConflictError):
        return Withheld(claim, str(error), count, may_have_taken_effect)
    reason, never_reached_xnat, whole_session, second_row = str(error), False, False, False
    if isinstance(error, RefusedError):
        never_reached_xnat, whole_session, second_row = error.never_reached_xnat, error.whole_session, error.second_row
    else:
        reason = f"{error}, {count} times"
        if not error.is_file_verdict:
            return Failed(claim, reason, attempts=count, may_have_taken_effect=may_have_taken_effect)
    if may_have_taken_effect and not (never_reached_xnat or whole_session):
        # XNAT keeps what arrived of an interrupted body. A session is archived without dropped files, and would hold
        # a part of this one.
        reason = f"{reason}, after an attempt that broke off"
        return Failed(claim, reason, attempts=count, may_have_taken_effect=True)
    return Refused(claim, reason, whole_session, count, may_have_taken_effect, _kind(error), second_row)


def _kind(error: RefusedError | TransientError) -> Refusal:
    if isinstance(error, RefusedError):
        return Refusal.DROPPED if error.dropped else Refusal.SERVER if error.blames_server else Refusal.FILE
    # XNAT also says that it cannot read a sound file, for example when its disk is full. We have read this one.
    return Refusal.SERVER if error.blames_file else Refusal.FILE
