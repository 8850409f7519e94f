"""Tests that tests/mutants.py asked for: each one notices a handling taken out that no other test notices."""

import os
import sqlite3
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import (
    AT_ONCE,
    SESSION,
    body_of,
    claim,
    folder,
    image,
    logged_in,
    no_sleep,
    opened,
    router,
    sealed,
    sop,
    upload,
    write,
)
from test_pipeline import Memory, Shelf, move, study

from asyncimport.cli import main
from asyncimport.errors import LoginRefusedError, TransientError
from asyncimport.journal import Journal
from asyncimport.model import (
    Archived,
    Claim,
    File,
    Ignored,
    Incomplete,
    Instance,
    Patient,
    SealedDelivery,
    Session,
    Verdict,
)
from asyncimport.model.options import Options
from asyncimport.model.summary import exit_code
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.images import upload_images
from asyncimport.testserver import Fault, Script, Status, Tell, TestXnat
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.replies.site import parse_project_id

pytestmark = pytest.mark.anyio


class Watching(XnatDestination):
    """XNAT as a destination, with a look at the journal's file before it is called about a delivery."""

    def __init__(self, client: Client, book: Path) -> None:
        super().__init__(client, policy=AT_ONCE, sleep=no_sleep)
        self.book = book
        self.seen: list[str] = []

    async def finalize(self, sealed: SealedDelivery) -> Verdict:
        """Look with a connection of its own, which sees what is committed and nothing else."""

        def state() -> str:
            with closing(sqlite3.connect(self.book)) as connection:
                row = connection.execute("SELECT state FROM delivery WHERE key = ?", (sealed.delivery.key,)).fetchone()
                return str(row[0])

        self.seen.append(await anyio.to_thread.run_sync(state))
        return await super().finalize(sealed)


