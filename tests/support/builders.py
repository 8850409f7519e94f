"""What many tests share: a small server, DICOM made by pydicom, a journal, a whole upload."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pydicom
from aiohttp import web
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from asyncimport.cluster.ports import WorkerLinks
from asyncimport.dicom import STUDY_FIELDS
from asyncimport.journal import Journal, JournalReader
from asyncimport.model.choices import Overwrite
from asyncimport.model.deliveries import Claim, Delivery, SealedDelivery
from asyncimport.model.events import Event
from asyncimport.model.files import File, Instance, Session
from asyncimport.model.options import Options
from asyncimport.model.states import InstanceState
from asyncimport.model.summary import Orphan, Summary
from asyncimport.operations.comparison import SessionFinding, compare_sessions, verified_sources
from asyncimport.operations.result import Observer
from asyncimport.operations.server import Server
from asyncimport.operations.upload import upload as run_upload
from asyncimport.operations.upload_request import Retries, UploadRequest
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.reporting.entries import Entry, EventsLost, RunEnded, RunStarted
from asyncimport.routing.router import DEFAULT_SESSION, DEFAULT_SUBJECT, Router
from asyncimport.source.folder import FileSource
from asyncimport.testserver import PrearchiveRow, TestXnat
from asyncimport.xnat.client import Client, connect
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.transport import Timeouts

DEMO = Credentials("demo", "demo")
QUICK = Timeouts(connect=5, stall=5, reply=10)
AT_ONCE = RetryPolicy(attempts=3, first_seconds=0)
SESSION = Session("demo", "S", "E", "1.2.3")


async def no_sleep(_: float) -> None:
    """Do not sleep, but let other tasks run."""
    await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def listening(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **site: Any
) -> AsyncIterator[str]:
    """Serve a handler on a real socket."""
    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, **site).start()
        yield f"{'https' if site else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


@asynccontextmanager
async def logged_in(url: str, **options: Any) -> AsyncIterator[Client]:
    """Log in as the demo user, with short timeouts and retries that do not wait."""
    settings = {"connections": 40, "timeouts": QUICK, "policy": AT_ONCE, **options}
    async with connect(url, DEMO, **settings) as client:
        yield client


def image(number: int = 1, *, pixels: int = 100, **attributes: Any) -> bytes:
    """Make a small MR instance, whose SOPInstanceUID is `sop(number)`; None leaves an attribute out."""
    try:
        return (_image if pixels < 10_000 else _image.__wrapped__)(number, pixels, **attributes)
    except TypeError:  # a value without a hash, such as a sequence
        return _image.__wrapped__(number, pixels, **attributes)


@lru_cache(maxsize=1000, typed=True)
def _image(number: int, pixels: int, **attributes: Any) -> bytes:
    values: dict[str, Any] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": sop(number),
        "StudyInstanceUID": SESSION.study_uid,
        "SeriesInstanceUID": "1.2.3.4",
        "StudyDate": "20200102",
        "Modality": "MR",
        "PatientID": "S",
        "SeriesNumber": 1,
        "InstanceNumber": number,
        "BitsAllocated": 8,
        "PixelData": bytes(pixels),
        **attributes,
    }
    dataset = Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def sop(number: int) -> str:
    """Return the SOPInstanceUID of `image(number)`."""
    return f"1.2.3.4.{number}"


def write(path: Path, content: bytes) -> File:
    """Write a file, and return it as the walk does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    found = path.stat()
    return File.of(str(path), found, has_stable_inodes=True)


def claim(file: File, *, number: int = 1, session: Session = SESSION, uri: str | None = None) -> Claim:
    """Make the claim of one file."""
    return Claim(number, Instance(file, sop(number), "1.2.3.4", session), Delivery(1, session, 1, uri))


def sealed(uri: str, *numbers: int, session: Session = SESSION) -> SealedDelivery:
    """Make a sealed delivery of these instances."""
    return SealedDelivery(Delivery(1, session, 1, uri), frozenset(map(sop, numbers)))


async def folder(*roots: str | Path) -> FileSource:
    """Make a source in a thread, as it reads the disk."""
    return await anyio.to_thread.run_sync(FileSource, roots)


async def body_of(file: File) -> Any:
    """Read the body of one file."""
    (body,) = await (await folder(Path(file.path).parent)).read([file])
    return body


