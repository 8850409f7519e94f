"""The options of a run: flat, frozen, checked when they are made."""

import re
from dataclasses import dataclass

from asyncimport.errors import UsageError

# XNAT takes each file under one global lock and has 40 database connections: more than this in flight gains nothing.
AUTO_WORKERS = 16
# Where as many as are worth it are found out: enough for a server that is 100 ms away.
AUTO_CEILING = 64
_MOST_WORKERS = 256


@dataclass(frozen=True, slots=True)
class Options:
    """How a run goes about its work.

    `workers` is the most uploads in flight, or with `adaptive` the bound of what is found to be worth it, `max_rate`
    bytes a second at most, `finalizers` the sessions being archived at a time, `attachment_workers` the resources being
    filled at a time, `max_open_sessions` how many sessions may occupy the server's prearchive. `check_first` sends
    nothing before the whole source is scanned without a collision. `outage_timeout` is how many seconds to wait for a
    server that is away, `settle_seconds` how many a session is left alone after an attempt to send into it broke off,
    which may yet take effect. `partial` archives also sessions that lack files. `send_truncated` sends files whose data
    set ends before it should. `resend_changed` sends files again that were rewritten after XNAT had stored them.
    `receipts` keeps for each file what a receipt needs: the digest of what was sent, and what the archive held before.
    `is_filtered`: not all is asked for that an earlier run may have left to be sent.
    """

    workers: int = AUTO_WORKERS
    adaptive: bool = False
    max_rate: float | None = None
    finalizers: int = 4
    attachment_workers: int = 8
    max_open_sessions: int = 200
    archive: bool = True
    check_first: bool = False
    outage_timeout: float = 3600.0
    settle_seconds: float = 30.0
    partial: bool = False
    send_truncated: bool = False
    resend_changed: bool = False
    receipts: bool = False
    retry_held: bool = False
    retry_refused: bool = False
    is_filtered: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not 1 <= self.workers <= _MOST_WORKERS:
            raise UsageError(
                f"--workers {self.workers} cannot be", hint=f"give a number from 1 to {_MOST_WORKERS}, or auto"
            )
        if self.finalizers < 1:
            raise UsageError(f"{self.finalizers} finalizers cannot be", hint="give a number from 1 on")
        if self.max_open_sessions < 1:
            raise UsageError(f"--max-open-sessions {self.max_open_sessions} cannot be", hint="give a number from 1 on")


def seconds_of(text: str, option: str) -> float:
    """Return the seconds of a duration such as 90, 90s, 15m, 8h or 2d.

    Raises: UsageError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None:
        raise UsageError(f"{option} {text} is not a duration", hint="write it as 90s, 15m, 8h or 2d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def bytes_of(text: str, option: str) -> float:
    """Return the bytes of a size such as 500000, 500kB, 20MB, 1.5 GB or 16MiB; a small letter means no other unit.

    Raises: UsageError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?))?b?", text.strip().lower())
    size = 0.0 if match is None else float(match[1]) * (1024 if match[3] else 1000) ** " kmgt".index(match[2] or " ")
    if size <= 0:
        raise UsageError(f"{option} {text} is not a size", hint="write bytes as 500kB, 20MB or 1.5GB")
    return size