async def test_the_seal_is_on_disk_before_xnat_is_called(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """Whoever looks at the journal after a kill sees the seal before XNAT has been asked to commit."""
    book, rules = tmp_path / "book", router()
    source = await folder(tree)
    async with opened(book, rules) as journal, logged_in(url) as client:
        watching = Watching(client, book)
        await upload_images(source, watching, journal, rules, options=Options(workers=2), policy=AT_ONCE)
    assert watching.seen == ["SEALED", "SEALED"]
    assert len(xnat.archived) == 2


async def test_one_file_of_a_session_goes_without_an_address(tmp_path: Path) -> None:
    """The first one, to which the answer gives the prearchive row of all the others."""
    shelf = Shelf()
    sent: list[tuple[str, bool]] = []

    async def store(claim: Claim) -> None:
        sent.append((claim.instance.sop_uid, claim.delivery.uri is None))
        await anyio.lowlevel.checkpoint()

    shelf.on_store = store
    source = Memory({**study("1", 20), **study("2", 20)}, batch=40)
    await move(source, shelf, tmp_path / "book", options=Options(workers=4, finalizers=1))
    assert len(sent) == 40
    assert sorted(uid for uid, alone in sent if alone) == ["1.1", "2.1"]


async def test_a_stop_leaves_the_rest_of_what_is_in_hand(tmp_path: Path) -> None:
    """A worker that holds many files of one session ends the one that is on its way, and no other."""
    shelf, stop = Shelf(), Stop()

    async def store(claim: Claim) -> None:
        if claim.instance.sop_uid == "1.5":
            stop.request()
        await anyio.lowlevel.checkpoint()

    shelf.on_store = store
    source = Memory(study("1", 65), batch=65)
    summary = await move(source, shelf, tmp_path / "book", stop=stop, options=Options(workers=2, finalizers=1))
    assert stop.requested
    # The first file, which goes alone, and at most half a parcel of each worker.
    assert len(shelf.stored) <= 1 + 2 * 5
    assert summary.files.left == 65 - len(shelf.stored)


async def test_one_retry_after_holds_all_workers_back(tmp_path: Path) -> None:
    """The server asks one request for time; none begins before it is over."""
    shelf = Shelf()
    later: list[float] = []
    failed_at: list[float] = []

    async def store(claim: Claim) -> None:
        now = anyio.current_time()
        if failed_at:
            later.append(now - failed_at[0])
        elif claim.instance.sop_uid == "1.5":
            failed_at.append(now)
            raise TransientError("busy", overload=True, retry_after=0.2)
        await anyio.lowlevel.checkpoint()

    shelf.on_store = store
    await move(Memory(study("1", 40), batch=40), shelf, tmp_path / "book", options=Options(workers=4, finalizers=1))
    assert len(shelf.stored) == 40
    assert min(later) >= 0.2


async def test_a_refused_password_is_tried_once_by_all_workers_together(xnat: TestXnat, url: str) -> None:
    """Eight calls meet the dead login at a time; the first one's refusal is the last word for all of them."""
    refused: list[str] = []
    async with logged_in(url) as client:
        xnat.users.clear()
        xnat.expire_logins()

        async def ask() -> None:
            try:
                await client.request("GET", "/data/projects/demo?format=json", parse_project_id, AT_ONCE)
            except LoginRefusedError as error:
                refused.append(str(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(ask)
    assert refused == ["XNAT refused the user name or password"] * 8
    assert xnat.count["login"] == 2


@pytest.mark.parametrize(
    ("content", "truncated"),
    [
        (image(1, pixels=100), False),
        (image(1, pixels=100)[:-1], True),
        (image(1, PixelData=None), True),
    ],
    ids=["whole", "the last byte", "no pixels"],
)
async def test_a_truncated_file_is_told_from_a_whole_one(tmp_path: Path, content: bytes, truncated: bool) -> None:
    """Pydicom calls all of them fine, and XNAT takes them."""
    file = write(tmp_path / "file", content)
    found = (await folder(tmp_path)).identify(file)
    assert not isinstance(found, Ignored)
    assert bool(found.truncated) is truncated


async def test_a_zip_of_images_is_not_passed_over_in_silence(url: str, tmp_path: Path) -> None:
    """What lies beside it is archived, and the exit code says that something is lacking."""
    place = tmp_path / "tree"
    write(place / "1", image(1))
    with zipfile.ZipFile(place / "more.zip", "w") as archive:
        archive.writestr("2", image(2))
    summary = await upload(url, [place], tmp_path / "book")
    assert (summary.files.stored, summary.count("archived")) == (1, 1)
    assert exit_code(summary) == 8


def test_a_study_of_merged_patients_takes_no_third(tmp_path: Path) -> None:
    """What was sent with --allow-mixed-patients does not let another patient into the study without it."""
    where = Session("P", "S", "E", "1.2")
    with Journal(tmp_path / "book", destination="http://x", rules={}, allow_mixed_patients=True) as journal:
        journal.scan.admit([Instance(File("/m/1", 1, 1), "1.2.1", "1.9", where, Patient("1"))])
    with Journal(tmp_path / "book", destination="http://x", rules={}) as journal:
        journal.scan.admit([Instance(File("/m/2", 1, 1), "1.2.2", "1.9", where, Patient("2"))])
        ((reason, files),) = journal.scan.skip_reasons()
    assert "the study holds files of two PatientIDs" in reason
    assert files == 1


async def finalized(url: str, place: Path, there: tuple[int, ...], acknowledged: tuple[int, ...]) -> Verdict:
    """Send some instances, and finalise a delivery of which XNAT has acknowledged these."""
    async with logged_in(url) as client:
        destination = XnatDestination(client, policy=AT_ONCE, sleep=no_sleep)
        uri = None
        for number in there:
            file = write(place / str(number), image(number))
            uri = await destination.store(claim(file, number=number, uri=uri), await body_of(file))
        return await destination.finalize(sealed(uri or "", *acknowledged))


async def test_as_many_other_instances_are_no_substitute(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The archive holds as many as were sent, but not those, and nothing in XNAT gives instances new UIDs."""
    xnat.script = None
    verdict = await finalized(url, tmp_path, (1, 2, 3), (4, 5, 6))
    assert isinstance(verdict, Incomplete)
    assert verdict.missing == {sop(4), sop(5), sop(6)}


async def test_some_missing_instances_are_missing_under_a_script_too(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """A script that gives new UIDs gives them to all instances: where some are as they were, others are lost."""
    xnat.script = Script(map_uid=lambda uid: uid)
    verdict = await finalized(url, tmp_path, (1, 2, 3), (2, 3, 4))
    assert isinstance(verdict, Incomplete)
    assert verdict.missing == {sop(4)}


async def test_what_could_not_be_compared_is_not_called_verified(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """The session is archived, and its catalogs cannot be read."""
    no = Fault("listing", Status(403, "<h3>no</h3>"), nth=2, times=10)

    def archiving() -> None:
        xnat.faults.add(no)

    xnat.faults.add(Fault("archive", Tell(archiving)))
    verdict = await finalized(url, tmp_path, (1, 2), (1, 2))
    assert isinstance(verdict, Archived)
    assert verdict.verified is None


def test_no_repr_shows_the_patient() -> None:
    """What is logged or shown in a traceback tells neither name nor birth date nor PatientID."""
    patient = Patient("MRN-4711", "planted^name", "19700101")
    shown = repr(Instance(File("/f", 1, 1), "1.2", "1.3", SESSION, patient)) + repr(patient)
    assert not any(word in shown for word in ("MRN-4711", "planted", "19700101"))


def test_what_the_command_line_makes_is_its_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the surroundings allow to others: files of any command are its user's alone."""
    monkeypatch.setattr(sys, "argv", ["asyncimport", "--version"])
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        left = os.umask(before)
    assert left == 0o077
