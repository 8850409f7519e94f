"""Measurements without a server, through the package itself: scanning, and resuming a finished run.

A process of its own for each, so that it can be that of another revision; it prints its figures as JSON.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio

from asyncimport.dicom import STUDY_FIELDS, Identity
from asyncimport.journal import Journal
from asyncimport.model.deliveries import Archived, Claim, Dropped, SealedDelivery, Stored, Verdict
from asyncimport.model.files import ArchivedPatient, Body, File, Instance, Session, Zip
from asyncimport.model.options import Options
from asyncimport.pipeline.images import upload_images
from asyncimport.routing.router import Router
from asyncimport.source.folder import FileSource
from bench.slow_disk import count_opens

_SESSION_FILES = 2_000
_BATCH = 5_000
_DESTINATION = "http://bench.invalid"


class Nowhere:
    """A destination that stores nothing and acknowledges everything."""

    blocked_seconds = link_seconds = round_trip = 0.0

    async def make_zip(self, _: Body) -> Zip | None:
        """Make none."""
        return None

    async def store(self, claim: Claim, body: Body | Zip) -> str:
        """Say that it is stored."""
        del body
        return f"/prearchive/projects/P/0/{claim.instance.session.label}"

    async def ping(self) -> bool:
        """Say that it is there."""
        return True

    async def find_drop_rules(
        self, _: Session, headers: Sequence[Mapping[str, str] | None], *, archived: bool
    ) -> list[Dropped | None]:
        """Say that nothing is dropped."""
        del archived
        return [None for _ in headers]

    async def archived_patients(self, session: Session) -> Sequence[ArchivedPatient]:
        """Return no patients: the archive is empty."""
        nobody: dict[Session, list[ArchivedPatient]] = {}
        return nobody.get(session, [])

    async def find_existing(self, claim: Claim) -> None:
        """Find nothing."""

    async def archived_uids(self, session: Session) -> None:
        """Say that UIDs are compared."""

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Say that it is archived."""
        return Archived(sealed.delivery, "/data/archive", "uids")


def _router() -> Router:
    return Router("P", keywords=frozenset(STUDY_FIELDS))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def scan(root: Path) -> dict[str, float]:
    """Scan and identify each file, in one thread on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    source = FileSource([root])
    opens = count_opens(str(root))
    found = 0

    async def walk() -> None:
        nonlocal found
        async for batch in source.batches():
            for file in batch:
                found += isinstance(file, File) and isinstance(source.identify(file), Identity)

    began, cpu = time.monotonic(), _cpu()
    anyio.run(walk)
    seconds = time.monotonic() - began
    return {"files": found, "seconds": seconds, "cpu": _cpu() - cpu, "opens": opens[0] / max(found, 1)}


def finish(root: Path, journal: Path) -> dict[str, float]:
    """Make the journal of a run that has sent and archived every file below `root`.

    Nobody looks into the files, which may be empty: the journal is told of instances that are made up.
    """
    began = time.monotonic()
    files = [File(str(path), 0, path.stat().st_mtime_ns) for path in sorted(root.rglob("*.dcm"))]
    with Journal(journal, destination=_DESTINATION, rules=_router().rules) as book:
        for at in range(0, len(files), _BATCH):
            book.scan.admit([_made_up(file, at + offset) for offset, file in enumerate(files[at : at + _BATCH])])
        book.scan.finish([str(root)])
        while (claims := book.queue.claim(_BATCH, max_active=10**6)) is not None:
            book.queue.record_outcomes(
                [Stored(claim, f"/prearchive/projects/P/0/{claim.instance.session.label}") for claim in claims]
            )
            while isinstance(sealed := book.deliveries.claim(), SealedDelivery):
                book.deliveries.record_verdict(Archived(sealed.delivery, "/data/archive", "uids"))
        book.end_run(0)
    return {"files": len(files), "seconds": time.monotonic() - began}


def _made_up(file: File, number: int) -> Instance:
    study = number // _SESSION_FILES
    session = Session("P", f"S{study:06}", f"S{study:06}_20200101", f"2.25.1{study:020}")
    return Instance(file, f"2.25.2{number:020}", f"2.25.3{study:020}", session)


def resume(root: Path, journal: Path) -> dict[str, float]:
    """Run the pipeline again over an archived source. It would send unknown files."""
    opens = count_opens(str(root))
    source = FileSource([root])
    router = _router()
    began, cpu = time.monotonic(), _cpu()
    with Journal(journal, destination=_DESTINATION, rules=router.rules) as book:
        anyio.run(lambda: upload_images(source, Nowhere(), book, router, options=Options()))
        book.end_run(0)
    seconds = time.monotonic() - began
    files = sum(len(names) for _, _, names in os.walk(root))
    return {"files": files, "seconds": seconds, "cpu": _cpu() - cpu, "opens": opens[0] / max(files, 1)}


def empty_files(root: Path, files: int) -> dict[str, float]:
    """Make this many empty files: a resume reads only size and time."""
    began = time.monotonic()
    for number in range(files):
        folder = root / f"{number // _SESSION_FILES:06}"
        if number % _SESSION_FILES == 0:
            folder.mkdir(parents=True)
        (folder / f"{number % _SESSION_FILES:06}.dcm").touch()
    return {"files": files, "seconds": time.monotonic() - began}


def main() -> None:
    """Measure by the command line."""
    name, root, rest = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    probes: dict[str, Callable[[Sequence[str]], dict[str, float]]] = {
        "scan": lambda _: scan(root),
        "empty-files": lambda rest: empty_files(root, int(rest[0])),
        "finish": lambda rest: finish(root, Path(rest[0])),
        "resume": lambda rest: resume(root, Path(rest[0])),
    }
    sys.stdout.write(json.dumps(probes[name](rest)) + "\n")


if __name__ == "__main__":
    main()