def open_files(path: Path) -> int:
    """Return how many handles of a file this process has open."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        except FileNotFoundError:  # the listing's own
            continue
    return links.count(str(path))


def opens(env: dict[str, str], tmp_path: Path, place: Path) -> Callable[[], list[str]]:
    """Record the files below `place` that Python programs with this environment open; return the new ones."""
    home, log = tmp_path / "hook", tmp_path / "opened"
    home.mkdir()
    (home / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"log = os.open({os.fspath(log)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "def note(event, args):\n"
        f"    if event == 'open' and str(args[0]).startswith({os.fspath(place) + os.sep!r}):\n"
        "        os.write(log, os.fsencode(args[0]) + b'\\n')\n"
        "sys.addaudithook(note)\n"
    )
    env["PYTHONPATH"] = os.fspath(home)

    def told() -> list[str]:
        lines = log.read_text().splitlines()
        os.truncate(log, 0)
        return lines

    return told


async def uids_below(folder: Path) -> set[str]:
    """Return the SOPInstanceUIDs of all files below a folder, read by pydicom."""

    def read() -> set[str]:
        return {
            str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            for path in folder.rglob("*")
            if path.is_file()
        }

    return await anyio.to_thread.run_sync(read)


def router(*, session: str = DEFAULT_SESSION, project: str = "demo") -> Router:
    """Make the default rules of a run into the project `demo`."""
    return Router(project, DEFAULT_SUBJECT, session, keywords=frozenset(STUDY_FIELDS))


@asynccontextmanager
async def opened(path: Path, rules: Router | None = None, *, destination: str = "test") -> AsyncIterator[Journal]:
    """Open a journal in a thread."""
    rules = rules or router()
    journal = await anyio.to_thread.run_sync(partial(Journal, path, destination=destination, rules=rules.rules))
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(journal.close)


async def summary_of(journal: Journal) -> Summary:
    """Return the summary of a run's journal."""
    return await anyio.to_thread.run_sync(JournalReader.of(journal).summary)


async def states_in(path: Path) -> dict[str, InstanceState]:
    """Return the state of each SOPInstanceUID in a journal that no run holds."""

    def read() -> dict[str, InstanceState]:
        with JournalReader.open(path) as reader:
            labels = {report.session.label for report in reader.summary().sessions}
            rows = [row for label in labels for row in reader.instances(label)]
        return {row.sop_uid: InstanceState(row.state) for row in rows}

    return await anyio.to_thread.run_sync(read)


class Reporter(Observer):
    """Passes on the events of a run."""

    def __init__(self, report: Callable[[Event], None]) -> None:
        self._report = report

    def note(self, entry: Entry) -> None:
        """Pass an event on."""
        if not isinstance(entry, RunStarted | RunEnded | Orphan | EventsLost):
            self._report(entry)


async def upload(
    url: str,
    roots: Iterable[Path],
    journal: Path,
    *,
    options: Options | None = None,
    policy: RetryPolicy = AT_ONCE,
    rules: Router | None = None,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
    timeouts: Timeouts = QUICK,
    settle_seconds: float = 0.0,
    overwrite: Overwrite = Overwrite.NONE,
    adopt_rows: bool = False,
    workers: WorkerLinks | None = None,
    receipts: Path | None = None,
) -> Summary:
    """Do what the command does, with pauses that take no time. Raises: FatalError."""
    options = replace(options or Options(workers=4, finalizers=2), settle_seconds=settle_seconds)
    rules = rules or router()
    request = UploadRequest(
        server=Server(url, DEMO),
        sources=list(roots),
        project=rules.project or "",
        routes=rules,
        options=options,
        timeouts=timeouts,
        retries=Retries(file_policy=policy, call_policy=AT_ONCE, sleep=no_sleep),
        overwrite=overwrite,
        adopt_rows=adopt_rows,
        journal=journal,
        state_dir=journal.parent,
        receipts=receipts,
    )
    result = await run_upload(request, report=Reporter(report), stop=stop, workers=workers)
    result.raise_for_error()
    assert result.summary is not None
    return result.summary


async def looked_at(url: str, journal: Path) -> tuple[list[SessionFinding], set[str]]:
    """Return what `verify --safe-to-delete` finds, and the files that it would list."""
    reading = JournalReader.open(journal)
    reader = await anyio.to_thread.run_sync(reading.__enter__)

    def safe(found: list[SessionFinding]) -> set[str]:
        return {file.path for file, is_safe in verified_sources(reader, found) if is_safe}

    try:
        async with logged_in(url) as client:
            found = await compare_sessions(client, reader, AT_ONCE)
        return found, await anyio.to_thread.run_sync(safe, found)
    finally:
        await anyio.to_thread.run_sync(reading.__exit__, None, None, None)


def add_row(xnat: TestXnat, label: str, **values: Any) -> PrearchiveRow:
    """Put a row into the prearchive, by default as another uploader begins it now."""
    now = xnat.now()
    row: dict[str, Any] = {
        "project": "demo",
        "timestamp": "20260101_000000001",
        "folder": label,
        "name": label,
        "patient_name": "",
        "scan_date": "",
        "autoarchive": "Manual",
        "prevent_anon": False,
        "prevent_auto_commit": True,
        "source": "uploader",
        "visit": "",
        "protocol": "",
        "timezone": "",
        "uploaded": now,
        "lastmod": now,
        "touched": xnat.clock(),
    }
    added = PrearchiveRow(**row | values)
    xnat.add_row(added)
    return added
