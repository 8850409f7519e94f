"""Identify many files: several at once where the disk is slow, and in a worker process.

The worker imports this module only, which takes a third of the time of all of `source`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, thread_time
from typing import Any, Literal, TypeVar

from asyncimport.dicom import Identity, NotDicom, Unreadable, identify
from asyncimport.source.archives import container_kind, container_reason

# An identity, or what the file is instead (a FileKind), the reason, and whether it is damaged.
HeaderResult = Identity | tuple[Literal["CONTAINER", "NOT_DICOM", "UNREADABLE"], str, bool]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# At most this many files are read at once, if each keeps a thread waiting for longer than this.
MAX_TOGETHER = 32
_PATIENCE_SECONDS = 0.0002


def identify_files(
    paths: Sequence[str],
    ignore_archives: bool,  # noqa: FBT001 - as in the request to the worker
    together: int,
) -> tuple[list[HeaderResult], int]:
    """Identify files, `together` at once; return the results, and how many to take next time. It blocks."""
    results, together = map_together(partial(identify_file, ignore_archives=ignore_archives), paths, together)
    last: Identity | None = None
    for one in results:
        if isinstance(one, Identity):
            if last is not None and one.fields == last.fields:
                # One object: it goes through pipes once, and is routed once.
                one.fields, one.study_uid, one.series_uid = last.fields, last.study_uid, last.series_uid
            last = one
    return results, together


def map_together(
    do: Callable[[_Item], _Result],
    items: Sequence[_Item],
    together: int,
    *,
    clock: Callable[[], float] = monotonic,
) -> tuple[list[_Result], int]:
    """Call a function for `together` items at once; return the results, and how many to take next time."""
    together = max(1, min(together, len(items)))

    def share(first: int) -> tuple[list[_Result], float]:
        began = thread_time()
        return [do(item) for item in items[first::together]], thread_time() - began

    began = clock()
    if together == 1:
        results, busy = share(0)
    else:
        with ThreadPoolExecutor(together) as threads:
            shares = list(threads.map(share, range(together)))
        results = [shares[index % together][0][index // together] for index in range(len(items))]
        busy = sum(seconds for _, seconds in shares)
    waited = (clock() - began - busy) / max(1, len(items))
    return results, max(1, min(round(together * waited / _PATIENCE_SECONDS), MAX_TOGETHER))


def identify_files_in_worker(request: tuple[Sequence[str], bool, int]) -> tuple[list[tuple[Any, ...]], int]:
    """Do what `identify_files` does, in the worker; `from_plain` reads its results."""
    found, together = identify_files(*request)
    return list(map(_to_plain, found)), together


def _to_plain(result: HeaderResult) -> tuple[Any, ...]:
    """Return a result as texts, mappings of texts, and flags, for the worker's pipe."""
    if isinstance(result, Identity):
        return "", result.sop_uid, result.study_uid, result.series_uid, result.fields, result.truncated
    return result


def from_plain(plain: tuple[Any, ...]) -> HeaderResult:
    """Return a result of the worker."""
    kind, *parts = plain
    return (kind, *parts) if kind else Identity(*parts)


def identify_file(path: str, *, ignore_archives: bool) -> HeaderResult:
    """Identify a file. It blocks: call it in a worker thread."""
    try:
        return identify(path)
    except NotDicom as outcome:
        if not ignore_archives and (kind := container_kind(path)) is not None:
            return "CONTAINER", container_reason(kind), False
        return "NOT_DICOM", outcome.reason, False
    except Unreadable as outcome:
        return "UNREADABLE", outcome.reason, outcome.damaged
