"""Look into the headers of many files: several at once where the disk is slow, and in a process of its own.

That process imports what stands here, and starts in a third of the time that all of `source` would take.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, thread_time
from typing import Any, Literal, TypeVar

from asyncimport.dicom import Identity, NotDicom, Unreadable, identify
from asyncimport.source.archives import container_kind, container_reason

# What a look comes to: an identity, or what the file is instead (a FileKind), the reason, and whether it is damaged.
Look = Identity | tuple[Literal["CONTAINER", "NOT_DICOM", "UNREADABLE"], str, bool]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# So many files are looked at together at most, where the source keeps a file waiting for longer than this (seconds).
MOST_TOGETHER = 32
_PATIENCE = 0.0002


def look_into_many(
    paths: Sequence[str],
    ignore_archives: bool,  # noqa: FBT001 - as the request to the worker has it
    together: int,
) -> tuple[list[Look], int]:
    """Look into files, so many `together`; return what comes of it, and how many the next ones should be.

    It blocks: call it in a worker thread.
    """
    return each(partial(look_into, ignore_archives=ignore_archives), paths, together)


def each(do: Callable[[_Item], _Result], items: Sequence[_Item], together: int) -> tuple[list[_Result], int]:
    """Do the same to every item, to so many together; return what comes of it, and how many the next ones should be.

    That is by how long an item waits, as for a disk far away. Where none waits, threads would only cost.
    """
    together = max(1, min(together, len(items)))

    def share(first: int) -> tuple[list[_Result], float]:
        began = thread_time()
        return [do(item) for item in items[first::together]], thread_time() - began

    began = monotonic()
    if together == 1:
        results, busy = share(0)
    else:
        with ThreadPoolExecutor(together) as threads:
            shares = list(threads.map(share, range(together)))
        results = [shares[index % together][0][index // together] for index in range(len(items))]
        busy = sum(seconds for _, seconds in shares)
    waited = (monotonic() - began - busy) / max(1, len(items))
    return results, max(1, min(round(together * waited / _PATIENCE), MOST_TOGETHER))


def look_into_many_apart(request: tuple[Sequence[str], bool, int]) -> tuple[list[tuple[Any, ...]], int]:
    """Do the same in the worker, for what `from_plain` reads again."""
    found, together = look_into_many(*request)
    return list(map(_as_plain, found)), together


def _as_plain(look: Look) -> tuple[Any, ...]:
    """Return what passes from the worker: texts, mappings of texts, flags."""
    if isinstance(look, Identity):
        return "", look.sop_uid, look.study_uid, look.series_uid, look.fields, look.truncated
    return look


def from_plain(plain: tuple[Any, ...]) -> Look:
    """Return what the worker has found of a file."""
    kind, *parts = plain
    return (kind, *parts) if kind else Identity(*parts)


def look_into(path: str, *, ignore_archives: bool) -> Look:
    """Look into a file. It blocks: call it in a worker thread."""
    try:
        return identify(path)
    except NotDicom as outcome:
        if not ignore_archives and (kind := container_kind(path)) is not None:
            return "CONTAINER", container_reason(kind), False
        return "NOT_DICOM", outcome.reason, False
    except Unreadable as outcome:
        return "UNREADABLE", outcome.reason, outcome.damaged
